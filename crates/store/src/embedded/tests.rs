//! The suite over the embedded store, and what only it has: a file, an owner, a bounded history.

use super::*;
use crate::WatchEvent;
use crate::suite::{Replica, embedded, next, options, pool, spec};
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt as _;

crate::suite::suite!(async {
    let (directory, store) = embedded();
    (directory, store as Arc<dyn Store>)
});

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_reopening_and_the_id_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = Embedded::open(&path, options()).unwrap();
    let id = store.status().store;
    let made = store.create(pool("a"), spec(1)).await.unwrap();
    store.create(pool("b"), spec(1)).await.unwrap();
    store.delete(&pool("b"), Expect::Any).await.unwrap();
    let mut watch = store.watch(None).await.unwrap();
    drop(store);
    while watch.next().await.is_ok() {}
    assert!(matches!(watch.next().await, Err(Error::Unavailable { .. })));
    let store = Embedded::open(&path, options()).unwrap();
    assert_eq!(store.get(&pool("a")).await.unwrap(), made);
    assert_eq!((store.status().store, store.status().revision), (id, Revision(3)));
    let mut watch = store.watch(Some(Revision(1))).await.unwrap();
    assert_eq!(next(&mut watch).await, WatchEvent::Deleted { key: pool("b"), revision: Revision(3) });
    let files: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_file_that_cannot_be_used_gives_one_line_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let owner = Embedded::open(&path, options()).unwrap();
    let garbage = directory.path().join("garbage");
    std::fs::write(&garbage, vec![7; 10_000]).unwrap();
    let missing = directory.path().join("no/such");
    for (path, word) in
        [(&path, "in use by another process"), (&garbage, "not a store file"), (&missing, "No such file")]
    {
        let error = Embedded::open(path, options()).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains(path.to_str().unwrap()) && !error.contains('\n'), "{error}");
    }
    assert_eq!(std::fs::read(&garbage).unwrap(), vec![7; 10_000]);
    drop(owner);
    Embedded::open(&path, options()).unwrap();
}

#[tokio::test]
async fn a_watch_from_before_the_kept_deletions_is_told_to_list_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = Embedded::open(&path, Options { history: 10, ..options() }).unwrap();
    store.create(pool("kept"), spec(0)).await.unwrap();
    for i in 0..40 {
        store.create(pool("a"), spec(i)).await.unwrap();
        store.delete(&pool("a"), Expect::Any).await.unwrap();
    }
    let Err(Error::TooOld { from, oldest, newest }) = store.watch(Some(Revision(1))).await else { panic!() };
    assert_eq!((from, newest), (Revision(1), Revision(81)));
    assert!(oldest > Revision(50), "{oldest}");
    drop(store);
    // The horizon is on disk as well, and from it on a watch still resumes.
    let store = Embedded::open(&path, options()).unwrap();
    assert!(store.watch(Some(Revision(oldest.0 - 1))).await.is_err());
    let mut watch = store.watch(Some(oldest)).await.unwrap();
    let mut replica = Replica { revision: oldest, ..Replica::default() };
    replica.until(&mut watch, |r| r.synced).await;
    assert_eq!(replica.events as u64, (81 - oldest.0) / 2);
    // Updates alone never push anything out.
    for i in 1..100 {
        store.update(pool("kept"), spec(i), Expect::Any).await.unwrap();
    }
    store.watch(Some(oldest)).await.unwrap();
}

#[tokio::test]
async fn a_record_that_cannot_be_read_does_not_stop_the_others() {
    let (_directory, store) = embedded();
    store.create(pool("a"), spec(1)).await.unwrap();
    store.create(pool("b"), spec(2)).await.unwrap();
    tables::spoil(store.db.as_ref().unwrap(), &pool("a"));
    assert_eq!(store.list(None).await.unwrap().items.len(), 1);
    let error = store.get(&pool("a")).await.unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    let mut watch = store.watch(None).await.unwrap();
    let mut replica = Replica::default();
    replica.until(&mut watch, |r| r.synced).await;
    assert_eq!(replica.events, 1);
}

#[test]
fn uids_are_of_version_four_and_differ() {
    let (a, b) = (fresh_uid(), fresh_uid());
    assert_ne!(a, b);
    assert!(a.as_bytes()[14] == b'4' && b"89ab".contains(&a.as_bytes()[19]), "{a}");
}

#[derive(Clone, Debug)]
enum Step {
    Create(u8, u64),
    Update(u8, u64),
    Delete(u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..6u8, 0..3u64).prop_map(|(k, n)| Step::Create(k, n)),
        3 => (0..6u8, 0..3u64).prop_map(|(k, n)| Step::Update(k, n)),
        3 => (0..6u8).prop_map(Step::Delete),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever was written, a reader that listed at any moment and resumes now holds what a listing gives;
    /// one that may not resume was told so.
    #[test]
    fn a_replayed_watch_equals_the_listing(steps in steps(), history in 1..12u64) {
        runtime().block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("store.redb");
            let options = Options { history, ..options() };
            let mut store = Embedded::open(&path, options.clone()).unwrap();
            let mut moments = vec![store.list(None).await.unwrap()];
            for step in steps {
                let before = store.list(None).await.unwrap();
                let key = |k: u8| pool(&format!("k{k}"));
                let written = match step {
                    Step::Create(k, n) => store.create(key(k), spec(n)).await.ok(),
                    Step::Update(k, n) => store.update(key(k), spec(n), Expect::Any).await.ok(),
                    Step::Delete(k) => store.delete(&key(k), Expect::Any).await.ok(),
                    Step::Reopen => {
                        drop(store);
                        store = Embedded::open(&path, options.clone()).unwrap();
                        None
                    }
                };
                let after = store.list(None).await.unwrap();
                prop_assert_eq!(after.revision == before.revision, after == before);
                prop_assert!(written.is_none_or(|w| w.revision <= after.revision));
                moments.push(after);
            }
            let now = store.list(None).await.unwrap();
            for moment in moments {
                let resources = moment.items.into_iter().map(|s| (s.key.clone(), s)).collect();
                let mut replica = Replica { resources, revision: moment.revision, ..Replica::default() };
                match store.watch(Some(moment.revision)).await {
                    Ok(mut watch) => replica.until(&mut watch, |r| r.synced).await,
                    Err(Error::TooOld { oldest, .. }) => {
                        prop_assert!(oldest > moment.revision);
                        let mut watch = store.watch(None).await.unwrap();
                        replica = Replica::default();
                        replica.until(&mut watch, |r| r.synced).await;
                    }
                    Err(other) => panic!("{other}"),
                }
                replica.equals(&store).await;
                prop_assert_eq!(replica.revision.max(now.revision), now.revision);
            }
            Ok(())
        })?;
    }
}

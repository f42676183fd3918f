//! What every store must do, as tests over the trait: run over the embedded store and over a remote one alike.

use crate::{
    Candidate, Embedded, Error, Expect, Options, Revision, Store, Stored, Watch, WatchEvent, resource_version,
};
use lasthop_model::{Key, Kind};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A store that takes every document but one with `spec.bad`.
pub(crate) fn options() -> Options {
    Options::new(Arc::new(|candidate| match candidate {
        Candidate::Document { document, .. } if document.pointer("/spec/bad").is_some() => {
            Err("spec.bad: leave it out".to_owned())
        }
        Candidate::Replacement { stored, document, .. }
            if stored.pointer("/spec/fixed") != document.pointer("/spec/fixed") =>
        {
            Err("spec.fixed: never changes".to_owned())
        }
        _ => Ok(()),
    }))
}

pub(crate) fn embedded() -> (tempfile::TempDir, Arc<Embedded>) {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(&directory.path().join("store.redb"), options()).unwrap();
    (directory, Arc::new(store))
}

pub(crate) fn pool(name: &str) -> Key {
    Key { kind: Kind::IpPool, namespace: None, name: name.into() }
}

pub(crate) fn endpoint(name: &str) -> Key {
    Key { kind: Kind::WorkloadEndpoint, namespace: Some("default".into()), name: name.into() }
}

pub(crate) fn spec(n: u64) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "spec": {"n": n}})
}

pub(crate) fn n(stored: &Stored) -> u64 {
    stored.document["spec"]["n"].as_u64().unwrap()
}

/// The next event, or a failed test.
pub(crate) async fn next(watch: &mut Watch) -> WatchEvent {
    tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("no event in 20 s").unwrap()
}

/// What a reader of a watch holds.
#[derive(Debug, Default)]
pub(crate) struct Replica {
    pub(crate) resources: BTreeMap<Key, Stored>,
    pub(crate) revision: Revision,
    pub(crate) synced: bool,
    pub(crate) events: usize,
}

impl Replica {
    /// Takes an event; changes must come in the order of their revisions, none twice.
    pub(crate) fn take(&mut self, event: WatchEvent) {
        let revision = event.revision();
        let listing = matches!(event, WatchEvent::Put(_)) && !self.synced && self.revision == Revision(0);
        match event {
            WatchEvent::InSync(_) => {
                assert!(!self.synced, "in-sync twice");
                self.synced = true;
            }
            _ => {
                self.events += 1;
                assert!(listing || revision > self.revision, "{revision} after {}", self.revision);
            }
        }
        match event {
            WatchEvent::Put(stored) => drop(self.resources.insert(stored.key.clone(), stored)),
            WatchEvent::Deleted { key, .. } => drop(self.resources.remove(&key)),
            WatchEvent::InSync(_) => {}
        }
        if !listing {
            self.revision = self.revision.max(revision);
        }
    }

    pub(crate) async fn until(&mut self, watch: &mut Watch, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            self.take(next(watch).await);
        }
    }

    pub(crate) async fn equals(&self, store: &dyn Store) {
        let listing = store.list(None).await.unwrap();
        let held: Vec<_> = self.resources.values().cloned().collect();
        let mut listed = listing.items;
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        assert_eq!(held, listed);
    }
}

pub(crate) async fn a_resource_is_made_read_listed_changed_and_deleted(store: Arc<dyn Store>) {
    let (a, b) = (pool("a"), endpoint("b"));
    let made = store.create(a.clone(), spec(1)).await.unwrap();
    assert_eq!((made.revision, made.created_revision, n(&made)), (Revision(1), Revision(1), 1));
    let uid = made.document["metadata"]["uid"].as_str().unwrap().to_owned();
    assert_eq!((uid.len(), uid.as_bytes()[14]), (36, b'4'), "{uid}");
    assert_eq!(resource_version(&made.document), Some(Revision(1)));
    assert_eq!(made.document["kind"], "IPPool");
    store.create(b.clone(), spec(2)).await.unwrap();
    let changed = store.update(a.clone(), spec(3), Expect::Any).await.unwrap();
    assert_eq!((changed.revision, changed.created_revision, n(&changed)), (Revision(3), Revision(1), 3));
    for kept in ["uid", "creationTimestamp"] {
        assert_eq!(changed.document["metadata"][kept], made.document["metadata"][kept], "{kept}");
    }
    assert_eq!(store.get(&a).await.unwrap(), changed);
    let all = store.list(None).await.unwrap();
    assert_eq!((all.revision, all.items.len()), (Revision(3), 2));
    let pools = store.list(Some(Kind::IpPool)).await.unwrap();
    assert_eq!(pools.items, [changed]);
    assert!(store.list(Some(Kind::Node)).await.unwrap().items.is_empty());
    let gone = store.delete(&a, Expect::Any).await.unwrap();
    assert_eq!((gone.revision, n(&gone)), (Revision(4), 3));
    assert_eq!(store.get(&a).await, Err(Error::NotFound(a)));
    assert_eq!(store.status().store.map(|id| id.0 != 0), Some(true));
}

pub(crate) async fn a_write_that_expects_something_else_is_refused(store: Arc<dyn Store>) {
    let a = pool("a");
    let conflict = |expected, actual| Error::Conflict { key: pool("a"), expected, actual };
    assert_eq!(store.update(a.clone(), spec(1), Expect::Any).await, Err(Error::NotFound(a.clone())));
    assert_eq!(store.delete(&a, Expect::Revision(Revision(1))).await, Err(Error::NotFound(a.clone())));
    let r1 = store.create(a.clone(), spec(1)).await.unwrap().revision;
    assert_eq!(store.create(a.clone(), spec(2)).await, Err(Error::Exists { key: a.clone(), revision: r1 }));
    let r2 = store.update(a.clone(), spec(2), Expect::Revision(r1)).await.unwrap().revision;
    assert_eq!(store.update(a.clone(), spec(3), Expect::Revision(r1)).await, Err(conflict(r1, r2)));
    assert_eq!(store.delete(&a, Expect::Revision(r1)).await, Err(conflict(r1, r2)));
    assert_eq!(n(&store.get(&a).await.unwrap()), 2);
    store.delete(&a, Expect::Revision(r2)).await.unwrap();
    let again = store.create(a.clone(), spec(1)).await.unwrap();
    assert_eq!(again.created_revision, Revision(4));
}

pub(crate) async fn of_many_who_swap_one_wins_each_time(store: Arc<dyn Store>) {
    let a = pool("a");
    store.create(a.clone(), spec(0)).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, a) = (Arc::clone(&store), a.clone());
        writers.spawn(async move {
            let mut won = 0;
            while won < 10 {
                let read = store.get(&a).await.unwrap();
                match store.update(a.clone(), spec(n(&read) + 1), Expect::Revision(read.revision)).await {
                    Ok(_) => won += 1,
                    Err(Error::Conflict { expected, actual, .. }) => assert!(actual > expected),
                    Err(other) => panic!("{other}"),
                }
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    assert_eq!(n(&store.get(&a).await.unwrap()), 80);
}

pub(crate) async fn what_is_not_valid_is_refused_and_nothing_is_written(store: Arc<dyn Store>) {
    let before = store.list(None).await.unwrap().revision;
    let long = "x".repeat(crate::MAX_DOCUMENT);
    let nul = Key { name: "a\0b".into(), ..pool("") };
    for (key, document, word) in [
        (pool("a"), json!({"spec": {"bad": 1}}), "spec.bad: leave it out"),
        (pool("a"), json!({"metadata": {"name": "b"}}), "name"),
        (pool("a"), json!({"kind": "Node"}), "kind"),
        (pool("a"), json!({"spec": long}), "bytes"),
        (pool(""), spec(1), "empty"),
        (nul, spec(1), "control"),
    ] {
        match store.create(key.clone(), document).await {
            Err(error @ Error::Invalid { .. }) => assert!(error.to_string().contains(word), "{error}"),
            other => panic!("{key:?}: {other:?}"),
        }
    }
    let made = store.create(pool("f"), json!({"spec": {"fixed": 1}})).await.unwrap();
    let changed = store.update(pool("f"), json!({"spec": {"fixed": 2}}), Expect::Any).await;
    assert_eq!(changed, Err(Error::Invalid { key: pool("f"), reason: "spec.fixed: never changes".into() }));
    store.update(pool("f"), json!({"spec": {"fixed": 1, "n": 2}}), Expect::Revision(made.revision)).await.unwrap();
    assert_eq!(store.list(None).await.unwrap().revision.0, before.0 + 2);
}

pub(crate) async fn an_update_that_changes_nothing_writes_nothing(store: Arc<dyn Store>) {
    let made = store.create(pool("a"), spec(1)).await.unwrap();
    assert_eq!(store.update(pool("a"), spec(1), Expect::Any).await.unwrap(), made);
    assert_eq!(store.update(pool("a"), made.document.clone(), Expect::Any).await.unwrap(), made);
    assert_eq!(store.list(None).await.unwrap().revision, made.revision);
}

pub(crate) async fn a_watch_tells_what_is_there_then_in_sync_then_changes(store: Arc<dyn Store>) {
    let a = store.create(pool("a"), spec(1)).await.unwrap();
    let b = store.create(endpoint("b"), spec(2)).await.unwrap();
    let mut watch = store.watch(None).await.unwrap();
    let mut listed = [next(&mut watch).await, next(&mut watch).await];
    listed.sort_by_key(WatchEvent::revision);
    assert_eq!(listed, [WatchEvent::Put(a.clone()), WatchEvent::Put(b.clone())]);
    assert_eq!(next(&mut watch).await, WatchEvent::InSync(Revision(2)));
    let c = store.update(a.key.clone(), spec(3), Expect::Any).await.unwrap();
    assert_eq!(next(&mut watch).await, WatchEvent::Put(c.clone()));
    store.delete(&b.key, Expect::Any).await.unwrap();
    let deleted = WatchEvent::Deleted { key: b.key, revision: Revision(4) };
    assert_eq!(next(&mut watch).await, deleted);
    // From a revision: what came after it, then in-sync.
    let mut watch = store.watch(Some(Revision(2))).await.unwrap();
    assert_eq!(next(&mut watch).await, WatchEvent::Put(c));
    assert_eq!(next(&mut watch).await, deleted);
    assert_eq!(next(&mut watch).await, WatchEvent::InSync(Revision(4)));
    let mut watch = store.watch(Some(Revision(4))).await.unwrap();
    assert_eq!(next(&mut watch).await, WatchEvent::InSync(Revision(4)));
    assert_eq!(watch.ready(), None);
}

pub(crate) async fn an_empty_store_is_in_sync_at_once(store: Arc<dyn Store>) {
    let mut watch = store.watch(None).await.unwrap();
    assert_eq!(next(&mut watch).await, WatchEvent::InSync(Revision(0)));
    let made = store.create(pool("a"), spec(1)).await.unwrap();
    assert_eq!(next(&mut watch).await, WatchEvent::Put(made));
}

pub(crate) async fn a_revision_of_the_future_is_answered_with_list_again(store: Arc<dyn Store>) {
    store.create(pool("a"), spec(1)).await.unwrap();
    let error = match store.watch(Some(Revision(9))).await {
        Ok(mut watch) => watch.next().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error, Error::TooOld { from: Revision(9), oldest: Revision(0), newest: Revision(1) });
}

pub(crate) async fn no_change_is_lost_or_told_twice_while_many_write(store: Arc<dyn Store>) {
    const WRITERS: u64 = 4;
    const ROUNDS: u64 = 40;
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            for round in 0..ROUNDS {
                let name = format!("w{writer}-{round}");
                let made = store.create(pool(&name), spec(round)).await.unwrap();
                match round % 4 {
                    0 => drop(store.delete(&made.key, Expect::Revision(made.revision)).await.unwrap()),
                    1 => drop(store.update(made.key, spec(round + 100), Expect::Any).await.unwrap()),
                    _ => {}
                }
            }
        });
    }
    // Watches that begin at any moment, from the start, from now, and from where another one stopped.
    let last = Revision(WRITERS * (ROUNDS + ROUNDS / 2));
    for delay in 0..6 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            tokio::time::sleep(Duration::from_millis(delay * 7)).await;
            let mut replica = Replica::default();
            let from = (delay % 2 == 0).then_some(Revision(0));
            let mut watch = store.watch(from).await.unwrap();
            replica.until(&mut watch, |r| r.synced && r.events > 20).await;
            let mut watch = store.watch(Some(replica.revision)).await.unwrap();
            replica.synced = false;
            replica.until(&mut watch, |r| r.synced && r.revision == last).await;
            assert_eq!(watch.ready(), None);
            replica.equals(&*store).await;
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(store.list(None).await.unwrap().revision, last);
}

/// A live watch that keeps up is told every single write.
pub(crate) async fn a_watch_that_keeps_up_sees_each_write(store: Arc<dyn Store>) {
    let mut watch = store.watch(None).await.unwrap();
    assert_eq!(next(&mut watch).await, WatchEvent::InSync(Revision(0)));
    let writer = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            store.create(pool("a"), spec(0)).await.unwrap();
            for i in 1..200 {
                store.update(pool("a"), spec(i), Expect::Any).await.unwrap();
            }
        })
    };
    for expected in 0..200 {
        let WatchEvent::Put(stored) = next(&mut watch).await else { panic!() };
        assert_eq!((n(&stored), stored.revision.0), (expected, expected + 1));
    }
    writer.await.unwrap();
}

pub(crate) async fn a_reader_that_sleeps_gets_the_present_state_when_it_wakes(store: Arc<dyn Store>) {
    let mut watch = store.watch(None).await.unwrap();
    let mut replica = Replica::default();
    replica.until(&mut watch, |r| r.synced).await;
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..1500u64 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let key = pool(&format!("p{i}"));
            store.create(key.clone(), json!({"spec": {"n": i, "filler": "x".repeat(900)}})).await.unwrap();
            if i % 3 == 0 {
                store.delete(&key, Expect::Any).await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    replica.until(&mut watch, |r| r.revision == Revision(2000)).await;
    replica.equals(&*store).await;
}

/// One test for each case, over the stores that `$make` makes: `(guard, Arc<dyn Store>)`.
macro_rules! suite {
    ($make:expr) => {
        crate::suite::suite!(@ $make;
            a_resource_is_made_read_listed_changed_and_deleted
            a_write_that_expects_something_else_is_refused
            of_many_who_swap_one_wins_each_time
            what_is_not_valid_is_refused_and_nothing_is_written
            an_update_that_changes_nothing_writes_nothing
            a_watch_tells_what_is_there_then_in_sync_then_changes
            an_empty_store_is_in_sync_at_once
            a_revision_of_the_future_is_answered_with_list_again
            no_change_is_lost_or_told_twice_while_many_write
            a_watch_that_keeps_up_sees_each_write
            a_reader_that_sleeps_gets_the_present_state_when_it_wakes
        );
    };
    (@ $make:expr; $($case:ident)+) => {
        $(#[tokio::test]
        async fn $case() {
            let (_guard, store) = $make.await;
            crate::suite::$case(store).await;
        })+
    };
}
pub(crate) use suite;

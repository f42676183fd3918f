//! Changes that go back by themselves: taken back where they are stored.
//!
//! Hosts take an overdue rollout's resources for what they were, each by itself ([`lasthop_model::Rollout`]). Whoever keeps
//! the store makes it say so. First the rollout is marked, so that it can no longer be confirmed; then each resource is put
//! back, unless somebody has changed it since; last the rollout goes. Interrupted anywhere, it can be done again.

use crate::{Error, Expect, Store, Stored, WatchEvent, unstamped};
use lasthop_model::{Change, Key, Kind, Resource, Rollout};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const RETRY: Duration = Duration::from_secs(1);
/// The longest sleep: the clock may be set meanwhile.
const LOOK: Duration = Duration::from_secs(10);

/// What became of one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reverted {
    /// It is what it was before.
    Back,
    /// It was so already.
    Already,
    /// Somebody has changed it since: it stays.
    ChangedSince,
}

/// The key of a rollout.
#[must_use]
pub fn key_of(name: &str) -> Key {
    Key { kind: Kind::Rollout, namespace: None, name: name.to_owned() }
}

/// Seconds since 1970-01-01 UTC.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Takes a rollout back, and says what became of each resource.
///
/// # Errors
/// If the store fails, or somebody else confirms or takes back the same rollout.
pub async fn revert(store: &dyn Store, stored: &Stored) -> Result<Vec<(Key, Reverted)>, Error> {
    let invalid = |why: &str| Error::invalid(&stored.key, why);
    let Ok(Resource::Rollout(rollout)) = Resource::parse(&stored.document) else {
        return Err(invalid("it is no rollout"));
    };
    let marked = Rollout { reverting: true, ..rollout };
    store.update(stored.key.clone(), marked.to_document(), Expect::Revision(stored.revision)).await?;
    let mut done = Vec::new();
    for change in marked.changes.iter().rev() {
        done.push((change.key.clone(), put_back(store, change).await?));
    }
    done.reverse();
    finish(store, &stored.key.name).await?;
    Ok(done)
}

async fn put_back(store: &dyn Store, change: &Change) -> Result<Reverted, Error> {
    loop {
        let stored = match store.get(&change.key).await {
            Ok(stored) => Some(stored),
            Err(Error::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        let Some(stored) = stored else {
            return Ok(if change.before.is_none() { Reverted::Already } else { Reverted::ChangedSince });
        };
        let now = unstamped(&stored.document);
        if change.before.as_ref().is_some_and(|before| unstamped(before) == now) {
            return Ok(Reverted::Already);
        }
        if now != unstamped(&change.after) {
            return Ok(Reverted::ChangedSince);
        }
        let expect = Expect::Revision(stored.revision);
        let written = match &change.before {
            Some(before) => store.update(change.key.clone(), before.clone(), expect).await,
            None => store.delete(&change.key, expect).await,
        };
        match written {
            Ok(_) => return Ok(Reverted::Back),
            Err(Error::Conflict { .. } | Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Ends a rollout, whatever it was: what the store says stands.
///
/// # Errors
/// If the store fails.
pub async fn finish(store: &dyn Store, name: &str) -> Result<(), Error> {
    match store.delete(&key_of(name), Expect::Any).await {
        Ok(_) | Err(Error::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Takes back what is overdue, for as long as the store is there. For whoever keeps the store: one is enough.
pub async fn keep(store: Arc<dyn Store>) {
    loop {
        if let Err(error) = follow(&store).await {
            tracing::debug!(%error, "rollouts are not looked at");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow(store: &Arc<dyn Store>) -> Result<(), Error> {
    let listed = store.list(Some(Kind::Rollout)).await?;
    let mut open: BTreeMap<String, Stored> =
        listed.items.into_iter().map(|stored| (stored.key.name.clone(), stored)).collect();
    let mut watch = store.watch(Some(listed.revision)).await?;
    loop {
        let due: Vec<String> =
            open.iter().filter(|(_, stored)| until(stored) <= now()).map(|(name, _)| name.clone()).collect();
        for name in due {
            let Some(stored) = open.remove(&name) else { continue };
            for (key, what) in revert(&**store, &stored).await? {
                tracing::warn!(rollout = name, %key, ?what, "not confirmed in time: taken back");
            }
        }
        let next = open.values().map(until).min().map(|at| Duration::from_secs(at.saturating_sub(now())));
        tokio::select! {
            event = watch.next() => match event? {
                WatchEvent::Put(stored) if stored.key.kind == Kind::Rollout => {
                    open.insert(stored.key.name.clone(), stored);
                }
                WatchEvent::Deleted { key, .. } if key.kind == Kind::Rollout => drop(open.remove(&key.name)),
                _ => {}
            },
            () = tokio::time::sleep(next.unwrap_or(LOOK).clamp(Duration::from_millis(50), LOOK)) => {}
        }
    }
}

fn until(stored: &Stored) -> u64 {
    stored.document.pointer("/spec/until").and_then(serde_json::Value::as_u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Embedded, Options};
    use serde_json::{Value, json};

    fn tier(name: &str, order: u64) -> (Key, Value) {
        let key = Key { kind: Kind::Tier, namespace: None, name: name.to_owned() };
        let api = "projectcalico.org/v3";
        (key, json!({"apiVersion": api, "kind": "Tier", "metadata": {"name": name}, "spec": {"order": order}}))
    }

    /// Tier `a` is changed, `b` is made, `c` is changed and then changed again by somebody else.
    async fn changed(store: &dyn Store, until: u64) -> Stored {
        let (a, old) = tier("a", 1);
        let before = store.create(a.clone(), old).await.unwrap().document;
        let (c, old) = tier("c", 1);
        let theirs = store.create(c.clone(), old).await.unwrap().document;
        let changes = vec![
            Change { key: a.clone(), before: Some(before), after: tier("a", 2).1 },
            Change { key: tier("b", 2).0, before: None, after: tier("b", 2).1 },
            Change { key: c.clone(), before: Some(theirs), after: tier("c", 2).1 },
        ];
        let rollout = Rollout { name: "r".into(), until, revision: None, reverting: false, changes };
        let stored = store.create(key_of("r"), rollout.to_document()).await.unwrap();
        store.update(a, tier("a", 2).1, Expect::Any).await.unwrap();
        store.create(tier("b", 2).0, tier("b", 2).1).await.unwrap();
        store.update(c.clone(), tier("c", 2).1, Expect::Any).await.unwrap();
        store.update(c, tier("c", 3).1, Expect::Any).await.unwrap();
        stored
    }

    async fn orders(store: &dyn Store) -> Vec<(String, u64)> {
        let items = store.list(Some(Kind::Tier)).await.unwrap().items;
        items.into_iter().map(|s| (s.key.name, s.document["spec"]["order"].as_u64().unwrap())).collect()
    }

    fn open() -> (tempfile::TempDir, Embedded) {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(&directory.path().join("store.redb"), Options::v3()).unwrap();
        (directory, store)
    }

    #[tokio::test]
    async fn what_nobody_has_changed_since_goes_back() {
        let (_directory, store) = open();
        let stored = changed(&store, now() + 600).await;
        let done: Vec<Reverted> = revert(&store, &stored).await.unwrap().into_iter().map(|(_, what)| what).collect();
        assert_eq!(done, [Reverted::Back, Reverted::Back, Reverted::ChangedSince]);
        assert_eq!(orders(&store).await, [("a".into(), 1), ("c".into(), 3)]);
        assert!(matches!(store.get(&key_of("r")).await, Err(Error::NotFound(_))));
    }

    #[tokio::test]
    async fn what_was_written_with_a_namespace_of_null_goes_back_too() {
        let (_directory, store) = open();
        let (key, mut after) = tier("a", 1);
        after["metadata"]["namespace"] = Value::Null;
        store.create(key.clone(), after.clone()).await.unwrap();
        assert_eq!(put_back(&store, &Change { key, before: None, after }).await, Ok(Reverted::Back));
        assert_eq!(orders(&store).await, []);
    }

    #[tokio::test]
    async fn taking_back_can_be_done_again_after_any_of_its_steps() {
        let (_directory, store) = open();
        let stored = changed(&store, now() + 600).await;
        let Ok(Resource::Rollout(rollout)) = Resource::parse(&stored.document) else { panic!() };
        for step in 0..rollout.changes.len() {
            let marked = Rollout { reverting: true, ..rollout.clone() };
            store.update(key_of("r"), marked.to_document(), Expect::Any).await.unwrap();
            for change in rollout.changes.iter().rev().take(step) {
                put_back(&store, change).await.unwrap();
            }
        }
        let again = store.get(&key_of("r")).await.unwrap();
        revert(&store, &again).await.unwrap();
        assert_eq!(orders(&store).await, [("a".into(), 1), ("c".into(), 3)]);
    }

    #[tokio::test]
    async fn one_that_was_confirmed_meanwhile_is_not_taken_back() {
        let (_directory, store) = open();
        let stored = changed(&store, now() + 600).await;
        finish(&store, "r").await.unwrap();
        assert!(matches!(revert(&store, &stored).await, Err(Error::NotFound(_))));
        assert_eq!(orders(&store).await, [("a".into(), 2), ("b".into(), 2), ("c".into(), 3)]);
    }

    #[tokio::test]
    async fn the_keeper_takes_back_what_is_overdue_also_of_the_time_before_it() {
        for late in [0, 1] {
            let (_directory, store) = open();
            let store = Arc::new(store);
            changed(&*store, now() + late).await;
            let keeper = tokio::spawn(keep(store.clone()));
            for _ in 0..100 {
                if store.get(&key_of("r")).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            keeper.abort();
            assert_eq!(orders(&*store).await, [("a".into(), 1), ("c".into(), 3)], "{late} s");
        }
    }
}

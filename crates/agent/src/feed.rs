//! The store as the loop sees it: a stream of what changed, and a place to publish endpoints attached here.
//!
//! One task follows the watch, resumes it, and starts over when it must; another writes what this host says
//! of its own endpoints, until the store has it. Neither decides anything.

use crate::document::Document;
use lasthop_model::{EndpointKey, Key, Kind, NodeName};
use lasthop_store::{Error, Expect, Revision, Store, Stored, WatchEvent};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// What the loop is told of the store.
#[derive(Clone, Debug)]
pub(crate) enum Update {
    /// Everything is told anew from here to `InSync`: what is not told by then is gone.
    Begin,
    /// A resource is as given.
    Put(Box<Stored>),
    /// As of a revision a resource is gone.
    Gone(Key, Revision),
    /// All that there is has been told.
    InSync(Revision),
    /// The store does not answer.
    Unreachable,
    /// As of a revision the store holds what this host said of an endpoint.
    Published(EndpointKey, Word, Revision),
    /// The store will not take what this host said of an endpoint.
    Unpublishable(EndpointKey, String),
}

/// What this host says of one of its endpoints.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Word {
    /// It is attached.
    Attached(Document),
    /// It is gone.
    Detached,
}

const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_LIMIT: Duration = Duration::from_secs(5);

/// Follows the store and tells the loop, for as long as the loop listens.
pub(crate) async fn follow(store: Arc<dyn Store>, from: Option<Revision>, updates: mpsc::Sender<Update>) {
    let mut seen = from;
    let mut wait = BACKOFF;
    loop {
        if seen.is_none() && updates.send(Update::Begin).await.is_err() {
            return;
        }
        match store.watch(seen).await {
            Ok(mut watch) => {
                wait = BACKOFF;
                let error = loop {
                    let event = match watch.next().await {
                        Ok(event) => event,
                        Err(error) => break error,
                    };
                    // Only a whole listing can be resumed from: an event within one says nothing of the rest.
                    if seen.is_some() || matches!(event, WatchEvent::InSync(_)) {
                        seen = Some(event.revision());
                    }
                    if updates.send(update(event)).await.is_err() {
                        return;
                    }
                };
                tracing::debug!(%error, "the watch ended");
                if let Error::TooOld { .. } = error {
                    seen = None;
                }
            }
            Err(Error::TooOld { .. }) => seen = None,
            Err(error) => {
                tracing::debug!(%error, "the store cannot be watched");
                if updates.send(Update::Unreachable).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(BACKOFF_LIMIT);
    }
}

fn update(event: WatchEvent) -> Update {
    match event {
        WatchEvent::Put(stored) => Update::Put(Box::new(stored)),
        WatchEvent::Deleted { key, revision } => Update::Gone(key, revision),
        WatchEvent::InSync(revision) => Update::InSync(revision),
    }
}

/// Whether a document is an endpoint of another host: its routes come by BGP, and policy may speak of it.
pub(crate) fn elsewhere(key: &Key, document: &Value, node: &NodeName) -> bool {
    let host = document.pointer("/spec/node").and_then(Value::as_str);
    key.kind == Kind::WorkloadEndpoint && host.is_some_and(|host| host != node.as_str())
}

/// Writes what this host says of its endpoints, the latest word of each, until the store has it.
pub(crate) async fn publish(
    store: Arc<dyn Store>,
    node: NodeName,
    mut words: mpsc::UnboundedReceiver<(EndpointKey, Word)>,
    updates: mpsc::Sender<Update>,
) {
    let mut waiting: BTreeMap<EndpointKey, Word> = BTreeMap::new();
    let mut last = None;
    let mut wait = BACKOFF;
    loop {
        if waiting.is_empty() {
            let Some((key, word)) = words.recv().await else { return };
            waiting.insert(key, word);
        }
        while let Ok((key, word)) = words.try_recv() {
            waiting.insert(key, word);
        }
        let Some((key, word)) = take_after(&mut waiting, last.take()) else { continue };
        last = Some(key.clone());
        let news = match say(&*store, &node, (&key, &word)).await {
            Ok(revision) => Update::Published(key, word, revision),
            Err(error @ Error::Invalid { .. }) => Update::Unpublishable(key, error.to_string()),
            // Denied may pass: another host's record of the same endpoint has yet to go.
            Err(error) => {
                tracing::debug!(endpoint = %key, %error, "not published yet");
                waiting.entry(key).or_insert(word);
                tokio::select! {
                    () = tokio::time::sleep(wait) => wait = (wait * 2).min(BACKOFF_LIMIT),
                    Some((key, word)) = words.recv() => drop(waiting.insert(key, word)),
                }
                continue;
            }
        };
        wait = BACKOFF;
        if updates.send(news).await.is_err() {
            return;
        }
    }
}

/// Writes what this host says of rollouts, the latest of each, until the store has it.
pub(crate) async fn report(store: Arc<dyn Store>, mut said: mpsc::UnboundedReceiver<(String, Option<Value>)>) {
    let mut waiting: BTreeMap<String, Option<Value>> = BTreeMap::new();
    let mut wait = BACKOFF;
    loop {
        if waiting.is_empty() {
            let Some((name, report)) = said.recv().await else { return };
            waiting.insert(name, report);
        }
        while let Ok((name, report)) = said.try_recv() {
            waiting.insert(name, report);
        }
        let Some((name, report)) = waiting.pop_first() else { continue };
        let key = Key { kind: Kind::RolloutReport, namespace: None, name: name.clone() };
        let written = match report.clone() {
            None => store.delete(&key, Expect::Any).await,
            Some(document) => match store.update(key.clone(), document.clone(), Expect::Any).await {
                Err(Error::NotFound(_)) => store.create(key, document).await,
                other => other,
            },
        };
        match written {
            Ok(_) | Err(Error::NotFound(_)) => wait = BACKOFF,
            Err(error) => {
                tracing::debug!(name, %error, "not reported yet");
                waiting.entry(name).or_insert(report);
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(BACKOFF_LIMIT);
            }
        }
    }
}

/// The word whose turn it is: each in its turn, so that one that is refused never keeps the others waiting.
fn take_after(waiting: &mut BTreeMap<EndpointKey, Word>, last: Option<EndpointKey>) -> Option<(EndpointKey, Word)> {
    let after = last.and_then(|key| waiting.range((Bound::Excluded(key), Bound::Unbounded)).next());
    match after.map(|(key, _)| key.clone()) {
        Some(key) => waiting.remove_entry(&key),
        None => waiting.pop_first(),
    }
}

async fn say(store: &dyn Store, node: &NodeName, (endpoint, word): (&EndpointKey, &Word)) -> Result<Revision, Error> {
    let key =
        Key { kind: Kind::WorkloadEndpoint, namespace: Some(endpoint.namespace.clone()), name: endpoint.name.clone() };
    match word {
        Word::Attached(document) => match store.update(key.clone(), document.value(), Expect::Any).await {
            Err(Error::NotFound(_)) => store.create(key, document.value()).await.map(|stored| stored.revision),
            other => other.map(|stored| stored.revision),
        },
        // Only while it is still this host's: by now the workload may be attached elsewhere.
        Word::Detached => match store.get(&key).await {
            Err(Error::NotFound(_)) => Ok(Revision(0)),
            Ok(stored) if elsewhere(&stored.key, &stored.document, node) => Ok(stored.revision),
            Ok(stored) => match store.delete(&key, Expect::Revision(stored.revision)).await {
                Err(Error::NotFound(_)) => Ok(Revision(0)),
                other => other.map(|stored| stored.revision),
            },
            Err(error) => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lasthop_store::{Answer, Embedded, Listing, Options, Status, Watch};

    /// A store in which an endpoint `a` is another host's.
    struct Theirs(Embedded);

    impl Store for Theirs {
        fn update(&self, key: Key, document: Value, expect: Expect) -> Answer<'_, Stored> {
            if key.name == "a" {
                return Box::pin(async { Err(Error::Denied("it is on another node".to_owned())) });
            }
            self.0.update(key, document, expect)
        }
        fn get<'a>(&'a self, key: &'a Key) -> Answer<'a, Stored> {
            self.0.get(key)
        }
        fn list(&self, kind: Option<Kind>) -> Answer<'_, Listing> {
            self.0.list(kind)
        }
        fn create(&self, key: Key, document: Value) -> Answer<'_, Stored> {
            self.0.create(key, document)
        }
        fn delete<'a>(&'a self, key: &'a Key, expect: Expect) -> Answer<'a, Stored> {
            self.0.delete(key, expect)
        }
        fn watch(&self, from: Option<Revision>) -> Answer<'_, Watch> {
            self.0.watch(from)
        }
        fn status(&self) -> Status {
            self.0.status()
        }
    }

    #[tokio::test]
    async fn an_endpoint_that_the_store_refuses_keeps_no_other_from_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(&directory.path().join("store.redb"), Options::v3()).unwrap();
        let (words_in, words) = mpsc::unbounded_channel();
        let (updates_in, mut updates) = mpsc::channel(16);
        for name in ["a", "b", "c"] {
            let document = serde_json::json!({
                "apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"node": "h1", "orchestrator": "lasthop", "workload": name, "endpoint": "eth0",
                         "interfaceName": format!("lh{name}"), "ipNetworks": ["10.65.0.1/32"]},
            });
            let key = EndpointKey { namespace: "default".into(), name: name.into() };
            words_in.send((key, Word::Attached(Document::from(&document)))).unwrap();
        }
        tokio::spawn(publish(Arc::new(Theirs(store)), "h1".parse().unwrap(), words, updates_in));
        let mut published = Vec::new();
        while published.len() < 2 {
            let news = tokio::time::timeout(Duration::from_secs(10), updates.recv()).await.unwrap().unwrap();
            let Update::Published(key, ..) = news else { panic!("{news:?}") };
            published.push(key.name);
        }
        assert_eq!(published, ["b", "c"]);
    }
}

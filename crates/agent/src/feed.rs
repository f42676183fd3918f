//! The store as the loop sees it: a stream of what changed, and a place to publish endpoints attached here.
//!
//! One task follows the watch, resumes it, and starts over when it must; another writes what this host says
//! of its own endpoints, until the store has it. Neither decides anything.

use lasthop_model::{EndpointKey, Key, Kind, NodeName};
use lasthop_store::{Error, Expect, Revision, Store, Stored, WatchEvent};
use serde_json::Value;
use std::collections::BTreeMap;
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
    /// As of a revision a resource is gone, or none of ours.
    Gone(Key, Revision),
    /// All that there is has been told.
    InSync(Revision),
    /// As of a revision the store holds what this host said of an endpoint.
    Published(EndpointKey, Word, Revision),
    /// The store will not take what this host said of an endpoint.
    Unpublishable(EndpointKey, String),
}

/// What this host says of one of its endpoints.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Word {
    /// It is attached.
    Attached(Value),
    /// It is gone.
    Detached,
}

const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_LIMIT: Duration = Duration::from_secs(5);

/// Follows the store for `node` and tells the loop, for as long as the loop listens.
pub(crate) async fn follow(
    store: Arc<dyn Store>,
    node: NodeName,
    from: Option<Revision>,
    updates: mpsc::Sender<Update>,
) {
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
                    if updates.send(update(event, &node)).await.is_err() {
                        return;
                    }
                };
                tracing::debug!(%error, "the watch ended");
                if let Error::TooOld { .. } = error {
                    seen = None;
                }
            }
            Err(Error::TooOld { .. }) => seen = None,
            Err(error) => tracing::debug!(%error, "the store cannot be watched"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(BACKOFF_LIMIT);
    }
}

fn update(event: WatchEvent, node: &NodeName) -> Update {
    match event {
        WatchEvent::Put(stored) if elsewhere(&stored, node) => Update::Gone(stored.key, stored.revision),
        WatchEvent::Put(stored) => Update::Put(Box::new(stored)),
        WatchEvent::Deleted { key, revision } => Update::Gone(key, revision),
        WatchEvent::InSync(revision) => Update::InSync(revision),
    }
}

/// Whether an endpoint is another host's: its addresses come by BGP.
fn elsewhere(stored: &Stored, node: &NodeName) -> bool {
    let host = stored.document.pointer("/spec/node").and_then(Value::as_str);
    stored.key.kind == Kind::WorkloadEndpoint && host.is_some_and(|host| host != node.as_str())
}

/// Writes what this host says of its endpoints, the latest word of each, until the store has it.
pub(crate) async fn publish(
    store: Arc<dyn Store>,
    node: NodeName,
    mut words: mpsc::UnboundedReceiver<(EndpointKey, Word)>,
    updates: mpsc::Sender<Update>,
) {
    let mut waiting: BTreeMap<EndpointKey, Word> = BTreeMap::new();
    let mut wait = BACKOFF;
    loop {
        if waiting.is_empty() {
            let Some((key, word)) = words.recv().await else { return };
            waiting.insert(key, word);
        }
        while let Ok((key, word)) = words.try_recv() {
            waiting.insert(key, word);
        }
        let Some((key, word)) = waiting.pop_first() else { continue };
        let news = match say(&*store, &node, (&key, &word)).await {
            Ok(revision) => Update::Published(key, word, revision),
            Err(error @ Error::Invalid { .. }) => Update::Unpublishable(key, error.to_string()),
            // Denied may pass: another host's record of the same endpoint has yet to go.
            Err(error) => {
                tracing::debug!(endpoint = %key, %error, "not published yet");
                waiting.entry(key).or_insert(word);
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(BACKOFF_LIMIT);
                continue;
            }
        };
        wait = BACKOFF;
        if updates.send(news).await.is_err() {
            return;
        }
    }
}

async fn say(store: &dyn Store, node: &NodeName, (endpoint, word): (&EndpointKey, &Word)) -> Result<Revision, Error> {
    let key =
        Key { kind: Kind::WorkloadEndpoint, namespace: Some(endpoint.namespace.clone()), name: endpoint.name.clone() };
    match word {
        Word::Attached(document) => match store.update(key.clone(), document.clone(), Expect::Any).await {
            Err(Error::NotFound(_)) => store.create(key, document.clone()).await.map(|stored| stored.revision),
            other => other.map(|stored| stored.revision),
        },
        // Only while it is still this host's: by now the workload may be attached elsewhere.
        Word::Detached => match store.get(&key).await {
            Err(Error::NotFound(_)) => Ok(Revision(0)),
            Ok(stored) if elsewhere(&stored, node) => Ok(stored.revision),
            Ok(stored) => match store.delete(&key, Expect::Revision(stored.revision)).await {
                Err(Error::NotFound(_)) => Ok(Revision(0)),
                other => other.map(|stored| stored.revision),
            },
            Err(error) => Err(error),
        },
    }
}

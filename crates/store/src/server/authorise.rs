//! What who may write. A store seen by one identity: reads pass, writes are judged first.
//!
//! A node writes its own Node, its reports, and the workload endpoints that are on it, before and after the write. That is judged
//! against what is stored, and the write then expects exactly that revision: nobody slips in between.

use crate::identity::Identity;
use crate::store::{Answer, Expect, Listing, Revision, Status, Store, Stored};
use crate::{Error, Watch};
use lasthop_model::{Key, Kind, NodeName};
use serde_json::Value;
use std::sync::Arc;

/// How often a write is judged anew because somebody else was faster.
const TRIES: usize = 16;

/// A store as one identity may use it.
pub(crate) struct Guarded {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) identity: Identity,
}

impl Guarded {
    fn denied(&self, key: &Key, reason: &str) -> Error {
        Error::Denied(format!("{} may not write {key}: {reason}", self.identity))
    }

    /// Whether a document may be written, or a stored one replaced or deleted.
    fn judge(&self, key: &Key, document: &Value) -> Result<(), Error> {
        match &self.identity {
            Identity::Admin(_) => Ok(()),
            Identity::Reader(_) => Err(self.denied(key, "it may only read")),
            Identity::Node(node) => self.judge_node(node, key, document),
        }
    }

    fn judge_node(&self, node: &NodeName, key: &Key, document: &Value) -> Result<(), Error> {
        match key.kind {
            Kind::Node if key.name == node.as_str() => Ok(()),
            Kind::Node => Err(self.denied(key, "it is another node")),
            // The name alone does not tell: node names may have dots in them.
            Kind::RolloutReport if !key.name.strip_suffix(node.as_str()).is_some_and(|name| name.ends_with('.')) => {
                Err(self.denied(key, "it is another node's report"))
            }
            Kind::WorkloadEndpoint | Kind::RolloutReport => {
                match document.pointer("/spec/node").and_then(Value::as_str) {
                    Some(of) if of == node.as_str() => Ok(()),
                    Some(of) => Err(self.denied(key, &format!("spec.node is '{}'", of.escape_debug()))),
                    None => Err(self.denied(key, "it has no spec.node")),
                }
            }
            _ => Err(self.denied(key, "a node writes only its Node, its workload endpoints and its reports")),
        }
    }

    /// Judges what is stored and writes over exactly that.
    async fn over<F>(&self, key: &Key, expect: Expect, write: impl Fn(Expect) -> F) -> Result<Stored, Error>
    where
        F: Future<Output = Result<Stored, Error>>,
    {
        if matches!(self.identity, Identity::Admin(_)) {
            return write(expect).await;
        }
        for _ in 0..TRIES {
            let stored = self.store.get(key).await?;
            self.judge(key, &stored.document)?;
            if let Expect::Revision(expected) = expect
                && expected != stored.revision
            {
                return Err(Error::Conflict { key: key.clone(), expected, actual: stored.revision });
            }
            match write(Expect::Revision(stored.revision)).await {
                Err(Error::Conflict { .. } | Error::NotFound(_)) if expect == Expect::Any => {}
                other => return other,
            }
        }
        Err(Error::unavailable(format!("{key} is being changed by others all the time")))
    }
}

impl Store for Guarded {
    fn get<'a>(&'a self, key: &'a Key) -> Answer<'a, Stored> {
        self.store.get(key)
    }

    fn list(&self, kind: Option<Kind>) -> Answer<'_, Listing> {
        self.store.list(kind)
    }

    fn create(&self, key: Key, document: Value) -> Answer<'_, Stored> {
        match self.judge(&key, &document) {
            Ok(()) => self.store.create(key, document),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn update(&self, key: Key, document: Value, expect: Expect) -> Answer<'_, Stored> {
        Box::pin(async move {
            self.judge(&key, &document)?;
            self.over(&key, expect, |expect| self.store.update(key.clone(), document.clone(), expect)).await
        })
    }

    fn delete<'a>(&'a self, key: &'a Key, expect: Expect) -> Answer<'a, Stored> {
        Box::pin(self.over(key, expect, |expect| self.store.delete(key, expect)))
    }

    fn watch(&self, from: Option<Revision>) -> Answer<'_, Watch> {
        self.store.watch(from)
    }

    fn status(&self) -> Status {
        self.store.status()
    }
}

//! The [`Store`] trait and what passes through it.
//!
//! A store holds *documents* (projectcalico.org/v3 JSON) under keys, gives every write the next number of one
//! counter, and tells watchers of each. What a document means is not its business: validity is checked where
//! documents come in, by a function that the store is given, and again by every reader.

use crate::Error;
use crate::watch::Watch;
use lasthop_model::{Key, Kind};
use serde_json::Value;
use std::fmt;
use std::pin::Pin;
use std::time::SystemTime;

/// A point in a store's history: every write that changes something has the next number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which store: a number drawn when it was made. Revisions of different stores do not compare.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(pub u128);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A resource as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// What names it.
    pub key: Key,
    /// The document, with `metadata.uid`, `creationTimestamp` and `resourceVersion` set by the store.
    pub document: Value,
    /// The write that made it what it is.
    pub revision: Revision,
    /// The write that made it.
    pub created_revision: Revision,
}

/// Everything of a kind, or of all, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing {
    /// The store's revision at that moment: a watch from it misses nothing.
    pub revision: Revision,
    /// The resources, ordered by key.
    pub items: Vec<Stored>,
}

/// What a writer believes is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Whatever it is.
    Any,
    /// This revision, else [`Error::Conflict`].
    Revision(Revision),
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// A resource is now this.
    Put(Stored),
    /// A resource is gone.
    Deleted {
        /// Which.
        key: Key,
        /// The write that deleted it.
        revision: Revision,
    },
    /// All that was there when the watch began has been told: what was not told does not exist.
    /// Comes once.
    InSync(Revision),
}

impl WatchEvent {
    /// Where a watch that has seen this event resumes.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(stored) => stored.revision,
            Self::Deleted { revision, .. } | Self::InSync(revision) => *revision,
        }
    }
}

/// How a store is reached at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It is in this process.
    Local,
    /// Over a connection that stands.
    Connected {
        /// The server's address.
        server: String,
        /// Since when.
        since: SystemTime,
    },
    /// Not now.
    Disconnected {
        /// The server's address.
        server: String,
        /// Since when.
        since: SystemTime,
        /// Why, in words.
        reason: String,
    },
}

/// A store's state, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which store, once known.
    pub store: Option<StoreId>,
    /// The newest revision known here.
    pub revision: Revision,
    /// How it is reached.
    pub reach: Reach,
}

/// What every request returns: boxed, so that a store can be an `Arc<dyn Store>`.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Read, watch and compare-and-swap resources. Requests are made inside a tokio runtime.
pub trait Store: Send + Sync {
    /// One resource, or [`Error::NotFound`].
    fn get<'a>(&'a self, key: &'a Key) -> Answer<'a, Stored>;

    /// All resources of a kind, or of every kind.
    fn list(&self, kind: Option<Kind>) -> Answer<'_, Listing>;

    /// Stores a new resource; [`Error::Exists`] if there is one of that name.
    /// Acknowledged means: on disk.
    fn create(&self, key: Key, document: Value) -> Answer<'_, Stored>;

    /// Replaces a resource. A document equal to the stored one writes nothing and keeps its revision.
    fn update(&self, key: Key, document: Value, expect: Expect) -> Answer<'_, Stored>;

    /// Deletes a resource and returns what it was, its revision that of the deletion.
    fn delete<'a>(&'a self, key: &'a Key, expect: Expect) -> Answer<'a, Stored>;

    /// Follows all resources. From `None`: everything there is as `Put`, then `InSync`, then each change.
    /// From a revision: each change after it (several of one resource may be told as the last of them), an
    /// `InSync` between what had happened before and what happens then; or [`Error::TooOld`], here or as the
    /// watch's last word.
    fn watch(&self, from: Option<Revision>) -> Answer<'_, Watch>;

    /// How the store is reached, at once.
    fn status(&self) -> Status;
}

//! The messages, and their way from and to the types of this crate. Fields that a side does not know are passed
//! over, and resources of kinds that it does not know are left out: neighbouring versions work together.

use crate::store::StoreId;
use crate::{Error, Expect, Revision, Stored, WatchEvent};
use lasthop_model::{Key, Kind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// What a client says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum FromClient {
    Hello { protocol: u32, version: String },
    Ask { id: u64, ask: Ask },
    Credit { id: u64, bytes: u64 },
    Cancel { id: u64 },
    Beat {},
}

/// A question.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Ask {
    Get { key: WireKey },
    List { kind: Option<String> },
    Create { key: WireKey, document: Value },
    Update { key: WireKey, document: Value, expect: Option<u64> },
    Delete { key: WireKey, expect: Option<u64> },
    Watch { from: Option<u64>, store: Option<String>, credit: u64 },
}

/// What a server says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum FromServer {
    Hello { protocol: u32, version: String, store: Option<String>, revision: u64, identity: String },
    Refused { reason: String },
    Stored { id: u64, stored: WireStored },
    Page { id: u64, revision: u64, items: Vec<WireStored>, more: bool },
    Watching { id: u64 },
    Events { id: u64, items: Vec<WireEvent> },
    Failed { id: u64, error: WireError },
    Beat { revision: u64 },
}

/// A key; the kind by name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WireKey {
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    name: String,
}

/// A resource.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WireStored {
    key: WireKey,
    revision: u64,
    created: u64,
    document: Value,
}

/// A change.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum WireEvent {
    Put(WireStored),
    Deleted { key: WireKey, revision: u64 },
    InSync { revision: u64 },
}

/// A refusal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum WireError {
    NotFound { key: WireKey },
    Exists { key: WireKey, revision: u64 },
    Conflict { key: WireKey, expected: u64, actual: u64 },
    TooOld { from: u64, oldest: u64, newest: u64 },
    Unavailable { reason: String, retry_ms: Option<u64> },
    Uncertain { key: WireKey, reason: String },
    Invalid { key: WireKey, reason: String },
    Denied { reason: String },
}

impl From<&Key> for WireKey {
    fn from(key: &Key) -> Self {
        let kind = crate::key::kind_name(key.kind).to_owned();
        Self { kind, namespace: key.namespace.clone(), name: key.name.clone() }
    }
}

impl WireKey {
    /// The key, if its kind is known here.
    pub(crate) fn known(self) -> Option<Key> {
        let kind = crate::key::kind_of(&self.kind)?;
        Some(Key { kind, namespace: self.namespace, name: self.name })
    }

    /// The key, or why not.
    pub(crate) fn key(self) -> Result<Key, Error> {
        let denied = format!("kind '{}' is not known to this version", self.kind);
        self.known().ok_or_else(|| Error::unavailable(denied))
    }
}

impl From<Stored> for WireStored {
    fn from(stored: Stored) -> Self {
        let Stored { key, document, revision, created_revision } = stored;
        Self { key: (&key).into(), revision: revision.0, created: created_revision.0, document }
    }
}

impl WireStored {
    /// The resource, if its kind is known here.
    pub(crate) fn known(self) -> Option<Stored> {
        let Self { key, revision, created, document } = self;
        let (revision, created_revision) = (Revision(revision), Revision(created));
        Some(Stored { key: key.known()?, document, revision, created_revision })
    }
}

impl From<WatchEvent> for WireEvent {
    fn from(event: WatchEvent) -> Self {
        match event {
            WatchEvent::Put(stored) => Self::Put(stored.into()),
            WatchEvent::Deleted { key, revision } => Self::Deleted { key: (&key).into(), revision: revision.0 },
            WatchEvent::InSync(revision) => Self::InSync { revision: revision.0 },
        }
    }
}

impl WireEvent {
    /// The event, if it is of a kind that is known here.
    pub(crate) fn known(self) -> Option<WatchEvent> {
        Some(match self {
            Self::Put(stored) => WatchEvent::Put(stored.known()?),
            Self::Deleted { key, revision } => WatchEvent::Deleted { key: key.known()?, revision: Revision(revision) },
            Self::InSync { revision } => WatchEvent::InSync(Revision(revision)),
        })
    }
}

impl From<Error> for WireError {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound(key) => Self::NotFound { key: (&key).into() },
            Error::Exists { key, revision } => Self::Exists { key: (&key).into(), revision: revision.0 },
            Error::Conflict { key, expected, actual } => {
                Self::Conflict { key: (&key).into(), expected: expected.0, actual: actual.0 }
            }
            Error::TooOld { from, oldest, newest } => Self::TooOld { from: from.0, oldest: oldest.0, newest: newest.0 },
            Error::Unavailable { reason, retry } => {
                let retry_ms = retry.and_then(|retry| u64::try_from(retry.as_millis()).ok());
                Self::Unavailable { reason, retry_ms }
            }
            Error::Uncertain { key, reason } => Self::Uncertain { key: (&key).into(), reason },
            Error::Invalid { key, reason } => Self::Invalid { key: (&key).into(), reason },
            Error::Denied(reason) => Self::Denied { reason },
        }
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        let made = (|| {
            Some(match error {
                WireError::NotFound { key } => Self::NotFound(key.known()?),
                WireError::Exists { key, revision } => Self::Exists { key: key.known()?, revision: Revision(revision) },
                WireError::Conflict { key, expected, actual } => {
                    Self::Conflict { key: key.known()?, expected: Revision(expected), actual: Revision(actual) }
                }
                WireError::TooOld { from, oldest, newest } => {
                    Self::TooOld { from: Revision(from), oldest: Revision(oldest), newest: Revision(newest) }
                }
                WireError::Unavailable { reason, retry_ms } => {
                    Self::Unavailable { reason, retry: retry_ms.map(Duration::from_millis) }
                }
                WireError::Uncertain { key, reason } => Self::Uncertain { key: key.known()?, reason },
                WireError::Invalid { key, reason } => Self::Invalid { key: key.known()?, reason },
                WireError::Denied { reason } => Self::Denied(reason),
            })
        })();
        made.unwrap_or_else(|| Self::unavailable("the server answered about a kind that is not known here"))
    }
}

/// What a writer expects, on the wire.
pub(crate) fn expect_to_wire(expect: Expect) -> Option<u64> {
    match expect {
        Expect::Any => None,
        Expect::Revision(revision) => Some(revision.0),
    }
}

/// What a writer expects, from the wire.
pub(crate) fn expect_from_wire(expect: Option<u64>) -> Expect {
    expect.map_or(Expect::Any, |revision| Expect::Revision(Revision(revision)))
}

/// The kind that a list is of.
pub(crate) fn kind_from_wire(kind: Option<&str>) -> Result<Option<Kind>, Error> {
    let known = |name| {
        crate::key::kind_of(name)
            .ok_or_else(|| Error::unavailable(format!("kind '{name}' is not known to this version")))
    };
    kind.map(known).transpose()
}

/// The store's number, from the wire.
pub(crate) fn store_from_wire(text: Option<&str>) -> Option<StoreId> {
    u128::from_str_radix(text?, 16).ok().map(StoreId)
}

//! What the file holds, and one transaction over it.
//!
//! Four tables. `objects` is key → record. `changes` is revision → key, one entry for each object: the write
//! that made it what it is; an overwritten object leaves no trace. `graves` is revision → key of deletions,
//! the oldest dropped when there are too many; `horizon` is the newest one dropped. A watch from any revision at
//! or after the horizon is answered by the two in order: each key's last change, which is all that a reader of
//! present state needs. `state` holds the counters.

use super::{Candidate, Validator};
use crate::document::{self, Stamp};
use crate::key;
use crate::store::StoreId;
use crate::{Error, Expect, Revision, Stored, WatchEvent};
use lasthop_model::{Key, Kind};
use redb::{
    ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition,
    WriteTransaction,
};
use serde_json::Value;
use std::ops::Bound;

const OBJECTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("objects");
const CHANGES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("changes");
const GRAVES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("graves");
const STATE: TableDefinition<'_, &str, u128> = TableDefinition::new("state");

/// The format of the file that this version reads and writes.
pub(super) const FORMAT: u64 = 1;

/// A write that was asked for. The document is normalised and valid.
#[derive(Clone, Debug)]
pub(super) enum Write {
    Create { key: Key, document: Value },
    Update { key: Key, document: Value, expect: Expect },
    Delete { key: Key, expect: Expect },
}

/// What a write is made with.
pub(super) struct Context<'a> {
    pub(super) uid: &'a str,
    pub(super) now: &'a str,
    pub(super) validator: &'a Validator,
}

/// What a write came to.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) stored: Stored,
    /// What watchers are told, with its size in bytes; none if nothing was written.
    pub(super) event: Option<(WatchEvent, usize)>,
}

/// Why a write was not made: the file failed, or the writer is answered so.
pub(super) enum Failure {
    File(redb::Error),
    Refused(Error),
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::File(error.into())
    }
}

/// The counters.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    pub(super) format: u64,
    pub(super) store: StoreId,
    pub(super) revision: Revision,
    pub(super) horizon: Revision,
}

fn state(table: &impl ReadableTable<&'static str, u128>) -> Result<Option<State>, redb::Error> {
    let number = |name| Ok::<_, redb::Error>(table.get(name)?.map(|value| value.value()));
    let small = |name| Ok::<_, redb::Error>(number(name)?.and_then(|n| u64::try_from(n).ok()).unwrap_or_default());
    let Some(store) = number("store")? else { return Ok(None) };
    Ok(Some(State {
        format: small("format")?,
        store: StoreId(store),
        revision: Revision(small("revision")?),
        horizon: Revision(small("horizon")?),
    }))
}

/// Makes the tables of a new file; reads the counters of one that is there.
pub(super) fn initialise(db: &redb::Database, fresh: StoreId) -> Result<State, redb::Error> {
    let transaction = db.begin_write()?;
    let (found, new) = {
        transaction.open_table(OBJECTS)?;
        transaction.open_table(CHANGES)?;
        transaction.open_table(GRAVES)?;
        let mut table = transaction.open_table(STATE)?;
        match state(&table)? {
            Some(found) => (found, false),
            None => {
                table.insert("store", fresh.0)?;
                table.insert("format", u128::from(FORMAT))?;
                (State { format: FORMAT, store: fresh, revision: Revision(0), horizon: Revision(0) }, true)
            }
        }
    };
    if new {
        transaction.commit()?
    } else {
        transaction.abort()?
    }
    Ok(found)
}

/// The tables of one write transaction.
pub(super) struct Tables<'t> {
    objects: Table<'t, &'static [u8], &'static [u8]>,
    changes: Table<'t, u64, &'static [u8]>,
    graves: Table<'t, u64, &'static [u8]>,
    state: Table<'t, &'static str, u128>,
    revision: Revision,
}

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction, revision: Revision) -> Result<Self, redb::Error> {
        Ok(Self {
            objects: transaction.open_table(OBJECTS)?,
            changes: transaction.open_table(CHANGES)?,
            graves: transaction.open_table(GRAVES)?,
            state: transaction.open_table(STATE)?,
            revision,
        })
    }

    fn find(&self, key: &Key) -> Result<Option<Stored>, Failure> {
        let Some(record) = self.objects.get(key::encode(key).as_slice())? else { return Ok(None) };
        let stored = decode(key.clone(), record.value());
        stored.map(Some).ok_or_else(|| Failure::Refused(damaged(key)))
    }

    fn expected(&self, key: &Key, expect: Expect) -> Result<Stored, Failure> {
        let Some(stored) = self.find(key)? else { return Err(Failure::Refused(Error::NotFound(key.clone()))) };
        match expect {
            Expect::Revision(expected) if expected != stored.revision => {
                Err(Failure::Refused(Error::Conflict { key: key.clone(), expected, actual: stored.revision }))
            }
            _ => Ok(stored),
        }
    }

    /// Makes one write within the transaction. A refused write leaves no trace in it.
    pub(super) fn write(&mut self, write: Write, context: &Context<'_>) -> Result<Written, Failure> {
        match write {
            Write::Create { key, document } => {
                if let Some(stored) = self.find(&key)? {
                    return Err(Failure::Refused(Error::Exists { key, revision: stored.revision }));
                }
                let revision = Revision(self.revision.0 + 1);
                let document = document::stamped(document, &Stamp { uid: context.uid, created: context.now, revision });
                self.put(Stored { key, document, revision, created_revision: revision })
            }
            Write::Update { key, document, expect } => {
                let old = self.expected(&key, expect)?;
                if document::same(&old.document, &document) {
                    return Ok(Written { stored: old, event: None });
                }
                let candidate = Candidate::Replacement { key: &key, stored: &old.document, document: &document };
                if let Err(reason) = (context.validator)(candidate) {
                    return Err(Failure::Refused(Error::Invalid { key, reason }));
                }
                let revision = Revision(self.revision.0 + 1);
                let (uid, created) = (document::uid(&old.document), document::created(&old.document));
                let document = document::stamped(document, &Stamp { uid, created, revision });
                self.changes.remove(old.revision.0)?;
                self.put(Stored { key, document, revision, created_revision: old.created_revision })
            }
            Write::Delete { key, expect } => {
                let old = self.expected(&key, expect)?;
                let name = key::encode(&key);
                let revision = Revision(self.revision.0 + 1);
                self.objects.remove(name.as_slice())?;
                self.changes.remove(old.revision.0)?;
                self.graves.insert(revision.0, name.as_slice())?;
                self.revision = revision;
                let event = WatchEvent::Deleted { key, revision };
                Ok(Written { stored: Stored { revision, ..old }, event: Some((event, name.len())) })
            }
        }
    }

    fn put(&mut self, stored: Stored) -> Result<Written, Failure> {
        let name = key::encode(&stored.key);
        let record = encode(&stored);
        if record.len() > document::MAX_DOCUMENT {
            let reason = format!("{} bytes are more than the {} allowed", record.len(), document::MAX_DOCUMENT);
            return Err(Failure::Refused(Error::Invalid { key: stored.key, reason }));
        }
        self.objects.insert(name.as_slice(), record.as_slice())?;
        self.changes.insert(stored.revision.0, name.as_slice())?;
        self.revision = stored.revision;
        let event = WatchEvent::Put(stored.clone());
        Ok(Written { stored, event: Some((event, record.len())) })
    }

    /// Writes the counters, and drops the oldest graves when there are more than `graves`.
    pub(super) fn finish(mut self, graves: u64) -> Result<Revision, redb::Error> {
        self.state.insert("revision", u128::from(self.revision.0))?;
        let count = self.graves.len()?;
        if count > graves {
            // A good part at once, so that most transactions do without.
            for _ in 0..count - graves / 2 {
                if let Some((revision, _)) = self.graves.pop_first()? {
                    self.state.insert("horizon", u128::from(revision.value()))?;
                }
            }
        }
        Ok(self.revision)
    }
}

fn encode(stored: &Stored) -> Vec<u8> {
    let mut record = Vec::with_capacity(512);
    record.extend(stored.revision.0.to_be_bytes());
    record.extend(stored.created_revision.0.to_be_bytes());
    record.extend(stored.document.to_string().as_bytes());
    record
}

fn decode(key: Key, record: &[u8]) -> Option<Stored> {
    let (revision, rest) = record.split_first_chunk::<8>()?;
    let (created, document) = rest.split_first_chunk::<8>()?;
    Some(Stored {
        key,
        document: serde_json::from_slice(document).ok()?,
        revision: Revision(u64::from_be_bytes(*revision)),
        created_revision: Revision(u64::from_be_bytes(*created)),
    })
}

fn damaged(key: &Key) -> Error {
    Error::unavailable(format!("the record of {key} is damaged: delete and create it again"))
}

/// The store at one moment.
pub(super) struct Snapshot {
    objects: ReadOnlyTable<&'static [u8], &'static [u8]>,
    changes: ReadOnlyTable<u64, &'static [u8]>,
    graves: ReadOnlyTable<u64, &'static [u8]>,
    pub(super) state: State,
}

impl Snapshot {
    pub(super) fn take(db: &redb::Database) -> Result<Self, redb::Error> {
        let transaction: ReadTransaction = db.begin_read()?;
        let state = state(&transaction.open_table(STATE)?)?
            .ok_or_else(|| redb::Error::Corrupted("the store has no counters".to_owned()))?;
        Ok(Self {
            objects: transaction.open_table(OBJECTS)?,
            changes: transaction.open_table(CHANGES)?,
            graves: transaction.open_table(GRAVES)?,
            state,
        })
    }

    pub(super) fn get(&self, key: &Key) -> Result<Stored, Failure> {
        match self.objects.get(key::encode(key).as_slice())? {
            Some(record) => decode(key.clone(), record.value()).ok_or_else(|| Failure::Refused(damaged(key))),
            None => Err(Failure::Refused(Error::NotFound(key.clone()))),
        }
    }

    /// Up to `limit` objects in key order after the key `after` (as bytes), of one kind or all; with the key to
    /// go on from, or none at the end. A record that cannot be read is left out, never in the way of others.
    pub(super) fn page(&self, kind: Option<Kind>, after: Option<&[u8]>, limit: usize) -> Result<Page, redb::Error> {
        let prefix = kind.map(key::prefix).unwrap_or_default();
        let start = after.map_or(Bound::Included(prefix.as_slice()), Bound::Excluded);
        let mut items = Vec::new();
        for (seen, entry) in self.objects.range::<&[u8]>((start, Bound::Unbounded))?.enumerate() {
            let (name, record) = entry?;
            if !name.value().starts_with(&prefix) {
                break;
            }
            let stored = key::decode(name.value()).and_then(|key| decode(key, record.value()));
            if stored.is_none() {
                tracing::error!(key = %String::from_utf8_lossy(name.value()), "left out: a record that this version cannot read");
            }
            items.extend(stored);
            if seen + 1 == limit {
                return Ok((items, Some(name.value().to_vec())));
            }
        }
        Ok((items, None))
    }

    /// Up to `limit` changes after `from`, in order, and where to go on from.
    pub(super) fn changes(&self, from: Revision, limit: usize) -> Result<(Vec<WatchEvent>, Revision), redb::Error> {
        let range = (Bound::Excluded(from.0), Bound::Unbounded);
        let mut changes = self.changes.range(range)?.peekable();
        let mut graves = self.graves.range(range)?.peekable();
        let mut events = Vec::new();
        let mut reached = from;
        for _ in 0..limit {
            let order = |entry: Option<&Result<(redb::AccessGuard<'_, u64>, _), _>>| match entry {
                Some(Ok((revision, _))) => revision.value(),
                Some(Err(_)) => 0,
                None => u64::MAX,
            };
            let grave = order(graves.peek()) < order(changes.peek());
            let Some(entry) = (if grave { graves.next() } else { changes.next() }) else {
                return Ok((events, self.state.revision));
            };
            let (revision, name) = entry?;
            reached = Revision(revision.value());
            let Some(key) = key::decode(name.value()) else { continue };
            if grave {
                events.push(WatchEvent::Deleted { key, revision: reached });
            } else if let Some(record) = self.objects.get(name.value())? {
                events.extend(decode(key, record.value()).map(WatchEvent::Put));
            }
        }
        Ok((events, reached))
    }
}

/// Objects of a page, and the key to go on from.
pub(super) type Page = (Vec<Stored>, Option<Vec<u8>>);

/// Writes a record that nobody can read.
#[cfg(test)]
pub(super) fn spoil(db: &redb::Database, key: &Key) {
    let transaction = db.begin_write().unwrap();
    transaction.open_table(OBJECTS).unwrap().insert(key::encode(key).as_slice(), b"garbage".as_slice()).unwrap();
    transaction.commit().unwrap();
}

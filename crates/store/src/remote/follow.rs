//! A watch over connections that come and go: it resumes where it was, and its reader does not notice.
//!
//! Before in-sync there is no place to resume from, so a listing that was cut begins anew. What was told of the
//! first one is not told again, and what was told and is gone meanwhile is told as deleted.

use super::Shared;
use super::link::{Command, Part, Stream};
use crate::watch::Batch;
use crate::{Error, Revision, StoreId, WatchEvent};
use lasthop_model::Key;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::mpsc;

/// How far a reader has come.
pub(super) struct Cursor {
    /// Changes up to here were told; none while a listing is under way.
    at: Option<Revision>,
    synced: bool,
    store: Option<StoreId>,
    /// What listings that were cut have told.
    told: BTreeMap<Key, Revision>,
    /// What the listing under way has told.
    listed: BTreeSet<Key>,
}

impl Cursor {
    pub(super) fn new(from: Option<Revision>) -> Self {
        Self { at: from, synced: false, store: None, told: BTreeMap::new(), listed: BTreeSet::new() }
    }

    /// What of some events the reader has not been told yet.
    fn take(&mut self, events: impl IntoIterator<Item = WatchEvent>) -> Vec<WatchEvent> {
        let mut news = Vec::new();
        for event in events {
            match (&event, self.at) {
                (WatchEvent::Put(stored), None) => {
                    self.listed.insert(stored.key.clone());
                    if self.told.insert(stored.key.clone(), stored.revision) != Some(stored.revision) {
                        news.push(event);
                    }
                }
                (WatchEvent::InSync(revision), None) => {
                    let (revision, listed) = (*revision, std::mem::take(&mut self.listed));
                    let gone = std::mem::take(&mut self.told).into_keys().filter(|key| !listed.contains(key));
                    news.extend(gone.map(|key| WatchEvent::Deleted { key, revision }));
                    news.push(event);
                    (self.at, self.synced) = (Some(revision), true);
                }
                // A second one, after resuming, says nothing new.
                (WatchEvent::InSync(revision), Some(at)) => {
                    self.at = Some(at.max(*revision));
                    if !std::mem::replace(&mut self.synced, true) {
                        news.push(event);
                    }
                }
                (_, at) => {
                    self.at = at.map(|at| at.max(event.revision()));
                    news.push(event);
                }
            }
        }
        news
    }
}

/// Opens the watch on the connection that stands.
pub(super) async fn open(shared: &Arc<Shared>, cursor: &mut Cursor) -> Result<Stream, Error> {
    cursor.listed.clear();
    let stream = shared.watch(cursor.at, cursor.store).await?;
    cursor.store = stream.store;
    Ok(stream)
}

/// Hands events on until the reader goes, or the server has its last word.
pub(super) async fn follow(shared: Arc<Shared>, mut stream: Stream, mut cursor: Cursor, reader: mpsc::Sender<Batch>) {
    loop {
        match hand_on(&shared, &mut stream, &mut cursor, &reader).await {
            Stop::Gone => {
                let _ = shared.commands.send(Command::Cancel(stream.id)).await;
                return;
            }
            Stop::Ended(error @ Error::Unavailable { .. }) => {
                // The server's store has trouble: nothing is lost, so try again, but not at once.
                tracing::debug!(%error, "watch interrupted");
                tokio::time::sleep(shared.timing.pauses.0).await;
            }
            Stop::Ended(error) => {
                let _ = reader.send(Err(error)).await;
                return;
            }
            Stop::Lost => {}
        }
        let reopened = tokio::select! {
            reopened = reopen(&shared, &mut cursor) => reopened,
            () = reader.closed() => return,
        };
        match reopened {
            Ok(next) => stream = next,
            Err(error) => {
                let _ = reader.send(Err(error)).await;
                return;
            }
        }
    }
}

enum Stop {
    /// The reader has gone.
    Gone,
    /// The connection has gone.
    Lost,
    /// The server has ended the watch.
    Ended(Error),
}

async fn hand_on(shared: &Shared, stream: &mut Stream, cursor: &mut Cursor, reader: &mpsc::Sender<Batch>) -> Stop {
    loop {
        let part = tokio::select! {
            part = stream.parts.recv() => part,
            () = reader.closed() => return Stop::Gone,
        };
        match part {
            None => return Stop::Lost,
            Some(Part::Ended(error)) => return Stop::Ended(error),
            Some(Part::Events(events, bytes)) => {
                let news = cursor.take(events.into_iter().filter_map(crate::wire::message::WireEvent::known));
                if !news.is_empty() && reader.send(Ok(news)).await.is_err() {
                    return Stop::Gone;
                }
                if shared.commands.send(Command::Credit(stream.id, bytes)).await.is_err() {
                    return Stop::Lost;
                }
            }
        }
    }
}

/// Waits for a connection and opens the watch on it. An error is final.
async fn reopen(shared: &Arc<Shared>, cursor: &mut Cursor) -> Result<Stream, Error> {
    loop {
        shared.connected().await?;
        match open(shared, cursor).await {
            Err(Error::Unavailable { .. } | Error::Uncertain { .. }) => {
                tokio::time::sleep(shared.timing.pauses.0).await;
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::pool;
    use crate::{Stored, WatchEvent};
    use serde_json::json;

    fn put(name: &str, revision: u64) -> WatchEvent {
        let revision = Revision(revision);
        WatchEvent::Put(Stored { key: pool(name), document: json!({}), revision, created_revision: revision })
    }

    fn deleted(name: &str, revision: u64) -> WatchEvent {
        WatchEvent::Deleted { key: pool(name), revision: Revision(revision) }
    }

    #[test]
    fn a_listing_that_was_cut_is_told_as_one() {
        let mut cursor = Cursor::new(None);
        assert_eq!(cursor.take([put("a", 1), put("b", 2)]), [put("a", 1), put("b", 2)]);
        assert_eq!(cursor.at, None, "there is no place to resume from");
        // Cut; meanwhile a was deleted, b changed, c made.
        cursor.listed.clear();
        let sync = WatchEvent::InSync(Revision(5));
        assert_eq!(
            cursor.take([put("b", 4), put("c", 5), sync.clone()]),
            [put("b", 4), put("c", 5), deleted("a", 5), sync]
        );
        assert_eq!(cursor.at, Some(Revision(5)));
        assert_eq!(cursor.take([deleted("b", 6)]), [deleted("b", 6)]);
        assert_eq!(cursor.take([WatchEvent::InSync(Revision(6))]), []);
        assert_eq!((cursor.at, cursor.told.len()), (Some(Revision(6)), 0));
    }

    #[test]
    fn a_listing_that_is_told_again_says_nothing_twice() {
        let mut cursor = Cursor::new(None);
        cursor.take([put("a", 1), put("b", 2)]);
        cursor.listed.clear();
        let sync = WatchEvent::InSync(Revision(2));
        assert_eq!(cursor.take([put("a", 1), put("b", 2), sync.clone()]), [sync]);
    }

    #[test]
    fn a_resumed_watch_is_in_sync_once() {
        let mut cursor = Cursor::new(Some(Revision(3)));
        let sync = WatchEvent::InSync(Revision(4));
        assert_eq!(cursor.take([put("a", 4), sync.clone()]), [put("a", 4), sync.clone()]);
        assert_eq!(cursor.take([sync]), []);
        assert_eq!(cursor.at, Some(Revision(4)));
    }
}

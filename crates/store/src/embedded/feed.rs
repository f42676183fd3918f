//! Watches of the embedded store. Each is a task with a cursor that pulls: from the last few changes in memory
//! while it keeps up, from the file when it has fallen behind. A slow reader so costs no memory, and loses its
//! place only when deletions that it has not seen were dropped from the file.

use super::tables::{Failure, Snapshot};
use crate::watch::{BATCH, Batch};
use crate::{Error, Revision, WatchEvent};
use redb::Database;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How much JSON text the changes kept in memory may amount to.
const RECENT_BYTES: usize = 1 << 20;
/// How many changes are kept in memory.
const RECENT_EVENTS: usize = 1024;
/// How long a reader may leave a batch of a listing where it is: a listing holds a snapshot, and a snapshot
/// keeps the file from reusing space.
const LISTING_PATIENCE: Duration = Duration::from_secs(60);

/// The last changes: all with a revision greater than `after`.
#[derive(Debug)]
pub(super) struct Recent {
    after: Revision,
    events: VecDeque<(Arc<WatchEvent>, usize)>,
    bytes: usize,
}

impl Recent {
    pub(super) fn new(after: Revision) -> Self {
        Self { after, events: VecDeque::new(), bytes: 0 }
    }

    pub(super) fn push(&mut self, events: Vec<(WatchEvent, usize)>) {
        for (event, bytes) in events {
            self.bytes += bytes;
            self.events.push_back((Arc::new(event), bytes));
            while self.bytes > RECENT_BYTES || self.events.len() > RECENT_EVENTS {
                let Some((old, bytes)) = self.events.pop_front() else { break };
                self.after = old.revision();
                self.bytes -= bytes;
            }
        }
    }

    /// The next changes after `cursor`; none if some of them are not in memory any more.
    fn after(&self, cursor: Revision) -> Option<Vec<Arc<WatchEvent>>> {
        (cursor >= self.after).then(|| {
            let start = self.events.partition_point(|(event, _)| event.revision() <= cursor);
            self.events.range(start..).take(BATCH).map(|(event, _)| Arc::clone(event)).collect()
        })
    }
}

/// One watch. Holds the database weakly, so that an idle watch does not keep a closed store's file.
pub(super) struct Feed {
    pub(super) db: Weak<Database>,
    pub(super) recent: Arc<Mutex<Recent>>,
    pub(super) committed: watch::Receiver<Revision>,
    pub(super) sender: mpsc::Sender<Batch>,
}

/// The reader has gone, or its watch has ended.
struct Ended;

impl Feed {
    /// Everything there is, then changes.
    pub(super) async fn list_and_follow(self, snapshot: Snapshot) {
        let revision = snapshot.state.revision;
        if self.list(snapshot).await.is_ok() && self.send(vec![WatchEvent::InSync(revision)]).await.is_ok() {
            self.follow(revision).await;
        }
    }

    /// Changes after `cursor`, in-sync once those up to `target` are told.
    pub(super) async fn resume_and_follow(self, mut cursor: Revision, target: Revision) {
        while cursor < target {
            let Ok((events, reached)) = self.read(cursor).await else { return };
            if self.send(events).await.is_err() {
                return;
            }
            cursor = reached;
        }
        if self.send(vec![WatchEvent::InSync(cursor)]).await.is_ok() {
            self.follow(cursor).await;
        }
    }

    async fn list(&self, mut snapshot: Snapshot) -> Result<(), Ended> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = tokio::task::spawn_blocking(move || {
                let page = snapshot.page(None, after.as_deref(), BATCH);
                (snapshot, page)
            });
            let (kept, page) = page.await.map_err(|_| Ended)?;
            snapshot = kept;
            match page {
                Ok((items, next)) => {
                    let events = items.into_iter().map(WatchEvent::Put).collect();
                    let sent = tokio::time::timeout(LISTING_PATIENCE, self.send(events)).await;
                    sent.map_err(|_| Ended)??;
                    if next.is_none() {
                        return Ok(());
                    }
                    after = next;
                }
                Err(error) => return Err(self.fail(super::unreadable(&error)).await),
            }
        }
    }

    async fn follow(mut self, mut cursor: Revision) {
        loop {
            let near = super::lock(&self.recent).after(cursor);
            let (events, reached) = match near {
                Some(events) => {
                    let reached = events.last().map_or(cursor, |event| event.revision());
                    (events.into_iter().map(|event| WatchEvent::clone(&event)).collect(), reached)
                }
                None => match self.read(cursor).await {
                    Ok(read) => read,
                    Err(Ended) => return,
                },
            };
            if reached == cursor {
                let behind = self.committed.wait_for(|revision| *revision > cursor);
                let more = tokio::select! {
                    more = behind => more.is_ok(),
                    () = self.sender.closed() => false,
                };
                if !more {
                    return;
                }
            } else if self.send(events).await.is_err() {
                return;
            }
            cursor = reached;
        }
    }

    /// The next changes from the file.
    async fn read(&self, cursor: Revision) -> Result<(Vec<WatchEvent>, Revision), Ended> {
        let Some(db) = self.db.upgrade() else { return Err(Ended) };
        let read = tokio::task::spawn_blocking(move || {
            let snapshot = Snapshot::take(&db)?;
            check(&snapshot, cursor)?;
            Ok(snapshot.changes(cursor, BATCH)?)
        });
        match read.await.map_err(|_| Ended)? {
            Ok(read) => Ok(read),
            Err(Failure::Refused(error)) => Err(self.fail(error).await),
            Err(Failure::File(error)) => Err(self.fail(super::unreadable(&error)).await),
        }
    }

    async fn send(&self, events: Vec<WatchEvent>) -> Result<(), Ended> {
        if events.is_empty() {
            return Ok(());
        }
        self.sender.send(Ok(events)).await.map_err(|_| Ended)
    }

    async fn fail(&self, error: Error) -> Ended {
        let _ = self.sender.send(Err(error)).await;
        Ended
    }
}

/// Whether a watch can resume after `from`.
pub(super) fn check(snapshot: &Snapshot, from: Revision) -> Result<(), Failure> {
    let (oldest, newest) = (snapshot.state.horizon, snapshot.state.revision);
    if from < oldest || from > newest {
        return Err(Failure::Refused(Error::TooOld { from, oldest, newest }));
    }
    Ok(())
}

//! The one thread that writes: it takes all writes that wait, makes them in one transaction with one fsync,
//! then tells the watchers, then answers the writers. Nobody hears of a write that a power cut could undo.

use super::Validator;
use super::feed::Recent;
use super::tables::{Context, Failure, Tables, Write, Written};
use crate::document;
use crate::{Error, Revision, Stored, WatchEvent};
use redb::Database;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use tokio::sync::{mpsc, oneshot, watch};

/// Most writes in one transaction: bounds how long the first one waits for the rest.
const GROUP: usize = 256;

/// A write and who waits for it.
pub(super) struct Request {
    pub(super) write: Write,
    pub(super) answer: oneshot::Sender<Result<Stored, Error>>,
}

/// What the thread works with.
pub(super) struct Writer {
    pub(super) db: Arc<Database>,
    pub(super) recent: Arc<Mutex<Recent>>,
    pub(super) committed: watch::Sender<Revision>,
    pub(super) graves: u64,
    pub(super) clock: fn() -> SystemTime,
    pub(super) validator: Validator,
    pub(super) revision: Revision,
}

impl Writer {
    /// Until nobody can ask any more.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut group = Vec::new();
        while let Some(first) = requests.blocking_recv() {
            group.push(first);
            while group.len() < GROUP {
                let Ok(next) = requests.try_recv() else { break };
                group.push(next);
            }
            self.commit(&mut group);
        }
    }

    fn commit(&mut self, group: &mut Vec<Request>) {
        let (writes, answers): (Vec<_>, Vec<_>) = group.drain(..).map(|r| (r.write, r.answer)).unzip();
        match self.transact(writes) {
            Ok((results, events)) => {
                if !events.is_empty() {
                    super::lock(&self.recent).push(events);
                    self.committed.send_replace(self.revision);
                }
                for (answer, result) in answers.into_iter().zip(results) {
                    let _ = answer.send(result);
                }
            }
            Err(error) => {
                tracing::error!(%error, "the store could not write");
                let error = Error::unavailable(format!("its file cannot be written: {error}"));
                for answer in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }

    fn transact(&mut self, writes: Vec<Write>) -> Result<Outcome, redb::Error> {
        let now = document::rfc3339((self.clock)());
        let transaction = self.db.begin_write()?;
        let mut tables = Tables::open(&transaction, self.revision)?;
        let mut results = Vec::with_capacity(writes.len());
        let mut events = Vec::new();
        for write in writes {
            let uid = super::fresh_uid();
            results.push(match tables.write(write, &Context { uid: &uid, now: &now, validator: &self.validator }) {
                Ok(Written { stored, event }) => {
                    events.extend(event);
                    Ok(stored)
                }
                Err(Failure::Refused(error)) => Err(error),
                Err(Failure::File(error)) => return Err(error),
            });
        }
        if events.is_empty() {
            drop(tables);
            transaction.abort()?;
        } else {
            let revision = tables.finish(self.graves)?;
            transaction.commit()?;
            self.revision = revision;
        }
        Ok((results, events))
    }
}

type Outcome = (Vec<Result<Stored, Error>>, Vec<(WatchEvent, usize)>);

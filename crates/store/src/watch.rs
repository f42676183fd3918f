//! The reader's end of a watch: a bounded queue of batches, filled by a task of the backend.

use crate::{Error, WatchEvent};
use std::collections::VecDeque;
use tokio::sync::mpsc;

/// Most events in one batch.
pub(crate) const BATCH: usize = 64;

/// What a backend's task puts into a watch.
pub(crate) type Batch = Result<Vec<WatchEvent>, Error>;

/// Changes as they happen. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    batches: mpsc::Receiver<Batch>,
    ready: VecDeque<WatchEvent>,
    ended: Option<Error>,
}

impl Watch {
    /// A watch and the end to fill it from, with room for `depth` batches.
    pub(crate) fn new(depth: usize) -> (mpsc::Sender<Batch>, Self) {
        let (sender, batches) = mpsc::channel(depth);
        (sender, Self { batches, ready: VecDeque::new(), ended: None })
    }

    /// The next event. An error is the watch's last word: it is given again if asked again.
    /// Cancel-safe: an event is either returned or still to come.
    ///
    /// # Errors
    /// [`Error::TooOld`]: list again, with a new watch from `None`. [`Error::Unavailable`]: the store has ended.
    pub async fn next(&mut self) -> Result<WatchEvent, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            if let Some(error) = &self.ended {
                return Err(error.clone());
            }
            match self.batches.recv().await {
                Some(Ok(batch)) => self.ready.extend(batch),
                Some(Err(error)) => self.ended = Some(error),
                None => self.ended = Some(Error::unavailable("the store was closed")),
            }
        }
    }

    /// An event that is there already, without waiting: lets a reader take several as one change.
    pub fn ready(&mut self) -> Option<WatchEvent> {
        if self.ready.is_empty() && self.ended.is_none() {
            match self.batches.try_recv() {
                Ok(Ok(batch)) => self.ready.extend(batch),
                Ok(Err(error)) => self.ended = Some(error),
                Err(_) => {}
            }
        }
        self.ready.pop_front()
    }
}

//! A store behind a `lasthop server`: one connection for everything, kept up by a task.
//!
//! While there is no connection requests fail at once, with the reason and the time of the next try; watches wait
//! and resume. Tries are apart by pauses that double up to a limit, half of each drawn at random, so that many
//! clients of one server that comes back do not come at the same moment.

mod follow;
mod link;

#[cfg(test)]
mod tests;

use crate::store::{Answer, Expect, Listing, Reach, Revision, Status, Store, StoreId, Stored};
use crate::wire::message::{Ask, WireKey, expect_to_wire};
use crate::wire::{Timing, WINDOW};
use crate::{Error, Watch};
use follow::Cursor;
use lasthop_model::{Key, Kind};
use link::{Command, Stream, Waiting};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Where the server is.
#[derive(Clone, Debug)]
pub enum Target {
    /// At an address and port, with TLS.
    Tcp {
        /// `host:port`.
        server: String,
        /// See [`crate::tls::client_config`].
        tls: Arc<rustls::ClientConfig>,
    },
    /// At a unix socket of this host.
    Unix(PathBuf),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { server, .. } => f.write_str(server),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// How the connection is.
#[derive(Clone, Debug)]
enum State {
    /// The first try is under way: requests wait for it.
    First,
    Up {
        since: SystemTime,
        store: Option<StoreId>,
    },
    /// Not, and no request waits for it.
    Down {
        since: SystemTime,
        reason: String,
        next: Instant,
    },
}

/// What requests, watches and the connection's task share.
struct Shared {
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<State>,
    revision: watch::Receiver<Revision>,
    server: String,
    timing: Timing,
}

/// A store behind a server. Made at once; the connection comes by itself, again and again.
pub struct Remote {
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("status", &self.status()).finish()
    }
}

impl Remote {
    /// Begins to connect, inside a tokio runtime.
    #[must_use]
    pub fn new(target: Target, timing: Timing) -> Self {
        let (commands, receiver) = mpsc::channel(256);
        let (state_sender, state) = watch::channel(State::First);
        let (revision_sender, revision) = watch::channel(Revision(0));
        let shared = Shared { commands, state, revision, server: target.to_string(), timing };
        let keeper = Keeper { target, timing, state: state_sender, revision: revision_sender };
        let task = tokio::spawn(keeper.run(receiver)).abort_handle();
        Self { shared: Arc::new(shared), task }
    }

    /// Waits until the connection stands.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with the last reason, if that takes too long.
    pub async fn connected(&self, patience: Duration) -> Result<(), Error> {
        match tokio::time::timeout(patience, self.shared.connected()).await {
            Ok(connected) => connected,
            Err(_) => Err(self.shared.down().unwrap_or_else(|| Error::unavailable("connecting takes too long"))),
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn closed() -> Error {
    Error::unavailable("the store was closed")
}

impl Shared {
    /// Why a request cannot be made now, if it cannot.
    fn down(&self) -> Option<Error> {
        let State::Down { reason, next, .. } = &*self.state.borrow() else { return None };
        let retry = Some(next.saturating_duration_since(Instant::now()));
        Some(Error::Unavailable { reason: format!("{}: {reason}", self.server), retry })
    }

    async fn connected(&self) -> Result<(), Error> {
        let mut state = self.state.clone();
        state.wait_for(|state| matches!(state, State::Up { .. })).await.map(drop).map_err(|_| closed())
    }

    /// Makes a request: at most the time of one answer, and nothing but the first try to connect is waited for.
    async fn ask<T>(&self, writes: Option<Key>, command: impl FnOnce(Waiting<T>) -> Command) -> Result<T, Error> {
        let mut state = self.state.clone();
        state.wait_for(|state| !matches!(state, State::First)).await.map_err(|_| closed())?;
        if let Some(error) = self.down() {
            return Err(error);
        }
        let (answer, answered) = oneshot::channel();
        let limit = Instant::now() + self.timing.answer;
        let late = || format!("{}: no answer for {:.1} s", self.server, self.timing.answer.as_secs_f64());
        let sent = self.commands.send(command(Waiting { answer, writes: writes.clone() }));
        match tokio::time::timeout_at(limit, sent).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(closed()),
            Err(_) => return Err(Error::unavailable(late())),
        }
        match (tokio::time::timeout_at(limit, answered).await, writes) {
            (Ok(Ok(Err(Error::Unavailable { reason, retry: None }))), _) => {
                Err(Error::unavailable(format!("{}: {reason}", self.server)))
            }
            (Ok(Ok(answer)), _) => answer,
            (Ok(Err(_)), _) => Err(closed()),
            (Err(_), Some(key)) => Err(Error::Uncertain { key, reason: late() }),
            (Err(_), None) => Err(Error::unavailable(late())),
        }
    }

    async fn write(&self, key: Key, ask: Ask) -> Result<Stored, Error> {
        self.ask(Some(key), |waiting| Command::One(ask, waiting)).await
    }

    async fn watch(&self, from: Option<Revision>, store: Option<StoreId>) -> Result<Stream, Error> {
        let (from, store) = (from.map(|from| from.0), store.map(|id| id.to_string()));
        let ask = Ask::Watch { from, store, credit: WINDOW };
        self.ask(None, |waiting| Command::Watch(ask, waiting)).await
    }
}

impl Store for Remote {
    fn get<'a>(&'a self, key: &'a Key) -> Answer<'a, Stored> {
        let ask = Ask::Get { key: key.into() };
        Box::pin(self.shared.ask(None, |waiting| Command::One(ask, waiting)))
    }

    fn list(&self, kind: Option<Kind>) -> Answer<'_, Listing> {
        let ask = Ask::List { kind: kind.map(|kind| crate::key::kind_name(kind).to_owned()) };
        Box::pin(self.shared.ask(None, |waiting| Command::List(ask, waiting)))
    }

    fn create(&self, key: Key, document: Value) -> Answer<'_, Stored> {
        let ask = Ask::Create { key: WireKey::from(&key), document };
        Box::pin(self.shared.write(key, ask))
    }

    fn update(&self, key: Key, document: Value, expect: Expect) -> Answer<'_, Stored> {
        let ask = Ask::Update { key: WireKey::from(&key), document, expect: expect_to_wire(expect) };
        Box::pin(self.shared.write(key, ask))
    }

    fn delete<'a>(&'a self, key: &'a Key, expect: Expect) -> Answer<'a, Stored> {
        let ask = Ask::Delete { key: key.into(), expect: expect_to_wire(expect) };
        Box::pin(self.shared.write(key.clone(), ask))
    }

    fn watch(&self, from: Option<Revision>) -> Answer<'_, Watch> {
        Box::pin(async move {
            let mut cursor = Cursor::new(from);
            let stream = follow::open(&self.shared, &mut cursor).await?;
            let (sender, watch) = Watch::new(2);
            tokio::spawn(follow::follow(Arc::clone(&self.shared), stream, cursor, sender));
            Ok(watch)
        })
    }

    fn status(&self) -> Status {
        let server = self.shared.server.clone();
        let (store, reach) = match self.shared.state.borrow().clone() {
            State::First => {
                let reason = "connecting for the first time".to_owned();
                (None, Reach::Disconnected { server, since: SystemTime::now(), reason })
            }
            State::Up { since, store } => (store, Reach::Connected { server, since }),
            State::Down { since, reason, .. } => (None, Reach::Disconnected { server, since, reason }),
        };
        Status { store, revision: *self.shared.revision.borrow(), reach }
    }
}

/// Keeps the connection up.
struct Keeper {
    target: Target,
    timing: Timing,
    state: watch::Sender<State>,
    revision: watch::Sender<Revision>,
}

impl Keeper {
    async fn run(self, mut commands: mpsc::Receiver<Command>) {
        let (shortest, longest) = self.timing.pauses;
        let mut pause = shortest;
        loop {
            let reason = match link::dial(&self.target, self.timing).await {
                Ok(link) => {
                    let began = Instant::now();
                    self.state.send_replace(State::Up { since: SystemTime::now(), store: link.store });
                    self.revision.send_replace(link.revision);
                    tracing::info!(server = %self.target, "store connected");
                    let reason = link::work(link, &mut commands, &self.revision, self.timing).await;
                    // Only a connection that lasted makes up for the failures before it.
                    if began.elapsed() >= longest {
                        pause = shortest;
                    }
                    reason
                }
                Err(reason) => reason,
            };
            let drawn = pause / 2 + (pause / 2).mul_f64(fraction());
            let next = Instant::now() + drawn;
            tracing::warn!(server = %self.target, reason, retry_ms = drawn.as_millis(), "store not reachable");
            self.down(reason, next);
            if !refuse_until(next, &self.state, &mut commands).await {
                return;
            }
            pause = longest.min(pause * 2);
        }
    }

    fn down(&self, reason: String, next: Instant) {
        self.state.send_modify(|state| {
            let since = match state {
                State::Down { since, .. } => *since,
                _ => SystemTime::now(),
            };
            *state = State::Down { since, reason, next };
        });
    }
}

/// Answers what had been asked before the connection was lost, until it is time to try again; false if nobody can
/// ask any more.
async fn refuse_until(next: Instant, state: &watch::Sender<State>, commands: &mut mpsc::Receiver<Command>) -> bool {
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            () = tokio::time::sleep_until(next) => return true,
        };
        let reason = match &*state.borrow() {
            State::Down { reason, .. } => reason.clone(),
            _ => String::new(),
        };
        let error = Error::Unavailable { reason, retry: Some(next.saturating_duration_since(Instant::now())) };
        match command {
            None => return false,
            Some(Command::One(_, waiting)) => drop(waiting.answer.send(Err(error))),
            Some(Command::List(_, waiting)) => drop(waiting.answer.send(Err(error))),
            Some(Command::Watch(_, waiting)) => drop(waiting.answer.send(Err(error))),
            Some(Command::Credit(..) | Command::Cancel(_)) => {}
        }
    }
}

/// A number drawn from zero to one.
fn fraction() -> f64 {
    let drawn = u32::try_from(crate::random() & u128::from(u32::MAX)).unwrap_or(0);
    f64::from(drawn) / f64::from(u32::MAX)
}

//! The speaker's side of the line to the agent: the greeting, what the agent has been told, what it still has to be.

use super::connection::{Connection, Mark};
use super::driver::Event;
use super::protocol::{self, Frames, LearnedRoute, PeerState, ROUTES_PER_FRAME, ToAgent, ToSpeaker};
use lasthop_bgp::Bytes;
use lasthop_net::{NextHops, Prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc;

/// How long a new connection may take to say Hello.
const GREETING_LIMIT: Duration = Duration::from_secs(5);

/// How long a withdrawal may wait for a peer that does not read, before the agent goes on without it.
const WITHDRAW_LIMIT: Duration = Duration::from_millis(500);

/// How long small news of a peer (a failed attempt, a number of prefixes) may wait.
const LOOK_AFTER: Duration = Duration::from_millis(500);

/// An agent on the line.
pub(super) struct Link {
    /// Its number; what a former one still says is not heard.
    pub(super) id: u64,
    connection: Connection,
    /// Own prefixes it named since it came; `None` once it said that these are all.
    pub(super) named: Option<BTreeSet<Prefix>>,
    /// Learned prefixes to tell.
    pub(super) untold: BTreeSet<Prefix>,
    /// When it is to be told how the peers are, if that changed.
    pub(super) look_at: Option<Instant>,
    told_peers: Vec<PeerState>,
    told_in_sync: bool,
    withdrawals: BTreeMap<u64, Instant>,
    signals: mpsc::UnboundedSender<Event>,
}

/// Tells the driver, when it is dropped, that the peers' sockets have everything up to a withdrawal.
struct Flushed {
    link: u64,
    seq: u64,
    signals: mpsc::UnboundedSender<Event>,
}

impl Drop for Flushed {
    fn drop(&mut self) {
        // At the end of the process nobody is left to be told.
        let _ = self.signals.send(Event::Flushed { link: self.link, seq: self.seq });
    }
}

impl Link {
    /// A greeted agent that is to be told all of `untold`.
    pub(super) fn new(greeted: Greeted, events: Channels, untold: BTreeSet<Prefix>) -> Self {
        let Greeted { id, stream, frames } = greeted;
        let (read, write) = stream.into_split();
        let reader = tokio::spawn(listen(id, read, frames, events.data));
        let drained = events.signals.clone();
        let connection = Connection::start(write, reader, move || {
            // As above.
            let _ = drained.send(Event::AgentDrained);
        });
        Self {
            id,
            connection,
            named: Some(BTreeSet::new()),
            untold,
            look_at: Some(Instant::now()),
            told_peers: Vec::new(),
            told_in_sync: false,
            withdrawals: BTreeMap::new(),
            signals: events.signals,
        }
    }

    /// Queues a message.
    pub(super) fn say(&self, message: &ToAgent) {
        let mut frame = Vec::new();
        match protocol::encode(message, &mut frame) {
            // `tell` looks at the marks itself; all else is little.
            Ok(()) => {
                let _ = self.connection.send(Bytes::from(frame));
            }
            Err(error) => tracing::error!(%error, "a message to the agent is lost"),
        }
    }

    /// Tells what is untold, as far as the agent keeps up.
    pub(super) fn tell(&mut self, learned: impl Fn(Prefix) -> NextHops, in_sync: InSync) {
        while !self.untold.is_empty() && self.connection.has_room() {
            let mut routes: Vec<LearnedRoute> = Vec::new();
            while routes.len() < ROUTES_PER_FRAME
                && let Some(prefix) = self.untold.pop_first()
            {
                routes.push((prefix, learned(prefix)));
            }
            self.say(&ToAgent::Learned(routes));
        }
        if in_sync == InSync::Yes && self.untold.is_empty() && !self.told_in_sync {
            self.told_in_sync = true;
            self.say(&ToAgent::LearnedInSync);
        }
    }

    /// Something happened to a peer: it will be told within [`LOOK_AFTER`], with what else happens until then.
    pub(super) fn look_soon(&mut self, now: Instant) {
        self.look_at.get_or_insert(now + LOOK_AFTER);
    }

    /// Tells how the peers are, if that changed.
    pub(super) fn tell_peers(&mut self, mut peers: Vec<PeerState>) {
        self.look_at = None;
        // The same moment read from two clocks may come out a second apart.
        for peer in &mut peers {
            let told = self.told_peers.iter().find(|told| (told.address, &told.state) == (peer.address, &peer.state));
            if let Some(told) = told.filter(|told| told.since.abs_diff(peer.since) <= 1) {
                peer.since = told.since;
            }
        }
        if peers != self.told_peers {
            self.say(&ToAgent::PeerStates(peers.clone()));
            self.told_peers = peers;
        }
    }

    /// Answers a withdrawal once all `connections` are that far, but for those that have not been read for a while.
    pub(super) fn answer_when_flushed<'a>(&mut self, seq: u64, connections: impl Iterator<Item = &'a Connection>) {
        self.withdrawals.insert(seq, Instant::now() + WITHDRAW_LIMIT);
        let mark: Mark = Arc::new(Flushed { link: self.id, seq, signals: self.signals.clone() });
        for connection in connections.filter(|connection| !connection.is_stalled()) {
            connection.mark(mark.clone());
        }
    }

    /// The sockets are that far.
    pub(super) fn flushed(&mut self, seq: u64) {
        if self.withdrawals.remove(&seq).is_some() {
            self.say(&ToAgent::Withdrawn { seq });
        }
    }

    /// When a withdrawal has waited long enough, or the peers are to be looked at.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.withdrawals.values().copied().chain(self.look_at).min()
    }

    /// Answers the withdrawals that have waited long enough.
    pub(super) fn timeout(&mut self, now: Instant) {
        let late: Vec<u64> = self.withdrawals.iter().filter(|(_, limit)| **limit <= now).map(|(seq, _)| *seq).collect();
        for seq in late {
            tracing::warn!(seq, "a peer does not read: a withdrawal may not have reached it");
            self.flushed(seq);
        }
    }

    /// Ends the line, with a reason.
    pub(super) fn refuse(self, reason: String) {
        self.say(&ToAgent::Refused { reason });
        tokio::spawn(self.connection.close());
    }
}

/// Whether all learned routes are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InSync {
    /// They are.
    Yes,
    /// More are expected.
    NotYet,
}

/// Where tasks report to.
#[derive(Clone)]
pub(super) struct Channels {
    /// What may wait.
    pub(super) data: mpsc::Sender<Event>,
    /// What may not; few.
    pub(super) signals: mpsc::UnboundedSender<Event>,
}

/// An agent that said Hello as it should.
pub(super) struct Greeted {
    id: u64,
    stream: UnixStream,
    frames: Frames,
}

/// Greets whoever connected, and hands over an agent.
pub(super) async fn greet(id: u64, mut stream: UnixStream, events: mpsc::Sender<Event>) {
    let mut frames = Frames::default();
    let first = tokio::time::timeout(GREETING_LIMIT, read(&mut stream, &mut frames)).await;
    let refusal = match first {
        Ok(Ok(ToSpeaker::Hello { version: protocol::VERSION })) => None,
        Ok(Ok(ToSpeaker::Hello { version })) => Some(format!(
            "it speaks version {} of the protocol and you {version}: restart the older one",
            protocol::VERSION
        )),
        Ok(Ok(_)) => Some("you said something other than Hello first".to_owned()),
        Ok(Err(reason)) => Some(reason),
        Err(_) => Some(format!("you did not say Hello within {} s", GREETING_LIMIT.as_secs())),
    };
    let mut hello = Vec::new();
    let mut encoded = protocol::encode(&ToAgent::Hello { version: protocol::VERSION }, &mut hello);
    if let Some(reason) = &refusal {
        tracing::warn!(reason, "a connection to the speaker's socket is refused");
        encoded = encoded.and_then(|()| protocol::encode(&ToAgent::Refused { reason: reason.clone() }, &mut hello));
    }
    if encoded.is_err() || stream.write_all(&hello).await.is_err() || refusal.is_some() {
        return;
    }
    // The driver goes only with the process.
    let _ = events.send(Event::Agent(Greeted { id, stream, frames })).await;
}

async fn listen(link: u64, mut read_half: OwnedReadHalf, mut frames: Frames, events: mpsc::Sender<Event>) {
    loop {
        let event = match read(&mut read_half, &mut frames).await {
            Ok(message) => Event::Told { link, message },
            Err(reason) => Event::AgentGone { link, reason },
        };
        let end = matches!(event, Event::AgentGone { .. });
        if events.send(event).await.is_err() || end {
            return;
        }
    }
}

/// The next message, or in words why there is none.
async fn read<R: AsyncReadExt + Unpin>(stream: &mut R, frames: &mut Frames) -> Result<ToSpeaker, String> {
    loop {
        match frames.take() {
            Ok(Some(message)) => return Ok(message),
            Ok(None) => {}
            Err(error) => return Err(error.to_string()),
        }
        match stream.read_buf(frames.room()).await {
            Ok(0) => return Err("it closed the line".to_owned()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

//! The agent's line to the speaker: connects, comes back when it is cut, and batches what is sent.

use super::protocol::{self, Frames, LearnedRoute, PeerState, ProtocolError, ToAgent, ToSpeaker};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::Instant;

/// The first pause before another try to connect; it doubles from try to try.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How much may wait to be written before the speaker counts as stuck.
const BACKLOG_LIMIT: usize = 64 << 20;

/// What the agent hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The line is up. Now everything is to be sent (`Configure`, `Peers`, `Advertise`) and `Complete` after it. From
    /// here to [`Event::LearnedInSync`] every learned route is told again.
    Connected,
    /// The line is cut, or could not be made, for this reason; said once until it is up again. What is sent
    /// meanwhile is dropped.
    Disconnected(String),
    /// Learned routes that are new, changed or (without next hop) gone.
    Learned(Vec<LearnedRoute>),
    /// Every learned route has been told since [`Event::Connected`]: any other that the agent has is gone.
    LearnedInSync,
    /// The withdrawals of this number have been handed to the peers' sockets. It comes also if the line was cut in
    /// between, once it is up again and `Complete` was sent.
    Withdrawn(u64),
    /// The state of every peer.
    Peers(Vec<PeerState>),
    /// Whether the speaker's port is open.
    Listening {
        /// The port.
        port: u16,
        /// Why it is not open, if it is not.
        problem: Option<String>,
    },
    /// The answer to a question.
    Answer {
        /// The question's number.
        id: u64,
        /// JSON, or why there is none.
        answer: Result<String, String>,
    },
}

/// The agent's line to the speaker. [`Client::recv`] does all the work and is to be polled at all times.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    line: Line,
    /// Withdrawals not answered yet, by number.
    unanswered: BTreeSet<u64>,
    pause: Duration,
    told: bool,
    /// The last try to connect found nobody listening.
    nobody: bool,
}

#[derive(Debug)]
enum Line {
    Down { next_try: Instant },
    Greeting(Open),
    Up(Open),
}

#[derive(Debug)]
struct Open {
    stream: UnixStream,
    incoming: Frames,
    outgoing: Vec<u8>,
    written: usize,
}

/// Why a line is cut.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("the speaker closed the line")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
    #[error("the speaker refuses us: {0}")]
    Refused(String),
    #[error(
        "the speaker speaks version {theirs} of the protocol and the agent {}: restart the older one",
        protocol::VERSION
    )]
    Version { theirs: u32 },
    #[error("the speaker says something other than Hello first")]
    NoHello,
    #[error("the speaker reads nothing: {0} bytes wait")]
    Stuck(usize),
}

impl Client {
    /// A line to the speaker at this socket; the first [`Client::recv`] connects.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            path: socket.to_owned(),
            line: Line::Down { next_try: Instant::now() },
            unanswered: BTreeSet::new(),
            pause: FIRST_PAUSE,
            told: false,
            nobody: false,
        }
    }

    /// The speaker's socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the line is up.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self.line, Line::Up(_))
    }

    /// Whether no speaker is running, as far as the last try to connect could tell.
    #[must_use]
    pub fn is_nobody_there(&self) -> bool {
        self.nobody
    }

    /// Sends a message; never waits. Without a line it is dropped, because everything is to be sent again at
    /// [`Event::Connected`].
    pub fn send(&mut self, message: &ToSpeaker) {
        if let ToSpeaker::Withdraw { seq, .. } = message {
            self.unanswered.insert(*seq);
        }
        let Line::Up(open) = &mut self.line else { return };
        let mut result = open.push(message);
        if matches!(message, ToSpeaker::Complete) {
            // Withdrawals that a cut left without an answer: the complete state says the same, so they are done once it is.
            for seq in &self.unanswered {
                let again = ToSpeaker::Withdraw { seq: *seq, prefixes: Vec::new() };
                result = result.and_then(|()| open.push(&again));
            }
        }
        open.write();
        if let Err(cut) = result {
            tracing::error!(reason = %cut, "a message to the speaker is lost");
        }
    }

    /// The next event. Safe to drop and call again at any point.
    pub async fn recv(&mut self) -> Event {
        loop {
            let result = match &mut self.line {
                Line::Down { next_try } => {
                    tokio::time::sleep_until(*next_try).await;
                    let connected = UnixStream::connect(&self.path).await;
                    let refused = [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound];
                    self.nobody = connected.as_ref().is_err_and(|error| refused.contains(&error.kind()));
                    match connected {
                        Ok(stream) => self.greet(stream),
                        Err(error) => Err(Cut::Io(error)),
                    }
                }
                Line::Greeting(open) => match open.next().await {
                    Ok(ToAgent::Hello { version: protocol::VERSION }) => {
                        return self.connected();
                    }
                    Ok(ToAgent::Hello { version }) => Err(Cut::Version { theirs: version }),
                    Ok(ToAgent::Refused { reason }) => Err(Cut::Refused(reason)),
                    Ok(_) => Err(Cut::NoHello),
                    Err(cut) => Err(cut),
                },
                Line::Up(open) => match open.next().await {
                    Ok(ToAgent::Refused { reason }) => Err(Cut::Refused(reason)),
                    Ok(message) => match event(message) {
                        Some(Event::Withdrawn(seq)) if !self.unanswered.remove(&seq) => Ok(()),
                        Some(event) => return event,
                        None => Ok(()),
                    },
                    Err(cut) => Err(cut),
                },
            };
            if let Err(cut) = result
                && let Some(event) = self.cut(&cut)
            {
                return event;
            }
        }
    }

    fn greet(&mut self, stream: UnixStream) -> Result<(), Cut> {
        let mut open = Open { stream, incoming: Frames::default(), outgoing: Vec::new(), written: 0 };
        open.push(&ToSpeaker::Hello { version: protocol::VERSION })?;
        self.line = Line::Greeting(open);
        Ok(())
    }

    fn connected(&mut self) -> Event {
        let down = Line::Down { next_try: Instant::now() };
        if let Line::Greeting(open) = std::mem::replace(&mut self.line, down) {
            self.line = Line::Up(open);
        }
        self.pause = FIRST_PAUSE;
        self.told = false;
        Event::Connected
    }

    fn cut(&mut self, cut: &Cut) -> Option<Event> {
        if matches!(cut, Cut::Refused(_) | Cut::Version { .. }) {
            self.pause = LONGEST_PAUSE;
        }
        self.line = Line::Down { next_try: Instant::now() + self.pause };
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        let first = !std::mem::replace(&mut self.told, true);
        first.then(|| Event::Disconnected(format!("{}: {cut}", self.path.display())))
    }
}

impl Open {
    fn push(&mut self, message: &ToSpeaker) -> Result<(), Cut> {
        let waiting = self.outgoing.len() - self.written;
        if waiting > BACKLOG_LIMIT {
            return Err(Cut::Stuck(waiting));
        }
        Ok(protocol::encode(message, &mut self.outgoing)?)
    }

    /// Writes as much as the socket takes. An error is left to reading, which finds what the speaker said last.
    fn write(&mut self) {
        while self.written < self.outgoing.len() {
            match self.stream.try_write(&self.outgoing[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
        }
        self.outgoing.clear();
        self.written = 0;
    }

    /// The next message; writes meanwhile. Safe to drop and call again at any point.
    async fn next(&mut self) -> Result<ToAgent, Cut> {
        loop {
            if let Some(message) = self.incoming.take()? {
                return Ok(message);
            }
            self.write();
            let waiting = self.outgoing.len() - self.written;
            if waiting > BACKLOG_LIMIT {
                return Err(Cut::Stuck(waiting));
            }
            let interest = if waiting > 0 { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let ready = self.stream.ready(interest).await?;
            if !ready.is_readable() {
                continue;
            }
            match self.stream.try_read_buf(self.incoming.room()) {
                Ok(0) => return Err(Cut::Closed),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn event(message: ToAgent) -> Option<Event> {
    match message {
        ToAgent::Hello { .. } | ToAgent::Refused { .. } => None,
        ToAgent::Learned(routes) => Some(Event::Learned(routes)),
        ToAgent::LearnedInSync => Some(Event::LearnedInSync),
        ToAgent::Withdrawn { seq } => Some(Event::Withdrawn(seq)),
        ToAgent::PeerStates(peers) => Some(Event::Peers(peers)),
        ToAgent::Listening { port, problem } => Some(Event::Listening { port, problem }),
        ToAgent::Answer { id, answer } => Some(Event::Answer { id, answer }),
    }
}

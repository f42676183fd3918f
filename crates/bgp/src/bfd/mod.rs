//! Bidirectional forwarding detection (RFC 5880), asynchronous mode, without sockets or clock: packets and time go in,
//! packets and deadlines come out. Whether it runs over one hop (RFC 5881) or several (RFC 5883) is the driver's to know.

mod packet;

use crate::config::Bfd;
use packet::Packet;
use std::fmt;
use std::time::{Duration, Instant};

/// The state of a session (section 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not wanted by this end.
    AdminDown,
    /// Nothing is heard.
    Down,
    /// It is heard, and does not hear us yet.
    Init,
    /// Both hear each other.
    Up,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AdminDown => "AdminDown",
            Self::Down => "Down",
            Self::Init => "Init",
            Self::Up => "Up",
        })
    }
}

/// Why a session left Up (section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Diagnostic {
    /// It has not.
    None,
    /// Nothing was heard for the detection time.
    TimeExpired,
    /// The other end says that the session is down.
    NeighbourDown,
    /// One of both ends was taken down by its operator: the way may be alive.
    AdminDown,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no failure",
            Self::TimeExpired => "nothing heard for the detection time",
            Self::NeighbourDown => "the other end does not hear us",
            Self::AdminDown => "taken down by the operator of the other end",
        })
    }
}

/// Why a packet does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// Cut short.
    #[error("{0} octets are no control packet")]
    Short(usize),
    /// Another version.
    #[error("version {0}, we speak 1")]
    Version(u8),
    /// With authentication, which we were not told of.
    #[error("it is authenticated, and we have no key")]
    Authenticated,
    /// Zero where zero is wrong, or a bit that must be clear.
    #[error("a field has a value that it must not have")]
    Malformed,
    /// For another session.
    #[error("it is for session {0}, which is not ours")]
    Stranger(u32),
}

/// While a session is not up, packets are at least this far apart (section 6.8.3).
const SLOW: Duration = Duration::from_secs(1);

/// The discriminator that a packet names as ours: zero while the other end knows none.
#[must_use]
pub fn session_of(bytes: &[u8]) -> Option<u32> {
    Packet::parse(bytes).ok().map(|packet| packet.yours)
}

/// A session with one neighbour.
#[derive(Debug)]
pub struct Session {
    config: Bfd,
    state: State,
    diagnostic: Diagnostic,
    mine: u32,
    remote: Remote,
    /// When the neighbour counts as gone.
    detect_at: Option<Instant>,
    send_at: Option<Instant>,
    /// Sent out of turn: the answer to a poll, or a change of state.
    urgent: Option<Urgent>,
    /// Our own poll sequence is under way (section 6.5); until it ends we go on sending as often as before.
    poll: Option<Duration>,
    dice: u32,
}

/// What the neighbour last said.
#[derive(Clone, Copy, Debug)]
struct Remote {
    discriminator: u32,
    min_receive: Duration,
    min_transmit: Duration,
    multiplier: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgent {
    Change,
    Answer,
}

impl Session {
    /// A session that begins to look for its neighbour. The discriminator is not zero, and no other session's.
    #[must_use]
    pub fn new(now: Instant, discriminator: u32, config: Bfd) -> Self {
        Self {
            config,
            state: State::Down,
            diagnostic: Diagnostic::None,
            mine: discriminator.max(1),
            remote: Remote {
                discriminator: 0,
                // Section 6.8.1: until it is known.
                min_receive: Duration::from_micros(1),
                min_transmit: Duration::ZERO,
                multiplier: 1,
            },
            detect_at: None,
            send_at: Some(now),
            urgent: None,
            poll: None,
            dice: discriminator | 1,
        }
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Why it last left Up.
    #[must_use]
    pub fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    /// The number by which the neighbour names it.
    #[must_use]
    pub fn discriminator(&self) -> u32 {
        self.mine
    }

    /// How long nothing may be heard.
    #[must_use]
    pub fn detection_time(&self) -> Duration {
        self.config.receive.max(self.remote.min_transmit) * u32::from(self.remote.multiplier)
    }

    /// Changes the timers; the session stays up (section 6.8.3).
    pub fn configure(&mut self, config: Bfd) {
        let former = std::mem::replace(&mut self.config, config);
        if former != config && self.state == State::Up {
            self.poll = Some(former.transmit);
            self.urgent.get_or_insert(Urgent::Change);
        }
    }

    /// When [`Session::timeout`] is due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.detect_at.into_iter().chain(self.send_at).min()
    }

    /// Does what is due by time; a packet may be there to be sent then.
    pub fn timeout(&mut self, now: Instant) {
        if self.detect_at.is_some_and(|at| at <= now) {
            // Section 6.8.4; its discriminator is forgotten (section 6.8.1).
            self.detect_at = None;
            self.remote.discriminator = 0;
            if matches!(self.state, State::Init | State::Up) {
                self.leave(now, Diagnostic::TimeExpired);
            }
        }
    }

    /// The next packet to send now, if any. Call until `None` after every other call.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<[u8; 24]> {
        let answer = self.urgent.take();
        if answer.is_none() {
            self.send_at.filter(|at| *at <= now)?;
        }
        if answer != Some(Urgent::Answer) {
            self.send_at = Some(now + self.interval());
        }
        let transmit = if self.state == State::Up { self.config.transmit } else { self.config.transmit.max(SLOW) };
        let packet = Packet {
            state: self.state,
            diagnostic: self.diagnostic.code(),
            poll: self.poll.is_some() && answer != Some(Urgent::Answer),
            last: answer == Some(Urgent::Answer),
            multiplier: self.config.multiplier.max(1),
            mine: self.mine,
            yours: self.remote.discriminator,
            min_transmit: transmit,
            min_receive: self.config.receive,
        };
        Some(packet.encode())
    }

    /// How long until the next packet: what both can do, less up to a quarter (section 6.8.7).
    fn interval(&mut self) -> Duration {
        let ours = match (self.state, self.poll) {
            (State::Up, Some(former)) => former.min(self.config.transmit),
            (State::Up, None) => self.config.transmit,
            _ => self.config.transmit.max(SLOW),
        };
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 17;
        self.dice ^= self.dice << 5;
        let (least, span) = if self.config.multiplier <= 1 { (750, 150) } else { (750, 250) };
        ours.max(self.remote.min_receive) * (least + self.dice % span) / 1000
    }

    /// Takes a packet (section 6.8.6); the new state if it changed.
    ///
    /// # Errors
    /// If it does not count.
    pub fn receive(&mut self, now: Instant, bytes: &[u8]) -> Result<Option<State>, Ignored> {
        let packet = Packet::parse(bytes)?;
        if packet.yours != 0 && packet.yours != self.mine {
            return Err(Ignored::Stranger(packet.yours));
        }
        let before = self.state;
        let old_interval = self.config.transmit.max(self.remote.min_receive);
        self.remote = Remote {
            discriminator: packet.mine,
            min_receive: packet.min_receive,
            min_transmit: packet.min_transmit,
            multiplier: packet.multiplier,
        };
        if packet.last {
            self.poll = None;
        }
        match (self.state, packet.state) {
            (State::AdminDown, _) => return Ok(None),
            (State::Down, State::Down) => self.enter(State::Init),
            (State::Down | State::Init, State::Init) | (State::Init, State::Up) => {
                self.enter(State::Up);
                self.diagnostic = Diagnostic::None;
                // From now on we send faster, which the neighbour is to know of.
                self.poll = Some(self.config.transmit);
            }
            (State::Init | State::Up, State::AdminDown) => self.leave(now, Diagnostic::AdminDown),
            (State::Up, State::Down) => self.leave(now, Diagnostic::NeighbourDown),
            _ => {}
        }
        self.detect_at = Some(now + self.detection_time());
        if packet.poll {
            self.urgent = Some(Urgent::Answer);
        }
        // Zero: it wants nothing at all (section 6.8.7). And who can take more is sent more at once.
        let interval = self.config.transmit.max(self.remote.min_receive);
        if self.remote.min_receive.is_zero() {
            self.send_at = None;
        } else if self.send_at.is_none() || self.state == State::Up && interval < old_interval {
            let next = now + self.interval();
            self.send_at = Some(self.send_at.map_or(next, |at| at.min(next)));
        }
        Ok((self.state != before).then_some(self.state))
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.urgent.get_or_insert(Urgent::Change);
    }

    fn leave(&mut self, now: Instant, diagnostic: Diagnostic) {
        self.diagnostic = diagnostic;
        self.poll = None;
        self.enter(State::Down);
        self.send_at = Some(now + SLOW);
    }

    /// Tells the neighbour that we go on purpose, which is no failure of the way. One last packet is to be sent.
    pub fn shut_down(&mut self) {
        self.diagnostic = Diagnostic::AdminDown;
        self.poll = None;
        self.enter(State::AdminDown);
    }
}

#[cfg(test)]
mod tests;

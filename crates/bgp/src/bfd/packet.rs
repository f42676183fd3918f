//! The control packet of RFC 5880 section 4.1, without authentication.

use super::{Diagnostic, Ignored, State};
use std::time::Duration;

/// Octets of a packet without authentication.
pub(super) const LENGTH: usize = 24;

/// A control packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) state: State,
    pub(super) diagnostic: u8,
    pub(super) poll: bool,
    pub(super) last: bool,
    pub(super) multiplier: u8,
    pub(super) mine: u32,
    pub(super) yours: u32,
    pub(super) min_transmit: Duration,
    pub(super) min_receive: Duration,
}

const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const AUTHENTICATED: u8 = 0x04;
const MULTIPOINT: u8 = 0x01;

impl Packet {
    /// Reads a packet, with the checks of section 6.8.6 that need no session.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Ignored> {
        let word = |at: usize| {
            let octets = bytes.get(at..at + 4).and_then(|octets| octets.try_into().ok());
            octets.map(u32::from_be_bytes).ok_or(Ignored::Short(bytes.len()))
        };
        let [first, flags, multiplier, length, ..] = *bytes else { return Err(Ignored::Short(bytes.len())) };
        if first >> 5 != 1 {
            return Err(Ignored::Version(first >> 5));
        }
        if usize::from(length) < LENGTH || usize::from(length) > bytes.len() {
            return Err(Ignored::Short(usize::from(length).min(bytes.len())));
        }
        if flags & AUTHENTICATED != 0 {
            return Err(Ignored::Authenticated);
        }
        let (mine, yours) = (word(4)?, word(8)?);
        if multiplier == 0 || flags & MULTIPOINT != 0 || mine == 0 {
            return Err(Ignored::Malformed);
        }
        let state = match flags >> 6 {
            0 => State::AdminDown,
            1 => State::Down,
            2 => State::Init,
            _ => State::Up,
        };
        if yours == 0 && !matches!(state, State::Down | State::AdminDown) {
            return Err(Ignored::Malformed);
        }
        let time = |micros: u32| Duration::from_micros(u64::from(micros));
        Ok(Self {
            state,
            diagnostic: first & 0x1f,
            poll: flags & POLL != 0,
            last: flags & FINAL != 0,
            multiplier,
            mine,
            yours,
            min_transmit: time(word(12)?),
            min_receive: time(word(16)?),
        })
    }

    pub(super) fn encode(&self) -> [u8; LENGTH] {
        let mut out = [0; LENGTH];
        let state = match self.state {
            State::AdminDown => 0,
            State::Down => 1,
            State::Init => 2,
            State::Up => 3,
        };
        let bits = if self.poll { POLL } else { 0 } | if self.last { FINAL } else { 0 };
        let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX).to_be_bytes();
        let parts: [&[u8]; 6] = [
            &[1 << 5 | self.diagnostic, state << 6 | bits, self.multiplier, 24],
            &self.mine.to_be_bytes(),
            &self.yours.to_be_bytes(),
            &micros(self.min_transmit),
            &micros(self.min_receive),
            // No echo.
            &[0; 4],
        ];
        for (place, octet) in out.iter_mut().zip(parts.concat()) {
            *place = octet;
        }
        out
    }
}

impl Diagnostic {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::TimeExpired => 1,
            Self::NeighbourDown => 3,
            Self::AdminDown => 7,
        }
    }
}

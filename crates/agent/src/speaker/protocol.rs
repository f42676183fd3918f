//! What the agent and the speaker say to each other over `<runDirectory>/bgp.sock`.
//!
//! A frame is a length (u32, big endian, at most [`FRAME_LIMIT`]) and one message in postcard. Both sides begin with
//! `Hello`; a version that differs, or anything that is no message, ends the connection with a reason. After a
//! (re)connect the agent says everything and then `Complete`: the speaker changes only what differs. The speaker for
//! its part says every learned route and, once it knows them all, `LearnedInSync`.

mod mirror;
mod plain;

use lasthop_bgp::config::{PeerConfig, SpeakerConfig};
use lasthop_net::{NextHops, Prefix};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

pub(super) use mirror::{Speaker as SpeakerMirror, peers, prefixes};

/// The version of the messages below: raised with every change of theirs.
pub const VERSION: u32 = 4;

/// The longest frame.
pub const FRAME_LIMIT: usize = 16 << 20;

/// How many routes go into one frame at most.
pub(super) const ROUTES_PER_FRAME: usize = 4096;

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSpeaker {
    /// First of all.
    Hello {
        /// [`VERSION`].
        version: u32,
    },
    /// Who the speaker is. Before the first of these it does nothing.
    Configure(#[serde(with = "mirror::Speaker")] SpeakerConfig),
    /// All peers; those not named go.
    Peers(#[serde(with = "mirror::peers")] Vec<PeerConfig>),
    /// Own prefixes to advertise, beside those told before.
    Advertise(#[serde(with = "mirror::prefixes")] Vec<Prefix>),
    /// Own prefixes to advertise no longer; answered by [`ToAgent::Withdrawn`].
    Withdraw {
        /// Comes back in the answer.
        seq: u64,
        /// Which.
        #[serde(with = "mirror::prefixes")]
        prefixes: Vec<Prefix>,
    },
    /// Everything has been told since `Hello`: own prefixes that were not named go.
    Complete,
    /// A question of an operator.
    Ask {
        /// Comes back in the answer.
        id: u64,
        /// What is asked.
        question: Question,
    },
}

/// What an operator can ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// The state of every peer.
    Peers,
    /// Every path, or those of one prefix.
    Paths(#[serde(with = "mirror::option_prefix")] Option<Prefix>),
    /// Why a prefix's paths won or lost, and why they are (not) advertised.
    Why(#[serde(with = "mirror::prefix")] Prefix),
    /// What happened after the event of this number; without one, how the sessions stand and where events begin.
    Events(Option<u64>),
    /// The tables, written to this file of the speaker's host as MRT (RFC 6396); answered when it is whole.
    Dump(String),
    /// What goes into the speaker is to be recorded from now on; `None`: no longer.
    Record(Option<super::Recording>),
}

/// A learned prefix and the next hops of its best paths; none if it is gone.
pub type LearnedRoute = (Prefix, NextHops);

/// What the speaker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAgent {
    /// First of all.
    Hello {
        /// [`VERSION`].
        version: u32,
    },
    /// The connection ends, for this reason.
    Refused {
        /// In words.
        reason: String,
    },
    /// Learned prefixes that are new, changed or gone.
    Learned(#[serde(with = "mirror::routes")] Vec<LearnedRoute>),
    /// Every learned prefix has been told: those the agent has from earlier and that were not named are gone.
    LearnedInSync,
    /// The withdrawals of this number, and everything before them, have been handed to the peers' sockets.
    Withdrawn {
        /// The number.
        seq: u64,
    },
    /// The state of every peer; said when one changes.
    PeerStates(Vec<PeerState>),
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

/// A peer in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerState {
    /// Its address.
    pub address: IpAddr,
    /// The session's state as RFC 4271 names it.
    pub state: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// The last error in words.
    pub last_error: Option<String>,
    /// Prefixes accepted from it.
    pub prefixes_in: u64,
    /// Prefixes advertised to it.
    pub prefixes_out: u64,
}

impl PeerState {
    /// Whether the session is up.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.state == "Established"
    }
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A frame is too long.
    #[error("a frame of {0} bytes is longer than {FRAME_LIMIT}: agent and speaker are not of one version")]
    TooLong(usize),
    /// A frame does not hold one message.
    #[error("a frame of {length} bytes is no message ({reason}): agent and speaker are not of one version")]
    Malformed {
        /// Its length.
        length: usize,
        /// What postcard says.
        reason: String,
    },
}

/// Appends a message as one frame.
///
/// # Errors
/// If the frame would be longer than [`FRAME_LIMIT`]; then `out` is as before.
pub fn encode<T: Serialize>(message: &T, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let written = postcard::to_io(message, &mut *out).map(|_| ());
    let length = out.len() - start - 4;
    let result = match (written, u32::try_from(length)) {
        (Ok(()), Ok(header)) if length <= FRAME_LIMIT => {
            out[start..start + 4].copy_from_slice(&header.to_be_bytes());
            return Ok(());
        }
        (Ok(()), _) => ProtocolError::TooLong(length),
        (Err(error), _) => ProtocolError::Malformed { length, reason: error.to_string() },
    };
    out.truncate(start);
    Err(result)
}

/// Bytes as they came, taken apart into messages.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    taken: usize,
}

impl Frames {
    /// Where the next bytes are to be appended, with room for 64 KiB.
    pub fn room(&mut self) -> &mut Vec<u8> {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.reserve(64 << 10);
        &mut self.bytes
    }

    /// The next message, if it is there as a whole.
    ///
    /// # Errors
    /// If the bytes are no message. There is no way on after this.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ProtocolError> {
        let rest = &self.bytes[self.taken..];
        let Some((header, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
        if length > FRAME_LIMIT {
            return Err(ProtocolError::TooLong(length));
        }
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        let malformed = |reason: String| ProtocolError::Malformed { length, reason };
        let (message, extra) = postcard::take_from_bytes(frame).map_err(|error| malformed(error.to_string()))?;
        if !extra.is_empty() {
            return Err(malformed(format!("{} bytes too many", extra.len())));
        }
        self.taken += 4 + length;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests;

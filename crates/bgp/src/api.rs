//! What goes into a [`Speaker`](crate::Speaker) and what comes out of it: connections by number, octets, next hops.

use crate::bfd;
use lasthop_net::{NextHops, Prefix};
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

/// A TCP connection. The speaker numbers those it asks for (even), the driver those it accepted (odd);
/// a number is used once in the life of a speaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How this speaker came to life (RFC 4724 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nothing is known of a life before: the host forwards nothing that we once announced.
    Cold,
    /// The process restarted while the kernel kept forwarding: peers are told so, and paths are chosen once they have told us everything.
    Restarted,
}

/// How a speaker stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Administrative shutdown (RFC 4486 subcode 2): peers drop our routes at once.
    Cease,
    /// Close without a NOTIFICATION: peers that do graceful restart keep our routes for the restart time.
    KeepRoutes,
}

/// Attributes of an own route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// LOCAL_PREF towards internal peers.
    pub local_pref: u32,
    /// MULTI_EXIT_DISC, if any.
    pub med: Option<u32>,
}

impl Default for Origin {
    fn default() -> Self {
        Self { local_pref: 100, med: None }
    }
}

/// Octets to send; clones share them, so peers with the same view share one encoding.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(Arc<[u8]>);

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({} octets)", self.0.len())
    }
}

/// What the driver tells the speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The connection asked for by [`Output::Connect`] is up.
    Connected {
        /// Which one.
        conn: ConnId,
        /// The address at the other end.
        peer: IpAddr,
        /// Our address on it; a link-local one with its link ([`lasthop_net::scoped`]).
        local: IpAddr,
    },
    /// The connection asked for did not come up.
    ConnectFailed {
        /// Which one.
        conn: ConnId,
        /// The address asked for.
        peer: IpAddr,
        /// Why, in words.
        error: String,
    },
    /// Someone connected to our port. An address that is no peer's is answered with [`Output::Close`].
    Accepted {
        /// The driver's number for it.
        conn: ConnId,
        /// The address at the other end.
        peer: IpAddr,
        /// Our address on it.
        local: IpAddr,
    },
    /// Octets arrived. [`Speaker::receive`](crate::Speaker::receive) does the same without owning them.
    Received {
        /// On which connection.
        conn: ConnId,
        /// In order, cut anywhere.
        bytes: Vec<u8>,
    },
    /// The connection is gone (end of file, reset, local error).
    Closed {
        /// Which one.
        conn: ConnId,
        /// Why, in words.
        reason: String,
    },
    /// The driver's send queue is over its mark: make no more UPDATEs for it.
    Congested {
        /// Which one.
        conn: ConnId,
    },
    /// The send queue is under its mark again.
    Drained {
        /// Which one.
        conn: ConnId,
    },
    /// A peer's liveness changed (RFC 5882): one that is no longer heard is gone at once.
    Liveness {
        /// Which.
        peer: IpAddr,
        /// The session's state.
        state: bfd::State,
        /// Why it left Up.
        diagnostic: bfd::Diagnostic,
    },
    /// [`Speaker::next_timeout`](crate::Speaker::next_timeout) has come.
    Timeout,
}

/// What the speaker asks of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Open a TCP connection and answer with [`Input::Connected`] or [`Input::ConnectFailed`].
    Connect {
        /// The speaker's number for it.
        conn: ConnId,
        /// Where to.
        peer: IpAddr,
        /// From which address, if it matters.
        local: Option<IpAddr>,
        /// To which port.
        port: u16,
    },
    /// Send these octets.
    Send {
        /// On which connection.
        conn: ConnId,
        /// What.
        bytes: Bytes,
    },
    /// Send what is queued, then close. The speaker has forgotten the connection: no [`Input::Closed`] is expected (one does no harm).
    Close {
        /// Which one.
        conn: ConnId,
    },
    /// The best learned paths to a prefix (never own routes); no next hop means it is gone.
    Learned {
        /// The prefix.
        prefix: Prefix,
        /// In ascending order, each once.
        next_hops: NextHops,
    },
    /// Once after the start: all peers that can be reached have told us everything, or the time for it is over.
    LearnedInSync,
    /// A BMP message for the monitoring station; only after [`Speaker::monitor`](crate::Speaker::monitor).
    Monitor(Vec<u8>),
    /// The status of a peer changed in a way an operator would notice.
    PeerChanged {
        /// Its address.
        peer: IpAddr,
    },
}

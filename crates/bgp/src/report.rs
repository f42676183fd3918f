//! What an operator can ask a speaker, answered in plain values and in words.

use lasthop_net::{Asn, Family, Prefix};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// The state of a peer (RFC 4271 section 8.2.2), of its furthest connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerState {
    /// Waiting before the next try, or stopped.
    Idle,
    /// A TCP connection is being opened.
    Connect,
    /// Waiting for the peer to connect.
    Active,
    /// Our OPEN is sent.
    OpenSent,
    /// Its OPEN is accepted, its KEEPALIVE is awaited.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "Idle",
            Self::Connect => "Connect",
            Self::Active => "Active",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        })
    }
}

/// What both sides agreed on in their OPENs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NegotiatedReport {
    /// The peer's BGP identifier.
    pub router_id: Ipv4Addr,
    /// Families of both sides.
    pub families: Vec<Family>,
    /// The lower of both; zero: no keepalives.
    pub hold_time: Duration,
    /// Capabilities of both sides, in words ("route refresh", "4-octet AS", …).
    pub capabilities: Vec<String>,
    /// The peer's restart time and the families it keeps forwarding, if it does graceful restart.
    pub graceful_restart: Option<(Duration, Vec<Family>)>,
}

/// Where graceful restart stands with a peer (RFC 4724).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartStatus {
    /// Nothing is going on.
    #[default]
    None,
    /// The peer is gone and its routes are kept until then.
    PeerAway {
        /// When they will be dropped.
        until: Instant,
    },
    /// Its restart time is over, and its routes are kept as the last choice until then (RFC 9494).
    LongLived {
        /// When the last of them will be dropped.
        until: Instant,
    },
    /// The peer is back and its routes are kept until its End-of-RIB.
    AwaitingEndOfRib,
    /// We restarted and wait for its End-of-RIB before paths are chosen.
    Deferring,
}

impl fmt::Display for RestartStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::PeerAway { .. } => "peer away, its routes kept",
            Self::LongLived { .. } => "peer away for long, its routes kept as the last choice",
            Self::AwaitingEndOfRib => "peer back, its stale routes kept until End-of-RIB",
            Self::Deferring => "we restarted, awaiting its End-of-RIB",
        })
    }
}

/// What happened in numbers since the peer was configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// Messages received, of all kinds.
    pub messages_in: u64,
    /// Messages sent, of all kinds.
    pub messages_out: u64,
    /// UPDATE messages received.
    pub updates_in: u64,
    /// UPDATE messages sent.
    pub updates_out: u64,
    /// UPDATEs whose routes were treated as withdrawn (RFC 7606).
    pub treated_as_withdraw: u64,
    /// Attributes discarded (RFC 7606).
    pub attributes_discarded: u64,
    /// Times the session came up.
    pub established: u64,
    /// Times it went down.
    pub lost: u64,
}

/// A peer as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its address.
    pub address: IpAddr,
    /// Its AS as configured.
    pub asn: Asn,
    /// Our AS in this session.
    pub local_asn: Asn,
    /// Where the session stands.
    pub state: PeerState,
    /// Since when its session is up, or is not.
    pub since: Instant,
    /// Why the last session or try failed, in words.
    pub last_error: Option<String>,
    /// Our address on the connection, once there is one.
    pub local_address: Option<IpAddr>,
    /// What was negotiated, once Established.
    pub negotiated: Option<NegotiatedReport>,
    /// Prefixes it advertises to us, refused ones included.
    pub prefixes_in: usize,
    /// Prefixes we advertise to it.
    pub prefixes_out: usize,
    /// Prefixes it advertises that we refuse (loops, our own next hop).
    pub prefixes_refused: usize,
    /// Prefixes kept from before its restart.
    pub prefixes_stale: usize,
    /// Graceful restart.
    pub restart: RestartStatus,
    /// What BFD says of it, where it is asked.
    pub bfd: Option<crate::bfd::State>,
    /// What an operator should know of: a missing policy, nearly too many prefixes.
    pub notes: Vec<String>,
    /// Counters.
    pub counters: PeerCounters,
    /// How often its sessions ended in which way.
    pub endings: BTreeMap<crate::Ending, u64>,
}

/// Who a path is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathSource {
    /// An own route.
    Local,
    /// Learned from the peer with this address.
    Peer(IpAddr),
}

impl fmt::Display for PathSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("own route"),
            Self::Peer(address) => address.fmt(f),
        }
    }
}

/// What the decision made of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathVerdict {
    /// It is the best one.
    Best,
    /// It equals the best one and is used beside it.
    Multipath,
    /// Another one is better, for this reason.
    Lost(crate::Loss),
    /// It is never used, for this reason.
    Refused(crate::Refusal),
    /// It is never used: this rule of the import policy rejects it.
    Filtered(String),
}

impl fmt::Display for PathVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Best => f.write_str("best"),
            Self::Multipath => f.write_str("used beside the best (equal cost)"),
            Self::Lost(loss) => loss.fmt(f),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Filtered(rule) => write!(f, "the import policy rejects it ({rule})"),
        }
    }
}

/// One path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathReport {
    /// Where it leads.
    pub prefix: Prefix,
    /// Who it is from.
    pub from: PathSource,
    /// Its next hop; unspecified for own routes.
    pub next_hop: IpAddr,
    /// Its attributes in words: ("AS_PATH", "64513 64514"), …
    pub attributes: Vec<(&'static str, String)>,
    /// Kept from before the peer's restart.
    pub stale: bool,
    /// Best, or why not.
    pub verdict: PathVerdict,
}

/// Whether and why (not) a prefix is advertised to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdvertisedReport {
    /// The peer.
    pub peer: IpAddr,
    /// The next hop advertised, or why nothing is.
    pub outcome: Result<IpAddr, crate::NotAdvertised>,
}

/// Everything about one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhyReport {
    /// The prefix asked for.
    pub prefix: Prefix,
    /// Its paths, best first.
    pub paths: Vec<PathReport>,
    /// Each peer, by address.
    pub advertised: Vec<AdvertisedReport>,
    /// The longest other prefix with a path that covers it.
    pub covered_by: Option<Prefix>,
    /// Next hops handed to the agent.
    pub next_hops: Vec<IpAddr>,
}

//! Why a path lost, was refused or is not advertised: types first, words by `Display`.

use lasthop_net::Prefix;
use std::net::{IpAddr, Ipv4Addr};

/// The step of the decision process (RFC 4271 section 9.1.2.2, RFC 4456 section 9) at which a path lost to the best one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// Own routes win.
    #[error("an own route wins over learned ones")]
    OwnRoute,
    /// RFC 9494 section 4.3.
    #[error("kept from before a long restart of where it comes from (llgr-stale)")]
    LongLivedStale,
    /// The highest LOCAL_PREF wins.
    #[error("LOCAL_PREF {path} is lower than {best}")]
    LocalPref {
        /// This path's.
        path: u32,
        /// The best path's.
        best: u32,
    },
    /// The shortest AS_PATH wins.
    #[error("AS_PATH length {path} is longer than {best}")]
    AsPathLength {
        /// This path's.
        path: usize,
        /// The best path's.
        best: usize,
    },
    /// The lowest ORIGIN wins.
    #[error("ORIGIN is worse (IGP before EGP before INCOMPLETE)")]
    Origin,
    /// The lowest MULTI_EXIT_DISC among paths of one neighbouring AS wins.
    #[error("MULTI_EXIT_DISC {path} is higher than {best} of the same neighbouring AS")]
    Med {
        /// This path's.
        path: u32,
        /// The lowest one of that AS.
        best: u32,
    },
    /// eBGP wins over iBGP.
    #[error("learned from an internal peer, and an external one has it")]
    Internal,
    /// The lowest identifier wins, ORIGINATOR_ID in the place of the peer's.
    #[error("identifier {path} is higher than {best}")]
    Identifier {
        /// This path's.
        path: Ipv4Addr,
        /// The best path's.
        best: Ipv4Addr,
    },
    /// The shortest CLUSTER_LIST wins.
    #[error("CLUSTER_LIST length {path} is longer than {best}")]
    ClusterList {
        /// This path's.
        path: usize,
        /// The best path's.
        best: usize,
    },
    /// The lowest path identifier of one peer wins.
    #[error("path identifier {path} is higher than {best} of the same peer")]
    PathId {
        /// This path's.
        path: u32,
        /// The best path's.
        best: u32,
    },
    /// The lowest peer address wins.
    #[error("peer address {path} is higher than {best}")]
    PeerAddress {
        /// This path's.
        path: IpAddr,
        /// The best path's.
        best: IpAddr,
    },
}

/// Why a learned path is never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// RFC 4271 section 9.1.2: AS loop.
    #[error("our own AS is in its AS_PATH")]
    AsLoop,
    /// RFC 4456 section 8.
    #[error("its ORIGINATOR_ID is ours: we announced it ourselves")]
    OwnOriginator,
    /// RFC 4456 section 8.
    #[error("our cluster id is in its CLUSTER_LIST: it went through us already")]
    ClusterLoop,
    /// RFC 4271 section 6.3.
    #[error("its next hop is one of our own addresses")]
    OwnNextHop,
    /// RFC 9234 section 5.
    #[error("a route leak: its OTC attribute says that it must not come from a peer of this role")]
    RoleLeak,
    /// RFC 8212.
    #[error("no import policy is configured for this external peer (RFC 8212): give it one, if only to accept all")]
    NoPolicy,
    /// A rule of the import policy, or none that accepts it.
    #[error("the import policy rejects it")]
    Policy,
}

/// Why a prefix is not advertised to a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdvertised {
    /// The session is not up.
    #[error("the session is not Established")]
    NotEstablished,
    /// The family was not negotiated.
    #[error("the session does not carry this family")]
    Family,
    /// There is no usable path.
    #[error("there is no usable path to it")]
    NoPath,
    /// There is none, but one to a prefix around it.
    #[error("there is no path to exactly it; {0} covers it")]
    Covered(Prefix),
    /// Split horizon.
    #[error("the best path was learned from this peer")]
    LearnedFromIt,
    /// RFC 4271 section 9.2.1, RFC 4456 section 6.
    #[error("learned from an internal peer, and neither of the two is our route-reflection client")]
    InternalToInternal,
    /// RFC 1997.
    #[error("it carries the community {0}")]
    Community(&'static str),
    /// RFC 8950.
    #[error("its next hop is an IPv6 address, and this peer takes none for IPv4 (RFC 8950)")]
    ExtendedNextHop,
    /// RFC 9234 section 5.
    #[error("it may go to customers only (OTC), which this peer is not")]
    OnlyToCustomers,
    /// RFC 9494 section 4.3.
    #[error("it is kept from before a long restart, and this peer does not know of that (RFC 9494)")]
    LongLivedStale,
    /// RFC 8212.
    #[error("no export policy is configured for this external peer (RFC 8212): give it one, if only to accept all")]
    NoPolicy,
    /// A rule of the export policy, by name, or none that accepts it.
    #[error("the export policy rejects it ({0})")]
    Policy(String),
    /// There is no address of ours to put in.
    #[error("we have no address of this family to announce as next hop: set it for this peer")]
    NoNextHop,
    /// RFC 4724 section 4.1.
    #[error("we restarted and wait for the peers' End-of-RIB before we choose paths")]
    Deferred,
    /// The attributes alone fill a message.
    #[error("its attributes do not fit into the longest message that the peer takes")]
    TooLong,
    /// About to be sent.
    #[error("waiting for the peer to read what was sent before")]
    Queued,
}

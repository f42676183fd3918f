//! The shape of what a host ought to hold.

use crate::{Sysctl, SysctlValue};
use lasthop_bgp::config::{PeerConfig, SpeakerConfig};
use lasthop_model::{EndpointKey, EndpointToHost, SecretRef};
use lasthop_net::{IfName, Mac, Metric, NextHops, Prefix};
use lasthop_policy::ir::{HostPolicy, PolicyChanges};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Everything that one host's kernel and BGP speaker ought to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Workload links: to be marked as ours, given their MAC and brought up once guarded.
    pub links: BTreeMap<IfName, Link>,
    /// Routes of the main table.
    pub routes: BTreeMap<Prefix, Route>,
    /// Where else an address of a local workload is, as BGP has learned: the way to it while the workload's link is absent.
    /// A workload that has left, or has yet to come, does not keep its traffic from where it is.
    pub elsewhere: BTreeMap<Prefix, Route>,
    /// Metric of every route in [`Self::routes`].
    pub metric: Metric,
    /// Permanent neighbour entries.
    pub neighbours: BTreeMap<(IfName, IpAddr), Mac>,
    /// Kernel settings.
    pub sysctls: BTreeMap<Sysctl, SysctlValue>,
    /// The addresses and prefixes that a workload link may use as source.
    pub sources: BTreeSet<Source>,
    /// What guards links by name prefix, also those that no endpoint is known for.
    pub guard: Guard,
    /// Who may talk to whom.
    pub policy: HostPolicy,
    /// Outgoing NAT.
    pub nat: Nat,
    /// The ways to peers that configuration names, before those that BGP has learned.
    pub gateways: BTreeMap<Prefix, NextHops>,
    /// What the BGP speaker should hold. `None` until configuration says who we are.
    pub bgp: Option<BgpIntent>,
    /// What may be advertised once the kernel has acknowledged its route.
    pub advertise: BTreeSet<Prefix>,
    /// What is wrong, by object.
    pub findings: BTreeMap<String, Finding>,
}

/// A workload link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The endpoint that it belongs to.
    pub endpoint: EndpointKey,
    /// The MAC address the host's side ought to have; `None` leaves it.
    pub host_mac: Option<Mac>,
}

/// A route of the main table. One prefix has one owner: a local workload before a learned path before nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// To a workload of this host: `dev <link> scope link`, protocol [`lasthop_net::RouteProtocol::DIRECT`].
    /// Takes the place of whatever else has the same key.
    Direct {
        /// The workload's link.
        link: IfName,
    },
    /// Through other hosts, protocol [`lasthop_net::RouteProtocol::LEARNED`]. Yields to a foreign route with the same prefix.
    Remote {
        /// One or more (equal) next hops.
        next_hops: NextHops,
    },
    /// A pool's range where no host has the address: unreachable, so that it never loops to the default
    /// route. Protocol [`lasthop_net::RouteProtocol::LEARNED`]. Yields to a foreign route with the same prefix.
    Unreachable,
}

/// A source that a link may use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// The link.
    pub link: IfName,
    /// The address or prefix.
    pub prefix: Prefix,
}

/// The fixed skeleton's parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Name prefixes of workload links.
    pub link_prefixes: BTreeSet<String>,
    /// What traffic from a workload to its own host meets.
    pub endpoint_to_host: EndpointToHost,
}

/// Outgoing NAT: masqueraded if the source is in `sources` and the destination outside `inside`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// Pools with outgoing NAT.
    pub sources: BTreeSet<Prefix>,
    /// All pools.
    pub inside: BTreeSet<Prefix>,
}

/// What the BGP speaker should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpIntent {
    /// Who we are.
    pub speaker: SpeakerConfig,
    /// Whom we talk to.
    pub peers: BTreeMap<IpAddr, PeerIntent>,
    /// The secrets that sessions of this host need, whether it has them or not.
    pub secrets: BTreeSet<SecretRef>,
}

/// A peer, and why we have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIntent {
    /// What the speaker needs.
    pub config: PeerConfig,
    /// `mesh`, or the name of the BGPPeer.
    pub because: String,
}

/// Why an object is not, or not wholly, in force.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// Another endpoint has the address and keeps it.
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// Who has it.
        by: EndpointKey,
    },
    /// Another endpoint has the link and keeps it.
    LinkTaken {
        /// The link.
        link: IfName,
        /// Who has it.
        by: EndpointKey,
    },
    /// The link's name carries none of the workload prefixes, so nothing would guard it.
    LinkUnguarded {
        /// The link.
        link: IfName,
        /// The prefixes.
        prefixes: Vec<String>,
    },
    /// The resource does not parse; quarantined.
    Invalid {
        /// Why.
        reason: String,
    },
    /// No Node resource for this host.
    NodeUnknown,
    /// A peering, or a part of one, cannot be set up.
    PeerUnusable {
        /// Why.
        reason: String,
    },
}

/// Which keys may have changed since the last time changes were taken. Only saves work: what is right is
/// read from [`Desired`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Links.
    pub links: BTreeSet<IfName>,
    /// Routes.
    pub routes: BTreeSet<Prefix>,
    /// Neighbours.
    pub neighbours: BTreeSet<(IfName, IpAddr)>,
    /// Sysctls.
    pub sysctls: BTreeSet<Sysctl>,
    /// Sources.
    pub sources: BTreeSet<Source>,
    /// Policy.
    pub policy: PolicyChanges,
    /// Guard, NAT: rare, and small.
    pub skeleton: bool,
    /// Who we are in BGP, and our peers.
    pub bgp: bool,
    /// Prefixes to advertise or not.
    pub advertise: BTreeSet<Prefix>,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AddressTaken { address, by } => {
                write!(f, "{address} belongs to {by}, which comes first by name: give one of them another address")
            }
            Self::LinkTaken { link, by } => {
                write!(f, "interface {link} belongs to {by}, which comes first by name: delete one of them")
            }
            Self::LinkUnguarded { link, prefixes } => {
                let prefixes = prefixes.join(", ");
                write!(
                    f,
                    "interface {link} has none of the guarded name prefixes ({prefixes}): rename it, or set interfacePrefix"
                )
            }
            Self::Invalid { reason } | Self::PeerUnusable { reason } => f.write_str(reason),
            Self::NodeUnknown => {
                f.write_str("there is no Node resource of this name: create one with spec.bgp.ipv4Address")
            }
        }
    }
}

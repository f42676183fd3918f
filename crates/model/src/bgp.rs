//! BGP configuration and peers.

use crate::filter::RouteCommunity;
use crate::selector::Selector;
use crate::{NodeName, SettingsScope};
use lasthop_net::{Asn, Prefix};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// BGP as configured for the cluster (`BGPConfiguration` named `default`) or for one node, whose fields go over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpConfiguration {
    /// For whom.
    pub scope: SettingsScope,
    /// The AS of every node that does not say otherwise. Of the cluster.
    pub asn: Asn,
    /// Whether all nodes that are no reflectors peer with each other. Of the cluster.
    pub mesh: bool,
    /// The secret of the mesh's sessions. Of the cluster.
    pub mesh_password: Option<SecretRef>,
    /// How long the mesh's peers keep routes while one of them restarts. Of the cluster.
    pub mesh_restart_time: Option<Duration>,
    /// Ranges of services, which members of the cluster may announce. Of the cluster.
    pub services: Vec<Prefix>,
    /// The TCP port of our speakers, if not [`Self::PORT`].
    pub port: Option<u16>,
    /// On which addresses our speakers listen; all, if not said.
    pub bind: Option<BindMode>,
    /// The communities that prefixes are announced with.
    pub advertisements: Option<Vec<PrefixAdvertisement>>,
    /// Fields that are set and cannot be honoured, as paths.
    pub unsupported: Vec<String>,
}

impl BgpConfiguration {
    /// The TCP port unless one is configured.
    pub const PORT: u16 = 179;
}

impl Default for BgpConfiguration {
    fn default() -> Self {
        Self {
            scope: SettingsScope::Default,
            asn: Asn(64512),
            mesh: true,
            mesh_password: None,
            mesh_restart_time: None,
            services: Vec::new(),
            port: None,
            bind: None,
            advertisements: None,
            unsupported: Vec::new(),
        }
    }
}

/// On which addresses a speaker listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindMode {
    /// All of the host's.
    All,
    /// Those of its Node.
    NodeAddress,
}

/// The communities that routes of a range are announced with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixAdvertisement {
    /// The range.
    pub prefix: Prefix,
    /// The communities.
    pub communities: Vec<RouteCommunity>,
}

/// A key in a secret. Its content is no resource: each host has it as a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretRef {
    /// The secret's name.
    pub name: String,
    /// The key in it.
    pub key: String,
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.key)
    }
}

/// A configured peering (`BGPPeer`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpPeer {
    /// `metadata.name`.
    pub name: String,
    /// The nodes this peering is for.
    pub nodes: NodeMatch,
    /// Whom they peer with.
    pub target: PeerTarget,
    /// Overrides our AS in this session.
    pub local_asn: Option<Asn>,
    /// What next hop we announce.
    pub next_hop: NextHopMode,
    /// Hold time is three times this.
    pub keepalive: Option<Duration>,
    /// How long the peer keeps our routes while we restart.
    pub restart_time: Option<Duration>,
    /// The secret of its sessions.
    pub password: Option<SecretRef>,
    /// From which address we connect.
    pub source: SourceAddress,
    /// How many hops away it may be at most (RFC 5082), if that is checked.
    pub ttl_security: Option<u8>,
    /// How often our own AS may be in what it announces.
    pub allowed_own_as: u8,
    /// The gateway to it, where the host has no way of its own.
    pub reachable_by: Option<IpAddr>,
    /// Names of filters, in order.
    pub filters: Vec<String>,
    /// Whether nodes that it names peer back.
    pub reverse: ReversePeering,
}

/// From which address a node connects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceAddress {
    /// That of its Node.
    #[default]
    Node,
    /// The one that the kernel chooses.
    Any,
}

/// Whether a node that a peering names has that peering too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReversePeering {
    /// It has.
    #[default]
    Auto,
    /// Only if another peering says so.
    Manual,
}

/// Which nodes a peering is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeMatch {
    /// All of them.
    All,
    /// One.
    Named(NodeName),
    /// Those whose labels match.
    Selected(Selector),
}

/// Whom to peer with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerTarget {
    /// A router.
    Address {
        /// Its address.
        address: IpAddr,
        /// Its TCP port, if not the cluster's.
        port: Option<u16>,
        /// Its AS; ours if not said.
        asn: Option<Asn>,
    },
    /// Nodes by label; their address and AS come from the Node resources.
    Nodes(Selector),
    /// Workloads of the peering nodes, by label; they open the connection.
    Workloads {
        /// Which ones.
        selector: Selector,
        /// Their AS.
        asn: Asn,
    },
    /// Nobody: the API allows a peering without a peer.
    Nobody,
}

/// What next hop is announced to a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NextHopMode {
    /// Self towards eBGP peers, unchanged when reflecting.
    #[default]
    Auto,
    /// Always this node.
    OurSelf,
    /// Never changed.
    Keep,
}

//! BGP configuration and peers.

use crate::selector::Selector;
use crate::{NodeName, SettingsScope};
use lasthop_net::Asn;
use std::net::IpAddr;
use std::time::Duration;

/// The cluster's BGP configuration (`BGPConfiguration` named `default`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpConfiguration {
    /// For whom: what is in force is the one for every node (`default`).
    pub scope: SettingsScope,
    /// The AS of every node that does not say otherwise.
    pub asn: Asn,
    /// Whether all nodes that are no reflectors peer with each other.
    pub mesh: bool,
    /// The TCP port of our speakers.
    pub port: u16,
}

impl Default for BgpConfiguration {
    fn default() -> Self {
        Self { scope: SettingsScope::Default, asn: Asn(64512), mesh: true, port: 179 }
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

//! Who this node is in BGP, and whom it talks to: the mesh, configured peers, and their reverse side.

use crate::{BgpIntent, Finding, PeerIntent, Snapshot};
use lasthop_bgp::config::{Drain, NextHop, PeerConfig, ReflectMode, SpeakerConfig};
use lasthop_model::{BgpConfiguration, BgpPeer, NextHopMode, Node, NodeMatch, NodeName, PeerTarget};
use lasthop_net::{Asn, Family};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// How long peers keep our routes while our speaker restarts.
const RESTART_TIME: Duration = Duration::from_secs(120);
/// How long a restarted speaker waits for its peers' routes.
const DEFERRAL: Duration = Duration::from_secs(60);
/// Hold time unless a peer says otherwise.
const HOLD_TIME: Duration = Duration::from_secs(90);

/// What `node`'s speaker should hold; `None`, with a finding, if there is no such Node.
pub(crate) fn intent(
    snapshot: &Snapshot,
    node: &NodeName,
    findings: &mut BTreeMap<String, Finding>,
) -> Option<BgpIntent> {
    let Some(me) = snapshot.nodes.get(node) else {
        findings.insert(format!("this host, {node}"), Finding::NodeUnknown);
        return None;
    };
    let world = World { snapshot, me, config: snapshot.bgp.clone().unwrap_or_default() };
    let mut peers = BTreeMap::new();
    for (config, because) in world.mesh() {
        peers.insert(config.address, PeerIntent { config, because });
    }
    for peer in snapshot.peers.values() {
        match world.configured(peer) {
            Ok(configs) => peers.extend(
                configs.into_iter().map(|config| (config.address, PeerIntent { config, because: peer.name.clone() })),
            ),
            Err(finding) => {
                findings.insert(format!("BGPPeer/{}", peer.name), finding);
            }
        }
    }
    let speaker = SpeakerConfig {
        asn: world.asn_of(me),
        router_id: me.ipv4.unwrap_or_else(|| identifier(node)),
        cluster_id: me.cluster_id,
        port: world.config.port,
        restart_time: RESTART_TIME,
        deferral: DEFERRAL,
        drain: Drain::No,
    };
    Some(BgpIntent { speaker, peers })
}

/// An identifier for a node without IPv4 (RFC 6286: unique in the AS, not zero): FNV-1a of its name.
fn identifier(node: &NodeName) -> Ipv4Addr {
    let hash = node.as_str().bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    Ipv4Addr::from_bits(hash.max(1))
}

struct World<'a> {
    snapshot: &'a Snapshot,
    me: &'a Node,
    config: BgpConfiguration,
}

impl World<'_> {
    fn asn_of(&self, node: &Node) -> Asn {
        node.asn.unwrap_or(self.config.asn)
    }

    /// All nodes that are no reflectors, if the mesh is on and we are none.
    fn mesh(&self) -> Vec<(PeerConfig, String)> {
        if !self.config.mesh || self.me.cluster_id.is_some() {
            return Vec::new();
        }
        let others = self.snapshot.nodes.values().filter(|n| n.name != self.me.name && n.cluster_id.is_none());
        others.filter_map(|node| Some((self.node_peer(node)?, "mesh".to_owned()))).collect()
    }

    /// The sessions of one BGPPeer that have this node at either end.
    fn configured(&self, peer: &BgpPeer) -> Result<Vec<PeerConfig>, Finding> {
        let mut configs = Vec::new();
        let ours = self.matches(&peer.nodes, self.me);
        match &peer.target {
            PeerTarget::Address { address, port, asn } => {
                if ours && !self.is_me(*address) {
                    let asn = asn.unwrap_or_else(|| self.asn_of(self.me));
                    configs.push(self.router_peer(*address, *port, asn)?);
                }
                if self.is_me(*address) {
                    configs.extend(
                        self.others().filter(|n| self.matches(&peer.nodes, n)).filter_map(|n| self.node_peer(n)),
                    );
                }
            }
            PeerTarget::Nodes(selector) => {
                let theirs = selector.matches(&self.me.labels);
                for node in self.others() {
                    let forward = ours && selector.matches(&node.labels);
                    let reverse = theirs && self.matches(&peer.nodes, node);
                    if forward || reverse {
                        configs.extend(self.node_peer(node));
                    }
                }
            }
            PeerTarget::Workloads { .. } if ours => {
                return Err(Finding::PeerUnusable { reason: "peering with workloads is not supported yet".to_owned() });
            }
            PeerTarget::Nobody if ours => {
                let reason = "it names nobody to peer with; set spec.peerIP or spec.peerSelector".to_owned();
                return Err(Finding::PeerUnusable { reason });
            }
            PeerTarget::Workloads { .. } | PeerTarget::Nobody => {}
        }
        for config in &mut configs {
            config.local_asn = peer.local_asn;
            config.next_hop = match peer.next_hop {
                NextHopMode::Auto => NextHop::Auto,
                NextHopMode::OurSelf => NextHop::OurSelf,
                NextHopMode::Keep => NextHop::Keep,
            };
            config.hold_time = peer.keepalive.map_or(HOLD_TIME, |keepalive| keepalive * 3);
        }
        Ok(configs)
    }

    fn others(&self) -> impl Iterator<Item = &Node> {
        self.snapshot.nodes.values().filter(|node| node.name != self.me.name)
    }

    fn is_me(&self, address: IpAddr) -> bool {
        Family::ALL.into_iter().any(|family| self.me.address(family) == Some(address))
    }

    fn matches(&self, nodes: &NodeMatch, node: &Node) -> bool {
        match nodes {
            NodeMatch::All => true,
            NodeMatch::Named(name) => *name == node.name,
            NodeMatch::Selected(selector) => selector.matches(&node.labels),
        }
    }

    /// A session with another node, over IPv4 if both have it, else IPv6; it carries every family that both have.
    fn node_peer(&self, node: &Node) -> Option<PeerConfig> {
        let shared = |family: &Family| self.me.address(*family).is_some() && node.address(*family).is_some();
        let transport = Family::ALL.into_iter().find(shared)?;
        let address = node.address(transport)?;
        let mut config = self.peer(address, self.me.address(transport), self.asn_of(node));
        config.families = Family::ALL.into_iter().filter(shared).collect();
        // A reflector serves all but the members of its own cluster (RFC 4456 section 7).
        let client = self.me.cluster_id.is_some() && node.cluster_id != self.me.cluster_id;
        config.reflect =
            if client && config.asn == self.asn_of(self.me) { ReflectMode::Client } else { ReflectMode::NonClient };
        Some(config)
    }

    /// A session with a router that is configured by address. It may be one of our nodes.
    fn router_peer(&self, address: IpAddr, port: Option<u16>, asn: Asn) -> Result<PeerConfig, Finding> {
        let family = Family::of(address);
        let local = self.me.address(family).ok_or_else(|| Finding::PeerUnusable {
            reason: format!(
                "peer {address} needs an {family} address of node {}: set spec.bgp.{}Address",
                self.me.name,
                match family {
                    Family::V4 => "ipv4",
                    Family::V6 => "ipv6",
                }
            ),
        })?;
        let node = self.others().find(|node| node.address(family) == Some(address));
        let mut config = node
            .and_then(|node| self.node_peer(node))
            .filter(|config| config.address == address)
            .unwrap_or_else(|| self.peer(address, Some(local), asn));
        config.asn = asn;
        config.port = port.unwrap_or(config.port);
        if node.is_none() && self.me.cluster_id.is_some() && asn == self.asn_of(self.me) {
            config.reflect = ReflectMode::Client;
        }
        Ok(config)
    }

    fn peer(&self, address: IpAddr, local: Option<IpAddr>, asn: Asn) -> PeerConfig {
        PeerConfig {
            port: self.config.port,
            local_address: local,
            next_hop_v4: self.me.ipv4,
            next_hop_v6: self.me.ipv6,
            families: Family::ALL.into_iter().filter(|family| self.me.address(*family).is_some()).collect(),
            hold_time: HOLD_TIME,
            ..PeerConfig::new(address, asn).trusted()
        }
    }
}

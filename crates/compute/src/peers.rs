//! Who this node is in BGP, and whom it talks to: the mesh, configured peers, their reverse side, and workloads.
//!
//! For one address the first of these counts: a peering of all nodes, one of some, the reverse side of one, the mesh;
//! among equals the first by name.

mod passing;

use crate::{BgpIntent, Finding, PeerIntent, Route, Snapshot};
use lasthop_bgp::config::{Auth, ConnectMode, Drain, NextHop, PeerConfig, ReflectMode, Secret, SpeakerConfig, Ttl};
use lasthop_model::{
    BgpConfiguration, BgpPeer, BindMode, Drain as Stage, NextHopMode, Node, NodeMatch, NodeName, PeerTarget,
    PrefixAdvertisement, ReversePeering, SecretRef, SettingsScope, SourceAddress,
};
use lasthop_net::{Asn, Family, NextHops, Prefix};
use passing::{Class, Passing, Scope, Terms};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// How long peers keep our routes while our speaker restarts.
const RESTART_TIME: Duration = Duration::from_secs(120);
/// How long a restarted speaker waits for its peers' routes.
const DEFERRAL: Duration = Duration::from_secs(60);
/// Hold time unless a peer says otherwise.
const HOLD_TIME: Duration = Duration::from_secs(90);
/// The longest key of TCP MD5 (RFC 2385 section 4.5, as Linux has it).
const KEY_LIMIT: usize = 80;

/// What `node`'s speaker should hold; `None`, with a finding, if there is no such Node. `routes` say which
/// workloads have their addresses.
pub(crate) fn intent(
    snapshot: &Snapshot,
    node: &NodeName,
    (routes, findings): (&BTreeMap<Prefix, Route>, &mut BTreeMap<String, Finding>),
) -> Option<BgpIntent> {
    let Some(me) = snapshot.nodes.get(node) else {
        findings.insert(format!("this host, {node}"), Finding::NodeUnknown);
        return None;
    };
    let world = World { snapshot, me, cluster: snapshot.bgp.get(&SettingsScope::Default).cloned().unwrap_or_default() };
    let mut found = Found::default();
    for config in snapshot.bgp.values().filter(|config| concerns(&config.scope, node)) {
        if !config.unsupported.is_empty() {
            let about = format!("BGPConfiguration/{}", config.scope.name());
            found.problem(&about, format!("{}: without effect yet; remove it", config.unsupported.join(", ")));
        }
    }
    world.mesh(&mut found);
    for peer in snapshot.peers.values() {
        world.configured(peer, (routes, &mut found));
    }
    world.unsupported_filters(&mut found);
    for (about, reasons) in found.problems {
        findings.insert(about, Finding::PeerUnusable { reason: reasons.into_iter().collect::<Vec<_>>().join("; ") });
    }
    let mut passing = Passing::default();
    let mut peers = BTreeMap::new();
    for (address, Candidate { mut config, terms, because, .. }) in found.peers {
        [config.import, config.export] = passing.of(&world, terms);
        peers.insert(address, PeerIntent { config, because });
    }
    Some(BgpIntent { speaker: world.speaker(), peers, secrets: found.secrets })
}

/// The ways to peers that configuration names.
pub(crate) fn gateways(snapshot: &Snapshot, node: &NodeName) -> BTreeMap<Prefix, NextHops> {
    let Some(me) = snapshot.nodes.get(node) else { return BTreeMap::new() };
    let mut gateways = BTreeMap::new();
    for peer in snapshot.peers.values().filter(|peer| matches(&peer.nodes, me)) {
        if let (PeerTarget::Address { address, .. }, Some(gateway)) = (&peer.target, peer.reachable_by) {
            gateways.entry(Prefix::host(*address)).or_insert_with(|| NextHops::from(gateway));
        }
    }
    gateways
}

/// An identifier for a node without IPv4 (RFC 6286: unique in the AS, not zero): FNV-1a of its name.
fn identifier(node: &NodeName) -> Ipv4Addr {
    let hash = node.as_str().bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    Ipv4Addr::from_bits(hash.max(1))
}

fn concerns(scope: &SettingsScope, node: &NodeName) -> bool {
    match scope {
        SettingsScope::Default => true,
        SettingsScope::Node(name) => name == node,
        SettingsScope::Selected { .. } => false,
    }
}

fn matches(nodes: &NodeMatch, node: &Node) -> bool {
    match nodes {
        NodeMatch::All => true,
        NodeMatch::Named(name) => *name == node.name,
        NodeMatch::Selected(selector) => selector.matches(&node.labels),
    }
}

/// Why we have a peering: of two with one address the lesser one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    ForAll,
    ForSome,
    Reverse,
    Mesh,
}

/// A session that something asks for.
struct Candidate {
    rank: Rank,
    config: PeerConfig,
    terms: Terms,
    because: String,
}

/// What was found on the way.
#[derive(Default)]
struct Found {
    peers: BTreeMap<IpAddr, Candidate>,
    secrets: BTreeSet<SecretRef>,
    problems: BTreeMap<String, BTreeSet<String>>,
}

impl Found {
    fn problem(&mut self, about: &str, reason: impl Into<String>) {
        self.problems.entry(about.to_owned()).or_default().insert(reason.into());
    }

    fn add(&mut self, candidate: Candidate) {
        let address = candidate.config.address;
        // Mesh first, then peerings by name: an equal one that is there already comes first.
        if self.peers.get(&address).is_none_or(|known| candidate.rank < known.rank) {
            self.peers.insert(address, candidate);
        }
    }
}

struct World<'a> {
    snapshot: &'a Snapshot,
    me: &'a Node,
    cluster: BgpConfiguration,
}

impl World<'_> {
    fn speaker(&self) -> SpeakerConfig {
        let bind = self.own().and_then(|own| own.bind).or(self.cluster.bind);
        SpeakerConfig {
            asn: self.asn_of(self.me),
            router_id: self.me.ipv4.unwrap_or_else(|| identifier(&self.me.name)),
            cluster_id: self.me.cluster_id,
            port: self.port_of(&self.me.name),
            bind: match bind {
                Some(BindMode::NodeAddress) => Family::ALL.into_iter().filter_map(|f| self.me.address(f)).collect(),
                _ => BTreeSet::new(),
            },
            restart_time: RESTART_TIME,
            deferral: DEFERRAL,
            drain: if self.me.drain == Stage::No { Drain::No } else { Drain::Yes },
        }
    }

    fn asn_of(&self, node: &Node) -> Asn {
        node.asn.unwrap_or(self.cluster.asn)
    }

    /// What is configured for this node alone.
    fn own(&self) -> Option<&BgpConfiguration> {
        self.snapshot.bgp.get(&SettingsScope::Node(self.me.name.clone()))
    }

    fn port_of(&self, node: &NodeName) -> u16 {
        let own = self.snapshot.bgp.get(&SettingsScope::Node(node.clone()));
        own.and_then(|own| own.port).or(self.cluster.port).unwrap_or(BgpConfiguration::PORT)
    }

    fn advertisements(&self) -> &[PrefixAdvertisement] {
        let own = self.own().and_then(|own| own.advertisements.as_deref());
        own.or(self.cluster.advertisements.as_deref()).unwrap_or_default()
    }

    /// All nodes that are no reflectors, if the mesh is on and we are none.
    fn mesh(&self, found: &mut Found) {
        if !self.cluster.mesh || self.me.cluster_id.is_some() {
            return;
        }
        let auth = match self.auth(self.cluster.mesh_password.as_ref(), found) {
            Ok(auth) => auth,
            Err(reason) => {
                return found.problem("BGPConfiguration/default", format!("the mesh has no sessions: {reason}"));
            }
        };
        for node in self.others().filter(|node| node.cluster_id.is_none()) {
            let Some(mut config) = self.node_peer(node, self.asn_of(node)) else { continue };
            config.auth.clone_from(&auth);
            config.restart_time = self.cluster.mesh_restart_time;
            let terms = self.terms(&config, Vec::new());
            found.add(Candidate { rank: Rank::Mesh, config, terms, because: "mesh".to_owned() });
        }
    }

    /// The key in a secret, if one is asked for; never a session without it.
    fn auth(&self, reference: Option<&SecretRef>, found: &mut Found) -> Result<Option<Auth>, String> {
        let Some(reference) = reference else { return Ok(None) };
        if reference.name.is_empty() {
            return Err("its password names no secret, and there is no session without it: set secretKeyRef".to_owned());
        }
        found.secrets.insert(reference.clone());
        match self.snapshot.secrets.get(reference).map(Secret::reveal) {
            None => Err(format!(
                "this host does not have the secret {reference}, and there is no session without it: put it into \
                 <secretDirectory>/{reference}"
            )),
            Some(key) if key.is_empty() || key.len() > KEY_LIMIT => Err(format!(
                "the secret {reference} has {} bytes, and there is no session without it: write 1 to {KEY_LIMIT}",
                key.len()
            )),
            Some(key) => Ok(Some(Auth::Md5(Secret::new(key)))),
        }
    }

    /// The sessions of one BGPPeer that have this node at either end.
    fn configured(&self, peer: &BgpPeer, (routes, found): (&BTreeMap<Prefix, Route>, &mut Found)) {
        let about = format!("BGPPeer/{}", peer.name);
        let sessions = match self.sessions(peer, routes) {
            Ok(sessions) => sessions,
            Err(reason) => return found.problem(&about, reason),
        };
        if sessions.is_empty() {
            return;
        }
        let auth = match self.auth(peer.password.as_ref(), found) {
            Ok(auth) => auth,
            Err(reason) => return found.problem(&about, reason),
        };
        for name in peer.filters.iter().filter(|name| !self.snapshot.filters.contains_key(*name)) {
            found.problem(&about, format!("there is no BGPFilter {name}: it counts as one without rules; create it"));
        }
        if sessions.iter().any(|(.., may)| may.is_some()) {
            let reason = "sessions wait for workloads to connect, and the host's filter lets no workload reach the speaker's \
                          port in this version";
            found.problem(&about, reason);
        }
        for (rank, mut config, may) in sessions {
            config.auth.clone_from(&auth);
            self.settle(peer, &mut config);
            let mut terms = self.terms(&config, peer.filters.clone());
            if let Some(own) = may {
                terms.class = Class::Workload(own);
            }
            found.add(Candidate { rank, config, terms, because: peer.name.clone() });
        }
    }

    /// What a peering says of each of its sessions.
    fn settle(&self, peer: &BgpPeer, config: &mut PeerConfig) {
        config.next_hop = match peer.next_hop {
            NextHopMode::Auto => NextHop::Auto,
            NextHopMode::OurSelf => NextHop::OurSelf,
            NextHopMode::Keep => NextHop::Keep,
        };
        config.hold_time = peer.keepalive.map_or(HOLD_TIME, |keepalive| keepalive * 3);
        config.restart_time = peer.restart_time;
        config.ttl = peer.ttl_security.map_or(Ttl::Any, Ttl::Security);
        config.allowed_own_as = peer.allowed_own_as;
        if peer.source == SourceAddress::Any {
            config.local_address = None;
        }
    }

    fn sessions(&self, peer: &BgpPeer, routes: &BTreeMap<Prefix, Route>) -> Result<Vec<Session>, String> {
        let ours = matches(&peer.nodes, self.me);
        let rank = if peer.nodes == NodeMatch::All { Rank::ForAll } else { Rank::ForSome };
        let back = peer.reverse == ReversePeering::Auto;
        let mut sessions = Vec::new();
        match &peer.target {
            PeerTarget::Address { address, port, asn } => {
                if ours && !self.is_me(*address) {
                    let asn = asn.unwrap_or_else(|| self.asn_of(self.me));
                    let mut config = self.router_peer((*address, asn), peer)?;
                    config.port = port.unwrap_or(config.port);
                    sessions.push((rank, config, None));
                }
                if self.is_me(*address) && back {
                    for node in self.others().filter(|node| matches(&peer.nodes, node)) {
                        let asn = peer.local_asn.unwrap_or_else(|| self.asn_of(node));
                        sessions.extend(self.node_peer(node, asn).map(|config| (Rank::Reverse, config, None)));
                    }
                }
            }
            PeerTarget::Nodes(selector) => {
                let chosen = selector.matches(&self.me.labels);
                for node in self.others() {
                    let forward = ours && selector.matches(&node.labels);
                    let theirs = chosen && matches(&peer.nodes, node);
                    let rank = match (forward, theirs && back) {
                        (true, _) => rank,
                        (false, true) => Rank::Reverse,
                        (false, false) => continue,
                    };
                    let asn = peer.local_asn.filter(|_| theirs).unwrap_or_else(|| self.asn_of(node));
                    let Some(mut config) = self.node_peer(node, asn) else { continue };
                    config.local_asn = peer.local_asn.filter(|_| forward);
                    self.reflect(node.cluster_id, &mut config);
                    sessions.push((rank, config, None));
                }
            }
            PeerTarget::Workloads { selector, asn } if ours => {
                sessions = self.workloads(selector, (peer, *asn), routes);
            }
            PeerTarget::Nobody if ours => {
                return Err("it names nobody to peer with; set spec.peerIP or spec.peerSelector".to_owned());
            }
            PeerTarget::Workloads { .. } | PeerTarget::Nobody => {}
        }
        Ok(sessions)
    }

    fn others(&self) -> impl Iterator<Item = &Node> {
        self.snapshot.nodes.values().filter(|node| node.name != self.me.name)
    }

    fn is_me(&self, address: IpAddr) -> bool {
        Family::ALL.into_iter().any(|family| self.me.address(family) == Some(address))
    }

    /// Who a peer is to us, by address and AS.
    fn terms(&self, config: &PeerConfig, filters: Vec<String>) -> Terms {
        let inside = config.asn == config.local_asn.unwrap_or_else(|| self.asn_of(self.me));
        let family = Family::of(config.address);
        let member = inside || self.others().any(|node| node.address(family) == Some(config.address));
        Terms {
            class: if member { Class::Member } else { Class::Stranger },
            scope: if inside { Scope::Internal } else { Scope::External },
            filters,
        }
    }

    /// A session with another node, over IPv4 if both have it, else IPv6; it carries every family that both have.
    fn node_peer(&self, node: &Node, asn: Asn) -> Option<PeerConfig> {
        let shared = |family: &Family| self.me.address(*family).is_some() && node.address(*family).is_some();
        let transport = Family::ALL.into_iter().find(shared)?;
        let address = node.address(transport)?;
        let mut config = self.peer(address, self.me.address(transport), asn);
        config.families = Family::ALL.into_iter().filter(shared).collect();
        config.port = self.port_of(&node.name);
        self.reflect(node.cluster_id, &mut config);
        Some(config)
    }

    /// A reflector serves all of its AS but the members of its own cluster (RFC 4456 section 7).
    fn reflect(&self, theirs: Option<Ipv4Addr>, config: &mut PeerConfig) {
        let inside = config.asn == config.local_asn.unwrap_or_else(|| self.asn_of(self.me));
        let client = inside && self.me.cluster_id.is_some() && theirs != self.me.cluster_id;
        config.reflect = if client { ReflectMode::Client } else { ReflectMode::NonClient };
    }

    /// A session with a router that is configured by address. It may be one of our nodes.
    fn router_peer(&self, (address, asn): (IpAddr, Asn), peer: &BgpPeer) -> Result<PeerConfig, String> {
        let family = Family::of(address);
        let local = self.me.address(family);
        if local.is_none() && peer.source == SourceAddress::Node {
            return Err(format!(
                "peer {address} needs an {family} address of node {}: set spec.bgp.{}Address of the Node, or \
                 spec.sourceAddress: None",
                self.me.name,
                match family {
                    Family::V4 => "ipv4",
                    Family::V6 => "ipv6",
                }
            ));
        }
        let node = self.others().find(|node| node.address(family) == Some(address));
        let mut config = node
            .and_then(|node| self.node_peer(node, asn))
            .filter(|config| config.address == address)
            .unwrap_or_else(|| self.peer(address, local, asn));
        config.local_asn = peer.local_asn;
        self.reflect(node.and_then(|node| node.cluster_id), &mut config);
        Ok(config)
    }

    /// Sessions that workloads of this host open.
    fn workloads(
        &self,
        selector: &lasthop_model::selector::Selector,
        (peer, asn): (&BgpPeer, Asn),
        routes: &BTreeMap<Prefix, Route>,
    ) -> Vec<Session> {
        let mut sessions = Vec::new();
        for endpoint in self.snapshot.endpoints.values().filter(|endpoint| selector.matches(&endpoint.labels)) {
            let has = |address: &IpAddr| match routes.get(&Prefix::host(*address)) {
                Some(Route::Direct { link }) => *link == endpoint.link,
                _ => false,
            };
            let addresses: Vec<IpAddr> = endpoint.addresses.iter().copied().filter(has).collect();
            let own = addresses.iter().map(|address| Prefix::host(*address));
            let own: Vec<Prefix> = own.chain(endpoint.allowed_sources.iter().copied()).collect();
            for address in addresses {
                let mut config = self.peer(address, None, asn);
                config.connect = ConnectMode::Passive;
                config.local_asn = peer.local_asn;
                sessions.push((Rank::ForSome, config, Some(own.clone())));
            }
        }
        sessions
    }

    fn peer(&self, address: IpAddr, local: Option<IpAddr>, asn: Asn) -> PeerConfig {
        PeerConfig {
            port: self.cluster.port.unwrap_or(BgpConfiguration::PORT),
            local_address: local,
            next_hop_v4: self.me.ipv4,
            next_hop_v6: self.me.ipv6,
            families: Family::ALL.into_iter().filter(|family| self.me.address(*family).is_some()).collect(),
            hold_time: HOLD_TIME,
            ..PeerConfig::new(address, asn)
        }
    }

    /// Filters in use that ask for what paths do not have.
    fn unsupported_filters(&self, found: &mut Found) {
        let used: BTreeSet<String> = found.peers.values().flat_map(|peer| peer.terms.filters.iter().cloned()).collect();
        for filter in used.iter().filter_map(|name| self.snapshot.filters.get(name)) {
            for rule in filter.import.iter().chain(&filter.export).filter(|rule| rule.interface.is_some()) {
                let reason = format!(
                    "{}.interface: paths have no interface, so this rule allows nothing, and if it rejects, rejects all \
                     that the rest of it matches; remove it",
                    rule.path
                );
                found.problem(&format!("BGPFilter/{}", filter.name), reason);
            }
        }
    }
}

/// A session, by what right we have it, and what the peer may announce if that is limited.
type Session = (Rank, PeerConfig, Option<Vec<Prefix>>);

//! From BGP resources as users write them to sessions, and what passes in them between real speakers.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

#[path = "../../bgp/tests/common/mod.rs"]
mod common;
mod written;

use common::{Net, SECOND, prefix};
use lasthop_bgp::PeerState;
use lasthop_bgp::config::{Auth, ConnectMode, PeerConfig, Secret, SpeakerConfig, Ttl};
use lasthop_compute::{BgpIntent, Engine, Event, Route};
use lasthop_model::{Key, NodeName, SecretRef};
use lasthop_net::{Asn, NextHops};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;
use written::{NO_MESH, NODES, POOL, Written, event};

fn engine(node: &str, documents: &[Written<'_>]) -> Engine {
    let mut engine = Engine::new(node.parse::<NodeName>().unwrap());
    NODES.iter().chain(documents).for_each(|document| engine.apply(event(*document)));
    engine
}

fn intent(node: &str, documents: &[Written<'_>]) -> BgpIntent {
    engine(node, documents).desired().bgp.clone().unwrap()
}

fn peer(node: &str, documents: &[Written<'_>], address: &str) -> PeerConfig {
    let intent = intent(node, documents);
    let peer = intent.peers.get(&address.parse().unwrap());
    peer.unwrap_or_else(|| panic!("{node} has no {address}: {:?}", intent.peers.keys())).config.clone()
}

fn addresses(intent: &BgpIntent) -> Vec<(String, &str)> {
    intent.peers.iter().map(|(address, peer)| (address.to_string(), peer.because.as_str())).collect()
}

#[test]
fn every_field_of_a_peering_reaches_the_session() {
    let spec = |more: &str| format!("node: n1, peerIP: '192.0.2.1:1790', asNumber: 65001, {more}");
    let of = |more: &str| peer("n1", &[NO_MESH, ("BGPPeer", "tor", "", &spec(more))], "192.0.2.1");
    let plain = of("");
    assert_eq!((plain.asn, plain.port), (Asn(65001), 1790));
    assert_eq!(plain.local_address, Some("172.18.0.10".parse().unwrap()));
    type Change = fn(&mut PeerConfig);
    let cases: [(&str, Change); 9] = [
        ("localASNumber: 65010", |c| c.local_asn = Some(Asn(65010))),
        ("nextHopMode: Self", |c| c.next_hop = lasthop_bgp::config::NextHop::OurSelf),
        ("nextHopMode: Keep", |c| c.next_hop = lasthop_bgp::config::NextHop::Keep),
        ("sourceAddress: None", |c| c.local_address = None),
        ("ttlSecurity: 2", |c| c.ttl = Ttl::Security(2)),
        ("numAllowedLocalASNumbers: 3", |c| c.allowed_own_as = 3),
        ("maxRestartTime: 40s", |c| c.restart_time = Some(Duration::from_secs(40))),
        ("keepaliveTime: 5s", |c| c.hold_time = Duration::from_secs(15)),
        ("reachableBy: 192.0.2.254", |_| {}),
    ];
    for (more, change) in cases {
        let mut expected = plain.clone();
        change(&mut expected);
        assert_eq!(of(more), expected, "{more}");
    }
}

#[test]
fn global_before_chosen_before_reverse_before_mesh_and_the_first_by_name() {
    let global = ("BGPPeer", "z-global", "", "peerIP: 172.18.0.12, asNumber: 64512");
    let chosen = ("BGPPeer", "a-chosen", "", "node: n1, peerIP: 172.18.0.12, asNumber: 64512");
    let twin = ("BGPPeer", "b-chosen", "", "nodeSelector: rack == 'a', peerIP: 172.18.0.12, asNumber: 64512");
    let back = ("BGPPeer", "back", "", "node: n3, peerSelector: rack == 'a'");
    let mine = |documents: &[Written<'_>]| {
        let intent = intent("n1", documents);
        intent.peers.get(&"172.18.0.12".parse().unwrap()).map(|peer| peer.because.clone())
    };
    for (documents, because) in [
        (&[][..], Some("mesh")),
        (&[back], Some("back")),
        (&[twin, chosen, back], Some("a-chosen")),
        (&[chosen, global, back], Some("z-global")),
        (&[NO_MESH], None),
        (&[NO_MESH, back], Some("back")),
        (&[NO_MESH, ("BGPPeer", "back", "", "node: n3, peerSelector: rack == 'a', reversePeering: Manual")], None),
        (&[NO_MESH, ("BGPPeer", "back", "", "node: n3, peerIP: 172.18.0.10")], Some("back")),
        (&[NO_MESH, ("BGPPeer", "back", "", "node: n3, peerIP: 172.18.0.10, reversePeering: Manual")], None),
    ] {
        assert_eq!(mine(documents).as_deref(), because, "{documents:?}");
    }
}

#[test]
fn who_overrides_its_as_is_expected_with_it_by_the_other_end() {
    let documents =
        [NO_MESH, ("BGPPeer", "p", "", "node: n1, peerSelector: reflector == 'true', localASNumber: 65100")];
    let (here, there) = (peer("n1", &documents, "172.18.0.12"), peer("n3", &documents, "172.18.0.10"));
    assert_eq!((here.asn, here.local_asn), (Asn(64512), Some(Asn(65100))));
    assert_eq!((there.asn, there.local_asn), (Asn(65100), None));
}

#[test]
fn the_configuration_of_one_node_goes_over_the_clusters() {
    let documents = [
        ("BGPConfiguration", "default", "", "listenPort: 1790, bindMode: None, nodeMeshMaxRestartTime: 30s"),
        ("BGPConfiguration", "node.n2", "", "listenPort: 1791, bindMode: NodeIP"),
    ];
    let (one, two) = (intent("n1", &documents), intent("n2", &documents));
    assert_eq!((one.speaker.port, &one.speaker.bind), (1790, &[].into()));
    assert_eq!((two.speaker.port, &two.speaker.bind), (1791, &["172.18.0.11".parse::<IpAddr>().unwrap()].into()));
    assert_eq!(peer("n1", &documents, "172.18.0.11").port, 1791, "others know its port");
    assert_eq!(peer("n2", &documents, "172.18.0.10").restart_time, Some(Duration::from_secs(30)));
}

#[test]
fn without_its_secret_there_is_no_session_and_the_reason_is_told() {
    let secret = "secretKeyRef: {name: tor, key: password}";
    let spec = format!("node: n1, peerIP: 192.0.2.1, asNumber: 65001, password: {{{secret}}}");
    let mesh = format!("nodeMeshPassword: {{{secret}}}");
    let mut engine = engine("n1", &[("BGPPeer", "tor", "", &spec), ("BGPConfiguration", "default", "", &mesh)]);
    let reference = SecretRef { name: "tor".to_owned(), key: "password".to_owned() };
    let mut with = |content: Option<&str>| {
        engine.apply(Event::Secret { reference: reference.clone(), content: content.map(Secret::new) });
        let desired = engine.desired();
        let bgp = desired.bgp.as_ref().unwrap();
        assert_eq!(bgp.secrets, [reference.clone()].into(), "it is asked for in any case");
        let auth: Vec<_> = bgp.peers.values().map(|peer| peer.config.auth.clone()).collect();
        let findings: Vec<String> = desired.findings.iter().map(|(about, why)| format!("{about}: {why}")).collect();
        (auth, findings.join("\n"))
    };
    for (content, word) in [(None, "does not have the secret tor/password"), (Some(""), "has 0 bytes")] {
        let (auth, findings) = with(content);
        assert_eq!(auth, []);
        assert_eq!(findings.matches(word).count(), 2, "{findings}");
        assert!(findings.contains("BGPPeer/tor: ") && findings.contains("BGPConfiguration/default: "), "{findings}");
    }
    let key = |text: &str| Some(Auth::Md5(Secret::new(text)));
    assert_eq!(with(Some("hunter2")), (vec![key("hunter2"); 3], String::new()));
    assert_eq!(with(Some("other")).0, vec![key("other"); 3]);
    assert_eq!(with(None).0, []);
}

#[test]
fn a_password_that_names_no_secret_is_no_way_around_one() {
    let tor = ("BGPPeer", "tor", "", "node: n1, peerIP: 192.0.2.1, asNumber: 65001, password: {}");
    let engine = engine("n1", &[NO_MESH, tor]);
    assert_eq!(addresses(engine.desired().bgp.as_ref().unwrap()), []);
    assert!(engine.desired().findings["BGPPeer/tor"].to_string().contains("names no secret"));
}

#[test]
fn a_gateway_to_a_peer_is_a_route_before_what_the_peer_says_itself() {
    let tor = ("BGPPeer", "tor", "", "peerIP: 192.0.2.1, asNumber: 65001, reachableBy: 172.18.0.1");
    let mut engine = engine("n1", &[NO_MESH, tor]);
    let at = |engine: &Engine| engine.desired().routes.get(&prefix("192.0.2.1/32")).cloned();
    let gateway = |address: &str| NextHops::from(address.parse::<IpAddr>().unwrap());
    let route = Some(Route::Remote { next_hops: gateway("172.18.0.1") });
    assert_eq!(at(&engine), route);
    engine.apply(Event::Learned { prefix: prefix("192.0.2.1/32"), next_hops: gateway("192.0.2.1") });
    assert_eq!(at(&engine), route, "no recursion on itself");
    engine.apply(event(("BGPPeer", "tor", "", "peerIP: 192.0.2.1, asNumber: 65001")));
    assert_eq!(at(&engine), Some(Route::Remote { next_hops: gateway("192.0.2.1") }));
}

#[test]
fn what_has_no_effect_is_a_finding() {
    let documents = [
        ("BGPConfiguration", "default", "", "serviceClusterIPs: [{cidr: 10.96.0.0/12}]"),
        ("BGPPeer", "tor", "", "peerIP: 192.0.2.1, asNumber: 65001, filters: [absent, odd]"),
        ("BGPFilter", "odd", "", "importV4: [{action: Accept, interface: lh*}]"),
    ];
    let engine = engine("n1", &documents);
    for (about, words) in [
        ("BGPConfiguration/default", "spec.serviceClusterIPs: without effect yet"),
        ("BGPPeer/tor", "there is no BGPFilter absent"),
        ("BGPFilter/odd", "spec.importV4[0].interface: paths have no interface"),
    ] {
        let finding = engine.desired().findings.get(about).map(ToString::to_string).unwrap_or_default();
        assert!(finding.contains(words), "{about}: {finding}");
    }
}

/// n1 of a cluster, and a router at 172.18.0.11 that announces some prefixes to it.
struct Edge {
    net: Net,
    engine: Engine,
}

impl Edge {
    /// `asn`: the router's, in which it peers with n1 by the BGPPeer `tor`.
    fn new(asn: u32, documents: &[Written<'_>], announced: &[&str]) -> Self {
        let spec = format!("node: n1, peerIP: 172.18.0.11, asNumber: {asn}, filters: [f, g]");
        let mut engine = Engine::new("n1".parse().unwrap());
        let fixed = [NODES[0], NO_MESH, ("BGPPeer", "tor", "", spec.as_str())];
        fixed.iter().chain(documents).for_each(|document| engine.apply(event(*document)));
        let edge = Self::with(engine, asn, announced);
        edge.assert_steady();
        edge
    }

    fn with(engine: Engine, asn: u32, announced: &[&str]) -> Self {
        let mut net = Net::new();
        let (host, router) = (net.add(), net.add());
        net.nodes[router].config = SpeakerConfig { asn: Asn(asn), ..net.nodes[router].config.clone() };
        let address = net.nodes[host].address;
        net.nodes[router].peers.insert(address, PeerConfig::new(address, Asn(64512)).trusted());
        net.nodes[router].own = announced.iter().map(|text| prefix(text)).collect();
        net.nodes[host].own = ["10.65.0.1/32", "10.66.0.1/32"].map(prefix).into();
        let mut edge = Self { net, engine };
        edge.follow();
        edge.net.start_all();
        edge.net.run_for(SECOND * 60);
        edge
    }

    /// The host's speaker is told what compute says now.
    fn follow(&mut self) {
        let bgp = self.engine.desired().bgp.clone().unwrap();
        let host = &mut self.net.nodes[0];
        host.config = bgp.speaker;
        host.peers = bgp.peers.into_iter().map(|(address, peer)| (address, peer.config)).collect();
    }

    fn change(&mut self, document: Written<'_>) {
        self.engine.apply(event(document));
        self.tell();
    }

    /// Tells the host's speaker what compute says now; no session may notice.
    fn tell(&mut self) {
        self.follow();
        let peers: Vec<PeerConfig> = self.net.nodes[0].peers.values().cloned().collect();
        let config = self.net.nodes[0].config.clone();
        self.net.with(0, |speaker, now| {
            speaker.configure(now, config);
            peers.into_iter().for_each(|peer| speaker.set_peer(now, peer));
        });
        self.net.run_for(SECOND * 10);
        self.assert_steady();
    }

    fn assert_steady(&self) {
        for node in &self.net.nodes {
            let status = &node.speaker.as_ref().unwrap().peers()[0];
            assert_eq!((status.state, status.counters.lost), (PeerState::Established, 0), "{:?}", status.last_error);
        }
    }

    /// What the host has of the router's, in short, and how many it refuses.
    fn learned(&self) -> (Vec<String>, usize) {
        let host = &self.net.nodes[0];
        let refused = host.speaker.as_ref().unwrap().peers()[0].prefixes_refused;
        (host.learned.keys().map(ToString::to_string).collect(), refused)
    }

    fn attribute(&self, of: &str, name: &str) -> Option<String> {
        let paths = self.net.nodes[1].speaker.as_ref().unwrap().paths(Some(prefix(of)));
        let path = paths.iter().find(|path| path.from != lasthop_bgp::PathSource::Local)?;
        path.attributes.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    }
}

const ANNOUNCED: &[&str] =
    &["0.0.0.0/0", "10.65.7.7/32", "10.65.0.0/16", "10.0.0.0/8", "10.66.1.0/24", "203.0.113.0/24"];

#[test]
fn nothing_is_accepted_that_configuration_does_not_expect() {
    let services =
        ("BGPConfiguration", "default", "", "nodeToNodeMeshEnabled: false, serviceClusterIPs: [{cidr: 10.66.0.0/16}]");
    let accept = |spec| ("BGPFilter", "f", "", spec);
    type Case<'a> = (u32, &'a [Written<'a>], &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        // A stranger: the default route, and no address of ours.
        (65001, &[POOL], &["0.0.0.0/0"]),
        (65001, &[POOL, services], &["0.0.0.0/0"]),
        (65001, &[], &["0.0.0.0/0"]),
        // A reflector: pools and what else is configured.
        (64512, &[POOL], &["0.0.0.0/0", "10.65.0.0/16", "10.65.7.7/32"]),
        (64512, &[POOL, services], &["0.0.0.0/0", "10.65.0.0/16", "10.65.7.7/32", "10.66.1.0/24"]),
        // Who has no pools knows nothing to expect.
        (64512, &[], &["0.0.0.0/0", "10.0.0.0/8", "10.65.0.0/16", "10.65.7.7/32", "10.66.1.0/24", "203.0.113.0/24"]),
        // Filters: what none of their rules matches passes, but no address of our pools from a stranger.
        (
            65001,
            &[POOL, accept("importV4: [{action: Reject, cidr: 203.0.113.0/24, matchOperator: In}]")],
            &["0.0.0.0/0", "10.0.0.0/8", "10.66.1.0/24"],
        ),
        (
            65001,
            &[
                POOL,
                accept("importV4: [{action: Accept, cidr: 10.65.0.0/16, matchOperator: In, prefixLength: {min: 32}}]"),
            ],
            &["0.0.0.0/0", "10.0.0.0/8", "10.65.7.7/32", "10.66.1.0/24", "203.0.113.0/24"],
        ),
        (65001, &[POOL, accept("importV4: [{action: Reject}]")], &[]),
        (
            65001,
            &[POOL, accept("importV4: [{action: Reject, peerType: iBGP}]")],
            &["0.0.0.0/0", "10.0.0.0/8", "10.66.1.0/24", "203.0.113.0/24"],
        ),
        (65001, &[POOL, accept("importV6: [{action: Reject}]")], &["0.0.0.0/0"]),
        (65001, &[POOL, accept("importV4: [{action: Reject, interface: lh*}]")], &[]),
        // The first rule that matches decides, in the order of filters.
        (
            65001,
            &[POOL, ("BGPFilter", "g", "", "importV4: [{action: Accept}]"), accept("importV4: [{action: Reject}]")],
            &[],
        ),
        (
            65001,
            &[
                POOL,
                accept("importV4: [{action: Accept, cidr: 203.0.113.0/24, matchOperator: Equal}, {action: Reject}]"),
            ],
            &["203.0.113.0/24"],
        ),
        (
            65001,
            &[POOL, accept("importV4: [{action: Reject, cidr: 0.0.0.0/0, matchOperator: NotEqual}]")],
            &["0.0.0.0/0"],
        ),
        (
            65001,
            &[POOL, accept("importV4: [{action: Reject, cidr: 10.0.0.0/8, matchOperator: NotIn}]")],
            &["10.0.0.0/8", "10.66.1.0/24"],
        ),
        (
            65001,
            &[POOL, accept("importV4: [{action: Reject, asPathPrefix: [65002]}, {action: Reject, priority: 1024}]")],
            &[],
        ),
    ];
    for (asn, documents, expected) in cases {
        let edge = Edge::new(*asn, documents, ANNOUNCED);
        let (learned, refused) = edge.learned();
        assert_eq!(
            learned.iter().collect::<BTreeSet<_>>(),
            expected.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>().iter().collect(),
            "{asn} {documents:?}"
        );
        assert_eq!(refused, ANNOUNCED.len() - expected.len());
    }
    let edge = Edge::new(65001, &[POOL], ANNOUNCED);
    let paths = edge.net.nodes[0].speaker.as_ref().unwrap().paths(None);
    let why: BTreeMap<String, String> = paths.iter().map(|p| (p.prefix.to_string(), p.verdict.to_string())).collect();
    for (of, words) in [
        ("10.65.7.7/32", "inside our pool workloads, from a peer that is no member"),
        ("203.0.113.0/24", "nothing configured expects it"),
    ] {
        assert!(why[of].contains(words), "{of}: {}", why[of]);
    }
}

#[test]
fn a_host_shows_its_own_and_is_no_transit() {
    let shown = |documents: &[Written<'_>]| {
        let edge = Edge::new(65001, documents, &[]);
        edge.net.nodes[1].learned.keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(shown(&[POOL]), ["10.65.0.1/32", "10.66.0.1/32"]);
    let kept = ("IPPool", "workloads", "", "cidr: 10.65.0.0/16, disableBGPExport: true");
    assert_eq!(shown(&[kept]), ["10.66.0.1/32"]);
    let reject = "exportV4: [{action: Reject, cidr: 10.66.0.0/16, matchOperator: In}]";
    assert_eq!(shown(&[POOL, ("BGPFilter", "g", "", reject)]), ["10.65.0.1/32"]);
    assert_eq!(shown(&[POOL, ("BGPFilter", "f", "", "exportV4: [{action: Reject, source: RemotePeers}]")]).len(), 2);
    // A third speaker, inside: what it says of the pool goes on to the router, what else it says does not.
    let mut edge = Edge::new(65001, &[POOL, NODES[2], ("BGPPeer", "in", "", "node: n1, peerIP: 172.18.0.12")], &[]);
    let inside = edge.net.add();
    let address = edge.net.nodes[0].address;
    edge.net.nodes[inside].peers.insert(address, PeerConfig::new(address, Asn(64512)).trusted());
    edge.net.nodes[inside].own = ["10.65.9.9/32", "0.0.0.0/0"].map(prefix).into();
    edge.net.start(inside, lasthop_bgp::Start::Cold);
    edge.net.run_for(SECOND * 20);
    assert!(edge.net.nodes[0].learned.contains_key(&prefix("0.0.0.0/0")));
    let shown: Vec<String> = edge.net.nodes[1].learned.keys().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.65.0.1/32", "10.65.9.9/32", "10.66.0.1/32"]);
}

#[test]
fn who_drains_is_the_last_choice_first_and_then_silent() {
    let drained = |stage: &str| {
        let document = serde_json::json!({
            "apiVersion": "projectcalico.org/v3", "kind": "Node",
            "metadata": {"name": "n1", "annotations": {lasthop_model::Node::DRAIN: stage}},
            "spec": {"bgp": {"ipv4Address": "172.18.0.10/24"}},
        });
        Event::Put(Key::of(&document).unwrap(), lasthop_model::Resource::parse(&document).unwrap())
    };
    let mut edge = Edge::new(64512, &[POOL], &["0.0.0.0/0"]);
    edge.engine.apply(drained("last-choice"));
    edge.tell();
    assert_eq!(edge.attribute("10.65.0.1/32", "LOCAL_PREF").as_deref(), Some("0"));
    edge.engine.apply(drained("withdrawn"));
    edge.tell();
    assert!(edge.net.nodes[1].learned.is_empty());
    assert_eq!(edge.learned().0, ["0.0.0.0/0"], "it goes on learning");
    edge.change(NODES[0]);
    assert_eq!(edge.attribute("10.65.0.1/32", "LOCAL_PREF").as_deref(), Some("100"));
}

#[test]
fn communities_and_operations_are_visible_at_the_peer_once() {
    let configuration = (
        "BGPConfiguration",
        "default",
        "",
        "nodeToNodeMeshEnabled: false, communities: [{name: fast, value: '65000:1'}], \
         prefixAdvertisements: [{cidr: 10.65.0.0/16, communities: [fast, '65000:1:2']}]",
    );
    let operations = "exportV4: [{action: Accept, cidr: 10.65.0.0/16, matchOperator: In, operations: [\
         {addCommunity: {value: '65000:1'}}, {addCommunity: {value: '65000:9'}}, \
         {prependASPath: {prefix: [64512, 65099]}}, {setPriority: {value: 512}}]}]";
    let mut edge = Edge::new(65001, &[POOL, configuration], &[]);
    let of = |edge: &Edge, prefix, name| edge.attribute(prefix, name);
    assert_eq!(of(&edge, "10.65.0.1/32", "COMMUNITIES").as_deref(), Some("65000:1"));
    assert_eq!(of(&edge, "10.65.0.1/32", "LARGE_COMMUNITIES").as_deref(), Some("65000:1:2"));
    assert_eq!(of(&edge, "10.66.0.1/32", "COMMUNITIES"), None);
    edge.change(("BGPFilter", "f", "", operations));
    assert_eq!(of(&edge, "10.65.0.1/32", "COMMUNITIES").as_deref(), Some("65000:1 65000:9"));
    assert_eq!(of(&edge, "10.65.0.1/32", "AS_PATH").as_deref(), Some("64512 64512 65099"));
    assert_eq!(of(&edge, "10.66.0.1/32", "AS_PATH").as_deref(), Some("64512"));
    // Towards an internal peer the priority is LOCAL_PREF, turned round.
    let mut edge = Edge::new(64512, &[POOL], &[]);
    edge.change(("BGPFilter", "f", "", operations));
    assert_eq!(of(&edge, "10.65.0.1/32", "LOCAL_PREF").as_deref(), Some("2147483135"));
    assert_eq!(of(&edge, "10.66.0.1/32", "LOCAL_PREF").as_deref(), Some("100"));
}

#[test]
fn a_workload_opens_the_session_and_announces_only_what_it_may() {
    let workload = (
        "WorkloadEndpoint",
        "n1-k8s-web-eth0",
        "kind: router",
        "node: n1, orchestrator: k8s, pod: web, endpoint: eth0, interfaceName: lh1, \
         ipNetworks: [172.18.0.11/32], allowSpoofedSourcePrefixes: [10.70.0.0/24]",
    );
    let peering = (
        "BGPPeer",
        "w",
        "",
        "nodeSelector: all(), localWorkloadSelector: kind == 'router', asNumber: 65001, filters: [f]",
    );
    let filter = (
        "BGPFilter",
        "f",
        "",
        "importV4: [{action: Reject, cidr: 10.70.0.1/32, matchOperator: Equal}, {action: Accept}]",
    );
    let mut engine = Engine::new("n1".parse().unwrap());
    for document in [NODES[0], NO_MESH, POOL, workload, peering, filter] {
        engine.apply(event(document));
    }
    let bgp = engine.desired().bgp.clone().unwrap();
    assert_eq!(addresses(&bgp), [("172.18.0.11".to_owned(), "w")]);
    let finding = engine.desired().findings["BGPPeer/w"].to_string();
    assert!(finding.contains("the host's filter lets no workload reach the speaker's port"), "{finding}");
    let config = &bgp.peers.values().next().unwrap().config;
    assert_eq!((config.connect, config.local_address), (ConnectMode::Passive, None));
    let announced = ["0.0.0.0/0", "10.65.7.7/32", "10.70.0.0/24", "10.70.0.1/32", "10.70.0.2/32", "172.18.0.11/32"];
    let mut edge = Edge::with(engine, 65001, &announced);
    let (learned, refused) = edge.learned();
    assert_eq!(
        (learned.as_slice(), refused),
        (["10.70.0.0/24", "10.70.0.2/32", "172.18.0.11/32"].map(str::to_owned).as_slice(), 3)
    );
    // It goes, and so does its session.
    edge.engine.apply(Event::Gone(
        Key::of(&serde_json::json!({
            "apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
            "metadata": {"name": "n1-k8s-web-eth0", "namespace": "default"}
        }))
        .unwrap(),
    ));
    assert_eq!(addresses(edge.engine.desired().bgp.as_ref().unwrap()), []);
}

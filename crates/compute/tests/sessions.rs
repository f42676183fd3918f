//! What changes of resources do to sessions, field by field.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod written;

use lasthop_compute::Event;
use lasthop_model::Key;
use std::collections::{BTreeMap, BTreeSet};
use written::{NODES, POOL, Written, event};

/// What changes of every field of every resource that sessions depend on do to the session between n1 and n2 (or `tor`).
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn every_field_says_what_a_change_of_it_does_to_sessions() {
    use lasthop_compute::SessionEffect::{self, GoesOn, Later, Resets, Starts, Stops};
    let resources = |documents: &[Written<'_>]| -> BTreeMap<Key, lasthop_model::Resource> {
        let put = |document: &Written<'_>| match event(*document) {
            Event::Put(key, resource) => (key, resource),
            other => panic!("{other:?}"),
        };
        documents.iter().map(put).collect()
    };
    let base = [
        ("BGPConfiguration", "default", "", ""),
        NODES[0],
        NODES[1],
        POOL,
        ("BGPPeer", "tor", "", "node: n1, peerIP: 192.0.2.1, asNumber: 65001, filters: [f]"),
        ("BGPFilter", "f", "", "importV4: [{action: Accept}]"),
    ];
    let tor = |more: &str| format!("node: n1, peerIP: 192.0.2.1, asNumber: 65001, filters: [f], {more}");
    let node = |more: &str| format!("bgp: {{ipv4Address: 172.18.0.10/24, {more}}}");
    let on = |effect: SessionEffect| Some(effect);
    // Kind, its spec, and what the change does to n1's session with the router, and to that with n2.
    let cases: Vec<(&str, String, Option<SessionEffect>, Option<SessionEffect>)> = vec![
        ("BGPConfiguration", "asNumber: 64513".into(), on(Resets(vec!["asn"])), on(Resets(vec!["asn", "asn"]))),
        ("BGPConfiguration", "nodeToNodeMeshEnabled: false".into(), None, on(Stops)),
        (
            "BGPConfiguration",
            "listenPort: 1790".into(),
            on(GoesOn(vec!["port", "port"])),
            on(GoesOn(vec!["port", "port"])),
        ),
        ("BGPConfiguration", "bindMode: NodeIP".into(), on(GoesOn(vec!["bind"])), on(GoesOn(vec!["bind"]))),
        ("BGPConfiguration", "nodeMeshMaxRestartTime: 30s".into(), None, on(Later(vec!["restart_time"]))),
        (
            "BGPConfiguration",
            "nodeMeshPassword: {secretKeyRef: {name: a, key: b}}".into(),
            None,
            on(GoesOn(vec!["auth"])),
        ),
        (
            "BGPConfiguration",
            "prefixAdvertisements: [{cidr: 10.65.0.0/16, communities: ['1:2']}]".into(),
            on(GoesOn(vec!["export"])),
            on(GoesOn(vec!["import", "export"])),
        ),
        ("BGPConfiguration", "serviceClusterIPs: [{cidr: 10.96.0.0/12}]".into(), None, on(GoesOn(vec!["import"]))),
        ("BGPConfiguration", "logSeverityScreen: Debug".into(), None, None),
        ("BGPConfiguration", "ignoredInterfaces: [eth9]".into(), None, None),
        ("BGPPeer", "node: n2, peerIP: 192.0.2.1, asNumber: 65001".into(), on(Stops), None),
        ("BGPPeer", "nodeSelector: rack == 'a', peerIP: 192.0.2.1, asNumber: 65001, filters: [f]".into(), None, None),
        ("BGPPeer", "node: n1, peerIP: 192.0.2.2, asNumber: 65001, filters: [f]".into(), on(Stops), None),
        (
            "BGPPeer",
            "node: n1, peerIP: '192.0.2.1:1790', asNumber: 65001, filters: [f]".into(),
            on(GoesOn(vec!["port"])),
            None,
        ),
        ("BGPPeer", "node: n1, peerIP: 192.0.2.1, asNumber: 65002, filters: [f]".into(), on(Resets(vec!["asn"])), None),
        ("BGPPeer", "node: n1, peerSelector: all()".into(), on(Stops), on(GoesOn(vec![]))),
        ("BGPPeer", tor("localASNumber: 65010"), on(Resets(vec!["local_asn"])), None),
        ("BGPPeer", tor("nextHopMode: Self"), on(GoesOn(vec!["next_hop"])), None),
        ("BGPPeer", tor("keepOriginalNextHop: true"), on(GoesOn(vec!["next_hop"])), None),
        ("BGPPeer", tor("password: {secretKeyRef: {name: a, key: b}}"), on(GoesOn(vec!["auth"])), None),
        ("BGPPeer", tor("sourceAddress: None"), on(Resets(vec!["local_address"])), None),
        ("BGPPeer", tor("maxRestartTime: 30s"), on(Later(vec!["restart_time"])), None),
        ("BGPPeer", tor("keepaliveTime: 5s"), on(Later(vec!["hold_time"])), None),
        ("BGPPeer", tor("numAllowedLocalASNumbers: 2"), on(GoesOn(vec!["allowed_own_as"])), None),
        ("BGPPeer", tor("ttlSecurity: 1"), on(GoesOn(vec!["ttl"])), None),
        ("BGPPeer", tor("reachableBy: 172.18.0.1"), None, None),
        ("BGPPeer", tor("reversePeering: Manual"), None, None),
        ("BGPPeer", "node: n1, peerIP: 192.0.2.1, asNumber: 65001".into(), on(GoesOn(vec!["import"])), None),
        ("BGPFilter", "exportV4: [{action: Reject}]".into(), on(GoesOn(vec!["import", "export"])), None),
        ("BGPFilter", "importV4: [{action: Reject}]".into(), on(GoesOn(vec!["import"])), None),
        (
            "IPPool",
            "cidr: 10.65.0.0/16, disableBGPExport: true".into(),
            on(GoesOn(vec!["export"])),
            on(GoesOn(vec!["export"])),
        ),
        ("Node", node("asNumber: 64999"), on(Resets(vec!["asn"])), on(Resets(vec!["asn"]))),
        ("Node", node("routeReflectorClusterID: 1.1.1.1"), on(GoesOn(vec!["export", "cluster_id"])), on(Stops)),
        ("Node", node("ipv6Address: fd18::10/64"), on(Resets(vec!["families"])), on(GoesOn(vec!["next_hop_v6"]))),
        (
            "Node",
            "bgp: {ipv4Address: 172.18.0.99/24}".into(),
            on(Resets(vec!["local_address", "router_id"])),
            on(Resets(vec!["local_address", "router_id"])),
        ),
    ];
    let before = resources(&base);
    let mut covered: BTreeSet<(&str, String)> = BTreeSet::new();
    for (kind, spec, router, mesh) in &cases {
        let mut documents = base.to_vec();
        let place = documents.iter().position(|(known, ..)| known == kind).unwrap();
        documents[place].3 = spec;
        let changes = lasthop_compute::session_changes(&before, &resources(&documents));
        let of = |peer: &str| {
            let found = changes.iter().find(|change| change.node.as_str() == "n1" && change.peer.to_string() == peer);
            found.map(|change| change.effect.clone())
        };
        let mesh = mesh.clone().filter(|effect| *effect != GoesOn(vec![]));
        assert_eq!((of("192.0.2.1"), of("172.18.0.11")), (router.clone(), mesh), "{kind}: {spec}");
        covered.insert((kind, spec.clone()));
    }
    let mut more = base.to_vec();
    more.push(NODES[2]);
    let changes = lasthop_compute::session_changes(&before, &resources(&more));
    assert!(changes.len() == 4 && changes.iter().all(|change| change.effect == Starts), "{changes:?}");
    // A field that somebody adds to the API has to stand in this table.
    let unmentioned = |kind: &str, fields: &[&str]| -> Vec<String> {
        let of_kind: String =
            covered.iter().filter(|(known, _)| *known == kind).map(|(_, spec)| spec.as_str()).collect();
        fields.iter().filter(|field| !of_kind.contains(**field)).map(|field| (*field).to_owned()).collect()
    };
    let fields = |kind| lasthop_model::v3::fields_in_force(kind);
    for kind in [lasthop_model::Kind::BgpPeer, lasthop_model::Kind::BgpConfiguration] {
        let known: Vec<String> = fields(kind);
        let known: Vec<&str> = known
            .iter()
            .map(String::as_str)
            .filter(|field| *field != "localWorkloadSelector" && *field != "communities")
            .collect();
        assert!(known.len() > 5, "{known:?}");
        assert_eq!(unmentioned(kind.name(), &known), Vec::<String>::new(), "{kind}");
    }
}

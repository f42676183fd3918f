//! What `difference` says of two worlds is what one finds by trying every packet.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

mod worlds;

use lasthop_net::Family;
use lasthop_policy::World;
use lasthop_policy::decide::{Packet, Transport, Verdict};
use lasthop_policy::difference::{Difference, Effect, difference};
use lasthop_policy::journey::{Network, Party, Question};
use proptest::prelude::*;
use std::net::IpAddr;
use worlds::*;

/// Addresses on both sides of every prefix that rules of [`worlds`] name.
const OUTSIDE: [&str; 8] =
    ["10.65.0.0", "10.65.0.9", "198.51.100.1", "198.51.100.2", "203.0.113.1", "fd65::99", "2001:db8::1", "fd99::1"];

fn parties(world: &World) -> Vec<(Party, IpAddr)> {
    let mut parties = Vec::new();
    for endpoint in world.workloads.values() {
        parties.extend(endpoint.addresses.iter().map(|address| (Party::Workload(endpoint.key.clone()), *address)));
    }
    for (node, site) in sites() {
        parties.extend(site.interfaces.values().flatten().map(|address| (Party::Host(node.clone()), *address)));
    }
    parties.extend(OUTSIDE.iter().map(|address| (Party::Outside, address.parse().unwrap())));
    parties
}

fn transports(family: Family) -> Vec<Transport> {
    let mut all = Vec::new();
    for protocol in [6, 17] {
        for source in [80, 1000] {
            let ports = [21, 22, 53, 79, 80, 81, 90, 91, 442, 443, 65535];
            all.extend(ports.map(|destination| Transport::Ports { protocol, source, destination }));
        }
    }
    let protocol = if family == Family::V4 { 1 } else { 58 };
    all.extend([(8, 0), (8, 1), (7, 0), (9, 0)].map(|(kind, code)| Transport::Icmp { protocol, kind, code }));
    all.extend([Transport::Other(47), Transport::Other(50)]);
    all
}

fn node<'a>(world: &'a World, party: &'a Party) -> Option<&'a str> {
    match party {
        Party::Workload(key) => Some(world.workloads[key].node.as_str()),
        Party::Host(node) => Some(node.as_str()),
        Party::Outside => None,
    }
}

/// What the difference says of a packet; once at most.
fn said(difference: &Difference, (from, to): (&Party, &Party), packet: &Packet, same: [bool; 2]) -> Option<Effect> {
    let family = Family::of(packet.source);
    let mut told = difference.changes.iter().filter(|change| {
        change.families.contains(&family)
            && change.pairs.holds(same[0], same[1])
            && change.from.has(from, packet.source)
            && change.to.has(to, packet.destination)
            && change.traffic.has(packet.transport)
    });
    let first = told.next().map(|change| change.effect);
    assert_eq!(told.next().map(ToString::to_string), None, "told twice: {packet}");
    first
}

fn is_comparable(worlds: [&World; 2], party: &Party) -> bool {
    match party {
        Party::Workload(key) => worlds.iter().all(|world| world.workloads.contains_key(key)),
        _ => true,
    }
}

/// How many packets were judged differently.
fn check(before: &World, after: &World) -> usize {
    let networks = [before, after].map(|world| Network::new(world, sites()));
    let found = difference(&networks[0], &networks[1]);
    let mut differing = 0;
    for (from, source) in parties(before) {
        for (to, destination) in parties(before) {
            let pointless = from == to || Family::of(source) != Family::of(destination);
            if pointless || [&from, &to].iter().any(|party| !is_comparable([before, after], party)) {
                continue;
            }
            let same = [before, after].map(|world| {
                let here = node(world, &from);
                here.is_some() && here == node(world, &to)
            });
            for transport in transports(Family::of(source)) {
                let packet = Packet { source, destination, transport };
                let question = Question { from: from.clone(), to: to.clone(), packet, before_dnat: None };
                let verdicts = [0, 1].map(|n: usize| networks[n].journey(&question).verdict != Verdict::Deny);
                let expected = match verdicts {
                    [false, true] => Some(Effect::Gains),
                    [true, false] => Some(Effect::Loses),
                    _ => None,
                };
                differing += usize::from(expected.is_some());
                let changes: Vec<String> = found.changes.iter().map(ToString::to_string).collect();
                assert_eq!(
                    said(&found, (&from, &to), &packet, same),
                    expected,
                    "{from:?} → {to:?}: {packet}\n{}",
                    changes.join("\n")
                );
            }
        }
    }
    differing
}

/// A world in which workload 1 admits whom `app == 'office'` finds.
fn office(nets: &[&str]) -> World {
    let documents = [
        serde_json::json!({"apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint", "metadata": {"name": "w1", "namespace": "x"},
            "spec": {"node": "n1", "interfaceName": "lh1", "ipNetworks": ["10.65.0.1/32"]}}),
        serde_json::json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "p"},
            "spec": {"ingress": [{"action": "Allow", "protocol": "TCP", "source": {"selector": "app == 'office'"}}]}}),
        serde_json::json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet",
            "metadata": {"name": "office", "labels": {"app": "office"}}, "spec": {"nets": nets}}),
    ];
    world(&documents.map(|document| lasthop_model::Resource::parse(&document).unwrap()))
}

#[test]
fn a_member_of_a_set_is_a_change_though_no_policy_is() {
    let [before, after] = [office(&["198.51.100.0/24"]), office(&["198.51.100.0/25", "203.0.113.1/32"])];
    let networks = [&before, &after].map(|world| Network::new(world, sites()));
    let changes = difference(&networks[0], &networks[1]).changes;
    let lines: Vec<String> = changes.iter().map(ToString::to_string).collect();
    let expected =
        ["gains 203.0.113.1/32 → x/w1: TCP (IPv4)", "loses 198.51.100.0/24 (but 198.51.100.0/25) → x/w1: TCP (IPv4)"];
    assert_eq!(lines, expected);
    assert!(check(&before, &after) > 0);
}

#[test]
fn an_edit_of_rules_is_a_change_though_stacks_are_made_of_the_same_programs() {
    let one = |port: u16| {
        let documents = [
            serde_json::json!({"apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint", "metadata": {"name": "w1", "namespace": "x"},
                "spec": {"node": "n1", "interfaceName": "lh1", "ipNetworks": ["10.65.0.1/32"]}}),
            serde_json::json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "p"},
                "spec": {"ingress": [{"action": "Allow", "protocol": "TCP", "destination": {"ports": [port]}}]}}),
        ];
        world(&documents.map(|document| lasthop_model::Resource::parse(&document).unwrap()))
    };
    let [before, after] = [one(80), one(443)];
    assert!(check(&before, &after) > 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_difference_is_what_trying_every_packet_finds(resources in resources(), edits in prop::collection::vec(edit(), 1..3)) {
        let before = world(&resources);
        let after = world(&[resources, edits].concat());
        check(&before, &after);
        check(&after, &before);
    }

    #[test]
    fn two_worlds_of_nothing_in_common_are_compared(one in resources(), other in resources()) {
        check(&world(&one), &world(&other));
    }

    #[test]
    fn a_world_does_not_differ_from_itself(resources in resources()) {
        let world = world(&resources);
        let network = Network::new(&world, sites());
        prop_assert!(difference(&network, &network).is_empty());
    }
}

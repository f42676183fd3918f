//! Next hops of the other family and on the link: RFC 8950, RFC 2545, peering over link-local addresses.
#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it must be")]

mod common;

use common::prefix;
use common::raw::{Bench, RawOpen, attribute, hex, message, parameters, passive, sut_config, update};
use lasthop_bgp::config::{PeerConfig, Switch};
use lasthop_bgp::{ConnId, Input, NotAdvertised, Origin, Start};
use std::net::IpAddr;

const CAPABLE: &str = "0506 000100010002";

fn open(asn: u32, more: &str) -> RawOpen {
    let mut open = RawOpen::new(asn, [192, 0, 2, u8::try_from(asn % 250).unwrap()]);
    let known = open.parameters[3..].to_vec();
    open.parameters = parameters(&[known, hex(more)].concat());
    open
}

fn peer(address: &str, asn: u32) -> PeerConfig {
    PeerConfig {
        address: address.parse().unwrap(),
        interface: Some("eth0".parse().unwrap()),
        extended_next_hop: Switch::On,
        ..passive([0; 4], asn)
    }
}

/// Connects a peer; the speaker's address on it is this one.
fn connect(bench: &mut Bench, (conn, address, local): (u64, &str, &str), open: &RawOpen) -> ConnId {
    let conn = ConnId(conn);
    bench.input(Input::Accepted { conn, peer: address.parse().unwrap(), local: local.parse().unwrap() });
    bench.send(conn, &open.bytes());
    bench.send(conn, &message(4, &[]));
    conn
}

/// 203.0.113.0/24 by MP_REACH_NLRI with this next hop.
fn announce(hop: &str) -> Vec<u8> {
    let hop = hex(hop);
    let reach = [&hex("0001 01")[..], &[u8::try_from(hop.len()).unwrap()], &hop, &hex("00 18cb0071")].concat();
    let attributes =
        [attribute(0x80, 14, &reach), attribute(0x40, 1, &[0]), attribute(0x40, 2, &hex("0201 0000fde9"))].concat();
    update(&[], &attributes, &[])
}

fn bench(peers: &[PeerConfig]) -> Bench {
    let mut bench = Bench::new(sut_config(65000), Start::Cold);
    peers.iter().for_each(|peer| bench.set_peer(peer.clone()));
    bench.with(|speaker, now| {
        speaker.advertise(now, prefix("10.65.0.0/26"), Origin::default());
        speaker.own_routes_complete(now);
    });
    bench
}

#[test]
fn ipv4_goes_over_an_ipv6_next_hop_where_both_agreed() {
    for (agreed, capability) in [(true, CAPABLE), (false, "")] {
        let mut bench = bench(&[peer("fd00::2", 65001)]);
        let conn = connect(&mut bench, (1, "fd00::2", "fd00::1"), &open(65001, capability));
        let ours = bench.seen[&conn].routes.get(&prefix("10.65.0.0/26")).cloned();
        if agreed {
            assert_eq!(ours.unwrap()[&14].1[..20], hex("0001 01 10 fd000000000000000000000000000001"));
        } else {
            assert_eq!(ours, None);
            let why = bench.speaker.why(prefix("10.65.0.0/26"));
            assert_eq!(why.advertised[0].outcome, Err(NotAdvertised::NoNextHop));
        }
        bench.send(conn, &announce("fd000000000000000000000000000002"));
        if agreed {
            assert_eq!(bench.learned[&prefix("203.0.113.0/24")][..], ["fd00::2".parse::<IpAddr>().unwrap()]);
        } else {
            assert_eq!(bench.seen[&conn].notification().map(|n| (n.0, n.1)), Some((3, 9)));
        }
    }
}

#[test]
fn a_route_over_ipv6_is_passed_on_with_ourselves_as_next_hop_or_not_at_all() {
    // The next peer speaks IPv4: towards it we are the next hop ourselves, if it is external.
    for (asn, shown) in [(65002, true), (65000, false)] {
        let mut bench = bench(&[peer("fd00::2", 65001), passive([10, 99, 1, 3], asn)]);
        let conn = connect(&mut bench, (1, "fd00::2", "fd00::1"), &open(65001, CAPABLE));
        let other = connect(&mut bench, (3, "10.99.1.3", "10.99.1.1"), &open(asn, ""));
        bench.send(conn, &announce("fd000000000000000000000000000002"));
        let seen = bench.seen[&other].routes.get(&prefix("203.0.113.0/24"));
        assert_eq!(seen.map(|seen| seen[&3].1.clone()), shown.then(|| vec![10, 99, 1, 1]));
        let why = bench.speaker.why(prefix("203.0.113.0/24"));
        let outcome = why.advertised.iter().find(|a| a.peer == IpAddr::from([10, 99, 1, 3])).unwrap().outcome.clone();
        if !shown {
            assert_eq!(outcome, Err(NotAdvertised::ExtendedNextHop));
        }
    }
}

#[test]
fn over_link_local_addresses_next_hops_say_their_link_to_us_and_not_to_others() {
    let mut bench = bench(&[peer("fe80::2", 65001), passive([10, 99, 1, 3], 65000)]);
    // Link 7; the driver says so in the address.
    let conn = connect(&mut bench, (1, "fe80::2", "fe80:7::1"), &open(65001, CAPABLE));
    let other = connect(&mut bench, (3, "10.99.1.3", "10.99.1.1"), &open(65000, ""));
    let ours = &bench.seen[&conn].routes[&prefix("10.65.0.0/26")];
    assert_eq!(ours[&14].1[..20], hex("0001 01 10 fe800000000000000000000000000001"));
    for hop in [
        "fe800000000000000000000000000002",
        "00000000000000000000000000000000 fe800000000000000000000000000002",
        "fe800000000000000000000000000002 fe800000000000000000000000000002",
        // A link of theirs means nothing here.
        "fe800009000000000000000000000002",
    ] {
        bench.send(conn, &announce(hop));
        assert_eq!(bench.learned[&prefix("203.0.113.0/24")][..], ["fe80:7::2".parse::<IpAddr>().unwrap()], "{hop}");
        let seen = &bench.seen[&other].routes[&prefix("203.0.113.0/24")];
        assert_eq!(seen[&3].1, [10, 99, 1, 1], "an internal peer is not on that link");
        bench.send(conn, &update(&hex("18cb0071"), &[], &[]));
    }
    // Our own address is no next hop.
    bench.send(conn, &announce("fe800000000000000000000000000001"));
    assert!(bench.learned.is_empty());
}

#[test]
fn a_global_next_hop_has_the_one_on_the_link_beside_it() {
    let config = PeerConfig { next_hop_v6: Some("fd00::1".parse().unwrap()), ..peer("fe80::2", 65001) };
    let mut bench = bench(&[config]);
    bench.with(|speaker, now| speaker.advertise(now, prefix("fd65::/64"), Origin::default()));
    let conn = connect(&mut bench, (1, "fe80::2", "fe80:7::1"), &open(65001, CAPABLE));
    let value = &bench.seen[&conn].routes[&prefix("fd65::/64")][&14].1;
    let both = hex("0002 01 20 fd000000000000000000000000000001 fe800000000000000000000000000001");
    assert_eq!(value[..36], both);
}

//! What happens to the attributes of a route on its way through (RFC 4271 section 5, 6793, 1997, 4360, 4456), and how it is packed.

#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it must be")]

mod common;

use common::prefix;
use common::raw::{
    Bench, RawAttributes, RawOpen, SUT, attribute, hex, message, nlri, parameters, passive, sut_config, update,
};
use lasthop_bgp::config::{NextHop, PeerConfig, ReflectMode};
use lasthop_bgp::{ConnId, Input, NotAdvertised, Origin, Start};
use lasthop_net::{Asn, Family, NextHops, Prefix};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

const FROM: [u8; 4] = [10, 99, 1, 2];
const TO: [u8; 4] = [10, 99, 1, 3];

fn attributes(internal: bool, more: &[Vec<u8>]) -> Vec<u8> {
    let path = if internal { Vec::new() } else { hex("02010000fde9") };
    let mut out = [attribute(0x40, 1, &[0]), attribute(0x40, 2, &path), attribute(0x40, 3, &FROM)].concat();
    if internal {
        out.extend(attribute(0x40, 5, &200u32.to_be_bytes()));
    }
    out.extend(more.concat());
    out
}

fn route() -> Prefix {
    prefix("203.0.113.0/24")
}

fn value(raw: &RawAttributes, kind: u8) -> Option<String> {
    raw.get(&kind).map(|(_, value)| value.iter().map(|o| format!("{o:02x}")).collect())
}

/// A route from one peer, as it arrives at the other.
fn through(change: impl Fn(&mut PeerConfig, &mut PeerConfig), more: &[Vec<u8>]) -> Option<RawAttributes> {
    let mut bench = Bench::new(sut_config(65000), Start::Cold);
    let (mut from, mut to) = (passive(FROM, 65001), passive(TO, 65002));
    change(&mut from, &mut to);
    let (from_asn, to_asn) = (from.asn.0, to.asn.0);
    let internal = from_asn == 65000;
    bench.set_peer(from);
    bench.set_peer(to);
    let to = bench.connect(TO, &RawOpen::new(to_asn, [192, 0, 2, 200]));
    let from = bench.connect(FROM, &RawOpen::new(from_asn, [192, 0, 2, 100]));
    bench.send(from, &update(&[], &attributes(internal, more), &nlri(&[route()])));
    bench.seen[&to].routes.get(&route()).cloned()
}

#[test]
fn attributes_change_as_the_kinds_of_both_peers_say() {
    let med = attribute(0x80, 4, &[0, 0, 0, 9]);
    let external = |_: &mut PeerConfig, _: &mut PeerConfig| {};
    let to_internal = |_: &mut PeerConfig, to: &mut PeerConfig| to.asn = Asn(65000);
    let from_internal = |from: &mut PeerConfig, _: &mut PeerConfig| from.asn = Asn(65000);

    let seen = through(external, std::slice::from_ref(&med)).unwrap();
    assert_eq!(value(&seen, 2).unwrap(), "02020000fde80000fde9", "our AS in front, once");
    assert_eq!(value(&seen, 3).unwrap(), "0a630101", "our own address");
    assert_eq!((value(&seen, 4), value(&seen, 5)), (None, None), "no MED across, no LOCAL_PREF outside");

    let seen = through(to_internal, std::slice::from_ref(&med)).unwrap();
    assert_eq!(value(&seen, 2).unwrap(), "02010000fde9");
    assert_eq!(value(&seen, 3).unwrap(), "0a630102", "unchanged");
    assert_eq!((value(&seen, 4).unwrap(), value(&seen, 5).unwrap()), ("00000009".to_owned(), "00000064".to_owned()));
    assert_eq!((value(&seen, 9), value(&seen, 10)), (None, None), "not reflected");

    let reflected = attribute(0x80, 9, &[1, 1, 1, 1]);
    let seen = through(from_internal, &[reflected, attribute(0x80, 10, &[2, 2, 2, 2])]).unwrap();
    assert_eq!(value(&seen, 2).unwrap(), "02010000fde8");
    assert_eq!((value(&seen, 5), value(&seen, 9), value(&seen, 10)), (None, None, None));
}

#[test]
fn next_hop_modes_do_as_they_are_named_and_never_touch_reflected_routes() {
    for (mode, from_asn, to_asn, expect) in [
        (NextHop::Auto, 65001, 65002, "0a630101"),
        (NextHop::Keep, 65001, 65002, "0a630102"),
        (NextHop::OurSelf, 65001, 65002, "0a630101"),
        (NextHop::Auto, 65001, 65000, "0a630102"),
        (NextHop::OurSelf, 65001, 65000, "0a630101"),
        (NextHop::Keep, 65001, 65000, "0a630102"),
        (NextHop::OurSelf, 65000, 65000, "0a630102"),
        (NextHop::Auto, 65000, 65000, "0a630102"),
    ] {
        let seen = through(
            |from, to| {
                (from.asn, to.asn) = (Asn(from_asn), Asn(to_asn));
                (to.next_hop, to.reflect) = (mode, ReflectMode::Client);
            },
            &[],
        );
        assert_eq!(value(&seen.unwrap(), 3).unwrap(), expect, "{mode:?} from {from_asn} to {to_asn}");
    }
}

#[test]
fn well_known_communities_hold_a_route_back_and_others_pass() {
    for (community, outside, inside) in
        [("fde90001", true, true), ("ffffff01", false, true), ("ffffff02", false, false), ("ffffff03", false, true)]
    {
        let more = [attribute(0xc0, 8, &hex(community))];
        assert_eq!(through(|_, _| {}, &more).is_some(), outside, "{community}");
        let seen = through(|_, to| to.asn = Asn(65000), &more);
        assert_eq!(seen.as_ref().is_some(), inside, "{community}");
        if let Some(seen) = seen {
            assert_eq!(value(&seen, 8).unwrap(), community);
        }
    }
}

#[test]
fn a_non_transitive_extended_community_stays_in_the_as() {
    let more = [attribute(0xc0, 16, &hex("4004000000000001 0002fde900000001"))];
    assert_eq!(value(&through(|_, _| {}, &more).unwrap(), 16).unwrap(), "0002fde900000001");
    let inside = through(|_, to| to.asn = Asn(65000), &more).unwrap();
    assert_eq!(value(&inside, 16).unwrap(), "40040000000000010002fde900000001");
}

#[test]
fn internal_routes_go_to_internal_peers_by_reflection_only() {
    for (from_client, to_client, expect) in
        [(false, false, false), (false, true, true), (true, false, true), (true, true, true)]
    {
        let mode = |client: bool| if client { ReflectMode::Client } else { ReflectMode::NonClient };
        let seen = through(
            |from, to| {
                (from.asn, to.asn) = (Asn(65000), Asn(65000));
                (from.reflect, to.reflect) = (mode(from_client), mode(to_client));
            },
            &[],
        );
        assert_eq!(seen.is_some(), expect, "client {from_client} to client {to_client}");
    }
}

/// An OPEN of a 2-octet speaker.
fn old_open(asn2: u16, id: [u8; 4]) -> RawOpen {
    RawOpen { asn2, parameters: parameters(&hex("010400010001")), ..RawOpen::new(u32::from(asn2), id) }
}

#[test]
fn a_two_octet_peer_is_sent_as_trans_with_as4_path_and_its_own_is_merged() {
    let mut bench = Bench::new(sut_config(4_200_000_001), Start::Cold);
    for (address, asn) in [(FROM, 65001), (TO, 65002)] {
        bench.set_peer(passive(address, asn));
    }
    let old = bench.connect(TO, &old_open(65002, [192, 0, 2, 200]));
    let open = bench.seen[&old].open().unwrap();
    assert_eq!(open[1..3], [0x5b, 0xa0], "My AS is 23456");
    let new = bench.connect(FROM, &RawOpen::new(65001, [192, 0, 2, 100]));
    // From the 4-octet peer to the 2-octet one.
    let path = attribute(0x40, 2, &hex("0202 0000fde9 00011170"));
    let aggregator = attribute(0xc0, 7, &hex("00011170 01020304"));
    let said = [attribute(0x40, 1, &[0]), path, attribute(0x40, 3, &FROM), aggregator].concat();
    bench.send(new, &update(&[], &said, &nlri(&[route()])));
    let seen = &bench.seen[&old].routes[&route()];
    assert_eq!(value(seen, 2).unwrap(), "02035ba0fde95ba0");
    assert_eq!(value(seen, 17).unwrap(), "0203fa56ea010000fde900011170");
    assert_eq!(
        (value(seen, 7).unwrap(), value(seen, 18).unwrap()),
        ("5ba001020304".to_owned(), "0001117001020304".to_owned())
    );
    // And back.
    let other = prefix("198.51.100.0/24");
    let said = [
        attribute(0x40, 1, &[0]),
        attribute(0x40, 2, &hex("0203 fdea 5ba0 5ba0")),
        attribute(0x40, 3, &TO),
        attribute(0xc0, 17, &hex("0202 00011170 00011171")),
    ]
    .concat();
    bench.send(old, &update(&[], &said, &nlri(&[other])));
    assert_eq!(value(&bench.seen[&new].routes[&other], 2).unwrap(), "0204fa56ea010000fdea0001117000011171");
}

fn own(bench: &mut Bench, prefixes: &[Prefix]) {
    bench.with(|speaker, now| prefixes.iter().for_each(|p| speaker.advertise(now, *p, Origin::default())));
}

fn hosts(count: u32) -> Vec<Prefix> {
    (0..count).map(|n| Prefix::host(Ipv4Addr::from_bits(0x0a41_0000 + n).into())).collect()
}

/// Two clients of the speaker, Established.
fn clients() -> (Bench, ConnId, ConnId) {
    let mut bench = Bench::two_peers(true);
    let a = bench.connect(FROM, &RawOpen::new(65000, [192, 0, 2, 100]));
    let b = bench.connect(TO, &RawOpen::new(65000, [192, 0, 2, 200]));
    (bench, a, b)
}

#[test]
fn routes_told_in_one_go_share_messages_and_a_route_that_came_and_went_is_not_sent() {
    let (mut bench, a, _) = clients();
    let before = bench.seen[&a].count(2);
    own(&mut bench, &hosts(10_000));
    // 5 octets each, a little under 4096 a message.
    assert_eq!(bench.seen[&a].count(2) - before, 13);
    assert_eq!(bench.seen[&a].routes.len(), 10_000);
    let before = bench.seen[&a].count(2);
    bench.with(|speaker, now| {
        speaker.advertise(now, route(), Origin::default());
        speaker.withdraw(now, route());
        hosts(10_000).iter().for_each(|p| speaker.withdraw(now, *p));
        hosts(10_000).iter().for_each(|p| speaker.advertise(now, *p, Origin::default()));
    });
    assert_eq!(bench.seen[&a].count(2), before, "nothing has changed");
    bench.with(|speaker, now| hosts(10_000).iter().for_each(|p| speaker.withdraw(now, *p)));
    assert_eq!(bench.seen[&a].count(2) - before, 13);
    assert!(bench.seen[&a].routes.is_empty());
}

#[test]
fn route_refresh_sends_the_family_again_without_withdrawals() {
    let (mut bench, a, b) = clients();
    own(&mut bench, &hosts(3000));
    own(&mut bench, &[prefix("fd65::1/128")]);
    bench.send(a, &update(&[], &attributes(true, &[]), &nlri(&[route()])));
    for conn in [a, b] {
        let seen = bench.seen.get_mut(&conn).unwrap();
        seen.routes.clear();
        seen.withdrawn.clear();
    }
    bench.send(a, &message(5, &[0, 1, 0, 1]));
    assert_eq!(bench.seen[&a].routes.len(), 3000, "not its own route, not IPv6");
    assert!(bench.seen[&a].withdrawn.is_empty() && bench.seen[&b].routes.is_empty());
    bench.send(a, &message(5, &[0, 2, 0, 1]));
    assert_eq!(bench.seen[&a].routes.len(), 3001);
}

#[test]
fn a_congested_peer_is_told_only_the_present_state_when_it_reads_again_and_others_are_not_held_up() {
    let (mut bench, a, b) = clients();
    bench.input(Input::Congested { conn: a });
    let before = bench.seen[&a].count(2);
    for _ in 0..50 {
        own(&mut bench, &hosts(100));
        bench.with(|speaker, now| hosts(90).iter().for_each(|p| speaker.withdraw(now, *p)));
    }
    assert_eq!(bench.seen[&a].count(2), before);
    assert_eq!(bench.seen[&b].routes.len(), 10);
    bench.input(Input::Drained { conn: a });
    assert_eq!(bench.seen[&a].routes.len(), 10);
    assert!(bench.seen[&a].count(2) - before <= 2);
    own(&mut bench, &[route()]);
    assert!(bench.seen[&a].routes.contains_key(&route()), "in step with its group again");
}

#[test]
fn a_family_without_an_address_of_ours_is_not_advertised_and_said_so() {
    let mut bench = Bench::new(sut_config(65000), Start::Cold);
    bench.set_peer(passive(FROM, 65001));
    let conn = bench.connect(FROM, &RawOpen::new(65001, [192, 0, 2, 100]));
    let v6 = prefix("fd65::1/128");
    own(&mut bench, &[v6]);
    assert!(bench.seen[&conn].routes.is_empty());
    assert_eq!(bench.speaker.why(v6).advertised[0].outcome, Err(NotAdvertised::NoNextHop));
    let mut peer = passive(FROM, 65001);
    peer.next_hop_v6 = Some("fd00::1".parse().unwrap());
    bench.set_peer(peer);
    assert!(bench.seen[&conn].routes.contains_key(&v6), "hot: no reset needed");
}

#[test]
fn a_change_of_our_next_hop_or_cluster_is_told_without_a_reset() {
    let (mut bench, a, b) = clients();
    own(&mut bench, &[route()]);
    let mut peer = passive(FROM, 65000);
    peer.reflect = ReflectMode::Client;
    peer.next_hop_v4 = Some([10, 99, 1, 77].into());
    bench.set_peer(peer);
    assert_eq!(value(&bench.seen[&a].routes[&route()], 3).unwrap(), "0a63014d");
    assert_eq!(value(&bench.seen[&b].routes[&route()], 3).unwrap(), "0a630101");
    let learned = prefix("198.51.100.0/24");
    bench.send(a, &update(&[], &attributes(true, &[]), &nlri(&[learned])));
    assert_eq!(value(&bench.seen[&b].routes[&learned], 10).unwrap(), "c0000201");
    let mut config = sut_config(65000);
    config.cluster_id = Some([9, 9, 9, 9].into());
    bench.with(|speaker, now| speaker.configure(now, config));
    assert_eq!(value(&bench.seen[&b].routes[&learned], 10).unwrap(), "09090909");
    assert!(!bench.seen[&a].closed && !bench.seen[&b].closed);
}

#[test]
fn sessions_over_ipv6_carry_both_families_with_the_next_hops_set() {
    let mut bench = Bench::new(sut_config(65000), Start::Cold);
    let (theirs, ours): (IpAddr, IpAddr) = ("fd99::2".parse().unwrap(), "fd99::1".parse().unwrap());
    let mut peer = PeerConfig { address: theirs, ..passive(FROM, 65001) };
    peer.next_hop_v4 = Some(SUT);
    bench.set_peer(peer);
    let conn = ConnId(7);
    bench.input(Input::Accepted { conn, peer: theirs, local: ours });
    bench.send(conn, &RawOpen::new(65001, [192, 0, 2, 100]).bytes());
    bench.send(conn, &message(4, &[]));
    own(&mut bench, &[route(), prefix("fd65::/64")]);
    assert_eq!(value(&bench.seen[&conn].routes[&route()], 3).unwrap(), "0a630101");
    let v6 = value(&bench.seen[&conn].routes[&prefix("fd65::/64")], 14).unwrap();
    assert_eq!(v6, "00020110fd990000000000000000000000000001 00 40fd65000000000000".replace(' ', ""));
    let families = bench.speaker.peers()[0].negotiated.clone().unwrap().families;
    assert_eq!(BTreeSet::from_iter(families), BTreeSet::from(Family::ALL));
}

#[test]
fn equal_paths_are_used_side_by_side_and_own_routes_do_not_hide_them() {
    let (mut bench, a, b) = clients();
    let to = |hop: [u8; 4]| {
        [
            attribute(0x40, 1, &[0]),
            attribute(0x40, 2, &[]),
            attribute(0x40, 3, &hop),
            attribute(0x40, 5, &[0, 0, 0, 100]),
        ]
        .concat()
    };
    bench.send(a, &update(&[], &to([10, 99, 7, 2]), &nlri(&[route()])));
    bench.send(b, &update(&[], &to([10, 99, 7, 1]), &nlri(&[route()])));
    let both: NextHops = [[10, 99, 7, 1].into(), [10, 99, 7, 2].into()].into_iter().collect();
    assert_eq!(bench.learned[&route()], both);
    own(&mut bench, &[route()]);
    assert_eq!(bench.learned[&route()], both);
    bench.send(a, &update(&nlri(&[route()]), &[], &[]));
    assert_eq!(bench.learned[&route()][..], both[..1]);
}

#[test]
fn a_route_with_our_own_next_hop_or_loop_is_refused_in_words() {
    for (more, words) in [
        (attribute(0x80, 9, &SUT.octets()), "its ORIGINATOR_ID is ours: we announced it ourselves"),
        (attribute(0x80, 10, &[192, 0, 2, 1]), "our cluster id is in its CLUSTER_LIST: it went through us already"),
    ] {
        let (mut bench, a, b) = clients();
        bench.send(a, &update(&[], &attributes(true, &[more]), &nlri(&[route()])));
        assert!(bench.learned.is_empty() && bench.seen[&b].routes.is_empty());
        let why = bench.speaker.why(route());
        assert_eq!(why.paths[0].verdict.to_string(), words);
        assert_eq!(bench.speaker.peers()[0].prefixes_refused, 1);
    }
}

//! Graceful restart (RFC 4724): whose routes are kept, until when, and what waits for what after our own start.

#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it must be")]

mod common;

use common::raw::{Bench, RawOpen, attribute, hex, message, parameters, passive, sut_config, update};
use common::{SECOND, prefix};
use lasthop_bgp::config::{ConnectMode, PeerConfig};
use lasthop_bgp::{ConnId, Input, Origin, RestartStatus, Start};
use lasthop_net::Prefix;

const PEER: [u8; 4] = [10, 99, 1, 2];
const OTHER: [u8; 4] = [10, 99, 1, 3];
const ID: [u8; 4] = [192, 0, 2, 100];

/// An OPEN with a graceful restart capability of this value.
fn open(asn: u32, restart: &str) -> RawOpen {
    let value = hex(restart);
    let mut capabilities = hex("010400010001 010400020001 0200 4104");
    capabilities.extend(asn.to_be_bytes());
    if !value.is_empty() {
        capabilities.extend([64, u8::try_from(value.len()).unwrap()]);
        capabilities.extend(&value);
    }
    RawOpen { parameters: parameters(&capabilities), ..RawOpen::new(asn, ID) }
}

/// Both families, restart time 60 s, forwarding preserved.
const PRESERVED: &str = "003c 00010180 00020180";

fn v4(last: u8) -> (Prefix, Vec<u8>) {
    let attributes =
        [attribute(0x40, 1, &[0]), attribute(0x40, 2, &hex("02010000fde9")), attribute(0x40, 3, &PEER)].concat();
    (prefix(&format!("203.0.113.{last}/32")), update(&[], &attributes, &[32, 203, 0, 113, last]))
}

fn v6() -> (Prefix, Vec<u8>) {
    let reach = hex("0002 01 10 fd990000000000000000000000000002 00 40 fd65000000000000");
    let attributes =
        [attribute(0x40, 1, &[0]), attribute(0x40, 2, &hex("02010000fde9")), attribute(0x80, 14, &reach)].concat();
    (prefix("fd65::/64"), update(&[], &attributes, &[]))
}

fn end_of_rib() -> Vec<u8> {
    [update(&[], &[], &[]), update(&[], &hex("800f03000201"), &[])].concat()
}

/// A peer that told us 203.0.113.1, 203.0.113.2 and fd65::/64, and then everything.
fn told(restart: &str) -> (Bench, ConnId) {
    let mut bench = Bench::two_peers(false);
    let conn = bench.connect(PEER, &open(65001, restart));
    for (_, message) in [v4(1), v4(2), v6()] {
        bench.send(conn, &message);
    }
    bench.send(conn, &end_of_rib());
    assert_eq!(bench.learned.len(), 3);
    (bench, conn)
}

fn lose(bench: &mut Bench, conn: ConnId) {
    bench.input(Input::Closed { conn, reason: "connection reset by peer".to_owned() });
}

#[test]
fn routes_are_kept_only_if_tcp_is_lost_and_the_peer_does_graceful_restart_for_the_family() {
    for (name, restart, notification, kept) in [
        ("TCP lost", PRESERVED, false, 3),
        ("a NOTIFICATION", PRESERVED, true, 0),
        ("no capability", "", false, 0),
        ("capability without families", "003c", false, 0),
        ("IPv4 only", "003c 00010180", false, 2),
        ("IPv6 only", "003c 00020180", false, 1),
    ] {
        let (mut bench, conn) = told(restart);
        if notification {
            bench.send(conn, &message(3, &[6, 4]));
        } else {
            lose(&mut bench, conn);
        }
        assert_eq!(bench.learned.len(), kept, "{name}");
        assert_eq!(bench.speaker.peers()[0].prefixes_stale, kept, "{name}");
    }
}

#[test]
fn a_peer_that_does_not_come_back_is_swept_at_its_own_restart_time() {
    let (mut bench, conn) = told(PRESERVED);
    lose(&mut bench, conn);
    bench.run_for(SECOND * 60 - SECOND / 10);
    assert_eq!(bench.learned.len(), 3);
    assert!(matches!(bench.speaker.peers()[0].restart, RestartStatus::PeerAway { .. }));
    bench.run_for(SECOND / 5);
    assert!(bench.learned.is_empty());
    assert_eq!(bench.speaker.peers()[0].restart, RestartStatus::None);
}

#[test]
fn a_peer_that_comes_back_without_having_kept_forwarding_is_swept_at_once() {
    for (name, restart, kept) in [
        ("forwarding preserved", "803c 00010180 00020180", 3),
        ("F bit clear", "803c 00010100 00020100", 0),
        ("F bit clear for IPv6", "803c 00010180 00020100", 2),
        ("without IPv4", "803c 00020180", 1),
        ("without the capability", "", 0),
    ] {
        let (mut bench, conn) = told(PRESERVED);
        lose(&mut bench, conn);
        bench.run_for(SECOND * 5);
        bench.connect(PEER, &open(65001, restart));
        assert_eq!(bench.learned.len(), kept, "{name}");
    }
}

#[test]
fn what_is_not_announced_again_goes_at_end_of_rib_and_not_before() {
    let (mut bench, conn) = told(PRESERVED);
    lose(&mut bench, conn);
    let conn = bench.connect(PEER, &open(65001, PRESERVED));
    bench.send(conn, &v4(2).1);
    assert_eq!(bench.learned.len(), 3);
    assert_eq!(bench.speaker.peers()[0].prefixes_stale, 2);
    assert_eq!(bench.speaker.peers()[0].restart, RestartStatus::AwaitingEndOfRib);
    bench.send(conn, &update(&[], &[], &[]));
    assert_eq!(bench.learned.keys().copied().collect::<Vec<_>>(), [v4(2).0, v6().0], "IPv4 is complete");
    bench.send(conn, &end_of_rib());
    assert_eq!(bench.learned.keys().copied().collect::<Vec<_>>(), [v4(2).0]);
    assert_eq!(bench.speaker.peers()[0].restart, RestartStatus::None);
}

#[test]
fn a_second_restart_before_end_of_rib_drops_what_was_stale_and_keeps_what_was_new() {
    let (mut bench, conn) = told(PRESERVED);
    lose(&mut bench, conn);
    let conn = bench.connect(PEER, &open(65001, PRESERVED));
    bench.send(conn, &v4(2).1);
    lose(&mut bench, conn);
    assert_eq!(bench.learned.keys().copied().collect::<Vec<_>>(), [v4(2).0]);
}

#[test]
fn a_new_connection_of_a_restarted_peer_replaces_one_that_only_looks_alive() {
    let (mut bench, old) = told(PRESERVED);
    bench.run_for(SECOND * 10);
    let new = bench.accept(PEER);
    assert!(!bench.seen[&old].closed, "only an OPEN proves that it is the peer");
    bench.send(new, &open(65001, PRESERVED).bytes());
    assert!(bench.seen[&old].closed && bench.seen[&old].notification().is_none());
    bench.send(new, &message(4, &[]));
    assert_eq!(bench.learned.len(), 3);
    bench.send(new, &end_of_rib());
    assert!(bench.learned.is_empty());
}

#[test]
fn a_peer_that_is_back_but_never_ends_its_rib_is_swept_in_the_end() {
    let (mut bench, conn) = told(PRESERVED);
    lose(&mut bench, conn);
    let conn = bench.connect(PEER, &open(65001, PRESERVED));
    for _ in 0..301 {
        bench.run_for(SECOND);
        bench.send(conn, &message(4, &[]));
    }
    assert!(bench.learned.is_empty());
}

/// A speaker that restarted, with two passive external peers.
fn restarted() -> Bench {
    let mut bench = Bench::new(sut_config(65000), Start::Restarted);
    for (address, asn) in [(PEER, 65001), (OTHER, 65002)] {
        bench.set_peer(passive(address, asn));
    }
    bench.with(|speaker, now| {
        speaker.advertise(now, prefix("10.65.0.24/32"), Origin::default());
        speaker.own_routes_complete(now);
    });
    bench
}

#[test]
fn after_a_restart_own_routes_go_out_at_once_and_learned_ones_wait_for_all_end_of_ribs() {
    let mut bench = restarted();
    let first = bench.connect(PEER, &open(65001, PRESERVED));
    let second = bench.connect(OTHER, &RawOpen { id: [192, 0, 2, 200].into(), ..open(65002, PRESERVED) });
    for conn in [first, second] {
        assert_eq!(bench.seen[&conn].routes.len(), 1);
        assert!(bench.seen[&conn].end_of_rib.is_empty());
    }
    bench.send(first, &v4(1).1);
    bench.send(first, &end_of_rib());
    assert!(bench.learned.is_empty() && bench.in_sync == 0);
    assert!(bench.seen[&first].end_of_rib.is_empty());
    assert_eq!(bench.speaker.peers()[1].restart, RestartStatus::Deferring);
    bench.send(second, &end_of_rib());
    assert_eq!((bench.learned.len(), bench.in_sync), (1, 1));
    assert_eq!(bench.seen[&second].routes.len(), 2);
    for conn in [first, second] {
        assert_eq!(bench.seen[&conn].end_of_rib.len(), 2);
    }
}

#[test]
fn the_deferral_time_ends_all_waiting() {
    let mut bench = restarted();
    let conn = bench.connect(PEER, &open(65001, PRESERVED));
    bench.send(conn, &v4(1).1);
    for _ in 0..29 {
        bench.run_for(SECOND);
        bench.send(conn, &message(4, &[]));
    }
    assert_eq!((bench.learned.len(), bench.in_sync), (0, 0));
    bench.run_for(SECOND);
    assert_eq!((bench.learned.len(), bench.in_sync), (1, 1));
    assert_eq!(bench.seen[&conn].end_of_rib.len(), 2);
    bench.run_for(SECOND * 60);
    assert_eq!(bench.in_sync, 1, "once");
}

#[test]
fn a_cold_start_hands_on_at_once_and_is_in_sync_when_all_who_can_be_reached_have_told_everything() {
    let mut bench = Bench::new(sut_config(65000), Start::Cold);
    bench.set_peer(passive(PEER, 65001));
    bench.set_peer(PeerConfig { connect: ConnectMode::Active, ..passive(OTHER, 65002) });
    let dialled = bench.dialled[0].0;
    let conn = bench.connect(PEER, &open(65001, PRESERVED));
    bench.send(conn, &v4(1).1);
    assert_eq!((bench.learned.len(), bench.in_sync), (1, 0));
    bench.send(conn, &end_of_rib());
    bench.with(|speaker, now| speaker.own_routes_complete(now));
    assert_eq!(bench.in_sync, 0, "the other may answer yet");
    bench.input(Input::ConnectFailed { conn: dialled, peer: OTHER.into(), error: "refused".to_owned() });
    assert_eq!(bench.in_sync, 1);
}

#[test]
fn without_peers_it_is_in_sync_as_soon_as_own_routes_are_complete() {
    for start in [Start::Cold, Start::Restarted] {
        let mut bench = Bench::new(sut_config(65000), start);
        assert_eq!(bench.in_sync, 0);
        bench.with(|speaker, now| speaker.own_routes_complete(now));
        assert_eq!(bench.in_sync, 1, "{start:?}");
        assert_eq!(bench.speaker.next_timeout(), None);
    }
}

#[test]
fn a_peer_without_graceful_restart_is_waited_for_a_few_seconds() {
    let mut bench = Bench::new(sut_config(65000), Start::Restarted);
    bench.set_peer(passive(PEER, 65001));
    bench.with(|speaker, now| speaker.own_routes_complete(now));
    let conn = bench.connect(PEER, &open(65001, ""));
    bench.send(conn, &v4(1).1);
    assert!(bench.learned.is_empty());
    bench.run_for(SECOND * 6);
    assert_eq!((bench.learned.len(), bench.in_sync), (1, 1));
}

#[test]
fn with_nothing_to_say_it_is_said_at_once_that_this_was_all() {
    let mut bench = Bench::two_peers(false);
    bench.with(|speaker, now| speaker.own_routes_complete(now));
    let conn = bench.connect(PEER, &open(65001, PRESERVED));
    bench.send(conn, &end_of_rib());
    assert_eq!(bench.seen[&conn].end_of_rib.len(), 2);
}

#[test]
fn what_stands_behind_many_routes_of_a_peer_s_own_is_sent_to_it_at_once() {
    let (mut bench, first) = told(PRESERVED);
    let second = bench.connect(OTHER, &RawOpen { id: [192, 0, 2, 200].into(), ..open(65002, PRESERVED) });
    let attributes = |asn: &str, next_hop: [u8; 4]| {
        [attribute(0x40, 1, &[0]), attribute(0x40, 2, &hex(asn)), attribute(0x40, 3, &next_hop)].concat()
    };
    for part in 0..40_u8 {
        let own: Vec<u8> = (0..=255).flat_map(|last| [32, 10, 0, part, last]).collect();
        bench.send(first, &update(&[], &attributes("02010000fde9", PEER), &own));
    }
    bench.send(second, &update(&[], &attributes("02010000fdea", OTHER), &[32, 198, 51, 100, 1]));
    let seen = |bench: &mut Bench| std::mem::take(&mut bench.seen.get_mut(&first).unwrap().routes);
    assert!(seen(&mut bench).contains_key(&prefix("198.51.100.1/32")));
    bench.send(first, &message(5, &[0, 1, 0, 1]));
    assert!(seen(&mut bench).contains_key(&prefix("198.51.100.1/32")));
}

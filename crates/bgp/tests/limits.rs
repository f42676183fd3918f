//! What ends a session on purpose and what becomes of the routes then: prefix limits, administrative shutdown, Hard Reset
//! (RFC 8538), long-lived stale routes (RFC 9494); roles (RFC 9234) and enhanced refresh (RFC 7313).
#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it must be")]

mod common;

use common::raw::{Bench, RawOpen, attribute, hex, message, parameters, passive, sut_config, update};
use common::{SECOND, prefix};
use lasthop_bgp::config::{Admin, LimitAction, PeerConfig, PrefixLimit, Role, RoleMode};
use lasthop_bgp::{ConnId, Input, PathVerdict, PeerState, PeerStatus, Refusal, RestartStatus, Start};
use lasthop_net::Family;
use std::time::Duration;

const PEER: [u8; 4] = [10, 99, 1, 2];
const OTHER: [u8; 4] = [10, 99, 1, 3];
const ROUTE: &str = "203.0.113.0/24";

fn bench(change: impl Fn(&mut PeerConfig)) -> Bench {
    let mut bench = Bench::new(sut_config(65000), Start::Cold);
    for (address, asn) in [(PEER, 65001), (OTHER, 65002)] {
        let mut peer = passive(address, asn);
        if address == PEER {
            change(&mut peer);
        }
        bench.set_peer(peer);
    }
    bench.with(|speaker, now| speaker.own_routes_complete(now));
    bench
}

/// An OPEN of AS 65001 or 65002 with more capabilities.
fn open(asn: u32, more: &str) -> RawOpen {
    let mut open = RawOpen::new(asn, [192, 0, 2, u8::try_from(asn % 250).unwrap()]);
    let known = open.parameters[3..].to_vec();
    open.parameters = parameters(&[known, hex(more)].concat());
    open
}

fn announce(asn: u32, more: &[u8], nlri: &str) -> Vec<u8> {
    let path = [&[2, 1][..], &asn.to_be_bytes()].concat();
    let attributes = [&attribute(0x40, 1, &[0])[..], &attribute(0x40, 2, &path), &attribute(0x40, 3, &PEER), more];
    update(&[], &attributes.concat(), &hex(nlri))
}

fn status(bench: &Bench) -> PeerStatus {
    bench.speaker.peers().into_iter().find(|peer| peer.address == std::net::IpAddr::from(PEER)).unwrap()
}

/// Prefixes 203.0.113.0/32 to .`count`-1.
fn many(count: u8) -> String {
    (0..count).map(|last| format!("20cb0071{last:02x}")).collect()
}

fn limit(action: LimitAction) -> impl Fn(&mut PeerConfig) {
    move |peer| peer.limits = [(Family::V4, PrefixLimit { max: 10, warn_percent: 75, action })].into()
}

#[test]
fn more_prefixes_than_allowed_end_the_session_for_a_while() {
    let mut bench = bench(limit(LimitAction::Close(Some(SECOND * 60))));
    let conn = bench.connect(PEER, &open(65001, ""));
    bench.send(conn, &announce(65001, &[], &many(7)));
    assert!(status(&bench).notes.is_empty());
    bench.send(conn, &announce(65001, &[], &many(8)));
    assert_eq!(status(&bench).notes, ["8 prefixes of IPv4, of 10 it may announce"]);
    bench.send(conn, &announce(65001, &[], &many(10)));
    assert_eq!(status(&bench).state, PeerState::Established);
    bench.send(conn, &announce(65001, &[], &many(11)));
    assert_eq!(bench.seen[&conn].notification(), Some((6, 1, hex("0001 01 0000000a"))));
    assert!(bench.learned.is_empty());
    let after = status(&bench);
    assert_eq!(after.state, PeerState::Idle);
    assert!(after.last_error.unwrap().contains("announces 11 prefixes of IPv4, and may announce 10"));
    let again = bench.accept(PEER);
    assert!(bench.seen[&again].closed, "not before its time");
    bench.run_for(SECOND * 61);
    bench.connect(PEER, &open(65001, ""));
    assert_eq!(status(&bench).state, PeerState::Established);
}

#[test]
fn a_limit_that_is_raised_lets_the_peer_back_and_a_warning_is_only_that() {
    let mut bench = bench(limit(LimitAction::Close(None)));
    let conn = bench.connect(PEER, &open(65001, ""));
    bench.send(conn, &announce(65001, &[], &many(11)));
    bench.run_for(SECOND * 3600);
    let again = bench.accept(PEER);
    assert!(bench.seen[&again].closed);
    let mut peer = passive(PEER, 65001);
    limit(LimitAction::Warn)(&mut peer);
    bench.set_peer(peer.clone());
    let conn = bench.connect(PEER, &open(65001, ""));
    bench.send(conn, &announce(65001, &[], &many(100)));
    assert_eq!((status(&bench).state, bench.learned.len()), (PeerState::Established, 100));
    // A limit that is exceeded already acts at once, and no one else is touched.
    limit(LimitAction::Close(None))(&mut peer);
    bench.set_peer(peer);
    assert_eq!(bench.seen[&conn].notification().map(|n| (n.0, n.1)), Some((6, 1)));
}

#[test]
fn a_session_taken_down_by_the_operator_says_why_and_stays_down() {
    let mut bench = bench(|_| {});
    let conn = bench.connect(PEER, &open(65001, ""));
    bench.send(conn, &announce(65001, &[], "18cb0071"));
    bench.set_peer(PeerConfig { admin: Admin::Down("rack move, back at 6".to_owned()), ..passive(PEER, 65001) });
    let text = b"\x14rack move, back at 6".to_vec();
    assert_eq!(bench.seen[&conn].notification(), Some((6, 2, text)));
    assert!(bench.learned.is_empty());
    assert_eq!(status(&bench).state, PeerState::Idle);
    bench.run_for(SECOND * 600);
    let again = bench.accept(PEER);
    assert!(bench.seen[&again].closed);
    bench.set_peer(passive(PEER, 65001));
    bench.connect(PEER, &open(65001, ""));
    assert_eq!(status(&bench).state, PeerState::Established);
}

/// Graceful restart with the N bit, for IPv4, restart time 10 s.
const NOTIFYING: &str = "4006 400a 00010180";

#[test]
fn routes_outlive_a_notification_where_both_ends_agreed_and_not_a_hard_reset() {
    let hold = |bench: &mut Bench, _: ConnId| bench.run_for(SECOND * 91);
    let cease = |bench: &mut Bench, conn: ConnId| bench.send(conn, &message(3, &[6, 4]));
    let hard = |bench: &mut Bench, conn: ConnId| bench.send(conn, &message(3, &[6, 9, 6, 2]));
    let admin = |bench: &mut Bench, _: ConnId| {
        bench.set_peer(PeerConfig { admin: Admin::Down(String::new()), ..passive(PEER, 65001) });
    };
    type End = fn(&mut Bench, ConnId);
    for (name, capability, end, kept, said) in [
        ("hold timer", NOTIFYING, hold as End, true, Some((4, 0))),
        ("hold timer without the bit", "4006 000a 00010180", hold, false, Some((4, 0))),
        ("their cease", NOTIFYING, cease, true, None),
        ("their cease without the bit", "4006 000a 00010180", cease, false, None),
        ("their hard reset", NOTIFYING, hard, false, None),
        ("our shutdown", NOTIFYING, admin, false, Some((6, 9))),
    ] {
        let mut bench = bench(|_| {});
        let conn = bench.connect(PEER, &open(65001, capability));
        bench.send(conn, &announce(65001, &[], "18cb0071"));
        end(&mut bench, conn);
        assert_eq!(bench.learned.contains_key(&prefix(ROUTE)), kept, "{name}");
        assert_eq!(bench.seen[&conn].notification().map(|n| (n.0, n.1)), said, "{name}");
        bench.run_for(SECOND * 11);
        assert!(bench.learned.is_empty(), "{name}: gone when the restart time is over");
    }
}

/// Long-lived: IPv4, 60 s.
const LONG: &str = "4707 00010180 00003c";

#[test]
fn routes_of_a_peer_that_stays_away_live_long_as_the_last_choice() {
    let mut bench = bench(|peer| peer.long_lived = Some(SECOND * 60));
    let mut other = passive(OTHER, 65002);
    other.long_lived = Some(SECOND * 60);
    bench.set_peer(other);
    let conn = bench.connect(PEER, &open(65001, &format!("{NOTIFYING} {LONG}")));
    let knows = bench.connect(OTHER, &open(65002, &format!("{NOTIFYING} {LONG}")));
    let refuses = attribute(0xc0, 8, &hex("ffff0007"));
    bench.send(conn, &announce(65001, &[], "18cb0071"));
    bench.send(conn, &announce(65001, &refuses, "18cb0072"));
    bench.input(Input::Closed { conn, reason: "gone".to_owned() });
    bench.run_for(SECOND * 9);
    assert_eq!(bench.learned.len(), 2);
    bench.run_for(SECOND * 2);
    assert_eq!(bench.learned.keys().copied().collect::<Vec<_>>(), [prefix(ROUTE)], "no-llgr goes");
    assert!(matches!(status(&bench).restart, RestartStatus::LongLived { .. }));
    assert_eq!(bench.seen[&knows].routes[&prefix(ROUTE)][&8].1, hex("ffff0006"));
    // Whoever else has it is better, whatever its attributes are.
    bench.send(knows, &announce(65002, &[], "18cb0071"));
    assert_eq!(bench.learned[&prefix(ROUTE)].len(), 1);
    let paths = bench.speaker.paths(Some(prefix(ROUTE)));
    assert_eq!(paths[0].from.to_string(), "10.99.1.3");
    assert!(paths[1].verdict.to_string().contains("llgr-stale"));
    bench.run_for(SECOND * 58);
    assert_eq!(bench.speaker.paths(Some(prefix(ROUTE))).len(), 2);
    bench.run_for(SECOND * 3);
    assert_eq!(bench.speaker.paths(Some(prefix(ROUTE))).len(), 1, "its time is over");
}

#[test]
fn a_long_lived_route_is_not_shown_to_who_does_not_know_of_that_and_is_fresh_again_when_told() {
    let mut bench = bench(|peer| peer.long_lived = Some(SECOND * 60));
    let conn = bench.connect(PEER, &open(65001, &format!("{NOTIFYING} {LONG}")));
    let plain = bench.connect(OTHER, &open(65002, ""));
    bench.send(conn, &announce(65001, &[], "18cb0071"));
    assert!(bench.seen[&plain].routes.contains_key(&prefix(ROUTE)));
    bench.input(Input::Closed { conn, reason: "gone".to_owned() });
    bench.run_for(SECOND * 11);
    assert!(!bench.seen[&plain].routes.contains_key(&prefix(ROUTE)));
    assert!(bench.learned.contains_key(&prefix(ROUTE)), "we still use it");
    let conn = bench.connect(PEER, &open(65001, &format!("{NOTIFYING} {LONG}")));
    bench.send(conn, &announce(65001, &[], "18cb0071"));
    bench.send(conn, &message(2, &[0, 0, 0, 0]));
    assert!(bench.seen[&plain].routes.contains_key(&prefix(ROUTE)));
    assert_eq!(status(&bench).restart, RestartStatus::None);
}

#[test]
fn roles_must_be_a_pair() {
    for (ours, mode, theirs, accepted) in [
        (Role::Provider, RoleMode::Lenient, "09 01 03", true),
        (Role::Provider, RoleMode::Strict, "09 01 03", true),
        (Role::Customer, RoleMode::Lenient, "09 01 00", true),
        (Role::Peer, RoleMode::Lenient, "09 01 04", true),
        (Role::RouteServer, RoleMode::Lenient, "09 01 02", true),
        (Role::Provider, RoleMode::Lenient, "", true),
        (Role::Provider, RoleMode::Strict, "", false),
        (Role::Provider, RoleMode::Lenient, "09 01 00", false),
        (Role::Customer, RoleMode::Lenient, "09 01 04", false),
        (Role::Customer, RoleMode::Lenient, "09 01 00 09 01 04", false),
        (Role::Customer, RoleMode::Lenient, "09 01 00 09 01 00", true),
    ] {
        let mut bench = bench(|peer| (peer.role, peer.role_mode) = (Some(ours), mode));
        let conn = bench.connect(PEER, &open(65001, theirs));
        let refused = bench.seen[&conn].notification().map(|n| (n.0, n.1));
        assert_eq!(refused, (!accepted).then_some((2, 11)), "{ours:?} {mode:?} {theirs}");
    }
}

#[test]
fn what_goes_down_never_comes_up_again() {
    let otc = |asn: u32| attribute(0xc0, 35, &asn.to_be_bytes());
    let (none, theirs, other) = (Vec::new(), otc(65001), otc(7));
    // Our role, what comes, whether it is used, and the OTC that is passed on.
    for (role, comes, used, passed) in [
        (Role::Provider, &none, true, None),
        (Role::Provider, &theirs, false, None),
        (Role::RouteServer, &other, false, None),
        (Role::Peer, &none, true, Some(65001)),
        (Role::Peer, &theirs, true, Some(65001)),
        (Role::Peer, &other, false, None),
        (Role::Customer, &none, true, Some(65001)),
        (Role::Customer, &other, true, Some(7)),
        (Role::RouteServerClient, &none, true, Some(65001)),
    ] {
        for ours in [None, Some(Role::Provider), Some(Role::Customer), Some(Role::Peer)] {
            let mut bench = bench(|peer| peer.role = Some(role));
            bench.set_peer(PeerConfig { role: ours, ..passive(OTHER, 65002) });
            let conn = bench.connect(PEER, &open(65001, ""));
            let observer = bench.connect(OTHER, &open(65002, ""));
            bench.send(conn, &announce(65001, comes, "18cb0071"));
            let words = format!("{role:?} {comes:?} to {ours:?}");
            let verdict = &bench.speaker.paths(Some(prefix(ROUTE)))[0].verdict;
            assert_eq!(*verdict == PathVerdict::Refused(Refusal::RoleLeak), !used, "{words}");
            let seen = bench.seen[&observer].routes.get(&prefix(ROUTE));
            let up = matches!(ours, Some(Role::Customer | Role::Peer));
            assert_eq!(seen.is_some(), used && !(up && passed.is_some()), "{words}");
            let expected = match ours {
                Some(Role::Provider | Role::Peer) => passed.or(Some(65000)),
                _ => passed,
            };
            if let Some(seen) = seen {
                let value = seen.get(&35).map(|(_, value)| u32::from_be_bytes(value[..].try_into().unwrap()));
                assert_eq!(value, expected, "{words}");
            }
        }
    }
}

#[test]
fn an_otc_of_a_wrong_length_is_treated_as_withdrawal() {
    let mut bench = bench(|_| {});
    let conn = bench.connect(PEER, &open(65001, ""));
    bench.send(conn, &announce(65001, &attribute(0xc0, 35, &[0, 0, 1]), "18cb0071"));
    assert!(bench.learned.is_empty());
    assert_eq!((status(&bench).state, status(&bench).counters.treated_as_withdraw), (PeerState::Established, 1));
}

#[test]
fn an_enhanced_refresh_is_framed_and_sweeps_what_is_not_said_again() {
    let mut bench = bench(|_| {});
    let conn = bench.connect(PEER, &open(65001, "4600"));
    let other = bench.connect(OTHER, &open(65002, ""));
    bench.send(other, &announce(65002, &[], "18cb0072"));
    bench.seen.get_mut(&conn).unwrap().messages.clear();
    bench.send(conn, &message(5, &[0, 1, 0, 1]));
    let kinds: Vec<(u8, u8)> = bench.seen[&conn].messages.iter().map(|(kind, body)| (*kind, body[2])).collect();
    let framed = kinds.iter().map(|(kind, _)| *kind).collect::<Vec<_>>();
    assert_eq!(framed, [5, 2, 5]);
    assert_eq!((kinds[0].1, kinds[2].1), (1, 2), "begin and end");

    bench.send(conn, &announce(65001, &[], "18cb0071 18cb0073"));
    bench.send(conn, &message(5, &[0, 1, 1, 1]));
    bench.send(conn, &announce(65001, &[], "18cb0071"));
    assert_eq!(bench.learned.len(), 3);
    bench.send(conn, &message(5, &[0, 1, 2, 1]));
    assert_eq!(bench.learned.len(), 2, "203.0.115.0/24 was not said again");
    assert_eq!((status(&bench).prefixes_stale, status(&bench).prefixes_in), (0, 1));
    // An end that never comes ends by itself.
    bench.send(conn, &message(5, &[0, 1, 1, 1]));
    for _ in 0..11 {
        bench.run_for(Duration::from_secs(29));
        bench.send(conn, &message(4, &[]));
    }
    assert_eq!(bench.learned.len(), 0);
    bench.send(conn, &message(5, &[0, 1, 0, 1, 9]));
    assert_eq!(bench.seen[&conn].notification().map(|n| (n.0, n.1)), Some((7, 1)));
}

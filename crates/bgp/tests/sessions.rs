//! One session against peers that are nothing but octets: RFC 4271 sections 6 and 8, 5492, 6286, 6608, 7607, 9072, 9687.

#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it must be")]

mod common;

use common::SECOND;
use common::raw::{Bench, RawOpen, SUT, attribute, hex, message, parameters, passive, sut_config, update};
use lasthop_bgp::config::{ConnectMode, PeerConfig};
use lasthop_bgp::{ConnId, Input, PeerState, Start, StopMode};
use lasthop_net::{Asn, Family};
use std::collections::BTreeSet;
use std::time::Duration;

const PEER: [u8; 4] = [10, 99, 1, 2];
const ID: [u8; 4] = [192, 0, 2, 100];

fn bench() -> Bench {
    Bench::two_peers(false)
}

fn state(bench: &Bench) -> PeerState {
    bench.speaker.peers()[0].state
}

fn open() -> RawOpen {
    RawOpen::new(65001, ID)
}

/// What the speaker answers to an OPEN that it refuses.
fn refusal(bench: &mut Bench, open: &RawOpen) -> (u8, u8, Vec<u8>) {
    let conn = bench.accept(PEER);
    bench.send(conn, &open.bytes());
    assert!(bench.seen[&conn].closed);
    bench.seen[&conn].notification().unwrap()
}

#[test]
fn an_open_that_is_wrong_is_refused_with_the_right_code() {
    let four = |asn: u32| [&hex("4104")[..], &asn.to_be_bytes()].concat();
    for (name, open, expect) in [
        ("version 3", RawOpen { version: 3, ..open() }, (2, 1, vec![0, 4])),
        ("identifier 0.0.0.0", RawOpen { id: [0; 4].into(), ..open() }, (2, 3, vec![])),
        ("hold time 1", RawOpen { hold: 1, ..open() }, (2, 6, vec![0, 1])),
        ("hold time 2", RawOpen { hold: 2, ..open() }, (2, 6, vec![0, 2])),
        ("AS 0", RawOpen { asn2: 0, ..open() }, (2, 2, vec![])),
        ("AS 0 in the capability", RawOpen { parameters: parameters(&four(0)), ..open() }, (2, 2, vec![])),
        ("another AS", RawOpen::new(65009, ID), (2, 2, vec![])),
        ("another AS in the capability", RawOpen { parameters: parameters(&four(70000)), ..open() }, (2, 2, vec![])),
        ("parameter 99", RawOpen { parameters: hex("02 63 00"), ..open() }, (2, 4, vec![])),
        ("a capability beyond its parameter", RawOpen { parameters: hex("04 02 02 41 04"), ..open() }, (2, 0, vec![])),
        ("a parameter beyond the message", RawOpen { parameters: hex("04 02 09 41 04"), ..open() }, (2, 0, vec![])),
        ("parameters cut short", RawOpen { parameters: hex("09 02 02"), ..open() }, (2, 0, vec![])),
    ] {
        assert_eq!(refusal(&mut bench(), &open), expect, "{name}");
    }
}

#[test]
fn our_own_identifier_is_refused_from_an_internal_peer_only() {
    let mut internal = Bench::two_peers(true);
    let (code, subcode, _) = refusal(&mut internal, &RawOpen::new(65000, SUT.octets()));
    assert_eq!((code, subcode), (2, 3));
    let mut external = bench();
    external.connect(PEER, &RawOpen::new(65001, SUT.octets()));
    assert_eq!(state(&external), PeerState::Established);
}

#[test]
fn an_open_that_is_unusual_but_legal_is_accepted() {
    let known = hex("010400010001 41040000fde9");
    for (name, given) in [
        ("no parameters at all", hex("00")),
        ("an unknown capability", parameters(&[&hex("fa03010203")[..], &known].concat())),
        ("a capability twice", parameters(&[known.clone(), known.clone()].concat())),
        ("a known capability of a wrong length", parameters(&[&hex("4100")[..], &known].concat())),
        ("each capability in a parameter of its own", hex("10 0206 010400010001 0206 41040000fde9")),
        ("extended parameters (RFC 9072)", hex("ff ff 0009 02 0006 010400010001")),
    ] {
        let mut bench = bench();
        bench.connect(PEER, &RawOpen { parameters: given, ..open() });
        assert_eq!(state(&bench), PeerState::Established, "{name}");
        let families = bench.speaker.peers()[0].negotiated.clone().unwrap().families;
        assert_eq!(families, [Family::V4], "{name}");
    }
}

#[test]
fn our_open_offers_both_families_route_refresh_four_octet_as_and_graceful_restart() {
    for (start, restart) in
        [(Start::Cold, "40 0a 4078 00010100 00020100"), (Start::Restarted, "40 0a c078 00010180 00020180")]
    {
        let mut bench = Bench::new(sut_config(4_200_000_001), start);
        bench.set_peer(passive(PEER, 65001));
        let conn = bench.accept(PEER);
        let sent = bench.seen[&conn].open().unwrap();
        assert_eq!(sent[..9], hex("04 5ba0 005a 0a630101"));
        assert_eq!(sent[9] as usize, sent.len() - 10);
        let capabilities = hex(&format!("010400010001 010400020001 0200 0600 {restart} 4104fa56ea01 4600"));
        assert_eq!(sent[12..], capabilities, "{start:?}");
    }
}

#[test]
fn messages_out_of_place_end_the_session_by_rfc_6608() {
    let good_update = update(&[], &[], &[]);
    for (name, before, what, expect) in [
        ("UPDATE in OpenSent", 0, good_update.clone(), (5, 1, vec![2])),
        ("KEEPALIVE in OpenSent", 0, message(4, &[]), (5, 1, vec![4])),
        ("UPDATE in OpenConfirm", 1, good_update, (5, 2, vec![2])),
        ("OPEN in OpenConfirm", 1, open().bytes(), (5, 2, vec![1])),
        ("OPEN in Established", 2, open().bytes(), (5, 3, vec![1])),
    ] {
        let mut bench = bench();
        let conn = bench.accept(PEER);
        for said in [open().bytes(), message(4, &[])].iter().take(before) {
            bench.send(conn, said);
        }
        bench.send(conn, &what);
        assert_eq!(bench.seen[&conn].notification(), Some(expect), "{name}");
        assert!(bench.seen[&conn].closed);
        assert_eq!(state(&bench), PeerState::Active, "{name}");
    }
}

#[test]
fn a_stream_cut_anywhere_means_the_same() {
    let attributes =
        [attribute(0x40, 1, &[0]), attribute(0x40, 2, &hex("02010000fde9")), attribute(0x40, 3, &PEER)].concat();
    let stream = [open().bytes(), message(4, &[]), update(&[], &attributes, &hex("18cb0071"))].concat();
    for cut in 0..stream.len() {
        let mut bench = bench();
        let conn = bench.accept(PEER);
        bench.send(conn, &stream[..cut]);
        bench.send(conn, &stream[cut..]);
        assert_eq!(bench.learned.len(), 1, "cut at {cut}");
    }
    let mut bench = bench();
    let conn = bench.accept(PEER);
    stream.iter().for_each(|octet| bench.send(conn, &[*octet]));
    assert_eq!(bench.learned.len(), 1, "one octet at a time");
}

#[test]
fn keepalives_go_out_every_third_of_the_lower_hold_time() {
    for (theirs, keepalives) in [(3, 9), (9, 3), (65535, 0), (90, 0)] {
        let mut bench = bench();
        let conn = bench.connect(PEER, &RawOpen { hold: theirs, ..open() });
        let before = bench.seen[&conn].count(4);
        for _ in 0..9 {
            bench.run_for(SECOND);
            bench.send(conn, &message(4, &[]));
        }
        assert_eq!(bench.seen[&conn].count(4) - before, keepalives, "hold time {theirs}");
        assert_eq!(state(&bench), PeerState::Established);
    }
}

#[test]
fn hold_time_zero_means_no_keepalives_and_no_expiry() {
    let mut bench = bench();
    let conn = bench.connect(PEER, &RawOpen { hold: 0, ..open() });
    let before = bench.seen[&conn].count(4);
    bench.run_for(SECOND * 86400);
    assert_eq!(bench.seen[&conn].count(4), before);
    assert_eq!(state(&bench), PeerState::Established);
}

#[test]
fn silence_for_the_hold_time_ends_the_session_with_4_0() {
    let mut bench = bench();
    let conn = bench.connect(PEER, &RawOpen { hold: 9, ..open() });
    bench.run_for(Duration::from_millis(8_999));
    assert_eq!(bench.seen[&conn].notification(), None);
    bench.run_for(Duration::from_millis(1));
    assert_eq!(bench.seen[&conn].notification(), Some((4, 0, vec![])));
    assert!(bench.speaker.peers()[0].last_error.as_ref().unwrap().contains("nothing heard for 9 s"));
}

#[test]
fn a_second_connection_while_established_is_closed_and_the_first_is_not_disturbed() {
    let mut bench = bench();
    let first = bench.connect(PEER, &open());
    let second = bench.accept(PEER);
    assert!(bench.seen[&second].closed);
    assert!(!bench.seen[&first].closed);
    assert_eq!(state(&bench), PeerState::Established);
}

#[test]
fn unknown_addresses_are_closed_and_leave_no_state() {
    let mut bench = bench();
    for last in 10..250 {
        let conn = bench.accept([10, 99, 2, last]);
        assert!(bench.seen[&conn].closed && bench.seen[&conn].messages.is_empty());
    }
    assert_eq!(bench.speaker.peers().len(), 2);
}

/// An active peer, its dial answered, and its own connection accepted as well.
fn collide(their_id: [u8; 4], their_as: u32, ours_first: bool) -> (Bench, ConnId, ConnId) {
    let mut bench = Bench::new(sut_config(65000), Start::Cold);
    bench.set_peer(PeerConfig { connect: ConnectMode::Active, ..passive(PEER, their_as) });
    let ours = bench.dialled[0].0;
    bench.input(Input::Connected { conn: ours, peer: PEER.into(), local: SUT.into() });
    let theirs = bench.accept(PEER);
    let open = RawOpen::new(their_as, their_id).bytes();
    let order = if ours_first { [ours, theirs] } else { [theirs, ours] };
    for conn in order {
        bench.send(conn, &open);
    }
    for conn in order {
        bench.send(conn, &message(4, &[]));
    }
    (bench, ours, theirs)
}

#[test]
fn of_two_connections_that_of_the_higher_identifier_stays_whichever_open_comes_first() {
    for ours_first in [true, false] {
        for (id, asn, ours_stays) in [
            ([10, 99, 1, 0], 65001, true),
            ([10, 99, 1, 2], 65001, false),
            (SUT.octets(), 64999, true),
            (SUT.octets(), 65001, false),
        ] {
            let (bench, ours, theirs) = collide(id, asn, ours_first);
            let (stays, goes) = if ours_stays { (ours, theirs) } else { (theirs, ours) };
            assert_eq!(bench.seen[&goes].notification(), Some((6, 7, vec![])), "{id:?} {asn} {ours_first}");
            assert!(bench.seen[&goes].closed && !bench.seen[&stays].closed);
            assert_eq!(state(&bench), PeerState::Established);
        }
    }
}

#[test]
fn a_peer_that_refuses_us_is_tried_at_most_once_a_second_with_growing_delay() {
    for answers in [false, true] {
        let mut bench = Bench::new(sut_config(65000), Start::Cold);
        bench.set_peer(PeerConfig { connect: ConnectMode::Active, ..passive(PEER, 65001) });
        let mut tried = 0;
        while bench.dialled.len() < 12 {
            if let Some((conn, peer, _)) = bench.dialled.get(tried).copied() {
                tried += 1;
                if answers {
                    // TCP comes up, and its AS is wrong.
                    bench.input(Input::Connected { conn, peer, local: SUT.into() });
                    bench.send(conn, &RawOpen::new(65009, ID).bytes());
                } else {
                    bench.input(Input::ConnectFailed { conn, peer, error: "connection refused".to_owned() });
                }
            }
            bench.run_for(Duration::from_millis(100));
        }
        let gaps: Vec<Duration> = bench.dialled.windows(2).map(|pair| pair[1].2 - pair[0].2).collect();
        assert!(gaps.iter().all(|gap| *gap >= SECOND), "{gaps:?}");
        assert!(gaps[3] > gaps[0] && gaps[10] >= SECOND * if answers { 40 } else { 5 }, "{gaps:?}");
        assert!(gaps.iter().all(|gap| *gap <= SECOND * if answers { 61 } else { 9 }), "{gaps:?}");
    }
}

#[test]
fn a_connection_attempt_without_an_answer_is_given_up_and_repeated() {
    let mut bench = Bench::new(sut_config(65000), Start::Cold);
    bench.set_peer(PeerConfig { connect: ConnectMode::Active, ..passive(PEER, 65001) });
    let first = bench.dialled[0].0;
    bench.run_for(SECOND * 30);
    assert!(bench.seen[&first].closed && bench.dialled.len() >= 2);
    // The late answer to a given-up attempt is closed.
    bench.input(Input::Connected { conn: first, peer: PEER.into(), local: SUT.into() });
    assert!(bench.seen[&first].messages.is_empty());
}

#[test]
fn a_passive_peer_is_never_dialled() {
    let mut bench = bench();
    let conn = bench.connect(PEER, &open());
    bench.input(Input::Closed { conn, reason: "reset".to_owned() });
    bench.run_for(SECOND * 600);
    assert!(bench.dialled.is_empty());
    assert_eq!(state(&bench), PeerState::Active);
}

#[test]
fn a_peer_that_does_not_read_is_given_up_after_the_send_hold_time() {
    let mut bench = bench();
    let conn = bench.connect(PEER, &RawOpen { hold: 90, ..open() });
    bench.input(Input::Congested { conn });
    for _ in 0..479 {
        bench.run_for(SECOND);
        bench.send(conn, &message(4, &[]));
    }
    assert_eq!(bench.seen[&conn].notification(), None);
    bench.run_for(SECOND);
    assert_eq!(bench.seen[&conn].notification(), Some((8, 0, vec![])));
}

#[test]
fn hot_settings_do_not_reset_and_cold_ones_do() {
    type Change = (&'static str, fn(&mut PeerConfig), Option<(u8, u8)>);
    let changes: [Change; 7] = [
        ("nothing", |_| {}, None),
        ("reflection", |p| p.reflect = lasthop_bgp::config::ReflectMode::Client, None),
        ("next hop", |p| p.next_hop = lasthop_bgp::config::NextHop::OurSelf, None),
        ("next hop address", |p| p.next_hop_v4 = Some([10, 99, 1, 77].into()), None),
        ("hold time", |p| p.hold_time = SECOND * 30, None),
        ("AS", |p| p.asn = Asn(65005), Some((6, 6))),
        ("families", |p| p.families = BTreeSet::from([Family::V4]), Some((6, 6))),
    ];
    for (name, change, expect) in changes {
        let mut bench = bench();
        let conn = bench.connect(PEER, &open());
        let mut peer = passive(PEER, 65001);
        peer.next_hop_v6 = Some("fd00::1".parse().unwrap());
        change(&mut peer);
        bench.set_peer(peer);
        let got = bench.seen[&conn].notification().map(|(code, subcode, _)| (code, subcode));
        assert_eq!(got, expect, "{name}");
        assert_eq!(bench.seen[&conn].closed, expect.is_some(), "{name}");
    }
}

#[test]
fn removing_a_peer_and_stopping_say_so() {
    let mut bench = bench();
    let first = bench.connect(PEER, &open());
    let second = bench.connect([10, 99, 1, 3], &RawOpen::new(65002, [192, 0, 2, 200]));
    bench.with(|speaker, now| speaker.remove_peer(now, PEER.into()));
    assert_eq!(bench.seen[&first].notification(), Some((6, 3, vec![])));
    assert_eq!(bench.speaker.peers().len(), 1);
    bench.with(|speaker, now| speaker.stop(now, StopMode::Cease));
    assert_eq!(bench.seen[&second].notification(), Some((6, 2, vec![])));
    assert_eq!(bench.speaker.next_timeout(), None);
}

#[test]
fn stopping_to_keep_routes_closes_without_a_word() {
    let mut bench = bench();
    let conn = bench.connect(PEER, &open());
    bench.with(|speaker, now| speaker.stop(now, StopMode::KeepRoutes));
    assert!(bench.seen[&conn].closed);
    assert_eq!(bench.seen[&conn].notification(), None);
}

#[test]
fn end_of_rib_is_sent_for_each_family_also_with_an_empty_table_and_not_before_own_routes_are_complete() {
    let mut bench = Bench::new(sut_config(65000), Start::Cold);
    bench.set_peer(passive(PEER, 65001));
    let conn = bench.connect(PEER, &open());
    assert!(bench.seen[&conn].end_of_rib.is_empty());
    bench.with(|speaker, now| speaker.own_routes_complete(now));
    assert_eq!(bench.seen[&conn].end_of_rib, BTreeSet::from(Family::ALL));
}

#[test]
fn a_shutdown_text_is_shown() {
    let mut bench = bench();
    let conn = bench.connect(PEER, &open());
    bench.send(conn, &message(3, &[&[6, 2, 11][..], b"maintenance"].concat()));
    let status = &bench.speaker.peers()[0];
    assert_eq!(
        status.last_error.as_deref(),
        Some(
            "the peer ended it: its operator shut the session down: 'maintenance' [NOTIFICATION 6/2 (administrative shutdown)]"
        )
    );
    assert!(bench.seen[&conn].closed && bench.seen[&conn].notification().is_none());
}

//! What opens a session and what does not (S5 to S13 and S17 of the interop scenarios).

use super::{KEEPALIVE, Open, Raw, UPDATE, good, hex, joined, message, update};
use crate::bird::{hosts, speaker};
use crate::daemon::US;
use crate::support::{Agent, LIMIT, Speaker, peer};
use lasthop_agent::speaker::Question;
use lasthop_bgp::config::{ConnectMode, PeerConfig};
use lasthop_testkit::netns::Host;
use std::time::Duration;

const OURS: u32 = 65000;
const THEIRS: u32 = 65001;
const ID: [u8; 4] = [192, 0, 2, 100];

/// Our speaker, which waits for a peer of this AS.
fn waiting(asn: u32) -> (Host, Speaker, Agent) {
    let [a, b] = hosts();
    let config = PeerConfig { connect: ConnectMode::Passive, ..peer(US, "10.99.0.2", asn) };
    let (speaker, mut agent) = speaker(&a, US, OURS, vec![config]);
    agent.wait("listening", LIMIT, |agent| agent.listening.is_some());
    (b, speaker, agent)
}

/// What an OPEN is answered with, if by a NOTIFICATION.
fn answer(host: &Host, open: &Open) -> Option<(u8, u8, Vec<u8>)> {
    let mut raw = Raw::connect(host, US);
    raw.send(&open.octets());
    raw.until(|raw| raw.notification.is_some() || raw.keepalives > 0);
    raw.notification
}

#[test]
fn a_wrong_open_is_refused_with_the_right_words() {
    let (host, _speaker, mut agent) = waiting(THEIRS);
    let open = || Open::new(THEIRS, ID);
    let mut as_zero = open();
    as_zero.asn = 0;
    as_zero.capabilities = hex("0104 00010001 4104 00000000");
    for (what, open, expected) in [
        ("S5 version 3", Open { version: 3, ..open() }, (2, 1, Some("0004"))),
        ("S6 identifier 0.0.0.0", Open { id: [0; 4], ..open() }, (2, 3, None)),
        ("S7 hold time 1", Open { hold: 1, ..open() }, (2, 6, None)),
        ("S7 hold time 2", Open { hold: 2, ..open() }, (2, 6, None)),
        ("S8 AS 0", as_zero, (2, 2, None)),
        ("S4 another AS", Open::new(65099, ID), (2, 2, None)),
        ("S9 optional parameter 99", Open { parameters: Some(hex("04 63 02 0000")), ..open() }, (2, 4, None)),
        (
            "S10 capability longer than its parameter",
            Open { parameters: Some(hex("06 02 04 41 08 0000")), ..open() },
            (2, 0, None),
        ),
    ] {
        let (code, subcode, data) = answer(&host, &open).unwrap_or_else(|| panic!("{what}: accepted"));
        let also = what.starts_with("S10") && (code, subcode) == (2, 4);
        assert!((code, subcode) == (expected.0, expected.1) || also, "{what}: {code}/{subcode}");
        assert!(expected.2.is_none_or(|expected| hex(expected) == data), "{what}: {data:02x?}");
    }
    // And a right one is taken at once, whatever came before.
    let mut raw = Raw::established(&host, US, &open());
    agent.established("10.99.0.2");
    raw.listen_for(Duration::from_millis(200));
    assert!(!raw.closed);
}

#[test]
fn our_own_identifier_inside_our_as_is_refused() {
    let (host, _speaker, _agent) = waiting(OURS);
    let answer = answer(&host, &Open::new(OURS, [10, 99, 0, 1])).unwrap();
    assert_eq!((answer.0, answer.1), (2, 3));
}

#[test]
fn what_is_unknown_twice_extended_or_missing_in_an_open_is_taken() {
    let (host, _speaker, mut agent) = waiting(THEIRS);
    let open = || Open::new(THEIRS, ID);
    let capability = [&[2, 6, 65, 4][..], &THEIRS.to_be_bytes()].concat();
    // Length octets of 255 (RFC 9072), then the real ones with two octets each.
    let extended = [&hex("ff ff 0009 02 0006 4104")[..], &THEIRS.to_be_bytes()].concat();
    for (what, open, families, wide) in [
        ("S10 an unknown capability", open().offering("fa 03 010203"), 2, true),
        ("S10 the same one twice", open().offering("0200 0104 00010001"), 2, true),
        ("S10 one parameter each", Open { parameters: Some([&[8][..], &capability].concat()), ..open() }, 1, true),
        ("S11 extended parameters", Open { parameters: Some(extended), ..open() }, 1, true),
        ("S12 none at all", Open { parameters: Some(vec![0]), ..open() }, 1, false),
    ] {
        let mut raw = Raw::established(&host, US, &open);
        agent.established("10.99.0.2");
        let report = agent.ask(Question::Peers);
        let negotiated = &report[0]["negotiated"];
        assert_eq!(negotiated["families"].as_array().unwrap().len(), families, "{what}: {report}");
        assert_eq!(negotiated["capabilities"].to_string().contains("4-octet AS"), wide, "{what}: {report}");
        raw.listen_for(Duration::from_millis(100));
        assert!(!raw.closed, "{what}");
        drop(raw);
        agent.wait("down", LIMIT, |agent| !agent.states[0].is_established());
    }
}

/// S7: the hold time is the lower one, keepalives come every third of it, and with zero there are none.
#[test]
fn keepalives_follow_the_hold_time() {
    let (host, _speaker, mut agent) = waiting(THEIRS);
    for (hold, agreed, between) in [(0, 0, 0..=1), (3, 3, 3..=6), (65535, 90, 1..=2)] {
        let mut raw = Raw::established(&host, US, &Open { hold, ..Open::new(THEIRS, ID) });
        agent.established("10.99.0.2");
        assert_eq!(agent.ask(Question::Peers)[0]["negotiated"]["holdSeconds"], agreed);
        for _ in 0..4 {
            raw.send(&message(KEEPALIVE, &[]));
            raw.listen_for(Duration::from_secs(1));
        }
        assert!(between.contains(&raw.keepalives), "hold time {hold}: {} keepalives in 4 s", raw.keepalives);
        assert!(!raw.closed);
        drop(raw);
        agent.wait("down", LIMIT, |agent| !agent.states[0].is_established());
    }
}

/// S13 (RFC 6608).
#[test]
fn a_message_out_of_turn_ends_the_connection_and_says_which_turn_it_was() {
    let (host, _speaker, mut agent) = waiting(THEIRS);
    let open = Open::new(THEIRS, ID);
    let update = message(UPDATE, &[0; 4]);
    let mut sent = Raw::connect(&host, US);
    sent.until(|raw| raw.opened.is_some());
    sent.send(&update);
    let (code, subcode, _) = sent.ended();
    assert_eq!((code, subcode), (5, 1), "UPDATE in OpenSent");
    let mut confirmed = Raw::connect(&host, US);
    confirmed.send(&open.octets());
    confirmed.until(|raw| raw.keepalives > 0);
    confirmed.send(&update);
    let (code, subcode, _) = confirmed.ended();
    assert_eq!((code, subcode), (5, 2), "UPDATE in OpenConfirm");
    let mut up = Raw::established(&host, US, &open);
    agent.established("10.99.0.2");
    up.send(&open.octets());
    let (code, subcode, _) = up.ended();
    assert_eq!((code, subcode), (5, 3), "OPEN in Established");
}

/// S17: who is up stays up.
#[test]
fn a_second_connection_is_refused_and_the_first_not_disturbed() {
    let (host, _speaker, mut agent) = waiting(THEIRS);
    let mut first = Raw::established(&host, US, &Open::new(THEIRS, ID));
    agent.established("10.99.0.2");
    let mut second = Raw::connect(&host, US);
    second.send(&Open::new(THEIRS, ID).octets());
    assert!(!second.until(|raw| raw.keepalives > 0), "the second one is not taken");
    assert!(second.closed, "but closed");
    first.send(&update(&[], &joined(&good(Some(THEIRS), [10, 99, 0, 2])), &hex("18cb0071")));
    agent.learned("203.0.113.0/24", &["10.99.0.2"]);
    first.listen_for(Duration::from_millis(100));
    assert!(!first.closed && first.notification.is_none());
    assert_eq!(agent.ask(Question::Peers)[0]["counters"]["lost"], 0);
}

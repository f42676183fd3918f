//! What comes over a session that is up: split anywhere, damaged, long, several paths of a prefix; and what stays of a
//! peer that went (S23 to S25, R4, R15, G4 and G5 of the interop scenarios).

use super::{KEEPALIVE, Open, Raw, attribute, good, hex, joined, message, update};
use crate::bird::{hosts, speaker};
use crate::daemon::US;
use crate::support::{Agent, LIMIT, Speaker, peer};
use lasthop_agent::speaker::Question;
use lasthop_bgp::config::{AddPath, ConnectMode, PeerConfig, Switch};
use lasthop_testkit::netns::Host;
use std::time::Duration;

const OURS: u32 = 65000;
const THEIRS: u32 = 65001;
const ID: [u8; 4] = [192, 0, 2, 100];
const THEM: &str = "10.99.0.2";
const AT: [u8; 4] = [10, 99, 0, 2];

fn waiting(change: impl FnOnce(&mut PeerConfig)) -> (Host, Speaker, Agent) {
    let [a, b] = hosts();
    let mut config = PeerConfig { connect: ConnectMode::Passive, ..peer(US, THEM, THEIRS) };
    change(&mut config);
    let (speaker, mut agent) = speaker(&a, US, OURS, vec![config]);
    agent.wait("listening", LIMIT, |agent| agent.listening.is_some());
    (b, speaker, agent)
}

fn open() -> Open {
    Open::new(THEIRS, ID)
}

fn route(nlri: &str) -> Vec<u8> {
    update(&[], &joined(&good(Some(THEIRS), AT)), &hex(nlri))
}

/// S23: the header.
#[test]
fn a_damaged_header_ends_the_session_with_what_was_wrong() {
    let (host, _speaker, _agent) = waiting(|_| {});
    let damaged = |at: usize, octets: &[u8]| {
        let mut bytes = message(KEEPALIVE, &[]);
        bytes[at..at + octets.len()].copy_from_slice(octets);
        bytes
    };
    for (what, bytes, expected) in [
        ("marker", damaged(3, &[0]), (1, 1, None)),
        ("length 18", damaged(16, &[0, 18]), (1, 2, Some(vec![0, 18]))),
        ("length 4097", damaged(16, &[0x10, 0x01]), (1, 2, Some(vec![0x10, 0x01]))),
        ("type 9", damaged(18, &[9]), (1, 3, Some(vec![9]))),
        ("KEEPALIVE of 20 octets", message(KEEPALIVE, &[0]), (1, 2, Some(vec![0, 20]))),
    ] {
        let mut raw = Raw::established(&host, US, &open());
        raw.send(&bytes);
        let (code, subcode, data) = raw.ended();
        assert_eq!((code, subcode), (expected.0, expected.1), "{what}");
        assert!(expected.2.is_none_or(|expected| expected == data), "{what}: {data:02x?}");
    }
}

/// S25: TCP knows no messages.
#[test]
fn messages_may_be_split_and_joined_anywhere() {
    let (host, _speaker, mut agent) = waiting(|_| {});
    let mut raw = Raw::connect(&host, US);
    let mut all = [open().octets(), message(KEEPALIVE, &[])].concat();
    // Octet by octet, each in a segment of its own.
    for octet in all.drain(..) {
        raw.send(&[octet]);
    }
    agent.established(THEM);
    for octet in route("18cb0071") {
        raw.send(&[octet]);
        std::thread::sleep(Duration::from_micros(200));
    }
    agent.learned("203.0.113.0/24", &[THEM]);
    // Three in one, and one cut in the middle of its header.
    let three = [route("18cb0072"), message(KEEPALIVE, &[]), route("18cb0073")].concat();
    raw.send(&three[..three.len() - 30]);
    std::thread::sleep(Duration::from_millis(50));
    raw.send(&three[three.len() - 30..]);
    agent.learned("203.0.114.0/24", &[THEM]);
    agent.learned("203.0.115.0/24", &[THEM]);
    raw.listen_for(Duration::from_millis(50));
    assert!(!raw.closed);
}

/// S24: one UPDATE of some 60,000 octets, from one that agreed on such; from another it is an error.
#[test]
fn an_update_of_sixty_thousand_octets_is_taken_where_that_was_agreed() {
    let (host, _speaker, mut agent) = waiting(|_| {});
    let nlri: Vec<u8> = (0..12_000u32).flat_map(|i| [&[32][..], &(0x0a42_0000 + i).to_be_bytes()].concat()).collect();
    let long = update(&[], &joined(&good(Some(THEIRS), AT)), &nlri);
    assert!(long.len() > 60_000);
    let mut raw = Raw::established(&host, US, &open().offering("0600"));
    raw.send(&long);
    agent.wait("all routes", LIMIT, |agent| agent.routes.len() == 12_000);
    drop(raw);
    agent.wait("none", LIMIT, |agent| agent.routes.is_empty());
    let mut raw = Raw::established(&host, US, &open());
    raw.send(&long);
    let (code, subcode, _) = raw.ended();
    assert_eq!((code, subcode), (1, 2));
}

/// R4: our own AS in the AS_PATH, as often as is allowed and once more.
#[test]
fn our_own_as_is_allowed_as_often_as_was_said() {
    for allowed in 0..=2u8 {
        let (host, _speaker, mut agent) = waiting(|peer| peer.allowed_own_as = allowed);
        let mut raw = Raw::established(&host, US, &open());
        for times in 0..=3u8 {
            let mut attributes = good(Some(THEIRS), AT);
            let path: Vec<u8> =
                [THEIRS].into_iter().chain((0..times).map(|_| OURS)).flat_map(u32::to_be_bytes).collect();
            attributes.insert(2, attribute(0x40, 2, &[&[2, times + 1][..], &path].concat()));
            raw.send(&update(&[], &joined(&attributes), &[24, 203, 0, times]));
        }
        raw.send(&route("18c63364"));
        agent.learned("198.51.100.0/24", &[THEM]);
        for times in 0..=3u8 {
            let prefix = format!("203.0.{times}.0/24").parse().unwrap();
            assert_eq!(agent.routes.contains_key(&prefix), times <= allowed, "{times} times, {allowed} allowed");
        }
    }
}

/// R15: path identifiers.
#[test]
fn paths_of_a_prefix_are_told_apart_by_their_identifiers() {
    let several = AddPath { receive: Switch::On, send: 0 };
    let (host, _speaker, mut agent) = waiting(|peer| peer.add_path = several);
    // We send and receive for IPv4.
    let mut raw = Raw::established(&host, US, &open().offering("4504 00010103"));
    let with_med = |med: u32, nlri: &str| {
        let mut attributes = good(Some(THEIRS), AT);
        attributes.insert(4, attribute(0x80, 4, &med.to_be_bytes()));
        update(&[], &joined(&attributes), &hex(nlri))
    };
    let paths = |agent: &mut Agent| {
        let paths = agent.ask(Question::Paths(Some("203.0.113.0/24".parse().unwrap())));
        let meds = paths.as_array().unwrap().iter().map(|path| path["attributes"]["MULTI_EXIT_DISC"].to_string());
        let mut meds: Vec<String> = meds.map(|med| med.replace('"', "")).collect();
        meds.sort();
        meds
    };
    let until = |agent: &mut Agent, expected: &[&str]| {
        let end = std::time::Instant::now() + LIMIT;
        while paths(agent) != expected {
            assert!(std::time::Instant::now() < end, "{:?}, not {expected:?}", paths(agent));
        }
    };
    raw.send(&with_med(1, "00000000 18cb0071"));
    raw.send(&with_med(2, "00000007 18cb0071"));
    until(&mut agent, &["1", "2"]);
    // The same identifier with other attributes replaces.
    raw.send(&with_med(3, "00000007 18cb0071"));
    until(&mut agent, &["1", "3"]);
    raw.send(&update(&hex("00000000 18cb0071"), &[], &[]));
    until(&mut agent, &["3"]);
    // Too short for an identifier.
    raw.send(&with_med(1, "18cb0071"));
    let (code, subcode, _) = raw.ended();
    assert_eq!((code, subcode), (3, 10));
}

/// What a peer says of itself after a restart, and what is kept of its former life then (RFC 4724 section 4.2).
#[test]
fn stale_routes_go_at_once_where_the_peer_did_not_keep_them() {
    // R flag, a restart time of 60 s; each family with or without its F flag.
    let first = "400a 003c 00010180 00020180";
    for (what, second, kept) in [
        ("G4 kept both", "400a 803c 00010180 00020180", 1),
        ("G4 kept none", "400a 803c 00010100 00020100", 0),
        ("G4 without the family", "4006 803c 00020180", 0),
        ("G4 without the capability", "", 0),
    ] {
        let (host, _speaker, mut agent) = waiting(|_| {});
        let mut raw = Raw::established(&host, US, &open().offering(first));
        raw.send(&route("18cb0071"));
        agent.learned("203.0.113.0/24", &[THEM]);
        drop(raw);
        agent.wait("down", LIMIT, |agent| !agent.states[0].is_established());
        agent.listen_for(Duration::from_millis(300));
        assert_eq!(agent.routes.len(), 1, "{what}: kept while it is away");
        let mut raw = Raw::established(&host, US, &open().offering(second));
        agent.established(THEM);
        agent.listen_for(Duration::from_millis(300));
        assert_eq!(agent.routes.len(), kept, "{what}");
        if kept == 1 {
            // G5: it restarts again before its End-of-RIB: what is stale still goes, what is new stays.
            raw.send(&route("18cb0072"));
            agent.learned("203.0.114.0/24", &[THEM]);
            drop(raw);
            agent.wait("down", LIMIT, |agent| !agent.states[0].is_established());
            agent.listen_for(Duration::from_millis(300));
            assert_eq!(agent.routes.len(), 1, "G5: {:?}", agent.routes);
            agent.learned("203.0.114.0/24", &[THEM]);
            raw = Raw::established(&host, US, &open().offering(second));
            agent.established(THEM);
            // End-of-RIB of IPv4: nothing is said again.
            raw.send(&update(&[], &[], &[]));
            agent.learned("203.0.114.0/24", &[]);
        }
        raw.listen_for(Duration::from_millis(50));
        assert!(!raw.closed, "{what}");
    }
}

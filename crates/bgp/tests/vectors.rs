//! The byte-exact vectors of `bgp_vectors.json`: one peer says them, what becomes of the route is seen at another.

#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it must be")]

mod common;

use common::raw::{Bench, RawOpen, SUT, Seen, attribute, hex, update};
use lasthop_bgp::PeerState;
use serde_json::Value;
use std::collections::BTreeMap;

const INJECTOR: [u8; 4] = [10, 99, 1, 2];
const OBSERVER: [u8; 4] = [10, 99, 1, 3];
const PREFIX: &str = "18cb0071";

fn base(internal: bool) -> BTreeMap<u8, Vec<u8>> {
    let path = if internal { Vec::new() } else { hex("0201 0000fde9") };
    let mut attributes = BTreeMap::from([
        (1, attribute(0x40, 1, &[0])),
        (2, attribute(0x40, 2, &path)),
        (3, attribute(0x40, 3, &INJECTOR)),
    ]);
    if internal {
        attributes.insert(5, attribute(0x40, 5, &100u32.to_be_bytes()));
    }
    attributes
}

fn filled(text: &str) -> Vec<u8> {
    let address = |octets: [u8; 4]| octets.map(|o| format!("{o:02x}")).concat();
    let text = text.replace("{NH}", &address(INJECTOR)).replace("{AS}", "0000fde9");
    hex(&text.replace("{SUT}", &address(SUT.octets())).replace("{SUTAS}", "0000fde8"))
}

fn build(vector: &Value) -> Vec<u8> {
    if let Some(raw) = vector["raw"].as_str() {
        return filled(raw);
    }
    let mut attributes = base(vector["ibgp"] == true);
    for (kind, text) in vector["attrs"].as_object().into_iter().flatten() {
        attributes.insert(kind.parse().unwrap(), filled(text.as_str().unwrap()));
    }
    for kind in vector["without"].as_array().into_iter().flatten() {
        attributes.remove(&u8::try_from(kind.as_u64().unwrap()).unwrap());
    }
    let mut attributes = attributes.into_values().collect::<Vec<_>>().concat();
    attributes.extend(filled(vector["append"].as_str().unwrap_or("")));
    update(&[], &attributes, &filled(vector["nlri"].as_str().unwrap_or(PREFIX)))
}

fn outcome(vector: &Value, injector: &Seen, observer: &Seen) -> String {
    if let Some((code, subcode, _)) = injector.notification() {
        return format!("reset {code}/{subcode}");
    }
    if injector.closed {
        return "reset tcp-close".to_owned();
    }
    let prefix = vector["prefix"].as_str().unwrap_or("203.0.113.0/24").parse().unwrap();
    let Some(attributes) = observer.routes.get(&prefix) else { return "withdraw".to_owned() };
    let Some(kind) = vector["look_for"].as_u64() else { return "accept".to_owned() };
    match attributes.get(&u8::try_from(kind).unwrap()) {
        None => "discard".to_owned(),
        Some((flags, value)) => {
            let value: String = value.iter().map(|o| format!("{o:02x}")).collect();
            format!("kept {flags:02x}:{value}")
        }
    }
}

#[test]
fn every_vector_has_its_expected_outcome() {
    let file: Value = serde_json::from_str(include_str!("bgp_vectors.json")).unwrap();
    let mut wrong = Vec::new();
    for vector in file["vectors"].as_array().unwrap() {
        let internal = vector["ibgp"] == true;
        let mut bench = Bench::two_peers(internal);
        let (mine, other) = if internal { (65000, 65000) } else { (65001, 65002) };
        let observer = bench.connect(OBSERVER, &RawOpen::new(other, [192, 0, 2, 200]));
        let injector = bench.connect(INJECTOR, &RawOpen::new(mine, [192, 0, 2, 100]));
        let good = base(internal).into_values().collect::<Vec<_>>().concat();
        bench.send(injector, &update(&[], &good, &hex(PREFIX)));
        assert!(bench.seen[&observer].routes.contains_key(&"203.0.113.0/24".parse().unwrap()), "the good route");
        bench.send(injector, &build(vector));
        let got = outcome(vector, &bench.seen[&injector], &bench.seen[&observer]);
        let expect = vector["expect"].as_array().unwrap();
        if !expect.iter().any(|expect| got.starts_with(expect.as_str().unwrap())) {
            wrong.push(format!("{} {}: expected {expect:?}, got {got}", vector["id"], vector["title"]));
        }
        // Whatever happened to one peer, the other never notices, and a good route is accepted afterwards.
        assert!(bench.seen[&observer].notification().is_none());
        if !got.starts_with("reset") {
            bench.send(injector, &update(&[], &good, &hex(PREFIX)));
            assert!(bench.seen[&observer].routes.contains_key(&"203.0.113.0/24".parse().unwrap()), "{}", vector["id"]);
        } else {
            let states: Vec<PeerState> = bench.speaker.peers().iter().map(|peer| peer.state).collect();
            assert_eq!(states, [PeerState::Active, PeerState::Established], "{}", vector["id"]);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_reflected_route_is_changed_in_nothing_but_originator_and_cluster_list() {
    let mut bench = Bench::two_peers(true);
    let observer = bench.connect(OBSERVER, &RawOpen::new(65000, [192, 0, 2, 200]));
    let injector = bench.connect(INJECTOR, &RawOpen::new(65000, [192, 0, 2, 100]));
    let mut attributes = base(true);
    attributes.insert(4, attribute(0x80, 4, &7u32.to_be_bytes()));
    let attributes = attributes.into_values().collect::<Vec<_>>().concat();
    bench.send(injector, &update(&[], &attributes, &hex(PREFIX)));
    let seen = &bench.seen[&observer].routes[&"203.0.113.0/24".parse().unwrap()];
    let value = |kind: u8| seen.get(&kind).map(|(_, value)| value.as_slice());
    assert_eq!(value(2), Some(&[][..]), "AS_PATH");
    assert_eq!(value(3), Some(&INJECTOR[..]), "NEXT_HOP");
    assert_eq!(value(4), Some(&[0, 0, 0, 7][..]), "MED");
    assert_eq!(value(5), Some(&[0, 0, 0, 100][..]), "LOCAL_PREF");
    assert_eq!(value(9), Some(&[192, 0, 2, 100][..]), "ORIGINATOR_ID");
    assert_eq!(value(10), Some(&[192, 0, 2, 1][..]), "CLUSTER_LIST");
    assert!(bench.seen[&injector].routes.is_empty(), "not back to where it came from");
}

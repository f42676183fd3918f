//! The byte-exact vectors over real sessions (section 4 of the interop scenarios): one speaker says them, what becomes of
//! the route is seen by another. As external peers, and as internal clients of us as a reflector.

use super::{Open, Raw, attribute, good, hex, joined, update};
use crate::bird::{hosts, speaker};
use crate::daemon::US;
use crate::support::peer;
use lasthop_agent::speaker::Question;
use lasthop_bgp::config::{ConnectMode, PeerConfig, ReflectMode};
use serde_json::Value;
use std::collections::BTreeMap;

const OURS: u32 = 65000;
const INJECTOR: [u8; 4] = [10, 99, 0, 2];
const GOOD: &str = "203.0.113.0/24";
/// Said after each vector: when this is seen, so is what came before.
const MARK: &str = "198.51.100.0/24";

fn filled(text: &str) -> Vec<u8> {
    let text = text.replace("{NH}", "0a630002").replace("{AS}", "0000fde9");
    hex(&text.replace("{SUT}", "0a630001").replace("{SUTAS}", "0000fde8"))
}

fn build(vector: &Value, good: &BTreeMap<u8, Vec<u8>>) -> Vec<u8> {
    if let Some(raw) = vector["raw"].as_str() {
        return filled(raw);
    }
    let mut attributes = good.clone();
    for (kind, text) in vector["attrs"].as_object().into_iter().flatten() {
        attributes.insert(kind.parse().unwrap(), filled(text.as_str().unwrap()));
    }
    for kind in vector["without"].as_array().into_iter().flatten() {
        attributes.remove(&u8::try_from(kind.as_u64().unwrap()).unwrap());
    }
    let octets = [joined(&attributes), filled(vector["append"].as_str().unwrap_or(""))].concat();
    update(&[], &octets, &filled(vector["nlri"].as_str().unwrap_or("18cb0071")))
}

/// What became of a vector, in its own words.
fn outcome(vector: &Value, injector: &Raw, observer: &Raw) -> String {
    if let Some((code, subcode, _)) = injector.notification {
        return format!("reset {code}/{subcode}");
    }
    if injector.closed {
        return "reset tcp-close".to_owned();
    }
    let Some(attributes) = observer.routes.get(vector["prefix"].as_str().unwrap_or(GOOD)) else {
        return "withdraw".to_owned();
    };
    let Some(kind) = vector["look_for"].as_u64() else { return "accept".to_owned() };
    match attributes.get(&u8::try_from(kind).unwrap()) {
        None => "discard".to_owned(),
        Some((flags, value)) => {
            let value: String = value.iter().map(|octet| format!("{octet:02x}")).collect();
            format!("kept {flags:02x}:{value}")
        }
    }
}

fn all_of(internal: bool) {
    let (mine, other) = if internal { (OURS, OURS) } else { (65001, 65002) };
    let [a, b, c] = hosts();
    let waits = |address: &str, asn| PeerConfig {
        connect: ConnectMode::Passive,
        reflect: if internal { ReflectMode::Client } else { ReflectMode::NonClient },
        ..peer(US, address, asn)
    };
    let (speaker, mut agent) = speaker(&a, US, OURS, vec![waits("10.99.0.2", mine), waits("10.99.0.3", other)]);
    agent.config.cluster_id = Some("192.0.2.1".parse().unwrap());
    agent.wait("listening", crate::support::LIMIT, |agent| agent.listening.is_some());
    let mut observer = Raw::established(&c, US, &Open::new(other, [192, 0, 2, 200]));
    let good = good((!internal).then_some(mine), INJECTOR);
    let say = |injector: &mut Raw, nlri: &str| injector.send(&update(&[], &joined(&good), &hex(nlri)));
    let file: Value = serde_json::from_str(include_str!("../../../../bgp/tests/bgp_vectors.json")).unwrap();
    let vectors: Vec<&Value> =
        file["vectors"].as_array().unwrap().iter().filter(|vector| (vector["ibgp"] == true) == internal).collect();
    let mut wrong = Vec::new();
    for vector in &vectors {
        let id = &vector["id"];
        let mut injector = Raw::established(&b, US, &Open::new(mine, [192, 0, 2, 100]));
        say(&mut injector, "18cb0071");
        assert!(observer.until(|raw| raw.routes.contains_key(GOOD)), "{id}: the good route");
        injector.send(&build(vector, &good));
        say(&mut injector, "18c63364");
        // Either the connection ends, or what came after the vector is there; nothing is waited for in vain.
        while injector.notification.is_none() && !injector.closed && !observer.routes.contains_key(MARK) {
            injector.listen();
            observer.listen();
        }
        let got = outcome(vector, &injector, &observer);
        println!("{id} {}: {got}", vector["title"]);
        let expected = vector["expect"].as_array().unwrap();
        if !expected.iter().any(|expected| got.starts_with(expected.as_str().unwrap())) {
            wrong.push(format!("{id} {}: expected {expected:?}, got {got}", vector["title"]));
        }
        if !got.starts_with("reset") {
            say(&mut injector, "18cb0071");
            assert!(observer.until(|raw| raw.routes.contains_key(GOOD)), "{id}: a good route afterwards");
        }
        drop(injector);
        assert!(observer.until(|raw| raw.routes.is_empty()), "{id}: gone with the session: {:?}", observer.routes);
        assert!(observer.notification.is_none() && !observer.closed, "{id}: the other peer never notices");
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", speaker.log());
    println!("{} vectors over real sessions", vectors.len());
    let report = agent.ask(Question::Peers);
    let count = |name: &str| report[0]["counters"][name].as_u64().unwrap();
    if !internal {
        assert!(count("treatedAsWithdraw") >= 10 && count("attributesDiscarded") >= 2, "{report}");
        let log = speaker.log();
        for named in ["ORIGIN", "AS_PATH", "NEXT_HOP", "COMMUNITIES"] {
            let line = log.lines().find(|line| line.contains(named) && line.contains("10.99.0.2"));
            assert!(line.is_some(), "the log names {named}:\n{log}");
        }
    }
}

#[test]
fn every_vector_from_an_external_peer() {
    all_of(false);
}

#[test]
fn every_vector_from_a_client_of_ours() {
    all_of(true);
}

/// RR2: what a reflected route is given, and that nothing else of it changes.
#[test]
fn a_reflected_route_is_changed_in_nothing_but_originator_and_cluster_list() {
    let [a, b, c] = hosts();
    let waits = |address: &str| PeerConfig {
        connect: ConnectMode::Passive,
        reflect: ReflectMode::Client,
        next_hop: lasthop_bgp::config::NextHop::OurSelf,
        ..peer(US, address, OURS)
    };
    let (_speaker, mut agent) = speaker(&a, US, OURS, vec![waits("10.99.0.2"), waits("10.99.0.3")]);
    agent.config.cluster_id = Some("192.0.2.1".parse().unwrap());
    agent.wait("listening", crate::support::LIMIT, |agent| agent.listening.is_some());
    let mut observer = Raw::established(&c, US, &Open::new(OURS, [192, 0, 2, 200]));
    let mut injector = Raw::established(&b, US, &Open::new(OURS, [192, 0, 2, 100]));
    let mut attributes = good(None, INJECTOR);
    attributes.insert(4, attribute(0x80, 4, &7u32.to_be_bytes()));
    injector.send(&update(&[], &joined(&attributes), &hex("18cb0071")));
    assert!(observer.until(|raw| raw.routes.contains_key(GOOD)));
    let value = |kind: u8| observer.routes[GOOD].get(&kind).map(|(_, value)| value.as_slice());
    assert_eq!((value(2), value(3)), (Some(&[][..]), Some(&INJECTOR[..])), "AS_PATH, NEXT_HOP");
    assert_eq!((value(4), value(5)), (Some(&[0, 0, 0, 7][..]), Some(&[0, 0, 0, 100][..])), "MED, LOCAL_PREF");
    assert_eq!((value(9), value(10)), (Some(&[192, 0, 2, 100][..]), Some(&[192, 0, 2, 1][..])));
    injector.listen_for(std::time::Duration::from_millis(200));
    assert!(injector.routes.is_empty(), "not back to where it came from");
    // RR3: what comes round is ignored, and the rest of the message used.
    attributes.insert(10, attribute(0x80, 10, &[192, 0, 2, 9, 192, 0, 2, 1]));
    injector.send(&update(&[], &joined(&attributes), &hex("18cb0071")));
    assert!(observer.until(|raw| raw.routes.is_empty()), "our cluster id is in it");
    attributes.remove(&10);
    attributes.insert(9, attribute(0x80, 9, &[10, 99, 0, 1]));
    injector.send(&update(&[], &joined(&attributes), &hex("18cb0071 18cb0072")));
    attributes.remove(&9);
    injector.send(&update(&[], &joined(&attributes), &hex("18c63364")));
    assert!(observer.until(|raw| raw.routes.contains_key(MARK)));
    assert_eq!(observer.routes.len(), 1, "our identifier is in it: {:?}", observer.routes.keys());
    assert!(injector.notification.is_none() && !injector.closed);
}

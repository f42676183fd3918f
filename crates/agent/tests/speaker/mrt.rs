//! A dump of the tables, read back by bgpdump.

use crate::bird::{hosts, speaker};
use crate::support::{Agent, LIMIT, bird_routes, bird_session, peer};
use lasthop_agent::speaker::Question;
use lasthop_agent::speaker::protocol::ToSpeaker;
use lasthop_bgp::config::{AddPath, PeerConfig, Switch};
use lasthop_testkit::bird::{Bird, base};
use std::path::Path;
use std::process::Command;

/// Asks for a dump and lets bgpdump read it: a line a path, in order.
fn dump(agent: &mut Agent, file: &Path) -> Vec<String> {
    let id = 77 + agent.answers.len() as u64;
    let question = Question::Dump(file.to_str().unwrap().to_owned());
    agent.client.send(&ToSpeaker::Ask { id, question });
    agent.wait("the dump", LIMIT, |agent| agent.answers.contains_key(&id));
    let octets: u64 = agent.answers[&id].as_ref().unwrap().parse().unwrap();
    assert_eq!(std::fs::metadata(file).unwrap().len(), octets);
    let output = Command::new("bgpdump").args(["-m", "-v"]).arg(file).output();
    let output = output.expect("bgpdump is needed: install it with scripts/install-deps.sh test");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    println!("{text}");
    text.lines().map(str::to_owned).collect()
}

/// A line without its times: of the record and of the path.
fn fields(line: &str) -> Vec<&str> {
    line.split('|').skip(2).collect()
}

#[test]
fn a_dump_is_what_the_speaker_holds_in_the_eyes_of_bgpdump() {
    let [a, b] = hosts();
    let bird = base("10.99.0.2")
        + "protocol static s4 { ipv4; route 10.65.2.0/24 unreachable { bgp_community.add((64513, 9)); }; }\n"
        + "protocol static s6 { ipv6; route fd00:65:2::/64 unreachable; }\n"
        + &bird_session("peer", ("10.99.0.2", 64513), ("10.99.0.1", 4_200_000_001), "");
    let _bird = Bird::start(&b, &bird).unwrap();
    let (speaker, mut agent) = speaker(&a, "10.99.0.1", 4_200_000_001, vec![peer("10.99.0.1", "10.99.0.2", 64513)]);
    agent.own = ["10.65.0.0/26".parse().unwrap(), "fd00:65::/122".parse().unwrap()].into();
    // More than a part, so that parts follow each other without a gap.
    agent.own.extend((0..3000u32).map(|i| lasthop_net::Prefix::host((0x0a42_0000 + i).to_be_bytes().into())));
    agent.established("10.99.0.2");
    agent.learned("10.65.2.0/24", &["10.99.0.2"]);
    agent.learned("fd00:65:2::/64", &["fd00:99::2"]);
    let file = speaker.directory().join("rib.mrt");
    let lines = dump(&mut agent, &file);
    assert_eq!(lines.len(), 3004, "each path once");
    let of = |prefix: &str| {
        let lines: Vec<&String> = lines.iter().filter(|line| line.contains(prefix)).collect();
        assert_eq!(lines.len(), 1, "{prefix}: {lines:?}");
        fields(lines[0])
    };
    let own = of("|10.65.0.0/26|");
    assert_eq!(own[..7], ["B", "0.0.0.0", "4200000001", "10.65.0.0/26", "", "IGP", "0.0.0.0"], "{own:?}");
    let learned = of("|10.65.2.0/24|");
    let expected = ["B", "10.99.0.2", "64513", "10.65.2.0/24", "64513", "IGP", "10.99.0.2", "0", "0", "64513:9"];
    assert_eq!(learned[..10], expected, "{learned:?}");
    let learned = of("|fd00:65:2::/64|");
    let expected = ["B", "10.99.0.2", "64513", "fd00:65:2::/64", "64513", "IGP", "fd00:99::2"];
    assert_eq!(learned[..7], expected, "{learned:?}");
    assert!(!speaker.directory().join("rib.mrt.part").exists());
}

#[test]
fn several_paths_of_a_prefix_are_dumped_with_their_identifiers() {
    let [a, b] = hosts();
    let session = bird_session("peer", ("10.99.0.2", 64512), ("10.99.0.1", 64512), "")
        .replace("{ import", "{ add paths on; import");
    let bird = base("10.99.0.2")
        + "protocol static one { ipv4; route 10.65.2.0/24 unreachable { bgp_med = 1; }; }\n"
        + "protocol static two { ipv4; route 10.65.2.0/24 unreachable { bgp_med = 2; }; }\n"
        + &bird_routes("", "route fd00:65:2::/64 unreachable;")
        + &session;
    let _bird = Bird::start(&b, &bird).unwrap();
    let several = AddPath { receive: Switch::On, send: 4 };
    let config = PeerConfig { add_path: several, ..peer("10.99.0.1", "10.99.0.2", 64512) };
    let (speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, vec![config]);
    agent.established("10.99.0.2");
    agent.learned("10.65.2.0/24", &["10.99.0.2"]);
    agent.learned("fd00:65:2::/64", &["fd00:99::2"]);
    agent.listen_for(std::time::Duration::from_millis(300));
    let lines = dump(&mut agent, &speaker.directory().join("rib.mrt"));
    let meds: Vec<&str> =
        lines.iter().filter(|line| line.contains("|10.65.2.0/24|")).map(|line| fields(line)[9]).collect();
    assert_eq!(meds.len(), 2, "{lines:?}");
    assert!(meds.contains(&"1") && meds.contains(&"2"), "{meds:?}");
}

#[test]
fn a_file_that_cannot_be_written_is_told() {
    let [a] = hosts();
    let (_speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, Vec::new());
    agent.wait("listening", LIMIT, |agent| agent.listening.is_some());
    let question = Question::Dump("/nowhere/at/all.mrt".to_owned());
    agent.client.send(&ToSpeaker::Ask { id: 5, question });
    agent.wait("an answer", LIMIT, |agent| agent.answers.contains_key(&5));
    let error = agent.answers[&5].as_ref().unwrap_err();
    assert!(error.contains("cannot write /nowhere/at/all.mrt: No such file"), "{error}");
}

#[test]
fn who_watches_is_told_what_happens() {
    let [a, b] = hosts();
    let session = bird_session("peer", ("10.99.0.2", 64513), ("10.99.0.1", 64512), "");
    let bird =
        Bird::start(&b, &(base("10.99.0.2") + &bird_routes("route 10.65.2.0/24 unreachable;", "") + &session)).unwrap();
    let (_speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, vec![peer("10.99.0.1", "10.99.0.2", 64513)]);
    agent.established("10.99.0.2");
    agent.learned("10.65.2.0/24", &["10.99.0.2"]);
    let mut after = None;
    let mut seen: Vec<serde_json::Value> = Vec::new();
    let mut until = |agent: &mut Agent, what: &str, seen: &mut Vec<serde_json::Value>| {
        let end = std::time::Instant::now() + LIMIT;
        while !seen.iter().any(|event| event.to_string().contains(what)) {
            let told = agent.ask(Question::Events(after));
            after = told["next"].as_u64();
            seen.extend(told["events"].as_array().unwrap().iter().cloned());
            assert!(std::time::Instant::now() < end, "{what}: {seen:?}");
        }
    };
    until(&mut agent, r#""state":"Established""#, &mut seen);
    assert_eq!(seen.len(), 1, "what was before is told in one line a session: {seen:?}");
    agent.advertise(&["10.65.0.0/26"]);
    until(&mut agent, r#""kind":"advertised","prefix":"10.65.0.0/26""#, &mut seen);
    bird.ask("disable peer \"rack move\"").unwrap();
    until(&mut agent, "its operator shut the session down: 'rack move'", &mut seen);
    until(&mut agent, r#""kind":"lost""#, &mut seen);
    assert!(seen.iter().all(|event| event["time"].as_u64().is_some()), "{seen:?}");
}

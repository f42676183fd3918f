//! A recording of real sessions, replayed without sockets to the same tables.

use crate::bird::{hosts, speaker};
use crate::support::{Agent, LIMIT, Speaker, bird_routes, bird_session, peer};
use lasthop_agent::speaker::{Question, Recording, Replayed, replay};
use lasthop_bgp::config::{Auth, PeerConfig, Secret};
use lasthop_testkit::bird::{Bird, base};
use lasthop_testkit::netns::eventually;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

const PASSWORD: &str = "hunter2-of-the-fabric";

fn recording(speaker: &Speaker) -> (PathBuf, Recording) {
    let file = speaker.directory().join("speaker.rec");
    let wanted = Recording { file: file.to_str().unwrap().to_owned(), seconds: 60, octets: 4 << 20 };
    (file, wanted)
}

/// Ends the recording, replays it, and holds it against what the speaker says.
fn is_the_same(agent: &mut Agent, file: &PathBuf) -> Replayed {
    let (paths, peers) = (agent.ask(Question::Paths(None)), agent.ask(Question::Peers));
    assert_eq!(agent.ask(Question::Record(None)), Value::Bool(true));
    let mut replayed = replay(file).unwrap();
    eventually("the file is whole", LIMIT, || {
        replayed = replay(file)?;
        Ok(replayed.end == "it was stopped")
    })
    .unwrap();
    assert_eq!(replayed.paths, paths);
    for field in ["address", "state", "lastError", "prefixesIn", "prefixesOut", "prefixesRefused", "negotiated"] {
        assert_eq!(replayed.peers[0][field], peers[0][field], "{field}");
    }
    let octets = std::fs::read(file).unwrap();
    assert!(!octets.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes()), "no password in the file");
    println!("{} inputs in {} s, {} octets", replayed.inputs, replayed.seconds, octets.len());
    replayed
}

fn routes() -> String {
    bird_routes("route 10.65.2.0/24 unreachable; route 10.65.3.0/24 unreachable;", "route fd00:65:2::/64 unreachable;")
}

#[test]
fn a_session_recorded_from_its_beginning_is_replayed_to_the_same_tables() {
    let [a, b] = hosts();
    let config = PeerConfig { auth: Some(Auth::Md5(Secret::new(PASSWORD))), ..peer("10.99.0.1", "10.99.0.2", 64513) };
    let (speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, vec![config]);
    agent.own = ["10.65.0.0/26".parse().unwrap()].into();
    agent.wait("listening", LIMIT, |agent| agent.listening.is_some());
    let (file, wanted) = recording(&speaker);
    assert_eq!(agent.ask(Question::Record(Some(wanted.clone()))), Value::Bool(true));
    let options = format!("password \"{PASSWORD}\";");
    let session = bird_session("peer", ("10.99.0.2", 64513), ("10.99.0.1", 64512), &options);
    let bird = Bird::start(&b, &(base("10.99.0.2") + &routes() + &session)).unwrap();
    agent.established("10.99.0.2");
    agent.learned("10.65.2.0/24", &["10.99.0.2"]);
    agent.learned("fd00:65:2::/64", &["fd00:99::2"]);
    agent.advertise(&["10.65.0.64/26"]);
    bird.has_route("10.65.0.64/26", LIMIT).unwrap();
    bird.ask("restart peer").unwrap();
    agent.wait("down", LIMIT, |agent| !agent.states[0].is_established());
    agent.established("10.99.0.2");
    bird.ask("disable s6").unwrap();
    agent.learned("fd00:65:2::/64", &[]);
    agent.learned("10.65.2.0/24", &["10.99.0.2"]);
    agent.listen_for(Duration::from_millis(300));
    let replayed = is_the_same(&mut agent, &file);
    assert_eq!(replayed.passed_over, 0);
    assert_eq!(replayed.peers[0]["counters"]["established"], 2, "{}", replayed.peers);
}

#[test]
fn a_recording_that_begins_in_the_middle_begins_with_how_everything_stands() {
    let [a, b] = hosts();
    let session = bird_session("peer", ("10.99.0.2", 64513), ("10.99.0.1", 64512), "");
    let bird = Bird::start(&b, &(base("10.99.0.2") + &routes() + &session)).unwrap();
    let (speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, vec![peer("10.99.0.1", "10.99.0.2", 64513)]);
    agent.own = ["10.65.0.0/26".parse().unwrap()].into();
    agent.established("10.99.0.2");
    agent.learned("10.65.3.0/24", &["10.99.0.2"]);
    agent.learned("fd00:65:2::/64", &["fd00:99::2"]);
    agent.listen_for(Duration::from_millis(300));
    let (file, wanted) = recording(&speaker);
    assert_eq!(agent.ask(Question::Record(Some(wanted))), Value::Bool(true));
    bird.ask("disable s6").unwrap();
    agent.learned("fd00:65:2::/64", &[]);
    is_the_same(&mut agent, &file);
}

#[test]
fn a_recording_has_its_bounds_and_what_is_none_is_refused() {
    let [a, b] = hosts();
    let session = bird_session("peer", ("10.99.0.2", 64513), ("10.99.0.1", 64512), "");
    let bird = Bird::start(&b, &(base("10.99.0.2") + &routes() + &session)).unwrap();
    let (speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, vec![peer("10.99.0.1", "10.99.0.2", 64513)]);
    agent.established("10.99.0.2");
    let (file, wanted) = recording(&speaker);
    assert_eq!(agent.ask(Question::Record(Some(Recording { octets: 2000, ..wanted }))), Value::Bool(true));
    let end = std::time::Instant::now() + LIMIT;
    let replayed = loop {
        bird.ask("reload out peer").unwrap();
        agent.listen_for(Duration::from_millis(50));
        match replay(&file) {
            Ok(replayed) if replayed.end != "it is cut short" => break replayed,
            _ => assert!(std::time::Instant::now() < end),
        }
    };
    assert_eq!(replayed.end, "the file has its size");
    assert!(std::fs::metadata(&file).unwrap().len() < 2200);
    assert_eq!(agent.ask(Question::Record(None)), Value::Bool(false));
    let none = speaker.directory().join("bgp.log");
    let error = replay(&none).unwrap_err().to_string();
    assert!(error.contains("bgp.log: no recording of this version"), "{error}");
}

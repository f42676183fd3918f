//! The line between agent and speaker, and the speaker's process, without peers: see `bird` for those.

use crate::support::{Agent, LIMIT, Speaker, config, peer};
use lasthop_agent::speaker::Question;
use lasthop_agent::speaker::protocol::{Frames, ToAgent, ToSpeaker, VERSION, encode};
use lasthop_testkit::netns::{Host, Net, eventually};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

fn host() -> Host {
    Net::new().unwrap().host("a", &["10.99.0.1/24", "fd00:99::1/64"]).unwrap()
}

fn connect(speaker: &Speaker) -> UnixStream {
    let mut stream = None;
    eventually("the speaker's socket", LIMIT, || {
        stream = Some(UnixStream::connect(speaker.socket())?);
        Ok(true)
    })
    .unwrap();
    let stream = stream.unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Everything the speaker says until it closes the line.
fn to_the_end(stream: &mut UnixStream) -> Vec<ToAgent> {
    let mut frames = Frames::default();
    // A close over bytes that the speaker did not read is a reset.
    let _ = stream.read_to_end(frames.room());
    std::iter::from_fn(|| frames.take().unwrap()).collect()
}

#[test]
fn nothing_is_listened_on_before_configure_and_the_configured_port_after() {
    let host = host();
    let speaker = Speaker::start(&host);
    drop(connect(&speaker));
    assert_eq!(host.run("ss", &["-Hltn"]).unwrap(), "");
    let mode = std::fs::metadata(speaker.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut agent = Agent::new(&speaker.socket(), config(64512, "10.99.0.1"), Vec::new());
    agent.wait("listening", LIMIT, |agent| agent.listening == Some((179, None)));
    for address in ["10.99.0.1:179", "[fd00:99::1]:179"] {
        // No peer: the connection is reset at once, by nobody who knows anything of it.
        let mut stream = host.enter(|| TcpStream::connect(address)).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "{address}");
    }
    agent.config.port = 1790;
    agent.client.send(&ToSpeaker::Configure(agent.config.clone()));
    agent.wait("listening anew", LIMIT, |agent| agent.listening == Some((1790, None)));
    host.enter(|| TcpStream::connect("10.99.0.1:1790")).unwrap();
    host.enter(|| TcpStream::connect("10.99.0.1:179")).unwrap_err();
}

#[test]
fn a_port_in_use_is_told_and_tried_again() {
    let host = host();
    let taken = host.enter(|| std::net::TcpListener::bind("0.0.0.0:179")).unwrap();
    let speaker = Speaker::start(&host);
    let mut agent = Agent::new(&speaker.socket(), config(64512, "10.99.0.1"), Vec::new());
    agent.wait("told", LIMIT, |agent| {
        let problem = agent.listening.as_ref().and_then(|(_, problem)| problem.as_deref());
        problem.is_some_and(|problem| problem.contains("IPv4 port 179") && problem.contains("another BGP speaker"))
    });
    drop(taken);
    agent.wait("listening", LIMIT, |agent| agent.listening == Some((179, None)));
}

#[test]
fn strangers_on_the_socket_are_refused_with_a_reason() {
    let host = host();
    let speaker = Speaker::start(&host);
    let mut hello = Vec::new();
    encode(&ToSpeaker::Hello { version: VERSION }, &mut hello).unwrap();
    let mut other_version = Vec::new();
    encode(&ToSpeaker::Hello { version: VERSION + 1 }, &mut other_version).unwrap();
    let mut complete = Vec::new();
    encode(&ToSpeaker::Complete, &mut complete).unwrap();
    let noise = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
    for (bytes, expected) in [
        (noise.clone(), "is longer than"),
        (other_version, "restart the older one"),
        (complete.clone(), "something other than Hello"),
        ([&hello[..], &noise].concat(), "is longer than"),
        ([&hello[..], &complete].concat(), "Configure comes first"),
    ] {
        let mut stream = connect(&speaker);
        stream.write_all(&bytes).unwrap();
        let said = to_the_end(&mut stream);
        assert_eq!(said[0], ToAgent::Hello { version: VERSION }, "{expected}");
        assert!(
            matches!(said.last(), Some(ToAgent::Refused { reason }) if reason.contains(expected)),
            "'{expected}': {said:?}"
        );
    }
    let mut agent = Agent::new(&speaker.socket(), config(64512, "10.99.0.1"), Vec::new());
    agent.wait("a real agent is served after all that", LIMIT, |agent| agent.listening.is_some());
}

#[test]
fn a_new_agent_replaces_the_old_one() {
    let host = host();
    let speaker = Speaker::start(&host);
    let mut first = Agent::new(&speaker.socket(), config(64512, "10.99.0.1"), Vec::new());
    first.wait("connected", LIMIT, |agent| agent.connects == 1);
    let mut second = Agent::new(&speaker.socket(), config(64512, "10.99.0.1"), Vec::new());
    second.wait("connected", LIMIT, |agent| agent.connects == 1 && agent.listening.is_some());
    first.wait("refused", LIMIT, |agent| {
        agent.disconnects.last().is_some_and(|reason| reason.contains("another agent came"))
    });
}

#[test]
fn the_agent_comes_back_to_a_speaker_that_was_killed_and_the_speaker_remembers() {
    let host = host();
    let mut speaker = Speaker::start(&host);
    let peers = vec![peer("10.99.0.1", "10.99.0.2", 64512)];
    let mut agent = Agent::new(&speaker.socket(), config(64512, "10.99.0.1"), peers);
    agent.own.insert("10.65.0.24/32".parse().unwrap());
    agent.wait("listening", LIMIT, |agent| agent.listening.is_some());
    let intent = speaker.directory().join("bgp.intent");
    eventually("the intent is saved", LIMIT, || Ok(intent.exists())).unwrap();
    agent.withdraw(7, &["10.65.0.24/32"]);
    agent.wait("withdrawn", LIMIT, |agent| agent.withdrawn.contains(&7));
    speaker.kill();
    let before = agent.disconnects.len();
    agent.wait("the line is cut", LIMIT, |agent| agent.disconnects.len() > before);
    // Sent while nobody listens: answered once the speaker is back and knows everything.
    agent.withdraw(8, &["10.65.0.25/32"]);
    speaker.start_again();
    // Nobody speaks to it yet.
    eventually("it listens by itself", LIMIT, || Ok(host.run("ss", &["-Hltn"])?.contains(":179"))).unwrap();
    agent.wait("connected again", LIMIT, |agent| agent.connects == 2);
    agent.wait("withdrawn", LIMIT, |agent| agent.withdrawn.contains(&8));
    assert_eq!(agent.disconnects.len(), before + 1, "said once: {:?}", agent.disconnects);
    let answer = agent.ask(Question::Peers);
    assert!(answer.is_array(), "{answer}");
}

#[test]
fn a_second_speaker_in_the_same_directory_is_refused() {
    let host = host();
    let speaker = Speaker::start(&host);
    drop(connect(&speaker));
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["speaker_process", "--exact", "--ignored", "--nocapture", "--quiet"]);
    command.env(crate::support::DIRECTORY, speaker.directory());
    let output = command.output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("another speaker runs with") && text.contains("bgp.lock"), "{text}");
    drop(connect(&speaker));
}

#[test]
fn sigterm_ends_it_at_once_and_takes_the_socket_along() {
    let host = host();
    let mut speaker = Speaker::start(&host);
    let mut agent = Agent::new(&speaker.socket(), config(64512, "10.99.0.1"), Vec::new());
    agent.wait("listening", LIMIT, |agent| agent.listening.is_some());
    let start = Instant::now();
    speaker.process.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(speaker.process.wait(LIMIT).unwrap().success());
    assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
    assert!(!speaker.socket().exists());
    assert!(speaker.directory().join("bgp.intent").exists(), "it will go on from there");
}

#[test]
fn ten_thousand_prefixes_are_taken_fast_and_survive_a_crash() {
    let host = host();
    let mut speaker = Speaker::start(&host);
    let mut agent = Agent::new(&speaker.socket(), config(64512, "10.99.0.1"), Vec::new());
    for i in 0..10_000u32 {
        let address = std::net::IpAddr::from((0x0a41_0000 + i).to_be_bytes());
        agent.own.insert(lasthop_net::Prefix::host(address));
    }
    agent.wait("listening", LIMIT, |agent| agent.listening.is_some());
    agent.withdraw(1, &[]);
    let time = agent.wait("all are taken", LIMIT, |agent| agent.withdrawn.contains(&1));
    println!("10,000 own prefixes told and taken within {time:?} of the line being up");
    let intent = speaker.directory().join("bgp.intent");
    let saved = || Ok(std::fs::metadata(&intent).is_ok_and(|file| file.len() > 50_000));
    eventually("the intent is saved", LIMIT, saved).unwrap();
    speaker.kill();
    speaker.start_again();
    drop(connect(&speaker));
    assert!(speaker.log().contains("prefixes=10000"), "{}", speaker.log());
}

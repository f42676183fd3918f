//! Liveness against the BFD of BIRD and of FRR: a neighbour whose link is dead is gone in under a second.

use crate::bird::{hosts, speaker};
use crate::frr::Frr;
use crate::support::{Agent, LIMIT, bird_routes, bird_session, peer};
use lasthop_agent::speaker::Question;
use lasthop_bgp::config::{Bfd, BfdPath, PeerConfig};
use lasthop_testkit::bird::{Bird, base};
use lasthop_testkit::netns::{Frames, Host};
use std::time::{Duration, Instant};

const BIRD_BFD: &str =
    "protocol bfd { interface \"*\" { interval 50 ms; multiplier 3; }; multihop { interval 50 ms; multiplier 3; }; }\n";

fn watched(peer: PeerConfig) -> PeerConfig {
    let fast = Duration::from_millis(50);
    PeerConfig { bfd: Some(Bfd { transmit: fast, receive: fast, ..Bfd::default() }), ..peer }
}

fn is_up(agent: &mut Agent) {
    let end = Instant::now() + LIMIT;
    loop {
        let peers = agent.ask(Question::Peers);
        if peers[0]["bfd"] == "Up" {
            return;
        }
        assert!(Instant::now() < end, "BFD does not come up: {peers}");
        agent.listen_for(Duration::from_millis(100));
    }
}

/// Cuts the link of a host; how long until the route it told us is gone.
fn die(agent: &mut Agent, host: &Host, route: &str) -> Duration {
    // The carrier stays: nobody is told.
    host.frames(Frames::Lost).unwrap();
    let start = Instant::now();
    agent.learned(route, &[]);
    start.elapsed()
}

#[test]
fn a_bird_whose_link_is_dead_is_gone_in_under_a_second() {
    for (ours, theirs, path) in [
        ("10.99.0.1", "10.99.0.2", BfdPath::SingleHop),
        ("fd00:99::1", "fd00:99::2", BfdPath::SingleHop),
        ("10.99.0.1", "10.99.0.2", BfdPath::MultiHop),
    ] {
        let [a, b] = hosts();
        let session = bird_session("peer", (theirs, 64512), (ours, 64512), "bfd on;");
        let session = if path == BfdPath::MultiHop { session.replace("direct;", "multihop;") } else { session };
        let bird = base("10.99.0.2")
            + BIRD_BFD
            + &bird_routes("route 10.65.2.0/24 unreachable;", "route fd00:65:2::/64 unreachable;")
            + &session;
        let bird = Bird::start(&b, &bird).unwrap();
        let mut config = watched(peer(ours, theirs, 64512));
        config.bfd = config.bfd.map(|bfd| Bfd { path, ..bfd });
        let (_speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, vec![config.clone()]);
        agent.established(theirs);
        is_up(&mut agent);
        assert!(bird.ask("show bfd sessions").unwrap().contains("Up"));
        agent.learned("10.65.2.0/24", &["10.99.0.2"]);

        // Slower timers, hot: neither session notices.
        let since = agent.states[0].since;
        let slower = Duration::from_millis(100);
        config.bfd = config.bfd.map(|bfd| Bfd { transmit: slower, receive: slower, ..bfd });
        agent.set_peers(vec![config]);
        agent.listen_for(Duration::from_secs(2));
        is_up(&mut agent);
        assert!(agent.states[0].is_established() && agent.states[0].since == since);

        let took = die(&mut agent, &b, "10.65.2.0/24");
        println!("{ours} {path:?}: gone after {took:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        agent.wait("the reason", LIMIT, |agent| {
            let error = agent.states[0].last_error.as_deref().unwrap_or_default();
            error.contains("BFD: nothing heard for the detection time") && error.contains("6/10 (BFD down)")
        });
    }
}

#[test]
fn an_frr_whose_link_is_dead_is_gone_in_under_a_second() {
    let [a, b] = hosts();
    let frr = Frr::start(
        &b,
        "bfd
          profile fast
           transmit-interval 50
           receive-interval 50
          exit
         exit
         router bgp 64513
          bgp router-id 10.99.0.2
          no bgp ebgp-requires-policy
          no bgp network import-check
          neighbor 10.99.0.1 remote-as 64512
          neighbor 10.99.0.1 bfd
          neighbor 10.99.0.1 bfd profile fast
          neighbor 10.99.0.1 timers connect 1
          address-family ipv4 unicast
           network 10.65.2.0/24
          exit-address-family
         exit
        ",
    );
    let config = watched(peer("10.99.0.1", "10.99.0.2", 64513));
    let (_speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, vec![config]);
    agent.established("10.99.0.2");
    is_up(&mut agent);
    agent.learned("10.65.2.0/24", &["10.99.0.2"]);
    let shown = frr.json("show bfd peers json");
    assert_eq!(shown[0]["status"], "up", "{shown}");
    let took = die(&mut agent, &b, "10.65.2.0/24");
    println!("FRR: gone after {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_speaker_that_stops_to_come_back_takes_nobody_down() {
    let [a, b] = hosts();
    // To BIRD a session that ends on purpose is as dead as one that fails, unless it is to take both for a restart.
    let session = bird_session("peer", ("10.99.0.2", 64512), ("10.99.0.1", 64512), "bfd graceful;");
    let bird = Bird::start(&b, &(base("10.99.0.2") + BIRD_BFD + &session)).unwrap();
    let (mut speaker, mut agent) =
        speaker(&a, "10.99.0.1", 64512, vec![watched(peer("10.99.0.1", "10.99.0.2", 64512))]);
    agent.advertise(&["10.65.0.21/32"]);
    agent.established("10.99.0.2");
    is_up(&mut agent);
    bird.has_route("10.65.0.21/32", LIMIT).unwrap();
    speaker.process.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    speaker.process.wait(LIMIT).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(
        bird.route("10.65.0.21/32").unwrap().is_some(),
        "kept by graceful restart: BFD said that it goes on purpose"
    );
    speaker.start_again();
    agent.wait("connected again", LIMIT, |agent| agent.connects == 2);
    agent.established("10.99.0.2");
    is_up(&mut agent);
}

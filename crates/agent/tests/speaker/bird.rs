//! Sessions and routes with a real BIRD.

use crate::support::{Agent, LIMIT, Speaker, bird_routes, bird_session, config, peer};
use lasthop_agent::speaker::Question;
use lasthop_bgp::config::{ConnectMode, PeerConfig, ReflectMode};
use lasthop_testkit::bird::{Bird, base};
use lasthop_testkit::netns::{Frames, Host, Net};
use std::time::{Duration, Instant};

/// A network of hosts .1 to .N.
pub(crate) fn hosts<const N: usize>() -> [Host; N] {
    let net = Net::new().unwrap();
    std::array::from_fn(|i| {
        let i = i + 1;
        net.host(&format!("h{i}"), &[&format!("10.99.0.{i}/24"), &format!("fd00:99::{i}/64")]).unwrap()
    })
}

/// A speaker on a host, with its agent.
pub(crate) fn speaker(host: &Host, own: &str, asn: u32, peers: Vec<PeerConfig>) -> (Speaker, Agent) {
    let speaker = Speaker::start(host);
    let agent = Agent::new(&speaker.socket(), config(asn, own), peers);
    (speaker, agent)
}

#[test]
fn routes_of_both_families_go_both_ways_and_go_away() {
    for (ours, theirs) in [("10.99.0.1", "10.99.0.2"), ("fd00:99::1", "fd00:99::2")] {
        let [a, b] = hosts();
        let bird = base("10.99.0.2")
            + &bird_routes("route 10.65.2.0/24 unreachable;", "route fd00:65:2::/64 unreachable;")
            + &bird_session("peer", (theirs, 64512), (ours, 64512), "");
        let bird = Bird::start(&b, &bird).unwrap();
        let (_speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, vec![peer(ours, theirs, 64512)]);
        agent.own = ["10.65.0.21/32", "fd00:65::15/128"].map(|text| text.parse().unwrap()).into();
        let up = agent.established(theirs);
        let v4 = bird.has_route("10.65.0.21/32", LIMIT).unwrap();
        for part in ["BGP.next_hop: 10.99.0.1", "BGP.local_pref: 100", "BGP.origin: IGP"] {
            assert!(v4.contains(part), "{part}\n{v4}");
        }
        let v6 = bird.has_route("fd00:65::15/128", LIMIT).unwrap();
        assert!(v6.contains("BGP.next_hop: fd00:99::1"), "{v6}");
        agent.learned("10.65.2.0/24", &["10.99.0.2"]);
        agent.learned("fd00:65:2::/64", &["fd00:99::2"]);
        agent.wait("in sync", LIMIT, |agent| agent.in_sync);

        let start = Instant::now();
        agent.advertise(&["10.65.0.22/32"]);
        bird.has_route("10.65.0.22/32", LIMIT).unwrap();
        let told = start.elapsed();
        let start = Instant::now();
        agent.withdraw(1, &["10.65.0.21/32", "fd00:65::15/128"]);
        agent.wait("withdrawn", LIMIT, |agent| agent.withdrawn.contains(&1));
        let answered = start.elapsed();
        bird.has_no_route("10.65.0.21/32", LIMIT).unwrap();
        bird.has_no_route("fd00:65::15/128", LIMIT).unwrap();
        println!("{ours}: up {up:?}, a prefix at BIRD {told:?}, a withdrawal answered {answered:?}");
        bird.ask("disable s4").unwrap();
        agent.learned("10.65.2.0/24", &[]);
        bird.ask("disable s6").unwrap();
        agent.learned("fd00:65:2::/64", &[]);

        let peers = agent.ask(Question::Peers);
        assert_eq!(peers[0]["state"], "Established", "{peers}");
        assert_eq!(peers[0]["negotiated"]["routerId"], "10.99.0.2", "{peers}");
        let why = agent.ask(Question::Why("10.65.0.22/32".parse().unwrap()));
        let hop = why["advertised"][0]["nextHop"].as_str().unwrap_or_default();
        assert_eq!(hop, "10.99.0.1", "{why}");
    }
}

#[test]
fn either_side_may_be_the_one_that_connects_to_any_port() {
    let ours = |change: fn(&mut PeerConfig)| {
        let mut config = peer("10.99.0.1", "10.99.0.2", 64512);
        change(&mut config);
        config
    };
    let passive: fn(&mut PeerConfig) = |peer| peer.connect = ConnectMode::Passive;
    let active: fn(&mut PeerConfig) = |_| {};
    let elsewhere: fn(&mut PeerConfig) = |peer| peer.port = 1790;
    // What we are told, where we listen, what BIRD is told, and who connects to which port.
    for (peer, port, options, expected) in [
        (ours(passive), 179, "", "10.99.0.1:179"),
        (ours(active), 179, "passive yes;", "10.99.0.2:179"),
        (ours(passive), 1790, "neighbor port 1790;", "10.99.0.1:1790"),
        (ours(elsewhere), 1790, "passive yes; local port 1790;", "10.99.0.2:1790"),
    ] {
        let [a, b] = hosts();
        let session = bird_session("peer", ("10.99.0.2", 64512), ("10.99.0.1", 64512), options);
        let bird = Bird::start(&b, &(base("10.99.0.2") + &session)).unwrap();
        let (_speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, vec![peer]);
        agent.config.port = port;
        agent.established("10.99.0.2");
        bird.established("peer", LIMIT).unwrap();
        let connections = a.run("ss", &["-Htn", "state", "established"]).unwrap();
        assert_eq!(connections.lines().count(), 1, "{connections}");
        assert!(connections.split_whitespace().any(|word| word == expected), "{expected}: {connections}");
    }
}

#[test]
fn a_peer_that_is_not_there_yet_is_met_soon_after_it_comes() {
    let [a, b] = hosts();
    let (_speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, vec![peer("10.99.0.1", "10.99.0.2", 64512)]);
    agent.wait("the reason", LIMIT, |agent| {
        let error = agent.states.first().and_then(|state| state.last_error.as_deref());
        error.is_some_and(|error| error.contains("connection refused"))
    });
    agent.listen_for(Duration::from_secs(2));
    // It waits for us, so that it is our doing.
    let session = bird_session("peer", ("10.99.0.2", 64512), ("10.99.0.1", 64512), "passive yes;");
    let _bird = Bird::start(&b, &(base("10.99.0.2") + &session)).unwrap();
    let time = agent.established("10.99.0.2");
    println!("a peer that was away for 2 s is met {time:?} after it came");
}

#[test]
fn an_external_peer_sees_our_as_and_we_see_its() {
    let [a, b] = hosts();
    let bird = base("10.99.0.2")
        + &bird_routes("route 10.65.2.0/24 unreachable;", "route fd00:65:2::/64 unreachable;")
        + &bird_session("peer", ("10.99.0.2", 4_200_000_001), ("10.99.0.1", 64512), "");
    let bird = Bird::start(&b, &bird).unwrap();
    let peers = vec![peer("10.99.0.1", "10.99.0.2", 4_200_000_001)];
    let (_speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, peers);
    agent.own = ["10.65.0.21/32", "fd00:65::15/128"].map(|text| text.parse().unwrap()).into();
    agent.learned("10.65.2.0/24", &["10.99.0.2"]);
    agent.learned("fd00:65:2::/64", &["fd00:99::2"]);
    for prefix in ["10.65.0.21/32", "fd00:65::15/128"] {
        let route = bird.has_route(prefix, LIMIT).unwrap();
        assert!(route.contains("BGP.as_path: 64512\n"), "{route}");
    }
    let paths = agent.ask(Question::Paths(Some("10.65.2.0/24".parse().unwrap())));
    let as_path = paths[0]["attributes"].as_object().unwrap().values().any(|value| value == "4200000001");
    assert!(as_path, "{paths}");
}

#[test]
fn bird_reflects_between_two_speakers() {
    let [a, b, c] = hosts();
    let client = |name, address| bird_session(name, ("10.99.0.3", 64512), (address, 64512), "rr client;");
    let reflector = Bird::start(&c, &(base("10.99.0.3") + &client("a", "10.99.0.1") + &client("b", "10.99.0.2")));
    let reflector = reflector.unwrap();
    let peers = |own| vec![peer(own, "10.99.0.3", 64512)];
    let (_left, mut left) = speaker(&a, "10.99.0.1", 64512, peers("10.99.0.1"));
    let (_right, mut right) = speaker(&b, "10.99.0.2", 64512, peers("10.99.0.2"));
    left.own = ["10.65.0.21/32", "fd00:65::15/128"].map(|text| text.parse().unwrap()).into();
    right.own = ["10.65.0.22/32", "fd00:65::16/128"].map(|text| text.parse().unwrap()).into();
    left.established("10.99.0.3");
    right.established("10.99.0.3");
    left.learned("10.65.0.22/32", &["10.99.0.2"]);
    left.learned("fd00:65::16/128", &["fd00:99::2"]);
    right.learned("10.65.0.21/32", &["10.99.0.1"]);
    right.learned("fd00:65::15/128", &["fd00:99::1"]);
    // A workload moves from left to right.
    let start = Instant::now();
    left.withdraw(1, &["10.65.0.21/32"]);
    right.advertise(&["10.65.0.21/32"]);
    left.learned("10.65.0.21/32", &["10.99.0.2"]);
    println!("a moved workload is known where it was {:?} after", start.elapsed());
    right.learned("10.65.0.21/32", &[]);
    assert!(reflector.ask("show protocols").unwrap().contains("Established"));
}

#[test]
fn the_speaker_reflects_between_two_birds() {
    let [a, b, c] = hosts();
    let client = |own: &str, prefix: u8| {
        base(own)
            + &bird_routes(
                &format!("route 10.65.{prefix}.0/24 unreachable;"),
                &format!("route fd00:65:{prefix}::/64 unreachable;"),
            )
            + &bird_session("reflector", (own, 64512), ("10.99.0.3", 64512), "")
    };
    let left = Bird::start(&a, &client("10.99.0.1", 1)).unwrap();
    let right = Bird::start(&b, &client("10.99.0.2", 2)).unwrap();
    let peers = ["10.99.0.1", "10.99.0.2"]
        .map(|address| PeerConfig { reflect: ReflectMode::Client, ..peer("10.99.0.3", address, 64512) });
    let (_reflector, mut reflector) = speaker(&c, "10.99.0.3", 64512, peers.into());
    reflector.config.cluster_id = Some("10.99.0.3".parse().unwrap());
    reflector.own.insert("10.65.9.0/24".parse().unwrap());
    reflector.established("10.99.0.1");
    reflector.established("10.99.0.2");
    for (bird, prefix, next_hop, originator) in [
        (&left, "10.65.2.0/24", "10.99.0.2", "10.99.0.2"),
        (&left, "fd00:65:2::/64", "fd00:99::2", "10.99.0.2"),
        (&right, "10.65.1.0/24", "10.99.0.1", "10.99.0.1"),
        (&right, "fd00:65:1::/64", "fd00:99::1", "10.99.0.1"),
    ] {
        let route = bird.has_route(prefix, LIMIT).unwrap();
        let expected = [
            format!("BGP.next_hop: {next_hop}"),
            format!("BGP.originator_id: {originator}"),
            "BGP.cluster_list: 10.99.0.3".to_owned(),
        ];
        for part in expected {
            assert!(route.contains(&part), "{part}\n{route}");
        }
    }
    let own = right.has_route("10.65.9.0/24", LIMIT).unwrap();
    assert!(own.contains("BGP.next_hop: 10.99.0.3") && !own.contains("originator"), "{own}");
    left.ask("disable s4").unwrap();
    right.has_no_route("10.65.1.0/24", LIMIT).unwrap();
    reflector.learned("10.65.2.0/24", &["10.99.0.2"]);
}

#[test]
fn an_expired_hold_timer_is_told_and_the_session_comes_back() {
    let [a, b] = hosts();
    let session = bird_session("peer", ("10.99.0.2", 64512), ("10.99.0.1", 64512), "hold time 3;");
    let bird = Bird::start(&b, &(base("10.99.0.2") + &session)).unwrap();
    let peers = vec![PeerConfig { hold_time: Duration::from_secs(3), ..peer("10.99.0.1", "10.99.0.2", 64512) }];
    let (_speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, peers);
    agent.established("10.99.0.2");
    b.frames(Frames::Lost).unwrap();
    let time = agent.wait("down", LIMIT, |agent| !agent.states[0].is_established());
    assert!((Duration::from_millis(1900)..Duration::from_millis(4500)).contains(&time), "{time:?}");
    let reason = agent.states[0].last_error.clone().unwrap_or_default().to_lowercase();
    assert!(reason.contains("hold tim"), "{reason}");
    b.frames(Frames::Pass).unwrap();
    agent.established("10.99.0.2");
    bird.established("peer", LIMIT).unwrap();
}

#[test]
fn a_wrong_as_is_told_in_words_and_not_tried_all_the_time() {
    for (theirs, expected) in [(64599, "64599"), (64512, "bad peer as")] {
        let [a, b] = hosts();
        // First the peer is of another AS than we think; then we are of another AS than the peer thinks.
        let ours = if theirs == 64512 { 64512 } else { 64513 };
        let session = bird_session("peer", ("10.99.0.2", theirs), ("10.99.0.1", ours), "");
        let _bird = Bird::start(&b, &(base("10.99.0.2") + &session)).unwrap();
        let (_speaker, mut agent) = speaker(&a, "10.99.0.1", 64513, vec![peer("10.99.0.1", "10.99.0.2", 64512)]);
        if theirs == 64512 {
            agent.config.asn.0 = 64514;
        }
        agent.wait("the reason", LIMIT, |agent| {
            let mut errors = agent.states.iter().filter_map(|state| state.last_error.as_deref());
            errors.any(|error| {
                let error = error.to_lowercase();
                error.contains(expected) || (theirs == 64512 && error.contains(" as"))
            })
        });
        agent.listen_for(Duration::from_secs(2));
        assert!(!agent.states[0].is_established());
        println!("{:?}", agent.states[0].last_error);
    }
}

#[test]
fn a_peer_that_comes_goes_and_changes_does_not_disturb_the_other() {
    let [a, b, c] = hosts();
    let bird = |own: &str| base(own) + &bird_session("peer", (own, 64512), ("10.99.0.1", 64512), "");
    let second = Bird::start(&b, &bird("10.99.0.2")).unwrap();
    let third = Bird::start(&c, &bird("10.99.0.3")).unwrap();
    let [to_second, to_third] = ["10.99.0.2", "10.99.0.3"].map(|address| peer("10.99.0.1", address, 64512));
    let (_speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, vec![to_second.clone()]);
    agent.advertise(&["10.65.0.21/32"]);
    agent.established("10.99.0.2");
    second.has_route("10.65.0.21/32", LIMIT).unwrap();
    let since = second.ask("show protocols peer").unwrap();
    agent.set_peers(vec![to_second.clone(), to_third]);
    agent.established("10.99.0.3");
    third.has_route("10.65.0.21/32", LIMIT).unwrap();
    agent.set_peers(vec![to_second]);
    agent.wait("one peer", LIMIT, |agent| agent.states.len() == 1);
    third.has_no_route("10.65.0.21/32", LIMIT).unwrap();
    assert!(third.log().to_lowercase().contains("received: peer de-configured"), "{}", third.log());
    assert_eq!(second.ask("show protocols peer").unwrap(), since);
}

/// All connections of both sides are opened in the same instant: the peer's SYNs and its answers to ours wait for the
/// neighbour entry that the test then sets. Graceful restart is off: with it a late connection means that the peer
/// restarted (RFC 4724 section 5), and BIRD drops the session that is up.
fn collide(our_id: &str, their_id: &str) {
    const PEERS: u32 = 50;
    let net = Net::new().unwrap();
    // BIRD has no two sessions with one address.
    let host = |name, third: u8| {
        let addresses: Vec<String> = (1..=PEERS).map(|i| format!("10.99.{third}.{i}/16")).collect();
        net.host(name, &addresses.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
    };
    let (a, b) = (host("a", 1), host("b", 2));
    let mac = |host: &Host| -> String {
        let link = host.run("ip", &["-br", "link", "show", "eth0"]).unwrap();
        link.split_whitespace().find(|word| word.matches(':').count() == 5).unwrap().to_owned()
    };
    let (our_mac, their_mac) = (mac(&a), mac(&b));
    a.ip("link set eth0 arp off\n").unwrap();
    let neighbours = |third: u8, mac: &str| -> String {
        let line = |i| format!("neigh replace 10.99.{third}.{i} lladdr {mac} dev eth0 nud permanent\n");
        (1..=PEERS).map(line).collect()
    };
    a.ip(&neighbours(2, &their_mac)).unwrap();
    b.enter(|| std::fs::write("/proc/sys/net/ipv4/neigh/eth0/mcast_solicit", "60")).unwrap();
    let sessions: String = (1..=PEERS)
        .map(|i| {
            format!(
                "protocol bgp p{i} {{ local 10.99.2.{i} as 64512; neighbor 10.99.1.{i} as 64512; direct; ipv4;
                   graceful restart off;
                   connect delay time 1; connect retry time 60; error wait time 1, 2; }}\n"
            )
        })
        .collect();
    let peers = (1..=PEERS).map(|i| peer(&format!("10.99.1.{i}"), &format!("10.99.2.{i}"), 64512)).collect();
    let (_speaker, mut agent) = speaker(&a, our_id, 64512, Vec::new());
    agent.wait("listening", LIMIT, |agent| agent.listening.is_some());
    let bird = Bird::start(&b, &(base(their_id) + "debug protocols { states, events };\n" + &sessions)).unwrap();
    // BIRD connects 0.75 to 1 s after its start.
    agent.listen_for(Duration::from_millis(1100));
    agent.set_peers(peers);
    agent.listen_for(Duration::from_millis(200));
    // A few at a time: BIRD listens with a backlog of 8.
    for lines in neighbours(1, &our_mac).lines().collect::<Vec<_>>().chunks(5) {
        b.ip(&(lines.join("\n") + "\n")).unwrap();
    }
    let up = |agent: &Agent| agent.states.iter().filter(|state| state.is_established()).count();
    let time = agent.wait("all are established", LIMIT, |agent| up(agent) == PEERS as usize);
    agent.listen_for(Duration::from_secs(1));
    assert_eq!(up(&agent), PEERS as usize);
    let established = |host: &Host| host.run("ss", &["-Htn", "state", "established"]).unwrap().lines().count();
    assert_eq!((established(&a), established(&b)), (PEERS as usize, PEERS as usize));
    assert_eq!(bird.ask("show protocols").unwrap().matches("Established").count(), PEERS as usize);
    let peers = agent.ask(Question::Peers);
    let log = bird.log();
    for (i, peer) in (1..).zip(peers.as_array().unwrap()) {
        let name = format!("p{}:", peer["address"].as_str().unwrap().rsplit('.').next().unwrap());
        let bird: Vec<&str> = log.lines().filter(|line| line.contains(&name)).collect();
        let counters = (&peer["counters"]["established"], &peer["counters"]["lost"]);
        assert_eq!(counters, (&1.into(), &0.into()), "peer {i}: {peer}\n{}", bird.join("\n"));
    }
    let collisions = log.to_lowercase().matches("collision").count();
    assert!(collisions >= 10, "only {collisions} connections met: the test shows nothing");
    println!("we are {our_id}, it is {their_id}: all up {time:?} after; {collisions} lines of collisions at BIRD");
}

#[test]
fn fifty_simultaneous_connects_leave_one_session_each_when_our_identifier_is_lower() {
    collide("10.0.0.1", "10.0.0.2");
}

#[test]
fn fifty_simultaneous_connects_leave_one_session_each_when_our_identifier_is_higher() {
    collide("10.0.0.3", "10.0.0.2");
}

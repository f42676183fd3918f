//! What sockets hold strangers off with: TCP MD5 (RFC 2385), TTL security (RFC 5082), hop limits; against a real BIRD.

use crate::bird::{hosts, speaker};
use crate::support::{LIMIT, bird_session, config, peer};
use lasthop_bgp::config::{Auth, PeerConfig, Secret, Ttl};
use lasthop_testkit::bird::{Bird, base};
use lasthop_testkit::netns::{Host, Net};
use std::time::Duration;

const HOLD: Duration = Duration::from_secs(3);

fn md5(peer: PeerConfig, key: &str) -> PeerConfig {
    PeerConfig { auth: Some(Auth::Md5(Secret::new(key))), ..peer }
}

fn bird_of(host: &Host, ours: &str, theirs: &str, options: &str) -> Bird {
    let session = bird_session("peer", (theirs, 64512), (ours, 64512), options);
    Bird::start(host, &(base("10.99.0.2") + &session)).unwrap()
}

/// How often the kernel refused a segment for its key.
fn refused(host: &Host) -> u64 {
    let shown = host.run("nstat", &["-asz", "TcpExtTCPMD5Failure", "TcpExtTCPMD5NotFound", "TcpExtTCPMD5Unexpected"]);
    let counts = shown.unwrap();
    counts.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

#[test]
fn only_who_has_the_password_gets_a_session_and_it_is_changed_without_others_noticing() {
    let longest = "x".repeat(80);
    for (ours, theirs) in [("10.99.0.1", "10.99.0.2"), ("fd00:99::1", "fd00:99::2")] {
        let [a, b, c] = hosts();
        let options = |key: &str| format!("password \"{key}\";");
        let bird = bird_of(&b, ours, theirs, &options(&longest));
        let other = bird_session("peer", ("10.99.0.3", 64512), ("10.99.0.1", 64512), &options("other"));
        let _other = Bird::start(&c, &(base("10.99.0.3") + &other)).unwrap();
        let other = md5(peer("10.99.0.1", "10.99.0.3", 64512), "other");
        // What is not heard any more is noticed by the hold timer.
        let plain = PeerConfig { hold_time: HOLD, ..peer(ours, theirs, 64512) };
        let (_speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, vec![md5(plain.clone(), &longest), other.clone()]);
        agent.established(theirs);
        agent.established("10.99.0.3");
        let since = |agent: &crate::support::Agent| {
            agent.states.iter().find(|state| state.address.to_string() == "10.99.0.3").map(|state| state.since)
        };
        let begun = since(&agent);

        // Another key on one side only: segments are refused and nothing is said; the same on both: up again.
        let before = refused(&b);
        agent.set_peers(vec![md5(plain.clone(), "new"), other.clone()]);
        bird.ask("restart peer").unwrap();
        agent.wait("the session is gone", LIMIT, |agent| {
            agent.states.iter().any(|state| state.address.to_string() == theirs && !state.is_established())
        });
        agent.listen_for(Duration::from_secs(2));
        assert!(!agent.states.iter().any(|state| state.address.to_string() == theirs && state.is_established()));
        assert!(refused(&b) > before || refused(&a) > 0, "the kernel refuses segments");
        let session = bird_session("peer", (theirs, 64512), (ours, 64512), &options("new"));
        bird.configure(&(base("10.99.0.2") + &session)).unwrap();
        let time = agent.established(theirs);
        println!("{ours}: up {time:?} after both have the new key");

        // No key on our side, one on theirs.
        agent.set_peers(vec![plain, other]);
        bird.ask("restart peer").unwrap();
        agent.wait("the session is gone", LIMIT, |agent| {
            agent.states.iter().any(|state| state.address.to_string() == theirs && !state.is_established())
        });
        agent.listen_for(Duration::from_secs(2));
        assert!(!agent.states.iter().any(|state| state.address.to_string() == theirs && state.is_established()));
        assert_eq!(since(&agent), begun, "the other peer never notices");
    }
}

#[test]
fn a_key_that_cannot_be_used_is_said_and_no_session_goes_without() {
    let [a, b] = hosts();
    let _bird = bird_of(&b, "10.99.0.1", "10.99.0.2", "");
    let too_long = md5(peer("10.99.0.1", "10.99.0.2", 64512), &"x".repeat(81));
    let (_speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, vec![too_long]);
    agent.wait("the reason", LIMIT, |agent| {
        let error = agent.states.first().and_then(|state| state.last_error.as_deref());
        error.is_some_and(|error| error.contains("81 octets: TCP takes 1 to 80"))
    });
    agent.listen_for(Duration::from_secs(3));
    assert!(!agent.states[0].is_established());
}

/// Two hosts with a router between them: packets arrive with a TTL that is one less.
fn far_apart() -> (Host, Host, Host) {
    let net = Net::new().unwrap();
    let a = net.host("a", &["10.99.1.1/24", "fd00:99:1::1/64"]).unwrap();
    let router = net.host("r", &["10.99.1.254/24", "fd00:99:1::fe/64"]).unwrap();
    let b = net.host("b", &["10.99.2.2/24", "fd00:99:2::2/64"]).unwrap();
    router.ip("address add 10.99.2.254/24 dev eth0\naddress add fd00:99:2::fe/64 dev eth0").unwrap();
    for setting in
        ["net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.eth0.send_redirects=0"]
    {
        router.run("sysctl", &["-qw", setting]).unwrap();
    }
    router.run("sysctl", &["-qw", "net.ipv6.conf.all.forwarding=1"]).unwrap();
    a.ip("route add 10.99.2.0/24 via 10.99.1.254\nroute add fd00:99:2::/64 via fd00:99:1::fe").unwrap();
    b.ip("route add 10.99.1.0/24 via 10.99.2.254\nroute add fd00:99:1::/64 via fd00:99:2::fe").unwrap();
    (a, router, b)
}

#[test]
fn a_peer_is_as_far_away_as_it_is_said_to_be_and_no_further() {
    let (a, _router, b) = far_apart();
    let session = |options: &str| {
        format!(
            "protocol bgp peer {{
               local 10.99.2.2 as 64513; neighbor 10.99.1.1 as 64512; {options}
               connect delay time 1; connect retry time 1; error wait time 1, 2;
               ipv4 {{ import all; export all; }};
             }}\n"
        )
    };
    let bird = Bird::start(&b, &(base("10.99.0.2") + &session("multihop 2;"))).unwrap();
    let far = |ttl| PeerConfig { ttl, hold_time: HOLD, ..peer("10.99.1.1", "10.99.2.2", 64513) };
    let speaker = crate::support::Speaker::start(&a);
    let mut agent = crate::support::Agent::new(&speaker.socket(), config(64512, "10.99.1.1"), vec![far(Ttl::Hops(1))]);
    agent.listen_for(Duration::from_secs(3));
    assert!(!agent.states[0].is_established(), "one hop does not reach it");
    agent.set_peers(vec![far(Ttl::Hops(2))]);
    agent.established("10.99.2.2");
    let since = agent.states[0].since;
    // It sends with TTL 2: what comes is less than what is asked, so nothing is heard any more.
    agent.set_peers(vec![far(Ttl::Security(2))]);
    bird.ask("restart peer").unwrap();
    agent.wait("the session is gone", LIMIT, |agent| !agent.states[0].is_established());
    bird.configure(&(base("10.99.0.2") + &session("multihop 2; ttl security on;"))).unwrap();
    agent.established("10.99.2.2");
    assert!(agent.states[0].since >= since);
    // TTL 254 arrives: not from our own link.
    agent.set_peers(vec![far(Ttl::Security(1))]);
    bird.ask("restart peer").unwrap();
    agent.wait("the session is gone", LIMIT, |agent| !agent.states[0].is_established());
    agent.listen_for(Duration::from_secs(3));
    assert!(!agent.states[0].is_established());
    let half_open = a.run("ss", &["-Htn", "state", "syn-recv"]).unwrap();
    assert_eq!(half_open, "", "a SYN from further away builds no state");
}

#[test]
fn ttl_security_between_neighbours_works_both_ways() {
    for (ours, theirs) in [("10.99.0.1", "10.99.0.2"), ("fd00:99::1", "fd00:99::2")] {
        let [a, b] = hosts();
        let session = bird_session("peer", (theirs, 64513), (ours, 64512), "ttl security on;");
        let bird = Bird::start(&b, &(base("10.99.0.2") + &session)).unwrap();
        let near = PeerConfig { ttl: Ttl::Security(1), ..peer(ours, theirs, 64513) };
        let (_speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, vec![near]);
        agent.established(theirs);
        bird.established("peer", LIMIT).unwrap();
    }
}

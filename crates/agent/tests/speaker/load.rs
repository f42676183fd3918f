//! Much at once: strangers, a peer that does not read, many routes.

use crate::bird::{hosts, speaker};
use crate::support::{LIMIT, bird_routes, bird_session, peer};
use lasthop_bgp::config::PeerConfig;
use lasthop_net::Prefix;
use lasthop_testkit::bird::{Bird, base};
use nix::sys::signal::Signal;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// 10.66.0.0/32 and so on.
fn many(count: u32) -> impl Iterator<Item = Prefix> {
    (0..count).map(|i| Prefix::host(IpAddr::from((0x0a42_0000 + i).to_be_bytes())))
}

/// Resident memory of a process that is not backed by files, in KiB.
fn memory(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn ten_thousand_routes_arrive() {
    let [a, b] = hosts();
    let routes: String = many(10_000).map(|prefix| format!("route {prefix} unreachable;")).collect();
    let bird = base("10.99.0.2")
        + &bird_routes(&routes, "")
        + &bird_session("peer", ("10.99.0.2", 64512), ("10.99.0.1", 64512), "");
    let bird = Bird::start(&b, &bird).unwrap();
    let (speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, vec![peer("10.99.0.1", "10.99.0.2", 64512)]);
    agent.established("10.99.0.2");
    let before = memory(speaker.process.id());
    let most = agent.wait("9,900 routes", LIMIT, |agent| agent.routes.len() >= 9_900);
    let all = most + agent.wait("10,000 routes", LIMIT, |agent| agent.routes.len() == 10_000);
    println!("9,900 routes are with the agent {most:?} after the session is up, 10,000 {all:?} (BIRD keeps the last)");
    println!("memory {before} KiB without routes, {} KiB with 10,000", memory(speaker.process.id()));
    bird.ask("disable s4").unwrap();
    agent.wait("none", LIMIT, |agent| agent.routes.is_empty());
    let start = Instant::now();
    bird.ask("enable s4").unwrap();
    agent.wait("10,000 routes", LIMIT, |agent| agent.routes.len() == 10_000);
    println!("10,000 routes are with the agent {:?} after BIRD is told to announce them", start.elapsed());
    // Told again in whole on a new line, from memory.
    let mut other = crate::support::Agent::new(agent.client.path(), agent.config.clone(), agent.peers.clone());
    let time = other.wait("in sync", LIMIT, |agent| agent.in_sync);
    assert_eq!(other.routes.len(), 10_000);
    println!("10,000 routes are with a new agent {time:?} after it came");
}

#[test]
fn ten_thousand_own_prefixes_reach_bird() {
    let [a, b] = hosts();
    let session = bird_session("peer", ("10.99.0.2", 64512), ("10.99.0.1", 64512), "");
    let bird = Bird::start(&b, &(base("10.99.0.2") + &session)).unwrap();
    let (_speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, vec![peer("10.99.0.1", "10.99.0.2", 64512)]);
    agent.established("10.99.0.2");
    let start = Instant::now();
    let prefixes: Vec<String> = many(10_000).map(|prefix| prefix.to_string()).collect();
    let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    agent.advertise(&prefixes);
    let count = || Ok(bird.routes_from("peer")? == 10_000);
    lasthop_testkit::netns::eventually("10,000 routes at BIRD", LIMIT, count).unwrap();
    println!("10,000 own prefixes are at BIRD {:?} after they were told", start.elapsed());
    let start = Instant::now();
    agent.withdraw(1, &prefixes[..500]);
    agent.wait("withdrawn", LIMIT, |agent| agent.withdrawn.contains(&1));
    println!("500 withdrawals are answered after {:?}", start.elapsed());
    let count = || Ok(bird.routes_from("peer")? == 9_500);
    lasthop_testkit::netns::eventually("9,500 routes at BIRD", LIMIT, count).unwrap();
}

#[test]
fn strangers_who_connect_all_the_time_are_not_noticed_by_a_peer() {
    let [a, b, c] = hosts();
    let session = bird_session("peer", ("10.99.0.2", 64512), ("10.99.0.1", 64512), "");
    let bird = Bird::start(&b, &(base("10.99.0.2") + &session)).unwrap();
    let (speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, vec![peer("10.99.0.1", "10.99.0.2", 64512)]);
    agent.established("10.99.0.2");
    let before = memory(speaker.process.id());
    let target: SocketAddr = "10.99.0.1:179".parse().unwrap();
    // The reset may come before the connection is known to be up.
    let answered = |_: &i32| match TcpStream::connect_timeout(&target, LIMIT) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    assert_eq!(c.enter(|| (0..3000).filter(answered).count()), 3000);
    let start = Instant::now();
    agent.advertise(&["10.65.0.21/32"]);
    bird.has_route("10.65.0.21/32", LIMIT).unwrap();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let open = || std::fs::read_dir(format!("/proc/{}/fd", speaker.process.id())).unwrap().count();
    // The last of them may still be on their way out.
    lasthop_testkit::netns::eventually("no file is left open for a stranger", LIMIT, || Ok(open() < 30)).unwrap();
    let after = memory(speaker.process.id());
    assert!(after < before + 2048, "{before} KiB before, {after} KiB after");
}

#[test]
fn a_peer_that_does_not_read_holds_up_nobody() {
    let [a, b, c] = hosts();
    // Little room in the kernel, so that the speaker's own queue fills.
    a.enter(|| std::fs::write("/proc/sys/net/ipv4/tcp_wmem", "4096 16384 65536")).unwrap();
    b.enter(|| std::fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 16384 65536")).unwrap();
    let bird = |own: &str| base(own) + &bird_session("peer", (own, 64512), ("10.99.0.1", 64512), "");
    let deaf = Bird::start(&b, &bird("10.99.0.2")).unwrap();
    let well = Bird::start(&c, &bird("10.99.0.3")).unwrap();
    let peers: Vec<PeerConfig> = ["10.99.0.2", "10.99.0.3"].map(|address| peer("10.99.0.1", address, 64512)).into();
    let (speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, peers);
    agent.established("10.99.0.2");
    agent.established("10.99.0.3");
    let before = memory(speaker.process.id());
    deaf.process().signal(Signal::SIGSTOP).unwrap();
    // Long ones, to fill the queue in few rounds.
    let prefixes: Vec<String> = (0..5_000).map(|i| format!("fd00:65::{i:x}/128")).collect();
    let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    for round in 0..12 {
        agent.advertise(&prefixes);
        agent.withdraw(round, &prefixes[100..]);
        agent.wait("withdrawn", LIMIT, |agent| agent.withdrawn.contains(&round));
    }
    let start = Instant::now();
    agent.advertise(&["10.65.0.21/32"]);
    agent.withdraw(100, &prefixes[..50]);
    well.has_route("10.65.0.21/32", LIMIT).unwrap();
    let answered = agent.wait("withdrawn", LIMIT, |agent| agent.withdrawn.contains(&100));
    println!(
        "with a peer that does not read: another has a route after {:?}, a withdrawal takes {answered:?}",
        start.elapsed()
    );
    let after = memory(speaker.process.id());
    println!("memory {before} KiB before, {after} KiB after");
    assert!(after < before + 8192, "{before} KiB before, {after} KiB after");
    deaf.process().signal(Signal::SIGCONT).unwrap();
    deaf.has_route("10.65.0.21/32", LIMIT).unwrap();
    for bird in [&deaf, &well] {
        let count = || Ok(bird.routes_from("peer")? == 51);
        lasthop_testkit::netns::eventually("51 routes", LIMIT, count).unwrap();
    }
}

//! The short form of the soak (section 7): four daemons, ten thousand routes, fifty changes a second, a session that is
//! taken down and up again. Longer with `LASTHOP_SOAK_SECONDS`.

use crate::bird::{hosts, speaker};
use crate::daemon::{Kind, Neighbour, Setup, US};
use crate::support::{LIMIT, peer};
use lasthop_agent::speaker::Question;
use lasthop_bgp::config::Admin;
use lasthop_net::Prefix;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Resident memory of a process that is not backed by files, in KiB.
fn memory(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
#[ignore = "takes two minutes: `cargo xtask interop` runs it"]
fn soak() {
    let seconds = std::env::var("LASTHOP_SOAK_SECONDS").map_or(120, |text| text.parse().unwrap());
    let [ours, second, third, fourth, fifth] = hosts();
    let kinds = [(Kind::Bird, &second), (Kind::Frr, &third), (Kind::GoBgp, &fourth), (Kind::OpenBgpd, &fifth)];
    let daemons: Vec<_> = (2u8..)
        .zip(kinds)
        .map(|(number, (kind, host))| {
            let setup = Setup::new(number, 64600 + u32::from(number)).with(Neighbour::new(US, 64512));
            kind.start(host, &setup.route(&format!("203.0.{number}.0/24")))
        })
        .collect();
    let peers: Vec<_> = (2..6).map(|i| peer(US, &format!("10.99.0.{i}"), 64600 + i)).collect();
    let (process, mut agent) = speaker(&ours, US, 64512, peers.clone());
    let prefix = |i: u32| format!("{}/32", Ipv4Addr::from(0x0a42_0000 + i));
    agent.own = (0..10_000).map(|i| prefix(i).parse::<Prefix>().unwrap()).collect();
    for (daemon, i) in daemons.iter().zip(2..) {
        daemon.established(&mut agent, US, &format!("10.99.0.{i}"));
    }
    let settled = |agent: &mut crate::support::Agent| {
        for daemon in &daemons {
            // What the other three say through us, and what is ours.
            let expected = agent.own.len() + 3;
            daemon.until(agent, &format!("{expected} prefixes"), |daemon| {
                (daemon.session(US).prefixes == expected).then_some(())
            });
        }
    };
    settled(&mut agent);
    let (begun, mut changes, mut flaps) = (Instant::now(), 0u32, 0u32);
    let mut early = None;
    while begun.elapsed() < Duration::from_secs(seconds) {
        let text = prefix(changes.wrapping_mul(7919) % 10_000);
        if agent.own.contains(&text.parse().unwrap()) {
            agent.withdraw(u64::from(changes), &[&text]);
        } else {
            agent.advertise(&[&text]);
        }
        changes += 1;
        let minute = u32::try_from(begun.elapsed().as_secs() / 60).unwrap();
        if minute > flaps {
            flaps = minute;
            let mut down = peers.clone();
            down[0].admin = Admin::Down("a flap".to_owned());
            agent.set_peers(down);
            agent.listen_for(Duration::from_secs(1));
            agent.set_peers(peers.clone());
        }
        if begun.elapsed() > Duration::from_secs(seconds / 4) && early.is_none() {
            early = Some(memory(process.process.id()));
        }
        agent.listen_for(Duration::from_millis(20));
    }
    agent.wait("all sessions", LIMIT * 3, |agent| {
        agent.states.iter().all(lasthop_agent::speaker::PeerState::is_established)
    });
    settled(&mut agent);
    let (early, late) = (early.unwrap(), memory(process.process.id()));
    println!(
        "{changes} changes in {seconds} s, {flaps} flaps; memory {early} KiB after a quarter, {late} KiB at the end"
    );
    assert!(late < early + early / 10 + 1024, "{early} KiB, then {late} KiB");
    let report = agent.ask(Question::Peers);
    let lost: BTreeMap<String, u64> = report
        .as_array()
        .unwrap()
        .iter()
        .map(|peer| (peer["address"].to_string(), peer["counters"]["lost"].as_u64().unwrap()))
        .collect();
    let expected = |address: &str| if address.contains("10.99.0.2") { u64::from(flaps) } else { 0 };
    assert!(lost.iter().all(|(address, lost)| *lost == expected(address)), "sessions that nobody ended: {lost:?}");
}

//! What follows when things change: an address that goes, one that is claimed, an agent that was away.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::{Duration, Instant};
use support::Lab;

fn datapath() -> Lab {
    Lab::up(&["--topology", "datapath"])
}

impl Lab {
    fn reaches(&self, from: &str, to: &str) -> bool {
        self.inside(from, &["ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", to]).1.contains("2 received")
    }

    /// Runs a command that must work.
    fn must(&self, part: &str, command: &str) -> String {
        let (ok, said) = self.inside(part, &command.split_whitespace().collect::<Vec<_>>());
        assert!(ok, "{part}: {command}: {said}");
        said
    }

    /// Waits until a command prints what it ought to.
    fn comes_true(&self, part: &str, command: &str, is_so: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        let words: Vec<&str> = command.split_whitespace().collect();
        loop {
            let said = self.inside(part, &words).1;
            if is_so(&said) {
                return;
            }
            assert!(begun.elapsed() < SOON, "{part}: {command}: still after {SOON:?}: {said}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Within this a change must be in force, also on a busy machine.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn an_announced_address_of_another_attracts_nothing() {
    let lab = datapath();
    lab.must("w1", "ip addr add 10.65.0.3/32 dev eth0");
    let _ = lab.inside("w1", &["arping", "-A", "-c3", "-w2", "-I", "eth0", "10.65.0.3"]);
    let thief = lab.capture("w1", &["-i", "eth0", "icmp"]);
    assert!(lab.must("h1", "ip route get 10.65.0.3").contains("dev lhw2"));
    assert!(lab.reaches("w3", "10.65.0.3"));
    assert!(!lab.must("h1", "ip neigh show dev lhw1").contains("10.65.0.3"));
    let seen = thief.stop();
    assert!(!seen.contains("10.65.0.3"), "{seen}");
}

#[test]
fn an_address_that_is_gone_is_nowhere_and_never_on_the_way_out() {
    let lab = datapath();
    let outside = lab.capture("x", &["-i", "eth0", "host", "10.65.0.3"]);
    lab.must("h1", "lasthop workload delete w2");
    for host in ["h1", "h2"] {
        lab.comes_true(host, "route -n", |said| !said.contains("10.65.0.3 "));
    }
    for from in ["w1", "w3"] {
        assert!(!lab.reaches(from, "10.65.0.3"), "{from}");
    }
    let seen = outside.stop();
    assert!(!seen.contains("10.65.0.3"), "no loop to the default route: {seen}");
}

#[test]
fn an_agent_that_was_away_finds_what_changed_and_touches_nothing_else() {
    let lab = datapath();
    lab.ok(&["kill", "h1", "agent"]);
    lab.must("h1", "ip link del lhw2");
    lab.must("h1", "ip route del 10.65.0.4");
    let monitor = lab.beside("h1", &["ip", "monitor", "route", "neigh"]);
    std::thread::sleep(Duration::from_millis(300));
    lab.ok(&["start", "h1", "agent"]);
    lab.comes_true("h1", "ip route show 10.65.0.4", |said| said.contains("dev tapt1"));
    std::thread::sleep(Duration::from_secs(1));
    let seen = monitor.stop();
    assert!(!seen.contains("10.65.0.2 ") && !seen.contains("10.65.1.2 "), "what was right is not touched: {seen}");
    lab.comes_true("h2", "route -n", |said| !said.contains("10.65.0.3 "));
    for (from, to) in [("w1", "10.65.1.2"), ("w3", "10.65.0.4"), ("t1", "10.65.0.2")] {
        assert!(lab.reaches(from, to), "{from} to {to}");
    }
}

#[test]
fn a_workload_does_not_reach_into_its_host() {
    let lab = datapath();
    for port in ["179", "7470", "9091"] {
        let (ok, _) = lab.inside("w1", &["nc", "-z", "-w", "1", "172.31.0.1", port]);
        assert!(!ok, "port {port} of its own host");
    }
    assert!(lab.reaches("h1", "10.65.0.2"), "but the host reaches its workload");
}

//! A lab's life: it goes without a trace, also after a crash, and survives its daemons.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{Lab, lasthop, name, text};

/// What of this machine a lab must leave as it was: namespaces, links, routes, processes and files with its name.
#[derive(Debug, PartialEq)]
struct Traces {
    namespaces: BTreeSet<String>,
    links: BTreeSet<String>,
    routes: String,
    processes: Vec<String>,
    files: bool,
}

fn traces(name: &str) -> Traces {
    let listed = |path: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let own = std::process::id();
    let processes = listed("/proc").into_iter().filter(|pid| pid.parse::<u32>().is_ok_and(|pid| pid != own));
    let lines = processes.filter_map(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = text(&line).replace('\0', " ");
        line.contains(name).then_some(line)
    });
    Traces {
        namespaces: listed("/run/netns").into_iter().filter(|ns| ns.starts_with(name)).collect(),
        links: listed("/sys/class/net"),
        routes: std::fs::read_to_string("/proc/net/route").unwrap(),
        processes: lines.collect(),
        files: std::path::Path::new("/run/lasthop-lab").join(name).exists(),
    }
}

#[test]
fn down_leaves_nothing() {
    let name = name();
    let before = traces(&name);
    assert!(before.namespaces.is_empty() && before.processes.is_empty() && !before.files);
    let lab = Lab { name: name.clone() };
    let output = lasthop(&["lab", "up", "--name", &name]);
    assert!(output.status.success(), "{}\n{}", text(&output.stderr), lab.logs());
    let during = traces(&name);
    assert!(during.namespaces.len() == 11 && during.processes.len() > 8 && during.files, "{during:?}");
    assert_eq!(during.links, before.links, "the machine's own namespace gets no link");
    let again = lasthop(&["lab", "up", "--name", &name]);
    assert!(text(&again.stderr).contains("there is a lab"), "{}", text(&again.stderr));
    drop(lab);
    assert_eq!(traces(&name), before);
}

#[test]
fn down_also_follows_a_crash_of_up() {
    // Killed at several moments: while namespaces are made, while hosts start, while workloads are attached.
    for wait in [3, 8, 12] {
        let name = name();
        let lab = Lab { name: name.clone() };
        let before = traces(&name);
        let mut up = Command::new(env!("CARGO_BIN_EXE_lasthop"));
        up.args(["lab", "up", "--name", &name]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut up = up.spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        let things = || {
            let now = traces(&name);
            now.namespaces.len() + now.processes.len()
        };
        while things() < wait && Instant::now() < end && up.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        up.kill().unwrap();
        up.wait().unwrap();
        let output = lasthop(&["lab", "down", "--name", &name]);
        assert!(output.status.success(), "killed after {wait} things: {}", text(&output.stderr));
        assert_eq!(traces(&name), before, "killed after {wait} things");
        drop(lab);
    }
}

#[test]
fn killing_agent_and_speaker_loses_no_packet() {
    let lab = Lab::up(&["--topology", "reference"]);
    let pings = lab.beside("w22", &["ping", "-n", "-q", "-i", "0.01", "10.65.0.24"]);
    for role in ["agent", "bgp"] {
        lab.ok(&["kill", "compute-1", role]);
        std::thread::sleep(Duration::from_millis(500));
        lab.ok(&["start", "compute-1", role]);
        std::thread::sleep(Duration::from_secs(2));
    }
    let said = pings.stop();
    assert!(said.contains(" 0% packet loss"), "{said}\n{}", lab.logs());
    let end = Instant::now() + Duration::from_secs(20);
    let settled = || lab.inside("compute-1", &["lasthop", "status", "-o", "json"]).1.contains("\"in_sync\": true");
    while !settled() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
    }
    lab.everyone_reaches_everyone();
}

//! A guest behind a TAP is a machine of its own: it has its own MAC address and answers ARP and ping itself.
#![allow(clippy::unwrap_used, reason = "a test")]

use lasthop_lab::build::Wires;
use lasthop_lab::links::Inside;
use lasthop_lab::ping::{Patience, Source, Target, all_pairs};
use lasthop_lab::topology::{Topology, Workload};
use lasthop_lab::{build, guest, netns, vm};
use std::time::{Duration, Instant};

struct Names(Vec<String>);

impl Drop for Names {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = netns::delete(name);
        }
    }
}

/// The namespaces and wires of a built-in topology, without any agent.
fn wired(lab: &str, topology: &Topology) -> Names {
    let lab = lab.parse().unwrap();
    let names =
        Names(build::parts(topology).iter().map(|part| lasthop_lab::state::LabName::namespace(&lab, part)).collect());
    names.0.iter().for_each(|name| netns::create(name).unwrap());
    Wires { lab: &lab, topology }.connect().unwrap();
    names
}

/// What an agent does for one workload, by hand.
fn host_side(namespace: &str, workload: &Workload) {
    let link = workload.tap_name();
    Inside::run(namespace, |inside| {
        inside.up(&link)?;
        for address in &workload.addresses {
            inside.route(&link, (*address).into(), None)?;
        }
        Ok(())
    })
    .unwrap();
    netns::within(namespace, || {
        for (setting, value) in [("proxy_arp", "1"), ("forwarding", "1")] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/{setting}"), value).unwrap();
        }
        std::fs::write(format!("/proc/sys/net/ipv4/neigh/{link}/proxy_delay"), "0").unwrap();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    })
    .unwrap();
}

fn ping(from: &str, to: &str) -> bool {
    let source = Source { name: from.to_owned(), namespace: from.to_owned() };
    let target = Target { name: to.to_owned(), address: to.parse().unwrap() };
    all_pairs(&[source], &[target], Patience::default()).unwrap()[0].rtt_us.is_some()
}

#[test]
fn a_guest_behind_a_tap_is_a_machine_of_its_own() {
    let topology = lasthop_lab::builtin::builtin("reference").unwrap().unwrap();
    let prefix = format!("lhg{}", std::process::id());
    let _names = wired(&prefix, &topology);
    let lab = prefix.parse().unwrap();
    let wires = Wires { lab: &lab, topology: &topology };
    let workload = topology.workload("vm24").unwrap();
    let (host, inside_guest) = (format!("{prefix}-compute-1"), format!("{prefix}-vm24"));
    wires.tap(workload).unwrap();
    let (tap, guest_name) = (workload.tap_name().parse().unwrap(), inside_guest.clone());
    let on_host = host.clone();
    std::thread::spawn(move || netns::within(&on_host, || guest::run(&tap, &guest_name, &"eth0".parse().unwrap())));
    wires.configure_guest(workload, None).unwrap();
    host_side(&host, workload);
    assert!(ping(&inside_guest, "172.18.203.10"), "the guest reaches its host");
    assert!(ping(&host, "10.65.0.24"), "the host reaches the guest");
    let neighbours = netns::within(&host, || std::fs::read_to_string("/proc/thread-self/net/arp").unwrap()).unwrap();
    let mac = workload.mac_address().to_string();
    assert!(neighbours.lines().any(|line| line.contains("10.65.0.24") && line.contains(&mac)), "{neighbours}");
}

#[test]
fn a_real_guest_kernel_boots_and_pings() {
    let topology = lasthop_lab::builtin::builtin("vm").unwrap().unwrap();
    let prefix = format!("lhv{}", std::process::id());
    let _names = wired(&prefix, &topology);
    let lab = prefix.parse().unwrap();
    let workload = topology.workload("vm24").unwrap();
    Wires { lab: &lab, topology: &topology }.tap(workload).unwrap();
    let host = format!("{prefix}-compute-1");
    host_side(&host, workload);
    let directory = tempfile::tempdir().unwrap();
    let command = vm::command(&topology, workload, directory.path()).unwrap();
    let log = directory.path().join("console");
    let console = std::fs::File::create(&log).unwrap();
    let mut process = std::process::Command::new(&command[0]);
    process.args(&command[1..]).stdin(std::process::Stdio::null()).stdout(console.try_clone().unwrap()).stderr(console);
    let mut machine = netns::within(&host, || process.spawn().unwrap()).unwrap();
    let end = Instant::now() + Duration::from_secs(120);
    let up = format!("{} up", vm::MARK);
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    while !read().contains(&up) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    let reached = ping(&host, "10.65.0.24");
    machine.kill().unwrap();
    machine.wait().unwrap();
    assert!(reached, "the host reaches the guest; its console:\n{}", read());
    eprintln!("{}", read());
}

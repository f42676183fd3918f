//! Other networks: without a reflector, with both families, made from numbers, from a file, with a real guest.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::{Duration, Instant};
use support::Lab;

#[test]
fn a_mesh_needs_no_reflector() {
    let lab = Lab::up(&["--topology", "mesh"]);
    lab.everyone_reaches_everyone();
    let (_, table) = lab.inside("compute-1", &["route", "-n"]);
    assert!(table.contains("10.65.0.22      172.18.203.129  255.255.255.255 UGH"), "{table}");
}

#[test]
fn ipv6_does_what_ipv4_does() {
    let lab = Lab::up(&["--topology", "dual"]);
    lab.everyone_reaches_everyone();
    let table = lab.ok(&["routes", "compute-1"]);
    let route = |prefix: &str| {
        let line = table.lines().find(|line| line.starts_with(&format!("{prefix} ")));
        let words: Vec<&str> = line.unwrap_or_else(|| panic!("no {prefix} in\n{table}")).split_whitespace().collect();
        [words[1], words[3]] // gateway and link
    };
    assert_eq!(route("fd00:65::21/128"), ["fd00:18:203::126", "eth0"], "a remote workload's host");
    assert_eq!(route("fd00:65::24/128"), ["::", "tapa429fb36-04"], "our own workload's link");
    assert_eq!(route("::/0"), ["fd00:18:203::1", "eth0"]);
    let (_, default) = lab.inside("w21", &["ip", "-6", "route", "show", "default"]);
    assert!(default.contains("via fe80::"), "the host side's link-local: {default}");
    let hop = |limit: &str| lab.inside("w22", &["ping", "-6", "-n", "-c1", "-W2", "-t", limit, "fd00:65::24"]).1;
    assert!(hop("1").contains("From fd00:18:203::129"), "{}", hop("1"));
    assert!(hop("2").contains("From fd00:18:203::10"), "{}", hop("2"));
    assert!(hop("3").contains("1 received"), "{}", hop("3"));
    let outside = lab.capture("gateway", &["-i", "eth0", "icmp6"]);
    assert!(lab.inside("w21", &["ping", "-6", "-n", "-c2", "-i0.2", "-W2", "2001:db8:100::1"]).0);
    let outside = outside.stop();
    assert!(outside.contains("fd00:18:203::126 > 2001:db8:100::1"), "{outside}");
    assert!(!outside.contains("fd00:65::21"), "{outside}");
}

#[test]
fn a_network_is_made_from_two_numbers_and_two_labs_stand_side_by_side() {
    let one = Lab::up(&["--hosts", "4", "--workloads", "12"]);
    let two = Lab::up(&["--topology", "datapath"]);
    one.everyone_reaches_everyone();
    two.everyone_reaches_everyone();
    drop(two);
    one.everyone_reaches_everyone();
}

#[test]
fn a_network_comes_from_a_file() {
    let text = support::lasthop(&["lab", "topologies", "datapath"]).stdout;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), support::text(&text).replace("10.65.1.2", "10.65.1.3")).unwrap();
    let lab = Lab::up(&["--topology", file.path().to_str().unwrap()]);
    lab.everyone_reaches_everyone();
    let (_, table) = lab.inside("h1", &["route", "-n"]);
    assert!(table.contains("10.65.1.3       172.31.0.2 "), "{table}");
}

#[test]
fn a_real_guest_kernel_pings_across_hosts() {
    let lab = Lab::up(&["--topology", "vm"]);
    let console = format!("/run/lasthop-lab/{}/logs/vm24.guest.log", lab.name);
    let end = Instant::now() + Duration::from_secs(180);
    let read = || std::fs::read_to_string(&console).unwrap_or_default();
    while !read().contains("LASTHOP-VM done") && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
    }
    for address in ["10.65.0.21", "10.65.0.22", "10.65.0.23", "198.51.100.1"] {
        assert!(
            read().contains(&format!("LASTHOP-VM reaches {address}")),
            "{address}; console:\n{}\n{}",
            read(),
            lab.logs()
        );
    }
    lab.everyone_reaches_everyone();
}

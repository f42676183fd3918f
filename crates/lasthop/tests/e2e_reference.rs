//! The reference network, end to end: what an operator reads off it, and what packets meet.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use support::Lab;

const COMPUTE_1: &str = "\
Destination     Gateway         Genmask         Flags Metric Ref    Use Iface
0.0.0.0         172.18.203.1    0.0.0.0         UG    0      0        0 eth0
10.65.0.0       0.0.0.0         255.255.0.0     U     0      0        0 ns-db03ab89-b4
10.65.0.21      172.18.203.126  255.255.255.255 UGH   0      0        0 eth0
10.65.0.22      172.18.203.129  255.255.255.255 UGH   0      0        0 eth0
10.65.0.23      172.18.203.129  255.255.255.255 UGH   0      0        0 eth0
10.65.0.24      0.0.0.0         255.255.255.255 UH    0      0        0 tapa429fb36-04
172.18.203.0    0.0.0.0         255.255.255.0   U     0      0        0 eth0
";

#[test]
fn the_routing_table_tells_the_whole_story() {
    let lab = Lab::up(&["--topology", "reference"]);
    let (ok, table) = lab.inside("compute-1", &["route", "-n"]);
    assert!(ok, "{table}");
    let table: Vec<&str> = table.lines().skip(1).collect(); // "Kernel IP routing table"
    assert_eq!(table, COMPUTE_1.lines().collect::<Vec<_>>(), "route -n in compute-1");
    assert_eq!(lab.ok(&["routes", "compute-1"]).lines().take(8).collect::<Vec<_>>(), table, "our own printing of it");

    let (_, table) = lab.inside("w21", &["route", "-n"]);
    let routes: Vec<&str> = table.lines().skip(2).collect();
    assert_eq!(
        routes,
        [
            "0.0.0.0         169.254.1.1     0.0.0.0         UG    0      0        0 eth0",
            "169.254.1.1     0.0.0.0         255.255.255.255 UH    0      0        0 eth0",
        ],
        "a workload knows only its host"
    );
    let (_, own) = lab.inside("compute-2", &["ip", "-d", "route", "show", "10.65.0.21"]);
    assert!(own.contains("scope link") && own.contains("proto 76") && own.lines().count() == 1, "{own}");
}

#[test]
fn everyone_reaches_everyone_and_the_internet() {
    let lab = Lab::up(&["--topology", "reference"]);
    lab.everyone_reaches_everyone();
}

#[test]
fn the_last_hop_before_a_workload_is_its_own_host() {
    let lab = Lab::up(&["--topology", "reference"]);
    let hop = |ttl: &str, to: &str| lab.inside("w22", &["ping", "-n", "-c1", "-W2", "-t", ttl, to]).1;
    assert!(
        hop("1", "10.65.0.24").contains("From 172.18.203.129"),
        "hop 1 is the sender's host: {}",
        hop("1", "10.65.0.24")
    );
    assert!(
        hop("2", "10.65.0.24").contains("From 172.18.203.10"),
        "hop 2 is the receiver's host: {}",
        hop("2", "10.65.0.24")
    );
    let arrived = hop("3", "10.65.0.24");
    assert!(arrived.contains("1 received") && arrived.contains("ttl=62"), "then the workload: {arrived}");
    // Workloads of one host are routed too, not bridged.
    assert!(hop("1", "10.65.0.23").contains("From 172.18.203.129"), "{}", hop("1", "10.65.0.23"));
    assert!(hop("2", "10.65.0.23").contains("1 received"), "{}", hop("2", "10.65.0.23"));
}

#[test]
fn every_frame_to_a_workload_comes_from_its_hosts_mac() {
    let lab = Lab::up(&["--topology", "reference"]);
    let mac = |part: &str, link: &str| {
        lab.inside(part, &["cat", &format!("/sys/class/net/{link}/address")]).1.trim().to_owned()
    };
    let (_, links) = lab.inside("compute-3", &["ip", "route", "show", "10.65.0.22"]);
    let link = links.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap().to_owned();
    let (host_mac, own_mac) = (mac("compute-3", &link), mac("w22", "eth0"));
    let capture = lab.capture("w22", &["-e", "-i", "eth0", "icmp"]);
    for from in ["w21", "w23", "vm24"] {
        let (ok, said) = lab.inside(from, &["ping", "-n", "-c2", "-i0.2", "-W2", "10.65.0.22"]);
        assert!(ok, "{from}: {said}");
    }
    let seen = capture.stop();
    let requests: Vec<&str> = seen.lines().filter(|line| line.contains("echo request")).collect();
    assert_eq!(requests.len(), 6, "{seen}");
    for line in requests {
        assert!(line.contains(&format!("{host_mac} > {own_mac}")), "not from {host_mac} to {own_mac}: {line}");
    }
}

#[test]
fn workloads_leave_with_their_hosts_address_but_meet_each_other_with_their_own() {
    let lab = Lab::up(&["--topology", "reference"]);
    let outside = lab.capture("gateway", &["-i", "eth0", "icmp"]);
    let inside = lab.capture("w22", &["-i", "eth0", "icmp"]);
    for to in ["198.51.100.1", "10.65.0.22"] {
        let (ok, said) = lab.inside("w21", &["ping", "-n", "-c2", "-i0.2", "-W2", to]);
        assert!(ok, "{said}");
    }
    let (outside, inside) = (outside.stop(), inside.stop());
    assert!(outside.contains("172.18.203.126 > 198.51.100.1"), "the Internet sees the host: {outside}");
    assert!(!outside.contains("10.65.0.21"), "and never the workload: {outside}");
    assert!(inside.contains("10.65.0.21 > 10.65.0.22"), "no NAT between workloads: {inside}");
}

#[test]
fn a_workload_moves_and_keeps_its_address() {
    let lab = Lab::up(&["--topology", "reference"]);
    let said = lab.ok(&["move", "w21", "compute-3"]);
    assert!(said.contains("moved from compute-2 to compute-3"), "{said}");
    let (_, table) = lab.inside("compute-1", &["route", "-n"]);
    assert!(table.contains("10.65.0.21      172.18.203.129  255.255.255.255 UGH"), "{table}");
    let (_, old) = lab.inside("compute-2", &["route", "-n"]);
    assert!(old.contains("10.65.0.21      172.18.203.129"), "the old host sends it on: {old}");
    lab.everyone_reaches_everyone();
    let refused = lab.lab(&["move", "vm24", "compute-2"]);
    assert!(!refused.status.success());
    assert!(support::text(&refused.stderr).contains("'vm24' is behind a TAP"));
}

#[test]
fn commands_inside_give_their_own_exit_code() {
    let lab = Lab::up(&["--topology", "reference"]);
    for (part, code) in [("compute-1", 7), ("w21", 0), ("gateway", 1)] {
        let output = lab.lab(&["exec", part, "--", "sh", "-c", &format!("exit {code}")]);
        assert_eq!(output.status.code(), Some(code), "{part}");
    }
    let (ok, said) = lab.inside("compute-1", &["lasthop", "status"]);
    assert!(ok, "{said}");
    let output = lab.lab(&["exec", "compute-9", "--", "true"]);
    assert!(support::text(&output.stderr).contains("did you mean 'compute-1'?"), "{}", support::text(&output.stderr));
}

//! BIRD 2 beside our agents: in place of our speaker on one of our hosts, and as the route reflector of ours.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/bird.rs"]
mod bird;
#[path = "support/drive.rs"]
mod drive;
mod support;

use bird::Bird;
use drive::{SOON, adopt, attach, lab_of, veth};
use lasthop_agent::api::Detach;
use std::time::{Duration, Instant};
use support::Lab;

/// Hosts of ours that peer with nobody yet.
fn network(hosts: &[(&str, &str)]) -> String {
    let hosts: String = hosts.iter().map(|(name, at)| format!("\n  - {{ name: {name}, addresses: [{at}] }}")).collect();
    format!(
        "fabric: {{ subnets: [172.31.0.0/24], gatewayName: x, gateway: [172.31.0.3], internet: [198.51.100.1], \
         store: [172.31.0.4] }}\npeering: custom\npools: [{{ name: workloads, cidr: 10.65.0.0/16, natOutgoing: true }}]\n\
         hosts:{hosts}\n"
    )
}

fn peer(name: &str, node: &str, address: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {{ name: {name} }}\n\
         spec: {{ node: {node}, peerIP: {address}, asNumber: 64512 }}\n---\n"
    )
}

/// A session of BIRD with a neighbour of its own AS.
fn session(name: &str, own: &str, neighbour: &str, more: &str) -> String {
    format!(
        "protocol bgp {name} {{ local {own} as 64512; neighbor {neighbour} as 64512; direct; {more}
           connect delay time 1; connect retry time 1; error wait time 1, 2;
           ipv4 {{ import all; export where net ~ 10.65.0.0/16; next hop self; }}; }}\n"
    )
}

/// The kernel protocol of a host without our speaker: notices by event, not by scan, the agent's direct routes, installs remote ones.
const KERNEL: &str = "protocol kernel { learn; persist; scan time 60; \
    ipv4 { import where krt_source = 76; export where source = RTS_BGP; }; }\n";

fn detach(lab: &Lab, host: &str, name: &str) {
    let detach = Detach { namespace: "default".to_owned(), name: name.to_owned() };
    assert!(lab.client(host).detach(detach).unwrap().existed, "{name}");
}

#[test]
fn bird_distributes_what_the_agent_made_and_the_agent_leaves_what_bird_made() {
    // h1: our agent, BIRD for BGP; h2: all ours; x, the host at the edge: BIRD alone.
    let lab = lab_of(&network(&[("h1", "172.31.0.1"), ("h2", "172.31.0.2")]));
    lab.apply(&(peer("h2-h1", "h2", "172.31.0.1") + &peer("h2-x", "h2", "172.31.0.3")));
    lab.ok(&["kill", "h1", "bgp"]);
    lab.ok(&["kill", "h1", "agent"]);
    let file = lab.directory("h1").join("lasthop.yaml");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config["speaker"] = "external".into();
    std::fs::write(&file, config.to_string()).unwrap();
    lab.ok(&["start", "h1", "agent"]);
    assert_eq!(lab.status_of("h1").speaker.state, "external");
    let own = "172.31.0.1";
    let here = KERNEL.to_owned() + &session("h2", own, "172.31.0.2", "") + &session("x", own, "172.31.0.3", "");
    let here = Bird::start(&lab, "h1", own, &here);
    let own = "172.31.0.3";
    let edge = KERNEL.to_owned() + &session("h1", own, "172.31.0.1", "") + &session("h2", own, "172.31.0.2", "");
    let edge = Bird::start(&lab, "x", own, &edge);

    let spaces = ["a", "b"].map(|name| lab.space(name));
    lab.attach("h1", &attach("a", veth(&spaces[0], "eth0"), &["10.65.0.50"]));
    lab.attach("h2", &attach("b", veth(&spaces[1], "eth0"), &["10.65.0.60"]));
    here.until("show route 10.65.0.50/32 all", |said| said.contains("Kernel.source: 76"));
    lab.until("h2", "ip route get 10.65.0.50; ip route show 10.65.0.50", |said| {
        said.contains("via 172.31.0.1") && said.contains("proto 77")
    });
    lab.until("x", "ip route show 10.65.0.50", |said| said.contains("via 172.31.0.1") && said.contains("proto bird"));
    edge.until("show route 10.65.0.60/32 all", |said| said.contains("BGP.next_hop: 172.31.0.2"));
    let remote = lab.until("h1", "ip route show 10.65.0.60", |said| said.contains("via 172.31.0.2"));
    assert!(remote.contains("proto bird"), "{remote}");
    for (from, to) in [(&spaces[0], "10.65.0.60"), (&spaces[1], "10.65.0.50")] {
        let end = Instant::now() + SOON;
        while !from.reaches(to, 1) {
            assert!(Instant::now() < end, "{} to {to}\n{}", from.0, lab.logs());
        }
    }
    lab.answers("x", "10.65.0.50");

    // The agent comes and goes: BIRD's routes stay as they are.
    let monitor = lab.beside("h1", &["stdbuf", "-oL", "ip", "monitor", "route"]);
    lab.until("h1", "pgrep -x ip", |said| !said.trim().is_empty());
    lab.ok(&["kill", "h1", "agent"]);
    lab.ok(&["start", "h1", "agent"]);
    lab.until("h1", "lasthop status -o json", |said| said.contains("\"in-sync\""));
    lab.attach("h1", &attach("absent", adopt("lhabsent"), &["10.65.0.51"]));
    let seen = monitor.stop();
    assert_eq!(seen.trim(), "", "routes changed");

    // What goes is withdrawn as the kernel tells of it, long before the next scan.
    let begun = Instant::now();
    detach(&lab, "h1", "a");
    lab.until("h2", "ip route show 10.65.0.50", |said| said.trim().is_empty());
    lab.until("x", "ip route show 10.65.0.50", |said| said.trim().is_empty());
    println!("withdrawn by BIRD, and gone from two other hosts, after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5));
    let begun = Instant::now();
    detach(&lab, "h2", "b");
    lab.until("h1", "ip route show 10.65.0.60", |said| said.trim().is_empty());
    println!("withdrawn by us, and gone from BIRD's host, after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn bird_reflects_the_routes_of_our_hosts() {
    let hosts = [("h1", "172.31.0.1"), ("h2", "172.31.0.2"), ("h5", "172.31.0.5")];
    let lab = lab_of(&network(&hosts));
    lab.apply(&hosts.iter().map(|(name, _)| peer(&format!("{name}-x"), name, "172.31.0.3")).collect::<String>());
    let client = "rr client; rr cluster id 10.255.255.1;";
    let own = "172.31.0.3";
    let sessions: String = hosts
        .iter()
        .map(|(name, at)| session(name, own, at, client).replace("next hop self;", "next hop keep;"))
        .collect();
    let reflector = Bird::start(&lab, "x", own, &sessions);
    let spaces = hosts.map(|(name, _)| lab.space(&format!("s{name}")));
    let addresses = ["10.65.0.50", "10.65.0.60", "10.65.0.70"];
    for (((name, _), space), address) in hosts.iter().zip(&spaces).zip(addresses) {
        lab.attach(name, &attach(&format!("w-{name}"), veth(space, "eth0"), &[address]));
    }
    for (at, (name, _)) in hosts.iter().enumerate() {
        for (to, (_, via)) in hosts.iter().enumerate().filter(|(to, _)| *to != at) {
            lab.until(name, &format!("ip route get {0}; ip route show {0}", addresses[to]), |said| {
                said.contains(&format!("via {via} ")) && said.contains("proto 77")
            });
            let end = Instant::now() + SOON;
            while !spaces[at].reaches(addresses[to], 1) {
                assert!(Instant::now() < end, "{name} to {}\n{}", addresses[to], lab.logs());
            }
        }
    }
    assert!(!lab.shell("x", "ip route").contains("10.65.0.50"), "the reflector forwards nothing");
    let why = lab.shell("h1", "lasthop bgp why 10.65.0.60");
    assert!(why.contains("172.31.0.3") && why.contains("172.31.0.2"), "{why}");
    let begun = Instant::now();
    detach(&lab, "h2", "w-h2");
    for host in ["h1", "h5"] {
        lab.until(host, "ip route show 10.65.0.60", |said| said.trim().is_empty());
    }
    println!("withdrawn through BIRD, and gone from two hosts, after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5));
    reflector.until("show route 10.65.0.60/32", |said| said.contains("not found"));
}

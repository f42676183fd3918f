//! Peers take other roles, and nodes leave service, under traffic: a probe of a thousand packets a second loses none.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/drive.rs"]
mod drive;
mod support;

use drive::{SOON, Space, attach, lab_of, none_lost, veth};
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Lab, text};

/// How often all roles are taken in turn.
const ROUNDS: usize = 2;

/// h1 to h3 and two reflectors, which peer with nobody until they are told to.
const NETWORK: &str = "
fabric: { subnets: [172.31.0.0/24], gatewayName: x, gateway: [172.31.0.3], internet: [198.51.100.1], store: [172.31.0.4] }
peering: custom
pools: [{ name: workloads, cidr: 10.65.0.0/16, natOutgoing: true }]
hosts:
  - { name: h1, addresses: [172.31.0.1] }
  - { name: h2, addresses: [172.31.0.2] }
  - { name: h3, addresses: [172.31.0.5] }
  - { name: r1, addresses: [172.31.0.11], reflector: true }
  - { name: r2, addresses: [172.31.0.12], reflector: true }
";

/// A thousand pings a second from inside a namespace.
struct Probe(Option<Child>);

impl Probe {
    fn start(from: &Space, to: &str) -> Self {
        let mut ping = Command::new("ip");
        ping.args(["netns", "exec", &from.0, "ping", "-n", "-i", "0.001", to]);
        Self(Some(ping.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()))
    }

    /// Ends it; what was on its way then does not count.
    fn stop(mut self) -> String {
        let child = self.0.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
        text(&child.wait_with_output().unwrap().stdout)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn resource(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{ name: {name} }}\nspec: {{ {spec} }}\n---\n")
}

fn mesh(on: &str) -> String {
    resource("BGPConfiguration", "default", &format!("asNumber: 64512, nodeToNodeMeshEnabled: {on}"))
}

/// Waits until a host knows `count` ways to a prefix.
fn until_paths(lab: &Lab, host: &str, prefix: &str, count: usize) {
    let line = format!("lasthop bgp paths {prefix} -o json");
    lab.until(host, &line, |said| {
        let paths: Vec<Value> = serde_json::from_str(said).unwrap_or_default();
        paths.len() == count
    });
}

/// How often a host's session with a peer came up and was lost, if it is up.
fn sessions_with(lab: &Lab, host: &str, peer: &str) -> Option<String> {
    let said = lab.shell(host, "lasthop bgp peers -o json");
    let peers: Vec<Value> = serde_json::from_str(&said).unwrap();
    let found = peers.into_iter().find(|one| one["address"] == peer && one["state"] == "Established")?;
    Some(format!("{} {}", found["counters"]["established"], found["counters"]["lost"]))
}

#[test]
fn from_mesh_to_reflector_to_top_of_rack_and_back_no_packet_is_lost() {
    let lab = lab_of(NETWORK);
    lab.apply(&mesh("true"));
    let spaces = ["a", "b"].map(|name| lab.space(name));
    lab.attach("h1", &attach("a", veth(&spaces[0], "eth0"), &["10.65.0.50"]));
    lab.attach("h2", &attach("b", veth(&spaces[1], "eth0"), &["10.65.0.60"]));
    let both = |count: usize| {
        until_paths(&lab, "h1", "10.65.0.60", count);
        until_paths(&lab, "h2", "10.65.0.50", count);
    };
    both(1);
    let end = Instant::now() + SOON;
    while !spaces[0].reaches("10.65.0.60", 1) {
        assert!(Instant::now() < end, "{}", lab.logs());
    }
    let reflector = resource("BGPPeer", "reflector", "nodeSelector: '!has(route-reflector)', peerIP: 172.31.0.11");
    let racks = resource("BGPPeer", "tor-h1", "node: h1, peerIP: 172.31.0.12")
        + &resource("BGPPeer", "tor-h2", "node: h2, peerIP: 172.31.0.12");
    let direct = resource("BGPPeer", "direct", "node: h1, peerIP: 172.31.0.2");
    let delete = |names: &str| lab.shell("store", &format!("lasthop delete bgppeer {names}"));
    let probes = [Probe::start(&spaces[0], "10.65.0.60"), Probe::start(&spaces[1], "10.65.0.50")];
    for _ in 0..ROUNDS {
        // A session that goes on under another name does not notice.
        let count = sessions_with(&lab, "h1", "172.31.0.2").unwrap();
        lab.apply(&direct);
        lab.apply(&mesh("false"));
        lab.until("h1", "lasthop bgp peers -o json", |said| !said.contains("172.31.0.5"));
        assert_eq!(sessions_with(&lab, "h1", "172.31.0.2"), Some(count.clone()));
        lab.apply(&mesh("true"));
        delete("direct");
        lab.until("h1", "lasthop bgp peers -o json", |said| said.contains("172.31.0.5"));
        assert_eq!(sessions_with(&lab, "h1", "172.31.0.2"), Some(count));
        // Mesh to reflector to top of rack.
        lab.apply(&reflector);
        both(2);
        lab.apply(&mesh("false"));
        both(1);
        lab.apply(&racks);
        both(2);
        delete("reflector");
        both(1);
        // And back.
        lab.apply(&reflector);
        both(2);
        delete("tor-h1 tor-h2");
        both(1);
        lab.apply(&mesh("true"));
        both(2);
        delete("reflector");
        both(1);
    }
    probes.map(Probe::stop).iter().for_each(|said| none_lost(said));
}

#[test]
fn a_node_that_drains_loses_no_packet_and_none_goes_by_it_any_more() {
    let lab = lab_of(NETWORK);
    lab.apply(&mesh("true"));
    // Two hosts have one service's address; the third one uses it.
    let spaces = ["one", "two", "user"].map(|name| lab.space(name));
    lab.attach("h1", &attach("service", veth(&spaces[0], "eth0"), &["10.65.0.50"]));
    lab.attach("h3", &attach("user", veth(&spaces[2], "eth0"), &["10.65.0.70"]));
    let via = |address: &str| {
        lab.until("h3", "ip route get 10.65.0.50", |said| said.contains(&format!("via {address} ")));
    };
    via("172.31.0.1");
    lab.attach("h2", &attach("service-2", veth(&spaces[1], "eth0"), &["10.65.0.50"]));
    until_paths(&lab, "h3", "10.65.0.50", 2);
    let end = Instant::now() + SOON;
    while !spaces[2].reaches("10.65.0.50", 1) {
        assert!(Instant::now() < end, "{}", lab.logs());
    }
    let used =
        lab.shell("h3", "ip route get 10.65.0.50 from 10.65.0.70 iif $(ip -o link | grep -o 'lh[^@:]*' | head -1)");
    let (busy, other) = if used.contains("172.31.0.1 ") { ("h1", "172.31.0.2") } else { ("h2", "172.31.0.1") };
    let probe = Probe::start(&spaces[2], "10.65.0.50");
    std::thread::sleep(Duration::from_millis(500));
    // From another machine traffic cannot be seen.
    let (ok, said) = lab.inside("store", &["lasthop", "node", "drain", busy]);
    assert!(!ok && said.contains("cannot be seen from here"), "{said}");
    let said = lab.shell(busy, &format!("lasthop node drain {busy} --timeout 30s"));
    assert!(said.contains("last choice") && said.contains("withdrawn"), "{said}");
    until_paths(&lab, "h3", "10.65.0.50", 1);
    via(other);
    assert!(lab.shell(busy, "lasthop bgp why 10.65.0.50").contains("this node is drained"));
    // Another process, another life: it stays drained.
    lab.ok(&["kill", busy, "agent"]);
    lab.ok(&["start", busy, "agent"]);
    lab.until(busy, "lasthop status -o json", |said| said.contains("\"in-sync\""));
    until_paths(&lab, "h3", "10.65.0.50", 1);
    lab.shell("store", &format!("lasthop node undrain {busy}"));
    until_paths(&lab, "h3", "10.65.0.50", 2);
    none_lost(&probe.stop());
    // What only one node has is not withdrawn while it is in use.
    let asker = lab.space("asker");
    lab.attach("h1", &attach("asker", veth(&asker, "eth0"), &["10.65.0.80"]));
    let end = Instant::now() + SOON;
    while !asker.reaches("10.65.0.70", 1) {
        assert!(Instant::now() < end, "{}", lab.logs());
    }
    let probe = Probe::start(&asker, "10.65.0.70");
    let (ok, said) = lab.inside("h3", &["lasthop", "node", "drain", "h3", "--timeout", "1s"]);
    assert!(!ok && said.contains("packets") && said.contains("nothing was withdrawn"), "{said}");
    none_lost(&probe.stop());
}

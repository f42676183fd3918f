//! What the guard costs a forwarded packet: printed, beside the bare kernel and beside the same rules loaded by nft.
//!
//! A workload sends over a veth: the whole way to the next host is done inside its `send`, so that time is the packet's.

mod netns;

use lasthop_compute::{EndpointToHost, Guard, Nat, Source};
use lasthop_kernel::bpf::{Responder, Responders};
use lasthop_kernel::nft::{Nft, PolicyScope, allow_all};
use lasthop_kernel::reconcile::{Reconciler, Scope};
use lasthop_net::{IfName, Mac};
use netns::Netns;
use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

const ROUNDS: usize = 10;
const FLOWS: usize = 10;
const PACKETS: u32 = 1_000;

fn name(text: &str) -> IfName {
    text.parse().expect("a name")
}

fn guard_on() {
    let guard =
        Guard { link_prefixes: ["lh", "tap"].map(str::to_owned).into(), endpoint_to_host: EndpointToHost::Drop };
    let pools: BTreeSet<_> = ["10.65.0.0/16".parse().expect("a prefix")].into();
    let mut nft = Nft::open().expect("sockets");
    nft.sync_skeleton(&guard, &Nat { sources: BTreeSet::new(), inside: pools }).expect("the skeleton");
    let sources = BTreeSet::from([Source { link: name("lhw"), prefix: "10.65.0.2".parse().expect("a prefix") }]);
    assert!(nft.sync_sources(&sources, Scope::All).failed.is_empty());
    assert!(nft.sync_policy(&allow_all([&name("lhw")]), PolicyScope::All).failed.is_empty());
}

fn respond(wanted: bool) {
    let mut responders = Reconciler::new(Responders::open().expect("a socket"));
    responders.read_back().expect("read back");
    let own = BTreeSet::from(["10.65.0.2".parse().expect("a prefix")]);
    let responder = Responder::new(Mac([0xee; 6]), &own).expect("a program");
    let desired = if wanted { BTreeMap::from([(name("lhw"), responder)]) } else { BTreeMap::new() };
    assert!(responders.sync(&desired, Scope::All).failed.is_empty());
}

/// Nanoseconds for each packet of one connection that has been answered.
fn flow(workload: &Netns, server: &Netns) -> u128 {
    let answering = server.enter(|| UdpSocket::bind("198.51.100.1:0").expect("a socket"));
    let port = answering.local_addr().expect("bound").port();
    let sending = workload.enter(|| {
        let socket = UdpSocket::bind("10.65.0.2:0").expect("a socket");
        socket.connect(("198.51.100.1", port)).expect("a route");
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        socket
    });
    let mut byte = [0];
    for _ in 0..2 {
        sending.send(&byte).expect("sent");
        let (_, from) = answering.recv_from(&mut byte).expect("received");
        answering.send_to(&byte, from).expect("answered");
        sending.recv(&mut byte).expect("the answer passes");
    }
    let begin = Instant::now();
    for _ in 0..PACKETS {
        let _ = sending.send(&byte);
    }
    begin.elapsed().as_nanos() / u128::from(PACKETS)
}

#[test]
fn the_guard_costs_what_its_rules_cost() {
    let [host, workload, server] = ["host", "w", "x"].map(Netns::new);
    host.sh(&format!(
        "sysctl -qw net.ipv4.ip_forward=1
         ip link add lhw type veth peer name eth0 netns {}; ip link set lhw address ee:ee:ee:ee:ee:ee up
         ip link add eth0 type veth peer name eth0 netns {}; ip link set eth0 up; ip addr add 172.31.0.1/24 dev eth0
         ip route add 198.51.100.0/24 via 172.31.0.3; ip route add 10.65.0.2 dev lhw",
        workload.name, server.name
    ));
    workload.sh("ip link set eth0 up; ip addr add 10.65.0.2/32 dev eth0
        ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1
        ip neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent");
    server.sh("ip link set eth0 up; ip addr add 172.31.0.3/24 dev eth0; ip addr add 198.51.100.1/32 dev lo
        ip route add 10.65.0.0/16 via 172.31.0.1");
    host.enter(guard_on);
    let listing = format!("/tmp/{}.nft", host.name);
    host.sh(&format!("nft list table inet lasthop | sed 's/^table inet lasthop/table inet hand/' > {listing}; nft delete table inet lasthop"));
    let mut best = [u128::MAX; 4];
    for _ in 0..ROUNDS {
        let mut measure = |variant: usize| {
            let fastest = (0..FLOWS).map(|_| flow(&workload, &server)).min().unwrap_or(u128::MAX);
            best[variant] = best[variant].min(fastest);
        };
        measure(0);
        host.sh(&format!("nft -f {listing}"));
        measure(1);
        host.sh("nft delete table inet hand");
        host.enter(guard_on);
        measure(2);
        host.enter(|| respond(true));
        measure(3);
        host.enter(|| {
            respond(false);
            Nft::open().expect("sockets").remove_all().expect("removed");
        });
    }
    host.sh(&format!("rm {listing}"));
    let [bare, hand, ours, whole] = best;
    println!("ns a packet: bare kernel {bare}, same rules by nft {hand}, ours {ours}, with the responder {whole}");
    // Wide, because the machine is shared; the figures above are for people.
    assert!(ours < hand * 3 / 2 && whole < hand * 3 / 2, "{best:?}");
}

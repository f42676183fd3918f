//! Routers of another AS at the edge: what filters and communities make of routes, seen at BIRD and in the kernel; and two
//! ways to the same place (K8 to K10 and R7 of the interop scenarios).
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/bird.rs"]
mod bird;
#[path = "support/drive.rs"]
mod drive;
mod support;

use bird::Bird;
use drive::{attach, lab_of, none_lost, veth};
use support::Lab;

const NETWORK: &str = "
fabric: { subnets: [172.31.0.0/24], gatewayName: x, gateway: [172.31.0.3], internet: [198.51.100.1], store: [172.31.0.4] }
peering: custom
pools: [{ name: workloads, cidr: 10.65.0.0/16 }]
hosts: [{ name: h1, addresses: [172.31.0.1] }]
";

/// What BIRD announces as a stranger, and its session with the host.
fn stranger(own: &str, routes: &str) -> String {
    format!(
        "protocol static s4 {{ ipv4; {routes} }}
         protocol bgp h1 {{ local {own} as 64600; neighbor 172.31.0.1 as 64512; direct;
           connect delay time 1; connect retry time 1; error wait time 1, 2;
           ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }}; }}\n"
    )
}

fn peer(name: &str, address: &str, more: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {{ name: {name} }}\n\
         spec: {{ node: h1, peerIP: {address}, asNumber: 64600{more} }}\n---\n"
    )
}

fn filter(import: &str, export: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPFilter\nmetadata: {{ name: edge }}\n\
         spec: {{ importV4: [{import}], exportV4: [{export}] }}\n---\n"
    )
}

/// Waits until the kernel has a learned route for a prefix, or none.
fn in_kernel(lab: &Lab, host: &str, prefix: &str, wanted: bool) {
    lab.until(host, &format!("ip route show {prefix}"), |said| said.contains("proto 77") == wanted);
}

#[test]
fn filters_and_communities_show_at_bird_and_in_the_kernel_and_no_session_notices() {
    let lab = lab_of(NETWORK);
    let routes =
        "route 203.0.113.0/24 unreachable; route 203.0.113.128/25 unreachable; route 192.0.2.0/24 unreachable;";
    let bird = Bird::start(&lab, "x", "172.31.0.3", &stranger("172.31.0.3", routes));
    lab.apply(
        "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: { name: default }\n\
         spec: { asNumber: 64512, nodeToNodeMeshEnabled: false, communities: [{ name: edge, value: '64512:77' }], \
         prefixAdvertisements: [{ cidr: 10.65.0.0/16, communities: [edge, '64512:1:2'] }] }\n",
    );
    let accepted = "{ action: Accept, cidr: 203.0.113.0/24, matchOperator: In }, { action: Reject, cidr: 0.0.0.0/0, matchOperator: In }";
    let export = "{ action: Accept, cidr: 10.65.0.0/16, matchOperator: In, operations: [{ addCommunity: { value: '64512:9' } }, \
                  { prependASPath: { prefix: [64512] } }] }";
    lab.apply(&(filter(accepted, export) + &peer("x", "172.31.0.3", ", filters: [edge]")));
    let space = lab.space("a");
    lab.attach("h1", &attach("a", veth(&space, "eth0"), &["10.65.0.50"]));

    let route = bird.until("show route 10.65.0.50/32 all", |said| said.contains("BGP.as_path: 64512 64512\n"));
    for once in ["(64512,77)", "(64512,9)", "(64512, 1, 2)"] {
        assert_eq!(route.matches(once).count(), 1, "{once}: {route}");
    }
    in_kernel(&lab, "h1", "203.0.113.0/24", true);
    in_kernel(&lab, "h1", "203.0.113.128/25", true);
    in_kernel(&lab, "h1", "192.0.2.0/24", false);
    let since = bird.ask("show protocols h1");

    // The first rule that matches decides.
    let first = "{ action: Reject, cidr: 203.0.113.0/24, matchOperator: In, prefixLength: { min: 25 } }, ";
    lab.apply(&filter(&format!("{first}{accepted}"), "{ action: Reject, cidr: 10.65.0.50/32, matchOperator: Equal }"));
    in_kernel(&lab, "h1", "203.0.113.128/25", false);
    in_kernel(&lab, "h1", "203.0.113.0/24", true);
    bird.until("show route 10.65.0.50/32 all", |said| said.contains("not found"));

    // Without a filter: our own goes out as it is, and of a stranger's nothing is taken that nobody expects.
    lab.apply(&peer("x", "172.31.0.3", ""));
    let route = bird.until("show route 10.65.0.50/32 all", |said| said.contains("BGP.as_path: 64512\n"));
    assert!(route.contains("(64512,77)") && !route.contains("(64512,9)"), "{route}");
    in_kernel(&lab, "h1", "203.0.113.0/24", false);
    assert_eq!(bird.ask("show protocols h1"), since, "the session stood all the time");
}

#[test]
fn two_ways_of_one_cost_are_both_in_the_kernel_and_one_goes_without_loss() {
    let lab = lab_of(NETWORK);
    let place = "route 203.0.113.0/24 unreachable;";
    for part in ["x", "store"] {
        lab.shell(part, "ip addr add 203.0.113.1/32 dev lo; sysctl -qw net.ipv4.ip_forward=1; ip route replace 10.65.0.0/16 via 172.31.0.1");
    }
    let birds = [("x", "172.31.0.3"), ("store", "172.31.0.4")]
        .map(|(part, own)| Bird::start(&lab, part, own, &stranger(own, place)));
    let all = "{ action: Accept, cidr: 203.0.113.0/24, matchOperator: Equal }";
    let peers = peer("x", "172.31.0.3", ", filters: [edge]") + &peer("y", "172.31.0.4", ", filters: [edge]");
    lab.apply(&(filter(all, "{ action: Accept, cidr: 10.65.0.0/16, matchOperator: In }") + &peers));
    let space = lab.space("a");
    lab.attach("h1", &attach("a", veth(&space, "eth0"), &["10.65.0.50"]));
    let ways = |wanted: usize| {
        let shown = "id=$(ip route show 203.0.113.0/24 | sed -n 's/.*nhid \\([0-9]*\\).*/\\1/p'); \
                     for one in $(ip nexthop show id $id | sed -n 's/.*group \\([0-9/]*\\).*/\\1/p' | tr / ' '); do \
                     ip nexthop show id $one; done; ip nexthop show id $id";
        lab.until("h1", shown, |said| said.matches("via 172.31.0.").count() == wanted)
    };
    ways(2);
    for round in 0..3 {
        let said = std::thread::scope(|scope| {
            let ping = scope.spawn(|| space.shell("ping -n -i0.002 -w3 203.0.113.1"));
            std::thread::sleep(std::time::Duration::from_millis(700));
            let bird = &birds[round % 2];
            bird.ask("disable s4");
            let left = ways(1);
            assert!(left.contains(if round % 2 == 0 { "172.31.0.4" } else { "172.31.0.3" }), "{left}");
            bird.ask("enable s4");
            ways(2);
            ping.join().unwrap()
        });
        none_lost(&said);
    }
}

#[test]
fn with_bird_as_the_only_reflector_a_host_dies_and_comes_back_without_loss() {
    // A few cells of the loss matrix (`make resilience`).
    let hosts = "hosts: [{ name: h1, addresses: [172.31.0.1] }, { name: h2, addresses: [172.31.0.2] }]";
    let lab = lab_of(&NETWORK.replace("hosts: [{ name: h1, addresses: [172.31.0.1] }]", hosts));
    let session = |name: &str, address: &str| {
        format!(
            "protocol bgp {name} {{ local 172.31.0.3 as 64512; neighbor {address} as 64512; direct; rr client;
               graceful restart on; connect delay time 1; connect retry time 1; error wait time 1, 2;
               ipv4 {{ import all; export all; next hop keep; }}; }}\n"
        )
    };
    let _bird = Bird::start(&lab, "x", "172.31.0.3", &(session("h1", "172.31.0.1") + &session("h2", "172.31.0.2")));
    let to_reflector =
        |host: &str| peer(&format!("{host}-x"), "172.31.0.3", "").replace("node: h1", &format!("node: {host}"));
    lab.apply(&(to_reflector("h1") + &to_reflector("h2")).replace("64600", "64512"));
    let spaces = ["a", "b"].map(|name| lab.space(name));
    for ((host, space), address) in ["h1", "h2"].into_iter().zip(&spaces).zip(["10.65.0.50", "10.65.0.60"]) {
        lab.attach(host, &attach(&space.0, veth(space, "eth0"), &[address]));
    }
    for (host, other) in [("h1", "10.65.0.60"), ("h2", "10.65.0.50")] {
        in_kernel(&lab, host, other, true);
    }
    for roles in [&["bgp"][..], &["agent"], &["bgp", "agent"]] {
        let said = std::thread::scope(|scope| {
            let ping = scope.spawn(|| spaces[0].shell("ping -n -i0.002 -w6 10.65.0.60"));
            std::thread::sleep(std::time::Duration::from_millis(300));
            roles.iter().for_each(|role| drop(lab.ok(&["kill", "h1", role])));
            std::thread::sleep(std::time::Duration::from_millis(300));
            roles.iter().for_each(|role| drop(lab.ok(&["start", "h1", role])));
            lab.until("h1", "lasthop bgp peers -o json", |said| said.contains("Established"));
            ping.join().unwrap()
        });
        none_lost(&said);
    }
}

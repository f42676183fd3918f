//! The main table as an operator reads it: every program's routes, next hop objects followed.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod netns;

use lasthop_kernel::routes::{main_table, protocol_name};
use lasthop_net::RouteProtocol;
use netns::Netns;

#[test]
fn every_programs_routes_are_listed() {
    let host = Netns::new("list");
    host.sh("ip link add eth0 type veth peer name eth1 && ip link set eth0 up && ip link set eth1 up
             ip addr add 172.18.203.10/24 dev eth0 && ip route add default via 172.18.203.1
             ip -6 addr add fd00::10/64 dev eth0 nodad && ip -6 route add fd65::21/128 via fd00::7e proto bird
             ip nexthop add id 5 via 172.18.203.126 dev eth0 && ip nexthop add id 6 via 172.18.203.129 dev eth0
             ip nexthop add id 7 group 5/6 && ip route add 10.65.0.21 nhid 5 proto 77 && ip route add 10.65.0.22 nhid 7 proto 77
             ip route add unreachable 10.65.0.0/16 proto 77 metric 9 && ip route add 10.65.0.24 dev eth1 scope link proto 76");
    let routes = host.enter(main_table).unwrap();
    let lines: Vec<String> = routes
        .iter()
        .filter(|route| !route.prefix.to_string().starts_with("fe80"))
        .map(|route| {
            let ways = route.ways.iter().map(|way| {
                let gateway = way.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
                let link = way.link.as_ref().map(|link| format!(" dev {link}")).unwrap_or_default();
                gateway + &link
            });
            let maker = protocol_name(route.protocol).map_or_else(|| route.protocol.0.to_string(), str::to_owned);
            format!("{} {}{} {maker} {}", route.prefix, route.kind, ways.collect::<String>(), route.metric)
        })
        .collect();
    let expected = [
        "0.0.0.0/0 unicast via 172.18.203.1 dev eth0 boot 0",
        "10.65.0.0/16 unreachable lasthop 9",
        "10.65.0.21/32 unicast via 172.18.203.126 dev eth0 lasthop 0",
        "10.65.0.22/32 unicast via 172.18.203.126 dev eth0 via 172.18.203.129 dev eth0 lasthop 0",
        "10.65.0.24/32 unicast dev eth1 lasthop 0",
        "172.18.203.0/24 unicast dev eth0 kernel 0",
        "fd00::/64 unicast dev eth0 kernel 256",
        "fd65::21/128 unicast via fd00::7e dev eth0 bird 1024",
    ];
    assert_eq!(lines, expected);
    assert_eq!(protocol_name(RouteProtocol(250)), None);
}

//! Links and namespaces on the real kernel.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use common::{Scratch, name, prefix};
use lasthop_kernel::link::{self, AddressSpec, Admin, BridgeSpec, Change, PlainRoute, RouteTarget, VethSpec};
use lasthop_kernel::netlink::{Protocol, Socket};
use lasthop_kernel::netns::{self, Inside, Netns, NetnsRef};
use lasthop_kernel::{Error, sysctl};
use std::process::Command;

fn veth<'a>(host: &str, netns: &'a Netns) -> VethSpec<'a> {
    VethSpec {
        name: name(host),
        mac: Some("ee:ee:ee:ee:ee:ee".parse().unwrap()),
        netns: Some(netns),
        peer_name: name("eth0"),
        peer_mac: Some("02:00:0a:41:00:15".parse().unwrap()),
        mtu: Some(1450),
    }
}

#[test]
fn a_veth_reaches_into_the_workload_and_the_host_is_its_next_hop() {
    let (host, workload) = (Scratch::new(), Scratch::new());
    host.run(|| {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        link::create_veth(&mut socket, &veth("lh1", &workload.netns)).unwrap();
        sysctl::write("net/ipv6/conf/lh1/accept_dad", "0").unwrap();
        let alias = Some("lasthop:default/vm1".to_owned());
        link::change(&mut socket, &name("lh1"), &Change { alias, ..Change::up() }).unwrap();
        let state = link::need(&mut socket, &name("lh1")).unwrap();
        assert_eq!((state.admin, state.mtu, state.is_marked()), (Admin::Up, 1450, true));
        assert_eq!(state.mac.unwrap().to_string(), "ee:ee:ee:ee:ee:ee");
        assert_eq!(state.kind.as_deref(), Some("veth"));
        let again = link::create_veth(&mut socket, &veth("lh1", &workload.netns)).unwrap_err();
        assert_eq!(again.to_string(), "create veth lh1 with peer eth0: File exists");
    });
    let inside = Inside {
        link: name("eth0"),
        addresses: ["10.65.0.21".parse().unwrap(), "fd00:65::21".parse().unwrap()].into(),
        gateway_v6: Some(netns::gateway_v6("ee:ee:ee:ee:ee:ee".parse().unwrap())),
        mac: None,
        mtu: None,
    };
    for round in 1..=2 {
        netns::configure(&workload.netns, &inside).unwrap();
        let table = workload.sh("route -n | tail -n +3");
        let expect = "0.0.0.0         169.254.1.1     0.0.0.0         UG    0      0        0 eth0\n\
                      169.254.1.1     0.0.0.0         255.255.255.255 UH    0      0        0 eth0";
        assert_eq!(table, expect, "round {round}");
        assert!(workload.sh("ip -6 route show default").starts_with("default via fe80::ecee:eeff:feee:eeee dev eth0"));
    }
    let addresses = workload.sh("ip -o addr show dev eth0 scope global");
    assert!(addresses.contains("10.65.0.21/32") && addresses.contains("fd00:65::21/128"), "{addresses}");
    assert!(!workload.sh("ip -6 addr").contains("tentative"));
    // The host's side has the link-local address that the workload's default route goes to.
    assert!(common::soon(|| host.sh("ip -6 addr show dev lh1").contains("fe80::ecee:eeff:feee:eeee")));
    assert!(common::soon(|| workload.try_sh("ping -c1 -W1 fe80::ecee:eeff:feee:eeee%eth0").0));
    host.run(|| {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        assert!(link::delete(&mut socket, &name("lh1")).unwrap());
        assert!(!link::delete(&mut socket, &name("lh1")).unwrap(), "deleting twice is no error");
        let error = link::change(&mut socket, &name("lh1"), &Change::up()).unwrap_err();
        assert_eq!(error.to_string(), "interface lh1 does not exist");
    });
}

#[test]
fn what_has_a_further_links_address_leaves_by_it() {
    let (host, workload) = (Scratch::new(), Scratch::new());
    let gateway = netns::gateway_v6("ee:ee:ee:ee:ee:ee".parse().unwrap());
    let inside = |link: &str, addresses: &[&str]| Inside {
        link: name(link),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        gateway_v6: Some(gateway),
        mac: None,
        mtu: None,
    };
    let plug = |on_host: &str, link: &str| {
        host.run(|| {
            let mut socket = Socket::open(Protocol::Route).unwrap();
            let spec = VethSpec { peer_name: name(link), ..veth(on_host, &workload.netns) };
            link::create_veth(&mut socket, &spec).unwrap();
            link::change(&mut socket, &name(on_host), &Change::up()).unwrap();
        });
    };
    let leaves = |family: &str, from: &str, by: &str, when: &str| {
        let to = if family == "-4" { "198.51.100.1" } else { "2001:db8::1" };
        let way = workload.sh(&format!("ip {family} route get {to} {from}"));
        assert!(way.contains(&format!("dev {by} ")), "{when}: {from}: {way}");
    };
    plug("lh1", "eth0");
    plug("lh2", "eth1");
    let first = inside("eth0", &["10.65.0.50", "fd00:65::50"]);
    let second = inside("eth1", &["10.65.0.60", "10.65.0.61", "fd00:65::60"]);
    let look = "ip route show table all; ip -6 route show table all; ip rule; ip -6 rule";
    netns::configure(&workload.netns, &first).unwrap();
    let alone = workload.sh("ip rule; ip -6 rule; ip route show");
    for round in ["at first", "again"] {
        netns::configure(&workload.netns, &second).unwrap();
        netns::configure(&workload.netns, &first).unwrap();
        for (family, from, by) in [
            ("-4", "", "eth0"),
            ("-4", "from 10.65.0.50", "eth0"),
            ("-4", "from 10.65.0.60", "eth1"),
            ("-4", "from 10.65.0.61", "eth1"),
            ("-6", "", "eth0"),
            ("-6", "from fd00:65::50", "eth0"),
            ("-6", "from fd00:65::60", "eth1"),
        ] {
            leaves(family, from, by, round);
        }
    }
    let before = workload.sh(look);
    netns::configure(&workload.netns, &second).unwrap();
    assert_eq!(workload.sh(look), before, "doing it again changes nothing");
    // An address that it has no more has no rule; somebody else's rules stay.
    workload.sh("ip rule add from 192.0.2.1 lookup 99");
    netns::configure(&workload.netns, &inside("eth1", &["10.65.0.61", "fd00:65::60"])).unwrap();
    let rules = workload.sh("ip rule");
    assert!(!rules.contains("10.65.0.60") && rules.contains("10.65.0.61") && rules.contains("192.0.2.1"), "{rules}");
    // The first link goes: the further one is the way of everything.
    workload.sh("ip link del eth0");
    leaves("-4", "", "eth1", "the first is gone");
    leaves("-6", "", "eth1", "the first is gone");
    assert!(!alone.contains("lookup 76"), "a workload with one link needs no rules: {alone}");
}

#[test]
fn a_box_can_be_built() {
    let scratch = Scratch::new();
    scratch.run(|| {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        link::create_bridge(&mut socket, &BridgeSpec { name: name("fabric") }).unwrap();
        link::change(&mut socket, &name("fabric"), &Change::up()).unwrap();
        let tap = link::create_tap(&name("tapa429fb36-04")).unwrap();
        drop(tap);
        let port =
            Change { master: Some(name("fabric")), mac: Some("02:00:00:00:00:07".parse().unwrap()), ..Change::up() };
        link::change(&mut socket, &name("tapa429fb36-04"), &port).unwrap();
        let state = link::need(&mut socket, &name("tapa429fb36-04")).unwrap();
        let bridge = link::need(&mut socket, &name("fabric")).unwrap();
        assert_eq!((state.master, state.kind.as_deref()), (Some(bridge.index), Some("tun")));
        let address = AddressSpec { address: "172.18.203.1".parse().unwrap(), len: 24 };
        link::add_address(&mut socket, &name("fabric"), &address).unwrap();
        link::add_address(&mut socket, &name("fabric"), &address).unwrap();
        assert_eq!(
            link::addresses(&mut socket, &name("fabric")).unwrap().iter().filter(|a| a.address.is_ipv4()).count(),
            1
        );
        let route =
            PlainRoute { prefix: prefix("0.0.0.0/0"), target: RouteTarget::Gateway("172.18.203.9".parse().unwrap()) };
        link::add_route(&mut socket, &route).unwrap();
        assert!(link::delete_route(&mut socket, &route).unwrap());
        assert!(!link::delete_route(&mut socket, &route).unwrap());
        assert!(link::delete_address(&mut socket, &name("fabric"), &address).unwrap());
        assert!(!link::delete_address(&mut socket, &name("fabric"), &address).unwrap());
        let renamed = Change { name: Some(name("tap7")), ..Change::default() };
        link::change(&mut socket, &name("tapa429fb36-04"), &renamed).unwrap();
        assert!(link::get(&mut socket, &name("tap7")).unwrap().is_some());
        assert!(link::get(&mut socket, &name("tapa429fb36-04")).unwrap().is_none());
    });
}

#[test]
fn a_namespace_is_opened_by_name_path_and_process() {
    let scratch = Scratch::new();
    let by_path = Netns::open(&format!("/run/netns/{}", scratch.name).parse().unwrap()).unwrap();
    assert!(by_path.is_same(&scratch.netns).unwrap());
    let own = Netns::open(&NetnsRef::Pid(std::process::id())).unwrap();
    assert!(own.is_same(&Netns::current().unwrap()).unwrap());
    assert!(!own.is_same(&scratch.netns).unwrap());
    let error = Netns::open(&NetnsRef::Path("/etc/hostname".into())).unwrap_err();
    assert_eq!(error.to_string(), "/etc/hostname is not a network namespace");
    let error = Netns::open(&"lht-none".parse().unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "open network namespace lht-none: No such file or directory");
    assert!(matches!(netns::create(&scratch.name), Err(Error::System { .. })), "a name is taken once");
    assert!(netns::names().unwrap().contains(&scratch.name));
    assert!(Command::new("ip").args(["netns", "exec", &scratch.name, "true"]).status().unwrap().success());
    assert!(netns::delete(&scratch.name).unwrap());
    assert!(!netns::delete(&scratch.name).unwrap());
}

#[test]
fn links_that_go_together_take_no_other_along() {
    let scratch = Scratch::new();
    scratch.sh("for n in 1 2 3 4 5 6; do ip link add lh$n type veth peer name p$n; done; ip link set lh3 up; ip link set p3 up");
    // The very group that is tried first.
    scratch.sh("ip link set lh6 group 1818781551");
    let names = |numbers: &[u8]| numbers.iter().map(|n| name(&format!("lh{n}"))).collect::<Vec<_>>();
    scratch.run(|| {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        link::delete_together(&mut socket, &names(&[1, 2, 3, 9])).unwrap();
    });
    let left = scratch.sh("ip -o link show type veth | cut -d: -f2 | cut -d@ -f1 | tr -d ' ' | sort | paste -sd' '");
    assert_eq!(left, "lh4 lh5 lh6 p4 p5 p6");
}

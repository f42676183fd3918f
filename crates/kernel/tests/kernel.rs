//! The whole driver on the real kernel: in force, repaired, restarted, taken away. Case ids are those of the conformance
//! suite (`datapath.md`).
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use common::host::{Everything, Host, Wanted, repair, settle, sync};
use common::{name, prefix, soon};
use lasthop_compute::Route;
use lasthop_kernel::link::LinkChange;
use lasthop_kernel::reconcile::Scope;
use lasthop_kernel::{Error, Kernel, KernelConfig, KernelEvent};
use std::collections::BTreeSet;

const MAC: &str = "02:00:0a:41:00:02";

fn two_workloads() -> Wanted {
    Wanted::default()
        .workload("lh1", &["10.65.0.2", "fd00:65::2"], MAC)
        .workload("lh2", &["10.65.0.3", "fd00:65::3"], "02:00:0a:41:00:03")
        .remote("10.65.1.2/32", &["172.31.0.2"])
        .remote("10.65.2.0/26", &["172.31.0.2", "172.31.0.3"])
        .remote("fd00:65:1::2/128", &["fd00:31::2"])
        .unreachable("10.65.0.0/16")
        .unreachable("fd00:65::/64")
}

/// A host with the links of [`two_workloads`].
fn with_two_links() -> Host {
    let host = Host::new();
    host.workload("lh1");
    host.workload("lh2");
    host
}

/// The same after a run that has put everything in force.
fn settled() -> Host {
    let host = with_two_links();
    host.scratch.run(|| settle(&mut host.kernel(), &two_workloads()));
    host
}

#[test]
fn what_is_desired_is_in_force() {
    let host = with_two_links();
    host.scratch.run(|| {
        let mut kernel = host.kernel();
        settle(&mut kernel, &two_workloads());
        // A2, A10
        let direct = host.sh("ip -d route show 10.65.0.2");
        assert_eq!(direct, "unicast 10.65.0.2 dev lh1 proto 76 scope link");
        assert!(host.sh("ip route get 10.65.0.2").starts_with("10.65.0.2 dev lh1 "));
        assert!(host.sh("ip route get 10.65.1.2").starts_with("10.65.1.2 via 172.31.0.2 dev eth0 "));
        assert!(host.sh("ip -6 route get fd00:65::3").contains("dev lh2"));
        assert!(host.sh("ip -6 route get fd00:65:1::2").contains("via fd00:31::2 dev eth0"));
        let table = host.sh("route -n | tail -n +3");
        let expect = "10.65.0.0       -               255.255.0.0     !     0      -        0 -\n\
                      10.65.0.2       0.0.0.0         255.255.255.255 UH    0      0        0 lh1\n\
                      10.65.0.3       0.0.0.0         255.255.255.255 UH    0      0        0 lh2\n\
                      10.65.1.2       172.31.0.2      255.255.255.255 UGH   0      0        0 eth0\n\
                      10.65.2.0       172.31.0.2      255.255.255.192 UG    0      0        0 eth0\n\
                      172.31.0.0      0.0.0.0         255.255.255.0   U     0      0        0 eth0";
        assert_eq!(table, expect);
        assert!(host.sh("ip neigh show 10.65.0.2").contains(&format!("dev lh1 lladdr {MAC} PERMANENT")));
        assert!(host.sh("ip -6 neigh show fd00:65::3").contains("dev lh2 lladdr 02:00:0a:41:00:03 PERMANENT"));
        let link = host.sh("ip -d link show lh1");
        assert!(link.contains("alias lasthop:default/w-lh1") && link.contains("ee:ee:ee:ee:ee:ee"), "{link}");
        let next_hops = host.sh("ip nexthop");
        assert_eq!(next_hops.lines().filter(|line| line.contains("proto 77")).count(), 4, "{next_hops}");
        assert_eq!(next_hops.lines().filter(|line| line.contains("group")).count(), 1, "{next_hops}");
        let learned = kernel.learned_routes();
        assert_eq!(learned[&prefix("10.65.2.0/26")].len(), 2);
        assert_eq!(learned.len(), 3);
        assert!(host.sh("tc filter show dev lh1 ingress").contains("lasthop_arp:"));
        assert!(host.sh("nft list set inet lasthop sources4").contains("10.65.0.3"));
        assert!(!kernel.drops().is_empty());
    });
}

#[test]
fn a_restart_with_nothing_changed_writes_nothing() {
    let host = settled();
    let look =
        "ip route; ip -6 route; ip nexthop; ip neigh; ip link; sysctl -a -r 'net.ipv[46].conf.(lh.*|all).forwarding'";
    let before = host.sh(look);
    host.scratch.run(|| {
        let mut kernel = host.kernel();
        assert_eq!(sync(&mut kernel, &two_workloads(), Everything::Yes).writes, 0);
        assert!(kernel.drain_events().is_empty(), "nothing is news after the first reading");
    });
    assert_eq!(host.sh(look), before);
}

#[test]
fn a_narrow_pass_after_a_restart_takes_nothing_away() {
    let host = settled();
    let look =
        "ip route; ip -6 route; ip nexthop; ip neigh show nud permanent; nft list table inet lasthop | grep -v counter";
    let before = host.sh(look);
    host.scratch.run(|| {
        let mut kernel = host.kernel();
        let pass = sync(&mut kernel, &two_workloads(), Everything::No);
        assert_eq!(pass.writes, 0, "{pass:?}");
        assert_eq!(host.sh(look), before);
        // One more key, while the rest has not been gone through yet.
        let mut kernel = host.kernel();
        let more = two_workloads().remote("10.65.9.9/32", &["172.31.0.3"]);
        let outcome = kernel.sync_routes(&more.0, Scope::Keys(&BTreeSet::from([prefix("10.65.9.9/32")])));
        assert_eq!(outcome.writes, 1, "{outcome:?}");
        assert_eq!(host.sh("ip nexthop | wc -l"), "4", "the next hop that a group has is shared");
    });
}

#[test]
fn what_is_left_of_an_earlier_run_goes() {
    let host = settled();
    host.scratch.run(|| {
        let mut kernel = host.kernel();
        let wanted = Wanted::default().workload("lh1", &["10.65.0.2"], MAC).remote("10.65.1.2/32", &["172.31.0.9"]);
        settle(&mut kernel, &wanted);
        assert_eq!(host.sh("ip route show proto 76"), "10.65.0.2 dev lh1 scope link");
        assert_eq!(host.sh("ip -6 route show proto 76"), "");
        assert!(host.sh("ip route get 10.65.1.2").contains("via 172.31.0.9"));
        assert_eq!(host.sh("ip nexthop").lines().count(), 1);
        assert!(!host.sh("ip link show lh2").contains("alias"));
        assert_eq!(host.sh("ip neigh show dev lh2 nud permanent"), "");
        assert_eq!(host.sh("sysctl -n net.ipv4.conf.lh2.proxy_arp"), "0", "the former value is back");
    });
}

#[test]
fn a_link_that_is_up_gets_its_alias_after_its_route_and_one_that_is_down_before() {
    let host = Host::new();
    host.workload("lh1");
    host.workload("lh2");
    host.sh("ip link set lh2 down");
    host.scratch.run(|| {
        let mut kernel = host.kernel();
        let wanted = two_workloads();
        kernel.sync_skeleton(&wanted.0);
        kernel.sync_links(&wanted.0, Scope::All);
        kernel.sync_neighbours(&wanted.0, Scope::All);
        let routes = kernel.sync_routes(&wanted.0, Scope::All);
        assert!(routes.failed.is_empty() && routes.pending.is_empty(), "{routes:?}");
        assert!(!host.sh("ip link show lh1").contains("alias"));
        assert!(host.sh("ip link show lh2").contains("alias lasthop:default/w-lh2"));
        assert!(kernel.has_unlabelled());
        assert_eq!(kernel.sync_links(&wanted.0, Scope::All).writes, 0, "what is still to come is counted");
        kernel.label_links();
        assert!(host.sh("ip link show lh1").contains("alias lasthop:default/w-lh1"));
        assert!(!kernel.has_unlabelled());
        assert_eq!(kernel.sync_links(&wanted.0, Scope::All).writes, 0);
    });
}

#[test]
fn what_an_agent_left_on_a_link_without_an_alias_goes() {
    let host = Host::new();
    host.workload("lh1");
    host.workload("lh2");
    host.scratch.run(|| settle(&mut host.kernel(), &two_workloads()));
    host.sh("ip link set lh2 alias ''");
    host.scratch.run(|| {
        let mut kernel = host.kernel();
        settle(&mut kernel, &Wanted::default().workload("lh1", &["10.65.0.2"], MAC));
        assert_eq!(host.sh("ip neigh show dev lh2 nud permanent"), "");
        assert_eq!(host.sh("tc filter show dev lh2 ingress"), "");
        assert_eq!(host.sh("ip route show dev lh2 proto 76"), "");
    });
}

#[test]
fn the_record_may_come_before_the_link() {
    let host = Host::new();
    host.scratch.run(|| {
        let mut kernel = host.kernel();
        let wanted = Wanted::default().workload("lh1", &["10.65.0.2"], MAC);
        let pass = sync(&mut kernel, &wanted, Everything::Yes);
        assert!(pass.failed.is_empty(), "{pass:?}");
        assert!(pass.pending.contains(&"10.65.0.2/32: link lh1 is absent".to_owned()), "{:?}", pass.pending);
        host.workload("lh1");
        let events = kernel.drain_events();
        let appeared = KernelEvent::Link { name: name("lh1"), change: LinkChange::Appeared };
        assert!(events.contains(&appeared), "{events:?}");
        let pass = sync(&mut kernel, &wanted, Everything::No);
        assert!(pass.pending.is_empty() && pass.failed.is_empty(), "{pass:?}");
        settle(&mut kernel, &wanted);
        // D5: made anew under the same name, another index.
        host.sh("ip link del lh1");
        host.workload("lh1");
        let pass = sync(&mut kernel, &wanted, Everything::No);
        assert!(pass.pending.is_empty() && pass.failed.is_empty(), "{pass:?}");
        settle(&mut kernel, &wanted);
        assert_eq!(host.sh("ip route show proto 76"), "10.65.0.2 dev lh1 scope link");
        assert_eq!(host.sh("sysctl -n net.ipv4.conf.lh1.proxy_arp"), "1");
        // Renamed away and back.
        host.sh("ip link set lh1 down; ip link set lh1 name other0; ip link set other0 up");
        let pass = sync(&mut kernel, &wanted, Everything::No);
        assert!(pass.pending.contains(&"10.65.0.2/32: link lh1 is absent".to_owned()), "{:?}", pass.pending);
        assert_eq!(host.sh("ip route show proto 76"), "");
        host.sh("ip link set other0 down; ip link set other0 name lh1");
        sync(&mut kernel, &wanted, Everything::No);
        settle(&mut kernel, &wanted);
        assert_eq!(host.sh("ip route show proto 76"), "10.65.0.2 dev lh1 scope link");
    });
}

#[test]
fn a_link_that_flaps_gets_everything_back() {
    let host = with_two_links();
    host.scratch.run(|| {
        let mut kernel = host.kernel();
        let wanted = two_workloads();
        settle(&mut kernel, &wanted);
        // D2. The kernel drops the IPv4 route and the neighbour without a word.
        host.sh("ip link set lh1 down; ip link set lh1 up");
        repair(&mut kernel, &wanted);
        assert_eq!(host.sh("ip route show 10.65.0.2"), "10.65.0.2 dev lh1 proto 76 scope link");
        assert!(host.sh("ip neigh show 10.65.0.2").contains(MAC));
        settle(&mut kernel, &wanted);
        // The same for the underlay, whose next hop objects go as well.
        for flap in ["ip link set eth0 down; ip link set eth0 up; ip addr add fd00:31::1/64 dev eth0 nodad", ""] {
            if flap.is_empty() {
                host.wire.sh("ip link set peth0 down");
                assert!(soon(|| host.sh("ip nexthop").is_empty()));
                repair(&mut kernel, &wanted);
                assert!(!host.sh("ip route").contains("10.65.1.2"));
                host.wire.sh("ip link set peth0 up");
            } else {
                host.sh(flap);
            }
            let whole = || {
                let pass = sync(&mut kernel, &wanted, Everything::No);
                assert!(pass.failed.is_empty(), "{pass:?}");
                kernel.drain_events();
                host.scratch.try_sh("ip route get 10.65.1.2").1.contains("via 172.31.0.2")
                    && host.scratch.try_sh("ip -6 route get fd00:65:1::2").1.contains("via fd00:31::2")
                    && host.sh("ip nexthop").lines().count() == 4
            };
            assert!(soon(whole), "{}", host.sh("ip route; ip -6 route; ip nexthop"));
            settle(&mut kernel, &wanted);
        }
    });
}

#[test]
fn tampering_is_noticed_and_put_right() {
    let host = with_two_links();
    host.scratch.run(|| {
        let mut kernel = host.kernel();
        let wanted = two_workloads();
        settle(&mut kernel, &wanted);
        let look = "ip route; ip -6 route; ip nexthop; ip neigh show nud permanent | sort; nft list table inet lasthop | sed 's/counter packets [0-9]* bytes [0-9]*//'; tc filter show dev lh1 ingress | sed 's/id [0-9]*//'";
        let before = host.sh(look);
        let cases = [
            ("ip route del 10.65.0.2", "route 10.65.0.2/32"),             // F3
            ("ip route replace 10.65.0.2 dev lh2", "route 10.65.0.2/32"), // F4
            ("ip route replace 10.65.0.2 via 172.31.0.9", "route 10.65.0.2/32"), // F4
            ("ip route change 10.65.0.2 dev lh2 proto 76", "route 10.65.0.2/32"),
            ("ip route append 10.65.0.2 dev lh2 proto 76 scope link", "route 10.65.0.2/32"),
            ("ip route add 10.65.0.2 dev lh2 proto 76 scope link metric 5", "route 10.65.0.2/32"),
            ("ip route prepend 10.65.0.2 dev lh2 proto static", "route 10.65.0.2/32"),
            ("ip -6 route del fd00:65::2", "route fd00:65::2/128"),
            ("ip -6 route replace fd00:65::2 dev lh2", "route fd00:65::2/128"),
            ("ip route del 10.65.1.2", "route 10.65.1.2/32"),
            ("ip route del unreachable 10.65.0.0/16", "route 10.65.0.0/16"),
            ("ip -6 route del unreachable fd00:65::/64", "route fd00:65::/64"),
            ("ip nexthop flush proto 77", "route 10.65.1.2/32"),
            (
                "ip nexthop replace id $(ip nexthop | awk '/via 172.31.0.2/{print $2}') via 172.31.0.9 dev eth0",
                "route 10.65.1.2/32",
            ),
            ("ip neigh replace 10.65.0.2 lladdr 02:00:00:00:00:99 nud permanent dev lh1", "neighbour 10.65.0.2 on lh1"), // F8
            ("ip neigh replace 10.65.0.2 lladdr 02:00:00:00:00:99 nud reachable dev lh1", "neighbour 10.65.0.2 on lh1"),
            ("ip neigh del fd00:65::3 dev lh2", "neighbour fd00:65::3 on lh2"),
            ("ip neigh flush all nud permanent", "neighbour 10.65.0.2 on lh1"),
            ("sysctl -w net.ipv4.conf.lh1.proxy_arp=0", "setting net/ipv4/conf/lh1/proxy_arp"), // F7
            ("sysctl -w net.ipv4.ip_forward=0", "setting net/ipv4/ip_forward"),
            ("sysctl -w net.ipv6.conf.all.forwarding=0", "setting net/ipv6/conf/all/forwarding"),
            ("tc filter del dev lh1 ingress", "ARP responder on lh1"),
            ("tc filter del dev lh1 ingress pref 2", "ARP responder on lh1"),
            ("tc qdisc del dev lh2 ingress", "ARP responder on lh2"),
            ("nft delete table inet lasthop", "nftables table inet lasthop"),
            ("nft delete element inet lasthop sources4 '{ \"lh1\" . 10.65.0.2 }'", "nftables table inet lasthop"),
            ("ip addr add 10.9.9.9/32 dev lh1; ip addr del 10.9.9.9/32 dev lh1", "route 10.65.0.2/32"),
        ];
        for (command, expect) in cases {
            host.sh(command);
            let drift = repair(&mut kernel, &wanted);
            assert!(drift.iter().any(|object| object == expect), "{command}: noticed only {drift:?}");
            assert_eq!(host.sh(look), before, "{command}");
            assert_eq!(host.sh("cat /proc/sys/net/ipv4/conf/lh1/proxy_arp /proc/sys/net/ipv4/ip_forward"), "1\n1");
            assert_eq!(host.sh("cat /proc/sys/net/ipv6/conf/all/forwarding"), "1");
            kernel.drain_events();
            assert_eq!(sync(&mut kernel, &wanted, Everything::Yes).writes, 0, "{command}");
        }
        // What is not announced shows when everything is read.
        host.sh("sysctl -w net.ipv4.nexthop_compat_mode=1");
        assert_eq!(sync(&mut kernel, &wanted, Everything::Yes).writes, 0);
        kernel.read_back().unwrap();
        let drift: Vec<_> = kernel.drain_events().iter().filter_map(KernelEvent::drift).collect();
        assert_eq!(drift, ["setting net/ipv4/nexthop_compat_mode"]);
        assert_eq!(sync(&mut kernel, &wanted, Everything::No).writes, 1);
    });
}

#[test]
fn our_own_doing_is_no_news() {
    let host = with_two_links();
    host.scratch.run(|| {
        let mut kernel = host.kernel();
        sync(&mut kernel, &two_workloads(), Everything::Yes);
        std::thread::sleep(std::time::Duration::from_millis(50));
        let drift: Vec<_> = kernel.drain_events().iter().filter_map(KernelEvent::drift).collect();
        assert!(drift.is_empty(), "{drift:?}");
        assert_eq!(sync(&mut kernel, &two_workloads(), Everything::No).writes, 0);
        let fewer = Wanted::default().workload("lh1", &["10.65.0.2"], MAC).remote("10.65.1.2/32", &["172.31.0.3"]);
        sync(&mut kernel, &fewer, Everything::Yes);
        let drift: Vec<_> = kernel.drain_events().iter().filter_map(KernelEvent::drift).collect();
        assert!(drift.is_empty(), "{drift:?}");
    });
}

#[test]
fn foreign_routes_stay_and_learned_ones_yield_to_them() {
    let host = Host::new();
    host.workload("lh1");
    let foreign = "ip route add 192.0.2.0/24 dev lo proto static; ip route add 10.65.0.200/32 via 172.31.0.3 proto 99; \
                   ip rule add from 10.9.9.9 table 99; ip route add 10.65.1.2/32 via 172.31.0.7 proto 12 metric 32; \
                   ip route add 10.65.0.0/16 dev eth0 proto kernel scope link; ip nexthop add id 5 via 172.31.0.5 dev eth0";
    host.sh(foreign); // F1
    let look =
        "ip route show proto static; ip route show proto 99; ip rule; ip route show proto 12; ip nexthop show id 5";
    let before = host.sh(look);
    host.scratch.run(|| {
        let mut kernel = host.kernel();
        let wanted = Wanted::default()
            .workload("lh1", &["10.65.0.2", "10.65.0.200"], MAC)
            .remote("10.65.1.2/32", &["172.31.0.2"])
            .unreachable("10.65.0.0/16");
        let pass = sync(&mut kernel, &wanted, Everything::Yes);
        assert!(pass.failed.is_empty(), "{pass:?}");
        let yields =
            ["10.65.0.0/16: a foreign route (kernel) is in place", "10.65.1.2/32: a foreign route (bird) is in place"];
        assert_eq!(
            (pass.yielding.as_slice(), pass.pending.as_slice()),
            (yields.map(String::from).as_slice(), [].as_slice())
        );
        // The direct route takes the place of what has its key, and only of that.
        assert_eq!(host.sh("ip route show 10.65.0.200"), "10.65.0.200 dev lh1 proto 76 scope link");
        assert_eq!(host.sh(look), before.replace("10.65.0.200 via 172.31.0.3 dev eth0 \n", ""));
        // It goes: ours shows up.
        host.sh("ip route del 10.65.1.2 proto 12");
        repair(&mut kernel, &wanted);
        assert!(host.sh("ip route get 10.65.1.2").contains("via 172.31.0.2"));
        // It comes back in our place, or beside us: we yield.
        for command in
            ["replace 10.65.1.2/32 via 172.31.0.7 proto 12", "add 10.65.1.2/32 via 172.31.0.7 proto 12 metric 7"]
        {
            host.sh(&format!("ip route {command}"));
            repair(&mut kernel, &wanted);
            assert!(host.sh("ip route show 10.65.1.2").contains("via 172.31.0.7"));
            assert_eq!(host.sh("ip route show 10.65.1.2").lines().count(), 1);
            host.sh("ip route del 10.65.1.2 proto 12");
            repair(&mut kernel, &wanted);
            assert!(host.sh("ip route get 10.65.1.2").contains("via 172.31.0.2"));
        }
    });
}

#[test]
fn a_workload_whose_link_is_absent_leaves_its_address_to_where_else_it_is() {
    let host = Host::new();
    let wanted = Wanted::default()
        .workload("lh1", &["10.65.0.2", "fd00:65::2"], MAC)
        .elsewhere("10.65.0.2/32", &["172.31.0.2"])
        .elsewhere("fd00:65::2/128", &["fd00:31::2", "fd00:31::3"])
        .unreachable("10.65.0.0/16");
    let remote = |when: &str| {
        assert!(host.sh("ip route get 10.65.0.2").contains("via 172.31.0.2"), "{when}");
        assert!(host.sh("ip -6 route get fd00:65::2").contains("via fd00:31::"), "{when}");
    };
    let local = |when: &str| {
        assert_eq!(host.sh("ip route show 10.65.0.2"), "10.65.0.2 dev lh1 proto 76 scope link", "{when}");
        assert!(host.sh("ip -6 route show fd00:65::2").starts_with("fd00:65::2 dev lh1 proto 76"), "{when}");
    };
    host.scratch.run(|| {
        let mut kernel = host.kernel();
        let pass = sync(&mut kernel, &wanted, Everything::Yes);
        remote("before the link comes");
        let says = |address: &str| pass.pending.contains(&format!("{address}: link lh1 is absent"));
        assert!(says("10.65.0.2/32") && says("fd00:65::2/128"), "not taken for the workload's own route: {pass:?}");
        assert_eq!(sync(&mut kernel, &wanted, Everything::Yes).writes, 0);
        for round in ["it comes", "it comes again"] {
            host.workload("lh1");
            repair(&mut kernel, &wanted);
            repair(&mut kernel, &wanted);
            settle(&mut kernel, &wanted);
            local(round);
            host.sh("ip link del lh1");
            repair(&mut kernel, &wanted);
            remote("after it went");
        }
        // Nobody else has it any more: as if nothing had been learned.
        let alone = Wanted::default().workload("lh1", &["10.65.0.2", "fd00:65::2"], MAC).unreachable("10.65.0.0/16");
        sync(&mut kernel, &alone, Everything::Yes);
        assert_eq!(host.sh("ip route show 10.65.0.2; ip -6 route show fd00:65::2; ip nexthop"), "");
    });
}

#[test]
fn the_local_workload_wins_and_the_remote_route_shows_when_it_goes() {
    let host = Host::new();
    host.workload("lh1");
    host.scratch.run(|| {
        let mut kernel = host.kernel();
        let there = Wanted::default().remote("10.65.0.2/32", &["172.31.0.2"]);
        let here = Wanted::default().workload("lh1", &["10.65.0.2"], MAC);
        for _ in 0..2 {
            // D8, D9: only the changed key is looked at, and the change leaves no gap and no rest.
            let changed = BTreeSet::from([prefix("10.65.0.2/32")]);
            let outcome = kernel.sync_routes(&here.0, Scope::Keys(&changed));
            assert!(outcome.done.contains(&prefix("10.65.0.2/32")), "{outcome:?}");
            assert_eq!(host.sh("ip route show 10.65.0.2"), "10.65.0.2 dev lh1 proto 76 scope link");
            assert_eq!(host.sh("ip nexthop"), "");
            kernel.sync_routes(&there.0, Scope::Keys(&changed));
            assert_eq!(host.sh("ip route show 10.65.0.2").lines().count(), 1);
            assert!(host.sh("ip route get 10.65.0.2").contains("via 172.31.0.2 dev eth0"));
        }
    });
}

#[test]
fn an_address_that_leaves_takes_its_connections_along() {
    let host = with_two_links();
    let insert = |address: &str| {
        host.sh(&format!(
            "conntrack -I -s {address} -d 198.51.100.1 -p udp --sport 9 --dport 53 -t 300 >/dev/null 2>&1"
        ));
    };
    let count = |address: &str| host.sh(&format!("conntrack -L 2>/dev/null | grep -c src={address} || true"));
    host.scratch.run(|| {
        // G3: removed, moved to another link, and gone while nobody looked.
        let mut kernel = host.kernel();
        let wanted = two_workloads();
        settle(&mut kernel, &wanted);
        insert("10.65.0.2");
        insert("10.65.0.3");
        host.sh("ip link set lh1 down; ip link set lh1 up; ip route del 10.65.0.3");
        repair(&mut kernel, &wanted);
        assert_eq!((count("10.65.0.2"), count("10.65.0.3")), ("1".into(), "1".into()), "what is put right is not cut");
        let fewer = Wanted::default().workload("lh2", &["10.65.0.3"], MAC);
        let key = BTreeSet::from([prefix("10.65.0.2/32")]);
        kernel.remove_routes(&fewer.0, Scope::Keys(&key));
        kernel.finish_forgetting();
        assert_eq!((count("10.65.0.2"), count("10.65.0.3")), ("0".into(), "1".into()));
        let moved = Wanted::default().workload("lh1", &["10.65.0.3"], MAC);
        kernel.sync_routes(&moved.0, Scope::Keys(&BTreeSet::from([prefix("10.65.0.3/32")])));
        kernel.finish_forgetting();
        assert_eq!(count("10.65.0.3"), "0");
        insert("10.65.0.3");
        drop(kernel);
        let mut kernel = host.kernel();
        kernel.sync_routes(&moved.0, Scope::All);
        assert_eq!(count("10.65.0.3"), "1", "a restart cuts nothing");
        drop(kernel);
        host.kernel().remove_routes(&Wanted::default().0, Scope::All);
        assert_eq!(count("10.65.0.3"), "0");
    });
}

#[test]
fn the_metric_is_a_setting() {
    let host = Host::new();
    host.workload("lh1");
    host.scratch.run(|| {
        let mut kernel = host.kernel();
        let mut wanted = Wanted::default()
            .workload("lh1", &["10.65.0.2", "fd00:65::2"], MAC)
            .remote("10.65.1.2/32", &["172.31.0.2"]);
        settle(&mut kernel, &wanted);
        assert!(host.sh("ip -6 route show fd00:65::2").contains("metric 1024"));
        wanted.0.metric = lasthop_net::Metric(512);
        let none = BTreeSet::new();
        kernel.sync_routes(&wanted.0, Scope::Keys(&none));
        assert_eq!(host.sh("ip route show 10.65.0.2"), "10.65.0.2 dev lh1 proto 76 scope link metric 512");
        assert_eq!(host.sh("ip -6 route show fd00:65::2 | grep -c 'metric 512'"), "1");
        assert_eq!(host.sh("ip route show 10.65.1.2 | grep -c 'metric 512'"), "1");
        settle(&mut kernel, &wanted);
    });
}

#[test]
fn next_hops_that_lead_nowhere_are_told() {
    let host = Host::new();
    host.workload("lh1");
    host.scratch.run(|| {
        let mut kernel = host.kernel();
        let wanted = Wanted::default()
            .workload("lh1", &["10.65.0.2"], MAC)
            .unreachable("10.66.0.0/16")
            .remote("10.65.1.1/32", &["198.51.100.7"])
            .remote("10.65.1.2/32", &["172.31.0.1"])
            .remote("10.65.1.3/32", &["10.65.0.2"])
            .remote("10.65.1.4/32", &["10.66.0.1"])
            .remote("10.65.1.5/32", &["172.31.0.2", "198.51.100.7"]);
        sync(&mut kernel, &wanted, Everything::Yes);
        kernel.sync_routes(&wanted.0, Scope::All);
        let pass = sync(&mut kernel, &wanted, Everything::Yes);
        let expect = [
            "10.65.1.1/32: next hop 198.51.100.7 is unreachable: no route to it",
            "10.65.1.2/32: next hop 172.31.0.1 is unreachable: it is an address of this host",
        ];
        for line in expect {
            assert!(pass.pending.iter().any(|pending| pending == line), "{line}: {:?}", pass.pending);
        }
        assert_eq!(
            pass.pending.iter().filter(|p| p.starts_with("10.65.1.3") || p.starts_with("10.65.1.4")).count(),
            2,
            "{pass:?}"
        );
        assert!(host.sh("ip route get 10.65.1.5").contains("via 172.31.0.2"), "the next hop that works is used");
        // A way opens: through a gateway, so its neighbour is the next hop.
        host.sh("ip route add 198.51.100.0/24 via 172.31.0.9");
        repair(&mut kernel, &wanted);
        assert!(host.sh("ip route get 10.65.1.1").contains("via 172.31.0.9 dev eth0"));
        // It moves: one message, all routes follow.
        host.sh("ip route replace 198.51.100.0/24 via 172.31.0.10");
        repair(&mut kernel, &wanted);
        assert!(host.sh("ip route get 10.65.1.1").contains("via 172.31.0.10 dev eth0"));
        host.sh("ip route del 198.51.100.0/24");
        repair(&mut kernel, &wanted);
        assert_eq!(host.sh("ip route show 10.65.1.1"), "");
    });
}

#[test]
fn ipv4_goes_over_ipv6_and_over_a_link() {
    let host = Host::new();
    host.workload("lh1");
    host.scratch.run(|| {
        let link = host.sh("ip -o link show dev eth0");
        let index: u32 = link.split(':').next().unwrap().parse().unwrap();
        let on_link = |text: &str| lasthop_net::scoped::on_link(text.parse().unwrap(), lasthop_net::IfIndex(index));
        let neighbour = on_link("fe80::2").unwrap().to_string();
        let nowhere = "fe80:ffff::2";
        let mut kernel = host.kernel();
        let wanted = Wanted::default()
            .workload("lh1", &["10.65.0.2"], MAC)
            .remote("10.65.1.1/32", &["fd00:31::2"])
            .remote("10.65.1.2/32", &[&neighbour])
            .remote("fd00:65:1::2/128", &[&neighbour]);
        settle(&mut kernel, &wanted);
        assert!(host.sh("ip route get 10.65.1.1").contains("via inet6 fd00:31::2 dev eth0"));
        assert!(host.sh("ip route get 10.65.1.2").contains("via inet6 fe80::2 dev eth0"));
        assert!(host.sh("ip -6 route get fd00:65:1::2").contains("via fe80::2 dev eth0"));
        // A later run finds them as they were named.
        let found = host.kernel().learned_routes();
        assert_eq!(found[&"10.65.1.2/32".parse().unwrap()][..], [neighbour.parse::<std::net::IpAddr>().unwrap()]);
        let wanted = wanted.remote("10.65.1.3/32", &["fe80::2"]).remote("10.65.1.4/32", &[nowhere]);
        let pass = sync(&mut kernel, &wanted, Everything::Yes);
        for words in [
            "10.65.1.3/32: next hop fe80::2 is unreachable: a link-local address does not say by which link",
            "link 65535, which is gone",
        ] {
            assert!(pass.pending.iter().any(|pending| pending.contains(words)), "{words}: {:?}", pass.pending);
        }
    });
}

#[test]
fn taking_everything_away_leaves_the_host_as_it_was() {
    let host = with_two_links();
    host.sh("ip route add 192.0.2.0/24 dev lo proto static; ip route add 10.65.0.0/16 via 172.31.0.3 proto 99; ip rule add from 10.9.9.9 table 99; ip neigh add 172.31.0.7 lladdr 02:00:00:00:00:07 nud permanent dev eth0");
    let look = "ip route; ip -6 route; ip rule; ip -6 rule; ip nexthop; ip neigh; sysctl -a -r '^net.ipv[46].(conf|neigh|ip_forward|nexthop)' | grep -v hash_seed";
    host.sh("nft add table inet foreign; nft add chain inet foreign c '{type filter hook forward priority 5;}'");
    host.sh("ip link set lh2 address 02:00:00:00:00:22"); // as a hypervisor would have it
    let links = "ip -o link; nft list ruleset; for l in lh1 lh2; do tc qdisc show dev $l; done";
    let before = (host.sh(look), host.sh(links));
    host.scratch.run(|| sync(&mut host.kernel(), &two_workloads(), Everything::Yes));
    assert_ne!(host.sh(look), before.0);
    assert!(!host.sh("ip -o link show lh2").contains("02:00:00:00:00:22"), "the host's MAC is ours meanwhile");
    // Another run than the one that made it all.
    host.scratch.run(|| host.kernel().remove_all().unwrap());
    let after = host.sh(look);
    for (one, two) in before.0.lines().zip(after.lines()) {
        assert_eq!(one, two);
    }
    assert_eq!(after.lines().count(), before.0.lines().count());
    assert_eq!(host.sh(links), before.1);
    assert!(!host.record.exists() && !host.record.with_extension("links").exists());
}

#[test]
fn without_the_right_nothing_is_tried() {
    let host = Host::new();
    let error = host.scratch.run(|| {
        drop_capabilities();
        Kernel::open(&KernelConfig::default()).unwrap_err()
    });
    assert!(matches!(error, Error::NotPermitted), "{error}");
    assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
}

/// Only the calling thread becomes nobody; the raw system call, unlike the library's, is about one thread.
#[allow(unsafe_code, reason = "the safe wrapper changes all threads")]
fn drop_capabilities() {
    // SAFETY: takes plain numbers.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
    assert_eq!(result, 0);
}

#[test]
fn five_hundred_links_go_at_once() {
    let host = Host::new();
    host.scratch.run(|| {
        let mut lines = String::new();
        for n in 0..500 {
            lines.push_str(&format!("link add lh{n} type veth peer name q{n}\n"));
        }
        std::fs::write(&host.record, &lines).unwrap();
        host.sh(&format!("ip -batch {}", host.record.display()));
        std::fs::remove_file(&host.record).unwrap();
        let mut kernel = host.kernel();
        let mut wanted = Wanted::default();
        for n in 0..500u32 {
            let address = format!("10.65.{}.{}", n / 250, n % 250 + 1);
            wanted = wanted.workload(&format!("lh{n}"), &[&address], MAC);
        }
        let start = std::time::Instant::now();
        settle(&mut kernel, &wanted);
        println!("500 workloads in force: {:?}", start.elapsed());
        assert_eq!(host.sh("ip route show proto 76").lines().count(), 500);
        let batch: String = (0..500).map(|n| format!("link del lh{n}\n")).collect();
        std::fs::write(&host.record, batch).unwrap();
        host.sh(&format!("ip -batch {}", host.record.display()));
        std::fs::remove_file(&host.record).unwrap();
        let start = std::time::Instant::now();
        let nothing = Wanted::default();
        let pass = sync(&mut kernel, &nothing, Everything::Yes);
        println!("500 workloads gone: {:?}, {} writes", start.elapsed(), pass.writes);
        assert!(pass.failed.is_empty(), "{pass:?}");
        assert_eq!(sync(&mut kernel, &nothing, Everything::Yes).writes, 0);
    });
}

#[test]
fn an_unknown_route_shape_is_never_ours() {
    let host = Host::new();
    host.sh("ip route add blackhole 10.77.0.0/16 proto 77; ip route add 10.78.0.0/16 via 172.31.0.4 proto 76");
    host.scratch.run(|| {
        let mut kernel = host.kernel();
        let wanted = Wanted::default().unreachable("10.77.0.0/16");
        assert_eq!(kernel.routes().len(), 2);
        settle(&mut kernel, &wanted);
        assert_eq!(host.sh("ip route show proto 77"), "unreachable 10.77.0.0/16");
        assert_eq!(host.sh("ip route show proto 76"), "");
        assert!(matches!(wanted.0.routes[&prefix("10.77.0.0/16")], Route::Unreachable));
    });
}

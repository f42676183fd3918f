//! What the data path promises whatever workloads, operators and other programs do: the checks of the conformance
//! suite (`datapath.md`, whose case ids stand in the comments) against real agents.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::{Duration, Instant};
use support::Lab;

const WORKLOADS: [(&str, &str); 2] = [("w1", "10.65.0.2"), ("t1", "10.65.0.4")];

fn lab() -> Lab {
    Lab::up(&["--topology", "datapath"])
}

/// Runs a shell line in a host or workload that must work; what it prints.
fn sh(lab: &Lab, part: &str, line: &str) -> String {
    let (ok, said) = lab.inside(part, &["sh", "-c", line]);
    assert!(ok, "{part}: {line}: {said}\n{}", lab.logs());
    said.trim().to_owned()
}

/// A line that prints something is awaited; at most as long as a change may take to be put right.
fn soon(lab: &Lab, part: &str, line: &str, expect: &str) {
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        let (_, said) = lab.inside(part, &["sh", "-c", line]);
        if said.contains(expect) {
            return;
        }
        assert!(Instant::now() < end, "{part}: {line}: no '{expect}' in '{said}'\n{}", lab.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn host_link(lab: &Lab, address: &str) -> String {
    let route = sh(lab, "h1", &format!("ip route show {address}"));
    route.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap().to_owned()
}

fn host_mac(lab: &Lab, address: &str) -> String {
    sh(lab, "h1", &format!("cat /sys/class/net/{}/address", host_link(lab, address)))
}

fn answers(lab: &Lab, from: &str, to: &str) -> String {
    lab.inside(from, &["arping", "-c1", "-w1", "-I", "eth0", to]).1.to_lowercase()
}

fn ping(lab: &Lab, from: &str, to: &str) {
    let (ok, said) = lab.inside(from, &["ping", "-n", "-q", "-c2", "-i0.1", "-W1", to]);
    assert!(ok && said.contains(" 0% packet loss"), "{from} to {to}: {said}\n{}", lab.logs());
}

#[test]
fn the_host_answers_every_arp_request_with_its_own_mac() {
    let lab = lab();
    for (workload, own) in WORKLOADS {
        let mac = format!("[{}]", host_mac(&lab, own));
        // B1, B2; an address nobody has; B9: without any route.
        let targets = ["169.254.1.1", "10.65.0.3", "10.65.1.2", "198.51.100.1", "8.8.8.8", "172.31.0.2", "10.65.0.99"];
        for target in targets {
            assert!(answers(&lab, workload, target).contains(&mac), "{workload} asks for {target}");
        }
        sh(&lab, "h1", "ip route del default");
        assert!(answers(&lab, workload, "8.8.8.8").contains(&mac), "{workload}, host without default route");
        sh(&lab, "h1", "ip route add default via 172.31.0.3");
        // B3: never for its own, asked plainly or as a probe.
        assert!(answers(&lab, workload, own).contains("received 0 response"), "{workload} asks for itself");
        let probe = lab.inside(workload, &["arping", "-D", "-c1", "-w1", "-I", "eth0", own]);
        assert!(probe.0, "{workload} finds its own address taken: {}", probe.1);
    }
    // The answers go on when the agent is dead.
    lab.ok(&["kill", "h1", "agent"]);
    assert!(answers(&lab, "w1", "8.8.8.8").contains("ee:ee:ee:ee:ee:ee"), "with the agent dead");
}

#[test]
fn whatever_routes_a_workload_makes_the_host_is_the_next_hop() {
    let lab = lab();
    for (workload, own) in WORKLOADS {
        let mac = host_mac(&lab, own);
        // B4: everything on the link.
        let odd = "ip route replace default dev eth0; ip neigh flush all";
        sh(&lab, workload, &format!("ip addr add {own}/16 dev eth0; {odd}"));
        for to in ["10.65.0.3", "10.65.1.2", "198.51.100.1"] {
            ping(&lab, workload, to);
            let neighbour = sh(&lab, workload, &format!("ip neigh show {to}"));
            assert!(neighbour.contains(&mac), "{workload} to {to}: {neighbour}");
        }
        sh(&lab, workload, &format!("ip addr del {own}/16 dev eth0"));
        // B5: a gateway that it made up.
        sh(&lab, workload, "ip route replace default via 10.65.255.254 dev eth0 onlink");
        ping(&lab, workload, "10.65.1.2");
        // B6: "via" another workload, which sees nothing of it.
        sh(&lab, workload, "ip route replace 10.65.1.2 via 10.65.0.3 dev eth0 onlink");
        let capture = lab.capture("w2", &["-i", "eth0", "icmp"]);
        ping(&lab, workload, "10.65.1.2");
        let seen = capture.stop();
        assert!(!seen.contains("10.65.1.2"), "the workload between saw: {seen}");
    }
}

#[test]
fn a_forged_source_goes_nowhere_and_is_counted() {
    let lab = lab();
    // C1, C2, C3, C4: a raw sender inside the workload.
    let sender = "import sys,socket,struct\n\
        s=socket.socket(socket.AF_INET,socket.SOCK_RAW,socket.IPPROTO_RAW)\n\
        for source in sys.argv[2:]:\n\
        \x20   a=socket.inet_aton(source);d=socket.inet_aton(sys.argv[1])\n\
        \x20   p=struct.pack('!BBHHH',8,0,0,77,1);c=~(0x800+77+1)&0xffff\n\
        \x20   p=struct.pack('!BBHHH',8,0,c,77,1)\n\
        \x20   h=struct.pack('!BBHHHBBH4s4s',0x45,0,28,1,0,64,1,0,a,d)\n\
        \x20   s.sendto(h+p,(sys.argv[1],0))\n";
    for (workload, own) in WORKLOADS {
        let capture = lab.capture("w3", &["-i", "eth0", "icmp[icmptype]==8 and icmp[4:2]==77"]);
        let before = spoofed(&lab);
        let forged =
            ["10.65.0.3", "198.51.100.1", "172.31.0.1", "127.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.1.1"];
        let all = [&["/usr/bin/python3", "-c", sender, "10.65.1.2"], &forged[..], &[own]].concat();
        let (ok, said) = lab.inside(workload, &all);
        assert!(ok, "{said}");
        let seen = capture.stop();
        assert_eq!(seen.trim().lines().count(), 1, "only {own} may arrive: {seen}");
        assert!(seen.contains(&format!("{own} > 10.65.1.2")), "{seen}");
        assert!(spoofed(&lab) >= before + 5, "{} spoofed packets counted before, {} after", before, spoofed(&lab));
    }
    // C10: speaking for another's address changes nothing.
    sh(&lab, "w1", "ip addr add 10.65.0.3/32 dev eth0");
    lab.inside("w1", &["arping", "-A", "-c3", "-w1", "-I", "eth0", "10.65.0.3"]);
    assert!(sh(&lab, "h1", "ip route show 10.65.0.3").contains(&host_link(&lab, "10.65.0.3")));
    let link = host_link(&lab, "10.65.0.2");
    assert!(!sh(&lab, "h1", &format!("ip neigh show dev {link}")).contains("10.65.0.3"));
    ping(&lab, "w3", "10.65.0.3");
}

fn spoofed(lab: &Lab) -> u64 {
    let rules = sh(lab, "h1", "nft list chain inet lasthop check_source | grep spoofed");
    rules.split_whitespace().skip_while(|word| *word != "packets").nth(1).unwrap().parse().unwrap()
}

#[test]
fn what_others_change_is_put_right_and_told() {
    let lab = lab();
    let link = host_link(&lab, "10.65.0.2");
    let right = format!("dev {link} proto 76 scope link");
    // D2, F3, F4: flap, deleted route, wrong device, wrong gateway.
    for harm in [
        format!("ip link set {link} down; ip link set {link} up"),
        "ip route del 10.65.0.2".to_owned(),
        format!("ip route replace 10.65.0.2 dev {}", host_link(&lab, "10.65.0.3")),
        "ip route replace 10.65.0.2 via 172.31.0.3".to_owned(),
    ] {
        sh(&lab, "h1", &harm);
        soon(&lab, "h1", "ip route show 10.65.0.2", &right);
        ping(&lab, "w3", "10.65.0.2");
    }
    // F7, F8.
    sh(
        &lab,
        "h1",
        &format!("sysctl -qw net.ipv4.conf.{link}.proxy_arp=0 net.ipv4.ip_forward=0 net.ipv4.conf.{link}.rp_filter=1"),
    );
    let settings = format!(
        "sysctl -n net.ipv4.conf.{link}.proxy_arp net.ipv4.ip_forward net.ipv4.conf.{link}.rp_filter | tr '\\n' ' '"
    );
    soon(&lab, "h1", &settings, "1 1 0");
    sh(&lab, "h1", &format!("ip neigh replace 10.65.0.2 lladdr 02:00:00:00:00:99 nud permanent dev {link}"));
    soon(&lab, "h1", &format!("ip neigh show 10.65.0.2 dev {link}"), "02:00:0a:41:00:02 PERMANENT");
    // The guard: a flushed chain, a removed element, the whole table; the responder.
    sh(&lab, "h1", "nft flush chain inet lasthop forward");
    soon(&lab, "h1", "nft list chain inet lasthop forward", "jump from_workload");
    sh(&lab, "h1", &format!("nft delete element inet lasthop sources4 '{{ \"{link}\" . 10.65.0.2 }}'"));
    soon(&lab, "h1", "nft list set inet lasthop sources4", "10.65.0.2");
    sh(&lab, "h1", "nft delete table inet lasthop");
    soon(&lab, "h1", "nft list set inet lasthop sources4", "10.65.0.2");
    sh(&lab, "h1", &format!("tc filter del dev {link} ingress"));
    soon(&lab, "h1", &format!("tc filter show dev {link} ingress"), "lasthop_arp");
    lab.everyone_reaches_everyone();
    let config = format!("/run/lasthop-lab/{}/hosts/h1/lasthop.yaml", lab.name);
    let status = support::text(&support::lasthop(&["--config", &config, "status"]).stdout);
    assert!(status.contains("Drift repaired") && status.contains("put right"), "{status}");
}

#[test]
fn what_is_not_ours_is_never_touched() {
    let lab = lab();
    // F1, with the agent dead and alive again, and at the end.
    lab.ok(&["kill", "h1", "agent"]);
    let foreign = "ip route add 192.0.2.0/24 dev lo proto static; ip route add 10.65.0.200/32 via 172.31.0.3 proto 99; \
        ip rule add from 10.9.9.9 table 99; nft add table inet foreign; \
        nft add chain inet foreign c '{type filter hook forward priority 5;}'; \
        iptables-legacy -A FORWARD -s 10.9.9.9 -j DROP; iptables-nft -A FORWARD -s 10.9.9.8 -j DROP";
    sh(&lab, "h1", foreign);
    let look = "ip route show proto static; ip route show proto 99; ip rule; nft list table inet foreign; \
        iptables-legacy -S FORWARD; iptables-nft -S FORWARD 2>/dev/null";
    let before = sh(&lab, "h1", look);
    lab.ok(&["start", "h1", "agent"]);
    soon(&lab, "h1", "nft list set inet lasthop sources4", "10.65.0.2");
    lab.everyone_reaches_everyone();
    assert_eq!(sh(&lab, "h1", look), before, "with the agent running");
}

#[test]
fn what_other_programs_decide_before_us_stands_and_goes_with_them() {
    let lab = lab();
    let reached = |from: &str| lab.inside(from, &["ping", "-n", "-q", "-c1", "-W1", "10.65.0.2"]).0;
    // F2: a drop of another table is final, whatever our verdict; it is not ours to remove.
    sh(&lab, "h1", "nft add table ip other; nft add chain ip other c '{type filter hook forward priority -5;}'");
    sh(&lab, "h1", "nft add rule ip other c ip daddr 10.65.0.2 drop");
    assert!(!reached("w3"), "a foreign drop holds");
    lab.ok(&["kill", "h1", "agent"]);
    lab.ok(&["start", "h1", "agent"]);
    soon(&lab, "h1", "lasthop status", "in-sync");
    assert!(!reached("w3") && sh(&lab, "h1", "nft list table ip other").contains("drop"), "also over our restart");
    sh(&lab, "h1", "nft delete table ip other");
    ping(&lab, "w3", "10.65.0.2");
    // F5: so is a rule that looks up another table before the main one. Our own route stays beneath it.
    sh(&lab, "h1", "ip route add unreachable 10.65.0.2 table 99; ip rule add to 10.65.0.2 lookup 99 priority 100");
    assert!(!reached("w3"), "a rule before ours leads elsewhere");
    assert!(sh(&lab, "h1", "ip route show 10.65.0.2").contains("proto 76"));
    assert!(sh(&lab, "h1", "ip rule").contains("lookup 99"), "a foreign rule is left alone");
    sh(&lab, "h1", "ip rule del priority 100; ip route flush table 99");
    ping(&lab, "w3", "10.65.0.2");
    // F5: a foreign route in the main table with a worse metric changes nothing; there is no better one than ours.
    sh(&lab, "h1", "ip route add unreachable 10.65.0.2 metric 7");
    ping(&lab, "w3", "10.65.0.2");
    assert!(sh(&lab, "h1", "ip route show 10.65.0.2").contains("metric 7"), "it is left alone");
}

#[test]
fn no_host_opens_what_a_workload_has_wrapped_up() {
    // C12: the outer source is the workload's own. Hosts have no tunnels, so the outer packet is one like any other.
    let lab = lab();
    let sender = "from scapy.all import *\n\
        inner=IP(src='10.65.0.3',dst='10.65.1.2')/ICMP(id=99)\n\
        vx=bytes([8,0,0,0,0,0,77,0])+bytes(Ether(src='02:00:00:00:00:01',dst='02:00:00:00:00:02')/inner)\n\
        six=IPv6(src='fd00:65::3',dst='fd00:65::102')/ICMPv6EchoRequest(id=99)\n\
        outer=IP(src='10.65.0.2',dst='172.31.0.2')\n\
        for p in [outer/inner,outer/six,outer/GRE()/inner,outer/UDP(sport=9,dport=4789)/Raw(vx)]: send(p,verbose=0)\n\
        send(IP(src='10.65.0.2',dst='10.65.1.2')/ICMP(id=98),verbose=0)\n";
    let capture = lab.capture("w3", &["-i", "eth0", "icmp or icmp6"]);
    let (ok, said) = lab.inside("w1", &["/usr/bin/python3", "-c", sender]);
    assert!(ok, "{said}");
    let seen = capture.stop();
    assert!(seen.contains("id 98"), "the plain one arrives: {seen}");
    assert!(!seen.contains("id 99"), "something was unwrapped: {seen}");
}

#[test]
fn while_the_agent_is_dead_what_was_allowed_goes_on_and_what_was_not_does_not() {
    let lab = lab();
    lab.ok(&["kill", "h1", "agent"]);
    lab.ok(&["kill", "h1", "bgp"]);
    // E1, E3.
    for (from, to) in [("w3", "10.65.0.2"), ("w1", "10.65.0.4"), ("w1", "10.65.1.2"), ("t1", "198.51.100.1")] {
        ping(&lab, from, to);
    }
    // E5: a workload link that nobody has judged passes nothing, also with the agent dead.
    let make = format!(
        "ip link add lhnew type veth peer name far && ip link set far netns {}-w2 && ip link set lhnew up && \
         ip route add 10.65.0.66 dev lhnew",
        lab.name
    );
    sh(&lab, "h1", &make);
    let mac = sh(&lab, "h1", "cat /sys/class/net/lhnew/address");
    let inside = format!(
        "ip link set far up && ip addr add 10.65.0.66/32 dev far && ip route add 10.65.1.2 dev far src 10.65.0.66 && \
         ip neigh add 10.65.1.2 lladdr {mac} dev far"
    );
    sh(&lab, "w2", &inside);
    let capture = lab.capture("w3", &["-i", "eth0", "icmp"]);
    let (answered, said) = lab.inside("w2", &["ping", "-n", "-c3", "-i0.1", "-W1", "-I", "far", "10.65.1.2"]);
    assert!(!answered, "an unjudged link reached another workload: {said}");
    assert_eq!(capture.stop().trim(), "", "w3 saw what came from an unjudged link");
    sh(&lab, "h1", "ip link del lhnew");
    // E2: it comes back and converges on what changed meanwhile.
    sh(&lab, "h1", "ip route del 10.65.0.4");
    lab.ok(&["start", "h1", "bgp"]);
    lab.ok(&["start", "h1", "agent"]);
    soon(&lab, "h1", "ip route show 10.65.0.4", "proto 76");
    lab.everyone_reaches_everyone();
}

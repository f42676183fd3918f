//! The responder on real links, veth and TAP: section B of the data path checks, and what must not get through.

mod netns;

use lasthop_kernel::bpf::asm::Assembler;
use lasthop_kernel::bpf::sys::Program;
use lasthop_kernel::bpf::{Responder, Responders};
use lasthop_kernel::link::create_tap;
use lasthop_kernel::netlink::{Message, Protocol, Socket};
use lasthop_kernel::reconcile::{Outcome, Reconciler, Scope, Table};
use lasthop_net::{IfName, Mac, Prefix};
use netns::Netns;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

const HOST_MAC: &str = "ee:ee:ee:ee:ee:ee";

fn name(text: &str) -> IfName {
    text.parse().expect("a name")
}

fn responder(own: &[&str]) -> Responder {
    let own: BTreeSet<Prefix> = own.iter().map(|text| text.parse().expect("an address")).collect();
    Responder::new(HOST_MAC.parse::<Mac>().expect("a MAC"), &own).expect("a program")
}

/// A host without any route but those to its workloads: `lhw1` (veth, 10.65.0.2), `tapt1` (TAP, 10.65.0.4).
struct Host {
    host: Netns,
    w1: Netns,
    t1: Netns,
}

/// Moves frames between two TAPs, as a hypervisor would, until one of them is gone.
fn pump(mut from: std::fs::File, mut to: std::fs::File) {
    std::thread::spawn(move || {
        let mut frame = vec![0; 1 << 16];
        while let Ok(length) = from.read(&mut frame) {
            // A TAP that is still down refuses.
            let _ = to.write(&frame[..length]);
        }
    });
}

fn inside(netns: &Netns, v4: &str, v6: &str) {
    netns.sh(&format!(
        "ip link set eth0 up; ip addr add {v4}/32 dev eth0; ip -6 addr add {v6}/128 dev eth0 nodad
         ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1 dev eth0
         ip -6 route add default via fe80::ecee:eeff:feee:eeee dev eth0"
    ));
}

impl Host {
    fn new() -> Self {
        let (host, w1, t1) = (Netns::new("host"), Netns::new("w"), Netns::new("t"));
        host.sh("sysctl -qw net.ipv6.conf.all.forwarding=1");
        host.sh(&format!("ip link add lhw1 type veth peer name eth0 netns {}", w1.name));
        let at_host = host.enter(|| create_tap(&name("tapt1")).expect("a TAP").into_file());
        let at_guest = t1.enter(|| create_tap(&name("eth0")).expect("a TAP").into_file());
        pump(at_host.try_clone().expect("a descriptor"), at_guest.try_clone().expect("a descriptor"));
        pump(at_guest, at_host);
        for link in ["lhw1", "tapt1"] {
            host.sh(&format!(
                "sysctl -qw net.ipv6.conf.{link}.accept_ra=0 net.ipv6.conf.{link}.forwarding=1 net.ipv4.conf.{link}.forwarding=1
                 sysctl -qw net.ipv6.conf.{link}.accept_dad=0
                 ip link set {link} address {HOST_MAC} up"
            ));
        }
        inside(&w1, "10.65.0.2", "fd00:65::2");
        inside(&t1, "10.65.0.4", "fd00:65::4");
        host.sh("ip route add 10.65.0.2 dev lhw1; ip route add 10.65.0.4 dev tapt1
            ip -6 route add fd00:65::2 dev lhw1; ip -6 route add fd00:65::4 dev tapt1");
        Self { host, w1, t1 }
    }

    fn responders() -> BTreeMap<IfName, Responder> {
        BTreeMap::from([
            (name("lhw1"), responder(&["10.65.0.2", "fd00:65::2"])),
            (name("tapt1"), responder(&["10.65.0.4", "fd00:65::4"])),
        ])
    }

    /// As the agent would, on a thread that is gone afterwards with all its descriptors.
    fn sync(&self) -> Outcome<IfName> {
        self.host.enter(|| {
            let mut responders = Reconciler::new(Responders::open().expect("a socket"));
            responders.read_back().expect("read back");
            let outcome = responders.sync(&Self::responders(), Scope::All);
            assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
            outcome
        })
    }

    fn workloads(&self) -> [(&Netns, &'static str, &'static str, &'static str); 2] {
        [(&self.w1, "lhw1", "10.65.0.2", "fd00:65::2"), (&self.t1, "tapt1", "10.65.0.4", "fd00:65::4")]
    }
}

/// The MAC that answers an ARP request for `target`; none after a second.
fn arping(netns: &Netns, target: &str) -> Option<String> {
    let (_, text) = netns.run(&format!("arping -c1 -w1 -I eth0 {target}"));
    let start = text.find(['[', '('])?;
    text.lines()
        .find(|line| line.contains("reply from") || line.contains("bytes from"))
        .and_then(|line| line.split([' ', '[', ']']).find(|word| word.matches(':').count() == 5))
        .map(str::to_lowercase)
        .filter(|_| start > 0)
}

fn ndisc(netns: &Netns, target: &str) -> Option<String> {
    let (_, text) = netns.run(&format!("ndisc6 -1 -r1 -w1000 {target} eth0"));
    let line = text.lines().find(|line| line.contains("Target link-layer address"))?;
    line.split_whitespace().last().map(str::to_lowercase)
}

#[test]
fn the_host_answers_for_everything_but_the_workloads_own_address() {
    let net = Host::new();
    net.sync();
    for (workload, _, v4, v6) in net.workloads() {
        // B1, B2, and without a default route on the host.
        for target in ["169.254.1.1", "10.65.0.3", "10.65.1.2", "198.51.100.1", "8.8.8.8", "172.31.0.2"] {
            assert_eq!(arping(workload, target).as_deref(), Some(HOST_MAC), "{target} from {v4}");
        }
        // B3.
        assert_eq!(arping(workload, v4), None, "its own address");
        // B8.
        for target in ["2001:db8::1", "fd00:65::3", "fd00::1", "fe80::ecee:eeff:feee:eeee"] {
            assert_eq!(ndisc(workload, target).as_deref(), Some(HOST_MAC), "{target} from {v6}");
        }
        assert_eq!(ndisc(workload, v6), None, "its own address");
    }
}

#[test]
fn duplicate_address_detection_succeeds() {
    let net = Host::new();
    net.sync();
    for (workload, _, v4, _) in net.workloads() {
        // RFC 5227 probe, as DHCP clients send it; the request after it shows that this check can fail.
        let probe = |sender: &str, target: &str| {
            let script = format!(
                "from scapy.all import *
conf.verb=0
print(srp1(Ether(dst='ff:ff:ff:ff:ff:ff')/ARP(op=1,psrc='{sender}',pdst='{target}'),iface='eth0',timeout=1))"
            );
            workload.sh(&format!("/usr/bin/python3 - <<'E'\n{script}\nE")).contains(HOST_MAC)
        };
        assert!(!probe("0.0.0.0", v4) && !probe("0.0.0.0", "10.65.0.99"));
        assert!(probe(v4, "10.65.0.99"));
        workload.sh("sysctl -qw net.ipv6.conf.eth0.accept_dad=1; ip -6 addr add fd00:65::77/128 dev eth0");
        std::thread::sleep(Duration::from_millis(2_200));
        let address = workload.sh("ip -6 addr show dev eth0 to fd00:65::77");
        assert!(!address.contains("tentative") && !address.contains("dadfailed"), "{address}");
    }
}

/// B4, B5, B6: whatever routes the workload makes up, the next hop is the host.
#[test]
fn odd_routes_of_the_workload_lead_to_the_host() {
    let net = Host::new();
    net.sync();
    for (odd, target) in [
        ("ip addr add 10.65.0.2/16 dev eth0; ip route replace default dev eth0", "10.65.0.4"),
        ("ip route replace default via 10.65.255.254 dev eth0 onlink", "10.65.0.4"),
        ("ip route add 10.65.0.4 via 10.65.0.3 dev eth0 onlink", "10.65.0.4"),
    ] {
        net.w1.sh(&format!("{odd}; ip neigh flush all"));
        let begin = Instant::now();
        net.w1.sh(&format!("ping -c1 -W1 {target}"));
        println!("first ping after {odd:?}: {:?}", begin.elapsed());
        let neighbours = net.w1.sh("ip neigh show dev eth0");
        assert!(neighbours.contains(HOST_MAC), "{neighbours}");
        for line in neighbours.lines().filter(|line| line.contains("lladdr")) {
            assert!(line.contains(HOST_MAC), "{line}");
        }
    }
    net.w1.sh("ping -6 -c1 -W1 fd00:65::4");
    net.t1.sh("ping -6 -c1 -W1 fd00:65::2 && ping -c1 -W1 10.65.0.2");
}

/// C10, C11, and their twins for IPv6.
#[test]
fn a_workload_cannot_write_into_the_hosts_neighbour_table() {
    let net = Host::new();
    net.sync();
    net.host.sh("sysctl -qw net.ipv4.conf.all.arp_accept=1 net.ipv6.conf.all.accept_untracked_na=1");
    for (workload, link, ..) in net.workloads() {
        let before = net.host.sh(&format!("ip neigh show dev {link}"));
        workload.sh("ip addr add 10.65.0.3/32 dev eth0; ip -6 addr add fd00:65::3/128 dev eth0 nodad");
        workload.sh(
            "/usr/bin/python3 - <<'E'
from scapy.all import *
m='02:de:ad:be:ef:01'
conf.verb=0
s=conf.L2socket(iface='eth0')
for i in range(500):
    ip='10.77.%d.%d'%(i>>8,i&255)
    s.send(Ether(src=m,dst='ff:ff:ff:ff:ff:ff')/ARP(op=2,hwsrc=m,psrc=ip,pdst=ip,hwdst='ff:ff:ff:ff:ff:ff'))
    s.send(Ether(src=m,dst='ff:ff:ff:ff:ff:ff')/ARP(op=1,hwsrc=m,psrc=ip,pdst='169.254.1.1'))
    s.send(Ether(src=m,dst='ff:ff:ff:ff:ff:ff')/ARP(op=1,hwsrc=m,psrc=ip,pdst=ip))
    v6='fd00:77::%x'%i
    s.send(Ether(src=m,dst='33:33:00:00:00:01')/IPv6(src=v6,dst='ff02::1')/ICMPv6ND_NA(tgt=v6,R=0,S=0,O=1)/ICMPv6NDOptDstLLAddr(lladdr=m))
    s.send(Ether(src=m,dst='33:33:ff:ee:ee:ee')/IPv6(src='fe80::%x'%(i+1),dst='ff02::1:ffee:eeee')/ICMPv6ND_NS(tgt='fe80::ecee:eeff:feee:eeee')/ICMPv6NDOptSrcLLAddr(lladdr=m))
    s.send(Ether(src=m,dst='33:33:00:00:00:02')/IPv6(src='fe80::%x'%(i+1),dst='ff02::2')/ICMPv6ND_RS()/ICMPv6NDOptSrcLLAddr(lladdr=m))
E",
        );
        let after = net.host.sh(&format!("ip neigh show dev {link}"));
        assert!(
            !after.contains("02:de:ad") && !after.contains("10.65.0.3") && !after.contains("fd00:65::3"),
            "{after}"
        );
        assert!(after.lines().count() <= before.lines().count() + 1, "{before}\n--\n{after}");
    }
}

/// C12: a tag hides nothing from the program, and what is neither IP nor ARP ends on the link.
#[test]
fn other_frames_end_on_the_link() {
    let net = Host::new();
    net.sync();
    for ((workload, link, v4, v6), other) in net.workloads().into_iter().zip(["tapt1", "lhw1"]) {
        let mac = workload.mac("eth0");
        let send = |frames: &str| {
            workload.sh(&format!(
                "/usr/bin/python3 - <<'E'
from scapy.all import *
from scapy.contrib.mpls import MPLS
conf.verb=0
e=Ether(src='{mac}',dst='{HOST_MAC}')
b=Ether(src='{mac}',dst='ff:ff:ff:ff:ff:ff')
stp=Dot3(src='{mac}',dst='01:80:c2:00:00:00')/LLC()/STP()
arp=ARP(op=1,psrc='{v4}',pdst='8.8.8.8',hwsrc='{mac}')
ns=IPv6(src='{v6}',dst='ff02::1:ff00:1')/ICMPv6ND_NS(tgt='2001:db8::1')
def typed(n): return Ether(src='{mac}',dst='{HOST_MAC}',type=n)/(b'x'*46)
def to(address): return IP(src='{v4}',dst=address)/ICMP()
inner=to('10.65.0.9')
for p in [{frames}]:
    sendp(p, iface='eth0', count=3)
E"
            ));
        };
        // tcpdump sees frames before the program, netfilter's ingress hook after it.
        net.host.sh(&format!(
            "nft add table netdev behind; nft add chain netdev behind {link} '{{ type filter hook ingress device {link} priority 0; }}'
             nft add rule netdev behind {link} ether type vlan counter comment tagged; nft add rule netdev behind {link} ether type 8021ad counter comment tagged
             nft add rule netdev behind {link} ether type arp counter comment arps; nft add rule netdev behind {link} icmpv6 type nd-neighbor-solicit ip6 saddr {v6} counter comment solicits
             nft add rule netdev behind {link} ip saddr {v4} counter comment plain
             nft add chain netdev behind to{other} '{{ type filter hook egress device {other} priority 0; }}'
             nft add rule netdev behind to{other} ip saddr {v4} counter comment on"
        ));
        let count = |comment: &str| -> u64 {
            let text = net.host.sh("nft list table netdev behind");
            let lines = text.lines().filter(|line| line.contains(&format!("comment \"{comment}\"")));
            lines.filter_map(|line| line.split("packets ").nth(1)?.split(' ').next()?.parse::<u64>().ok()).sum()
        };
        let dropped = || -> u64 {
            let text = net.host.sh(&format!("ip -s -s link show {link}"));
            let line = text.lines().skip_while(|line| !line.trim_start().starts_with("RX:")).nth(1).expect("a line");
            line.split_whitespace().nth(3).and_then(|word| word.parse().ok()).expect("a count")
        };
        // Tagged, also with the VLAN 0 that the kernel would take as no tag.
        send("e/Dot1Q(vlan=5)/inner, e/Dot1AD(vlan=5)/Dot1Q(vlan=6)/inner, e/Dot1Q(vlan=0)/inner, e/Dot1AD(vlan=0)/inner,
            b/Dot1Q(vlan=0)/arp, b/Dot1AD(vlan=0)/arp, b/Dot1Q(vlan=0)/ns, b/Dot1AD(vlan=0)/ns, b/Dot1Q(vlan=0)/Dot1Q(vlan=0)/ns");
        assert_eq!(["tagged", "arps", "solicits", "plain"].map(count), [0; 4], "tagged frames of {v4}");
        // Of protocols that nobody on the host speaks: LLDP, EAPOL, a local experiment.
        let before = dropped();
        send("typed(0x88cc), typed(0x888e), typed(0x88b5)");
        assert_eq!(dropped(), before + 9, "dropped by the kernel: it has no use for them");
        // Of protocols that some hosts speak, but not on this link: MPLS, PPPoE, spanning tree.
        let there = if v4 == "10.65.0.2" { "10.65.0.4" } else { "10.65.0.2" };
        send(&format!(
            "Ether(src=e.src,dst=e.dst,type=0x8847)/MPLS(label=3,s=1,ttl=9)/to('{there}'),
            e/PPPoE(sessionid=1)/PPP(proto=0x21)/to('{there}'), e/PPPoED(), stp"
        ));
        assert_eq!(count("on"), 0, "nothing of it goes on");
        workload.sh(&format!("ping -c1 -W1 {there}"));
        assert!(count("plain") > 0 && count("on") > 0, "{}", net.host.sh("nft list table netdev behind"));
        net.host.sh("nft delete table netdev behind");
    }
}

/// Leaves a link with one filter by our name and handle: at this priority and protocol, dropping all it sees.
fn hang(host: &Netns, link: &str, place: u32) {
    host.sh(&format!("tc filter del dev {link} ingress"));
    let mut a = Assembler::new();
    a.finish(2);
    let program = Program::load("lasthop_arp", &a.assemble().expect("complete")).expect("run as root");
    let shown = host.sh(&format!("ip -o link show {link}"));
    let index: u32 = shown.split(':').next().and_then(|word| word.parse().ok()).expect("an index");
    let fixed = [0, index, 0x6c68, 0xffff_fff2, place].map(u32::to_ne_bytes).concat();
    let mut filter = Message::new(44, 0x400).fixed(&fixed);
    filter.put_str(1, "bpf").nest(2, |m| {
        m.put_u32(6, program.as_fd().as_raw_fd().cast_unsigned());
        m.put_str(7, "lasthop_arp:0123456789abcdef").put_u32(8, 1);
    });
    Socket::open(Protocol::Route).expect("a socket").request(&filter, "hang a filter").expect("hung");
}

#[test]
fn what_is_right_is_not_touched_and_what_is_foreign_stays() {
    let net = Host::new();
    let foreign = "tc filter show dev lhw1 ingress pref 7; tc filter show dev lhw1 egress";
    // One link has a clsact of somebody else, with filters on both sides.
    let accept = "bpf direct-action bytecode '1,6 0 0 4294967295'";
    net.host.sh(&format!(
        "tc qdisc add dev lhw1 clsact; tc filter add dev lhw1 ingress pref 7 protocol all {accept}; tc filter add dev lhw1 egress pref 1 protocol all {accept}"
    ));
    let before = net.host.sh(foreign);
    assert_eq!(net.sync().writes, 2);
    let shown = net.host.sh("tc filter show dev tapt1 ingress");
    let ours = |link: &str| net.host.sh(&format!("tc filter show dev {link} ingress")).matches("lasthop_arp:").count();
    assert!(shown.contains("direct-action") && ours("tapt1") == 4 && ours("lhw1") == 4, "{shown}");
    for protocol in ["arp", "ipv6", "802.1Q", "802.1ad"] {
        assert!(shown.contains(&format!("filter protocol {protocol} pref")), "{shown}");
    }
    println!("{shown}");
    assert_eq!(net.sync().writes, 0, "after a restart");
    assert_eq!(net.host.sh("tc filter show dev tapt1 ingress"), shown);
    // A link that is made anew has none.
    for tampering in [
        "tc qdisc del dev tapt1 ingress",
        "tc filter del dev tapt1 ingress",
        "tc filter del dev tapt1 ingress pref 1 handle 0x6c68 protocol arp bpf",
        "tc filter del dev tapt1 ingress pref 2",
        "tc filter del dev tapt1 ingress pref 4",
        "tc filter replace dev tapt1 ingress pref 2 handle 0x6c68 protocol ipv6 bpf direct-action bytecode '1,6 0 0 0'",
        "tc qdisc del dev tapt1 ingress; tc qdisc add dev tapt1 clsact",
    ] {
        net.host.sh(tampering);
        assert_eq!(net.sync().writes, 1, "{tampering}");
        assert_eq!(arping(&net.t1, "8.8.8.8").as_deref(), Some(HOST_MAC), "{tampering}");
        assert_eq!(ndisc(&net.t1, "2001:db8::1").as_deref(), Some(HOST_MAC), "{tampering}");
        assert_eq!(ours("tapt1"), 4, "{tampering}");
        assert_eq!(net.sync().writes, 0, "{tampering}");
    }
    // One that is in nobody's place: of another version of ours, which drops all there is.
    net.host.enter(|| hang(&net.host, "tapt1", 1 << 16 | u32::from(0x0003_u16.to_be())));
    assert_eq!((ours("tapt1"), net.sync().writes, ours("tapt1"), net.sync().writes), (1, 1, 4, 0));
    assert_eq!(arping(&net.t1, "8.8.8.8").as_deref(), Some(HOST_MAC));
    net.host.enter(|| {
        let mut responders = Reconciler::new(Responders::open().expect("a socket"));
        responders.read_back().expect("read back");
        let changed = BTreeMap::from([(name("lhw1"), responder(&["10.65.0.2", "10.65.0.77"]))]);
        let outcome = responders.sync(&changed, Scope::All);
        assert_eq!((outcome.writes, outcome.done.len(), outcome.removed.len()), (2, 1, 1), "{outcome:?}");
    });
    assert_eq!(arping(&net.w1, "10.65.0.77"), None, "a new own address");
    assert_eq!(net.host.sh("tc qdisc show dev tapt1 ingress; tc qdisc show dev tapt1 clsact"), "", "as it was");
    net.host.enter(|| {
        let mut responders = Reconciler::new(Responders::open().expect("a socket"));
        responders.read_back().expect("read back");
        assert!(responders.sync(&BTreeMap::new(), Scope::All).failed.is_empty());
        let absent = BTreeMap::from([(name("lhnone"), responder(&["10.65.0.2"]))]);
        let outcome = responders.sync(&absent, Scope::All);
        assert!(outcome.failed.values().all(|error| error.is_absent()) && outcome.failed.len() == 1, "{outcome:?}");
    });
    assert_eq!(net.host.sh(foreign), before);
}

#[test]
fn figures() {
    let host = Netns::new("host");
    let links: Vec<IfName> = (0..200).map(|i| name(&format!("lhf{i}"))).collect();
    let add = |link: &IfName| format!("link add {link} type veth peer name p{link}\n");
    host.sh(&format!("ip -batch - <<'E'\n{}E", links.iter().map(add).collect::<String>()));
    host.enter(|| {
        let mut table = Responders::open().expect("a socket");
        let mut desired = BTreeMap::new();
        let begin = Instant::now();
        for (i, link) in links.iter().enumerate() {
            desired.insert(link.clone(), responder(&[&format!("10.65.0.{i}"), &format!("fd00:65::{i}")]));
        }
        let rendered = begin.elapsed() / 200;
        let mut reconciler = Reconciler::new(Responders::open().expect("a socket"));
        let begin = Instant::now();
        assert!(reconciler.sync(&desired, Scope::All).failed.is_empty());
        let attached = begin.elapsed() / 200;
        let begin = Instant::now();
        assert_eq!(table.read_back().expect("read back").len(), 200);
        let read = begin.elapsed() / 400;
        let begin = Instant::now();
        assert_eq!(reconciler.sync(&BTreeMap::new(), Scope::All).removed.len(), 200);
        let detached = begin.elapsed() / 200;
        println!("a link: rendered {rendered:?}, attached {attached:?}, read back {read:?}, detached {detached:?}");
    });
    let net = Host::new();
    net.sync();
    let begin = Instant::now();
    assert_eq!(arping(&net.w1, "8.8.8.8").as_deref(), Some(HOST_MAC));
    println!("arping, with its start: {:?}", begin.elapsed());
}

//! What passes and what does not, with real packets of both families: section C of the data path checks, A5, A6, E5, G11,
//! G12, G14. Hand-made links and routes; the table and the responders are ours.
//!
//! ```text
//! h1 172.31.0.1: w1 10.65.0.2 (veth lhw1), w2 10.65.0.3 (TAP tapw2)    h2 172.31.0.2: w3 10.65.1.2 (veth lhw3)
//! x 172.31.0.3 with 198.51.100.1, the world outside. IPv6: fd00:172::/64, fd00:65::, fd00:65:1::, 2001:db8:1::1.
//! ```

mod netns;

use lasthop_compute::{EndpointToHost, Guard, Nat, Source};
use lasthop_kernel::bpf::{Responder, Responders};
use lasthop_kernel::link::create_tap;
use lasthop_kernel::nft::{Nft, PolicyScope, allow_all};
use lasthop_kernel::reconcile::{Reconciler, Scope};
use lasthop_net::{IfName, Mac, Prefix};
use netns::Netns;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::time::Duration;

const HOST_MAC: Mac = Mac([0xee; 6]);

fn name(text: &str) -> IfName {
    text.parse().expect("a name")
}

/// A workload: its link and its addresses.
type Workload = (&'static str, &'static str, &'static str);
const W1: Workload = ("lhw1", "10.65.0.2", "fd00:65::2");
const W2: Workload = ("tapw2", "10.65.0.3", "fd00:65::3");
const W3: Workload = ("lhw3", "10.65.1.2", "fd00:65:1::2");

struct Net {
    _fabric: Netns,
    h1: Netns,
    h2: Netns,
    x: Netns,
    w1: Netns,
    w2: Netns,
    w3: Netns,
}

fn pump(mut from: std::fs::File, mut to: std::fs::File) {
    std::thread::spawn(move || {
        let mut frame = vec![0; 1 << 16];
        while let Ok(length) = from.read(&mut frame) {
            let _ = to.write(&frame[..length]);
        }
    });
}

/// What an agent does besides the table: addresses inside, settings, responder, routes.
fn wire_up(host: &Netns, guest: &Netns, (link, v4, v6): Workload) {
    if link.starts_with("tap") {
        let at_host = host.enter(|| create_tap(&name(link)).expect("a TAP").into_file());
        let at_guest = guest.enter(|| create_tap(&name("eth0")).expect("a TAP").into_file());
        pump(at_host.try_clone().expect("a descriptor"), at_guest.try_clone().expect("a descriptor"));
        pump(at_guest, at_host);
    } else {
        host.sh(&format!("ip link add {link} type veth peer name eth0 netns {}", guest.name));
    }
    host.sh(&format!(
        "sysctl -qw net.ipv6.conf.{link}.accept_ra=0 net.ipv6.conf.{link}.accept_dad=0
         ip link set {link} address {HOST_MAC} up; ip route add {v4} dev {link}; ip -6 route add {v6} dev {link}"
    ));
    guest.sh(&format!(
        "ip link set eth0 up; ip addr add {v4}/32 dev eth0; ip -6 addr add {v6}/128 dev eth0 nodad
         ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1 dev eth0
         ip -6 route add default via fe80::ecee:eeff:feee:eeee dev eth0"
    ));
    host.enter(|| {
        let own = [v4, v6].map(|text| text.parse::<Prefix>().expect("an address"));
        let responder = Responder::new(HOST_MAC, &own.into()).expect("a program");
        let mut responders = Reconciler::new(Responders::open().expect("a socket"));
        let outcome = responders.sync(&BTreeMap::from([(name(link), responder)]), Scope::All);
        assert!(outcome.failed.is_empty(), "{outcome:?}");
    });
}

fn sources(workloads: &[Workload]) -> BTreeSet<Source> {
    let source = |link: &str, text: &str| Source { link: name(link), prefix: text.parse().expect("a prefix") };
    workloads.iter().flat_map(|(link, v4, v6)| [source(link, v4), source(link, v6)]).collect()
}

/// The table on a host.
fn guard(host: &Netns, action: EndpointToHost, sources: &BTreeSet<Source>) {
    let set = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a prefix")).collect();
    let guard = Guard { link_prefixes: ["lh", "tap"].map(str::to_owned).into(), endpoint_to_host: action };
    let nat = Nat { sources: set(&["10.65.0.0/16", "fd00:65::/32"]), inside: set(&["10.65.0.0/16", "fd00:65::/32"]) };
    let links: BTreeSet<IfName> = sources.iter().map(|source| source.link.clone()).collect();
    host.enter(|| {
        let mut nft = Nft::open().expect("sockets");
        nft.read_back().expect("read back");
        nft.sync_skeleton(&guard, &nat).expect("the skeleton");
        assert!(nft.sync_sources(sources, Scope::All).failed.is_empty());
        assert!(nft.sync_policy(&allow_all(&links), PolicyScope::All).failed.is_empty());
    });
}

fn drops(host: &Netns, reason: &str) -> u64 {
    host.enter(|| Nft::open().expect("sockets").drops().expect("counters")[reason])
}

impl Net {
    /// Hosts with workloads; nothing guards anything yet.
    fn bare() -> Self {
        let fabric = Netns::new("fab");
        fabric.sh("ip link add br0 type bridge; ip link set br0 up");
        let [h1, h2, x] = ["h1_", "h2_", "x_"].map(Netns::new);
        for (number, host) in (1..).zip([&h1, &h2, &x]) {
            fabric.sh(&format!(
                "ip link add p{number} type veth peer name eth0 netns {}; ip link set p{number} master br0 up",
                host.name
            ));
            host.sh(&format!(
                "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.forwarding=1 net.ipv6.conf.eth0.accept_dad=0
                 ip link set eth0 up; ip addr add 172.31.0.{number}/24 dev eth0; ip -6 addr add fd00:172::{number}/64 dev eth0 nodad"
            ));
        }
        for host in [&h1, &h2] {
            host.sh("ip route add default via 172.31.0.3; ip -6 route add default via fd00:172::3");
        }
        h1.sh("ip route add 10.65.1.0/24 via 172.31.0.2; ip -6 route add fd00:65:1::/64 via fd00:172::2");
        h2.sh("ip route add 10.65.0.0/24 via 172.31.0.1; ip -6 route add fd00:65::/64 via fd00:172::1");
        x.sh("ip addr add 198.51.100.1/32 dev lo; ip -6 addr add 2001:db8:1::1/128 dev lo
              ip route add 10.65.0.0/24 via 172.31.0.1; ip -6 route add fd00:65::/64 via fd00:172::1");
        let [w1, w2, w3] = ["w1_", "w2_", "w3_"].map(Netns::new);
        wire_up(&h1, &w1, W1);
        wire_up(&h1, &w2, W2);
        wire_up(&h2, &w3, W3);
        Self { _fabric: fabric, h1, h2, x, w1, w2, w3 }
    }

    fn new() -> Self {
        let net = Self::bare();
        guard(&net.h1, EndpointToHost::Drop, &sources(&[W1, W2]));
        guard(&net.h2, EndpointToHost::Drop, &sources(&[W3]));
        net
    }

    /// Has a workload send raw packets, written in Python with scapy; `E` is an Ethernet header to the host.
    fn send(from: &Netns, packets: &str) {
        let mac = from.mac("eth0");
        from.sh(&format!(
            "/usr/bin/python3 - <<'EOF'
from scapy.all import *
conf.verb=0
E=Ether(src='{mac}',dst='{HOST_MAC}')
P=ICMP(id=77)
P6=ICMPv6EchoRequest(id=77)
for p in [{packets}]:
    sendp(p, iface='eth0', count=3)
EOF"
        ));
    }
}

/// Frames that [`Net::send`] makes.
const MARKED: &str = "(icmp[4:2]=77) or (icmp6 and ip6[44:2]=77) or (icmp6 and ip6[40]=128)";

fn passes(from: &Netns, to: &str) -> bool {
    let family = if to.contains(':') { "-6" } else { "-4" };
    from.run(&format!("ping {family} -c2 -i0.05 -W1 {to}")).0
}

#[test]
fn allowed_traffic_passes_and_nat_is_for_the_world_outside() {
    let net = Net::new();
    for (from, targets) in [
        (&net.w1, [W2.1, W2.2, W3.1, W3.2, "198.51.100.1", "2001:db8:1::1"]),
        (&net.w2, [W1.1, W1.2, W3.1, W3.2, "198.51.100.1", "2001:db8:1::1"]),
        (&net.w3, [W1.1, W1.2, W2.1, W2.2, "198.51.100.1", "2001:db8:1::1"]),
        (&net.h1, [W1.1, W1.2, W2.1, W2.2, W3.1, W3.2]),
        (&net.x, [W1.1, W1.2, W2.1, W2.2, W1.1, W1.2]),
    ] {
        for target in targets {
            assert!(passes(from, target), "{} to {target}", from.name);
        }
    }
    for (target, filter) in
        [("198.51.100.1", "icmp and src 172.31.0.1"), ("2001:db8:1::1", "icmp6[0]=128 and src fd00:172::1")]
    {
        let seen = net.x.count("eth0", filter, || assert!(passes(&net.w1, target)));
        assert!(seen >= 2, "A5 {target}");
    }
    for (target, filter) in [(W3.1, "icmp and src 10.65.0.2"), (W3.2, "icmp6 and src fd00:65::2")] {
        let seen = net.w3.count("eth0", filter, || assert!(passes(&net.w1, target)));
        assert!(seen >= 2, "A6 {target}");
    }
    assert_eq!(drops(&net.h1, "spoofed"), 0);
}

/// C1 to C4, C6, C9, C14: a source that is not exactly the link's goes nowhere, to no workload, host or outside.
#[test]
fn forged_sources_are_dropped() {
    let net = Net::new();
    for (from, own, other) in [(&net.w1, W1, W2), (&net.w2, W2, W1)] {
        let good = format!("E/IP(src='{}',dst='{}')/P, E/IPv6(src='{}',dst='{}')/P6", own.1, W3.1, own.2, W3.2);
        let seen = net.w3.count("eth0", MARKED, || Net::send(from, &good));
        assert!(seen >= 6, "C4, and the check can fail: {seen}");
        let forged4 = [
            other.1,
            "198.51.100.1",
            "172.31.0.1",
            "127.0.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "169.254.1.1",
        ];
        let forged6 = [other.2, "fd00:172::1", "2001:db8:1::1", "fe80::77", "::1", "::", "ff02::1", "::ffff:10.65.0.2"];
        let mut packets = String::new();
        for (source, target) in
            forged4.iter().flat_map(|s| [W3.1, other.1, "198.51.100.1", "172.31.0.1"].map(|t| (s, t)))
        {
            packets += &format!("E/IP(src='{source}',dst='{target}')/P,");
        }
        for (source, target) in
            forged6.iter().flat_map(|s| [W3.2, other.2, "2001:db8:1::1", "fd00:172::1"].map(|t| (s, t)))
        {
            packets += &format!("E/IPv6(src='{source}',dst='{target}')/P6,");
        }
        let before = drops(&net.h1, "spoofed");
        let victim = if own == W1 { &net.w2 } else { &net.w1 };
        let mut seen = [0; 3];
        seen[0] = net.w3.count("eth0", MARKED, || {
            seen[1] = victim.count("eth0", MARKED, || {
                seen[2] = net.h1.count("eth0", MARKED, || Net::send(from, &packets));
            });
        });
        assert_eq!(seen, [0; 3], "w3, the other workload, the fabric");
        // ::1 and ff02::1 are no sources to the kernel even before us (ip6_rcv_core).
        assert_eq!(drops(&net.h1, "spoofed") - before, 3 * (64 - 2 * 4));
    }
}

/// C9: the right source in a frame for somebody else's MAC.
#[test]
fn frames_for_other_macs_reach_nobody() {
    let net = Net::new();
    let other = net.w2.mac("eth0");
    let frames: String = [other.as_str(), "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01"]
        .map(|mac| {
            format!(
                "Ether(src=E.src,dst='{mac}')/IP(src='{}',dst='{}')/P, Ether(src=E.src,dst='{mac}')/IPv6(src='{}',dst='{}')/P6,",
                W1.1, W2.1, W1.2, W2.2
            )
        })
        .concat();
    assert_eq!(net.w2.count("eth0", MARKED, || Net::send(&net.w1, &frames)), 0);
}

/// C5: forged fragments get nowhere near the reassembly of others' packets; source routing is dropped.
#[test]
fn fragments_and_source_routes() {
    let net = Net::new();
    // The victim's first fragment is on its way; w1 forges its rest before the true one comes. Were it reassembled
    // with the forged one, the victim's packet would be lost with it.
    let fragment =
        |i: u8| format!("fragment(E/IP(src='{}',dst='{}',id=999)/ICMP(id=78)/(b'a'*64),fragsize=40)[{i}]", W2.1, W3.1);
    let (first, rest) = (fragment(0), fragment(1));
    let before = drops(&net.h1, "spoofed");
    let seen = net.w3.count("eth0", "icmp[0]=8 and icmp[4:2]=78", || {
        Net::send(&net.w2, &first);
        Net::send(&net.w1, &rest);
        Net::send(&net.w2, &rest);
    });
    assert_eq!((seen, drops(&net.h1, "spoofed") - before), (1, 3));
    let before = drops(&net.h1, "source_route");
    let routed = format!(
        "E/IP(src='{0}',dst='{1}',options=[IPOption_LSRR(routers=['{1}'])])/P,
         E/IP(src='{0}',dst='{1}',options=[IPOption_SSRR(routers=['{1}'])])/P,
         E/IPv6(src='{2}',dst='{3}')/IPv6ExtHdrRouting(addresses=['{3}'])/P6,
         E/IPv6(src='{2}',dst='{3}')/IPv6ExtHdrDestOpt()/IPv6ExtHdrRouting(type=4,addresses=['{3}'])/P6",
        W1.1, W3.1, W1.2, W3.2
    );
    // The link's own neighbour discovery is none of it.
    let from_w1 = format!("icmp or src host {}", W1.2);
    assert_eq!(net.w3.count("eth0", &from_w1, || Net::send(&net.w1, &routed)), 0);
    assert_eq!(drops(&net.h1, "source_route") - before, 12);
    let options = format!("E/IP(src='{0}',dst='{1}',options=[IPOption_RR(routers=['0.0.0.0'])])/P", W1.1, W3.1);
    assert!(net.w3.count("eth0", "icmp", || Net::send(&net.w1, &options)) > 0, "a harmless option passes");
}

/// C13, G14: destinations that no host forwards.
#[test]
fn unforwardable_destinations() {
    let net = Net::new();
    net.h1
        .sh("ip route add 169.254.0.0/16 dev eth0; ip route add 240.0.0.0/4 dev eth0; ip route add 0.0.0.0/8 dev eth0");
    let mut packets = String::new();
    for target in ["169.254.169.254", "240.0.0.1", "0.0.0.7", "224.0.0.5", "239.1.1.1", "255.255.255.255", "127.0.0.1"]
    {
        packets += &format!("E/IP(src='{}',dst='{target}')/P,", W1.1);
    }
    for target in ["ff05::1", "fe80::99", "::1", "ff02::1"] {
        packets += &format!("E/IPv6(src='{}',dst='{target}')/P6,", W1.2);
    }
    let seen = net.h1.count("eth0", &format!("{MARKED} or arp[24:4]=0xa9fea9fe"), || Net::send(&net.w1, &packets));
    assert_eq!(seen, 0);
    assert!(drops(&net.h1, "unforwardable") >= 6, "those that would have been forwarded");
}

/// C7: a prefix that the endpoint lists passes while it is listed.
#[test]
fn an_allowed_prefix_passes_until_it_is_taken_away() {
    let net = Net::new();
    let mut allowed = sources(&[W1, W2]);
    let packets = |low: u8| {
        format!("E/IP(src='192.0.2.{low}',dst='{}')/P, E/IPv6(src='2001:db8:7::{low}',dst='{}')/P6", W3.1, W3.2)
    };
    let seen = |packets: &str| net.w3.count("eth0", "icmp[0]=8 or icmp6[0]=128", || Net::send(&net.w1, packets));
    assert_eq!(seen(&packets(7)), 0);
    for text in ["192.0.2.0/25", "2001:db8:7::/64"] {
        allowed.insert(Source { link: name(W1.0), prefix: text.parse().expect("a prefix") });
    }
    guard(&net.h1, EndpointToHost::Drop, &allowed);
    assert_eq!(seen(&packets(7)), 6);
    let other = format!("E/IP(src='192.0.2.129',dst='{}')/P, E/IPv6(src='2001:db8:8::1',dst='{}')/P6", W3.1, W3.2);
    assert_eq!(seen(&other), 0);
    guard(&net.h1, EndpointToHost::Drop, &sources(&[W1, W2]));
    assert_eq!(seen(&packets(7)), 0);
}

/// G11, G12: host to workload always; workload to its own host by the setting, and never to BGP.
#[test]
fn workload_to_its_own_host() {
    let mut net = Net::new();
    for port in [22, 179] {
        net.h1.spawn(&format!("nc -klp {port}"));
        net.h1.spawn(&format!("nc -6 -klp {port}"));
    }
    std::thread::sleep(Duration::from_millis(300));
    let connects = |target: &str, port: u16| net.w1.run(&format!("nc -z -w1 {target} {port}")).0;
    for (action, open) in
        [(EndpointToHost::Drop, false), (EndpointToHost::Accept, true), (EndpointToHost::Return, true)]
    {
        guard(&net.h1, action, &sources(&[W1, W2]));
        for target in ["172.31.0.1", "fd00:172::1"] {
            assert_eq!(connects(target, 22), open, "{action:?} {target}");
            assert_eq!(passes(&net.w1, target), open, "{action:?} {target}");
            assert!(!connects(target, 179), "{action:?} {target}: BGP");
        }
        assert!(passes(&net.h1, W1.1) && passes(&net.h1, W1.2), "{action:?}");
    }
    // A link that nobody knows does not profit from Accept.
    guard(&net.h1, EndpointToHost::Accept, &sources(&[W2]));
    assert!(!connects("172.31.0.1", 22) && !passes(&net.w1, "fd00:172::1"));
}

/// E5, and invariant 1: what nobody knows passes nothing, before the first endpoint and after the last.
#[test]
fn a_link_without_policy_passes_nothing() {
    let net = Net::bare();
    guard(&net.h2, EndpointToHost::Drop, &sources(&[W3]));
    assert!(passes(&net.w1, W3.1) && passes(&net.w1, W3.2), "unguarded");
    net.h1.sh("conntrack -F 2>/dev/null");
    guard(&net.h1, EndpointToHost::Accept, &BTreeSet::new());
    for (from, to) in [
        (&net.w1, W3.1),
        (&net.w1, W3.2),
        (&net.w3, W1.1),
        (&net.w3, W1.2),
        (&net.w3, W2.1),
        (&net.x, W1.1),
        (&net.x, W2.2),
        (&net.w1, W2.1),
        (&net.w2, W1.2),
        (&net.w1, "172.31.0.1"),
        (&net.w2, "198.51.100.1"),
    ] {
        assert!(!passes(from, to), "{} to {to}", from.name);
    }
    // Not even one way.
    let seen = net.w1.count("eth0", "icmp[0]=8 or icmp6[0]=128", || {
        assert!(!passes(&net.x, W1.1) && !passes(&net.w3, W1.2));
    });
    assert_eq!(seen, 0);
    assert!(passes(&net.x, "172.31.0.2") && passes(&net.h1, "198.51.100.1"), "what is not ours is left alone");
    // Policy by name comes before the link: a link made anew works at once, without any write.
    guard(&net.h1, EndpointToHost::Drop, &sources(&[W1, W2]));
    net.h1.sh("ip link del lhw1");
    wire_up(&net.h1, &net.w1, W1);
    assert!(passes(&net.w1, W3.1) && passes(&net.w3, W1.2));
    guard(&net.h1, EndpointToHost::Drop, &sources(&[W2]));
    assert!(!passes(&net.w1, W3.1) && !passes(&net.w3, W1.2), "and is gone with its endpoint");
    assert!(passes(&net.w2, W3.1) && passes(&net.w3, W2.2), "others go on");
}

/// The skeleton is rewritten and endpoints come and go under traffic: nothing of others is lost.
#[test]
fn changes_under_traffic_lose_no_packet() {
    let net = Net::new();
    let pings: Vec<_> = [(&net.w1, W3.1), (&net.w1, W3.2), (&net.w2, W1.1), (&net.w3, "198.51.100.1")]
        .into_iter()
        .map(|(from, to)| (to, from.start(&format!("ping -q -i0.002 -c1500 -W1 {to}"))))
        .collect();
    let set = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a prefix")).collect::<BTreeSet<_>>();
    let mut changes = 0;
    for host in [&net.h1, &net.h2] {
        host.enter(|| {
            let mut nft = Nft::open().expect("sockets");
            let base = if host.name == net.h1.name { sources(&[W1, W2]) } else { sources(&[W3]) };
            nft.read_back().expect("read back");
            for round in 0..200 {
                let action = [EndpointToHost::Drop, EndpointToHost::Accept, EndpointToHost::Return][round % 3];
                let prefixes: &[&str] = [&["lh", "tap"][..], &["lh", "tap", "xx"], &["lh", "tap", "yy"]][round % 3];
                let guard = Guard {
                    link_prefixes: prefixes.iter().map(|p| (*p).to_owned()).collect(),
                    endpoint_to_host: action,
                };
                let mut pools = set(&["10.65.0.0/16", "fd00:65::/32"]);
                if round % 2 == 1 {
                    pools.extend(set(&["10.99.0.0/16"]));
                }
                let nat = Nat { sources: pools.clone(), inside: pools };
                changes += nft.sync_skeleton(&guard, &nat).expect("the skeleton").changes.len();
                let mut all = base.clone();
                if round % 2 == 0 {
                    all.extend(sources(&[("lhother", "10.65.0.99", "fd00:65::99")]));
                }
                assert!(nft.sync_sources(&all, Scope::All).failed.is_empty());
                let links: BTreeSet<IfName> = all.iter().map(|source| source.link.clone()).collect();
                assert!(nft.sync_policy(&allow_all(&links), PolicyScope::All).failed.is_empty());
                std::thread::sleep(Duration::from_millis(5));
            }
        });
    }
    println!("{changes} changes of the skeleton");
    for (to, ping) in pings {
        let output = ping.wait_with_output().expect("ping ends");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(" 0% packet loss"), "{to}: {text}");
    }
}

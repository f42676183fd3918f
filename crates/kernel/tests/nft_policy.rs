//! Policy in nftables is what the evaluator says: random programs, random packets of both families, put into one TAP and
//! awaited at another. Then the same while policy is edited, tampered with, and with parts that the kernel refuses.

mod netns;

use lasthop_compute::{Guard, Nat, Source};
use lasthop_kernel::link::create_tap;
use lasthop_kernel::nft::{Decider, Drops, Nft, PolicyKey, PolicyScope};
use lasthop_kernel::reconcile::Scope;
use lasthop_model::Kind;
use lasthop_net::{Family, IfName, Prefix};
use lasthop_policy::decide::{Packet, Transport, Verdict, decide};
use lasthop_policy::ir::{
    Action, DenyAction, Digest, Direction, End, Force, HostPolicy, Icmp, Key, Logging, Member, Owner, PolicyChanges,
    PortRange, Ports, Program, ProgramId, Rate, Rule, Set, SetId, SetKind, Side, Stack, StackId, Step, StepName,
    TierDefault, WorkloadPolicy,
};
use netns::Netns;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const FROM: &str = "lha";
const TO: &str = "lhb";
const MAC: [u8; 6] = [0xee; 6];

fn name(text: &str) -> IfName {
    text.parse().expect("a name")
}

/// Small, repeatable pseudo-random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).expect("small")
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

/// A host with two TAPs.
struct Lab {
    host: Netns,
    traffic: Traffic,
}

/// What is written to one TAP as a workload comes out of the other, if it may.
struct Traffic {
    from: File,
    out: Receiver<u32>,
    sent: u32,
}

impl Lab {
    fn new() -> Self {
        let host = Netns::new("pol");
        let (from, to) = host.enter(|| {
            let open = |text| create_tap(&name(text)).expect("a TAP").into_file();
            (open(FROM), open(TO))
        });
        host.sh(&format!(
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.icmp_ratelimit=0 net.netfilter.nf_conntrack_checksum=0 \
                net.ipv4.conf.{TO}.send_redirects=0 net.ipv4.conf.all.send_redirects=0
             for l in {FROM} {TO}; do sysctl -qw net.ipv4.conf.$l.rp_filter=0 net.ipv6.conf.$l.accept_dad=0 net.ipv6.conf.$l.accept_ra=0 net.ipv6.conf.$l.addr_gen_mode=1; ip link set $l txqueuelen 20000 address ee:ee:ee:ee:ee:ee up; done
             ip route add 10.0.0.0/8 via 169.254.9.9 dev {TO} onlink; ip neigh add 169.254.9.9 lladdr 02:00:00:00:00:01 dev {TO} nud permanent
             ip -6 route add fd00::/16 via fe80::99 dev {TO} onlink; ip -6 neigh add fe80::99 lladdr 02:00:00:00:00:01 dev {TO} nud permanent"
        ));
        let (heard, out) = channel();
        std::thread::spawn(move || {
            let mut to = to;
            let mut bytes = [0; 2048];
            while let Ok(length) = to.read(&mut bytes) {
                if let Some(number) = number(&bytes[..length])
                    && heard.send(number).is_err()
                {
                    return;
                }
            }
        });
        Self { host, traffic: Traffic { from, out, sent: 0 } }
    }

    fn open(&self) -> Nft {
        self.host.enter(|| {
            let mut nft = Nft::open().expect("sockets");
            nft.read_back().expect("read back");
            ready(&mut nft);
            nft
        })
    }

    fn forget_connections(&self) {
        self.host.sh("conntrack -F");
    }
}

impl Traffic {
    /// Puts a packet in; its number, which it carries.
    fn send(&mut self, packet: &Packet) -> u32 {
        self.sent += 1;
        let frame = frame(packet, self.sent);
        self.from.write_all(&frame).expect("a frame is taken");
        self.sent
    }

    /// The numbers of the packets that came out until nothing more comes for this long.
    fn arrived(&self, patience: Duration) -> BTreeSet<u32> {
        std::iter::from_fn(|| self.out.recv_timeout(patience).ok()).collect()
    }
}

fn ready(nft: &mut Nft) {
    let guard = Guard { link_prefixes: BTreeSet::from(["lh".to_owned()]), ..Guard::default() };
    nft.sync_skeleton(&guard, &Nat::default()).expect("the skeleton");
    let any = Family::ALL.map(|family| Source { link: name(FROM), prefix: Prefix::default_route(family) });
    assert!(nft.sync_sources(&any.into(), Scope::All).failed.is_empty());
}

const MAGIC: [u8; 4] = *b"lsth";

fn sum(bytes: &[u8], mut sum: u32) -> u32 {
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    sum
}

fn fold(mut sum: u32) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).expect("folded")).to_be_bytes()
}

/// CRC32c, bit by bit, for SCTP.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    };
    !bytes.iter().fold(u32::MAX, step)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// An Ethernet frame with a packet that carries a number.
fn frame(packet: &Packet, number: u32) -> Vec<u8> {
    let protocol = packet.transport.protocol();
    let mut data = MAGIC.to_vec();
    data.extend(number.to_be_bytes());
    let mut body: Vec<u8> = Vec::new();
    let ports = |body: &mut Vec<u8>, source: u16, destination: u16| {
        body.extend(source.to_be_bytes());
        body.extend(destination.to_be_bytes());
    };
    let mut checksum_at = None;
    match packet.transport {
        Transport::Ports { protocol: 6, source, destination } => {
            ports(&mut body, source, destination);
            // SYN, with a sequence number.
            body.extend([0, 0, 0, 7, 0, 0, 0, 0, 0x50, 2, 0x40, 0, 0, 0, 0, 0]);
            checksum_at = Some(16);
        }
        Transport::Ports { protocol: 132, source, destination } => {
            ports(&mut body, source, destination);
            // INIT: verification tag 0; then the one chunk, which the number is part of.
            body.extend([0, 0, 0, 0, 0, 0, 0, 0]);
            body.extend([1, 0, 0, 28, 0, 0, 0, 9, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 5]);
        }
        Transport::Ports { source, destination, .. } => {
            ports(&mut body, source, destination);
            let length = if protocol == 136 { 0 } else { 8 + data.len() };
            body.extend(u16::try_from(length).expect("short").to_be_bytes());
            body.extend([0, 0]);
            checksum_at = Some(6);
        }
        Transport::Icmp { kind, code, .. } => {
            body.extend([kind, code, 0, 0]);
            body.extend(u16::try_from(number & 0xffff).expect("16 bits").to_be_bytes());
            body.extend([0, 1]);
            checksum_at = Some(2);
        }
        Transport::Other(_) => {}
    }
    body.extend(&data);
    let (source, destination) = (octets(packet.source), octets(packet.destination));
    let pseudo = sum(&source, sum(&destination, u32::from(protocol) + u32::try_from(body.len()).expect("short")));
    if protocol == 132 {
        let crc = crc32c(&body).to_le_bytes();
        body[8..12].copy_from_slice(&crc);
    } else if let Some(at) = checksum_at {
        let start = if protocol == 1 { 0 } else { pseudo };
        let check = fold(sum(&body, start));
        body[at..at + 2].copy_from_slice(&check);
    }
    let mut frame = MAC.to_vec();
    frame.extend([2, 0, 0, 0, 0, 2]);
    let length = u16::try_from(body.len()).expect("short");
    if packet.source.is_ipv4() {
        frame.extend([8, 0]);
        let mut header = vec![0x45, 0];
        header.extend((20 + length).to_be_bytes());
        header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        header.extend(&source);
        header.extend(&destination);
        let check = fold(sum(&header, 0));
        header[10..12].copy_from_slice(&check);
        frame.extend(header);
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([protocol, 64]);
        frame.extend(&source);
        frame.extend(&destination);
    }
    frame.extend(body);
    frame
}

/// The number that a frame of ours carries at its end.
fn number(frame: &[u8]) -> Option<u32> {
    // An ICMP error quotes the packet that was refused.
    let is_error = match frame.get(12..14)? {
        [8, 0] => frame.get(23) == Some(&1) && frame.get(34) == Some(&3),
        _ => frame.get(20) == Some(&58) && frame.get(54) == Some(&1),
    };
    if is_error {
        return None;
    }
    let at = frame.windows(4).rposition(|bytes| bytes == MAGIC)?;
    Some(u32::from_be_bytes(frame.get(at + 4..at + 8)?.try_into().ok()?))
}

// ---- random policy

const SOURCES: [&str; 6] = ["10.65.0.2", "10.65.0.3", "10.65.7.9", "fd00:65::2", "fd00:65::3", "fd00:65:7::9"];
const DESTINATIONS: [&str; 6] = ["10.66.0.2", "10.66.0.77", "10.67.1.1", "fd00:66::2", "fd00:66::4d", "fd00:67::1"];
const NETS: [&str; 14] = [
    "10.0.0.0/8",
    "10.65.0.0/16",
    "10.65.0.2/32",
    "10.66.0.64/26",
    "10.67.0.0/17",
    "0.0.0.0/0",
    "10.65.0.2/31",
    "fd00:65::/32",
    "fd00:66::/64",
    "fd00:65::2/128",
    "::/0",
    "fd00:67::/33",
    "192.0.2.0/24",
    "2001:db8::/32",
];
const PORTS: [u16; 6] = [1, 80, 443, 8080, 30_000, 65_535];
const PROTOCOLS: [u8; 7] = [6, 17, 1, 58, 132, 136, 50];

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn packet(random: &mut Random) -> Packet {
    let family = random.below(2) * 3;
    let source = address(SOURCES[family + random.below(3)]);
    let destination = address(DESTINATIONS[family + random.below(3)]);
    let protocol = random.pick(&PROTOCOLS);
    let transport = match protocol {
        1 | 58 if (protocol == 1) != source.is_ipv4() => Transport::Other(47),
        1 | 58 => {
            let echo = if protocol == 1 { 8 } else { 128 };
            Transport::Icmp { protocol, kind: echo, code: 0 }
        }
        protocol => Transport::of(protocol, random.pick(&PORTS), random.pick(&PORTS)),
    };
    Packet { source, destination, transport }
}

/// Nets without those that are inside another.
fn canonical(nets: BTreeSet<Prefix>) -> BTreeSet<Prefix> {
    let inside = |net: &Prefix| nets.iter().any(|other| other != net && other.covers(*net));
    nets.iter().filter(|net| !inside(net)).copied().collect()
}

fn nets(random: &mut Random) -> BTreeSet<Prefix> {
    let count = random.below(4);
    canonical((0..count).map(|_| random.pick(&NETS).parse().expect("a net")).collect())
}

fn ports(random: &mut Random, sets: &[SetId]) -> Ports {
    let mut ranges: Vec<PortRange> = match random.below(4) {
        0 => Vec::new(),
        1 => vec![PortRange::one(random.pick(&PORTS))],
        2 => vec![PortRange::new(80, 8080).expect("a range")],
        _ => vec![PortRange::one(1), PortRange::new(443, 9000).expect("a range"), PortRange::one(65_535)],
    };
    let sets = if random.one_in(3) { BTreeSet::from([random.pick(sets)]) } else { BTreeSet::new() };
    if ranges.is_empty() && sets.is_empty() {
        ranges.push(PortRange::new(0, 65_535).expect("all"));
    }
    Ports { ranges, sets }
}

struct Sets {
    addresses: Vec<SetId>,
    ports: Vec<SetId>,
}

fn side(random: &mut Random, sets: &Sets, ported: bool) -> Side {
    let mut side = Side::default();
    if random.one_in(4) {
        side.nets = Some(nets(random));
    }
    if random.one_in(5) {
        side.not_nets = nets(random);
    }
    if random.one_in(4) {
        side.within.insert(random.pick(&sets.addresses));
    }
    if random.one_in(5) {
        side.not_within.insert(random.pick(&sets.addresses));
    }
    if ported && random.one_in(3) {
        side.ports = Some(ports(random, &sets.ports));
    }
    if random.one_in(6) {
        side.not_ports = Some(ports(random, &sets.ports));
    }
    side
}

fn rule(random: &mut Random, sets: &Sets) -> Rule {
    let protocol = (!random.one_in(3)).then(|| random.pick(&PROTOCOLS));
    let icmp =
        |random: &mut Random| Icmp { kind: random.pick(&[8, 128, 0]), code: random.pick(&[None, Some(0), Some(3)]) };
    let is_icmp = matches!(protocol, Some(1 | 58));
    Rule {
        action: random.pick(&[Action::Allow, Action::Allow, Action::Deny, Action::Pass, Action::Log]),
        family: random.pick(&[None, None, None, Some(Family::V4), Some(Family::V6)]),
        protocol,
        not_protocol: random.one_in(8).then(|| random.pick(&PROTOCOLS)),
        icmp: (is_icmp && random.one_in(2)).then(|| icmp(random)),
        not_icmp: (is_icmp && random.one_in(3)).then(|| icmp(random)),
        source: side(random, sets, !is_icmp),
        destination: side(random, sets, !is_icmp),
    }
}

fn program(random: &mut Random, sets: &Sets, direction: Direction) -> Program {
    let key =
        Key { kind: Kind::NetworkPolicy, namespace: Some("ns".into()), name: format!("p{}", random.below(1_000_000)) };
    let rules = match random.one_in(2) {
        true => (0..1 + random.below(4)).map(|_| rule(random, sets)).collect(),
        false => (0..4 + random.below(6)).map(|_| rule_for_ports(random, sets)).collect(),
    };
    let force = if random.one_in(6) { Force::Staged } else { Force::Enforced };
    Program { owner: Owner::Policy { tier: "t".into(), key }, direction, force, rules }
}

/// Mostly one that a run of rules for certain ports is made of.
fn rule_for_ports(random: &mut Random, sets: &Sets) -> Rule {
    let rule = rule(random, sets);
    if random.one_in(8) {
        return Rule { action: if rule.action == Action::Pass { Action::Allow } else { rule.action }, ..rule };
    }
    let ranges = (0..1 + random.below(2)).map(|_| PortRange::one(random.pick(&PORTS))).collect();
    Rule {
        action: random.pick(&[Action::Allow, Action::Deny, Action::Log]),
        protocol: Some(random.pick(&[6, 17])),
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: Side { ports: None, not_ports: None, ..rule.source },
        destination: Side { ports: Some(Ports { ranges, sets: BTreeSet::new() }), not_ports: None, ..rule.destination },
        ..rule
    }
}

fn members(random: &mut Random, kind: SetKind) -> BTreeSet<Member> {
    let count = random.below(6);
    let all = [SOURCES, DESTINATIONS].concat();
    (0..count)
        .map(|_| match kind {
            SetKind::Addresses => Member::Net(Prefix::host(address(random.pick(&all)))),
            SetKind::Nets => Member::Net(random.pick(&NETS).parse().expect("a net")),
            SetKind::Ports => Member::Port(address(random.pick(&all)), random.pick(&[6, 17]), random.pick(&PORTS)),
        })
        .collect()
}

fn stack(random: &mut Random, policy: &mut HostPolicy, sets: &Sets, direction: Direction) -> StackId {
    let tiers = random.below(4);
    let steps = (0..tiers)
        .map(|index| {
            let programs: Vec<ProgramId> = (0..1 + random.below(3))
                .map(|_| {
                    let program = program(random, sets, direction);
                    let id = program.id();
                    policy.programs.insert(id, Arc::new(program));
                    id
                })
                .collect();
            Step {
                name: StepName::Tier(format!("t{index}")),
                programs,
                otherwise: random.pick(&[TierDefault::Deny, TierDefault::Pass]),
            }
        })
        .collect();
    let stack = Stack { steps, end: random.pick(&[End::Deny, End::GoOn, End::GoOn]) };
    let id = stack.id();
    policy.stacks.insert(id, Arc::new(stack));
    id
}

fn logging(rate: Option<(u32, u64)>, burst: u32) -> Logging {
    let rate = rate.map(|(packets, seconds)| Rate { packets, per: Duration::from_secs(seconds) });
    Logging { prefix: "seen by %t %k/%n".to_owned(), rate, burst }
}

fn policy(random: &mut Random) -> HostPolicy {
    let mut policy = HostPolicy {
        deny: random.pick(&[DenyAction::Drop, DenyAction::Drop, DenyAction::Reject]),
        log: random.pick(&[logging(None, 5), logging(Some((10, 60)), 1), logging(Some((1, 86_400)), 9_999)]),
        ..HostPolicy::default()
    };
    let mut sets = Sets { addresses: Vec::new(), ports: Vec::new() };
    for kind in [SetKind::Addresses, SetKind::Addresses, SetKind::Nets, SetKind::Nets, SetKind::Ports, SetKind::Ports] {
        let id = SetId(Digest::of(&random.next()));
        policy.sets.insert(id, Set { kind, members: members(random, kind) });
        if kind == SetKind::Ports { sets.ports.push(id) } else { sets.addresses.push(id) }
    }
    let from = stack(random, &mut policy, &sets, Direction::Egress);
    let to = stack(random, &mut policy, &sets, Direction::Ingress);
    policy.workloads =
        BTreeMap::from([(name(FROM), WorkloadPolicy { from, to: from }), (name(TO), WorkloadPolicy { from: to, to })]);
    policy
}

fn allowed(policy: &HostPolicy, packet: &Packet) -> bool {
    let verdict = |stack: StackId| decide(&policy.stacks[&stack], policy, packet).verdict;
    verdict(policy.workloads[&name(FROM)].from) != Verdict::Deny
        && verdict(policy.workloads[&name(TO)].to) != Verdict::Deny
}

fn explain(policy: &HostPolicy, packet: &Packet) -> Vec<String> {
    let [from, to] = [policy.workloads[&name(FROM)].from, policy.workloads[&name(TO)].to];
    [from, to].map(|stack| decide(&policy.stacks[&stack], policy, packet).to_string()).into()
}

fn all_done<K: std::fmt::Debug + Ord>(outcome: &lasthop_kernel::reconcile::Outcome<K>) {
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
}

#[test]
fn packets_pass_as_the_evaluator_says() {
    let mut lab = Lab::new();
    let mut nft = lab.open();
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let rounds = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let mut random = Random(seed);
    let (mut passed, mut probes) = (0, 0);
    for round in 0..rounds {
        let policy = policy(&mut random);
        let outcome = lab.host.enter(|| nft.sync_policy(&policy, PolicyScope::All));
        all_done(&outcome);
        lab.forget_connections();
        // One packet of a kind: a second one would belong to its connection.
        let packets: BTreeSet<Packet> = (0..60).map(|_| packet(&mut random)).collect();
        let reply = |packet: &Packet| packets.iter().any(|other| other.source == packet.destination);
        let packets: Vec<Packet> = packets.iter().filter(|packet| !reply(packet)).copied().collect();
        let sent: Vec<(u32, Packet)> = packets.into_iter().map(|packet| (lab.traffic.send(&packet), packet)).collect();
        let arrived = lab.traffic.arrived(Duration::from_millis(8));
        for (number, packet) in sent {
            let expected = allowed(&policy, &packet);
            if arrived.contains(&number) != expected {
                // A scheduler's hiccup is no verdict: once more, alone.
                lab.forget_connections();
                let again = lab.traffic.send(&packet);
                let passes = lab.traffic.arrived(Duration::from_millis(200)).contains(&again);
                let listing = lab.host.run("nft list table inet lasthop 2>&1").1;
                assert_eq!(
                    passes,
                    expected,
                    "seed {seed} round {round}: {packet:?}: {:?}\n{policy:#?}\n{listing}",
                    explain(&policy, &packet)
                );
            }
            passed += usize::from(expected);
            probes += 1;
        }
        if round % 20 == 7 {
            lab.host.enter(|| {
                let mut again = Nft::open().expect("sockets");
                again.read_back().expect("read back");
                ready(&mut again);
                assert_eq!(again.sync_policy(&policy, PolicyScope::All).writes, 0, "a restart writes nothing");
            });
        }
    }
    println!("{probes} packets, {passed} allowed");
    assert!(passed * 10 > probes && passed * 10 < probes * 9, "{passed} of {probes}: both kinds are tried");
}

/// What a policy says of one packet, as four words: programs that allow or deny UDP to some ports, in many shapes.
fn edited(random: &mut Random) -> HostPolicy {
    let rule = |action, destination: Side| Rule {
        action,
        family: None,
        protocol: Some(17),
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: Side::default(),
        destination,
    };
    let to =
        |ports: Vec<PortRange>| Side { ports: Some(Ports { ranges: ports, sets: BTreeSet::new() }), ..Side::default() };
    let noise = |random: &mut Random| {
        let ports = (0..=random.below(3))
            .map(|_| 20_000 + u16::try_from(random.below(1000)).expect("small"))
            .collect::<BTreeSet<u16>>();
        rule(
            random.pick(&[Action::Allow, Action::Deny, Action::Pass]),
            to(ports.into_iter().map(PortRange::one).collect()),
        )
    };
    let set = SetId(Digest::of(&7));
    let other = SetId(Digest::of(&random.below(3)));
    let key = |text: &str| Key { kind: Kind::NetworkPolicy, namespace: Some("ns".into()), name: text.into() };
    // The same policies as before with other rules, or others.
    let named = format!("edit-{}", random.below(2));
    let program = |direction, rules| Program {
        owner: Owner::Policy { tier: "t".into(), key: key(&named) },
        direction,
        force: Force::Enforced,
        rules,
    };
    // Port 1 is always allowed, by one of three ways; port 2 is never.
    let allow = match random.below(3) {
        0 => rule(Action::Allow, to(vec![PortRange::one(1)])),
        1 => rule(Action::Allow, Side { within: BTreeSet::from([set]), ..to(vec![PortRange::one(1)]) }),
        _ => rule(Action::Allow, to(vec![PortRange::one(1), PortRange::one(9)])),
    };
    let mut rules: Vec<Rule> = (0..random.below(4)).map(|_| noise(random)).collect();
    rules.push(allow);
    rules.extend((0..random.below(4)).map(|_| noise(random)));
    if random.one_in(2) {
        rules.push(rule(Action::Allow, Side { within: BTreeSet::from([other]), ..to(vec![PortRange::one(7)]) }));
    }
    let mut policy = HostPolicy {
        deny: random.pick(&[DenyAction::Drop, DenyAction::Drop, DenyAction::Drop, DenyAction::Reject]),
        ..HostPolicy::default()
    };
    let mut held = members(random, SetKind::Addresses);
    held.extend([DESTINATIONS[0], DESTINATIONS[3]].map(|text| Member::Net(Prefix::host(address(text)))));
    policy.sets.insert(set, Set { kind: random.pick(&[SetKind::Addresses, SetKind::Nets]), members: held });
    policy.sets.entry(other).or_insert(Set { kind: SetKind::Nets, members: members(random, SetKind::Nets) });
    let mut stack = |direction, rules: Vec<Rule>| {
        let program = program(direction, rules);
        let id = program.id();
        policy.programs.insert(id, Arc::new(program));
        let step = Step { name: StepName::Tier("t".into()), programs: vec![id], otherwise: TierDefault::Deny };
        let stack = Stack { steps: vec![step], end: End::Deny };
        let id = stack.id();
        policy.stacks.insert(id, Arc::new(stack));
        id
    };
    let from = stack(Direction::Egress, rules.clone());
    let to = stack(Direction::Ingress, rules);
    policy.workloads =
        BTreeMap::from([(name(FROM), WorkloadPolicy { from, to: from }), (name(TO), WorkloadPolicy { from: to, to })]);
    policy
}

/// What changed from one policy to another, as it is told to a pass.
fn difference(old: &HostPolicy, new: &HostPolicy) -> PolicyChanges {
    fn keys<K: Ord + Copy, V: PartialEq>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> BTreeSet<K> {
        old.keys().chain(new.keys()).filter(|key| old.get(key) != new.get(key)).copied().collect()
    }
    let links = old.workloads.keys().chain(new.workloads.keys());
    let kinds = |policy: &HostPolicy| policy.sets.iter().map(|(id, set)| (*id, set.kind)).collect::<BTreeMap<_, _>>();
    let sets = keys(&kinds(old), &kinds(new));
    let held = |policy: &HostPolicy| -> BTreeSet<(SetId, Member)> {
        let staying = policy.sets.iter().filter(|(id, _)| !sets.contains(id));
        staying.flat_map(|(id, set)| set.members.iter().map(|member| (*id, *member))).collect()
    };
    PolicyChanges {
        programs: keys(&old.programs, &new.programs),
        stacks: keys(&old.stacks, &new.stacks),
        members: held(old).symmetric_difference(&held(new)).copied().collect(),
        sets,
        workloads: links.filter(|name| old.workloads.get(name) != new.workloads.get(name)).cloned().collect(),
        host: old.deny != new.deny || old.log != new.log,
    }
}

/// Two hundred edits while new flows come one after the other: none that is allowed all the time is lost, none that is denied
/// all the time passes. Restarts of ours are among what happens meanwhile.
#[test]
fn edits_under_traffic_lose_nothing_and_leak_nothing() {
    let lab = Lab::new();
    let mut nft = lab.open();
    let mut random = Random(5);
    let mut policy = edited(&mut random);
    all_done(&nft.sync_policy(&policy, PolicyScope::All));
    let stop = AtomicBool::new(false);
    let Lab { host, mut traffic } = lab;
    let mut writes = 0;
    let (allowed, denied, arrived) = std::thread::scope(|scope| {
        // The sender also stops if an edit fails.
        let _stop = Stop(&stop);
        let sender = scope.spawn(|| flows(&mut traffic, &stop));
        for edit in 1..=200 {
            let next = edited(&mut random);
            let changes = difference(&policy, &next);
            policy = next;
            let outcome = if edit % 40 == 0 {
                nft = host.enter(|| Nft::open().expect("sockets"));
                nft.read_back().expect("read back");
                ready(&mut nft);
                nft.sync_policy(&policy, PolicyScope::All)
            } else {
                nft.sync_policy(&policy, PolicyScope::Changed(&changes))
            };
            all_done(&outcome);
            writes += outcome.writes;
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
        sender.join().expect("the sender ends")
    });
    let lost: Vec<&u32> = allowed.difference(&arrived).collect();
    let leaked: Vec<&u32> = denied.intersection(&arrived).collect();
    println!("200 edits, {writes} writes: {} allowed flows, {} denied", allowed.len(), denied.len());
    assert!(allowed.len() > 1_000 && writes > 400);
    assert_eq!((lost.len(), leaked.len()), (0, 0), "lost {lost:?}, leaked {leaked:?}");
    let mut again = host.enter(|| Nft::open().expect("sockets"));
    again.read_back().expect("read back");
    ready(&mut again);
    assert_eq!(again.sync_policy(&policy, PolicyScope::All).writes, 0, "what the edits led to is what is right");
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// New flows, one after the other, until told to stop: the allowed, the denied, and what arrived.
fn flows(traffic: &mut Traffic, stop: &AtomicBool) -> (BTreeSet<u32>, BTreeSet<u32>, BTreeSet<u32>) {
    let (mut allowed, mut denied, mut arrived) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut port = 1024;
    while !stop.load(Ordering::Relaxed) {
        for family in [0, 3] {
            for (destination, sent) in [(1, &mut allowed), (2, &mut denied)] {
                let transport = Transport::of(17, port, destination);
                let (source, destination) = (address(SOURCES[family]), address(DESTINATIONS[family]));
                sent.insert(traffic.send(&Packet { source, destination, transport }));
            }
        }
        port = if port == 65_535 { 1024 } else { port + 1 };
        arrived.extend(traffic.arrived(Duration::from_micros(100)));
    }
    arrived.extend(traffic.arrived(Duration::from_millis(500)));
    (allowed, denied, arrived)
}

/// A program that the kernel refuses closes the links that need it and no others; what names it is told.
#[test]
fn what_the_kernel_refuses_closes_what_needs_it_and_nothing_else() {
    let mut lab = Lab::new();
    let mut nft = lab.open();
    let mut random = Random(9);
    let good = edited(&mut random);
    let mut both = good.clone();
    // Somebody else's set by the name of ours, of another type.
    let taken = SetId(Digest::of(&4_711));
    let members = BTreeSet::from([Member::Net(Prefix::host(address("192.0.2.9")))]);
    both.sets.insert(taken, Set { kind: SetKind::Addresses, members });
    lab.host.sh(&format!("nft add set inet lasthop hosts4-{} '{{ type inet_service; }}'", taken.0));
    nft.read_back().expect("read back");
    let bad = Program {
        owner: Owner::Profile("bad".into()),
        direction: Direction::Egress,
        force: Force::Enforced,
        rules: vec![Rule {
            action: Action::Allow,
            family: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: Side { not_within: BTreeSet::from([taken]), ..Side::default() },
            destination: Side::default(),
        }],
    };
    let step = Step { name: StepName::Profiles, programs: vec![bad.id()], otherwise: TierDefault::Deny };
    let stack = Stack { steps: vec![step], end: End::Deny };
    both.programs.insert(bad.id(), Arc::new(bad));
    both.workloads.insert(name("lhbad"), WorkloadPolicy { from: stack.id(), to: stack.id() });
    both.stacks.insert(stack.id(), Arc::new(stack));
    let outcome = nft.sync_policy(&both, PolicyScope::All);
    let bad_link = PolicyKey::Link(name("lhbad"));
    assert!(outcome.failed.contains_key(&bad_link), "{outcome:?}");
    assert!(
        outcome.failed.keys().any(|key| matches!(key, PolicyKey::Part(name) if name.starts_with("program-"))),
        "{outcome:?}"
    );
    for link in [FROM, TO] {
        assert!(outcome.done.contains(&PolicyKey::Link(name(link))), "{outcome:?}");
    }
    println!("{}", outcome.failed[&bad_link]);
    let packet = |port| Packet {
        source: address(SOURCES[0]),
        destination: address(DESTINATIONS[0]),
        transport: Transport::of(17, 7, port),
    };
    let (passes, fails) = (lab.traffic.send(&packet(1)), lab.traffic.send(&packet(2)));
    let arrived = lab.traffic.arrived(Duration::from_millis(200));
    assert!(arrived.contains(&passes) && !arrived.contains(&fails));
    // A link that had a good stack and is to get the bad one is closed, too.
    let bad_stack = both.workloads[&name("lhbad")].from;
    both.workloads.insert(name(FROM), WorkloadPolicy { from: bad_stack, to: bad_stack });
    let changes = PolicyChanges { workloads: BTreeSet::from([name(FROM)]), ..PolicyChanges::default() };
    assert!(nft.sync_policy(&both, PolicyScope::Changed(&changes)).failed.contains_key(&PolicyKey::Link(name(FROM))));
    lab.forget_connections();
    let number = lab.traffic.send(&packet(1));
    assert!(!lab.traffic.arrived(Duration::from_millis(200)).contains(&number), "closed");
    lab.host.sh(&format!("nft delete set inet lasthop hosts4-{}", taken.0));
    nft.read_back().expect("read back");
    all_done(&nft.sync_policy(&good, PolicyScope::All));
    let number = lab.traffic.send(&packet(1));
    assert!(lab.traffic.arrived(Duration::from_millis(200)).contains(&number), "open again");
}

/// Each rule counts what it decides, and what is denied is told with what denied it.
#[test]
fn rules_count_and_denied_packets_are_told() {
    let mut lab = Lab::new();
    let mut nft = lab.open();
    let policy = edited(&mut Random(3));
    all_done(&nft.sync_policy(&policy, PolicyScope::All));
    let mut drops = lab.host.enter(|| Drops::open().expect("a socket"));
    let packet = Packet {
        source: address(SOURCES[3]),
        destination: address(DESTINATIONS[3]),
        transport: Transport::of(17, 7, 2),
    };
    for _ in 0..5 {
        lab.traffic.send(&packet);
    }
    lab.traffic.send(&Packet { transport: Transport::of(17, 7, 1), ..packet });
    assert_eq!(lab.traffic.arrived(Duration::from_millis(200)).len(), 1);
    let counters = nft.policy_counters().expect("counters");
    assert_eq!(counters.get(&Decider::Tier("t".into())).map(|(packets, _)| *packets), Some(5), "{counters:?}");
    let by_rules: u64 =
        counters.iter().filter(|(by, _)| matches!(by, Decider::Rule(..))).map(|(_, (packets, _))| packets).sum();
    assert_eq!(by_rules, 2, "one rule of each link's stack allowed the other: {counters:?}");
    let denied = drops.receive().expect("no overrun");
    assert_eq!(denied.len(), 5, "{denied:?}");
    for denied in denied {
        assert_eq!((denied.by, denied.packet), (Decider::Tier("t".into()), Some(packet)));
        assert!(denied.from_link.is_some());
    }
    // A flood is counted whole and told in part.
    for _ in 0..200 {
        lab.traffic.send(&packet);
    }
    assert_eq!(lab.traffic.arrived(Duration::from_millis(200)).len(), 0);
    let counters = nft.policy_counters().expect("counters");
    assert_eq!(counters.get(&Decider::Tier("t".into())).map(|(packets, _)| *packets), Some(205), "{counters:?}");
    let told = drops.receive().expect("no overrun").len();
    assert!((1..150).contains(&told), "{told} of 200 are told");
}

/// The policy `watch` of tier `ops`, of one rule, is all that the sender's link has.
fn watch(policy: &mut HostPolicy, rule: Rule) {
    let key = Key { kind: Kind::GlobalNetworkPolicy, namespace: None, name: "watch".into() };
    let owner = Owner::Policy { tier: "ops".into(), key };
    let program = Program { owner, direction: Direction::Egress, force: Force::Enforced, rules: vec![rule] };
    let step = Step { name: StepName::Tier("ops".into()), programs: vec![program.id()], otherwise: TierDefault::Pass };
    let stack = Stack { steps: vec![step], end: End::GoOn };
    policy.workloads.insert(name(FROM), WorkloadPolicy { from: stack.id(), to: stack.id() });
    policy.programs.insert(program.id(), Arc::new(program));
    policy.stacks.insert(stack.id(), Arc::new(stack));
}

#[test]
fn log_rules_note_as_settings_say() {
    let lab = Lab::new();
    let mut nft = lab.open();
    let mut policy = edited(&mut Random(3));
    let log = Rule { action: Action::Log, ..policy.programs.values().next().expect("a program").rules[0].clone() };
    watch(&mut policy, log);
    all_done(&nft.sync_policy(&policy, PolicyScope::All));
    for (log, listed) in [
        (logging(None, 5), "counter packets 0 bytes 0 log prefix \"seen by ops gnp/watch: \""),
        (logging(Some((10, 60)), 7), "limit rate 10/minute burst 7 packets log prefix \"seen by ops gnp/watch: \""),
        (logging(Some((1, 86_400)), 1), "limit rate 1/day burst 1 packets log prefix"),
    ] {
        policy.log = log;
        let changes = PolicyChanges { host: true, ..PolicyChanges::default() };
        all_done(&nft.sync_policy(&policy, PolicyScope::Changed(&changes)));
        // Some versions of nft end badly at a rule further down.
        let listing = lab.host.run("nft list table inet lasthop 2>&1; true").1;
        assert!(listing.contains(listed), "{listed}: {listing}");
        nft.read_back().expect("read back");
        ready(&mut nft);
        assert_eq!(nft.sync_policy(&policy, PolicyScope::All).writes, 0, "{listed}");
    }
}

#[test]
fn what_others_did_is_told_in_the_words_of_policy() {
    let lab = Lab::new();
    let mut nft = lab.open();
    let mut policy = edited(&mut Random(3));
    // Whatever the random policy is: one that asks a set of addresses.
    let id = SetId(Digest::of(&"drift"));
    let members = ["192.0.2.1", "192.0.2.2"].map(|text| Member::Net(Prefix::host(address(text))));
    policy.sets.insert(id, Set { kind: SetKind::Addresses, members: members.into() });
    let mut rule = policy.programs.values().next().expect("a program").rules[0].clone();
    (rule.action, rule.source.within) = (Action::Deny, BTreeSet::from([id]));
    watch(&mut policy, rule);
    all_done(&nft.sync_policy(&policy, PolicyScope::All));
    let mut repaired = |tampering: &str| {
        lab.host.sh(tampering);
        nft.read_back().expect("read back");
        ready(&mut nft);
        let outcome = nft.sync_policy(&policy, PolicyScope::All);
        all_done(&outcome);
        let told = nft.take_repairs().into_iter();
        let told: Vec<String> = told.map(|repair| format!("{}: {}", repair.of, repair.what)).collect();
        assert_eq!(told.is_empty(), outcome.writes == 0, "{told:?} {outcome:?}");
        told.join("\n")
    };
    assert_eq!(repaired("true"), "");
    // The first set of addresses in IPv4 that holds one of ours; chains whose rules name the policy.
    let set = "s=$(for n in $(nft list sets inet | grep -o 'hosts4-[0-9a-f]*'); do nft list set inet lasthop $n | grep -q 192.0.2.1 && echo $n; done | head -1)";
    let told = repaired(&format!(
        "{set}; nft delete element inet lasthop $s '{{ 192.0.2.1 }}'; nft add element inet lasthop $s '{{ 192.0.2.7, 192.0.2.8 }}'"
    ));
    assert!(told.starts_with("a set of GlobalNetworkPolicy/watch tier ops: hosts4-"), "{told}");
    assert!(told.ends_with("1 members were missing and 2 were none of ours; put right"), "{told}");
    let chain = "c=$(nft list table inet lasthop 2>/dev/null | awk '/chain program-/{c=$2} /GlobalNetworkPolicy.watch/{if (c ~ /^program/) print c} /}/{c=\"\"}' | head -1)";
    let told = repaired(&format!("{chain}; nft flush chain inet lasthop $c"));
    assert!(told.starts_with("GlobalNetworkPolicy/watch tier ops: chain program-"), "{told}");
    assert!(told.ends_with("had been changed; put right"), "{told}");
    let told = repaired(&format!("nft delete element inet lasthop from_stack '{{ \"{FROM}\" }}'"));
    assert_eq!(told, format!("policy of link {FROM}: the entry for what it sends had been deleted; made again"));
    let told = repaired("nft delete table inet lasthop");
    assert_eq!(told, "all policy: was gone from the table; made again");
    assert_eq!(repaired("true"), "");
}

/// The table as an earlier version made it: one base chain, maps from names to verdicts.
const EARLIER: &str = "
table inet lasthop {
  map from_endpoint { type ifname : verdict; elements = { \"lha\" : return, \"lhb\" : return }; }
  map to_endpoint { type ifname : verdict; elements = { \"lha\" : accept, \"lhb\" : accept }; }
  chain judge_from { iifname vmap @from_endpoint comment \"judge\"; counter drop comment \"no-policy-from\"; }
  chain from_workload { ct state invalid counter drop comment \"invalid\"; goto judge_from comment \"judge\"; }
  chain to_workload { ct state invalid counter drop comment \"invalid\"; oifname vmap @to_endpoint comment \"judge\"; counter drop comment \"no-policy-to\"; }
  chain forward { type filter hook forward priority 0; ct state established,related accept comment \"established\"; iifname \"lh*\" jump from_workload comment \"from lh\"; oifname \"lh*\" jump to_workload comment \"to lh\"; }
}";

/// An upgrade from a table of an earlier shape, under traffic: what both allow is never lost.
#[test]
fn an_upgrade_of_the_skeleton_loses_nothing() {
    let Lab { host, mut traffic } = Lab::new();
    let policy = edited(&mut Random(5));
    for round in 0..10 {
        host.run("nft delete table inet lasthop");
        host.sh(&format!("nft -f - <<'EOF'{EARLIER}\nEOF"));
        let stop = AtomicBool::new(false);
        let (allowed, denied, arrived) = std::thread::scope(|scope| {
            let _stop = Stop(&stop);
            let sender = scope.spawn(|| flows(&mut traffic, &stop));
            std::thread::sleep(Duration::from_millis(20));
            let mut nft = host.enter(|| Nft::open().expect("sockets"));
            nft.read_back().expect("read back");
            ready(&mut nft);
            std::thread::sleep(Duration::from_millis(20));
            all_done(&nft.sync_policy(&policy, PolicyScope::All));
            std::thread::sleep(Duration::from_millis(20));
            stop.store(true, Ordering::Relaxed);
            sender.join().expect("the sender ends")
        });
        let lost = allowed.difference(&arrived).count();
        assert_eq!(lost, 0, "round {round}: of {} flows", allowed.len());
        assert!(!arrived.is_superset(&denied), "the new policy is in force at the end");
        let listing = host.run("nft list table inet lasthop 2>/dev/null").1;
        assert!(listing.contains("stack-") && !listing.contains("from_endpoint"), "{listing}");
    }
}

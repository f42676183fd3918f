//! Random policies and packets: the iptables dataplane judges as the evaluator does. And updates under traffic.

mod netns;
mod probes;
mod tables;

use lasthop_kernel::conntrack;
use lasthop_kernel::iptables::Backend;
use lasthop_net::{Family, Prefix};
use lasthop_policy::decide::{Packet, Transport, Verdict, decide};
use lasthop_policy::ir::*;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tables::*;

/// A plain generator, so that a failing policy is found again by its number (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, all: &[T]) -> T {
        let at = self.below(all.len() as u64);
        all[usize::try_from(at).expect("small")].clone()
    }

    fn some<T: Clone + Ord>(&mut self, all: &[T], most: u64) -> BTreeSet<T> {
        (0..self.below(most + 1)).map(|_| self.pick(all)).collect()
    }
}

const SETS: [u8; 5] = [1, 2, 3, 4, 5];

fn kind(set: u8) -> SetKind {
    [SetKind::Addresses, SetKind::Nets, SetKind::Nets, SetKind::Ports, SetKind::Ports][usize::from(set) - 1]
}

fn prefixes() -> Vec<Prefix> {
    let texts = [
        "10.65.0.1/32",
        "10.65.0.2/32",
        "10.65.0.2/31",
        "10.65.0.0/16",
        "0.0.0.0/0",
        "192.0.2.0/24",
        "fd00:65::1/128",
        "fd00:65::3/128",
        "fd00:65::2/127",
        "fd00:65::/64",
        "::/0",
        "2001:db8::/32",
    ];
    texts.iter().map(|text| text.parse().expect("a prefix")).collect()
}

/// Prefixes none of which lies in another, as the form demands.
fn canonical(nets: BTreeSet<Prefix>) -> BTreeSet<Prefix> {
    nets.iter().filter(|net| !nets.iter().any(|other| other != *net && other.covers(**net))).copied().collect()
}

fn members(random: &mut Random, kind: SetKind) -> BTreeSet<Member> {
    let hosts: Vec<IpAddr> = Family::ALL.into_iter().flat_map(|f| (1..=3).map(move |n| address(f, n))).collect();
    match kind {
        SetKind::Addresses => random.some(&hosts, 4).into_iter().map(|a| Member::Net(Prefix::host(a))).collect(),
        SetKind::Nets => random.some(&prefixes(), 3).into_iter().map(Member::Net).collect(),
        SetKind::Ports => (0..random.below(6))
            .map(|_| Member::Port(random.pick(&hosts), random.pick(&[6, 17, 132, 136]), random.pick(&[1, 2, 3, 101])))
            .collect(),
    }
}

fn some_ports(random: &mut Random, around: u16) -> Ports {
    let mut ranges = Vec::new();
    for port in around..around + 4 {
        // Ascending, disjoint and not adjacent.
        if random.one_in(3) && ranges.last().is_none_or(|last: &PortRange| *last.bounds().end() + 1 < port) {
            ranges.push(PortRange::new(port, port + u16::try_from(random.below(2)).expect("small")).expect("a range"));
        }
    }
    if random.one_in(4) {
        ranges.extend((0..20).map(|n| PortRange::new(5000 + n * 3, 5001 + n * 3).expect("a range")));
    }
    Ports { ranges, sets: random.some(&[digest(4), digest(5)], 1) }
}

fn side(random: &mut Random, around: u16) -> Side {
    let sets = [digest(1), digest(2), digest(3)];
    let mut side = Side::default();
    if random.one_in(7) {
        side.nets = Some(canonical(random.some(&prefixes(), 4)));
    }
    if random.one_in(5) {
        side.not_nets = canonical(random.some(&prefixes()[..10], 2).into_iter().filter(|p| p.len() > 0).collect());
    }
    if random.one_in(5) {
        side.within = random.some(&sets, 2);
    }
    if random.one_in(5) {
        side.not_within = random.some(&sets, 2);
    }
    if random.one_in(7) {
        side.ports = Some(some_ports(random, around));
    }
    if random.one_in(5) {
        side.not_ports = Some(some_ports(random, around));
    }
    side
}

fn random_rule(random: &mut Random) -> Rule {
    let mut made = rule(random.pick(&[Action::Allow, Action::Allow, Action::Deny, Action::Pass, Action::Log]));
    if random.one_in(6) {
        made.family = Some(random.pick(&Family::ALL));
    }
    if random.one_in(3) {
        made.protocol = Some(random.pick(&[6, 17, 132, 136, 200]));
    } else if random.one_in(4) {
        made.not_protocol = Some(random.pick(&[6, 17, 1, 58]));
    } else if random.one_in(4) {
        let (family, protocol, kind) = random.pick(&[(Family::V4, 1, 8), (Family::V6, 58, 128), (Family::V4, 1, 13)]);
        made.family = Some(family);
        made.protocol = Some(protocol);
        let icmp = Some(Icmp { kind, code: random.pick(&[None, Some(0), Some(1)]) });
        if random.one_in(2) { made.icmp = icmp } else { made.not_icmp = icmp }
    }
    made.source = side(random, 101);
    made.destination = side(random, 1);
    made
}

fn random_policy(random: &mut Random) -> HostPolicy {
    let mut made = Made::default();
    for set in SETS {
        let members = members(random, kind(set));
        made.0.sets.insert(digest(set), Set { kind: kind(set), members });
    }
    let mut stack = |random: &mut Random, direction| {
        let mut steps = Vec::new();
        for step in 0..1 + random.below(3) {
            let mut programs = Vec::new();
            for program in 0..1 + random.below(3) {
                let force = if random.one_in(5) { Force::Staged } else { Force::Enforced };
                let rules = (0..random.below(5)).map(|_| random_rule(random)).collect();
                programs.push(made.program((&format!("{step}.{program}"), direction, force), rules));
            }
            steps.push((programs, random.pick(&[TierDefault::Deny, TierDefault::Pass, TierDefault::Pass])));
        }
        let end = random.pick(&[End::Deny, End::GoOn, End::GoOn]);
        made.stack(steps, end)
    };
    let stacks: Vec<_> =
        (1..=3u8).map(|number| (number, stack(random, Direction::Egress), stack(random, Direction::Ingress))).collect();
    for (number, from, to) in stacks {
        // What one sends is mostly free, or hardly anything would get as far as the other's policy.
        let from = if random.one_in(3) { from } else { made.open() };
        made.workload(number, from, to);
    }
    made.0.stacks.retain(|id, _| made.0.workloads.values().any(|w| w.from == *id || w.to == *id));
    let steps = made.0.stacks.values().flat_map(|stack| &stack.steps);
    let used: BTreeSet<ProgramId> = steps.flat_map(|step| step.programs.iter().copied()).collect();
    made.0.programs.retain(|id, _| used.contains(id));
    made.0
}

/// What one workload sends another: protocols, ports and types that rules speak of and some that they do not.
fn flows(from: u8, to: u8, family: Family) -> Vec<Probe> {
    let ports = |protocol: u8| [(101, 1), (102, 2), (103, 3), (104, 4), (102, 5001)].map(|(a, b)| (protocol, a, b));
    let mut all: Vec<Probe> = [6, 17, 132, 136].into_iter().flat_map(ports).collect();
    match family {
        Family::V4 => all.extend([(1, 8, 0), (1, 8, 1), (1, 13, 0)]),
        Family::V6 => all.extend([(58, 128, 0), (58, 128, 1)]),
    }
    if from < to {
        all.push((200, 0, 0));
    }
    all
}

fn transport((protocol, from, to): Probe) -> Transport {
    match protocol {
        1 | 58 => Transport::Icmp { protocol, kind: from.to_be_bytes()[1], code: to.to_be_bytes()[1] },
        other => Transport::of(other, from, to),
    }
}

#[test]
fn kernel_and_evaluator_agree() {
    let world = World::new();
    let everybody: BTreeSet<IpAddr> =
        Family::ALL.into_iter().flat_map(|family| (1..=3).map(move |n| address(family, n))).collect();
    for (backend, seeds) in [(Backend::Legacy, 1..=12), (Backend::Nft, 101..=112)] {
        let mut iptables = driver(&world, backend, &random_policy(&mut Random(1)));
        let mut allowed = 0;
        let mut judged = 0;
        for seed in seeds {
            let policy = random_policy(&mut Random(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15)));
            apply(&world, &mut iptables, &policy);
            world.host.enter(|| conntrack::delete_for(&everybody)).expect("connections are forgotten");
            for (from, to) in [(1, 2), (2, 1), (1, 3), (3, 2)] {
                for family in Family::ALL {
                    let flows = flows(from, to, family);
                    let seen = world.between((from, to), family, &flows);
                    for (flow, seen) in flows.iter().zip(seen) {
                        let (source, destination) = (address(family, from), address(family, to));
                        let packet = Packet { source, destination, transport: transport(*flow) };
                        let at = |number: u8| policy.workloads[&name(&format!("lhw{number}"))];
                        let verdicts = [at(from).from, at(to).to]
                            .map(|stack| decide(&policy.stacks[&stack], &policy, &packet).verdict != Verdict::Deny);
                        let expected = verdicts == [true, true];
                        assert_eq!(seen, expected, "seed {seed}, {backend:?}: {packet:?} {from}->{to} {verdicts:?}");
                        allowed += usize::from(seen);
                        judged += 1;
                    }
                }
            }
        }
        assert!(allowed * 4 > judged && allowed * 4 < judged * 3, "both happen: {allowed} of {judged}");
        world.host.enter(|| iptables.remove_all()).expect("removed");
    }
}

/// While policy goes back and forth, with members that move from one set to another, no first packet of a flow that both
/// policies allow is lost, and none that both deny passes.
#[test]
fn an_update_loses_nothing_and_leaks_nothing() {
    let world = World::new();
    let one = |id, port| Rule {
        protocol: Some(17),
        source: Side { within: [id].into(), ..Side::default() },
        destination: Side { ports: ports(&[(port, port)]), ..Side::default() },
        ..rule(Action::Allow)
    };
    let policy = |turn: bool| {
        let mut made = Made::default();
        for (set, there) in [(1, turn), (2, !turn), (3, true), (4, turn), (5, !turn)] {
            // Workload 1 is in sets 1 and 4, or in 2 and 5; set 3 is of others whose number changes.
            let mut members: BTreeSet<Member> =
                (0..50).map(|n| Member::Net(Prefix::host(IpAddr::from([10, 9, set, n])))).collect();
            if set != 3 && there {
                members.insert(Member::Net(Prefix::host(address(Family::V4, 1))));
            } else if turn {
                members.clear();
            }
            made.0.sets.insert(digest(set), Set { kind: SetKind::Addresses, members });
        }
        let first =
            made.program(("first", Direction::Ingress, Force::Enforced), vec![one(digest(1), 1), one(digest(3), 2)]);
        let second = made.program(("second", Direction::Ingress, Force::Enforced), vec![one(digest(2), 1)]);
        let other = Rule { protocol: Some(6), ..rule(if turn { Action::Allow } else { Action::Deny }) };
        let third = made.program(("third", Direction::Ingress, Force::Enforced), vec![other]);
        // A rule that comes and goes, and always asks the set that the workload is not in.
        let never = digest(if turn { 5 } else { 4 });
        let fourth = made.program(("fourth", Direction::Ingress, Force::Enforced), vec![one(never, 2)]);
        let order = if turn { vec![first, third, second, fourth] } else { vec![fourth, second, first, third] };
        let stack = made.stack(vec![(order, TierDefault::Deny)], End::Deny);
        made.before_second(stack)
    };
    for backend in [Backend::Legacy, Backend::Nft] {
        let mut iptables = driver(&world, backend, &policy(true));
        let stop = AtomicBool::new(false);
        let (sent, passed) = std::thread::scope(|scope| {
            let traffic = scope.spawn(|| traffic(&world, &stop));
            for turn in 0..40 {
                apply(&world, &mut iptables, &policy(turn % 2 == 1));
            }
            stop.store(true, Ordering::Relaxed);
            traffic.join().expect("traffic")
        });
        assert!(sent > 300, "{sent} packets");
        let lost = (0..sent).filter(|n| !passed.contains(&(2 * n))).count();
        let leaked = passed.iter().filter(|n| *n % 2 == 1).count();
        assert_eq!((lost, leaked), (0, 0), "of {sent}, {backend:?}");
        world.host.enter(|| iptables.remove_all()).expect("removed");
    }
}

/// New flows all the time: even numbers to a port that is allowed, odd ones to one that is not. How many, and what passed.
fn traffic(world: &World, stop: &AtomicBool) -> (u32, BTreeSet<u32>) {
    let sender = world.guest(1).enter(|| probes::raw(true, 17));
    let receiver = world.guest(2).enter(|| probes::raw(true, 17));
    let (mut sent, mut passed, mut frame) = (0u32, BTreeSet::new(), [0; 256]);
    let mut receive = |passed: &mut BTreeSet<u32>| {
        while let Ok(length) = nix::unistd::read(&receiver, &mut frame) {
            passed.insert(u32::from_be_bytes(frame[length - 4..length].try_into().expect("four bytes")));
        }
    };
    while !stop.load(Ordering::Relaxed) {
        for (cookie, port) in [(2 * sent, 1), (2 * sent + 1, 2)] {
            let from = 10_000 + u16::try_from(sent % 50_000).expect("small");
            let (source, destination) = (address(Family::V4, 1), address(Family::V4, 2));
            let packet = probes::Packet { source, destination, protocol: 17, from, to: port };
            probes::send(&sender, &packet, &probes::transport(&packet, cookie));
        }
        sent += 1;
        std::thread::sleep(Duration::from_micros(500));
        receive(&mut passed);
    }
    std::thread::sleep(Duration::from_millis(100));
    receive(&mut passed);
    (sent, passed)
}

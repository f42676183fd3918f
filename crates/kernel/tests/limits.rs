//! Rules that are larger than one rule of nftables or one line of iptables may be: they are in force as they are meant, in
//! nftables and with both backends of iptables. And many changes at once of which one cannot be programmed.

mod netns;
mod probes;
mod tables;

use lasthop_compute::EndpointToHost;
use lasthop_kernel::conntrack;
use lasthop_kernel::iptables::{Backend, Config, Iptables};
use lasthop_kernel::nft::{Nft, PolicyKey, PolicyScope};
use lasthop_kernel::reconcile::{Outcome, Scope};
use lasthop_model::Kind;
use lasthop_net::{Family, Prefix};
use lasthop_policy::decide::{Packet, Transport, Verdict, decide};
use lasthop_policy::ir::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use tables::*;

/// A dataplane with guard and sources in place.
enum Plane {
    Nft(Box<Nft>),
    Iptables(Box<Iptables>),
}

const PLANES: [Option<Backend>; 3] = [None, Some(Backend::Legacy), Some(Backend::Nft)];

impl Plane {
    fn open(world: &World, backend: Option<Backend>, capacity: Option<usize>) -> Self {
        let guard = guard(EndpointToHost::Drop);
        world.host.enter(|| match backend {
            None => {
                let mut nft = Nft::open().expect("sockets");
                nft.read_back().expect("read back");
                nft.sync_skeleton(&guard, &nat()).expect("the skeleton");
                assert!(nft.sync_sources(&sources(), Scope::All).failed.is_empty());
                Self::Nft(Box::new(nft))
            }
            Some(backend) => {
                let mut config = Config::find(backend).expect("iptables and ipset are installed");
                config.capacity = capacity.unwrap_or(config.capacity);
                let mut iptables = Iptables::new(config);
                iptables.read_back().expect("read back");
                iptables.sync_skeleton(&guard, &nat()).expect("the skeleton");
                assert!(iptables.sync_sources(&sources(), Scope::All).failed.is_empty());
                Self::Iptables(Box::new(iptables))
            }
        })
    }

    fn sync(&mut self, world: &World, policy: &HostPolicy, scope: PolicyScope<'_>) -> Outcome<PolicyKey> {
        world.host.enter(|| match self {
            Self::Nft(nft) => nft.sync_policy(policy, scope),
            Self::Iptables(iptables) => iptables.sync_policy(policy, scope),
        })
    }

    fn remove(&mut self, world: &World) {
        world
            .host
            .enter(|| match self {
                Self::Nft(nft) => nft.remove_all(),
                Self::Iptables(iptables) => iptables.remove_all(),
            })
            .expect("removed");
    }
}

fn id(number: usize) -> SetId {
    SetId(Digest::of(&("limits", number)))
}

/// Sets `0..count` hold everybody, `1000..` nobody, `2000..` named ports: number n the port n of TCP.
fn all_sets() -> BTreeMap<SetId, Set> {
    let everybody: BTreeSet<Member> = Family::ALL
        .into_iter()
        .flat_map(|family| (1..=3).map(move |number| Member::Net(Prefix::host(address(family, number)))))
        .collect();
    let one: BTreeSet<Member> =
        Family::ALL.map(|family| Member::Net(Prefix::host(address(family, 1)))).into_iter().collect();
    let port = |number: u16| -> BTreeSet<Member> {
        let of = |family| (1..=3).map(move |workload| Member::Port(address(family, workload), 6, number));
        Family::ALL.into_iter().flat_map(of).collect()
    };
    let set = |kind, members| Set { kind, members };
    let mut sets = BTreeMap::new();
    for number in 0..150 {
        sets.insert(id(number), set(SetKind::Addresses, everybody.clone()));
        sets.insert(id(1000 + number), set(SetKind::Nets, BTreeSet::new()));
        sets.insert(id(2000 + number), set(SetKind::Ports, port(u16::try_from(number).expect("small"))));
    }
    // What is asked last decides: only workload 1 is in this one.
    sets.insert(id(5000), set(SetKind::Addresses, one));
    sets
}

fn ids(range: std::ops::Range<usize>) -> BTreeSet<SetId> {
    range.map(id).collect()
}

/// What is said, how the program is meant, and its rules.
fn cases() -> Vec<(&'static str, Force, Vec<Rule>)> {
    let rest = || rule(Action::Allow);
    let from = |action, source: Side| Rule { source, ..rule(action) };
    let to = |action, destination: Side| Rule { destination, ..rule(action) };
    let within = |extra: bool| {
        let mut within = ids(0..150);
        within.extend(extra.then(|| id(5000)));
        Side { within, ..Side::default() }
    };
    let without = || {
        let mut not_within = ids(1000..1150);
        not_within.insert(id(5000));
        Side { not_within, ..Side::default() }
    };
    let not_ports = |sets| Side { not_ports: Some(Ports { ranges: Vec::new(), sets }), ..Side::default() };
    let named = |sets| Side { ports: Some(Ports { ranges: Vec::new(), sets }), ..Side::default() };
    let numbers = |step: u16, wide: u16| {
        let ranges = (0..300).map(|n| PortRange::new(n * step, n * step + wide).expect("a range")).collect();
        Ports { ranges, sets: BTreeSet::new() }
    };
    let tcp = |rule: Rule| Rule { protocol: Some(6), ..rule };
    let mut cases = Vec::new();
    for action in [Action::Allow, Action::Deny, Action::Pass, Action::Log] {
        for (what, large) in [
            ("in a hundred and fifty sets", from(action, within(false))),
            ("in a hundred and fifty sets and one more", from(action, within(true))),
            ("in none of as many", to(action, Side { within: ids(0..3), ..without() })),
            ("both", Rule { source: within(true), destination: without(), ..rule(action) }),
            ("none of many named ports", to(action, not_ports(ids(2000..2150)))),
        ] {
            let deny = Rule { protocol: Some(17), ..rule(Action::Deny) };
            cases.push((what, Force::Enforced, vec![large, deny, rest()]));
        }
    }
    let allow = Action::Allow;
    cases.extend([
        ("staged", Force::Staged, vec![from(Action::Deny, within(true)), rest()]),
        ("many named ports", Force::Enforced, vec![tcp(to(allow, named(ids(2000..2150))))]),
        ("many named ports, noted", Force::Enforced, vec![to(Action::Log, named(ids(2000..2060))), rest()]),
        (
            "three hundred ports",
            Force::Enforced,
            vec![tcp(to(allow, Side { ports: Some(numbers(2, 0)), ..Side::default() }))],
        ),
        (
            "three hundred ranges of no protocol",
            Force::Enforced,
            vec![to(allow, Side { ports: Some(numbers(5, 2)), ..Side::default() })],
        ),
        (
            "none of three hundred ranges",
            Force::Enforced,
            vec![tcp(to(allow, Side { not_ports: Some(numbers(5, 2)), ..Side::default() }))],
        ),
        (
            "none of three hundred ranges, of no protocol",
            Force::Enforced,
            vec![to(allow, Side { not_ports: Some(numbers(5, 2)), ..Side::default() })],
        ),
        (
            "twice in one program",
            Force::Enforced,
            vec![from(Action::Pass, within(true)), to(Action::Pass, without()), from(Action::Deny, within(false))],
        ),
    ]);
    cases
}

fn policy(force: Force, rules: Vec<Rule>) -> HostPolicy {
    let mut made = Made::default();
    made.0.sets = all_sets();
    // Names as long as names may be.
    let key = Key { kind: Kind::NetworkPolicy, namespace: Some("n".repeat(63)), name: "p".repeat(253) };
    let program =
        Program { owner: Owner::Policy { tier: "t".repeat(253), key }, direction: Direction::Ingress, force, rules };
    let id = program.id();
    made.0.programs.insert(id, Arc::new(program));
    let last = made.program(
        ("last", Direction::Ingress, Force::Enforced),
        vec![Rule { protocol: Some(136), ..rule(Action::Deny) }, rule(Action::Allow)],
    );
    let silent = made.program(
        ("silent", Direction::Ingress, Force::Enforced),
        vec![Rule { protocol: Some(132), ..rule(Action::Deny) }],
    );
    let step = |name: &str, programs, otherwise| Step { name: StepName::Tier(name.to_owned()), programs, otherwise };
    let steps =
        vec![step(&"t".repeat(253), vec![id, silent], TierDefault::Deny), step("next", vec![last], TierDefault::Deny)];
    let stack = Stack { steps, end: End::Deny };
    let id = stack.id();
    made.0.stacks.insert(id, Arc::new(stack));
    made.before_second(id)
}

const FLOWS: [Probe; 7] =
    [(6, 40_000, 4), (6, 40_001, 149), (6, 40_002, 1496), (6, 40_003, 9), (17, 5, 6), (132, 7, 8), (136, 7, 9)];

/// Every rule, however large, judges as the evaluator does.
#[test]
fn large_rules_judge_as_the_evaluator_does() {
    let world = World::new();
    let everybody: BTreeSet<IpAddr> =
        Family::ALL.into_iter().flat_map(|family| (1..=3).map(move |n| address(family, n))).collect();
    for backend in PLANES {
        let mut plane = Plane::open(&world, backend, None);
        let (mut passed, mut judged) = (0, 0);
        for (what, force, rules) in cases() {
            let action = rules[0].action;
            let policy = policy(force, rules);
            let outcome = plane.sync(&world, &policy, PolicyScope::All);
            assert!(outcome.failed.is_empty(), "{backend:?} {what} {action:?}: {:?}", outcome.failed);
            world.host.enter(|| conntrack::delete_for(&everybody)).expect("connections are forgotten");
            let stack = &policy.stacks[&policy.workloads[&name("lhw2")].to];
            for (from, family) in [(1, Family::V4), (3, Family::V4), (1, Family::V6), (3, Family::V6)] {
                let seen = world.between((from, 2), family, &FLOWS);
                for ((protocol, source, destination), seen) in FLOWS.into_iter().zip(seen) {
                    let transport = Transport::of(protocol, source, destination);
                    let packet = Packet { source: address(family, from), destination: address(family, 2), transport };
                    let expected = decide(stack, &policy, &packet).verdict != Verdict::Deny;
                    assert_eq!(seen, expected, "{backend:?} {what} {action:?}: {packet:?}");
                    passed += usize::from(seen);
                    judged += 1;
                }
            }
        }
        assert!(passed * 5 > judged && passed * 5 < judged * 4, "both happen: {passed} of {judged}");
        plane.remove(&world);
    }
}

/// A set of iptables grows with what it holds, member by member and all at once, and never loses one.
#[test]
fn sets_grow_as_needed() {
    let world = World::new();
    for backend in BACKENDS {
        let mut plane = Plane::open(&world, Some(backend), Some(4));
        let mut made = Made::default();
        let only = Side { within: [id(1)].into(), ..Side::default() };
        let allow = Rule { source: only, ..rule(Action::Allow) };
        let holds = |count: u8| -> Set {
            let others = (1..count).map(|n| Member::Net(Prefix::host(IpAddr::from([10, 9, 0, n]))));
            let first = Member::Net(Prefix::host(address(Family::V4, 1)));
            Set { kind: SetKind::Addresses, members: others.chain([first]).collect() }
        };
        made.0.sets.insert(id(1), holds(1));
        let mut policy = made.one(vec![allow]);
        assert!(plane.sync(&world, &policy, PolicyScope::All).failed.is_empty());
        for count in [2, 3, 4, 5, 6, 40, 41, 200, 3] {
            let before = policy.sets.insert(id(1), holds(count)).map(|set| set.members).unwrap_or_default();
            let changed = before.symmetric_difference(&policy.sets[&id(1)].members).map(|member| (id(1), *member));
            let changes = PolicyChanges { members: changed.collect(), ..PolicyChanges::default() };
            let outcome = plane.sync(&world, &policy, PolicyScope::Changed(&changes));
            assert!(outcome.failed.is_empty(), "{backend:?} {count}: {outcome:?}");
            let (_, listing) = world.host.run("ipset save");
            let members = listing.lines().filter(|line| line.starts_with("add lh-4a")).count();
            assert_eq!(members, usize::from(count), "{backend:?}: {listing}");
            assert!(!listing.contains("lh-spare"), "{listing}");
        }
        assert_eq!(world.between((1, 2), Family::V4, &[tcp(80)]), [true], "{backend:?}");
        assert_eq!(world.between((3, 2), Family::V4, &[tcp(80)]), [false], "{backend:?}");
        plane.remove(&world);
    }
}

/// Five hundred links change at once, each to a program of its own, and one of these cannot be programmed: it is named, its
/// link is closed, and the other 499 are as they ought to be.
#[test]
fn one_of_five_hundred_changes_stops_no_other() {
    let world = World::new();
    let links = |number: usize| if number <= 3 { format!("lhw{number}") } else { format!("lhx{number}") };
    for backend in PLANES {
        let mut plane = Plane::open(&world, backend, None);
        let mut made = Made::default();
        let open = made.open();
        for number in 1..=500 {
            made.0.workloads.insert(name(&links(number)), WorkloadPolicy { from: open, to: open });
        }
        assert!(plane.sync(&world, &made.0, PolicyScope::All).failed.is_empty());
        // In nftables somebody else has a set by this name; ipset cannot hold such a member in it.
        let odd = Member::Port(address(Family::V4, 1), 6, 80);
        made.0.sets.insert(id(1), Set { kind: SetKind::Addresses, members: [odd].into() });
        if let Plane::Nft(nft) = &mut plane {
            world.host.sh(&format!("nft add set inet lasthop hosts4-{} '{{ type inet_service; }}'", id(1).0));
            world.host.enter(|| nft.read_back()).expect("read back");
        }
        let mut changes = PolicyChanges { sets: [id(1)].into(), ..PolicyChanges::default() };
        for number in 1..=500 {
            let mut to = Side {
                ports: ports(&[(80, 80), (1000, 1000 + u16::try_from(number).expect("small"))]),
                ..Side::default()
            };
            to.not_within.extend((number == 3).then(|| id(1)));
            let rules = vec![Rule { protocol: Some(6), destination: to, ..rule(Action::Allow) }];
            let program = made.program((&format!("p{number}"), Direction::Ingress, Force::Enforced), rules);
            let stack = made.stack(vec![(vec![program], TierDefault::Deny)], End::Deny);
            changes.programs.insert(program);
            changes.stacks.insert(stack);
            changes.workloads.insert(name(&links(number)));
            let policy = WorkloadPolicy { from: if number == 3 { stack } else { open }, to: stack };
            made.0.workloads.insert(name(&links(number)), policy);
        }
        let outcome = plane.sync(&world, &made.0, PolicyScope::Changed(&changes));
        let done = outcome.done.iter().filter(|key| matches!(key, PolicyKey::Link(_))).count();
        assert_eq!(done, 499, "{backend:?}: {:?}", outcome.failed);
        let bad: Vec<_> = outcome.failed.iter().filter(|(key, _)| matches!(key, PolicyKey::Link(_))).collect();
        let [(PolicyKey::Link(link), error)] = bad[..] else { panic!("{backend:?}: {:?}", outcome.failed) };
        assert!(*link == name("lhw3") && error.to_string().contains(&id(1).0.to_string()), "{backend:?}: {error}");
        // Each of the others is led to a stack of its own.
        let (_, listing) = world.host.run(match backend {
            None => "nft list map inet lasthop to_stack",
            Some(Backend::Nft) => "iptables-nft-save -t filter",
            Some(_) => "iptables-legacy-save -t filter",
        });
        for number in (1..=500).filter(|number| *number != 3) {
            let link = links(number);
            let there = listing.contains(&format!("-o {link} ")) || listing.contains(&format!("\"{link}\""));
            assert!(there, "{backend:?} {link}: {listing}");
        }
        for family in Family::ALL {
            assert_eq!(world.between((1, 2), family, &[tcp(1002), tcp(1003)]), [true, false], "{backend:?}");
            assert_eq!(world.between((2, 1), family, &[tcp(1001), tcp(1002)]), [true, false], "{backend:?}");
            assert_eq!(world.between((1, 3), family, &[tcp(80), tcp(1002)]), [false, false], "{backend:?}");
            assert_eq!(world.between((3, 1), family, &[tcp(80), tcp(1001)]), [false, false], "{backend:?}");
        }
        plane.remove(&world);
    }
}

//! Policy as chains: who is looked up where, and that nothing is longer than the programs take.

use super::policy::{Inputs, Rendered, render};
use super::rule::{Rule, Target};
use super::*;
use lasthop_model::Key;
use lasthop_net::IfName;
use lasthop_policy::ir::{
    self, Action, Direction, End, Force, Owner, PortRange, Ports, Side, Stack, StackId, Step, StepName, TierDefault,
    WorkloadPolicy,
};
use proptest::prelude::*;

fn rendered(policy: &HostPolicy, refused: &BTreeMap<Object, String>) -> Rendered {
    let kinds = policy.sets.iter().map(|(id, set)| (*id, set.kind.into())).collect();
    render(Inputs { policy, kinds: &kinds, refused, mask: Mask::default() }, Family::V4, &mut memo::Memo::default())
}

/// A pass renders what is new or to be said otherwise, and comes to the same as one that remembers nothing.
#[test]
fn what_has_not_changed_is_not_rendered_again() {
    let mut policy = HostPolicy::default();
    let set = ir::SetId(ir::Digest([7; 16]));
    policy.sets.insert(set, ir::Set { kind: ir::SetKind::Addresses, members: BTreeSet::new() });
    let step = |id| Step { name: StepName::Profiles, programs: vec![id], otherwise: TierDefault::Deny };
    let within = Side { within: BTreeSet::from([set]), ..Side::default() };
    for number in 0..200 {
        let source = if number < 3 { within.clone() } else { Side::default() };
        let rules = vec![ir::Rule { source, ..rule(Action::Deny) }, rule(Action::Log), rule(Action::Allow)];
        let id = program(&mut policy, Owner::Profile(format!("p{number}")), rules);
        let end = stack(&mut policy, vec![step(id)], End::Deny);
        policy.workloads.insert(link(&format!("lh{number}")), WorkloadPolicy { from: end, to: end });
    }
    let mut memo = memo::Memo::default();
    let mut pass = |policy: &HostPolicy, refused: &BTreeMap<Object, String>| {
        let kinds = policy.sets.iter().map(|(id, set)| (*id, set.kind.into())).collect();
        let inputs = Inputs { policy, kinds: &kinds, refused, mask: Mask::default() };
        let with = render(inputs, Family::V4, &mut memo);
        assert_eq!(with, rendered(policy, refused));
        memo.rendered
    };
    let none = BTreeMap::new();
    assert_eq!(pass(&policy, &none), 200);
    assert_eq!(pass(&policy, &none), 0);
    let more = program(&mut policy, Owner::Profile("more".to_owned()), vec![rule(Action::Allow)]);
    let end = stack(&mut policy, vec![step(more)], End::Deny);
    policy.workloads.insert(link("lh7"), WorkloadPolicy { from: end, to: end });
    assert_eq!(pass(&policy, &none), 1);
    policy.sets.insert(set, ir::Set { kind: ir::SetKind::Nets, members: BTreeSet::new() });
    assert_eq!(pass(&policy, &none), 3, "those that ask the set");
    let name = sets::name(set, Kind::Nets, Family::V4);
    pass(&policy, &BTreeMap::from([(Object::Set(name), "refused".to_owned())]));
    assert_eq!(pass(&policy, &none), 0);
    policy.deny = ir::DenyAction::Reject;
    assert!(pass(&policy, &none) >= 200);
}

fn link(text: &str) -> IfName {
    text.parse().expect("a name")
}

fn stack(policy: &mut HostPolicy, steps: Vec<Step>, end: End) -> StackId {
    let stack = Stack { steps, end };
    let id = stack.id();
    policy.stacks.insert(id, Arc::new(stack));
    id
}

fn program(policy: &mut HostPolicy, owner: Owner, rules: Vec<ir::Rule>) -> ProgramId {
    let program = Program { owner, direction: Direction::Ingress, force: Force::Enforced, rules };
    let id = program.id();
    policy.programs.insert(id, Arc::new(program));
    id
}

fn rule(action: Action) -> ir::Rule {
    ir::Rule {
        action,
        family: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: Side::default(),
        destination: Side::default(),
    }
}

/// Where a packet from a link is led, as iptables compares names: exactly, or by what comes before `+`.
fn found(rendered: &Rendered, name: &str) -> Option<String> {
    let mut chain = skeleton::FROM.to_owned();
    for _ in 0..8 {
        let rules = rendered.chains.get(&(Table::Filter, chain.clone()))?;
        let pattern = |rule: &&Rule| {
            let pattern = rule.matches.strip_prefix(" -i ").unwrap_or("+");
            pattern.strip_suffix('+').map_or(pattern == name, |beginning| name.starts_with(beginning))
        };
        match &rules.iter().find(pattern)?.target {
            Target::Goto(next) if next.starts_with("LASTHOP-s-") => return Some(next.clone()),
            Target::Goto(next) => chain.clone_from(next),
            _ => return None,
        }
    }
    panic!("deeper than nftables calls");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_link_and_no_other_is_found(names in proptest::collection::btree_set("lh[a-c]{0,3}[0-9a-f]{0,4}", 0..120), other in "lh[a-c]{0,3}[0-9a-f]{0,4}") {
        let mut policy = HostPolicy::default();
        let stacks = [stack(&mut policy, Vec::new(), End::GoOn), stack(&mut policy, Vec::new(), End::Deny)];
        for (number, name) in names.iter().enumerate() {
            policy.workloads.insert(link(name), WorkloadPolicy { from: stacks[number % 2], to: stacks[0] });
        }
        let rendered = rendered(&policy, &BTreeMap::new());
        for (number, name) in names.iter().enumerate() {
            let StackId(digest) = stacks[number % 2];
            prop_assert_eq!(found(&rendered, name), Some(rule::chain_name('s', digest)), "{}", name);
        }
        prop_assert_eq!(found(&rendered, &other).is_some(), names.contains(&other));
    }
}

#[test]
fn a_thousand_links_are_found_in_a_few_looks() {
    let mut policy = HostPolicy::default();
    let open = stack(&mut policy, Vec::new(), End::GoOn);
    for number in 0..1000 {
        policy.workloads.insert(link(&format!("lh{number:05x}")), WorkloadPolicy { from: open, to: open });
    }
    let rendered = rendered(&policy, &BTreeMap::new());
    let longest = rendered.chains.values().map(|chain| chain.len()).max();
    assert!(longest.is_some_and(|longest| longest <= 17), "{longest:?}");
}

/// What each program takes: names of chains, comments, prefixes of the log and of NFLOG, and no quote inside quotes.
#[test]
fn nothing_is_longer_than_the_programs_take() {
    let long = format!("a\"b '{}", "x".repeat(250));
    let key = Key { kind: lasthop_model::Kind::GlobalNetworkPolicy, namespace: None, name: long.clone() };
    let mut policy = HostPolicy::default();
    let except =
        Side { not_ports: Some(Ports { ranges: vec![PortRange::one(1)], sets: BTreeSet::new() }), ..Side::default() };
    let rules = [Action::Log, Action::Deny, Action::Pass, Action::Allow]
        .into_iter()
        .flat_map(|action| [ir::Rule { destination: except.clone(), ..rule(action) }, rule(action)]);
    let program = program(&mut policy, Owner::Policy { tier: long.clone(), key }, rules.collect());
    let step = Step { name: StepName::Tier(long), programs: vec![program], otherwise: TierDefault::Deny };
    let id = stack(&mut policy, vec![step], End::Deny);
    policy.workloads.insert(link("lhw1"), WorkloadPolicy { from: id, to: id });
    policy.interfaces.insert(
        ir::Interface::Any,
        ir::InterfacePolicy { input: Some(id), untracked_in: Some(id), before_dnat: Some(id), ..Default::default() },
    );
    let rendered = rendered(&policy, &BTreeMap::new());
    assert!(rendered.failed.is_empty(), "{:?}", rendered.failed);
    for ((table, name), rules) in &rendered.chains {
        assert!(name.len() <= 28, "{name}");
        for rule in rules.iter() {
            let comment = rule.comment(name);
            let text = rule.text(&comment);
            assert!(comment.len() < 256 && !comment.contains(['"', ' ', '\'']), "{comment}");
            assert_eq!(text.matches('"').count() % 2, 0, "{text}");
            for (option, longest) in [("--log-prefix \"", 29), ("--nflog-prefix \"", 63)] {
                let prefix = text.split_once(option).and_then(|(_, rest)| rest.split('"').next());
                assert!(prefix.is_none_or(|prefix| prefix.len() <= longest), "{text}");
            }
            assert!(*table == Table::Filter || !text.contains("REJECT"), "{text}");
        }
    }
}

#[test]
fn who_has_what_is_refused_passes_nothing_and_others_do() {
    let mut policy = HostPolicy::default();
    let good = program(&mut policy, Owner::Profile("good".to_owned()), vec![rule(Action::Allow)]);
    let bad = program(&mut policy, Owner::Profile("bad".to_owned()), vec![rule(Action::Allow)]);
    let lost = ProgramId(lasthop_policy::ir::Digest([7; 16]));
    let step = |programs| Step { name: StepName::Profiles, programs, otherwise: TierDefault::Deny };
    let fine = stack(&mut policy, vec![step(vec![good])], End::Deny);
    let with_bad = stack(&mut policy, vec![step(vec![good, bad])], End::Deny);
    let with_lost = stack(&mut policy, vec![step(vec![lost, good])], End::Deny);
    for (name, stack) in [("lha", fine), ("lhb", with_bad), ("lhc", with_lost)] {
        policy.workloads.insert(link(name), WorkloadPolicy { from: stack, to: stack });
    }
    policy.workloads.insert(link("lh\"+"), WorkloadPolicy { from: fine, to: fine });
    let refused = BTreeMap::from([(Object::Program(bad), "somebody says no".to_owned())]);
    let rendered = rendered(&policy, &refused);
    let failed: Vec<&Object> = rendered.failed.keys().collect();
    let odd = Object::Link(link("lh\"+"));
    let mut expected = vec![&odd];
    let (bad, with_bad_object, with_lost_object) =
        (Object::Program(bad), Object::Stack(with_bad), Object::Stack(with_lost));
    expected.extend([&bad, &with_bad_object, &with_lost_object]);
    expected.sort();
    assert_eq!(failed, expected);
    let rules = |StackId(digest): StackId| &rendered.chains[&(Table::Filter, rule::chain_name('s', digest))];
    let closed = [Rule::new("unusable", "", Target::Drop)];
    assert_eq!([&rules(with_bad)[..], &rules(with_lost)[..]], [&closed, &closed]);
    assert!(rules(fine).len() > 1);
    assert!(rendered.chains.values().flat_map(|chain| chain.iter()).all(|rule| !rule.matches.contains('"')));
}

//! Rules that ask for a destination port by number, passed over by one look-up of protocol and port for a few of them (pure).
//!
//! ```text
//! program-P: meta l4proto . th dport @cases-M jump case-K ──▶ case-K: the rules of the run that ask for one of M
//!            ... as often as the run needs
//!            the rules that follow the run
//! ```
//!
//! A packet has one protocol and one port, so of a run of such rules it can only match those of its own case, and meets them
//! in the order in which they stand. Each keeps its counter and its name; one that asks for several ports stands in several cases.
//! What no rule of the case decides comes back and meets what follows the run.
//!
//! One map from case to chain would find the rule at once, and make edits slow: for every transaction that adds a jump the
//! kernel walks all that can be reached from a base chain, element by element of such maps and once for every stack that has
//! the program; and in every transaction over all chains of the table, so a chain for each case would be paid for by every
//! change of a set's member (`nft_table_validate` and `nf_tables_commit` in net/netfilter/nf_tables_api.c).

use super::super::ruleset::{Element, Field, Gives, Keys, SetSpec};
use super::matching::PORTED;
use lasthop_policy::ir::{Action, Force, Program, Rule, Side};
use std::collections::{BTreeMap, BTreeSet};

/// A run of fewer rules is asked one by one: a look-up costs as much as two or three of them.
const FEWEST: usize = 4;
/// Rules in a chain that several cases share.
const SHARED: usize = 8;
/// A rule with more ports would stand in too many cases.
const MOST_PORTS: usize = 16;

/// What a case stands for: protocol and destination port.
pub(super) type Case = (u8, u16);

/// A rule and its index in its program.
pub(super) type Numbered<'a> = (usize, &'a Rule);

/// Part of a program, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// A rule.
    Alone(Numbered<'a>),
    /// The rules of a run, by what leads to them.
    Run(Vec<Group<'a>>),
}

/// Cases that share a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Group<'a> {
    pub(super) cases: Vec<Case>,
    /// Their rules, in order.
    pub(super) rules: BTreeMap<usize, &'a Rule>,
}

/// Divides a program. One that may send packets back to its tier, or that only counts, is asked rule by rule: from within a
/// case, `return` would lead back into the program.
pub(super) fn parts(program: &Program) -> Vec<Part<'_>> {
    let returns = program.force == Force::Staged || program.rules.iter().any(|rule| rule.action == Action::Pass);
    let of = |rule: &Rule| if returns { Vec::new() } else { cases(rule) };
    let mut parts = Vec::new();
    let mut run = Vec::new();
    for (index, rule) in program.rules.iter().enumerate() {
        let cases = of(rule);
        if cases.is_empty() {
            parts.extend(close(&mut run));
            parts.push(Part::Alone((index, rule)));
        } else {
            run.push(((index, rule), cases));
        }
    }
    parts.extend(close(&mut run));
    parts
}

fn close<'a>(run: &mut Vec<(Numbered<'a>, Vec<Case>)>) -> Vec<Part<'a>> {
    let whole = std::mem::take(run);
    if whole.len() < FEWEST {
        return whole.into_iter().map(|(rule, _)| Part::Alone(rule)).collect();
    }
    let mut cases: BTreeMap<Case, Vec<Numbered<'a>>> = BTreeMap::new();
    for (rule, of) in whole {
        of.into_iter().for_each(|case| cases.entry(case).or_default().push(rule));
    }
    let mut in_order: Vec<(Case, Vec<Numbered<'a>>)> = cases.into_iter().collect();
    in_order.sort_by_key(|(_, rules)| rules.first().map(|(index, _)| *index));
    let mut groups: Vec<Group<'a>> = Vec::new();
    for (case, rules) in in_order {
        match groups.last_mut() {
            Some(group) if group.rules.len() + rules.len() <= SHARED => {
                group.cases.push(case);
                group.rules.extend(rules);
            }
            _ => groups.push(Group { cases: vec![case], rules: rules.into_iter().collect() }),
        }
    }
    vec![Part::Run(groups)]
}

/// The cases that a rule is for; none if it has to be asked as it is.
fn cases(rule: &Rule) -> Vec<Case> {
    let Some(protocol) = rule.protocol.filter(|protocol| PORTED.contains(protocol)) else { return Vec::new() };
    let plain = rule.not_protocol.is_none() && rule.icmp.is_none() && rule.not_icmp.is_none();
    let source = rule.source.ports.is_none() && rule.source.not_ports.is_none();
    let Side { ports: Some(ports), not_ports: None, .. } = &rule.destination else { return Vec::new() };
    if !plain || !source || !ports.sets.is_empty() {
        return Vec::new();
    }
    let numbers: BTreeSet<u16> =
        ports.ranges.iter().flat_map(|range| range.bounds().take(MOST_PORTS + 1)).take(MOST_PORTS + 1).collect();
    if numbers.len() > MOST_PORTS { Vec::new() } else { numbers.into_iter().map(|port| (protocol, port)).collect() }
}

/// The definition of a set of cases.
pub(super) fn spec() -> SetSpec {
    SetSpec { fields: vec![Field::Protocol, Field::Port], keys: Keys::Exact, gives: Gives::Nothing }
}

/// A case as an element of such a set.
pub(super) fn element((protocol, port): Case) -> Element {
    let [high, low] = port.to_be_bytes();
    Element::key(vec![protocol, 0, 0, 0, high, low, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use lasthop_policy::ir::{Direction, Owner, PortRange, Ports};

    fn to(protocol: u8, ports: &[(u16, u16)]) -> Rule {
        let ranges = ports.iter().map(|(first, last)| PortRange::new(*first, *last).unwrap()).collect();
        let destination = Side { ports: Some(Ports { ranges, sets: BTreeSet::new() }), ..Side::default() };
        Rule {
            action: Action::Allow,
            family: None,
            protocol: Some(protocol),
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: Side::default(),
            destination,
        }
    }

    fn program(rules: Vec<Rule>) -> Program {
        Program { owner: Owner::Profile("p".into()), direction: Direction::Ingress, force: Force::Enforced, rules }
    }

    #[test]
    fn rules_between_those_for_ports_keep_their_place() {
        let any = Rule { protocol: None, destination: Side::default(), ..to(6, &[]) };
        let mut rules = vec![to(6, &[(80, 80)]), to(17, &[(53, 53)]), to(6, &[(80, 81)]), to(6, &[(443, 443)])];
        rules.extend([any, to(6, &[(80, 80)]), to(6, &[(1, 1000)])]);
        let whole = program(rules);
        let rule = |index: usize| (index, &whole.rules[index]);
        let cases = vec![(6, 80), (17, 53), (6, 81), (6, 443)];
        let run = Part::Run(vec![Group { cases, rules: [rule(0), rule(1), rule(2), rule(3)].into() }]);
        assert_eq!(parts(&whole), [run, Part::Alone(rule(4)), Part::Alone(rule(5)), Part::Alone(rule(6))]);
    }

    #[test]
    fn a_case_of_many_rules_has_a_chain_of_its_own() {
        let mut rules: Vec<Rule> = (0..SHARED).map(|_| to(6, &[(80, 80)])).collect();
        rules.extend([to(6, &[(443, 443)]), to(6, &[(53, 53)])]);
        let whole = program(rules);
        let [Part::Run(groups)] = &parts(&whole)[..] else { panic!("one run") };
        let cases: Vec<&[Case]> = groups.iter().map(|group| group.cases.as_slice()).collect();
        assert_eq!(cases, [&[(6, 80)][..], &[(6, 443), (6, 53)]]);
        assert!(groups.iter().flat_map(|group| &group.rules).all(|(index, rule)| **rule == whole.rules[*index]));
    }

    #[test]
    fn what_has_to_be_asked_as_it_is() {
        let one = to(6, &[(80, 80)]);
        let other = Some(Ports { ranges: vec![PortRange::one(1)], sets: BTreeSet::new() });
        let icmp = Rule { protocol: Some(1), ..one.clone() };
        let not = Rule { not_protocol: Some(17), ..one.clone() };
        let from = Rule { source: Side { ports: other.clone(), ..Side::default() }, ..one.clone() };
        let not_from = Rule { source: Side { not_ports: other.clone(), ..Side::default() }, ..one.clone() };
        let but = Rule { destination: Side { not_ports: other, ..one.destination.clone() }, ..one.clone() };
        for rule in [icmp, not, from, not_from, but, to(6, &[]), to(6, &[(1, 17)])] {
            assert_eq!(cases(&rule), Vec::new(), "{rule:?}");
        }
        assert_eq!(cases(&to(6, &[(1, 16)])).len(), 16);
    }

    #[test]
    fn a_program_that_returns_has_no_cases() {
        let rules: Vec<Rule> = (1..10).map(|port| to(6, &[(port, port)])).collect();
        let whole = program(rules.clone());
        assert_eq!(parts(&whole).len(), 1);
        let staged = Program { force: Force::Staged, ..whole.clone() };
        let mut passing = whole;
        passing.rules[8].action = Action::Pass;
        for program in [staged, passing] {
            let alone: Vec<Part<'_>> = program.rules.iter().enumerate().map(Part::Alone).collect();
            assert_eq!(parts(&program), alone);
        }
    }
}

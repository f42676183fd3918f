//! Rules in the words of iptables, and their limits.

use super::*;
use lasthop_policy::ir::{Action, Digest};
use proptest::prelude::*;

fn rule() -> Rule {
    Rule {
        action: Action::Allow,
        family: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: Side::default(),
        destination: Side::default(),
    }
}

fn id(number: u8) -> SetId {
    SetId(Digest([number; 16]))
}

fn kinds() -> BTreeMap<SetId, Kind> {
    [(id(1), Kind::Addresses), (id(2), Kind::Nets), (id(3), Kind::Ports)].into()
}

fn said(rule: &Rule, family: Family) -> Result<Vec<Line>, String> {
    lines(rule, &mut Context { family, kinds: &kinds(), lists: BTreeMap::new() })
}

fn texts(rule: &Rule, family: Family) -> Vec<String> {
    said(rule, family).expect("it can be said").into_iter().map(|line| line.matches).collect()
}

fn ranges(pairs: impl IntoIterator<Item = (u16, u16)>) -> Option<Ports> {
    let ranges = pairs.into_iter().filter_map(|(first, last)| PortRange::new(first, last)).collect();
    Some(Ports { ranges, sets: BTreeSet::new() })
}

fn nets(texts: &[&str]) -> BTreeSet<Prefix> {
    texts.iter().map(|text| text.parse().expect("a prefix")).collect()
}

#[test]
fn rules_are_said_in_as_few_lines_as_they_need() {
    let to = |side: Side| Rule { destination: side, ..rule() };
    let from = |side: Side| Rule { source: side, ..rule() };
    let tcp = |rule: Rule| Rule { protocol: Some(6), ..rule };
    let within = |set| Side { within: [set].into(), ..Side::default() };
    let (a4, n6, p4) = (
        sets::name(id(1), Kind::Addresses, Family::V4),
        sets::name(id(2), Kind::Nets, Family::V6),
        sets::name(id(3), Kind::Ports, Family::V4),
    );
    let list = sets::list_name(&nets(&["10.0.0.0/8", "192.0.2.0/24"]), Family::V4);
    let named = Ports { ranges: vec![PortRange::one(80)], sets: [id(3)].into() };
    let v4 = |rule, lines: &[&str]| (rule, Family::V4, lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>());
    let v6 = |rule, lines: &[&str]| (rule, Family::V6, lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>());
    let two = Side { nets: Some(nets(&["10.0.0.0/8", "192.0.2.0/24", "fd00::/8"])), ..Side::default() };
    let but = Side { nets: Some(nets(&["10.0.0.0/8"])), not_nets: nets(&["10.1.0.0/16"]), ..Side::default() };
    let but_list = sets::list_name(&nets(&["10.1.0.0/16"]), Family::V4);
    let icmp = |kind, code| Some(Icmp { kind, code });
    for (rule, family, lines) in [
        v4(rule(), &[""]),
        v6(Rule { family: Some(Family::V4), ..rule() }, &[]),
        v4(Rule { protocol: Some(6), not_protocol: Some(6), ..rule() }, &[]),
        v4(Rule { protocol: Some(6), not_protocol: Some(17), ..rule() }, &[" -p 6"]),
        v4(Rule { not_protocol: Some(17), ..rule() }, &[" ! -p 17"]),
        v4(from(two.clone()), &[&format!(" -m set --match-set {list} src")]),
        v6(from(two), &[" -s fd00::/8"]),
        v6(from(but.clone()), &[]),
        v4(from(but), &[&format!(" -s 10.0.0.0/8 -m set ! --match-set {but_list} src")]),
        v4(to(Side { not_nets: nets(&["10.0.0.0/8"]), ..Side::default() }), &[" ! -d 10.0.0.0/8"]),
        v6(to(Side { not_nets: nets(&["10.0.0.0/8"]), ..Side::default() }), &[""]),
        v4(to(Side { not_nets: nets(&["0.0.0.0/0"]), ..Side::default() }), &[]),
        v4(to(Side { nets: Some(nets(&["0.0.0.0/0"])), ..Side::default() }), &[""]),
        v4(to(Side { nets: Some(BTreeSet::new()), ..Side::default() }), &[]),
        v4(from(within(id(1))), &[&format!(" -m set --match-set {a4} src")]),
        v6(to(Side { not_within: [id(2)].into(), ..Side::default() }), &[&format!(" -m set ! --match-set {n6} dst")]),
        v4(
            tcp(to(Side { ports: ranges([(80, 80), (90, 99)]), ..Side::default() })),
            &[" -p 6 -m multiport --dports 80,90:99"],
        ),
        v4(
            tcp(to(Side { ports: Some(named.clone()), ..Side::default() })),
            &[" -p 6 -m multiport --dports 80", &format!(" -p 6 -m set --match-set {p4} dst,dst")],
        ),
        v4(
            Rule { not_protocol: Some(17), ..to(Side { ports: Some(named.clone()), ..Side::default() }) },
            &[
                " -p 6 -m multiport --dports 80",
                " -p 132 -m multiport --dports 80",
                " -p 136 -m multiport --dports 80",
                &format!(" ! -p 17 -m set --match-set {p4} dst,dst"),
            ],
        ),
        v4(Rule { protocol: Some(1), ..to(Side { ports: Some(named.clone()), ..Side::default() }) }, &[]),
        v4(Rule { protocol: Some(50), ..to(Side { not_ports: ranges([(1, 9)]), ..Side::default() }) }, &[" -p 50"]),
        v4(
            tcp(to(Side { not_ports: Some(named), ..Side::default() })),
            &[&format!(" -p 6 -m multiport ! --dports 80 -m set ! --match-set {p4} dst,dst")],
        ),
        v4(Rule { protocol: Some(1), icmp: icmp(8, None), ..rule() }, &[" -p 1 -m icmp --icmp-type 8"]),
        v6(Rule { protocol: Some(1), icmp: icmp(8, None), ..rule() }, &[]),
        v6(Rule { protocol: Some(58), not_icmp: icmp(1, Some(4)), ..rule() }, &[" -p 58 -m icmp6 ! --icmpv6-type 1/4"]),
        v4(
            Rule { icmp: icmp(8, None), not_icmp: icmp(8, Some(1)), ..rule() },
            &[" -p 1 -m icmp --icmp-type 8 -m icmp ! --icmp-type 8/1"],
        ),
    ] {
        assert_eq!(texts(&rule, family), lines, "{rule:?}");
    }
}

#[test]
fn what_cannot_be_said_in_one_line_is_left_for_each_exception() {
    let side = Side { not_ports: ranges([(80, 80)]), ..Side::default() };
    let lines = said(&Rule { destination: side, ..rule() }, Family::V4).expect("it can be said");
    let unless = [6, 17, 132, 136].map(|protocol| format!(" -p {protocol} -m multiport --dports 80"));
    assert_eq!(lines, [Line { matches: String::new(), unless: unless.to_vec() }]);
    let not_echo = Rule { not_icmp: Some(Icmp { kind: 8, code: None }), ..rule() };
    let lines = said(&not_echo, Family::V4).expect("it can be said");
    assert_eq!(lines, [Line { matches: String::new(), unless: vec![" -p 1 -m icmp --icmp-type 8".to_owned()] }]);
}

#[test]
fn what_cannot_be_said_at_all_is_an_error_that_says_why() {
    let with = |within| Rule { source: Side { within, ..Side::default() }, ..rule() };
    let ports = Some(Ports { ranges: Vec::new(), sets: [id(1)].into() });
    for (rule, why) in [
        (with([id(9)].into()), "not there"),
        (with([id(3)].into()), "one of Ports"),
        (Rule { source: Side { ports, ..Side::default() }, ..rule() }, "one of Addresses"),
        (Rule { protocol: Some(0), ..rule() }, "protocol 0"),
        (Rule { protocol: Some(1), icmp: Some(Icmp { kind: 255, code: None }), ..rule() }, "255"),
    ] {
        let error = said(&rule, Family::V4).expect_err("it cannot be said");
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_hundred_prefixes_and_ports_are_all_there() {
    let many: BTreeSet<Prefix> = (0..=255u8).map(|n| format!("10.{n}.0.0/16").parse().expect("a prefix")).collect();
    let fifty = || ranges((0..50).map(|n| (n * 10, n * 10 + 5)));
    let big = Rule {
        protocol: Some(6),
        source: Side { nets: Some(many), ports: fifty(), ..Side::default() },
        destination: Side { ports: fifty(), not_ports: fifty(), ..Side::default() },
        ..rule()
    };
    let kinds = kinds();
    let mut context = Context { family: Family::V4, kinds: &kinds, lists: BTreeMap::new() };
    let lines = lines(&big, &mut context).expect("it can be said");
    assert_eq!(lines.len(), 8 * 8, "seven ranges a match, every one with every other");
    assert!(lines.iter().all(|line| line.matches.matches("! --dports").count() == 8 && line.unless.is_empty()));
    assert_eq!(context.lists.values().map(|list| list.members.len()).collect::<Vec<_>>(), [256]);
}

proptest! {
    #[test]
    fn no_match_takes_more_ports_than_it_may_and_none_is_lost(pairs in proptest::collection::vec((0u16..2000, 0u16..3), 0..60)) {
        let all: Vec<PortRange> = pairs.iter().filter_map(|(first, more)| PortRange::new(*first, first + more)).collect();
        let mut again = Vec::new();
        for chunk in chunks(&all) {
            let mut slots = 0;
            for text in chunk.split(',') {
                let (first, last) = text.split_once(':').unwrap_or((text, text));
                slots += if text.contains(':') { 2 } else { 1 };
                again.extend(PortRange::new(first.parse().expect("a port"), last.parse().expect("a port")));
            }
            prop_assert!(slots <= SLOTS, "{chunk}");
        }
        prop_assert_eq!(again, all);
    }
}

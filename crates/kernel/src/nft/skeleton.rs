//! The fixed skeleton of our table: what guards workload links whether or not the agent lives.
//!
//! ```text
//! prerouting (before defragmentation)  link of a workload ─▶ check_source: name . source must be in a set, else drop
//! forward    established, related ─▶ accept
//!            from a workload's link ─▶ from_workload: unforwardable, then judge_from: @from_stack, @stacks or drop
//! forward_to established, related ─▶ accept
//!            to a workload's link   ─▶ to_workload: @to_stack, @stacks or drop
//! input      from a workload's link ─▶ to_host: replies, neighbour discovery, then the endpoint-to-host action
//! postrouting (nat)  source in a NAT pool, destination in no pool, not to a workload ─▶ masquerade
//! ```
//!
//! * A link is a workload's by its name's beginning, so a link that nobody knows yet passes nothing.
//! * The source check sits before defragmentation (`NF_IP_PRI_RAW_BEFORE_DEFRAG`): a forged fragment never gets
//!   near the reassembly of another workload's packet.
//! * `accept` ends one base chain only, so it means "allowed" without any mark: what a workload sends is judged in one, what
//!   a workload gets in the next.
//! * A link's name leads to a stack's digest, and that to its chain. Only the second map jumps: the kernel walks all
//!   elements of a map that jumps again when a rule or such an element is added (nft_chain_validate), so with
//!   one map an endpoint would cost more the more there are (675 µs at 1,000, instead of 13 µs).
//! * Source MAC addresses are not policed: a router does not look at them, and nothing here depends on them.
//! * Packets of the host itself to its own workloads pass: there is no output chain.
//! * Everything about other links is accepted, that is, left to the host's other rules.

use super::expr::{Base, Compare, Expr, Find, Header, Meta, Reg, Reject, Verdict};
use super::hosts::Hosts;
use super::policy::PORTED;
use super::ranges;
use super::ruleset::{Chain, Element, Field, Gives, Hook, Keys, Point, Role, Rule, Ruleset, Set, SetSpec};
use crate::Error;
use lasthop_compute::{EndpointToHost, Guard, Nat};
use lasthop_net::Family;
use std::collections::{BTreeMap, BTreeSet};

/// Sources that a link may use, one by one.
pub(super) const SOURCES: [&str; 2] = ["sources4", "sources6"];
/// Sources that a link may use, by prefix.
pub(super) const PREFIXES: [&str; 2] = ["prefixes4", "prefixes6"];
/// The stacks of what workload links send, and of what they get.
pub(super) const LINK_STACKS: [&str; 2] = ["from_stack", "to_stack"];
/// The chains of stacks, by the last 12 bytes of their digests. Not by all 16: the nft program (before 1.1) does not survive
/// listing a rule that asks one map with the very register that another one gave.
pub(super) const STACKS: &str = "stacks";
/// Protocols that have ports.
pub(super) const WITH_PORTS: &str = "with_ports";
/// The packet mark's bit that says: host endpoints have allowed it before it was tracked or translated.
/// Only used where there is such policy.
pub(super) const HOST_ALLOWED: u32 = 1 << 27;
const UNFORWARDABLE: [&str; 2] = ["unforwardable4", "unforwardable6"];
const NAT_SOURCES: [&str; 2] = ["nat4", "nat6"];
const INSIDE: [&str; 2] = ["inside4", "inside6"];

/// `NF_IP_PRI_RAW_BEFORE_DEFRAG`, the same number for IPv6.
const BEFORE_DEFRAG: i32 = -450;
pub(super) const FILTER: i32 = 0;
/// `NF_IP_PRI_NAT_SRC`.
const SOURCE_NAT: i32 = 100;

/// Destinations that no workload reaches through its host, and IPv6 sources that stay on their link.
const NEVER_FORWARDED: [&[&str]; 2] = [
    &["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"],
    &["::/127", "fe80::/10", "ff00::/8"],
];

pub(super) const ICMPV6: u8 = 58;
pub(super) const TCP: u8 = 6;
const UDP: u8 = 17;
/// Connection tracking state bits (`NF_CT_STATE_BIT`): invalid, established, related.
pub(super) const CT_INVALID: u32 = 1;
pub(super) const CT_GOING_ON: u32 = 2 | 4;

/// What the table ought to hold, but for the elements that belong to endpoints.
pub(super) fn render(guard: &Guard, nat: &Nat, hosts: &Hosts) -> Result<Ruleset, Error> {
    let prefixes = link_prefixes(guard)?;
    let mut chains = chains(&prefixes, guard.endpoint_to_host);
    chains.extend(hosts.chains(&prefixes));
    Ok(Ruleset { chains, sets: sets(nat) })
}

/// The beginnings of link names, without those that begin with another one.
fn link_prefixes(guard: &Guard) -> Result<Vec<&str>, Error> {
    let all = &guard.link_prefixes;
    if let Some(wrong) = all.iter().find(|prefix| prefix.is_empty() || prefix.len() > 15) {
        let fix = "give 1 to 15 characters that the names of workload links begin with, e.g. lh";
        return Err(Error::Invalid(format!("interface prefix '{wrong}' cannot be guarded: {fix}")));
    }
    let shorter = |prefix: &str| all.iter().any(|other| other != prefix && prefix.starts_with(other.as_str()));
    Ok(all.iter().map(String::as_str).filter(|prefix| !shorter(prefix)).collect())
}

/// Index of a family in the pairs of names above.
pub(super) fn family_index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

fn sets(nat: &Nat) -> BTreeMap<String, Set> {
    let mut sets = BTreeMap::new();
    let mut add = |name: &str, fields: &[Field], keys, elements| {
        let spec = SetSpec { fields: fields.to_vec(), keys, gives: Gives::Nothing };
        sets.insert(name.to_owned(), Set { spec, elements });
    };
    for family in Family::ALL {
        let index = family_index(family);
        let address = match family {
            Family::V4 => Field::V4,
            Family::V6 => Field::V6,
        };
        add(SOURCES[index], &[Field::Name, address], Keys::Exact, None);
        add(PREFIXES[index], &[Field::Name, address], Keys::Ranges, None);
        let never = NEVER_FORWARDED[index].iter().filter_map(|text| text.parse().ok()).collect();
        for (name, prefixes) in
            [(UNFORWARDABLE[index], &never), (NAT_SOURCES[index], &nat.sources), (INSIDE[index], &nat.inside)]
        {
            add(name, &[address], Keys::Ranges, Some(ranges::elements(prefixes, family)));
        }
    }
    add(WITH_PORTS, &[Field::Protocol], Keys::Exact, Some(PORTED.map(|number| Element::key(vec![number])).into()));
    for name in LINK_STACKS {
        let spec = SetSpec { fields: vec![Field::Name], keys: Keys::Exact, gives: Gives::Value(Field::V6) };
        sets.insert(name.to_owned(), Set { spec, elements: None });
    }
    let spec = SetSpec { fields: vec![Field::V4; 3], keys: Keys::Exact, gives: Gives::Verdict };
    sets.insert(STACKS.to_owned(), Set { spec, elements: None });
    sets
}

fn chains(prefixes: &[&str], to_host: EndpointToHost) -> BTreeMap<String, Chain> {
    let base = |role, point, priority, rules| Chain {
        hook: Some(Hook { role, point, priority }),
        rules,
        foreign_policy: false,
    };
    let inner = |rules| Chain { hook: None, rules, foreign_policy: false };
    BTreeMap::from(
        [
            ("prerouting", base(Role::Filter, Point::Prerouting, BEFORE_DEFRAG, prerouting(prefixes))),
            ("forward", base(Role::Filter, Point::Forward, FILTER, forward(prefixes))),
            ("forward_to", base(Role::Filter, Point::Forward, FILTER + 1, forward_to(prefixes))),
            ("input", base(Role::Filter, Point::Input, FILTER, input(prefixes))),
            ("postrouting", base(Role::Nat, Point::Postrouting, SOURCE_NAT, postrouting(prefixes))),
            ("check_source", inner(check_source())),
            ("check_options", inner(check_options())),
            ("check_link_local", inner(check_link_local())),
            ("link_only", inner(link_only())),
            ("from_workload", inner(from_workload())),
            ("judge_from", inner(judge("no-policy-from", Meta::InputName, LINK_STACKS[0]))),
            ("to_workload", inner(to_workload())),
            ("to_host", inner(to_host_rules(to_host))),
        ]
        .map(|(name, chain)| (name.to_owned(), chain)),
    )
}

pub(super) fn rule(id: &str, exprs: impl IntoIterator<Item = Vec<Expr>>) -> Rule {
    Rule { id: id.to_owned(), exprs: exprs.into_iter().flatten().collect() }
}

pub(super) fn payload(base: Base, offset: u32, len: u32) -> Expr {
    Expr::Payload { base, offset, len, to: Reg::R1 }
}

pub(super) fn compare(op: Compare, value: &[u8]) -> Expr {
    Expr::Cmp { op, from: Reg::R1, value: value.to_vec() }
}

pub(super) fn meta(key: Meta, value: &[u8]) -> Vec<Expr> {
    vec![Expr::Meta { key, to: Reg::R1 }, compare(Compare::Eq, value)]
}

pub(super) fn family(family: Family) -> Vec<Expr> {
    let number = match family {
        Family::V4 => libc::NFPROTO_IPV4,
        Family::V6 => libc::NFPROTO_IPV6,
    };
    meta(Meta::Protocol, &[number.to_le_bytes()[0]])
}

pub(super) fn decide(verdict: Verdict) -> Vec<Expr> {
    vec![Expr::Verdict(verdict)]
}

fn jump(chain: &str) -> Vec<Expr> {
    decide(Verdict::Jump(chain.to_owned()))
}

pub(super) fn count_and_drop() -> Vec<Expr> {
    vec![Expr::Counter, Expr::Verdict(Verdict::Drop)]
}

/// One rule for each beginning of a workload link's name.
pub(super) fn per_prefix(prefixes: &[&str], key: Meta, id: &str, then: &Expr) -> Vec<Rule> {
    let rule_of = |prefix: &&str| rule(&format!("{id} {prefix}"), [meta(key, prefix.as_bytes()), vec![then.clone()]]);
    prefixes.iter().map(rule_of).collect()
}

fn jump_to(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Jump(chain.to_owned()))
}

/// `state & bits != 0`.
pub(super) fn ct_state(bits: u32) -> Vec<Expr> {
    let mask = bits.to_ne_bytes().to_vec();
    vec![
        Expr::CtState { to: Reg::R1 },
        Expr::Bitwise { reg: Reg::R1, mask, xor: vec![0; 4] },
        compare(Compare::Ne, &[0; 4]),
    ]
}

/// Offset and length of the source and the destination address in the IP header.
pub(super) fn addresses(family: Family) -> (u32, u32, u32) {
    match family {
        Family::V4 => (12, 16, 4),
        Family::V6 => (8, 24, 16),
    }
}

fn source_in(of: Family, set: &str, find: Find) -> Vec<Expr> {
    let (source, _, len) = addresses(of);
    vec![payload(Base::Network, source, len), Expr::Lookup { set: set.to_owned(), from: Reg::R1, find }]
}

fn destination_in(of: Family, set: &str, find: Find) -> Vec<Expr> {
    let (_, destination, len) = addresses(of);
    vec![payload(Base::Network, destination, len), Expr::Lookup { set: set.to_owned(), from: Reg::R1, find }]
}

fn prerouting(prefixes: &[&str]) -> Vec<Rule> {
    let check = Expr::Verdict(Verdict::Goto("check_source".to_owned()));
    per_prefix(prefixes, Meta::InputName, "from", &check)
}

fn check_source() -> Vec<Rule> {
    // More than the plain 20 bytes of header: there are options. The same for IPv6: what is behind the header is
    // none of what nearly every packet has there.
    let v4_options = vec![payload(Base::Network, 0, 1), compare(Compare::Ne, &[0x45])];
    let mut v6_options = vec![payload(Base::Network, 6, 1)];
    v6_options.extend([TCP, UDP, ICMPV6].map(|number| compare(Compare::Ne, &[number])));
    let mut rules = vec![
        rule("options4", [family(Family::V4), v4_options, jump("check_options")]),
        rule("options6", [family(Family::V6), v6_options, jump("check_options")]),
    ];
    for (sets, id) in [(SOURCES, "source"), (PREFIXES, "prefix")] {
        for of in Family::ALL {
            let (source, _, len) = addresses(of);
            let index = family_index(of);
            let key = vec![
                Expr::Meta { key: Meta::InputName, to: Reg::R1 },
                Expr::Payload { base: Base::Network, offset: source, len, to: Reg::R2 },
                Expr::Lookup { set: sets[index].to_owned(), from: Reg::R1, find: Find::Present },
            ];
            rules.push(rule(&format!("{id} {of}"), [family(of), key, decide(Verdict::Accept)]));
        }
    }
    let icmpv6 = meta(Meta::Transport, &[ICMPV6]);
    rules.push(rule("link-local", [family(Family::V6), icmpv6, jump("check_link_local")]));
    rules.push(rule("spoofed", [count_and_drop()]));
    rules
}

/// Source routing: IPv4's loose and strict source route options (RFC 791), IPv6's routing header (RFC 8200 section 4.4).
fn check_options() -> Vec<Rule> {
    let has = |header, number| vec![Expr::HasHeader { header, number, to: Reg::R1 }, compare(Compare::Eq, &[1])];
    [
        ("loose-source-route", Family::V4, Header::Option, 131),
        ("strict-source-route", Family::V4, Header::Option, 137),
        ("routing-header", Family::V6, Header::Extension, 43),
    ]
    .into_iter()
    .map(|(id, of, header, number)| rule(id, [family(of), has(header, number), count_and_drop()]))
    .collect()
}

/// ICMPv6 from a link-local source or none: neighbour discovery and multicast listener reports pass, see [`link_only`].
fn check_link_local() -> Vec<Rule> {
    let source = |mask: [u8; 16], value: [u8; 16]| {
        let bits = Expr::Bitwise { reg: Reg::R1, mask: mask.to_vec(), xor: vec![0; 16] };
        vec![payload(Base::Network, 8, 16), bits, compare(Compare::Eq, &value)]
    };
    let link_local = source(first_bytes(0xff, 0xc0), first_bytes(0xfe, 0x80));
    let none = vec![payload(Base::Network, 8, 16), compare(Compare::Eq, &[0; 16])];
    vec![
        rule("link-local source", [family(Family::V6), link_local, jump("link_only")]),
        rule("no source", [family(Family::V6), none, jump("link_only")]),
    ]
}

fn first_bytes(first: u8, second: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0] = first;
    bytes[1] = second;
    bytes
}

/// ICMPv6 of types `first` to `last` with this hop limit.
pub(super) fn icmpv6(limit: u8, first: u8, last: u8) -> Vec<Expr> {
    let mut exprs = family(Family::V6);
    exprs.extend([payload(Base::Network, 7, 1), compare(Compare::Eq, &[limit])]);
    exprs.extend(meta(Meta::Transport, &[ICMPV6]));
    exprs.push(payload(Base::Transport, 0, 1));
    if first == last {
        exprs.push(compare(Compare::Eq, &[first]));
    } else {
        exprs.extend([compare(Compare::Ge, &[first]), compare(Compare::Le, &[last])]);
    }
    exprs
}

/// What only makes sense on the link. The hop limit shows that no router has passed it on: 255 for neighbour
/// discovery (RFC 4861 section 7.1), 1 for multicast listener discovery (RFC 3810 section 5).
fn link_only() -> Vec<Rule> {
    [
        ("router solicitation", 255, 133, 133),
        ("neighbour discovery", 255, 135, 136),
        ("listener discovery", 1, 131, 132),
        ("listener report", 1, 143, 143),
    ]
    .into_iter()
    .map(|(id, limit, first, last)| rule(id, [icmpv6(limit, first, last), decide(Verdict::Accept)]))
    .collect()
}

fn forward(prefixes: &[&str]) -> Vec<Rule> {
    let mut rules = vec![rule("established", [ct_state(CT_GOING_ON), decide(Verdict::Accept)])];
    rules.extend(per_prefix(prefixes, Meta::InputName, "from", &jump_to("from_workload")));
    rules
}

fn forward_to(prefixes: &[&str]) -> Vec<Rule> {
    let mut rules = vec![rule("established", [ct_state(CT_GOING_ON), decide(Verdict::Accept)])];
    rules.extend(per_prefix(prefixes, Meta::OutputName, "to", &jump_to("to_workload")));
    rules
}

/// A TCP reset where that is an answer, an ICMP error elsewhere.
pub(super) fn refuse() -> Vec<Rule> {
    vec![
        rule("reset", [meta(Meta::Transport, &[TCP]), vec![Expr::Reject(Reject::Reset)]]),
        rule("prohibited", [vec![Expr::Reject(Reject::Prohibited)]]),
        rule("silent", [decide(Verdict::Drop)]),
    ]
}

fn from_workload() -> Vec<Rule> {
    let mut rules = vec![rule("invalid", [ct_state(CT_INVALID), count_and_drop()])];
    for of in Family::ALL {
        let set = UNFORWARDABLE[family_index(of)];
        let to = [family(of), destination_in(of, set, Find::Present), count_and_drop()];
        rules.push(rule(&format!("unforwardable {of} destination"), to));
        let from = [family(of), source_in(of, set, Find::Present), count_and_drop()];
        rules.push(rule(&format!("unforwardable {of} source"), from));
    }
    rules.push(rule("judge", [decide(Verdict::Goto("judge_from".to_owned()))]));
    rules
}

/// Asks the stack of a link, by its name; drops what has none.
fn judge(unknown: &str, key: Meta, map: &str) -> Vec<Rule> {
    let lookup = |set: &str, from, find| Expr::Lookup { set: set.to_owned(), from, find };
    let ask = vec![
        Expr::Meta { key, to: Reg::R1 },
        lookup(map, Reg::R1, Find::Value(Reg::R2)),
        lookup(STACKS, Reg::Sixth, Find::Verdict),
    ];
    vec![rule("judge", [ask]), rule(unknown, [count_and_drop()])]
}

fn to_workload() -> Vec<Rule> {
    let mut rules = vec![rule("invalid", [ct_state(CT_INVALID), count_and_drop()])];
    rules.extend(judge("no-policy-to", Meta::OutputName, LINK_STACKS[1]));
    rules
}

fn input(prefixes: &[&str]) -> Vec<Rule> {
    per_prefix(prefixes, Meta::InputName, "from", &jump_to("to_host"))
}

fn to_host_rules(action: EndpointToHost) -> Vec<Rule> {
    let mut rules = vec![
        rule("established", [ct_state(CT_GOING_ON), decide(Verdict::Accept)]),
        rule("invalid", [ct_state(CT_INVALID), count_and_drop()]),
        rule("neighbour discovery", [icmpv6(255, 135, 136), decide(Verdict::Accept)]),
    ];
    let bgp = vec![payload(Base::Transport, 2, 2), compare(Compare::Eq, &179u16.to_be_bytes())];
    let no_bgp = rule("bgp", [meta(Meta::Transport, &[TCP]), bgp, count_and_drop()]);
    match action {
        EndpointToHost::Drop => rules.push(rule("to-host", [count_and_drop()])),
        // What its policy allows, goes on: in either case to the host's other rules.
        EndpointToHost::Accept | EndpointToHost::Return => {
            rules.extend([no_bgp, rule("judge", [decide(Verdict::Goto("judge_from".to_owned()))])]);
        }
    }
    rules
}

fn postrouting(prefixes: &[&str]) -> Vec<Rule> {
    let stay = Expr::Verdict(Verdict::Accept);
    let mut rules = per_prefix(prefixes, Meta::OutputName, "to", &stay);
    for of in Family::ALL {
        let index = family_index(of);
        let from = source_in(of, NAT_SOURCES[index], Find::Present);
        let outside = destination_in(of, INSIDE[index], Find::Absent);
        rules.push(rule(&format!("masquerade {of}"), [family(of), from, outside, vec![Expr::Masquerade]]));
    }
    rules
}

/// What a drop rule's count means to an operator; `None` for rules that do not drop.
pub(super) fn drop_reason(chain: &str, id: &str) -> Option<&'static str> {
    let reason = match (chain, id) {
        ("check_source", "spoofed") => "spoofed",
        ("check_options", _) => "source_route",
        ("from_workload" | "to_workload" | "to_host", "invalid") => "invalid",
        ("from_workload", id) if id.starts_with("unforwardable") => "unforwardable",
        ("judge_from", "no-policy-from") => "no_policy_from",
        ("to_workload", "no-policy-to") => "no_policy_to",
        ("to_host", "to-host") => "to_host",
        ("to_host", "bgp") => "to_host_bgp",
        _ => return None,
    };
    Some(reason)
}

/// All reasons that [`drop_reason`] may give.
pub(super) fn drop_reasons() -> BTreeSet<&'static str> {
    let all = [
        "spoofed",
        "source_route",
        "invalid",
        "unforwardable",
        "no_policy_from",
        "no_policy_to",
        "to_host",
        "to_host_bgp",
    ];
    BTreeSet::from(all)
}

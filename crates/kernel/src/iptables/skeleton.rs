//! The fixed chains: what guards workload links whether or not the agent lives. The same in meaning as the nftables
//! skeleton, as far as iptables can say it.
//!
//! ```text
//! raw PREROUTING    workload link ─▶ source: (source, link) in a set, else drop; others ─▶ untracked policy of interfaces
//! mangle PREROUTING policy of interfaces before DNAT
//! filter FORWARD    established, related ─▶ accept if a workload's; forward policy of interfaces;
//!                   from-workload: invalid, unforwardable, then LASTHOP-from; to-workload: invalid, then LASTHOP-to; accept
//! filter INPUT      workload link ─▶ to-host; others ─▶ input policy of interfaces
//! filter OUTPUT     output policy of interfaces
//! nat POSTROUTING   source in a NAT pool, destination in no pool, not to a workload ─▶ masquerade
//! ```
//!
//! What differs from nftables, because iptables is what it is:
//! * The raw table comes after defragmentation (-300 against -450, unless `iptable_raw` was loaded with `raw_before_defrag`):
//!   a forged fragment can still spoil the reassembly of another workload's packet, though never pass for it.
//! * `ACCEPT` ends the base chain for good, so a workload's packet that we accept meets no later rule of others there. It
//!   has to be so: hosts with iptables often forward nothing by default. What is no workload's is left to later rules.
//! * Source routing in IPv4 is found by looking for the option's number among the first bytes behind the header of packets
//!   that have options, so a harmless option that holds that byte is dropped too.

use super::rule::{Chain, Chains, Hook, Rule, Table, Target};
use super::sets::{Element, Kind, Spec, nets};
use super::{Error, Mask};
use lasthop_compute::{EndpointToHost, Guard, Nat};
use lasthop_net::{Family, Prefix};
use std::collections::{BTreeMap, BTreeSet};

/// Where links of workloads are looked up by what they send, and by what they are sent: kept by policy.
pub(super) const FROM: &str = "LASTHOP-from";
pub(super) const TO: &str = "LASTHOP-to";
const RAW_IN: &str = "LASTHOP-raw-in";
const RAW_OUT: &str = "LASTHOP-raw-out";
const BEFORE_DNAT: &str = "LASTHOP-before-dnat";
const POSTROUTING: &str = "LASTHOP-postrouting";
const FORWARD: &str = "LASTHOP-forward";
const INPUT: &str = "LASTHOP-input";
const OUTPUT: &str = "LASTHOP-output";
const SOURCE: &str = "LASTHOP-source";
const LINK_ONLY_CHAIN: &str = "LASTHOP-link-only";
const GOING_ON: &str = "LASTHOP-going-on";
const ACCEPT: &str = "LASTHOP-accept";
const FROM_WORKLOAD: &str = "LASTHOP-from-workload";
const TO_WORKLOAD: &str = "LASTHOP-to-workload";
const TO_HOST: &str = "LASTHOP-to-host";

/// Destinations that no workload reaches through its host, and IPv6 sources that stay on their link.
const NEVER_FORWARDED: [&[&str]; 2] = [
    &["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"],
    &["::/127", "fe80::/10", "ff00::/8"],
];

/// Policy of the host's own interfaces, by the place where packets meet it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    UntrackedIn,
    UntrackedOut,
    BeforeDnat,
    Input,
    Output,
    ForwardIn,
    ForwardOut,
}

impl Place {
    pub(super) const ALL: [Self; 7] = [
        Self::UntrackedIn,
        Self::UntrackedOut,
        Self::BeforeDnat,
        Self::Input,
        Self::Output,
        Self::ForwardIn,
        Self::ForwardOut,
    ];

    pub(super) fn table(self) -> Table {
        match self {
            Self::UntrackedIn | Self::UntrackedOut => Table::Raw,
            Self::BeforeDnat => Table::Mangle,
            _ => Table::Filter,
        }
    }

    /// The chain in which interfaces are looked up.
    pub(super) fn chain(self) -> &'static str {
        match self {
            Self::UntrackedIn => "LASTHOP-if-untracked-in",
            Self::UntrackedOut => "LASTHOP-if-untracked-out",
            Self::BeforeDnat => "LASTHOP-if-before-dnat",
            Self::Input => "LASTHOP-if-input",
            Self::Output => "LASTHOP-if-output",
            Self::ForwardIn => "LASTHOP-if-forward-in",
            Self::ForwardOut => "LASTHOP-if-forward-out",
        }
    }
}

/// All that the fixed chains depend on.
#[derive(Clone, Debug)]
pub(super) struct Inputs<'a> {
    pub(super) guard: &'a Guard,
    /// Places where the host's own interfaces have policy.
    pub(super) places: &'a BTreeSet<Place>,
    pub(super) mask: Mask,
}

impl Inputs<'_> {
    /// Whether policy before this place may have allowed a packet for good. Else the bit that says so is not ours to read.
    fn may_be_settled(&self, place: Place) -> bool {
        let before: &[Place] = match place {
            Place::Output => &[Place::UntrackedOut],
            _ => &[Place::UntrackedIn, Place::BeforeDnat],
        };
        before.iter().any(|place| self.places.contains(place))
    }
}

/// The beginnings of link names as iptables matches them, without those that begin with another one.
pub(super) fn link_patterns(guard: &Guard) -> Result<Vec<String>, Error> {
    let all = &guard.link_prefixes;
    let wrong = |prefix: &&String| prefix.is_empty() || prefix.len() > 15 || !is_plain(prefix);
    if let Some(wrong) = all.iter().find(wrong) {
        let fix = "give 1 to 15 letters, digits, '.', '_' or '-' that the names of workload links begin with, e.g. lh";
        return Err(Error::Invalid(format!("interface prefix '{wrong}' cannot be guarded: {fix}")));
    }
    let shorter = |prefix: &str| all.iter().any(|other| other != prefix && prefix.starts_with(other.as_str()));
    // A name of 15 characters is a whole one.
    let pattern = |prefix: &String| if prefix.len() == 15 { prefix.clone() } else { format!("{prefix}+") };
    Ok(all.iter().filter(|prefix| !shorter(prefix)).map(pattern).collect())
}

/// Whether a name means itself in a line for `iptables-restore` and `ipset`.
pub(super) fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
    !name.starts_with('-') && name.chars().all(plain)
}

/// Calls from base chains.
pub(super) fn hooks(places: &BTreeSet<Place>) -> Vec<Hook> {
    let mut hooks = vec![
        Hook { table: Table::Raw, base: "PREROUTING", ours: RAW_IN },
        Hook { table: Table::Nat, base: "POSTROUTING", ours: POSTROUTING },
        Hook { table: Table::Filter, base: "INPUT", ours: INPUT },
        Hook { table: Table::Filter, base: "FORWARD", ours: FORWARD },
    ];
    let mut also = |place, table, base, ours| {
        if places.contains(&place) {
            hooks.push(Hook { table, base, ours });
        }
    };
    also(Place::UntrackedOut, Table::Raw, "OUTPUT", RAW_OUT);
    also(Place::BeforeDnat, Table::Mangle, "PREROUTING", BEFORE_DNAT);
    also(Place::Output, Table::Filter, "OUTPUT", OUTPUT);
    hooks
}

/// The fixed chains of a family.
pub(super) fn chains(inputs: &Inputs<'_>, family: Family) -> Result<Chains, Error> {
    let patterns = &link_patterns(inputs.guard)?;
    let mut chains = Chains::new();
    let mut put = |table, name: &str, rules| {
        chains.insert((table, name.to_owned()), Chain::new(name, rules));
    };
    put(Table::Raw, RAW_IN, raw_in(patterns, inputs));
    put(Table::Raw, SOURCE, source(family));
    if family == Family::V6 {
        put(Table::Raw, LINK_ONLY_CHAIN, link_only());
    }
    put(Table::Nat, POSTROUTING, postrouting(patterns, family));
    put(Table::Filter, FORWARD, forward(patterns, inputs));
    put(Table::Filter, GOING_ON, both_ways(patterns, "established", &Target::Accept));
    put(Table::Filter, ACCEPT, vec![inputs.mask.clear_rule(), Rule::new("accept", "", Target::Accept)]);
    put(Table::Filter, FROM_WORKLOAD, from_workload(family));
    put(Table::Filter, TO_WORKLOAD, vec![invalid(), goto(TO)]);
    put(Table::Filter, INPUT, input(patterns, inputs));
    put(Table::Filter, TO_HOST, to_host(inputs, family));
    for (place, table, name, rules) in [
        (Place::UntrackedOut, Table::Raw, RAW_OUT, raw_out(patterns, inputs)),
        (Place::BeforeDnat, Table::Mangle, BEFORE_DNAT, before_dnat(inputs)),
        (Place::Output, Table::Filter, OUTPUT, output(patterns, inputs)),
    ] {
        if inputs.places.contains(&place) {
            put(table, name, rules);
        }
    }
    Ok(chains)
}

/// Names of the fixed sets of a family: sources of links, NAT sources, pools, what is never forwarded.
pub(super) fn set_names(family: Family) -> [String; 4] {
    ["src", "nat", "in", "unf"].map(|name| format!("lh-{name}{}", super::sets::digit(family)))
}

/// The fixed sets of both families, but for the sources of links.
pub(super) fn fixed_sets(nat: &Nat) -> BTreeMap<String, Spec> {
    let mut sets = BTreeMap::new();
    for family in Family::ALL {
        let [_, from, inside, unforwardable] = set_names(family);
        let never = NEVER_FORWARDED[super::index(family)].iter().filter_map(|text| text.parse().ok()).collect();
        for (name, prefixes) in [(from, &nat.sources), (inside, &nat.inside), (unforwardable, &never)] {
            let of_family = |prefix: &&Prefix| prefix.family() == family;
            let members = prefixes.iter().filter(of_family).flat_map(|p| nets(*p)).map(Element::Net).collect();
            sets.insert(name, Spec { kind: Kind::Nets, family, members });
        }
    }
    sets
}

fn jump(chain: &str) -> Rule {
    Rule::new("-", "", Target::Jump(chain.to_owned()))
}

fn goto(chain: &str) -> Rule {
    Rule::new("-", "", Target::Goto(chain.to_owned()))
}

fn drop(id: &str, matches: &str) -> Rule {
    Rule::new(id, matches, Target::Drop)
}

fn state(states: &str) -> String {
    format!(" -m conntrack --ctstate {states}")
}

fn invalid() -> Rule {
    drop("invalid", &state("INVALID"))
}

fn per_pattern(patterns: &[String], option: &str, id: &str, target: &Target) -> Vec<Rule> {
    patterns.iter().map(|pattern| Rule::new(id, format!(" {option} {pattern}"), target.clone())).collect()
}

fn both_ways(patterns: &[String], id: &str, target: &Target) -> Vec<Rule> {
    [per_pattern(patterns, "-i", id, target), per_pattern(patterns, "-o", id, target)].concat()
}

fn raw_in(patterns: &[String], inputs: &Inputs<'_>) -> Vec<Rule> {
    let mut rules = per_pattern(patterns, "-i", "-", &Target::Goto(SOURCE.to_owned()));
    if inputs.places.contains(&Place::UntrackedIn) {
        rules.push(inputs.mask.clear_rule());
        rules.push(jump(Place::UntrackedIn.chain()));
        rules.extend(not_tracked(inputs.mask));
    }
    rules
}

/// What untracked policy has allowed is not tracked, and settled.
fn not_tracked(mask: Mask) -> [Rule; 2] {
    let allowed = mask.is_allowed();
    [
        Rule::new("untracked", &allowed, Target::Other("CT --notrack".to_owned())),
        Rule::new("untracked", &allowed, mask.settle()),
    ]
}

fn raw_out(patterns: &[String], inputs: &Inputs<'_>) -> Vec<Rule> {
    let mut rules = per_pattern(patterns, "-o", "-", &Target::Return);
    rules.push(inputs.mask.clear_rule());
    rules.push(jump(Place::UntrackedOut.chain()));
    rules.extend(not_tracked(inputs.mask));
    rules
}

fn before_dnat(inputs: &Inputs<'_>) -> Vec<Rule> {
    let mask = inputs.mask;
    let mut rules = vec![Rule::new("established", state("RELATED,ESTABLISHED"), Target::Return)];
    rules.push(match inputs.places.contains(&Place::UntrackedIn) {
        true => Rule::new("settled", mask.is_settled(), Target::Return),
        // Nobody before has said anything, so what is there is not ours.
        false => mask.clear_rule(),
    });
    rules.push(jump(Place::BeforeDnat.chain()));
    rules.push(Rule::new("settled", mask.is_allowed(), mask.settle()));
    rules
}

fn source(family: Family) -> Vec<Rule> {
    let [sources, ..] = set_names(family);
    let mut rules = Vec::new();
    match family {
        Family::V4 => {
            for number in ["83", "89"] {
                let option = format!(
                    " -m u32 --u32 0>>24&0xF=6:15 -m string --algo bm --from 20 --to 60 --hex-string |{number}|"
                );
                rules.push(drop("source_route", &option));
            }
        }
        Family::V6 => rules.push(drop("source_route", " -m rt")),
    }
    rules.push(Rule::new("source", format!(" -m set --match-set {sources} src,src"), Target::Return));
    if family == Family::V6 {
        for from in ["fe80::/10", "::"] {
            let matches = format!(" -s {from} -p 58");
            rules.push(Rule::new("-", matches, Target::Goto(LINK_ONLY_CHAIN.to_owned())));
        }
    }
    rules.push(drop("spoofed", ""));
    rules
}

/// What only makes sense on the link, as hop limit and ICMPv6 type. The hop limit shows that no router has passed it on: 255
/// for neighbour discovery (RFC 4861 section 7.1), 1 for multicast listener discovery (RFC 3810 section 5).
pub(super) const LINK_ONLY: [(u8, u8); 8] =
    [(255, 133), (255, 134), (255, 135), (255, 136), (1, 130), (1, 131), (1, 132), (1, 143)];

/// The same without what only routers say.
fn link_only() -> Vec<Rule> {
    let of_guests = LINK_ONLY.into_iter().filter(|(_, kind)| ![130, 134].contains(kind));
    let mut rules: Vec<Rule> =
        of_guests.map(|(limit, kind)| Rule::new("link_only", icmpv6(limit, kind), Target::Return)).collect();
    rules.push(drop("spoofed", ""));
    rules
}

pub(super) fn icmpv6(limit: u8, kind: u8) -> String {
    format!(" -p 58 -m hl --hl-eq {limit} -m icmp6 --icmpv6-type {kind}")
}

fn forward(patterns: &[String], inputs: &Inputs<'_>) -> Vec<Rule> {
    let going_on = Rule::new("established", state("RELATED,ESTABLISHED"), Target::Goto(GOING_ON.to_owned()));
    let of_interface = |place: Place| {
        let unsettled = if inputs.may_be_settled(place) { inputs.mask.is_not_settled() } else { String::new() };
        let rule = Rule::new("-", unsettled, Target::Jump(place.chain().to_owned()));
        inputs.places.contains(&place).then_some(rule)
    };
    let mut rules = vec![going_on];
    rules.extend(of_interface(Place::ForwardIn));
    rules.extend(per_pattern(patterns, "-i", "-", &Target::Jump(FROM_WORKLOAD.to_owned())));
    rules.extend(per_pattern(patterns, "-o", "-", &Target::Jump(TO_WORKLOAD.to_owned())));
    rules.extend(of_interface(Place::ForwardOut));
    rules.extend(both_ways(patterns, "-", &Target::Goto(ACCEPT.to_owned())));
    rules
}

fn from_workload(family: Family) -> Vec<Rule> {
    let [.., unforwardable] = set_names(family);
    let never = |word: &str| drop("unforwardable", &format!(" -m set --match-set {unforwardable} {word}"));
    vec![invalid(), never("dst"), never("src"), goto(FROM)]
}

fn input(patterns: &[String], inputs: &Inputs<'_>) -> Vec<Rule> {
    let mut rules = per_pattern(patterns, "-i", "-", &Target::Goto(TO_HOST.to_owned()));
    if inputs.places.contains(&Place::Input) {
        rules.extend(of_host(inputs, Place::Input));
    }
    rules
}

/// Packets to or from the host itself that are neither part of what goes on nor settled meet the policy of their interface.
fn of_host(inputs: &Inputs<'_>, place: Place) -> Vec<Rule> {
    let mut rules = vec![Rule::new("established", state("RELATED,ESTABLISHED"), Target::Return)];
    if inputs.may_be_settled(place) {
        rules.push(Rule::new("settled", inputs.mask.is_settled(), Target::Return));
    }
    rules.push(goto(place.chain()));
    rules
}

fn output(patterns: &[String], inputs: &Inputs<'_>) -> Vec<Rule> {
    let mut rules = per_pattern(patterns, "-o", "-", &Target::Return);
    rules.extend(of_host(inputs, Place::Output));
    rules
}

fn to_host(inputs: &Inputs<'_>, family: Family) -> Vec<Rule> {
    let mut rules = vec![Rule::new("established", state("RELATED,ESTABLISHED"), Target::Accept), invalid()];
    if family == Family::V6 {
        rules.extend([135, 136].map(|kind| Rule::new("neighbours", icmpv6(255, kind), Target::Accept)));
    }
    let no_bgp = drop("to_host_bgp", " -p 6 -m multiport --dports 179");
    match inputs.guard.endpoint_to_host {
        EndpointToHost::Drop => rules.push(drop("to_host", "")),
        EndpointToHost::Accept => rules.extend([no_bgp, jump(FROM), goto(ACCEPT)]),
        EndpointToHost::Return => rules.extend([no_bgp, jump(FROM), inputs.mask.clear_rule()]),
    }
    rules
}

fn postrouting(patterns: &[String], family: Family) -> Vec<Rule> {
    let [_, from, inside, _] = set_names(family);
    let mut rules = per_pattern(patterns, "-o", "-", &Target::Return);
    let outside = format!(" -m set --match-set {from} src -m set ! --match-set {inside} dst");
    rules.push(Rule::new("masquerade", outside, Target::Other("MASQUERADE".to_owned())));
    rules
}

/// Ids of rules that drop, each a reason that an operator may ask for.
pub(super) const DROP_REASONS: [&str; 9] = [
    "spoofed",
    "source_route",
    "invalid",
    "unforwardable",
    "no_policy_from",
    "no_policy_to",
    "to_host",
    "to_host_bgp",
    "unusable",
];

//! What a rule of a policy asks of a packet, in the words of iptables: one or more lines that each match a part of it.
//!
//! * A line holds what must all be true; what may be one or the other (more ports than one `multiport` takes, ports by
//!   number or in sets, protocols that have ports) is one line each, with the same target.
//! * More than one prefix is a set, so there is no limit to them and "none of these" is one match.
//! * "None of these ports" of whatever protocol cannot be said in one line: it is a chain of its own that leaves again
//!   for each of them ([`Line::unless`]). So is what is more than a line takes.

use super::sets::{self, Element, Kind, Spec};
use lasthop_net::{Family, Prefix};
use lasthop_policy::ir::{Icmp, PortRange, Ports, Rule, SetId, Side};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Ports that `multiport` takes; a range counts twice (`XT_MULTI_PORTS`).
const SLOTS: usize = 15;
/// Matches in one line: it takes 255 words in all (`MAX_ARGC`), and with nftables underneath 4,096 bytes.
const MATCHES: usize = 16;
/// Protocols with ports: TCP, UDP, SCTP, UDPLite.
const WITH_PORTS: [u8; 4] = [6, 17, 132, 136];

/// One line of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// All of these.
    pub(super) matches: String,
    /// And none of these.
    pub(super) unless: Vec<String>,
}

/// Where sets are looked up, and lists of prefixes put down.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) family: Family,
    /// The kind of every set.
    pub(super) kinds: &'a BTreeMap<SetId, Kind>,
    /// Sets of prefixes that rules write out, by name.
    pub(super) lists: BTreeMap<String, Spec>,
}

/// Which way a match looks.
#[derive(Clone, Copy)]
struct Way {
    word: &'static str,
    address: &'static str,
    ports: &'static str,
}

const SOURCE: Way = Way { word: "src", address: "-s", ports: "--sports" };
const DESTINATION: Way = Way { word: "dst", address: "-d", ports: "--dports" };

/// One of the ways in which a packet's port can be right.
#[derive(Clone)]
enum Choice {
    Any,
    Numbers(String),
    Set(String),
}

/// The lines of a rule; none if no packet of the family matches. An error says why it cannot be said.
pub(super) fn lines(rule: &Rule, context: &mut Context<'_>) -> Result<Vec<Line>, String> {
    let family = context.family;
    if rule.family.is_some_and(|only| only != family) || (rule.protocol.is_some() && rule.protocol == rule.not_protocol)
    {
        return Ok(Vec::new());
    }
    if rule.protocol == Some(0) || rule.not_protocol == Some(0) {
        return Err("it names protocol 0, which iptables takes for any: name one from 1 to 255".to_owned());
    }
    let mut common = Line::default();
    for (side, way) in [(&rule.source, SOURCE), (&rule.destination, DESTINATION)] {
        if addresses(side, way, context, &mut common)? == Possible::No {
            return Ok(Vec::new());
        }
    }
    let mut lines = Vec::new();
    for from in choices(rule.source.ports.as_ref(), context)? {
        for to in choices(rule.destination.ports.as_ref(), context)? {
            for protocol in protocols(rule, &from, &to) {
                let mut line = common.clone();
                if protocol_matches(rule, protocol, family, &mut line)? == Possible::Yes {
                    port_matches(&from, SOURCE, &mut line);
                    port_matches(&to, DESTINATION, &mut line);
                    for (side, way) in [(&rule.source, SOURCE), (&rule.destination, DESTINATION)] {
                        excluded_ports(side.not_ports.as_ref(), (protocol, way), context, &mut line)?;
                    }
                    lines.push(line.shortened());
                }
            }
        }
    }
    Ok(lines)
}

impl Line {
    /// The same with no more matches than a line takes: what is above is an exception by its opposite.
    fn shortened(mut self) -> Self {
        const MATCH: &str = " -m ";
        if self.matches.matches(MATCH).count() <= MATCHES {
            return self;
        }
        let text = std::mem::take(&mut self.matches);
        let mut clauses = text.split(MATCH);
        clauses.next().unwrap_or_default().clone_into(&mut self.matches);
        let protocol = self.matches.find(" -p ").map(|at| self.matches[at..].to_owned()).unwrap_or_default();
        for (index, clause) in clauses.enumerate() {
            let opposite = match clause.split_once(' ') {
                Some((module @ ("set" | "multiport"), asked)) if index >= MATCHES => match asked.strip_prefix("! ") {
                    Some(asked) => Some(format!("{MATCH}{module} {asked}")),
                    None => Some(format!("{MATCH}{module} ! {asked}")),
                },
                _ => None,
            };
            match opposite {
                Some(opposite) => self.unless.push(format!("{protocol}{opposite}")),
                None => self.matches.extend([MATCH, clause]),
            }
        }
        self
    }
}

/// Whether any packet can match.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Possible {
    Yes,
    No,
}

fn add(line: &mut Line, text: std::fmt::Arguments<'_>) {
    // Writing to a string never fails.
    let _ = line.matches.write_fmt(text);
}

fn addresses(side: &Side, way: Way, context: &mut Context<'_>, line: &mut Line) -> Result<Possible, String> {
    let Way { word, address, .. } = way;
    let of_family = |nets: &BTreeSet<Prefix>| -> BTreeSet<Prefix> {
        nets.iter().filter(|net| net.family() == context.family).copied().collect()
    };
    let everything = |nets: &BTreeSet<Prefix>| nets.iter().any(|net| net.len() == 0);
    let wanted = side.nets.as_ref().map(&of_family);
    let unwanted = of_family(&side.not_nets);
    if wanted.as_ref().is_some_and(BTreeSet::is_empty) || everything(&unwanted) {
        return Ok(Possible::No);
    }
    let mut spoken = false;
    if let Some(wanted) = wanted.filter(|wanted| !everything(wanted)) {
        if let (1, Some(net)) = (wanted.len(), wanted.first()) {
            add(line, format_args!(" {address} {net}"));
            spoken = true;
        } else {
            add(line, format_args!(" -m set --match-set {} {word}", list(wanted, context)));
        }
    }
    match (unwanted.len(), unwanted.first()) {
        (1, Some(net)) if !spoken => add(line, format_args!(" ! {address} {net}")),
        (0, _) => {}
        _ => add(line, format_args!(" -m set ! --match-set {} {word}", list(unwanted, context))),
    }
    for (sets, not) in [(&side.within, ""), (&side.not_within, " !")] {
        for set in sets {
            let name = name(*set, Holds::Addresses, context)?;
            add(line, format_args!(" -m set{not} --match-set {name} {word}"));
        }
    }
    Ok(Possible::Yes)
}

/// What a set is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    Addresses,
    Ports,
}

fn name(set: SetId, holds: Holds, context: &Context<'_>) -> Result<String, String> {
    let kind = *context.kinds.get(&set).ok_or_else(|| format!("it refers to set {}, which is not there", set.0))?;
    let right = (kind == Kind::Ports) == (holds == Holds::Ports);
    right
        .then(|| sets::name(set, kind, context.family))
        .ok_or_else(|| format!("it refers to set {} for what that set does not hold (it is one of {kind:?})", set.0))
}

fn list(nets: BTreeSet<Prefix>, context: &mut Context<'_>) -> String {
    let family = context.family;
    let name = sets::list_name(&nets, family);
    context.lists.entry(name.clone()).or_insert_with(|| Spec {
        kind: Kind::Nets,
        family,
        members: nets.into_iter().flat_map(sets::nets).map(Element::Net).collect(),
    });
    name
}

fn choices(ports: Option<&Ports>, context: &Context<'_>) -> Result<Vec<Choice>, String> {
    let Some(ports) = ports else { return Ok(vec![Choice::Any]) };
    let numbers = chunks(&ports.ranges).into_iter().map(|chunk| Ok(Choice::Numbers(chunk)));
    let sets = ports.sets.iter().map(|set| Ok(Choice::Set(name(*set, Holds::Ports, context)?)));
    numbers.chain(sets).collect()
}

/// The protocols for which there is a line; `None` is a line for any.
fn protocols(rule: &Rule, from: &Choice, to: &Choice) -> Vec<Option<u8>> {
    let any = matches!((from, to), (Choice::Any, Choice::Any));
    let numbers = [from, to].iter().any(|choice| matches!(choice, Choice::Numbers(_)));
    match rule.protocol {
        Some(protocol) if any || WITH_PORTS.contains(&protocol) => vec![Some(protocol)],
        Some(_) => Vec::new(),
        None if numbers => WITH_PORTS.iter().filter(|p| Some(**p) != rule.not_protocol).map(|p| Some(*p)).collect(),
        None => vec![None],
    }
}

fn protocol_matches(rule: &Rule, protocol: Option<u8>, family: Family, line: &mut Line) -> Result<Possible, String> {
    let icmp = match family {
        Family::V4 => 1,
        Family::V6 => 58,
    };
    match (protocol, rule.not_protocol) {
        (Some(protocol), _) => add(line, format_args!(" -p {protocol}")),
        (None, _) if rule.icmp.is_some() => add(line, format_args!(" -p {icmp}")),
        (None, Some(not)) => add(line, format_args!(" ! -p {not}")),
        (None, None) => {}
    }
    if let Some(kind) = rule.icmp {
        if protocol.is_some_and(|protocol| protocol != icmp) || (protocol.is_none() && rule.not_protocol == Some(icmp))
        {
            return Ok(Possible::No);
        }
        add(line, format_args!("{}", icmp_match(kind, "", family)?));
    }
    if let Some(kind) = rule.not_icmp {
        if protocol == Some(icmp) || rule.icmp.is_some() {
            add(line, format_args!("{}", icmp_match(kind, " !", family)?));
        } else if protocol.is_none() && rule.not_protocol != Some(icmp) {
            line.unless.push(format!(" -p {icmp}{}", icmp_match(kind, "", family)?));
        }
    }
    Ok(Possible::Yes)
}

fn icmp_match(icmp: Icmp, not: &str, family: Family) -> Result<String, String> {
    let (module, option) = match family {
        Family::V4 => ("icmp", "--icmp-type"),
        Family::V6 => ("icmp6", "--icmpv6-type"),
    };
    if icmp.kind == 255 {
        return Err("it names ICMP type 255, which iptables takes for any: name a type from 0 to 254".to_owned());
    }
    let code = icmp.code.map(|code| format!("/{code}")).unwrap_or_default();
    Ok(format!(" -m {module}{not} {option} {}{code}", icmp.kind))
}

fn port_matches(choice: &Choice, way: Way, line: &mut Line) {
    let Way { word, ports, .. } = way;
    match choice {
        Choice::Any => {}
        Choice::Numbers(numbers) => add(line, format_args!(" -m multiport {ports} {numbers}")),
        Choice::Set(name) => add(line, format_args!(" -m set --match-set {name} {word},{word}")),
    }
}

fn excluded_ports(
    excluded: Option<&Ports>,
    (protocol, way): (Option<u8>, Way),
    context: &Context<'_>,
    line: &mut Line,
) -> Result<(), String> {
    let Some(excluded) = excluded else { return Ok(()) };
    let Way { word, ports, .. } = way;
    for chunk in chunks(&excluded.ranges) {
        match protocol {
            Some(protocol) if WITH_PORTS.contains(&protocol) => {
                add(line, format_args!(" -m multiport ! {ports} {chunk}"));
            }
            Some(_) => {}
            None => {
                let each = WITH_PORTS.iter().map(|with| format!(" -p {with} -m multiport {ports} {chunk}"));
                line.unless.extend(each);
            }
        }
    }
    for set in &excluded.sets {
        let name = name(*set, Holds::Ports, context)?;
        add(line, format_args!(" -m set ! --match-set {name} {word},{word}"));
    }
    Ok(())
}

/// Ports by number, in portions that one match takes.
fn chunks(ranges: &[PortRange]) -> Vec<String> {
    let mut chunks: Vec<(String, usize)> = Vec::new();
    for range in ranges {
        let (first, last) = range.bounds().into_inner();
        let (text, slots) = if first == last { (first.to_string(), 1) } else { (format!("{first}:{last}"), 2) };
        match chunks.last_mut() {
            Some((chunk, used)) if *used + slots <= SLOTS => {
                chunk.push(',');
                chunk.push_str(&text);
                *used += slots;
            }
            _ => chunks.push((text, slots)),
        }
    }
    chunks.into_iter().map(|(text, _)| text).collect()
}

#[cfg(test)]
#[path = "matches_tests.rs"]
mod tests;

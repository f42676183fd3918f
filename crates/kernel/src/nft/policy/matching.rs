//! What a rule asks of a packet, as expressions of nftables (pure).
//!
//! A rule that asks for one of several things becomes several rules of nftables, each of them one way to match.
//! Families are told apart only where addresses are looked at.

use super::super::expr::{Base, Compare, Expr, Find, Meta, Reg};
use super::super::ranges;
use super::super::ruleset::{Element, Field, Gives, Keys, Mark, Set, SetSpec};
use super::super::skeleton::{WITH_PORTS, addresses, compare, family as family_is, payload};
use super::cases::{self, Case};
use lasthop_net::{Family, Prefix};
use lasthop_policy::ir::{self, Action, Digest, Icmp, Member, PortRange, Ports, Rule, SetId, SetKind, Side};
use std::collections::{BTreeMap, BTreeSet};

/// Protocols that have ports: TCP, UDP, SCTP, UDPLite.
pub(in crate::nft) const PORTED: [u8; 4] = [6, 17, 132, 136];

/// Sets that rules of programs need and that never change: lists of nets and of ports that users wrote, named by content.
pub(super) type Constants = BTreeMap<String, Set>;

/// A rule speaks of a set that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("set {} is not among the host's sets", .0.0)]
pub(super) struct UnknownSet(pub(super) SetId);

/// The name of the kernel's set for members of one family.
pub(super) fn set_name(id: SetId, kind: SetKind, family: Family) -> String {
    let kind = match kind {
        SetKind::Addresses => "hosts",
        SetKind::Nets => "nets",
        SetKind::Ports => "ports",
    };
    format!("{kind}{}-{}", number(family), id.0)
}

pub(super) fn number(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

/// The address field of a family.
pub(super) fn field(family: Family) -> Field {
    match family {
        Family::V4 => Field::V4,
        Family::V6 => Field::V6,
    }
}

/// Which side of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Source,
    Destination,
}

/// One way in which ports may match.
#[derive(Clone, Copy)]
enum Atom<'a> {
    Ranges(&'a [PortRange]),
    Set(SetId),
}

/// What of a set decides how rules ask it: its kind, and of which families it has members. A rule is left out for the others:
/// in a network of one family that is half of all rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    kind: SetKind,
    families: [bool; 2],
}

impl Shape {
    pub(super) fn of(set: &ir::Set) -> Self {
        let family = |member: &Member| match member {
            Member::Net(net) => net.family(),
            Member::Port(address, ..) => Family::of(*address),
        };
        // Members of the first family come before those of the other.
        let ends = [set.members.first(), set.members.last()];
        Self { kind: set.kind, families: Family::ALL.map(|of| ends.into_iter().flatten().any(|end| family(end) == of)) }
    }

    fn has(self, family: Family) -> bool {
        Family::ALL.into_iter().zip(self.families).any(|(of, has)| of == family && has)
    }
}

/// Turns what rules ask into expressions, and gathers the constant sets that they need.
pub(super) struct Matcher<'a> {
    /// What a set is like.
    pub(super) shape: &'a dyn Fn(SetId) -> Option<Shape>,
    /// Constant sets so far.
    pub(super) constants: Constants,
}

impl Matcher<'_> {
    /// Every way in which a packet may match: all expressions of one of these hold. None at all: nothing ever matches.
    /// At most one of them holds for a packet if the rule is not final (`Log`).
    pub(super) fn ways(&mut self, rule: &Rule) -> Result<Vec<Vec<Expr>>, UnknownSet> {
        let sides = [(End::Source, &rule.source), (End::Destination, &rule.destination)];
        let by_family = sides.iter().any(|(_, side)| looks_at_addresses(side));
        let families: Vec<Option<Family>> = match rule.family {
            Some(family) => vec![Some(family)],
            None if by_family => Family::ALL.into_iter().map(Some).collect(),
            None => vec![None],
        };
        let mut ways = Vec::new();
        for family in families {
            let mut addresses = Some(Vec::new());
            if let Some(family) = family {
                for (end, side) in sides {
                    addresses = match addresses {
                        Some(mut so_far) => self.addresses(end, side, family)?.map(|exprs| {
                            so_far.extend(exprs);
                            so_far
                        }),
                        None => None,
                    };
                }
            }
            let Some(addresses) = addresses else { continue };
            for ports in self.ports(rule, family)? {
                let mut way: Vec<Expr> = family.map(family_is).unwrap_or_default();
                way.extend(protocols(rule));
                way.extend(ports);
                way.extend(addresses.iter().cloned());
                ways.push(way);
            }
        }
        Ok(ways)
    }

    /// Whether protocol and destination port are one of these.
    pub(super) fn is_among(&mut self, cases: &[Case]) -> Vec<Expr> {
        let elements: BTreeSet<Element> = cases.iter().copied().map(cases::element).collect();
        let set = constant_name("cases", &elements);
        self.constants.insert(set.clone(), Set { spec: cases::spec(), elements: Some(elements) });
        let port = Expr::Payload { base: Base::Transport, offset: 2, len: 2, to: Reg::Second };
        let lookup = Expr::Lookup { set, from: Reg::R1, find: Find::Present };
        vec![Expr::Meta { key: Meta::Transport, to: Reg::R1 }, port, lookup]
    }

    /// What is asked of one side's address; `None` if no address of this family matches.
    fn addresses(&mut self, end: End, side: &Side, family: Family) -> Result<Option<Vec<Expr>>, UnknownSet> {
        let mut exprs = Vec::new();
        for (nets, find) in [(side.nets.as_ref(), Find::Present), (Some(&side.not_nets), Find::Absent)] {
            let Some(nets) = nets else { continue };
            let nets: BTreeSet<Prefix> = nets.iter().filter(|net| net.family() == family).copied().collect();
            let everything = nets.iter().any(|net| net.len() == 0);
            match (find, nets.len()) {
                (Find::Present, 0) => return Ok(None),
                (Find::Absent, _) if everything => return Ok(None),
                (Find::Absent, 0) => {}
                (Find::Present, _) if everything => {}
                (find, 1) => exprs.extend(nets.iter().flat_map(|net| in_net(end, *net, find))),
                (find, _) => {
                    let elements = ranges::elements(&nets, family);
                    let set = self.constant(&format!("list{}", number(family)), field(family), elements);
                    exprs.extend(lookup_address(end, family, set, find));
                }
            }
        }
        let within = side.within.iter().map(|id| (*id, Find::Present));
        for (id, find) in within.chain(side.not_within.iter().map(|id| (*id, Find::Absent))) {
            let shape = (self.shape)(id).ok_or(UnknownSet(id))?;
            match find {
                _ if shape.has(family) => {
                    exprs.extend(lookup_address(end, family, set_name(id, shape.kind, family), find));
                }
                Find::Absent => {}
                _ => return Ok(None),
            }
        }
        Ok(Some(exprs))
    }

    /// Every way in which both sides' ports may match.
    fn ports(&mut self, rule: &Rule, family: Option<Family>) -> Result<Vec<Vec<Expr>>, UnknownSet> {
        let sides = [(End::Source, &rule.source), (End::Destination, &rule.destination)];
        let wanted = sides.iter().any(|(_, side)| side.ports.is_some());
        let unwanted = sides.iter().any(|(_, side)| side.not_ports.as_ref().is_some_and(|ports| !is_empty(ports)));
        let mut ways = Vec::new();
        let known = rule.protocol.map(|protocol| PORTED.contains(&protocol));
        if !wanted && (!unwanted || known != Some(true)) {
            // Protocols without ports: none of the ports is one that is not wanted.
            let portless = if unwanted && known.is_none() { is_ported(Find::Absent) } else { Vec::new() };
            ways.push(portless);
        }
        if (!wanted && !unwanted) || known == Some(false) {
            return Ok(ways);
        }
        let mut ported = vec![if known.is_none() { is_ported(Find::Present) } else { Vec::new() }];
        for (end, side) in sides {
            if let Some(ports) = &side.ports {
                let mut next = Vec::new();
                let atoms = atoms(ports);
                for (index, atom) in atoms.iter().enumerate() {
                    let Some(mut exprs) = self.port(*atom, family, (end, Find::Present))? else { continue };
                    if rule.action == Action::Log {
                        // Noted once.
                        for earlier in &atoms[..index] {
                            exprs.extend(self.port(*earlier, family, (end, Find::Absent))?.unwrap_or_default());
                        }
                    }
                    next.extend(ported.iter().map(|way| [way.as_slice(), &exprs].concat()));
                }
                ported = next;
            }
            for atom in side.not_ports.iter().flat_map(atoms) {
                let exprs = self.port(atom, family, (end, Find::Absent))?.unwrap_or_default();
                ported.iter_mut().for_each(|way| way.extend(exprs.iter().cloned()));
            }
        }
        ways.extend(ported);
        Ok(ways)
    }

    /// What is asked of one side's port; `None` if none matches.
    fn port(
        &mut self,
        atom: Atom<'_>,
        family: Option<Family>,
        (end, find): (End, Find),
    ) -> Result<Option<Vec<Expr>>, UnknownSet> {
        let offset = match end {
            End::Source => 0,
            End::Destination => 2,
        };
        let load = |to| Expr::Payload { base: Base::Transport, offset, len: 2, to };
        match (atom, family) {
            (Atom::Ranges([range]), _) if first(*range) == last(*range) => {
                let op = if find == Find::Present { Compare::Eq } else { Compare::Ne };
                Ok(Some(vec![load(Reg::R1), compare(op, &first(*range))]))
            }
            (Atom::Ranges([range]), _) if find == Find::Present => {
                let bounds = [compare(Compare::Ge, &first(*range)), compare(Compare::Le, &last(*range))];
                Ok(Some([vec![load(Reg::R1)], bounds.to_vec()].concat()))
            }
            (Atom::Ranges(ranges), _) => {
                let set = self.constant("portlist", Field::Port, port_elements(ranges));
                Ok(Some(vec![load(Reg::R1), Expr::Lookup { set, from: Reg::R1, find }]))
            }
            (Atom::Set(id), Some(family)) => {
                let shape = (self.shape)(id).ok_or(UnknownSet(id))?;
                if !shape.has(family) {
                    return Ok((find == Find::Absent).then(Vec::new));
                }
                let set = set_name(id, shape.kind, family);
                let (protocol, port) = match family {
                    Family::V4 => (Reg::Second, Reg::Third),
                    Family::V6 => (Reg::R2, Reg::Sixth),
                };
                Ok(Some(vec![
                    address(end, family),
                    Expr::Meta { key: Meta::Transport, to: protocol },
                    load(port),
                    Expr::Lookup { set, from: Reg::R1, find },
                ]))
            }
            // Sets of ports have addresses, so families have been told apart.
            (Atom::Set(id), None) => Err(UnknownSet(id)),
        }
    }

    /// The name of a constant set with these elements.
    fn constant(&mut self, kind: &str, field: Field, elements: BTreeSet<Element>) -> String {
        let name = constant_name(kind, &elements);
        let spec = SetSpec { fields: vec![field], keys: Keys::Ranges, gives: Gives::Nothing };
        self.constants.insert(name.clone(), Set { spec, elements: Some(elements) });
        name
    }
}

/// A constant set's name: what it holds.
pub(super) fn constant_name(kind: &str, elements: &BTreeSet<Element>) -> String {
    let content: Vec<(&[u8], bool)> =
        elements.iter().map(|element| (element.key.as_slice(), element.mark == Mark::RangeEnd)).collect();
    format!("{kind}-{}", Digest::of(&content))
}

fn looks_at_addresses(side: &Side) -> bool {
    let ports = side.ports.iter().chain(&side.not_ports).any(|ports| !ports.sets.is_empty());
    ports || side.nets.is_some() || !(side.not_nets.is_empty() && side.within.is_empty() && side.not_within.is_empty())
}

fn is_empty(ports: &Ports) -> bool {
    ports.ranges.is_empty() && ports.sets.is_empty()
}

fn atoms(ports: &Ports) -> Vec<Atom<'_>> {
    let ranges = (!ports.ranges.is_empty()).then_some(Atom::Ranges(&ports.ranges));
    ranges.into_iter().chain(ports.sets.iter().copied().map(Atom::Set)).collect()
}

fn first(ports: PortRange) -> [u8; 2] {
    ports.bounds().start().to_be_bytes()
}

fn last(ports: PortRange) -> [u8; 2] {
    ports.bounds().end().to_be_bytes()
}

/// Ranges of ports as elements of an interval set.
fn port_elements(ports: &[PortRange]) -> BTreeSet<Element> {
    let mut sorted: Vec<(u16, u16)> = ports.iter().map(|range| range.bounds().into_inner()).collect();
    sorted.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in sorted {
        match merged.last_mut() {
            Some(range) if first <= range.1.saturating_add(1) => range.1 = range.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    let mut elements = BTreeSet::new();
    for (first, last) in merged {
        elements.insert(Element::key(first.to_be_bytes().to_vec()));
        if let Some(behind) = last.checked_add(1) {
            elements.insert(Element { mark: Mark::RangeEnd, ..Element::key(behind.to_be_bytes().to_vec()) });
        }
    }
    elements
}

fn protocols(rule: &Rule) -> Vec<Expr> {
    let mut exprs = Vec::new();
    for (protocol, op) in [(rule.protocol, Compare::Eq), (rule.not_protocol, Compare::Ne)] {
        if let Some(protocol) = protocol {
            exprs.extend([Expr::Meta { key: Meta::Transport, to: Reg::R1 }, compare(op, &[protocol])]);
        }
    }
    for (icmp, op) in [(rule.icmp, Compare::Eq), (rule.not_icmp, Compare::Ne)] {
        match icmp {
            Some(Icmp { kind, code: None }) => exprs.extend([payload(Base::Transport, 0, 1), compare(op, &[kind])]),
            Some(Icmp { kind, code: Some(code) }) => {
                exprs.extend([payload(Base::Transport, 0, 2), compare(op, &[kind, code])]);
            }
            None => {}
        }
    }
    exprs
}

fn is_ported(find: Find) -> Vec<Expr> {
    let set = WITH_PORTS.to_owned();
    vec![Expr::Meta { key: Meta::Transport, to: Reg::R1 }, Expr::Lookup { set, from: Reg::R1, find }]
}

/// One side's address into the first register.
fn address(end: End, family: Family) -> Expr {
    let (source, destination, len) = addresses(family);
    payload(Base::Network, if end == End::Source { source } else { destination }, len)
}

fn lookup_address(end: End, family: Family, set: String, find: Find) -> Vec<Expr> {
    vec![address(end, family), Expr::Lookup { set, from: Reg::R1, find }]
}

/// The address is, or is not, in one prefix that is not everything.
fn in_net(end: End, net: Prefix, find: Find) -> Vec<Expr> {
    let family = net.family();
    let op = if find == Find::Present { Compare::Eq } else { Compare::Ne };
    let value = ranges::first(net);
    let (source, destination, _) = addresses(family);
    let offset = if end == End::Source { source } else { destination };
    if net.len().is_multiple_of(8) {
        let bytes = usize::from(net.len() / 8);
        return vec![payload(Base::Network, offset, u32::from(net.len() / 8)), compare(op, &value[..bytes])];
    }
    let mask: Vec<u8> = ranges::last(net).iter().zip(&value).map(|(last, first)| !(last ^ first)).collect();
    vec![address(end, family), Expr::Bitwise { reg: Reg::R1, xor: vec![0; mask.len()], mask }, compare(op, &value)]
}

//! What packets can carry, cut where rules can tell it apart, and parts of that.
//!
//! One protocol is a plane: source port × destination port, or ICMP type × code. Rules cut each axis into intervals that no rule tells
//! apart, so one packet of each cell stands for all of it. Protocols that no rule names are one more kind.

use crate::compile::merged;
use crate::decide::{Transport, protocol_name};
use crate::ir::{PortRange, Program, Rule, SetId};
use lasthop_net::Family;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Protocols with ports: SCTP, TCP, UDP, UDPLite.
const WITH_PORTS: [u8; 4] = [6, 17, 132, 136];
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Where rules cut.
#[derive(Clone, Debug, Default)]
pub(super) struct Cuts {
    /// Where intervals begin, by protocol; `None`: whatever the protocol.
    axes: BTreeMap<Option<u8>, Axes>,
    /// Protocols that are named.
    protocols: BTreeSet<u8>,
    /// Sets of ports that are asked about sources.
    pub(super) source_sets: BTreeSet<SetId>,
    /// Sets of ports that are asked about destinations.
    pub(super) destination_sets: BTreeSet<SetId>,
    /// Every set that is asked.
    pub(super) sets: BTreeSet<SetId>,
}

#[derive(Clone, Debug, Default)]
struct Axes {
    x: BTreeSet<u16>,
    y: BTreeSet<u16>,
}

fn cut(axis: &mut BTreeSet<u16>, range: PortRange) {
    axis.insert(*range.bounds().start());
    axis.extend(range.bounds().end().checked_add(1));
}

impl Cuts {
    /// Those of a program.
    pub(super) fn of(program: &Program) -> Self {
        let mut cuts = Self::default();
        program.rules.iter().for_each(|rule| cuts.rule(rule));
        cuts
    }

    fn rule(&mut self, rule: &Rule) {
        self.protocols.extend(rule.protocol.into_iter().chain(rule.not_protocol));
        let axes = self.axes.entry(rule.protocol).or_default();
        for icmp in rule.icmp.iter().chain(&rule.not_icmp) {
            cut(&mut axes.x, PortRange::one(icmp.kind.into()));
            icmp.code.iter().for_each(|code| cut(&mut axes.y, PortRange::one((*code).into())));
        }
        for (side, axis, sets) in [
            (&rule.source, &mut axes.x, &mut self.source_sets),
            (&rule.destination, &mut axes.y, &mut self.destination_sets),
        ] {
            for ports in side.ports.iter().chain(&side.not_ports) {
                ports.ranges.iter().for_each(|range| cut(axis, *range));
                sets.extend(&ports.sets);
            }
            self.sets.extend(side.sets());
        }
    }

    /// Cuts at one port.
    pub(super) fn port(&mut self, protocol: u8, source: Option<u16>, destination: Option<u16>) {
        let axes = self.axes.entry(Some(protocol)).or_default();
        source.into_iter().for_each(|port| cut(&mut axes.x, PortRange::one(port)));
        destination.into_iter().for_each(|port| cut(&mut axes.y, PortRange::one(port)));
    }

    /// Adds those of `other`.
    pub(super) fn add(&mut self, other: &Self) {
        for (protocol, axes) in &other.axes {
            let to = self.axes.entry(*protocol).or_default();
            to.x.extend(&axes.x);
            to.y.extend(&axes.y);
        }
        self.protocols.extend(&other.protocols);
        self.source_sets.extend(&other.source_sets);
        self.destination_sets.extend(&other.destination_sets);
        self.sets.extend(&other.sets);
    }

    /// The same for packets the other way round.
    pub(super) fn mirrored(mut self) -> Self {
        self.axes.values_mut().for_each(|axes| std::mem::swap(&mut axes.x, &mut axes.y));
        std::mem::swap(&mut self.source_sets, &mut self.destination_sets);
        self
    }

    fn starts(&self, protocol: u8) -> (Vec<u16>, Vec<u16>) {
        let of = |pick: fn(&Axes) -> &BTreeSet<u16>| {
            let axes = [None, Some(protocol)].into_iter().filter_map(|key| self.axes.get(&key));
            let starts: BTreeSet<u16> = axes.flat_map(|axes| pick(axes).iter().copied()).chain([0]).collect();
            let end = bound(protocol);
            starts.into_iter().filter(|start| *start <= end).collect::<Vec<_>>()
        };
        (of(|axes| &axes.x), of(|axes| &axes.y))
    }

    /// What of all traffic of a family `asked` is true for.
    pub(super) fn where_true(&self, family: Family, mut asked: impl FnMut(Transport) -> bool) -> Traffic {
        let mut found = Traffic::default();
        let icmp = if family == Family::V4 { ICMP } else { ICMPV6 };
        for protocol in WITH_PORTS.into_iter().chain([icmp]) {
            let (xs, ys) = self.starts(protocol);
            let carried = if protocol == icmp { Carried::Icmp } else { Carried::Protocol(protocol) };
            let region = Region::fill((&xs, &ys), bound(protocol), |x, y| asked(packet(protocol, x, y)));
            if !region.0.is_empty() {
                found.regions.insert(carried, region);
            }
        }
        let known = |number: &u8| WITH_PORTS.contains(number) || [ICMP, ICMPV6].contains(number);
        let others = || (0..=u8::MAX).filter(|number| !known(number));
        let rest = others().find(|number| !self.protocols.contains(number));
        let rest = rest.is_some_and(|number| asked(Transport::Other(number)));
        let mut except = BTreeSet::new();
        for number in others().filter(|number| self.protocols.contains(number)) {
            match (asked(Transport::Other(number)), rest) {
                (true, false) => {
                    found.regions.insert(Carried::Protocol(number), Region::whole(0));
                }
                (false, true) => {
                    except.insert(number);
                }
                _ => {}
            }
        }
        if rest {
            found.rest = Some(except);
        }
        found
    }
}

/// The last value on the axes of a protocol.
fn bound(protocol: u8) -> u16 {
    match protocol {
        ICMP | ICMPV6 => u8::MAX.into(),
        protocol if WITH_PORTS.contains(&protocol) => u16::MAX,
        _ => 0,
    }
}

fn packet(protocol: u8, x: u16, y: u16) -> Transport {
    if matches!(protocol, ICMP | ICMPV6) {
        let small = |value| u8::try_from(value).unwrap_or(u8::MAX);
        Transport::Icmp { protocol, kind: small(x), code: small(y) }
    } else {
        Transport::Ports { protocol, source: x, destination: y }
    }
}

/// A part of all traffic, the same whether written from one packet's view or another's.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Traffic {
    regions: BTreeMap<Carried, Region>,
    /// Every other protocol, without these.
    rest: Option<BTreeSet<u8>>,
}

/// A protocol; ICMP is that of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Carried {
    Protocol(u8),
    Icmp,
}

/// Rectangles of a protocol's plane: disjoint, each as high as can be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Region(Vec<(Vec<PortRange>, Vec<PortRange>)>);

impl Region {
    fn whole(last: u16) -> Self {
        let all: Vec<PortRange> = PortRange::new(0, last).into_iter().collect();
        Self(vec![(all.clone(), all)])
    }

    fn fill((xs, ys): (&[u16], &[u16]), last: u16, mut asked: impl FnMut(u16, u16) -> bool) -> Self {
        let intervals = |starts: &[u16]| -> Vec<PortRange> {
            let ends = starts[1..].iter().map(|start| start - 1).chain([last]);
            starts.iter().zip(ends).filter_map(|(start, end)| PortRange::new(*start, end)).collect()
        };
        let mut columns: BTreeMap<Vec<PortRange>, Vec<PortRange>> = BTreeMap::new();
        let rows = intervals(ys);
        for column in intervals(xs) {
            let x = *column.bounds().start();
            let held = merged(rows.iter().copied().filter(|row| asked(x, *row.bounds().start())));
            if !held.is_empty() {
                columns.entry(held).or_default().push(column);
            }
        }
        Self(columns.into_iter().map(|(held, columns)| (merged(columns), held)).collect())
    }

    /// What is not in it, if it is whole columns of one height.
    fn complement(&self, last: u16) -> Option<Self> {
        let [(columns, rows)] = self.0.as_slice() else { return None };
        if PortRange::new(0, last).as_slice() != columns.as_slice() {
            return None;
        }
        let ends = rows.iter().map(|row| row.bounds().start().checked_sub(1)).chain([Some(last)]);
        let starts = [Some(0)].into_iter().chain(rows.iter().map(|row| row.bounds().end().checked_add(1)));
        let gaps = starts.zip(ends).filter_map(|(start, end)| PortRange::new(start?, end?));
        Some(Self(vec![(columns.clone(), merged(gaps))]))
    }

    fn has(&self, x: u16, y: u16) -> bool {
        let within = |ranges: &[PortRange], value| ranges.iter().any(|range| range.bounds().contains(&value));
        self.0.iter().any(|(columns, rows)| within(columns, x) && within(rows, y))
    }
}

impl Traffic {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty() && self.rest.is_none()
    }

    /// Whether it holds such a packet, of any family that it is of.
    #[must_use]
    pub fn has(&self, transport: Transport) -> bool {
        let region = |carried| self.regions.get(&carried);
        match transport {
            Transport::Ports { protocol, source, destination } => {
                region(Carried::Protocol(protocol)).is_some_and(|region| region.has(source, destination))
            }
            Transport::Icmp { kind, code, .. } => {
                region(Carried::Icmp).is_some_and(|region| region.has(kind.into(), code.into()))
            }
            Transport::Other(protocol) => {
                self.regions.contains_key(&Carried::Protocol(protocol))
                    || self.rest.as_ref().is_some_and(|except| !except.contains(&protocol))
            }
        }
    }

    /// What is not in it, if that can be said so.
    fn missing(&self) -> Option<Self> {
        let except = self.rest.as_ref()?.iter().map(|number| (Carried::Protocol(*number), Region::whole(0)));
        let mut regions: BTreeMap<Carried, Region> = except.collect();
        let known = WITH_PORTS.map(|protocol| (Carried::Protocol(protocol), protocol));
        for (carried, protocol) in known.into_iter().chain([(Carried::Icmp, ICMP)]) {
            let whole = Region::whole(bound(protocol));
            match self.regions.get(&carried) {
                Some(region) if *region == whole => {}
                Some(region) => {
                    regions.insert(carried, region.complement(bound(protocol))?);
                }
                None => {
                    regions.insert(carried, whole);
                }
            }
        }
        Some(Self { regions, rest: None })
    }

    /// Its parts in words: a protocol with its ports each.
    #[must_use]
    pub fn parts(&self) -> Vec<String> {
        match self.missing() {
            Some(missing) if missing.is_empty() => return vec!["everything".to_owned()],
            Some(missing) if missing.regions.len() < self.regions.len() => {
                return vec![format!("everything but {}", missing.parts().join(", "))];
            }
            _ => {}
        }
        let mut parts = Vec::new();
        for (carried, Region(rectangles)) in &self.regions {
            let (name, protocol) = match carried {
                Carried::Icmp => ("ICMP".to_owned(), ICMP),
                Carried::Protocol(protocol) if WITH_PORTS.contains(protocol) => (protocol_name(*protocol), *protocol),
                Carried::Protocol(protocol) => (format!("protocol {protocol}"), *protocol),
            };
            let full = PortRange::new(0, bound(protocol));
            for (columns, rows) in rectangles {
                let part = |ranges: &[PortRange]| (ranges != full.as_slice()).then(|| list(ranges));
                parts.push(match (part(columns), part(rows)) {
                    (None, None) => name.clone(),
                    (kinds, codes) if *carried == Carried::Icmp => {
                        let kinds = kinds.map(|kinds| format!(" type {kinds}")).unwrap_or_default();
                        format!("{name}{kinds}{}", codes.map(|codes| format!(" code {codes}")).unwrap_or_default())
                    }
                    (from, to) => {
                        let to = to.map(|ports| format!(" port {ports}")).unwrap_or_default();
                        format!("{name}{to}{}", from.map(|ports| format!(" from port {ports}")).unwrap_or_default())
                    }
                });
            }
        }
        match &self.rest {
            Some(except) if except.is_empty() => parts.push("every other protocol".to_owned()),
            Some(except) => {
                let numbers: Vec<String> = except.iter().map(ToString::to_string).collect();
                parts.push(format!("every other protocol but {}", numbers.join(", ")));
            }
            None => {}
        }
        parts
    }
}

fn list(ranges: &[PortRange]) -> String {
    let texts = ranges.iter().map(|range| {
        let (first, last) = range.bounds().into_inner();
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    });
    texts.collect::<Vec<_>>().join(",")
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts().join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_said_as_one_would_say_it() {
        let mut cuts = Cuts::default();
        cuts.port(6, None, Some(80));
        cuts.port(6, None, Some(81));
        cuts.port(17, Some(53), None);
        cuts.protocols.insert(47);
        let words = |asked: &dyn Fn(Transport) -> bool| cuts.where_true(Family::V4, asked).to_string();
        let to = |transport: Transport, port| matches!(transport, Transport::Ports { destination, .. } if destination == port);
        assert_eq!(words(&|_| true), "everything");
        assert_eq!(words(&|_| false), "");
        assert_eq!(
            words(&|t| !(t.protocol() == 6 && to(t, 80)) && t.protocol() != 17),
            "everything but TCP port 80, UDP"
        );
        assert_eq!(words(&|t| t.protocol() == 6 && (to(t, 80) || to(t, 81))), "TCP port 80-81");
        assert_eq!(words(&|t| t.protocol() == 6 && !to(t, 80)), "TCP port 0-79,81-65535");
        assert_eq!(words(&|t| matches!(t, Transport::Ports { protocol: 17, source: 53, .. })), "UDP from port 53");
        assert_eq!(words(&|t| t.protocol() == 1), "ICMP");
        assert_eq!(words(&|t| t == Transport::Other(47)), "protocol 47");
        assert_eq!(words(&|t| matches!(t, Transport::Other(n) if n != 47)), "every other protocol but 47");
    }
}

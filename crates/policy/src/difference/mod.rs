//! Who gains and who loses what between two states of all policy: exactly, not by trying some packets.
//!
//! ```text
//! addresses ── meet the same policy, are in the same sets ─▶ classes of stations ─┐
//! protocols, ports, ICMP types ── cut where rules cut ─────▶ cells ───────────────┴─▶ one packet for all of them, asked in both
//! ```
//!
//! What is asked is the packet's whole way ([`crate::journey`]). Pairs of classes that meet the same policy and the same members of its
//! sets before and after are not asked at all. Not told apart: destinations that are translated on the way; IPv4 packets with ICMPv6
//! and the reverse.

mod group;
mod traffic;
mod view;

pub use group::{Group, Territory};
pub use traffic::Traffic;

use crate::decide::{Packet, Transport, Verdict, prefixes_of};
use crate::ir::{SetId, StackId};
use crate::journey::{Network, Party, Question};
use group::Register;
use lasthop_model::NodeName;
use lasthop_net::{Family, Prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use traffic::Cuts;
use view::{Frame, Holders, Station, View};

/// Two states of all policy, compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// What they say differently about those that are in both.
    pub changes: Vec<Change>,
    /// Addresses that only the second knows, by whose they are.
    pub appeared: BTreeMap<Party, BTreeSet<IpAddr>>,
    /// Addresses that only the first knows.
    pub gone: BTreeMap<Party, BTreeSet<IpAddr>>,
}

/// What some gain or lose.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Which.
    pub effect: Effect,
    /// Who sends.
    pub from: Group,
    /// Who receives: each from each sender, but nobody from himself.
    pub to: Group,
    /// Which of those pairs.
    pub pairs: Pairs,
    /// What.
    pub traffic: Traffic,
    /// In which families.
    pub families: BTreeSet<Family>,
}

/// Which way a change goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Was denied, is not any more.
    Gains,
    /// Is denied, was not.
    Loses,
}

/// Which pairs of senders and receivers are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pairs {
    /// All.
    All,
    /// By whether both are on one host.
    Where {
        /// Before.
        before: bool,
        /// After.
        after: bool,
    },
}

/// Stations that no rule tells apart.
struct Class {
    stations: BTreeSet<Station>,
    frames: [Frame; 2],
    holders: [Holders; 2],
    moved: bool,
}

/// What is found about a pair of classes, by their numbers.
type Found = (What, usize, usize);

/// What is gained or lost, by which pairs of two classes.
type What = (Effect, Pairs, Traffic);

/// Compares two states.
#[must_use]
pub fn difference(before: &Network<'_>, after: &Network<'_>) -> Difference {
    let views = [View::new(before), View::new(after)];
    let [first, second] = [views[0].parties(), views[1].parties()];
    let mut both = BTreeMap::new();
    let mut result =
        Difference { gone: without(&first, &second), appeared: without(&second, &first), ..Difference::default() };
    for (party, addresses) in &first {
        if let Some(others) = second.get(party) {
            both.insert(party.clone(), addresses.intersection(others).copied().collect::<BTreeSet<_>>());
        }
    }
    let taken: BTreeSet<IpAddr> = first.values().chain(second.values()).flatten().copied().collect();
    let (changed, edited) = (changed_sets(&views), views[0].edited(&views[1]));
    let mut comparison = Comparison { views: &views, changed, edited, cuts: BTreeMap::new() };
    let mut register = Register { world: after.world, parties: &both, parts: BTreeMap::new() };
    let mut by_family = Vec::new();
    for family in Family::ALL {
        let mut stations = outside(&views, family, &taken);
        register.parts.insert(family, stations.iter().filter_map(|station| station.part).collect());
        for (party, addresses) in &both {
            let of_family = addresses.iter().filter(|address| Family::of(**address) == family);
            stations.extend(of_family.map(|address| Station { party: party.clone(), address: *address, part: None }));
        }
        let classes = comparison.classes(stations);
        let found = comparison.compare(family, &classes);
        by_family.push((family, classes, found));
    }
    for (family, classes, found) in by_family {
        for change in merge(found) {
            let stations =
                |of: &BTreeSet<usize>| Group::of(of.iter().flat_map(|class| &classes[*class].stations), &register);
            let ((effect, pairs, traffic), from, to) = change;
            let families = BTreeSet::from([family]);
            let change = Change { effect, from: stations(&from), to: stations(&to), pairs, traffic, families };
            result.take(change, &register);
        }
    }
    result.changes.sort_by_cached_key(|change| (change.effect, change.from.to_string(), change.to.to_string()));
    result
}

fn without(
    of: &BTreeMap<Party, BTreeSet<IpAddr>>,
    others: &BTreeMap<Party, BTreeSet<IpAddr>>,
) -> BTreeMap<Party, BTreeSet<IpAddr>> {
    let mut rest = BTreeMap::new();
    for (party, addresses) in of {
        let known = others.get(party);
        let only: BTreeSet<IpAddr> =
            addresses.iter().copied().filter(|address| !known.is_some_and(|known| known.contains(address))).collect();
        if !only.is_empty() || known.is_none() {
            rest.insert(party.clone(), only);
        }
    }
    rest
}

/// Sets whose members differ.
fn changed_sets(views: &[View<'_>; 2]) -> BTreeSet<SetId> {
    let [first, second] = [&views[0].members, &views[1].members];
    first.keys().chain(second.keys()).copied().filter(|id| first.get(id) != second.get(id)).collect()
}

/// One address of each part of the address space that rules tell apart, but those that are taken.
fn outside(views: &[View<'_>; 2], family: Family, taken: &BTreeSet<IpAddr>) -> BTreeSet<Station> {
    let mut nets = views[0].prefixes(family);
    nets.extend(views[1].prefixes(family));
    nets.insert(Prefix::default_route(family));
    let hosts = taken.iter().copied().filter(|address| Family::of(*address) == family).map(Prefix::host);
    let blocked: BTreeSet<Prefix> = nets.iter().copied().chain(hosts).collect();
    let free = |net: &Prefix| {
        // Itself is no obstacle, unless it is one address, and taken.
        let address = if net.is_host() {
            (!taken.contains(&net.address())).then(|| net.address())
        } else {
            halves(*net).into_iter().find_map(|half| free_in(half, &blocked))
        };
        address.map(|address| Station { party: Party::Outside, address, part: Some(*net) })
    };
    nets.iter().filter_map(free).collect()
}

/// An address of `net` that is in none of these.
fn free_in(net: Prefix, blocked: &BTreeSet<Prefix>) -> Option<IpAddr> {
    match blocked.range(net..).next() {
        Some(first) if *first == net => None,
        Some(first) if net.covers(*first) => halves(net).into_iter().find_map(|half| free_in(half, blocked)),
        _ => Some(net.address()),
    }
}

fn halves(net: Prefix) -> Vec<Prefix> {
    let len = net.len() + 1;
    let upper = match net.address() {
        IpAddr::V4(address) if len <= 32 => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() | 1 << (32 - len))),
        IpAddr::V6(address) if len <= 128 => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() | 1 << (128 - len))),
        _ => return Vec::new(),
    };
    // Mapped addresses are IPv4, and looked at there.
    let halves = [net.address(), upper].into_iter().filter_map(|address| Prefix::new(address, len));
    halves.filter(|half| half.family() == net.family()).collect()
}

struct Comparison<'a> {
    views: &'a [View<'a>; 2],
    changed: BTreeSet<SetId>,
    /// Stacks of which programs differ.
    edited: BTreeSet<StackId>,
    /// Of frames, before and after.
    cuts: BTreeMap<(usize, Frame), Cuts>,
}

impl Comparison<'_> {
    fn classes(&mut self, stations: BTreeSet<Station>) -> Vec<Class> {
        let views = self.views;
        let asked: BTreeSet<Prefix> = views.iter().flat_map(View::asked).collect();
        let mut numbers = BTreeMap::new();
        let mut classes: Vec<Class> = Vec::new();
        for station in stations {
            let Station { party, address, .. } = &station;
            let kind = match party {
                Party::Workload(_) => 0,
                Party::Host(_) => 1,
                Party::Outside => 2,
            };
            let net = prefixes_of(*address, 0).find(|net| asked.contains(net));
            let frames = [0, 1].map(|view: usize| views[view].frame(party));
            let holders = [0, 1].map(|view: usize| views[view].holders(*address));
            let moved = views[0].node(party) != views[1].node(party);
            let key = (kind, net, frames.clone(), holders.clone(), moved);
            let number = *numbers.entry(key).or_insert(classes.len());
            if number == classes.len() {
                for (view, frame) in frames.iter().enumerate() {
                    let cuts = || views[view].cuts(frame);
                    self.cuts.entry((view, frame.clone())).or_insert_with(cuts);
                }
                classes.push(Class { stations: BTreeSet::new(), frames, holders, moved });
            }
            classes[number].stations.insert(station);
        }
        classes
    }

    fn compare(&self, family: Family, classes: &[Class]) -> Vec<Found> {
        let mut found = Vec::new();
        for (a, from) in classes.iter().enumerate() {
            for (b, to) in classes.iter().enumerate().filter(|(_, to)| !self.is_same(from, to)) {
                let pairs = self.pairs(from, to);
                let said: Vec<_> =
                    pairs.into_iter().map(|(pairs, ends)| (pairs, self.ask(family, (from, to), ends))).collect();
                let same = said.windows(2).all(|two| two[0].1 == two[1].1);
                let kept = if same { 1 } else { said.len() };
                for (pairs, by_effect) in said.into_iter().take(kept) {
                    let pairs = if same { Pairs::All } else { pairs };
                    let some = by_effect.into_iter().filter(|(_, traffic)| !traffic.is_empty());
                    found.extend(some.map(|(effect, traffic)| ((effect, pairs, traffic), a, b)));
                }
            }
        }
        found
    }

    /// Whether nothing can differ between these, without asking.
    fn is_same(&self, from: &Class, to: &Class) -> bool {
        let is_outside = |class: &Class| class.stations.iter().all(|station| station.party == Party::Outside);
        if is_outside(from) && is_outside(to) {
            return true;
        }
        let stays = |class: &Class| {
            let [before, now] = &class.frames;
            !class.moved && before == now && !before.stacks().any(|stack| self.edited.contains(&stack))
        };
        if !stays(from) || !stays(to) {
            return false;
        }
        let used = [from, to].into_iter().filter_map(|class| self.cuts.get(&(0, class.frames[0].clone())));
        let mut doubtful = used.flat_map(|cuts| &cuts.sets).filter(|set| self.changed.contains(set));
        doubtful.all(|set| {
            [from, to].iter().all(|class| {
                let [first, second] = &class.holders;
                let ports = |of: &Holders| {
                    of.ports.range((*set, 0, 0)..=(*set, u8::MAX, u16::MAX)).copied().collect::<Vec<_>>()
                };
                first.sets.contains(set) == second.sets.contains(set) && ports(first) == ports(second)
            })
        })
    }

    /// One pair of stations of each kind of pair that there is between two classes.
    fn pairs<'a>(&self, from: &'a Class, to: &'a Class) -> BTreeMap<Pairs, (&'a Station, &'a Station)> {
        let by_node = |class: &'a Class| {
            let mut nodes: BTreeMap<[Option<&NodeName>; 2], Vec<&'a Station>> = BTreeMap::new();
            for station in &class.stations {
                nodes.entry([0, 1].map(|view: usize| self.views[view].node(&station.party))).or_default().push(station);
            }
            nodes
        };
        let (sources, destinations) = (by_node(from), by_node(to));
        let kinds = if from.moved || to.moved { 4 } else { 2 };
        let mut pairs = BTreeMap::new();
        for (here, sources) in &sources {
            for (there, destinations) in &destinations {
                let [before, after] = [0, 1].map(|view: usize| here[view].is_some() && here[view] == there[view]);
                let kind = Pairs::Where { before, after };
                if pairs.contains_key(&kind) {
                    continue;
                }
                let other = |source: &'a Station| {
                    let two = |destination: &&&'a Station| destination.party != source.party;
                    destinations.iter().find(two).map(|destination| (source, *destination))
                };
                if let Some(pair) = sources.iter().find_map(|source| other(source)) {
                    pairs.insert(kind, pair);
                }
                if pairs.len() == kinds {
                    return pairs;
                }
            }
        }
        pairs
    }

    /// What is gained and lost between two stations, and thereby between any two of their classes.
    fn ask(
        &self,
        family: Family,
        (a, b): (&Class, &Class),
        (from, to): (&Station, &Station),
    ) -> [(Effect, Traffic); 2] {
        let mut cuts = Cuts::default();
        for (view, class) in [0, 1].into_iter().flat_map(|view| [(view, a), (view, b)]) {
            if let Some(of) = self.cuts.get(&(view, class.frames[view].clone())) {
                cuts.add(of);
            }
        }
        let is_asked = |sets: &BTreeSet<SetId>, set: &SetId| sets.contains(set);
        for (set, protocol, port) in a.holders.iter().flat_map(|holders| holders.ports.clone()) {
            if is_asked(&cuts.source_sets, &set) {
                cuts.port(protocol, Some(port), None);
            }
        }
        for (set, protocol, port) in b.holders.iter().flat_map(|holders| holders.ports.clone()) {
            if is_asked(&cuts.destination_sets, &set) {
                cuts.port(protocol, None, Some(port));
            }
        }
        let mut cache: BTreeMap<Transport, [bool; 2]> = BTreeMap::new();
        let mut passes = |transport| {
            *cache.entry(transport).or_insert_with(|| {
                let packet = Packet { source: from.address, destination: to.address, transport };
                let (from, to) = (from.party.clone(), to.party.clone());
                let question = Question { from, to, packet, before_dnat: None };
                [0, 1].map(|view: usize| self.views[view].network.verdict(&question) != Verdict::Deny)
            })
        };
        let gained = cuts.where_true(family, |transport| passes(transport) == [false, true]);
        let lost = cuts.where_true(family, |transport| passes(transport) == [true, false]);
        [(Effect::Gains, gained), (Effect::Loses, lost)]
    }
}

/// A change between classes of senders and classes of receivers, every pair of them.
type Merged = (What, BTreeSet<usize>, BTreeSet<usize>);

/// Says the same in fewer changes: by receivers first or by senders first, whichever is shorter.
fn merge(found: Vec<Found>) -> Vec<Merged> {
    let by = |swapped: bool| -> Vec<Merged> {
        let mut first: BTreeMap<(&What, usize), BTreeSet<usize>> = BTreeMap::new();
        for (what, from, to) in &found {
            let (kept, gathered) = if swapped { (*to, *from) } else { (*from, *to) };
            first.entry((what, kept)).or_default().insert(gathered);
        }
        let mut second: BTreeMap<(&What, BTreeSet<usize>), BTreeSet<usize>> = BTreeMap::new();
        for ((what, kept), gathered) in first {
            second.entry((what, gathered)).or_default().insert(kept);
        }
        let all = second.into_iter().map(|((what, gathered), kept)| {
            let (from, to) = if swapped { (gathered, kept) } else { (kept, gathered) };
            (what.clone(), from, to)
        });
        all.collect()
    };
    let (one, other) = (by(false), by(true));
    if other.len() < one.len() { other } else { one }
}

impl Difference {
    /// Whether both states are one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.appeared.is_empty() && self.gone.is_empty()
    }

    /// Adds a change: to the same of the other family, if there is one.
    fn take(&mut self, change: Change, register: &Register<'_>) {
        let alike = self.changes.iter_mut().find(|other| {
            (other.effect, other.pairs) == (change.effect, change.pairs)
                && other.traffic == change.traffic
                && other.families.is_disjoint(&change.families)
                && other.from.is_alike(&change.from, register)
                && other.to.is_alike(&change.to, register)
        });
        match alike {
            Some(other) => {
                other.families.extend(change.families);
                other.from.join(change.from, register);
                other.to.join(change.to, register);
            }
            None => self.changes.push(change),
        }
    }
}

impl Pairs {
    /// Whether a pair is meant that is on one host, or is not.
    #[must_use]
    pub fn holds(self, before: bool, after: bool) -> bool {
        self == Self::All || self == Self::Where { before, after }
    }
}

impl fmt::Display for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "",
            Self::Where { before: true, after: true } => "on the same host",
            Self::Where { before: false, after: false } => "on another host",
            Self::Where { before: false, after: true } => "that comes onto the same host",
            Self::Where { before: true, after: false } => "that leaves the same host",
        })
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gains => "gains",
            Self::Loses => "loses",
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.pairs.to_string();
        let space = if place.is_empty() { "" } else { " " };
        write!(f, "{} {} → {}{space}{place}: {}", self.effect, self.from, self.to, self.traffic)?;
        match self.families.first() {
            Some(family) if self.families.len() == 1 => write!(f, " ({family})"),
            _ => Ok(()),
        }
    }
}

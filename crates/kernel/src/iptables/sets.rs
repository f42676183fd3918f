//! ipsets: what is in one, how it is named, and the lines that make one set out of another.
//!
//! * One set holds one family, so each of ours is two.
//! * A set's type is part of its name: a set that needs another type is another set, and rules move from one to the other.
//! * Members come and go one by one. A set that is too small is filled anew beside itself and swapped in one step.

use super::rule::base32;
use lasthop_net::{Family, IfName, Prefix};
use lasthop_policy::ir::{Digest, Member, SetId, SetKind};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Begins the name of every set of ours.
pub const SET_PREFIX: &str = "lh-";
/// Filled and swapped with a set that is too small.
pub(super) const SPARE: &str = "lh-spare";
/// Members that a set takes before it has to grow.
pub(super) const CAPACITY: usize = 1 << 20;

/// A type of set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// `hash:ip`.
    Addresses,
    /// `hash:net`.
    Nets,
    /// `hash:ip,port`.
    Ports,
    /// `hash:net,iface`: a source and the link that it comes from.
    Sources,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Addresses, Self::Nets, Self::Ports, Self::Sources];

    fn text(self) -> &'static str {
        match self {
            Self::Addresses => "hash:ip",
            Self::Nets => "hash:net",
            Self::Ports => "hash:ip,port",
            Self::Sources => "hash:net,iface",
        }
    }
}

impl From<SetKind> for Kind {
    fn from(kind: SetKind) -> Self {
        match kind {
            SetKind::Addresses => Self::Addresses,
            SetKind::Nets => Self::Nets,
            SetKind::Ports => Self::Ports,
        }
    }
}

/// A member of a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Element {
    /// An address or prefix.
    Net(Prefix),
    /// An address, a protocol and a port.
    Port(IpAddr, u8, u16),
    /// A source and a link.
    Source(Prefix, IfName),
}

/// A set as it ought to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    /// Its type.
    pub kind: Kind,
    /// Its family.
    pub family: Family,
    /// Its members.
    pub members: BTreeSet<Element>,
}

/// A set as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Actual {
    /// Of a type and family that one of ours may have; `None` for any other.
    pub(super) shape: Option<(Kind, Family)>,
    pub(super) capacity: usize,
    pub(super) members: BTreeSet<Element>,
}

/// A line for `ipset restore`, and the set that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) set: String,
    pub(super) text: String,
}

/// What is done before rules change, and what after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) early: Vec<Line>,
    pub(super) late: Vec<Line>,
}

/// In which order members of a set come and go when rules change in the same cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timing {
    /// New members before the rules, old ones after: nobody who stays a member of one of two sets is ever in neither.
    Widen,
    /// Old members before the rules, new ones after: rules that go never see new members, rules that come never old ones.
    Narrow,
}

/// The name of a policy's set in one family: 31 characters, as many as the kernel takes.
pub(super) fn name(SetId(Digest(bytes)): SetId, kind: Kind, family: Family) -> String {
    let letter = match kind {
        Kind::Addresses => 'a',
        Kind::Nets => 'n',
        Kind::Ports => 'p',
        Kind::Sources => 's',
    };
    format!("{SET_PREFIX}{}{letter}{}", digit(family), base32(&bytes))
}

/// The name of a list of prefixes that a rule writes out, by content.
pub(super) fn list_name(nets: &BTreeSet<Prefix>, family: Family) -> String {
    format!("{SET_PREFIX}{}x{}", digit(family), base32(&Digest::of(nets).0))
}

pub(super) fn digit(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}

/// A prefix as members of a set: no set takes a length of zero, two halves of everything do.
pub(super) fn nets(prefix: Prefix) -> impl Iterator<Item = Prefix> {
    let halves = (prefix.len() == 0).then(|| {
        let upper = match prefix.family() {
            Family::V4 => IpAddr::V4(Ipv4Addr::new(128, 0, 0, 0)),
            Family::V6 => IpAddr::V6(Ipv6Addr::new(0x8000, 0, 0, 0, 0, 0, 0, 0)),
        };
        [Prefix::new(prefix.address(), 1), Prefix::new(upper, 1)]
    });
    let whole = halves.is_none().then_some(prefix);
    halves.into_iter().flatten().flatten().chain(whole)
}

/// A policy's member as members of the set of a family; nothing if it is of the other family or no member of this kind.
pub(super) fn elements(member: Member, kind: Kind, family: Family) -> Vec<Element> {
    match (member, kind) {
        (Member::Net(prefix), Kind::Nets) if prefix.family() == family => nets(prefix).map(Element::Net).collect(),
        (Member::Net(prefix), Kind::Addresses) if prefix.family() == family && prefix.is_host() => {
            vec![Element::Net(prefix)]
        }
        (Member::Port(address, protocol, port), Kind::Ports) if Family::of(address) == family => {
            vec![Element::Port(address, protocol, port)]
        }
        _ => Vec::new(),
    }
}

/// Whether a set of this kind can hold the member at all.
pub(super) fn fits(member: Member, kind: Kind) -> bool {
    match member {
        Member::Net(prefix) => kind == Kind::Nets || (kind == Kind::Addresses && prefix.is_host()),
        Member::Port(..) => kind == Kind::Ports,
    }
}

/// A prefix as ipset and iptables write it: an address alone without its length.
pub(super) fn net(prefix: Prefix) -> String {
    if prefix.is_host() { prefix.address().to_string() } else { prefix.to_string() }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(prefix) => f.write_str(&net(*prefix)),
            Self::Port(address, protocol, port) => write!(f, "{address},{protocol}:{port}"),
            Self::Source(prefix, link) => write!(f, "{},{link}", net(*prefix)),
        }
    }
}

/// The lines that make a set as wanted out of nothing or of what is there. One that is made takes `least` members at least.
pub(super) fn plan(name: &str, wanted: &Spec, actual: Option<&Actual>, (timing, least): (Timing, usize)) -> Plan {
    let mut plan = Plan::default();
    let line = |text: String| Line { set: name.to_owned(), text };
    let Some(actual) = actual else {
        plan.early.push(line(create(name, wanted, least)));
        plan.early.extend(wanted.members.iter().map(|member| line(format!("add {name} {member}"))));
        return plan;
    };
    if wanted.members.len() > actual.capacity {
        plan.early.push(line(create(SPARE, wanted, least)));
        plan.early.push(line(format!("flush {SPARE}")));
        plan.early.extend(wanted.members.iter().map(|member| line(format!("add {SPARE} {member}"))));
        plan.early.push(line(format!("swap {SPARE} {name}")));
        plan.early.push(line(format!("destroy {SPARE}")));
        return plan;
    }
    let new = wanted.members.difference(&actual.members).map(|member| line(format!("add {name} {member}")));
    let old = actual.members.difference(&wanted.members).map(|member| line(format!("del {name} {member}")));
    let full = actual.members.len() + new.clone().count() > actual.capacity;
    match timing {
        Timing::Widen if !full => {
            plan.early.extend(new);
            plan.late.extend(old);
        }
        Timing::Widen => {
            plan.early.extend(old);
            plan.early.extend(new);
        }
        Timing::Narrow => {
            plan.early.extend(old);
            plan.late.extend(new);
        }
    }
    plan
}

/// `least`: how many members it takes at least.
fn create(name: &str, wanted: &Spec, least: usize) -> String {
    let family = match wanted.family {
        Family::V4 => "inet",
        Family::V6 => "inet6",
    };
    let capacity = capacity(wanted.members.len(), least);
    format!("create {name} {} family {family} maxelem {capacity}", wanted.kind.text())
}

/// How many members a set that is made for so many takes.
pub(super) fn capacity(members: usize, least: usize) -> usize {
    if members <= least { least } else { members.next_power_of_two().max(least) }
}

/// Parses the output of `ipset save`: our sets.
pub(super) fn parse(text: &str) -> BTreeMap<String, Actual> {
    let mut sets: BTreeMap<String, Actual> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(command), Some(name), Some(third)) = (words.next(), words.next(), words.next()) else { continue };
        if !name.starts_with(SET_PREFIX) {
            continue;
        }
        if command == "create" {
            let options: Vec<&str> = words.collect();
            let option = |key: &str| options.iter().position(|w| *w == key).and_then(|at| options.get(at + 1)).copied();
            let kind = Kind::ALL.into_iter().find(|kind| kind.text() == third);
            let family = match option("family") {
                Some("inet") => Some(Family::V4),
                Some("inet6") => Some(Family::V6),
                _ => None,
            };
            let capacity = option("maxelem").and_then(|n| n.parse().ok()).unwrap_or(0);
            let set = Actual { shape: kind.zip(family), capacity, members: BTreeSet::new() };
            sets.insert(name.to_owned(), set);
        } else if let (Some(set), "add") = (sets.get_mut(name), command) {
            match set.shape.and_then(|(kind, _)| element(third, kind)) {
                Some(element) => {
                    set.members.insert(element);
                }
                // What cannot be ours makes the set one to be made anew.
                None => set.shape = None,
            }
        }
    }
    sets
}

pub(super) fn element(text: &str, kind: Kind) -> Option<Element> {
    match kind {
        Kind::Addresses | Kind::Nets => Some(Element::Net(text.parse().ok()?)),
        Kind::Ports => {
            let (address, port) = text.split_once(',')?;
            let (protocol, port) = port.split_once(':')?;
            Some(Element::Port(address.parse().ok()?, protocol_number(protocol)?, port.parse().ok()?))
        }
        Kind::Sources => {
            let (prefix, link) = text.split_once(',')?;
            Some(Element::Source(prefix.parse().ok()?, link.parse().ok()?))
        }
    }
}

/// `ipset` names those protocols that /etc/protocols names.
fn protocol_number(text: &str) -> Option<u8> {
    Some(match text {
        "tcp" => 6,
        "udp" => 17,
        "sctp" => 132,
        "udplite" => 136,
        number => number.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "create lh-4a hash:ip family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x1
add lh-4a 10.0.0.1
create other hash:ip family inet hashsize 1024 maxelem 65536
add other 10.0.0.9
create lh-6n hash:net family inet6 hashsize 1024 maxelem 100 bucketsize 12 initval 0x1
add lh-6n ::/1
add lh-6n fd00::/64
create lh-4p hash:ip,port family inet hashsize 1024 maxelem 65536
add lh-4p 10.0.0.1,udp:80
add lh-4p 10.0.0.1,50:0
add lh-4p 10.0.0.1,udplite:82
create lh-src4 hash:net,iface family inet hashsize 1024 maxelem 65536
add lh-src4 0.0.0.0/0,lhw2
create lh-odd bitmap:port range 0-65535
add lh-odd 80
";

    #[test]
    fn sets_are_read_as_they_are_written() {
        let sets = parse(SAVED);
        let shapes: Vec<_> = sets.iter().map(|(name, set)| (name.as_str(), set.shape, set.members.len())).collect();
        let expected = [
            ("lh-4a", Some((Kind::Addresses, Family::V4)), 1),
            ("lh-4p", Some((Kind::Ports, Family::V4)), 3),
            ("lh-6n", Some((Kind::Nets, Family::V6)), 2),
            ("lh-odd", None, 0),
            ("lh-src4", Some((Kind::Sources, Family::V4)), 1),
        ];
        assert_eq!(shapes, expected);
        assert_eq!(sets["lh-6n"].capacity, 100);
        for (name, line) in [("lh-4p", "10.0.0.1,17:80"), ("lh-6n", "fd00::/64"), ("lh-src4", "0.0.0.0/0,lhw2")] {
            let written: Vec<String> = sets[name].members.iter().map(ToString::to_string).collect();
            assert!(written.contains(&line.to_owned()), "{written:?}");
        }
    }

    fn spec(members: &[&str]) -> Spec {
        let members = members.iter().map(|text| Element::Net(text.parse().expect("a prefix"))).collect();
        Spec { kind: Kind::Nets, family: Family::V4, members }
    }

    fn planned(wanted: &[&str], actual: Option<(&[&str], usize)>, timing: Timing) -> [Vec<String>; 2] {
        let actual = actual.map(|(members, capacity)| Actual {
            shape: Some((Kind::Nets, Family::V4)),
            capacity,
            members: spec(members).members,
        });
        let result = plan("lh-4n", &spec(wanted), actual.as_ref(), (timing, 2));
        [result.early, result.late].map(|lines| lines.into_iter().map(|line| line.text).collect())
    }

    #[test]
    fn members_come_and_go_by_themselves_and_in_order() {
        let [early, late] = planned(&["1.0.0.0/8", "2.0.0.1/32"], None, Timing::Narrow);
        let made = ["create lh-4n hash:net family inet maxelem 2", "add lh-4n 1.0.0.0/8", "add lh-4n 2.0.0.1"];
        assert_eq!((early, late), (made.map(str::to_owned).to_vec(), Vec::<String>::new()));
        let (add, del) = (vec!["add lh-4n 2.0.0.0/8".to_owned()], vec!["del lh-4n 1.0.0.0/8".to_owned()]);
        let (from, to): (&[&str], &[&str]) = (&["1.0.0.0/8", "3.0.0.0/8"], &["2.0.0.0/8", "3.0.0.0/8"]);
        assert_eq!(planned(to, Some((from, 9)), Timing::Widen), [add.clone(), del.clone()]);
        assert_eq!(planned(to, Some((from, 9)), Timing::Narrow), [del.clone(), add.clone()]);
        assert_eq!(planned(to, Some((from, 2)), Timing::Widen), [[del, add].concat(), Vec::new()], "no room for both");
        assert_eq!(planned(to, Some((to, 2)), Timing::Widen), [const { Vec::<String>::new() }; 2]);
    }

    #[test]
    fn a_set_that_is_too_small_is_swapped_for_a_larger_one() {
        let [early, late] = planned(&["1.0.0.0/8", "2.0.0.0/8", "3.0.0.0/8"], Some((&["1.0.0.0/8"], 2)), Timing::Widen);
        assert_eq!(early[0], "create lh-spare hash:net family inet maxelem 4");
        assert_eq!(early.last().map(String::as_str), Some("destroy lh-spare"));
        assert!(early.contains(&"swap lh-spare lh-4n".to_owned()) && late.is_empty());
    }

    #[test]
    fn names_fit_and_zero_length_is_two_halves() {
        let id = SetId(Digest([0xff; 16]));
        for kind in [Kind::Addresses, Kind::Nets, Kind::Ports] {
            assert_eq!(name(id, kind, Family::V6).len(), 31);
        }
        assert_eq!(list_name(&BTreeSet::new(), Family::V4).len(), 31);
        for (text, halves) in [("0.0.0.0/0", ["0.0.0.0/1", "128.0.0.0/1"]), ("::/0", ["::/1", "8000::/1"])] {
            let all: Vec<String> = nets(text.parse().expect("a prefix")).map(|p| p.to_string()).collect();
            assert_eq!(all, halves);
        }
    }
}

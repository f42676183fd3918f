//! What a set of members holds in one family, and how one content becomes another (pure).
//!
//! Addresses and ports are kept one by one. Nets are merged first, because an interval set refuses ranges that overlap; a
//! range that changes is replaced as a whole, and no other is looked at.

use super::matching::field;
use crate::nft::ranges;
use crate::nft::ruleset::{Element, Field, Gives, Keys, SetSpec};
use lasthop_net::{Family, Prefix};
use lasthop_policy::ir::{Member, Set, SetKind};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What a set holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::nft) enum Content {
    /// Members one by one.
    Members(BTreeSet<Member>),
    /// Ranges of addresses, first and last, disjoint and not adjacent.
    Ranges(Family, BTreeSet<(u128, u128)>),
}

/// What leaves a set and what comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::nft) struct Change {
    gone: Content,
    new: Content,
}

/// The definition of the kernel's set.
pub(super) fn spec(kind: SetKind, family: Family) -> SetSpec {
    let address = field(family);
    let (fields, keys) = match kind {
        SetKind::Addresses => (vec![address], Keys::Exact),
        SetKind::Nets => (vec![address], Keys::Ranges),
        SetKind::Ports => (vec![address, Field::Protocol, Field::Port], Keys::Exact),
    };
    SetSpec { fields, keys, gives: Gives::Nothing }
}

fn family_of(member: &Member) -> Family {
    match member {
        Member::Net(prefix) => prefix.family(),
        Member::Port(address, ..) => Family::of(*address),
    }
}

/// Whether a set of this kind has room for such a member.
fn fits(kind: SetKind, member: &Member) -> bool {
    match (kind, member) {
        (SetKind::Addresses, Member::Net(prefix)) => prefix.is_host(),
        (SetKind::Nets, Member::Net(_)) | (SetKind::Ports, Member::Port(..)) => true,
        _ => false,
    }
}

fn element(member: &Member) -> Element {
    match member {
        Member::Net(prefix) => Element::key(ranges::first(*prefix)),
        Member::Port(address, protocol, port) => {
            let mut key = ranges::first(Prefix::host(*address));
            key.extend([*protocol, 0, 0, 0]);
            key.extend(port.to_be_bytes());
            key.extend([0, 0]);
            Element::key(key)
        }
    }
}

/// The member that an element stands for; `None` if we would not have written it.
fn member(kind: SetKind, family: Family, element: &Element) -> Option<Member> {
    let length = usize::from(family.bits() / 8);
    let (address, rest) = element.key.split_at_checked(length)?;
    let address = match family {
        Family::V4 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
        Family::V6 => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
    };
    let member = match (kind, rest) {
        (SetKind::Addresses, []) => Member::Net(Prefix::host(address)),
        (SetKind::Ports, &[protocol, _, _, _, high, low, _, _]) => {
            Member::Port(address, protocol, u16::from_be_bytes([high, low]))
        }
        _ => return None,
    };
    (self::element(&member) == *element).then_some(member)
}

/// As [`Content::change`]: only ranges that meet or touch one of these members are looked at.
fn change_ranges<'a>(
    before: &BTreeSet<(u128, u128)>,
    set: &Set,
    members: impl Iterator<Item = &'a Member>,
) -> Option<Change> {
    let nets: BTreeSet<Prefix> = members.filter_map(net).collect();
    let family = nets.first()?.family();
    let mut places: Vec<(u128, u128)> = Vec::new();
    for (first, last) in nets.into_iter().map(ranges::bounds) {
        let mut place = (first, last);
        // Neither overlapping nor touching, so what meets the range meets no further one.
        let below = before.range(..=(last.saturating_add(1), u128::MAX)).rev();
        for range in below.take_while(|range| range.1.saturating_add(1) >= first) {
            place = (place.0.min(range.0), place.1.max(range.1));
        }
        places.push(place);
    }
    places.sort_unstable();
    let (mut gone, mut new) = (BTreeSet::new(), BTreeSet::new());
    for (first, last) in ranges::merge(places) {
        let old: BTreeSet<(u128, u128)> = before.range((first, 0)..=(last, u128::MAX)).copied().collect();
        let from = Member::Net(ranges::widest(first, family));
        let inside = set.members.range(from..).map_while(net).take_while(|net| ranges::bounds(*net).0 <= last);
        let now = ranges::merged(&inside.take_while(|net| net.family() == family).collect(), family);
        gone.extend(old.difference(&now));
        new.extend(now.difference(&old));
    }
    let some = !gone.is_empty() || !new.is_empty();
    some.then_some(Change { gone: Content::Ranges(family, gone), new: Content::Ranges(family, new) })
}

fn net(member: &Member) -> Option<Prefix> {
    match member {
        Member::Net(prefix) => Some(*prefix),
        Member::Port(..) => None,
    }
}

impl Content {
    /// What a set ought to hold.
    pub(super) fn of(set: &Set, family: Family) -> Self {
        let members = set.members.iter().filter(|member| family_of(member) == family && fits(set.kind, member));
        match set.kind {
            SetKind::Addresses | SetKind::Ports => Self::Members(members.copied().collect()),
            SetKind::Nets => Self::Ranges(family, ranges::merged(&members.filter_map(net).collect(), family)),
        }
    }

    /// What elements stand for; and those that we would not have written.
    pub(super) fn read(kind: SetKind, family: Family, elements: Vec<Element>) -> (Self, Vec<Element>) {
        if kind == SetKind::Nets {
            let (ranges, strays) = ranges::read(elements, family);
            return (Self::Ranges(family, ranges), strays);
        }
        let mut members = BTreeSet::new();
        let mut strays = Vec::new();
        for element in elements {
            match member(kind, family, &element) {
                Some(member) => drop(members.insert(member)),
                None => strays.push(element),
            }
        }
        (Self::Members(members), strays)
    }

    /// The kernel's elements.
    pub(super) fn elements(&self) -> Vec<Element> {
        match self {
            Self::Members(members) => members.iter().map(element).collect(),
            Self::Ranges(family, all) => all.iter().flat_map(|range| ranges::range(*range, *family)).collect(),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Members(members) => members.is_empty(),
            Self::Ranges(_, ranges) => ranges.is_empty(),
        }
    }

    /// How many members of this another one lacks, and how many it has that are not here.
    pub(super) fn differs_from(&self, other: &Self) -> (usize, usize) {
        match (self, other) {
            (Self::Members(a), Self::Members(b)) => (a.difference(b).count(), b.difference(a).count()),
            (Self::Ranges(_, a), Self::Ranges(_, b)) => (a.difference(b).count(), b.difference(a).count()),
            _ => (0, 0),
        }
    }

    /// From this to what a set ought to hold.
    pub(super) fn change_to(&self, set: &Set, family: Family) -> Option<Change> {
        let change = match (self, Self::of(set, family)) {
            (Self::Members(before), Self::Members(after)) => Change {
                gone: Self::Members(before.difference(&after).copied().collect()),
                new: Self::Members(after.difference(before).copied().collect()),
            },
            (Self::Ranges(_, before), Self::Ranges(_, after)) => Change {
                gone: Self::Ranges(family, before.difference(&after).copied().collect()),
                new: Self::Ranges(family, after.difference(before).copied().collect()),
            },
            (before, after) => Change { gone: before.clone(), new: after },
        };
        (!change.gone.is_empty() || !change.new.is_empty()).then_some(change)
    }

    /// As [`Self::change_to`] if only these members may differ.
    pub(super) fn change(&self, set: &Set, members: &[Member], family: Family) -> Option<Change> {
        let ours = |member: &&Member| family_of(member) == family && fits(set.kind, member);
        let before = match self {
            Self::Members(before) => before,
            Self::Ranges(_, _) if set.kind != SetKind::Nets => return self.change_to(set, family),
            Self::Ranges(_, before) => return change_ranges(before, set, members.iter().filter(ours)),
        };
        let (mut gone, mut new) = (BTreeSet::new(), BTreeSet::new());
        for member in members.iter().filter(ours) {
            match (before.contains(member), set.members.contains(member)) {
                (true, false) => drop(gone.insert(*member)),
                (false, true) => drop(new.insert(*member)),
                _ => {}
            }
        }
        let some = !gone.is_empty() || !new.is_empty();
        some.then_some(Change { gone: Self::Members(gone), new: Self::Members(new) })
    }

    /// A change has been made.
    pub(super) fn record(&mut self, change: Change) {
        match (self, change.gone, change.new) {
            (Self::Members(members), Self::Members(gone), Self::Members(new)) => {
                for member in &gone {
                    members.remove(member);
                }
                members.extend(new);
            }
            (Self::Ranges(_, ranges), Self::Ranges(_, gone), Self::Ranges(_, new)) => {
                for range in &gone {
                    ranges.remove(range);
                }
                ranges.extend(new);
            }
            (this, _, new) => *this = new,
        }
    }
}

impl Change {
    /// The elements that leave.
    pub(super) fn leaving(&self) -> Vec<Element> {
        self.gone.elements()
    }

    /// The elements that come.
    pub(super) fn coming(&self) -> Vec<Element> {
        self.new.elements()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::policy::unit::Unit;
    use lasthop_policy::ir::{Digest, SetId};
    use proptest::prelude::*;

    fn members(parts: &[(bool, u8, u8)]) -> BTreeSet<Member> {
        let net = |(v6, at, len): &(bool, u8, u8)| {
            let (address, len) = if *v6 {
                (
                    IpAddr::from([0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xff00 | u16::from(*at)]),
                    len + 96,
                )
            } else {
                (IpAddr::from([255, 255, 255, *at]), *len)
            };
            Member::Net(Prefix::new(address, len).expect("a length that fits"))
        };
        parts.iter().map(net).collect()
    }

    fn part() -> impl Strategy<Value = (bool, u8, u8)> {
        (any::<bool>(), any::<u8>(), prop_oneof![4 => 26u8..=32, 1 => 0u8..=32])
    }

    proptest! {
        #[test]
        fn what_a_few_members_change_is_what_differs(
            stay in prop::collection::vec(part(), 0..12),
            go in prop::collection::vec(part(), 0..4),
            come in prop::collection::vec(part(), 0..4),
        ) {
            let (stay, go, come) = (members(&stay), members(&go), members(&come));
            let set = |members| Set { kind: SetKind::Nets, members };
            let before = set(stay.union(&go).copied().collect());
            let after = set(stay.union(&come).copied().collect());
            let changed: Vec<Member> = before.members.symmetric_difference(&after.members).copied().collect();
            for family in Family::ALL {
                let content = Content::of(&before, family);
                prop_assert_eq!(content.change(&after, &changed, family), content.change_to(&after, family));
            }
        }
    }

    /// One net more or less among ten thousand is as many bytes as among ten.
    #[test]
    fn a_member_of_a_large_interval_set_is_a_small_request() {
        let sent = |count: u32| {
            let nets = (0..count).map(|n| Member::Net(Prefix::host(IpAddr::from((0x0a00_0000 + n * 4).to_be_bytes()))));
            let mut set = Set { kind: SetKind::Nets, members: nets.collect() };
            let before = Content::of(&set, Family::V4);
            let new = Member::Net("10.0.0.17/32".parse().expect("a net"));
            let wide = Member::Net("192.0.2.0/24".parse().expect("a net"));
            set.members.extend([new, wide]);
            let change = before.change(&set, &[new, wide], Family::V4).expect("a change");
            let unit = Unit::change(SetId(Digest([7; 16])), "nets4-x".to_owned(), change);
            unit.messages.iter().map(|message| message.payload().len()).sum::<usize>()
        };
        assert!(sent(10) < 400, "{} bytes", sent(10));
        assert_eq!(sent(10), sent(10_000));
    }
}

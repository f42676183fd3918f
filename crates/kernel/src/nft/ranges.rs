//! Prefixes as the elements of an interval set of one field: the first key, and the first one behind the last.
//!
//! Such a set (net/netfilter/nft_set_rbtree.c) refuses ranges that overlap, so prefixes that overlap or touch are
//! merged first.

use super::ruleset::{Element, Mark};
use lasthop_net::{Family, Prefix};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// First and last address as numbers.
pub(super) fn bounds(prefix: Prefix) -> (u128, u128) {
    let first = match prefix.address() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    let host_bits = u32::from(prefix.family().bits() - prefix.len());
    (first, first | (1u128.checked_shl(host_bits).unwrap_or(0).wrapping_sub(1)))
}

/// A number as an address of this family, in network order.
fn key(number: u128, family: Family) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    bytes[16 - usize::from(family.bits() / 8)..].to_vec()
}

/// The first address of a prefix, in network order.
pub(super) fn first(prefix: Prefix) -> Vec<u8> {
    key(bounds(prefix).0, prefix.family())
}

/// The last address of a prefix, in network order.
pub(super) fn last(prefix: Prefix) -> Vec<u8> {
    key(bounds(prefix).1, prefix.family())
}

/// Those of `prefixes` that are of this family, as ranges that neither overlap nor touch.
pub(super) fn merged(prefixes: &BTreeSet<Prefix>, family: Family) -> BTreeSet<(u128, u128)> {
    // In the order of their first address, because that is how prefixes are ordered.
    merge(prefixes.iter().filter(|prefix| prefix.family() == family).map(|prefix| bounds(*prefix)))
}

/// Ranges in the order of their beginnings as ranges that neither overlap nor touch.
pub(super) fn merge(ranges: impl IntoIterator<Item = (u128, u128)>) -> BTreeSet<(u128, u128)> {
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(range) if first <= range.1.saturating_add(1) => range.1 = range.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged.into_iter().collect()
}

/// The widest prefix that begins at an address.
pub(super) fn widest(first: u128, family: Family) -> Prefix {
    let bits = family.bits();
    let zeros = u8::try_from(first.trailing_zeros()).unwrap_or(bits).min(bits);
    let address = match (family, u32::try_from(first)) {
        (Family::V4, Ok(first)) => IpAddr::from(first.to_be_bytes()),
        _ => IpAddr::from(first.to_be_bytes()),
    };
    Prefix::new(address, bits - zeros).unwrap_or(Prefix::host(address))
}

/// The elements that stand for a range.
pub(super) fn range((first, last): (u128, u128), family: Family) -> Vec<Element> {
    let begin = Element::key(key(first, family));
    let end = |next| Element { mark: Mark::RangeEnd, ..Element::key(key(next, family)) };
    let all = bounds(Prefix::default_route(family)).1;
    let end = (last < all).then(|| end(last + 1));
    [begin].into_iter().chain(end).collect()
}

/// The elements that stand for those of `prefixes` that are of this family.
pub(super) fn elements(prefixes: &BTreeSet<Prefix>, family: Family) -> BTreeSet<Element> {
    merged(prefixes, family).into_iter().flat_map(|bounds| range(bounds, family)).collect()
}

/// The ranges that elements stand for; and the elements that stand for none.
pub(super) fn read(elements: Vec<Element>, family: Family) -> (BTreeSet<(u128, u128)>, Vec<Element>) {
    let number = |element: &Element| {
        let mut bytes = [0; 16];
        let from = 16 - usize::from(family.bits() / 8);
        (element.key.len() == 16 - from).then(|| bytes[from..].copy_from_slice(&element.key))?;
        Some(u128::from_be_bytes(bytes))
    };
    let mut strays = Vec::new();
    let mut ends: Vec<(u128, Element)> = Vec::new();
    for element in elements {
        match number(&element).filter(|_| element.mark != Mark::CatchAll && element.last.is_none()) {
            Some(at) => ends.push((at, element)),
            None => strays.push(element),
        }
    }
    // Where one range ends and the next begins, the end comes first.
    ends.sort_by_key(|(at, element)| (*at, element.mark != Mark::RangeEnd));
    let mut ranges = BTreeSet::new();
    let mut begun: Option<(u128, Element)> = None;
    for (at, element) in ends {
        match (element.mark, begun.take()) {
            (Mark::RangeEnd, Some((first, _))) => drop(ranges.insert((first, at.wrapping_sub(1)))),
            (Mark::RangeEnd, None) => strays.push(element),
            (_, before) => {
                strays.extend(before.map(|(_, element)| element));
                begun = Some((at, element));
            }
        }
    }
    if let Some((first, _)) = begun {
        ranges.insert((first, bounds(Prefix::default_route(family)).1));
    }
    (ranges, strays)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the kernel answers: the nearest element at or below the address starts a range.
    fn holds(elements: &BTreeSet<Element>, address: IpAddr) -> bool {
        let key = last(Prefix::host(address));
        let below = elements.iter().filter(|element| element.key <= key).max_by_key(|element| &element.key);
        below.is_some_and(|element| element.mark == Mark::Key)
    }

    fn prefix() -> impl Strategy<Value = Prefix> {
        let v4 = (any::<u8>(), 24u8..=32)
            .prop_map(|(low, len)| Prefix::new(IpAddr::from([255, 255, 255, low]), len).expect("a length that fits"));
        let v6 = (any::<u8>(), 0u8..=128).prop_map(|(low, len)| {
            Prefix::new(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(low)]), len).expect("a length that fits")
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn ranges_are_read_from_their_elements(prefixes in prop::collection::btree_set(prefix(), 0..8)) {
            for family in Family::ALL {
                let written: Vec<Element> = elements(&prefixes, family).into_iter().rev().collect();
                prop_assert_eq!(read(written, family), (merged(&prefixes, family), Vec::new()));
            }
        }

        #[test]
        fn a_set_holds_what_its_prefixes_hold(prefixes in prop::collection::btree_set(prefix(), 0..8), low: u8) {
            for address in [IpAddr::from([255, 255, 255, low]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(low)])] {
                let elements = elements(&prefixes, Family::of(address));
                let expect = prefixes.iter().any(|prefix| prefix.contains(address));
                prop_assert_eq!(holds(&elements, address), expect, "{:?} in {:?}", address, prefixes);
            }
        }
    }

    #[test]
    fn neighbours_are_merged_and_the_end_of_the_world_has_no_element_behind_it() {
        let prefixes = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let keys = |texts: &[&str], family| {
            elements(&prefixes(texts), family)
                .into_iter()
                .map(|e| (e.key, e.mark == Mark::RangeEnd))
                .collect::<Vec<_>>()
        };
        let touching = ["10.0.0.0/25", "10.0.0.128/25", "10.0.0.7/32"];
        assert_eq!(keys(&touching, Family::V4), [(vec![10, 0, 0, 0], false), (vec![10, 0, 1, 0], true)]);
        assert_eq!(keys(&["240.0.0.0/4"], Family::V4), [(vec![240, 0, 0, 0], false)]);
        assert_eq!(keys(&["::/0"], Family::V6), [(vec![0; 16], false)]);
    }
}

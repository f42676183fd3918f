//! A map by prefix for large tables: ordered, and nearly as small as its keys and values.
//!
//! Keys and values lie in pages of up to [`FULL`] each, so an IPv4 route costs 8 octets beside its value, and routes that
//! come in order fill their pages. Both families are the same code over two kinds of keys.

use crate::{Family, Prefix};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Keys in a page. Larger ones cost more to insert into, smaller ones make the list of pages longer.
const FULL: usize = 256;

/// A page with so few is joined to the one before it if both fit easily.
const SPARSE: usize = FULL / 4;

/// A map from [`Prefix`] in ascending order.
#[derive(Clone, Debug)]
pub struct PrefixMap<T> {
    v4: Pages<Key4, T>,
    v6: Pages<Key6, T>,
}

type Key4 = u64;
type Key6 = [u8; 17];

/// A prefix as the key of its family; the order is that of [`Prefix`].
enum Key {
    V4(Key4),
    V6(Key6),
}

impl From<Prefix> for Key {
    fn from(prefix: Prefix) -> Self {
        match prefix.address() {
            IpAddr::V4(address) => Self::V4(u64::from(address.to_bits()) << 8 | u64::from(prefix.len())),
            IpAddr::V6(address) => {
                let mut key = [prefix.len(); 17];
                if let Some(octets) = key.first_chunk_mut::<16>() {
                    *octets = address.octets();
                }
                Self::V6(key)
            }
        }
    }
}

fn prefix4(key: Key4) -> Prefix {
    let [_, _, _, a, b, c, d, len] = key.to_be_bytes();
    Prefix::masked(Ipv4Addr::new(a, b, c, d).into(), len)
}

fn prefix6(key: Key6) -> Prefix {
    let [octets @ .., len] = key;
    Prefix::masked(Ipv6Addr::from(octets).into(), len)
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        Self { v4: Pages::default(), v6: Pages::default() }
    }
}

impl<T> PrefixMap<T> {
    /// How many prefixes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.v4.len + self.v6.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of a family there are.
    #[must_use]
    pub fn count(&self, family: Family) -> usize {
        match family {
            Family::V4 => self.v4.len,
            Family::V6 => self.v6.len,
        }
    }

    /// The value of a prefix.
    #[must_use]
    pub fn get(&self, prefix: Prefix) -> Option<&T> {
        match prefix.into() {
            Key::V4(key) => self.v4.get(key),
            Key::V6(key) => self.v6.get(key),
        }
    }

    /// The value of a prefix, to be changed.
    pub fn get_mut(&mut self, prefix: Prefix) -> Option<&mut T> {
        match prefix.into() {
            Key::V4(key) => self.v4.get_mut(key),
            Key::V6(key) => self.v6.get_mut(key),
        }
    }

    /// The value of a prefix, which is there from now on.
    pub fn get_or_default(&mut self, prefix: Prefix) -> &mut T
    where
        T: Default,
    {
        match prefix.into() {
            Key::V4(key) => self.v4.get_or_default(key),
            Key::V6(key) => self.v6.get_or_default(key),
        }
    }

    /// Takes a prefix out.
    pub fn remove(&mut self, prefix: Prefix) -> Option<T> {
        match prefix.into() {
            Key::V4(key) => self.v4.remove(key),
            Key::V6(key) => self.v6.remove(key),
        }
    }

    /// All in ascending order, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, &T)> + '_ {
        let v4 = self.v4.after(None).map(|(key, value)| (prefix4(key), value));
        v4.chain(self.v6.after(None).map(|(key, value)| (prefix6(key), value)))
    }

    /// The prefixes in ascending order, IPv4 first.
    pub fn keys(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.iter().map(|(prefix, _)| prefix)
    }

    /// Those of a family that come after `last`, or all of it.
    pub fn after(&self, family: Family, last: Option<Prefix>) -> impl Iterator<Item = (Prefix, &T)> + '_ {
        let (mut last4, mut last6) = (None, None);
        match last.map(Key::from) {
            Some(Key::V4(key)) => last4 = Some(key),
            Some(Key::V6(key)) => last6 = Some(key),
            None => {}
        }
        let v4 = (family == Family::V4).then(|| self.v4.after(last4).map(|(key, value)| (prefix4(key), value)));
        let v6 = (family == Family::V6).then(|| self.v6.after(last6).map(|(key, value)| (prefix6(key), value)));
        v4.into_iter().flatten().chain(v6.into_iter().flatten())
    }
}

/// Ascending pages, none empty; `firsts` has the first key of each, or a lower one.
#[derive(Clone, Debug)]
struct Pages<K, T> {
    firsts: Vec<K>,
    pages: Vec<Page<K, T>>,
    len: usize,
    /// Where the last change was: the next one is mostly beside it.
    near: usize,
}

#[derive(Clone, Debug)]
struct Page<K, T> {
    keys: Vec<K>,
    values: Vec<T>,
}

impl<K, T> Default for Pages<K, T> {
    fn default() -> Self {
        Self { firsts: Vec::new(), pages: Vec::new(), len: 0, near: 0 }
    }
}

impl<K: Ord + Copy, T> Pages<K, T> {
    /// The page a key is in or belongs into.
    fn page(&self, key: K) -> usize {
        let fits = |at: usize| {
            self.firsts.get(at).is_some_and(|first| *first <= key)
                && self.firsts.get(at + 1).is_none_or(|next| key < *next)
        };
        if fits(self.near) {
            return self.near;
        }
        self.firsts.partition_point(|first| *first <= key).saturating_sub(1)
    }

    fn get(&self, key: K) -> Option<&T> {
        let page = self.pages.get(self.page(key))?;
        page.values.get(page.keys.binary_search(&key).ok()?)
    }

    fn get_mut(&mut self, key: K) -> Option<&mut T> {
        self.near = self.page(key);
        let page = self.pages.get_mut(self.near)?;
        page.values.get_mut(page.keys.binary_search(&key).ok()?)
    }

    fn get_or_default(&mut self, key: K) -> &mut T
    where
        T: Default,
    {
        if self.pages.is_empty() {
            self.firsts.push(key);
            self.pages.push(Page { keys: Vec::new(), values: Vec::new() });
        }
        let mut at = self.page(key);
        // Routes mostly come in order.
        let page = &self.pages[at];
        let found = if page.keys.last().is_some_and(|last| *last < key) {
            Err(page.keys.len())
        } else {
            page.keys.binary_search(&key)
        };
        let place = match found {
            Ok(place) => place,
            Err(mut place) => {
                (at, place) = self.make_room(key, (at, place));
                let page = &mut self.pages[at];
                page.keys.insert(place, key);
                page.values.insert(place, T::default());
                self.firsts[at] = self.firsts[at].min(key);
                self.len += 1;
                place
            }
        };
        self.near = at;
        &mut self.pages[at].values[place]
    }

    /// Where a key goes, once a full page has been cut in two.
    fn make_room(&mut self, key: K, (at, place): (usize, usize)) -> (usize, usize) {
        let page = &mut self.pages[at];
        if page.keys.len() < FULL {
            return (at, place);
        }
        let cut = if place == FULL { FULL } else { FULL / 2 };
        let mut new = Page { keys: Vec::with_capacity(FULL), values: Vec::with_capacity(FULL) };
        new.keys.extend(page.keys.drain(cut..));
        new.values.extend(page.values.drain(cut..));
        self.firsts.insert(at + 1, new.keys.first().copied().unwrap_or(key));
        self.pages.insert(at + 1, new);
        if place >= cut && (place > cut || cut == FULL) { (at + 1, place - cut) } else { (at, place) }
    }

    fn remove(&mut self, key: K) -> Option<T> {
        self.near = self.page(key);
        let at = self.near;
        let page = self.pages.get_mut(at)?;
        let place = page.keys.binary_search(&key).ok()?;
        page.keys.remove(place);
        let value = page.values.remove(place);
        self.len -= 1;
        if page.keys.is_empty() {
            self.firsts.remove(at);
            self.pages.remove(at);
        } else if page.keys.len() <= SPARSE && at > 0 && self.pages[at - 1].keys.len() <= FULL / 2 {
            self.firsts.remove(at);
            let mut page = self.pages.remove(at);
            let before = &mut self.pages[at - 1];
            before.keys.append(&mut page.keys);
            before.values.append(&mut page.values);
        }
        Some(value)
    }

    /// What comes after a key, or everything.
    fn after(&self, last: Option<K>) -> impl Iterator<Item = (K, &T)> + '_ {
        let (at, place) = last.map_or((0, 0), |last| {
            let at = self.page(last);
            (at, self.pages.get(at).map_or(0, |page| page.keys.partition_point(|key| *key <= last)))
        });
        let pages = self.pages.iter().skip(at).enumerate();
        pages.flat_map(move |(number, page)| {
            let from = if number == 0 { place } else { 0 };
            let pairs = page.keys.iter().copied().zip(&page.values);
            pairs.skip(from)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn prefix(number: u32, family: Family) -> Prefix {
        let address = match family {
            Family::V4 => IpAddr::from((0x0a00_0000 + number / 2 * 2).to_be_bytes()),
            Family::V6 => IpAddr::from((0xfd65_u128 << 112 | u128::from(number / 2 * 2)).to_be_bytes()),
        };
        let bits = family.bits() - u8::try_from(number % 2).unwrap();
        Prefix::new(address, bits).unwrap()
    }

    fn assert_same(map: &PrefixMap<u32>, model: &BTreeMap<Prefix, u32>) {
        assert!(map.iter().map(|(key, value)| (key, *value)).eq(model.iter().map(|(key, value)| (*key, *value))));
        assert_eq!(map.len(), model.len());
        assert!(map.v4.pages.iter().all(|page| !page.keys.is_empty() && page.keys.len() <= FULL));
        assert!(map.v6.pages.iter().all(|page| !page.keys.is_empty() && page.keys.len() <= FULL));
    }

    #[test]
    fn routes_in_order_fill_their_pages() {
        let mut map = PrefixMap::<u32>::default();
        for number in (0..20_000).step_by(2) {
            *map.get_or_default(prefix(number, Family::V4)) = number;
        }
        assert_eq!(map.v4.pages.len(), 10_000usize.div_ceil(FULL));
        assert!(map.keys().is_sorted());
        for number in (0..20_000).step_by(2) {
            assert_eq!(map.remove(prefix(number, Family::V4)), Some(number));
        }
        assert!(map.is_empty() && map.v4.pages.is_empty());
    }

    #[test]
    fn sparse_pages_are_joined() {
        let mut map = PrefixMap::<u32>::default();
        (0..20_000).for_each(|number| *map.get_or_default(prefix(number, Family::V6)) = number);
        let pages = map.v6.pages.len();
        (0..20_000)
            .filter(|n| n % 50 != 0)
            .for_each(|number| assert_eq!(map.remove(prefix(number, Family::V6)), Some(number)));
        assert!(map.v6.pages.len() * 8 < pages, "{} of {pages}", map.v6.pages.len());
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps: Vec<(u32, bool, bool)>, spread in 1..40_000u32, run in 1..150u32) {
            let (mut map, mut model) = (PrefixMap::<u32>::default(), BTreeMap::new());
            for (number, v6, adds) in steps {
                let family = if v6 { Family::V6 } else { Family::V4 };
                let first = number % spread;
                for number in first..first + run {
                    let key = prefix(number, family);
                    if adds {
                        *map.get_or_default(key) = number;
                        model.insert(key, number);
                    } else {
                        prop_assert_eq!(map.remove(key), model.remove(&key));
                    }
                }
                let key = prefix(first, family);
                prop_assert_eq!(map.get(key), model.get(&key));
                prop_assert_eq!(map.get_mut(key).copied(), model.get(&key).copied());
                let rest = map.after(family, Some(key)).map(|(key, _)| key);
                prop_assert!(rest.eq(model.keys().copied().filter(|k| k.family() == family && *k > key)));
            }
            assert_same(&map, &model);
        }
    }
}

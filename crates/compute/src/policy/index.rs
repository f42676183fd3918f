//! Which selectors match which items, kept as both come and go.
//!
//! ```text
//! item ─▶ label set (interned) ◀── matched ──▶ selector
//!              └ found by one label that the selector cannot do without ┘
//! ```
//!
//! A selector is asked about each *distinct* set of labels once, not about each item: replicas of a workload share theirs. And only
//! about sets that have the label that it cannot do without ([`Selector::requirements`]), so an item costs what the selectors that
//! may match it cost, and a selector what the label sets cost that it may match.

use super::interned::Interned;
use lasthop_model::Labels;
use lasthop_model::selector::{Requirement, Selector};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A change of membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Move<S, I> {
    /// The selector matches the item now.
    Joined(S, I),
    /// The selector does not match the item any more.
    Left(S, I),
}

/// A number for a set of labels, while an item has it: to compare two of those costs nothing.
type Number = u64;

/// Selectors named by `S`, items named by `I`.
#[derive(Debug)]
pub(crate) struct Index<S, I> {
    selectors: BTreeMap<S, Entry>,
    /// Selectors by what they cannot do without.
    by_value: BTreeMap<(String, String), BTreeSet<S>>,
    by_key: BTreeMap<String, BTreeSet<S>>,
    unrestricted: BTreeSet<S>,
    /// Distinct sets of labels.
    sets: BTreeMap<Number, LabelSet<S, I>>,
    numbers: Interned<Labels, Number>,
    next: Number,
    /// Sets of labels by label.
    sets_by_key: BTreeMap<String, BTreeMap<String, BTreeSet<Number>>>,
    items: BTreeMap<I, Number>,
}

#[derive(Debug)]
struct Entry {
    selector: Selector,
    matched: BTreeSet<Number>,
}

#[derive(Debug)]
struct LabelSet<S, I> {
    labels: Arc<Labels>,
    items: BTreeSet<I>,
    selectors: BTreeSet<S>,
}

impl<S, I> Default for Index<S, I> {
    fn default() -> Self {
        Self {
            selectors: BTreeMap::new(),
            by_value: BTreeMap::new(),
            by_key: BTreeMap::new(),
            unrestricted: BTreeSet::new(),
            sets: BTreeMap::new(),
            numbers: Interned::default(),
            next: 0,
            sets_by_key: BTreeMap::new(),
            items: BTreeMap::new(),
        }
    }
}

impl<S: Copy + Ord, I: Copy + Ord> Index<S, I> {
    /// Takes in an item, new or with other labels.
    pub(crate) fn put_item(&mut self, item: I, labels: &Labels) -> Vec<Move<S, I>> {
        let number = self.number(labels);
        let before = self.items.insert(item, number);
        if before == Some(number) {
            return Vec::new();
        }
        let mut now = BTreeSet::new();
        if let Some(set) = self.sets.get_mut(&number) {
            set.items.insert(item);
            now.clone_from(&set.selectors);
        }
        let then = before.map(|number| self.leave(number, item)).unwrap_or_default();
        let left = then.difference(&now).map(|&selector| Move::Left(selector, item));
        let joined = now.difference(&then).map(|&selector| Move::Joined(selector, item));
        left.chain(joined).collect()
    }

    /// Forgets an item.
    pub(crate) fn remove_item(&mut self, item: I) -> Vec<Move<S, I>> {
        let Some(number) = self.items.remove(&item) else { return Vec::new() };
        self.leave(number, item).into_iter().map(|selector| Move::Left(selector, item)).collect()
    }

    /// Takes in a selector and returns the items that it matches. One of this name that is there already is replaced.
    pub(crate) fn put_selector(&mut self, name: S, selector: Selector) -> BTreeSet<I> {
        self.remove_selector(name);
        let requirement = tightest(&selector);
        let candidates: BTreeSet<Number> = match &requirement {
            Some(Requirement::OneOf(key, values)) => {
                let by_value = self.sets_by_key.get(key);
                by_value
                    .into_iter()
                    .flat_map(|sets| values.iter().filter_map(|v| sets.get(v)))
                    .flatten()
                    .copied()
                    .collect()
            }
            Some(Requirement::Has(key)) => {
                self.sets_by_key.get(key).into_iter().flat_map(|sets| sets.values()).flatten().copied().collect()
            }
            None => self.sets.keys().copied().collect(),
        };
        let (mut matched, mut items) = (BTreeSet::new(), BTreeSet::new());
        for number in candidates {
            if let Some(set) = self.sets.get_mut(&number).filter(|set| selector.matches(&set.labels)) {
                matched.insert(number);
                set.selectors.insert(name);
                items.extend(set.items.iter().copied());
            }
        }
        match requirement {
            Some(Requirement::OneOf(key, values)) => {
                for value in values {
                    self.by_value.entry((key.clone(), value)).or_default().insert(name);
                }
            }
            Some(Requirement::Has(key)) => {
                self.by_key.entry(key).or_default().insert(name);
            }
            None => {
                self.unrestricted.insert(name);
            }
        }
        self.selectors.insert(name, Entry { selector, matched });
        items
    }

    /// Forgets a selector.
    pub(crate) fn remove_selector(&mut self, name: S) {
        let Some(entry) = self.selectors.remove(&name) else { return };
        for number in &entry.matched {
            if let Some(set) = self.sets.get_mut(number) {
                set.selectors.remove(&name);
            }
        }
        match tightest(&entry.selector) {
            Some(Requirement::OneOf(key, values)) => {
                values.into_iter().for_each(|value| drop_from(&mut self.by_value, &(key.clone(), value), &name));
            }
            Some(Requirement::Has(key)) => drop_from(&mut self.by_key, &key, &name),
            None => {
                self.unrestricted.remove(&name);
            }
        }
    }

    /// The items that a selector matches.
    pub(crate) fn items(&self, name: S) -> impl Iterator<Item = I> {
        let sets = self.selectors.get(&name).into_iter().flat_map(|entry| &entry.matched);
        sets.filter_map(|number| self.sets.get(number)).flat_map(|set| set.items.iter().copied())
    }

    /// The selectors that match an item.
    pub(crate) fn selectors_of(&self, item: I) -> impl Iterator<Item = S> {
        let set = self.items.get(&item).and_then(|number| self.sets.get(number));
        set.into_iter().flat_map(|set| set.selectors.iter().copied())
    }

    /// The number of a set of labels; a new one is held against the selectors that may match it.
    fn number(&mut self, labels: &Labels) -> Number {
        if let Some((_, number)) = self.numbers.get(labels) {
            return *number;
        }
        let number = self.next;
        self.next += 1;
        let mut candidates = self.unrestricted.clone();
        for (key, value) in labels {
            candidates.extend(self.by_key.get(key).into_iter().flatten());
            candidates.extend(self.by_value.get(&(key.clone(), value.clone())).into_iter().flatten());
            let sets = self.sets_by_key.entry(key.clone()).or_default();
            sets.entry(value.clone()).or_default().insert(number);
        }
        let mut selectors = BTreeSet::new();
        for name in candidates {
            if let Some(entry) = self.selectors.get_mut(&name)
                && entry.selector.matches(labels)
            {
                entry.matched.insert(number);
                selectors.insert(name);
            }
        }
        let labels = Arc::new(labels.clone());
        self.numbers.add(labels.clone(), number);
        self.sets.insert(number, LabelSet { labels, items: BTreeSet::new(), selectors });
        number
    }

    /// Takes an item out of a set of labels, and the set away if it was the last; returns the selectors that matched.
    fn leave(&mut self, number: Number, item: I) -> BTreeSet<S> {
        let Some(set) = self.sets.get_mut(&number) else { return BTreeSet::new() };
        set.items.remove(&item);
        if !set.items.is_empty() {
            return set.selectors.clone();
        }
        let Some(LabelSet { labels, selectors, .. }) = self.sets.remove(&number) else { return BTreeSet::new() };
        self.numbers.remove(&labels);
        for name in &selectors {
            if let Some(entry) = self.selectors.get_mut(name) {
                entry.matched.remove(&number);
            }
        }
        for (key, value) in labels.iter() {
            if let Some(sets) = self.sets_by_key.get_mut(key) {
                drop_from(sets, value, &number);
                if sets.is_empty() {
                    self.sets_by_key.remove(key);
                }
            }
        }
        selectors
    }
}

/// The requirement that leaves fewest candidates: a value before a key.
fn tightest(selector: &Selector) -> Option<Requirement> {
    let rank = |requirement: &Requirement| match requirement {
        Requirement::OneOf(_, values) => values.len(),
        Requirement::Has(_) => usize::MAX,
    };
    selector.requirements().into_iter().min_by_key(rank)
}

fn drop_from<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(values) = map.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, Labels),
        Remove(u8),
        Select(u8, Selector),
        Drop(u8),
    }

    fn labels() -> impl Strategy<Value = Labels> {
        let value = prop_oneof![Just("x"), Just("y"), Just("xy")];
        prop::collection::btree_map(prop_oneof![Just("a"), Just("b"), Just("c")], value, 0..3)
            .prop_map(|map| map.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    fn selector() -> impl Strategy<Value = Selector> {
        let leaf = prop_oneof![
            Just("all()"),
            Just("has(a)"),
            Just("a == 'x'"),
            Just("b != 'y'"),
            Just("c in {'x', 'y'}"),
            Just("b not in {'x'}"),
            Just("a contains 'y'"),
            Just("c starts with 'x'"),
            Just("b ends with 'y'"),
        ]
        .prop_map(str::to_owned);
        let tree = leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
                inner.prop_map(|a| format!("!({a})")),
            ]
        });
        tree.prop_map(|text| text.parse().unwrap())
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u8..6, labels()).prop_map(|(item, labels)| Step::Put(item, labels)),
            1 => (0u8..6).prop_map(Step::Remove),
            2 => (0u8..4, selector()).prop_map(|(name, selector)| Step::Select(name, selector)),
            1 => (0u8..4).prop_map(Step::Drop),
        ]
    }

    proptest! {
        #[test]
        fn the_index_knows_what_asking_everybody_would_say(steps in prop::collection::vec(step(), 0..60)) {
            let mut index = Index::<u8, u8>::default();
            let mut items: BTreeMap<u8, Labels> = BTreeMap::new();
            let mut selectors: BTreeMap<u8, Selector> = BTreeMap::new();
            let mut told: BTreeSet<(u8, u8)> = BTreeSet::new();
            for step in steps {
                let moves = match step {
                    Step::Put(item, labels) => {
                        let moves = index.put_item(item, &labels);
                        items.insert(item, labels);
                        moves
                    }
                    Step::Remove(item) => {
                        items.remove(&item);
                        index.remove_item(item)
                    }
                    Step::Select(name, selector) => {
                        told.retain(|(told, _)| *told != name);
                        told.extend(index.put_selector(name, selector.clone()).into_iter().map(|item| (name, item)));
                        selectors.insert(name, selector);
                        Vec::new()
                    }
                    Step::Drop(name) => {
                        index.remove_selector(name);
                        selectors.remove(&name);
                        told.retain(|(told, _)| *told != name);
                        Vec::new()
                    }
                };
                for one in moves {
                    match one {
                        Move::Joined(selector, item) => prop_assert!(told.insert((selector, item))),
                        Move::Left(selector, item) => prop_assert!(told.remove(&(selector, item))),
                    }
                }
                let mut expected = BTreeSet::new();
                for (name, selector) in &selectors {
                    let matched = items.iter().filter(|(_, labels)| selector.matches(labels));
                    expected.extend(matched.map(|(item, _)| (*name, *item)));
                }
                prop_assert_eq!(&told, &expected);
                let asked: BTreeSet<_> =
                    selectors.keys().flat_map(|&name| index.items(name).map(move |item| (name, item))).collect();
                prop_assert_eq!(&asked, &expected);
                let asked: BTreeSet<_> =
                    items.keys().flat_map(|&item| index.selectors_of(item).map(move |name| (name, item))).collect();
                prop_assert_eq!(&asked, &expected);
                prop_assert!(index.sets.len() <= items.len());
            }
            let names: Vec<u8> = items.keys().copied().collect();
            names.into_iter().for_each(|item| { index.remove_item(item); });
            prop_assert!(index.sets.is_empty() && index.sets_by_key.is_empty() && index.numbers.is_empty());
        }
    }
}

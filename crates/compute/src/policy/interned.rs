//! Values that many have, kept once: found by their hash, so that they are compared once and not at every step down a tree.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Values, and what is known of each.
#[derive(Debug)]
pub(super) struct Interned<T: ?Sized, V = ()> {
    by_hash: BTreeMap<u64, Vec<(Arc<T>, V)>>,
    len: usize,
}

impl<T: ?Sized, V> Default for Interned<T, V> {
    fn default() -> Self {
        Self { by_hash: BTreeMap::new(), len: 0 }
    }
}

/// The same in every process.
fn hash<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl<T: Eq + Hash + ?Sized, V> Interned<T, V> {
    pub(super) fn get(&self, value: &T) -> Option<&(Arc<T>, V)> {
        self.by_hash.get(&hash(value))?.iter().find(|(known, _)| **known == *value)
    }

    /// Adds a value that is not there.
    pub(super) fn add(&mut self, value: Arc<T>, of_it: V) {
        self.by_hash.entry(hash(&*value)).or_default().push((value, of_it));
        self.len += 1;
    }

    pub(super) fn remove(&mut self, value: &T) {
        self.retain_of(hash(value), |known| known != value);
    }

    fn retain_of(&mut self, hash: u64, keeps: impl Fn(&T) -> bool) {
        let Some(same) = self.by_hash.get_mut(&hash) else { return };
        let before = same.len();
        same.retain(|(known, _)| keeps(known));
        self.len -= before - same.len();
        if same.is_empty() {
            self.by_hash.remove(&hash);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0 && self.by_hash.is_empty()
    }
}

impl<T: Eq + Hash + ?Sized> Interned<T> {
    /// The one copy of a value. Those that nobody has any more go when there are twice as many as then.
    pub(super) fn shared(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some((known, ())) = self.get(&value) {
            return known.clone();
        }
        if self.len.is_power_of_two() && self.len >= 64 {
            self.by_hash.retain(|_, same| {
                same.retain(|(known, ())| Arc::strong_count(known) > 1);
                !same.is_empty()
            });
            self.len = self.by_hash.values().map(Vec::len).sum();
        }
        self.add(value.clone(), ());
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_kept_once_and_goes_with_those_who_have_it() {
        let mut table: Interned<str> = Interned::default();
        let kept: Vec<Arc<str>> = (0..64).map(|number| table.shared(format!("{number}").into())).collect();
        assert!(Arc::ptr_eq(&kept[7], &table.shared("7".into())) && table.len == 64);
        drop(kept);
        table.shared("one more".into());
        assert_eq!(table.len, 1);
        table.remove("one more");
        assert!(table.is_empty());
    }
}

//! One diff for every table of kernel objects.
//!
//! A [`Table`] reads what is ours in the kernel and writes a [`Plan`]; a [`Reconciler`] remembers what was read and
//! written, so that a later pass costs only what changed. A key whose write failed is *unknown* until a write
//! succeeds: it is written again whatever was there before. What is right is never touched.

use crate::Error;
use lasthop_net::{IfName, RouteProtocol};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// What to change so that the kernel holds what is desired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan<K, V> {
    /// Keys to take away.
    pub remove: Vec<K>,
    /// Keys to make, or to give another value.
    pub upsert: Vec<(K, V)>,
}

impl<K, V> Default for Plan<K, V> {
    fn default() -> Self {
        Self { remove: Vec::new(), upsert: Vec::new() }
    }
}

impl<K, V> Plan<K, V> {
    /// How many keys change.
    #[must_use]
    pub fn len(&self) -> usize {
        self.remove.len() + self.upsert.len()
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The plan that turns `actual` into `desired`.
pub fn diff<K: Ord + Clone, V: PartialEq + Clone>(actual: &BTreeMap<K, V>, desired: &BTreeMap<K, V>) -> Plan<K, V> {
    Plan {
        remove: actual.keys().filter(|key| !desired.contains_key(key)).cloned().collect(),
        upsert: desired
            .iter()
            .filter(|(key, value)| actual.get(key) != Some(value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    }
}

/// A kind of kernel object of which some are ours.
pub trait Table {
    /// What tells one object from another.
    type Key: Ord + Clone;
    /// What we decide about it.
    type Value: PartialEq + Clone;

    /// What is ours in the kernel now.
    fn read_back(&mut self) -> Result<BTreeMap<Self::Key, Self::Value>, Error>;

    /// Carries out a plan in one batch, with a result for each key. A failing key never stops the others; removing
    /// what is not there, or writing what is already so, succeeds. `actual` is what we know to be in place.
    fn write(
        &mut self,
        plan: &Plan<Self::Key, Self::Value>,
        actual: &BTreeMap<Self::Key, Self::Value>,
    ) -> Vec<(Self::Key, Result<(), Error>)>;
}

/// Which keys a pass looks at, besides those that an earlier pass left undone.
#[derive(Debug)]
pub enum Scope<'a, K> {
    /// Every key, desired or actual.
    All,
    /// These.
    Keys(&'a BTreeSet<K>),
}

impl<K> Clone for Scope<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Scope<'_, K> {}

/// What ought to be under one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want<V> {
    /// This value.
    Value(V),
    /// Nothing.
    Nothing,
    /// Nothing as long as something else is missing; the key is looked at again when told so.
    Pending(Pending),
    /// This instead of what is desired, as long as something else is missing. The key counts as pending, not as done.
    Meanwhile(V, Pending),
    /// Nothing as long as another program's object is there; the key is looked at again when told so.
    Yields(Foreign),
}

/// Whose object ours yields to. Nothing is missing then: it is so by design, until that goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The protocol number of its route.
    pub protocol: RouteProtocol,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match crate::routes::protocol_name(self.protocol) {
            Some(name) => write!(f, "a foreign route ({name}) is in place"),
            None => write!(f, "a foreign route (protocol {}) is in place", self.protocol.0),
        }
    }
}

/// Why something desired cannot be in force yet. It will be as soon as the reason goes; nothing has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pending {
    /// There is no link of this name.
    LinkAbsent(IfName),
    /// The link is down.
    LinkDown(IfName),
    /// The next hop does not resolve to a neighbour through a route that is not ours.
    NextHopUnreachable {
        /// The next hop.
        next_hop: IpAddr,
        /// What the kernel says to it.
        why: String,
    },
    /// This kernel has no such setting.
    Unsupported,
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkAbsent(name) => write!(f, "link {name} is absent"),
            Self::LinkDown(name) => write!(f, "link {name} is down"),
            Self::NextHopUnreachable { next_hop, why } => write!(f, "next hop {next_hop} is unreachable: {why}"),
            Self::Unsupported => f.write_str("this kernel has no such setting"),
        }
    }
}

/// What a pass did.
#[derive(Clone, Debug)]
pub struct Outcome<K> {
    /// In force as desired, including what was so before.
    pub done: BTreeSet<K>,
    /// Taken away.
    pub removed: BTreeSet<K>,
    /// Refused by the kernel; tried again in the next pass.
    pub failed: BTreeMap<K, Error>,
    /// Desired but not possible yet.
    pub pending: BTreeMap<K, Pending>,
    /// Desired, but another program's comes first.
    pub yielding: BTreeMap<K, Foreign>,
    /// Keys written: zero if everything was right.
    pub writes: usize,
}

impl<K> Default for Outcome<K> {
    fn default() -> Self {
        Self {
            done: BTreeSet::new(),
            removed: BTreeSet::new(),
            failed: BTreeMap::new(),
            pending: BTreeMap::new(),
            yielding: BTreeMap::new(),
            writes: 0,
        }
    }
}

/// Keeps one table as desired.
#[derive(Debug)]
pub struct Reconciler<T: Table> {
    table: T,
    actual: BTreeMap<T::Key, T::Value>,
    /// Keys that the next pass looks at whatever its scope.
    dirty: BTreeSet<T::Key>,
    /// Keys of which we do not know what the kernel holds.
    unknown: BTreeSet<T::Key>,
}

impl<T: Table> Reconciler<T> {
    /// Knows nothing yet: call [`Self::read_back`] first.
    pub fn new(table: T) -> Self {
        Self { table, actual: BTreeMap::new(), dirty: BTreeSet::new(), unknown: BTreeSet::new() }
    }

    /// Reads what is ours in the kernel. Gives the keys that are not as we knew them; the next pass looks at them.
    pub fn read_back(&mut self) -> Result<BTreeSet<T::Key>, Error> {
        let actual = self.table.read_back()?;
        let changed = diff(&self.actual, &actual);
        let changed: BTreeSet<T::Key> =
            changed.remove.into_iter().chain(changed.upsert.into_iter().map(|(key, _)| key)).collect();
        self.dirty.extend(changed.iter().cloned());
        self.dirty.append(&mut self.unknown);
        self.actual = actual;
        Ok(changed)
    }

    /// What we know to be in the kernel.
    pub fn actual(&self) -> &BTreeMap<T::Key, T::Value> {
        &self.actual
    }

    /// The table itself.
    pub fn table(&mut self) -> &mut T {
        &mut self.table
    }

    /// The table itself, to look at.
    pub fn table_ref(&self) -> &T {
        &self.table
    }

    /// The kernel now has this under `key`, as an event says. True if we knew otherwise; the next pass looks at it.
    pub fn observe(&mut self, key: T::Key, value: Option<T::Value>) -> bool {
        let before = match value {
            Some(value) => {
                if self.actual.get(&key) == Some(&value) {
                    return false;
                }
                self.actual.insert(key.clone(), value)
            }
            None if !self.actual.contains_key(&key) => return false,
            None => self.actual.remove(&key),
        };
        tracing::trace!(known = before.is_some(), "drift");
        self.dirty.insert(key);
        true
    }

    /// Has the next pass look at `keys`.
    pub fn recheck(&mut self, keys: impl IntoIterator<Item = T::Key>) {
        self.dirty.extend(keys);
    }

    /// Has the next pass write `key` whatever we believe is there.
    pub fn distrust(&mut self, key: T::Key) {
        self.unknown.insert(key);
    }

    /// Makes the kernel hold `desired` for the keys in scope and those left undone before.
    pub fn sync(&mut self, desired: &BTreeMap<T::Key, T::Value>, scope: Scope<'_, T::Key>) -> Outcome<T::Key> {
        let keys = match scope {
            Scope::All => desired.keys().cloned().collect(),
            Scope::Keys(keys) => keys.clone(),
        };
        let everything = matches!(scope, Scope::All);
        let want = |key: &T::Key| desired.get(key).map_or(Want::Nothing, |value| Want::Value(value.clone()));
        if everything { self.sync_all(keys, want) } else { self.sync_keys(keys, want) }
    }

    /// As [`Self::sync`] over every key: `desired` has those that may be wanted, `want` says what is wanted.
    pub fn sync_all(
        &mut self,
        desired: BTreeSet<T::Key>,
        want: impl FnMut(&T::Key) -> Want<T::Value>,
    ) -> Outcome<T::Key> {
        let mut keys = desired;
        keys.extend(self.actual.keys().cloned());
        self.sync_keys(keys, want)
    }

    /// As [`Self::sync`] over these keys and those left undone before.
    pub fn sync_keys(
        &mut self,
        mut keys: BTreeSet<T::Key>,
        want: impl FnMut(&T::Key) -> Want<T::Value>,
    ) -> Outcome<T::Key> {
        keys.append(&mut self.take_due());
        self.sync_exactly(keys, want)
    }

    /// The keys left undone before. The caller sees to it that [`Self::sync_exactly`] looks at them.
    pub fn take_due(&mut self) -> BTreeSet<T::Key> {
        let mut due = std::mem::take(&mut self.dirty);
        due.extend(self.unknown.iter().cloned());
        due
    }

    /// As [`Self::sync`] over these keys only.
    pub fn sync_exactly(
        &mut self,
        keys: BTreeSet<T::Key>,
        mut want: impl FnMut(&T::Key) -> Want<T::Value>,
    ) -> Outcome<T::Key> {
        let mut outcome = Outcome::default();
        let mut plan = Plan::default();
        for key in keys {
            let unknown = self.unknown.contains(&key);
            let actual = self.actual.get(&key);
            let wanted = match want(&key) {
                Want::Meanwhile(value, why) => {
                    outcome.pending.insert(key.clone(), why);
                    Want::Value(value)
                }
                wanted => wanted,
            };
            match wanted {
                Want::Value(value) if actual == Some(&value) && !unknown => {
                    outcome.done.insert(key);
                }
                Want::Value(value) => plan.upsert.push((key, value)),
                nothing => {
                    if actual.is_some() || unknown {
                        plan.remove.push(key.clone());
                    }
                    match nothing {
                        Want::Pending(why) => drop(outcome.pending.insert(key, why)),
                        Want::Yields(foreign) => drop(outcome.yielding.insert(key, foreign)),
                        _ => {}
                    }
                }
            }
        }
        outcome.writes = plan.len();
        if !plan.is_empty() {
            self.carry_out(plan, &mut outcome);
        }
        if !outcome.pending.is_empty() {
            outcome.done.retain(|key| !outcome.pending.contains_key(key));
        }
        outcome
    }

    fn carry_out(&mut self, plan: Plan<T::Key, T::Value>, outcome: &mut Outcome<T::Key>) {
        let mut results = self.table.write(&plan, &self.actual);
        // Mostly they come in order: then this is one look at each, and the answer to a key follows the one before.
        results.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut next = 0;
        let mut take = |key: &T::Key| {
            if results.get(next).is_none_or(|(other, _)| other != key) {
                next = results.partition_point(|(other, _)| other < key);
            }
            let of_key = results[next..].iter_mut().take_while(|(other, _)| other == key);
            // A key may be reported twice (removed, then made anew): the failure counts.
            let unanswered = || Err(Error::malformed("write", "the table gave no result for a key"));
            let said = of_key.map(|(_, result)| {
                next += 1;
                std::mem::replace(result, Ok(()))
            });
            said.reduce(Result::and).unwrap_or_else(unanswered)
        };
        let removed = plan.remove.into_iter().map(|key| (key, None));
        let written = plan.upsert.into_iter().map(|(key, value)| (key, Some(value)));
        for (key, value) in removed.chain(written) {
            match take(&key) {
                Ok(()) => {
                    self.unknown.remove(&key);
                    if let Some(value) = value {
                        self.actual.insert(key.clone(), value);
                        outcome.done.insert(key);
                    } else {
                        self.actual.remove(&key);
                        outcome.removed.insert(key);
                    }
                }
                Err(error) => {
                    self.unknown.insert(key.clone());
                    outcome.failed.insert(key, error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn apply(mut actual: BTreeMap<u8, u8>, plan: &Plan<u8, u8>) -> BTreeMap<u8, u8> {
        for key in &plan.remove {
            assert!(actual.remove(key).is_some(), "removes only what is there");
        }
        for (key, value) in &plan.upsert {
            assert_ne!(actual.insert(*key, *value), Some(*value), "writes only what differs");
        }
        actual
    }

    proptest! {
        #[test]
        fn a_plan_leads_from_actual_to_desired(actual: BTreeMap<u8, u8>, desired: BTreeMap<u8, u8>) {
            prop_assert_eq!(apply(actual.clone(), &diff(&actual, &desired)), desired.clone());
            prop_assert!(diff(&desired, &desired).is_empty());
        }
    }
}

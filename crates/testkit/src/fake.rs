//! A kernel table in memory whose next calls fail as told.

use lasthop_kernel::Error;
use lasthop_kernel::reconcile::{Plan, Table};
use std::collections::{BTreeMap, BTreeSet};

/// A table of small numbers. Calls are counted from zero: reading back is one call, each key of a write is one.
#[derive(Clone, Debug, Default)]
pub struct FakeTable {
    /// What "the kernel" holds.
    pub kernel: BTreeMap<u8, u8>,
    /// Which of the next calls fail.
    pub faults: BTreeSet<usize>,
    /// What a failing write leaves behind.
    pub on_fault: OnFault,
    /// Calls so far.
    pub calls: usize,
    /// Keys written so far, failed ones too.
    pub writes: usize,
}

/// What a failing write leaves behind in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFault {
    /// Nothing was done.
    #[default]
    Untouched,
    /// It was done all the same; only the answer was lost.
    Done,
    /// The old object went, the new one did not come.
    Lost,
}

impl FakeTable {
    fn fails(&mut self) -> bool {
        self.calls += 1;
        self.faults.contains(&(self.calls - 1))
    }

    fn change(&mut self, key: u8, value: Option<u8>) -> Result<(), Error> {
        self.writes += 1;
        let failed = self.fails();
        match (failed, self.on_fault, value) {
            (false, _, Some(value)) | (true, OnFault::Done, Some(value)) => {
                self.kernel.insert(key, value);
            }
            (false | true, _, None) if !failed || self.on_fault != OnFault::Untouched => {
                self.kernel.remove(&key);
            }
            (true, OnFault::Lost, Some(_)) => {
                self.kernel.remove(&key);
            }
            _ => {}
        }
        if failed { Err(fault()) } else { Ok(()) }
    }
}

fn fault() -> Error {
    Error::Invalid("this call was told to fail".to_owned())
}

impl Table for FakeTable {
    type Key = u8;
    type Value = u8;

    fn read_back(&mut self) -> Result<BTreeMap<u8, u8>, Error> {
        if self.fails() { Err(fault()) } else { Ok(self.kernel.clone()) }
    }

    fn write(&mut self, plan: &Plan<u8, u8>, _actual: &BTreeMap<u8, u8>) -> Vec<(u8, Result<(), Error>)> {
        let removed = plan.remove.iter().map(|key| (*key, None));
        let written = plan.upsert.iter().map(|(key, value)| (*key, Some(*value)));
        removed.chain(written).map(|(key, value)| (key, self.change(key, value))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lasthop_kernel::reconcile::{Reconciler, Scope};
    use proptest::prelude::*;

    fn state() -> impl Strategy<Value = BTreeMap<u8, u8>> {
        proptest::collection::btree_map(0u8..24, 0u8..4, 0..24)
    }

    fn on_fault() -> impl Strategy<Value = OnFault> {
        prop_oneof![Just(OnFault::Untouched), Just(OnFault::Done), Just(OnFault::Lost)]
    }

    proptest! {
        /// From any kernel state with any one call failing: one pass repairs every other key, two repair all, a third writes nothing.
        #[test]
        fn one_failing_call_costs_one_key_one_pass(kernel in state(), desired in state(), nth in 1usize..48, on_fault in on_fault(), all: bool) {
            let mut reconciler = Reconciler::new(FakeTable { kernel, faults: [nth].into(), on_fault, ..FakeTable::default() });
            reconciler.read_back().unwrap();
            let first = reconciler.sync(&desired, Scope::All);
            prop_assert!(first.failed.len() <= 1);
            let kernel = reconciler.table().kernel.clone();
            for key in kernel.keys().chain(desired.keys()).filter(|key| !first.failed.contains_key(key)) {
                prop_assert_eq!(kernel.get(key), desired.get(key));
            }
            let none = BTreeSet::new();
            let scope = if all { Scope::All } else { Scope::Keys(&none) };
            let second = reconciler.sync(&desired, scope);
            prop_assert_eq!(&reconciler.table().kernel, &desired);
            prop_assert_eq!(second.writes, first.failed.len());
            let third = reconciler.sync(&desired, Scope::All);
            prop_assert_eq!(third.writes, 0);
            prop_assert_eq!(third.done, desired.keys().copied().collect::<BTreeSet<u8>>());
        }

        /// A pass over the keys that changed does what a pass over everything would.
        #[test]
        fn a_narrow_pass_equals_a_wide_one(kernel in state(), one in state(), two in state()) {
            let mut reconciler = Reconciler::new(FakeTable { kernel, ..FakeTable::default() });
            reconciler.read_back().unwrap();
            reconciler.sync(&one, Scope::All);
            let before = reconciler.table().writes;
            let changed: BTreeSet<u8> = (0..24).filter(|key| one.get(key) != two.get(key)).collect();
            let outcome = reconciler.sync(&two, Scope::Keys(&changed));
            prop_assert_eq!(&reconciler.table().kernel, &two);
            prop_assert_eq!(outcome.writes, changed.len());
            prop_assert_eq!(reconciler.table().writes - before, changed.len());
        }

        /// Whatever someone else changes is noticed by reading back, and put right by the next pass whatever its scope.
        #[test]
        fn tampering_is_put_right(desired in state(), tampered in state()) {
            let mut reconciler = Reconciler::new(FakeTable::default());
            reconciler.sync(&desired, Scope::All);
            reconciler.table().kernel = tampered.clone();
            let changed = reconciler.read_back().unwrap();
            let differ: BTreeSet<u8> = (0..24).filter(|key| desired.get(key) != tampered.get(key)).collect();
            prop_assert_eq!(&changed, &differ);
            reconciler.sync(&desired, Scope::Keys(&BTreeSet::new()));
            prop_assert_eq!(&reconciler.table().kernel, &desired);
        }
    }

    #[test]
    fn a_failed_reading_changes_nothing() {
        let mut reconciler = Reconciler::new(FakeTable { faults: [0].into(), ..FakeTable::default() });
        assert!(reconciler.read_back().is_err());
        assert!(reconciler.actual().is_empty());
    }
}

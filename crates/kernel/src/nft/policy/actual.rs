//! What the kernel holds of policy, as last read or written.

use super::content::Content;
use super::unit::{self, Effect};
use crate::nft::Verdict;
use crate::nft::ruleset::Element;
use lasthop_net::IfName;
use lasthop_policy::ir::{Digest, StackId};
use std::collections::{BTreeMap, BTreeSet};

/// What the kernel holds.
#[derive(Debug, Default)]
pub(super) struct Actual {
    /// Chains that hold what their name says.
    pub(super) chains: BTreeSet<String>,
    /// The chains of programs, and their content.
    pub(super) programs: BTreeMap<String, Digest>,
    /// Chains that do not hold what their name says.
    pub(super) damaged: BTreeSet<String>,
    /// Sets of fixed content that hold what their name says.
    pub(super) constants: BTreeSet<String>,
    /// Those that do not, with what they hold.
    pub(super) tampered: BTreeMap<String, BTreeSet<Element>>,
    /// Sets of members.
    pub(super) sets: BTreeMap<String, Content>,
    /// Sets under our names that are not as we make them.
    pub(super) wrong: BTreeSet<String>,
    /// The chains of stacks, by their keys.
    pub(super) stacks: BTreeMap<Vec<u8>, Option<Verdict>>,
    /// The stacks of links.
    pub(super) links: BTreeMap<IfName, [Option<StackId>; 2]>,
    /// Elements that we would not have written.
    pub(super) strays: Vec<(String, Element)>,
}

impl Actual {
    pub(super) fn has(&self, name: &String) -> bool {
        self.chains.contains(name)
            || self.programs.contains_key(name)
            || self.constants.contains(name)
            || self.sets.contains_key(name)
    }

    /// The names of all chains and sets.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let sets = self.sets.keys().chain(&self.constants).chain(self.tampered.keys());
        self.chains.iter().chain(self.programs.keys()).chain(&self.damaged).chain(sets).cloned().collect()
    }

    pub(super) fn is_chain(&self, name: &str) -> bool {
        self.chains.contains(name) || self.programs.contains_key(name) || self.damaged.contains(name)
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.sets.contains_key(name) || self.constants.contains(name) || self.tampered.contains_key(name)
    }

    pub(super) fn forget(&mut self, name: &String) {
        self.chains.remove(name);
        self.programs.remove(name);
        self.damaged.remove(name);
        self.constants.remove(name);
        self.tampered.remove(name);
        self.sets.remove(name);
    }

    pub(super) fn record(&mut self, effect: Effect) {
        match effect {
            Effect::Chain(name) => {
                self.damaged.remove(&name);
                self.chains.insert(name);
            }
            Effect::Program(name, content) => drop(self.programs.insert(name, content)),
            Effect::Constant(name) => {
                self.tampered.remove(&name);
                self.constants.insert(name);
            }
            Effect::Members(name, content) => drop(self.sets.insert(name, content)),
            Effect::Change(name, change) => {
                if let Some(content) = self.sets.get_mut(&name) {
                    content.record(change);
                }
            }
            Effect::Stack(id, chain) => {
                self.stacks.insert(unit::stack_key(id), Some(Verdict::Goto(chain)));
            }
        }
    }
}

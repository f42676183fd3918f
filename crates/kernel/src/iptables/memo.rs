//! What programs were rendered to, so that a pass renders only those that are new or to be said otherwise.
//!
//! Besides its rules a program's text depends on the kinds of the sets that it asks, and on what is the same for all: what becomes of denied packets, and how packets are noted.

use super::rule::{Chains, Table};
use super::sets::{Kind, Spec};
use lasthop_policy::ir::{DenyAction, HostPolicy, Logging, Program, ProgramId, SetId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A program's chains, and lists of prefixes.
#[derive(Debug)]
pub(super) struct Part {
    program: Arc<Program>,
    kinds: Vec<(SetId, Option<Kind>)>,
    pub(super) chains: Chains,
    pub(super) lists: BTreeMap<String, Spec>,
}

/// Programs of one family.
#[derive(Debug, Default)]
pub(super) struct Memo {
    same: Option<(DenyAction, Logging)>,
    parts: BTreeMap<(Table, ProgramId), Part>,
    /// How many programs the last pass had to render.
    pub(super) rendered: usize,
}

fn kinds_of(program: &Program, kinds: &BTreeMap<SetId, Kind>) -> Vec<(SetId, Option<Kind>)> {
    program.sets().map(|set| (set, kinds.get(&set).copied())).collect()
}

impl Memo {
    /// Before a pass: forgets what does not hold any more.
    pub(super) fn begin(&mut self, policy: &HostPolicy) {
        let same = (policy.deny, policy.log.clone());
        if self.same.as_ref() != Some(&same) {
            self.parts.clear();
            self.same = Some(same);
        }
        self.parts.retain(|(_, id), _| policy.programs.contains_key(id));
        self.rendered = 0;
    }

    /// What a program was rendered to, if that still holds.
    pub(super) fn part(
        &self,
        key: (Table, ProgramId),
        program: &Arc<Program>,
        kinds: &BTreeMap<SetId, Kind>,
    ) -> Option<&Part> {
        let holds = |part: &&Part| part.program == *program && part.kinds == kinds_of(program, kinds);
        self.parts.get(&key).filter(holds)
    }

    /// A program has been rendered.
    pub(super) fn keep(
        &mut self,
        key: (Table, ProgramId),
        (program, kinds): (&Arc<Program>, &BTreeMap<SetId, Kind>),
        (chains, lists): (Chains, BTreeMap<String, Spec>),
    ) {
        self.parts.insert(key, Part { program: program.clone(), kinds: kinds_of(program, kinds), chains, lists });
    }
}

//! From what the table holds to what it ought to hold, without losing a packet.
//!
//! Rules are changed by emptying and filling a chain within one transaction: a packet sees the old rules or the new ones.
//! A table is never deleted and made again in one transaction, because a packet that is inside an old chain then finds
//! its sets empty. Chains and sets are only deleted if they are not ours or not as we would make them.

use super::TABLE;
use super::ruleset::{
    Chain, Element, Hook, Ruleset, SetSpec, about_chain, append_rule, change_elements, new_chain, new_set,
};
use super::wire::{Kind, table};
use crate::netlink::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What the kernel holds under our table's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Actual {
    /// The table's flags; `None` if there is no table.
    pub(super) flags: Option<u32>,
    pub(super) chains: BTreeMap<String, Chain>,
    /// `None` for one of a kind that we never make.
    pub(super) sets: BTreeMap<String, Option<SetSpec>>,
    /// Elements of the sets that do not belong to endpoints.
    pub(super) elements: BTreeMap<String, BTreeSet<Element>>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    MakeTable,
    WakeTable,
    EmptyChain { chain: String, why: &'static str },
    DeleteChain { chain: String },
    DeleteSet { set: String, spec: Option<SetSpec> },
    MakeSet { set: String },
    MakeChain { chain: String },
    AcceptPolicy { chain: String },
    DeleteElements { set: String, elements: Vec<Element> },
    AddElements { set: String, elements: Vec<Element> },
    FillChain { chain: String },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MakeTable => write!(f, "table inet {TABLE}: made, it was not there"),
            Self::WakeTable => write!(f, "table inet {TABLE}: flags cleared"),
            Self::EmptyChain { chain, why } => write!(f, "chain {chain}: emptied, {why}"),
            Self::DeleteChain { chain } => write!(f, "chain {chain}: deleted, not ours or at another hook"),
            Self::DeleteSet { set, .. } => write!(f, "set {set}: deleted, not ours or of another type"),
            Self::MakeSet { set } => write!(f, "set {set}: made"),
            Self::MakeChain { chain } => write!(f, "chain {chain}: made"),
            Self::AcceptPolicy { chain } => write!(f, "chain {chain}: policy set back to accept"),
            Self::DeleteElements { set, elements } => write!(f, "set {set}: {} elements deleted", elements.len()),
            Self::AddElements { set, elements } => write!(f, "set {set}: {} elements added", elements.len()),
            Self::FillChain { chain } => write!(f, "chain {chain}: rules written"),
        }
    }
}

/// The way from what the table holds to what it ought to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Steps of the first transaction.
    pub(super) changes: Vec<Change>,
    /// Steps of a second one: what nothing refers to after the first.
    pub(super) deletions: Vec<Change>,
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.deletions.is_empty()
    }

    /// Only the sets that are not there yet: nothing refers to them.
    pub(super) fn additions(self) -> Vec<Change> {
        let made: BTreeSet<String> = self
            .changes
            .iter()
            .filter_map(|change| match change {
                Change::MakeSet { set } => Some(set.clone()),
                _ => None,
            })
            .collect();
        let is_addition = |change: &Change| match change {
            Change::MakeSet { .. } => true,
            Change::AddElements { set, .. } => made.contains(set),
            _ => false,
        };
        self.changes.into_iter().filter(is_addition).collect()
    }
}

/// The steps from `actual` to `desired`, in order; none if all is right.
pub(super) fn plan(actual: &Actual, desired: &Ruleset) -> Plan {
    let mut changes = Vec::new();
    match actual.flags {
        None => changes.push(Change::MakeTable),
        Some(0) => {}
        Some(_) => changes.push(Change::WakeTable),
    }
    let wrong_sets: BTreeMap<&String, &Option<SetSpec>> = actual
        .sets
        .iter()
        .filter(|(name, spec)| desired.sets.get(*name).map(|set| &set.spec) != spec.as_ref())
        .collect();
    let hook = |chain: &Chain| chain.hook;
    let wrong_chains: BTreeSet<&String> = actual
        .chains
        .iter()
        .filter(|(name, chain)| desired.chains.get(*name).map(hook) != Some(chain.hook))
        .map(|(name, _)| name)
        .collect();
    // What stands in the way of something of its name has to go first, and all rules before it, since some may refer to it.
    let rebuild = wrong_sets.keys().any(|name| desired.sets.contains_key(*name))
        || wrong_chains.iter().any(|name| desired.chains.contains_key(*name));
    let refilled = |name: &String| {
        let rules = actual.chains.get(name).map(|chain| &chain.rules);
        rebuild || rules != desired.chains.get(name).map(|chain| &chain.rules)
    };
    for (name, chain) in &actual.chains {
        let later = !rebuild && wrong_chains.contains(name);
        if !chain.rules.is_empty() && refilled(name) && !later {
            let why = if rebuild { "something that it uses was not as we make it" } else { "its rules were not ours" };
            changes.push(Change::EmptyChain { chain: name.clone(), why });
        }
    }
    let mut deletions = Vec::new();
    if !rebuild {
        let why = "it is not ours, or not needed";
        deletions.extend(wrong_chains.iter().map(|name| Change::EmptyChain { chain: (*name).clone(), why }));
    }
    deletions.extend(wrong_chains.iter().map(|name| Change::DeleteChain { chain: (*name).clone() }));
    let delete =
        |(name, spec): (&&String, &&Option<SetSpec>)| Change::DeleteSet { set: (*name).clone(), spec: (*spec).clone() };
    deletions.extend(wrong_sets.iter().map(delete));
    if rebuild {
        changes.append(&mut deletions);
    }
    for (name, set) in &desired.sets {
        let kept = actual.sets.contains_key(name) && !wrong_sets.contains_key(name);
        if !kept {
            changes.push(Change::MakeSet { set: name.clone() });
        }
        let none = BTreeSet::new();
        let before = if kept { actual.elements.get(name).unwrap_or(&none) } else { &none };
        if let Some(wanted) = &set.elements {
            let gone: Vec<Element> = before.difference(wanted).cloned().collect();
            let new: Vec<Element> = wanted.difference(before).cloned().collect();
            if !gone.is_empty() {
                changes.push(Change::DeleteElements { set: name.clone(), elements: gone });
            }
            if !new.is_empty() {
                changes.push(Change::AddElements { set: name.clone(), elements: new });
            }
        }
    }
    for name in desired.chains.keys() {
        match actual.chains.get(name) {
            Some(chain) if !wrong_chains.contains(name) => {
                if chain.foreign_policy {
                    changes.push(Change::AcceptPolicy { chain: name.clone() });
                }
            }
            _ => changes.push(Change::MakeChain { chain: name.clone() }),
        }
    }
    let filled = desired.chains.iter().filter(|(name, chain)| !chain.rules.is_empty() && refilled(name));
    changes.extend(filled.map(|(name, _)| Change::FillChain { chain: name.clone() }));
    Plan { changes, deletions }
}

/// The steps as netlink requests, each with the index of the step that it belongs to.
pub(super) fn messages(changes: &[Change], desired: &Ruleset) -> Vec<(usize, Message)> {
    let mut all = Vec::new();
    for (index, change) in changes.iter().enumerate() {
        all.extend(requests(change, desired, index).into_iter().map(|message| (index, message)));
    }
    all
}

fn requests(change: &Change, desired: &Ruleset, index: usize) -> Vec<Message> {
    let hook = |chain: &String| -> Option<Hook> { desired.chains.get(chain).and_then(|chain| chain.hook) };
    match change {
        Change::MakeTable | Change::WakeTable => {
            let mut m = Kind::NewTable.message(libc::NLM_F_CREATE as u16);
            m.put_str(table::NAME, TABLE).put_u32_be(table::FLAGS, 0);
            vec![m]
        }
        Change::EmptyChain { chain, .. } => vec![about_chain(Kind::DelRule, TABLE, chain)],
        Change::DeleteChain { chain } => vec![about_chain(Kind::DelChain, TABLE, chain)],
        Change::DeleteSet { set, .. } => {
            let mut m = Kind::DelSet.message(0);
            m.put_str(super::wire::set::TABLE, TABLE).put_str(super::wire::set::NAME, set);
            vec![m]
        }
        Change::MakeSet { set } => {
            let id = u32::try_from(index + 1).unwrap_or(u32::MAX);
            desired.sets.get(set).map(|wanted| new_set(TABLE, set, &wanted.spec, id)).into_iter().collect()
        }
        Change::MakeChain { chain } | Change::AcceptPolicy { chain } => vec![new_chain(TABLE, chain, hook(chain))],
        Change::DeleteElements { set, elements } => change_elements(Kind::DelElement, TABLE, set, elements),
        Change::AddElements { set, elements } => change_elements(Kind::NewElement, TABLE, set, elements),
        Change::FillChain { chain } => {
            let rules = desired.chains.get(chain).map(|chain| chain.rules.as_slice()).unwrap_or_default();
            rules.iter().map(|rule| append_rule(TABLE, chain, rule)).collect()
        }
    }
}

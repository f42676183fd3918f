//! Policy in our table: the chains of stacks, their sets, and which link has which stack.
//!
//! ```text
//! HostPolicy ──▶ render (pure) ──▶ what is missing ──▶ 1. new sets and chains: nothing refers to them yet
//!                                                      2. one transaction: members, links' stacks
//!                                                      3. what nothing refers to any more is deleted
//! ```
//!
//! * A packet sees all of step 2 or nothing of it, and steps 1 and 3 change no verdict: an edit never lets a packet see
//!   a mixture of the old policy and the new one.
//! * What the kernel refuses is left out with all that needs it, and the rest goes on; a link whose stack is not
//!   there has none, which drops.

mod actual;
mod content;
mod drift;
mod matching;
mod read;
mod render;
mod split;
mod unit;
mod verdict;

pub use drift::{Repair, Repaired};
pub(super) use matching::PORTED;
pub(super) use read::is_policy;
pub use render::DENIED_GROUP;
pub(super) use render::Stage;
pub use verdict::Decider;

use super::elements::{commit, name_key};
use super::hosts::{Hosts, Place};
use super::ruleset::{Element, about_chain, change_elements};
use super::skeleton::{LINK_STACKS, STACKS};
use super::wire::{Kind, set};
use super::{TABLE, Verdict};
use crate::Error;
use crate::netlink::{Message, Protocol, Socket};
use crate::reconcile::Outcome;
use actual::Actual;
use lasthop_net::{Family, IfName};
use lasthop_policy::ir::{
    DenyAction, HostPolicy, Logging, PolicyChanges, Set, SetId, SetKind, StackId, WorkloadPolicy,
};
use std::collections::{BTreeMap, BTreeSet};
use unit::{Broken, Unit};

/// Which part of policy a pass looks at, besides what an earlier pass left undone.
#[derive(Clone, Copy, Debug)]
pub enum PolicyScope<'a> {
    /// All of it.
    All,
    /// What may have changed.
    Changed(&'a PolicyChanges),
}

/// A part of policy that a pass has a result for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyKey {
    /// The members of a set.
    Set(SetId),
    /// A chain or a list of nets or ports, by its name in the table.
    Part(String),
    /// A stack.
    Stack(StackId),
    /// What guards a workload link.
    Link(IfName),
    /// What guards the host's own interfaces.
    Hosts,
}

/// A stack in use.
#[derive(Debug)]
struct Held {
    /// Its chain; or why it cannot be had.
    chain: Result<String, Error>,
    /// Chains and sets that it needs, all the way down.
    names: BTreeSet<String>,
    /// Sets of members that it needs.
    sets: BTreeSet<SetId>,
}

/// One pass.
struct Pass<'a> {
    policy: &'a HostPolicy,
    changes: &'a PolicyChanges,
    /// Whether all is looked at.
    everything: bool,
    /// The links to look at.
    links: BTreeSet<IfName>,
    /// What has to be made before links may refer to it, each thing after what it needs.
    units: Vec<Unit>,
    /// The names of the chains and fixed sets among them.
    planned: BTreeSet<String>,
    /// Stacks rendered.
    rendered: BTreeSet<(StackId, Stage)>,
    broken: Broken,
    outcome: Outcome<PolicyKey>,
}

/// Policy in the kernel.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) socket: Socket,
    actual: Actual,
    held: BTreeMap<(StackId, Stage), Held>,
    /// How many links use a stack; and what the host's interfaces use.
    uses: BTreeMap<StackId, usize>,
    host_uses: BTreeSet<(StackId, Stage)>,
    /// What links were last wanted to have.
    wanted: BTreeMap<IfName, WorkloadPolicy>,
    /// How many stacks need a chain or set.
    needed: BTreeMap<String, usize>,
    /// The kinds of sets when stacks were rendered.
    kinds: BTreeMap<SetId, SetKind>,
    /// What denial and notes looked like when stacks were rendered.
    style: (DenyAction, Logging),
    /// Look at everything in the next pass.
    suspect: bool,
    /// What was left here before it was read back, once something was.
    left: Option<Actual>,
    /// What was found otherwise than it was left.
    repairs: Vec<Repair>,
    /// There may be something that nothing needs any more.
    untidy: bool,
}

impl Programs {
    pub(super) fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::open(Protocol::Netfilter)?,
            actual: Actual::default(),
            held: BTreeMap::new(),
            uses: BTreeMap::new(),
            host_uses: BTreeSet::new(),
            wanted: BTreeMap::new(),
            needed: BTreeMap::new(),
            kinds: BTreeMap::new(),
            style: Default::default(),
            suspect: true,
            left: None,
            repairs: Vec::new(),
            untidy: true,
        })
    }

    /// Reads what is there. What is not right is put right by the next pass, whatever its scope.
    pub(super) fn read_back(&mut self) -> Result<(), Error> {
        let left = std::mem::replace(&mut self.actual, read::read(&mut self.socket)?);
        // Nothing is held that was not left by a pass of ours.
        if !self.held.is_empty() && self.left.is_none() {
            self.left = Some(left);
        }
        self.suspect = true;
        self.untidy = true;
        Ok(())
    }

    /// Makes sets, chains and links' stacks as desired, and gives what guards the host's interfaces. Deletes nothing that
    /// something may still refer to: see [`Self::clean`].
    pub(super) fn grant(&mut self, policy: &HostPolicy, scope: PolicyScope<'_>) -> (Outcome<PolicyKey>, Hosts) {
        let everything = std::mem::take(&mut self.suspect) || matches!(scope, PolicyScope::All);
        let none = PolicyChanges::default();
        let changes = match scope {
            PolicyScope::Changed(changes) => changes,
            PolicyScope::All => &none,
        };
        let mut pass = Pass {
            policy,
            changes,
            everything,
            links: BTreeSet::new(),
            units: Vec::new(),
            planned: BTreeSet::new(),
            rendered: BTreeSet::new(),
            broken: Broken::default(),
            outcome: Outcome::default(),
        };
        self.adopt(&mut pass);
        self.note_repairs(policy);
        self.untidy |= everything || !changes.sets.is_empty();
        self.find_missing(&mut pass);
        let units = std::mem::take(&mut pass.units);
        pass.outcome.writes += units.len();
        for effect in unit::carry_out(&mut self.socket, units, &mut pass.broken) {
            self.actual.record(effect);
        }
        self.switch(&mut pass);
        let hosts = self.hosts(policy, &pass.broken);
        let Pass { mut outcome, broken, .. } = pass;
        outcome.failed.extend(broken.errors());
        // What failed is tried again.
        self.suspect = !outcome.failed.is_empty();
        (outcome, hosts)
    }

    /// Takes in what links and interfaces want. Stacks that come into use are not rendered yet.
    fn adopt(&mut self, pass: &mut Pass<'_>) {
        let Pass { policy, changes, everything, .. } = *pass;
        let links: BTreeSet<IfName> = if everything {
            policy.workloads.keys().chain(self.wanted.keys()).chain(self.actual.links.keys()).cloned().collect()
        } else {
            changes.workloads.clone()
        };
        for name in &links {
            let new = policy.workloads.get(name);
            let old = match new {
                Some(new) => self.wanted.insert(name.clone(), *new),
                None => self.wanted.remove(name),
            };
            for stack in new.into_iter().flat_map(|wanted| [wanted.from, wanted.to]) {
                *self.uses.entry(stack).or_default() += 1;
            }
            for stack in old.into_iter().flat_map(|wanted| [wanted.from, wanted.to]) {
                match self.uses.get_mut(&stack) {
                    Some(count) if *count > 1 => *count -= 1,
                    _ => {
                        self.uses.remove(&stack);
                        self.untidy = true;
                    }
                }
            }
        }
        if everything || changes.host {
            let place = |policy: &_| Place::ALL.map(|place: Place| Some((place.of(policy)?, place.stage())));
            self.untidy = true;
            self.host_uses = policy.interfaces.values().flat_map(place).flatten().collect();
        }
        pass.links = links;
    }

    /// Whether a stack is in use.
    fn in_use(&self, (stack, stage): (StackId, Stage)) -> bool {
        (stage == Stage::Filter && self.uses.contains_key(&stack)) || self.host_uses.contains(&(stack, stage))
    }

    /// Finds what has to be made before links may refer to it.
    fn find_missing(&mut self, pass: &mut Pass<'_>) {
        for name in &self.actual.wrong {
            let error = Error::Invalid(format!("set {name} of table inet {TABLE} is not ours: delete it"));
            pass.broken.add(PolicyKey::Part(name.clone()), name.clone(), error);
        }
        let Pass { policy, changes, everything, .. } = *pass;
        let ids: BTreeSet<SetId> =
            if everything { policy.sets.keys().copied().collect() } else { changes.sets.iter().copied().collect() };
        for id in ids {
            let Some(set) = policy.sets.get(&id) else { continue };
            for family in Family::ALL {
                let name = matching::set_name(id, set.kind, family);
                if !self.actual.sets.contains_key(&name) && !pass.broken.has(&name) {
                    pass.units.push(Unit::members(id, name, set, family));
                }
            }
        }
        let changed_kind =
            |(id, kind): (&SetId, &SetKind)| policy.sets.get(id).is_some_and(|set| set.kind != *kind).then_some(*id);
        let changed: BTreeSet<SetId> = if everything || !changes.sets.is_empty() {
            self.kinds.iter().filter_map(changed_kind).collect()
        } else {
            BTreeSet::new()
        };
        let style = (policy.deny, policy.log.clone());
        let restyle = style != self.style;
        self.style = style;
        let lacks = |key: &(StackId, Stage), held: &Held| {
            let wanted = held.chain.as_ref().ok().map(|chain| Verdict::Goto(chain.clone()));
            let unknown = key.1 == Stage::Filter && self.actual.stacks.get(&unit::stack_key(key.0)) != Some(&wanted);
            unknown || !held.names.iter().all(|name| self.actual.has(name))
        };
        let stale = |(key, held): (&(StackId, Stage), &Held)| {
            let again = restyle
                || held.chain.is_err()
                || held.sets.iter().any(|id| changed.contains(id))
                || (everything && lacks(key, held));
            (again && self.in_use(*key)).then_some(*key)
        };
        let mut render: BTreeSet<(StackId, Stage)> = BTreeSet::new();
        if everything || restyle || !changed.is_empty() {
            render = self.held.iter().filter_map(stale).collect();
        }
        let candidates: BTreeSet<(StackId, Stage)> = if everything {
            self.uses.keys().map(|stack| (*stack, Stage::Filter)).chain(self.host_uses.iter().copied()).collect()
        } else {
            let links = changes.workloads.iter().filter_map(|name| self.wanted.get(name));
            let stacks = links.flat_map(|wanted| [wanted.from, wanted.to]).map(|stack| (stack, Stage::Filter));
            stacks.chain(self.host_uses.iter().copied()).collect()
        };
        render.extend(candidates.into_iter().filter(|key| !self.held.contains_key(key)));
        for key in &render {
            self.hold(*key, pass);
        }
        pass.rendered = render;
    }

    /// Renders a stack; what of it is not there yet is to be made.
    fn hold(&mut self, key: (StackId, Stage), pass: &mut Pass<'_>) {
        let Pass { policy, units, planned, .. } = pass;
        self.let_go(key);
        let held = match render::stack(key.0, key.1, policy) {
            Err(why) => Held {
                chain: Err(Error::Invalid(format!("stack {}: {why}", key.0.0))),
                names: BTreeSet::new(),
                sets: BTreeSet::new(),
            },
            Ok(rendered) => {
                let mut names: BTreeSet<String> = BTreeSet::new();
                for id in &rendered.sets {
                    let Some(set) = policy.sets.get(id) else { continue };
                    self.kinds.insert(*id, set.kind);
                    names.extend(Family::ALL.map(|family| matching::set_name(*id, set.kind, family)));
                }
                for (name, set) in rendered.constants {
                    if !self.actual.constants.contains(&name) && planned.insert(name.clone()) {
                        units.push(Unit::constant(name.clone(), &set, self.actual.tampered.get(&name)));
                    }
                    names.insert(name);
                }
                for (name, rules) in rendered.chains {
                    if !self.actual.chains.contains(&name) && planned.insert(name.clone()) {
                        let there = self.actual.damaged.contains(&name);
                        units.push(Unit::chain(name.clone(), &rules, there));
                    }
                    names.insert(name);
                }
                if key.1 == Stage::Filter && !self.actual.stacks.contains_key(&unit::stack_key(key.0)) {
                    units.push(Unit::stack(key.0, &rendered.chain));
                }
                Held { chain: Ok(rendered.chain), names, sets: rendered.sets }
            }
        };
        for name in &held.names {
            *self.needed.entry(name.clone()).or_default() += 1;
        }
        self.held.insert(key, held);
    }

    fn let_go(&mut self, key: (StackId, Stage)) {
        let Some(held) = self.held.remove(&key) else { return };
        for name in held.names {
            match self.needed.get_mut(&name) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(self.needed.remove(&name)),
            }
        }
    }

    /// Why a stack is not to be used, if it is not.
    fn fault(&self, key: (StackId, Stage), broken: &Broken) -> Option<Error> {
        match self.held.get(&key) {
            None => Some(Error::Invalid(format!("stack {} is not there", key.0.0))),
            Some(Held { chain: Err(error), .. }) => Some(error.clone()),
            Some(held) => held.names.iter().find_map(|name| broken.get(name)),
        }
    }

    /// Members, chains of stacks and stacks of links in one transaction. If it is refused, members set by set and
    /// links one by one.
    fn switch(&mut self, pass: &mut Pass<'_>) {
        let mut changed = self.member_changes(pass);
        changed.extend(self.moved_stacks(pass));
        let Pass { links, broken, outcome, .. } = pass;
        let strays = std::mem::take(&mut self.actual.strays);
        let plan = self.link_changes(links, broken, outcome);
        outcome.writes += changed.len() + strays.len() + plan.len();
        let mut messages: Vec<Message> =
            strays.iter().flat_map(|(set, element)| change_elements(Kind::DelElement, TABLE, set, [element])).collect();
        messages.extend(changed.iter().flat_map(|unit| unit.messages.clone()));
        messages.extend(self.link_messages(&plan));
        if commit(&mut self.socket, &messages, "switch policy").is_ok() {
            changed.into_iter().for_each(|unit| self.actual.record(unit.effect));
            for (name, stacks) in plan {
                self.settle_link(name, stacks, outcome);
            }
            return;
        }
        for (set, element) in &strays {
            let delete = change_elements(Kind::DelElement, TABLE, set, [element]);
            if let Err(error) = commit(&mut self.socket, &delete, "delete an element that is not ours") {
                tracing::warn!(%error, set, "it stays until the table is read again");
            }
        }
        // A set that cannot be kept closes the links that need it, so links are looked at once more.
        for unit in changed {
            for effect in unit::carry_out(&mut self.socket, vec![unit], broken) {
                self.actual.record(effect);
            }
        }
        let closed = self.wanted.keys().cloned().collect();
        let again = if broken.is_empty() { std::mem::take(links) } else { closed };
        for (name, stacks) in self.link_changes(&again, broken, outcome) {
            let one = BTreeMap::from([(name.clone(), stacks)]);
            let messages = self.link_messages(&one);
            match commit(&mut self.socket, &messages, &format!("stacks of {name}")) {
                Ok(()) => self.settle_link(name, stacks, outcome),
                Err(error) => drop(outcome.failed.insert(PolicyKey::Link(name), error)),
            }
        }
    }

    fn settle_link(&mut self, name: IfName, stacks: [Option<StackId>; 2], outcome: &mut Outcome<PolicyKey>) {
        let key = PolicyKey::Link(name.clone());
        if stacks == [None, None] {
            self.actual.links.remove(&name);
            outcome.removed.insert(key);
        } else {
            self.actual.links.insert(name, stacks);
            if !outcome.failed.contains_key(&key) {
                outcome.done.insert(key);
            }
        }
    }

    /// The stacks that links ought to have and have not.
    fn link_changes(
        &self,
        links: &BTreeSet<IfName>,
        broken: &Broken,
        outcome: &mut Outcome<PolicyKey>,
    ) -> BTreeMap<IfName, [Option<StackId>; 2]> {
        let mut plan = BTreeMap::new();
        for name in links {
            let mut stacks = [None, None];
            if let Some(wanted) = self.wanted.get(name) {
                for (stack, place) in [wanted.from, wanted.to].into_iter().zip(&mut stacks) {
                    match self.fault((stack, Stage::Filter), broken) {
                        None => *place = Some(stack),
                        Some(error) => drop(outcome.failed.insert(PolicyKey::Link(name.clone()), error)),
                    }
                }
            }
            let before = self.actual.links.get(name).copied().unwrap_or_default();
            if before != stacks {
                plan.insert(name.clone(), stacks);
            } else if self.wanted.contains_key(name) && !outcome.failed.contains_key(&PolicyKey::Link(name.clone())) {
                outcome.done.insert(PolicyKey::Link(name.clone()));
            }
        }
        plan
    }

    fn link_messages(&self, plan: &BTreeMap<IfName, [Option<StackId>; 2]>) -> Vec<Message> {
        let element =
            |name: &IfName, stack: StackId| Element { value: Some(stack.0.0.to_vec()), ..Element::key(name_key(name)) };
        let mut messages = Vec::new();
        for (index, map) in LINK_STACKS.into_iter().enumerate() {
            let before = |name: &IfName| self.actual.links.get(name).and_then(|stacks| stacks[index]);
            let changed = plan.iter().filter(|(name, stacks)| before(name) != stacks[index]);
            let gone: Vec<Element> =
                changed.clone().filter_map(|(name, _)| Some(element(name, before(name)?))).collect();
            let new: Vec<Element> = changed.filter_map(|(name, stacks)| Some(element(name, stacks[index]?))).collect();
            messages.extend(change_elements(Kind::DelElement, TABLE, map, &gone));
            messages.extend(change_elements(Kind::NewElement, TABLE, map, &new));
        }
        messages
    }

    /// Members that come to sets or leave them.
    fn member_changes(&self, pass: &Pass<'_>) -> Vec<Unit> {
        let Pass { policy, changes, everything, .. } = *pass;
        let mut units = Vec::new();
        let mut by_set: BTreeMap<SetId, Vec<_>> = BTreeMap::new();
        for (id, member) in changes.members.iter().filter(|_| !everything) {
            by_set.entry(*id).or_default().push(*member);
        }
        let whole: BTreeSet<SetId> =
            if everything { policy.sets.keys().copied().collect() } else { changes.sets.clone() };
        by_set.retain(|id, _| !whole.contains(id));
        let whole = whole.into_iter().map(|id| (id, None));
        for (id, members) in whole.chain(by_set.into_iter().map(|(id, members)| (id, Some(members)))) {
            let Some(set) = policy.sets.get(&id) else { continue };
            for family in Family::ALL {
                let name = matching::set_name(id, set.kind, family);
                let Some(before) = self.actual.sets.get(&name) else { continue };
                let change = match &members {
                    Some(members) => before.change(set, members, family),
                    None => before.change_to(set, family),
                };
                units.extend(change.map(|change| Unit::change(id, name, change)));
            }
        }
        units
    }

    /// Stacks whose chain is another one than the kernel has.
    fn moved_stacks(&self, pass: &Pass<'_>) -> Vec<Unit> {
        let mut units = Vec::new();
        for (id, stage) in &pass.rendered {
            let Some(Held { chain: Ok(chain), .. }) = self.held.get(&(*id, *stage)) else { continue };
            if *stage != Stage::Filter {
                continue;
            }
            let wanted = Some(Verdict::Goto(chain.clone()));
            match self.actual.stacks.get(&unit::stack_key(*id)) {
                Some(before) if *before != wanted && pass.broken.get(chain).is_none() => {
                    units.push(Unit::move_stack(*id, before.clone(), chain));
                }
                _ => {}
            }
        }
        units
    }

    /// The stacks that interfaces have, as far as they are there.
    fn hosts(&self, policy: &HostPolicy, broken: &Broken) -> Hosts {
        let chain = |key| match (self.fault(key, broken), self.held.get(&key)) {
            (None, Some(held)) => held.chain.as_ref().ok().cloned(),
            _ => None,
        };
        let stacks = policy.interfaces.iter().map(|(interface, policy)| {
            let places = Place::ALL.into_iter();
            let stacks = places.filter_map(|place| Some((place, chain((place.of(policy)?, place.stage())))));
            (interface.clone(), stacks.collect())
        });
        Hosts {
            stacks: stacks.collect(),
            failsafe_in: policy.failsafe_in.clone(),
            failsafe_out: policy.failsafe_out.clone(),
        }
    }

    /// Deletes what nothing refers to any more; how many things. `kept`: chains that others refer to.
    pub(super) fn clean(&mut self, policy: &HostPolicy, kept: &BTreeSet<&str>) -> usize {
        if !std::mem::take(&mut self.untidy) {
            return 0;
        }
        let unused: Vec<(StackId, Stage)> = self.held.keys().filter(|key| !self.in_use(**key)).copied().collect();
        unused.into_iter().for_each(|key| self.let_go(key));
        let of_links = self.actual.links.values().flatten().flatten();
        let held = self.held.keys().filter(|(_, stage)| *stage == Stage::Filter).map(|(stack, _)| stack);
        let referred: BTreeSet<Vec<u8>> = of_links.chain(held).map(|id| unit::stack_key(*id)).collect();
        let stacks: Vec<Vec<u8>> = self.actual.stacks.keys().filter(|key| !referred.contains(*key)).cloned().collect();
        let mut messages = Vec::new();
        for key in &stacks {
            let verdict = self.actual.stacks.get(key).cloned().flatten();
            let element = Element { verdict, ..Element::key(key.clone()) };
            messages.extend(change_elements(Kind::DelElement, TABLE, STACKS, [&element]));
        }
        let needed = |name: &&String| !self.needed.contains_key(*name) && !kept.contains(name.as_str());
        let chains: Vec<String> =
            self.actual.chains.iter().chain(&self.actual.damaged).filter(needed).cloned().collect();
        messages.extend(chains.iter().map(|name| about_chain(Kind::DelRule, TABLE, name)));
        messages.extend(chains.iter().map(|name| about_chain(Kind::DelChain, TABLE, name)));
        let wanted: BTreeSet<String> = policy
            .sets
            .iter()
            .flat_map(|(id, set): (&SetId, &Set)| Family::ALL.map(|family| matching::set_name(*id, set.kind, family)))
            .collect();
        let sets: Vec<String> = self
            .actual
            .sets
            .keys()
            .filter(|name| !wanted.contains(*name))
            .chain(&self.actual.constants)
            .chain(self.actual.tampered.keys())
            .filter(needed)
            .cloned()
            .collect();
        messages.extend(sets.iter().map(|name| {
            let mut m = Kind::DelSet.message(0);
            m.put_str(set::TABLE, TABLE).put_str(set::NAME, name);
            m
        }));
        if messages.is_empty() {
            return 0;
        }
        match commit(&mut self.socket, &messages, "delete policy that is not in use") {
            Ok(()) => {
                stacks.iter().for_each(|key| drop(self.actual.stacks.remove(key)));
                for name in chains.iter().chain(&sets) {
                    self.actual.forget(name);
                }
                stacks.len() + chains.len() + sets.len()
            }
            Err(error) => {
                tracing::warn!(%error, "it stays until the next pass");
                self.untidy = true;
                0
            }
        }
    }
}

impl Programs {
    /// Whether a chain is there, and right.
    pub(super) fn has_chain(&self, name: &str) -> bool {
        self.actual.chains.contains(name)
    }
}

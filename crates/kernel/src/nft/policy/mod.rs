//! Policy in our table: the chains of stacks, their sets, and which link has which stack.
//!
//! ```text
//! HostPolicy ──▶ render (pure) ──▶ what is missing ──▶ 1. new sets and chains: nothing refers to them yet
//!                                                      2. one transaction: members, programs' rules, links' stacks
//!                                                      3. what nothing refers to any more is deleted
//! ```
//!
//! * A packet sees all of step 2 or nothing of it, and steps 1 and 3 change no verdict: an edit never lets a packet see
//!   a mixture of the old policy and the new one.
//! * What the kernel refuses is left out with all that needs it, and the rest goes on; a link whose stack is not
//!   there has none, which drops.

mod actual;
mod cases;
mod content;
mod drift;
mod held;
mod matching;
mod read;
mod render;
mod split;
mod unit;
mod verdict;

pub use drift::{Repair, Repaired};
pub(super) use matching::PORTED;
use matching::Shape;
pub(super) use read::is_policy;
pub use render::DENIED_GROUP;
use render::PieceKey;
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
use held::{Held, Needed, StackKey, Used};
use lasthop_net::{Family, IfName};
use lasthop_policy::ir::{DenyAction, HostPolicy, Logging, PolicyChanges, Set, SetId, StackId, WorkloadPolicy};
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

/// Most bytes of what is made in the transaction that refers to it, and not before: for each transaction with rules the kernel
/// walks all rules that are reached from a base chain (`nft_table_validate`). Not for stacks: a packet that has begun with the
/// rules of before finds in a map what is there now (`nft_do_chain` reads the generation once, look-ups read it again), and a
/// chain that came with the map's element is empty to it.
const LITTLE: usize = 1 << 18;

/// Where there may be something that nothing needs any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Untidy {
    /// Among what programs and stacks needed.
    Parts,
    /// Among stacks, too.
    Stacks,
    /// Anywhere in the table.
    Everything,
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
    /// The chains of programs that are there and get other rules.
    replaced: Vec<Unit>,
    /// Stacks rendered.
    rendered: BTreeSet<StackKey>,
    broken: Broken,
    outcome: Outcome<PolicyKey>,
}

/// Policy in the kernel.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) socket: Socket,
    actual: Actual,
    held: BTreeMap<StackKey, Held>,
    /// Programs of these.
    used: BTreeMap<PieceKey, Used>,
    /// How many links use a stack; and what the host's interfaces use.
    uses: BTreeMap<StackId, usize>,
    host_uses: BTreeSet<StackKey>,
    /// What links were last wanted to have.
    wanted: BTreeMap<IfName, WorkloadPolicy>,
    /// Which chains and sets are needed.
    needed: Needed,
    /// What sets were like when programs that ask them were rendered.
    shapes: BTreeMap<SetId, Shape>,
    /// What denial and notes looked like when stacks were rendered.
    style: (DenyAction, Logging),
    /// Look at everything in the next pass.
    suspect: bool,
    /// What was left here before it was read back, once something was.
    left: Option<Actual>,
    /// What was found otherwise than it was left.
    repairs: Vec<Repair>,
    /// Where there may be something that nothing needs any more.
    untidy: Untidy,
}

impl Programs {
    pub(super) fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::open(Protocol::Netfilter)?,
            actual: Actual::default(),
            held: BTreeMap::new(),
            used: BTreeMap::new(),
            uses: BTreeMap::new(),
            host_uses: BTreeSet::new(),
            wanted: BTreeMap::new(),
            needed: Needed::default(),
            shapes: BTreeMap::new(),
            style: Default::default(),
            suspect: true,
            left: None,
            repairs: Vec::new(),
            untidy: Untidy::Everything,
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
        self.untidy = Untidy::Everything;
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
            replaced: Vec::new(),
            rendered: BTreeSet::new(),
            broken: Broken::default(),
            outcome: Outcome::default(),
        };
        self.adopt(&mut pass);
        self.note_repairs(policy);
        if everything {
            self.untidy = Untidy::Everything;
        }
        self.find_missing(&mut pass);
        pass.outcome.writes += pass.units.len();
        // What only programs that stay refer to may come along with their rules.
        if !pass.rendered.is_empty() || unit::size(&pass.units) > LITTLE {
            let units = std::mem::take(&mut pass.units);
            for effect in unit::carry_out(&mut self.socket, units, &mut pass.broken) {
                self.actual.record(effect);
            }
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
                        self.untidy = self.untidy.max(Untidy::Stacks);
                    }
                }
            }
        }
        if everything || changes.host {
            let place = |policy: &_| Place::ALL.map(|place: Place| Some((place.of(policy)?, place.stage())));
            self.untidy = self.untidy.max(Untidy::Stacks);
            self.host_uses = policy.interfaces.values().flat_map(place).flatten().collect();
        }
        pass.links = links;
    }

    /// Whether a stack is in use.
    fn in_use(&self, (stack, stage): StackKey) -> bool {
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
        if everything {
            self.shapes.retain(|id, _| policy.sets.contains_key(id));
        }
        let others = self.other_shapes(pass);
        let style = (policy.deny, policy.log.clone());
        let restyle = style != self.style;
        self.style = style;
        let mut render = BTreeSet::new();
        if everything || restyle || !others.is_empty() || !changes.sets.is_empty() || !changes.programs.is_empty() {
            render = self
                .renew(pass, |used| restyle || used.piece.as_ref().is_ok_and(|piece| !piece.sets.is_disjoint(&others)));
            let again = |(key, held): (&StackKey, &Held)| (restyle || held.chain.is_err()).then_some(*key);
            render.extend(self.held.iter().filter_map(again));
        }
        let candidates: BTreeSet<StackKey> = if everything {
            let lacks = |(key, held): (&StackKey, &Held)| self.lacks(*key, held).then_some(*key);
            render.extend(self.held.iter().filter_map(lacks));
            self.uses.keys().map(|stack| (*stack, Stage::Filter)).chain(self.host_uses.iter().copied()).collect()
        } else {
            let links = changes.workloads.iter().filter_map(|name| self.wanted.get(name));
            let stacks = links.flat_map(|wanted| [wanted.from, wanted.to]).map(|stack| (stack, Stage::Filter));
            stacks.chain(self.host_uses.iter().copied()).collect()
        };
        render.retain(|key| self.in_use(*key));
        render.extend(candidates.into_iter().filter(|key| !self.held.contains_key(key)));
        for key in &render {
            self.hold(*key, pass);
        }
        pass.rendered = render;
    }

    /// Sets that are to be asked otherwise than programs do.
    fn other_shapes(&self, pass: &Pass<'_>) -> BTreeSet<SetId> {
        let Pass { policy, changes, everything, .. } = *pass;
        let is_other = |(id, shape): (SetId, &Shape)| {
            policy.sets.get(&id).is_some_and(|set| Shape::of(set) != *shape).then_some(id)
        };
        if everything {
            return self.shapes.iter().filter_map(|(id, shape)| is_other((*id, shape))).collect();
        }
        let touched: BTreeSet<SetId> =
            changes.sets.iter().chain(changes.members.iter().map(|(id, _)| id)).copied().collect();
        touched.into_iter().filter_map(|id| is_other((id, self.shapes.get(&id)?))).collect()
    }

    /// Members, chains of stacks and stacks of links in one transaction. If it is refused, members set by set and
    /// links one by one.
    fn switch(&mut self, pass: &mut Pass<'_>) {
        let mut changed = std::mem::take(&mut pass.units);
        let made = changed.len();
        changed.extend(self.member_changes(pass));
        changed.extend(self.moved_stacks(pass));
        changed.append(&mut pass.replaced);
        unit::leave_out(&mut changed, &mut pass.broken);
        if !pass.broken.is_empty() {
            pass.links = self.wanted.keys().cloned().collect();
        }
        let Pass { links, broken, outcome, .. } = pass;
        let strays = std::mem::take(&mut self.actual.strays);
        let plan = self.link_changes(links, broken, outcome);
        outcome.writes += changed.len().saturating_sub(made) + strays.len() + plan.len();
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
        let untidy = std::mem::replace(&mut self.untidy, Untidy::Parts);
        if untidy >= Untidy::Stacks {
            let unused: Vec<StackKey> = self.held.keys().filter(|key| !self.in_use(**key)).copied().collect();
            unused.into_iter().for_each(|key| self.let_go(key));
        }
        let idle = self.needed.take_idle();
        if untidy == Untidy::Parts && idle.is_empty() {
            return 0;
        }
        let of_links = self.actual.links.values().flatten().flatten();
        let held = self.held.keys().filter(|(_, stage)| *stage == Stage::Filter).map(|(stack, _)| stack);
        let referred: BTreeSet<Vec<u8>> = of_links.chain(held).map(|id| unit::stack_key(*id)).collect();
        let stacks: Vec<Vec<u8>> = self.actual.stacks.keys().filter(|key| !referred.contains(*key)).cloned().collect();
        let wanted: BTreeSet<String> = policy
            .sets
            .iter()
            .flat_map(|(id, set): (&SetId, &Set)| Family::ALL.map(|family| matching::set_name(*id, set.kind, family)))
            .collect();
        let candidates = if untidy == Untidy::Everything { self.actual.names() } else { idle };
        let (mut chains, mut sets) = (Vec::new(), Vec::new());
        for name in candidates {
            if self.needed.has(&name) || wanted.contains(&name) || kept.contains(name.as_str()) {
            } else if self.actual.is_chain(&name) {
                chains.push(name);
            } else if self.actual.is_set(&name) {
                sets.push(name);
            }
        }
        let mut messages = Vec::new();
        for key in &stacks {
            let verdict = self.actual.stacks.get(key).cloned().flatten();
            let element = Element { verdict, ..Element::key(key.clone()) };
            messages.extend(change_elements(Kind::DelElement, TABLE, STACKS, [&element]));
        }
        messages.extend(chains.iter().map(|name| about_chain(Kind::DelRule, TABLE, name)));
        messages.extend(sets.iter().map(|name| {
            let mut m = Kind::DelSet.message(0);
            m.put_str(set::TABLE, TABLE).put_str(set::NAME, name);
            m
        }));
        // Maps lead to chains, so they go first.
        messages.extend(chains.iter().map(|name| about_chain(Kind::DelChain, TABLE, name)));
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
                self.untidy = Untidy::Everything;
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

//! Reading what is there, writing what differs, and finding out what it is that a program refuses.

use super::batch::{self, Batch, Concerns, Wanted};
use super::policy::{self, Inputs, Object, Rendered};
use super::rule::{Chains, Table};
use super::sets::{self, Kind, Line, Plan, Spec, Timing};
use super::{Iptables, Known, index, rule, save, skeleton};
use crate::Error;
use crate::nft::{PolicyKey, PolicyScope};
use crate::reconcile::Outcome;
use lasthop_net::Family;
use lasthop_policy::ir::{Action, HostPolicy, PolicyChanges, Program, SetId};
use std::collections::{BTreeMap, BTreeSet};

/// Objects that are set aside one by one before a pass gives up.
const PATIENCE: usize = 64;

/// Why chains were not written, and which chain is to blame if one is.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) error: Error,
    blamed: Concerns,
    /// Chains that the batch wrote.
    written: BTreeSet<String>,
}

/// Whether two readings show the same rules, whatever they counted.
pub(super) fn same(a: &save::Actual, b: &save::Actual) -> bool {
    let comments = |rules: &[save::Seen]| rules.iter().map(|seen| seen.comment.clone()).collect::<Vec<_>>();
    a.calls == b.calls
        && a.chains.len() == b.chains.len()
        && a.chains.iter().zip(&b.chains).all(|(a, b)| a.0 == b.0 && comments(a.1) == comments(b.1))
}

pub(super) fn destroy(name: &str) -> Line {
    Line { set: name.to_owned(), text: format!("destroy {name}") }
}

impl Iptables {
    /// Our chains as they are.
    pub(super) fn chains_now(&mut self, family: Family) -> Result<&save::Actual, Error> {
        let at = index(family);
        let actual = match self.actual[at].take() {
            Some(actual) => actual,
            None => {
                let mut actual = save::parse(&self.config.tools.save(family)?);
                for seen in actual.chains.values_mut().flatten() {
                    let key = (at, seen.comment.clone());
                    let shown = *self.shown.entry(key).or_insert(seen.fingerprint);
                    if shown != seen.fingerprint {
                        seen.comment.clear();
                    }
                }
                actual
            }
        };
        Ok(self.actual[at].insert(actual))
    }

    /// Our sets as they are.
    pub(super) fn sets_now(&mut self) -> Result<&BTreeMap<String, sets::Actual>, Error> {
        let sets = match self.sets.take() {
            Some(sets) => sets,
            None => sets::parse(&self.config.tools.ipset_save()?),
        };
        Ok(self.sets.insert(sets))
    }

    /// What makes these sets as wanted. `narrow`: sets of which rules that come or go ask.
    pub(super) fn plan_sets(
        &mut self,
        wanted: &BTreeMap<String, Spec>,
        timings: &BTreeMap<String, Timing>,
    ) -> Result<Plan, Error> {
        let capacity = self.config.capacity;
        let there = self.sets_now()?;
        let mut plan = Plan::default();
        for (name, spec) in wanted {
            let mut actual = there.get(name);
            if actual.is_some_and(|set| set.shape != Some((spec.kind, spec.family))) {
                // Somebody else's by our name: it goes, if nobody uses it.
                plan.early.push(destroy(name));
                actual = None;
            }
            let timing = timings.get(name).copied().unwrap_or(Timing::Widen);
            let of_set = sets::plan(name, spec, actual, (timing, capacity));
            plan.early.extend(of_set.early);
            plan.late.extend(of_set.late);
        }
        Ok(plan)
    }

    /// Writes lines for `ipset restore`, those that it takes. The sets whose lines it refuses, with the first reason.
    pub(super) fn write_sets(&mut self, lines: &[Line]) -> Result<BTreeMap<String, Error>, Error> {
        let mut refused = BTreeMap::new();
        let mut rest: Vec<&Line> = lines.iter().collect();
        while !rest.is_empty() {
            let mut input = String::new();
            for line in &rest {
                input.push_str(&line.text);
                input.push('\n');
            }
            let Err(failure) = self.config.tools.ipset_restore(&input) else { break };
            self.sets = None;
            let Some(at) = failure.line.and_then(|line| line.checked_sub(1)).filter(|at| *at < rest.len()) else {
                return Err(failure.error);
            };
            let bad = rest[at].set.clone();
            tracing::warn!(set = %bad, line = %rest[at].text, error = %failure.error, "ipset refuses");
            refused.entry(bad.clone()).or_insert(failure.error);
            rest = rest.split_off(at).into_iter().filter(|line| line.set != bad).collect();
        }
        if refused.is_empty() {
            self.adopt_sets(lines);
        }
        Ok(refused)
    }

    /// What was written is known without being read.
    fn adopt_sets(&mut self, lines: &[Line]) {
        let Some(sets) = &mut self.sets else { return };
        let touched: BTreeSet<&str> = lines.iter().map(|line| line.set.as_str()).collect();
        let text: String = lines.iter().map(|line| line.text.clone() + "\n").collect();
        let only_members = lines.iter().all(|line| line.text.starts_with("add ") || line.text.starts_with("del "));
        if only_members && touched.iter().all(|name| sets.contains_key(*name)) {
            for line in lines {
                let Some(set) = sets.get_mut(&line.set) else { continue };
                let Some(element) = line.text.rsplit(' ').next().zip(set.shape) else { continue };
                let Some(element) = sets::element(element.0, element.1.0) else { continue };
                if line.text.starts_with("add ") {
                    set.members.insert(element);
                } else {
                    set.members.remove(&element);
                }
            }
            return;
        }
        // Sets that were made or grown: their lines read as `ipset save` writes them.
        let grown = touched.iter().any(|name| sets.contains_key(*name));
        if grown || text.contains("destroy ") {
            self.sets = None;
        } else {
            sets.extend(sets::parse(&text));
        }
    }

    /// Makes the chains of both families as wanted; what was changed, in words.
    pub(super) fn write_chains(&mut self) -> Result<Result<Vec<String>, Refusal>, Error> {
        let mut changes = Vec::new();
        for family in Family::ALL {
            let (chains, hooks, spared) = self.wanted(family)?;
            let actual = self.chains_now(family)?;
            let wanted = Wanted { chains: &chains, hooks: &hooks, spared: &spared };
            let batch = batch::plan(actual, &wanted);
            if batch.is_empty() {
                continue;
            }
            match self.config.tools.restore(family, &batch.text) {
                Ok(()) => {
                    self.adopt_chains(family, &batch, &wanted);
                    changes.extend(batch.in_words().into_iter().map(|change| format!("{family}: {change}")));
                }
                Err(failure) => {
                    self.actual[index(family)] = None;
                    let blamed = batch.concerns(failure.line).clone();
                    let written = batch.lines.iter().filter_map(|concerns| match concerns {
                        Concerns::Chain(_, name) => Some(name.clone()),
                        _ => None,
                    });
                    return Ok(Err(Refusal { error: failure.error, blamed, written: written.collect() }));
                }
            }
        }
        Ok(Ok(changes))
    }

    /// Chains, calls, and chains that are left alone.
    #[expect(clippy::type_complexity, reason = "three parts of one answer")]
    fn wanted(&mut self, family: Family) -> Result<(Chains, Vec<rule::Hook>, BTreeSet<(Table, String)>), Error> {
        let Some(guard) = self.guard.clone() else {
            return Err(Error::Invalid("the guard comes before policy: sync it first".to_owned()));
        };
        let there: BTreeSet<(Table, String)> = self.chains_now(family)?.chains.keys().cloned().collect();
        let mut spared = self.spared.clone();
        let (places, mut chains) = match &self.policy {
            Some(known) => (known.places.clone(), known.rendered[index(family)].chains.clone()),
            None => {
                // What policy is has not been said yet: what an earlier run has left stays.
                let found = |place: &skeleton::Place| there.contains(&(place.table(), place.chain().to_owned()));
                let mut closed = policy::closed();
                closed.retain(|key, _| !there.contains(key));
                spared.extend(there.iter().cloned());
                (skeleton::Place::ALL.into_iter().filter(found).collect(), closed)
            }
        };
        let inputs = skeleton::Inputs { guard: &guard, places: &places, mask: self.config.mask };
        chains.extend(skeleton::chains(&inputs, family)?);
        Ok((chains, skeleton::hooks(&places), spared))
    }

    fn adopt_chains(&mut self, family: Family, batch: &Batch, wanted: &Wanted<'_>) {
        let Some(actual) = &mut self.actual[index(family)] else { return };
        for concerns in batch.lines.iter().collect::<BTreeSet<_>>() {
            match concerns {
                Concerns::Chain(table, name) => {
                    let key = (*table, name.clone());
                    let comments = wanted.chains.get(&key).map_or(&[][..], |chain| &chain.comments);
                    let seen =
                        |comment: &String| save::Seen { comment: comment.clone(), fingerprint: 0, counters: (0, 0) };
                    actual.chains.insert(key, comments.iter().map(seen).collect());
                }
                Concerns::Gone(table, name) => {
                    actual.chains.remove(&(*table, name.clone()));
                }
                Concerns::Call(table, base) => {
                    let call = batch::call(wanted.hooks, *table, base);
                    let key = (*table, base.clone());
                    match call {
                        Some(call) => actual.calls.insert(key, vec![call]),
                        None => actual.calls.remove(&key),
                    };
                }
                Concerns::Frame => {}
            }
        }
    }

    pub(super) fn try_policy(
        &mut self,
        desired: &HostPolicy,
        scope: PolicyScope<'_>,
        writes: &mut usize,
    ) -> Result<(), Error> {
        if let PolicyScope::Changed(changes) = scope {
            let read = self.sets.is_some() && self.actual.iter().all(Option::is_some);
            let only_members = PolicyChanges { members: changes.members.clone(), ..PolicyChanges::default() };
            if read && self.verified && self.policy.is_some() && *changes == only_members {
                return self.members(desired, changes, writes);
            }
        }
        self.verified = false;
        self.whole_policy(desired, writes)?;
        self.verified = true;
        Ok(())
    }

    /// Only members of sets have come or gone.
    fn members(&mut self, desired: &HostPolicy, changes: &PolicyChanges, writes: &mut usize) -> Result<(), Error> {
        let Some(known) = &mut self.policy else { return Ok(()) };
        let mut plan = Plan::default();
        let mut crowded = false;
        for (id, member) in &changes.members {
            let (Some(set), Some(kind)) = (desired.sets.get(id), known.kinds.get(id)) else { continue };
            for family in Family::ALL {
                let name = sets::name(*id, *kind, family);
                let Some(spec) = known.sets.get_mut(&name) else { continue };
                let there = self.sets.as_ref().and_then(|sets| sets.get(&name));
                for element in sets::elements(*member, *kind, family) {
                    let line = |verb| Line { set: name.clone(), text: format!("{verb} {name} {element}") };
                    if set.members.contains(member) {
                        if spec.members.insert(element.clone()) {
                            plan.early.push(line("add"));
                        }
                    } else if spec.members.remove(&element) && !stays(&element, &set.members, *kind) {
                        plan.late.push(line("del"));
                    }
                }
                crowded |= there.is_none_or(|there| spec.members.len() + plan.late.len() > there.capacity);
            }
        }
        if crowded {
            return self.whole_policy(desired, writes);
        }
        for lines in [&plan.early, &plan.late] {
            *writes += lines.len();
            let refused = self.write_sets(lines)?;
            if !refused.is_empty() {
                self.refuse_sets(refused);
                return self.whole_policy(desired, writes);
            }
        }
        Ok(())
    }

    fn refuse_sets(&mut self, refused: BTreeMap<String, Error>) {
        for (name, error) in refused {
            self.refused.insert(Object::Set(name), error.to_string());
        }
    }

    /// Everything, from what is desired.
    fn whole_policy(&mut self, desired: &HostPolicy, writes: &mut usize) -> Result<(), Error> {
        let before = self.policy.as_ref().map(|known| known.programs.clone());
        let kinds: BTreeMap<SetId, Kind> = desired.sets.iter().map(|(id, set)| (*id, set.kind.into())).collect();
        let policy_sets = sets_of(desired, &kinds);
        let timings = timings(before.as_ref(), desired, &kinds);
        self.refused.retain(|object, _| match object {
            Object::Program(id) => {
                let was = before.as_ref().and_then(|before| before.get(id));
                was.is_some() && desired.programs.get(id) == was
            }
            Object::Stack(id) => desired.stacks.contains_key(id),
            _ => true,
        });
        let mut tries = 0;
        loop {
            self.know(desired, &kinds, &policy_sets);
            let known_sets = self.policy.as_ref().map(|known| known.sets.clone()).unwrap_or_default();
            let plan = self.plan_sets(&known_sets, &timings)?;
            *writes += plan.early.len();
            let refused = self.write_sets(&plan.early)?;
            tries += 1;
            if !refused.is_empty() && tries < PATIENCE {
                self.refuse_sets(refused);
                continue;
            }
            match self.write_chains()? {
                Ok(changes) => {
                    for change in &changes {
                        tracing::debug!(%change, "policy");
                    }
                    *writes += changes.len();
                }
                Err(refusal) if tries < PATIENCE && self.blame(&refusal) => continue,
                Err(refusal) => {
                    if !self.search(desired, (&kinds, &policy_sets), &refusal)? {
                        return Err(refusal.error);
                    }
                }
            }
            *writes += plan.late.len();
            let refused = self.write_sets(&plan.late)?;
            if !refused.is_empty() && tries < PATIENCE {
                self.refuse_sets(refused);
                continue;
            }
            break;
        }
        self.sweep(writes)
    }

    /// Renders what is desired, without what was refused.
    fn know(&mut self, desired: &HostPolicy, kinds: &BTreeMap<SetId, Kind>, policy_sets: &BTreeMap<String, Spec>) {
        let mut refused = self.refused.clone();
        for (id, set) in &desired.sets {
            let Some((kind, odd)) = kinds.get(id).and_then(|kind| {
                set.members.iter().find(|member| !sets::fits(**member, *kind)).map(|member| (*kind, member))
            }) else {
                continue;
            };
            let reason = format!("set {} of {kind:?} cannot hold {odd:?}", id.0);
            let names = Family::ALL.map(|family| Object::Set(sets::name(*id, kind, family)));
            refused.extend(names.map(|object| (object, reason.clone())));
        }
        let inputs = Inputs { policy: desired, kinds, refused: &refused, mask: self.config.mask };
        let memos = &mut self.memos;
        let rendered: [Rendered; 2] = Family::ALL.map(|family| {
            let memo = &mut memos[index(family)];
            let rendered = policy::render(inputs, family, memo);
            tracing::debug!(%family, programs = memo.rendered, of = desired.programs.len(), "rendered");
            rendered
        });
        let mut sets = policy_sets.clone();
        for rendered in &rendered {
            sets.extend(rendered.lists.iter().map(|(name, spec)| (name.clone(), spec.clone())));
        }
        sets.retain(|name, _| !refused.contains_key(&Object::Set(name.clone())));
        self.policy = Some(Known {
            rendered,
            places: policy::places(desired),
            programs: desired.programs.clone(),
            kinds: kinds.clone(),
            sets,
        });
    }

    /// Sets aside what a program has refused by the line. False if that line is nobody's in particular.
    fn blame(&mut self, refusal: &Refusal) -> bool {
        let object = match &refusal.blamed {
            Concerns::Chain(_, name) => self.owner(name),
            Concerns::Gone(table, name) => {
                self.spared.insert((*table, name.clone()));
                Some(Object::Chain(format!("{table} {name}")))
            }
            _ => None,
        };
        let Some(object) = object else { return false };
        tracing::warn!(?object, error = %refusal.error, "iptables refuses");
        self.refused.insert(object, refusal.error.to_string()).is_none()
    }

    fn owner(&self, chain: &str) -> Option<Object> {
        let known = self.policy.as_ref()?;
        known.rendered.iter().find_map(|rendered| rendered.owners.get(chain)).cloned()
    }

    /// A table was refused as a whole: finds the programs for which that is so by leaving some of them out.
    fn search(
        &mut self,
        desired: &HostPolicy,
        (kinds, policy_sets): (&BTreeMap<SetId, Kind>, &BTreeMap<String, Spec>),
        refusal: &Refusal,
    ) -> Result<bool, Error> {
        let is_program = |object: &Object| matches!(object, Object::Program(_));
        let mut out: Vec<Object> =
            refusal.written.iter().filter_map(|name| self.owner(name)).filter(is_program).collect();
        let known = self.refused.clone();
        let without = |this: &mut Self, out: &[Object]| -> Result<bool, Error> {
            this.refused.clone_from(&known);
            this.refused.extend(out.iter().map(|object| (object.clone(), refusal.error.to_string())));
            this.know(desired, kinds, policy_sets);
            Ok(this.write_chains()?.is_ok())
        };
        if out.is_empty() || !without(self, &out)? {
            return Ok(false);
        }
        let mut portion = out.len().div_ceil(2);
        loop {
            let mut at = 0;
            while at < out.len() {
                let end = (at + portion).min(out.len());
                let fewer = [&out[..at], &out[end..]].concat();
                if without(self, &fewer)? {
                    out = fewer;
                } else {
                    at = end;
                }
            }
            if portion == 1 {
                break;
            }
            portion = portion.div_ceil(2);
        }
        without(self, &out)
    }

    /// Destroys sets that nothing asks any more. One that is still in use is left for the next pass.
    fn sweep(&mut self, writes: &mut usize) -> Result<(), Error> {
        let mut wanted: BTreeSet<String> =
            self.policy.as_ref().map(|known| known.sets.keys().cloned().collect()).unwrap_or_default();
        wanted.extend(Family::ALL.into_iter().flat_map(skeleton::set_names));
        let stray: Vec<Line> =
            self.sets_now()?.keys().filter(|name| !wanted.contains(*name)).map(|name| destroy(name)).collect();
        if stray.is_empty() {
            return Ok(());
        }
        *writes += stray.len();
        let kept = self.write_sets(&stray)?;
        let sets = self.sets_now()?;
        tracing::debug!(destroyed = stray.len() - kept.len(), in_use = kept.len(), sets = sets.len(), "sets");
        Ok(())
    }

    /// What is in force, and what is not.
    pub(super) fn tell(&self, desired: &HostPolicy, scope: PolicyScope<'_>, outcome: &mut Outcome<PolicyKey>) {
        let Some(known) = &self.policy else { return };
        let mut failed: BTreeMap<&Object, &String> = self.refused.iter().collect();
        failed.extend(known.rendered.iter().flat_map(|rendered| &rendered.failed));
        let sets: BTreeMap<String, SetId> = known
            .kinds
            .iter()
            .flat_map(|(id, kind)| Family::ALL.map(|family| (sets::name(*id, *kind, family), *id)))
            .collect();
        for (object, reason) in &failed {
            let key = match object {
                Object::Program(id) => PolicyKey::Part(policy::program_chain(*id)),
                Object::Stack(id) => PolicyKey::Stack(*id),
                Object::Link(link) => PolicyKey::Link(link.clone()),
                Object::Interface(_) => PolicyKey::Hosts,
                Object::Set(name) => {
                    sets.get(name).map_or_else(|| PolicyKey::Part(name.clone()), |id| PolicyKey::Set(*id))
                }
                Object::Chain(name) => PolicyKey::Part(name.clone()),
            };
            outcome.failed.insert(key, Error::Invalid((*reason).clone()));
        }
        for (link, workload) in &desired.workloads {
            let stacks = [workload.from, workload.to].map(Object::Stack);
            let key = PolicyKey::Link(link.clone());
            match stacks.iter().find_map(|stack| failed.get(stack)) {
                Some(reason) => drop(outcome.failed.insert(key, Error::Invalid((*reason).clone()))),
                None if outcome.failed.contains_key(&key) => {}
                None => drop(outcome.done.insert(key)),
            }
        }
        let keys = desired.stacks.keys().map(|id| PolicyKey::Stack(*id));
        let keys = keys.chain(desired.sets.keys().map(|id| PolicyKey::Set(*id))).chain([PolicyKey::Hosts]);
        outcome.done.extend(keys.filter(|key| !outcome.failed.contains_key(key)));
        if let PolicyScope::Changed(changes) = scope {
            let gone = changes.workloads.iter().filter(|link| !desired.workloads.contains_key(*link));
            outcome.removed.extend(gone.cloned().map(PolicyKey::Link));
        }
    }
}

/// Whether something else among a set's members is the same element: two halves of everything may also be there themselves.
fn stays(element: &sets::Element, members: &BTreeSet<lasthop_policy::ir::Member>, kind: Kind) -> bool {
    let sets::Element::Net(prefix) = element else { return false };
    prefix.len() == 1 && members.iter().any(|member| sets::elements(*member, kind, prefix.family()).contains(element))
}

/// Every set of a policy, once for each family.
fn sets_of(desired: &HostPolicy, kinds: &BTreeMap<SetId, Kind>) -> BTreeMap<String, Spec> {
    let mut all = BTreeMap::new();
    for (id, set) in &desired.sets {
        let Some(kind) = kinds.get(id).copied() else { continue };
        for family in Family::ALL {
            let members = set.members.iter().flat_map(|member| sets::elements(*member, kind, family)).collect();
            all.insert(sets::name(*id, kind, family), Spec { kind, family, members });
        }
    }
    all
}

/// Which sets are to be narrow while rules change: those that rules which come or go ask in order to allow, and never in
/// order not to. Any other is wide: to be in a set then denies, so it is early to come and late to go.
fn timings(
    before: Option<&BTreeMap<lasthop_policy::ir::ProgramId, std::sync::Arc<Program>>>,
    desired: &HostPolicy,
    kinds: &BTreeMap<SetId, Kind>,
) -> BTreeMap<String, Timing> {
    let Some(before) = before else { return BTreeMap::new() };
    let gone = before.iter().filter(|(id, program)| desired.programs.get(id) != Some(*program));
    let come = desired.programs.iter().filter(|(id, program)| before.get(id) != Some(*program));
    let (mut allowing, mut otherwise) = (BTreeSet::new(), BTreeSet::new());
    for rule in gone.chain(come).flat_map(|(_, program)| &program.rules) {
        for side in [&rule.source, &rule.destination] {
            let positive = side.within.iter().chain(side.ports.iter().flat_map(|ports| &ports.sets));
            let negative = side.not_within.iter().chain(side.not_ports.iter().flat_map(|ports| &ports.sets));
            let asked = if rule.action == Action::Allow { &mut allowing } else { &mut otherwise };
            asked.extend(positive);
            otherwise.extend(negative);
        }
    }
    let narrow = allowing.difference(&otherwise).filter_map(|id| Some((*id, *kinds.get(id)?)));
    let names = narrow.flat_map(|(id, kind)| Family::ALL.map(|family| sets::name(id, kind, family)));
    names.map(|name| (name, Timing::Narrow)).collect()
}

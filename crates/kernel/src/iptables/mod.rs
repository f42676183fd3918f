//! iptables and ipset: the same guard and the same policy as in nftables, for hosts that have to stay with iptables.
//!
//! ```text
//! Guard, Nat, HostPolicy ──▶ skeleton, policy (pure) ──▶ batch (pure) ──▶ one iptables-restore --noflush a family
//! sources, sets          ──▶ sets::plan (pure)       ──▶ one ipset restore before it, one after if anything is to go
//! ```
//!
//! * Chains are ours by the prefix `LASTHOP-`, sets by `lh-`. Nothing else is touched, but for one call in each base chain.
//! * What is in place is known by the comments of rules and by the members of sets, read by `iptables-save` and
//!   `ipset save`: a restart with nothing changed runs nothing that writes.
//! * Two programs cannot write in one step. Within a set's own changes new members come before old ones go; a set that
//!   rules which come or go in the same pass ask is narrowed before and widened after, see [`sets::Timing`].
//! * What one of the programs refuses is refused for one object, which then denies; the rest is in force in the same pass.
//!
//! Acts in the network namespace of the calling thread.

mod apply;
mod batch;
mod mark;
mod matches;
mod memo;
mod policy;
mod rule;
mod save;
mod sets;
mod skeleton;
mod tool;

pub use mark::Mask;
pub use policy::DENIED_GROUP;
pub use rule::{CHAIN_PREFIX, Table};
pub use sets::SET_PREFIX;
pub use tool::{Backend, Tools};

use crate::Error;
use crate::nft::{Decider, PolicyKey, PolicyScope};
use crate::reconcile::{Outcome, Scope};
use lasthop_compute::{Guard, Nat, Source};
use lasthop_net::Family;
use lasthop_policy::ir::{HostPolicy, Program, ProgramId, SetId};
use policy::{Object, Rendered};
use sets::{Element, Kind, Spec};
use skeleton::Place;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How an [`Iptables`] works.
#[derive(Clone, Debug)]
pub struct Config {
    /// The programs.
    pub tools: Tools,
    /// Our bits of the packet mark.
    pub mask: Mask,
    /// Members that a set takes before it has to be made anew.
    pub capacity: usize,
}

impl Config {
    /// The usual, with the programs of a backend.
    pub fn find(backend: Backend) -> Result<Self, Error> {
        Ok(Self { tools: Tools::find(backend)?, mask: Mask::default(), capacity: sets::CAPACITY })
    }
}

/// Our chains and sets.
#[derive(Debug)]
pub struct Iptables {
    config: Config,
    /// Chains of each family as last read or written; `None` if they have to be read.
    actual: [Option<save::Actual>; 2],
    /// Sets as last read or written; `None` if they have to be read.
    sets: Option<BTreeMap<String, sets::Actual>>,
    /// How the program shows each rule of ours, by family and comment: a rule that was changed under its comment is none.
    shown: BTreeMap<(usize, String), u64>,
    guard: Option<Guard>,
    policy: Option<Known>,
    /// What programs were rendered to, by family.
    memos: [memo::Memo; 2],
    /// What the programs have refused, and why. Tried again after the next [`Self::read_back`].
    refused: BTreeMap<Object, String>,
    /// Whether all of policy has been compared with what is there since that was read.
    verified: bool,
    /// Whether all sources have been compared with what is there since that was read.
    sources_verified: bool,
    /// Chains that ought to be gone and could not be deleted.
    spared: BTreeSet<(Table, String)>,
}

/// Policy as last told, rendered.
#[derive(Clone, Debug)]
struct Known {
    rendered: [Rendered; 2],
    places: BTreeSet<Place>,
    programs: BTreeMap<ProgramId, Arc<Program>>,
    kinds: BTreeMap<SetId, Kind>,
    /// Sets of policy, by name.
    sets: BTreeMap<String, Spec>,
}

/// What a pass over the skeleton did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In words, in order; nothing if all was right.
    pub changes: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    packets: u64,
    bytes: u64,
}

/// Index of a family in pairs.
fn index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

impl Iptables {
    /// Reads and writes nothing yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            actual: [None, None],
            sets: None,
            shown: BTreeMap::new(),
            guard: None,
            policy: None,
            memos: Default::default(),
            refused: BTreeMap::new(),
            verified: false,
            sources_verified: false,
            spared: BTreeSet::new(),
        }
    }

    /// Reads our chains and sets. What is not as we knew it is put right by the next passes, and what was refused is tried
    /// again. Whether anything differs from what was written last.
    pub fn read_back(&mut self) -> Result<bool, Error> {
        let before = (std::mem::take(&mut self.actual), self.sets.take());
        self.refused.clear();
        self.spared.clear();
        self.verified = false;
        self.sources_verified = false;
        for family in Family::ALL {
            self.chains_now(family)?;
        }
        self.sets_now()?;
        let [v4, v6] = &self.actual;
        let same = |now: &Option<save::Actual>, before: &Option<save::Actual>| match (now, before) {
            (Some(now), Some(before)) => apply::same(now, before),
            _ => false,
        };
        let unchanged = same(v4, &before.0[0]) && same(v6, &before.0[1]) && self.sets == before.1;
        Ok(!unchanged)
    }

    /// Whether packets of workload links meet our chains, as far as we know.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        let hooks = skeleton::hooks(&BTreeSet::new());
        self.actual.iter().all(|actual| {
            actual.as_ref().is_some_and(|actual| {
                hooks.iter().all(|hook| {
                    let calls = actual.calls.get(&(hook.table, hook.base.to_owned()));
                    calls.is_some_and(|calls| calls.iter().any(|call| call.ours == hook.ours))
                })
            })
        })
    }

    /// Whether nothing of ours is there, as last read.
    pub(crate) fn is_absent(&self) -> bool {
        let no_chains = |actual: &Option<save::Actual>| actual.as_ref().is_none_or(|actual| actual.chains.is_empty());
        self.actual.iter().all(no_chains) && self.sets.as_ref().is_none_or(BTreeMap::is_empty)
    }

    /// Makes the fixed chains and sets as they ought to be. Policy's chains stay as they are; where there are none yet, links
    /// pass nothing.
    pub fn sync_skeleton(&mut self, guard: &Guard, nat: &Nat) -> Result<Report, Error> {
        skeleton::link_patterns(guard)?;
        self.guard = Some(guard.clone());
        let mut wanted = skeleton::fixed_sets(nat);
        let there = self.sets_now()?;
        for family in Family::ALL {
            let [sources, ..] = skeleton::set_names(family);
            if there.get(&sources).is_none_or(|set| set.shape != Some((Kind::Sources, family))) {
                wanted.insert(sources, Spec { kind: Kind::Sources, family, members: BTreeSet::new() });
            }
        }
        let mut report = Report::default();
        let plan = self.plan_sets(&wanted, &BTreeMap::new())?;
        for lines in [&plan.early, &plan.late] {
            if let Some((name, error)) = self.write_sets(lines)?.into_iter().next() {
                return Err(Error::Invalid(format!("set {name}: {error}")));
            }
            report.changes.extend(lines.iter().map(|line| format!("ipset {}", line.text)));
        }
        report.changes.extend(self.write_chains()?.map_err(|refusal| refusal.error)?);
        Ok(report)
    }

    /// Makes the sources that links may use as desired. The first pass after [`Self::read_back`] looks at all of them.
    pub fn sync_sources(&mut self, desired: &BTreeSet<Source>, scope: Scope<'_, Source>) -> Outcome<Source> {
        let mut outcome = Outcome::default();
        let scope = if self.sources_verified { scope } else { Scope::All };
        let keys: BTreeSet<Source> = match scope {
            Scope::All => desired.clone(),
            Scope::Keys(keys) => keys.clone(),
        };
        let result = self.try_sources(desired, scope, &mut outcome);
        self.sources_verified = result.is_ok();
        match result {
            Ok(()) => {
                let (wanted, gone): (BTreeSet<_>, _) = keys.into_iter().partition(|key| desired.contains(key));
                outcome.done = wanted.into_iter().filter(|key| !outcome.failed.contains_key(key)).collect();
                outcome.removed.extend(gone);
            }
            Err(error) => outcome.failed = keys.into_iter().map(|key| (key, error.clone())).collect(),
        }
        outcome
    }

    fn try_sources(
        &mut self,
        desired: &BTreeSet<Source>,
        scope: Scope<'_, Source>,
        outcome: &mut Outcome<Source>,
    ) -> Result<(), Error> {
        let there = self.sets_now()?;
        let mut wanted = BTreeMap::new();
        for family in Family::ALL {
            let [name, ..] = skeleton::set_names(family);
            let of_family = |source: &&Source| source.prefix.family() == family;
            let element = |source: &Source| Element::Source(source.prefix, source.link.clone());
            let members: BTreeSet<Element> = match scope {
                Scope::All => desired.iter().filter(of_family).map(element).collect(),
                Scope::Keys(keys) => {
                    let mut members = there.get(&name).map(|set| set.members.clone()).unwrap_or_default();
                    for key in keys.iter().filter(of_family) {
                        if desired.contains(key) {
                            members.insert(element(key));
                        } else {
                            members.remove(&element(key));
                        }
                    }
                    members
                }
            };
            let (plain, odd): (BTreeSet<_>, BTreeSet<_>) = members.into_iter().partition(|member| match member {
                Element::Source(_, link) => skeleton::is_plain(link.as_str()),
                _ => true,
            });
            for member in odd {
                if let Element::Source(prefix, link) = member {
                    let why =
                        format!("interface name '{link}' cannot be written for ipset: use letters, digits, . _ -");
                    outcome.failed.insert(Source { link, prefix }, Error::Invalid(why));
                }
            }
            wanted.insert(name, Spec { kind: Kind::Sources, family, members: plain });
        }
        let plan = self.plan_sets(&wanted, &BTreeMap::new())?;
        for lines in [&plan.early, &plan.late] {
            outcome.writes += lines.len();
            if let Some((_, error)) = self.write_sets(lines)?.into_iter().next() {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Makes policy as desired. Links that have none pass nothing. The first pass after [`Self::read_back`] looks at
    /// everything, whatever its scope.
    pub fn sync_policy(&mut self, policy: &HostPolicy, scope: PolicyScope<'_>) -> Outcome<PolicyKey> {
        let mut outcome = Outcome::default();
        let result = self.try_policy(policy, scope, &mut outcome.writes);
        self.tell(policy, scope, &mut outcome);
        if let Err(error) = result {
            // Nobody in particular is to blame: it concerns all.
            outcome.failed.extend(std::mem::take(&mut outcome.done).into_iter().map(|key| (key, error.clone())));
            outcome.failed.insert(PolicyKey::Hosts, error);
            outcome.removed.clear();
        }
        outcome
    }

    /// Packets and bytes that rules of policy have counted. A chain that is rewritten counts from zero again.
    pub fn policy_counters(&self) -> Result<BTreeMap<Decider, (u64, u64)>, Error> {
        let counts = self.counts()?.into_iter();
        Ok(counts.filter_map(|(id, count)| Some((Decider::parse(&id)?, (count.packets, count.bytes)))).collect())
    }

    /// Packets that the fixed chains have dropped, by reason. A chain that is rewritten counts from zero again.
    pub fn drops(&self) -> Result<BTreeMap<&'static str, u64>, Error> {
        let counts = self.counts()?;
        let packets = |id: &str| counts.get(id).map_or(0, |count| count.packets);
        Ok(skeleton::DROP_REASONS.into_iter().map(|id| (id, packets(id))).collect())
    }

    fn counts(&self) -> Result<BTreeMap<String, Count>, Error> {
        let mut counts: BTreeMap<String, Count> = BTreeMap::new();
        for family in Family::ALL {
            let actual = save::parse(&self.config.tools.save(family)?);
            for seen in actual.chains.values().flatten() {
                let Some(id) = rule::id_of(&seen.comment).filter(|id| *id != "-") else { continue };
                let count = counts.entry(id.to_owned()).or_default();
                count.packets += seen.counters.0;
                count.bytes += seen.counters.1;
            }
        }
        Ok(counts)
    }

    /// Deletes our chains, their calls and our sets. Workload links are not guarded any more.
    pub fn remove_all(&mut self) -> Result<(), Error> {
        self.remove_chains()?;
        self.remove_sets()
    }

    /// Deletes our chains and their calls.
    pub(crate) fn remove_chains(&mut self) -> Result<(), Error> {
        self.guard = None;
        self.policy = None;
        self.read_back()?;
        for family in Family::ALL {
            let actual = self.chains_now(family)?;
            let nothing = batch::Wanted { chains: &rule::Chains::new(), hooks: &[], spared: &BTreeSet::new() };
            let batch = batch::plan(actual, &nothing);
            if !batch.is_empty() {
                self.actual[index(family)] = None;
                self.config.tools.restore(family, &batch.text).map_err(|failure| failure.error)?;
            }
        }
        Ok(())
    }

    /// With nftables underneath a set is still in use for a moment after the rules that asked it are gone.
    fn remove_sets(&mut self) -> Result<(), Error> {
        let mut tries = 40;
        loop {
            self.sets = None;
            let names: Vec<String> = self.sets_now()?.keys().cloned().collect();
            let lines: Vec<_> = names.into_iter().map(|name| apply::destroy(&name)).collect();
            let failed = self.write_sets(&lines)?;
            tries -= 1;
            match failed.into_iter().next() {
                None => return Ok(()),
                Some((_, error)) if tries == 0 => return Err(error),
                Some(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! nftables: one table, `inet lasthop`, kept by netlink.
//!
//! ```text
//! Guard, Nat ──▶ skeleton::render (pure) ──▶ plan (pure) ──▶ one transaction ──▶ chains, rules, fixed sets
//! sources    ──▶ a reconciler ──▶ a few elements ──▶ sources4/6, prefixes4/6
//! HostPolicy ──▶ policy::render (pure) ──▶ what is missing ──▶ chains and sets named by content, from_/to_stack, stacks
//! ```
//!
//! * The table is ours by its name and nothing outside it is looked at. It has no owner flag, so it outlives us.
//! * A rule is recognised by its comment and its expressions, both as the kernel shows them: one that was tampered
//!   with, moved or lost is put right by rewriting its chain in one transaction.
//! * Elements are keyed by link *name*: policy can be there before the link and needs no change when the link is made anew.

mod drops;
mod dump;
mod elements;
mod expr;
mod hosts;
mod plan;
mod policy;
mod ranges;
mod ruleset;
mod skeleton;
mod wire;

pub use drops::{Denied, Drops};
pub use expr::{Base, Compare, Expr, Find, Header, Meta, Reg, Reject, Verdict};
pub use policy::{DENIED_GROUP, Decider, PolicyKey, PolicyScope, Repair, Repaired};
pub use ruleset::{Chain, Element, Field, Gives, Hook, Keys, Mark, Point, Role, Rule, Ruleset, Set, SetSpec};

use crate::Error;
use crate::netlink::{Protocol, Refusal, Replies, Socket};
use crate::reconcile::{Outcome, Reconciler, Scope, Want};
use elements::Sources;
use hosts::Hosts;
use lasthop_compute::{Guard, Nat, Source};
use lasthop_net::{Family, IfName, Prefix};
use lasthop_policy::ir::{HostPolicy, Stack, WorkloadPolicy};
use nix::errno::Errno;
use plan::{Actual, Change};
use policy::Programs;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

/// Name of our table, of family `inet`.
pub const TABLE: &str = "lasthop";

/// The table of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Nft {
    socket: Socket,
    /// As last read or written; `None` if it has to be read.
    actual: Option<Actual>,
    sources: Reconciler<Sources>,
    programs: Programs,
    /// What the skeleton was last made from.
    skeleton: Option<(Guard, Nat)>,
    /// What guards the host's own interfaces; `None` while it is not known: then what is there stays.
    hosts: Option<Hosts>,
    /// As it is in the skeleton.
    written_hosts: Option<Hosts>,
    /// Rules that ask maps which are still empty wait until these are filled.
    progress: Progress,
}

/// How far the skeleton is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// As rendered.
    Whole,
    /// An earlier version's rules are in force; the new one's sets are there and are being filled.
    Filling,
}

/// What a pass over the skeleton did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In words, in order; nothing if all was right.
    pub changes: Vec<String>,
    /// Whether elements of endpoints went with the set that held them: sync them all.
    pub lost_elements: bool,
}

impl Nft {
    /// Opens sockets in the calling thread's network namespace. Reads and writes nothing yet.
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::open(Protocol::Netfilter)?,
            actual: None,
            sources: Reconciler::new(Sources::open()?),
            programs: Programs::open()?,
            skeleton: None,
            hosts: None,
            written_hosts: None,
            progress: Progress::Whole,
        })
    }

    /// Reads our table. What is not as we knew it is put right by the next passes, whatever their scope.
    pub fn read_back(&mut self) -> Result<(), Error> {
        self.actual = None;
        self.sources.read_back()?;
        self.programs.read_back()
    }

    /// Makes chains, rules and fixed sets as they ought to be, in one transaction; what is not needed any more is deleted in
    /// a second one. An earlier version's rules stay in force until [`Self::sync_policy`] has filled the sets of this one.
    pub fn sync_skeleton(&mut self, guard: &Guard, nat: &Nat) -> Result<Report, Error> {
        self.skeleton = Some((guard.clone(), nat.clone()));
        self.make_skeleton()
    }

    fn make_skeleton(&mut self) -> Result<Report, Error> {
        let Some((guard, nat)) = &self.skeleton else { return Ok(Report::default()) };
        let hosts = self.hosts.as_ref().map(|hosts| hosts.with_only(|chain| self.programs.has_chain(chain)));
        let mut desired = skeleton::render(guard, nat, hosts.as_ref().unwrap_or(&Hosts::default()))?;
        let actual = match self.actual.take() {
            Some(actual) => actual,
            None => dump::skeleton(&mut self.socket, &desired)?,
        };
        if hosts.is_none() {
            // What an earlier run left guards the host's interfaces until policy is known.
            let left = actual.chains.iter().filter(|(name, _)| hosts::is_base_chain(name));
            desired.chains.extend(left.map(|(name, chain)| (name.clone(), chain.clone())));
        }
        let plan = plan::plan(&actual, &desired);
        if plan.is_empty() {
            self.actual = Some(actual);
            self.written_hosts = hosts;
            self.progress = Progress::Whole;
            return Ok(Report::default());
        }
        let dynamic = [skeleton::SOURCES, skeleton::PREFIXES, skeleton::LINK_STACKS];
        let remade = |changes: &[Change], name: &str| changes.contains(&Change::MakeSet { set: name.to_owned() });
        let in_force = actual.chains.get("forward").is_some_and(|chain| !chain.rules.is_empty());
        let unfilled = remade(&plan.changes, skeleton::STACKS) && !actual.sets.contains_key(skeleton::STACKS);
        if in_force && unfilled && self.progress == Progress::Whole {
            let additions = plan.additions();
            self.transact(&additions, &desired)?;
            self.progress = Progress::Filling;
            return Ok(Report { changes: in_words(&additions), lost_elements: false });
        }
        self.transact(&plan.changes, &desired)?;
        self.transact(&plan.deletions, &desired)?;
        self.actual = Some(as_written(&desired));
        self.written_hosts = hosts;
        self.progress = Progress::Whole;
        let names = dynamic.as_flattened().iter().copied().chain([skeleton::STACKS]);
        let lost_elements = names.into_iter().any(|name| remade(&plan.changes, name));
        if lost_elements {
            self.sources.read_back()?;
            self.programs.read_back()?;
        }
        let changes = [in_words(&plan.changes), in_words(&plan.deletions)].concat();
        Ok(Report { changes, lost_elements })
    }

    fn transact(&mut self, changes: &[Change], desired: &Ruleset) -> Result<(), Error> {
        let (steps, messages): (Vec<usize>, Vec<_>) = plan::messages(changes, desired).into_iter().unzip();
        match self.socket.transaction(&messages, None) {
            Ok(_) => Ok(()),
            Err(refused) => Err(refusal_in_words(refused, changes, &steps)),
        }
    }

    /// Makes the sources that links may use as desired. A prefix inside another one of the same link is in force through it.
    pub fn sync_sources(&mut self, desired: &BTreeSet<Source>, scope: Scope<'_, Source>) -> Outcome<Source> {
        let want = |source: &Source| {
            let wanted = desired.contains(source) && (source.prefix.is_host() || !covered(source, desired));
            if wanted { Want::Value(()) } else { Want::Nothing }
        };
        let keys = match scope {
            Scope::All => desired.clone(),
            Scope::Keys(keys) => with_relatives(keys, desired),
        };
        let strays = self.sources.table().delete_strays();
        let mut outcome = match scope {
            Scope::All => self.sources.sync_all(keys.clone(), want),
            Scope::Keys(_) => self.sources.sync_keys(keys.clone(), want),
        };
        outcome.writes += strays;
        let inside =
            keys.into_iter().filter(|key| !key.prefix.is_host() && desired.contains(key) && covered(key, desired));
        for key in inside {
            outcome.removed.remove(&key);
            outcome.done.insert(key);
        }
        outcome
    }

    /// Makes policy as desired. Links that have none pass nothing.
    pub fn sync_policy(&mut self, policy: &HostPolicy, scope: PolicyScope<'_>) -> Outcome<PolicyKey> {
        let (mut outcome, hosts) = self.programs.grant(policy, scope);
        let filled = self.progress == Progress::Filling;
        self.hosts = Some(hosts);
        if filled || self.hosts != self.written_hosts {
            if filled {
                self.actual = None;
            }
            match self.make_skeleton() {
                Ok(report) => outcome.writes += report.changes.len(),
                Err(error) => drop(outcome.failed.insert(PolicyKey::Hosts, error)),
            }
        }
        let hosts = self.written_hosts.clone().unwrap_or_default();
        if self.progress == Progress::Whole && self.hosts == self.written_hosts {
            outcome.writes += self.programs.clean(policy, &hosts.references());
        }
        outcome
    }

    /// What of policy the last passes have found changed by somebody else.
    pub fn take_repairs(&mut self) -> Vec<Repair> {
        self.programs.take_repairs()
    }

    /// Packets that the skeleton has dropped, by reason. A chain that is rewritten counts from zero again.
    pub fn drops(&mut self) -> Result<BTreeMap<&'static str, u64>, Error> {
        dump::drops(&mut self.socket)
    }

    /// Packets and bytes that rules of policy have counted, and ends of tiers and stacks. Of a rule that stands in several
    /// chains, or takes several of nftables, the sum. A chain is only written anew if what it says changes.
    pub fn policy_counters(&mut self) -> Result<BTreeMap<Decider, (u64, u64)>, Error> {
        let mut counters: BTreeMap<Decider, (u64, u64)> = BTreeMap::new();
        for read in dump::rules(&mut self.socket)? {
            let decider = Decider::parse(&read.rule.id).filter(|_| policy::is_policy(&read.chain));
            if let (Some(decider), Some((packets, bytes))) = (decider, read.counted) {
                let sum = counters.entry(decider).or_default();
                *sum = (sum.0 + packets, sum.1 + bytes);
            }
        }
        Ok(counters)
    }

    /// Deletes our table. Workload links are not guarded any more.
    pub fn remove_all(&mut self) -> Result<(), Error> {
        self.actual = None;
        let mut m = wire::Kind::DelTable.message(0);
        m.put_str(wire::table::NAME, TABLE);
        let result = self.socket.transaction(&[m], None);
        self.hosts = None;
        self.written_hosts = None;
        self.progress = Progress::Whole;
        self.sources.read_back()?;
        self.programs.read_back()?;
        self.programs.start_over();
        match result {
            Ok(_) => Ok(()),
            Err(refused) if refused.iter().any(|(_, refusal)| refusal.errno == Errno::ENOENT) => Ok(()),
            Err(refused) => Err(first(refused).during(format!("delete table inet {TABLE}"))),
        }
    }

    /// Ports of the sockets that write: notifications about our own changes carry them.
    #[must_use]
    pub fn ports(&self) -> BTreeSet<u32> {
        BTreeSet::from([self.socket.port(), self.sources.table_ref().socket.port(), self.programs.socket.port()])
    }
}

fn in_words(changes: &[Change]) -> Vec<String> {
    changes.iter().map(ToString::to_string).collect()
}

/// Policy that allows everything to and from these links.
#[must_use]
pub fn allow_all<'a>(links: impl IntoIterator<Item = &'a IfName>) -> HostPolicy {
    let stack = Stack::allow_all();
    let id = stack.id();
    let link = |name: &IfName| (name.clone(), WorkloadPolicy { from: id, to: id });
    HostPolicy {
        stacks: BTreeMap::from([(id, Arc::new(stack))]),
        workloads: links.into_iter().map(link).collect(),
        ..HostPolicy::default()
    }
}

/// Whether another prefix of the same link holds this one.
fn covered(source: &Source, desired: &BTreeSet<Source>) -> bool {
    let holds = |other: &&Source| {
        other.prefix != source.prefix && !other.prefix.is_host() && other.prefix.covers(source.prefix)
    };
    of_link(&source.link, desired).find(holds).is_some()
}

fn of_link<'a>(link: &'a IfName, desired: &'a BTreeSet<Source>) -> impl Iterator<Item = &'a Source> {
    let first = Source { link: link.clone(), prefix: Prefix::default_route(Family::V4) };
    desired.range(first..).take_while(move |source| source.link == *link)
}

/// A prefix that comes or goes also decides about those inside it.
fn with_relatives(keys: &BTreeSet<Source>, desired: &BTreeSet<Source>) -> BTreeSet<Source> {
    let mut all = keys.clone();
    for key in keys.iter().filter(|key| !key.prefix.is_host()) {
        let relative = |other: &&Source| !other.prefix.is_host() && key.prefix.covers(other.prefix);
        all.extend(of_link(&key.link, desired).filter(relative).cloned());
    }
    all
}

/// What the table holds once a plan for it has succeeded.
fn as_written(desired: &Ruleset) -> Actual {
    let sets = desired.sets.iter();
    Actual {
        flags: Some(0),
        chains: desired.chains.clone(),
        sets: sets.clone().map(|(name, set)| (name.clone(), Some(set.spec.clone()))).collect(),
        elements: sets.filter_map(|(name, set)| Some((name.clone(), set.elements.clone()?))).collect(),
    }
}

fn first(refused: Vec<(usize, Refusal)>) -> Refusal {
    refused.into_iter().next().map_or(Refusal { errno: Errno::EPROTO, explanation: None }, |(_, refusal)| refusal)
}

/// The refusal of the first request, with the step that it belongs to.
fn refusal_in_words(refused: Vec<(usize, Refusal)>, changes: &[Change], steps: &[usize]) -> Error {
    let at = refused.first().and_then(|(index, _)| steps.get(*index)).and_then(|step| changes.get(*step));
    let attempted = at.map_or_else(|| "transaction".to_owned(), ToString::to_string);
    first(refused).during(format!("write nftables rules: {attempted}"))
}

/// Notifications about nftables.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
}

impl Watch {
    /// Listens from now on, in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        socket.join(wire::GROUP)?;
        Ok(Self { socket })
    }

    /// Whether somebody whose port is not among `own` has changed our table since the last call. Never waits.
    /// [`Error::Overrun`] means that it is not known: read back.
    pub fn touched(&mut self, own: &BTreeSet<u32>) -> Result<bool, Error> {
        let mut touched = false;
        loop {
            let replies = self.socket.receive()?;
            if replies.is_empty() {
                return Ok(touched);
            }
            touched |= touched_by_others(&replies, own);
        }
    }
}

/// Whether notifications tell of a change of our table by somebody whose port is not among `own`.
#[must_use]
pub fn touched_by_others(messages: &Replies, own: &BTreeSet<u32>) -> bool {
    dump::touched(messages, own)
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

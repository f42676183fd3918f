//! What somebody else has done to policy in our table, in the policy's words (pure).
//!
//! What was read back is held against what was left there; names of chains and sets say nothing to an operator, so each is
//! told by what the policy that needs it is called.

use super::actual::Actual;
use super::held::StackKey;
use super::render::{self, Home, Piece, PieceKey, Thing, Unrenderable};
use super::unit::stack_key;
use super::verdict::Decider;
use super::{Programs, matching, unit};
use crate::nft::ruleset::Rule;
use lasthop_net::{Family, IfName};
use lasthop_policy::ir::{HostPolicy, SetId, StackId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How many repairs are told one by one.
const TOLD: usize = 12;
/// How many policies are named as those that need a thing.
const NAMED: usize = 3;

/// What was found otherwise than it was left, and is put right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repair {
    /// What it is part of.
    pub of: Repaired,
    /// What had become of it, and what was done, in words.
    pub what: String,
}

/// What was put right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repaired {
    /// The policy of a workload link.
    Link(IfName),
    /// A policy, a rule, a tier or a set, in words.
    Part(String),
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name) => write!(f, "policy of link {name}"),
            Self::Part(words) => f.write_str(words),
        }
    }
}

impl Programs {
    /// Notes what was found otherwise than it was left, before it is put right.
    pub(super) fn note_repairs(&mut self, policy: &HostPolicy) {
        if let Some(left) = self.left.take() {
            self.repairs.extend(repairs((&left, &self.actual), policy, self.held.keys().copied()));
        }
    }

    /// What was found otherwise than it was left, since last asked.
    pub(in crate::nft) fn take_repairs(&mut self) -> Vec<Repair> {
        std::mem::take(&mut self.repairs)
    }

    /// What is there from now on is not held against what was there.
    pub(in crate::nft) fn start_over(&mut self) {
        self.left = None;
    }
}

/// What differs between what was left and what was found, of what policy needs.
fn repairs(
    (left, found): (&Actual, &Actual),
    policy: &HostPolicy,
    stacks: impl Iterator<Item = StackKey>,
) -> Vec<Repair> {
    let part = |words: String, what: String| Repair { of: Repaired::Part(words), what };
    if found.chains.is_empty() && found.links.is_empty() && !left.chains.is_empty() {
        return vec![part("all policy".to_owned(), "was gone from the table; made again".to_owned())];
    }
    let mut all = links(left, found, policy);
    let programs = left.programs.iter().filter(|(name, content)| found.programs.get(*name) != Some(*content));
    let chains = left.chains.iter().filter(|name| !found.chains.contains(*name));
    let chains: Vec<&String> = programs.map(|(name, _)| name).chain(chains).collect();
    let lists: Vec<&String> = left.constants.iter().filter(|name| !found.constants.contains(*name)).collect();
    if !chains.is_empty() || !lists.is_empty() {
        let titles = titles(policy, stacks);
        for (names, kind) in [(chains, "chain"), (lists, "list")] {
            for name in names {
                let Some(title) = titles.get(name) else { continue };
                let changed = found.is_chain(name) || found.is_set(name);
                all.push(part(title.clone(), format!("{kind} {name} had been {}", fate(changed))));
            }
        }
    }
    all.extend(sets(left, found, policy));
    for (key, verdict) in &left.stacks {
        let users = users(key, policy);
        if !users.is_empty() && found.stacks.get(key) != Some(verdict) {
            let what = format!("the entry that leads to it had been {}", fate(found.stacks.contains_key(key)));
            all.push(part(format!("policy of links {}", some(users)), what));
        }
    }
    if !found.strays.is_empty() {
        let sets: BTreeSet<String> = found.strays.iter().map(|(set, _)| set.clone()).collect();
        let what = format!("{} elements that are none of ours; deleted", found.strays.len());
        all.push(part(format!("sets {}", some(sets)), what));
    }
    let more = all.len().saturating_sub(TOLD);
    all.truncate(TOLD);
    if more > 0 {
        all.push(part(format!("{more} other parts of policy"), "made again".to_owned()));
    }
    all
}

fn fate(is_there: bool) -> &'static str {
    if is_there { "changed; put right" } else { "deleted; made again" }
}

fn links(left: &Actual, found: &Actual, policy: &HostPolicy) -> Vec<Repair> {
    let mut all = Vec::new();
    let names: BTreeSet<&IfName> = left.links.keys().chain(found.links.keys()).collect();
    for name in names {
        for (index, way) in ["sends", "gets"].into_iter().enumerate() {
            let stack = |actual: &Actual| actual.links.get(name).and_then(|stacks| stacks[index]);
            let (before, after) = (stack(left), stack(found));
            let what = match (before, after, policy.workloads.contains_key(name)) {
                _ if before == after => continue,
                (None, Some(_), false) => format!("an entry for what it {way} was none of ours; taken away"),
                (_, after, true) => format!("the entry for what it {way} had been {}", fate(after.is_some())),
                _ => continue,
            };
            all.push(Repair { of: Repaired::Link(name.clone()), what });
        }
    }
    all
}

fn sets(left: &Actual, found: &Actual, policy: &HostPolicy) -> Vec<Repair> {
    let mut all = Vec::new();
    for (id, set) in &policy.sets {
        for family in Family::ALL {
            let name = matching::set_name(*id, set.kind, family);
            let Some(before) = left.sets.get(&name) else { continue };
            let what = match found.sets.get(&name) {
                Some(after) if after == before => continue,
                Some(after) => {
                    let (missing, foreign) = before.differs_from(after);
                    format!("{name}: {missing} members were missing and {foreign} were none of ours; put right")
                }
                None => format!("{name} had been deleted; made again"),
            };
            let words = format!("a set of {}", some(askers(*id, policy)));
            all.push(Repair { of: Repaired::Part(words), what });
        }
    }
    all
}

/// The policies that ask a set.
fn askers(id: SetId, policy: &HostPolicy) -> BTreeSet<String> {
    let asking = policy.programs.values().filter(|program| program.sets().any(|set| set == id));
    asking.map(|program| render::owner(&program.owner)).collect()
}

/// The links that have this stack.
fn users(key: &[u8], policy: &HostPolicy) -> BTreeSet<String> {
    let has = |stack: StackId| stack_key(stack) == key;
    let links = policy.workloads.iter().filter(|(_, workload)| has(workload.from) || has(workload.to));
    links.map(|(name, _)| name.to_string()).collect()
}

/// The first few, and how many more.
fn some(all: BTreeSet<String>) -> String {
    let more = all.len().saturating_sub(NAMED);
    let first: Vec<String> = all.into_iter().take(NAMED).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", first.join(", "))
}

/// What the chains and lists of a policy are called.
fn titles(policy: &HostPolicy, stacks: impl Iterator<Item = StackKey>) -> BTreeMap<String, String> {
    let mut titles: BTreeMap<String, String> = BTreeMap::new();
    for (name, rules) in &chains(policy, stacks) {
        for rule in rules.iter().filter(|rule| !title_of(rule).is_empty()) {
            for needed in unit::references(std::slice::from_ref(rule)) {
                titles.entry(needed).or_insert_with(|| title_of(rule));
            }
        }
        let own = rules.iter().find(|rule| Decider::parse(&rule.id).is_some()).map(title_of);
        match (name.split_once('-'), own) {
            (Some(("stack", _)), _) => drop(titles.insert(name.clone(), "the order of tiers and profiles".to_owned())),
            (Some(("program", _)), Some(own)) => drop(titles.insert(name.clone(), whole(&own))),
            (_, Some(own)) => drop(titles.entry(name.clone()).or_insert(own)),
            (_, None) => {}
        }
    }
    titles
}

/// The chains of these stacks and of their programs.
fn chains(policy: &HostPolicy, stacks: impl Iterator<Item = StackKey>) -> Vec<(String, Vec<Rule>)> {
    let mut things: Vec<(String, Thing)> = Vec::new();
    let mut pieces: BTreeMap<PieceKey, Piece> = BTreeMap::new();
    for (id, stage) in stacks {
        let steps = policy.stacks.get(&id).into_iter().flat_map(|stack| &stack.steps);
        for key in steps.flat_map(|step| &step.programs).map(|program| (*program, stage)) {
            if pieces.contains_key(&key) {
                continue;
            }
            let Ok((piece, parts)) = render::piece(key, policy) else { continue };
            things.extend(parts.things);
            if let Home::Chain { name, .. } = &piece.home {
                things.push((name.clone(), Thing::Chain(parts.rules)));
            }
            pieces.insert(key, piece);
        }
        let piece = |program| pieces.get(&(program, stage)).ok_or(Unrenderable::Program(program));
        things.extend(render::stack((id, stage), policy, piece).into_iter().flat_map(|rendered| rendered.things));
    }
    let chain = |(name, thing)| match thing {
        Thing::Chain(rules) => Some((name, rules)),
        Thing::Fixed(_) => None,
    };
    things.into_iter().filter_map(chain).collect()
}

/// What a rule of ours is about.
fn title_of(rule: &Rule) -> String {
    let rest = rule.id.split_once(' ').map_or("", |(_, rest)| rest);
    match Decider::parse(&rule.id) {
        Some(Decider::Rule(_, index)) => format!("rule {index} of {rest}"),
        Some(Decider::Tier(name)) => format!("tier {name}"),
        Some(Decider::Profiles) => "profiles".to_owned(),
        Some(Decider::End) => "what no policy decides".to_owned(),
        None => rest.to_owned(),
    }
}

/// The policy of whose rule this is the title.
fn whole(title: &str) -> String {
    title.strip_prefix("rule ").and_then(|rest| rest.split_once(" of ")).map_or(title, |(_, owner)| owner).to_owned()
}

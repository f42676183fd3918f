//! From the policies that apply to an endpoint to the stack that its packets meet.

use crate::compile::{self, Compiled};
use crate::ir::{
    Action, Direction, End, Force, Interface, InterfacePolicy, Owner, ProgramId, Stack, StackId, Step, StepName,
    TierDefault,
};
use crate::order::{PolicyRank, TierRank};
use lasthop_model::policy::{Policy, Profile, Stage, StagedAction, Staging};
use std::collections::BTreeMap;

/// A policy that applies to an endpoint in one direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Applying {
    /// Where its tier stands.
    pub tier_rank: TierRank,
    /// Where it stands in the tier.
    pub rank: PolicyRank,
    /// The tier's name.
    pub tier: String,
    /// What the tier does with packets that nobody in it answers.
    pub otherwise: TierDefault,
    /// Its rules.
    pub program: ProgramId,
    /// Whether it decides.
    pub force: Force,
}

/// Where packets meet a stack, which says how it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// At a workload, or at a host endpoint to and from the host itself: profiles last, then deny.
    Normal,
    /// At a host endpoint, forwarded: tiers only.
    Forward,
    /// At a host endpoint, before the destination is translated: silence is consent.
    BeforeDnat,
    /// At a host endpoint, before connection tracking: silence is consent.
    Untracked,
}

/// Which endpoints a policy is asked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Workloads.
    Workload,
    /// Host endpoints.
    Host,
}

/// Whether a policy is asked at a place.
#[must_use]
pub fn is_asked(policy: &Policy, at: At, place: Place) -> bool {
    let proposes_rules = !matches!(policy.staging, Staging::Staged(StagedAction::Delete | StagedAction::Ignore));
    let meets = match (place, at) {
        (Place::Normal, _) => matches!(policy.stage, Stage::Normal | Stage::AlsoForward),
        (_, At::Workload) => false,
        (Place::Forward, At::Host) => policy.stage == Stage::AlsoForward,
        (Place::BeforeDnat, At::Host) => policy.stage == Stage::BeforeDnat,
        (Place::Untracked, At::Host) => policy.stage == Stage::Untracked,
    };
    proposes_rules && meets
}

/// Puts policies in order and ends the stack as its place says. `None` where nothing is said, and silence is consent.
#[must_use]
pub fn assemble(place: Place, mut policies: Vec<Applying>, profiles: Vec<ProgramId>) -> Option<Stack> {
    policies.sort();
    let mut steps: Vec<Step> = Vec::new();
    for tier in policies.chunk_by(|a, b| a.tier_rank == b.tier_rank) {
        let denies = matches!(place, Place::Normal | Place::Forward) && tier.iter().any(|p| p.force == Force::Enforced);
        steps.push(Step {
            name: StepName::Tier(tier[0].tier.clone()),
            programs: tier.iter().map(|policy| policy.program).collect(),
            otherwise: if denies { tier[0].otherwise } else { TierDefault::Pass },
        });
    }
    if place != Place::Normal {
        return (!steps.is_empty()).then_some(Stack { steps, end: End::GoOn });
    }
    if !profiles.is_empty() {
        steps.push(Step { name: StepName::Profiles, programs: profiles, otherwise: TierDefault::Deny });
    }
    Some(Stack { steps, end: End::Deny })
}

/// The profile that allows everything and is always there.
pub const DEFAULT_ALLOW: &str = "projectcalico-default-allow";

/// The profile of a namespace, which allows everything unless a resource of the name says otherwise.
#[must_use]
pub fn namespace_profile(namespace: &str) -> String {
    format!("kns.{namespace}")
}

/// The rules of a profile that an endpoint of `namespace` names. `None`: it has none (a service account's profile).
#[must_use]
pub fn profile(
    name: &str,
    namespace: Option<&str>,
    known: &BTreeMap<String, Profile>,
    direction: Direction,
) -> Option<Compiled> {
    let built_in = name == DEFAULT_ALLOW || namespace.is_some_and(|namespace| name == namespace_profile(namespace));
    let plain = |program| Compiled { program, sets: BTreeMap::new() };
    match known.get(name) {
        Some(profile) => Some(compile::profile(profile, direction)),
        None if built_in => Some(plain(compile::always(Owner::Profile(name.to_owned()), direction, Action::Allow))),
        None if name.starts_with("ksa.") => None,
        None => Some(plain(compile::always(Owner::MissingProfile(name.to_owned()), direction, Action::Deny))),
    }
}

/// The policy of one of the host's interfaces: `build` makes the stack of a place and direction.
#[must_use]
pub fn interface(interface: &Interface, mut build: impl FnMut(Place, Direction) -> Option<StackId>) -> InterfacePolicy {
    let mut policy = InterfacePolicy {
        input: build(Place::Normal, Direction::Ingress),
        output: build(Place::Normal, Direction::Egress),
        forward_in: build(Place::Forward, Direction::Ingress),
        forward_out: build(Place::Forward, Direction::Egress),
        before_dnat: build(Place::BeforeDnat, Direction::Ingress),
        untracked_in: None,
        untracked_out: None,
    };
    // Packets of all interfaces are not taken from connection tracking: workloads' would be among them.
    if *interface != Interface::Any {
        policy.untracked_in = build(Place::Untracked, Direction::Ingress);
        policy.untracked_out = build(Place::Untracked, Direction::Egress);
    }
    policy
}

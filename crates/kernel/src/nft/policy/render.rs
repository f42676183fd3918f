//! Programs and stacks as chains (pure).
//!
//! ```text
//! stack-X: jump tier-A; jump tier-B; drop (or accept)
//! tier-A:  jump program-P; rules of Q, which may pass; drop (or nothing: the next tier is asked)
//! program-P: rules: accept, drop
//! ```
//!
//! * Allow is `accept`: it ends the base chain from which the stack was asked, and no other. A program that stays silent
//!   returns to its tier; a tier that does, to its stack.
//! * Pass is `return` from the tier, so a program that has it stands in the tier itself; all others are one chain for
//!   everybody. So the depth of jumps is the same for any number of tiers (the kernel allows 16, and counts goto, too).
//! * A chain is named by its content as the kernel shows it: reading one back shows whether it is right, nothing in it
//!   is ever changed, and what is no longer referred to is deleted.
//! * A rule that is too large for the kernel goes on in a chain of its own (`part`), see [`super::split`]; if it returns, so
//!   does what follows it.
//! * Every rule that decides has a counter and, as the first word of its comment, a [`Decider`]. Some of the packets that a
//!   rule denies ([`DENIED_RATE`]) are also offered to the NFLOG group [`DENIED_GROUP`]: in a chain of its own, since a limit
//!   that is reached ends the rule that it stands in.

use super::matching::{Constants, Matcher, UnknownSet};
use super::split::{self, Parts};
use super::verdict::Decider;
use crate::nft::expr::{Expr, Meta, Reg, Verdict};
use crate::nft::ruleset::Rule;
use crate::nft::skeleton::{HOST_ALLOWED, REFUSE};
use lasthop_policy::ir::{
    Action, DenyAction, Digest, End, Force, HostPolicy, Owner, Program, ProgramId, Rate, SetId, SetKind, Stack,
    StackId, Step, StepName, TierDefault,
};
use std::collections::{BTreeMap, BTreeSet};

/// The NFLOG group to which denied packets are offered. Their prefix is a [`Decider`].
pub const DENIED_GROUP: u16 = 76;
/// How many denied packets each rule offers: so many a second, and so many at once. No setting says so.
const DENIED_RATE: (u64, u32) = (10, 20);
/// Longest comment: half of what the kernel keeps.
const COMMENT: usize = 120;

/// From where a stack is asked, which decides what Allow does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::nft) enum Stage {
    /// Where packets are filtered: it ends the base chain.
    Filter,
    /// Before connection tracking: the packet is not tracked, and no host endpoint filters it.
    Untracked,
    /// Before the destination is translated: no host endpoint filters the packet.
    BeforeDnat,
}

/// A stack and all that it refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::nft) struct Rendered {
    /// The stack's chain.
    pub(in crate::nft) chain: String,
    /// Chains in the order in which they can be made.
    pub(in crate::nft) chains: Vec<(String, Vec<Rule>)>,
    /// Sets of fixed content.
    pub(in crate::nft) constants: Constants,
    /// Sets of members.
    pub(in crate::nft) sets: BTreeSet<SetId>,
}

/// The rules that match and decide about packets.
struct Renderer<'a> {
    policy: &'a HostPolicy,
    stage: Stage,
    rendered: Rendered,
    known: BTreeMap<ProgramId, String>,
}

/// Renders a stack.
pub(in crate::nft) fn stack(id: StackId, stage: Stage, policy: &HostPolicy) -> Result<Rendered, Unrenderable> {
    let stack = policy.stacks.get(&id).ok_or(Unrenderable::Stack(id))?;
    let mut renderer = Renderer { policy, stage, rendered: Rendered::default(), known: BTreeMap::new() };
    let rules = renderer.stack(stack)?;
    let chain = renderer.chain("stack", rules);
    Ok(Rendered { chain, ..renderer.rendered })
}

/// Why a stack cannot be rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::nft) enum Unrenderable {
    /// It is not there.
    #[error("stack {} is not among the host's stacks", .0.0)]
    Stack(StackId),
    /// A program is not there.
    #[error("program {} is not among the host's programs", .0.0)]
    Program(ProgramId),
    /// A set is not there.
    #[error(transparent)]
    Set(#[from] UnknownSet),
}

/// A chain's name: what it holds.
pub(in crate::nft) fn chain_name(kind: &str, rules: &Vec<Rule>) -> String {
    format!("{kind}-{}", Digest::of(rules))
}

/// Whether a chain of this name is one of those made here, and if so, whether it holds what its name says.
pub(in crate::nft) fn is_intact(name: &str, rules: &Vec<Rule>) -> Option<bool> {
    let (kind, _) = name.split_once('-')?;
    matches!(kind, "stack" | "tier" | "program" | "denial" | "part").then(|| chain_name(kind, rules) == name)
}

impl Renderer<'_> {
    fn chain(&mut self, kind: &str, rules: Vec<Rule>) -> String {
        let rules = self.divide(rules);
        let name = chain_name(kind, &rules);
        if !self.rendered.chains.iter().any(|(known, _)| *known == name) {
            self.rendered.chains.push((name.clone(), rules));
        }
        name
    }

    /// Rules that the kernel takes, for rules some of which may be too large.
    fn divide(&mut self, rules: Vec<Rule>) -> Vec<Rule> {
        let mut divided = Vec::with_capacity(rules.len());
        let mut rules = rules.into_iter();
        while let Some(rule) = rules.next() {
            let Some(Parts { front, unless, then }) = split::parts(&rule) else {
                divided.push(rule);
                continue;
            };
            // Whoever is gone to returns for its caller, so what follows such a rule is gone to as well.
            let returns = then.last() == Some(&Expr::Verdict(Verdict::Return));
            let after: Vec<Rule> = if returns { rules.by_ref().collect() } else { Vec::new() };
            let otherwise = if after.is_empty() { Verdict::Return } else { Verdict::Goto(self.chain("part", after)) };
            let verdict =
                |exprs: &[Expr], verdict: Verdict| self::rule("-", [exprs, &[Expr::Verdict(verdict)]].concat());
            let mut part: Vec<Rule> = unless.iter().map(|exprs| verdict(exprs, otherwise.clone())).collect();
            part.push(Rule { id: rule.id, exprs: then });
            let part = self.chain("part", part);
            divided.push(verdict(&front, if returns { Verdict::Goto(part) } else { Verdict::Jump(part) }));
            divided.extend((otherwise != Verdict::Return).then(|| verdict(&[], otherwise)));
        }
        divided
    }

    fn stack(&mut self, stack: &Stack) -> Result<Vec<Rule>, Unrenderable> {
        let mut rules = Vec::new();
        for step in &stack.steps {
            let tier = self.tier(step)?;
            let tier = self.chain("tier", tier);
            rules.push(rule(&step_name(step).to_string(), vec![Expr::Verdict(Verdict::Jump(tier))]));
        }
        rules.push(match stack.end {
            End::Deny => self.deny(&Decider::End),
            End::GoOn => rule(&Decider::End.to_string(), vec![Expr::Counter, Expr::Verdict(Verdict::Accept)]),
        });
        Ok(rules)
    }

    fn tier(&mut self, step: &Step) -> Result<Vec<Rule>, Unrenderable> {
        let mut rules = Vec::new();
        for id in &step.programs {
            let program = self.policy.programs.get(id).ok_or(Unrenderable::Program(*id))?;
            let passes = program.rules.iter().any(|rule| rule.action == Action::Pass);
            if passes && program.force == Force::Enforced {
                rules.extend(self.program(*id, program)?);
                continue;
            }
            let chain = match self.known.get(id) {
                Some(chain) => chain.clone(),
                None => {
                    let rules = self.program(*id, program)?;
                    self.chain("program", rules)
                }
            };
            self.known.insert(*id, chain.clone());
            rules.push(rule(&format!("- {}", owner(&program.owner)), vec![Expr::Verdict(Verdict::Jump(chain))]));
        }
        if step.otherwise == TierDefault::Deny {
            rules.push(self.deny(&step_name(step)));
        }
        Ok(rules)
    }

    fn program(&mut self, id: ProgramId, program: &Program) -> Result<Vec<Rule>, Unrenderable> {
        let policy = self.policy;
        self.rendered.sets.extend(program.sets());
        let kind = |id: SetId| -> Option<SetKind> { policy.sets.get(&id).map(|set| set.kind) };
        let mut matcher = Matcher { kind: &kind, constants: std::mem::take(&mut self.rendered.constants) };
        let mut rules = Vec::new();
        for (index, wanted) in program.rules.iter().enumerate() {
            let decider = Decider::Rule(id, index);
            let then = self.action(wanted.action, program, &decider);
            let id = comment(&format!("{decider} {}", owner(&program.owner)));
            for mut exprs in matcher.ways(wanted)? {
                exprs.extend(then.iter().cloned());
                rules.push(Rule { id: id.clone(), exprs });
            }
        }
        self.rendered.constants = matcher.constants;
        Ok(rules)
    }

    /// What happens to a packet that matches a rule.
    fn action(&mut self, action: Action, program: &Program, decider: &Decider) -> Vec<Expr> {
        let mut exprs = vec![Expr::Counter];
        match (program.force, action) {
            (Force::Staged, Action::Log) => {}
            // Counted; the rest of the program is not asked, as it would not be if it were in force.
            (Force::Staged, _) | (Force::Enforced, Action::Pass) => exprs.push(Expr::Verdict(Verdict::Return)),
            (Force::Enforced, Action::Allow) => exprs.extend(self.allow()),
            (Force::Enforced, Action::Deny) => exprs = self.denial(decider),
            (Force::Enforced, Action::Log) => {
                let log = &self.policy.log;
                exprs.extend(log.rate.map(|rate| limit(rate, log.burst)));
                exprs.push(Expr::Note { prefix: log.prefix_of(&program.owner, COMMENT) });
            }
        }
        exprs
    }

    fn allow(&self) -> Vec<Expr> {
        let accept = Expr::Verdict(Verdict::Accept);
        let mark = [
            Expr::Meta { key: Meta::Mark, to: Reg::R1 },
            Expr::Bitwise {
                reg: Reg::R1,
                mask: (!HOST_ALLOWED).to_ne_bytes().to_vec(),
                xor: HOST_ALLOWED.to_ne_bytes().to_vec(),
            },
            Expr::SetMeta { key: Meta::Mark, from: Reg::R1 },
        ];
        match self.stage {
            Stage::Filter => vec![accept],
            Stage::BeforeDnat => mark.into_iter().chain([accept]).collect(),
            Stage::Untracked => [Expr::Untrack].into_iter().chain(mark).chain([accept]).collect(),
        }
    }

    fn deny(&mut self, decider: &Decider) -> Rule {
        rule(&decider.to_string(), self.denial(decider))
    }

    fn denial(&mut self, decider: &Decider) -> Vec<Expr> {
        let verdict = match (self.policy.deny, self.stage) {
            (DenyAction::Reject, Stage::Filter) => Verdict::Goto(REFUSE.to_owned()),
            _ => Verdict::Drop,
        };
        let prefix = comment(&decider.to_string());
        let (rate, burst) = DENIED_RATE;
        let offer = vec![Expr::Limit { rate, seconds: 1, burst }, Expr::Log { group: DENIED_GROUP, prefix }];
        let chain = self.chain("denial", vec![rule("offer", offer), rule("deny", vec![Expr::Verdict(verdict)])]);
        vec![Expr::Counter, Expr::Verdict(Verdict::Goto(chain))]
    }
}

fn step_name(step: &Step) -> Decider {
    match &step.name {
        StepName::Tier(name) => Decider::Tier(name.clone()),
        StepName::Profiles => Decider::Profiles,
    }
}

fn limit(rate: Rate, burst: u32) -> Expr {
    Expr::Limit { rate: rate.packets.into(), seconds: rate.per.as_secs(), burst }
}

fn rule(id: &str, exprs: Vec<Expr>) -> Rule {
    Rule { id: comment(id), exprs }
}

/// As much of a text as fits.
fn comment(text: &str) -> String {
    let end = (0..=COMMENT.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}

pub(super) fn owner(owner: &Owner) -> String {
    match owner {
        Owner::Policy { tier, key } => format!("{key} tier {tier}"),
        Owner::Profile(name) => format!("Profile/{name}"),
        Owner::MissingProfile(name) => format!("Profile/{name}, which is missing"),
        Owner::Unusable { key, .. } => format!("{key}, which is unusable"),
    }
}

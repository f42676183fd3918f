//! Programs and stacks as chains (pure).
//!
//! ```text
//! stack-X: jump tier-A; jump tier-B; drop (or accept)
//! tier-A:  jump program-P; rules of Q, which may pass; drop (or nothing: the next tier is asked)
//! program-P: rules: accept, drop; those for certain ports in chains of their own, see `cases`
//! ```
//!
//! * Allow is `accept`: it ends the base chain from which the stack was asked, and no other. A program that stays silent
//!   returns to its tier; a tier that does, to its stack.
//! * Pass is `return` from the tier, so a program that has it stands in the tier itself; all others are one chain for
//!   everybody. So the depth of jumps is the same for any number of tiers (the kernel allows 16, and counts goto, too).
//! * A chain is named by its content as the kernel shows it: reading one back shows whether it is right, nothing in it
//!   is ever changed, and what is no longer referred to is deleted. Not so a program's: it keeps its name when its rules are
//!   replaced, so that an edit changes no chain of a stack, of which a host may have hundreds that ask the program.
//! * A rule that is too large for the kernel goes on in a chain of its own (`part`), see [`super::split`]; if it returns, so
//!   does what follows it.
//! * Every rule that decides has a counter and, as the first word of its comment, a [`Decider`]. Some of the packets that a
//!   rule denies ([`DENIED_RATE`]) are also offered to the NFLOG group [`DENIED_GROUP`]: in a chain of its own, since a limit
//!   that is reached ends the rule that it stands in.

use super::cases::{self, Part};
use super::matching::{Constants, Matcher, Shape, UnknownSet, set_name};
use super::split;
use super::verdict::Decider;
use crate::nft::expr::{Expr, Meta, Reg, Verdict};
use crate::nft::ruleset::{Rule, Set};
use crate::nft::skeleton::{self, HOST_ALLOWED};
use lasthop_net::Family;
use lasthop_policy::ir::{
    self, Action, DenyAction, Digest, End, Force, HostPolicy, Owner, Program, ProgramId, Rate, SetId, Stack, StackId,
    Step, StepName, TierDefault,
};
use std::collections::BTreeSet;

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

/// Something named by its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::nft) enum Thing {
    Fixed(Set),
    Chain(Vec<Rule>),
}

/// A stack without its programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::nft) struct Rendered {
    /// The stack's chain.
    pub(in crate::nft) chain: String,
    /// The chains of its tiers and its own, in the order in which they can be made once its programs are.
    pub(in crate::nft) things: Vec<(String, Thing)>,
}

/// A program as it is asked at a stage.
pub(in crate::nft) type PieceKey = (ProgramId, Stage);

/// A program, rendered: what has to be known of it as long as it is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::nft) struct Piece {
    pub(in crate::nft) home: Home,
    /// The chains and sets that it needs, its own included.
    pub(in crate::nft) names: BTreeSet<String>,
    /// Sets of members among them.
    pub(in crate::nft) sets: BTreeSet<SetId>,
}

/// Where a program's rules are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::nft) enum Home {
    /// In a chain of their own, which is named by the program and keeps its name when its content changes.
    Chain { name: String, content: Digest },
    /// In the tier itself.
    Tier(Vec<Rule>),
}

/// What a program consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::nft) struct Parts {
    /// Chains and sets of fixed content, in the order in which they can be made.
    pub(in crate::nft) things: Vec<(String, Thing)>,
    /// The rules of its own chain.
    pub(in crate::nft) rules: Vec<Rule>,
}

/// The rules that match and decide about packets.
struct Renderer<'a> {
    policy: &'a HostPolicy,
    stage: Stage,
    things: Vec<(String, Thing)>,
    names: BTreeSet<String>,
}

impl<'a> Renderer<'a> {
    fn new(policy: &'a HostPolicy, stage: Stage) -> Self {
        Self { policy, stage, things: Vec::new(), names: BTreeSet::new() }
    }
}

/// Renders a stack whose programs are rendered.
pub(in crate::nft) fn stack<'a>(
    (id, stage): (StackId, Stage),
    policy: &HostPolicy,
    piece: impl Fn(ProgramId) -> Result<&'a Piece, Unrenderable>,
) -> Result<Rendered, Unrenderable> {
    let stack = policy.stacks.get(&id).ok_or(Unrenderable::Stack(id))?;
    let mut renderer = Renderer::new(policy, stage);
    let rules = renderer.stack(stack, &piece)?;
    let chain = renderer.chain("stack", rules);
    Ok(Rendered { chain, things: renderer.things })
}

/// Renders a program.
pub(in crate::nft) fn piece((id, stage): PieceKey, policy: &HostPolicy) -> Result<(Piece, Parts), Unrenderable> {
    let program = policy.programs.get(&id).ok_or(Unrenderable::Program(id))?;
    Renderer::new(policy, stage).piece(id, program)
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

/// What chains' names begin with.
pub(in crate::nft) const CHAIN_KINDS: [&str; 6] = ["stack", "tier", PROGRAM, "case", "denial", "part"];
/// What those begin with that are not named by what they hold.
const PROGRAM: &str = "program";

/// A chain's name: what it holds.
pub(in crate::nft) fn chain_name(kind: &str, rules: &Vec<Rule>) -> String {
    format!("{kind}-{}", Digest::of(rules))
}

/// What a chain of this name, which is one of those made here, turns out to be.
pub(in crate::nft) fn examine(name: &str, rules: &Vec<Rule>) -> Found {
    match name.split_once('-') {
        Some((PROGRAM, _)) => Found::Program(Digest::of(rules)),
        Some((kind, _)) if chain_name(kind, rules) == name => Found::Intact,
        _ => Found::Damaged,
    }
}

/// A chain that was read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nft) enum Found {
    /// It holds what its name says.
    Intact,
    /// It does not.
    Damaged,
    /// It holds a program, as of this content.
    Program(Digest),
}

impl Renderer<'_> {
    fn chain(&mut self, kind: &str, rules: Vec<Rule>) -> String {
        let rules = self.divide(rules);
        let name = chain_name(kind, &rules);
        if self.names.insert(name.clone()) {
            self.things.push((name.clone(), Thing::Chain(rules)));
        }
        name
    }

    /// Rules that the kernel takes, for rules some of which may be too large.
    fn divide(&mut self, rules: Vec<Rule>) -> Vec<Rule> {
        let mut divided = Vec::with_capacity(rules.len());
        let mut rules = rules.into_iter();
        while let Some(rule) = rules.next() {
            let Some(split::Parts { front, unless, then }) = split::parts(&rule) else {
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

    fn stack<'a>(
        &mut self,
        stack: &Stack,
        piece: &impl Fn(ProgramId) -> Result<&'a Piece, Unrenderable>,
    ) -> Result<Vec<Rule>, Unrenderable> {
        let mut rules = Vec::new();
        for step in &stack.steps {
            let tier = self.tier(step, piece)?;
            let tier = self.chain("tier", tier);
            rules.push(rule(&step_name(step).to_string(), vec![Expr::Verdict(Verdict::Jump(tier))]));
        }
        rules.push(match stack.end {
            End::Deny => self.deny(&Decider::End),
            End::GoOn => rule(&Decider::End.to_string(), vec![Expr::Counter, Expr::Verdict(Verdict::Accept)]),
        });
        Ok(rules)
    }

    fn tier<'a>(
        &mut self,
        step: &Step,
        piece: &impl Fn(ProgramId) -> Result<&'a Piece, Unrenderable>,
    ) -> Result<Vec<Rule>, Unrenderable> {
        let mut rules = Vec::new();
        for id in &step.programs {
            let program = self.policy.programs.get(id).ok_or(Unrenderable::Program(*id))?;
            match &piece(*id)?.home {
                Home::Tier(of_program) => rules.extend(of_program.iter().cloned()),
                Home::Chain { name, .. } => {
                    let jump = Expr::Verdict(Verdict::Jump(name.clone()));
                    rules.push(rule(&format!("- {}", owner(&program.owner)), vec![jump]));
                }
            }
        }
        if step.otherwise == TierDefault::Deny {
            rules.push(self.deny(&step_name(step)));
        }
        Ok(rules)
    }

    fn piece(mut self, id: ProgramId, program: &Program) -> Result<(Piece, Parts), Unrenderable> {
        let rules = self.program(id, program)?;
        let passes = program.rules.iter().any(|rule| rule.action == Action::Pass);
        let (home, rules) = if passes && program.force == Force::Enforced {
            (Home::Tier(rules), Vec::new())
        } else {
            let rules = self.divide(rules);
            let name = format!("{PROGRAM}-{}", Digest::of(&(id, self.stage)));
            self.names.insert(name.clone());
            (Home::Chain { name, content: Digest::of(&rules) }, rules)
        };
        let sets: BTreeSet<SetId> = program.sets().collect();
        let mut names = self.names;
        for id in &sets {
            let kind = self.policy.sets.get(id).ok_or(UnknownSet(*id))?.kind;
            names.extend(Family::ALL.map(|family| set_name(*id, kind, family)));
        }
        Ok((Piece { home, names, sets }, Parts { things: self.things, rules }))
    }

    fn program(&mut self, id: ProgramId, program: &Program) -> Result<Vec<Rule>, Unrenderable> {
        let policy = self.policy;
        let shape = |id: SetId| -> Option<Shape> { policy.sets.get(&id).map(Shape::of) };
        let mut matcher = Matcher { shape: &shape, constants: Constants::new() };
        let ways = |renderer: &mut Self, matcher: &mut Matcher<'_>, index: usize, wanted: &ir::Rule| {
            let decider = Decider::Rule(id, index);
            let then = renderer.action(wanted.action, program, &decider);
            let id = comment(&format!("{decider} {}", owner(&program.owner)));
            let written = |exprs: Vec<Expr>| Rule { id: id.clone(), exprs: [exprs, then.clone()].concat() };
            Ok::<_, UnknownSet>(matcher.ways(wanted)?.into_iter().map(written).collect::<Vec<_>>())
        };
        let mut rules = Vec::new();
        for part in cases::parts(program) {
            match part {
                Part::Alone((index, wanted)) => rules.extend(ways(self, &mut matcher, index, wanted)?),
                Part::Run(run) => {
                    for group in run {
                        let mut of_case = Vec::new();
                        for (index, wanted) in group.rules {
                            of_case.extend(ways(self, &mut matcher, index, wanted)?);
                        }
                        let mut exprs = matcher.is_among(&group.cases);
                        exprs.push(Expr::Verdict(Verdict::Jump(self.chain("case", of_case))));
                        rules.push(rule("- cases", exprs));
                    }
                }
            }
        }
        self.names.extend(matcher.constants.keys().cloned());
        let constants = matcher.constants.into_iter().map(|(name, set)| (name, Thing::Fixed(set)));
        self.things.splice(0..0, constants);
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
        let prefix = comment(&decider.to_string());
        let (rate, burst) = DENIED_RATE;
        let offer = vec![Expr::Limit { rate, seconds: 1, burst }, Expr::Log { group: DENIED_GROUP, prefix }];
        let mut rules = vec![rule("offer", offer)];
        rules.extend(match (self.policy.deny, self.stage) {
            (DenyAction::Reject, Stage::Filter) => skeleton::refuse(),
            _ => vec![rule("deny", vec![Expr::Verdict(Verdict::Drop)])],
        });
        let chain = self.chain("denial", rules);
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

//! Stacks and programs in use, what they need, and what of that is to be made.

use super::matching::Shape;
use super::render::{self, Home, Parts, Piece, PieceKey, Stage, Thing, Unrenderable};
use super::unit::{self, Broken, Unit};
use super::{Pass, Programs};
use crate::Error;
use crate::nft::Verdict;
use lasthop_policy::ir::{Program, StackId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A stack as it is asked at a stage.
pub(super) type StackKey = (StackId, Stage);

/// A stack in use.
#[derive(Debug)]
pub(super) struct Held {
    /// Its chain; or why it cannot be had.
    pub(super) chain: Result<String, Error>,
    /// Its own chains.
    pub(super) names: BTreeSet<String>,
    /// Its programs.
    pub(super) programs: BTreeSet<PieceKey>,
}

/// A program in use.
#[derive(Debug)]
pub(super) struct Used {
    program: Option<Arc<Program>>,
    pub(super) piece: Result<Piece, Unrenderable>,
    /// How many stacks have it.
    users: usize,
}

impl Used {
    /// Chains and sets that it needs, its own included.
    fn names(&self) -> impl Iterator<Item = &String> {
        self.piece.iter().flat_map(|piece| &piece.names)
    }
}

impl Programs {
    /// Renders programs again that are not as they were rendered; the stacks for which that is not enough.
    pub(super) fn renew(&mut self, pass: &mut Pass<'_>, is_stale: impl Fn(&Used) -> bool) -> BTreeSet<StackKey> {
        let Pass { policy, everything, .. } = *pass;
        let stale = |(key, used): (&PieceKey, &Used)| {
            let other = used.program.as_ref() != policy.programs.get(&key.0) || used.piece.is_err();
            (other || is_stale(used) || (everything && self.lacks_part(used))).then_some(*key)
        };
        let stale: Vec<PieceKey> = self.used.iter().filter_map(stale).collect();
        let mut moved = BTreeSet::new();
        for key in stale {
            let piece = self.render(key, pass);
            let Some(used) = self.used.get_mut(&key) else { continue };
            used.program = policy.programs.get(&key.0).cloned();
            let before = std::mem::replace(&mut used.piece, piece);
            used.piece.iter().for_each(|piece| self.needed.add(&piece.names));
            before.iter().for_each(|piece| self.needed.remove(&piece.names));
            if !is_same_to_stacks(&before, &used.piece) {
                moved.insert(key);
            }
        }
        if moved.is_empty() {
            return BTreeSet::new();
        }
        let concerned = self.held.iter().filter(|(_, held)| !held.programs.is_disjoint(&moved));
        concerned.map(|(key, _)| *key).collect()
    }

    /// Renders a program; what of it is not there yet is to be made.
    fn render(&mut self, key: PieceKey, pass: &mut Pass<'_>) -> Result<Piece, Unrenderable> {
        let (piece, Parts { things, rules }) = render::piece(key, pass.policy)?;
        self.shapes.extend(piece.sets.iter().filter_map(|id| Some((*id, Shape::of(pass.policy.sets.get(id)?)))));
        self.plan(&things, pass);
        if let Home::Chain { name, content } = &piece.home {
            let write = |there: bool| Unit::program((name.clone(), *content), &rules, there);
            match self.actual.programs.get(name) {
                None => pass.units.extend(pass.planned.insert(name.clone()).then(|| write(false))),
                Some(there) if there != content => pass.replaced.push(write(true)),
                Some(_) => {}
            }
        }
        Ok(piece)
    }

    /// Renders a stack, and those of its programs that no other has; what of it is not there yet is to be made.
    pub(super) fn hold(&mut self, key: StackKey, pass: &mut Pass<'_>) {
        let (policy, stage) = (pass.policy, key.1);
        let steps = policy.stacks.get(&key.0).into_iter().flat_map(|stack| &stack.steps);
        let programs: BTreeSet<PieceKey> = steps.flat_map(|step| step.programs.iter().map(|id| (*id, stage))).collect();
        for piece in &programs {
            if !self.used.contains_key(piece) {
                let rendered = self.render(*piece, pass);
                rendered.iter().for_each(|piece| self.needed.add(&piece.names));
                let program = policy.programs.get(&piece.0).cloned();
                self.used.insert(*piece, Used { program, piece: rendered, users: 0 });
            }
            self.used.entry(*piece).and_modify(|used| used.users += 1);
        }
        self.let_go(key);
        let piece = |id| match self.used.get(&(id, stage)) {
            Some(used) => used.piece.as_ref().map_err(|why| *why),
            None => Err(Unrenderable::Program(id)),
        };
        let held = match render::stack(key, policy, piece) {
            Err(why) => {
                let chain = Err(Error::Invalid(format!("stack {}: {why}", key.0.0)));
                Held { chain, names: BTreeSet::new(), programs }
            }
            Ok(rendered) => {
                self.plan(&rendered.things, pass);
                if stage == Stage::Filter && !self.actual.stacks.contains_key(&unit::stack_key(key.0)) {
                    pass.units.push(Unit::stack(key.0, &rendered.chain));
                }
                let names = rendered.things.into_iter().map(|(name, _)| name).collect();
                Held { chain: Ok(rendered.chain), names, programs }
            }
        };
        self.needed.add(&held.names);
        self.held.insert(key, held);
    }

    /// A stack is not in use any more.
    pub(super) fn let_go(&mut self, key: StackKey) {
        let Some(held) = self.held.remove(&key) else { return };
        self.needed.remove(&held.names);
        for piece in &held.programs {
            let Some(used) = self.used.get_mut(piece) else { continue };
            used.users -= 1;
            if used.users == 0 {
                used.piece.iter().for_each(|piece| self.needed.remove(&piece.names));
                self.used.remove(piece);
            }
        }
    }

    /// What of these is not there yet is to be made.
    fn plan(&self, things: &[(String, Thing)], pass: &mut Pass<'_>) {
        for (name, thing) in things {
            if self.actual.has(name) || !pass.planned.insert(name.clone()) {
                continue;
            }
            pass.units.push(match thing {
                Thing::Fixed(set) => Unit::constant(name.clone(), set, self.actual.tampered.get(name)),
                Thing::Chain(rules) => Unit::chain(name.clone(), rules, self.actual.damaged.contains(name)),
            });
        }
    }

    /// Whether something of a stack, apart from its programs, is not there.
    pub(super) fn lacks(&self, key: StackKey, held: &Held) -> bool {
        let wanted = held.chain.as_ref().ok().map(|chain| Verdict::Goto(chain.clone()));
        let unknown = key.1 == Stage::Filter && self.actual.stacks.get(&unit::stack_key(key.0)) != Some(&wanted);
        unknown || !held.names.iter().all(|name| self.actual.has(name))
    }

    fn lacks_part(&self, used: &Used) -> bool {
        let other = match used.piece.as_ref().map(|piece| &piece.home) {
            Ok(Home::Chain { name, content }) => self.actual.programs.get(name) != Some(content),
            _ => false,
        };
        other || !used.names().all(|name| self.actual.has(name))
    }

    /// Why a stack is not to be used, if it is not.
    pub(super) fn fault(&self, key: StackKey, broken: &Broken) -> Option<Error> {
        let held = match self.held.get(&key) {
            None => return Some(Error::Invalid(format!("stack {} is not there", key.0.0))),
            Some(Held { chain: Err(error), .. }) => return Some(error.clone()),
            Some(_) if broken.is_empty() => return None,
            Some(held) => held,
        };
        let parts = held.programs.iter().filter_map(|piece| self.used.get(piece)).flat_map(Used::names);
        held.names.iter().chain(parts).find_map(|name| broken.get(name))
    }
}

/// Whether a stack that has a program stays as it is: it names the program's chain, or holds its rules.
fn is_same_to_stacks(before: &Result<Piece, Unrenderable>, now: &Result<Piece, Unrenderable>) -> bool {
    match (before, now) {
        (Ok(before), Ok(now)) => match (&before.home, &now.home) {
            (Home::Chain { name, .. }, Home::Chain { name: other, .. }) => name == other,
            (before, now) => before == now,
        },
        _ => false,
    }
}

/// How many stacks and programs need a chain or set; and which of them nobody does any more.
#[derive(Debug, Default)]
pub(super) struct Needed {
    counts: BTreeMap<String, usize>,
    idle: BTreeSet<String>,
}

impl Needed {
    pub(super) fn has(&self, name: &str) -> bool {
        self.counts.contains_key(name)
    }

    pub(super) fn add(&mut self, names: &BTreeSet<String>) {
        for name in names {
            *self.counts.entry(name.clone()).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, names: &BTreeSet<String>) {
        for name in names {
            match self.counts.get_mut(name) {
                Some(count) if *count > 1 => *count -= 1,
                _ => {
                    self.counts.remove(name);
                    self.idle.insert(name.clone());
                }
            }
        }
    }

    /// What is not needed any more since this was last asked.
    pub(super) fn take_idle(&mut self) -> BTreeSet<String> {
        let mut idle = std::mem::take(&mut self.idle);
        idle.retain(|name| !self.has(name));
        idle
    }
}

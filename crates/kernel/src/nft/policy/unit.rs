//! Things to write, each with what it needs; transactions of many of them, in which a bad one is found and left out.

use super::PolicyKey;
use super::content::{self, Change, Content};
use crate::Error;
use crate::netlink::{Message, Socket};
use crate::nft::TABLE;
use crate::nft::expr::{Expr, Verdict};
use crate::nft::ruleset::{
    Element, Rule, Set as Constant, about_chain, append_rule, change_elements, new_chain, new_set,
};
use crate::nft::skeleton::STACKS;
use crate::nft::wire::Kind;
use lasthop_net::Family;
use lasthop_policy::ir::{Digest, Set, SetId, StackId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Most bytes in one transaction that nothing refers to yet.
const PIECE: usize = 4 << 20;

/// Something to write.
#[derive(Debug)]
pub(super) struct Unit {
    key: PolicyKey,
    /// The chain or set that it makes or changes.
    name: String,
    /// Chains and sets that have to be there.
    needs: BTreeSet<String>,
    pub(super) messages: Vec<Message>,
    pub(super) effect: Effect,
}

/// What the kernel holds once a unit is written.
#[derive(Debug)]
pub(super) enum Effect {
    Chain(String),
    Program(String, Digest),
    Constant(String),
    Members(String, Content),
    Change(String, Change),
    Stack(StackId, String),
}

/// What the kernel refuses, and what needs it.
#[derive(Debug, Default)]
pub(super) struct Broken(BTreeMap<String, (PolicyKey, Error)>);

impl Broken {
    pub(super) fn add(&mut self, key: PolicyKey, name: String, error: Error) {
        self.0.entry(name).or_insert((key, error));
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn get(&self, name: &str) -> Option<Error> {
        self.0.get(name).map(|(_, error)| error.clone())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn errors(self) -> impl Iterator<Item = (PolicyKey, Error)> {
        self.0.into_values()
    }
}

/// What rules refer to.
pub(super) fn references(rules: &[Rule]) -> BTreeSet<String> {
    let of = |expr: &Expr| match expr {
        Expr::Lookup { set, .. } => Some(set.clone()),
        Expr::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain)) => Some(chain.clone()),
        _ => None,
    };
    rules.iter().flat_map(|rule| &rule.exprs).filter_map(of).collect()
}

impl Unit {
    /// A set with its members.
    pub(super) fn members(id: SetId, name: String, set: &Set, family: Family) -> Self {
        let content = Content::of(set, family);
        let mut messages = vec![new_set(TABLE, &name, &content::spec(set.kind, family), 1)];
        messages.extend(change_elements(Kind::NewElement, TABLE, &name, &content.elements()));
        Self {
            key: PolicyKey::Set(id),
            needs: BTreeSet::new(),
            messages,
            effect: Effect::Members(name.clone(), content),
            name,
        }
    }

    /// Members that leave and come.
    pub(super) fn change(id: SetId, name: String, change: Change) -> Self {
        let mut messages = change_elements(Kind::DelElement, TABLE, &name, &change.leaving());
        messages.extend(change_elements(Kind::NewElement, TABLE, &name, &change.coming()));
        Self {
            key: PolicyKey::Set(id),
            needs: BTreeSet::new(),
            messages,
            effect: Effect::Change(name.clone(), change),
            name,
        }
    }

    /// A set of fixed content; if there is one of its name, it holds `before`.
    pub(super) fn constant(name: String, set: &Constant, before: Option<&BTreeSet<Element>>) -> Self {
        let mut messages = match before {
            Some(before) => change_elements(Kind::DelElement, TABLE, &name, before),
            None => vec![new_set(TABLE, &name, &set.spec, 1)],
        };
        messages.extend(change_elements(Kind::NewElement, TABLE, &name, set.elements.iter().flatten()));
        Self {
            key: PolicyKey::Part(name.clone()),
            needs: BTreeSet::new(),
            messages,
            effect: Effect::Constant(name.clone()),
            name,
        }
    }

    /// A chain; if one of its name is `there`, its rules are replaced.
    pub(super) fn chain(name: String, rules: &[Rule], there: bool) -> Self {
        let first = if there { about_chain(Kind::DelRule, TABLE, &name) } else { new_chain(TABLE, &name, None) };
        let mut messages = vec![first];
        messages.extend(rules.iter().map(|rule| append_rule(TABLE, &name, rule)));
        Self {
            key: PolicyKey::Part(name.clone()),
            needs: references(rules),
            messages,
            effect: Effect::Chain(name.clone()),
            name,
        }
    }

    /// The chain of a program; if it is `there`, its rules are replaced.
    pub(super) fn program((name, content): (String, Digest), rules: &[Rule], there: bool) -> Self {
        Self { effect: Effect::Program(name.clone(), content), ..Self::chain(name, rules, there) }
    }

    /// A stack's chain.
    pub(super) fn stack(id: StackId, chain: &str) -> Self {
        Self {
            key: PolicyKey::Stack(id),
            name: format!("stack {}", id.0),
            needs: BTreeSet::from([chain.to_owned()]),
            messages: change_elements(
                Kind::NewElement,
                TABLE,
                STACKS,
                [&stack_element(id, Some(Verdict::Goto(chain.to_owned())))],
            ),
            effect: Effect::Stack(id, chain.to_owned()),
        }
    }

    /// A stack's chain instead of another one.
    pub(super) fn move_stack(id: StackId, before: Option<Verdict>, chain: &str) -> Self {
        let mut unit = Self::stack(id, chain);
        let gone = stack_element(id, before);
        unit.messages.splice(0..0, change_elements(Kind::DelElement, TABLE, STACKS, [&gone]));
        unit
    }

    fn size(&self) -> usize {
        self.messages.iter().map(|message| message.payload().len() + 16).sum()
    }
}

/// How many bytes these are.
pub(super) fn size(units: &[Unit]) -> usize {
    units.iter().map(Unit::size).sum()
}

/// A stack's key in the map of all stacks.
pub(super) fn stack_key(id: StackId) -> Vec<u8> {
    id.0.0[4..].to_vec()
}

/// A stack's element in the map of all stacks.
pub(super) fn stack_element(id: StackId, verdict: Option<Verdict>) -> Element {
    Element { verdict, ..Element::key(stack_key(id)) }
}

/// Writes units in order, many in a transaction; the effects of those that are in force. What is refused, and what
/// needs it, is added to `broken`.
pub(super) fn carry_out(socket: &mut Socket, units: Vec<Unit>, broken: &mut Broken) -> Vec<Effect> {
    let mut effects = Vec::new();
    let mut pieces: VecDeque<Vec<Unit>> = VecDeque::new();
    let mut size = usize::MAX;
    for unit in units {
        if size > PIECE {
            pieces.push_back(Vec::new());
            size = 0;
        }
        size += unit.size();
        if let Some(piece) = pieces.back_mut() {
            piece.push(unit);
        }
    }
    while let Some(mut piece) = pieces.pop_front() {
        leave_out(&mut piece, broken);
        let messages: Vec<Message> = piece.iter().flat_map(|unit| unit.messages.iter().cloned()).collect();
        let Err(refused) = socket.transaction(&messages, None) else {
            effects.extend(piece.into_iter().map(|unit| unit.effect));
            continue;
        };
        let Some((index, refusal)) = refused.into_iter().min_by_key(|(index, _)| *index) else { continue };
        let mut end = 0;
        let culprit = piece.iter().position(|unit| {
            end += unit.messages.len();
            index < end
        });
        match culprit {
            Some(at) => {
                let unit = piece.remove(at);
                let attempted = attempted(&unit);
                broken.add(unit.key, unit.name, refusal.during(attempted));
                pieces.push_front(piece);
            }
            // The transaction as a whole: the one that is to blame is looked for.
            None if piece.len() == 1 => {
                for unit in piece {
                    let attempted = attempted(&unit);
                    broken.add(unit.key, unit.name, refusal.clone().during(attempted));
                }
            }
            None => {
                let later = piece.split_off(piece.len() / 2);
                pieces.push_front(later);
                pieces.push_front(piece);
            }
        }
    }
    effects
}

/// Leaves out, in order, what needs something that is not to be had, which is then not to be had either.
pub(super) fn leave_out(units: &mut Vec<Unit>, broken: &mut Broken) {
    units.retain(|unit| match unit.needs.iter().find_map(|name| broken.get(name)) {
        Some(error) => {
            broken.add(unit.key.clone(), unit.name.clone(), error);
            false
        }
        None => true,
    });
}

/// What a unit is, in words.
fn attempted(unit: &Unit) -> String {
    match &unit.effect {
        Effect::Chain(name) | Effect::Program(name, _) => format!("write chain {name}"),
        Effect::Constant(name) => format!("make set {name}"),
        Effect::Members(name, _) => format!("make set {name} with its members"),
        Effect::Change(name, _) => format!("change members of set {name}"),
        Effect::Stack(id, _) => format!("make stack {} known", id.0),
    }
}

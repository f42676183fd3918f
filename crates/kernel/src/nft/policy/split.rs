//! Rules that ask for more than the kernel takes in one: 4,096 bytes of expressions, 128 of them (nf_tables_newrule in
//! net/netfilter/nf_tables_api.c).
//!
//! ```text
//! a and b and c and d: verdict   ─▶   a and b: jump part
//!                                     part: not c: return
//!                                           not d: return
//!                                           verdict
//! ```
//!
//! One chain holds any number of questions, so the depth of jumps is one more, however large the rule. A question whose
//! field a packet may not have is asked without "not" at least once, in front: else its absence would count as "yes".

use crate::nft::expr::{Compare, Expr, Find};
use crate::nft::ruleset::Rule;

/// Bytes of expressions that the kernel takes in a rule.
const BYTES: usize = 4096;
/// Expressions that the kernel takes in a rule.
const COUNT: usize = 128;
/// Most bytes of an expression that we write.
const LARGEST: usize = 72;
/// Bytes of what asks in front of a jump.
const FRONT: usize = 1024;

/// A rule that is too large, in two.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// What is asked in front.
    pub(super) front: Vec<Expr>,
    /// What a packet that does not match does; each alone.
    pub(super) unless: Vec<Vec<Expr>>,
    /// What becomes of a packet that matches.
    pub(super) then: Vec<Expr>,
}

/// How many bytes the kernel needs, or somewhat more.
fn size(expr: &Expr) -> usize {
    match expr {
        Expr::Payload { .. } | Expr::Meta { .. } => 24,
        Expr::Cmp { .. } => 40,
        Expr::Lookup { .. } => 64,
        _ => LARGEST,
    }
}

fn bytes(exprs: &[Expr]) -> usize {
    exprs.iter().map(size).sum()
}

fn is_load(expr: &Expr) -> bool {
    matches!(expr, Expr::Payload { .. } | Expr::Meta { .. })
}

/// The two parts of a rule; `None` if the kernel takes it as it is.
pub(super) fn parts(rule: &Rule) -> Option<Parts> {
    let exprs = &rule.exprs;
    if exprs.len() <= BYTES / LARGEST || (exprs.len() <= COUNT && bytes(exprs) <= BYTES) {
        return None;
    }
    let at = exprs.iter().position(|expr| matches!(expr, Expr::Counter | Expr::Verdict(_))).unwrap_or(exprs.len());
    let (questions, then) = exprs.split_at(at);
    let mut parts = Parts { front: Vec::new(), unless: Vec::new(), then: then.to_vec() };
    let mut loaded: Vec<&[Expr]> = Vec::new();
    // A question is what is loaded and what is asked of it.
    for question in questions.chunk_by(|before, next| is_load(before) || !is_load(next)) {
        let load = &question[..question.len() - 1];
        let known = loaded.contains(&load);
        match not(question) {
            Some(not) if known && bytes(&parts.front) > FRONT => parts.unless.push(not),
            _ => {
                loaded.push(load);
                parts.front.extend_from_slice(question);
            }
        }
    }
    Some(parts)
}

/// The opposite of a question; `None` if it is more than one.
fn not(question: &[Expr]) -> Option<Vec<Expr>> {
    let (asked, load) = question.split_last()?;
    let opposite = match asked {
        Expr::Lookup { set, from, find } => {
            let find = match find {
                Find::Present => Find::Absent,
                Find::Absent => Find::Present,
                Find::Verdict | Find::Value(_) => return None,
            };
            Expr::Lookup { set: set.clone(), from: *from, find }
        }
        Expr::Cmp { op, from, value } => {
            let op = match op {
                Compare::Eq => Compare::Ne,
                Compare::Ne => Compare::Eq,
                _ => return None,
            };
            Expr::Cmp { op, from: *from, value: value.clone() }
        }
        _ => return None,
    };
    load.iter().all(|expr| is_load(expr) || matches!(expr, Expr::Bitwise { .. })).then(|| [load, &[opposite]].concat())
}

//! The difference between what a family's tables hold and what they ought to, as one input of `iptables-restore --noflush`.
//!
//! * A chain that differs is written anew; a chain that is right is not in the batch, so its counters go on.
//! * Each table of a batch is one step of the kernel's: a packet meets its rules from before or from after.
//! * Our call stands first in its base chain, and once.

use super::rule::{Chain, Chains, Hook, Rule, Table, Target};
use super::save::{Actual, Call};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

/// What a line of a batch is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Concerns {
    /// Writes this chain.
    Chain(Table, String),
    /// Deletes this chain.
    Gone(Table, String),
    /// The call from this base chain.
    Call(Table, String),
    /// Begins or ends a table.
    Frame,
}

/// An input of `iptables-restore`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) text: String,
    /// For each line what it is about.
    pub(super) lines: Vec<Concerns>,
}

impl Batch {
    fn line(&mut self, concerns: Concerns, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
        self.lines.push(concerns);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The chains and calls that it changes, in words.
    pub(super) fn in_words(&self) -> Vec<String> {
        let concerns: BTreeSet<&Concerns> = self.lines.iter().collect();
        concerns.into_iter().filter_map(Concerns::in_words).collect()
    }

    /// What the line of this number, from 1, is about.
    pub(super) fn concerns(&self, line: Option<usize>) -> &Concerns {
        line.and_then(|line| self.lines.get(line.checked_sub(1)?)).unwrap_or(&Concerns::Frame)
    }
}

impl Concerns {
    pub(super) fn in_words(&self) -> Option<String> {
        match self {
            Self::Chain(table, name) => Some(format!("chain {name} of table {table} written")),
            Self::Gone(table, name) => Some(format!("chain {name} of table {table} deleted")),
            Self::Call(table, base) => Some(format!("call from {base} of table {table} put first")),
            Self::Frame => None,
        }
    }
}

/// What ought to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) chains: &'a Chains,
    pub(super) hooks: &'a [Hook],
    /// Chains that stay although they are not among `chains`.
    pub(super) spared: &'a BTreeSet<(Table, String)>,
}

/// The rule of a base chain that calls ours.
fn call_rule(hook: &Hook) -> Rule {
    Rule::new("hook", "", Target::Jump(hook.ours.to_owned()))
}

/// The call that a base chain ought to hold, first.
pub(super) fn call(hooks: &[Hook], table: Table, base: &str) -> Option<Call> {
    let hook = hooks.iter().find(|hook| hook.table == table && hook.base == base)?;
    Some(Call { place: 1, ours: hook.ours.to_owned(), comment: call_rule(hook).comment(base) })
}

/// The batch that makes `actual` as wanted; empty if it is.
pub(super) fn plan(actual: &Actual, wanted: &Wanted<'_>) -> Batch {
    let mut batch = Batch::default();
    for table in Table::ALL {
        let mut body = Batch::default();
        of_table(table, actual, wanted, &mut body);
        if !body.is_empty() {
            batch.line(Concerns::Frame, &format!("*{table}"));
            batch.text.push_str(&body.text);
            batch.lines.append(&mut body.lines);
            batch.line(Concerns::Frame, "COMMIT");
        }
    }
    batch
}

fn of_table(table: Table, actual: &Actual, wanted: &Wanted<'_>, batch: &mut Batch) {
    let of = |(key, _): &(&(Table, String), &Arc<Chain>)| key.0 == table;
    let mut written = Vec::new();
    for ((_, name), rules) in wanted.chains.iter().filter(of) {
        let there = actual.chains.get(&(table, name.clone()));
        let same = there.is_some_and(|seen| seen.iter().map(|s| &s.comment).eq(&rules.comments));
        if !same {
            written.push((name, rules));
        }
    }
    let stays = |key: &(Table, String)| wanted.chains.contains_key(key) || wanted.spared.contains(key);
    let gone: Vec<&String> =
        actual.chains.keys().filter(|key| key.0 == table && !stays(key)).map(|(_, name)| name).collect();
    for (name, _) in &written {
        batch.line(Concerns::Chain(table, (*name).clone()), &format!(":{name} - [0:0]"));
    }
    for name in &gone {
        batch.line(Concerns::Gone(table, (*name).clone()), &format!(":{name} - [0:0]"));
    }
    for (name, rules) in written {
        for (rule, comment) in rules.iter().zip(&rules.comments) {
            let mut line = String::with_capacity(160);
            // Writing to a string never fails.
            let _ = write!(line, "-A {name}{}", rule.text(comment));
            batch.line(Concerns::Chain(table, name.clone()), &line);
        }
    }
    calls(table, actual, wanted, batch);
    for name in gone {
        batch.line(Concerns::Gone(table, name.clone()), &format!("-X {name}"));
    }
}

fn calls(table: Table, actual: &Actual, wanted: &Wanted<'_>, batch: &mut Batch) {
    let hooks = wanted.hooks.iter().filter(|hook| hook.table == table);
    let bases: BTreeSet<&str> = hooks
        .clone()
        .map(|hook| hook.base)
        .chain(actual.calls.keys().filter(|key| key.0 == table).map(|key| key.1.as_str()))
        .collect();
    for base in bases {
        let concerns = Concerns::Call(table, base.to_owned());
        let there = actual.calls.get(&(table, base.to_owned())).map_or(&[][..], Vec::as_slice);
        let hook = wanted.hooks.iter().find(|hook| hook.table == table && hook.base == base);
        let right = call(wanted.hooks, table, base);
        if there == right.as_slice() {
            continue;
        }
        // From the last, so that the numbers of those before stay right.
        for call in there.iter().rev() {
            batch.line(concerns.clone(), &format!("-D {base} {}", call.place));
        }
        if let Some(hook) = hook {
            let rule = call_rule(hook);
            batch.line(concerns, &format!("-I {base} 1{}", rule.text(&rule.comment(base))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::save;
    use super::*;

    const HOOKS: [Hook; 1] = [Hook { table: Table::Filter, base: "FORWARD", ours: "LASTHOP-FORWARD" }];

    fn chains(rules: &[&str]) -> Chains {
        let rules = rules.iter().map(|matches| Rule::new("x", *matches, Target::Drop)).collect();
        Chains::from([((Table::Filter, "LASTHOP-FORWARD".to_owned()), Chain::new("LASTHOP-FORWARD", rules))])
    }

    fn planned(saved: &str, chains: &Chains, hooks: &[Hook]) -> Vec<String> {
        let spared = BTreeSet::from([(Table::Filter, "LASTHOP-spared".to_owned())]);
        let batch = plan(&save::parse(saved), &Wanted { chains, hooks, spared: &spared });
        assert_eq!(batch.text.lines().count(), batch.lines.len());
        batch.text.lines().map(|line| line.split(" -m comment").next().unwrap_or_default().to_owned()).collect()
    }

    /// What `iptables-save` shows once this is in place.
    fn saved(chains: &Chains, hooks: &[Hook], before: &str) -> String {
        let mut text = "*filter\n".to_owned();
        for hook in hooks {
            let rule = call_rule(hook);
            text += &format!("{before}[0:0] -A {}{}\n", hook.base, rule.text(&rule.comment(hook.base)));
        }
        for ((_, name), rules) in chains {
            text += &format!(":{name} - [0:0]\n");
            for rule in rules.iter() {
                text += &format!("[0:0] -A {name}{}\n", rule.text(&rule.comment(name)));
            }
        }
        text + "COMMIT\n"
    }

    #[test]
    fn from_nothing_everything_is_written_and_then_nothing() {
        let wanted = chains(&["-i a", "-i b"]);
        let lines = [
            "*filter",
            ":LASTHOP-FORWARD - [0:0]",
            "-A LASTHOP-FORWARD -i a",
            "-A LASTHOP-FORWARD -i b",
            "-I FORWARD 1",
            "COMMIT",
        ];
        assert_eq!(planned("", &wanted, &HOOKS), lines);
        assert_eq!(planned(&saved(&wanted, &HOOKS, ""), &wanted, &HOOKS), [""; 0]);
    }

    #[test]
    fn only_what_differs_is_written() {
        let wanted = chains(&["-i a", "-i b"]);
        for there in [chains(&["-i b", "-i a"]), chains(&["-i a"]), chains(&["-i a", "-i b", "-i c"])] {
            let lines = planned(&saved(&there, &HOOKS, ""), &wanted, &HOOKS);
            assert_eq!(lines.len(), 5, "{lines:?}");
        }
        let pushed_down = saved(&wanted, &HOOKS, "[0:0] -A FORWARD -j DOCKER\n");
        assert_eq!(planned(&pushed_down, &wanted, &HOOKS), ["*filter", "-D FORWARD 2", "-I FORWARD 1", "COMMIT"]);
        let mut extra = wanted.clone();
        for name in ["LASTHOP-old", "LASTHOP-spared"] {
            extra.insert((Table::Filter, name.to_owned()), Chain::new(name, Vec::new()));
        }
        let lines = planned(&saved(&extra, &HOOKS, ""), &wanted, &HOOKS);
        assert_eq!(lines, ["*filter", ":LASTHOP-old - [0:0]", "-X LASTHOP-old", "COMMIT"]);
        let lines = planned(&saved(&wanted, &HOOKS, ""), &Chains::new(), &[]);
        let all = ["*filter", ":LASTHOP-FORWARD - [0:0]", "-D FORWARD 1", "-X LASTHOP-FORWARD", "COMMIT"];
        assert_eq!(lines, all);
    }
}

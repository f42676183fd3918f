//! Chains as data: what a rule is, and the name by which it is known again.
//!
//! A rule's comment is `lh:<id>:<hash>`. The id says what it is for (a skeleton rule's name, or `<program>:<index>`), and
//! counters are kept under it; the hash covers chain and text, so a rule that a program rewrote differently is not
//! mistaken for ours.

use lasthop_policy::ir::Digest;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Begins the name of every chain of ours.
pub const CHAIN_PREFIX: &str = "LASTHOP-";
/// Begins the comment of every rule of ours.
pub(super) const COMMENT_PREFIX: &str = "lh:";

/// A table, in the order in which its batch is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Before connection tracking.
    Raw,
    /// Before the destination is translated.
    Mangle,
    /// Translation.
    Nat,
    /// Policy.
    Filter,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Mangle, Self::Nat, Self::Filter];

    /// As iptables calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a rule does with a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// Only counts it.
    Count,
    /// Calls a chain: what falls off its end, or returns, comes back behind this rule.
    Jump(String),
    /// Continues in a chain: what falls off its end comes back where this chain was called.
    Goto(String),
    /// Back to where this chain was called.
    Return,
    /// Ends the base chain: the packet passes this table.
    Accept,
    /// Gone.
    Drop,
    /// Any other, with its options.
    Other(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count => Ok(()),
            Self::Jump(chain) => write!(f, " -j {chain}"),
            Self::Goto(chain) => write!(f, " -g {chain}"),
            Self::Return => f.write_str(" -j RETURN"),
            Self::Accept => f.write_str(" -j ACCEPT"),
            Self::Drop => f.write_str(" -j DROP"),
            Self::Other(text) => write!(f, " -j {text}"),
        }
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rule {
    /// What it is for; counters go by it.
    pub id: String,
    /// What it matches, each match led by a space; empty: everything.
    pub matches: String,
    /// What becomes of a packet that it matches.
    pub target: Target,
}

impl Rule {
    pub(super) fn new(id: impl Into<String>, matches: impl AsRef<str>, target: Target) -> Self {
        let matches = matches.as_ref();
        let space = if matches.is_empty() || matches.starts_with(' ') { "" } else { " " };
        Self { id: id.into(), matches: format!("{space}{matches}"), target }
    }

    /// Its comment in a chain.
    pub(super) fn comment(&self, chain: &str) -> String {
        let Digest(bytes) = Digest::of(&(chain, &self.matches, &self.target));
        format!("{COMMENT_PREFIX}{}:{}", self.id, &base32(&bytes)[..10])
    }

    /// As `iptables-restore` reads it, without the command.
    pub(super) fn text(&self, comment: &str) -> String {
        format!("{} -m comment --comment \"{comment}\"{}", self.matches, self.target)
    }
}

/// The rules of a chain, and the comments by which they are compared.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chain {
    rules: Vec<Rule>,
    pub(super) comments: Vec<String>,
}

impl Chain {
    pub(super) fn new(name: &str, rules: Vec<Rule>) -> Arc<Self> {
        let comments = rules.iter().map(|rule| rule.comment(name)).collect();
        Arc::new(Self { rules, comments })
    }
}

impl Deref for Chain {
    type Target = [Rule];

    fn deref(&self) -> &[Rule] {
        &self.rules
    }
}

/// Chains of ours by table and name.
pub(super) type Chains = BTreeMap<(Table, String), Arc<Chain>>;

/// A base chain from which ours are called: table, base chain, our chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hook {
    pub(super) table: Table,
    pub(super) base: &'static str,
    pub(super) ours: &'static str,
}

/// Lower-case base 32 (RFC 4648 section 6, without padding): 26 characters for a digest.
pub(super) fn base32(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut held, mut bits) = (0u32, 0u32);
    for byte in bytes {
        held = held << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(LETTERS[(held >> bits) as usize & 31]));
        }
        held &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(char::from(LETTERS[(held << (5 - bits)) as usize & 31]));
    }
    text
}

/// The name of a chain by content: `LASTHOP-<kind>-` and 90 bits, 28 characters, as many as iptables takes.
pub(super) fn chain_name(kind: char, Digest(bytes): Digest) -> String {
    format!("{CHAIN_PREFIX}{kind}-{}", &base32(&bytes)[..18])
}

/// What a comment of ours says: the id under which the rule is counted.
pub(super) fn id_of(comment: &str) -> Option<&str> {
    Some(comment.strip_prefix(COMMENT_PREFIX)?.rsplit_once(':')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_long_as_the_kernel_takes() {
        assert_eq!(base32(b"foobar"), "mzxw6ytboi");
        assert_eq!(base32(b""), "");
        let digest = Digest([0xff; 16]);
        assert_eq!(base32(&digest.0).len(), 26);
        assert_eq!(chain_name('p', digest).len(), 28);
    }

    #[test]
    fn a_comment_tells_the_rule_and_where_it_stands() {
        let rule = Rule::new("spoofed", "-i lh+", Target::Drop);
        let comment = rule.comment("LASTHOP-source");
        assert_eq!(id_of(&comment), Some("spoofed"));
        assert_ne!(comment, rule.comment("LASTHOP-other"));
        assert_ne!(comment, Rule::new("spoofed", "-i lh+", Target::Accept).comment("LASTHOP-source"));
        assert_eq!(rule.text(&comment), format!(" -i lh+ -m comment --comment \"{comment}\" -j DROP"));
        let program = Rule::new("0011:7", "", Target::Goto("LASTHOP-x".to_owned())).comment("LASTHOP-y");
        assert_eq!(id_of(&program), Some("0011:7"));
    }
}

//! What names a verdict in the kernel: the first word of a rule's comment, and the prefix of what is sent about denied packets.

use lasthop_policy::ir::{Digest, ProgramId};
use std::fmt;

/// What decided about a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decider {
    /// A rule of a program.
    Rule(ProgramId, usize),
    /// The end of a tier.
    Tier(String),
    /// The end of the profiles.
    Profiles,
    /// The end of a stack.
    End,
}

impl fmt::Display for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(program, index) => write!(f, "{}:{index}", program.0),
            Self::Tier(name) => write!(f, "tier:{name}"),
            Self::Profiles => f.write_str("profiles"),
            Self::End => f.write_str("end"),
        }
    }
}

impl Decider {
    /// Reads the first word of a text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let word = text.split(' ').next()?;
        match word.split_once(':') {
            None if word == "end" => Some(Self::End),
            None if word == "profiles" => Some(Self::Profiles),
            Some(("tier", name)) => Some(Self::Tier(name.to_owned())),
            Some((program, index)) => Some(Self::Rule(ProgramId(digest(program)?), index.parse().ok()?)),
            None => None,
        }
    }
}

/// Reads what [`Digest`] displays.
pub(super) fn digest(text: &str) -> Option<Digest> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 16];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(Digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decider_is_read_as_it_was_written() {
        let program = ProgramId(Digest::of(&7));
        for decider in [
            Decider::Rule(program, 0),
            Decider::Rule(program, 1023),
            Decider::Tier("a.b-c".into()),
            Decider::Profiles,
            Decider::End,
        ] {
            assert_eq!(Decider::parse(&format!("{decider} whatever else")), Some(decider.clone()));
            assert_eq!(Decider::parse(&decider.to_string()), Some(decider));
        }
        for text in ["", "other", "spoofed:", "7:1", "zz000000000000000000000000000000:1"] {
            assert_eq!(Decider::parse(text), None, "{text}");
        }
    }
}

//! What a peering lets in and out (`BGPFilter`).

use lasthop_net::{Asn, Family, Prefix};
use std::str::FromStr;

/// Rules about routes, for peerings to refer to by name. The first rule that matches decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpFilter {
    /// `metadata.name`.
    pub name: String,
    /// About what a peer announces, in order, both families.
    pub import: Vec<FilterRule>,
    /// About what is announced to a peer.
    pub export: Vec<FilterRule>,
}

/// One rule: everything that is said must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterRule {
    /// Where it stands, as a path (`spec.importV4[0]`).
    pub path: String,
    /// Routes of which family.
    pub family: Family,
    /// What becomes of the route.
    pub action: FilterAction,
    /// Which prefixes.
    pub range: Option<RangeMatch>,
    /// Only routes that a peer announced, none of our own.
    pub learned: bool,
    /// Only routes through these interfaces. (Paths have none, so this cannot be honoured.)
    pub interface: Option<String>,
    /// Only in sessions of this kind.
    pub peers: Option<PeerScope>,
    /// Only routes with all of these.
    pub communities: Vec<RouteCommunity>,
    /// Only routes whose AS path begins with these.
    pub as_path: Vec<Asn>,
    /// Only routes of this priority (the kernel's metric).
    pub priority: Option<u32>,
    /// What is changed in a route that is accepted.
    pub operations: Vec<FilterOperation>,
}

/// What becomes of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterAction {
    /// It passes.
    Accept,
    /// It does not.
    Reject,
}

/// Which prefixes a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeMatch {
    /// Compared with this one.
    pub prefix: Prefix,
    /// How.
    pub operator: RangeOperator,
    /// And only of these lengths, both included.
    pub lengths: Option<(u8, u8)>,
}

/// How a prefix is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeOperator {
    /// The same.
    Equal,
    /// Another one.
    NotEqual,
    /// The same, or inside it.
    In,
    /// Neither.
    NotIn,
}

/// A kind of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerScope {
    /// Between two ASes.
    External,
    /// Inside one.
    Internal,
}

/// What is changed in a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterOperation {
    /// It gets a community.
    AddCommunity(RouteCommunity),
    /// These are put in front of its AS path, the first one outermost.
    Prepend(Vec<Asn>),
    /// It gets a priority (the kernel's metric; a lower one is better).
    SetPriority(u32),
}

/// A community as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteCommunity {
    /// `65000:100` (RFC 1997).
    Standard(u32),
    /// `65000:1:2` (RFC 8092).
    Large([u32; 3]),
}

/// A text that is no community.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a BGP community; write 65000:100 (two numbers to 65535) or 65000:1:2 (three to 4294967295)")]
pub struct ParseCommunityError;

impl FromStr for RouteCommunity {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split(':').collect();
        let digits = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !parts.iter().all(digits) {
            return Err(ParseCommunityError);
        }
        let short = |text: &str| text.parse::<u16>().map(u32::from).map_err(|_| ParseCommunityError);
        let long = |text: &str| text.parse::<u32>().map_err(|_| ParseCommunityError);
        match *parts.as_slice() {
            [high, low] => Ok(Self::Standard(short(high)? << 16 | short(low)?)),
            [global, first, second] => Ok(Self::Large([long(global)?, long(first)?, long(second)?])),
            _ => Err(ParseCommunityError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_are_read_as_they_are_written() {
        for (text, expected) in [
            ("65000:100", Ok(RouteCommunity::Standard(65000 << 16 | 100))),
            ("65535:65281", Ok(RouteCommunity::Standard(0xffff_ff01))),
            ("4294967295:1:2", Ok(RouteCommunity::Large([u32::MAX, 1, 2]))),
            ("65536:1", Err(ParseCommunityError)),
            ("1", Err(ParseCommunityError)),
            ("1:2:3:4", Err(ParseCommunityError)),
            ("+1:2", Err(ParseCommunityError)),
            ("", Err(ParseCommunityError)),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }
}

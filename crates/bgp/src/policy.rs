//! Route policy: which paths are accepted from a peer or shown to it, and what is changed in them.
//!
//! Rules are asked in order. A rule that matches makes its changes; one with a verdict ends the walk.
//! Without any policy an internal peer passes everything and an external one nothing (RFC 8212).

use crate::attributes::Attributes;
use crate::wire::update::PeerKind;
use lasthop_net::{Asn, Prefix};
use std::sync::Arc;

/// What passes in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// None is configured: everything passes an internal session, nothing an external one (RFC 8212).
    #[default]
    Missing,
    /// Rules in order, and what becomes of a path that none of them decides.
    Rules(Arc<[Rule]>, Verdict),
}

/// Whether a path passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It does.
    Accept,
    /// It does not.
    Reject,
}

/// One rule: everything that is said must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// What the operator calls it; reasons name it.
    pub name: String,
    /// Which prefixes.
    pub prefix: Option<PrefixMatch>,
    /// And it lies in none of these.
    pub outside: Vec<Prefix>,
    /// Where the path comes from.
    pub source: Option<RouteSource>,
    /// It carries all of these.
    pub communities: Vec<Community>,
    /// Its AS_PATH begins with these (as received; before our own AS is put in front).
    pub as_path: Vec<Asn>,
    /// Its LOCAL_PREF (100 where there is none).
    pub local_pref: Option<u32>,
    /// What is changed where it matches.
    pub changes: Vec<RouteChange>,
    /// Whether the path passes then; `None`: the next rule is asked.
    pub verdict: Option<Verdict>,
}

/// Which prefixes a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PrefixMatch {
    /// Compared with this one.
    pub prefix: Prefix,
    /// How.
    pub operator: PrefixOperator,
    /// And only of these lengths.
    pub lengths: Option<Lengths>,
}

/// How a path's prefix is compared. Prefixes of the other family never match, whatever the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PrefixOperator {
    /// The same.
    Equal,
    /// Another one.
    NotEqual,
    /// The same or inside it.
    In,
    /// Neither.
    NotIn,
}

/// Prefix lengths, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lengths {
    /// The shortest.
    pub min: u8,
    /// The longest.
    pub max: u8,
}

/// Where a path comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteSource {
    /// It is our own.
    Own,
    /// Any peer told us.
    Learned,
    /// An internal peer told us.
    Internal,
    /// An external peer told us.
    External,
}

/// A community of any size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Community {
    /// RFC 1997.
    Standard(u32),
    /// RFC 4360.
    Extended([u8; 8]),
    /// RFC 8092.
    Large([u32; 3]),
}

/// What a rule changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteChange {
    /// Adds a community, once.
    AddCommunity(Community),
    /// Takes a community out.
    RemoveCommunity(Community),
    /// Puts these in front of the AS_PATH, the first one outermost.
    Prepend(Vec<Asn>),
    /// Sets LOCAL_PREF. (Towards an external peer it is not sent.)
    SetLocalPref(u32),
    /// Sets MULTI_EXIT_DISC.
    SetMed(u32),
}

/// A path that passes: the rules whose changes it takes.
pub(crate) type Applied = Vec<u16>;

/// Why a path does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// No policy on an external session.
    Missing,
    /// This rule.
    Rule(u16),
    /// No rule accepted it.
    NoRule,
}

impl Policy {
    /// Everything passes unchanged.
    #[must_use]
    pub fn accept_all() -> Self {
        Self::Rules(Arc::from([]), Verdict::Accept)
    }

    /// Rules in order, with what becomes of the rest.
    #[must_use]
    pub fn new(rules: Vec<Rule>, otherwise: Verdict) -> Self {
        Self::Rules(rules.into(), otherwise)
    }

    pub(crate) fn judge(
        &self,
        peer: PeerKind,
        prefix: Prefix,
        (attributes, source): (&Attributes, Option<PeerKind>),
    ) -> Result<Applied, Blocked> {
        let (rules, otherwise) = match self {
            Self::Missing if peer == PeerKind::External => return Err(Blocked::Missing),
            Self::Missing => return Ok(Vec::new()),
            Self::Rules(rules, otherwise) => (rules, *otherwise),
        };
        let mut applied = Vec::new();
        for (index, rule) in (0u16..).zip(rules.iter()) {
            if !rule.matches(prefix, attributes, source) {
                continue;
            }
            if rule.verdict == Some(Verdict::Reject) {
                return Err(Blocked::Rule(index));
            }
            if !rule.changes.is_empty() {
                applied.push(index);
            }
            if rule.verdict.is_some() {
                return Ok(applied);
            }
        }
        if otherwise == Verdict::Accept { Ok(applied) } else { Err(Blocked::NoRule) }
    }

    /// Makes the changes of the rules that [`Policy::judge`] named.
    pub(crate) fn apply(&self, applied: &[u16], attributes: &mut Attributes) {
        let Self::Rules(rules, _) = self else { return };
        let rules = applied.iter().filter_map(|index| rules.get(usize::from(*index)));
        rules.flat_map(|rule| &rule.changes).for_each(|change| change.make(attributes));
    }

    /// What the operator calls a rule.
    pub(crate) fn name(&self, rule: u16) -> &str {
        match self {
            Self::Rules(rules, _) => rules.get(usize::from(rule)).map(|rule| rule.name.as_str()).unwrap_or_default(),
            Self::Missing => "",
        }
    }
}

impl Rule {
    fn matches(&self, prefix: Prefix, attributes: &Attributes, source: Option<PeerKind>) -> bool {
        self.prefix.is_none_or(|wanted| wanted.matches(prefix))
            && !self.outside.iter().any(|range| range.covers(prefix))
            && self.source.is_none_or(|wanted| match wanted {
                RouteSource::Own => source.is_none(),
                RouteSource::Learned => source.is_some(),
                RouteSource::Internal => source == Some(PeerKind::Internal),
                RouteSource::External => source == Some(PeerKind::External),
            })
            && self.communities.iter().all(|community| community.is_in(attributes))
            && attributes.as_path.asns().take(self.as_path.len()).eq(self.as_path.iter().copied())
            && self
                .local_pref
                .is_none_or(|wanted| wanted == attributes.local_pref.unwrap_or(crate::attributes::DEFAULT_LOCAL_PREF))
    }
}

impl PrefixMatch {
    fn matches(&self, prefix: Prefix) -> bool {
        let holds = match self.operator {
            PrefixOperator::Equal => prefix == self.prefix,
            PrefixOperator::NotEqual => prefix != self.prefix,
            PrefixOperator::In => self.prefix.covers(prefix),
            PrefixOperator::NotIn => !self.prefix.covers(prefix),
        };
        let fits = self.lengths.is_none_or(|lengths| (lengths.min..=lengths.max).contains(&prefix.len()));
        prefix.family() == self.prefix.family() && holds && fits
    }
}

impl Community {
    fn is_in(&self, attributes: &Attributes) -> bool {
        match self {
            Self::Standard(value) => attributes.communities.contains(value),
            Self::Extended(value) => attributes.extended.contains(value),
            Self::Large(value) => attributes.large.contains(value),
        }
    }
}

impl RouteChange {
    fn make(&self, attributes: &mut Attributes) {
        match self {
            Self::AddCommunity(community) if community.is_in(attributes) => {}
            Self::AddCommunity(Community::Standard(value)) => attributes.communities.push(*value),
            Self::AddCommunity(Community::Extended(value)) => attributes.extended.push(*value),
            Self::AddCommunity(Community::Large(value)) => attributes.large.push(*value),
            Self::RemoveCommunity(Community::Standard(value)) => attributes.communities.retain(|c| c != value),
            Self::RemoveCommunity(Community::Extended(value)) => attributes.extended.retain(|c| c != value),
            Self::RemoveCommunity(Community::Large(value)) => attributes.large.retain(|c| c != value),
            Self::Prepend(asns) => asns.iter().rev().for_each(|asn| attributes.as_path.prepend(*asn)),
            Self::SetLocalPref(value) => attributes.local_pref = Some(*value),
            Self::SetMed(value) => attributes.med = Some(*value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::{AsPath, Segment, SegmentKind};

    fn path() -> Attributes {
        let mut attributes = Attributes::bare([10, 0, 0, 1].into());
        let asns = vec![Asn(7), Asn(8)];
        attributes.as_path = AsPath(vec![Segment { kind: SegmentKind::Sequence, asns }]);
        attributes.communities = vec![0xfde8_0001];
        attributes.large = vec![[1, 2, 3]];
        attributes
    }

    fn rule(change: impl FnOnce(&mut Rule)) -> Rule {
        let mut rule = Rule { verdict: Some(Verdict::Reject), ..Rule::default() };
        change(&mut rule);
        rule
    }

    #[test]
    fn a_rule_matches_where_everything_it_says_holds() {
        let of = |operator, prefix: &str, lengths: Option<(u8, u8)>| PrefixMatch {
            prefix: prefix.parse().unwrap(),
            operator,
            lengths: lengths.map(|(min, max)| Lengths { min, max }),
        };
        use PrefixOperator::{Equal, In, NotEqual, NotIn};
        for (matches, rule) in [
            (true, rule(|_| {})),
            (true, rule(|r| r.prefix = Some(of(In, "10.65.0.0/16", None)))),
            (true, rule(|r| r.prefix = Some(of(In, "10.65.1.0/24", None)))),
            (false, rule(|r| r.prefix = Some(of(In, "10.66.0.0/16", None)))),
            (false, rule(|r| r.prefix = Some(of(In, "10.65.0.0/16", Some((25, 32)))))),
            (true, rule(|r| r.prefix = Some(of(In, "10.65.0.0/16", Some((24, 24)))))),
            (true, rule(|r| r.prefix = Some(of(NotIn, "10.66.0.0/16", None)))),
            (false, rule(|r| r.prefix = Some(of(NotIn, "fd00::/8", None)))),
            (false, rule(|r| r.prefix = Some(of(Equal, "10.65.0.0/16", None)))),
            (true, rule(|r| r.prefix = Some(of(NotEqual, "10.65.0.0/16", None)))),
            (false, rule(|r| r.outside = vec!["fd00::/8".parse().unwrap(), "10.65.1.0/24".parse().unwrap()])),
            (true, rule(|r| r.outside = vec!["fd00::/8".parse().unwrap(), "10.65.1.0/25".parse().unwrap()])),
            (true, rule(|r| r.source = Some(RouteSource::Learned))),
            (true, rule(|r| r.source = Some(RouteSource::External))),
            (false, rule(|r| r.source = Some(RouteSource::Internal))),
            (false, rule(|r| r.source = Some(RouteSource::Own))),
            (true, rule(|r| r.communities = vec![Community::Standard(0xfde8_0001), Community::Large([1, 2, 3])])),
            (false, rule(|r| r.communities = vec![Community::Standard(0xfde8_0001), Community::Standard(5)])),
            (true, rule(|r| r.as_path = vec![Asn(7)])),
            (true, rule(|r| r.as_path = vec![Asn(7), Asn(8)])),
            (false, rule(|r| r.as_path = vec![Asn(7), Asn(8), Asn(9)])),
            (false, rule(|r| r.as_path = vec![Asn(8)])),
            (true, rule(|r| r.local_pref = Some(100))),
            (false, rule(|r| r.local_pref = Some(101))),
        ] {
            let words = format!("{rule:?}");
            let policy = Policy::new(vec![rule], Verdict::Accept);
            let judged =
                policy.judge(PeerKind::External, "10.65.1.0/24".parse().unwrap(), (&path(), Some(PeerKind::External)));
            assert_eq!(judged == Err(Blocked::Rule(0)), matches, "{words}");
        }
    }

    #[test]
    fn changes_of_all_rules_on_the_way_are_made_until_a_verdict() {
        let change = |change, verdict| Rule { changes: vec![change], verdict, ..Rule::default() };
        let policy = Policy::new(
            vec![
                change(RouteChange::AddCommunity(Community::Standard(5)), None),
                change(RouteChange::AddCommunity(Community::Standard(5)), None),
                change(RouteChange::Prepend(vec![Asn(1), Asn(2)]), Some(Verdict::Accept)),
                change(RouteChange::SetMed(9), None),
            ],
            Verdict::Reject,
        );
        let applied = policy.judge(PeerKind::Internal, "10.0.0.0/8".parse().unwrap(), (&path(), None)).unwrap();
        assert_eq!(applied, [0, 1, 2]);
        let mut attributes = path();
        policy.apply(&applied, &mut attributes);
        assert_eq!(attributes.as_path.to_string(), "1 2 7 8");
        assert_eq!((attributes.communities, attributes.med), (vec![0xfde8_0001, 5], None));
    }

    #[test]
    fn without_a_policy_only_internal_sessions_pass_anything() {
        let judge = |policy: Policy, kind| policy.judge(kind, "10.0.0.0/8".parse().unwrap(), (&path(), None));
        assert_eq!(judge(Policy::Missing, PeerKind::External), Err(Blocked::Missing));
        assert_eq!(judge(Policy::Missing, PeerKind::Internal), Ok(vec![]));
        assert_eq!(judge(Policy::accept_all(), PeerKind::External), Ok(vec![]));
        assert_eq!(judge(Policy::new(vec![], Verdict::Reject), PeerKind::Internal), Err(Blocked::NoRule));
    }
}

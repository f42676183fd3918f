//! Which tier, and which policy in it, is asked first.

use crate::ir::{Key, TierDefault};
use lasthop_model::policy::{Policy, Tier};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// The place of a tier among tiers: known ones before those that policies only name; by order, those without one last; by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TierRank(bool, Place, String);

/// The place of a policy in its tier.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyRank(Place, String);

/// An order; none is behind all others.
#[derive(Clone, Copy, Debug)]
struct Place(f64);

impl Place {
    fn of(order: Option<f64>) -> Self {
        Self(order.filter(|order| !order.is_nan()).unwrap_or(f64::INFINITY))
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Place {}

/// Where a tier stands, and what becomes of packets that nobody in it answers.
#[must_use]
pub fn tier(name: &str, tiers: &BTreeMap<String, Tier>) -> (TierRank, TierDefault) {
    let tier = tiers.get(name).cloned().or_else(|| Tier::built_in(name));
    let known = tier.is_some();
    let (order, default) = tier.map_or((None, TierDefault::Deny), |tier| (tier.order, tier.default_action));
    (TierRank(!known, Place::of(order), name.to_owned()), default)
}

/// Where a policy stands in its tier: by order, then by the text `name/namespace/kind`.
#[must_use]
pub fn policy(policy: &Policy) -> PolicyRank {
    PolicyRank(Place::of(policy.order), name(&policy.key))
}

fn name(key: &Key) -> String {
    format!("{}/{}/{}", key.name, key.namespace.as_deref().unwrap_or_default(), key.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_stand_by_order_then_name_and_unknown_ones_behind_all() {
        let tier_of = |name: &str, order| Tier { name: name.into(), order, default_action: TierDefault::Pass };
        let tiers =
            [tier_of("b", Some(5.0)), tier_of("a", Some(5.0)), tier_of("late", None), tier_of("zero", Some(-0.0))];
        let tiers: BTreeMap<String, Tier> = tiers.into_iter().map(|tier| (tier.name.clone(), tier)).collect();
        let mut names = ["ghost", "late", "default", "kube-baseline", "b", "a", "kube-admin", "zero"];
        names.sort_by_key(|name| tier(name, &tiers).0);
        assert_eq!(names, ["zero", "a", "b", "kube-admin", "default", "kube-baseline", "late", "ghost"]);
        assert_eq!(tier("ghost", &tiers).1, TierDefault::Deny);
        assert_eq!(tier("kube-admin", &tiers).1, TierDefault::Pass);
    }
}

//! Changes that somebody waits for, or that go back by themselves ([`lasthop_model::Rollout`]), as one host sees them.
//!
//! * Once all of a rollout is in the store, the kernel is read back, and what it does not hold is reported; also which resources
//!   are of no use here, so that one of the rollout that was read and set aside does not count as in force.
//! * Once its time is over, what it changed counts here as what it was before: from the snapshot, so also with the store gone
//!   or after a restart. The store's keeper makes the store say the same ([`lasthop_store::rollout`]); when the rollout is
//!   gone, confirmed or taken back, the store counts again.

use crate::document::Document;
use crate::run::{Agent, Known, Look};
use lasthop_model::{Key, Kind, NodeName, Resource, Rollout, RolloutReport};
use lasthop_store::{rollout, unstamped};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How many resources that are of no use here a report names.
const MOST_FINDINGS: usize = 1000;

/// All rollouts that there are.
#[derive(Debug, Default)]
pub(crate) struct Rollouts {
    open: BTreeMap<String, Open>,
    /// What the kernel refused when last asked; other things that are not in force wait for something, and are no fault.
    pub(crate) refused: BTreeSet<String>,
}

#[derive(Debug)]
struct Open {
    rollout: Rollout,
    overdue: Overdue,
    reported: Option<BTreeMap<String, String>>,
}

/// Whether a rollout's time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overdue {
    No,
    Yes,
}

/// What counts instead of what the store says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Instead {
    /// Another document.
    Document(Box<Value>),
    /// It is not there.
    Nothing,
}

impl Rollouts {
    /// What counts instead of a stored document.
    pub(crate) fn instead(&self, key: &Key, stored: &Value) -> Option<Instead> {
        let overdue = self.open.values().filter(|open| open.overdue == Overdue::Yes);
        let mut changes = overdue.flat_map(|open| &open.rollout.changes).filter(|change| change.key == *key);
        // Whoever has changed it since, knew what they did.
        let change = changes.find(|change| unstamped(&change.after) == unstamped(stored))?;
        Some(match &change.before {
            Some(before) => Instead::Document(Box::new(before.clone())),
            None => Instead::Nothing,
        })
    }

    /// When the next one's time is over.
    pub(crate) fn next(&self) -> Option<tokio::time::Instant> {
        let waiting = self.open.values().filter(|open| open.overdue == Overdue::No && !open.rollout.changes.is_empty());
        let until = UNIX_EPOCH + Duration::from_secs(waiting.map(|open| open.rollout.until).min()?);
        let left = until.duration_since(SystemTime::now()).unwrap_or_default();
        Some(tokio::time::Instant::now() + left)
    }

    /// Marks those whose time is over; the keys that they have to do with.
    fn pass(&mut self, now: u64) -> BTreeSet<Key> {
        let due = self.open.values_mut().filter(|open| open.overdue == Overdue::No && open.rollout.until <= now);
        due.flat_map(|open| {
            open.overdue = Overdue::Yes;
            open.rollout.changes.iter().map(|change| change.key.clone())
        })
        .collect()
    }
}

/// Whether a kind is of rollouts.
pub(crate) fn concerns(kind: Kind) -> bool {
    matches!(kind, Kind::Rollout | Kind::RolloutReport)
}

/// Whether a resource is another host's report: only who waits reads it, so it is not kept here.
pub(crate) fn is_of_another(key: &Key, node: &NodeName) -> bool {
    key.kind == Kind::RolloutReport && key.name.split_once('.').is_none_or(|(_, of)| of != node.as_str())
}

impl Agent {
    /// The store has a rollout, or a host's report of one.
    pub(crate) fn rollout_told(&mut self, key: &Key, document: &Value) {
        let Ok(Resource::Rollout(rollout)) = Resource::parse(document) else { return };
        let before = self.rollouts.open.remove(&key.name);
        let overdue = before.as_ref().map_or(Overdue::No, |open| open.overdue);
        if rollout.revision.is_some() && before.is_none_or(|open| open.rollout.revision != rollout.revision) {
            // What was written since is in; now for what the kernel says to it.
            self.look = Look::Again;
        }
        self.rollouts.open.insert(key.name.clone(), Open { rollout, overdue, reported: None });
    }

    /// A rollout is gone: what the store says counts.
    pub(crate) fn rollout_gone(&mut self, key: &Key) {
        if key.kind == Kind::RolloutReport {
            return;
        }
        let Some(open) = self.rollouts.open.remove(&key.name) else { return };
        let name = self.report_of(&open.rollout, BTreeMap::new()).name();
        let report = Key { kind: Kind::RolloutReport, namespace: None, name: name.clone() };
        // Also of the time before a restart.
        if open.reported.is_some() || self.snapshot.get(&report).is_some() {
            let _ = self.reports.send((name, None));
        }
        if open.overdue == Overdue::Yes {
            self.consider_again(open.rollout.changes.into_iter().map(|change| change.key).collect());
        }
    }

    /// Takes back what was not confirmed in time.
    pub(crate) fn rollouts_pass(&mut self) {
        if self.rollouts.open.is_empty() {
            return;
        }
        let keys = self.rollouts.pass(rollout::now());
        for key in &keys {
            tracing::warn!(object = %key, "not confirmed in time: what it was before counts");
        }
        self.consider_again(keys);
    }

    fn consider_again(&mut self, keys: BTreeSet<Key>) {
        for key in keys {
            if let Some(value) = self.snapshot.get(&key).map(Document::value) {
                self.learn(key, &value);
            }
        }
    }

    /// Says of each rollout how it stands here. After a cycle, which has looked at everything since the rollout came.
    pub(crate) fn report_rollouts(&mut self) {
        let settled = self.known == Known::Store && self.hold_until.is_none() && !matches!(self.look, Look::Again);
        if self.rollouts.open.values().all(|open| open.rollout.revision.is_none()) || !settled {
            return;
        }
        let faults = |object: &&String| self.rollouts.refused.contains(*object);
        let mut refused: BTreeMap<String, String> =
            self.pending.keys().filter(faults).map(|object| (object.clone(), self.pending[object].clone())).collect();
        // Who waits knows which of the resources are of the rollout.
        let findings = self.engine.desired().findings.iter().take(MOST_FINDINGS);
        refused.extend(findings.map(|(resource, finding)| (resource.clone(), finding.to_string())));
        let mut reports = Vec::new();
        for open in self.rollouts.open.values_mut().filter(|open| open.rollout.revision.is_some()) {
            if open.reported.as_ref() != Some(&refused) {
                open.reported = Some(refused.clone());
                reports.push(open.rollout.clone());
            }
        }
        for rollout in reports {
            let report = self.report_of(&rollout, refused.clone());
            let _ = self.reports.send((report.name(), Some(report.to_document())));
        }
    }

    fn report_of(&self, rollout: &Rollout, refused: BTreeMap<String, String>) -> RolloutReport {
        RolloutReport { rollout: rollout.name.clone(), node: self.config.node.clone(), refused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lasthop_model::Change;
    use serde_json::json;

    fn tier(order: u64) -> Value {
        json!({"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "a"}, "spec": {"order": order}})
    }

    #[test]
    fn only_reports_of_this_host_are_kept() {
        for (kind, name, node, theirs) in [
            (Kind::RolloutReport, "r1.h1", "h1", false),
            (Kind::RolloutReport, "r1.a.h1", "a.h1", false),
            (Kind::RolloutReport, "r1.h2", "h1", true),
            (Kind::RolloutReport, "r1.a.h1", "h1", true),
            (Kind::Rollout, "r1", "h1", false),
            (Kind::Tier, "r1.h2", "h1", false),
        ] {
            let key = Key { kind, namespace: None, name: name.into() };
            assert_eq!(is_of_another(&key, &node.parse().unwrap()), theirs, "{key} at {node}");
        }
    }

    #[test]
    fn what_was_before_counts_from_the_deadline_on_and_only_while_nobody_has_changed_it() {
        let key = Key::of(&tier(1)).unwrap();
        for before in [None, Some(tier(1))] {
            let change = Change { key: key.clone(), before: before.clone(), after: tier(2) };
            let rollout =
                Rollout { name: "r".into(), until: 100, revision: None, reverting: false, changes: vec![change] };
            let mut rollouts = Rollouts::default();
            let open = Open { rollout, overdue: Overdue::No, reported: None };
            rollouts.open.insert("r".into(), open);
            assert!(rollouts.pass(99).is_empty());
            assert_eq!(rollouts.instead(&key, &tier(2)), None);
            assert_eq!(rollouts.pass(100), BTreeSet::from([key.clone()]));
            let expected = before.map_or(Instead::Nothing, |before| Instead::Document(Box::new(before)));
            let mut stored = tier(2);
            stored["metadata"]["resourceVersion"] = "7".into();
            assert_eq!(rollouts.instead(&key, &stored), Some(expected));
            assert_eq!(rollouts.instead(&key, &tier(3)), None);
            assert!(rollouts.pass(101).is_empty(), "once");
        }
    }
}

//! A change that somebody waits for, or that goes back by itself unless it is confirmed; and what hosts say of it.

use crate::{Key, NodeName};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A change to some resources.
///
/// It stands in the store before the first of its changes, so that a host that is cut off by one of them knows of it. Until
/// `until` it is there to be confirmed, which is to delete it. From then on every host takes what was before for what is,
/// wherever the change still stands as it was made; whoever keeps the store puts it right there, too.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    /// `metadata.name`.
    pub name: String,
    /// Until when it can be confirmed: seconds since 1970-01-01 UTC.
    pub until: u64,
    /// All of it is in the store as of this revision: hosts report once they have it in force.
    pub revision: Option<u64>,
    /// It is being taken back, and cannot be confirmed any more.
    pub reverting: bool,
    /// What was changed, in order.
    pub changes: Vec<Change>,
}

/// One resource that was changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Which.
    pub key: Key,
    /// What it was; `None` if it was not there.
    pub before: Option<Value>,
    /// What it was made.
    pub after: Value,
}

/// What a host says of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutReport {
    /// Which.
    pub rollout: String,
    /// The host.
    pub node: NodeName,
    /// What its kernel does not hold as it ought to, and which resources, of this rollout or not, are of no use to it (`Kind/name`),
    /// and why; nothing: all is in force, and was read back.
    pub refused: BTreeMap<String, String>,
}

impl Rollout {
    /// The document.
    #[must_use]
    pub fn to_document(&self) -> Value {
        let changes: Vec<Value> =
            self.changes.iter().map(|change| json!({"before": change.before, "after": change.after})).collect();
        let mut spec = json!({"until": self.until, "changes": changes});
        if let Some(revision) = self.revision {
            spec["revision"] = revision.into();
        }
        if self.reverting {
            spec["reverting"] = true.into();
        }
        json!({"apiVersion": "lasthop/v1", "kind": "Rollout", "metadata": {"name": self.name}, "spec": spec})
    }
}

impl RolloutReport {
    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.rollout, self.node)
    }

    /// The document.
    #[must_use]
    pub fn to_document(&self) -> Value {
        json!({"apiVersion": "lasthop/v1", "kind": "RolloutReport", "metadata": {"name": self.name()},
               "spec": {"rollout": self.rollout, "node": self.node.as_str(), "refused": self.refused}})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Resource;

    #[test]
    fn documents_are_read_as_they_were_written() {
        let tier = |order: u64| json!({"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "a"}, "spec": {"order": order}});
        for (before, revision, reverting) in [(None, None, false), (Some(tier(1)), Some(7), true)] {
            let after = tier(2);
            let changes = vec![Change { key: Key::of(&after).unwrap(), before, after }];
            let rollout = Rollout { name: "r1".into(), until: 1_763_860_000, revision, reverting, changes };
            assert_eq!(Resource::parse(&rollout.to_document()), Ok(Resource::Rollout(rollout)));
        }
        let report = RolloutReport {
            rollout: "r1".into(),
            node: "h1".parse().unwrap(),
            refused: BTreeMap::from([("policy lhw1".into(), "no".into())]),
        };
        assert_eq!(Resource::parse(&report.to_document()), Ok(Resource::RolloutReport(report)));
    }

    #[test]
    fn a_report_is_named_by_its_rollout_and_its_node() {
        for (name, rollout, node, good) in [
            ("r1.h1", "r1", "h1", true),
            ("r1.a.b", "r1", "a.b", true),
            ("r1.h1", "r1", "h2", false),
            ("r1.h1", "r2", "h1", false),
            ("r1.a.b", "r1.a", "b", false),
        ] {
            let document = json!({"apiVersion": "lasthop/v1", "kind": "RolloutReport", "metadata": {"name": name},
                                  "spec": {"rollout": rollout, "node": node}});
            assert_eq!(Resource::parse(&document).is_ok(), good, "{document}");
        }
        let dotted = Rollout { name: "r1.a".into(), until: 1, revision: None, reverting: false, changes: Vec::new() };
        assert!(Resource::parse(&dotted.to_document()).is_err(), "a report of it would be nobody's");
    }

    #[test]
    fn a_change_of_nothing_known_is_refused() {
        for spec in [
            json!({"until": 1, "changes": [{"after": {"kind": "Bogus"}}]}),
            json!({"until": 1, "changes": [{}]}),
            json!({"changes": []}),
        ] {
            let document =
                json!({"apiVersion": "lasthop/v1", "kind": "Rollout", "metadata": {"name": "a"}, "spec": spec});
            assert!(Resource::parse(&document).is_err(), "{document}");
        }
    }
}

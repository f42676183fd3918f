//! `Rollout` and `RolloutReport`: kinds of our own, in `lasthop/v1`.

use super::metadata::document;
use super::shape::{Checker, Field, Need, Shape, field};
use super::spot::Spot;
use super::text;
use crate::rollout::{Change, Rollout, RolloutReport};
use crate::{Key, Resource};

pub(super) const FIELDS: &[Field] = &document(
    &[
        field("until", Shape::Integer(0, i64::MAX)).required(),
        field("revision", Shape::Integer(0, i64::MAX)),
        field("reverting", Shape::Truth),
        field("changes", Shape::List(10_000, &Shape::Table(CHANGE))),
    ],
    Need::Required,
);

const CHANGE: &[Field] = &[field("before", Shape::Free), field("after", Shape::Free).required()];

pub(super) const REPORT_FIELDS: &[Field] = &document(
    &[
        // No dots: the first one in the report's name is where the node's name begins.
        field("rollout", Shape::Checked(text::dns_label)).required(),
        field("node", Shape::Checked(text::name)).required(),
        field("refused", Shape::Map(|_| Ok(()), &Shape::Text)),
    ],
    Need::Required,
);

pub(super) fn convert(checker: &mut Checker, spec: &Spot<'_>, key: &Key) -> Option<Resource> {
    if let Err(reason) = text::dns_label(&key.name) {
        checker.add("metadata.name", None, reason);
    }
    let mut changes = Vec::new();
    for change in spec.items("changes") {
        let after = change.get("after")?;
        match Key::of(after.value) {
            Ok(key) => changes.push(Change {
                key,
                before: change.get("before").map(|before| before.value.clone()),
                after: after.value.clone(),
            }),
            Err(invalid) => checker.add(&after.path, None, format!("names no resource: {invalid}")),
        }
    }
    Some(Resource::Rollout(Rollout {
        name: key.name.clone(),
        until: spec.number("until")?,
        revision: spec.number("revision"),
        reverting: spec.get("reverting").is_some_and(|spot| spot.value == true),
        changes,
    }))
}

pub(super) fn convert_report(checker: &mut Checker, spec: &Spot<'_>, key: &Key) -> Option<Resource> {
    let refused = spec.get("refused").and_then(|spot| spot.value.as_object()).into_iter().flatten();
    let report = RolloutReport {
        rollout: spec.text("rollout")?.to_owned(),
        node: spec.parse("node")?,
        refused: refused.map(|(object, why)| (object.clone(), why.as_str().unwrap_or_default().to_owned())).collect(),
    };
    if report.name() != key.name {
        checker.add("metadata.name", None, format!("is not that of its rollout and node; write {}", report.name()));
    }
    Some(Resource::RolloutReport(report))
}

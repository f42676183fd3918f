//! `Tier`, and the three that are always there.

use super::metadata::document;
use super::shape::{Checker, Field, Need, Shape, field, shorten};
use super::spot::Spot;
use super::text;
use crate::policy::{Tier, TierDefault};
use crate::{Key, Resource};

pub(super) const FIELDS: &[Field] = &document(
    &[field("order", Shape::Number), field("defaultAction", Shape::OneOf(&["Deny", "Pass"]))],
    Need::Optional,
);

fn action(word: &str) -> Option<TierDefault> {
    match word {
        "Deny" => Some(TierDefault::Deny),
        "Pass" => Some(TierDefault::Pass),
        _ => None,
    }
}

fn word(action: TierDefault) -> &'static str {
    match action {
        TierDefault::Deny => "Deny",
        TierDefault::Pass => "Pass",
    }
}

pub(super) fn convert(checker: &mut Checker, spec: &Spot<'_>, key: &Key) -> Resource {
    if let Err(reason) = text::dns_label(&key.name) {
        checker.add("metadata.name", Some(&key.name.clone().into()), reason);
    }
    let given = Tier {
        name: key.name.clone(),
        order: spec.get("order").and_then(|order| order.value.as_f64()),
        default_action: spec.text("defaultAction").and_then(action).unwrap_or_default(),
    };
    match Tier::built_in(&key.name) {
        Some(built_in) => {
            check_built_in(checker, spec, &built_in);
            Resource::Tier(built_in)
        }
        None => Resource::Tier(given),
    }
}

/// Order and default action of a built-in tier are what they are.
fn check_built_in(checker: &mut Checker, spec: &Spot<'_>, tier: &Tier) {
    let Tier { name, order, default_action } = tier;
    let order = order.unwrap_or_default();
    if let Some(given) = spec.get("order").filter(|given| given.value.as_f64() != Some(order)) {
        let reason = format!(
            "{} is not the order of the built-in tier '{name}'; write {order}",
            shorten(&given.value.to_string())
        );
        checker.add(&given.path, Some(given.value), reason);
    }
    let ends = word(*default_action);
    if let Some(given) = spec.get("defaultAction").filter(|given| given.value != ends) {
        let reason = format!("the built-in tier '{name}' ends in {ends}; write {ends}");
        checker.add(&given.path, Some(given.value), reason);
    }
}

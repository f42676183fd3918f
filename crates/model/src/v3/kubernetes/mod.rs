//! Kinds of Kubernetes: its two policies, turned into ours, and what they and ours speak of.
//!
//! A policy of Kubernetes knows pods only: selectors, empty ones too, are confined to what an orchestrator runs
//! (network sets and host endpoints are not).

mod cluster;
mod network;
mod objects;

use super::shape::{Checker, Field, Shape, field};
use super::spot::Spot;
use super::text;
use crate::policy::Subject;
use crate::selector::Selector;

pub(super) use cluster::{FIELDS as CLUSTER, convert as convert_cluster};
pub(super) use network::{FIELDS as NETWORK, STAGED, convert as convert_network};
pub(crate) use objects::check_update as check_slice_update;
pub(super) use objects::{ENDPOINT_SLICE, NAMESPACE, SERVICE_ACCOUNT, convert_labelled, convert_slice};

/// The implicit label that every workload has, and nothing else.
const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";

const MANY: usize = 4096;

/// `LabelSelector` of Kubernetes.
const LABEL_SELECTOR: Shape = Shape::Table(&[
    field("matchLabels", Shape::Map(text::label_key, &Shape::Checked(text::label_value))),
    field(
        "matchExpressions",
        Shape::List(
            MANY,
            &Shape::Table(&[
                field("key", Shape::Checked(text::label_key)).required(),
                field("operator", Shape::OneOf(&["In", "NotIn", "Exists", "DoesNotExist"])).required(),
                field("values", Shape::List(MANY, &Shape::Checked(text::label_value))),
            ]),
        ),
    ),
]);

/// A label selector as ours. An empty one matches everything.
fn selector(checker: &mut Checker, spot: &Spot<'_>) -> Selector {
    let labels = spot.get("matchLabels");
    let labels = labels.as_ref().and_then(|labels| labels.value.as_object()).into_iter().flatten();
    let mut parts: Vec<Selector> =
        labels.filter_map(|(key, value)| Some(Selector::equals(key, value.as_str()?))).collect();
    for test in spot.items("matchExpressions") {
        let (Some(key), Some(operator)) = (test.text("key"), test.text("operator")) else { continue };
        let values: Vec<&str> = test.items("values").iter().filter_map(|spot| spot.value.as_str()).collect();
        let many = matches!(operator, "In" | "NotIn");
        if many == values.is_empty() {
            let reason = if many { "is missing; write at least one value" } else { "has no meaning here; remove it" };
            let reason = format!("operator {operator}: {reason}");
            checker.add(&test.path_of("values"), test.value.get("values"), reason);
        }
        parts.push(match operator {
            "In" => Selector::is_in(key, values),
            "NotIn" => Selector::is_in(key, values).negated(),
            "Exists" => Selector::has(key),
            _ => Selector::has(key).negated(),
        });
    }
    Selector::every(parts)
}

/// The pods that a label selector, or nothing, selects.
fn pods(checker: &mut Checker, spot: Option<&Spot<'_>>) -> Selector {
    let mut parts = vec![Selector::has(ORCHESTRATOR)];
    if let Some(spot) = spot {
        parts.push(selector(checker, spot));
    }
    Selector::every(parts)
}

/// Whom a policy is for: pods by label, in namespaces by label or in the policy's own.
fn subject(checker: &mut Checker, of_pods: Option<&Spot<'_>>, of_namespaces: Option<&Spot<'_>>) -> Subject {
    Subject {
        selector: pods(checker, of_pods),
        namespaces: of_namespaces.map(|spot| selector(checker, spot)),
        service_accounts: None,
    }
}

/// A field that is a table, even an empty one.
fn table<'a>(spot: &Spot<'a>, name: &str) -> Option<Spot<'a>> {
    spot.get(name).filter(|spot| spot.value.is_object())
}

/// Notes that not exactly one of these fields is there.
fn check_one_of(checker: &mut Checker, spot: &Spot<'_>, fields: &'static [Field]) {
    let given = fields.iter().filter(|field| spot.get(field.name).is_some()).count();
    if spot.value.is_object() && given != 1 {
        let names: Vec<&str> = fields.iter().map(|field| field.name).collect();
        let reason = format!("has {given} of {}; write exactly one", names.join(", "));
        checker.add(&spot.path, None, reason);
    }
}

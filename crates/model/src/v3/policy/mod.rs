//! Policies of projectcalico.org: NetworkPolicy, GlobalNetworkPolicy and their staged forms, and Profile.

mod rule;
mod text;

use super::metadata::document;
use super::shape::{Checker, Field, Need, Shape, field, idle};
use super::spot::Spot;
use super::text as common;
use crate::policy::{Peer, Policy, Profile, Rule, Stage, StagedAction, Staging, Subject};
use crate::selector::Selector;
use crate::{Key, Kind, Labels, Resource, Scope};
use lasthop_net::{Family, Prefix};
use rule::{Direction, RULES, check_unique, rules};
use std::sync::Arc;

pub(crate) use text::{port_of, protocol_name, protocol_number};

/// The tier of policies that do not say which.
const DEFAULT_TIER: &str = "default";

pub(super) const STAGED_ACTION: Field = field("stagedAction", Shape::OneOf(&["Set", "Delete", "Learn", "Ignore"]));

const TIER: Field = field("tier", Shape::Checked(common::dns_label));
const ORDER: Field = field("order", Shape::Number);
const SELECTOR: Field = field("selector", Shape::Checked(common::selector));
const SERVICE_ACCOUNTS: Field = field("serviceAccountSelector", Shape::Checked(common::selector));
const NAMESPACES: Field = field("namespaceSelector", Shape::Checked(common::selector));
const TYPES: Field = field("types", Shape::List(2, &Shape::OneOf(&["Ingress", "Egress"])));
const INGRESS: Field = field("ingress", RULES);
const EGRESS: Field = field("egress", RULES);
const HINTS: Field = idle("performanceHints", Shape::List(16, &Shape::OneOf(&["AssumeNeededOnEveryNode"]))).moot();
const DO_NOT_TRACK: Field = field("doNotTrack", Shape::Truth);
const PRE_DNAT: Field = field("preDNAT", Shape::Truth);
const ON_FORWARD: Field = field("applyOnForward", Shape::Truth);

pub(super) const NETWORK: &[Field] =
    &document(&[TIER, ORDER, SELECTOR, SERVICE_ACCOUNTS, TYPES, INGRESS, EGRESS, HINTS], Need::Optional);

pub(super) const STAGED_NETWORK: &[Field] =
    &document(&[STAGED_ACTION, TIER, ORDER, SELECTOR, SERVICE_ACCOUNTS, TYPES, INGRESS, EGRESS, HINTS], Need::Optional);

pub(super) const GLOBAL: &[Field] = &document(
    &[
        TIER,
        ORDER,
        SELECTOR,
        NAMESPACES,
        SERVICE_ACCOUNTS,
        TYPES,
        DO_NOT_TRACK,
        PRE_DNAT,
        ON_FORWARD,
        INGRESS,
        EGRESS,
        HINTS,
    ],
    Need::Optional,
);

pub(super) const STAGED_GLOBAL: &[Field] = &document(
    &[
        STAGED_ACTION,
        TIER,
        ORDER,
        SELECTOR,
        NAMESPACES,
        SERVICE_ACCOUNTS,
        TYPES,
        DO_NOT_TRACK,
        PRE_DNAT,
        ON_FORWARD,
        INGRESS,
        EGRESS,
        HINTS,
    ],
    Need::Optional,
);

pub(super) const PROFILE: &[Field] = &document(
    &[INGRESS, EGRESS, field("labelsToApply", Shape::Map(common::label_key, &Shape::Checked(common::label_value)))],
    Need::Optional,
);

pub(super) fn convert(checker: &mut Checker, spec: &Spot<'_>, key: &Key) -> Option<Resource> {
    let scope = key.kind.scope();
    if let Err(reason) = text::policy_name(&key.name, scope == Scope::Namespaced) {
        checker.add("metadata.name", Some(&key.name.clone().into()), reason);
    }
    check_unique(checker, spec, "types");
    check_unique(checker, spec, "performanceHints");
    let stage = if scope == Scope::Cluster { stage(checker, spec) } else { Stage::Normal };
    let [ingress, egress] = Direction::ALL.map(|direction| rules(checker, spec, (direction, scope)));
    let staging = match key.kind {
        Kind::StagedNetworkPolicy | Kind::StagedGlobalNetworkPolicy => Staging::Staged(staged_action(checker, spec)),
        _ => Staging::Enforced,
    };
    let (ingress, egress) = directions(spec, ingress, egress);
    Some(Resource::Policy(Arc::new(Policy {
        key: key.clone(),
        tier: spec.text("tier").unwrap_or(DEFAULT_TIER).to_owned(),
        order: spec.get("order").and_then(|order| order.value.as_f64()),
        staging,
        subject: Subject {
            selector: spec.parse("selector").unwrap_or_else(Selector::all),
            namespaces: spec.parse("namespaceSelector"),
            service_accounts: spec.parse("serviceAccountSelector"),
        },
        stage,
        ingress,
        egress,
    })))
}

/// Of which directions a policy speaks. If it does not say: of egress if it has rules for that, of ingress unless it
/// has rules for egress only.
fn directions(spec: &Spot<'_>, ingress: Vec<Rule>, egress: Vec<Rule>) -> (Option<Vec<Rule>>, Option<Vec<Rule>>) {
    let types = spec.items("types");
    let says = |word: &str| types.iter().any(|spot| spot.value == word);
    let (of_ingress, of_egress) = if types.is_empty() {
        (egress.is_empty() || !ingress.is_empty(), !egress.is_empty())
    } else {
        (says("Ingress"), says("Egress"))
    };
    (of_ingress.then_some(ingress), of_egress.then_some(egress))
}

/// Where packets meet the policy; checks what does not go together.
fn stage(checker: &mut Checker, spec: &Spot<'_>) -> Stage {
    let [before_dnat, untracked, forward] = ["preDNAT", "doNotTrack", "applyOnForward"].map(|name| spec.is_set(name));
    if before_dnat && untracked {
        let reason = "cannot be on together with preDNAT; make two policies";
        checker.add(&spec.path_of("doNotTrack"), spec.value.get("doNotTrack"), reason);
    }
    for (name, on) in [("preDNAT", before_dnat), ("doNotTrack", untracked)] {
        if on && !forward {
            let reason = format!("must be true, because {name} is: such a policy meets forwarded packets too");
            checker.add(&spec.path_of("applyOnForward"), spec.value.get("applyOnForward"), reason);
        }
    }
    if before_dnat && !spec.items("egress").is_empty() {
        let reason = "cannot be there, because preDNAT is true: such a policy meets arriving packets only; remove it";
        checker.add(&spec.path_of("egress"), None, reason);
    }
    if before_dnat && let Some(item) = spec.items("types").iter().find(|item| item.value == "Egress") {
        let reason = "'Egress' cannot be there, because preDNAT is true; remove it";
        checker.add(&item.path, Some(item.value), reason);
    }
    match (before_dnat, untracked, forward) {
        (true, ..) => Stage::BeforeDnat,
        (_, true, _) => Stage::Untracked,
        (_, _, true) => Stage::AlsoForward,
        _ => Stage::Normal,
    }
}

/// What a staged policy proposes. One that proposes a deletion has no rules of its own.
pub(super) fn staged_action(checker: &mut Checker, spec: &Spot<'_>) -> StagedAction {
    let action = match spec.text("stagedAction") {
        Some("Delete") => StagedAction::Delete,
        Some("Learn") => StagedAction::Learn,
        Some("Ignore") => StagedAction::Ignore,
        _ => StagedAction::Set,
    };
    let empty = |value: &serde_json::Value| match value {
        serde_json::Value::Null | serde_json::Value::Bool(false) => true,
        serde_json::Value::String(text) => text.is_empty(),
        serde_json::Value::Array(items) => items.is_empty(),
        serde_json::Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    if action == StagedAction::Delete {
        for (name, value) in spec.value.as_object().into_iter().flatten() {
            if !["stagedAction", "tier"].contains(&name.as_str()) && !empty(value) {
                let reason = "has no meaning with stagedAction: Delete; remove it";
                checker.add(&spec.path_of(name), None, reason);
            }
        }
    }
    action
}

/// A side of a packet that no packet has.
pub(super) fn nobody() -> Peer {
    Peer { not_nets: Family::ALL.map(Prefix::default_route).to_vec(), ..Peer::default() }
}

pub(super) fn convert_profile(checker: &mut Checker, spec: &Spot<'_>, key: &Key) -> Resource {
    let [ingress, egress] = Direction::ALL.map(|direction| rules(checker, spec, (direction, Scope::Cluster)));
    let labels = spec.get("labelsToApply");
    let labels = labels.as_ref().and_then(|labels| labels.value.as_object()).into_iter().flatten();
    let labels: Labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
    Resource::Profile(Profile { name: key.name.clone(), ingress, egress, labels })
}

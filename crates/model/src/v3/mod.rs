//! The v3 API as users write it: the fields of every kind as tables, the check of a document against
//! them, and the conversion into the types of this crate. The only place that knows field names.
//!
//! Semantics follow the projectcalico.org/v3 reference: null and empty text count as "not set", unknown
//! fields are errors, and a field that this program does not act upon is accepted and kept (see
//! [`Notice`]).

mod bgp;
mod endpoint;
mod felix;
mod felix_fields;
mod filter;
mod host;
mod kubernetes;
mod later;
mod metadata;
mod node;
pub(crate) mod policy;
mod pool;
mod rollout;
pub(crate) mod shape;
pub(crate) mod spot;
pub(crate) mod text;
mod tier;

use crate::{Invalid, Key, Kind, Resource};
use serde_json::{Map, Value};
use shape::{Checker, Effect, Field, Shape};
use spot::Spot;
use std::fmt;

/// The `apiVersion` of every kind.
pub const API_VERSION: &str = "projectcalico.org/v3";

pub use later::{check, checked_kinds};

pub(crate) use endpoint::to_document as endpoint_to_document;
pub(crate) use kubernetes::check_slice_update;
pub(crate) use metadata::key;
pub(crate) use pool::check_update as check_pool_update;

/// A field that was accepted and has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The full path of the field.
    pub path: String,
    /// Whether it will have one.
    pub outlook: Outlook,
}

/// What will become of a field without effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// It has no effect in this version.
    NotYet,
    /// It speaks of something that this program does not have.
    Moot,
    /// It cannot be honoured: what it stands in allows nothing, and denies everything if it denies or passes.
    Closed,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outlook {
            Outlook::NotYet => write!(f, "{}: accepted, without effect yet", self.path),
            Outlook::Closed => write!(
                f,
                "{}: cannot be honoured here: a rule with it allows nothing, and if it denies or passes, denies everything",
                self.path
            ),
            Outlook::Moot => write!(f, "{}: accepted, but there is nothing here that it could change", self.path),
        }
    }
}

/// The fields of a kind.
pub(crate) fn fields_of(kind: Kind) -> &'static [Field] {
    match kind {
        Kind::Node => node::FIELDS,
        Kind::WorkloadEndpoint => endpoint::FIELDS,
        Kind::IpPool => pool::FIELDS,
        Kind::BgpConfiguration => bgp::CONFIGURATION_FIELDS,
        Kind::BgpPeer => bgp::PEER_FIELDS,
        Kind::BgpFilter => filter::FIELDS,
        Kind::FelixConfiguration => felix::FIELDS,
        Kind::Tier => tier::FIELDS,
        Kind::NetworkPolicy => policy::NETWORK,
        Kind::GlobalNetworkPolicy => policy::GLOBAL,
        Kind::StagedNetworkPolicy => policy::STAGED_NETWORK,
        Kind::StagedGlobalNetworkPolicy => policy::STAGED_GLOBAL,
        Kind::StagedKubernetesNetworkPolicy => kubernetes::STAGED,
        Kind::KubernetesNetworkPolicy => kubernetes::NETWORK,
        Kind::ClusterNetworkPolicy => kubernetes::CLUSTER,
        Kind::Profile => policy::PROFILE,
        Kind::NetworkSet | Kind::GlobalNetworkSet => host::SET_FIELDS,
        Kind::HostEndpoint => host::FIELDS,
        Kind::Namespace => kubernetes::NAMESPACE,
        Kind::ServiceAccount => kubernetes::SERVICE_ACCOUNT,
        Kind::EndpointSlice => kubernetes::ENDPOINT_SLICE,
        Kind::Rollout => rollout::FIELDS,
        Kind::RolloutReport => rollout::REPORT_FIELDS,
    }
}

/// Reads a document as a resource: everything that is wrong with it comes back at once.
pub(crate) fn parse(document: &Value) -> Result<Resource, Invalid> {
    let key = metadata::key(document)?;
    let mut checker = Checker::default();
    let resource = match document.as_object() {
        Some(object) => resource(&mut checker, object, document, &key),
        None => None,
    };
    if let (true, Some(resource)) = (checker.problems.is_empty(), resource) {
        return Ok(resource);
    }
    if checker.problems.is_empty() {
        checker.add("spec", None, "cannot be read; compare it with an example of this kind");
    }
    checker.problems.dedup();
    Err(Invalid { key: Some(key), problems: checker.problems })
}

fn resource(checker: &mut Checker, object: &Map<String, Value>, document: &Value, key: &Key) -> Option<Resource> {
    checker.table("", object, fields_of(key.kind));
    metadata::check(checker, document, (key.kind.written(), key.kind.scope()));
    let root = Spot::root(document);
    let nothing = Value::Object(Map::new());
    let spec = root.get("spec").unwrap_or(Spot { value: &nothing, path: "spec".to_owned() });
    let labels = metadata::labels(document);
    match key.kind {
        Kind::Node => node::convert(checker, (&root, &spec), key, labels),
        Kind::WorkloadEndpoint => endpoint::convert(checker, &spec, key, labels),
        Kind::IpPool => pool::convert(checker, &spec, key),
        Kind::BgpConfiguration => bgp::convert_configuration(checker, &spec, key),
        Kind::BgpPeer => bgp::convert_peer(checker, &spec, key),
        Kind::BgpFilter => Some(filter::convert(checker, &spec, key)),
        Kind::FelixConfiguration => felix::convert(checker, &spec, key),
        Kind::Tier => Some(tier::convert(checker, &spec, key)),
        Kind::NetworkPolicy
        | Kind::GlobalNetworkPolicy
        | Kind::StagedNetworkPolicy
        | Kind::StagedGlobalNetworkPolicy => policy::convert(checker, &spec, key),
        Kind::KubernetesNetworkPolicy | Kind::StagedKubernetesNetworkPolicy => {
            Some(kubernetes::convert_network(checker, &spec, key))
        }
        Kind::ClusterNetworkPolicy => kubernetes::convert_cluster(checker, &spec, key),
        Kind::Profile => Some(policy::convert_profile(checker, &spec, key)),
        Kind::NetworkSet | Kind::GlobalNetworkSet => Some(host::convert_set(checker, &spec, key, labels)),
        Kind::HostEndpoint => host::convert(checker, &spec, key, labels),
        Kind::Rollout => rollout::convert(checker, &spec, key),
        Kind::RolloutReport => rollout::convert_report(checker, &spec, key),
        Kind::Namespace | Kind::ServiceAccount => Some(kubernetes::convert_labelled(checker, key, labels)),
        Kind::EndpointSlice => Some(kubernetes::convert_slice(checker, &root, key, &labels)),
    }
}

/// The fields of a document that are accepted and have no effect, so that a user can be told.
#[must_use]
pub fn without_effect(document: &Value) -> Vec<Notice> {
    let mut notices = Vec::new();
    if let (Ok(key), Some(object)) = (metadata::key(document), document.as_object()) {
        collect(&mut notices, "", object, fields_of(key.kind));
    }
    notices
}

/// Every field of a kind that is accepted and has no effect, as paths: one list for the documentation.
#[must_use]
pub fn fields_without_effect(kind: Kind) -> Vec<Notice> {
    fn walk(notices: &mut Vec<Notice>, path: &str, fields: &'static [Field]) {
        for field in fields {
            let here = shape::join(path, field.name);
            match (&field.effect, &field.shape) {
                (Effect::NotYet | Effect::NotYetUnless(_), _) => {
                    notices.push(Notice { path: here, outlook: Outlook::NotYet });
                }
                (Effect::Moot, _) => notices.push(Notice { path: here, outlook: Outlook::Moot }),
                (Effect::Closed, _) => notices.push(Notice { path: here, outlook: Outlook::Closed }),
                (Effect::InForce, Shape::Table(fields)) => walk(notices, &here, fields),
                (Effect::InForce, Shape::List(_, Shape::Table(fields))) => {
                    walk(notices, &format!("{here}[]"), fields);
                }
                (Effect::InForce, _) => {}
            }
        }
    }
    let mut notices = Vec::new();
    walk(&mut notices, "", fields_of(kind));
    notices
}

/// The fields of a kind's `spec` that do something, by name.
#[must_use]
pub fn fields_in_force(kind: Kind) -> Vec<String> {
    let spec = fields_of(kind).iter().find(|field| field.name == "spec").map(|field| &field.shape);
    let Some(Shape::Table(fields)) = spec else { return Vec::new() };
    fields.iter().filter(|field| matches!(field.effect, Effect::InForce)).map(|field| field.name.to_owned()).collect()
}

fn collect(notices: &mut Vec<Notice>, path: &str, object: &Map<String, Value>, fields: &'static [Field]) {
    for field in fields {
        let Some(value) = object.get(field.name).filter(|v| !v.is_null() && v.as_str() != Some("")) else { continue };
        let here = shape::join(path, field.name);
        let outlook = match field.effect {
            Effect::NotYet => Some(Outlook::NotYet),
            Effect::NotYetUnless(usual) => (shape::plain(value) != usual).then_some(Outlook::NotYet),
            Effect::Moot => Some(Outlook::Moot),
            Effect::Closed => Some(Outlook::Closed),
            Effect::InForce => None,
        };
        if let Some(outlook) = outlook {
            notices.push(Notice { path: here, outlook });
            continue;
        }
        match (&field.shape, value) {
            (Shape::Table(fields), Value::Object(object)) => collect(notices, &here, object, fields),
            (Shape::List(_, Shape::Table(fields)), Value::Array(items)) => {
                for (i, item) in items.iter().enumerate() {
                    if let Value::Object(object) = item {
                        collect(notices, &format!("{here}[{i}]"), object, fields);
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(fields: &'static [Field], path: &str) {
        let mut seen = std::collections::BTreeSet::new();
        for field in fields {
            assert!(seen.insert(field.name), "{path}.{} is there twice", field.name);
            match &field.shape {
                Shape::Table(fields) | Shape::List(_, Shape::Table(fields)) => names(fields, field.name),
                _ => {}
            }
        }
    }

    #[test]
    fn no_field_is_there_twice() {
        for kind in Kind::ALL {
            names(fields_of(kind), kind.name());
        }
    }
}

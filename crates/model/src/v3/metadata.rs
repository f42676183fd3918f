//! What all kinds have in common: `apiVersion`, `kind`, `metadata`.
//!
//! Names are DNS-1123 subdomains, labels and annotations as in Kubernetes (annotations: 256 KiB in all).

use super::shape::{Checker, Field, Need, Shape, field, shorten};
use super::spot::Spot;
use super::{API_VERSION, text};
use crate::{Invalid, Key, Kind, Labels, Scope, suggest};
use serde_json::Value;

/// Limit of all annotations together (Kubernetes' `TotalAnnotationSizeLimitB`).
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// `metadata`. What a store or another controller puts there is accepted as it is.
pub(super) const METADATA: &[Field] = &[
    field("name", Shape::Checked(text::name)).required(),
    field("namespace", Shape::Checked(text::dns_label)),
    field("labels", Shape::Map(text::label_key, &Shape::Checked(text::label_value))),
    field("annotations", Shape::Map(text::annotation_key, &Shape::Text)),
    field("uid", Shape::Text),
    field("resourceVersion", Shape::Text),
    field("generation", Shape::Integer(0, i64::MAX)),
    field("creationTimestamp", Shape::Text),
    field("deletionTimestamp", Shape::Text),
    field("deletionGracePeriodSeconds", Shape::Integer(0, i64::MAX)),
    field("finalizers", Shape::List(1000, &Shape::Text)),
    field("ownerReferences", Shape::Free),
    field("managedFields", Shape::Free),
    field("selfLink", Shape::Text),
    field("generateName", Shape::Text),
];

/// The fields of a document whose kind has a `spec` and a `status`.
pub(super) const fn document(spec: &'static [Field], need: Need) -> [Field; 5] {
    [
        field("apiVersion", Shape::Text),
        field("kind", Shape::Text),
        field("metadata", Shape::Table(METADATA)).required(),
        Field { need, ..field("spec", Shape::Table(spec)) },
        field("status", Shape::Free),
    ]
}

/// The key of a document, with the checks that must pass before anything else means something.
pub(crate) fn key(document: &Value) -> Result<Key, Invalid> {
    let Some(object) = document.as_object() else {
        let reason = "is not a resource; write apiVersion, kind, metadata and spec";
        return Err(Invalid::one("document", shorten(&document.to_string()), reason));
    };
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let kind = text("kind");
    if kind.is_empty() {
        let names: Vec<&str> = object.keys().map(String::as_str).collect();
        let near = suggest::closest("kind", names).map(|near| format!(" (not '{near}')")).unwrap_or_default();
        return Err(Invalid::one("kind", "", format!("is missing; write kind{near}, e.g. kind: NetworkPolicy")));
    }
    name_of(document, kind_of(kind, text("apiVersion"))?)
}

/// The kind of a document; the error says which of the two, `kind` or `apiVersion`, is wrong.
fn kind_of(kind: &str, version: &str) -> Result<Kind, Invalid> {
    let error = match Kind::from_document(&shorten(kind), version) {
        Ok(kind) => return Ok(kind),
        Err(error) => error,
    };
    let wanted: Vec<&str> = Kind::all_written(kind).map(Kind::api_version).collect();
    let known = !wanted.is_empty();
    if !known && Kind::ALL.into_iter().any(|kind| kind.api_version() == version) {
        return Err(Invalid::one("kind", shorten(kind), error.to_string()));
    }
    let wanted = if known { wanted.join(" or ") } else { API_VERSION.to_owned() };
    let reason = match (version, known) {
        ("", _) => format!("is missing; write {wanted}"),
        ("crd.projectcalico.org/v1", _) => {
            format!("'{version}' is the form in which Kubernetes stores these; write {API_VERSION}")
        }
        (_, true) => format!("'{}' is not supported; write {wanted}", shorten(version)),
        (_, false) => format!("'{}' is not supported; kinds of {API_VERSION} are", shorten(version)),
    };
    Err(Invalid::one("apiVersion", shorten(version), reason))
}

fn name_of(document: &Value, kind: Kind) -> Result<Key, Invalid> {
    let root = Spot::root(document);
    let metadata = root.get("metadata");
    let name = metadata.as_ref().and_then(|metadata| metadata.value.get("name"));
    let wrong = |reason: String| {
        let value = name.map(super::shape::plain).unwrap_or_default();
        Err(Invalid::one("metadata.name", shorten(&value), format!("{kind}: {reason}")))
    };
    let name = match name {
        Some(Value::String(name)) if !name.is_empty() => name,
        Some(Value::Number(number)) => return wrong(format!("{number} is a number; put it in quotes")),
        Some(Value::Bool(truth)) => return wrong(format!("{truth} is not text; put it in quotes")),
        _ => return wrong("is missing; write the resource's name".to_owned()),
    };
    if let Err(reason) = text::name(name) {
        return wrong(reason);
    }
    let given = metadata.as_ref().and_then(|metadata| metadata.get("namespace"));
    let namespace = match (kind.is_namespaced(), given) {
        (false, _) => None,
        (true, None) => Some("default".to_owned()),
        (true, Some(given)) => {
            let given = super::shape::plain(given.value);
            if let Err(reason) = text::dns_label(&given) {
                return Err(Invalid::one("metadata.namespace", shorten(&given), format!("{kind} '{name}': {reason}")));
            }
            Some(given)
        }
    };
    Ok(Key { kind, namespace, name: name.clone() })
}

/// What the tables cannot say.
pub(super) fn check(checker: &mut Checker, document: &Value, (kind, scope): (&str, Scope)) {
    let root = Spot::root(document);
    let Some(metadata) = root.get("metadata") else { return };
    if let (Scope::Cluster, Some(namespace)) = (scope, metadata.get("namespace")) {
        let reason = format!("{kind} has no namespace; remove it");
        checker.add(&namespace.path, Some(namespace.value), reason);
    }
    check_annotations(checker, &root);
}

/// The size of the annotations in an object's `metadata`.
pub(super) fn check_annotations(checker: &mut Checker, owner: &Spot<'_>) {
    if let Some(annotations) = owner.get("metadata").and_then(|metadata| metadata.get("annotations"))
        && let Some(object) = annotations.value.as_object()
    {
        let size: usize = object.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
        if size > ANNOTATIONS_LIMIT {
            let reason = format!("are {size} bytes in all; at most {ANNOTATIONS_LIMIT} are allowed");
            checker.add(&annotations.path, None, reason);
        }
    }
}

/// The labels.
pub(super) fn labels(document: &Value) -> Labels {
    let labels = document.pointer("/metadata/labels").and_then(Value::as_object);
    let pairs = labels.into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

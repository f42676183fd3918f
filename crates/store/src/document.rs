//! What the store itself reads and writes in a document: `metadata`, as Kubernetes' API conventions have it
//! (uid, creationTimestamp and resourceVersion belong to the store; name and namespace must be the key's).

use crate::{Error, Revision};
use lasthop_model::Key;
use serde_json::{Map, Value};
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest document, as JSON text.
pub const MAX_DOCUMENT: usize = 512 * 1024;

const UID: &str = "uid";
const CREATED: &str = "creationTimestamp";
const VERSION: &str = "resourceVersion";

/// What the store puts into a document's metadata.
pub(crate) struct Stamp<'a> {
    pub(crate) uid: &'a str,
    pub(crate) created: &'a str,
    pub(crate) revision: Revision,
}

/// Checks that a document is an object whose kind, name and namespace are those of its key, fills in what it
/// leaves out, and takes out what belongs to the store.
pub(crate) fn normalise(key: &Key, mut document: Value) -> Result<Value, Error> {
    let Value::Object(top) = &mut document else {
        return Err(Error::invalid(key, "the document is not an object"));
    };
    agree(key, top, "kind", Some(key.kind.written()))?;
    let metadata = top.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    let Value::Object(metadata) = metadata else {
        return Err(Error::invalid(key, "metadata is not an object"));
    };
    agree(key, metadata, "name", Some(&key.name))?;
    agree(key, metadata, "namespace", key.namespace.as_deref())?;
    for field in [UID, CREATED, VERSION] {
        metadata.remove(field);
    }
    Ok(document)
}

fn agree(key: &Key, object: &mut Map<String, Value>, field: &str, expected: Option<&str>) -> Result<(), Error> {
    match (object.get(field), expected) {
        (None | Some(Value::Null), Some(expected)) => {
            object.insert(field.to_owned(), Value::from(expected));
        }
        (None | Some(Value::Null), None) => {
            object.remove(field);
        }
        (Some(Value::String(found)), Some(expected)) if found == expected => {}
        (Some(found), Some(expected)) => {
            return Err(Error::invalid(key, format!("{field} is {found}, but it is stored as '{expected}'")));
        }
        (Some(found), None) => {
            return Err(Error::invalid(key, format!("{field} is {found}, but the kind has none: leave it out")));
        }
    }
    Ok(())
}

/// A normalised document with the store's fields in it.
pub(crate) fn stamped(mut document: Value, stamp: &Stamp<'_>) -> Value {
    if let Some(Value::Object(metadata)) = document.get_mut("metadata") {
        metadata.insert(UID.into(), Value::from(stamp.uid));
        metadata.insert(CREATED.into(), Value::from(stamp.created));
        metadata.insert(VERSION.into(), Value::from(stamp.revision.to_string()));
    }
    document
}

/// Whether a stored document is a normalised one plus the store's fields.
pub(crate) fn same(stored: &Value, normalised: &Value) -> bool {
    let (Value::Object(old), Value::Object(new)) = (stored, normalised) else { return false };
    old.len() == new.len()
        && new.iter().all(|(field, value)| match (field.as_str(), old.get(field), value) {
            ("metadata", Some(Value::Object(old)), Value::Object(new)) => {
                let ours = [UID, CREATED, VERSION];
                old.iter().filter(|(field, _)| !ours.contains(&field.as_str())).count() == new.len()
                    && new.iter().all(|(field, value)| old.get(field) == Some(value))
            }
            (_, old, value) => old == Some(value),
        })
}

/// A document without what the store puts into its metadata, or leaves out of it: a namespace that is null.
#[must_use]
pub fn unstamped(document: &Value) -> Value {
    let mut document = document.clone();
    if let Some(Value::Object(metadata)) = document.get_mut("metadata") {
        for field in [UID, CREATED, VERSION] {
            metadata.remove(field);
        }
        if metadata.get("namespace").is_some_and(Value::is_null) {
            metadata.remove("namespace");
        }
    }
    document
}

/// The store's own field of a stored document's metadata.
fn own<'a>(document: &'a Value, field: &str) -> &'a str {
    document.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// The uid a stored document was given.
pub(crate) fn uid(document: &Value) -> &str {
    own(document, UID)
}

/// The creation time a stored document was given.
pub(crate) fn created(document: &Value) -> &str {
    own(document, CREATED)
}

/// The revision that a document says it was read at: what a user's edit of it expects to replace.
#[must_use]
pub fn resource_version(document: &Value) -> Option<Revision> {
    own(document, VERSION).parse().ok().map(Revision)
}

/// A time as RFC 3339 section 5.6 writes it, in seconds and UTC.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day (from 1) of a day counted from 1970-01-01, in the Gregorian calendar.
pub(crate) fn civil(day: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01, so that the leap day is the last of its year.
    let day = day + 719_468;
    let era = day / 146_097;
    let of_era = day % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, of_year - (153 * march_month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lasthop_model::Kind;
    use serde_json::json;
    use std::time::Duration;

    fn key() -> Key {
        Key { kind: Kind::WorkloadEndpoint, namespace: Some("default".into()), name: "a".into() }
    }

    #[test]
    fn documents_that_disagree_with_their_key_are_refused() {
        for (document, word) in [
            (json!([]), "not an object"),
            (json!({"kind": "Node"}), "kind"),
            (json!({"metadata": 1}), "metadata"),
            (json!({"metadata": {"name": "b"}}), "name"),
            (json!({"metadata": {"name": 1}}), "name"),
            (json!({"metadata": {"namespace": "other"}}), "namespace"),
        ] {
            let error = normalise(&key(), document.clone()).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{document}: {error}");
        }
        let node = Key { kind: Kind::Node, namespace: None, name: "a".into() };
        assert!(normalise(&node, json!({"metadata": {"namespace": "x"}})).is_err());
    }

    #[test]
    fn what_is_left_out_is_filled_in_and_what_is_ours_taken_out() {
        let given = json!({"metadata": {"uid": "x", "resourceVersion": "7", "labels": {"a": "b"}}, "spec": {}});
        let normal = normalise(&key(), given).unwrap();
        assert_eq!(
            normal,
            json!({"kind": "WorkloadEndpoint", "spec": {},
                   "metadata": {"name": "a", "namespace": "default", "labels": {"a": "b"}}})
        );
        let stored = stamped(normal.clone(), &Stamp { uid: "u", created: "c", revision: Revision(9) });
        assert_eq!((uid(&stored), created(&stored), resource_version(&stored)), ("u", "c", Some(Revision(9))));
        assert!(same(&stored, &normal));
        for other in [
            json!({"kind": "WorkloadEndpoint", "spec": {}, "metadata": {"name": "a", "namespace": "default"}}),
            json!({"kind": "WorkloadEndpoint", "spec": {"x": 1}, "metadata": normal["metadata"]}),
            json!({"kind": "WorkloadEndpoint", "metadata": normal["metadata"]}),
        ] {
            assert!(!same(&stored, &other), "{other}");
        }
    }

    #[test]
    fn times_are_written_as_rfc_3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}

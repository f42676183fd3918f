//! Kinds that are checked but not in force: a document of these can be validated, not applied, so that nobody
//! believes that a reservation reserves anything before it does.

mod controllers;

use super::API_VERSION;
use super::metadata::document;
use super::shape::{Checker, Field, Need, Shape, field};
use super::spot::Spot;
use super::text;
use crate::kind::Scope;
use crate::{Invalid, Resource};
use serde_json::{Map, Value};

/// What is known of such a kind.
struct Later {
    name: &'static str,
    scope: Scope,
    fields: &'static [Field],
    /// What the fields cannot say.
    check: fn(&mut Checker, &Spot<'_>, &str),
}

const fn later(name: &'static str, fields: &'static [Field], check: fn(&mut Checker, &Spot<'_>, &str)) -> Later {
    Later { name, scope: Scope::Cluster, fields, check }
}

const KINDS: &[Later] = &[
    later("IPReservation", &document(RESERVATION, Need::Optional), nothing_more),
    later("IPAMConfiguration", &document(IPAM, Need::Optional), ipam),
    later("KubeControllersConfiguration", &document(controllers::SPEC, Need::Optional), nothing_more),
];

const MANY: usize = 4096;

const RESERVATION: &[Field] = &[field("reservedCIDRs", Shape::List(MANY, &Shape::Checked(text::prefix)))];

const IPAM: &[Field] = &[
    field("strictAffinity", Shape::Truth),
    field("maxBlocksPerHost", Shape::Integer(0, 2_147_483_647)),
    field("autoAllocateBlocks", Shape::Truth),
    field("kubeVirtVMAddressPersistence", Shape::OneOf(&["Enabled", "Disabled"])),
    field("ipCooldownSeconds", Shape::Integer(0, 1200)),
];

/// The kinds that [`check`] knows beside those of [`crate::Kind`].
#[must_use]
pub fn checked_kinds() -> Vec<&'static str> {
    KINDS.iter().map(|later| later.name).collect()
}

/// Checks a document of any kind that there is a check for, in force or not.
///
/// # Errors
/// All that is wrong with the document, field by field.
pub fn check(document: &Value) -> Result<(), Invalid> {
    let name = document.get("kind").and_then(Value::as_str).unwrap_or_default();
    let version = document.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    match (KINDS.iter().find(|later| later.name == name), document.as_object()) {
        (Some(later), Some(object)) if version == API_VERSION => later.check(object, document),
        _ => Resource::parse(document).map(drop),
    }
}

impl Later {
    fn check(&self, object: &Map<String, Value>, document: &Value) -> Result<(), Invalid> {
        let mut checker = Checker::default();
        checker.table("", object, self.fields);
        super::metadata::check(&mut checker, document, (self.name, self.scope));
        let root = Spot::root(document);
        let empty = Value::Object(Map::new());
        let spec = root.get("spec").unwrap_or(Spot { value: &empty, path: "spec".to_owned() });
        let name = root.get("metadata").and_then(|metadata| metadata.text("name")).unwrap_or_default();
        (self.check)(&mut checker, &spec, name);
        if checker.problems.is_empty() { Ok(()) } else { Err(Invalid { key: None, problems: checker.problems }) }
    }
}

fn nothing_more(_checker: &mut Checker, _spec: &Spot<'_>, _name: &str) {}

fn ipam(checker: &mut Checker, spec: &Spot<'_>, _name: &str) {
    let strict = spec.is_set("strictAffinity");
    let automatic = spec.value.get("autoAllocateBlocks").and_then(Value::as_bool).unwrap_or(true);
    if !strict && !automatic {
        let reason = "cannot be false unless spec.strictAffinity is true: no address could be given out";
        checker.add(&spec.path_of("autoAllocateBlocks"), spec.value.get("autoAllocateBlocks"), reason);
    }
    if !strict && spec.number::<u64>("maxBlocksPerHost").is_some_and(|blocks| blocks > 0) {
        let reason = "limits nothing unless spec.strictAffinity is true; set that too, or write 0";
        checker.add(&spec.path_of("maxBlocksPerHost"), spec.value.get("maxBlocksPerHost"), reason);
    }
}

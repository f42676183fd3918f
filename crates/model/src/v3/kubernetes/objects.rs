//! Namespaces and service accounts, for their labels, and endpoint slices, for what stands behind services.

use super::super::metadata::METADATA;
use super::super::policy::protocol_number;
use super::super::shape::{Checker, Field, Shape, field};
use super::super::spot::Spot;
use super::super::text;
use super::MANY;
use crate::policy::{EndpointSlice, Labelled};
use crate::{Invalid, Key, Kind, Labels, Resource};
use serde_json::Value;

const VERSION: Field = field("apiVersion", Shape::Text);
const KIND: Field = field("kind", Shape::Text);
const META: Field = field("metadata", Shape::Table(METADATA)).required();

pub(in super::super) const NAMESPACE: &[Field] = &[
    VERSION,
    KIND,
    META,
    field("spec", Shape::Table(&[field("finalizers", Shape::List(MANY, &Shape::Text))])),
    field("status", Shape::Free),
];

pub(in super::super) const SERVICE_ACCOUNT: &[Field] = &[
    VERSION,
    KIND,
    META,
    field("secrets", Shape::Free),
    field("imagePullSecrets", Shape::Free),
    field("automountServiceAccountToken", Shape::Truth),
];

pub(in super::super) const ENDPOINT_SLICE: &[Field] = &[
    VERSION,
    KIND,
    META,
    field("addressType", Shape::OneOf(&["IPv4", "IPv6", "FQDN"])).required(),
    field("endpoints", Shape::List(MANY, &Shape::Table(ENDPOINT))),
    field("ports", Shape::List(MANY, &Shape::Table(PORT))),
];

const ENDPOINT: &[Field] = &[
    field("addresses", Shape::List(100, &Shape::Text)).required(),
    field(
        "conditions",
        Shape::Table(&[
            field("ready", Shape::Truth),
            field("serving", Shape::Truth),
            field("terminating", Shape::Truth),
        ]),
    ),
    field("hostname", Shape::Text),
    field("nodeName", Shape::Text),
    field("zone", Shape::Text),
    field("hints", Shape::Free),
    field("targetRef", Shape::Free),
    field("deprecatedTopology", Shape::Free),
];

const PORT: &[Field] = &[
    field("name", Shape::Text),
    field("protocol", Shape::OneOf(&["TCP", "UDP", "SCTP"])),
    field("port", Shape::Integer(1, 65535)),
    field("appProtocol", Shape::Text),
];

/// The label that says of which service a slice is.
const SERVICE: &str = "kubernetes.io/service-name";

pub(in super::super) fn convert_labelled(checker: &mut Checker, key: &Key, labels: Labels) -> Resource {
    if key.kind == Kind::Namespace
        && let Err(reason) = text::dns_label(&key.name)
    {
        checker.add("metadata.name", Some(&key.name.clone().into()), reason);
    }
    Resource::Labelled(Labelled { key: key.clone(), labels })
}

/// An endpoint counts as ready unless it says that it is not.
pub(in super::super) fn convert_slice(checker: &mut Checker, root: &Spot<'_>, key: &Key, labels: &Labels) -> Resource {
    let named = root.text("addressType") == Some("FQDN");
    let mut addresses = std::collections::BTreeSet::new();
    for endpoint in root.items("endpoints") {
        let conditions = endpoint.get("conditions");
        let ready = conditions.and_then(|spot| spot.value.get("ready")?.as_bool()).unwrap_or(true);
        for spot in endpoint.items("addresses") {
            match spot.value.as_str().map(str::parse) {
                Some(Ok(address)) if ready && !named => drop(addresses.insert(address)),
                Some(Err(_)) if !named => {
                    if let Err(reason) = text::ip(spot.value.as_str().unwrap_or_default()) {
                        checker.add(&spot.path, Some(spot.value), reason);
                    }
                }
                _ => {}
            }
        }
    }
    let port =
        |spot: &Spot<'_>| Some((protocol_number(spot.text("protocol").unwrap_or("TCP"))?, spot.number::<u16>("port")?));
    Resource::EndpointSlice(EndpointSlice {
        key: key.clone(),
        service: labels.get(SERVICE).cloned().unwrap_or_default(),
        addresses,
        ports: root.items("ports").iter().filter_map(port).collect(),
    })
}

/// What may not change in a slice: its type of address.
pub(crate) fn check_update(old: &Value, new: &Value) -> Result<(), Invalid> {
    let of = |document: &Value| document.get("addressType").and_then(Value::as_str).map(str::to_owned);
    match (of(old), of(new)) {
        (Some(was), Some(is)) if was != is => {
            let reason = format!("'{is}' cannot replace {was}: a slice's type of address is fixed; make another slice");
            Err(Invalid::one("addressType", is, reason))
        }
        _ => Ok(()),
    }
}

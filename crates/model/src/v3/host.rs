//! `HostEndpoint`, and the sets of networks: what rules speak of beside workloads.

use super::metadata::document;
use super::policy::protocol_number;
use super::shape::{Checker, Field, Need, Shape, field, plain};
use super::spot::Spot;
use super::text;
use crate::policy::{HostEndpoint, HostInterface, NamedPort, NetworkSet};
use crate::{Key, Labels, Resource};

const MANY: usize = 4096;

pub(super) const FIELDS: &[Field] = &document(
    &[
        field("node", Shape::Checked(text::name)).required(),
        field("interfaceName", Shape::Checked(text::link_or_all)),
        field("expectedIPs", Shape::List(MANY, &Shape::Checked(text::ip))),
        field("profiles", Shape::List(MANY, &Shape::Checked(text::name))),
        field(
            "ports",
            Shape::List(
                MANY,
                &Shape::Table(&[
                    field("name", Shape::Checked(text::port_name)).required(),
                    field("protocol", Shape::AnyCase(&["TCP", "UDP", "SCTP"])).required(),
                    field("port", Shape::Integer(1, 65535)).required(),
                ]),
            ),
        ),
    ],
    Need::Required,
);

pub(super) const SET_FIELDS: &[Field] =
    &document(&[field("nets", Shape::List(1 << 20, &Shape::Checked(text::prefix)))], Need::Optional);

/// The label that says in which namespace something is, and that nobody gives.
const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";

pub(super) fn convert(checker: &mut Checker, spec: &Spot<'_>, key: &Key, labels: Labels) -> Option<Resource> {
    let addresses = spec.items("expectedIPs");
    let interface = match spec.text("interfaceName") {
        Some("*") => HostInterface::All,
        Some(name) => HostInterface::Named(name.parse().ok()?),
        None => {
            if addresses.is_empty() {
                let reason = "is missing; write an interface, or '*' for all, or give spec.expectedIPs";
                checker.add(&spec.path_of("interfaceName"), None, reason);
            }
            HostInterface::ByAddress
        }
    };
    Some(Resource::HostEndpoint(HostEndpoint {
        name: key.name.clone(),
        node: spec.parse("node")?,
        interface,
        addresses: addresses.iter().filter_map(|spot| plain(spot.value).parse().ok()).collect(),
        profiles: spec.items("profiles").iter().filter_map(|spot| spot.value.as_str().map(str::to_owned)).collect(),
        ports: ports(spec),
        labels,
    }))
}

/// The ports that an endpoint gives names.
pub(super) fn ports(spec: &Spot<'_>) -> Vec<NamedPort> {
    let port = |spot: &Spot<'_>| {
        Some(NamedPort {
            name: spot.text("name")?.to_owned(),
            protocol: protocol_number(spot.text("protocol")?)?,
            port: spot.number("port")?,
        })
    };
    spec.items("ports").iter().filter_map(port).collect()
}

pub(super) fn convert_set(checker: &mut Checker, spec: &Spot<'_>, key: &Key, labels: Labels) -> Resource {
    if let Some(value) = labels.get(NAMESPACE_LABEL) {
        let reason = "is given by the namespace itself; remove it";
        checker.add(&format!("metadata.labels[{NAMESPACE_LABEL}]"), Some(&value.clone().into()), reason);
    }
    let nets = spec.items("nets").iter().filter_map(|spot| plain(spot.value).parse().ok()).collect();
    Resource::NetworkSet(NetworkSet { key: key.clone(), nets, labels })
}

//! `WorkloadEndpoint`, both ways: users and orchestrators write them, and so does the agent.

use super::metadata::METADATA;
use super::shape::{Checker, Field, Shape, field, idle, plain};
use super::spot::Spot;
use super::{API_VERSION, text};
use crate::policy::NamedPort;
use crate::{EndpointKey, Key, Kind, Labels, Resource, WorkloadEndpoint};
use lasthop_net::Prefix;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;

pub(super) const FIELDS: &[Field] = &[
    field("apiVersion", Shape::Text),
    field("kind", Shape::Text),
    field("metadata", Shape::Table(METADATA)).required(),
    field("spec", Shape::Table(SPEC)).required(),
];

const MANY: usize = 4096;

const SPEC: &[Field] = &[
    field("node", Shape::Checked(text::name)).required(),
    field("orchestrator", Shape::Checked(text::name)),
    field("workload", Shape::Text),
    field("containerID", Shape::Checked(text::container_id)),
    field("pod", Shape::Checked(text::name)),
    field("endpoint", Shape::Text),
    field("serviceAccountName", Shape::Text),
    field("interfaceName", Shape::Checked(text::link)).required(),
    field("mac", Shape::Checked(text::mac)),
    field("ipNetworks", Shape::List(MANY, &Shape::Checked(text::host_prefix))),
    field("allowSpoofedSourcePrefixes", Shape::List(MANY, &Shape::Checked(text::prefix))),
    idle("ipNATs", Shape::List(MANY, &Shape::Table(NAT))),
    idle("ipv4Gateway", Shape::Checked(text::ipv4)),
    idle("ipv6Gateway", Shape::Checked(text::ipv6)),
    idle("allowedIps", Shape::List(MANY, &Shape::Checked(text::prefix))),
    field("profiles", Shape::List(MANY, &Shape::Checked(text::name))),
    field("ports", Shape::List(MANY, &Shape::Table(PORT))),
    idle("qosControls", Shape::Table(QOS)),
];

const NAT: &[Field] = &[
    field("internalIP", Shape::Checked(text::ip)).required(),
    field("externalIP", Shape::Checked(text::ip)).required(),
];

const PORT: &[Field] = &[
    field("name", Shape::Checked(text::port_name)),
    field("protocol", Shape::AnyCase(&["TCP", "UDP", "SCTP"])).required(),
    field("port", Shape::Integer(1, 65535)).required(),
    field("hostPort", Shape::Integer(0, 65535)),
    field("hostIP", Shape::Checked(text::ip)),
];

const BIG: Shape = Shape::Integer(0, i64::MAX);

const QOS: &[Field] = &[
    field("ingressBandwidth", BIG),
    field("egressBandwidth", BIG),
    field("ingressBurst", BIG),
    field("egressBurst", BIG),
    field("ingressPeakrate", BIG),
    field("egressPeakrate", BIG),
    field("ingressMinburst", BIG),
    field("egressMinburst", BIG),
    field("ingressPacketRate", BIG),
    field("egressPacketRate", BIG),
    field("ingressPacketBurst", BIG),
    field("egressPacketBurst", BIG),
    field("ingressMaxConnections", BIG),
    field("egressMaxConnections", BIG),
    field("dscp", Shape::Free),
];

pub(super) fn convert(checker: &mut Checker, spec: &Spot<'_>, key: &Key, labels: Labels) -> Option<Resource> {
    let host = |spot: &Spot<'_>| plain(spot.value).parse::<Prefix>().ok().map(Prefix::address);
    let addresses: BTreeSet<IpAddr> = spec.items("ipNetworks").iter().filter_map(host).collect();
    for nat in spec.items("ipNATs") {
        check_nat(checker, &nat, &addresses);
    }
    for port in spec.items("ports") {
        let name = port.path_of("name");
        let host_port: u64 = port.number("hostPort").unwrap_or_default();
        if port.value.is_object() && port.get("name").is_none() && host_port == 0 {
            checker.add(&name, port.value.get("name"), "is missing; name the port, or give it a hostPort");
        }
    }
    Some(Resource::WorkloadEndpoint(WorkloadEndpoint {
        key: EndpointKey { namespace: key.namespace.clone()?, name: key.name.clone() },
        node: spec.parse("node")?,
        link: spec.parse("interfaceName")?,
        mac: spec.parse("mac"),
        addresses,
        allowed_sources: spec
            .items("allowSpoofedSourcePrefixes")
            .iter()
            .filter_map(|spot| plain(spot.value).parse().ok())
            .collect(),
        labels,
        profiles: spec
            .get("profiles")
            .map(|_| spec.items("profiles").iter().filter_map(|spot| spot.value.as_str().map(str::to_owned)).collect()),
        service_account: spec.text("serviceAccountName").map(str::to_owned),
        ports: super::host::ports(spec),
        orchestrator: spec.text("orchestrator").map(str::to_owned),
    }))
}

fn check_nat(checker: &mut Checker, nat: &Spot<'_>, addresses: &BTreeSet<IpAddr>) {
    let (Some(internal), Some(external)) = (nat.parse::<IpAddr>("internalIP"), nat.parse::<IpAddr>("externalIP"))
    else {
        return;
    };
    if internal.is_ipv4() != external.is_ipv4() {
        let reason = format!("'{external}' is not of the same family as the internal address {internal}");
        checker.add(&nat.path_of("externalIP"), nat.value.get("externalIP"), reason);
    }
    if !addresses.contains(&internal) {
        let reason = format!("'{internal}' is not an address of this endpoint; add it to spec.ipNetworks");
        checker.add(&nat.path_of("internalIP"), nat.value.get("internalIP"), reason);
    }
}

/// The document of an endpoint.
pub(crate) fn to_document(endpoint: &WorkloadEndpoint) -> Value {
    let mut metadata = Map::new();
    metadata.insert("name".into(), endpoint.key.name.clone().into());
    metadata.insert("namespace".into(), endpoint.key.namespace.clone().into());
    if !endpoint.labels.is_empty() {
        metadata.insert("labels".into(), json!(endpoint.labels));
    }
    let mut spec = Map::new();
    spec.insert("node".into(), endpoint.node.as_str().into());
    if let Some(orchestrator) = &endpoint.orchestrator {
        spec.insert("orchestrator".into(), orchestrator.clone().into());
    }
    if let Some(account) = &endpoint.service_account {
        spec.insert("serviceAccountName".into(), account.clone().into());
    }
    spec.insert("interfaceName".into(), endpoint.link.as_str().into());
    if let Some(mac) = endpoint.mac {
        spec.insert("mac".into(), mac.to_string().into());
    }
    if !endpoint.addresses.is_empty() {
        let networks: Vec<String> = endpoint.addresses.iter().map(|a| Prefix::host(*a).to_string()).collect();
        spec.insert("ipNetworks".into(), networks.into());
    }
    if !endpoint.allowed_sources.is_empty() {
        let sources: Vec<String> = endpoint.allowed_sources.iter().map(Prefix::to_string).collect();
        spec.insert("allowSpoofedSourcePrefixes".into(), sources.into());
    }
    if let Some(profiles) = &endpoint.profiles {
        spec.insert("profiles".into(), profiles.clone().into());
    }
    if !endpoint.ports.is_empty() {
        let port = |port: &NamedPort| json!({"name": port.name, "protocol": super::policy::protocol_name(port.protocol), "port": port.port});
        spec.insert("ports".into(), endpoint.ports.iter().map(port).collect());
    }
    json!({
        "apiVersion": API_VERSION,
        "kind": Kind::WorkloadEndpoint.name(),
        "metadata": metadata,
        "spec": spec,
    })
}

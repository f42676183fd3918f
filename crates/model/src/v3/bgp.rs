//! `BGPConfiguration` and `BGPPeer`.

use super::metadata::METADATA;
use super::shape::{Checker, Field, Shape, field, idle};
use super::spot::Spot;
use super::text;
use crate::{
    BgpConfiguration, BgpPeer, BindMode, Key, NextHopMode, NodeMatch, PeerTarget, PrefixAdvertisement, Resource,
    ReversePeering, SecretRef, SettingsScope, SourceAddress,
};
use lasthop_net::Asn;
use std::net::IpAddr;

pub(super) const CONFIGURATION_FIELDS: &[Field] = &[
    field("apiVersion", Shape::Text),
    field("kind", Shape::Text),
    field("metadata", Shape::Table(METADATA)).required(),
    field("spec", Shape::Table(CONFIGURATION)),
];

pub(super) const PEER_FIELDS: &[Field] = &[
    field("apiVersion", Shape::Text),
    field("kind", Shape::Text),
    field("metadata", Shape::Table(METADATA)).required(),
    field("spec", Shape::Table(PEER)),
];

/// Entries of a list that a person writes.
const LIST: usize = 500;

const SERVICE_RANGES: Shape =
    Shape::List(LIST, &Shape::Table(&[field("cidr", Shape::Checked(text::prefix)).required()]));

const PASSWORD: Shape = Shape::Table(&[field(
    "secretKeyRef",
    Shape::Table(&[field("name", Shape::Text), field("key", Shape::Text).required(), field("optional", Shape::Truth)]),
)]);

/// Route priorities; the kernel's metric is 32 bits, the API's 31.
pub(super) const PRIORITY: Shape = Shape::Integer(1, 2_147_483_646);

const CONFIGURATION: &[Field] = &[
    field("asNumber", Shape::Asn),
    field("nodeToNodeMeshEnabled", Shape::Truth),
    field("listenPort", Shape::Integer(1, 65535)),
    idle("logSeverityScreen", Shape::AnyCase(&["Trace", "Debug", "Info", "Warning", "Error", "Fatal"])).moot(),
    idle("serviceClusterIPs", SERVICE_RANGES),
    idle("serviceExternalIPs", SERVICE_RANGES),
    idle("serviceLoadBalancerIPs", SERVICE_RANGES),
    idle("serviceLoadBalancerAggregation", Shape::OneOf(&["Enabled", "Disabled"])),
    field(
        "communities",
        Shape::List(
            LIST,
            &Shape::Table(&[
                field("name", Shape::Checked(text::port_name)).required(),
                field("value", Shape::Checked(text::community)).required(),
            ]),
        ),
    ),
    field(
        "prefixAdvertisements",
        Shape::List(
            LIST,
            &Shape::Table(&[
                field("cidr", Shape::Checked(text::prefix)).required(),
                field("communities", Shape::List(LIST, &Shape::Text)).required(),
            ]),
        ),
    ),
    field("nodeMeshPassword", PASSWORD),
    field("nodeMeshMaxRestartTime", Shape::Checked(text::duration)),
    field("bindMode", Shape::AnyCase(&["None", "NodeIP"])),
    idle("ignoredInterfaces", Shape::List(LIST, &Shape::Checked(text::link_wildcard))).moot(),
    idle("localWorkloadPeeringIPV4", Shape::Checked(text::ipv4)),
    idle("localWorkloadPeeringIPV6", Shape::Checked(text::ipv6)),
    idle("programClusterRoutes", Shape::OneOf(&["Enabled", "Disabled", "EnabledNoEncapOnly", "EnabledIPIPOnly"]))
        .moot(),
    idle("ipv4NormalRoutePriority", PRIORITY),
    idle("ipv6NormalRoutePriority", PRIORITY),
];

const PEER: &[Field] = &[
    field("node", Shape::Checked(text::name)),
    field("nodeSelector", Shape::Checked(text::selector)),
    field("peerIP", Shape::Checked(text::peer_address)),
    field("asNumber", Shape::Asn),
    field("peerSelector", Shape::Checked(text::selector)),
    field("localASNumber", Shape::Asn),
    field("nextHopMode", Shape::OneOf(&["Auto", "Self", "Keep"])),
    field("keepOriginalNextHop", Shape::Truth),
    field("keepaliveTime", Shape::Checked(text::duration)),
    field("maxRestartTime", Shape::Checked(text::duration)),
    field("localWorkloadSelector", Shape::Checked(text::selector)),
    field("password", PASSWORD),
    field("sourceAddress", Shape::OneOf(&["UseNodeIP", "None"])),
    field("numAllowedLocalASNumbers", Shape::Integer(0, 255)),
    field("ttlSecurity", Shape::Integer(0, 255)),
    field("reachableBy", Shape::Checked(text::ip)),
    field("filters", Shape::List(LIST, &Shape::Checked(text::name))),
    field("reversePeering", Shape::OneOf(&["Auto", "Manual"])),
];

/// Fields that mean something for the whole cluster only.
const CLUSTER_WIDE: [&str; 4] = ["asNumber", "nodeToNodeMeshEnabled", "nodeMeshPassword", "nodeMeshMaxRestartTime"];

/// Fields of the configuration that ask for something that is not done yet.
const UNSUPPORTED: [&str; 8] = [
    "serviceClusterIPs",
    "serviceExternalIPs",
    "serviceLoadBalancerIPs",
    "serviceLoadBalancerAggregation",
    "localWorkloadPeeringIPV4",
    "localWorkloadPeeringIPV6",
    "ipv4NormalRoutePriority",
    "ipv6NormalRoutePriority",
];

/// Longest restart time that fits into the capability (RFC 4724 section 3: 12 bits).
const RESTART_LIMIT: u64 = 4095;

/// For whom a resource called `default` or `node.<name>` is.
pub(super) fn scope(checker: &mut Checker, key: &Key) -> Option<SettingsScope> {
    if key.name == "default" {
        return Some(SettingsScope::Default);
    }
    if let Some(node) = key.name.strip_prefix("node.")
        && let Ok(node) = node.parse()
    {
        return Some(SettingsScope::Node(node));
    }
    let name = serde_json::Value::String(key.name.clone());
    let reason = format!("'{}' is for no node; name it 'default' or 'node.<name of the node>'", key.name);
    checker.add("metadata.name", Some(&name), reason);
    None
}

pub(super) fn convert_configuration(checker: &mut Checker, spec: &Spot<'_>, key: &Key) -> Option<Resource> {
    let scope = scope(checker, key)?;
    let mesh = spec.value.get("nodeToNodeMeshEnabled").and_then(serde_json::Value::as_bool);
    if scope != SettingsScope::Default {
        for name in CLUSTER_WIDE {
            if let Some(field) = spec.get(name) {
                let reason = "is for the whole cluster; set it in the BGPConfiguration called 'default'";
                checker.add(&field.path, Some(field.value), reason);
            }
        }
    }
    if mesh == Some(false) {
        for name in ["nodeMeshPassword", "nodeMeshMaxRestartTime"] {
            if let Some(field) = spec.get(name) {
                let reason = "is for the mesh, and spec.nodeToNodeMeshEnabled is false; remove one of them";
                checker.add(&field.path, Some(field.value), reason);
            }
        }
    }
    restart_time(checker, spec, "nodeMeshMaxRestartTime");
    communities(checker, spec);
    zero_asn(checker, spec, "asNumber");
    let usual = BgpConfiguration::default();
    let ranges = ["serviceClusterIPs", "serviceExternalIPs", "serviceLoadBalancerIPs"];
    let services = ranges.into_iter().flat_map(|list| spec.items(list)).filter_map(|range| range.parse("cidr"));
    Some(Resource::BgpConfiguration(BgpConfiguration {
        scope,
        asn: spec.parse("asNumber").unwrap_or(usual.asn),
        mesh: mesh.unwrap_or(usual.mesh),
        mesh_password: secret(checker, spec, "nodeMeshPassword"),
        mesh_restart_time: spec.duration("nodeMeshMaxRestartTime"),
        services: services.collect(),
        port: spec.number("listenPort"),
        bind: spec
            .text("bindMode")
            .map(|mode| if mode.eq_ignore_ascii_case("NodeIP") { BindMode::NodeAddress } else { BindMode::All }),
        advertisements: spec.get("prefixAdvertisements").map(|_| advertisements(spec)),
        unsupported: UNSUPPORTED.iter().filter_map(|name| Some(spec.get(name)?.path)).collect(),
    }))
}

/// The communities of each prefix, by value.
fn advertisements(spec: &Spot<'_>) -> Vec<PrefixAdvertisement> {
    let named = spec.items("communities");
    let value = |text: &str| {
        let by_name = named.iter().find(|community| community.text("name") == Some(text));
        by_name.and_then(|community| community.parse("value")).or_else(|| text.parse().ok())
    };
    let read = |item: &Spot<'_>| {
        let communities = item.items("communities");
        let communities = communities.iter().filter_map(|community| value(community.value.as_str()?)).collect();
        Some(PrefixAdvertisement { prefix: item.parse("cidr")?, communities })
    };
    spec.items("prefixAdvertisements").iter().filter_map(read).collect()
}

/// A reference to a secret: each host has its content in a file of that name, so neither part may lead elsewhere.
fn secret(checker: &mut Checker, spec: &Spot<'_>, name: &str) -> Option<SecretRef> {
    let password = spec.get(name)?;
    let Some(reference) = password.get("secretKeyRef") else {
        // The API takes a password that names no secret: one that nobody has.
        return Some(SecretRef { name: String::new(), key: String::new() });
    };
    for part in ["name", "key"] {
        let text = reference.text(part).unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let reason = if text.is_empty() {
            "is missing; a secret is named by name and key".to_owned()
        } else if !text.chars().all(plain) || text.starts_with('.') {
            format!("'{}' is not the name of a secret; use letters, digits, '-', '_', '.'", super::shape::shorten(text))
        } else {
            continue;
        };
        checker.add(&reference.path_of(part), reference.value.get(part), reason);
        return None;
    }
    Some(SecretRef { name: reference.text("name")?.to_owned(), key: reference.text("key")?.to_owned() })
}

/// Every community of a prefix is a value, or the name of one.
fn communities(checker: &mut Checker, spec: &Spot<'_>) {
    let named = spec.items("communities");
    let names: Vec<&str> = named.iter().filter_map(|community| community.text("name")).collect();
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            let path = named[i].path_of("name");
            checker.add(&path, named[i].value.get("name"), format!("'{name}' is defined twice; keep one of them"));
        }
    }
    for advertisement in spec.items("prefixAdvertisements") {
        for community in advertisement.items("communities") {
            let Some(text) = community.value.as_str().filter(|text| !names.contains(text)) else { continue };
            if let Err(reason) = text::community(text) {
                let reason = format!("{reason}, or a name from spec.communities");
                checker.add(&community.path, Some(community.value), reason);
            }
        }
    }
}

fn restart_time(checker: &mut Checker, spec: &Spot<'_>, name: &str) {
    if let Some(time) = spec.duration(name)
        && time.as_secs() > RESTART_LIMIT
    {
        let reason = format!("is longer than BGP can say; write at most {RESTART_LIMIT}s");
        checker.add(&spec.path_of(name), spec.value.get(name), reason);
    }
}

/// AS 0 stands for nobody (RFC 7607).
fn zero_asn(checker: &mut Checker, spec: &Spot<'_>, name: &str) {
    if spec.parse::<Asn>(name) == Some(Asn(0)) {
        checker.add(&spec.path_of(name), spec.value.get(name), "AS 0 is reserved; write 1 to 4294967295");
    }
}

/// A selector that passed its check; the error was noted there.
fn selector(spec: &Spot<'_>, name: &str) -> Option<crate::selector::Selector> {
    spec.text(name).and_then(|text| text.parse().ok())
}

pub(super) fn convert_peer(checker: &mut Checker, spec: &Spot<'_>, key: &Key) -> Option<Resource> {
    exclusive(checker, spec);
    zero_asn(checker, spec, "asNumber");
    zero_asn(checker, spec, "localASNumber");
    restart_time(checker, spec, "maxRestartTime");
    let keepalive = spec.duration("keepaliveTime");
    if keepalive.is_some_and(|time| !(1..=21845).contains(&time.as_secs())) {
        let reason = "is out of range; write 1s to 21845s (the hold time is three times this)";
        checker.add(&spec.path_of("keepaliveTime"), spec.value.get("keepaliveTime"), reason);
    }
    let address = spec.text("peerIP").and_then(text::split_peer_address);
    reachable_by(checker, spec, address.map(|(address, _)| address));
    let nodes = match (spec.parse("node"), selector(spec, "nodeSelector")) {
        (Some(node), _) => NodeMatch::Named(node),
        (None, Some(selector)) => NodeMatch::Selected(selector),
        (None, None) => NodeMatch::All,
    };
    let asn: Option<Asn> = spec.parse("asNumber");
    let target = match (address, selector(spec, "peerSelector"), selector(spec, "localWorkloadSelector")) {
        (Some((address, port)), ..) => PeerTarget::Address { address, port, asn },
        (None, Some(selector), _) => PeerTarget::Nodes(selector),
        (None, None, Some(selector)) => PeerTarget::Workloads { selector, asn: asn? },
        (None, None, None) => PeerTarget::Nobody,
    };
    let next_hop = match spec.text("nextHopMode") {
        Some("Self") => NextHopMode::OurSelf,
        Some("Keep") => NextHopMode::Keep,
        _ if spec.is_set("keepOriginalNextHop") => NextHopMode::Keep,
        _ => NextHopMode::Auto,
    };
    Some(Resource::BgpPeer(BgpPeer {
        name: key.name.clone(),
        nodes,
        target,
        local_asn: spec.parse("localASNumber"),
        next_hop,
        keepalive,
        restart_time: spec.duration("maxRestartTime"),
        password: secret(checker, spec, "password"),
        source: match spec.text("sourceAddress") {
            Some("None") => SourceAddress::Any,
            _ => SourceAddress::Node,
        },
        ttl_security: spec.number::<u8>("ttlSecurity").filter(|hops| *hops > 0),
        allowed_own_as: spec.number("numAllowedLocalASNumbers").unwrap_or(0),
        reachable_by: spec.parse("reachableBy"),
        filters: spec.items("filters").iter().filter_map(|name| Some(name.value.as_str()?.to_owned())).collect(),
        reverse: match spec.text("reversePeering") {
            Some("Manual") => ReversePeering::Manual,
            _ => ReversePeering::Auto,
        },
    }))
}

/// Fields that rule each other out, or need each other.
fn exclusive(checker: &mut Checker, spec: &Spot<'_>) {
    let has = |name: &str| spec.get(name).is_some();
    for (first, second, why) in [
        ("node", "nodeSelector", "both say which nodes peer"),
        ("peerIP", "peerSelector", "both say whom to peer with"),
        ("peerIP", "localWorkloadSelector", "both say whom to peer with"),
        ("peerSelector", "localWorkloadSelector", "both say whom to peer with"),
        ("peerSelector", "asNumber", "the AS of a node comes from the node"),
    ] {
        if has(first) && has(second) {
            let reason = format!("cannot be set together with spec.{first}: {why}; remove one of them");
            checker.add(&spec.path_of(second), spec.value.get(second), reason);
        }
    }
    if has("localWorkloadSelector") && !has("asNumber") {
        checker.add(&spec.path_of("asNumber"), None, "is missing; spec.localWorkloadSelector needs the workloads' AS");
    }
    if spec.is_set("keepOriginalNextHop") && has("nextHopMode") {
        let reason = "is the older way to say spec.nextHopMode: Keep; remove it";
        checker.add(&spec.path_of("keepOriginalNextHop"), spec.value.get("keepOriginalNextHop"), reason);
    }
}

fn reachable_by(checker: &mut Checker, spec: &Spot<'_>, peer: Option<IpAddr>) {
    let Some(gateway) = spec.parse::<IpAddr>("reachableBy") else { return };
    let reason = match peer {
        None => format!("'{gateway}' is a gateway to spec.peerIP, which is not set; set it, or remove this"),
        Some(peer) if peer.is_ipv4() != gateway.is_ipv4() => {
            format!("'{gateway}' is not of the same family as the peer {peer}")
        }
        Some(_) => return,
    };
    checker.add(&spec.path_of("reachableBy"), spec.value.get("reachableBy"), reason);
}

//! Rules, as policies and profiles write them: the table of their fields, what the table cannot say, and what they mean.
//!
//! A rule that speaks of HTTP matches no packet: nothing here reads requests, and to let pass all that a request might
//! come in would be more than was asked for.

use super::super::metadata::check_annotations;
use super::super::shape::{Checker, Field, Shape, field, idle, plain};
use super::super::spot::Spot;
use super::super::text as common;
use super::text;
use crate::policy::{Action, Icmp, Peer, Port, Rule, ServiceName};
use crate::{Scope, selector::Selector};
use lasthop_net::{Family, Prefix};

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
/// Protocols that have ports: TCP, UDP, SCTP.
const WITH_PORTS: [u8; 3] = [TCP, 17, 132];

const PROTOCOL: Shape = Shape::Scalar(text::protocol, "a protocol: a name such as TCP, or a number from 1 to 255");
const PORTS: Shape = Shape::List(
    50,
    &Shape::Scalar(text::port, "a port from 1 to 65535, a range such as 20000:29999, or the name of a port"),
);
const NETS: Shape = Shape::List(256, &Shape::Checked(common::prefix));

/// The list of rules of one direction.
pub(super) const RULES: Shape = Shape::List(1024, &Shape::Table(RULE));

const RULE: &[Field] = &[
    field("action", Shape::OneOf(&["Allow", "Deny", "Log", "Pass"])).required(),
    field("ipVersion", Shape::Integer(4, 6)),
    field("protocol", PROTOCOL),
    field("notProtocol", PROTOCOL),
    field("icmp", Shape::Table(ICMP_FIELDS)),
    field("notICMP", Shape::Table(ICMP_FIELDS)),
    field("source", Shape::Table(ENTITY)),
    field("destination", Shape::Table(ENTITY)),
    idle("http", Shape::Table(HTTP)).closed(),
    field("metadata", Shape::Table(&[field("annotations", Shape::Map(common::annotation_key, &Shape::Text))])),
];

const ICMP_FIELDS: &[Field] = &[field("type", Shape::Integer(0, 254)), field("code", Shape::Integer(0, 255))];

const ENTITY: &[Field] = &[
    field("nets", NETS),
    field("notNets", NETS),
    field("selector", Shape::Checked(text::selector)),
    field("notSelector", Shape::Checked(text::selector)),
    field("namespaceSelector", Shape::Checked(text::namespace_selector)),
    field("serviceAccounts", Shape::Table(SERVICE_ACCOUNTS)),
    field("services", Shape::Table(SERVICE)),
    field("ports", PORTS),
    field("notPorts", PORTS),
];

const SERVICE_ACCOUNTS: &[Field] = &[
    field("names", Shape::List(4096, &Shape::Checked(common::name))),
    field("selector", Shape::Checked(text::selector)),
];

const SERVICE: &[Field] =
    &[field("name", Shape::Checked(common::name)).required(), field("namespace", Shape::Checked(common::dns_label))];

const HTTP: &[Field] = &[
    field("methods", Shape::List(20, &Shape::Checked(text::http_method))),
    field(
        "paths",
        Shape::List(
            4096,
            &Shape::Table(&[
                field("exact", Shape::Checked(text::http_path)),
                field("prefix", Shape::Checked(text::http_path)),
            ]),
        ),
    ),
];

/// Which way the packets of a rule go, seen from the endpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub(super) const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The field that holds its rules.
    pub(super) fn field(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// The rules of one direction.
pub(super) fn rules(checker: &mut Checker, spec: &Spot<'_>, (direction, scope): (Direction, Scope)) -> Vec<Rule> {
    let mut rules = Vec::new();
    for spot in spec.items(direction.field()) {
        check_protocol(checker, &spot);
        check_nets(checker, &spot);
        check_http(checker, &spot, direction);
        check_annotations(checker, &spot);
        for side in ["source", "destination"] {
            check_ports(checker, &spot, side);
            check_service(checker, &spot, (side, direction, scope));
        }
        rules.extend(rule(&spot));
    }
    rules
}

fn rule(spot: &Spot<'_>) -> Option<Rule> {
    let protocol = |name| text::protocol_number(&plain(spot.get(name)?.value));
    let icmp = |name| {
        let spot = spot.get(name)?;
        Some(Icmp { kind: spot.number("type")?, code: spot.number("code") })
    };
    let mut rule = Rule {
        action: match spot.text("action")? {
            "Allow" => Action::Allow,
            "Deny" => Action::Deny,
            "Log" => Action::Log,
            "Pass" => Action::Pass,
            _ => return None,
        },
        family: family(spot),
        protocol: protocol("protocol"),
        not_protocol: protocol("notProtocol"),
        icmp: icmp("icmp"),
        not_icmp: icmp("notICMP"),
        source: peer(spot.get("source").as_ref()),
        destination: peer(spot.get("destination").as_ref()),
    };
    if spot.get("http").is_some() {
        rule.source = super::nobody();
    }
    Some(rule)
}

fn family(spot: &Spot<'_>) -> Option<Family> {
    match spot.number::<u8>("ipVersion")? {
        4 => Some(Family::V4),
        6 => Some(Family::V6),
        _ => None,
    }
}

fn peer(spot: Option<&Spot<'_>>) -> Peer {
    let Some(spot) = spot else { return Peer::default() };
    let selector = |spot: &Spot<'_>, name: &str| spot.parse::<Selector>(name);
    let ports = |name: &str| -> Vec<Port> {
        spot.items(name).iter().filter_map(|spot| text::port_of(&plain(spot.value))).collect()
    };
    let accounts = spot.get("serviceAccounts");
    let service = spot.get("services");
    Peer {
        nets: prefixes(spot, "nets"),
        not_nets: prefixes(spot, "notNets"),
        selector: selector(spot, "selector"),
        not_selector: selector(spot, "notSelector"),
        namespaces: selector(spot, "namespaceSelector"),
        service_account_names: accounts
            .iter()
            .flat_map(|spot| spot.items("names"))
            .filter_map(|spot| spot.value.as_str().map(str::to_owned))
            .collect(),
        service_accounts: accounts.as_ref().and_then(|spot| selector(spot, "selector")),
        service: service.and_then(|spot| {
            let namespace = spot.text("namespace").map(str::to_owned);
            Some(ServiceName { namespace, name: spot.text("name")?.to_owned() })
        }),
        ports: ports("ports"),
        not_ports: ports("notPorts"),
    }
}

fn prefixes(spot: &Spot<'_>, name: &str) -> Vec<Prefix> {
    spot.items(name).iter().filter_map(|spot| plain(spot.value).parse().ok()).collect()
}

/// ICMP is of IPv4 and ICMPv6 of IPv6, and only they have types.
fn check_protocol(checker: &mut Checker, spot: &Spot<'_>) {
    let number = |name| spot.get(name).and_then(|spot| text::protocol_number(&plain(spot.value)));
    if spot.number::<u8>("ipVersion") == Some(5) {
        checker.add(&spot.path_of("ipVersion"), spot.value.get("ipVersion"), "5 is no version of IP; write 4 or 6");
    }
    for name in ["protocol", "notProtocol"] {
        let (family, other) = match (number(name), family(spot)) {
            (Some(ICMP), Some(Family::V6)) => ("IPv4", "ICMPv6"),
            (Some(ICMP_V6), Some(Family::V4)) => ("IPv6", "ICMP"),
            _ => continue,
        };
        let given = spot.value.get(name).map(plain).unwrap_or_default();
        let reason =
            format!("{given} is of {family}, but ipVersion says otherwise; write {other}, or change ipVersion");
        checker.add(&spot.path_of(name), spot.value.get(name), reason);
    }
    for name in ["icmp", "notICMP"] {
        let Some(icmp) = spot.get(name).filter(|icmp| icmp.value.is_object()) else { continue };
        if icmp.get("code").is_some() && icmp.get("type").is_none() {
            let reason = "has no meaning without a type; write the type too";
            checker.add(&icmp.path_of("code"), icmp.value.get("code"), reason);
        } else if !matches!(number("protocol"), Some(ICMP | ICMP_V6)) {
            checker.add(&icmp.path, None, "is only for protocol ICMP or ICMPv6; set protocol, or remove this");
        }
    }
}

/// All prefixes of a rule are of one family; what is excluded leaves something.
fn check_nets(checker: &mut Checker, spot: &Spot<'_>) {
    let wanted = family(spot);
    let mut seen: Option<(Family, String)> = None;
    for side in ["source", "destination"].iter().filter_map(|side| spot.get(side)) {
        for item in ["nets", "notNets"].into_iter().flat_map(|name| side.items(name)) {
            let Some(prefix) = item.value.as_str().and_then(|text| text.parse::<Prefix>().ok()) else { continue };
            let is = prefix.family();
            if prefix.len() == 0 && item.path.contains(".notNets[") {
                let reason = format!("'{prefix}' leaves no address, so that the rule matches nothing; remove it");
                checker.add(&item.path, Some(item.value), reason);
            }
            match (&seen, wanted) {
                (_, Some(wanted)) if wanted != is => {
                    let reason = format!("'{prefix}' is {is}, but ipVersion is that of {wanted}; make them the same");
                    checker.add(&item.path, Some(item.value), reason);
                }
                (Some((other, path)), None) if *other != is => {
                    let reason =
                        format!("'{prefix}' is {is}, but {path} is {other}: no packet is both; write two rules");
                    checker.add(&item.path, Some(item.value), reason);
                }
                (None, _) => seen = Some((is, item.path.clone())),
                _ => {}
            }
        }
    }
}

/// Ports need a protocol that has them; names of ports say the protocol themselves.
fn check_ports(checker: &mut Checker, spot: &Spot<'_>, side: &str) {
    let protocol = spot.get("protocol").map(|spot| plain(spot.value));
    let number = protocol.as_deref().and_then(text::protocol_number);
    let Some(side) = spot.get(side) else { return };
    for name in ["ports", "notPorts"] {
        let items = side.items(name);
        let named = |spot: &Spot<'_>| matches!(text::port_of(&plain(spot.value)), Some(Port::Named(_)));
        let reason = match (&protocol, number) {
            (None, _) if !items.iter().all(named) => {
                "need a protocol that has ports; set protocol to TCP, UDP or SCTP".to_owned()
            }
            (Some(protocol), Some(number)) if !items.is_empty() && !WITH_PORTS.contains(&number) => {
                format!("protocol {protocol} has no ports; set protocol to TCP, UDP or SCTP, or remove the ports")
            }
            _ => continue,
        };
        checker.add(&side.path_of(name), side.value.get(name), reason);
    }
}

/// A service stands alone, and on the far side of the packet.
fn check_service(checker: &mut Checker, spot: &Spot<'_>, (side_name, direction, scope): (&str, Direction, Scope)) {
    let Some(side) = spot.get(side_name) else { return };
    let Some(service) = side.get("services").filter(|service| service.value.is_object()) else { return };
    let far = match direction {
        Direction::Ingress => "source",
        Direction::Egress => "destination",
    };
    if side_name != far {
        let reason = format!("cannot stand in the {side_name} of {} rules; name the {far}", direction.field());
        return checker.add(&service.path, None, reason);
    }
    // A service of the source stands for addresses, one of the destination for addresses and ports.
    let ports: &[&str] = if far == "destination" { &["ports", "notPorts"] } else { &[] };
    let others = ["nets", "notNets", "selector", "notSelector", "namespaceSelector", "serviceAccounts"];
    for name in others.iter().chain(ports) {
        let empty = |spot: &Spot<'_>| spot.value.as_array().is_some_and(Vec::is_empty);
        if side.get(name).is_some_and(|other| !empty(&other)) {
            let reason = format!("cannot stand beside {name}; write two rules, or remove one of them");
            checker.add(&service.path, None, reason);
        }
    }
    if scope == Scope::Cluster && service.get("namespace").is_none() {
        let reason = "is missing; a policy without a namespace must say whose service it means";
        checker.add(&service.path_of("namespace"), None, reason);
    }
}

fn check_http(checker: &mut Checker, spot: &Spot<'_>, direction: Direction) {
    let Some(http) = spot.get("http").filter(|http| http.value.is_object()) else { return };
    let protocol = spot.get("protocol").map(|spot| plain(spot.value));
    if direction == Direction::Egress {
        checker.add(&http.path, None, "is only for ingress rules; remove it");
    }
    if spot.text("action").is_some_and(|action| action != "Allow") {
        checker.add(&http.path, None, "is only for rules with action Allow; remove it, or change the action");
    }
    if let Some(protocol) = protocol.filter(|protocol| text::protocol_number(protocol) != Some(TCP)) {
        let reason =
            format!("is only for protocol TCP, not {}; change the protocol", super::super::shape::shorten(&protocol));
        checker.add(&http.path, None, reason);
    }
    check_unique(checker, &http, "methods");
    for path in http.items("paths").iter().filter(|path| path.value.is_object()) {
        match (path.get("exact"), path.get("prefix")) {
            (Some(_), Some(_)) => checker.add(&path.path, None, "has both exact and prefix; remove one of them"),
            (None, None) => checker.add(&path.path, None, "is empty; write exact or prefix"),
            _ => {}
        }
    }
}

/// No text is in that list twice.
pub(super) fn check_unique(checker: &mut Checker, spot: &Spot<'_>, name: &str) {
    let mut seen = std::collections::BTreeSet::new();
    for item in spot.items(name) {
        if let Some(word) = item.value.as_str().filter(|word| !seen.insert(*word)) {
            checker.add(
                &item.path,
                Some(item.value),
                format!("'{}' is there twice; remove one", super::super::shape::shorten(word)),
            );
        }
    }
}

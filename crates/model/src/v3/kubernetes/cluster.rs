//! `ClusterNetworkPolicy` of policy.networking.k8s.io/v1alpha2, as a policy of ours in the tier `kube-admin` or
//! `kube-baseline`, its priority as order.
//!
//! What a peer says that is not known here fails closed, as the API asks: the rule matches nothing if it accepts, and
//! denies everything otherwise.

use super::super::metadata::METADATA;
use super::super::policy::{nobody, port_of};
use super::super::shape::{Checker, Field, Shape, field, idle, plain};
use super::super::spot::Spot;
use super::super::text;
use super::{LABEL_SELECTOR, check_one_of, selector, subject, table};
use crate::policy::{Action, Peer, Policy, Port, PortRange, Rule, Stage, Staging, Subject};
use crate::{Key, Resource};
use std::sync::Arc;

pub(in super::super) const FIELDS: &[Field] = &[
    field("apiVersion", Shape::Text),
    field("kind", Shape::Text),
    field("metadata", Shape::Table(METADATA)).required(),
    field("spec", Shape::Table(SPEC)).required(),
    field("status", Shape::Free),
];

/// Most entries of every list of the API.
const LIST: usize = 25;

const SPEC: &[Field] = &[
    field("tier", Shape::OneOf(&["Admin", "Baseline"])).required(),
    field("priority", Shape::Integer(0, 1000)).required(),
    field("subject", Shape::Table(PODS)).required(),
    field("ingress", Shape::List(LIST, &Shape::Table(INGRESS))),
    field("egress", Shape::List(LIST, &Shape::Table(EGRESS))),
];

const PODS: &[Field] = &[field("namespaces", LABEL_SELECTOR), field("pods", NAMESPACED_PODS)];

const NAMESPACED_PODS: Shape =
    Shape::Table(&[field("namespaceSelector", LABEL_SELECTOR), field("podSelector", LABEL_SELECTOR)]);

const NAME: Field = field("name", Shape::Text);
const ACTION: Field = field("action", Shape::OneOf(&["Accept", "Deny", "Pass"])).required();
const PROTOCOLS: Field = field("protocols", Shape::List(LIST, &Shape::Table(PROTOCOL)));

const INGRESS: &[Field] = &[NAME, ACTION, field("from", Shape::List(LIST, &Shape::Table(PODS))).required(), PROTOCOLS];
const EGRESS: &[Field] =
    &[NAME, ACTION, field("to", Shape::List(LIST, &Shape::Table(EGRESS_PEER))).required(), PROTOCOLS];

const EGRESS_PEER: &[Field] = &[
    field("namespaces", LABEL_SELECTOR),
    field("pods", NAMESPACED_PODS),
    field("networks", Shape::List(LIST, &Shape::Checked(text::prefix))),
    idle("nodes", LABEL_SELECTOR).closed(),
    idle("domainNames", Shape::List(LIST, &Shape::Text)).closed(),
];

const PROTOCOL: &[Field] = &[
    field("tcp", PORTS),
    field("udp", PORTS),
    field("sctp", PORTS),
    field("destinationNamedPort", Shape::Checked(text::port_name)),
];

const PORTS: Shape = Shape::Table(&[field("destinationPort", Shape::Table(PORT)).required()]);

const PORT_NUMBER: Shape = Shape::Integer(1, 65535);

const PORT: &[Field] = &[
    field("number", PORT_NUMBER),
    field("range", Shape::Table(&[field("start", PORT_NUMBER).required(), field("end", PORT_NUMBER).required()])),
];

pub(in super::super) fn convert(checker: &mut Checker, spec: &Spot<'_>, key: &Key) -> Option<Resource> {
    let subject = match table(spec, "subject") {
        Some(spot) => {
            check_one_of(checker, &spot, PODS);
            whom(checker, &spot)?
        }
        None => return None,
    };
    let ingress = rules(checker, spec, ("ingress", "from"));
    let egress = rules(checker, spec, ("egress", "to"));
    Some(Resource::Policy(Arc::new(Policy {
        key: key.clone(),
        tier: match spec.text("tier")? {
            "Admin" => "kube-admin".to_owned(),
            _ => "kube-baseline".to_owned(),
        },
        order: Some(f64::from(spec.number::<u32>("priority")?)),
        staging: Staging::Enforced,
        subject,
        stage: Stage::Normal,
        // A direction without rules is one that the policy does not speak of.
        ingress: (!spec.items("ingress").is_empty()).then_some(ingress),
        egress: (!spec.items("egress").is_empty()).then_some(egress),
    })))
}

/// The pods that `namespaces` or `pods` selects.
fn whom(checker: &mut Checker, spot: &Spot<'_>) -> Option<Subject> {
    if let Some(namespaces) = table(spot, "namespaces") {
        return Some(subject(checker, None, Some(&namespaces)));
    }
    let both = table(spot, "pods")?;
    // Not said is all of them.
    let namespaces =
        table(&both, "namespaceSelector").unwrap_or(Spot { value: &serde_json::Value::Null, ..both.clone() });
    Some(subject(checker, table(&both, "podSelector").as_ref(), Some(&namespaces)))
}

fn rules(checker: &mut Checker, spec: &Spot<'_>, (direction, far): (&'static str, &str)) -> Vec<Rule> {
    let mut rules = Vec::new();
    for spot in spec.items(direction) {
        let action = match spot.text("action") {
            Some("Accept") => Action::Allow,
            Some("Pass") => Action::Pass,
            _ => Action::Deny,
        };
        if spot.text("name").is_some_and(|name| name.chars().count() > 100) {
            checker.add(
                &spot.path_of("name"),
                spot.value.get("name"),
                "is too long; a rule's name has at most 100 characters",
            );
        }
        for name in [far, "protocols"] {
            if spot.get(name).is_some_and(|list| list.value.as_array().is_some_and(Vec::is_empty)) {
                checker.add(&spot.path_of(name), None, "is empty; write at least one");
            }
        }
        let protocols = protocols(checker, &spot);
        for item in spot.items(far) {
            match peer(checker, &item, (direction, action)) {
                Some(peer) => rules.extend(protocols.iter().map(|ports| rule(direction, action, (&peer, ports)))),
                None if action == Action::Allow => {
                    rules.push(rule(direction, action, (&nobody(), &(None, Vec::new()))))
                }
                None => rules.push(rule(direction, Action::Deny, (&Peer::default(), &(None, Vec::new())))),
            }
            if item.get("networks").is_some() {
                check_named(checker, &spot);
            }
        }
    }
    rules
}

fn rule(direction: &str, action: Action, (peer, (protocol, ports)): (&Peer, &(Option<u8>, Vec<Port>))) -> Rule {
    let to = Peer { ports: ports.clone(), ..Peer::default() };
    let (source, destination) = match direction {
        "ingress" => (peer.clone(), to),
        _ => (Peer::default(), Peer { ports: ports.clone(), ..peer.clone() }),
    };
    Rule {
        action,
        family: None,
        protocol: *protocol,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source,
        destination,
    }
}

/// One peer; `None` if it cannot be told here whom it means.
fn peer(checker: &mut Checker, spot: &Spot<'_>, (direction, action): (&str, Action)) -> Option<Peer> {
    check_one_of(checker, spot, if direction == "ingress" { PODS } else { EGRESS_PEER });
    if let Some(networks) = spot.get("networks") {
        if networks.value.as_array().is_some_and(Vec::is_empty) {
            checker.add(&networks.path, None, "is empty; write at least one");
        }
        let nets = spot.items("networks").iter().filter_map(|spot| plain(spot.value).parse().ok()).collect();
        return Some(Peer { nets, ..Peer::default() });
    }
    if spot.get("domainNames").is_some() && action != Action::Allow {
        checker.add(&spot.path_of("domainNames"), None, "is only for rules with action Accept; remove it");
    }
    if let Some(nodes) = table(spot, "nodes") {
        // Checked all the same.
        selector(checker, &nodes);
    }
    let Subject { selector, namespaces, .. } = whom(checker, spot)?;
    Some(Peer { selector: Some(selector), namespaces, ..Peer::default() })
}

/// The protocols and ports of a rule; one entry, of any protocol, if the rule does not say.
fn protocols(checker: &mut Checker, spot: &Spot<'_>) -> Vec<(Option<u8>, Vec<Port>)> {
    let mut all = Vec::new();
    for spot in spot.items("protocols") {
        check_one_of(checker, &spot, PROTOCOL);
        for (name, number) in [("tcp", 6), ("udp", 17), ("sctp", 132)] {
            let Some(port) = spot.get(name).and_then(|spot| table(&spot, "destinationPort")) else { continue };
            check_one_of(checker, &port, PORT);
            all.push((Some(number), numbers(checker, &port)));
        }
        if let Some(name) = spot.text("destinationNamedPort") {
            all.push((None, vec![Port::Named(name.to_owned())]));
        }
    }
    if all.is_empty() {
        all.push((None, Vec::new()));
    }
    all
}

fn numbers(checker: &mut Checker, port: &Spot<'_>) -> Vec<Port> {
    if let Some(number) = port.get("number") {
        return port_of(&plain(number.value)).into_iter().collect();
    }
    let Some(range) = port.get("range") else { return Vec::new() };
    let (Some(start), Some(end)) = (range.number::<u16>("start"), range.number::<u16>("end")) else {
        return Vec::new();
    };
    if start >= end {
        let reason = format!("{end} is not greater than start ({start}); swap them, or write number");
        checker.add(&range.path_of("end"), range.value.get("end"), reason);
    }
    PortRange::new(start, end).map(Port::Range).into_iter().collect()
}

/// What is no pod gives its ports no names.
fn check_named(checker: &mut Checker, rule: &Spot<'_>) {
    for spot in rule.items("protocols") {
        if spot.get("destinationNamedPort").is_some() {
            let reason = "cannot stand in a rule with networks, whose ports have no names; write two rules";
            checker.add(&spot.path_of("destinationNamedPort"), None, reason);
        }
    }
}

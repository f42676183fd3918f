//! `NetworkPolicy` of networking.k8s.io/v1 and its staged form, as a policy of ours: tier `default`, order 1000.
//!
//! It only allows. A rule for several peers and protocols becomes one for each pair of them.

use super::super::metadata::{METADATA, document};
use super::super::policy::{STAGED_ACTION, port_of, protocol_number, staged_action};
use super::super::shape::{Checker, Field, Need, Shape, field, plain};
use super::super::spot::Spot;
use super::super::text;
use super::{LABEL_SELECTOR, MANY, pods, selector, subject, table};
use crate::policy::{Action, Peer, Policy, Port, PortRange, Rule, Stage, Staging};
use crate::{Key, Kind, Resource};
use lasthop_net::Prefix;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The order of all of them.
const ORDER: f64 = 1000.0;
const TCP: u8 = 6;

const PODS: Field = field("podSelector", LABEL_SELECTOR);
const TYPES: Field = field("policyTypes", Shape::List(2, &Shape::OneOf(&["Ingress", "Egress"])));
const INGRESS: Field =
    field("ingress", Shape::List(MANY, &Shape::Table(&[field("from", PEERS), field("ports", PORTS)])));
const EGRESS: Field = field("egress", Shape::List(MANY, &Shape::Table(&[field("to", PEERS), field("ports", PORTS)])));

pub(in super::super) const FIELDS: &[Field] = &[
    field("apiVersion", Shape::Text),
    field("kind", Shape::Text),
    field("metadata", Shape::Table(METADATA)).required(),
    field("spec", Shape::Table(&[PODS, TYPES, INGRESS, EGRESS])).required(),
    field("status", Shape::Free),
];

pub(in super::super) const STAGED: &[Field] = &document(&[STAGED_ACTION, PODS, TYPES, INGRESS, EGRESS], Need::Optional);

const PEERS: Shape = Shape::List(MANY, &Shape::Table(PEER));

const PEER: &[Field] = &[
    field("podSelector", LABEL_SELECTOR),
    field("namespaceSelector", LABEL_SELECTOR),
    field(
        "ipBlock",
        Shape::Table(&[
            field("cidr", Shape::Checked(text::prefix)).required(),
            field("except", Shape::List(MANY, &Shape::Checked(text::prefix))),
        ]),
    ),
];

const PORTS: Shape = Shape::List(MANY, &Shape::Table(PORT));

const PORT: &[Field] = &[
    field("protocol", Shape::OneOf(&["TCP", "UDP", "SCTP"])),
    field("port", Shape::Scalar(port, "a port from 1 to 65535, or the name of a port")),
    field("endPort", Shape::Integer(1, 65535)),
];

/// A port: a number or a name.
fn port(given: &str) -> Result<(), String> {
    match port_of(given) {
        Some(_) if !given.contains(':') => Ok(()),
        Some(_) => Err(format!("'{given}' is a range; write its first port here and its last in endPort")),
        None => Err(format!(
            "'{}' is not a port; write 1 to 65535, or the name of a port",
            super::super::shape::shorten(given)
        )),
    }
}

pub(in super::super) fn convert(checker: &mut Checker, spec: &Spot<'_>, key: &Key) -> Resource {
    let staging = match key.kind {
        Kind::StagedKubernetesNetworkPolicy => Staging::Staged(staged_action(checker, spec)),
        _ => Staging::Enforced,
    };
    let ingress = rules(checker, spec, ("ingress", "from"));
    let egress = rules(checker, spec, ("egress", "to"));
    let types = spec.items("policyTypes");
    let says = |word: &str| types.iter().any(|spot| spot.value == word);
    // Not said: of ingress always, of egress if it has rules for that.
    let of_ingress = types.is_empty() || says("Ingress");
    let of_egress = if types.is_empty() { !spec.items("egress").is_empty() } else { says("Egress") };
    Resource::Policy(Arc::new(Policy {
        key: key.clone(),
        tier: "default".to_owned(),
        order: Some(ORDER),
        staging,
        subject: subject(checker, spec.get("podSelector").as_ref(), None),
        stage: Stage::Normal,
        ingress: of_ingress.then_some(ingress),
        egress: of_egress.then_some(egress),
    }))
}

fn rules(checker: &mut Checker, spec: &Spot<'_>, (direction, far): (&str, &str)) -> Vec<Rule> {
    let mut rules = Vec::new();
    for spot in spec.items(direction) {
        let mut peers: Vec<Peer> = spot.items(far).iter().map(|spot| peer(checker, spot)).collect();
        if peers.is_empty() {
            peers.push(Peer::default());
        }
        let ports = ports(checker, &spot);
        for peer in peers {
            for (protocol, ports) in &ports {
                let to = Peer { ports: ports.clone(), ..Peer::default() };
                let (source, destination) = match direction {
                    "ingress" => (peer.clone(), to),
                    _ => (Peer::default(), Peer { ports: ports.clone(), ..peer.clone() }),
                };
                rules.push(allow(*protocol, source, destination));
            }
        }
    }
    rules
}

fn allow(protocol: Option<u8>, source: Peer, destination: Peer) -> Rule {
    Rule {
        action: Action::Allow,
        family: None,
        protocol,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source,
        destination,
    }
}

/// One peer. Pods by label are those of the policy's own namespace unless namespaces are named too.
fn peer(checker: &mut Checker, spot: &Spot<'_>) -> Peer {
    let [of_pods, of_namespaces, block] = ["podSelector", "namespaceSelector", "ipBlock"].map(|name| table(spot, name));
    if let Some(block) = block {
        if of_pods.is_some() || of_namespaces.is_some() {
            checker.add(&block.path, None, "cannot stand beside a selector; write two peers");
        }
        return block_peer(checker, &block);
    }
    if of_pods.is_none() && of_namespaces.is_none() {
        checker.add(&spot.path, None, "is empty; write podSelector, namespaceSelector or ipBlock");
    }
    Peer {
        selector: Some(pods(checker, of_pods.as_ref())),
        namespaces: of_namespaces.map(|spot| selector(checker, &spot)),
        ..Peer::default()
    }
}

fn block_peer(checker: &mut Checker, block: &Spot<'_>) -> Peer {
    let cidr: Option<Prefix> = block.parse("cidr");
    let mut not_nets = Vec::new();
    for spot in block.items("except") {
        let Some(except) = spot.value.as_str().and_then(|text| text.parse::<Prefix>().ok()) else { continue };
        if let Some(cidr) = cidr
            && !(cidr.family() == except.family() && cidr.len() < except.len() && cidr.contains(except.address()))
        {
            let reason = format!("'{except}' is not a part of {cidr}; write one that is");
            checker.add(&spot.path, Some(spot.value), reason);
        }
        not_nets.push(except);
    }
    Peer { nets: cidr.into_iter().collect(), not_nets, ..Peer::default() }
}

/// The ports of a rule, by protocol; no ports: any. One entry, of any protocol, if the rule says nothing of ports.
fn ports(checker: &mut Checker, spot: &Spot<'_>) -> BTreeMap<Option<u8>, Vec<Port>> {
    let mut by_protocol: BTreeMap<Option<u8>, Option<Vec<Port>>> = BTreeMap::new();
    for spot in spot.items("ports") {
        let protocol = spot.text("protocol").map_or(Some(TCP), protocol_number);
        let entry = by_protocol.entry(protocol).or_insert_with(|| Some(Vec::new()));
        match one_port(checker, &spot) {
            Some(port) => entry.iter_mut().for_each(|ports| ports.push(port.clone())),
            None => *entry = None,
        }
    }
    if by_protocol.is_empty() {
        return [(None, Vec::new())].into();
    }
    by_protocol.into_iter().map(|(protocol, ports)| (protocol, ports.unwrap_or_default())).collect()
}

/// The ports of one entry; `None` is all.
fn one_port(checker: &mut Checker, spot: &Spot<'_>) -> Option<Port> {
    let port = spot.get("port").and_then(|spot| port_of(&plain(spot.value)));
    let Some(last) = spot.number::<u16>("endPort") else { return port };
    let mut wrong = |reason: String| checker.add(&spot.path_of("endPort"), spot.value.get("endPort"), reason);
    match &port {
        Some(Port::Range(range)) => match PortRange::new(*range.bounds().start(), last) {
            Some(range) => return Some(Port::Range(range)),
            None => wrong(format!("{last} is less than port {}; swap them", range.bounds().start())),
        },
        Some(Port::Named(name)) => wrong(format!("needs a port by number, and '{name}' is a name; remove it")),
        None => wrong("needs a port to begin with; write port too".to_owned()),
    }
    port
}

//! What there is: endpoints of this host, policies that each of them has one of, sets of ten thousand addresses.
//!
//! Every rule of a policy but the last names a protocol, a set and a port; the last allows the pool, whatever the port.
//! So the bench's packets, which go to other ports, match at the worst place.

use anyhow::Result;
use lasthop_compute::Event;
use lasthop_model::{EndpointKey, Key, Resource, WorkloadEndpoint};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

/// This host.
pub(super) const NODE: &str = "one";
/// The pool.
pub(super) const POOL: &str = "10.65.0.0/16";
/// Sets of addresses, and members of each.
pub(super) const SETS: usize = 10;
pub(super) const MEMBERS: usize = 10_000;
/// Port of a policy's first rule; the next rule has the next port.
pub(super) const FIRST_PORT: usize = 8000;

/// How much there is of everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct World {
    pub(super) endpoints: usize,
    pub(super) policies: usize,
    pub(super) rules: usize,
    /// Whether the first policy is everybody's.
    pub(super) shared: bool,
}

/// What a rule but the last asks for.
pub(super) struct Asked {
    pub(super) protocol: &'static str,
    pub(super) set: usize,
    pub(super) port: usize,
}

impl World {
    /// What the rules of a policy ask for, without the last.
    pub(super) fn asked(self) -> impl Iterator<Item = Asked> {
        (0..self.rules - 1).map(|at| Asked {
            protocol: if at % 2 == 0 { "TCP" } else { "UDP" },
            set: at % SETS,
            port: FIRST_PORT + at,
        })
    }

    /// The numbers of the two endpoints that send and receive: in the middle.
    pub(super) fn pair(self) -> [usize; 2] {
        [self.endpoints / 2, self.endpoints / 2 + 1]
    }

    /// Everything, in the order of dependence.
    pub(super) fn events(self) -> Result<Vec<Event>> {
        let mut events = vec![pool()?];
        for number in 0..SETS {
            events.extend(set(number)?);
        }
        for number in 0..self.policies {
            events.push(self.policy(number, 0)?);
        }
        events.extend((0..self.endpoints).map(|number| self.endpoint(number)));
        Ok(events)
    }

    /// A policy; its last port is moved on by `edition`.
    pub(super) fn policy(self, number: usize, edition: usize) -> Result<Event> {
        let last = self.rules - 2;
        let one = |(at, asked): (usize, Asked), ingress: bool| {
            let set = json!({ "selector": format!("set == 's{}'", asked.set) });
            let port = if at == last { asked.port + edition } else { asked.port };
            let ports = json!({ "ports": [port] });
            let mut rule = json!({ "action": "Allow", "protocol": asked.protocol });
            if ingress {
                rule["source"] = set;
                rule["destination"] = ports;
            } else {
                let mut side = set;
                side["ports"] = ports["ports"].clone();
                rule["destination"] = side;
            }
            rule
        };
        let rules = |ingress: bool| {
            let side = if ingress { "source" } else { "destination" };
            let mut rules: Vec<Value> = self.asked().enumerate().map(|asked| one(asked, ingress)).collect();
            rules.push(json!({ "action": "Allow", side: { "nets": [POOL] } }));
            rules
        };
        let selector = match number {
            0 if self.shared => "has(policy)".to_owned(),
            _ => format!("policy == 'p{number}'"),
        };
        put(&json!({
            "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
            "metadata": { "name": format!("p{number}") },
            "spec": {
                "selector": selector, "types": ["Ingress", "Egress"],
                "ingress": rules(true), "egress": rules(false),
            },
        }))
    }

    /// An endpoint of this host.
    pub(super) fn endpoint(self, number: usize) -> Event {
        let labels = [("policy", format!("p{}", number % self.policies))];
        endpoint(NODE, number, address(number), labels)
    }
}

/// The link of an endpoint.
pub(super) fn link(number: usize) -> String {
    format!("lhw{number}")
}

/// The address of an endpoint.
pub(super) fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 65, (number / 250) as u8, (number % 250) as u8 + 1)
}

/// The addresses of a set.
pub(super) fn members(set: usize) -> impl Iterator<Item = Ipv4Addr> {
    (0..MEMBERS).map(move |at| Ipv4Addr::new(10, 128 + set as u8, (at / 250) as u8, (at % 250) as u8 + 1))
}

/// An endpoint of a host.
pub(super) fn endpoint<const N: usize>(
    node: &str,
    number: usize,
    address: Ipv4Addr,
    labels: [(&str, String); N],
) -> Event {
    let key = EndpointKey { namespace: format!("n{}", number % 100), name: format!("{node}-w{number}") };
    let [_, _, third, fourth] = address.octets();
    let mac = [2, 0, 10, 65, third, fourth];
    let endpoint = WorkloadEndpoint {
        key: key.clone(),
        node: node.parse().unwrap_or_else(|_| unreachable!("'{node}' is a name")),
        link: link(number).parse().unwrap_or_else(|_| unreachable!("a short name")),
        mac: Some(lasthop_net::Mac(mac)),
        addresses: BTreeSet::from([IpAddr::V4(address)]),
        allowed_sources: BTreeSet::new(),
        labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
        profiles: Some(Vec::new()),
        service_account: None,
        ports: Vec::new(),
        orchestrator: None,
    };
    Event::Put(key.resource_key(), Resource::WorkloadEndpoint(endpoint))
}

/// The member of set 0 that is an endpoint of another host.
pub(super) fn remote_member(number: usize) -> Event {
    let address = Ipv4Addr::new(10, 128, (number / 250) as u8, (number % 250) as u8 + 1);
    endpoint("other", number, address, [("set", "s0".to_owned())])
}

/// That what an event tells of is gone.
pub(super) fn gone(event: &Event) -> Event {
    match event {
        Event::Put(key, _) | Event::Gone(key) | Event::Invalid { key, .. } => Event::Gone(key.clone()),
        Event::Learned { .. } | Event::Blocks(_) | Event::Secret { .. } => event.clone(),
    }
}

/// A document as an event.
pub(super) fn put(document: &Value) -> Result<Event> {
    let resource = Resource::parse(document).map_err(|invalid| anyhow::anyhow!("{invalid}"))?;
    let key = Key::of(document).map_err(|invalid| anyhow::anyhow!("{invalid}"))?;
    Ok(Event::Put(key, resource))
}

fn pool() -> Result<Event> {
    put(&json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPPool",
        "metadata": { "name": "workloads" }, "spec": { "cidr": POOL, "natOutgoing": true },
    }))
}

/// A set: the first is ten thousand endpoints of another host, the others are network sets.
fn set(number: usize) -> Result<Vec<Event>> {
    if number == 0 {
        return Ok((0..MEMBERS).map(remote_member).collect());
    }
    let nets: Vec<String> = members(number).map(|address| format!("{address}/32")).collect();
    Ok(vec![network_set(number, &nets)?])
}

/// A network set.
pub(super) fn network_set(number: usize, nets: &[String]) -> Result<Event> {
    put(&json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet",
        "metadata": { "name": format!("s{number}"), "labels": { "set": format!("s{number}") } },
        "spec": { "nets": nets },
    }))
}

//! Compiling and deciding is what one finds by reading resources one by one, as the documentation of the kinds has it.
//! The reader here knows nothing of programs, stacks and sets, and takes labels, namespaces and accounts from the resources themselves.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

mod worlds;

use lasthop_model::policy::*;
use lasthop_model::selector::Selector;
use lasthop_model::{Labels, WorkloadEndpoint};
use lasthop_net::{Family, Prefix};
use lasthop_policy::World;
use lasthop_policy::decide::{Packet, Transport, Verdict};
use lasthop_policy::ir::Direction;
use lasthop_policy::journey::Network;
use proptest::prelude::*;
use std::net::IpAddr;
use worlds::*;

/// Something that selectors find: its labels, its namespace's, its account's.
#[derive(Clone)]
struct Thing {
    labels: Labels,
    namespace: Option<(String, Labels)>,
    account: Option<(String, Labels)>,
    nets: Vec<Prefix>,
    ports: Vec<NamedPort>,
}

fn named(labels: Option<&Labels>, names: &[(&str, &str)]) -> Labels {
    let mut labels = labels.cloned().unwrap_or_default();
    labels.extend(names.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    labels
}

fn of_namespace(world: &World, name: &str) -> (String, Labels) {
    let names = [("kubernetes.io/metadata.name", name), ("projectcalico.org/name", name)];
    (name.to_owned(), named(world.namespaces.get(name), &names))
}

/// Own labels, and those of profiles that are not among them: the first profile has most to say.
fn with_profiles(world: &World, own: &Labels, profiles: &[String]) -> Labels {
    let mut labels = own.clone();
    for profile in profiles.iter().filter_map(|name| world.profiles.get(name)) {
        for (key, value) in &profile.labels {
            labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    labels
}

fn workload(world: &World, endpoint: &WorkloadEndpoint) -> Thing {
    let namespace = endpoint.key.namespace.clone();
    let account = endpoint.service_account.clone().map(|name| {
        let labels = world.service_accounts.get(&(namespace.clone(), name.clone()));
        let labels = named(labels, &[("projectcalico.org/name", &name)]);
        (name, labels)
    });
    Thing {
        labels: with_profiles(world, &endpoint.labels, endpoint.profiles.as_deref().unwrap_or_default()),
        namespace: Some(of_namespace(world, &namespace)),
        account,
        nets: endpoint.addresses.iter().map(|address| Prefix::host(*address)).collect(),
        ports: endpoint.ports.clone(),
    }
}

fn things(world: &World) -> Vec<Thing> {
    let mut things: Vec<Thing> = world.workloads.values().map(|endpoint| workload(world, endpoint)).collect();
    for host in world.hosts.values() {
        let nets = host.addresses.iter().map(|address| Prefix::host(*address)).collect();
        let labels = with_profiles(world, &host.labels, &host.profiles);
        things.push(Thing { labels, namespace: None, account: None, nets, ports: host.ports.clone() });
    }
    for set in world.network_sets.values() {
        let namespace = set.key.namespace.as_deref().map(|name| of_namespace(world, name));
        let nets = set.nets.iter().copied().collect();
        things.push(Thing { labels: set.labels.clone(), namespace, account: None, nets, ports: Vec::new() });
    }
    things
}

impl Thing {
    fn is_of_namespaces(&self, selector: &Selector) -> bool {
        match &self.namespace {
            Some((_, labels)) => !selector.is_global() && selector.matches(labels),
            None => selector.is_global(),
        }
    }

    fn is_of_accounts(&self, selector: &Selector) -> bool {
        match &self.account {
            Some((_, labels)) => selector.matches(labels),
            None => !selector.is_all() && selector.matches(&Labels::new()),
        }
    }

    fn is_in(&self, namespace: &str) -> bool {
        self.namespace.as_ref().is_some_and(|(name, _)| name == namespace)
    }
}

/// Whom a policy is for.
fn is_subject(policy: &Policy, thing: &Thing) -> bool {
    let subject = &policy.subject;
    policy.key.namespace.as_ref().is_none_or(|namespace| thing.is_in(namespace))
        && subject.selector.matches(&thing.labels)
        && subject.namespaces.as_ref().is_none_or(|selector| thing.is_of_namespaces(selector))
        && subject.service_accounts.as_ref().is_none_or(|selector| thing.is_of_accounts(selector))
}

/// One side of a packet before one side of a rule.
struct Before<'a> {
    things: &'a [Thing],
    /// The policy, if its namespace confines it.
    policy: Option<&'a Policy>,
    /// Whether this is the side that the policy guards.
    guarded: bool,
    protocol: u8,
    wanted_protocol: Option<u8>,
    address: IpAddr,
    port: Option<u16>,
}

impl Before<'_> {
    fn matches(&self, peer: &Peer) -> bool {
        let families: Vec<Family> = peer.nets.iter().chain(&peer.not_nets).map(|net| net.family()).collect();
        let other_family = !families.is_empty() && families.iter().all(|family| *family != Family::of(self.address));
        let one_family = families.iter().all(|family| *family == families[0]);
        let holds = |nets: &[Prefix]| nets.iter().any(|net| net.contains(self.address));
        let owners = || self.things.iter().filter(|thing| thing.nets.iter().any(|net| net.contains(self.address)));
        let confined = self.policy.and_then(|policy| policy.key.namespace.as_deref());
        let of_labels = peer.selector.is_some() || peer.service_accounts.is_some();
        let asks = peer.namespaces.is_some() || of_labels || (confined.is_some() && peer.not_selector.is_some());
        let is_meant = |thing: &&Thing| {
            let home = match (&peer.namespaces, confined) {
                (Some(selector), _) => thing.is_of_namespaces(selector),
                (None, Some(namespace)) => thing.is_in(namespace),
                (None, None) => true,
            };
            home && peer.selector.as_ref().is_none_or(|selector| selector.matches(&thing.labels))
                && peer.service_accounts.as_ref().is_none_or(|selector| thing.is_of_accounts(selector))
        };
        let gives = |thing: &&Thing, name: &str| {
            let meant = match (asks, self.policy) {
                (true, _) => is_meant(thing),
                (false, Some(policy)) if self.guarded => is_subject(policy, thing),
                (false, _) => true,
            };
            meant
                && thing.nets.contains(&Prefix::host(self.address))
                && thing.ports.iter().any(|port| {
                    port.name == name
                        && Some(port.port) == self.port
                        && port.protocol == self.protocol
                        && self.wanted_protocol.is_none_or(|wanted| wanted == port.protocol)
                })
        };
        let is_one_of = |ports: &[Port]| {
            self.port.is_some_and(|number| {
                ports.iter().any(|port| match port {
                    Port::Range(range) => range.bounds().contains(&number),
                    Port::Named(name) => owners().any(|thing| gives(&thing, name)),
                })
            })
        };
        !(other_family && one_family)
            && (peer.nets.is_empty() || holds(&peer.nets))
            && !holds(&peer.not_nets)
            && (!asks || owners().any(|thing| is_meant(&thing)))
            && !peer.not_selector.as_ref().is_some_and(|not| owners().any(|thing| not.matches(&thing.labels)))
            && (peer.ports.is_empty() || is_one_of(&peer.ports))
            && !is_one_of(&peer.not_ports)
    }
}

fn rule_matches(
    rule: &Rule,
    policy: Option<&Policy>,
    things: &[Thing],
    (direction, packet): (Direction, &Packet),
) -> bool {
    let protocol = packet.transport.protocol();
    let (source_port, destination_port) = match packet.transport {
        Transport::Ports { source, destination, .. } => (Some(source), Some(destination)),
        _ => (None, None),
    };
    let icmp = |wanted: Icmp| matches!(packet.transport, Transport::Icmp { kind, code, .. } if kind == wanted.kind && wanted.code.is_none_or(|c| c == code));
    let policy = policy.filter(|policy| policy.key.namespace.is_some());
    let side = |address, port, guarded| Before {
        things,
        policy,
        guarded,
        protocol,
        wanted_protocol: rule.protocol,
        address,
        port,
    };
    rule.family.is_none_or(|family| family == Family::of(packet.source))
        && rule.protocol.is_none_or(|wanted| wanted == protocol)
        && rule.not_protocol != Some(protocol)
        && rule.icmp.is_none_or(icmp)
        && !rule.not_icmp.is_some_and(icmp)
        && side(packet.source, source_port, direction == Direction::Egress).matches(&rule.source)
        && side(packet.destination, destination_port, direction == Direction::Ingress).matches(&rule.destination)
}

fn rules_of(policy: &Policy, direction: Direction) -> Option<&Vec<Rule>> {
    if direction == Direction::Ingress { policy.ingress.as_ref() } else { policy.egress.as_ref() }
}

fn naive(world: &World, endpoint: &WorkloadEndpoint, direction: Direction, packet: &Packet) -> bool {
    let things = things(world);
    let me = workload(world, endpoint);
    let said = |rules: &[Rule], policy: Option<&Policy>| {
        let finals = rules.iter().filter(|rule| rule.action != Action::Log);
        finals.into_iter().find(|rule| rule_matches(rule, policy, &things, (direction, packet))).map(|rule| rule.action)
    };
    let mut mine: Vec<&Policy> = world.policies.values().map(AsRef::as_ref).collect();
    mine.retain(|policy| {
        policy.staging == Staging::Enforced
            && matches!(policy.stage, Stage::Normal | Stage::AlsoForward)
            && rules_of(policy, direction).is_some()
            && is_subject(policy, &me)
    });
    let tier = |name: &str| world.tiers.get(name).cloned().or_else(|| Tier::built_in(name));
    let last = f64::INFINITY;
    mine.sort_by(|a, b| {
        let place = |p: &Policy| tier(&p.tier).map(|tier| tier.order.unwrap_or(last));
        let tiers = match (place(a), place(b)) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            (a, b) => a.is_none().cmp(&b.is_none()),
        };
        let text =
            |p: &Policy| format!("{}/{}/{}", p.key.name, p.key.namespace.as_deref().unwrap_or_default(), p.key.kind);
        let orders = a.order.unwrap_or(last).total_cmp(&b.order.unwrap_or(last));
        tiers.then(a.tier.cmp(&b.tier)).then(orders).then(text(a).cmp(&text(b)))
    });
    for policies in mine.chunk_by(|a, b| a.tier == b.tier) {
        let answer = policies.iter().find_map(|policy| said(rules_of(policy, direction).unwrap(), Some(policy)));
        match answer {
            Some(Action::Allow) => return true,
            Some(Action::Deny) => return false,
            Some(_) => {}
            None if tier(&policies[0].tier).is_some_and(|tier| tier.default_action == TierDefault::Pass) => {}
            None => return false,
        }
    }
    let own = format!("kns.{}", endpoint.key.namespace);
    for name in endpoint.profiles.clone().unwrap_or_else(|| vec![own.clone()]) {
        let answer = match world.profiles.get(&name) {
            Some(profile) => {
                said(if direction == Direction::Ingress { &profile.ingress } else { &profile.egress }, None)
            }
            None if name == own || name == "projectcalico-default-allow" => Some(Action::Allow),
            None => Some(Action::Deny),
        };
        match answer {
            Some(Action::Allow) => return true,
            Some(_) => return false,
            None => {}
        }
    }
    false
}

fn packets(own: IpAddr, direction: Direction) -> Vec<Packet> {
    let others = [
        "10.65.0.1",
        "10.65.0.2",
        "10.65.0.9",
        "172.18.0.1",
        "198.51.100.1",
        "198.51.100.7",
        "203.0.113.1",
        "fd65::2",
        "fd65::9",
        "2001:db8::1",
        "fd18::2",
    ];
    let mut packets = Vec::new();
    for other in others.iter().map(|address| address.parse::<IpAddr>().unwrap()) {
        if Family::of(other) != Family::of(own) || other == own {
            continue;
        }
        let (source, destination) = if direction == Direction::Egress { (own, other) } else { (other, own) };
        let ports = [(6, 1000, 80), (6, 80, 81), (6, 1000, 443), (6, 21, 22), (17, 1000, 80), (17, 443, 90)];
        let ports = ports.map(|(protocol, source, destination)| Transport::Ports { protocol, source, destination });
        let icmp = [(8, 0), (8, 1), (3, 0)].map(|(kind, code)| Transport::Icmp { protocol: 1, kind, code });
        let transports = ports.into_iter().chain(icmp).chain([Transport::Other(47)]);
        packets.extend(transports.map(|transport| Packet { source, destination, transport }));
    }
    packets
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn deciding_is_reading_the_resources_one_by_one(resources in resources()) {
        let world = world(&resources);
        let network = Network::new(&world, sites());
        for endpoint in world.workloads.values() {
            for direction in [Direction::Ingress, Direction::Egress] {
                for own in &endpoint.addresses {
                    for packet in packets(*own, direction) {
                        let decision = network.at_workload(&endpoint.key, direction, &packet).unwrap();
                        let expected = naive(&world, endpoint, direction, &packet);
                        prop_assert_eq!(decision.verdict == Verdict::Allow, expected, "{} of {}: {}: {}", direction, endpoint.key, packet, decision);
                    }
                }
            }
        }
    }

    #[test]
    fn the_order_of_puts_does_not_count(resources in resources()) {
        // Where two have one name, the later one counts: keep one of each.
        let mut one_of_each: Vec<lasthop_model::Resource> = Vec::new();
        for resource in resources {
            if one_of_each.iter().all(|other| other.key() != resource.key()) {
                one_of_each.push(resource);
            }
        }
        let first = world(&one_of_each);
        one_of_each.reverse();
        let second = world(&one_of_each);
        prop_assert_eq!(&first, &second);
        for (node, site) in sites() {
            prop_assert_eq!(first.host(&node, &site.interfaces).policy, second.host(&node, &site.interfaces).policy);
        }
    }
}

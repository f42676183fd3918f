//! Small worlds at random: two hosts, four workloads, host endpoints, network sets, policies of all stages.
#![allow(dead_code, reason = "each test uses some of it")]

use lasthop_model::policy::*;
use lasthop_model::selector::Selector;
use lasthop_model::*;
use lasthop_net::{Family, Prefix};
use lasthop_policy::World;
use lasthop_policy::ir::Failsafe;
use lasthop_policy::journey::Site;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) fn key(kind: Kind, namespace: Option<&str>, name: &str) -> Key {
    Key { kind, namespace: namespace.map(str::to_owned), name: name.to_owned() }
}

fn labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map(prop_oneof![Just("app"), Just("env")], prop_oneof![Just("a"), Just("b")], 0..3)
        .prop_map(|map| map.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
}

fn selector() -> impl Strategy<Value = Selector> {
    let texts = ["all()", "app == 'a'", "app != 'a'", "has(env)", "env in {'a', 'b'}", "app == 'a' || env == 'b'"];
    prop::sample::select(texts.to_vec()).prop_map(|text| text.parse().unwrap())
}

fn namespace() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("x"), Just("y")]
}

fn ports() -> impl Strategy<Value = Vec<Port>> {
    let range = |first, last| Port::Range(PortRange::new(first, last).unwrap());
    let all = vec![Port::Named("web".into()), range(80, 80), range(81, 90), range(443, 65535), range(0, 21)];
    prop::sample::subsequence(all, 1..3)
}

fn peer(with_ports: bool) -> impl Strategy<Value = Peer> {
    let nets = || {
        prop::sample::subsequence(
            vec!["10.65.0.0/30", "10.65.0.1/32", "198.51.100.0/24", "0.0.0.0/0", "fd65::/64"],
            0..3,
        )
    };
    let texts = |nets: Vec<&str>| nets.into_iter().map(|net| net.parse().unwrap()).collect::<Vec<Prefix>>();
    let selectors = (
        prop::option::weighted(0.3, selector()),
        prop::option::weighted(0.15, selector()),
        prop::option::weighted(0.15, prop_oneof![3 => selector(), 1 => Just(Selector::global())]),
        prop::option::weighted(0.1, selector()),
    );
    let some_ports = move |weight: f64| {
        prop::option::weighted(if with_ports { weight } else { 1e-6 }, ports()).prop_map(Option::unwrap_or_default)
    };
    (
        prop::option::weighted(0.3, nets()).prop_map(Option::unwrap_or_default),
        prop::option::weighted(0.15, nets()).prop_map(Option::unwrap_or_default),
        selectors,
        some_ports(0.4),
        some_ports(0.15),
    )
        .prop_map(
            move |(nets, not_nets, (selector, not_selector, namespaces, service_accounts), ports, not_ports)| Peer {
                nets: texts(nets),
                not_nets: texts(not_nets),
                selector,
                not_selector,
                namespaces,
                service_accounts,
                ports,
                not_ports,
                ..Peer::default()
            },
        )
}

fn rule() -> impl Strategy<Value = Rule> {
    let action = || prop_oneof![4 => Just(Action::Allow), 3 => Just(Action::Deny), 1 => Just(Action::Pass), 1 => Just(Action::Log)];
    let family = || prop_oneof![6 => Just(None), 1 => Just(Some(Family::V4)), 1 => Just(Some(Family::V6))];
    let with_ports = (action(), family(), prop_oneof![3 => Just(6u8), 1 => Just(17)], prop::bool::weighted(0.2))
        .prop_flat_map(|(action, family, protocol, sources)| {
            (peer(sources), peer(true)).prop_map(move |(source, destination)| Rule {
                action,
                family,
                protocol: Some(protocol),
                not_protocol: None,
                icmp: None,
                not_icmp: None,
                source,
                destination,
            })
        });
    let without = (
        action(),
        family(),
        prop_oneof![2 => Just(None), 1 => Just(Some(6u8)), 1 => Just(Some(47))],
        peer(false),
        peer(false),
    )
        .prop_map(|(action, family, not_protocol, source, destination)| Rule {
            action,
            family,
            protocol: None,
            not_protocol,
            icmp: None,
            not_icmp: None,
            source,
            destination,
        });
    let icmp =
        (action(), any::<bool>(), prop::option::of(Just(0u8)), peer(false)).prop_map(|(action, not, code, source)| {
            let icmp = Some(Icmp { kind: 8, code });
            let (icmp, not_icmp) = if not { (None, icmp) } else { (icmp, None) };
            Rule {
                action,
                family: None,
                protocol: Some(1),
                not_protocol: None,
                icmp,
                not_icmp,
                source,
                destination: Peer::default(),
            }
        });
    prop_oneof![4 => with_ports, 2 => without, 1 => icmp]
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    prop::collection::vec(rule(), 0..4)
}

fn policy() -> impl Strategy<Value = Resource> {
    let name = (prop::option::of(namespace()), 0u8..4, prop_oneof![Just("default"), Just("t"), Just("ghost")]);
    let order = prop::option::of(prop_oneof![Just(1.0), Just(2.0)]);
    let staging = prop_oneof![5 => Just(Staging::Enforced), 1 => Just(Staging::Staged(StagedAction::Set))];
    let subject = (selector(), prop::option::weighted(0.2, selector()), prop::option::weighted(0.1, selector()));
    let stage = prop_oneof![
        3 => Just(Stage::Normal), 1 => Just(Stage::AlsoForward), 1 => Just(Stage::BeforeDnat), 1 => Just(Stage::Untracked)
    ];
    let lists = (prop::option::of(rules()), prop::option::of(rules()));
    (name, order, staging, subject, stage, lists).prop_map(
        |((namespace, n, tier), order, staging, (selector, namespaces, service_accounts), stage, (ingress, egress))| {
            let kind = if namespace.is_some() { Kind::NetworkPolicy } else { Kind::GlobalNetworkPolicy };
            Resource::Policy(Arc::new(Policy {
                key: key(kind, namespace, &format!("n{n}")),
                tier: tier.into(),
                order,
                staging,
                subject: Subject { selector, namespaces: namespaces.filter(|_| namespace.is_none()), service_accounts },
                stage: if namespace.is_some() { Stage::Normal } else { stage },
                ingress,
                egress,
            }))
        },
    )
}

fn workload(n: u8) -> impl Strategy<Value = Resource> {
    let profiles = prop::sample::subsequence(vec!["p", "kns.x", "projectcalico-default-allow", "ghost"], 0..3);
    let what =
        (labels(), prop::option::weighted(0.4, profiles), any::<bool>(), prop::option::of(Just("sa".to_owned())));
    (namespace(), prop_oneof![Just("n1"), Just("n2")], what).prop_map(
        move |(namespace, node, (labels, profiles, port, service_account))| {
            let port = port.then(|| NamedPort { name: "web".into(), protocol: 6, port: 80 + u16::from(n % 2) });
            Resource::WorkloadEndpoint(WorkloadEndpoint {
                key: EndpointKey { namespace: namespace.into(), name: format!("w{n}") },
                node: node.parse().unwrap(),
                link: format!("lh{n}").parse().unwrap(),
                mac: None,
                addresses: [format!("10.65.0.{n}"), format!("fd65::{n}")].iter().map(|a| a.parse().unwrap()).collect(),
                allowed_sources: BTreeSet::new(),
                labels,
                profiles: profiles.map(|names| names.into_iter().map(str::to_owned).collect()),
                service_account,
                ports: port.into_iter().collect(),
                orchestrator: None,
            })
        },
    )
}

fn host_endpoint() -> impl Strategy<Value = Resource> {
    let profiles = prop::sample::subsequence(vec!["p", "projectcalico-default-allow"], 0..2);
    (prop_oneof![Just("n1"), Just("n2")], any::<bool>(), labels(), profiles).prop_map(
        |(node, named, labels, profiles)| {
            let interface = if named { HostInterface::Named("eth0".parse().unwrap()) } else { HostInterface::All };
            Resource::HostEndpoint(HostEndpoint {
                name: format!("h-{node}-{named}"),
                node: node.parse().unwrap(),
                interface,
                addresses: host_addresses(node),
                profiles: profiles.into_iter().map(str::to_owned).collect(),
                ports: Vec::new(),
                labels,
            })
        },
    )
}

fn rest() -> impl Strategy<Value = Resource> {
    prop_oneof![
        (prop_oneof![Just("t"), Just("default")], 0u8..3, any::<bool>()).prop_map(|(name, order, pass)| {
            let default_action = if pass { TierDefault::Pass } else { TierDefault::Deny };
            Resource::Tier(Tier { name: name.into(), order: Some(f64::from(order)), default_action })
        }),
        (prop_oneof![Just("p"), Just("kns.x")], rules(), rules(), labels()).prop_map(
            |(name, ingress, egress, labels)| {
                Resource::Profile(Profile { name: name.into(), ingress, egress, labels })
            }
        ),
        (prop::option::of(namespace()), labels(), any::<bool>()).prop_map(|(namespace, labels, wide)| {
            let kind = if namespace.is_some() { Kind::NetworkSet } else { Kind::GlobalNetworkSet };
            let net = if wide { "198.51.100.0/24" } else { "198.51.100.1/32" };
            let nets = [net, "2001:db8::/32"].iter().map(|net| net.parse().unwrap()).collect();
            Resource::NetworkSet(NetworkSet { key: key(kind, namespace, "set"), nets, labels })
        }),
        (namespace(), labels()).prop_map(|(name, labels)| {
            Resource::Labelled(Labelled { key: key(Kind::Namespace, None, name), labels })
        }),
        (namespace(), labels()).prop_map(|(name, labels)| {
            Resource::Labelled(Labelled { key: key(Kind::ServiceAccount, Some(name), "sa"), labels })
        }),
    ]
}

/// All resources of a world.
pub(crate) fn resources() -> impl Strategy<Value = Vec<Resource>> {
    let workloads = (workload(1), workload(2), workload(3), workload(4));
    let policies = prop::collection::vec(policy(), 0..6);
    let hosts = prop::option::weighted(0.6, prop::collection::vec(host_endpoint(), 1..3));
    (workloads, policies, hosts, prop::collection::vec(rest(), 0..6)).prop_map(
        |((a, b, c, d), policies, hosts, rest)| {
            [a, b, c, d].into_iter().chain(policies).chain(hosts.into_iter().flatten()).chain(rest).collect()
        },
    )
}

/// One more resource, or one in another's place.
pub(crate) fn edit() -> impl Strategy<Value = Resource> {
    prop_oneof![4 => policy(), 3 => rest(), 1 => host_endpoint(), 3 => workload(2)]
}

pub(crate) fn world(resources: &[Resource]) -> World {
    let mut world = World::default();
    resources.iter().for_each(|resource| world.put(&resource.key(), resource.clone()));
    world
}

pub(crate) fn host_addresses(node: &str) -> BTreeSet<std::net::IpAddr> {
    let n = &node[1..];
    [format!("172.18.0.{n}"), format!("fd18::{n}")].iter().map(|address| address.parse().unwrap()).collect()
}

pub(crate) fn sites() -> BTreeMap<NodeName, Site> {
    let failsafe = |protocol, port| {
        Family::ALL.map(Prefix::default_route).map(|net| Failsafe { protocol, net, port }).into_iter().collect()
    };
    let site = |name: &str| {
        let uplink: lasthop_net::IfName = "eth0".parse().unwrap();
        let site = Site {
            interfaces: BTreeMap::from([(uplink.clone(), host_addresses(name))]),
            uplink,
            endpoint_to_host: if name == "n1" { EndpointToHost::Drop } else { EndpointToHost::Accept },
            failsafe_in: failsafe(6, 22),
            failsafe_out: failsafe(17, 53),
        };
        (name.parse().unwrap(), site)
    };
    ["n1", "n2"].into_iter().map(site).collect()
}

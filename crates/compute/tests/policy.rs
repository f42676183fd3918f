//! Policy in the engine equals the plain world after every event of any sequence, and its changes name every key that differs.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use lasthop_compute::{Engine, Event, desired_policy};
use lasthop_model::policy::*;
use lasthop_model::selector::Selector;
use lasthop_model::*;
use lasthop_net::Prefix;
use lasthop_policy::World;
use lasthop_policy::ir::{HostPolicy, Member, PolicyChanges};
use lasthop_policy::world::Interfaces;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

fn me() -> NodeName {
    "h1".parse().unwrap()
}

fn key(kind: Kind, namespace: Option<&str>, name: &str) -> Key {
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

fn profiles() -> impl Strategy<Value = Vec<String>> {
    let names = vec!["p", "q", "kns.x", "projectcalico-default-allow", "ghost"];
    prop::sample::subsequence(names, 0..3).prop_map(|names| names.into_iter().map(str::to_owned).collect())
}

fn named_ports() -> impl Strategy<Value = Vec<NamedPort>> {
    prop::collection::vec((prop_oneof![Just(6u8), Just(17)], 80u16..83), 0..2).prop_map(|ports| {
        ports.into_iter().map(|(protocol, port)| NamedPort { name: "web".into(), protocol, port }).collect()
    })
}

fn endpoint() -> impl Strategy<Value = Event> {
    let place = (prop_oneof![3 => Just("h1"), 1 => Just("h2")], prop_oneof![Just("lh0"), Just("lh1"), Just("eth9")]);
    let who = (namespace(), 0u8..4, prop::option::of(profiles()), prop::option::of(Just("sa".to_owned())));
    let what = (labels(), prop::collection::btree_set(1u8..6, 0..3), named_ports());
    (place, who, what).prop_map(|((node, link), (ns, n, profiles, service_account), (labels, addresses, ports))| {
        let key = EndpointKey { namespace: ns.into(), name: format!("w{n}") };
        let address = |n: u8| if n < 4 { format!("10.65.0.{n}") } else { format!("fd65::{n}") };
        let endpoint = WorkloadEndpoint {
            key: key.clone(),
            node: node.parse().unwrap(),
            link: link.parse().unwrap(),
            mac: None,
            addresses: addresses.into_iter().map(|n| address(n).parse().unwrap()).collect(),
            allowed_sources: BTreeSet::new(),
            labels,
            profiles,
            service_account,
            ports,
            orchestrator: None,
        };
        Event::Put(key.resource_key(), Resource::WorkloadEndpoint(endpoint))
    })
}

fn peer() -> impl Strategy<Value = Peer> {
    let nets = prop::sample::subsequence(vec!["10.65.0.0/30", "10.65.0.1/32", "fd65::/64", "0.0.0.0/0"], 0..3);
    let selectors = (
        prop::option::weighted(0.4, selector()),
        prop::option::weighted(0.2, selector()),
        prop::option::weighted(0.2, prop_oneof![selector(), Just(Selector::global())]),
    );
    let ports = prop::sample::subsequence(
        vec![Port::Named("web".into()), Port::Range(PortRange::one(80)), Port::Range(PortRange::new(81, 90).unwrap())],
        0..3,
    );
    let service = prop::option::weighted(0.1, Just(ServiceName { namespace: Some("x".into()), name: "svc".into() }));
    (nets, selectors, ports, service).prop_map(|(nets, (selector, not_selector, namespaces), ports, service)| Peer {
        nets: nets.into_iter().map(|net| net.parse().unwrap()).collect(),
        selector,
        not_selector,
        namespaces,
        ports,
        service,
        ..Peer::default()
    })
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny), Just(Action::Pass), Just(Action::Log)];
    let rule =
        (action, prop::option::of(Just(6u8)), peer(), peer()).prop_map(|(action, protocol, source, destination)| {
            Rule { action, family: None, protocol, not_protocol: None, icmp: None, not_icmp: None, source, destination }
        });
    prop::collection::vec(rule, 0..3)
}

fn policy() -> impl Strategy<Value = Event> {
    let name = (prop::option::of(namespace()), 0u8..4, prop_oneof![Just("default"), Just("t"), Just("ghost")]);
    let order = prop::option::of(prop_oneof![Just(1.0), Just(2.0)]);
    let staging = prop_oneof![4 => Just(Staging::Enforced), 1 => Just(Staging::Staged(StagedAction::Set))];
    let subject = (selector(), prop::option::weighted(0.2, selector()));
    let stage = prop_oneof![3 => Just(Stage::Normal), 1 => Just(Stage::AlsoForward), 1 => Just(Stage::BeforeDnat), 1 => Just(Stage::Untracked)];
    let lists = (prop::option::of(rules()), prop::option::of(rules()));
    (name, order, staging, subject, stage, lists).prop_map(
        |((namespace, n, tier), order, staging, (selector, namespaces), stage, (ingress, egress))| {
            let kind = if namespace.is_some() { Kind::NetworkPolicy } else { Kind::GlobalNetworkPolicy };
            let key = key(kind, namespace, &format!("n{n}"));
            let policy = Policy {
                key: key.clone(),
                tier: tier.into(),
                order,
                staging,
                subject: Subject { selector, namespaces, service_accounts: None },
                stage: if namespace.is_some() { Stage::Normal } else { stage },
                ingress,
                egress,
            };
            Event::Put(key, Resource::Policy(Arc::new(policy)))
        },
    )
}

fn rest() -> impl Strategy<Value = Event> {
    let put = |resource: Resource| Event::Put(resource.key(), resource);
    prop_oneof![
        (prop_oneof![Just("t"), Just("default")], 0u8..3, any::<bool>()).prop_map(move |(name, order, pass)| {
            let default_action = if pass { TierDefault::Pass } else { TierDefault::Deny };
            put(Resource::Tier(Tier { name: name.into(), order: Some(f64::from(order)), default_action }))
        }),
        (prop_oneof![Just("p"), Just("q"), Just("kns.x")], rules(), labels()).prop_map(
            move |(name, ingress, labels)| {
                put(Resource::Profile(Profile { name: name.into(), ingress, egress: Vec::new(), labels }))
            }
        ),
        (prop::option::of(namespace()), labels(), prop::bool::ANY).prop_map(move |(namespace, labels, wide)| {
            let kind = if namespace.is_some() { Kind::NetworkSet } else { Kind::GlobalNetworkSet };
            let net = if wide { "198.51.100.0/24" } else { "198.51.100.1/32" };
            let nets: BTreeSet<Prefix> = BTreeSet::from([net.parse().unwrap()]);
            put(Resource::NetworkSet(NetworkSet { key: key(kind, namespace, "set"), nets, labels }))
        }),
        (namespace(), labels()).prop_map(move |(name, labels)| {
            put(Resource::Labelled(Labelled { key: key(Kind::Namespace, None, name), labels }))
        }),
        (namespace(), labels()).prop_map(move |(namespace, labels)| {
            put(Resource::Labelled(Labelled { key: key(Kind::ServiceAccount, Some(namespace), "sa"), labels }))
        }),
        (0u8..2, 1u8..4, 80u16..82).prop_map(move |(n, address, port)| {
            put(Resource::EndpointSlice(EndpointSlice {
                key: key(Kind::EndpointSlice, Some("x"), &format!("svc-{n}")),
                service: "svc".into(),
                addresses: BTreeSet::from([[10, 65, 0, address].into()]),
                ports: BTreeSet::from([(6, port)]),
            }))
        }),
        (0u8..3, prop_oneof![3 => Just("h1"), 1 => Just("h2")], 0u8..3, profiles(), labels()).prop_map(
            move |(n, node, interface, profiles, labels)| {
                put(Resource::HostEndpoint(HostEndpoint {
                    name: format!("hep{n}"),
                    node: node.parse().unwrap(),
                    interface: match interface {
                        0 => HostInterface::All,
                        1 => HostInterface::Named("eth0".parse().unwrap()),
                        _ => HostInterface::ByAddress,
                    },
                    addresses: BTreeSet::from([[172, 31, 0, n].into()]),
                    profiles,
                    ports: Vec::new(),
                    labels,
                }))
            }
        ),
    ]
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a test")]
enum Step {
    Take(Event),
    /// Deletes what the n-th event so far put.
    Drop(usize),
    Interfaces(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => endpoint().prop_map(Step::Take),
        4 => policy().prop_map(Step::Take),
        4 => rest().prop_map(Step::Take),
        3 => any::<prop::sample::Index>().prop_map(|index| Step::Drop(index.index(64))),
        1 => (0u8..3).prop_map(Step::Interfaces),
    ]
}

/// Goes by changes alone.
fn follow(mine: &mut HostPolicy, changes: PolicyChanges, now: &HostPolicy) {
    fn copy<K: Ord + Clone, V: Clone>(keys: &BTreeSet<K>, from: &BTreeMap<K, V>, to: &mut BTreeMap<K, V>) {
        for key in keys {
            match from.get(key) {
                Some(value) => to.insert(key.clone(), value.clone()),
                None => to.remove(key),
            };
        }
    }
    copy(&changes.programs, &now.programs, &mut mine.programs);
    copy(&changes.stacks, &now.stacks, &mut mine.stacks);
    copy(&changes.sets, &now.sets, &mut mine.sets);
    copy(&changes.workloads, &now.workloads, &mut mine.workloads);
    for (set, member) in changes.members {
        let has = |member: &Member| now.sets.get(&set).is_some_and(|set| set.members.contains(member));
        let Some(mine) = mine.sets.get_mut(&set) else { continue };
        if has(&member) {
            mine.members.insert(member)
        } else {
            mine.members.remove(&member)
        };
    }
    if changes.host {
        mine.interfaces = now.interfaces.clone();
        mine.failsafe_in = now.failsafe_in.clone();
        mine.failsafe_out = now.failsafe_out.clone();
        mine.deny = now.deny;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_equals_the_plain_world_after_every_event(steps in prop::collection::vec(step(), 1..40)) {
        let mut engine = Engine::new(me());
        let mut world = World::default();
        let mut interfaces = Interfaces::new();
        let mut put: Vec<Key> = Vec::new();
        let mut follower = HostPolicy::default();
        for step in steps {
            match step {
                Step::Take(event) => {
                    if let Event::Put(key, resource) = &event {
                        world.put(key, resource.clone());
                        put.push(key.clone());
                    }
                    engine.apply(event);
                }
                Step::Drop(index) if !put.is_empty() => {
                    let key = put[index % put.len()].clone();
                    world.remove(&key);
                    engine.apply(Event::Gone(key));
                }
                Step::Drop(_) => {}
                Step::Interfaces(n) => {
                    interfaces = Interfaces::from([("eth1".parse().unwrap(), BTreeSet::from([[172, 31, 0, n].into()]))]);
                    engine.set_interfaces(interfaces.clone());
                }
            }
            let expected = desired_policy(&world, &me(), &interfaces, (engine.desired(), engine.settings()));
            prop_assert_eq!(&engine.desired().policy, &expected);
            let changes = engine.take_changes().policy;
            follow(&mut follower, changes, &engine.desired().policy);
            prop_assert_eq!(&follower, &expected);
        }
        for key in put {
            engine.apply(Event::Gone(key));
        }
        let left = &engine.desired().policy;
        prop_assert!(left.programs.is_empty() && left.stacks.is_empty() && left.sets.is_empty());
        prop_assert!(left.workloads.is_empty() && left.interfaces.is_empty());
    }
}

#[test]
fn a_policy_that_cannot_be_read_closes_those_that_it_is_for() {
    use lasthop_policy::decide::{Packet, Transport, Verdict, decide};
    let mut engine = Engine::new(me());
    let workload = |name: &str, app: &str| {
        let key = EndpointKey { namespace: "x".into(), name: name.into() };
        let endpoint = WorkloadEndpoint {
            key: key.clone(),
            node: me(),
            link: format!("lh{name}").parse().unwrap(),
            mac: None,
            addresses: BTreeSet::new(),
            allowed_sources: BTreeSet::new(),
            labels: Labels::from([("app".into(), app.into())]),
            profiles: None,
            service_account: None,
            ports: Vec::new(),
            orchestrator: None,
        };
        Event::Put(key.resource_key(), Resource::WorkloadEndpoint(endpoint))
    };
    engine.apply(workload("a", "a"));
    engine.apply(workload("b", "b"));
    let opens = |engine: &Engine, link: &str| {
        let policy = &engine.desired().policy;
        let packet = Packet {
            source: [10, 65, 0, 1].into(),
            destination: [10, 65, 0, 2].into(),
            transport: Transport::Ports { protocol: 6, source: 1, destination: 80 },
        };
        let stack = &policy.stacks[&policy.workloads[&link.parse().unwrap()].to];
        decide(stack, policy, &packet).verdict == Verdict::Allow
    };
    let key = key(Kind::GlobalNetworkPolicy, None, "p");
    let document = serde_json::json!({"spec": {"selector": "app == 'a'", "ingress": "nonsense"}});
    let stand_in = Policy::stand_in(&key, &document).map(|policy| Box::new(Resource::Policy(Arc::new(policy))));
    engine.apply(Event::Invalid { key: key.clone(), reason: "spec.ingress: not a list".into(), stand_in });
    assert!(!opens(&engine, "lha") && opens(&engine, "lhb"));
    assert!(engine.desired().findings.contains_key(&key.to_string()));
    engine.apply(Event::Gone(key));
    assert!(opens(&engine, "lha"));
}

//! The engine equals the oracle after every event of any sequence, and its changes name every key that differs.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use lasthop_bgp::config::Secret;
use lasthop_compute::{Changes, Desired, Engine, Event, Snapshot, desired};
use lasthop_model::*;
use lasthop_net::{Asn, Family, IfName, Mac, Metric, NextHops, Prefix};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

fn me() -> NodeName {
    "h1".parse().unwrap()
}

fn address(n: u8) -> IpAddr {
    if n.is_multiple_of(2) { format!("10.65.0.{n}") } else { format!("fd00:65::{n}") }.parse().unwrap()
}

fn key(kind: Kind, name: &str) -> Key {
    let namespace = (kind == Kind::WorkloadEndpoint).then(|| "default".to_owned());
    Key { kind, namespace, name: name.to_owned() }
}

fn the_secret() -> SecretRef {
    SecretRef { name: "tor".to_owned(), key: "password".to_owned() }
}

fn endpoint() -> impl Strategy<Value = Event> {
    let node = prop_oneof![9 => Just("h1"), 1 => Just("h2")];
    let link = prop_oneof![Just("lh0"), Just("lh1"), Just("tap2"), Just("eth9")];
    let addresses = prop::collection::btree_set(1u8..8, 0..4);
    let allowed = prop::collection::btree_set(1u8..8, 0..2);
    (0u8..5, node, link, addresses, allowed, any::<bool>()).prop_map(|(n, node, link, addresses, allowed, mac)| {
        let name = format!("w{n}");
        let endpoint = WorkloadEndpoint {
            key: EndpointKey { namespace: "default".into(), name: name.clone() },
            node: node.parse().unwrap(),
            link: link.parse::<IfName>().unwrap(),
            mac: mac.then_some(Mac([2, 0, 0, 0, 0, n])),
            addresses: addresses.into_iter().map(address).collect(),
            allowed_sources: allowed.into_iter().map(|n| Prefix::host(address(n))).collect(),
            labels: BTreeMap::new(),
            profiles: None,
            service_account: None,
            ports: Vec::new(),
            orchestrator: None,
        };
        Event::Put(key(Kind::WorkloadEndpoint, &name), Resource::WorkloadEndpoint(endpoint))
    })
}

fn node() -> impl Strategy<Value = Event> {
    (1u8..5, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(n, v4, v6, reflector)| {
        let name: NodeName = format!("h{n}").parse().unwrap();
        let node = Node {
            name: name.clone(),
            labels: Labels::from([("rack".into(), (n % 2).to_string())]),
            ipv4: v4.then(|| [172, 31, 0, n].into()),
            ipv6: v6.then(|| format!("fd31::{n}").parse().unwrap()),
            asn: None,
            cluster_id: reflector.then(|| [1, 1, 1, n].into()),
            drain: if v6 { Drain::No } else { Drain::Withdrawn },
        };
        Event::Put(key(Kind::Node, name.as_str()), Resource::Node(node))
    })
}

fn rest() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0u8..3, any::<bool>(), any::<bool>()).prop_map(|(n, nat_outgoing, bgp_export_disabled)| {
            let prefix = ["10.65.0.0/30", "10.65.0.4/32", "fd00:65::/64"][usize::from(n)].parse().unwrap();
            let name = format!("p{n}");
            let pool = IpPool { name: name.clone(), prefix, nat_outgoing, disabled: false, bgp_export_disabled };
            Event::Put(key(Kind::IpPool, &name), Resource::IpPool(pool))
        }),
        (any::<bool>(), any::<bool>(), 0u32..3).prop_map(|(tap, spoof, metric)| {
            let overlay = Overlay {
                interface_prefixes: Some(if tap { vec!["tap".into()] } else { vec!["lh".into(), "tap".into()] }),
                source_spoofing: Some(if spoof { SourceSpoofing::Any } else { SourceSpoofing::Disabled }),
                metric: Some(Metric(metric)),
                program_routes: (metric == 2).then_some(ProgramRoutes::Disabled),
                ..Overlay::default()
            };
            let resource = Resource::Settings { scope: SettingsScope::Default, overlay };
            Event::Put(key(Kind::FelixConfiguration, "default"), resource)
        }),
        any::<bool>().prop_map(|mesh| {
            let config = BgpConfiguration { mesh, ..BgpConfiguration::default() };
            Event::Put(key(Kind::BgpConfiguration, "default"), Resource::BgpConfiguration(config))
        }),
        (0u8..2, any::<[bool; 4]>()).prop_map(|(n, [secret, gateway, filter, workloads])| {
            let name = format!("peer{n}");
            let target = match workloads {
                true => PeerTarget::Workloads { selector: "all()".parse().unwrap(), asn: Asn(65000) },
                false => PeerTarget::Address { address: [172, 31, 0, n + 1].into(), port: None, asn: Some(Asn(64512)) },
            };
            let peer = BgpPeer {
                name: name.clone(),
                nodes: NodeMatch::All,
                target,
                local_asn: None,
                next_hop: NextHopMode::Auto,
                keepalive: None,
                restart_time: None,
                password: secret.then(the_secret),
                source: SourceAddress::Node,
                ttl_security: None,
                allowed_own_as: 0,
                reachable_by: gateway.then(|| [172, 31, 0, 9].into()),
                filters: if filter { vec!["f".to_owned()] } else { Vec::new() },
                reverse: ReversePeering::Auto,
            };
            Event::Put(key(Kind::BgpPeer, &name), Resource::BgpPeer(peer))
        }),
        any::<[bool; 3]>().prop_map(|which| {
            let blocks = ["10.65.0.0/30", "10.65.0.4/32", "fd00:65::/126"].into_iter().zip(which);
            Event::Blocks(blocks.filter(|(_, here)| *here).map(|(block, _)| block.parse().unwrap()).collect())
        }),
        any::<bool>().prop_map(|there| Event::Secret {
            reference: the_secret(),
            content: there.then(|| Secret::new("hunter2")),
        }),
        any::<bool>().prop_map(|learned| {
            let rule = FilterRule {
                path: "spec.importV4[0]".to_owned(),
                family: Family::V4,
                action: FilterAction::Reject,
                range: None,
                learned,
                interface: learned.then(|| "lh*".to_owned()),
                peers: None,
                communities: Vec::new(),
                as_path: Vec::new(),
                priority: Some(1024),
                operations: Vec::new(),
            };
            let filter = BgpFilter { name: "f".to_owned(), import: vec![rule.clone()], export: vec![rule] };
            Event::Put(key(Kind::BgpFilter, "f"), Resource::BgpFilter(filter))
        }),
        (1u8..8, prop::collection::btree_set(1u8..4, 0..3)).prop_map(|(n, hops)| Event::Learned {
            prefix: Prefix::host(address(n)),
            next_hops: hops.into_iter().map(|n| IpAddr::from([172, 31, 0, n])).collect(),
        }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let named = prop_oneof![
        (0u8..5).prop_map(|n| key(Kind::WorkloadEndpoint, &format!("w{n}"))),
        (1u8..5).prop_map(|n| key(Kind::Node, &format!("h{n}"))),
        (0u8..3).prop_map(|n| key(Kind::IpPool, &format!("p{n}"))),
        (0u8..2).prop_map(|n| key(Kind::BgpPeer, &format!("peer{n}"))),
        Just(key(Kind::FelixConfiguration, "default")),
        Just(key(Kind::BgpFilter, "f")),
    ];
    let gone = (named, any::<bool>()).prop_map(|(key, invalid)| {
        if invalid { Event::Invalid { key, reason: "spec.x: wrong".into(), stand_in: None } } else { Event::Gone(key) }
    });
    prop_oneof![5 => endpoint(), 1 => node(), 2 => rest(), 3 => gone]
}

/// What an observer holds who copies just the keys that changes name.
#[derive(Default)]
struct Follower(Desired);

impl Follower {
    fn follow(&mut self, desired: &Desired, changes: Changes) {
        fn copy<K: Ord + Clone, V: Clone>(keys: BTreeSet<K>, from: &BTreeMap<K, V>, to: &mut BTreeMap<K, V>) {
            for key in keys {
                match from.get(&key) {
                    Some(value) => to.insert(key, value.clone()),
                    None => to.remove(&key),
                };
            }
        }
        fn copy_set<K: Ord>(keys: BTreeSet<K>, from: &BTreeSet<K>, to: &mut BTreeSet<K>) {
            for key in keys {
                if from.contains(&key) {
                    to.insert(key)
                } else {
                    to.remove(&key)
                };
            }
        }
        copy(changes.links, &desired.links, &mut self.0.links);
        copy(changes.routes.clone(), &desired.routes, &mut self.0.routes);
        copy(changes.routes, &desired.elsewhere, &mut self.0.elsewhere);
        copy(changes.neighbours, &desired.neighbours, &mut self.0.neighbours);
        copy(changes.sysctls, &desired.sysctls, &mut self.0.sysctls);
        copy_set(changes.sources, &desired.sources, &mut self.0.sources);
        copy_set(changes.advertise, &desired.advertise, &mut self.0.advertise);
        if changes.skeleton {
            self.0.guard = desired.guard.clone();
            self.0.nat = desired.nat.clone();
            self.0.metric = desired.metric;
        }
        if changes.bgp {
            self.0.bgp = desired.bgp.clone();
        }
        self.0.gateways = desired.gateways.clone();
        self.0.findings = desired.findings.clone();
        // Held against its own oracle in tests/policy.rs.
        self.0.policy = desired.policy.clone();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn engine_equals_oracle_after_every_event(events in prop::collection::vec(event(), 1..40)) {
        let mut engine = Engine::new(me());
        let mut snapshot = Snapshot::default();
        let mut follower = Follower::default();
        for event in events {
            engine.apply(event.clone());
            snapshot.apply(&me(), event);
            let mut expected = desired(&snapshot, &me());
            expected.policy = engine.desired().policy.clone();
            prop_assert_eq!(engine.desired(), &expected);
            let changes = engine.take_changes();
            follower.follow(engine.desired(), changes);
            prop_assert_eq!(&follower.0, engine.desired());
        }
    }

    #[test]
    fn output_depends_on_present_state_only(events in prop::collection::vec(event(), 1..25)) {
        let run = |events: &[Event]| {
            let mut engine = Engine::new(me());
            events.iter().for_each(|event| engine.apply(event.clone()));
            engine.desired().clone()
        };
        let twice: Vec<Event> = events.iter().flat_map(|event| [event.clone(), event.clone()]).collect();
        prop_assert_eq!(run(&events), run(&twice));
    }
}

fn put(engine: &mut Engine, name: &str, link: &str, addresses: &[&str]) {
    let endpoint = WorkloadEndpoint {
        key: EndpointKey { namespace: "default".into(), name: name.into() },
        node: me(),
        link: link.parse().unwrap(),
        mac: None,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        allowed_sources: BTreeSet::new(),
        labels: BTreeMap::new(),
        profiles: None,
        service_account: None,
        ports: Vec::new(),
        orchestrator: None,
    };
    engine.apply(Event::Put(key(Kind::WorkloadEndpoint, name), Resource::WorkloadEndpoint(endpoint)));
}

#[test]
fn the_first_by_name_has_a_contested_address_and_the_next_is_promoted() {
    use lasthop_compute::Route;
    let mut engine = Engine::new(me());
    let prefix: Prefix = "10.65.0.2".parse().unwrap();
    let owner = |engine: &Engine| match engine.desired().routes.get(&prefix) {
        Some(Route::Direct { link }) => Some(link.to_string()),
        _ => None,
    };
    put(&mut engine, "b", "lh1", &["10.65.0.2"]);
    assert_eq!(owner(&engine).as_deref(), Some("lh1"));
    put(&mut engine, "a", "lh0", &["10.65.0.2"]);
    assert_eq!(owner(&engine).as_deref(), Some("lh0"));
    assert_eq!(engine.desired().findings.len(), 2, "the loser and the unknown node are named");
    assert_eq!(engine.desired().sources.len(), 1, "the loser may not use the address as source");
    engine.apply(Event::Gone(key(Kind::WorkloadEndpoint, "a")));
    assert_eq!(owner(&engine).as_deref(), Some("lh1"));
}

#[test]
fn a_local_workload_wins_over_a_learned_path_which_returns_when_it_goes() {
    use lasthop_compute::Route;
    let mut engine = Engine::new(me());
    let prefix: Prefix = "10.65.0.2".parse().unwrap();
    let next_hops = NextHops::from("172.31.0.2".parse::<IpAddr>().unwrap());
    engine.apply(Event::Learned { prefix, next_hops: next_hops.clone() });
    put(&mut engine, "a", "lh0", &["10.65.0.2"]);
    assert!(matches!(engine.desired().routes[&prefix], Route::Direct { .. }));
    engine.apply(Event::Gone(key(Kind::WorkloadEndpoint, "a")));
    assert_eq!(engine.desired().routes[&prefix], Route::Remote { next_hops });
    assert!(engine.desired().advertise.is_empty());
}

#[test]
fn a_block_is_announced_as_one_and_its_free_part_is_unreachable() {
    use lasthop_compute::Route;
    let mut engine = Engine::new(me());
    let announced = |engine: &Engine| engine.desired().advertise.iter().map(ToString::to_string).collect::<Vec<_>>();
    let blocks = |texts: &[&str]| Event::Blocks(texts.iter().map(|text| text.parse().unwrap()).collect());
    put(&mut engine, "a", "lh0", &["10.65.0.2", "fd00:65::2"]);
    put(&mut engine, "b", "lh1", &["10.65.9.9"]);
    assert_eq!(announced(&engine), ["10.65.0.2/32", "10.65.9.9/32", "fd00:65::2/128"]);
    engine.apply(blocks(&["10.65.0.0/26", "fd00:65::/122", "10.65.7.7/32"]));
    // Of a foreign block (10.65.9.0/26) only what is here; a block of one address is no block.
    assert_eq!(announced(&engine), ["10.65.0.0/26", "10.65.9.9/32", "fd00:65::/122"]);
    put(&mut engine, "c", "lh2", &["10.65.0.3"]);
    assert_eq!(announced(&engine).len(), 3);
    let block: Prefix = "10.65.0.0/26".parse().unwrap();
    assert_eq!(engine.desired().routes[&block], Route::Unreachable);
    // Neither another one's claim to the block nor an address of it that lives elsewhere changes that.
    let away = NextHops::from("172.31.0.2".parse::<IpAddr>().unwrap());
    engine.apply(Event::Learned { prefix: block, next_hops: away.clone() });
    engine.apply(Event::Learned { prefix: "10.65.0.9".parse().unwrap(), next_hops: away.clone() });
    assert_eq!(engine.desired().routes[&block], Route::Unreachable);
    assert_eq!(engine.desired().routes[&"10.65.0.9".parse::<Prefix>().unwrap()], Route::Remote { next_hops: away });
    assert_eq!(announced(&engine), ["10.65.0.0/26", "10.65.9.9/32", "fd00:65::/122"]);
    let pool = IpPool {
        name: "p".into(),
        prefix: "10.65.0.0/24".parse().unwrap(),
        nat_outgoing: false,
        disabled: false,
        bgp_export_disabled: true,
    };
    engine.apply(Event::Put(key(Kind::IpPool, "p"), Resource::IpPool(pool)));
    assert_eq!(announced(&engine), ["10.65.9.9/32", "fd00:65::/122"]);
    engine.apply(Event::Gone(key(Kind::IpPool, "p")));
    engine.apply(blocks(&[]));
    assert_eq!(announced(&engine), ["10.65.0.2/32", "10.65.0.3/32", "10.65.9.9/32", "fd00:65::2/128"]);
}

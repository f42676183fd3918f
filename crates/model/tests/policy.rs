//! What policies mean: rules, tiers and profiles of projectcalico.org, and Kubernetes' policies turned into ours.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use lasthop_model::policy::*;
use lasthop_model::selector::Selector;
use lasthop_model::*;
use lasthop_net::{Family, Prefix};
use serde_json::{Value, json};
use std::sync::Arc;

fn resource(version: &str, kind: &str, metadata: Value, spec: Value) -> Result<Resource, Invalid> {
    Resource::parse(&json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}))
}

fn v3(kind: &str, spec: Value) -> Result<Resource, Invalid> {
    let namespaced = kind.parse::<Kind>().is_ok_and(Kind::is_namespaced);
    let metadata = if namespaced { json!({"name": "p", "namespace": "blue"}) } else { json!({"name": "p"}) };
    resource("projectcalico.org/v3", kind, metadata, spec)
}

fn policy(resource: Result<Resource, Invalid>) -> Arc<Policy> {
    match resource.unwrap() {
        Resource::Policy(policy) => policy,
        other => panic!("{other:?}"),
    }
}

/// The policy of networking.k8s.io.
fn kubernetes(spec: Value) -> Result<Resource, Invalid> {
    resource("networking.k8s.io/v1", "NetworkPolicy", json!({"name": "p", "namespace": "blue"}), spec)
}

fn cluster(spec: Value) -> Result<Resource, Invalid> {
    resource("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", json!({"name": "p"}), spec)
}

fn rule(rule: Value) -> Result<Rule, Invalid> {
    let Resource::Policy(policy) = v3("NetworkPolicy", json!({"ingress": [rule]}))? else { panic!("another kind") };
    Ok(policy.ingress.as_ref().unwrap()[0].clone())
}

fn any(action: Action) -> Rule {
    Rule {
        action,
        family: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: Peer::default(),
        destination: Peer::default(),
    }
}

fn selector(text: &str) -> Selector {
    text.parse().unwrap()
}

fn nets(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn range(first: u16, last: u16) -> Port {
    Port::Range(PortRange::new(first, last).unwrap())
}

fn paths<T: std::fmt::Debug>(result: Result<T, Invalid>) -> Vec<String> {
    result.unwrap_err().problems.into_iter().map(|problem| problem.path).collect()
}

#[test]
fn a_rule_with_every_field() {
    let full = rule(json!({
        "action": "Allow", "ipVersion": 4, "protocol": "tcp", "notProtocol": "255",
        "source": {
            "nets": ["10.0.0.1/8"], "notNets": ["10.66.0.0/16"], "selector": "a == 'b'", "notSelector": "has(c)",
            "namespaceSelector": " global() ", "serviceAccounts": {"names": ["x", "y"], "selector": "has(sa)"},
            "ports": [80, "81", "90:99", "http"], "notPorts": [85],
        },
        "destination": {"ports": ["1:65535"]},
    }));
    let expected = Rule {
        family: Some(Family::V4),
        protocol: Some(6),
        not_protocol: Some(255),
        source: Peer {
            nets: nets(&["10.0.0.0/8"]),
            not_nets: nets(&["10.66.0.0/16"]),
            selector: Some(selector("a == 'b'")),
            not_selector: Some(selector("has(c)")),
            namespaces: Some(Selector::global()),
            service_account_names: ["x".to_owned(), "y".to_owned()].into(),
            service_accounts: Some(selector("has(sa)")),
            service: None,
            ports: vec![range(80, 80), range(81, 81), range(90, 99), Port::Named("http".into())],
            not_ports: vec![range(85, 85)],
        },
        destination: Peer { ports: vec![range(1, 65535)], ..Peer::default() },
        ..any(Action::Allow)
    };
    assert_eq!(full, Ok(expected));
    assert_eq!(rule(json!({"action": "Log", "source": {}, "destination": null})), Ok(any(Action::Log)));
    let icmp =
        rule(json!({"action": "Deny", "protocol": 58, "icmp": {"type": 128}, "notICMP": {"type": 1, "code": 0}}));
    let expected = Rule {
        protocol: Some(58),
        icmp: Some(Icmp { kind: 128, code: None }),
        not_icmp: Some(Icmp { kind: 1, code: Some(0) }),
        ..any(Action::Deny)
    };
    assert_eq!(icmp, Ok(expected));
    let service = rule(json!({"action": "Pass", "source": {"services": {"name": "dns", "namespace": "kube-system"}}}));
    let named = ServiceName { namespace: Some("kube-system".into()), name: "dns".into() };
    assert_eq!(service.unwrap().source.service, Some(named));
    // Nothing here reads requests, so that none is allowed.
    let http = rule(json!({"action": "Allow", "http": {"methods": ["GET"]}})).unwrap();
    assert_eq!(http.source.not_nets, nets(&["0.0.0.0/0", "::/0"]));
}

/// Rules that are wrong, and the field that is told, below `spec.ingress[0]`.
#[test]
fn what_a_rule_cannot_say() {
    let long = format!("has({})", "x".repeat(1020));
    let many: Vec<String> = (0..257).map(|n| format!("10.0.{n}.0/24").replace("256", "255")).collect();
    let ports: Vec<u32> = (1..=51).collect();
    for (rest, path) in [
        (json!({"action": "allow"}), "action"),
        (json!({"action": null}), "action"),
        (json!({"ipVersion": 5}), "ipVersion"),
        (json!({"ipVersion": "4"}), "ipVersion"),
        (json!({"protocol": "HTTP"}), "protocol"),
        (json!({"protocol": -1}), "protocol"),
        (json!({"protocol": 1.5}), "protocol"),
        (json!({"notProtocol": 0}), "notProtocol"),
        (json!({"protocol": "ICMP", "ipVersion": 6}), "protocol"),
        (json!({"protocol": 58, "ipVersion": 4}), "protocol"),
        (json!({"notProtocol": "ICMPv6", "ipVersion": 4}), "notProtocol"),
        (json!({"protocol": "ICMP", "icmp": {"type": 255}}), "icmp.type"),
        (json!({"protocol": "ICMP", "icmp": {"type": 1, "code": 256}}), "icmp.code"),
        (json!({"protocol": "ICMP", "icmp": {"code": 1}}), "icmp.code"),
        (json!({"icmp": {"type": 8}}), "icmp"),
        (json!({"protocol": "TCP", "notICMP": {"type": 8}}), "notICMP"),
        (json!({"source": {"ports": [80]}}), "source.ports"),
        (json!({"source": {"notPorts": ["80:81"]}}), "source.notPorts"),
        (json!({"notProtocol": "UDP", "source": {"ports": [80]}}), "source.ports"),
        (json!({"protocol": "UDPLite", "destination": {"ports": ["http"]}}), "destination.ports"),
        (json!({"protocol": "TCP", "destination": {"ports": [0]}}), "destination.ports[0]"),
        (json!({"protocol": "TCP", "destination": {"ports": [65536]}}), "destination.ports[0]"),
        (json!({"protocol": "TCP", "destination": {"ports": [1, "9:8"]}}), "destination.ports[1]"),
        (json!({"protocol": "TCP", "destination": {"ports": ["80:"]}}), "destination.ports[0]"),
        (json!({"protocol": "TCP", "destination": {"ports": ["a b"]}}), "destination.ports[0]"),
        (json!({"protocol": "TCP", "destination": {"ports": ["x".repeat(129)]}}), "destination.ports[0]"),
        (json!({"protocol": "TCP", "destination": {"ports": ports}}), "destination.ports"),
        (json!({"source": {"nets": ["10.0.0.0/8", "fd00::/8"]}}), "source.nets[1]"),
        (json!({"source": {"nets": ["10.0.0.0/8"], "notNets": ["fd00::/8"]}}), "source.notNets[0]"),
        (
            json!({"source": {"nets": ["fd00::/8"]}, "destination": {"notNets": ["10.0.0.0/8"]}}),
            "destination.notNets[0]",
        ),
        (json!({"ipVersion": 6, "source": {"nets": ["10.0.0.0/8"]}}), "source.nets[0]"),
        (json!({"source": {"notNets": ["0.0.0.0/0"]}}), "source.notNets[0]"),
        (json!({"destination": {"notNets": ["::/0"]}}), "destination.notNets[0]"),
        (json!({"source": {"nets": ["10.0.0.300"]}}), "source.nets[0]"),
        (json!({"source": {"nets": many}}), "source.nets"),
        (json!({"source": {"selector": long}}), "source.selector"),
        (json!({"source": {"selector": "global()"}}), "source.selector"),
        (json!({"source": {"notSelector": "!global()"}}), "source.notSelector"),
        (json!({"source": {"namespaceSelector": "!global()"}}), "source.namespaceSelector"),
        (json!({"source": {"namespaceSelector": "global() || has(a)"}}), "source.namespaceSelector"),
        (json!({"source": {"serviceAccounts": {"selector": "global()"}}}), "source.serviceAccounts.selector"),
        (json!({"source": {"serviceAccounts": {"names": ["A"]}}}), "source.serviceAccounts.names[0]"),
        (json!({"source": {"services": {"namespace": "x"}}}), "source.services.name"),
        (json!({"source": {"services": {"name": "s"}, "serviceAccounts": {"names": ["x"]}}}), "source.services"),
        (json!({"source": {"services": {"name": "s"}, "notNets": ["10.0.0.0/8"]}}), "source.services"),
        (json!({"destination": {"services": {"name": "s"}}}), "destination.services"),
        (json!({"action": "Deny", "http": {"methods": ["GET"]}}), "http"),
        (json!({"protocol": 17, "http": {"methods": ["GET"]}}), "http"),
        (json!({"http": {"methods": ["G T"]}}), "http.methods[0]"),
        (json!({"http": {"methods": vec!["GET"; 21]}}), "http.methods"),
        (json!({"http": {"paths": [{}]}}), "http.paths[0]"),
        (json!({"http": {"paths": [{"exact": "a"}]}}), "http.paths[0].exact"),
        (json!({"http": {"paths": [{"prefix": "/a?b"}]}}), "http.paths[0].prefix"),
        (json!({"metadata": {"annotations": {"a b": "c"}}}), "metadata.annotations[a b]"),
        (json!({"source": {"net": []}}), "source.net"),
        (json!({"sorce": {}}), "sorce"),
    ] {
        let mut full = json!({"action": "Allow"});
        full.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        let found = paths(rule(full));
        assert_eq!(found[0], format!("spec.ingress[0].{path}"), "{rest}: {found:?}");
    }
    let egress = |rule: Value| v3("GlobalNetworkPolicy", json!({"egress": [rule]}));
    let to = |services: Value| json!({"action": "Allow", "protocol": "TCP", "destination": services});
    for (rule, path) in [
        (to(json!({"services": {"name": "s", "namespace": "x"}, "ports": [80]})), "destination.services"),
        (to(json!({"services": {"name": "s"}})), "destination.services.namespace"),
        (json!({"action": "Allow", "source": {"services": {"name": "s", "namespace": "x"}}}), "source.services"),
        (json!({"action": "Allow", "http": {"methods": ["GET"]}}), "http"),
    ] {
        assert_eq!(paths(egress(rule)), [format!("spec.egress[0].{path}")]);
    }
    egress(to(json!({"services": {"name": "s", "namespace": "x"}}))).unwrap();
}

/// Rules that are odd, and right.
#[test]
fn what_a_rule_can_say() {
    for rest in [
        json!({"source": {"ports": ["http"]}}),
        json!({"protocol": "132", "source": {"ports": ["a-port_1.x"]}}),
        json!({"protocol": "TCP", "source": {"services": {"name": "s"}, "ports": [80], "nets": []}}),
        json!({"source": {"nets": ["0.0.0.0/0"], "notNets": ["0.0.0.0/1"]}}),
        json!({"source": {"nets": ["::ffff:10.0.0.0/104"]}, "destination": {"nets": ["10.0.0.1"]}}),
        json!({"source": {"selector": "", "namespaceSelector": "all()"}}),
        json!({"notProtocol": "ICMP", "ipVersion": 4}),
        json!({"http": {"methods": ["*"], "paths": [{"exact": "/"}]}, "protocol": 6}),
    ] {
        let mut full = json!({"action": "Allow"});
        full.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        rule(full).unwrap();
    }
}

#[test]
fn a_policy_speaks_of_the_directions_it_has_rules_for_or_names() {
    let one = json!([{"action": "Allow"}]);
    for (spec, ingress, egress) in [
        (json!({}), Some(0), None),
        (json!({"ingress": one}), Some(1), None),
        (json!({"egress": one}), None, Some(1)),
        (json!({"ingress": one, "egress": one}), Some(1), Some(1)),
        (json!({"egress": one, "types": ["Ingress"]}), Some(0), None),
        (json!({"types": ["Egress"]}), None, Some(0)),
        (json!({"types": ["Egress", "Ingress"]}), Some(0), Some(0)),
        (json!({"types": []}), Some(0), None),
    ] {
        let policy = policy(v3("GlobalNetworkPolicy", spec.clone()));
        let count = |rules: &Option<Vec<Rule>>| rules.as_ref().map(Vec::len);
        assert_eq!((count(&policy.ingress), count(&policy.egress)), (ingress, egress), "{spec}");
    }
}

#[test]
fn where_a_policy_is_met_and_whom_it_is_for() {
    for (spec, stage) in [
        (json!({}), Stage::Normal),
        (json!({"applyOnForward": true}), Stage::AlsoForward),
        (json!({"preDNAT": true, "applyOnForward": true}), Stage::BeforeDnat),
        (json!({"doNotTrack": true, "applyOnForward": true, "preDNAT": false}), Stage::Untracked),
    ] {
        assert_eq!(policy(v3("GlobalNetworkPolicy", spec)).stage, stage);
    }
    let full = policy(v3(
        "GlobalNetworkPolicy",
        json!({"tier": "t", "order": -0.5, "selector": "has(a)", "namespaceSelector": "has(b)", "serviceAccountSelector": "has(c)"}),
    ));
    assert_eq!((full.tier.as_str(), full.order, full.staging), ("t", Some(-0.5), Staging::Enforced));
    let subject = Subject {
        selector: selector("has(a)"),
        namespaces: Some(selector("has(b)")),
        service_accounts: Some(selector("has(c)")),
    };
    assert_eq!(full.subject, subject);
    let plain = policy(v3("NetworkPolicy", json!({})));
    assert_eq!((plain.tier.as_str(), plain.order), ("default", None));
    assert_eq!(plain.key.to_string(), "NetworkPolicy/blue/p");
    assert_eq!(plain.subject, Subject { selector: Selector::all(), namespaces: None, service_accounts: None });
    for (spec, path) in [
        (json!({"doNotTrack": true, "preDNAT": true, "applyOnForward": true}), "spec.doNotTrack"),
        (json!({"doNotTrack": true}), "spec.applyOnForward"),
        (json!({"preDNAT": true, "applyOnForward": true, "egress": [{"action": "Allow"}]}), "spec.egress"),
        (json!({"preDNAT": true, "applyOnForward": true, "types": ["Ingress", "Egress"]}), "spec.types[1]"),
        (json!({"tier": "a.b"}), "spec.tier"),
        (json!({"selectors": "all()"}), "spec.selectors"),
        (json!({"stagedAction": "Set"}), "spec.stagedAction"),
        (json!({"types": ["Both"]}), "spec.types[0]"),
    ] {
        assert_eq!(paths(v3("GlobalNetworkPolicy", spec)), [path]);
    }
    for field in ["namespaceSelector", "applyOnForward", "doNotTrack", "preDNAT"] {
        let value = if field == "namespaceSelector" { json!("all()") } else { json!(true) };
        assert_eq!(paths(v3("NetworkPolicy", json!({field: value}))), [format!("spec.{field}")]);
    }
}

#[test]
fn a_policy_may_carry_the_name_of_its_tier() {
    let named = |kind: &str, name: &str| {
        let namespaced = kind.parse::<Kind>().unwrap().is_namespaced();
        let mut metadata = json!({"name": name});
        if namespaced {
            metadata["namespace"] = json!("blue");
        }
        resource("projectcalico.org/v3", kind, metadata, json!({})).is_ok()
    };
    let long = "x".repeat(253);
    for (kind, name, good) in [
        ("NetworkPolicy", "a", true),
        ("NetworkPolicy", "tier.a", true),
        ("NetworkPolicy", "x.tier.a", false),
        ("NetworkPolicy", "knp.default.a.b.c", true),
        ("StagedNetworkPolicy", "ossg.default.a", true),
        ("GlobalNetworkPolicy", "knp.default.a", false),
        ("StagedGlobalNetworkPolicy", "tier.a", true),
        ("GlobalNetworkPolicy", long.as_str(), true),
        ("GlobalNetworkPolicy", "-a", false),
        ("StagedKubernetesNetworkPolicy", "a.b.c.d", true),
        ("Tier", "a.b", false),
        ("NetworkSet", "a.b.c", true),
        ("Profile", "kns.blue", true),
    ] {
        assert_eq!(named(kind, name), good, "{kind} {name}");
    }
}

#[test]
fn staged_policies_say_what_they_propose() {
    for (word, action) in [
        (json!(null), StagedAction::Set),
        (json!("Set"), StagedAction::Set),
        (json!("Learn"), StagedAction::Learn),
        (json!("Ignore"), StagedAction::Ignore),
        (json!("Delete"), StagedAction::Delete),
    ] {
        for kind in ["StagedNetworkPolicy", "StagedGlobalNetworkPolicy", "StagedKubernetesNetworkPolicy"] {
            let policy = policy(v3(kind, json!({"stagedAction": word})));
            assert_eq!(policy.staging, Staging::Staged(action), "{kind}");
        }
    }
    let rules =
        json!({"stagedAction": "Delete", "tier": "t", "order": 5, "ingress": [{"action": "Allow"}], "egress": []});
    assert_eq!(paths(v3("StagedNetworkPolicy", rules)), ["spec.ingress", "spec.order"]);
    let pods = json!({"stagedAction": "Delete", "podSelector": {"matchLabels": {"a": "b"}}});
    assert_eq!(paths(v3("StagedKubernetesNetworkPolicy", pods)), ["spec.podSelector"]);
}

#[test]
fn tiers_and_what_is_built_in() {
    let tier = |name: &str, spec: Value| match resource("projectcalico.org/v3", "Tier", json!({"name": name}), spec)? {
        Resource::Tier(tier) => Ok(tier),
        other => panic!("{other:?}"),
    };
    let own = tier("t", json!({"order": 1.5, "defaultAction": "Pass"})).unwrap();
    assert_eq!((own.order, own.default_action), (Some(1.5), TierDefault::Pass));
    let bare = tier("t", json!({})).unwrap();
    assert_eq!((bare.order, bare.default_action), (None, TierDefault::Deny));
    for built_in in Tier::all_built_in() {
        assert_eq!(tier(&built_in.name, json!({})), Ok(built_in));
    }
    assert!(Tier::all_built_in().is_sorted_by_key(|tier| tier.order.unwrap()));
    for (name, spec, path) in [
        ("default", json!({"order": 5}), "spec.order"),
        ("default", json!({"defaultAction": "Pass"}), "spec.defaultAction"),
        ("kube-admin", json!({"defaultAction": "Deny"}), "spec.defaultAction"),
        ("t", json!({"defaultAction": "Allow"}), "spec.defaultAction"),
    ] {
        assert_eq!(paths(tier(name, spec)), [path]);
    }
}

#[test]
fn profiles_sets_and_host_endpoints() {
    let spec = json!({"ingress": [{"action": "Allow"}], "egress": [{"action": "Deny"}], "labelsToApply": {"a": "b"}});
    let Resource::Profile(profile) = v3("Profile", spec).unwrap() else { panic!("another kind") };
    assert_eq!((profile.ingress, profile.egress), (vec![any(Action::Allow)], vec![any(Action::Deny)]));
    assert_eq!(profile.labels["a"], "b");
    let Resource::NetworkSet(set) =
        v3("GlobalNetworkSet", json!({"nets": ["10.0.0.1", "10.0.0.1/32", "fd00::/8"]})).unwrap()
    else {
        panic!("another kind")
    };
    assert_eq!(set.nets, nets(&["10.0.0.1/32", "fd00::/8"]).into_iter().collect());
    let labelled = json!({"name": "s", "labels": {"projectcalico.org/namespace": "x"}});
    let path = "metadata.labels[projectcalico.org/namespace]";
    assert_eq!(paths(resource("projectcalico.org/v3", "GlobalNetworkSet", labelled, json!({}))), [path]);
    let host = |spec: Value| match v3("HostEndpoint", spec)? {
        Resource::HostEndpoint(endpoint) => Ok(endpoint),
        other => panic!("{other:?}"),
    };
    for (spec, interface) in [
        (json!({"node": "n", "interfaceName": "*"}), HostInterface::All),
        (json!({"node": "n", "interfaceName": "eth0"}), HostInterface::Named("eth0".parse().unwrap())),
        (json!({"node": "n", "expectedIPs": ["10.0.0.1"]}), HostInterface::ByAddress),
    ] {
        assert_eq!(host(spec).unwrap().interface, interface);
    }
    let port =
        host(json!({"node": "n", "interfaceName": "*", "ports": [{"name": "p", "protocol": "sctp", "port": 5}]}));
    assert_eq!(port.unwrap().ports, [NamedPort { name: "p".into(), protocol: 132, port: 5 }]);
    assert_eq!(paths(host(json!({"node": "n"}))), ["spec.interfaceName"]);
}

/// Pods by these labels.
fn pods(text: &str) -> Option<Selector> {
    let pods = "has(projectcalico.org/orchestrator)";
    Some(if text.is_empty() { selector(pods) } else { selector(&format!("{pods} && {text}")) })
}

#[test]
fn a_policy_of_kubernetes_is_one_of_ours() {
    let spec = json!({
        "podSelector": {"matchLabels": {"role": "web"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["x", "y"]}, {"key": "b", "operator": "NotIn", "values": ["z"]},
            {"key": "c", "operator": "Exists"}, {"key": "d", "operator": "DoesNotExist"}]},
        "ingress": [
            {
                "from": [
                    {"podSelector": {}},
                    {"podSelector": {"matchLabels": {"p": "q"}}, "namespaceSelector": {}},
                    {"namespaceSelector": {"matchLabels": {"n": "m"}}},
                    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.66.0.0/16"]}},
                ],
                "ports": [{"port": 80}, {"protocol": "TCP", "port": "http"}, {"protocol": "UDP", "port": 5, "endPort": 9}],
            },
            {"ports": [{"protocol": "SCTP"}, {"protocol": "SCTP", "port": 7}]},
            {},
        ],
    });
    let policy = policy(kubernetes(spec));
    assert_eq!(policy.key.to_string(), "KubernetesNetworkPolicy/blue/p");
    assert_eq!((policy.tier.as_str(), policy.order, policy.stage), ("default", Some(1000.0), Stage::Normal));
    let expected = pods("role == 'web' && a in {'x', 'y'} && b not in {'z'} && has(c) && !has(d)").unwrap();
    assert_eq!(policy.subject, Subject { selector: expected, namespaces: None, service_accounts: None });
    assert_eq!(policy.egress, None, "no egress rules, and no types");
    let peer = |selector, namespaces| Peer { selector, namespaces, ..Peer::default() };
    let block = Peer { nets: nets(&["10.0.0.0/8"]), not_nets: nets(&["10.66.0.0/16"]), ..Peer::default() };
    let peers = [
        peer(pods(""), None),
        peer(pods("p == 'q'"), Some(Selector::all())),
        peer(pods(""), Some(selector("n == 'm'"))),
        block,
    ];
    let rule = |source: &Peer, protocol, ports: Vec<Port>| Rule {
        protocol,
        source: source.clone(),
        destination: Peer { ports, ..Peer::default() },
        ..any(Action::Allow)
    };
    let mut rules = Vec::new();
    for peer in &peers {
        rules.push(rule(peer, Some(6), vec![range(80, 80), Port::Named("http".into())]));
        rules.push(rule(peer, Some(17), vec![range(5, 9)]));
    }
    rules.push(rule(&Peer::default(), Some(132), vec![]));
    rules.push(any(Action::Allow));
    assert_eq!(policy.ingress.as_deref(), Some(rules.as_slice()));
}

#[test]
fn what_direction_a_policy_of_kubernetes_is_of() {
    for (spec, ingress, egress) in [
        (json!({}), true, false),
        (json!({"egress": []}), true, false),
        (json!({"egress": [{}]}), true, true),
        (json!({"egress": [{}], "policyTypes": ["Ingress"]}), true, false),
        (json!({"ingress": [{}], "policyTypes": ["Egress"]}), false, true),
        (json!({"policyTypes": ["Egress", "Ingress"]}), true, true),
    ] {
        let policy = policy(kubernetes(spec.clone()));
        assert_eq!((policy.ingress.is_some(), policy.egress.is_some()), (ingress, egress), "{spec}");
    }
    let to =
        json!({"egress": [{"to": [{"ipBlock": {"cidr": "fd00::/8"}}], "ports": [{"port": "dns", "protocol": "UDP"}]}]});
    let rules = policy(kubernetes(to)).egress.clone().unwrap();
    let destination = Peer { nets: nets(&["fd00::/8"]), ports: vec![Port::Named("dns".into())], ..Peer::default() };
    assert_eq!(rules, [Rule { protocol: Some(17), destination, ..any(Action::Allow) }]);
    for (spec, path) in [
        (json!({"ingress": [{"from": [{}]}]}), "spec.ingress[0].from[0]"),
        (json!({"ingress": [{"to": []}]}), "spec.ingress[0].to"),
        (
            json!({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}]}),
            "spec.ingress[0].from[0].ipBlock",
        ),
        (
            json!({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]}),
            "spec.ingress[0].from[0].ipBlock.except[0]",
        ),
        (
            json!({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}]}]}),
            "spec.ingress[0].from[0].ipBlock.except[0]",
        ),
        (json!({"ingress": [{"ports": [{"port": 0}]}]}), "spec.ingress[0].ports[0].port"),
        (json!({"ingress": [{"ports": [{"port": "80:81"}]}]}), "spec.ingress[0].ports[0].port"),
        (json!({"ingress": [{"ports": [{"port": 80, "endPort": 79}]}]}), "spec.ingress[0].ports[0].endPort"),
        (json!({"ingress": [{"ports": [{"port": "http", "endPort": 79}]}]}), "spec.ingress[0].ports[0].endPort"),
        (json!({"ingress": [{"ports": [{"endPort": 79}]}]}), "spec.ingress[0].ports[0].endPort"),
        (json!({"ingress": [{"ports": [{"protocol": "ICMP"}]}]}), "spec.ingress[0].ports[0].protocol"),
        (
            json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
            "spec.podSelector.matchExpressions[0].values",
        ),
        (
            json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}}),
            "spec.podSelector.matchExpressions[0].values",
        ),
        (json!({"podSelector": {"matchLables": {}}}), "spec.podSelector.matchLables"),
        (json!({"selector": "all()"}), "spec.selector"),
    ] {
        assert_eq!(paths(kubernetes(spec)), [path]);
    }
}

#[test]
fn a_cluster_network_policy_is_one_of_ours() {
    let everybody = json!({"namespaces": {}});
    let policy = policy(cluster(json!({
        "tier": "Baseline", "priority": 7,
        "subject": {"pods": {"podSelector": {"matchLabels": {"role": "web"}}, "namespaceSelector": {"matchLabels": {"n": "m"}}}},
        "ingress": [
            {"action": "Pass", "from": [everybody], "protocols": [
                {"tcp": {"destinationPort": {"number": 80}}}, {"udp": {"destinationPort": {"range": {"start": 5, "end": 9}}}},
                {"destinationNamedPort": "http"}]},
            {"action": "Accept", "from": [{"pods": {"podSelector": {"matchLabels": {"p": "q"}}, "namespaceSelector": {}}}]},
        ],
        "egress": [
            {"action": "Deny", "to": [{"networks": ["10.0.0.0/8", "fd00::/8"]}, {"nodes": {}}],
                "protocols": [{"sctp": {"destinationPort": {"number": 1}}}]},
            {"action": "Pass", "to": [{"nodes": {"matchLabels": {"a": "b"}}}]},
            {"action": "Accept", "to": [{"domainNames": ["example.com"]}, everybody]},
        ],
    })));
    assert_eq!((policy.tier.as_str(), policy.order), ("kube-baseline", Some(7.0)));
    let subject = Subject {
        selector: pods("role == 'web'").unwrap(),
        namespaces: Some(selector("n == 'm'")),
        service_accounts: None,
    };
    assert_eq!(policy.subject, subject);
    let everybody = Peer { selector: pods(""), namespaces: Some(Selector::all()), ..Peer::default() };
    let some = Peer { selector: pods("p == 'q'"), namespaces: Some(Selector::all()), ..Peer::default() };
    let ports = |ports: Vec<Port>| Peer { ports, ..Peer::default() };
    let ingress =
        |action, source: &Peer, protocol, to| Rule { protocol, source: source.clone(), destination: to, ..any(action) };
    let expected = [
        ingress(Action::Pass, &everybody, Some(6), ports(vec![range(80, 80)])),
        ingress(Action::Pass, &everybody, Some(17), ports(vec![range(5, 9)])),
        ingress(Action::Pass, &everybody, None, ports(vec![Port::Named("http".into())])),
        ingress(Action::Allow, &some, None, Peer::default()),
    ];
    assert_eq!(policy.ingress.as_deref(), Some(expected.as_slice()));
    let networks = Peer { nets: nets(&["10.0.0.0/8", "fd00::/8"]), ports: vec![range(1, 1)], ..Peer::default() };
    let nobody = Peer { not_nets: nets(&["0.0.0.0/0", "::/0"]), ..Peer::default() };
    let expected = [
        Rule { protocol: Some(132), destination: networks, ..any(Action::Deny) },
        // Nodes cannot be told: what denies or passes denies all, what accepts accepts nothing.
        any(Action::Deny),
        any(Action::Deny),
        Rule { destination: nobody, ..any(Action::Allow) },
        Rule { destination: everybody, ..any(Action::Allow) },
    ];
    assert_eq!(policy.egress.as_deref(), Some(expected.as_slice()));
}

#[test]
fn what_a_cluster_network_policy_cannot_say() {
    let spec = |change: Value| {
        let mut spec = json!({"tier": "Admin", "priority": 0, "subject": {"namespaces": {}}});
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        cluster(spec)
    };
    let admin = policy(spec(json!({"ingress": []})));
    assert_eq!((admin.tier.as_str(), &admin.ingress, &admin.egress), ("kube-admin", &None, &None), "of no direction");
    let everybody = json!([{"namespaces": {}}]);
    let ports = |protocols: Value| json!({"ingress": [{"action": "Deny", "from": everybody, "protocols": protocols}]});
    for (change, path) in [
        (json!({"tier": "Default"}), "spec.tier"),
        (json!({"tier": null}), "spec.tier"),
        (json!({"priority": 1001}), "spec.priority"),
        (json!({"priority": null}), "spec.priority"),
        (json!({"subject": {}}), "spec.subject"),
        (json!({"subject": {"namespaces": {}, "pods": {}}}), "spec.subject"),
        (json!({"ingress": [{"action": "Allow", "from": everybody}]}), "spec.ingress[0].action"),
        (json!({"ingress": [{"action": "Deny"}]}), "spec.ingress[0].from"),
        (json!({"ingress": [{"action": "Deny", "from": []}]}), "spec.ingress[0].from"),
        (json!({"ingress": [{"action": "Deny", "from": [{}]}]}), "spec.ingress[0].from[0]"),
        (
            json!({"ingress": [{"action": "Deny", "from": [{"networks": ["10.0.0.0/8"]}]}]}),
            "spec.ingress[0].from[0].networks",
        ),
        (json!({"egress": [{"action": "Deny", "to": [{"domainNames": ["a.b"]}]}]}), "spec.egress[0].to[0].domainNames"),
        (json!({"egress": [{"action": "Deny", "to": [{"networks": ["10"]}]}]}), "spec.egress[0].to[0].networks[0]"),
        (ports(json!([{}])), "spec.ingress[0].protocols[0]"),
        (ports(json!([])), "spec.ingress[0].protocols"),
        (ports(json!([{"tcp": {}}])), "spec.ingress[0].protocols[0].tcp.destinationPort"),
        (
            ports(json!([{"tcp": {"destinationPort": {"number": 0}}}])),
            "spec.ingress[0].protocols[0].tcp.destinationPort.number",
        ),
        (
            ports(json!([{"tcp": {"destinationPort": {"range": {"start": 5, "end": 5}}}}])),
            "spec.ingress[0].protocols[0].tcp.destinationPort.range.end",
        ),
        (json!({"ingress": vec![json!({"action": "Deny", "from": everybody}); 26]}), "spec.ingress"),
        (json!({"ingress": [{"action": "Deny", "from": everybody, "name": "x".repeat(101)}]}), "spec.ingress[0].name"),
    ] {
        let found = paths(spec(change.clone()));
        assert_eq!(found[0], path, "{change}: {found:?}");
    }
    let named = json!({"egress": [{"action": "Deny", "to": [{"networks": ["10.0.0.0/8"]}], "protocols": [{"destinationNamedPort": "x"}]}]});
    assert_eq!(paths(spec(named)), ["spec.egress[0].protocols[0].destinationNamedPort"]);
}

#[test]
fn labels_and_services_of_kubernetes() {
    let flat = |version: &str, kind: &str, rest: Value| {
        let mut document =
            json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a", "labels": {"x": "y"}}});
        document.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        Resource::parse(&document)
    };
    for (kind, key) in [("Namespace", "Namespace/a"), ("ServiceAccount", "ServiceAccount/default/a")] {
        let Resource::Labelled(labelled) = flat("v1", kind, json!({})).unwrap() else { panic!("another kind") };
        assert_eq!((labelled.key.to_string().as_str(), labelled.labels["x"].as_str()), (key, "y"));
    }
    assert_eq!(paths(flat("v1", "Namespace", json!({"metadata": {"name": "a.b"}}))), ["metadata.name"]);
    let slice = |rest: Value| flat("discovery.k8s.io/v1", "EndpointSlice", rest);
    let Resource::EndpointSlice(found) = slice(json!({
        "metadata": {"name": "s-1", "namespace": "blue", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.0.0.1"]},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": true, "serving": true}},
            {"addresses": ["10.0.0.3"], "conditions": {"ready": false}},
        ],
        "ports": [{"port": 80}, {"name": "dns", "protocol": "UDP", "port": 53}, {"name": "any", "port": null}],
    }))
    .unwrap() else {
        panic!("another kind")
    };
    assert_eq!((found.service.as_str(), found.ports), ("s", [(6, 80), (17, 53)].into()));
    assert_eq!(found.addresses, ["10.0.0.1", "10.0.0.2"].iter().map(|a| a.parse().unwrap()).collect());
    let names = slice(json!({"addressType": "FQDN", "endpoints": [{"addresses": ["example.com"]}]}));
    assert!(
        matches!(names, Ok(Resource::EndpointSlice(slice)) if slice.addresses.is_empty() && slice.service.is_empty())
    );
    let wrong = slice(json!({"addressType": "IPv4", "endpoints": [{"addresses": ["x"]}]}));
    assert_eq!(paths(wrong), ["endpoints[0].addresses[0]"]);
}

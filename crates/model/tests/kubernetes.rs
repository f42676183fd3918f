//! Kubernetes' policies turned into ours, and what they speak of.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use lasthop_model::policy::*;
use lasthop_model::selector::Selector;
use lasthop_model::*;
use serde_json::{Value, json};
use support::{any, nets, paths, policy, range, resource, selector};

/// The policy of networking.k8s.io.
fn kubernetes(spec: Value) -> Result<Resource, Invalid> {
    resource("networking.k8s.io/v1", "NetworkPolicy", json!({"name": "p", "namespace": "blue"}), spec)
}

fn cluster(spec: Value) -> Result<Resource, Invalid> {
    resource("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", json!({"name": "p"}), spec)
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
    let of = |word: &str| json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s"}, "addressType": word});
    assert_eq!(paths(Resource::check_update(&of("IPv4"), &of("IPv6"))), ["addressType"]);
    assert_eq!(Resource::check_update(&of("IPv4"), &of("IPv4")), Ok(()));
}

//! What rules, policies, tiers and profiles of projectcalico.org mean.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use lasthop_model::policy::*;
use lasthop_model::selector::Selector;
use lasthop_model::*;
use lasthop_net::Family;
use serde_json::{Value, json};
use support::{any, nets, paths, policy, range, resource, selector};

fn v3(kind: &str, spec: Value) -> Result<Resource, Invalid> {
    let namespaced = kind.parse::<Kind>().is_ok_and(Kind::is_namespaced);
    let metadata = if namespaced { json!({"name": "p", "namespace": "blue"}) } else { json!({"name": "p"}) };
    resource("projectcalico.org/v3", kind, metadata, spec)
}

fn rule(rule: Value) -> Result<Rule, Invalid> {
    let Resource::Policy(policy) = v3("NetworkPolicy", json!({"ingress": [rule]}))? else { panic!("another kind") };
    Ok(policy.ingress.as_ref().unwrap()[0].clone())
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

//! Whose settings are in force on a node, and peerings that cannot be set up.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use lasthop_compute::{Engine, Event, Finding};
use lasthop_model::{Key, Kind, NodeName, read_documents};
use lasthop_net::Metric;

/// A resource as users write it, `spec` and labels in YAML's short form.
fn event(kind: &str, name: &str, labels: &str, spec: &str) -> Event {
    let text = format!(
        "apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec: {{{spec}}}\n"
    );
    let document = read_documents(&text, "test").unwrap().remove(0);
    Event::Put(Key::of(&document.value).unwrap(), document.parse().unwrap())
}

fn settings(name: &str, spec: &str) -> Event {
    event("FelixConfiguration", name, "", spec)
}

#[test]
fn one_node_before_some_before_all_and_labels_decide() {
    let me: NodeName = "n1".parse().unwrap();
    let mut engine = Engine::new(me.clone());
    let mut metric = |event: Event| {
        engine.apply(event);
        engine.desired().metric
    };
    let node = |rack: &str| event("Node", "n1", &format!("rack: {rack}"), "bgp: {ipv4Address: 10.0.0.1/24}");
    let gone = |name: &str| Event::Gone(Key { kind: Kind::FelixConfiguration, namespace: None, name: name.into() });
    assert_eq!(metric(settings("default", "routeMetric: 1")), Metric(1));
    assert_eq!(metric(settings("fast", "routeMetric: 2, nodeSelector: rack == 'a'")), Metric(1));
    assert_eq!(metric(node("a")), Metric(2));
    assert_eq!(metric(node("b")), Metric(1));
    assert_eq!(metric(settings("fast", "routeMetric: 3, nodeSelector: rack == 'b'")), Metric(3));
    assert_eq!(metric(settings("node.n1", "routeMetric: 4")), Metric(4));
    assert_eq!(metric(gone("node.n1")), Metric(3));
    assert_eq!(metric(gone("fast")), Metric(1));
    assert_eq!(metric(gone("default")), Metric(0));
}

#[test]
fn a_peering_that_names_nobody_is_a_finding_where_it_applies() {
    let mut engine = Engine::new("n1".parse().unwrap());
    engine.apply(event("Node", "n1", "", "bgp: {ipv4Address: 10.0.0.1/24}"));
    engine.apply(event("BGPPeer", "p", "", ""));
    assert!(matches!(engine.desired().findings.get("BGPPeer/p"), Some(Finding::PeerUnusable { .. })));
    engine.apply(event("BGPPeer", "p", "", "node: n2"));
    assert_eq!(engine.desired().findings.get("BGPPeer/p"), None);
    engine.apply(event("BGPPeer", "p", "", "peerIP: 10.0.0.9"));
    let peers = &engine.desired().bgp.as_ref().unwrap().peers;
    assert_eq!(peers.values().map(|peer| peer.config.asn.0).collect::<Vec<_>>(), [64512], "its AS is ours");
}

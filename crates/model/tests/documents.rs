//! Texts as people write them: what is read, where mistakes are said to be, what is printed.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use lasthop_model::{Document, Key, Kind, Resource, WorkloadEndpoint, read_documents, to_json, to_list, to_yaml};
use serde_json::{Value, json};

fn read(text: &str) -> Vec<Document> {
    read_documents(text, "f.yaml").unwrap()
}

fn mistakes(text: &str) -> Vec<String> {
    let told = |document: Document| document.parse().err().map(|invalid| document.lines(&invalid)).unwrap_or_default();
    read(text).into_iter().flat_map(told).collect()
}

#[test]
fn documents_lists_and_json_are_all_taken_apart() {
    let yaml = "# pools\n---\nkind: A\n---\n---\nkind: List\nitems:\n- kind: B\n- kind: C\n---\napiVersion: v\nkind: IPPoolList\nitems:\n- spec: {}\n";
    let values: Vec<Value> = read(yaml).into_iter().map(|document| document.value).collect();
    let item = json!({"apiVersion": "v", "kind": "IPPool", "spec": {}});
    assert_eq!(values, [json!({"kind": "A"}), json!({"kind": "B"}), json!({"kind": "C"}), item]);
    assert_eq!(read("{\"a\": 1}\n{\"a\": 2}").len(), 2);
    assert_eq!(read("{a: 1, b: [x]}")[0].value, json!({"a": 1, "b": ["x"]}));
    assert!(read("# nothing\n---\n...\n").is_empty());
}

#[test]
fn a_mistake_is_told_with_its_line_and_the_fix() {
    let text = "# pools
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: p
  labels:
    'a b': x
spec:
  cidr: 10.0.0.1/24
  natOutgoin: true
  disabled: yes
  allowedUses:
  - Workload
  - Nope
---
kind: List
items:
- apiVersion: projectcalico.org/v3
  kind: BGPPeer
  metadata: {name: x}
  spec:
    peerIP: 1.2.3
    asNumber: 1.10
- apiVersion: v3
  kind: BGPPeer
- just text
";
    let expected = [
        "f.yaml:8: IPPool/p: metadata.labels[a b]: 'a b' is not a key; write e.g. role or example.com/role: at most 63 letters, digits, '-', '_', '.', starting and ending with a letter or digit",
        "f.yaml:10: IPPool/p: spec.cidr: '10.0.0.1/24' has bits set past its length; write 10.0.0.0/24",
        "f.yaml:11: IPPool/p: spec.natOutgoin: 'spec' has no field 'natOutgoin'; did you mean 'natOutgoing'?",
        "f.yaml:12: IPPool/p: spec.disabled: 'yes' is text; write true or false (no quotes)",
        "f.yaml:15: IPPool/p: spec.allowedUses[1]: 'Nope' is not one of Workload, Tunnel, LoadBalancer",
        "f.yaml:23: BGPPeer/x: spec.peerIP: '1.2.3' is not the address of a peer; write e.g. 10.0.0.1, 10.0.0.1:1790, fd00::1 or [fd00::1]:1790 (port 1 to 65535)",
        "f.yaml:24: BGPPeer/x: spec.asNumber: 1.1 is not an AS number; write a dotted one in quotes, e.g. \"1.10\"",
        "f.yaml:25: apiVersion: 'v3' is not supported; write projectcalico.org/v3",
        "f.yaml:27: document: is not a resource; write apiVersion, kind, metadata and spec",
    ];
    assert_eq!(mistakes(text), expected);
}

#[test]
fn what_names_a_resource_is_checked_first() {
    for (text, message) in [
        ("spec: {}", "f.yaml:1: kind: is missing; write kind, e.g. kind: NetworkPolicy"),
        ("Kind: Node", "f.yaml:1: kind: is missing; write kind (not 'Kind'), e.g. kind: NetworkPolicy"),
        ("kind: Node", "f.yaml:1: apiVersion: is missing; write projectcalico.org/v3"),
        (
            "apiVersion: v1\nkind: Pod",
            "f.yaml:2: kind: 'Pod' is not a kind of resource; there are: FelixConfiguration, BGPConfiguration, Node, IPPool, BGPFilter, BGPPeer, \
             Namespace, ServiceAccount, Tier, Profile, GlobalNetworkSet, NetworkSet, EndpointSlice, GlobalNetworkPolicy, \
             NetworkPolicy, ClusterNetworkPolicy, StagedGlobalNetworkPolicy, StagedNetworkPolicy, \
             StagedKubernetesNetworkPolicy, HostEndpoint, WorkloadEndpoint, Rollout, RolloutReport",
        ),
        ("apiVersion: v2\nkind: Pod", "f.yaml:1: apiVersion: 'v2' is not supported; kinds of projectcalico.org/v3 are"),
        (
            "apiVersion: v1\nkind: NetworkPolicy",
            "f.yaml:1: apiVersion: 'v1' is not supported; write projectcalico.org/v3 or networking.k8s.io/v1",
        ),
        (
            "apiVersion: crd.projectcalico.org/v1\nkind: IPPool",
            "f.yaml:1: apiVersion: 'crd.projectcalico.org/v1' is the form in which Kubernetes stores these; write projectcalico.org/v3",
        ),
        (
            "apiVersion: projectcalico.org/v3\nkind: IpPool",
            "f.yaml:2: kind: 'IpPool' is not a kind of resource; did you mean 'IPPool'?",
        ),
        (
            "apiVersion: projectcalico.org/v3\nkind: IPReservation",
            "f.yaml:2: kind: 'IPReservation' is a kind that this version of lasthop does not support",
        ),
        (
            "apiVersion: projectcalico.org/v3\nkind: Node",
            "f.yaml:1: metadata.name: Node: is missing; write the resource's name",
        ),
        (
            "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: Node_1}",
            "f.yaml:3: metadata.name: Node: 'Node_1' is not a valid name: use lower-case letters, digits, '-' and '.', starting and ending with a letter or digit",
        ),
        (
            "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: 17}",
            "f.yaml:3: metadata.name: Node: 17 is a number; put it in quotes",
        ),
        (
            "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: n, namespace: x}",
            "f.yaml:3: Node/n: metadata.namespace: Node has no namespace; remove it",
        ),
        (
            "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {name: mine}",
            "f.yaml:3: BGPConfiguration/mine: metadata.name: 'mine' is for no node; name it 'default' or 'node.<name of the node>'",
        ),
    ] {
        assert_eq!(mistakes(text), [message], "{text}");
    }
}

#[test]
fn text_that_is_no_yaml_is_one_line_with_the_place() {
    for (text, message) in [
        ("a: 1\na: 2\n", "f.yaml:2: is not valid YAML: the field 'a' is written twice; keep one of them"),
        ("kind: x\n\tfoo: 1\n", "f.yaml:1: is not valid YAML: there is a tab in the indentation; use spaces"),
        ("a: [1\n", "f.yaml:1: is not valid YAML: unclosed bracket '['"),
        ("a:\n  b: \"x\n", "f.yaml:2: is not valid YAML: unclosed quote"),
        ("kind: List\n", "f.yaml:1: items: is missing; a list needs a list of resources there"),
    ] {
        assert_eq!(read_documents(text, "f.yaml").unwrap_err().to_string(), message, "{text}");
    }
    let error = read_documents("{\"a\": 1,\n \"b\" 2}", "f.json").unwrap_err().to_string();
    assert_eq!(error, "f.json:2: is not valid JSON: expected `:`");
}

#[test]
fn an_endpoint_survives_its_document_and_prints_in_the_order_of_the_api() {
    let text = "apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata:
  name: w1
  namespace: blue
  labels:
    \"on\": \"yes\"
    role: web
spec:
  node: compute-1
  orchestrator: openstack
  serviceAccountName: web
  interfaceName: tapa429fb36-04
  mac: 02:00:0a:41:00:18
  ipNetworks:
  - 10.65.0.24/32
  - fd00:65::24/128
  allowSpoofedSourcePrefixes:
  - 192.168.0.0/16
  profiles: []
  ports:
  - name: http
    protocol: TCP
    port: 80
";
    let Resource::WorkloadEndpoint(endpoint) = read(text)[0].parse().unwrap() else { panic!("another kind") };
    let document = endpoint.to_document();
    assert_eq!(to_yaml(&document), text);
    assert_eq!(Resource::parse(&document).unwrap(), Resource::WorkloadEndpoint(endpoint));
    assert_eq!(read(&to_json(&document))[0].value, document);
    let list = to_yaml(&to_list(vec![document.clone(), document.clone()]));
    assert!(list.starts_with("apiVersion: projectcalico.org/v3\nkind: List\nitems:\n- apiVersion: "), "{list}");
    assert_eq!(read(&list).len(), 2);
}

#[test]
fn an_endpoint_without_namespace_is_in_the_default_one() {
    let document = json!({"apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint", "metadata": {"name": "w"},
        "spec": {"node": "n", "interfaceName": "lh1"}});
    let key = Key { kind: Kind::WorkloadEndpoint, namespace: Some("default".into()), name: "w".into() };
    assert_eq!(Key::of(&document).unwrap(), key);
    let resource = Resource::parse(&document).unwrap();
    assert_eq!(resource.key(), key);
    let Resource::WorkloadEndpoint(WorkloadEndpoint { addresses, mac, .. }) = resource else { panic!("another kind") };
    assert!(addresses.is_empty() && mac.is_none());
}

#[test]
fn fields_without_effect_are_accepted_and_told() {
    let text = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: p}
spec:
  cidr: 10.65.0.0/16
  ipipMode: Never
  vxlanMode: Always
  nodeSelector: all()
  blockSize: 26
";
    let document = &read(text)[0];
    document.parse().unwrap();
    let notices = [
        "f.yaml:7: IPPool/p: spec.vxlanMode: accepted, without effect yet",
        "f.yaml:9: IPPool/p: spec.blockSize: accepted, without effect yet",
    ];
    assert_eq!(document.notices(), notices);
}

#[test]
fn a_long_text_is_read_whole() {
    let documents = read(&"---\nkind: A\nspec: {a: [1, 2, 3]}\n".repeat(5_000));
    assert_eq!(documents.len(), 5_000);
    assert_eq!(documents[4_999].line("spec.a"), Some(15_000));
    assert_eq!(documents[4_999].line(""), Some(14_999));
}

#[test]
fn a_text_that_grows_in_the_reading_is_refused() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let alias = format!("*a{}", i - 1);
        laughs += &format!("a{i}: &a{i} [{}]\n", vec![alias; 10].join(", "));
    }
    for text in [laughs, "[".repeat(100_000), "- ".repeat(100_000), "a: ".repeat(1000)] {
        let error = read_documents(&text, "f.yaml").unwrap_err().to_string();
        assert!(error.len() < 200 && !error.contains('\n'), "{error}");
        eprintln!("{error}");
    }
}

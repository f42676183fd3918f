//! What documents mean: the values that the rest of the program works with.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use lasthop_model::*;
use lasthop_net::{Asn, Family, Metric};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

fn document(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn peer(spec: Value) -> Result<BgpPeer, Invalid> {
    match Resource::parse(&document("BGPPeer", "p", spec))? {
        Resource::BgpPeer(peer) => Ok(peer),
        other => panic!("{other:?}"),
    }
}

fn settings(spec: Value) -> Result<(SettingsScope, Overlay), Invalid> {
    match Resource::parse(&document("FelixConfiguration", "default", spec))? {
        Resource::Settings { scope, overlay } => Ok((scope, overlay)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node() {
    let spec = json!({"bgp": {"asNumber": "1.10", "ipv4Address": "172.18.203.10/24", "ipv6Address": "fd00:203::10",
        "routeReflectorClusterID": "244.0.0.1"}});
    let mut text = document("Node", "compute-1", spec);
    text["metadata"]["labels"] = json!({"rack": "r1"});
    let Resource::Node(node) = Resource::parse(&text).unwrap() else { panic!("another kind") };
    assert_eq!(node.name.as_str(), "compute-1");
    assert_eq!(node.ipv4, Some([172, 18, 203, 10].into()), "the address, not the network");
    assert_eq!(node.ipv6, Some("fd00:203::10".parse().unwrap()));
    assert_eq!((node.asn, node.cluster_id), (Some(Asn(65546)), Some([244, 0, 0, 1].into())));
    assert_eq!(node.labels["rack"], "r1");
    for (spec, path) in [
        (json!({"bgp": {}}), "spec.bgp"),
        (json!({"bgp": {"ipv4Address": "fd00::1/64"}}), "spec.bgp.ipv4Address"),
        (json!({"bgp": {"ipv4Address": "0.0.0.0/0"}}), "spec.bgp.ipv4Address"),
        (json!({"bgp": {"ipv4Address": "172.18.203.10/33"}}), "spec.bgp.ipv4Address"),
        (json!({"bgp": {"ipv6Address": "ff02::1/64"}}), "spec.bgp.ipv6Address"),
        (json!({"bgp": {"asNumber": 1.5}}), "spec.bgp.asNumber"),
        (json!({"bgp": {"asNumber": -1}}), "spec.bgp.asNumber"),
        (json!({"bgp": []}), "spec.bgp"),
    ] {
        let invalid = Resource::parse(&document("Node", "n", spec)).unwrap_err();
        assert_eq!(invalid.problems.iter().map(|p| p.path.as_str()).collect::<Vec<_>>(), [path], "{invalid}");
    }
}

#[test]
fn a_peering_says_who_peers_with_whom() {
    let address = |address: &str, port, asn| PeerTarget::Address { address: address.parse().unwrap(), port, asn };
    for (spec, nodes, target) in [
        (json!({"peerIP": "10.0.0.1", "asNumber": 65000}), NodeMatch::All, address("10.0.0.1", None, Some(Asn(65000)))),
        (
            json!({"peerIP": "10.0.0.1:1790", "node": "n"}),
            NodeMatch::Named("n".parse().unwrap()),
            address("10.0.0.1", Some(1790), None),
        ),
        (
            json!({"peerIP": "[fd00::1]:1790", "nodeSelector": "has(a)"}),
            NodeMatch::Selected("has(a)".parse().unwrap()),
            address("fd00::1", Some(1790), None),
        ),
        (json!({"peerIP": "[10.0.0.1]:1790"}), NodeMatch::All, address("10.0.0.1", Some(1790), None)),
        (json!({"peerIP": "fd00::1"}), NodeMatch::All, address("fd00::1", None, None)),
        (json!({"peerSelector": "rr == 'yes'"}), NodeMatch::All, PeerTarget::Nodes("rr == 'yes'".parse().unwrap())),
        (
            json!({"localWorkloadSelector": "all()", "asNumber": "1.1"}),
            NodeMatch::All,
            PeerTarget::Workloads { selector: "all()".parse().unwrap(), asn: Asn(65537) },
        ),
        (json!({}), NodeMatch::All, PeerTarget::Nobody),
    ] {
        let peer = peer(spec).unwrap();
        assert_eq!((peer.nodes, peer.target), (nodes, target));
    }
    let timed = peer(
        json!({"peerIP": "10.0.0.1", "keepaliveTime": "30s", "maxRestartTime": "2m", "localASNumber": 7, "keepOriginalNextHop": true}),
    );
    let timed = timed.unwrap();
    assert_eq!((timed.keepalive, timed.restart_time), (Some(Duration::from_secs(30)), Some(Duration::from_secs(120))));
    assert_eq!((timed.local_asn, timed.next_hop), (Some(Asn(7)), NextHopMode::Keep));
    for (spec, path) in [
        (json!({"peerIP": "10.0.0.1", "asNumber": 0}), "spec.asNumber"),
        (json!({"peerIP": "224.0.0.5"}), "spec.peerIP"),
        (json!({"peerIP": "10.0.0.1", "keepaliveTime": "0s"}), "spec.keepaliveTime"),
        (json!({"peerIP": "10.0.0.1", "maxRestartTime": "4096s"}), "spec.maxRestartTime"),
        (json!({"peerIP": "10.0.0.1", "ttlSecurity": 256}), "spec.ttlSecurity"),
        (json!({"peerIP": "10.0.0.1", "nodeSelector": "a = 'b'"}), "spec.nodeSelector"),
        (json!({"peerSelector": "all()", "asNumber": 1}), "spec.asNumber"),
    ] {
        assert_eq!(only_path(peer(spec)), path);
    }
}

fn only_path<T: std::fmt::Debug>(result: Result<T, Invalid>) -> String {
    let invalid = result.unwrap_err();
    assert_eq!(invalid.problems.len(), 1, "{invalid}");
    invalid.problems[0].path.clone()
}

#[test]
fn settings_are_laid_over_the_defaults() {
    let (scope, overlay) = settings(json!({
        "interfacePrefix": "lh, tap", "defaultEndpointToHostAction": "accept", "programClusterRoutes": "Disabled",
        "workloadSourceSpoofing": "any", "routeRefreshInterval": "10s", "routeMetric": 5, "ipv4NormalRoutePriority": 1024,
        "hostMAC": "FixedOnAll", "nftablesMode": "Disabled", "iptablesBackend": "legacy", "iptablesFilterDenyAction": "Reject",
        "failsafeInboundHostPorts": [{"protocol": "tcp", "port": 22, "net": "10.0.0.0/8"}], "failsafeOutboundHostPorts": [],
        "logPrefix": "denied %n: ", "logActionRateLimit": "10/minute", "logActionRateLimitBurst": 1,
        "revokeConnections": "DeniedFlows",
    }))
    .unwrap();
    assert_eq!(scope, SettingsScope::Default);
    let mut settings = Settings::default();
    overlay.lay_over(&mut settings);
    let expected = Settings {
        interface_prefixes: vec!["lh".into(), "tap".into()],
        endpoint_to_host: EndpointToHost::Accept,
        program_routes: ProgramRoutes::Disabled,
        metric: Metric(5),
        source_spoofing: SourceSpoofing::Any,
        refresh: Duration::from_secs(10),
        host_mac: HostMac::FixedOnAll,
        dataplane: Dataplane::Iptables,
        iptables_backend: IptablesBackend::Legacy,
        deny_action: DenyAction::Reject,
        failsafe_in: [FailsafePort { protocol: 6, port: 22, net: "10.0.0.0/8".parse().ok() }].into(),
        failsafe_out: BTreeSet::new(),
        log_prefix: "denied %n: ".into(),
        log_rate: Some(Rate { packets: 10, per: Duration::from_secs(60) }),
        log_burst: 1,
        revoke: Revoke::DeniedFlows,
    };
    assert_eq!(settings, expected);
}

#[test]
fn settings_of_the_reference_keep_their_meaning() {
    for (spec, metric) in [
        (json!({}), None),
        (json!({"ipv4NormalRoutePriority": 1024}), Some(Metric(1024))),
        (json!({"ipv6NormalRoutePriority": 512}), Some(Metric(512))),
        (json!({"routeMetric": 0, "ipv4NormalRoutePriority": 1024}), Some(Metric(0))),
    ] {
        assert_eq!(settings(spec).unwrap().1.metric, metric);
    }
    for (word, routes) in [
        ("Enabled", Some(ProgramRoutes::Enabled)),
        ("EnabledNoEncapOnly", Some(ProgramRoutes::Enabled)),
        ("EnabledIPIPOnly", None),
        ("Disabled", Some(ProgramRoutes::Disabled)),
    ] {
        assert_eq!(settings(json!({"programClusterRoutes": word})).unwrap().1.program_routes, routes);
    }
}

#[test]
fn settings_are_for_all_for_some_or_for_one() {
    let scope = |name: &str, spec: Value| match Resource::parse(&document("FelixConfiguration", name, spec))? {
        Resource::Settings { scope, .. } => Ok(scope),
        other => panic!("{other:?}"),
    };
    assert_eq!(scope("default", json!({})), Ok(SettingsScope::Default));
    assert_eq!(scope("node.n-1", json!({})), Ok(SettingsScope::Node("n-1".parse().unwrap())));
    let some = scope("fast", json!({"nodeSelector": "nic == 'fast'"})).unwrap();
    assert_eq!(some.name(), "fast");
    let order = [SettingsScope::Default, some, SettingsScope::Node("a".parse().unwrap())];
    assert!(order.is_sorted(), "precedence is the order of scopes");
    assert_eq!(only_path(scope("fast", json!({}))), "metadata.name");
    assert_eq!(only_path(scope("node.", json!({}))), "metadata.name");
    assert_eq!(only_path(scope("default", json!({"nodeSelector": "all()"}))), "spec.nodeSelector");
}

#[test]
fn an_endpoint_has_single_addresses_that_a_station_can_have() {
    let endpoint = |spec: Value| {
        let mut full = json!({"node": "n", "interfaceName": "lh1"});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        match Resource::parse(&document("WorkloadEndpoint", "w", full))? {
            Resource::WorkloadEndpoint(endpoint) => Ok(endpoint),
            other => panic!("{other:?}"),
        }
    };
    let good =
        endpoint(json!({"ipNetworks": ["10.65.0.24", "10.65.0.24/32", "fd00::24/128"], "mac": "02-00-0A-41-00-18"}));
    let good = good.unwrap();
    let addresses: BTreeSet<IpAddr> = ["10.65.0.24", "fd00::24"].iter().map(|a| a.parse().unwrap()).collect();
    assert_eq!(good.addresses, addresses);
    assert_eq!(good.mac.unwrap().to_string(), "02:00:0a:41:00:18");
    for (spec, path) in [
        (json!({"ipNetworks": ["10.65.0.0/24"]}), "spec.ipNetworks[0]"),
        (json!({"ipNetworks": ["10.65.0.1", "0.0.0.0/32"]}), "spec.ipNetworks[1]"),
        (json!({"ipNetworks": ["127.0.0.1"]}), "spec.ipNetworks[0]"),
        (json!({"ipNetworks": ["ff02::1"]}), "spec.ipNetworks[0]"),
        (json!({"ipNetworks": ["255.255.255.255"]}), "spec.ipNetworks[0]"),
        (json!({"ipNetworks": "10.65.0.1"}), "spec.ipNetworks"),
        (json!({"ipNetworks": [null]}), "spec.ipNetworks[0]"),
        (json!({"mac": "01:00:5e:00:00:01"}), "spec.mac"),
        (json!({"mac": "00:00:00:00:00:00"}), "spec.mac"),
        (json!({"interfaceName": "a/b"}), "spec.interfaceName"),
        (json!({"interfaceName": ".."}), "spec.interfaceName"),
        (json!({"node": "N"}), "spec.node"),
        (json!({"node": ""}), "spec.node"),
        (json!({"allowSpoofedSourcePrefixes": ["10.0.0.0/40"]}), "spec.allowSpoofedSourcePrefixes[0]"),
        (json!({"profiles": [1]}), "spec.profiles[0]"),
    ] {
        assert_eq!(only_path(endpoint(spec)), path);
    }
}

#[test]
fn a_pool_and_the_cluster() {
    let Resource::IpPool(pool) =
        Resource::parse(&document("IPPool", "p", json!({"cidr": "10.65.0.0/16", "natOutgoing": true}))).unwrap()
    else {
        panic!("another kind")
    };
    assert_eq!((pool.prefix.to_string().as_str(), pool.nat_outgoing, pool.disabled), ("10.65.0.0/16", true, false));
    let config = |name: &str, spec| match Resource::parse(&document("BGPConfiguration", name, spec))? {
        Resource::BgpConfiguration(config) => Ok(config),
        other => panic!("{other:?}"),
    };
    assert_eq!(config("default", json!({})), Ok(BgpConfiguration::default()));
    let set =
        config("default", json!({"asNumber": 65001, "nodeToNodeMeshEnabled": false, "listenPort": 1790})).unwrap();
    assert_eq!((set.asn, set.mesh, set.port), (Asn(65001), false, Some(1790)));
    assert_eq!(only_path(config("node.n", json!({"asNumber": 1}))), "spec.asNumber");
    assert_eq!(only_path(config("default", json!({"ignoredInterfaces": ["*"]}))), "spec.ignoredInterfaces[0]");
}

#[test]
fn secrets_and_communities_are_read() {
    let config = |spec| match Resource::parse(&document("BGPConfiguration", "default", spec)) {
        Ok(Resource::BgpConfiguration(config)) => config,
        other => panic!("{other:?}"),
    };
    let spec = json!({
        "communities": [{"name": "fast", "value": "65000:1"}],
        "prefixAdvertisements": [{"cidr": "10.65.0.0/16", "communities": ["fast", "65000:1:2"]}],
        "nodeMeshPassword": {"secretKeyRef": {"name": "bgp", "key": "mesh"}},
        "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
    });
    let read = config(spec);
    let communities = &read.advertisements.as_ref().unwrap()[0].communities;
    assert_eq!(*communities, [RouteCommunity::Standard(65000 << 16 | 1), RouteCommunity::Large([65000, 1, 2])]);
    assert_eq!(read.mesh_password.unwrap().to_string(), "bgp/mesh");
    assert_eq!(read.unsupported, ["spec.serviceClusterIPs"]);
    for (reference, path) in [
        (json!({"secretKeyRef": {"key": "k"}}), "spec.password.secretKeyRef.name"),
        (json!({"secretKeyRef": {"name": "../x", "key": "k"}}), "spec.password.secretKeyRef.name"),
        (json!({"secretKeyRef": {"name": "x", "key": ".."}}), "spec.password.secretKeyRef.key"),
    ] {
        assert_eq!(only_path(peer(json!({"peerIP": "10.0.0.1", "password": reference}))), path);
    }
}

#[test]
fn a_filter_says_all_that_is_written() {
    let rule = json!({
        "action": "Accept", "cidr": "10.65.0.0/16", "matchOperator": "NotIn", "prefixLength": {"min": 24},
        "source": "RemotePeers", "peerType": "iBGP", "communities": {"values": ["65000:1"]},
        "asPathPrefix": [65001, "1.10"], "priority": 5,
        "operations": [
            {"addCommunity": {"value": "65000:2"}}, {"prependASPath": {"prefix": [7, 8]}}, {"setPriority": {"value": 9}}
        ],
    });
    let document = document("BGPFilter", "f", json!({"exportV4": [rule], "importV6": [{"action": "Reject"}]}));
    let Resource::BgpFilter(filter) = Resource::parse(&document).unwrap() else { panic!("another kind") };
    let [rule] = &filter.export[..] else { panic!("{filter:?}") };
    let expected = FilterRule {
        path: "spec.exportV4[0]".to_owned(),
        family: Family::V4,
        action: FilterAction::Accept,
        range: Some(RangeMatch {
            prefix: "10.65.0.0/16".parse().unwrap(),
            operator: RangeOperator::NotIn,
            lengths: Some((24, 32)),
        }),
        learned: true,
        interface: None,
        peers: Some(PeerScope::Internal),
        communities: vec![RouteCommunity::Standard(65000 << 16 | 1)],
        as_path: vec![Asn(65001), Asn(65546)],
        priority: Some(5),
        operations: vec![
            FilterOperation::AddCommunity(RouteCommunity::Standard(65000 << 16 | 2)),
            FilterOperation::Prepend(vec![Asn(7), Asn(8)]),
            FilterOperation::SetPriority(9),
        ],
    };
    assert_eq!(*rule, expected);
    assert_eq!((filter.import[0].family, filter.import[0].action), (Family::V6, FilterAction::Reject));
}

#[test]
fn every_problem_is_told_at_once() {
    let invalid = Resource::parse(&document("IPPool", "p", json!({"cidr": 5, "disabled": 1, "nope": 1}))).unwrap_err();
    let paths: Vec<_> = invalid.problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["spec.cidr", "spec.disabled", "spec.nope"]);
    assert_eq!(
        invalid.to_string(),
        "IPPool/p: spec.cidr: 5 is a number, but text is needed; put it in quotes; \
         spec.disabled: is a number; write true or false; \
         spec.nope: 'spec' has no field 'nope'; there are: cidr, natOutgoing, disabled, disableBGPExport, ipipMode, \
         vxlanMode, blockSize, nodeSelector, namespaceSelector, allowedUses, assignmentMode"
    );
}

#[test]
fn settings_that_are_not_in_force_are_checked_all_the_same() {
    for (spec, path) in [
        (
            json!({"openstackRegion": "my-region-has-a-very-long-and-extremely-interesting-name"}),
            "spec.openstackRegion",
        ),
        (json!({"logActionRateLimit": "10/week"}), "spec.logActionRateLimit"),
        (json!({"logActionRateLimit": "+1/day"}), "spec.logActionRateLimit"),
        (json!({"logPrefix": "a\"b"}), "spec.logPrefix"),
        (json!({"natPortRange": "5:1"}), "spec.natPortRange"),
        (json!({"bpfDataIfacePattern": "(eth"}), "spec.bpfDataIfacePattern"),
        (json!({"mtuIfacePattern": "eth[0-9"}), "spec.mtuIfacePattern"),
        (json!({"mtuIfacePattern": "eth)"}), "spec.mtuIfacePattern"),
        (json!({"mtuIfacePattern": "eth\\"}), "spec.mtuIfacePattern"),
        (json!({"wireguardRoutingRulePriority": 32766}), "spec.wireguardRoutingRulePriority"),
        (json!({"routeTableRanges": [{"min": 1, "max": 70000}]}), "spec.routeTableRanges"),
        (
            json!({"routeTableRange": {"min": 1, "max": 2}, "routeTableRanges": [{"min": 1, "max": 2}]}),
            "spec.routeTableRange",
        ),
        (json!({"interfacePrefix": "lh,,tap"}), "spec.interfacePrefix"),
        (json!({"interfacePrefix": "lh tap"}), "spec.interfacePrefix"),
        (json!({"routeRefreshInterval": 90}), "spec.routeRefreshInterval"),
        (json!({"hostMac": "Kept"}), "spec.hostMac"),
    ] {
        assert_eq!(only_path(settings(spec)), path);
    }
    for spec in [
        json!({"logActionRateLimit": "10/second", "logPrefix": "calico %t %k/%n: "}),
        json!({"mtuIfacePattern": "^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)", "bpfL3IfacePattern": "[]a-]+?x{2}"}),
        json!({"bpfPSNATPorts": 20000, "kubeNodePortRanges": [80, "30000:32767"]}),
    ] {
        settings(spec).unwrap();
    }
}

#[test]
fn kinds_that_are_not_in_force_can_be_checked_but_not_read() {
    let check = |kind: &str, name: &str, spec: Value| v3::check(&document(kind, name, spec));
    for (kind, spec, path) in [
        (
            "BGPFilter",
            json!({"importV4": [{"action": "Accept", "cidr": "fd00::/64", "matchOperator": "In"}]}),
            "spec.importV4[0].cidr",
        ),
        (
            "BGPFilter",
            json!({"exportV4": [{"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"max": 33}}]}),
            "spec.exportV4[0].prefixLength.max",
        ),
        (
            "BGPFilter",
            json!({"exportV4": [{"action": "Accept", "operations": [{}]}]}),
            "spec.exportV4[0].operations[0]",
        ),
        ("IPAMConfiguration", json!({"autoAllocateBlocks": false}), "spec.autoAllocateBlocks"),
        ("IPAMConfiguration", json!({"maxBlocksPerHost": 4}), "spec.maxBlocksPerHost"),
        ("IPAMConfiguration", json!({"ipCooldownSeconds": 1201}), "spec.ipCooldownSeconds"),
        ("Tier", json!({"order": "first"}), "spec.order"),
        ("HostEndpoint", json!({"node": "n"}), "spec.interfaceName"),
        ("NetworkSet", json!({"net": []}), "spec.net"),
    ] {
        assert_eq!(only_path(check(kind, "x", spec)), path, "{kind}");
    }
    check("Tier", "x", json!({"order": 1.5, "defaultAction": "Pass"})).unwrap();
    check("NetworkSet", "x", json!({"nets": ["10.0.0.1", "fd00::/8"]})).unwrap();
    check("IPAMConfiguration", "default", json!({"strictAffinity": true, "maxBlocksPerHost": 4})).unwrap();
    check("IPPool", "x", json!({"cidr": "10.0.0.0/16"})).unwrap();
    let error = Resource::parse(&document("IPReservation", "x", json!({}))).unwrap_err().to_string();
    assert_eq!(error, "kind: 'IPReservation' is a kind that this version of lasthop does not support");
}

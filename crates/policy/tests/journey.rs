//! A packet's way past host endpoints: what is allowed early is allowed for good, what is a failsafe port is not.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

mod worlds;

use lasthop_model::Resource;
use lasthop_policy::decide::{Packet, Transport, Verdict};
use lasthop_policy::journey::{Journey, Network, Party, Place, Question, Stage, Word};
use serde_json::{Value, json};
use worlds::*;

fn endpoint(name: &str, interface: &str) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": "HostEndpoint", "metadata": {"name": name, "labels": {"is": name}},
        "spec": {"node": "n1", "interfaceName": interface}})
}

fn policy(name: &str, stage: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["applyOnForward"] = json!(true);
    if stage != "forward" {
        spec[stage] = json!(true);
    }
    json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": name}, "spec": spec})
}

/// From outside to the workload of n1, with policy of the uplink and of all other interfaces there.
fn journey(policies: Vec<Value>, port: u16) -> Journey {
    let workload = json!({"apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
        "metadata": {"name": "w1", "namespace": "x"},
        "spec": {"node": "n1", "interfaceName": "lh1", "ipNetworks": ["10.65.0.1/32"]}});
    let documents = [workload, endpoint("near", "eth0"), endpoint("wild", "*")].into_iter().chain(policies);
    let resources: Vec<Resource> = documents.map(|document| Resource::parse(&document).unwrap()).collect();
    let world = world(&resources);
    let to = Party::Workload(world.workloads.keys().next().unwrap().clone());
    let packet = Packet {
        source: "203.0.113.1".parse().unwrap(),
        destination: "10.65.0.1".parse().unwrap(),
        transport: Transport::Ports { protocol: 6, source: 49_999, destination: port },
    };
    Network::new(&world, sites()).journey(&Question { from: Party::Outside, to, packet, before_dnat: None })
}

fn stages(journey: &Journey) -> Vec<Stage> {
    let places = journey.hops.iter().filter_map(|hop| match &hop.place {
        Place::Interface(_, stage) => Some(*stage),
        _ => None,
    });
    places.collect()
}

fn allow(port: u16) -> Value {
    json!({"selector": "is == 'near'", "ingress": [{"action": "Allow", "protocol": "TCP", "destination": {"ports": [port]}}]})
}

#[test]
fn what_is_allowed_early_is_not_asked_again_where_it_goes_out() {
    let closed = || policy("closed", "forward", json!({"selector": "is == 'wild'", "egress": [{"action": "Deny"}]}));
    for (stage, early) in [("doNotTrack", Stage::UntrackedIn), ("preDNAT", Stage::BeforeDnat)] {
        let allowed = journey(vec![policy("early", stage, allow(80)), closed()], 80);
        assert_eq!((allowed.verdict, stages(&allowed)), (Verdict::Allow, vec![early]), "{stage}: {:?}", allowed.hops);
        let silent = journey(vec![policy("early", stage, allow(80)), closed()], 81);
        assert_eq!((silent.verdict, stages(&silent)), (Verdict::Deny, vec![Stage::ForwardOut]), "{stage}");
    }
}

#[test]
fn a_failsafe_port_stays_tracked_and_meets_the_later_stages() {
    let closed = policy("closed", "forward", json!({"selector": "is == 'near'", "ingress": [{"action": "Deny"}]}));
    for (stage, early) in [("doNotTrack", Stage::UntrackedIn), ("preDNAT", Stage::BeforeDnat)] {
        let seen = journey(vec![policy("early", stage, allow(80)), closed.clone()], 22);
        assert!(matches!(seen.hops[0].word, Word::Failsafe(_)), "{stage}: {:?}", seen.hops);
        assert_eq!((seen.verdict, stages(&seen)), (Verdict::Deny, vec![early, Stage::ForwardIn]), "{stage}");
    }
}

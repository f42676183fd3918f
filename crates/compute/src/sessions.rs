//! What a change of resources does to the BGP sessions of all nodes: which come and go, and which it resets.

use crate::{BgpIntent, Event, Snapshot, desired, peers};
use lasthop_bgp::config::{Changed, Effect, Secret};
use lasthop_model::{EndpointKey, Key, NodeName, PeerTarget, Resource, SecretRef, WorkloadEndpoint};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What happens to a session at one of its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionChange {
    /// The node.
    pub node: NodeName,
    /// Its peer.
    pub peer: IpAddr,
    /// `mesh`, or the name of the BGPPeer that it is, or was, there for.
    pub because: String,
    /// What happens.
    pub effect: SessionEffect,
}

/// What happens to a session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionEffect {
    /// It ends, and comes up anew, because of these settings.
    Resets(Vec<&'static str>),
    /// It ends.
    Stops,
    /// There was none.
    Starts,
    /// It goes on; these settings count when it comes up the next time.
    Later(Vec<&'static str>),
    /// It goes on; these settings count at once.
    GoesOn(Vec<&'static str>),
}

/// What becomes of the sessions of all nodes when the resources are others. A secret counts as one that every host has.
#[must_use]
pub fn session_changes(before: &BTreeMap<Key, Resource>, after: &BTreeMap<Key, Resource>) -> Vec<SessionChange> {
    let (before, after) = (intents(before), intents(after));
    let nodes: BTreeSet<&NodeName> = before.keys().chain(after.keys()).collect();
    nodes.into_iter().flat_map(|node| of_node(node, (before.get(node), after.get(node)))).collect()
}

fn of_node(node: &NodeName, (before, after): (Option<&BgpIntent>, Option<&BgpIntent>)) -> Vec<SessionChange> {
    let peers = |intent: Option<&BgpIntent>| intent.map(|intent| intent.peers.clone()).unwrap_or_default();
    let (old, new) = (peers(before), peers(after));
    let ours = match (before, after) {
        (Some(before), Some(after)) => before.speaker.changes(&after.speaker),
        _ => Vec::new(),
    };
    let addresses: BTreeSet<&IpAddr> = old.keys().chain(new.keys()).collect();
    let change = |address: &IpAddr| {
        let (peer, effect) = match (old.get(address), new.get(address)) {
            (None, Some(new)) => (new, SessionEffect::Starts),
            (Some(old), None) => (old, SessionEffect::Stops),
            (Some(old), Some(new)) => (new, effect(old.config.changes(&new.config), &ours)?),
            (None, None) => return None,
        };
        Some(SessionChange { node: node.clone(), peer: *address, because: peer.because.clone(), effect })
    };
    addresses.into_iter().filter_map(change).collect()
}

/// The worst that one of the settings does.
fn effect(mut changed: Vec<Changed>, ours: &[Changed]) -> Option<SessionEffect> {
    changed.extend_from_slice(ours);
    let of = |effect: Effect| changed.iter().filter(|one| one.effect == effect).map(|one| one.field).collect();
    let worst = changed.iter().map(|one| one.effect).max()?;
    Some(match worst {
        Effect::Reset => SessionEffect::Resets(of(worst)),
        Effect::NextSession => SessionEffect::Later(of(worst)),
        Effect::Hot => SessionEffect::GoesOn(of(worst)),
    })
}

/// What every node's speaker ought to hold.
fn intents(resources: &BTreeMap<Key, Resource>) -> BTreeMap<NodeName, BgpIntent> {
    let mut snapshot = Snapshot::default();
    let mut workloads: BTreeMap<NodeName, BTreeMap<EndpointKey, WorkloadEndpoint>> = BTreeMap::new();
    let mut nodes = Vec::new();
    for (key, resource) in resources {
        match resource {
            Resource::WorkloadEndpoint(endpoint) => {
                workloads.entry(endpoint.node.clone()).or_default().insert(endpoint.key.clone(), endpoint.clone());
            }
            Resource::Node(node) => {
                nodes.push(node.name.clone());
                snapshot.nodes.insert(node.name.clone(), node.clone());
            }
            // Whose host it is makes no difference for other kinds.
            other => {
                if let Some(node) = nodes.first().cloned().or_else(|| "x".parse().ok()) {
                    snapshot.apply(&node, Event::Put(key.clone(), other.clone()));
                }
            }
        }
    }
    let wanted: BTreeSet<SecretRef> = snapshot
        .peers
        .values()
        .filter_map(|peer| peer.password.clone())
        .chain(snapshot.bgp.values().filter_map(|config| config.mesh_password.clone()))
        .collect();
    snapshot.secrets = wanted.into_iter().map(|reference| (reference.clone(), stand_in(&reference))).collect();
    let by_workload = snapshot.peers.values().any(|peer| matches!(peer.target, PeerTarget::Workloads { .. }));
    let mut intents = BTreeMap::new();
    for node in nodes {
        let bgp = if by_workload {
            snapshot.endpoints = workloads.remove(&node).unwrap_or_default();
            desired(&snapshot, &node).bgp
        } else {
            peers::intent(&snapshot, &node, (&BTreeMap::new(), &mut BTreeMap::new()))
        };
        intents.extend(bgp.map(|bgp| (node, bgp)));
    }
    intents
}

/// A content that differs where the reference does.
fn stand_in(reference: &SecretRef) -> Secret {
    Secret::new(reference.to_string().chars().rev().take(80).collect::<String>())
}

//! What is known: resources, the endpoints of this host, and the paths that BGP has learned.

use lasthop_bgp::config::Secret;
use lasthop_model::{
    BgpConfiguration, BgpFilter, BgpPeer, EndpointKey, IpPool, Key, Node, NodeName, Overlay, PeerTarget, Resource,
    SecretRef, Settings, SettingsScope, WorkloadEndpoint,
};
use lasthop_net::{NextHops, Prefix};
use std::collections::{BTreeMap, BTreeSet};

/// A change of what is known. Events may come coalesced, repeated, stale or as deletes of nothing: each
/// carries the whole value, and nothing is concluded from their order.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "short-lived, and mostly of the large kind")]
pub enum Event {
    /// A resource is as given.
    Put(Key, Resource),
    /// A resource does not parse: it counts as absent, and is named.
    Invalid {
        /// The resource.
        key: Key,
        /// Why, in one line.
        reason: String,
        /// What counts in its place: a policy denies those that it may be for.
        stand_in: Option<Box<Resource>>,
    },
    /// A resource is gone.
    Gone(Key),
    /// The paths to a prefix that BGP has learned lead through these next hops; none: there is no path.
    Learned {
        /// The prefix.
        prefix: Prefix,
        /// Equal next hops.
        next_hops: NextHops,
    },
    /// The blocks that lie wholly on this host: announced as one, whatever is in use of them. All of them, each time.
    Blocks(BTreeSet<Prefix>),
    /// What this host has as the content of a secret; `None`: it has none.
    Secret {
        /// Which.
        reference: SecretRef,
        /// Its content.
        content: Option<Secret>,
    },
}

/// All that is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Nodes.
    pub nodes: BTreeMap<NodeName, Node>,
    /// Endpoints of this host only: others' addresses come by BGP.
    pub endpoints: BTreeMap<EndpointKey, WorkloadEndpoint>,
    /// Pools, by name.
    pub pools: BTreeMap<String, IpPool>,
    /// BGP configurations: the cluster's, and those of single nodes.
    pub bgp: BTreeMap<SettingsScope, BgpConfiguration>,
    /// BGP peers, by name.
    pub peers: BTreeMap<String, BgpPeer>,
    /// BGP filters, by name.
    pub filters: BTreeMap<String, BgpFilter>,
    /// Secrets that this host has.
    pub secrets: BTreeMap<SecretRef, Secret>,
    /// Settings, by scope.
    pub overlays: BTreeMap<SettingsScope, Overlay>,
    /// Blocks that lie wholly on this host, of more than one address.
    pub blocks: BTreeSet<Prefix>,
    /// Learned paths.
    pub learned: BTreeMap<Prefix, NextHops>,
    /// Quarantined resources.
    pub invalid: BTreeMap<Key, String>,
}

/// Which parts of [`crate::Desired`] an event can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "short-lived, and mostly of the large kind")]
pub(crate) enum Reach {
    Nothing,
    Endpoint { key: EndpointKey, before: Option<WorkloadEndpoint> },
    Route(Prefix),
    Bgp,
    Everything,
}

impl Snapshot {
    /// Takes in an event, as `node` sees it.
    pub fn apply(&mut self, node: &NodeName, event: Event) {
        let _ = self.take(node, event);
    }

    pub(crate) fn take(&mut self, node: &NodeName, event: Event) -> Reach {
        match event {
            Event::Put(key, resource) => {
                self.invalid.remove(&key);
                self.put(node, &key, resource)
            }
            Event::Invalid { key, reason, .. } => {
                let reach = self.gone(&key);
                self.invalid.insert(key, reason);
                reach
            }
            Event::Gone(key) => {
                self.invalid.remove(&key);
                self.gone(&key)
            }
            Event::Learned { prefix, next_hops } => {
                if next_hops.is_empty() {
                    self.learned.remove(&prefix);
                } else {
                    self.learned.insert(prefix, next_hops);
                }
                Reach::Route(prefix)
            }
            Event::Blocks(mut blocks) => {
                blocks.retain(|block| block.len() < block.family().bits());
                self.blocks = blocks;
                Reach::Everything
            }
            Event::Secret { reference, content } => {
                match content {
                    Some(content) => self.secrets.insert(reference, content),
                    None => self.secrets.remove(&reference),
                };
                Reach::Bgp
            }
        }
    }

    /// Whether the peers of this host depend on its workloads.
    pub(crate) fn has_workload_peers(&self) -> bool {
        self.peers.values().any(|peer| matches!(peer.target, PeerTarget::Workloads { .. }))
    }

    fn put(&mut self, node: &NodeName, key: &Key, resource: Resource) -> Reach {
        match resource {
            Resource::WorkloadEndpoint(endpoint) if endpoint.node != *node => self.gone(key),
            Resource::WorkloadEndpoint(endpoint) => {
                let key = endpoint.key.clone();
                let before = self.endpoints.insert(key.clone(), endpoint);
                Reach::Endpoint { key, before }
            }
            Resource::Node(value) => {
                // Settings may be chosen by our own labels.
                let reach = if value.name == *node { Reach::Everything } else { Reach::Bgp };
                self.nodes.insert(value.name.clone(), value);
                reach
            }
            Resource::BgpConfiguration(value) => {
                self.bgp.insert(value.scope.clone(), value);
                Reach::Bgp
            }
            Resource::BgpPeer(value) => {
                let route = value.reachable_by.is_some();
                let before = self.peers.insert(value.name.clone(), value);
                // A gateway to a peer is a route.
                if route || before.is_some_and(|peer| peer.reachable_by.is_some()) { Reach::Everything } else { Reach::Bgp }
            }
            Resource::BgpFilter(value) => {
                self.filters.insert(value.name.clone(), value);
                Reach::Bgp
            }
            Resource::IpPool(value) => {
                self.pools.insert(value.name.clone(), value);
                Reach::Everything
            }
            Resource::Settings { scope, overlay } => {
                self.overlays.retain(|other, _| other.name() != key.name);
                self.overlays.insert(scope, overlay);
                Reach::Everything
            }
            // What policy is made of is kept by policy itself.
            Resource::Policy(_)
            | Resource::Tier(_)
            | Resource::Profile(_)
            | Resource::NetworkSet(_)
            | Resource::HostEndpoint(_)
            | Resource::Labelled(_)
            | Resource::EndpointSlice(_)
            // What stands for the time being is chosen before it comes here.
            | Resource::Rollout(_)
            | Resource::RolloutReport(_) => Reach::Nothing,
        }
    }

    fn gone(&mut self, key: &Key) -> Reach {
        use lasthop_model::Kind;
        match key.kind {
            Kind::WorkloadEndpoint => {
                let namespace = key.namespace.clone().unwrap_or_default();
                let key = EndpointKey { namespace, name: key.name.clone() };
                match self.endpoints.remove(&key) {
                    Some(before) => Reach::Endpoint { key, before: Some(before) },
                    None => Reach::Nothing,
                }
            }
            Kind::Node => {
                self.nodes.retain(|name, _| name.as_str() != key.name);
                Reach::Everything
            }
            Kind::BgpConfiguration => {
                self.bgp.retain(|scope, _| scope.name() != key.name);
                Reach::Bgp
            }
            Kind::BgpPeer => {
                let before = self.peers.remove(&key.name);
                if before.is_some_and(|peer| peer.reachable_by.is_some()) { Reach::Everything } else { Reach::Bgp }
            }
            Kind::BgpFilter => {
                self.filters.remove(&key.name);
                Reach::Bgp
            }
            Kind::IpPool => {
                self.pools.remove(&key.name);
                Reach::Everything
            }
            Kind::FelixConfiguration => {
                self.overlays.retain(|scope, _| scope.name() != key.name);
                Reach::Everything
            }
            _ => Reach::Nothing,
        }
    }

    /// The settings in force on `node`.
    #[must_use]
    pub fn settings(&self, node: &NodeName) -> Settings {
        let mut settings = Settings::default();
        let labels = self.nodes.get(node).map(|node| &node.labels);
        // The order of scopes is that of precedence.
        for (scope, overlay) in &self.overlays {
            let applies = match scope {
                SettingsScope::Default => true,
                SettingsScope::Selected { nodes, .. } => labels.is_some_and(|labels| nodes.matches(labels)),
                SettingsScope::Node(name) => name == node,
            };
            if applies {
                overlay.lay_over(&mut settings);
            }
        }
        settings
    }
}

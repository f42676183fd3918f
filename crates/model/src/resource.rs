//! Any resource, and what names it.

use crate::policy::{EndpointSlice, HostEndpoint, Labelled, NetworkSet, Policy, Profile, Tier};
use crate::rollout::{Rollout, RolloutReport};
use crate::selector::Selector;
use crate::{BgpConfiguration, BgpFilter, BgpPeer, Invalid, IpPool, Kind, Node, NodeName, WorkloadEndpoint, v3};
use serde_json::Value;
use std::fmt;

/// What names a resource: kind, namespace (of namespaced kinds), name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// The namespace, for kinds that have one.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
}

impl Key {
    /// The key of a document: `apiVersion`, `kind` and names are checked, the rest is not looked at.
    ///
    /// # Errors
    /// If one of them is missing or wrong.
    pub fn of(document: &Value) -> Result<Self, Invalid> {
        v3::key(document)
    }
}

/// A valid resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// A node.
    Node(Node),
    /// A workload endpoint.
    WorkloadEndpoint(WorkloadEndpoint),
    /// An address pool.
    IpPool(IpPool),
    /// The cluster's BGP configuration.
    BgpConfiguration(BgpConfiguration),
    /// A BGP peering.
    BgpPeer(BgpPeer),
    /// What peerings let in and out.
    BgpFilter(BgpFilter),
    /// Agent settings, as an overlay over the defaults: `scope` says for whom.
    Settings {
        /// For every node (`default`), for one (`node.<name>`) or for some.
        scope: SettingsScope,
        /// The fields that were set.
        overlay: crate::Overlay,
    },
    /// A policy of any kind; its key says which.
    Policy(std::sync::Arc<Policy>),
    /// A tier.
    Tier(Tier),
    /// A profile.
    Profile(Profile),
    /// A network set, with a namespace or without.
    NetworkSet(NetworkSet),
    /// A host endpoint.
    HostEndpoint(HostEndpoint),
    /// A namespace or a service account; its key says which.
    Labelled(Labelled),
    /// What stands behind a service.
    EndpointSlice(EndpointSlice),
    /// A change that somebody waits for.
    Rollout(Rollout),
    /// What a host says of one.
    RolloutReport(RolloutReport),
}

/// Whom settings are for. What is for one node goes over what is for some, and that over what is for all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SettingsScope {
    /// Every node.
    Default,
    /// Nodes by label (`spec.nodeSelector`).
    Selected {
        /// `metadata.name`.
        name: String,
        /// Which nodes.
        nodes: Selector,
    },
    /// One node; wins field by field.
    Node(NodeName),
}

impl SettingsScope {
    /// `metadata.name` of a resource with this scope.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::Selected { name, .. } => name.clone(),
            Self::Node(node) => format!("node.{node}"),
        }
    }
}

impl Resource {
    /// Reads a document (projectcalico.org/v3, as JSON).
    ///
    /// # Errors
    /// All that is wrong with the document, field by field.
    pub fn parse(document: &Value) -> Result<Self, Invalid> {
        v3::parse(document)
    }

    /// Checks that a document may take the place of another: some fields never change.
    ///
    /// # Errors
    /// The fields that may not change.
    pub fn check_update(old: &Value, new: &Value) -> Result<(), Invalid> {
        let key = Key::of(new)?;
        let checked = match key.kind {
            Kind::IpPool => v3::check_pool_update(old, new),
            Kind::EndpointSlice => v3::check_slice_update(old, new),
            _ => Ok(()),
        };
        checked.map_err(|invalid| Invalid { key: Some(key), ..invalid })
    }

    /// What names it.
    #[must_use]
    pub fn key(&self) -> Key {
        let cluster = |kind: Kind, name: String| Key { kind, namespace: None, name };
        match self {
            Self::Node(node) => cluster(Kind::Node, node.name.to_string()),
            Self::WorkloadEndpoint(endpoint) => endpoint.key.resource_key(),
            Self::IpPool(pool) => cluster(Kind::IpPool, pool.name.clone()),
            Self::BgpConfiguration(config) => cluster(Kind::BgpConfiguration, config.scope.name()),
            Self::BgpPeer(peer) => cluster(Kind::BgpPeer, peer.name.clone()),
            Self::BgpFilter(filter) => cluster(Kind::BgpFilter, filter.name.clone()),
            Self::Settings { scope, .. } => cluster(Kind::FelixConfiguration, scope.name()),
            Self::Policy(policy) => policy.key.clone(),
            Self::Tier(tier) => cluster(Kind::Tier, tier.name.clone()),
            Self::Profile(profile) => cluster(Kind::Profile, profile.name.clone()),
            Self::NetworkSet(set) => set.key.clone(),
            Self::HostEndpoint(endpoint) => cluster(Kind::HostEndpoint, endpoint.name.clone()),
            Self::Labelled(labelled) => labelled.key.clone(),
            Self::EndpointSlice(slice) => slice.key.clone(),
            Self::Rollout(rollout) => cluster(Kind::Rollout, rollout.name.clone()),
            Self::RolloutReport(report) => cluster(Kind::RolloutReport, report.name()),
        }
    }
}

impl TryFrom<&Value> for Resource {
    type Error = Invalid;

    fn try_from(document: &Value) -> Result<Self, Invalid> {
        Self::parse(document)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{namespace}/{}", self.kind, self.name),
            None => write!(f, "{}/{}", self.kind, self.name),
        }
    }
}

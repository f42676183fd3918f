//! Any resource, and what names it.

use crate::{BgpConfiguration, BgpPeer, IpPool, Node, NodeName, Settings, WorkloadEndpoint};
use std::fmt;

/// The kinds of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `Node`.
    Node,
    /// `WorkloadEndpoint`.
    WorkloadEndpoint,
    /// `IPPool`.
    IpPool,
    /// `BGPConfiguration`.
    BgpConfiguration,
    /// `BGPPeer`.
    BgpPeer,
    /// `FelixConfiguration`.
    FelixConfiguration,
}

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

/// A valid resource.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Agent settings, as an overlay over the defaults: `scope` says for whom.
    Settings {
        /// For every node (`default`) or one (`node.<name>`).
        scope: SettingsScope,
        /// The fields that were set.
        overlay: crate::Overlay,
    },
}

/// Whom settings are for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SettingsScope {
    /// Every node.
    Default,
    /// One node; wins field by field.
    Node(NodeName),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{:?}/{namespace}/{}", self.kind, self.name),
            None => write!(f, "{:?}/{}", self.kind, self.name),
        }
    }
}

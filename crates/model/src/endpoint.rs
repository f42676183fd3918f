//! Workload endpoints.

use crate::policy::NamedPort;
use crate::{EndpointKey, Key, Kind, Labels, NodeName};
use lasthop_net::{IfName, Mac, Prefix};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// An interface of a workload, on the node that hosts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadEndpoint {
    /// Namespace and name.
    pub key: EndpointKey,
    /// The hosting node.
    pub node: NodeName,
    /// The host-side link: a veth end or a TAP.
    pub link: IfName,
    /// The workload's own MAC address, if known: gives it a permanent neighbour entry.
    pub mac: Option<Mac>,
    /// The workload's addresses, both families.
    pub addresses: BTreeSet<IpAddr>,
    /// Prefixes it may use as a source beside its addresses.
    pub allowed_sources: BTreeSet<Prefix>,
    /// Labels.
    pub labels: Labels,
    /// Its profiles, in order: exactly these. `None`: that of its namespace, `kns.<namespace>`, which allows all unless
    /// there is a Profile of that name.
    pub profiles: Option<Vec<String>>,
    /// Its service account, in its own namespace.
    pub service_account: Option<String>,
    /// The ports that it gives names.
    pub ports: Vec<NamedPort>,
    /// What runs it, as `projectcalico.org/orchestrator` has it; `k8s` if not said.
    pub orchestrator: Option<String>,
}

impl WorkloadEndpoint {
    /// The document (projectcalico.org/v3) that reads as this endpoint.
    #[must_use]
    pub fn to_document(&self) -> serde_json::Value {
        crate::v3::endpoint_to_document(self)
    }
}

impl EndpointKey {
    /// The key of the resource.
    #[must_use]
    pub fn resource_key(&self) -> Key {
        Key { kind: Kind::WorkloadEndpoint, namespace: Some(self.namespace.clone()), name: self.name.clone() }
    }
}

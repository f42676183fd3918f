//! Workload endpoints.

use crate::{EndpointKey, Labels, NodeName};
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
}

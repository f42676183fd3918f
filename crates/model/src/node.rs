//! Nodes.

use crate::{Labels, NodeName};
use lasthop_net::{Asn, Family};
use std::net::{IpAddr, Ipv4Addr};

/// A host of the data centre.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`.
    pub name: NodeName,
    /// Labels, matched by the selectors of BGP peers.
    pub labels: Labels,
    /// The node's IPv4 address on the fabric (`spec.bgp.ipv4Address` without its length).
    pub ipv4: Option<Ipv4Addr>,
    /// The node's IPv6 address on the fabric.
    pub ipv6: Option<std::net::Ipv6Addr>,
    /// Overrides the cluster's AS number.
    pub asn: Option<Asn>,
    /// Set on a route reflector (`spec.bgp.routeReflectorClusterID`).
    pub cluster_id: Option<Ipv4Addr>,
    /// How far it is on its way out of service.
    pub drain: Drain,
}

/// How far a node is on its way out of service ([`Node::DRAIN`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drain {
    /// It is in service.
    #[default]
    No,
    /// What it announces is everybody's last choice (RFC 8326).
    LastChoice,
    /// It announces nothing.
    Withdrawn,
}

impl Node {
    /// The annotation that says so: `last-choice` or `withdrawn`.
    pub const DRAIN: &'static str = "lasthop/drain";

    /// The node's address of a family.
    #[must_use]
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.ipv4.map(IpAddr::V4),
            Family::V6 => self.ipv6.map(IpAddr::V6),
        }
    }
}

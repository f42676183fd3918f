//! Address pools.

use lasthop_net::Prefix;

/// A range that workloads get their addresses from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpPool {
    /// `metadata.name`.
    pub name: String,
    /// The range.
    pub prefix: Prefix,
    /// Whether traffic from the pool to outside all pools is masqueraded.
    pub nat_outgoing: bool,
    /// A disabled pool gives out no addresses; its range still counts as inside.
    pub disabled: bool,
    /// Whether addresses of the pool are kept out of BGP.
    pub bgp_export_disabled: bool,
}

//! What identifies a route beside its prefix: protocol, table, metric.

/// Who made a route (`rtm_protocol`, include/uapi/linux/rtnetlink.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteProtocol(pub u8);

impl RouteProtocol {
    /// Routes to this host's own workloads. Free in iproute2's `rt_protos` and in every routing daemon we know.
    pub const DIRECT: Self = Self(76);
    /// Routes learned over BGP, and what stands in for addresses nobody has.
    pub const LEARNED: Self = Self(77);

    /// Whether a route of this protocol was made by us.
    #[must_use]
    pub fn is_ours(self) -> bool {
        self == Self::DIRECT || self == Self::LEARNED
    }
}

/// A routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u32);

impl TableId {
    /// The main table (`RT_TABLE_MAIN`).
    pub const MAIN: Self = Self(254);
}

/// A route's metric as the user sets it; lower wins. IPv6 shows 0 as 1024 (`IP6_RT_PRIO_USER`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Metric(pub u32);

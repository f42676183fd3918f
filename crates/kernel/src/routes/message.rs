//! Route messages: `struct rtmsg` and its attributes (include/uapi/linux/rtnetlink.h).

use crate::link::family_number;
use crate::netlink::{Message, Received};
use lasthop_net::{Family, IfIndex, Metric, Prefix, RouteProtocol, TableId};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of `struct rtmsg`.
pub(super) const RTMSG: usize = 12;
/// Length of `struct rtnexthop`.
const RTNEXTHOP: usize = 8;
/// The attribute with the id of a next hop object (`RTA_NH_ID`).
const RTA_NH_ID: u16 = 30;
/// IPv6 takes metric 0 as this (`IP6_RT_PRIO_USER`).
const IPV6_DEFAULT_METRIC: u32 = 1024;

/// A route as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// Where to.
    pub prefix: Prefix,
    /// In which table.
    pub table: TableId,
    /// Who made it.
    pub protocol: RouteProtocol,
    /// `RTN_UNICAST`, `RTN_UNREACHABLE`, …
    pub kind: u8,
    /// `RT_SCOPE_*`; IPv6 has only one.
    pub scope: u8,
    /// Only for packets with this type of service; 0 is all.
    pub tos: u8,
    /// As the kernel counts it, see [`wire_metric`].
    pub metric: u32,
    /// The link it goes out by.
    pub link: Option<IfIndex>,
    /// The gateway.
    pub gateway: Option<IpAddr>,
    /// The next hop object it goes through.
    pub next_hop: Option<u32>,
    /// Links of further hops, if it has several.
    pub links: Vec<IfIndex>,
    /// A copy that the kernel keeps for one destination, not a route.
    pub cloned: bool,
}

/// A metric as the kernel counts it.
#[must_use]
pub fn wire_metric(family: Family, metric: Metric) -> u32 {
    match (family, metric.0) {
        (Family::V6, 0) => IPV6_DEFAULT_METRIC,
        (_, metric) => metric,
    }
}

impl RouteEntry {
    /// Reads an `RTM_NEWROUTE` or `RTM_DELROUTE` of IPv4 or IPv6.
    #[must_use]
    pub fn parse(message: Received<'_>) -> Option<Self> {
        let &[family, len, _, tos, table, protocol, scope, kind, flags @ ..] = message.fixed::<RTMSG>()?;
        let any = match i32::from(family) {
            libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let mut entry = Self {
            prefix: Prefix::new(any, 0)?,
            table: TableId(table.into()),
            protocol: RouteProtocol(protocol),
            kind,
            scope,
            tos,
            metric: 0,
            link: None,
            gateway: None,
            next_hop: None,
            links: Vec::new(),
            cloned: u32::from_ne_bytes(flags) & libc::RTM_F_CLONED != 0,
        };
        let mut destination = any;
        for attribute in message.attributes(RTMSG) {
            match attribute.kind {
                libc::RTA_DST => destination = attribute.ip().filter(|ip| ip.is_ipv4() == any.is_ipv4())?,
                libc::RTA_TABLE => entry.table = TableId(attribute.u32()?),
                libc::RTA_PRIORITY => entry.metric = attribute.u32()?,
                libc::RTA_OIF => entry.link = attribute.u32().map(IfIndex),
                libc::RTA_GATEWAY => entry.gateway = attribute.ip(),
                // struct rtvia: family, then the address.
                libc::RTA_VIA => entry.gateway = attribute.payload.get(2..).and_then(ip),
                libc::RTA_MULTIPATH => entry.read_hops(attribute.payload),
                RTA_NH_ID => entry.next_hop = attribute.u32(),
                _ => {}
            }
        }
        entry.prefix = Prefix::new(destination, len)?;
        Some(entry)
    }

    /// Reads `struct rtnexthop`s: the first one's gateway, everyone's link.
    fn read_hops(&mut self, mut bytes: &[u8]) {
        while let Some(&[l0, l1, _, _, i0, i1, i2, i3]) = bytes.first_chunk::<RTNEXTHOP>() {
            let length = usize::from(u16::from_ne_bytes([l0, l1]));
            let Some(hop) = bytes.get(..length).filter(|hop| hop.len() >= RTNEXTHOP) else { return };
            if self.links.is_empty() {
                let attributes = crate::netlink::Attributes::after(hop, RTNEXTHOP);
                self.gateway = attributes.get(libc::RTA_GATEWAY).and_then(|a| a.ip());
                self.link = Some(IfIndex(u32::from_ne_bytes([i0, i1, i2, i3])));
            }
            self.links.push(IfIndex(u32::from_ne_bytes([i0, i1, i2, i3])));
            bytes = bytes.get(crate::netlink::align(length)..).unwrap_or_default();
        }
    }

    /// Whether packets of this route may go out by `link`.
    #[must_use]
    pub fn uses(&self, link: IfIndex) -> bool {
        self.link == Some(link) || self.links.contains(&link)
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    crate::netlink::Attribute { kind: 0, payload: bytes }.ip()
}

/// What we do with the packets of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Out by a workload's link.
    Direct {
        /// The link.
        link: IfIndex,
    },
    /// Through a next hop object.
    Via {
        /// Its id.
        next_hop: u32,
    },
    /// Refused.
    Unreachable,
    /// With one of our protocol numbers, but none that we would make.
    Odd {
        /// Its protocol number.
        protocol: RouteProtocol,
    },
}

/// A route of ours in the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnRoute {
    /// As the kernel counts it.
    pub metric: u32,
    /// What it does.
    pub shape: Shape,
}

impl OwnRoute {
    /// A route with one of our protocol numbers, as ours.
    #[must_use]
    pub fn of(entry: &RouteEntry) -> Self {
        let plain = entry.tos == 0 && entry.links.is_empty() && entry.gateway.is_none();
        let scoped = entry.prefix.family() == Family::V6 || entry.scope == libc::RT_SCOPE_LINK;
        let odd = Shape::Odd { protocol: entry.protocol };
        let shape = match (entry.protocol, entry.kind, entry.next_hop, entry.link) {
            (RouteProtocol::DIRECT, libc::RTN_UNICAST, None, Some(link)) if plain && scoped => Shape::Direct { link },
            (RouteProtocol::LEARNED, libc::RTN_UNICAST, Some(next_hop), _) if entry.tos == 0 => Shape::Via { next_hop },
            (RouteProtocol::LEARNED, libc::RTN_UNREACHABLE, None, _) if plain => Shape::Unreachable,
            _ => odd,
        };
        Self { metric: entry.metric, shape }
    }

    /// Its protocol number.
    #[must_use]
    pub fn protocol(&self) -> RouteProtocol {
        match self.shape {
            Shape::Direct { .. } => RouteProtocol::DIRECT,
            Shape::Via { .. } | Shape::Unreachable => RouteProtocol::LEARNED,
            Shape::Odd { protocol } => protocol,
        }
    }

    /// The request to make it, with `NLM_F_*` flags.
    pub(super) fn add(&self, prefix: Prefix, flags: u16) -> Message {
        let (scope, kind) = match self.shape {
            Shape::Direct { .. } => (libc::RT_SCOPE_LINK, libc::RTN_UNICAST),
            Shape::Unreachable => (libc::RT_SCOPE_UNIVERSE, libc::RTN_UNREACHABLE),
            Shape::Via { .. } | Shape::Odd { .. } => (libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST),
        };
        let mut request = message(libc::RTM_NEWROUTE, flags, prefix, [self.protocol().0, scope, kind]);
        if self.metric != 0 {
            request.put_u32(libc::RTA_PRIORITY, self.metric);
        }
        match self.shape {
            Shape::Direct { link } => {
                request.put_u32(libc::RTA_OIF, link.0);
            }
            Shape::Via { next_hop } => {
                request.put_u32(RTA_NH_ID, next_hop);
            }
            Shape::Unreachable | Shape::Odd { .. } => {}
        }
        request
    }

    /// The request to take away exactly this one.
    pub(super) fn delete(&self, prefix: Prefix) -> Message {
        let mut request = delete_protocol(prefix, self.protocol());
        if self.metric != 0 {
            request.put_u32(libc::RTA_PRIORITY, self.metric);
        }
        if let Shape::Direct { link } = self.shape {
            request.put_u32(libc::RTA_OIF, link.0);
        }
        request
    }
}

/// The request to take away one route of this protocol, whatever else it is.
pub(super) fn delete_protocol(prefix: Prefix, protocol: RouteProtocol) -> Message {
    // Scope NOWHERE and type 0 match any (fib_table_delete).
    message(libc::RTM_DELROUTE, 0, prefix, [protocol.0, libc::RT_SCOPE_NOWHERE, libc::RTN_UNSPEC])
}

fn message(kind: u16, flags: u16, prefix: Prefix, what: [u8; 3]) -> Message {
    let [protocol, scope, route_kind] = what;
    let family = family_number(prefix.family());
    let mut fixed = [0; RTMSG];
    fixed[..8].copy_from_slice(&[family, prefix.len(), 0, 0, libc::RT_TABLE_MAIN, protocol, scope, route_kind]);
    let mut request = Message::new(kind, flags).fixed(&fixed);
    request.put_ip(libc::RTA_DST, prefix.address());
    request
}

/// The request to list a family's routes of the main table.
pub(super) fn list(family: Family) -> Message {
    let mut fixed = [0; RTMSG];
    fixed[0] = family_number(family);
    let mut request = Message::new(libc::RTM_GETROUTE, 0).fixed(&fixed);
    request.put_u32(libc::RTA_TABLE, TableId::MAIN.0);
    request
}

//! The main table as it is, other programs' routes included: for an operator to read. Nothing is kept or written.

use super::message::{self, RouteEntry};
use super::nexthop::{self, NextHop};
use crate::Error;
use crate::link::Links;
use crate::netlink::{Protocol, Socket};
use lasthop_net::{Family, IfIndex, IfName, Prefix, RouteProtocol, TableId};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A route of the main table, its next hop objects followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRoute {
    /// Where to.
    pub prefix: Prefix,
    /// Who made it.
    pub protocol: RouteProtocol,
    /// As the kernel counts it.
    pub metric: u32,
    /// `unicast`, `unreachable`, `blackhole`, `prohibit`, or another kind.
    pub kind: &'static str,
    /// The ways it takes; of another program's route with several gateways the first.
    pub ways: Vec<Way>,
}

/// A way out of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The gateway; none if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The link.
    pub link: Option<IfName>,
}

/// Reads the main table of the calling thread's network namespace, ordered by prefix and metric.
///
/// # Errors
/// If the kernel does not answer.
pub fn main_table() -> Result<Vec<ListedRoute>, Error> {
    let mut socket = Socket::open(Protocol::Route)?;
    let mut links = Links::default();
    links.read_back(&mut socket)?;
    let hops: BTreeMap<u32, NextHop> = socket
        .dump(&nexthop::list(), "list next hop objects")?
        .iter()
        .filter_map(nexthop::parse)
        .map(|(id, _, content)| (id, content))
        .collect();
    let mut routes = Vec::new();
    for family in [Family::V4, Family::V6] {
        for entry in socket.dump(&message::list(family), "list routes")?.iter().filter_map(RouteEntry::parse) {
            if entry.table == TableId::MAIN && !entry.cloned {
                routes.push(listed(&entry, &links, &hops));
            }
        }
    }
    routes.sort_by_key(|route| (route.prefix, route.metric));
    Ok(routes)
}

fn listed(entry: &RouteEntry, links: &Links, hops: &BTreeMap<u32, NextHop>) -> ListedRoute {
    let name = |index: IfIndex| links.name(index).cloned();
    let single = |hop: &NextHop| match hop {
        NextHop::Single(egress) => Some(Way { gateway: Some(egress.gateway), link: name(egress.link) }),
        NextHop::Group(_) | NextHop::Odd => None,
    };
    let mut ways: Vec<Way> = match entry.next_hop.and_then(|id| hops.get(&id)) {
        Some(NextHop::Group(members)) => members.iter().filter_map(|id| hops.get(id)).filter_map(single).collect(),
        Some(hop) => single(hop).into_iter().collect(),
        None => Vec::new(),
    };
    if ways.is_empty() && (entry.gateway.is_some() || entry.link.is_some()) {
        ways.push(Way { gateway: entry.gateway, link: entry.link.and_then(name) });
    }
    let kind = match entry.kind {
        libc::RTN_UNICAST => "unicast",
        libc::RTN_BLACKHOLE => "blackhole",
        libc::RTN_UNREACHABLE => {
            ways.clear();
            "unreachable"
        }
        libc::RTN_PROHIBIT => "prohibit",
        libc::RTN_THROW => "throw",
        _ => "other",
    };
    ListedRoute { prefix: entry.prefix, protocol: entry.protocol, metric: entry.metric, kind, ways }
}

/// What iproute2's `rt_protos` calls a route's maker; `lasthop` for ours.
#[must_use]
pub fn protocol_name(protocol: RouteProtocol) -> Option<&'static str> {
    Some(match protocol {
        RouteProtocol::DIRECT | RouteProtocol::LEARNED => "lasthop",
        RouteProtocol(1) => "redirect",
        RouteProtocol(2) => "kernel",
        RouteProtocol(3) => "boot",
        RouteProtocol(4) => "static",
        RouteProtocol(9) => "ra",
        RouteProtocol(11) => "zebra",
        RouteProtocol(12) => "bird",
        RouteProtocol(16) => "dhcp",
        RouteProtocol(186) => "bgp",
        RouteProtocol(188) => "ospf",
        _ => return None,
    })
}

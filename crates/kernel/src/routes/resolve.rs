//! Through which neighbour on which link a next hop is reached, as the kernel's own lookup says.

use super::message::{RTMSG, RouteEntry};
use super::nexthop::Egress;
use crate::link::{Admin, Links, family_number};
use crate::netlink::{Message, Socket};
use lasthop_net::{Family, IfIndex, IfName, scoped};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Looks a next hop up. `Err` says in words why it cannot serve as one. `workloads` are links that lead to no host.
pub(super) fn resolve<V>(
    socket: &mut Socket,
    next_hop: IpAddr,
    links: &Links,
    workloads: &BTreeMap<IfName, V>,
) -> Result<Egress, String> {
    if let IpAddr::V6(address) = next_hop
        && address.is_unicast_link_local()
    {
        let (gateway, link) = scoped::link_of(address);
        let link = link.ok_or("a link-local address does not say by which link")?;
        return on_link(gateway.into(), link, (links, workloads));
    }
    let route = lookup(socket, next_hop, libc::RTM_F_FIB_MATCH)?;
    if route.protocol.is_ours() {
        return Err("it lies in a range that we route ourselves".to_owned());
    }
    match route.kind {
        libc::RTN_UNICAST => {}
        libc::RTN_LOCAL => return Err("it is an address of this host".to_owned()),
        kind => return Err(format!("the route to it ({}) is of type {kind}, which leads nowhere", route.prefix)),
    }
    // A route through somebody's next hop object does not say where it leads; a full lookup does.
    let route = if route.link.is_none() { lookup(socket, next_hop, 0)? } else { route };
    let link = route.link.ok_or("the route to it has no link")?;
    on_link(route.gateway.unwrap_or(next_hop), link, (links, workloads))
}

fn on_link<V>(
    gateway: IpAddr,
    link: IfIndex,
    (links, workloads): (&Links, &BTreeMap<IfName, V>),
) -> Result<Egress, String> {
    let state = links.by_index(link).ok_or_else(|| format!("the route to it goes by link {link}, which is gone"))?;
    if workloads.contains_key(&state.name) || state.is_marked() {
        return Err(format!("the route to it goes by workload link {}", state.name));
    }
    if !state.is_running() {
        let what = if state.admin == Admin::Up { "has no carrier" } else { "is down" };
        return Err(format!("link {} {what}", state.name));
    }
    Ok(Egress { gateway, link })
}

fn lookup(socket: &mut Socket, address: IpAddr, flags: libc::c_uint) -> Result<RouteEntry, String> {
    let family = Family::of(address);
    let mut fixed = [0; RTMSG];
    fixed[..2].copy_from_slice(&[family_number(family), family.bits()]);
    fixed[8..].copy_from_slice(&flags.to_ne_bytes());
    let mut request = Message::new(libc::RTM_GETROUTE, 0).fixed(&fixed);
    request.put_ip(libc::RTA_DST, address);
    let replies = socket.request(&request, "look up the route to it").map_err(|error| match error.errno() {
        Some(nix::errno::Errno::ENETUNREACH) => "no route to it".to_owned(),
        _ => error.to_string(),
    })?;
    replies.iter().find_map(RouteEntry::parse).ok_or_else(|| "the kernel knows no route to it".to_owned())
}

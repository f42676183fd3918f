//! Addresses of links, and plain routes: for a workload's own namespace and for networks in a box.
//! The host's routing table is kept by the routes table, not by this.

use crate::Error;
use crate::netlink::{Message, Socket};
use lasthop_net::{Family, IfIndex, IfName, Prefix};
use nix::errno::Errno;
use std::net::IpAddr;

/// Length of `struct ifaddrmsg`.
const IFADDRMSG: usize = 8;
const NEW: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
const PUT: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressSpec {
    /// The address.
    pub address: IpAddr,
    /// Length of the prefix that is on the link.
    pub len: u8,
}

impl AddressSpec {
    /// An address with no one else on the link: /32 or /128.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self { address, len: Family::of(address).bits() }
    }
}

/// A route as one would write it by hand, of protocol `boot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainRoute {
    /// Where to.
    pub prefix: Prefix,
    /// Which way.
    pub target: RouteTarget,
}

/// Which way a plain route goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// On the link itself.
    Link(IfName),
    /// Through a gateway that another route leads to.
    Gateway(IpAddr),
    /// Through a gateway on a link.
    GatewayOn {
        /// The gateway.
        gateway: IpAddr,
        /// The link.
        link: IfName,
    },
}

pub(crate) fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => libc::AF_INET as u8,
        Family::V6 => libc::AF_INET6 as u8,
    }
}

fn address_message(kind: u16, flags: u16, spec: &AddressSpec, index: IfIndex) -> Message {
    let mut fixed = [family_number(Family::of(spec.address)), spec.len, 0, 0, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&index.0.to_ne_bytes());
    let mut request = Message::new(kind, flags).fixed(&fixed);
    request.put_ip(libc::IFA_LOCAL, spec.address).put_ip(libc::IFA_ADDRESS, spec.address);
    if spec.address.is_ipv6() && kind == libc::RTM_NEWADDR {
        request.put_u32(libc::IFA_FLAGS, libc::IFA_F_NODAD);
    }
    request
}

/// Gives a link an address, without duplicate address detection. One that it has already stays.
pub fn add_address(socket: &mut Socket, link: &IfName, spec: &AddressSpec) -> Result<(), Error> {
    let index = super::need(socket, link)?.index;
    let request = address_message(libc::RTM_NEWADDR, PUT, spec, index);
    match socket.request(&request, &format!("add address {}/{} to {link}", spec.address, spec.len)) {
        Err(error) if error.errno() != Some(Errno::EEXIST) => Err(error),
        _ => Ok(()),
    }
}

/// Takes an address from a link; true if it had it.
pub fn delete_address(socket: &mut Socket, link: &IfName, spec: &AddressSpec) -> Result<bool, Error> {
    let index = super::need(socket, link)?.index;
    let request = address_message(libc::RTM_DELADDR, 0, spec, index);
    match socket.request(&request, &format!("delete address {}/{} from {link}", spec.address, spec.len)) {
        Ok(_) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The addresses of a link, including its link-local ones.
pub fn addresses(socket: &mut Socket, link: &IfName) -> Result<Vec<AddressSpec>, Error> {
    let index = super::need(socket, link)?.index;
    let mut fixed = [0; IFADDRMSG];
    fixed[4..].copy_from_slice(&index.0.to_ne_bytes());
    let request = Message::new(libc::RTM_GETADDR, 0).fixed(&fixed);
    let replies = socket.dump(&request, &format!("list addresses of {link}"))?;
    let parse = |message: crate::netlink::Received<'_>| {
        let fixed = message.fixed::<IFADDRMSG>()?;
        let on = u32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
        let attributes = message.attributes(IFADDRMSG);
        let address = attributes.get(libc::IFA_LOCAL).or_else(|| attributes.get(libc::IFA_ADDRESS))?.ip()?;
        (on == index.0).then_some(AddressSpec { address, len: fixed[1] })
    };
    Ok(replies.iter().filter_map(parse).collect())
}

fn route_message(socket: &mut Socket, kind: u16, route: &PlainRoute, flags: u16) -> Result<Message, Error> {
    let (scope, gateway, link) = match &route.target {
        RouteTarget::Link(link) => (libc::RT_SCOPE_LINK, None, Some(link)),
        RouteTarget::Gateway(gateway) => (libc::RT_SCOPE_UNIVERSE, Some(*gateway), None),
        RouteTarget::GatewayOn { gateway, link } => (libc::RT_SCOPE_UNIVERSE, Some(*gateway), Some(link)),
    };
    let family = family_number(route.prefix.family());
    let mut fixed = [0; 12];
    fixed[..2].copy_from_slice(&[family, route.prefix.len()]);
    fixed[4..8].copy_from_slice(&[libc::RT_TABLE_MAIN, libc::RTPROT_BOOT, scope, libc::RTN_UNICAST]);
    let mut request = Message::new(kind, flags).fixed(&fixed);
    request.put_ip(libc::RTA_DST, route.prefix.address());
    if let Some(gateway) = gateway {
        request.put_ip(libc::RTA_GATEWAY, gateway);
    }
    if let Some(link) = link {
        request.put_u32(libc::RTA_OIF, super::need(socket, link)?.index.0);
    }
    Ok(request)
}

/// Adds a route to the main table, or replaces the one with its key.
pub fn add_route(socket: &mut Socket, route: &PlainRoute) -> Result<(), Error> {
    let request = route_message(socket, libc::RTM_NEWROUTE, route, PUT)?;
    socket.request(&request, &format!("add route {}", route.prefix)).map(drop)
}

/// Adds a route to the main table; false if there is one with its key.
pub(crate) fn add_new_route(socket: &mut Socket, route: &PlainRoute) -> Result<bool, Error> {
    let request = route_message(socket, libc::RTM_NEWROUTE, route, NEW)?;
    match socket.request(&request, &format!("add route {}", route.prefix)) {
        Ok(_) => Ok(true),
        Err(error) if error.errno() == Some(Errno::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes a route from the main table; true if there was one.
pub fn delete_route(socket: &mut Socket, route: &PlainRoute) -> Result<bool, Error> {
    let request = route_message(socket, libc::RTM_DELROUTE, route, 0)?;
    match socket.request(&request, &format!("delete route {}", route.prefix)) {
        Ok(_) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}

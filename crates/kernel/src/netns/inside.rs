//! A workload's own view: its addresses as /32 and /128, and the host as the next hop of everything.
//!
//! The gateway 169.254.1.1 is nobody's address: the host answers ARP for it. The IPv6 gateway is the link-local
//! address of the host's side of the link. A further link of the same workload is led to by source ([`super::further`]).

use super::Netns;
use super::further::{self, Further};
use crate::link::{self, AddressSpec, Change, PlainRoute, RouteTarget};
use crate::netlink::{Protocol, Socket};
use crate::{Error, sysctl};
use lasthop_net::{Family, IfName, Mac, Prefix};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Every workload's IPv4 gateway.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The IPv6 gateway behind a host-side MAC: its modified EUI-64 link-local address (RFC 4291 appendix A).
#[must_use]
pub fn gateway_v6(host_mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = host_mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// What a workload's namespace ought to have on its link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// The link's name inside, e.g. `eth0`.
    pub link: IfName,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The host side's link-local address, see [`gateway_v6`]. `None`: no IPv6 default route.
    pub gateway_v6: Option<Ipv6Addr>,
    /// Its MAC; `None` leaves it.
    pub mac: Option<Mac>,
    /// Its MTU; `None` leaves it.
    pub mtu: Option<u32>,
}

/// Gives a workload's namespace what it ought to have. What is already so stays; doing it twice is doing it once.
pub fn configure(netns: &Netns, inside: &Inside) -> Result<(), Error> {
    netns.run(|| here(inside))?
}

/// The same in the calling thread's namespace.
fn here(inside: &Inside) -> Result<(), Error> {
    let mut socket = Socket::open(Protocol::Route)?;
    let name = &inside.link;
    // Duplicate address detection off before the link is up: else the address is unusable for a second.
    for (setting, value) in [("disable_ipv6", "0"), ("accept_dad", "0")] {
        for link in [name.as_str(), "lo"] {
            sysctl::write_if_present(&format!("net/ipv6/conf/{link}/{setting}"), value)?;
        }
    }
    let lo: IfName = "lo".parse().map_err(|_| Error::Invalid("lo".to_owned()))?;
    link::change(&mut socket, &lo, &Change::up())?;
    link::change(&mut socket, name, &Change { mac: inside.mac, mtu: inside.mtu, ..Change::up() })?;
    for address in &inside.addresses {
        link::add_address(&mut socket, name, &AddressSpec::host(*address))?;
    }
    for family in Family::ALL {
        if !inside.addresses.iter().any(|address| Family::of(*address) == family) {
            continue;
        }
        let gateway = match family {
            Family::V4 => Some(IpAddr::V4(GATEWAY_V4)),
            Family::V6 => inside.gateway_v6.map(IpAddr::V6),
        };
        if let Some(gateway) = gateway {
            lead_to(&mut socket, inside, gateway)?;
        }
    }
    Ok(())
}

/// Leads everything of the gateway's family there: by the main table, or for a further link what has its addresses.
fn lead_to(socket: &mut Socket, inside: &Inside, gateway: IpAddr) -> Result<(), Error> {
    let family = Family::of(gateway);
    let on_link = || RouteTarget::Link(inside.link.clone());
    let through = || RouteTarget::GatewayOn { gateway, link: inside.link.clone() };
    let to_gateway = PlainRoute { prefix: Prefix::host(gateway), target: on_link() };
    let default = PlainRoute { prefix: Prefix::default_route(family), target: through() };
    // An IPv6 gateway is link-local: it needs no route of its own.
    let routes = if family == Family::V4 { vec![to_gateway, default] } else { vec![default] };
    if !link::add_new_route(socket, &routes[0])? {
        let index = link::need(socket, &inside.link)?.index;
        if further::is_taken(socket, routes[0].prefix, index)? {
            let addresses = inside.addresses.iter().copied().filter(|address| Family::of(*address) == family);
            return Further { link: index, gateway, addresses: addresses.collect() }.set_up(socket);
        }
    }
    routes.iter().try_for_each(|route| link::add_route(socket, route))
}

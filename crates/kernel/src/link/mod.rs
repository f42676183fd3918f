//! Links: what there is, kept from a dump and announcements, and how to make and change them.
//!
//! Follows include/uapi/linux/if_link.h and net/core/rtnetlink.c. A link we did not make is configured, never deleted.

mod address;
mod change;
mod index;
mod tap;

pub(crate) use address::add_new_route;
pub(crate) use address::family_number;
pub use address::{
    AddressSpec, PlainRoute, RouteTarget, add_address, add_route, addresses, delete_address, delete_route,
};
pub use change::{
    Admin, BridgeSpec, Change, VethSpec, change, create_bridge, create_veth, delete, delete_together, move_into,
};
pub use index::{LinkChange, Links};
pub use tap::{Tap, create_tap};

use crate::Error;
use crate::netlink::{Message, Received, Socket};
use lasthop_net::{IfIndex, IfName, Mac};

/// Length of `struct ifinfomsg`.
pub(crate) const IFINFOMSG: usize = 16;
/// How aliases of links that serve a workload begin.
pub const ALIAS_PREFIX: &str = "lasthop:";

/// A link as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Its index: another one if it was made anew.
    pub index: IfIndex,
    /// Its name.
    pub name: IfName,
    /// Whether it was brought up (`IFF_UP`).
    pub admin: Admin,
    /// Whether the other end is there (`IFF_LOWER_UP`).
    pub carrier: Carrier,
    /// Its MAC, if it has one.
    pub mac: Option<Mac>,
    /// Its MTU.
    pub mtu: u32,
    /// Its alias.
    pub alias: Option<String>,
    /// `veth`, `tun`, `bridge`, …; `None` for hardware.
    pub kind: Option<String>,
    /// The bridge it is a port of.
    pub master: Option<IfIndex>,
    /// The index of its other end, if it has one.
    pub peer: Option<IfIndex>,
}

/// Whether the other end of a link is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// It is.
    Present,
    /// It is not: cable out, peer down, no process behind the TAP.
    Lost,
}

impl LinkState {
    /// Whether packets can go out: brought up, and the other end is there.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.admin == Admin::Up && self.carrier == Carrier::Present
    }

    /// Whether it carries our alias.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.alias.as_deref().is_some_and(|alias| alias.starts_with(ALIAS_PREFIX))
    }

    /// Reads an `RTM_NEWLINK` or `RTM_DELLINK`. `None` for bridge ports' own messages and names we cannot take.
    #[must_use]
    pub fn parse(message: Received<'_>) -> Option<Self> {
        let fixed = message.fixed::<IFINFOMSG>()?;
        if i32::from(fixed[0]) != libc::AF_UNSPEC {
            return None;
        }
        let index = u32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
        let flags = u32::from_ne_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]);
        let attributes = message.attributes(IFINFOMSG);
        let get = |kind| attributes.get(kind);
        let is = |flag: libc::c_int| flags & flag.cast_unsigned() != 0;
        Some(Self {
            index: IfIndex(index),
            name: get(libc::IFLA_IFNAME)?.str()?.parse().ok()?,
            admin: if is(libc::IFF_UP) { Admin::Up } else { Admin::Down },
            carrier: if is(libc::IFF_LOWER_UP) { Carrier::Present } else { Carrier::Lost },
            mac: get(libc::IFLA_ADDRESS).and_then(|a| a.payload.try_into().ok()).map(Mac),
            mtu: get(libc::IFLA_MTU).and_then(|a| a.u32()).unwrap_or(0),
            alias: get(libc::IFLA_IFALIAS).and_then(|a| a.str()).map(str::to_owned),
            kind: get(libc::IFLA_LINKINFO)
                .and_then(|a| a.nested().get(libc::IFLA_INFO_KIND))
                .and_then(|a| a.str())
                .map(str::to_owned),
            master: get(libc::IFLA_MASTER).and_then(|a| a.u32()).map(IfIndex),
            peer: get(libc::IFLA_LINK).and_then(|a| a.u32()).filter(|peer| *peer != 0).map(IfIndex),
        })
    }
}

/// Which link an `RTM_NEWLINK` or `RTM_DELLINK` is about; `None` for bridge ports' own messages.
pub(crate) fn index_of(message: Received<'_>) -> Option<IfIndex> {
    let fixed = message.fixed::<IFINFOMSG>()?;
    let index = u32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
    (i32::from(fixed[0]) == libc::AF_UNSPEC).then_some(IfIndex(index))
}

/// A link message about nothing in particular, with `struct ifinfomsg` zero.
pub(crate) fn message(kind: u16, flags: libc::c_int) -> Message {
    Message::new(kind, u16::try_from(flags).unwrap_or(0)).fixed(&[0; IFINFOMSG])
}

/// One link by name; `None` if there is none.
pub fn get(socket: &mut Socket, name: &IfName) -> Result<Option<LinkState>, Error> {
    let mut request = message(libc::RTM_GETLINK, 0);
    request.put_str(libc::IFLA_IFNAME, name.as_str());
    match socket.request(&request, &format!("look at link {name}")) {
        Ok(replies) => Ok(replies.iter().find_map(LinkState::parse)),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

/// One link by name; an error that names it if there is none.
pub fn need(socket: &mut Socket, name: &IfName) -> Result<LinkState, Error> {
    get(socket, name)?.ok_or_else(|| Error::Absent { object: format!("interface {name}") })
}

/// All links.
pub fn list(socket: &mut Socket) -> Result<Vec<LinkState>, Error> {
    let replies = socket.dump(&message(libc::RTM_GETLINK, 0), "list links")?;
    Ok(replies.iter().filter_map(LinkState::parse).collect())
}

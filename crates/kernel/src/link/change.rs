//! Making, changing and deleting links.

use super::{IFINFOMSG, message};
use crate::Error;
use crate::netlink::{Message, Socket};
use crate::netns::Netns;
use lasthop_net::{IfIndex, IfName, Mac};
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd};

/// `VETH_INFO_PEER`: a `struct ifinfomsg` and attributes of the other end.
const VETH_INFO_PEER: u16 = 1;
const CREATE: libc::c_int = libc::NLM_F_CREATE | libc::NLM_F_EXCL;

/// Whether a link is brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admin {
    /// Brought up.
    Up,
    /// Brought down.
    Down,
}

/// A veth pair: one end here, the other in a workload's namespace.
#[derive(Debug)]
pub struct VethSpec<'a> {
    /// Name of our end.
    pub name: IfName,
    /// MAC of our end.
    pub mac: Option<Mac>,
    /// Where the other end goes; `None` keeps it here.
    pub netns: Option<&'a Netns>,
    /// Name of the other end.
    pub peer_name: IfName,
    /// MAC of the other end.
    pub peer_mac: Option<Mac>,
    /// MTU of both.
    pub mtu: Option<u32>,
}

/// A bridge (for networks in a box; the data path has none).
#[derive(Clone, Debug)]
pub struct BridgeSpec {
    /// Its name.
    pub name: IfName,
}

/// What to change on a link; `None` leaves it. Done in one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Bring up or down.
    pub admin: Option<Admin>,
    /// MAC.
    pub mac: Option<Mac>,
    /// MTU.
    pub mtu: Option<u32>,
    /// Alias; the empty text takes it away.
    pub alias: Option<String>,
    /// Become a port of this bridge.
    pub master: Option<IfName>,
    /// Another name (the link must be down in older kernels).
    pub name: Option<IfName>,
}

impl Change {
    /// Bring up.
    #[must_use]
    pub fn up() -> Self {
        Self { admin: Some(Admin::Up), ..Self::default() }
    }

    /// Bring down.
    #[must_use]
    pub fn down() -> Self {
        Self { admin: Some(Admin::Down), ..Self::default() }
    }

    /// The request, but for which link it is about and for the master, which goes by index.
    fn message(&self) -> Message {
        let up = libc::IFF_UP.cast_unsigned();
        let (flags, mask) = match self.admin {
            Some(Admin::Up) => (up, up),
            Some(Admin::Down) => (0, up),
            None => (0, 0),
        };
        let mut fixed = [0; IFINFOMSG];
        fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
        fixed[12..].copy_from_slice(&mask.to_ne_bytes());
        let mut request = Message::new(libc::RTM_SETLINK, 0).fixed(&fixed);
        if let Some(mac) = self.mac {
            request.put(libc::IFLA_ADDRESS, &mac.0);
        }
        if let Some(mtu) = self.mtu {
            request.put_u32(libc::IFLA_MTU, mtu);
        }
        if let Some(alias) = &self.alias {
            request.put(libc::IFLA_IFALIAS, alias.as_bytes());
        }
        request
    }
}

impl Change {
    /// The request about the link with this index.
    pub(crate) fn message_for(&self, link: IfIndex) -> Message {
        let mut request = self.message();
        request.set_fixed(4, &link.0.to_ne_bytes());
        request
    }
}

/// Changes a link.
pub fn change(socket: &mut Socket, name: &IfName, change: &Change) -> Result<(), Error> {
    let mut request = change.message();
    request.put_str(libc::IFLA_IFNAME, name.as_str());
    if let Some(master) = &change.master {
        request.put_u32(libc::IFLA_MASTER, super::need(socket, master)?.index.0);
    }
    if change.name.is_some() {
        return rename(socket, name, change);
    }
    absent(name, socket.request(&request, &format!("change link {name}")))
}

/// A rename goes by index: the name attribute is the new one.
fn rename(socket: &mut Socket, name: &IfName, change: &Change) -> Result<(), Error> {
    let Some(new_name) = &change.name else { return Ok(()) };
    let index = super::need(socket, name)?.index;
    let mut request = Change::default().message_for(index);
    request.put_str(libc::IFLA_IFNAME, new_name.as_str());
    absent(name, socket.request(&request, &format!("rename link {name} to {new_name}")))?;
    self::change(socket, new_name, &Change { name: None, ..change.clone() })
}

/// Moves a link into another namespace.
pub fn move_into(socket: &mut Socket, name: &IfName, netns: &Netns) -> Result<(), Error> {
    let mut request = message(libc::RTM_SETLINK, 0);
    request.put_str(libc::IFLA_IFNAME, name.as_str());
    put_netns(&mut request, netns);
    absent(name, socket.request(&request, &format!("move link {name} into network namespace {}", netns.told())))
}

fn put_netns(request: &mut Message, netns: &Netns) {
    request.put_u32(libc::IFLA_NET_NS_FD, netns.as_fd().as_raw_fd().cast_unsigned());
}

fn absent(name: &IfName, result: Result<crate::netlink::Replies, Error>) -> Result<(), Error> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if error.errno() == Some(Errno::ENODEV) => {
            Err(Error::Absent { object: format!("interface {name}") })
        }
        Err(error) => Err(error),
    }
}

/// Makes a veth pair, both ends named and configured in one request; both are down.
pub fn create_veth(socket: &mut Socket, spec: &VethSpec<'_>) -> Result<(), Error> {
    let end = |request: &mut Message, name: &IfName, mac: Option<Mac>| {
        request.put_str(libc::IFLA_IFNAME, name.as_str());
        if let Some(mac) = mac {
            request.put(libc::IFLA_ADDRESS, &mac.0);
        }
        if let Some(mtu) = spec.mtu {
            request.put_u32(libc::IFLA_MTU, mtu);
        }
    };
    let mut request = message(libc::RTM_NEWLINK, CREATE);
    end(&mut request, &spec.name, spec.mac);
    request.nest(libc::IFLA_LINKINFO, |info| {
        info.put_str(libc::IFLA_INFO_KIND, "veth").nest(libc::IFLA_INFO_DATA, |data| {
            data.nest(VETH_INFO_PEER, |peer| {
                peer.put_fixed(&[0; IFINFOMSG]);
                end(peer, &spec.peer_name, spec.peer_mac);
                if let Some(netns) = spec.netns {
                    put_netns(peer, netns);
                }
            });
        });
    });
    socket.request(&request, &format!("create veth {} with peer {}", spec.name, spec.peer_name)).map(drop)
}

/// Makes a bridge; it is down.
pub fn create_bridge(socket: &mut Socket, spec: &BridgeSpec) -> Result<(), Error> {
    let mut request = message(libc::RTM_NEWLINK, CREATE);
    request.put_str(libc::IFLA_IFNAME, spec.name.as_str());
    request.nest(libc::IFLA_LINKINFO, |info| {
        info.put_str(libc::IFLA_INFO_KIND, "bridge");
    });
    socket.request(&request, &format!("create bridge {}", spec.name)).map(drop)
}

/// Groups (`IFLA_GROUP`) of links on their way out begin here: numbers that hardly anybody else would choose.
const GOING: u32 = 0x6c68_676f;
/// `RTEXT_FILTER_SKIP_STATS`: a list without counters is half as long.
const SKIP_STATS: u32 = 1 << 3;

/// Deletes links that we made in one request, so that the kernel waits for its readers once and not once a link
/// (`rtnl_group_dellink` in net/core/rtnetlink.c). What is not there is passed over. The request is for a group that no
/// link was in before, so that no link of somebody else goes along. On an error all links that are left are there as before.
pub fn delete_together(socket: &mut Socket, names: &[IfName]) -> Result<(), Error> {
    let group = unused_group(socket)?;
    let put = |name: &IfName, group: u32| {
        let mut request = message(libc::RTM_SETLINK, 0);
        request.put_str(libc::IFLA_IFNAME, name.as_str()).put_u32(libc::IFLA_GROUP, group);
        request
    };
    let requests: Vec<Message> = names.iter().map(|name| put(name, group)).collect();
    let answers = socket.batch(&requests, "put links among those that go");
    let delete = |socket: &mut Socket| {
        answers.into_iter().find(|answer| answer.as_ref().is_err_and(|error| !error.is_absent())).unwrap_or(Ok(()))?;
        let mut request = message(libc::RTM_DELLINK, 0);
        request.put_u32(libc::IFLA_GROUP, group);
        match socket.request(&request, &format!("delete {} links", names.len())) {
            Err(error) if !error.is_absent() => Err(error),
            _ => Ok(()),
        }
    };
    let result = delete(socket);
    if result.is_err() {
        // Back among those that stay.
        let requests: Vec<Message> = names.iter().map(|name| put(name, 0)).collect();
        socket.batch(&requests, "take links from those that go");
    }
    result
}

/// A group that no link is in.
fn unused_group(socket: &mut Socket) -> Result<u32, Error> {
    let mut request = message(libc::RTM_GETLINK, 0);
    request.put_u32(libc::IFLA_EXT_MASK, SKIP_STATS);
    let replies = socket.dump(&request, "list the groups of links")?;
    let groups = replies.iter().filter_map(|link| link.attributes(IFINFOMSG).get(libc::IFLA_GROUP)?.u32());
    let taken: BTreeSet<u32> = groups.collect();
    (GOING..u32::MAX).find(|group| !taken.contains(group)).ok_or_else(|| Error::Invalid("no group is free".to_owned()))
}

/// Deletes a link; true if there was one. Only for links that we made.
pub fn delete(socket: &mut Socket, name: &IfName) -> Result<bool, Error> {
    let mut request = message(libc::RTM_DELLINK, 0);
    request.put_str(libc::IFLA_IFNAME, name.as_str());
    match socket.request(&request, &format!("delete link {name}")) {
        Ok(_) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}

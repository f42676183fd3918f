//! Next hop objects (include/uapi/linux/nexthop.h): many routes go through one, and changing it is one message.

use crate::Error;
use crate::link::family_number;
use crate::netlink::{Message, Received, Socket};
use crate::reconcile::{Plan, Table};
use lasthop_net::{Family, IfIndex, RouteProtocol, scoped};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Our ids: "lh" and up. Others number theirs from 1.
pub(super) const IDS: RangeInclusive<u32> = 0x6c68_0000..=0x6c6f_ffff;
pub(crate) const RTM_NEWNEXTHOP: u16 = 104;
pub(crate) const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;
/// Length of `struct nhmsg`.
const NHMSG: usize = 8;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
/// Length of `struct nexthop_grp`.
const GROUP_ENTRY: usize = 8;

/// What is behind a next hop object of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextHop {
    /// A gateway on a link.
    Single(Egress),
    /// Several objects, taken in turn by flow.
    Group(BTreeSet<u32>),
    /// Something we would not make.
    Odd,
}

/// Where packets leave for the next host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Egress {
    /// The neighbour.
    pub gateway: IpAddr,
    /// The link.
    pub link: IfIndex,
}

impl Egress {
    /// The neighbour as a route's next hop names it: a link-local one with its link.
    #[must_use]
    pub fn next_hop(&self) -> IpAddr {
        match self.gateway {
            IpAddr::V6(gateway) => scoped::on_link(gateway, self.link).unwrap_or(gateway).into(),
            gateway => gateway,
        }
    }
}

/// Reads an `RTM_NEWNEXTHOP` or `RTM_DELNEXTHOP`: id, protocol, content.
pub(crate) fn parse(message: Received<'_>) -> Option<(u32, RouteProtocol, NextHop)> {
    let fixed = message.fixed::<NHMSG>()?;
    let attributes = message.attributes(NHMSG);
    let id = attributes.get(NHA_ID)?.u32()?;
    let content = match attributes.get(NHA_GROUP) {
        Some(group) => {
            let entry = |bytes: &[u8]| bytes.first_chunk::<4>().map(|id| u32::from_ne_bytes(*id));
            NextHop::Group(group.payload.chunks_exact(GROUP_ENTRY).filter_map(entry).collect())
        }
        None => match (attributes.get(NHA_GATEWAY).and_then(|a| a.ip()), attributes.get(NHA_OIF).and_then(|a| a.u32()))
        {
            (Some(gateway), Some(link)) => NextHop::Single(Egress { gateway, link: IfIndex(link) }),
            _ => NextHop::Odd,
        },
    };
    Some((id, RouteProtocol(fixed[2]), content))
}

/// The request to list all next hop objects.
pub(super) fn list() -> Message {
    Message::new(RTM_GETNEXTHOP, 0).fixed(&[0; NHMSG])
}

/// The next hop objects of ours: our protocol, and an id of our range.
#[derive(Debug)]
pub(super) struct NextHopTable {
    socket: Socket,
    /// Ids of our range that someone else uses.
    pub(super) taken: BTreeSet<u32>,
}

impl NextHopTable {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, taken: BTreeSet::new() }
    }

    pub(super) fn port(&self) -> u32 {
        self.socket.port()
    }
}

impl Table for NextHopTable {
    type Key = u32;
    type Value = NextHop;

    fn read_back(&mut self) -> Result<BTreeMap<u32, NextHop>, Error> {
        let replies = self.socket.dump(&list(), "list next hop objects")?;
        self.taken.clear();
        let mut ours = BTreeMap::new();
        for (id, protocol, content) in replies.iter().filter_map(parse) {
            match (IDS.contains(&id), protocol) {
                (true, RouteProtocol::LEARNED) => {
                    ours.insert(id, content);
                }
                (true, _) => {
                    self.taken.insert(id);
                }
                _ => {}
            }
        }
        Ok(ours)
    }

    fn write(&mut self, plan: &Plan<u32, NextHop>, actual: &BTreeMap<u32, NextHop>) -> Vec<(u32, Result<(), Error>)> {
        // Groups go before their members, members come before their groups.
        let is_group = |id: &u32| matches!(actual.get(id), Some(NextHop::Group(_)));
        let (groups, singles): (Vec<u32>, Vec<u32>) = plan.remove.iter().partition(|id| is_group(id));
        let mut keys = [groups, singles].concat();
        let mut messages: Vec<Message> = keys.iter().map(|id| delete(*id)).collect();
        let removed = keys.len();
        let (groups, singles): (Vec<_>, Vec<_>) =
            plan.upsert.iter().partition(|(_, content)| matches!(content, NextHop::Group(_)));
        for (id, content) in singles.into_iter().chain(groups) {
            keys.push(*id);
            messages.push(put(*id, content));
        }
        let results = self.socket.batch(&messages, "program next hop objects");
        let judge = |(index, (id, result)): (usize, (u32, Result<(), Error>))| match result {
            Err(error) if index < removed && error.is_absent() => (id, Ok(())),
            result => (id, result),
        };
        keys.into_iter().zip(results).enumerate().map(judge).collect()
    }
}

fn delete(id: u32) -> Message {
    let mut request = Message::new(RTM_DELNEXTHOP, 0).fixed(&[0; NHMSG]);
    request.put_u32(NHA_ID, id);
    request
}

fn put(id: u32, content: &NextHop) -> Message {
    let family = match content {
        NextHop::Single(egress) => family_number(Family::of(egress.gateway)),
        NextHop::Group(_) | NextHop::Odd => libc::AF_UNSPEC as u8,
    };
    let flags = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
    let fixed = [family, 0, RouteProtocol::LEARNED.0, 0, 0, 0, 0, 0];
    let mut request = Message::new(RTM_NEWNEXTHOP, flags).fixed(&fixed);
    request.put_u32(NHA_ID, id);
    match content {
        NextHop::Single(egress) => {
            request.put_u32(NHA_OIF, egress.link.0).put_ip(NHA_GATEWAY, egress.gateway);
        }
        NextHop::Group(members) => {
            let entry = |id: &u32| {
                let [a, b, c, d] = id.to_ne_bytes();
                // Weight 0 is one share.
                [a, b, c, d, 0, 0, 0, 0]
            };
            request.put(NHA_GROUP, &members.iter().flat_map(entry).collect::<Vec<u8>>());
        }
        NextHop::Odd => {}
    }
    request
}

//! Connection tracking: entries of an address that has left are deleted, so that its next owner gets none of the old
//! connections' packets, nor their verdicts.
//!
//! Follows net/netfilter/nf_conntrack_netlink.c. Of a few IPv4 addresses the kernel deletes the entries itself, by
//! `CTA_FILTER` (Linux 6.11: `ctnetlink_flush_conntrack`): that passes over empty buckets without a lock, 0.6 ms an address
//! and 262,144 buckets. A listing takes 10 ms, in which its CPU handles no packet and nobody's grace period ends
//! (`ctnetlink_dump_table` keeps softirqs off), so it is for many addresses at once, for older kernels, and for IPv6, where
//! `ctnetlink_filter_match_tuple` compares the wrong way round: all but the address would go (Linux 6.18). There
//! each entry is deleted by its own tuple and id.

mod revoke;

pub use revoke::{Connection, delete_where};

use crate::link::family_number;
use crate::netlink::{Attributes, Message, Protocol, Received, Replies, Socket};
use crate::{Error, sysctl};
use lasthop_net::Family;
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// `NFNL_SUBSYS_CTNETLINK << 8 |` `IPCTNL_MSG_CT_GET`, `IPCTNL_MSG_CT_DELETE`.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
/// Length of `struct nfgenmsg`.
const NFGENMSG: usize = 4;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
/// `CTA_FILTER_F_CTA_IP_SRC`, `CTA_FILTER_F_CTA_IP_DST`.
const BY_SOURCE: u32 = 1 << 0;
const BY_DESTINATION: u32 = 1 << 1;
/// From so many addresses on, one look at all entries is cheaper than asking the kernel for each.
const MANY: usize = 16;
/// `nfgen_family` counts in a deletion by filter from this `version` of `struct nfgenmsg` on.
const FAMILY_COUNTS: u8 = 1;

/// In which place of an entry an address is looked for. An address that was translated shows in the reply.
const PLACES: [(u16, u32); 4] = [
    (CTA_TUPLE_ORIG, BY_SOURCE),
    (CTA_TUPLE_ORIG, BY_DESTINATION),
    (CTA_TUPLE_REPLY, BY_SOURCE),
    (CTA_TUPLE_REPLY, BY_DESTINATION),
];

/// Deletes every entry that has one of these addresses at either end, before or after translation.
///
/// In the calling thread's network namespace.
pub fn delete_for(addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
    let none = sysctl::read("net/netfilter/nf_conntrack_count")?.is_some_and(|count| count == "0");
    let mut left = addresses.clone();
    if none || left.is_empty() {
        return Ok(());
    }
    let mut socket = Socket::open(Protocol::Netfilter)?;
    if left.len() < MANY {
        let v4: BTreeSet<IpAddr> = left.iter().filter(|address| address.is_ipv4()).copied().collect();
        match delete_filtered(&mut socket, &v4) {
            Ok(()) => left.retain(IpAddr::is_ipv6),
            Err(error) if cannot_filter(&error) => {}
            Err(error) => return Err(error),
        }
    }
    delete_listed(&mut socket, &left)
}

/// What an older kernel says to a filter: it takes the filter for one entry's tuple, which is not complete.
fn cannot_filter(error: &Error) -> bool {
    matches!(error.errno(), Some(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EAFNOSUPPORT))
}

/// Has the kernel delete the entries of each of these IPv4 addresses.
fn delete_filtered(socket: &mut Socket, addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
    let messages: Vec<Message> =
        addresses.iter().flat_map(|address| PLACES.map(|place| deletion(*address, place))).collect();
    socket.batch(&messages, "delete the connections of an address").into_iter().collect()
}

/// The request to delete what has the address in this place. It always names a tuple: a kernel that knows no filter must
/// not take it for one to delete everything.
fn deletion(address: IpAddr, (tuple, place): (u16, u32)) -> Message {
    let (source, destination) = match address {
        IpAddr::V4(_) => (CTA_IP_V4_SRC, CTA_IP_V4_DST),
        IpAddr::V6(_) => (CTA_IP_V6_SRC, CTA_IP_V6_DST),
    };
    let family = family_number(Family::of(address));
    let mut request = Message::new(DELETE, 0).fixed(&[family, FAMILY_COUNTS, 0, 0]);
    request.nest(tuple, |m| {
        m.nest(CTA_TUPLE_IP, |m| {
            m.put_ip(if place == BY_SOURCE { source } else { destination }, address);
        });
    });
    let flags = |of| if of == tuple { place } else { 0 };
    request.nest(CTA_FILTER, |m| {
        m.put_u32(CTA_FILTER_ORIG_FLAGS, flags(CTA_TUPLE_ORIG));
        m.put_u32(CTA_FILTER_REPLY_FLAGS, flags(CTA_TUPLE_REPLY));
    });
    request
}

/// Deletes the entries of some addresses among all, one by one.
fn delete_listed(socket: &mut Socket, addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
    let messages: Vec<Message> = listed(socket, addresses)?.into_iter().map(|entry| entry.delete()).collect();
    for result in socket.batch(&messages, "delete connection tracking entries") {
        match result {
            // It ended in the meantime.
            Err(error) if !error.is_absent() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// An entry, as far as it takes to delete it: family, and the attributes that name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    family: u8,
    original: Vec<u8>,
    zone: Option<[u8; 2]>,
    id: [u8; 4],
}

impl Entry {
    fn parse(message: Received<'_>) -> Option<Self> {
        let &[family, ..] = message.fixed::<NFGENMSG>()?;
        let attributes = message.attributes(NFGENMSG);
        Some(Self {
            family,
            original: attributes.get(CTA_TUPLE_ORIG)?.payload.to_vec(),
            zone: attributes.get(CTA_ZONE).and_then(|a| a.payload.try_into().ok()),
            id: attributes.get(CTA_ID)?.payload.try_into().ok()?,
        })
    }

    fn delete(&self) -> Message {
        let mut request = Message::new(DELETE, 0).fixed(&[self.family, 0, 0, 0]);
        request.nest(CTA_TUPLE_ORIG, |m| {
            m.put_fixed(&self.original);
        });
        if let Some(zone) = self.zone {
            request.put(CTA_ZONE, &zone);
        }
        // Not another connection that took the tuple meanwhile.
        request.put(CTA_ID, &self.id);
        request
    }
}

/// Entries of some addresses among all.
fn listed(socket: &mut Socket, addresses: &BTreeSet<IpAddr>) -> Result<BTreeSet<Entry>, Error> {
    let mut entries = BTreeSet::new();
    for family in Family::ALL {
        if addresses.iter().any(|address| Family::of(*address) == family) {
            let request = Message::new(GET, 0).fixed(&[family_number(family), 0, 0, 0]);
            let replies = socket.dump(&request, "list connections")?;
            entries.extend(matching(&replies, addresses));
        }
    }
    Ok(entries)
}

fn matching(replies: &Replies, addresses: &BTreeSet<IpAddr>) -> Vec<Entry> {
    let concerns = |message: &Received<'_>| {
        let attributes = message.attributes(NFGENMSG);
        let tuples = [CTA_TUPLE_ORIG, CTA_TUPLE_REPLY].map(|tuple| ends(&attributes, tuple));
        tuples.into_iter().flatten().any(|address| addresses.contains(&address))
    };
    replies.iter().filter(concerns).filter_map(Entry::parse).collect()
}

/// Reads an entry; whether it is one.
#[cfg(test)]
pub(crate) fn parse(message: Received<'_>) -> bool {
    let _ = Connection::parse(message);
    let _ = ends(&message.attributes(NFGENMSG), CTA_TUPLE_REPLY);
    Entry::parse(message).is_some_and(|entry| !entry.delete().payload().is_empty())
}

/// Both addresses of a tuple.
fn ends(attributes: &Attributes<'_>, tuple: u16) -> Vec<IpAddr> {
    let ip = attributes.get(tuple).and_then(|tuple| tuple.nested().get(CTA_TUPLE_IP));
    ip.map(|ip| ip.nested().filter_map(|address| address.ip()).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns;
    use std::process::Command;

    struct Gone(String);

    impl Drop for Gone {
        fn drop(&mut self) {
            let _ = netns::delete(&self.0);
        }
    }

    #[test]
    fn the_kernel_deletes_by_filter_what_we_find_among_all() {
        let name = format!("lht{}-conntrack", std::process::id());
        let made = netns::create(&name).unwrap();
        // It goes also if the test fails.
        let _gone = Gone(name.clone());
        let insert = |arguments: &str| {
            let line = format!("conntrack -I -p udp --sport 9 --dport 53 -t 300 {arguments}");
            let output = Command::new("ip").args(["netns", "exec", &name, "sh", "-c", &line]).output().unwrap();
            assert!(output.status.success(), "{line}: {output:?}");
        };
        insert("-s 10.65.0.2 -d 10.65.1.2");
        insert("-s 10.65.1.7 -d 10.65.0.2");
        insert("-s 10.65.0.20 -d 10.65.1.2");
        insert("-s fd00:65::2 -d fd00:65::9");
        insert("-s fd00:65::2 -d fd00:65::8");
        insert("-s 198.51.100.1 -d 172.31.0.1 -r 10.65.0.2 -q 198.51.100.1 --reply-port-src 53 --reply-port-dst 9");
        let set = |addresses: &[&str]| addresses.iter().map(|a| a.parse().unwrap()).collect::<BTreeSet<IpAddr>>();
        let all = set(&["10.65.1.2", "10.65.1.7", "198.51.100.1", "fd00:65::2"]);
        made.run(|| {
            let mut socket = Socket::open(Protocol::Netfilter).unwrap();
            for (address, found, left) in
                [("10.65.0.99", 0, 6), ("10.65.0.2", 3, 3), ("fd00:65::9", 1, 2), ("10.65.1.2", 1, 1)]
            {
                let one = set(&[address]);
                assert_eq!(listed(&mut socket, &one).unwrap().len(), found, "{address}");
                delete_for(&one).unwrap();
                assert_eq!(listed(&mut socket, &one).unwrap(), BTreeSet::new(), "{address}");
                assert_eq!(listed(&mut socket, &all).unwrap().len(), left, "{address}: no other goes");
            }
        })
        .unwrap();
    }
}

//! Connection tracking: entries of an address that has left are deleted, so that its next owner gets none of the old
//! connections' packets, nor their verdicts.
//!
//! Follows net/netfilter/nf_conntrack_netlink.c. The kernel is asked to list only the entries of an address where it
//! can (`CTA_FILTER`, Linux 5.8); each is then deleted by its own tuple and id.

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
/// From so many addresses on, one look at all entries is cheaper than one for each.
const MANY: usize = 8;

/// With so few entries, one look at all is cheaper than asking the kernel to search four times.
const FEW: usize = 5_000;

/// In which place of an entry an address is looked for. An address that was translated shows in the reply.
const PLACES: [(u16, u32); 4] = [
    (CTA_TUPLE_ORIG, BY_SOURCE),
    (CTA_TUPLE_ORIG, BY_DESTINATION),
    (CTA_TUPLE_REPLY, BY_SOURCE),
    (CTA_TUPLE_REPLY, BY_DESTINATION),
];

/// Deletes every entry that has one of these addresses at either end, before or after translation; how many there were.
///
/// In the calling thread's network namespace.
pub fn delete_for(addresses: &BTreeSet<IpAddr>) -> Result<usize, Error> {
    let mut socket = Socket::open(Protocol::Netfilter)?;
    let mut requests = BTreeSet::new();
    let known = sysctl::read("net/netfilter/nf_conntrack_count")?.and_then(|count| count.parse().ok());
    let entries: usize = known.unwrap_or(usize::MAX);
    if entries == 0 || addresses.is_empty() {
        return Ok(0);
    }
    if addresses.len() < MANY && entries > FEW {
        for address in addresses {
            match filtered(&mut socket, *address) {
                Ok(found) => requests.extend(found),
                Err(error) if cannot_filter(&error) => requests.extend(unfiltered(&mut socket, addresses)?),
                Err(error) => return Err(error),
            }
        }
    } else {
        requests.extend(unfiltered(&mut socket, addresses)?);
    }
    let messages: Vec<Message> = requests.into_iter().map(|entry| entry.delete()).collect();
    let mut deleted = 0;
    for result in socket.batch(&messages, "delete connection tracking entries") {
        match result {
            Ok(()) => deleted += 1,
            // It ended in the meantime.
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

/// What an older kernel says to a filter.
fn cannot_filter(error: &Error) -> bool {
    matches!(error.errno(), Some(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EAFNOSUPPORT))
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

/// Entries that the kernel finds for one address.
fn filtered(socket: &mut Socket, address: IpAddr) -> Result<BTreeSet<Entry>, Error> {
    let mut entries = BTreeSet::new();
    for (tuple, place) in PLACES {
        let (source, destination) = match address {
            IpAddr::V4(_) => (CTA_IP_V4_SRC, CTA_IP_V4_DST),
            IpAddr::V6(_) => (CTA_IP_V6_SRC, CTA_IP_V6_DST),
        };
        let family = family_number(Family::of(address));
        let mut request = Message::new(GET, 0).fixed(&[family, 0, 0, 0]);
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
        let replies = socket.dump(&request, &format!("list connections of {address}"))?;
        // A kernel that takes no notice of the filter gives everything.
        entries.extend(matching(&replies, &BTreeSet::from([address])));
    }
    Ok(entries)
}

/// Entries of some addresses among all.
fn unfiltered(socket: &mut Socket, addresses: &BTreeSet<IpAddr>) -> Result<BTreeSet<Entry>, Error> {
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
    fn the_kernel_finds_what_we_find_among_all() {
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
        insert("-s 198.51.100.1 -d 172.31.0.1 -r 10.65.0.2 -q 198.51.100.1 --reply-port-src 53 --reply-port-dst 9");
        let found = made.run(|| {
            let mut socket = Socket::open(Protocol::Netfilter).unwrap();
            ["10.65.0.2", "10.65.1.2", "fd00:65::9", "10.65.0.99"].map(|address| {
                let address: IpAddr = address.parse().unwrap();
                let few = filtered(&mut socket, address).unwrap();
                assert_eq!(few, unfiltered(&mut socket, &[address].into()).unwrap(), "{address}");
                few.len()
            })
        });
        assert_eq!(found.unwrap(), [3, 2, 1, 0]);
    }
}

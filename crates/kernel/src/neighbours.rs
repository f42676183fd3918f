//! Permanent neighbour entries on workload links (net/core/neighbour.c): a workload need not answer, and cannot
//! make up, who has its address.

use crate::Error;
use crate::link::family_number;
use crate::netlink::{Message, Protocol, Received, Socket};
use crate::reconcile::{Plan, Table};
use lasthop_net::{Family, IfIndex, IfName, Mac};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Length of `struct ndmsg`.
const NDMSG: usize = 12;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

/// A permanent entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Which link of that name: another if it was made anew.
    pub link: IfIndex,
    /// Who has the address.
    pub mac: Mac,
}

/// What an announcement or a dump says about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) link: IfIndex,
    pub(crate) address: IpAddr,
    /// The MAC, if the entry is permanent.
    pub(crate) permanent: Option<Mac>,
}

impl Entry {
    pub(crate) fn parse(message: Received<'_>) -> Option<Self> {
        let &[family, _, _, _, i0, i1, i2, i3, s0, s1, ..] = message.fixed::<NDMSG>()?;
        if !matches!(i32::from(family), libc::AF_INET | libc::AF_INET6) {
            return None;
        }
        let attributes = message.attributes(NDMSG);
        let mac = attributes.get(NDA_LLADDR).and_then(|a| a.payload.try_into().ok()).map(Mac);
        let permanent = u16::from_ne_bytes([s0, s1]) & libc::NUD_PERMANENT != 0;
        Some(Self {
            link: IfIndex(u32::from_ne_bytes([i0, i1, i2, i3])),
            address: attributes.get(NDA_DST)?.ip()?,
            permanent: mac.filter(|_| permanent),
        })
    }
}

/// Permanent entries on our links.
#[derive(Debug)]
pub(crate) struct Neighbours {
    socket: Socket,
    /// Links whose permanent entries are ours.
    pub(crate) links: BTreeMap<IfIndex, IfName>,
    /// Where an entry was to be written whose writing failed.
    doubtful: BTreeMap<(IfName, IpAddr), IfIndex>,
}

impl Neighbours {
    pub(crate) fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(Protocol::Route)?, links: BTreeMap::new(), doubtful: BTreeMap::new() })
    }

    pub(crate) fn port(&self) -> u32 {
        self.socket.port()
    }
}

fn message(kind: u16, address: IpAddr, link: IfIndex) -> Message {
    let flags = if kind == libc::RTM_NEWNEIGH { (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16 } else { 0 };
    let mut fixed = [0; NDMSG];
    fixed[0] = family_number(Family::of(address));
    fixed[4..8].copy_from_slice(&link.0.to_ne_bytes());
    if kind == libc::RTM_NEWNEIGH {
        fixed[8..10].copy_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
    }
    let mut request = Message::new(kind, flags).fixed(&fixed);
    request.put_ip(NDA_DST, address);
    request
}

impl Table for Neighbours {
    type Key = (IfName, IpAddr);
    type Value = Neighbour;

    fn read_back(&mut self) -> Result<BTreeMap<Self::Key, Neighbour>, Error> {
        let request = Message::new(libc::RTM_GETNEIGH, 0).fixed(&[0; NDMSG]);
        let replies = self.socket.dump(&request, "list neighbours")?;
        let ours = replies.iter().filter_map(Entry::parse).filter_map(|entry| {
            let name = self.links.get(&entry.link)?;
            Some(((name.clone(), entry.address), Neighbour { link: entry.link, mac: entry.permanent? }))
        });
        Ok(ours.collect())
    }

    fn write(
        &mut self,
        plan: &Plan<Self::Key, Neighbour>,
        actual: &BTreeMap<Self::Key, Neighbour>,
    ) -> Vec<(Self::Key, Result<(), Error>)> {
        let mut owners = Vec::with_capacity(plan.len());
        let mut messages = Vec::with_capacity(plan.len());
        let mut results = Vec::new();
        for key in &plan.remove {
            match actual.get(key).map(|known| known.link).or_else(|| self.doubtful.get(key).copied()) {
                Some(link) => {
                    owners.push((key.clone(), link));
                    messages.push(message(libc::RTM_DELNEIGH, key.1, link));
                }
                None => results.push((key.clone(), Ok(()))),
            }
        }
        let removals = messages.len();
        for (key, neighbour) in &plan.upsert {
            let mut request = message(libc::RTM_NEWNEIGH, key.1, neighbour.link);
            request.put(NDA_LLADDR, &neighbour.mac.0);
            owners.push((key.clone(), neighbour.link));
            messages.push(request);
        }
        let answers = self.socket.batch(&messages, "program a neighbour");
        for (index, ((key, link), answer)) in owners.into_iter().zip(answers).enumerate() {
            let fine = index < removals && answer.as_ref().is_err_and(Error::is_absent);
            let answer = if fine { Ok(()) } else { answer };
            match &answer {
                Ok(()) => self.doubtful.remove(&key),
                Err(_) => self.doubtful.insert(key.clone(), link),
            };
            results.push((key, answer));
        }
        results
    }
}

//! Responders on links: a `clsact` qdisc and a direct-action `bpf` filter at its ingress (net/sched/cls_bpf.c).
//!
//! The filter holds its program, so nothing is pinned: it outlives us and goes with its link. It is ours by its name,
//! `lasthop_arp:` and the digest of its program, so that one that is right is recognised without loading anything.
//! Filters of others stay, before and behind ours.

use super::asm::{AssemblyError, Insn};
use super::responder;
use super::sys::Program;
use crate::Error;
use crate::link;
use crate::netlink::{Attribute, Message, Protocol, Received, Socket};
use crate::reconcile::{Plan, Table};
use lasthop_net::{IfIndex, IfName, Mac, Prefix};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd};

/// What our filters are called, before the digest.
const NAME: &str = "lasthop_arp";
/// Our priority: the first.
const PRIORITY: u32 = 1;
/// Our handle; others are given low ones.
const HANDLE: u32 = 0x6c68;
/// Length of `struct tcmsg`.
const FIXED: usize = 20;

const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
/// `TCA_BPF_FLAG_ACT_DIRECT`.
const DIRECT: u32 = 1;
/// `TC_H_CLSACT`, `TC_H_MIN_INGRESS`, `TC_H_MIN_EGRESS`.
const CLSACT: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;

/// What one link's responder answers.
#[derive(Clone, Debug)]
pub struct Responder {
    digest: u64,
    /// `None` if only read back.
    program: Option<Vec<Insn>>,
}

impl Responder {
    /// Answers with `host_mac` for everything but the workload's own addresses: those of `sources` that are single.
    pub fn new(host_mac: Mac, sources: &BTreeSet<Prefix>) -> Result<Self, AssemblyError> {
        let program = responder::program(host_mac, sources)?;
        Ok(Self { digest: digest(&program), program: Some(program) })
    }
}

/// Same program.
impl PartialEq for Responder {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Responder {}

/// FNV-1a over the instructions.
fn digest(program: &[Insn]) -> u64 {
    let bytes = program.iter().flat_map(|insn| {
        let [o0, o1] = insn.offset.to_le_bytes();
        let [i0, i1, i2, i3] = insn.immediate.to_le_bytes();
        [insn.code, insn.registers, o0, o1, i0, i1, i2, i3]
    });
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn full_name(digest: u64) -> String {
    format!("{NAME}:{digest:016x}")
}

/// The links' responders.
#[derive(Debug)]
pub struct Responders {
    socket: Socket,
}

/// A request of tc about a link.
fn request(kind: u16, flags: u16, index: IfIndex, parent: u32) -> Message {
    filter_request(kind, flags, index, (parent, 0, 0))
}

/// As above, with handle and info.
fn filter_request(kind: u16, flags: u16, index: IfIndex, (parent, handle, info): (u32, u32, u32)) -> Message {
    let mut fixed = [0; FIXED];
    fixed[4..8].copy_from_slice(&index.0.to_ne_bytes());
    fixed[8..12].copy_from_slice(&handle.to_ne_bytes());
    fixed[12..16].copy_from_slice(&parent.to_ne_bytes());
    fixed[16..20].copy_from_slice(&info.to_ne_bytes());
    Message::new(kind, flags).fixed(&fixed)
}

/// Our filter on a link: handle, priority, all protocols.
fn our_filter(kind: u16, flags: u16, index: IfIndex) -> Message {
    let everything = u32::from((libc::ETH_P_ALL as u16).to_be());
    let mut m = filter_request(kind, flags, index, (INGRESS, HANDLE, PRIORITY << 16 | everything));
    m.put_str(KIND, "bpf");
    m
}

/// The link and the name of a `bpf` filter in a notification or dump.
fn read_filter(message: Received<'_>) -> Option<(IfIndex, u32, &str)> {
    let word = |at: usize| message.payload.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    let attributes = message.attributes(FIXED);
    let bpf = attributes.get(KIND)?.str()? == "bpf";
    let name = attributes.get(OPTIONS)?.nested().get(BPF_NAME).and_then(Attribute::str)?;
    bpf.then_some((IfIndex(word(4)?), word(8)?, name))
}

fn read_digest(name: &str) -> Option<u64> {
    let digest = name.strip_prefix(NAME)?.strip_prefix(':')?;
    u64::from_str_radix(digest, 16).ok()
}

/// The link that a tc notification is about, if it is about a filter of ours or the qdisc below it.
#[must_use]
pub fn touched_link(message: Received<'_>) -> Option<IfIndex> {
    let index = || message.payload.get(4..8).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes).map(IfIndex);
    let attributes = message.attributes(FIXED);
    match message.kind {
        // All filters of a kind and priority at once: the notification does not name them (tfilter_notify_chain).
        libc::RTM_DELTFILTER if attributes.get(OPTIONS).is_none() && attributes.get(KIND)?.str()? == "bpf" => index(),
        libc::RTM_NEWTFILTER | libc::RTM_DELTFILTER => {
            read_filter(message).filter(|(_, _, name)| name.starts_with(NAME)).map(|(index, ..)| index)
        }
        libc::RTM_DELQDISC if attributes.get(KIND)?.str()? == "clsact" => index(),
        _ => None,
    }
}

impl Responders {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(Protocol::Route)? })
    }

    /// Port of the socket that writes: notifications about our own changes carry it.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    fn filters(&mut self, index: IfIndex, parent: u32) -> Result<crate::netlink::Replies, Error> {
        self.socket.dump(&request(libc::RTM_GETTFILTER, 0, index, parent), "read filters")
    }

    fn read_one(&mut self, index: IfIndex) -> Result<Option<Responder>, Error> {
        let replies = self.filters(index, INGRESS)?;
        let found = replies.iter().filter_map(read_filter).find(|(_, handle, _)| *handle == HANDLE);
        // One with our name but without a digest that we could have written equals none of ours.
        let ours = found.filter(|(_, _, name)| name.starts_with(NAME));
        Ok(ours.map(|(_, _, name)| Responder { digest: read_digest(name).unwrap_or(0), program: None }))
    }

    fn attach(&mut self, name: &IfName, wanted: &Responder) -> Result<(), Error> {
        let attempted = format!("hang the ARP responder on {name}");
        let index = link::need(&mut self.socket, name)?.index;
        let Some(insns) = &wanted.program else {
            return Err(Error::Invalid(format!("{attempted}: its program is not known")));
        };
        let program = Program::load(NAME, insns)?;
        let create = libc::NLM_F_CREATE as u16;
        let mut qdisc =
            filter_request(libc::RTM_NEWQDISC, create | libc::NLM_F_EXCL as u16, index, (CLSACT, 0xffff_0000, 0));
        qdisc.put_str(KIND, "clsact");
        match self.socket.request(&qdisc, &attempted) {
            Err(error) if error.errno() != Some(Errno::EEXIST) => return Err(error),
            _ => {}
        }
        let mut filter = our_filter(libc::RTM_NEWTFILTER, create, index);
        filter.nest(OPTIONS, |m| {
            m.put_u32(BPF_FD, program.as_fd().as_raw_fd().cast_unsigned());
            m.put_str(BPF_NAME, &full_name(wanted.digest)).put_u32(BPF_FLAGS, DIRECT);
        });
        self.socket.request(&filter, &attempted).map(drop)
    }

    /// Takes our filter off a link, and the qdisc if nothing else hangs on it.
    fn detach(&mut self, name: &IfName) -> Result<(), Error> {
        let attempted = format!("take the ARP responder off {name}");
        let Some(link) = link::get(&mut self.socket, name)? else { return Ok(()) };
        match self.socket.request(&our_filter(libc::RTM_DELTFILTER, 0, link.index), &attempted) {
            Err(error) if !error.is_absent() && error.errno() != Some(Errno::EINVAL) => return Err(error),
            _ => {}
        }
        if self.filters(link.index, INGRESS)?.is_empty() && self.filters(link.index, EGRESS)?.is_empty() {
            let mut qdisc = filter_request(libc::RTM_DELQDISC, 0, link.index, (CLSACT, 0xffff_0000, 0));
            qdisc.put_str(KIND, "clsact");
            // Gone already, or of another kind: not ours to care.
            let _ = self.socket.request(&qdisc, &attempted);
        }
        Ok(())
    }
}

impl Table for Responders {
    type Key = IfName;
    type Value = Responder;

    fn read_back(&mut self) -> Result<BTreeMap<IfName, Responder>, Error> {
        let mut all = BTreeMap::new();
        for link in link::list(&mut self.socket)? {
            if let Some(responder) = self.read_one(link.index)? {
                all.insert(link.name, responder);
            }
        }
        Ok(all)
    }

    fn write(
        &mut self,
        plan: &Plan<IfName, Responder>,
        _: &BTreeMap<IfName, Responder>,
    ) -> Vec<(IfName, Result<(), Error>)> {
        let mut results = Vec::with_capacity(plan.len());
        for name in &plan.remove {
            results.push((name.clone(), self.detach(name)));
        }
        for (name, wanted) in &plan.upsert {
            results.push((name.clone(), self.attach(name, wanted)));
        }
        results
    }
}

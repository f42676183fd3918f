//! Responders on links: an `ingress` qdisc and direct-action `bpf` filters on it (net/sched/cls_bpf.c).
//!
//! One program, hung once for each protocol that it has to see, because a filter for all protocols makes every IPv4
//! packet pay for a program that lets it pass: the walk over filters of other protocols (`__tcf_classify`,
//! net/sched/cls_api.c) is a comparison each. `ingress` and not `clsact`, whose egress half every packet to the workload
//! would pay for; where somebody has put up a `clsact` before us, its ingress serves as well.
//!
//! The filters hold the program, so nothing is pinned: it outlives us and goes with its link. They are ours by their
//! name, `lasthop_arp:` and the digest of the program, so that one that is right is recognised without loading anything.
//! Filters of others stay, behind ours.

use super::asm::{AssemblyError, Insn};
use super::responder;
use super::sys::Program;
use crate::Error;
use crate::link;
use crate::netlink::{Attribute, Message, Protocol, Received, Replies, Socket};
use crate::reconcile::{Plan, Table};
use lasthop_net::{IfIndex, IfName, Mac, Prefix};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd};

/// What our filters are called, before the digest.
const NAME: &str = "lasthop_arp";
/// Protocols that the program has to see, by priority: the first ones are ours. A priority serves one protocol only.
/// A tagged frame is of its tag's protocol here; without a link for its tag the kernel would take one with VLAN 0 as
/// untagged.
const PROTOCOLS: [i32; 4] = [libc::ETH_P_ARP, libc::ETH_P_IPV6, libc::ETH_P_8021Q, libc::ETH_P_8021AD];
/// The handle of each; others are given low ones.
const HANDLE: u32 = 0x6c68;
/// The digest of filters that are not all there, not all alike, or in the wrong place.
const WRONG: u64 = 0;
/// Length of `struct tcmsg`.
const FIXED: usize = 20;

const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
/// `TCA_BPF_FLAG_ACT_DIRECT`.
const DIRECT: u32 = 1;
/// `TC_H_INGRESS`, which is also `TC_H_CLSACT`; with `TC_H_MIN_INGRESS`, `TC_H_MIN_EGRESS`.
const QDISC: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;

/// What one link's responder answers.
#[derive(Clone, Debug)]
pub struct Responder {
    digest: u64,
    /// What the program is made of, which is less than the program; `None` if only read back.
    made_of: Option<(Mac, Box<[Prefix]>)>,
}

impl Responder {
    /// Answers with `host_mac` for everything but the workload's own addresses: those of `sources` that are single.
    pub fn new(host_mac: Mac, sources: &BTreeSet<Prefix>) -> Result<Self, AssemblyError> {
        let program = responder::program(host_mac, sources)?;
        Ok(Self { digest: digest(&program), made_of: Some((host_mac, sources.iter().copied().collect())) })
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

/// Priority and protocol of each of our filters, as `tcm_info` has them, in the order of the walk.
fn places() -> impl Iterator<Item = u32> {
    (1..).zip(PROTOCOLS).map(|(priority, protocol)| priority << 16 | u32::from((protocol as u16).to_be()))
}

/// A filter of ours on a link.
fn our_filter(kind: u16, flags: u16, index: IfIndex, place: u32) -> Message {
    let mut m = filter_request(kind, flags, index, (INGRESS, HANDLE, place));
    m.put_str(KIND, "bpf");
    m
}

/// The qdisc that our filters hang on.
fn our_qdisc(kind: u16, flags: u16, index: IfIndex) -> Message {
    filter_request(kind, flags, index, (QDISC, 0xffff_0000, 0))
}

/// A filter of ours in a notification or dump.
#[derive(Clone, Copy)]
struct Ours {
    place: u32,
    digest: u64,
}

fn word(message: Received<'_>, at: usize) -> Option<u32> {
    message.payload.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes)
}

fn read_ours(message: Received<'_>) -> Option<Ours> {
    let attributes = message.attributes(FIXED);
    let bpf = attributes.get(KIND)?.str()? == "bpf";
    let name = attributes.get(OPTIONS)?.nested().get(BPF_NAME).and_then(Attribute::str)?;
    let ours = bpf && word(message, 8)? == HANDLE && name.starts_with(NAME);
    // One with our name but without a digest that we could have written equals none of ours.
    ours.then_some(Ours { place: word(message, 16)?, digest: read_digest(name).unwrap_or(WRONG) })
}

/// Whether this entry of a dump is somebody else's filter. The kernel also lists what filters of a priority hang on.
fn is_foreign(message: Received<'_>) -> bool {
    message.attributes(FIXED).get(OPTIONS).is_some() && read_ours(message).is_none()
}

/// What all our filters on a link make up together.
fn whole(filters: &[Ours]) -> Option<Responder> {
    let first = filters.first()?;
    let complete = filters.iter().map(|filter| filter.place).eq(places());
    let alike = filters.iter().all(|filter| filter.digest == first.digest);
    Some(Responder { digest: if complete && alike { first.digest } else { WRONG }, made_of: None })
}

fn read_digest(name: &str) -> Option<u64> {
    let digest = name.strip_prefix(NAME)?.strip_prefix(':')?;
    u64::from_str_radix(digest, 16).ok()
}

/// The link that a tc notification is about, if it is about a filter of ours or the qdisc below it.
#[must_use]
pub fn touched_link(message: Received<'_>) -> Option<IfIndex> {
    let attributes = message.attributes(FIXED);
    let kind = attributes.get(KIND)?.str()?;
    let touched = match message.kind {
        // All filters of a kind and priority at once: the notification does not name them (tfilter_notify_chain).
        libc::RTM_DELTFILTER if attributes.get(OPTIONS).is_none() => kind == "bpf",
        libc::RTM_NEWTFILTER | libc::RTM_DELTFILTER => read_ours(message).is_some(),
        libc::RTM_DELQDISC => matches!(kind, "ingress" | "clsact"),
        _ => false,
    };
    word(message, 4).filter(|_| touched).map(IfIndex)
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

    fn filters(&mut self, index: IfIndex, parent: u32) -> Result<Replies, Error> {
        self.socket.dump(&request(libc::RTM_GETTFILTER, 0, index, parent), "read filters")
    }

    /// Our filters on a link, in the order of the walk.
    fn ours(&mut self, index: IfIndex) -> Result<Vec<Ours>, Error> {
        Ok(self.filters(index, INGRESS)?.iter().filter_map(read_ours).collect())
    }

    fn attach(&mut self, name: &IfName, wanted: &Responder, known: Option<&Responder>) -> Result<(), Error> {
        let attempted = format!("hang the ARP responder on {name}");
        let index = link::need(&mut self.socket, name)?.index;
        let Some((host_mac, sources)) = &wanted.made_of else {
            return Err(Error::Invalid(format!("{attempted}: its program is not known")));
        };
        let insns = responder::program(*host_mac, &sources.iter().copied().collect())
            .map_err(|error| Error::Invalid(format!("{attempted}: {error}")))?;
        let program = Program::load(NAME, &insns)?;
        if known.is_some_and(|known| known.digest == WRONG) {
            let misplaced: Vec<Ours> =
                self.ours(index)?.into_iter().filter(|f| places().all(|p| p != f.place)).collect();
            self.remove(index, &misplaced, &attempted)?;
        }
        let create = libc::NLM_F_CREATE as u16;
        let mut qdisc = our_qdisc(libc::RTM_NEWQDISC, create | libc::NLM_F_EXCL as u16, index);
        qdisc.put_str(KIND, "ingress");
        let mut messages = vec![qdisc];
        // In the order of the walk: putting a filter before others costs the kernel an RCU period (mini_qdisc_pair_swap).
        messages.extend(places().map(|place| {
            let mut filter = our_filter(libc::RTM_NEWTFILTER, create, index, place);
            filter.nest(OPTIONS, |m| {
                m.put_u32(BPF_FD, program.as_fd().as_raw_fd().cast_unsigned());
                m.put_str(BPF_NAME, &full_name(wanted.digest)).put_u32(BPF_FLAGS, DIRECT);
            });
            filter
        }));
        let mut results = self.socket.batch(&messages, &attempted).into_iter();
        match results.next() {
            Some(Err(error)) if error.errno() != Some(Errno::EEXIST) => Err(error),
            _ => results.collect(),
        }
    }

    /// Takes filters of ours off a link.
    fn remove(&mut self, index: IfIndex, filters: &[Ours], attempted: &str) -> Result<(), Error> {
        // Against the order of the walk, for the same reason.
        let messages: Vec<Message> =
            filters.iter().rev().map(|filter| our_filter(libc::RTM_DELTFILTER, 0, index, filter.place)).collect();
        let gone = |error: &Error| error.is_absent() || error.errno() == Some(Errno::EINVAL);
        let results = self.socket.batch(&messages, attempted);
        results.into_iter().filter(|result| !result.as_ref().is_err_and(gone)).collect()
    }

    /// Takes our filters off a link, with the qdisc if nothing else hangs on it.
    fn detach(&mut self, name: &IfName) -> Result<(), Error> {
        let attempted = format!("take the ARP responder off {name}");
        let Some(link) = link::get(&mut self.socket, name)? else { return Ok(()) };
        let (ingress, egress) = (self.filters(link.index, INGRESS)?, self.filters(link.index, EGRESS)?);
        if ingress.iter().chain(egress.iter()).any(is_foreign) {
            let ours: Vec<Ours> = ingress.iter().filter_map(read_ours).collect();
            return self.remove(link.index, &ours, &attempted);
        }
        match self.socket.request(&our_qdisc(libc::RTM_DELQDISC, 0, link.index), &attempted) {
            Err(error) if !error.is_absent() && error.errno() != Some(Errno::EINVAL) => Err(error),
            _ => Ok(()),
        }
    }
}

impl Table for Responders {
    type Key = IfName;
    type Value = Responder;

    fn read_back(&mut self) -> Result<BTreeMap<IfName, Responder>, Error> {
        let mut all = BTreeMap::new();
        for link in link::list(&mut self.socket)? {
            if let Some(responder) = whole(&self.ours(link.index)?) {
                all.insert(link.name, responder);
            }
        }
        Ok(all)
    }

    fn write(
        &mut self,
        plan: &Plan<IfName, Responder>,
        actual: &BTreeMap<IfName, Responder>,
    ) -> Vec<(IfName, Result<(), Error>)> {
        let mut results = Vec::with_capacity(plan.len());
        for name in &plan.remove {
            results.push((name.clone(), self.detach(name)));
        }
        for (name, wanted) in &plan.upsert {
            results.push((name.clone(), self.attach(name, wanted, actual.get(name))));
        }
        results
    }
}

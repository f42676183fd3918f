//! A netlink socket: request and acknowledgement, batches, transactions, dumps, notifications.

use super::message::{HEADER, Message};
use super::{Attributes, align, sys};
use crate::error::{Error, Refusal};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recvfrom, sendto,
    setsockopt, socket, sockopt,
};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Buffer that we ask for in each direction; acknowledgements cost under 1 kB each.
const BUFFER: usize = 32 << 20;
/// Longest datagram of a batch: what the kernel takes in one piece without asking for huge allocations.
const DATAGRAM: usize = 48 << 10;
/// Most messages in one datagram of a batch: longer ones hold the kernel's lock for longer and gain nothing.
const BATCH: usize = 256;
/// How often a dump that was interrupted by a change is tried before its last result is taken.
const DUMP_TRIES: usize = 8;

const NLM_F_ACK: u16 = libc::NLM_F_ACK as u16;
const NLM_F_DUMP: u16 = libc::NLM_F_DUMP as u16;
const NLM_F_DUMP_INTR: u16 = libc::NLM_F_DUMP_INTR as u16;
/// Acknowledgement carries attributes (`NLM_F_ACK_TLVS`).
const NLM_F_ACK_TLVS: u16 = 0x200;
/// Acknowledgement carries the header of the request only (`NLM_F_CAPPED`).
const NLM_F_CAPPED: u16 = 0x100;
const NLMSG_NOOP: u16 = libc::NLMSG_NOOP as u16;
const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;
/// The kernel's explanation in an acknowledgement.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// The type of an attribute that is missing in the request.
const NLMSGERR_ATTR_MISS_TYPE: u16 = 5;
const NETLINK_GET_STRICT_CHK: libc::c_int = 12;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
/// The ruleset generation that a transaction builds upon.
const NFNL_BATCH_GENID: u16 = 1;

/// Which part of the kernel a socket talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, rules, neighbours, next hops, tc.
    Route,
    /// nftables, conntrack.
    Netfilter,
}

/// A netlink socket, bound in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
    datagram: Vec<u8>,
}

/// Messages from the kernel.
#[derive(Clone, Debug, Default)]
pub struct Replies {
    bytes: Vec<u8>,
    messages: Vec<Header>,
}

#[derive(Clone, Debug)]
struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    payload: Range<usize>,
}

/// One message from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// Its type.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// Sequence number of the request that it belongs to.
    pub sequence: u32,
    /// Port of the socket whose request it belongs to; 0 for the kernel's own doing.
    pub port: u32,
    /// The family's fixed part and the attributes.
    pub payload: &'a [u8],
}

impl<'a> Received<'a> {
    /// The first `N` bytes of the fixed part, if there are that many.
    #[must_use]
    pub fn fixed<const N: usize>(self) -> Option<&'a [u8; N]> {
        self.payload.first_chunk()
    }

    /// The attributes behind a fixed part of `fixed` bytes.
    #[must_use]
    pub fn attributes(self, fixed: usize) -> Attributes<'a> {
        Attributes::after(self.payload, fixed)
    }
}

impl Replies {
    /// The messages in order.
    pub fn iter(&self) -> impl Iterator<Item = Received<'_>> {
        self.messages.iter().map(|header| Received {
            kind: header.kind,
            flags: header.flags,
            sequence: header.sequence,
            port: header.port,
            payload: &self.bytes[header.payload.clone()],
        })
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Takes a datagram apart. Stops at the first message that does not fit; never panics.
    pub fn parse(&mut self, datagram: &[u8]) {
        let base = self.bytes.len();
        self.bytes.extend_from_slice(datagram);
        let mut at = 0;
        while let Some(header) = datagram.get(at..).and_then(<[u8]>::first_chunk::<HEADER>) {
            let word = |i: usize| u32::from_ne_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
            let half = |i: usize| u16::from_ne_bytes([header[i], header[i + 1]]);
            let length = word(0) as usize;
            if length < HEADER || length > datagram.len() - at {
                break;
            }
            let payload = base + at + HEADER..base + at + length;
            self.messages.push(Header { kind: half(4), flags: half(6), sequence: word(8), port: word(12), payload });
            at += align(length);
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.messages.clear();
    }
}

/// What an `NLMSG_ERROR` says: `None` is the acknowledgement of success.
fn refusal(message: Received<'_>) -> Result<Option<Refusal>, &'static str> {
    let code = message.fixed::<4>().map(|bytes| i32::from_ne_bytes(*bytes)).ok_or("acknowledgement too short")?;
    if code == 0 {
        return Ok(None);
    }
    let request = message.payload.get(4..8).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes) as usize;
    let skip = 4 + if message.flags & NLM_F_CAPPED != 0 { HEADER } else { request.min(message.payload.len()) };
    let mut explanation = None;
    if message.flags & NLM_F_ACK_TLVS != 0 {
        let attributes = message.attributes(skip);
        let words = attributes.get(NLMSGERR_ATTR_MSG).and_then(|a| a.str()).map(str::to_owned);
        let missing = || attributes.get(NLMSGERR_ATTR_MISS_TYPE).and_then(|a| a.u32());
        explanation = words.or_else(|| missing().map(|kind| format!("attribute {kind} is missing")));
    }
    Ok(Some(Refusal { errno: Errno::from_raw(code.wrapping_neg()), explanation }))
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open(protocol: Protocol) -> Result<Self, Error> {
        let number = match protocol {
            Protocol::Route => SockProtocol::NetlinkRoute,
            Protocol::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let failed = |errno| Error::system("open a netlink socket", errno);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, number).map_err(failed)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed)?;
        let port = getsockname::<NetlinkAddr>(fd.as_raw_fd()).map_err(failed)?.pid();
        // Without CAP_NET_ADMIN over the host the buffers stay within net.core.{w,r}mem_max.
        if setsockopt(&fd, sockopt::SndBufForce, &BUFFER).is_err() {
            setsockopt(&fd, sockopt::SndBuf, &BUFFER).map_err(failed)?;
        }
        if setsockopt(&fd, sockopt::RcvBufForce, &BUFFER).is_err() {
            setsockopt(&fd, sockopt::RcvBuf, &BUFFER).map_err(failed)?;
        }
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            sys::set_option(fd.as_fd(), option, 1).map_err(failed)?;
        }
        if protocol == Protocol::Route {
            sys::set_option(fd.as_fd(), NETLINK_GET_STRICT_CHK, 1).map_err(failed)?;
        }
        Ok(Self { fd, port, sequence: 0, buffer: vec![0; 256 << 10], datagram: Vec::new() })
    }

    /// Our port: notifications about our own requests carry it.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Joins a multicast group by number (`RTNLGRP_*`, `NFNLGRP_*`).
    pub fn join(&mut self, group: u32) -> Result<(), Error> {
        let failed = |errno| Error::system(format!("join netlink group {group}"), errno);
        let number = libc::c_int::try_from(group).map_err(|_| failed(Errno::EINVAL))?;
        sys::set_option(self.fd.as_fd(), libc::NETLINK_ADD_MEMBERSHIP, number).map_err(failed)
    }

    /// Has the kernel keep announcements of requests by these sockets' ports from this one: what we do is no news to us.
    pub fn ignore_ports(&mut self, ports: &[u32]) -> Result<(), Error> {
        sys::ignore_ports(self.fd.as_fd(), ports).map_err(|errno| Error::system("filter netlink notifications", errno))
    }

    /// Sends one request and gives what the kernel answers besides the acknowledgement.
    pub fn request(&mut self, message: &Message, attempted: &str) -> Result<Replies, Error> {
        let first = self.send(std::slice::from_ref(message), |_| NLM_F_ACK, attempted)?;
        let answers = self.answers(first, 1, attempted)?;
        match answers.refused.into_iter().next() {
            Some((_, refusal)) => Err(refusal.during(attempted)),
            None if answers.acknowledged => Ok(answers.replies),
            None => Err(Error::malformed(attempted, "no acknowledgement")),
        }
    }

    /// Sends many independent requests, many in a datagram; the result of each, in order. A refused one stops no other.
    ///
    /// Only the last one of a datagram asks for an acknowledgement: the kernel reports every refusal anyway, and in order.
    pub fn batch(&mut self, messages: &[Message], attempted: &str) -> Vec<Result<(), Error>> {
        let mut results = Vec::with_capacity(messages.len());
        let mut rest = messages;
        while !rest.is_empty() {
            let mut length = 0;
            let fits = |message: &&Message| {
                length += message.length();
                length <= DATAGRAM
            };
            let count = rest.iter().take(BATCH).take_while(fits).count().max(1);
            let (datagram, later) = rest.split_at(count);
            rest = later;
            match self.batch_one(datagram, attempted) {
                Ok(refused) => {
                    let base = results.len();
                    results.resize_with(base + count, || Ok(()));
                    for (index, refusal) in refused {
                        results[base + index] = Err(refusal.during(attempted));
                    }
                }
                Err(error) => results.extend(std::iter::repeat_n(Err(error), count)),
            }
        }
        results
    }

    fn batch_one(&mut self, messages: &[Message], attempted: &str) -> Result<Vec<(usize, Refusal)>, Error> {
        let last = messages.len() - 1;
        let first = self.send(messages, |index| if index == last { NLM_F_ACK } else { 0 }, attempted)?;
        let answers = self.answers(first, messages.len(), attempted)?;
        let answered = answers.acknowledged || answers.refused.iter().any(|(index, _)| *index == last);
        if answered { Ok(answers.refused) } else { Err(Error::malformed(attempted, "no acknowledgement")) }
    }

    /// Applies nftables requests as one transaction: all or none. Wraps them in the batch messages of nfnetlink.
    ///
    /// `Ok` has what the kernel echoed (of messages with `NLM_F_ECHO`). `Err` names every refused message by its index;
    /// an index of `messages.len()` stands for the transaction as a whole. With `generation`, the kernel refuses
    /// (`ERESTART`) if the ruleset is no longer of that generation.
    pub fn transaction(
        &mut self,
        messages: &[Message],
        generation: Option<u32>,
    ) -> Result<Replies, Vec<(usize, Refusal)>> {
        let whole = |errno| vec![(messages.len(), Refusal { errno, explanation: None })];
        if messages.is_empty() {
            return Ok(Replies::default());
        }
        let mut fixed = [0; 4];
        fixed[2..].copy_from_slice(&NFNL_SUBSYS_NFTABLES.to_be_bytes());
        let mut begin = Message::new(NFNL_MSG_BATCH_BEGIN, 0).fixed(&fixed);
        if let Some(generation) = generation {
            begin.put_u32_be(NFNL_BATCH_GENID, generation);
        }
        let mut all = Vec::with_capacity(messages.len() + 2);
        all.push(begin);
        all.extend_from_slice(messages);
        all.push(Message::new(NFNL_MSG_BATCH_END, 0).fixed(&fixed));
        let attempted = "nftables transaction";
        let code = |error: Error| whole(error.errno().unwrap_or(Errno::ENOBUFS));
        // The acknowledgement of the last request: older kernels give none for the closing message.
        let last = messages.len();
        let first = self.send(&all, |i| if i == last { NLM_F_ACK } else { 0 }, attempted).map_err(code)?;
        let answers = self.answers(first, all.len(), attempted).map_err(code)?;
        if answers.refused.is_empty() {
            return if answers.acknowledged { Ok(answers.replies) } else { Err(whole(Errno::EPROTO)) };
        }
        let index = |i: usize| if (1..=last).contains(&i) { i - 1 } else { last };
        Err(answers.refused.into_iter().map(|(i, refusal)| (index(i), refusal)).collect())
    }

    /// Everything that a request with `NLM_F_DUMP` gives. A dump that a change interrupted is taken again.
    pub fn dump(&mut self, message: &Message, attempted: &str) -> Result<Replies, Error> {
        let mut replies = Replies::default();
        for _ in 0..DUMP_TRIES {
            replies.clear();
            let first = self.send(std::slice::from_ref(message), |_| NLM_F_DUMP, attempted)?;
            if self.collect_dump(first, &mut replies, attempted)? {
                return Ok(replies);
            }
        }
        Ok(replies)
    }

    /// Reads a dump to its end; whether it is consistent.
    fn collect_dump(&mut self, sequence: u32, replies: &mut Replies, attempted: &str) -> Result<bool, Error> {
        let mut consistent = true;
        let mut part = Replies::default();
        loop {
            part.clear();
            if !self.receive_into(&mut part, attempted)? {
                return Err(Error::malformed(attempted, "the dump ended without its closing message"));
            }
            let mut done = false;
            for message in part.iter().filter(|message| message.sequence == sequence) {
                consistent &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        let said = if message.payload.len() < 4 { Ok(None) } else { refusal(message) };
                        if let Some(refusal) = said.map_err(|why| Error::malformed(attempted, why))? {
                            return Err(refusal.during(attempted));
                        }
                        done = true;
                    }
                    _ => {}
                }
            }
            let keep = |h: &Header| h.sequence == sequence && !matches!(h.kind, NLMSG_ERROR | NLMSG_DONE | NLMSG_NOOP);
            let base = replies.bytes.len();
            replies.messages.extend(part.messages.drain(..).filter(keep).map(|mut header| {
                header.payload = header.payload.start + base..header.payload.end + base;
                header
            }));
            replies.bytes.extend_from_slice(&part.bytes);
            if done {
                return Ok(consistent);
            }
        }
    }

    /// What has been announced to the groups we joined and not yet been read. Empty when there is nothing more.
    ///
    /// [`Error::Overrun`] means that announcements were lost.
    pub fn receive(&mut self) -> Result<Replies, Error> {
        let mut replies = Replies::default();
        let attempted = "read netlink notifications";
        // A bound, so that a storm cannot keep the caller here.
        for _ in 0..64 {
            if !self.receive_into(&mut replies, attempted)? {
                break;
            }
        }
        Ok(replies)
    }

    /// Sends messages as one datagram; the sequence number of the first.
    fn send(&mut self, messages: &[Message], flags: impl Fn(usize) -> u16, attempted: &str) -> Result<u32, Error> {
        let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        // Keep sequence numbers of one datagram consecutive, and never zero (that of notifications).
        let first = if self.sequence > u32::MAX - count - 1 { 1 } else { self.sequence + 1 };
        self.sequence = first + count - 1;
        self.datagram.clear();
        for (index, (message, sequence)) in messages.iter().zip(first..).enumerate() {
            message.append_to(&mut self.datagram, sequence, flags(index));
        }
        loop {
            let kernel = NetlinkAddr::new(0, 0);
            match sendto(self.fd.as_raw_fd(), &self.datagram, &kernel, MsgFlags::empty()) {
                Ok(_) => return Ok(first),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::system(attempted, errno)),
            }
        }
    }

    /// Reads all answers to the `count` requests from sequence number `first`.
    fn answers(&mut self, first: u32, count: usize, attempted: &str) -> Result<Answers, Error> {
        let mut answers = Answers::default();
        let mut part = Replies::default();
        while self.receive_into(&mut part, attempted)? {
            for message in part.iter() {
                let index = message.sequence.wrapping_sub(first) as usize;
                if index >= count {
                    continue;
                }
                if message.kind == NLMSG_ERROR {
                    match refusal(message).map_err(|why| Error::malformed(attempted, why))? {
                        Some(refusal) => answers.refused.push((index, refusal)),
                        None => answers.acknowledged = true,
                    }
                } else {
                    let replies = &mut answers.replies;
                    let start = replies.bytes.len();
                    replies.bytes.extend_from_slice(message.payload);
                    replies.messages.push(Header {
                        kind: message.kind,
                        flags: message.flags,
                        sequence: message.sequence,
                        port: message.port,
                        payload: start..replies.bytes.len(),
                    });
                }
            }
            part.clear();
        }
        Ok(answers)
    }

    /// Appends one datagram from the kernel; false if none is waiting.
    fn receive_into(&mut self, replies: &mut Replies, attempted: &str) -> Result<bool, Error> {
        loop {
            match recvfrom::<NetlinkAddr>(self.fd.as_raw_fd(), &mut self.buffer) {
                // Only the kernel (port 0) is listened to.
                Ok((_, Some(from))) if from.pid() != 0 => {}
                Ok((length, _)) if length >= self.buffer.len() => {
                    return Err(Error::malformed(attempted, format!("a message longer than {length} bytes")));
                }
                Ok((length, _)) => {
                    replies.parse(&self.buffer[..length]);
                    return Ok(true);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(false),
                Err(Errno::ENOBUFS) => return Err(Error::Overrun { attempted: attempted.to_owned() }),
                Err(errno) => return Err(Error::system(attempted, errno)),
            }
        }
    }
}

#[derive(Default)]
struct Answers {
    refused: Vec<(usize, Refusal)>,
    acknowledged: bool,
    replies: Replies,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

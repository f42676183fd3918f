//! Denied packets, one by one, as the kernel offers them to an NFLOG group (net/netfilter/nfnetlink_log.c).
//!
//! The kernel keeps what nobody has read yet in a buffer of fixed size and drops the rest: a sample, whatever the rate.

use super::policy::{DENIED_GROUP, Decider};
use crate::Error;
use crate::netlink::{Attribute, Message, Protocol, Received, Socket};
use lasthop_policy::decide::{Packet, Transport};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// `NFNL_SUBSYS_ULOG << 8 |` `NFULNL_MSG_PACKET`, `NFULNL_MSG_CONFIG`.
const PACKET: u16 = 4 << 8;
const CONFIG: u16 = 4 << 8 | 1;
const NFGENMSG: usize = 4;
const NFULA_CFG_CMD: u16 = 1;
const NFULA_CFG_MODE: u16 = 2;
const NFULA_CFG_QTHRESH: u16 = 5;
const NFULNL_CFG_CMD_BIND: u8 = 1;
const NFULNL_COPY_PACKET: u8 = 2;
const NFULA_IFINDEX_INDEV: u16 = 4;
const NFULA_IFINDEX_OUTDEV: u16 = 5;
const NFULA_PAYLOAD: u16 = 9;
const NFULA_PREFIX: u16 = 10;
/// Bytes of a packet that are wanted: its headers.
const BYTES: u32 = 96;

/// A packet that was denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// What denied it.
    pub by: Decider,
    /// The index of the link that it came in by, if it came in.
    pub from_link: Option<u32>,
    /// The index of the link that it would have left by, if that was known.
    pub to_link: Option<u32>,
    /// The packet; `None` if its headers do not say.
    pub packet: Option<Packet>,
}

/// Hears of denied packets.
#[derive(Debug)]
pub struct Drops {
    socket: Socket,
}

impl Drops {
    /// Listens from now on, in the calling thread's network namespace. One at a time can.
    pub fn open() -> Result<Self, Error> {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        let attempted = "listen to denied packets";
        let [high, low] = DENIED_GROUP.to_be_bytes();
        let config = || Message::new(CONFIG, 0).fixed(&[0, 0, high, low]);
        let mut bind = config();
        bind.put_u8(NFULA_CFG_CMD, NFULNL_CFG_CMD_BIND);
        socket.request(&bind, attempted)?;
        let mut mode = config();
        let mut copy = BYTES.to_be_bytes().to_vec();
        copy.extend([NFULNL_COPY_PACKET, 0]);
        mode.put(NFULA_CFG_MODE, &copy).put_u32_be(NFULA_CFG_QTHRESH, 1);
        socket.request(&mode, attempted)?;
        Ok(Self { socket })
    }

    /// What was denied since the last call. Never waits. [`Error::Overrun`]: some were not told; go on.
    pub fn receive(&mut self) -> Result<Vec<Denied>, Error> {
        Ok(self.socket.receive()?.iter().filter_map(parse).collect())
    }
}

impl AsFd for Drops {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reads one message.
pub(crate) fn parse(message: Received<'_>) -> Option<Denied> {
    if message.kind != PACKET {
        return None;
    }
    let attributes = message.attributes(NFGENMSG);
    let link = |kind| attributes.get(kind).and_then(Attribute::u32_be);
    Some(Denied {
        by: Decider::parse(attributes.get(NFULA_PREFIX)?.str()?)?,
        from_link: link(NFULA_IFINDEX_INDEV),
        to_link: link(NFULA_IFINDEX_OUTDEV),
        packet: attributes.get(NFULA_PAYLOAD).and_then(|attribute| packet(attribute.payload)),
    })
}

/// Reads a packet from its IP header on (RFC 791, RFC 8200). IPv6 extension headers are not followed.
fn packet(bytes: &[u8]) -> Option<Packet> {
    let four = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(<[u8; 4]>::into).map(IpAddr::V4);
    let sixteen = |at: usize| bytes.get(at..at + 16)?.try_into().ok().map(<[u8; 16]>::into).map(IpAddr::V6);
    let (source, destination, protocol, behind) = match bytes.first()? >> 4 {
        4 => (four(12)?, four(16)?, *bytes.get(9)?, usize::from(bytes.first()? & 15) * 4),
        6 => (sixteen(8)?, sixteen(24)?, *bytes.get(6)?, 40),
        _ => return None,
    };
    let transport = bytes.get(behind..)?;
    let transport = match (protocol, transport) {
        (1 | 58, &[kind, code, ..]) => Transport::Icmp { protocol, kind, code },
        (_, &[a, b, c, d, ..]) => Transport::of(protocol, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
        _ => Transport::Other(protocol),
    };
    Some(Packet { source, destination, transport })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers_are_read() {
        let mut v4 = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 65, 0, 2, 10, 65, 1, 2];
        v4.extend([0, 9, 0, 53, 0, 8, 0, 0]);
        let expect = |source: &str, destination: &str, transport| {
            Some(Packet { source: source.parse().unwrap(), destination: destination.parse().unwrap(), transport })
        };
        assert_eq!(packet(&v4), expect("10.65.0.2", "10.65.1.2", Transport::of(17, 9, 53)));
        let mut v6 = vec![0x60, 0, 0, 0, 0, 8, 58, 64];
        v6.extend("fd00::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
        v6.extend("fd00::3".parse::<std::net::Ipv6Addr>().unwrap().octets());
        v6.extend([128, 0, 0, 0]);
        assert_eq!(packet(&v6), expect("fd00::2", "fd00::3", Transport::Icmp { protocol: 58, kind: 128, code: 0 }));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = packet(&bytes);
            let _ = parse(Received { kind: PACKET, flags: 0, sequence: 0, port: 0, payload: &bytes });
        }
    }
}

//! Real packets of any protocol with ports or ICMP types, many at a time: sent and seen by raw sockets.
#![allow(
    unsafe_code,
    dead_code,
    unreachable_pub,
    reason = "raw sockets of protocols for which there is no type; a test"
)]

use crate::netns::Netns;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

static COOKIE: AtomicU32 = AtomicU32::new(1);

/// A packet that begins a flow.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    /// ICMP: type.
    pub from: u16,
    /// ICMP: code.
    pub to: u16,
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// CRC32c (RFC 9260 appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

/// What follows the IP header; the cookie is its last four bytes.
pub fn transport(p: &Packet, cookie: u32) -> Vec<u8> {
    let ports = [p.from.to_be_bytes(), p.to.to_be_bytes()].concat();
    let tail = cookie.to_be_bytes();
    let (mut bytes, checksum) = match p.protocol {
        6 => ([&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0], &tail].concat(), Some(16)),
        17 | 136 => ([&ports[..], &[0, 12, 0, 0], &tail].concat(), Some(6)),
        132 => {
            // An INIT chunk with an unknown parameter that may be skipped (type 0xc000) around the cookie.
            let init = [1, 0, 0, 28, 0, 0, 0, 9, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1, 0xc0, 0, 0, 8];
            ([&ports[..], &[0; 8], &init, &tail].concat(), None)
        }
        1 | 58 => {
            let (kind, code) = (p.from.to_be_bytes()[1], p.to.to_be_bytes()[1]);
            let number = cookie.to_be_bytes();
            ([&[kind, code, 0, 0, number[2], number[3], 0, 1][..], &tail].concat(), Some(2))
        }
        _ => (tail.to_vec(), None),
    };
    if p.protocol == 132 {
        let crc = crc32c(&bytes).to_le_bytes();
        bytes[8..12].copy_from_slice(&crc);
    }
    if let Some(at) = checksum {
        let length = u32::try_from(bytes.len()).expect("short");
        let pseudo = sum(&octets(p.source)) + sum(&octets(p.destination)) + u32::from(p.protocol) + length;
        let all = sum(&bytes) + if p.protocol == 1 { 0 } else { pseudo };
        bytes[at..at + 2].copy_from_slice(&folded(all).to_be_bytes());
    }
    bytes
}

/// A raw socket in the calling thread's namespace.
pub fn raw(v4: bool, protocol: u8) -> OwnedFd {
    let family = if v4 { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: a plain system call; the descriptor is owned from here on.
    unsafe {
        let fd = libc::socket(family, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, protocol.into());
        assert!(fd >= 0, "raw socket: {}", std::io::Error::last_os_error());
        let size: libc::c_int = 8 << 20;
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, (&raw const size).cast(), 4);
        OwnedFd::from_raw_fd(fd)
    }
}

pub fn send(fd: &OwnedFd, p: &Packet, bytes: &[u8]) {
    use nix::sys::socket::{MsgFlags, SockaddrStorage, sendto};
    let to = SockaddrStorage::from(std::net::SocketAddr::new(p.destination, 0));
    // What the sending side's own firewall denies is refused here.
    let _ = sendto(fd.as_raw_fd(), bytes, &to, MsgFlags::empty());
}

/// Sends packets from one namespace; which of them arrive in the other.
pub fn probe(from: &Netns, to: &Netns, packets: &[Packet]) -> Vec<bool> {
    let kinds: BTreeSet<(bool, u8)> = packets.iter().map(|p| (p.destination.is_ipv4(), p.protocol)).collect();
    let sockets = |netns: &Netns| netns.enter(|| kinds.iter().map(|k| (*k, raw(k.0, k.1))).collect::<Vec<_>>());
    let (senders, receivers) = (sockets(from), sockets(to));
    let first = COOKIE.fetch_add(u32::try_from(packets.len()).expect("few"), Ordering::Relaxed);
    let mut arrived = vec![false; packets.len()];
    let mut missing = packets.len();
    for (number, packet) in (0..).zip(packets) {
        let key = (packet.destination.is_ipv4(), packet.protocol);
        let sender = &senders.iter().find(|(k, _)| *k == key).expect("one of each").1;
        send(sender, packet, &transport(packet, first + number));
    }
    let start = Instant::now();
    let mut frame = [0; 2048];
    while missing > 0 && start.elapsed() < Duration::from_millis(120) {
        for (_, receiver) in &receivers {
            while let Ok(length) = nix::unistd::read(receiver, &mut frame) {
                if length < 4 {
                    continue;
                }
                let tail = frame[length - 4..length].try_into().expect("four bytes");
                let at = u32::from_be_bytes(tail).wrapping_sub(first) as usize;
                // Replies of the receiving kernel end in the same bytes, but are not received there.
                if at < arrived.len() && !arrived[at] {
                    arrived[at] = true;
                    missing -= 1;
                }
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    arrived
}

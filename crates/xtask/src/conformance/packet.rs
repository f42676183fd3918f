//! Whole IP packets, as probes send them: each ends in a cookie by which it is known again.

use lasthop_policy::decide::{Packet, Transport};
use std::net::IpAddr;

/// TTL, or hop limit.
const HOPS: u8 = 64;

/// Which packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The first.
    First,
    /// The first answer to it.
    Answer,
}

/// The packet, checksums and all.
pub(super) fn build(packet: &Packet, turn: Turn, cookie: u32) -> Vec<u8> {
    let body = transport(packet, turn, cookie);
    let mut header = match packet.source {
        IpAddr::V4(_) => {
            let length = u16::try_from(20 + body.len()).unwrap_or(u16::MAX).to_be_bytes();
            let number = packet.transport.protocol();
            vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, HOPS, number, 0, 0]
        }
        IpAddr::V6(_) => {
            let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
            vec![0x60, 0, 0, 0, length[0], length[1], packet.transport.protocol(), HOPS]
        }
    };
    header.extend(octets(packet.source));
    header.extend(octets(packet.destination));
    if packet.source.is_ipv4() {
        let checksum = folded(sum(&header));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    header.extend(body);
    header
}

/// The answer to a packet: the same the other way round.
pub(super) fn answer(packet: Packet) -> Packet {
    let transport = match packet.transport {
        Transport::Ports { protocol, source, destination } => {
            Transport::Ports { protocol, source: destination, destination: source }
        }
        Transport::Icmp { protocol: 1, kind: 8, code } => Transport::Icmp { protocol: 1, kind: 0, code },
        Transport::Icmp { protocol: 58, kind: 128, code } => Transport::Icmp { protocol: 58, kind: 129, code },
        other => other,
    };
    Packet { source: packet.destination, destination: packet.source, transport }
}

/// What follows the IP header.
fn transport(packet: &Packet, turn: Turn, cookie: u32) -> Vec<u8> {
    let tail = cookie.to_be_bytes();
    let (mut bytes, checksum) = match packet.transport {
        Transport::Ports { protocol, source, destination } => {
            let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
            match (protocol, turn) {
                (6, Turn::First) => ([&ports[..], &SYN, &tail].concat(), Some(16)),
                (6, Turn::Answer) => ([&ports[..], &SYN_ACK, &tail].concat(), Some(16)),
                // INIT with an unknown parameter around the cookie that may be skipped (type 0xc000).
                (132, _) => ([&ports[..], &[0; 8], &INIT, &tail].concat(), None),
                _ => ([&ports[..], &[0, 12, 0, 0], &tail].concat(), Some(6)),
            }
        }
        Transport::Icmp { kind, code, .. } => ([&[kind, code, 0, 0, 0x4c, 0x48, 0, 1][..], &tail].concat(), Some(2)),
        Transport::Other(_) => (tail.to_vec(), None),
    };
    let number = packet.transport.protocol();
    if number == 132 {
        let crc = crc32c(&bytes).to_le_bytes();
        bytes[8..12].copy_from_slice(&crc);
    }
    if let Some(at) = checksum {
        let length = u32::try_from(bytes.len()).unwrap_or(0);
        let pseudo = sum(&octets(packet.source)) + sum(&octets(packet.destination)) + u32::from(number) + length;
        let all = sum(&bytes) + if number == 1 { 0 } else { pseudo };
        bytes[at..at + 2].copy_from_slice(&folded(all).to_be_bytes());
    }
    bytes
}

const SYN: [u8; 16] = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0];
/// Acknowledges [`SYN`] and the four bytes that it carries.
const SYN_ACK: [u8; 16] = [0, 0, 0, 9, 0, 0, 0, 2, 0x50, 0x12, 0xff, 0xff, 0, 0, 0, 0];
const INIT: [u8; 24] = [1, 0, 0, 28, 0, 0, 0, 9, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1, 0xc0, 0, 0, 8];

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from)).sum()
}

/// The Internet checksum (RFC 1071) of a sum.
fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// CRC32c (RFC 9260 appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

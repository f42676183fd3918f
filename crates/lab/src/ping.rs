//! ICMP echo between all pairs, from inside their namespaces, all sources at once (RFC 792, RFC 4443 section 4).

use anyhow::{Context, Result};
use lasthop_net::Family;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recv, sendto, socket,
};
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Somewhere pings come from.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
}

/// Something that is pinged.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// The address.
    pub address: IpAddr,
}

/// What became of one pair.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Where from.
    pub from: String,
    /// Where to.
    pub to: String,
    /// The address.
    pub address: IpAddr,
    /// Round-trip time of the first answer in microseconds; none if there was no answer.
    pub rtt_us: Option<u64>,
    /// Echo requests sent until then.
    pub tries: u32,
}

/// How patient to be.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Requests sent to a target that does not answer.
    pub tries: u32,
    /// Time for an answer before the next.
    pub wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { tries: 3, wait: Duration::from_secs(1) }
    }
}

/// Pings all targets from all sources at once; in the order of the arguments.
///
/// # Errors
/// If a namespace cannot be entered or a socket not be made there.
pub fn all_pairs(sources: &[Source], targets: &[Target], patience: Patience) -> Result<Vec<Outcome>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = sources
            .iter()
            .enumerate()
            .map(|(at, source)| scope.spawn(move || from_one(source, identifier(at), targets, patience)))
            .collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| anyhow::anyhow!("a pinging thread panicked"))??);
        }
        Ok(all)
    })
}

fn identifier(at: usize) -> u16 {
    let [low, high, ..] = (at + std::process::id() as usize).to_le_bytes();
    u16::from_le_bytes([low, high])
}

fn from_one(source: &Source, id: u16, targets: &[Target], patience: Patience) -> Result<Vec<Outcome>> {
    let pinged = crate::netns::within(&source.namespace, || {
        let mut all = Vec::new();
        for family in Family::ALL {
            let of_family: Vec<_> = targets.iter().filter(|t| Family::of(t.address) == family).collect();
            if !of_family.is_empty() {
                all.extend(Pinger::open(family, id)?.ping(&of_family, patience)?);
            }
        }
        anyhow::Ok(all)
    })?;
    let pinged = pinged.with_context(|| format!("pinging from '{}'", source.name))?;
    Ok(targets
        .iter()
        .map(|target| {
            let hit = pinged.iter().find(|(address, ..)| *address == target.address);
            let (rtt, tries) = hit.map_or((None, 0), |(_, rtt, tries)| (*rtt, *tries));
            let rtt_us = rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX));
            Outcome { from: source.name.clone(), to: target.name.clone(), address: target.address, rtt_us, tries }
        })
        .collect())
}

/// A raw ICMP socket of one family in the calling thread's namespace.
struct Pinger {
    socket: OwnedFd,
    family: Family,
    id: u16,
}

impl Pinger {
    fn open(family: Family, id: u16) -> Result<Self> {
        let (domain, protocol) = match family {
            Family::V4 => (AddressFamily::Inet, SockProtocol::Icmp),
            Family::V6 => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(domain, SockType::Raw, flags, protocol)
            .with_context(|| format!("cannot open a raw {family} ICMP socket: are you root?"))?;
        Ok(Self { socket, family, id })
    }

    fn ping(&self, targets: &[&Target], patience: Patience) -> Result<Vec<(IpAddr, Option<Duration>, u32)>> {
        let mut done: Vec<_> = targets.iter().map(|t| (t.address, None, 0u32)).collect();
        for _ in 0..patience.tries {
            let mut sent = vec![None; done.len()];
            for (at, (address, rtt, tries)) in done.iter_mut().enumerate() {
                if rtt.is_none() {
                    *tries += 1;
                    sent[at] = Some(Instant::now());
                    let sequence = u16::try_from(at).context("too many targets: at most 65535")?;
                    self.send(*address, sequence);
                }
            }
            let end = Instant::now() + patience.wait;
            while done.iter().any(|(_, rtt, _)| rtt.is_none()) && Instant::now() < end {
                let left = end.saturating_duration_since(Instant::now());
                self.collect(&sent, |at, rtt| done[at].1 = done[at].1.or(Some(rtt)), left)?;
            }
            if done.iter().all(|(_, rtt, _)| rtt.is_some()) {
                break;
            }
        }
        Ok(done)
    }

    /// Sends one request. One that the kernel refuses (no route) counts as unanswered.
    fn send(&self, address: IpAddr, sequence: u16) {
        let request = echo_request(self.family, self.id, sequence);
        let to = SockaddrStorage::from(SocketAddr::new(address, 0));
        let _ = sendto(self.socket.as_raw_fd(), &request, &to, MsgFlags::empty());
    }

    fn collect(&self, sent: &[Option<Instant>], mut take: impl FnMut(usize, Duration), wait: Duration) -> Result<()> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(wait.min(Duration::from_millis(100))).unwrap_or(PollTimeout::ZERO);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for answers"),
        }
        let mut packet = [0; 2048];
        while let Ok(length) = recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            let answer = echo_reply(self.family, self.id, packet.get(..length).unwrap_or_default());
            if let Some((at, Some(Some(at_time)))) = answer.map(|at| (usize::from(at), sent.get(usize::from(at)))) {
                take(at, at_time.elapsed());
            }
        }
        Ok(())
    }
}

fn echo_request(family: Family, id: u16, sequence: u16) -> Vec<u8> {
    let kind = match family {
        Family::V4 => 8,
        Family::V6 => 128,
    };
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend(id.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend([0x4c; 48]);
    if family == Family::V4 {
        let sum = internet_checksum(&packet); // the kernel fills in ICMPv6's
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The sequence number, if the packet is an echo reply to `id`.
fn echo_reply(family: Family, id: u16, packet: &[u8]) -> Option<u16> {
    let (message, kind) = match family {
        Family::V4 => (packet.get(usize::from(packet.first()? & 15) * 4..)?, 0),
        Family::V6 => (packet, 129),
    };
    match message {
        [k, 0, _, _, i1, i2, s1, s2, ..] if *k == kind && u16::from_be_bytes([*i1, *i2]) == id => {
            Some(u16::from_be_bytes([*s1, *s2]))
        }
        _ => None,
    }
}

/// RFC 1071.
#[must_use]
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_request_has_a_sum_of_zero_and_its_reply_is_known() {
        let mut packet = echo_request(Family::V4, 0x1234, 7);
        assert_eq!(internet_checksum(&packet), 0);
        packet[0] = 0;
        let mut datagram = vec![0x45; 20];
        datagram.extend(&packet);
        assert_eq!(echo_reply(Family::V4, 0x1234, &datagram), Some(7));
        assert_eq!(echo_reply(Family::V4, 0x1235, &datagram), None);
        packet[0] = 129;
        assert_eq!(echo_reply(Family::V6, 0x1234, &packet), Some(7));
        for cut in 0..8 {
            assert_eq!(echo_reply(Family::V6, 0x1234, &packet[..cut]), None);
        }
    }
}

//! ICMP echo over a raw socket: who is there, and when the answer came.

use anyhow::{Context, Result};
use lasthop_lab::ping::internet_checksum;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket, sockopt,
};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long from one request to the next.
const EVERY: Duration = Duration::from_millis(1);

/// Length of an IPv4 header without options, and of an ICMP header.
const HEADERS: usize = 20 + 8;

/// What became of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) asked: usize,
    pub(crate) lost: usize,
}

/// Asks a thousand times a second until it is stopped; an answer counts for a second after the end.
pub(crate) fn ask_until(to: Ipv4Addr, id: u16, stop: &AtomicBool) -> Result<Stream> {
    let echo = Echo::open(to, id)?;
    let mut answered = BTreeSet::new();
    let mut asked = 0;
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        echo.ask(asked);
        asked += 1;
        answered.extend(std::iter::from_fn(|| echo.answer()));
        next += EVERY;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let end = Instant::now() + Duration::from_secs(1);
    while answered.len() < asked as usize && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
        answered.extend(std::iter::from_fn(|| echo.answer()));
    }
    Ok(Stream { asked: asked as usize, lost: asked as usize - answered.len() })
}

/// Asks one address.
pub(crate) struct Echo {
    fd: OwnedFd,
    to: SockaddrIn,
    id: u16,
}

impl Echo {
    /// A socket in the calling thread's namespace.
    pub(crate) fn open(to: Ipv4Addr, id: u16) -> Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd =
            socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Icmp).context("open an ICMP socket")?;
        // Answers wait here while the machine does something else.
        setsockopt(&fd, sockopt::RcvBufForce, &(16 << 20)).context("room for answers")?;
        Ok(Self { fd, to: SockaddrIn::from(SocketAddrV4::new(to, 0)), id })
    }

    /// Sends a request; an unreachable destination is no error.
    pub(crate) fn ask(&self, number: u32) {
        let mut packet = [0; 8 + 4];
        packet[0] = 8;
        packet[4..6].copy_from_slice(&self.id.to_be_bytes());
        packet[8..].copy_from_slice(&number.to_be_bytes());
        let sum = internet_checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
        // Without a route there is nowhere to send to: that is what is being found out.
        let _ = sendto(self.fd.as_raw_fd(), &packet, &self.to, MsgFlags::empty());
    }

    /// The number of the next answer that is there.
    pub(crate) fn answer(&self) -> Option<u32> {
        let mut packet = [0; 256];
        loop {
            let length = match recv(self.fd.as_raw_fd(), &mut packet, MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(_) => return None,
            };
            let from_peer = packet[12..16] == self.to.ip().octets();
            let is_ours = packet[20] == 0 && packet[24..26] == self.id.to_be_bytes();
            if length >= HEADERS + 4 && from_peer && is_ours {
                let [a, b, c, d] = [packet[28], packet[29], packet[30], packet[31]];
                return Some(u32::from_be_bytes([a, b, c, d]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_answers() {
        let echo = Echo::open(Ipv4Addr::LOCALHOST, 0x6c68).unwrap();
        echo.ask(7);
        let answer = (0..100).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            echo.answer()
        });
        assert_eq!(answer, Some(7));
    }
}

//! Ends of links without a cable: a TUN takes and gives whole IP packets, a raw socket sends and gets them as the host itself.
#![allow(unsafe_code, reason = "TUNSETIFF and raw sockets of any protocol have no safe wrapper")]

use anyhow::{Context, Result};
use nix::errno::Errno;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

/// How long a packet may take that was not there at once: the kernel forwards while it is written, but another CPU may be
/// sending something of its own by the same link just then.
const PATIENCE: Duration = Duration::from_millis(2);

/// Makes a TUN in the calling thread's network namespace; it goes with the file.
pub(super) fn tun(name: &str) -> Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("cannot open /dev/net/tun: are you root, and is the module tun there?")?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short },
    };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: `request` is a valid, NUL-terminated ifreq for the whole call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    Errno::result(result).with_context(|| format!("cannot make the TUN {name}"))?;
    Ok(file)
}

/// A raw socket in the calling thread's network namespace. With [`libc::IPPROTO_RAW`] what is sent begins with the IP header.
pub(super) fn raw(family: libc::c_int, protocol: libc::c_int) -> Result<OwnedFd> {
    // SAFETY: a plain system call without pointers.
    let number = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, protocol) };
    Errno::result(number).with_context(|| format!("cannot open a raw socket of protocol {protocol}"))?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Sends a whole packet as the host itself. What its own firewall denies is lost here.
pub(super) fn send(socket: &OwnedFd, destination: IpAddr, packet: &[u8]) {
    use nix::sys::socket::{MsgFlags, SockaddrStorage, sendto};
    let to = SockaddrStorage::from(std::net::SocketAddr::new(destination, 0));
    let _ = sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty());
}

/// The packet that ends in the cookie, if it comes out here. Others are thrown away.
pub(super) fn find(from: impl AsFd, cookie: u32) -> Option<Vec<u8>> {
    let start = Instant::now();
    let mut buffer = [0; 4096];
    loop {
        while let Ok(length) = nix::unistd::read(&from, &mut buffer) {
            if length >= 4 && buffer[length - 4..length] == cookie.to_be_bytes() {
                return Some(buffer[..length].to_vec());
            }
        }
        let left = PATIENCE.checked_sub(start.elapsed())?;
        let mut wait = [nix::poll::PollFd::new(from.as_fd(), nix::poll::PollFlags::POLLIN)];
        let millis = u16::try_from(left.as_millis()).unwrap_or(1).max(1);
        if nix::poll::poll(&mut wait, millis) == Ok(0) {
            return None;
        }
    }
}

/// Throws away what has come out here.
pub(super) fn drain(from: impl AsFd) {
    let mut buffer = [0; 4096];
    while nix::unistd::read(&from, &mut buffer).is_ok_and(|length| length > 0) {}
}

//! TAP devices: made persistent and joined by a file descriptor (`drivers/net/tun.c`).
#![allow(unsafe_code, reason = "TUNSETIFF and TUNSETPERSIST have no safe wrapper")]

use lasthop_net::IfName;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

mod ioctls {
    nix::ioctl_write_ptr_bad!(set_iff, 0x4004_54ca, libc::ifreq);
    nix::ioctl_write_int_bad!(set_persist, 0x4004_54cb);
}

/// Joins the TAP of that name in the calling thread's network namespace, making it if it is not there.
/// The file carries one Ethernet frame a read or write and never blocks.
///
/// # Errors
/// If there is no `/dev/net/tun`, the caller lacks `CAP_NET_ADMIN`, or another process holds the TAP.
pub(crate) fn join(name: &IfName) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: ifreq is plain data for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open and `request` is a whole ifreq that outlives the call.
    unsafe { ioctls::set_iff(file.as_raw_fd(), &raw const request) }?;
    Ok(file)
}

/// Makes a TAP that stays when nobody holds it, as a hypervisor's host does before the guest starts.
///
/// # Errors
/// As [`join`].
pub(crate) fn create(name: &IfName) -> io::Result<()> {
    let file = join(name)?;
    // SAFETY: the descriptor is open; the argument is an integer.
    unsafe { ioctls::set_persist(file.as_raw_fd(), 1) }?;
    Ok(())
}

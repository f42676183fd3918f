//! The one system call that has no safe wrapper: socket options of the netlink level.
#![allow(unsafe_code, reason = "setsockopt(SOL_NETLINK) has no safe wrapper")]

use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets an integer option of level `SOL_NETLINK`.
pub(super) fn set_option(fd: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> Result<(), Errno> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    let pointer = (&raw const value).cast::<libc::c_void>();
    // SAFETY: `pointer` is valid for `length` bytes for the whole call, and `fd` is open.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, pointer, length) };
    Errno::result(result).map(drop)
}

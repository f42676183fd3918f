//! Several sockets behind one file to wait on.
#![allow(unsafe_code, reason = "epoll has no safe wrapper among our dependencies")]

use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A file that is readable when one of `sources` is.
pub(super) fn readable_when_any(sources: &[BorrowedFd<'_>]) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes a plain number and gives a new descriptor that nobody else owns.
    let epoll = unsafe {
        let fd = Errno::result(libc::epoll_create1(libc::EPOLL_CLOEXEC))?;
        OwnedFd::from_raw_fd(fd)
    };
    for source in sources {
        let mut event = libc::epoll_event { events: libc::EPOLLIN.cast_unsigned(), u64: 0 };
        // SAFETY: both descriptors are open and `event` is valid for the whole call.
        let result =
            unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, source.as_raw_fd(), &raw mut event) };
        Errno::result(result)?;
    }
    Ok(epoll)
}

//! TAPs (drivers/net/tun.c): made persistent as a hypervisor would, and opened to move frames through.
#![allow(unsafe_code, reason = "TUNSETIFF and TUNSETPERSIST have no safe wrapper")]

use crate::Error;
use lasthop_net::IfName;
use nix::errno::Errno;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// The open file behind a TAP: reading gives the frames the host sends, writing gives it frames.
#[derive(Debug)]
pub struct Tap {
    file: File,
}

impl Tap {
    /// Opens a TAP of the calling thread's namespace, making it if there is none. Frames have no header of the driver.
    pub fn open(name: &IfName) -> Result<Self, Error> {
        let attempted = || format!("open TAP {name}");
        let file =
            File::options().read(true).write(true).open("/dev/net/tun").map_err(|e| Error::io(attempted(), &e))?;
        let mut request = libc::ifreq {
            ifr_name: [0; libc::IFNAMSIZ],
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short },
        };
        for (to, from) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
            *to = from.cast_signed();
        }
        // SAFETY: `request` is a valid, NUL-terminated ifreq for the whole call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        Errno::result(result).map_err(|errno| Error::system(attempted(), errno))?;
        Ok(Self { file })
    }

    /// Whether it stays without an open file.
    fn persist(&self, name: &IfName) -> Result<(), Error> {
        // SAFETY: the request takes a plain number.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETPERSIST, 1 as libc::c_ulong) };
        Errno::result(result).map(drop).map_err(|errno| Error::system(format!("make TAP {name} persistent"), errno))
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The file, kept open by the caller.
    #[must_use]
    pub fn into_file(self) -> File {
        self.file
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Makes a TAP that stays (until deleted as a link), in the calling thread's namespace.
pub fn create_tap(name: &IfName) -> Result<Tap, Error> {
    let tap = Tap::open(name)?;
    tap.persist(name)?;
    Ok(tap)
}

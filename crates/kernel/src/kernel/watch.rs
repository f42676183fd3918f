//! The sockets that hear what happens in the namespace.

use super::poll;
use crate::Error;
use crate::netlink::{Protocol, Replies, Socket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// include/uapi/linux/rtnetlink.h: link, neighbour, tc, addresses, routes, rules, netconf, next hop.
const GROUPS: [u32; 12] = [1, 3, 4, 5, 7, 8, 9, 11, 19, 24, 25, 32];

/// Hears what is announced.
#[derive(Debug)]
pub(super) struct Watch {
    route: Socket,
    file: OwnedFd,
}

impl Watch {
    /// Listens from now on; `also` is watched by the same file.
    pub(super) fn open(also: BorrowedFd<'_>) -> Result<Self, Error> {
        let mut route = Socket::open(Protocol::Route)?;
        for group in GROUPS {
            route.join(group)?;
        }
        let failed = |errno| Error::system("watch netlink sockets", errno);
        let file = poll::readable_when_any(&[route.as_fd(), also]).map_err(failed)?;
        Ok(Self { route, file })
    }

    /// What requests by these ports do is not told.
    pub(super) fn ignore(&mut self, ports: &[u32]) -> Result<(), Error> {
        self.route.ignore_ports(ports)
    }

    /// A file that is readable when something was announced.
    pub(super) fn file(&self) -> Result<OwnedFd, Error> {
        self.file.try_clone().map_err(|error| Error::io("watch netlink sockets", &error))
    }

    /// What rtnetlink announced.
    pub(super) fn route(&mut self) -> Result<Replies, Error> {
        self.route.receive()
    }
}

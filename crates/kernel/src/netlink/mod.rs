//! Netlink as rtnetlink, nfnetlink and tc need it: build messages, read attributes, exchange datagrams.
//!
//! Follows include/uapi/linux/netlink.h and net/netlink/af_netlink.c. The kernel handles a request inside
//! `sendmsg`, so every answer is queued when it returns: nothing here ever waits.

mod attributes;
mod message;
mod socket;
mod sys;

pub use crate::error::Refusal;
pub use attributes::{Attribute, Attributes};
pub use message::Message;
pub use socket::{Protocol, Received, Replies, Socket};

/// Rounds up to the alignment of netlink messages and attributes (`NLMSG_ALIGNTO`, `NLA_ALIGNTO`).
pub(crate) const fn align(length: usize) -> usize {
    (length + 3) & !3
}

#[cfg(test)]
mod tests;

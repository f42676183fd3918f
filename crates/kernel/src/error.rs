//! What can go wrong between us and the kernel: always with what was attempted, in words.

use nix::errno::Errno;
use std::time::Duration;

/// Why something in the kernel could not be read or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a netlink request.
    #[error("{attempted}: {refusal}")]
    Refused {
        /// What was attempted, e.g. `add route 10.65.0.24/32`.
        attempted: String,
        /// What the kernel said.
        refusal: Refusal,
    },
    /// A system call or a file under /proc failed.
    #[error("{attempted}: {}", .errno.desc())]
    System {
        /// What was attempted.
        attempted: String,
        /// The error number.
        errno: Errno,
    },
    /// The kernel's answer does not parse.
    #[error("{attempted}: the kernel's answer does not parse: {why}")]
    Malformed {
        /// What was attempted.
        attempted: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// The socket's receive buffer overran: messages were lost, the state must be read back.
    #[error("{attempted}: the netlink receive buffer overran, messages were lost")]
    Overrun {
        /// What was attempted.
        attempted: String,
    },
    /// What the request is about is not there.
    #[error("{object} does not exist")]
    Absent {
        /// What, e.g. `interface tap0`.
        object: String,
    },
    /// We may not configure the network.
    #[error("no right to configure the network of this namespace: run as root, or give the process CAP_NET_ADMIN")]
    NotPermitted,
    /// Something that should have come true did not in time.
    #[error("{attempted}: not done after {after:?}")]
    TimedOut {
        /// What was awaited.
        attempted: String,
        /// How long.
        after: Duration,
    },
    /// Another program that we ran failed.
    #[error("{attempted}: {said}")]
    Program {
        /// How it was called.
        attempted: String,
        /// What it said, or why.
        said: String,
    },
    /// The request makes no sense as given.
    #[error("{0}")]
    Invalid(String),
}

/// An error number from the kernel, with its explanation (extended acknowledgement) if it gave one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error number.
    pub errno: Errno,
    /// What the kernel added in words.
    pub explanation: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.explanation {
            Some(words) => write!(f, "{} ({words})", self.errno.desc()),
            None => f.write_str(self.errno.desc()),
        }
    }
}

impl Refusal {
    /// The error, once it is said what was attempted.
    #[must_use]
    pub fn during(self, attempted: impl Into<String>) -> Error {
        Error::Refused { attempted: attempted.into(), refusal: self }
    }
}

impl Error {
    /// The error number, if one is known.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal.errno),
            Self::System { errno, .. } => Some(*errno),
            Self::NotPermitted => Some(Errno::EPERM),
            _ => None,
        }
    }

    /// Whether the object that the request was about does not exist.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent { .. })
            || matches!(
                self.errno(),
                Some(Errno::ENOENT | Errno::ESRCH | Errno::ENODEV | Errno::ENXIO | Errno::EADDRNOTAVAIL)
            )
    }

    /// A failed system call.
    pub(crate) fn system(attempted: impl Into<String>, errno: Errno) -> Self {
        Self::System { attempted: attempted.into(), errno }
    }

    /// A failed standard-library call.
    pub(crate) fn io(attempted: impl Into<String>, error: &std::io::Error) -> Self {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        Self::System { attempted: attempted.into(), errno }
    }

    /// An answer that does not parse.
    pub(crate) fn malformed(attempted: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Malformed { attempted: attempted.into(), why: why.into() }
    }
}

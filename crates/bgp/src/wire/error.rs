//! What is wrong with a message, where, and what is done about it.

use super::Notification;
use std::fmt;

/// What RFC 7606 section 2 makes of an error; the later the stronger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The attribute is dropped, the rest counts.
    AttributeDiscard,
    /// The routes of the message are withdrawn.
    TreatAsWithdraw,
    /// The session ends with this NOTIFICATION.
    Reset(Notification),
}

/// An error in a received message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WireError {
    /// Octets from the start of the message.
    pub(crate) offset: usize,
    /// Which part of the message: "OPEN", "UPDATE AS_PATH", …
    pub(crate) path: &'static str,
    /// What is wrong, with values.
    pub(crate) reason: String,
    pub(crate) outcome: Outcome,
}

impl WireError {
    pub(crate) fn reset(
        offset: usize,
        path: &'static str,
        reason: String,
        (code, data): ((u8, u8), impl Into<Vec<u8>>),
    ) -> Self {
        Self { offset, path, reason, outcome: Outcome::Reset(Notification::new(code, data)) }
    }

    pub(crate) fn withdraw(offset: usize, path: &'static str, reason: String) -> Self {
        Self { offset, path, reason, outcome: Outcome::TreatAsWithdraw }
    }

    pub(crate) fn discard(offset: usize, path: &'static str, reason: String) -> Self {
        Self { offset, path, reason, outcome: Outcome::AttributeDiscard }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, octet {}: {}", self.path, self.offset, self.reason)?;
        match &self.outcome {
            Outcome::AttributeDiscard => f.write_str("; attribute discarded"),
            Outcome::TreatAsWithdraw => f.write_str("; its routes are treated as withdrawn"),
            Outcome::Reset(notification) => write!(f, "; session ended with {notification}"),
        }
    }
}

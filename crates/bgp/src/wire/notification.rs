//! NOTIFICATION (RFC 4271 section 4.5): why a session ends. Subcodes of RFC 4486, 6608, 9687; shutdown text of RFC 9003.

use super::{MessageType, frame};
use std::fmt;

/// A NOTIFICATION message.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Notification {
    pub(crate) code: u8,
    pub(crate) subcode: u8,
    pub(crate) data: Vec<u8>,
}

impl Notification {
    pub(crate) const MAX_PREFIXES: (u8, u8) = (6, 1);
    pub(crate) const SHUTDOWN: (u8, u8) = (6, 2);
    pub(crate) const DECONFIGURED: (u8, u8) = (6, 3);
    pub(crate) const CONFIGURATION_CHANGE: (u8, u8) = (6, 6);
    pub(crate) const COLLISION: (u8, u8) = (6, 7);
    pub(crate) const HARD_RESET: (u8, u8) = (6, 9);
    pub(crate) const BFD_DOWN: (u8, u8) = (6, 10);
    pub(crate) const HOLD_TIMER: (u8, u8) = (4, 0);
    pub(crate) const SEND_HOLD_TIMER: (u8, u8) = (8, 0);

    pub(crate) fn new((code, subcode): (u8, u8), data: impl Into<Vec<u8>>) -> Self {
        Self { code, subcode, data: data.into() }
    }

    /// RFC 9003: the text of a shutdown, cut between characters to at most 255 octets.
    pub(crate) fn shutdown(text: &str) -> Self {
        let mut end = text.len().min(255);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = text.get(..end).unwrap_or_default();
        let length = u8::try_from(text.len()).unwrap_or(0);
        let mut data = vec![length];
        data.extend(text.as_bytes());
        Self::new(Self::SHUTDOWN, if length == 0 { Vec::new() } else { data })
    }

    /// RFC 8538 section 3.1: the same as a Hard Reset, which ends the session for good.
    pub(crate) fn hard(&self) -> Self {
        let mut data = vec![self.code, self.subcode];
        data.extend(&self.data);
        Self::new(Self::HARD_RESET, data)
    }

    /// Whether routes are to go with the session even if both ends keep them over a NOTIFICATION (RFC 8538): what an
    /// operator has ended, or what says that the way itself is dead.
    pub(crate) fn is_final(&self) -> bool {
        let final_ones =
            [Self::MAX_PREFIXES, Self::SHUTDOWN, Self::DECONFIGURED, Self::CONFIGURATION_CHANGE, Self::BFD_DOWN];
        final_ones.contains(&(self.code, self.subcode))
    }

    /// Itself, or what it is a Hard Reset for (RFC 8538).
    pub(crate) fn meant(&self) -> Self {
        self.inner().unwrap_or_else(|| self.clone())
    }

    /// Its name, without what it carries.
    pub(crate) fn title(&self) -> String {
        let mut bare = Self::new((self.code, self.subcode), []).to_string();
        if let Some(inner) = self.inner() {
            bare.push_str(&format!(" for {}", inner.title()));
        }
        bare
    }

    /// What a Hard Reset is for (RFC 8538).
    fn inner(&self) -> Option<Self> {
        if (self.code, self.subcode) != Self::HARD_RESET || self.data.len() < 2 {
            return None;
        }
        Some(Self::parse(&self.data))
    }

    /// Parses the body, which the framing has checked to hold two octets.
    pub(crate) fn parse(body: &[u8]) -> Self {
        let octet = |at: usize| body.get(at).copied().unwrap_or(0);
        Self { code: octet(0), subcode: octet(1), data: body.get(2..).unwrap_or_default().to_vec() }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let room = super::MAX_LEN - super::HEADER_LEN - 2;
        let mut body = vec![self.code, self.subcode];
        body.extend(self.data.iter().take(room));
        frame(MessageType::Notification, &body)
    }

    /// The operator's text in a Cease (RFC 9003), made safe for a terminal.
    pub(crate) fn shutdown_text(&self) -> Option<String> {
        if let Some(inner) = self.inner() {
            return inner.shutdown_text();
        }
        if self.code != 6 || !matches!(self.subcode, 2 | 4) {
            return None;
        }
        let (len, text) = self.data.split_first()?;
        let text = text.get(..usize::from(*len)).filter(|t| !t.is_empty())?;
        let text = String::from_utf8_lossy(text);
        Some(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
    }

    pub(crate) fn words(&self) -> Option<&'static str> {
        Some(match (self.code, self.subcode) {
            (0, 0) => "malformed",
            (1, 1) => "connection not synchronized",
            (1, 2) => "bad message length",
            (1, 3) => "bad message type",
            (2, 1) => "unsupported version",
            (2, 2) => "bad peer AS",
            (2, 3) => "bad BGP identifier",
            (2, 4) => "unsupported optional parameter",
            (2, 6) => "unacceptable hold time",
            (2, 7) => "unsupported capability",
            (2, 11) => "role mismatch",
            (2, _) => "OPEN error",
            (3, 1) => "malformed attribute list",
            (3, 2) => "unrecognized well-known attribute",
            (3, 3) => "missing well-known attribute",
            (3, 4) => "attribute flags error",
            (3, 5) => "attribute length error",
            (3, 6) => "invalid ORIGIN",
            (3, 8) => "invalid NEXT_HOP",
            (3, 9) => "optional attribute error",
            (3, 10) => "invalid network field",
            (3, 11) => "malformed AS_PATH",
            (4, _) => "hold timer expired",
            (5, 1) => "unexpected message in OpenSent",
            (5, 2) => "unexpected message in OpenConfirm",
            (5, 3) => "unexpected message in Established",
            (5, _) => "finite state machine error",
            (6, 1) => "maximum number of prefixes reached",
            (6, 2) => "administrative shutdown",
            (6, 3) => "peer de-configured",
            (6, 4) => "administrative reset",
            (6, 5) => "connection rejected",
            (6, 6) => "other configuration change",
            (6, 7) => "connection collision resolution",
            (6, 8) => "out of resources",
            (6, 9) => "hard reset",
            (6, 10) => "BFD down",
            (6, _) => "cease",
            (7, 1) => "invalid ROUTE-REFRESH length",
            (8, _) => "send hold timer expired",
            _ => return None,
        })
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NOTIFICATION {}/{}", self.code, self.subcode)?;
        if let Some(words) = self.words() {
            write!(f, " ({words})")?;
        }
        if let Some(inner) = self.inner() {
            return write!(f, " for {inner}");
        }
        match self.shutdown_text() {
            Some(text) => write!(f, ": '{text}'"),
            None if self.data.is_empty() => Ok(()),
            None => {
                f.write_str(", data ")?;
                let shown = self.data.get(..self.data.len().min(32)).unwrap_or_default();
                shown.iter().try_for_each(|octet| write!(f, "{octet:02x}"))?;
                f.write_str(if shown.len() < self.data.len() { "…" } else { "" })
            }
        }
    }
}

impl fmt::Debug for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_said_in_words() {
        for (code, data, expect) in [
            ((4, 0), &[][..], "NOTIFICATION 4/0 (hold timer expired)"),
            ((2, 2), &[0xfd, 0xe8][..], "NOTIFICATION 2/2 (bad peer AS), data fde8"),
            ((6, 2), b"\x05bye\x1b\xff", "NOTIFICATION 6/2 (administrative shutdown): 'bye \u{fffd}'"),
            ((6, 2), b"\x09bye", "NOTIFICATION 6/2 (administrative shutdown), data 09627965"),
            ((99, 1), &[][..], "NOTIFICATION 99/1"),
            (
                (6, 9),
                b"\x06\x02\x03bye",
                "NOTIFICATION 6/9 (hard reset) for NOTIFICATION 6/2 (administrative shutdown): 'bye'",
            ),
        ] {
            assert_eq!(Notification::new(code, data).to_string(), expect);
        }
    }

    #[test]
    fn a_shutdown_text_is_cut_between_characters() {
        for (text, length) in
            [("", None), ("bye", Some(3)), (&"ä".repeat(200), Some(254)), (&"x".repeat(300), Some(255))]
        {
            let notification = Notification::shutdown(text);
            assert_eq!(notification.data.first().copied(), length, "{text}");
            assert_eq!(notification.data.len(), length.map_or(0, |length| usize::from(length) + 1));
            assert!(!notification.to_string().contains('\u{fffd}'));
        }
    }
}

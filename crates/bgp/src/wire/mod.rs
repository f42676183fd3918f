//! Messages as octets (RFC 4271 section 4): framing, and one module for each message.
//!
//! Decoding never panics and never allocates more than a small multiple of what it was given. An error says where it is and
//! what is to be done about it (RFC 7606): discard the attribute, treat the routes as withdrawn, or end the session.

mod attribute;
pub(crate) mod capability;
mod cursor;
mod encode;
mod error;
pub(crate) mod nlri;
mod notification;
pub(crate) mod open;
#[cfg(test)]
mod tests;
pub(crate) mod update;

pub(crate) use encode::{AsnWidth, AttributeBlock, Format, end_of_rib, keepalive, pack_reach, pack_withdraw};
pub(crate) use error::{Outcome, WireError};
pub(crate) use notification::Notification;

use cursor::Cursor;
use lasthop_net::Family;
use open::Open;
use update::{Context, PeerKind, Update};

/// Marker, length, type.
pub(crate) const HEADER_LEN: usize = 19;
/// The longest message without RFC 8654.
pub(crate) const MAX_LEN: usize = 4096;
/// The longest message with RFC 8654.
pub(crate) const MAX_EXTENDED_LEN: usize = 65535;

/// Message types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageType {
    Open = 1,
    Update = 2,
    Notification = 3,
    Keepalive = 4,
    RouteRefresh = 5,
}

/// AFI of a family (RFC 4760); the SAFI is always 1, unicast.
pub(crate) fn afi(family: Family) -> u16 {
    match family {
        Family::V4 => 1,
        Family::V6 => 2,
    }
}

/// The family of an AFI and SAFI, if it is one of ours.
pub(crate) fn family_of(afi: u16, safi: u8) -> Option<Family> {
    match (afi, safi) {
        (1, 1) => Some(Family::V4),
        (2, 1) => Some(Family::V6),
        _ => None,
    }
}

/// Puts a header before a body that fits.
pub(crate) fn frame(kind: MessageType, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER_LEN + body.len());
    begin(kind, &mut message);
    message.extend(body);
    end(0, &mut message);
    message
}

/// Appends the header of a message; [`end`] is to follow its body.
fn begin(kind: MessageType, out: &mut Vec<u8>) {
    out.extend([0xff; 16]);
    out.extend([0, 0, kind as u8]);
}

/// Writes the length of the message that began at `start`.
fn end(start: usize, out: &mut [u8]) {
    let len = u16::try_from(out.len() - start).unwrap_or(u16::MAX).to_be_bytes();
    if let Some(place) = out.get_mut(start + 16..start + 18) {
        place.copy_from_slice(&len);
    }
}

/// What [`split`] found at the start of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Framed<'a> {
    /// A whole message: its type, its body, and how many octets it took.
    Message(MessageType, &'a [u8], usize),
    /// Not all of it is here.
    Partial,
}

/// Takes one message off the buffer (RFC 4271 section 6.1).
pub(crate) fn split(buffer: &[u8], max: usize) -> Result<Framed<'_>, WireError> {
    let mut cursor = Cursor::new(buffer, 0);
    let Ok(marker) = cursor.array::<16>() else {
        // Whatever there is of a marker must be right: else we would wait for octets that never come.
        let good = buffer.iter().all(|octet| *octet == 0xff);
        return if good { Ok(Framed::Partial) } else { Err(not_synchronized()) };
    };
    if marker != [0xff; 16] {
        return Err(not_synchronized());
    }
    let (Ok(len), Ok(kind)) = (cursor.u16(), cursor.u8()) else { return Ok(Framed::Partial) };
    let bad_length = || {
        WireError::reset(16, "header", format!("length {len} is wrong for this message"), ((1, 2), len.to_be_bytes()))
    };
    let total = usize::from(len);
    if total < HEADER_LEN || total > max {
        return Err(bad_length());
    }
    let (kind, possible) = match kind {
        1 => (MessageType::Open, 29..=MAX_LEN),
        2 => (MessageType::Update, 23..=max),
        3 => (MessageType::Notification, 21..=max),
        4 => (MessageType::Keepalive, 19..=19),
        5 => (MessageType::RouteRefresh, 23..=max),
        other => return Err(WireError::reset(18, "header", format!("no message type {other}"), ((1, 3), [other]))),
    };
    if !possible.contains(&total) {
        return Err(bad_length());
    }
    match buffer.get(HEADER_LEN..total) {
        Some(body) => Ok(Framed::Message(kind, body, total)),
        None => Ok(Framed::Partial),
    }
}

/// Messages in a row, one by one.
pub(crate) fn one_by_one(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Ok(Framed::Message(_, _, taken)) = split(bytes, MAX_EXTENDED_LEN) {
        messages.extend(bytes.get(..taken).map(<[u8]>::to_vec));
        bytes = bytes.get(taken..).unwrap_or_default();
    }
    messages
}

fn not_synchronized() -> WireError {
    WireError::reset(0, "header", "the marker is not all ones".to_owned(), ((1, 1), []))
}

/// What a ROUTE-REFRESH is (RFC 7313 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refresh {
    Request = 0,
    Begin = 1,
    End = 2,
}

/// A ROUTE-REFRESH (RFC 2918, RFC 7313); `None` if it is to be ignored (unknown family or subtype).
pub(crate) fn parse_route_refresh(body: &[u8]) -> Option<(Refresh, Family)> {
    let mut cursor = Cursor::new(body, HEADER_LEN);
    let (afi, subtype, safi) = (cursor.u16().ok()?, cursor.u8().ok()?, cursor.u8().ok()?);
    // Longer ones are RFC 5291's ORF, which is not negotiated.
    let kinds = [Refresh::Request, Refresh::Begin, Refresh::End];
    let kind = kinds.into_iter().find(|kind| *kind as u8 == subtype && cursor.is_empty())?;
    Some((kind, family_of(afi, safi)?))
}

pub(crate) fn route_refresh(kind: Refresh, family: Family) -> Vec<u8> {
    let [high, low] = afi(family).to_be_bytes();
    frame(MessageType::RouteRefresh, &[high, low, kind as u8, 1])
}

/// See [`crate::decode_any`].
pub(crate) fn decode_any(bytes: &[u8]) -> usize {
    let (families, none) = (Family::ALL.into(), std::collections::BTreeSet::new());
    let mut whole = 0;
    for (kind, asn4) in [(PeerKind::Internal, true), (PeerKind::External, false)] {
        let context = Context {
            kind,
            asn4,
            families: &families,
            extended_next_hop: asn4,
            paths: if asn4 { &families } else { &none },
        };
        let mut rest = bytes;
        while let Ok(Framed::Message(kind, body, taken)) = split(rest, MAX_EXTENDED_LEN) {
            rest = rest.get(taken..).unwrap_or_default();
            whole += 1;
            match kind {
                MessageType::Open => drop(Open::parse(body)),
                MessageType::Update => drop(Update::parse(body, &context)),
                MessageType::Notification => drop(Notification::parse(body).to_string()),
                MessageType::RouteRefresh => {
                    let _ = parse_route_refresh(body);
                }
                MessageType::Keepalive => {}
            }
        }
    }
    whole
}

#[cfg(test)]
mod framing {
    use super::*;

    #[test]
    fn framing_errors_name_code_subcode_and_data() {
        let message = |len: u16, kind: u8| {
            let mut bytes = vec![0xff; 16];
            bytes.extend(len.to_be_bytes());
            bytes.push(kind);
            bytes.resize(usize::from(len).max(19), 0);
            bytes
        };
        for (len, kind, expect) in [
            (18, 4, (1, 2, vec![0, 18])),
            (4097, 2, (1, 2, vec![0x10, 1])),
            (20, 4, (1, 2, vec![0, 20])),
            (28, 1, (1, 2, vec![0, 28])),
            (22, 2, (1, 2, vec![0, 22])),
            (20, 3, (1, 2, vec![0, 20])),
            (19, 9, (1, 3, vec![9])),
        ] {
            let bytes = message(len, kind);
            let error = split(&bytes, MAX_LEN).unwrap_err();
            let Outcome::Reset(n) = error.outcome else { panic!("{error}") };
            assert_eq!((n.code, n.subcode, n.data), expect);
        }
        let mut bad = message(19, 4);
        bad[3] = 0;
        assert!(matches!(split(&bad, MAX_LEN), Err(WireError { offset: 0, .. })));
        assert!(split(&bad[..5], MAX_LEN).is_err(), "a wrong marker is noticed before the header is complete");
    }

    #[test]
    fn a_message_cut_anywhere_waits_for_the_rest() {
        let message = keepalive();
        for cut in 0..message.len() {
            assert_eq!(split(&message[..cut], MAX_LEN).unwrap(), Framed::Partial);
        }
        assert_eq!(split(&message, MAX_LEN).unwrap(), Framed::Message(MessageType::Keepalive, &[], 19));
    }

    #[test]
    fn route_refresh_for_an_unknown_family_is_ignored() {
        assert_eq!(parse_route_refresh(&[0, 1, 0, 1]), Some((Refresh::Request, Family::V4)));
        assert_eq!(parse_route_refresh(&[0, 2, 0, 1]), Some((Refresh::Request, Family::V6)));
        assert_eq!(parse_route_refresh(&[0, 2, 2, 1]), Some((Refresh::End, Family::V6)));
        assert_eq!(parse_route_refresh(&[0, 1, 0, 1, 1]), None, "an ORF");
        assert_eq!(parse_route_refresh(&[0x40, 4, 0, 1]), None);
        assert_eq!(parse_route_refresh(&[0, 1, 3, 1]), None, "a subtype that nobody knows");
    }
}

//! OPEN (RFC 4271 section 4.2, extended optional parameters of RFC 9072).

use super::capability::Capabilities;
use super::cursor::{Cursor, Short};
use super::{HEADER_LEN, MessageType, WireError, frame};
use lasthop_net::Asn;
use std::net::Ipv4Addr;

/// An OPEN, its AS already taken from the 4-octet capability where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) asn: Asn,
    /// In seconds, as on the wire: 0, or 3 and more.
    pub(crate) hold_time: u16,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) capabilities: Capabilities,
}

const PATH: &str = "OPEN";
const CAPABILITIES: u8 = 2;

impl Open {
    /// Reads an OPEN and checks what can be judged without knowing the peer (RFC 4271 section 6.2).
    pub(crate) fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(body, HEADER_LEN);
        let short = |s: Short| WireError::reset(s.offset, PATH, "cut short".to_owned(), ((2, 0), []));
        let version = cursor.u8().map_err(short)?;
        if version != 4 {
            return Err(WireError::reset(HEADER_LEN, PATH, format!("version {version}, we speak 4"), ((2, 1), [0, 4])));
        }
        let asn2 = cursor.u16().map_err(short)?;
        let hold_time = cursor.u16().map_err(short)?;
        let router_id = Ipv4Addr::from_bits(cursor.u32().map_err(short)?);
        let capabilities = Self::parameters(cursor)?;
        let asn = capabilities.asn4.unwrap_or(Asn(u32::from(asn2)));
        if asn2 == 0 || asn.0 == 0 {
            return Err(WireError::reset(20, PATH, "AS 0 (RFC 7607)".to_owned(), ((2, 2), [])));
        }
        if matches!(hold_time, 1 | 2) {
            let reason = format!("hold time {hold_time} s: it must be 0 or at least 3");
            return Err(WireError::reset(22, PATH, reason, ((2, 6), hold_time.to_be_bytes())));
        }
        if router_id.is_unspecified() {
            return Err(WireError::reset(24, PATH, "BGP identifier 0.0.0.0".to_owned(), ((2, 3), [])));
        }
        Ok(Self { asn, hold_time, router_id, capabilities })
    }

    fn parameters(mut cursor: Cursor<'_>) -> Result<Capabilities, WireError> {
        let malformed =
            |s: Short| WireError::reset(s.offset, PATH, "optional parameters do not fit".to_owned(), ((2, 0), []));
        let mut capabilities = Capabilities::default();
        let mut total = usize::from(cursor.u8().map_err(malformed)?);
        let checkpoint = cursor;
        // RFC 9072: type 255 as the first parameter means 2-octet lengths.
        let extended = total != 0 && cursor.u8() == Ok(255);
        if extended {
            total = usize::from(cursor.u16().map_err(malformed)?);
        } else {
            cursor = checkpoint;
        }
        if total != cursor.len() {
            let reason = format!("optional parameters of {total} octets in a message that has {} left", cursor.len());
            return Err(WireError::reset(cursor.offset(), PATH, reason, ((2, 0), [])));
        }
        while !cursor.is_empty() {
            let offset = cursor.offset();
            let kind = cursor.u8().map_err(malformed)?;
            let len = match extended {
                true => usize::from(cursor.u16().map_err(malformed)?),
                false => usize::from(cursor.u8().map_err(malformed)?),
            };
            let value = cursor.sub(len).map_err(malformed)?;
            if kind != CAPABILITIES {
                let reason = format!("optional parameter {kind} is not known");
                return Err(WireError::reset(offset, PATH, reason, ((2, 4), [])));
            }
            capabilities.parse(value).map_err(malformed)?;
        }
        Ok(capabilities)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let capabilities = self.capabilities.encode();
        let asn2 = u16::try_from(self.asn.0).unwrap_or(23456);
        let mut body = vec![4];
        body.extend(asn2.to_be_bytes());
        body.extend(self.hold_time.to_be_bytes());
        body.extend(self.router_id.octets());
        match u8::try_from(capabilities.len()) {
            Ok(0) => body.push(0),
            Ok(len @ ..=253) => body.extend([len + 2, CAPABILITIES, len]),
            // RFC 9072 section 2.
            _ => {
                let len = u16::try_from(capabilities.len()).unwrap_or(u16::MAX);
                body.extend([255, 255]);
                body.extend((len + 3).to_be_bytes());
                body.push(CAPABILITIES);
                body.extend(len.to_be_bytes());
            }
        }
        body.extend(&capabilities);
        frame(MessageType::Open, &body)
    }
}

//! Capabilities (RFC 5492): multiprotocol (4760), route refresh (2918), 4-octet AS (6793), graceful restart (4724), extended messages (8654).

use super::cursor::Cursor;
use super::{afi, family_of};
use lasthop_net::{Asn, Family};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a side says about its graceful restart (RFC 4724 section 3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GracefulRestart {
    /// The R bit.
    pub(crate) restarted: bool,
    pub(crate) time: Duration,
    /// Families that take part, with the F bit: forwarding was preserved.
    pub(crate) families: BTreeMap<Family, Forwarding>,
}

/// The F bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forwarding {
    Preserved,
    Lost,
}

/// The capabilities of one side that we know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// Empty if the capability was not sent at all: IPv4 unicast then.
    pub(crate) families: BTreeSet<Family>,
    pub(crate) multiprotocol: bool,
    pub(crate) asn4: Option<Asn>,
    pub(crate) route_refresh: bool,
    pub(crate) extended_message: bool,
    pub(crate) graceful_restart: Option<GracefulRestart>,
}

const MULTIPROTOCOL: u8 = 1;
const ROUTE_REFRESH: u8 = 2;
const EXTENDED_MESSAGE: u8 = 6;
const GRACEFUL_RESTART: u8 = 64;
const ASN4: u8 = 65;

impl Capabilities {
    /// Reads the capabilities of one optional parameter into `self`. Unknown ones and known ones of a wrong length are ignored;
    /// an error means that they do not fit into the parameter.
    pub(crate) fn parse(&mut self, mut cursor: Cursor<'_>) -> Result<(), super::cursor::Short> {
        while !cursor.is_empty() {
            let code = cursor.u8()?;
            let len = cursor.u8()?;
            let value = cursor.sub(usize::from(len))?;
            // A wrong length is no reason to end the session: the capability is as good as absent.
            let _ = self.take(code, value);
        }
        Ok(())
    }

    fn take(&mut self, code: u8, mut value: Cursor<'_>) -> Result<(), super::cursor::Short> {
        match code {
            MULTIPROTOCOL => {
                let (afi, _reserved, safi) = (value.u16()?, value.u8()?, value.u8()?);
                self.multiprotocol = true;
                self.families.extend(family_of(afi, safi));
            }
            ROUTE_REFRESH => self.route_refresh = true,
            EXTENDED_MESSAGE => self.extended_message = true,
            ASN4 => self.asn4 = Some(Asn(value.u32()?)),
            GRACEFUL_RESTART => {
                let head = value.u16()?;
                let mut restart = GracefulRestart {
                    restarted: head & 0x8000 != 0,
                    time: Duration::from_secs(u64::from(head & 0x0fff)),
                    families: BTreeMap::new(),
                };
                while !value.is_empty() {
                    let (afi, safi, flags) = (value.u16()?, value.u8()?, value.u8()?);
                    let forwarding = if flags & 0x80 != 0 { Forwarding::Preserved } else { Forwarding::Lost };
                    restart.families.extend(family_of(afi, safi).map(|family| (family, forwarding)));
                }
                self.graceful_restart = Some(restart);
            }
            _ => {}
        }
        Ok(())
    }

    /// The capabilities as octets, each with code and length.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for family in &self.families {
            out.extend([MULTIPROTOCOL, 4]);
            out.extend(afi(*family).to_be_bytes());
            out.extend([0, 1]);
        }
        if self.route_refresh {
            out.extend([ROUTE_REFRESH, 0]);
        }
        if self.extended_message {
            out.extend([EXTENDED_MESSAGE, 0]);
        }
        if let Some(restart) = &self.graceful_restart {
            let time = u16::try_from(restart.time.as_secs()).unwrap_or(u16::MAX).min(0x0fff);
            let head = if restart.restarted { 0x8000 } else { 0 } | time;
            out.extend([GRACEFUL_RESTART, 2 + 4 * u8::try_from(restart.families.len()).unwrap_or(0)]);
            out.extend(head.to_be_bytes());
            for (family, forwarding) in &restart.families {
                out.extend(afi(*family).to_be_bytes());
                out.extend([1, if *forwarding == Forwarding::Preserved { 0x80 } else { 0 }]);
            }
        }
        if let Some(asn) = self.asn4 {
            out.extend([ASN4, 4]);
            out.extend(asn.0.to_be_bytes());
        }
        out
    }
}

//! Capabilities (RFC 5492): multiprotocol (4760), route refresh (2918) and its enhanced kind (7313), 4-octet AS (6793),
//! graceful restart (4724, 8538), long-lived graceful restart (9494), extended messages (8654), add-path (7911),
//! IPv6 next hops for IPv4 (8950), roles (9234).

use super::cursor::Cursor;
use super::{afi, family_of};
use crate::config::Role;
use lasthop_net::{Asn, Family};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a side says about its graceful restart (RFC 4724 section 3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GracefulRestart {
    /// The R bit.
    pub(crate) restarted: bool,
    /// The N bit (RFC 8538): a NOTIFICATION is a restart as well.
    pub(crate) notification: bool,
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
    /// How long stale routes of a family are kept (RFC 9494), with its F bit.
    pub(crate) long_lived: Option<BTreeMap<Family, (Forwarding, Duration)>>,
    pub(crate) enhanced_refresh: bool,
    pub(crate) add_path: BTreeMap<Family, PathsMode>,
    /// IPv4 prefixes may have IPv6 next hops.
    pub(crate) extended_next_hop: bool,
    pub(crate) role: Option<Role>,
    /// It named two roles (RFC 9234 section 4.2).
    pub(crate) two_roles: bool,
}

/// What a side does with several paths of a family (RFC 7911 section 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PathsMode {
    pub(crate) receives: bool,
    pub(crate) sends: bool,
}

const ROLES: [Role; 5] = [Role::Provider, Role::RouteServer, Role::RouteServerClient, Role::Customer, Role::Peer];

const MULTIPROTOCOL: u8 = 1;
const ROUTE_REFRESH: u8 = 2;
const EXTENDED_MESSAGE: u8 = 6;
const EXTENDED_NEXT_HOP: u8 = 5;
const ROLE: u8 = 9;
const GRACEFUL_RESTART: u8 = 64;
const ASN4: u8 = 65;
const ADD_PATH: u8 = 69;
const ENHANCED_REFRESH: u8 = 70;
const LONG_LIVED: u8 = 71;

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
                    notification: head & 0x4000 != 0,
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
            EXTENDED_NEXT_HOP => {
                while !value.is_empty() {
                    let (afi, safi, hop) = (value.u16()?, value.u16()?, value.u16()?);
                    self.extended_next_hop |= (afi, safi, hop) == (1, 1, 2);
                }
            }
            ROLE => {
                let role = value.u8()?;
                let role = ROLES.into_iter().find(|known| *known as u8 == role);
                self.two_roles |= self.role.is_some() && self.role != role;
                self.role = role;
            }
            ADD_PATH => {
                while !value.is_empty() {
                    let (afi, safi, mode) = (value.u16()?, value.u8()?, value.u8()?);
                    let mode = PathsMode { receives: mode & 1 != 0, sends: mode & 2 != 0 };
                    self.add_path.extend(family_of(afi, safi).map(|family| (family, mode)));
                }
            }
            ENHANCED_REFRESH => self.enhanced_refresh = true,
            LONG_LIVED => {
                let mut families = BTreeMap::new();
                while !value.is_empty() {
                    let (afi, safi, flags) = (value.u16()?, value.u8()?, value.u8()?);
                    let [a, b, c] = value.array()?;
                    let forwarding = if flags & 0x80 != 0 { Forwarding::Preserved } else { Forwarding::Lost };
                    let time = Duration::from_secs(u64::from(u32::from_be_bytes([0, a, b, c])));
                    families.extend(family_of(afi, safi).map(|family| (family, (forwarding, time))));
                }
                self.long_lived = Some(families);
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
            let bits = if restart.restarted { 0x8000 } else { 0 } | if restart.notification { 0x4000 } else { 0 };
            let head = bits | time;
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
        if self.enhanced_refresh {
            out.extend([ENHANCED_REFRESH, 0]);
        }
        if self.extended_next_hop {
            out.extend([EXTENDED_NEXT_HOP, 6, 0, 1, 0, 1, 0, 2]);
        }
        if let Some(role) = self.role {
            out.extend([ROLE, 1, role as u8]);
        }
        let paths = self.add_path.iter().filter(|(_, mode)| mode.receives || mode.sends);
        let paths: Vec<u8> = paths
            .flat_map(|(family, mode)| {
                let [high, low] = afi(*family).to_be_bytes();
                [high, low, 1, u8::from(mode.receives) | u8::from(mode.sends) << 1]
            })
            .collect();
        put(&mut out, ADD_PATH, &paths);
        let long_lived: Vec<u8> = self
            .long_lived
            .iter()
            .flatten()
            .flat_map(|(family, (forwarding, time))| {
                let [high, low] = afi(*family).to_be_bytes();
                let [_, a, b, c] = u32::try_from(time.as_secs()).unwrap_or(u32::MAX).min(0x00ff_ffff).to_be_bytes();
                [high, low, 1, if *forwarding == Forwarding::Preserved { 0x80 } else { 0 }, a, b, c]
            })
            .collect();
        put(&mut out, LONG_LIVED, &long_lived);
        out
    }
}

/// A capability that is absent where there is nothing to say.
fn put(out: &mut Vec<u8>, code: u8, value: &[u8]) {
    if !value.is_empty() {
        out.extend([code, u8::try_from(value.len()).unwrap_or(0)]);
        out.extend(value);
    }
}

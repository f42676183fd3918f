//! One path attribute at a time (RFC 4271 section 5), each with its own way out when it is malformed (RFC 7606 section 7).

use super::WireError;
use super::cursor::{Cursor, Short};
use super::update::{Context, PeerKind};
use crate::attributes::{AsPath, OriginCode, Segment, SegmentKind, Unknown};
use lasthop_net::Asn;
use std::net::Ipv4Addr;

pub(super) const OPTIONAL: u8 = 0x80;
pub(super) const TRANSITIVE: u8 = 0x40;
pub(super) const PARTIAL: u8 = 0x20;
pub(super) const EXTENDED_LENGTH: u8 = 0x10;

/// Attribute type codes.
pub(super) mod code {
    pub(in crate::wire) const ORIGIN: u8 = 1;
    pub(in crate::wire) const AS_PATH: u8 = 2;
    pub(in crate::wire) const NEXT_HOP: u8 = 3;
    pub(in crate::wire) const MED: u8 = 4;
    pub(in crate::wire) const LOCAL_PREF: u8 = 5;
    pub(in crate::wire) const ATOMIC_AGGREGATE: u8 = 6;
    pub(in crate::wire) const AGGREGATOR: u8 = 7;
    pub(in crate::wire) const COMMUNITIES: u8 = 8;
    pub(in crate::wire) const ORIGINATOR_ID: u8 = 9;
    pub(in crate::wire) const CLUSTER_LIST: u8 = 10;
    pub(in crate::wire) const MP_REACH: u8 = 14;
    pub(in crate::wire) const MP_UNREACH: u8 = 15;
    pub(in crate::wire) const EXTENDED_COMMUNITIES: u8 = 16;
    pub(in crate::wire) const AS4_PATH: u8 = 17;
    pub(in crate::wire) const AS4_AGGREGATOR: u8 = 18;
    pub(in crate::wire) const LARGE_COMMUNITIES: u8 = 32;
    pub(in crate::wire) const OTC: u8 = 35;
}

/// Where an error of an attribute is reported.
pub(super) fn path(kind: u8) -> &'static str {
    match kind {
        code::ORIGIN => "UPDATE ORIGIN",
        code::AS_PATH => "UPDATE AS_PATH",
        code::NEXT_HOP => "UPDATE NEXT_HOP",
        code::MED => "UPDATE MULTI_EXIT_DISC",
        code::LOCAL_PREF => "UPDATE LOCAL_PREF",
        code::ATOMIC_AGGREGATE => "UPDATE ATOMIC_AGGREGATE",
        code::AGGREGATOR => "UPDATE AGGREGATOR",
        code::COMMUNITIES => "UPDATE COMMUNITIES",
        code::ORIGINATOR_ID => "UPDATE ORIGINATOR_ID",
        code::CLUSTER_LIST => "UPDATE CLUSTER_LIST",
        code::MP_REACH => "UPDATE MP_REACH_NLRI",
        code::MP_UNREACH => "UPDATE MP_UNREACH_NLRI",
        code::EXTENDED_COMMUNITIES => "UPDATE EXTENDED_COMMUNITIES",
        code::AS4_PATH => "UPDATE AS4_PATH",
        code::AS4_AGGREGATOR => "UPDATE AS4_AGGREGATOR",
        code::LARGE_COMMUNITIES => "UPDATE LARGE_COMMUNITIES",
        code::OTC => "UPDATE OTC",
        _ => "UPDATE unknown attribute",
    }
}

/// The Optional and Transitive bits a known attribute must have (RFC 4271 section 5).
fn expected_flags(kind: u8) -> Option<u8> {
    Some(match kind {
        code::ORIGIN | code::AS_PATH | code::NEXT_HOP | code::LOCAL_PREF | code::ATOMIC_AGGREGATE => TRANSITIVE,
        code::MED | code::ORIGINATOR_ID | code::CLUSTER_LIST | code::MP_REACH | code::MP_UNREACH => OPTIONAL,
        code::AGGREGATOR
        | code::COMMUNITIES
        | code::EXTENDED_COMMUNITIES
        | code::AS4_PATH
        | code::AS4_AGGREGATOR
        | code::LARGE_COMMUNITIES
        | code::OTC => OPTIONAL | TRANSITIVE,
        _ => return None,
    })
}

/// What the attributes of an UPDATE have said so far; the multiprotocol ones are `update`'s.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) origin: Option<OriginCode>,
    pub(super) as_path: Option<AsPath>,
    pub(super) next_hop: Option<Ipv4Addr>,
    pub(super) med: Option<u32>,
    pub(super) local_pref: Option<u32>,
    pub(super) atomic_aggregate: bool,
    pub(super) aggregator: Option<(Asn, Ipv4Addr)>,
    pub(super) communities: Vec<u32>,
    pub(super) extended: Vec<[u8; 8]>,
    pub(super) large: Vec<[u32; 3]>,
    pub(super) originator_id: Option<Ipv4Addr>,
    pub(super) cluster_list: Vec<Ipv4Addr>,
    pub(super) otc: Option<Asn>,
    pub(super) as4_path: Option<AsPath>,
    pub(super) as4_aggregator: Option<(Asn, Ipv4Addr)>,
    pub(super) unknown: Vec<Unknown>,
}

/// One attribute as found.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    pub(super) flags: u8,
    pub(super) kind: u8,
    pub(super) value: Cursor<'a>,
    /// Flags, type, length and value, for the data of a NOTIFICATION.
    pub(super) whole: &'a [u8],
}

impl Found<'_> {
    pub(super) fn withdraw(&self, reason: impl Into<String>) -> WireError {
        WireError::withdraw(self.value.offset(), path(self.kind), reason.into())
    }

    fn discard(&self, reason: impl Into<String>) -> WireError {
        WireError::discard(self.value.offset(), path(self.kind), reason.into())
    }

    pub(super) fn reset(&self, subcode: u8, reason: impl Into<String>) -> WireError {
        WireError::reset(self.value.offset(), path(self.kind), reason.into(), ((3, subcode), self.whole))
    }

    /// RFC 7606 section 3(c).
    pub(super) fn check_flags(&self) -> Result<(), WireError> {
        let given = self.flags & (OPTIONAL | TRANSITIVE);
        match expected_flags(self.kind) {
            Some(expected) if expected != given => {
                Err(self.withdraw(format!("flags 0x{given:02x} where 0x{expected:02x} is right")))
            }
            None if given & OPTIONAL == 0 => {
                Err(self.reset(2, format!("attribute {} claims to be well-known", self.kind)))
            }
            _ => Ok(()),
        }
    }

    fn fixed<const N: usize>(&self) -> Result<[u8; N], WireError> {
        let mut value = self.value;
        match value.array::<N>() {
            Ok(octets) if value.is_empty() => Ok(octets),
            _ => Err(self.withdraw(format!("{} octets where {N} are right", self.value.len()))),
        }
    }

    fn u32(&self) -> Result<u32, WireError> {
        self.fixed().map(u32::from_be_bytes)
    }

    fn list<const N: usize>(&self) -> Result<Vec<[u8; N]>, WireError> {
        let (items, left) = self.value.rest().as_chunks::<N>();
        if items.is_empty() || !left.is_empty() {
            return Err(self.withdraw(format!("{} octets: not a multiple of {N}", self.value.len())));
        }
        Ok(items.to_vec())
    }

    /// RFC 7606 section 7.7: a malformed AGGREGATOR is discarded.
    fn aggregator(&self, asn4: bool) -> Result<(Asn, Ipv4Addr), WireError> {
        let mut value = self.value;
        let mut read = || -> Result<_, Short> {
            let asn = if asn4 { value.u32()? } else { u32::from(value.u16()?) };
            Ok((Asn(asn), Ipv4Addr::from_bits(value.u32()?)))
        };
        match read() {
            Ok(aggregator) if value.is_empty() => Ok(aggregator),
            _ => Err(self.discard(format!("{} octets", self.value.len()))),
        }
    }

    fn as_path(&self, asn4: bool) -> Result<AsPath, WireError> {
        let mut value = self.value;
        let mut segments = Vec::new();
        let short = |_: Short| self.withdraw("a segment is cut short");
        while !value.is_empty() {
            let kind = match value.u8().map_err(short)? {
                1 => SegmentKind::Set,
                2 => SegmentKind::Sequence,
                // RFC 5065 section 5: we are in no confederation.
                3 | 4 => return Err(self.withdraw("a confederation segment from outside")),
                other => return Err(self.withdraw(format!("segment type {other}"))),
            };
            let count = value.u8().map_err(short)?;
            if count == 0 {
                return Err(self.withdraw("an empty segment"));
            }
            let mut asns = Vec::with_capacity(usize::from(count));
            for _ in 0..count {
                let asn = if asn4 { value.u32().map_err(short)? } else { u32::from(value.u16().map_err(short)?) };
                if asn == 0 {
                    return Err(self.withdraw("AS 0 (RFC 7607)"));
                }
                asns.push(Asn(asn));
            }
            segments.push(Segment { kind, asns });
        }
        Ok(AsPath(segments))
    }
}

impl Collected {
    /// Takes an attribute whose flags are right.
    pub(super) fn take(&mut self, found: &Found<'_>, context: &Context<'_>) -> Result<(), WireError> {
        let external = context.kind == PeerKind::External;
        match found.kind {
            // RFC 7606 sections 7.5, 7.9, 7.10.
            code::LOCAL_PREF | code::ORIGINATOR_ID | code::CLUSTER_LIST if external => {
                return Err(found.discard("not from an external peer"));
            }
            code::ORIGIN => {
                self.origin = Some(match found.fixed()? {
                    [0] => OriginCode::Igp,
                    [1] => OriginCode::Egp,
                    [2] => OriginCode::Incomplete,
                    [other] => return Err(found.withdraw(format!("value {other}"))),
                });
            }
            code::AS_PATH => {
                let as_path = found.as_path(context.asn4)?;
                if external && as_path.0.is_empty() {
                    return Err(found.withdraw("empty, from an external peer"));
                }
                self.as_path = Some(as_path);
            }
            code::NEXT_HOP => {
                let next_hop = Ipv4Addr::from(found.fixed::<4>()?);
                if !usable_v4(next_hop) {
                    return Err(found.withdraw(format!("{next_hop} is no host's address")));
                }
                self.next_hop = Some(next_hop);
            }
            code::MED => self.med = Some(found.u32()?),
            code::LOCAL_PREF => self.local_pref = Some(found.u32()?),
            code::ATOMIC_AGGREGATE => {
                if !found.value.is_empty() {
                    return Err(found.discard(format!("{} octets where none are right", found.value.len())));
                }
                self.atomic_aggregate = true;
            }
            code::AGGREGATOR => self.aggregator = Some(found.aggregator(context.asn4)?),
            code::COMMUNITIES => self.communities = found.list()?.into_iter().map(u32::from_be_bytes).collect(),
            code::ORIGINATOR_ID => self.originator_id = Some(Ipv4Addr::from(found.fixed::<4>()?)),
            code::CLUSTER_LIST => self.cluster_list = found.list::<4>()?.into_iter().map(Ipv4Addr::from).collect(),
            code::EXTENDED_COMMUNITIES => self.extended = found.list()?,
            code::LARGE_COMMUNITIES => {
                self.large = found.list::<12>()?.into_iter().map(large).collect();
            }
            // RFC 9234 section 5: a wrong length is treated as withdrawal.
            code::OTC => self.otc = Some(Asn(found.u32()?)),
            // RFC 6793 sections 4.1 and 6.
            code::AS4_PATH | code::AS4_AGGREGATOR if context.asn4 => {
                return Err(found.discard("from a speaker of 4-octet AS numbers"));
            }
            code::AS4_PATH => {
                let as4_path = found.as_path(true).map_err(|error| found.discard(error.reason))?;
                self.as4_path = Some(as4_path);
            }
            code::AS4_AGGREGATOR => self.as4_aggregator = Some(found.aggregator(true)?),
            kind if found.flags & TRANSITIVE != 0 => {
                self.unknown.push(Unknown { kind, value: found.value.rest().to_vec() });
            }
            // Unknown optional non-transitive: quietly ignored (RFC 4271 section 5).
            _ => {}
        }
        Ok(())
    }

    /// RFC 6793 section 4.2.3.
    pub(super) fn merge_as4(&mut self) {
        let (as4_path, as4_aggregator) = (self.as4_path.take(), self.as4_aggregator.take());
        if self.aggregator.is_some_and(|(asn, _)| asn != Asn::TRANS) {
            return;
        }
        if self.aggregator.is_some() && as4_aggregator.is_some() {
            self.aggregator = as4_aggregator;
        }
        if let (Some(two), Some(four)) = (self.as_path.take_if(|_| as4_path.is_some()), as4_path) {
            self.as_path = Some(two.merged(four));
        }
    }
}

fn large([a, b, c, d, e, f, g, h, i, j, k, l]: [u8; 12]) -> [u32; 3] {
    [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_be_bytes)
}

/// RFC 4271 section 6.3: whether a next hop can be a host's address at all.
pub(super) fn usable_v4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    !matches!(first, 0 | 127 | 224..)
}

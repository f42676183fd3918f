//! UPDATE (RFC 4271 section 4.3, 4760, 7606) and End-of-RIB (RFC 4724 section 2).

use super::attribute::{Collected, EXTENDED_LENGTH, Found, code, usable_v4};
use super::cursor::{Cursor, Short};
use super::nlri::{Nlri, PathIds};
use super::{HEADER_LEN, Outcome, WireError, family_of, nlri};
use crate::attributes::Attributes;
use lasthop_net::Family;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

/// Whether a peer is in our AS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerKind {
    Internal,
    External,
}

/// What decoding depends on beside the octets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    pub(crate) kind: PeerKind,
    pub(crate) asn4: bool,
    pub(crate) families: &'a BTreeSet<Family>,
    /// IPv4 prefixes may have IPv6 next hops (RFC 8950).
    pub(crate) extended_next_hop: bool,
    /// Families in which prefixes have path identifiers (RFC 7911).
    pub(crate) paths: &'a BTreeSet<Family>,
}

impl Context<'_> {
    fn ids(&self, family: Family) -> PathIds {
        if self.paths.contains(&family) { PathIds::Present } else { PathIds::Absent }
    }
}

/// What an UPDATE says, after RFC 7606 was applied to it. Families that were not negotiated are left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Update {
    /// Each with at least one prefix.
    pub(crate) announced: Vec<(Attributes, Vec<Nlri>)>,
    pub(crate) withdrawn: Vec<Nlri>,
    pub(crate) end_of_rib: Option<Family>,
    /// What was wrong short of a reset.
    pub(crate) problems: Vec<WireError>,
}

/// MP_REACH_NLRI of a family we know.
struct Reach {
    family: Family,
    next_hop: IpAddr,
    link_local: Option<Ipv6Addr>,
    prefixes: Vec<Nlri>,
}

/// What the attribute walk leaves beside [`Collected`].
#[derive(Default)]
struct Walk {
    collected: Collected,
    reach: Option<Reach>,
    unreach: Option<(Family, Vec<Nlri>)>,
    problems: Vec<WireError>,
}

impl Update {
    /// Decodes a body. An error always ends the session; everything milder is among the problems.
    pub(crate) fn parse(body: &[u8], context: &Context<'_>) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(body, HEADER_LEN);
        let malformed = |s: Short| {
            let reason = "the length of a part is more than what is left".to_owned();
            WireError::reset(s.offset, "UPDATE", reason, ((3, 1), []))
        };
        let len = cursor.u16().map_err(malformed)?;
        let withdrawn = cursor.sub(usize::from(len)).map_err(malformed)?;
        let len = cursor.u16().map_err(malformed)?;
        let attributes = cursor.sub(usize::from(len)).map_err(malformed)?;
        let network = |part: &'static str| {
            move |bad: nlri::BadPrefix| WireError::reset(bad.offset, part, bad.reason, ((3, 10), []))
        };
        let nothing_but = withdrawn.is_empty() && cursor.is_empty();
        let ids = context.ids(Family::V4);
        let withdrawn = nlri::parse(withdrawn, Family::V4, ids).map_err(network("UPDATE withdrawn routes"))?;
        let prefixes = nlri::parse(cursor, Family::V4, ids).map_err(network("UPDATE NLRI"))?;
        let walk = Walk::over(attributes, context)?;
        let end_of_rib = match &walk.unreach {
            _ if !nothing_but => None,
            None if attributes.is_empty() => Some(Family::V4),
            Some((family, gone)) if gone.is_empty() && walk.reach.is_none() => Some(*family),
            _ => None,
        };
        let mut update = walk.finish(prefixes, withdrawn, context);
        update.end_of_rib = end_of_rib.filter(|family| context.families.contains(family));
        Ok(update)
    }
}

impl Walk {
    /// RFC 7606 sections 3 and 4.
    fn over(mut cursor: Cursor<'_>, context: &Context<'_>) -> Result<Self, WireError> {
        let mut walk = Self::default();
        let mut seen = [false; 256];
        while !cursor.is_empty() {
            let start = cursor;
            let found = match next(&mut cursor) {
                Ok(found) => found,
                Err(short) => {
                    let reason = "an attribute is cut short".to_owned();
                    walk.problems.push(WireError::withdraw(short.offset, "UPDATE path attributes", reason));
                    break;
                }
            };
            if let Some(seen) = seen.get_mut(usize::from(found.kind))
                && std::mem::replace(seen, true)
            {
                if matches!(found.kind, code::MP_REACH | code::MP_UNREACH) {
                    return Err(WireError::reset(
                        start.offset(),
                        super::attribute::path(found.kind),
                        "comes twice".to_owned(),
                        ((3, 1), []),
                    ));
                }
                let (offset, path) = (start.offset(), super::attribute::path(found.kind));
                walk.problems.push(WireError::discard(offset, path, "comes twice".to_owned()));
                continue;
            }
            let judged = found.check_flags();
            let judged = match (found.kind, judged) {
                // Their prefixes are needed even when the flags are wrong.
                (code::MP_REACH, judged) => {
                    walk.reach = reach(&found, context)?;
                    if let Some(reach) = walk.reach.as_ref().filter(|reach| !usable(reach.next_hop)) {
                        let reason = format!("next hop {} is no host's address", reach.next_hop);
                        walk.problems.push(found.withdraw(reason));
                    }
                    judged
                }
                (code::MP_UNREACH, judged) => {
                    walk.unreach = unreach(&found, context)?;
                    judged
                }
                (_, Ok(())) => walk.collected.take(&found, context),
                (_, wrong) => wrong,
            };
            walk.problem(judged)?;
        }
        Ok(walk)
    }

    /// Keeps a problem; passes a reset on.
    fn problem<T>(&mut self, result: Result<T, WireError>) -> Result<Option<T>, WireError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if matches!(error.outcome, Outcome::Reset(_)) => Err(error),
            Err(error) => {
                self.problems.push(error);
                Ok(None)
            }
        }
    }

    /// RFC 7606 section 3(d): what must be there; then the strongest action decides (3(h)).
    fn finish(mut self, prefixes: Vec<Nlri>, mut withdrawn: Vec<Nlri>, context: &Context<'_>) -> Update {
        self.collected.merge_as4();
        let reach = self.reach.take().filter(|reach| context.families.contains(&reach.family));
        let announces = !prefixes.is_empty() || reach.as_ref().is_some_and(|reach| !reach.prefixes.is_empty());
        let internal = context.kind == PeerKind::Internal;
        if announces {
            for (missing, kind) in [
                (self.collected.origin.is_none(), code::ORIGIN),
                (self.collected.as_path.is_none(), code::AS_PATH),
                (self.collected.next_hop.is_none() && !prefixes.is_empty(), code::NEXT_HOP),
                (self.collected.local_pref.is_none() && internal, code::LOCAL_PREF),
            ] {
                let path = super::attribute::path(kind);
                let known = self.problems.iter().any(|p| p.path == path && p.outcome == Outcome::TreatAsWithdraw);
                if missing && !known {
                    self.problems.push(WireError::withdraw(HEADER_LEN + 4, path, "is missing".to_owned()));
                }
            }
        }
        let mut update = Update::default();
        let families = context.families;
        let v4 = families.contains(&Family::V4);
        withdrawn.retain(|_| v4);
        let gone = self.unreach.take().filter(|(family, _)| families.contains(family));
        withdrawn.extend(gone.into_iter().flat_map(|(_, prefixes)| prefixes));
        let bad = self.problems.iter().any(|problem| problem.outcome == Outcome::TreatAsWithdraw);
        if bad {
            withdrawn.extend(prefixes.into_iter().filter(|_| v4));
            withdrawn.extend(reach.into_iter().flat_map(|reach| reach.prefixes));
        } else {
            let plain = self.collected.next_hop.map(|hop| Reach {
                family: Family::V4,
                next_hop: hop.into(),
                link_local: None,
                prefixes,
            });
            let parts = [plain.filter(|_| v4), reach].into_iter().flatten().filter(|reach| !reach.prefixes.is_empty());
            update.announced = parts.map(|reach| (attributes_of(&self.collected, &reach), reach.prefixes)).collect();
        }
        update.withdrawn = withdrawn;
        update.problems = self.problems;
        update
    }
}

fn attributes_of(collected: &Collected, reach: &Reach) -> Attributes {
    Attributes {
        next_hop: reach.next_hop,
        link_local: reach.link_local,
        origin: collected.origin.unwrap_or_default(),
        as_path: collected.as_path.clone().unwrap_or_default(),
        med: collected.med,
        local_pref: collected.local_pref,
        atomic_aggregate: collected.atomic_aggregate,
        aggregator: collected.aggregator,
        communities: collected.communities.clone(),
        extended: collected.extended.clone(),
        large: collected.large.clone(),
        originator_id: collected.originator_id,
        cluster_list: collected.cluster_list.clone(),
        otc: collected.otc,
        unknown: collected.unknown.clone(),
    }
}

/// The next attribute.
fn next<'a>(cursor: &mut Cursor<'a>) -> Result<Found<'a>, Short> {
    let start = *cursor;
    let (flags, kind) = (cursor.u8()?, cursor.u8()?);
    let len = if flags & EXTENDED_LENGTH != 0 { cursor.u16()? } else { u16::from(cursor.u8()?) };
    let value = cursor.sub(usize::from(len))?;
    let whole = start.rest().get(..cursor.offset() - start.offset()).unwrap_or_default();
    Ok(Found { flags, kind, value, whole })
}

/// RFC 4760 section 3, RFC 2545 section 3. `None` for a family that is not ours.
fn reach(found: &Found<'_>, context: &Context<'_>) -> Result<Option<Reach>, WireError> {
    let mut value = found.value;
    let short = |_: Short| found.reset(9, format!("{} octets are too few", found.value.len()));
    let (afi, safi, len) = (value.u16().map_err(short)?, value.u8().map_err(short)?, value.u8().map_err(short)?);
    let mut hop = value.sub(usize::from(len)).map_err(short)?;
    value.u8().map_err(short)?;
    let Some(family) = family_of(afi, safi) else { return Ok(None) };
    let wrong = |_: Short| found.reset(9, format!("next hop of {len} octets for {family}"));
    let six = family == Family::V6 || context.extended_next_hop;
    let (next_hop, link_local) = match (family, len) {
        (Family::V4, 4) => (IpAddr::from(hop.array::<4>().map_err(wrong)?), None),
        (_, 16) if six => (IpAddr::from(hop.array::<16>().map_err(wrong)?), None),
        (_, 32) if six => {
            let (global, local) = (hop.array::<16>().map_err(wrong)?, hop.array::<16>().map_err(wrong)?);
            let (global, local) = (Ipv6Addr::from(global), Ipv6Addr::from(local));
            if global.is_unspecified() || global == local { (local.into(), None) } else { (global.into(), Some(local)) }
        }
        _ => return Err(wrong(Short { offset: 0 })),
    };
    let prefixes = nlri::parse(value, family, context.ids(family)).map_err(|bad| found.reset(9, bad.reason))?;
    Ok(Some(Reach { family, next_hop, link_local, prefixes }))
}

/// RFC 4271 section 6.3: whether a next hop can be a host's address at all.
fn usable(next_hop: IpAddr) -> bool {
    match next_hop {
        IpAddr::V4(hop) => usable_v4(hop),
        IpAddr::V6(hop) => {
            !hop.is_unspecified() && !hop.is_multicast() && !hop.is_loopback() && hop.to_ipv4_mapped().is_none()
        }
    }
}

/// RFC 4760 section 4.
fn unreach(found: &Found<'_>, context: &Context<'_>) -> Result<Option<(Family, Vec<Nlri>)>, WireError> {
    let mut value = found.value;
    let short = |_: Short| found.reset(9, format!("{} octets are too few", found.value.len()));
    let (afi, safi) = (value.u16().map_err(short)?, value.u8().map_err(short)?);
    let Some(family) = family_of(afi, safi) else { return Ok(None) };
    let prefixes = nlri::parse(value, family, context.ids(family)).map_err(|bad| found.reset(9, bad.reason))?;
    Ok(Some((family, prefixes)))
}

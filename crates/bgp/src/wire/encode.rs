//! Messages we send. UPDATEs are packed: prefixes with the same attributes share messages of up to 4096 octets
//! (RFC 4271 section 9.2.2.2); attributes are encoded once and used for every message and every peer of an update group.

use super::attribute::{EXTENDED_LENGTH, OPTIONAL, PARTIAL, TRANSITIVE, code};
use super::nlri::{Nlri, PathIds};
use super::{HEADER_LEN, MAX_LEN, MessageType, afi, begin, end, frame, nlri};
use crate::attributes::{AsPath, Attributes};
use lasthop_net::{Asn, Family};
use std::net::{IpAddr, Ipv6Addr};

/// How wide AS numbers are towards a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AsnWidth {
    Two,
    Four,
}

/// What attributes are encoded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Format {
    pub(crate) width: AsnWidth,
    /// The longest message the peer takes; used only where attributes do not fit into a usual one.
    pub(crate) longest: usize,
    pub(crate) ids: PathIds,
}

/// Encoded attributes, all but MP_REACH_NLRI.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AttributeBlock {
    /// Of the prefixes that it is for.
    family: Family,
    longest: usize,
    ids: PathIds,
    pub(crate) next_hop: IpAddr,
    link_local: Option<Ipv6Addr>,
    /// In ascending order of type; with NEXT_HOP if it and the prefixes are IPv4.
    octets: Box<[u8]>,
}

impl AttributeBlock {
    /// Encodes attributes as they are to be sent.
    pub(crate) fn encode(attributes: &Attributes, family: Family, Format { width, longest, ids }: Format) -> Self {
        let mut out = Vec::with_capacity(64);
        put(&mut out, TRANSITIVE, code::ORIGIN, &[attributes.origin as u8]);
        let two_octets = width == AsnWidth::Two;
        put(&mut out, TRANSITIVE, code::AS_PATH, &as_path(&attributes.as_path, width));
        if let IpAddr::V4(hop) = attributes.next_hop {
            put(&mut out, TRANSITIVE, code::NEXT_HOP, &hop.octets());
        }
        if let Some(med) = attributes.med {
            put(&mut out, OPTIONAL, code::MED, &med.to_be_bytes());
        }
        if let Some(local_pref) = attributes.local_pref {
            put(&mut out, TRANSITIVE, code::LOCAL_PREF, &local_pref.to_be_bytes());
        }
        if attributes.atomic_aggregate {
            put(&mut out, TRANSITIVE, code::ATOMIC_AGGREGATE, &[]);
        }
        if let Some((asn, id)) = attributes.aggregator {
            let mut value = asn_octets(asn, width);
            value.extend(id.octets());
            put(&mut out, OPTIONAL | TRANSITIVE, code::AGGREGATOR, &value);
        }
        let lists = OPTIONAL | TRANSITIVE;
        put_list(&mut out, (lists, code::COMMUNITIES), attributes.communities.iter().flat_map(|c| c.to_be_bytes()));
        if let Some(id) = attributes.originator_id {
            put(&mut out, OPTIONAL, code::ORIGINATOR_ID, &id.octets());
        }
        put_list(&mut out, (OPTIONAL, code::CLUSTER_LIST), attributes.cluster_list.iter().flat_map(|id| id.octets()));
        put_list(&mut out, (lists, code::EXTENDED_COMMUNITIES), attributes.extended.iter().copied().flatten());
        if two_octets && attributes.as_path.asns().any(is_wide) {
            put(&mut out, lists, code::AS4_PATH, &as_path(&attributes.as_path, AsnWidth::Four));
        }
        if let Some((asn, id)) = attributes.aggregator.filter(|(asn, _)| two_octets && is_wide(*asn)) {
            let mut value = asn_octets(asn, AsnWidth::Four);
            value.extend(id.octets());
            put(&mut out, lists, code::AS4_AGGREGATOR, &value);
        }
        let large = attributes.large.iter().flatten().flat_map(|part| part.to_be_bytes());
        put_list(&mut out, (lists, code::LARGE_COMMUNITIES), large);
        if let Some(asn) = attributes.otc {
            put(&mut out, lists, code::OTC, &asn.0.to_be_bytes());
        }
        for unknown in &attributes.unknown {
            put(&mut out, OPTIONAL | TRANSITIVE | PARTIAL, unknown.kind, &unknown.value);
        }
        let (next_hop, link_local) = (attributes.next_hop, attributes.link_local);
        Self { family, longest, ids, next_hop, link_local, octets: out.into() }
    }

    /// How many octets of prefixes fit into a message beside these attributes.
    fn room(&self) -> usize {
        // Lengths of withdrawn routes and attributes; MP_REACH_NLRI has a header of 4 + 4, next hop, reserved.
        let reach = match self.next_hop {
            IpAddr::V4(_) => 0,
            IpAddr::V6(_) => 4 + 4 + self.hop_len() + 1,
        };
        let taken = HEADER_LEN + 4 + self.octets.len() + reach;
        let usual = MAX_LEN.saturating_sub(taken);
        if usual >= LONGEST_PREFIX { usual } else { self.longest.saturating_sub(taken) }
    }

    fn hop_len(&self) -> usize {
        if self.link_local.is_some() { 32 } else { 16 }
    }

    /// The attributes as a table dump has them (RFC 6396 section 4.3.4): of MP_REACH_NLRI only the next hop.
    pub(crate) fn table_octets(&self) -> Vec<u8> {
        let mut octets = self.octets.to_vec();
        if let IpAddr::V6(hop) = self.next_hop {
            let hop = lasthop_net::scoped::link_of(hop).0.octets();
            let mut value = vec![u8::try_from(self.hop_len()).unwrap_or(0)];
            value.extend(hop);
            value.extend(self.link_local.iter().flat_map(Ipv6Addr::octets));
            put(&mut octets, OPTIONAL, code::MP_REACH, &value);
        }
        octets
    }

    /// Whether any prefix fits beside these attributes.
    pub(crate) fn fits(&self) -> bool {
        self.room() >= LONGEST_PREFIX
    }
}

/// Octets of an IPv6 host route with path identifier and length.
const LONGEST_PREFIX: usize = 21;

fn is_wide(asn: Asn) -> bool {
    asn.0 > u32::from(u16::MAX)
}

fn asn_octets(asn: Asn, width: AsnWidth) -> Vec<u8> {
    match width {
        AsnWidth::Four => asn.0.to_be_bytes().to_vec(),
        AsnWidth::Two => u16::try_from(asn.0).unwrap_or(23456).to_be_bytes().to_vec(),
    }
}

fn as_path(path: &AsPath, width: AsnWidth) -> Vec<u8> {
    let mut out = Vec::new();
    for segment in &path.0 {
        for part in segment.asns.chunks(255) {
            out.extend([segment.kind as u8, u8::try_from(part.len()).unwrap_or(u8::MAX)]);
            part.iter().for_each(|asn| out.extend(asn_octets(*asn, width)));
        }
    }
    out
}

fn put(out: &mut Vec<u8>, flags: u8, kind: u8, value: &[u8]) {
    match u8::try_from(value.len()) {
        Ok(len) => out.extend([flags, kind, len]),
        Err(_) => {
            out.extend([flags | EXTENDED_LENGTH, kind]);
            out.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    out.extend(value);
}

fn put_list(out: &mut Vec<u8>, (flags, kind): (u8, u8), items: impl Iterator<Item = u8>) {
    let value: Vec<u8> = items.collect();
    if !value.is_empty() {
        put(out, flags, kind, &value);
    }
}

/// Cuts prefixes into runs that take at most `room` octets each, and hands each on encoded.
fn runs((prefixes, ids): (&[Nlri], PathIds), room: usize, mut take: impl FnMut(&[u8])) {
    let mut octets = Vec::with_capacity(room.min(prefixes.len() * LONGEST_PREFIX));
    for prefix in prefixes {
        if octets.len() + nlri::encoded_len(*prefix, ids) > room {
            take(&octets);
            octets.clear();
        }
        nlri::encode(*prefix, ids, &mut octets);
    }
    if !octets.is_empty() {
        take(&octets);
    }
}

/// Appends an UPDATE whose body is what `write` appends.
fn update(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    begin(MessageType::Update, out);
    write(out);
    end(start, out);
}

/// Appends UPDATEs that announce prefixes of the block's family; how many. None if the attributes alone fill a message.
pub(crate) fn pack_reach(block: &AttributeBlock, prefixes: &[Nlri], out: &mut Vec<u8>) -> u64 {
    let mut messages = 0;
    if !block.fits() {
        return messages;
    }
    runs((prefixes, block.ids), block.room(), |run| {
        messages += 1;
        update(out, |out| {
            out.extend([0, 0]);
            match block.next_hop {
                IpAddr::V4(_) => {
                    out.extend(len16(block.octets.len()));
                    out.extend(&block.octets);
                    out.extend(run);
                }
                IpAddr::V6(hop) => {
                    let value = 4 + block.hop_len() + 1 + run.len();
                    out.extend(len16(block.octets.len() + 4 + value));
                    // RFC 7606 section 5.1: MP_REACH_NLRI first.
                    out.extend([OPTIONAL | EXTENDED_LENGTH, code::MP_REACH]);
                    out.extend(len16(value));
                    out.extend(afi(block.family).to_be_bytes());
                    out.extend([1, u8::try_from(block.hop_len()).unwrap_or(0)]);
                    out.extend(hop.octets());
                    out.extend(block.link_local.iter().flat_map(Ipv6Addr::octets));
                    out.push(0);
                    out.extend(run);
                    out.extend(&block.octets);
                }
            }
        });
    });
    messages
}

/// Appends UPDATEs that withdraw prefixes of one family; how many.
pub(crate) fn pack_withdraw((family, ids): (Family, PathIds), prefixes: &[Nlri], out: &mut Vec<u8>) -> u64 {
    let mut messages = 0;
    runs((prefixes, ids), MAX_LEN - HEADER_LEN - 4 - 7, |run| {
        messages += 1;
        withdraw(family, run, out);
    });
    messages
}

fn withdraw(family: Family, run: &[u8], out: &mut Vec<u8>) {
    update(out, |out| match family {
        Family::V4 => {
            out.extend(len16(run.len()));
            out.extend(run);
            out.extend([0, 0]);
        }
        Family::V6 => {
            out.extend([0, 0]);
            out.extend(len16(run.len() + 7));
            out.extend([OPTIONAL | EXTENDED_LENGTH, code::MP_UNREACH]);
            out.extend(len16(run.len() + 3));
            out.extend(afi(family).to_be_bytes());
            out.push(1);
            out.extend(run);
        }
    });
}

/// RFC 4724 section 2: a withdrawal of nothing.
pub(crate) fn end_of_rib(family: Family) -> Vec<u8> {
    let mut out = Vec::new();
    withdraw(family, &[], &mut out);
    out
}

pub(crate) fn keepalive() -> Vec<u8> {
    frame(MessageType::Keepalive, &[])
}

fn len16(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes()
}

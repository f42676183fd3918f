//! The tables as an MRT file: TABLE_DUMP_V2 of RFC 6396 section 4.3, with path identifiers (RFC 8050) where a prefix has
//! paths that carry some. Paths are as the import policy left them; those that are refused are left out.
//!
//! A dump is made in parts, so that who makes it can do other things in between: each prefix is as it stood when its part
//! was made. The first peer of the index is the speaker itself, for own routes. A path has no time of its own; it is given
//! the time at which its peer's session came up.

use crate::peer::PeerId;
use crate::speaker::Speaker;
use crate::wire::AttributeBlock;
use crate::wire::{AsnWidth, Format, MAX_EXTENDED_LEN, nlri::PathIds};
use lasthop_net::{Family, Prefix};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

const TABLE_DUMP_V2: u16 = 13;
const PEER_INDEX_TABLE: u16 = 1;
/// Prefixes in one part.
const PART: usize = 1024;

/// A dump that is being made.
#[derive(Debug)]
pub struct MrtDump {
    /// Seconds since 1970, and the same moment on the speaker's clock.
    time: (u32, Instant),
    /// Each peer's place in the index, and when its session came up.
    peers: BTreeMap<PeerId, (u16, u32)>,
    next: Next,
    sequence: u32,
    paths: usize,
}

#[derive(Debug)]
enum Next {
    Index,
    After(Family, Option<Prefix>),
    End,
}

impl MrtDump {
    /// A dump begun at this time, in seconds since 1970 and on the speaker's clock.
    #[must_use]
    pub fn new(time: u32, now: Instant) -> Self {
        Self { time: (time, now), peers: BTreeMap::new(), next: Next::Index, sequence: 0, paths: 0 }
    }

    /// Prefixes and paths written so far.
    #[must_use]
    pub fn written(&self) -> (u32, usize) {
        (self.sequence, self.paths)
    }

    /// The next part, to be appended to the file; `None` at the end.
    pub fn part(&mut self, speaker: &Speaker) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match self.next {
            Next::End => return None,
            Next::Index => {
                self.index(speaker, &mut out);
                self.next = Next::After(Family::V4, None);
            }
            Next::After(family, after) => {
                let rows = speaker.rows(family, after, PART);
                let last = rows.last().map(|row| row.prefix);
                for row in &rows {
                    self.row(row, &mut out);
                }
                self.next = match (family, rows.len() < PART) {
                    (_, false) => Next::After(family, last),
                    (Family::V4, true) => Next::After(Family::V6, None),
                    (Family::V6, true) => Next::End,
                };
            }
        }
        Some(out)
    }

    fn record(&self, subtype: u16, body: &[u8], out: &mut Vec<u8>) {
        out.extend(self.time.0.to_be_bytes());
        out.extend(TABLE_DUMP_V2.to_be_bytes());
        out.extend(subtype.to_be_bytes());
        out.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend(body);
    }

    fn index(&mut self, speaker: &Speaker, out: &mut Vec<u8>) {
        let (time, now) = self.time;
        let mut sources = speaker.sources();
        sources.truncate(usize::from(u16::MAX));
        let mut body = sources.first().map_or(Ipv4Addr::UNSPECIFIED, |own| own.router_id).octets().to_vec();
        // No name of a view.
        body.extend([0, 0]);
        body.extend(u16::try_from(sources.len()).unwrap_or(u16::MAX).to_be_bytes());
        for (place, source) in (0u16..).zip(&sources) {
            let age = u32::try_from(now.saturating_duration_since(source.since).as_secs()).unwrap_or(u32::MAX);
            self.peers.insert(source.id, (place, time.saturating_sub(age)));
            // Bit 1: the AS takes four octets; bit 0: the address is IPv6.
            body.push(2 | u8::from(source.address.is_ipv6()));
            body.extend(source.router_id.octets());
            match source.address {
                IpAddr::V4(address) => body.extend(address.octets()),
                IpAddr::V6(address) => body.extend(address.octets()),
            }
            body.extend(source.asn.0.to_be_bytes());
        }
        self.record(PEER_INDEX_TABLE, &body, out);
    }

    fn row(&mut self, row: &crate::speaker::Row, out: &mut Vec<u8>) {
        let family = row.prefix.family();
        let ids = row.paths.iter().any(|path| path.id != 0);
        let mut entries = Vec::new();
        let mut count = 0u16;
        for path in &row.paths {
            let Some((place, since)) = self.peers.get(&path.source) else { continue };
            let format = Format { width: AsnWidth::Four, longest: MAX_EXTENDED_LEN, ids: PathIds::Absent };
            let attributes = AttributeBlock::encode(&path.attributes, family, format).table_octets();
            let Ok(length) = u16::try_from(attributes.len()) else { continue };
            let Some(more) = count.checked_add(1) else { break };
            count = more;
            entries.extend(place.to_be_bytes());
            entries.extend(since.to_be_bytes());
            if ids {
                entries.extend(path.id.to_be_bytes());
            }
            entries.extend(length.to_be_bytes());
            entries.extend(attributes);
        }
        if count == 0 {
            return;
        }
        let mut body = self.sequence.to_be_bytes().to_vec();
        crate::wire::nlri::encode(row.prefix.into(), PathIds::Absent, &mut body);
        body.extend(count.to_be_bytes());
        body.extend(entries);
        let subtype = match (family, ids) {
            (Family::V4, false) => 2,
            (Family::V6, false) => 4,
            (Family::V4, true) => 8,
            (Family::V6, true) => 10,
        };
        self.record(subtype, &body, out);
        self.sequence += 1;
        self.paths += usize::from(count);
    }
}

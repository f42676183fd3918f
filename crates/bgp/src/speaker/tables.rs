//! The tables for those who copy them (MRT, BMP, recordings): prefix after prefix, in parts.

use super::Speaker;
use crate::attributes::Attributes;
use crate::peer::PeerId;
use lasthop_net::{Asn, Family, Prefix};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

/// Where paths come from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) id: PeerId,
    /// Unspecified for own routes.
    pub(crate) address: IpAddr,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) asn: Asn,
    /// Since when there can be paths from it.
    pub(crate) since: Instant,
}

/// A prefix with its paths.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) prefix: Prefix,
    pub(crate) paths: Vec<RowPath>,
}

/// A path that may be used.
#[derive(Clone, Debug)]
pub(crate) struct RowPath {
    pub(crate) source: PeerId,
    /// As its peer numbers it (RFC 7911).
    pub(crate) id: u32,
    pub(crate) attributes: Arc<Attributes>,
}

impl Speaker {
    /// Ourselves, then all who told us something in this life.
    pub(crate) fn sources(&self) -> Vec<Origin> {
        let own = Origin {
            id: PeerId::LOCAL,
            address: Ipv4Addr::UNSPECIFIED.into(),
            router_id: self.config.router_id,
            asn: self.config.asn,
            since: self.started,
        };
        let peers = self.by_address.iter().filter_map(|(address, id)| {
            let (source, peer) = (self.table.sources.get(id)?, self.peers.get(id)?);
            Some(Origin {
                id: *id,
                address: *address,
                router_id: source.router_id,
                asn: peer.config.asn,
                since: peer.since,
            })
        });
        std::iter::once(own).chain(peers).collect()
    }

    /// The next prefixes of a family after one, with their own route and the paths that are not refused.
    pub(crate) fn rows(&self, family: Family, after: Option<Prefix>, most: usize) -> Vec<Row> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = self.table.entries.range((from, Bound::Unbounded));
        let entries = entries.filter(|(prefix, _)| prefix.family() == family).take(most);
        let row = |(prefix, entry): (&Prefix, &crate::rib::table::Entry)| {
            let own = entry.own.iter().map(|own| RowPath { source: PeerId::LOCAL, id: 0, attributes: Arc::clone(own) });
            let usable = entry.paths.iter().filter(|path| path.refusal.is_none());
            let learned = usable.map(|path| RowPath {
                source: path.source,
                id: path.id,
                attributes: Arc::clone(&path.attributes),
            });
            Row { prefix: *prefix, paths: own.chain(learned).collect() }
        };
        entries.map(row).collect()
    }
}

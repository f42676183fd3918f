//! The tables for those who copy them (MRT, BMP, recordings): prefix after prefix, in parts.

use super::Speaker;
use crate::api::{ConnId, Output};
use crate::attributes::Attributes;
use crate::bmp::{self, Clock, told_update};
use crate::peer::{Peer, PeerId};
use crate::session::Connection;
use crate::wire::nlri::{Nlri, PathIds};
use crate::wire::update::Update;
use crate::wire::{Outcome, end_of_rib, keepalive, one_by_one, pack_withdraw};
use lasthop_net::{Asn, Family, Prefix};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

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
        let entries = self.table.entries.after(family, after).take(most);
        let row = |(prefix, entry): (Prefix, &crate::rib::table::Entry)| {
            let own = entry.own.iter().map(|own| RowPath { source: PeerId::LOCAL, id: 0, attributes: Arc::clone(own) });
            let usable = entry.paths.iter().filter(|path| path.refusal.is_none());
            let learned = usable.map(|path| RowPath {
                source: path.source,
                id: path.id,
                attributes: Arc::clone(&path.attributes),
            });
            Row { prefix, paths: own.chain(learned).collect() }
        };
        entries.map(row).collect()
    }

    /// Tells a monitoring station of sessions and routes from now on, as [`Output::Monitor`]; `None`: no longer.
    /// To begin with it is told [`initiation`](crate::initiation) and a [`BmpTable`](crate::BmpTable).
    pub fn monitor(&mut self, clock: Option<Clock>) {
        self.monitor = clock;
    }

    /// A time on the speaker's clock as stations want it.
    pub(crate) fn wall(&self, then: Instant) -> Duration {
        self.monitor.map(|clock| clock.of(then)).unwrap_or_default()
    }

    /// The sessions that are up.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = (&Peer, &Connection)> {
        self.peers.values().filter_map(|peer| Some((peer, peer.established()?)))
    }

    /// The session with a peer, if it is up.
    pub(crate) fn session(&self, id: PeerId) -> Option<(&Peer, &Connection)> {
        let peer = self.peers.get(&id)?;
        Some((peer, peer.established()?))
    }

    /// What peers said of the next prefixes of a family after one, before any policy, each path in an UPDATE as it could
    /// have come in its session; and the last of these prefixes, if there may be more.
    pub(crate) fn told_rows(
        &self,
        family: Family,
        after: Option<Prefix>,
        most: usize,
    ) -> (Vec<(PeerId, Vec<u8>)>, Option<Prefix>) {
        let (mut told, mut last, mut seen) = (Vec::new(), None, 0);
        for (prefix, entry) in self.table.entries.after(family, after).take(most) {
            seen += 1;
            last = Some(prefix);
            for path in entry.paths.iter() {
                let Some((peer, connection)) = self.session(path.source) else { continue };
                let nlri = Nlri { prefix, id: path.id };
                let attributes = peer.told.get(&nlri).unwrap_or(&path.attributes);
                told.extend(told_update((attributes, nlri), connection).map(|update| (path.source, update)));
            }
        }
        (told, last.filter(|_| seen == most))
    }

    /// Each session that is up: its connection, the peer's address, ours, and all that the peer has said as it could have
    /// come: its OPEN, a KEEPALIVE, its routes, and End-of-RIB where that came.
    #[must_use]
    pub fn sessions_as_said(&self) -> Vec<(ConnId, IpAddr, IpAddr, Vec<u8>)> {
        let mut said: BTreeMap<PeerId, Vec<u8>> = BTreeMap::new();
        for family in Family::ALL {
            let (updates, _) = self.told_rows(family, None, usize::MAX);
            for (id, update) in updates {
                said.entry(id).or_default().extend(update);
            }
        }
        let sessions = self.peers.iter().filter_map(|(id, peer)| Some((id, peer, peer.established()?)));
        let whole = |(id, peer, connection): (&PeerId, &Peer, &Connection)| {
            let mut octets = connection.their_open().to_vec();
            octets.extend(keepalive());
            octets.extend(said.get(id).into_iter().flatten());
            peer.end_of_rib.iter().for_each(|family| octets.extend(end_of_rib(*family)));
            (connection.id, peer.config.address, connection.local, octets)
        };
        sessions.map(whole).collect()
    }

    /// Tells the station of a session that is up.
    pub(super) fn monitor_up(&mut self, now: Instant, id: PeerId) {
        let (Some(clock), Some((peer, connection))) = (self.monitor, self.session(id)) else { return };
        let message = bmp::peer_up(peer, connection, clock.of(now));
        self.outputs.push_back(Output::Monitor(message));
    }

    /// Tells the station of an UPDATE.
    pub(super) fn monitor_update(&mut self, now: Instant, (id, conn): (PeerId, ConnId), update: &Update) {
        let Some(clock) = self.monitor else { return };
        let Some((peer, connection)) = self.session(id).filter(|(_, connection)| connection.id == conn) else { return };
        let time = clock.of(now);
        let updates = if update.problems.iter().any(|problem| problem.outcome == Outcome::TreatAsWithdraw) {
            let of = |family: Family| {
                let prefixes: Vec<Nlri> =
                    update.withdrawn.iter().filter(|nlri| nlri.family() == family).copied().collect();
                let ids = connection.agreed().is_some_and(|agreed| agreed.paths_in.contains(&family));
                let mut gone = Vec::new();
                pack_withdraw((family, if ids { PathIds::Present } else { PathIds::Absent }), &prefixes, &mut gone);
                one_by_one(&gone)
            };
            Family::ALL.into_iter().flat_map(of).collect()
        } else {
            vec![connection.last_message().to_vec()]
        };
        let messages: Vec<Vec<u8>> =
            updates.iter().map(|update| bmp::route_monitoring(peer, connection, (update, time))).collect();
        self.outputs.extend(messages.into_iter().map(Output::Monitor));
    }
}

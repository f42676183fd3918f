//! What an operator can ask.

use super::Speaker;
use crate::peer::{Helping, Peer, PeerId};
use crate::policy::{Blocked, Policy};
use crate::reason::{NotAdvertised, Refusal};
use crate::report::{
    AdvertisedReport, NegotiatedReport, PathReport, PathSource, PathVerdict, PeerCounters, PeerState, PeerStatus,
    RestartStatus, WhyReport,
};
use crate::rib::decision::choose;
use crate::rib::export::export;
use crate::rib::table::{Entry, Freshness, Path, outcome};
use crate::session::Agreed;
use crate::wire::AsnWidth;
use crate::wire::update::PeerKind;
use lasthop_net::{NextHops, Prefix};
use std::collections::BTreeMap;
use std::net::IpAddr;

impl Speaker {
    /// All peers, by address.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        let peers = self.by_address.values().filter_map(|id| Some((*id, self.peers.get(id)?)));
        peers.map(|(id, peer)| self.peer_status(id, peer)).collect()
    }

    /// One peer.
    #[must_use]
    pub fn peer(&self, address: IpAddr) -> Option<PeerStatus> {
        let id = *self.by_address.get(&address.to_canonical())?;
        self.peers.get(&id).map(|peer| self.peer_status(id, peer))
    }

    /// The longest prefix we know that covers this one, and is another.
    fn covering(&self, prefix: Prefix) -> Option<Prefix> {
        let shorter = (0..prefix.len()).rev().filter_map(|len| Prefix::new(prefix.address(), len));
        shorter.into_iter().find(|shorter| self.table.outcome(*shorter).best.is_some())
    }

    fn peer_status(&self, id: PeerId, peer: &Peer) -> PeerStatus {
        let connection = peer.established();
        let agreed = connection.and_then(|connection| connection.agreed());
        let waits = agreed.is_some_and(|agreed| !agreed.families.is_subset(&peer.end_of_rib));
        PeerStatus {
            address: peer.config.address,
            asn: peer.config.asn,
            local_asn: peer.config.local_asn.unwrap_or(self.config.asn),
            state: peer.state(),
            since: peer.since,
            last_error: peer.last_error(),
            local_address: connection.map(|connection| connection.local),
            negotiated: agreed.map(negotiated),
            prefixes_in: peer.prefixes.len(),
            prefixes_out: self.group_of(id).map_or(0, |group| group.shown_to(id)),
            prefixes_refused: peer.refused,
            prefixes_stale: peer.stale,
            restart: match peer.helping {
                Helping::Away { until, .. } => RestartStatus::PeerAway { until },
                Helping::LongLived(ref until) => {
                    RestartStatus::LongLived { until: until.values().max().copied().unwrap_or(peer.since) }
                }
                Helping::Back { .. } => RestartStatus::AwaitingEndOfRib,
                Helping::No if self.restart.is_deferring() && waits => RestartStatus::Deferring,
                Helping::No => RestartStatus::None,
            },
            bfd: peer.liveness,
            notes: self.notes(peer),
            counters: PeerCounters {
                messages_out: peer.counters.messages_out + peer.counters.updates_out,
                ..peer.counters
            },
            endings: peer.endings.clone(),
        }
    }

    fn notes(&self, peer: &Peer) -> Vec<String> {
        let mut notes = Vec::new();
        if peer.kind(self.config.asn) == PeerKind::External {
            let missing = |policy: &Policy| *policy == Policy::Missing;
            if missing(&peer.config.import) {
                notes.push("no import policy: nothing is accepted from it (RFC 8212)".to_owned());
            }
            if missing(&peer.config.export) {
                notes.push("no export policy: nothing is advertised to it (RFC 8212)".to_owned());
            }
        }
        for (family, limit) in peer.config.limits.iter().filter(|(family, _)| peer.warned.contains(family)) {
            notes.push(format!("{} prefixes of {family}, of {} it may announce", peer.count(*family), limit.max));
        }
        notes
    }

    /// All paths, or those to one prefix; of one prefix the best first.
    #[must_use]
    pub fn paths(&self, filter: Option<Prefix>) -> Vec<PathReport> {
        let reports = |(prefix, entry): (Prefix, &Entry)| self.entry_paths(prefix, entry);
        match filter {
            Some(prefix) => self.table.entries.get(prefix).map(|entry| reports((prefix, entry))).unwrap_or_default(),
            None => self.table.entries.iter().flat_map(reports).collect(),
        }
    }

    fn entry_paths(&self, prefix: Prefix, entry: &Entry) -> Vec<PathReport> {
        let mut losses = BTreeMap::new();
        let sources = &self.table.sources;
        let choice = choose(
            &entry.paths,
            |id| sources.get(&id),
            |place, loss| {
                losses.insert(place, loss);
            },
        );
        let own = entry.own.iter().map(|attributes| PathReport {
            prefix,
            from: PathSource::Local,
            next_hop: attributes.next_hop,
            attributes: attributes.words(),
            stale: false,
            verdict: PathVerdict::Best,
        });
        let learned = entry.paths.iter().enumerate().map(|(place, path)| PathReport {
            prefix,
            from: self.peers.get(&path.source).map_or(PathSource::Local, |p| PathSource::Peer(p.config.address)),
            next_hop: path.attributes.next_hop,
            attributes: path.attributes.words(),
            stale: path.freshness == Freshness::Stale,
            verdict: match (path.refusal, losses.get(&place)) {
                (Some(Refusal::Policy), _) => PathVerdict::Filtered(self.rule_name(prefix, path)),
                (Some(refusal), _) => PathVerdict::Refused(refusal),
                _ if choice.best == Some(place) => PathVerdict::Best,
                _ if choice.equal.contains(&place) => PathVerdict::Multipath,
                (None, Some(loss)) => PathVerdict::Lost(*loss),
                // Not reached: what neither won nor is equal has lost somewhere.
                (None, None) => PathVerdict::Multipath,
            },
        });
        let mut reports: Vec<PathReport> = own.chain(learned).collect();
        reports.sort_by_key(|report| match report.verdict {
            PathVerdict::Best if report.from == PathSource::Local => 0,
            PathVerdict::Best => 1,
            PathVerdict::Multipath => 2,
            PathVerdict::Lost(_) => 3,
            PathVerdict::Refused(_) | PathVerdict::Filtered(_) => 4,
        });
        if entry.own.is_some() {
            for report in reports.iter_mut().skip(1).filter(|r| r.verdict == PathVerdict::Best) {
                report.verdict = PathVerdict::Lost(crate::reason::Loss::OwnRoute);
            }
        }
        reports
    }

    /// The rule of the import policy that rejects a path.
    fn rule_name(&self, prefix: Prefix, path: &Path) -> String {
        let Some(peer) = self.peers.get(&path.source) else { return String::new() };
        let kind = peer.kind(self.config.asn);
        match peer.config.import.judge(kind, prefix, (&path.attributes, Some(kind))) {
            Err(Blocked::Rule(rule)) => peer.config.import.name(rule).to_owned(),
            _ => "no rule accepts it".to_owned(),
        }
    }

    /// The best learned paths to a prefix, as last told by [`Output::Learned`](crate::Output::Learned).
    #[must_use]
    pub fn learned(&self, prefix: Prefix) -> NextHops {
        if self.restart.is_deferring() { NextHops::default() } else { self.table.outcome(prefix).next_hops }
    }

    /// Every prefix that [`Speaker::learned`] has next hops for.
    pub fn all_learned(&self) -> impl Iterator<Item = Prefix> + '_ {
        let told = !self.restart.is_deferring();
        let entries = self.table.entries.iter().filter(move |_| told);
        let learned = entries.filter(|(_, entry)| !outcome(entry, &self.table.sources).next_hops.is_empty());
        learned.map(|(prefix, _)| prefix)
    }

    /// Everything about one prefix.
    #[must_use]
    pub fn why(&self, prefix: Prefix) -> WhyReport {
        let outcome = self.table.outcome(prefix);
        let advertised = self
            .by_address
            .iter()
            .map(|(address, id)| AdvertisedReport { peer: *address, outcome: self.advertised(prefix, *id) });
        WhyReport {
            prefix,
            paths: self.paths(Some(prefix)),
            advertised: advertised.collect(),
            covered_by: self.covering(prefix),
            next_hops: if self.restart.is_deferring() { Vec::new() } else { outcome.next_hops.to_vec() },
        }
    }

    fn advertised(&self, prefix: Prefix, id: PeerId) -> Result<IpAddr, NotAdvertised> {
        let peer = self.peers.get(&id).ok_or(NotAdvertised::NotEstablished)?;
        if peer.state() != PeerState::Established {
            return Err(NotAdvertised::NotEstablished);
        }
        let group = self.group_of(id).ok_or(NotAdvertised::NotEstablished)?;
        let (attributes, from) = self.table.outcome(prefix).best.ok_or_else(|| match self.covering(prefix) {
            Some(wider) => NotAdvertised::Covered(wider),
            None => NotAdvertised::NoPath,
        })?;
        if from == id {
            return Err(NotAdvertised::LearnedFromIt);
        }
        let source = self.table.sources.get(&from);
        let judged = group.view.judge(prefix, &attributes, source);
        let sent = export((&attributes, prefix.family()), source, (&group.view, &judged), self.cluster_id())?;
        if group.holds_back(from) {
            return Err(NotAdvertised::Deferred);
        }
        let (shown, lags) = (group.shows(prefix), peer.owed.place().is_some() || !peer.owed.prefixes.is_empty());
        match shown {
            false => Err(NotAdvertised::TooLong),
            true if peer.owed.congested.is_some() && lags => Err(NotAdvertised::Queued),
            true => Ok(sent.next_hop),
        }
    }
}

fn negotiated(agreed: &Agreed) -> NegotiatedReport {
    let mut capabilities = Vec::new();
    let mut has = |words: &str, there: bool| {
        if there {
            capabilities.push(words.to_owned());
        }
    };
    has("4-octet AS", agreed.width == AsnWidth::Four);
    has("route refresh", agreed.route_refresh);
    has("enhanced route refresh", agreed.enhanced_refresh);
    has("extended messages", agreed.extended_message);
    has("graceful restart", agreed.graceful_restart.is_some());
    has("graceful restart on NOTIFICATION", agreed.notification);
    has("long-lived graceful restart", agreed.long_lived.is_some());
    has("several paths from it", !agreed.paths_in.is_empty());
    has("several paths to it", !agreed.paths_out.is_empty());
    has("IPv6 next hops for IPv4", agreed.extended_next_hop);
    NegotiatedReport {
        router_id: agreed.router_id,
        families: agreed.families.iter().copied().collect(),
        hold_time: agreed.hold_time.unwrap_or_default(),
        capabilities,
        graceful_restart: agreed
            .graceful_restart
            .as_ref()
            .map(|restart| (restart.time, restart.families.keys().copied().collect())),
    }
}

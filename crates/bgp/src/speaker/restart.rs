//! Graceful restart (RFC 4724): waiting for the peers after our own restart, and keeping the routes of a peer that restarts.
//!
//! Two things wait after the start:
//! * *choosing paths*, after a restart only: until every peer has sent End-of-RIB (section 4.1). Until then nothing learned is
//!   handed on; own routes are. A peer that restarted as well is waited for a short time instead of not at all: the routes it
//!   is about to send are not lost to others by our End-of-RIB, and two that wait for each other do not wait long.
//! * *[`Output::LearnedInSync`]*, always: until every peer that can be reached has sent End-of-RIB, restarted or not.

use super::{Running, Speaker};
use crate::api::{Output, Start};
use crate::peer::{Helping, Peer, PeerId};
use crate::rib::table::{Freshness, outcome};
use crate::session::{Agreed, Connection, Down};
use crate::wire::capability::Forwarding;
use lasthop_net::{Family, Prefix};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A peer that does not do graceful restart sends no End-of-RIB: it has told us everything after this time.
const NO_END_OF_RIB: Duration = Duration::from_secs(5);
/// How long choosing paths waits for a peer that restarted too.
const BOTH_RESTARTED: Duration = Duration::from_secs(5);
/// After a restart a peer that refuses connections may itself be restarting: for this long.
const REACHABLE_GRACE: Duration = Duration::from_secs(10);
/// How often the conditions that depend on time are looked at while something waits.
const CHECK: Duration = Duration::from_millis(500);
/// A peer that is back has this long to send End-of-RIB, if its restart time is not longer.
const STALE_LIMIT: Duration = Duration::from_secs(300);

/// Where our own start stands.
#[derive(Debug)]
pub(super) struct Restart {
    start: Start,
    started: Instant,
    until: Instant,
    own_routes: OwnRoutes,
    waiting: Waiting,
    next_check: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnRoutes {
    Coming,
    Complete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// Nothing learned is chosen yet.
    ToChoose,
    /// Paths are chosen, not all peers have told everything.
    ForSync,
    Nothing,
}

impl Restart {
    pub(super) fn new(start: Start, now: Instant, deferral: Duration) -> Self {
        Self {
            start,
            started: now,
            until: now + deferral,
            own_routes: OwnRoutes::Coming,
            waiting: match start {
                Start::Cold => Waiting::ForSync,
                Start::Restarted => Waiting::ToChoose,
            },
            next_check: Some(now + CHECK),
        }
    }

    pub(super) fn was_restart(&self) -> bool {
        self.start == Start::Restarted
    }

    /// Whether peers are to be told of the restart still.
    pub(super) fn is_recent(&self, now: Instant) -> bool {
        self.was_restart() && (self.waiting == Waiting::ToChoose || now < self.until)
    }

    pub(super) fn is_deferring(&self) -> bool {
        self.waiting == Waiting::ToChoose
    }

    pub(super) fn own_routes_complete(&mut self) {
        self.own_routes = OwnRoutes::Complete;
    }

    pub(super) fn may_send_end_of_rib(&self) -> bool {
        self.own_routes == OwnRoutes::Complete && !self.is_deferring()
    }

    pub(super) fn next_check(&self) -> Option<Instant> {
        self.next_check
    }

    /// Whether there is no reason to wait for a peer any longer.
    fn is_settled(&self, now: Instant, peer: &Peer, for_what: Waiting) -> bool {
        let Some((agreed, since)) = peer.established().and_then(|c| Some((c.agreed()?, c.established_since()?))) else {
            let grace = if self.was_restart() { REACHABLE_GRACE } else { Duration::ZERO };
            return peer.unreachable && peer.connections.is_empty() && now >= self.started + grace;
        };
        if agreed.families.is_subset(&peer.end_of_rib) {
            return true;
        }
        match &agreed.graceful_restart {
            None => now >= since + NO_END_OF_RIB,
            Some(theirs) => theirs.restarted && for_what == Waiting::ToChoose && now >= self.started + BOTH_RESTARTED,
        }
    }
}

impl Speaker {
    /// Looks whether what waits need wait no longer.
    pub(super) fn check_in_sync(&mut self, now: Instant) {
        if self.running == Running::Stopped {
            self.restart.next_check = None;
            return;
        }
        if self.restart.waiting == Waiting::Nothing {
            return;
        }
        self.restart.next_check = Some(now + CHECK).filter(|_| now < self.restart.until);
        let late = now >= self.restart.until;
        let complete = self.restart.own_routes == OwnRoutes::Complete;
        let settled = |speaker: &Self, what: Waiting| {
            late || complete && speaker.peers.values().all(|peer| speaker.restart.is_settled(now, peer, what))
        };
        if self.restart.waiting == Waiting::ToChoose && settled(self, Waiting::ToChoose) {
            self.restart.waiting = Waiting::ForSync;
            self.choose_deferred();
            self.release_end_of_rib();
        }
        if self.restart.waiting == Waiting::ForSync && settled(self, Waiting::ForSync) {
            self.restart.waiting = Waiting::Nothing;
            self.restart.next_check = None;
            self.outputs.push_back(Output::LearnedInSync);
        }
    }

    /// Hands on everything that was held back.
    fn choose_deferred(&mut self) {
        let all: Vec<Prefix> =
            self.table.entries.iter().filter(|(_, entry)| !entry.paths.is_empty()).map(|(prefix, _)| *prefix).collect();
        for prefix in all {
            let Some(entry) = self.table.entries.get(&prefix) else { continue };
            let outcome = outcome(entry, &self.table.sources);
            if !outcome.next_hops.is_empty() {
                self.outputs.push_back(Output::Learned { prefix, next_hops: outcome.next_hops.clone() });
            }
            self.announce(prefix, &outcome);
        }
    }

    /// An Established session ended: are the peer's routes kept? (Section 4.2.)
    pub(super) fn session_lost(&mut self, now: Instant, id: PeerId, (gone, down): (Connection, &Down)) {
        // Stale routes of a restart before this one are never kept through a second.
        if matches!(self.peers.get(&id), Some(Peer { helping: Helping::Back { .. }, .. })) {
            self.drop_where(id, |_, freshness| freshness == Freshness::Stale);
        }
        let restart = gone.agreed().and_then(|agreed| agreed.graceful_restart.as_ref());
        let kept: BTreeSet<Family> = match (down, restart) {
            (Down::Lost(_), Some(restart)) => restart.families.keys().copied().collect(),
            _ => BTreeSet::new(),
        };
        self.drop_where(id, |family, _| !kept.contains(&family));
        self.mark_stale(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.helping = match restart {
            Some(restart) if !peer.prefixes.is_empty() => Helping::Away { families: kept, until: now + restart.time },
            _ => Helping::No,
        };
    }

    /// The session is up again.
    pub(super) fn peer_is_back(&mut self, now: Instant, id: PeerId, agreed: &Agreed) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Helping::Away { families, .. } = std::mem::replace(&mut peer.helping, Helping::No) else { return };
        let restart = agreed.graceful_restart.as_ref();
        let forwards = |family: &Family| {
            agreed.families.contains(family)
                && restart.is_some_and(|restart| restart.families.get(family) == Some(&Forwarding::Preserved))
        };
        let families: BTreeSet<Family> = families.into_iter().filter(forwards).collect();
        if !families.is_empty() {
            let limit = restart.map(|restart| restart.time).unwrap_or_default().max(STALE_LIMIT);
            peer.helping = Helping::Back { families: families.clone(), until: now + limit };
        }
        self.drop_where(id, |family, freshness| freshness == Freshness::Stale && !families.contains(&family));
    }

    pub(super) fn end_of_rib_received(&mut self, id: PeerId, family: Family) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.end_of_rib.insert(family);
        if let Helping::Back { families, .. } = &mut peer.helping {
            families.remove(&family);
            if families.is_empty() {
                peer.helping = Helping::No;
            }
        }
        if peer.stale > 0 {
            self.drop_where(id, |f, freshness| f == family && freshness == Freshness::Stale);
        }
    }

    /// The time for a peer to come back, or to send End-of-RIB, is over.
    pub(super) fn check_helping(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        match peer.helping {
            Helping::Away { until, .. } | Helping::Back { until, .. } if until <= now => {
                peer.helping = Helping::No;
                self.drop_where(id, |_, freshness| freshness == Freshness::Stale);
            }
            _ => {}
        }
    }
}

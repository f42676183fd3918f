//! Graceful restart (RFC 4724): waiting for the peers after our own restart, and keeping the routes of a peer that restarts.
//!
//! After a restart two things wait (section 4.1):
//! * *what is learned*: nothing is handed to the agent until every peer that can be reached has sent End-of-RIB; then all of it,
//!   and [`Output::LearnedInSync`]. (A cold start hands on at once, and says `LearnedInSync` at the same moment.)
//! * *what is sent to an update group*: own routes at once; learned ones, and End-of-RIB, when every peer whose routes the group
//!   could be shown has sent its own. Which peers these are follows from the reflection rules, so hosts, reflectors and
//!   reflectors of reflectors that restart together wait for each other from the bottom up and not in a circle. Where there is a
//!   circle (external peers), a peer that restarted too is waited for a few seconds only.

use super::{Running, Speaker};
use crate::api::{Output, Start};
use crate::attributes::{Attributes, LLGR_STALE, NO_LLGR};
use crate::config::ReflectMode;
use crate::peer::{Helping, Peer, PeerId};
use crate::rib::export::{Kind, Reflection, View};
use crate::rib::group::{Group, Hold};
use crate::rib::table::{Freshness, Path, outcome};
use crate::session::{Agreed, Connection, Down};
use crate::wire::Notification;
use crate::wire::capability::Forwarding;
use crate::wire::nlri::Nlri;
use lasthop_net::{Family, Prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A peer that does not do graceful restart sends no End-of-RIB: it has told us everything after this time.
const NO_END_OF_RIB: Duration = Duration::from_secs(5);
/// How long an update group waits for a peer that restarted too.
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

/// Whether [`Output::LearnedInSync`] is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    ForSync,
    Nothing,
}

/// For what a peer is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Learning,
    Sending,
}

impl Restart {
    pub(super) fn new(start: Start, now: Instant, deferral: Duration) -> Self {
        Self {
            start,
            started: now,
            until: now + deferral,
            own_routes: OwnRoutes::Coming,
            waiting: Waiting::ForSync,
            next_check: Some(now + CHECK),
        }
    }

    pub(super) fn was_restart(&self) -> bool {
        self.start == Start::Restarted
    }

    /// Whether peers are to be told of the restart still.
    pub(super) fn is_recent(&self, now: Instant) -> bool {
        self.was_restart() && now < self.until
    }

    /// Whether what is learned is held back.
    pub(super) fn is_deferring(&self) -> bool {
        self.was_restart() && self.waiting == Waiting::ForSync
    }

    /// What a new update group starts with.
    pub(super) fn hold(&self) -> Hold {
        if self.is_deferring() { Hold::Learned } else { Hold::Nothing }
    }

    pub(super) fn own_routes_complete(&mut self) {
        self.own_routes = OwnRoutes::Complete;
    }

    pub(super) fn are_own_routes_complete(&self) -> bool {
        self.own_routes == OwnRoutes::Complete
    }

    pub(super) fn next_check(&self) -> Option<Instant> {
        self.next_check
    }

    /// Whether there is no reason to wait for a peer any longer.
    fn is_settled(&self, now: Instant, peer: &Peer, purpose: Purpose) -> bool {
        let Some((agreed, since)) = peer.established().and_then(|c| Some((c.agreed()?, c.established_since()?))) else {
            let grace = if self.was_restart() { REACHABLE_GRACE } else { Duration::ZERO };
            return peer.unreachable && peer.connections.is_empty() && now >= self.started + grace;
        };
        if agreed.families.is_subset(&peer.end_of_rib) {
            return true;
        }
        match &agreed.graceful_restart {
            None => now >= since + NO_END_OF_RIB,
            Some(theirs) => theirs.restarted && purpose == Purpose::Sending && now >= self.started + BOTH_RESTARTED,
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
        self.release_groups(now);
        let mut peers = self.peers.values();
        let mut settled = || peers.all(|peer| self.restart.is_settled(now, peer, Purpose::Learning));
        if late || self.restart.are_own_routes_complete() && settled() {
            let was_deferring = self.restart.is_deferring();
            self.restart.waiting = Waiting::Nothing;
            self.restart.next_check = None;
            self.release_groups(now);
            if was_deferring {
                self.hand_on_learned();
            }
            self.outputs.push_back(Output::LearnedInSync);
        }
    }

    /// Shows what is learned to groups that need wait no longer.
    fn release_groups(&mut self, now: Instant) {
        let over = now >= self.restart.until || !self.restart.is_deferring();
        let complete = self.restart.are_own_routes_complete();
        let free = |group: &Group| {
            over || complete
                && self.peers.iter().all(|(id, peer)| {
                    group.members.iter().eq([id])
                        || !self.could_show(peer, &group.view)
                        || self.restart.is_settled(now, peer, Purpose::Sending)
                })
        };
        let held = self.groups.iter().filter(|(_, group)| group.hold == Hold::Learned && free(group));
        let released: Vec<View> = held.map(|(view, _)| view.clone()).collect();
        if released.is_empty() {
            return;
        }
        for view in &released {
            if let Some(group) = self.groups.get_mut(view) {
                group.hold = Hold::Nothing;
            }
        }
        let all: Vec<Prefix> = self.table.entries.keys().collect();
        all.into_iter().for_each(|prefix| self.announce_again(prefix));
        self.release_end_of_rib();
    }

    /// Whether what a peer tells us could be shown to a group at all.
    fn could_show(&self, peer: &Peer, view: &View) -> bool {
        let ours = peer.config.local_asn.unwrap_or(self.config.asn);
        let internal = peer.config.asn == ours;
        let client = peer.config.reflect == ReflectMode::Client;
        !internal || client || view.kind != Kind::Internal(Reflection::NonClient)
    }

    /// Hands the agent everything that was held back.
    fn hand_on_learned(&mut self) {
        for (prefix, entry) in self.table.entries.iter() {
            let next_hops = outcome(entry, &self.table.sources).next_hops;
            if !next_hops.is_empty() {
                self.outputs.push_back(Output::Learned { prefix, next_hops });
            }
        }
    }

    /// An Established session ended: are the peer's routes kept? (Section 4.2.)
    pub(super) fn session_lost(&mut self, now: Instant, id: PeerId, (gone, down): (Connection, &Down)) {
        // Stale routes of a restart before this one are never kept through a second.
        if matches!(self.peers.get(&id), Some(Peer { helping: Helping::Back { .. }, .. })) {
            self.drop_where(id, |_, freshness| freshness == Freshness::Stale);
        }
        let agreed = gone.agreed();
        let restart = agreed.and_then(|agreed| agreed.graceful_restart.as_ref());
        let both = agreed.is_some_and(|agreed| agreed.notification);
        let keeps = match down {
            Down::Lost(_) => true,
            // RFC 8538 section 4.
            Down::Received(notification) => {
                both && (notification.code, notification.subcode) != Notification::HARD_RESET
            }
            Down::Sent(notification, _) => both && !notification.is_final(),
        };
        let kept: BTreeSet<Family> = match restart.filter(|_| keeps) {
            Some(restart) => restart.families.keys().copied().collect(),
            None => BTreeSet::new(),
        };
        let long_lived = agreed.and_then(|agreed| agreed.long_lived.clone()).unwrap_or_default();
        self.drop_where(id, |family, _| !kept.contains(&family));
        self.mark_stale(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.refreshing = None;
        peer.long_lived = long_lived.into_iter().map(|(family, (_, time))| (family, time)).collect();
        peer.helping = match restart {
            Some(restart) if !peer.prefixes.is_empty() => Helping::Away { families: kept, until: now + restart.time },
            _ => Helping::No,
        };
    }

    /// The session is up again.
    pub(super) fn peer_is_back(&mut self, now: Instant, id: PeerId, agreed: &Agreed) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let (families, long) = match std::mem::replace(&mut peer.helping, Helping::No) {
            Helping::Away { families, .. } => (families, false),
            Helping::LongLived(until) => (until.into_keys().collect(), true),
            Helping::No | Helping::Back { .. } => return,
        };
        let restart = agreed.graceful_restart.as_ref();
        let forwards = |family: &Family| {
            let said = match (&agreed.long_lived, restart) {
                // RFC 9494 section 4.4.
                (Some(long_lived), _) if long => long_lived.get(family).map(|(forwarding, _)| *forwarding),
                (_, restart) => restart.and_then(|restart| restart.families.get(family).copied()),
            };
            agreed.families.contains(family) && said == Some(Forwarding::Preserved)
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
        if peer.refreshing.is_some_and(|until| until <= now) {
            peer.refreshing = None;
            self.drop_where(id, |_, freshness| freshness == Freshness::Stale);
            return;
        }
        match &mut peer.helping {
            Helping::Away { families, until } if *until <= now => {
                let from = *until;
                let long = |family: &Family| Some((*family, from + *peer.long_lived.get(family)?));
                let long: BTreeMap<Family, Instant> =
                    families.iter().filter_map(long).filter(|(_, until)| *until > now).collect();
                peer.helping = Helping::No;
                self.drop_where(id, |family, freshness| freshness == Freshness::Stale && !long.contains_key(&family));
                self.live_long(id, long);
            }
            Helping::Back { until, .. } if *until <= now => {
                peer.helping = Helping::No;
                self.drop_where(id, |_, freshness| freshness == Freshness::Stale);
            }
            Helping::LongLived(until) => {
                let over: BTreeSet<Family> = until.iter().filter(|(_, at)| **at <= now).map(|(f, _)| *f).collect();
                until.retain(|_, at| *at > now);
                if until.is_empty() {
                    peer.helping = Helping::No;
                }
                if !over.is_empty() {
                    self.drop_where(id, |family, freshness| freshness == Freshness::Stale && over.contains(&family));
                }
            }
            _ => {}
        }
    }

    /// RFC 9494 section 4.3: what is stale of these families is kept on as the last choice, and says so.
    fn live_long(&mut self, id: PeerId, until: BTreeMap<Family, Instant>) {
        let Some(peer) = self.peers.get_mut(&id).filter(|_| !until.is_empty()) else { return };
        let prefixes: Vec<Prefix> = peer.prefixes.keys().collect();
        peer.helping = Helping::LongLived(until);
        for prefix in prefixes {
            for path in self.paths_of(id, prefix).into_iter().filter(|path| path.freshness == Freshness::Stale) {
                let nlri = Nlri { prefix, id: path.id };
                if path.attributes.communities.contains(&NO_LLGR) {
                    self.put(id, nlri, None);
                } else if !path.attributes.communities.contains(&LLGR_STALE) {
                    let mut attributes = Attributes::clone(&path.attributes);
                    attributes.communities.push(LLGR_STALE);
                    let attributes = self.attributes.get(attributes);
                    self.put(id, nlri, Some(Path { attributes, ..path }));
                }
            }
        }
    }
}

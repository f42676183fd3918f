//! What is learned, what is chosen, what is sent (RFC 4271 section 9). A change of one prefix costs what that prefix has
//! paths, times the update groups.

use super::{Running, Speaker};
use crate::api::{ConnId, Output};
use crate::attributes::{Attributes, GRACEFUL_SHUTDOWN};
use crate::config::{Role, Switch};
use crate::peer::{Peer, PeerId};
use crate::policy::Blocked;
use crate::reason::Refusal;
use crate::rib::export::{Kind, View};
use crate::rib::group::{Advert, Group, Hold, Packed, Place};
use crate::rib::table::{Entry, Freshness, Outcome, Path, Table, ranked};
use crate::wire::nlri::{Nlri, PathIds};
use crate::wire::update::{PeerKind, Update};
use crate::wire::{self, Format, MAX_EXTENDED_LEN, MAX_LEN, Refresh, end_of_rib, route_refresh};
use lasthop_net::{Asn, Family, Prefix, scoped};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Prefixes that one peer alone is owed and is told at once: the driver can say in between that it is enough.
const CHUNK: usize = 2048;

/// A peer that began to tell us everything again has this long to end (RFC 7313 section 4).
const REFRESH_LIMIT: Duration = Duration::from_secs(300);

impl Speaker {
    /// Takes an UPDATE.
    pub(super) fn learn(&mut self, id: PeerId, update: Update) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let counters = &mut peer.counters;
        counters.updates_in += 1;
        let treated = |problem: &&wire::WireError| problem.outcome == wire::Outcome::TreatAsWithdraw;
        counters.treated_as_withdraw += u64::from(update.problems.iter().any(|problem| treated(&problem)));
        counters.attributes_discarded += update.problems.iter().filter(|problem| !treated(problem)).count() as u64;
        for problem in &update.problems {
            tracing::warn!(peer = %peer.config.address, "{problem}");
        }
        for nlri in update.withdrawn {
            self.put(id, nlri, None);
        }
        for (mut attributes, prefixes) in update.announced {
            self.mark_role(id, &mut attributes);
            self.mark_link(id, &mut attributes);
            let told = self.attributes.get(attributes);
            let refusal = self.refusal(id, &told);
            for nlri in prefixes {
                let (attributes, refusal) = self.import(id, nlri.prefix, (&told, refusal));
                self.keep_told(id, nlri, (&told, &attributes));
                let path = Path { attributes, source: id, id: nlri.id, refusal, freshness: Freshness::Fresh };
                self.put(id, nlri, Some(path));
            }
        }
        if let Some(family) = update.end_of_rib {
            self.end_of_rib_received(id, family);
        }
    }

    /// RFC 9234 section 5: what comes down from a provider or across from a peer goes on to customers only.
    fn mark_role(&self, id: PeerId, attributes: &mut Attributes) {
        let Some(peer) = self.peers.get(&id) else { return };
        let role = peer.role(self.config.asn);
        if matches!(role, Some(Role::Customer | Role::Peer | Role::RouteServerClient)) {
            attributes.otc = attributes.otc.or(Some(peer.config.asn));
        }
    }

    /// A next hop on the link that we share with the peer says which link that is.
    fn mark_link(&self, id: PeerId, attributes: &mut Attributes) {
        let IpAddr::V6(hop) = attributes.next_hop else { return };
        // Whoever sends one with a link of its own in it means nothing that we could know.
        let plain = scoped::link_of(hop).0;
        let link = self.peers.get(&id).and_then(|peer| peer.established()?.link);
        attributes.next_hop = link.and_then(|link| scoped::on_link(plain, link)).unwrap_or(plain).into();
    }

    /// What the import policy makes of a path that a peer told us, and why it is not used if it is not.
    fn import(
        &mut self,
        id: PeerId,
        prefix: Prefix,
        (told, refusal): (&Arc<Attributes>, Option<Refusal>),
    ) -> (Arc<Attributes>, Option<Refusal>) {
        let same = || Arc::clone(told);
        let (Some(peer), None) = (self.peers.get(&id), refusal) else { return (same(), refusal) };
        let kind = peer.kind(self.config.asn);
        let applied = match peer.config.import.judge(kind, prefix, (told, Some(kind))) {
            Ok(applied) => applied,
            Err(Blocked::Missing) => return (same(), Some(Refusal::NoPolicy)),
            Err(Blocked::Rule(_) | Blocked::NoRule) => return (same(), Some(Refusal::Policy)),
        };
        // RFC 8326 section 4.1.
        let last = kind == PeerKind::External
            && peer.config.graceful_shutdown == Switch::On
            && told.communities.contains(&GRACEFUL_SHUTDOWN);
        if applied.is_empty() && !last {
            return (same(), None);
        }
        let mut attributes = Attributes::clone(told);
        peer.config.import.apply(&applied, &mut attributes);
        if last {
            attributes.local_pref = Some(0);
        }
        (self.attributes.get(attributes), None)
    }

    /// Remembers what a peer said where we made something else of it, so that another policy can be asked later.
    fn keep_told(&mut self, id: PeerId, nlri: Nlri, (told, imported): (&Arc<Attributes>, &Arc<Attributes>)) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !Arc::ptr_eq(told, imported) {
            peer.told.insert(nlri, Arc::clone(told));
        } else if !peer.told.is_empty() {
            peer.told.remove(&nlri);
        }
    }

    /// Why a path is not to be used whatever it competes with (RFC 4271 sections 6.3 and 9.1.2, RFC 4456 section 8).
    fn refusal(&self, id: PeerId, attributes: &Attributes) -> Option<Refusal> {
        let peer = self.peers.get(&id)?;
        let ours = |asn: Asn| asn == self.config.asn || Some(asn) == peer.config.local_asn;
        if attributes.as_path.asns().filter(|asn| ours(*asn)).count() > usize::from(peer.config.allowed_own_as) {
            Some(Refusal::AsLoop)
        } else if attributes.originator_id == Some(self.config.router_id) {
            Some(Refusal::OwnOriginator)
        } else if attributes.cluster_list.contains(&self.cluster_id()) {
            Some(Refusal::ClusterLoop)
        } else if peer.is_ours(attributes.next_hop) {
            Some(Refusal::OwnNextHop)
        } else if peer.role(self.config.asn).is_some_and(|role| is_leak(role, peer.config.asn, attributes)) {
            Some(Refusal::RoleLeak)
        } else {
            None
        }
    }

    /// Sets or removes the path of one peer to one prefix.
    pub(super) fn put(&mut self, id: PeerId, nlri: Nlri, path: Option<Path>) {
        let prefix = nlri.prefix;
        let (there, refused) = (path.is_some(), path.as_ref().is_some_and(|path| path.refusal.is_some()));
        let stale = path.as_ref().is_some_and(|path| path.freshness == Freshness::Stale);
        let (mut old, mut others) = (None, false);
        self.change(prefix, |entry| {
            let known = entry.paths.iter().position(|path| path.source == id && path.id == nlri.id);
            others = entry.paths.iter().any(|path| path.source == id && path.id != nlri.id);
            old = match (known, path) {
                (Some(place), Some(new)) => entry.paths.get_mut(place).map(|path| std::mem::replace(path, new)),
                (Some(place), None) => entry.paths.swap_remove(place),
                (None, Some(new)) => {
                    entry.paths.push(new);
                    None
                }
                (None, None) => None,
            };
        });
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.refused += usize::from(refused);
        peer.stale += usize::from(stale);
        match (&old, there) {
            (None, true) if !others => {
                peer.prefixes.get_or_default(prefix);
            }
            (Some(_), false) if !others => {
                peer.prefixes.remove(prefix);
            }
            _ => {}
        }
        if !there && !peer.told.is_empty() {
            peer.told.remove(&nlri);
        }
        if let Some(old) = old {
            peer.refused -= usize::from(old.refusal.is_some());
            peer.stale -= usize::from(old.freshness == Freshness::Stale);
        }
    }

    /// Changes an entry and tells everyone whom the outcome concerns.
    pub(super) fn change(&mut self, prefix: Prefix, change: impl FnOnce(&mut Entry)) {
        let (before, after) = self.table.change(prefix, change);
        let tells = self.running == Running::Yes && !self.restart.is_deferring();
        if !before.same_best(&after) {
            self.announce(prefix, &after);
        }
        self.announce_paths(prefix);
        if before.next_hops != after.next_hops && tells {
            self.outputs.push_back(Output::Learned { prefix, next_hops: after.next_hops });
        }
    }

    /// Shows an outcome to all groups.
    pub(super) fn announce(&mut self, prefix: Prefix, outcome: &Outcome) {
        let cluster_id = self.cluster_id();
        for group in self.groups.values_mut().filter(|group| group.view.most(prefix.family()).is_none()) {
            let advert = outcome.best.as_ref().filter(|(_, from)| !group.holds_back(*from)).cloned();
            let advert =
                advert.and_then(|best| group.advert(&best, prefix.into(), (&self.table.sources, cluster_id)).ok());
            group.set(prefix.into(), advert);
        }
    }

    /// Shows all paths of a prefix, up to their number, to groups that take several (RFC 7911).
    fn announce_paths(&mut self, prefix: Prefix) {
        let cluster_id = self.cluster_id();
        for group in self.groups.values_mut() {
            let Some(most) = group.view.most(prefix.family()) else { continue };
            show_paths(group, (&self.table, &mut self.path_ids), (prefix, most, cluster_id));
        }
    }

    /// Looks again at how a prefix is shown, when nothing about its paths changed.
    pub(super) fn announce_again(&mut self, prefix: Prefix) {
        let outcome = self.table.outcome(prefix);
        self.announce(prefix, &outcome);
        self.announce_paths(prefix);
    }

    /// After a change of our identifiers: every path is judged and shown anew.
    pub(super) fn judge_all_again(&mut self) {
        self.groups.values_mut().for_each(Group::settings_changed);
        let all: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in all {
            self.judge_again(id);
        }
        let own: Vec<Prefix> = self.table.entries.keys().collect();
        own.into_iter().for_each(|prefix| self.announce_again(prefix));
    }

    /// After a change of a peer's settings: what it told us is judged and shown anew.
    pub(super) fn judge_again(&mut self, id: PeerId) {
        self.groups.values_mut().for_each(Group::settings_changed);
        let Some(peer) = self.peers.get(&id) else { return };
        if let Some(source) = self.table.sources.get_mut(&id) {
            source.reflect = peer.config.reflect;
        }
        let prefixes: Vec<Prefix> = peer.prefixes.keys().collect();
        for prefix in prefixes {
            for path in self.paths_of(id, prefix) {
                let nlri = Nlri { prefix, id: path.id };
                let told = self.peers.get(&id).and_then(|peer| peer.told.get(&nlri)).unwrap_or(&path.attributes);
                let told = Arc::clone(told);
                let refusal = self.refusal(id, &told);
                let (attributes, refusal) = self.import(id, prefix, (&told, refusal));
                if refusal != path.refusal || !Arc::ptr_eq(&attributes, &path.attributes) {
                    self.keep_told(id, nlri, (&told, &attributes));
                    self.put(id, nlri, Some(Path { attributes, refusal, ..path }));
                }
            }
            self.announce_again(prefix);
        }
    }

    /// Drops what a peer told us, all of it.
    pub(super) fn drop_routes(&mut self, id: PeerId) {
        self.drop_where(id, |_, _| true);
    }

    /// The paths of one peer to one prefix.
    pub(super) fn paths_of(&self, id: PeerId, prefix: Prefix) -> Vec<Path> {
        let paths = self.table.entries.get(prefix).map(|entry| &entry.paths[..]).unwrap_or_default();
        paths.iter().filter(|path| path.source == id).cloned().collect()
    }

    /// Drops what a peer told us of some families, or only what is stale of it.
    pub(super) fn drop_where(&mut self, id: PeerId, drop: impl Fn(Family, Freshness) -> bool) {
        let Some(peer) = self.peers.get(&id) else { return };
        let mut gone = Vec::new();
        for prefix in peer.prefixes.keys() {
            let paths = self.table.entries.get(prefix).map(|entry| &entry.paths[..]).unwrap_or_default();
            let goes = |path: &&Path| path.source == id && drop(prefix.family(), path.freshness);
            gone.extend(paths.iter().filter(goes).map(|path| Nlri { prefix, id: path.id }));
        }
        for nlri in gone {
            self.put(id, nlri, None);
        }
    }

    /// Marks all that a peer told us as stale (RFC 4724 section 4.2).
    pub(super) fn mark_stale(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.stale = 0;
        for prefix in peer.prefixes.keys() {
            let paths = self.table.entries.get_mut(prefix).map(|entry| &mut entry.paths[..]).unwrap_or_default();
            for path in paths.iter_mut().filter(|path| path.source == id) {
                path.freshness = Freshness::Stale;
                peer.stale += 1;
            }
        }
    }

    /// How an Established peer is to be shown things.
    fn view(&self, id: PeerId) -> Option<View> {
        let peer = self.peers.get(&id)?;
        let connection = peer.established()?;
        let agreed = connection.agreed()?;
        let config = &peer.config;
        let addresses = [config.local_address, Some(connection.local)];
        let v4 = addresses.iter().find_map(|a| match a {
            Some(IpAddr::V4(address)) => Some(*address),
            _ => None,
        });
        let v6 = |on_link: bool| {
            addresses.iter().find_map(|a| match a {
                Some(IpAddr::V6(address)) if address.is_unicast_link_local() == on_link => Some(*address),
                _ => None,
            })
        };
        Some(View {
            kind: match connection.kind() {
                PeerKind::Internal => Kind::Internal(config.reflect.into()),
                PeerKind::External => Kind::External(connection.local_asn()),
            },
            next_hop: config.next_hop.into(),
            our_v4: config.next_hop_v4.or(v4),
            our_v6: config.next_hop_v6.or_else(|| v6(false)),
            our_link_local: v6(true),
            extended_next_hop: agreed.extended_next_hop,
            families: agreed.families.clone(),
            format: Format {
                width: agreed.width,
                longest: if agreed.extended_message { MAX_EXTENDED_LEN } else { MAX_LEN },
                ids: PathIds::Absent,
            },
            paths: (agreed.paths_out.clone(), config.add_path.send),
            policy: config.export.clone(),
            drain: self.config.drain,
            role: config.role.filter(|_| connection.kind() == PeerKind::External),
            long_lived: agreed.long_lived.is_some(),
        })
    }

    /// The group a peer is in.
    pub(super) fn group_of(&self, id: PeerId) -> Option<&Group> {
        self.groups.values().find(|group| group.members.contains(&id))
    }

    /// Puts an Established peer into the group it belongs to, and notes what it has to be told for that.
    pub(super) fn regroup(&mut self, _now: std::time::Instant, id: PeerId) {
        let Some(view) = self.view(id) else { return };
        if self.group_of(id).is_some_and(|group| group.view == view) {
            return;
        }
        // What its old group was about to tell it would be lost.
        self.flush_groups();
        let shown = self.shown_to(id);
        self.owe_logged(id);
        self.leave_group(id);
        self.join(id, view);
        let Some(group) = self.groups.values().find(|group| group.members.contains(&id)) else { return };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        match shown {
            None => peer.owed.walks = Family::ALL.map(|family| (family, None)).into(),
            // Only what differs from what it was shown before is sent.
            Some(shown) => {
                let gone = shown.keys().filter(|nlri| group.shown_as(**nlri, id).is_none()).copied();
                let differs = |nlri: &Nlri, advert: &Advert| {
                    advert.from != id && shown.get(nlri).is_none_or(|old| old.block != advert.block)
                };
                let new = group.table().filter(|(nlri, advert)| differs(nlri, advert)).map(|(nlri, _)| nlri);
                peer.owed.prefixes.extend(gone.chain(new));
            }
        }
        self.lagging.insert(id);
    }

    /// What a member of a group is shown there.
    fn shown_to(&self, id: PeerId) -> Option<BTreeMap<Nlri, Arc<Advert>>> {
        let shown = self.group_of(id)?.table().filter(|(_, advert)| advert.from != id);
        Some(shown.map(|(nlri, advert)| (nlri, Arc::clone(advert))).collect())
    }

    /// Notes what a peer is owed of its group's log, which does not go with it to another group.
    fn owe_logged(&mut self, id: PeerId) {
        let group = self.groups.values().find(|group| group.members.contains(&id));
        let (Some(group), Some(peer)) = (group, self.peers.get_mut(&id)) else { return };
        if let Some(since) = peer.owed.since.take() {
            peer.owed.prefixes.extend(group.logged_from(since));
        }
    }

    fn join(&mut self, id: PeerId, view: View) {
        let cluster_id = self.cluster_id();
        if let Some(group) = self.groups.get_mut(&view) {
            group.members.insert(id);
            return;
        }
        let mut group = Group::new(view.clone(), self.restart.hold());
        for (prefix, entry) in self.table.entries.iter() {
            if let Some(most) = view.most(prefix.family()) {
                show_paths(&mut group, (&self.table, &mut self.path_ids), (prefix, most, cluster_id));
                continue;
            }
            let outcome = crate::rib::table::outcome(entry, &self.table.sources);
            let Some(best) = outcome.best.filter(|(_, from)| !group.holds_back(*from)) else { continue };
            if let Ok(advert) = group.advert(&best, prefix.into(), (&self.table.sources, cluster_id)) {
                group.set(prefix.into(), Some(advert));
            }
        }
        // Nobody is in it yet to be told.
        group.flush();
        group.members.insert(id);
        self.groups.insert(view, group);
    }

    /// Takes a peer out of its group.
    pub(super) fn leave_group(&mut self, id: PeerId) {
        self.lagging.remove(&id);
        let Some(view) = self.group_of(id).map(|group| group.view.clone()) else { return };
        let Some(group) = self.groups.get_mut(&view) else { return };
        group.members.remove(&id);
        if group.members.is_empty() {
            self.groups.remove(&view);
        }
    }

    /// RFC 2918 section 4: everything again, without withdrawals.
    pub(super) fn refresh(&mut self, id: PeerId, family: Family) {
        self.flush_groups();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.owed.walks.insert(family, None);
        self.lagging.insert(id);
        let connection = peer.established().and_then(|connection| Some((connection.id, connection.agreed()?)));
        if let Some((conn, _)) = connection.filter(|(_, agreed)| agreed.enhanced_refresh) {
            peer.counters.messages_out += 1;
            self.outputs.push_back(Output::Send { conn, bytes: route_refresh(Refresh::Begin, family).into() });
            peer.owed.refresh.insert(family);
        }
    }

    /// RFC 7313 section 4: what the peer does not say again until it is through is gone.
    pub(super) fn refresh_begins(&mut self, now: std::time::Instant, id: PeerId, family: Family) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        for prefix in peer.prefixes.keys().filter(|prefix| prefix.family() == family) {
            let paths = self.table.entries.get_mut(prefix).map(|entry| &mut entry.paths[..]).unwrap_or_default();
            for path in paths.iter_mut().filter(|path| path.source == id && path.freshness == Freshness::Fresh) {
                path.freshness = Freshness::Stale;
                peer.stale += 1;
            }
        }
        peer.refreshing = Some(now + REFRESH_LIMIT);
    }

    pub(super) fn refresh_ends(&mut self, id: PeerId, family: Family) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.refreshing.take().is_some() {
            self.drop_where(id, |f, freshness| f == family && freshness == Freshness::Stale);
        }
    }

    /// Makes the UPDATEs that are due.
    pub(super) fn flush(&mut self) {
        self.flush_groups();
        let lagging: Vec<PeerId> = self.lagging.iter().copied().collect();
        loop {
            let mut more = false;
            for id in &lagging {
                more |= self.serve(*id);
            }
            // A part of what a peer is owed may be nothing: a family without routes, a stretch of routes that are its own.
            if !more || !self.outputs.is_empty() {
                break;
            }
        }
        let lags = |peer: &Peer| peer.owed.place().is_some();
        if !lagging.is_empty() && self.lagging.is_empty() && !self.peers.values().any(lags) {
            self.groups.values_mut().for_each(Group::forget_chunks);
        }
    }

    /// Sends what changed to all who keep up; for the others it is noted.
    fn flush_groups(&mut self) {
        for group in self.groups.values_mut().filter(|group| group.has_changes()) {
            let (mut keeping_up, mut oldest) = (Vec::new(), None);
            for id in &group.members {
                let Some(peer) = self.peers.get_mut(id) else { continue };
                let Some(conn) = peer.established().map(|connection| connection.id) else { continue };
                let owed = &mut peer.owed;
                if owed.congested.is_some() || owed.since.is_some() || !owed.prefixes.is_empty() {
                    let since = *owed.since.get_or_insert(group.log_end());
                    oldest = Some(oldest.map_or(since, |oldest: u64| oldest.min(since)));
                } else {
                    keeping_up.push((*id, conn));
                }
            }
            match oldest {
                Some(oldest) => group.note_changes(oldest),
                None => group.forget_log(),
            }
            for packed in group.flush() {
                for (id, conn) in keeping_up.iter().filter(|(id, _)| packed.to.concerns(*id)) {
                    self.outputs.push_back(Output::Send { conn: *conn, bytes: packed.bytes.clone() });
                    if let Some(peer) = self.peers.get_mut(id) {
                        peer.counters.updates_out += packed.count;
                    }
                }
            }
        }
    }

    /// Sends a lagging peer the next part of what it is owed, and End-of-RIB when that is all (RFC 4724 section 4.1); whether
    /// there is more.
    fn serve(&mut self, id: PeerId) -> bool {
        let group = self.groups.values_mut().find(|group| group.members.contains(&id));
        let (Some(group), Some(peer)) = (group, self.peers.get_mut(&id)) else {
            self.lagging.remove(&id);
            return false;
        };
        let Some(conn) = peer.established().map(|connection| connection.id) else { return false };
        if peer.owed.congested.is_some() {
            // `drained` puts it back.
            self.lagging.remove(&id);
            return false;
        }
        let owed = &mut peer.owed;
        if !owed.prefixes.is_empty() {
            let next = std::iter::from_fn(|| owed.prefixes.pop_first()).take(CHUNK);
            let messages = group.catch_up(id, next);
            send(&mut self.outputs, (id, conn), &messages, &mut peer.counters.updates_out);
        } else if let Some(place) = owed.place() {
            let chunk = group.chunk(place);
            match (place, chunk.next) {
                (Place::Log(_), Some(Place::Log(next))) => owed.since = Some(next),
                (Place::Log(_), _) => owed.since = None,
                (Place::Walk(family, _), Some(Place::Walk(_, last))) => {
                    owed.walks.insert(family, last);
                }
                (Place::Walk(family, _), _) => {
                    owed.walks.remove(&family);
                }
            }
            send(&mut self.outputs, (id, conn), &chunk.messages, &mut peer.counters.updates_out);
        }
        if !peer.owed.prefixes.is_empty() || peer.owed.place().is_some() {
            return true;
        }
        self.lagging.remove(&id);
        for family in std::mem::take(&mut peer.owed.refresh) {
            peer.counters.messages_out += 1;
            self.outputs.push_back(Output::Send { conn, bytes: route_refresh(Refresh::End, family).into() });
        }
        if self.restart.are_own_routes_complete() && group.hold == Hold::Nothing {
            for family in std::mem::take(&mut peer.owed.end_of_rib) {
                peer.counters.updates_out += 1;
                self.outputs.push_back(Output::Send { conn, bytes: end_of_rib(family).into() });
            }
        }
        false
    }

    /// More End-of-RIBs may go out from now on: all who are owed one are served again.
    pub(super) fn release_end_of_rib(&mut self) {
        let owed = self.peers.iter().filter(|(_, peer)| !peer.owed.end_of_rib.is_empty());
        self.lagging.extend(owed.map(|(id, _)| *id));
    }
}

/// The identifiers under which paths are shown to peers that take several: one for each source and what it calls its path.
#[derive(Debug, Default)]
pub(super) struct PathNumbers {
    known: BTreeMap<(PeerId, u32), u32>,
    last: u32,
}

impl PathNumbers {
    fn of(&mut self, from: PeerId, theirs: u32) -> u32 {
        *self.known.entry((from, theirs)).or_insert_with(|| {
            self.last += 1;
            self.last
        })
    }

    pub(super) fn forget(&mut self, peer: PeerId) {
        self.known.retain(|(from, _), _| *from != peer);
    }
}

/// Shows a group the best paths of a prefix, each under an identifier of ours that stays with it.
fn show_paths(
    group: &mut Group,
    (table, ids): (&Table, &mut PathNumbers),
    (prefix, most, cluster_id): (Prefix, usize, std::net::Ipv4Addr),
) {
    let ranked = table.entries.get(prefix).map(|entry| ranked(entry, &table.sources, most)).unwrap_or_default();
    let mut adverts = BTreeMap::new();
    for (attributes, from, theirs) in ranked {
        if group.holds_back(from) {
            continue;
        }
        let id = ids.of(from, theirs);
        if let Ok(advert) = group.advert(&(attributes, from), Nlri { prefix, id }, (&table.sources, cluster_id)) {
            adverts.insert(id, advert);
        }
    }
    group.set_all(prefix, adverts);
}

/// RFC 9234 section 5, for our role towards a peer of this AS.
fn is_leak(role: Role, peer: Asn, attributes: &Attributes) -> bool {
    match (role, attributes.otc) {
        (Role::Provider | Role::RouteServer, otc) => otc.is_some(),
        (Role::Peer, Some(asn)) => asn != peer,
        _ => false,
    }
}

/// Sends a peer what concerns it.
fn send(outputs: &mut VecDeque<Output>, (id, conn): (PeerId, ConnId), messages: &[Packed], sent: &mut u64) {
    for packed in messages.iter().filter(|packed| packed.to.concerns(id)) {
        outputs.push_back(Output::Send { conn, bytes: packed.bytes.clone() });
        *sent += packed.count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Origin, Start};
    use crate::config::{Drain, SpeakerConfig};
    use std::time::Instant;

    #[test]
    fn what_is_the_same_is_held_once_whatever_policy_made_of_it() {
        let now = Instant::now();
        let config = SpeakerConfig {
            asn: Asn(1),
            router_id: [10, 0, 0, 1].into(),
            cluster_id: None,
            port: 179,
            bind: [].into(),
            restart_time: Duration::ZERO,
            deferral: Duration::ZERO,
            drain: Drain::No,
        };
        let mut speaker = Speaker::new(config, Start::Cold, now);
        for index in 0..10_000u32 {
            let prefix = Prefix::host(IpAddr::from((0x0a00_0000 + index).to_be_bytes()));
            speaker.advertise(now, prefix, Origin::default());
        }
        assert_eq!((speaker.table.entries.len(), speaker.attributes.len()), (10_000, 1));
        assert!(size_of::<Path>() <= 24, "{} octets a path", size_of::<Path>());
    }
}

//! Dialling, collision detection (RFC 4271 section 6.8, RFC 6286), sessions that come up and go down.

use super::{Running, Speaker};
use crate::api::{ConnId, Output};
use crate::bfd;
use crate::bmp;
use crate::config::{Admin, LimitAction, PrefixLimit, RestartMode, Switch};
use crate::ended::{self, Ending};
use crate::peer::{Bar, Dial, Helping, Owed, Peer, PeerId, Retry};
use crate::report::PeerState;
use crate::rib::table::Source;
use crate::session::{Connection, Down, Event, Phase, Side, Terms};
use crate::wire::afi;
use crate::wire::capability::{Forwarding, GracefulRestart, PathsMode};
use crate::wire::{Notification, Refresh};
use lasthop_net::Family;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A peer's second connection means that it restarted only if the first is at least this old; else the two just met.
const TAKE_OVER_AGE: Duration = Duration::from_secs(2);
/// A connection of the peer's is under way: ours can wait.
const YIELD: Duration = Duration::from_secs(5);

impl Speaker {
    /// What we offer a peer now.
    fn terms(&self, now: Instant, peer: &Peer) -> Terms {
        let preserved = self.restart.was_restart() || peer.counters.established > 0;
        let forwarding = if preserved { Forwarding::Preserved } else { Forwarding::Lost };
        let config = &peer.config;
        let kept = config.families.iter().filter(|_| config.restart == RestartMode::Full);
        let paths = PathsMode { receives: config.add_path.receive == Switch::On, sends: config.add_path.send > 0 };
        Terms {
            local_asn: config.local_asn.unwrap_or(self.config.asn),
            peer_asn: config.asn,
            router_id: self.config.router_id,
            hold_time: match u16::try_from(config.hold_time.as_secs()).unwrap_or(u16::MAX) {
                seconds @ (1 | 2) => seconds.max(3),
                seconds => seconds,
            },
            families: config.families.clone(),
            graceful_restart: (config.restart != RestartMode::Off).then(|| GracefulRestart {
                restarted: self.restart.is_recent(now) && peer.counters.established == 0,
                notification: true,
                time: config.restart_time.unwrap_or(self.config.restart_time),
                families: kept.clone().map(|family| (*family, forwarding)).collect(),
            }),
            long_lived: config.long_lived.map(|time| kept.map(|family| (*family, (forwarding, time))).collect()),
            role: config.role.map(|role| (role, config.role_mode)),
            extended_next_hop: config.extended_next_hop == Switch::On,
            add_path: config.families.iter().map(|family| (*family, paths)).collect(),
        }
    }

    pub(super) fn dial_if_due(&mut self, now: Instant, id: PeerId) {
        if self.running == Running::Stopped {
            return;
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        match peer.dial {
            Dial::At(at, state) if at <= now && !peer.connections.is_empty() => {
                peer.dial = Dial::At(now + YIELD, state)
            }
            Dial::At(at, _) if at <= now => {
                self.last_connection += 2;
                let conn = ConnId(self.last_connection);
                peer.start_dialling(now, conn);
                self.by_connection.insert(conn, id);
                self.outputs.push_back(Output::Connect {
                    conn,
                    peer: peer.config.address,
                    local: peer.config.local_address,
                    port: peer.config.port,
                });
            }
            Dial::Connecting(conn, until) if until <= now => {
                self.outputs.push_back(Output::Close { conn });
                self.connect_failed(now, conn, "no answer to our connection attempt".to_owned());
            }
            _ => {}
        }
    }

    /// Gives up an attempt that is under way.
    pub(super) fn stop_dialling(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Dial::Connecting(conn, _) = peer.dial {
            self.by_connection.remove(&conn);
            self.outputs.push_back(Output::Close { conn });
        }
        peer.dial = Dial::Off;
    }

    pub(super) fn connected(&mut self, now: Instant, conn: ConnId, local: IpAddr) {
        let known = self.by_connection.get(&conn).copied();
        let Some((id, peer)) = known.and_then(|id| Some((id, self.peers.get_mut(&id)?))) else {
            self.outputs.push_back(Output::Close { conn });
            return;
        };
        if !matches!(peer.dial, Dial::Connecting(ours, _) if ours == conn) {
            return;
        }
        peer.dial = Dial::Off;
        // Where the peer's connection would win the collision anyway, ours need not begin.
        let theirs = peer.connections.iter().filter_map(Connection::agreed).next();
        let lost = theirs.is_some_and(|agreed| {
            winner((self.config.router_id, agreed.router_id), peer, self.config.asn) == Side::Theirs
        });
        if lost || peer.established().is_some() {
            self.by_connection.remove(&conn);
            self.outputs.push_back(Output::Close { conn });
        } else {
            self.open(now, id, (conn, Side::Ours, local));
        }
        self.rearm(now, id);
    }

    pub(super) fn connect_failed(&mut self, now: Instant, conn: ConnId, error: String) {
        let Some(id) = self.by_connection.remove(&conn) else { return };
        let router_id = self.config.router_id;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if matches!(peer.dial, Dial::Connecting(ours, _) if ours == conn) {
            if peer.connections.is_empty() {
                peer.unreachable = true;
                peer.tried = Some(error);
            }
            peer.dial_again(now, Retry::NoConnection, router_id);
        }
        self.rearm(now, id);
    }

    pub(super) fn accepted(&mut self, now: Instant, conn: ConnId, (from, local): (IpAddr, IpAddr)) {
        let local = local.to_canonical();
        let plain = match local {
            IpAddr::V6(local) => lasthop_net::scoped::link_of(local).0.into(),
            local => local,
        };
        let id = self.by_address.get(&from.to_canonical()).copied();
        let Some((id, peer)) = id.and_then(|id| Some((id, self.peers.get(&id)?))) else {
            self.outputs.push_back(Output::Close { conn });
            return;
        };
        let elsewhere = peer.config.local_address.is_some_and(|ours| ours != plain);
        // RFC 4724 section 5: a peer that does graceful restart may come back before we noticed that it went.
        let busy = peer.established().is_some_and(|c| c.agreed().is_none_or(|a| a.graceful_restart.is_none()));
        let unwanted = peer.is_barred(now);
        if self.running == Running::Stopped || elsewhere || busy || unwanted {
            self.outputs.push_back(Output::Close { conn });
            return;
        }
        // The peer opens one connection at a time: what it opened before is dead.
        let dead = peer.connections.iter().find(|c| c.side == Side::Theirs && c.phase() != Phase::Established);
        if let Some(dead) = dead.map(|connection| connection.id) {
            self.outputs.push_back(Output::Close { conn: dead });
            self.down(now, (id, dead), Down::Lost("replaced by a newer connection of the peer's".to_owned()));
        }
        self.by_connection.insert(conn, id);
        self.open(now, id, (conn, Side::Theirs, local));
        self.rearm(now, id);
    }

    fn open(&mut self, now: Instant, id: PeerId, (conn, side, local): (ConnId, Side, IpAddr)) {
        let Some(terms) = self.peers.get(&id).map(|peer| self.terms(now, peer)) else { return };
        let (connection, open) = Connection::new(now, (conn, side), local.to_canonical(), terms);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.connections.push(connection);
        }
        self.count_sent(id);
        self.outputs.push_back(Output::Send { conn, bytes: open.into() });
    }

    pub(super) fn received(&mut self, now: Instant, conn: ConnId, bytes: &[u8]) {
        let Some(&id) = self.by_connection.get(&conn) else { return };
        let connection =
            |speaker: &mut Self| -> Option<Event> { speaker.peers.get_mut(&id)?.connection(conn)?.next(now) };
        if let Some(connection) = self.peers.get_mut(&id).and_then(|peer| peer.connection(conn)) {
            connection.feed(bytes);
        }
        // An event may end the connection, and with it what is still unread.
        while let Some(event) = connection(self) {
            self.count_received(id, conn);
            self.event(now, (id, conn), event);
        }
        self.count_received(id, conn);
        self.rearm(now, id);
    }

    fn count_received(&mut self, id: PeerId, conn: ConnId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            let messages = peer.connection(conn).map_or(0, Connection::take_messages);
            peer.counters.messages_in += messages;
        }
    }

    /// A message that is no UPDATE goes out.
    pub(super) fn count_sent(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.counters.messages_out += 1;
        }
    }

    fn event(&mut self, now: Instant, (id, conn): (PeerId, ConnId), event: Event) {
        match event {
            Event::Send(bytes) => {
                self.count_sent(id);
                self.outputs.push_back(Output::Send { conn, bytes: bytes.into() });
            }
            Event::Opened => self.collide(now, (id, conn)),
            Event::Established => self.up(now, (id, conn)),
            Event::Update(update) => {
                self.monitor_update(now, (id, conn), &update);
                self.learn(id, update);
                self.check_limits(now, id);
            }
            Event::Refresh(Refresh::Request, family) => self.refresh(id, family),
            Event::Refresh(Refresh::Begin, family) => self.refresh_begins(now, id, family),
            Event::Refresh(Refresh::End, family) => self.refresh_ends(id, family),
            Event::Down(down) => self.down(now, (id, conn), down),
        }
    }

    pub(super) fn closed(&mut self, now: Instant, conn: ConnId, reason: String) {
        let Some(&id) = self.by_connection.get(&conn) else { return };
        if matches!(self.peers.get(&id), Some(Peer { dial: Dial::Connecting(ours, _), .. }) if *ours == conn) {
            self.connect_failed(now, conn, reason);
        } else {
            self.down(now, (id, conn), Down::Lost(reason));
            self.rearm(now, id);
        }
    }

    pub(super) fn congested(&mut self, now: Instant, conn: ConnId) {
        let Some(&id) = self.by_connection.get(&conn) else { return };
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.owed.congested.get_or_insert(now);
        }
        self.rearm(now, id);
    }

    pub(super) fn drained(&mut self, now: Instant, conn: ConnId) {
        let Some(&id) = self.by_connection.get(&conn) else { return };
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.owed.congested = None;
            self.lagging.insert(id);
        }
        self.rearm(now, id);
    }

    pub(super) fn timeout(&mut self, now: Instant) {
        let mut due: Vec<PeerId> = self.timers.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect();
        due.dedup();
        for id in due {
            self.dial_if_due(now, id);
            let open: Vec<ConnId> =
                self.peers.get(&id).map(|p| p.connections.iter().map(|c| c.id).collect()).unwrap_or_default();
            for conn in open {
                let connection = self.peers.get_mut(&id).and_then(|peer| peer.connection(conn));
                if let Some(event) = connection.and_then(|c| c.expire(now)) {
                    self.event(now, (id, conn), event);
                }
            }
            self.check_send_hold(now, id);
            self.check_helping(now, id);
            self.rearm(now, id);
        }
    }

    fn check_send_hold(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        if peer.send_hold().is_none_or(|at| at > now) {
            return;
        }
        if let Some(conn) = peer.established().map(|connection| connection.id) {
            let words = "the peer does not read what we send (RFC 9687)".to_owned();
            let notification = Notification::new(Notification::SEND_HOLD_TIMER, []);
            self.down(now, (id, conn), Down::Sent(notification, words));
        }
    }

    /// Acts where a peer announces more prefixes than it may, and warns before (RFC 4486 subcode 1).
    pub(super) fn check_limits(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let limits: Vec<(Family, PrefixLimit)> = peer.config.limits.iter().map(|(f, limit)| (*f, *limit)).collect();
        for (family, limit) in limits {
            let count = peer.count(family);
            let max = usize::try_from(limit.max).unwrap_or(usize::MAX);
            if count <= max / 100 * usize::from(limit.warn_percent) + max % 100 * usize::from(limit.warn_percent) / 100
            {
                peer.warned.remove(&family);
                continue;
            }
            if peer.warned.insert(family) {
                let address = peer.config.address;
                tracing::warn!(peer = %address, "{count} prefixes of {family}, of {max} it may announce");
                self.outputs.push_back(Output::PeerChanged { peer: address });
            }
            let LimitAction::Close(idle) = limit.action else { continue };
            let Some(conn) = peer.established().map(|connection| connection.id).filter(|_| count > max) else {
                continue;
            };
            peer.bar = Some(idle.map_or(Bar::UntilChanged, |idle| Bar::Until(now + idle)));
            let mut data = afi(family).to_be_bytes().to_vec();
            data.push(1);
            data.extend(limit.max.to_be_bytes());
            let words = format!("it announces {count} prefixes of {family}, and may announce {max}");
            self.down(now, (id, conn), Down::Sent(Notification::new(Notification::MAX_PREFIXES, data), words));
            return;
        }
    }

    /// RFC 5882 section 4.2, RFC 9384: a peer that is not heard any more is gone, and so are its routes.
    pub(super) fn liveness(&mut self, now: Instant, peer: IpAddr, (state, why): (bfd::State, bfd::Diagnostic)) {
        let Some(&id) = self.by_address.get(&peer.to_canonical()) else { return };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let was_up = peer.liveness.replace(state) == Some(bfd::State::Up);
        let address = peer.config.address;
        self.outputs.push_back(Output::PeerChanged { peer: address });
        // Section 3.2: what an operator has taken down says nothing of the way.
        if was_up && state != bfd::State::Up && why != bfd::Diagnostic::AdminDown {
            let Some(conn) = peer.established().map(|connection| connection.id) else { return };
            let words = format!("BFD: {why}");
            self.down(now, (id, conn), Down::Sent(Notification::new(Notification::BFD_DOWN, []), words));
            self.rearm(now, id);
        }
    }

    /// The peer is to be up, or not (RFC 9003).
    pub(super) fn administer(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        match peer.config.admin.clone() {
            Admin::Up => peer.dial_soon(now),
            Admin::Down(text) => {
                let words =
                    if text.is_empty() { "by our operator".to_owned() } else { format!("by our operator: '{text}'") };
                let words = format!("shut down {words}");
                self.reset(now, id, (Notification::shutdown(&text), &words));
                if let Some(peer) = self.peers.get_mut(&id) {
                    (peer.ended, peer.tried) = (Some(words), None);
                }
                self.drop_routes(id);
            }
        }
    }

    /// Collision detection, when a good OPEN came on `conn`. Connections still in OpenSent take part: their peer is the
    /// same, so both ends come to the same choice whichever OPEN they see first.
    fn collide(&mut self, now: Instant, (id, conn): (PeerId, ConnId)) {
        let Some(peer) = self.peers.get(&id) else { return };
        let Some(new) = peer.connections.iter().find(|c| c.id == conn) else { return };
        let Some(agreed) = new.agreed() else { return };
        let winner = winner((self.config.router_id, agreed.router_id), peer, self.config.asn);
        let (confirm, side) = (new.confirm(), new.side);
        if let Some(old) = peer.established() {
            let age = old.established_since().map(|since| now.duration_since(since));
            let old_id = old.id;
            if side == Side::Ours || age.is_none_or(|age| age < TAKE_OVER_AGE) {
                return self.collision(now, (id, conn));
            }
            self.outputs.push_back(Output::Close { conn: old_id });
            self.down(now, (id, old_id), Down::Lost("the peer opened a new connection".to_owned()));
        } else {
            let others: Vec<(ConnId, Side)> =
                peer.connections.iter().filter(|c| c.id != conn).map(|c| (c.id, c.side)).collect();
            if side != winner && others.iter().any(|(_, other)| *other == winner) {
                return self.collision(now, (id, conn));
            }
            for (other, _) in others {
                self.collision(now, (id, other));
            }
        }
        self.count_sent(id);
        self.outputs.push_back(Output::Send { conn, bytes: confirm.into() });
    }

    fn collision(&mut self, now: Instant, key: (PeerId, ConnId)) {
        let notification = Notification::new(Notification::COLLISION, []);
        self.down(now, key, Down::Sent(notification, "another connection to this peer is kept".to_owned()));
    }

    /// Both sides agreed.
    fn up(&mut self, now: Instant, (id, conn): (PeerId, ConnId)) {
        let others: Vec<ConnId> = match self.peers.get(&id) {
            Some(peer) => peer.connections.iter().map(|c| c.id).filter(|other| *other != conn).collect(),
            None => return,
        };
        for other in others {
            self.collision(now, (id, other));
        }
        self.stop_dialling(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.dialled();
        peer.counters.established += 1;
        peer.end_of_rib.clear();
        peer.warned.clear();
        peer.bar = None;
        (peer.ended, peer.tried) = (None, None);
        let Some((agreed, kind)) = peer.established().and_then(|c| Some((c.agreed()?.clone(), c.kind()))) else {
            return;
        };
        peer.owed = Owed { end_of_rib: agreed.families.clone(), ..Owed::default() };
        let (address, reflect) = (peer.config.address, peer.config.reflect);
        self.table.sources.insert(id, Source { address, router_id: agreed.router_id, kind, reflect });
        tracing::info!(peer = %address, "session established");
        self.monitor_up(now, id);
        self.peer_is_back(now, id, &agreed);
        self.regroup(now, id);
        self.lagging.insert(id);
    }

    /// Forgets a connection. The driver has closed it, or is told to.
    pub(super) fn down(&mut self, now: Instant, (id, conn): (PeerId, ConnId), down: Down) {
        self.by_connection.remove(&conn);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(place) = peer.connections.iter().position(|c| c.id == conn) else { return };
        let gone = peer.connections.remove(place);
        let keeps = gone.agreed().is_some_and(|agreed| agreed.notification);
        let words = ended::words(&down, (gone.terms(), gone.phase()));
        let retry = match &down {
            Down::Sent(notification, _) => {
                let hard = notification.is_final() && keeps && gone.established_since().is_some();
                let said = if hard { notification.hard() } else { notification.clone() };
                self.outputs.push_back(Output::Send { conn, bytes: said.encode().into() });
                self.outputs.push_back(Output::Close { conn });
                peer.counters.messages_out += 1;
                None
            }
            Down::Received(_) => {
                self.outputs.push_back(Output::Close { conn });
                None
            }
            Down::Lost(_) => Some(Retry::Lost),
        };
        let lasted = gone.established_since().map(|since| now.duration_since(since));
        if let Some(clock) = self.monitor.filter(|_| lasted.is_some()) {
            self.outputs.push_back(Output::Monitor(bmp::peer_down(peer, (&gone, &down), clock.of(now))));
        }
        if lasted.is_some() {
            peer.counters.lost += 1;
            *peer.endings.entry(Ending::of(&down)).or_default() += 1;
            tracing::warn!(peer = %peer.config.address, "session down: {words}");
        }
        if lasted.is_none() && matches!(down, Down::Lost(_)) {
            // What the last session ended with tells more.
            if peer.connections.is_empty() {
                peer.tried = Some(words);
            }
        } else if peer.connections.is_empty() || lasted.is_some() {
            (peer.ended, peer.tried) = (Some(words), None);
        }
        if peer.connections.is_empty() && !matches!(peer.dial, Dial::Connecting(..)) {
            let retry = match (lasted, retry) {
                (Some(_), Some(lost)) => lost,
                (lasted, None) => Retry::Error(lasted.unwrap_or_default()),
                (None, Some(_)) => Retry::NoConnection,
            };
            peer.unreachable |= retry != Retry::Lost;
            peer.dial_again(now, retry, self.config.router_id);
        }
        if lasted.is_some() {
            self.leave_group(id);
            self.session_lost(now, id, (gone, &down));
        }
    }

    /// Ends all connections of a peer with a NOTIFICATION and starts anew.
    pub(super) fn reset(&mut self, now: Instant, id: PeerId, (notification, words): (Notification, &str)) {
        self.stop_dialling(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let open: Vec<ConnId> = peer.connections.iter().map(|c| c.id).collect();
        for conn in open {
            self.down(now, (id, conn), Down::Sent(notification.clone(), words.to_owned()));
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.helping = Helping::No;
            if self.running == Running::Yes {
                peer.dial_soon(now);
            }
        }
    }

    /// Keeps the timer queue and the shown state right after anything happened to a peer.
    pub(super) fn rearm(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let deadline = peer.deadline();
        if deadline != peer.armed {
            if let Some(old) = std::mem::replace(&mut peer.armed, deadline) {
                self.timers.remove(&(old, id));
            }
            self.timers.extend(deadline.map(|at| (at, id)));
        }
        let state = peer.state();
        if state != peer.shown {
            // A reconnect attempt every few seconds is not news.
            let news = state == PeerState::Established || peer.shown == PeerState::Established;
            peer.shown = state;
            if news {
                peer.since = now;
                self.outputs.push_back(Output::PeerChanged { peer: peer.config.address });
            }
        }
    }
}

/// Whose connection is kept: that of the side with the higher identifier, then the larger AS (RFC 6286 section 2.3).
fn winner((ours, theirs): (std::net::Ipv4Addr, std::net::Ipv4Addr), peer: &Peer, asn: lasthop_net::Asn) -> Side {
    let ours = (ours.to_bits(), peer.config.local_asn.unwrap_or(asn));
    if ours > (theirs.to_bits(), peer.config.asn) { Side::Ours } else { Side::Theirs }
}

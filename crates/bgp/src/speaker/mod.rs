//! The speaker: peers, RIBs and the glue between them.
//!
//! * `sessions`: dialling, collision detection, sessions that come and go.
//! * `routes`: what is learned, what is chosen, what is sent.
//! * `restart`: graceful restart (RFC 4724), ours and the peers'.
//! * `reports`: what an operator can ask.
//!
//! Peers keep their deadlines in one queue, so a timer costs O(log peers). UPDATEs are made when the driver asks for
//! outputs, so that changes told in a row share messages.

mod reports;
mod restart;
mod routes;
mod sessions;
mod tables;

pub(crate) use tables::Row;

use crate::api::{ConnId, Input, Origin, Output, Start, StopMode};
use crate::attributes::{Attributes, Interned};
use crate::bmp::Clock;
use crate::config::{Effect, PeerConfig, SpeakerConfig};
use crate::peer::{Dial, Peer, PeerId};
use crate::rib::export::View;
use crate::rib::group::Group;
use crate::rib::table::Table;
use crate::session::Down;
use crate::wire::Notification;
use lasthop_net::Prefix;
use restart::Restart;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

/// A BGP speaker: bytes and time go in, bytes, learned routes and deadlines come out.
#[derive(Debug)]
pub struct Speaker {
    config: SpeakerConfig,
    started: Instant,
    running: Running,
    peers: BTreeMap<PeerId, Peer>,
    by_address: BTreeMap<IpAddr, PeerId>,
    by_connection: BTreeMap<ConnId, PeerId>,
    last_peer: u32,
    last_connection: u64,
    timers: BTreeSet<(Instant, PeerId)>,
    table: Table,
    attributes: Interned<Attributes>,
    groups: BTreeMap<View, Group>,
    path_ids: routes::PathNumbers,
    /// Peers that are owed something that is not sent with their group.
    lagging: BTreeSet<PeerId>,
    restart: Restart,
    outputs: VecDeque<Output>,
    /// Set while a monitoring station listens.
    monitor: Option<Clock>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Running {
    Yes,
    Stopped,
}

impl Speaker {
    /// A speaker without peers or routes.
    #[must_use]
    pub fn new(config: SpeakerConfig, start: Start, now: Instant) -> Self {
        Self {
            restart: Restart::new(start, now, config.deferral),
            config,
            started: now,
            running: Running::Yes,
            peers: BTreeMap::new(),
            by_address: BTreeMap::new(),
            by_connection: BTreeMap::new(),
            last_peer: PeerId::LOCAL.0,
            last_connection: 0,
            timers: BTreeSet::new(),
            table: Table::default(),
            attributes: Interned::default(),
            groups: BTreeMap::new(),
            path_ids: routes::PathNumbers::default(),
            lagging: BTreeSet::new(),
            outputs: VecDeque::new(),
            monitor: None,
        }
    }

    /// Our identifier in CLUSTER_LIST: by default the BGP identifier (RFC 4456 section 8).
    fn cluster_id(&self) -> Ipv4Addr {
        self.config.cluster_id.unwrap_or(self.config.router_id)
    }

    /// Changes who we are. A new AS or identifier resets the sessions; nothing else does.
    pub fn configure(&mut self, now: Instant, config: SpeakerConfig) {
        let old = std::mem::replace(&mut self.config, config);
        if (old.asn, old.router_id) != (self.config.asn, self.config.router_id) {
            let all: Vec<PeerId> = self.peers.keys().copied().collect();
            for id in all {
                let notification = Notification::new(Notification::CONFIGURATION_CHANGE, []);
                self.reset(now, id, (notification, "our AS or identifier changed"));
                self.drop_routes(id);
                self.rearm(now, id);
            }
        }
        if old.drain != self.config.drain {
            let all: Vec<PeerId> = self.peers.keys().copied().collect();
            all.into_iter().for_each(|id| self.regroup(now, id));
        }
        if (old.router_id, old.cluster_id, old.asn) != (self.config.router_id, self.config.cluster_id, self.config.asn)
        {
            self.judge_all_again();
        }
        self.check_in_sync(now);
    }

    /// Adds a peer, or changes it. The session is reset only if the change cannot take effect without that
    /// (AS, families, our address).
    pub fn set_peer(&mut self, now: Instant, mut config: PeerConfig) {
        config.address = config.address.to_canonical();
        let Some(&id) = self.by_address.get(&config.address) else {
            self.last_peer += 1;
            let id = PeerId(self.last_peer);
            self.by_address.insert(config.address, id);
            let mut peer = Peer::new(now, config);
            peer.dial_soon(now);
            self.peers.insert(id, peer);
            self.dial_if_due(now, id);
            self.rearm(now, id);
            return;
        };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.config == config {
            return;
        }
        let old = std::mem::replace(&mut peer.config, config);
        let new = &peer.config;
        let changes = old.changes(new);
        if let Some(changed) = changes.iter().find(|changed| changed.effect == Effect::Reset) {
            tracing::info!(peer = %new.address, field = changed.field, "the session is reset by a change of its configuration");
            let notification = Notification::new(Notification::CONFIGURATION_CHANGE, []);
            self.reset(now, id, (notification, "the configuration of the peer changed"));
            self.drop_routes(id);
        } else {
            let (connect, limits, admin) =
                (old.connect != new.connect, old.limits != new.limits, old.admin != new.admin);
            if new.bfd.is_none() {
                peer.liveness = None;
            }
            if limits {
                peer.bar = None;
            }
            if (connect || limits) && peer.connections.is_empty() {
                peer.dial_soon(now);
            }
            if admin {
                self.administer(now, id);
            }
            if limits {
                self.check_limits(now, id);
            }
            self.regroup(now, id);
            self.judge_again(id);
        }
        self.rearm(now, id);
    }

    /// Removes a peer with all it told us.
    pub fn remove_peer(&mut self, now: Instant, peer: IpAddr) {
        let Some(id) = self.by_address.remove(&peer.to_canonical()) else { return };
        self.reset(now, id, (Notification::new(Notification::DECONFIGURED, []), "the peer was removed"));
        self.drop_routes(id);
        self.table.sources.remove(&id);
        self.path_ids.forget(id);
        if let Some(Peer { armed: Some(at), .. }) = self.peers.remove(&id) {
            self.timers.remove(&(at, id));
        }
        self.outputs.push_back(Output::PeerChanged { peer });
        self.check_in_sync(now);
    }

    /// Announces an own route, or changes how.
    pub fn advertise(&mut self, _now: Instant, prefix: Prefix, origin: Origin) {
        let mut attributes = Attributes::bare(Prefix::default_route(prefix.family()).address());
        attributes.local_pref = Some(origin.local_pref);
        attributes.med = origin.med;
        let attributes = self.attributes.get(attributes);
        self.change(prefix, |entry| entry.own = Some(attributes));
    }

    /// Takes an own route back.
    pub fn withdraw(&mut self, _now: Instant, prefix: Prefix) {
        self.change(prefix, |entry| entry.own = None);
    }

    /// All own routes are known: End-of-RIB may go out.
    pub fn own_routes_complete(&mut self, now: Instant) {
        self.restart.own_routes_complete();
        self.check_in_sync(now);
        self.release_end_of_rib();
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Connected { conn, peer: _, local } => self.connected(now, conn, local),
            Input::ConnectFailed { conn, peer: _, error } => self.connect_failed(now, conn, error),
            Input::Accepted { conn, peer, local } => self.accepted(now, conn, (peer, local)),
            Input::Received { conn, bytes } => return self.receive(now, conn, &bytes),
            Input::Closed { conn, reason } => self.closed(now, conn, reason),
            Input::Congested { conn } => self.congested(now, conn),
            Input::Drained { conn } => self.drained(now, conn),
            Input::Liveness { peer, state, diagnostic } => self.liveness(now, peer, (state, diagnostic)),
            Input::Timeout => self.timeout(now),
        }
        self.check_in_sync(now);
    }

    /// Takes received octets.
    pub fn receive(&mut self, now: Instant, conn: ConnId, bytes: &[u8]) {
        self.received(now, conn, bytes);
        self.check_in_sync(now);
    }

    /// When [`Input::Timeout`] is due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.running == Running::Stopped {
            return None;
        }
        let peers = self.timers.first().map(|(at, _)| *at);
        peers.into_iter().chain(self.restart.next_check()).min()
    }

    /// The next thing to do. Call until `None` after every other call.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() {
            self.flush();
            if self.outputs.is_empty() {
                // A burst of routes leaves a large queue behind.
                self.outputs.shrink_to(64);
            }
        }
        self.outputs.pop_front()
    }

    /// Ends all sessions, for good.
    pub fn stop(&mut self, now: Instant, mode: StopMode) {
        // What is due goes out before the sessions end.
        self.flush();
        self.running = Running::Stopped;
        let all: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in all {
            match mode {
                StopMode::Cease => self.reset(now, id, (Notification::new(Notification::SHUTDOWN, []), "we stop")),
                StopMode::KeepRoutes => {
                    let open: Vec<ConnId> =
                        self.peers.get(&id).map(|p| p.connections.iter().map(|c| c.id).collect()).unwrap_or_default();
                    for conn in open {
                        self.outputs.push_back(Output::Close { conn });
                        self.down(now, (id, conn), Down::Lost("we stop".to_owned()));
                    }
                    self.stop_dialling(id);
                }
            }
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.dial = Dial::Off;
            }
        }
    }
}

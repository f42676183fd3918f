//! A peer: its configuration, its connections (at most a few, of which one survives), when to dial, and what it told us.

use crate::api::ConnId;
use crate::attributes::Attributes;
use crate::bfd;
use crate::config::{Admin, ConnectMode, PeerConfig, Role};
use crate::ended::Ending;
use crate::report::{PeerCounters, PeerState};
use crate::rib::group::Place;
use crate::session::{Connection, Phase};
use crate::wire::nlri::Nlri;
use crate::wire::update::PeerKind;
use lasthop_net::{Asn, Family, Prefix, PrefixMap, scoped};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A peer in tables; never used again after the peer is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PeerId(pub(crate) u32);

impl PeerId {
    /// Where own routes come from.
    pub(crate) const LOCAL: Self = Self(0);
}

/// Whether we try to connect (RFC 4271 section 8.2.2: Idle, Connect, Active).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dial {
    /// Not at all: passive, or a connection is there.
    Off,
    /// At this time; until then the peer shows this state.
    At(Instant, PeerState),
    /// Waiting for TCP, given up at the time named.
    Connecting(ConnId, Instant),
}

/// What we keep of a peer that restarts (RFC 4724 section 4.2).
#[derive(Clone, Debug)]
pub(crate) enum Helping {
    /// Nothing.
    No,
    /// It is gone; routes of these families are stale, and dropped at the time named.
    Away { families: BTreeSet<Family>, until: Instant },
    /// Its restart time is over; routes of these families are kept as the last choice until then (RFC 9494).
    LongLived(BTreeMap<Family, Instant>),
    /// It is back; stale routes of these families wait for End-of-RIB, at most until the time named.
    Back { families: BTreeSet<Family>, until: Instant },
}

/// How long a peer that announced too many prefixes stays down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bar {
    Until(Instant),
    /// Its limits.
    UntilChanged,
}

/// What a peer is still owed of its update group's table.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    /// Prefixes whose present state it has to be told.
    pub(crate) prefixes: BTreeSet<Nlri>,
    /// It is told no changes as they come: it is owed those from this one on of the group's log.
    pub(crate) since: Option<u64>,
    /// It is owed the table, of each of these families what comes after the prefix. It is told changes meanwhile.
    pub(crate) walks: BTreeMap<Family, Option<Prefix>>,
    /// Families whose refresh ends when all of it is sent (RFC 7313).
    pub(crate) refresh: BTreeSet<Family>,
    /// Families whose End-of-RIB has to follow.
    pub(crate) end_of_rib: BTreeSet<Family>,
    /// The driver's queue is full since then.
    pub(crate) congested: Option<Instant>,
}

impl Owed {
    /// Where it is in the table of its group, if it is owed anything of that.
    pub(crate) fn place(&self) -> Option<Place> {
        let walk = || self.walks.iter().next().map(|(family, last)| Place::Walk(*family, *last));
        self.since.map(Place::Log).or_else(walk)
    }
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) config: PeerConfig,
    pub(crate) dial: Dial,
    last_dial: Option<Instant>,
    failures: u32,
    pub(crate) connections: Vec<Connection>,
    /// The state last reported.
    pub(crate) shown: PeerState,
    /// How its last session, or try to agree on one, ended.
    pub(crate) ended: Option<String>,
    /// What becomes of tries to connect since then.
    pub(crate) tried: Option<String>,
    /// When its session last came up or went down.
    pub(crate) since: Instant,
    /// How often its sessions ended in which way.
    pub(crate) endings: BTreeMap<Ending, u64>,
    pub(crate) counters: PeerCounters,
    pub(crate) helping: Helping,
    /// How long its stale routes may live after its restart time, as it last said.
    pub(crate) long_lived: BTreeMap<Family, Duration>,
    /// Families whose End-of-RIB came in this session.
    pub(crate) end_of_rib: BTreeSet<Family>,
    /// Whether a try to reach it failed since the start.
    pub(crate) unreachable: bool,
    /// Its prefixes in the Loc-RIB.
    pub(crate) prefixes: PrefixMap<()>,
    /// What it told us where the import policy changed something.
    pub(crate) told: BTreeMap<Nlri, Arc<Attributes>>,
    pub(crate) refused: usize,
    pub(crate) stale: usize,
    pub(crate) owed: Owed,
    /// Why it may not come back yet.
    pub(crate) bar: Option<Bar>,
    /// Families of which it announces nearly too many prefixes; that has been said.
    pub(crate) warned: BTreeSet<Family>,
    /// What BFD says of it, where it is asked.
    pub(crate) liveness: Option<bfd::State>,
    /// It is telling us everything again (RFC 7313), and is given until then.
    pub(crate) refreshing: Option<Instant>,
    /// The deadline the speaker's timer queue holds for it.
    pub(crate) armed: Option<Instant>,
}

/// TCP that is not up after this is given up and tried again.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
const MIN_RETRY: Duration = Duration::from_secs(1);
const MAX_CONNECT_RETRY: Duration = Duration::from_secs(8);
const MAX_ERROR_RETRY: Duration = Duration::from_secs(60);
/// A session that lasted this long was no failure.
const STABLE: Duration = Duration::from_secs(10);

/// Why a peer is to be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// TCP did not come up.
    NoConnection,
    /// The session was refused or broken by a NOTIFICATION, after this time in Established.
    Error(Duration),
    /// An Established session lost its TCP.
    Lost,
}

impl Peer {
    pub(crate) fn new(now: Instant, config: PeerConfig) -> Self {
        Self {
            config,
            dial: Dial::Off,
            last_dial: None,
            failures: 0,
            connections: Vec::new(),
            shown: PeerState::Idle,
            ended: None,
            tried: None,
            since: now,
            endings: BTreeMap::new(),
            counters: PeerCounters::default(),
            helping: Helping::No,
            long_lived: BTreeMap::new(),
            end_of_rib: BTreeSet::new(),
            unreachable: false,
            prefixes: PrefixMap::default(),
            told: BTreeMap::new(),
            refused: 0,
            stale: 0,
            owed: Owed::default(),
            bar: None,
            warned: BTreeSet::new(),
            liveness: None,
            refreshing: None,
            armed: None,
        }
    }

    /// What it is to us, whose AS is `asn` where the peer is told no other.
    pub(crate) fn kind(&self, asn: Asn) -> PeerKind {
        let ours = self.config.local_asn.unwrap_or(asn);
        if ours == self.config.asn { PeerKind::Internal } else { PeerKind::External }
    }

    /// What we are to it (RFC 9234), on an external session.
    pub(crate) fn role(&self, asn: Asn) -> Option<Role> {
        self.config.role.filter(|_| self.kind(asn) == PeerKind::External)
    }

    /// Whether it may not be connected with now.
    pub(crate) fn is_barred(&self, now: Instant) -> bool {
        self.config.admin != Admin::Up
            || match self.bar {
                None => false,
                Some(Bar::Until(end)) => now < end,
                Some(Bar::UntilChanged) => true,
            }
    }

    /// Why there is no session, in one line.
    pub(crate) fn last_error(&self) -> Option<String> {
        match (&self.ended, &self.tried) {
            (Some(ended), Some(tried)) => Some(format!("{ended}; since then {tried}")),
            (ended, tried) => ended.clone().or_else(|| tried.clone()),
        }
    }

    /// How many prefixes of a family it announces.
    pub(crate) fn count(&self, family: Family) -> usize {
        self.prefixes.count(family)
    }

    pub(crate) fn established(&self) -> Option<&Connection> {
        self.connections.iter().find(|connection| connection.phase() == Phase::Established)
    }

    pub(crate) fn connection(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.id == id)
    }

    pub(crate) fn state(&self) -> PeerState {
        match self.connections.iter().map(Connection::phase).max() {
            Some(Phase::Established) => PeerState::Established,
            Some(Phase::OpenConfirm) => PeerState::OpenConfirm,
            Some(Phase::OpenSent) => PeerState::OpenSent,
            None => match self.dial {
                Dial::Off if self.config.admin != Admin::Up || self.bar.is_some() => PeerState::Idle,
                Dial::Off => PeerState::Active,
                Dial::At(_, state) => state,
                Dial::Connecting(..) => PeerState::Connect,
            },
        }
    }

    /// Dials at once, or as soon as a try a second allows.
    pub(crate) fn dial_soon(&mut self, now: Instant) {
        self.dial = match (self.config.connect, self.bar) {
            _ if self.config.admin != Admin::Up => Dial::Off,
            (ConnectMode::Passive, _) | (_, Some(Bar::UntilChanged)) => Dial::Off,
            (ConnectMode::Active, bar) => {
                let earliest = self.last_dial.map_or(now, |last| now.max(last + MIN_RETRY));
                let earliest = match bar {
                    Some(Bar::Until(end)) => earliest.max(end),
                    _ => earliest,
                };
                Dial::At(earliest, PeerState::Idle)
            }
        };
    }

    /// Plans the next try. `router_id` makes the two ends of a session differ in their jitter.
    pub(crate) fn dial_again(&mut self, now: Instant, retry: Retry, router_id: Ipv4Addr) {
        let (ceiling, state) = match retry {
            Retry::Lost => {
                self.failures = 0;
                return self.dial_soon(now);
            }
            Retry::Error(lasted) if lasted >= STABLE => {
                self.failures = 0;
                (MAX_ERROR_RETRY, PeerState::Idle)
            }
            Retry::Error(_) => (MAX_ERROR_RETRY, PeerState::Idle),
            Retry::NoConnection => (MAX_CONNECT_RETRY, PeerState::Active),
        };
        self.failures = self.failures.saturating_add(1);
        if self.bar.is_some() || self.config.connect == ConnectMode::Passive || self.config.admin != Admin::Up {
            return self.dial_soon(now);
        }
        let doubled = MIN_RETRY.saturating_mul(1 << (self.failures - 1).min(8)).min(ceiling);
        let delay = doubled.mul_f64(jitter(router_id, self.config.address, self.failures)).max(MIN_RETRY);
        self.dial = Dial::At(now + delay, state);
    }

    /// The session is up: no dialling.
    pub(crate) fn dialled(&mut self) {
        self.dial = Dial::Off;
        self.unreachable = false;
    }

    pub(crate) fn start_dialling(&mut self, now: Instant, conn: ConnId) {
        self.last_dial = Some(now);
        self.dial = Dial::Connecting(conn, now + CONNECT_WAIT);
    }

    /// When something is due for this peer. `send_hold` is how long it may leave what we send unread.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let dial = match self.dial {
            Dial::Off => None,
            Dial::At(at, _) | Dial::Connecting(_, at) => Some(at),
        };
        let helping = match self.helping {
            Helping::No => None,
            Helping::LongLived(ref until) => until.values().min().copied(),
            Helping::Away { until, .. } | Helping::Back { until, .. } => Some(until),
        };
        let connections = self.connections.iter().filter_map(Connection::deadline);
        connections.chain(dial).chain(helping).chain(self.refreshing).chain(self.send_hold()).min()
    }

    /// RFC 9687: when a peer that does not read is given up: after 8 minutes or twice the hold time, the longer of both.
    pub(crate) fn send_hold(&self) -> Option<Instant> {
        let hold = self.established()?.agreed()?.hold_time?;
        self.owed.congested.map(|since| since + Duration::from_secs(480).max(hold * 2))
    }

    /// Addresses that are ours in the eyes of this peer.
    pub(crate) fn is_ours(&self, address: IpAddr) -> bool {
        let address = match address {
            IpAddr::V6(address) => scoped::link_of(address).0.into(),
            address => address,
        };
        let config = &self.config;
        self.established().is_some_and(|connection| connection.local == address)
            || config.local_address == Some(address)
            || config.next_hop_v4.map(IpAddr::from) == Some(address)
            || config.next_hop_v6.map(IpAddr::from) == Some(address)
    }
}

/// 0.75 to 1 (RFC 4271 section 10), the same for the same arguments (FNV-1a).
fn jitter(router_id: Ipv4Addr, peer: IpAddr, attempt: u32) -> f64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |octets: &[u8]| {
        for octet in octets {
            hash = (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    mix(&router_id.octets());
    match peer {
        IpAddr::V4(address) => mix(&address.octets()),
        IpAddr::V6(address) => mix(&address.octets()),
    }
    mix(&attempt.to_be_bytes());
    let part = u16::try_from((hash >> 32) & 0x3ff).unwrap_or(0);
    0.75 + f64::from(part) / 4096.0
}

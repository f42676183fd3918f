//! One connection from TCP up to its end: the state machine of RFC 4271 section 8.2.2, from OpenSent on.
//!
//! A state carries what is known in it. Idle, Connect and Active, and the choice between two connections, are `peer`'s.
//!
//! ```text
//!  TCP up ──▶ OpenSent ──OPEN──▶ OpenConfirm ──KEEPALIVE──▶ Established ──▶ UPDATE, ROUTE-REFRESH, KEEPALIVE …
//!                │                   │                          │
//!                └──── error, NOTIFICATION, hold timer, TCP gone ┴──▶ Down (the connection is forgotten)
//! ```

use crate::api::ConnId;
use crate::config::{Role, RoleMode};
use crate::ended::role_name;
use crate::wire::capability::{Capabilities, Forwarding, GracefulRestart, PathsMode};
use crate::wire::open::Open;
use crate::wire::update::{Context, PeerKind, Update};
use crate::wire::{
    AsnWidth, Framed, MAX_EXTENDED_LEN, MAX_LEN, MessageType, Notification, Outcome, Refresh, WireError, keepalive,
    parse_route_refresh, split,
};
use lasthop_net::{Asn, Family, IfIndex, scoped};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Ours,
    Theirs,
}

/// What we say in our OPEN and expect in theirs.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) local_asn: Asn,
    pub(crate) peer_asn: Asn,
    pub(crate) router_id: Ipv4Addr,
    /// In seconds.
    pub(crate) hold_time: u16,
    pub(crate) families: BTreeSet<Family>,
    pub(crate) graceful_restart: Option<GracefulRestart>,
    pub(crate) long_lived: Option<BTreeMap<Family, (Forwarding, Duration)>>,
    pub(crate) role: Option<(Role, RoleMode)>,
    pub(crate) extended_next_hop: bool,
    pub(crate) add_path: BTreeMap<Family, PathsMode>,
}

impl Terms {
    pub(crate) fn kind(&self) -> PeerKind {
        if self.local_asn == self.peer_asn { PeerKind::Internal } else { PeerKind::External }
    }

    fn open(&self) -> Open {
        Open {
            asn: self.local_asn,
            hold_time: self.hold_time,
            router_id: self.router_id,
            capabilities: Capabilities {
                families: self.families.clone(),
                multiprotocol: true,
                asn4: Some(self.local_asn),
                route_refresh: true,
                extended_message: true,
                graceful_restart: self.graceful_restart.clone(),
                long_lived: self.long_lived.clone(),
                enhanced_refresh: true,
                add_path: self.add_path.clone(),
                extended_next_hop: self.extended_next_hop,
                role: self.role.filter(|_| self.kind() == PeerKind::External).map(|(role, _)| role),
                two_roles: false,
            },
        }
    }
}

/// What both OPENs together mean.
#[derive(Clone, Debug)]
pub(crate) struct Agreed {
    pub(crate) router_id: Ipv4Addr,
    pub(crate) families: BTreeSet<Family>,
    pub(crate) width: AsnWidth,
    pub(crate) route_refresh: bool,
    pub(crate) extended_message: bool,
    /// `None`: no keepalives and no hold timer.
    pub(crate) hold_time: Option<Duration>,
    /// The peer's, if we take part.
    pub(crate) graceful_restart: Option<GracefulRestart>,
    /// Both keep routes over a NOTIFICATION (RFC 8538).
    pub(crate) notification: bool,
    /// The peer's, if we take part (RFC 9494).
    pub(crate) long_lived: Option<BTreeMap<Family, (Forwarding, Duration)>>,
    pub(crate) enhanced_refresh: bool,
    pub(crate) extended_next_hop: bool,
    /// Families in which it sends us several paths, and in which we may send it several (RFC 7911).
    pub(crate) paths_in: BTreeSet<Family>,
    pub(crate) paths_out: BTreeSet<Family>,
}

#[derive(Clone, Copy, Debug)]
struct Timers {
    hold: Option<Instant>,
    keepalive: Option<Instant>,
}

#[derive(Debug)]
enum State {
    OpenSent { until: Instant },
    OpenConfirm { agreed: Agreed, timers: Timers },
    Established { agreed: Agreed, timers: Timers, since: Instant },
}

/// Which state a connection is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    OpenSent,
    OpenConfirm,
    Established,
}

/// What a connection came to.
#[derive(Debug)]
pub(crate) enum Event {
    Send(Vec<u8>),
    /// The peer's OPEN is good: time for collision detection, then [`Connection::confirm`].
    Opened,
    Established,
    Update(Update),
    Refresh(Refresh, Family),
    /// To be forgotten.
    Down(Down),
}

/// How a connection ended.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    /// With a NOTIFICATION of ours, for a reason in words.
    Sent(Notification, String),
    /// With one of theirs.
    Received(Notification),
    /// Without any: TCP is gone. Routes may be kept (RFC 4724 section 4.2).
    Lost(String),
}

impl From<WireError> for Down {
    fn from(error: WireError) -> Self {
        // The NOTIFICATION is told beside it. An OPEN has one octet that can mean what is wrong.
        let words = match error.path {
            "OPEN" => error.reason.clone(),
            path => format!("{path}, octet {}: {}", error.offset, error.reason),
        };
        match error.outcome {
            Outcome::Reset(notification) => Self::Sent(notification, words),
            _ => Self::Sent(Notification::new((6, 0), []), words),
        }
    }
}

/// A connection whose TCP is up.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnId,
    pub(crate) side: Side,
    pub(crate) local: IpAddr,
    /// The link it is on, if its addresses are link-local.
    pub(crate) link: Option<IfIndex>,
    terms: Terms,
    state: State,
    buffer: Vec<u8>,
    read: usize,
    /// Where the last message that was read begins.
    last: usize,
    /// The peer's OPEN as it came.
    their_open: Vec<u8>,
    /// Messages read since they were last counted.
    messages: u64,
}

/// RFC 4271 section 8.2.2 suggests 4 minutes; a peer that has not said OPEN within one will not.
const OPEN_WAIT: Duration = Duration::from_secs(60);

impl Connection {
    /// A connection that just came up, and the OPEN to send on it.
    pub(crate) fn new(now: Instant, (id, side): (ConnId, Side), local: IpAddr, terms: Terms) -> (Self, Vec<u8>) {
        let open = terms.open().encode();
        let state = State::OpenSent { until: now + OPEN_WAIT };
        let (local, link) = match local.to_canonical() {
            IpAddr::V6(local) => {
                let (local, link) = scoped::link_of(local);
                (local.into(), link)
            }
            local => (local, None),
        };
        (
            Self {
                id,
                side,
                local,
                link,
                terms,
                state,
                buffer: Vec::new(),
                read: 0,
                last: 0,
                their_open: Vec::new(),
                messages: 0,
            },
            open,
        )
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.state {
            State::OpenSent { .. } => Phase::OpenSent,
            State::OpenConfirm { .. } => Phase::OpenConfirm,
            State::Established { .. } => Phase::Established,
        }
    }

    pub(crate) fn agreed(&self) -> Option<&Agreed> {
        match &self.state {
            State::OpenSent { .. } => None,
            State::OpenConfirm { agreed, .. } | State::Established { agreed, .. } => Some(agreed),
        }
    }

    pub(crate) fn established_since(&self) -> Option<Instant> {
        match self.state {
            State::Established { since, .. } => Some(since),
            _ => None,
        }
    }

    pub(crate) fn kind(&self) -> PeerKind {
        self.terms.kind()
    }

    /// What we offered in it.
    pub(crate) fn terms(&self) -> &Terms {
        &self.terms
    }

    pub(crate) fn local_asn(&self) -> Asn {
        self.terms.local_asn
    }

    /// Takes octets from the stream; [`Connection::next`] then says what they mean.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        if self.read > 0 {
            self.buffer.drain(..self.read);
            self.read = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// What the next whole message means, until there is none.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Event> {
        loop {
            let max = match &self.state {
                State::Established { agreed, .. } if agreed.extended_message => MAX_EXTENDED_LEN,
                _ => MAX_LEN,
            };
            let unread = self.buffer.get(self.read..).unwrap_or_default();
            let (kind, body, taken) = match split(unread, max) {
                Ok(Framed::Message(kind, body, taken)) => (kind, body, taken),
                Ok(Framed::Partial) => {
                    self.compact();
                    return None;
                }
                // RFC 4271 section 6.4: a NOTIFICATION is never answered with one.
                Err(_) if unread.get(18) == Some(&(MessageType::Notification as u8)) => {
                    return Some(Event::Down(Down::Received(Notification::new((0, 0), []))));
                }
                Err(error) => return Some(Event::Down(error.into())),
            };
            if kind == MessageType::Open {
                self.their_open = unread.get(..taken).unwrap_or_default().to_vec();
            }
            self.last = self.read;
            self.read += taken;
            self.messages += 1;
            let event = step(&mut self.state, &self.terms, (now, kind, body));
            if event.is_some() {
                return event;
            }
        }
    }

    /// The message that the last event came from, whole.
    pub(crate) fn last_message(&self) -> &[u8] {
        self.buffer.get(self.last..self.read).unwrap_or_default()
    }

    /// The OPEN that we sent.
    pub(crate) fn our_open(&self) -> Vec<u8> {
        self.terms.open().encode()
    }

    /// The peer's OPEN as it came.
    pub(crate) fn their_open(&self) -> &[u8] {
        &self.their_open
    }

    /// Our port and the peer's, as far as they are known: that of the end that was connected to.
    pub(crate) fn ports(&self, listening: u16) -> (u16, u16) {
        match self.side {
            Side::Ours => (0, listening),
            Side::Theirs => (listening, 0),
        }
    }

    /// How many messages were read since the last call.
    pub(crate) fn take_messages(&mut self) -> u64 {
        std::mem::take(&mut self.messages)
    }

    /// Gives memory back when nothing is left to read.
    fn compact(&mut self) {
        if self.read == self.buffer.len() {
            self.read = 0;
            self.buffer.clear();
            self.buffer.shrink_to(MAX_LEN);
        }
    }

    /// Ends collision detection in favour of this connection: the KEEPALIVE that confirms the peer's OPEN.
    pub(crate) fn confirm(&self) -> Vec<u8> {
        keepalive()
    }

    /// When [`Connection::expire`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::OpenSent { until } => Some(*until),
            State::OpenConfirm { timers, .. } | State::Established { timers, .. } => {
                timers.hold.into_iter().chain(timers.keepalive).min()
            }
        }
    }

    /// Acts on timers that are due.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Event> {
        let expired = |words: &str| {
            Some(Event::Down(Down::Sent(Notification::new(Notification::HOLD_TIMER, []), words.to_owned())))
        };
        match &mut self.state {
            State::OpenSent { until } if *until <= now => expired("no OPEN from the peer"),
            State::OpenSent { .. } => None,
            State::OpenConfirm { agreed, timers } | State::Established { agreed, timers, .. } => {
                if timers.hold.is_some_and(|at| at <= now) {
                    let hold = agreed.hold_time.unwrap_or_default().as_secs();
                    return expired(&format!("hold timer: nothing heard for {hold} s"));
                }
                timers.keepalive.filter(|at| *at <= now)?;
                timers.keepalive = agreed.hold_time.map(|hold| now + hold / 3);
                Some(Event::Send(keepalive()))
            }
        }
    }
}

/// One message in one state.
fn step(state: &mut State, terms: &Terms, (now, kind, body): (Instant, MessageType, &[u8])) -> Option<Event> {
    if kind == MessageType::Notification {
        return Some(Event::Down(Down::Received(Notification::parse(body))));
    }
    match (&mut *state, kind) {
        (State::OpenSent { .. }, MessageType::Open) => match Open::parse(body).and_then(|open| agree(terms, &open)) {
            Ok(agreed) => {
                let timers = Timers {
                    hold: agreed.hold_time.map(|hold| now + hold),
                    keepalive: agreed.hold_time.map(|hold| now + hold / 3),
                };
                *state = State::OpenConfirm { agreed, timers };
                Some(Event::Opened)
            }
            Err(error) => Some(Event::Down(error.into())),
        },
        (State::OpenConfirm { agreed, timers }, MessageType::Keepalive) => {
            timers.hold = agreed.hold_time.map(|hold| now + hold);
            *state = State::Established { agreed: agreed.clone(), timers: *timers, since: now };
            Some(Event::Established)
        }
        (State::Established { agreed, timers, .. }, MessageType::Keepalive | MessageType::Update) => {
            timers.hold = agreed.hold_time.map(|hold| now + hold);
            if kind == MessageType::Keepalive {
                return None;
            }
            let context = Context {
                kind: terms.kind(),
                asn4: agreed.width == AsnWidth::Four,
                families: &agreed.families,
                extended_next_hop: agreed.extended_next_hop,
                paths: &agreed.paths_in,
            };
            Some(Update::parse(body, &context).map_or_else(|error| Event::Down(error.into()), Event::Update))
        }
        (State::Established { agreed, .. }, MessageType::RouteRefresh) => {
            if agreed.enhanced_refresh && body.len() != 4 {
                // RFC 7313 section 5.
                let words = format!("a ROUTE-REFRESH of {} octets where 4 are right", body.len());
                return Some(Event::Down(Down::Sent(Notification::new((7, 1), body), words)));
            }
            let (refresh, family) = parse_route_refresh(body)?;
            let known = agreed.families.contains(&family) && (refresh == Refresh::Request || agreed.enhanced_refresh);
            known.then_some(Event::Refresh(refresh, family))
        }
        // RFC 6608.
        (state, kind) => {
            let (subcode, name) = match state {
                State::OpenSent { .. } => (1, "OpenSent"),
                State::OpenConfirm { .. } => (2, "OpenConfirm"),
                State::Established { .. } => (3, "Established"),
            };
            let words = format!("a message of type {kind:?} is not expected in {name}");
            Some(Event::Down(Down::Sent(Notification::new((5, subcode), [kind as u8]), words)))
        }
    }
}

/// RFC 4271 section 6.2 as far as it needs our side, and what both OPENs make together.
fn agree(terms: &Terms, open: &Open) -> Result<Agreed, WireError> {
    let refuse =
        |offset: usize, reason: String, code: (u8, u8)| Err(WireError::reset(offset, "OPEN", reason, (code, [])));
    if open.asn != terms.peer_asn {
        return refuse(20, format!("it is AS {}, and AS {} is configured for it", open.asn, terms.peer_asn), (2, 2));
    }
    if open.router_id == terms.router_id && terms.kind() == PeerKind::Internal {
        return refuse(24, format!("its identifier {} is our own: give each its own", open.router_id), (2, 3));
    }
    let theirs = &open.capabilities;
    // RFC 4760 section 8: without the capability, IPv4 unicast it is.
    let offered = if theirs.multiprotocol { theirs.families.clone() } else { BTreeSet::from([Family::V4]) };
    let families: BTreeSet<Family> = terms.families.intersection(&offered).copied().collect();
    if families.is_empty() && !terms.families.is_empty() {
        let missing = Capabilities { families: terms.families.clone(), ..Capabilities::default() };
        let list = |families: &BTreeSet<Family>| {
            let words: Vec<String> = families.iter().map(ToString::to_string).collect();
            if words.is_empty() { "none that we know".to_owned() } else { words.join(", ") }
        };
        let reason = format!("no address family in common: ours {}, its {}", list(&terms.families), list(&offered));
        return Err(WireError::reset(28, "OPEN", reason, ((2, 7), missing.encode())));
    }
    check_role(terms, theirs)?;
    let hold = terms.hold_time.min(open.hold_time);
    let both = |ours: fn(&PathsMode) -> bool, other: fn(&PathsMode) -> bool| {
        let offered = |family: &&Family| {
            terms.add_path.get(family).is_some_and(ours) && theirs.add_path.get(family).is_some_and(other)
        };
        families.iter().filter(offered).copied().collect::<BTreeSet<Family>>()
    };
    let ours_notify = terms.graceful_restart.as_ref().is_some_and(|restart| restart.notification);
    let their_restart = theirs.graceful_restart.clone().filter(|_| terms.graceful_restart.is_some());
    Ok(Agreed {
        router_id: open.router_id,
        width: if theirs.asn4.is_some() { AsnWidth::Four } else { AsnWidth::Two },
        route_refresh: theirs.route_refresh,
        extended_message: theirs.extended_message,
        hold_time: (hold > 0).then(|| Duration::from_secs(u64::from(hold))),
        notification: ours_notify && their_restart.as_ref().is_some_and(|restart| restart.notification),
        // RFC 9494 section 4.2: without graceful restart it means nothing.
        long_lived: theirs.long_lived.clone().filter(|_| terms.long_lived.is_some() && their_restart.is_some()),
        graceful_restart: their_restart,
        enhanced_refresh: theirs.enhanced_refresh,
        extended_next_hop: terms.extended_next_hop && theirs.extended_next_hop,
        paths_in: both(|ours| ours.receives, |other| other.sends),
        paths_out: both(|ours| ours.sends, |other| other.receives),
        families,
    })
}

/// RFC 9234 section 4.2: the roles of both ends must be a pair.
fn check_role(terms: &Terms, theirs: &Capabilities) -> Result<(), WireError> {
    let Some((ours, mode)) = terms.role.filter(|_| terms.kind() == PeerKind::External) else { return Ok(()) };
    let refuse = |reason: String| Err(WireError::reset(28, "OPEN", reason, ((2, 11), [])));
    let expected = match ours {
        Role::Provider => Role::Customer,
        Role::Customer => Role::Provider,
        Role::RouteServer => Role::RouteServerClient,
        Role::RouteServerClient => Role::RouteServer,
        Role::Peer => Role::Peer,
    };
    let expected = role_name(expected);
    let ours = role_name(ours);
    match theirs.role {
        _ if theirs.two_roles => refuse("it names two roles".to_owned()),
        Some(role) if role_name(role) != expected => {
            refuse(format!("its role is {}; to ours, {ours}, it must be {expected}", role_name(role)))
        }
        None if mode == RoleMode::Strict => refuse(format!("it names no role; to ours, {ours}, it must be {expected}")),
        _ => Ok(()),
    }
}

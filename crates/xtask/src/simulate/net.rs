//! Thousands of hosts behind reflectors in one thread under virtual time. Reflectors, and one host of each pod, are whole
//! speakers; the other hosts announce and listen by `wire` alone, and keep the next hop that each of their reflectors told.
//!
//! Checked with every UPDATE that a host hears: no cluster twice (no loop), no path through more reflectors than the
//! hierarchy has, a next hop that owns the prefix or has just lost it. [`World::check`] looks at everything at once.

use super::wire::{self, AS, Heard};
use anyhow::{Result, bail, ensure};
use lasthop_bgp::config::{ConnectMode, Drain, PeerConfig, ReflectMode, RestartMode, SpeakerConfig};
use lasthop_bgp::{Bytes, ConnId, Input, Origin, Output, Speaker, Start};
use lasthop_net::{Asn, Family, Prefix, PrefixMap};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// How long octets are on their way.
const DELAY: Duration = Duration::from_millis(1);

/// Up, across and down again: leaf, middle, top, top, middle, leaf.
const LONGEST: usize = 6;

/// How large the network is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Pods of hosts, each with two reflectors.
    pub pods: usize,
    /// Hosts in a pod.
    pub hosts: usize,
    /// Pairs of reflectors above those of the pods.
    pub middles: usize,
}

impl Size {
    /// All hosts.
    #[must_use]
    pub fn all_hosts(self) -> usize {
        self.pods * self.hosts
    }
}

/// A node by its place: reflectors first, then hosts.
type Place = usize;

enum Node {
    Whole(Box<Speaker>),
    Light(Light),
    Dead,
}

/// What a light host heard of a prefix from each of its two reflectors; zero: nothing.
#[derive(Default)]
struct Light {
    sessions: [Option<ConnId>; 2],
    heard: PrefixMap<[u32; 2]>,
    rest: [Vec<u8>; 2],
}

enum Event {
    Octets(Bytes),
    Opened,
    Closed,
}

/// What went over the wire.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Handed over by speakers and hosts.
    pub sends: u64,
    /// Octets of that.
    pub octets: u64,
    /// UPDATEs that hosts heard.
    pub heard: u64,
}

/// The network.
pub struct World {
    /// How large it is.
    pub size: Size,
    /// What went over the wire so far.
    pub traffic: Traffic,
    start: Instant,
    now: Instant,
    nodes: Vec<Node>,
    parents: Vec<Vec<Place>>,
    owners: BTreeMap<Prefix, Place>,
    own: Vec<BTreeSet<Prefix>>,
    /// Owners of a moment ago.
    former: BTreeMap<Prefix, Place>,
    queue: BTreeMap<(Instant, u64), (Place, ConnId, Event)>,
    sequence: u64,
    /// Where octets of a connection arrive.
    ends: BTreeMap<(Place, ConnId), (Place, ConnId)>,
    last_connection: u64,
    last_change: Instant,
}

fn address(place: Place) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 200, 0, 1).to_bits() + u32::try_from(place).unwrap_or(u32::MAX))
}

fn place_of(address: Ipv4Addr) -> Option<Place> {
    usize::try_from(address.to_bits().checked_sub(Ipv4Addr::new(10, 200, 0, 1).to_bits())?).ok()
}

fn speaker(place: Place, now: Instant) -> Speaker {
    let config = SpeakerConfig {
        asn: Asn(AS.into()),
        router_id: address(place),
        cluster_id: None,
        port: 179,
        restart_time: Duration::from_secs(120),
        deferral: Duration::from_secs(30),
        drain: Drain::No,
        bind: [].into(),
    };
    Speaker::new(config, Start::Cold, now)
}

/// Two blocks of a host.
fn blocks(host: usize) -> [Prefix; 2] {
    let block = |number: usize| {
        let first = Ipv4Addr::new(10, 0, 0, 0).to_bits() + (u32::try_from(number).unwrap_or(0) << 6);
        Prefix::new(Ipv4Addr::from_bits(first).into(), 26).unwrap_or(Prefix::default_route(Family::V4))
    };
    [block(2 * host), block(2 * host + 1)]
}

impl World {
    /// The network, with nothing started.
    #[must_use]
    pub fn new(size: Size) -> Self {
        let now = Instant::now();
        let leaves = 2 + 2 * size.middles;
        let hosts = leaves + 2 * size.pods;
        let total = hosts + size.all_hosts();
        let parents = |place: Place| match place {
            0 | 1 => Vec::new(),
            middle if middle < leaves => vec![0, 1],
            leaf if leaf < hosts => {
                let pair = (leaf - leaves) / 2 % size.middles;
                vec![2 + 2 * pair, 3 + 2 * pair]
            }
            host => {
                let pod = (host - hosts) / size.hosts;
                vec![leaves + 2 * pod, leaves + 2 * pod + 1]
            }
        };
        Self {
            size,
            traffic: Traffic::default(),
            start: now,
            now,
            nodes: (0..total).map(|_| Node::Dead).collect(),
            parents: (0..total).map(parents).collect(),
            owners: BTreeMap::new(),
            own: vec![BTreeSet::new(); total],
            former: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            ends: BTreeMap::new(),
            last_connection: 1,
            last_change: now,
        }
    }

    fn first_host(&self) -> Place {
        2 + 2 * self.size.middles + 2 * self.size.pods
    }

    /// The place of a host.
    #[must_use]
    pub fn host(&self, number: usize) -> Place {
        self.first_host() + number
    }

    /// A reflector of the first pod, of the first pair above, and at the top.
    #[must_use]
    pub fn reflectors(&self) -> [(&'static str, Place); 3] {
        [("pod", 2 + 2 * self.size.middles), ("middle", 2), ("top", 0)]
    }

    /// How many whole speakers there are.
    #[must_use]
    pub fn whole(&self) -> usize {
        self.nodes.iter().filter(|node| matches!(node, Node::Whole(_))).count()
    }

    /// How many prefixes are announced.
    #[must_use]
    pub fn prefixes(&self) -> usize {
        self.owners.len()
    }

    fn is_whole(&self, place: Place) -> bool {
        place < self.first_host() || (place - self.first_host()).is_multiple_of(self.size.hosts)
    }

    /// Starts everybody at once, each host with its blocks.
    pub fn start(&mut self) -> Result<()> {
        for number in 0..self.size.all_hosts() {
            let place = self.host(number);
            for block in blocks(number) {
                self.owners.insert(block, place);
                self.own[place].insert(block);
            }
        }
        for (place, children) in self.children().into_iter().enumerate() {
            if !self.is_whole(place) {
                self.nodes[place] = Node::Light(Light::default());
                continue;
            }
            let mut speaker = speaker(place, self.now);
            let peer = |other: Place, connect, reflect| {
                let mut peer = PeerConfig::new(address(other).into(), Asn(AS.into())).trusted();
                (peer.connect, peer.reflect, peer.families) = (connect, reflect, [Family::V4].into());
                peer.local_address = Some(address(place).into());
                // Time goes by in leaps here: nobody is to be missed.
                peer.hold_time = Duration::ZERO;
                // And who is gone is gone.
                peer.restart = RestartMode::Off;
                peer
            };
            for parent in &self.parents[place] {
                speaker.set_peer(self.now, peer(*parent, ConnectMode::Passive, ReflectMode::NonClient));
            }
            for child in &children {
                speaker.set_peer(self.now, peer(*child, ConnectMode::Passive, ReflectMode::Client));
            }
            if place < 2 {
                speaker.set_peer(self.now, peer(1 - place, ConnectMode::Passive, ReflectMode::NonClient));
            }
            for prefix in &self.own[place] {
                speaker.advertise(self.now, *prefix, Origin::default());
            }
            speaker.own_routes_complete(self.now);
            self.nodes[place] = Node::Whole(Box::new(speaker));
        }
        self.connect(0, 1);
        for place in 2..self.nodes.len() {
            for parent in self.parents[place].clone() {
                self.connect(place, parent);
            }
        }
        Ok(())
    }

    fn children(&self) -> Vec<Vec<Place>> {
        let mut children = vec![Vec::new(); self.nodes.len()];
        for (place, parents) in self.parents.iter().enumerate() {
            parents.iter().for_each(|parent| children[*parent].push(place));
        }
        children
    }

    /// A TCP connection between two: each end takes it for accepted.
    fn connect(&mut self, a: Place, b: Place) {
        self.last_connection += 4;
        let (at_a, at_b) = (ConnId(self.last_connection), ConnId(self.last_connection + 2));
        self.ends.insert((a, at_a), (b, at_b));
        self.ends.insert((b, at_b), (a, at_a));
        self.push((a, at_a), Event::Opened);
        self.push((b, at_b), Event::Opened);
    }

    fn push(&mut self, (place, conn): (Place, ConnId), event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + DELAY, self.sequence), (place, conn, event));
    }

    fn send(&mut self, from: (Place, ConnId), bytes: Bytes) {
        let Some(to) = self.ends.get(&from).copied() else { return };
        self.traffic.sends += 1;
        self.traffic.octets += bytes.len() as u64;
        self.push(to, Event::Octets(bytes));
    }

    fn close(&mut self, end: (Place, ConnId)) {
        if let Some(other) = self.ends.remove(&end) {
            self.ends.remove(&other);
            self.push(other, Event::Closed);
        }
    }

    /// A node is no more; the other ends of its connections hear that.
    pub fn kill(&mut self, place: Place) {
        self.nodes[place] = Node::Dead;
        let ends: Vec<_> =
            self.ends.range((place, ConnId(0))..=(place, ConnId(u64::MAX))).map(|(end, _)| *end).collect();
        ends.into_iter().for_each(|end| self.close(end));
        for prefix in std::mem::take(&mut self.own[place]) {
            self.owners.remove(&prefix);
            self.former.insert(prefix, place);
        }
    }

    /// A host route comes to a host, from the one that has it.
    pub fn assign(&mut self, prefix: Prefix, to: Place) {
        if let Some(from) = self.owners.insert(prefix, to) {
            self.former.insert(prefix, from);
            self.own[from].remove(&prefix);
            self.say(from, prefix, None);
        }
        self.own[to].insert(prefix);
        self.say(to, prefix, Some(address(to)));
    }

    fn say(&mut self, place: Place, prefix: Prefix, hop: Option<Ipv4Addr>) {
        let sessions = match &mut self.nodes[place] {
            Node::Dead => return,
            Node::Light(light) => light.sessions,
            Node::Whole(speaker) => {
                match hop {
                    Some(_) => speaker.advertise(self.now, prefix, Origin::default()),
                    None => speaker.withdraw(self.now, prefix),
                }
                return self.drain(place);
            }
        };
        let bytes = hop.map_or_else(|| wire::withdraw(prefix), |hop| wire::announce(hop, &[prefix]));
        let bytes = Bytes::from(bytes);
        for conn in sessions.into_iter().flatten() {
            self.send((place, conn), bytes.clone());
        }
    }

    /// Runs until nothing is on its way; how long after the call the last route changed at a host.
    pub fn settle(&mut self) -> Result<Duration> {
        let begun = self.now;
        self.last_change = begun;
        while let Some(entry) = self.queue.first_entry() {
            self.now = entry.key().0;
            let (place, conn, event) = entry.remove();
            self.take(place, conn, event)?;
        }
        self.former.clear();
        Ok(self.last_change.duration_since(begun))
    }

    fn take(&mut self, place: Place, conn: ConnId, event: Event) -> Result<()> {
        let other = self.ends.get(&(place, conn)).map(|(other, _)| *other);
        match &mut self.nodes[place] {
            Node::Dead => Ok(()),
            Node::Light(light) => {
                let slot = match event {
                    Event::Opened => other.and_then(|other| self.parents[place].iter().position(|p| *p == other)),
                    _ => light.sessions.iter().position(|session| *session == Some(conn)),
                };
                let Some(slot) = slot else { return Ok(()) };
                match event {
                    Event::Opened => {
                        light.sessions[slot] = Some(conn);
                        let own: Vec<Prefix> = self.own[place].iter().copied().collect();
                        let mut bytes = wire::greeting(address(place));
                        bytes.extend(wire::announce(address(place), &own));
                        self.send((place, conn), bytes.into());
                        Ok(())
                    }
                    Event::Closed => {
                        light.sessions[slot] = None;
                        let all: Vec<Prefix> = light.heard.keys().collect();
                        for prefix in all {
                            light.forget(prefix, slot);
                        }
                        self.last_change = self.now;
                        Ok(())
                    }
                    Event::Octets(bytes) => self.hear((place, slot), &bytes),
                }
            }
            Node::Whole(speaker) => {
                match (event, other) {
                    (Event::Opened, Some(other)) => {
                        let (peer, local) = (IpAddr::from(address(other)), IpAddr::from(address(place)));
                        speaker.handle(self.now, Input::Accepted { conn, peer, local });
                    }
                    (Event::Opened, None) => {}
                    (Event::Closed, _) => {
                        speaker.handle(self.now, Input::Closed { conn, reason: "end of file".to_owned() });
                    }
                    (Event::Octets(bytes), _) => speaker.receive(self.now, conn, &bytes),
                }
                // What comes at one moment is answered together, as a driver does that finds it in one batch.
                let next = self.queue.first_key_value();
                let more = next.is_some_and(|((at, _), (next, ..))| (*at, *next) == (self.now, place));
                if !more {
                    self.drain(place);
                }
                Ok(())
            }
        }
    }

    fn drain(&mut self, place: Place) {
        while let Node::Whole(speaker) = &mut self.nodes[place]
            && let Some(output) = speaker.poll_output()
        {
            match output {
                Output::Send { conn, bytes } => self.send((place, conn), bytes),
                Output::Close { conn } => self.close((place, conn)),
                Output::Learned { .. } if place >= self.first_host() => self.last_change = self.now,
                _ => {}
            }
        }
    }

    fn hear(&mut self, (place, slot): (Place, usize), bytes: &[u8]) -> Result<()> {
        let Node::Light(light) = &mut self.nodes[place] else { return Ok(()) };
        let joined;
        let mut rest = if light.rest[slot].is_empty() {
            bytes
        } else {
            joined = [&light.rest[slot], bytes].concat();
            &joined
        };
        while let Some((kind, body, after)) = wire::split(rest) {
            rest = after;
            ensure!(kind != 3, "host {place} was sent a NOTIFICATION {body:?}");
            if kind != 2 {
                continue;
            }
            self.traffic.heard += 1;
            let mut wrong = None;
            let known = wire::update(body, |prefix, heard| match heard {
                Heard::Gone => light.forget(prefix, slot),
                Heard::Path(hop, clusters) => {
                    let owner = place_of(hop);
                    let owns = owner == self.owners.get(&prefix).copied() || owner == self.former.get(&prefix).copied();
                    let ids: BTreeSet<&[u8]> = clusters.chunks(4).collect();
                    let count = clusters.len() / 4;
                    if !owns || ids.len() != count || count > LONGEST {
                        wrong = Some(format!("host {place} hears {prefix} via {hop} through {count} reflectors"));
                    }
                    light.heard.get_or_default(prefix)[slot] = hop.to_bits();
                }
            });
            ensure!(known.is_some(), "host {place} cannot read an UPDATE");
            if let Some(wrong) = wrong {
                bail!("{wrong}, which is nobody's, in a loop, or too far");
            }
            self.last_change = self.now;
        }
        light.rest[slot] = rest.to_vec();
        Ok(())
    }

    /// Every host has every prefix of everybody else from each reflector that it has, with its owner as the next hop, and
    /// nothing beside.
    pub fn check(&self) -> Result<()> {
        for place in self.first_host()..self.nodes.len() {
            let expected = self.owners.len() - self.own[place].len();
            let right = |prefix: Prefix, hop: u32| {
                self.owners.get(&prefix).is_some_and(|owner| *owner != place && address(*owner).to_bits() == hop)
            };
            match &self.nodes[place] {
                Node::Dead => {}
                Node::Light(light) => {
                    for slot in (0..2).filter(|slot| light.sessions[*slot].is_some()) {
                        let told = light.heard.iter().filter(|(_, hops)| hops[slot] != 0);
                        let told: Vec<bool> = told.map(|(prefix, hops)| right(prefix, hops[slot])).collect();
                        let (good, all) = (told.iter().filter(|right| **right).count(), told.len());
                        ensure!(
                            (good, all) == (expected, expected),
                            "host {place} heard {all} prefixes of {expected} from its reflector {slot}, {good} rightly"
                        );
                    }
                    ensure!(light.sessions.iter().any(Option::is_some), "host {place} has no session");
                }
                Node::Whole(speaker) => {
                    let bits = |hop: &IpAddr| if let IpAddr::V4(hop) = hop { hop.to_bits() } else { 0 };
                    let all: Vec<Prefix> = speaker.all_learned().collect();
                    let good = all.iter().filter(|prefix| {
                        let hops = speaker.learned(**prefix);
                        hops.len() == 1 && hops.iter().all(|hop| right(**prefix, bits(hop)))
                    });
                    let (good, all) = (good.count(), all.len());
                    ensure!(
                        (good, all) == (expected, expected),
                        "host {place} learned {all} of {expected}, {good} rightly"
                    );
                }
            }
        }
        Ok(())
    }

    /// Virtual time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now.duration_since(self.start)
    }
}

impl Light {
    fn forget(&mut self, prefix: Prefix, slot: usize) {
        if let Some(hops) = self.heard.get_mut(prefix) {
            hops[slot] = 0;
            if *hops == [0, 0] {
                self.heard.remove(prefix);
            }
        }
    }
}

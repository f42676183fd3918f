//! A network of speakers in one thread under virtual time: TCP is a queue of octets with a delay.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it must be")]

pub mod dice;
pub mod raw;

use lasthop_bgp::config::{Drain, PeerConfig, SpeakerConfig};
use lasthop_bgp::{ConnId, Input, Origin, Output, PeerState, Speaker, Start, StopMode};
use lasthop_net::{Asn, Family, NextHops, Prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

pub const SECOND: Duration = Duration::from_secs(1);

pub fn config(router_id: Ipv4Addr) -> SpeakerConfig {
    SpeakerConfig {
        asn: Asn(64512),
        router_id,
        cluster_id: None,
        port: 179,
        bind: [].into(),
        restart_time: Duration::from_secs(120),
        deferral: Duration::from_secs(30),
        drain: Drain::No,
    }
}

pub fn peer(address: IpAddr) -> PeerConfig {
    PeerConfig::new(address, Asn(64512)).trusted()
}

pub fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

#[derive(Debug)]
enum Event {
    Input(usize, Input),
    /// A SYN from node and connection to node.
    Dial(usize, ConnId, usize),
}

pub struct Node {
    pub speaker: Option<Speaker>,
    pub address: IpAddr,
    pub config: SpeakerConfig,
    pub peers: BTreeMap<IpAddr, PeerConfig>,
    pub own: BTreeSet<Prefix>,
    /// What the agent holds: learned routes survive the speaker.
    pub learned: BTreeMap<Prefix, NextHops>,
    pub in_sync: usize,
    /// Learned prefixes that went away at any moment, since the test last cleared it.
    pub lost: Vec<Prefix>,
    fresh: BTreeSet<Prefix>,
}

pub struct Net {
    pub now: Instant,
    pub nodes: Vec<Node>,
    by_address: BTreeMap<IpAddr, usize>,
    queue: BTreeMap<(Instant, u64), Event>,
    sequence: u64,
    accepted: u64,
    /// Both ends of each connection.
    ends: BTreeMap<(usize, ConnId), (usize, ConnId)>,
    cut: BTreeSet<(usize, usize)>,
    /// What TCP will send again once the way is whole.
    held: Vec<Event>,
    pub sent: usize,
    pub delay: Duration,
}

impl Net {
    pub fn new() -> Self {
        Self {
            now: Instant::now(),
            nodes: Vec::new(),
            by_address: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            accepted: 1,
            ends: BTreeMap::new(),
            cut: BTreeSet::new(),
            held: Vec::new(),
            sent: 0,
            delay: Duration::from_millis(1),
        }
    }

    /// A node with the address 172.18.x.y.
    pub fn add(&mut self) -> usize {
        let index = self.nodes.len();
        let [_, _, high, low] = u32::try_from(index + 10).unwrap().to_be_bytes();
        let address = Ipv4Addr::new(172, 18, high, low);
        let config = config(address);
        self.by_address.insert(address.into(), index);
        self.nodes.push(Node {
            speaker: None,
            address: address.into(),
            config,
            peers: BTreeMap::new(),
            own: BTreeSet::new(),
            learned: BTreeMap::new(),
            in_sync: 0,
            lost: Vec::new(),
            fresh: BTreeSet::new(),
        });
        index
    }

    pub fn link(&mut self, a: usize, b: usize, change: impl Fn(&mut PeerConfig, &mut PeerConfig)) {
        let (mut at_a, mut at_b) = (peer(self.nodes[b].address), peer(self.nodes[a].address));
        // IPv6 next hops over IPv4 sessions are set, as the agent does.
        at_a.next_hop_v6 = Some(v6_of(a));
        at_b.next_hop_v6 = Some(v6_of(b));
        change(&mut at_a, &mut at_b);
        self.nodes[a].peers.insert(at_a.address, at_a);
        self.nodes[b].peers.insert(at_b.address, at_b);
    }

    pub fn start(&mut self, index: usize, start: Start) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let mut speaker = Speaker::new(node.config.clone(), start, now);
        node.in_sync = 0;
        node.fresh.clear();
        for peer in node.peers.values() {
            speaker.set_peer(now, peer.clone());
        }
        for prefix in &node.own {
            speaker.advertise(now, *prefix, Origin::default());
        }
        speaker.own_routes_complete(now);
        node.speaker = Some(speaker);
        self.drain(index);
    }

    pub fn start_all(&mut self) {
        (0..self.nodes.len()).for_each(|index| self.start(index, Start::Cold));
    }

    pub fn with(&mut self, index: usize, act: impl FnOnce(&mut Speaker, Instant)) {
        let now = self.now;
        act(self.nodes[index].speaker.as_mut().unwrap(), now);
        self.drain(index);
    }

    pub fn advertise(&mut self, index: usize, prefix: Prefix) {
        self.nodes[index].own.insert(prefix);
        self.with(index, |speaker, now| speaker.advertise(now, prefix, Origin::default()));
    }

    pub fn withdraw(&mut self, index: usize, prefix: Prefix) {
        self.nodes[index].own.remove(&prefix);
        self.with(index, |speaker, now| speaker.withdraw(now, prefix));
    }

    /// The process dies; the kernel closes its connections.
    pub fn kill(&mut self, index: usize) {
        self.nodes[index].speaker = None;
        let mine: Vec<(usize, ConnId)> = self.ends.keys().copied().filter(|(node, _)| *node == index).collect();
        for end in mine {
            self.close(end);
        }
    }

    pub fn stop(&mut self, index: usize, mode: StopMode) {
        self.with(index, |speaker, now| speaker.stop(now, mode));
        self.kill(index);
    }

    /// TCP between two nodes breaks; both notice.
    pub fn break_tcp(&mut self, a: usize, b: usize) {
        let ends: Vec<_> = self.ends.iter().filter(|(x, y)| x.0 == a && y.0 == b).map(|(x, y)| (*x, *y)).collect();
        for (x, y) in ends {
            self.ends.remove(&x);
            self.ends.remove(&y);
            self.push(Event::Input(x.0, Input::Closed { conn: x.1, reason: "reset".to_owned() }));
            self.push(Event::Input(y.0, Input::Closed { conn: y.1, reason: "reset".to_owned() }));
        }
    }

    fn close(&mut self, end: (usize, ConnId)) {
        if let Some(other) = self.ends.remove(&end) {
            self.ends.remove(&other);
            self.tell(end.0, other.0, Input::Closed { conn: other.1, reason: "end of file".to_owned() });
        }
    }

    fn push(&mut self, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + self.delay, self.sequence), event);
    }

    /// From now on nothing gets through between two nodes.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.cut.insert((a, b));
    }

    /// All ways are whole again.
    pub fn heal(&mut self) {
        self.cut.clear();
        for event in std::mem::take(&mut self.held) {
            self.push(event);
        }
    }

    fn tell(&mut self, from: usize, to: usize, input: Input) {
        let event = Event::Input(to, input);
        if self.reachable(from, to) { self.push(event) } else { self.held.push(event) }
    }

    fn reachable(&self, a: usize, b: usize) -> bool {
        !self.cut.contains(&(a, b)) && !self.cut.contains(&(b, a))
    }

    /// Does what a speaker asks.
    pub fn drain(&mut self, index: usize) {
        while let Some(output) = self.nodes[index].speaker.as_mut().and_then(Speaker::poll_output) {
            match output {
                Output::Connect { conn, peer, .. } => match self.by_address.get(&peer).copied() {
                    Some(to) => self.push(Event::Dial(index, conn, to)),
                    None => self.push(Event::Input(
                        index,
                        Input::ConnectFailed { conn, peer, error: "no route to host".to_owned() },
                    )),
                },
                Output::Send { conn, bytes } => {
                    self.sent += bytes.len();
                    if let Some((node, other)) = self.ends.get(&(index, conn)).copied() {
                        self.tell(index, node, Input::Received { conn: other, bytes: bytes.to_vec() });
                    }
                }
                Output::Close { conn } => self.close((index, conn)),
                Output::Learned { prefix, next_hops } => {
                    let node = &mut self.nodes[index];
                    if next_hops.is_empty() {
                        node.fresh.remove(&prefix);
                        node.learned.remove(&prefix);
                        node.lost.push(prefix);
                    } else {
                        node.fresh.insert(prefix);
                        node.learned.insert(prefix, next_hops);
                    }
                }
                Output::LearnedInSync => {
                    let node = &mut self.nodes[index];
                    node.in_sync += 1;
                    let gone: Vec<Prefix> = node.learned.keys().filter(|p| !node.fresh.contains(p)).copied().collect();
                    for prefix in gone {
                        node.learned.remove(&prefix);
                        node.lost.push(prefix);
                    }
                }
                Output::PeerChanged { .. } | Output::Monitor(_) => {}
            }
        }
    }

    fn next_time(&self) -> Option<Instant> {
        let timers = self.nodes.iter().filter_map(|n| n.speaker.as_ref()?.next_timeout());
        timers.chain(self.queue.keys().next().map(|(at, _)| *at)).min()
    }

    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.next_time().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            while let Some(entry) = self.queue.first_entry().filter(|e| e.key().0 <= self.now) {
                let event = entry.remove();
                self.deliver(event);
            }
            for index in 0..self.nodes.len() {
                let now = self.now;
                let Some(speaker) = self.nodes[index].speaker.as_mut() else { continue };
                if speaker.next_timeout().is_some_and(|at| at <= now) {
                    speaker.handle(now, Input::Timeout);
                    let next = speaker.next_timeout();
                    assert!(next.is_none_or(|at| at > now), "a timer that is due was not acted on");
                    self.drain(index);
                }
            }
        }
        self.now = end;
    }

    fn deliver(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Dial(from, conn, to) => {
                let (a, b) = (self.nodes[from].address, self.nodes[to].address);
                if !self.reachable(from, to) {
                    // The SYN is lost: the speaker's own limit ends the attempt.
                } else if self.nodes[to].speaker.is_none() {
                    let error = "connection refused".to_owned();
                    self.deliver(Event::Input(from, Input::ConnectFailed { conn, peer: b, error }));
                } else if self.nodes[from].speaker.is_some() {
                    self.accepted += 2;
                    let other = ConnId(self.accepted);
                    self.ends.insert((from, conn), (to, other));
                    self.ends.insert((to, other), (from, conn));
                    self.push(Event::Input(from, Input::Connected { conn, peer: b, local: a }));
                    self.deliver(Event::Input(to, Input::Accepted { conn: other, peer: a, local: b }));
                }
            }
            Event::Input(node, input) => {
                if let Some(speaker) = self.nodes[node].speaker.as_mut() {
                    speaker.handle(now, input);
                    self.drain(node);
                }
            }
        }
    }

    pub fn established(&self, index: usize) -> usize {
        let peers = self.nodes[index].speaker.as_ref().map(Speaker::peers).unwrap_or_default();
        peers.iter().filter(|peer| peer.state == PeerState::Established).count()
    }

    pub fn assert_all_established(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            let Some(speaker) = &node.speaker else { continue };
            for peer in speaker.peers() {
                assert_eq!(peer.state, PeerState::Established, "node {index} to {}: {peer:?}", peer.address);
            }
        }
    }

    /// Each node's own prefixes are at every other node, with that node as the next hop, and nothing else is there.
    pub fn assert_converged(&self) {
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, n)| n.speaker.is_some()) {
            let mut expect = BTreeMap::new();
            for (other, owner) in self.nodes.iter().enumerate().filter(|(other, _)| *other != index) {
                for prefix in &owner.own {
                    let hop = match prefix.family() {
                        Family::V4 => owner.address,
                        Family::V6 => v6_of(other).into(),
                    };
                    expect.insert(*prefix, NextHops::from(hop));
                }
            }
            let missing: Vec<_> = expect.iter().filter(|(p, hops)| node.learned.get(p) != Some(*hops)).collect();
            let wrong: Vec<_> = node.learned.iter().filter(|(p, hops)| expect.get(p) != Some(*hops)).collect();
            assert!(missing.is_empty() && wrong.is_empty(), "node {index} lacks {missing:?} and has {wrong:?}");
        }
    }
}

pub fn v6_of(index: usize) -> std::net::Ipv6Addr {
    let low = u16::try_from(index + 10).unwrap();
    std::net::Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, low)
}

/// Two prefixes of each family per node.
pub fn own_prefixes(index: usize) -> Vec<Prefix> {
    let [_, _, high, low] = u32::try_from(index).unwrap().to_be_bytes();
    vec![
        prefix(&format!("10.65.{low}.{high}/32")),
        prefix(&format!("10.66.{low}.{high}/32")),
        prefix(&format!("fd65::{low:x}:{high:x}:1/128")),
        prefix(&format!("fd66::{low:x}:{high:x}:1/128")),
    ]
}

//! A speaker under test and peers that are nothing but octets: they say what a test writes and keep what they are sent.

use super::{config, peer};
use lasthop_bgp::config::{ConnectMode, PeerConfig, ReflectMode, SpeakerConfig};
use lasthop_bgp::{ConnId, Input, Output, Speaker, Start};
use lasthop_net::{Asn, Family, NextHops, Prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

pub const SUT: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 1);

pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0xff; 16];
    out.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    out.push(kind);
    out.extend(body);
    out
}

pub fn attribute(flags: u8, kind: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![flags, kind];
    match u8::try_from(value.len()) {
        Ok(len) if flags & 0x10 == 0 => out.push(len),
        _ => {
            out[0] |= 0x10;
            out.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        }
    }
    out.extend(value);
    out
}

pub fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut body = u16::try_from(withdrawn.len()).unwrap().to_be_bytes().to_vec();
    body.extend(withdrawn);
    body.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
    body.extend(attributes);
    body.extend(nlri);
    message(2, &body)
}

pub fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

pub fn nlri(prefixes: &[Prefix]) -> Vec<u8> {
    let mut out = Vec::new();
    for prefix in prefixes {
        out.push(prefix.len());
        let octets = match prefix.address() {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        out.extend(&octets[..usize::from(prefix.len()).div_ceil(8)]);
    }
    out
}

/// What an OPEN holds beside version 4.
#[derive(Clone)]
pub struct RawOpen {
    pub version: u8,
    pub asn2: u16,
    pub hold: u16,
    pub id: Ipv4Addr,
    /// Optional parameters with their length.
    pub parameters: Vec<u8>,
}

pub fn parameters(capabilities: &[u8]) -> Vec<u8> {
    let len = u8::try_from(capabilities.len()).unwrap();
    [&[len + 2, 2, len][..], capabilities].concat()
}

impl RawOpen {
    pub fn new(asn: u32, id: [u8; 4]) -> Self {
        let capabilities = [&hex("010400010001 010400020001 0200 4104")[..], &asn.to_be_bytes()].concat();
        Self {
            version: 4,
            asn2: u16::try_from(asn).unwrap_or(23456),
            hold: 90,
            id: id.into(),
            parameters: parameters(&capabilities),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut body = vec![self.version];
        body.extend(self.asn2.to_be_bytes());
        body.extend(self.hold.to_be_bytes());
        body.extend(self.id.octets());
        body.extend(&self.parameters);
        message(1, &body)
    }
}

/// Attributes by type: flags and value.
pub type RawAttributes = BTreeMap<u8, (u8, Vec<u8>)>;

/// What one connection of the speaker has sent.
#[derive(Default, Debug)]
pub struct Seen {
    pub messages: Vec<(u8, Vec<u8>)>,
    pub routes: BTreeMap<Prefix, RawAttributes>,
    pub withdrawn: Vec<Prefix>,
    pub end_of_rib: BTreeSet<Family>,
    pub closed: bool,
}

impl Seen {
    pub fn notification(&self) -> Option<(u8, u8, Vec<u8>)> {
        let (_, body) = self.messages.iter().find(|(kind, _)| *kind == 3)?;
        Some((body[0], body[1], body[2..].to_vec()))
    }

    pub fn open(&self) -> Option<&[u8]> {
        self.messages.iter().find(|(kind, _)| *kind == 1).map(|(_, body)| body.as_slice())
    }

    pub fn count(&self, kind: u8) -> usize {
        self.messages.iter().filter(|(k, _)| *k == kind).count()
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            assert_eq!(bytes[..16], [0xff; 16]);
            let len = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
            assert!((19..=4096).contains(&len), "a message of {len} octets");
            let (message, rest) = bytes.split_at(len);
            bytes = rest;
            if message[18] == 2 {
                self.update(&message[19..]);
            }
            self.messages.push((message[18], message[19..].to_vec()));
        }
    }

    fn update(&mut self, body: &[u8]) {
        let len = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let (withdrawn, rest) = body[2..].split_at(len);
        let len = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
        let (mut attributes, nlri) = rest[2..].split_at(len);
        let mut found = RawAttributes::new();
        while !attributes.is_empty() {
            let (flags, kind) = (attributes[0], attributes[1]);
            let (len, at) = match flags & 0x10 {
                0 => (usize::from(attributes[2]), 3),
                _ => (usize::from(u16::from_be_bytes([attributes[2], attributes[3]])), 4),
            };
            assert!(found.insert(kind, (flags, attributes[at..at + len].to_vec())).is_none(), "attribute {kind} twice");
            attributes = &attributes[at + len..];
        }
        let mut gone = prefixes(withdrawn, Family::V4);
        let mut new = prefixes(nlri, Family::V4);
        let reach = found.get(&14).map(|(_, value)| value.clone());
        if let Some(value) = reach {
            let family = if value[1] == 1 { Family::V4 } else { Family::V6 };
            assert_eq!((value[0], value[2]), (0, 1));
            new.extend(prefixes(&value[5 + usize::from(value[3])..], family));
        }
        let unreach = found.get(&15).map(|(_, value)| value.clone());
        if let Some(value) = &unreach {
            assert_eq!(value[..3], [0, 2, 1]);
            gone.extend(prefixes(&value[3..], Family::V6));
        }
        if gone.is_empty() && new.is_empty() {
            self.end_of_rib.insert(if unreach.is_some() { Family::V6 } else { Family::V4 });
        }
        for prefix in gone {
            self.routes.remove(&prefix);
            self.withdrawn.push(prefix);
        }
        for prefix in new {
            self.routes.insert(prefix, found.clone());
        }
    }
}

fn prefixes(mut bytes: &[u8], family: Family) -> Vec<Prefix> {
    let mut out = Vec::new();
    while let [len, rest @ ..] = bytes {
        let (given, rest) = rest.split_at(usize::from(*len).div_ceil(8));
        let mut octets = [0; 16];
        octets[..given.len()].copy_from_slice(given);
        let address = match family {
            Family::V4 => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]),
            Family::V6 => IpAddr::from(octets),
        };
        out.push(Prefix::new(address, *len).unwrap());
        bytes = rest;
    }
    out
}

/// The speaker under test.
pub struct Bench {
    pub speaker: Speaker,
    pub now: Instant,
    pub seen: BTreeMap<ConnId, Seen>,
    pub learned: BTreeMap<Prefix, NextHops>,
    pub dialled: Vec<(ConnId, IpAddr, Instant)>,
    pub in_sync: usize,
    accepted: u64,
}

pub fn sut_config(asn: u32) -> SpeakerConfig {
    SpeakerConfig { asn: Asn(asn), cluster_id: Some(Ipv4Addr::new(192, 0, 2, 1)), ..config(SUT) }
}

/// A passive peer of the speaker under test.
pub fn passive(address: [u8; 4], asn: u32) -> PeerConfig {
    PeerConfig { asn: Asn(asn), connect: ConnectMode::Passive, ..peer(address.into()) }
}

impl Bench {
    pub fn new(config: SpeakerConfig, start: Start) -> Self {
        let now = Instant::now();
        Self {
            speaker: Speaker::new(config, start, now),
            now,
            seen: BTreeMap::new(),
            learned: BTreeMap::new(),
            dialled: Vec::new(),
            in_sync: 0,
            accepted: 1,
        }
    }

    /// The two peers of `bgp_inject.py`: external, or clients.
    pub fn two_peers(internal: bool) -> Self {
        let mut bench = Self::new(sut_config(65000), Start::Cold);
        for (last, asn) in [(2, 65001), (3, 65002)] {
            let asn = if internal { 65000 } else { asn };
            let mut peer = passive([10, 99, 1, last], asn);
            peer.reflect = if internal { ReflectMode::Client } else { ReflectMode::NonClient };
            peer.next_hop_v6 = Some("fd00::1".parse().unwrap());
            bench.set_peer(peer);
        }
        bench.with(|speaker, now| speaker.own_routes_complete(now));
        bench
    }

    pub fn set_peer(&mut self, peer: PeerConfig) {
        self.with(|speaker, now| speaker.set_peer(now, peer));
    }

    pub fn with(&mut self, act: impl FnOnce(&mut Speaker, Instant)) {
        act(&mut self.speaker, self.now);
        self.drain();
    }

    pub fn input(&mut self, input: Input) {
        self.with(|speaker, now| speaker.handle(now, input));
    }

    pub fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        self.with(|speaker, now| speaker.receive(now, conn, bytes));
    }

    pub fn drain(&mut self) {
        while let Some(output) = self.speaker.poll_output() {
            match output {
                Output::Connect { conn, peer, .. } => self.dialled.push((conn, peer, self.now)),
                Output::Send { conn, bytes } => self.seen.entry(conn).or_default().take(&bytes),
                Output::Close { conn } => self.seen.entry(conn).or_default().closed = true,
                Output::Learned { prefix, next_hops } if next_hops.is_empty() => {
                    assert!(self.learned.remove(&prefix).is_some(), "{prefix} was not learned before");
                }
                Output::Learned { prefix, next_hops } => {
                    assert_ne!(self.learned.insert(prefix, next_hops.clone()), Some(next_hops), "no change");
                }
                Output::LearnedInSync => self.in_sync += 1,
                Output::PeerChanged { .. } | Output::Monitor(_) => {}
            }
        }
    }

    pub fn accept(&mut self, address: [u8; 4]) -> ConnId {
        self.accepted += 2;
        let conn = ConnId(self.accepted);
        self.input(Input::Accepted { conn, peer: address.into(), local: SUT.into() });
        conn
    }

    pub fn connect(&mut self, address: [u8; 4], open: &RawOpen) -> ConnId {
        let conn = self.accept(address);
        self.send(conn, &open.bytes());
        self.send(conn, &message(4, &[]));
        conn
    }

    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.speaker.next_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.input(Input::Timeout);
            assert!(self.speaker.next_timeout().is_none_or(|at| at > self.now), "a due timer was not acted on");
        }
        self.now = end;
    }
}

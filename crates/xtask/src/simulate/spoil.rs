//! One speaker, a thousand sessions, a million valid messages with mistakes put into them: no panic, no hang, memory flat, and
//! the one peer that says nothing wrong never notices.

use super::resident;
use super::wire::{self, AS};
use anyhow::{Result, bail, ensure};
use lasthop_bgp::config::{ConnectMode, Drain, LimitAction, PeerConfig, PrefixLimit, ReflectMode, SpeakerConfig};
use lasthop_bgp::{ConnId, Input, Output, PeerState, Speaker, Start};
use lasthop_net::{Asn, Family, Prefix};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// How much.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Sessions that make mistakes
    #[arg(long, default_value_t = 1_000)]
    pub sessions: usize,
    /// Messages with mistakes
    #[arg(long, default_value_t = 1_000_000)]
    pub messages: usize,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Times a session was reset and came back.
    pub resets: usize,
    /// MB resident when a fifth was sent, and at the end.
    pub resident: (f64, f64),
}

/// xorshift64*: the same on every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap_or(0) % sides.max(1)
    }
}

struct Bench {
    speaker: Speaker,
    now: Instant,
    connections: Vec<Option<ConnId>>,
    places: BTreeMap<ConnId, usize>,
    last: u64,
    resets: usize,
    /// What the witness, in the last place, was told and has not read.
    told: Vec<u8>,
}

const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

fn address(place: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 99, 1, 1).to_bits() + u32::try_from(place).unwrap_or(u32::MAX))
}

/// Runs it and prints what came of it.
///
/// # Errors
/// If a promise is broken.
pub fn run(options: &Options) -> Result<()> {
    let begun = Instant::now();
    let outcome = spoil(options)?;
    println!(
        "{} spoilt messages over {} sessions in {:.1} s: {} resets, {:.0} MB resident after a fifth, {:.0} MB at the end; the peer \
         without mistakes was up all the time and has a route announced after it",
        options.messages,
        options.sessions,
        begun.elapsed().as_secs_f64(),
        outcome.resets,
        outcome.resident.0,
        outcome.resident.1,
    );
    Ok(())
}

/// Spoils messages, and looks whether all is well afterwards.
///
/// # Errors
/// If a promise is broken.
pub fn spoil(options: &Options) -> Result<Outcome> {
    let mut bench = Bench::new(options.sessions);
    let mut dice = Dice(0x0ddb_a115);
    let (witness, mut early) = (options.sessions, 0.0);
    bench.come_up(witness);
    bench.drain();
    for number in 0..options.messages {
        let place = number % options.sessions;
        bench.come_up(place);
        let mut message = valid(place, &mut dice);
        mistakes(&mut message, &mut dice);
        if let Some(conn) = bench.connections[place] {
            bench.speaker.receive(bench.now, conn, &message);
        }
        if number % 16 == 15 {
            bench.drain();
        }
        if number % 1000 == 999 {
            bench.pass(Duration::from_secs(1));
        }
        if number == options.messages / 5 {
            early = resident();
        }
    }
    bench.drain();
    let late = resident();
    ensure!(late <= early * 1.25 + 8.0, "memory is not flat: {early:.0} MB after a fifth, {late:.0} MB at the end");
    let status = bench.speaker.peers();
    let watched = status.iter().find(|peer| peer.address == IpAddr::from(address(witness)));
    ensure!(
        watched.is_some_and(|peer| peer.state == PeerState::Established && peer.counters.lost == 0),
        "the peer without mistakes lost its session"
    );
    bench.told.clear();
    bench.come_up(0);
    let good = Prefix::host(Ipv4Addr::new(192, 0, 2, 77).into());
    if let Some(conn) = bench.connections[0] {
        // What a message was cut short of may be waited for still.
        bench.speaker.handle(bench.now, Input::Closed { conn, reason: "reset".to_owned() });
        bench.forget(conn);
    }
    bench.come_up(0);
    let Some(conn) = bench.connections[0] else { bail!("a session does not come up any more") };
    bench.speaker.receive(bench.now, conn, &wire::announce(address(0), &[good]));
    bench.drain();
    let (mut rest, mut heard) = (&bench.told[..], false);
    while let Some((kind, body, after)) = wire::split(rest) {
        if kind == 2 {
            let _ = wire::update(body, |prefix, what| heard |= prefix == good && what != wire::Heard::Gone);
        }
        rest = after;
    }
    ensure!(heard, "a good route is not told after all this");
    Ok(Outcome { resets: bench.resets, resident: (early, late) })
}

impl Bench {
    fn new(sessions: usize) -> Self {
        let now = Instant::now();
        let config = SpeakerConfig {
            asn: Asn(AS.into()),
            router_id: LOCAL,
            cluster_id: None,
            port: 179,
            restart_time: Duration::from_secs(10),
            deferral: Duration::from_secs(10),
            drain: Drain::No,
            bind: [].into(),
        };
        let mut speaker = Speaker::new(config, Start::Cold, now);
        for place in 0..=sessions {
            let mut peer = PeerConfig::new(address(place).into(), Asn(AS.into())).trusted();
            (peer.connect, peer.reflect) = (ConnectMode::Passive, ReflectMode::Client);
            peer.local_address = Some(LOCAL.into());
            let action = LimitAction::Close(Some(Duration::from_secs(1)));
            peer.limits = Family::ALL.map(|family| (family, PrefixLimit { max: 50, warn_percent: 90, action })).into();
            speaker.set_peer(now, peer);
        }
        speaker.own_routes_complete(now);
        let connections = vec![None; sessions + 1];
        Self { speaker, now, connections, places: BTreeMap::new(), last: 1, resets: 0, told: Vec::new() }
    }

    fn come_up(&mut self, place: usize) {
        if self.connections[place].is_some() {
            return;
        }
        self.last += 2;
        let conn = ConnId(self.last);
        self.connections[place] = Some(conn);
        self.places.insert(conn, place);
        let peer = IpAddr::from(address(place));
        self.speaker.handle(self.now, Input::Accepted { conn, peer, local: LOCAL.into() });
        self.speaker.receive(self.now, conn, &greeting(place));
    }

    fn forget(&mut self, conn: ConnId) {
        if let Some(place) = self.places.remove(&conn)
            && self.connections[place] == Some(conn)
        {
            self.connections[place] = None;
            self.resets += 1;
        }
    }

    fn drain(&mut self) {
        let witness = self.connections.last().copied().flatten();
        while let Some(output) = self.speaker.poll_output() {
            match output {
                Output::Close { conn } => self.forget(conn),
                Output::Send { conn, bytes } if Some(conn) == witness => {
                    self.told.extend_from_slice(&bytes);
                    // Whole messages only.
                    if self.told.len() > 1 << 20 {
                        self.told.clear();
                    }
                }
                _ => {}
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        if self.speaker.next_timeout().is_some_and(|due| due <= self.now) {
            self.speaker.handle(self.now, Input::Timeout);
        }
        self.drain();
    }
}

/// Both families, graceful restart, four-octet AS numbers, refresh.
fn greeting(place: usize) -> Vec<u8> {
    let [high, low] = AS.to_be_bytes();
    let capabilities = [
        [1, 4, 0, 1, 0, 1].as_slice(),
        &[1, 4, 0, 2, 0, 1],
        &[2, 0],
        &[65, 4, 0, 0, high, low],
        &[64, 10, 0, 60, 0, 1, 1, 128, 0, 2, 1, 128],
    ]
    .concat();
    let length = u8::try_from(capabilities.len()).unwrap_or(0);
    let mut body = vec![4, high, low, 0, 0];
    body.extend(address(place).octets());
    body.extend([length + 2, 2, length]);
    body.extend(capabilities);
    let mut out = Vec::new();
    wire::message(1, &body, &mut out);
    wire::message(4, &[], &mut out);
    out
}

/// A message as it should be.
fn valid(place: usize, dice: &mut Dice) -> Vec<u8> {
    let mut out = Vec::new();
    match dice.roll(40) {
        0 => wire::message(5, &[0, 1, 0, 1], &mut out),
        1 => wire::message(4, &[], &mut out),
        2 => wire::message(2, &[0, 0, 0, 0], &mut out),
        3 => return greeting(place),
        _ => {
            let last = u8::try_from(dice.roll(32)).unwrap_or(0);
            let [_, _, high, low] = address(place).octets();
            let mut attributes = vec![0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9, 0x40, 3, 4];
            attributes.extend(address(place).octets());
            attributes.extend([0x80, 4, 4, 0, 0, 0, 7, 0x40, 5, 4, 0, 0, 0, 100, 0x40, 6, 0]);
            attributes.extend([0xc0, 7, 8, 0, 0, 0xfd, 0xe9, 10, 0, 0, 1]);
            attributes.extend([0xc0, 8, 8, 0xfd, 0xe9, 0, 1, 0xfd, 0xe9, 0, 2]);
            attributes.extend([0x80, 9, 4, 10, 0, 0, 9, 0x80, 10, 8, 10, 0, 0, 8, 10, 0, 0, 7]);
            if dice.roll(2) == 0 {
                attributes.extend([0x80, 14, 30, 0, 2, 1, 16, 0xfd, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
                attributes.extend([64, 0xfd, 0x65, high, low, 0, 0, 0, last]);
            }
            attributes.extend([0xc0, 16, 8, 0, 2, 0xfd, 0xe9, 0, 0, 0, 1]);
            attributes.extend([0xc0, 32, 12, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0xe0, 99, 2, 1, 2]);
            let mut body = vec![0, 5, 32, 203, 0, 113, last ^ 1];
            body.extend(u16::try_from(attributes.len()).unwrap_or(0).to_be_bytes());
            body.extend(attributes);
            body.extend([32, 10, high, low, last, 24, 198, low, last]);
            wire::message(2, &body, &mut out);
        }
    }
    out
}

/// One to three of them, behind the header; mostly with a length that is right.
fn mistakes(message: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..=dice.roll(3) {
        let at = 19 + dice.roll(message.len() - 18);
        let octet = u8::try_from(dice.roll(256)).unwrap_or(0);
        match dice.roll(4) {
            0 if at < message.len() => message[at] ^= 1 << dice.roll(8),
            1 if at < message.len() => message[at] = [0, 1, 4, 24, 0x40, 0x80, 0xff][dice.roll(7)],
            2 => message.insert(at.min(message.len()), octet),
            _ if at < message.len() => drop(message.remove(at)),
            _ => {}
        }
        message.resize(message.len().max(19), 0);
    }
    if dice.roll(50) != 0 {
        let length = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes();
        message[16..18].copy_from_slice(&length);
    }
}

//! One injector and many receivers in one thread: raw clients that only count, so that the machine measures the reflector.

use super::daemon::{AS, Daemon};
use anyhow::{Result, bail};
use lasthop_net::Family;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, sockopt};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The reflector's address.
pub(super) const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// Prefixes that share their attributes: workloads of one host.
const GROUP: u32 = 100;

/// The first host route of the load; the one that is announced alone is before it.
const FIRST: u32 = 0x0b00_0000;

const READ: usize = 256 << 10;

/// The address of a peer; the first one is the injector.
pub(super) fn peer_address(place: usize) -> Ipv4Addr {
    let place = u32::try_from(place + 1).unwrap_or(u32::MAX);
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 99, 1, 0).to_bits() + place)
}

/// What is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Load {
    pub(super) family: Family,
    pub(super) count: u32,
}

impl Load {
    /// All UPDATEs, in the order of prefixes.
    fn updates(self) -> Vec<u8> {
        let mut out = Vec::new();
        for first in (0..self.count).step_by(GROUP as usize) {
            let prefixes: Vec<u32> = (first..(first + GROUP).min(self.count)).map(|n| FIRST + n).collect();
            announce(self.family, &prefixes, &mut out);
        }
        out
    }
}

fn message(kind: u8, body: &[u8], out: &mut Vec<u8>) {
    out.extend([0xff; 16]);
    out.extend(u16::try_from(19 + body.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.push(kind);
    out.extend(body);
}

fn host(family: Family, number: u32, out: &mut Vec<u8>) {
    match family {
        Family::V4 => out.push(32),
        Family::V6 => out.extend([128, 0xfd, 0x65, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    }
    out.extend(number.to_be_bytes());
}

fn len16(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes()
}

/// An UPDATE of host routes that share a next hop.
fn announce(family: Family, numbers: &[u32], out: &mut Vec<u8>) {
    let group = numbers.first().map_or(0, |first| first / GROUP % 0xfffe + 1);
    let [_, _, high, low] = group.to_be_bytes();
    let mut routes = Vec::new();
    numbers.iter().for_each(|number| host(family, *number, &mut routes));
    let mut attributes = vec![0x40, 1, 1, 0, 0x40, 2, 0];
    if family == Family::V4 {
        attributes.extend([0x40, 3, 4, 10, 50, high, low]);
    }
    attributes.extend([0x40, 5, 4, 0, 0, 0, 100]);
    if family == Family::V6 {
        let mut reach = vec![0, 2, 1, 16, 0xfd, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, high, low, 0];
        reach.append(&mut routes);
        attributes.extend([0x90, 14]);
        attributes.extend(len16(&reach));
        attributes.append(&mut reach);
    }
    let mut body = vec![0, 0];
    body.extend(len16(&attributes));
    body.extend(attributes);
    body.extend(routes);
    message(2, &body, out);
}

fn withdraw(number: u32, out: &mut Vec<u8>) {
    let mut body = vec![0, 5];
    host(Family::V4, number, &mut body);
    body.extend([0, 0]);
    message(2, &body, out);
}

fn open(local: Ipv4Addr, family: Family) -> Vec<u8> {
    let afi = if family == Family::V4 { 1 } else { 2 };
    let [_, _, high, low] = AS.to_be_bytes();
    let capabilities = [2, 14, 1, 4, 0, afi, 0, 1, 65, 4, 0, 0, high, low, 2, 0];
    let mut body = vec![4, high, low, 0, 240];
    body.extend(local.octets());
    body.push(16);
    body.extend(capabilities);
    let mut out = Vec::new();
    message(1, &body, &mut out);
    out
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Down { retry: Instant },
    Connecting,
    Greeting,
    Up(Instant),
}

/// Who is waited for: a prefix outside of the load that comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watch {
    number: u32,
    comes: bool,
}

/// What is counted, and what is waited for.
type Ask = (Load, Option<Watch>);

struct Client {
    address: Ipv4Addr,
    stream: Option<TcpStream>,
    phase: Phase,
    input: Vec<u8>,
    output: (Arc<Vec<u8>>, usize),
    seen: Vec<u64>,
    count: u32,
    done: Option<Instant>,
    noticed: Option<Instant>,
}

/// All clients.
pub(super) struct Swarm {
    load: Load,
    clients: Vec<Client>,
    watch: Option<Watch>,
    buffer: Vec<u8>,
    keepalive: Instant,
}

impl Swarm {
    /// An injector and so many receivers, that connect as soon as they are driven.
    pub(super) fn new(receivers: usize, load: Load) -> Self {
        let client = |place| Client {
            address: peer_address(place),
            stream: None,
            phase: Phase::Down { retry: Instant::now() },
            input: Vec::new(),
            output: (Arc::default(), 0),
            seen: vec![0; load.count as usize / 64 + 1],
            count: 0,
            done: None,
            noticed: None,
        };
        let clients = (0..=receivers).map(client).collect();
        Self { load, clients, watch: None, buffer: vec![0; READ], keepalive: Instant::now() }
    }

    /// Drives all until `done`; an error after `limit`.
    fn drive(&mut self, daemon: &mut Daemon, limit: Duration, done: impl Fn(&Self) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !done(self) {
            if begun.elapsed() > limit {
                daemon.check()?;
                bail!("not within {} s", limit.as_secs());
            }
            self.step(Duration::from_millis(5))?;
        }
        Ok(())
    }

    /// Waits until all sessions are up; when the last one was.
    pub(super) fn come_up(&mut self, daemon: &mut Daemon, limit: Duration) -> Result<Instant> {
        let up = |client: &Client| match client.phase {
            Phase::Up(at) => Some(at),
            _ => None,
        };
        let result = self.drive(daemon, limit, |swarm| swarm.clients.iter().all(|client| up(client).is_some()));
        let count = self.clients.iter().filter_map(up).count();
        if let Err(error) = result {
            bail!("{count} of {} sessions up: {error}", self.clients.len());
        }
        Ok(self.clients.iter().filter_map(up).max().unwrap_or_else(Instant::now))
    }

    /// Announces everything; how long until every receiver has it.
    pub(super) fn inject(&mut self, daemon: &mut Daemon, limit: Duration) -> Result<Duration> {
        let updates = Arc::new(self.load.updates());
        let begun = Instant::now();
        self.clients[0].output = (updates, 0);
        self.clients[0].send();
        self.all_have_all(daemon, begun, limit)
    }

    fn all_have_all(&mut self, daemon: &mut Daemon, begun: Instant, limit: Duration) -> Result<Duration> {
        let result = self.drive(daemon, limit, |swarm| swarm.clients[1..].iter().all(|client| client.done.is_some()));
        if let Err(error) = result {
            let (all, most) = (self.clients.len() - 1, self.load.count);
            let done = self.clients.iter().filter(|client| client.done.is_some()).count();
            let share: f64 = self.clients[1..].iter().map(|client| f64::from(client.count)).sum::<f64>() / all as f64;
            bail!("{done} of {all} clients have all, {:.0} % on average: {error}", share / f64::from(most) * 100.0);
        }
        let last = self.clients[1..].iter().filter_map(|client| client.done).max().unwrap_or(begun);
        Ok(last.duration_since(begun))
    }

    /// All receivers hang up and come back at once; how long until every one has everything again.
    pub(super) fn again(&mut self, daemon: &mut Daemon, limit: Duration) -> Result<Duration> {
        let begun = Instant::now();
        for client in &mut self.clients[1..] {
            client.hang_up(Duration::ZERO);
            (client.count, client.done) = (0, None);
            client.seen.fill(0);
        }
        self.all_have_all(daemon, begun, limit)
    }

    /// One prefix comes, or goes: how long until the last receiver knows.
    pub(super) fn change(&mut self, daemon: &mut Daemon, number: u32, comes: bool) -> Result<Duration> {
        let watch = Watch { number: FIRST - 0x0010_0000 + number, comes };
        let mut bytes = Vec::new();
        if comes {
            announce(Family::V4, &[watch.number], &mut bytes)
        } else {
            withdraw(watch.number, &mut bytes)
        }
        self.clients.iter_mut().for_each(|client| client.noticed = None);
        self.watch = Some(watch);
        let begun = Instant::now();
        self.clients[0].output = (Arc::new(bytes), 0);
        self.clients[0].send();
        let limit = Duration::from_secs(5);
        self.drive(daemon, limit, |swarm| swarm.clients[1..].iter().all(|client| client.noticed.is_some()))?;
        let last = self.clients[1..].iter().filter_map(|client| client.noticed).max().unwrap_or(begun);
        Ok(last.duration_since(begun))
    }

    /// Lets time pass.
    pub(super) fn rest(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.step(Duration::from_millis(1))?;
        }
        Ok(())
    }

    fn step(&mut self, wait: Duration) -> Result<()> {
        let now = Instant::now();
        if now.duration_since(self.keepalive) > Duration::from_secs(20) {
            self.keepalive = now;
            let mut bytes = Vec::new();
            message(4, &[], &mut bytes);
            for client in self.clients.iter_mut().filter(|client| matches!(client.phase, Phase::Up(_))) {
                if client.output.1 == client.output.0.len() {
                    client.output = (Arc::new(bytes.clone()), 0);
                    client.send();
                }
            }
        }
        for client in &mut self.clients {
            if matches!(client.phase, Phase::Down { retry } if retry <= now) {
                client.connect()?;
            }
        }
        let mut places = Vec::with_capacity(self.clients.len());
        let mut waiting = Vec::with_capacity(self.clients.len());
        for (place, client) in self.clients.iter().enumerate() {
            let Some(stream) = &client.stream else { continue };
            let writes = client.phase == Phase::Connecting || client.output.1 < client.output.0.len();
            let flags = if writes { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
            places.push(place);
            waiting.push(PollFd::new(stream.as_fd(), flags));
        }
        let wait = PollTimeout::from(u8::try_from(wait.as_millis()).unwrap_or(u8::MAX));
        match poll(&mut waiting, wait) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<(usize, PollFlags)> =
            places.into_iter().zip(waiting.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()))).collect();
        for (place, flags) in ready.into_iter().filter(|(_, flags)| !flags.is_empty()) {
            let client = &mut self.clients[place];
            if flags.contains(PollFlags::POLLOUT) {
                client.writable(self.load.family);
            }
            if flags.intersects(PollFlags::POLLIN | PollFlags::POLLERR | PollFlags::POLLHUP) {
                client.readable(&mut self.buffer, self.load, self.watch);
            }
        }
        Ok(())
    }
}

impl Client {
    fn connect(&mut self) -> Result<()> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket::socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        socket::setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
        socket::bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(self.address, 0)))?;
        match socket::connect(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(LOCAL, 179))) {
            Ok(()) | Err(Errno::EINPROGRESS) => {
                self.stream = Some(fd.into());
                self.phase = Phase::Connecting;
            }
            Err(_) => self.hang_up(Duration::from_millis(5)),
        }
        Ok(())
    }

    fn hang_up(&mut self, pause: Duration) {
        self.stream = None;
        self.phase = Phase::Down { retry: Instant::now() + pause };
        self.input.clear();
        self.output = (Arc::default(), 0);
    }

    fn writable(&mut self, family: Family) {
        if self.phase == Phase::Connecting {
            let Some(stream) = &self.stream else { return };
            if !matches!(stream.take_error(), Ok(None)) || stream.peer_addr().is_err() {
                return self.hang_up(Duration::from_millis(5));
            }
            self.phase = Phase::Greeting;
            self.output = (Arc::new(open(self.address, family)), 0);
        }
        self.send();
    }

    fn send(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        while let Some(rest) = self.output.0.get(self.output.1..).filter(|rest| !rest.is_empty()) {
            match stream.write(rest) {
                Ok(count) => self.output.1 += count,
                Err(_) => return,
            }
        }
    }

    fn readable(&mut self, buffer: &mut [u8], load: Load, watch: Option<Watch>) {
        loop {
            let Some(stream) = &mut self.stream else { return };
            let count = match stream.read(buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Ok(0) | Err(_) => return self.hang_up(Duration::from_millis(5)),
                Ok(count) => count,
            };
            let now = Instant::now();
            let fresh = &buffer[..count];
            // Usually nothing is left of the read before.
            let mut kept = std::mem::take(&mut self.input);
            let bytes = if kept.is_empty() {
                fresh
            } else {
                kept.extend_from_slice(fresh);
                &kept
            };
            let taken = self.messages(bytes, (load, watch), now);
            if self.stream.is_some() {
                self.input = bytes[taken..].to_vec();
            }
            if count < buffer.len() / 8 {
                return;
            }
        }
    }

    /// Takes whole messages; how many octets they were.
    fn messages(&mut self, bytes: &[u8], (load, watch): Ask, now: Instant) -> usize {
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| rest.len() >= 19) {
            let length = usize::from(u16::from_be_bytes([rest[16], rest[17]])).max(19);
            let Some(body) = rest.get(19..length) else { break };
            match rest[18] {
                1 => {
                    let mut bytes = Vec::new();
                    message(4, &[], &mut bytes);
                    self.output = (Arc::new(bytes), 0);
                    self.send();
                }
                2 => self.update(body, (load, watch), now),
                3 => {
                    let up = matches!(self.phase, Phase::Up(_));
                    self.hang_up(Duration::from_millis(if up { 1000 } else { 20 }));
                    return bytes.len();
                }
                4 if self.phase == Phase::Greeting => self.phase = Phase::Up(now),
                _ => {}
            }
            taken += length;
        }
        taken
    }

    fn update(&mut self, body: &[u8], ask: Ask, now: Instant) {
        let part = |at: usize| {
            let len = usize::from(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
            body.get(at + 2..at + 2 + len)
        };
        let Some(gone) = part(0) else { return };
        let Some(mut attributes) = part(2 + gone.len()) else { return };
        self.routes((Family::V4, gone, false), ask, now);
        self.routes((Family::V4, &body[4 + gone.len() + attributes.len()..], true), ask, now);
        while let [flags, kind, rest @ ..] = attributes {
            let (length, rest) = match rest {
                [high, low, rest @ ..] if flags & 0x10 != 0 => (usize::from(u16::from_be_bytes([*high, *low])), rest),
                [length, rest @ ..] if flags & 0x10 == 0 => (usize::from(*length), rest),
                _ => return,
            };
            let Some((value, rest)) = rest.split_at_checked(length) else { return };
            match (*kind, value) {
                (14, [0, 2, 1, hop, rest @ ..]) => {
                    let routes = rest.get(usize::from(*hop) + 1..).unwrap_or_default();
                    self.routes((Family::V6, routes, true), ask, now);
                }
                (15, [0, 2, 1, rest @ ..]) => self.routes((Family::V6, rest, false), ask, now),
                _ => {}
            }
            attributes = rest;
        }
    }

    fn routes(&mut self, (family, octets, comes): (Family, &[u8], bool), (load, watch): Ask, now: Instant) {
        let length = if family == Family::V4 { 5 } else { 17 };
        for octets in octets.chunks_exact(length) {
            let number = octets.last_chunk::<4>().map_or(0, |last| u32::from_be_bytes(*last));
            let place = number.wrapping_sub(FIRST);
            if comes && place < load.count {
                let (word, bit) = (&mut self.seen[place as usize / 64], 1 << (place % 64));
                if *word & bit == 0 {
                    *word |= bit;
                    self.count += 1;
                    if self.count == load.count {
                        self.done = Some(now);
                    }
                }
            } else if watch == Some(Watch { number, comes }) && self.noticed.is_none() {
                self.noticed = Some(now);
            }
        }
    }
}

//! A speaker that says just the octets a test gives it, over a real connection, and notes what it hears.

mod decision;
mod opens;
mod session;
mod vectors;

use lasthop_testkit::netns::Host;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long an answer may take.
const SOON: Duration = Duration::from_secs(10);

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;

/// A message of any type.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap();
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind], body].concat()
}

/// A path attribute; with a long length where the flags say so or it is needed.
fn attribute(flags: u8, kind: u8, value: &[u8]) -> Vec<u8> {
    match u8::try_from(value.len()) {
        Ok(length) if flags & 0x10 == 0 => [&[flags, kind, length], value].concat(),
        _ => {
            let length = u16::try_from(value.len()).unwrap();
            [&[flags | 0x10, kind][..], &length.to_be_bytes(), value].concat()
        }
    }
}

/// An UPDATE: withdrawn IPv4 prefixes, attributes, announced IPv4 prefixes.
fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let length = |part: &[u8]| u16::try_from(part.len()).unwrap().to_be_bytes();
    message(UPDATE, &[&length(withdrawn)[..], withdrawn, &length(attributes), attributes, nlri].concat())
}

/// Octets written in hexadecimal, with blanks.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

/// What is said in an OPEN.
#[derive(Clone)]
struct Open {
    version: u8,
    asn: u32,
    hold: u16,
    id: [u8; 4],
    /// Capabilities as one optional parameter; or the optional parameters as they are, with their length.
    capabilities: Vec<u8>,
    parameters: Option<Vec<u8>>,
}

impl Open {
    /// Both families, route refresh, 4-octet AS numbers.
    fn new(asn: u32, id: [u8; 4]) -> Self {
        let capabilities = [hex("0104 00010001 0104 00020001 0200 4104"), asn.to_be_bytes().into()].concat();
        Self { version: 4, asn, hold: 90, id, capabilities, parameters: None }
    }

    /// With a further capability.
    fn offering(mut self, capability: &str) -> Self {
        self.capabilities.extend(hex(capability));
        self
    }

    fn octets(&self) -> Vec<u8> {
        let asn = u16::try_from(self.asn).unwrap_or(23456);
        let length = |part: &[u8]| u8::try_from(part.len()).unwrap();
        let parameters = self.parameters.clone().unwrap_or_else(|| {
            let parameter = [&[2, length(&self.capabilities)][..], &self.capabilities].concat();
            [&[length(&parameter)][..], &parameter].concat()
        });
        let body = [&[self.version][..], &asn.to_be_bytes(), &self.hold.to_be_bytes(), &self.id, &parameters];
        message(OPEN, &body.concat())
    }
}

/// Attributes by type: flags and value.
type Attributes = BTreeMap<u8, (u8, Vec<u8>)>;

/// A connection to our speaker.
struct Raw {
    stream: TcpStream,
    bytes: Vec<u8>,
    /// Prefixes as the speaker told them, and what with.
    routes: BTreeMap<String, Attributes>,
    opened: Option<Vec<u8>>,
    keepalives: usize,
    updates: usize,
    /// Families whose End-of-RIB came: 1 and 2.
    end_of_rib: Vec<u8>,
    notification: Option<(u8, u8, Vec<u8>)>,
    closed: bool,
}

impl Raw {
    /// Connects, from a host's address.
    fn connect(host: &Host, to: &str) -> Self {
        let to = SocketAddr::new(to.parse().unwrap(), 179);
        let end = Instant::now() + SOON;
        let stream = loop {
            match host.enter(|| TcpStream::connect_timeout(&to, SOON)) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        Self {
            stream,
            bytes: Vec::new(),
            routes: BTreeMap::new(),
            opened: None,
            keepalives: 0,
            updates: 0,
            end_of_rib: Vec::new(),
            notification: None,
            closed: false,
        }
    }

    /// Connects and waits until the session is up.
    fn established(host: &Host, to: &str, open: &Open) -> Self {
        let end = Instant::now() + SOON;
        loop {
            let mut raw = Self::connect(host, to);
            raw.send(&open.octets());
            raw.send(&message(KEEPALIVE, &[]));
            if raw.until(|raw| raw.keepalives > 0 && raw.opened.is_some()) {
                return raw;
            }
            assert!(Instant::now() < end, "no session: {:?}, closed: {}", raw.notification, raw.closed);
            // The one before may not be forgotten yet.
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Says these octets; one that is cut off meanwhile has been told why.
    fn send(&mut self, bytes: &[u8]) {
        if let Err(error) = self.stream.write_all(bytes) {
            assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
        }
    }

    /// Listens until something is so; whether it came to that before the connection ended, or in time.
    fn until(&mut self, so: impl Fn(&Self) -> bool) -> bool {
        let end = Instant::now() + SOON;
        while !so(self) {
            if self.closed || Instant::now() > end {
                return false;
            }
            self.listen();
        }
        true
    }

    /// Listens for so long.
    fn listen_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while !self.closed && Instant::now() < end {
            self.listen();
        }
    }

    /// Waits for the end of the connection; the NOTIFICATION that it ended with.
    fn ended(&mut self) -> (u8, u8, Vec<u8>) {
        self.until(|raw| raw.notification.is_some());
        self.notification.clone().unwrap_or_else(|| panic!("no NOTIFICATION; closed: {}", self.closed))
    }

    fn listen(&mut self) {
        let mut room = [0; 65536];
        match self.stream.read(&mut room) {
            Ok(0) => self.closed = true,
            Ok(count) => self.bytes.extend_from_slice(&room[..count]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(_) => self.closed = true,
        }
        while let Some(length) =
            self.bytes.get(16..18).map(|octets| usize::from(octets[0]) << 8 | usize::from(octets[1]))
        {
            if self.bytes.len() < length {
                break;
            }
            let taken: Vec<u8> = self.bytes.drain(..length).collect();
            self.take(taken[18], &taken[19..]);
        }
    }

    fn take(&mut self, kind: u8, body: &[u8]) {
        match kind {
            OPEN => self.opened = Some(body.to_vec()),
            UPDATE => self.update(body),
            NOTIFICATION => self.notification = Some((body[0], body[1], body[2..].to_vec())),
            KEEPALIVE => self.keepalives += 1,
            _ => {}
        }
    }

    fn update(&mut self, body: &[u8]) {
        self.updates += 1;
        let word = |at: usize| usize::from(body[at]) << 8 | usize::from(body[at + 1]);
        let withdrawn = word(0);
        let length = word(2 + withdrawn);
        let mut rest = &body[4 + withdrawn..4 + withdrawn + length];
        let announced = &body[4 + withdrawn + length..];
        let mut attributes = Attributes::new();
        while let [flags, kind, tail @ ..] = rest {
            let (length, skip) = match flags & 0x10 {
                0 => (usize::from(tail[0]), 1),
                _ => (usize::from(tail[0]) << 8 | usize::from(tail[1]), 2),
            };
            attributes.insert(*kind, (*flags, tail[skip..skip + length].to_vec()));
            rest = &tail[skip + length..];
        }
        if body.len() == 4 {
            self.end_of_rib.push(1);
        }
        let mut gone = prefixes(&body[2..2 + withdrawn], Ipv4Addr::BITS);
        let mut come = prefixes(announced, Ipv4Addr::BITS);
        if let Some((_, value)) = attributes.get(&15) {
            gone.extend(prefixes(&value[3..], Ipv6Addr::BITS));
            if value.len() == 3 && attributes.len() == 1 {
                self.end_of_rib.push(2);
            }
        }
        if let Some((_, value)) = attributes.get(&14) {
            come.extend(prefixes(&value[5 + usize::from(value[3])..], Ipv6Addr::BITS));
        }
        gone.iter().for_each(|prefix| drop(self.routes.remove(prefix)));
        come.into_iter().for_each(|prefix| drop(self.routes.insert(prefix, attributes.clone())));
    }
}

/// Prefixes as they stand in a message.
fn prefixes(mut octets: &[u8], bits: u32) -> Vec<String> {
    let mut all = Vec::new();
    while let [length, rest @ ..] = octets {
        let count = usize::from(length.div_ceil(8));
        let mut full = [0; 16];
        full[..count].copy_from_slice(&rest[..count]);
        let address = match bits {
            Ipv4Addr::BITS => IpAddr::from([full[0], full[1], full[2], full[3]]),
            _ => IpAddr::from(full),
        };
        all.push(format!("{address}/{length}"));
        octets = &rest[count..];
    }
    all
}

/// Good attributes of a route: from an AS outside, or from inside.
fn good(asn: Option<u32>, next_hop: [u8; 4]) -> BTreeMap<u8, Vec<u8>> {
    let path = asn.map(|asn| [&[2, 1][..], &asn.to_be_bytes()].concat()).unwrap_or_default();
    let mut attributes = BTreeMap::from([
        (1, attribute(0x40, 1, &[0])),
        (2, attribute(0x40, 2, &path)),
        (3, attribute(0x40, 3, &next_hop)),
    ]);
    if asn.is_none() {
        attributes.insert(5, attribute(0x40, 5, &100u32.to_be_bytes()));
    }
    attributes
}

/// Attributes by type, one after the other.
fn joined(attributes: &BTreeMap<u8, Vec<u8>>) -> Vec<u8> {
    attributes.values().flatten().copied().collect()
}

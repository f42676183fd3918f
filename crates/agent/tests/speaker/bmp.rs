//! The BMP station's side (RFC 7854), read by a parser written from the RFC and sharing nothing with who writes it.

use crate::bird::hosts;
use crate::support::{Agent, LIMIT, Speaker, bird_routes, bird_session, config, peer};
use lasthop_testkit::bird::{Bird, base};
use lasthop_testkit::netns::Host;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// A cursor that panics where a message is too short: it must not be.
struct Octets<'a>(&'a [u8]);

impl<'a> Octets<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn number(&mut self, count: usize) -> u64 {
        self.take(count).iter().fold(0, |number, octet| number << 8 | u64::from(*octet))
    }

    /// A whole BGP message of this type.
    fn bgp(&mut self, kind: u8) -> &'a [u8] {
        assert_eq!(self.0[..16], [0xff; 16]);
        let length = usize::from(u16::from_be_bytes([self.0[16], self.0[17]]));
        assert_eq!(self.0[18], kind);
        self.take(length)
    }
}

/// A per-peer header (section 4.2).
#[derive(Debug)]
struct About {
    address: IpAddr,
    asn: u64,
    id: Ipv4Addr,
    seconds: u64,
}

fn about(octets: &mut Octets<'_>) -> About {
    assert_eq!(octets.number(1), 0, "a global instance peer");
    let flags = octets.number(1);
    assert_eq!(flags & 0x40, 0, "before policy");
    assert_eq!(octets.number(8), 0, "no distinguisher");
    let address: [u8; 16] = octets.take(16).try_into().unwrap();
    let address = if flags & 0x80 != 0 {
        Ipv6Addr::from(address).into()
    } else {
        assert_eq!(address[..12], [0; 12]);
        <[u8; 4]>::try_from(&address[12..]).unwrap().into()
    };
    let (asn, id) = (octets.number(4), octets.number(4) as u32);
    let (seconds, micros) = (octets.number(4), octets.number(4));
    assert!(micros < 1_000_000);
    About { address, asn, id: id.into(), seconds }
}

fn prefixes(mut octets: Octets<'_>, v6: bool) -> BTreeSet<String> {
    let mut prefixes = BTreeSet::new();
    while !octets.0.is_empty() {
        let bits = octets.number(1) as usize;
        let given = octets.take(bits.div_ceil(8));
        let mut address = [0; 16];
        address[..given.len()].copy_from_slice(given);
        let address: IpAddr = if v6 { address.into() } else { <[u8; 4]>::try_from(&address[..4]).unwrap().into() };
        prefixes.insert(format!("{address}/{bits}"));
    }
    prefixes
}

/// What a station knows.
#[derive(Debug, Default)]
struct Known {
    initiation: BTreeMap<u64, String>,
    up: BTreeSet<IpAddr>,
    ups: usize,
    /// The reason of each Peer Down, and the NOTIFICATION's code and subcode.
    downs: Vec<(u64, Option<(u8, u8)>)>,
    routes: BTreeSet<String>,
    end_of_rib: usize,
    statistics: usize,
    terminated: bool,
}

impl Known {
    fn message(&mut self, kind: u8, body: &[u8]) {
        let mut octets = Octets(body);
        assert!(kind == 4 || !self.initiation.is_empty(), "Initiation comes first");
        match kind {
            0 => {
                let peer = about(&mut octets);
                assert!(self.up.contains(&peer.address), "a route of a peer that is up");
                self.update(Octets(&octets.bgp(2)[19..]));
            }
            1 => {
                about(&mut octets);
                for _ in 0..octets.number(4) {
                    let (_kind, length) = (octets.number(2), octets.number(2) as usize);
                    octets.take(length);
                }
                self.statistics += 1;
            }
            2 => {
                let peer = about(&mut octets);
                assert!(self.up.remove(&peer.address), "down after up");
                let reason = octets.number(1);
                let said = matches!(reason, 1 | 3).then(|| octets.bgp(3)).map(|message| (message[19], message[20]));
                self.downs.push((reason, said));
                self.routes.clear();
            }
            3 => {
                let peer = about(&mut octets);
                assert_eq!((peer.asn, peer.id), (64513, Ipv4Addr::new(10, 99, 0, 2)), "{peer:?}");
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
                assert!(now.abs_diff(peer.seconds) < 60, "{peer:?}");
                octets.take(12);
                assert_eq!(octets.take(4), [10, 99, 0, 1], "our address");
                octets.take(4);
                // Ours, then theirs: each with its AS after the version.
                let (sent, received) = (octets.bgp(1), octets.bgp(1));
                assert_eq!(
                    (&sent[20..22], &received[20..22]),
                    (&64512u16.to_be_bytes()[..], &64513u16.to_be_bytes()[..])
                );
                assert!(self.up.insert(peer.address));
                self.ups += 1;
            }
            4 | 5 => {
                while !octets.0.is_empty() {
                    let (key, length) = (octets.number(2), octets.number(2) as usize);
                    let value = octets.take(length);
                    if kind == 4 {
                        self.initiation.insert(key, String::from_utf8(value.to_vec()).unwrap());
                    } else {
                        assert_eq!((key, value), (1, &[0, 0][..]));
                    }
                }
                self.terminated = kind == 5;
            }
            other => panic!("no message type {other}"),
        }
        assert!(octets.0.is_empty(), "nothing is left of message type {kind}: {octets:?}", octets = octets.0);
    }

    fn update(&mut self, mut octets: Octets<'_>) {
        let length = octets.number(2) as usize;
        let mut gone = prefixes(Octets(octets.take(length)), false);
        let length = octets.number(2) as usize;
        let mut attributes = Octets(octets.take(length));
        let mut there = prefixes(Octets(octets.0), false);
        let mut end = length == 0 && gone.is_empty() && there.is_empty();
        while !attributes.0.is_empty() {
            let (flags, kind) = (attributes.number(1), attributes.number(1));
            let length = attributes.number(if flags & 0x10 != 0 { 2 } else { 1 }) as usize;
            let mut value = Octets(attributes.take(length));
            if kind == 14 || kind == 15 {
                let v6 = value.number(2) == 2;
                assert_eq!(value.number(1), 1);
                if kind == 15 {
                    end |= value.0.is_empty();
                    gone.extend(prefixes(value, v6));
                } else {
                    let hop = value.number(1) as usize;
                    value.take(hop + 1);
                    there.extend(prefixes(value, v6));
                }
            }
        }
        self.end_of_rib += usize::from(end);
        self.routes.retain(|route| !gone.contains(route));
        self.routes.extend(there);
    }
}

/// A station on a host.
struct Station {
    stream: TcpStream,
    octets: Vec<u8>,
    known: Known,
}

impl Station {
    fn accept(listener: &TcpListener) -> Self {
        listener.set_nonblocking(true).unwrap();
        let end = Instant::now() + LIMIT;
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(_) => assert!(Instant::now() < end, "nobody reports"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        Self { stream, octets: Vec::new(), known: Known::default() }
    }

    fn read(&mut self) {
        let mut more = [0; 65536];
        if let Ok(count) = self.stream.read(&mut more) {
            self.octets.extend(&more[..count]);
        }
        let mut taken = 0;
        while let Some(header) = self.octets.get(taken..taken + 6) {
            assert_eq!(header[0], 3, "the version");
            let (length, kind) = (u32::from_be_bytes(header[1..5].try_into().unwrap()) as usize, header[5]);
            let Some(body) = self.octets.get(taken + 6..taken + length) else { break };
            self.known.message(kind, body);
            taken += length;
        }
        self.octets.drain(..taken);
    }

    fn until(&mut self, agent: &mut Agent, what: &str, done: impl Fn(&Known) -> bool) {
        // A table of thousands of routes, on a machine that does other things.
        let end = Instant::now() + LIMIT * 3;
        while !done(&self.known) {
            self.read();
            agent.listen_for(Duration::from_millis(5));
            assert!(Instant::now() < end, "{what}: {:#?}", self.known);
        }
    }
}

fn listen(host: &Host) -> TcpListener {
    host.enter(|| TcpListener::bind("10.99.0.3:11019")).unwrap()
}

fn has(known: &Known, routes: &[&str]) -> bool {
    known.routes == routes.iter().map(|text| (*text).to_owned()).collect()
}

const STATION: &str = "10.99.0.3:11019";

#[test]
fn a_station_hears_of_sessions_and_routes_and_one_that_comes_later_hears_the_same() {
    let [a, b, c] = hosts();
    let routes = bird_routes(
        "route 10.65.2.0/24 unreachable; route 10.65.3.0/24 unreachable;",
        "route fd00:65:2::/64 unreachable;",
    );
    let session = bird_session("peer", ("10.99.0.2", 64513), ("10.99.0.1", 64512), "");
    let bird = Bird::start(&b, &(base("10.99.0.2") + &routes + &session)).unwrap();
    let listener = listen(&c);
    let speaker = Speaker::start_reporting(&a, STATION, 16 << 20);
    let mut agent =
        Agent::new(&speaker.socket(), config(64512, "10.99.0.1"), vec![peer("10.99.0.1", "10.99.0.2", 64513)]);
    let mut station = Station::accept(&listener);
    let all = ["10.65.2.0/24", "10.65.3.0/24", "fd00:65:2::/64"];
    station.until(&mut agent, "all routes", |known| has(known, &all) && known.end_of_rib >= 2 && known.ups == 1);
    assert_eq!(station.known.initiation.get(&2).map(String::as_str), Some("speaker"));
    assert!(station.known.initiation[&1].starts_with("lasthop "));

    bird.ask("disable s6").unwrap();
    station.until(&mut agent, "a withdrawal", |known| has(known, &all[..2]));
    bird.ask("disable peer").unwrap();
    station.until(&mut agent, "down", |known| known.downs == [(3, Some((6, 2)))] || known.downs == [(3, Some((6, 9)))]);
    bird.ask("enable s6").unwrap();
    bird.ask("enable peer").unwrap();
    station.until(&mut agent, "up again", |known| known.ups == 2 && has(known, &all));

    // It goes, and another one is told all there is.
    drop(station);
    let mut station = Station::accept(&listener);
    station.until(&mut agent, "the same", |known| known.ups == 1 && has(known, &all) && known.end_of_rib >= 2);
    speaker.process.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    station.until(&mut agent, "the end", |known| known.terminated);
    assert_eq!(station.known.downs.len(), 1, "each session is down first: {:?}", station.known);
}

#[test]
fn a_station_that_reads_nothing_slows_nobody_down() {
    let [a, b, c] = hosts();
    let routes: String =
        (0..20_000u32).map(|i| format!("route {}/32 unreachable;\n", Ipv4Addr::from(0x0a42_0000 + i))).collect();
    let session = bird_session("peer", ("10.99.0.2", 64513), ("10.99.0.1", 64512), "");
    let bird = Bird::start(&b, &(base("10.99.0.2") + &bird_routes(&routes, "") + &session)).unwrap();
    let listener = listen(&c);
    let speaker = Speaker::start_reporting(&a, STATION, 256 << 10);
    let mut agent =
        Agent::new(&speaker.socket(), config(64512, "10.99.0.1"), vec![peer("10.99.0.1", "10.99.0.2", 64513)]);
    let station = Station::accept(&listener);
    agent.established("10.99.0.2");
    agent.wait("all routes", LIMIT, |agent| agent.routes.len() == 20_000);
    // Some 100 octets a route each way: more than it may hold back after a few rounds.
    for round in 0.. {
        bird.ask("disable s4").unwrap();
        agent.wait("none", LIMIT, |agent| agent.routes.is_empty());
        bird.ask("enable s4").unwrap();
        agent.wait("all", LIMIT, |agent| agent.routes.len() == 20_000);
        if speaker.log().contains("does not read what it is told: cut off") {
            println!("cut off in round {round}");
            break;
        }
        assert!(round < 200, "it is never cut off");
    }
    // It reads now, anew.
    drop(station);
    let mut station = Station::accept(&listener);
    station.until(&mut agent, "everything", |known| known.routes.len() == 20_000);
    assert!(agent.states[0].is_established());
}

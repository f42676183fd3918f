//! Five real daemons seen the same way, so that a scenario is written once: what each is told, and what it says of a
//! session, of a prefix, and of why a session ended.
//!
//! | | quirks found by running it |
//! |---|---|
//! | BIRD 2.0.12 | shows LOCAL_PREF 100 where none was sent |
//! | FRR 8.4.4 | wants `no bgp ebgp-requires-policy`; compares identifiers only with `bgp bestpath compare-routerid` |
//! | GoBGP 3.10 | refuses connections for some seconds after a session ended; its own routes come by its API |
//! | OpenBGPD 7.7 | stays Idle for 30 s and more after an error, unless told `neighbor … up`; shows LOCAL_PREF 100 always |
//! | ExaBGP 4.2.21 | has no table: it prints what it hears, and says what it is told to |

mod bird;
mod exabgp;
mod frr;
mod gobgp;
mod openbgpd;

use crate::support::Agent;
use lasthop_testkit::netns::Host;
use serde_json::Value;
use std::time::{Duration, Instant};

/// The address of our speaker in every scenario.
pub(crate) const US: &str = "10.99.0.1";

/// How long a daemon may take for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(45);

/// Which daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bird,
    Frr,
    GoBgp,
    OpenBgpd,
    ExaBgp,
}

/// What a daemon is told before it starts.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Its number: 10.99.0.N and fd00:99::N are its addresses, the former also its identifier.
    pub(crate) number: u8,
    pub(crate) asn: u32,
    pub(crate) neighbours: Vec<Neighbour>,
    pub(crate) routes: Vec<Route>,
}

/// A neighbour of a daemon.
#[derive(Clone, Debug)]
pub(crate) struct Neighbour {
    pub(crate) address: String,
    pub(crate) asn: u32,
    pub(crate) hold: u16,
    /// It waits for the neighbour to connect.
    pub(crate) passive: bool,
    /// The neighbour is its route-reflection client.
    pub(crate) client: bool,
    /// Graceful restart, with this restart time.
    pub(crate) restart: Option<u16>,
    pub(crate) password: Option<String>,
    /// It takes several paths of a prefix.
    pub(crate) several: bool,
    /// In its own words: lines of the neighbour's part of the configuration.
    pub(crate) more: String,
}

/// A route of a daemon's own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Route {
    pub(crate) prefix: String,
    /// `64513:7`; well-known ones as numbers.
    pub(crate) communities: Vec<String>,
    pub(crate) med: Option<u32>,
}

/// A path as a daemon shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) next_hop: String,
    pub(crate) as_path: String,
    pub(crate) local_pref: Option<u64>,
    pub(crate) med: Option<u64>,
    pub(crate) communities: Vec<String>,
    pub(crate) large: Vec<String>,
    pub(crate) originator: Option<String>,
    pub(crate) clusters: Vec<String>,
}

/// A session as a daemon shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) established: bool,
    /// Another one for every session.
    pub(crate) since: String,
    /// Prefixes that it has from the neighbour.
    pub(crate) prefixes: usize,
}

/// A running daemon; it ends with the value.
pub(crate) trait Daemon {
    fn session(&self, neighbour: &str) -> Session;
    /// The paths that neighbours told it, best first.
    fn paths(&self, prefix: &str) -> Vec<Seen>;
    fn announce(&self, route: &Route);
    fn withdraw(&self, prefix: &str);
    /// Asks the neighbour to say everything again.
    fn refresh(&self, neighbour: &str);
    /// What it says of why sessions ended, and all else that helps.
    fn words(&self) -> String;
    /// `kill -9`.
    fn kill(&mut self);
    /// Starts it again after [`Daemon::kill`], as one that restarts.
    fn start_again(&mut self);
    /// Connects now where it would wait for its own reasons.
    fn nudge(&self, _neighbour: &str) {}
}

impl Kind {
    pub(crate) fn start(self, host: &Host, setup: &Setup) -> Peer {
        let daemon: Box<dyn Daemon> = match self {
            Self::Bird => Box::new(bird::Bird::start(host, setup)),
            Self::Frr => Box::new(frr::Frr::start(host, setup)),
            Self::GoBgp => Box::new(gobgp::GoBgp::start(host, setup)),
            Self::OpenBgpd => Box::new(openbgpd::OpenBgpd::start(host, setup)),
            Self::ExaBgp => Box::new(exabgp::ExaBgp::start(host, setup)),
        };
        Peer { kind: self, daemon, name: host.name().to_owned() }
    }
}

impl Setup {
    pub(crate) fn new(number: u8, asn: u32) -> Self {
        Self { number, asn, neighbours: Vec::new(), routes: Vec::new() }
    }

    /// With this neighbour.
    pub(crate) fn with(mut self, neighbour: Neighbour) -> Self {
        self.neighbours.push(neighbour);
        self
    }

    /// With a route of its own.
    pub(crate) fn route(self, prefix: &str) -> Self {
        self.routed(Route::new(prefix))
    }

    pub(crate) fn routed(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    pub(crate) fn address(&self) -> String {
        format!("10.99.0.{}", self.number)
    }

    pub(crate) fn address_v6(&self) -> String {
        format!("fd00:99::{}", self.number)
    }

    /// Its own address towards a neighbour.
    pub(crate) fn towards(&self, neighbour: &str) -> String {
        if neighbour.contains(':') { self.address_v6() } else { self.address() }
    }
}

impl Neighbour {
    pub(crate) fn new(address: &str, asn: u32) -> Self {
        Self {
            address: address.to_owned(),
            asn,
            hold: 90,
            passive: false,
            client: false,
            restart: Some(120),
            password: None,
            several: false,
            more: String::new(),
        }
    }

    pub(crate) fn change(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

impl Route {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..Self::default() }
    }

    pub(crate) fn is_v6(&self) -> bool {
        self.prefix.contains(':')
    }
}

/// A daemon and what a test asks of it.
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    pub(crate) daemon: Box<dyn Daemon>,
    name: String,
}

impl Drop for Peer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?} in {}:\n{}", self.kind, self.name, self.daemon.words());
        }
    }
}

impl Peer {
    /// Waits until something is so, while the agent goes on.
    pub(crate) fn until<T>(&self, agent: &mut Agent, what: &str, mut so: impl FnMut(&dyn Daemon) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = so(&*self.daemon) {
                return found;
            }
            assert!(Instant::now() < end, "{:?}: not within {PATIENCE:?}: {what}\n{:#?}", self.kind, agent.states);
            agent.listen_for(Duration::from_millis(100));
        }
    }

    /// Waits until its session with us is up; both ends agree on that.
    pub(crate) fn established(&self, agent: &mut Agent, neighbour: &str, ours: &str) -> Session {
        let ours: std::net::IpAddr = ours.parse().unwrap();
        let mut nudged = Instant::now();
        let is_up = |agent: &Agent| agent.states.iter().any(|state| state.address == ours && state.is_established());
        let end = Instant::now() + PATIENCE;
        while !is_up(agent) || !self.daemon.session(neighbour).established {
            assert!(Instant::now() < end, "{:?}: no session with {neighbour}\n{:#?}", self.kind, agent.states);
            if nudged.elapsed() > Duration::from_secs(2) {
                self.daemon.nudge(neighbour);
                nudged = Instant::now();
            }
            agent.listen_for(Duration::from_millis(50));
        }
        self.daemon.session(neighbour)
    }

    /// Waits until it has a prefix from a neighbour; the best path.
    pub(crate) fn has(&self, agent: &mut Agent, prefix: &str) -> Seen {
        self.until(agent, prefix, |daemon| daemon.paths(prefix).into_iter().next())
    }

    /// Waits until it has a prefix so; the best path.
    pub(crate) fn has_so(&self, agent: &mut Agent, prefix: &str, so: impl Fn(&Seen) -> bool) -> Seen {
        self.until(agent, prefix, |daemon| daemon.paths(prefix).into_iter().next().filter(&so))
    }

    /// Waits until it has a prefix from nobody.
    pub(crate) fn has_not(&self, agent: &mut Agent, prefix: &str) {
        self.until(agent, &format!("no {prefix}"), |daemon| daemon.paths(prefix).is_empty().then_some(()));
    }
}

/// A text in a JSON value, or nothing.
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The texts of a JSON list.
fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

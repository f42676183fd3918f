//! A speaker in a process of its own, in a namespace, and an agent that talks to it. The process is this test program
//! again, run for the one ignored test `speaker_process`; so it can be killed like the real one.

use lasthop_agent::config::{BmpConfig, Config};
use lasthop_agent::speaker::protocol::ToSpeaker;
use lasthop_agent::speaker::{Client, Event, OnStop, PeerState, Question, serve};
use lasthop_bgp::config::{Drain, PeerConfig, SpeakerConfig};
use lasthop_net::{Asn, NextHops, Prefix};
use lasthop_testkit::netns::{Host, Process};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a test waits for what ought to take well under a second.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) const DIRECTORY: &str = "LASTHOP_TEST_RUN_DIRECTORY";
const ON_STOP: &str = "LASTHOP_TEST_WITHDRAW";

/// The body of the ignored test `speaker_process`.
pub(crate) fn speaker_process() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let mut config = Config::new("speaker".parse().unwrap());
    config.run_directory = directory.into();
    // Where there is a station to report to, its address is written beside.
    if let Ok(station) = std::fs::read_to_string(config.run_directory.join("station")) {
        let (station, waiting) = station.split_once(' ').unwrap();
        config.bmp = Some(BmpConfig { station: station.parse().unwrap(), waiting: waiting.parse().unwrap() });
    }
    let on_stop = if std::env::var_os(ON_STOP).is_some() { OnStop::Withdraw } else { OnStop::KeepRoutes };
    if let Err(error) = serve(&config, on_stop) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

/// A speaker's process.
pub(crate) struct Speaker {
    host: Host,
    directory: tempfile::TempDir,
    on_stop: OnStop,
    pub(crate) process: Process,
}

impl Speaker {
    pub(crate) fn start(host: &Host) -> Self {
        Self::start_with(host, OnStop::KeepRoutes)
    }

    pub(crate) fn start_with(host: &Host, on_stop: OnStop) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let process = spawn(host, directory.path(), on_stop);
        Self { host: host.clone(), directory, on_stop, process }
    }

    /// One that reports to a BMP station, which may be so many octets behind.
    pub(crate) fn start_reporting(host: &Host, station: &str, waiting: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("station"), format!("{station} {waiting}")).unwrap();
        let process = spawn(host, directory.path(), OnStop::Withdraw);
        Self { host: host.clone(), directory, on_stop: OnStop::Withdraw, process }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("bgp.sock")
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
    }

    /// As a supervisor would after a crash.
    pub(crate) fn start_again(&mut self) {
        self.process = spawn(&self.host, self.directory.path(), self.on_stop);
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("bgp.log")).unwrap_or_default()
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("speaker in {}:\n{}", self.host.name(), self.log());
        }
    }
}

fn spawn(host: &Host, directory: &Path, on_stop: OnStop) -> Process {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.join("bgp.log")).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["speaker_process", "--exact", "--ignored", "--nocapture", "--quiet"]);
    command.env(DIRECTORY, directory).stdout(log.try_clone().unwrap()).stderr(log);
    if on_stop == OnStop::Withdraw {
        command.env(ON_STOP, "1");
    }
    host.spawn(command).unwrap()
}

/// An agent: what it wants, and what it has heard.
pub(crate) struct Agent {
    runtime: tokio::runtime::Runtime,
    pub(crate) client: Client,
    pub(crate) config: SpeakerConfig,
    pub(crate) peers: Vec<PeerConfig>,
    pub(crate) own: BTreeSet<Prefix>,
    /// Learned routes, as an agent keeps them over a reconnect.
    pub(crate) routes: BTreeMap<Prefix, NextHops>,
    heard_since_connect: BTreeSet<Prefix>,
    pub(crate) connects: usize,
    pub(crate) in_sync: bool,
    pub(crate) states: Vec<PeerState>,
    pub(crate) withdrawn: BTreeSet<u64>,
    pub(crate) listening: Option<(u16, Option<String>)>,
    pub(crate) answers: BTreeMap<u64, Result<String, String>>,
    pub(crate) disconnects: Vec<String>,
}

impl Agent {
    pub(crate) fn new(socket: &Path, config: SpeakerConfig, peers: Vec<PeerConfig>) -> Self {
        Self {
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
            client: Client::new(socket),
            config,
            peers,
            own: BTreeSet::new(),
            routes: BTreeMap::new(),
            heard_since_connect: BTreeSet::new(),
            connects: 0,
            in_sync: false,
            states: Vec::new(),
            withdrawn: BTreeSet::new(),
            listening: None,
            answers: BTreeMap::new(),
            disconnects: Vec::new(),
        }
    }

    /// Takes events until `done`; how long that took.
    pub(crate) fn wait(&mut self, what: &str, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !done(self) {
            let left = limit.saturating_sub(start.elapsed());
            let received = self.runtime.block_on(async { tokio::time::timeout(left, self.client.recv()).await });
            match received {
                Ok(event) => self.take(event),
                Err(_) => panic!(
                    "not within {limit:?}: {what}\n{:#?}\n{} routes: {:?}\nin sync: {}, listening: {:?}, disconnects: {:?}",
                    self.states,
                    self.routes.len(),
                    self.routes.iter().take(20).collect::<Vec<_>>(),
                    self.in_sync,
                    self.listening,
                    self.disconnects
                ),
            }
        }
        start.elapsed()
    }

    /// Takes events for this long.
    pub(crate) fn listen_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Ok(event) = self.runtime.block_on(async {
            tokio::time::timeout(end.saturating_duration_since(Instant::now()), self.client.recv()).await
        }) {
            self.take(event);
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Connected => {
                self.connects += 1;
                self.in_sync = false;
                self.heard_since_connect.clear();
                self.client.send(&ToSpeaker::Configure(self.config.clone()));
                self.client.send(&ToSpeaker::Peers(self.peers.clone()));
                self.client.send(&ToSpeaker::Advertise(self.own.iter().copied().collect()));
                self.client.send(&ToSpeaker::Complete);
            }
            Event::Disconnected(reason) => self.disconnects.push(reason),
            Event::Learned(routes) => {
                for (prefix, next_hops) in routes {
                    self.heard_since_connect.insert(prefix);
                    if next_hops.is_empty() {
                        self.routes.remove(&prefix);
                    } else {
                        self.routes.insert(prefix, next_hops);
                    }
                }
            }
            Event::LearnedInSync => {
                self.in_sync = true;
                self.routes.retain(|prefix, _| self.heard_since_connect.contains(prefix));
            }
            Event::Withdrawn(seq) => drop(self.withdrawn.insert(seq)),
            Event::Peers(states) => self.states = states,
            Event::Listening { port, problem } => self.listening = Some((port, problem)),
            Event::Answer { id, answer } => drop(self.answers.insert(id, answer)),
        }
    }

    pub(crate) fn advertise(&mut self, prefixes: &[&str]) {
        let prefixes: Vec<Prefix> = prefixes.iter().map(|text| text.parse().unwrap()).collect();
        self.own.extend(&prefixes);
        self.client.send(&ToSpeaker::Advertise(prefixes));
    }

    pub(crate) fn withdraw(&mut self, seq: u64, prefixes: &[&str]) {
        let prefixes: Vec<Prefix> = prefixes.iter().map(|text| text.parse().unwrap()).collect();
        self.own.retain(|prefix| !prefixes.contains(prefix));
        self.client.send(&ToSpeaker::Withdraw { seq, prefixes });
    }

    pub(crate) fn set_peers(&mut self, peers: Vec<PeerConfig>) {
        self.peers = peers;
        self.client.send(&ToSpeaker::Peers(self.peers.clone()));
    }

    /// The answer to a question, parsed.
    pub(crate) fn ask(&mut self, question: Question) -> serde_json::Value {
        let id = self.answers.len() as u64 + 1000;
        self.client.send(&ToSpeaker::Ask { id, question });
        self.wait("an answer", LIMIT, |agent| agent.answers.contains_key(&id));
        serde_json::from_str(self.answers[&id].as_ref().unwrap()).unwrap()
    }

    pub(crate) fn established(&mut self, peer: &str) -> Duration {
        let peer: IpAddr = peer.parse().unwrap();
        self.wait(&format!("{peer} is established"), LIMIT, |agent| {
            agent.states.iter().any(|state| state.address == peer && state.is_established())
        })
    }

    /// Waits until a prefix is learned with exactly these next hops.
    pub(crate) fn learned(&mut self, text: &str, next_hops: &[&str]) -> Duration {
        let prefix: Prefix = text.parse().unwrap();
        let next_hops: NextHops = next_hops.iter().map(|text| text.parse().unwrap()).collect();
        self.wait(&format!("{text} via {next_hops:?}"), LIMIT, |agent| {
            agent.routes.get(&prefix).map_or(next_hops.is_empty(), |found| *found == next_hops)
        })
    }
}

pub(crate) fn config(asn: u32, router_id: &str) -> SpeakerConfig {
    SpeakerConfig {
        asn: Asn(asn),
        router_id: router_id.parse::<Ipv4Addr>().unwrap(),
        cluster_id: None,
        port: 179,
        bind: [].into(),
        restart_time: Duration::from_secs(120),
        deferral: Duration::from_secs(5),
        drain: Drain::No,
    }
}

/// A peer as the agent would configure it for a host with both families on `eth0`.
pub(crate) fn peer(local: &str, address: &str, asn: u32) -> PeerConfig {
    let last = local.rsplit(['.', ':']).next().unwrap();
    PeerConfig {
        local_address: Some(local.parse().unwrap()),
        next_hop_v4: Some(format!("10.99.0.{last}").parse().unwrap()),
        next_hop_v6: Some(format!("fd00:99::{last}").parse().unwrap()),
        ..PeerConfig::new(address.parse().unwrap(), Asn(asn)).trusted()
    }
}

/// BIRD's end of a session: `protocol bgp NAME`, both families, everything in and out.
pub(crate) fn bird_session(name: &str, local: (&str, u32), peer: (&str, u32), options: &str) -> String {
    let last = local.0.rsplit(['.', ':']).next().unwrap();
    format!(
        "protocol bgp {name} {{
           local {} as {}; neighbor {} as {}; direct;
           connect delay time 1; connect retry time 1; error wait time 1, 2; {options}
           ipv4 {{ import all; export all; next hop address 10.99.0.{last}; }};
           ipv6 {{ import all; export all; next hop address fd00:99::{last}; }};
         }}\n",
        local.0, local.1, peer.0, peer.1
    )
}

/// BIRD's own routes; each text is one or more `route …;`.
pub(crate) fn bird_routes(v4: &str, v6: &str) -> String {
    format!("protocol static s4 {{ ipv4; {v4} }}\nprotocol static s6 {{ ipv6; {v6} }}\n")
}

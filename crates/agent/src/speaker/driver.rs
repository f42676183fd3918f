//! The one task that owns the [`Speaker`]: events of sockets, clock and agent go in, its outputs are carried out.
//!
//! What the agent says becomes the intent, and the speaker is told only what differs from the intent before. The
//! agent's silence changes nothing. Learned routes are asked of the speaker when they are told, so that a slow agent
//! hears the last state only, and a new agent all.

use super::answer::{self, Now};
use super::connection::Queue;
use super::dump::Dump;
use super::intent::Intent;
use super::lines::Lines;
use super::link::{Channels, Greeted, InSync, Link};
use super::liveness::Liveness;
use super::protocol::{Question, ToAgent, ToSpeaker};
use super::record::{Recorded, Recording};
use super::socket::{self, ListenTerms, Terms};
use super::station::{Line, Station};
use super::suspect;
use super::watch::Watch;
use crate::config::BmpConfig;
use lasthop_bgp::bfd;
use lasthop_bgp::config::{PeerConfig, SpeakerConfig};
use lasthop_bgp::{ConnId, Input, Origin, Output, Speaker, Start, StopMode};
use lasthop_net::Prefix;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// How long the intent on disk may be behind.
const SAVE_AFTER: Duration = Duration::from_millis(50);

/// After a crash, how long the agent has to come and complete the intent before it counts as complete.
const AGENT_LIMIT: Duration = Duration::from_secs(3);

/// What tasks report.
pub(super) enum Event {
    /// Someone connected to our port.
    Accepted(TcpStream, SocketAddr),
    /// A connection is up, or is not.
    Dialled { conn: ConnId, peer: IpAddr, result: std::io::Result<TcpStream> },
    /// Octets arrived.
    Received { conn: ConnId, bytes: Vec<u8> },
    /// A connection ended.
    Closed { conn: ConnId, reason: String },
    /// A connection is under its lower mark.
    Drained(ConnId),
    /// An agent came.
    Agent(Greeted),
    /// The agent says something.
    Told { link: u64, message: ToSpeaker },
    /// The agent's line ended.
    AgentGone { link: u64, reason: String },
    /// The agent's line is under its lower mark.
    AgentDrained,
    /// A peer is heard by BFD, or no longer.
    Liveness { peer: IpAddr, state: bfd::State, diagnostic: bfd::Diagnostic },
    /// The BMP station is there, or no longer.
    Station(Option<Line>),
    /// The tables are in their file: so many octets, or why not.
    Dumped { id: u64, written: Result<u64, String> },
    /// All sockets have what was queued before a withdrawal was to be answered.
    Flushed { link: u64, seq: u64 },
}

impl Event {
    /// How many octets of a peer's it brings.
    pub(super) fn size(&self) -> usize {
        if let Self::Received { bytes, .. } = self { bytes.len() } else { 0 }
    }

    fn concerns_a_peer(&self) -> bool {
        matches!(
            self,
            Self::Accepted(..)
                | Self::Dialled { .. }
                | Self::Received { .. }
                | Self::Closed { .. }
                | Self::Liveness { .. }
        )
    }
}

/// The port we listen on, and why it is not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listening {
    pub(super) port: u16,
    pub(super) problem: Option<String>,
}

pub(super) struct Driver {
    speaker: Option<Recorded>,
    intent: Option<Intent>,
    intent_path: PathBuf,
    save_at: Option<Instant>,
    complete_at: Option<Instant>,
    lines: Lines,
    liveness: Liveness,
    agent: Option<Link>,
    watch: Watch,
    station: Option<Station>,
    dumps: Vec<Dump>,
    dump_at: Option<Instant>,
    in_sync: InSync,
    listening: Option<Listening>,
    /// Since [`Self::listen_terms`] was last asked.
    peers_changed: bool,
    channels: Channels,
}

impl Driver {
    /// A driver that starts from the intent on disk, if there is one.
    pub(super) fn new(intent_path: PathBuf, channels: Channels) -> Self {
        let intent = Intent::load(&intent_path).unwrap_or_else(|error| {
            let path = intent_path.display();
            tracing::warn!(%path, %error, "the former intent is of no use: waiting for the agent");
            None
        });
        let mut driver = Self {
            speaker: None,
            intent: None,
            intent_path,
            save_at: None,
            complete_at: None,
            lines: Lines::new(channels.clone()),
            liveness: Liveness::new(channels.signals.clone()),
            agent: None,
            watch: Watch::default(),
            station: None,
            dumps: Vec::new(),
            dump_at: None,
            in_sync: InSync::NotYet,
            listening: None,
            peers_changed: false,
            channels,
        };
        if let Some(intent) = intent {
            driver.resume(intent);
        }
        driver
    }

    fn resume(&mut self, intent: Intent) {
        let (peers, prefixes) = (intent.peers.len(), intent.own.len());
        tracing::info!(peers, prefixes, "going on from what the agent said before the restart");
        let now = Instant::now();
        let mut speaker = Speaker::new(intent.speaker.clone(), Start::Restarted, now);
        for peer in intent.peers.values() {
            speaker.set_peer(now, peer.clone());
        }
        for prefix in &intent.own {
            speaker.advertise(now, *prefix, Origin::default());
        }
        self.speaker = Some(speaker.into());
        self.intent = Some(intent);
        self.complete_at = Some(now + AGENT_LIMIT);
        self.peers_changed = true;
        self.watch();
    }

    /// Looks after the peers that are to be looked after.
    fn watch(&mut self) {
        self.liveness.follow(self.intent.iter().flat_map(|intent| intent.peers.values()));
    }

    /// Where to listen, once it is known.
    pub(super) fn doors(&self) -> Option<BTreeSet<SocketAddr>> {
        self.intent.as_ref().map(Intent::doors)
    }

    /// What the listening sockets have to know of the peers, if that may have changed.
    pub(super) fn listen_terms(&mut self) -> Option<ListenTerms> {
        let peers = self.intent.as_ref()?.peers.values();
        std::mem::take(&mut self.peers_changed).then(|| ListenTerms::of(peers))
    }

    /// What became of listening.
    pub(super) fn set_listening(&mut self, listening: Listening) {
        if self.listening.as_ref() == Some(&listening) {
            return;
        }
        let port = listening.port;
        match &listening.problem {
            None => tracing::info!(port, "listening for peers"),
            Some(problem) => tracing::error!(port, problem, "not listening for peers"),
        }
        self.listening = Some(listening);
        self.say_listening();
    }

    fn say_listening(&self) {
        if let (Some(link), Some(Listening { port, problem })) = (&self.agent, self.listening.clone()) {
            link.say(&ToAgent::Listening { port, problem });
        }
    }

    /// How many octets are taken before what they lead to is carried out.
    pub(super) fn batch(&self) -> usize {
        self.lines.batch()
    }

    /// When [`Self::timeout`] is due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let speaker = self.speaker.as_ref().and_then(|speaker| speaker.next_timeout());
        let link = self.agent.as_ref().and_then(Link::next_timeout);
        let station = self.station.as_ref().and_then(Station::next_timeout);
        [speaker, link, self.save_at, self.complete_at, self.watch.next_timeout(), self.dump_at, station]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub(super) fn timeout(&mut self, now: Instant) {
        if let Some(speaker) = &mut self.speaker {
            if speaker.next_timeout().is_some_and(|due| due <= now) {
                speaker.handle(now, Input::Timeout);
            }
            if self.complete_at.is_some_and(|due| due <= now) {
                self.complete_at = None;
                tracing::warn!("the agent has not come: advertising what it said before the restart");
                speaker.own_routes_complete(now);
            }
        }
        if let Some(link) = &mut self.agent {
            link.timeout(now);
        }
        if self.save_at.is_some_and(|due| due <= now) {
            self.save();
        }
    }

    fn save(&mut self) {
        self.save_at = None;
        let Some(intent) = &self.intent else { return };
        if let Err(error) = intent.save(&self.intent_path) {
            let path = self.intent_path.display();
            tracing::error!(%path, %error, "the intent cannot be saved: a restart would begin with an older one");
        }
    }

    /// Takes one event. [`Self::carry_out`] is to follow, after one or after many.
    pub(super) fn handle(&mut self, event: Event) {
        let now = Instant::now();
        if event.concerns_a_peer()
            && let Some(link) = &mut self.agent
        {
            link.look_soon(now);
        }
        match event {
            Event::Accepted(stream, peer) => self.accepted(now, stream, peer),
            Event::Dialled { conn, peer, result } => self.dialled(now, (conn, peer), result),
            Event::Received { conn, bytes } => {
                if self.lines.is_up(conn)
                    && let Some(speaker) = &mut self.speaker
                {
                    speaker.receive(now, conn, &bytes);
                }
            }
            Event::Closed { conn, reason } => {
                if self.lines.close(conn) {
                    self.input(now, Input::Closed { conn, reason });
                }
            }
            Event::Drained(conn) => self.input(now, Input::Drained { conn }),
            Event::Agent(greeted) => self.agent_came(greeted),
            Event::Told { link, message } => {
                if self.agent.as_ref().is_some_and(|agent| agent.id == link) {
                    self.told(now, message);
                }
            }
            Event::AgentGone { link, reason } => {
                if let Some(agent) = self.agent.take_if(|agent| agent.id == link) {
                    tracing::info!(reason, "the agent is gone: going on as last told");
                    agent.refuse(reason);
                }
            }
            Event::AgentDrained => {}
            Event::Station(line) => {
                if let Some(station) = &mut self.station {
                    match line {
                        Some(line) => station.came(line, now, self.speaker.as_deref_mut()),
                        None => station.went(self.speaker.as_deref_mut()),
                    }
                }
            }
            Event::Dumped { id, written } => self.say_answer(id, written.map(|octets| octets.to_string())),
            Event::Liveness { peer, state, diagnostic } => {
                self.input(now, Input::Liveness { peer, state, diagnostic });
            }
            Event::Flushed { link, seq } => {
                if let Some(agent) = self.agent.as_mut().filter(|agent| agent.id == link) {
                    agent.flushed(seq);
                }
            }
        }
        self.lines.reap();
    }

    fn input(&mut self, now: Instant, input: Input) {
        if let Some(speaker) = &mut self.speaker {
            speaker.handle(now, input);
        }
    }

    fn accepted(&mut self, now: Instant, stream: TcpStream, from: SocketAddr) {
        let peer = from.ip();
        let config = self.intent.as_ref().and_then(|intent| intent.peers.get(&peer));
        let terms = config.map(Terms::of).filter(|terms| terms.is_from(from));
        let prepared = terms.ok_or_else(|| "it is the address of no peer".to_owned()).and_then(|terms| {
            // The key came with the listening socket; one that could not be set must not be done without.
            terms.apply(&stream, None).map_err(|error| error.to_string())
        });
        let local = prepared.and_then(|()| socket::local(&stream).map_err(|error| error.to_string()));
        let Ok(local) = local.inspect_err(|reason| tracing::debug!(%from, reason, "a connection is refused")) else {
            // Reset rather than close, so that nothing of it stays with us.
            if let Err(error) = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)) {
                tracing::debug!(%error, "a socket option is not set");
            }
            return;
        };
        let conn = self.lines.accepted(peer, stream);
        self.input(now, Input::Accepted { conn, peer, local });
    }

    fn dialled(&mut self, now: Instant, (conn, peer): (ConnId, IpAddr), result: std::io::Result<TcpStream>) {
        // One that is not awaited any more goes with `result`.
        if !self.lines.dialled(conn) {
            return;
        }
        match result.and_then(|stream| Ok((socket::local(&stream)?, stream))) {
            Ok((local, stream)) => {
                self.lines.open((conn, peer), stream);
                self.input(now, Input::Connected { conn, peer, local });
            }
            Err(error) => self.input(now, Input::ConnectFailed { conn, peer, error: error.to_string() }),
        }
    }

    fn agent_came(&mut self, greeted: Greeted) {
        // A former one that is still there has hung, or is about to find out that it has been replaced.
        if let Some(former) = self.agent.take() {
            former.refuse("another agent came".to_owned());
        }
        tracing::info!("the agent is here");
        let untold = self.speaker.iter().flat_map(|speaker| speaker.all_learned()).collect();
        self.agent = Some(Link::new(greeted, self.channels.clone(), untold));
        self.say_listening();
    }

    fn told(&mut self, now: Instant, message: ToSpeaker) {
        match message {
            ToSpeaker::Hello { .. } => {}
            ToSpeaker::Configure(config) => self.configure(now, config),
            ToSpeaker::Ask { id, question } => self.ask(now, id, question),
            ToSpeaker::Peers(_) | ToSpeaker::Advertise(_) | ToSpeaker::Withdraw { .. } | ToSpeaker::Complete
                if self.intent.is_none() =>
            {
                if let Some(agent) = self.agent.take() {
                    agent.refuse("Configure comes first".to_owned());
                }
            }
            ToSpeaker::Peers(peers) => self.set_peers(now, peers),
            ToSpeaker::Advertise(prefixes) => self.advertise(now, prefixes),
            ToSpeaker::Withdraw { seq, prefixes } => {
                self.withdraw(now, prefixes);
                self.carry_out();
                if let Some(link) = &mut self.agent {
                    link.answer_when_flushed(seq, self.lines.connections());
                }
            }
            ToSpeaker::Complete => self.complete(now),
        }
    }

    fn configure(&mut self, now: Instant, config: SpeakerConfig) {
        match (&mut self.speaker, &mut self.intent) {
            (Some(speaker), Some(intent)) => {
                if intent.speaker == config {
                    return;
                }
                intent.speaker = config.clone();
                speaker.configure(now, config);
            }
            _ => {
                let mut speaker = Speaker::new(config.clone(), Start::Cold, now);
                if let Some(station) = &mut self.station {
                    station.begin(&mut speaker, now);
                }
                self.speaker = Some(speaker.into());
                self.intent = Some(Intent { speaker: config, peers: BTreeMap::new(), own: BTreeSet::new() });
            }
        }
        self.changed(now);
    }

    fn changed(&mut self, now: Instant) {
        self.save_at.get_or_insert(now + SAVE_AFTER);
    }

    fn set_peers(&mut self, now: Instant, peers: Vec<PeerConfig>) {
        let (Some(speaker), Some(intent)) = (&mut self.speaker, &mut self.intent) else { return };
        let peers: BTreeMap<IpAddr, PeerConfig> = peers.into_iter().map(|peer| (peer.address, peer)).collect();
        let former = std::mem::take(&mut intent.peers);
        for address in former.keys().filter(|address| !peers.contains_key(address)) {
            speaker.remove_peer(now, *address);
        }
        for peer in peers.values().filter(|peer| former.get(&peer.address) != Some(peer)) {
            speaker.set_peer(now, peer.clone());
        }
        self.lines.apply(&former, &peers);
        let changed = former != peers;
        intent.peers = peers;
        if changed {
            self.peers_changed = true;
            self.changed(now);
            self.watch();
            if let Some(link) = &mut self.agent {
                link.look_at = Some(now);
            }
        }
    }

    fn advertise(&mut self, now: Instant, prefixes: Vec<Prefix>) {
        let (Some(speaker), Some(intent)) = (&mut self.speaker, &mut self.intent) else { return };
        let mut changed = false;
        for prefix in &prefixes {
            if intent.own.insert(*prefix) {
                if self.watch.is_on(now) {
                    self.watch.own("advertised", *prefix);
                }
                speaker.advertise(now, *prefix, Origin::default());
                changed = true;
            }
        }
        if let Some(named) = self.agent.as_mut().and_then(|link| link.named.as_mut()) {
            named.extend(prefixes);
        }
        if changed {
            self.changed(now);
        }
    }

    fn withdraw(&mut self, now: Instant, prefixes: Vec<Prefix>) {
        let (Some(speaker), Some(intent)) = (&mut self.speaker, &mut self.intent) else { return };
        let mut named = self.agent.as_mut().and_then(|link| link.named.as_mut());
        let mut changed = false;
        for prefix in prefixes {
            if intent.own.remove(&prefix) {
                if self.watch.is_on(now) {
                    self.watch.own("withdrawn", prefix);
                }
                speaker.withdraw(now, prefix);
                changed = true;
            }
            if let Some(named) = &mut named {
                named.remove(&prefix);
            }
        }
        if changed {
            self.changed(now);
        }
    }

    fn complete(&mut self, now: Instant) {
        if let (Some(intent), Some(named)) = (&self.intent, self.agent.as_mut().and_then(|link| link.named.take())) {
            let gone: Vec<Prefix> = intent.own.difference(&named).copied().collect();
            self.withdraw(now, gone);
        }
        self.complete_at = None;
        if let Some(speaker) = &mut self.speaker {
            speaker.own_routes_complete(now);
        }
    }

    fn ask(&mut self, now: Instant, id: u64, question: Question) {
        let answer = match &self.speaker {
            Some(speaker) if let Question::Events(after) = question => {
                return self.watch.ask(now, (id, after), || speaker.peers());
            }
            Some(_) if let Question::Record(wanted) = question => {
                let answer = self.record(now, wanted.as_ref());
                return self.say_answer(id, answer);
            }
            Some(_) if let Question::Dump(path) = question => {
                self.dumps.push(Dump::begin(path.into(), (id, self.channels.signals.clone()), now));
                self.dump_at = Some(now);
                return;
            }
            Some(speaker) => answer::answer(speaker, question, (Now::read(), &|peer| self.suspicion(peer))),
            None => Err("the speaker has not been configured yet: is there a Node for this host?".to_owned()),
        };
        self.say_answer(id, answer);
    }

    /// Begins or ends a recording.
    fn record(&mut self, now: Instant, wanted: Option<&Recording>) -> Result<String, String> {
        let (Some(speaker), Some(intent)) = (&mut self.speaker, &self.intent) else { return Ok("false".to_owned()) };
        let Some(wanted) = wanted else { return Ok(speaker.stop_recording(now).to_string()) };
        let peers = intent.peers.values().cloned().collect();
        speaker.record(now, wanted, (&intent.speaker, peers, intent.own.iter().copied().collect()))?;
        Ok("true".to_owned())
    }

    fn say_answer(&self, id: u64, answer: Result<String, String>) {
        if let Some(link) = &self.agent {
            link.say(&ToAgent::Answer { id, answer });
        }
    }

    /// Goes on with what operators asked for that takes its time.
    fn serve_operators(&mut self, now: Instant, speaker: &Speaker) {
        for (id, answer) in self.watch.answers(now) {
            self.say_answer(id, Ok(answer));
        }
        if let Some(station) = &mut self.station {
            station.step(now, speaker);
        }
        self.dumps.retain_mut(|dump| dump.step(speaker));
        self.dump_at = (!self.dumps.is_empty()).then(|| Dump::next_turn(now));
    }

    /// Why nothing comes over a connection that is up.
    fn suspicion(&self, peer: IpAddr) -> Option<String> {
        let terms = Terms::of(self.intent.as_ref()?.peers.get(&peer)?);
        suspect::no_open(&terms, self.lines.before(peer)?)
    }

    /// Carries out what the speaker wants done, and tells the agent what is new.
    pub(super) fn carry_out(&mut self) {
        let Some(mut speaker) = self.speaker.take() else { return };
        let now = Instant::now();
        speaker.before_polling(now);
        let watched = self.watch.is_on(now);
        while let Some(output) = speaker.poll_output() {
            match output {
                Output::Connect { conn, peer, .. } => self.dial(conn, peer),
                Output::Send { conn, bytes } => {
                    if self.lines.send(conn, bytes) == Some(Queue::Congested) {
                        speaker.handle(now, Input::Congested { conn });
                    }
                }
                Output::Close { conn } => {
                    self.lines.close(conn);
                }
                Output::Learned { prefix, next_hops } => {
                    if watched {
                        self.watch.learned(prefix, &next_hops);
                    }
                    if let Some(link) = &mut self.agent {
                        link.untold.insert(prefix);
                    }
                }
                Output::Monitor(message) => {
                    if let Some(station) = &mut self.station
                        && !station.tell(&message)
                    {
                        tracing::warn!("the BMP station does not read what it is told: cut off");
                        station.went(Some(&mut speaker));
                    }
                }
                Output::LearnedInSync => self.in_sync = InSync::Yes,
                Output::PeerChanged { peer } => {
                    if let Some(status) = speaker.peer(peer).filter(|_| watched) {
                        self.watch.session(status);
                    }
                    if let Some(link) = &mut self.agent {
                        link.look_at = Some(now);
                    }
                }
            }
        }
        self.serve_operators(now, &speaker);
        let mut states = None;
        if self.agent.as_ref().and_then(|link| link.look_at).is_some_and(|at| at <= now) {
            states = Some(answer::states(&speaker, (Now::read(), &|peer| self.suspicion(peer))));
        }
        if let Some(link) = &mut self.agent {
            link.tell(|prefix| speaker.learned(prefix), self.in_sync);
            if let Some(states) = states {
                link.tell_peers(states);
            }
        }
        self.speaker = Some(speaker);
    }

    fn dial(&mut self, conn: ConnId, peer: IpAddr) {
        // The speaker has no other peers than the intent.
        if let Some(peer_config) = self.intent.as_ref().and_then(|intent| intent.peers.get(&peer)) {
            self.lines.dial(conn, peer, Terms::of(peer_config));
        }
    }

    /// Tells a BMP station of everything from now on.
    pub(super) fn report_to(&mut self, bmp: BmpConfig, name: String) {
        self.station = Some(Station::start(bmp, name, self.channels.signals.clone()));
    }

    /// Ends all sessions, and waits until the peers have been told.
    pub(super) async fn stop(mut self, mode: StopMode) {
        // What the sessions' end takes away is no news for the agent: the kernel keeps it.
        self.carry_out();
        let agent = self.agent.take();
        if let Some(speaker) = &mut self.speaker {
            speaker.stop(Instant::now(), mode);
        }
        self.carry_out();
        self.save();
        if mode == StopMode::Cease
            && let Err(error) = std::fs::remove_file(&self.intent_path)
        {
            tracing::debug!(%error, "the intent is not removed");
        }
        self.lines.close_all();
        if let Some(station) = self.station.take() {
            station.end().await;
        }
        if let Some(link) = agent {
            link.refuse("the speaker ends".to_owned());
        }
        self.lines.ended().await;
    }
}

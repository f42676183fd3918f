//! What goes into the speaker, with its time, in a file; and the same put into a fresh speaker later, under virtual time.
//!
//! The speaker has no clock and no sockets, so the same inputs lead to the same tables: what went wrong on a host can be
//! looked at elsewhere. A recording may begin at any time: it begins with the configuration, the own routes, and each
//! session that is up with all that its peer has said. Sessions that are just coming up are passed over.
//!
//! The file is frames as on the line between agent and speaker: a time in microseconds and an [`Entry`]. No password is
//! in it. It ends by itself when it is large enough or long enough, and if the disk is too slow.

use super::protocol::{self, Frames, ProtocolError, SpeakerMirror, peers, prefixes};
use lasthop_bgp::config::{Auth, PeerConfig, Secret, SpeakerConfig};
use lasthop_bgp::{ConnId, Input, Origin, Output, Speaker, Start, bfd};
use lasthop_net::Prefix;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Chunks that may wait for the disk.
const WAITING: usize = 1024;

/// One thing that went in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Entry {
    /// First of all, with the time since 1970.
    Begin {
        since_1970: Duration,
        #[serde(with = "SpeakerMirror")]
        config: SpeakerConfig,
    },
    Configure(#[serde(with = "SpeakerMirror")] SpeakerConfig),
    Peers(#[serde(with = "peers")] Vec<PeerConfig>),
    RemovePeer(IpAddr),
    Advertise(#[serde(with = "prefixes")] Vec<Prefix>),
    Withdraw(#[serde(with = "prefixes")] Vec<Prefix>),
    Complete,
    /// A session that was up when the recording began.
    Session {
        conn: u64,
        peer: IpAddr,
        local: IpAddr,
        said: Vec<u8>,
    },
    Connected {
        conn: u64,
        peer: IpAddr,
        local: IpAddr,
    },
    ConnectFailed {
        conn: u64,
        peer: IpAddr,
        error: String,
    },
    Accepted {
        conn: u64,
        peer: IpAddr,
        local: IpAddr,
    },
    Received {
        conn: u64,
        bytes: Vec<u8>,
    },
    Closed {
        conn: u64,
        reason: String,
    },
    Congested(u64),
    Drained(u64),
    /// The state and the diagnostic of BFD, by their place.
    Liveness {
        peer: IpAddr,
        state: u8,
        diagnostic: u8,
    },
    Timeout,
    /// What the speaker wanted done was fetched.
    Polled,
    /// Last of all.
    End {
        reason: String,
    },
}

const STATES: [bfd::State; 4] = [bfd::State::AdminDown, bfd::State::Down, bfd::State::Init, bfd::State::Up];
const DIAGNOSTICS: [bfd::Diagnostic; 4] =
    [bfd::Diagnostic::None, bfd::Diagnostic::TimeExpired, bfd::Diagnostic::NeighbourDown, bfd::Diagnostic::AdminDown];

fn place<T: PartialEq>(all: &[T], one: &T) -> u8 {
    all.iter().position(|other| other == one).and_then(|place| u8::try_from(place).ok()).unwrap_or_default()
}

impl From<&Input> for Entry {
    fn from(input: &Input) -> Self {
        match input {
            Input::Connected { conn, peer, local } => Self::Connected { conn: conn.0, peer: *peer, local: *local },
            Input::ConnectFailed { conn, peer, error } => {
                Self::ConnectFailed { conn: conn.0, peer: *peer, error: error.clone() }
            }
            Input::Accepted { conn, peer, local } => Self::Accepted { conn: conn.0, peer: *peer, local: *local },
            Input::Received { conn, bytes } => Self::Received { conn: conn.0, bytes: bytes.clone() },
            Input::Closed { conn, reason } => Self::Closed { conn: conn.0, reason: reason.clone() },
            Input::Congested { conn } => Self::Congested(conn.0),
            Input::Drained { conn } => Self::Drained(conn.0),
            Input::Liveness { peer, state, diagnostic } => Self::Liveness {
                peer: *peer,
                state: place(&STATES, state),
                diagnostic: place(&DIAGNOSTICS, diagnostic),
            },
            Input::Timeout => Self::Timeout,
        }
    }
}

/// A recording under way.
#[derive(Debug)]
struct Recorder {
    begun: Instant,
    until: Instant,
    /// Octets that still fit.
    left: usize,
    chunk: Vec<u8>,
    /// Something went in since the speaker was last polled.
    fresh: bool,
    file: mpsc::Sender<Vec<u8>>,
}

impl Recorder {
    /// Notes an entry; why the recording is over, if it is.
    fn note(&mut self, now: Instant, entry: &Entry) -> Result<(), String> {
        let micros = u64::try_from(now.saturating_duration_since(self.begun).as_micros()).unwrap_or(u64::MAX);
        let before = self.chunk.len();
        protocol::encode(&(micros, entry), &mut self.chunk).map_err(|error| error.to_string())?;
        let length = self.chunk.len() - before;
        let end = if now >= self.until {
            Some("its time is over")
        } else if length > self.left {
            Some("the file has its size")
        } else {
            None
        };
        if let Some(reason) = end {
            self.chunk.truncate(before);
            return Err(reason.to_owned());
        }
        self.left -= length;
        self.fresh = true;
        if self.chunk.len() >= 64 << 10 { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), String> {
        let chunk = std::mem::take(&mut self.chunk);
        if chunk.is_empty() {
            return Ok(());
        }
        self.file.try_send(chunk).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => "the disk is too slow".to_owned(),
            mpsc::error::TrySendError::Closed(_) => "the file cannot be written".to_owned(),
        })
    }

    fn end(mut self, now: Instant, reason: &str) {
        tracing::info!(reason, "the recording ends");
        self.until = now + Duration::from_secs(1);
        self.left = usize::MAX;
        // The file is without an end then, which a replay says.
        let _ = self.note(now, &Entry::End { reason: reason.to_owned() });
        let _ = self.flush();
    }
}

/// A speaker, and perhaps somebody who takes down what goes into it. All that changes it goes through here.
#[derive(Debug)]
pub(super) struct Recorded {
    speaker: Speaker,
    recorder: Option<Recorder>,
}

impl From<Speaker> for Recorded {
    fn from(speaker: Speaker) -> Self {
        Self { speaker, recorder: None }
    }
}

impl Deref for Recorded {
    type Target = Speaker;

    fn deref(&self) -> &Speaker {
        &self.speaker
    }
}

/// For what changes no table, such as who is told of changes.
impl DerefMut for Recorded {
    fn deref_mut(&mut self) -> &mut Speaker {
        &mut self.speaker
    }
}

/// Where a recording goes, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// The file, with its whole path.
    pub file: String,
    /// After so many seconds it ends.
    pub seconds: u64,
    /// So many octets it has at most.
    pub octets: u64,
}

impl Recorded {
    fn note(&mut self, now: Instant, entry: impl FnOnce() -> Entry) {
        let Some(recorder) = &mut self.recorder else { return };
        if let Err(reason) = recorder.note(now, &entry())
            && let Some(recorder) = self.recorder.take()
        {
            recorder.end(now, &reason);
        }
    }

    /// Begins a recording, with how everything stands.
    ///
    /// # Errors
    /// In words, if one is under way or the file cannot be made.
    pub(super) fn record(
        &mut self,
        now: Instant,
        wanted: &Recording,
        (config, peers, own): (&SpeakerConfig, Vec<PeerConfig>, Vec<Prefix>),
    ) -> Result<(), String> {
        if self.recorder.is_some() {
            return Err("a recording is under way: end it with 'lasthop bgp record --stop'".to_owned());
        }
        let file = create(Path::new(&wanted.file)).map_err(|error| format!("cannot write {}: {error}", wanted.file))?;
        self.recorder = Some(Recorder {
            begun: now,
            until: now + Duration::from_secs(wanted.seconds),
            left: usize::try_from(wanted.octets).unwrap_or(usize::MAX),
            chunk: Vec::new(),
            fresh: false,
            file,
        });
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.note(now, || Entry::Begin { since_1970, config: config.clone() });
        self.note(now, || Entry::Peers(peers.into_iter().map(without_password).collect()));
        for own in own.chunks(4096) {
            self.note(now, || Entry::Advertise(own.to_vec()));
        }
        self.note(now, || Entry::Complete);
        for (conn, peer, local, said) in self.speaker.sessions_as_said() {
            self.note(now, || Entry::Session { conn: conn.0, peer, local, said });
        }
        Ok(())
    }

    /// Ends a recording; whether there was one.
    pub(super) fn stop_recording(&mut self, now: Instant) -> bool {
        let recorder = self.recorder.take();
        let was = recorder.is_some();
        if let Some(recorder) = recorder {
            recorder.end(now, "it was stopped");
        }
        was
    }

    pub(super) fn configure(&mut self, now: Instant, config: SpeakerConfig) {
        self.note(now, || Entry::Configure(config.clone()));
        self.speaker.configure(now, config);
    }

    pub(super) fn set_peer(&mut self, now: Instant, peer: PeerConfig) {
        self.note(now, || Entry::Peers(vec![without_password(peer.clone())]));
        self.speaker.set_peer(now, peer);
    }

    pub(super) fn remove_peer(&mut self, now: Instant, peer: IpAddr) {
        self.note(now, || Entry::RemovePeer(peer));
        self.speaker.remove_peer(now, peer);
    }

    pub(super) fn advertise(&mut self, now: Instant, prefix: Prefix, origin: Origin) {
        self.note(now, || Entry::Advertise(vec![prefix]));
        self.speaker.advertise(now, prefix, origin);
    }

    pub(super) fn withdraw(&mut self, now: Instant, prefix: Prefix) {
        self.note(now, || Entry::Withdraw(vec![prefix]));
        self.speaker.withdraw(now, prefix);
    }

    pub(super) fn own_routes_complete(&mut self, now: Instant) {
        self.note(now, || Entry::Complete);
        self.speaker.own_routes_complete(now);
    }

    pub(super) fn handle(&mut self, now: Instant, input: Input) {
        self.note(now, || Entry::from(&input));
        self.speaker.handle(now, input);
    }

    pub(super) fn receive(&mut self, now: Instant, conn: ConnId, bytes: &[u8]) {
        self.note(now, || Entry::Received { conn: conn.0, bytes: bytes.to_vec() });
        self.speaker.receive(now, conn, bytes);
    }

    /// What was noted goes to the file, before the speaker is polled.
    pub(super) fn before_polling(&mut self, now: Instant) {
        if self.recorder.as_ref().is_some_and(|recorder| recorder.fresh) {
            self.note(now, || Entry::Polled);
        }
        let Some(recorder) = &mut self.recorder else { return };
        recorder.fresh = false;
        if let Err(reason) = recorder.flush()
            && let Some(recorder) = self.recorder.take()
        {
            recorder.end(now, &reason);
        }
    }
}

fn without_password(peer: PeerConfig) -> PeerConfig {
    let none = || Secret::new("not recorded");
    let auth = peer.auth.map(|auth| match auth {
        Auth::Md5(_) => Auth::Md5(none()),
        Auth::Ao { id, .. } => Auth::Ao { key: none(), id },
    });
    PeerConfig { auth, ..peer }
}

fn create(path: &Path) -> io::Result<mpsc::Sender<Vec<u8>>> {
    let mut file = std::fs::File::create(path)?;
    let (chunks, mut waiting) = mpsc::channel::<Vec<u8>>(WAITING);
    tokio::task::spawn_blocking(move || {
        while let Some(chunk) = waiting.blocking_recv() {
            if let Err(error) = file.write_all(&chunk) {
                // The recorder finds the channel closed.
                tracing::error!(%error, "the recording cannot be written");
                return;
            }
        }
    });
    Ok(chunks)
}

/// What a recording led to.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replayed {
    /// How long it lasted, in seconds.
    pub seconds: f64,
    /// What went in.
    pub inputs: u64,
    /// What concerned sessions that were just coming up when it began.
    pub passed_over: u64,
    /// Why it ended.
    pub end: String,
    /// The peers at its end, as `lasthop bgp peers` tells them.
    pub peers: serde_json::Value,
    /// The paths at its end, as `lasthop bgp paths` tells them.
    pub paths: serde_json::Value,
}

/// Why a recording cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file cannot be read.
    #[error("cannot read {file}: {error}")]
    Read {
        /// Which.
        file: String,
        /// The system's word.
        error: io::Error,
    },
    /// It is no recording, or one of another version.
    #[error("{file}: no recording of this version: {reason}")]
    Format {
        /// Which.
        file: String,
        /// Why.
        reason: String,
    },
}

/// Puts a recording into a fresh speaker, under virtual time.
///
/// # Errors
/// If the file cannot be read or is no recording. One that is cut short is replayed as far as it goes.
pub fn replay(path: &Path) -> Result<Replayed, ReplayError> {
    let file = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| ReplayError::Read { file: file.clone(), error })?;
    let format = |reason: String| ReplayError::Format { file: file.clone(), reason };
    let mut frames = Frames::default();
    frames.room().extend(bytes);
    let malformed = |error: ProtocolError| format(error.to_string());
    let first: Option<(u64, Entry)> = frames.take().map_err(malformed)?;
    let Some((_, Entry::Begin { since_1970, config })) = first else {
        return Err(format("it does not begin like one".to_owned()));
    };
    let base = Instant::now();
    let mut again = Replay::new(Speaker::new(config, Start::Cold, base));
    let (mut inputs, mut last, mut end) = (0, 0, "it is cut short".to_owned());
    while let Some((micros, entry)) = frames.take::<(u64, Entry)>().map_err(malformed)? {
        last = micros;
        let now = base + Duration::from_micros(micros);
        match entry {
            Entry::End { reason } => end = reason,
            entry => {
                inputs += u64::from(!matches!(entry, Entry::Polled));
                again.take(now, entry);
            }
        }
    }
    again.poll();
    let lasted = Duration::from_micros(last);
    let now = super::answer::Now::at(base + lasted, UNIX_EPOCH + since_1970 + lasted);
    let ask = |question| {
        let answer = super::answer::whole_answer(&again.speaker, question, (now, &|_| None)).map_err(format)?;
        serde_json::from_str(&answer).map_err(|error| format(error.to_string()))
    };
    Ok(Replayed {
        seconds: lasted.as_secs_f64(),
        inputs,
        passed_over: again.passed_over,
        end,
        peers: ask(protocol::Question::Peers)?,
        paths: ask(protocol::Question::Paths(None))?,
    })
}

/// The connections of a recording have other numbers in its replay where it began in the middle.
struct Replay {
    speaker: Speaker,
    connections: std::collections::BTreeMap<u64, ConnId>,
    dialling: std::collections::BTreeMap<IpAddr, ConnId>,
    accepted: u64,
    passed_over: u64,
}

impl Replay {
    fn new(speaker: Speaker) -> Self {
        Self { speaker, connections: Default::default(), dialling: Default::default(), accepted: 1, passed_over: 0 }
    }

    fn poll(&mut self) {
        while let Some(output) = self.speaker.poll_output() {
            if let Output::Connect { conn, peer, .. } = output {
                self.dialling.insert(peer, conn);
            }
        }
    }

    /// The connection that this number is for; what is for none is passed over.
    fn with(&mut self, conn: u64, take: impl FnOnce(&mut Speaker, ConnId)) {
        match self.connections.get(&conn) {
            Some(conn) => take(&mut self.speaker, *conn),
            None => self.passed_over += 1,
        }
    }

    fn accept(&mut self, now: Instant, (conn, peer, local): (u64, IpAddr, IpAddr)) -> ConnId {
        let ours = ConnId(self.accepted);
        self.accepted += 2;
        self.connections.insert(conn, ours);
        self.speaker.handle(now, Input::Accepted { conn: ours, peer, local });
        ours
    }

    fn take(&mut self, now: Instant, entry: Entry) {
        match entry {
            Entry::Begin { .. } | Entry::End { .. } => {}
            Entry::Configure(config) => self.speaker.configure(now, config),
            Entry::Peers(peers) => peers.into_iter().for_each(|peer| self.speaker.set_peer(now, peer)),
            Entry::RemovePeer(peer) => self.speaker.remove_peer(now, peer),
            Entry::Advertise(own) => {
                own.into_iter().for_each(|prefix| self.speaker.advertise(now, prefix, Origin::default()));
            }
            Entry::Withdraw(own) => own.into_iter().for_each(|prefix| self.speaker.withdraw(now, prefix)),
            Entry::Complete => self.speaker.own_routes_complete(now),
            Entry::Session { conn, peer, local, said } => {
                self.poll();
                let conn = self.accept(now, (conn, peer, local));
                self.speaker.receive(now, conn, &said);
            }
            Entry::Accepted { conn, peer, local } => drop(self.accept(now, (conn, peer, local))),
            Entry::Connected { conn, peer, local } => {
                self.poll();
                match self.dialling.remove(&peer) {
                    Some(ours) => {
                        self.connections.insert(conn, ours);
                        self.speaker.handle(now, Input::Connected { conn: ours, peer, local });
                    }
                    None => drop(self.accept(now, (conn, peer, local))),
                }
            }
            Entry::ConnectFailed { peer, error, .. } => {
                self.poll();
                match self.dialling.remove(&peer) {
                    Some(conn) => self.speaker.handle(now, Input::ConnectFailed { conn, peer, error }),
                    None => self.passed_over += 1,
                }
            }
            Entry::Received { conn, bytes } => self.with(conn, |speaker, conn| speaker.receive(now, conn, &bytes)),
            Entry::Closed { conn, reason } => {
                self.with(conn, |speaker, conn| speaker.handle(now, Input::Closed { conn, reason }));
            }
            Entry::Congested(conn) => self.with(conn, |speaker, conn| speaker.handle(now, Input::Congested { conn })),
            Entry::Drained(conn) => self.with(conn, |speaker, conn| speaker.handle(now, Input::Drained { conn })),
            Entry::Liveness { peer, state, diagnostic } => {
                let state = STATES.get(usize::from(state)).copied();
                let diagnostic = DIAGNOSTICS.get(usize::from(diagnostic)).copied();
                if let (Some(state), Some(diagnostic)) = (state, diagnostic) {
                    self.speaker.handle(now, Input::Liveness { peer, state, diagnostic });
                }
            }
            Entry::Timeout => self.speaker.handle(now, Input::Timeout),
            Entry::Polled => self.poll(),
        }
    }
}

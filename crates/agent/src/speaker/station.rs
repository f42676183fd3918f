//! A BMP station (RFC 7854): connects to it, keeps at it, and hands on what the speaker has for it.
//!
//! What waits for the station is bounded. One that is too slow is cut off rather than waited for; it is connected with
//! anew, and told everything from the start.

use super::driver::Event;
use crate::config::BmpConfig;
use lasthop_bgp::{BmpTable, Clock, Speaker, initiation, termination};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

/// Parts of the tables are made only while no more than this waits.
const TABLE_WAITING: usize = 1 << 20;
/// Between tries to connect: doubled up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Between statistics reports.
const STATISTICS: Duration = Duration::from_secs(60);
/// How long a table waits for its next turn.
const TURN: Duration = Duration::from_millis(1);
/// How long the last message may take.
const FAREWELL: Duration = Duration::from_millis(300);

/// The way to a station that is connected.
pub(super) struct Line {
    messages: mpsc::UnboundedSender<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
    /// Cuts the connection when it is dropped.
    _cut: oneshot::Sender<()>,
}

impl Line {
    fn send(&self, message: Vec<u8>) {
        self.waiting.fetch_add(message.len(), Ordering::Relaxed);
        // If it is gone that is told by an event.
        let _ = self.messages.send(message);
    }
}

/// The station as configured.
pub(super) struct Station {
    config: BmpConfig,
    name: String,
    line: Option<Line>,
    table: Option<BmpTable>,
    statistics_at: Option<Instant>,
    turn_at: Option<Instant>,
}

impl Station {
    /// Connects to the station, and again whenever that ends.
    pub(super) fn start(config: BmpConfig, name: String, signals: mpsc::UnboundedSender<Event>) -> Self {
        tokio::spawn(keep(config.station, signals));
        Self { config, name, line: None, table: None, statistics_at: None, turn_at: None }
    }

    /// It is connected: it is told who we are, and everything.
    pub(super) fn came(&mut self, line: Line, now: Instant, speaker: Option<&mut Speaker>) {
        line.send(initiation(&self.name, concat!("lasthop ", env!("CARGO_PKG_VERSION"))));
        self.line = Some(line);
        self.statistics_at = Some(now + STATISTICS);
        if let Some(speaker) = speaker {
            self.begin(speaker, now);
        }
    }

    /// Begins to tell what there is. A speaker that is new is told here of the station.
    pub(super) fn begin(&mut self, speaker: &mut Speaker, now: Instant) {
        let Some(line) = &self.line else { return };
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        speaker.monitor(Some(Clock { instant: now, since_1970 }));
        let (table, up) = BmpTable::begin(speaker, now);
        line.send(up);
        self.table = Some(table);
        self.turn_at = Some(now);
    }

    /// It is gone.
    pub(super) fn went(&mut self, speaker: Option<&mut Speaker>) {
        (self.line, self.table, self.statistics_at, self.turn_at) = (None, None, None, None);
        if let Some(speaker) = speaker {
            speaker.monitor(None);
        }
    }

    /// Hands on what the speaker says; whether the station keeps up.
    pub(super) fn tell(&self, message: &[u8]) -> bool {
        let Some(line) = &self.line else { return true };
        line.send(message.to_vec());
        line.waiting.load(Ordering::Relaxed) <= self.config.waiting
    }

    /// When [`Self::step`] is due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.turn_at.into_iter().chain(self.statistics_at).min()
    }

    /// Tells the next part of the tables, and statistics when they are due.
    pub(super) fn step(&mut self, now: Instant, speaker: &Speaker) {
        let Some(line) = &self.line else { return };
        if self.turn_at.is_some_and(|at| at <= now)
            && let Some(table) = &mut self.table
        {
            let mut parts = 0;
            while line.waiting.load(Ordering::Relaxed) < TABLE_WAITING.min(self.config.waiting / 2) && parts < 4 {
                match table.part(speaker, now) {
                    Some(part) => line.send(part),
                    None => {
                        self.table = None;
                        break;
                    }
                }
                parts += 1;
            }
            self.turn_at = self.table.is_some().then(|| now + TURN);
        }
        if self.statistics_at.is_some_and(|at| at <= now) {
            line.send(speaker.bmp_statistics(now));
            self.statistics_at = Some(now + STATISTICS);
        }
    }

    /// The last message, and the time to send it.
    pub(super) async fn end(self) {
        let Some(line) = self.line else { return };
        line.send(termination());
        let Line { messages, waiting, _cut } = &line;
        let end = Instant::now() + FAREWELL;
        while waiting.load(Ordering::Relaxed) > 0 && !messages.is_closed() && Instant::now() < end {
            tokio::time::sleep(TURN).await;
        }
    }
}

async fn keep(address: SocketAddr, signals: mpsc::UnboundedSender<Event>) {
    let mut pause = PAUSES.0;
    loop {
        let connected = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await;
        let ended = match connected {
            Ok(Ok(stream)) => {
                pause = PAUSES.0;
                tracing::info!(%address, "the BMP station is connected");
                let (messages, waiting_messages) = mpsc::unbounded_channel();
                let waiting = Arc::new(AtomicUsize::new(0));
                let (cut, is_cut) = oneshot::channel();
                let line = Line { messages, waiting: Arc::clone(&waiting), _cut: cut };
                if signals.send(Event::Station(Some(line))).is_err() {
                    return;
                }
                let ended = serve(stream, (waiting_messages, is_cut), &waiting).await;
                if signals.send(Event::Station(None)).is_err() {
                    return;
                }
                ended
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", CONNECT_LIMIT.as_secs()),
        };
        tracing::warn!(%address, reason = ended, "no BMP station: trying again in {} s", pause.as_secs());
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Writes until either side ends it; why it ended.
async fn serve(
    stream: TcpStream,
    (mut messages, cut): (mpsc::UnboundedReceiver<Vec<u8>>, oneshot::Receiver<()>),
    waiting: &AtomicUsize,
) -> String {
    let (mut read, mut write) = stream.into_split();
    let writing = async {
        while let Some(message) = messages.recv().await {
            if let Err(error) = write.write_all(&message).await {
                return error.to_string();
            }
            waiting.fetch_sub(message.len(), Ordering::Relaxed);
        }
        "it is not wanted any more".to_owned()
    };
    // A station says nothing; what it may say all the same is passed over.
    let reading = async {
        let mut octets = [0; 512];
        loop {
            match read.read(&mut octets).await {
                Ok(0) => return "it closed the connection".to_owned(),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.to_string(),
            }
        }
    };
    tokio::pin!(writing);
    tokio::pin!(reading);
    tokio::select! {
        ended = &mut writing => ended,
        ended = &mut reading => ended,
        _ = cut => "it was too slow, and is told everything anew".to_owned(),
    }
}

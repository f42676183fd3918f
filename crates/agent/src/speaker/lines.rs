//! The connections to peers: being dialled, up, or on their way out.

use super::connection::{Connection, Queue};
use super::driver::Event;
use super::link::Channels;
use super::socket::{self, Half, Terms};
use super::suspect::Dropped;
use lasthop_bgp::config::PeerConfig;
use lasthop_bgp::{Bytes, ConnId};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

/// How much one read takes: some fifteen hundred routes, which the agent programs while we read the next.
const READ_SIZE: usize = 8 << 10;

/// How many reads are taken together at most.
const MOST_READS: usize = 16;

/// All connections.
pub(super) struct Lines {
    up: HashMap<ConnId, Line>,
    dialling: HashMap<ConnId, JoinHandle<()>>,
    next_accepted: u64,
    closing: JoinSet<()>,
    channels: Channels,
}

/// One that is up.
struct Line {
    connection: Connection,
    peer: IpAddr,
    stream: Weak<TcpStream>,
    /// What the kernel had dropped when it came up.
    before: Dropped,
}

impl Lines {
    pub(super) fn new(channels: Channels) -> Self {
        Self { up: HashMap::new(), dialling: HashMap::new(), next_accepted: 1, closing: JoinSet::new(), channels }
    }

    pub(super) fn dial(&mut self, conn: ConnId, peer: IpAddr, terms: Terms) {
        let events = self.channels.data.clone();
        let task = tokio::spawn(async move {
            let result = socket::connect(&terms).await;
            // The driver goes only with the process.
            let _ = events.send(Event::Dialled { conn, peer, result }).await;
        });
        self.dialling.insert(conn, task);
    }

    /// Whether a connection that is up or not was awaited.
    pub(super) fn dialled(&mut self, conn: ConnId) -> bool {
        self.dialling.remove(&conn).is_some()
    }

    /// A peer has connected.
    pub(super) fn accepted(&mut self, peer: IpAddr, stream: TcpStream) -> ConnId {
        let conn = ConnId(self.next_accepted);
        self.next_accepted += 2;
        self.open((conn, peer), stream);
        conn
    }

    pub(super) fn open(&mut self, (conn, peer): (ConnId, IpAddr), stream: TcpStream) {
        socket::prepare(&stream);
        let stream = Arc::new(stream);
        let reader = tokio::spawn(listen(conn, Arc::clone(&stream), self.channels.data.clone()));
        let signals = self.channels.signals.clone();
        let connection = Connection::start(Half(Arc::clone(&stream)), reader, move || {
            // The driver goes only with the process.
            let _ = signals.send(Event::Drained(conn));
        });
        let (weak, before) = (Arc::downgrade(&stream), Dropped::read());
        let line = Line { connection: connection.writing_at_once(stream), peer, stream: weak, before };
        self.up.insert(conn, line);
    }

    pub(super) fn is_up(&self, conn: ConnId) -> bool {
        self.up.contains_key(&conn)
    }

    /// Sends, if the connection is up.
    pub(super) fn send(&self, conn: ConnId, bytes: Bytes) -> Option<Queue> {
        self.up.get(&conn).map(|line| line.connection.send(bytes))
    }

    /// Ends a connection, whatever its state; whether it was up.
    pub(super) fn close(&mut self, conn: ConnId) -> bool {
        if let Some(dialling) = self.dialling.remove(&conn) {
            dialling.abort();
        }
        let Some(line) = self.up.remove(&conn) else { return false };
        self.closing.spawn(line.connection.close());
        true
    }

    /// Forgets those that have ended.
    pub(super) fn reap(&mut self) {
        while self.closing.try_join_next().is_some() {}
    }

    /// Ends all of them.
    pub(super) fn close_all(&mut self) {
        for (_, line) in self.up.drain() {
            self.closing.spawn(line.connection.close());
        }
    }

    /// Waits until those that are on their way out are gone.
    pub(super) async fn ended(mut self) {
        while self.closing.join_next().await.is_some() {}
    }

    pub(super) fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.up.values().map(|line| &line.connection)
    }

    /// Connections that are up get what has changed of their peers' terms.
    pub(super) fn apply(&self, former: &BTreeMap<IpAddr, PeerConfig>, peers: &BTreeMap<IpAddr, PeerConfig>) {
        for (conn, Line { peer, stream, .. }) in &self.up {
            let (Some(old), Some(new), Some(stream)) = (former.get(peer), peers.get(peer), stream.upgrade()) else {
                continue;
            };
            let (old, new) = (Terms::of(old), Terms::of(new));
            if old != new
                && let Err(error) = new.apply(&stream, Some(&old))
            {
                tracing::error!(%peer, %conn, %error, "the live connection is not as it is configured");
            }
        }
    }

    /// What the kernel had dropped when the connection with a peer came up.
    pub(super) fn before(&self, peer: IpAddr) -> Option<Dropped> {
        self.up.values().find(|line| line.peer == peer).map(|line| line.before)
    }

    /// How many octets are taken before what they lead to is carried out, which costs a system call for every peer.
    pub(super) fn batch(&self) -> usize {
        READ_SIZE * self.up.len().clamp(1, MOST_READS)
    }
}

async fn listen(conn: ConnId, read: Arc<TcpStream>, events: mpsc::Sender<Event>) {
    loop {
        let event = match receive(&read).await {
            Ok(bytes) if bytes.is_empty() => {
                Event::Closed { conn, reason: "the peer closed the connection".to_owned() }
            }
            Ok(bytes) => Event::Received { conn, bytes },
            Err(error) => Event::Closed { conn, reason: error.to_string() },
        };
        let end = matches!(event, Event::Closed { .. });
        if events.send(event).await.is_err() || end {
            return;
        }
    }
}

/// What has arrived; nothing at the end of the stream. No memory is held while nothing arrives.
async fn receive(read: &TcpStream) -> std::io::Result<Vec<u8>> {
    loop {
        read.readable().await?;
        let mut bytes = Vec::with_capacity(READ_SIZE);
        match read.try_read_buf(&mut bytes) {
            Ok(_) => {
                bytes.shrink_to_fit();
                return Ok(bytes);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

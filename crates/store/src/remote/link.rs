//! One connection of the client: questions out, answers matched by number, streams of watches handed on.

use super::Target;
use crate::store::{Listing, Revision, StoreId, Stored};
use crate::wire::frame::{FrameReader, frame};
use crate::wire::message::{Ask, FromClient, FromServer, WireEvent, store_from_wire};
use crate::wire::sender::{Frames, sender};
use crate::wire::{Io, MAX_FRAME, PROTOCOL, Timing, WINDOW};
use crate::{Error, certs};
use lasthop_model::Key;
use std::collections::HashMap;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_rustls::TlsConnector;

/// What a part of this process wants of the connection.
pub(super) enum Command {
    /// A question with one answer.
    One(Ask, Waiting<Stored>),
    /// A question with a listing as its answer.
    List(Ask, Waiting<Listing>),
    /// A watch.
    Watch(Ask, Waiting<Stream>),
    /// A watch's reader took so many bytes.
    Credit(u64, u64),
    /// A watch's reader has gone.
    Cancel(u64),
}

/// Who waits for an answer, and what is written meanwhile: a lost answer to a write is a doubt, not a no.
pub(super) struct Waiting<T> {
    pub(super) answer: oneshot::Sender<Result<T, Error>>,
    pub(super) writes: Option<Key>,
}

impl<T> Waiting<T> {
    fn tell(self, answer: Result<T, Error>) {
        let _ = self.answer.send(answer);
    }

    /// The connection is gone; the question had been sent.
    fn lost(self, reason: &str) {
        let error = match &self.writes {
            Some(key) => Error::Uncertain { key: key.clone(), reason: reason.to_owned() },
            None => Error::unavailable(reason),
        };
        self.tell(Err(error));
    }
}

/// What a watch's reader is handed.
pub(super) enum Part {
    /// Events, and the bytes to give back as credit.
    Events(Vec<WireEvent>, u64),
    /// The server's last word.
    Ended(Error),
}

/// A watch on this connection. It ends without a last word when the connection does.
pub(super) struct Stream {
    pub(super) id: u64,
    pub(super) parts: mpsc::UnboundedReceiver<Part>,
    pub(super) store: Option<StoreId>,
}

/// The sending side of a [`Stream`]. The queue has no bound of its own: the credit bounds it.
struct Pipe {
    parts: mpsc::UnboundedSender<Part>,
    outstanding: u64,
    opening: Option<(Waiting<Stream>, mpsc::UnboundedReceiver<Part>)>,
}

/// What a question's answer goes to.
enum Pending {
    One(Waiting<Stored>),
    List(Waiting<Listing>, Vec<Stored>),
}

/// A connection after the hellos.
pub(super) struct Link {
    input: FrameReader<ReadHalf<Box<dyn Io>>>,
    output: WriteHalf<Box<dyn Io>>,
    pub(super) store: Option<StoreId>,
    pub(super) revision: Revision,
}

/// Connects and says hello.
pub(super) async fn dial(target: &Target, timing: Timing) -> Result<Link, String> {
    match tokio::time::timeout(timing.connect, dial_patiently(target, timing)).await {
        Ok(link) => link,
        Err(_) => Err(format!("connecting took more than {:.1} s", timing.connect.as_secs_f64())),
    }
}

async fn dial_patiently(target: &Target, timing: Timing) -> Result<Link, String> {
    let stream: Box<dyn Io> = match target {
        Target::Tcp { server, tls } => {
            let stream = TcpStream::connect(server).await.map_err(|e| e.to_string())?;
            let _ = stream.set_nodelay(true);
            let name = certs::SERVER_NAME.try_into().map_err(|_| "the server's name is not valid".to_owned())?;
            let connector = TlsConnector::from(std::sync::Arc::clone(tls));
            Box::new(connector.connect(name, stream).await.map_err(|e| format!("TLS handshake: {e}"))?)
        }
        Target::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(|e| e.to_string())?),
    };
    let (input, mut output) = tokio::io::split(stream);
    let mut input = FrameReader::new(input, MAX_FRAME, timing.silence);
    let hello = FromClient::Hello { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_owned() };
    let said = async {
        tokio::io::AsyncWriteExt::write_all(&mut output, &frame(&hello)).await?;
        tokio::io::AsyncWriteExt::flush(&mut output).await
    };
    said.await.map_err(|e| e.to_string())?;
    loop {
        match input.next().await.map_err(|e| e.to_string())?.0 {
            FromServer::Hello { protocol: PROTOCOL, store, revision, .. } => {
                let store = store_from_wire(store.as_deref());
                return Ok(Link { input, output, store, revision: Revision(revision) });
            }
            FromServer::Hello { protocol, .. } => return Err(format!("the server speaks protocol {protocol}")),
            FromServer::Refused { reason } => return Err(format!("the server refused: {reason}")),
            FromServer::Beat { .. } => {}
            _ => return Err("the server's first message was no hello".to_owned()),
        }
    }
}

/// What waits for the server.
struct Desk {
    next: u64,
    pending: HashMap<u64, Pending>,
    pipes: HashMap<u64, Pipe>,
    store: Option<StoreId>,
}

/// Works until the connection ends; says why it did. Whoever waits is told.
pub(super) async fn work(
    link: Link,
    commands: &mut mpsc::Receiver<Command>,
    revision: &watch::Sender<Revision>,
    timing: Timing,
) -> String {
    let Link { mut input, output, store, .. } = link;
    let (frames, sending) = sender(output, timing, || frame(&FromClient::Beat {}));
    let mut desk = Desk { next: 1, pending: HashMap::new(), pipes: HashMap::new(), store };
    tokio::pin!(sending);
    let reason = loop {
        tokio::select! {
            message = input.next() => {
                let taken = match message {
                    Ok((message, length)) => desk.take(message, u64::try_from(length).unwrap_or(u64::MAX), revision),
                    Err(error) => Err(error.to_string()),
                };
                if let Err(reason) = taken {
                    break reason;
                }
            }
            command = next_command(commands, &frames) => {
                let Some((command, permit)) = command else { break "closed here".to_owned() };
                permit.send(frame(&desk.prepare(command)));
            }
            reason = &mut sending => break reason,
        }
    };
    desk.close(&reason);
    reason
}

/// The next command once there is room to send it: questions of a stalled connection stay unsent.
async fn next_command<'a>(
    commands: &mut mpsc::Receiver<Command>,
    frames: &'a Frames,
) -> Option<(Command, mpsc::Permit<'a, Vec<u8>>)> {
    let permit = frames.reserve().await.ok()?;
    Some((commands.recv().await?, permit))
}

impl Desk {
    fn prepare(&mut self, command: Command) -> FromClient {
        let id = self.next;
        let ask = match command {
            Command::Credit(id, bytes) => {
                if let Some(pipe) = self.pipes.get_mut(&id) {
                    pipe.outstanding = pipe.outstanding.saturating_sub(bytes);
                }
                return FromClient::Credit { id, bytes };
            }
            Command::Cancel(id) => {
                self.pipes.remove(&id);
                return FromClient::Cancel { id };
            }
            Command::One(ask, waiting) => {
                self.pending.insert(id, Pending::One(waiting));
                ask
            }
            Command::List(ask, waiting) => {
                self.pending.insert(id, Pending::List(waiting, Vec::new()));
                ask
            }
            Command::Watch(ask, waiting) => {
                let (parts, receiver) = mpsc::unbounded_channel();
                self.pipes.insert(id, Pipe { parts, outstanding: 0, opening: Some((waiting, receiver)) });
                ask
            }
        };
        self.next += 1;
        FromClient::Ask { id, ask }
    }

    fn take(&mut self, message: FromServer, length: u64, revision: &watch::Sender<Revision>) -> Result<(), String> {
        match message {
            FromServer::Beat { revision: now } => drop(revision.send_replace(Revision(now))),
            FromServer::Refused { reason } => return Err(format!("the server hung up: {reason}")),
            FromServer::Hello { .. } => return Err("the server said hello twice".to_owned()),
            FromServer::Stored { id, stored } => {
                if let Some(Pending::One(waiting)) = self.pending.remove(&id) {
                    let unknown = || Error::unavailable("the server answered about a kind that is not known here");
                    waiting.tell(stored.known().ok_or_else(unknown));
                }
            }
            FromServer::Page { id, revision, items, more } => {
                if let Some(Pending::List(waiting, mut listed)) = self.pending.remove(&id) {
                    listed.extend(items.into_iter().filter_map(crate::wire::message::WireStored::known));
                    if more {
                        self.pending.insert(id, Pending::List(waiting, listed));
                    } else {
                        waiting.tell(Ok(Listing { revision: Revision(revision), items: listed }));
                    }
                }
            }
            FromServer::Watching { id } => {
                if let Some(pipe) = self.pipes.get_mut(&id)
                    && let Some((waiting, parts)) = pipe.opening.take()
                {
                    waiting.tell(Ok(Stream { id, parts, store: self.store }));
                }
            }
            FromServer::Events { id, items } => {
                if let Some(pipe) = self.pipes.get_mut(&id) {
                    if pipe.outstanding > WINDOW {
                        return Err("the server sent more events than it had credit for".to_owned());
                    }
                    pipe.outstanding += length;
                    let _ = pipe.parts.send(Part::Events(items, length));
                }
            }
            FromServer::Failed { id, error } => match (self.pending.remove(&id), self.pipes.remove(&id)) {
                (Some(Pending::One(waiting)), _) => waiting.tell(Err(error.into())),
                (Some(Pending::List(waiting, _)), _) => waiting.tell(Err(error.into())),
                (None, Some(Pipe { opening: Some((waiting, _)), .. })) => waiting.tell(Err(error.into())),
                (None, Some(pipe)) => drop(pipe.parts.send(Part::Ended(error.into()))),
                (None, None) => {}
            },
        }
        Ok(())
    }

    fn close(self, reason: &str) {
        for pending in self.pending.into_values() {
            match pending {
                Pending::One(waiting) => waiting.lost(reason),
                Pending::List(waiting, _) => waiting.lost(reason),
            }
        }
        for (waiting, _) in self.pipes.into_values().filter_map(|pipe| pipe.opening) {
            waiting.lost(reason);
        }
    }
}

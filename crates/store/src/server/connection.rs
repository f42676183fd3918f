//! One connection of the server: hello, then questions, each answered by a task of its own under its number.

use crate::store::{Revision, Store};
use crate::wire::frame::{FrameError, FrameReader, frame, pages};
use crate::wire::message::{
    Ask, FromClient, FromServer, WireError, WireEvent, WireStored, expect_from_wire, kind_from_wire, store_from_wire,
};
use crate::wire::sender::{Frames, sender};
use crate::wire::{Io, MAX_FRAME, MAX_HELLO, PROTOCOL, Timing};
use crate::{Error, Watch};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// Most questions of one connection that are worked on at once; further ones wait unread.
const QUESTIONS: usize = 16;
/// Most watches on one connection.
const WATCHES: usize = 16;

/// A watch of this connection.
struct Reader {
    credit: watch::Sender<u64>,
    task: AbortHandle,
}

/// The state of one connection.
struct Connection {
    store: Arc<dyn Store>,
    frames: Frames,
    questions: JoinSet<()>,
    watches: JoinSet<u64>,
    readers: HashMap<u64, Reader>,
}

/// Serves a stream until it ends; says why it did.
pub(super) async fn serve(stream: impl Io, store: Arc<dyn Store>, who: &str, timing: Timing) -> String {
    let (input, output) = tokio::io::split(stream);
    let mut input = FrameReader::new(input, MAX_HELLO, timing.silence);
    let beat_of = Arc::clone(&store);
    let (frames, sending) =
        sender(output, timing, move || frame(&FromServer::Beat { revision: beat_of.status().revision.0 }));
    let connection =
        Connection { store, frames, questions: JoinSet::new(), watches: JoinSet::new(), readers: HashMap::new() };
    let receiving = async {
        let refusal = match tokio::time::timeout(timing.connect, hello(&mut input)).await {
            Ok(Ok(())) => {
                input.set_limit(MAX_FRAME);
                return connection.run(&mut input, who).await.to_string();
            }
            Ok(Err(refusal)) => refusal,
            Err(_) => "no hello came".to_owned(),
        };
        let _ = connection.frames.send(frame(&FromServer::Refused { reason: refusal.clone() })).await;
        drop(connection);
        refusal
    };
    // What was put into the queue last, as a refusal, is still sent.
    tokio::pin!(sending);
    tokio::select! {
        reason = receiving => {
            let _ = tokio::time::timeout(timing.beat, sending).await;
            reason
        }
        reason = &mut sending => reason,
    }
}

async fn hello<R: tokio::io::AsyncRead + Unpin>(input: &mut FrameReader<R>) -> Result<(), String> {
    match input.next().await {
        Ok((FromClient::Hello { protocol: PROTOCOL, .. }, _)) => Ok(()),
        Ok((FromClient::Hello { protocol, version }, _)) => Err(format!(
            "the server speaks protocol {PROTOCOL}, the client (version {}) protocol {protocol}: use neighbouring versions",
            version.chars().take(40).collect::<String>()
        )),
        Ok(_) => Err("the first message was no hello".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl Connection {
    async fn run<R: tokio::io::AsyncRead + Unpin>(mut self, input: &mut FrameReader<R>, who: &str) -> FrameError {
        let status = self.store.status();
        let hello = FromServer::Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store: status.store.map(|id| id.to_string()),
            revision: status.revision.0,
            identity: who.to_owned(),
        };
        self.say(&hello).await;
        loop {
            while self.questions.len() >= QUESTIONS {
                self.questions.join_next().await;
            }
            tokio::select! {
                message = input.next() => match message {
                    Ok((message, _)) => {
                        if let Err(error) = self.take(message).await {
                            let _ = self.frames.send(frame(&FromServer::Refused { reason: error.to_string() })).await;
                            return error;
                        }
                    }
                    Err(error) => return error,
                },
                Some(ended) = self.watches.join_next() => {
                    if let Ok(id) = ended {
                        self.readers.remove(&id);
                    }
                }
                Some(_) = self.questions.join_next() => {}
            }
        }
    }

    async fn say(&self, message: &FromServer) {
        // The queue ends with the connection, which its other half then sees.
        let _ = self.frames.send(frame(message)).await;
    }

    async fn take(&mut self, message: FromClient) -> Result<(), FrameError> {
        match message {
            FromClient::Beat {} => {}
            FromClient::Hello { .. } => return Err(FrameError::Garbage("a second hello".to_owned())),
            FromClient::Credit { id, bytes } => {
                if let Some(reader) = self.readers.get(&id) {
                    reader.credit.send_modify(|credit| *credit = credit.saturating_add(bytes));
                }
            }
            FromClient::Cancel { id } => {
                if let Some(reader) = self.readers.remove(&id) {
                    reader.task.abort();
                }
            }
            FromClient::Ask { id, ask: Ask::Watch { from, store, credit } } => {
                if self.readers.len() >= WATCHES {
                    let error = Error::unavailable(format!("a connection has at most {WATCHES} watches"));
                    self.say(&FromServer::Failed { id, error: error.into() }).await;
                } else if self.readers.contains_key(&id) {
                    return Err(FrameError::Garbage(format!("watch {id} was asked for twice")));
                } else {
                    let (credit, granted) = watch::channel(credit);
                    let feed = Feed { id, frames: self.frames.clone(), granted };
                    let other = store_from_wire(store.as_deref());
                    let from = from.map(Revision);
                    let work = feed.run(Arc::clone(&self.store), from.map(|from| (from, other)));
                    let task = self.watches.spawn(work);
                    self.readers.insert(id, Reader { credit, task });
                }
            }
            FromClient::Ask { id, ask } => {
                let (store, frames) = (Arc::clone(&self.store), self.frames.clone());
                self.questions.spawn(async move {
                    for frame in answer(&*store, id, ask).await {
                        if frames.send(frame).await.is_err() {
                            return;
                        }
                    }
                });
            }
        }
        Ok(())
    }
}

async fn answer(store: &dyn Store, id: u64, ask: Ask) -> Vec<Vec<u8>> {
    let answered = async {
        let stored = match ask {
            Ask::List { kind } => {
                let listing = store.list(kind_from_wire(kind.as_deref())?).await?;
                let head = format!("\"id\":{id},\"revision\":{}", listing.revision.0);
                return Ok(pages("page", &head, listing.items.into_iter().map(WireStored::from)));
            }
            Ask::Get { key } => store.get(&key.key()?).await?,
            Ask::Create { key, document } => store.create(key.key()?, document).await?,
            Ask::Update { key, document, expect } => {
                store.update(key.key()?, document, expect_from_wire(expect)).await?
            }
            Ask::Delete { key, expect } => store.delete(&key.key()?, expect_from_wire(expect)).await?,
            Ask::Watch { .. } => return Err(Error::unavailable("a watch is no single answer")),
        };
        Ok(vec![frame(&FromServer::Stored { id, stored: stored.into() })])
    };
    answered.await.unwrap_or_else(|error: Error| vec![frame(&FromServer::Failed { id, error: error.into() })])
}

/// The task of one watch.
struct Feed {
    id: u64,
    frames: Frames,
    granted: watch::Receiver<u64>,
}

impl Feed {
    async fn run(mut self, store: Arc<dyn Store>, from: Option<(Revision, Option<crate::StoreId>)>) -> u64 {
        let id = self.id;
        let Err(error) = self.follow(&*store, from).await;
        let _ = self.frames.send(frame(&FromServer::Failed { id, error: WireError::from(error) })).await;
        id
    }

    /// Ends with the watch's last word.
    async fn follow(
        &mut self,
        store: &dyn Store,
        from: Option<(Revision, Option<crate::StoreId>)>,
    ) -> Result<Infallible, Error> {
        let status = store.status();
        if let Some((from, Some(of))) = from
            && status.store.is_some_and(|store| store != of)
        {
            // Another store's revisions mean nothing here.
            return Err(Error::TooOld { from, oldest: Revision(0), newest: status.revision });
        }
        let mut watch = store.watch(from.map(|(revision, _)| revision)).await?;
        let id = self.id;
        self.send(frame(&FromServer::Watching { id })).await?;
        let head = format!("\"id\":{id}");
        let mut sent = 0;
        loop {
            for frame in pages("events", &head, next_events(&mut watch).await?) {
                // The reader counts the text without the length before it; it is sent one frame too much at most.
                self.granted.wait_for(|granted| *granted > sent).await.map_err(|_| hung_up())?;
                sent += u64::try_from(frame.len() - 4).unwrap_or(0);
                self.send(frame).await?;
            }
        }
    }

    async fn send(&self, frame: Vec<u8>) -> Result<(), Error> {
        self.frames.send(frame).await.map_err(|_| hung_up())
    }
}

/// For a client that is not there to read it.
fn hung_up() -> Error {
    Error::unavailable("the client has gone")
}

/// Waits for an event and takes those that are there already, up to a frame's worth.
async fn next_events(watch: &mut Watch) -> Result<Vec<WireEvent>, Error> {
    let mut events = vec![WireEvent::from(watch.next().await?)];
    while events.len() < crate::watch::BATCH {
        let Some(event) = watch.ready() else { break };
        events.push(event.into());
    }
    Ok(events)
}

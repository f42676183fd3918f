//! One stream's two tasks: what is queued goes out in vectored writes, what arrives goes to the driver.
//!
//! The queue has two marks: over the upper one the driver is to make no more UPDATEs for it, under the lower one it
//! may again. A [`Mark`] in the queue is dropped once everything before it has been handed to the kernel (or the
//! connection is gone), so a mark shared by all queues tells when all of them are that far.

use lasthop_bgp::Bytes;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Over so many queued bytes a connection is congested.
const UPPER: usize = 1 << 20;

/// Under so many it is not any more.
const LOWER: usize = 256 << 10;

/// Buffers in one vectored write.
const SLICES: usize = 64;

/// How long the last words may take, and then the peer's own close.
const LINGER: Duration = Duration::from_secs(1);

/// After so many milliseconds in which the kernel took nothing, the other end does not read.
const STALLED_AFTER: u64 = 100;

/// Something that is dropped when the queue has come to it.
pub(super) type Mark = Arc<dyn Send + Sync>;

enum Item {
    /// From this one on.
    Bytes(Bytes, usize),
    Mark(#[expect(dead_code, reason = "held until it is dropped")] Mark),
}

/// Whether the driver may go on queueing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// It may.
    Open,
    /// The upper mark was crossed just now.
    Congested,
}

/// A running stream.
pub(super) struct Connection {
    queue: mpsc::UnboundedSender<Item>,
    /// Where to write to without the writer, while nothing is queued.
    at_once: Option<Arc<TcpStream>>,
    fill: Arc<Fill>,
    writer: JoinHandle<()>,
    reader: JoinHandle<()>,
}

struct Fill {
    bytes: AtomicUsize,
    congested: AtomicBool,
    start: Instant,
    /// Since when the kernel takes nothing, in milliseconds from `start`; [`NOT_WAITING`] otherwise.
    waiting: AtomicU64,
}

const NOT_WAITING: u64 = u64::MAX;

impl Fill {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(NOT_WAITING - 1)
    }
}

impl Connection {
    /// Starts to write to `half`; `reader` is the task that reads, `drained` is called at the lower mark.
    pub(super) fn start<W>(half: W, reader: JoinHandle<()>, drained: impl Fn() + Send + 'static) -> Self
    where
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let (queue, items) = mpsc::unbounded_channel();
        let fill = Arc::new(Fill {
            bytes: AtomicUsize::new(0),
            congested: AtomicBool::new(false),
            start: Instant::now(),
            waiting: AtomicU64::new(NOT_WAITING),
        });
        let writer = tokio::spawn({
            let fill = fill.clone();
            async move {
                let mut half = half;
                // The reader finds the same error after what the peer said last, and tells it.
                if let Err(error) = write(&mut half, items, &fill, drained).await {
                    tracing::debug!(%error, "a connection cannot be written to");
                }
            }
        });
        Self { queue, at_once: None, fill, writer, reader }
    }

    /// The same, and what finds nothing queued before it is written at once: no task has to be woken for it.
    pub(super) fn writing_at_once(self, stream: Arc<TcpStream>) -> Self {
        Self { at_once: Some(stream), ..self }
    }

    /// Queues bytes.
    pub(super) fn send(&self, bytes: Bytes) -> Queue {
        let mut written = 0;
        if let Some(stream) = &self.at_once
            && self.fill.bytes.load(Ordering::Acquire) == 0
        {
            // An error is found again by the writer.
            written = stream.try_write(&bytes).unwrap_or(0);
        }
        let length = bytes.len() - written;
        if length == 0 {
            return Queue::Open;
        }
        // Without a writer the connection is as good as closed, and the reader is about to say so.
        if self.queue.send(Item::Bytes(bytes, written)).is_err() {
            return Queue::Open;
        }
        let before = self.fill.bytes.fetch_add(length, Ordering::AcqRel);
        let crossed = before + length > UPPER && !self.fill.congested.swap(true, Ordering::AcqRel);
        if crossed { Queue::Congested } else { Queue::Open }
    }

    /// Queues a mark.
    pub(super) fn mark(&self, mark: Mark) {
        // Without a writer it is dropped here, as it should be.
        let _ = self.queue.send(Item::Mark(mark));
    }

    /// Whether more may be queued.
    pub(super) fn has_room(&self) -> bool {
        !self.fill.congested.load(Ordering::Acquire)
    }

    /// Whether the other end has read nothing for a while although there was something to read.
    pub(super) fn is_stalled(&self) -> bool {
        let since = self.fill.waiting.load(Ordering::Acquire);
        since != NOT_WAITING && self.fill.now().saturating_sub(since) > STALLED_AFTER
    }

    /// Ends the stream after what is queued, and then waits for the peer's end a little: a socket closed over unread
    /// bytes resets the connection, and the peer would not read our last words.
    pub(super) async fn close(self) {
        let Self { queue, mut writer, mut reader, .. } = self;
        drop(queue);
        if tokio::time::timeout(LINGER, &mut writer).await.is_err() {
            writer.abort();
        } else if tokio::time::timeout(LINGER, &mut reader).await.is_ok() {
            return;
        }
        reader.abort();
    }
}

async fn write<W: AsyncWrite + Unpin>(
    half: &mut W,
    mut items: mpsc::UnboundedReceiver<Item>,
    fill: &Fill,
    drained: impl Fn(),
) -> io::Result<()> {
    let mut waiting: VecDeque<Item> = VecDeque::new();
    let mut written = 0;
    loop {
        while let Some(Item::Mark(_)) = waiting.front() {
            waiting.pop_front();
        }
        if waiting.is_empty() {
            match items.recv().await {
                Some(item) => waiting.push_back(item),
                None => return half.shutdown().await,
            }
        }
        while waiting.len() < SLICES
            && let Ok(item) = items.try_recv()
        {
            waiting.push_back(item);
        }
        let slices: Vec<IoSlice<'_>> = waiting
            .iter()
            .filter_map(|item| if let Item::Bytes(bytes, from) = item { Some(&bytes[*from..]) } else { None })
            .enumerate()
            .map(|(i, bytes)| IoSlice::new(if i == 0 { &bytes[written..] } else { bytes }))
            .collect();
        if slices.is_empty() {
            continue;
        }
        fill.waiting.store(fill.now(), Ordering::Release);
        let count = half.write_vectored(&slices).await?;
        fill.waiting.store(NOT_WAITING, Ordering::Release);
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let left = fill.bytes.fetch_sub(count, Ordering::AcqRel) - count;
        written = advance(&mut waiting, written + count);
        if left < LOWER && fill.congested.swap(false, Ordering::AcqRel) {
            drained();
        }
    }
}

/// Drops what was written as a whole, and the marks passed; how much of the new first buffer was written.
fn advance(waiting: &mut VecDeque<Item>, mut written: usize) -> usize {
    while let Some(item) = waiting.front() {
        match item {
            Item::Bytes(bytes, from) if bytes.len() - from > written => break,
            Item::Bytes(bytes, from) => written -= bytes.len() - from,
            Item::Mark(_) => {}
        }
        waiting.pop_front();
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    struct Tell(mpsc::UnboundedSender<&'static str>);

    impl Drop for Tell {
        fn drop(&mut self) {
            let _ = self.0.send("passed");
        }
    }

    #[test]
    fn everything_queued_arrives_in_order_and_marks_tell_when() {
        runtime().block_on(async {
            // A pipe of 7 bytes: every write is cut somewhere.
            let (near, mut far) = tokio::io::duplex(7);
            let (tell, mut told) = mpsc::unbounded_channel();
            let connection = Connection::start(near, tokio::spawn(async {}), || {});
            let mut expected = Vec::new();
            for i in 0..200u8 {
                let bytes = vec![i; usize::from(i % 11)];
                expected.extend_from_slice(&bytes);
                connection.send(bytes.into());
            }
            connection.mark(Arc::new(Tell(tell)));
            connection.send(vec![255].into());
            expected.push(255);
            tokio::task::yield_now().await;
            assert!(told.try_recv().is_err(), "nothing is read yet");
            let closing = tokio::spawn(connection.close());
            let mut arrived = Vec::new();
            far.read_to_end(&mut arrived).await.unwrap();
            assert_eq!(arrived, expected);
            assert_eq!(told.recv().await, Some("passed"));
            closing.await.unwrap();
        });
    }

    #[test]
    fn a_slow_reader_is_told_once_and_forgiven_once() {
        runtime().block_on(async {
            let (near, mut far) = tokio::io::duplex(1000);
            let (tell, mut told) = mpsc::unbounded_channel();
            let connection = Connection::start(near, tokio::spawn(async {}), move || tell.send(()).unwrap());
            let congested = (0..2000).filter(|_| connection.send(vec![0; 1000].into()) == Queue::Congested).count();
            assert_eq!(congested, 1);
            assert!(!connection.has_room());
            assert!(!connection.is_stalled());
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(connection.is_stalled());
            let mut taken = vec![0; 2_000_000];
            far.read_exact(&mut taken).await.unwrap();
            assert_eq!(told.recv().await, Some(()));
            assert!(told.try_recv().is_err());
            assert!(connection.has_room() && !connection.is_stalled());
        });
    }

    #[test]
    fn a_reader_that_never_reads_does_not_hold_up_the_close() {
        let runtime = runtime();
        runtime.block_on(async {
            let (near, _far) = tokio::io::duplex(10);
            let (tell, mut told) = mpsc::unbounded_channel();
            let connection = Connection::start(near, tokio::spawn(std::future::pending()), || {});
            connection.send(vec![0; 100].into());
            connection.mark(Arc::new(Tell(tell)));
            connection.close().await;
            assert_eq!(told.recv().await, Some("passed"), "a mark that cannot be reached is dropped");
        });
    }
}

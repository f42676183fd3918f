//! The sending half of a connection: a bounded queue of frames, a beat when there is nothing to send, and a limit to
//! how long the other side may leave its end full.

use super::Timing;
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

/// Most frames that wait to be sent.
const QUEUE: usize = 32;

/// Where frames are put.
pub(crate) type Frames = mpsc::Sender<Vec<u8>>;

/// The queue, and the work of emptying it into the stream: ends with why it cannot be done any more.
pub(crate) fn sender<W: AsyncWrite + Unpin>(
    stream: W,
    timing: Timing,
    beat: impl Fn() -> Vec<u8>,
) -> (Frames, impl Future<Output = String>) {
    let (frames, queue) = mpsc::channel(QUEUE);
    (frames, send(stream, timing, beat, queue))
}

async fn send<W: AsyncWrite + Unpin>(
    mut stream: W,
    timing: Timing,
    beat: impl Fn() -> Vec<u8>,
    mut queue: mpsc::Receiver<Vec<u8>>,
) -> String {
    loop {
        let frame = match tokio::time::timeout(timing.beat, queue.recv()).await {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                let _ = tokio::time::timeout(Duration::from_millis(200), stream.shutdown()).await;
                return "closed here".to_owned();
            }
            Err(_) => beat(),
        };
        let written = async {
            stream.write_all(&frame).await?;
            if queue.is_empty() { stream.flush().await } else { Ok(()) }
        };
        match tokio::time::timeout(timing.silence, written).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return format!("sending failed: {error}"),
            Err(_) => return format!("the other side took nothing for {:.1} s", timing.silence.as_secs_f64()),
        }
    }
}

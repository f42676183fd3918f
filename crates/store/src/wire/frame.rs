//! Frames from and into bytes. Reading never allocates more than has arrived, and never more than the limit.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Why no frame came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The other side hung up.
    #[error("the connection was closed")]
    Closed,
    /// Nothing was heard.
    #[error("nothing was heard for {:.1} s", .0.as_secs_f64())]
    Silent(Duration),
    /// The frame is longer than allowed.
    #[error("a frame of {length} bytes was announced, at most {limit} are allowed")]
    Long { length: usize, limit: usize },
    /// The frame is not a message of the protocol.
    #[error("a frame was not understood: {0}")]
    Garbage(String),
    /// The stream failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Reads frames.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    stream: R,
    buffer: Vec<u8>,
    limit: usize,
    silence: Duration,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(stream: R, limit: usize, silence: Duration) -> Self {
        Self { stream, buffer: Vec::new(), limit, silence }
    }

    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The next message and the length of its frame. Cancel-safe: what was read stays in the buffer.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<(T, usize), FrameError> {
        loop {
            if let Some(length) = self.complete()? {
                let parsed = serde_json::from_slice(&self.buffer[4..4 + length]);
                self.buffer.drain(..4 + length);
                if self.buffer.is_empty() && self.buffer.capacity() > super::FULL_FRAME {
                    self.buffer = Vec::new();
                }
                return parsed.map(|message| (message, length)).map_err(|e| FrameError::Garbage(e.to_string()));
            }
            self.buffer.reserve(8 * 1024);
            let read = tokio::time::timeout(self.silence, self.stream.read_buf(&mut self.buffer)).await;
            if read.map_err(|_| FrameError::Silent(self.silence))?? == 0 {
                return Err(FrameError::Closed);
            }
        }
    }

    /// The length of the frame at the head of the buffer, if all of it is there.
    fn complete(&self) -> Result<Option<usize>, FrameError> {
        let Some(length) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > self.limit {
            return Err(FrameError::Long { length, limit: self.limit });
        }
        Ok((self.buffer.len() >= 4 + length).then_some(length))
    }
}

fn framed(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    write(&mut bytes);
    let length = u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

fn json(message: &impl Serialize) -> Vec<u8> {
    // Our messages have string keys and no failing parts; an empty text would be refused by the reader.
    serde_json::to_vec(message).unwrap_or_default()
}

/// A message as a frame.
pub(crate) fn frame(message: &impl Serialize) -> Vec<u8> {
    framed(|bytes| bytes.extend(json(message)))
}

/// Items as frames that are not much longer than [`super::FULL_FRAME`]: each is `{"name":{<head>"items":[…],"more":…}}`.
/// Without items, one frame.
pub(crate) fn pages<T: Serialize>(name: &str, head: &str, items: impl IntoIterator<Item = T>) -> Vec<Vec<u8>> {
    let mut bodies = vec![Vec::new()];
    for item in items {
        let item = json(&item);
        match bodies.last_mut() {
            Some(body) if body.len() + item.len() <= super::FULL_FRAME || body.is_empty() => {
                if !body.is_empty() {
                    body.push(b',');
                }
                body.extend(item);
            }
            _ => bodies.push(item),
        }
    }
    let last = bodies.len() - 1;
    let page = |(at, body): (usize, Vec<u8>)| {
        framed(|bytes| {
            bytes.extend(format!("{{\"{name}\":{{{head},\"items\":[").bytes());
            bytes.extend(body);
            bytes.extend(format!("],\"more\":{}}}}}", at != last).bytes());
        })
    };
    bodies.into_iter().enumerate().map(page).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;
    use tokio::io::AsyncWriteExt as _;

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn reader(bytes: &[u8]) -> FrameReader<&[u8]> {
        FrameReader::new(bytes, 1000, Duration::from_secs(5))
    }

    #[test]
    fn a_huge_length_is_refused_before_anything_is_allocated() {
        run(async {
            let mut reader = reader(&[0xff, 0xff, 0xff, 0xff, b'{']);
            let error = reader.next::<Value>().await.unwrap_err();
            assert!(matches!(error, FrameError::Long { length: 0xffff_ffff, limit: 1000 }), "{error}");
            assert!(reader.buffer.capacity() < 64 * 1024);
        });
    }

    #[test]
    fn a_truncated_frame_is_a_closed_connection_and_an_idle_one_silent() {
        run(async {
            let bytes = frame(&"hello");
            for cut in 0..bytes.len() {
                let error = reader(&bytes[..cut]).next::<Value>().await.unwrap_err();
                assert!(matches!(error, FrameError::Closed), "{cut}: {error}");
            }
            let (_kept, idle) = tokio::io::duplex(64);
            let mut reader = FrameReader::new(idle, 1000, Duration::from_millis(20));
            assert!(matches!(reader.next::<Value>().await, Err(FrameError::Silent(_))));
        });
    }

    #[test]
    fn a_long_frame_is_held_only_as_far_as_it_has_come() {
        run(async {
            let (mut writer, stream) = tokio::io::duplex(1 << 20);
            let mut reader = FrameReader::new(stream, 500_000, Duration::from_millis(50));
            writer.write_all(&400_000_u32.to_be_bytes()).await.unwrap();
            writer.write_all(&[b' '; 1000]).await.unwrap();
            assert!(reader.next::<Value>().await.is_err());
            assert!(reader.buffer.capacity() < 64 * 1024, "{}", reader.buffer.capacity());
        });
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(texts in proptest::collection::vec(".{0,60}", 1..8), chunk in 1..20usize) {
            run(async {
                let bytes: Vec<u8> = texts.iter().flat_map(frame).collect();
                let (mut writer, stream) = tokio::io::duplex(7);
                let sending = async move {
                    for piece in bytes.chunks(chunk) {
                        writer.write_all(piece).await.unwrap();
                    }
                };
                let mut reader = FrameReader::new(stream, 1000, Duration::from_secs(5));
                let receiving = async {
                    for text in &texts {
                        assert_eq!(&reader.next::<String>().await.unwrap().0, text);
                    }
                };
                tokio::join!(sending, receiving);
            });
        }

        #[test]
        fn garbage_is_an_error_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            run(async {
                let mut reader = reader(&bytes);
                while reader.next::<super::super::message::FromClient>().await.is_ok() {}
                let framed = framed(|frame| frame.extend(&bytes));
                let _ = self::reader(&framed).next::<super::super::message::FromServer>().await;
            });
        }

        #[test]
        fn pages_hold_all_items_in_order_and_end_once(lengths in proptest::collection::vec(0..70_000usize, 0..12)) {
            let items: Vec<String> = lengths.iter().map(|n| "x".repeat(*n)).collect();
            let pages = pages("page", "\"id\":7", &items);
            let mut found: Vec<String> = Vec::new();
            for (at, page) in pages.iter().enumerate() {
                let value: Value = serde_json::from_slice(&page[4..]).unwrap();
                prop_assert_eq!(value["page"]["id"].as_u64(), Some(7));
                prop_assert_eq!(value["page"]["more"].as_bool(), Some(at + 1 < pages.len()));
                prop_assert!(page.len() < super::super::FULL_FRAME + 70_100);
                found.extend(value["page"]["items"].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()));
            }
            prop_assert_eq!(found, items);
        }
    }
}

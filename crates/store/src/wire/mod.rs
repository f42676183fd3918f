//! What server and client say to each other: frames of a length (u32, big-endian) and JSON text, over any stream.
//!
//! A connection begins with a hello each way. Then the client asks, each question under a number of its own, and
//! the server answers under that number, in any order. A watch is a question with many answers: the server sends as
//! many bytes of events as the client gave it credit for, so that a slow reader of one watch delays nothing else.
//! A side that has nothing to say sends a beat; one that hears nothing for [`Timing::silence`] hangs up.

pub(crate) mod frame;
pub(crate) mod message;
pub(crate) mod sender;

use std::time::Duration;

/// The version of the protocol. A client of another version is refused in words.
pub(crate) const PROTOCOL: u32 = 1;

/// Longest frame: a document and what surrounds it.
pub(crate) const MAX_FRAME: usize = crate::MAX_DOCUMENT + 64 * 1024;

/// Longest frame of somebody who has not said hello.
pub(crate) const MAX_HELLO: usize = 4096;

/// A frame of several items is closed when it is this long.
pub(crate) const FULL_FRAME: usize = 64 * 1024;

/// How much of a watch may be on its way to its reader.
pub(crate) const WINDOW: u64 = 512 * 1024;

/// The times of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A side that has sent nothing for so long sends a beat.
    pub beat: Duration,
    /// A side that has heard nothing for so long, or could send nothing, hangs up.
    pub silence: Duration,
    /// How long connecting may take, to the end of the hellos.
    pub connect: Duration,
    /// How long a client waits for an answer.
    pub answer: Duration,
    /// The first and the longest pause between two tries to connect; the second half of each is drawn.
    pub pauses: (Duration, Duration),
}

impl Default for Timing {
    /// A feed that went dead is noticed within ten seconds.
    fn default() -> Self {
        Self {
            beat: Duration::from_secs(3),
            silence: Duration::from_secs(9),
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            pauses: (Duration::from_millis(200), Duration::from_secs(5)),
        }
    }
}

/// A byte stream: TLS over TCP, or a unix socket.
pub(crate) trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Io for T {}

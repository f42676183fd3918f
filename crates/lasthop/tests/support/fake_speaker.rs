//! A speaker that says only what a test has it say, so that its silence can be tested.

use lasthop_agent::speaker::ToSpeaker;
use lasthop_agent::speaker::protocol::{Frames, ToAgent, VERSION, encode};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// What the agent waits for, at most.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct FakeSpeaker {
    listener: UnixListener,
    line: Option<(UnixStream, Frames)>,
}

impl FakeSpeaker {
    pub(crate) fn listen(socket: &Path) -> Self {
        Self { listener: UnixListener::bind(socket).unwrap(), line: None }
    }

    /// Greets the agent, by the first of its connections that it has not given up.
    pub(crate) fn accept(&mut self) {
        let mut hello = Vec::new();
        encode(&ToAgent::Hello { version: VERSION }, &mut hello).unwrap();
        loop {
            let mut stream = self.listener.accept().unwrap().0;
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            if stream.write_all(&hello).is_ok() && stream.read(&mut [0; 1]).is_ok_and(|count| count > 0) {
                let mut rest = [0; 5]; // of Hello: its length, its kind, its version
                stream.read_exact(&mut rest).unwrap();
                self.line = Some((stream, Frames::default()));
                return;
            }
        }
    }

    /// Cuts the line. The next one is answered by nobody before [`Self::accept`].
    pub(crate) fn cut(&mut self) {
        self.line = None;
    }

    pub(crate) fn say(&mut self, message: &ToAgent) {
        let mut bytes = Vec::new();
        encode(message, &mut bytes).unwrap();
        self.line.as_mut().unwrap().0.write_all(&bytes).unwrap();
    }

    /// Reads up to the first message that is what the test waits for; gives all that was read.
    pub(crate) fn hear_until(&mut self, right: impl Fn(&ToSpeaker) -> bool) -> Vec<ToSpeaker> {
        let (stream, frames) = self.line.as_mut().unwrap();
        let mut heard = Vec::new();
        loop {
            while let Some(message) = frames.take::<ToSpeaker>().unwrap() {
                let done = right(&message);
                heard.push(message);
                if done {
                    return heard;
                }
            }
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).unwrap();
            assert!(count > 0, "the agent closed the line after {heard:?}");
            frames.room().extend_from_slice(&bytes[..count]);
        }
    }

    /// The next withdrawal.
    pub(crate) fn withdrawal(&mut self) -> (u64, Vec<String>) {
        let heard = self.hear_until(|message| matches!(message, ToSpeaker::Withdraw { .. }));
        match heard.last() {
            Some(ToSpeaker::Withdraw { seq, prefixes }) => (*seq, prefixes.iter().map(ToString::to_string).collect()),
            other => panic!("{other:?}"),
        }
    }
}

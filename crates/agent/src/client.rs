//! A caller of the agent's API: blocking, one connection for as many requests as wanted.

use crate::api::{Answer, Attach, Attached, Detach, Detached, Envelope, LINE_LIMIT, Refusal, Request, VERSION};
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A connection to the agent.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

/// Why a call did not work.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket cannot be reached.
    #[error("cannot reach the agent at {}: {error}: {}", path.display(), fix(error))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's word.
        error: std::io::Error,
    },
    /// The connection broke.
    #[error("the agent at {} closed the connection: {error}; see its log", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// The system's word.
        error: std::io::Error,
    },
    /// The answer does not parse.
    #[error("the agent's answer does not parse ({0}): are the agent and this program of the same version?")]
    Answer(#[from] serde_json::Error),
    /// The agent said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

fn fix(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => "run as root, or as a member of the group in the agent's configuration",
        _ => "is 'lasthop agent' running here? (--socket names another one)",
    }
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// If there is no agent, or the caller may not talk to it.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let connect = || {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            Ok(stream)
        };
        match connect() {
            Ok(stream) => Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) }),
            Err(error) => Err(ClientError::Connect { path: path.to_owned(), error }),
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// If the connection breaks, or the agent refuses.
    pub fn call<T: DeserializeOwned>(&mut self, request: Request) -> Result<T, ClientError> {
        let mut line = serde_json::to_vec(&Envelope { v: VERSION, request })?;
        line.push(b'\n');
        let answer = self.exchange(&line).map_err(|error| ClientError::Broken { path: self.path.clone(), error })?;
        match serde_json::from_slice(&answer)? {
            Answer::Ok(value) => Ok(serde_json::from_value(value)?),
            Answer::Error(refusal) => Err(refusal.into()),
        }
    }

    fn exchange(&mut self, line: &[u8]) -> std::io::Result<Vec<u8>> {
        self.stream.get_mut().write_all(line)?;
        let mut answer = Vec::new();
        let limit = LINE_LIMIT as u64;
        if (&mut self.stream).take(limit).read_until(b'\n', &mut answer)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer)
    }

    /// Connects a workload.
    ///
    /// # Errors
    /// See [`Self::call`].
    pub fn attach(&mut self, attach: Attach) -> Result<Attached, ClientError> {
        self.call(Request::Attach(Box::new(attach)))
    }

    /// Disconnects a workload.
    ///
    /// # Errors
    /// See [`Self::call`].
    pub fn detach(&mut self, detach: Detach) -> Result<Detached, ClientError> {
        self.call(Request::Detach(detach))
    }
}

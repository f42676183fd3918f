//! The agent's unix socket: lines in, lines out. What is asked goes to the loop; nothing is decided here.

use crate::api::{Answer, Code, Envelope, LINE_LIMIT, Refusal, Request, VERSION};
use std::io;
use std::path::Path;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

/// A request on its way to the loop, and the way back.
#[derive(Debug)]
pub(crate) struct Call {
    /// What is asked.
    pub(crate) request: Request,
    /// Where the answer goes.
    pub(crate) reply: oneshot::Sender<Answer>,
}

/// Makes the socket: for root, and for `group` if there is one.
///
/// # Errors
/// If the directory or the socket cannot be made, or the group does not exist.
pub(crate) fn listen(path: &Path, group: Option<&str>) -> io::Result<UnixListener> {
    let group = group.map(group_id).transpose()?;
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    lasthop_store::local::listen(path, group)
}

/// The number of a group.
///
/// # Errors
/// If there is none of that name.
pub fn group_id(name: &str) -> io::Result<u32> {
    match nix::unistd::Group::from_name(name).map_err(io::Error::from)? {
        Some(group) => Ok(group.gid.as_raw()),
        None => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!(
                "group '{name}' does not exist: create it with 'groupadd --system {name}', or drop 'group' from the configuration"
            ),
        )),
    }
}

/// Takes connections until the loop is gone.
pub(crate) async fn serve(listener: UnixListener, calls: mpsc::Sender<Call>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let calls = calls.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, calls).await {
                        tracing::debug!(%error, "a caller's connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a caller");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
        if calls.is_closed() {
            return;
        }
    }
}

async fn converse(mut stream: UnixStream, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader).take(LINE_LIMIT as u64).read_until(b'\n', &mut line).await?;
        if read == 0 {
            return Ok(());
        }
        let answer = match parse(&line) {
            Ok(request) => ask(request, &calls).await,
            Err(refusal) => Answer::Error(refusal),
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        writer.write_all(&text).await?;
        if line.last() != Some(&b'\n') {
            return Ok(()); // cut short, or longer than any request
        }
    }
}

async fn ask(request: Request, calls: &mpsc::Sender<Call>) -> Answer {
    let (reply, answer) = oneshot::channel();
    let stopping =
        || Answer::Error(Refusal { code: Code::Unavailable, message: "the agent is stopping: try again".to_owned() });
    if calls.send(Call { request, reply }).await.is_err() {
        return stopping();
    }
    answer.await.unwrap_or_else(|_| stopping())
}

/// Reads a request line; never panics, whatever the bytes.
///
/// # Errors
/// If the line is not JSON, of another version, or not a request.
pub fn parse(line: &[u8]) -> Result<Request, Refusal> {
    let invalid = |message: String| Refusal { code: Code::Invalid, message };
    let value: serde_json::Value =
        serde_json::from_slice(line).map_err(|error| invalid(format!("the request is not JSON: {error}")))?;
    match value.get("v").and_then(serde_json::Value::as_u64) {
        Some(v) if v == u64::from(VERSION) => {}
        Some(v) => {
            let message = format!(
                "the request speaks version {v} of the API, this agent speaks {VERSION}: use the program that came with it"
            );
            return Err(Refusal { code: Code::Version, message });
        }
        None => return Err(invalid(format!("the request has no version: add \"v\": {VERSION}"))),
    }
    let envelope: Envelope =
        serde_json::from_value(value).map_err(|error| invalid(format!("the request is not understood: {error}")))?;
    Ok(envelope.request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wrong_requests_are_named() {
        for (line, code, part) in [
            ("", Code::Invalid, "not JSON"),
            ("{}", Code::Invalid, "no version"),
            (r#"{"v":9,"op":"status"}"#, Code::Version, "version 9"),
            (r#"{"v":1,"op":"frobnicate"}"#, Code::Invalid, "frobnicate"),
            (r#"{"v":1,"op":"attach","name":"x"}"#, Code::Invalid, "link"),
        ] {
            let refusal = parse(line.as_bytes()).unwrap_err();
            assert_eq!(refusal.code, code, "{line}");
            assert!(refusal.message.contains(part), "{line}: {refusal}");
        }
        assert!(matches!(parse(br#"{"v":1,"op":"status"}"#), Ok(Request::Status)));
    }

    proptest! {
        #[test]
        fn no_line_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..120, byte: u8) {
            let _ = parse(&bytes);
            let mut line = br#"{"v":1,"op":"attach","name":"w","link":{"adopt":{"ifname":"tap0"}},"addresses":["10.0.0.1"]}"#.to_vec();
            if let Some(b) = line.get_mut(at) { *b = byte; }
            let _ = parse(&line);
        }
    }
}

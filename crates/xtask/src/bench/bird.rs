//! BIRD 2 in a namespace of a lab: the baseline, and the peer that feeds both.

use super::site::{Site, until};
use anyhow::{Context, Result, bail};
use lasthop_lab::process::Record;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// The AS of everybody here.
pub(super) const AS: u32 = 64512;

/// A BIRD that runs; it ends with its lab.
pub(super) struct Bird {
    pub(super) record: Record,
    socket: PathBuf,
}

impl Bird {
    /// Starts BIRD in a part's namespace and waits until it answers.
    pub(super) fn start(site: &Site, part: &str, config: &str) -> Result<Self> {
        let directory = site.directory.root().join("bird").join(part);
        std::fs::create_dir_all(&directory)?;
        let file = directory.join("bird.conf");
        std::fs::write(&file, config)?;
        let socket = directory.join("bird.ctl");
        let text = |path: &PathBuf| path.display().to_string();
        let command = ["/usr/sbin/bird", "-f", "-c", &text(&file), "-s", &text(&socket)].map(str::to_owned);
        let record = site.start(part, "bird", command.to_vec())?;
        let bird = Self { record, socket };
        let up = until("BIRD to answer", Duration::from_secs(10), || {
            if !bird.record.is_running() {
                bail!("BIRD ended: is bird2 installed?");
            }
            Ok(bird.ask("show status").is_ok())
        });
        up.with_context(|| bird.record.log_tail(5))?;
        Ok(bird)
    }

    /// Asks as `birdc` would.
    pub(super) fn ask(&self, question: &str) -> Result<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut lines = BufReader::new(stream.try_clone()?);
        answer(&mut lines)?;
        writeln!(stream, "{question}")?;
        answer(&mut lines).with_context(|| format!("BIRD was asked '{question}'"))
    }

    /// Waits until a session is established.
    pub(super) fn established(&self, protocol: &str) -> Result<()> {
        let question = format!("show protocols all {protocol}");
        let is_up = || Ok(self.ask(&question)?.contains("BGP state:          Established"));
        until(&format!("BIRD's session '{protocol}'"), Duration::from_secs(30), is_up)
            .with_context(|| self.record.log_tail(5))?;
        Ok(())
    }
}

/// One answer: lines `NNNN-text` and ` text`, at last `NNNN text`.
fn answer(lines: &mut impl BufRead) -> Result<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            bail!("BIRD closed the connection after: {text}");
        }
        let code = line.get(..4).and_then(|code| code.parse::<u16>().ok());
        if code.is_some_and(|code| code >= 8000) {
            bail!("{}", line.trim_end());
        }
        text.push_str(&line);
        if code.is_some() && line.as_bytes().get(4) == Some(&b' ') {
            return Ok(text);
        }
    }
}

/// The beginning of every configuration.
pub(super) fn base(router_id: &str) -> String {
    format!(
        "log stderr {{ warning, error, fatal, bug }};\nrouter id {router_id};\nprotocol device {{ scan time 60; }}\n"
    )
}

/// A session inside the AS.
pub(super) fn session(name: &str, (own, peer): (&str, &str), channel: &str) -> String {
    format!(
        "protocol bgp {name} {{ local {own} as {AS}; neighbor {peer} as {AS}; connect delay time 1; \
         connect retry time 1; error wait time 1, 2; ipv4 {{ {channel} }}; }}\n"
    )
}

//! A real BIRD 2 in a [`Host`]: started, asked, killed and restarted by a test.
//!
//! ```no_run
//! use lasthop_testkit::{bird::{Bird, base}, netns::Net};
//! # use std::time::Duration;
//! # fn main() -> anyhow::Result<()> {
//! let net = Net::new()?;
//! let host = net.host("b", &["10.99.0.2/24"])?;
//! let config = base("10.99.0.2") + r#"
//! protocol static s4 { ipv4; route 203.0.113.0/24 unreachable; }
//! protocol bgp a {
//!   local 10.99.0.2 as 64512; neighbor 10.99.0.1 as 64512;
//!   ipv4 { import all; export all; next hop self; }; ipv6 { import all; export all; next hop self; };
//! }"#;
//! let mut bird = Bird::start(&host, &config)?;
//! bird.established("a", Duration::from_secs(10))?;
//! bird.has_route("10.65.0.21/32", Duration::from_secs(5))?;
//! # Ok(()) }
//! ```

use crate::netns::{Host, Process, eventually};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The first lines of a configuration: router id, the `device` protocol, timestamps in milliseconds.
#[must_use]
pub fn base(router_id: &str) -> String {
    format!("log stderr all;\ntimeformat protocol iso long ms;\nrouter id {router_id};\nprotocol device {{ }}\n")
}

/// A running BIRD. It ends with this value.
#[derive(Debug)]
pub struct Bird {
    host: Host,
    directory: tempfile::TempDir,
    process: Process,
}

/// How BIRD starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BirdStart {
    /// For the first time.
    Fresh,
    /// After a crash: graceful restart recovery (`-R`).
    Recover,
}

impl Bird {
    /// Starts BIRD with this configuration and waits until it answers.
    ///
    /// # Errors
    /// If BIRD is not installed or refuses the configuration; its log is in the error.
    pub fn start(host: &Host, config: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        std::fs::write(directory.path().join("bird.conf"), config)?;
        let process = launch(host, directory.path().to_owned(), BirdStart::Fresh)?;
        let mut bird = Self { host: host.clone(), directory, process };
        bird.answers()?;
        Ok(bird)
    }

    fn answers(&mut self) -> Result<()> {
        let up = eventually("BIRD answers", Duration::from_secs(5), || {
            if !self.process.runs() {
                bail!("BIRD ended");
            }
            self.ask("show status").map(|_| true)
        });
        up.with_context(|| format!("BIRD in {}:\n{}", self.host.name(), self.log()))?;
        Ok(())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// If it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again after [`Self::kill`], with the same configuration.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn restart(&mut self, start: BirdStart) -> Result<()> {
        self.process.kill()?;
        self.process = launch(&self.host, self.directory.path().to_owned(), start)?;
        self.answers()
    }

    /// Replaces the configuration of the running BIRD.
    ///
    /// # Errors
    /// If BIRD refuses it.
    pub fn configure(&self, config: &str) -> Result<()> {
        std::fs::write(self.directory.path().join("bird.conf"), config)?;
        self.ask("configure").map(|_| ())
    }

    /// Changes the configuration file, for the next [`Self::restart`].
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn rewrite(&self, change: impl FnOnce(String) -> String) -> Result<()> {
        let path = self.directory.path().join("bird.conf");
        Ok(std::fs::write(&path, change(std::fs::read_to_string(&path)?))?)
    }

    /// Its process, for signals.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What BIRD logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("bird.log")).unwrap_or_default()
    }

    /// Asks as `birdc` would; the answer's lines without their codes.
    ///
    /// # Errors
    /// If BIRD does not answer, or answers with an error (codes 8000 and 9000).
    pub fn ask(&self, question: &str) -> Result<String> {
        let path = self.directory.path().join("bird.ctl");
        let mut stream = UnixStream::connect(&path).with_context(|| format!("BIRD's socket {}", path.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut lines = BufReader::new(stream.try_clone()?);
        answer(&mut lines)?;
        writeln!(stream, "{question}")?;
        answer(&mut lines).with_context(|| format!("BIRD was asked '{question}'"))
    }

    /// Waits until the BGP protocol of this name is established; how long that took.
    ///
    /// # Errors
    /// If it is not within `limit`; BIRD's view and log are in the error.
    pub fn established(&self, protocol: &str, limit: Duration) -> Result<Duration> {
        let question = format!("show protocols all {protocol}");
        self.explain(eventually(&format!("{protocol} is established"), limit, || {
            Ok(self.ask(&question)?.contains("BGP state:          Established"))
        }))
    }

    /// Waits until BIRD has a route for exactly this prefix; its `show route all`.
    ///
    /// # Errors
    /// If it has none within `limit`.
    pub fn has_route(&self, prefix: &str, limit: Duration) -> Result<String> {
        let mut text = String::new();
        self.explain(eventually(&format!("a route to {prefix}"), limit, || {
            text = self.route(prefix)?.unwrap_or_default();
            Ok(!text.is_empty())
        }))?;
        Ok(text)
    }

    /// Waits until BIRD has no route for exactly this prefix; how long that took.
    ///
    /// # Errors
    /// If it still has one after `limit`.
    pub fn has_no_route(&self, prefix: &str, limit: Duration) -> Result<Duration> {
        self.explain(eventually(&format!("no route to {prefix}"), limit, || Ok(self.route(prefix)?.is_none())))
    }

    /// BIRD's `show route all` for exactly this prefix, all paths; `None` if there is none.
    ///
    /// # Errors
    /// If BIRD does not answer.
    pub fn route(&self, prefix: &str) -> Result<Option<String>> {
        match self.ask(&format!("show route {prefix} all")) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.root_cause().to_string().contains("Network not found") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How many prefixes BIRD has from the protocol of this name.
    ///
    /// # Errors
    /// If BIRD does not answer.
    pub fn routes_from(&self, protocol: &str) -> Result<usize> {
        let text = self.ask(&format!("show route protocol {protocol} count"))?;
        let counts = text.lines().filter_map(|line| line.split_whitespace().next()?.parse::<usize>().ok());
        // A line a table; what follows them begins with a word.
        Ok(counts.sum())
    }

    fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            let view = self.ask("show protocols all").unwrap_or_else(|error| error.to_string());
            error.context(format!("BIRD in {}:\n{view}\n{}", self.host.name(), self.log()))
        })
    }
}

fn launch(host: &Host, directory: PathBuf, start: BirdStart) -> Result<Process> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.join("bird.log"))?;
    let mut command = Command::new("/usr/sbin/bird");
    command.args(["-f", "-c", "bird.conf", "-s", "bird.ctl", "-P", "bird.pid"]);
    if start == BirdStart::Recover {
        command.arg("-R");
    }
    command.current_dir(directory).stdout(Stdio::null()).stderr(log);
    host.spawn(command).context("BIRD: install bird2")
}

/// One answer: lines `NNNN-text`, ` text`, and at last `NNNN text`.
fn answer(lines: &mut impl BufRead) -> Result<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            bail!("BIRD closed the connection after: {text}");
        }
        let line = line.trim_end_matches('\n');
        let code = line.get(..4).and_then(|code| code.parse::<u16>().ok());
        let (part, last) = match code {
            Some(_) => (line.get(5..).unwrap_or_default(), line.as_bytes().get(4) == Some(&b' ')),
            None => (line.get(1..).unwrap_or_default(), false),
        };
        if code.is_some_and(|code| code >= 8000) {
            bail!("{part}");
        }
        if code != Some(0) {
            text.push_str(part);
            text.push('\n');
        }
        if last {
            return Ok(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::Net;

    const LIMIT: Duration = Duration::from_secs(10);

    fn speaker(own: &str, peer: &str, prefix: &str) -> String {
        base(own)
            + &format!(
                "protocol static {{ ipv4; route {prefix} unreachable; }}
                 protocol bgp peer {{
                   local {own} as 64512; neighbor {peer} as 64512; connect delay time 1; error wait time 1, 2;
                   ipv4 {{ import all; export all; next hop self; }};
                 }}"
            )
    }

    #[test]
    fn two_birds_exchange_routes_and_survive_a_restart() {
        let net = Net::new().unwrap();
        let a = net.host("a", &["10.99.0.1/24"]).unwrap();
        let b = net.host("b", &["10.99.0.2/24"]).unwrap();
        let mut left = Bird::start(&a, &speaker("10.99.0.1", "10.99.0.2", "10.65.1.0/24")).unwrap();
        let right = Bird::start(&b, &speaker("10.99.0.2", "10.99.0.1", "10.65.2.0/24")).unwrap();
        left.established("peer", LIMIT).unwrap();
        let route = left.has_route("10.65.2.0/24", LIMIT).unwrap();
        assert!(route.contains("BGP.next_hop: 10.99.0.2"), "{route}");
        right.has_route("10.65.1.0/24", LIMIT).unwrap();
        assert_eq!(right.routes_from("peer").unwrap(), 1);
        assert_eq!(right.route("10.65.3.0/24").unwrap(), None);
        left.restart(BirdStart::Recover).unwrap();
        left.has_route("10.65.2.0/24", LIMIT).unwrap();
    }

    #[test]
    fn a_wrong_configuration_is_told_with_birds_words() {
        let net = Net::new().unwrap();
        let error = Bird::start(&net.host("a", &[]).unwrap(), "protocol nonsense { }").unwrap_err();
        assert!(format!("{error:#}").contains("syntax error"), "{error:#}");
    }
}

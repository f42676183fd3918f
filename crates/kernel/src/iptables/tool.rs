//! Running `iptables-restore`, `iptables-save` and `ipset`: by absolute path, without a shell, with a time limit.
//!
//! A program acts in the network namespace of the thread that starts it. Its environment is empty but for `LC_ALL=C`.

use crate::Error;
use lasthop_net::Family;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Where programs are looked for.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin"];
/// `xtables_lock` of iptables.
const LOCK: &str = "/run/xtables.lock";
/// How long a program may take beside waiting for the lock.
const LIMIT: Duration = Duration::from_secs(30);
/// Exit status of iptables when somebody else has the lock (`RESOURCE_PROBLEM`).
const LOCKED: i32 = 4;

/// Which kernel interface the iptables programs use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// That of the `iptables` that is this host's default, so that our rules are where other programs' are.
    #[default]
    Auto,
    /// The original one.
    Legacy,
    /// nftables.
    Nft,
}

/// The programs, by absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    /// `iptables-restore` and `ip6tables-restore`.
    pub restore: [PathBuf; 2],
    /// `iptables-save` and `ip6tables-save`.
    pub save: [PathBuf; 2],
    /// `ipset`.
    pub ipset: PathBuf,
    /// How long to wait for the lock that iptables programs share.
    pub lock_wait: Duration,
}

/// What a program that ended with an error said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// In words.
    pub(super) error: Error,
    /// The line of its input at which it gave up, counted from 1.
    pub(super) line: Option<usize>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, line: None }
    }
}

impl Tools {
    /// Finds the programs of a backend.
    pub fn find(backend: Backend) -> Result<Self, Error> {
        let suffix = match backend {
            Backend::Legacy => "-legacy",
            Backend::Nft => "-nft",
            Backend::Auto => default_suffix()?,
        };
        let program = |family: &str, what: &str| {
            // Where there is but one backend its programs may have no suffix.
            let named = find(&format!("{family}{suffix}-{what}"));
            named.or_else(|error| if suffix == "-legacy" { find(&format!("{family}-{what}")) } else { Err(error) })
        };
        Ok(Self {
            restore: [program("iptables", "restore")?, program("ip6tables", "restore")?],
            save: [program("iptables", "save")?, program("ip6tables", "save")?],
            ipset: find("ipset")?,
            lock_wait: Duration::from_secs(10),
        })
    }

    /// `iptables-restore --noflush`: each table of the input in one step, nothing of others' touched.
    pub(super) fn restore(&self, family: Family, input: &str) -> Result<(), Failure> {
        let seconds = self.lock_wait.as_secs().max(1).to_string();
        let program = &self.restore[super::index(family)];
        run(program, &["--noflush", "--wait", &seconds], Some(input), self.lock_wait + LIMIT).map(|_| ())
    }

    /// All tables of a family, with counters.
    pub(super) fn save(&self, family: Family) -> Result<String, Error> {
        let program = &self.save[super::index(family)];
        run(program, &["-c"], None, self.lock_wait + LIMIT).map_err(|failure| failure.error)
    }

    /// `ipset restore`: line by line, up to the first that fails. What is there already, or gone already, is no failure.
    pub(super) fn ipset_restore(&self, input: &str) -> Result<(), Failure> {
        run(&self.ipset, &["-exist", "restore"], Some(input), LIMIT).map(|_| ())
    }

    /// All sets.
    pub(super) fn ipset_save(&self) -> Result<String, Error> {
        run(&self.ipset, &["save"], None, LIMIT).map_err(|failure| failure.error)
    }
}

fn find(name: &str) -> Result<PathBuf, Error> {
    let paths = FOLDERS.iter().map(|folder| Path::new(folder).join(name));
    paths.clone().find(|path| path.exists()).ok_or_else(|| Error::Absent {
        object: format!("the program {name} (looked for in {}; install iptables and ipset)", FOLDERS.join(", ")),
    })
}

/// `iptables --version` ends in `(legacy)`, in `(nf_tables)`, or, before there were two, in neither.
fn default_suffix() -> Result<&'static str, Error> {
    let version = run(&find("iptables")?, &["--version"], None, LIMIT).map_err(|failure| failure.error)?;
    Ok(if version.contains("nf_tables") { "-nft" } else { "-legacy" })
}

/// Runs a program to its end; what it printed.
fn run(program: &Path, arguments: &[&str], input: Option<&str>, limit: Duration) -> Result<String, Failure> {
    let attempted = || format!("run {} {}", program.display(), arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("LC_ALL", "C")
        .env("PATH", FOLDERS.join(":"))
        .current_dir("/")
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Error::io(attempted(), &error))?;
    let printed = child.stdout.take().map(gather);
    let complained = child.stderr.take().map(gather);
    let fed = feed(&mut child, input);
    let ended = wait(&mut child, limit);
    let finish = |reader: Option<JoinHandle<String>>| reader.and_then(|r| r.join().ok()).unwrap_or_default();
    let (printed, complained) = (finish(printed), finish(complained));
    if let Some(thread) = fed {
        let _ = thread.join();
    }
    let status = ended.map_err(|error| Error::io(attempted(), &error))?;
    match status {
        None => Err(Error::TimedOut { attempted: attempted(), after: limit }.into()),
        Some(status) if status.success() => Ok(printed),
        Some(status) => {
            let locked = status.code() == Some(LOCKED) && complained.contains("xtables lock");
            let said = if locked { lock_in_words(limit.saturating_sub(LIMIT)) } else { in_words(&complained) };
            Err(Failure { error: Error::Program { attempted: attempted(), said }, line: failing_line(&complained) })
        }
    }
}

fn gather(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What could be read counts, whatever ended it.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn feed(child: &mut Child, input: Option<&str>) -> Option<JoinHandle<()>> {
    let mut stdin = child.stdin.take()?;
    let input = input?.to_owned();
    // A program that gives up early closes its end; what it says tells why.
    Some(std::thread::spawn(move || {
        let _ = stdin.write_all(input.as_bytes());
    }))
}

/// Waits for the end, or ends it after `limit`; `None` then.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<std::process::ExitStatus>> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

/// The number after the last `line` in what a program said: `line 7 failed`, `Error occurred at line: 7`, `Error in line 7:`.
pub(super) fn failing_line(said: &str) -> Option<usize> {
    let after = |(at, word): (usize, &str)| {
        let rest = said[at + word.len()..].trim_start_matches([':', ' ']);
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    said.match_indices("line").collect::<Vec<_>>().into_iter().rev().find_map(after)
}

/// What it said, on one line, without advice on how to call it.
fn in_words(said: &str) -> String {
    let advice = ["Try `", "# Warning"];
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<&str> = lines.filter(|line| !advice.iter().any(|a| line.starts_with(a))).collect();
    if lines.is_empty() { "it gave no reason".to_owned() } else { lines.join("; ") }
}

/// Who has the lock, if the kernel tells.
fn lock_in_words(waited: Duration) -> String {
    let holder = lock_holder().map_or_else(|| "another program".to_owned(), |(pid, name)| format!("{name} ({pid})"));
    format!("{holder} has held {LOCK} for {} s or more: end it, or let it finish", waited.as_secs())
}

/// Looks for the lock's inode in /proc/locks: `1: FLOCK  ADVISORY  WRITE 1234 00:19:1075 0 EOF`.
fn lock_holder() -> Option<(u32, String)> {
    let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(LOCK).ok()?).to_string();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let mut lines = locks.lines().filter(|line| !line.contains("->"));
    let pid: u32 = lines.find_map(|line| {
        let mut words = line.split_whitespace().skip(4);
        let (pid, file) = (words.next()?, words.next()?);
        (file.rsplit(':').next()? == inode).then(|| pid.parse().ok())?
    })?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some((pid, name.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failing_line_is_found_in_what_programs_say() {
        for (said, line) in [
            (
                "iptables-restore v1.8.9 (legacy): Couldn't load match `x'\n\nError occurred at line: 3\nTry `more",
                Some(3),
            ),
            ("iptables-restore: line 7 failed\n", Some(7)),
            ("ip6tables-nft-restore v1.8.9 (nf_tables): \nline 12: RULE_APPEND failed (No such file)", Some(12)),
            ("ipset v7.17: Error in line 4: Set cannot be created", Some(4)),
            ("Another app is currently holding the xtables lock.", None),
            ("the line is busy", None),
            ("", None),
        ] {
            assert_eq!(failing_line(said), line, "{said}");
        }
    }

    #[test]
    fn a_program_is_ended_at_its_limit_and_says_what_it_has_to_say() {
        let slow = run(Path::new("/bin/sleep"), &["60"], None, Duration::from_millis(50)).unwrap_err();
        assert!(matches!(slow.error, Error::TimedOut { .. }), "{slow:?}");
        let echoed = run(Path::new("/bin/cat"), &[], Some(&"x\n".repeat(1 << 18)), LIMIT).expect("cat");
        assert_eq!(echoed.len(), 2 << 18, "more than a pipe holds, both ways");
        let failure = run(Path::new("/bin/cat"), &["/nothing at line: 9"], None, LIMIT).unwrap_err();
        assert_eq!(failure.line, Some(9));
        assert!(failure.error.to_string().contains("No such file"), "{}", failure.error);
    }
}

//! Processes of a lab: started inside a namespace, recorded, ended by what was recorded.
//!
//! A process is known by its id *and* its start time (proc(5), field 22 of `stat`), so that an id which the
//! kernel has given to another process since is never signalled.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What to start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// The namespace to start in.
    pub namespace: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Where its output goes (appended).
    pub log: PathBuf,
}

/// What was started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// How it was started, so that it can be again.
    pub task: Task,
    /// Its process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
}

/// The start time of a process that is there and no zombie.
#[must_use]
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything, also ')'.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

impl Task {
    /// Starts the process in its namespace, in a process group of its own, and records it in `file`.
    ///
    /// # Errors
    /// If the namespace, the log or the program is not there, or the record cannot be written.
    pub fn start(&self, file: &Path) -> Result<Record> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot open the log {}", self.log.display()))?;
        let Some((program, arguments)) = self.command.split_first() else { bail!("there is no command to start") };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = crate::netns::within(&self.namespace, move || command.spawn())?;
        let child = child.with_context(|| format!("cannot start '{program}'"))?;
        let pid = i32::try_from(child.id()).context("process id out of range")?;
        let record = Record { task: self.clone(), pid, started: start_time(pid).unwrap_or(0) };
        crate::state::write_json(file, &record)?;
        Ok(record)
    }
}

impl Record {
    /// Whether the very process that was recorded runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// Sends `signal`, if the process still is the one that was recorded. Says whether it was.
    pub fn signal(&self, signal: Signal) -> bool {
        self.is_running() && kill(Pid::from_raw(self.pid), signal).is_ok()
    }

    /// Waits until the process is gone; `false` if it still runs after `limit`.
    #[must_use]
    pub fn wait_gone(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.is_running() {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read_to_string(&self.task.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
    }
}

/// The processes whose network namespace is one of `inodes`.
#[must_use]
pub fn inside(inodes: &std::collections::BTreeSet<u64>) -> Vec<i32> {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let other = |pid: &i32| u32::try_from(*pid).ok() != Some(std::process::id());
    pids.filter(other)
        .filter(|pid| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|m| inodes.contains(&m.ino())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_id_that_was_given_to_another_is_not_signalled() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let task = Task { namespace: String::new(), command: vec![], log: PathBuf::new() };
        let record = Record { task, pid, started: start_time(pid).unwrap() };
        let other = Record { started: record.started + 1, ..record.clone() };
        assert!(!other.is_running() && !other.signal(Signal::SIGKILL));
        assert!(record.is_running() && record.signal(Signal::SIGKILL));
        assert!(record.wait_gone(Duration::from_secs(5)), "a zombie counts as gone");
        child.wait().unwrap();
    }

    #[test]
    fn our_own_start_time_reads() {
        assert!(start_time(i32::try_from(std::process::id()).unwrap()).is_some());
        assert_eq!(start_time(0), None);
    }
}

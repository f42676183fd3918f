//! Taking a lab away: what is written down first, then whatever else lives in its namespaces.

use crate::netns;
use crate::process;
use crate::state::LabDirectory;
use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// What was taken away.
#[derive(Clone, Debug, Serialize)]
pub struct Removed {
    /// The lab.
    pub lab: String,
    /// Processes that were ended.
    pub processes: usize,
    /// Namespaces that were removed.
    pub namespaces: usize,
}

/// Takes a lab away, whole or half-made.
///
/// # Errors
/// If there is no such lab, another command is changing it, or something cannot be removed.
pub fn down(directory: &LabDirectory) -> Result<Removed> {
    if !directory.exists() {
        bail!(directory.absent());
    }
    let _lock = directory.lock()?;
    let there: BTreeSet<String> = netns::names()?.into_iter().collect();
    let ours: Vec<String> = match directory.manifest() {
        Ok(manifest) => manifest.namespaces.into_iter().filter(|name| there.contains(name)).collect(),
        // A crash before anything was written down, or a damaged file: the prefix is ours alone.
        Err(_) => there.into_iter().filter(|name| name.starts_with(&directory.name.namespace(""))).collect(),
    };
    let processes = end_processes(directory, &ours)?;
    for name in &ours {
        netns::delete(name)?;
    }
    directory.remove()?;
    Ok(Removed { lab: directory.name.to_string(), processes, namespaces: ours.len() })
}

/// Ends what was recorded, then what runs inside the lab's namespaces besides (commands of `lab exec`, and a
/// process that a crash of `up` left unrecorded).
fn end_processes(directory: &LabDirectory, namespaces: &[String]) -> Result<usize> {
    let records = directory.records();
    let ended = records.values().filter(|record| record.signal(Signal::SIGKILL)).count();
    for (name, record) in &records {
        if !record.wait_gone(Duration::from_secs(10)) {
            bail!("{name} (process {}) does not end after SIGKILL: look at /proc/{}/stack", record.pid, record.pid);
        }
    }
    let inodes: BTreeSet<u64> = namespaces.iter().filter_map(|name| netns::inode(name)).collect();
    let end = Instant::now() + Duration::from_secs(10);
    let mut signalled = BTreeSet::new();
    loop {
        let inside = process::inside(&inodes);
        if inside.is_empty() {
            return Ok(ended + signalled.len());
        }
        if Instant::now() > end {
            bail!("these processes in the lab's namespaces do not end: {inside:?}");
        }
        for pid in inside {
            if signalled.insert(pid) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

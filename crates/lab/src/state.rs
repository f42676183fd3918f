//! What a lab has written down about itself, under `/run/lasthop-lab/<lab>/`.
//!
//! Namespaces are written down *before* they are made and processes as soon as they have an id, so that
//! `down` finds everything also after a crash of `up`.

use crate::process::Record;
use crate::topology::Topology;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// There is no lab, host, workload or network of a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotFound(pub String);

/// Where labs are written down.
const BASE: &str = "/run/lasthop-lab";

/// A lab's name: also the prefix of its namespaces, so it holds no `-` and no lab's prefix begins another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabName(String);

impl std::str::FromStr for LabName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if fits && (1..=20).contains(&text.len()) && text.as_bytes()[0].is_ascii_lowercase() {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("'{text}' is no name for a lab: use 1 to 20 lower-case letters and digits, a letter first"))
        }
    }
}

impl std::fmt::Display for LabName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl LabName {
    /// The namespace of a host, workload or other part.
    #[must_use]
    pub fn namespace(&self, part: &str) -> String {
        format!("{}-{part}", self.0)
    }
}

/// What is written down when a lab begins.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The network.
    pub topology: Topology,
    /// All namespaces that there are or may be.
    pub namespaces: Vec<String>,
    /// Whether `up` came to its end.
    pub complete: bool,
    /// Which host each workload is on now.
    pub places: BTreeMap<String, String>,
}

/// A lab's directory.
#[derive(Clone, Debug)]
pub struct LabDirectory {
    /// The lab.
    pub name: LabName,
    root: PathBuf,
}

impl LabDirectory {
    /// The directory of a lab, whether it exists or not.
    #[must_use]
    pub fn of(name: &LabName) -> Self {
        Self { name: name.clone(), root: Path::new(BASE).join(&name.0) }
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether there is such a lab.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.root.exists()
    }

    /// All labs of this machine.
    #[must_use]
    pub fn all() -> Vec<LabName> {
        let entries = fs::read_dir(BASE).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names.iter().filter_map(|name| name.parse().ok()).collect()
    }

    /// Begins a lab.
    ///
    /// # Errors
    /// If there is one of that name, or the directory cannot be made.
    pub fn create(&self, manifest: &Manifest) -> Result<()> {
        if self.exists() {
            bail!("{}", self.taken());
        }
        for sub in ["certificates", "processes", "logs"] {
            let path = self.root.join(sub);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}: are you root?", path.display()))?;
        }
        self.write_manifest(manifest)
    }

    /// Held while a command changes the lab.
    ///
    /// # Errors
    /// If there is no such lab, or another command is changing it.
    pub fn lock(&self) -> Result<File> {
        if !self.exists() {
            bail!(self.absent());
        }
        let path = self.root.join("lock");
        let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        if file.try_lock().is_err() {
            bail!("another command is changing the lab '{}': wait for it to end", self.name);
        }
        Ok(file)
    }

    /// That there is such a lab already.
    #[must_use]
    pub fn taken(&self) -> String {
        let name = &self.name;
        format!(
            "there is a lab '{name}' already: take it down with 'lasthop lab down --name {name}', or choose another --name"
        )
    }

    /// That there is no such lab, and what there is.
    #[must_use]
    pub fn absent(&self) -> NotFound {
        let others: Vec<String> = Self::all().iter().map(ToString::to_string).collect();
        let hint = match others.as_slice() {
            [] => "bring one up with 'lasthop lab up'".to_owned(),
            others => format!("there is: {}", others.join(", ")),
        };
        NotFound(format!("there is no lab '{}': {hint}", self.name))
    }

    /// What was written down at the beginning.
    ///
    /// # Errors
    /// If there is no such lab or it cannot be read.
    pub fn manifest(&self) -> Result<Manifest> {
        if !self.exists() {
            bail!(self.absent());
        }
        read_json(&self.root.join("lab.json"))
    }

    /// Writes down what has changed.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_manifest(&self, manifest: &Manifest) -> Result<()> {
        write_json(&self.root.join("lab.json"), manifest)
    }

    /// The directory of one host (or the store).
    #[must_use]
    pub fn host(&self, host: &str) -> PathBuf {
        self.root.join("hosts").join(host)
    }

    /// The configuration file of one host.
    #[must_use]
    pub fn config(&self, host: &str) -> PathBuf {
        self.host(host).join("lasthop.yaml")
    }

    /// The socket of one host's agent.
    #[must_use]
    pub fn agent_socket(&self, host: &str) -> PathBuf {
        self.host(host).join("run/agent.sock")
    }

    /// Certificates of all hosts.
    #[must_use]
    pub fn certificates(&self) -> PathBuf {
        self.root.join("certificates")
    }

    /// The log of a process.
    #[must_use]
    pub fn log(&self, owner: &str, role: &str) -> PathBuf {
        self.root.join("logs").join(format!("{owner}.{role}.log"))
    }

    /// The record of a process.
    #[must_use]
    pub fn record_file(&self, owner: &str, role: &str) -> PathBuf {
        self.root.join("processes").join(format!("{owner}.{role}.json"))
    }

    /// The record of a process, if there is one.
    #[must_use]
    pub fn record(&self, owner: &str, role: &str) -> Option<Record> {
        read_json(&self.record_file(owner, role)).ok()
    }

    /// All processes that were recorded, by `owner.role`.
    #[must_use]
    pub fn records(&self) -> BTreeMap<String, Record> {
        let entries = fs::read_dir(self.root.join("processes")).into_iter().flatten().flatten();
        let named = entries.filter_map(|entry| {
            let path = entry.path();
            let name = path.file_name()?.to_str()?.strip_suffix(".json")?.to_owned();
            Some((name, read_json(&path).ok()?))
        });
        named.collect()
    }

    /// Takes the directory away, and the one above it if it was the last lab.
    ///
    /// # Errors
    /// If files cannot be removed.
    pub fn remove(&self) -> Result<()> {
        if self.exists() {
            fs::remove_dir_all(&self.root).with_context(|| format!("cannot remove {}", self.root.display()))?;
        }
        let _ = fs::remove_dir(BASE); // fails while other labs are there, as it should
        Ok(())
    }
}

/// Writes a file so that a reader sees the old one or the new one, never half.
///
/// # Errors
/// If it cannot be written.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let beside = path.with_extension("new");
    let write = || fs::write(&beside, serde_json::to_vec_pretty(value)?).and_then(|()| fs::rename(&beside, path));
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} does not parse", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_labs_prefix_begins_anothers() {
        for good in ["lasthop", "a", "lht1234", "x9"] {
            assert!(good.parse::<LabName>().is_ok(), "{good}");
        }
        for bad in ["", "a-b", "9a", "A", "a_b", "../x", "abcdefghijklmnopqrstu"] {
            assert!(bad.parse::<LabName>().is_err(), "{bad}");
        }
    }
}

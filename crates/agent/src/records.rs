//! What was attached and detached on this host, on disk: one small file for each, so that an attach costs
//! the same at 10 and at 10,000 workloads.
//!
//! A record is the truth about its endpoint until the store has it; from then on the store's copy is, and
//! an endpoint deleted there is gone here. A record of a removal holds until the store has removed it too.

use crate::document::Document;
use lasthop_model::{EndpointKey, WorkloadEndpoint};
use lasthop_net::IfName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// One endpoint as this host knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// Namespace of the endpoint.
    pub(crate) namespace: String,
    /// Name of the endpoint.
    pub(crate) name: String,
    /// What is meant to be.
    pub(crate) intent: Intent,
    /// Whether the store has it.
    pub(crate) published: Published,
    /// A link of ours that goes with a removal: an agent that dies over it takes it away after its restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) going: Option<String>,
}

/// What is meant to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Intent {
    /// The workload is connected.
    Attached {
        /// Its WorkloadEndpoint.
        document: Document,
        /// Who made the link.
        maker: Maker,
    },
    /// It was disconnected.
    Detached,
}

/// Who made a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Maker {
    /// We did, and take it away.
    Us,
    /// Somebody else: configured, never deleted.
    Other,
}

/// Whether the store has a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Published {
    /// Not yet.
    No,
    /// The store has held it, as of this revision: what it says after that counts.
    At(u64),
}

/// All records of this host.
#[derive(Debug)]
pub(crate) struct Records {
    directory: PathBuf,
    records: BTreeMap<EndpointKey, Record>,
}

impl Records {
    /// Reads the records under `state`. A file that does not parse is set aside and named in the log.
    ///
    /// # Errors
    /// If the directory cannot be made or read.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let directory = state.join("attachments");
        std::fs::create_dir_all(&directory)?;
        let mut records = BTreeMap::new();
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match std::fs::read(&path).map(|bytes| serde_json::from_slice::<Record>(&bytes)) {
                Ok(Ok(record)) => {
                    records.insert(record.key(), record);
                }
                Ok(Err(error)) => {
                    tracing::error!(path = %path.display(), %error, "this attachment does not parse; set aside");
                    std::fs::rename(&path, path.with_extension("broken"))?;
                }
                Err(error) => tracing::error!(path = %path.display(), %error, "this attachment cannot be read"),
            }
        }
        Ok(Self { directory, records })
    }

    /// The record of an endpoint.
    pub(crate) fn get(&self, key: &EndpointKey) -> Option<&Record> {
        self.records.get(key)
    }

    /// All records.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// Writes a record; it is there after a crash of the agent. (After a crash of the host no workload is
    /// left, so nothing waits for the disk.)
    ///
    /// # Errors
    /// If the file cannot be written: then nothing has changed.
    pub(crate) fn put(&mut self, record: Record) -> io::Result<()> {
        let key = record.key();
        if self.records.get(&key) == Some(&record) {
            return Ok(());
        }
        let path = self.path(&key);
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, serde_json::to_vec(&record)?)?;
        std::fs::rename(&fresh, &path)?;
        self.records.insert(key, record);
        Ok(())
    }

    /// Forgets an endpoint.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub(crate) fn remove(&mut self, key: &EndpointKey) -> io::Result<()> {
        if self.records.remove(key).is_none() {
            return Ok(());
        }
        match std::fs::remove_file(self.path(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The store's name for the file: readable, and injective since names hold no `%`.
    fn path(&self, key: &EndpointKey) -> PathBuf {
        self.directory.join(format!("{}%{}.json", key.namespace, key.name))
    }
}

impl Record {
    /// A record of an attached workload that the store does not have yet.
    pub(crate) fn attached(endpoint: &WorkloadEndpoint, document: Document, maker: Maker) -> Self {
        Self {
            namespace: endpoint.key.namespace.clone(),
            name: endpoint.key.name.clone(),
            intent: Intent::Attached { document, maker },
            published: Published::No,
            going: None,
        }
    }

    /// A record of a removal that the store does not have yet.
    pub(crate) fn detached(key: &EndpointKey, going: Option<&IfName>) -> Self {
        let EndpointKey { namespace, name } = key.clone();
        let going = going.map(ToString::to_string);
        Self { namespace, name, intent: Intent::Detached, published: Published::No, going }
    }

    /// Which endpoint it is about.
    pub(crate) fn key(&self) -> EndpointKey {
        EndpointKey { namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str) -> Record {
        let intent = Intent::Attached {
            document: Document::from(&serde_json::json!({"kind": "WorkloadEndpoint"})),
            maker: Maker::Us,
        };
        Record { namespace: "default".into(), name: name.into(), intent, published: Published::No, going: None }
    }

    #[test]
    fn records_outlive_the_process_and_a_broken_file_stops_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let mut records = Records::open(directory.path()).unwrap();
        records.put(record("a")).unwrap();
        records.put(record("b")).unwrap();
        records.put(Record { published: Published::At(7), ..record("b") }).unwrap();
        records.put(record("c")).unwrap();
        records.remove(&record("c").key()).unwrap();
        std::fs::write(directory.path().join("attachments/default%x.json"), b"{").unwrap();
        std::fs::write(directory.path().join("attachments/default%y.new"), b"half").unwrap();
        let again = Records::open(directory.path()).unwrap();
        let names: Vec<_> = again.iter().map(|r| (r.name.as_str(), r.published)).collect();
        assert_eq!(names, [("a", Published::No), ("b", Published::At(7))]);
        assert!(directory.path().join("attachments/default%x.broken").exists());
    }
}

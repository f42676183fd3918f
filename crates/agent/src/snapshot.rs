//! The last that the store told, on disk: with the store gone a restarted agent goes on from here.

use lasthop_model::{Key, Kind};
use lasthop_store::Revision;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const FORMAT: u64 = 1;

/// The documents that concern this host, as last told.
#[derive(Debug)]
pub(crate) struct Snapshot {
    path: PathBuf,
    /// The store's revision that they are of.
    pub(crate) revision: Revision,
    documents: BTreeMap<Key, Value>,
    /// Keys told since the last [`Self::begin`]; `None` outside a full listing.
    told: Option<std::collections::BTreeSet<Key>>,
    dirty: bool,
    writer: Option<std::thread::JoinHandle<io::Result<()>>>,
}

impl Snapshot {
    /// Reads the file under `state`; a missing or unreadable one is an empty snapshot.
    pub(crate) fn open(state: &Path) -> Self {
        let path = state.join("snapshot.json");
        let mut snapshot =
            Self { path, revision: Revision(0), documents: BTreeMap::new(), told: None, dirty: false, writer: None };
        match std::fs::read(&snapshot.path) {
            Ok(bytes) => match read(&bytes) {
                Some((revision, documents)) => {
                    snapshot.revision = revision;
                    snapshot.documents = documents;
                }
                None => {
                    tracing::error!(path = %snapshot.path.display(), "the snapshot does not parse; starting without")
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!(path = %snapshot.path.display(), %error, "the snapshot cannot be read"),
        }
        snapshot
    }

    /// Whether the store was ever in sync with this host.
    pub(crate) fn is_known(&self) -> bool {
        self.revision > Revision(0)
    }

    /// All documents.
    pub(crate) fn documents(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.documents.iter()
    }

    /// The document of a key.
    pub(crate) fn get(&self, key: &Key) -> Option<&Value> {
        self.documents.get(key)
    }

    /// Everything is told anew from here.
    pub(crate) fn begin(&mut self) {
        self.told = Some(std::collections::BTreeSet::new());
    }

    /// A resource is as given. Returns whether that is news.
    pub(crate) fn put(&mut self, key: Key, document: Value) -> News {
        if let Some(told) = &mut self.told {
            told.insert(key.clone());
        }
        if self.documents.get(&key) == Some(&document) {
            return News::Known;
        }
        self.documents.insert(key, document);
        self.dirty = true;
        News::Changed
    }

    /// A resource is gone.
    pub(crate) fn gone(&mut self, key: &Key) {
        self.dirty |= self.documents.remove(key).is_some();
    }

    /// All has been told: returns what has not been, which is gone.
    pub(crate) fn in_sync(&mut self, revision: Revision) -> Vec<Key> {
        self.dirty |= revision != self.revision;
        self.revision = revision;
        let Some(told) = self.told.take() else { return Vec::new() };
        self.documents.keys().filter(|key| !told.contains(key)).cloned().collect()
    }

    /// Waits for the last writing to end.
    ///
    /// # Errors
    /// If it failed; the former file is then still there.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        match self.writer.take().map(std::thread::JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the thread that writes the snapshot ended")),
            None => Ok(()),
        }
    }

    /// Writes the file, if anything changed since the last time.
    ///
    /// # Errors
    /// If it cannot be written; the former file is then still there.
    pub(crate) fn save(&mut self) -> io::Result<()> {
        self.finish()?;
        if !std::mem::take(&mut self.dirty) {
            return Ok(());
        }
        let documents: Vec<Value> = self
            .documents
            .iter()
            .map(|(key, document)| {
                json!({"kind": key.kind.to_string(), "namespace": key.namespace, "name": key.name, "document": document})
            })
            .collect();
        let text = serde_json::to_vec(&json!({"format": FORMAT, "revision": self.revision.0, "documents": documents}))?;
        let fresh = self.path.with_extension("new");
        let path = self.path.clone();
        // The disk may take its time; the loop does not wait for it. Only a whole file ever gets the name.
        self.writer = Some(std::thread::spawn(move || {
            let mut file = std::fs::File::create(&fresh)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&fresh, &path)
        }));
        Ok(())
    }
}

/// Whether something that was told is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// It is as before.
    Known,
    /// It is not.
    Changed,
}

fn read(bytes: &[u8]) -> Option<(Revision, BTreeMap<Key, Value>)> {
    let file: Value = serde_json::from_slice(bytes).ok()?;
    if file.get("format")?.as_u64()? != FORMAT {
        return None;
    }
    let mut documents = BTreeMap::new();
    for entry in file.get("documents")?.as_array()? {
        let kind: Kind = entry.get("kind")?.as_str()?.parse().ok()?;
        let namespace = entry.get("namespace")?.as_str().map(str::to_owned);
        let name = entry.get("name")?.as_str()?.to_owned();
        documents.insert(Key { kind, namespace, name }, entry.get("document")?.clone());
    }
    Some((Revision(file.get("revision")?.as_u64()?), documents))
}

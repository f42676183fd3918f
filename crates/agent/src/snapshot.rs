//! The last that the store told, on disk: with the store gone a restarted agent goes on from here.
//!
//! A file of lines, each a resource as it is now (`document: null`: gone) or the revision; the last line about a key
//! counts. What changed is appended, so that a change costs the same beside ten documents and beside ten thousand. Once as
//! much has been appended as a whole file takes, a whole one is written beside it and takes its name. A line that a crash
//! cut short ends the file: what it said is told again, since the revision in front of it is older.

use crate::document::Document;
use lasthop_model::{Key, Kind};
use lasthop_store::Revision;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const FORMAT: u64 = 2;
/// A file is not written whole before so much has been appended.
const APPENDED_LEAST: usize = 64 << 10;

/// The documents that concern this host, as last told.
#[derive(Debug)]
pub(crate) struct Snapshot {
    path: PathBuf,
    /// The store's revision that they are of.
    pub(crate) revision: Revision,
    documents: BTreeMap<Key, Document>,
    /// Keys told since the last [`Self::begin`]; `None` outside a full listing.
    told: Option<BTreeSet<Key>>,
    unsaved: Unsaved,
    /// Bytes of the file when it was last written whole, and appended since.
    whole: usize,
    appended: usize,
    writer: Option<std::thread::JoinHandle<io::Result<()>>>,
}

/// What the file does not say yet.
#[derive(Debug, PartialEq, Eq)]
enum Unsaved {
    /// The revision, if it is another, and these.
    Keys(BTreeSet<Key>, Option<Revision>),
    /// There is no file that could be appended to.
    Everything,
}

impl Default for Unsaved {
    fn default() -> Self {
        Self::Keys(BTreeSet::new(), None)
    }
}

/// What is written in one go, in the place of the file or behind its last line.
enum Text {
    Whole(Vec<u8>),
    More(Vec<u8>),
}

impl Snapshot {
    /// Reads the file under `state`; a missing or unreadable one is an empty snapshot.
    pub(crate) fn open(state: &Path) -> Self {
        let path = state.join("snapshot.json");
        let mut snapshot = Self {
            path,
            revision: Revision(0),
            documents: BTreeMap::new(),
            told: None,
            unsaved: Unsaved::Everything,
            whole: 0,
            appended: 0,
            writer: None,
        };
        match std::fs::read(&snapshot.path) {
            Ok(bytes) => snapshot.read(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!(path = %snapshot.path.display(), %error, "the snapshot cannot be read"),
        }
        snapshot
    }

    fn read(&mut self, bytes: &[u8]) {
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\n"));
        let header = lines.next().flatten().and_then(|line| serde_json::from_slice::<Value>(line).ok());
        if header.as_ref().and_then(|header| header.get("format")?.as_u64()) != Some(FORMAT) {
            tracing::error!(path = %self.path.display(), "the snapshot does not parse; starting without");
            return;
        }
        for line in lines {
            if line.and_then(|line| self.read_line(line)).is_none() {
                tracing::warn!(path = %self.path.display(), "the snapshot's last line was cut short; going on without");
                return;
            }
        }
        self.unsaved = Unsaved::default();
        self.whole = bytes.len();
    }

    fn read_line(&mut self, line: &[u8]) -> Option<()> {
        let mut line: Value = serde_json::from_slice(line).ok()?;
        if let Some(revision) = line.get("revision") {
            self.revision = Revision(revision.as_u64()?);
            return Some(());
        }
        let kind: Kind = line.get("kind")?.as_str()?.parse().ok()?;
        let namespace = line.get("namespace")?.as_str().map(str::to_owned);
        let name = line.get("name")?.as_str()?.to_owned();
        let key = Key { kind, namespace, name };
        match line.get_mut("document")?.take() {
            Value::Null => self.documents.remove(&key),
            document => self.documents.insert(key, Document::from(&document)),
        };
        Some(())
    }

    /// Whether the store was ever in sync with this host.
    pub(crate) fn is_known(&self) -> bool {
        self.revision > Revision(0)
    }

    /// All documents.
    pub(crate) fn documents(&self) -> impl Iterator<Item = (&Key, &Document)> {
        self.documents.iter()
    }

    /// The document of a key.
    pub(crate) fn get(&self, key: &Key) -> Option<&Document> {
        self.documents.get(key)
    }

    /// Everything is told anew from here.
    pub(crate) fn begin(&mut self) {
        self.told = Some(BTreeSet::new());
    }

    /// A resource is as given. Returns whether that is news.
    pub(crate) fn put(&mut self, key: Key, document: Document) -> News {
        if let Some(told) = &mut self.told {
            told.insert(key.clone());
        }
        if self.documents.get(&key) == Some(&document) {
            return News::Known;
        }
        self.is_unsaved(&key);
        self.documents.insert(key, document);
        News::Changed
    }

    /// A resource is gone.
    pub(crate) fn gone(&mut self, key: &Key) {
        if self.documents.remove(key).is_some() {
            self.is_unsaved(key);
        }
    }

    fn is_unsaved(&mut self, key: &Key) {
        if let Unsaved::Keys(keys, _) = &mut self.unsaved {
            keys.insert(key.clone());
        }
    }

    /// All has been told: returns what has not been, which is gone.
    pub(crate) fn in_sync(&mut self, revision: Revision) -> Vec<Key> {
        if let Unsaved::Keys(_, unsaved) = &mut self.unsaved
            && revision != self.revision
        {
            *unsaved = Some(revision);
        }
        self.revision = revision;
        let Some(told) = self.told.take() else { return Vec::new() };
        self.documents.keys().filter(|key| !told.contains(key)).cloned().collect()
    }

    /// Waits for the last writing to end.
    ///
    /// # Errors
    /// If it failed; what the file said before it still says, and the next writing is of the whole.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let result = match self.writer.take().map(std::thread::JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the thread that writes the snapshot ended")),
            None => Ok(()),
        };
        if result.is_err() {
            self.unsaved = Unsaved::Everything;
        }
        result
    }

    /// Begins to write what has changed since the last time; while the disk is still busy with that, does nothing.
    ///
    /// # Errors
    /// If it, or the last time, failed: see [`Self::finish`].
    pub(crate) fn save(&mut self) -> io::Result<Saved> {
        if self.writer.as_ref().is_some_and(|writer| !writer.is_finished()) {
            return Ok(Saved::Later);
        }
        self.finish()?;
        let Some(text) = self.text()? else { return Ok(Saved::Now) };
        match &text {
            Text::Whole(bytes) => (self.whole, self.appended) = (bytes.len(), 0),
            Text::More(bytes) => self.appended += bytes.len(),
        }
        self.unsaved = Unsaved::default();
        let path = self.path.clone();
        // The disk may take its time; the loop does not wait for it.
        self.writer = Some(std::thread::spawn(move || write(&path, &text)));
        Ok(Saved::Now)
    }

    /// What is to be written, if anything.
    fn text(&self) -> io::Result<Option<Text>> {
        let mut text = Vec::new();
        match &self.unsaved {
            Unsaved::Keys(keys, None) if keys.is_empty() => return Ok(None),
            Unsaved::Keys(keys, revision) if self.appended <= self.whole.max(APPENDED_LEAST) => {
                for key in keys {
                    put_line(&mut text, key, self.documents.get(key))?;
                }
                if let Some(revision) = revision {
                    put_value(&mut text, &json!({"revision": revision.0}))?;
                }
                return Ok(Some(Text::More(text)));
            }
            _ => {}
        }
        put_value(&mut text, &json!({"format": FORMAT}))?;
        for (key, document) in &self.documents {
            put_line(&mut text, key, Some(document))?;
        }
        put_value(&mut text, &json!({"revision": self.revision.0}))?;
        Ok(Some(Text::Whole(text)))
    }
}

/// Whether all is on its way to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Saved {
    /// It is.
    Now,
    /// The disk is not done with what it got before.
    Later,
}

/// Whether something that was told is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// It is as before.
    Known,
    /// It is not.
    Changed,
}

fn put_value(text: &mut Vec<u8>, value: &Value) -> io::Result<()> {
    serde_json::to_writer(&mut *text, value)?;
    text.push(b'\n');
    Ok(())
}

/// The line of a resource, `None`: it is gone.
fn put_line(text: &mut Vec<u8>, key: &Key, document: Option<&Document>) -> io::Result<()> {
    let names = json!([key.kind.to_string(), key.namespace, key.name]);
    write!(text, r#"{{"kind":{},"namespace":{},"name":{},"document":"#, names[0], names[1], names[2])?;
    text.extend_from_slice(document.map_or("null", Document::as_str).as_bytes());
    text.extend_from_slice(b"}\n");
    Ok(())
}

/// Has a text on the disk. Only a whole file ever gets the name.
fn write(path: &Path, text: &Text) -> io::Result<()> {
    match text {
        Text::More(text) => {
            let mut file = File::options().append(true).open(path)?;
            file.write_all(text)?;
            file.sync_data()
        }
        Text::Whole(text) => {
            let fresh = path.with_extension("new");
            let mut file = File::create(&fresh)?;
            file.write_all(text)?;
            file.sync_all()?;
            std::fs::rename(&fresh, path)?;
            // What is appended from now on must not be lost with the name.
            path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        Key { kind: Kind::WorkloadEndpoint, namespace: Some("default".into()), name: format!("w{number:05}") }
    }

    fn document(revision: usize) -> Document {
        Document::from(
            &json!({"kind": "WorkloadEndpoint", "spec": {"workload": "a \"quoted\" one", "number": revision % 10}}),
        )
    }

    fn save(snapshot: &mut Snapshot) {
        assert_eq!(snapshot.save().unwrap(), Saved::Now);
        snapshot.finish().unwrap();
    }

    fn holding(directory: &Path, count: usize) -> Snapshot {
        let mut snapshot = Snapshot::open(directory);
        for number in 0..count {
            assert_eq!(snapshot.put(key(number), document(number)), News::Changed);
        }
        snapshot.in_sync(Revision(7));
        save(&mut snapshot);
        snapshot
    }

    fn size(directory: &Path) -> u64 {
        std::fs::metadata(directory.join("snapshot.json")).unwrap().len()
    }

    fn same(one: &Snapshot, other: &Snapshot) {
        assert_eq!((one.revision, &one.documents), (other.revision, &other.documents));
    }

    #[test]
    fn one_change_writes_as_much_beside_ten_documents_as_beside_five_hundred() {
        let written = [10, 500].map(|count| {
            let directory = tempfile::tempdir().unwrap();
            let mut snapshot = holding(directory.path(), count);
            let before = size(directory.path());
            snapshot.put(key(3), document(4));
            snapshot.gone(&key(5));
            save(&mut snapshot);
            same(&snapshot, &Snapshot::open(directory.path()));
            size(directory.path()) - before
        });
        assert_eq!(written[0], written[1]);
    }

    #[test]
    fn the_file_stays_in_proportion_to_what_it_holds() {
        let directory = tempfile::tempdir().unwrap();
        let mut snapshot = holding(directory.path(), 20);
        for round in 0..200 {
            snapshot.put(key(round % 20), Document::from(&json!([round, "x".repeat(2000)])));
            snapshot.in_sync(Revision(8 + round as u64));
            save(&mut snapshot);
        }
        let (size, whole) = (size(directory.path()), snapshot.whole as u64);
        assert!(size < whole + 2 * APPENDED_LEAST as u64, "{size} bytes, {whole} of them at first");
        assert!(whole > 20 * 2000, "it was written whole since: {whole}");
        same(&snapshot, &Snapshot::open(directory.path()));
    }

    #[test]
    fn a_file_cut_short_anywhere_says_what_it_said_before_and_is_written_whole_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("snapshot.json");
        let mut snapshot = holding(directory.path(), 3);
        let at_first = size(directory.path());
        snapshot.put(key(1), document(2));
        snapshot.gone(&key(2));
        snapshot.in_sync(Revision(9));
        save(&mut snapshot);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let mut again = Snapshot::open(directory.path());
            if length as u64 >= at_first {
                let revision = if length == whole.len() { 9 } else { 7 };
                assert_eq!(again.revision, Revision(revision), "cut to {length}");
                assert!(again.get(&key(0)).is_some() && again.get(&key(1)).is_some(), "cut to {length}");
            } else {
                assert!(!again.is_known(), "the revision comes last: {length}");
            }
            let boundary = whole.get(length.saturating_sub(1)..whole.len().min(length + 1)).unwrap_or_default();
            if !boundary.contains(&b'\n') && length % 40 != 0 {
                continue; // the disk takes its time
            }
            again.put(key(1), document(2));
            again.gone(&key(2));
            again.in_sync(Revision(9));
            save(&mut again);
            let last = Snapshot::open(directory.path());
            same(&again, &last);
            assert_eq!(last.unsaved, Unsaved::default(), "no line is cut any more: {length}");
        }
    }

    #[test]
    fn what_could_not_be_appended_is_written_with_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let mut snapshot = holding(directory.path(), 3);
        std::fs::remove_file(directory.path().join("snapshot.json")).unwrap();
        snapshot.put(key(1), document(2));
        snapshot.save().unwrap();
        snapshot.finish().unwrap_err();
        save(&mut snapshot);
        same(&snapshot, &Snapshot::open(directory.path()));
    }
}

//! The embedded store: one file (redb), one process that owns it, a writer thread and pulling watches.
//!
//! Reads are snapshots beside the writer. A write is acknowledged when its transaction is on disk; writers that
//! come together share the fsync.

mod feed;
mod tables;
mod writer;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod power_tests;
#[cfg(test)]
mod tests;

use crate::document;
use crate::error::{Error, OpenError};
use crate::key;
use crate::store::{Answer, Expect, Listing, Reach, Revision, Status, Store, StoreId, Stored};
use crate::watch::Watch;
use feed::{Feed, Recent};
use lasthop_model::{Invalid, Key, Kind, Resource};
use redb::backends::FileBackend;
use redb::{Builder, Database};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;
use tables::{FORMAT, Failure, Snapshot, State, Write};
use tokio::sync::{mpsc, oneshot, watch};
use writer::{Request, Writer};

/// What a validator is asked about.
#[derive(Clone, Copy, Debug)]
pub enum Candidate<'a> {
    /// Whether a document is a valid resource. Asked before every create and update.
    Document {
        /// What names it; the document agrees.
        key: &'a Key,
        /// The document, without the store's own fields.
        document: &'a Value,
    },
    /// Whether a valid document may take the place of the stored one. Asked before every update as well.
    Replacement {
        /// What names both.
        key: &'a Key,
        /// What is stored.
        stored: &'a Value,
        /// What is to be.
        document: &'a Value,
    },
}

/// The judge of documents; says what is wrong and the fix, in one line.
pub type Validator = Arc<dyn Fn(Candidate<'_>) -> Result<(), String> + Send + Sync>;

/// How an embedded store is run.
#[derive(Clone)]
pub struct Options {
    /// Whether documents are valid resources.
    pub validator: Validator,
    /// How many deletions are kept for watches that resume; older ones list again.
    pub history: u64,
    /// Memory for pages of the file, in bytes.
    pub cache: usize,
    /// Tells the time of `creationTimestamp`.
    pub clock: fn() -> SystemTime,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("history", &self.history).field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl Options {
    /// The usual ones, with the rules of the v3 API.
    #[must_use]
    pub fn v3() -> Self {
        Self::new(Arc::new(|candidate| {
            let checked = match candidate {
                Candidate::Document { document, .. } => Resource::parse(document).map(drop),
                Candidate::Replacement { stored, document, .. } => Resource::check_update(stored, document),
            };
            // The key is told by the error around it.
            checked.map_err(|invalid| Invalid { key: None, ..invalid }.to_string())
        }))
    }

    /// The usual ones, with this judge of documents.
    #[must_use]
    pub fn new(validator: Validator) -> Self {
        Self { validator, history: 10_000, cache: 4 << 20, clock: SystemTime::now }
    }
}

/// The store in one file of this process.
#[derive(Debug)]
pub struct Embedded {
    db: Option<Arc<Database>>,
    store: StoreId,
    recent: Arc<Mutex<Recent>>,
    committed: watch::Receiver<Revision>,
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
    options: Options,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unreadable(error: &redb::Error) -> Error {
    Error::unavailable(format!("its file cannot be read: {error}"))
}

/// A version 4 UUID (RFC 9562 section 5.4).
fn fresh_uid() -> String {
    let bits = crate::random() & !(0xf << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

impl Embedded {
    /// Opens the store's file, or makes it (readable by its owner only) in a directory that exists.
    ///
    /// # Errors
    /// [`OpenError`], one line: another process owns it, it is not ours, it cannot be read or written.
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        let fail = |error: &io::Error| OpenError::File { path: path.to_owned(), reason: error.to_string() };
        if !path.try_exists().map_err(|e| fail(&e))? {
            create(path, &options)?;
        }
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| fail(&e))?;
        let (db, state) = open_file(path, file, &options)?;
        Self::start(db, state, options).map_err(|e| fail(&e))
    }

    fn start(db: Database, state: State, options: Options) -> io::Result<Self> {
        let db = Arc::new(db);
        let recent = Arc::new(Mutex::new(Recent::new(state.revision)));
        let (committed, committed_receiver) = watch::channel(state.revision);
        let (requests, receiver) = mpsc::channel(1024);
        let writer = Writer {
            db: Arc::clone(&db),
            recent: Arc::clone(&recent),
            committed,
            graves: options.history,
            clock: options.clock,
            validator: Arc::clone(&options.validator),
            revision: state.revision,
        };
        let writer = std::thread::Builder::new().name("store-writer".into()).spawn(move || writer.run(receiver))?;
        Ok(Self {
            db: Some(db),
            store: state.store,
            recent,
            committed: committed_receiver,
            requests: Some(requests),
            writer: Some(writer),
            options,
        })
    }

    /// Runs `read` over the store as it is now, off the runtime's threads.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(Snapshot) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Error> {
        let Some(db) = self.db.clone() else { return Err(Error::unavailable("it is closed")) };
        match tokio::task::spawn_blocking(move || read(Snapshot::take(&db)?)).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(Failure::Refused(error))) => Err(error),
            Ok(Err(Failure::File(error))) => Err(unreadable(&error)),
            Err(error) => Err(Error::unavailable(format!("the read was not finished: {error}"))),
        }
    }

    async fn write(&self, write: Write) -> Result<Stored, Error> {
        let (answer, answered) = oneshot::channel();
        let ended = || Error::unavailable("its writer has ended: restart the process that owns it");
        let Some(requests) = &self.requests else { return Err(ended()) };
        requests.send(Request { write, answer }).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    fn checked(&self, key: &Key, document: Value) -> Result<Value, Error> {
        if let Some(reason) = key::refuse(key) {
            return Err(Error::invalid(key, reason));
        }
        let document = document::normalise(key, document)?;
        let candidate = Candidate::Document { key, document: &document };
        (self.options.validator)(candidate).map_err(|reason| Error::invalid(key, reason))?;
        Ok(document)
    }
}

impl Store for Embedded {
    fn get<'a>(&'a self, key: &'a Key) -> Answer<'a, Stored> {
        let key = key.clone();
        Box::pin(self.read(move |snapshot| snapshot.get(&key)))
    }

    fn list(&self, kind: Option<Kind>) -> Answer<'_, Listing> {
        Box::pin(self.read(move |snapshot| {
            let (items, _) = snapshot.page(kind, None, usize::MAX)?;
            Ok(Listing { revision: snapshot.state.revision, items })
        }))
    }

    fn create(&self, key: Key, document: Value) -> Answer<'_, Stored> {
        Box::pin(async move {
            let document = self.checked(&key, document)?;
            self.write(Write::Create { key, document }).await
        })
    }

    fn update(&self, key: Key, document: Value, expect: Expect) -> Answer<'_, Stored> {
        Box::pin(async move {
            let document = self.checked(&key, document)?;
            self.write(Write::Update { key, document, expect }).await
        })
    }

    fn delete<'a>(&'a self, key: &'a Key, expect: Expect) -> Answer<'a, Stored> {
        Box::pin(self.write(Write::Delete { key: key.clone(), expect }))
    }

    fn watch(&self, from: Option<Revision>) -> Answer<'_, Watch> {
        Box::pin(async move {
            let snapshot = self
                .read(move |snapshot| {
                    from.map_or(Ok(()), |from| feed::check(&snapshot, from))?;
                    Ok(snapshot)
                })
                .await?;
            let (sender, watch) = Watch::new(2);
            let feed = Feed {
                db: self.db.as_ref().map(Arc::downgrade).unwrap_or_default(),
                recent: Arc::clone(&self.recent),
                committed: self.committed.clone(),
                sender,
            };
            match from {
                Some(from) => tokio::spawn(feed.resume_and_follow(from, snapshot.state.revision)),
                None => tokio::spawn(feed.list_and_follow(snapshot)),
            };
            Ok(watch)
        })
    }

    fn status(&self) -> Status {
        Status { store: Some(self.store), revision: *self.committed.borrow(), reach: Reach::Local }
    }
}

impl Drop for Embedded {
    /// Waits for the writes under way (one fsync), so that the file is free afterwards.
    fn drop(&mut self) {
        self.requests = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        self.db = None;
    }
}

/// Makes the file whole under another name, then gives it its own: a power cut leaves a good file or none.
fn create(path: &Path, options: &Options) -> Result<(), OpenError> {
    let fail = |error: &io::Error| OpenError::File { path: path.to_owned(), reason: error.to_string() };
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let draft = directory.join(name);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&draft);
    let made = open_file(path, file.map_err(|e| fail(&e))?, options).map(drop);
    // Not a rename: that would replace the file of a process that was faster.
    let named = made.and_then(|()| match std::fs::hard_link(&draft, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(fail(&error)),
        _ => Ok(()),
    });
    let _ = std::fs::remove_file(&draft);
    named?;
    File::open(&directory).and_then(|directory| directory.sync_all()).map_err(|e| fail(&e))
}

fn open_file(path: &Path, file: File, options: &Options) -> Result<(Database, State), OpenError> {
    let fail = |reason: String| OpenError::File { path: path.to_owned(), reason };
    let backend = FileBackend::new(file).map_err(|e| fail(e.to_string()))?;
    let opened = open_backend(backend, options);
    let (db, state) = opened.map_err(|error| match error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => OpenError::InUse(path.to_owned()),
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            fail("it is not a store file: move it away, or name another".to_owned())
        }
        error => fail(error.to_string()),
    })?;
    if state.format != FORMAT {
        return Err(OpenError::Format { path: path.to_owned(), found: state.format, expected: FORMAT });
    }
    Ok((db, state))
}

fn open_backend(backend: impl redb::StorageBackend, options: &Options) -> Result<(Database, State), redb::Error> {
    let db = Builder::new().set_cache_size(options.cache).create_with_backend(backend)?;
    let state = tables::initialise(&db, StoreId(crate::random()))?;
    Ok((db, state))
}

#[cfg(test)]
impl Embedded {
    /// A store over any storage, for simulations.
    fn open_on(backend: impl redb::StorageBackend, options: Options) -> Result<Self, redb::Error> {
        let (db, state) = open_backend(backend, &options)?;
        Ok(Self::start(db, state, options)?)
    }
}

//! Why a store did not do what it was asked: one type, one line each, with the values and the way out.

use crate::Revision;
use lasthop_model::Key;
use std::path::PathBuf;
use std::time::Duration;

/// Why a request to a store failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such resource.
    #[error("{0} does not exist")]
    NotFound(Key),
    /// A resource of that name is there already.
    #[error("{key} exists already (revision {revision}): update it, or delete it first")]
    Exists {
        /// Which.
        key: Key,
        /// Its revision.
        revision: Revision,
    },
    /// Somebody else changed the resource in between.
    #[error("{key} was changed meanwhile: revision {expected} was expected, {actual} is stored; read it and try again")]
    Conflict {
        /// Which.
        key: Key,
        /// What the writer had read.
        expected: Revision,
        /// What is stored.
        actual: Revision,
    },
    /// The changes since that revision are not kept any more, or it is of another store: list again.
    #[error("changes since revision {from} are not kept (kept: {oldest} to {newest}): list again")]
    TooOld {
        /// From where the watch was to resume.
        from: Revision,
        /// From where it could.
        oldest: Revision,
        /// The store's revision.
        newest: Revision,
    },
    /// The store cannot be asked now. Nothing was written.
    #[error("store unavailable: {reason}{}", again(.retry))]
    Unavailable {
        /// Why.
        reason: String,
        /// When a further try makes sense, if one does.
        retry: Option<Duration>,
    },
    /// The connection was lost between a write and its answer.
    #[error("the answer to the write of {key} was lost ({reason}): it may have been made; read it and try again")]
    Uncertain {
        /// What was written.
        key: Key,
        /// Why there is no answer.
        reason: String,
    },
    /// The document is not a valid resource.
    #[error("{key} is not valid: {reason}")]
    Invalid {
        /// Which.
        key: Key,
        /// What is wrong, and the fix.
        reason: String,
    },
    /// Who asks may not do that.
    #[error("denied: {0}")]
    Denied(String),
}

fn again(retry: &Option<Duration>) -> String {
    retry.map_or_else(String::new, |after| format!("; next try in {:.1} s", after.as_secs_f64()))
}

impl Error {
    /// Unavailable, with no idea when that changes.
    pub(crate) fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into(), retry: None }
    }

    /// The document of `key` is not valid.
    pub(crate) fn invalid(key: &Key, reason: impl Into<String>) -> Self {
        Self::Invalid { key: key.clone(), reason: reason.into() }
    }
}

/// Why the embedded store's file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process owns the file.
    #[error("store file {0} is in use by another process: stop it, or reach the store through its server")]
    InUse(PathBuf),
    /// The file is not one of ours, or one of a later version.
    #[error("store file {path} has format {found}, this version reads {expected}: use the version that wrote it")]
    Format {
        /// The file.
        path: PathBuf,
        /// The format it has.
        found: u64,
        /// The format we read and write.
        expected: u64,
    },
    /// The file could not be opened, read or written.
    #[error("store file {path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

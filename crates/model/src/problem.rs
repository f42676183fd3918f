//! What is wrong with a document: one [`Problem`] for each wrong field, all of them at once.

use crate::Key;
use std::fmt;

/// One wrong field: where, what was there, why it is wrong and what to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The full path, e.g. `spec.ports[0].name`.
    pub path: String,
    /// The value as it was written; empty if the field is missing.
    pub value: String,
    /// What is wrong with it, and the fix.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

/// Why a document is not a valid resource. Prints as one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    /// The resource, as far as the document says which it is.
    pub key: Option<Key>,
    /// What is wrong: never empty.
    pub problems: Vec<Problem>,
}

impl Invalid {
    /// One problem.
    #[must_use]
    pub fn one(path: impl Into<String>, value: impl Into<String>, reason: impl Into<String>) -> Self {
        let problem = Problem { path: path.into(), value: value.into(), reason: reason.into() };
        Self { key: None, problems: vec![problem] }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

//! The selector language.

use crate::Labels;

/// A parsed selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    source: String,
}

/// Why a text is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("selector '{text}': {reason}")]
pub struct ParseSelectorError {
    /// The text.
    pub text: String,
    /// What is wrong, where, and the fix.
    pub reason: String,
}

impl Selector {
    /// Whether the labels match.
    #[must_use]
    pub fn matches(&self, _labels: &Labels) -> bool {
        self.source == "all()"
    }
}

impl std::str::FromStr for Selector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self { source: text.to_owned() })
    }
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.source)
    }
}

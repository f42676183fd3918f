//! A resource as the store has it, kept as text: a fifth of the room that the parsed value takes, and copies share it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::sync::Arc;

/// A JSON document. Equal documents have equal text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document(Arc<str>);

impl Document {
    /// The document as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The document as a value.
    pub(crate) fn value(&self) -> Value {
        // It was a value before it was text.
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

impl From<&Value> for Document {
    fn from(value: &Value) -> Self {
        Self(value.to_string().into())
    }
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(out)
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Value::deserialize(input).map(|value| Self::from(&value))
    }
}

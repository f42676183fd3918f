//! Reading values out of a document that fits its shape.
//!
//! A value that is absent, null, empty text, or wrong (and noted as such by the check) reads as `None`.

use serde_json::Value;
use std::str::FromStr;
use std::time::Duration;

/// A place in a document: its value and its path.
#[derive(Clone, Debug)]
pub(crate) struct Spot<'a> {
    pub(crate) value: &'a Value,
    pub(crate) path: String,
}

impl<'a> Spot<'a> {
    /// The whole document.
    pub(crate) fn root(value: &'a Value) -> Self {
        Self { value, path: String::new() }
    }

    /// The field of that name, if it is set.
    pub(crate) fn get(&self, name: &str) -> Option<Self> {
        let value = self.value.get(name)?;
        let empty = value.is_null() || value.as_str() == Some("");
        (!empty).then(|| Self { value, path: super::shape::join(&self.path, name) })
    }

    /// The path of a field, set or not.
    pub(crate) fn path_of(&self, name: &str) -> String {
        super::shape::join(&self.path, name)
    }

    /// The entries of the list of that name; none if it is not set.
    pub(crate) fn items(&self, name: &str) -> Vec<Self> {
        let path = self.path_of(name);
        let list = self.value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        list.iter().enumerate().map(|(i, value)| Self { value, path: format!("{path}[{i}]") }).collect()
    }

    /// The text of that field.
    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.value.as_str()
    }

    /// The field's text or number, parsed.
    pub(crate) fn parse<T: FromStr>(&self, name: &str) -> Option<T> {
        let spot = self.get(name)?;
        match spot.value {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) => number.to_string().parse().ok(),
            _ => None,
        }
    }

    /// The field's number.
    pub(crate) fn number<T: TryFrom<u64>>(&self, name: &str) -> Option<T> {
        self.get(name)?.value.as_u64().and_then(|n| T::try_from(n).ok())
    }

    /// The field's truth; false if not set.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.value.get(name).and_then(Value::as_bool).unwrap_or_default()
    }

    /// The field's duration.
    pub(crate) fn duration(&self, name: &str) -> Option<Duration> {
        self.text(name).and_then(|text| crate::parse_duration(text).ok())
    }
}

//! One mapping of the configuration file, with what is needed to say where a mistake is.

use serde_json::{Map, Value};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// A mistake at a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key, from the top: `store.server`.
    pub field: String,
    /// What is wrong, and the fix.
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(&self.reason) } else { write!(f, "{}: {}", self.field, self.reason) }
    }
}

/// A mapping whose keys are all known.
pub(super) struct Section<'a> {
    at: String,
    fields: &'a Map<String, Value>,
    directory: &'a Path,
}

impl<'a> Section<'a> {
    /// Takes `value`, found at the key `at`, as a mapping that has no other than the `known` keys.
    pub(super) fn open(at: &str, value: &'a Value, known: &[&str], directory: &'a Path) -> Result<Self, Fault> {
        let Value::Object(fields) = value else {
            let reason = format!("expected a mapping of keys ({}), found {}", known.join(", "), kind_of(value));
            return Err(Fault { field: at.to_owned(), reason });
        };
        let section = Self { at: at.to_owned(), fields, directory };
        match fields.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(section.fault(key, suggestion(key, known))),
            None => Ok(section),
        }
    }

    /// A mistake at one of this mapping's keys.
    pub(super) fn fault(&self, key: &str, reason: impl ToString) -> Fault {
        let field = if self.at.is_empty() { key.to_owned() } else { format!("{}.{key}", self.at) };
        Fault { field, reason: reason.to_string() }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub(super) fn section(&self, key: &str, known: &[&str]) -> Result<Option<Section<'a>>, Fault> {
        let at = self.fault(key, "").field;
        self.get(key).map(|value| Section::open(&at, value, known, self.directory)).transpose()
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, Fault> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => {
                Err(self.fault(key, "is empty: give a value or leave it out"))
            }
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.fault(key, format!("expected a text, found {}; put it in quotes", kind_of(other)))),
        }
    }

    pub(super) fn truth(&self, key: &str) -> Result<Option<bool>, Fault> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(*truth)),
            Some(other) => Err(self.fault(key, format!("expected true or false, found {}", kind_of(other)))),
        }
    }

    pub(super) fn path(&self, key: &str) -> Result<Option<PathBuf>, Fault> {
        Ok(self.text(key)?.map(|text| self.directory.join(text)))
    }

    pub(super) fn required_path(&self, key: &str) -> Result<PathBuf, Fault> {
        self.path(key)?.ok_or_else(|| self.fault(key, "is missing: name the PEM file (made by 'lasthop certs')"))
    }

    pub(super) fn socket(&self, key: &str) -> Result<Option<SocketAddr>, Fault> {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                self.fault(key, format!("'{text}' is not ADDRESS:PORT, such as 0.0.0.0:7470 or [::]:7470"))
            })
        };
        self.text(key)?.map(parse).transpose()
    }

    pub(super) fn required_socket(&self, key: &str) -> Result<SocketAddr, Fault> {
        self.socket(key)?.ok_or_else(|| self.fault(key, "is missing: give ADDRESS:PORT, such as 0.0.0.0:7470"))
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<Option<T>, Fault> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match choices.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(Some(*value)),
            None => {
                let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
                Err(self.fault(key, format!("'{text}' is not one of {}", words.join(", "))))
            }
        }
    }
}

/// Checks `HOST:PORT` (the host an address, an IPv6 one in brackets, or a name).
///
/// # Errors
/// What is wrong, and the fix.
pub fn host_and_port(text: &str) -> Result<(), String> {
    let fix = || format!("'{text}' is not HOST:PORT, such as 172.18.203.3:7470 or [fd00::3]:7470");
    let (host, port) = text.rsplit_once(':').ok_or_else(fix)?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let sound = !host.is_empty() && (bracketed || !host.contains([':', '[', ']', '/', ' ']));
    let bracketed_right = !bracketed || text.parse::<SocketAddr>().is_ok();
    if sound && bracketed_right && port.parse::<u16>().is_ok_and(|port| port > 0) { Ok(()) } else { Err(fix()) }
}

fn suggestion(key: &str, known: &[&str]) -> String {
    let near = known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(&key.to_lowercase(), &word.to_lowercase()), *word))
        .filter(|(distance, word)| *distance <= 2.max(word.len() / 3))
        .min();
    match near {
        Some((_, word)) => format!("unknown key: did you mean '{word}'?"),
        None => format!("unknown key: the keys here are {}", known.join(", ")),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

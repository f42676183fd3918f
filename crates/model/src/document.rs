//! Texts with resources in them, and back: YAML of several documents, JSON, lists.
//!
//! A document remembers where it came from, so that a problem found later can be told with file and line.

use crate::v3::shape::{Shape, join};
use crate::{Invalid, Kind, Resource, v3};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::{Map, Value};
use serde_saphyr::granit_parser::{Event, Parser};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A resource as it stands in a text.
#[derive(Clone, Debug)]
pub struct Document {
    /// What it says.
    pub value: Value,
    /// The file's name, or `-`.
    pub origin: Arc<str>,
    /// Its number in the text, from 1.
    pub number: usize,
    /// Its place in a list, from 0, if it stands in one.
    pub item: Option<usize>,
    text: Arc<str>,
}

/// Why a text holds no documents. Prints as one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}{}: {reason}", line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct ReadError {
    /// The file's name, or `-`.
    pub origin: String,
    /// The line, from 1, where known.
    pub line: Option<u64>,
    /// What is wrong.
    pub reason: String,
}

/// Longest text that is read.
const TEXT_LIMIT: usize = 256 << 20;

/// Reads all documents of a text: YAML or JSON, one or many, lists (`kind: List`, `kind: IPPoolList`) taken
/// apart. Empty documents are skipped. `origin` is the file's name.
///
/// # Errors
/// If the text is neither YAML nor JSON, or a list has no items.
pub fn read_documents(text: &str, origin: &str) -> Result<Vec<Document>, ReadError> {
    let wrong = |line, reason: String| ReadError { origin: origin.to_owned(), line, reason };
    if text.len() > TEXT_LIMIT {
        return Err(wrong(None, format!("is {} bytes long; at most {TEXT_LIMIT} are read", text.len())));
    }
    let values = match json(text) {
        Some(values) => values,
        None => yaml(text).map_err(|(line, reason)| wrong(line, reason))?,
    };
    let whole: Arc<str> = text.into();
    let mut documents = Vec::new();
    for (i, value) in values.into_iter().enumerate() {
        let number = i + 1;
        let document = |value, item| Document { value, origin: origin.into(), number, item, text: whole.clone() };
        match list_of(&value) {
            None => documents.push(document(value, None)),
            Some(kind) => {
                let version = value.get("apiVersion").cloned();
                let Some(Value::Array(items)) = value.get("items").cloned() else {
                    let line = document(value, None).line("kind");
                    return Err(wrong(line, "items: is missing; a list needs a list of resources there".to_owned()));
                };
                for (i, mut item) in items.into_iter().enumerate() {
                    if let (Some(kind), Some(object)) = (&kind, item.as_object_mut()) {
                        object.entry("kind").or_insert_with(|| kind.clone().into());
                        object.entry("apiVersion").or_insert_with(|| version.clone().unwrap_or_default());
                    }
                    documents.push(document(item, Some(i)));
                }
            }
        }
    }
    Ok(documents)
}

/// `Some` if this is a list: the kind of its items, if its own kind says so.
fn list_of(value: &Value) -> Option<Option<String>> {
    let of = value.get("kind")?.as_str()?.strip_suffix("List")?;
    Some((!of.is_empty()).then(|| of.to_owned()))
}

/// Documents of a JSON text; `None` if it is none.
fn json(text: &str) -> Option<Vec<Value>> {
    if !text.trim_start().starts_with(['{', '[']) {
        return None;
    }
    serde_json::Deserializer::from_str(text).into_iter().collect::<Result<_, _>>().ok()
}

fn yaml(text: &str) -> Result<Vec<Value>, (Option<u64>, String)> {
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    let values: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let line = error.location().map(|location| location.line());
        let reason = error.without_snippet().to_string();
        let reason = reason.lines().next().unwrap_or_default().trim_end_matches(':');
        // The line is told once, before the reason.
        let reason = reason.split(" at line ").next().unwrap_or(reason);
        (line, format!("is not valid YAML: {reason}"))
    })?;
    Ok(values.into_iter().filter(|value| !value.is_null()).collect())
}

impl Document {
    /// Reads the resource.
    ///
    /// # Errors
    /// See [`Resource::parse`]; [`Self::lines`] gives the problems with file and line.
    pub fn parse(&self) -> Result<Resource, Invalid> {
        Resource::parse(&self.value)
    }

    /// Where it stands: file, and document and item where there can be several.
    #[must_use]
    pub fn place(&self) -> String {
        let item = self.item.map(|item| format!(", items[{item}]")).unwrap_or_default();
        format!("{}: document {}{item}", self.origin, self.number)
    }

    /// The problems of this document, a line each: file, line where known, resource, field, what is wrong, the fix.
    #[must_use]
    pub fn lines(&self, invalid: &Invalid) -> Vec<String> {
        let lines = self.all_lines();
        let told = |problem: &crate::Problem| {
            let place = match self.find(&lines, &problem.path) {
                Some(line) => format!("{}:{line}", self.origin),
                None => self.place(),
            };
            match &invalid.key {
                Some(key) => format!("{place}: {key}: {problem}"),
                None => format!("{place}: {problem}"),
            }
        };
        invalid.problems.iter().map(told).collect()
    }

    /// The line (from 1) of a field, or of the nearest one around it.
    #[must_use]
    pub fn line(&self, path: &str) -> Option<u64> {
        self.find(&self.all_lines(), path)
    }

    fn find(&self, lines: &BTreeMap<String, u64>, path: &str) -> Option<u64> {
        let base = self.item.map(|item| format!("items[{item}]")).unwrap_or_default();
        let mut path = match (base.is_empty(), path) {
            (true, path) => path.to_owned(),
            (false, path) => format!("{base}.{path}"),
        };
        // Keys of the user's choice are printed in brackets.
        for (i, _) in path.clone().match_indices('[') {
            if path[i + 1..].starts_with(|c: char| !c.is_ascii_digit()) && path.ends_with(']') {
                path = format!("{}.{}", &path[..i], &path[i + 1..path.len() - 1]);
                break;
            }
        }
        loop {
            if let Some(line) = lines.get(&path) {
                return Some(*line);
            }
            match path.rfind(['.', '[']) {
                Some(end) => path.truncate(end),
                None => return lines.get("").copied(),
            }
        }
    }

    /// The line of every field of this document, by path. Worth it only when there is something to tell.
    fn all_lines(&self) -> BTreeMap<String, u64> {
        let mut lines = BTreeMap::new();
        let mut number = 0;
        let mut stack: Vec<Frame> = Vec::new();
        for next in Parser::new_from_str(&self.text) {
            let Ok((event, span)) = next else { break };
            let (place, opens) = match &event {
                Event::DocumentStart(..) => {
                    stack.clear();
                    continue;
                }
                Event::Scalar(text, ..) if stack.is_empty() && matches!(&**text, "" | "~" | "null") => continue,
                Event::Scalar(text, ..) => (place(&mut stack, Some(text)), None),
                Event::Alias(_) => (place(&mut stack, None), None),
                Event::SequenceStart(..) => {
                    (place(&mut stack, None), Some(Frame::List { next: 0, path: String::new() }))
                }
                Event::MappingStart(..) => {
                    (place(&mut stack, None), Some(Frame::Table { key: None, path: String::new() }))
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    stack.pop();
                    continue;
                }
                _ => continue,
            };
            if stack.is_empty() {
                number += 1;
            }
            if number == self.number
                && let Some(path) = &place
            {
                let line = u64::try_from(span.start.line()).unwrap_or_default();
                lines.entry(path.clone()).or_insert(line);
            }
            if let Some(frame) = opens {
                stack.push(frame.at(place.unwrap_or_default()));
            }
        }
        lines
    }
}

/// Where the walk over a text is.
enum Frame {
    List { next: usize, path: String },
    Table { key: Option<String>, path: String },
}

impl Frame {
    fn at(self, path: String) -> Self {
        match self {
            Self::List { next, .. } => Self::List { next, path },
            Self::Table { key, .. } => Self::Table { key, path },
        }
    }
}

/// The path of the node that comes next; `None` if it is a key (whose line counts for its value).
fn place(stack: &mut [Frame], scalar: Option<&str>) -> Option<String> {
    match stack.last_mut() {
        None => Some(String::new()),
        Some(Frame::List { next, path }) => {
            *next += 1;
            Some(format!("{path}[{}]", *next - 1))
        }
        Some(Frame::Table { key, path }) => match key.take() {
            Some(name) => Some(join(path, &name)),
            None => {
                *key = Some(scalar.unwrap_or_default().to_owned());
                None
            }
        },
    }
}

/// A value whose fields are written in the order of the API: names first, then as the tables have them.
struct InOrder<'a> {
    value: &'a Value,
    shape: Option<&'a Shape>,
}

impl Serialize for InOrder<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.value, self.shape) {
            (Value::Object(object), shape) => {
                let fields = match shape {
                    Some(Shape::Table(fields)) => *fields,
                    _ => &[],
                };
                let known =
                    fields.iter().filter_map(|field| Some((field.name, object.get(field.name)?, Some(&field.shape))));
                let inner = match shape {
                    Some(Shape::Map(_, shape)) => Some(*shape),
                    _ => None,
                };
                let others = object.iter().filter(|(name, _)| !fields.iter().any(|field| field.name == *name));
                let mut map = serializer.serialize_map(Some(object.len()))?;
                for (name, value, shape) in known.chain(others.map(|(name, value)| (name.as_str(), value, inner))) {
                    map.serialize_entry(name, &InOrder { value, shape })?;
                }
                map.end()
            }
            (Value::Array(items), shape) => {
                let shape = match shape {
                    Some(Shape::List(_, shape)) => Some(*shape),
                    _ => None,
                };
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for value in items {
                    list.serialize_element(&InOrder { value, shape })?;
                }
                list.end()
            }
            (scalar, _) => scalar.serialize(serializer),
        }
    }
}

fn in_order<T>(document: &Value, write: impl Fn(&InOrder<'_>) -> T) -> T {
    let kind = document.get("kind").and_then(Value::as_str).and_then(|kind| Kind::from_document(kind).ok());
    let shape = kind.map(v3::shape_of);
    write(&InOrder { value: document, shape: shape.as_ref() })
}

/// A document as YAML, its fields in the order of the API, ending in a line break.
#[must_use]
pub fn to_yaml(document: &Value) -> String {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let text = in_order(document, |value| serde_saphyr::to_string_with_options(value, options.clone()));
    // JSON is YAML too.
    text.unwrap_or_else(|_| format!("{document}\n"))
}

/// A document as indented JSON, its fields in the order of the API, ending in a line break.
#[must_use]
pub fn to_json(document: &Value) -> String {
    let text = in_order(document, |value| serde_json::to_string_pretty(value));
    text.unwrap_or_else(|_| document.to_string()) + "\n"
}

/// Many documents as one `kind: List`.
#[must_use]
pub fn to_list(documents: Vec<Value>) -> Value {
    let mut list = Map::new();
    list.insert("apiVersion".into(), v3::API_VERSION.into());
    list.insert("kind".into(), "List".into());
    list.insert("items".into(), documents.into());
    Value::Object(list)
}

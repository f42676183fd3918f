//! Texts with resources in them, and back: YAML of several documents, JSON, lists.
//!
//! A document remembers where it came from, so that a problem found later can be told with file and line.

use crate::v3::shape::{Field, Shape, field, join};
use crate::{Invalid, Key, Kind, Resource, v3};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::{Map, Value};
use serde_saphyr::granit_parser::{Event, Parser};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

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
    source: Arc<Source>,
}

/// A text, and the lines of its fields once somebody asked: by document, by path.
#[derive(Debug)]
struct Source {
    text: String,
    lines: OnceLock<Vec<Lines>>,
}

type Lines = BTreeMap<String, u64>;

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
        Some(Ok(values)) => values,
        Some(Err(error)) if origin.ends_with(".json") => {
            let (line, told) = (u64::try_from(error.line()).ok(), error.to_string());
            let told = told.split(" at line ").next().unwrap_or(&told);
            return Err(wrong(line, format!("is not valid JSON: {told}")));
        }
        _ => yaml(text).map_err(|(line, reason)| wrong(line, reason))?,
    };
    let source = Arc::new(Source { text: text.to_owned(), lines: OnceLock::new() });
    let mut documents = Vec::new();
    for (i, value) in values.into_iter().enumerate() {
        let number = i + 1;
        let document = |value, item| Document { value, origin: origin.into(), number, item, source: source.clone() };
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

/// Documents of a JSON text; `None` if it does not begin like one.
fn json(text: &str) -> Option<serde_json::Result<Vec<Value>>> {
    let json = text.trim_start().starts_with(['{', '[']);
    json.then(|| serde_json::Deserializer::from_str(text).into_iter().collect())
}

fn yaml(text: &str) -> Result<Vec<Value>, (Option<u64>, String)> {
    // Sizes are limited by the text's own length; what aliases unfold to, and depth, by the reader's limits.
    let budget = serde_saphyr::budget! {
        max_events: TEXT_LIMIT,
        max_nodes: TEXT_LIMIT,
        max_documents: TEXT_LIMIT,
        max_total_scalar_bytes: TEXT_LIMIT,
        max_total_comment_bytes: TEXT_LIMIT,
    };
    let options = serde_saphyr::options! { budget: budget, strict_booleans: true, with_snippet: false };
    let values: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let line = error.location().map(|location| location.line());
        let told = error.without_snippet().to_string();
        let told = told.lines().next().unwrap_or_default().trim_end_matches(':');
        // The line is told once, before the reason.
        let told = told.split(" at line ").next().unwrap_or(told);
        (line, format!("is not valid YAML: {}", reword(told)))
    })?;
    Ok(values.into_iter().filter(|value| !value.is_null()).collect())
}

/// The reader speaks to programmers; users get their own words.
fn reword(told: &str) -> Cow<'_, str> {
    if let Some(rest) = told.strip_prefix("duplicate mapping key: ") {
        let key = rest.split(", set ").next().unwrap_or(rest);
        return format!("the field '{key}' is written twice; keep one of them").into();
    }
    if told.contains("found a tab") {
        return "there is a tab in the indentation; use spaces".into();
    }
    if told.starts_with("cannot deserialize null into string") || told.starts_with("expected string scalar") {
        return "a field has no name, or one that is not plain text".into();
    }
    if told.starts_with("recursive references") {
        return "an alias stands within what it refers to".into();
    }
    if told.starts_with("budget breached") || told.starts_with("alias replay") {
        return "it is nested too deeply, or its aliases unfold to too much".into();
    }
    told.into()
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

    /// The problems of this document, a line each and in the order of the text: file, line where known,
    /// resource, field, what is wrong, the fix.
    #[must_use]
    pub fn lines(&self, invalid: &Invalid) -> Vec<String> {
        let told = invalid.problems.iter().map(|problem| (problem.path.as_str(), problem.to_string()));
        self.tell(invalid.key.as_ref(), told.collect())
    }

    /// The fields that are accepted and have no effect, a line each.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        let notices = v3::without_effect(&self.value);
        let told = notices.iter().map(|notice| (notice.path.as_str(), notice.to_string()));
        self.tell(Key::of(&self.value).ok().as_ref(), told.collect())
    }

    fn tell(&self, key: Option<&Key>, mut told: Vec<(&str, String)>) -> Vec<String> {
        if told.is_empty() {
            return Vec::new();
        }
        told.sort_by_key(|(path, _)| self.line(path));
        let line = |(path, text): (&str, String)| {
            let place = match self.line(path) {
                Some(line) => format!("{}:{line}", self.origin),
                None => self.place(),
            };
            match key {
                Some(key) => format!("{place}: {key}: {text}"),
                None => format!("{place}: {text}"),
            }
        };
        told.into_iter().map(line).collect()
    }

    /// The line (from 1) of a field, or of the nearest one around it; of the document itself if `path` is empty.
    #[must_use]
    pub fn line(&self, path: &str) -> Option<u64> {
        let lines = self.source.lines.get_or_init(|| lines_of(&self.source.text));
        let lines = lines.get(self.number.checked_sub(1)?)?;
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
}

/// The line of every field of every document. Worth it only when there is something to tell.
fn lines_of(text: &str) -> Vec<Lines> {
    let mut documents: Vec<Lines> = Vec::new();
    let mut stack: Vec<Frame> = Vec::new();
    for next in Parser::new_from_str(text) {
        let Ok((event, span)) = next else { break };
        let (place, opens) = match &event {
            Event::DocumentStart(..) => {
                stack.clear();
                continue;
            }
            Event::Scalar(text, ..) if stack.is_empty() && matches!(&**text, "" | "~" | "null") => continue,
            Event::Scalar(text, ..) => (place(&mut stack, Some(text)), None),
            Event::Alias(_) => (place(&mut stack, None), None),
            Event::SequenceStart(..) => (place(&mut stack, None), Some(Frame::List { next: 0, path: String::new() })),
            Event::MappingStart(..) => (place(&mut stack, None), Some(Frame::Table { key: None, path: String::new() })),
            Event::SequenceEnd | Event::MappingEnd => {
                stack.pop();
                continue;
            }
            _ => continue,
        };
        if stack.is_empty() {
            documents.push(Lines::new());
        }
        if let (Some(lines), Some(path)) = (documents.last_mut(), &place) {
            let line = u64::try_from(span.start.line()).unwrap_or_default();
            lines.entry(path.clone()).or_insert(line);
        }
        if let Some(frame) = opens {
            stack.push(frame.at(place.unwrap_or_default()));
        }
    }
    documents
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

/// Fields of a list of resources.
const LIST: &[Field] = &[
    field("apiVersion", Shape::Free),
    field("kind", Shape::Free),
    field("metadata", Shape::Free),
    field("items", Shape::Free),
];

/// The fields of an object, in their order: by its shape, or by the kind that it says it is.
fn fields_of(object: &Map<String, Value>, shape: Option<&Shape>) -> &'static [Field] {
    match (shape, object.get("kind").and_then(Value::as_str)) {
        (Some(Shape::Table(fields)), _) => fields,
        (None | Some(Shape::Free), Some("List")) => LIST,
        (None | Some(Shape::Free), Some(kind)) => {
            let version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
            Kind::from_document(kind, version).map(v3::fields_of).unwrap_or_default()
        }
        _ => &[],
    }
}

impl Serialize for InOrder<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.value, self.shape) {
            (Value::Object(object), shape) => {
                let fields = fields_of(object, shape);
                let inner = match shape {
                    Some(Shape::Map(_, shape)) => Some(*shape),
                    _ => None,
                };
                let known =
                    fields.iter().filter_map(|field| Some((field.name, object.get(field.name)?, Some(&field.shape))));
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

/// A document as YAML, its fields in the order of the API, ending in a line break.
#[must_use]
pub fn to_yaml(document: &Value) -> String {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let text = serde_saphyr::to_string_with_options(&InOrder { value: document, shape: None }, options);
    // JSON is YAML too.
    text.unwrap_or_else(|_| format!("{document}\n"))
}

/// A document as indented JSON, its fields in the order of the API, ending in a line break.
#[must_use]
pub fn to_json(document: &Value) -> String {
    let text = serde_json::to_string_pretty(&InOrder { value: document, shape: None });
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

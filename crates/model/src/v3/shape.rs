//! Shapes: what a field may hold, as data. One walk over a document finds everything that does not
//! fit: unknown fields, missing ones, wrong types, wrong values.

use crate::{Problem, suggest};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt::Write as _;

/// Checks a text that is not empty; the error says what is wrong with it and what to write.
pub(crate) type TextCheck = fn(&str) -> Result<(), String>;

/// What a field may hold.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    /// `true` or `false`.
    Truth,
    /// A whole number from … to ….
    Integer(i64, i64),
    /// Any number.
    Number,
    /// Any text.
    Text,
    /// Text that passes a check.
    Checked(TextCheck),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// One of these words, in any case.
    AnyCase(&'static [&'static str]),
    /// An AS number: a whole number, or text.
    Asn,
    /// A whole number, or text: either way one that passes a check, and in words.
    Scalar(TextCheck, &'static str),
    /// A list of at most so many.
    List(usize, &'static Shape),
    /// Fields.
    Table(&'static [Field]),
    /// Keys of the user's choice, each passing a check.
    Map(TextCheck, &'static Shape),
    /// Anything.
    Free,
}

/// Whether a field must be there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Optional,
    Required,
}

/// What a field brings about.
#[derive(Clone, Copy)]
pub(crate) enum Effect {
    /// What the API says.
    InForce,
    /// Nothing yet: accepted and kept in the document.
    NotYet,
    /// Nothing yet, but this value asks for nothing either.
    NotYetUnless(&'static str),
    /// Nothing, and never will: this program has no such thing.
    Moot,
    /// It cannot be honoured, and what it stands in is read in the stricter way.
    Closed,
}

/// A field of a table.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) need: Need,
    pub(crate) effect: Effect,
}

/// A field that is in force.
pub(crate) const fn field(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, need: Need::Optional, effect: Effect::InForce }
}

/// A field that is accepted, without effect yet.
pub(crate) const fn idle(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, need: Need::Optional, effect: Effect::NotYet }
}

impl Field {
    /// The same, but it must be there.
    pub(crate) const fn required(self) -> Self {
        Self { need: Need::Required, ..self }
    }

    /// The same, with a value that asks for nothing.
    pub(crate) const fn unless(self, value: &'static str) -> Self {
        Self { effect: Effect::NotYetUnless(value), ..self }
    }

    /// The same, read in the stricter way.
    pub(crate) const fn closed(self) -> Self {
        Self { effect: Effect::Closed, ..self }
    }

    /// The same, without effect for good.
    pub(crate) const fn moot(self) -> Self {
        Self { effect: Effect::Moot, ..self }
    }
}

/// Walks documents and collects problems.
#[derive(Default)]
pub(crate) struct Checker {
    pub(crate) problems: Vec<Problem>,
}

impl Checker {
    /// Notes a problem.
    pub(crate) fn add(&mut self, path: &str, value: Option<&Value>, reason: impl Into<String>) {
        let value = value.map(show).unwrap_or_default();
        self.problems.push(Problem { path: path.to_owned(), value, reason: reason.into() });
    }

    /// Checks the fields of an object. Nulls and empty texts count as absent.
    pub(crate) fn table(&mut self, path: &str, object: &Map<String, Value>, fields: &'static [Field]) {
        for (name, value) in object {
            let here = join(path, name);
            match fields.iter().find(|field| field.name == name) {
                Some(_) if value.is_null() || value.as_str() == Some("") => {}
                Some(field) => self.value(&here, value, &field.shape),
                None => {
                    let names: Vec<&str> = fields.iter().map(|field| field.name).collect();
                    let place = if path.is_empty() { "a resource".to_owned() } else { format!("'{path}'") };
                    let hint = suggest::hint(name, &names);
                    self.add(&here, Some(value), format!("{place} has no field '{}'{hint}", shorten(name)));
                }
            }
        }
        for field in fields.iter().filter(|field| field.need == Need::Required) {
            if object.get(field.name).is_none_or(|value| value.is_null() || value.as_str() == Some("")) {
                let reason = match &field.shape {
                    Shape::Text | Shape::Checked(_) => "is missing and must be set".to_owned(),
                    shape => format!("is missing; write {}", describe(shape)),
                };
                self.add(&join(path, field.name), None, reason);
            }
        }
    }

    /// Checks one value.
    pub(crate) fn value(&mut self, path: &str, value: &Value, shape: &'static Shape) {
        match (shape, value) {
            (Shape::Free, _)
            | (Shape::Truth, Value::Bool(_))
            | (Shape::Number, Value::Number(_))
            | (Shape::Text, Value::String(_)) => {}
            (Shape::Integer(from, to), Value::Number(number)) => {
                let fits = number.as_i64().is_some_and(|n| (*from..=*to).contains(&n));
                if !fits {
                    self.add(path, Some(value), format!("{number} is out of range; write {}", describe(shape)));
                }
            }
            (Shape::Checked(check), Value::String(text)) => {
                if let Err(reason) = check(text) {
                    self.add(path, Some(value), reason);
                }
            }
            (Shape::OneOf(words), Value::String(text)) => {
                if !words.contains(&text.as_str()) {
                    self.add(path, Some(value), not_one_of(text, words));
                }
            }
            (Shape::AnyCase(words), Value::String(text)) => {
                if !words.iter().any(|word| word.eq_ignore_ascii_case(text)) {
                    self.add(path, Some(value), not_one_of(text, words));
                }
            }
            (Shape::Asn, Value::String(_) | Value::Number(_)) => self.asn(path, value),
            (Shape::Scalar(check, _), Value::String(_) | Value::Number(_)) => {
                if let Err(reason) = check(&plain(value)) {
                    self.add(path, Some(value), reason);
                }
            }
            (Shape::List(most, shape), Value::Array(items)) => {
                if items.len() > *most {
                    self.add(path, None, format!("has {} entries; at most {most} are allowed", items.len()));
                }
                for (i, item) in items.iter().enumerate() {
                    self.value(&format!("{path}[{i}]"), item, shape);
                }
            }
            (Shape::Table(fields), Value::Object(object)) => self.table(path, object, fields),
            (Shape::Map(check, shape), Value::Object(object)) => {
                for (key, value) in object {
                    let here = format!("{path}[{}]", shorten(key));
                    if let Err(reason) = check(key) {
                        self.add(&here, Some(&Value::String(key.clone())), reason);
                    }
                    self.value(&here, value, shape);
                }
            }
            _ => self.wrong_type(path, value, shape),
        }
    }

    fn asn(&mut self, path: &str, value: &Value) {
        if value.is_f64() {
            let reason = format!("{value} is not an AS number; write a dotted one in quotes, e.g. \"1.10\"");
            self.add(path, Some(value), reason);
        } else if let Err(error) = shorten(&plain(value)).parse::<lasthop_net::Asn>() {
            self.add(path, Some(value), error.to_string());
        }
    }

    fn wrong_type(&mut self, path: &str, value: &Value, shape: &Shape) {
        let wanted = describe(shape);
        let reason = match (shape, value) {
            (
                Shape::Text | Shape::Checked(_) | Shape::OneOf(_) | Shape::AnyCase(_),
                Value::Number(_) | Value::Bool(_),
            ) => {
                format!("{value} is {}, but {wanted} is needed; put it in quotes", type_of(value))
            }
            (Shape::Integer(..) | Shape::Number | Shape::Truth, Value::String(text)) => {
                format!("'{}' is text; write {wanted} (no quotes)", shorten(text))
            }
            _ => format!("is {}; write {wanted}", type_of(value)),
        };
        self.add(path, Some(value), reason);
    }
}

fn not_one_of(text: &str, words: &[&str]) -> String {
    let mut reason = format!("'{}' is not one of {}", shorten(text), words.join(", "));
    if let Some(near) = suggest::closest(text, words.iter().copied()) {
        let _ = write!(reason, "; did you mean '{near}'?");
    }
    reason
}

fn describe(shape: &Shape) -> Cow<'static, str> {
    match shape {
        Shape::Truth => "true or false".into(),
        Shape::Integer(from, to) => format!("a whole number from {from} to {to}").into(),
        Shape::Number => "a number".into(),
        Shape::Text | Shape::Checked(_) => "text".into(),
        Shape::OneOf(words) | Shape::AnyCase(words) => format!("one of {}", words.join(", ")).into(),
        Shape::Asn => "an AS number".into(),
        Shape::Scalar(_, words) => (*words).into(),
        Shape::List(..) => "a list".into(),
        Shape::Table(fields) => {
            let names: Vec<&str> = fields.iter().take(6).map(|field| field.name).collect();
            let more = if fields.len() > names.len() { ", …" } else { "" };
            format!("fields ({}{more})", names.join(", ")).into()
        }
        Shape::Map(..) => "keys with values".into(),
        Shape::Free => "a value".into(),
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a set of fields",
    }
}

/// A scalar without its quotes.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A value for an error line: one line, not too long.
fn show(value: &Value) -> String {
    shorten(&plain(value)).into_owned()
}

/// At most 60 characters of a text, without line breaks.
pub(crate) fn shorten(text: &str) -> Cow<'_, str> {
    let plain = !text.chars().any(char::is_control);
    if plain && text.chars().count() <= 60 {
        return text.into();
    }
    let mut short: String = text.chars().take(57).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().count() > 57 {
        short.push_str("...");
    }
    short.into()
}

/// The path of a field.
pub(crate) fn join(path: &str, name: &str) -> String {
    let name = if name.is_empty() { "''".into() } else { shorten(name) };
    if path.is_empty() { name.into_owned() } else { format!("{path}.{name}") }
}

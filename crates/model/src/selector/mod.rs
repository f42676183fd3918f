//! The selector language: boolean expressions over labels.
//!
//! ```text
//! or    = and { "||" and }
//! and   = term { "&&" term }
//! term  = { "!" } ( "(" or ")" | "all()" | "global()" | "has(" key ")" | key test )
//! test  = "==" text | "!=" text | ["not"] "in" "{" [ text { "," text } ] "}"
//!       | "contains" text | "starts with" text | "ends with" text
//! ```
//!
//! Texts are in `'…'` or `"…"`, without escapes; only space and tab are white space; `!=` and `not in` hold
//! where the label is absent; an empty selector is `all()`. Printing gives the canonical form: equal
//! meaning by the rules above prints equally, and parses to the same again.

mod parse;

use crate::Labels;
use std::collections::BTreeSet;
use std::fmt;

/// A parsed selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(Expression);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Expression {
    All,
    Global,
    Has(String),
    Equals(String, String),
    Differs(String, String),
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
    Contains(String, String),
    StartsWith(String, String),
    EndsWith(String, String),
    Not(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
}

/// A label that a selector cannot do without: what has none such does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// The label of this key has one of these values.
    OneOf(String, BTreeSet<String>),
    /// There is a label of this key.
    Has(String),
}

/// Why a text is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("selector '{}': {reason}", crate::v3::shape::shorten(text))]
pub struct ParseSelectorError {
    /// The text.
    pub text: String,
    /// What is wrong, where, and the fix.
    pub reason: String,
}

impl Selector {
    /// `all()`.
    #[must_use]
    pub fn all() -> Self {
        Self(Expression::All)
    }

    /// `global()`: what has no namespace.
    #[must_use]
    pub fn global() -> Self {
        Self(Expression::Global)
    }

    /// `has(key)`.
    #[must_use]
    pub fn has(key: &str) -> Self {
        Self(Expression::Has(key.to_owned()))
    }

    /// `key == "value"`. The value holds no quotes.
    #[must_use]
    pub fn equals(key: &str, value: &str) -> Self {
        Self(Expression::Equals(key.to_owned(), value.to_owned()))
    }

    /// `key in {…}`. No value holds quotes.
    #[must_use]
    pub fn is_in<'a>(key: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        Self(Expression::In(key.to_owned(), values.into_iter().map(str::to_owned).collect()))
    }

    /// `!…`, in the form in which one would write it.
    #[must_use]
    pub fn negated(self) -> Self {
        Self(match self.0 {
            Expression::Not(inner) => *inner,
            Expression::In(key, values) => Expression::NotIn(key, values),
            Expression::NotIn(key, values) => Expression::In(key, values),
            other => Expression::Not(Box::new(other)),
        })
    }

    /// All of them, joined by `&&`; of none, `all()`.
    #[must_use]
    pub fn every(selectors: impl IntoIterator<Item = Self>) -> Self {
        let mut parts: Vec<Expression> = Vec::new();
        for Self(part) in selectors {
            match part {
                Expression::All => {}
                Expression::And(inner) => parts.extend(inner),
                other => parts.push(other),
            }
        }
        match parts.len() {
            0 => Self::all(),
            1 => Self(parts.remove(0)),
            _ => Self(Expression::And(parts)),
        }
    }

    /// Whether it is `all()`.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0 == Expression::All
    }

    /// The same over labels whose keys begin with `prefix`.
    #[must_use]
    pub fn prefixed(&self, prefix: &str) -> Self {
        let mut copy = self.0.clone();
        copy.each_key(&mut |key| key.insert_str(0, prefix));
        Self(copy)
    }

    /// Whether the labels match.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.matches(labels)
    }

    /// Labels that it cannot do without, for finding candidates by index. None: it may match anything.
    #[must_use]
    pub fn requirements(&self) -> Vec<Requirement> {
        self.0.requirements()
    }

    /// Whether `global()` stands anywhere in it: only the namespace selectors of rules may use it.
    #[must_use]
    pub fn is_global(&self) -> bool {
        self.0.any(&|expression| matches!(expression, Expression::Global))
    }
}

impl Expression {
    fn matches(&self, labels: &Labels) -> bool {
        let holds = |key: &str, test: &dyn Fn(&str) -> bool| labels.get(key).is_some_and(|value| test(value));
        match self {
            Self::All | Self::Global => true,
            Self::Has(key) => labels.contains_key(key),
            Self::Equals(key, text) => holds(key, &|value| value == text),
            Self::Differs(key, text) => !holds(key, &|value| value == text),
            Self::In(key, texts) => holds(key, &|value| texts.contains(value)),
            Self::NotIn(key, texts) => !holds(key, &|value| texts.contains(value)),
            Self::Contains(key, text) => holds(key, &|value| value.contains(text.as_str())),
            Self::StartsWith(key, text) => holds(key, &|value| value.starts_with(text.as_str())),
            Self::EndsWith(key, text) => holds(key, &|value| value.ends_with(text.as_str())),
            Self::Not(inner) => !inner.matches(labels),
            Self::And(parts) => parts.iter().all(|part| part.matches(labels)),
            Self::Or(parts) => parts.iter().any(|part| part.matches(labels)),
        }
    }

    fn each_key(&mut self, change: &mut dyn FnMut(&mut String)) {
        match self {
            Self::All | Self::Global => {}
            Self::Has(key)
            | Self::Equals(key, _)
            | Self::Differs(key, _)
            | Self::In(key, _)
            | Self::NotIn(key, _)
            | Self::Contains(key, _)
            | Self::StartsWith(key, _)
            | Self::EndsWith(key, _) => change(key),
            Self::Not(inner) => inner.each_key(change),
            Self::And(parts) | Self::Or(parts) => parts.iter_mut().for_each(|part| part.each_key(change)),
        }
    }

    fn requirements(&self) -> Vec<Requirement> {
        match self {
            Self::Equals(key, value) => vec![Requirement::OneOf(key.clone(), BTreeSet::from([value.clone()]))],
            Self::In(key, values) => vec![Requirement::OneOf(key.clone(), values.clone())],
            Self::Has(key) | Self::Contains(key, _) | Self::StartsWith(key, _) | Self::EndsWith(key, _) => {
                vec![Requirement::Has(key.clone())]
            }
            Self::And(parts) => parts.iter().flat_map(Self::requirements).collect(),
            Self::All | Self::Global | Self::Differs(..) | Self::NotIn(..) | Self::Not(_) | Self::Or(_) => Vec::new(),
        }
    }

    fn any(&self, test: &dyn Fn(&Self) -> bool) -> bool {
        test(self)
            || match self {
                Self::Not(inner) => inner.any(test),
                Self::And(parts) | Self::Or(parts) => parts.iter().any(|part| part.any(test)),
                _ => false,
            }
    }
}

impl std::str::FromStr for Selector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |reason| ParseSelectorError { text: text.to_owned(), reason };
        parse::parse(text).map(Self).map_err(wrong)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text in the quotes that it does not contain (it cannot contain both).
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(key) => write!(f, "has({key})"),
            Self::Equals(key, text) => write!(f, "{key} == {}", Quoted(text)),
            Self::Differs(key, text) => write!(f, "{key} != {}", Quoted(text)),
            Self::In(key, texts) => set(f, &format!("{key} in"), texts),
            Self::NotIn(key, texts) => set(f, &format!("{key} not in"), texts),
            Self::Contains(key, text) => write!(f, "{key} contains {}", Quoted(text)),
            Self::StartsWith(key, text) => write!(f, "{key} starts with {}", Quoted(text)),
            Self::EndsWith(key, text) => write!(f, "{key} ends with {}", Quoted(text)),
            Self::Not(inner) => write!(f, "!{inner}"),
            Self::And(parts) => joined(f, parts, " && "),
            Self::Or(parts) => joined(f, parts, " || "),
        }
    }
}

fn set(f: &mut fmt::Formatter<'_>, head: &str, texts: &BTreeSet<String>) -> fmt::Result {
    write!(f, "{head} {{")?;
    for (i, text) in texts.iter().enumerate() {
        write!(f, "{}{}", if i > 0 { ", " } else { "" }, Quoted(text))?;
    }
    f.write_str("}")
}

fn joined(f: &mut fmt::Formatter<'_>, parts: &[Expression], operator: &str) -> fmt::Result {
    f.write_str("(")?;
    for (i, part) in parts.iter().enumerate() {
        write!(f, "{}{part}", if i > 0 { operator } else { "" })?;
    }
    f.write_str(")")
}

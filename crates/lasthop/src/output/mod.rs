//! What is printed: tables, YAML and JSON; colour; times as people say them. Commands hand over what they found,
//! and only this module decides how it looks.

pub(crate) mod bgp;
mod host_routes;
mod paint;
mod policy;
mod resources;
mod routes;
mod rules;
mod sheet;
mod status;
mod time;
mod workloads;

pub(crate) use host_routes::{host_routes, merge};
pub(crate) use paint::{Paint, Tone};
pub(crate) use policy::{Explanation, TestResult, changes, results};
pub(crate) use resources::{Deed, Done, change, deeds, resources, yaml_documents};
pub(crate) use routes::routes;
pub(crate) use rules::rules;
pub(crate) use sheet::{Cell, Sheet};
pub(crate) use status::status;
pub(crate) use time::{Now, ago, span};
pub(crate) use workloads::{attached, workload, workloads};

use crate::exit::{Exit, Failure};
use serde::Serialize;
use std::io::Write;

/// How a result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For people, with more columns
    Wide,
    /// YAML documents
    Yaml,
    /// JSON
    Json,
}

/// The `-o` of commands.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Output {
    /// How the result is printed
    #[arg(short = 'o', long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: Format,
}

impl Output {
    /// Prints `value`: as it is in JSON or YAML, or as `table` draws it.
    pub(crate) fn show<T: Serialize>(
        self,
        value: &T,
        table: impl FnOnce(Format, Paint) -> String,
    ) -> Result<(), Failure> {
        self.try_show(value, |format, paint| Ok(table(format, paint)))
    }

    /// Prints `value`, where drawing it may fail.
    pub(crate) fn try_show<T: Serialize>(
        self,
        value: &T,
        table: impl FnOnce(Format, Paint) -> Result<String, Failure>,
    ) -> Result<(), Failure> {
        print(&match self.format {
            Format::Json => json(value)?,
            Format::Yaml => yaml(value)?,
            Format::Table | Format::Wide => table(self.format, Paint::stdout())?,
        })
    }
}

/// `value` as JSON for programs and people.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<String, Failure> {
    let mut text = serde_json::to_string_pretty(value).map_err(unprintable)?;
    text.push('\n');
    Ok(text)
}

/// `value` as one line of JSON.
pub(crate) fn json_line<T: Serialize>(value: &T) -> Result<String, Failure> {
    Ok(serde_json::to_string(value).map_err(unprintable)? + "\n")
}

/// `value` as a YAML document.
pub(crate) fn yaml<T: Serialize>(value: &T) -> Result<String, Failure> {
    let mut text = serde_saphyr::to_string(value).map_err(unprintable)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

fn unprintable(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format!("the result cannot be printed: {error}"))
}

/// Puts `text` on stdout. A reader that goes away (`| head`) ends the program quietly.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            Err(Failure { exit: Exit::Done, lines: Vec::new() })
        }
        Err(error) => Err(Failure::new(Exit::Failed, format!("cannot write the result: {error}"))),
    }
}

/// A list in one cell; `-` if there is nothing.
pub(crate) fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_and_yaml_hold_the_same() {
        let value = json!({"prefix": "10.65.0.24/32", "nextHops": ["172.18.203.126"], "pending": null, "port": "7470"});
        let text = yaml(&value).unwrap();
        let back: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(back, value, "{text}");
        let back: serde_json::Value = serde_json::from_str(&super::json(&value).unwrap()).unwrap();
        assert_eq!(back, value);
    }

    #[test]
    fn a_list_is_one_word() {
        assert_eq!(list(Vec::<String>::new()), "-");
        assert_eq!(list(["a", "b"]), "a,b");
    }
}

//! `cargo xtask interop`: every scenario with every daemon, the raw ones, the short soak; `docs/interop.md` is what came out.

use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What to run, and where the table goes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Only tests whose names contain one of these; the table is not written then
    names: Vec<String>,
    /// How many at once: they mostly wait
    #[arg(long, default_value_t = 6)]
    threads: usize,
    /// Without the soak of two minutes
    #[arg(long)]
    no_soak: bool,
    /// Where the table is written
    #[arg(long, default_value = "docs/interop.md")]
    to: PathBuf,
}

const DAEMONS: [(&str, &str); 5] = [
    ("bird", "BIRD 2.0.12"),
    ("frr", "FRR 8.4.4"),
    ("gobgp", "GoBGP 3.10"),
    ("openbgpd", "OpenBGPD 7.7"),
    ("exabgp", "ExaBGP 4.2.21"),
];

const HEAD: &str = include_str!("interop_head.md");
const TAIL: &str = include_str!("interop_tail.md");

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    /// At the second try.
    Flaky,
    Failed,
}

/// Runs, prints, writes.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "the scenarios make network namespaces, which needs root: use sudo");
    let listed = output(&["--ignored", "--exact", "scenario::table", "--nocapture"])?;
    let filters: Vec<&str> = match options.names.as_slice() {
        [] => vec!["scenario::", "raw::"],
        names => names.iter().map(String::as_str).collect(),
    };
    let threads = format!("--test-threads={}", options.threads);
    let mut outcomes = tests(&[&filters[..], &[&threads]].concat())?;
    ensure!(!outcomes.is_empty(), "no test is named so: {}", filters.join(", "));
    let failed: Vec<String> = names(&outcomes, Outcome::Failed);
    if !failed.is_empty() {
        eprintln!("once more: {}", failed.join(", "));
        let again: Vec<&str> =
            ["--exact", "--test-threads=2"].into_iter().chain(failed.iter().map(String::as_str)).collect();
        let passed = tests(&again)?.into_iter().filter(|(_, outcome)| *outcome == Outcome::Passed);
        outcomes.extend(passed.map(|(name, _)| (name, Outcome::Flaky)).collect::<Vec<_>>());
    }
    if options.names.is_empty() && !options.no_soak {
        outcomes.extend(tests(&["--ignored", "--exact", "scenario::soak::soak"])?);
    }
    if options.names.is_empty() {
        let text = page(&listed, &outcomes);
        if let Some(directory) = options.to.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(&options.to, text).with_context(|| format!("cannot write {}", options.to.display()))?;
        eprintln!("written: {}", options.to.display());
    }
    let failed = names(&outcomes, Outcome::Failed);
    eprintln!("{} of {} passed", outcomes.len() - failed.len(), outcomes.len());
    if failed.is_empty() { Ok(()) } else { bail!("failed twice: {}", failed.join(", ")) }
}

fn names(outcomes: &BTreeMap<String, Outcome>, wanted: Outcome) -> Vec<String> {
    outcomes.iter().filter(|(_, outcome)| **outcome == wanted).map(|(name, _)| name.clone()).collect()
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["test", "--quiet", "--package", "lasthop-agent", "--test", "speaker", "--", "--format=pretty"]);
    command.args(arguments);
    command
}

fn output(arguments: &[&str]) -> Result<String> {
    let output = cargo(arguments).stderr(Stdio::inherit()).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs tests; how each ended. What they say is shown.
fn tests(arguments: &[&str]) -> Result<BTreeMap<String, Outcome>> {
    let mut child = cargo(arguments).stdout(Stdio::piped()).spawn().context("cargo cannot be started")?;
    let stdout = child.stdout.take().context("no output")?;
    let mut outcomes = BTreeMap::new();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        let Some((name, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) else {
            continue;
        };
        match outcome.trim() {
            "ok" => drop(outcomes.insert(name.to_owned(), Outcome::Passed)),
            "FAILED" => drop(outcomes.insert(name.to_owned(), Outcome::Failed)),
            _ => {}
        }
    }
    child.wait()?;
    Ok(outcomes)
}

/// `s01_one_session` in words: its number, and what it is.
fn title(name: &str) -> (String, String) {
    let (number, words) = name.split_once('_').unwrap_or((name, ""));
    let letters: String = number.chars().take_while(char::is_ascii_alphabetic).collect();
    let digits = number[letters.len()..].trim_start_matches('0');
    (format!("{}{digits}", letters.to_uppercase()), words.replace('_', " "))
}

fn page(listed: &str, outcomes: &BTreeMap<String, Outcome>) -> String {
    let mut text = HEAD.to_owned();
    let daemons: Vec<&str> = DAEMONS.iter().map(|(_, name)| *name).collect();
    let _ = writeln!(text, "| | scenario | {} |\n|---|---|{}", daemons.join(" | "), "---|".repeat(DAEMONS.len()));
    let mut notes = String::new();
    for line in listed.lines().filter_map(|line| line.strip_prefix("scenario|")) {
        let mut parts = line.split('|');
        let (name, _, reference, note) =
            (parts.next().unwrap_or(""), parts.next(), parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let (number, words) = title(name);
        let cell = |daemon: &str| match outcomes.get(&format!("scenario::{name}::{daemon}")) {
            Some(Outcome::Passed) => "passes",
            Some(Outcome::Flaky) => "passes (second try)",
            Some(Outcome::Failed) => "**fails**",
            None => "–",
        };
        let cells: Vec<&str> = DAEMONS.iter().map(|(daemon, _)| cell(daemon)).collect();
        let reference = if reference.is_empty() { String::new() } else { format!(" ({reference})") };
        let _ = writeln!(text, "| {number} | {words}{reference} | {} |", cells.join(" | "));
        if !note.is_empty() {
            let _ = writeln!(notes, "* {number}, {words}: {note}.");
        }
    }
    let _ = writeln!(text, "\n{notes}\n## With raw octets\n");
    let raw: BTreeSet<&String> = outcomes.keys().filter(|name| name.starts_with("raw::")).collect();
    for name in raw {
        let state = if outcomes[name] == Outcome::Failed { "**fails**" } else { "passes" };
        let words = name.rsplit("::").next().unwrap_or(name).replace('_', " ");
        let _ = writeln!(text, "* {words}: {state}");
    }
    let soak = outcomes.get("scenario::soak::soak").map_or("not run", |outcome| match outcome {
        Outcome::Failed => "**fails**",
        _ => "passes",
    });
    let _ = writeln!(text, "\nThe soak of two minutes (BIRD, FRR, GoBGP and OpenBGPD at once): {soak}.\n");
    text + TAIL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_is_a_row_and_its_note_a_line() {
        let outcomes = BTreeMap::from([
            ("scenario::s01_one_session::bird".to_owned(), Outcome::Passed),
            ("scenario::s01_one_session::frr".to_owned(), Outcome::Failed),
            ("raw::opens::a_wrong_open".to_owned(), Outcome::Passed),
        ]);
        let page = page("x\nscenario|s01_one_session|bird frr |RFC 1|not with GoBGP\n", &outcomes);
        assert!(page.contains("| S1 | one session (RFC 1) | passes | **fails** | – | – | – |"), "{page}");
        assert!(page.contains("* S1, one session: not with GoBGP."), "{page}");
        assert!(page.contains("* a wrong open: passes"), "{page}");
    }
}

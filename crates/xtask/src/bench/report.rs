//! One table for all benches: printed, and written as JSON and Markdown.

use super::stats::Figure;
use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) bench: String,
    /// What was measured.
    pub(super) what: String,
    pub(super) unit: &'static str,
    pub(super) ours: Option<Figure>,
    /// What it is measured beside, and its number.
    pub(super) baseline: Option<(String, Figure)>,
    pub(super) bar: Option<Bar>,
    /// What else there is to say.
    pub(super) note: String,
    /// How busy the machine was meanwhile, of 1.
    pub(super) load: f64,
}

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) enum Bar {
    /// Our number is at most this.
    AtMost(f64),
    /// Our number is at most this share of the baseline's.
    Ratio(f64),
    /// Our number is at least so many times the baseline's.
    AtLeast(f64),
}

impl Row {
    pub(super) fn new(what: impl Into<String>, unit: &'static str, ours: Figure) -> Self {
        let what = what.into();
        Self {
            bench: String::new(),
            what,
            unit,
            ours: Some(ours),
            baseline: None,
            bar: None,
            note: String::new(),
            load: 0.0,
        }
    }

    pub(super) fn broken(name: &str, why: &str) -> Self {
        let row = Self::new(name, "", Figure::single(f64::NAN));
        Self { ours: None, note: format!("not measured: {why}"), ..row }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.ours.is_none()
    }

    pub(super) fn beside(mut self, name: &str, figure: Figure) -> Self {
        self.baseline = Some((name.to_owned(), figure));
        self
    }

    pub(super) fn bar(mut self, bar: Bar) -> Self {
        self.bar = Some(bar);
        self
    }

    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    fn ratio(&self) -> Option<f64> {
        let (_, baseline) = self.baseline.as_ref()?;
        Some(self.ours?.value / baseline.value)
    }

    /// Whether the promise is kept; `None` if there is none.
    pub(super) fn is_met(&self) -> Option<bool> {
        match self.bar? {
            Bar::AtMost(limit) => Some(self.ours.is_some_and(|ours| ours.value <= limit)),
            Bar::Ratio(limit) => Some(self.ratio().is_some_and(|ratio| ratio <= limit)),
            Bar::AtLeast(limit) => Some(self.ratio().is_some_and(|ratio| ratio >= limit)),
        }
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        v if v < 0.1 => format!("{value:.3}"),
        v if v < 10.0 => format!("{value:.2}"),
        v if v < 1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn shown(figure: &Figure, unit: &str) -> String {
    let value = format!("{} {unit}", number(figure.value));
    if figure.n < 2 {
        return value;
    }
    format!("{value} ({}–{}, n={})", number(figure.low), number(figure.high), figure.n)
}

/// The table in Markdown, which reads as plain text too.
pub(super) fn table(rows: &[Row]) -> String {
    let head = ["what", "ours", "baseline", "ratio", "bar", "met", "busy", "note"].map(str::to_owned);
    let mut lines = vec![head.to_vec()];
    for row in rows {
        let baseline = row.baseline.as_ref().map(|(name, figure)| format!("{} {name}", shown(figure, row.unit)));
        let bar = row.bar.map(|bar| match bar {
            Bar::AtMost(limit) => format!("≤ {} {}", number(limit), row.unit),
            Bar::Ratio(limit) => format!("≤ {} ×", number(limit)),
            Bar::AtLeast(limit) => format!("≥ {} ×", number(limit)),
        });
        let met = row.is_met().map(|met| if met { "yes" } else { "NO" }.to_owned());
        lines.push(vec![
            row.what.clone(),
            row.ours.map(|ours| shown(&ours, row.unit)).unwrap_or_default(),
            baseline.unwrap_or_default(),
            row.ratio().map(|ratio| format!("{ratio:.3}")).unwrap_or_default(),
            bar.unwrap_or_default(),
            met.unwrap_or_default(),
            format!("{:.0} %", row.load * 100.0),
            row.note.clone(),
        ]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for (at, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!(" {cell:width$} "));
        let _ = writeln!(text, "|{}|", cells.collect::<Vec<_>>().join("|"));
        if at == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
            let _ = writeln!(text, "|{}|", rules.join("|"));
        }
    }
    text
}

/// Year, month and day of today (UTC).
fn today() -> String {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    // Days since 1 March of the year 0, so that leap days come last in their years.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, late) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{}-{month:02}-{day:02}", era * 400 + year + late)
}

/// What the machine is.
fn machine() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cpus} × {}, Linux {}", model.trim_start_matches(['\t', ' ', ':']), kernel.trim())
}

/// Writes one bench's rows as `<date>-<name>.json`.
pub(super) fn write_json(results: &Path, name: &str, rows: &[Row]) -> Result<()> {
    let file = results.join(format!("{}-{name}.json", today()));
    let text = serde_json::to_vec_pretty(&serde_json::json!({ "machine": machine(), "rows": rows }))?;
    let write = || std::fs::create_dir_all(results).and_then(|()| std::fs::write(&file, text));
    write().with_context(|| format!("cannot write {}", file.display()))
}

/// Writes the table of this run as this file.
pub(super) fn write_table(results: &Path, file: &str, rows: &[Row]) -> Result<()> {
    let file = results.join(file);
    let text = format!("# Numbers of {}\n\n{}\n\n{}", today(), machine(), table(rows));
    let write = || std::fs::create_dir_all(results).and_then(|()| std::fs::write(&file, text));
    write().with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_kept_or_not() {
        let row = |bar| Row::new("x", "ms", Figure::single(4.0)).beside("BIRD", Figure::single(10.0)).bar(bar);
        for (bar, met) in
            [(Bar::AtMost(4.0), true), (Bar::AtMost(3.9), false), (Bar::Ratio(0.4), true), (Bar::Ratio(0.39), false)]
        {
            assert_eq!(row(bar).is_met(), Some(met), "{bar:?}");
        }
        assert_eq!(row(Bar::AtLeast(0.4)).is_met(), Some(true));
        assert_eq!(row(Bar::AtLeast(0.41)).is_met(), Some(false));
        assert_eq!(Row::new("x", "ms", Figure::single(4.0)).is_met(), None);
        let alone = Row::new("x", "ms", Figure::single(4.0)).bar(Bar::Ratio(1.0));
        assert_eq!(alone.is_met(), Some(false), "no baseline, no ratio");
    }
}

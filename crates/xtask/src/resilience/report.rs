//! The table.

use super::peers::Kind;
use super::probe::Lost;
use crate::bench::echo::Stream;
use anyhow::{Context, Result};
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

/// How much may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// No packet.
    Nothing,
    /// There is no other way: what falls into the outage, and as much again as this.
    Outage { out: Duration, more: Duration },
}

/// One event with one kind of peer.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) event: &'static str,
    pub(super) kind: Kind,
    pub(super) bound: Bound,
    /// What was lost; or why the network did not come back.
    pub(super) lost: Result<Lost, String>,
}

impl Bound {
    /// Packets of a stream of a thousand a second.
    fn packets(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Outage { out, more } => usize::try_from((out + more).as_millis()).unwrap_or(usize::MAX),
        }
    }

    fn words(self) -> String {
        match self {
            Self::Nothing => "0".to_owned(),
            Self::Outage { out, more } => format!("{} s + {} s", out.as_secs(), more.as_secs()),
        }
    }
}

impl Cell {
    /// Whether no more was lost than may be.
    pub(super) fn is_met(&self) -> bool {
        self.lost.as_ref().is_ok_and(|lost| lost.between.lost.max(lost.outside.lost) <= self.bound.packets())
    }

    fn shown(&self) -> String {
        let of = |stream: Stream| format!("{} of {}", stream.lost, stream.asked);
        let mark = if self.is_met() { "" } else { "**" };
        match &self.lost {
            Ok(lost) => format!("{mark}{} / {}{mark}", of(lost.between), of(lost.outside)),
            Err(why) => format!("**{why}**"),
        }
    }

    /// In one line.
    pub(super) fn line(&self) -> String {
        format!("{}, {}: lost {}, may be {}", self.event, self.kind.name(), self.shown(), self.bound.words())
    }
}

/// Events down, peers across.
pub(super) fn table(cells: &[Cell]) -> String {
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| cells.iter().any(|cell| cell.kind == *kind)).collect();
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
    let mut text =
        format!("| what happens | may be lost | {} |\n|---|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    let mut events: Vec<&str> = Vec::new();
    cells.iter().for_each(|cell| {
        if !events.contains(&cell.event) {
            events.push(cell.event);
        }
    });
    for event in events {
        let of = |kind: &Kind| cells.iter().find(|cell| cell.event == event && cell.kind == *kind);
        let mut bounds: Vec<(String, &str)> = Vec::new();
        kinds.iter().filter_map(of).for_each(|cell| bounds.push((cell.bound.words(), cell.kind.name())));
        let same = bounds.iter().all(|(words, _)| *words == bounds[0].0);
        let bound = match bounds.first() {
            Some((words, _)) if same => words.clone(),
            _ => bounds.iter().map(|(words, kind)| format!("{kind}: {words}")).collect::<Vec<_>>().join(", "),
        };
        let shown: Vec<String> = kinds.iter().map(|kind| of(kind).map(Cell::shown).unwrap_or_default()).collect();
        let _ = writeln!(text, "| {event} | {bound} | {} |", shown.join(" | "));
    }
    text
}

const HEAD: &str = include_str!("head.md");

/// Writes the page.
pub(super) fn write(to: &Path, cells: &[Cell]) -> Result<()> {
    if let Some(directory) = to.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(to, format!("{HEAD}\n{}", table(cells)))
        .with_context(|| format!("cannot write {}", to.display()))?;
    eprintln!("written: {}", to.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_held_against_its_bound() {
        let cell = |bound, lost| {
            let stream = Stream { asked: 5000, lost };
            let lost = Ok(Lost { between: Stream { asked: 5000, lost: 0 }, outside: stream });
            Cell { event: "x", kind: Kind::Bird, bound, lost }
        };
        let outage = Bound::Outage { out: Duration::from_secs(3), more: Duration::from_secs(1) };
        assert!(cell(Bound::Nothing, 0).is_met() && !cell(Bound::Nothing, 1).is_met());
        assert!(cell(outage, 4000).is_met() && !cell(outage, 4001).is_met());
        let shown = table(&[cell(Bound::Nothing, 1)]);
        assert!(shown.ends_with("| x | 0 | **0 of 5000 / 1 of 5000** |\n"), "{shown}");
    }
}

//! Tables without lines: a header in capitals, columns two spaces apart, nothing wrapped, so that `awk` and `grep`
//! serve. Colour is put on after the layout, so that it never changes a column.

use super::{Paint, Tone};
use comfy_table::{ContentArrangement, Table, presets};

/// A text in a table, and its tone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A text with a tone; `-` for an empty one, so that columns can be counted. Line breaks become spaces.
    pub(crate) fn new(tone: Tone, text: impl Into<String>) -> Self {
        let text = text.into();
        let text = if text.contains(['\n', '\r']) { text.lines().collect::<Vec<_>>().join(" ") } else { text };
        Self { text: if text.is_empty() { "-".to_owned() } else { text }, tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(Tone::Plain, text)
    }
}

/// A table.
#[derive(Clone, Debug)]
pub(crate) struct Sheet {
    headers: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Sheet {
    /// An empty table with these columns.
    pub(crate) fn new(headers: &[&'static str]) -> Self {
        Self { headers: headers.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Whether there are no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Draws it, every line after `indent` spaces.
    pub(crate) fn draw(&self, paint: Paint, indent: usize) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(self.headers.iter().copied());
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| cell.text.as_str()));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let mut text = String::new();
        for (number, line) in table.lines().enumerate() {
            let line = match number.checked_sub(1).and_then(|row| self.rows.get(row)) {
                Some(cells) => coloured(line.trim_end(), cells, paint),
                None => paint.paint(Tone::Strong, line.trim_end()),
            };
            text.push_str(&format!("{:indent$}{line}\n", ""));
        }
        text
    }
}

/// Colours the cells of a drawn line, which stand in it one after another.
fn coloured(line: &str, cells: &[Cell], paint: Paint) -> String {
    let mut done = String::new();
    let mut rest = line;
    for cell in cells {
        let Some((before, after)) = rest.split_once(cell.text.as_str()) else { break };
        done.push_str(before);
        done.push_str(&paint.paint(cell.tone, &cell.text));
        rest = after;
    }
    done + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sheet {
        let mut sheet = Sheet::new(&["PREFIX", "STATE", "WHY"]);
        sheet.row(vec!["10.65.0.24/32".into(), Cell::new(Tone::Good, "ok"), "".into()]);
        sheet.row(vec!["::/0".into(), Cell::new(Tone::Bad, "pending"), "link tap1\nis absent".into()]);
        sheet
    }

    #[test]
    fn columns_are_two_spaces_apart_and_nothing_trails() {
        let expected = "\
PREFIX         STATE    WHY
10.65.0.24/32  ok       -
::/0           pending  link tap1 is absent
";
        assert_eq!(sample().draw(Paint::OFF, 0), expected);
    }

    #[test]
    fn colour_changes_no_column() {
        let plain = sample().draw(Paint::OFF, 2);
        let coloured = sample().draw(Paint::ON, 2);
        assert!(coloured.contains("\u{1b}[32mok\u{1b}[0m       -"), "{coloured:?}");
        let mut stripped = String::new();
        let mut escape = false;
        for c in coloured.chars() {
            match (escape, c) {
                (false, '\u{1b}') => escape = true,
                (true, 'm') => escape = false,
                (true, _) => {}
                (false, c) => stripped.push(c),
            }
        }
        assert_eq!(stripped, plain);
    }
}

//! Aligned columns.

use crate::screen::{Screen, Tone};

/// Columns grow no wider than this unless they are the last.
const WIDEST: usize = 60;

/// One field of a row.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// Text with a meaning.
    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Cell {
        Cell { text: text.into(), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell { text: text.into(), tone: Tone::Plain }
    }
}

/// A heading and rows.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table with these column titles.
    pub(crate) fn new<S: AsRef<str>>(head: &[S]) -> Table {
        Table { head: head.iter().map(|h| h.as_ref().to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row; missing fields show as a dash.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The text, each line ending in a newline and without blanks before it.
    pub(crate) fn render(&self, screen: Screen) -> String {
        let shown = |row: &[Cell], at: usize| -> String {
            let text = row.get(at).map_or("", |c| c.text.as_str()).replace('\n', " ");
            if text.is_empty() { "-".to_owned() } else { text }
        };
        let widths: Vec<usize> = (0..self.head.len())
            .map(|at| {
                let cells = self.rows.iter().map(|row| shown(row, at).chars().count());
                cells.chain([self.head[at].chars().count()]).max().unwrap_or(0).min(WIDEST)
            })
            .collect();
        let mut text = String::new();
        let mut line = |fields: Vec<(String, Tone)>| {
            let last = fields.len().saturating_sub(1);
            for (at, (field, tone)) in fields.iter().enumerate() {
                text.push_str(&screen.paint(*tone, field));
                if at < last {
                    let used = field.chars().count();
                    text.push_str(&" ".repeat(widths[at].saturating_sub(used) + 2));
                }
            }
            text.push('\n');
        };
        line(self.head.iter().map(|h| (h.clone(), Tone::Strong)).collect());
        for row in &self.rows {
            let tone = |at: usize| row.get(at).map_or(Tone::Plain, |c| c.tone);
            line((0..self.head.len()).map(|at| (shown(row, at), tone(at))).collect());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_lines_end_without_blanks() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(vec!["front".into(), Cell::toned("ready", Tone::Good)]);
        table.row(vec!["a-longer-name".into()]);
        assert_eq!(
            table.render(Screen::plain()),
            "NAME           STATE\nfront          ready\na-longer-name  -\n"
        );
    }

    #[test]
    fn a_line_break_in_a_value_does_not_break_the_row() {
        let mut table = Table::new(&["A", "B"]);
        table.row(vec!["x\ny".into(), "z".into()]);
        assert_eq!(table.render(Screen::plain()), "A    B\nx y  z\n");
    }
}

//! Columns for people.

use super::output::{Colour, Output};

/// A cell of a table.
pub(super) type Cell = (String, Colour);

pub(super) fn plain(text: impl Into<String>) -> Cell {
    (text.into(), Colour::Plain)
}

/// Prints rows under a head, each column as wide as its widest cell.
pub(super) fn print(head: &[&str], rows: &[Vec<Cell>], output: &mut Output) {
    let head: Vec<Cell> = head
        .iter()
        .map(|text| ((*text).to_owned(), Colour::Bold))
        .collect();
    let mut widths = vec![0; head.len()];
    for row in std::iter::once(&head).chain(rows) {
        for (width, (text, _)) in widths.iter_mut().zip(row) {
            *width = text.chars().count().max(*width);
        }
    }
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (n, (text, colour)) in row.iter().enumerate() {
            line.push_str(&output.paint(*colour, text));
            if n + 1 < row.len() {
                let width = widths.get(n).copied().unwrap_or_default();
                let padding = width.saturating_sub(text.chars().count()) + 2;
                line.push_str(&" ".repeat(padding));
            }
        }
        output.line(line.trim_end());
    }
}

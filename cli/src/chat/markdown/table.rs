//! Tables: held back until they end, then laid out in columns, or as a list where the terminal is too narrow for that.

use super::inline::Inline;
use super::wrap::Wrap;
use super::{BOLD, DIM, RESET, Theme};
use crate::chat::theme;

/// A table longer than this is laid out in parts.
const LONGEST: usize = 64 << 10;

/// The rows so far, as they stand in the text.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<String>,
    bytes: usize,
}

impl Table {
    /// Another row; true when it is time to lay out what is there.
    pub(super) fn push(&mut self, row: String) -> bool {
        self.bytes += row.len();
        self.rows.push(row);
        self.bytes > LONGEST
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes that are held back.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.bytes
    }

    /// Lays out all rows. Rows without the line of dashes below the first are no table, but text.
    pub(super) fn draw(&mut self, theme: Theme) -> String {
        let rows = std::mem::take(self).rows;
        let is_table = rows.get(1).is_some_and(|row| is_rule(row));
        if !is_table {
            return rows
                .iter()
                .fold(String::new(), |out, row| out + &text(row, theme));
        }
        let cells = rows
            .iter()
            .filter(|row| !is_rule(row))
            .map(|row| cells(row));
        let cells: Vec<Vec<String>> = cells
            .map(|row| row.iter().map(|cell| styled(cell, theme)).collect())
            .collect();
        let count = cells.iter().map(Vec::len).max().unwrap_or(0);
        let width = |at: usize| {
            cells
                .iter()
                .filter_map(|row| row.get(at))
                .map(|cell| theme::width(cell))
                .max()
        };
        let widths: Vec<usize> = (0..count).map(|at| width(at).unwrap_or(0)).collect();
        if widths.iter().sum::<usize>() + 3 * count.saturating_sub(1) <= theme.width {
            columns(&cells, &widths, theme)
        } else {
            list(&cells, theme)
        }
    }
}

fn columns(rows: &[Vec<String>], widths: &[usize], theme: Theme) -> String {
    let (bold, dim, reset) = (theme.style(BOLD), theme.style(DIM), theme.style(RESET));
    let bar = format!(" {dim}{}{reset} ", theme.either("\u{2502}", "|"));
    let mut out = String::new();
    for (at, row) in rows.iter().enumerate() {
        let cell = |(at, width): (usize, &usize)| {
            let cell = row.get(at).map_or("", String::as_str);
            format!("{cell}{:1$}", "", width - theme::width(cell))
        };
        let mut cells: Vec<String> = widths.iter().enumerate().map(cell).collect();
        if at == 0 {
            cells = cells
                .iter()
                .map(|cell| format!("{bold}{cell}{reset}"))
                .collect();
        }
        out.push_str(cells.join(&bar).trim_end());
        out.push('\n');
        if at == 0 {
            let dash = theme.either("\u{2500}", "-");
            let line: Vec<String> = widths.iter().map(|width| dash.repeat(*width)).collect();
            let cross = format!("{dash}{}{dash}", theme.either("\u{253c}", "+"));
            out.push_str(&format!("{dim}{}{reset}\n", line.join(&cross)));
        }
    }
    out
}

/// Each row as `heading: cell` lines.
fn list(rows: &[Vec<String>], theme: Theme) -> String {
    let Some((headings, rows)) = rows.split_first() else {
        return String::new();
    };
    let mut out = String::new();
    for row in rows {
        for (at, cell) in row.iter().enumerate().filter(|(_, cell)| !cell.is_empty()) {
            let bullet = match at {
                0 => theme.either("\u{2022} ", "* "),
                _ => "  ",
            };
            let heading = headings.get(at).filter(|heading| !heading.is_empty());
            let heading = heading.map_or(String::new(), |heading| format!("{heading}: "));
            out.push_str(&lay(bullet, "    ", &format!("{heading}{cell}"), theme));
        }
    }
    out
}

/// A styled text between its margins.
fn lay(first: &str, rest: &str, text: &str, theme: Theme) -> String {
    let (mut wrap, mut out) = (Wrap::new(theme), String::new());
    wrap.begin(first, rest, &mut out);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            let rest = chars.as_str();
            let end = rest.find('m').map_or(rest.len(), |at| at + 1);
            let code = format!("\x1b{}", &rest[..end]);
            wrap.style(if code == RESET { String::new() } else { code });
            chars = rest[end..].chars();
        } else {
            wrap.text(c, &mut out);
        }
    }
    wrap.end(&mut out);
    out
}

fn text(row: &str, theme: Theme) -> String {
    lay("", "", &styled(row, theme), theme)
}

/// A cell with its emphasis, on one line.
fn styled(cell: &str, theme: Theme) -> String {
    let mut wrap = Wrap::new(Theme {
        width: usize::MAX,
        ..theme
    });
    let (mut inline, mut out) = (Inline::default(), String::new());
    for c in cell.trim().chars() {
        inline.take(c, &mut wrap, &mut out);
    }
    inline.end(&mut wrap, &mut out);
    wrap.end(&mut out);
    out.truncate(out.trim_end_matches('\n').len());
    out
}

fn is_rule(row: &str) -> bool {
    row.contains('-') && row.chars().all(|c| matches!(c, '|' | '-' | ':' | ' '))
}

fn cells(row: &str) -> Vec<String> {
    let row = row.trim();
    let row = row.strip_prefix('|').unwrap_or(row);
    let row = row
        .strip_suffix('|')
        .filter(|row| !row.ends_with('\\'))
        .unwrap_or(row);
    let (mut cells, mut cell, mut escaped) = (Vec::new(), String::new(), false);
    for c in row.chars() {
        match (escaped, c) {
            (true, '|') => {
                cell.pop();
                cell.push('|');
            }
            (false, '|') => cells.push(std::mem::take(&mut cell)),
            (_, c) => cell.push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    cells.push(cell);
    cells
}

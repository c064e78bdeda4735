//! Lines of words: breaks them between words at the terminal's width, repeats what stands before each line, carries
//! styles over the breaks. What was given out is never taken back: only the word that is not finished is held.

use super::{RESET, Theme};
use crate::chat::theme::width_of;

/// A line being laid out.
#[derive(Debug)]
pub(super) struct Wrap {
    pub(super) theme: Theme,
    /// Columns filled on the screen's present line.
    column: usize,
    /// What stands before each further line, and its columns.
    rest: (String, usize),
    /// The word that is not finished, styles included.
    word: String,
    word_width: usize,
    /// Spaces that become part of the line if another word comes on it.
    spaces: usize,
    /// The style that holds at the end of the word, and the one that held at its beginning.
    style: String,
    style_before: String,
}

impl Wrap {
    pub(super) fn new(theme: Theme) -> Self {
        Self {
            theme,
            column: 0,
            rest: (String::new(), 0),
            word: String::new(),
            word_width: 0,
            spaces: 0,
            style: String::new(),
            style_before: String::new(),
        }
    }

    /// Where the cursor is.
    pub(super) fn column(&self) -> usize {
        self.column
    }

    /// Bytes that are held back.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.word.len() + self.rest.0.len()
    }

    /// Begins a line with `first`, its further lines with `rest`.
    pub(super) fn begin(&mut self, first: &str, rest: &str, out: &mut String) {
        out.push_str(first);
        self.column = crate::chat::theme::width(first);
        // A prefix that leaves no room for text is none.
        let columns = crate::chat::theme::width(rest);
        self.rest = match columns + 4 <= self.theme.width {
            true => (rest.to_owned(), columns),
            false => (String::new(), 0),
        };
    }

    /// One more character.
    pub(super) fn text(&mut self, c: char, out: &mut String) {
        match (c, width_of(c)) {
            (' ' | '\t', _) => {
                self.flush(out);
                self.spaces += if c == '\t' { 4 } else { 1 };
            }
            // Between ideographs a line may break.
            (c, 2) => {
                self.flush(out);
                self.push(c);
                self.flush(out);
            }
            (c, _) => {
                self.push(c);
                if self.word_width + self.rest.1 >= self.theme.width {
                    self.flush(out);
                }
            }
        }
    }

    fn push(&mut self, c: char) {
        let before = self.word.len();
        self.theme.push(c, &mut self.word);
        let shown = &self.word[before..];
        self.word_width += shown.chars().map(width_of).sum::<usize>();
    }

    /// From here on text looks so; the empty style is the plain one.
    pub(super) fn style(&mut self, style: String) {
        if !self.theme.styled || style == self.style {
            return;
        }
        if !self.style.is_empty() {
            self.word.push_str(RESET);
        }
        self.word.push_str(&style);
        self.style = style;
    }

    /// Gives out what is held.
    pub(super) fn flush(&mut self, out: &mut String) {
        if self.word_width > 0 {
            let room = self.theme.width.saturating_sub(self.column);
            if self.spaces + self.word_width > room && self.column > self.rest.1 {
                self.break_line(out);
            } else {
                out.extend(std::iter::repeat_n(' ', self.spaces));
                self.column += self.spaces;
            }
            self.spaces = 0;
            self.column += self.word_width;
            self.word_width = 0;
        }
        out.push_str(&self.word);
        self.word.clear();
        self.style_before.clone_from(&self.style);
    }

    fn break_line(&mut self, out: &mut String) {
        if !self.style_before.is_empty() {
            out.push_str(RESET);
        }
        out.push('\n');
        out.push_str(&self.rest.0);
        out.push_str(&self.style_before);
        self.column = self.rest.1;
    }

    /// Ends the line.
    pub(super) fn end(&mut self, out: &mut String) {
        self.style(String::new());
        self.flush(out);
        out.push('\n');
        (self.column, self.spaces) = (0, 0);
        self.rest = (String::new(), 0);
    }
}

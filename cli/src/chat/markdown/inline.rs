//! What happens inside a line: emphasis, code, links. A character is held back only while its meaning is undecided.

use super::wrap::Wrap;
use super::{BOLD, CYAN, DIM, ITALIC, STRIKE, UNDERLINE};

/// A link longer than this is text.
const LONGEST_LINK: usize = 2048;

/// The state of a line, up to the last character.
#[derive(Debug, Default)]
pub(super) struct Inline {
    /// A run of markers, a backslash, or a link that is not finished.
    held: String,
    bold: bool,
    italic: bool,
    strike: bool,
    /// Length of the run of backticks that opened a code span.
    code: usize,
    heading: bool,
    /// Inside the text of a link there is no other.
    in_link: bool,
    /// Brackets are read again as the text they turned out to be.
    literal: bool,
    previous: Option<char>,
}

impl Inline {
    /// A line that begins now; a heading is bold throughout.
    pub(super) fn begin(&mut self, heading: bool, wrap: &mut Wrap) {
        *self = Self {
            heading,
            ..Self::default()
        };
        self.restyle(wrap);
    }

    /// Bytes that are held back.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// The next character of the line.
    pub(super) fn take(&mut self, c: char, wrap: &mut Wrap, out: &mut String) {
        if self.held.starts_with('[') {
            return self.take_link(c, wrap, out);
        }
        let escaped = self.held == "\\";
        let marker = matches!(c, '*' | '_' | '`' | '~') && !escaped;
        if marker && (self.held.is_empty() || self.held.starts_with(c)) {
            self.held.push(c);
            return;
        }
        if escaped {
            self.held.clear();
            if !c.is_ascii_punctuation() {
                self.text('\\', wrap, out);
            }
        } else {
            self.resolve(Some(c), wrap, out);
            let opens = marker
                || (self.code == 0 && (c == '\\' || (c == '[' && !self.in_link && !self.literal)));
            if opens {
                self.held.push(c);
                return;
            }
        }
        self.text(c, wrap, out);
    }

    fn text(&mut self, c: char, wrap: &mut Wrap, out: &mut String) {
        wrap.text(c, out);
        self.previous = Some(c);
    }

    /// The line ends: what is held means what it means without a successor.
    pub(super) fn end(&mut self, wrap: &mut Wrap, out: &mut String) {
        if self.held.starts_with('[') {
            self.as_text(wrap, out);
        }
        if self.held == "\\" {
            self.held.clear();
            self.text('\\', wrap, out);
        }
        self.resolve(None, wrap, out);
        *self = Self::default();
    }

    /// `[text](address)`; anything else in brackets is text.
    fn take_link(&mut self, c: char, wrap: &mut Wrap, out: &mut String) {
        let after_text = self.held.ends_with(']') && !self.held.contains("](");
        self.held.push(c);
        if (after_text && c != '(') || self.held.len() > LONGEST_LINK {
            self.as_text(wrap, out);
        } else if c == ')' && self.held.contains("](") {
            let link = std::mem::take(&mut self.held);
            let (text, address) = link.split_once("](").unwrap_or((&link, ""));
            let (text, address) = (&text[1..], &address[..address.len().saturating_sub(1)]);
            self.in_link = true;
            self.restyle(wrap);
            for c in text.chars() {
                self.take(c, wrap, out);
            }
            self.resolve(None, wrap, out);
            self.in_link = false;
            if !address.is_empty() && address != text {
                wrap.style(DIM.to_owned());
                for c in format!(" ({address})").chars() {
                    self.text(c, wrap, out);
                }
            }
            self.restyle(wrap);
        }
    }

    fn as_text(&mut self, wrap: &mut Wrap, out: &mut String) {
        let held = std::mem::take(&mut self.held);
        self.literal = true;
        for c in held.chars() {
            self.take(c, wrap, out);
        }
        self.literal = false;
    }

    /// Decides what a held run of markers meant, now that the next character is known.
    fn resolve(&mut self, next: Option<char>, wrap: &mut Wrap, out: &mut String) {
        let run = std::mem::take(&mut self.held);
        let Some(mark) = run.chars().next() else {
            return;
        };
        let length = run.chars().count();
        let acts = match mark {
            // Where nothing can be shown, the markers show it.
            _ if !wrap.theme.styled => false,
            '`' if self.code == length => {
                self.code = 0;
                true
            }
            '`' if self.code == 0 => {
                self.code = length;
                true
            }
            '*' | '_' if self.code == 0 && self.toggles(mark, length, next) => {
                self.bold ^= length >= 2;
                self.italic ^= length != 2;
                true
            }
            '~' if self.code == 0 && length == 2 && self.toggles(mark, length, next) => {
                self.strike ^= true;
                true
            }
            _ => false,
        };
        if acts {
            self.restyle(wrap);
            return;
        }
        for c in run.chars() {
            self.text(c, wrap, out);
        }
    }

    /// A run opens when text follows it and closes when text precedes it; `_` never acts inside a word.
    fn toggles(&self, mark: char, length: usize, next: Option<char>) -> bool {
        let open = match (mark, length) {
            ('~', _) => self.strike,
            (_, 1) => self.italic,
            (_, 2) => self.bold,
            (_, 3) => self.bold && self.italic,
            _ => return false,
        };
        let before = self.previous.filter(|c| !c.is_whitespace());
        let after = next.filter(|c| !c.is_whitespace());
        let in_word =
            before.is_some_and(char::is_alphanumeric) && after.is_some_and(char::is_alphanumeric);
        let acts = if open {
            before.is_some()
        } else {
            after.is_some()
        };
        acts && !(mark == '_' && in_word)
    }

    fn restyle(&self, wrap: &mut Wrap) {
        let mut style = String::new();
        for (on, code) in [
            (self.bold || self.heading, BOLD),
            (self.italic, ITALIC),
            (self.strike, STRIKE),
            (self.in_link, UNDERLINE),
            (self.code > 0, CYAN),
        ] {
            if on {
                style.push_str(code);
            }
        }
        wrap.style(style);
    }
}

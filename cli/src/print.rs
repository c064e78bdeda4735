//! The only door to stdout and stderr. Data goes to stdout, everything else to stderr.

use crate::chat::theme::{printable, takes_utf8};
use crate::failure::{Code, Failure};
use serde::Serialize;
use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write as _};
use unicode_width::UnicodeWidthChar as _;

/// Where we print and how.
#[derive(Debug)]
pub struct Printer {
    /// Stdout is a terminal: foreign text is cleaned, Markdown is rendered.
    pub terminal: bool,
    /// Colours are wanted on stderr.
    colour: bool,
    /// Stderr is a terminal: one line of progress may be rewritten.
    live: bool,
    /// The locale takes UTF-8; where it does not, our own signs are spelled in ASCII.
    utf8: bool,
}

impl Printer {
    /// Looks at the two streams and at `NO_COLOR`.
    pub fn new() -> Self {
        let live = io::stderr().is_terminal();
        let colour = live && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            terminal: io::stdout().is_terminal(),
            colour,
            live,
            utf8: takes_utf8(|name| std::env::var(name).ok()),
        }
    }

    /// Whether somebody can be asked something: stdin and stderr are a terminal.
    pub fn can_ask(&self) -> bool {
        self.live && io::stdin().is_terminal()
    }

    /// Data as it is, flushed at once: answers stream.
    pub fn raw(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(closed)
    }

    /// Foreign text: cleaned of control characters on a terminal, untouched in a pipe.
    pub fn foreign(&self, text: &str) -> Result<(), Failure> {
        if self.terminal {
            self.raw(&clean(text))
        } else {
            self.raw(text)
        }
    }

    /// One line of data.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        self.foreign(&format!("{}\n", self.spelled(text)))
    }

    /// One line of JSON.
    pub fn json<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|e| {
            Failure::new(
                Code::Error,
                format!("could not print the answer as JSON: {e}"),
            )
        })?;
        self.raw(&format!("{text}\n"))
    }

    /// A word to the person, on stderr.
    pub fn note(&self, text: &str) {
        self.clear_progress();
        let _ = writeln!(io::stderr(), "{}", clean(&self.spelled(text)));
    }

    /// A question, on stderr, with the cursor left behind it.
    pub fn question(&self, text: &str) {
        self.clear_progress();
        let mut err = io::stderr().lock();
        let _ = write!(err, "{} ", clean(&self.spelled(text))).and_then(|()| err.flush());
    }

    /// A line that the next one replaces, cut to the terminal's width: a line that wrapped could not be replaced.
    /// Where lines cannot be replaced, nothing.
    pub fn progress(&self, text: &str) {
        if self.live {
            let width = terminal_size::terminal_size_of(io::stderr())
                .map_or(80, |(width, _)| usize::from(width.0));
            let text = clean(&self.spelled(text)).replace('\n', " ");
            let mut err = io::stderr().lock();
            let _ = write!(err, "\r\x1b[K{}", fit(&text, width.saturating_sub(1)))
                .and_then(|()| err.flush());
        }
    }

    /// Takes the progress line away.
    pub fn clear_progress(&self) {
        if self.live {
            let mut err = io::stderr().lock();
            let _ = write!(err, "\r\x1b[K").and_then(|()| err.flush());
        }
    }

    /// The last word of a command that failed: one sentence, and the way out where it is known.
    pub fn failure(&self, failure: &Failure) {
        let (red, cyan, reset) = if self.colour {
            ("\x1b[1;31m", "\x1b[36m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        self.clear_progress();
        let mut err = io::stderr().lock();
        let message = clean(&self.spelled(&failure.message));
        let _ = writeln!(err, "{red}error:{reset} {message}");
        if let Some(hint) = &failure.hint {
            let _ = writeln!(err, "{cyan}hint:{reset} {}", clean(&self.spelled(hint)));
        }
    }

    /// Whether progress lines are drawn.
    pub fn is_live(&self) -> bool {
        self.live
    }
}

impl Printer {
    /// Our own signs as the terminal can show them.
    fn spelled<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.utf8 || text.is_ascii() {
            Cow::Borrowed(text)
        } else {
            Cow::Owned(in_ascii(text))
        }
    }
}

/// The signs that we use ourselves, in ASCII. Names and answers keep their letters.
fn in_ascii(text: &str) -> String {
    let mut spelled = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '·' | '–' => spelled.push('-'),
            '•' => spelled.push('*'),
            '×' => spelled.push('x'),
            '…' => spelled.push_str("..."),
            '→' => spelled.push_str("->"),
            '✓' => spelled.push_str("ok"),
            '✗' => spelled.push_str("no"),
            c => spelled.push(c),
        }
    }
    spelled
}

/// The beginning of a text that takes at most so many columns.
fn fit(text: &str, columns: usize) -> &str {
    let mut taken = 0;
    for (at, c) in text.char_indices() {
        taken += c.width().unwrap_or(0);
        if taken > columns {
            return &text[..at];
        }
    }
    text
}

/// Foreign text without what could steer a terminal.
pub fn clean(text: &str) -> String {
    text.chars().filter(|c| printable(*c)).collect()
}

/// A reader that went away (`srchat ls | head -1`) is no error of ours.
fn closed(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::silent(Code::Ok)
    } else {
        Failure::new(
            Code::Error,
            format!("could not write to standard output: {error}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_progress_fits_the_narrowest_terminal() {
        assert_eq!(fit("Downloading 63 %", 11), "Downloading");
        assert_eq!(fit("模型 a", 3), "模");
        assert_eq!(fit("short", 80), "short");
        assert_eq!(fit("any", 0), "");
    }

    #[test]
    fn without_utf8_our_own_signs_are_ascii() {
        assert_eq!(in_ascii("2 × L4 · 63 %…"), "2 x L4 - 63 %...");
    }
}

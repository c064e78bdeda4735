//! The only door to stdout and stderr. Data goes to stdout, everything else to stderr.

use crate::chat::markdown::printable;
use crate::failure::{Code, Failure};
use serde::Serialize;
use std::io::{self, IsTerminal as _, Write as _};

/// Where we print and how.
#[derive(Debug)]
pub struct Printer {
    /// Stdout is a terminal: foreign text is cleaned, Markdown is rendered.
    pub terminal: bool,
    /// Colours are wanted on stderr.
    colour: bool,
    /// Stderr is a terminal: one line of progress may be rewritten.
    live: bool,
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
        }
    }

    /// Whether Markdown is rendered: on a terminal that takes colours.
    pub fn renders_markdown(&self) -> bool {
        self.terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
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

    /// What the model thinks aloud: dimmed on a terminal, left out of a pipe.
    pub fn aside(&self, text: &str) -> Result<(), Failure> {
        match (self.terminal, self.renders_markdown()) {
            (true, true) => self.raw(&format!("\x1b[2m{}\x1b[0m", clean(text))),
            (true, false) => self.raw(&clean(text)),
            (false, _) => Ok(()),
        }
    }

    /// One line of data.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        self.foreign(&format!("{text}\n"))
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
        let _ = writeln!(io::stderr(), "{}", clean(text));
    }

    /// A line that the next one replaces. Where lines cannot be replaced, nothing.
    pub fn progress(&self, text: &str) {
        if self.live {
            let mut err = io::stderr().lock();
            let _ = write!(err, "\r\x1b[K{}", clean(text)).and_then(|()| err.flush());
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
        let _ = writeln!(err, "{red}error:{reset} {}", clean(&failure.message));
        if let Some(hint) = &failure.hint {
            let _ = writeln!(err, "{cyan}hint:{reset} {}", clean(hint));
        }
    }

    /// Whether progress lines are drawn.
    pub fn is_live(&self) -> bool {
        self.live
    }
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

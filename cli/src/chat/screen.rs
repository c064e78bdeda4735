//! The answer as it grows, and one line below it for what is typed meanwhile or what is being waited for. That line
//! alone is ever drawn again; each change goes out in one write, so nothing flickers.

use super::theme::{Theme, clip, columns, width};
use crate::failure::Failure;
use crate::print::Printer;

/// Terminals that know this show what stands between at once; the others ignore it.
const BEGIN: &str = "\x1b[?2026h";
const END: &str = "\x1b[?2026l";

/// The end of the scrollback while an answer comes.
pub struct Screen<'a> {
    print: &'a Printer,
    theme: Theme,
    /// Whether there is a line below.
    live: bool,
    column: usize,
    below: String,
    drawn: bool,
}

impl<'a> Screen<'a> {
    /// On a terminal with a line below; anywhere else only the answer is written.
    pub fn new(print: &'a Printer, theme: Theme, live: bool) -> Self {
        Self {
            print,
            theme,
            live,
            column: 0,
            below: String::new(),
            drawn: false,
        }
    }

    /// Adds text, after which the cursor is in `column`.
    pub fn write(&mut self, text: &str, column: usize) -> Result<(), Failure> {
        if !self.live {
            return if text.is_empty() {
                Ok(())
            } else {
                self.print.raw(text)
            };
        }
        let draws = !self.below.is_empty();
        self.column = column;
        if !self.drawn && !draws {
            return if text.is_empty() {
                Ok(())
            } else {
                self.print.raw(text)
            };
        }
        let mut out = String::with_capacity(text.len() + 64);
        out.push_str(BEGIN);
        if self.drawn {
            out.push_str("\x1b[J");
        }
        out.push_str(text);
        if draws {
            let (dim, reset) = (self.theme.style("\x1b[2m"), self.theme.style("\x1b[0m"));
            out.push_str(&format!("\n{dim}{}{reset}\r\x1b[1A", self.below));
            if column > 0 {
                out.push_str(&format!("\x1b[{column}C"));
            }
        }
        self.drawn = draws;
        out.push_str(END);
        self.print.raw(&out)
    }

    /// Changes the line below. Of a line that is too long the end is shown where somebody types, else the beginning.
    pub fn below(&mut self, text: &str, typed: bool) -> Result<(), Failure> {
        if !self.live {
            return Ok(());
        }
        let most = columns().saturating_sub(1);
        let mut shown = self.theme.show(text);
        while typed && width(&shown) > most {
            shown.remove(0);
        }
        let shown = clip(&shown, most);
        if shown == self.below {
            return Ok(());
        }
        self.below = shown;
        self.write("", self.column)
    }

    /// Takes the line below away; what follows begins on a line of its own.
    pub fn finish(&mut self) -> Result<(), Failure> {
        self.below("", false)?;
        if self.column > 0 {
            self.write("\n", 0)?;
        }
        Ok(())
    }
}

//! One answer on its way to the person: what the model thinks, dimmed or folded, then what it says.

use super::ahead::Ahead;
use super::conversation::Heard;
use super::markdown::{Aside, Markdown};
use super::screen::Screen;
use super::stream::Piece;
use super::theme::Theme;
use crate::failure::Failure;
use crate::print::Printer;
use std::time::{Duration, Instant};

/// A wait shorter than this needs no words.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where the answer is shown, and what has come of it.
pub struct Telling<'a> {
    screen: Screen<'a>,
    /// Off a terminal the answer goes out as it is, and nothing else does.
    drawn: Option<(Markdown, Aside)>,
    theme: Theme,
    folds: bool,
    stage: Stage,
    begun: Instant,
    typed: String,
    waits: Option<String>,
    /// What has come.
    pub heard: Heard,
    /// Tokens of prompt and answer, once they are known.
    pub tokens: Option<(u64, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Thinking,
    Answering,
}

impl<'a> Telling<'a> {
    /// Begins; `folds` says only that the model thought.
    pub fn new(print: &'a Printer, theme: Theme, live: bool, folds: bool) -> Self {
        Self {
            screen: Screen::new(print, theme, live),
            drawn: print
                .terminal
                .then(|| (Markdown::new(theme), Aside::new(theme))),
            theme,
            folds,
            stage: Stage::Waiting,
            begun: Instant::now(),
            typed: String::new(),
            waits: None,
            heard: Heard::default(),
            tokens: None,
        }
    }

    /// The next piece.
    pub fn take(&mut self, piece: Piece) -> Result<(), Failure> {
        self.waits = None;
        match piece {
            Piece::Usage { prompt, completion } => {
                self.tokens = Some((prompt, completion));
                Ok(())
            }
            Piece::Reasoning(piece) => {
                self.stage = Stage::Thinking;
                self.heard.reasoning.push_str(&piece);
                match &mut self.drawn {
                    Some((_, aside)) if !self.folds => {
                        let shown = aside.push(&piece);
                        self.screen.write(&shown, aside.column())?;
                    }
                    Some(_) | None => {}
                }
                self.draw_below()
            }
            Piece::Text(piece) => {
                self.end_thinking()?;
                self.stage = Stage::Answering;
                self.heard.text.push_str(&piece);
                match &mut self.drawn {
                    Some((markdown, _)) => {
                        let shown = markdown.push(&piece);
                        self.draw_below()?;
                        let Some((markdown, _)) = &self.drawn else {
                            return Ok(());
                        };
                        let column = markdown.column();
                        if shown.is_empty() {
                            Ok(())
                        } else {
                            self.screen.write(&shown, column)
                        }
                    }
                    None => self.screen.write(&piece, 0),
                }
            }
        }
    }

    fn end_thinking(&mut self) -> Result<(), Failure> {
        if self.stage != Stage::Thinking {
            return Ok(());
        }
        self.stage = Stage::Answering;
        let Some((_, aside)) = &mut self.drawn else {
            return Ok(());
        };
        let shown = match self.folds {
            true => {
                let (dim, reset) = (self.theme.style("\x1b[2m"), self.theme.style("\x1b[0m"));
                let seconds = self.begun.elapsed().as_secs();
                format!("{dim}(thought for {seconds} s; /think last shows it){reset}\n\n")
            }
            false => aside.finish() + "\n",
        };
        self.screen.write(&shown, 0)
    }

    /// What is typed meanwhile.
    pub fn typed(&mut self, ahead: &Ahead) -> Result<(), Failure> {
        self.typed = ahead.shown();
        self.draw_below()
    }

    /// What is being waited for.
    pub fn waits_for(&mut self, what: String) -> Result<(), Failure> {
        self.waits = Some(what);
        self.draw_below()
    }

    /// Time passes.
    pub fn tick(&mut self) -> Result<(), Failure> {
        self.draw_below()
    }

    fn draw_below(&mut self) -> Result<(), Failure> {
        let waited = self.begun.elapsed();
        let dots = self.theme.either("\u{2026}", "...");
        let text = match (&self.waits, self.stage) {
            _ if !self.typed.is_empty() => self.typed.clone(),
            (Some(what), _) => what.clone(),
            (None, Stage::Waiting) if waited >= PATIENCE => {
                format!("{dots} {} s, Ctrl-C stops", waited.as_secs())
            }
            (None, Stage::Thinking) if self.folds => {
                format!("thinking{dots} {} s", waited.as_secs())
            }
            (None, _) => String::new(),
        };
        self.screen.below(&text, !self.typed.is_empty())
    }

    /// Shows what was held back. The cursor is then at the beginning of a line.
    pub fn finish(&mut self) -> Result<(), Failure> {
        if self.stage == Stage::Thinking {
            self.end_thinking()?;
        }
        (self.typed, self.waits) = (String::new(), None);
        self.screen.below("", false)?;
        let rest = match &mut self.drawn {
            Some((markdown, _)) => markdown.finish(),
            None if self.heard.text.is_empty() || self.heard.text.ends_with('\n') => String::new(),
            None => "\n".to_owned(),
        };
        if !rest.is_empty() {
            self.screen.write(&rest, 0)?;
        }
        self.screen.finish()
    }
}

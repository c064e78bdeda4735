//! The line editor. It blocks, so it lives on a thread of its own: typing never waits for the network.

use crate::failure::{Code, Failure};
use reedline::{
    EditCommand, Emacs, KeyCode, KeyModifiers, Prompt, PromptEditMode, PromptHistorySearch,
    Reedline, ReedlineEvent, Signal, ValidationResult, Validator, default_emacs_keybindings,
};
use std::borrow::Cow;
use std::io::{BufRead as _, IsTerminal as _};
use tokio::sync::{mpsc, oneshot};

/// What the person did at the prompt.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// A line, of several lines perhaps.
    Line(String),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D on an empty line, or the end of a pipe.
    End,
}

/// The thread that reads.
pub struct Editor {
    questions: mpsc::Sender<oneshot::Sender<std::io::Result<Typed>>>,
}

impl Editor {
    /// Starts the thread: a line editor on a terminal, plain lines from anything else.
    pub fn start() -> Self {
        let (questions, mut asked) = mpsc::channel::<oneshot::Sender<_>>(1);
        std::thread::spawn(move || {
            let mut reader = Reader::new();
            while let Some(answer) = asked.blocking_recv() {
                // The asker may be gone; then nobody wants the line.
                let _ = answer.send(reader.read());
            }
        });
        Self { questions }
    }

    /// The next line.
    pub async fn read(&self) -> Result<Typed, Failure> {
        let (answer, typed) = oneshot::channel();
        let gone = || Failure::new(Code::Error, "the line editor has stopped");
        self.questions.send(answer).await.map_err(|_| gone())?;
        typed.await.map_err(|_| gone())?.map_err(|e| {
            Failure::new(
                Code::Error,
                format!("could not read from the terminal: {e}"),
            )
        })
    }
}

enum Reader {
    Terminal(Box<Reedline>),
    Pipe,
}

impl Reader {
    fn new() -> Self {
        if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
            Self::Terminal(Box::new(terminal()))
        } else {
            Self::Pipe
        }
    }

    fn read(&mut self) -> std::io::Result<Typed> {
        match self {
            Self::Terminal(editor) => Ok(match editor.read_line(&Arrow)? {
                Signal::Success(line) => Typed::Line(line.replace("\\\n", "\n")),
                Signal::CtrlC => Typed::Interrupt,
                _ => Typed::End,
            }),
            Self::Pipe => {
                let mut line = String::new();
                let read = std::io::stdin().lock().read_line(&mut line)?;
                Ok(if read == 0 {
                    Typed::End
                } else {
                    Typed::Line(line)
                })
            }
        }
    }
}

fn terminal() -> Reedline {
    let mut keys = default_emacs_keybindings();
    let new_line = || ReedlineEvent::Edit(vec![EditCommand::InsertNewline]);
    for (modifier, key) in [
        (KeyModifiers::ALT, KeyCode::Enter),
        (KeyModifiers::SHIFT, KeyCode::Enter),
        (KeyModifiers::CONTROL, KeyCode::Char('j')),
    ] {
        keys.add_binding(modifier, key, new_line());
    }
    Reedline::create()
        .with_edit_mode(Box::new(Emacs::new(keys)))
        .with_validator(Box::new(Backslash))
        .use_bracketed_paste(true)
        .use_kitty_keyboard_enhancement(true)
}

/// A backslash at the end of a line continues it.
struct Backslash;

impl Validator for Backslash {
    fn validate(&self, line: &str) -> ValidationResult {
        if line.ends_with('\\') {
            ValidationResult::Incomplete
        } else {
            ValidationResult::Complete
        }
    }
}

struct Arrow;

impl Prompt for Arrow {
    fn render_prompt_left(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    fn render_prompt_right(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    fn render_prompt_indicator(&self, _mode: PromptEditMode) -> Cow<'_, str> {
        Cow::Borrowed("> ")
    }

    fn render_prompt_multiline_indicator(&self) -> Cow<'_, str> {
        Cow::Borrowed("  ")
    }

    fn render_prompt_history_search_indicator(&self, search: PromptHistorySearch) -> Cow<'_, str> {
        Cow::Owned(format!("search {}: ", search.term))
    }
}

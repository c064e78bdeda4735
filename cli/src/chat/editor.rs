//! The line editor. It blocks, so it lives on a thread of its own: typing never waits for the network. While an
//! answer comes the same thread keeps what is typed ahead.

use super::ahead::Ahead;
use super::complete::Tab;
use super::terminal::{self, Quiet};
use super::theme::Theme;
use crate::failure::{Code, Failure};
use crate::history::prompts::Prompts;
use crate::print::Printer;
use reedline::{
    ColumnarMenu, EditCommand, Emacs, ExternalPrinter, Highlighter, KeyCode, KeyModifiers,
    MenuBuilder as _, Prompt, PromptEditMode, PromptHistorySearch, Reedline, ReedlineEvent,
    ReedlineMenu, Signal, StyledText, ValidationResult, Validator, default_emacs_keybindings,
};
use std::borrow::Cow;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Seek as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// How often the thread looks whether the answer is over: the prompt comes back within this.
const LOOK: Duration = Duration::from_millis(20);
/// Words from outside that wait to be shown above the prompt; more than anybody reads.
const NOTICES: usize = 100;
/// A message is no longer than this.
const LONGEST: u64 = 16 << 20;
/// What the key for `$EDITOR` asks of the thread.
const OPEN: &str = "open the draft in an editor";
const MENU: &str = "completions";

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

enum Order {
    Read {
        draft: String,
        answer: oneshot::Sender<io::Result<Typed>>,
    },
    Watch {
        over: Arc<AtomicBool>,
        seen: watch::Sender<Ahead>,
        answer: oneshot::Sender<Ahead>,
    },
}

/// The thread that reads.
pub struct Editor {
    orders: mpsc::Sender<Order>,
    notices: Option<SyncSender<String>>,
    print: Arc<Printer>,
    ahead: Mutex<Ahead>,
}

impl Editor {
    /// Starts the thread: a line editor on a terminal, plain lines from anything else.
    pub fn start(print: &Arc<Printer>, theme: Theme, prompts: Prompts) -> Self {
        let (orders, inbox) = mpsc::channel(1);
        let live = is_terminal();
        let printer = live.then(|| ExternalPrinter::<String>::new(NOTICES));
        let notices = printer.as_ref().map(ExternalPrinter::sender);
        std::thread::spawn(move || {
            let reader = match printer {
                Some(printer) => Reader::Terminal(Box::new(line_editor(theme, prompts, printer))),
                None => Reader::Pipe,
            };
            serve(reader, inbox);
        });
        Self {
            orders,
            notices,
            print: Arc::clone(print),
            ahead: Mutex::default(),
        }
    }

    /// Whether somebody sits at a terminal.
    pub fn is_live(&self) -> bool {
        self.notices.is_some()
    }

    /// The next line.
    pub async fn read(&self) -> Result<Typed, Failure> {
        let draft = {
            let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(line) = ahead.lines.pop_front() {
                drop(ahead);
                self.print
                    .raw(&format!("> {}\n", line.replace('\n', "\n  ")))?;
                return Ok(Typed::Line(line));
            }
            std::mem::take(&mut ahead.draft)
        };
        let (answer, typed) = oneshot::channel();
        self.orders
            .send(Order::Read { draft, answer })
            .await
            .map_err(|_| gone())?;
        typed.await.map_err(|_| gone())?.map_err(|e| {
            Failure::new(
                Code::Error,
                format!("could not read from the terminal: {e}"),
            )
        })
    }

    /// Keeps what is typed from now on, until the watch ends.
    pub async fn watch(&self) -> Result<Watch<'_>, Failure> {
        let over = Arc::new(AtomicBool::new(false));
        let (sender, seen) = watch::channel(
            self.ahead
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        );
        let (answer, end) = oneshot::channel();
        if self.is_live() {
            let order = Order::Watch {
                over: Arc::clone(&over),
                seen: sender,
                answer,
            };
            self.orders.send(order).await.map_err(|_| gone())?;
        }
        Ok(Watch {
            editor: self,
            over,
            seen,
            end,
        })
    }

    /// Puts a text back to the prompt, before everything that was typed meanwhile: nothing of it is sent by itself.
    pub fn put_back(&self, text: String) {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let mut parts = vec![text];
        parts.extend(std::mem::take(&mut ahead.lines));
        parts.push(std::mem::take(&mut ahead.draft));
        parts.retain(|part| !part.is_empty());
        ahead.draft = parts.join("\n");
    }

    /// Who says something while the person types.
    pub fn notices(&self) -> Notices {
        Notices {
            sender: self.notices.clone(),
            print: Arc::clone(&self.print),
        }
    }
}

fn gone() -> Failure {
    Failure::new(Code::Error, "the line editor has stopped")
}

fn is_terminal() -> bool {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdin().is_terminal() && io::stdout().is_terminal() && !dumb
}

/// Shows words above the prompt, without touching the draft in it.
#[derive(Clone)]
pub struct Notices {
    sender: Option<SyncSender<String>>,
    print: Arc<Printer>,
}

impl Notices {
    /// Says it as soon as it disturbs nothing.
    pub fn say(&self, text: &str) {
        match &self.sender {
            // Full: nobody has looked for a long time, and what comes next says more.
            Some(sender) => drop(sender.try_send(crate::print::clean(text))),
            None => self.print.note(text),
        }
    }
}

/// The time of one answer.
pub struct Watch<'a> {
    editor: &'a Editor,
    over: Arc<AtomicBool>,
    /// What has been typed so far.
    pub seen: watch::Receiver<Ahead>,
    end: oneshot::Receiver<Ahead>,
}

impl Watch<'_> {
    /// Hands what was typed over to the prompt.
    pub async fn end(mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Without a terminal nothing was ordered, and nothing comes.
        if let Ok(typed) = (&mut self.end).await {
            *self
                .editor
                .ahead
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = typed;
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

enum Reader {
    Terminal(Box<Reedline>),
    Pipe,
}

fn serve(mut reader: Reader, mut inbox: mpsc::Receiver<Order>) {
    while let Some(order) = inbox.blocking_recv() {
        match order {
            Order::Read { draft, answer } => {
                // The asker may be gone; then nobody wants the line.
                let _ = answer.send(reader.read(&draft));
            }
            Order::Watch { over, seen, answer } => {
                let _ = answer.send(typed_ahead(&over, &seen));
            }
        }
    }
}

fn typed_ahead(over: &AtomicBool, seen: &watch::Sender<Ahead>) -> Ahead {
    let mut ahead = seen.borrow().clone();
    // Without these modes keys would be echoed into the answer; they would still be there afterwards.
    let quiet = Quiet::begin();
    while quiet.is_ok() && !over.load(Ordering::SeqCst) {
        let key = match crossterm::event::poll(LOOK) {
            Ok(true) => crossterm::event::read(),
            Ok(false) => continue,
            Err(error) => Err(error),
        };
        match key {
            Ok(key) => {
                if ahead.take(key) {
                    seen.send_replace(ahead.clone());
                }
            }
            Err(_) => break,
        }
    }
    ahead
}

impl Reader {
    fn read(&mut self, draft: &str) -> io::Result<Typed> {
        match self {
            Self::Terminal(editor) => {
                if !draft.is_empty() {
                    editor.run_edit_commands(&[EditCommand::InsertString(draft.to_owned())]);
                }
                loop {
                    terminal::editing(true);
                    let signal = editor.read_line(&Arrow);
                    terminal::editing(false);
                    return Ok(match signal? {
                        Signal::Success(line) => Typed::Line(line.replace("\\\n", "\n")),
                        Signal::CtrlC => Typed::Interrupt,
                        Signal::HostCommand(_) => {
                            let changed = in_editor(editor.current_buffer_contents())?;
                            editor.run_edit_commands(&[
                                EditCommand::Clear,
                                EditCommand::InsertString(changed),
                            ]);
                            continue;
                        }
                        _ => Typed::End,
                    });
                }
            }
            Self::Pipe => {
                let mut line = String::new();
                let read = io::stdin().lock().read_line(&mut line)?;
                Ok(if read == 0 {
                    Typed::End
                } else {
                    Typed::Line(line)
                })
            }
        }
    }
}

/// Lets the person change the draft in `$VISUAL` or `$EDITOR`. The file is private and gone afterwards.
fn in_editor(draft: &str) -> io::Result<String> {
    let set = |name: &str| {
        std::env::var(name)
            .ok()
            .filter(|value| !value.trim().is_empty())
    };
    let program = set("VISUAL")
        .or_else(|| set("EDITOR"))
        .unwrap_or_else(|| "vi".to_owned());
    // In memory where there is such a place.
    let folder = set("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, Into::into);
    let mut file = tempfile::Builder::new()
        .prefix("srchat-")
        .suffix(".md")
        .tempfile_in(folder)?;
    file.write_all(draft.as_bytes())?;
    // As git does: the variable may hold arguments.
    let ended = terminal::lend(|| {
        std::process::Command::new("sh")
            .args(["-c", &format!("{program} \"$@\""), &program])
            .arg(file.path())
            .status()
    })?;
    if !ended.success() {
        return Ok(draft.to_owned());
    }
    // Many editors put a new file under the old name.
    let mut changed = String::new();
    match std::fs::File::open(file.path()) {
        Ok(renewed) => renewed.take(LONGEST).read_to_string(&mut changed)?,
        Err(_) => {
            file.rewind()?;
            file.take(LONGEST).read_to_string(&mut changed)?
        }
    };
    Ok(changed.trim_end().to_owned())
}

fn line_editor(theme: Theme, prompts: Prompts, printer: ExternalPrinter<String>) -> Reedline {
    let mut keys = default_emacs_keybindings();
    let new_line = || ReedlineEvent::Edit(vec![EditCommand::InsertNewline]);
    for (modifier, key) in [
        (KeyModifiers::ALT, KeyCode::Enter),
        (KeyModifiers::SHIFT, KeyCode::Enter),
        (KeyModifiers::CONTROL, KeyCode::Char('j')),
    ] {
        keys.add_binding(modifier, key, new_line());
    }
    keys.add_binding(
        KeyModifiers::NONE,
        KeyCode::Tab,
        ReedlineEvent::UntilFound(vec![
            ReedlineEvent::Menu(MENU.into()),
            ReedlineEvent::MenuNext,
        ]),
    );
    keys.add_binding(
        KeyModifiers::CONTROL,
        KeyCode::Char('g'),
        ReedlineEvent::ExecuteHostCommand(OPEN.into()),
    );
    let menu = ColumnarMenu::default().with_name(MENU).with_marker("> ");
    Reedline::create()
        .with_edit_mode(Box::new(Emacs::new(keys)))
        .with_validator(Box::new(Backslash))
        .with_history(Box::new(prompts))
        .with_completer(Box::new(Tab))
        .with_menu(ReedlineMenu::EngineCompleter(Box::new(menu)))
        .with_quick_completions(true)
        .with_partial_completions(true)
        .with_highlighter(Box::new(Plain))
        .with_ansi_colors(theme.styled)
        .with_external_printer(printer)
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

/// What a person types is shown as it is.
struct Plain;

impl Highlighter for Plain {
    fn highlight(&self, line: &str, _cursor: usize) -> StyledText {
        let mut text = StyledText::new();
        text.push((nu_ansi_term::Style::new(), line.to_owned()));
        text
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

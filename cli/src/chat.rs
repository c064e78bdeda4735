//! The conversation: lines in, streamed answers out, all of it in the terminal's own scrollback.

mod ahead;
mod answer;
mod clipboard;
mod commands;
mod complete;
pub mod conversation;
pub mod editor;
pub mod image;
mod limits;
pub mod markdown;
mod record;
mod screen;
mod settings;
pub mod slash;
pub mod stream;
mod telling;
mod terminal;
pub mod theme;
mod words;

use crate::cluster::Cluster;
use crate::failure::{Code, Failure};
use crate::gateway::Gateway;
use crate::history::entry::Header;
use crate::history::prompts::Prompts;
use crate::print::Printer;
use crate::signals;
use conversation::{Conversation, Picture};
use editor::{Editor, Typed};
use limits::Limits;
use record::Record;
use slash::Line;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use terminal::Sane;
use theme::Theme;

/// What the chat is with.
pub struct About {
    /// What the history says of it: model, session, namespace, UID.
    pub header: Header,
    /// Whether the model sees.
    pub vision: bool,
    /// Tokens that it can read at once, if the plan says.
    pub context: Option<u64>,
    /// Whether the session ends when the chat is left, unless `/keep` was said.
    pub ends: bool,
    /// Set when `/keep` is said.
    pub keep: Arc<AtomicBool>,
}

/// A chat with one session.
pub struct Chat<'a> {
    cluster: &'a Cluster,
    about: About,
    gateway: Gateway,
    print: Arc<Printer>,
    theme: Theme,
    editor: Editor,
    limits: Limits,
    record: Record,
    conversation: Conversation,
    /// Pictures that wait for the next message.
    waiting: Vec<Picture>,
    /// What the model thinks is shown as it comes.
    thinking: bool,
    /// Tokens read and written, of the last answer and of all.
    tokens: Tokens,
    /// The next message takes the place of the last turn.
    replacing: bool,
    _sane: Sane,
}

/// Tokens, as the engine counts them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tokens {
    last: (u64, u64),
    all: (u64, u64),
}

impl<'a> Chat<'a> {
    /// A new conversation. With `history` it is kept on this machine, encrypted.
    pub fn new(
        cluster: &'a Cluster,
        gateway: Gateway,
        about: About,
        print: &Arc<Printer>,
        history: bool,
    ) -> Self {
        let sane = Sane::keep();
        let theme = Theme::of_terminal();
        let record = Record::begin(history, &about.header, print);
        let prompts = match record.folder() {
            Some(folder) => Prompts::with_earlier(folder.to_owned()),
            None => Prompts::default(),
        };
        let editor = Editor::start(print, theme, prompts);
        if editor.is_live() {
            terminal::hush();
        }
        let limits = Limits::follow(gateway.clone(), editor.notices());
        Self {
            cluster,
            about,
            gateway,
            print: Arc::clone(print),
            theme,
            editor,
            limits,
            record,
            conversation: Conversation::default(),
            waiting: Vec::new(),
            thinking: true,
            tokens: Tokens::default(),
            replacing: false,
            _sane: sane,
        }
    }

    /// Reads and answers until the person leaves. What fails is said, and the chat goes on.
    ///
    /// # Errors
    /// Only what ends the chat: no terminal to read from, a signal.
    pub async fn run(mut self, first: Option<String>) -> Result<(), Failure> {
        tokio::select! {
            // A closed terminal hangs up and fails to be read at the same time: it is the signal that counts.
            biased;
            () = signals::ended() => Err(Failure::silent(Code::Interrupted)),
            left = self.converse(first) => left,
        }
    }

    async fn converse(&mut self, first: Option<String>) -> Result<(), Failure> {
        if let Some(first) = first {
            self.go_on(Line::Message(first)).await?;
        }
        let mut interrupted = false;
        loop {
            let line = match self.editor.read().await? {
                Typed::Line(line) => line,
                Typed::End => return Ok(()),
                Typed::Interrupt if interrupted => return Ok(()),
                Typed::Interrupt => {
                    (interrupted, self.replacing) = (true, false);
                    self.print.note("Ctrl-C again, or /exit, leaves the chat.");
                    continue;
                }
            };
            interrupted = false;
            if !self.go_on(slash::parse(&line)).await? {
                return Ok(());
            }
        }
    }

    /// Does what a line says and tells what failed; false leaves.
    async fn go_on(&mut self, line: Line) -> Result<bool, Failure> {
        let stays = match line {
            Line::Empty => return Ok(true),
            Line::Wrong(what) => {
                self.print.note(&what);
                return Ok(true);
            }
            Line::Message(text) => self.message(text).await.map(|()| true),
            Line::Command(command) => self.obey(command).await,
        };
        match stays {
            // The reader of our output is gone.
            Err(failure) if failure.message.is_empty() => Err(failure),
            Err(failure) => {
                self.print.failure(&failure);
                Ok(true)
            }
            Ok(stays) => Ok(stays),
        }
    }
}

//! The conversation: lines in, streamed answers out, all of it in the terminal's own scrollback.

pub mod editor;
pub mod image;
pub mod markdown;
pub mod slash;
pub mod stream;

use crate::failure::{Code, Failure};
use crate::gateway::Gateway;
use crate::print::Printer;
use crate::transfer;
use editor::{Editor, Typed};
use markdown::Markdown;
use serde_json::{Value, json};
use slash::Line;
use std::path::Path;
use std::sync::Arc;
use stream::{Answer, Piece};

/// A chat with one session.
pub struct Chat {
    gateway: Gateway,
    print: Arc<Printer>,
    messages: Vec<Value>,
    /// Pictures that wait for the next message.
    pictures: Vec<Value>,
    /// Whether the model sees.
    vision: bool,
}

/// How an answer ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Whole,
    Stopped,
}

impl Chat {
    /// A new conversation.
    pub fn new(gateway: Gateway, print: Arc<Printer>, vision: bool) -> Self {
        Self {
            gateway,
            print,
            messages: Vec::new(),
            pictures: Vec::new(),
            vision,
        }
    }

    /// Reads and answers until the person leaves. What fails is said, and the chat goes on.
    pub async fn run(mut self, first: Option<String>) -> Result<(), Failure> {
        if let Some(first) = first {
            self.say(self.message(first)).await?;
        }
        let editor = Editor::start();
        let mut interrupted = false;
        loop {
            let line = match editor.read().await? {
                Typed::Line(line) => line,
                Typed::End => return Ok(()),
                Typed::Interrupt if interrupted => return Ok(()),
                Typed::Interrupt => {
                    interrupted = true;
                    self.print.note("Ctrl-C again, or /exit, leaves the chat.");
                    continue;
                }
            };
            interrupted = false;
            match self.obey(slash::parse(&line)).await {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(failure) if failure.message.is_empty() => return Err(failure),
                Err(failure) => self.print.failure(&failure),
            }
        }
    }

    /// Does what a line says; false leaves.
    async fn obey(&mut self, line: Line) -> Result<bool, Failure> {
        match line {
            Line::Empty => {}
            Line::Help => self.print.note(slash::HELP),
            Line::Exit => return Ok(false),
            Line::Clear => {
                self.messages.clear();
                self.pictures.clear();
                self.print.note("The conversation is forgotten.");
            }
            Line::Wrong(what) => self.print.note(&what),
            Line::Message(text) => self.say(self.message(text)).await?,
            Line::Image { path, message } => self.show(&path, message).await?,
            Line::Upload { local, remote } => self.upload(&local, remote).await?,
            Line::Download { remote, local } => self.download(&remote, local).await?,
        }
        Ok(true)
    }

    fn message(&self, text: String) -> Value {
        if self.pictures.is_empty() {
            return json!({"role": "user", "content": text});
        }
        let mut parts = self.pictures.clone();
        parts.push(json!({"type": "text", "text": text}));
        json!({"role": "user", "content": parts})
    }

    /// One turn. Only a turn that has an answer becomes part of the conversation, so a failed one can be sent again.
    async fn say(&mut self, message: Value) -> Result<(), Failure> {
        self.messages.push(message);
        let request = json!({
            "messages": self.messages,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        let mut text = String::new();
        let outcome = answer(&self.gateway, &request, &self.print, &mut text).await;
        if text.is_empty() {
            self.messages.pop();
        } else {
            self.messages
                .push(json!({"role": "assistant", "content": text}));
            self.pictures.clear();
        }
        if outcome? == Ended::Stopped {
            self.print.note("(stopped)");
        }
        Ok(())
    }

    async fn show(&mut self, path: &str, message: Option<String>) -> Result<(), Failure> {
        if !self.vision {
            return Err(
                Failure::new(Code::Usage, "this session's model does not see pictures").hint(
                    "start a session with a vision model, such as Qwen/Qwen2.5-VL-7B-Instruct",
                ),
            );
        }
        self.pictures.push(image::part(Path::new(path))?);
        match message {
            Some(text) => self.say(self.message(text)).await,
            None => {
                self.print.note("The picture goes with your next message.");
                Ok(())
            }
        }
    }

    async fn upload(&self, local: &str, remote: Option<String>) -> Result<(), Failure> {
        let local = Path::new(local);
        let own = local
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let remote = remote.or(own).unwrap_or_default();
        let moved = stoppable(transfer::upload(
            &self.gateway,
            (local, &remote),
            &self.print,
        ));
        let moved = moved.await?;
        self.print.note(&format!(
            "{remote} is there: {}, SHA-256 {}",
            transfer::size(moved.bytes),
            moved.sha256
        ));
        Ok(())
    }

    async fn download(&self, remote: &str, local: Option<String>) -> Result<(), Failure> {
        let local = local.unwrap_or_else(|| ".".into());
        let paths = (remote, Path::new(&local));
        let moved = stoppable(transfer::download(&self.gateway, paths, false, &self.print)).await?;
        self.print.note(&format!(
            "{remote} is here: {}, SHA-256 {}",
            transfer::size(moved.bytes),
            moved.sha256
        ));
        Ok(())
    }
}

/// Streams one answer to stdout and into `text`. Ctrl-C drops the connection, which stops the engine.
async fn answer(
    gateway: &Gateway,
    request: &Value,
    print: &Printer,
    text: &mut String,
) -> Result<Ended, Failure> {
    let mut markdown = print.renders_markdown().then(Markdown::default);
    let outcome = tokio::select! {
        outcome = receive(gateway, request, (print, markdown.as_mut()), text) => outcome.map(|()| Ended::Whole),
        _ = tokio::signal::ctrl_c() => Ok(Ended::Stopped),
    };
    let rest = markdown.map(|mut m| m.finish()).unwrap_or_default();
    print.raw(&rest)?;
    if !text.is_empty() && !text.ends_with('\n') {
        print.raw("\n")?;
    }
    outcome
}

async fn receive(
    gateway: &Gateway,
    request: &Value,
    (print, mut markdown): (&Printer, Option<&mut Markdown>),
    text: &mut String,
) -> Result<(), Failure> {
    let mut answer = Answer::new(gateway.chat(request).await?);
    let mut thinking = false;
    while let Some(piece) = answer.next().await? {
        match piece {
            Piece::Text(piece) => {
                if std::mem::take(&mut thinking) {
                    print.aside("\n\n")?;
                }
                match markdown.as_deref_mut() {
                    Some(markdown) => print.raw(&markdown.push(&piece))?,
                    None => print.foreign(&piece)?,
                }
                text.push_str(&piece);
            }
            Piece::Reasoning(piece) => {
                thinking = true;
                print.aside(&piece)?;
            }
            Piece::Usage { .. } => {}
        }
    }
    Ok(())
}

async fn stoppable<T>(act: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        outcome = act => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Code::Interrupted, "stopped; nothing was left half done")),
    }
}

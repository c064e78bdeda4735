//! What the slash commands do.

use super::conversation::{Turn, last_code};
use super::markdown::Aside;
use super::slash::{self, Command, Think, What};
use super::{Chat, clipboard, image, words};
use crate::failure::{Code, Failure};
use crate::history::entry::{Entry, Story, Turn as Told};
use crate::history::export;
use crate::session::{lines, span};
use crate::transfer;
use jiff::Timestamp;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

impl Chat<'_> {
    /// Does what a command asks for; false leaves.
    pub(super) async fn obey(&mut self, command: Command) -> Result<bool, Failure> {
        match command {
            Command::Help => self.print.note(&slash::help(super::theme::columns())),
            Command::Exit => return Ok(false),
            Command::Upload { local, remote } => self.upload(&local, remote).await?,
            Command::Download { remote, local } => self.download(&remote, local).await?,
            Command::Files => self.files().await?,
            Command::Image { path, message } => self.image(&path, message).await?,
            Command::Regen => self.regen().await?,
            Command::Edit => self.edit()?,
            Command::Undo => self.undo()?,
            Command::Clear => self.clear(),
            Command::System(text) => self.system(text),
            Command::Set(pair) => self.set(pair)?,
            Command::Model => self.model().await?,
            Command::Think(what) => self.think(what)?,
            Command::Tokens => self.tokens(),
            Command::Cost => self.cost(),
            Command::Status => self.status().await?,
            Command::Raw => self.print.foreign(&ended(&self.last()?.heard.text))?,
            Command::Copy(what) => self.copy(what)?,
            Command::Save(file) => self.save(file)?,
            Command::Export(file) => self.export(file)?,
            Command::Keep => self.keep(),
        }
        Ok(true)
    }

    fn last(&self) -> Result<&Turn, Failure> {
        let nothing =
            || Failure::new(Code::Usage, "there is no answer yet").hint("ask something first");
        self.conversation.last().ok_or_else(nothing)
    }

    async fn image(&mut self, path: &str, message: Option<String>) -> Result<(), Failure> {
        if !self.about.vision {
            return Err(
                Failure::new(Code::Usage, "this session's model does not see pictures").hint(
                    "start a session with a vision model, such as Qwen/Qwen2.5-VL-7B-Instruct",
                ),
            );
        }
        self.waiting.push(image::picture(&words::path(path))?);
        match message {
            Some(text) => self.message(text).await,
            None => {
                self.print.note("The picture goes with your next message.");
                Ok(())
            }
        }
    }

    async fn regen(&mut self) -> Result<(), Failure> {
        let said = self.last()?.said.clone();
        let before = self.conversation.undo();
        self.record.add(&Entry::Undone);
        let outcome = self.say(said.clone()).await;
        let replaced = self
            .conversation
            .last()
            .is_some_and(|turn| turn.said == said);
        if let (false, Some(before)) = (replaced, before) {
            // No new answer: the old one stays.
            let now = Timestamp::now();
            let pictures = before
                .said
                .pictures
                .iter()
                .map(|picture| picture.name.clone())
                .collect();
            self.record.add(&Entry::Said {
                at: now,
                text: before.said.text.clone(),
                pictures,
            });
            let heard = &before.heard;
            self.record.add(&Entry::Answered {
                at: now,
                text: heard.text.clone(),
                reasoning: heard.reasoning.clone(),
                cut: heard.cut,
            });
            self.conversation.add(before.said, before.heard);
        }
        outcome
    }

    fn edit(&mut self) -> Result<(), Failure> {
        let turn = self.last()?;
        let (text, pictures) = (turn.said.text.clone(), turn.said.pictures.clone());
        self.editor.put_back(text);
        (self.waiting, self.replacing) = (pictures, true);
        self.print
            .note("Enter sends it in the place of the last turn, Ctrl-C leaves the turn as it is.");
        Ok(())
    }

    fn undo(&mut self) -> Result<(), Failure> {
        self.last()?;
        if let Some(turn) = self.conversation.undo() {
            self.record.add(&Entry::Undone);
            let words: String = turn.said.text.chars().take(40).collect();
            self.print.note(&format!("Taken back: {words}"));
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.conversation.clear();
        (self.waiting, self.replacing) = (Vec::new(), false);
        self.record.add(&Entry::Forgotten);
        self.print.note("The conversation is forgotten.");
    }

    fn system(&mut self, text: Option<String>) {
        match text.as_deref() {
            None => {}
            Some("-") => self.conversation.system = None,
            Some(_) => self.conversation.system.clone_from(&text),
        }
        let now = self.conversation.system.clone();
        if text.is_some() {
            self.record.add(&Entry::System {
                text: now.clone().unwrap_or_default(),
            });
        }
        self.print
            .note(&now.map_or("There is no system prompt.".into(), |now| {
                format!("System prompt: {now}")
            }));
    }

    fn set(&mut self, pair: Option<(String, String)>) -> Result<(), Failure> {
        if let Some((name, value)) = pair {
            let set = self.conversation.settings.set(&name, &value);
            set.map_err(|what| Failure::new(Code::Usage, what))?;
        }
        self.print.note(&self.conversation.settings.list());
        Ok(())
    }

    async fn model(&self) -> Result<(), Failure> {
        let models = self.gateway.models().await?;
        let model = &models["data"][0];
        let reads = model["max_model_len"].as_u64().or(self.about.context);
        let reads = reads.map_or(String::new(), |tokens| {
            format!(", reads {tokens} tokens at once")
        });
        let sees = if self.about.vision {
            ", sees pictures"
        } else {
            ""
        };
        let served = model["id"].as_str().unwrap_or(&self.about.header.model);
        self.print.note(&format!("{served}{reads}{sees}"));
        Ok(())
    }

    fn think(&mut self, what: Think) -> Result<(), Failure> {
        match what {
            Think::Last => {
                let reasoning = self.last()?.heard.reasoning.clone();
                if reasoning.is_empty() {
                    self.print
                        .note("The model did not think before this answer.");
                    return Ok(());
                }
                let mut aside = Aside::new(self.theme);
                let shown = aside.push(&reasoning) + &aside.finish();
                return self.print.raw(&shown);
            }
            Think::Toggle => self.thinking = !self.thinking,
            Think::Show => self.thinking = true,
            Think::Fold => self.thinking = false,
        }
        self.print.note(match self.thinking {
            true => "What the model thinks is shown.",
            false => "What the model thinks is folded; /think last shows it.",
        });
        Ok(())
    }

    fn tokens(&self) {
        let ((read, written), (all_read, all_written)) = (self.tokens.last, self.tokens.all);
        let of = match self.about.context {
            Some(most) if most > 0 => format!(" ({} % of {most})", (read + written) * 100 / most),
            _ => String::new(),
        };
        self.print.note(&format!(
            "Last answer: {read} tokens read, {written} written{of}. In all: {all_read} read, {all_written} written."
        ));
    }

    fn cost(&self) {
        let status = self.limits.latest();
        let Some(cost) = status.cost else {
            self.print.note("What the session costs is not known yet.");
            return;
        };
        let hourly = cost
            .hourly
            .map_or(String::new(), |hourly| format!(", ${hourly} an hour"));
        let ends = status.expiry.map_or(String::new(), |expiry| {
            let left = span(expiry.time.duration_since(Timestamp::now()));
            format!(
                "; it ends in {left} at the latest ({})",
                expiry.reason.to_lowercase()
            )
        });
        self.print.note(&format!(
            "This session has cost ${}{hourly}{ends}.",
            cost.accrued
        ));
    }

    async fn status(&self) -> Result<(), Failure> {
        let session = self.cluster.session(&self.about.header.session).await?;
        for (what, value) in lines(&session, Timestamp::now()) {
            self.print.note(&format!("{what:<10}{value}"));
        }
        Ok(())
    }

    async fn files(&self) -> Result<(), Failure> {
        let list = self.gateway.list().await?;
        for file in &list.files {
            self.print
                .note(&format!("{:>10}  {}", transfer::size(file.size), file.name));
        }
        let count = list.files.len();
        self.print.note(&format!(
            "{count} files, {} of {} used",
            transfer::size(list.used),
            transfer::size(list.quota)
        ));
        Ok(())
    }

    fn copy(&self, what: What) -> Result<(), Failure> {
        let answer = &self.last()?.heard.text;
        let text = match what {
            What::Answer => answer.clone(),
            What::Code => last_code(answer).ok_or_else(|| {
                Failure::new(Code::Usage, "there is no code block in the last answer")
            })?,
        };
        if !self.editor.is_live() {
            return Err(Failure::new(
                Code::Usage,
                "there is no terminal whose clipboard could be reached",
            )
            .hint("/save writes a file"));
        }
        let sequence = clipboard::copy(&text, std::env::var_os("TMUX").is_some());
        let too_long = || {
            Failure::new(Code::Usage, "this is longer than terminals take")
                .hint("/save writes it to a file")
        };
        self.print.raw(&sequence.ok_or_else(too_long)?)?;
        self.print.note(&format!(
            "{} characters are on their way to the clipboard, if the terminal allows it.",
            text.chars().count()
        ));
        Ok(())
    }

    fn save(&self, file: Option<String>) -> Result<(), Failure> {
        let text = ended(&self.last()?.heard.text);
        let path = written(
            file,
            &format!("{}-answer.md", self.about.header.session),
            text.as_bytes(),
        )?;
        self.print
            .note(&format!("The answer is in {}.", path.display()));
        Ok(())
    }

    fn export(&self, file: Option<String>) -> Result<(), Failure> {
        self.last()?;
        let story = self.story();
        let default = format!("{}-chat.md", self.about.header.session);
        let is_json = file
            .as_deref()
            .is_some_and(|file| file.to_ascii_lowercase().ends_with(".json"));
        let text = match is_json {
            true => serde_json::to_string_pretty(&story).map_err(|e| {
                Failure::new(
                    Code::Error,
                    format!("could not write the conversation as JSON: {e}"),
                )
            })?,
            false => export::markdown(&story),
        };
        let path = written(file, &default, ended(&text).as_bytes())?;
        self.print
            .note(&format!("The conversation is in {}.", path.display()));
        Ok(())
    }

    /// The conversation as the model sees it, in the form of the history.
    fn story(&self) -> Story {
        let turn = |turn: &Turn| Told {
            system: self.conversation.system.clone(),
            said: Some(turn.said.text.clone()),
            pictures: turn
                .said
                .pictures
                .iter()
                .map(|picture| picture.name.clone())
                .collect(),
            answer: Some(turn.heard.text.clone()),
            reasoning: turn.heard.reasoning.clone(),
            cut: turn.heard.cut,
            ..Told::default()
        };
        Story {
            id: self.record.id().unwrap_or("not kept").to_owned(),
            header: Some(self.about.header.clone()),
            turns: self.conversation.turns().iter().map(turn).collect(),
            lost: 0,
        }
    }

    fn keep(&mut self) {
        self.about.keep.store(true, Ordering::Relaxed);
        self.print.note(match self.about.ends {
            true => "The session goes on when you leave, until one of its limits.",
            false => "This session goes on when you leave in any case; `srchat rm` ends it.",
        });
    }

    async fn upload(&self, local: &str, remote: Option<String>) -> Result<(), Failure> {
        let local = words::path(local);
        let own = local
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let remote = remote.or(own).unwrap_or_default();
        let paths = (local.as_path(), remote.as_str());
        let moved = stoppable(transfer::upload(&self.gateway, paths, &self.print)).await?;
        let size = transfer::size(moved.bytes);
        self.print.note(&format!(
            "{remote} is there: {size}, SHA-256 {}",
            moved.sha256
        ));
        Ok(())
    }

    async fn download(&self, remote: &str, local: Option<String>) -> Result<(), Failure> {
        let local = local.map_or_else(|| PathBuf::from("."), |local| words::path(&local));
        let moved = stoppable(transfer::download(
            &self.gateway,
            (remote, &local),
            false,
            &self.print,
        ))
        .await?;
        let size = transfer::size(moved.bytes);
        self.print.note(&format!(
            "{remote} is here: {size}, SHA-256 {}",
            moved.sha256
        ));
        Ok(())
    }
}

async fn stoppable<T>(act: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        outcome = act => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Code::Interrupted, "stopped; nothing was left half done")),
    }
}

fn ended(text: &str) -> String {
    format!("{}\n", text.trim_end_matches('\n'))
}

/// Writes a new file; what exists is never replaced.
fn written(file: Option<String>, default: &str, bytes: &[u8]) -> Result<PathBuf, Failure> {
    let path = words::path(file.as_deref().unwrap_or(default));
    write(&path, bytes).map_err(|error| {
        let failure = Failure::new(
            Code::Error,
            format!("could not write {}: {error}", path.display()),
        );
        match error.kind() {
            io::ErrorKind::AlreadyExists => {
                failure.hint("name another file: /save FILE, /export FILE")
            }
            _ => failure,
        }
    })?;
    Ok(path)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes).inspect_err(|_| {
        // Half a file under the name that was asked for would look like the whole.
        let _ = std::fs::remove_file(path);
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_that_exists_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.md").to_str().unwrap().to_owned();
        written(Some(path.clone()), "x", b"one").unwrap();
        assert!(
            written(Some(path.clone()), "x", b"two")
                .unwrap_err()
                .hint
                .is_some()
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
    }
}

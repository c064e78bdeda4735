//! One turn: the message goes out, the answer comes in; what goes wrong in between costs neither.

use super::conversation::{Heard, Said};
use super::stream::Answer;
use super::telling::Telling;
use super::{Chat, image, words};
use crate::failure::{Code, Failure};
use crate::history::entry::Entry;
use jiff::Timestamp;
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// A gateway is restarted within seconds, a rolling update takes a minute or two.
const AWAY: Duration = Duration::from_secs(120);
/// A tunnel to the host is made again within this.
const STUMBLED: Duration = Duration::from_secs(15);
/// Between attempts, doubled up to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// The gateway takes 32 MiB of JSON.
const LARGEST_REQUEST: usize = 32 << 20;

impl Chat<'_> {
    /// Sends a message, with the pictures that wait and those whose paths are in it.
    pub(super) async fn message(&mut self, text: String) -> Result<(), Failure> {
        let (text, paths) = match self.about.vision {
            true => words::pictures(&text, image::is_picture),
            false => (text, Vec::new()),
        };
        let mut pictures = self.waiting.clone();
        for path in paths {
            pictures.push(image::picture(&path)?);
        }
        if std::mem::take(&mut self.replacing) && self.conversation.undo().is_some() {
            self.record.add(&Entry::Undone);
        }
        self.say(Said { text, pictures }).await
    }

    /// One turn. Only a turn that has an answer becomes part of the conversation; of one that has none the message
    /// comes back to the prompt.
    pub(super) async fn say(&mut self, said: Said) -> Result<(), Failure> {
        let request = self.conversation.request(&said);
        if request.to_string().len() > LARGEST_REQUEST {
            self.editor.put_back(said.text);
            return Err(Failure::new(
                Code::Usage,
                "the conversation is larger than the 32 MiB that the gateway takes",
            )
            .hint("pictures take most of it: /undo takes the last turn back, /clear starts anew"));
        }
        self.record.add(&Entry::Said {
            at: Timestamp::now(),
            text: said.text.clone(),
            pictures: said
                .pictures
                .iter()
                .map(|picture| picture.name.clone())
                .collect(),
        });
        let (heard, tokens, outcome) = self.hear(&request).await?;
        if let Some((read, written)) = tokens {
            self.tokens.last = (read, written);
            self.tokens.all.0 += read;
            self.tokens.all.1 += written;
        }
        if heard.text.is_empty() && outcome.is_err() {
            self.record.add(&Entry::Undone);
            self.editor.put_back(said.text);
        } else {
            self.record.add(&Entry::Answered {
                at: Timestamp::now(),
                text: heard.text.clone(),
                reasoning: heard.reasoning.clone(),
                cut: heard.cut,
            });
            self.waiting.clear();
            self.conversation.add(said, heard);
        }
        match outcome {
            Err(failure) if failure.code == Code::Interrupted => {
                self.print.note("(stopped)");
                Ok(())
            }
            Err(failure) => Err(advised(failure)),
            Ok(()) => Ok(()),
        }
    }

    /// Streams one answer. Ctrl-C drops the connection, which stops the engine.
    async fn hear(
        &mut self,
        request: &Value,
    ) -> Result<(Heard, Option<(u64, u64)>, Result<(), Failure>), Failure> {
        let print = std::sync::Arc::clone(&self.print);
        let mut telling = Telling::new(&print, self.theme, self.editor.is_live(), !self.thinking);
        let mut watch = self.editor.watch().await?;
        let mut typed = watch.seen.clone();
        let mut clock = tokio::time::interval(Duration::from_secs(1));
        // One listener for the whole answer: none of the person's Ctrl-C may fall between two.
        let mut stop = signal(SignalKind::interrupt())
            .map_err(|e| Failure::new(Code::Error, format!("could not listen for Ctrl-C: {e}")))?;
        let (cluster, name) = (self.cluster, self.about.header.session.as_str());
        let mut renewed = None;
        let outcome = {
            let mut line = Connection {
                cluster,
                name,
                gateway: &self.gateway,
                renewed: &mut renewed,
            };
            let (pieces, mut inbox) = tokio::sync::mpsc::channel(64);
            let talk = line.talk(request, pieces);
            tokio::pin!(talk);
            let mut over = None;
            loop {
                tokio::select! {
                    biased;
                    _ = stop.recv(), if over.is_none() => break Err(Failure::silent(Code::Interrupted)),
                    news = inbox.recv() => match news {
                        Some(News::Piece(piece)) => telling.take(piece)?,
                        Some(News::Waits(what)) => telling.waits_for(what)?,
                        None => break over.unwrap_or(Ok(())),
                    },
                    outcome = &mut talk, if over.is_none() => over = Some(outcome),
                    Ok(()) = typed.changed() => {
                        let ahead = typed.borrow_and_update().clone();
                        telling.typed(&ahead)?;
                    }
                    _ = clock.tick() => telling.tick()?,
                }
            }
        };
        telling.finish()?;
        let (mut heard, tokens) = (std::mem::take(&mut telling.heard), telling.tokens);
        heard.cut = outcome.is_err();
        watch.seen.mark_unchanged();
        watch.end().await;
        if let Some(gateway) = renewed {
            self.connected(gateway);
        }
        Ok((heard, tokens, outcome))
    }

    /// From now on requests go to this gateway.
    pub(super) fn connected(&mut self, gateway: crate::gateway::Gateway) {
        self.limits = super::Limits::follow(gateway.clone(), self.editor.notices());
        self.gateway = gateway;
    }
}

/// How long it is worth trying again.
fn patience(failure: &Failure) -> Duration {
    match failure.code {
        Code::NotReady => AWAY,
        // A model server that breaks on this very message would break on it again.
        Code::Model => STUMBLED,
        Code::Ok
        | Code::Error
        | Code::Usage
        | Code::NotFound
        | Code::NotAllowed
        | Code::Transfer
        | Code::Interrupted => Duration::ZERO,
    }
}

/// What the connection tells while it works.
enum News {
    Piece(super::stream::Piece),
    Waits(String),
}

/// The way to the gateway, found again when it is lost.
struct Connection<'a> {
    cluster: &'a crate::cluster::Cluster,
    name: &'a str,
    gateway: &'a crate::gateway::Gateway,
    renewed: &'a mut Option<crate::gateway::Gateway>,
}

impl Connection<'_> {
    /// Asks until an answer begins or there is no hope; never again once a piece has come.
    async fn talk(
        &mut self,
        request: &Value,
        news: tokio::sync::mpsc::Sender<News>,
    ) -> Result<(), Failure> {
        let (begun, mut pause, mut read_again) = (Instant::now(), FIRST_PAUSE, false);
        loop {
            let gateway = self.renewed.as_ref().unwrap_or(self.gateway);
            let mut answer = match gateway.chat(request).await {
                Ok(answer) => Answer::new(answer),
                // The token may have been replaced: the Secret knows.
                Err(failure) if failure.code == Code::NotAllowed && !read_again => {
                    read_again = true;
                    *self.renewed =
                        Some(self.cluster.gateway(self.name).await.map_err(|_| failure)?);
                    continue;
                }
                Err(failure) if failure.passing && begun.elapsed() < patience(&failure) => {
                    // The first clause says it; what the system said of it is for the end, if it comes to that.
                    let why = failure.message.split(": ").next().unwrap_or_default();
                    // Nobody listens any more when the person has stopped it.
                    let _ = news
                        .send(News::Waits(format!("{why}; trying again, Ctrl-C stops")))
                        .await;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    // Another gateway, another address, another way to it.
                    if let Ok(gateway) = self.cluster.gateway(self.name).await {
                        *self.renewed = Some(gateway);
                    }
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            while let Some(piece) = answer.next().await? {
                let _ = news.send(News::Piece(piece)).await;
            }
            return Ok(());
        }
    }
}

/// The way out, where the chat knows one.
fn advised(failure: Failure) -> Failure {
    let said = failure.message.to_lowercase();
    let is_full = said.contains("context")
        && ["length", "size", "window", "maximum"]
            .iter()
            .any(|word| said.contains(word));
    let hint = match failure.code {
        _ if is_full => {
            "the model can read no more: /undo takes the last turn back, /clear starts anew"
        }
        Code::NotAllowed => {
            "the session's token was revoked or the session has ended; your message is at the prompt"
        }
        Code::Model => "/regen asks again; /status shows whether the session still runs",
        Code::NotReady => {
            "your message is at the prompt: Enter sends it again; /status says how the session is"
        }
        Code::Ok
        | Code::Error
        | Code::Usage
        | Code::NotFound
        | Code::Transfer
        | Code::Interrupted => return failure,
    };
    failure.hint(hint)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_full_context_is_recognised_in_the_words_of_each_engine() {
        for said in [
            "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
            "the request exceeds the available context size. try increasing the context size",
        ] {
            let hint = advised(Failure::new(Code::Error, said)).hint.unwrap();
            assert!(hint.contains("/clear"), "{hint}");
        }
        assert_eq!(
            advised(Failure::new(Code::Error, "temperature is too high")).hint,
            None
        );
    }
}

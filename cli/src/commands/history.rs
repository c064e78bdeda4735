//! `srchat history`: the encrypted conversations of this machine. Needs no cluster.

use crate::args::Output;
use crate::args::history::{ExportFormat, HistoryVerb};
use crate::chat::markdown::Markdown;
use crate::chat::theme::Theme;
use crate::failure::{Code, Failure};
use crate::history::entry::Story;
use crate::history::{self, History, export};
use crate::print::Printer;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;
use std::path::Path;

/// Characters of a conversation's id that a list shows: enough to name it, unless there are very many.
const SHOWN: usize = 8;
/// Characters around a match.
const AROUND: usize = 40;

/// Does what the verb says.
pub fn history(verb: HistoryVerb, output: Output, print: &Printer) -> Result<(), Failure> {
    let folder = history::folder()?;
    match verb {
        HistoryVerb::Ls => list(&folder, output, print),
        HistoryVerb::Show { id } => {
            let story = story(&folder, &id)?;
            match output {
                Output::Json => print.json(&story),
                Output::Text => show(&story, print),
            }
        }
        HistoryVerb::Export { id, format } => {
            let story = story(&folder, &id)?;
            match (format, output) {
                (Some(ExportFormat::Json), _) | (None, Output::Json) => print.json(&story),
                (Some(ExportFormat::Markdown) | None, _) => {
                    print.foreign(&export::markdown(&story))
                }
            }
        }
        HistoryVerb::Search { text } => search(&folder, &text, output, print),
        HistoryVerb::Rm { ids, all } => remove(&folder, ids, all, print),
    }
}

fn story(folder: &Path, beginning: &str) -> Result<Story, Failure> {
    let id = history::find(folder, beginning)?;
    let history =
        History::existing(folder)?.ok_or_else(|| history::Error::Unknown { id: id.clone() })?;
    let story = history.story(&id)?;
    Ok(story)
}

/// All that can be read. What cannot is said on stderr, and costs only itself.
fn stories(folder: &Path, print: &Printer) -> Result<Vec<Story>, Failure> {
    let Some(history) = History::existing(folder)? else {
        print.note("There are no conversations yet.");
        return Ok(Vec::new());
    };
    let mut stories = Vec::new();
    for (_, story) in history.stories()? {
        match story {
            Ok(story) => stories.push(story),
            Err(error) => print.failure(&error.into()),
        }
    }
    Ok(stories)
}

fn list(folder: &Path, output: Output, print: &Printer) -> Result<(), Failure> {
    let stories = stories(folder, print)?;
    if output == Output::Json {
        let list = stories.iter().map(|story| {
            json!({
                "id": story.id, "started": story.header.as_ref().map(|header| header.started),
                "session": story.header.as_ref().map(|header| &header.session),
                "namespace": story.header.as_ref().map(|header| &header.namespace),
                "model": story.header.as_ref().map(|header| &header.model),
                "turns": story.turns.len(), "lost": story.lost, "first": story.first_words(),
            })
        });
        return print.json(&list.collect::<Vec<_>>());
    }
    for story in &stories {
        print.line(&line(story, &TimeZone::system()))?;
    }
    Ok(())
}

/// `ID  WHEN  SESSION  MODEL  TURNS  FIRST WORDS`
fn line(story: &Story, zone: &TimeZone) -> String {
    let header = story.header.as_ref();
    let when = header.map_or_else(|| "?".to_owned(), |header| time(header.started, zone));
    let session = header.map_or("?", |header| &header.session);
    let model = header.map_or("?", |header| &header.model);
    let turns = story.turns.len();
    let lost = match story.lost {
        0 => String::new(),
        lost => format!("  ({lost} damaged)"),
    };
    let words: String = story.first_words().chars().take(60).collect();
    let id = &story.id[..SHOWN.min(story.id.len())];
    format!("{id}  {when:<16}  {session:<12}  {model:<28}  {turns:>3}  {words}{lost}")
}

fn time(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone())
        .strftime("%Y-%m-%d %H:%M")
        .to_string()
}

fn show(story: &Story, print: &Printer) -> Result<(), Failure> {
    let text = export::markdown(story);
    if !print.terminal {
        return print.foreign(&text);
    }
    let mut markdown = Markdown::new(Theme::of_terminal());
    let mut out = markdown.push(&text);
    out.push_str(&markdown.finish());
    print.raw(&out)
}

fn search(folder: &Path, text: &str, output: Output, print: &Printer) -> Result<(), Failure> {
    let mut found = Vec::new();
    for story in stories(folder, print)? {
        for (number, turn) in story.turns.iter().enumerate() {
            let parts = [
                ("you", turn.said.as_deref()),
                ("model", turn.answer.as_deref()),
            ];
            for (who, said) in parts
                .into_iter()
                .filter_map(|(who, said)| Some((who, said?)))
            {
                if let Some(excerpt) = excerpt(said, text) {
                    found.push(json!({"id": story.id, "turn": number + 1, "at": turn.at, "who": who, "text": excerpt}));
                }
            }
        }
    }
    if found.is_empty() {
        return Err(Failure::new(
            Code::NotFound,
            format!("no conversation says {text:?}"),
        ));
    }
    if output == Output::Json {
        return print.json(&found);
    }
    for hit in found {
        let text = |field: &str| hit[field].as_str().unwrap_or_default().to_owned();
        let (id, who) = (text("id"), text("who"));
        print.line(&format!(
            "{}  {who:<5}  {}",
            &id[..SHOWN.min(id.len())],
            text("text")
        ))?;
    }
    Ok(())
}

/// The first match and what stands around it, on one line; upper and lower case are the same.
fn excerpt(said: &str, sought: &str) -> Option<String> {
    let lower: Vec<char> = said.chars().flat_map(|c| c.to_lowercase().next()).collect();
    let sought: Vec<char> = sought
        .chars()
        .flat_map(|c| c.to_lowercase().next())
        .collect();
    if sought.is_empty() {
        return None;
    }
    let at = lower
        .windows(sought.len())
        .position(|part| part == sought)?;
    let from = at.saturating_sub(AROUND);
    let part = said
        .chars()
        .skip(from)
        .take(sought.len() + at - from + AROUND);
    let part: String = part
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .collect();
    Some(part.trim().to_owned())
}

fn remove(folder: &Path, ids: Vec<String>, all: bool, print: &Printer) -> Result<(), Failure> {
    let ids = match all {
        true => history::ids(folder)?,
        false => ids
            .iter()
            .map(|id| history::find(folder, id))
            .collect::<Result<_, _>>()?,
    };
    for id in &ids {
        history::remove(folder, id)?;
        print.note(&format!("{id} is removed."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::history::entry::{Header, Turn};

    #[test]
    fn a_line_of_the_list_names_the_conversation_and_its_beginning() {
        let story = Story {
            id: "0123456789abcdef".into(),
            header: Some(Header {
                model: "Qwen/Qwen3-8B".into(),
                session: "qwen".into(),
                namespace: "team".into(),
                uid: "u".into(),
                started: Timestamp::UNIX_EPOCH,
            }),
            turns: vec![Turn {
                said: Some("\nWhy?\nBecause.".into()),
                ..Turn::default()
            }],
            lost: 2,
        };
        let expected = "01234567  1970-01-01 00:00  qwen          Qwen/Qwen3-8B                   1  Why?  (2 damaged)";
        assert_eq!(line(&story, &TimeZone::UTC), expected);
    }

    #[test]
    fn a_match_is_found_in_any_case_and_shown_on_one_line() {
        let said = format!("{}\nThe Oak\n{}", "a".repeat(60), "z".repeat(60));
        let found = excerpt(&said, "the oak").unwrap();
        assert!(
            found.contains(" The Oak ") && found.chars().count() < 100,
            "{found}"
        );
        assert_eq!(excerpt("nothing", "oak"), None);
        assert_eq!(excerpt("İstanbul", "istanbul").as_deref(), Some("İstanbul"));
    }
}

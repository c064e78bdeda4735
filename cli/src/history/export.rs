//! A conversation as Markdown. Pure; JSON is the story itself.

use super::entry::{Story, Turn};
use std::fmt::Write as _;

/// The whole conversation, for a file or another program.
pub fn markdown(story: &Story) -> String {
    let mut out = String::new();
    match &story.header {
        Some(header) => {
            let _ = write!(
                out,
                "# {} ({})\n\nSession {} in namespace {}, began {}.\n",
                header.model, story.id, header.session, header.namespace, header.started
            );
        }
        None => {
            let _ = writeln!(out, "# Conversation {}", story.id);
        }
    }
    if story.lost > 0 {
        let _ = write!(out, "\n{} of its records could not be read.\n", story.lost);
    }
    let mut system = None;
    for turn in &story.turns {
        if turn.afresh {
            out.push_str("\n---\n");
        }
        if turn.system != system {
            system.clone_from(&turn.system);
            let text = system.as_deref().unwrap_or("(none)");
            let _ = write!(out, "\n**System prompt:** {text}\n");
        }
        out.push_str(&one(turn));
    }
    out
}

fn one(turn: &Turn) -> String {
    let mut out = String::from("\n## You\n\n");
    out.push_str(turn.said.as_deref().unwrap_or("(this record is damaged)"));
    out.push('\n');
    for picture in &turn.pictures {
        let _ = write!(out, "\n(picture: {picture})\n");
    }
    if !turn.reasoning.is_empty() {
        out.push_str("\n## Thinking\n");
        for line in turn.reasoning.trim().lines() {
            let _ = write!(out, "\n> {line}");
        }
        out.push('\n');
    }
    if let Some(answer) = &turn.answer {
        let _ = write!(out, "\n## Model\n\n{}\n", answer.trim_end());
        if turn.cut {
            out.push_str("\n(The answer is not whole.)\n");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::entry::Header;
    use jiff::Timestamp;

    #[test]
    fn a_conversation_reads_well_as_markdown() {
        let story = Story {
            id: "0123456789abcdef".into(),
            header: Some(Header {
                model: "Qwen/Qwen3-8B".into(),
                session: "qwen".into(),
                namespace: "team".into(),
                uid: "u".into(),
                started: Timestamp::UNIX_EPOCH,
            }),
            turns: vec![
                Turn {
                    system: Some("Be brief.".into()),
                    said: Some("What is this?".into()),
                    pictures: vec!["cat.png".into()],
                    reasoning: "Fur.\nWhiskers.".into(),
                    answer: Some("A cat.\n".into()),
                    ..Turn::default()
                },
                Turn {
                    answer: Some("Half an ans".into()),
                    cut: true,
                    afresh: true,
                    ..Turn::default()
                },
            ],
            lost: 1,
        };
        insta::assert_snapshot!(markdown(&story));
    }
}

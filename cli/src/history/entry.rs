//! What a record says, and what a conversation is once all of its records have been read. Pure.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The first record: what the conversation is with. Every other record is bound to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The model, as the session names it.
    pub model: String,
    /// The session.
    pub session: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID: a later session of the same name is another one.
    pub uid: String,
    /// When the conversation began.
    pub started: Timestamp,
}

/// Every other record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// The person said something.
    Said {
        /// When.
        at: Timestamp,
        /// What.
        text: String,
        /// Names of the pictures that went with it. The pictures themselves are not kept.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pictures: Vec<String>,
    },
    /// The model answered.
    Answered {
        /// When its answer ended.
        at: Timestamp,
        /// What.
        text: String,
        /// What it thought before.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reasoning: String,
        /// The answer is not whole: it was stopped, or broke off.
        #[serde(default)]
        cut: bool,
    },
    /// The system prompt from here on; empty for none.
    System {
        /// Its text.
        text: String,
    },
    /// The last turn was taken back.
    Undone,
    /// The model was told to forget what was said so far.
    Forgotten,
    /// From a later version that still writes this format.
    #[serde(other)]
    Unknown,
}

/// A conversation, read back.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Story {
    /// Names it: 16 hex digits.
    pub id: String,
    /// What it was with; missing when that record is damaged.
    pub header: Option<Header>,
    /// What was said, in order.
    pub turns: Vec<Turn>,
    /// Records that could not be read.
    pub lost: u64,
}

/// One thing said, and the answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Turn {
    /// When it was said.
    pub at: Option<Timestamp>,
    /// The system prompt that held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// What the person said; missing when that record is damaged.
    pub said: Option<String>,
    /// Names of the pictures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pictures: Vec<String>,
    /// What the model answered, if it did.
    pub answer: Option<String>,
    /// What it thought before.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
    /// The answer is not whole.
    pub cut: bool,
    /// The model has forgotten everything before this turn.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub afresh: bool,
}

impl Story {
    /// Tells the story of these records.
    pub fn of(id: String, header: Option<Header>, entries: Vec<Entry>, lost: u64) -> Self {
        let mut turns: Vec<Turn> = Vec::new();
        let (mut system, mut afresh) = (None, false);
        for entry in entries {
            match entry {
                Entry::Said { at, text, pictures } => turns.push(Turn {
                    at: Some(at),
                    system: system.clone(),
                    said: Some(text),
                    pictures,
                    afresh: std::mem::take(&mut afresh) && !turns.is_empty(),
                    ..Turn::default()
                }),
                Entry::Answered {
                    at,
                    text,
                    reasoning,
                    cut,
                } => {
                    if turns.last().is_none_or(|turn| turn.answer.is_some()) {
                        // The question is lost; the answer is not.
                        turns.push(Turn {
                            at: Some(at),
                            system: system.clone(),
                            ..Turn::default()
                        });
                    }
                    let Some(turn) = turns.last_mut() else {
                        continue;
                    };
                    (turn.answer, turn.reasoning, turn.cut) = (Some(text), reasoning, cut);
                }
                Entry::System { text } => system = Some(text).filter(|text| !text.is_empty()),
                Entry::Undone => drop(turns.pop()),
                Entry::Forgotten => afresh = true,
                Entry::Unknown => {}
            }
        }
        Self {
            id,
            header,
            turns,
            lost,
        }
    }

    /// The first words, for a list.
    pub fn first_words(&self) -> &str {
        let first = self.turns.iter().find_map(|turn| turn.said.as_deref());
        first
            .and_then(|text| text.trim().lines().next())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn said(text: &str) -> Entry {
        Entry::Said {
            at: Timestamp::UNIX_EPOCH,
            text: text.into(),
            pictures: vec![],
        }
    }

    fn answered(text: &str) -> Entry {
        let (at, reasoning) = (Timestamp::UNIX_EPOCH, String::new());
        Entry::Answered {
            at,
            text: text.into(),
            reasoning,
            cut: false,
        }
    }

    fn told(entries: Vec<Entry>) -> Vec<(Option<String>, Option<String>)> {
        let story = Story::of("id".into(), None, entries, 0);
        story
            .turns
            .into_iter()
            .map(|turn| (turn.said, turn.answer))
            .collect()
    }

    fn turn(said: &str, answer: &str) -> (Option<String>, Option<String>) {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        (some(said), some(answer))
    }

    #[test]
    fn what_was_taken_back_is_not_told() {
        let entries = vec![
            said("a"),
            answered("A"),
            said("b"),
            answered("B"),
            Entry::Undone,
            said("c"),
        ];
        assert_eq!(told(entries), [turn("a", "A"), turn("c", "")]);
    }

    #[test]
    fn a_lost_question_leaves_its_answer_and_a_lost_answer_its_question() {
        assert_eq!(
            told(vec![said("a"), answered("A"), answered("B")]),
            [turn("a", "A"), turn("", "B")]
        );
        assert_eq!(
            told(vec![said("a"), said("b"), answered("B")]),
            [turn("a", ""), turn("b", "B")]
        );
    }

    #[test]
    fn what_the_model_forgot_is_still_told() {
        let entries = vec![said("a"), answered("A"), Entry::Forgotten, said("b")];
        let story = Story::of("id".into(), None, entries, 0);
        assert_eq!(
            story
                .turns
                .iter()
                .map(|turn| turn.afresh)
                .collect::<Vec<_>>(),
            [false, true]
        );
    }

    #[test]
    fn a_kind_of_record_that_is_not_known_is_passed_over() {
        let entry: Entry = serde_json::from_str(r#"{"kind":"dreamt","of":1}"#).unwrap();
        assert_eq!(entry, Entry::Unknown);
    }
}

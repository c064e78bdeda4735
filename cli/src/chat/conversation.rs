//! What was said so far, as the model shall see it. Pure.

use super::settings::Settings;
use serde_json::{Value, json};

/// A picture that goes with a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// Its file's name.
    pub name: String,
    /// The content part that shows it.
    pub part: Value,
}

/// What the person said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Said {
    /// The words.
    pub text: String,
    /// Pictures that go with them.
    pub pictures: Vec<Picture>,
}

/// What the model answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// The answer.
    pub text: String,
    /// What it thought before.
    pub reasoning: String,
    /// It was stopped, or broke off.
    pub cut: bool,
}

/// One thing said and its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// The question.
    pub said: Said,
    /// The answer.
    pub heard: Heard,
}

/// The conversation.
#[derive(Debug, Default)]
pub struct Conversation {
    /// The system prompt.
    pub system: Option<String>,
    /// How answers are made.
    pub settings: Settings,
    turns: Vec<Turn>,
}

impl Conversation {
    /// The request for an answer to `said`, after everything before it.
    pub fn request(&self, said: &Said) -> Value {
        let mut messages = Vec::with_capacity(2 * self.turns.len() + 2);
        if let Some(system) = &self.system {
            messages.push(json!({"role": "system", "content": system}));
        }
        for turn in &self.turns {
            messages.push(message(&turn.said));
            messages.push(json!({"role": "assistant", "content": turn.heard.text}));
        }
        messages.push(message(said));
        let mut request = json!({
            "messages": messages,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        self.settings.apply(&mut request);
        request
    }

    /// A turn is over. Only a turn that has an answer becomes part of the conversation.
    pub fn add(&mut self, said: Said, heard: Heard) {
        self.turns.push(Turn { said, heard });
    }

    /// Takes the last turn back.
    pub fn undo(&mut self) -> Option<Turn> {
        self.turns.pop()
    }

    /// The last turn.
    pub fn last(&self) -> Option<&Turn> {
        self.turns.last()
    }

    /// All turns, oldest first.
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// Forgets what was said. System prompt and settings stay.
    pub fn clear(&mut self) {
        self.turns.clear();
    }
}

fn message(said: &Said) -> Value {
    if said.pictures.is_empty() {
        return json!({"role": "user", "content": said.text});
    }
    let mut parts: Vec<Value> = said
        .pictures
        .iter()
        .map(|picture| picture.part.clone())
        .collect();
    if !said.text.is_empty() {
        parts.push(json!({"type": "text", "text": said.text}));
    }
    json!({"role": "user", "content": parts})
}

/// The last code block of an answer, without its fences.
pub fn last_code(text: &str) -> Option<String> {
    let (mut last, mut open): (Option<String>, Option<(String, String)>) = (None, None);
    for line in text.lines() {
        let bare = line.trim_start();
        let mark = bare
            .chars()
            .next()
            .filter(|c| matches!(c, '`' | '~'))
            .unwrap_or(' ');
        let length = bare.chars().take_while(|c| *c == mark).count();
        let is_fence = mark != ' ' && length >= 3;
        match open.take() {
            None if is_fence => open = Some((mark.to_string().repeat(length), String::new())),
            None => {}
            Some((fence, code))
                if is_fence
                    && bare.trim_end() == bare[..length].trim_end()
                    && bare.starts_with(&fence) =>
            {
                last = Some(code);
            }
            Some((fence, code)) => open = Some((fence, code + line + "\n")),
        }
    }
    // A block that was cut off is still the last one.
    open.map(|(_, code)| code).or(last)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn said(text: &str) -> Said {
        Said {
            text: text.into(),
            pictures: vec![],
        }
    }

    fn heard(text: &str) -> Heard {
        Heard {
            text: text.into(),
            reasoning: "hm".into(),
            cut: false,
        }
    }

    #[test]
    fn the_model_sees_everything_before_but_not_what_it_thought() {
        let mut conversation = Conversation {
            system: Some("Be brief.".into()),
            ..Conversation::default()
        };
        conversation.add(said("a"), heard("A"));
        conversation.settings.set("temperature", "0.5").unwrap();
        let picture = Picture {
            name: "cat.png".into(),
            part: json!({"type": "image_url"}),
        };
        let request = conversation.request(&Said {
            text: "b".into(),
            pictures: vec![picture],
        });
        let expected = json!({
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "a"}, {"role": "assistant", "content": "A"},
                {"role": "user", "content": [{"type": "image_url"}, {"type": "text", "text": "b"}]},
            ],
            "stream": true, "stream_options": {"include_usage": true}, "temperature": 0.5,
        });
        assert_eq!(request, expected);
    }

    #[test]
    fn a_turn_that_is_taken_back_is_not_seen_again() {
        let mut conversation = Conversation::default();
        conversation.add(said("a"), heard("A"));
        assert_eq!(conversation.undo().unwrap().said, said("a"));
        assert_eq!(
            conversation.request(&said("b"))["messages"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
    }

    #[test]
    fn the_last_code_block_is_found_even_when_it_was_cut_off() {
        let text = "one\n```\na\n```\ntwo\n~~~rust\nb\n```\nc\n~~~\nend";
        assert_eq!(last_code(text).unwrap(), "b\n```\nc\n");
        assert_eq!(last_code("```\na\n```\n```py\nb").unwrap(), "b\n");
        assert_eq!(last_code("none"), None);
    }
}

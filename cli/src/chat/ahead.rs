//! What is typed while an answer comes: kept, shown below the answer, and there when the prompt is back. Pure.

use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::collections::VecDeque;

/// What was typed ahead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ahead {
    /// Lines that were finished with Enter: sent one after the other.
    pub lines: VecDeque<String>,
    /// The line that is not finished.
    pub draft: String,
}

impl Ahead {
    /// Takes a key; true when something changed.
    pub fn take(&mut self, event: Event) -> bool {
        let before = (self.lines.len(), self.draft.len());
        match event {
            Event::Paste(text) => self
                .draft
                .push_str(&text.replace("\r\n", "\n").replace('\r', "\n")),
            Event::Key(key) if key.kind != KeyEventKind::Release => self.press(key),
            _ => {}
        }
        before != (self.lines.len(), self.draft.len())
    }

    fn press(&mut self, key: KeyEvent) {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let plain = !control && !key.modifiers.contains(KeyModifiers::ALT);
        match key.code {
            KeyCode::Enter if key.modifiers.is_empty() && self.draft.ends_with('\\') => {
                self.draft.pop();
                self.draft.push('\n');
            }
            KeyCode::Enter if key.modifiers.is_empty() => {
                let line = std::mem::take(&mut self.draft);
                if !line.trim().is_empty() {
                    self.lines.push_back(line);
                }
            }
            KeyCode::Enter => self.draft.push('\n'),
            KeyCode::Char('j') if control => self.draft.push('\n'),
            KeyCode::Char('u') if control => self.draft.clear(),
            KeyCode::Char('w') if control => {
                let kept = self
                    .draft
                    .trim_end()
                    .rfind(char::is_whitespace)
                    .map_or(0, |at| at + 1);
                self.draft.truncate(kept);
            }
            KeyCode::Char('h') if control => drop(self.draft.pop()),
            KeyCode::Backspace => drop(self.draft.pop()),
            KeyCode::Char(c) if plain => self.draft.push(c),
            _ => {}
        }
    }

    /// One line that shows it; empty when there is nothing.
    pub fn shown(&self) -> String {
        let waiting = match self.lines.len() {
            0 => String::new(),
            1 => "(1 message waits) ".to_owned(),
            more => format!("({more} messages wait) "),
        };
        match (waiting.is_empty(), self.draft.is_empty()) {
            (true, true) => String::new(),
            _ => format!("{waiting}> {}", self.draft.replace('\n', " / ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &str) -> Ahead {
        let mut ahead = Ahead::default();
        for c in keys.chars() {
            let key = match c {
                '\r' => KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE),
                '\n' => KeyEvent::new(KeyCode::Enter, KeyModifiers::ALT),
                '\x7f' => KeyEvent::new(KeyCode::Backspace, KeyModifiers::NONE),
                '\x17' => KeyEvent::new(KeyCode::Char('w'), KeyModifiers::CONTROL),
                c => KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE),
            };
            ahead.take(Event::Key(key));
        }
        ahead
    }

    #[test]
    fn finished_lines_wait_and_the_draft_stays() {
        let ahead = typed("one\ntwo\r\rthre\x7fee fuor\x17four");
        assert_eq!(ahead.lines, ["one\ntwo"]);
        assert_eq!(ahead.draft, "three four");
        assert_eq!(ahead.shown(), "(1 message waits) > three four");
    }

    #[test]
    fn a_pasted_block_is_one_message() {
        let mut ahead = Ahead::default();
        assert!(ahead.take(Event::Paste("a\r\nb\rc".into())));
        assert_eq!((ahead.draft.as_str(), ahead.lines.len()), ("a\nb\nc", 0));
    }

    #[test]
    fn a_backslash_continues_the_line() {
        assert_eq!(typed("a\\\rb").draft, "a\nb");
    }
}

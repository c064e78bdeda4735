//! A line that is typed and not shown.

use crate::failure::{Code, Failure};
use crate::print::Printer;
use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, read};
use crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use secrecy::SecretString;
use std::io::BufRead as _;
use zeroize::Zeroizing;

/// Asks for a secret. On a terminal nothing of it is shown; from a pipe its first line is taken.
pub async fn ask(print: &Printer, question: &str) -> Result<SecretString, Failure> {
    let unreadable = |error: std::io::Error| {
        let message = format!("could not read what you typed: {error}");
        Failure::new(Code::Error, message)
    };
    let typed = print.can_ask();
    // Before the question: what is typed the moment it stands there is not shown either.
    let unseen = typed.then(Raw::begin).transpose().map_err(unreadable)?;
    if typed {
        print.question(question);
    }
    let line = tokio::task::spawn_blocking(move || if typed { typed_line() } else { piped_line() });
    let line = line
        .await
        .map_err(std::io::Error::other)
        .and_then(|line| line);
    drop(unseen);
    if typed {
        print.note("");
    }
    match line.map_err(unreadable)? {
        Some(line) => Ok(SecretString::from(line.as_str())),
        None => Err(Failure::silent(Code::Interrupted)),
    }
}

/// A terminal that shows nothing of what is typed, and hands Ctrl-C over as a key like any other; as it was before when this is
/// dropped.
struct Raw;

impl Raw {
    fn begin() -> std::io::Result<Self> {
        enable_raw_mode()?;
        Ok(Self)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = disable_raw_mode();
    }
}

fn typed_line() -> std::io::Result<Option<Zeroizing<String>>> {
    let mut line = Zeroizing::new(String::new());
    loop {
        let key = match read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => key,
            Event::Paste(text) => {
                line.push_str(&text);
                continue;
            }
            _ => continue,
        };
        match (key.code, key.modifiers.contains(KeyModifiers::CONTROL)) {
            (KeyCode::Enter, _) | (KeyCode::Char('j' | 'm'), true) => return Ok(Some(line)),
            (KeyCode::Char('c' | 'd'), true) | (KeyCode::Esc, _) => return Ok(None),
            (KeyCode::Char('u'), true) => line.clear(),
            (KeyCode::Backspace, _) => drop(line.pop()),
            (KeyCode::Char(c), false) => line.push(c),
            _ => {}
        }
    }
}

fn piped_line() -> std::io::Result<Option<Zeroizing<String>>> {
    let mut line = Zeroizing::new(String::new());
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(Some(line))
}

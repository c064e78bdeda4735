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
    let typed = print.can_ask();
    if typed {
        print.question(question);
    }
    let line = tokio::task::spawn_blocking(move || if typed { typed_line() } else { piped_line() });
    let line = line
        .await
        .map_err(std::io::Error::other)
        .and_then(|line| line);
    if typed {
        print.note("");
    }
    match line {
        Ok(Some(line)) => Ok(SecretString::from(line.as_str())),
        Ok(None) => Err(Failure::silent(Code::Interrupted)),
        Err(error) => {
            let message = format!("could not read what you typed: {error}");
            Err(Failure::new(Code::Error, message))
        }
    }
}

/// The terminal as it was, whatever happens meanwhile.
struct Raw;

impl Drop for Raw {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = disable_raw_mode();
    }
}

/// Raw, so that Ctrl-C is a key like any other and cannot leave the terminal without its echo.
fn typed_line() -> std::io::Result<Option<Zeroizing<String>>> {
    enable_raw_mode()?;
    let _raw = Raw;
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

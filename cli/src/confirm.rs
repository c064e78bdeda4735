//! Questions to the person at the terminal.

use crate::failure::{Code, Failure};
use crate::print::Printer;
use std::io::BufRead as _;

/// Asks a question that is answered with yes or no; Enter alone, or the end of the input, takes `default`.
pub async fn yes(print: &Printer, question: &str, default: bool) -> Result<bool, Failure> {
    let choice = if default { "[Y/n]" } else { "[y/N]" };
    loop {
        print.question(&format!("{question} {choice}"));
        let line = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).map(|_| line)
        });
        let line = line.await.map_err(std::io::Error::other);
        let line = line
            .and_then(|read| read)
            .map_err(|e| Failure::new(Code::Error, format!("could not read your answer: {e}")))?;
        if line.is_empty() {
            // The terminal's end of input leaves the cursor behind the question.
            print.note("");
        }
        match meaning(&line, default) {
            Some(answer) => return Ok(answer),
            None => print.note("Please answer yes or no."),
        }
    }
}

fn meaning(line: &str, default: bool) -> Option<bool> {
    match line.trim().to_lowercase().as_str() {
        "" => Some(default),
        "y" | "yes" => Some(true),
        "n" | "no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes_and_enter_takes_the_default() {
        let said = ["y\n", " Yes ", "n", "NO\n"].map(|line| meaning(line, true));
        assert_eq!(said, [Some(true), Some(true), Some(false), Some(false)]);
        assert_eq!(meaning("\n", false), Some(false));
        assert_eq!(meaning("", true), Some(true));
        assert_eq!(meaning("maybe", true), None);
    }
}

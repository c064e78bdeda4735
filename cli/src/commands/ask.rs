//! `srchat ask`: one answer, for pipes.

use crate::args;
use crate::chat::{image, markdown::Markdown, stream::Answer, stream::Piece, theme::Theme};
use crate::cluster::Cluster;
use crate::failure::{Code, Failure};
use crate::print::Printer;
use serde_json::{Value, json};
use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

/// A file put before the question must leave room for the answer in any context.
const LONGEST_FILE: u64 = 1 << 20;
/// So must a question that is piped in.
const LONGEST_QUESTION: u64 = 8 << 20;

/// Asks and prints.
pub async fn ask(cluster: &Cluster, args: args::Ask, print: &Printer) -> Result<(), Failure> {
    let prompt = prompt(args.prompt.as_deref(), print).await?;
    let request = request(&args, prompt)?;
    let gateway = cluster.gateway(&args.name).await?;
    if args.json {
        let answer = gateway.chat(&request).await?;
        let answer: Value = answer
            .json()
            .await
            .map_err(|e| crate::gateway::broken(&e))?;
        return print.json(&answer);
    }
    let mut answer = Answer::new(gateway.chat(&request).await?);
    let mut markdown = print.terminal.then(|| Markdown::new(Theme::of_terminal()));
    let mut last = '\n';
    while let Some(piece) = answer.next().await? {
        let Piece::Text(text) = piece else { continue };
        last = text.chars().last().unwrap_or(last);
        match markdown.as_mut() {
            Some(markdown) => print.raw(&markdown.push(&text))?,
            None => print.foreign(&text)?,
        }
    }
    match markdown {
        Some(mut markdown) => print.raw(&markdown.finish()),
        None if last == '\n' => Ok(()),
        None => print.raw("\n"),
    }
}

/// The question, from the command line or standard input.
async fn prompt(given: Option<&str>, print: &Printer) -> Result<String, Failure> {
    if let Some(text) = given.filter(|text| *text != "-") {
        return Ok(text.to_owned());
    }
    if std::io::stdin().is_terminal() {
        print.note("Type the question; Ctrl-D on an empty line ends it.");
    }
    let read = || std::io::read_to_string(std::io::stdin().take(LONGEST_QUESTION));
    // On a thread that may block: Ctrl-C is heard meanwhile.
    let read = tokio::task::spawn_blocking(read)
        .await
        .map_err(std::io::Error::other);
    read.flatten().map_err(|e| {
        Failure::new(
            Code::Usage,
            format!("could not read the question from standard input: {e}"),
        )
        .hint("it must be UTF-8 text; --file sends a file, --image a picture")
    })
}

fn request(args: &args::Ask, prompt: String) -> Result<Value, Failure> {
    let mut messages = Vec::new();
    if let Some(system) = &args.system {
        messages.push(json!({"role": "system", "content": system}));
    }
    messages.push(json!({"role": "user", "content": content(args, prompt)?}));
    let mut request = json!({"messages": messages, "stream": !args.json});
    if let Some(temperature) = args.temperature {
        if !(0.0..=2.0).contains(&temperature) {
            return Err(Failure::new(
                Code::Usage,
                format!("a temperature is between 0 and 2, not {temperature}"),
            ));
        }
        request["temperature"] = temperature.into();
    }
    if let Some(most) = args.max_tokens {
        request["max_tokens"] = most.into();
    }
    if let Some(path) = &args.schema {
        let schema: Value = serde_json::from_str(&text(path)?).map_err(|e| {
            Failure::new(
                Code::Usage,
                format!("{} is not a JSON schema: {e}", path.display()),
            )
        })?;
        request["response_format"] =
            json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}});
    }
    Ok(request)
}

fn content(args: &args::Ask, question: String) -> Result<Value, Failure> {
    let mut prompt = String::new();
    for path in &args.file {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        prompt.push_str(&format!("File {name}:\n{}\n\n", text(path)?));
    }
    if question.trim().is_empty() {
        return Err(Failure::new(Code::Usage, "the question is empty"));
    }
    prompt.push_str(&question);
    if args.image.is_empty() {
        return Ok(prompt.into());
    }
    let mut parts = args
        .image
        .iter()
        .map(|path| image::part(path))
        .collect::<Result<Vec<_>, _>>()?;
    parts.push(json!({"type": "text", "text": prompt}));
    Ok(parts.into())
}

fn text(path: &Path) -> Result<String, Failure> {
    let failed = |why: String| {
        Failure::new(
            Code::NotFound,
            format!("could not read {}: {why}", path.display()),
        )
    };
    let file = std::fs::File::open(path).map_err(|e| failed(e.to_string()))?;
    let mut text = String::new();
    let read = file
        .take(LONGEST_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|e| failed(e.to_string()))?;
    if read as u64 > LONGEST_FILE {
        return Err(failed("it is larger than 1 MiB".into()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::args::{Arguments, Command};
    use clap::Parser as _;

    fn ask(line: &[&str]) -> args::Ask {
        let line = [&["srchat", "ask", "qwen"], line].concat();
        match Arguments::try_parse_from(line).unwrap().command {
            Command::Ask(ask) => ask,
            other => panic!("{other:?} is not ask"),
        }
    }

    #[test]
    fn flags_become_fields_of_the_request() {
        let args = ask(&[
            "Why?",
            "--system",
            "Be brief.",
            "--temperature",
            "0.5",
            "--max-tokens",
            "9",
        ]);
        let expected = json!({
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
            "stream": true, "temperature": 0.5, "max_tokens": 9,
        });
        assert_eq!(
            request(&args, args.prompt.clone().unwrap()).unwrap(),
            expected
        );
    }

    #[test]
    fn a_file_comes_before_the_question() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, "one").unwrap();
        let args = ask(&["What is it?", "--file", path.to_str().unwrap()]);
        let content =
            request(&args, args.prompt.clone().unwrap()).unwrap()["messages"][0]["content"].clone();
        assert_eq!(content, "File a.txt:\none\n\nWhat is it?");
    }

    #[test]
    fn what_makes_no_sense_is_refused_before_anything_is_sent() {
        for line in [
            &["Why?", "--temperature", "3"][..],
            &["  "],
            &["Why?", "--file", "/nonexistent"],
        ] {
            let args = ask(line);
            assert!(
                request(&args, args.prompt.clone().unwrap()).is_err(),
                "{line:?}"
            );
        }
    }
}

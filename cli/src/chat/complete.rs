//! Tab: commands after a slash, paths after the commands that take one.

use super::slash::COMMANDS;
use super::words::path;
use reedline::{Completer, CompletionResult, Span, Suggestion};
use std::fs;

/// Longer lists help nobody.
const MOST: usize = 200;
/// Commands whose first word is a local path.
const TAKE_A_PATH: [&str; 4] = ["upload", "image", "save", "export"];

/// Completes the word before the cursor.
pub struct Tab;

impl Completer for Tab {
    fn complete(&mut self, line: &str, position: usize) -> CompletionResult {
        let before = line.get(..position).unwrap_or(line);
        CompletionResult::fresh(suggestions(before))
    }
}

fn suggestions(before: &str) -> Vec<Suggestion> {
    let Some(command) = before.strip_prefix('/') else {
        return Vec::new();
    };
    match command.split_once(' ') {
        None => commands(command, before.len()),
        Some((verb, rest)) if TAKE_A_PATH.contains(&verb) => paths(rest, before.len() - rest.len()),
        Some(_) => Vec::new(),
    }
}

fn commands(begun: &str, end: usize) -> Vec<Suggestion> {
    let fits = COMMANDS.iter().filter(|(name, ..)| name.starts_with(begun));
    let suggest = |(name, arguments, what): &(&str, &str, &str)| Suggestion {
        value: format!("/{name}"),
        description: Some((*what).to_owned()),
        span: Span::new(0, end),
        append_whitespace: !arguments.is_empty(),
        ..Suggestion::default()
    };
    fits.map(suggest).collect()
}

/// Files and folders that begin so. Spaces are escaped as the commands read them.
fn paths(begun: &str, start: usize) -> Vec<Suggestion> {
    let plain = begun.replace("\\ ", " ");
    let (folder, name) = plain
        .rsplit_once('/')
        .map_or(("", &*plain), |(folder, name)| (folder, name));
    let shown = if folder.is_empty() && !plain.starts_with('/') {
        String::new()
    } else {
        format!("{folder}/")
    };
    let looked_in = match shown.as_str() {
        "" => ".".into(),
        shown => path(shown),
    };
    let entries = fs::read_dir(looked_in).into_iter().flatten().flatten();
    let mut found: Vec<(String, bool)> = entries
        .filter_map(|entry| {
            let own = entry.file_name().into_string().ok()?;
            let hidden = own.starts_with('.') && !name.starts_with('.');
            let is_folder = entry.path().is_dir();
            (own.starts_with(name) && !hidden && !own.chars().any(char::is_control))
                .then_some((own, is_folder))
        })
        .take(MOST)
        .collect();
    found.sort();
    let suggest = |(own, is_folder): (String, bool)| Suggestion {
        value: format!("{shown}{own}{}", if is_folder { "/" } else { "" }).replace(' ', "\\ "),
        span: Span::new(start, start + begun.len()),
        append_whitespace: !is_folder,
        ..Suggestion::default()
    };
    found.into_iter().map(suggest).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn values(before: &str) -> Vec<String> {
        suggestions(before).into_iter().map(|s| s.value).collect()
    }

    #[test]
    fn a_slash_and_some_letters_become_a_command() {
        assert_eq!(values("/un"), ["/undo"]);
        assert_eq!(values("/e"), ["/edit", "/export", "/exit"]);
        assert_eq!(values("words"), Vec::<String>::new());
    }

    #[test]
    fn a_path_is_completed_and_its_spaces_are_escaped() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().to_str().unwrap();
        fs::write(folder.path().join("a cat.png"), "").unwrap();
        fs::create_dir(folder.path().join("album")).unwrap();
        fs::write(folder.path().join(".hidden"), "").unwrap();
        assert_eq!(
            values(&format!("/image {at}/")),
            [format!("{at}/a\\ cat.png"), format!("{at}/album/")]
        );
        assert_eq!(
            values(&format!("/image {at}/a\\ c")),
            [format!("{at}/a\\ cat.png")]
        );
    }
}

//! Words as shells and terminals write them: quoted, escaped, or as `file://` addresses of dragged files. Pure, but
//! for the question whether a path is a picture.

use std::path::{Path, PathBuf};

/// A word of a line, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    text: String,
    /// Bytes of the line.
    span: std::ops::Range<usize>,
}

/// The first word and what follows it.
pub fn first_word(text: &str) -> Option<(String, &str)> {
    let word = next(text, 0)?;
    let rest = text[word.span.end..].trim();
    (!word.text.is_empty()).then_some((word.text, rest))
}

/// The first word of what may be nothing.
pub fn one_word(text: &str) -> Option<String> {
    first_word(text).map(|(word, _)| word)
}

/// Takes the paths of pictures out of a message: what is left, and the pictures.
pub fn pictures(message: &str, is_picture: impl Fn(&Path) -> bool) -> (String, Vec<PathBuf>) {
    let (mut left, mut found, mut at) = (String::new(), Vec::new(), 0);
    while let Some(word) = next(message, at) {
        let path = path(&word.text);
        let quoted = message[word.span.clone()].starts_with(['\'', '"']);
        if looks_like_a_path(&word.text, quoted) && is_picture(&path) {
            left.push_str(&message[at..word.span.start]);
            found.push(path);
        } else {
            left.push_str(&message[at..word.span.end]);
        }
        at = word.span.end;
    }
    left.push_str(&message[at..]);
    (left.trim().to_owned(), found)
}

/// The path that a word means: `~` is the home folder, `file://` addresses are decoded.
pub fn path(word: &str) -> PathBuf {
    if let Some(address) = word.strip_prefix("file://") {
        let address = address.strip_prefix("localhost").unwrap_or(address);
        return PathBuf::from(decoded(address));
    }
    match (word.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => PathBuf::from(word),
    }
}

fn looks_like_a_path(word: &str, quoted: bool) -> bool {
    let begins = ["/", "~/", "./", "../", "file://"]
        .iter()
        .any(|start| word.starts_with(start));
    begins || (quoted && word.contains('.'))
}

/// `%20` and the like.
fn decoded(address: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), address.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'%').then(|| after.get(..2)).flatten();
        let code =
            code.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The next word from a place on. Quotes count at a word's beginning only: elsewhere they are apostrophes.
fn next(text: &str, from: usize) -> Option<Word> {
    let skipped = text[from..].find(|c: char| !c.is_whitespace())?;
    let start = from + skipped;
    let (mut word, mut quote, mut end) = (String::new(), None, text.len());
    let mut chars = text[start..].char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (None, '\'' | '"') if at == 0 => quote = Some(c),
            (Some(open), c) if c == open => {
                end = start + at + c.len_utf8();
                break;
            }
            (None, '\\') => word.extend(chars.next().map(|(_, c)| c)),
            (None, c) if c.is_whitespace() => {
                end = start + at;
                break;
            }
            (_, c) => word.push(c),
        }
    }
    Some(Word {
        text: word,
        span: start..end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(message: &str) -> (String, Vec<PathBuf>) {
        pictures(message, |path| path.to_string_lossy().ends_with(".png"))
    }

    #[test]
    fn a_dragged_picture_is_found_however_the_terminal_writes_it() {
        for message in [
            "/a b/cat.png",
            "'/a b/cat.png' what is this?",
            "\"/a b/cat.png\" what is this?",
            "/a\\ b/cat.png what is this?",
            "what is file:///a%20b/cat.png this?",
        ] {
            let (left, found) = split(message);
            let expected = if message.starts_with("/a b") {
                "/a"
            } else {
                ""
            };
            if expected.is_empty() {
                assert_eq!(found, [PathBuf::from("/a b/cat.png")], "{message}");
                assert!(
                    left.starts_with("what is") && left.ends_with("this?"),
                    "{left}"
                );
            }
        }
    }

    #[test]
    fn words_that_only_end_like_a_picture_stay_in_the_message() {
        let message = "don't open cat.png, it's 'mine'";
        assert_eq!(split(message), (message.to_owned(), vec![]));
    }

    #[test]
    fn several_pictures_go_with_one_message() {
        let (left, found) = split("./a.png and ../b.png?  /c.png");
        assert_eq!((left.as_str(), found.len()), ("and ../b.png?", 2));
    }

    proptest! {
        #[test]
        fn without_pictures_a_message_stays_as_it_is(message in "\\PC{0,60}") {
            prop_assert_eq!(pictures(&message, |_| false).0, message.trim());
            let _ = first_word(&message);
            let _ = path(&message);
        }
    }
}

//! What a line at the prompt means: a message, or one of the commands that begin with a slash.

/// A line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Nothing to do.
    Empty,
    /// To the model.
    Message(String),
    /// `/help`
    Help,
    /// `/upload PATH [NAME]`
    Upload {
        /// The local file.
        local: String,
        /// Its name in the session; the file's own when not given.
        remote: Option<String>,
    },
    /// `/download NAME [PATH]`
    Download {
        /// The file in the session.
        remote: String,
        /// Where to; the current folder when not given.
        local: Option<String>,
    },
    /// `/image PATH [MESSAGE]`
    Image {
        /// The local picture.
        path: String,
        /// A message to send with it at once; else it waits for the next one.
        message: Option<String>,
    },
    /// `/clear`
    Clear,
    /// `/exit`
    Exit,
    /// A command that is none, or lacks something: what to say.
    Wrong(String),
}

/// The text of `/help`.
pub const HELP: &str = "\
/upload PATH [NAME]     send a file to the session
/download NAME [PATH]   fetch a file from the session
/image PATH [MESSAGE]   show the model a picture, with this message or the next one
/clear                  forget the conversation
/exit                   leave the chat; the session stays
Enter sends; Shift-Enter, Alt-Enter, Ctrl-J or a \\ at the end make a new line.
Ctrl-C stops the answer, twice at the prompt leaves; so does Ctrl-D on an empty line.
A message that must begin with a slash begins with two.";

const COMMANDS: [&str; 6] = ["help", "upload", "download", "image", "clear", "exit"];

/// Reads one line. Never fails: what makes no sense becomes a sentence.
pub fn parse(line: &str) -> Line {
    let text = line.trim();
    if text.is_empty() {
        return Line::Empty;
    }
    let Some(command) = text.strip_prefix('/') else {
        return Line::Message(text.to_owned());
    };
    if command.starts_with('/') {
        return Line::Message(command.to_owned());
    }
    let (verb, rest) = command
        .split_once(char::is_whitespace)
        .unwrap_or((command, ""));
    let (first, second) = words(rest.trim());
    match (verb, first) {
        ("help", _) => Line::Help,
        ("clear", _) => Line::Clear,
        ("exit", _) => Line::Exit,
        ("upload", Some(local)) => Line::Upload {
            local,
            remote: second.and_then(|rest| words(&rest).0),
        },
        ("download", Some(remote)) => Line::Download {
            remote,
            local: second.and_then(|rest| words(&rest).0),
        },
        ("image", Some(path)) => Line::Image {
            path,
            message: second,
        },
        ("upload" | "image", None) => Line::Wrong(format!("/{verb} needs the path of a file")),
        ("download", None) => Line::Wrong("/download needs the name of a file".into()),
        _ => Line::Wrong(unknown(verb)),
    }
}

fn unknown(verb: &str) -> String {
    let near = COMMANDS.iter().find(|known| {
        known.starts_with(verb)
            || (verb.len() > 2
                && known
                    .chars()
                    .zip(verb.chars())
                    .filter(|(a, b)| a == b)
                    .count()
                    + 1
                    >= verb.len())
    });
    match near {
        Some(near) if !verb.is_empty() => format!("there is no /{verb}; did you mean /{near}?"),
        _ => format!("there is no /{verb}; /help lists the commands"),
    }
}

/// The first word, quoted or with escaped spaces as a dragged path has them, and what follows it.
fn words(text: &str) -> (Option<String>, Option<String>) {
    let mut word = String::new();
    let mut quote = None;
    let mut end = text.len();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (None, '\'' | '"') if word.is_empty() => quote = Some(c),
            (Some(open), c) if c == open => {
                end = at + 1;
                break;
            }
            (None, '\\') => word.extend(chars.next().map(|(_, c)| c)),
            (None, c) if c.is_whitespace() => {
                end = at;
                break;
            }
            (_, c) => word.push(c),
        }
    }
    let rest = text[end..].trim();
    (
        (!word.is_empty()).then_some(word),
        (!rest.is_empty()).then(|| rest.to_owned()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_without_a_slash_is_a_message() {
        assert_eq!(
            parse("  hello\nthere "),
            Line::Message("hello\nthere".into())
        );
        assert_eq!(parse("   "), Line::Empty);
    }

    #[test]
    fn two_slashes_send_one() {
        assert_eq!(parse("//etc/passwd?"), Line::Message("/etc/passwd?".into()));
    }

    #[test]
    fn paths_may_have_spaces_as_terminals_paste_them() {
        let remote = |name: &str| Some(name.to_owned());
        for line in ["/upload 'my file.txt' b.txt", "/upload my\\ file.txt b.txt"] {
            let local = "my file.txt".to_owned();
            assert_eq!(
                parse(line),
                Line::Upload {
                    local,
                    remote: remote("b.txt")
                }
            );
        }
    }

    #[test]
    fn an_image_may_carry_its_message() {
        let expected = Line::Image {
            path: "cat.png".into(),
            message: Some("what is this?".into()),
        };
        assert_eq!(parse("/image cat.png what is this?"), expected);
    }

    #[test]
    fn a_command_that_does_not_exist_names_the_near_one() {
        let wrong = |text: &str| Line::Wrong(text.to_owned());
        assert_eq!(
            parse("/exot"),
            wrong("there is no /exot; did you mean /exit?")
        );
        assert_eq!(
            parse("/zzz"),
            wrong("there is no /zzz; /help lists the commands")
        );
        assert_eq!(parse("/upload"), wrong("/upload needs the path of a file"));
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "\\PC{0,40}") {
            let _ = parse(&line);
            let _ = parse(&format!("/upload {line}"));
        }
    }
}

//! What a line at the prompt means: a message, or one of the commands that begin with a slash. Pure.

use super::words::{first_word, one_word};

/// A line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Nothing to do.
    Empty,
    /// To the model.
    Message(String),
    /// To us.
    Command(Command),
    /// A command that is none, or lacks something: what to say.
    Wrong(String),
}

/// What a command asks for. The table below says it in words.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is explained by its line of the table")]
pub enum Command {
    Help,
    Upload {
        local: String,
        remote: Option<String>,
    },
    Download {
        remote: String,
        local: Option<String>,
    },
    Image {
        path: String,
        message: Option<String>,
    },
    Clear,
    Exit,
    Regen,
    Edit,
    Undo,
    System(Option<String>),
    Set(Option<(String, String)>),
    Model,
    Think(Think),
    Tokens,
    Cost,
    Status,
    Files,
    Save(Option<String>),
    Export(Option<String>),
    Copy(What),
    Raw,
    Keep,
}

/// What `/think` is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Think {
    /// Fold what is shown, show what is folded.
    Toggle,
    /// Show it as it comes.
    Show,
    /// Say only that there was some.
    Fold,
    /// Show what was thought before the last answer.
    Last,
}

/// What `/copy` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The last answer.
    Answer,
    /// The last code block in it.
    Code,
}

/// Every command: its name, what may follow it, what it does.
pub const COMMANDS: [(&str, &str, &str); 22] = [
    ("help", "", "this list"),
    ("upload", "PATH [NAME]", "send a file to the session"),
    ("download", "NAME [PATH]", "fetch a file from the session"),
    ("files", "", "list the session's files"),
    (
        "image",
        "PATH [MESSAGE]",
        "show the model a picture, with this message or the next",
    ),
    ("regen", "", "ask for the last answer again"),
    ("edit", "", "change your last message and send it again"),
    ("undo", "", "take the last turn back"),
    ("clear", "", "forget the conversation"),
    ("system", "[TEXT|-]", "show, set or drop the system prompt"),
    (
        "set",
        "[NAME VALUE|-]",
        "show or set temperature, max_tokens, top_p, seed, ...",
    ),
    ("model", "", "what is served, and how much it can read"),
    (
        "think",
        "[show|fold|last]",
        "show or fold what the model thinks before it answers",
    ),
    ("tokens", "", "tokens read and written so far"),
    ("cost", "", "what the session has cost, and when it ends"),
    ("status", "", "the session in full"),
    ("raw", "", "the last answer as the model wrote it"),
    (
        "copy",
        "[code]",
        "the last answer, or its last code block, to the clipboard",
    ),
    ("save", "[FILE]", "write the last answer to a file"),
    (
        "export",
        "[FILE]",
        "write the conversation to a file: .json, else Markdown",
    ),
    ("keep", "", "keep the session running when you leave"),
    ("exit", "", "leave the chat"),
];

/// The keys, for `/help`.
const KEYS: &str = "\
Enter sends; Shift-Enter, Alt-Enter, Ctrl-J or a \\ at the end make a new line.
Ctrl-C stops the answer, twice at the prompt leaves; so does Ctrl-D on an empty line.
Ctrl-R searches what you said before, Tab completes, Ctrl-G opens $EDITOR.
A picture whose path is in a message goes with it. A message that must begin with a slash begins with two.";

/// The text of `/help`, for so many columns.
pub fn help(columns: usize) -> String {
    let mut text = String::new();
    for (name, arguments, what) in COMMANDS {
        let usage = format!("/{name} {arguments}");
        match columns {
            60.. => text.push_str(&format!("{usage:<24} {what}\n")),
            _ => text.push_str(&format!("{}\n    {what}\n", usage.trim_end())),
        }
    }
    text + KEYS
}

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
    // A path that was dragged here, not a command.
    if verb.contains(['/', '.', '\\']) {
        return Line::Message(text.to_owned());
    }
    match understand(verb, rest.trim()) {
        Ok(command) => Line::Command(command),
        Err(what) => Line::Wrong(what),
    }
}

fn understand(verb: &str, rest: &str) -> Result<Command, String> {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let needs = |what: &str| format!("/{verb} needs {what}");
    let command = match verb {
        "upload" => {
            let (local, remote) = first_word(rest).ok_or_else(|| needs("the path of a file"))?;
            Command::Upload {
                local,
                remote: one_word(remote),
            }
        }
        "download" => {
            let (remote, local) = first_word(rest).ok_or_else(|| needs("the name of a file"))?;
            Command::Download {
                remote,
                local: one_word(local),
            }
        }
        "image" => {
            let (path, message) = first_word(rest).ok_or_else(|| needs("the path of a picture"))?;
            Command::Image {
                path,
                message: some(message),
            }
        }
        "system" => Command::System(some(rest)),
        "set" => Command::Set(set(rest)?),
        "think" => Command::Think(match rest {
            "" => Think::Toggle,
            "show" => Think::Show,
            "fold" | "hide" => Think::Fold,
            "last" => Think::Last,
            _ => return Err("/think takes show, fold or last".into()),
        }),
        "copy" => Command::Copy(match rest {
            "" => What::Answer,
            "code" => What::Code,
            _ => return Err("/copy takes nothing, or code".into()),
        }),
        "save" => Command::Save(one_word(rest)),
        "export" => Command::Export(one_word(rest)),
        _ => alone(verb).ok_or_else(|| unknown(verb))?,
    };
    Ok(command)
}

/// The commands that take nothing. What follows them is passed over.
fn alone(verb: &str) -> Option<Command> {
    Some(match verb {
        "help" => Command::Help,
        "files" => Command::Files,
        "regen" => Command::Regen,
        "edit" => Command::Edit,
        "undo" => Command::Undo,
        "clear" => Command::Clear,
        "model" => Command::Model,
        "tokens" => Command::Tokens,
        "cost" => Command::Cost,
        "status" => Command::Status,
        "raw" => Command::Raw,
        "keep" => Command::Keep,
        "exit" | "quit" => Command::Exit,
        _ => return None,
    })
}

fn set(rest: &str) -> Result<Option<(String, String)>, String> {
    if rest.is_empty() {
        return Ok(None);
    }
    let pair = rest.split_once(|c: char| c == '=' || c.is_whitespace());
    let pair = pair.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
    match pair {
        Some((name, value)) if !value.is_empty() => Ok(Some((name, value))),
        _ => Err("/set needs a name and a value; - takes the value away".into()),
    }
}

fn unknown(verb: &str) -> String {
    let names: Vec<String> = COMMANDS
        .iter()
        .map(|(name, ..)| (*name).to_owned())
        .collect();
    match crate::cluster::near(verb, &names) {
        Some(near) if !verb.is_empty() => format!("there is no /{verb}; did you mean /{near}?"),
        _ => format!("there is no /{verb}; /help lists the commands"),
    }
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
    fn two_slashes_send_one_and_a_dragged_path_is_no_command() {
        assert_eq!(parse("//etc?"), Line::Message("/etc?".into()));
        assert_eq!(
            parse("/home/me/cat.png what?"),
            Line::Message("/home/me/cat.png what?".into())
        );
    }

    #[test]
    fn paths_may_have_spaces_as_terminals_paste_them() {
        for line in ["/upload 'my file.txt' b.txt", "/upload my\\ file.txt b.txt"] {
            let (local, remote) = ("my file.txt".to_owned(), Some("b.txt".to_owned()));
            assert_eq!(
                parse(line),
                Line::Command(Command::Upload { local, remote })
            );
        }
    }

    #[test]
    fn an_image_may_carry_its_message() {
        let (path, message) = ("cat.png".into(), Some("what is this?".into()));
        assert_eq!(
            parse("/image cat.png what is this?"),
            Line::Command(Command::Image { path, message })
        );
    }

    #[test]
    fn settings_are_named_with_or_without_an_equals_sign() {
        let set = Line::Command(Command::Set(Some(("seed".into(), "7".into()))));
        assert_eq!(
            (parse("/set seed 7"), parse("/set seed=7")),
            (set.clone(), set)
        );
        assert!(matches!(parse("/set seed"), Line::Wrong(_)));
    }

    #[test]
    fn every_command_of_the_table_is_understood_and_stands_in_the_help() {
        for (name, arguments, what) in COMMANDS {
            let argument = if arguments.is_empty() || arguments.starts_with('[') {
                ""
            } else {
                " x"
            };
            let line = parse(&format!("/{name}{argument}"));
            assert!(matches!(line, Line::Command(_)), "{name}: {line:?}");
            for columns in [20, 80] {
                assert!(help(columns).contains(what), "{name}");
            }
        }
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
            let _ = parse(&format!("/set {line}"));
        }
    }
}

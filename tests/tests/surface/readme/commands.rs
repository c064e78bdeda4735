//! The commands that README.md tells people to type: those in its blocks of shell, and those in its sentences and tables.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// What a command begins with. Other things that are set as code are names, options, paths.
const PROGRAMS: [&str; 8] = [
    "cargo", "curl", "git", "helm", "kubectl", "printf", "skopeo", "srchat",
];
/// What a block may be: commands, a manifest, or something that is shown.
const KINDS: [&str; 3] = ["sh", "yaml", "text"];

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// As a shell takes it.
    pub text: String,
    /// In a sentence or a table, where two words name a command and brackets show what it takes.
    pub inline: bool,
}

/// All of them, in the order of reading.
pub fn commands(readme: &str) -> Vec<Command> {
    let (mut found, mut block, mut shell) = (Vec::new(), String::new(), false);
    for event in Parser::new_ext(readme, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::CodeBlock(kind)) => {
                let kind = match &kind {
                    CodeBlockKind::Fenced(kind) => kind.as_ref(),
                    CodeBlockKind::Indented => "",
                };
                assert!(
                    KINDS.contains(&kind),
                    "a block of {kind:?}; it must say which of {KINDS:?} it is"
                );
                (shell, block) = (kind == "sh", String::new());
            }
            Event::Text(text) => block.push_str(&text),
            Event::End(TagEnd::CodeBlock) if shell => {
                shell = false;
                found.extend(of_block(&block).into_iter().map(|text| Command {
                    text,
                    inline: false,
                }));
            }
            Event::Code(text) if is_command(&text) => found.push(Command {
                text: text.into_string(),
                inline: true,
            }),
            _ => {}
        }
    }
    found
}

/// A program and what it is given. `export`s and `source`s of a shell begin otherwise, and are commands too.
fn is_command(text: &str) -> bool {
    let (first, more) = text.split_once(' ').unwrap_or((text, ""));
    !more.is_empty() && (PROGRAMS.contains(&first) || first == "source")
}

/// The commands of a block, one a line or on several that go on.
fn of_block(block: &str) -> Vec<String> {
    let (mut commands, mut lines) = (Vec::new(), block.lines());
    while let Some(line) = lines.next() {
        let mut command = line.to_owned();
        while command.ends_with('\\') {
            command = format!("{command}\n{}", lines.next().unwrap_or_default());
        }
        if !command.trim().is_empty() {
            commands.push(command);
        }
    }
    commands
}

impl Command {
    /// The command without the remark behind it.
    pub fn bare(&self) -> &str {
        let bare = self.text.split("  #").next().unwrap_or_default();
        bare.trim_end()
    }

    /// Whether it says what can be typed rather than something to type: `srchat ls`, `srchat run MODEL`, `srchat attach [NAME]`.
    pub fn is_usage(&self) -> bool {
        let stands_for_something =
            |word: &str| word.contains(['[', '|']) || word.chars().all(|c| c.is_ascii_uppercase());
        self.inline && self.text.split(' ').skip(2).all(stands_for_something)
    }
}

/// What the parser makes of each kind of place, seen once before it is relied on.
pub async fn the_readmes_commands_are_found_wherever_they_stand() {
    let readme = "Say `srchat ls`, never `--force`, or:\n\n```sh\na \\\n  b\nc  # remark\n```\n\n\
                  ```text\nnot this\n```\n\n| a |\n|---|\n| `srchat x a\\|b` and `srchat x NAME now` |\n";
    let found = commands(readme);
    let texts: Vec<(&str, bool)> = found.iter().map(|c| (c.bare(), c.is_usage())).collect();
    let expected = [
        ("srchat ls", true),
        ("a \\\n  b", false),
        ("c", false),
        ("srchat x a|b", true),
        ("srchat x NAME now", false),
    ];
    assert_eq!(texts, expected);
}

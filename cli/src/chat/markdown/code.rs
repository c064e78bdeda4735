//! Code in its colours: the terminal's own, line by line, so that nothing that was shown is ever drawn again.

use super::{CYAN, DIM, RESET};
use crate::chat::theme::Theme;
use std::sync::OnceLock;
use syntect::parsing::{ParseState, Scope, ScopeStack, SyntaxSet};

const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const BLUE: &str = "\x1b[34m";
const MAGENTA: &str = "\x1b[35m";

/// What is said of a piece of code, the first that fits, by the names that Sublime Text's grammars use.
const STYLES: [(&str, &str); 16] = [
    ("comment", DIM),
    ("constant.character.escape", CYAN),
    ("string", GREEN),
    ("constant", MAGENTA),
    ("keyword.operator", ""),
    ("keyword", BLUE),
    ("storage", BLUE),
    ("entity.name.function", YELLOW),
    ("variable.function", YELLOW),
    ("support.function", YELLOW),
    ("entity.name", CYAN),
    ("support", CYAN),
    ("markup.inserted", GREEN),
    ("markup.deleted", RED),
    ("meta.diff.range", CYAN),
    ("markup.heading", BLUE),
];
/// A line longer than this is data rather than code, and not worth the time that its colours take.
const LONGEST: usize = 2 << 10;

/// One block of code.
#[derive(Debug)]
pub enum Code {
    /// Of a language of this name, if there is one; nothing of it was shown yet.
    Named(String),
    /// Between two lines of it.
    Known(Box<(ParseState, ScopeStack)>),
    /// In one colour.
    Plain,
}

impl Code {
    /// A block that begins so: "```rust" or "~~~ {.python}". Who named a language has us load what we know of languages, on a thread:
    /// until the first line has come, it is there.
    pub fn begin(fence: &str, theme: Theme) -> Self {
        let info = fence.trim_matches(|c: char| c.is_whitespace() || c == '`' || c == '~');
        let mut words = info.split(|c: char| c.is_whitespace() || "{}.,:=".contains(c));
        match words.find(|word| !word.is_empty()) {
            Some(name) if theme.styled => {
                std::thread::spawn(languages);
                Self::Named(name.to_owned())
            }
            Some(_) | None => Self::Plain,
        }
    }

    /// The next line, without its end.
    pub fn line(&mut self, text: &str, theme: Theme) -> String {
        if let Self::Named(name) = self {
            *self = match languages().find_syntax_by_token(name) {
                Some(syntax) => Self::Known(Box::new((ParseState::new(syntax), ScopeStack::new()))),
                None => Self::Plain,
            };
        }
        if let Self::Known(place) = self {
            if let Some(line) = coloured(&mut place.0, &mut place.1, text, theme) {
                return line;
            }
            // Whatever follows would be told by what this line could not say.
            *self = Self::Plain;
        }
        let shown = theme.show(text);
        match shown.is_empty() {
            true => shown,
            false => format!("{}{shown}{}", theme.style(CYAN), theme.style(RESET)),
        }
    }
}

/// Every language that bat knows; loaded once, when the first is asked for.
fn languages() -> &'static SyntaxSet {
    static LANGUAGES: OnceLock<SyntaxSet> = OnceLock::new();
    LANGUAGES.get_or_init(two_face::syntax::extra_newlines)
}

/// A line in colours; nothing where its language's grammar does not bear it.
fn coloured(
    state: &mut ParseState,
    stack: &mut ScopeStack,
    text: &str,
    theme: Theme,
) -> Option<String> {
    if text.len() > LONGEST {
        return None;
    }
    let line = format!("{text}\n");
    let changes = state.parse_line(&line, languages()).ok()?;
    let (mut out, mut shown) = (String::new(), 0);
    for (at, change) in changes {
        piece(
            &text[shown.min(text.len())..at.min(text.len())],
            stack,
            theme,
            &mut out,
        );
        shown = at;
        stack.apply(&change).ok()?;
    }
    piece(&text[shown.min(text.len())..], stack, theme, &mut out);
    Some(out)
}

fn piece(text: &str, stack: &ScopeStack, theme: Theme, out: &mut String) {
    if text.is_empty() {
        return;
    }
    match style(stack) {
        "" => out.push_str(&theme.show(text)),
        style => {
            out.push_str(style);
            out.push_str(&theme.show(text));
            out.push_str(RESET);
        }
    }
}

/// The innermost place that has a style gives it.
fn style(stack: &ScopeStack) -> &'static str {
    static SCOPES: OnceLock<Vec<(Scope, &str)>> = OnceLock::new();
    let scopes = SCOPES.get_or_init(|| {
        let scopes = STYLES.iter();
        scopes
            .filter_map(|(name, style)| Some((Scope::new(name).ok()?, *style)))
            .collect()
    });
    let of = |scope: &Scope| scopes.iter().find(|(of, _)| of.is_prefix_of(*scope));
    let innermost = stack.as_slice().iter().rev().find_map(of);
    innermost.map_or("", |(_, style)| *style)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEME: Theme = Theme {
        styled: true,
        unicode: true,
        width: 79,
    };

    fn shown(fence: &str, lines: &[&str], theme: Theme) -> Vec<String> {
        let mut code = Code::begin(fence, theme);
        lines.iter().map(|line| code.line(line, theme)).collect()
    }

    #[test]
    fn a_language_is_shown_in_its_colours_across_lines() {
        let lines = ["fn main() { /* begins", "and \"ends\" */ let a = \"x\"; }"];
        let shown = shown("```rust,ignore", &lines, THEME);
        assert!(shown[0].contains(&format!("{BLUE}fn{RESET}")), "{shown:?}");
        assert!(
            shown[0].contains(&format!("{YELLOW}main{RESET}")),
            "{shown:?}"
        );
        // What the first line began goes on in the second.
        assert!(
            shown[1].starts_with(&format!("{DIM}and \"ends\" ")),
            "{shown:?}"
        );
        assert!(shown[1].contains(&format!("{GREEN}x{RESET}")), "{shown:?}");
    }

    #[test]
    fn the_ways_to_name_a_language_are_understood() {
        for fence in [
            "```python",
            "~~~ {.python}",
            "```Python title=\"a\"",
            "```py:a.py",
        ] {
            let shown = shown(fence, &["def f(): pass"], THEME);
            assert!(
                shown[0].contains(&format!("{BLUE}def{RESET}")),
                "{fence}: {shown:?}"
            );
        }
    }

    #[test]
    fn what_has_no_language_or_no_colours_stays_as_it_was() {
        let one = [format!("{CYAN}let a{RESET}")];
        assert_eq!(shown("```", &["let a"], THEME), one);
        assert_eq!(shown("```nonsense", &["let a"], THEME), one);
        let bare = Theme {
            styled: false,
            ..THEME
        };
        assert_eq!(shown("```rust", &["let a", ""], bare), ["let a", ""]);
        let long = "x".repeat(LONGEST + 1);
        let shown = shown("```rust", &[&long, "let a"], THEME);
        assert_eq!(shown[1], one[0]);
    }
}

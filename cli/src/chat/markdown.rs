//! Markdown for a terminal, rendered while it streams: what was printed is never printed again, so nothing
//! flickers and the scrollback stays whole. Characters are held back only while a marker is undecided.

use std::fmt::Write as _;

const BOLD: &str = "\x1b[1m";
const ITALIC: &str = "\x1b[3m";
const DIM: &str = "\x1b[2m";
const CYAN: &str = "\x1b[36m";
const RESET: &str = "\x1b[0m";

/// A line start longer than this is text: no marker is.
const LONGEST_MARKER: usize = 16;

/// One answer being rendered.
#[derive(Debug, Default)]
pub struct Markdown {
    /// Text whose meaning depends on what follows.
    held: String,
    place: Place,
    /// The fence that opened the code block we are in.
    fence: Option<char>,
    bold: bool,
    italic: bool,
    /// Length of the run of backticks that opened a code span.
    code: usize,
    heading: bool,
    previous: Option<char>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    LineStart,
    /// A line that is shown whole once its end has come: fences and rules.
    WholeLine,
    Inline,
}

/// What the beginning of a line says of it.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    Undecided,
    Text,
    Heading,
    Item { indent: usize },
    Quote,
    WholeLine,
}

impl Markdown {
    /// Renders the next piece of the answer.
    pub fn push(&mut self, piece: &str) -> String {
        let mut out = String::with_capacity(piece.len() + 16);
        for c in piece.chars().filter(|c| printable(*c)) {
            self.take(c, &mut out);
        }
        out
    }

    /// Renders what was held back and leaves the terminal's style as it was.
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        match self.place {
            Place::LineStart => {
                let held = std::mem::take(&mut self.held);
                self.begin_text(&held, &mut out);
                self.resolve(None, &mut out);
            }
            Place::WholeLine => self.end_whole_line(&mut out),
            Place::Inline => self.resolve(None, &mut out),
        }
        out.push_str(RESET);
        *self = Self::default();
        out
    }

    fn take(&mut self, c: char, out: &mut String) {
        match self.place {
            Place::LineStart => self.take_start(c, out),
            Place::WholeLine if c == '\n' => {
                self.end_whole_line(out);
                self.end_line(out);
            }
            Place::WholeLine => self.held.push(c),
            Place::Inline => self.take_inline(c, out),
        }
    }

    fn take_start(&mut self, c: char, out: &mut String) {
        if c != '\n' {
            self.held.push(c);
        }
        let start = match (self.fence, c) {
            (Some(mark), _) => inside_fence(&self.held, mark, c == '\n'),
            (None, '\n') => at_line_end(&self.held),
            (None, _) => start_of(&self.held),
        };
        let held = match start {
            Start::Undecided => return,
            Start::WholeLine => {
                self.place = Place::WholeLine;
                if c == '\n' {
                    self.take(c, out);
                }
                return;
            }
            Start::Text | Start::Heading | Start::Item { .. } | Start::Quote => {
                std::mem::take(&mut self.held)
            }
        };
        self.place = Place::Inline;
        match start {
            Start::Heading => {
                self.reset(out);
                self.heading = true;
                out.push_str(BOLD);
            }
            Start::Item { indent } => {
                self.reset(out);
                let _ = write!(out, "{:indent$}• ", "");
            }
            Start::Quote => {
                self.reset(out);
                let _ = write!(out, "{DIM}│{RESET} ");
            }
            Start::Text | Start::Undecided | Start::WholeLine => self.begin_text(&held, out),
        }
        if c == '\n' {
            self.take_inline('\n', out);
        }
    }

    /// Text that turned out to begin no block.
    fn begin_text(&mut self, held: &str, out: &mut String) {
        self.place = Place::Inline;
        if held.trim().is_empty() && self.fence.is_none() {
            self.reset(out);
        }
        for c in held.chars() {
            self.take_inline(c, out);
        }
    }

    fn take_inline(&mut self, c: char, out: &mut String) {
        if self.fence.is_some() {
            if c == '\n' {
                self.end_line(out);
            } else {
                out.push(c);
            }
            return;
        }
        let escaped = self.held == "\\";
        let marker = matches!(c, '*' | '_' | '`') && !escaped;
        if marker && (self.held.is_empty() || self.held.starts_with(c)) {
            self.held.push(c);
            return;
        }
        if escaped {
            self.held.clear();
            if !c.is_ascii_punctuation() {
                out.push('\\');
            }
        } else {
            self.resolve(Some(c), out);
            if marker || (c == '\\' && self.code == 0) {
                self.held.push(c);
                return;
            }
        }
        if c == '\n' {
            self.end_line(out);
        } else {
            out.push(c);
            self.previous = Some(c);
        }
    }

    /// Decides what a held run of markers meant, now that the next character is known.
    fn resolve(&mut self, next: Option<char>, out: &mut String) {
        let run = std::mem::take(&mut self.held);
        let Some(mark) = run.chars().next() else {
            return;
        };
        let length = run.chars().count();
        match mark {
            '`' if self.code == length => self.code = 0,
            '`' if self.code == 0 => self.code = length,
            '*' | '_' if self.code == 0 && self.toggles(mark, length, next) => {
                self.bold ^= length >= 2;
                self.italic ^= length != 2;
            }
            _ => {
                out.push_str(&run);
                self.previous = Some(mark);
                return;
            }
        }
        self.restyle(out);
    }

    /// A run opens when text follows it and closes when text precedes it; `_` never acts inside a word.
    fn toggles(&self, mark: char, length: usize, next: Option<char>) -> bool {
        let open = match length {
            1 => self.italic,
            2 => self.bold,
            3 => self.bold && self.italic,
            _ => return false,
        };
        let before = self.previous.filter(|c| !c.is_whitespace());
        let after = next.filter(|c| !c.is_whitespace());
        let in_word =
            before.is_some_and(char::is_alphanumeric) && after.is_some_and(char::is_alphanumeric);
        let acts = if open {
            before.is_some()
        } else {
            after.is_some()
        };
        acts && !(mark == '_' && in_word)
    }

    fn end_whole_line(&mut self, out: &mut String) {
        let line = std::mem::take(&mut self.held);
        let mark = line.trim_start().chars().next();
        match (self.fence, mark) {
            (Some(_), _) => self.fence = None,
            (None, Some(mark @ ('`' | '~'))) => {
                self.reset(out);
                self.fence = Some(mark);
            }
            (None, _) => {
                self.reset(out);
                let _ = write!(out, "{DIM}────────{RESET}");
                return;
            }
        }
        let _ = write!(out, "{DIM}{line}{RESET}");
        if self.fence.is_some() {
            out.push_str(CYAN);
        }
    }

    fn end_line(&mut self, out: &mut String) {
        if self.heading {
            self.reset(out);
        }
        out.push('\n');
        self.previous = None;
        self.place = Place::LineStart;
    }

    fn reset(&mut self, out: &mut String) {
        if self.bold || self.italic || self.code > 0 || self.heading {
            out.push_str(RESET);
        }
        (self.bold, self.italic, self.heading, self.code) = (false, false, false, 0);
    }

    fn restyle(&self, out: &mut String) {
        out.push_str(RESET);
        if self.bold || self.heading {
            out.push_str(BOLD);
        }
        if self.italic {
            out.push_str(ITALIC);
        }
        if self.code > 0 {
            out.push_str(CYAN);
        }
    }
}

/// Whether a character may reach the terminal. A model's answer is foreign text: escape sequences in it could
/// rewrite the screen or the clipboard, and direction overrides could hide what a line says.
pub fn printable(c: char) -> bool {
    match c {
        '\n' | '\t' => true,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => false,
        c => !c.is_control(),
    }
}

fn start_of(held: &str) -> Start {
    let text = held.trim_start_matches(' ');
    let indent = held.len() - text.len();
    let Some(first) = text.chars().next() else {
        return limit(held);
    };
    let run = text.chars().take_while(|c| *c == first).count();
    let after = text.chars().nth(run);
    match (first, after) {
        ('#', Some(' ')) if run <= 6 => Start::Heading,
        ('#', None) if run <= 6 => Start::Undecided,
        ('-' | '+' | '*', Some(' ')) if run == 1 => Start::Item { indent },
        ('>', Some(' ')) if run == 1 => Start::Quote,
        ('-' | '+' | '*' | '>', None) => limit(held),
        ('`' | '~', _) if run >= 3 => Start::WholeLine,
        ('`' | '~', None) => Start::Undecided,
        _ => Start::Text,
    }
}

/// The same, for a line that ended while it was undecided.
fn at_line_end(held: &str) -> Start {
    let text = held.trim();
    let rule =
        text.len() >= 3 && (text.chars().all(|c| c == '-') || text.chars().all(|c| c == '*'));
    match start_of(held) {
        Start::WholeLine => Start::WholeLine,
        _ if rule => Start::WholeLine,
        Start::Undecided | Start::Text | Start::Heading | Start::Item { .. } | Start::Quote => {
            Start::Text
        }
    }
}

/// Inside a code block only its closing fence matters.
fn inside_fence(held: &str, mark: char, ended: bool) -> Start {
    let text = held.trim_start_matches(' ');
    let run = text.chars().take_while(|c| *c == mark).count();
    let only = run == text.trim_end().chars().count();
    match (only, run >= 3, ended) {
        (true, true, true) => Start::WholeLine,
        (true, _, false) => limit(held),
        _ => Start::Text,
    }
}

fn limit(held: &str) -> Start {
    if held.len() > LONGEST_MARKER {
        Start::Text
    } else {
        Start::Undecided
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(text: &str) -> String {
        let mut markdown = Markdown::default();
        let mut out = markdown.push(text);
        out.push_str(&markdown.finish());
        out
    }

    fn plain(text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find('\x1b') {
            out.push_str(&rest[..start]);
            let end = rest[start..]
                .find('m')
                .map_or(rest.len(), |i| start + i + 1);
            rest = &rest[end..];
        }
        out + rest
    }

    #[test]
    fn emphasis_becomes_style() {
        assert_eq!(
            whole("a **b** c"),
            format!("a {RESET}{BOLD}b{RESET} c{RESET}")
        );
        assert_eq!(whole("*x*"), format!("{RESET}{ITALIC}x{RESET}{RESET}"));
    }

    #[test]
    fn stars_and_underscores_that_are_text_stay_text() {
        for text in ["2 * 3 * 4", "snake_case_name", "a \\*b\\* c"] {
            assert_eq!(plain(&whole(text)), text.replace('\\', ""));
        }
    }

    #[test]
    fn a_heading_an_item_and_a_quote_lose_their_markers() {
        assert_eq!(plain(&whole("## Why\ntext")), "Why\ntext");
        assert_eq!(plain(&whole("- one\n  - two\n")), "• one\n  • two\n");
        assert_eq!(plain(&whole("> said\n")), "│ said\n");
    }

    #[test]
    fn code_blocks_keep_every_character() {
        let text = "```rust\nlet a = *b * **c;\n# not a heading\n```\nafter";
        assert_eq!(plain(&whole(text)), text);
    }

    #[test]
    fn a_code_span_keeps_its_stars() {
        assert_eq!(plain(&whole("use `a * **b**` here")), "use a * **b** here");
    }

    #[test]
    fn escape_sequences_of_the_model_never_reach_the_terminal() {
        let out = whole("\x1b]52;c;ZXZpbA==\x07\u{202e}ok");
        assert!(!out.contains("\x1b]") && !out.contains('\u{202e}'));
    }

    proptest! {
        #[test]
        fn how_the_stream_is_cut_changes_nothing(text in "[-a-c#*_`>~ \\\\\n]{0,60}", cut in 0_usize..60) {
            let cut = text.char_indices().map(|(i, _)| i).nth(cut).unwrap_or(text.len());
            let mut markdown = Markdown::default();
            let mut out = markdown.push(&text[..cut]);
            out.push_str(&markdown.push(&text[cut..]));
            out.push_str(&markdown.finish());
            prop_assert_eq!(out, whole(&text));
        }

        #[test]
        fn no_letter_is_ever_lost(text in "[a-c#*_` \n]{0,60}") {
            let letters = |s: &str| plain(s).chars().filter(|c| c.is_alphabetic()).collect::<String>();
            prop_assert_eq!(letters(&whole(&text)), letters(&text));
        }
    }
}

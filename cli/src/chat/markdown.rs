//! Markdown for a terminal, rendered while it streams: what was printed is never printed again, so nothing
//! flickers and the scrollback stays whole. Only what is undecided is held back: a word, a marker, a line of code, a table.

mod code;
mod inline;
mod table;
mod wrap;

use super::theme::{Theme, printable, width};
use code::Code;
use inline::Inline;
use table::Table;
use wrap::Wrap;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const ITALIC: &str = "\x1b[3m";
const UNDERLINE: &str = "\x1b[4m";
const STRIKE: &str = "\x1b[9m";
const CYAN: &str = "\x1b[36m";
const RESET: &str = "\x1b[0m";

/// A line start longer than this is text: no marker is.
const LONGEST_MARKER: usize = 16;
/// A line of code longer than this is shown in parts.
const LONGEST_LINE: usize = 64 << 10;
/// Deeper than this nothing is indented further.
const DEEPEST: usize = 24;

/// One answer being rendered.
#[derive(Debug)]
pub struct Markdown {
    theme: Theme,
    /// The beginning of a line whose meaning depends on what follows, or a line that is shown whole.
    held: String,
    place: Place,
    /// The code block that we are in.
    fence: Option<Fence>,
    code: Code,
    /// Quote marks before the present line.
    quotes: usize,
    /// Empty lines that were seen since the last text.
    blank: usize,
    /// Nothing was shown yet.
    fresh: bool,
    table: Table,
    inline: Inline,
    wrap: Wrap,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    LineStart,
    /// A line that is shown once its end has come: fences, rules, rows, code.
    WholeLine,
    Inline,
}

/// An open code block.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fence {
    mark: char,
    length: usize,
    indent: usize,
}

/// What the beginning of a line says of it.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    Undecided,
    Text {
        indent: usize,
    },
    Heading,
    /// `rest` is what of its text was read while it was undecided.
    Item {
        indent: usize,
        marker: String,
        rest: String,
    },
    Quote,
    WholeLine,
}

impl Markdown {
    /// For a terminal that looks so.
    pub fn new(theme: Theme) -> Self {
        Self {
            theme,
            held: String::new(),
            place: Place::LineStart,
            fence: None,
            code: Code::Plain,
            quotes: 0,
            blank: 0,
            fresh: true,
            table: Table::default(),
            inline: Inline::default(),
            wrap: Wrap::new(theme),
        }
    }

    /// Renders the next piece of the answer.
    pub fn push(&mut self, piece: &str) -> String {
        let mut out = String::with_capacity(piece.len() + 16);
        for c in piece.chars().filter(|c| printable(*c)) {
            self.take(c, &mut out);
        }
        out
    }

    /// Renders what was held back; the cursor is then at the beginning of a line.
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        match self.place {
            Place::LineStart if self.held.is_empty() => {}
            Place::LineStart | Place::WholeLine | Place::Inline => self.take('\n', &mut out),
        }
        out.push_str(&self.table.draw(self.theme));
        *self = Self::new(self.theme);
        out
    }

    /// The column that the cursor is in after what was given out so far.
    pub fn column(&self) -> usize {
        self.wrap.column()
    }

    /// Bytes of the answer that are held back: bounded, however long the answer is.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.held.len() + self.table.held() + self.inline.held() + self.wrap.held()
    }

    fn take(&mut self, c: char, out: &mut String) {
        match self.place {
            Place::LineStart if self.fence.is_some() => {
                self.place = Place::WholeLine;
                self.take(c, out);
            }
            Place::LineStart => self.take_start(c, out),
            Place::WholeLine if c == '\n' => {
                self.place = Place::LineStart;
                let line = std::mem::take(&mut self.held);
                self.whole_line(&line, out);
                self.quotes = 0;
            }
            Place::WholeLine => {
                self.held.push(c);
                if self.fence.is_some() && self.held.len() > LONGEST_LINE {
                    let part = std::mem::take(&mut self.held);
                    self.code = Code::Plain;
                    out.push_str(&self.theme.show(&part));
                }
            }
            Place::Inline if c == '\n' => self.end_text(out),
            Place::Inline => self.inline.take(c, &mut self.wrap, out),
        }
    }

    fn take_start(&mut self, c: char, out: &mut String) {
        if c != '\n' {
            self.held.push(c);
        }
        let start = if c == '\n' {
            at_line_end(&self.held)
        } else {
            start_of(&self.held)
        };
        let whole = matches!(start, Start::WholeLine) && self.held.trim_start().starts_with('|');
        if !self.table.is_empty() && !whole && start != Start::Undecided {
            self.before_block(out);
            out.push_str(&self.table.draw(self.theme));
        }
        match start {
            Start::Undecided => {}
            Start::WholeLine => {
                self.place = Place::WholeLine;
                if c == '\n' {
                    self.take(c, out);
                }
            }
            Start::Quote => {
                self.quotes = (self.quotes + 1).min(DEEPEST);
                let held = std::mem::take(&mut self.held);
                let rest = held.trim_start().strip_prefix('>').unwrap_or_default();
                for c in rest.strip_prefix(' ').unwrap_or(rest).chars() {
                    self.take(c, out);
                }
                if c == '\n' {
                    self.take(c, out);
                }
            }
            Start::Text { indent } => self.begin_text(indent, c, out),
            Start::Heading => self.begin(("", ""), true, out),
            Start::Item {
                indent,
                marker,
                rest,
            } => {
                let margin = " ".repeat(indent.min(DEEPEST));
                let marker = if marker == "- " {
                    self.theme.either("\u{2022} ", "- ")
                } else {
                    &marker
                };
                let below = " ".repeat(margin.len() + width(marker));
                self.begin((&format!("{margin}{marker}"), &below), false, out);
                for c in rest.chars() {
                    self.inline.take(c, &mut self.wrap, out);
                }
            }
        }
    }

    /// Text that turned out to begin no block; `c` is its last character, a line end perhaps.
    fn begin_text(&mut self, indent: usize, c: char, out: &mut String) {
        let held = std::mem::take(&mut self.held);
        let text = held.trim_start();
        if text.is_empty() && c == '\n' {
            match self.quotes {
                0 => self.blank += 1,
                _ => {
                    self.begin(("", ""), false, out);
                    self.end_text(out);
                }
            }
            return;
        }
        let margin = " ".repeat(indent.min(DEEPEST));
        self.begin((&margin, &margin), false, out);
        for c in text.chars() {
            self.inline.take(c, &mut self.wrap, out);
        }
        if c == '\n' {
            self.end_text(out);
        }
    }

    /// One empty line stands for as many as there were.
    fn before_block(&mut self, out: &mut String) {
        if self.blank > 0 && !self.fresh {
            out.push('\n');
        }
        (self.blank, self.fresh) = (0, false);
    }

    fn begin(&mut self, (first, rest): (&str, &str), heading: bool, out: &mut String) {
        self.before_block(out);
        self.held.clear();
        self.place = Place::Inline;
        let bar = self.bars();
        self.wrap
            .begin(&format!("{bar}{first}"), &format!("{bar}{rest}"), out);
        self.inline.begin(heading, &mut self.wrap);
    }

    fn end_text(&mut self, out: &mut String) {
        self.inline.end(&mut self.wrap, out);
        self.wrap.end(out);
        (self.place, self.quotes) = (Place::LineStart, 0);
    }

    fn bars(&self) -> String {
        let theme = self.theme;
        let bar = theme.either("\u{2502}", "|");
        let (dim, reset) = (theme.style(DIM), theme.style(RESET));
        format!("{dim}{bar}{reset} ").repeat(self.quotes)
    }

    fn whole_line(&mut self, line: &str, out: &mut String) {
        let theme = self.theme;
        let (dim, reset) = (theme.style(DIM), theme.style(RESET));
        if let Some(fence) = &self.fence {
            let bare = line.trim_start_matches(' ');
            let text = &line[fence.indent.min(line.len() - bare.len())..];
            if closes(line, fence) {
                self.fence = None;
                out.push_str(&format!("{dim}{}{reset}\n", theme.show(text)));
            } else {
                out.push_str(&self.code.line(text, theme));
                out.push('\n');
            }
            return;
        }
        let text = line.trim();
        if text.starts_with('|') {
            if self.table.push(line.to_owned()) {
                self.before_block(out);
                out.push_str(&self.table.draw(theme));
            }
            return;
        }
        self.before_block(out);
        out.push_str(&self.bars());
        match fence(line) {
            Some(fence) => {
                self.fence = Some(fence);
                self.code = Code::begin(text, theme);
                out.push_str(&format!("{dim}{}{reset}\n", theme.show(text)));
            }
            None => {
                let dash = theme.either("\u{2500}", "-");
                out.push_str(&format!("{dim}{}{reset}\n", dash.repeat(8)));
            }
        }
    }
}

/// What the model thinks aloud: dim, wrapped, its Markdown left alone.
#[derive(Debug)]
pub struct Aside {
    theme: Theme,
    wrap: Wrap,
    inside: bool,
}

impl Aside {
    /// For a terminal that looks so.
    pub fn new(theme: Theme) -> Self {
        Self {
            theme,
            wrap: Wrap::new(theme),
            inside: false,
        }
    }

    /// The next piece of it.
    pub fn push(&mut self, piece: &str) -> String {
        let mut out = String::with_capacity(piece.len() + 16);
        for c in piece.chars().filter(|c| printable(*c)) {
            if c == '\n' {
                self.wrap.end(&mut out);
                self.inside = false;
                continue;
            }
            if !std::mem::replace(&mut self.inside, true) {
                self.wrap.begin("", "", &mut out);
                self.wrap.style(self.theme.style(DIM).to_owned());
            }
            self.wrap.text(c, &mut out);
        }
        out
    }

    /// What was held back; the cursor is then at the beginning of a line.
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        if self.inside {
            self.wrap.end(&mut out);
        }
        *self = Self::new(self.theme);
        out
    }

    /// The column that the cursor is in.
    pub fn column(&self) -> usize {
        self.wrap.column()
    }
}

fn fence(line: &str) -> Option<Fence> {
    let text = line.trim_start_matches(' ');
    let mark = text.chars().next().filter(|c| matches!(c, '`' | '~'))?;
    let length = text.chars().take_while(|c| *c == mark).count();
    let indent = line.len() - text.len();
    (length >= 3).then_some(Fence {
        mark,
        length,
        indent,
    })
}

/// Inside a code block only its closing fence matters.
fn closes(line: &str, fence: &Fence) -> bool {
    let text = line.trim();
    text.chars().count() >= fence.length && text.chars().all(|c| c == fence.mark)
}

fn start_of(held: &str) -> Start {
    let text = held.trim_start_matches(' ');
    let indent = held.len() - text.len();
    let Some(first) = text.chars().next() else {
        return limit(held, indent);
    };
    let run = text.chars().take_while(|c| *c == first).count();
    let after = text.chars().nth(run);
    let plain = Start::Text { indent };
    match (first, after) {
        ('#', Some(' ')) if run <= 6 => Start::Heading,
        ('#', None) if run <= 6 => Start::Undecided,
        ('-' | '+' | '*', Some(' ')) if run == 1 => task(text, indent),
        ('>', Some(_)) => Start::Quote,
        ('>', None) if run > 1 => Start::Quote,
        ('-' | '+' | '*' | '>', None) => limit(held, indent),
        ('`' | '~', _) if run >= 3 => Start::WholeLine,
        ('`' | '~', None) => Start::Undecided,
        ('|', _) => Start::WholeLine,
        ('0'..='9', _) => ordered(text, indent),
        _ => plain,
    }
}

/// `- text`, or `- [ ] text`.
fn task(text: &str, indent: usize) -> Start {
    let item = |marker: &str, rest: &str| Start::Item {
        indent,
        marker: marker.to_owned(),
        rest: rest.to_owned(),
    };
    match text[1..].trim_start_matches(' ') {
        "" if text.len() > LONGEST_MARKER => item("- ", ""),
        "" | "[" | "[ " | "[x" | "[X" | "[ ]" | "[x]" | "[X]" => Start::Undecided,
        "[ ] " => item("[ ] ", ""),
        "[x] " | "[X] " => item("[x] ", ""),
        rest => item("- ", rest),
    }
}

/// `12. text`
fn ordered(text: &str, indent: usize) -> Start {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    match text.as_bytes().get(digits..).unwrap_or_default() {
        [] | [b'.' | b')'] if digits <= 9 => Start::Undecided,
        [b'.' | b')', b' ', ..] if digits <= 9 => Start::Item {
            indent,
            marker: text[..digits + 2].to_owned(),
            rest: String::new(),
        },
        _ => Start::Text { indent },
    }
}

/// The same, for a line that ended while it was undecided.
fn at_line_end(held: &str) -> Start {
    let text = held.trim();
    let rule = text.len() >= 3
        && ['-', '*', '=']
            .iter()
            .any(|mark| text.chars().all(|c| c == *mark));
    let indent = held.len() - held.trim_start_matches(' ').len();
    match start_of(held) {
        Start::WholeLine => Start::WholeLine,
        _ if rule => Start::WholeLine,
        _ if text.starts_with('>') => Start::Quote,
        Start::Undecided
        | Start::Text { .. }
        | Start::Heading
        | Start::Item { .. }
        | Start::Quote => Start::Text { indent },
    }
}

fn limit(held: &str, indent: usize) -> Start {
    if held.len() > LONGEST_MARKER {
        Start::Text { indent }
    } else {
        Start::Undecided
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const THEME: Theme = Theme {
        styled: true,
        unicode: true,
        width: 79,
    };

    fn whole_with(text: &str, theme: Theme) -> String {
        let mut markdown = Markdown::new(theme);
        let mut out = markdown.push(text);
        out.push_str(&markdown.finish());
        out
    }

    fn whole(text: &str) -> String {
        whole_with(text, THEME)
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

    fn narrow(text: &str, width: usize) -> String {
        plain(&whole_with(text, Theme { width, ..THEME }))
    }

    #[test]
    fn emphasis_becomes_style() {
        assert_eq!(whole("a **b** c"), format!("a {BOLD}b{RESET} c\n"));
        assert_eq!(whole("*x*"), format!("{ITALIC}x{RESET}\n"));
        assert_eq!(whole("~~x~~"), format!("{STRIKE}x{RESET}\n"));
    }

    #[test]
    fn stars_underscores_and_brackets_that_are_text_stay_text() {
        for text in [
            "2 * 3 * 4",
            "snake_case_name",
            "a[i] and [1] [b",
            "a \\*b\\* c",
            "~/x and 1.5",
        ] {
            assert_eq!(plain(&whole(text)), text.replace('\\', "") + "\n");
        }
    }

    #[test]
    fn a_link_shows_its_text_and_where_it_leads() {
        assert_eq!(
            plain(&whole("see [the **book**](https://x.y/z).")),
            "see the book (https://x.y/z).\n"
        );
        assert_eq!(plain(&whole("[https://x.y](https://x.y)")), "https://x.y\n");
    }

    #[test]
    fn a_heading_an_item_and_a_quote_lose_their_markers() {
        assert_eq!(plain(&whole("## Why\ntext")), "Why\ntext\n");
        assert_eq!(
            plain(&whole("- one\n  - two\n- [x] three\n12. four")),
            "\u{2022} one\n  \u{2022} two\n[x] three\n12. four\n"
        );
        assert_eq!(
            plain(&whole("> said\n> - by\n>> whom\n")),
            "\u{2502} said\n\u{2502} \u{2022} by\n\u{2502} \u{2502} whom\n"
        );
    }

    #[test]
    fn code_blocks_keep_every_character() {
        let text = "```rust\nlet a = *b * **c;\n\n# not a heading\n| nor | a table\n```\nafter\n";
        assert_eq!(plain(&whole(text)), text);
    }

    #[test]
    fn a_code_span_keeps_its_stars() {
        assert_eq!(
            plain(&whole("use `a * **b**[1]` here")),
            "use a * **b**[1] here\n"
        );
    }

    #[test]
    fn lines_break_between_words_and_items_stay_indented() {
        let text = "- the quick brown fox jumps over **the lazy** dog\nabcdefghijklmnopqrstuvwxyz";
        let shown = "\u{2022} the quick brown\n  fox jumps over\n  the lazy dog\nabcdefghijklmnopqrs\ntuvwxyz\n";
        assert_eq!(narrow(text, 19), shown);
        assert_eq!(
            narrow("\u{6f22}\u{5b57}\u{6f22}\u{5b57}", 5),
            "\u{6f22}\u{5b57}\n\u{6f22}\u{5b57}\n"
        );
    }

    #[test]
    fn a_table_stands_in_columns_and_where_there_is_no_room_in_a_list() {
        let text = "| Fruit | Price |\n|---|---:|\n| **Apple** | 1 |\n| Kiwi \\| x | 20 |\n\nafter";
        let wide = "Fruit    \u{2502} Price\n\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{253c}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\nApple    \u{2502} 1\nKiwi | x \u{2502} 20\n\nafter\n";
        assert_eq!(plain(&whole(text)), wide);
        let slim = "\u{2022} Fruit: Apple\n  Price: 1\n\u{2022} Fruit: Kiwi |\n    x\n  Price: 20\n\nafter\n";
        assert_eq!(narrow(text, 15), slim);
    }

    #[test]
    fn without_styles_the_markers_show_the_emphasis_and_without_utf_8_all_is_ascii() {
        let theme = Theme {
            styled: false,
            unicode: false,
            width: 79,
        };
        let text = "# A\n- **b** \u{2014} `c`\n> d\n---\n| e |\n|---|\n| f |\n";
        let shown = "A\n- **b** - `c`\n| d\n--------\ne\n-\nf\n";
        assert_eq!(whole_with(text, theme), shown);
    }

    #[test]
    fn escape_sequences_of_the_model_never_reach_the_terminal() {
        let out =
            whole("\x1b]52;c;ZXZpbA==\x07\u{202e}ok\n```\n\x1b[2J\n```\n| \x1b[2J |\n|---|\n");
        assert!(!out.contains("\x1b]") && !out.contains("\x1b[2J") && !out.contains('\u{202e}'));
    }

    #[test]
    fn a_hundred_thousand_lines_hold_back_no_more_than_a_few() {
        let mut markdown = Markdown::new(THEME);
        let (mut most, mut lines) = (0, 0);
        for at in 0..100_000 {
            let line = match at % 5 {
                0 => format!("- **item** {at} with [a link](https://x.y/{at}) and `code`\n"),
                1 => format!("| {at} | cell |\n"),
                2 => "```rust\n".to_owned(),
                3 => format!("let a = {at};\n```\n"),
                _ => format!("A paragraph {at} that goes on for a while and is not long.\n\n"),
            };
            lines += markdown.push(&line).lines().count();
            most = most.max(markdown.held());
        }
        assert!(most < 1024, "{most} bytes were held back");
        assert!(lines > 100_000);
    }

    proptest! {
        #[test]
        fn how_the_stream_is_cut_changes_nothing(text in "[-a-c#*_`>~|\\[\\]() \\\\1.x\n]{0,60}", cut in 0_usize..60) {
            let cut = text.char_indices().map(|(i, _)| i).nth(cut).unwrap_or(text.len());
            let mut markdown = Markdown::new(THEME);
            let mut out = markdown.push(&text[..cut]);
            out.push_str(&markdown.push(&text[cut..]));
            out.push_str(&markdown.finish());
            prop_assert_eq!(out, whole(&text));
        }

        #[test]
        fn no_letter_is_ever_lost(text in "[a-c#*_`|>~\\[\\]() \n-]{0,60}", width in 8_usize..80) {
            let letters = |s: &str| plain(s).chars().filter(|c| c.is_alphabetic()).collect::<String>();
            let shown = whole_with(&text, Theme { width, ..THEME });
            // A table as a list repeats its headings.
            if !text.contains('|') {
                prop_assert_eq!(letters(&shown), letters(&text));
            }
        }

        #[test]
        fn no_line_of_words_is_wider_than_the_terminal(text in "([a-c]{1,9}[ *]{0,2}){0,40}", width in 8_usize..40) {
            for line in whole_with(&text, Theme { width, ..THEME }).lines() {
                prop_assert!(crate::chat::theme::width(line) <= width, "{line:?}");
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,80}", width in 8_usize..80) {
            let _ = whole_with(&text, Theme { width, styled: false, unicode: false });
        }
    }
}

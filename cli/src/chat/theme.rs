//! What the terminal can show: styles, colours, characters beyond ASCII, columns.

use unicode_width::UnicodeWidthChar as _;

/// Longer lines are hard to read, however wide the terminal is.
const WIDEST: usize = 100;
/// A terminal that does not tell its size.
const USUAL: usize = 80;
/// Below this nothing can be laid out; lines then leave the screen.
const NARROWEST: usize = 8;

/// How text is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theme {
    /// Bold, italic, dim and colours may be used.
    pub styled: bool,
    /// Characters beyond ASCII can be shown.
    pub unicode: bool,
    /// Columns that a line of text may fill; the last one of the terminal stays free, since a cursor there is nowhere.
    pub width: usize,
}

impl Theme {
    /// Looks at the terminal and the environment.
    pub fn of_terminal() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            styled: set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb"),
            unicode: takes_utf8(|name| std::env::var(name).ok()),
            width: (columns() - 1).clamp(NARROWEST, WIDEST),
        }
    }

    /// A style, where there are styles.
    pub fn style(self, style: &'static str) -> &'static str {
        if self.styled { style } else { "" }
    }

    /// One of two spellings, the second in ASCII.
    pub fn either(self, unicode: &'static str, ascii: &'static str) -> &'static str {
        if self.unicode { unicode } else { ascii }
    }

    /// Text of a model as this terminal can show it.
    pub fn show(self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for c in text.chars().filter(|c| printable(*c)) {
            self.push(c, &mut out);
        }
        out
    }

    /// The same for one character.
    pub fn push(self, c: char, out: &mut String) {
        if self.unicode || c.is_ascii() {
            out.push(c);
        } else {
            out.push_str(ascii(c));
        }
    }
}

/// Columns of the terminal.
pub fn columns() -> usize {
    crossterm::terminal::size().map_or(USUAL, |(columns, _)| usize::from(columns).max(1))
}

/// Columns that a character takes.
pub fn width_of(c: char) -> usize {
    c.width().unwrap_or(0)
}

/// Columns that a text takes, escape sequences for styles not counted.
pub fn width(text: &str) -> usize {
    let (mut columns, mut escaped) = (0, false);
    for c in text.chars() {
        match (escaped, c) {
            (false, '\x1b') => escaped = true,
            (false, c) => columns += width_of(c),
            (true, c) => escaped = !c.is_ascii_alphabetic(),
        }
    }
    columns
}

/// The beginning of a text that fits into so many columns.
pub fn clip(text: &str, columns: usize) -> String {
    let mut left = columns;
    let fits = |c: &char| {
        let fits = width_of(*c) <= left;
        left = left.saturating_sub(width_of(*c));
        fits
    };
    text.chars().take_while(fits).collect()
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

/// The locale's say, as POSIX has it: the first of these that is set. None set is a bare container, whose terminal
/// takes UTF-8 as a rule.
pub fn takes_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| variable(name).filter(|value| !value.is_empty()));
    set.is_none_or(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

/// What stands for a character where only ASCII can be shown.
fn ascii(c: char) -> &'static str {
    match c {
        '\u{2018}' | '\u{2019}' | '\u{2032}' => "'",
        '\u{201c}' | '\u{201d}' | '\u{2033}' => "\"",
        '\u{2010}'..='\u{2015}' | '\u{2212}' => "-",
        '\u{2026}' => "...",
        '\u{2022}' | '\u{25e6}' | '\u{00b7}' | '\u{2219}' => "*",
        '\u{2192}' => "->",
        '\u{2190}' => "<-",
        '\u{00d7}' => "x",
        '\u{2264}' => "<=",
        '\u{2265}' => ">=",
        '\u{00a0}' | '\u{2009}' | '\u{202f}' => " ",
        c if width_of(c) == 0 => "",
        _ => "?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_locale_that_is_set_says_whether_there_is_utf8() {
        let of = |pairs: &'static [(&str, &str)]| {
            takes_utf8(move |name| {
                let found = pairs.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(of(&[]) && of(&[("LANG", "de_DE.utf8")]));
        assert!(!of(&[("LC_ALL", "C"), ("LANG", "en_US.UTF-8")]));
        assert!(!of(&[("LC_CTYPE", "POSIX")]) && !of(&[("LANG", "de_DE.ISO-8859-1")]));
        assert!(of(&[("LC_ALL", ""), ("LANG", "en_US.UTF-8")]));
    }

    #[test]
    fn without_utf_8_typography_becomes_ascii_and_the_rest_a_question_mark() {
        let theme = Theme {
            styled: false,
            unicode: false,
            width: 80,
        };
        assert_eq!(
            theme.show("\u{201c}a\u{201d} \u{2014} b\u{2026} \u{6f22}"),
            "\"a\" - b... ?"
        );
    }

    #[test]
    fn widths_count_columns_and_not_characters() {
        assert_eq!(width("\u{6f22}\u{5b57}a\u{301}"), 5);
        assert_eq!(width("\x1b[1mbold\x1b[0m"), 4);
        assert_eq!(clip("\u{6f22}\u{5b57}", 3), "\u{6f22}");
    }
}

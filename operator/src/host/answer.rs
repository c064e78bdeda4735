//! What scripts are told and what they answer: lines of a name and values, parsed strictly. A host is foreign input.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// The longest answer that a script of ours gives.
pub const ANSWER_LIMIT: usize = 256 * 1024;

/// Why an answer is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It does not begin with `srchat 1` and end with `end`: another program spoke, or it was cut off.
    #[error("the answer is not framed as ours are")]
    Frame,
    /// A line is missing.
    #[error("the answer lacks {0:?}")]
    Missing(&'static str),
    /// A line is there twice.
    #[error("the answer has {0:?} twice")]
    Twice(&'static str),
    /// A value is not of its kind.
    #[error("the answer's {0:?} is malformed")]
    Malformed(&'static str),
}

/// An answer's lines, framed by `srchat 1` and `end`. Names that are not asked for are a newer script's, and ignored.
#[derive(Debug)]
pub struct Answer<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Answer<'a> {
    /// Reads the frame.
    ///
    /// # Errors
    /// When it is not whole, not text, or a line has no name.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let text = std::str::from_utf8(bytes).map_err(|_error| Unreadable::Frame)?;
        let body = text
            .strip_prefix("srchat 1\n")
            .and_then(|rest| rest.strip_suffix("end\n"))
            .ok_or(Unreadable::Frame)?;
        if !body.is_empty() && !body.ends_with('\n') {
            return Err(Unreadable::Frame);
        }
        body.lines()
            .map(|line| line.split_once(' ').ok_or(Unreadable::Frame))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Every value of a name, in order.
    pub fn all(&self, name: &'static str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(found, _)| *found == name)
            .map(|(_, value)| *value)
    }

    /// The one value of a name, if it is there.
    ///
    /// # Errors
    /// When it is there twice.
    pub fn optional(&self, name: &'static str) -> Result<Option<&'a str>, Unreadable> {
        let mut values = self.all(name);
        let first = values.next();
        match values.next() {
            Some(_) => Err(Unreadable::Twice(name)),
            None => Ok(first),
        }
    }

    /// The one value of a name.
    ///
    /// # Errors
    /// When it is missing, or there twice.
    pub fn one(&self, name: &'static str) -> Result<&'a str, Unreadable> {
        self.optional(name)?.ok_or(Unreadable::Missing(name))
    }

    /// The one value of a name, parsed.
    ///
    /// # Errors
    /// When it is missing, there twice, or not of its kind.
    pub fn parsed<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Unreadable> {
        parse(self.one(name)?).ok_or(Unreadable::Malformed(name))
    }

    /// The one value of a name, parsed, or `None` where the script says `-`: it could not be read there.
    ///
    /// # Errors
    /// When it is missing, there twice, or not of its kind.
    pub fn known<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Unreadable> {
        match self.one(name)? {
            "-" => Ok(None),
            value => parse(value).map(Some).ok_or(Unreadable::Malformed(name)),
        }
    }
}

/// A decimal without sign, spaces or leading zeros.
pub fn number(text: &str) -> Option<u64> {
    let canonical = !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'));
    canonical.then(|| text.parse().ok()).flatten()
}

/// `yes` or `no`.
pub fn yes_or_no(text: &str) -> Option<bool> {
    match text {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// Base64 of text; what is not UTF-8 in it is replaced, since it is shown to people and never used as a name. `-` is none.
pub fn text(base64: &str) -> Option<String> {
    if base64 == "-" {
        return Some(String::new());
    }
    let bytes = STANDARD.decode(base64).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The parameters of a script: lines `name base64`, wiped from memory afterwards, since tokens are among them.
#[derive(Default)]
pub struct Parameters(Zeroizing<Vec<u8>>);

impl Parameters {
    /// Adds a line. Names are constants of ours; values may hold anything.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        self.push(name, value);
        self
    }

    /// Adds a line.
    pub fn push(&mut self, name: &'static str, value: impl AsRef<[u8]>) {
        let encoded = Zeroizing::new(STANDARD.encode(value));
        // An empty value would leave a line without its second word.
        let encoded = if encoded.is_empty() {
            "-"
        } else {
            encoded.as_str()
        };
        // Grown by hand: a reallocation by Vec would leave a copy of a token behind.
        let needed = self.0.len() + name.len() + encoded.len() + 2;
        if self.0.capacity() < needed {
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two()));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b' ');
        self.0.extend_from_slice(encoded.as_bytes());
        self.0.push(b'\n');
    }

    /// What goes to the script's stdin.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_answer_is_whole_or_nothing() {
        assert!(Answer::parse(b"srchat 1\nend\n").is_ok());
        assert!(Answer::parse(b"srchat 1\na 1\nend\n").is_ok());
        for bad in [
            &b""[..],
            b"srchat 1\n",
            b"srchat 2\nend\n",
            b"motd\nsrchat 1\nend\n",
            b"srchat 1\nend",
            b"srchat 1\na 1end\n",
            b"srchat 1\nlonely\nend\n",
            b"srchat 1\n\xff 1\nend\n",
        ] {
            assert!(Answer::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_value_is_there_once_and_of_its_kind() {
        let answer = Answer::parse(b"srchat 1\na 1\nb 2\nb 3\nc -\nd x y\nend\n").expect("framed");
        assert_eq!(answer.parsed("a", number), Ok(1));
        assert_eq!(answer.parsed("b", number), Err(Unreadable::Twice("b")));
        assert_eq!(answer.known("c", number), Ok(None));
        assert_eq!(answer.parsed("c", number), Err(Unreadable::Malformed("c")));
        assert_eq!(answer.one("d"), Ok("x y"));
        assert_eq!(answer.one("e"), Err(Unreadable::Missing("e")));
    }

    #[test]
    fn numbers_are_plain_decimals() {
        assert_eq!(number("18446744073709551615"), Some(u64::MAX));
        for bad in [
            "",
            "-1",
            "+1",
            " 1",
            "01",
            "1.5",
            "0x1",
            "18446744073709551616",
        ] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn parameters_are_one_line_each_whatever_they_hold() {
        let parameters = Parameters::default()
            .with("empty", "")
            .with("text", "two\nlines");
        assert_eq!(parameters.bytes(), b"empty -\ntext dHdvCmxpbmVz\n");
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Answer::parse(&bytes);
        }
    }
}

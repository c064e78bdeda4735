//! Durations as people write them in Kubernetes: `30m`, `4h`, `1h30m`.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The text form that [`Span`] parses and the CRD admits. Six digits a part, sixteen characters in all: what passes can
/// always be read by CEL, whose durations end at 292 years.
pub const PATTERN: &str = "^([0-9]{1,6}(h|m|s))+$";
/// The longest text of a [`Span`].
pub const MAX_LENGTH: usize = 16;

/// A length of time in whole seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

/// A text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a duration: write hours, minutes and seconds such as \"30m\", \"4h\" or \"1h30m\""
)]
pub struct NotASpan(String);

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(seconds)
    }

    /// So many minutes.
    pub const fn minutes(minutes: u32) -> Self {
        Self(minutes as u64 * 60)
    }

    /// So many hours.
    pub const fn hours(hours: u32) -> Self {
        Self(hours as u64 * 3_600)
    }

    /// The whole number of seconds.
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// The same length of time as the standard library has it.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }

    /// Whether there is no time in it.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.duration()
    }
}

impl FromStr for Span {
    type Err = NotASpan;

    fn from_str(text: &str) -> Result<Self, NotASpan> {
        let refused = || NotASpan(text.to_owned());
        if text.is_empty() || text.len() > MAX_LENGTH {
            return Err(refused());
        }
        let mut seconds = 0;
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest
                .find(|c: char| !c.is_ascii_digit())
                .ok_or_else(refused)?;
            let (number, unit_and_rest) = rest.split_at(end);
            if number.len() > 6 {
                return Err(refused());
            }
            let number: u64 = number.parse().map_err(|_| refused())?;
            let unit = match unit_and_rest.as_bytes() {
                [b'h', ..] => 3_600,
                [b'm', ..] => 60,
                [b's', ..] => 1,
                _ => return Err(refused()),
            };
            seconds += number * unit;
            rest = &unit_and_rest[1..];
        }
        Ok(Self(seconds))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for (number, unit) in [
            (self.0 / 3_600, 'h'),
            (self.0 / 60 % 60, 'm'),
            (self.0 % 60, 's'),
        ] {
            if number > 0 {
                text.push_str(&format!("{number}{unit}"));
            }
        }
        f.pad(if text.is_empty() { "0s" } else { &text })
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl JsonSchema for Span {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        schema(generator)
    }
}

/// The schema of a duration. For its format, rules see a duration in it and compare without conversion; the format alone would
/// let `-1h` and prose pass.
pub(crate) fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "duration", "pattern": PATTERN, "maxLength": MAX_LENGTH })
}

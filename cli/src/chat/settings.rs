//! `/set`: how answers are made. Pure.

use serde_json::{Number, Value};
use std::collections::BTreeMap;

/// What can be set: its name in a request, whether it is a whole number, its bounds, what it does.
const KNOWN: [(&str, bool, f64, f64, &str); 9] = [
    (
        "temperature",
        false,
        0.0,
        2.0,
        "how freely words are chosen, 0 to 2",
    ),
    (
        "max_tokens",
        true,
        1.0,
        4_294_967_295.0,
        "the longest answer",
    ),
    ("top_p", false, 0.0, 1.0, "only the likeliest words, 0 to 1"),
    (
        "top_k",
        true,
        -1.0,
        1_000_000.0,
        "only so many likeliest words",
    ),
    (
        "min_p",
        false,
        0.0,
        1.0,
        "no word less likely than this part of the likeliest",
    ),
    (
        "seed",
        true,
        -9.007_199_254_740_991e15,
        9.007_199_254_740_991e15,
        "the same answer again, where the engine can",
    ),
    (
        "presence_penalty",
        false,
        -2.0,
        2.0,
        "against words that were used",
    ),
    (
        "frequency_penalty",
        false,
        -2.0,
        2.0,
        "against words that were used often",
    ),
    ("repetition_penalty", false, 0.0, 2.0, "against repetition"),
];

/// What was set; everything else is the engine's choice.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Settings(BTreeMap<&'static str, Number>);

impl Settings {
    /// Sets a value, or with `-` takes it away. A value that makes no sense is a sentence.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let name = name.replace('-', "_");
        let known = KNOWN.iter().find(|(known, ..)| *known == name);
        let Some((name, whole, least, most, _)) = known.copied() else {
            let names: Vec<&str> = KNOWN.iter().map(|(name, ..)| *name).collect();
            return Err(format!(
                "there is no setting {name}; there are: {}",
                names.join(", ")
            ));
        };
        if value == "-" {
            self.0.remove(name);
            return Ok(());
        }
        let wrong = || format!("{name} is a number from {least} to {most}, not {value}");
        let parsed: f64 = value.parse().map_err(|_| wrong())?;
        if !(least..=most).contains(&parsed) || (whole && parsed.fract() != 0.0) {
            return Err(wrong());
        }
        let number = match whole {
            true => Number::from(parsed as i64),
            false => Number::from_f64(parsed).ok_or_else(wrong)?,
        };
        self.0.insert(name, number);
        Ok(())
    }

    /// Puts what was set into a request.
    pub fn apply(&self, request: &mut Value) {
        for (name, value) in &self.0 {
            request[*name] = Value::Number(value.clone());
        }
    }

    /// All that can be set and what it is now, one a line.
    pub fn list(&self) -> String {
        let line = |(name, _, _, _, what): &(&str, bool, f64, f64, &str)| {
            let value = self.0.get(name).map_or("-".to_owned(), ToString::to_string);
            format!("{name:<20} {value:<8} {what}")
        };
        KNOWN.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_set_goes_into_the_request_and_can_be_taken_away() {
        let mut settings = Settings::default();
        settings.set("max-tokens", "20").unwrap();
        settings.set("top_p", "0.9").unwrap();
        settings.set("top_p", "-").unwrap();
        let mut request = serde_json::json!({});
        settings.apply(&mut request);
        assert_eq!(request, serde_json::json!({"max_tokens": 20}));
    }

    #[test]
    fn what_makes_no_sense_is_a_sentence() {
        let mut settings = Settings::default();
        for (name, value) in [
            ("warmth", "1"),
            ("temperature", "3"),
            ("temperature", "NaN"),
            ("seed", "1.5"),
            ("seed", "x"),
        ] {
            assert!(settings.set(name, value).is_err(), "{name} {value}");
        }
        assert_eq!(settings, Settings::default());
    }
}

//! How single values are read, each refused in a sentence.

use srchat_crds::{Dollars, Size, Span};
use std::time::Duration;

/// Go-style durations, as the resource has them: `90s`, `20m`, `1h30m`.
pub fn span(text: &str) -> Result<Span, String> {
    text.parse().map_err(|e| format!("{e}"))
}

/// The same, for waiting.
pub fn duration(text: &str) -> Result<Duration, String> {
    span(text).map(Span::duration)
}

/// Dollars, with or without their sign: `0.79`, `$1`.
pub fn dollars(text: &str) -> Result<Dollars, String> {
    let amount = text.strip_prefix('$').unwrap_or(text);
    amount.parse().map_err(|e| format!("{e}"))
}

/// A disk: a size with its unit, or a bare number of GB.
pub fn disk(text: &str) -> Result<Size, String> {
    let bare = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let text = if bare {
        format!("{text}G")
    } else {
        text.to_owned()
    };
    text.parse().map_err(|e| format!("{e}"))
}

/// A name that Kubernetes and the objects made for a session accept.
pub fn session_name(text: &str) -> Result<String, String> {
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let formed = (1..=52).contains(&text.len())
        && text.bytes().all(letters)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if formed {
        Ok(text.to_owned())
    } else {
        Err("a session's name has lower-case letters, digits and hyphens, at most 52".to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn prices_are_taken_with_and_without_their_sign() {
        assert_eq!(dollars("$0.79"), dollars("0.79"));
        assert_eq!(dollars("1").unwrap(), Dollars::whole(1));
        assert!(dollars("cheap").unwrap_err().contains("0.79"));
    }

    #[test]
    fn a_bare_disk_is_in_gigabytes_as_the_tool_before_had_it() {
        assert_eq!(disk("60").unwrap().to_string(), "60G");
        assert_eq!(disk("60Gi").unwrap().to_string(), "60Gi");
        assert!(disk("").is_err() && disk("60 GB").is_err());
    }

    #[test]
    fn durations_are_those_of_the_resource() {
        assert_eq!(duration("1h30m").unwrap(), Duration::from_secs(5400));
        assert!(duration("soon").unwrap_err().contains("30m"));
    }

    #[test]
    fn only_what_kubernetes_takes_is_a_session_name() {
        assert!(session_name("qwen-3").is_ok());
        for wrong in ["", "Qwen", "-a", "a-", "a.b", &"a".repeat(53)] {
            assert!(session_name(wrong).is_err(), "{wrong}");
        }
    }
}

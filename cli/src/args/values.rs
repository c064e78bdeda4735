//! How single values are read, each refused in a sentence.

use srchat_crds::Span;
use std::time::Duration;

/// Go-style durations, as the resource has them: `90s`, `20m`, `1h30m`.
pub fn span(text: &str) -> Result<Span, String> {
    text.parse().map_err(|e| format!("{e}"))
}

/// The same, for waiting.
pub fn duration(text: &str) -> Result<Duration, String> {
    span(text).map(Span::duration)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn durations_are_those_of_the_resource() {
        assert_eq!(duration("1h30m").unwrap(), Duration::from_secs(5400));
        assert!(duration("soon").unwrap_err().contains("30m"));
    }
}

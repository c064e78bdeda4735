//! Errors, told with all their causes.

use std::error::Error;

/// The error, and under it each cause on a line of its own.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}\n  because: {inner}");
        cause = inner.source();
    }
    text
}

//! What a program wrote to a terminal and when, as an asciicast and as a moving picture. Pure: bytes and times in, text out.

mod picture;

use std::time::Duration;

use serde_json::json;

pub use picture::svg;

/// Waits are shown no longer than this: nobody wants to watch a pod boot.
const LONGEST_WAIT: Duration = Duration::from_millis(700);

/// A recording in the making.
#[derive(Debug)]
pub struct Recording {
    rows: u16,
    columns: u16,
    written: Vec<Written>,
    /// How long it is so far, as it is shown.
    shown_until: Duration,
    /// When the last bytes were written, since the beginning.
    seen_at: Duration,
}

/// What was written at once.
#[derive(Debug, Clone)]
struct Written {
    /// Since the beginning, with the waits as they are shown.
    at: Duration,
    bytes: Vec<u8>,
}

impl Recording {
    /// Of a terminal of so many rows and columns.
    pub fn new((rows, columns): (u16, u16)) -> Self {
        Self {
            rows,
            columns,
            written: Vec::new(),
            shown_until: Duration::ZERO,
            seen_at: Duration::ZERO,
        }
    }

    /// Bytes were written, so long after the beginning.
    pub fn take(&mut self, since_beginning: Duration, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let wait = since_beginning.saturating_sub(self.seen_at);
        self.seen_at = since_beginning;
        self.shown_until += wait.min(LONGEST_WAIT);
        self.written.push(Written {
            at: self.shown_until,
            bytes,
        });
    }

    /// Gives whoever watches time to read what is there.
    pub fn linger(&mut self, time: Duration) {
        self.shown_until += time;
    }

    /// The recording in asciicast's format, version 2.
    pub fn asciicast(&self) -> String {
        let header = json!({"version": 2, "width": self.columns, "height": self.rows, "env": {"TERM": "xterm-256color"}});
        let mut cast = format!("{header}\n");
        // A character may be cut in two between two writes.
        let mut rest = Vec::new();
        for written in &self.written {
            rest.extend_from_slice(&written.bytes);
            let whole = match std::str::from_utf8(&rest) {
                Ok(_) => rest.len(),
                Err(error) => error.valid_up_to(),
            };
            let text = String::from_utf8_lossy(&rest[..whole]).into_owned();
            rest.drain(..whole);
            let event = json!([written.at.as_secs_f64(), "o", text]);
            cast.push_str(&format!("{event}\n"));
        }
        cast
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn recorded() -> Recording {
        let mut recording = Recording::new((10, 20));
        let mut take = |ms: u64, text: &str| {
            recording.take(Duration::from_millis(ms), text.as_bytes().to_vec());
        };
        take(0, "$ \x1b[1mls\x1b[0m\r\n");
        take(60_000, "a <b>\r\n");
        take(60_100, "\x1b[32mdone\x1b[0m\r\n");
        recording
    }

    #[test]
    fn an_asciicast_has_a_header_and_short_waits() {
        let cast = recorded().asciicast();
        let lines: Vec<serde_json::Value> = cast
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(
            (&lines[0]["version"], &lines[0]["width"]),
            (&2.into(), &20.into())
        );
        assert_eq!(lines[2], json!([0.7, "o", "a <b>\r\n"]));
        assert_eq!(lines[3][0], 0.8);
    }

    #[test]
    fn a_picture_says_when_each_line_is_there_and_escapes_what_it_shows() {
        let picture = svg(&recorded(), 2, "a title");
        assert!(picture.contains("a &lt;b&gt;"), "{picture}");
        assert!(picture.contains("<title>a title</title>"), "{picture}");
        // Three lines, of which a window of two shows the last: it moves once.
        assert_eq!(picture.matches("@keyframes k").count(), 3, "{picture}");
        assert!(picture.contains("@keyframes w"), "{picture}");
        let document = picture.replace(['\n', '\r'], "");
        assert!(document.starts_with("<svg ") && document.ends_with("</svg>"));
    }
}

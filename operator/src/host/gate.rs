//! What the gateways' key may ask of a host: exactly four commands, admitted by the script `gate` on the host, whose
//! path stands in the key's own line. The words below are what SSH calls the original command.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::visit::Activity;

/// Keeps one session channel: every line `touch` on its stdin records activity, every line `ask` does not; each is
/// answered by one line that [`heartbeat_answer`] reads. Ends when its stdin closes. Touches are to be sent when a
/// completion, embedding, response or transfer starts, ends, and every 30 seconds while it lasts; at most one a second.
pub const HEARTBEAT: &str = "heartbeat";

/// Line to send when the session is used.
pub const TOUCH: &[u8] = b"touch\n";

/// Line to send to learn of activity without being any.
pub const ASK: &[u8] = b"ask\n";

/// Starts SFTP in the folder of uploads; paths are relative to it.
pub const SFTP: &str = "sftp";

/// The engine's log: its last `tail` lines, then what is added while `follow`.
pub fn log(tail: u32, follow: bool) -> String {
    let how = if follow { "follow" } else { "once" };
    format!("log {} {how}", tail.min(10_000))
}

/// The SHA-256 of one upload: 64 hex characters and an end of line. The path, which users choose, travels in base64.
pub fn sha256(path: &str) -> String {
    format!("sha256 {}", STANDARD.encode(path))
}

/// Reads one answer of [`HEARTBEAT`]: `activity never`, `activity 12` (seconds ago) or `activity -`. Anything else is Unknown.
pub fn heartbeat_answer(line: &str) -> Activity {
    match line.trim_end().strip_prefix("activity ") {
        Some("never") => Activity::Never,
        Some(seconds) => super::answer::number(seconds).map_or(Activity::Unknown, |seconds| {
            Activity::Ago(Duration::from_secs(seconds))
        }),
        None => Activity::Unknown,
    }
}

/// Reads the answer of [`sha256`].
pub fn sha256_answer(answer: &str) -> Option<String> {
    let hex = answer.strip_suffix('\n')?;
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (hex.len() == 64 && hex.bytes().all(lower)).then(|| hex.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_one_harmless_word() {
        assert_eq!(sha256("a b; rm -rf /"), "sha256 YSBiOyBybSAtcmYgLw==");
    }

    #[test]
    fn what_is_not_an_answer_is_unknown() {
        assert_eq!(heartbeat_answer("activity never\n"), Activity::Never);
        assert_eq!(
            heartbeat_answer("activity 12\n"),
            Activity::Ago(Duration::from_secs(12))
        );
        for bad in ["", "activity", "activity -\n", "activity -1\n", "hello"] {
            assert_eq!(heartbeat_answer(bad), Activity::Unknown, "{bad:?}");
        }
    }
}

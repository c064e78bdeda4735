//! Erases what a session left on its host, reads back, and reports. Never claims more than was seen.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::answer::{self, Answer, Parameters, Unreadable};
use super::scripts::{self, Script, unreadable};
use super::{Error, Incarnation};
use crate::ssh::Connection;

/// How a path was erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// Its bytes were overwritten with zeros, then it was unlinked. Says nothing about blocks that a disk moved.
    Overwritten,
    /// It was unlinked: its content was public (weights, programs), or there was no time to overwrite it.
    Unlinked,
}

/// What was at a path, in classes; never a name that a user gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Users' uploads.
    Uploads,
    /// Keys, tokens, parameters.
    Secrets,
    /// Engine logs, state.
    Logs,
    /// Weights and caches of programs.
    Caches,
    /// Home and temporary folders of our users.
    Homes,
    /// Files of our users outside our roots.
    Strays,
}

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// Read back and not there.
    Gone,
    /// Still there.
    Remains,
}

/// One path that was erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleared {
    /// The path: one of ours, a folder as a whole.
    pub path: String,
    /// What was there.
    pub kind: Kind,
    /// Files in it before.
    pub files: u64,
    /// Bytes in it before.
    pub bytes: u64,
    /// How it was erased.
    pub method: Method,
    /// What was seen afterwards.
    pub found: Found,
}

/// What clearing did and saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClearReport {
    /// Every path, in order.
    pub paths: Vec<Cleared>,
    /// The gateways' key is off the host.
    pub key_gone: bool,
    /// Processes of engine, download and gateways that are left.
    pub processes_left: u64,
    /// Whether processes and files were found by user. Without users (the rig's process mode) only what was recorded could be found.
    pub users_separated: bool,
    /// MiB of GPU memory in use at boot and now, where there is a GPU to ask.
    pub gpu: Option<(u64, u64)>,
    /// Whether the host itself saw everything gone.
    pub host_says_cleared: bool,
}

impl ClearReport {
    /// Whether everything was seen gone: the one ground for the reason `Cleared`. Recomputed here, since the host's own word is not enough.
    pub fn complete(&self) -> bool {
        self.host_says_cleared
            && self.key_gone
            && self.processes_left == 0
            && !self.paths.is_empty()
            && self.paths.iter().all(|path| path.found == Found::Gone)
    }

    /// Bytes that were erased.
    pub fn bytes(&self) -> u64 {
        self.paths
            .iter()
            .fold(0, |sum, path| sum.saturating_add(path.bytes))
    }
}

/// Closes, ends the engine and the download, erases, reads back. `within` bounds it: when time is short, what should have
/// been overwritten is only unlinked, and the report says so. Doing it again changes nothing.
///
/// # Errors
/// When the host could not be asked, or answers something unreadable. Nothing was proved then.
pub async fn clear(
    connection: &Connection,
    of: &Incarnation,
    within: Duration,
) -> Result<ClearReport, Error> {
    let parameters = Parameters::default().with("seconds", within.as_secs().to_string());
    let answer = scripts::run(connection, Script::Clear, of, parameters, within).await?;
    parse(&answer).map_err(unreadable(Script::Clear))
}

pub(super) fn parse(bytes: &[u8]) -> Result<ClearReport, Unreadable> {
    let answer = Answer::parse(bytes)?;
    let gpu = answer.known("gpu", |value| {
        let (before, after) = value.split_once(' ')?;
        Some((answer::number(before)?, answer::number(after)?))
    })?;
    Ok(ClearReport {
        paths: answer
            .all("path")
            .map(|line| path(line).ok_or(Unreadable::Malformed("path")))
            .collect::<Result<_, _>>()?,
        key_gone: answer.parsed("key_gone", answer::yes_or_no)?,
        processes_left: answer.parsed("left", answer::number)?,
        users_separated: answer.parsed("users", answer::yes_or_no)?,
        gpu,
        host_says_cleared: answer.parsed("cleared", answer::yes_or_no)?,
    })
}

/// `<path> <kind> <files> <bytes> <method> <found>`, the path in base64.
fn path(line: &str) -> Option<Cleared> {
    let [path, kind, files, bytes, method, found] =
        line.split(' ').collect::<Vec<_>>().try_into().ok()?;
    Some(Cleared {
        path: answer::text(path)?,
        kind: match kind {
            "uploads" => Kind::Uploads,
            "secrets" => Kind::Secrets,
            "logs" => Kind::Logs,
            "caches" => Kind::Caches,
            "homes" => Kind::Homes,
            "strays" => Kind::Strays,
            _ => return None,
        },
        files: answer::number(files)?,
        bytes: answer::number(bytes)?,
        method: match method {
            "overwritten" => Method::Overwritten,
            "unlinked" => Method::Unlinked,
            _ => return None,
        },
        found: match found {
            "gone" => Found::Gone,
            "remains" => Found::Remains,
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const WHOLE: &str = "srchat 1\npath L2Rldi9zaG0vc3JjaGF0L2ZpbGVz uploads 2 5242880 overwritten gone\n\
        path L3NyY2hhdC9odWI= caches 9 491400064 unlinked gone\nkey_gone yes\nleft 0\nusers yes\ngpu -\ncleared yes\nend\n";

    #[test]
    fn a_report_is_complete_only_when_everything_was_seen_gone() {
        let report = parse(WHOLE.as_bytes()).unwrap();
        assert!(report.complete());
        assert_eq!(report.paths[0].path, "/dev/shm/srchat/files");
        assert_eq!(report.bytes(), 496_642_944);
        for (from, to) in [
            ("overwritten gone", "overwritten remains"),
            ("left 0", "left 1"),
            ("key_gone yes", "key_gone no"),
            ("cleared yes", "cleared no"),
        ] {
            let changed = WHOLE.replace(from, to);
            assert!(!parse(changed.as_bytes()).unwrap().complete(), "{to}");
        }
    }

    #[test]
    fn a_host_that_lists_nothing_has_cleared_nothing() {
        let empty = "srchat 1\nkey_gone yes\nleft 0\nusers yes\ngpu -\ncleared yes\nend\n";
        assert!(!parse(empty.as_bytes()).unwrap().complete());
    }

    proptest! {
        #[test]
        fn a_changed_byte_never_panics(at in 0..WHOLE.len(), byte in any::<u8>()) {
            let mut bytes = WHOLE.as_bytes().to_vec();
            bytes[at] = byte;
            let _ = parse(&bytes);
        }
    }
}

//! What a command line means by a path: something of this machine, or of a session.

use std::path::PathBuf;

/// Where something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Local(PathBuf),
    /// Among the files of a session.
    Session {
        /// The session's name.
        name: String,
        /// Relative to the session's files; empty means all of them.
        path: String,
    },
}

/// `NAME:path` is remote when NAME could be the name of a session; `./a:b` and `C:\b` are local.
pub fn place(text: &str) -> Place {
    match text.split_once(':') {
        Some((name, path)) if is_session_name(name) => Place::Session {
            name: name.to_owned(),
            path: path.trim_start_matches('/').to_owned(),
        },
        _ => Place::Local(PathBuf::from(text)),
    }
}

fn is_session_name(name: &str) -> bool {
    name.len() > 1
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Whether a path picks several names: then it is matched, not taken by its letters.
pub fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_after_a_session_name_is_remote() {
        let remote = Place::Session {
            name: "qwen".into(),
            path: "a/b".into(),
        };
        assert_eq!(place("qwen:a/b"), remote);
        assert_eq!(place("qwen:/a/b"), remote);
        for local in ["./a:b", "a", "C:\\a", "/x:y"] {
            assert_eq!(place(local), Place::Local(local.into()), "{local}");
        }
    }
}

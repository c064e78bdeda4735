//! `srchat cp`: one file to or from a session.

use crate::args;
use crate::cluster::Cluster;
use crate::failure::{Code, Failure};
use crate::print::Printer;
use crate::transfer;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Copies, and says what was copied.
pub async fn cp(
    cluster: &Cluster,
    args: args::Copy,
    output: args::Output,
    print: &Arc<Printer>,
) -> Result<(), Failure> {
    let (moved, to) = match (side(&args.source), side(&args.destination)) {
        (Side::Local(local), Side::Remote { name, path }) => {
            let remote = into_folder(&path, &local)?;
            let gateway = cluster.gateway(&name).await?;
            let moved = transfer::upload(&gateway, (&local, &remote), print).await?;
            (moved, format!("{name}:{remote}"))
        }
        (Side::Remote { name, path }, Side::Local(local)) => {
            let gateway = cluster.gateway(&name).await?;
            let moved = transfer::download(&gateway, (&path, &local), args.force, print).await?;
            (moved, local.display().to_string())
        }
        _ => {
            return Err(Failure::new(
                Code::Usage,
                "one of the two must be a file of a session, written NAME:path",
            )
            .hint("a local path with a colon in it is written ./a:b"));
        }
    };
    match output {
        args::Output::Json => print.json(&moved),
        args::Output::Text => {
            print.note(&format!(
                "{to}: {}, SHA-256 {}",
                transfer::size(moved.bytes),
                moved.sha256
            ));
            Ok(())
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Side {
    Local(PathBuf),
    Remote { name: String, path: String },
}

/// `NAME:path` is remote when NAME could be the name of a session; `./a:b` and `C:\b` are local.
fn side(text: &str) -> Side {
    match text.split_once(':') {
        Some((name, path)) if is_session_name(name) => Side::Remote {
            name: name.to_owned(),
            path: path.trim_start_matches('/').to_owned(),
        },
        _ => Side::Local(PathBuf::from(text)),
    }
}

fn is_session_name(name: &str) -> bool {
    name.len() > 1
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// A remote path that is empty or ends with a slash takes the local file's name.
fn into_folder(path: &str, local: &Path) -> Result<String, Failure> {
    if !path.is_empty() && !path.ends_with('/') {
        return Ok(path.to_owned());
    }
    let name = local.file_name().and_then(|name| name.to_str());
    name.map(|name| format!("{path}{name}")).ok_or_else(|| {
        Failure::new(
            Code::Usage,
            format!("{} has no file name to keep", local.display()),
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_colon_after_a_session_name_is_remote() {
        let remote = Side::Remote {
            name: "qwen".into(),
            path: "a/b".into(),
        };
        assert_eq!(side("qwen:a/b"), remote);
        assert_eq!(side("qwen:/a/b"), remote);
        for local in ["./a:b", "a", "C:\\a", "/x:y"] {
            assert_eq!(side(local), Side::Local(local.into()), "{local}");
        }
    }

    #[test]
    fn a_remote_folder_keeps_the_name() {
        assert_eq!(into_folder("", Path::new("x/a.txt")).unwrap(), "a.txt");
        assert_eq!(into_folder("d/", Path::new("a.txt")).unwrap(), "d/a.txt");
        assert_eq!(into_folder("b", Path::new("a.txt")).unwrap(), "b");
        assert!(into_folder("", Path::new("/")).is_err());
    }
}

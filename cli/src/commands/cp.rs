//! `srchat cp`: one file to or from a session.

use crate::args;
use crate::cluster::Cluster;
use crate::failure::{Code, Failure};
use crate::place::{Place, place};
use crate::print::Printer;
use crate::transfer;
use std::path::Path;
use std::sync::Arc;

/// Copies, and says what was copied.
pub async fn cp(
    cluster: &Cluster,
    args: args::Copy,
    output: args::Output,
    print: &Arc<Printer>,
) -> Result<(), Failure> {
    let (moved, to) = match (place(&args.source), place(&args.destination)) {
        (Place::Local(local), Place::Session { name, path }) => {
            let remote = into_folder(&path, &local)?;
            let gateway = cluster.gateway(&name).await?;
            let moved = transfer::upload(&gateway, (&local, &remote), print).await?;
            (moved, format!("{name}:{remote}"))
        }
        (Place::Session { name, path }, Place::Local(local)) => {
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
    fn a_remote_folder_keeps_the_name() {
        assert_eq!(into_folder("", Path::new("x/a.txt")).unwrap(), "a.txt");
        assert_eq!(into_folder("d/", Path::new("a.txt")).unwrap(), "d/a.txt");
        assert_eq!(into_folder("b", Path::new("a.txt")).unwrap(), "b");
        assert!(into_folder("", Path::new("/")).is_err());
    }
}

//! `srchat cp`: files and folders to or from a session.

mod down;
mod up;

use crate::args;
use crate::cluster::Cluster;
use crate::confirm;
use crate::failure::{Code, Failure};
use crate::place::{Place, place};
use crate::print::Printer;
use crate::transfer::{Existing, size};
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;

/// A file longer than this goes alone, where it can be resumed; the others go together.
const SMALL: u64 = 4 << 20;
/// Fewer are quicker one by one.
const FEW: usize = 4;
/// Transfers of single files at once: the round trips of one are filled by the others.
const AT_ONCE: usize = 4;

/// A file that was copied.
#[derive(Debug, Clone, Serialize)]
struct Copied {
    from: String,
    to: String,
    bytes: u64,
    /// 64 hex digits, equal on both ends.
    sha256: String,
}

/// Everything that was copied, for `--output json`.
#[derive(Serialize)]
struct Report<'a> {
    bytes: u64,
    seconds: f64,
    /// Of the only file; absent when there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<&'a str>,
    files: &'a [Copied],
}

/// Copies, and says what was copied.
pub async fn cp(
    cluster: &Cluster,
    args: args::Copy,
    output: args::Output,
    print: &Arc<Printer>,
) -> Result<(), Failure> {
    let began = Instant::now();
    let existing = match args.force {
        true => Existing::Replace,
        false => Existing::Refuse,
    };
    let sources: Vec<Place> = args.sources.iter().map(|text| place(text)).collect();
    let copied = match place(&args.destination) {
        Place::Session { name, path } => {
            let locals = sources.into_iter().zip(&args.sources);
            let locals = locals.map(|(source, text)| match source {
                Place::Local(_) => Ok(text.as_str()),
                Place::Session { .. } => Err(one_side()),
            });
            let locals = locals.collect::<Result<Vec<_>, _>>()?;
            up::copy(cluster, &locals, (&name, &path), existing, print).await?
        }
        Place::Local(folder) => {
            let remotes = sources.into_iter().map(|source| match source {
                Place::Session { name, path } => Ok((name, path)),
                Place::Local(_) => Err(one_side()),
            });
            let remotes = remotes.collect::<Result<Vec<_>, _>>()?;
            down::copy(cluster, &remotes, &folder, existing, print).await?
        }
    };
    tell(&copied, began, output, print)
}

fn one_side() -> Failure {
    Failure::new(
        Code::Usage,
        "one side must be the files of a session, written NAME:path, and the other this machine's",
    )
    .hint("a local path with a colon in it is written ./a:b")
}

fn tell(
    copied: &[Copied],
    began: Instant,
    output: args::Output,
    print: &Printer,
) -> Result<(), Failure> {
    let (bytes, seconds) = (
        copied.iter().map(|file| file.bytes).sum(),
        began.elapsed().as_secs_f64(),
    );
    if output == args::Output::Json {
        let sha256 = match copied {
            [only] => Some(only.sha256.as_str()),
            _ => None,
        };
        return print.json(&Report {
            bytes,
            seconds,
            sha256,
            files: copied,
        });
    }
    match copied {
        [only] => print.note(&format!(
            "{}: {}, SHA-256 {}",
            only.to,
            size(only.bytes),
            only.sha256
        )),
        all => print.note(&format!(
            "{} files, {} in {seconds:.1} s, each checked by its SHA-256",
            all.len(),
            size(bytes)
        )),
    }
    Ok(())
}

/// Asks once about all that would be replaced; where nobody can be asked, it is a failure that names them.
async fn replace(names: &[String], print: &Printer) -> Result<Existing, Failure> {
    let some = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    let more = match names.len() {
        0..=3 => String::new(),
        count => format!(" and {} more", count - 3),
    };
    if print.can_ask() {
        let question = format!("{some}{more} exist already. Replace?");
        if confirm::yes(print, &question, false).await? {
            return Ok(Existing::Replace);
        }
    }
    let exist = if names.len() == 1 { "exists" } else { "exist" };
    let message = format!("{some}{more} {exist} already, and nothing was copied");
    Err(Failure::new(Code::Transfer, message).hint("--force replaces what exists"))
}

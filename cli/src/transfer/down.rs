//! One file from a session.

use super::part::{Destination, Part, exists};
use super::{Existing, Meter, Patience, resumable, safe};
use crate::failure::{Code, Failure, chain};
use crate::gateway::{Gateway, sha256_of};
use futures::StreamExt as _;
use reqwest::{Response, StatusCode};
use sha2::{Digest as _, Sha256};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

/// Where one file goes.
#[derive(Debug)]
pub struct Target {
    place: Destination,
    name: String,
}

impl Target {
    /// A local path; into a folder, a file keeps its own name, and a hostile one is refused.
    pub fn of(local: &Path, remote: &str) -> Result<Self, Failure> {
        let text = local.to_string_lossy();
        let into = local.is_dir() || text.ends_with('/');
        let (folder, name) = if into {
            let own = remote.rsplit('/').next().unwrap_or(remote);
            (local, safe(own)?.to_owned())
        } else {
            let own = local.file_name().and_then(|name| name.to_str());
            let own = own.ok_or_else(|| {
                Failure::new(Code::Usage, format!("{text:?} is no name for a file"))
            })?;
            let above = local.parent().filter(|above| !above.as_os_str().is_empty());
            (above.unwrap_or(Path::new(".")), own.to_owned())
        };
        // A single file makes no folders: a typo in a path should not either.
        if !into && !folder.is_dir() {
            let folder = folder.display();
            return Err(Failure::new(
                Code::Usage,
                format!("there is no folder {folder}"),
            ));
        }
        let place = Destination::open(folder)?;
        Ok(Self { place, name })
    }

    /// Refuses where something has the name already.
    pub fn free(&self) -> Result<(), Failure> {
        match self.place.has(&self.name) {
            true => Err(exists(&self.place.shown(&self.name))),
            false => Ok(()),
        }
    }

    /// The path, for people.
    pub fn shown(&self) -> String {
        self.place.shown(&self.name).display().to_string()
    }
}

/// Fetches one file, and says how long it is and its SHA-256.
pub async fn fetch(
    gateway: &Gateway,
    remote: &str,
    (target, existing): (&Target, Existing),
    meter: &Arc<Meter>,
) -> Result<(u64, String), Failure> {
    let place = (&target.place, target.name.as_str());
    into(gateway, remote, place, existing, meter).await
}

/// The same, for a file below a folder.
pub async fn into(
    gateway: &Gateway,
    remote: &str,
    (place, name): (&Destination, &str),
    existing: Existing,
    meter: &Arc<Meter>,
) -> Result<(u64, String), Failure> {
    let mut patience = Patience::default();
    // The first answer tells what the file is; a part of the same content is gone on with.
    let first = loop {
        match gateway.download(remote, 0).await {
            Ok(answer) => break answer,
            Err(failure) => patience.after(failure, false).await?,
        }
    };
    let length = first.content_length().unwrap_or(0);
    let sha256 = sha256_of(&first).ok_or_else(|| {
        Failure::new(
            Code::Transfer,
            format!("{remote} could not be checked: the gateway sent no SHA-256"),
        )
    })?;
    meter.expect(length);
    let part = place.part(name, &sha256)?;
    let outcome = fill(gateway, (remote, &sha256, length), &part, first, meter).await;
    match outcome {
        Ok(()) => {
            part.keep(existing)?;
            Ok((length, sha256))
        }
        // What was cut off can go on; what is wrong, or does not fit, is of no use.
        Err(failure) if failure.passing => Err(resumable(failure)),
        Err(failure) => {
            part.forget();
            Err(failure)
        }
    }
}

async fn fill(
    gateway: &Gateway,
    (remote, sha256, length): (&str, &str, u64),
    part: &Part<'_>,
    first: Response,
    meter: &Arc<Meter>,
) -> Result<(), Failure> {
    let failed = |e: std::io::Error| part.failed(&e);
    let (mut file, mut have, mut sum) = part.so_far(length).map_err(failed)?;
    meter.add(have);
    let mut patience = Patience::default();
    let mut next = (have == 0).then_some(first);
    while have < length {
        let before = have;
        let answer = match next.take() {
            Some(answer) => Ok(answer),
            None => gateway.download(remote, have).await,
        };
        let cut = match answer {
            Ok(answer) => {
                same(&answer, (remote, sha256), have)?;
                let mut body = answer.bytes_stream();
                loop {
                    match body.next().await {
                        Some(Ok(bytes)) => {
                            sum.update(&bytes);
                            have += bytes.len() as u64;
                            // The page cache takes a chunk faster than another thread would take the task.
                            file.write_all(&bytes).map_err(failed)?;
                            meter.add(bytes.len() as u64);
                        }
                        Some(Err(error)) => break Some(broken_off(remote, &chain(&error))),
                        None if have < length => {
                            break Some(broken_off(remote, "it is shorter than announced"));
                        }
                        None => break None,
                    }
                }
            }
            Err(failure) => Some(failure),
        };
        if let Some(failure) = cut {
            patience.after(failure, have > before).await?;
        }
    }
    verified(remote, sum, sha256)
}

fn broken_off(remote: &str, why: &str) -> Failure {
    Failure::new(
        Code::Transfer,
        format!("the download of {remote} broke off: {why}"),
    )
    .passing()
}

/// Whether an answer is the rest of what we have.
fn same(answer: &Response, (remote, sha256): (&str, &str), have: u64) -> Result<(), Failure> {
    if have > 0 && answer.status() != StatusCode::PARTIAL_CONTENT {
        return Err(Failure::new(
            Code::Transfer,
            format!("{remote} cannot be resumed: the gateway sent it from its beginning"),
        ));
    }
    if sha256_of(answer).is_some_and(|now| now != sha256) {
        return Err(Failure::new(
            Code::Transfer,
            format!("{remote} was changed while it was being fetched"),
        )
        .hint("the same command fetches it as it is now"));
    }
    Ok(())
}

fn verified(remote: &str, sum: Sha256, expected: &str) -> Result<(), Failure> {
    let got = hex::encode(sum.finalize());
    if got == expected {
        return Ok(());
    }
    Err(Failure::new(
        Code::Transfer,
        format!("{remote} arrived damaged: its SHA-256 is {got}, the host says {expected}"),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_copied_into_a_folder_keeps_its_name_and_stays_there() {
        let folder = tempfile::tempdir().unwrap();
        let of = |remote: &str| Target::of(folder.path(), remote);
        let named = of("notes/a.txt").unwrap();
        assert_eq!(
            named.shown(),
            folder.path().join("a.txt").display().to_string()
        );
        assert!(of("notes/..").is_err());
        assert!(of("notes/").is_err());
    }

    #[test]
    fn a_name_that_is_taken_is_refused_before_anything_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.txt"), "mine").unwrap();
        let target = Target::of(folder.path(), "a.txt").unwrap();
        let failure = target.free().unwrap_err();
        assert_eq!(failure.hint.unwrap(), "--force replaces it");
        let nowhere = folder.path().join("no/such/folder");
        assert!(Target::of(&nowhere, "a.txt").is_err());
    }

    #[test]
    fn a_wrong_checksum_is_never_a_success() {
        let right = hex::encode(Sha256::digest(b""));
        assert!(verified("a", Sha256::new(), &"0".repeat(64)).is_err());
        assert!(verified("a", Sha256::new(), &right).is_ok());
    }
}

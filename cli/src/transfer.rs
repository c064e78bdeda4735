//! Files to and from a session: checked end to end, never half a file under its final name.

use crate::failure::{Code, Failure, chain};
use crate::gateway::{self, Gateway, sha256_of};
use crate::print::Printer;
use futures::StreamExt as _;
use reqwest::StatusCode;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::io::ReaderStream;

/// A download whose connection breaks goes on where it was, this many times without a new byte.
const RETRIES: u32 = 5;
const CHUNK: usize = 256 * 1024;

/// What was moved.
#[derive(Debug, serde::Serialize)]
pub struct Moved {
    /// Bytes of the whole file.
    pub bytes: u64,
    /// SHA-256 of the file, equal on both ends, 64 hex digits.
    pub sha256: String,
    /// From the first byte to the rename.
    pub seconds: f64,
}

/// Sends a local file; it appears under its name only when its SHA-256 is right.
pub async fn upload(
    gateway: &Gateway,
    (local, remote): (&Path, &str),
    print: &Arc<Printer>,
) -> Result<Moved, Failure> {
    let began = Instant::now();
    let cannot_read = |e: std::io::Error| {
        Failure::new(
            Code::NotFound,
            format!("could not read {}: {e}", local.display()),
        )
    };
    let mut file = File::open(local).await.map_err(cannot_read)?;
    let about = file.metadata().await.map_err(cannot_read)?;
    if !about.is_file() {
        return Err(
            Failure::new(Code::Usage, format!("{} is not a file", local.display()))
                .hint("pack a folder first: tar -cf folder.tar folder"),
        );
    }
    let (bytes, sha256) = hash(&mut file).await.map_err(cannot_read)?;
    let file = File::open(local).await.map_err(cannot_read)?;
    let mut sent = 0_u64;
    let (name, line) = (remote.to_owned(), Arc::clone(print));
    let body = ReaderStream::with_capacity(file.take(bytes), CHUNK).inspect(move |part| {
        sent += part.as_ref().map_or(0, |part| part.len() as u64);
        line.progress(&progress(&name, sent, Some(bytes), began));
    });
    let whole = gateway::Part {
        offset: 0,
        length: bytes,
        sha256: &sha256,
    };
    let sent = gateway.upload(remote, whole, body).await;
    print.clear_progress();
    sent?;
    Ok(Moved {
        bytes,
        sha256,
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// Fetches a remote file. `force` replaces a local one.
pub async fn download(
    gateway: &Gateway,
    (remote, local): (&str, &Path),
    force: bool,
    print: &Printer,
) -> Result<Moved, Failure> {
    let began = Instant::now();
    let local = with_name(local, remote)?;
    if !force && local.try_exists().unwrap_or(true) {
        return Err(
            Failure::new(Code::Transfer, format!("{} exists", local.display()))
                .hint("--force replaces it"),
        );
    }
    let part = Part::create(&local).await?;
    let outcome = fetch(gateway, remote, &part, print, began).await;
    print.clear_progress();
    let (bytes, sha256) = outcome?;
    part.keep(&local, force).await?;
    Ok(Moved {
        bytes,
        sha256,
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// The temporary file beside its destination; dropped unless kept.
struct Part {
    path: PathBuf,
}

impl Part {
    async fn create(local: &Path) -> Result<Self, Failure> {
        let name = local.file_name().unwrap_or_default().to_string_lossy();
        let path = local.with_file_name(format!(".{name}.{}.part", std::process::id()));
        File::create_new(&path)
            .await
            .map_err(|e| cannot_write(&path, &e))?;
        Ok(Self { path })
    }

    async fn keep(self, local: &Path, force: bool) -> Result<(), Failure> {
        let done = if force {
            tokio::fs::rename(&self.path, local).await
        } else {
            // A link fails where the name is taken, so a file that came meanwhile is not replaced.
            tokio::fs::hard_link(&self.path, local).await
        };
        done.map_err(|e| cannot_write(local, &e))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After a rename there is nothing left under this name.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn fetch(
    gateway: &Gateway,
    remote: &str,
    part: &Part,
    print: &Printer,
    began: Instant,
) -> Result<(u64, String), Failure> {
    let mut file = tokio::fs::OpenOptions::new()
        .write(true)
        .open(&part.path)
        .await
        .map_err(|e| cannot_write(&part.path, &e))?;
    let (mut hasher, mut have, mut fruitless) = (Sha256::new(), 0_u64, 0);
    loop {
        let answer = gateway.download(remote, have).await?;
        let whole = have + answer.content_length().unwrap_or(0);
        let expected = sha256_of(&answer);
        if have > 0 && answer.status() != StatusCode::PARTIAL_CONTENT {
            return Err(Failure::new(
                Code::Transfer,
                format!("{remote} cannot be resumed: the gateway sent it from its beginning"),
            ));
        }
        let before = have;
        let mut body = answer.bytes_stream();
        let cut = loop {
            match body.next().await {
                Some(Ok(bytes)) => {
                    hasher.update(&bytes);
                    have += bytes.len() as u64;
                    file.write_all(&bytes)
                        .await
                        .map_err(|e| cannot_write(&part.path, &e))?;
                    print.progress(&progress(remote, have, Some(whole), began));
                }
                Some(Err(error)) => break Some(error),
                None => break None,
            }
        };
        let Some(error) = cut else {
            file.sync_all()
                .await
                .map_err(|e| cannot_write(&part.path, &e))?;
            return verified(remote, have, hasher, expected);
        };
        fruitless = if have > before { 0 } else { fruitless + 1 };
        if fruitless >= RETRIES {
            return Err(Failure::new(
                Code::Transfer,
                format!("the download of {remote} broke off: {}", chain(&error)),
            ));
        }
    }
}

fn verified(
    remote: &str,
    bytes: u64,
    hasher: Sha256,
    expected: Option<String>,
) -> Result<(u64, String), Failure> {
    let got = hex::encode(hasher.finalize());
    match expected {
        Some(expected) if expected != got => Err(Failure::new(
            Code::Transfer,
            format!("{remote} arrived damaged: its SHA-256 is {got}, the host says {expected}"),
        )),
        Some(_) => Ok((bytes, got)),
        None => Err(Failure::new(
            Code::Transfer,
            format!("{remote} could not be checked: the gateway sent no SHA-256"),
        )),
    }
}

async fn hash(file: &mut File) -> std::io::Result<(u64, String)> {
    let (mut hasher, mut bytes) = (Sha256::new(), 0_u64);
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = file.read(&mut buffer).await?;
        if read == 0 {
            return Ok((bytes, hex::encode(hasher.finalize())));
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
}

/// Into a folder, a file keeps its own name; a hostile one is refused.
fn with_name(local: &Path, remote: &str) -> Result<PathBuf, Failure> {
    if !local.is_dir() {
        return Ok(local.to_owned());
    }
    let name = remote.rsplit('/').next().unwrap_or(remote);
    if name.is_empty() || name == "." || name == ".." || name.chars().any(char::is_control) {
        return Err(Failure::new(
            Code::Usage,
            format!("{remote:?} is no name for a local file"),
        )
        .hint("give the destination a file name"));
    }
    Ok(local.join(name))
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(
        Code::Transfer,
        format!("could not write {}: {error}", path.display()),
    )
}

fn progress(name: &str, done: u64, of: Option<u64>, began: Instant) -> String {
    let speed = done as f64 / began.elapsed().as_secs_f64().max(0.001);
    match of.filter(|of| *of > 0) {
        Some(of) => format!(
            "{name}  {:3} %  {} of {}  {}/s",
            done * 100 / of,
            size(done),
            size(of),
            size(speed as u64)
        ),
        None => format!("{name}  {}", size(done)),
    }
}

/// Bytes in the largest unit that leaves a whole number: `9.8 MiB`.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" {
                format!("{bytes} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_copied_into_a_folder_keeps_its_name_and_stays_there() {
        let folder = tempfile::tempdir().unwrap();
        let named = with_name(folder.path(), "notes/a.txt").unwrap();
        assert_eq!(named, folder.path().join("a.txt"));
        assert!(with_name(folder.path(), "notes/..").is_err());
        assert!(with_name(folder.path(), "notes/").is_err());
    }

    #[test]
    fn sizes_are_short() {
        let shown = [0, 1023, 1024, 10_276_044, 16_750_372_454].map(size);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "9.8 MiB", "15.6 GiB"]);
    }

    #[tokio::test]
    async fn a_part_that_is_not_kept_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        drop(Part::create(&folder.path().join("a")).await.unwrap());
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_file_that_came_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let local = folder.path().join("a");
        let part = Part::create(&local).await.unwrap();
        std::fs::write(&local, "theirs").unwrap();
        assert_eq!(
            part.keep(&local, false).await.unwrap_err().code,
            Code::Transfer
        );
        assert_eq!(std::fs::read_to_string(&local).unwrap(), "theirs");
    }

    #[test]
    fn a_wrong_checksum_is_never_a_success() {
        let right = hex::encode(Sha256::digest(b""));
        assert!(verified("a", 0, Sha256::new(), Some("0".repeat(64))).is_err());
        assert!(verified("a", 0, Sha256::new(), None).is_err());
        assert_eq!(
            verified("a", 0, Sha256::new(), Some(right.clone())).unwrap(),
            (0, right)
        );
    }
}

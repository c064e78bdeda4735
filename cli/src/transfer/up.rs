//! One file to a session.

use super::{CHUNK, Existing, Meter, Patience, resumable};
use crate::failure::{Code, Failure};
use crate::gateway::{Gateway, Part, Remote};
use futures::StreamExt as _;
use sha2::{Digest as _, Sha256};
use std::io::SeekFrom;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

/// Sends one file, from where an earlier try broke off, and says how long it is and its SHA-256.
pub async fn send(
    gateway: &Gateway,
    (local, remote): (&Path, &str),
    existing: Existing,
    meter: &Arc<Meter>,
) -> Result<(u64, String), Failure> {
    let cannot_read = |e: std::io::Error| unreadable(local, &e);
    let mut file = File::open(local).await.map_err(cannot_read)?;
    let about = file.metadata().await.map_err(cannot_read)?;
    if !about.is_file() {
        let message = format!("{} is not a file", local.display());
        return Err(Failure::new(Code::Usage, message));
    }
    let (length, sha256) = hash(&mut file).await.map_err(cannot_read)?;
    meter.expect(length);
    let (mut patience, mut reached) = (Patience::default(), 0);
    loop {
        let outcome = attempt(
            gateway,
            (local, remote),
            (length, &sha256),
            (existing, meter),
        )
        .await;
        let failure = match outcome {
            Ok(()) => return Ok((length, sha256)),
            Err((failure, offset)) => {
                let gained = offset > reached;
                reached = reached.max(offset);
                patience.after(failure, gained).await
            }
        };
        failure.map_err(resumable)?;
    }
}

/// One try; one that fails says where it began.
async fn attempt(
    gateway: &Gateway,
    (local, remote): (&Path, &str),
    (length, sha256): (u64, &str),
    (existing, meter): (Existing, &Arc<Meter>),
) -> Result<(), (Failure, u64)> {
    let offset = match gateway.look(remote, sha256).await.map_err(|f| (f, 0))? {
        Remote::Whole(Some(there)) if there == sha256 => {
            meter.add(length);
            return Ok(());
        }
        Remote::Whole(_) if existing == Existing::Refuse => return Err((other(remote), 0)),
        Remote::Whole(_) => 0,
        // The last byte is always sent: it is what makes the file whole.
        Remote::Missing(offset) => offset.min(length.saturating_sub(1)),
    };
    let unreadable = |e: std::io::Error| (unreadable(local, &e), offset);
    let mut file = File::open(local).await.map_err(unreadable)?;
    file.seek(SeekFrom::Start(offset))
        .await
        .map_err(unreadable)?;
    meter.add(offset);
    let counted = Arc::new(AtomicU64::new(offset));
    let (meter_of_body, counted_of_body) = (Arc::clone(meter), Arc::clone(&counted));
    let body =
        ReaderStream::with_capacity(file.take(length - offset), CHUNK).inspect(move |piece| {
            let bytes = piece.as_ref().map_or(0, |piece| piece.len() as u64);
            counted_of_body.fetch_add(bytes, Ordering::Relaxed);
            meter_of_body.add(bytes);
        });
    let part = Part {
        offset,
        length,
        sha256,
    };
    gateway.upload(remote, part, body).await.map_err(|failure| {
        meter.take_back(counted.load(Ordering::Relaxed));
        (failure, offset)
    })
}

/// A remote file of this name, and another content.
pub fn other(remote: &str) -> Failure {
    Failure::new(
        Code::Transfer,
        format!("the session has another file {remote} already"),
    )
    .hint("--force replaces it")
}

fn unreadable(local: &Path, error: &std::io::Error) -> Failure {
    let code = match error.kind() {
        std::io::ErrorKind::NotFound => Code::NotFound,
        _ => Code::Transfer,
    };
    Failure::new(code, format!("could not read {}: {error}", local.display()))
}

/// The SHA-256 of a file of this machine, 64 hex digits.
pub async fn sum_of(local: &Path) -> std::io::Result<String> {
    hash(&mut File::open(local).await?)
        .await
        .map(|(_, sum)| sum)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_file_is_hashed_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        let (bytes, sum) = hash(&mut File::open(&path).await.unwrap()).await.unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((bytes, sum.as_str()), (3, expected));
    }
}

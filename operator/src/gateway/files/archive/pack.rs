//! Down: a tar of the files, small ones read ahead of their turn.

use std::io;
use std::sync::Arc;

use futures::StreamExt as _;
use http::{HeaderValue, Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio_tar::{Builder, EntryType, Header};
use tokio_util::sync::PollSender;
use tokio_util::task::AbortOnDropHandle;

use super::{AT_ONCE, Ask, SMALL};
use crate::gateway::body::Answer;
use crate::gateway::files::transfer::{NO_PROGRESS, QUEUE, Queue};
use crate::gateway::files::{FileName, Ledger, refusal, sum, walk};
use crate::gateway::refusal::Refusal;
use crate::gateway::sessions::Admitted;
use crate::gateway::tunnel::Tunnel;
use crate::metrics::{self, ByteLabels, Direction};
use crate::ssh::{Entry, Range, Sftp};

/// Between SFTP and the archive, for a file that is not held in memory.
const PIPE: usize = 512 << 10;

/// `GET …/files/?format=tar`: all files, or those below one folder, by their names from the root.
pub(in crate::gateway::files) async fn pack(
    ask: Ask,
    admitted: Admitted,
    metrics: &metrics::Gateway,
) -> Result<Answer, Refusal> {
    let tunnel = admitted.known.deployed()?.clone();
    let in_use = tunnel.begin_use();
    let sftp = tunnel.sftp().await.map_err(refusal)?;
    let below = |path: &str| ask.under.as_ref().is_none_or(|folder| folder.holds(path));
    let mut files = walk(&sftp).await?;
    files.retain(|(path, _)| FileName::parse(path).is_some() && below(path));
    if files.is_empty() && ask.under.is_some() {
        return Err(Refusal::NoSuchFile);
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));

    let (sender, receiver) = mpsc::channel::<io::Result<bytes::Bytes>>(QUEUE);
    let down = metrics
        .bytes
        .get_or_create(&ByteLabels {
            direction: Direction::down,
        })
        .clone();
    let revoked = admitted.known.revoked.clone();
    let failed = sender.clone();
    let packing = AbortOnDropHandle::new(tokio::spawn(async move {
        let _until_the_end = in_use;
        let bytes: u64 = files.iter().map(|(_, entry)| entry.size).sum();
        let about = (&tunnel, &*admitted.session.files);
        let packed = tokio::select! {
            packed = write(&sftp, about, (files, ask.sums), Queue(PollSender::new(sender))) => packed,
            () = revoked.cancelled() => Err(io::Error::other("the token was revoked")),
        };
        match packed {
            Ok(()) => {
                down.inc_by(bytes);
            }
            // The client sees a body that breaks off, and no end of the archive.
            Err(error) => drop(failed.send(Err(error)).await),
        }
    }));
    let pieces = futures::stream::unfold((receiver, packing), |(mut receiver, packing)| async {
        let piece = receiver.recv().await?;
        Some((piece.map(Frame::data), (receiver, packing)))
    });
    let mut answer = Response::new(StreamBody::new(pieces).boxed_unsync());
    let headers = answer.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-tar"),
    );
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::from_static("attachment; filename=\"files.tar\""),
    );
    Ok(answer)
}

async fn write(
    sftp: &Sftp,
    (tunnel, ledger): (&Arc<Tunnel>, &Ledger),
    (files, sums): (Vec<(String, Entry)>, bool),
    queue: Queue,
) -> io::Result<()> {
    // One that ends the archive by itself when it is dropped would end a broken one as well.
    let mut archive = Builder::new_non_terminated(queue);
    let mut ahead = futures::stream::iter(files)
        .map(|(path, entry)| async move {
            let read = if entry.size <= SMALL {
                let (bytes, sum) = read(sftp, &path, entry.size).await?;
                (Some(bytes), sum)
            } else {
                let sum = match sums {
                    true => sum(tunnel, ledger, &path, &entry).await,
                    false => Ok(String::new()),
                };
                let sum = sum.map_err(|_refusal| io::Error::other("a file could not be summed"))?;
                (None, sum)
            };
            Ok::<_, io::Error>((path, entry, read))
        })
        .buffered(AT_ONCE);
    while let Some(file) = ahead.next().await {
        let (path, entry, (bytes, sum)) = file?;
        if sums {
            append_sum(&mut archive, &sum).await?;
        }
        let mut head = Header::new_gnu();
        head.set_entry_type(EntryType::Regular);
        head.set_mode(0o600);
        head.set_mtime(entry.modified.into());
        head.set_size(entry.size);
        match bytes {
            Some(bytes) => archive.append_data(&mut head, &path, &bytes[..]).await?,
            None => {
                let (reader, mut writer) = tokio::io::duplex(PIPE);
                let range = Range {
                    offset: 0,
                    length: Some(entry.size),
                };
                let reading = async {
                    sftp.read(&path, range, &mut writer, NO_PROGRESS)
                        .await
                        .map_err(io::Error::other)?;
                    writer.shutdown().await
                };
                tokio::try_join!(reading, archive.append_data(&mut head, &path, reader))?;
            }
        }
    }
    archive.finish().await
}

/// Tells the SHA-256 of the file that follows, in a pax header.
async fn append_sum(archive: &mut Builder<Queue>, sum: &str) -> io::Result<()> {
    let record = pax_record("SRCHAT.sha256", sum);
    let mut head = Header::new_ustar();
    head.set_entry_type(EntryType::XHeader);
    head.set_mode(0o600);
    head.set_size(record.len() as u64);
    archive
        .append_data(&mut head, "sha256", record.as_bytes())
        .await
}

/// `LENGTH NAME=VALUE\n`, where the length counts its own digits too.
fn pax_record(name: &str, value: &str) -> String {
    let rest = format!(" {name}={value}\n");
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}")
}

/// A small file, and the SHA-256 of what came.
async fn read(sftp: &Sftp, path: &str, size: u64) -> io::Result<(Vec<u8>, String)> {
    let range = Range {
        offset: 0,
        length: Some(size),
    };
    let mut bytes = Vec::new();
    let moved = sftp.read(path, range, &mut bytes, NO_PROGRESS).await;
    let moved = moved.map_err(io::Error::other)?;
    Ok((bytes, moved.sha256))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pax_record_counts_its_own_length() {
        assert_eq!(pax_record("a", "b"), "6 a=b\n");
        let record = pax_record("SRCHAT.sha256", &"0".repeat(64));
        assert!(record.starts_with("82 ") && record.len() == 82, "{record}");
        let edge = pax_record("a", &"b".repeat(94));
        assert_eq!(edge.split(' ').next(), Some(&*edge.len().to_string()));
    }
}

//! Down: a tar of the files, small ones read ahead of their turn.

use std::io;

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
use crate::gateway::files::{FileName, refusal, walk};
use crate::gateway::refusal::Refusal;
use crate::gateway::sessions::Admitted;
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
        let _until_the_end = (in_use, admitted);
        let bytes: u64 = files.iter().map(|(_, entry)| entry.size).sum();
        let packed = tokio::select! {
            packed = write(&sftp, files, Queue(PollSender::new(sender))) => packed,
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

async fn write(sftp: &Sftp, files: Vec<(String, Entry)>, queue: Queue) -> io::Result<()> {
    // One that ends the archive by itself when it is dropped would end a broken one as well.
    let mut archive = Builder::new_non_terminated(queue);
    let mut ahead = futures::stream::iter(files)
        .map(|(path, entry)| async move {
            let small = entry.size <= SMALL;
            let bytes = if small {
                Some(read(sftp, &path, entry.size).await?)
            } else {
                None
            };
            Ok::<_, io::Error>((path, entry, bytes))
        })
        .buffered(AT_ONCE);
    while let Some(file) = ahead.next().await {
        let (path, entry, bytes) = file?;
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

async fn read(sftp: &Sftp, path: &str, size: u64) -> io::Result<Vec<u8>> {
    let range = Range {
        offset: 0,
        length: Some(size),
    };
    let mut bytes = Vec::new();
    sftp.read(path, range, &mut bytes, NO_PROGRESS)
        .await
        .map_err(io::Error::other)?;
    Ok(bytes)
}

//! Bytes of files on their way: up into a file of our own that takes its name when it is whole and verified, down as they come.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use serde::Serialize;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::io::StreamReader;
use tokio_util::sync::PollSender;
use tokio_util::task::AbortOnDropHandle;

use super::{FileName, describe, file, hash, headers, refusal, sum, walk};
use crate::gateway::body::{Answer, content_length, drain, json};
use crate::gateway::refusal::Refusal;
use crate::gateway::sessions::Admitted;
use crate::metrics::{self, ByteLabels, Direction};
use crate::ssh::{EntryKind, Range, Sftp, SftpError};

/// Between two pieces of an upload: a client in a tunnel comes out of it in less.
const SILENCE: Duration = Duration::from_secs(60);
/// Blocks of a download between the host and the client: a megabyte keeps both busy.
const QUEUE: usize = 4;
/// The progress of transfers is in the client's own hands.
const NO_PROGRESS: &(dyn Fn(u64) + Send + Sync) = &|_bytes| {};

#[derive(Serialize)]
struct Written<'a> {
    name: &'a str,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<&'a str>,
}

/// `PUT`: whole, or in parts with `Content-Range`, which need the SHA-256 of the whole.
pub(super) async fn put(
    name: &FileName,
    admitted: Admitted,
    headers: &HeaderMap,
    mut body: Incoming,
    metrics: &metrics::Gateway,
) -> Result<Answer, Refusal> {
    let written = write(name, &admitted, headers, &mut body, metrics).await;
    if written.is_err() {
        drain(headers, &mut body).await;
    }
    written
}

async fn write(
    name: &FileName,
    admitted: &Admitted,
    headers: &HeaderMap,
    body: &mut Incoming,
    metrics: &metrics::Gateway,
) -> Result<Answer, Refusal> {
    let tunnel = admitted.known.deployed()?.clone();
    let _use = tunnel.begin_use();
    let announced = headers::announced(headers)?;
    let part = headers::content_range(headers)?;
    if part.is_some() && announced.is_none() {
        return Err(Refusal::field(
            "x-content-sha256",
            "An upload in parts needs the SHA-256 of the whole.",
        ));
    }
    let length = content_length(headers);
    if let (Some((_, expected, _)), Some(length)) = (part, length)
        && expected != length
    {
        return Err(Refusal::field(
            "content-range",
            "It does not fit the length of the body.",
        ));
    }
    let quota = tunnel.host.upload_quota;
    if length.is_some_and(|length| length > quota) {
        return Err(Refusal::OverQuota(quota));
    }
    let _writing = admitted.session.files.write(name)?;
    let sftp = tunnel.sftp().await.map_err(refusal)?;
    let unfinished = name.unfinished(announced.as_deref());
    let room = room(&sftp, name, &unfinished, quota).await?;
    let (offset, total) = match part {
        Some((first, _, total)) => (first, Some(total)),
        None => (0, length),
    };
    if total.is_some_and(|total| total > room) {
        return Err(Refusal::OverQuota(quota));
    }
    let replaces = make_way(&sftp, name).await?;
    if offset > 0 {
        let so_far = sftp.look(&unfinished).await.map_or(0, |entry| entry.size);
        if so_far != offset {
            return Err(Refusal::Conflict(
                "This part does not begin where the one before ended; HEAD tells, or begin anew.",
            ));
        }
    }
    let limit = part.map_or(room, |(_, length, _)| length);
    let moved = receive(&sftp, &unfinished, offset, body, limit, quota).await;
    let counted = moved.as_ref().map_or(0, |moved| moved.bytes);
    metrics
        .bytes
        .get_or_create(&ByteLabels {
            direction: Direction::up,
        })
        .inc_by(counted);
    let moved = moved?;
    if part.is_some_and(|(_, length, _)| moved.bytes != length) {
        return Err(Refusal::Invalid {
            message: "The body is shorter than its Content-Range.".into(),
            param: None,
        });
    }
    let size = offset + moved.bytes;
    if total.is_some_and(|total| size < total) {
        let mut answer = json(&Written {
            name: name.as_str(),
            size,
            sha256: None,
        });
        *answer.status_mut() = StatusCode::ACCEPTED;
        return Ok(answer);
    }
    let there = hash(&tunnel, &unfinished).await?;
    let arrived_whole = offset > 0 || there == moved.sha256;
    let as_announced = announced
        .as_ref()
        .is_none_or(|announced| *announced == there);
    if !arrived_whole || !as_announced {
        sftp.remove(&unfinished).await.map_err(refusal)?;
        return Err(Refusal::Digest);
    }
    sftp.replace(&unfinished, name.as_str())
        .await
        .map_err(refusal)?;
    if let Ok(entry) = sftp.look(name.as_str()).await {
        admitted.session.files.learn(name.as_str(), &entry, &there);
    }
    let mut answer = json(&Written {
        name: name.as_str(),
        size,
        sha256: Some(&there),
    });
    headers::announce(answer.headers_mut(), &there);
    if !replaces {
        *answer.status_mut() = StatusCode::CREATED;
    }
    Ok(answer)
}

/// Bytes that may still come: the quota less what lies there, the file itself and its unfinished upload not counted.
async fn room(sftp: &Sftp, name: &FileName, unfinished: &str, quota: u64) -> Result<u64, Refusal> {
    let others = |(path, entry): &(String, crate::ssh::Entry)| {
        if path == name.as_str() || path == unfinished {
            0
        } else {
            entry.size
        }
    };
    let used: u64 = walk(sftp).await?.iter().map(others).sum();
    Ok(quota.saturating_sub(used))
}

/// Makes the folders; true when there is a file of this name already, which will be replaced.
async fn make_way(sftp: &Sftp, name: &FileName) -> Result<bool, Refusal> {
    for folder in name.folders() {
        sftp.make_folder(folder).await.map_err(refusal)?;
    }
    match sftp.look(name.as_str()).await {
        Ok(entry) if entry.kind == EntryKind::File => Ok(true),
        Ok(_) => Err(Refusal::Conflict(
            "There is something of this name that is not a file.",
        )),
        Err(SftpError::NotFound) => Ok(false),
        Err(error) => Err(refusal(error)),
    }
}

async fn receive(
    sftp: &Sftp,
    path: &str,
    offset: u64,
    body: &mut Incoming,
    limit: u64,
    quota: u64,
) -> Result<crate::ssh::Moved, Refusal> {
    let pieces = Pieces {
        body,
        left: limit,
        over: false,
        silence: Box::pin(sleep(SILENCE)),
    };
    let mut source = StreamReader::new(pieces);
    let moved = sftp.write(path, offset, &mut source, NO_PROGRESS).await;
    moved.map_err(|error| match error {
        SftpError::Local(_) if source.get_ref().over => Refusal::OverQuota(quota),
        SftpError::Local(error) if error.kind() == io::ErrorKind::TimedOut => Refusal::BodyTimeout,
        SftpError::Local(_) => Refusal::Invalid {
            message: "The body broke off.".into(),
            param: None,
        },
        other => refusal(other),
    })
}

/// A body as it comes, up to a limit.
struct Pieces<'a> {
    body: &'a mut Incoming,
    left: u64,
    over: bool,
    silence: Pin<Box<Sleep>>,
}

impl Stream for Pieces<'_> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Poll::Ready(frame) = Pin::new(&mut *self.body).poll_frame(cx) else {
                ready!(self.silence.as_mut().poll(cx));
                return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
            };
            let Some(frame) = frame else {
                return Poll::Ready(None);
            };
            let data = frame
                .map_err(io::Error::other)?
                .into_data()
                .unwrap_or_default();
            self.silence.as_mut().reset(Instant::now() + SILENCE);
            let Some(left) = self.left.checked_sub(data.len() as u64) else {
                self.over = true;
                return Poll::Ready(Some(Err(io::ErrorKind::FileTooLarge.into())));
            };
            self.left = left;
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(data)));
            }
        }
    }
}

/// Where a download's blocks go: to the client's connection, which takes them at its own pace.
struct Queue(PollSender<io::Result<Bytes>>);

impl AsyncWrite for Queue {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        block: &[u8],
    ) -> Poll<io::Result<usize>> {
        let gone = |_closed| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.0.poll_reserve(cx)).map_err(gone)?;
        self.0
            .send_item(Ok(Bytes::copy_from_slice(block)))
            .map_err(gone)?;
        Poll::Ready(Ok(block.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.close();
        Poll::Ready(Ok(()))
    }
}

/// `GET`, whole or a part of it. The SHA-256 told is the whole file's.
pub(super) async fn get(
    name: &FileName,
    admitted: Admitted,
    headers: &HeaderMap,
    metrics: &metrics::Gateway,
) -> Result<Answer, Refusal> {
    let tunnel = admitted.known.deployed()?.clone();
    let in_use = tunnel.begin_use();
    let sftp = tunnel.sftp().await.map_err(refusal)?;
    let entry = file(&sftp, name).await?;
    let asked = headers::range(headers, entry.size)?;
    let sum = sum(&tunnel, &admitted.session.files, name.as_str(), &entry).await?;
    let (offset, length) = asked.unwrap_or((0, entry.size));

    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(QUEUE);
    let (path, failed) = (name.as_str().to_owned(), sender.clone());
    let down = metrics
        .bytes
        .get_or_create(&ByteLabels {
            direction: Direction::down,
        })
        .clone();
    let revoked = admitted.known.revoked.clone();
    let transfer = AbortOnDropHandle::new(tokio::spawn(async move {
        let _until_the_end = (in_use, admitted);
        let range = Range {
            offset,
            length: Some(length),
        };
        let read = tokio::select! {
            read = sftp.read(&path, range, Queue(PollSender::new(sender)), NO_PROGRESS) => read.map(|moved| moved.bytes).map_err(io::Error::other),
            () = revoked.cancelled() => Err(io::Error::other("the token was revoked")),
        };
        match read {
            Ok(bytes) => {
                down.inc_by(bytes);
            }
            // The client sees fewer bytes than were announced, and its connection closed.
            Err(error) => drop(failed.send(Err(error)).await),
        }
    }));
    let pieces = futures::stream::unfold(
        (receiver, transfer),
        |(mut receiver, transfer)| async move {
            let piece = receiver.recv().await?;
            Some((piece.map(Frame::data), (receiver, transfer)))
        },
    );
    let mut answer = Response::new(StreamBody::new(pieces).boxed_unsync());
    describe(&mut answer, &entry, Some(&sum));
    answer
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if asked.is_some() {
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        let value = format!("bytes {offset}-{}/{}", offset + length - 1, entry.size);
        let value = HeaderValue::try_from(value).expect("digits are a header value");
        answer.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    Ok(answer)
}

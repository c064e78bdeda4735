//! Bytes of files on their way: up into a file of our own that takes its name when it is whole and verified, down as they come.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use jiff::Timestamp;
use serde::Serialize;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::io::StreamReader;
use tokio_util::sync::PollSender;
use tokio_util::task::AbortOnDropHandle;

use super::{FileName, describe, file, hash, headers, name, refusal, sum, walk};
use crate::gateway::body::{Answer, content_length, drain, json};
use crate::gateway::refusal::Refusal;
use crate::gateway::sessions::Admitted;
use crate::metrics::{self, ByteLabels, Direction};
use crate::ssh::{EntryKind, Moved, Range, Sftp, SftpError};

/// Between two pieces of an upload: a client in a tunnel comes out of it in less.
const SILENCE: Duration = Duration::from_secs(60);
/// Blocks of a download between the host and the client: a megabyte keeps both busy.
pub(super) const QUEUE: usize = 4;
/// Below this, opening more channels takes longer than they save.
const STRIPED_FROM: u64 = 8 << 20;
/// An upload that nobody went on with for an hour makes room for others that need it.
const GIVEN_UP_SECONDS: i64 = 3600;
/// The progress of transfers is in the client's own hands.
pub(super) const NO_PROGRESS: &(dyn Fn(u64) + Send + Sync) = &|_bytes| {};

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
    let (name, headers, metrics) = (name.clone(), headers.clone(), metrics.clone());
    settled(async move {
        let written = write(&name, &admitted, &headers, &mut body, &metrics).await;
        if written.is_err() {
            drain(&headers, &mut body).await;
        }
        written
    })
    .await
}

/// Runs an upload to its end though its client leaves: what is on the way to the host settles, so that the rest can follow it.
pub(super) async fn settled(
    upload: impl Future<Output = Result<Answer, Refusal>> + Send + 'static,
) -> Result<Answer, Refusal> {
    tokio::spawn(upload).await.unwrap_or_else(|error| {
        tracing::error!(%error, "an upload failed in an unforeseen way");
        Err(Refusal::Unreachable)
    })
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
    let _writing = admitted.session.files.write(name).await?;
    let sftp = tunnel.sftp().await.map_err(refusal)?;
    let unfinished = name.unfinished(announced.as_deref());
    let (offset, total) = match part {
        Some((first, _, total)) => (first, Some(total)),
        None => (0, length),
    };
    let own = |path: &str| path == name.as_str() || path == unfinished;
    let room = room(&sftp, own, (total.unwrap_or(0), quota)).await?;
    if total.is_some_and(|total| total > room) {
        return Err(Refusal::OverQuota(quota));
    }
    make_folders(&sftp, name.folders()).await?;
    let replaces = replaces(&sftp, name).await?;
    if offset > 0 {
        // What has come already may come again: the client may know less of it than we do.
        let so_far = sftp.look(&unfinished).await.map_or(0, |entry| entry.size);
        if offset > so_far {
            return Err(Refusal::Gap(so_far));
        }
    }
    let limit = part.map_or(room, |(_, length, _)| length);
    let moved = receive(&sftp, (&unfinished, offset), body, (length, limit, quota)).await;
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

/// Bytes that may still come: the quota less what lies there, `own` not counted. Where that is less than `wanted`, uploads that were
/// given up make room.
pub(super) async fn room(
    sftp: &Sftp,
    own: impl Fn(&str) -> bool,
    (wanted, quota): (u64, u64),
) -> Result<u64, Refusal> {
    let mut files = walk(sftp).await?;
    files.retain(|(path, _)| !own(path));
    let mut used: u64 = files.iter().map(|(_, entry)| entry.size).sum();
    if quota.saturating_sub(used) < wanted {
        let now = Timestamp::now().as_second();
        for (path, entry) in files {
            let given_up = now - i64::from(entry.modified) > GIVEN_UP_SECONDS;
            if name::is_unfinished(&path) && given_up && sftp.remove(&path).await.is_ok() {
                used -= entry.size;
            }
        }
    }
    Ok(quota.saturating_sub(used))
}

/// Makes folders, which come outermost first.
pub(super) async fn make_folders(
    sftp: &Sftp,
    folders: impl IntoIterator<Item = &str>,
) -> Result<(), Refusal> {
    for folder in folders {
        sftp.make_folder(folder).await.map_err(refusal)?;
    }
    Ok(())
}

/// True when there is a file of this name already, which will be replaced.
pub(super) async fn replaces(sftp: &Sftp, name: &FileName) -> Result<bool, Refusal> {
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
    (path, offset): (&str, u64),
    body: &mut Incoming,
    (length, limit, quota): (Option<u64>, u64, u64),
) -> Result<Moved, Refusal> {
    let channels = match length {
        Some(length) if length >= STRIPED_FROM => sftp.stripes(),
        Some(_) | None => 1,
    };
    let mut source = StreamReader::new(Pieces::of(body, limit));
    let moved = sftp.write_over(channels, path, offset, &mut source, NO_PROGRESS);
    moved.await.map_err(|error| match error {
        SftpError::Local(_) => source.get_ref().why(quota).unwrap_or(Refusal::Unreachable),
        other => refusal(other),
    })
}

/// A body as it comes, up to a limit.
pub(super) struct Pieces<'a> {
    body: &'a mut Incoming,
    left: u64,
    fault: Option<Fault>,
    silence: Pin<Box<Sleep>>,
}

/// What was wrong with a body.
#[derive(Clone, Copy)]
enum Fault {
    Over,
    Silent,
    BrokeOff,
}

impl<'a> Pieces<'a> {
    /// At most so many bytes of it.
    pub(super) fn of(body: &'a mut Incoming, limit: u64) -> Self {
        Self {
            body,
            left: limit,
            fault: None,
            silence: Box::pin(sleep(SILENCE)),
        }
    }

    /// What to say of the body, if it was the body that failed.
    pub(super) fn why(&self, quota: u64) -> Option<Refusal> {
        Some(match self.fault? {
            Fault::Over => Refusal::OverQuota(quota),
            Fault::Silent => Refusal::BodyTimeout,
            Fault::BrokeOff => Refusal::Invalid {
                message: "The body broke off.".into(),
                param: None,
            },
        })
    }

    fn fails(&mut self, fault: Fault) -> Poll<Option<io::Result<Bytes>>> {
        self.fault = Some(fault);
        Poll::Ready(Some(Err(io::Error::other("the body failed"))))
    }
}

impl Stream for Pieces<'_> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Poll::Ready(frame) = Pin::new(&mut *self.body).poll_frame(cx) else {
                ready!(self.silence.as_mut().poll(cx));
                return self.fails(Fault::Silent);
            };
            let Some(frame) = frame else {
                return Poll::Ready(None);
            };
            let Ok(frame) = frame else {
                return self.fails(Fault::BrokeOff);
            };
            let data = frame.into_data().unwrap_or_default();
            self.silence.as_mut().reset(Instant::now() + SILENCE);
            let Some(left) = self.left.checked_sub(data.len() as u64) else {
                return self.fails(Fault::Over);
            };
            self.left = left;
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(data)));
            }
        }
    }
}

/// Where a download's blocks go: to the client's connection, which takes them at its own pace.
pub(super) struct Queue(pub(super) PollSender<io::Result<Bytes>>);

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
    let sum = sum(&tunnel, &admitted.session.files, name.as_str(), &entry).await?;
    let asked = headers::range(headers, (entry.size, &sum))?;
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

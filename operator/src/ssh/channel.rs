//! One channel as a byte stream. A task of its own always drains it, because russh's session waits for whoever does not:
//! one stalled reader would stall every other channel. What is not read in time is buffered up to a limit in bytes; beyond
//! it the slow reader loses its channel, and nobody else notices.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use russh::client::Msg;
use russh::{Channel, ChannelMsg};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use super::connect::Connection;

/// Unread bytes of a forward or a command: some seconds of the fastest engine's tokens, or one large answer.
pub(super) const FORWARD_LIMIT: usize = 8 * 1024 * 1024;

/// stderr of a started command is kept for its message only.
const STDERR_LIMIT: usize = 16 * 1024;

/// The data of one channel, both ways. Dropping it closes the channel at once.
pub struct Stream {
    unread: Bytes,
    incoming: mpsc::UnboundedReceiver<Event>,
    queued: Arc<AtomicUsize>,
    outgoing: Pin<Box<dyn AsyncWrite + Send>>,
    at_eof: bool,
    ended: Option<End>,
    exit: Option<u32>,
    stderr: Vec<u8>,
    /// A connection lives as long as its streams.
    _connection: Connection,
}

pub(super) enum Event {
    Data(Bytes),
    Stderr(Bytes),
    /// No more data will come; a status may.
    Eof,
    Exit(u32),
    End(End),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The other side said so.
    Finished,
    /// The connection went.
    Lost,
    /// We did not read in time.
    Overflowed,
    /// The host refused the command.
    Refused,
}

pub(super) fn stream(channel: Channel<Msg>, connection: Connection, limit: usize) -> Stream {
    let (sender, incoming) = mpsc::unbounded_channel();
    let queued = Arc::new(AtomicUsize::new(0));
    let outgoing = Box::pin(channel.make_writer());
    // Ends with the channel, or with the stream: `sender.closed()`.
    tokio::spawn(drain(channel, sender, Arc::clone(&queued), limit));
    Stream {
        unread: Bytes::new(),
        incoming,
        queued,
        outgoing,
        at_eof: false,
        ended: None,
        exit: None,
        stderr: Vec::new(),
        _connection: connection,
    }
}

async fn drain(
    mut channel: Channel<Msg>,
    sender: mpsc::UnboundedSender<Event>,
    queued: Arc<AtomicUsize>,
    limit: usize,
) {
    let mut finished = false;
    let end = loop {
        let message = tokio::select! {
            message = channel.wait() => message,
            () = sender.closed() => break End::Finished,
        };
        let event = match message {
            Some(ChannelMsg::Data { data }) => {
                let before = queued.fetch_add(data.len(), Ordering::Relaxed);
                if before + data.len() > limit {
                    break End::Overflowed;
                }
                Event::Data(data)
            }
            Some(ChannelMsg::ExtendedData { data, ext: _ }) => Event::Stderr(data),
            Some(ChannelMsg::ExitStatus { exit_status }) => Event::Exit(exit_status),
            // A signal leaves no status; shells say 128 and more for it.
            Some(ChannelMsg::ExitSignal { .. }) => Event::Exit(255),
            Some(ChannelMsg::Failure) => break End::Refused,
            // A forward stays half open until we close our side; a command's exit status comes later.
            Some(ChannelMsg::Eof) => {
                finished = true;
                Event::Eof
            }
            Some(ChannelMsg::Close) => break End::Finished,
            None if finished => break End::Finished,
            None => break End::Lost,
            // Window changes and the like are russh's business.
            Some(_) => continue,
        };
        if sender.send(event).is_err() {
            break End::Finished;
        }
    };
    let _ = sender.send(Event::End(end));
    // Closing a closed channel is refused by russh, harmlessly.
    let _ = channel.close().await;
}

impl Stream {
    /// Both directions at once, for commands that want stdout and stderr apart: a command may end without reading its input,
    /// and whoever only wrote would wait for ever.
    pub(super) fn halves(&mut self) -> (Events<'_>, &mut (dyn AsyncWrite + Send + Unpin)) {
        let events = Events {
            incoming: &mut self.incoming,
            queued: &self.queued,
        };
        (events, &mut self.outgoing)
    }

    /// Waits for a command's end, what it still says not kept, and gives its status, if the host told one.
    pub async fn exit_status(&mut self) -> Option<u32> {
        while self.ended.is_none() {
            let event = self.incoming.recv().await;
            self.take(event);
            self.unread.clear();
        }
        self.exit
    }

    /// What the command wrote to stderr so far, at most 16 KiB of it.
    pub fn stderr(&self) -> &[u8] {
        &self.stderr
    }

    fn take(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Data(data)) => {
                self.queued.fetch_sub(data.len(), Ordering::Relaxed);
                self.unread = data;
            }
            Some(Event::Stderr(data)) => {
                let room = STDERR_LIMIT.saturating_sub(self.stderr.len());
                self.stderr.extend(data.iter().take(room));
            }
            Some(Event::Eof) => self.at_eof = true,
            Some(Event::Exit(status)) => self.exit = Some(status),
            Some(Event::End(end)) => self.ended = Some(end),
            None => self.ended = Some(End::Lost),
        }
    }

    fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            if self.at_eof {
                return Poll::Ready(Ok(()));
            }
            if let Some(end) = self.ended {
                return Poll::Ready(end.as_result());
            }
            let event = ready!(self.incoming.poll_recv(cx));
            self.take(event);
        }
        Poll::Ready(Ok(()))
    }
}

/// What comes in, message by message.
pub(super) struct Events<'a> {
    incoming: &'a mut mpsc::UnboundedReceiver<Event>,
    queued: &'a AtomicUsize,
}

impl Events<'_> {
    /// The next one.
    pub(super) async fn next(&mut self) -> Option<Event> {
        let event = self.incoming.recv().await?;
        if let Event::Data(data) = &event {
            self.queued.fetch_sub(data.len(), Ordering::Relaxed);
        }
        Some(event)
    }
}

impl End {
    fn as_result(self) -> io::Result<()> {
        match self {
            Self::Finished => Ok(()),
            Self::Lost => Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "the connection to the host ended",
            )),
            Self::Overflowed => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the stream was read too slowly",
            )),
            Self::Refused => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the host refused the command",
            )),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_unread(cx))?;
        let n = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..n]);
        self.unread.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        // russh takes an empty write for an error.
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.outgoing.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.as_mut().poll_shutdown(cx)
    }
}

//! A client's connection as hyper sees it, with three things that hyper does not do: it notices a request that has both Content-Length
//! and Transfer-Encoding (hyper drops the former; we refuse such a request), it ends a client that stops reading, and it gives a body
//! to hyper's own answers.

mod turn;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::http::HEADER_BYTES;

pub use self::turn::{Answering, Turn};

/// A client that takes nothing for this long is gone or means harm; its stream holds a sequence on the GPU.
const STALLED: Duration = Duration::from_secs(120);

/// Whether the request in hand had both headers. Such a request is the last of its connection, so one flag is enough.
#[derive(Clone, Debug, Default)]
pub struct Conflict(Arc<AtomicBool>);

impl Conflict {
    /// Asked for requests that have Transfer-Encoding.
    pub fn seen(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The connection.
pub struct Watched<I> {
    inner: I,
    heads: Heads,
    conflict: Conflict,
    turn: Turn,
    /// What is written in the place of an answer of hyper's own.
    instead: Bytes,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<I> Watched<I> {
    /// Watches a connection.
    pub fn new(inner: I) -> Self {
        Self {
            inner,
            heads: Heads::default(),
            conflict: Conflict::default(),
            turn: Turn::default(),
            instead: Bytes::new(),
            stalled: None,
        }
    }

    /// The flag.
    pub fn conflict(&self) -> Conflict {
        self.conflict.clone()
    }

    /// To be told of every answer.
    pub fn turn(&self) -> Turn {
        self.turn.clone()
    }

    fn unless_stalled<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let timer = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + STALLED)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<I: AsyncWrite + Unpin> Watched<I> {
    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.instead.is_empty() {
            let written = Pin::new(&mut self.inner).poll_write(cx, &self.instead);
            let written = ready!(self.unless_stalled(cx, written))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.instead.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether these bytes are hyper's own answer, which we take from it and write in our words.
    fn takes(&mut self, bytes: &[u8]) -> bool {
        self.turn
            .instead_of(bytes)
            .map(|instead| self.instead = instead)
            .is_some()
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if self.heads.feed(&buf.filled()[before..]) {
            self.conflict.0.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_instead(cx))?;
        if self.takes(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.unless_stalled(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_instead(cx))?;
        if let Some(first) = bufs.iter().find(|piece| !piece.is_empty())
            && self.takes(first)
        {
            return Poll::Ready(Ok(first.len()));
        }
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.unless_stalled(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        if let Poll::Ready(Ok(())) = flushed {
            self.turn.flushed();
        }
        self.unless_stalled(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.unless_stalled(cx, shut)
    }
}

/// Follows the heads of the requests on one connection. It decides nothing but whether to refuse: framing is hyper's.
#[derive(Debug, Default)]
struct Heads {
    line: Vec<u8>,
    begun: bool,
    length: Option<u64>,
    encoded: bool,
    /// Bytes of a body still to come.
    body: u64,
    /// Nothing more to see: after Transfer-Encoding the connection takes no further request.
    done: bool,
}

impl Heads {
    /// Takes what was read; true when a head with both headers has just ended.
    fn feed(&mut self, mut bytes: &[u8]) -> bool {
        while !self.done && !bytes.is_empty() {
            let skip = usize::try_from(self.body)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            self.body -= skip as u64;
            bytes = &bytes[skip..];
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                self.line.extend_from_slice(bytes);
                // hyper refuses such a head by itself.
                self.done |= self.line.len() > HEADER_BYTES;
                break;
            };
            self.line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            if self.line_ended() {
                return true;
            }
        }
        false
    }

    fn line_ended(&mut self) -> bool {
        let line = std::mem::take(&mut self.line);
        let line = line.trim_ascii_end();
        if !line.is_empty() {
            self.begun = true;
            if let Some(colon) = memchr::memchr(b':', line) {
                let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
                if name.eq_ignore_ascii_case(b"transfer-encoding") {
                    self.encoded = true;
                } else if name.eq_ignore_ascii_case(b"content-length") {
                    let number = std::str::from_utf8(value)
                        .ok()
                        .and_then(|value| value.parse().ok());
                    self.length = Some(number.unwrap_or(0));
                }
            }
            return false;
        }
        if !self.begun {
            return false;
        }
        self.begun = false;
        self.done = self.encoded;
        let length = self.length.take();
        self.body = length.unwrap_or(0);
        self.encoded && length.is_some()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_cut_off() {
        let (_client, server) = tokio::io::duplex(64);
        let mut server = Watched::new(server);
        // Time passes by itself: nothing else is left to wait for.
        let cut = server.write_all(&[0; 1024]).await.unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::TimedOut);
    }

    fn conflicting(bytes: &[u8], cut: usize) -> bool {
        let mut heads = Heads::default();
        let (one, two) = bytes.split_at(cut.min(bytes.len()));
        let seen = heads.feed(one);
        heads.feed(two) || seen
    }

    #[test]
    fn both_headers_are_noticed_in_either_order_on_any_request_of_a_connection() {
        let before = "POST / HTTP/1.1\r\nContent-Length: 25\r\n\r\nTransfer-Encoding: chunked";
        let before = &before[..before.len() - 1];
        for head in [
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\ntransfer-encoding: chunked\nHost: x\ncontent-LENGTH:3\n\n",
        ] {
            assert!(conflicting(head.as_bytes(), 0));
            assert!(conflicting(format!("{before}{head}").as_bytes(), 0));
        }
    }

    #[test]
    fn one_of_them_is_no_conflict_and_a_body_is_not_read_as_a_head() {
        for text in [
            "POST / HTTP/1.1\r\nContent-Length: 70\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            "",
        ] {
            assert!(!conflicting(text.as_bytes(), 0), "{text}");
        }
    }

    proptest! {
        #[test]
        fn where_the_reads_fall_does_not_matter(cut in 0usize..80) {
            prop_assert!(conflicting(b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", cut));
        }

        #[test]
        fn nothing_that_is_read_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            conflicting(&bytes, cut);
        }
    }
}

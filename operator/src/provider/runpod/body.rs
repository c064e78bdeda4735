//! Bodies of answers: small ones are collected, and a list, which may be a hundred megabytes, is read while it arrives.

use std::io;

use bytes::{Buf as _, Bytes};
use reqwest::Response;
use tokio::sync::mpsc;

use super::answer;

/// More than the longest answer seen; a body that goes on beyond it is not an answer.
const LARGEST: usize = 64 << 20;
/// One page of a list: thousands of records with a start command of kilobytes in each.
const LARGEST_LIST: usize = 1 << 30;
/// Pieces of a body that wait for their reader.
const AHEAD: usize = 4;

/// The whole body.
pub(super) async fn whole(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = next(&mut response).await? {
        if body.len() + chunk.len() > LARGEST {
            return Err("an answer without end".into());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Lets `read` have the body piece by piece, on a thread of its own. `Err`: it did not arrive whole, and what was read of it says
/// nothing. Dropped before its end, it ends the reading as well.
pub(super) async fn read_along<T: Send + 'static>(
    mut response: Response,
    read: impl FnOnce(Pieces) -> T + Send + 'static,
) -> Result<T, String> {
    let (pieces, waiting) = mpsc::channel(AHEAD);
    let reading = tokio::task::spawn_blocking(move || {
        read(Pieces {
            piece: Bytes::new(),
            waiting,
        })
    });
    let mut size = 0;
    while let Some(chunk) = next(&mut response).await? {
        size += chunk.len();
        if size > LARGEST_LIST {
            return Err("an answer without end".into());
        }
        if pieces.send(chunk).await.is_err() {
            // The reader has seen enough, and says so.
            break;
        }
    }
    drop(pieces);
    reading
        .await
        .map_err(|_| "the answer could not be read".into())
}

async fn next(response: &mut Response) -> Result<Option<Bytes>, String> {
    response
        .chunk()
        .await
        .map_err(|error| answer::cause(&error))
}

/// A body as it arrives. Only for threads that may block.
pub(super) struct Pieces {
    piece: Bytes,
    waiting: mpsc::Receiver<Bytes>,
}

impl io::Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.waiting.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(into.len());
        into[..length].copy_from_slice(&self.piece[..length]);
        self.piece.advance(length);
        Ok(length)
    }
}

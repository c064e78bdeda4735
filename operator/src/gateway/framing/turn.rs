//! Whose answer is being written: one of ours, or hyper's own to a head that it cannot read. hyper's has no body, and an OpenAI client
//! deserves a sentence: it is written anew in our shape. What a file or a model says can never be taken for it, since that is written
//! while an answer of ours is in hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use http::StatusCode;

use crate::gateway::refusal::Refusal;

/// Nothing of ours is being answered.
const IDLE: u8 = 0;
/// A request is in our hands.
const IN_HAND: u8 = 1;
/// It has been answered; not all of that may have been written.
const GIVEN: u8 = 2;

/// Where the connection stands.
#[derive(Clone, Debug, Default)]
pub struct Turn(Arc<AtomicU8>);

impl Turn {
    /// A request has come to us. What is returned goes with the answer's body.
    pub fn begin(&self) -> Answering {
        self.0.store(IN_HAND, Ordering::Relaxed);
        Answering(self.clone())
    }

    /// All that was to be written has been.
    pub(super) fn flushed(&self) {
        // Fails when an answer is in hand, which is right.
        let _ = self
            .0
            .compare_exchange(GIVEN, IDLE, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// What to write instead of these bytes, when they are an answer of hyper's own.
    pub(super) fn instead_of(&self, bytes: &[u8]) -> Option<Bytes> {
        if self.0.load(Ordering::Relaxed) != IDLE {
            return None;
        }
        let code = bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
        let status = StatusCode::from_bytes(code)
            .ok()
            .filter(|status| status.is_client_error())?;
        let json = Refusal::Head(status).json();
        let mut answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            json.len()
        )
        .into_bytes();
        answer.extend_from_slice(&json);
        Some(answer.into())
    }
}

/// An answer of ours, until its body has been given away.
#[derive(Debug)]
pub struct Answering(Turn);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.0.store(GIVEN, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HYPERS: &[u8] =
        b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n";

    #[test]
    fn hypers_own_answer_gets_a_body_and_ours_is_left_alone() {
        let turn = Turn::default();
        let instead = turn.instead_of(HYPERS).unwrap();
        let text = String::from_utf8(instead.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())));
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"]["code"], "headers_too_large");

        let answering = turn.begin();
        assert_eq!(turn.instead_of(HYPERS), None, "it is a file's content");
        turn.flushed();
        assert_eq!(turn.instead_of(HYPERS), None);
        drop(answering);
        assert_eq!(turn.instead_of(HYPERS), None, "it may be the file's end");
        turn.flushed();
        assert!(turn.instead_of(HYPERS).is_some());
    }

    #[test]
    fn what_is_no_error_passes() {
        let turn = Turn::default();
        for bytes in [
            &b"HTTP/1.1 100 Continue\r\n\r\n"[..],
            b"HTTP/1.1 4",
            b"",
            b"\0",
        ] {
            assert_eq!(turn.instead_of(bytes), None);
        }
    }
}

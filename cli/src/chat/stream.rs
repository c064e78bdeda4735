//! One streamed answer: server-sent events in, pieces of text out.

use crate::failure::{Code, Failure};
use crate::gateway::broken;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use reqwest::Response;
use serde_json::Value;

/// An event longer than this is no chat completion chunk.
const LONGEST_EVENT: usize = 1 << 20;

/// What an answer is made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Text of the answer.
    Text(String),
    /// What the model thought before it answered.
    Reasoning(String),
    /// Tokens of prompt and answer, at the end.
    Usage {
        /// Tokens read.
        prompt: u64,
        /// Tokens written.
        completion: u64,
    },
}

/// An answer being read.
pub struct Answer {
    body: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: Vec<u8>,
    ready: std::collections::VecDeque<Piece>,
    done: bool,
}

impl Answer {
    /// Takes the body of a streamed chat completion.
    pub fn new(response: Response) -> Self {
        Self {
            body: response.bytes_stream().boxed(),
            buffer: Vec::new(),
            ready: std::collections::VecDeque::new(),
            done: false,
        }
    }

    /// The next piece; `None` at the end. A stream that breaks off before its end is an error, never an end.
    pub async fn next(&mut self) -> Result<Option<Piece>, Failure> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            if self.done {
                return Ok(None);
            }
            match self.body.next().await {
                Some(Ok(bytes)) => self.read(&bytes)?,
                Some(Err(error)) => return Err(broken(&error)),
                None => {
                    return Err(
                        Failure::new(Code::Model, "the answer broke off before its end")
                            .hint("ask again; the engine or the connection to it went away"),
                    );
                }
            }
        }
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.buffer.extend_from_slice(bytes);
        let mut start = 0;
        while let Some(end) = self.buffer[start..].iter().position(|b| *b == b'\n') {
            let line = &self.buffer[start..start + end];
            start += end + 1;
            match event(line)? {
                Event::None => {}
                Event::Done => self.done = true,
                Event::Pieces(pieces) => self.ready.extend(pieces),
            }
        }
        self.buffer.drain(..start);
        if self.buffer.len() > LONGEST_EVENT {
            return Err(Failure::new(
                Code::Model,
                "the answer is not a stream of events",
            ));
        }
        Ok(())
    }
}

#[derive(Debug, PartialEq)]
enum Event {
    None,
    Done,
    Pieces(Vec<Piece>),
}

fn event(line: &[u8]) -> Result<Event, Failure> {
    let Some(data) = line.strip_prefix(b"data:") else {
        return Ok(Event::None);
    };
    let data = data.trim_ascii();
    if data == b"[DONE]" {
        return Ok(Event::Done);
    }
    let chunk: Value = serde_json::from_slice(data)
        .map_err(|_| Failure::new(Code::Model, "the engine sent an event that is not JSON"))?;
    // An object in OpenAI's shape; transformers says it in a bare string.
    let error = &chunk["error"];
    if let Some(message) = error["message"].as_str().or(error.as_str()) {
        return Err(Failure::new(Code::Model, message));
    }
    Ok(Event::Pieces(pieces(&chunk)))
}

fn pieces(chunk: &Value) -> Vec<Piece> {
    let delta = &chunk["choices"][0]["delta"];
    let text = |name: &str| {
        delta[name]
            .as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let mut pieces = Vec::new();
    // The gateway sends reasoning under both names that engines use; one is enough.
    pieces.extend(
        text("reasoning")
            .or_else(|| text("reasoning_content"))
            .map(Piece::Reasoning),
    );
    pieces.extend(text("content").map(Piece::Text));
    if let (Some(prompt), Some(completion)) = (
        chunk["usage"]["prompt_tokens"].as_u64(),
        chunk["usage"]["completion_tokens"].as_u64(),
    ) {
        pieces.push(Piece::Usage { prompt, completion });
    }
    pieces
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_chunk_gives_its_text() {
        let line = br#"data: {"choices":[{"delta":{"content":"Hi"}}]}"#;
        let pieces = vec![Piece::Text("Hi".into())];
        assert_eq!(event(line).unwrap(), Event::Pieces(pieces));
    }

    #[test]
    fn reasoning_under_both_names_is_shown_once() {
        let line = br#"data: {"choices":[{"delta":{"reasoning":"a","reasoning_content":"a"}}]}"#;
        let pieces = vec![Piece::Reasoning("a".into())];
        assert_eq!(event(line).unwrap(), Event::Pieces(pieces));
    }

    #[test]
    fn the_last_chunk_has_usage_and_no_choices() {
        let line = br#"data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}"#;
        let usage = Piece::Usage {
            prompt: 3,
            completion: 5,
        };
        assert_eq!(event(line).unwrap(), Event::Pieces(vec![usage]));
    }

    #[test]
    fn an_error_in_the_stream_is_an_error() {
        let line = br#"data: {"error":{"message":"engine died"}}"#;
        assert_eq!(event(line).unwrap_err().message, "engine died");
        let bare = br#"data: {"error": "engine died"}"#;
        assert_eq!(event(bare).unwrap_err().message, "engine died");
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = event(&line);
            let _ = event(&[b"data: ", line.as_slice()].concat());
        }
    }
}

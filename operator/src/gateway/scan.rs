//! A look at the engine's answer on its way through: finds the usage, gives reasoning under both of its names, and ends a stream as
//! OpenAI's do. Nothing is held back but an unfinished line.

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use serde::Deserialize;

/// A line of an event stream beyond this passes unseen: reasoning in it keeps its one name.
const LINE_BYTES: usize = 1 << 20;
/// The two names of the same: vLLM's, and that of DeepSeek's API, llama.cpp and transformers.
const NAMES: [&str; 2] = ["reasoning", "reasoning_content"];

/// The end of a stream. `transformers serve` (5.23) never says it: clients that wait for it take its answers for broken off.
const DONE: &[u8] = b"data: [DONE]";

/// Tokens, as the engine counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Of the prompt.
    #[serde(default, alias = "prompt_tokens")]
    pub input_tokens: u64,
    /// Of the answer.
    #[serde(default, alias = "completion_tokens")]
    pub output_tokens: u64,
}

/// What was seen of one event stream.
#[derive(Debug, Default)]
pub struct Scan {
    unfinished: BytesMut,
    /// The last usage that was told.
    pub usage: Option<Usage>,
    /// How many events have passed.
    pub events: u64,
    /// The model has said why it stopped.
    stopped: bool,
    /// The engine has said that the stream is over.
    done: bool,
}

impl Scan {
    /// Takes a piece of the stream, gives what may go on: whole lines. It is the same memory unless a line was cut in two or has
    /// reasoning in it.
    pub fn feed(&mut self, piece: Bytes) -> Bytes {
        let lines = self.whole_lines(piece);
        if lines.is_empty() {
            return lines;
        }
        self.events += memmem::find_iter(&lines, b"data: {").count() as u64;
        if let Some(usage) = usage(&lines) {
            self.usage = Some(usage);
        }
        self.stopped |= has_stopped(&lines);
        self.done |= memmem::find(&lines, DONE).is_some();
        both_names(&lines).map_or(lines, Bytes::from)
    }

    /// What was held back when the stream ended, and the end of an answer that is whole where the engine does not say it.
    pub fn finish(&mut self) -> Bytes {
        let mut rest = self.unfinished.split();
        if self.stopped && !self.done && rest.is_empty() {
            rest.extend_from_slice(DONE);
            rest.extend_from_slice(b"\n\n");
        }
        rest.freeze()
    }

    fn whole_lines(&mut self, mut piece: Bytes) -> Bytes {
        let end = memchr::memrchr(b'\n', &piece).map_or(0, |at| at + 1);
        if self.unfinished.is_empty() {
            let whole = piece.split_to(end);
            self.unfinished.extend_from_slice(&piece);
            return whole;
        }
        self.unfinished.extend_from_slice(&piece[..end]);
        let whole = if end > 0 || self.unfinished.len() + piece.len() > LINE_BYTES {
            self.unfinished.split().freeze()
        } else {
            Bytes::new()
        };
        self.unfinished.extend_from_slice(&piece[end..]);
        whole
    }
}

/// Whether a model says in this why it stopped. Its text cannot look like it.
fn has_stopped(lines: &[u8]) -> bool {
    const KEY: &[u8] = b"\"finish_reason\":";
    memmem::find_iter(lines, KEY).any(|at| {
        lines[at + KEY.len()..]
            .trim_ascii_start()
            .starts_with(b"\"")
    })
}

/// The last usage in some JSON, found without parsing what lies around it. Text of the model cannot look like it: its quotes are
/// escaped.
pub fn usage(json: &[u8]) -> Option<Usage> {
    memmem::rfind_iter(json, b"\"usage\":").find_map(|at| {
        let object = json[at + b"\"usage\":".len()..].trim_ascii_start();
        if !object.starts_with(b"{") {
            return None;
        }
        serde_json::Deserializer::from_slice(object)
            .into_iter::<Usage>()
            .next()?
            .ok()
    })
}

/// Adds the name that is missing beside each string under the other; `None` when there is nothing to add.
pub fn both_names(json: &[u8]) -> Option<Vec<u8>> {
    memmem::find(json, b"\"reasoning")?;
    let key = |name: &str| format!("\"{name}\":").into_bytes();
    let [first, second] = NAMES.map(key);
    let (has_first, has_second) = (
        memmem::find(json, &first).is_some(),
        memmem::find(json, &second).is_some(),
    );
    match (has_first, has_second) {
        (true, false) => copy_beside(json, &first, &second),
        (false, true) => copy_beside(json, &second, &first),
        (true, true) | (false, false) => None,
    }
}

fn copy_beside(json: &[u8], present: &[u8], absent: &[u8]) -> Option<Vec<u8>> {
    let mut out: Option<Vec<u8>> = None;
    let mut done = 0;
    for at in memmem::find_iter(json, present) {
        let value = at + present.len();
        let start = value + (json[value..].len() - json[value..].trim_ascii_start().len());
        // Only strings: an object of that name is the settings of /v1/responses.
        let Some(end) = string_end(json, start) else {
            continue;
        };
        let out = out.get_or_insert_with(|| Vec::with_capacity(json.len() + 64));
        out.extend_from_slice(&json[done..end]);
        out.push(b',');
        out.extend_from_slice(absent);
        out.extend_from_slice(&json[start..end]);
        done = end;
    }
    if let Some(out) = &mut out {
        out.extend_from_slice(&json[done..]);
    }
    out
}

/// Behind the closing quote of the JSON string that begins at `start`.
fn string_end(json: &[u8], start: usize) -> Option<usize> {
    if json.get(start) != Some(&b'"') {
        return None;
    }
    let mut at = start + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', &json[at..])?;
        match json[at] {
            b'"' => return Some(at + 1),
            _ => at += 2,
        }
        if at > json.len() {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn through(pieces: &[&[u8]]) -> (Vec<u8>, Scan) {
        let mut scan = Scan::default();
        let mut out = Vec::new();
        for piece in pieces {
            out.extend_from_slice(&scan.feed(Bytes::copy_from_slice(piece)));
        }
        out.extend_from_slice(&scan.finish());
        (out, scan)
    }

    #[test]
    fn a_line_goes_on_the_moment_it_is_whole() {
        let mut scan = Scan::default();
        assert_eq!(
            scan.feed(Bytes::from_static(b"data: {\"a\":1}\n\ndata: {")),
            "data: {\"a\":1}\n\n"
        );
        assert_eq!(scan.feed(Bytes::from_static(b"\"b\":")), "");
        assert_eq!(scan.feed(Bytes::from_static(b"2}\n")), "data: {\"b\":2}\n");
        assert_eq!(scan.feed(Bytes::from_static(b"\n")), "\n");
        assert_eq!(scan.finish(), "");
        assert_eq!(scan.events, 2);
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let mut scan = Scan::default();
        let piece = Bytes::from(vec![b'x'; LINE_BYTES / 2]);
        assert!(scan.feed(piece.clone()).is_empty());
        assert!(scan.feed(piece.clone()).is_empty());
        let passed = scan.feed(piece);
        assert!(passed.len() >= LINE_BYTES, "{}", passed.len());
    }

    #[test]
    fn a_whole_answer_ends_as_openais_do_and_a_broken_one_does_not() {
        let end = |stream: &'static str| {
            let mut scan = Scan::default();
            scan.feed(Bytes::from_static(stream.as_bytes()));
            scan.finish()
        };
        let whole = "data: {\"choices\":[{\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":3}}\n\n";
        assert_eq!(&*end(whole), b"data: [DONE]\n\n");
        let broken =
            "data: {\"choices\":[{\"finish_reason\":null}]}\n\ndata: {\"error\":\"no memory\"}\n\n";
        assert!(end(broken).is_empty());
        let said = "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
        assert!(end(said).is_empty());
        let cut = "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\ndata: {";
        assert_eq!(&*end(cut), b"data: {");
    }

    #[test]
    fn the_last_usage_is_found_in_both_vocabularies() {
        let stream: &[u8] = b"data: {\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\":{\\\"prompt_tokens\\\":9}\"}}],\"usage\":null}\n\n\
            data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5,\"total_tokens\":8}}\n\ndata: [DONE]\n\n";
        assert_eq!(
            through(&[stream]).1.usage,
            Some(Usage {
                input_tokens: 3,
                output_tokens: 5
            })
        );
        assert_eq!(
            usage(br#"{"usage": {"input_tokens":1,"output_tokens":2}}"#),
            Some(Usage {
                input_tokens: 1,
                output_tokens: 2
            })
        );
        assert_eq!(usage(br#"{"usage":null}"#), None);
        assert_eq!(usage(br#"{"usage":{"prompt_tokens":"#), None);
    }

    #[test]
    fn reasoning_comes_under_both_names() {
        for (given, other) in [
            ("reasoning", "reasoning_content"),
            ("reasoning_content", "reasoning"),
        ] {
            let event = json!({"choices": [{"delta": {given: "so \"2\\\" + 2", "content": "x"}}, {"delta": {given: "ü\n"}}]});
            let line = format!("data: {event}\n\n");
            let (out, _) = through(&[line.as_bytes()]);
            let text = String::from_utf8(out).unwrap();
            let seen: Value =
                serde_json::from_str(text.trim().strip_prefix("data: ").unwrap()).unwrap();
            for at in 0..2 {
                assert_eq!(
                    seen["choices"][at]["delta"][other],
                    event["choices"][at]["delta"][given]
                );
                assert_eq!(
                    seen["choices"][at]["delta"][given],
                    event["choices"][at]["delta"][given]
                );
            }
        }
    }

    #[test]
    fn what_only_looks_like_reasoning_is_left_alone() {
        for json in [
            r#"{"reasoning":null}"#,
            r#"{"reasoning":{"effort":"low"}}"#,
            r#"{"reasoning":"a","reasoning_content":"a"}"#,
            r#"{"content":"\"reasoning\":\"x\""}"#,
            r#"{"usage":{"completion_tokens_details":{"reasoning_tokens":1}}}"#,
            r#"{"reasoning":"unfinished\"#,
        ] {
            assert_eq!(both_names(json.as_bytes()), None, "{json}");
        }
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_same_comes_out(text in "(data: \\{\"(reasoning|content)\":\"[a-z\"\\\\]{0,9}\"\\}\n\n){0,4}[a-z]{0,5}", cuts in prop::collection::vec(0usize..200, 0..6)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.sort_unstable();
            cuts.insert(0, 0);
            cuts.push(bytes.len());
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            let (out, scan) = through(&pieces);
            // Reasoning may be doubled or not where a piece ends within a block of lines; without it nothing changes.
            if !text.contains("reasoning") {
                prop_assert_eq!(out.as_slice(), bytes);
            }
            prop_assert_eq!(scan.events, memmem::find_iter(bytes, b"data: {").count() as u64);
        }
    }
}

//! What a pod has written, kept so that a stream can be resumed anywhere.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use serde_json::json;
use tokio::sync::watch;

/// More is forgotten from the beginning.
const LONGEST: usize = 20_000;

/// Which of the two logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Container,
    System,
}

impl Source {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::System => "system",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) number: u64,
    at: Timestamp,
    source: Source,
    text: String,
}

impl Line {
    /// As an event; the id is the time, made unique by the line's number.
    pub(super) fn event(&self) -> String {
        let data =
            json!({"ts": self.at.to_string(), "source": self.source.as_str(), "line": self.text});
        format!("id: {}/{:012}\ndata: {data}\n\n", self.at, self.number)
    }
}

#[derive(Debug)]
pub(super) struct Log {
    lines: VecDeque<Line>,
    written: watch::Sender<u64>,
    first: BTreeMap<Source, Timestamp>,
}

/// Where a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// So many lines before the end.
    Tail(usize),
    /// After this moment; at it, after this line.
    After(Timestamp, Option<u64>),
}

impl Log {
    pub(super) fn new() -> Self {
        Self {
            lines: VecDeque::new(),
            written: watch::Sender::new(0),
            first: BTreeMap::new(),
        }
    }

    pub(super) fn write(&mut self, source: Source, text: impl Into<String>, at: Timestamp) {
        let number = *self.written.borrow() + 1;
        self.first.entry(source).or_insert(at);
        self.lines.push_back(Line {
            number,
            at,
            source,
            text: text.into(),
        });
        if self.lines.len() > LONGEST {
            self.lines.pop_front();
        }
        self.written.send_replace(number);
    }

    /// When the first line of this source was written.
    pub(super) fn first_of(&self, source: Source) -> Option<Timestamp> {
        self.first.get(&source).copied()
    }

    /// The number of the last line before a stream's first.
    pub(super) fn begin(&self, from: From, source: Option<Source>) -> u64 {
        let mine = |line: &&Line| source.is_none_or(|source| line.source == source);
        match from {
            From::Tail(0) => *self.written.borrow(),
            From::Tail(tail) => {
                let first = self.lines.iter().rev().filter(mine).take(tail).last();
                first.map_or(*self.written.borrow(), |line| line.number - 1)
            }
            From::After(at, number) => {
                let before = |line: &&Line| {
                    line.at < at
                        || (line.at == at && number.is_none_or(|number| line.number <= number))
                };
                self.lines
                    .iter()
                    .rev()
                    .find(before)
                    .map_or(0, |line| line.number)
            }
        }
    }

    /// What was written after this line.
    pub(super) fn after(&self, number: u64, source: Option<Source>) -> Vec<Line> {
        let lines = self
            .lines
            .iter()
            .rev()
            .take_while(|line| line.number > number);
        let mut lines: Vec<Line> = lines
            .filter(|line| source.is_none_or(|source| line.source == source))
            .cloned()
            .collect();
        lines.reverse();
        lines
    }

    /// Wakes when something is written, and ends with the pod.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    /// Reads `Last-Event-ID`: a time, as the specification has it, or a time and a number, as its example has it.
    pub(super) fn parse_id(id: &str) -> Option<From> {
        let (at, number) = match id.split_once('/') {
            Some((at, number)) => (at, Some(number.parse().ok()?)),
            None => (id, None),
        };
        Some(From::After(at.parse().ok()?, number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Log {
        let mut log = Log::new();
        for second in 0..4 {
            let at = Timestamp::from_second(second).expect("small");
            log.write(
                if second == 1 {
                    Source::System
                } else {
                    Source::Container
                },
                second.to_string(),
                at,
            );
        }
        log
    }

    fn seen(from: From, source: Option<Source>) -> Vec<String> {
        let log = log();
        log.after(log.begin(from, source), source)
            .into_iter()
            .map(|line| line.text)
            .collect()
    }

    #[test]
    fn the_tail_counts_lines_of_its_source() {
        assert_eq!(
            seen(From::Tail(3), Some(Source::Container)),
            ["0", "2", "3"]
        );
        assert_eq!(seen(From::Tail(2), None), ["2", "3"]);
        assert_eq!(seen(From::Tail(0), None), [""; 0]);
    }

    #[test]
    fn a_stream_resumes_after_the_event_it_names() {
        let from = Log::parse_id("1970-01-01T00:00:01Z/000000000002").expect("an id");
        assert_eq!(seen(from, None), ["2", "3"]);
        assert_eq!(
            seen(Log::parse_id("1970-01-01T00:00:02Z").expect("a time"), None),
            ["3"]
        );
        assert_eq!(Log::parse_id("yesterday"), None);
    }
}

//! A pod's log as it is being written: one long answer of server-sent events, kept open while somebody goes on asking.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::FutureExt;
use reqwest::Response;
use tokio::time::timeout;

use super::{answer, answer::Act, sse::Parser, wire};
use crate::provider::{Error, LogLine, PodId};

/// The most that RunPod gives at once.
pub(super) const LONGEST_TAIL: u32 = 5_000;
/// Until the head of the answer is there: it needs the pod's machine to answer.
pub(super) const HEAD: Duration = Duration::from_secs(15);
/// How long the first line of what was written before may take; an empty log sends nothing at all.
const FIRST: Duration = Duration::from_millis(1_000);
/// A pause after which everything written before has arrived: it comes in one burst.
const QUIET: Duration = Duration::from_millis(200);
/// A burst does not take longer, unless the pod writes faster than we read; then what is there is enough.
const BURST: Duration = Duration::from_secs(10);
/// A log that nobody has asked for in this time is closed: its pod is pinned, or gone.
const IDLE: Duration = Duration::from_secs(30);
/// After so long a stream is asked for anew: one that went silent somewhere between looks like a pod that writes nothing.
const RENEW: Duration = Duration::from_secs(60);

/// Lines of a container's log, the old ones first, then new ones as they are written.
#[derive(Debug)]
pub struct LogStream {
    response: Response,
    parser: Parser,
    ready: VecDeque<LogLine>,
}

impl LogStream {
    pub(super) fn new(response: Response) -> Self {
        Self {
            response,
            parser: Parser::default(),
            ready: VecDeque::new(),
        }
    }

    /// The next line, however long it takes; `None` when the provider ends the log. Can be dropped and asked again without loss.
    pub async fn next(&mut self) -> Result<Option<LogLine>, Error> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            let chunk = self
                .response
                .chunk()
                .await
                .map_err(|error| answer::lost(Act::Read, &answer::cause(&error)))?;
            let Some(chunk) = chunk else { return Ok(None) };
            let events = self.parser.push(&chunk);
            self.ready.extend(
                events
                    .iter()
                    .filter_map(|event| wire::log_line(&event.data)),
            );
        }
    }
}

/// The logs that are being asked for, each followed by one request.
#[derive(Debug, Default)]
pub(super) struct OpenLogs(Mutex<HashMap<PodId, Slot>>);

#[derive(Debug, Clone)]
struct Slot {
    asked: Instant,
    log: Arc<tokio::sync::Mutex<Option<OpenLog>>>,
}

/// A stream, and what it has said so far.
#[derive(Debug)]
pub(super) struct OpenLog {
    stream: LogStream,
    opened: Instant,
    tail: usize,
    lines: VecDeque<LogLine>,
}

impl OpenLogs {
    /// The place of this pod's log, empty when it is not open. Whoever holds its lock is the only one to read.
    pub(super) fn slot(&self, id: &PodId) -> Arc<tokio::sync::Mutex<Option<OpenLog>>> {
        let mut logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = logs.entry(id.clone()).or_insert_with(|| Slot {
            asked: Instant::now(),
            log: Arc::default(),
        });
        slot.asked = Instant::now();
        slot.log.clone()
    }

    pub(super) fn close(&self, id: &PodId) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
    }

    pub(super) fn close_idle(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, slot| slot.asked.elapsed() < IDLE);
    }
}

impl OpenLog {
    pub(super) fn new(stream: LogStream, tail: u32) -> Self {
        Self {
            stream,
            opened: Instant::now(),
            tail: tail.min(LONGEST_TAIL) as usize,
            lines: VecDeque::new(),
        }
    }

    /// Whether it began early enough to answer for so many lines, and lately enough to be believed.
    pub(super) fn reaches(&self, tail: u32) -> bool {
        tail.min(LONGEST_TAIL) as usize <= self.tail && self.opened.elapsed() < RENEW
    }

    /// Waits for what was written before it was opened.
    pub(super) async fn backlog(&mut self) {
        let burst = async {
            let mut pause = FIRST;
            // The end of the log, a broken connection and a pause all end the burst; the lines so far are true.
            while let Ok(Ok(Some(line))) = timeout(pause, self.stream.next()).await {
                self.lines.push_back(line);
                pause = QUIET;
            }
        };
        let _ = timeout(BURST, burst).await;
    }

    /// Takes what has arrived, without waiting; false when the stream is over, for whatever reason.
    pub(super) fn arrived(&mut self) -> bool {
        loop {
            match self.stream.next().now_or_never() {
                None => return true,
                Some(Ok(Some(line))) => self.lines.push_back(line),
                Some(Ok(None) | Err(_)) => return false,
            }
            let surplus = self.lines.len().saturating_sub(self.tail);
            self.lines.drain(..surplus);
        }
    }

    /// The last lines.
    pub(super) fn last(&self, tail: u32) -> Vec<LogLine> {
        self.lines
            .iter()
            .skip(self.lines.len().saturating_sub(tail as usize))
            .cloned()
            .collect()
    }
}

//! A pod's log as it is being written: one long answer of server-sent events.

use std::{collections::VecDeque, time::Duration};

use reqwest::Response;
use tokio::time::timeout;

use super::{answer, answer::Act, sse::Parser, wire};
use crate::provider::{Error, LogLine};

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

    /// What was written before it was asked for.
    pub(super) async fn backlog(&mut self) -> Vec<LogLine> {
        let mut lines = Vec::new();
        let burst = async {
            let mut pause = FIRST;
            // The end of the log, a broken connection and a pause all end the burst; the lines so far are true.
            while let Ok(Ok(Some(line))) = timeout(pause, self.next()).await {
                lines.push(line);
                pause = QUIET;
            }
        };
        let _ = timeout(BURST, burst).await;
        lines
    }
}

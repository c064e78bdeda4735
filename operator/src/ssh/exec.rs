//! One command, its input, and all that it said, within bounds.

use std::convert::Infallible;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::channel::{End, Event};
use super::connect::{Connection, Error};

/// What a command may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// From start to end.
    pub time: Duration,
    /// Bytes of stdout.
    pub stdout: usize,
}

impl Bounds {
    /// For commands that look and answer: a few seconds where a host swaps.
    pub const SHORT: Self = Self {
        time: Duration::from_secs(30),
        stdout: 256 * 1024,
    };
}

/// stderr is for people; its end says what happened.
const STDERR_LIMIT: usize = 16 * 1024;

/// What a command said and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; 255 after a signal.
    pub status: u32,
    /// All of its stdout.
    pub stdout: Vec<u8>,
    /// The end of its stderr.
    pub stderr: Vec<u8>,
}

impl Connection {
    /// Runs a command with the given stdin and waits for its end. The command is a constant of ours: parameters go to stdin.
    ///
    /// # Errors
    /// [`Error::TooSlow`] and [`Error::TooMuch`] at its bounds; [`Error::Ended`] when the connection went first.
    pub async fn exec(
        &self,
        command: &str,
        stdin: &[u8],
        bounds: &Bounds,
    ) -> Result<Output, Error> {
        timeout(bounds.time, self.run(command, stdin, bounds.stdout))
            .await
            .map_err(|_elapsed| Error::TooSlow("a command on the host"))?
    }

    async fn run(&self, command: &str, stdin: &[u8], limit: usize) -> Result<Output, Error> {
        // Somewhat more than the limit, so that it is we who notice and say so.
        let mut stream = self.start_with_limit(command, limit + (1 << 20)).await?;
        let mut output = Output {
            status: 255,
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        let (mut events, sink) = stream.halves();
        let mut feeding = std::pin::pin!(feed(sink, stdin));
        let mut exited = false;
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                never = &mut feeding => match never {},
            };
            match event {
                Some(Event::Data(data)) => {
                    if output.stdout.len() + data.len() > limit {
                        return Err(Error::TooMuch(limit));
                    }
                    output.stdout.extend_from_slice(&data);
                }
                Some(Event::Stderr(data)) => {
                    output.stderr.extend_from_slice(&data);
                    let surplus = output.stderr.len().saturating_sub(STDERR_LIMIT);
                    output.stderr.drain(..surplus);
                }
                Some(Event::Eof) => {}
                Some(Event::Exit(status)) => {
                    output.status = status;
                    exited = true;
                }
                Some(Event::End(End::Overflowed)) => return Err(Error::TooMuch(limit)),
                Some(Event::End(End::Refused)) => return Err(Error::Refused("the command")),
                Some(Event::End(End::Finished)) if exited => return Ok(output),
                Some(Event::End(End::Finished | End::Lost)) | None => return Err(Error::Ended),
            }
        }
    }
}

/// Writes stdin, closes it, and then waits for ever. A command that ends without reading all of it is no failure of ours: its
/// status tells.
async fn feed(sink: &mut (dyn AsyncWrite + Send + Unpin), stdin: &[u8]) -> Infallible {
    let _ = sink.write_all(stdin).await;
    let _ = sink.shutdown().await;
    std::future::pending().await
}

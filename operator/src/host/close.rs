//! Ends the gateways' access on the host: this is how an endpoint is closed for gateways that nobody else can reach.

use std::time::Duration;

use super::answer::{self, Answer, Parameters, Unreadable};
use super::scripts::{self, Script, unreadable};
use super::{Error, Incarnation};
use crate::ssh::Connection;

/// What close saw afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// The gateways' key is not on the host (any more).
    pub key_gone: bool,
    /// Processes of the gateways that are still there; 0 when closed.
    pub left: u64,
}

impl Closed {
    /// Whether no gateway can use the host any more.
    pub fn complete(self) -> bool {
        self.key_gone && self.left == 0
    }
}

/// Processes are asked to end, then killed; the script itself gives up after 15 seconds.
const CLOSE_TIME: Duration = Duration::from_secs(30);

/// Takes the gateways' key off the host and ends their connections. Doing it again changes nothing.
///
/// # Errors
/// When the host could not be asked, or answers something unreadable. Nothing is known then.
pub async fn close(connection: &Connection, of: &Incarnation) -> Result<Closed, Error> {
    let parameters = Parameters::default();
    let answer = scripts::run(connection, Script::Close, of, parameters, CLOSE_TIME).await?;
    parse(&answer).map_err(unreadable(Script::Close))
}

pub(super) fn parse(bytes: &[u8]) -> Result<Closed, Unreadable> {
    let answer = Answer::parse(bytes)?;
    Ok(Closed {
        key_gone: answer.parsed("key_gone", answer::yes_or_no)?,
        left: answer.parsed("left", answer::number)?,
    })
}

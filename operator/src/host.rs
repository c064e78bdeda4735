//! The remote side: what runs on a rented pod, and what may be believed of it.
//!
//! Everything here speaks to a host whose key is pinned; it knows neither Kubernetes nor the provider, save for ids.
//! Remote commands are constant strings, parameters go to their stdin as `name base64` lines, and answers are lines
//! that are parsed strictly: a host is foreign input. The scripts find their two roots in `SRCHAT_ROOT` and
//! `SRCHAT_MEMORY`, which boot writes into its sshd's configuration, so nothing here needs to know them.

pub mod answer;
pub mod boot;
pub mod clear;
pub mod close;
pub mod deploy;
pub mod engine;
pub mod gate;
pub mod image;
mod scripts;
pub mod visit;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::clear::clear;
pub use self::close::close;
pub use self::deploy::deploy;
pub use self::visit::visit;
pub use crate::ssh::Target;

/// The user of the controller's key on a host.
pub const CONTROLLER_USER: &str = "root";
/// The user of the gateways' key on a host.
pub const GATEWAY_USER: &str = "srchat-gw";

/// Which attempt of which session a host was rented for. Every script compares it with the marker in its roots and
/// refuses to touch anything when they differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incarnation {
    /// The installation's id.
    pub installation: String,
    /// The session's UID.
    pub uid: String,
    /// The attempt's number.
    pub attempt: u64,
}

/// Names one start of a host's container: 32 lower-case hex characters, made anew at every boot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BootId(String);

impl BootId {
    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Not 32 lower-case hex characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a boot id")]
pub struct NotABootId;

impl FromStr for BootId {
    type Err = NotABootId;
    fn from_str(text: &str) -> Result<Self, NotABootId> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 32 && text.bytes().all(hex) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotABootId)
        }
    }
}

impl TryFrom<String> for BootId {
    type Error = NotABootId;
    fn try_from(text: String) -> Result<Self, NotABootId> {
        text.parse()
    }
}

impl From<BootId> for String {
    fn from(id: BootId) -> Self {
        id.0
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where uploads live on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Medium {
    /// In `/dev/shm`: never on a disk of the provider's, save for swap.
    Memory,
    /// In a folder of the container's disk, because memory had less than 256 MiB to spare.
    Disk,
}

/// Where a host stands between trust and service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// Nothing has been deployed yet.
    Connecting,
    /// The engine is looked for, or installed.
    Installing,
    /// The weights come from the Hub.
    Downloading,
    /// The engine has the weights and loads them.
    Loading,
    /// The engine answers.
    Serving,
}

/// Every script as it runs on a host, by name: the start command's, what is uploaded, and what uploads it. For checkers of shell.
pub fn scripts() -> impl Iterator<Item = (&'static str, &'static str)> {
    let beside = [("boot", boot::SCRIPT), ("upload", scripts::UPLOAD)];
    scripts::FILES.into_iter().chain(beside)
}

/// What a conversation with a host can end in, besides its answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection failed, or ended, or took too long: nothing was learned.
    #[error("the host could not be asked")]
    Ssh(#[source] crate::ssh::Error),
    /// A script of ours said no.
    #[error("{script} failed on the host with status {status}: {said}")]
    Failed {
        /// The script's name.
        script: &'static str,
        /// Its exit status.
        status: u32,
        /// The end of what it wrote to stderr, on one line, at most 500 characters. Scripts never write secrets there.
        said: String,
    },
    /// What came back is not what the script says when it is the one we sent.
    #[error("{script} answered something unreadable")]
    Unreadable {
        /// The script's name.
        script: &'static str,
        /// What was wrong with it.
        #[source]
        source: answer::Unreadable,
    },
}

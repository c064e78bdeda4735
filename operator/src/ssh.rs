//! All that speaks SSH: connections to hosts whose key is pinned, commands, forwards and files over them.

mod channel;
mod connect;
mod exec;
mod key;
mod link;
mod sftp;

pub use channel::Stream;
pub use connect::{Connection, Error, Target, Tuning, connect, connect_tuned};
pub use exec::{Bounds, Output};
pub use key::{HostKey, KeyError, KeyPair, openssh_pem};
pub use link::Link;
pub use sftp::{Entry, EntryKind, Moved, Progress, Range, Sftp, SftpError};

//! Files over SFTP: pipelined, so that distance costs a round trip once and not for every block.

mod read;
mod write;

use std::sync::Arc;
use std::time::{Duration, Instant};

use russh_sftp::client::RawSftpSession;
use russh_sftp::client::error::Error as RawError;
use russh_sftp::extensions;
use russh_sftp::protocol::{FileAttributes, StatusCode};
use tokio::time::timeout;

use super::connect::{Connection, Error};

/// What one request carries: OpenSSH's sftp-server takes packets of 256 KiB, headers included.
const BLOCK: usize = 255 * 1024;
/// Blocks asked for at once, for each of the channels that the distance is worth: 4 MiB near, where more only pushes the data out of
/// the caches.
const ASKED_FOR: usize = 16;
/// And at most: 64 of them are 16 MiB, enough for 100 ms at a gigabit.
const ASKED_FOR_MAX: usize = 64;
/// sshd lets 2 MiB be on the way in one channel: in 5 ms that is 400 MiB/s. Each 5 ms more want one channel more.
const PER_CHANNEL: Duration = Duration::from_millis(5);
/// Beyond this, more channels cost more to open than they carry; each is a process on the host as well.
const STRIPES_MAX: usize = 8;
/// Unread bytes of the channel: the answers to all requests on the way, with room.
const CHANNEL_LIMIT: usize = 64 * 1024 * 1024;
/// A request waits behind all that is on the way before it, which on a slow line takes minutes; dead lines are found by keepalive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
/// Starting the server is one exec and one round trip.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a file operation failed.
#[derive(Debug, thiserror::Error)]
pub enum SftpError {
    /// The connection failed.
    #[error("the host could not be asked")]
    Ssh(#[from] Error),
    /// There is no such file.
    #[error("no such file")]
    NotFound,
    /// The host does not permit it.
    #[error("not permitted")]
    Denied,
    /// The host said no for another reason: no space, not a folder, not empty.
    #[error("the host refused: {0}")]
    Refused(String),
    /// The server broke the protocol, or the connection ended in the middle.
    #[error("the transfer broke off: {0}")]
    Broken(String),
    /// Our own end of the transfer failed.
    #[error("the local end failed")]
    Local(#[source] std::io::Error),
}

impl From<RawError> for SftpError {
    fn from(error: RawError) -> Self {
        match error {
            RawError::Status(status) => match status.status_code {
                StatusCode::NoSuchFile => Self::NotFound,
                StatusCode::PermissionDenied => Self::Denied,
                _other => Self::Refused(status.error_message),
            },
            other => Self::Broken(other.to_string()),
        }
    }
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name in its folder; foreign input.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes.
    pub size: u64,
    /// Last change, Unix seconds.
    pub modified: u32,
}

/// What a path is. Links are told apart, and never followed by listings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A plain file.
    File,
    /// A folder.
    Folder,
    /// A link, device or other thing, none of which we make.
    Other,
}

/// What was moved: bytes, and the SHA-256 of exactly these bytes in hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Bytes.
    pub bytes: u64,
    /// Their SHA-256.
    pub sha256: String,
}

/// Called with the bytes moved so far, after every block.
pub type Progress<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// How the server is started; for a transfer over several channels, once more for each of them.
#[derive(Clone)]
enum Server {
    /// As sshd has it.
    Subsystem,
    /// By a command, for keys that are bound to one.
    Command(String),
}

impl Server {
    async fn start(&self, connection: &Connection) -> Result<Arc<RawSftpSession>, Error> {
        let stream = match self {
            Self::Subsystem => connection.start_subsystem("sftp", CHANNEL_LIMIT).await?,
            Self::Command(command) => connection.start_with_limit(command, CHANNEL_LIMIT).await?,
        };
        let config = russh_sftp::client::Config {
            request_timeout_secs: REQUEST_TIMEOUT.as_secs(),
            ..russh_sftp::client::Config::default()
        };
        Ok(Arc::new(RawSftpSession::new_with_config(stream, config)))
    }
}

/// An SFTP session.
pub struct Sftp {
    raw: Arc<RawSftpSession>,
    connection: Connection,
    server: Server,
    read_block: usize,
    write_block: usize,
    /// As the host's first answer was seen to take.
    round_trip: Duration,
}

impl std::fmt::Debug for Sftp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sftp")
    }
}

impl Connection {
    /// Starts SFTP as the subsystem that sshd has for it.
    ///
    /// # Errors
    /// When the host has none.
    pub async fn sftp(&self) -> Result<Sftp, SftpError> {
        Sftp::start(self, Server::Subsystem).await
    }

    /// Starts SFTP by a command, for keys that are bound to one.
    ///
    /// # Errors
    /// When the command does not speak SFTP.
    pub async fn sftp_by(&self, command: &str) -> Result<Sftp, SftpError> {
        Sftp::start(self, Server::Command(command.to_owned())).await
    }
}

impl Sftp {
    async fn start(connection: &Connection, server: Server) -> Result<Self, SftpError> {
        let raw = server.start(connection).await?;
        let greeted = async {
            let begun = Instant::now();
            let version = raw.init().await?;
            if version.extensions.contains_key(extensions::LIMITS) {
                // The first answer waits for a process to start; this one for the way alone.
                let begun = Instant::now();
                let limits = raw.limits().await?;
                return Ok((limits.max_read_len, limits.max_write_len, begun.elapsed()));
            }
            Ok::<_, SftpError>((0, 0, begun.elapsed()))
        };
        let (read, write, round_trip) = timeout(START_TIMEOUT, greeted)
            .await
            .map_err(|_elapsed| Error::TooSlow("starting SFTP"))??;
        Ok(Self {
            raw,
            connection: connection.clone(),
            server,
            read_block: block(read),
            write_block: block(write),
            round_trip,
        })
    }

    /// Over how many channels of the connection a large file is best written: one near, several far.
    pub fn stripes(&self) -> usize {
        stripes(self.round_trip)
    }

    /// What is at a path, a link not followed.
    ///
    /// # Errors
    /// [`SftpError::NotFound`] and the others.
    pub async fn look(&self, path: &str) -> Result<Entry, SftpError> {
        let attrs = self.raw.lstat(path).await?.attrs;
        let name = path.rsplit('/').next().unwrap_or(path).to_owned();
        Ok(entry(name, &attrs))
    }

    /// What is in a folder, at most `limit` entries, without `.` and `..`.
    ///
    /// # Errors
    /// [`SftpError::Refused`] when there are more.
    pub async fn list(&self, folder: &str, limit: usize) -> Result<Vec<Entry>, SftpError> {
        let handle = self.raw.opendir(folder).await?.handle;
        let listed = self.read_folder(&handle, limit).await;
        self.raw.close(handle).await?;
        listed
    }

    async fn read_folder(&self, handle: &str, limit: usize) -> Result<Vec<Entry>, SftpError> {
        let mut entries = Vec::new();
        loop {
            let names = match self.raw.readdir(handle).await {
                Ok(names) => names,
                Err(RawError::Status(status)) if status.status_code == StatusCode::Eof => {
                    return Ok(entries);
                }
                Err(error) => return Err(error.into()),
            };
            for file in names.files {
                if file.filename != "." && file.filename != ".." {
                    entries.push(entry(file.filename, &file.attrs));
                }
            }
            if entries.len() > limit {
                return Err(SftpError::Refused(format!("more than {limit} entries")));
            }
        }
    }

    /// Makes a folder; one that is there already is as good.
    ///
    /// # Errors
    /// When something else is there, or a parent is missing.
    pub async fn make_folder(&self, path: &str) -> Result<(), SftpError> {
        let attrs = FileAttributes {
            permissions: Some(0o700),
            ..FileAttributes::empty()
        };
        match self.raw.mkdir(path, attrs).await {
            Ok(_) => Ok(()),
            Err(error) => match self.look(path).await {
                Ok(entry) if entry.kind == EntryKind::Folder => Ok(()),
                Ok(_) | Err(_) => Err(error.into()),
            },
        }
    }

    /// Removes a file.
    ///
    /// # Errors
    /// [`SftpError::NotFound`] and the others.
    pub async fn remove(&self, path: &str) -> Result<(), SftpError> {
        self.raw.remove(path).await?;
        Ok(())
    }

    /// Removes an empty folder.
    ///
    /// # Errors
    /// [`SftpError::Refused`] when it is not empty.
    pub async fn remove_folder(&self, path: &str) -> Result<(), SftpError> {
        self.raw.rmdir(path).await?;
        Ok(())
    }

    /// Puts a file in the place of another, in one step: whoever reads sees the old one or the new one.
    ///
    /// # Errors
    /// Those of the host.
    pub async fn replace(&self, from: &str, to: &str) -> Result<(), SftpError> {
        // SFTP's own rename refuses to replace; OpenSSH has this beside it: two strings.
        let mut data = Vec::with_capacity(from.len() + to.len() + 8);
        for path in [from, to] {
            let length = u32::try_from(path.len())
                .map_err(|_error| SftpError::Refused("the name is too long".to_owned()))?;
            data.extend_from_slice(&length.to_be_bytes());
            data.extend_from_slice(path.as_bytes());
        }
        match self.raw.extended("posix-rename@openssh.com", data).await? {
            russh_sftp::protocol::Packet::Status(status)
                if status.status_code == StatusCode::Ok =>
            {
                Ok(())
            }
            russh_sftp::protocol::Packet::Status(status) => Err(RawError::Status(status).into()),
            _other => Err(SftpError::Broken("an unexpected answer".to_owned())),
        }
    }
}

/// Which part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first byte.
    pub offset: u64,
    /// How many; all that follow when `None`.
    pub length: Option<u64>,
}

impl Range {
    /// The whole file.
    pub const ALL: Self = Self {
        offset: 0,
        length: None,
    };
}

fn stripes(round_trip: Duration) -> usize {
    let worth = round_trip.as_micros().div_ceil(PER_CHANNEL.as_micros());
    usize::try_from(worth)
        .unwrap_or(STRIPES_MAX)
        .clamp(1, STRIPES_MAX)
}

/// The server's limit, where it tells one that is lower than ours.
fn block(limit: u64) -> usize {
    match usize::try_from(limit) {
        Ok(limit) if limit > 0 => limit.min(BLOCK),
        Ok(_) | Err(_) => 32 * 1024,
    }
}

fn entry(name: String, attrs: &FileAttributes) -> Entry {
    // The kind is in the mode's upper bits; an entry without a mode is nothing that we make.
    let kind = match attrs.permissions.map(|mode| mode & 0o170_000) {
        Some(0o100_000) => EntryKind::File,
        Some(0o040_000) => EntryKind::Folder,
        Some(_) | None => EntryKind::Other,
    };
    Entry {
        name,
        kind,
        size: attrs.size.unwrap_or(0),
        modified: attrs.mtime.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_further_a_host_the_more_channels_carry_to_it() {
        let of = |milliseconds| stripes(Duration::from_millis(milliseconds));
        assert_eq!(
            [0, 1, 5, 6, 20, 40, 100, 5000].map(of),
            [1, 1, 1, 2, 4, 8, 8, 8]
        );
    }
}

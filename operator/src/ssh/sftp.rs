//! Files over SFTP: pipelined, so that distance costs a round trip once and not for every block.

use std::collections::VecDeque;
use std::time::Duration;

use futures::stream::{FuturesOrdered, FuturesUnordered, StreamExt};
use russh_sftp::client::RawSftpSession;
use russh_sftp::client::error::Error as RawError;
use russh_sftp::extensions;
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::connect::{Connection, Error};

/// What one request carries: OpenSSH's sftp-server takes packets of 256 KiB, headers included.
const BLOCK: usize = 255 * 1024;
/// Requests on the way at once: 64 of them are 16 MiB, enough for 100 ms at a gigabit.
const IN_FLIGHT: usize = 64;
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

/// An SFTP session.
pub struct Sftp {
    raw: RawSftpSession,
    read_block: usize,
    write_block: usize,
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
        let stream = self.start_subsystem("sftp", CHANNEL_LIMIT).await?;
        Sftp::start(stream).await
    }

    /// Starts SFTP by a command, for keys that are bound to one.
    ///
    /// # Errors
    /// When the command does not speak SFTP.
    pub async fn sftp_by(&self, command: &str) -> Result<Sftp, SftpError> {
        let stream = self.start_with_limit(command, CHANNEL_LIMIT).await?;
        Sftp::start(stream).await
    }
}

impl Sftp {
    async fn start(stream: super::Stream) -> Result<Self, SftpError> {
        let config = russh_sftp::client::Config {
            request_timeout_secs: REQUEST_TIMEOUT.as_secs(),
            ..russh_sftp::client::Config::default()
        };
        let raw = RawSftpSession::new_with_config(stream, config);
        let greeted = async {
            let version = raw.init().await?;
            if version.extensions.contains_key(extensions::LIMITS) {
                let limits = raw.limits().await?;
                return Ok((limits.max_read_len, limits.max_write_len));
            }
            Ok::<_, SftpError>((0, 0))
        };
        let (read, write) = timeout(START_TIMEOUT, greeted)
            .await
            .map_err(|_elapsed| Error::TooSlow("starting SFTP"))??;
        Ok(Self {
            raw,
            read_block: block(read),
            write_block: block(write),
        })
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

    /// Writes all of `source` to a file from `offset` on, which is where a broken-off transfer had come to; what lay beyond
    /// is cut off when `offset` is 0. Write to a name of your own and [`replace`](Self::replace) it when verified.
    ///
    /// # Errors
    /// [`SftpError::Local`] when `source` fails. What was written stays, to be resumed.
    pub async fn write(
        &self,
        path: &str,
        offset: u64,
        source: impl AsyncRead + Unpin,
        progress: Progress<'_>,
    ) -> Result<Moved, SftpError> {
        let mut flags = OpenFlags::WRITE | OpenFlags::CREATE;
        if offset == 0 {
            flags |= OpenFlags::TRUNCATE;
        }
        let attrs = FileAttributes {
            permissions: Some(0o600),
            ..FileAttributes::empty()
        };
        let handle = self.raw.open(path, flags, attrs).await?.handle;
        let written = self.write_blocks(&handle, offset, source, progress).await;
        // A server may tell of a full disk only now.
        let closed = self.raw.close(handle).await;
        let moved = written?;
        closed?;
        Ok(moved)
    }

    async fn write_blocks(
        &self,
        handle: &str,
        mut offset: u64,
        mut source: impl AsyncRead + Unpin,
        progress: Progress<'_>,
    ) -> Result<Moved, SftpError> {
        let mut sum = Sha256::new();
        let mut done = 0;
        let mut on_the_way = FuturesUnordered::new();
        loop {
            let block = fill(&mut source, self.write_block).await?;
            let last = block.len() < self.write_block;
            if !block.is_empty() {
                sum.update(&block);
                let at = offset;
                offset += block.len() as u64;
                on_the_way.push(async move {
                    let length = block.len() as u64;
                    self.raw.write(handle, at, block).await.map(|_| length)
                });
            }
            while last || on_the_way.len() >= IN_FLIGHT {
                let Some(written) = on_the_way.next().await else {
                    break;
                };
                done += written?;
                progress(done);
            }
            if last {
                return Ok(Moved {
                    bytes: done,
                    sha256: hex::encode(sum.finalize()),
                });
            }
        }
    }

    /// Reads a file from `offset` on, `length` bytes of it or all, into `sink`.
    ///
    /// # Errors
    /// [`SftpError::Local`] when `sink` fails, [`SftpError::Broken`] when the file ends before `length`.
    pub async fn read(
        &self,
        path: &str,
        range: Range,
        sink: impl AsyncWrite + Unpin,
        progress: Progress<'_>,
    ) -> Result<Moved, SftpError> {
        let handle = self
            .raw
            .open(path, OpenFlags::READ, FileAttributes::empty())
            .await?
            .handle;
        let read = self.read_blocks(&handle, range, sink, progress).await;
        self.raw.close(handle).await?;
        read
    }

    async fn read_blocks(
        &self,
        handle: &str,
        range: Range,
        mut sink: impl AsyncWrite + Unpin,
        progress: Progress<'_>,
    ) -> Result<Moved, SftpError> {
        let size = self.raw.fstat(handle).await?.attrs.size.unwrap_or(0);
        let end = match range.length {
            Some(length) => range.offset.saturating_add(length),
            None => size,
        };
        if end > size {
            return Err(SftpError::Refused("the file is shorter".to_owned()));
        }
        let mut sum = Sha256::new();
        let mut done = 0;
        let mut blocks: VecDeque<(u64, usize)> = VecDeque::new();
        let mut next = range.offset;
        let mut on_the_way = FuturesOrdered::new();
        loop {
            while next < end && blocks.len() < IN_FLIGHT {
                let length = usize::try_from(end - next)
                    .unwrap_or(usize::MAX)
                    .min(self.read_block);
                blocks.push_back((next, length));
                on_the_way.push_back(self.read_whole(handle, next, length));
                next += length as u64;
            }
            let Some(block) = on_the_way.next().await else {
                break;
            };
            blocks.pop_front();
            let block = block?;
            sum.update(&block);
            sink.write_all(&block).await.map_err(SftpError::Local)?;
            done += block.len() as u64;
            progress(done);
        }
        sink.flush().await.map_err(SftpError::Local)?;
        Ok(Moved {
            bytes: done,
            sha256: hex::encode(sum.finalize()),
        })
    }

    /// A server may answer with less than was asked for.
    async fn read_whole(
        &self,
        handle: &str,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, SftpError> {
        let mut block = Vec::new();
        while block.len() < length {
            let at = offset + block.len() as u64;
            let wanted = u32::try_from(length - block.len()).unwrap_or(u32::MAX);
            let data = match self.raw.read(handle, at, wanted).await {
                Ok(data) => data.data,
                Err(RawError::Status(status)) if status.status_code == StatusCode::Eof => {
                    return Err(SftpError::Broken("the file became shorter".to_owned()));
                }
                Err(error) => return Err(error.into()),
            };
            if data.is_empty() || data.len() > length - block.len() {
                return Err(SftpError::Broken(
                    "an answer of the wrong length".to_owned(),
                ));
            }
            if block.is_empty() {
                block = data;
            } else {
                block.extend_from_slice(&data);
            }
        }
        Ok(block)
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

/// The server's limit, where it tells one that is lower than ours.
fn block(limit: u64) -> usize {
    match usize::try_from(limit) {
        Ok(limit) if limit > 0 => limit.min(BLOCK),
        Ok(_) | Err(_) => 32 * 1024,
    }
}

/// Reads until the block is full or the source has ended.
async fn fill(source: &mut (impl AsyncRead + Unpin), size: usize) -> Result<Vec<u8>, SftpError> {
    let mut block = Vec::with_capacity(size);
    let mut limited = source.take(size as u64);
    limited
        .read_to_end(&mut block)
        .await
        .map_err(SftpError::Local)?;
    Ok(block)
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

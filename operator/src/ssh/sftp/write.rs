//! Writing: blocks on the way at once, over one channel or several. sshd lets 2 MiB be on the way in one channel, whatever the
//! distance; several channels of one connection carry several times that.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use russh_sftp::client::RawSftpSession;
use russh_sftp::client::error::Error as RawError;
use russh_sftp::protocol::{FileAttributes, OpenFlags, Status};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Connection, Error, Moved, Progress, START_TIMEOUT, Server, Sftp, SftpError};

/// Blocks on the way at once in one channel: the nine that fill sshd's window, and some that are ready when it opens.
const IN_FLIGHT: usize = 12;
/// A transfer that has failed settles what is on the way within this, where the connection lives; else what lies there is told by
/// its SHA-256 to be wrong, and sent anew.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

impl Sftp {
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
        self.write_over(1, path, offset, source, progress).await
    }

    /// As [`write`](Self::write), over so many channels of the connection. The first blocks do not wait for the others to open, which
    /// takes round trips; one that does not open makes the transfer slower, not impossible. After a failure the file is as long as
    /// all that was written without a gap.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn write_over(
        &self,
        channels: usize,
        path: &str,
        offset: u64,
        source: impl AsyncRead + Unpin,
        progress: Progress<'_>,
    ) -> Result<Moved, SftpError> {
        let mut flags = OpenFlags::WRITE | OpenFlags::CREATE;
        if offset == 0 {
            flags |= OpenFlags::TRUNCATE;
        }
        let handle = self.raw.open(path, flags, ours()).await?.handle;
        let mut files = vec![Arc::new(Opened {
            raw: Arc::clone(&self.raw),
            handle,
        })];
        // Tasks, because a channel that nobody waits for any more is closed only by whoever sees it open.
        let others = (1..channels).map(|_| {
            let (connection, server) = (self.connection.clone(), self.server.clone());
            tokio::spawn(open_beside(connection, server, path.to_owned()))
        });
        let others = others.collect();
        let size = self.write_block;
        let written = write_blocks(&mut files, others, (offset, size), source, progress).await;
        // A server may tell of a full disk only now.
        let closing = files.iter().map(|file| file.raw.close(file.handle.clone()));
        let closed = try_join_all(closing).await;
        let moved = written?;
        closed?;
        Ok(moved)
    }
}

/// Opens a file that is there over a channel of its own, with nothing waited for that need not be.
async fn open_beside(
    connection: Connection,
    server: Server,
    path: String,
) -> Result<Arc<Opened>, SftpError> {
    let opened = async {
        let raw = server.start(&connection).await?;
        let file = raw.open(path, OpenFlags::WRITE, ours());
        let (_version, file) = tokio::try_join!(biased; raw.init(), file)?;
        let handle = file.handle;
        Ok(Arc::new(Opened { raw, handle }))
    };
    timeout(START_TIMEOUT, opened)
        .await
        .map_err(|_elapsed| Error::TooSlow("starting SFTP"))?
}

/// A file over one channel.
struct Opened {
    raw: Arc<RawSftpSession>,
    handle: String,
}

fn ours() -> FileAttributes {
    FileAttributes {
        permissions: Some(0o600),
        ..FileAttributes::empty()
    }
}

/// One more channel on its way.
type Opening = JoinHandle<Result<Arc<Opened>, SftpError>>;

/// One block on the way: which channel carries it, where it begins, its length.
struct Block {
    channel: usize,
    at: u64,
    length: u64,
}

async fn write_blocks(
    files: &mut Vec<Arc<Opened>>,
    mut others: FuturesUnordered<Opening>,
    (offset, size): (u64, usize),
    mut source: impl AsyncRead + Unpin,
    progress: Progress<'_>,
) -> Result<Moved, SftpError> {
    let mut sum = Sha256::new();
    let mut next = offset;
    let mut seen = Seen {
        whole: Whole::from(offset),
        load: vec![0],
        progress,
    };
    let mut on_the_way = FuturesUnordered::new();
    let moving = async {
        loop {
            let block = {
                let mut filling = pin!(fill(&mut source, size));
                loop {
                    // What is on the way first: being polled is what sends it.
                    tokio::select! {
                        biased;
                        Some(answer) = on_the_way.next() => seen.take(answer)?,
                        Some(opened) = others.next() => seen.join(files, opened),
                        block = &mut filling => break block?,
                    }
                }
            };
            let last = block.len() < size;
            if !block.is_empty() {
                sum.update(&block);
                let channel = least(&seen.load);
                seen.load[channel] += 1;
                let about = Block {
                    channel,
                    at: next,
                    length: block.len() as u64,
                };
                next += about.length;
                let file = Arc::clone(&files[channel]);
                on_the_way.push(async move {
                    let written = file.raw.write(&file.handle, about.at, block).await;
                    (about, written)
                });
            }
            while last || on_the_way.len() >= IN_FLIGHT * files.len() {
                tokio::select! {
                    biased;
                    Some(answer) = on_the_way.next() => seen.take(answer)?,
                    Some(opened) = others.next(), if !last => seen.join(files, opened),
                    else => return Ok::<_, SftpError>(()),
                }
            }
        }
    };
    let moved = moving.await;
    if let Err(error) = moved {
        let settled = async {
            while let Some(answer) = on_the_way.next().await {
                // What fails here leaves a gap, which is cut off below.
                let _ = seen.take(answer);
            }
            if seen.whole.end < next {
                let attrs = FileAttributes {
                    size: Some(seen.whole.end),
                    ..FileAttributes::empty()
                };
                // Refused where the connection has gone; the checksum of the whole tells, then.
                let _ = files[0].raw.fsetstat(&files[0].handle, attrs).await;
            }
        };
        let _ = timeout(SETTLE_TIMEOUT, settled).await;
        return Err(error);
    }
    Ok(Moved {
        bytes: seen.whole.bytes,
        sha256: hex::encode(sum.finalize()),
    })
}

/// What has been answered so far.
struct Seen<'a> {
    whole: Whole,
    /// Blocks on the way, by channel.
    load: Vec<usize>,
    progress: Progress<'a>,
}

impl Seen<'_> {
    /// One more channel to write over, or not.
    fn join(&mut self, files: &mut Vec<Arc<Opened>>, opened: <Opening as Future>::Output) {
        match opened {
            Ok(Ok(file)) => {
                files.push(file);
                self.load.push(0);
            }
            Ok(Err(error)) => tracing::debug!(%error, "a transfer goes on over fewer channels"),
            Err(error) => tracing::error!(%error, "opening a channel failed in an unforeseen way"),
        }
    }

    fn take(
        &mut self,
        (block, written): (Block, Result<Status, RawError>),
    ) -> Result<(), SftpError> {
        self.load[block.channel] -= 1;
        written?;
        self.whole.add(block.at, block.length);
        (self.progress)(self.whole.bytes);
        Ok(())
    }
}

/// The channel with the fewest blocks on the way.
fn least(load: &[usize]) -> usize {
    let mut least = 0;
    for (channel, blocks) in load.iter().enumerate() {
        if *blocks < load[least] {
            least = channel;
        }
    }
    least
}

/// What has been written of a file, and how far without a gap.
#[derive(Debug, PartialEq, Eq)]
struct Whole {
    /// All bytes.
    bytes: u64,
    /// Where the first gap begins.
    end: u64,
    /// Behind it: where pieces begin, and their lengths.
    beyond: BTreeMap<u64, u64>,
}

impl Whole {
    fn from(offset: u64) -> Self {
        Self {
            bytes: 0,
            end: offset,
            beyond: BTreeMap::new(),
        }
    }

    fn add(&mut self, at: u64, length: u64) {
        self.bytes += length;
        self.beyond.insert(at, length);
        while let Some(length) = self.beyond.remove(&self.end) {
            self.end += length;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_up_to_its_first_gap() {
        let mut whole = Whole::from(10);
        whole.add(30, 10);
        whole.add(20, 10);
        assert_eq!((whole.bytes, whole.end), (20, 10));
        whole.add(10, 10);
        assert_eq!((whole.bytes, whole.end), (30, 40));
        assert!(whole.beyond.is_empty());
    }

    #[test]
    fn blocks_go_where_the_fewest_are_on_the_way() {
        assert_eq!(least(&[2, 1, 1]), 1);
        assert_eq!(least(&[0, 0]), 0);
    }
}

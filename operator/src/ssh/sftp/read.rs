//! Reading: blocks asked for ahead of their turn, delivered in order.

use std::collections::VecDeque;

use futures::stream::{FuturesOrdered, StreamExt};
use russh_sftp::client::error::Error as RawError;
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{ASKED_FOR, ASKED_FOR_MAX, Moved, Progress, Range, Sftp, SftpError};

impl Sftp {
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
        let ahead = (ASKED_FOR * self.stripes()).min(ASKED_FOR_MAX);
        let mut sum = Sha256::new();
        let mut done = 0;
        let mut blocks: VecDeque<(u64, usize)> = VecDeque::new();
        let mut next = range.offset;
        let mut on_the_way = FuturesOrdered::new();
        loop {
            while next < end && blocks.len() < ahead {
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

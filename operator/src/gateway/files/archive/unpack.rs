//! Up: each file of the tar is written to a place of its own, read back, and all of them take their names when the archive has ended
//! well. Until then, and after any failure, nothing of it is there.

use std::collections::BTreeSet;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_tar::{Archive, EntryType};
use tokio_util::io::{InspectReader, StreamReader};

use super::{AT_ONCE, Ask, SMALL};
use crate::gateway::body::{Answer, drain, json};
use crate::gateway::files::transfer::{NO_PROGRESS, Pieces, make_folders, replaces, room, settled};
use crate::gateway::files::{ENTRIES, FileName, Writing, hash, headers, refusal};
use crate::gateway::refusal::Refusal;
use crate::gateway::sessions::Admitted;
use crate::gateway::tunnel::Tunnel;
use crate::metrics::{self, ByteLabels, Direction};
use crate::ssh::{Range, Sftp, SftpError};

/// Heads, long names and padding of one entry.
const ENTRY_OVERHEAD: u64 = 4 << 10;

#[derive(Serialize)]
struct Written {
    files: Vec<WrittenFile>,
}

#[derive(Serialize)]
struct WrittenFile {
    name: String,
    size: u64,
    /// As read back from the host.
    sha256: String,
}

/// A file of the archive in its place of waiting.
struct Staged {
    name: FileName,
    place: String,
    _writing: Writing,
}

/// `PUT …/files/?format=tar`.
pub(in crate::gateway::files) async fn unpack(
    ask: Ask,
    admitted: Admitted,
    headers: &HeaderMap,
    mut body: Incoming,
    metrics: &metrics::Gateway,
) -> Result<Answer, Refusal> {
    if !ask.tar {
        return Err(Refusal::field(
            "format",
            "Several files are written as one tar: ?format=tar.",
        ));
    }
    let (headers, metrics) = (headers.clone(), metrics.clone());
    settled(async move {
        let written = write(&ask, &admitted, &headers, &mut body, &metrics).await;
        if written.is_err() {
            drain(&headers, &mut body).await;
        }
        written
    })
    .await
}

async fn write(
    ask: &Ask,
    admitted: &Admitted,
    headers: &HeaderMap,
    body: &mut Incoming,
    metrics: &metrics::Gateway,
) -> Result<Answer, Refusal> {
    let tunnel = admitted.known.deployed()?.clone();
    let _use = tunnel.begin_use();
    let announced = headers::announced(headers)?;
    let sftp = tunnel.sftp().await.map_err(refusal)?;
    let mut staged = Vec::new();
    let unpacking = Unpacking {
        ask,
        admitted,
        tunnel: &tunnel,
        sftp: &sftp,
        quota: tunnel.host.upload_quota,
    };
    let written = async {
        let files = unpacking.stage(body, announced, &mut staged).await?;
        let replaced = unpacking.publish(&staged, &files).await?;
        Ok((files, replaced))
    }
    .await;
    let (files, replaced) = match written {
        Ok(written) => written,
        Err(refusal) => {
            // Those that have their names already are whole, and no longer in these places.
            let removed = staged.iter().map(|staged| sftp.remove(&staged.place));
            futures::future::join_all(removed).await;
            return Err(refusal);
        }
    };
    metrics
        .bytes
        .get_or_create(&ByteLabels {
            direction: Direction::up,
        })
        .inc_by(files.iter().map(|file| file.size).sum());
    let created = files.len() > replaced;
    let mut answer = json(&Written { files });
    if created {
        *answer.status_mut() = StatusCode::CREATED;
    }
    Ok(answer)
}

struct Unpacking<'a> {
    ask: &'a Ask,
    admitted: &'a Admitted,
    tunnel: &'a Tunnel,
    sftp: &'a Sftp,
    quota: u64,
}

impl Unpacking<'_> {
    /// Writes every file to a place of its own. What has such a place is told even when this fails.
    async fn stage(
        &self,
        body: &mut Incoming,
        announced: Option<String>,
        staged: &mut Vec<Staged>,
    ) -> Result<Vec<WrittenFile>, Refusal> {
        let limit = self.quota + ENTRIES as u64 * ENTRY_OVERHEAD;
        let mut sum = Sha256::new();
        let mut source = StreamReader::new(Pieces::of(body, limit));
        let outcome = {
            let mut summed = InspectReader::new(&mut source, |bytes| sum.update(bytes));
            let read = self.read(&mut summed, staged).await;
            match read {
                Ok(files) => rest(&mut summed).await.map(|()| files),
                Err(failed) => Err(failed),
            }
        };
        let files = outcome.map_err(|failed| match failed {
            Failed::Body(error) => {
                let no_tar = || Refusal::Invalid {
                    message: format!("The body is no tar: {error}."),
                    param: None,
                };
                source.get_ref().why(self.quota).unwrap_or_else(no_tar)
            }
            Failed::Refused(refusal) => refusal,
        })?;
        if announced.is_some_and(|announced| announced != hex::encode(sum.finalize())) {
            return Err(Refusal::Digest);
        }
        Ok(files)
    }

    async fn read(
        &self,
        body: &mut (impl AsyncRead + Unpin + Send),
        staged: &mut Vec<Staged>,
    ) -> Result<Vec<WrittenFile>, Failed> {
        let mut room = room(self.sftp, |_path| false, (self.quota, self.quota)).await?;
        let mut archive = Archive::new(body);
        let mut entries = archive.entries().map_err(Failed::Body)?;
        let mut files = Vec::new();
        let mut storing = FuturesUnordered::new();
        while let Some(entry) = entries.try_next().await.map_err(Failed::Body)? {
            let mut entry = entry;
            let path = entry.path_bytes().map_err(Failed::Body)?.into_owned();
            let Some(name) = self.named(&path, entry.header().entry_type())? else {
                continue;
            };
            let size = entry.effective_size();
            room = room
                .checked_sub(size)
                .ok_or(Refusal::OverQuota(self.quota))?;
            if staged.len() >= ENTRIES {
                return Err(Refusal::Conflict("There are too many files.").into());
            }
            if staged.iter().any(|staged| staged.name == name) {
                return Err(refused(&name, "it comes twice").into());
            }
            let place = name.unfinished(Some("tar"));
            staged.push(Staged {
                _writing: self.admitted.session.files.write(&name).await?,
                place: place.clone(),
                name: name.clone(),
            });
            if size > SMALL {
                while let Some(file) = storing.next().await {
                    files.push(file?);
                }
                files.push(self.store_large(name, place, &mut entry).await?);
                continue;
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).await.map_err(Failed::Body)?;
            storing.push(self.store_small(name, place, bytes));
            // Once at least, which sends it; and until there is room for the next.
            while let Some(file) = if storing.len() < AT_ONCE {
                storing.next().now_or_never().flatten()
            } else {
                storing.next().await
            } {
                files.push(file?);
            }
        }
        while let Some(file) = storing.next().await {
            files.push(file?);
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    /// The name that an entry will have; `None` for a folder, which comes with its files.
    fn named(&self, path: &[u8], kind: EntryType) -> Result<Option<FileName>, Refusal> {
        let shown = String::from_utf8_lossy(path);
        let bad = |why: &str| Refusal::Invalid {
            message: format!("{shown:?} in the tar is refused: {why}."),
            param: None,
        };
        let path = std::str::from_utf8(path).map_err(|_error| bad("its name is not UTF-8"))?;
        let mut path = path;
        // `tar -C folder .` writes names so.
        while let Some(rest) = path.strip_prefix("./") {
            path = rest;
        }
        match kind {
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::Directory => {
                let folder = path.trim_end_matches('/');
                let fine = folder.is_empty() || folder == "." || FileName::parse(folder).is_some();
                return if fine {
                    Ok(None)
                } else {
                    Err(bad("its name leads elsewhere"))
                };
            }
            _ => return Err(bad("it is neither a file nor a folder")),
        }
        let whole = match &self.ask.under {
            Some(folder) => format!("{}/{path}", folder.as_str()),
            None => path.to_owned(),
        };
        let parsed = FileName::parse(path).and(FileName::parse(&whole));
        parsed
            .map(Some)
            .ok_or_else(|| bad("its name leads elsewhere"))
    }

    async fn store_small(
        &self,
        name: FileName,
        place: String,
        bytes: Vec<u8>,
    ) -> Result<WrittenFile, Refusal> {
        let sent = self.sftp.write(&place, 0, &bytes[..], NO_PROGRESS).await;
        let sent = sent.map_err(refusal)?;
        let there = self
            .sftp
            .read(&place, Range::ALL, tokio::io::sink(), NO_PROGRESS)
            .await
            .map_err(refusal)?;
        if sent != there {
            return Err(Refusal::Digest);
        }
        Ok(WrittenFile {
            name: name.as_str().to_owned(),
            size: there.bytes,
            sha256: there.sha256,
        })
    }

    async fn store_large(
        &self,
        name: FileName,
        place: String,
        source: impl AsyncRead + Unpin,
    ) -> Result<WrittenFile, Failed> {
        let sent = self.sftp.write(&place, 0, source, NO_PROGRESS).await;
        let sent = sent.map_err(|error| match error {
            SftpError::Local(error) => Failed::Body(error),
            other => refusal(other).into(),
        })?;
        if hash(self.tunnel, &place).await? != sent.sha256 {
            return Err(Refusal::Digest.into());
        }
        Ok(WrittenFile {
            name: name.as_str().to_owned(),
            size: sent.bytes,
            sha256: sent.sha256,
        })
    }

    /// Gives all files their names, once it is known that nothing is in the way of any; how many replaced another.
    async fn publish(&self, staged: &[Staged], files: &[WrittenFile]) -> Result<usize, Refusal> {
        let folders: BTreeSet<&str> = staged
            .iter()
            .flat_map(|staged| staged.name.folders())
            .collect();
        make_folders(self.sftp, folders).await?;
        let looks = staged
            .iter()
            .map(|staged| replaces(self.sftp, &staged.name).boxed());
        let replaced = at_once(looks.collect()).await?;
        let named = staged.iter().map(|staged| {
            let named = self.sftp.replace(&staged.place, staged.name.as_str());
            named.map(|named| named.map_err(refusal)).boxed()
        });
        at_once(named.collect()).await?;
        let learned = files.iter().map(|file| self.learn(file).boxed());
        at_once(learned.collect()).await?;
        Ok(replaced.into_iter().filter(|replaces| *replaces).count())
    }
}

impl Unpacking<'_> {
    /// What was read back need not be summed again for the next list.
    async fn learn(&self, file: &WrittenFile) -> Result<(), Refusal> {
        if let Ok(entry) = self.sftp.look(&file.name).await {
            let ledger = &self.admitted.session.files;
            ledger.learn(&file.name, &entry, &file.sha256);
        }
        Ok(())
    }
}

/// Runs so many at a time, until one fails.
async fn at_once<T>(acts: Vec<BoxFuture<'_, Result<T, Refusal>>>) -> Result<Vec<T>, Refusal> {
    let acts = futures::stream::iter(acts).buffer_unordered(AT_ONCE);
    acts.try_collect().await
}

/// Reads what stands behind the end of the archive.
async fn rest(body: &mut (impl AsyncRead + Unpin)) -> Result<(), Failed> {
    tokio::io::copy(body, &mut tokio::io::sink())
        .await
        .map(drop)
        .map_err(Failed::Body)
}

fn refused(name: &FileName, why: &str) -> Refusal {
    Refusal::Invalid {
        message: format!("{:?} in the tar is refused: {why}.", name.as_str()),
        param: None,
    }
}

/// Why reading ended early.
enum Failed {
    /// The body, or what it holds, is not what it should be.
    Body(std::io::Error),
    /// Anything else.
    Refused(Refusal),
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

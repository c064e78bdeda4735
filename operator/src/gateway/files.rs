//! The session's files: listed, read, written and removed over SFTP, by names that cannot leave their folder, verified by SHA-256 on
//! both ends.

mod archive;
mod headers;
mod name;
mod transfer;

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::body::Incoming;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::timeout;

pub use name::FileName;

use super::body::{Answer, full, json};
use super::refusal::Refusal;
use super::routes::FileVerb;
use super::sessions::Admitted;
use super::tunnel::Tunnel;
use crate::host::gate;
use crate::metrics;
use crate::ssh::{self, Entry, EntryKind, Sftp, SftpError};

/// Files of one session, folders included; beyond this a listing is no list any more.
const ENTRIES: usize = 10_000;
/// How deep folders are looked into; names are refused beyond it as well.
const DEPTH: usize = 16;
/// A listing computes the SHA-256 of files up to this size that it does not know yet, and leaves larger ones open.
const HASHED_IN_LISTS: u64 = 64 << 20;
/// And of so many at most.
const HASHES_PER_LIST: usize = 64;
/// What a request that was cut off leaves on the way settles within this.
const RESERVE_TIMEOUT: Duration = Duration::from_secs(5);
/// And of so many at once: each is a round trip and a process on the host.
const HASHES_AT_ONCE: usize = 8;
/// SHA-256 of 4 GiB, the largest quota, takes some 10 s on a slow core.
const HASH_TIMEOUT: Duration = Duration::from_secs(120);

/// What one gateway knows of a session's files besides what lies on the host.
#[derive(Default)]
pub struct Ledger {
    writing: Mutex<HashSet<String>>,
    /// One of them has ended.
    written: Notify,
    /// By path: size and time of change it was computed for, and the SHA-256.
    sums: Mutex<HashMap<String, (u64, u32, String)>>,
}

impl Ledger {
    /// Reserves a name for one writer. A client that comes back after a cut may be faster than the end of its own request.
    async fn write(self: &Arc<Self>, name: &FileName) -> Result<Writing, Refusal> {
        let reserved = async {
            loop {
                let mut written = pin!(self.written.notified());
                // Before the look, so that an end between the two is not missed.
                written.as_mut().enable();
                if let Some(writing) = self.try_write(name) {
                    return writing;
                }
                written.await;
            }
        };
        timeout(RESERVE_TIMEOUT, reserved)
            .await
            .map_err(|_elapsed| Refusal::Conflict("This file is being written by another request."))
    }

    fn try_write(self: &Arc<Self>, name: &FileName) -> Option<Writing> {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        writing.insert(name.as_str().to_owned()).then(|| Writing {
            ledger: self.clone(),
            name: name.as_str().to_owned(),
        })
    }

    fn known(&self, path: &str, entry: &Entry) -> Option<String> {
        let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let (size, modified, sum) = sums.get(path)?;
        (*size == entry.size && *modified == entry.modified).then(|| sum.clone())
    }

    fn learn(&self, path: &str, entry: &Entry, sum: &str) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        if sums.len() >= ENTRIES {
            sums.clear();
        }
        sums.insert(
            path.to_owned(),
            (entry.size, entry.modified, sum.to_owned()),
        );
    }
}

/// A name in one writer's hands.
struct Writing {
    ledger: Arc<Ledger>,
    name: String,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.ledger
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.name);
        self.ledger.written.notify_waiters();
    }
}

#[derive(Serialize)]
struct List {
    files: Vec<Listed>,
    used: u64,
    quota: u64,
    medium: crate::route::Medium,
}

#[derive(Serialize)]
struct Listed {
    name: String,
    size: u64,
    modified: Timestamp,
    sha256: Option<String>,
}

/// `GET …/files/`: what there is, as JSON or as a tar with all of it.
pub async fn list(
    query: Option<&str>,
    admitted: Admitted,
    metrics: &metrics::Gateway,
) -> Result<Answer, Refusal> {
    let ask = archive::parse(query)?;
    if ask.tar {
        return archive::pack(ask, admitted, metrics).await;
    }
    let tunnel = admitted.known.deployed()?;
    let sftp = tunnel.sftp().await.map_err(refusal)?;
    let mut there = walk(&sftp).await?;
    let used = there.iter().map(|(_, entry)| entry.size).sum();
    there.retain(|(path, _)| {
        let below = ask.under.as_ref().is_none_or(|folder| folder.holds(path));
        below && FileName::parse(path).is_some()
    });
    let ledger = &admitted.session.files;
    let mut hashes = 0;
    let listed = there.into_iter().map(|(path, entry)| {
        let known = ledger.known(&path, &entry);
        let unknown = known.is_none() && entry.size <= HASHED_IN_LISTS;
        hashes += usize::from(unknown);
        let look = unknown && hashes <= HASHES_PER_LIST;
        async move {
            let sha256 = match look {
                true => sum(tunnel, ledger, &path, &entry).await.ok(),
                false => known,
            };
            Listed {
                size: entry.size,
                modified: Timestamp::from_second(entry.modified.into()).unwrap_or_default(),
                name: path,
                sha256,
            }
        }
        .boxed()
    });
    let listed: Vec<_> = listed.collect();
    let listed = futures::stream::iter(listed).buffer_unordered(HASHES_AT_ONCE);
    let mut files: Vec<Listed> = listed.collect().await;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(json(&List {
        files,
        used,
        quota: tunnel.host.upload_quota,
        medium: tunnel.host.medium,
    }))
}

/// `PUT …/files/?format=tar`: many files at once.
pub async fn many(
    query: Option<&str>,
    admitted: Admitted,
    (headers, body): (HeaderMap, Incoming),
    metrics: &metrics::Gateway,
) -> Result<Answer, Refusal> {
    let ask = archive::parse(query)?;
    archive::unpack(ask, admitted, &headers, body, metrics).await
}

/// One file.
pub async fn one(
    verb: FileVerb,
    path: &str,
    admitted: Admitted,
    request: (HeaderMap, Incoming),
    metrics: &metrics::Gateway,
) -> Result<Answer, Refusal> {
    let name = FileName::parse(path).ok_or(Refusal::NoSuchFile)?;
    let (headers, body) = request;
    match verb {
        FileVerb::Head => head(&name, &admitted, &headers).await,
        FileVerb::Get => transfer::get(&name, admitted, &headers, metrics).await,
        FileVerb::Put => transfer::put(&name, admitted, &headers, body, metrics).await,
        FileVerb::Delete => delete(&name, &admitted).await,
    }
}

/// Size and SHA-256; and, for a client that announces what it means to send, how much of that has come already.
async fn head(
    name: &FileName,
    admitted: &Admitted,
    headers: &HeaderMap,
) -> Result<Answer, Refusal> {
    let tunnel = admitted.known.deployed()?;
    let announced = headers::announced(headers)?;
    let sftp = tunnel.sftp().await.map_err(refusal)?;
    let found = match file(&sftp, name).await {
        Ok(entry) => {
            let sum = sum(tunnel, &admitted.session.files, name.as_str(), &entry).await?;
            Ok((entry, sum))
        }
        Err(refusal) => Err(refusal),
    };
    let meant = |sum: &String| announced.as_ref().is_none_or(|meant| meant == sum);
    if !found.as_ref().is_ok_and(|(_, sum)| meant(sum)) && announced.is_some() {
        let unfinished = name.unfinished(announced.as_deref());
        if let Ok(entry) = sftp.look(&unfinished).await {
            return Err(Refusal::Unfinished(entry.size));
        }
    }
    let (entry, sum) = found?;
    let mut answer = Response::new(full(""));
    describe(&mut answer, &entry, Some(&sum));
    answer
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(entry.size));
    Ok(answer)
}

async fn delete(name: &FileName, admitted: &Admitted) -> Result<Answer, Refusal> {
    let tunnel = admitted.known.deployed()?;
    let _use = tunnel.begin_use();
    let _writing = admitted.session.files.write(name).await?;
    let sftp = tunnel.sftp().await.map_err(refusal)?;
    file(&sftp, name).await?;
    sftp.remove(name.as_str()).await.map_err(refusal)?;
    // Folders are made for files and go with the last of them; one that is not empty refuses.
    for folder in name.folders().rev() {
        if sftp.remove_folder(folder).await.is_err() {
            break;
        }
    }
    let mut answer = Response::new(full(""));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    Ok(answer)
}

/// The plain file of this name: neither it nor a folder on the way to it is a link.
async fn file(sftp: &Sftp, name: &FileName) -> Result<Entry, Refusal> {
    for folder in name.folders() {
        if sftp.look(folder).await.map_err(refusal)?.kind != EntryKind::Folder {
            return Err(Refusal::NoSuchFile);
        }
    }
    let entry = sftp.look(name.as_str()).await.map_err(refusal)?;
    if entry.kind == EntryKind::File {
        Ok(entry)
    } else {
        Err(Refusal::NoSuchFile)
    }
}

/// All plain files with their paths, unfinished uploads included; names that we would not have made are left out with all below them.
async fn walk(sftp: &Sftp) -> Result<Vec<(String, Entry)>, Refusal> {
    let mut files = Vec::new();
    let mut folders = vec![(String::new(), 1)];
    while let Some((folder, depth)) = folders.pop() {
        let here = if folder.is_empty() { "." } else { &folder };
        for entry in sftp.list(here, ENTRIES).await.map_err(refusal)? {
            if !name::is_component(&entry.name) {
                continue;
            }
            let path = if folder.is_empty() {
                entry.name.clone()
            } else {
                format!("{folder}/{}", entry.name)
            };
            match entry.kind {
                EntryKind::File => files.push((path, entry)),
                EntryKind::Folder if depth < DEPTH => folders.push((path, depth + 1)),
                EntryKind::Folder | EntryKind::Other => {}
            }
        }
        if files.len() + folders.len() > ENTRIES {
            return Err(Refusal::Conflict("There are too many files to list."));
        }
    }
    Ok(files)
}

/// The SHA-256 of a file as it is now, from memory when size and time have not changed.
async fn sum(
    tunnel: &Arc<Tunnel>,
    ledger: &Ledger,
    path: &str,
    entry: &Entry,
) -> Result<String, Refusal> {
    if let Some(sum) = ledger.known(path, entry) {
        return Ok(sum);
    }
    let sum = hash(tunnel, path).await?;
    ledger.learn(path, entry, &sum);
    Ok(sum)
}

/// The SHA-256 of a file as the host computes it.
async fn hash(tunnel: &Tunnel, path: &str) -> Result<String, Refusal> {
    let bounds = ssh::Bounds {
        time: HASH_TIMEOUT,
        ..ssh::Bounds::SHORT
    };
    let output = tunnel
        .run(&gate::sha256(path), &bounds)
        .await
        .map_err(|_error| Refusal::Unreachable)?;
    let sum = std::str::from_utf8(&output.stdout)
        .ok()
        .and_then(gate::sha256_answer);
    sum.filter(|_| output.status == 0)
        .ok_or(Refusal::NoSuchFile)
}

fn describe(answer: &mut Answer, entry: &Entry, sum: Option<&str>) {
    let headers = answer.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // A browser shown a file of somebody's must not run it.
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::from_static("attachment"),
    );
    if let Some(sum) = sum {
        headers::announce(headers, sum);
    }
    if let Ok(modified) = Timestamp::from_second(entry.modified.into()) {
        let date = modified.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        if let Ok(date) = HeaderValue::try_from(date) {
            headers.insert(header::LAST_MODIFIED, date);
        }
    }
}

fn refusal(error: SftpError) -> Refusal {
    match error {
        SftpError::NotFound => Refusal::NoSuchFile,
        SftpError::Denied => Refusal::Conflict("The host does not permit this."),
        SftpError::Refused(_) => Refusal::Conflict(
            "The host refuses this: something else is in the way, or there is no room.",
        ),
        SftpError::Ssh(_) | SftpError::Broken(_) | SftpError::Local(_) => Refusal::Unreachable,
    }
}

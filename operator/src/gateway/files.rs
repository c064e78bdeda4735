//! The session's files: listed, read, written and removed over SFTP, by names that cannot leave their folder, verified by SHA-256 on
//! both ends.

mod headers;
mod name;
mod transfer;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::body::Incoming;
use jiff::Timestamp;
use serde::Serialize;

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
/// SHA-256 of 4 GiB, the largest quota, takes some 10 s on a slow core.
const HASH_TIMEOUT: Duration = Duration::from_secs(120);

/// What one gateway knows of a session's files besides what lies on the host.
#[derive(Default)]
pub struct Ledger {
    writing: Mutex<HashSet<String>>,
    /// By path: size and time of change it was computed for, and the SHA-256.
    sums: Mutex<HashMap<String, (u64, u32, String)>>,
}

impl Ledger {
    /// Reserves a name for one writer.
    fn write(self: &Arc<Self>, name: &FileName) -> Result<Writing, Refusal> {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if !writing.insert(name.as_str().to_owned()) {
            return Err(Refusal::Conflict(
                "This file is being written by another request.",
            ));
        }
        Ok(Writing {
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

/// `GET …/files/`.
pub async fn list(admitted: &Admitted) -> Result<Answer, Refusal> {
    let tunnel = admitted.known.deployed()?;
    let sftp = tunnel.sftp().await.map_err(refusal)?;
    let mut files = Vec::new();
    let (mut used, mut hashes) = (0, 0);
    for (path, entry) in walk(&sftp).await? {
        used += entry.size;
        if FileName::parse(&path).is_none() {
            continue;
        }
        let mut sum = admitted.session.files.known(&path, &entry);
        if sum.is_none() && entry.size <= HASHED_IN_LISTS && hashes < HASHES_PER_LIST {
            hashes += 1;
            sum = hash(tunnel, &path).await.ok();
            if let Some(sum) = &sum {
                admitted.session.files.learn(&path, &entry, sum);
            }
        }
        let modified = Timestamp::from_second(entry.modified.into()).unwrap_or_default();
        files.push(Listed {
            name: path,
            size: entry.size,
            modified,
            sha256: sum,
        });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(json(&List {
        files,
        used,
        quota: tunnel.host.upload_quota,
        medium: tunnel.host.medium,
    }))
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
        FileVerb::Head => head(&name, &admitted).await,
        FileVerb::Get => transfer::get(&name, admitted, &headers, metrics).await,
        FileVerb::Put => transfer::put(&name, admitted, &headers, body, metrics).await,
        FileVerb::Delete => delete(&name, &admitted).await,
    }
}

async fn head(name: &FileName, admitted: &Admitted) -> Result<Answer, Refusal> {
    let tunnel = admitted.known.deployed()?;
    let sftp = tunnel.sftp().await.map_err(refusal)?;
    let entry = file(&sftp, name).await?;
    let sum = sum(tunnel, &admitted.session.files, name.as_str(), &entry).await?;
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
    let _writing = admitted.session.files.write(name)?;
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

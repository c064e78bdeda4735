//! A Hugging Face Hub that serves the model folders below some folders, `owner/name/files`: the calls that clients really make, with
//! the answers that the Hub really gives, its refusals among them. It knows nothing of srchat.

mod repository;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use futures::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::io::ReaderStream;

pub use repository::DESCRIPTION;
use repository::{Gate, Repository};

/// Files from this size on, and all weights, are kept outside git: they have a SHA-256 and are fetched from another address.
const LARGE: u64 = 10_000_000;
/// How a refusal is told to clients, besides its status.
const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");
const ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-error-message");
/// Longer than any client of ours waits.
const SILENCE: Duration = Duration::from_secs(600);

/// What goes wrong with the next request that the fault fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// 429; the Hub says how long in `RateLimit`, some proxies say it in `Retry-After`.
    RateLimited {
        /// Seconds to wait.
        seconds: u64,
        /// In `Retry-After` instead of `RateLimit`.
        retry_after: bool,
    },
    /// This status with a page of HTML.
    Status(u16),
    /// 200 with something that is not JSON.
    Nonsense,
    /// No answer at all.
    Silence,
    /// A file breaks off after so many bytes.
    BreakOff {
        /// Bytes that still arrive.
        after: u64,
    },
    /// A file arrives whole, with one byte changed.
    Corrupt,
}

impl Fault {
    /// Whether it can happen to this kind of request: the last two only to files.
    fn fits(&self, file: bool) -> bool {
        match self {
            Self::RateLimited { .. } | Self::Status(_) | Self::Silence => true,
            Self::Nonsense => !file,
            Self::BreakOff { .. } | Self::Corrupt => file,
        }
    }
}

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The token it carried.
    pub token: Option<String>,
    /// The status it got.
    pub status: u16,
}

/// A file, or a part of one, that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// `owner/name/path`.
    pub path: String,
    /// When it was asked for.
    pub began: Timestamp,
    /// When its last byte had been taken; `None` while it is being sent, or when the client went away.
    pub ended: Option<Timestamp>,
    /// Bytes sent so far.
    pub bytes: u64,
}

/// A running Hub. Dropping it ends it.
#[derive(Debug)]
pub struct HubServer {
    url: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    folders: Vec<PathBuf>,
    url: String,
    page: Mutex<usize>,
    faults: Mutex<VecDeque<Fault>>,
    asked: Mutex<Vec<Asked>>,
    served: Mutex<Vec<Served>>,
}

impl HubServer {
    /// Starts a Hub on a free port of loopback that serves what is, and what will be, in `folder`.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(folder: &Path) -> io::Result<Self> {
        Self::of(vec![folder.to_owned()]).await
    }

    /// The same with the models of several folders; of two with the same name the first one's.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn of(folders: Vec<PathBuf>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let url = format!("http://{address}");
        let shared = Arc::new(Shared {
            folders,
            url: url.clone(),
            page: Mutex::new(1000),
            faults: Mutex::default(),
            asked: Mutex::default(),
            served: Mutex::default(),
        });
        let app = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            // Ends with the handle, by abort; an accept that fails is tried again by axum itself.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self {
            url,
            address,
            shared,
            task,
        })
    }

    /// `http://127.0.0.1:PORT`: what `HF_ENDPOINT` is set to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same, as a socket's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets the next request that it fits fail so. Several faults happen one after the other.
    pub fn fail_next(&self, fault: Fault) {
        lock(&self.shared.faults).push_back(fault);
    }

    /// How many files a page of a file list has from now on.
    pub fn files_per_page(&self, count: usize) {
        *lock(&self.shared.page) = count.max(1);
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }

    /// Every file that was sent so far, or is being sent.
    pub fn served(&self) -> Vec<Served> {
        lock(&self.shared.served).clone()
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a request is for.
enum Call {
    /// `/api/models/{owner}/{name}[/revision/{revision}]`
    Info {
        id: String,
        revision: String,
    },
    /// `/api/models/{owner}/{name}/tree/{revision}`
    Tree {
        id: String,
        revision: String,
    },
    /// `/{owner}/{name}/resolve/{revision}/{path}`
    File {
        id: String,
        revision: String,
        path: String,
    },
    /// Where large files are: a link that was handed out by `File`, without any right of its own.
    Blob {
        id: String,
        path: String,
    },
    Unknown,
}

impl Call {
    fn parse(path: &str) -> Self {
        let parts: Vec<String> = path
            .trim_start_matches('/')
            .split('/')
            .map(decode)
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let id = |owner: &str, name: &str| format!("{owner}/{name}");
        match parts.as_slice() {
            ["api", "models", owner, name] => Self::Info {
                id: id(owner, name),
                revision: "main".into(),
            },
            ["api", "models", owner, name, "revision", revision] => Self::Info {
                id: id(owner, name),
                revision: (*revision).into(),
            },
            ["api", "models", owner, name, "tree", revision] => Self::Tree {
                id: id(owner, name),
                revision: (*revision).into(),
            },
            ["blobs", owner, name, path @ ..] if !path.is_empty() => Self::Blob {
                id: id(owner, name),
                path: path.join("/"),
            },
            [owner, name, "resolve", revision, path @ ..] if !path.is_empty() => Self::File {
                id: id(owner, name),
                revision: (*revision).into(),
                path: path.join("/"),
            },
            _ => Self::Unknown,
        }
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let target = parts
        .uri
        .path_and_query()
        .map_or_else(String::new, ToString::to_string);
    let token = bearer(&parts.headers);
    let call = Call::parse(parts.uri.path());
    let response = reply(
        &shared,
        &parts.method,
        &call,
        parts.uri.query().unwrap_or_default(),
        &parts.headers,
        token.as_deref(),
    )
    .await;
    lock(&shared.asked).push(Asked {
        method: parts.method.to_string(),
        target,
        token,
        status: response.status().as_u16(),
    });
    response
}

async fn reply(
    shared: &Arc<Shared>,
    method: &Method,
    call: &Call,
    query: &str,
    headers: &HeaderMap,
    token: Option<&str>,
) -> Response {
    let is_file = matches!(call, Call::Blob { .. })
        || matches!(call, Call::File { path, .. } if !path.ends_with(".json"));
    let fault = next_fault(shared, is_file);
    match &fault {
        Some(Fault::RateLimited {
            seconds,
            retry_after,
        }) => {
            let (name, value) = if *retry_after {
                ("retry-after", seconds.to_string())
            } else {
                ("ratelimit", format!("\"api\";r=0;t={seconds}"))
            };
            return with(
                text(StatusCode::TOO_MANY_REQUESTS, "Too many requests"),
                name,
                &value,
            );
        }
        Some(Fault::Status(status)) => {
            return text(
                StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY),
                "<html>an error page</html>",
            );
        }
        Some(Fault::Nonsense) => return text(StatusCode::OK, "{\"id\": 1, \"sha\": [not json"),
        Some(Fault::Silence) => {
            tokio::time::sleep(SILENCE).await;
            return text(StatusCode::GATEWAY_TIMEOUT, "");
        }
        Some(Fault::BreakOff { .. } | Fault::Corrupt) | None => {}
    }
    let id = match call {
        Call::Info { id, .. }
        | Call::Tree { id, .. }
        | Call::File { id, .. }
        | Call::Blob { id, .. } => id,
        Call::Unknown => {
            return refuse(
                StatusCode::NOT_FOUND,
                None,
                "Sorry, we can't find the page you are looking for.",
            );
        }
    };
    // The Hub does not tell strangers whether a private model exists.
    let hidden =
        |repository: &Repository| repository.gate == Gate::Private && !repository.admits(token);
    let found = shared
        .folders
        .iter()
        .find_map(|folder| Repository::open(folder, id));
    let Some(repository) = found.filter(|repository| !hidden(repository)) else {
        return match token {
            None => refuse(
                StatusCode::UNAUTHORIZED,
                Some("RepoNotFound"),
                "Invalid username or password.",
            ),
            Some(_) => refuse(
                StatusCode::NOT_FOUND,
                Some("RepoNotFound"),
                "Repository not found",
            ),
        };
    };
    let knows = |revision: &str| repository.knows(revision);
    match call {
        Call::Info { revision, .. } | Call::Tree { revision, .. } | Call::File { revision, .. }
            if !knows(revision) =>
        {
            refuse(
                StatusCode::NOT_FOUND,
                Some("RevisionNotFound"),
                &format!("Invalid rev id: {revision}"),
            )
        }
        Call::Info { .. } => json(&repository.info(query)),
        Call::Tree { .. } => tree(shared, &repository, query),
        Call::File { .. } if repository.gate == Gate::Gated && !repository.admits(token) => {
            let status = if token.is_none() {
                StatusCode::UNAUTHORIZED
            } else {
                StatusCode::FORBIDDEN
            };
            refuse(
                status,
                Some("GatedRepo"),
                &format!("Access to model {id} is restricted."),
            )
        }
        Call::File { path, .. } => resolve(shared, &repository, path, method, headers, fault).await,
        Call::Blob { path, .. } => send(shared, &repository, path, method, headers, fault).await,
        Call::Unknown => refuse(StatusCode::NOT_FOUND, None, "not found"),
    }
}

fn next_fault(shared: &Shared, file: bool) -> Option<Fault> {
    let mut faults = lock(&shared.faults);
    let at = faults.iter().position(|fault| fault.fits(file))?;
    faults.remove(at)
}

/// The file list, page by page.
fn tree(shared: &Shared, repository: &Repository, query: &str) -> Response {
    let size = *lock(&shared.page);
    let start = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("cursor=")?.parse::<usize>().ok())
        .unwrap_or(0);
    let files = repository.files();
    let page: Vec<Value> = files
        .iter()
        .skip(start)
        .take(size)
        .map(|file| file.entry())
        .collect();
    let response = json(&Value::from(page));
    if start + size >= files.len() {
        return response;
    }
    let next = format!(
        "<{}/api/models/{}/tree/{}?recursive=true&cursor={}>; rel=\"next\"",
        shared.url,
        repository.id,
        repository.sha,
        start + size
    );
    with(response, "link", &next)
}

/// A file of a revision: small ones at once, large ones by a link to where they are.
async fn resolve(
    shared: &Arc<Shared>,
    repository: &Repository,
    path: &str,
    method: &Method,
    headers: &HeaderMap,
    fault: Option<Fault>,
) -> Response {
    let Some(file) = repository.file(path) else {
        let message = "Entry not found";
        return with(
            refuse(StatusCode::NOT_FOUND, Some("EntryNotFound"), message),
            "x-repo-commit",
            &repository.sha,
        );
    };
    let Some(sha256) = &file.sha256 else {
        return send(shared, repository, path, method, headers, fault).await;
    };
    if let Some(fault) = fault {
        // It is about the bytes, so it waits for the request that fetches them.
        lock(&shared.faults).push_front(fault);
    }
    let place = format!("{}/blobs/{}/{path}", shared.url, repository.id);
    let mut response = text(StatusCode::FOUND, "Found. Redirecting");
    for (name, value) in [
        ("location", place),
        ("x-repo-commit", repository.sha.clone()),
        ("x-linked-size", file.size.to_string()),
        ("x-linked-etag", format!("\"{sha256}\"")),
        ("accept-ranges", "bytes".to_owned()),
    ] {
        response = with(response, name, &value);
    }
    response
}

/// The bytes of a file, or the range that was asked for.
async fn send(
    shared: &Arc<Shared>,
    repository: &Repository,
    path: &str,
    method: &Method,
    headers: &HeaderMap,
    fault: Option<Fault>,
) -> Response {
    let Some(file) = repository.file(path) else {
        return refuse(
            StatusCode::NOT_FOUND,
            Some("EntryNotFound"),
            "Entry not found",
        );
    };
    let range = headers
        .get(header::RANGE)
        .and_then(|range| range.to_str().ok());
    let (first, end, status) = match range.map(|range| part(range, file.size)) {
        None => (0, file.size, StatusCode::OK),
        Some(Some((first, end))) => (first, end, StatusCode::PARTIAL_CONTENT),
        Some(None) => {
            let response = text(StatusCode::RANGE_NOT_SATISFIABLE, "");
            return with(response, "content-range", &format!("bytes */{}", file.size));
        }
    };
    let etag = file.sha256.clone().unwrap_or_else(|| file.oid.clone());
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if *method != Method::HEAD {
        match body(shared, &repository.id, file, first..end, fault).await {
            Ok(body) => *response.body_mut() = body,
            Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }
    for (name, value) in [
        ("content-length", (end - first).to_string()),
        ("content-type", "application/octet-stream".to_owned()),
        ("accept-ranges", "bytes".to_owned()),
        ("etag", format!("\"{etag}\"")),
        // The Hub keeps blobs at another host, to which clients do not follow when they only ask for headers; here it is the same.
        ("x-repo-commit", repository.sha.clone()),
    ] {
        response = with(response, name, &value);
    }
    if status == StatusCode::PARTIAL_CONTENT {
        response = with(
            response,
            "content-range",
            &format!("bytes {first}-{}/{}", end - 1, file.size),
        );
    }
    response
}

async fn body(
    shared: &Arc<Shared>,
    id: &str,
    file: &repository::File,
    range: std::ops::Range<u64>,
    fault: Option<Fault>,
) -> io::Result<Body> {
    let mut opened = tokio::fs::File::open(&file.place).await?;
    opened.seek(io::SeekFrom::Start(range.start)).await?;
    let wanted = range.end - range.start;
    let record = {
        let mut served = lock(&shared.served);
        served.push(Served {
            path: format!("{id}/{}", file.path),
            began: Timestamp::now(),
            ended: None,
            bytes: 0,
        });
        served.len() - 1
    };
    let cut = match fault {
        Some(Fault::BreakOff { after }) => after.min(wanted),
        _ => wanted,
    };
    let shared = Arc::clone(shared);
    let mut spoil = fault == Some(Fault::Corrupt);
    let pieces = ReaderStream::with_capacity(opened.take(cut), 256 * 1024).map(move |piece| {
        let mut piece = piece?;
        if std::mem::take(&mut spoil) {
            let mut changed = piece.to_vec();
            if let Some(byte) = changed.first_mut() {
                *byte ^= 1;
            }
            piece = changed.into();
        }
        let mut served = lock(&shared.served);
        if let Some(one) = served.get_mut(record) {
            one.bytes += piece.len() as u64;
            one.ended = (one.bytes == wanted).then(Timestamp::now);
        }
        Ok::<_, io::Error>(piece)
    });
    // An error after the last byte of a broken file resets the connection, as a server that dies does.
    let end = futures::stream::iter(
        (cut < wanted).then(|| Err(io::Error::from(io::ErrorKind::ConnectionReset))),
    );
    Ok(Body::from_stream(pieces.chain(end)))
}

/// `bytes=first-last`, `bytes=first-` or `bytes=-count` as first byte and end; `None` when it cannot be satisfied.
fn part(range: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (first, end) = match (first, last) {
        ("", count) => (size.saturating_sub(count.parse().ok()?), size),
        (first, "") => (first.parse().ok()?, size),
        (first, last) => (
            first.parse().ok()?,
            last.parse::<u64>().ok()?.saturating_add(1).min(size),
        ),
    };
    (first < end).then_some((first, end))
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .strip_prefix("Bearer ")
        .map(str::to_owned)
}

/// Percent-decoding of one path segment; what is not an escape stays as it is.
fn decode(segment: &str) -> String {
    let bytes = segment.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digits = (*byte == b'%')
            .then(|| segment.get(at + 1..at + 3))
            .flatten();
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(escaped) => {
                decoded.push(escaped);
                at += 3;
            }
            None => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn json(value: &Value) -> Response {
    with(
        text(StatusCode::OK, &value.to_string()),
        "content-type",
        "application/json",
    )
}

fn refuse(status: StatusCode, code: Option<&str>, message: &str) -> Response {
    let mut response = text(status, &json!({ "error": message }).to_string());
    if let Some(code) = code {
        response = with(response, ERROR_CODE.as_str(), code);
    }
    with(response, ERROR_MESSAGE.as_str(), message)
}

fn text(status: StatusCode, text: &str) -> Response {
    let mut response = Response::new(Body::from(text.to_owned()));
    *response.status_mut() = status;
    response
}

fn with(mut response: Response, name: &str, value: &str) -> Response {
    let name = HeaderName::from_bytes(name.as_bytes());
    if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
        response.headers_mut().insert(name, value);
    }
    response
}

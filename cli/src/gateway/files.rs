//! The session's files over HTTP: listed, read, written, removed; one by one or many in one tar.

use super::{Gateway, bad_url, broken};
use crate::failure::{Code, Failure};
use bytes::Bytes;
use futures::Stream;
use k8s_openapi::jiff::Timestamp;
use reqwest::{Response, StatusCode, Url, header};
use serde::{Deserialize, Serialize};

/// How much of an unfinished upload the gateway has, in bytes.
const UPLOAD_OFFSET: &str = "upload-offset";
/// The SHA-256 of a whole file, 64 hex digits.
const SHA256: &str = "x-content-sha256";
/// The type of a body with many files.
const TAR: &str = "application/x-tar";

/// A file of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its path, relative to the session's files. As the host says it: not to be trusted.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// When it was last written.
    pub modified: Timestamp,
    /// 64 hex digits; the gateway computes no sum of a large file for a list.
    pub sha256: Option<String>,
}

/// All files, and how much room there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// By name.
    pub files: Vec<Listed>,
    /// Bytes in use.
    pub used: u64,
    /// Bytes that may be in use.
    pub quota: u64,
}

/// A file that the gateway has just kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Stored {
    /// Its path, relative to the session's files.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// 64 hex digits, as the host computed them.
    pub sha256: String,
}

#[derive(Deserialize)]
struct Kept {
    files: Vec<Stored>,
}

/// An answer about many files at once.
#[derive(Debug)]
pub enum Many<T> {
    /// The answer.
    Here(T),
    /// This gateway takes files one by one only.
    NotHere,
}

/// What the gateway has of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// All of it, with this SHA-256.
    Whole(Option<String>),
    /// Nothing under its name, and so many bytes of an upload that broke off.
    Missing(u64),
}

impl Gateway {
    /// Lists all files.
    pub async fn list(&self) -> Result<List, Failure> {
        let answer = self.send(self.http.get(self.file("")?)).await?;
        answer.json().await.map_err(|e| broken(&e))
    }

    /// What there is of a file; of an unfinished upload only when it had this SHA-256.
    pub async fn look(&self, path: &str, sha256: &str) -> Result<Remote, Failure> {
        let request = self.http.head(self.file(path)?).header(SHA256, sha256);
        let answer = self.exchange(request).await?;
        match answer.status() {
            status if status.is_success() => Ok(Remote::Whole(sha256_of(&answer))),
            StatusCode::NOT_FOUND => {
                let offset = answer.headers().get(UPLOAD_OFFSET);
                let offset = offset.and_then(|value| value.to_str().ok()?.parse().ok());
                Ok(Remote::Missing(offset.unwrap_or(0)))
            }
            // The body of a refusal to HEAD never comes; the same question by GET has one.
            _ => self
                .download(path, 0)
                .await
                .map(|answer| Remote::Whole(sha256_of(&answer))),
        }
    }

    /// Opens a remote file for reading from `offset` on.
    pub async fn download(&self, path: &str, offset: u64) -> Result<Response, Failure> {
        let mut request = self.http.get(self.file(path)?);
        if offset > 0 {
            request = request.header(header::RANGE, format!("bytes={offset}-"));
        }
        self.send(request).await
    }

    /// Writes a remote file of `length` bytes, from `offset` on; the gateway keeps it only when the SHA-256 of the whole is
    /// the given one.
    pub async fn upload(
        &self,
        path: &str,
        Part {
            offset,
            length,
            sha256,
        }: Part<'_>,
        body: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), Failure> {
        let mut request = self
            .http
            .put(self.file(path)?)
            .header(header::CONTENT_LENGTH, length - offset)
            .header(SHA256, sha256)
            .body(reqwest::Body::wrap_stream(body));
        if offset > 0 {
            let range = format!("bytes {offset}-{}/{length}", length - 1);
            request = request.header(header::CONTENT_RANGE, range);
        }
        self.send(request).await.map(|_| ())
    }

    /// Writes many files by one tar; all of them appear at once, and none where one of them cannot be kept. Answers with what
    /// the host has then.
    pub async fn upload_tar(
        &self,
        body: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<Many<Vec<Stored>>, Failure> {
        let request = self
            .http
            .put(self.file("")?)
            .query(&[("format", "tar")])
            .header(header::CONTENT_TYPE, TAR)
            .body(reqwest::Body::wrap_stream(body));
        match self.many(request).await? {
            Many::NotHere => Ok(Many::NotHere),
            Many::Here(answer) => {
                let kept: Kept = answer.json().await.map_err(|e| broken(&e))?;
                Ok(Many::Here(kept.files))
            }
        }
    }

    /// Opens a tar of all files below a folder, or of all there are.
    pub async fn download_tar(&self, under: Option<&str>) -> Result<Many<Response>, Failure> {
        let mut asked = vec![("format", "tar"), ("sums", "pax")];
        asked.extend(under.map(|under| ("under", under)));
        let request = self.http.get(self.file("")?).query(&asked);
        let answer = self.many(request).await?;
        // A gateway that knows no tar answers with its list.
        Ok(match answer {
            Many::Here(answer) if !is_tar(&answer) => Many::NotHere,
            answer => answer,
        })
    }

    /// Sends what a gateway older than we are does not know.
    async fn many(&self, request: reqwest::RequestBuilder) -> Result<Many<Response>, Failure> {
        let answer = self.exchange(request).await?;
        match answer.status() {
            status if status.is_success() => Ok(Many::Here(answer)),
            StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED => Ok(Many::NotHere),
            _ => Err(self.refusal(answer).await),
        }
    }

    /// Removes a remote file.
    pub async fn remove(&self, path: &str) -> Result<(), Failure> {
        self.send(self.http.delete(self.file(path)?))
            .await
            .map(|_| ())
    }

    /// The URL of a file, of all of them when `path` is empty. What could be read as another path is encoded or refused by the
    /// gateway; it never leaves the session's.
    fn file(&self, path: &str) -> Result<Url, Failure> {
        let mut url = self.beside("files")?;
        if path.split('/').any(|part| part == "." || part == "..") {
            return Err(Failure::new(
                Code::Usage,
                format!("{path:?} is no name of a file in a session"),
            )
            .hint("names have no . or .. between their slashes"));
        }
        url.path_segments_mut()
            .map_err(|()| bad_url(&self.base_url))?
            .extend(path.split('/'));
        Ok(url)
    }
}

/// Which part of which file an upload has.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Its first byte.
    pub offset: u64,
    /// Bytes of the whole file.
    pub length: u64,
    /// SHA-256 of the whole file, 64 hex digits.
    pub sha256: &'a str,
}

/// SHA-256 of the file that an answer describes, 64 hex digits.
pub fn sha256_of(answer: &Response) -> Option<String> {
    let text = answer.headers().get(SHA256)?.to_str().ok()?;
    (text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| text.to_ascii_lowercase())
}

fn is_tar(answer: &Response) -> bool {
    let kind = answer.headers().get(header::CONTENT_TYPE);
    kind.and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with(TAR))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::gateway;

    #[test]
    fn a_file_name_cannot_leave_the_files_of_its_session() {
        let url = gateway(None).file("a b/c?d#e").unwrap();
        let expected = "https://chat.example:8443/team/qwen/files/a%20b/c%3Fd%23e";
        assert_eq!(url.as_str(), expected);
        for wrong in ["..", "a/../b", "./a"] {
            assert!(gateway(None).file(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_list_has_a_slash_at_its_end() {
        let url = gateway(None).file("").unwrap();
        assert_eq!(url.as_str(), "https://chat.example:8443/team/qwen/files/");
    }
}

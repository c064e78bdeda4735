//! The session's files over HTTP: listed, read, written, removed; one by one or many in one tar.

use super::{Gateway, bad_url, broken};
use crate::failure::{Code, Failure};
use bytes::Bytes;
use futures::Stream;
use k8s_openapi::jiff::Timestamp;
use reqwest::{Response, Url, header};
use serde::{Deserialize, Serialize};

/// The SHA-256 of a whole file, 64 hex digits.
const SHA256: &str = "x-content-sha256";

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

impl Gateway {
    /// Lists all files.
    pub async fn list(&self) -> Result<List, Failure> {
        let answer = self.send(self.http.get(self.file("")?)).await?;
        answer.json().await.map_err(|e| broken(&e))
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

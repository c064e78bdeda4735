//! What a user's program does with the Secret that a session publishes: ask, upload, download; and what a
//! stranger's cannot.

use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use reqwest::{Certificate, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A silence of this length in the middle of an answer is a failure: the small model says a word every 25 ms on
/// two cores, and loads its prompt in a few seconds.
const SILENCE: Duration = Duration::from_secs(60);

/// What an answer may cost in time: it is a demo.
const LONGEST_ANSWER: u32 = 256;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Secret is not there or not whole.
    #[error("the published Secret {0} is not usable")]
    Secret(String, #[source] Option<kube::Error>),
    /// The gateway could not be talked to.
    #[error("could not {0}")]
    Http(&'static str, #[source] reqwest::Error),
    /// The gateway answered something else than it should.
    #[error("could not {what}: the gateway answered {status}: {body}")]
    Answer {
        /// What was tried.
        what: &'static str,
        /// The status.
        status: StatusCode,
        /// What it said.
        body: String,
    },
}

/// A client made from nothing but the published Secret. Two are equal when the same was published to them.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        (&self.base, &self.token) == (&other.base, &other.token)
    }
}

/// Without the token.
impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

/// What a model said, and when.
#[derive(Debug, Clone)]
pub struct Answer {
    /// All of it.
    pub text: String,
    /// How many tokens, as the engine counts them.
    pub tokens: u64,
    /// When we asked.
    pub asked: Timestamp,
    /// When its first word came.
    pub first_token: Timestamp,
    /// How long the engine itself took over the prompt, where it says so.
    pub prompt_seconds: Option<f64>,
}

impl Client {
    /// Reads the Secret.
    ///
    /// # Errors
    /// When it is not there, or lacks a key.
    pub async fn from_secret(
        kube: kube::Client,
        namespace: &str,
        session: &str,
    ) -> Result<Client, Error> {
        let name = format!("{session}-chat");
        let secrets: Api<Secret> = Api::namespaced(kube, namespace);
        let secret = secrets
            .get(&name)
            .await
            .map_err(|error| Error::Secret(name.clone(), Some(error)))?;
        let text = |key: &str| {
            let bytes = secret.data.as_ref()?.get(key)?;
            String::from_utf8(bytes.0.clone()).ok()
        };
        let found = text("OPENAI_BASE_URL")
            .zip(text("OPENAI_API_KEY"))
            .zip(text("ca.crt"));
        let ((base, token), ca) = found.ok_or_else(|| Error::Secret(name.clone(), None))?;
        let ca = Certificate::from_pem(ca.as_bytes())
            .map_err(|error| Error::Http("read ca.crt", error))?;
        let http = reqwest::Client::builder()
            .tls_certs_only([ca])
            .no_proxy()
            .connect_timeout(SILENCE)
            .read_timeout(SILENCE)
            .build()
            .map_err(|error| Error::Http("make an HTTP client", error))?;
        Ok(Client { http, base, token })
    }

    /// A request below the URL that the Secret names, with its token.
    pub fn post(&self, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.base);
        self.http.post(url).bearer_auth(&self.token)
    }

    /// Asks, and hands each piece of the answer on as it comes.
    ///
    /// # Errors
    /// When the gateway refuses, the stream breaks, or nothing is said.
    pub async fn ask(
        &self,
        model: &str,
        question: &str,
        mut piece: impl FnMut(&str),
    ) -> Result<Answer, Error> {
        const WHAT: &str = "ask";
        let body = json!({
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": LONGEST_ANSWER,
            "temperature": 0,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        let asked = Timestamp::now();
        let request = self.post("/chat/completions").json(&body);
        let answer = request
            .send()
            .await
            .map_err(|error| Error::Http(WHAT, error))?;
        let mut stream = expect(WHAT, StatusCode::OK, answer).await?.bytes_stream();

        let (mut buffer, mut text, mut first, mut said) =
            (Vec::new(), String::new(), None, Said::default());
        while let Some(bytes) = stream.next().await {
            buffer.extend_from_slice(&bytes.map_err(|error| Error::Http(WHAT, error))?);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                if let Some(words) = said.line(&String::from_utf8_lossy(&line)) {
                    first.get_or_insert_with(Timestamp::now);
                    piece(&words);
                    text.push_str(&words);
                }
            }
        }
        let Some(first_token) = first else {
            return Err(Error::Answer {
                what: WHAT,
                status: StatusCode::OK,
                body: "an empty stream".to_owned(),
            });
        };
        Ok(Answer {
            text,
            tokens: said.tokens,
            asked,
            first_token,
            prompt_seconds: said.prompt_seconds,
        })
    }

    /// Uploads `content` and downloads it again; whether the same came back, by SHA-256.
    ///
    /// # Errors
    /// When the gateway refuses either.
    pub async fn round_trip(&self, name: &str, content: Vec<u8>) -> Result<bool, Error> {
        let url = format!("{}/files/{name}", self.session());
        let sent = Sha256::digest(&content);
        let up = self
            .http
            .put(&url)
            .bearer_auth(&self.token)
            .body(content)
            .send()
            .await;
        let up = up.map_err(|error| Error::Http("upload", error))?;
        if !up.status().is_success() {
            return Err(refused("upload", up).await);
        }
        let down = self.http.get(&url).bearer_auth(&self.token).send().await;
        let down = expect(
            "download",
            StatusCode::OK,
            down.map_err(|error| Error::Http("download", error))?,
        )
        .await?;
        let back = down
            .bytes()
            .await
            .map_err(|error| Error::Http("download", error))?;
        Ok(Sha256::digest(&back) == sent)
    }

    /// The end of the engine's log.
    ///
    /// # Errors
    /// When the gateway cannot be reached, or refuses.
    pub async fn logs(&self) -> Result<String, Error> {
        let url = format!("{}/logs?tail=10000", self.session());
        let answer = self.http.get(url).bearer_auth(&self.token).send().await;
        let answer = expect(
            "read the log",
            StatusCode::OK,
            answer.map_err(|error| Error::Http("read the log", error))?,
        );
        answer
            .await?
            .text()
            .await
            .map_err(|error| Error::Http("read the log", error))
    }

    /// What a token that is well formed and wrong gets, and what a session that does not exist gets with it.
    ///
    /// # Errors
    /// When the gateway cannot be reached.
    pub async fn strangers(&self) -> Result<(StatusCode, StatusCode), Error> {
        let mut wrong = self.token.clone();
        let last = wrong.pop();
        wrong.push(if last == Some('A') { 'B' } else { 'A' });
        let known = self.get(&format!("{}/models", self.base), &wrong).await?;
        let unknown = self
            .get(
                &format!("{}-of-nobody/v1/models", self.session()),
                &self.token,
            )
            .await?;
        Ok((known, unknown))
    }

    async fn get(&self, url: &str, token: &str) -> Result<StatusCode, Error> {
        let answer = self.http.get(url).bearer_auth(token).send().await;
        Ok(answer
            .map_err(|error| Error::Http("knock", error))?
            .status())
    }

    /// The URL of the session, under which its files are.
    fn session(&self) -> &str {
        self.base.strip_suffix("/v1").unwrap_or(&self.base)
    }
}

/// What the lines of a stream have said besides words.
#[derive(Default)]
struct Said {
    tokens: u64,
    prompt_seconds: Option<f64>,
}

impl Said {
    /// The words in one line of server-sent events.
    fn line(&mut self, line: &str) -> Option<String> {
        let chunk: Value = serde_json::from_str(line.trim().strip_prefix("data:")?.trim()).ok()?;
        if let Some(tokens) = chunk["usage"]["completion_tokens"].as_u64() {
            self.tokens = tokens;
        }
        if let Some(milliseconds) = chunk["timings"]["prompt_ms"].as_f64() {
            self.prompt_seconds = Some(milliseconds / 1000.0);
        }
        let words = chunk["choices"][0]["delta"]["content"].as_str()?;
        (!words.is_empty()).then(|| words.to_owned())
    }
}

async fn expect(
    what: &'static str,
    status: StatusCode,
    answer: reqwest::Response,
) -> Result<reqwest::Response, Error> {
    if answer.status() == status {
        Ok(answer)
    } else {
        Err(refused(what, answer).await)
    }
}

async fn refused(what: &'static str, answer: reqwest::Response) -> Error {
    let status = answer.status();
    Error::Answer {
        what,
        status,
        body: answer.text().await.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_from_the_rest_of_a_stream() {
        let mut said = Said::default();
        assert_eq!(
            said.line(r#"data: {"choices":[{"delta":{"content":"Paris"}}]}"#)
                .as_deref(),
            Some("Paris")
        );
        assert_eq!(
            said.line(r#"data: {"choices":[{"delta":{"role":"assistant","content":null}}]}"#),
            None
        );
        assert_eq!(said.line(r#"data: {"choices":[],"usage":{"completion_tokens":7},"timings":{"prompt_ms":250.0}}"#), None);
        assert_eq!(said.line("data: [DONE]"), None);
        assert_eq!(said.line(": keep-alive"), None);
        assert_eq!((said.tokens, said.prompt_seconds), (7, Some(0.25)));
    }
}

//! The HTTP client of one session's endpoint: chat, logs, files.

mod certificate;
mod files;

pub use files::{List, Listed, Many, Part, Remote, sha256_of};

use crate::failure::{Code, Failure, chain};
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// A gateway answers a connect within a round trip or two; OpenAI's own clients give it as long.
const CONNECT: Duration = Duration::from_secs(5);
/// Between two pieces of an answer. A long prompt is read for minutes before the first token; the gateway itself
/// ends a stream that is idle for two.
const SILENCE: Duration = Duration::from_secs(300);

/// What the session's Secret says of its endpoint.
pub struct Endpoint {
    /// `https://host/namespace/name/v1`.
    pub base_url: String,
    /// The session's token.
    pub key: SecretString,
    /// PEM of the certificate authority to trust, when it is the installation's own.
    pub ca: Option<Vec<u8>>,
}

/// One session's endpoint, ready for requests.
#[derive(Clone)]
pub struct Gateway {
    http: Client,
    base_url: String,
    key: SecretString,
}

impl Gateway {
    /// Prepares the client; connects to nothing yet. With `local`, connections go to that port of this machine
    /// while certificate and host name stay those of the gateway.
    pub fn new(endpoint: Endpoint, local: Option<u16>) -> Result<Self, Failure> {
        let Endpoint { base_url, key, ca } = endpoint;
        let mut client = Client::builder()
            .user_agent(concat!("srchat/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .https_only(true)
            .no_proxy();
        if let Some(pem) = ca {
            let roots = Certificate::from_pem_bundle(&pem).map_err(|e| {
                Failure::new(
                    Code::Error,
                    format!("the certificate authority in the session's Secret is unreadable: {e}"),
                )
            })?;
            client = client.tls_certs_only(roots);
        }
        let mut base_url = base_url.trim_end_matches('/').to_owned();
        if let Some(port) = local {
            let mut url = parse(&base_url)?;
            if let Some(host) = url.host_str() {
                client = client.resolve(host, ([127, 0, 0, 1], 0).into());
            }
            if url.set_port(Some(port)).is_err() {
                return Err(bad_url(&base_url));
            }
            base_url = url.as_str().trim_end_matches('/').to_owned();
        }
        let http = client.build().map_err(|e| {
            Failure::new(Code::Error, format!("could not prepare TLS: {}", chain(&e)))
        })?;
        Ok(Self {
            http,
            base_url,
            key,
        })
    }

    /// Sends a chat completion request and returns the answer's body, streamed when the request says so.
    pub async fn chat(&self, request: &Value) -> Result<Response, Failure> {
        self.send(
            self.http
                .post(format!("{}/chat/completions", self.base_url))
                .json(request),
        )
        .await
    }

    /// Opens the end of the model server's log; with `follow` it goes on for as long as the session serves.
    pub async fn logs(&self, tail: u32, follow: bool) -> Result<Response, Failure> {
        let tail = tail.to_string();
        let follow = if follow { "true" } else { "false" };
        let asked = [("tail", tail.as_str()), ("follow", follow)];
        let url = self.beside("logs")?;
        self.send(self.http.get(url).query(&asked)).await
    }

    /// Passes on a request of somebody else's: a path below `/v1`, query included; any status is an answer.
    pub async fn relay(
        &self,
        method: reqwest::Method,
        path: &str,
        headers: header::HeaderMap,
        body: bytes::Bytes,
    ) -> Result<Response, Failure> {
        let url = parse(&format!("{}{path}", self.base_url))?;
        // Dots in a path are resolved by now: it must not have left the session.
        if !url.as_str().starts_with(&format!("{}/", self.base_url)) {
            return Err(Failure::new(
                Code::NotFound,
                "There is nothing at this path.",
            ));
        }
        let request = self.http.request(method, url).headers(headers).body(body);
        self.exchange(request).await
    }

    /// Asks the gateway whether it is ready, and says where it is.
    pub async fn ready(&self) -> Result<String, Failure> {
        let mut url = parse(&self.base_url)?;
        url.set_path("/readyz");
        self.send(self.http.get(url.clone())).await?;
        url.set_path("");
        Ok(url.as_str().trim_end_matches('/').to_owned())
    }

    /// A sum of the token for one purpose, 64 hex digits: the token cannot be told from it, nor one purpose from another.
    pub fn fingerprint(&self, purpose: &str) -> String {
        let sum = Sha256::new()
            .chain_update(purpose)
            .chain_update([0])
            .chain_update(self.key.expose_secret())
            .finalize();
        hex::encode(sum)
    }

    /// Follows the session's state: server-sent events, the first at once, until the session or the gateway ends.
    pub async fn status(&self) -> Result<Response, Failure> {
        let url = self.beside("status")?;
        self.send(self.http.get(url)).await
    }

    /// The one model that is served, as OpenAI lists models.
    pub async fn models(&self) -> Result<Value, Failure> {
        let answer = self
            .send(self.http.get(format!("{}/models", self.base_url)))
            .await?;
        answer.json().await.map_err(|e| broken(&e))
    }

    /// What stands beside `/v1` in the session's own URL.
    fn beside(&self, path: &str) -> Result<reqwest::Url, Failure> {
        let session = self
            .base_url
            .strip_suffix("/v1")
            .ok_or_else(|| bad_url(&self.base_url))?;
        parse(&format!("{session}/{path}"))
    }

    /// The session's name, for hints.
    fn name(&self) -> &str {
        let session = self.base_url.trim_end_matches("/v1");
        session.rsplit('/').next().unwrap_or_default()
    }

    /// Sends a request with the session's token; any status is an answer.
    async fn exchange(&self, request: RequestBuilder) -> Result<Response, Failure> {
        request
            .bearer_auth(self.key.expose_secret())
            .send()
            .await
            .map_err(|e| unreachable(self.name(), &e))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let answer = self.exchange(request).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(self.refusal(answer).await)
    }

    async fn refusal(&self, answer: Response) -> Failure {
        let status = answer.status();
        let body = answer.bytes().await.unwrap_or_default();
        refused(self.name(), status, &body)
    }
}

fn parse(url: &str) -> Result<reqwest::Url, Failure> {
    reqwest::Url::parse(url).map_err(|_| bad_url(url))
}

fn bad_url(url: &str) -> Failure {
    Failure::new(
        Code::Error,
        format!("{url:?} in the session's Secret is not the URL of an endpoint"),
    )
}

fn unreachable(name: &str, error: &reqwest::Error) -> Failure {
    if error.is_body() {
        return Failure::new(Code::Transfer, chain(error)).passing();
    }
    let host = error.url().and_then(reqwest::Url::host_str);
    if let Some(refused) = certificate::refused(host.unwrap_or("the gateway"), error) {
        return refused;
    }
    Failure::new(
        Code::NotReady,
        format!("the gateway cannot be reached: {}", chain(error)),
    )
    .passing()
    .hint(format!(
        "`srchat status {name}` shows the endpoint, `srchat doctor` whether the gateway runs"
    ))
}

/// A connection that broke while the answer was read.
pub fn broken(error: &reqwest::Error) -> Failure {
    Failure::new(
        Code::Model,
        format!("the answer broke off: {}", chain(error)),
    )
    .hint("ask again; `srchat ls` shows whether the session still runs")
}

/// The gateway's errors have OpenAI's shape: `{"error":{"message",..}}`.
fn refused(name: &str, status: StatusCode, body: &[u8]) -> Failure {
    let body = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let said = body["error"]["message"].as_str().map(str::to_owned);
    let message = said.map_or_else(
        || format!("the gateway answered {status}"),
        |said| said.trim_end_matches('.').to_owned(),
    );
    let code = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Code::NotAllowed,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::SERVICE_UNAVAILABLE => Code::NotReady,
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Code::Model,
        StatusCode::INSUFFICIENT_STORAGE
        | StatusCode::CONFLICT
        | StatusCode::UNPROCESSABLE_ENTITY => Code::Transfer,
        _ => Code::Error,
    };
    // A gateway that starts, a host that is between two connections, a cut upload that is still being noticed.
    let passing = match status {
        StatusCode::SERVICE_UNAVAILABLE => body["error"]["code"] == "not_ready",
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => true,
        StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => true,
        _ => false,
    };
    let failure = Failure {
        passing,
        ..Failure::new(code, message)
    };
    match code {
        Code::NotAllowed => failure.hint(
            "the session's token has changed or the session has ended: read its Secret again",
        ),
        Code::NotReady => failure.hint(format!(
            "`srchat status {name}` says how far it is; `srchat attach {name} --wait 20m` waits for it"
        )),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(super) fn gateway(local: Option<u16>) -> Gateway {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let endpoint = Endpoint {
            base_url: "https://chat.example:8443/team/qwen/v1/".into(),
            key: SecretString::from("srchat_x_y"),
            ca: None,
        };
        Gateway::new(endpoint, local).unwrap()
    }

    #[test]
    fn hints_name_the_session() {
        assert_eq!(gateway(None).name(), "qwen");
    }

    #[test]
    fn a_forwarded_port_keeps_the_host_name_for_tls() {
        assert_eq!(
            gateway(Some(4000)).base_url,
            "https://chat.example:4000/team/qwen/v1"
        );
    }

    #[test]
    fn the_gateways_own_words_reach_the_person() {
        let body =
            br#"{"error":{"message":"the model is loading","type":"x","param":null,"code":"x"}}"#;
        let failure = refused("qwen", StatusCode::SERVICE_UNAVAILABLE, body);
        assert_eq!(failure.message, "the model is loading");
        assert_eq!(failure.code, Code::NotReady);
    }

    #[test]
    fn an_answer_that_is_not_json_is_still_a_sentence() {
        let failure = refused("qwen", StatusCode::BAD_GATEWAY, b"<html>");
        assert_eq!(failure.message, "the gateway answered 502 Bad Gateway");
        assert_eq!(failure.code, Code::Model);
    }
}

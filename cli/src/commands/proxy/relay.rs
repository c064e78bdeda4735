//! One request after the other: judged, sent to the gateway with the session's token, its answer handed back as it comes.

use crate::cluster::Cluster;
use crate::failure::{Code, Failure, chain};
use crate::gateway::Gateway;
use bytes::Bytes;
use futures::TryStreamExt as _;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use tokio::sync::Mutex;

/// The gateway takes 32 MiB, images included.
const LARGEST: usize = 32 << 20;
/// What a client's request says that matters to the gateway.
const PASSED_ON: [HeaderName; 2] = [header::CONTENT_TYPE, header::ACCEPT];
/// What belongs to one connection and not to the answer.
const OF_A_CONNECTION: [HeaderName; 4] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
];

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// The way to one session.
pub struct Relay {
    cluster: Cluster,
    name: String,
    gateway: Mutex<Arc<Gateway>>,
    key: String,
}

impl Relay {
    /// Finds the session's endpoint.
    pub async fn new(cluster: Cluster, name: &str) -> Result<Self, Failure> {
        let gateway = cluster.gateway(name).await?;
        let key = local_key(&gateway);
        Ok(Self {
            cluster,
            name: name.to_owned(),
            gateway: Mutex::new(Arc::new(gateway)),
            key,
        })
    }

    /// What clients on this machine have to show. It opens this door only: the session's own token is never shown, and other
    /// users of this machine and pages in a browser do not have it.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Answers one request; what goes wrong is an answer as well, in OpenAI's shape.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match self.relay(request).await {
            Ok(answer) => answer,
            Err(Refusal { status, message }) => {
                let body = json!({"error": {
                    "message": message, "type": kind(status), "param": null, "code": null,
                }});
                let mut answer = Response::new(whole(body.to_string()));
                *answer.status_mut() = status;
                let json = HeaderValue::from_static("application/json");
                answer.headers_mut().insert(header::CONTENT_TYPE, json);
                answer
            }
        }
    }

    async fn relay(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let (head, body) = request.into_parts();
        admitted(&head.headers, &self.key)?;
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let path = path
            .strip_prefix("/v1")
            .filter(|rest| rest.starts_with('/'));
        let path = path.ok_or_else(|| {
            Refusal::new(
                StatusCode::NOT_FOUND,
                "There is nothing at this path; all is below /v1/.",
            )
        })?;
        let body = Limited::new(body, LARGEST).collect().await.map_err(|_| {
            Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "The body is larger than 32 MiB, or broke off.",
            )
        })?;
        let body = body.to_bytes();
        let mut headers = HeaderMap::new();
        for name in PASSED_ON {
            if let Some(value) = head.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        let send = |gateway: Arc<Gateway>| {
            let (method, headers, body) = (head.method.clone(), headers.clone(), body.clone());
            async move { gateway.relay(method, path, headers, body).await }
        };
        let gateway = Arc::clone(&*self.gateway.lock().await);
        let answer = match send(Arc::clone(&gateway)).await {
            // Nothing was received, or nothing was done: another way to the gateway, or the token of today, may do.
            Err(failure) if failure.passing => send(self.again(&gateway).await?).await,
            Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED => {
                send(self.again(&gateway).await?).await
            }
            answer => answer,
        };
        Ok(handed_back(answer?))
    }

    /// The endpoint as it is now, found once for all who saw the same one fail.
    async fn again(&self, failed: &Arc<Gateway>) -> Result<Arc<Gateway>, Refusal> {
        let mut gateway = self.gateway.lock().await;
        if Arc::ptr_eq(&gateway, failed) {
            *gateway = Arc::new(self.cluster.gateway(&self.name).await?);
        }
        Ok(Arc::clone(&gateway))
    }
}

/// The same for as long as the session has its token, so that a tool's settings stay right; the token cannot be told from it.
fn local_key(gateway: &Gateway) -> String {
    format!(
        "srchat-local-{}",
        &gateway.fingerprint("srchat proxy")[..40]
    )
}

/// A name that leads here is no proof that the caller meant us: pages in a browser can let any name resolve to loopback
/// (DNS rebinding). So the name must be loopback's own, and the key must be ours.
fn admitted(headers: &HeaderMap, key: &str) -> Result<(), Refusal> {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    if !host.is_some_and(is_loopback) {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "This is 127.0.0.1 and answers to no other name.",
        ));
    }
    let shown = headers.get(header::AUTHORIZATION);
    let shown = shown.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    // Sums are compared, so that the time it takes tells nothing of the key.
    let same = shown.is_some_and(|shown| Sha256::digest(shown.trim()) == Sha256::digest(key));
    match same {
        true => Ok(()),
        false => Err(Refusal::new(
            StatusCode::UNAUTHORIZED,
            "The API key is the OPENAI_API_KEY that `srchat proxy` has printed.",
        )),
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "127.0.0.1" | "[::1]") || name.eq_ignore_ascii_case("localhost")
}

fn handed_back(answer: reqwest::Response) -> Response<Body> {
    let mut back = Response::new(());
    *back.status_mut() = answer.status();
    for (name, value) in answer.headers() {
        if !OF_A_CONNECTION.contains(name) {
            back.headers_mut().append(name, value.clone());
        }
    }
    let pieces = answer
        .bytes_stream()
        .map_ok(Frame::data)
        .map_err(|e| std::io::Error::other(chain(&e)));
    back.map(|()| StreamBody::new(pieces).boxed_unsync())
}

fn whole(text: String) -> Body {
    Full::from(text)
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Why a request is not answered by the session.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, message: &str) -> Self {
        Self {
            status,
            message: message.to_owned(),
        }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let status = match failure.code {
            Code::NotReady => StatusCode::SERVICE_UNAVAILABLE,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::NotAllowed => StatusCode::UNAUTHORIZED,
            Code::Usage => StatusCode::BAD_REQUEST,
            _ => StatusCode::BAD_GATEWAY,
        };
        Self {
            status,
            message: failure.message,
        }
    }
}

fn kind(status: StatusCode) -> &'static str {
    match status.is_client_error() {
        true => "invalid_request_error",
        false => "server_error",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(host: &str, key: &str) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_str(text).unwrap();
        HeaderMap::from_iter([
            (header::HOST, value(host)),
            (header::AUTHORIZATION, value(&format!("Bearer {key}"))),
        ])
    }

    #[test]
    fn a_name_that_was_bound_to_loopback_by_somebody_else_is_refused() {
        for host in ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080"] {
            assert!(admitted(&headers(host, "k"), "k").is_ok(), "{host}");
        }
        for host in [
            "evil.example:8080",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "",
        ] {
            let refused = admitted(&headers(host, "k"), "k").unwrap_err();
            assert_eq!(refused.status, StatusCode::FORBIDDEN, "{host}");
        }
        assert!(admitted(&HeaderMap::new(), "k").is_err());
    }

    #[test]
    fn nobody_without_the_key_is_let_through() {
        let refused = admitted(&headers("localhost", "other"), "k").unwrap_err();
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    }
}

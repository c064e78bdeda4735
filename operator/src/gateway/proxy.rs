//! Requests to the engine and its answers on their way back.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::body::{Answer, Budget, content_length, full, json};
use super::identity::Grant;
use super::meter::{Meter, Tokens};
use super::rebuild::{Rebuilt, rebuild};
use super::refusal::{EngineError, Refusal};
use super::routes::What;
use super::scan::{self, Scan};
use super::sessions::{Admitted, Known};
use super::tunnel::{Exchange, Lease, Use};
use crate::route::RouteHost;

/// Between two pieces of an answer. Engines send a token every few milliseconds, a long prompt is read in less.
const SILENCE: Duration = Duration::from_secs(120);
/// An answer up to this size is read whole, so that reasoning in it gets both names; a larger one passes as it comes.
const WHOLE_BYTES: u64 = 4 << 20;
/// What an engine says of an error.
const ERROR_BYTES: usize = 64 << 10;

/// `/v1/models`: the one model, without asking the engine.
pub fn models(host: &RouteHost, known: &Known) -> Answer {
    #[derive(serde::Serialize)]
    struct List<'a> {
        object: &'static str,
        data: [Model<'a>; 1],
    }
    json(&List {
        object: "list",
        data: [model_of(host, known)],
    })
}

/// `/v1/models/{id}`.
pub fn model(id: &str, host: &RouteHost, known: &Known) -> Result<Answer, Refusal> {
    if id != host.served_name {
        return Err(Refusal::NoSuchModel);
    }
    Ok(json(&model_of(host, known)))
}

#[derive(serde::Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    owned_by: &'static str,
    max_model_len: u32,
}

fn model_of<'a>(host: &'a RouteHost, known: &Known) -> Model<'a> {
    Model {
        id: &host.served_name,
        object: "model",
        created: known.route.ready.map_or(0, |ready| ready.as_second()),
        owned_by: "srchat",
        max_model_len: host.max_model_len,
    }
}

/// A completion, embedding or response: rebuilt, sent, and its answer relayed.
pub async fn ask(
    what: &What,
    admitted: Admitted,
    headers: &HeaderMap,
    body: Incoming,
    budget: &Budget,
    meter: &Meter,
) -> Result<Answer, Refusal> {
    let Admitted {
        session: _,
        known,
        slot,
        grant,
    } = admitted;
    let tunnel = known.serving()?;
    let Rebuilt {
        path,
        body,
        stream: _,
    } = {
        let json = budget.read(headers, body).await?;
        rebuild(what, &json.bytes, &tunnel.host).ok_or(Refusal::NoSuchPath)??
    };
    let in_use = tunnel.begin_use();
    meter.handed_over();
    let exchange = tokio::select! {
        exchange = tunnel.ask(Method::POST, path, body.into()) => exchange?,
        () = known.revoked.cancelled() => return Err(Refusal::Unauthorized),
    };
    let revoked = Box::pin(known.revoked.clone().cancelled_owned());
    answer(
        exchange,
        Held {
            revoked,
            _in_use: in_use,
            _slot: slot,
            _grant: grant,
        },
        meter.tokens(),
    )
    .await
}

/// What lasts as long as the answer.
struct Held {
    revoked: Pin<Box<WaitForCancellationFutureOwned>>,
    _in_use: Use,
    _slot: OwnedSemaphorePermit,
    _grant: Option<Arc<Grant>>,
}

async fn answer(exchange: Exchange, held: Held, mut tokens: Tokens) -> Result<Answer, Refusal> {
    let Exchange { response, lease } = exchange;
    let (head, body) = response.into_parts();
    if !head.status.is_success() {
        let said = timeout(SILENCE, whole(body, ERROR_BYTES))
            .await
            .map_err(|_elapsed| Refusal::EngineTimeout)??;
        lease.give_back();
        return Err(engine_error(head.status, &said));
    }
    let kind = head.headers.get(header::CONTENT_TYPE).cloned();
    let events = kind
        .as_ref()
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let small = content_length(&head.headers).is_some_and(|length| length <= WHOLE_BYTES);
    let mut answer = if !events && small {
        let said = timeout(SILENCE, whole(body, WHOLE_BYTES as usize))
            .await
            .map_err(|_elapsed| Refusal::EngineTimeout)??;
        lease.give_back();
        tokens.arrived();
        tokens.ended(scan::usage(&said), 0);
        Response::new(full(scan::both_names(&said).map_or(said, Bytes::from)))
    } else {
        let heard = Instant::now();
        let relay = Relay {
            body,
            lease: Some(lease),
            scan: events.then(Scan::default),
            heard,
            silence: Box::pin(sleep_until(heard + SILENCE)),
            held,
            tokens,
            done: false,
        };
        Response::new(relay.boxed_unsync())
    };
    *answer.status_mut() = head.status;
    let headers = answer.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        kind.unwrap_or(HeaderValue::from_static("application/json")),
    );
    if events {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // nginx in front of us would gather the tokens otherwise.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    }
    Ok(answer)
}

async fn whole(mut body: Incoming, limit: usize) -> Result<Bytes, Refusal> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_error| Refusal::EngineFailed)?;
        if let Ok(data) = frame.into_data() {
            if bytes.len() + data.len() > limit {
                return Err(Refusal::EngineFailed);
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}

/// An engine's error in OpenAI's shape, whatever shape the engine gave it.
fn engine_error(status: StatusCode, said: &[u8]) -> Refusal {
    /// vLLM and llama.cpp put it under `error`, older vLLM at the top, FastAPI under `detail`.
    #[derive(Deserialize)]
    struct Said {
        error: Option<Inner>,
        message: Option<String>,
        detail: Option<serde_json::Value>,
        param: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Inner {
        Object {
            message: Option<String>,
            param: Option<String>,
        },
        Text(String),
    }
    let said: Option<Said> = serde_json::from_slice(said).ok();
    let (message, param) = match said {
        None => (None, None),
        Some(Said {
            error: Some(Inner::Object { message, param }),
            ..
        }) => (message, param),
        Some(Said {
            error: Some(Inner::Text(message)),
            ..
        }) => (Some(message), None),
        Some(Said {
            error: None,
            message: Some(message),
            detail: _,
            param,
        }) => (Some(message), param),
        Some(Said {
            error: None,
            message: None,
            detail,
            param,
        }) => (
            detail.map(|detail| match detail {
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            }),
            param,
        ),
    };
    Refusal::Engine(Box::new(EngineError {
        status,
        message,
        param,
    }))
}

/// An answer that passes as it comes. Dropped before its end, it closes the connection to the engine, which stops generating.
struct Relay {
    body: Incoming,
    lease: Option<Lease>,
    scan: Option<Scan>,
    heard: Instant,
    silence: Pin<Box<Sleep>>,
    held: Held,
    tokens: Tokens,
    done: bool,
}

impl Relay {
    /// Ends the answer early: a stream of events with one that says why, anything else by breaking off.
    fn fail(&mut self, why: &Refusal) -> Option<io::Result<Frame<Bytes>>> {
        self.done = true;
        self.lease = None;
        match self.scan {
            Some(_) => Some(Ok(Frame::data(why.event()))),
            None => Some(Err(io::Error::other("the answer broke off"))),
        }
    }

    /// The engine is silent: has it been for too long? Re-armed here instead of at every token.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.silence.as_mut().poll(cx).is_ready() {
            let until = self.heard + SILENCE;
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            self.silence.as_mut().reset(until);
        }
        Poll::Pending
    }
}

impl Body for Relay {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let relay = self.get_mut();
        if relay.done {
            return Poll::Ready(None);
        }
        loop {
            match Pin::new(&mut relay.body).poll_frame(cx) {
                // Here and not at every token: an engine pauses between two of them for longer than a gateway.
                Poll::Pending => {
                    if relay.held.revoked.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(relay.fail(&Refusal::Unauthorized));
                    }
                    ready!(relay.poll_silence(cx));
                    return Poll::Ready(relay.fail(&Refusal::EngineTimeout));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    relay.heard = Instant::now();
                    relay.tokens.arrived();
                    let data = match &mut relay.scan {
                        Some(scan) => scan.feed(data),
                        None => data,
                    };
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
                Poll::Ready(Some(Err(_error))) => {
                    return Poll::Ready(relay.fail(&Refusal::EngineFailed));
                }
                Poll::Ready(None) => {
                    relay.done = true;
                    if let Some(lease) = relay.lease.take() {
                        lease.give_back();
                    }
                    let rest = relay.scan.as_mut().map(Scan::finish).unwrap_or_default();
                    return Poll::Ready((!rest.is_empty()).then(|| Ok(Frame::data(rest))));
                }
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let (usage, events) = self
            .scan
            .as_ref()
            .map_or((None, 0), |scan| (scan.usage, scan.events));
        self.tokens.ended(usage, events);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_engines_error_gets_openais_shape() {
        let cases = [
            (
                r#"{"error":{"message":"too long","type":"BadRequestError","param":"messages","code":400}}"#,
                "too long",
                Some("messages"),
            ),
            (
                r#"{"error":{"code":400,"message":"no slot","type":"invalid_request_error"}}"#,
                "no slot",
                None,
            ),
            (
                r#"{"object":"error","message":"old","type":"x","param":null,"code":400}"#,
                "old",
                None,
            ),
            (
                r#"{"detail":"Unexpected fields"}"#,
                "Unexpected fields",
                None,
            ),
            (r#"{"error":"plain"}"#, "plain", None),
        ];
        for (said, message, param) in cases {
            let json: serde_json::Value = serde_json::from_slice(
                &engine_error(StatusCode::BAD_REQUEST, said.as_bytes()).json(),
            )
            .unwrap();
            assert_eq!(json["error"]["message"], message);
            assert_eq!(json["error"]["param"].as_str(), param);
            assert_eq!(json["error"]["type"], "invalid_request_error");
        }
    }

    #[test]
    fn an_error_that_is_no_json_is_still_an_error() {
        let refusal = engine_error(StatusCode::INTERNAL_SERVER_ERROR, b"<html>oops</html>");
        assert_eq!(refusal.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(
            !String::from_utf8(refusal.json().to_vec())
                .unwrap()
                .contains("html")
        );
    }
}

//! An engine that is no model: it answers at once, in OpenAI's shapes, with tokens that a test has written, at a pace that a test
//! sets, and breaks where it is told to.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

type Body = StreamBody<BoxStream<'static, io::Result<Frame<Bytes>>>>;

/// What the engine does with the requests that come from now on.
#[derive(Clone, Debug)]
pub struct Script {
    /// The answer, token by token.
    pub tokens: Vec<String>,
    /// What it thinks before, if it does: one piece, under this name.
    pub reasoning: Option<(&'static str, String)>,
    /// When each token comes.
    pub pace: Pace,
    /// Each token of a stream is the moment at which it was made, in nanoseconds since 1970: for benchmarks.
    pub stamped: bool,
    /// What goes wrong.
    pub fault: Option<Fault>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            tokens: ["The", " capital", " is", " Paris", "."]
                .map(str::to_owned)
                .to_vec(),
            reasoning: None,
            pace: Pace::Free,
            stamped: false,
            fault: None,
        }
    }
}

/// When tokens come.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// At once.
    Free,
    /// One for each [`ScriptedEngine::step`].
    Stepped,
    /// One after each such time: for benchmarks.
    Every(Duration),
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection breaks after so many tokens.
    DiesAfter(usize),
    /// What is answered is not HTTP.
    Malformed,
    /// One event has so many bytes.
    Huge(usize),
    /// This status and body instead of an answer.
    Refuses(u16, &'static str),
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its path.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its JSON, `null` if it had none.
    pub body: Value,
}

/// The engine, listening on a loopback port of its own until dropped.
pub struct ScriptedEngine {
    address: SocketAddr,
    state: Arc<State>,
    _server: AbortOnDropHandle<()>,
}

struct State {
    script: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
    steps: Semaphore,
    connections: AtomicUsize,
    answering: AtomicUsize,
    abandoned: AtomicUsize,
}

impl ScriptedEngine {
    /// Starts it.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(script: Script) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            script: Mutex::new(script),
            seen: Mutex::default(),
            steps: Semaphore::new(0),
            connections: AtomicUsize::new(0),
            answering: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
        });
        let server = tokio::spawn(accept(listener, state.clone()));
        Ok(Self {
            address,
            state,
            _server: AbortOnDropHandle::new(server),
        })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Another script for the requests from now on.
    pub fn follow(&self, script: Script) {
        *self
            .state
            .script
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = script;
    }

    /// Lets a stepped answer go on by so many tokens.
    pub fn step(&self, tokens: usize) {
        self.state.steps.add_permits(tokens);
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Connections made to it so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Answers being given now.
    pub fn answering(&self) -> usize {
        self.state.answering.load(Ordering::Relaxed)
    }

    /// Answers that whoever asked did not wait for.
    pub fn abandoned(&self) -> usize {
        self.state.abandoned.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _peer)) = listener.accept().await {
        state.connections.fetch_add(1, Ordering::Relaxed);
        connections.spawn(serve(stream, state.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) {
    // A peer that is gone is no matter of the engine's.
    let _ = stream.set_nodelay(true);
    let fault = state
        .script
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .fault
        .clone();
    if matches!(fault, Some(Fault::Malformed)) {
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(b"\0\0 SSH-2.0-nonsense\r\n\r\n").await;
        return;
    }
    let service = service_fn(move |request| answer(request, state.clone()));
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Counts an answer from its beginning to its end, or to its being dropped before.
struct Answering {
    state: Arc<State>,
    ended: bool,
}

impl Answering {
    fn begin(state: Arc<State>) -> Self {
        state.answering.fetch_add(1, Ordering::Relaxed);
        Self {
            state,
            ended: false,
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.state.answering.fetch_sub(1, Ordering::Relaxed);
        if !self.ended {
            self.state.abandoned.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<State>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path = head.uri.path().to_owned();
    let seen = Seen {
        path: path.clone(),
        headers: head.headers,
        body: body.clone(),
    };
    state
        .seen
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(seen);
    let script = state
        .script
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    if let Some(Fault::Refuses(status, said)) = script.fault {
        return Ok(whole(status, said.to_owned()));
    }
    if path == "/health" {
        return Ok(whole(200, String::new()));
    }
    let mut answering = Answering::begin(state);
    if body["stream"] == true {
        return Ok(streamed(script, &body, answering));
    }
    if let Pace::Stepped = script.pace {
        step(&answering.state).await;
    }
    answering.ended = true;
    Ok(whole(200, complete(&path, &script, &body).to_string()))
}

async fn step(state: &State) {
    let permit = state.steps.acquire().await;
    permit.expect("the semaphore is never closed").forget();
}

fn whole(status: u16, text: String) -> Response<Body> {
    let length = text.len();
    let body = stream::iter([Ok(Frame::data(Bytes::from(text)))]).boxed();
    let answer = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, length)
        .body(StreamBody::new(body));
    answer.expect("a known status and two plain headers")
}

fn usage(script: &Script) -> Value {
    let tokens = script.tokens.len();
    json!({"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens})
}

fn complete(path: &str, script: &Script, body: &Value) -> Value {
    let model = &body["model"];
    let text = script.tokens.concat();
    match path {
        "/v1/embeddings" => {
            json!({"object": "list", "model": model, "usage": {"prompt_tokens": 2, "total_tokens": 2},
            "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}]})
        }
        "/v1/completions" => {
            json!({"id": "cmpl-1", "object": "text_completion", "created": 1, "model": model, "usage": usage(script),
            "choices": [{"index": 0, "text": text, "finish_reason": "stop", "logprobs": null}]})
        }
        _ => {
            let mut message = json!({"role": "assistant", "content": text});
            if let Some((name, thought)) = &script.reasoning {
                message[*name] = json!(thought);
            }
            json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model, "usage": usage(script),
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
        }
    }
}

fn streamed(script: Script, body: &Value, answering: Answering) -> Response<Body> {
    let model = body["model"].clone();
    let event = move |delta: Value, finish: Option<&str>| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        let chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]});
        format!("data: {chunk}\n\n")
    };
    let mut events = Vec::with_capacity(script.tokens.len() + 4);
    if let Some((name, thought)) = &script.reasoning {
        events.push(event(json!({*name: thought}), None));
    }
    if let Some(Fault::Huge(bytes)) = script.fault {
        events.push(event(json!({"content": "x".repeat(bytes)}), None));
    }
    events.extend(
        script
            .tokens
            .iter()
            .map(|token| event(json!({"content": token}), None)),
    );
    let tokens = events.len();
    events.push(event(json!({}), Some("stop")));
    if body["stream_options"]["include_usage"] == true {
        let usage = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "choices": [], "usage": usage(&script)});
        events.push(format!("data: {usage}\n\n"));
    }
    events.push("data: [DONE]\n\n".to_owned());
    let dies = match script.fault {
        Some(Fault::DiesAfter(tokens)) => tokens,
        Some(Fault::Malformed | Fault::Huge(_) | Fault::Refuses(..)) | None => usize::MAX,
    };
    let (last, stamped) = (events.len() - 1, script.stamped);
    let begun = tokio::time::Instant::now();
    let pieces = stream::unfold(
        (events.into_iter().enumerate(), answering),
        move |(mut events, mut answering)| async move {
            let (at, event) = events.next()?;
            if at < tokens {
                match script.pace {
                    Pace::Free => {}
                    Pace::Stepped => step(&answering.state).await,
                    Pace::Every(time) => {
                        tokio::time::sleep_until(begun + time * (at as u32 + 1)).await
                    }
                }
            }
            if at >= dies {
                answering.ended = true;
                // Once not ready, so that hyper sends what came before.
                tokio::task::yield_now().await;
                return Some((
                    Err(io::Error::other("the script says so")),
                    (events, answering),
                ));
            }
            answering.ended = at == last;
            let event = if stamped { stamp(&event) } else { event };
            Some((Ok(Frame::data(Bytes::from(event))), (events, answering)))
        },
    );
    let answer = Response::builder()
        .header(header::CONTENT_TYPE, "text/event-stream")
        .body(StreamBody::new(pieces.boxed()));
    answer.expect("one plain header")
}

/// Puts the present moment into an empty token.
fn stamp(event: &str) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    event.replacen(
        "\"content\":\"\"",
        &format!("\"content\":\"{}\"", now.as_nanos()),
        1,
    )
}

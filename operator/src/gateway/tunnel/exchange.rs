//! One request and its answer over a forward. A connection is used again only after an answer that ended as HTTP says; anything else
//! closes it, so that no answer can reach another's request.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::Tunnel;
use crate::gateway::refusal::Refusal;
use crate::ssh;

/// uvicorn and cpp-httplib close an idle connection after 5 s: one that is older may be closed at the moment it is used.
const IDLE: Duration = Duration::from_secs(3);
/// Idle connections kept for one session.
const IDLE_MAX: usize = 32;
/// Until an answer's headers: an answer that is not streamed has been generated whole by then. OpenAI's clients wait as long.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(600);
/// Opening a forward is a round trip, connecting some more; ssh has limits of its own within.
const OPEN_TIMEOUT: Duration = Duration::from_secs(40);

/// An answer's head, and what its body must be read with.
pub struct Exchange {
    /// Head and body.
    pub response: Response<Incoming>,
    /// To be given back when the body has ended; dropped, it closes the connection at once.
    pub lease: Lease,
}

/// A connection in use.
pub struct Lease {
    sender: SendRequest<Full<Bytes>>,
    /// Owns the forward: ending it closes the channel.
    io: AbortOnDropHandle<()>,
    tunnel: Arc<Tunnel>,
}

impl Lease {
    /// The answer ended as it should: the connection may serve another request.
    pub fn give_back(self) {
        let Self { sender, io, tunnel } = self;
        if !sender.is_closed() {
            tunnel.pool.put(Idle {
                sender,
                io,
                since: Instant::now(),
            });
        }
    }
}

struct Idle {
    sender: SendRequest<Full<Bytes>>,
    io: AbortOnDropHandle<()>,
    since: Instant,
}

/// Connections between two requests.
#[derive(Default)]
pub(super) struct Pool(Mutex<Vec<Idle>>);

impl Pool {
    fn with<T>(&self, act: impl FnOnce(&mut Vec<Idle>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, idle: Idle) {
        self.with(|pool| {
            if pool.len() < IDLE_MAX {
                pool.push(idle);
            }
        });
    }

    /// The youngest, so that the others may grow old and go.
    fn take(&self) -> Option<Idle> {
        self.prune();
        self.with(Vec::pop)
    }

    pub(super) fn prune(&self) {
        self.with(|pool| {
            pool.retain(|idle| idle.since.elapsed() < IDLE && !idle.sender.is_closed())
        });
    }

    pub(super) fn clear(&self) {
        self.with(Vec::clear);
    }
}

impl Tunnel {
    /// Sends a request to the engine and waits for the answer's head.
    pub async fn ask(
        self: &Arc<Self>,
        method: Method,
        path: &'static str,
        body: Bytes,
    ) -> Result<Exchange, Refusal> {
        if let Some(Idle {
            mut sender,
            io,
            since: _,
        }) = self.pool.take()
        {
            // An engine may close a connection while a request is on its way. Nothing has been answered then: ask once more.
            if sender.ready().await.is_ok()
                && let Ok(response) = self.send(&mut sender, &method, path, body.clone()).await?
            {
                return Ok(Exchange {
                    response,
                    lease: Lease {
                        sender,
                        io,
                        tunnel: self.clone(),
                    },
                });
            }
        }
        let (mut sender, io) = self.dial().await?;
        let response = self
            .send(&mut sender, &method, path, body)
            .await?
            .map_err(|_error| Refusal::EngineFailed)?;
        Ok(Exchange {
            response,
            lease: Lease {
                sender,
                io,
                tunnel: self.clone(),
            },
        })
    }

    async fn send(
        &self,
        sender: &mut SendRequest<Full<Bytes>>,
        method: &Method,
        path: &'static str,
        body: Bytes,
    ) -> Result<hyper::Result<Response<Incoming>>, Refusal> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method.clone();
        *request.uri_mut() = http::Uri::from_static(path);
        let headers = request.headers_mut();
        // Everything the engine learns of a client: nothing. No header of a client's goes through.
        headers.insert(header::HOST, HeaderValue::from_static("localhost"));
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        timeout(HEADERS_TIMEOUT, sender.send_request(request))
            .await
            .map_err(|_elapsed| Refusal::EngineTimeout)
    }

    async fn dial(&self) -> Result<(SendRequest<Full<Bytes>>, AbortOnDropHandle<()>), Refusal> {
        let stream = timeout(OPEN_TIMEOUT, self.forward())
            .await
            .map_err(|_elapsed| Refusal::Unreachable)?
            .map_err(|error| match error {
                // The host answers, the engine does not listen.
                ssh::Error::Refused(_) => Refusal::EngineFailed,
                _ => Refusal::Unreachable,
            })?;
        let (sender, connection) = http1::Builder::new()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_error| Refusal::EngineFailed)?;
        let io = tokio::spawn(async move {
            // Its failure is seen by the request that it fails.
            let _ = connection.await;
        });
        Ok((sender, AbortOnDropHandle::new(io)))
    }
}

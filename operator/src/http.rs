//! HTTP/1.1 servers, driven by hyper with the limits that `axum::serve` has not; and the probes and metrics that both processes offer.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// A client sends its headers within this or is cut off; ten seconds are many round trips of the worst mobile link.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Room for a request's line and headers. A browser's or SDK's are under 4 KiB.
pub const HEADER_BYTES: usize = 16 * 1024;
/// Read ahead of a body at once: uploads go faster in larger pieces.
const READ_BYTES: usize = 128 * 1024;
/// Connections to probes and metrics at once: Prometheus, the kubelet and a curious person.
const PROBE_CONNECTIONS: usize = 64;
/// How long to wait after `accept` failed, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a probe needs to know.
#[derive(Clone)]
pub struct Probes {
    registry: Arc<Registry>,
    ready: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Probes {
    /// `ready` is asked at each `/readyz`.
    pub fn new(registry: Arc<Registry>, ready: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self {
            registry,
            ready: Arc::new(ready),
        }
    }
}

/// Serves `/metrics`, `/healthz` and `/readyz` until cancelled.
pub async fn serve_probes(listener: TcpListener, probes: Probes) {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(probes);
    let slots = Arc::new(Semaphore::new(PROBE_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let slot = slots
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let (stream, _) = accept(&listener).await;
        let service = TowerToHyperService::new(router.clone());
        connections.spawn(async move {
            // A probe that fails to read is the prober's to report.
            let _ = http1_builder()
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(slot);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn readyz(State(probes): State<Probes>) -> impl IntoResponse {
    if (probes.ready)() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

async fn metrics(State(probes): State<Probes>) -> impl IntoResponse {
    let mut text = String::new();
    let encoded = prometheus_client::encoding::text::encode(&mut text, &probes.registry);
    debug_assert!(encoded.is_ok(), "a String takes every write");
    (
        [(
            header::CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        text,
    )
}

/// The next connection. What `accept` refuses (a peer already gone, no descriptor left) is waited out: a server does not end on it.
pub async fn accept(listener: &TcpListener) -> (tokio::net::TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Tokens are small writes: Nagle would hold each back for the ACK of the one before. A refusal means the peer has gone.
                let _ = stream.set_nodelay(true);
                return (stream, peer);
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// HTTP/1.1 with our limits.
pub fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_header_size(HEADER_BYTES)
        .max_buf_size(READ_BYTES);
    builder
}

/// Serves one connection until its end, or, once `ending` is ready, until the request in hand is answered.
pub async fn serve_connection<I, F, A, B>(
    io: I,
    handle: F,
    ending: impl Future<Output = ()>,
) -> Result<(), hyper::Error>
where
    I: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<Incoming>) -> A,
    A: Future<Output = Response<B>>,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
{
    let service = hyper::service::service_fn(|request| {
        let answer = handle(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1_builder().serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection, ending);
    tokio::select! {
        served = connection.as_mut() => served,
        () = ending => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

/// Ends with the process's first SIGTERM or SIGINT.
pub async fn asked_to_end() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::metrics::Gateway;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_and_metrics_answer_and_nothing_else_does() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut registry = Registry::default();
        Gateway::new(&mut registry);
        let server = tokio::spawn(serve_probes(
            listener,
            Probes::new(Arc::new(registry), || false),
        ));
        assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        assert!(ask(address, "/metrics").await.contains("# EOF"));
        assert!(ask(address, "/debug").await.starts_with("HTTP/1.1 404"));
        server.abort();
    }
    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_finish_its_headers_is_cut_off() {
        let (mut client, server) = tokio::io::duplex(1024);
        let handle = async |_request| Response::new(String::new());
        let serving = serve_connection(server, handle, std::future::pending());
        let asking = async {
            client.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
            let mut answer = Vec::new();
            // Time passes by itself: nothing else is left to wait for.
            client.read_to_end(&mut answer).await.unwrap();
        };
        let (served, ()) = tokio::join!(serving, asking);
        assert!(served.unwrap_err().is_timeout());
    }
}

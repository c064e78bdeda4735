//! The gateway: OpenAI-compatible HTTPS in front of the sessions' hosts. It knows routes and nothing else, and creates nothing.

pub mod body;
mod files;
mod framing;
mod identity;
mod logs;
mod meter;
mod proxy;
mod rebuild;
mod refusal;
mod routes;
mod scan;
mod sessions;
mod status;
mod tls;
mod tunnel;
mod validity;
mod watch;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::body::{Answer, Budget, full};
use self::framing::{Conflict, Turn, Watched};
use self::identity::{Identities, Right};
use self::meter::{Meter, Metered};
use self::refusal::Refusal;
use self::routes::{Asked, What};
use self::sessions::Sessions;
use self::tls::{Leaf, Tls};
use crate::args::GatewayArgs;
use crate::metrics;
use crate::route::Route;

pub use self::tls::Error as TlsError;

/// Connections at once; each costs some 40 kB while idle.
const CONNECTIONS: usize = 2048;
/// Answers in hand get this long when the process is asked to end, unless told otherwise. Kubernetes by itself kills after 30 s.
pub const DRAIN_SECONDS: u64 = 20;

/// Why a gateway cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No address to listen on.
    #[error("could not listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Signals cannot be watched.
    #[error("could not watch for signals")]
    Signals(#[source] io::Error),
    /// No cluster to watch.
    #[error("could not find the cluster")]
    Cluster(#[source] Box<kube::Error>),
    /// TLS cannot be set up.
    #[error("could not set up TLS")]
    Tls(#[source] TlsError),
}

/// One gateway: what it knows and how it serves.
pub struct Gateway {
    sessions: Sessions,
    identities: Option<Arc<Identities>>,
    leaf: Arc<Leaf>,
    tls: Tls,
    metrics: metrics::Gateway,
    budget: Budget,
    listed: AtomicBool,
    ending: CancellationToken,
    drain: Duration,
}

/// Runs a gateway on the cluster's Secrets until the process is asked to end.
pub async fn run(args: GatewayArgs) -> Result<(), Error> {
    let GatewayArgs {
        listen,
        metrics_listen,
        sessions_namespace,
        tls_secret,
        kubernetes_tokens,
        drain_seconds,
    } = args;
    let client = kube::Client::try_default()
        .await
        .map_err(|error| Error::Cluster(Box::new(error)))?;
    let mut registry = Registry::default();
    let mut gateway = Gateway::new(&mut registry)?.draining_for(Duration::from_secs(drain_seconds));
    if kubernetes_tokens {
        gateway = gateway.admitting_users(client.clone());
    }
    let gateway = Arc::new(gateway);
    let listener = bind(listen).await?;
    let probes = bind(metrics_listen).await?;
    let ready = {
        let gateway = gateway.clone();
        crate::http::Probes::new(Arc::new(registry), move || gateway.is_ready())
    };
    let address = listener.local_addr().map_or(listen, |address| address);
    let metrics = probes
        .local_addr()
        .map_or(metrics_listen, |address| address);
    tracing::info!(%address, %metrics, "the gateway listens");
    let watch = watch::follow(&gateway, client, &sessions_namespace, &tls_secret);
    tokio::select! {
        () = gateway.serve(listener) => Ok(()),
        () = crate::http::serve_probes(probes, ready) => Ok(()),
        // Ends only with the process: the watch starts itself again after every failure.
        () = watch => Ok(()),
        () = validity::remind(&gateway, &tls_secret) => Ok(()),
        asked = async {
            crate::http::asked_to_end().await.map_err(Error::Signals)?;
            gateway.ending.cancel();
            // `serve` ends by itself when the answers in hand are given.
            std::future::pending().await
        } => asked,
    }
}

async fn bind(address: std::net::SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })
}

impl Gateway {
    /// Knows no session and has no certificate yet.
    pub fn new(registry: &mut Registry) -> Result<Self, Error> {
        let metrics = metrics::Gateway::new(registry);
        let leaf = Arc::new(Leaf::default());
        Ok(Self {
            sessions: Sessions::new(metrics.clone()),
            identities: None,
            tls: Tls::new(leaf.clone()).map_err(Error::Tls)?,
            leaf,
            metrics,
            budget: Budget::default(),
            listed: AtomicBool::new(false),
            ending: CancellationToken::new(),
            drain: Duration::from_secs(DRAIN_SECONDS),
        })
    }

    /// Admits Kubernetes tokens as well, as the API server says of them.
    pub fn admitting_users(mut self, client: kube::Client) -> Self {
        self.identities = Some(Arc::new(Identities::new(client)));
        self
    }

    /// Gives the answers in hand so long once it is asked to end, and cuts off what is left then.
    pub fn draining_for(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// Serves another certificate from now on.
    pub fn set_leaf(&self, chain_pem: &[u8], key_pem: &[u8]) -> Result<(), TlsError> {
        self.leaf.set(chain_pem, key_pem)
    }

    /// Takes a session's route as it is now.
    pub fn apply(&self, route: Route) {
        self.sessions.apply(route);
    }

    /// Forgets the session with this UID.
    pub fn remove(&self, uid: &str) {
        self.sessions.remove(uid);
    }

    /// Answers no further request on any connection, ends when those in hand are answered.
    pub fn end(&self) {
        self.ending.cancel();
    }

    fn is_ready(&self) -> bool {
        self.listed.load(Ordering::Relaxed) && self.leaf.is_set() && !self.ending.is_cancelled()
    }

    /// Serves clients until [`Gateway::end`].
    pub async fn serve(self: &Arc<Self>, listener: TcpListener) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = async {
                let slot = slots
                    .clone()
                    .acquire_owned()
                    .await
                    .expect("the semaphore is never closed");
                (crate::http::accept(&listener).await, slot)
            };
            tokio::select! {
                () = self.ending.cancelled() => break,
                ((stream, _peer), slot) = accepted => {
                    let gateway = self.clone();
                    connections.spawn(async move {
                        gateway.serve_one(stream).await;
                        drop(slot);
                    });
                }
            }
            while connections.try_join_next().is_some() {}
        }
        drop(listener);
        let last = async { while connections.join_next().await.is_some() {} };
        if timeout(self.drain, last).await.is_err() {
            tracing::warn!("answers were cut off at the end");
        }
    }

    async fn serve_one(self: Arc<Self>, stream: TcpStream) {
        let stream = match self.tls.accept(stream).await {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(%error, "a handshake failed"),
        };
        let watched = Watched::new(stream);
        let (conflict, turn) = (watched.conflict(), watched.turn());
        let ending = self.ending.clone().cancelled_owned();
        // Boxed, since the compiler cannot prove a future of borrowed parts to be Send here.
        let handle = move |request| -> BoxFuture<'static, Response<Metered>> {
            let (gateway, conflict, turn) = (self.clone(), conflict.clone(), turn.clone());
            Box::pin(async move { gateway.handle(request, &conflict, &turn).await })
        };
        if let Err(error) = crate::http::serve_connection(watched, handle, ending).await {
            tracing::debug!(%error, "a connection ended early");
        }
    }

    async fn handle(
        &self,
        request: Request<Incoming>,
        conflict: &Conflict,
        turn: &Turn,
    ) -> Response<Metered> {
        let answering = turn.begin();
        let mut meter = Meter::start(&self.metrics);
        // A request with Transfer-Encoding is the last of its connection: `Conflict` counts on it.
        let last = request.headers().contains_key(header::TRANSFER_ENCODING);
        let mut answer = if last && conflict.seen() {
            let message = "A request has either Content-Length or Transfer-Encoding.".into();
            Refusal::Invalid {
                message,
                param: None,
            }
            .answer()
        } else {
            self.answer(request, &mut meter)
                .await
                .unwrap_or_else(|refusal| refusal.answer())
        };
        if last {
            answer
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        meter.answers(answer.status());
        answer.map(|body| Metered::new(body, meter, answering))
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        meter: &mut Meter,
    ) -> Result<Answer, Refusal> {
        let (head, body) = request.into_parts();
        let (namespace, name, what) = match routes::parse(&head.method, head.uri.path())? {
            Asked::Health => return Ok(Response::new(full("ok\n"))),
            Asked::Ready if self.is_ready() => return Ok(Response::new(full("ok\n"))),
            Asked::Ready => return Err(Refusal::NotReady),
            Asked::Session {
                namespace,
                name,
                what,
            } => (namespace, name, what),
        };
        let admitted = match (&self.identities, bearer(&head.headers)) {
            (Some(identities), Some(token)) if identity::is_candidate(token) => {
                let right = Right::of(&what);
                let session = (&*namespace, &*name);
                self.sessions
                    .admit_user(identities, session, token, right)
                    .await?
            }
            (_, token) => self.sessions.admit(&namespace, &name, token)?,
        };
        meter.asks_for(what.operation());
        match &what {
            What::Models => Ok(proxy::models(
                &admitted.known.serving()?.host,
                &admitted.known,
            )),
            What::Model(id) => proxy::model(id, &admitted.known.serving()?.host, &admitted.known),
            What::Chat | What::Completions | What::Embeddings | What::Responses => {
                proxy::ask(&what, admitted, &head.headers, body, &self.budget, meter).await
            }
            What::FileList => files::list(head.uri.query(), admitted, &self.metrics).await,
            What::Files => {
                let request = (head.headers, body);
                files::many(head.uri.query(), admitted, request, &self.metrics).await
            }
            What::File(verb, path) => {
                files::one(*verb, path, admitted, (head.headers, body), &self.metrics).await
            }
            What::Logs => logs::answer(head.uri.query(), admitted, &self.ending).await,
            What::Status => Ok(status::answer(admitted, self.ending.clone())),
        }
    }
}

/// The token of the one `Authorization: Bearer`; several headers are none.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bearer_is_one_header_or_none() {
        let headers = |values: &[&'static str]| {
            values
                .iter()
                .map(|value| (header::AUTHORIZATION, HeaderValue::from_static(value)))
                .collect::<HeaderMap>()
        };
        assert_eq!(bearer(&headers(&["Bearer abc"])), Some("abc"));
        assert_eq!(bearer(&headers(&["bearer  abc "])), Some("abc"));
        for none in [&[][..], &["abc"], &["Basic abc"], &["Bearer a", "Bearer a"]] {
            assert_eq!(bearer(&headers(none)), None, "{none:?}");
        }
    }
}

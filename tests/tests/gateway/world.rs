//! One gateway, one session, one host, one engine.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::StreamExt as _;
use reqwest::{Client, RequestBuilder, Response};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use serde_json::{Value, json};
use srchat_operator::gateway::Gateway;
use srchat_operator::metrics;
use srchat_operator::route::{Route, Stage};
use srchat_tests::deployed::{self, Deployed};
use srchat_tests::scripted_engine::{Pace, Script, ScriptedEngine};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub const TOKEN: &str = "srchat_abcd1234_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
pub const OTHER_TOKEN: &str = "srchat_abcd1234_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB";
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Self-signed, so it is its own authority.
pub static LEAF: LazyLock<rcgen::CertifiedKey<rcgen::KeyPair>> =
    LazyLock::new(|| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());

pub struct World {
    pub engine: ScriptedEngine,
    pub host: Deployed,
    pub gateway: Arc<Gateway>,
    pub address: SocketAddr,
    pub http: Client,
}

impl Drop for World {
    fn drop(&mut self) {
        self.gateway.end();
    }
}

impl World {
    /// All of it, serving.
    pub async fn serving(script: Script) -> Self {
        let world = Self::loading(script).await;
        world.gateway.apply(world.route());
        world
    }

    /// The same, with an engine that makes a token only when it is told to.
    pub async fn stepped() -> Self {
        Self::serving(Script {
            pace: Pace::Stepped,
            ..Script::default()
        })
        .await
    }

    /// All of it, but the route says that the model is still loading.
    pub async fn loading(script: Script) -> Self {
        Self::of(script, |gateway| gateway).await
    }

    /// The same with a gateway that is set up otherwise.
    pub async fn of(script: Script, set_up: impl FnOnce(Gateway) -> Gateway) -> Self {
        let engine = ScriptedEngine::start(script).await.unwrap();
        let host = Deployed::start(engine.port()).await.unwrap();
        let gateway = Gateway::new(&mut metrics::Registry::default()).unwrap();
        let gateway = Arc::new(set_up(gateway));
        gateway
            .set_leaf(
                LEAF.cert.pem().as_bytes(),
                LEAF.signing_key.serialize_pem().as_bytes(),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = gateway.clone();
        tokio::spawn(async move { serving.serve(listener).await });
        let world = Self {
            engine,
            host,
            gateway,
            address,
            http: client(),
        };
        world.gateway.apply(Route {
            stage: Stage::Loading,
            percent: Some(90),
            host: None,
            ..world.route()
        });
        world
    }

    pub fn route(&self) -> Route {
        Route {
            host: Some(self.host.route.clone()),
            ..route("uid-1", TOKEN)
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!(
            "https://localhost:{}/team-a/vision/{path}",
            self.address.port()
        )
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(self.url(path)).bearer_auth(TOKEN)
    }

    pub fn put(&self, path: &str, bytes: impl Into<reqwest::Body>) -> RequestBuilder {
        self.http.put(self.url(path)).bearer_auth(TOKEN).body(bytes)
    }

    pub fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.http.post(self.url(path)).bearer_auth(TOKEN).json(body)
    }

    pub fn chat(&self, stream: bool) -> RequestBuilder {
        self.post("v1/chat/completions", &question(stream))
    }

    /// A raw connection, for what no client library would send.
    pub async fn connect(
        &self,
        version: &'static SupportedProtocolVersion,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(LEAF.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from("localhost").unwrap(), stream)
            .await
    }
}

pub fn client() -> Client {
    client_of(&LEAF)
}

/// A client that trusts this leaf only.
pub fn client_of(leaf: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Client {
    let root = reqwest::Certificate::from_pem(leaf.cert.pem().as_bytes()).unwrap();
    Client::builder()
        .tls_certs_only([root])
        .no_proxy()
        .build()
        .unwrap()
}

pub fn route(uid: &str, token: &str) -> Route {
    deployed::route(uid, ("team-a", "vision"), token, None)
}

pub fn question(stream: bool) -> Value {
    json!({"model": "any", "messages": [{"role": "user", "content": "What is the capital of France?"}], "stream": stream})
}

pub async fn json_of(request: RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (
        status,
        serde_json::from_str(&answer.text().await.unwrap()).unwrap(),
    )
}

/// The next event of a stream; `None` at its end.
pub struct Events {
    body: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: String,
}

impl Events {
    pub fn of(answer: Response) -> Self {
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self {
            body: answer.bytes_stream().boxed(),
            text: String::new(),
        }
    }

    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.trim().to_owned(), rest.to_owned());
                self.text = rest;
                match event.strip_prefix("data: ") {
                    Some(data) => return Some(data.to_owned()),
                    None => continue,
                }
            }
            let piece = tokio::time::timeout(PATIENCE, self.body.next())
                .await
                .unwrap()?;
            self.text
                .push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
        }
    }

    pub async fn json(&mut self) -> Value {
        serde_json::from_str(&self.next().await.unwrap()).unwrap()
    }

    pub async fn all(mut self) -> Vec<String> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

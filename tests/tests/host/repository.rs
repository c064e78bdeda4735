//! A Hub with one repository, an engine that says whatever it was started with, and a deployment of the two.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};
use srchat_operator::host::deploy::{Deploy, WeightFile};
use srchat_operator::host::engine::{self, Engine, Quantization, Spec};
use srchat_operator::ssh::{Connection, KeyPair};
use srchat_tests::hosts::{Hosts, Image};
use tempfile::TempDir;

use super::machine::Host;

pub const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";

/// A model server that says whatever it was started with: it stands in for `llama-server` where the scripts are tested, not it.
pub const ENGINE: &str = r#"#!/usr/bin/env python3
import http.server, os, sys
if "--version" in sys.argv:
    print("version: 1 (test)"); sys.exit(0)
if os.path.exists(os.path.join(os.path.dirname(os.path.abspath(__file__)), "broken")):
    print("CUDA error: out of memory"); sys.exit(3)
port = int(sys.argv[sys.argv.index("--port") + 1])
model = sys.argv[sys.argv.index("-m") + 1]
size = len(open(model, "rb").read())
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die": os._exit(7)
        lines = [f"{k}={v}" for k, v in sorted(os.environ.items())] + sys.argv[1:] + [f"size={size}", f"uid={os.getuid()}"]
        body = ("" if self.path == "/health" else "\n".join(lines)).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *words): print("served", *words, flush=True)
print("loading", flush=True)
http.server.HTTPServer(("127.0.0.1", port), Answer).serve_forever()
"#;

pub fn image_with_engine() -> (TempDir, Image) {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("llama-server");
    std::fs::write(&program, ENGINE).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let image = Image {
        path: vec![folder.path().to_owned()],
        ..Image::default()
    };
    (folder, image)
}

/// A Hub with one repository: files by path, a token it may insist on, and a line that breaks at times.
pub struct Hub {
    pub files: BTreeMap<String, Vec<u8>>,
    pub token: Option<&'static str>,
    pub breaks: AtomicUsize,
}

impl Hub {
    pub async fn serve(self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = axum::Router::new()
            .route(
                "/{owner}/{name}/resolve/{revision}/{*path}",
                axum::routing::get(Self::file),
            )
            .with_state(Arc::new(self));
        tokio::spawn(async move { axum::serve(listener, app).await });
        address
    }

    async fn file(
        State(hub): State<Arc<Self>>,
        UrlPath((_, _, revision, path)): UrlPath<(String, String, String, String)>,
        headers: HeaderMap,
    ) -> Result<(StatusCode, HeaderMap, axum::body::Body), StatusCode> {
        let sent = headers.get("authorization").and_then(|v| v.to_str().ok());
        if let Some(token) = hub.token
            && sent != Some(format!("Bearer {token}").as_str())
        {
            return Err(StatusCode::UNAUTHORIZED);
        }
        assert_eq!(revision, REVISION);
        let whole = hub.files.get(&path).ok_or(StatusCode::NOT_FOUND)?;
        let from: usize = headers
            .get("range")
            .and_then(|v| {
                v.to_str()
                    .ok()?
                    .strip_prefix("bytes=")?
                    .strip_suffix('-')?
                    .parse()
                    .ok()
            })
            .unwrap_or(0);
        let rest = whole
            .get(from..)
            .ok_or(StatusCode::RANGE_NOT_SATISFIABLE)?
            .to_vec();
        let mut answer = HeaderMap::new();
        answer.insert("content-length", rest.len().into());
        if from > 0 {
            let range = format!("bytes {from}-{}/{}", whole.len() - 1, whole.len());
            answer.insert("content-range", range.parse().unwrap());
        }
        let breaks = hub
            .breaks
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        let body = if breaks.is_ok() {
            let half = rest[..rest.len() / 2].to_vec();
            let broken =
                futures::stream::iter([Ok(half), Err(std::io::Error::other("the line breaks"))]);
            axum::body::Body::from_stream(broken)
        } else {
            axum::body::Body::from(rest)
        };
        let status = if from > 0 {
            StatusCode::PARTIAL_CONTENT
        } else {
            StatusCode::OK
        };
        Ok((status, answer, body))
    }
}

pub fn weights() -> Vec<u8> {
    (0..3_000_000u32).map(|n| (n ^ (n >> 8)) as u8).collect()
}

pub fn hub() -> Hub {
    let files = [
        ("model q4.gguf".to_owned(), weights()),
        ("sub/config.json".to_owned(), b"{}".to_vec()),
        ("empty".to_owned(), Vec::new()),
    ];
    Hub {
        files: files.into(),
        token: None,
        breaks: AtomicUsize::new(0),
    }
}

pub fn plain() -> Spec {
    Spec {
        engine: Engine::LlamaCpp,
        model: "test/tiny".to_owned(),
        revision: REVISION.to_owned(),
        served_name: "test/tiny".to_owned(),
        context: 2048,
        quantization: Quantization::None,
        gpus: 1,
        vision: false,
        gguf: None,
        projector: None,
        slots: 1,
        trust_remote_code: false,
        extra_args: Vec::new(),
    }
}

pub fn deploy(hub: SocketAddr, gateways: &KeyPair) -> Deploy {
    let launch = engine::launch(&Spec {
        gguf: Some("model q4.gguf".to_owned()),
        extra_args: vec!["--mlock".to_owned(), "two words; $(id)".to_owned()],
        ..plain()
    });
    Deploy {
        model: "test/tiny".to_owned(),
        revision: REVISION.to_owned(),
        hub: format!("http://{hub}"),
        token: None,
        files: vec![
            WeightFile {
                path: "model q4.gguf".to_owned(),
                size: 3_000_000,
                sha256: Some(hex::encode(Sha256::digest(weights()))),
            },
            WeightFile {
                path: "sub/config.json".to_owned(),
                size: 2,
                sha256: None,
            },
            WeightFile {
                path: "empty".to_owned(),
                size: 0,
                sha256: None,
            },
        ],
        launch: launch.unwrap(),
        gateways_key: gateways.public(),
    }
}

/// A host whose engine and Hub are as a test wants them, connected.
pub async fn with_hub(hub: Hub) -> (Host, Connection, Deploy, TempDir) {
    let (folder, image) = image_with_engine();
    let hub = hub.serve().await;
    let host = Host::boot(&Hosts::real().await.unwrap(), |spec| {
        spec.image = image;
        spec.reach.push(hub);
    })
    .await;
    let connection = host.connect().await;
    let order = deploy(hub, &host.gateways);
    (host, connection, order, folder)
}

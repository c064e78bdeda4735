//! A host's whole life, in real machines with a real sshd and real shells: boot, trust, deploy, visit, close, clear, and what
//! the watchdog does when nobody comes.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use srchat_operator::host::boot::{self, BootLog, Environment, HostLine, Nonce};
use srchat_operator::host::clear::{Found, Kind, Method};
use srchat_operator::host::deploy::{Deploy, WeightFile};
use srchat_operator::host::engine::{self, Engine, Quantization, Spec};
use srchat_operator::host::image::Form;
use srchat_operator::host::visit::{Activity, Ask, Health, Visit};
use srchat_operator::host::{self, Incarnation, Stage, gate};
use srchat_operator::ssh::{self, Bounds, Connection, KeyPair, Target, connect};
use srchat_tests::hosts::{HostSpec, Hosts, Image, Isolation, Machine};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

const KEY: &[u8] = b"an installation key of 32 bytes!";
const POD: &str = "pod7h9k2m4n6p";
const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";

/// A booted machine, and all that the controller would know of it.
struct Host {
    machine: Machine,
    of: Incarnation,
    line: HostLine,
    controller: KeyPair,
    gateways: KeyPair,
}

fn incarnation() -> Incarnation {
    Incarnation {
        installation: "9f3a2c1b".to_owned(),
        uid: "0b9e2c6e-5d1e-4b0a-9a53-7d3f0a6b1c2d".to_owned(),
        attempt: 1,
    }
}

fn nonce() -> Nonce {
    let of = incarnation();
    Nonce::derive(KEY, &of.uid, of.attempt)
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_secs()).unwrap()
}

/// What a pod is started with, as the provider would compose it.
fn spec(controller: &KeyPair, change: impl FnOnce(&mut HostSpec)) -> HostSpec {
    let of = incarnation();
    let environment = Environment {
        owner: boot::owner_proof(KEY, &of),
        nonce: nonce(),
        incarnation: of,
        deadline: now() + 3600,
        api: "http://127.0.0.1:9/v2".to_owned(),
        root: "/srchat".to_owned(),
        memory: "/dev/shm/srchat".to_owned(),
        controller_key: controller.public(),
    };
    let mut env = environment.variables();
    env.insert("RUNPOD_POD_ID".to_owned(), POD.to_owned());
    env.insert("RUNPOD_API_KEY".to_owned(), "rpa_pods_own_key".to_owned());
    env.insert("HF_TOKEN".to_owned(), "hf_of_the_image".to_owned());
    env.insert("LLAMA_ARG_HOST".to_owned(), "0.0.0.0".to_owned());
    let mut spec = HostSpec {
        pod_id: POD.to_owned(),
        image: Image::default(),
        argv: shlex::split(&boot::start_command(Form::Words)).unwrap(),
        env,
        reach: Vec::new(),
    };
    change(&mut spec);
    spec
}

async fn next_line(machine: &mut Machine) -> String {
    tokio::time::timeout(Duration::from_secs(60), machine.output.recv())
        .await
        .expect("the pod says something")
        .expect("the pod lives")
}

impl Host {
    async fn boot(hosts: &Hosts, change: impl FnOnce(&mut HostSpec)) -> Self {
        let controller = KeyPair::generate().unwrap();
        let mut machine = hosts.start(spec(&controller, change)).await.unwrap();
        let said = next_line(&mut machine).await;
        let BootLog::Host(line) = boot::read_log([said.as_str()], &nonce(), POD) else {
            panic!("not a host line: {said}");
        };
        Self {
            machine,
            of: incarnation(),
            line,
            controller,
            gateways: KeyPair::generate().unwrap(),
        }
    }

    fn target(&self, user: &str, key: &KeyPair) -> Target {
        Target {
            address: self.machine.ssh_address().to_string(),
            pin: self.line.key,
            user: self
                .machine
                .isolation()
                .host_user()
                .unwrap_or_else(|| user.to_owned()),
            key: key.clone(),
        }
    }

    async fn connect(&self) -> Connection {
        let target = self.target(host::CONTROLLER_USER, &self.controller);
        connect(&target).await.unwrap()
    }

    async fn connect_as_gateway(&self) -> Result<Connection, ssh::Error> {
        connect(&self.target(host::GATEWAY_USER, &self.gateways)).await
    }

    fn users_separated(&self) -> bool {
        self.machine.isolation() != Isolation::Process
    }

    /// Follows a deploy as the controller does, until it serves or fails.
    async fn follow(&self, connection: &Connection) -> Visit {
        let mut ask = Ask {
            patience: Duration::from_secs(5),
            ..Ask::default()
        };
        for _ in 0..60 {
            let visit = host::visit(connection, &self.of, &ask).await.unwrap();
            if visit.stage == Stage::Serving || visit.failure.is_some() {
                return visit;
            }
            ask.known = Some(visit.stage);
        }
        panic!("the deploy neither serves nor fails");
    }
}

async fn root_says(connection: &Connection, command: &str) -> String {
    let output = connection.exec(command, &[], &Bounds::SHORT).await.unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A model server that says whatever it was started with: it stands in for `llama-server` where the scripts are tested, not it.
const ENGINE: &str = r#"#!/usr/bin/env python3
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

fn image_with_engine() -> (TempDir, Image) {
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
struct Hub {
    files: BTreeMap<String, Vec<u8>>,
    token: Option<&'static str>,
    breaks: AtomicUsize,
}

impl Hub {
    async fn serve(self) -> SocketAddr {
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

fn weights() -> Vec<u8> {
    (0..3_000_000u32).map(|n| (n ^ (n >> 8)) as u8).collect()
}

fn hub() -> Hub {
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

fn deploy(hub: SocketAddr, gateways: &KeyPair) -> Deploy {
    let launch = engine::launch(&Spec {
        engine: Engine::LlamaCpp,
        model: "test/tiny".to_owned(),
        revision: REVISION.to_owned(),
        served_name: "test/tiny".to_owned(),
        context: 2048,
        quantization: Quantization::None,
        gpus: 1,
        vision: false,
        gguf: Some("model q4.gguf".to_owned()),
        projector: None,
        slots: 1,
        trust_remote_code: false,
        extra_args: vec!["--mlock".to_owned(), "two words; $(id)".to_owned()],
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

async fn http_get(connection: &Connection, port: u16, path: &str) -> String {
    let mut stream = connection.forward(port).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The modes that are real and can be had here.
async fn modes() -> Vec<Hosts> {
    let mut modes = Vec::new();
    for mode in [Hosts::Namespace, Hosts::Process] {
        if mode.works().await.is_ok() {
            modes.push(mode);
        }
    }
    modes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_boots_serves_closes_and_is_cleared() {
    for hosts in modes().await {
        whole_life(&hosts).await;
    }
}

async fn whole_life(hosts: &Hosts) {
    let (_folder, image) = image_with_engine();
    let mut hub = hub();
    hub.token = Some("hf_the_users_token");
    let hub = hub.serve().await;
    let host = Host::boot(hosts, |spec| {
        spec.image = image;
        spec.reach.push(hub);
    })
    .await;
    let connection = host.connect().await;

    let visit = host::visit(&connection, &host.of, &Ask::default())
        .await
        .unwrap();
    assert_eq!(visit.boot_id, host.line.boot_id);
    assert_eq!(visit.stage, Stage::Connecting);
    assert_eq!(
        (visit.deployed, visit.failure, visit.port),
        (None, None, None)
    );
    assert_eq!(visit.users_separated, host.users_separated());

    let mut order = deploy(hub, &host.gateways);
    order.token = Some(SecretString::from("hf_the_users_token"));
    let accepted = host::deploy(&connection, &host.of, &order).await.unwrap();
    assert!(!accepted.already);
    let visit = host.follow(&connection).await;
    assert_eq!(visit.failure, None);
    assert_eq!(visit.stage, Stage::Serving);
    assert_eq!(visit.engine, Health::Healthy);
    assert_eq!((visit.bytes, visit.total), (3_000_002, 3_000_002));
    assert_eq!(visit.deployed.as_ref(), Some(&accepted.digest));
    assert_eq!(visit.port, Some(accepted.port));
    assert_eq!(visit.activity, Activity::Never);

    let again = host::deploy(&connection, &host.of, &order).await.unwrap();
    assert!(again.already, "a second deploy changes nothing");
    assert_eq!(again.port, accepted.port);
    let found = root_says(
        &connection,
        "grep -rl hf_the_users_token \"$SRCHAT_ROOT\" \"$SRCHAT_MEMORY\"; ls \"$SRCHAT_MEMORY/fetch\" 2>&1 | head -c 3",
    )
    .await;
    assert_eq!(
        found, "ls:",
        "the token is off the host when the weights are there"
    );

    let gateway = host.connect_as_gateway().await.unwrap();
    let said = http_get(&gateway, accepted.port, "/who").await;
    for expected in [
        "size=3000000",
        "--alias",
        "test/tiny",
        "two words; $(id)",
        "HF_HUB_OFFLINE=1",
    ] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
    for secret in ["hf_", "rpa_", "LLAMA_ARG_HOST", "SRCHAT_", "RUNPOD_"] {
        assert!(!said.contains(secret), "{secret} in {said}");
    }
    assert_eq!(said.contains("uid=0"), !host.users_separated(), "{said}");
    gate_admits_four_things(&host, &gateway, accepted.port).await;

    if host.users_separated() {
        users_are_kept_apart(&connection, &accepted.files).await;
    }

    let heartbeat = gateway.start(gate::HEARTBEAT).await.unwrap();
    let closed = host::close(&connection, &host.of).await.unwrap();
    assert!(closed.complete(), "{closed:?}");
    gateway.closed().await;
    drop(heartbeat);
    assert!(matches!(
        host.connect_as_gateway().await,
        Err(ssh::Error::NotAdmitted { .. } | ssh::Error::Ended)
    ));
    assert!(host::close(&connection, &host.of).await.unwrap().complete());

    let report = host::clear(&connection, &host.of, Duration::from_secs(60))
        .await
        .unwrap();
    assert!(report.complete(), "{report:?}");
    assert_eq!(report.users_separated, host.users_separated());
    let uploads = report
        .paths
        .iter()
        .find(|path| path.kind == Kind::Uploads && path.bytes > 0);
    let uploads = uploads.expect("the upload was found");
    assert_eq!(
        (uploads.method, uploads.found),
        (Method::Overwritten, Found::Gone)
    );
    assert!(report.bytes() >= 3_000_002);
    let left = root_says(
        &connection,
        "cd \"$SRCHAT_ROOT\"; ls -A . \"$SRCHAT_MEMORY\" keys | tr '\\n' ' '; ls /tmp/stray 2>/dev/null",
    )
    .await;
    assert!(
        !left.contains("hub") && !left.contains("files") && !left.contains("stray"),
        "{left}"
    );
    assert!(left.contains("keys: root"), "{left}");
    let again = host::clear(&connection, &host.of, Duration::from_secs(60))
        .await
        .unwrap();
    assert!(again.complete(), "{again:?}");

    let visit = host::visit(&connection, &host.of, &Ask::default())
        .await
        .unwrap();
    assert_eq!(visit.stage, Stage::Connecting);
    host.machine.kill().await;
}

async fn gate_admits_four_things(host: &Host, gateway: &Connection, port: u16) {
    let sftp = gateway.sftp_by(gate::SFTP).await.unwrap();
    let content = vec![7u8; 5 << 20];
    let moved = sftp
        .write("upload.part", 0, content.as_slice(), &|_| ())
        .await
        .unwrap();
    sftp.replace("upload.part", "a name; with $(id).bin")
        .await
        .unwrap();
    let sum = gateway
        .exec(&gate::sha256("a name; with $(id).bin"), &[], &Bounds::SHORT)
        .await
        .unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert_eq!(gate::sha256_answer(&sum), Some(moved.sha256));
    let log = gateway
        .exec(&gate::log(100, false), &[], &Bounds::SHORT)
        .await
        .unwrap();
    assert!(String::from_utf8_lossy(&log.stdout).contains("loading"));

    let mut heartbeat = BufReader::new(gateway.start(gate::HEARTBEAT).await.unwrap());
    let mut answers = Vec::new();
    for line in [gate::ASK, gate::TOUCH, gate::ASK] {
        heartbeat.get_mut().write_all(line).await.unwrap();
        let mut answer = String::new();
        heartbeat.read_line(&mut answer).await.unwrap();
        answers.push(gate::heartbeat_answer(&answer));
    }
    assert_eq!(answers[0], Activity::Never);
    assert!(
        answers[1..]
            .iter()
            .all(|seen| matches!(seen, Activity::Ago(_))),
        "{answers:?}"
    );
    let connection = host.connect().await;
    let visit = host::visit(&connection, &host.of, &Ask::default())
        .await
        .unwrap();
    assert!(matches!(visit.activity, Activity::Ago(_)));

    for command in [
        "id",
        "heartbeat; id",
        "sftp id",
        "log 10 once; id",
        "log -f follow",
        "sha256 Li4vc3RhdGUvYm9vdA==",
        "sha256 L2V0Yy9wYXNzd2Q=",
        "true",
    ] {
        let output = gateway.exec(command, &[], &Bounds::SHORT).await.unwrap();
        assert_ne!(output.status, 0, "{command}");
        assert!(output.stdout.is_empty(), "{command}: {output:?}");
    }
    let elsewhere = if port == 22 { 23 } else { 22 };
    assert!(matches!(
        gateway.forward(elsewhere).await,
        Err(ssh::Error::Refused(_))
    ));
}

async fn users_are_kept_apart(connection: &Connection, files: &str) {
    let as_engine = |command: &str| {
        format!("chroot --userspec=srchat-engine:srchat-engine / sh -c '{command}' 2>&1")
    };
    for forbidden in [
        format!("ls {files}"),
        "cat $SRCHAT_ROOT/bin/job".to_owned(),
        "ls $SRCHAT_ROOT/state".to_owned(),
        "cat /proc/1/environ".to_owned(),
        "touch $SRCHAT_ROOT/hub/x".to_owned(),
        format!("ln -s /etc/passwd {files}/link"),
        "cat $SRCHAT_ROOT/ssh/host_key".to_owned(),
    ] {
        let said = root_says(connection, &as_engine(&forbidden)).await;
        assert!(said.contains("Permission denied"), "{forbidden}: {said}");
    }
    root_says(connection, &as_engine("echo secret > /tmp/stray")).await;
}

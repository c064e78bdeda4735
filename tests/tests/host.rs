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
use srchat_operator::host::boot::{self, BootLog, BootStage, Environment, HostLine, Nonce};
use srchat_operator::host::clear::{Found, Kind, Method};
use srchat_operator::host::deploy::{Deploy, WeightFile};
use srchat_operator::host::engine::{self, Engine, Quantization, Spec};
use srchat_operator::host::image::Form;
use srchat_operator::host::visit::{Activity, Ask, FailureKind, Health, Visit};
use srchat_operator::host::{self, Incarnation, Stage, gate};
use srchat_operator::ssh::{self, Bounds, Connection, KeyPair, Target, connect};
use srchat_tests::hosts::{HostSpec, Hosts, Image, Isolation, Machine};
use srchat_tests::hub::HubServer;
use srchat_tests::model;
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

fn plain() -> Spec {
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

fn deploy(hub: SocketAddr, gateways: &KeyPair) -> Deploy {
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

async fn http_get(connection: &Connection, port: u16, path: &str) -> String {
    let mut stream = connection.forward(port).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The modes that are real and can be had here: a process always.
async fn modes() -> Vec<Hosts> {
    Hosts::Process.works().await.unwrap();
    let mut modes = vec![Hosts::Process];
    for mode in [Hosts::Namespace, Hosts::Userns] {
        match mode.works().await {
            Ok(()) => modes.push(mode),
            Err(why) => srchat_tests::cache::say(&format!("{}: {why}", mode.isolation())),
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

/// A host whose engine and Hub are as a test wants them, connected.
async fn with_hub(hub: Hub) -> (Host, Connection, Deploy, TempDir) {
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

async fn failure_of(hub: Hub, change: impl FnOnce(&mut Deploy, &TempDir)) -> (FailureKind, String) {
    let (host, connection, mut order, folder) = with_hub(hub).await;
    change(&mut order, &folder);
    host::deploy(&connection, &host.of, &order).await.unwrap();
    let visit = host.follow(&connection).await;
    let failure = visit.failure.expect("it fails");
    host.machine.kill().await;
    (failure.kind, failure.log)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_line_is_taken_up_where_it_broke() {
    let hub = Hub {
        breaks: AtomicUsize::new(2),
        ..hub()
    };
    let (host, connection, order, _folder) = with_hub(hub).await;
    host::deploy(&connection, &host.of, &order).await.unwrap();
    let visit = host.follow(&connection).await;
    assert_eq!((visit.failure, visit.stage), (None, Stage::Serving));
    host.machine.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_hub_refuses_is_said_so() {
    let hub = Hub {
        token: Some("hf_another"),
        ..hub()
    };
    let (kind, _) = failure_of(hub, |_, _| ()).await;
    assert_eq!(kind, FailureKind::HubRefused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_the_planned_one_is_never_served() {
    let (kind, log) = failure_of(hub(), |order, _| {
        order.files[0].sha256 = Some("0".repeat(64))
    })
    .await;
    assert_eq!(kind, FailureKind::Verify);
    assert!(log.contains("wrong SHA-256"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_the_hub_does_not_have_fails_the_download() {
    let (kind, _) = failure_of(hub(), |order, _| order.files[1].path = "none".to_owned()).await;
    assert_eq!(kind, FailureKind::Download);
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_do_not_fit_are_not_begun() {
    let (kind, log) = failure_of(hub(), |order, _| order.files[0].size = 1 << 60).await;
    assert_eq!(kind, FailureKind::DiskFull);
    assert!(log.contains("the weights need"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_cannot_load_leaves_its_last_words() {
    let (kind, log) = failure_of(hub(), |_, folder| {
        std::fs::write(folder.path().join("broken"), "").unwrap();
    })
    .await;
    assert_eq!(kind, FailureKind::Start);
    assert!(log.contains("CUDA error: out of memory"), "{log}");
    assert!(log.contains("status 3"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_run_here_is_found_out_before_anything_is_downloaded() {
    let empty = Hub {
        files: BTreeMap::new(),
        ..hub()
    };
    let (kind, log) = failure_of(empty, |_, folder| {
        let broken =
            "#!/bin/sh\necho 'libcuda.so.1: cannot open shared object file' >&2\nexit 127\n";
        std::fs::write(folder.path().join("llama-server"), broken).unwrap();
    })
    .await;
    assert_eq!(kind, FailureKind::Probe);
    assert!(log.contains("libcuda.so.1"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_nowhere_and_cannot_be_installed_is_said_so() {
    let (kind, log) = failure_of(hub(), |_, folder| {
        std::fs::remove_file(folder.path().join("llama-server")).unwrap();
    })
    .await;
    assert_eq!(kind, FailureKind::Install);
    assert!(log.contains("no llama-server"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_is_seen_and_another_deploy_serves_again() {
    let (host, connection, order, _folder) = with_hub(hub()).await;
    let accepted = host::deploy(&connection, &host.of, &order).await.unwrap();
    assert_eq!(host.follow(&connection).await.stage, Stage::Serving);
    let gateway = host.connect_as_gateway().await.unwrap();
    http_get(&gateway, accepted.port, "/die").await;
    let ask = Ask {
        known: Some(Stage::Serving),
        patience: Duration::from_secs(20),
        ..Ask::default()
    };
    let visit = host::visit(&connection, &host.of, &ask).await.unwrap();
    let failure = visit.failure.expect("the engine is gone");
    assert_eq!(
        (failure.kind, visit.engine),
        (FailureKind::Died, Health::Dead)
    );
    assert!(failure.log.contains("status 7"), "{}", failure.log);

    let again = host::deploy(&connection, &host.of, &order).await.unwrap();
    assert!(!again.already);
    let visit = host.follow(&connection).await;
    assert_eq!((visit.failure, visit.engine), (None, Health::Healthy));
    host.machine.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_killed_is_lost_and_not_waited_for() {
    let (host, connection, order, _folder) = with_hub(hub()).await;
    host::deploy(&connection, &host.of, &order).await.unwrap();
    assert_eq!(host.follow(&connection).await.stage, Stage::Serving);
    root_says(
        &connection,
        "for f in \"$SRCHAT_ROOT\"/state/processes/job/* \"$SRCHAT_ROOT\"/state/processes/engine/*; do kill -9 -\"${f##*/}\"; done",
    )
    .await;
    let visit = host::visit(&connection, &host.of, &Ask::default())
        .await
        .unwrap();
    assert_eq!(visit.failure.map(|f| f.kind), Some(FailureKind::Lost));
    host.machine.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_attempts_scripts_change_nothing() {
    let (host, connection, order, _folder) = with_hub(hub()).await;
    let other = Incarnation {
        attempt: 2,
        ..host.of.clone()
    };
    assert!(matches!(
        host::visit(&connection, &other, &Ask::default()).await,
        Err(host::Error::Failed {
            script: "visit",
            ..
        })
    ));
    assert!(host::deploy(&connection, &other, &order).await.is_err());
    assert!(host::close(&connection, &other).await.is_err());
    let before = root_says(&connection, "cd \"$SRCHAT_ROOT\" && ls -A . keys").await;
    assert!(
        host::clear(&connection, &other, Duration::from_secs(10))
            .await
            .is_err()
    );
    let after = root_says(&connection, "cd \"$SRCHAT_ROOT\" && ls -A . keys").await;
    assert_eq!(before, after);
    host.machine.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clearing_follows_no_link_and_finds_every_name() {
    let (host, connection, order, _folder) = with_hub(hub()).await;
    let accepted = host::deploy(&connection, &host.of, &order).await.unwrap();
    assert_eq!(host.follow(&connection).await.stage, Stage::Serving);
    // What a hostile engine or a careless user may leave behind.
    root_says(
        &connection,
        &format!(
            "cd {} && mkdir -p 'a b/.c' && echo kept >\"$SRCHAT_ROOT/kept\" && ln -s \"$SRCHAT_ROOT/kept\" link && ln -s \"$SRCHAT_ROOT\" folder \
             && echo x >'a b/.c/-rf' && echo y >'a b/new\nline' && mkdir ..twodots && echo z >..twodots/..f && chmod 0 'a b/.c/-rf'",
            accepted.files
        ),
    )
    .await;
    if host.users_separated() {
        root_says(
            &connection,
            "chroot --userspec=srchat-engine:srchat-engine / sh -c 'mkdir \"/tmp/a\n-b\" && echo s >\"/tmp/a\n-b/*\" && ln -s /etc/passwd /var/tmp/link; (exec sleep 1000) </dev/null >/dev/null 2>&1 &'",
        )
        .await;
    }
    let report = host::clear(&connection, &host.of, Duration::from_secs(60))
        .await
        .unwrap();
    assert!(report.complete(), "{report:?}");
    assert_eq!(
        root_says(&connection, "cat \"$SRCHAT_ROOT/kept\"").await,
        "kept"
    );
    if host.users_separated() {
        let strays: Vec<_> = report
            .paths
            .iter()
            .filter(|path| path.kind == Kind::Strays)
            .map(|path| path.path.as_str())
            .collect();
        assert_eq!(strays, ["/tmp/a\n-b", "/var/tmp/link"]);
        assert_ne!(root_says(&connection, "head -c 4 /etc/passwd").await, "");
        assert_eq!(
            root_says(&connection, "cat /proc/[0-9]*/comm | grep -c sleep")
                .await
                .parse::<u32>()
                .unwrap(),
            2,
            "only boot's and the watchdog's"
        );
    }
    host.machine.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_deadline_holds_once_it_is_acknowledged_and_an_earlier_one_never() {
    let (host, connection, _, _folder) = with_hub(hub()).await;
    let first = host::visit(&connection, &host.of, &Ask::default())
        .await
        .unwrap()
        .deadline;
    for (asked, held) in [
        (first + 500, first + 500),
        (first + 100, first + 500),
        (first - 100, first + 500),
    ] {
        let ask = Ask {
            deadline: Some(asked),
            ..Ask::default()
        };
        let visit = host::visit(&connection, &host.of, &ask).await.unwrap();
        assert_eq!(visit.deadline, held, "{asked}");
    }
    host.machine.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_sshd_gets_one_and_without_any_way_says_so() {
    let hosts = Hosts::real().await.unwrap();
    if hosts.isolation() == Isolation::Process {
        srchat_tests::skipped::because("nothing can be hidden from a pod that is only a process");
        return;
    }
    let bare = Image {
        sshd: false,
        curl: false,
        ..Image::default()
    };
    let host = Host::boot(&hosts, |spec| spec.image = bare.clone()).await;
    host.connect().await;
    host.machine.kill().await;

    let controller = KeyPair::generate().unwrap();
    let hopeless = Image {
        mirror: false,
        ..bare
    };
    let mut machine = hosts
        .start(spec(&controller, |spec| spec.image = hopeless))
        .await
        .unwrap();
    let said = next_line(&mut machine).await;
    let seen = boot::read_log([said.as_str()], &nonce(), POD);
    assert_eq!(seen, BootLog::Failed(BootStage::Install), "{said}");
    machine.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_without_our_marker_is_left_alone() {
    let hosts = Hosts::real().await.unwrap();
    let controller = KeyPair::generate().unwrap();
    let mut machine = hosts
        .start(spec(&controller, |spec| {
            let before = "mkdir -p \"$SRCHAT_ROOT\" && echo theirs >\"$SRCHAT_ROOT/file\"";
            after(spec, before);
        }))
        .await
        .unwrap();
    let said = next_line(&mut machine).await;
    assert_eq!(
        boot::read_log([said.as_str()], &nonce(), POD),
        BootLog::Failed(BootStage::Root),
        "{said}"
    );
    machine.kill().await;
}

/// Runs a few words of shell before the start command.
fn after(spec: &mut HostSpec, before: &str) {
    let mut argv: Vec<String> = ["sh", "-c", &format!("{before}; exec \"$@\""), "sh"]
        .map(str::to_owned)
        .to_vec();
    argv.append(&mut spec.argv);
    spec.argv = argv;
}

/// The provider's API as the watchdog needs it: notes what it is asked, refuses the first DELETE.
async fn provider() -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, asked) = tokio::sync::mpsc::unbounded_channel();
    let answer = move |request: axum::extract::Request| {
        let sender = sender.clone();
        async move {
            let key = request
                .headers()
                .get("authorization")
                .and_then(|v| v.to_str().ok())
                .unwrap_or("none")
                .to_owned();
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1000).await.unwrap();
            let said = format!(
                "{} {} {key} {}",
                parts.method,
                parts.uri,
                String::from_utf8_lossy(&body)
            );
            let _ = sender.send(said);
            if parts.method == "DELETE" {
                StatusCode::FORBIDDEN
            } else {
                StatusCode::OK
            }
        }
    };
    let app = axum::Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, asked)
}

const ENDED: [&str; 2] = [
    "DELETE /v2/pods/pod7h9k2m4n6p Bearer rpa_pods_own_key ",
    "POST /v2/pods/pod7h9k2m4n6p/action Bearer rpa_pods_own_key {\"action\":\"stop\"}",
];

async fn assert_ended(asked: &mut tokio::sync::mpsc::UnboundedReceiver<String>) {
    for expected in ENDED {
        let seen = tokio::time::timeout(Duration::from_secs(30), asked.recv()).await;
        assert_eq!(seen.expect("the watchdog asks").unwrap(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_pod_that_is_started_again_never_serves_and_ends_itself() {
    let (api, mut asked) = provider().await;
    let controller = KeyPair::generate().unwrap();
    let mut machine = Hosts::real()
        .await
        .unwrap()
        .start(spec(&controller, |spec| {
            spec.env
                .insert("SRCHAT_DEADLINE".to_owned(), (now() - 1).to_string());
            spec.env
                .insert("SRCHAT_API".to_owned(), format!("http://{api}/v2"));
            spec.reach.push(api);
        }))
        .await
        .unwrap();
    let said = next_line(&mut machine).await;
    assert_eq!(
        boot::read_log([said.as_str()], &nonce(), POD),
        BootLog::Failed(BootStage::Expired),
        "{said}"
    );
    assert_ended(&mut asked).await;
    machine.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_hears_nothing_clears_and_ends_itself() {
    let (api, mut asked) = provider().await;
    let hub = hub().serve().await;
    let (_folder, image) = image_with_engine();
    let host = Host::boot(&Hosts::real().await.unwrap(), |spec| {
        spec.image = image;
        spec.reach.extend([api, hub]);
        spec.env.insert("SRCHAT_API".to_owned(), format!("http://{api}/v2"));
        spec.env.insert("SRCHAT_TICK".to_owned(), "0.05".to_owned());
        // Its uptime is what a test says it is.
        after(spec, "SRCHAT_UPTIME=${TMPDIR:-/tmp}/uptime; export SRCHAT_UPTIME; echo 1000 >\"$SRCHAT_UPTIME\"");
    })
    .await;
    let connection = host.connect().await;
    let order = deploy(hub, &host.gateways);
    host::deploy(&connection, &host.of, &order).await.unwrap();
    assert_eq!(host.follow(&connection).await.stage, Stage::Serving);
    // 899 seconds after the last activity it still waits; a heartbeat from the future does not help it.
    let uptime = "${TMPDIR:-/tmp}/uptime";
    root_says(
        &connection,
        &format!(
            "cd \"$SRCHAT_ROOT\"; echo 99999 >state/heartbeat; echo 1500 >activity/new; mv activity/new activity/last; echo 2399 >{uptime}; sleep 0.5; ls state/ended; echo 2400 >{uptime}"
        ),
    )
    .await;
    assert_ended(&mut asked).await;
    assert_eq!(
        root_says(&connection, "cat \"$SRCHAT_ROOT/state/ended\"").await,
        "silence"
    );
    let left = root_says(&connection, "ls \"$SRCHAT_ROOT\" \"$SRCHAT_MEMORY\"").await;
    assert!(!left.contains("hub") && !left.contains("files"), "{left}");
    let again = host::deploy(&connection, &host.of, &order).await;
    assert!(
        matches!(again, Err(host::Error::Failed { .. })),
        "what has ended stays ended"
    );
    host.machine.kill().await;
}

#[test]
fn every_script_passes_shellcheck_and_is_posix() {
    if srchat_tests::tools::on_path("shellcheck").is_none() {
        srchat_tests::skipped::because(
            "shellcheck is not installed (Debian: apt-get install shellcheck)",
        );
        return;
    }
    for (name, text) in host::scripts() {
        for (program, arguments) in [("shellcheck", &["-s", "sh", "-"][..]), ("sh", &["-n"][..])] {
            let mut child = std::process::Command::new(program)
                .args(arguments)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(
                output.status.success(),
                "{name}: {}",
                String::from_utf8_lossy(&output.stdout)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_llama_cpp_answers_a_question_from_a_host() {
    let model = tokio::task::spawn_blocking(model::small_model)
        .await
        .unwrap()
        .unwrap();
    let engines = tokio::task::spawn_blocking(model::engines)
        .await
        .unwrap()
        .unwrap();
    let hub = HubServer::start(&model.hub_folder).await.unwrap();
    // Whoever installs the provider first does, as every `main` has.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let asked = srchat_operator::hub::Hub::new(hub.url()).unwrap();
    let facts = asked.facts(&model.id.parse().unwrap(), None).await.unwrap();
    let revision = facts.sha.clone();
    let host = Host::boot(&Hosts::real().await.unwrap(), |spec| {
        spec.image = Image {
            path: vec![engines.llama_cpp],
            visible: engines.visible,
            ..Image::default()
        };
        spec.reach.push(hub.address());
    })
    .await;
    let connection = host.connect().await;
    let launch = engine::launch(&Spec {
        engine: Engine::LlamaCpp,
        model: model::REPOSITORY.to_owned(),
        revision: revision.clone(),
        served_name: "tiny".to_owned(),
        gguf: Some(model::FILE.to_owned()),
        extra_args: Vec::new(),
        ..plain()
    });
    let order = Deploy {
        model: model::REPOSITORY.to_owned(),
        revision,
        hub: hub.url().to_owned(),
        token: None,
        files: vec![WeightFile {
            path: model::FILE.to_owned(),
            size: std::fs::metadata(&model.file).unwrap().len(),
            sha256: Some(model::SHA256.to_owned()),
        }],
        launch: launch.unwrap(),
        gateways_key: host.gateways.public(),
    };
    host::deploy(&connection, &host.of, &order).await.unwrap();
    let visit = host.follow(&connection).await;
    assert_eq!((visit.failure, visit.engine), (None, Health::Healthy));
    let gateway = host.connect_as_gateway().await.unwrap();
    let mut stream = gateway.forward(visit.port.unwrap()).await.unwrap();
    let body = r#"{"messages":[{"role":"user","content":"Name the capital of France in one word."}],"max_tokens":8,"temperature":0}"#;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("Paris"), "{answer}");
    let report = host::clear(&connection, &host.of, Duration::from_secs(60))
        .await
        .unwrap();
    assert!(report.complete(), "{report:?}");
    host.machine.kill().await;
}

/// vLLM and transformers take the same way; what stands in for them takes exactly the real flags.
#[tokio::test(flavor = "multi_thread")]
async fn every_engine_is_deployed_with_flags_that_it_has() {
    let engines = tokio::task::spawn_blocking(model::engines)
        .await
        .unwrap()
        .unwrap();
    for (engine, folder) in [
        (Engine::Vllm, engines.vllm),
        (Engine::Transformers, engines.transformers),
    ] {
        let mut hub = hub();
        let config = br#"{"architectures":["Qwen3ForCausalLM"],"model_type":"qwen3"}"#;
        hub.files.insert("config.json".to_owned(), config.to_vec());
        hub.files.insert("model.safetensors".to_owned(), weights());
        let hub = hub.serve().await;
        let host = Host::boot(&Hosts::real().await.unwrap(), |spec| {
            spec.image = Image {
                path: vec![folder],
                visible: engines.visible.clone(),
                ..Image::default()
            };
            spec.env.remove("LLAMA_ARG_HOST");
            spec.reach.push(hub);
        })
        .await;
        let connection = host.connect().await;
        let mut order = deploy(hub, &host.gateways);
        order.files = vec![
            WeightFile {
                path: "config.json".to_owned(),
                size: config.len() as u64,
                sha256: None,
            },
            WeightFile {
                path: "model.safetensors".to_owned(),
                size: 3_000_000,
                sha256: Some(hex::encode(Sha256::digest(weights()))),
            },
        ];
        order.launch = engine::launch(&Spec { engine, ..plain() }).unwrap();
        host::deploy(&connection, &host.of, &order).await.unwrap();
        let visit = host.follow(&connection).await;
        assert_eq!(
            (visit.failure, visit.engine),
            (None, Health::Healthy),
            "{engine:?}"
        );
        let report = host::clear(&connection, &host.of, Duration::from_secs(60))
            .await
            .unwrap();
        assert!(report.complete(), "{report:?}");
        host.machine.kill().await;
    }
}

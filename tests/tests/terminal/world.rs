//! One session that serves, as `srchat` finds it: the object and its Secret at a real API server, the gateway, a host
//! with a real sshd, an engine that follows a script. What makes sessions, the controller, is not needed here.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use srchat_crds::ChatSession;
use srchat_operator::gateway::Gateway;
use srchat_operator::metrics;
use srchat_operator::route::Route;
use srchat_tests::control_plane::ControlPlane;
use srchat_tests::deployed::{self, Deployed};
use srchat_tests::eventually::eventually;
use srchat_tests::operator_binaries::OperatorBinaries;
use srchat_tests::scripted_engine::{Script, ScriptedEngine};
use srchat_tests::terminal::Terminal;
use srchat_tests::tools;
use srchat_tests::wire::Wire;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::OnceCell;

pub const TOKEN: &str = "srchat_abcd1234_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
pub const OTHER_TOKEN: &str = "srchat_abcd1234_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB";
/// On two cores that also compile.
pub const PATIENCE: Duration = Duration::from_secs(60);

static LEAF: std::sync::LazyLock<rcgen::CertifiedKey<rcgen::KeyPair>> =
    std::sync::LazyLock::new(|| {
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap()
    });

pub struct World {
    pub name: String,
    pub engine: ScriptedEngine,
    pub host: Deployed,
    pub gateway: Arc<Gateway>,
    port: u16,
    control_plane: &'static ControlPlane,
    client: Client,
    cli: PathBuf,
    /// Home, history and working folder of the person.
    pub home: TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.gateway.end();
    }
}

/// A control plane with the resource, once for all tests.
async fn control_plane() -> &'static ControlPlane {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    let control_plane = ControlPlane::shared().await;
    let apply = || async {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/rendered/stays.yaml");
        tools::run(
            control_plane
                .kubectl()
                .args(["apply", "--server-side", "--filename", file]),
        )
        .unwrap();
        let sessions: Api<ChatSession> =
            Api::default_namespaced(control_plane.client().await.unwrap());
        eventually("the resource to be served", PATIENCE, || {
            sessions.get_opt("none")
        })
        .await;
    };
    APPLIED.get_or_init(apply).await;
    control_plane
}

impl World {
    pub async fn new(script: Script) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("chat-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let engine = ScriptedEngine::start(script).await.unwrap();
        let host = Deployed::start(engine.port()).await.unwrap();
        let control_plane = control_plane().await;
        let (gateway, port) = gateway(0).await;
        let world = Self {
            name,
            engine,
            host,
            gateway,
            port,
            control_plane,
            client: control_plane.client().await.unwrap(),
            cli: OperatorBinaries::build().await.unwrap().cli,
            home: tempfile::tempdir().unwrap(),
        };
        world.publish(TOKEN).await;
        world.make_session().await;
        world.gateway.apply(world.route());
        world
    }

    /// An engine that says this, in pieces of a few letters.
    pub async fn saying(answer: &str) -> Self {
        Self::new(says(answer)).await
    }

    pub fn route(&self) -> Route {
        deployed::route(&self.name, ("default", &self.name), TOKEN, Some(&self.host))
    }

    /// The Secret beside the session, with this token.
    pub async fn publish(&self, token: &str) {
        self.publish_at(token, self.port).await;
    }

    /// From now on clients come through a wire that can be cut.
    pub async fn behind_a_wire(&self) -> Wire {
        let gateway = (Ipv4Addr::LOCALHOST, self.port).into();
        let wire = Wire::to(gateway).await.unwrap();
        self.publish_at(TOKEN, wire.port()).await;
        wire
    }

    async fn publish_at(&self, token: &str, port: u16) {
        let url = format!("https://localhost:{port}/default/{}/v1", self.name);
        let data = [
            ("OPENAI_BASE_URL", url),
            ("OPENAI_API_KEY", token.to_owned()),
            ("ca.crt", LEAF.cert.pem()),
        ];
        let data = data.map(|(name, value)| (name.to_owned(), ByteString(value.into_bytes())));
        let mut secret = Secret {
            data: Some(BTreeMap::from(data)),
            ..Secret::default()
        };
        secret.metadata.name = Some(format!("{}-chat", self.name));
        let secrets: Api<Secret> = Api::default_namespaced(self.client.clone());
        let params = PatchParams::apply("terminal").force();
        secrets
            .patch(
                &format!("{}-chat", self.name),
                &params,
                &Patch::Apply(&secret),
            )
            .await
            .unwrap();
    }

    async fn make_session(&self) {
        let sessions: Api<ChatSession> = Api::default_namespaced(self.client.clone());
        let session = json!({
            "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession",
            "metadata": {"name": self.name}, "spec": {"model": "acme/tiny"},
        });
        let session: ChatSession = serde_json::from_value(session).unwrap();
        sessions
            .create(&PostParams::default(), &session)
            .await
            .unwrap();
        let status = json!({"status": {
            "observedGeneration": 1,
            "plan": {"revision": "0000000000000000000000000000000000000000", "engine": "VLLM", "quantization": "None",
                "vision": true, "contextLength": 4096, "requiredMemory": "1Gi", "gpu": "NVIDIA L40S", "gpuCount": 1,
                "disk": "50Gi", "hourlyCost": "0.79"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Serving", "message": "The model answers.",
                "observedGeneration": 1, "lastTransitionTime": "2026-11-23T12:00:00Z"}],
        }});
        sessions
            .patch_status(&self.name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }

    pub async fn stop_gateway(&self) {
        self.gateway.end();
        let port = self.port;
        eventually("the gateway to be gone", PATIENCE, || async move {
            match tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
                Ok(_) => Err("it still answers"),
                Err(_) => Ok(()),
            }
        })
        .await;
    }

    pub async fn start_gateway(&mut self) {
        let (gateway, _) = gateway(self.port).await;
        gateway.apply(self.route());
        self.gateway = gateway;
    }

    /// `srchat` as this person runs it.
    pub fn srchat(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.cli);
        srchat_tests::process::without_the_callers_settings(&mut command);
        command
            .args(arguments)
            .arg("--kubeconfig")
            .arg(self.control_plane.kubeconfig())
            .env("HOME", self.home.path())
            .env("XDG_DATA_HOME", self.home.path().join("data"))
            .env("XDG_RUNTIME_DIR", self.home.path())
            .current_dir(self.home.path());
        command
    }

    /// The chat in a terminal of 24 rows and 80 columns.
    pub async fn attach(&self, more: &[&str]) -> Terminal {
        self.attach_sized(more, (24, 80)).await
    }

    pub async fn attach_sized(&self, more: &[&str], size: (u16, u16)) -> Terminal {
        let terminal = Terminal::run(
            &self.srchat(&[&["attach", &self.name], more].concat()),
            size,
        )
        .unwrap();
        terminal.shows("\n>").await;
        terminal
    }

    /// Runs `srchat` without a terminal.
    pub async fn runs(&self, arguments: &[&str]) -> Output {
        self.told(arguments, "").await
    }

    /// The same with a text on its stdin.
    pub async fn told(&self, arguments: &[&str], text: &'static str) -> Output {
        let mut command = self.srchat(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            // Whoever does not read it may be gone.
            let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
            child.wait_with_output().unwrap()
        })
        .await
        .unwrap()
    }

    /// The messages of the engine's last request.
    pub fn heard(&self) -> Value {
        self.engine
            .seen()
            .last()
            .map(|seen| seen.body["messages"].clone())
            .unwrap_or_default()
    }

    /// Waits until the engine has been asked so often.
    pub async fn asked(&self, times: usize) {
        eventually(
            &format!("the engine to be asked {times} times"),
            PATIENCE,
            || async {
                match self.engine.seen().len() {
                    seen if seen >= times => Ok(()),
                    seen => Err(format!("{seen} times")),
                }
            },
        )
        .await;
    }
}

async fn gateway(port: u16) -> (Arc<Gateway>, u16) {
    let gateway = Arc::new(Gateway::new(&mut metrics::Registry::default()).unwrap());
    let (leaf, key) = (LEAF.cert.pem(), LEAF.signing_key.serialize_pem());
    gateway.set_leaf(leaf.as_bytes(), key.as_bytes()).unwrap();
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = gateway.clone();
    tokio::spawn(async move { serving.serve(listener).await });
    (gateway, port)
}

/// A script that says this, in pieces of a few letters.
pub fn says(answer: &str) -> Script {
    let letters: Vec<char> = answer.chars().collect();
    Script {
        tokens: letters
            .chunks(5)
            .map(|piece| piece.iter().collect())
            .collect(),
        ..Script::default()
    }
}

/// The screen after these lines, the first of which every chat begins with.
pub fn screen(world: &World, lines: &str) -> String {
    format!(
        "{}: acme/tiny on NVIDIA L40S. /help lists the commands.\n{lines}",
        world.name
    )
}

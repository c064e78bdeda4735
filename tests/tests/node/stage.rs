//! The node with its control plane, and what is done on it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use serde_json::{Value, json};
use srchat_crds::ChatSession;
use srchat_crds::conditions::Type;
use srchat_tests::cluster::Cluster;
use srchat_tests::control_plane::ControlPlane;
use srchat_tests::eventually::eventually;
use srchat_tests::explain::causes;
use srchat_tests::model;
use srchat_tests::node::{Node, confined, programs};
use srchat_tests::operator_binaries::OperatorBinaries;
use srchat_tests::process::{Workplace, without_the_callers_settings};
use srchat_tests::rig::{self, Options, World};
use srchat_tests::tools::{self, ControlPlanePrograms, NodePrograms};
use tokio::runtime::Runtime;
use tokio::sync::RwLock;

/// A step of a pod's or a session's life, on a busy machine.
pub const STEP: Duration = Duration::from_secs(240);
/// The image of the machine's own curl.
const CURL: &str = "rig.srchat.dev/curl:1";
/// As the chart names it by default.
const OPERATOR: &str = concat!(
    "docker.io/srchat/srchat-operator:",
    env!("CARGO_PKG_VERSION")
);
/// The version of a release that is older than the chart at hand.
pub const OLDER: &str = "0.0.1";
/// As that release's chart names it: until there is an older program, it is the one at hand.
const OLDER_OPERATOR: &str = "docker.io/srchat/srchat-operator:0.0.1";
/// Names an archive that `cargo image` wrote, to be installed instead of an image of the program that all other tests run.
const ARCHIVE: &str = "SRCHAT_IMAGE";
/// The namespace of the release.
pub const SYSTEM: &str = rig::SYSTEM;

/// All trials and the node live on it, so that the node does not end with the trial that started it.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().build().unwrap()
});

static STAGE: RwLock<Option<&'static Stage>> = RwLock::const_new(None);

/// Runs a trial to its end; a panic in it is the trial's failure.
pub fn on_runtime(trial: impl Future<Output = ()>) -> Result<(), libtest_mimic::Failed> {
    RUNTIME.block_on(trial);
    Ok(())
}

/// Fetches and builds what trials want.
pub fn prepare() {
    ControlPlanePrograms::find().unwrap();
    NodePrograms::find().unwrap();
    tools::helm().unwrap();
    model::small_model().unwrap();
    RUNTIME.block_on(async { OperatorBinaries::build().await.unwrap() });
}

/// Ends the node and its control plane.
pub fn strike() {
    RUNTIME.block_on(async {
        if let Some(stage) = STAGE.write().await.take() {
            let Some(Parts {
                world,
                node,
                control_plane,
                place,
            }) = stage.parts.write().await.take()
            else {
                return;
            };
            if let Some(simulator) = world.simulator {
                simulator.stop().await;
            }
            drop(node);
            drop((control_plane, place));
        }
    });
}

/// What ends.
struct Parts {
    world: World,
    node: Node,
    control_plane: ControlPlane,
    place: Workplace,
}

/// The node, and what a trial needs of it.
pub struct Stage {
    parts: RwLock<Option<Parts>>,
    /// The cluster, as its administrator.
    pub cluster: Cluster,
    /// An administrator's client.
    pub client: Client,
    srchat: PathBuf,
    helm: PathBuf,
    home: PathBuf,
}

/// The one of all trials.
pub async fn stage() -> &'static Stage {
    if let Some(stage) = *STAGE.read().await {
        return stage;
    }
    let mut shared = STAGE.write().await;
    if let Some(stage) = *shared {
        return stage;
    }
    let control_plane = ControlPlane::start_for_nodes(confined::ADDRESS)
        .await
        .unwrap();
    let node = Node::start(&control_plane)
        .await
        .unwrap_or_else(|error| panic!("{}", causes(&error)));
    // Sessions of all trials share its account, which is therefore exempt from the rate limit.
    let options = Options {
        limits: None,
        ..Options::default()
    };
    let place = Workplace::new("stage").unwrap();
    let home = place.path().to_owned();
    let world = rig::world(&options, &home)
        .await
        .unwrap_or_else(|error| panic!("{}", causes(&error)));
    let binaries = OperatorBinaries::build().await.unwrap();
    match archive() {
        Some(archive) => node.import_archive(&archive).unwrap(),
        None => {
            let operator = programs::operator(OPERATOR, &binaries.operator).unwrap();
            node.import(&operator).unwrap();
        }
    }
    node.tag(OPERATOR, OLDER_OPERATOR).unwrap();
    let curl = tools::on_path("curl").unwrap();
    node.import(&programs::image(CURL, &curl).unwrap()).unwrap();
    let stage = Stage {
        client: control_plane.client().await.unwrap(),
        cluster: Cluster::clone(&control_plane),
        srchat: binaries.cli,
        helm: tools::helm().unwrap(),
        home,
        parts: RwLock::new(Some(Parts {
            world,
            node,
            control_plane,
            place,
        })),
    };
    // One for the life of this process; what it holds is ended by `strike`.
    let stage: &'static Stage = Box::leak(Box::new(stage));
    *shared = Some(stage);
    stage
}

/// Where the image is read from, seen from the repository as `cargo image --output` is; `None` if it is made here.
pub fn archive() -> Option<PathBuf> {
    let path = std::env::var_os(ARCHIVE).filter(|path| !path.is_empty())?;
    Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path))
}

impl Stage {
    /// A folder of the stage's own.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Brings a program of this machine to the node as an image.
    pub async fn image(&self, reference: &str, program: &Path) {
        let image = programs::image(reference, program).unwrap();
        let parts = self.parts.read().await;
        parts.as_ref().unwrap().node.import(&image).unwrap();
    }

    /// A namespace of one trial's own.
    pub async fn namespace(&self, prefix: &str) -> String {
        self.cluster.namespace(prefix).await.unwrap()
    }

    /// Looks at the world outside of the cluster.
    pub async fn world<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        let parts = self.parts.read().await;
        look(&parts.as_ref().unwrap().world)
    }

    /// helm, in the release's namespace.
    pub fn helm(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.helm);
        command.args(["--namespace", SYSTEM]).args(arguments);
        for folder in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(folder, self.home.join("helm"));
        }
        self.ran(command)
    }

    /// `srchat`, in a namespace.
    pub fn srchat(&self, namespace: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.srchat);
        command.args(arguments).args(["--namespace", namespace]);
        self.ran(command)
    }

    fn ran(&self, mut command: Command) -> Output {
        without_the_callers_settings(&mut command);
        command
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .env("HOME", &self.home)
            .env("XDG_DATA_HOME", &self.home);
        tokio::task::block_in_place(|| command.output()).unwrap()
    }

    /// The sessions of a namespace.
    pub fn sessions(&self, namespace: &str) -> Api<ChatSession> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Waits until a condition has this reason.
    pub async fn until(&self, namespace: &str, name: &str, condition: Type, reason: &str) {
        let what = format!("{namespace}/{name} to have {condition}={reason}");
        eventually(&what, STEP, || async {
            let sessions = self.sessions(namespace);
            let session = sessions.get(name).await.map_err(|e| e.to_string())?;
            match session.condition(condition) {
                Some(found) if found.reason == reason => Ok(()),
                _ => Err(serde_json::to_string(&session.status).unwrap_or_default()),
            }
        })
        .await;
    }

    /// kubectl as an administrator.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.kubectl_with(arguments, "")
    }

    fn kubectl_with(&self, arguments: &[&str], input: &str) -> String {
        // The runtime's other tasks go on meanwhile.
        tokio::task::block_in_place(|| self.cluster.kubectl_with(arguments, input)).unwrap()
    }

    /// Applies an object.
    pub fn apply(&self, object: &Value) {
        let apply = ["apply", "--server-side", "--filename=-"];
        self.kubectl_with(&apply, &object.to_string());
    }

    /// Waits until a pod is ready.
    pub async fn pod_ready(&self, namespace: &str, name: &str) {
        self.pod(namespace, name, "to be ready", |pod| {
            let conditions = pod.status.as_ref()?.conditions.as_ref()?;
            let ready = conditions.iter().find(|found| found.type_ == "Ready")?;
            (ready.status == "True").then_some(())
        })
        .await;
    }

    /// Waits until a pod is as it should be.
    async fn pod<T>(
        &self,
        namespace: &str,
        name: &str,
        how: &str,
        look: impl Fn(&Pod) -> Option<T>,
    ) -> T {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        eventually(&format!("{namespace}/{name} {how}"), STEP, || async {
            let pod = pods.get(name).await.map_err(|e| e.to_string())?;
            look(&pod).ok_or_else(|| serde_json::to_string(&pod.status).unwrap_or_default())
        })
        .await
    }

    /// Runs curl in a pod of its own, to its end, and gives what it said. `more` is merged into the container.
    pub async fn curl(
        &self,
        namespace: &str,
        name: &str,
        arguments: &[&str],
        more: Value,
    ) -> String {
        self.start_curl(namespace, name, arguments, more);
        self.curl_said(namespace, name).await
    }

    /// Starts curl in a pod of its own.
    pub fn start_curl(&self, namespace: &str, name: &str, arguments: &[&str], more: Value) {
        let mut container = json!({"name": "curl", "image": CURL, "args": arguments});
        for (field, value) in more.as_object().into_iter().flatten() {
            container[field] = value.clone();
        }
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "restartPolicy": "Never",
                "containers": [container],
                "volumes": [{"name": "srchat", "secret": {"secretName": "qwen-chat", "optional": true}}],
            },
        }));
    }

    /// Whether curl has ended in its pod.
    pub async fn curl_ended(&self, namespace: &str, name: &str) -> bool {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let phase = pods.get(name).await.unwrap().status.unwrap().phase;
        phase.as_deref() != Some("Running")
    }

    /// What a pod has said so far.
    ///
    /// # Errors
    /// When it has not started yet.
    pub fn logs(&self, namespace: &str, name: &str) -> Result<String, String> {
        let logs = ["--namespace", namespace, "logs", name];
        tokio::task::block_in_place(|| self.cluster.kubectl_with(&logs, ""))
            .map_err(|error| error.to_string())
    }

    /// What curl has said in its pod, once it has ended, and ended well.
    pub async fn curl_said(&self, namespace: &str, name: &str) -> String {
        let phase = self
            .pod(namespace, name, "to end", |pod| {
                let phase = pod.status.as_ref()?.phase.clone()?;
                ["Succeeded", "Failed"].contains(&&*phase).then_some(phase)
            })
            .await;
        let said = self.kubectl(&["--namespace", namespace, "logs", name]);
        assert_eq!(phase, "Succeeded", "{said}");
        said
    }
}

//! The node with its control plane, and what is done on it.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use serde_json::{Value, json};
use srchat_tests::cluster::Cluster;
use srchat_tests::control_plane::ControlPlane;
use srchat_tests::eventually::eventually;
use srchat_tests::explain::causes;
use srchat_tests::node::{Node, confined, programs};
use srchat_tests::tools::{self, ControlPlanePrograms, NodePrograms};
use tokio::runtime::Runtime;
use tokio::sync::RwLock;

/// A step of a pod's or a session's life, on a busy machine.
pub const STEP: Duration = Duration::from_secs(240);
/// The image of the machine's own curl.
const CURL: &str = "rig.srchat.dev/curl:1";

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
}

/// Ends the node and its control plane.
pub fn strike() {
    RUNTIME.block_on(async {
        if let Some(stage) = STAGE.write().await.take() {
            let Some(Parts {
                node,
                control_plane,
            }) = stage.parts.write().await.take()
            else {
                return;
            };
            drop(node);
            drop(control_plane);
        }
    });
}

/// What ends.
struct Parts {
    node: Node,
    control_plane: ControlPlane,
}

/// The node, and what a trial needs of it.
pub struct Stage {
    parts: RwLock<Option<Parts>>,
    /// The cluster, as its administrator.
    pub cluster: Cluster,
    /// An administrator's client.
    pub client: Client,
}

/// The one of all trials.
pub async fn stage() -> &'static Stage {
    if let Some(stage) = *STAGE.read().await {
        return stage;
    }
    let mut place = STAGE.write().await;
    if let Some(stage) = *place {
        return stage;
    }
    let control_plane = ControlPlane::start_for_nodes(confined::ADDRESS)
        .await
        .unwrap();
    let node = Node::start(&control_plane)
        .await
        .unwrap_or_else(|error| panic!("{}", causes(&error)));
    let curl = tools::on_path("curl").unwrap();
    node.import(&programs::image(CURL, &curl).unwrap()).unwrap();
    let stage = Stage {
        client: control_plane.client().await.unwrap(),
        cluster: Cluster::clone(&control_plane),
        parts: RwLock::new(Some(Parts {
            node,
            control_plane,
        })),
    };
    // One for the life of this process; what it holds is ended by `strike`.
    let stage: &'static Stage = Box::leak(Box::new(stage));
    *place = Some(stage);
    stage
}

impl Stage {
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
        let mut container = json!({"name": "curl", "image": CURL, "args": arguments});
        for (field, value) in more.as_object().into_iter().flatten() {
            container[field] = value.clone();
        }
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"restartPolicy": "Never", "containers": [container]},
        }));
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

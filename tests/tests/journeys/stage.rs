//! The rigs, and what a journey does on one: apply, look, wait, delete.
#![allow(clippy::unwrap_used)]

use std::ops::{Deref, DerefMut};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Secret};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use srchat_crds::conditions::Type;
use srchat_crds::{ChatSession, LABEL_MODEL_TOKEN};
use srchat_operator::provider::runpod::{Key, RunPod};
use srchat_tests::eventually::eventually;
use srchat_tests::hosts;
use srchat_tests::process::Workplace;
use srchat_tests::rig::{Options, Rig};
use srchat_tests::runpod::{Entry, Fault, Image, Simulator};
use srchat_tests::stand_ins::TINY;
use tokio::runtime::Runtime;
use tokio::sync::{
    Mutex, RwLock, RwLockMappedWriteGuard, RwLockReadGuard, RwLockWriteGuard, Semaphore,
    SemaphorePermit,
};

/// Most of a journey is waiting for others' clocks; two cores bear the rest.
pub const JOURNEYS_AT_ONCE: usize = 10;

/// A stage of a start, or of an end with its two proofs ten seconds apart, on a busy machine.
pub const STEP: Duration = Duration::from_secs(240);

/// An image in which sshd's keys cannot be made.
pub const BROKEN_IMAGE: &str = "example.com/broken";

/// Pods with the real model at once: each holds half a gigabyte and loads it with a core of its own.
static REAL_MODELS: Semaphore = Semaphore::const_new(5);

/// All journeys and both rigs live on it, so that no rig ends with the journey that started it.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().build().unwrap()
});

/// For journeys whose troubles are those of their own pods.
static COMMON: Shared = Shared::new();
/// For journeys that trouble the cluster, the account or the operator's own processes.
static TROUBLED: Shared = Shared::new();

/// Runs a journey to its end; a panic in it is the trial's failure.
pub fn on_runtime(journey: impl Future<Output = ()>) -> Result<(), libtest_mimic::Failed> {
    RUNTIME.block_on(journey);
    Ok(())
}

/// Ends both rigs, which leaves nothing.
pub fn strike() {
    RUNTIME.block_on(async {
        for shared in [&COMMON, &TROUBLED] {
            if let Some(rig) = shared.rig.write().await.take() {
                rig.stop().await;
            }
        }
    });
}

/// A rig that the first journey starts.
struct Shared {
    rig: RwLock<Option<Rig>>,
    starting: Mutex<()>,
}

impl Shared {
    const fn new() -> Self {
        Self {
            rig: RwLock::const_new(None),
            starting: Mutex::const_new(()),
        }
    }

    async fn start(&self, options: impl FnOnce() -> Options) {
        let _one = self.starting.lock().await;
        if self.rig.read().await.is_none() {
            let rig = Rig::start(options()).await.unwrap();
            *self.rig.write().await = Some(rig);
        }
    }
}

/// The rig as it is for whoever shares it.
pub struct Together(RwLockReadGuard<'static, Option<Rig>>);

impl Deref for Together {
    type Target = Rig;

    fn deref(&self) -> &Rig {
        self.0.as_ref().unwrap()
    }
}

/// The other rig, and nobody else on it.
pub type Alone = RwLockMappedWriteGuard<'static, Rig>;

/// A rig, with an administrator's client.
pub struct Stage<R> {
    pub rig: R,
    pub client: Client,
}

impl Stage<Together> {
    /// Among others. So many sessions share its account that it is exempt from the rate limit.
    pub async fn together() -> Self {
        let options = || Options {
            limits: None,
            images: vec![broken_image()],
            ..Options::default()
        };
        COMMON.start(options).await;
        let rig = Together(COMMON.rig.read().await);
        let client = rig.cluster().client().await.unwrap();
        Self { rig, client }
    }
}

impl Stage<Alone> {
    /// With nobody else.
    pub async fn alone() -> Self {
        // A controller that is killed every other second asks more often than any account may.
        let options = || Options {
            limits: None,
            ..Options::default()
        };
        TROUBLED.start(options).await;
        let rig = TROUBLED.rig.write().await;
        let rig = RwLockWriteGuard::map(rig, |rig| rig.as_mut().unwrap());
        let client = rig.cluster().client().await.unwrap();
        Self { rig, client }
    }

    /// Kills the controller and starts it again.
    pub async fn restart_controller(&mut self) {
        let controller = self.rig.deref_mut().operator.controller();
        controller.kill();
        controller.start().await.unwrap();
    }
}

/// Its `ssh-keygen` fails, which stands first on its PATH; the folder lives as long as this process.
fn broken_image() -> Image {
    static PLACE: LazyLock<Workplace> = LazyLock::new(|| Workplace::new("broken-image").unwrap());
    let path = PLACE.path().join("bin");
    std::fs::create_dir_all(&path).unwrap();
    let program = path.join("ssh-keygen");
    std::fs::write(&program, "#!/bin/sh\nexit 1\n").unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    Image {
        reference: BROKEN_IMAGE.to_owned(),
        entrypoint: Vec::new(),
        cmd: Vec::new(),
        ships: hosts::Image {
            path: vec![path],
            ..hosts::Image::default()
        },
        tenths_of_gb: 1,
        cached: true,
    }
}

/// A spec for the stand-ins' model, with these fields besides.
pub fn tiny(more: Value) -> Value {
    let mut spec = json!({"model": TINY, "runtime": {}});
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    spec
}

impl<R: Deref<Target = Rig>> Stage<R> {
    /// Waits until there is room for a pod with the real model.
    pub async fn room_for_the_real_model(&self) -> SemaphorePermit<'static> {
        REAL_MODELS.acquire().await.unwrap()
    }

    pub fn simulator(&self) -> &Simulator {
        self.rig.simulator.as_ref().unwrap()
    }

    pub fn sessions(&self) -> Api<ChatSession> {
        Api::default_namespaced(self.client.clone())
    }

    /// Applies a session for the small real model, with these fields of its spec besides.
    pub async fn apply(&self, name: &str, more: Value) {
        self.try_apply(name, more).await.unwrap();
    }

    /// The same, where the API server may refuse.
    pub async fn try_apply(&self, name: &str, more: Value) -> Result<ChatSession, kube::Error> {
        let mut spec = json!({"model": self.rig.model.id, "runtime": {"contextLength": 2048}});
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        let session = json!({
            "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession",
            "metadata": {"name": name}, "spec": spec,
        });
        let params = PatchParams::apply("journeys").force();
        let patch = Patch::Apply(&session);
        self.sessions().patch(name, &params, &patch).await
    }

    /// Applies a session whose pods will have these faults: nothing is rented before they are set.
    pub async fn apply_with(&self, name: &str, more: Value, faults: &[Fault]) {
        let mut paused = more.clone();
        paused["replicas"] = json!(0);
        self.apply(name, paused).await;
        let uid = self.uid(name).await;
        for fault in faults {
            self.simulator().fault(fault.clone().on(&uid));
        }
        let mut wanted = more;
        wanted["replicas"] = json!(1);
        self.apply(name, wanted).await;
    }

    /// Changes the spec as a user with kubectl does.
    pub async fn patch(&self, name: &str, spec: Value) -> ChatSession {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let params = PatchParams::default();
        self.sessions().patch(name, &params, &patch).await.unwrap()
    }

    pub async fn scale(&self, name: &str, replicas: u8) {
        self.patch(name, json!({ "replicas": replicas })).await;
    }

    pub async fn get(&self, name: &str) -> ChatSession {
        self.sessions().get(name).await.unwrap()
    }

    pub async fn uid(&self, name: &str) -> String {
        self.get(name).await.uid().unwrap()
    }

    /// Makes a Secret with a token under the key `token`, offered as a model token or not.
    pub async fn token(&self, name: &str, token: &str, offered: bool) {
        let mut secret = Secret {
            string_data: Some([("token".to_owned(), token.to_owned())].into()),
            ..Secret::default()
        };
        secret.metadata.name = Some(name.to_owned());
        if offered {
            let label = (LABEL_MODEL_TOKEN.to_owned(), "true".to_owned());
            secret.metadata.labels = Some([label].into());
        }
        let secrets: Api<Secret> = Api::default_namespaced(self.client.clone());
        let (params, patch) = (
            PatchParams::apply("journeys").force(),
            Patch::Apply(&secret),
        );
        secrets.patch(name, &params, &patch).await.unwrap();
    }

    /// Waits until a condition has this reason, and tells its message.
    pub async fn until(&self, name: &str, condition: Type, reason: &str) -> String {
        let what = format!("{name} to have {condition}={reason}");
        eventually(&what, STEP, || async {
            let session = self.sessions().get(name).await.map_err(|e| e.to_string())?;
            let found = session.condition(condition).cloned();
            match found {
                Some(found) if found.reason == reason => Ok(found.message),
                _ => Err(states(&session)),
            }
        })
        .await
    }

    /// Waits until the controller has looked at the session as it was last changed.
    pub async fn until_observed(&self, changed: &ChatSession) -> ChatSession {
        let name = changed.name_any();
        eventually(&format!("{name} to be looked at"), STEP, || async {
            let session = self
                .sessions()
                .get(&name)
                .await
                .map_err(|e| e.to_string())?;
            let status = session.status.as_ref();
            if status.and_then(|status| status.observed_generation) >= changed.metadata.generation {
                Ok(session)
            } else {
                Err(states(&session))
            }
        })
        .await
    }

    /// Waits for an event about the session, and tells its note.
    pub async fn until_event(&self, name: &str, reason: &str) -> String {
        self.until_event_of(&self.uid(name).await, reason).await
    }

    /// The same, about an object that may be no session of ours.
    pub async fn until_event_of(&self, uid: &str, reason: &str) -> String {
        eventually(
            &format!("{uid} to have the event {reason}"),
            STEP,
            || async {
                let events = self.events(uid).await;
                let found = events.iter().find(|(of, _)| of == reason);
                found
                    .map(|(_, note)| note.clone())
                    .ok_or(format!("{events:?}"))
            },
        )
        .await
    }

    /// Reasons and notes of all events about an object.
    pub async fn events(&self, uid: &str) -> Vec<(String, String)> {
        let events: Api<Event> = Api::default_namespaced(self.client.clone());
        let about = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
        let found = events.list(&about).await.unwrap();
        let told = |event: Event| {
            (
                event.reason.unwrap_or_default(),
                event.message.unwrap_or_default(),
            )
        };
        found.items.into_iter().map(told).collect()
    }

    pub async fn delete(&self, name: &str) {
        self.sessions()
            .delete(name, &Default::default())
            .await
            .unwrap();
    }

    /// Waits until the object is gone, which the controller allows only when its pods are.
    pub async fn gone(&self, name: &str) {
        eventually(&format!("{name} to be gone"), STEP, || async {
            match self.sessions().get_opt(name).await {
                Ok(None) => Ok(()),
                Ok(Some(session)) => Err(states(&session)),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// Deletes, waits, and checks that nothing is left that costs money.
    pub async fn end(&self, name: &str) {
        let uid = self.uid(name).await;
        self.delete(name).await;
        self.gone(name).await;
        for pod in self.pods_of(&uid) {
            assert!(
                pod.terminated.is_some(),
                "{name} left a pod behind: {pod:?}"
            );
        }
    }

    /// The pods of a session so far, oldest first, as the provider's books have them.
    pub async fn pods(&self, name: &str) -> Vec<Entry> {
        self.pods_of(&self.uid(name).await)
    }

    pub fn pods_of(&self, uid: &str) -> Vec<Entry> {
        let pods = self.simulator().ledger().pods.into_iter();
        pods.filter(|pod| pod.uid.as_deref() == Some(uid)).collect()
    }

    /// What a user's program has: the published Secret.
    pub async fn door(&self, name: &str) -> srchat_tests::demo::Client {
        let client = self.client.clone();
        srchat_tests::demo::Client::from_secret(client, "default", name)
            .await
            .unwrap()
    }

    /// The provider's API, as the account's owner uses it.
    pub fn provider(&self) -> RunPod {
        RunPod::new(
            self.simulator().url(),
            Key::parse(self.simulator().key()).unwrap(),
        )
        .unwrap()
    }

    /// Asks the model through `srchat`, as a person would.
    pub async fn ask(&self, name: &str, question: &str) -> String {
        let asked = self.asked(name, question).await;
        let said = String::from_utf8_lossy(&asked.stderr);
        assert!(asked.status.success(), "{said}");
        String::from_utf8(asked.stdout).unwrap()
    }

    /// The same, where it may fail.
    pub async fn asked(&self, name: &str, question: &str) -> Output {
        let mut ask = Command::new(&self.rig.binaries.cli);
        srchat_tests::process::without_the_callers_settings(&mut ask);
        ask.args([
            "ask",
            name,
            question,
            "--max-tokens",
            "16",
            "--temperature",
            "0",
        ]);
        ask.arg("--kubeconfig").arg(self.rig.cluster().kubeconfig());
        ask.args(["--namespace", "default"]);
        tokio::task::spawn_blocking(move || ask.output().unwrap())
            .await
            .unwrap()
    }
}

/// Every condition, for the message of a wait that failed.
fn states(session: &ChatSession) -> String {
    let status = session.status.clone().unwrap_or_default();
    let all = status
        .conditions
        .iter()
        .map(|c| format!("{}={} ({})", c.type_, c.reason, c.message));
    all.collect::<Vec<_>>().join("; ")
}

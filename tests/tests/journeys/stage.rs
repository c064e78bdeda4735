//! The rig, and what a journey does on it: apply, look, wait, delete.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use srchat_crds::ChatSession;
use srchat_crds::conditions::Type;
use srchat_tests::eventually::eventually;
use srchat_tests::rig::{Options, Rig};
use srchat_tests::runpod::Simulator;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Each rig has a control plane and a model server: two cores carry one at a time.
static ONE: Semaphore = Semaphore::const_new(1);

/// A stage of a start, or of an end with its two proofs ten seconds apart, on a busy machine.
const STEP: Duration = Duration::from_secs(180);

/// A rig, and the namespace of one journey.
pub struct Stage {
    pub rig: Rig,
    pub client: Client,
    _alone: SemaphorePermit<'static>,
}

impl Stage {
    pub async fn set() -> Self {
        let alone = ONE.acquire().await.unwrap();
        let rig = Rig::start(Options::default()).await.unwrap();
        let client = rig.cluster().client().await.unwrap();
        Self {
            rig,
            client,
            _alone: alone,
        }
    }

    pub fn simulator(&self) -> &Simulator {
        self.rig.simulator.as_ref().unwrap()
    }

    fn sessions(&self) -> Api<ChatSession> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Applies a session for the small model, with these fields of its spec besides.
    pub async fn apply(&self, name: &str, more: Value) {
        let mut spec = json!({"model": self.rig.model.id, "runtime": {"contextLength": 2048}});
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        let session = json!({
            "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession",
            "metadata": {"name": name}, "spec": spec,
        });
        let (sessions, params) = (self.sessions(), PatchParams::apply("journeys").force());
        let patch = Patch::Apply(&session);
        sessions.patch(name, &params, &patch).await.unwrap();
    }

    pub async fn scale(&self, name: &str, replicas: u8) {
        let replicas = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let (sessions, params) = (self.sessions(), PatchParams::default());
        sessions.patch(name, &params, &replicas).await.unwrap();
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
        self.delete(name).await;
        self.gone(name).await;
        assert_eq!(
            self.simulator().ledger().total.alive,
            0,
            "{name} left a pod behind"
        );
    }

    /// Asks the model through `srchat`, as a person would.
    pub async fn ask(&self, name: &str, question: &str) -> String {
        let mut ask = Command::new(&self.rig.binaries.cli);
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
        let asked = tokio::task::spawn_blocking(move || ask.output().unwrap())
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&asked.stderr);
        assert!(asked.status.success(), "{said}");
        String::from_utf8(asked.stdout).unwrap()
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

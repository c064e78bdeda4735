//! What tests of the gateway as a process do: give it Secrets, and learn where it listens.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::Value;
use srchat_tests::eventually::eventually;
use srchat_tests::process::Process;

use crate::world::PATIENCE;

/// Makes a Secret, or changes it.
pub async fn apply(secrets: &Api<Secret>, secret: &Secret) {
    let name = secret.metadata.name.as_deref().unwrap();
    secrets
        .patch(
            name,
            &PatchParams::apply("a-test").force(),
            &Patch::Apply(secret),
        )
        .await
        .unwrap();
}

/// The address that a log line of the process tells under this name.
pub async fn told(gateway: &Process, name: &str) -> SocketAddr {
    let look = async || {
        let log = std::fs::read_to_string(gateway.log()).unwrap();
        let mut lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .find_map(|line| line[name].as_str()?.parse().ok())
            .ok_or(log)
    };
    eventually("the gateway tells where it listens", PATIENCE, look).await
}

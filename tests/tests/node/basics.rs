//! The node itself: whatever else is tried on it says nothing unless this holds.

use serde_json::json;
use srchat_tests::tools::NodePrograms;

use super::stage::stage;

/// A pod's program, its configuration, a Service before it, and another pod that asks it by name.
pub async fn a_pod_finds_another_by_the_name_of_its_service() {
    let stage = stage().await;
    let server = NodePrograms::find().unwrap().coredns;
    stage.image("rig.srchat.dev/coredns:1", &server).await;
    let namespace = stage.namespace("basics").await;
    stage.apply(&json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "server", "namespace": namespace},
        "data": {"Corefile": ".:5300 {\n  health :8080\n}\n"},
    }));
    stage.apply(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "server", "namespace": namespace, "labels": {"app": "server"}},
        "spec": {
            "containers": [{
                "name": "server",
                "image": "rig.srchat.dev/coredns:1",
                "args": ["-conf", "/etc/server/Corefile"],
                "volumeMounts": [{"name": "settings", "mountPath": "/etc/server"}],
                "readinessProbe": {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 1},
            }],
            "volumes": [{"name": "settings", "configMap": {"name": "server"}}],
        },
    }));
    stage.apply(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "server", "namespace": namespace},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }));
    stage.pod_ready(&namespace, "server").await;
    let url = format!("http://server.{namespace}.svc.cluster.local/health");
    let said = stage
        .curl(
            &namespace,
            "client",
            &[
                "--silent",
                "--show-error",
                "--retry",
                "20",
                "--retry-all-errors",
                "--retry-delay",
                "1",
                &url,
            ],
            json!({}),
        )
        .await;
    // A pod's log holds both of its streams, and curl writes one line for every try that came before
    // the node's rules knew of the new endpoint. What counts is the answer it ended with.
    assert_eq!(said.lines().last(), Some("OK"), "{said}");
}

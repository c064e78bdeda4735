//! What linters say about the chart. Each complaint that is let stand has its reason beside it, and one that is not made any more is
//! taken off the list.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;
use srchat_tests::tools;

use crate::helm::rendered_with_hooks;

/// kube-score's check, the object, and why it stays as it is.
const LET_STAND: [(&str, &str, &str); 9] = [
    (
        "container-resources",
        "srchat-controller",
        "no CPU limit: throttling would delay the ends of sessions, which cost money; the request is set",
    ),
    (
        "container-resources",
        "srchat-gateway",
        "no CPU limit: throttling is felt between two tokens of a stream; the request is set",
    ),
    (
        "container-resources",
        "srchat-uninstall",
        "no CPU limit: it waits and hardly computes",
    ),
    (
        "container-image-pull-policy",
        "srchat-controller",
        "a restart must not depend on a registry while GPUs are being paid for; tags are versions, a digest can be given",
    ),
    (
        "container-image-pull-policy",
        "srchat-gateway",
        "as for the controller",
    ),
    (
        "container-image-pull-policy",
        "srchat-uninstall",
        "as for the controller",
    ),
    (
        "deployment-strategy",
        "srchat-controller",
        "Recreate: two controllers would be safe, and in each other's way",
    ),
    (
        "deployment-replicas",
        "srchat-controller",
        "one: safety comes from the ledgers and not from replicas; hosts and gateways go on without it",
    ),
    (
        "deployment-has-host-podantiaffinity",
        "srchat-gateway",
        "topologySpreadConstraints spread them, also over zones, and let more replicas than nodes run",
    ),
];

/// A mark below this is a complaint: 10 is "all right", 5 a warning, 1 critical.
const ALL_RIGHT: u64 = 10;

#[tokio::test]
async fn kube_score_complains_about_nothing_that_has_no_reason() {
    let manifests = rendered_with_hooks(&[
        "createNamespace=true",
        "priorityClass.create=true",
        "ingress.enabled=true",
        "ingress.host=chat.example",
    ])
    .await;
    let kube_score = tokio::task::spawn_blocking(tools::kube_score)
        .await
        .unwrap()
        .unwrap();
    let mut child = Command::new(kube_score)
        .args(["score", "--output-format", "json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(manifests.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let scored: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let mut complaints = BTreeSet::new();
    for object in &scored {
        let name = object["object_meta"]["name"].as_str().unwrap();
        for check in object["checks"].as_array().unwrap() {
            if check["skipped"] == false && check["grade"].as_u64().unwrap() < ALL_RIGHT {
                complaints.insert((
                    check["check"]["id"].as_str().unwrap(),
                    name,
                    check["comments"].to_string(),
                ));
            }
        }
    }
    let known = |(id, name, _): &(&str, &str, String)| {
        LET_STAND
            .iter()
            .any(|(check, object, _)| check == id && object == name)
    };
    let new: Vec<_> = complaints
        .iter()
        .filter(|complaint| !known(complaint))
        .collect();
    assert!(new.is_empty(), "{new:#?}");
    for (check, object, _) in LET_STAND {
        let made = complaints
            .iter()
            .any(|(id, name, _)| (*id, *name) == (check, object));
        assert!(made, "{check} complains no more about {object}");
    }
}

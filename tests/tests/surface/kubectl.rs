//! What a person sees who uses nothing but kubectl.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::json;
use srchat_crds::conditions::Type;

use super::stage::{NAME, NAMESPACE, serving, stage};

pub async fn a_session_can_be_watched_described_waited_for_and_explained() {
    let stage = serving().await;
    let kubectl = |arguments: &[&str]| {
        stage
            .kubectl(&[&["-n", NAMESPACE], arguments].concat())
            .done()
    };

    let listed = kubectl(&["get", "chat"]);
    let (header, row) = listed.split_once('\n').unwrap();
    let columns: Vec<&str> = header.split_whitespace().collect();
    assert_eq!(
        columns,
        [
            "NAME", "MODEL", "GPU", "$/H", "SPENT", "STATE", "EXPIRES", "AGE"
        ]
    );
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!((cells[0], cells[1]), (NAME, stage.model.as_str()));
    assert!(row.contains("Serving"), "{row}");
    let wide = kubectl(&["get", "chat", "-o", "wide"]);
    assert!(
        wide.contains("runpod://") && wide.contains("https://"),
        "{wide}"
    );
    assert!(
        wide.contains("The model answers at the endpoint."),
        "{wide}"
    );
    assert!(kubectl(&["get", "all"]).contains("chatsession.srchat.dev/qwen"));

    kubectl(&[
        "wait",
        "--for=condition=Ready",
        "chat/qwen",
        "--timeout=60s",
    ]);
    let described = kubectl(&["describe", "chat", NAME]);
    for part in [
        "Conditions:",
        "KeyPinned",
        "Events:",
        "InstanceCreated",
        "EndpointPublished",
        "Credentials Secret Ref",
    ] {
        assert!(described.contains(part), "{part:?} is not in\n{described}");
    }
    let explained = kubectl(&["explain", "chatsession.spec"]);
    for field in ["model\t", "limits\t", "runtime\t", "gpu\t", "-required-"] {
        assert!(
            explained.contains(field),
            "{field:?} is not in\n{explained}"
        );
    }
    let explained = kubectl(&["explain", "chatsession.spec.limits.maxHourlyCost"]);
    assert!(
        explained.contains("The most that an hour may cost"),
        "{explained}"
    );
}

pub async fn a_session_is_scaled_and_patched() {
    let stage = stage().await;
    let namespace = stage.namespace("scaled");
    let kubectl = |arguments: &[&str]| stage.kubectl(&[&["-n", &namespace], arguments].concat());
    // What it may cost is less than anything does, so that scaling rents nothing.
    let session = json!({
        "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession",
        "metadata": {"name": "patched", "namespace": namespace},
        "spec": {"model": stage.model, "replicas": 0, "limits": {"maxHourlyCost": "0.01"}},
    });
    stage.apply(&session.to_string());
    stage
        .until(&namespace, "patched", Type::Ready, "Paused")
        .await;

    let mut watch = stage.kubectl_command(&["-n", &namespace, "get", "chat", "-w"]);
    let mut watch = watch
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut until = |text: &str| {
        tokio::task::block_in_place(|| {
            lines
                .by_ref()
                .map(|line| line.unwrap())
                .find(|line| line.contains(text))
        })
    };
    assert!(until("Paused").is_some());
    kubectl(&["scale", "chat/patched", "--replicas=1"]).done();
    assert!(until("OverPrice").is_some());
    let refused = kubectl(&[
        "patch",
        "chat",
        "patched",
        "--type=merge",
        "-p",
        r#"{"spec":{"gpu":{"count":2}}}"#,
    ]);
    assert!(
        refused.err.contains("set replicas to 0 first"),
        "{refused:#?}"
    );
    kubectl(&["scale", "chat/patched", "--replicas=0"]).done();
    assert!(until("Paused").is_some());
    watch.kill().unwrap();
    watch.wait().unwrap();
    kubectl(&[
        "patch",
        "chat",
        "patched",
        "--type=merge",
        "-p",
        r#"{"spec":{"gpu":{"count":2}}}"#,
    ])
    .done();
    let refused = kubectl(&[
        "patch",
        "chat",
        "patched",
        "--type=merge",
        "-p",
        r#"{"spec":{"model":"a/b"}}"#,
    ]);
    assert!(
        refused.err.contains("the model cannot be changed"),
        "{refused:#?}"
    );
    kubectl(&["delete", "chat", "patched"]).done();
}

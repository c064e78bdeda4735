//! The examples that people copy: each is applied as it stands.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use srchat_crds::conditions::Type;
use srchat_tests::eventually::eventually;

use super::stage::{STEP, repository, stage};

fn example(name: &str) -> String {
    let path = repository().join("crds/examples").join(name);
    path.to_str().unwrap().to_owned()
}

pub async fn every_example_is_taken_and_says_what_became_of_it() {
    let stage = stage().await;
    let namespace = stage.namespace("examples");
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(repository().join("crds/examples")).unwrap() {
        names.insert(entry.unwrap().file_name().into_string().unwrap());
    }
    let expected = [
        "basic.yaml",
        "client.yaml",
        "files.yaml",
        "gated.yaml",
        "gpu.yaml",
        "vision.yaml",
    ];
    assert_eq!(
        names.iter().collect::<Vec<_>>(),
        expected,
        "an example without its line here"
    );
    for name in &names {
        let apply = [
            "-n",
            &namespace,
            "apply",
            "--validate=strict",
            "-f",
            &example(name),
        ];
        stage.kubectl(&apply).done();
    }
    // The smallest session is one that serves.
    stage
        .until(&namespace, "qwen", Type::Ready, "Serving")
        .await;
    // The other models are the world's, which this rig's Hub does not have: each session says so, and rents nothing.
    for (file, session) in [
        ("vision", "vision"),
        ("files", "files"),
        ("gated", "llama"),
        ("gpu", "large"),
    ] {
        let session = stage
            .until(&namespace, session, Type::Planned, "ModelNotFound")
            .await;
        let planned = session.condition(Type::Planned).unwrap();
        assert!(
            planned.message.contains(session.spec.model.repository()),
            "{file}: {}",
            planned.message
        );
    }
    stage
        .kubectl(&["delete", "namespace", &namespace, "--wait=false"])
        .done();
    eventually("the examples to be gone", STEP, || async {
        let left = stage.sessions(&namespace).list(&Default::default()).await;
        match left.map_err(|e| e.to_string())?.items.len() {
            0 => Ok(()),
            left => Err(format!("{left} sessions are left")),
        }
    })
    .await;
}

pub async fn the_client_in_the_cluster_finds_every_key_that_it_names() {
    let stage = stage().await;
    let namespace = stage.namespace("clients");
    for name in ["basic.yaml", "client.yaml"] {
        stage
            .kubectl(&["-n", &namespace, "apply", "-f", &example(name)])
            .done();
    }
    let get = |kind: &str, name: &str| {
        stage.kubectl(&["-n", &namespace, "get", kind, name, "-o", "json"])
    };
    let secret = eventually("the session's Secret", STEP, || async {
        let got = get("secret", "qwen-chat");
        match got.code {
            0 => Ok(got.json()),
            _ => Err(got.err),
        }
    })
    .await;
    let keys: BTreeSet<&String> = secret["data"].as_object().unwrap().keys().collect();

    let deployment: Value = get("deployment", "qwen-client").json();
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(container["envFrom"][0]["secretRef"]["name"], "qwen-chat");
    // What OpenAI's client reads from its environment.
    for name in ["OPENAI_BASE_URL", "OPENAI_API_KEY"] {
        assert!(keys.contains(&name.to_owned()), "{keys:?}");
    }
    let volumes = pod["volumes"].as_array().unwrap();
    let mounted = volumes
        .iter()
        .find(|volume| volume["secret"]["secretName"] == "qwen-chat")
        .unwrap();
    let item = &mounted["secret"]["items"][0];
    assert!(
        keys.contains(&item["key"].as_str().unwrap().to_owned()),
        "{keys:?}"
    );
    let mounts = container["volumeMounts"].as_array().unwrap();
    let at = |volume: &Value| {
        let mount = mounts
            .iter()
            .find(|mount| mount["name"] == volume["name"])
            .unwrap();
        mount["mountPath"].as_str().unwrap().to_owned()
    };
    // The program reads the file where it is mounted, and runs from where it is mounted.
    let program = get("configmap", "qwen-client").json()["data"]["ask.py"]
        .as_str()
        .unwrap()
        .to_owned();
    let ca = format!("{}/{}", at(mounted), item["path"].as_str().unwrap());
    assert!(program.contains(&ca), "{ca} is not read by\n{program}");
    let source = volumes
        .iter()
        .find(|volume| volume["configMap"]["name"] == "qwen-client")
        .unwrap();
    let started = container["command"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .as_str()
        .unwrap();
    assert!(
        started.contains(&format!("{}/ask.py", at(source))),
        "{started}"
    );
    stage
        .kubectl(&["-n", &namespace, "delete", "chat", "qwen", "--wait=false"])
        .done();
    stage.gone(&namespace, "qwen").await;
}

//! What is missing, forbidden, closed, narrow, full or nonsense: a sentence and a hint each, nothing lost.

use std::fs;
use std::process::{Command, Stdio};

use srchat_tests::control_plane::ControlPlane;

use super::stage::{NAMESPACE, Ran, Run as _, repository, serving, stage};

pub async fn without_a_cluster_there_is_a_sentence_and_a_hint() {
    let stage = stage().await;
    let mut nowhere = stage.srchat(&["ls"]);
    nowhere
        .env("KUBECONFIG", "/nonexistent/kubeconfig")
        .ran()
        .fails(1, "no cluster to talk to", "KUBECONFIG");
    let folder = tempfile::tempdir().unwrap();
    // A port that nothing listens on: loopback's first.
    let silent = "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n\
                  contexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\n";
    let file = folder.path().join("kubeconfig");
    fs::write(&file, silent).unwrap();
    for verb in [
        &["ls"][..],
        &["status", "qwen"],
        &["run", "a/b", "--yes"],
        &["plan", "a/b"],
        &["rm", "qwen"],
    ] {
        let ran = stage.srchat(verb).env("KUBECONFIG", &file).ran();
        ran.fails(1, "could not ", "is the cluster up?");
    }
    let doctor = stage.srchat(&["doctor"]).env("KUBECONFIG", &file).ran();
    assert_eq!(doctor.code, 1);
    assert!(doctor.out.starts_with("no  cluster"), "{doctor:#?}");
    let context = stage.srchat(&["ls", "--context", "no-such-context"]).ran();
    context.fails(1, "no cluster to talk to", "--kubeconfig");
}

pub async fn without_the_resource_or_the_operator_that_is_what_is_said() {
    let stage = stage().await;
    // A cluster like any other, on which srchat has not been installed.
    let bare = ControlPlane::start().await.unwrap();
    let srchat = |arguments: &[&str]| {
        let mut command = stage.srchat_in("default", arguments);
        command.env("KUBECONFIG", bare.kubeconfig()).ran()
    };
    srchat(&["ls"]).fails(3, "this cluster does not know ChatSession", "helm install");
    srchat(&["status", "qwen"]).fails(3, "this cluster does not know ChatSession", "helm install");
    let doctor = srchat(&["doctor"]);
    assert!(
        doctor
            .out
            .contains("no  resource   this cluster does not know ChatSession"),
        "{doctor:#?}"
    );
    // And then the half of it.
    let stays = repository().join("charts/rendered/stays.yaml");
    let stays = fs::read_to_string(stays).unwrap();
    bare.kubectl_with(&["apply", "--server-side", "--filename=-"], &stays)
        .unwrap();
    let established = [
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd/chatsessions.srchat.dev",
    ];
    bare.kubectl_with(&established, "").unwrap();
    let planned = srchat(&["plan", "a/b", "--name", "alone"]);
    planned.fails(
        4,
        "no operator has taken notice of session alone",
        "srchat doctor",
    );
    srchat(&["status", "alone"]).fails(3, "there is no session", "srchat run MODEL");
}

pub async fn of_several_sessions_one_has_to_be_named() {
    let stage = stage().await;
    let namespace = stage.namespace("several");
    let without_a_name = [&["attach"][..], &["status"], &["logs"], &["proxy"]];
    for verb in without_a_name {
        let ran = stage.srchat_in(&namespace, verb).ran();
        ran.fails(3, "there is no session in namespace several", "srchat run");
    }
    for name in ["one", "two"] {
        let session = serde_json::json!({
            "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"model": stage.model, "replicas": 0},
        });
        stage.apply(&session.to_string());
    }
    for verb in without_a_name {
        let ran = stage.srchat_in(&namespace, verb).ran();
        ran.fails(2, "there are several sessions", "name one: one, two");
    }
    let both = ["-n", &namespace, "delete", "chat", "one", "two"];
    stage.kubectl(&both).done();
}

pub async fn who_may_not_is_told_so() {
    let stage = serving().await;
    stage
        .kubectl(&["-n", NAMESPACE, "create", "serviceaccount", "nobody"])
        .done();
    let token = stage
        .kubectl(&["-n", NAMESPACE, "create", "token", "nobody"])
        .done();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kubeconfig");
    fs::copy(&stage.kubeconfig, &file).unwrap();
    let at = file.to_str().unwrap();
    stage
        .kubectl(&[
            "--kubeconfig",
            at,
            "config",
            "set-credentials",
            "nobody",
            "--token",
            token.trim(),
        ])
        .done();
    stage
        .kubectl(&[
            "--kubeconfig",
            at,
            "config",
            "set-context",
            "--current",
            "--user=nobody",
        ])
        .done();
    let nobody = |verb: &[&str]| stage.srchat(verb).env("KUBECONFIG", &file).ran();
    nobody(&["ls"]).fails(5, "could not list sessions", "srchat-user");
    nobody(&["plan", "a/b"]).fails(5, "could not make the session", "srchat-user");
    let doctor = nobody(&["doctor"]);
    assert!(
        doctor
            .out
            .contains("no  rights     you may not create chatsessions"),
        "{doctor:#?}"
    );
    let mut login = stage.srchat(&["login"]);
    let login = login
        .env("KUBECONFIG", &file)
        .env("RUNPOD_API_KEY", &stage.runpod.1)
        .ran();
    login.fails(
        5,
        "you may not write Secrets in namespace srchat-system",
        "administers",
    );
}

pub async fn a_reader_that_goes_away_is_no_error() {
    let stage = serving().await;
    for verb in [
        &["ls", "-o", "json"][..],
        &["--help"],
        &["status"],
        &["completions", "bash"],
        &["logs"],
    ] {
        let mut command = stage.srchat(verb);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = tokio::task::block_in_place(|| child.wait_with_output()).unwrap();
        let ran = Ran::new(format!("{verb:?}"), &output);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:#?}");
    }
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let output = tokio::task::block_in_place(|| {
        stage
            .srchat(&["ls"])
            .stdout(full())
            .stderr(Stdio::piped())
            .output()
    });
    Ran::new("ls > /dev/full".into(), &output.unwrap()).fails(
        1,
        "could not write to standard output: No space left",
        "",
    );
    // Nobody to hear the complaint is no reason to panic.
    let mut deaf = stage.srchat(&["status", "nobody-there"]);
    let deaf = tokio::task::block_in_place(|| deaf.stderr(full()).stdout(Stdio::null()).status());
    assert_eq!(deaf.unwrap().code(), Some(3));
}

pub async fn without_utf8_and_on_a_narrow_terminal_it_stays_readable() {
    let stage = stage().await;
    // A plan makes a session for a moment: beside the one that serves it would make commands without a name ambiguous.
    let namespace = stage.namespace("plain");
    let plain = stage
        .srchat_in(&namespace, &["plan", &stage.model])
        .env("LC_ALL", "C")
        .ran();
    assert!(plain.out.is_ascii() && plain.err.is_ascii(), "{plain:#?}");
    assert!(plain.out.contains("gpu       1 x "), "{plain:#?}");
    let help = stage
        .srchat(&["--help"])
        .env("COLUMNS", "20")
        .env("LC_ALL", "C")
        .ran()
        .done();
    assert!(help.is_ascii(), "{help}");
    let colourless = stage.srchat(&["status", "nope"]).env("NO_COLOR", "1").ran();
    assert!(!colourless.err.contains('\x1b'), "{colourless:#?}");
}

pub async fn a_command_line_that_makes_no_sense_is_refused_before_anything_is_asked() {
    let stage = stage().await;
    let refused = |arguments: &[&str], why: &str| {
        let ran = stage
            .srchat(arguments)
            .env("KUBECONFIG", "/nonexistent")
            .ran();
        assert_eq!(ran.code, 2, "{ran:#?}");
        assert!(ran.err.contains(why), "{why:?} is not in {ran:#?}");
    };
    refused(&["run"], "<MODEL>");
    refused(&["run", "not-a-model"], "owner/name");
    refused(&["run", "a/b", "--name", "Not_A_Name"], "lower-case");
    refused(&["run", "a/b", "--max-cost-per-hour", "cheap"], "0.79");
    refused(
        &["run", "a/b", "--use-vllm", "--no-vllm"],
        "cannot be used with",
    );
    refused(&["run", "a/b", "--quantize=int3"], "int4");
    refused(&["frobnicate"], "unrecognized subcommand");
    refused(&["atach"], "attach");
    refused(&["cp", "only-one"], "required");
    let bare = Command::new(&stage.srchat).stdin(Stdio::null()).ran();
    assert_eq!(bare.code, 2);
    assert!(bare.err.contains("Usage: srchat"), "{bare:#?}");
    let version = stage.srchat(&["--version"]).ran().done();
    assert!(version.starts_with("srchat 0."), "{version}");
}

pub async fn a_key_is_tried_before_it_is_kept() {
    let stage = stage().await;
    let folder = tempfile::tempdir().unwrap();
    let login = || {
        let mut login = stage.srchat(&["login"]);
        login.current_dir(folder.path());
        login
    };
    let held = || {
        let get = [
            "-n",
            "srchat-system",
            "get",
            "secret",
            "srchat-provider",
            "-o",
            "jsonpath={.data.RUNPOD_API_KEY}",
        ];
        stage.kubectl(&get).done()
    };
    let before = held();
    let wrong = login().env("RUNPOD_API_KEY", "rpa_wrong").ran();
    wrong.fails(
        5,
        "RunPod does not accept this API key",
        "console.runpod.io",
    );
    login().env("RUNPOD_API_KEY", "two words").ran().fails(
        2,
        "has characters that no key has",
        "API keys",
    );
    login().ran().fails(2, "is empty", "API keys");
    let nobody = login()
        .env("RUNPOD_API_KEY", "rpa_x")
        .env("RUNPOD_API_URL", "http://127.0.0.1:1/v2")
        .ran();
    nobody.fails(1, "RunPod cannot be reached", "neither checked nor kept");
    let clear = login()
        .env("RUNPOD_API_KEY", "rpa_x")
        .env("RUNPOD_API_URL", "http://api.example/v2")
        .ran();
    clear.fails(2, "must be https", "");
    assert_eq!(held(), before);

    fs::write(
        folder.path().join(".env"),
        format!("RUNPOD_API_KEY='{}'\n", stage.runpod.1),
    )
    .unwrap();
    let kept = login().ran();
    assert_eq!(kept.code, 0, "{kept:#?}");
    assert!(
        kept.err.contains("RunPod accepts the key from .env"),
        "{kept:#?}"
    );
    assert!(!kept.err.contains(&stage.runpod.1), "the key was shown");
    assert_eq!(held(), before);
    let elsewhere = login()
        .args(["--system-namespace", "no-such-namespace"])
        .ran();
    elsewhere.fails(
        3,
        "there is no namespace no-such-namespace",
        "install srchat first",
    );
}

//! What runs, what it costs, how far it is, what its engine says, and whether all of it stands as it should.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::Value;

use super::stage::{NAME, NAMESPACE, Run as _, serving};

pub async fn a_session_that_serves_is_listed_and_shown() {
    let stage = serving().await;
    let list = stage.srchat(&["ls"]).ran().done();
    let (header, row) = list.split_once('\n').unwrap();
    assert!(header.starts_with("NAME   MODEL"), "{list}");
    assert!(row.contains(NAME) && row.contains("Serving"), "{list}");

    let everywhere = stage.srchat(&["ls", "--all-namespaces"]).ran().done();
    assert!(everywhere.starts_with("NAMESPACE"), "{everywhere}");
    assert!(everywhere.contains(NAMESPACE), "{everywhere}");

    let sessions = stage.srchat(&["ls", "--output", "json"]).ran().json();
    assert_eq!(sessions[0]["metadata"]["name"], NAME);
    assert_eq!(sessions.as_array().unwrap().len(), 1);

    // The only session need not be named.
    let status = stage.srchat(&["status"]).ran().done();
    for line in [
        "session   qwen",
        "state     Serving",
        "endpoint  https://",
        "cost      $",
        "ends      in ",
    ] {
        assert!(status.contains(line), "{line:?} is not in\n{status}");
    }
    let status = stage.srchat(&["status", NAME, "-o", "json"]).ran().json();
    assert_eq!(status["status"]["plan"]["engine"], "LlamaCpp");
}

pub async fn the_engines_log_is_shown_and_followed() {
    let stage = serving().await;
    let log = stage.srchat(&["logs", NAME]).ran().done();
    assert!(log.lines().count() > 3, "{log}");
    let tail = stage.srchat(&["logs", "--tail", "2"]).ran().done();
    assert_eq!(tail.lines().count(), 2, "{tail}");

    let mut follow = stage.srchat(&["logs", NAME, "--follow", "--tail", "1"]);
    let mut child = follow.stdout(Stdio::piped()).spawn().unwrap();
    let first = tokio::task::block_in_place(|| {
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        line
    });
    assert!(!first.trim().is_empty());
    assert_eq!(child.try_wait().unwrap(), None, "it stopped following");
    child.kill().unwrap();
    child.wait().unwrap();
}

pub async fn doctor_finds_a_whole_installation_in_order() {
    let stage = serving().await;
    let found = stage.srchat(&["doctor"]).ran();
    assert_eq!(found.code, 0, "{found:#?}");
    for line in [
        "ok  cluster    Kubernetes v1.",
        "ok  resource",
        "ok  rights",
        "ok  operator",
        "ok  key",
        "ok  gateway",
    ] {
        assert!(
            found.out.contains(line),
            "{line:?} is not in\n{}",
            found.out
        );
    }
    let found = stage.srchat(&["doctor", "--output", "json"]).ran().json();
    let checks: Vec<&Value> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|f| &f["check"])
        .collect();
    assert_eq!(
        checks,
        [
            "cluster", "resource", "rights", "operator", "key", "gateway"
        ]
    );

    // Another namespace than the operator's has none, and the way out is said.
    let elsewhere = stage
        .srchat(&["doctor", "--system-namespace", "default"])
        .ran();
    assert_eq!(elsewhere.code, 1);
    assert!(
        elsewhere
            .out
            .contains("no  operator   none has ever run in namespace default"),
        "{elsewhere:#?}"
    );
    assert!(
        elsewhere.out.contains("hint: helm install"),
        "{elsewhere:#?}"
    );
    assert!(
        elsewhere.out.contains("hint: srchat login"),
        "{elsewhere:#?}"
    );
}

pub async fn a_name_that_is_almost_right_finds_its_session() {
    let stage = serving().await;
    let wrong = |verb: &[&str]| stage.srchat(verb).ran();
    for verb in [
        &["status", "qwne"][..],
        &["logs", "qwne"],
        &["ask", "qwne", "Hi"],
        &["rm", "qwne"],
        &["pause", "qwne"],
    ] {
        let there_is_none = "there is no session qwne in namespace surface";
        wrong(verb).fails(3, there_is_none, "did you mean qwen?");
    }
    wrong(&["status", "something-else"]).fails(3, "there is no session", "there are: qwen");
    let nowhere = stage.srchat_in("default", &["status"]).ran();
    nowhere.fails(
        3,
        "there is no session in namespace default",
        "srchat run MODEL",
    );
}

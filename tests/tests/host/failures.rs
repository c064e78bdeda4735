//! Deployments that fail, each for a reason that is told.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use srchat_operator::host::deploy::Deploy;
use srchat_operator::host::visit::{Ask, FailureKind, Health};
use srchat_operator::host::{self, Stage};
use tempfile::TempDir;

use super::machine::{http_get, root_says};
use super::repository::{Hub, hub, with_hub};

async fn failure_of(hub: Hub, change: impl FnOnce(&mut Deploy, &TempDir)) -> (FailureKind, String) {
    let (host, connection, mut order, folder) = with_hub(hub).await;
    change(&mut order, &folder);
    host::deploy(&connection, &host.of, &order).await.unwrap();
    let visit = host.follow(&connection).await;
    let failure = visit.failure.expect("it fails");
    host.machine.kill().await;
    (failure.kind, failure.log)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_line_is_taken_up_where_it_broke() {
    let hub = Hub {
        breaks: AtomicUsize::new(2),
        ..hub()
    };
    let (host, connection, order, _folder) = with_hub(hub).await;
    host::deploy(&connection, &host.of, &order).await.unwrap();
    let visit = host.follow(&connection).await;
    assert_eq!((visit.failure, visit.stage), (None, Stage::Serving));
    host.machine.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_hub_refuses_is_said_so() {
    let hub = Hub {
        token: Some("hf_another"),
        ..hub()
    };
    let (kind, _) = failure_of(hub, |_, _| ()).await;
    assert_eq!(kind, FailureKind::HubRefused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_the_planned_one_is_never_served() {
    let (kind, log) = failure_of(hub(), |order, _| {
        order.files[0].sha256 = Some("0".repeat(64))
    })
    .await;
    assert_eq!(kind, FailureKind::Verify);
    assert!(log.contains("wrong SHA-256"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_the_hub_does_not_have_fails_the_download() {
    let (kind, _) = failure_of(hub(), |order, _| order.files[1].path = "none".to_owned()).await;
    assert_eq!(kind, FailureKind::Download);
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_do_not_fit_are_not_begun() {
    let (kind, log) = failure_of(hub(), |order, _| order.files[0].size = 1 << 60).await;
    assert_eq!(kind, FailureKind::DiskFull);
    assert!(log.contains("the weights need"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_cannot_load_leaves_its_last_words() {
    let (kind, log) = failure_of(hub(), |_, folder| {
        std::fs::write(folder.path().join("broken"), "").unwrap();
    })
    .await;
    assert_eq!(kind, FailureKind::Start);
    assert!(log.contains("CUDA error: out of memory"), "{log}");
    assert!(log.contains("status 3"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_run_here_is_found_out_before_anything_is_downloaded() {
    let empty = Hub {
        files: BTreeMap::new(),
        ..hub()
    };
    let (kind, log) = failure_of(empty, |_, folder| {
        let broken =
            "#!/bin/sh\necho 'libcuda.so.1: cannot open shared object file' >&2\nexit 127\n";
        std::fs::write(folder.path().join("llama-server"), broken).unwrap();
    })
    .await;
    assert_eq!(kind, FailureKind::Probe);
    assert!(log.contains("libcuda.so.1"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_nowhere_and_cannot_be_installed_is_said_so() {
    let (kind, log) = failure_of(hub(), |_, folder| {
        std::fs::remove_file(folder.path().join("llama-server")).unwrap();
    })
    .await;
    assert_eq!(kind, FailureKind::Install);
    assert!(log.contains("no llama-server"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_is_seen_and_another_deploy_serves_again() {
    let (host, connection, order, _folder) = with_hub(hub()).await;
    let accepted = host::deploy(&connection, &host.of, &order).await.unwrap();
    assert_eq!(host.follow(&connection).await.stage, Stage::Serving);
    let gateway = host.connect_as_gateway().await.unwrap();
    http_get(&gateway, accepted.port, "/die").await;
    let ask = Ask {
        known: Some(Stage::Serving),
        patience: Duration::from_secs(20),
        ..Ask::default()
    };
    let visit = host::visit(&connection, &host.of, &ask).await.unwrap();
    let failure = visit.failure.expect("the engine is gone");
    assert_eq!(
        (failure.kind, visit.engine),
        (FailureKind::Died, Health::Dead)
    );
    assert!(failure.log.contains("status 7"), "{}", failure.log);

    let again = host::deploy(&connection, &host.of, &order).await.unwrap();
    assert!(!again.already);
    let visit = host.follow(&connection).await;
    assert_eq!((visit.failure, visit.engine), (None, Health::Healthy));
    host.machine.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_killed_is_lost_and_not_waited_for() {
    let (host, connection, order, _folder) = with_hub(hub()).await;
    host::deploy(&connection, &host.of, &order).await.unwrap();
    assert_eq!(host.follow(&connection).await.stage, Stage::Serving);
    root_says(
        &connection,
        "for f in \"$SRCHAT_ROOT\"/state/processes/job/* \"$SRCHAT_ROOT\"/state/processes/engine/*; do kill -9 -\"${f##*/}\"; done",
    )
    .await;
    let visit = host::visit(&connection, &host.of, &Ask::default())
        .await
        .unwrap();
    assert_eq!(visit.failure.map(|f| f.kind), Some(FailureKind::Lost));
    host.machine.kill().await;
}

//! What a host does when nobody comes.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::StatusCode;
use srchat_operator::host::boot::{self, BootLog, BootStage};
use srchat_operator::host::{self, Stage};
use srchat_operator::ssh::KeyPair;
use srchat_tests::hosts::Hosts;

use super::bounds::after;
use super::machine::{Host, POD, next_line, nonce, now, root_says, spec};
use super::repository::{deploy, hub, image_with_engine};

/// The provider's API as the watchdog needs it: notes what it is asked, refuses the first DELETE.
async fn provider() -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, asked) = tokio::sync::mpsc::unbounded_channel();
    let answer = move |request: axum::extract::Request| {
        let sender = sender.clone();
        async move {
            let key = request
                .headers()
                .get("authorization")
                .and_then(|v| v.to_str().ok())
                .unwrap_or("none")
                .to_owned();
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1000).await.unwrap();
            let said = format!(
                "{} {} {key} {}",
                parts.method,
                parts.uri,
                String::from_utf8_lossy(&body)
            );
            let _ = sender.send(said);
            if parts.method == "DELETE" {
                StatusCode::FORBIDDEN
            } else {
                StatusCode::OK
            }
        }
    };
    let app = axum::Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, asked)
}

const ENDED: [&str; 2] = [
    "DELETE /v2/pods/pod7h9k2m4n6p Bearer rpa_pods_own_key ",
    "POST /v2/pods/pod7h9k2m4n6p/action Bearer rpa_pods_own_key {\"action\":\"stop\"}",
];

async fn assert_ended(asked: &mut tokio::sync::mpsc::UnboundedReceiver<String>) {
    for expected in ENDED {
        let seen = tokio::time::timeout(Duration::from_secs(30), asked.recv()).await;
        assert_eq!(seen.expect("the watchdog asks").unwrap(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_pod_that_is_started_again_never_serves_and_ends_itself() {
    let (api, mut asked) = provider().await;
    let controller = KeyPair::generate().unwrap();
    let mut machine = Hosts::real()
        .await
        .unwrap()
        .start(spec(&controller, |spec| {
            spec.env
                .insert("SRCHAT_DEADLINE".to_owned(), (now() - 1).to_string());
            spec.env
                .insert("SRCHAT_API".to_owned(), format!("http://{api}/v2"));
            spec.reach.push(api);
        }))
        .await
        .unwrap();
    let said = next_line(&mut machine).await;
    assert_eq!(
        boot::read_log([said.as_str()], &nonce(), POD),
        BootLog::Failed(BootStage::Expired),
        "{said}"
    );
    assert_ended(&mut asked).await;
    machine.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_hears_nothing_clears_and_ends_itself() {
    let (api, mut asked) = provider().await;
    let hub = hub().serve().await;
    let (_folder, image) = image_with_engine();
    let host = Host::boot(&Hosts::real().await.unwrap(), |spec| {
        spec.image = image;
        spec.reach.extend([api, hub]);
        spec.env.insert("SRCHAT_API".to_owned(), format!("http://{api}/v2"));
        spec.env.insert("SRCHAT_TICK".to_owned(), "0.05".to_owned());
        // Its uptime is what a test says it is.
        after(spec, "SRCHAT_UPTIME=${TMPDIR:-/tmp}/uptime; export SRCHAT_UPTIME; echo 1000 >\"$SRCHAT_UPTIME\"");
    })
    .await;
    let connection = host.connect().await;
    let order = deploy(hub, &host.gateways);
    host::deploy(&connection, &host.of, &order).await.unwrap();
    assert_eq!(host.follow(&connection).await.stage, Stage::Serving);
    // 899 seconds after the last activity it still waits; a heartbeat from the future does not help it.
    let uptime = "${TMPDIR:-/tmp}/uptime";
    root_says(
        &connection,
        &format!(
            "cd \"$SRCHAT_ROOT\"; echo 99999 >state/heartbeat; echo 1500 >activity/new; mv activity/new activity/last; echo 2399 >{uptime}; sleep 0.5; ls state/ended; echo 2400 >{uptime}"
        ),
    )
    .await;
    assert_ended(&mut asked).await;
    assert_eq!(
        root_says(&connection, "cat \"$SRCHAT_ROOT/state/ended\"").await,
        "silence"
    );
    let left = root_says(&connection, "ls \"$SRCHAT_ROOT\" \"$SRCHAT_MEMORY\"").await;
    assert!(!left.contains("hub") && !left.contains("files"), "{left}");
    let again = host::deploy(&connection, &host.of, &order).await;
    assert!(
        matches!(again, Err(host::Error::Failed { .. })),
        "what has ended stays ended"
    );
    host.machine.kill().await;
}

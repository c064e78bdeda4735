//! A whole life: boot, trust, deploy, visit, close, clear.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use secrecy::SecretString;
use srchat_operator::host::clear::{Found, Kind, Method};
use srchat_operator::host::visit::{Activity, Ask, Health};
use srchat_operator::host::{self, Stage, gate};
use srchat_operator::ssh::{self, Bounds, Connection};
use srchat_tests::hosts::Hosts;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::machine::{Host, http_get, modes, root_says};
use super::repository::{deploy, hub, image_with_engine};

#[tokio::test(flavor = "multi_thread")]
async fn a_host_boots_serves_closes_and_is_cleared() {
    for hosts in modes().await {
        whole_life(&hosts).await;
    }
}

async fn whole_life(hosts: &Hosts) {
    let (_folder, image) = image_with_engine();
    let mut hub = hub();
    hub.token = Some("hf_the_users_token");
    let hub = hub.serve().await;
    let host = Host::boot(hosts, |spec| {
        spec.image = image;
        spec.reach.push(hub);
    })
    .await;
    let connection = host.connect().await;

    let visit = host::visit(&connection, &host.of, &Ask::default())
        .await
        .unwrap();
    assert_eq!(visit.boot_id, host.line.boot_id);
    assert_eq!(visit.stage, Stage::Connecting);
    assert_eq!(
        (visit.deployed, visit.failure, visit.port),
        (None, None, None)
    );
    assert_eq!(visit.users_separated, host.users_separated());

    let mut order = deploy(hub, &host.gateways);
    order.token = Some(SecretString::from("hf_the_users_token"));
    let accepted = host::deploy(&connection, &host.of, &order).await.unwrap();
    assert!(!accepted.already);
    let visit = host.follow(&connection).await;
    assert_eq!(visit.failure, None);
    assert_eq!(visit.stage, Stage::Serving);
    assert_eq!(visit.engine, Health::Healthy);
    assert_eq!((visit.bytes, visit.total), (3_000_002, 3_000_002));
    assert_eq!(visit.deployed.as_ref(), Some(&accepted.digest));
    assert_eq!(visit.port, Some(accepted.port));
    assert_eq!(visit.activity, Activity::Never);

    let again = host::deploy(&connection, &host.of, &order).await.unwrap();
    assert!(again.already, "a second deploy changes nothing");
    assert_eq!(again.port, accepted.port);
    let found = root_says(
        &connection,
        "grep -rl hf_the_users_token \"$SRCHAT_ROOT\" \"$SRCHAT_MEMORY\"; ls \"$SRCHAT_MEMORY/fetch\" 2>&1 | head -c 3",
    )
    .await;
    assert_eq!(
        found, "ls:",
        "the token is off the host when the weights are there"
    );

    let gateway = host.connect_as_gateway().await.unwrap();
    let said = http_get(&gateway, accepted.port, "/who").await;
    for expected in [
        "size=3000000",
        "--alias",
        "test/tiny",
        "two words; $(id)",
        "HF_HUB_OFFLINE=1",
    ] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
    for secret in ["hf_", "rpa_", "LLAMA_ARG_HOST", "SRCHAT_", "RUNPOD_"] {
        assert!(!said.contains(secret), "{secret} in {said}");
    }
    // Where users are not kept apart, everything runs as whoever runs this.
    let own = format!("uid={}", rustix::process::geteuid().as_raw());
    assert_eq!(said.contains(&own), !host.users_separated(), "{said}");
    gate_admits_four_things(&host, &gateway, accepted.port).await;

    if host.users_separated() {
        users_are_kept_apart(&connection, &accepted.files).await;
    }

    let heartbeat = gateway.start(gate::HEARTBEAT).await.unwrap();
    let closed = host::close(&connection, &host.of).await.unwrap();
    assert!(closed.complete(), "{closed:?}");
    gateway.closed().await;
    drop(heartbeat);
    assert!(matches!(
        host.connect_as_gateway().await,
        Err(ssh::Error::NotAdmitted { .. } | ssh::Error::Ended)
    ));
    assert!(host::close(&connection, &host.of).await.unwrap().complete());

    let report = host::clear(&connection, &host.of, Duration::from_secs(60))
        .await
        .unwrap();
    assert!(report.complete(), "{report:?}");
    assert_eq!(report.users_separated, host.users_separated());
    let uploads = report
        .paths
        .iter()
        .find(|path| path.kind == Kind::Uploads && path.bytes > 0);
    let uploads = uploads.expect("the upload was found");
    assert_eq!(
        (uploads.method, uploads.found),
        (Method::Overwritten, Found::Gone)
    );
    assert!(report.bytes() >= 3_000_002);
    let left = root_says(
        &connection,
        "cd \"$SRCHAT_ROOT\"; ls -A . \"$SRCHAT_MEMORY\" keys | tr '\\n' ' '; ls /tmp/stray 2>/dev/null",
    )
    .await;
    assert!(
        !left.contains("hub") && !left.contains("files") && !left.contains("stray"),
        "{left}"
    );
    assert!(left.contains("keys: root"), "{left}");
    let again = host::clear(&connection, &host.of, Duration::from_secs(60))
        .await
        .unwrap();
    assert!(again.complete(), "{again:?}");

    let visit = host::visit(&connection, &host.of, &Ask::default())
        .await
        .unwrap();
    assert_eq!(visit.stage, Stage::Connecting);
    host.machine.kill().await;
}

async fn gate_admits_four_things(host: &Host, gateway: &Connection, port: u16) {
    let sftp = gateway.sftp_by(gate::SFTP).await.unwrap();
    let content = vec![7u8; 5 << 20];
    let moved = sftp
        .write("upload.part", 0, content.as_slice(), &|_| ())
        .await
        .unwrap();
    sftp.replace("upload.part", "a name; with $(id).bin")
        .await
        .unwrap();
    let sum = gateway
        .exec(&gate::sha256("a name; with $(id).bin"), &[], &Bounds::SHORT)
        .await
        .unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert_eq!(gate::sha256_answer(&sum), Some(moved.sha256));
    let log = gateway
        .exec(&gate::log(100, false), &[], &Bounds::SHORT)
        .await
        .unwrap();
    assert!(String::from_utf8_lossy(&log.stdout).contains("loading"));

    let mut heartbeat = BufReader::new(gateway.start(gate::HEARTBEAT).await.unwrap());
    let mut answers = Vec::new();
    for line in [gate::ASK, gate::TOUCH, gate::ASK] {
        heartbeat.get_mut().write_all(line).await.unwrap();
        let mut answer = String::new();
        heartbeat.read_line(&mut answer).await.unwrap();
        answers.push(gate::heartbeat_answer(&answer));
    }
    assert_eq!(answers[0], Activity::Never);
    assert!(
        answers[1..]
            .iter()
            .all(|seen| matches!(seen, Activity::Ago(_))),
        "{answers:?}"
    );
    let connection = host.connect().await;
    let visit = host::visit(&connection, &host.of, &Ask::default())
        .await
        .unwrap();
    assert!(matches!(visit.activity, Activity::Ago(_)));

    for command in [
        "id",
        "heartbeat; id",
        "sftp id",
        "log 10 once; id",
        "log -f follow",
        "sha256 Li4vc3RhdGUvYm9vdA==",
        "sha256 L2V0Yy9wYXNzd2Q=",
        "true",
    ] {
        let output = gateway.exec(command, &[], &Bounds::SHORT).await.unwrap();
        assert_ne!(output.status, 0, "{command}");
        assert!(output.stdout.is_empty(), "{command}: {output:?}");
    }
    let elsewhere = if port == 22 { 23 } else { 22 };
    assert!(matches!(
        gateway.forward(elsewhere).await,
        Err(ssh::Error::Refused(_))
    ));
}

async fn users_are_kept_apart(connection: &Connection, files: &str) {
    let as_engine = |command: &str| {
        format!("chroot --userspec=srchat-engine:srchat-engine / sh -c '{command}' 2>&1")
    };
    for forbidden in [
        format!("ls {files}"),
        "cat $SRCHAT_ROOT/bin/job".to_owned(),
        "ls $SRCHAT_ROOT/state".to_owned(),
        "cat /proc/1/environ".to_owned(),
        "touch $SRCHAT_ROOT/hub/x".to_owned(),
        format!("ln -s /etc/passwd {files}/link"),
        "cat $SRCHAT_ROOT/ssh/host_key".to_owned(),
    ] {
        let said = root_says(connection, &as_engine(&forbidden)).await;
        assert!(said.contains("Permission denied"), "{forbidden}: {said}");
    }
    root_says(connection, &as_engine("echo secret > /tmp/stray")).await;
}

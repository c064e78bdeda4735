//! What scripts do not touch, images that lack something, and deadlines.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use srchat_operator::host::boot::{self, BootLog, BootStage};
use srchat_operator::host::clear::Kind;
use srchat_operator::host::visit::Ask;
use srchat_operator::host::{self, Incarnation, Stage};
use srchat_operator::ssh::KeyPair;
use srchat_tests::hosts::{HostSpec, Hosts, Image, Isolation};

use super::machine::{Host, POD, next_line, nonce, root_says, spec};
use super::repository::{hub, with_hub};

#[tokio::test(flavor = "multi_thread")]
async fn another_attempts_scripts_change_nothing() {
    let (host, connection, order, _folder) = with_hub(hub()).await;
    let other = Incarnation {
        attempt: 2,
        ..host.of.clone()
    };
    assert!(matches!(
        host::visit(&connection, &other, &Ask::default()).await,
        Err(host::Error::Failed {
            script: "visit",
            ..
        })
    ));
    assert!(host::deploy(&connection, &other, &order).await.is_err());
    assert!(host::close(&connection, &other).await.is_err());
    let before = root_says(&connection, "cd \"$SRCHAT_ROOT\" && ls -A . keys").await;
    assert!(
        host::clear(&connection, &other, Duration::from_secs(10))
            .await
            .is_err()
    );
    let after = root_says(&connection, "cd \"$SRCHAT_ROOT\" && ls -A . keys").await;
    assert_eq!(before, after);
    host.machine.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clearing_follows_no_link_and_finds_every_name() {
    let (host, connection, order, _folder) = with_hub(hub()).await;
    let accepted = host::deploy(&connection, &host.of, &order).await.unwrap();
    assert_eq!(host.follow(&connection).await.stage, Stage::Serving);
    // What a hostile engine or a careless user may leave behind.
    root_says(
        &connection,
        &format!(
            "cd {} && mkdir -p 'a b/.c' && echo kept >\"$SRCHAT_ROOT/kept\" && ln -s \"$SRCHAT_ROOT/kept\" link && ln -s \"$SRCHAT_ROOT\" folder \
             && echo x >'a b/.c/-rf' && echo y >'a b/new\nline' && mkdir ..twodots && echo z >..twodots/..f && chmod 0 'a b/.c/-rf'",
            accepted.files
        ),
    )
    .await;
    if host.users_separated() {
        root_says(
            &connection,
            "chroot --userspec=srchat-engine:srchat-engine / sh -c 'mkdir \"/tmp/a\n-b\" && echo s >\"/tmp/a\n-b/*\" && ln -s /etc/passwd /var/tmp/link; (exec sleep 1000) </dev/null >/dev/null 2>&1 &'",
        )
        .await;
    }
    let report = host::clear(&connection, &host.of, Duration::from_secs(60))
        .await
        .unwrap();
    assert!(report.complete(), "{report:?}");
    assert_eq!(
        root_says(&connection, "cat \"$SRCHAT_ROOT/kept\"").await,
        "kept"
    );
    if host.users_separated() {
        let strays: Vec<_> = report
            .paths
            .iter()
            .filter(|path| path.kind == Kind::Strays)
            .map(|path| path.path.as_str())
            .collect();
        assert_eq!(strays, ["/tmp/a\n-b", "/var/tmp/link"]);
        assert_ne!(root_says(&connection, "head -c 4 /etc/passwd").await, "");
        assert_eq!(
            root_says(&connection, "cat /proc/[0-9]*/comm | grep -c sleep")
                .await
                .parse::<u32>()
                .unwrap(),
            2,
            "only boot's and the watchdog's"
        );
    }
    host.machine.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_deadline_holds_once_it_is_acknowledged_and_an_earlier_one_never() {
    let (host, connection, _, _folder) = with_hub(hub()).await;
    let first = host::visit(&connection, &host.of, &Ask::default())
        .await
        .unwrap()
        .deadline;
    for (asked, held) in [
        (first + 500, first + 500),
        (first + 100, first + 500),
        (first - 100, first + 500),
    ] {
        let ask = Ask {
            deadline: Some(asked),
            ..Ask::default()
        };
        let visit = host::visit(&connection, &host.of, &ask).await.unwrap();
        assert_eq!(visit.deadline, held, "{asked}");
    }
    host.machine.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_sshd_gets_one_and_without_any_way_says_so() {
    let hosts = Hosts::real().await.unwrap();
    if hosts.isolation() == Isolation::Process {
        srchat_tests::skipped::because("nothing can be hidden from a pod that is only a process");
        return;
    }
    let bare = Image {
        sshd: false,
        curl: false,
        ..Image::default()
    };
    let host = Host::boot(&hosts, |spec| spec.image = bare.clone()).await;
    host.connect().await;
    host.machine.kill().await;

    let controller = KeyPair::generate().unwrap();
    let hopeless = Image {
        mirror: false,
        ..bare
    };
    let mut machine = hosts
        .start(spec(&controller, |spec| spec.image = hopeless))
        .await
        .unwrap();
    let said = next_line(&mut machine).await;
    let seen = boot::read_log([said.as_str()], &nonce(), POD);
    assert_eq!(seen, BootLog::Failed(BootStage::Install), "{said}");
    machine.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_without_our_marker_is_left_alone() {
    let hosts = Hosts::real().await.unwrap();
    let controller = KeyPair::generate().unwrap();
    let mut machine = hosts
        .start(spec(&controller, |spec| {
            let before = "mkdir -p \"$SRCHAT_ROOT\" && echo theirs >\"$SRCHAT_ROOT/file\"";
            after(spec, before);
        }))
        .await
        .unwrap();
    let said = next_line(&mut machine).await;
    assert_eq!(
        boot::read_log([said.as_str()], &nonce(), POD),
        BootLog::Failed(BootStage::Root),
        "{said}"
    );
    machine.kill().await;
}

/// Runs a few words of shell before the start command.
pub fn after(spec: &mut HostSpec, before: &str) {
    let mut argv: Vec<String> = ["sh", "-c", &format!("{before}; exec \"$@\""), "sh"]
        .map(str::to_owned)
        .to_vec();
    argv.append(&mut spec.argv);
    spec.argv = argv;
}

#[test]
fn every_script_passes_shellcheck_and_is_posix() {
    if srchat_tests::tools::on_path("shellcheck").is_none() {
        srchat_tests::skipped::because(
            "shellcheck is not installed (Debian: apt-get install shellcheck)",
        );
        return;
    }
    for (name, text) in host::scripts() {
        for (program, arguments) in [("shellcheck", &["-s", "sh", "-"][..]), ("sh", &["-n"][..])] {
            let mut child = std::process::Command::new(program)
                .args(arguments)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(
                output.status.success(),
                "{name}: {}",
                String::from_utf8_lossy(&output.stdout)
            );
        }
    }
}

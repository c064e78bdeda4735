//! Pods in which something really runs: in the best isolation that this machine gives.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use srchat_operator::provider::{
    Error, LogLine, NewPod, Pod,
    runpod::{Key, RunPod},
};
use srchat_tests::{
    eventually,
    hosts::{Hosts, Isolation},
    runpod::{Clock, EndedBy, Entry, Fault, Kind, Ledger, Options, Simulator},
    skipped,
};

use super::setting::{PATIENCE, new_pod, soon, start_with};

/// A busy machine may take its time; nothing here is about speed.
const WITHIN: Duration = Duration::from_secs(60);

/// A pod in which this script is PID 1; the pod's name is `real`.
async fn running(script: &str, faults: &[Fault]) -> Option<(Simulator, RunPod, Pod)> {
    let hosts = match Hosts::real().await {
        Ok(hosts) => hosts,
        Err(error) => {
            skipped::because(&error.to_string());
            return None;
        }
    };
    let (simulator, runpod) = start_with(Options {
        hosts,
        clock: Clock::running(),
        limits: None,
        ..Options::default()
    })
    .await;
    for fault in faults {
        simulator.fault(fault.clone());
    }
    let args = shlex::try_join(["sh", "-c", script]).unwrap();
    let mut new = NewPod {
        args,
        ..new_pod("real")
    };
    new.env
        .insert("SRCHAT_API".into(), simulator.url().to_owned());
    let pod = runpod.create(&new, soon()).await.unwrap();
    Some((simulator, runpod, pod))
}

async fn entry(simulator: &Simulator, what: &str, fits: impl Fn(&Entry) -> bool) -> Entry {
    let seen = eventually::within(WITHIN, what, || async {
        let entry = simulator.ledger().pods.remove(0);
        if fits(&entry) {
            Ok(entry)
        } else {
            Err(format!("{entry:?}"))
        }
    });
    seen.await.unwrap()
}

async fn lines(runpod: &RunPod, pod: &Pod, count: usize) -> Vec<String> {
    let mut log = runpod.follow(&pod.id, 5_000).await.unwrap();
    let mut lines = Vec::new();
    while lines.len() < count {
        let next = tokio::time::timeout(WITHIN, log.next())
            .await
            .unwrap_or_else(|_| panic!("only {lines:?}"));
        let Some(LogLine { line, .. }) = next.unwrap() else {
            panic!("the log ended: {lines:?}")
        };
        lines.push(line);
    }
    lines
}

#[tokio::test]
async fn a_container_knows_its_pod_and_what_it_writes_is_the_pods_log() {
    let script = r#"echo "$RUNPOD_POD_ID"; echo "$SRCHAT_INSTALLATION" >&2; exec sleep 1000"#;
    let Some((simulator, runpod, pod)) = running(script, &[]).await else {
        return;
    };
    let mut written = lines(&runpod, &pod, 2).await;
    written.sort();
    let mut want = vec![pod.id.to_string(), "here".to_owned()];
    want.sort();
    assert_eq!(written, want);
    let booted = runpod.get(&pod.id).await.unwrap();
    assert!(booted.uptime.unwrap() > 0);
    runpod.delete(&pod.id).await.unwrap();
    let entry = entry(&simulator, "the machine's end", |entry| {
        entry.gone.is_some()
    })
    .await;
    assert!(entry.booted.unwrap() >= entry.rented && entry.spoke.unwrap() >= entry.booted.unwrap());
    assert!(entry.gone.unwrap() >= entry.terminated.unwrap());
    simulator.stop().await;
}

#[tokio::test]
async fn a_container_whose_first_process_ends_is_started_again_with_a_new_disk_and_goes_on_being_billed()
 {
    let script = r#"if [ -e "$HOME/mark" ]; then echo old disk; else echo new disk; fi; : >"$HOME/mark"; exit 3"#;
    let Some((simulator, runpod, pod)) = running(script, &[]).await else {
        return;
    };
    assert_eq!(lines(&runpod, &pod, 3).await, ["new disk"; 3]);
    let entry = entry(&simulator, "starts", |entry| entry.starts >= 3).await;
    assert_eq!(
        (entry.terminated, entry.ended_by),
        (None, None),
        "leaving PID 1 ends nothing"
    );
    simulator.stop().await;
}

#[tokio::test]
async fn a_container_may_end_its_own_pod_with_the_key_it_finds() {
    let script = r#"curl -sS -X DELETE -H "Authorization: Bearer $RUNPOD_API_KEY" "$SRCHAT_API/pods/$RUNPOD_POD_ID"; exec sleep 1000"#;
    let Some((simulator, _, _)) = running(script, &[]).await else {
        return;
    };
    let entry = entry(&simulator, "its own end", |entry| entry.gone.is_some()).await;
    assert_eq!(entry.ended_by, Some(EndedBy::OwnKey));
    simulator.stop().await;
}

#[tokio::test]
async fn a_container_that_may_not_end_its_pod_is_told_so() {
    let script = r#"curl -sS -o /dev/null -w '%{http_code}\n' -X DELETE -H "Authorization: Bearer $RUNPOD_API_KEY" "$SRCHAT_API/pods/$RUNPOD_POD_ID"; exec sleep 1000"#;
    let Some((simulator, runpod, pod)) =
        running(script, &[Fault::always(Kind::OwnKeyMayNotDelete)]).await
    else {
        return;
    };
    assert_eq!(lines(&runpod, &pod, 1).await, ["403"]);
    assert_eq!(simulator.ledger().total.alive, 1);
    simulator.stop().await;
}

#[tokio::test]
async fn a_crash_loop_is_running_all_the_while() {
    let Some((simulator, runpod, pod)) = running(
        "exec sleep 1000",
        &[Fault::always(Kind::CrashLoop).seconds(1)],
    )
    .await
    else {
        return;
    };
    entry(&simulator, "three starts", |entry| entry.starts >= 3).await;
    assert_eq!(
        runpod.get(&pod.id).await.unwrap().status,
        srchat_operator::provider::PodStatus::Running
    );
    assert_eq!(simulator.ledger().faults[&Kind::CrashLoop], 1);
    simulator.stop().await;
}

#[tokio::test]
async fn a_pod_that_vanishes_takes_its_machine_with_it() {
    let Some((simulator, runpod, pod)) = running("exec sleep 1000", &[]).await else {
        return;
    };
    entry(&simulator, "the start", |entry| entry.starts == 1).await;
    simulator.vanish(pod.id.as_str());
    assert!(runpod.get(&pod.id).await.is_err());
    let entry = entry(&simulator, "the machine's end", |entry| {
        entry.gone.is_some()
    })
    .await;
    assert_eq!(entry.ended_by, Some(EndedBy::Provider));
    simulator.stop().await;
}

// The simulator has one thread of its own here, so that a keeper which hogs it fails this test instead of hanging it.
#[tokio::test]
async fn a_pod_whose_hour_has_come_vanishes_and_the_api_goes_on_answering() {
    let (told, learned) = tokio::sync::oneshot::channel();
    let (end, ending) = tokio::sync::oneshot::channel::<()>();
    let simulating = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let vanishes = Fault::always(Kind::Vanishes).seconds(1);
            let Some((simulator, _, pod)) = running("exec sleep 1000", &[vanishes]).await else {
                return;
            };
            let known = (
                simulator.url().to_owned(),
                simulator.key().to_owned(),
                simulator.ledger_url().to_owned(),
                pod.id,
            );
            assert!(told.send(known).is_ok());
            // Nobody but the container's keeper looks at the pod when it is due to vanish.
            let _the_test_ended = ending.await;
            simulator.stop().await;
        });
    });
    let Ok((url, key, ledger_url, pod)) = learned.await else {
        return simulating.join().unwrap();
    };
    let runpod = RunPod::with_patience(&url, Key::parse(&key).unwrap(), PATIENCE).unwrap();
    eventually::eventually("no record of the pod", WITHIN, || async {
        match runpod.get(&pod).await {
            Err(Error::NotFound) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(runpod.list_all().await.unwrap().pods.is_empty());
    let ended = eventually::eventually("the end of its machine", WITHIN, || async {
        let answer = reqwest::get(&ledger_url).await.map_err(|e| e.to_string())?;
        let ledger: Ledger = answer.json().await.map_err(|e| e.to_string())?;
        let ended = ledger.pods.into_iter().find(|entry| entry.gone.is_some());
        ended.ok_or_else(|| "it is still there".to_owned())
    })
    .await;
    assert_eq!(ended.ended_by, Some(EndedBy::Provider));
    drop(end);
    simulating.join().unwrap();
}

#[tokio::test]
async fn an_image_without_sshd_can_install_it() {
    let hosts = match Hosts::real().await {
        Ok(hosts) => hosts,
        Err(error) => return skipped::because(&error.to_string()),
    };
    let hides = hosts.isolation() != Isolation::Process;
    let (simulator, runpod) = start_with(Options {
        hosts,
        clock: Clock::running(),
        limits: None,
        ..Options::default()
    })
    .await;
    let script = "command -v sshd || echo none; apt-get install -y openssh-server >/dev/null && command -v sshd; exec sleep 1000";
    let args = serde_json::json!({"entrypoint": ["sh", "-c"], "cmd": [script]}).to_string();
    let new = NewPod {
        args,
        image: "vllm/vllm-openai:v1".into(),
        ..new_pod("bare")
    };
    let pod = runpod.create(&new, soon()).await.unwrap();
    let seen = lines(&runpod, &pod, if hides { 2 } else { 1 }).await;
    assert_eq!(seen[0] == "none", hides, "{seen:?}");
    assert!(seen.iter().any(|line| line.ends_with("/sshd")), "{seen:?}");
    simulator.stop().await;
}

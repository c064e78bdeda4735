//! Hosts and pods that go wrong: said, ended, never spoken to, and never paid for longer than it takes to notice.
#![allow(clippy::unwrap_used)]

use serde_json::json;
use srchat_crds::conditions::Type;
use srchat_tests::eventually::eventually;
use srchat_tests::runpod::{EndedBy, Entry, Fault, Kind};

use super::stage::{BROKEN_IMAGE, STEP, Stage, tiny};

/// No pod of a session was rented before the one before it had ended.
pub fn one_after_the_other(pods: &[Entry]) {
    for pair in pods.windows(2) {
        let ended = pair[0].terminated.unwrap();
        assert!(ended <= pair[1].rented, "two at once: {pods:?}");
    }
}

pub async fn a_host_that_goes_wrong_ends_the_run_and_leaves_nothing() {
    let stage = Stage::together().await;
    for (name, kind) in [
        ("stranger", Kind::ForeignHost),
        ("drifting", Kind::PriceOther),
    ] {
        let spec = tiny(json!({"limits": {"attempts": 1}}));
        stage.apply_with(name, spec, &[Fault::once(kind)]).await;
        stage.until(name, Type::WithinLimits, "AttemptsUsed").await;
        stage.until(name, Type::Ready, "Ended").await;
        assert_eq!(stage.pods(name).await.len(), 1);
        stage.end(name).await;
    }
    let logins = stage.simulator().ledger().strangers_logins;
    assert_eq!(logins, 0, "a credential went to a foreign host");
}

pub async fn of_two_pods_for_one_request_one_serves_and_the_other_ends() {
    let stage = Stage::together().await;
    stage
        .apply_with("twins", tiny(json!({})), &[Fault::once(Kind::TwoPods)])
        .await;
    stage.until("twins", Type::Ready, "Serving").await;
    let uid = stage.uid("twins").await;
    stage.end("twins").await;
    let pods = stage.pods_of(&uid);
    assert_eq!(pods.len(), 2);
    assert!(
        pods.iter().all(|pod| pod.ended_by == Some(EndedBy::Delete)),
        "{pods:?}"
    );
}

pub async fn a_pod_that_vanishes_is_replaced_and_only_one_lives() {
    let stage = Stage::together().await;
    stage
        .apply("vanishing", tiny(json!({"limits": {"attempts": 2}})))
        .await;
    stage.until("vanishing", Type::Ready, "Serving").await;
    let first = stage.pods("vanishing").await.remove(0);
    stage.simulator().vanish(&first.id);

    stage
        .until("vanishing", Type::Provisioned, "InstanceLost")
        .await;
    stage.until_event("vanishing", "InstanceLost").await;
    stage.until("vanishing", Type::Ready, "Serving").await;
    assert!(stage.ask("vanishing", "Are you there?").await.len() > 1);

    let pods = stage.pods("vanishing").await;
    assert_eq!(pods.len(), 2);
    assert_eq!(pods[0].ended_by, Some(EndedBy::Provider));
    assert_eq!(pods[1].terminated, None);
    one_after_the_other(&pods);
    let run = stage.get("vanishing").await.status.unwrap().run.unwrap();
    assert_eq!((run.number, run.attempts), (1, 2));
    stage.end("vanishing").await;
}

pub async fn a_host_that_cannot_boot_is_condemned_at_once_and_tried_again_elsewhere() {
    let stage = Stage::together().await;
    let spec = json!({"runtime": {"image": BROKEN_IMAGE}, "limits": {"attempts": 2}});
    stage.apply("unbootable", tiny(spec)).await;
    let said = stage
        .until("unbootable", Type::Provisioned, "BootFailed")
        .await;
    assert!(said.contains("host key"), "{said}");
    stage.until_event("unbootable", "InstanceLost").await;

    // Long before the startup deadline of 20 minutes.
    let said = stage
        .until("unbootable", Type::WithinLimits, "AttemptsUsed")
        .await;
    assert!(said.contains("host key"), "{said}");
    stage
        .until("unbootable", Type::Terminated, "ProvedAbsent")
        .await;
    let pods = stage.pods("unbootable").await;
    assert_eq!(pods.len(), 2);
    assert_ne!(
        pods[0].compute, pods[1].compute,
        "the same machine is often the next one given"
    );
    one_after_the_other(&pods);
    stage.end("unbootable").await;
}

pub async fn a_pod_whose_sshd_never_comes_is_replaced_after_the_startup_deadline() {
    let stage = Stage::together().await;
    let _room = stage.room_for_the_real_model().await;
    // The shortest that a plan for llama.cpp allows: the first pod never gets to load anything.
    let limits = json!({"startup": "105s", "attempts": 2});
    let absent = Fault::once(Kind::SshdAbsent);
    stage
        .apply_with("silent", json!({"limits": limits}), &[absent])
        .await;
    // Its own log tells who it is; what never answers is its port.
    stage.until("silent", Type::HostTrusted, "KeyPinned").await;
    stage.until("silent", Type::ModelServed, "Connecting").await;

    stage
        .until("silent", Type::Provisioned, "StartupTimeout")
        .await;
    stage.until_event("silent", "StartupTimeout").await;
    stage.until("silent", Type::Ready, "Serving").await;
    let pods = stage.pods("silent").await;
    assert_eq!(pods.len(), 2);
    one_after_the_other(&pods);
    stage.end("silent").await;
}

pub async fn a_host_that_is_started_again_is_told_nothing_and_ended() {
    let stage = Stage::together().await;
    let spec = tiny(json!({"limits": {"attempts": 1}}));
    // Its end does not work at first, so that what happens to it meanwhile can be seen.
    let stays = Fault::always(Kind::DeleteErrorBefore);
    stage.apply_with("restarted", spec, &[stays]).await;
    stage.until("restarted", Type::Ready, "Serving").await;
    let uid = stage.uid("restarted").await;
    let pod = stage.pods_of(&uid).remove(0);
    restart(&stage, &pod.id).await;

    stage.until_event("restarted", "InstanceLost").await;
    let wiped = stage.until("restarted", Type::Wiped, "HostUntrusted").await;
    assert!(!wiped.is_empty());
    // A boot repeats its line every 30 s until somebody has visited it: a second one says that nobody has.
    let provider = stage.provider();
    let id = pod.id.parse().unwrap();
    eventually(
        "the new boot to say its line a second time",
        STEP,
        || async {
            let log = provider.logs(&id, 5_000).await.map_err(|e| e.to_string())?;
            let boots = log
                .iter()
                .filter_map(|line| line.line.strip_prefix("SRCHAT-HOST ")?.split(' ').next());
            let boots: Vec<&str> = boots.collect();
            match boots.as_slice() {
                [first, .., before, last] if first != last && before == last => Ok(()),
                said => Err(format!("{said:?}")),
            }
        },
    )
    .await;

    stage.simulator().clear_faults_on(&uid);
    stage
        .until("restarted", Type::Terminated, "ProvedAbsent")
        .await;
    stage.until("restarted", Type::Ready, "Ended").await;
    assert_eq!(stage.pods("restarted").await.len(), 1);
    stage.end("restarted").await;
}

pub async fn a_container_that_crashes_again_and_again_is_given_up_and_replaced() {
    let stage = Stage::together().await;
    // RUNNING all the while, and billed; each start has an empty disk and another key.
    let crashes = Fault::once(Kind::CrashLoop).seconds(20);
    stage
        .apply_with(
            "crashing",
            tiny(json!({"limits": {"attempts": 2}})),
            &[crashes],
        )
        .await;
    let said = stage.until_event("crashing", "InstanceLost").await;
    assert!(said.contains("HostRestarted"), "{said}");
    let second = eventually("a second pod", STEP, || async {
        let pods = stage.pods("crashing").await;
        pods.get(1).cloned().ok_or(format!("{pods:?}"))
    })
    .await;
    stage.until("crashing", Type::Ready, "Serving").await;
    let pods = stage.pods("crashing").await;
    assert_eq!(pods.len(), 2);
    assert!(pods[0].starts >= 2, "{pods:?}");
    assert_eq!(pods[0].ended_by, Some(EndedBy::Delete));
    assert_eq!((&pods[1].id, pods[1].starts), (&second.id, 1));
    one_after_the_other(&pods);
    stage.end("crashing").await;
}

/// As its owner may at the provider: the container is started again, with a new disk, under the same id.
async fn restart<R: std::ops::Deref<Target = srchat_tests::rig::Rig>>(stage: &Stage<R>, pod: &str) {
    let simulator = stage.simulator();
    let asked = reqwest::Client::new()
        .post(format!("{}/pods/{pod}/action", simulator.url()))
        .bearer_auth(simulator.key())
        .json(&json!({"action": "restart"}))
        .send()
        .await
        .unwrap();
    assert!(
        asked.status().is_success(),
        "{}",
        asked.text().await.unwrap()
    );
}

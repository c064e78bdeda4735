//! Machines that do not get a pod up: noticed after six minutes, and replaced. The six minutes pass while no controller is there: the
//! ledgers are all that one knows of the time before it, so what they say of it is moved into the past.
#![allow(clippy::unwrap_used)]

use std::ops::DerefMut as _;
use std::time::Duration;

use serde_json::json;
use srchat_crds::conditions::Type;
use srchat_operator::session::ledger::store::Ledgers;
use srchat_operator::session::observe::LedgerSeen;
use srchat_tests::rig::SYSTEM;
use srchat_tests::runpod::{EndedBy, Fault, Kind};

use super::hosts::one_after_the_other;
use super::stage::{Alone, Stage, tiny};

const AWAY: Duration = Duration::from_secs(360);

/// The session's run began so much earlier.
async fn passes(stage: &Stage<Alone>, name: &str, time: Duration) {
    let ledgers = Ledgers::new(stage.client.clone(), SYSTEM);
    let stored = ledgers.read(&stage.uid(name).await).await.unwrap();
    let LedgerSeen::Is(mut ledger) = stored.seen.clone() else {
        panic!("no ledger: {stored:?}");
    };
    ledger.run.since -= time;
    if let Some(moment) = &mut ledger.run.started {
        *moment -= time;
    }
    for attempt in &mut ledger.attempts {
        attempt.intent -= time;
        attempt.deadline -= time;
    }
    for pod in &mut ledger.pods {
        pod.created -= time;
        if let Some(pin) = &mut pod.pin {
            pin.at -= time;
        }
    }
    ledgers.put(&ledger, &stored).await.unwrap();
}

pub async fn machines_that_do_not_get_a_pod_up_in_six_minutes_are_replaced() {
    let mut stage = Stage::alone().await;
    let sessions = [
        ("unplaced", Kind::StuckProvisioning, "looks for a machine"),
        ("portless", Kind::NoPorts, "has no address"),
    ];
    for (name, kind, _) in sessions {
        let spec = tiny(json!({"limits": {"attempts": 2}}));
        stage.apply_with(name, spec, &[Fault::once(kind)]).await;
    }
    stage.until("unplaced", Type::Provisioned, "Booting").await;
    // Its log tells who it is, and nobody can get there.
    stage
        .until("portless", Type::HostTrusted, "KeyPinned")
        .await;
    stage
        .until("portless", Type::ModelServed, "Connecting")
        .await;

    stage.rig.deref_mut().operator.controller().kill();
    for (name, ..) in sessions {
        passes(&stage, name, AWAY).await;
    }
    stage.restart_controller().await;
    for (name, _, words) in sessions {
        let said = stage.until_event(name, "StartupTimeout").await;
        assert!(said.contains(words) && said.contains("6 minutes"), "{said}");
    }
    for (name, ..) in sessions {
        stage.until(name, Type::Ready, "Serving").await;
        let pods = stage.pods(name).await;
        assert_eq!(pods.len(), 2, "{pods:?}");
        assert_eq!(pods[0].ended_by, Some(EndedBy::Delete));
        one_after_the_other(&pods);
        let run = stage.get(name).await.status.unwrap().run.unwrap();
        assert_eq!((run.number, run.attempts), (1, 2));
    }
    for (name, ..) in sessions {
        stage.end(name).await;
    }
}

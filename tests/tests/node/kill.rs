//! Pods that end as those of a node that dies, and a controller that goes on where the one before was.

use srchat_crds::conditions::Type;
use srchat_tests::eventually::eventually;

use super::release::{CONTROLLER, SESSION};
use super::stage::{STEP, SYSTEM, Stage};

/// In the order in which a start comes by them.
const START: [(Type, &str); 5] = [
    (Type::Planned, "Fits"),
    (Type::Provisioned, "Running"),
    (Type::HostTrusted, "KeyPinned"),
    (Type::ModelServed, "Healthy"),
    (Type::EndpointPublished, "Published"),
];

/// Ends pods with these labels, without asking them.
pub fn pods(stage: &Stage, selector: &str) {
    let delete = [
        "--namespace",
        SYSTEM,
        "delete",
        "pod",
        "--selector",
        selector,
        "--force",
        "--grace-period=0",
    ];
    stage.kubectl(&delete);
}

/// As soon as the provider has made the pod, whether or not that was noted, and whenever a condition holds.
pub async fn at_each_stage_of_its_start(stage: &Stage, namespace: &str) {
    rented(stage).await;
    pods(stage, CONTROLLER);
    for (condition, reason) in START {
        stage.until(namespace, SESSION, condition, reason).await;
        pods(stage, CONTROLLER);
    }
}

async fn rented(stage: &Stage) {
    eventually("a pod to be rented", STEP, || async {
        let ledger = stage
            .world(|world| world.simulator.as_ref().unwrap().ledger())
            .await;
        match ledger.total.created {
            0 => Err(format!("{ledger:?}")),
            _ => Ok(()),
        }
    })
    .await;
}

/// While the host is being cleared, and while the pod's absence is being proved.
pub async fn at_each_stage_of_its_end(stage: &Stage, namespace: &str) {
    let what = "the session to be ending";
    eventually(what, STEP, || async {
        let session = stage.sessions(namespace).get(SESSION).await;
        let session = session.map_err(|error| error.to_string())?;
        let wiped = session.condition(Type::Wiped);
        match wiped {
            Some(wiped) if wiped.reason != "NotEnding" => Ok(()),
            _ => Err(serde_json::to_string(&session.status).unwrap_or_default()),
        }
    })
    .await;
    pods(stage, CONTROLLER);
    let (condition, reason) = (Type::Terminated, "VerifyingAbsence");
    stage.until(namespace, SESSION, condition, reason).await;
    pods(stage, CONTROLLER);
}

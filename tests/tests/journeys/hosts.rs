//! Hosts and pods that go wrong: said, ended, never spoken to, and never paid for longer than it takes to notice.

use serde_json::json;
use srchat_crds::conditions::Type;
use srchat_tests::runpod::{Fault, Kind};

use super::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_goes_wrong_ends_the_run_and_leaves_nothing() {
    let stage = Stage::set().await;
    for (name, kind) in [("stranger", Kind::ForeignHost), ("dear", Kind::PriceOther)] {
        stage.simulator().fault(Fault::once(kind));
        stage.apply(name, json!({"limits": {"attempts": 1}})).await;
        stage.until(name, Type::WithinLimits, "AttemptsUsed").await;
        stage.until(name, Type::Ready, "Ended").await;
        stage.end(name).await;
    }
    let ledger = stage.simulator().ledger();
    assert_eq!(
        ledger.strangers_logins, 0,
        "a credential went to a foreign host"
    );
    stage.rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_pods_for_one_request_one_serves_and_the_other_ends() {
    let stage = Stage::set().await;
    stage.simulator().fault(Fault::once(Kind::TwoPods));
    stage.apply("twins", json!({})).await;
    stage.until("twins", Type::Ready, "Serving").await;
    stage.end("twins").await;
    let total = stage.simulator().ledger().total;
    assert_eq!((total.created, total.terminated), (2, 2));
    stage.rig.stop().await;
}

//! Every fault of the simulator can be switched on, does what it says, and is counted when it happened and not before.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use srchat_crds::Dollars;
use srchat_operator::provider::{Cloud, Error, PodStatus};
use srchat_tests::{
    eventually,
    runpod::{EndedBy, Fault, Kind, Simulator},
};

use super::setting::{BOOTED, client, new_pod, options, soon, start, start_with};

/// A whole life, asking everything there is to ask, whatever the answers are.
async fn live(simulator: &Simulator) {
    let runpod = client(simulator, simulator.key());
    let created = runpod.create(&new_pod("life"), soon()).await;
    let id = match created {
        Ok(pod) => Some(pod.id),
        Err(_) => simulator
            .ledger()
            .pods
            .first()
            .map(|pod| pod.id.parse().unwrap()),
    };
    let look = async || {
        let _ = runpod.list_all().await;
        if let Some(id) = &id {
            let _ = runpod.get(id).await;
        }
    };
    look().await;
    for step in [
        Duration::from_secs(60),
        BOOTED,
        Duration::from_secs(1),
        Duration::from_secs(10),
    ] {
        simulator.clock().advance(step);
        look().await;
    }
    let _ = runpod.offers(1, Cloud::Secure).await;
    if let Some(id) = &id {
        let action = format!("{}/pods/{id}/action", simulator.url());
        let restart = reqwest::Client::new()
            .post(action)
            .bearer_auth(simulator.key())
            .body(r#"{"action":"restart"}"#);
        let _ = restart.send().await;
        // The container is back, its ports are mapped, and it is younger than any fault's seconds.
        simulator.clock().advance(Duration::from_millis(6_500));
        look().await;
        if let Some(key) = simulator.own_key(id.as_str()) {
            let _ = client(simulator, &key).get(id).await;
            let _ = client(simulator, &key).delete(id).await;
        }
        let _ = runpod.delete(id).await;
        look().await;
        simulator.clock().advance(Duration::from_secs(11));
        look().await;
    }
}

#[tokio::test]
async fn every_fault_can_be_injected_into_a_life() {
    let lives = Kind::ALL.map(async |kind| {
        let (simulator, _) = start().await;
        simulator.fault(Fault::always(kind));
        assert_eq!(
            simulator.ledger().faults.get(&kind),
            None,
            "{kind:?} was counted before it happened"
        );
        live(&simulator).await;
        assert!(
            simulator
                .ledger()
                .faults
                .get(&kind)
                .is_some_and(|count| *count > 0),
            "{kind:?} was never injected"
        );
        simulator.stop().await;
    });
    futures::future::join_all(lives).await;
}

#[tokio::test]
async fn a_life_without_faults_counts_none() {
    let (simulator, _) = start().await;
    live(&simulator).await;
    let ledger = simulator.ledger();
    assert!(ledger.faults.is_empty(), "{:?}", ledger.faults);
    assert_eq!(
        (
            ledger.total.created,
            ledger.total.alive,
            ledger.pods[0].ended_by
        ),
        (1, 0, Some(EndedBy::OwnKey))
    );
    simulator.stop().await;
}

#[tokio::test]
async fn a_fault_happens_as_often_and_to_whom_it_says() {
    let (simulator, runpod) = start().await;
    simulator.fault(Fault {
        skip: 1,
        ..Fault::once(Kind::NoCapacity).on("mine")
    });
    let create = async |name: &str| runpod.create(&new_pod(name), soon()).await.is_ok();
    assert!(create("others").await);
    assert!(create("mine-1").await, "the first is passed over");
    assert!(!create("mine-2").await);
    assert!(create("mine-3").await, "it was for once");
    assert_eq!(simulator.ledger().faults[&Kind::NoCapacity], 1);
    simulator.stop().await;
}

#[tokio::test]
async fn a_create_that_is_never_answered_may_take_effect_long_after() {
    let (simulator, runpod) = start().await;
    simulator.fault(Fault::once(Kind::CreateHangs).seconds(40));
    assert!(matches!(
        runpod.create(&new_pod("late"), soon()).await,
        Err(Error::Ambiguous { .. })
    ));
    assert!(runpod.list_all().await.unwrap().pods.is_empty());
    simulator.clock().advance(Duration::from_secs(40));
    let made = eventually::within(Duration::from_secs(10), "the late pod", || async {
        let pods = runpod
            .list_all()
            .await
            .map_err(|error| error.to_string())?
            .pods;
        pods.into_values().next().ok_or_else(|| "no pod".to_owned())
    });
    assert_eq!(made.await.unwrap().name, "late");
    simulator.stop().await;
}

#[tokio::test]
async fn lists_and_records_lag_behind_creates() {
    let (simulator, runpod) = start().await;
    simulator.fault(Fault::always(Kind::ListLags).seconds(5));
    simulator.fault(Fault::always(Kind::GetLags).seconds(8));
    let pod = runpod.create(&new_pod("new"), soon()).await.unwrap();
    assert!(runpod.list_all().await.unwrap().pods.is_empty());
    assert_eq!(runpod.get(&pod.id).await, Err(Error::NotFound));
    simulator.clock().advance(Duration::from_secs(5));
    assert_eq!(runpod.list_all().await.unwrap().pods.len(), 1);
    assert_eq!(runpod.get(&pod.id).await, Err(Error::NotFound));
    simulator.clock().advance(Duration::from_secs(3));
    assert!(runpod.get(&pod.id).await.is_ok());
    simulator.stop().await;
}

#[tokio::test]
async fn an_end_may_lag_and_its_record_may_linger() {
    let (simulator, runpod) = start().await;
    simulator.fault(Fault::always(Kind::DeleteLags).seconds(10));
    simulator.fault(Fault::always(Kind::Lingers).seconds(60));
    let pod = runpod.create(&new_pod("slow"), soon()).await.unwrap();
    runpod.delete(&pod.id).await.unwrap();
    assert_eq!(
        runpod.get(&pod.id).await.unwrap().cost,
        Some(Dollars::cents(24)),
        "still there and still billed"
    );
    simulator.clock().advance(Duration::from_secs(10));
    let lingering = runpod.list_all().await.unwrap().pods[&pod.id].clone();
    assert_eq!(
        (lingering.status, lingering.cost),
        (PodStatus::Terminated, Some(Dollars::ZERO))
    );
    simulator.clock().advance(Duration::from_secs(60));
    assert_eq!(runpod.get(&pod.id).await, Err(Error::NotFound));
    let entry = simulator.ledger().pods.remove(0);
    assert_eq!(
        entry.billed,
        Dollars::cents(24).for_hours_of(Duration::from_secs(10)),
        "it was billed while the end lagged"
    );
    simulator.stop().await;
}

#[tokio::test]
async fn two_pods_for_one_request_have_one_name_and_two_ids() {
    let (simulator, runpod) = start().await;
    simulator.fault(Fault::once(Kind::TwoPods));
    let told = runpod.create(&new_pod("twice"), soon()).await.unwrap();
    let pods = runpod.list_all().await.unwrap().pods;
    assert_eq!(pods.len(), 2);
    assert!(pods.contains_key(&told.id) && pods.values().all(|pod| pod.name == "twice"));
    simulator.stop().await;
}

#[tokio::test]
async fn a_price_can_be_other_than_quoted() {
    let (simulator, runpod) = start().await;
    simulator.fault(Fault {
        percent: Some(150),
        ..Fault::once(Kind::PriceOther)
    });
    let pod = runpod.create(&new_pod("dear"), soon()).await.unwrap();
    assert_eq!(pod.cost, Some(Dollars::cents(36)));
    simulator.stop().await;
}

/// How a booted pod looks with this fault.
async fn booted_with(fault: Fault) -> (Simulator, srchat_operator::provider::Pod) {
    let (simulator, runpod) = start().await;
    simulator.fault(fault);
    let pod = runpod.create(&new_pod("odd"), soon()).await.unwrap();
    simulator.clock().advance(BOOTED);
    let pod = runpod.get(&pod.id).await.unwrap();
    (simulator, pod)
}

#[tokio::test]
async fn a_pod_may_never_get_anywhere() {
    let (_simulator, stuck) = booted_with(Fault::always(Kind::StuckProvisioning)).await;
    assert_eq!(
        (stuck.status, stuck.ssh, stuck.cost),
        (PodStatus::Provisioning, None, Some(Dollars::cents(24)))
    );
    let (_simulator, deaf) = booted_with(Fault::always(Kind::NoPorts)).await;
    assert_eq!(
        (deaf.status, deaf.ssh, deaf.uptime > Some(0)),
        (PodStatus::Running, None, true)
    );
    let (_simulator, broken) = booted_with(Fault::always(Kind::Error)).await;
    assert_eq!((broken.status, broken.ssh), (PodStatus::Error, None));
}

#[tokio::test]
async fn a_pod_may_vanish_without_a_trace() {
    let (simulator, runpod) = start_with(options()).await;
    simulator.fault(Fault::always(Kind::Vanishes).seconds(5));
    let pod = runpod.create(&new_pod("frail"), soon()).await.unwrap();
    simulator.clock().advance(BOOTED);
    assert_eq!(runpod.get(&pod.id).await, Err(Error::NotFound));
    let ledger = simulator.ledger();
    assert_eq!(
        (
            ledger.total.terminated,
            ledger.total.alive,
            ledger.pods[0].ended_by
        ),
        (0, 0, Some(EndedBy::Provider))
    );
    simulator.stop().await;
}

#[tokio::test]
async fn a_strangers_sshd_behind_the_address_remembers_who_logged_in() {
    let (simulator, pod) = booted_with(Fault::always(Kind::ForeignHost)).await;
    let address = pod.ssh.unwrap();
    let mut stream = tokio::net::TcpStream::connect((address.host.as_str(), address.port))
        .await
        .unwrap();
    let mut banner = [0; 4];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut banner)
        .await
        .unwrap();
    assert_eq!(&banner, b"SSH-");
    assert_eq!(
        simulator.ledger().strangers_logins,
        0,
        "looking is not logging in"
    );
    simulator.stop().await;
}

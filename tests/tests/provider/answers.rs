//! What each answer becomes, and what the life of a pod looks like through the client.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use srchat_crds::Dollars;
use srchat_operator::provider::{
    Cloud, Error, PodStatus, Scope, Stock, runpod::Key, runpod::RunPod,
};
use srchat_tests::runpod::{Call, Fault, Kind, Level, Limits, Options};

use super::setting::{BOOTED, client, new_pod, options, soon, start, start_with};

#[tokio::test]
async fn a_pod_is_rented_boots_is_billed_and_is_gone_after_its_end() {
    let (simulator, runpod) = start().await;
    let pod = runpod.create(&new_pod("one"), soon()).await.unwrap();
    assert_eq!(
        (pod.status, pod.name.as_str(), pod.cost),
        (PodStatus::Provisioning, "one", Some(Dollars::cents(24)))
    );
    assert_eq!(pod.env["SRCHAT_INSTALLATION"], "here");
    assert_eq!((pod.ssh, pod.uptime), (None, None));

    simulator.clock().advance(Duration::from_secs(8));
    let pulling = runpod.get(&pod.id).await.unwrap();
    assert_eq!(
        (pulling.status, pulling.ssh, pulling.uptime),
        (PodStatus::Running, None, None),
        "RUNNING is said while the image is pulled"
    );

    simulator.clock().advance(BOOTED);
    let booted = runpod.get(&pod.id).await.unwrap();
    assert!(
        booted.ssh.is_some() && booted.uptime.unwrap() > 0,
        "{booted:?}"
    );
    assert_eq!(runpod.list_all().await.unwrap().pods[&pod.id], booted);

    simulator.clock().advance(Duration::from_secs(3_600));
    let billed = runpod
        .billing(&pod.id, pod.created_at.unwrap())
        .await
        .unwrap();
    // 3,728 seconds at $0.24 an hour, in up to three hours' buckets, each rounded up to a second and a millionth.
    let exact = Dollars::cents(24).for_hours_of(Duration::from_secs(3_728));
    assert!(
        billed.total >= exact && billed.total.less(exact) < Dollars::micros(400),
        "{billed:?} for {exact}"
    );

    runpod.delete(&pod.id).await.unwrap();
    assert_eq!(runpod.get(&pod.id).await, Err(Error::NotFound));
    assert_eq!(runpod.delete(&pod.id).await, Err(Error::NotFound));
    assert!(runpod.list_all().await.unwrap().pods.is_empty());

    simulator.clock().advance(Duration::from_secs(3_600));
    let ledger = simulator.ledger();
    assert_eq!(
        (
            ledger.total.created,
            ledger.total.terminated,
            ledger.total.alive
        ),
        (1, 1, 0)
    );
    assert_eq!(
        ledger.total.billed, exact,
        "nothing is billed after the end"
    );
    assert_eq!(ledger.installations["here"], ledger.total);
    simulator.stop().await;
}

/// The error of a create while this fault is on, and how many pods there are then.
async fn refused(kind: Kind) -> (Error, u64) {
    let (simulator, runpod) = start().await;
    simulator.fault(Fault::always(kind).in_call(Call::Create));
    let error = runpod
        .create(&new_pod("refused"), soon())
        .await
        .expect_err("it was refused");
    let made = simulator.ledger().total.created;
    simulator.stop().await;
    (error, made)
}

#[tokio::test]
async fn a_definite_refusal_makes_nothing_and_says_why() {
    let (error, made) = refused(Kind::NoCapacity).await;
    assert!(
        matches!(&error, Error::NoCapacity { detail } if detail.contains("no longer any instances")),
        "{error}"
    );
    assert_eq!(made, 0);
    assert!(matches!(
        refused(Kind::BalanceGone).await,
        (Error::InsufficientBalance { .. }, 0)
    ));
    assert!(matches!(
        refused(Kind::Forbidden).await,
        (Error::Forbidden { .. }, 0)
    ));
    assert!(matches!(
        refused(Kind::KeyRevoked).await,
        (Error::Unauthorized { .. }, 0)
    ));
    assert!(
        matches!(refused(Kind::RateLimited).await, (Error::RateLimited { after }, 0) if after == Duration::from_secs(1))
    );
}

#[tokio::test]
async fn whatever_may_have_made_a_pod_is_ambiguous() {
    for (kind, made) in [
        (Kind::CreateErrorAfter, 1),
        (Kind::CreateErrorBefore, 0),
        (Kind::CreateHangs, 1),
        (Kind::CreateLost, 0),
        (Kind::Garbage, 1),
        (Kind::Truncated, 1),
        (Kind::Outage, 0),
    ] {
        let (error, there) = refused(kind).await;
        assert!(
            matches!(error, Error::Ambiguous { .. }),
            "{kind:?}: {error}"
        );
        assert_eq!(there, made, "{kind:?}");
    }
}

#[tokio::test]
async fn a_create_that_breaks_a_rule_is_the_candidates_fault_and_one_that_breaks_the_contract_is_the_requests()
 {
    let (simulator, runpod) = start().await;
    let mut broken = new_pod("broken");
    broken.gpu = "NVIDIA No Such Card".into();
    let error = runpod.create(&broken, soon()).await.unwrap_err();
    assert!(
        matches!(&error, Error::Rejected { scope: Scope::Candidate, detail } if detail.contains("No Such Card")),
        "{error}"
    );
    let mut broken = new_pod("broken");
    broken.min_cuda = Some("twelve".into());
    let error = runpod.create(&broken, soon()).await.unwrap_err();
    assert!(
        matches!(&error, Error::Rejected { scope: Scope::Request, detail } if detail.contains("twelve")),
        "{error}"
    );
    let mut long = new_pod("long");
    long.args = "x".repeat(102_401);
    assert!(matches!(
        runpod.create(&long, soon()).await,
        Err(Error::Rejected {
            scope: Scope::Candidate,
            ..
        })
    ));
    simulator.stop().await;
}

#[tokio::test]
async fn a_create_whose_time_is_over_never_leaves() {
    let (simulator, runpod) = start().await;
    let error = runpod
        .create(&new_pod("late"), Instant::now() + Duration::from_secs(2))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert_eq!(simulator.ledger().calls.get(&Call::Create), None);
    simulator.stop().await;
}

#[tokio::test]
async fn an_end_is_done_refused_or_unknown() {
    let (simulator, runpod) = start().await;
    let pod = runpod.create(&new_pod("stays"), soon()).await.unwrap();
    for (kind, unknown) in [
        (Kind::DeleteErrorBefore, true),
        (Kind::DeleteHangs, true),
        (Kind::Outage, true),
        (Kind::Forbidden, false),
        (Kind::KeyRevoked, false),
    ] {
        simulator.fault(Fault::once(kind).in_call(Call::Delete));
        let error = runpod.delete(&pod.id).await.unwrap_err();
        assert_eq!(
            matches!(error, Error::Ambiguous { .. }),
            unknown,
            "{kind:?}: {error}"
        );
        assert_eq!(simulator.ledger().total.alive, 1, "{kind:?}");
    }
    simulator.fault(Fault::once(Kind::DeleteErrorAfter));
    assert!(matches!(
        runpod.delete(&pod.id).await,
        Err(Error::Ambiguous { .. })
    ));
    assert_eq!(
        runpod.delete(&pod.id).await,
        Err(Error::NotFound),
        "asked again, it is gone"
    );
    simulator.stop().await;
}

#[tokio::test]
async fn a_read_that_failed_says_nothing_about_absence() {
    let (simulator, runpod) = start().await;
    let pod = runpod.create(&new_pod("there"), soon()).await.unwrap();
    for kind in [Kind::Outage, Kind::Garbage, Kind::Truncated] {
        simulator.fault(Fault::always(kind));
        assert!(
            matches!(runpod.get(&pod.id).await, Err(Error::Unavailable { .. })),
            "{kind:?}"
        );
        assert!(
            matches!(runpod.list_all().await, Err(Error::Unavailable { .. })),
            "{kind:?}"
        );
        assert!(
            matches!(
                runpod.offers(1, Cloud::Secure).await,
                Err(Error::Unavailable { .. })
            ),
            "{kind:?}"
        );
        simulator.clear_faults();
    }
    simulator.fault(Fault::always(Kind::KeyRevoked));
    assert!(matches!(
        runpod.list_all().await,
        Err(Error::Unauthorized { .. })
    ));
    simulator.stop().await;
}

#[tokio::test]
async fn a_key_is_checked_by_asking() {
    let (simulator, runpod) = start().await;
    assert_eq!(runpod.check_key().await, Ok(()));
    let stranger = client(&simulator, "rpa_nobody");
    let error = stranger.check_key().await.unwrap_err();
    assert!(
        matches!(&error, Error::Unauthorized { detail } if detail.contains("invalid")),
        "{error}"
    );
    simulator.fault(Fault::always(Kind::Forbidden).in_call(Call::List));
    assert!(matches!(
        runpod.check_key().await,
        Err(Error::Forbidden { .. })
    ));
    simulator.stop().await;
}

#[tokio::test]
async fn a_bare_error_is_read_like_a_problem_document() {
    let (simulator, runpod) = start().await;
    simulator.fault(Fault::always(Kind::BareErrors));
    simulator.fault(Fault::always(Kind::Forbidden));
    let error = runpod.list_all().await.unwrap_err();
    assert_eq!(
        error,
        Error::Forbidden {
            detail: "access denied".into()
        }
    );
    simulator.stop().await;
}

#[tokio::test]
async fn another_account_sees_none_of_our_pods() {
    let (simulator, runpod) = start().await;
    let pod = runpod.create(&new_pod("ours"), soon()).await.unwrap();
    let other = client(&simulator, &simulator.another_account());
    assert!(other.list_all().await.unwrap().pods.is_empty());
    assert_eq!(other.get(&pod.id).await, Err(Error::NotFound));
    assert_eq!(other.delete(&pod.id).await, Err(Error::NotFound));
    assert_eq!(simulator.ledger().total.alive, 1);
    let fingerprints = [
        runpod.list_all().await.unwrap().key.clone(),
        other.list_all().await.unwrap().key.clone(),
    ];
    assert_ne!(fingerprints[0], fingerprints[1]);
    simulator.stop().await;
}

#[tokio::test]
async fn a_pods_own_key_may_end_that_pod_and_nothing_else() {
    let (simulator, runpod) = start().await;
    let [mine, other] = [
        runpod.create(&new_pod("mine"), soon()).await.unwrap(),
        runpod.create(&new_pod("other"), soon()).await.unwrap(),
    ];
    let own = client(&simulator, &simulator.own_key(mine.id.as_str()).unwrap());
    assert!(matches!(
        own.delete(&other.id).await,
        Err(Error::Forbidden { .. })
    ));
    assert!(matches!(own.list_all().await, Err(Error::Forbidden { .. })));
    assert!(matches!(
        own.create(&new_pod("more"), soon()).await,
        Err(Error::Forbidden { .. })
    ));
    simulator.fault(Fault::once(Kind::OwnKeyMayNotDelete).on("mine"));
    assert!(matches!(
        own.delete(&mine.id).await,
        Err(Error::Forbidden { .. })
    ));
    simulator.clear_faults();
    assert_eq!(own.delete(&mine.id).await, Ok(()));
    simulator.stop().await;
}

#[tokio::test]
async fn the_catalog_has_prices_and_stock_for_the_count_and_the_cloud() {
    let (simulator, runpod) = start().await;
    simulator.stock("NVIDIA L40S", Level::Low);
    simulator.stock("NVIDIA A40", Level::None);
    let offers = runpod.offers(2, Cloud::Secure).await.unwrap();
    let of = |name: &str| offers.iter().find(|offer| offer.name == name).unwrap();
    assert_eq!(offers.len(), 17);
    assert_eq!(
        (of("L40S").price, of("L40S").hourly(), of("L40S").stock),
        (Dollars::cents(79), Dollars::cents(158), Stock::Low)
    );
    assert_eq!(
        of("L40S").data_centers.keys().collect::<Vec<_>>(),
        ["EU-RO-1", "US-KS-2"]
    );
    assert_eq!(of("A40").stock, Stock::None);
    assert_eq!(
        (of("MI300X").memory_gb, of("RTX A4000").memory_gb),
        (192, 16)
    );
    let community = runpod.offers(9, Cloud::Community).await.unwrap();
    assert!(
        community.len() < offers.len() && community.iter().all(|offer| offer.stock == Stock::None),
        "nobody has nine of them"
    );
    simulator.stop().await;
}

#[tokio::test]
async fn no_stock_and_data_centers_are_enforced_by_the_create() {
    let (simulator, runpod) = start().await;
    let mut elsewhere = new_pod("elsewhere");
    elsewhere.data_centers = vec!["US-TX-3".into()];
    assert!(
        matches!(
            runpod.create(&elsewhere, soon()).await,
            Err(Error::NoCapacity { .. })
        ),
        "that card is in Europe only"
    );
    simulator.stock("NVIDIA RTX 2000 Ada Generation", Level::None);
    assert!(matches!(
        runpod.create(&new_pod("none"), soon()).await,
        Err(Error::NoCapacity { .. })
    ));
    simulator.stop().await;
}

#[tokio::test]
async fn the_last_requests_of_a_minute_are_kept_for_lists_and_ends() {
    let limits = Some(Limits {
        minute: 20,
        ..Limits::default()
    });
    let (simulator, runpod) = start_with(Options {
        limits,
        ..options()
    })
    .await;
    let pod = runpod.create(&new_pod("one"), soon()).await.unwrap();
    let mut asked = 0;
    let refused = loop {
        match runpod.get(&pod.id).await {
            Ok(_) => asked += 1,
            Err(error) => break error,
        }
        assert!(asked < 20, "proofs left nothing for lists");
    };
    assert!(
        matches!(refused, Error::RateLimited { after } if after <= Duration::from_secs(60)),
        "{refused}"
    );
    runpod.list_all().await.unwrap();
    runpod.delete(&pod.id).await.unwrap();
    let ledger = simulator.ledger();
    assert_eq!(
        ledger.calls[&Call::Get],
        asked,
        "what does not fit is not sent"
    );
    simulator.stop().await;
}

#[tokio::test]
async fn after_a_429_nothing_is_sent_until_it_is_over() {
    let (simulator, runpod) = start().await;
    simulator.fault(Fault::once(Kind::RateLimited).seconds(30));
    assert_eq!(
        runpod.list_all().await.unwrap_err(),
        Error::RateLimited {
            after: Duration::from_secs(30)
        }
    );
    let again = runpod.list_all().await.unwrap_err();
    assert!(
        matches!(again, Error::RateLimited { after } if after > Duration::from_secs(20)),
        "{again}"
    );
    assert_eq!(simulator.ledger().calls.get(&Call::List), None);
    simulator.stop().await;
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_unavailable_and_rents_nothing() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v2", listener.local_addr().unwrap());
    drop(listener);
    let runpod = RunPod::new(&url, Key::parse("k").unwrap()).unwrap();
    let error = runpod
        .create(&new_pod("nowhere"), soon())
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Unavailable { .. }),
        "a connection that was never made carried nothing: {error}"
    );
    assert!(matches!(
        runpod.list_all().await,
        Err(Error::Unavailable { .. })
    ));
}

//! Lists are complete or errors, in pages or not, and one serves everybody.

#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Instant};

use srchat_operator::provider::{Error, snapshot::Snapshots};
use srchat_tests::runpod::{Call, Fault, Kind, Options};

use super::setting::{client, new_pod, options, soon, start, start_with};

#[tokio::test]
async fn pages_are_followed_to_the_last() {
    let (simulator, runpod) = start_with(Options {
        page: Some(3),
        ..options()
    })
    .await;
    for number in 0..10 {
        runpod
            .create(&new_pod(&number.to_string()), soon())
            .await
            .unwrap();
    }
    let names: Vec<String> = {
        let mut names: Vec<_> = runpod
            .list_all()
            .await
            .unwrap()
            .pods
            .into_values()
            .map(|pod| pod.name)
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        names,
        (0..10).map(|number| number.to_string()).collect::<Vec<_>>()
    );
    assert_eq!(simulator.ledger().calls[&Call::List], 4);
    simulator.stop().await;
}

#[tokio::test]
async fn a_list_that_breaks_off_at_its_second_page_is_an_error() {
    let (simulator, runpod) = start_with(Options {
        page: Some(1),
        ..options()
    })
    .await;
    for name in ["a", "b", "c"] {
        runpod.create(&new_pod(name), soon()).await.unwrap();
    }
    for kind in [Kind::Garbage, Kind::Outage, Kind::Truncated] {
        simulator.fault(Fault {
            skip: 1,
            ..Fault::always(kind).in_call(Call::List)
        });
        assert!(
            matches!(runpod.list_all().await, Err(Error::Unavailable { .. })),
            "{kind:?}"
        );
        simulator.clear_faults();
    }
    assert_eq!(runpod.list_all().await.unwrap().pods.len(), 3);
    simulator.stop().await;
}

#[tokio::test]
async fn one_list_serves_all_who_wait_for_it() {
    let (simulator, runpod) = start().await;
    let snapshots = Snapshots::new(Some(runpod.clone()));
    let asked = Instant::now();
    let answers = futures::future::join_all((0..100).map(|_| snapshots.after(asked))).await;
    assert_eq!(simulator.ledger().calls[&Call::List], 1);
    let first = answers[0].as_ref().unwrap();
    assert!(
        answers
            .iter()
            .all(|answer| Arc::ptr_eq(answer.as_ref().unwrap(), first))
    );
    assert!(first.began >= asked && first.key == *runpod.fingerprint());
    simulator.stop().await;
}

#[tokio::test]
async fn a_snapshot_is_never_older_than_what_it_is_asked_about() {
    let (simulator, runpod) = start().await;
    let snapshots = Snapshots::new(Some(runpod.clone()));
    assert!(
        snapshots
            .after(Instant::now())
            .await
            .unwrap()
            .pods
            .is_empty()
    );
    let pod = runpod.create(&new_pod("new"), soon()).await.unwrap();
    let later = Instant::now();
    let seen = snapshots.after(later).await.unwrap();
    assert!(seen.began >= later && seen.pods.contains_key(&pod.id));
    assert!(
        Arc::ptr_eq(&snapshots.after(later).await.unwrap(), &seen),
        "one that is young enough is used again"
    );
    simulator.stop().await;
}

#[tokio::test]
async fn a_failed_list_is_everybodys_error_and_nobodys_absence() {
    let (simulator, runpod) = start().await;
    runpod.create(&new_pod("there"), soon()).await.unwrap();
    let snapshots = Snapshots::new(Some(runpod));
    simulator.fault(Fault::once(Kind::Outage).in_call(Call::List));
    let asked = Instant::now();
    let answers = futures::future::join_all((0..10).map(|_| snapshots.after(asked))).await;
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer, Err(Error::Unavailable { .. }))),
        "{answers:?}"
    );
    assert!(snapshots.latest().is_none());
    assert_eq!(snapshots.after(Instant::now()).await.unwrap().pods.len(), 1);
    simulator.stop().await;
}

#[tokio::test]
async fn with_another_key_what_the_old_one_saw_is_forgotten() {
    let (simulator, runpod) = start().await;
    runpod.create(&new_pod("ours"), soon()).await.unwrap();
    let snapshots = Snapshots::new(None);
    let before = Instant::now();
    assert!(matches!(
        snapshots.after(before).await,
        Err(Error::Unauthorized { .. })
    ));
    snapshots.replace(Some(runpod.clone()));
    let ours = snapshots.after(before).await.unwrap();
    assert_eq!((ours.pods.len(), &ours.key), (1, runpod.fingerprint()));
    let other = client(&simulator, &simulator.another_account());
    snapshots.replace(Some(other.clone()));
    assert!(snapshots.latest().is_none());
    let theirs = snapshots.after(before).await.unwrap();
    assert_eq!((theirs.pods.len(), &theirs.key), (0, other.fingerprint()));
    simulator.stop().await;
}

#[tokio::test]
async fn the_poller_tells_whoever_subscribed() {
    let (simulator, runpod) = start().await;
    let snapshots = Arc::new(Snapshots::new(Some(runpod)));
    let mut told = snapshots.subscribe();
    let poller = tokio::spawn({
        let snapshots = snapshots.clone();
        async move { snapshots.poll().await }
    });
    let first = told
        .wait_for(Option::is_some)
        .await
        .unwrap()
        .clone()
        .unwrap();
    assert!(first.outcome.unwrap().pods.is_empty());
    poller.abort();
    simulator.stop().await;
}

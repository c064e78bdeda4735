//! The log of a pod: what was written before, what is written later, and resuming in between.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures::StreamExt;
use srchat_operator::provider::Error;
use srchat_tests::{
    eventually,
    runpod::{Call, Simulator},
};

use super::setting::{new_pod, soon, start};

#[tokio::test]
async fn the_backlog_is_the_containers_last_lines_in_order() {
    let (simulator, runpod) = start().await;
    let pod = runpod.create(&new_pod("writes"), soon()).await.unwrap();
    for number in 0..150 {
        simulator.write(pod.id.as_str(), &format!("line {number}"));
    }
    let texts = |lines: Vec<srchat_operator::provider::LogLine>| {
        lines.into_iter().map(|line| line.line).collect::<Vec<_>>()
    };
    assert_eq!(
        texts(runpod.logs(&pod.id, 3).await.unwrap()),
        ["line 147", "line 148", "line 149"]
    );
    let all = texts(runpod.logs(&pod.id, 5_000).await.unwrap());
    assert_eq!(
        (all.len(), all[0].as_str()),
        (150, "line 0"),
        "none of the system's lines is among them"
    );
    simulator.stop().await;
}

#[tokio::test]
async fn a_log_that_is_followed_gives_each_new_line_and_ends_with_the_pod() {
    let (simulator, runpod) = start().await;
    let pod = runpod.create(&new_pod("writes"), soon()).await.unwrap();
    simulator.write(pod.id.as_str(), "before");
    let mut log = runpod.follow(&pod.id, 100).await.unwrap();
    assert_eq!(log.next().await.unwrap().unwrap().line, "before");
    simulator.write(pod.id.as_str(), "after");
    let line = log.next().await.unwrap().unwrap();
    assert_eq!(line.line, "after");
    assert_eq!(line.at.unwrap(), simulator.clock().now());
    runpod.delete(&pod.id).await.unwrap();
    assert_eq!(log.next().await, Ok(None));
    assert!(matches!(
        runpod.follow(&pod.id, 1).await,
        Err(Error::NotFound)
    ));
    simulator.stop().await;
}

#[tokio::test]
async fn asking_again_for_a_log_costs_no_request_until_it_ends() {
    let (simulator, runpod) = start().await;
    let pod = runpod.create(&new_pod("writes"), soon()).await.unwrap();
    simulator.write(pod.id.as_str(), "one");
    assert_eq!(runpod.logs(&pod.id, 10).await.unwrap().len(), 1);
    simulator.write(pod.id.as_str(), "two");
    let seen = eventually::within(Duration::from_secs(10), "the second line", || async {
        let lines = runpod
            .logs(&pod.id, 10)
            .await
            .map_err(|error| error.to_string())?;
        if lines.len() == 2 {
            Ok(lines)
        } else {
            Err(format!("{lines:?}"))
        }
    });
    assert_eq!(seen.await.unwrap()[1].line, "two");
    assert_eq!(simulator.ledger().calls[&Call::Logs], 1);
    runpod.close_log(&pod.id);
    assert_eq!(runpod.logs(&pod.id, 10).await.unwrap().len(), 2);
    assert_eq!(
        simulator.ledger().calls[&Call::Logs],
        2,
        "a closed one is asked for anew"
    );
    runpod.delete(&pod.id).await.unwrap();
    let gone = eventually::within(Duration::from_secs(10), "the end of the log", || async {
        match runpod.logs(&pod.id, 10).await {
            Err(Error::NotFound) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    gone.await.unwrap();
    simulator.stop().await;
}

/// The first events of a stream, as they are on the wire.
async fn events(simulator: &Simulator, query: &str, last: Option<&str>) -> Vec<String> {
    let mut request = reqwest::Client::new()
        .get(format!("{}/pods/{query}", simulator.url()))
        .bearer_auth(simulator.key());
    if let Some(last) = last {
        request = request.header("Last-Event-ID", last);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let chunk = response.bytes_stream().next().await.unwrap().unwrap();
    String::from_utf8(chunk.to_vec())
        .unwrap()
        .split_terminator("\n\n")
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn a_stream_resumes_after_the_last_event_that_was_seen() {
    let (simulator, runpod) = start().await;
    let pod = runpod.create(&new_pod("writes"), soon()).await.unwrap();
    for line in ["one", "two", "three"] {
        simulator.write(pod.id.as_str(), line);
    }
    let logs = format!("{}/logs?source=container", pod.id);
    let first = events(&simulator, &logs, None).await;
    assert_eq!(first.len(), 3);
    let id = first[0]
        .lines()
        .find_map(|line| line.strip_prefix("id: "))
        .unwrap();
    assert_eq!(
        events(&simulator, &logs, Some(id)).await,
        first[1..],
        "the id goes before tail and since"
    );
    simulator.stop().await;
}

//! A server that misbehaves below HTTP: whatever it does, a create is sent once.

#![allow(clippy::unwrap_used)]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use srchat_operator::provider::{
    Error,
    runpod::{Key, RunPod},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::setting::{PATIENCE, new_pod, soon};

/// Answers each connection's first request with these bytes, then hangs up; counts requests of this method.
async fn answering(answer: &'static str, method: &'static str) -> (RunPod, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v2", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 64 * 1024];
            let read = stream.read(&mut request).await.unwrap_or(0);
            if request[..read].starts_with(method.as_bytes()) {
                seen.fetch_add(1, Ordering::SeqCst);
            }
            // Whoever left does not read it.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (
        RunPod::with_patience(&url, Key::parse("k").unwrap(), PATIENCE).unwrap(),
        count,
    )
}

#[tokio::test]
async fn a_create_whose_connection_breaks_is_not_sent_again() {
    let (runpod, requests) = answering("", "POST").await;
    for attempt in 1..=3 {
        let error = runpod.create(&new_pod("once"), soon()).await.unwrap_err();
        assert!(matches!(error, Error::Ambiguous { .. }), "{error}");
        assert_eq!(requests.load(Ordering::SeqCst), attempt);
    }
}

#[tokio::test]
async fn a_create_never_uses_a_connection_that_the_server_has_already_closed() {
    // The server promises to keep the connection, and closes it: the next request on it would be lost, or sent again underneath.
    let (runpod, requests) = answering("HTTP/1.1 201 Created\r\nConnection: keep-alive\r\nContent-Length: 10\r\n\r\n{\"id\":\"a\"}", "POST").await;
    for attempt in 1..=3 {
        assert_eq!(
            runpod
                .create(&new_pod("once"), soon())
                .await
                .unwrap()
                .id
                .as_str(),
            "a"
        );
        assert_eq!(requests.load(Ordering::SeqCst), attempt);
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_with_the_key() {
    let (runpod, requests) = answering(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: /v2/elsewhere\r\nContent-Length: 0\r\n\r\n",
        "",
    )
    .await;
    assert!(matches!(
        runpod.create(&new_pod("once"), soon()).await,
        Err(Error::Ambiguous { .. })
    ));
    assert!(matches!(
        runpod.list_all().await,
        Err(Error::Unavailable { .. })
    ));
    assert_eq!(requests.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_record_of_another_pod_is_no_answer() {
    let (runpod, _) = answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{\"id\":\"a\"}",
        "GET",
    )
    .await;
    assert!(runpod.get(&"a".parse().unwrap()).await.is_ok());
    assert!(matches!(
        runpod.get(&"b".parse().unwrap()).await,
        Err(Error::Unavailable { .. })
    ));
}

#[tokio::test]
async fn every_request_says_who_asks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v2", listener.local_addr().unwrap());
    let runpod = RunPod::with_patience(&url, Key::parse("secret").unwrap(), PATIENCE).unwrap();
    let asked = tokio::spawn(async move { runpod.list_all().await });
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = vec![0; 64 * 1024];
    let read = stream.read(&mut request).await.unwrap();
    let head = String::from_utf8_lossy(&request[..read]).to_lowercase();
    assert!(head.starts_with("get /v2/pods http/1.1"), "{head}");
    assert!(
        head.contains("user-agent: srchat/") && head.contains("authorization: bearer secret"),
        "{head}"
    );
    drop(stream);
    assert!(matches!(
        asked.await.unwrap(),
        Err(Error::Unavailable { .. })
    ));
}

//! Who gets in, by which paths, and what is refused before an engine hears of it.

use std::collections::BTreeSet;

use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};
use srchat_operator::route::{Route, Stage, TokenHash};
use srchat_tests::eventually::eventually;
use srchat_tests::scripted_engine::Script;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::{Events, OTHER_TOKEN, TOKEN, World, json_of, question};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failure_of_a_token_is_the_same_answer() {
    let world = World::serving(Script::default()).await;
    let unknown = world.url("v1/models").replace("team-a", "team-b");
    let mut answers = BTreeSet::new();
    for request in [
        world.http.get(world.url("v1/models")),
        world
            .http
            .get(world.url("v1/models"))
            .bearer_auth("nonsense"),
        world
            .http
            .get(world.url("v1/models"))
            .bearer_auth(OTHER_TOKEN),
        world
            .http
            .get(world.url("v1/models"))
            .basic_auth("user", Some(TOKEN)),
        world.http.get(unknown).bearer_auth(TOKEN),
        world
            .http
            .post(world.url("v1/chat/completions"))
            .bearer_auth(OTHER_TOKEN)
            .json(&question(false)),
        world.http.get(world.url("files/")).bearer_auth(OTHER_TOKEN),
        world.http.get(world.url("status")),
        world.http.get(world.url("logs")),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 401);
        let mut headers: Vec<_> = answer.headers().keys().map(ToString::to_string).collect();
        headers.sort();
        answers.insert((headers, answer.text().await.unwrap()));
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(answers.first().unwrap().1.contains("invalid_api_key"));
    assert!(world.engine.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_listed_does_not_exist() {
    let world = World::serving(Script::default()).await;
    for path in [
        "",
        "v1/chat",
        "v1/load_lora_adapter",
        "slots",
        "health",
        "metrics",
        "v1/chat/completions/x",
    ] {
        let (status, body) = json_of(world.post(path, &json!({}))).await;
        assert_eq!(
            (status, body["error"]["code"].as_str()),
            (404, Some("unknown_url")),
            "{path}"
        );
    }
    let (status, _) = json_of(world.get("v1/chat/completions")).await;
    assert_eq!(status, 405);
    assert!(world.engine.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_broken_or_too_large_never_reaches_the_engine() {
    let world = World::serving(Script::default()).await;
    for body in [
        "",
        "{",
        "[]",
        "{\"messages\": \"hi\"}",
        "{\"messages\": []}",
    ] {
        let (status, answer) = json_of(
            world
                .http
                .post(world.url("v1/chat/completions"))
                .bearer_auth(TOKEN)
                .body(body),
        )
        .await;
        assert_eq!(
            (status, answer["error"]["type"].as_str()),
            (400, Some("invalid_request_error")),
            "{body}"
        );
    }
    let large = format!("{{\"messages\": \"{}\"}}", "x".repeat(33 << 20));
    let (status, answer) = json_of(
        world
            .http
            .post(world.url("v1/chat/completions"))
            .bearer_auth(TOKEN)
            .body(large),
    )
    .await;
    assert_eq!(
        (status, answer["error"]["code"].as_str()),
        (413, Some("request_too_large"))
    );
    assert!(world.engine.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_1_2_is_refused() {
    let world = World::serving(Script::default()).await;
    world.connect(&TLS13).await.unwrap();
    let refused = world.connect(&TLS12).await.unwrap_err();
    assert!(refused.to_string().contains("ProtocolVersion"), "{refused}");
}

/// Sends bytes as they stand and gives the first line of the answer, and its JSON.
async fn raw(world: &World, request: &str) -> (String, Value) {
    let mut stream = world.connect(&TLS13).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The gateway closes such a connection without TLS's goodbye at times; what it said before counts.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let line = head.lines().next().unwrap_or_default().to_owned();
    (line, serde_json::from_str(body).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_two_lengths_is_refused() {
    let world = World::serving(Script::default()).await;
    let body = question(false).to_string();
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let head = format!(
        "POST /team-a/vision/v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    );
    for lengths in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Transfer-Encoding: gzip\r\n",
    ] {
        let (line, body) = raw(&world, &format!("{head}{lengths}\r\n{chunked}")).await;
        assert_eq!(line, "HTTP/1.1 400 Bad Request", "{lengths}");
        assert_eq!(body["error"]["type"], "invalid_request_error", "{lengths}");
    }
    assert!(world.engine.seen().is_empty());
    let framed = format!("{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n{chunked}");
    assert_eq!(raw(&world, &framed).await.0, "HTTP/1.1 200 OK");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_have_a_limit() {
    let world = World::serving(Script::default()).await;
    let line = |bytes| {
        format!(
            "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Long: {}\r\n\r\n",
            "x".repeat(bytes)
        )
    };
    assert_eq!(raw(&world, &line(15 << 10)).await.0, "HTTP/1.1 200 OK");
    let (line, body) = raw(&world, &line(17 << 10)).await;
    assert_eq!(line, "HTTP/1.1 431 Request Header Fields Too Large");
    assert_eq!(body["error"]["code"], "headers_too_large");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_is_refused_in_openais_shape_after_an_answer_too() {
    let world = World::serving(Script::default()).await;
    let good = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    for bad in [
        "GET /healthz HTTP/1.1\r\nHo st: x\r\n\r\n",
        "GET \u{7f} HTTP/1.1\r\n\r\n",
        "hello\r\n\r\n",
    ] {
        let (line, body) = raw(&world, bad).await;
        assert_eq!(line, "HTTP/1.1 400 Bad Request", "{bad}");
        assert_eq!(body["error"]["code"], "malformed_request", "{bad}");
        let mut stream = world.connect(&TLS13).await.unwrap();
        stream.write_all(good.as_bytes()).await.unwrap();
        let mut answer = [0; 4096];
        let read = stream.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200 OK"));
        stream.write_all(bad.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        let rest = String::from_utf8_lossy(&rest);
        assert!(rest.contains("malformed_request"), "{bad}: {rest}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_model_serves_the_stage_is_told() {
    let world = World::loading(Script::default()).await;
    let answer = world.chat(false).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["retry-after"]),
        (503, &"5".parse().unwrap())
    );
    assert!(answer.text().await.unwrap().contains("Loading, 90 %"));

    let mut status = Events::of(world.get("status").send().await.unwrap());
    let first = status.json().await;
    assert_eq!(
        (&first["stage"], &first["percent"]),
        (&json!("Loading"), &json!(90))
    );
    world.gateway.apply(world.route());
    let second = status.json().await;
    assert_eq!(
        (&second["stage"], &second["cost"]["hourly"]),
        (&json!("Serving"), &json!("0.79"))
    );
    assert_eq!(world.chat(false).send().await.unwrap().status(), 200);
    world.gateway.remove("uid-1");
    assert_eq!(status.next().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_ends_what_it_began() {
    let world = World::stepped().await;
    let mut events = Events::of(world.chat(true).send().await.unwrap());
    world.engine.step(1);
    events.json().await;
    let token = TokenHash::of(OTHER_TOKEN);
    world.gateway.apply(Route {
        token,
        ..world.route()
    });
    let last = events.json().await;
    assert_eq!(last["error"]["code"], "invalid_api_key");
    assert_eq!(events.next().await, None);
    assert_eq!(world.chat(false).send().await.unwrap().status(), 401);
    let look = async || {
        if world.engine.abandoned() == 1 {
            Ok(())
        } else {
            Err("the engine goes on")
        }
    };
    eventually("the engine stops", crate::world::PATIENCE, look).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_endpoint_says_so_and_ends_its_streams() {
    let world = World::stepped().await;
    let mut events = Events::of(world.chat(true).send().await.unwrap());
    world.engine.step(1);
    events.json().await;
    world.gateway.apply(Route {
        host: None,
        stage: Stage::Ended,
        ..world.route()
    });
    assert!(events.all().await.last().unwrap().contains("engine_failed"));
    let (status, body) = json_of(world.chat(false)).await;
    assert_eq!(
        (status, body["error"]["message"].as_str()),
        (503, Some("The session has ended."))
    );
}

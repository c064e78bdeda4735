//! Questions to the engine and its answers.

use std::time::Duration;

use serde_json::{Value, json};
use srchat_tests::eventually::eventually;
use srchat_tests::scripted_engine::{Fault, Pace, Script};

use crate::world::{Events, World, json_of};

fn content(events: &[String]) -> String {
    let deltas = events
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok());
    deltas
        .filter_map(|event| {
            event["choices"][0]["delta"]["content"]
                .as_str()
                .map(str::to_owned)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_model_is_told_without_asking_the_engine() {
    let world = World::serving(Script::default()).await;
    let (status, list) = json_of(world.get("v1/models")).await;
    assert_eq!((status, &list["data"][0]["id"]), (200, &json!("org/model")));
    assert_eq!(list["data"][0]["max_model_len"], 4096);
    let (status, model) = json_of(world.get("v1/models/org%2Fmodel")).await;
    assert_eq!((status, &model), (200, &list["data"][0]));
    let (status, none) = json_of(world.get("v1/models/other")).await;
    assert_eq!(
        (status, none["error"]["code"].as_str()),
        (404, Some("model_not_found"))
    );
    assert!(world.engine.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_comes_whole_or_streamed() {
    let world = World::serving(Script::default()).await;
    let (status, answer) = json_of(world.chat(false)).await;
    assert_eq!(
        (status, answer["choices"][0]["message"]["content"].as_str()),
        (200, Some("The capital is Paris."))
    );
    let events = Events::of(world.chat(true).send().await.unwrap())
        .all()
        .await;
    assert_eq!(content(&events), "The capital is Paris.");
    assert_eq!(events.last().unwrap(), "[DONE]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_hears_what_was_rebuilt_and_nothing_of_the_client() {
    let world = World::serving(Script::default()).await;
    let body = json!({"model": "x", "messages": [{"role": "user", "content": "hi"}], "chat_template": "evil", "max_tokens": 99999});
    let request = world
        .post("v1/chat/completions", &body)
        .header("x-forwarded-user", "alice")
        .header("cookie", "a=b");
    assert_eq!(json_of(request).await.0, 200);
    let seen = world.engine.seen().remove(0);
    assert_eq!(
        seen.body,
        json!({"model": "org/model", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4096})
    );
    let mut headers: Vec<_> = seen.headers.keys().map(ToString::to_string).collect();
    headers.sort();
    assert_eq!(headers, ["content-length", "content-type", "host"]);
    assert_eq!(seen.headers["host"], "localhost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_token_arrives_before_the_next_is_made() {
    let world = World::stepped().await;
    let mut events = Events::of(world.chat(true).send().await.unwrap());
    for token in ["The", " capital", " is", " Paris", "."] {
        world.engine.step(1);
        assert_eq!(events.json().await["choices"][0]["delta"]["content"], token);
    }
    assert_eq!(events.json().await["choices"][0]["finish_reason"], "stop");
    assert_eq!(events.next().await.unwrap(), "[DONE]");
    assert_eq!(events.next().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_to_its_end_on_a_gateway_that_was_asked_to_end() {
    let world = World::stepped().await;
    let mut events = Events::of(world.chat(true).send().await.unwrap());
    world.engine.step(1);
    assert_eq!(events.json().await["choices"][0]["delta"]["content"], "The");
    world.gateway.end();
    let refused = async || match world.connect(&rustls::version::TLS13).await {
        Ok(_) => Err("it still takes connections"),
        Err(_) => Ok(()),
    };
    eventually("nothing new to be taken", crate::world::PATIENCE, refused).await;
    world.engine.step(4);
    for token in [" capital", " is", " Paris", "."] {
        assert_eq!(events.json().await["choices"][0]["delta"]["content"], token);
    }
    assert_eq!(events.json().await["choices"][0]["finish_reason"], "stop");
    assert_eq!(events.all().await, ["[DONE]"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_outlasts_the_draining_breaks_off_and_is_not_taken_for_whole() {
    let script = Script {
        pace: Pace::Stepped,
        ..Script::default()
    };
    let world = World::of(script, |gateway| gateway.draining_for(Duration::ZERO)).await;
    world.gateway.apply(world.route());
    let answer = world.chat(true).send().await.unwrap();
    world.engine.step(1);
    world.gateway.end();
    let broken = tokio::time::timeout(crate::world::PATIENCE, answer.bytes()).await;
    assert!(broken.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_stops_the_engine() {
    let world = World::stepped().await;
    let stopped = async |count| {
        let look = async || match world.engine.abandoned() {
            abandoned if abandoned == count && world.engine.answering() == 0 => Ok(()),
            abandoned => Err(format!("{abandoned} abandoned")),
        };
        eventually("the engine stops", crate::world::PATIENCE, look).await;
    };
    let mut events = Events::of(world.chat(true).send().await.unwrap());
    world.engine.step(1);
    events.json().await;
    drop(events);
    stopped(1).await;

    // And one that waits for a whole answer: it has no byte yet.
    let asking = tokio::spawn(world.chat(false).send());
    let look = async || {
        if world.engine.answering() == 1 {
            Ok(())
        } else {
            Err("not asked yet")
        }
    };
    eventually("the engine is asked", crate::world::PATIENCE, look).await;
    asking.abort();
    stopped(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_share_a_connection_and_a_broken_one_is_not_used_again() {
    let world = World::serving(Script::default()).await;
    for _ in 0..3 {
        assert_eq!(json_of(world.chat(false)).await.0, 200);
    }
    assert_eq!(world.engine.connections(), 1);
    world.engine.follow(Script {
        fault: Some(Fault::DiesAfter(1)),
        ..Script::default()
    });
    Events::of(world.chat(true).send().await.unwrap())
        .all()
        .await;
    world.engine.follow(Script::default());
    assert_eq!(json_of(world.chat(false)).await.0, 200);
    assert_eq!(world.engine.connections(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_dies_in_the_middle_is_told_of_in_the_stream() {
    let world = World::serving(Script {
        fault: Some(Fault::DiesAfter(2)),
        ..Script::default()
    })
    .await;
    let events = Events::of(world.chat(true).send().await.unwrap())
        .all()
        .await;
    assert_eq!(content(&events), "The capital");
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "engine_failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_speaks_no_http_or_is_gone_is_a_502() {
    let world = World::serving(Script {
        fault: Some(Fault::Malformed),
        ..Script::default()
    })
    .await;
    let (status, body) = json_of(world.chat(false)).await;
    assert_eq!(
        (status, body["error"]["code"].as_str()),
        (502, Some("engine_failed"))
    );
    let mut route = world.route();
    // Not the port that the gateways' key is bound to: sshd refuses, as it does when nobody listens.
    route.host.as_mut().unwrap().engine_port = 1;
    world.gateway.apply(route);
    let (status, body) = json_of(world.chat(false)).await;
    assert_eq!(
        (status, body["error"]["code"].as_str()),
        (502, Some("engine_failed"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_with_another_key_is_never_spoken_to() {
    let world = World::serving(Script::default()).await;
    let mut route = world.route();
    route.host.as_mut().unwrap().host_key =
        srchat_operator::ssh::KeyPair::generate().unwrap().public();
    world.gateway.apply(route);
    let (status, body) = json_of(world.chat(false)).await;
    assert_eq!(
        (status, body["error"]["code"].as_str()),
        (502, Some("host_unreachable"))
    );
    assert!(world.engine.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engines_own_refusal_gets_openais_shape() {
    let fault = Some(Fault::Refuses(
        400,
        r#"{"object":"error","message":"too long","type":"BadRequestError","code":400}"#,
    ));
    let world = World::serving(Script {
        fault,
        ..Script::default()
    })
    .await;
    let (status, body) = json_of(world.chat(true)).await;
    let expected = json!({"error": {"message": "too long", "type": "invalid_request_error", "param": null, "code": null}});
    assert_eq!((status, body), (400, expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_megabytes_goes_through_whole() {
    let world = World::serving(Script {
        fault: Some(Fault::Huge(3 << 20)),
        ..Script::default()
    })
    .await;
    let events = Events::of(world.chat(true).send().await.unwrap())
        .all()
        .await;
    assert_eq!(
        content(&events).len(),
        (3 << 20) + "The capital is Paris.".len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reasoning_comes_under_both_names() {
    for name in ["reasoning", "reasoning_content"] {
        let world = World::serving(Script {
            reasoning: Some((name, "so \"2\"".to_owned())),
            ..Script::default()
        })
        .await;
        let (_, whole) = json_of(world.chat(false)).await;
        let first = Events::of(world.chat(true).send().await.unwrap())
            .json()
            .await;
        for both in ["reasoning", "reasoning_content"] {
            assert_eq!(whole["choices"][0]["message"][both], "so \"2\"");
            assert_eq!(first["choices"][0]["delta"][both], "so \"2\"");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_endpoints_are_passed_on_where_the_engine_has_them() {
    let world = World::serving(Script::default()).await;
    let (status, body) = json_of(world.post("v1/completions", &json!({"prompt": "a"}))).await;
    assert_eq!(
        (status, &body["choices"][0]["text"]),
        (200, &json!("The capital is Paris."))
    );
    let (status, body) = json_of(world.post("v1/embeddings", &json!({"input": "a"}))).await;
    assert_eq!(
        (status, &body["data"][0]["embedding"]),
        (200, &json!([0.5, -0.25]))
    );
    let (status, body) = json_of(world.post("v1/responses", &json!({"input": "a"}))).await;
    assert_eq!(
        (status, body["error"]["code"].as_str()),
        (501, Some("not_implemented"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_usage_comes_last_and_without_choices_when_a_stream_is_asked_for_it() {
    let world = World::serving(Script::default()).await;
    let asking = json!({"messages": [{"role": "user", "content": "hi"}], "stream": true,
        "stream_options": {"include_usage": true}});
    let answer = world.post("v1/chat/completions", &asking).send().await;
    let mut events = Events::of(answer.unwrap()).all().await;
    assert_eq!(events.pop().unwrap(), "[DONE]");
    let last: Value = serde_json::from_str(&events.pop().unwrap()).unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 5);
    let earlier = events.iter().filter(|event| event.contains("\"usage\":{"));
    assert_eq!(earlier.count(), 0, "usage comes once");

    let plain = Events::of(world.chat(true).send().await.unwrap())
        .all()
        .await;
    assert!(!plain.iter().any(|event| event.contains("usage")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_engine_would_ignore_is_refused_before_it_hears_of_it() {
    let world = World::loading(Script::default()).await;
    let mut route = world.route();
    let abilities = &mut route.host.as_mut().unwrap().abilities;
    (abilities.tools, abilities.structured_output) = (false, false);
    world.gateway.apply(route);
    let tool = json!([{"type": "function", "function": {"name": "f"}}]);
    let image = json!([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]);
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    for (body, param) in [
        (
            json!({"messages": user(json!("hi")), "tools": tool}),
            "tools",
        ),
        (
            json!({"messages": user(json!("hi")), "response_format": {"type": "json_object"}}),
            "response_format",
        ),
        (json!({"messages": user(image)}), "messages"),
    ] {
        let (status, answer) = json_of(world.post("v1/chat/completions", &body)).await;
        let told = (status, answer["error"]["param"].as_str());
        assert_eq!(told, (400, Some(param)), "{answer}");
    }
    assert!(world.engine.seen().is_empty());
    world.gateway.apply(world.route());
    let body = json!({"messages": user(json!("hi")), "tools": tool, "response_format": {"type": "json_object"}});
    assert_eq!(
        json_of(world.post("v1/chat/completions", &body)).await.0,
        200
    );
    let seen = world.engine.seen().remove(0).body;
    assert_eq!(
        (&seen["tools"], &seen["response_format"]),
        (&body["tools"], &body["response_format"])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_counts_as_activity_and_a_look_at_the_models_does_not() {
    let world = World::serving(Script::default()).await;
    let last = world.host.root.join("activity/last");
    assert_eq!(json_of(world.get("v1/models")).await.0, 200);
    assert!(!last.exists());
    assert_eq!(json_of(world.chat(false)).await.0, 200);
    let look = async || {
        if last.exists() {
            Ok(())
        } else {
            Err("no activity")
        }
    };
    eventually("the activity is reported", crate::world::PATIENCE, look).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_log_is_shown() {
    let world = World::serving(Script::default()).await;
    let answer = world.get("logs?tail=2").send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "line 4\nline 5\n");
    let (status, _) = json_of(world.get("logs?tail=x")).await;
    assert_eq!(status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_followed_while_it_grows_and_until_the_token_is_revoked() {
    use std::io::Write as _;
    let world = World::serving(Script::default()).await;
    let mut answer = world.get("logs?tail=1&follow=true").send().await.unwrap();
    let mut seen = String::new();
    let log = world.host.root.join("logs/engine.log");
    let mut log = std::fs::OpenOptions::new().append(true).open(log).unwrap();
    for (written, until) in [(None, "line 5\n"), (Some("line 6\n"), "line 6\n")] {
        if let Some(line) = written {
            log.write_all(line.as_bytes()).unwrap();
        }
        while !seen.ends_with(until) {
            let piece = tokio::time::timeout(crate::world::PATIENCE, answer.chunk()).await;
            seen += std::str::from_utf8(&piece.unwrap().unwrap().unwrap()).unwrap();
        }
    }
    assert_eq!(seen, "line 5\nline 6\n");
    world.gateway.remove("uid-1");
    let end = tokio::time::timeout(crate::world::PATIENCE, answer.chunk()).await;
    assert_eq!(end.unwrap().unwrap(), None);
}

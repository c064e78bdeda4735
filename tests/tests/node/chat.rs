//! Questions from a pod in the cluster, through the Service, with what the session's Secret says and nothing else.

use serde_json::{Value, json};
use srchat_tests::eventually::eventually;
use srchat_tests::stand_ins::ENDLESS;

use super::stage::{STEP, Stage};

/// Of a stream, at four a second: it lasts longer than both gateways take to be replaced.
const WORDS: usize = 160;

/// Asks, and gives the answer.
pub async fn ask(stage: &Stage, namespace: &str, name: &str) -> Value {
    start(stage, namespace, name, &json!({}));
    let said = stage.curl_said(namespace, name).await;
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// Asks for a long answer, and comes back when it has begun to come.
pub async fn stream(stage: &Stage, namespace: &str, name: &str) {
    start(
        stage,
        namespace,
        name,
        &json!({"stream": true, "max_tokens": WORDS}),
    );
    eventually("an answer to begin", STEP, || async {
        let said = stage.logs(namespace, name)?;
        if said.contains("data: ") {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
}

/// The answer came to its end, with every word.
pub async fn streamed(stage: &Stage, namespace: &str, name: &str) {
    let said = stage.curl_said(namespace, name).await;
    let events: Vec<_> = said
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .collect();
    assert_eq!(events.last(), Some(&"[DONE]"), "{said}");
    let words = events
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok())
        .filter(|event| {
            let word = &event["choices"][0]["delta"]["content"];
            word.as_str().is_some_and(|word| !word.is_empty())
        });
    assert_eq!(words.count(), WORDS, "{said}");
}

fn start(stage: &Stage, namespace: &str, name: &str, more: &Value) {
    let mut question =
        json!({"model": ENDLESS, "messages": [{"role": "user", "content": "Are you there?"}]});
    for (field, value) in more.as_object().into_iter().flatten() {
        question[field] = value.clone();
    }
    stage.start_curl(
        namespace,
        name,
        &[
            "--silent",
            "--show-error",
            "--no-buffer",
            "--fail-with-body",
            "--cacert",
            "/srchat/ca.crt",
            "--header",
            "Authorization: Bearer $(OPENAI_API_KEY)",
            "--header",
            "Content-Type: application/json",
            "--data",
            &question.to_string(),
            "$(OPENAI_BASE_URL)/chat/completions",
        ],
        json!({
            "envFrom": [{"secretRef": {"name": "qwen-chat"}}],
            "volumeMounts": [{"name": "srchat", "mountPath": "/srchat"}],
        }),
    );
}

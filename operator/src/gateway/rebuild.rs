//! A client's JSON body, parsed and written anew: known fields only, within bounds, with the model that is served. Nothing a client
//! wrote reaches the engine in any other way.

mod chat;
mod completions;
mod content;
mod embeddings;
mod responses;
mod sampling;

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use super::routes::What;
use crate::route::RouteHost;

/// A body for the engine.
#[derive(Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// The engine's path.
    pub path: &'static str,
    /// The JSON.
    pub body: Vec<u8>,
    /// Whether the answer will be a stream of events.
    pub stream: bool,
}

/// Rebuilds a request for the engine; `None` when `what` is not asked of the engine with a body.
pub fn rebuild(what: &What, body: &[u8], host: &RouteHost) -> Option<Result<Rebuilt, Refusal>> {
    Some(match what {
        What::Chat => chat::rebuild(body, host),
        What::Completions => completions::rebuild(body, host),
        What::Embeddings => embeddings::rebuild(body, host),
        What::Responses => responses::rebuild(body, host),
        What::Models
        | What::Model(_)
        | What::FileList
        | What::Files
        | What::File(..)
        | What::Logs
        | What::Status => return None,
    })
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::Invalid {
        message: format!("The body is not what this path takes: {error}."),
        param: None,
    })
}

fn write(path: &'static str, stream: bool, request: &impl Serialize) -> Rebuilt {
    let body = serde_json::to_vec(request).expect("what was parsed from JSON serialises");
    Rebuilt { path, body, stream }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;
    use crate::route::{Abilities, Engine, Medium};
    use crate::ssh::KeyPair;

    pub(crate) fn host(engine: Engine) -> RouteHost {
        let key = KeyPair::generate().unwrap();
        RouteHost {
            address: "127.0.0.1:22".into(),
            host_key: key.public(),
            user: "srchat-gw".into(),
            key,
            engine_port: 8000,
            files_dir: "/dev/shm/srchat/files".into(),
            served_name: "served".into(),
            max_model_len: 4096,
            engine,
            abilities: Abilities {
                chat: true,
                completions: true,
                embeddings: true,
                responses: true,
                tools: true,
                structured_output: engine != Engine::Transformers,
                vision: true,
            },
            upload_quota: 1 << 30,
            medium: Medium::Memory,
        }
    }

    pub(crate) fn accepted(what: What, engine: Engine, body: Value) -> Value {
        let body = body.to_string();
        let rebuilt = rebuild(&what, body.as_bytes(), &host(engine)).unwrap();
        serde_json::from_slice(
            &rebuilt
                .unwrap_or_else(|e| panic!("{body} was refused: {e:?}"))
                .body,
        )
        .unwrap()
    }

    pub(crate) fn refused(what: What, engine: Engine, body: Value) -> Refusal {
        let body = body.to_string();
        match rebuild(&what, body.as_bytes(), &host(engine)).unwrap() {
            Ok(rebuilt) => panic!(
                "{body} was accepted as {}",
                String::from_utf8_lossy(&rebuilt.body)
            ),
            Err(refusal) => refusal,
        }
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_place() {
        for body in [
            &b""[..],
            b"{",
            b"[]",
            b"{\"messages\": 1}",
            b"\xff",
            b"{\"messages\":[],\"messages\":[]}",
        ] {
            let refusal = rebuild(&What::Chat, body, &host(Engine::Vllm))
                .unwrap()
                .unwrap_err();
            assert!(matches!(refusal, Refusal::Invalid { .. }), "{refusal:?}");
        }
    }

    #[test]
    fn nesting_has_an_end() {
        let deep = format!(
            r#"{{"messages":[],"tools":[{{"type":"function","function":{{"name":"f","parameters":{}1{}}}}}]}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        let refusal = rebuild(&What::Chat, deep.as_bytes(), &host(Engine::Vllm))
            .unwrap()
            .unwrap_err();
        assert!(matches!(refusal, Refusal::Invalid { .. }), "{refusal:?}");
    }

    #[test]
    fn what_the_engine_has_not_is_not_implemented() {
        let mut host = host(Engine::Vllm);
        host.abilities = Abilities::default();
        for what in [
            What::Chat,
            What::Completions,
            What::Embeddings,
            What::Responses,
        ] {
            let refusal = rebuild(&what, b"{}", &host).unwrap().unwrap_err();
            assert!(
                matches!(refusal, Refusal::NotImplemented(_)),
                "{what:?}: {refusal:?}"
            );
        }
    }

    #[test]
    fn the_dangerous_fields_never_reach_the_engine() {
        let mut body = json!({
            "chat_template": "{{ x }}", "chat_template_kwargs": {"a": 1}, "mm_processor_kwargs": {}, "kv_transfer_params": {},
            "ec_transfer_params": {}, "vllm_xargs": {}, "prompt_embeds": "AA==", "priority": -1, "cache_salt": "x", "request_id": "y",
            "generation_config": "{}", "slot_id": 1, "id_slot": 1, "lora": [], "user": "me", "metadata": {"a": "b"}, "store": true,
        });
        let dangerous: Vec<String> = body
            .as_object()
            .unwrap()
            .keys()
            .filter(|k| *k != "store")
            .cloned()
            .collect();
        body["prompt"] = json!("p");
        body["input"] = json!("p");
        body["messages"] = json!([{"role": "user", "content": "p", "cache_control": {}}]);
        for what in [
            What::Chat,
            What::Completions,
            What::Embeddings,
            What::Responses,
        ] {
            for engine in [Engine::Vllm, Engine::LlamaCpp, Engine::Transformers] {
                let sent = accepted(what.clone(), engine, body.clone());
                for field in &dangerous {
                    assert_eq!(sent.get(field), None, "{field} of {what:?}");
                }
                assert_ne!(sent.get("store"), Some(&json!(true)));
                assert_eq!(sent["model"], "served");
            }
        }
    }
}

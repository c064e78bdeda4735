//! What the operator learns from a Hub, held against a Hub that answers as the real one does.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use srchat_crds::{ChatSessionSpec, Dollars, ModelId};
use srchat_operator::hub::{Cache, Error, Facts, Hub, Token};
use srchat_operator::plan::{self, Wish};
use srchat_operator::provider::{Cloud, Offer, Stock};
use srchat_operator::route::Engine;
use srchat_tests::hub::{Fault, HubServer};
use srchat_tests::model;
use srchat_tests::process::Workplace;

const TOKEN: &str = "hf_admitted";

/// A Hub with some repositories, and an operator's view of it.
struct Scene {
    server: HubServer,
    hub: Hub,
    workplace: Workplace,
}

impl Scene {
    async fn new() -> Self {
        let workplace = Workplace::new("hub").unwrap();
        let root = workplace.path();
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
            "num_key_value_heads": 8, "max_position_embeddings": 131072, "vocab_size": 128256
        });
        let counted = json!({"parameters": {"BF16": 8_030_261_248u64}, "total": 8_030_261_248u64});
        let describe = |more: Value| {
            let mut all = json!({"pipeline_tag": "text-generation", "safetensors": counted});
            all.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            all
        };
        for (name, more) in [
            (
                "llama",
                json!({"config": {"tokenizer_config": {"chat_template": "{{ messages }}"}}}),
            ),
            ("gated", json!({"gated": "manual", "tokens": [TOKEN]})),
            ("private", json!({"private": true, "tokens": [TOKEN]})),
            ("disabled", json!({"disabled": true})),
        ] {
            write(
                root,
                &format!("acme/{name}/config.json"),
                config.to_string().as_bytes(),
            );
            write(root, &format!("acme/{name}/model.safetensors"), b"weights");
            write(root, &format!("acme/{name}/1_Pooling/config.json"), b"{}");
            write(
                root,
                &format!("acme/{name}/.hub.json"),
                describe(more).to_string().as_bytes(),
            );
        }
        write(root, "acme/odd/model-Q2_K.gguf", b"not a GGUF file");
        write(root, "acme/odd/model-Q3_K_M.gguf", b"neither");
        write(root, "acme/broken/config.json", b"{\"hidden_size\": [[[");
        write(root, "acme/broken/model.safetensors", b"weights");
        write(root, "acme/fat/config.json", &vec![b' '; 2 << 20]);
        let server = HubServer::start(root).await.unwrap();
        let hub = Hub::new(server.url()).unwrap();
        Self {
            server,
            hub,
            workplace,
        }
    }

    async fn facts(
        &self,
        model: &str,
        token: Option<&str>,
    ) -> Result<std::sync::Arc<Facts>, Error> {
        let token = token.map(|token| Token::new(token).unwrap());
        self.hub
            .facts(&model.parse().unwrap(), token.as_ref())
            .await
    }

    async fn refusal(&self, model: &str, token: Option<&str>) -> Error {
        self.facts(model, token).await.unwrap_err()
    }
}

fn write(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_models_facts_are_those_of_one_commit_and_its_large_files_have_a_sum() {
    let scene = Scene::new().await;
    let facts = scene.facts("acme/llama", None).await.unwrap();
    assert_eq!((facts.id.as_str(), facts.sha.len()), ("acme/llama", 40));
    assert_eq!(
        facts.parameters,
        BTreeMap::from([("BF16".to_owned(), 8_030_261_248)])
    );
    let shape = facts.shape.as_ref().unwrap();
    assert_eq!(
        shape.cache,
        Cache::Heads {
            kv_heads: vec![8; 32],
            widths: 256
        }
    );
    assert!(facts.chat_template && !facts.vision && !facts.remote_code && facts.gguf.is_none());
    let paths: Vec<(&str, bool)> = facts
        .files
        .iter()
        .map(|file| (file.path.as_str(), file.sha256.is_some()))
        .collect();
    assert_eq!(
        paths,
        [
            ("1_Pooling/config.json", false),
            ("config.json", false),
            ("model.safetensors", true)
        ]
    );
    assert_eq!(
        facts.files[2].sha256.as_deref(),
        Some(hex::encode(Sha256::digest(b"weights")).as_str())
    );
    // The commit is what is asked for afterwards, whatever the branch does meanwhile.
    let asked = scene.server.asked();
    assert!(
        asked[0]
            .target
            .starts_with("/api/models/acme/llama/revision/main?expand=sha&"),
        "{}",
        asked[0].target
    );
    assert!(
        asked[1..]
            .iter()
            .all(|asked| asked.target.contains(&facts.sha)),
        "{asked:?}"
    );
    assert!(
        asked
            .iter()
            .all(|asked| asked.token.is_none() && asked.status < 300),
        "{asked:?}"
    );
    assert_eq!(
        *scene
            .facts(&format!("acme/llama@{}", facts.sha), None)
            .await
            .unwrap(),
        *facts
    );
}

#[tokio::test]
async fn what_is_known_is_not_asked_again_and_another_token_is_asked_for_itself() {
    let scene = Scene::new().await;
    scene.facts("acme/private", Some(TOKEN)).await.unwrap();
    let asked = scene.server.asked().len();
    scene.facts("acme/private", Some(TOKEN)).await.unwrap();
    assert_eq!(scene.server.asked().len(), asked);
    assert!(matches!(
        scene.refusal("acme/private", Some("hf_another")).await,
        Error::NotFound(_)
    ));
    assert!(matches!(
        scene.refusal("acme/private", None).await,
        Error::NotFound(_)
    ));
}

#[tokio::test]
async fn a_model_that_is_not_there_is_told_so_in_a_sentence() {
    let scene = Scene::new().await;
    let sentence = |error: Error| match error {
        Error::NotFound(sentence) => sentence,
        other => panic!("{other:?}"),
    };
    let anonymous = sentence(scene.refusal("acme/absent", None).await);
    assert!(
        anonymous.contains("there is no model acme/absent")
            && anonymous.contains("modelTokenSecretRef"),
        "{anonymous}"
    );
    let known = sentence(scene.refusal("acme/absent", Some(TOKEN)).await);
    assert!(
        known.contains("this token can see") && !known.contains(TOKEN),
        "{known}"
    );
    let revision = sentence(scene.refusal("acme/llama@v2", None).await);
    assert_eq!(revision, "acme/llama has no revision v2");
    let variant = sentence(scene.refusal("acme/llama:Q4_K_M", None).await);
    assert!(variant.contains("no GGUF files"), "{variant}");
    let unnamed = sentence(scene.refusal("acme/odd", None).await);
    assert!(
        unnamed.contains("acme/odd:Q2_K") && unnamed.contains("Q3_K_M"),
        "{unnamed}"
    );
    let wrong = sentence(scene.refusal("acme/odd:Q8_0", None).await);
    assert_eq!(wrong, "acme/odd has no variant Q8_0; it has Q2_K, Q3_K_M");
}

#[tokio::test]
async fn a_gated_model_wants_a_token_whose_account_was_admitted() {
    let scene = Scene::new().await;
    for (token, hint) in [
        (None, "modelTokenSecretRef"),
        (Some("hf_stranger"), "wait until access is granted"),
    ] {
        let Error::Gated(sentence) = scene.refusal("acme/gated", token).await else {
            panic!("not gated")
        };
        assert!(
            sentence.contains("accept its licence at http://127.0.0.1:") && sentence.contains(hint),
            "{sentence}"
        );
        assert!(!sentence.contains("hf_stranger"));
    }
    let facts = scene.facts("acme/gated", Some(TOKEN)).await.unwrap();
    assert_eq!(facts.files.len(), 3);
    assert!(
        matches!(
            scene.refusal("acme/gated", Some("hf_stranger")).await,
            Error::Gated(_)
        ),
        "what one may read, another may not"
    );
}

#[tokio::test]
async fn a_limit_is_honoured_for_as_long_as_the_hub_says() {
    for retry_after in [false, true] {
        let scene = Scene::new().await;
        // Without Retry-After the operator asks once more, to read the other header.
        for _ in 0..if retry_after { 1 } else { 2 } {
            scene.server.fail_next(Fault::RateLimited {
                seconds: 77,
                retry_after,
            });
        }
        let Error::Unavailable { after, message } = scene.refusal("acme/llama", None).await else {
            panic!("not limited")
        };
        assert_eq!(after, Some(Duration::from_secs(77)), "{message}");
        let asked = scene.server.asked().len();
        let Error::Unavailable {
            after: Some(after), ..
        } = scene.refusal("acme/gated", Some(TOKEN)).await
        else {
            panic!("asked")
        };
        assert!(after <= Duration::from_secs(77));
        assert_eq!(
            scene.server.asked().len(),
            asked,
            "nobody asks while the Hub wants to be left alone"
        );
    }
}

#[tokio::test]
async fn a_hub_that_fails_or_talks_nonsense_is_unavailable_and_asked_again_later() {
    let scene = Scene::new().await;
    for fault in [Fault::Status(500), Fault::Status(503), Fault::Nonsense] {
        scene.server.fail_next(fault);
        let error = scene.refusal("acme/llama", None).await;
        assert!(
            matches!(error, Error::Unavailable { after: None, .. }),
            "{error:?}"
        );
        assert!(
            error
                .to_string()
                .starts_with("the Hugging Face Hub cannot be asked: "),
            "{error}"
        );
    }
    scene.facts("acme/llama", None).await.unwrap();
    let nobody = Hub::new("http://127.0.0.1:1").unwrap();
    let error = nobody
        .facts(&"acme/llama".parse().unwrap(), None)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_long_file_list_is_read_page_by_page() {
    let scene = Scene::new().await;
    for number in 0..9 {
        write(
            scene.workplace.path(),
            &format!("acme/llama/part {number}#.txt"),
            b"x",
        );
    }
    scene.server.files_per_page(5);
    assert_eq!(
        scene.facts("acme/llama", None).await.unwrap().files.len(),
        12
    );
}

#[tokio::test]
async fn what_cannot_be_served_is_unsupported_and_what_cannot_be_read_has_no_shape() {
    let scene = Scene::new().await;
    assert!(matches!(
        scene.refusal("acme/disabled", None).await,
        Error::Unsupported(_)
    ));
    assert!(matches!(
        scene.refusal("acme/fat", None).await,
        Error::Unsupported(_)
    ));
    assert_eq!(scene.facts("acme/broken", None).await.unwrap().shape, None);
    assert_eq!(
        scene.facts("acme/odd:Q2_K", None).await.unwrap().shape,
        None
    );
}

#[tokio::test]
async fn the_real_small_model_is_planned_from_its_own_header() {
    let model = tokio::task::spawn_blocking(model::small_model)
        .await
        .unwrap()
        .unwrap();
    let server = HubServer::start(&model.hub_folder).await.unwrap();
    let hub = Hub::new(server.url()).unwrap();
    let id: ModelId = model.id.parse().unwrap();
    let facts = hub.facts(&id, None).await.unwrap();
    let gguf = facts.gguf.as_ref().unwrap();
    assert_eq!(
        (gguf.file.as_str(), gguf.variant.as_str(), gguf.bytes()),
        (model::FILE, model::VARIANT, 491_400_064)
    );
    assert_eq!(gguf.parts[0].sha256.as_deref(), Some(model::SHA256));
    let shape = facts.shape.as_ref().unwrap();
    assert_eq!(
        (
            shape.hidden,
            shape.heads,
            shape.context.map(|tokens| tokens.get())
        ),
        (896, 14, Some(32_768))
    );
    let read: u64 = server.served().iter().map(|served| served.bytes).sum();
    assert!(read < 1 << 20, "{read} bytes were read to plan");

    let mut spec = ChatSessionSpec::of(id);
    spec.runtime.context_length = Some(4096);
    let offer = Offer {
        gpu: "NVIDIA RTX A4000".into(),
        name: "RTX A4000".into(),
        memory_gb: 16,
        count: 1,
        cloud: Cloud::Secure,
        price: Dollars::cents(25),
        stock: Stock::High,
        data_centers: BTreeMap::new(),
        max_count: 8,
    };
    let plan = plan::plan(&Wish::of(&spec), &facts, &[offer], &BTreeSet::new()).unwrap();
    assert_eq!(
        (plan.engine, plan.memory.kv_per_token, plan.context_length),
        (Engine::LlamaCpp, 12_288, 4096)
    );
    assert_eq!(plan.gguf.as_ref().unwrap().model, model::FILE);
    assert_eq!(
        plan.weight_files()[0].sha256.as_deref(),
        Some(model::SHA256)
    );
}

/// What a downloader sees of the Hub: the links, the ranges and the accidents.
#[tokio::test]
async fn large_files_come_from_another_place_in_ranges_and_with_their_sum() {
    let scene = Scene::new().await;
    let content: Vec<u8> = (0..600_000u32)
        .map(|number| number.to_le_bytes()[1])
        .collect();
    write(
        scene.workplace.path(),
        "acme/gated/model.safetensors",
        &content,
    );
    let url = format!(
        "{}/acme/gated/resolve/main/model.safetensors",
        scene.server.url()
    );
    let plain = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    assert_eq!(plain.get(&url).send().await.unwrap().status(), 401);
    let link = plain.head(&url).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(link.status(), 302);
    let sum = hex::encode(Sha256::digest(&content));
    assert_eq!(link.headers()["x-linked-etag"], format!("\"{sum}\""));
    assert_eq!(link.headers()["x-linked-size"], "600000");

    let client = reqwest::Client::new();
    let whole = client
        .get(&url)
        .bearer_auth(TOKEN)
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    assert_eq!(whole, content);
    let rest = client
        .get(&url)
        .bearer_auth(TOKEN)
        .header("range", "bytes=599990-")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (
            rest.status().as_u16(),
            rest.headers()["content-range"].to_str().unwrap()
        ),
        (206, "bytes 599990-599999/600000")
    );
    assert_eq!(rest.bytes().await.unwrap(), content[599_990..]);
    let beyond = client
        .get(&url)
        .bearer_auth(TOKEN)
        .header("range", "bytes=600000-")
        .send()
        .await
        .unwrap();
    assert_eq!(beyond.status(), 416);

    scene.server.fail_next(Fault::BreakOff { after: 1000 });
    // Whether the head of the answer still leaves before the connection does is the operating system's choice.
    let broken = async {
        client
            .get(&url)
            .bearer_auth(TOKEN)
            .send()
            .await?
            .bytes()
            .await
    };
    assert!(broken.await.is_err());
    scene.server.fail_next(Fault::Corrupt);
    let spoiled = client
        .get(&url)
        .bearer_auth(TOKEN)
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    assert_eq!((spoiled.len(), spoiled == content), (content.len(), false));
    let served = scene.server.served();
    assert_eq!(
        served
            .iter()
            .filter(|served| served.ended.is_some())
            .count(),
        3,
        "{served:?}"
    );
}

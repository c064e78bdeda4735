//! The real engine, and stand-ins with the real flags, on a real host.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use sha2::{Digest, Sha256};
use srchat_operator::host;
use srchat_operator::host::deploy::{Deploy, WeightFile};
use srchat_operator::host::engine::{self, Engine, Spec};
use srchat_operator::host::visit::Health;
use srchat_tests::hosts::{Hosts, Image};
use srchat_tests::hub::HubServer;
use srchat_tests::model;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::machine::Host;
use super::repository::{deploy, hub, plain, weights};

#[tokio::test(flavor = "multi_thread")]
async fn real_llama_cpp_answers_a_question_from_a_host() {
    let model = tokio::task::spawn_blocking(model::small_model)
        .await
        .unwrap()
        .unwrap();
    let engines = tokio::task::spawn_blocking(model::engines)
        .await
        .unwrap()
        .unwrap();
    let hub = HubServer::start(&model.hub_folder).await.unwrap();
    // Whoever installs the provider first does, as every `main` has.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let asked = srchat_operator::hub::Hub::new(hub.url()).unwrap();
    let facts = asked.facts(&model.id.parse().unwrap(), None).await.unwrap();
    let revision = facts.sha.clone();
    let host = Host::boot(&Hosts::real().await.unwrap(), |spec| {
        spec.image = Image {
            path: vec![engines.llama_cpp],
            visible: engines.visible,
            ..Image::default()
        };
        spec.reach.push(hub.address());
    })
    .await;
    let connection = host.connect().await;
    let launch = engine::launch(&Spec {
        engine: Engine::LlamaCpp,
        model: model::REPOSITORY.to_owned(),
        revision: revision.clone(),
        served_name: "tiny".to_owned(),
        gguf: Some(model::FILE.to_owned()),
        extra_args: Vec::new(),
        ..plain()
    });
    let order = Deploy {
        model: model::REPOSITORY.to_owned(),
        revision,
        hub: hub.url().to_owned(),
        token: None,
        files: vec![WeightFile {
            path: model::FILE.to_owned(),
            size: std::fs::metadata(&model.file).unwrap().len(),
            sha256: Some(model::SHA256.to_owned()),
        }],
        launch: launch.unwrap(),
        gateways_key: host.gateways.public(),
    };
    host::deploy(&connection, &host.of, &order).await.unwrap();
    let visit = host.follow(&connection).await;
    assert_eq!((visit.failure, visit.engine), (None, Health::Healthy));
    let gateway = host.connect_as_gateway().await.unwrap();
    let mut stream = gateway.forward(visit.port.unwrap()).await.unwrap();
    let body = r#"{"messages":[{"role":"user","content":"Name the capital of France in one word."}],"max_tokens":8,"temperature":0}"#;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("Paris"), "{answer}");
    let report = host::clear(&connection, &host.of, Duration::from_secs(60))
        .await
        .unwrap();
    assert!(report.complete(), "{report:?}");
    host.machine.kill().await;
}

/// vLLM and transformers take the same way; what stands in for them takes exactly the real flags.
#[tokio::test(flavor = "multi_thread")]
async fn every_engine_is_deployed_with_flags_that_it_has() {
    let engines = tokio::task::spawn_blocking(model::engines)
        .await
        .unwrap()
        .unwrap();
    for (engine, folder) in [
        (Engine::Vllm, engines.vllm),
        (Engine::Transformers, engines.transformers),
    ] {
        let mut hub = hub();
        let config = br#"{"architectures":["Qwen3ForCausalLM"],"model_type":"qwen3"}"#;
        hub.files.insert("config.json".to_owned(), config.to_vec());
        hub.files.insert("model.safetensors".to_owned(), weights());
        let hub = hub.serve().await;
        let host = Host::boot(&Hosts::real().await.unwrap(), |spec| {
            spec.image = Image {
                path: vec![folder],
                visible: engines.visible.clone(),
                ..Image::default()
            };
            spec.env.remove("LLAMA_ARG_HOST");
            spec.reach.push(hub);
        })
        .await;
        let connection = host.connect().await;
        let mut order = deploy(hub, &host.gateways);
        order.files = vec![
            WeightFile {
                path: "config.json".to_owned(),
                size: config.len() as u64,
                sha256: None,
            },
            WeightFile {
                path: "model.safetensors".to_owned(),
                size: 3_000_000,
                sha256: Some(hex::encode(Sha256::digest(weights()))),
            },
        ];
        order.launch = engine::launch(&Spec { engine, ..plain() }).unwrap();
        host::deploy(&connection, &host.of, &order).await.unwrap();
        let visit = host.follow(&connection).await;
        assert_eq!(
            (visit.failure, visit.engine),
            (None, Health::Healthy),
            "{engine:?}"
        );
        let report = host::clear(&connection, &host.of, Duration::from_secs(60))
            .await
            .unwrap();
        assert!(report.complete(), "{report:?}");
        host.machine.kill().await;
    }
}

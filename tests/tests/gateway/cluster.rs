//! The gateway as a process with its own rights on a real API server: routes and leaf as they change, and while nobody answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DeleteParams;
use reqwest::Client;
use srchat_operator::route::{Route, TokenHash};
use srchat_tests::control_plane::ControlPlane;
use srchat_tests::deployed::Deployed;
use srchat_tests::eventually::eventually;
use srchat_tests::operator_binaries::OperatorBinaries;
use srchat_tests::process::{Process, Workplace};
use srchat_tests::scripted_engine::{Script, ScriptedEngine};

use crate::process::{apply, told};
use crate::world::{LEAF, OTHER_TOKEN, PATIENCE, TOKEN, client, client_of, question, route};

const NAMESPACE: &str = "srchat-sessions";

fn leaf(of: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Secret {
    let data = [
        ("tls.crt", of.cert.pem()),
        ("tls.key", of.signing_key.serialize_pem()),
        ("ca.crt", of.cert.pem()),
    ];
    let data = data.map(|(name, pem)| (name.to_owned(), ByteString(pem.into_bytes())));
    let mut secret = Secret {
        data: Some(BTreeMap::from(data)),
        ..Secret::default()
    };
    secret.metadata.name = Some("srchat-gateway-tls".to_owned());
    secret
}

struct Outside {
    address: SocketAddr,
}

impl Outside {
    async fn chat(&self, http: &Client, token: &str) -> Result<u16, String> {
        let url = format!(
            "https://localhost:{}/team-a/vision/v1/chat/completions",
            self.address.port()
        );
        let sent = http
            .post(url)
            .bearer_auth(token)
            .json(&question(false))
            .send()
            .await;
        sent.map(|answer| answer.status().as_u16())
            .map_err(|error| format!("{error:?}"))
    }

    async fn becomes(&self, http: &Client, token: &str, status: u16) {
        let look = async || match self.chat(http, token).await {
            Ok(seen) if seen == status => Ok(()),
            other => Err(format!("{other:?}")),
        };
        eventually(&format!("a chat is answered {status}"), PATIENCE, look).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_follows_the_cluster_and_outlives_its_absence() {
    let mut control_plane = ControlPlane::start().await.unwrap();
    control_plane.apply_rendered().unwrap();
    let secrets: Api<Secret> = Api::namespaced(control_plane.client().await.unwrap(), NAMESPACE);
    let engine = ScriptedEngine::start(Script::default()).await.unwrap();
    let host = Deployed::start(engine.port()).await.unwrap();
    let serving = |token| Route {
        host: Some(host.route.clone()),
        ..route("uid-1", token)
    };
    apply(&secrets, &leaf(&LEAF)).await;
    apply(&secrets, &serving(TOKEN).to_secret(NAMESPACE)).await;

    let place = Workplace::new("gateway").unwrap();
    let kubeconfig = control_plane
        .kubeconfig_of("srchat-system", "srchat-gateway")
        .await
        .unwrap();
    let mut command = Command::new(OperatorBinaries::build().await.unwrap().operator);
    command.env("KUBECONFIG", kubeconfig).args([
        "gateway",
        "--log-format",
        "json",
        "--listen",
        "127.0.0.1:0",
    ]);
    command.args([
        "--metrics-listen",
        "127.0.0.1:0",
        "--sessions-namespace",
        NAMESPACE,
    ]);
    let mut gateway = Process::start("gateway", command, place.path()).unwrap();
    let outside = Outside {
        address: told(&gateway, "address").await,
    };
    let metrics = format!("http://{}", told(&gateway, "metrics").await);
    let plain = Client::builder().no_proxy().build().unwrap();
    let look = async || match plain.get(format!("{metrics}/readyz")).send().await {
        Ok(answer) if answer.status() == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    };
    eventually("the gateway is ready", PATIENCE, look).await;
    let http = client();
    assert_eq!(outside.chat(&http, TOKEN).await, Ok(200));

    apply(
        &secrets,
        &Route {
            token: TokenHash::of(OTHER_TOKEN),
            ..serving(TOKEN)
        }
        .to_secret(NAMESPACE),
    )
    .await;
    outside.becomes(&http, TOKEN, 401).await;
    assert_eq!(outside.chat(&http, OTHER_TOKEN).await, Ok(200));

    let next = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    apply(&secrets, &leaf(&next)).await;
    let http = client_of(&next);
    outside.becomes(&http, OTHER_TOKEN, 200).await;

    control_plane.kill_api_server();
    let unreachable = secrets.get("srchat-gateway-tls").await;
    assert!(unreachable.is_err(), "the API server is gone");
    let fresh = client_of(&next);
    assert_eq!(outside.chat(&fresh, OTHER_TOKEN).await, Ok(200));
    assert_eq!(outside.chat(&fresh, TOKEN).await, Ok(401));

    control_plane.restart_api_server().await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(control_plane.client().await.unwrap(), NAMESPACE);
    secrets
        .delete("route-uid-1", &DeleteParams::default())
        .await
        .unwrap();
    outside.becomes(&http, OTHER_TOKEN, 401).await;

    let text = plain
        .get(format!("{metrics}/metrics"))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(text.contains(r#"gen_ai_client_token_usage_total{gen_ai_operation_name="chat",gen_ai_token_type="output"}"#), "{text}");
    assert!(
        !text.contains("vision") && !text.contains("team-a"),
        "{text}"
    );

    let log = std::fs::read_to_string(gateway.log()).unwrap();
    for secret in [TOKEN, OTHER_TOKEN, "PRIVATE KEY", "capital of France"] {
        assert!(!log.contains(secret), "the log tells a secret: {log}");
    }
    gateway.stop(PATIENCE);
    assert_eq!(
        gateway.ended().and_then(|status| status.code()),
        Some(0),
        "{}",
        gateway.tail()
    );
}

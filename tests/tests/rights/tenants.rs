//! Two tenants in two namespaces: neither sees, uses or ends what is the other's, at the API server or through a gateway.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::json;
use srchat_operator::gateway::Gateway;
use srchat_operator::metrics::Registry;
use srchat_operator::route::{Route, Stage, TokenHash};
use srchat_tests::deployed::Deployed;
use srchat_tests::scripted_engine::{Script, ScriptedEngine};
use tokio::net::TcpListener;

use crate::caller::{Caller, create, delete, get, patch};
use crate::stage::{SESSIONS, SYSTEM, Tenant, installed, pod, secret, secrets, session, sessions};

#[tokio::test]
async fn a_tenant_reaches_nothing_of_another_at_the_api_server() {
    let control_plane = installed().await;
    let admin = Caller::admin(control_plane).await;
    let (alice, bob) = tokio::join!(
        Tenant::new(control_plane, "alice"),
        Tenant::new(control_plane, "bob")
    );
    for (one, other) in [(&alice, &bob), (&bob, &alice)] {
        let (ours, theirs) = (&one.namespace, &other.namespace);
        let qwen = |namespace: &str| format!("{}/qwen", sessions(namespace));
        one.person
            .can(&[
                get(sessions(ours)),
                create(sessions(ours), session("second")),
                patch(
                    format!("{}/scale", qwen(ours)),
                    json!({"spec": {"replicas": 1}}),
                ),
                delete(qwen(ours)),
                get(format!("{}/qwen-chat", secrets(ours))),
                get(format!(
                    "/api/v1/namespaces/{ours}/configmaps/srchat-receipt-uid"
                )),
                get(format!("/apis/events.k8s.io/v1/namespaces/{ours}/events")),
            ])
            .await;
        one.person
            .cannot(
                &admin,
                &[
                    // See.
                    get("/apis/srchat.dev/v1alpha1/chatsessions"),
                    get(sessions(theirs)),
                    get(format!("{}?watch=1&timeoutSeconds=1", sessions(theirs))),
                    get(qwen(theirs)),
                    get(format!("{}/status", qwen(theirs))),
                    get(format!("{}/scale", qwen(theirs))),
                    get(secrets(theirs)),
                    get(format!("{}/qwen-chat", secrets(theirs))),
                    get(format!("/apis/events.k8s.io/v1/namespaces/{theirs}/events")),
                    get(format!(
                        "/api/v1/namespaces/{theirs}/configmaps/srchat-receipt-uid"
                    )),
                    get(format!("/api/v1/namespaces/{theirs}/pods")),
                    // Use.
                    create(sessions(theirs), session("mine")),
                    patch(
                        qwen(theirs),
                        json!({"spec": {"limits": {"lifetime": "1h"}}}),
                    ),
                    patch(
                        format!("{}/scale", qwen(theirs)),
                        json!({"spec": {"replicas": 1}}),
                    ),
                    patch(
                        format!("{}/status", qwen(theirs)),
                        json!({"status": {"observedGeneration": 1}}),
                    ),
                    create(secrets(theirs), secret("qwen-2-chat")),
                    patch(
                        format!("{}/qwen-chat", secrets(theirs)),
                        json!({"stringData": {"OPENAI_API_KEY": "mine"}}),
                    ),
                    create(format!("/api/v1/namespaces/{theirs}/pods"), pod("mine")),
                    // End.
                    delete(qwen(theirs)),
                    delete(sessions(theirs)),
                    patch(qwen(theirs), json!({"metadata": {"finalizers": []}})),
                    delete(format!("{}/qwen-chat", secrets(theirs))),
                    delete(format!("/api/v1/namespaces/{theirs}")),
                    // What the operator keeps of everybody.
                    get(secrets(SYSTEM)),
                    get(format!("{}/srchat-provider", secrets(SYSTEM))),
                    get(format!("{}/ledger-uid", secrets(SYSTEM))),
                    get(secrets(SESSIONS)),
                    get(format!("{}/route-uid", secrets(SESSIONS))),
                    patch(
                        format!("{}/route-uid", secrets(SESSIONS)),
                        json!({"stringData": {"key": "mine"}}),
                    ),
                    create(format!("/api/v1/namespaces/{SYSTEM}/pods"), pod("mine")),
                    // As somebody else.
                    get(sessions(theirs)).posing_as(other.person.name()),
                    get(secrets(SESSIONS))
                        .posing_as("system:serviceaccount:srchat-system:srchat-gateway"),
                    get(secrets(SYSTEM))
                        .posing_as("system:serviceaccount:srchat-system:srchat-controller"),
                ],
            )
            .await;
    }
}

#[tokio::test]
async fn a_session_can_name_no_model_token_of_another_namespace() {
    let control_plane = installed().await;
    let (alice, bob) = tokio::join!(
        Tenant::new(control_plane, "owner"),
        Tenant::new(control_plane, "thief")
    );
    let mut thief = session("thief");
    thief["spec"]["modelTokenSecretRef"] =
        json!({"name": "private", "key": "key", "namespace": alice.namespace});
    let asked = create(
        format!("{}?fieldValidation=Strict", sessions(&bob.namespace)),
        thief.clone(),
    );
    let (status, said) = bob.person.ask(&asked).await;
    assert!(
        status.is_client_error() && said.to_string().contains("namespace"),
        "{said}"
    );
    // Where fields are not checked, the field is dropped, and the name means the Secret beside the session.
    let (status, made) = bob
        .person
        .ask(&create(sessions(&bob.namespace), thief))
        .await;
    assert!(status.is_success(), "{made}");
    assert_eq!(
        made["spec"]["modelTokenSecretRef"],
        json!({"name": "private", "key": "key"})
    );
}

const ALICES: &str = "srchat_aaaaaaaa_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const BOBS: &str = "srchat_bbbbbbbb_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB";

/// A serving session `qwen` in a namespace of its own, on an engine and a host of its own.
async fn serving(
    gateway: &Gateway,
    uid: &str,
    namespace: &str,
    token: &str,
) -> (ScriptedEngine, Deployed) {
    let engine = ScriptedEngine::start(Script::default()).await.unwrap();
    let host = Deployed::start(engine.port()).await.unwrap();
    gateway.apply(Route {
        uid: uid.to_owned(),
        namespace: namespace.to_owned(),
        name: "qwen".to_owned(),
        token: TokenHash::of(token),
        stage: Stage::Serving,
        percent: None,
        message: String::new(),
        hourly: None,
        spend: None,
        spend_as_of: None,
        expiry: None,
        idle_seconds: None,
        ready: Some(jiff::Timestamp::now()),
        host: Some(host.route.clone()),
    });
    (engine, host)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_token_opens_nothing_of_another_at_the_gateway() {
    let leaf = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let gateway = Arc::new(Gateway::new(&mut Registry::default()).unwrap());
    gateway
        .set_leaf(
            leaf.cert.pem().as_bytes(),
            leaf.signing_key.serialize_pem().as_bytes(),
        )
        .unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn({
        let gateway = gateway.clone();
        async move { gateway.serve(listener).await }
    });
    let (alices, _alices_host) = serving(&gateway, "uid-a", "alice", ALICES).await;
    let (bobs, _bobs_host) = serving(&gateway, "uid-b", "bob", BOBS).await;
    let http = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(leaf.cert.pem().as_bytes()).unwrap()])
        .no_proxy()
        .build()
        .unwrap();
    let url =
        |namespace: &str, path: &str| format!("https://localhost:{port}/{namespace}/qwen/{path}");
    let question =
        json!({"model": "any", "messages": [{"role": "user", "content": "Whose are you?"}]});

    for (namespace, token) in [("alice", ALICES), ("bob", BOBS)] {
        let asked = http
            .post(url(namespace, "v1/chat/completions"))
            .bearer_auth(token)
            .json(&question);
        assert_eq!(asked.send().await.unwrap().status(), 200);
        let kept = http
            .put(url(namespace, "files/secret.txt"))
            .bearer_auth(token)
            .body(namespace);
        assert!(kept.send().await.unwrap().status().is_success());
    }
    let before = (alices.seen().len(), bobs.seen().len());
    for (namespace, token) in [("alice", BOBS), ("bob", ALICES)] {
        for request in [
            http.post(url(namespace, "v1/chat/completions"))
                .json(&question),
            http.get(url(namespace, "v1/models")),
            http.get(url(namespace, "files/")),
            http.get(url(namespace, "files/secret.txt")),
            http.put(url(namespace, "files/secret.txt")).body("mine"),
            http.delete(url(namespace, "files/secret.txt")),
            http.get(url(namespace, "logs")),
            http.get(url(namespace, "status")),
        ] {
            let answer = request.bearer_auth(token).send().await.unwrap();
            assert_eq!(answer.status(), 401, "{}", answer.url());
        }
    }
    assert_eq!(
        before,
        (alices.seen().len(), bobs.seen().len()),
        "no engine heard of it"
    );
    // A path that leaves the own files leads nowhere, whatever the client's library makes of it.
    for path in [
        "files/..%2F..%2Fsecret.txt",
        "files/%2e%2e/secret.txt",
        "files//etc/passwd",
    ] {
        let answer = http
            .get(url("bob", path))
            .bearer_auth(BOBS)
            .send()
            .await
            .unwrap();
        assert!(
            answer.status().is_client_error(),
            "{path}: {}",
            answer.status()
        );
    }
    for (namespace, token) in [("alice", ALICES), ("bob", BOBS)] {
        let kept = http
            .get(url(namespace, "files/secret.txt"))
            .bearer_auth(token)
            .send()
            .await
            .unwrap();
        assert_eq!(kept.text().await.unwrap(), namespace, "each has its own");
    }
    gateway.end();
}

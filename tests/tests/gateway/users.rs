//! Kubernetes tokens at the gateway, as a real API server says of them.

use std::sync::Arc;

use http::StatusCode;
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use srchat_operator::gateway::Gateway;
use srchat_operator::metrics;
use srchat_operator::route::Route;
use srchat_tests::cluster;
use srchat_tests::control_plane::ControlPlane;
use srchat_tests::deployed::Deployed;
use srchat_tests::eventually::eventually;
use srchat_tests::scripted_engine::{Pace, Script, ScriptedEngine};
use tokio::net::TcpListener;

use crate::world::{Events, LEAF, PATIENCE, TOKEN, client, question, route};

/// A gateway with a session `vision` in each of two namespaces.
struct Door {
    gateway: Arc<Gateway>,
    base: String,
    http: Client,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.gateway.end();
    }
}

impl Door {
    async fn open(gateway: Gateway, host: &Deployed, namespaces: &[&str]) -> Self {
        let gateway = Arc::new(gateway);
        let (chain, key) = (LEAF.cert.pem(), LEAF.signing_key.serialize_pem());
        gateway.set_leaf(chain.as_bytes(), key.as_bytes()).unwrap();
        for namespace in namespaces {
            gateway.apply(Route {
                namespace: (*namespace).to_owned(),
                host: Some(host.route.clone()),
                ..route(&format!("uid-{namespace}"), TOKEN)
            });
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!(
            "https://localhost:{}",
            listener.local_addr().unwrap().port()
        );
        let serving = gateway.clone();
        tokio::spawn(async move { serving.serve(listener).await });
        Self {
            gateway,
            base,
            http: client(),
        }
    }

    fn chat(&self, session: &str, token: &str, stream: bool) -> RequestBuilder {
        let url = format!("{}/{session}/v1/chat/completions", self.base);
        self.http
            .post(url)
            .bearer_auth(token)
            .json(&question(stream))
    }

    async fn chats(&self, session: &str, token: &str) -> u16 {
        let answer = self.chat(session, token, false).send().await.unwrap();
        answer.status().as_u16()
    }

    async fn lists(&self, session: &str, token: &str) -> u16 {
        let url = format!("{}/{session}/files/", self.base);
        let answer = self.http.get(url).bearer_auth(token).send().await;
        answer.unwrap().status().as_u16()
    }

    async fn becomes(&self, session: &str, token: &str, status: StatusCode) {
        let what = format!("{session} answers {status}");
        eventually(&what, PATIENCE, || async {
            match self.chats(session, token).await {
                seen if seen == status.as_u16() => Ok(()),
                seen => Err(seen),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_users_token_opens_what_its_rights_say_and_no_longer_than_they_last() {
    let mut control_plane = ControlPlane::start().await.unwrap();
    control_plane.apply_rendered().unwrap();
    let kubectl = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        control_plane.kubectl_with(&words, "").unwrap()
    };
    for namespace in ["team-a", "team-b"] {
        kubectl(&format!("create namespace {namespace}"));
    }
    for user in ["alice", "bob", "carol"] {
        kubectl(&format!("create serviceaccount {user} -n team-a"));
    }
    for (role, user, right) in [("chat", "alice", "chat"), ("files", "bob", "files")] {
        let manifest = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": role, "namespace": "team-a"},
            "rules": [{"apiGroups": ["srchat.dev"], "resources": [format!("chatsessions/{right}")], "verbs": ["create"],
                "resourceNames": ["vision"]}],
        });
        let applied = control_plane.kubectl_with(&["apply", "-f", "-"], &manifest.to_string());
        applied.unwrap();
        kubectl(&format!(
            "create rolebinding {user} -n team-a --role={role} --serviceaccount=team-a:{user}"
        ));
    }
    let bind = "create rolebinding alice -n team-a --role=chat --serviceaccount=team-a:alice";
    let token = |user: &str, audience: &str| {
        let made = kubectl(&format!(
            "create token {user} -n team-a --audience={audience}"
        ));
        made.trim().to_owned()
    };
    let (alice, bob, carol) = (
        token("alice", "srchat"),
        token("bob", "srchat"),
        token("carol", "srchat"),
    );
    let not_for_us = token("alice", "https://kubernetes.default.svc");
    let forged = format!("{}x", alice.rsplit_once('.').unwrap().0) + ".c2lnbmF0dXJl";

    let engine = ScriptedEngine::start(Script::default()).await.unwrap();
    let host = Deployed::start(engine.port()).await.unwrap();
    let account = control_plane.kubeconfig_of("srchat-system", "srchat-gateway");
    let of_gateway = cluster::client(&account.await.unwrap()).await.unwrap();
    let new = || Gateway::new(&mut metrics::Registry::default()).unwrap();
    let both = ["team-a", "team-b"];
    let door = Door::open(new().admitting_users(of_gateway), &host, &both).await;
    let closed = Door::open(new(), &host, &both).await;

    assert_eq!(door.chats("team-a/vision", &alice).await, 200);
    assert_eq!(
        door.lists("team-a/vision", &alice).await,
        401,
        "a right of its own"
    );
    assert_eq!(door.chats("team-a/vision", &bob).await, 401);
    assert_eq!(door.lists("team-a/vision", &bob).await, 200);
    for (session, token, why) in [
        ("team-a/vision", &carol, "she has no right"),
        ("team-b/vision", &alice, "another namespace"),
        ("team-a/none", &alice, "no such session"),
        ("team-a/vision", &not_for_us, "made for the API server"),
        ("team-a/vision", &forged, "signed by nobody"),
    ] {
        assert_eq!(door.chats(session, token).await, 401, "{why}");
    }
    assert_eq!(
        door.chats("team-a/vision", TOKEN).await,
        200,
        "the session's own"
    );
    assert_eq!(
        closed.chats("team-a/vision", &alice).await,
        401,
        "off unless asked for"
    );

    // What was granted ends with the right to it, in the middle of an answer too.
    engine.follow(Script {
        pace: Pace::Stepped,
        ..Script::default()
    });
    let mut events = Events::of(
        door.chat("team-a/vision", &alice, true)
            .send()
            .await
            .unwrap(),
    );
    engine.step(1);
    events.json().await;
    kubectl("delete rolebinding alice -n team-a");
    let last = events.json().await;
    assert_eq!(last["error"]["code"], "invalid_api_key");
    assert_eq!(events.next().await, None);
    engine.follow(Script::default());
    assert_eq!(door.chats("team-a/vision", &alice).await, 401);
    kubectl(bind);
    door.becomes("team-a/vision", &alice, StatusCode::OK).await;

    // A session that goes takes its users with it, and one made anew under the name has users of its own.
    door.gateway.remove("uid-team-a");
    assert_eq!(door.chats("team-a/vision", &alice).await, 401);
    door.gateway.apply(Route {
        host: Some(host.route.clone()),
        ..route("uid-2", TOKEN)
    });
    door.becomes("team-a/vision", &alice, StatusCode::OK).await;

    // While the API server is away, what it said last holds, and nothing new is believed.
    control_plane.kill_api_server();
    assert_eq!(door.chats("team-a/vision", &alice).await, 200);
    let answer = door
        .chat("team-a/vision", &bob, false)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(body["error"]["code"], "token_unverified");
    assert_eq!(door.chats("team-a/vision", TOKEN).await, 200);
}

//! A certificate of one's own that has expired or is for another name: what a person is told by a real handshake, what the gateway
//! says of itself, and that a renewed Secret is enough.

use std::collections::BTreeMap;
use std::process::Command;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::json;
use srchat_crds::ChatSession;
use srchat_operator::route::Route;
use srchat_tests::control_plane::ControlPlane;
use srchat_tests::deployed::Deployed;
use srchat_tests::eventually::eventually;
use srchat_tests::operator_binaries::OperatorBinaries;
use srchat_tests::process::{Process, Workplace};
use srchat_tests::scripted_engine::{Script, ScriptedEngine};

use crate::process::{apply, told};
use crate::world::{PATIENCE, TOKEN, route};

const SESSIONS: &str = "srchat-sessions";
/// As `gateway.tls.secretName` names it.
const OWN: &str = "own-certificate";
/// The namespace and the session of [`route`].
const TEAM: &str = "team-a";
const NAME: &str = "vision";

/// An authority of one's own, which signs what it is asked for.
struct Authority(rcgen::CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(rcgen::CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// The Secret with a certificate for this name that is good until the end of this year.
    fn secret(&self, name: &str, year: i32) -> Secret {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 12, 31);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap();
        let data = [("tls.crt", leaf.pem()), ("tls.key", key.serialize_pem())];
        secret(OWN, &data)
    }
}

fn secret(name: &str, data: &[(&str, String)]) -> Secret {
    let part =
        |(name, text): &(&str, String)| ((*name).to_owned(), ByteString(text.clone().into_bytes()));
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(data.iter().map(part).collect::<BTreeMap<_, _>>()),
        ..Secret::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_expired_or_is_for_another_name_is_said_and_a_renewed_one_is_served() {
    let control_plane = ControlPlane::shared().await;
    control_plane.apply_rendered().unwrap();
    let client = control_plane.client().await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), SESSIONS);
    let engine = ScriptedEngine::start(Script::default()).await.unwrap();
    let host = Deployed::start(engine.port()).await.unwrap();
    let serving = Route {
        host: Some(host.route.clone()),
        ..route("uid-1", TOKEN)
    };
    apply(&secrets, &serving.to_secret(SESSIONS)).await;
    let authority = Authority::new();
    apply(&secrets, &authority.secret("localhost", 2021)).await;

    let place = Workplace::new("certificates").unwrap();
    let kubeconfig = control_plane
        .kubeconfig_of("srchat-system", "srchat-gateway")
        .await
        .unwrap();
    let binaries = OperatorBinaries::build().await.unwrap();
    let mut command = Command::new(&binaries.operator);
    command.env("KUBECONFIG", kubeconfig).args([
        "gateway",
        "--log-format=json",
        "--listen=127.0.0.1:0",
        "--metrics-listen=127.0.0.1:0",
        "--tls-secret",
        OWN,
        "--sessions-namespace",
        SESSIONS,
    ]);
    let gateway = Process::start("gateway", command, place.path()).unwrap();
    let port = told(&gateway, "address").await.port();
    let metrics = format!("http://{}", told(&gateway, "metrics").await);
    let plain = reqwest::Client::builder().no_proxy().build().unwrap();

    // What a session's owner has: the object, and the Secret with URL, token and authority.
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let team = Namespace {
        metadata: ObjectMeta {
            name: Some(TEAM.to_owned()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    namespaces
        .create(&PostParams::default(), &team)
        .await
        .unwrap();
    let url = format!("https://localhost:{port}/{TEAM}/{NAME}/v1");
    let published = [
        ("OPENAI_BASE_URL", url.clone()),
        ("OPENAI_API_KEY", TOKEN.to_owned()),
        ("ca.crt", authority.0.pem()),
    ];
    apply(
        &Api::namespaced(client.clone(), TEAM),
        &secret("vision-chat", &published),
    )
    .await;
    let sessions: Api<ChatSession> = Api::namespaced(client.clone(), TEAM);
    let session: ChatSession = serde_json::from_value(json!({
        "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession", "metadata": {"name": NAME},
        "spec": {"model": "a/b"},
    }))
    .unwrap();
    let made = eventually("the resource to be served", PATIENCE, || async {
        sessions.create(&PostParams::default(), &session).await
    })
    .await;
    let now = made.metadata.creation_timestamp.unwrap();
    let status = json!({"status": {
        "endpoint": {"url": url, "credentialsSecretRef": {"name": "vision-chat"}},
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "Serving", "message": "Serving.",
            "lastTransitionTime": now, "observedGeneration": made.metadata.generation,
        }],
    }});
    sessions
        .patch_status(NAME, &PatchParams::default(), &Patch::Merge(&status))
        .await
        .unwrap();

    let srchat = |arguments: &[&str]| {
        let arguments = [&["-n", TEAM], arguments].concat();
        let ran = binaries.srchat(control_plane.kubeconfig(), &arguments);
        ran.unwrap()
    };
    let until = async |sentence: &str| {
        let look = async || {
            let (_, said) = srchat(&["ask", NAME, "Hi"]);
            said.contains(sentence).then_some(()).ok_or(said)
        };
        eventually(&format!("it is said that {sentence}"), PATIENCE, look).await;
    };
    let everywhere = |sentence: &str, hint: &str| {
        for verb in [
            &["ask", NAME, "Hi"][..],
            &["attach", NAME, "Hi"],
            &["files", "ls", NAME],
            &["doctor"],
        ] {
            let (code, said) = srchat(verb);
            // A chat goes on after a message that could not be answered, and ends as it is left.
            let expected = if verb[0] == "attach" { 0 } else { 1 };
            assert_eq!(code, Some(expected), "{verb:?}: {said}");
            assert!(said.contains(sentence), "{verb:?}: {said}");
            assert!(said.contains(hint), "{verb:?}: {said}");
        }
    };

    until("expired on 2021-12-31").await;
    everywhere(
        "the certificate of localhost expired on 2021-12-31",
        "renews the Secret of gateway.tls",
    );
    let log = std::fs::read_to_string(gateway.log()).unwrap();
    assert!(
        log.contains("the certificate has expired and clients refuse it"),
        "{log}"
    );
    assert!(log.contains(OWN) && log.contains("2021-12-31"), "{log}");
    let text = plain
        .get(format!("{metrics}/metrics"))
        .send()
        .await
        .unwrap();
    let text = text.text().await.unwrap();
    // 2021-12-31, 00:00 UTC.
    assert!(
        text.contains("srchat_gateway_certificate_expires_seconds 1640908800"),
        "{text}"
    );

    apply(&secrets, &authority.secret("elsewhere.example", 2040)).await;
    until("for elsewhere.example").await;
    everywhere(
        "the certificate is for elsewhere.example, and not for localhost",
        "sets gateway.url to a name that it has",
    );

    let stranger = Authority::new();
    apply(&secrets, &stranger.secret("localhost", 2040)).await;
    until("of an authority that nobody here trusts").await;

    // A renewed Secret is all that it takes.
    apply(&secrets, &authority.secret("localhost", 2040)).await;
    let look = async || match srchat(&["ask", NAME, "Hi"]) {
        (Some(0), _) => Ok(()),
        (_, said) => Err(said),
    };
    eventually("the renewed certificate is served", PATIENCE, look).await;
    let (_, said) = srchat(&["doctor"]);
    assert!(said.contains("ok  gateway"), "{said}");
}

//! What the gateways know of one session: the Secret `route-<uid>` in the sessions' namespace, written by the controller, read by
//! every gateway. Fields that are unknown are ignored on reading, so that the two may be of different versions for a while.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use srchat_crds::{Dollars, LABEL_MANAGED_BY, LABEL_SESSION, LABEL_UID, MANAGED_BY};

use crate::ssh::{HostKey, KeyPair};

/// The key within the Secret.
pub const DATA_KEY: &str = "route.json";

/// One session, as far as a gateway needs to know it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// UID of the `ChatSession`.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The token that opens it; without one, every request is a 401.
    pub token: Option<TokenHash>,
    /// How far it has come.
    pub stage: Stage,
    /// Of the stage, 0 to 100, where it can be told.
    pub percent: Option<u8>,
    /// One sentence for people, as in `status.startup.message`.
    #[serde(default)]
    pub message: String,
    /// The rate an hour while something is rented.
    pub hourly: Option<Dollars>,
    /// What was spent up to [`Route::spend_as_of`].
    pub spend: Option<Dollars>,
    /// The moment of [`Route::spend`]; the live cost adds [`Route::hourly`] since then.
    pub spend_as_of: Option<Timestamp>,
    /// The earliest of lifetime and budget.
    pub expiry: Option<Expiry>,
    /// `limits.idle` in seconds; `None` when it is turned off.
    pub idle_seconds: Option<u64>,
    /// When the model was first served in this run; idleness counts from here or from the last activity.
    pub ready: Option<Timestamp>,
    /// The deployed host; its absence closes the endpoint.
    pub host: Option<RouteHost>,
}

/// `srchat_<id>_<secret>` as it is kept: its id, and the SHA-256 of the whole token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenHash {
    /// The eight characters between the underscores.
    pub id: String,
    /// SHA-256 of the whole token, 64 lower-case hex digits.
    pub sha256: String,
}

impl TokenHash {
    /// The hash of a token `srchat_<8 id>_<43 base64url>`; `None` when it has another form.
    pub fn of(token: &str) -> Option<Self> {
        let (id, secret) = token.strip_prefix("srchat_")?.split_once('_')?;
        // 32 bytes in base64url without padding are 43 characters.
        let formed = id.len() == 8
            && id.bytes().all(|c| c.is_ascii_alphanumeric())
            && secret.len() == 43
            && secret
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_');
        formed.then(|| Self {
            id: id.to_owned(),
            sha256: hex::encode(Sha256::digest(token.as_bytes())),
        })
    }
}

/// Where a session is between being applied and being gone: `status.startup.stage`, and what lies around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Nothing is wanted (`replicas: 0`).
    Paused,
    /// The model is being looked up and an offer chosen.
    Planning,
    /// A pod is being asked for.
    Renting,
    /// The pod exists and has not yet shown its key.
    Booting,
    /// The first connection is being made.
    Connecting,
    /// The engine is being installed.
    Installing,
    /// The weights are on their way.
    Downloading,
    /// The engine is loading the weights.
    Loading,
    /// The model answers.
    Serving,
    /// A limit was reached, or the session is being deleted.
    Ended,
    /// Written by a newer controller.
    #[serde(other)]
    Other,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// When the run ends, and by which limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiry {
    /// The moment.
    pub time: Timestamp,
    /// `Lifetime` or `Budget`.
    pub reason: String,
}

/// How the gateways reach the engine and the files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteHost {
    /// sshd's public address, `host:port`.
    pub address: String,
    /// The pin.
    pub host_key: HostKey,
    /// The account that the gateways' key opens; `srchat-gw` wherever the host has users.
    pub user: String,
    /// The gateways' key.
    #[serde(with = "crate::ssh::openssh_pem")]
    pub key: KeyPair,
    /// The engine's port on the pod's loopback.
    pub engine_port: u16,
    /// Absolute path of the folder that holds the session's files.
    pub files_dir: String,
    /// What the engine knows the model as; every request's `model` is rewritten to it.
    pub served_name: String,
    /// Context length in tokens.
    pub max_model_len: u32,
    /// Which engine it is.
    pub engine: Engine,
    /// What it can do.
    pub abilities: Abilities,
    /// How many bytes of files may be kept.
    pub upload_quota: u64,
    /// Where they are kept.
    pub medium: Medium,
}

/// The model server on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Engine {
    /// vLLM.
    #[serde(rename = "VLLM")]
    Vllm,
    /// `transformers serve`.
    Transformers,
    /// llama.cpp's `llama-server`.
    LlamaCpp,
}

/// What the engine can do with this model; what it cannot do is refused by the gateway instead of being ignored by the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Abilities {
    /// `/v1/chat/completions`.
    pub chat: bool,
    /// `/v1/completions`.
    pub completions: bool,
    /// `/v1/embeddings`.
    pub embeddings: bool,
    /// `/v1/responses`.
    pub responses: bool,
    /// `tools` and `tool_choice`.
    pub tools: bool,
    /// `response_format` other than text.
    pub structured_output: bool,
    /// `image_url` parts.
    pub vision: bool,
}

/// What holds the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Medium {
    /// `/dev/shm`.
    Memory,
    /// The pod's disk.
    Disk,
}

/// A Secret that is not a route.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has no `route.json`.
    #[error("the Secret holds no {DATA_KEY}")]
    Missing,
    /// Its JSON is not a route. Line and column only: serde's own sentence may quote a secret.
    #[error("{DATA_KEY} is not a route (line {line}, column {column})")]
    Malformed {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
}

impl Route {
    /// What the names of routes' Secrets begin with.
    pub const PREFIX: &str = "route-";

    /// The Secret's name for a session's UID.
    pub fn secret_name(uid: &str) -> String {
        format!("{}{uid}", Self::PREFIX)
    }

    /// The Secret that carries this route, for a server-side apply.
    pub fn to_secret(&self, sessions_namespace: &str) -> Secret {
        let json =
            serde_json::to_vec(self).expect("a route has string keys and finite numbers only");
        Secret {
            metadata: ObjectMeta {
                name: Some(Self::secret_name(&self.uid)),
                namespace: Some(sessions_namespace.to_owned()),
                labels: Some(BTreeMap::from([
                    (LABEL_SESSION.to_owned(), self.name.clone()),
                    (LABEL_UID.to_owned(), self.uid.clone()),
                    (LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned()),
                ])),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(DATA_KEY.to_owned(), ByteString(json))])),
            ..Secret::default()
        }
    }

    /// Reads a route back from its Secret.
    pub fn from_secret(secret: &Secret) -> Result<Self, Error> {
        let json = secret
            .data
            .as_ref()
            .and_then(|data| data.get(DATA_KEY))
            .ok_or(Error::Missing)?;
        serde_json::from_slice(&json.0).map_err(|e| Error::Malformed {
            line: e.line(),
            column: e.column(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::LazyLock;

    use super::*;

    fn key() -> KeyPair {
        static KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate().unwrap());
        KEY.clone()
    }

    fn route() -> Route {
        Route {
            uid: "u1".into(),
            namespace: "team-a".into(),
            name: "vision".into(),
            token: TokenHash::of(&format!("srchat_abcd1234_{}", "x".repeat(43))),
            stage: Stage::Serving,
            percent: None,
            message: String::new(),
            hourly: Some("0.79".parse().unwrap()),
            spend: Some("0.05".parse().unwrap()),
            spend_as_of: Some(Timestamp::UNIX_EPOCH),
            expiry: Some(Expiry {
                time: Timestamp::UNIX_EPOCH,
                reason: "Lifetime".into(),
            }),
            idle_seconds: Some(1800),
            ready: None,
            host: Some(RouteHost {
                address: "127.0.0.1:22".into(),
                host_key: key().public(),
                user: "srchat-gw".into(),
                key: key(),
                engine_port: 8000,
                files_dir: "/dev/shm/srchat/files".into(),
                served_name: "m".into(),
                max_model_len: 4096,
                engine: Engine::LlamaCpp,
                abilities: Abilities {
                    chat: true,
                    ..Abilities::default()
                },
                upload_quota: 1 << 30,
                medium: Medium::Memory,
            }),
        }
    }

    #[test]
    fn a_route_survives_its_secret() {
        let secret = route().to_secret("srchat-sessions");
        assert_eq!(secret.metadata.name.as_deref(), Some("route-u1"));
        assert_eq!(Route::from_secret(&secret).unwrap(), route());
    }

    #[test]
    fn nothing_of_the_private_key_is_printed() {
        let pem = serde_json::to_value(route()).unwrap()["host"]["key"].clone();
        assert!(pem.as_str().unwrap().contains("OPENSSH PRIVATE KEY"));
        let body = pem.as_str().unwrap().lines().nth(1).unwrap().to_owned();
        let shown = format!("{:?}", route());
        assert!(
            !shown.contains("PRIVATE") && !shown.contains(&body),
            "{shown}"
        );
    }

    #[test]
    fn fields_and_stages_of_a_newer_controller_are_tolerated() {
        let mut json = serde_json::to_value(route()).unwrap();
        json["stage"] = "Dreaming".into();
        json["host"]["abilities"]["audio"] = true.into();
        json["colour"] = "blue".into();
        let read: Route = serde_json::from_value(json).unwrap();
        assert_eq!(read.stage, Stage::Other);
    }

    #[test]
    fn a_malformed_route_is_refused_without_quoting_it() {
        let mut secret = route().to_secret("s");
        let data = BTreeMap::from([(
            DATA_KEY.to_owned(),
            ByteString(b"{\"uid\": \"topsecret\", \"stage\": 1}".to_vec()),
        )]);
        secret.data = Some(data);
        let error = Route::from_secret(&secret).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("topsecret"));
    }

    #[test]
    fn only_tokens_of_our_form_have_a_hash() {
        let secret = "A".repeat(43);
        assert!(TokenHash::of(&format!("srchat_abcd1234_{secret}")).is_some());
        for wrong in [
            String::new(),
            "srchat_".into(),
            format!("srchat_abcd123_{secret}"),
            format!("srchat_abcd1234_{secret}A"),
            format!("srchat_abcd123é_{secret}"),
            format!("other_abcd1234_{secret}"),
        ] {
            assert_eq!(TokenHash::of(&wrong), None, "{wrong}");
        }
    }
}

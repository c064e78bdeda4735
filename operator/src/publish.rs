//! What a session gives to its users: a token, the Secret that holds it, and the route that admits its hash.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, Client, Resource as _};
use secrecy::{ExposeSecret as _, SecretString};
use srchat_crds::{ChatSession, LABEL_MANAGED_BY, LABEL_SESSION, LABEL_UID, MANAGED_BY};

use crate::installation::random;
use crate::route::{Route, TokenHash};

const URL: &str = "OPENAI_BASE_URL";
const TOKEN: &str = "OPENAI_API_KEY";
const CA: &str = "ca.crt";

/// What opens one session: `srchat_<8 characters>_<32 random bytes in base64url>`.
#[derive(Clone)]
pub struct Token(SecretString);

impl Token {
    /// A new one.
    pub fn new() -> Self {
        let id = hex::encode(random::<4>());
        let secret = URL_SAFE_NO_PAD.encode(random::<32>());
        Self(SecretString::from(format!("srchat_{id}_{secret}")))
    }

    /// What the gateways keep of it.
    pub fn hash(&self) -> Option<TokenHash> {
        TokenHash::of(self.0.expose_secret())
    }
}

impl Default for Token {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The Secret beside the session, as it was found.
#[derive(Clone, Debug)]
pub enum Published {
    /// There is none.
    Missing,
    /// One of that name belongs to somebody else, and is never written.
    Taken,
    /// We have no right to Secrets in that namespace.
    Forbidden,
    /// Ours.
    Ours {
        /// The token in it, where it has the form of one.
        token: Option<Token>,
        /// Whether URL or CA in it are not today's.
        stale: bool,
        /// As it was read, for a PUT of that version.
        found: Box<Secret>,
    },
}

/// What of the published Secret is the same for all sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Front {
    /// The gateways' public base URL, without a slash at its end.
    pub gateway_url: String,
    /// PEM of what clients should trust; empty where they trust it anyway.
    pub ca: String,
}

impl Front {
    /// The base URL of one session, as OpenAI's clients want it.
    pub fn endpoint(&self, namespace: &str, name: &str) -> String {
        format!("{}/{namespace}/{name}/v1", self.gateway_url)
    }

    /// Reads the Secret of a session.
    pub async fn look(
        &self,
        client: &Client,
        session: &ChatSession,
    ) -> Result<Published, kube::Error> {
        let found = secrets(client, session)
            .get_opt(&session.published_secret())
            .await;
        match found {
            Ok(Some(found)) => Ok(self.judge(session, found)),
            Ok(None) => Ok(Published::Missing),
            // A fact, and no failure: a session that ends needs no Secret, and must not wait for the right to look at one.
            Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(Published::Forbidden),
            Err(error) => Err(error),
        }
    }

    /// Makes the Secret right; `None` when its name is taken or the right to look is gone. Keeps the token that is in it, or makes one.
    pub async fn publish(
        &self,
        client: &Client,
        session: &ChatSession,
    ) -> Result<Option<Token>, kube::Error> {
        let api = secrets(client, session);
        match self.look(client, session).await? {
            Published::Taken | Published::Forbidden => Ok(None),
            Published::Ours {
                token: Some(token),
                stale: false,
                found: _,
            } => Ok(Some(token)),
            Published::Ours {
                token,
                stale: _,
                found,
            } => {
                let token = token.unwrap_or_default();
                let metadata = found.metadata;
                let secret = Secret {
                    metadata,
                    ..self.secret(session, &token)
                };
                // Of the version that was read: what became another's meanwhile is a conflict, and looked at again.
                api.replace(&session.published_secret(), &PostParams::default(), &secret)
                    .await?;
                Ok(Some(token))
            }
            Published::Missing => {
                let token = Token::new();
                match api
                    .create(&PostParams::default(), &self.secret(session, &token))
                    .await
                {
                    Ok(_) => Ok(Some(token)),
                    Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(None),
                    Err(error) => Err(error),
                }
            }
        }
    }

    fn judge(&self, session: &ChatSession, found: Secret) -> Published {
        let owners = found
            .metadata
            .owner_references
            .as_deref()
            .unwrap_or_default();
        let uid = session.metadata.uid.as_deref().unwrap_or_default();
        if uid.is_empty() || !owners.iter().any(|owner| owner.uid == uid) {
            return Published::Taken;
        }
        let text = |key: &str| {
            let value = found.data.as_ref().and_then(|data| data.get(key));
            value.and_then(|value| std::str::from_utf8(&value.0).ok())
        };
        let token = text(TOKEN).map(|token| Token(SecretString::from(token.to_owned())));
        let token = token.filter(|token| token.hash().is_some());
        let (namespace, name) = place(session);
        let stale = text(URL) != Some(&self.endpoint(namespace, name))
            || text(CA).unwrap_or_default() != self.ca;
        Published::Ours {
            token,
            stale,
            found: Box::new(found),
        }
    }

    fn secret(&self, session: &ChatSession, token: &Token) -> Secret {
        let (namespace, name) = place(session);
        let part = |key: &str, value: &str| (key.to_owned(), ByteString(value.as_bytes().to_vec()));
        Secret {
            metadata: ObjectMeta {
                name: Some(session.published_secret()),
                namespace: Some(namespace.to_owned()),
                labels: Some(labels(session)),
                owner_references: session.controller_owner_ref(&()).map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            data: Some(
                [
                    Some(part(URL, &self.endpoint(namespace, name))),
                    Some(part(TOKEN, token.0.expose_secret())),
                    (!self.ca.is_empty()).then(|| part(CA, &self.ca)),
                ]
                .into_iter()
                .flatten()
                .collect(),
            ),
            ..Secret::default()
        }
    }
}

/// The routes, in the namespace that controller and gateways share.
#[derive(Clone)]
pub struct Routes {
    api: Api<Secret>,
    namespace: String,
}

impl Routes {
    /// The routes of this namespace.
    pub fn new(client: Client, sessions_namespace: &str) -> Self {
        Self {
            api: Api::namespaced(client, sessions_namespace),
            namespace: sessions_namespace.to_owned(),
        }
    }

    /// The route of a session; one that cannot be read counts as none, and is written again.
    pub async fn get(&self, uid: &str) -> Result<Option<Route>, kube::Error> {
        let found = self.api.get_opt(&Route::secret_name(uid)).await?;
        Ok(found.and_then(|found| Route::from_secret(&found).ok()))
    }

    /// Writes a route. The controller is its only writer, so what is there is replaced whole; an equal one is not written.
    pub async fn put(&self, route: &Route) -> Result<(), kube::Error> {
        let name = Route::secret_name(&route.uid);
        let secret = route.to_secret(&self.namespace);
        let Some(found) = self.api.get_opt(&name).await? else {
            return self
                .api
                .create(&PostParams::default(), &secret)
                .await
                .map(|_| ());
        };
        if found.data == secret.data && found.metadata.labels == secret.metadata.labels {
            return Ok(());
        }
        let metadata = ObjectMeta {
            resource_version: found.metadata.resource_version,
            ..secret.metadata
        };
        let secret = Secret { metadata, ..secret };
        self.api
            .replace(&name, &PostParams::default(), &secret)
            .await
            .map(|_| ())
    }

    /// The UIDs that have a route.
    pub async fn uids(&self) -> Result<Vec<String>, kube::Error> {
        let ours = ListParams::default().labels(&format!("{LABEL_MANAGED_BY}={MANAGED_BY}"));
        let routes = self.api.list_metadata(&ours).await?.items.into_iter();
        let uid = |name: String| {
            name.strip_prefix(&Route::secret_name(""))
                .map(str::to_owned)
        };
        Ok(routes
            .filter_map(|route| uid(route.metadata.name?))
            .collect())
    }

    /// Deletes a route; one that is not there is deleted.
    pub async fn drop_of(&self, uid: &str) -> Result<(), kube::Error> {
        match self
            .api
            .delete(&Route::secret_name(uid), &DeleteParams::default())
            .await
        {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            outcome => outcome.map(|_| ()),
        }
    }
}

/// Deletes the published Secret of this very session, so that its token leaves with the route that admitted it. The garbage
/// collector would do the same once the session is gone.
pub async fn retract(
    client: &Client,
    session: &ChatSession,
    found: &Secret,
) -> Result<(), kube::Error> {
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: found.metadata.uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match secrets(client, session)
        .delete(&session.published_secret(), &params)
        .await
    {
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        outcome => outcome.map(|_| ()),
    }
}

fn secrets(client: &Client, session: &ChatSession) -> Api<Secret> {
    Api::namespaced(client.clone(), place(session).0)
}

fn place(session: &ChatSession) -> (&str, &str) {
    let metadata = &session.metadata;
    (
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

fn labels(session: &ChatSession) -> BTreeMap<String, String> {
    let of = |value: Option<&String>| value.cloned().unwrap_or_default();
    BTreeMap::from([
        (LABEL_SESSION.to_owned(), of(session.metadata.name.as_ref())),
        (LABEL_UID.to_owned(), of(session.metadata.uid.as_ref())),
        (LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned()),
    ])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn session(uid: &str) -> ChatSession {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession",
            "metadata": {"name": "qwen", "namespace": "team-a", "uid": uid},
            "spec": {"model": "Qwen/Qwen3-8B"},
        }))
        .unwrap()
    }

    fn front() -> Front {
        Front {
            gateway_url: "https://chat.example".into(),
            ca: "PEM".into(),
        }
    }

    #[test]
    fn a_certificate_that_everybody_trusts_needs_no_authority_beside_it() {
        let public = Front {
            ca: String::new(),
            ..front()
        };
        let (own, token) = (session("u1"), Token::new());
        let secret = public.secret(&own, &token);
        assert_eq!(
            secret.data.as_ref().unwrap().keys().collect::<Vec<_>>(),
            [TOKEN, URL]
        );
        let stale = |front: &Front, secret| match front.judge(&own, secret) {
            Published::Ours { stale, .. } => stale,
            other => panic!("{other:?}"),
        };
        assert!(!stale(&public, secret.clone()));
        assert!(stale(&front(), secret), "an authority is added later");
        assert!(
            stale(&public, front().secret(&own, &token)),
            "and taken away"
        );
    }

    #[test]
    fn a_token_has_the_form_that_gateways_expect_and_never_repeats() {
        let tokens = [Token::new(), Token::new()];
        let [a, b] = tokens.each_ref().map(|token| token.hash().unwrap());
        assert_ne!(a.sha256, b.sha256);
        assert_eq!(format!("{:?}", tokens[0]), "Token(..)");
    }

    #[test]
    fn what_was_published_is_recognized_with_its_token() {
        let token = Token::new();
        let secret = front().secret(&session("u1"), &token);
        let Published::Ours {
            token: Some(found),
            stale: false,
            ..
        } = front().judge(&session("u1"), secret)
        else {
            panic!("it is ours and as it should be");
        };
        assert_eq!(found.hash(), token.hash());
    }

    #[test]
    fn a_secret_of_another_incarnation_is_taken() {
        let secret = front().secret(&session("u1"), &Token::new());
        assert!(matches!(
            front().judge(&session("u2"), secret),
            Published::Taken
        ));
        assert!(matches!(
            front().judge(&session("u1"), Secret::default()),
            Published::Taken
        ));
    }

    #[test]
    fn a_new_authority_or_url_makes_it_stale_and_a_broken_token_is_none() {
        let mut secret = front().secret(&session("u1"), &Token::new());
        secret
            .data
            .as_mut()
            .unwrap()
            .insert(TOKEN.into(), ByteString(b"sk-1".to_vec()));
        let moved = Front {
            ca: "OTHER".into(),
            ..front()
        };
        let judged = moved.judge(&session("u1"), secret);
        assert!(matches!(
            judged,
            Published::Ours {
                token: None,
                stale: true,
                ..
            }
        ));
    }

    #[test]
    fn the_endpoint_is_what_openai_clients_expect() {
        assert_eq!(
            front().endpoint("team-a", "qwen"),
            "https://chat.example/team-a/qwen/v1"
        );
    }
}

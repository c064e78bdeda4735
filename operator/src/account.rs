//! The provider's key as the API server keeps it: one Secret in the operator's own namespace, read once or watched, and put to use.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::sync::watch;

use crate::backoff;
use crate::metrics::ProviderCalls;
use crate::provider::Error;
use crate::provider::runpod::{Key, NotAKey, RunPod};
use crate::provider::snapshot::Snapshots;
use crate::session::observe::NoAccount;

/// The Secret with the provider's key.
pub const SECRET: &str = "srchat-provider";
/// The provider's key in it.
pub const KEY: &str = "RUNPOD_API_KEY";
/// While the key is not accepted, it is tried again: a revoked one may be restored.
const AGAIN: Duration = Duration::from_secs(60);

/// The key that the Secret holds; `None` when there is no Secret, or none in it.
///
/// # Errors
/// Those of the API server. That the text is no key is no error of this call.
pub async fn read(secrets: &Api<Secret>) -> Result<Option<Result<Key, NotAKey>>, kube::Error> {
    let found = secrets.get_opt(SECRET).await?;
    let value = found.and_then(|secret| secret.data?.remove(KEY));
    let text = value.and_then(|value| String::from_utf8(value.0).ok());
    Ok(text.map(|text| Key::parse(&text)))
}

/// Reads the key, and again whenever it changes; a new one is checked before it is used. `said` hears why there is none.
pub(crate) async fn watch(
    client: Client,
    namespace: String,
    base: String,
    snapshots: Arc<Snapshots>,
    calls: ProviderCalls,
    said: watch::Sender<Option<NoAccount>>,
) {
    let secrets: Api<Secret> = Api::namespaced(client, &namespace);
    let only = watcher::Config::default().fields(&format!("metadata.name={SECRET}"));
    let mut changes = pin!(watcher(secrets.clone(), only).backoff(backoff::of_a_watch()));
    let mut refused = false;
    loop {
        let pause = if refused {
            AGAIN
        } else {
            Duration::from_secs(u32::MAX.into())
        };
        match tokio::time::timeout(pause, changes.next()).await {
            Ok(None) => return,
            Ok(Some(Err(error))) => {
                tracing::warn!(%error, "the provider's key cannot be watched");
                continue;
            }
            Ok(Some(Ok(watcher::Event::Init))) => continue,
            Ok(Some(Ok(_))) | Err(_) => {}
        }
        let Ok(found) = read(&secrets).await else {
            refused = true;
            continue;
        };
        let given = found.is_some();
        let state = take(found, (&base, &calls), &snapshots).await;
        refused = state.is_some() && given;
        said.send_if_modified(|before| {
            std::mem::replace(before, state) != state || state.is_none()
        });
    }
}

/// Puts a key to use, if it is one and is accepted.
async fn take(
    found: Option<Result<Key, NotAKey>>,
    (base, calls): (&str, &ProviderCalls),
    snapshots: &Snapshots,
) -> Option<NoAccount> {
    let key = match found {
        None => {
            snapshots.replace(None);
            return Some(NoAccount::Missing);
        }
        Some(Err(error)) => {
            tracing::warn!(%error, "the provider's key is not one");
            snapshots.replace(None);
            return Some(NoAccount::Refused);
        }
        Some(Ok(key)) => key,
    };
    if snapshots
        .provider()
        .is_some_and(|provider| provider.fingerprint() == key.fingerprint())
    {
        return None;
    }
    let provider = match RunPod::new(base, key) {
        Ok(provider) => provider.counting(calls),
        Err(error) => {
            tracing::error!(%error, "no client for the provider");
            return Some(NoAccount::Refused);
        }
    };
    match provider.check_key().await {
        Err(error @ (Error::Unauthorized { .. } | Error::Forbidden { .. })) => {
            tracing::warn!(%error, "the provider does not accept the key");
            snapshots.replace(None);
            Some(NoAccount::Refused)
        }
        // What cannot be checked now is used: each call says for itself whether it is accepted.
        Ok(()) | Err(_) => {
            tracing::info!(key = %provider.fingerprint(), "the provider's key is in use");
            snapshots.replace(Some(provider));
            None
        }
    }
}

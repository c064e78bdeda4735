//! Follows the Secrets of the sessions' namespace: routes and the leaf. While the API server is away, what is known stays.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};

use super::{Gateway, validity};
use crate::backoff;
use crate::route::Route;

/// Follows until dropped; `leaf` is the Secret with the gateways' certificate.
pub(super) async fn follow(gateway: &Gateway, client: Client, namespace: &str, leaf: &str) {
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    let mut events = watcher(secrets, watcher::Config::default())
        .backoff(backoff::of_a_watch())
        .boxed();
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(secret)) => {
                listed.extend(take(gateway, &secret, leaf));
            }
            Ok(Event::InitDone) => {
                gateway.sessions.keep_only(&listed);
                gateway.listed.store(true, Ordering::Relaxed);
            }
            Ok(Event::Apply(secret)) => {
                take(gateway, &secret, leaf);
            }
            Ok(Event::Delete(secret)) => forget(gateway, &secret),
            Err(error) => {
                tracing::warn!(%error, "the API server cannot be watched; what is known is served on")
            }
        }
    }
}

/// Takes a Secret in; the session's UID when it is a route that can be served.
fn take(gateway: &Gateway, secret: &Secret, leaf: &str) -> Option<String> {
    let name = secret.metadata.name.as_deref()?;
    if name == leaf {
        take_leaf(gateway, secret, leaf);
        return None;
    }
    let uid = name.strip_prefix(Route::PREFIX)?;
    match Route::from_secret(secret) {
        Ok(route) if route.uid == uid => {
            gateway.sessions.apply(route);
            Some(uid.to_owned())
        }
        // What cannot be read may say that a token is revoked: it opens nothing.
        Ok(_) => {
            tracing::error!(
                uid,
                "a route is of another session than its name says; it is closed"
            );
            gateway.sessions.remove(uid);
            None
        }
        Err(error) => {
            tracing::error!(uid, %error, "a route cannot be read; it is closed");
            gateway.sessions.remove(uid);
            None
        }
    }
}

fn take_leaf(gateway: &Gateway, secret: &Secret, leaf: &str) {
    let data = secret.data.as_ref();
    let part = |key: &str| {
        data.and_then(|data| data.get(key))
            .map(|bytes| bytes.0.as_slice())
            .unwrap_or_default()
    };
    match gateway.leaf.set(part("tls.crt"), part("tls.key")) {
        Ok(()) => {
            tracing::info!("the certificate was taken in");
            validity::tell(gateway, leaf, Timestamp::now());
        }
        Err(error) => {
            tracing::error!(%error, "the certificate cannot be used; the one before is served on")
        }
    }
}

fn forget(gateway: &Gateway, secret: &Secret) {
    if let Some(uid) = secret
        .metadata
        .name
        .as_deref()
        .and_then(|name| name.strip_prefix(Route::PREFIX))
    {
        gateway.sessions.remove(uid);
    }
}

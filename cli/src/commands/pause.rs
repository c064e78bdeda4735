//! `srchat pause` and `srchat resume`: whether a session rents.

use crate::args::{Named, Output};
use crate::cluster::{Cluster, failed};
use crate::failure::{Code, Failure, chain};
use crate::print::Printer;
use crate::session::{self, state};
use futures::StreamExt as _;
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use serde_json::json;
use srchat_crds::ChatSession;
use srchat_crds::conditions::Type;
use std::time::Duration;

/// A pod that is paused is cleared, terminated and proved gone: a minute of clearing by default, ten at most, and proofs
/// ten seconds apart. Beyond this somebody has to look.
const PAUSED: Duration = Duration::from_secs(15 * 60);

/// Ends what is rented. The session, its URL and its token stay.
pub async fn pause(
    cluster: &Cluster,
    args: Named,
    output: Output,
    print: &Printer,
) -> Result<(), Failure> {
    let session = cluster.session(&args.name).await?;
    not_deleted(&session)?;
    let already = session.spec.replicas == 0;
    let session = scale(cluster, &args.name, 0).await?;
    if output == Output::Json {
        return print.json(&session);
    }
    print.note(&match already {
        true => format!("{} was paused already.", args.name),
        false => format!(
            "{} ends what it rents; `srchat resume {}` rents again.",
            args.name, args.name
        ),
    });
    Ok(())
}

/// Starts another run: 0 first where it is not, so that the controller has seen it, then 1.
pub async fn resume(
    cluster: &Cluster,
    args: Named,
    output: Output,
    print: &Printer,
) -> Result<(), Failure> {
    let name = &args.name;
    let session = cluster.session(name).await?;
    not_deleted(&session)?;
    let ended = session::status(&session)
        .run
        .is_some_and(|run| run.ended.is_some());
    if session.spec.replicas == 1 && !ended {
        if output == Output::Json {
            return print.json(&session);
        }
        print.note(&format!(
            "{name} is neither paused nor ended: {}.",
            state(&session)
        ));
        return Ok(());
    }
    let session = scale(cluster, name, 0).await?;
    let generation = session.metadata.generation;
    let paused = until_paused(cluster, name, generation, print);
    let outcome = tokio::time::timeout(PAUSED, paused).await;
    print.clear_progress();
    outcome.unwrap_or_else(|_| {
        let message = format!("session {name} did not become paused within 15 minutes");
        Err(Failure::new(Code::NotReady, message)
            .hint(format!("`srchat status {name}` says what it waits for")))
    })?;
    let session = scale(cluster, name, 1).await?;
    if output == Output::Json {
        return print.json(&session);
    }
    print.note(&format!(
        "{name} rents again, ${} an hour at most; `srchat attach {name}` waits for it.",
        session.spec.limits.max_hourly_cost
    ));
    Ok(())
}

fn not_deleted(session: &ChatSession) -> Result<(), Failure> {
    match session.metadata.deletion_timestamp {
        None => Ok(()),
        Some(_) => Err(Failure::new(
            Code::Error,
            format!("session {} is being deleted", session::name(session)),
        )),
    }
}

async fn scale(cluster: &Cluster, name: &str, replicas: u32) -> Result<ChatSession, Failure> {
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    let patched = cluster
        .sessions()
        .patch(name, &PatchParams::default(), &patch)
        .await;
    patched.map_err(|e| failed("change the session", &e))
}

async fn until_paused(
    cluster: &Cluster,
    name: &str,
    generation: Option<i64>,
    print: &Printer,
) -> Result<(), Failure> {
    let mut seen = std::pin::pin!(watch_object(cluster.sessions(), name).default_backoff());
    while let Some(event) = seen.next().await {
        match event {
            Ok(Some(session)) if is_paused(&session, generation) => return Ok(()),
            Ok(Some(session)) => {
                let steps = session::ending(&session);
                let step = steps.last().map_or("the last run ends", String::as_str);
                print.progress(step);
            }
            Ok(None) => {
                let message = format!("session {name} was deleted");
                return Err(Failure::new(Code::NotFound, message));
            }
            Err(error) => print.progress(&format!("waiting for the API server: {}", chain(&error))),
        }
    }
    Err(Failure::new(
        Code::Error,
        "the API server stopped answering",
    ))
}

fn is_paused(session: &ChatSession, generation: Option<i64>) -> bool {
    session
        .condition(Type::Ready)
        .is_some_and(|ready| ready.reason == "Paused" && ready.observed_generation >= generation)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_pause_of_an_older_generation_does_not_count() {
        let session: ChatSession = serde_json::from_value(json!({
            "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession",
            "metadata": {"name": "qwen", "generation": 3}, "spec": {"model": "a/b", "replicas": 0},
            "status": {"conditions": [{
                "type": "Ready", "status": "False", "reason": "Paused", "message": "Nothing is rented.",
                "observedGeneration": 2, "lastTransitionTime": "2026-11-23T12:00:00Z",
            }]},
        }))
        .unwrap();
        assert!(is_paused(&session, Some(2)));
        assert!(!is_paused(&session, Some(3)));
    }
}

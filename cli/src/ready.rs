//! Waiting for a session to serve, with a live line.

use crate::cluster::Cluster;
use crate::failure::{Code, Failure, chain};
use crate::print::Printer;
use crate::session::{Readiness, pace, readiness};
use futures::StreamExt as _;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use srchat_crds::ChatSession;
use std::time::Duration;

/// As long as a session may take to start when nothing else is said.
pub const WAIT: Duration = Duration::from_secs(20 * 60);
/// An operator that runs takes notice of a session within a second; a busy one, or one that is being restarted, within this.
const NOTICE: Duration = Duration::from_secs(30);
/// The live line shows how time passes.
const TICK: Duration = Duration::from_secs(1);

/// Waits until the session serves; says why when it will not without somebody's help, or has not after `patience`.
pub async fn wait(
    cluster: &Cluster,
    name: &str,
    patience: Duration,
    print: &Printer,
) -> Result<ChatSession, Failure> {
    let outcome = tokio::time::timeout(patience, watch(cluster, name, print)).await;
    print.clear_progress();
    outcome.unwrap_or_else(|_| {
        let message = format!("session {name} is not ready after {}", shown(patience));
        Err(Failure::new(Code::NotReady, message).hint(format!(
            "`srchat status {name}` says why; --wait waits longer"
        )))
    })
}

async fn watch(cluster: &Cluster, name: &str, print: &Printer) -> Result<ChatSession, Failure> {
    let mut latest = cluster.session(name).await?;
    let mut seen = std::pin::pin!(watch_object(cluster.sessions(), name).default_backoff());
    let mut tick = tokio::time::interval(TICK);
    let unnoticed = tokio::time::sleep(NOTICE);
    let mut unnoticed = std::pin::pin!(unnoticed);
    let mut told = String::new();
    loop {
        let now = Timestamp::now();
        match readiness(&latest, now) {
            Readiness::Ready => return Ok(latest),
            Readiness::Stuck(failure) => return Err(failure),
            Readiness::Coming(what) if print.is_live() => {
                let pace = pace(&latest, now).map(|pace| format!("  ·  {pace}"));
                print.progress(&format!("{what}{}", pace.unwrap_or_default()));
            }
            Readiness::Coming(what) if what != told => {
                print.note(&what);
                told = what;
            }
            Readiness::Coming(_) => {}
        }
        tokio::select! {
            event = seen.next() => latest = match event {
                Some(Ok(Some(session))) => session,
                Some(Err(error)) => {
                    print.progress(&format!("waiting for the API server: {}", chain(&error)));
                    continue;
                }
                Some(Ok(None)) | None => {
                    let message = format!("session {name} was deleted");
                    return Err(Failure::new(Code::NotFound, message));
                }
            },
            _ = tick.tick(), if print.is_live() => {}
            () = &mut unnoticed, if latest.status.is_none() => return Err(no_operator(name)),
        }
    }
}

/// Nobody has written a status.
pub fn no_operator(name: &str) -> Failure {
    Failure::new(
        Code::NotReady,
        format!("no operator has taken notice of session {name}"),
    )
    .hint("`srchat doctor` looks for it; is srchat's controller running?")
}

fn shown(patience: Duration) -> String {
    srchat_crds::Span::seconds(patience.as_secs()).to_string()
}

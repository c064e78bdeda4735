//! `srchat attach`: the chat, once the model answers.

use crate::args;
use crate::chat::Chat;
use crate::cluster::Cluster;
use crate::failure::{Code, Failure};
use crate::print::Printer;
use crate::session::{self, Readiness, readiness};
use futures::StreamExt as _;
use kube::runtime::watcher::watch_object;
use srchat_crds::ChatSession;
use std::sync::Arc;
use std::time::Duration;

/// As long as a session may take to start when nothing else is said.
const WAIT: Duration = Duration::from_secs(20 * 60);

/// Waits for the model with a live line, then chats.
pub async fn attach(
    cluster: &Cluster,
    args: args::Attach,
    print: &Arc<Printer>,
) -> Result<(), Failure> {
    let name = match args.name {
        Some(name) => name,
        None => cluster.only().await?,
    };
    let session = tokio::select! {
        session = ready(cluster, &name, args.wait.unwrap_or(WAIT), print) => session,
        _ = tokio::signal::ctrl_c() => Err(Failure::silent(Code::Interrupted)),
    };
    print.clear_progress();
    let session = session?;
    let gateway = cluster.gateway(&name).await?;
    let vision = session::status(&session)
        .plan
        .is_some_and(|plan| plan.vision);
    print.note(&format!(
        "{name}: {} on {}. /help lists the commands.",
        session.spec.model,
        session::status(&session)
            .plan
            .map_or_else(|| "a GPU".to_owned(), |plan| plan.gpu)
    ));
    Chat::new(gateway, Arc::clone(print), vision)
        .run(args.prompt)
        .await
}

async fn ready(
    cluster: &Cluster,
    name: &str,
    patience: Duration,
    print: &Printer,
) -> Result<ChatSession, Failure> {
    let mut latest = cluster.session(name).await?;
    let mut seen = std::pin::pin!(watch_object(cluster.sessions(), name));
    let mut told = String::new();
    let watch = async {
        loop {
            match readiness(&latest) {
                Readiness::Ready => return Ok(()),
                Readiness::Stuck(failure) => return Err(failure),
                Readiness::Coming(what) if print.is_live() => print.progress(&what),
                Readiness::Coming(what) if what != told => {
                    print.note(&what);
                    told = what;
                }
                Readiness::Coming(_) => {}
            }
            latest = match seen.next().await {
                Some(Ok(Some(session))) => session,
                Some(Err(error)) => {
                    print.progress(&format!("waiting for the API server: {error}"));
                    continue;
                }
                Some(Ok(None)) | None => {
                    return Err(Failure::new(
                        Code::NotFound,
                        format!("session {name} was deleted"),
                    ));
                }
            };
        }
    };
    match tokio::time::timeout(patience, watch).await {
        Ok(outcome) => outcome.map(|()| latest),
        Err(_) => Err(
            Failure::new(Code::NotReady, format!("session {name} is not ready yet")).hint(format!(
                "`srchat status {name}` says why; --wait waits longer"
            )),
        ),
    }
}

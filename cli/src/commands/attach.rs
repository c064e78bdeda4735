//! `srchat attach`: the chat, once the model answers.

use crate::args;
use crate::chat::Chat;
use crate::cluster::Cluster;
use crate::failure::{Code, Failure};
use crate::print::Printer;
use crate::{ready, session};
use srchat_crds::ChatSession;
use std::sync::Arc;

/// Waits for the model with a live line, then chats.
pub async fn attach(
    cluster: &Cluster,
    args: args::Attach,
    print: &Arc<Printer>,
) -> Result<(), Failure> {
    let name = cluster.named_or_only(args.name).await?;
    let session = tokio::select! {
        session = ready::wait(cluster, &name, args.wait.unwrap_or(ready::WAIT), print) => session,
        _ = tokio::signal::ctrl_c() => Err(Failure::silent(Code::Interrupted)),
    };
    print.clear_progress();
    chat(cluster, &session?, args.prompt, print).await
}

/// Chats with a session that serves.
pub async fn chat(
    cluster: &Cluster,
    session: &ChatSession,
    first: Option<String>,
    print: &Arc<Printer>,
) -> Result<(), Failure> {
    let name = session::name(session);
    let gateway = cluster.gateway(name).await?;
    let plan = session::status(session).plan;
    let vision = plan.as_ref().is_some_and(|plan| plan.vision);
    print.note(&format!(
        "{name}: {} on {}. /help lists the commands.",
        session.spec.model,
        plan.map_or_else(|| "a GPU".to_owned(), |plan| plan.gpu)
    ));
    Chat::new(gateway, Arc::clone(print), vision)
        .run(first)
        .await
}

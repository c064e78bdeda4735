//! `srchat attach`: the chat, once the model answers.

use crate::args;
use crate::chat::{About, Chat};
use crate::cluster::Cluster;
use crate::failure::{Code, Failure};
use crate::history::entry::Header;
use crate::print::Printer;
use crate::{ready, session};
use jiff::Timestamp;
use srchat_crds::ChatSession;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

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
    let start = Start {
        first: args.prompt,
        no_history: args.no_history,
        ..Start::default()
    };
    chat(cluster, &session?, start, print).await
}

/// What a chat begins with.
#[derive(Debug, Default)]
pub struct Start {
    /// A first message, sent at once.
    pub first: Option<String>,
    /// Nothing of the conversation is kept on this machine.
    pub no_history: bool,
    /// The session ends when the chat is left, unless `/keep` is said.
    pub ends: bool,
    /// Set when `/keep` is said, so that it holds however the chat ends.
    pub keep: Arc<AtomicBool>,
}

/// Chats with a session that serves.
pub async fn chat(
    cluster: &Cluster,
    session: &ChatSession,
    start: Start,
    print: &Arc<Printer>,
) -> Result<(), Failure> {
    let name = session::name(session);
    let gateway = cluster.gateway(name).await?;
    let plan = session::status(session).plan;
    let about = About {
        header: Header {
            model: session.spec.model.to_string(),
            session: name.to_owned(),
            namespace: cluster.namespace.clone(),
            uid: session.metadata.uid.clone().unwrap_or_default(),
            started: Timestamp::now(),
        },
        vision: plan.as_ref().is_some_and(|plan| plan.vision),
        context: plan.as_ref().map(|plan| u64::from(plan.context_length)),
        ends: start.ends,
        keep: start.keep,
    };
    print.note(&format!(
        "{name}: {} on {}. /help lists the commands.",
        session.spec.model,
        plan.map_or_else(|| "a GPU".to_owned(), |plan| plan.gpu)
    ));
    Chat::new(cluster, gateway, about, print, !start.no_history)
        .run(start.first)
        .await
}

//! `srchat rm`: end sessions, and with `--wait` see them proved gone.

use crate::args;
use crate::cluster::{Cluster, failed};
use crate::confirm;
use crate::failure::{Code, Failure, chain};
use crate::print::Printer;
use crate::session;
use futures::StreamExt as _;
use kube::api::{DeleteParams, Preconditions};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use srchat_crds::ChatSession;

/// Asks where there is somebody to ask and something to lose, then deletes.
pub async fn rm(cluster: &Cluster, args: args::Remove, print: &Printer) -> Result<(), Failure> {
    // All names first: a typo in the last one must not be noticed after the first is gone.
    let mut sessions = Vec::new();
    for name in &args.names {
        sessions.push(cluster.session(name).await?);
    }
    if !args.yes && print.can_ask() && sessions.iter().any(rents) {
        let question = format!("End {} and erase what was uploaded?", args.names.join(", "));
        if !confirm::yes(print, &question, false).await? {
            print.note("Nothing was ended.");
            return Ok(());
        }
    }
    for session in &sessions {
        delete(cluster, session).await?;
        if !args.wait {
            let name = session::name(session);
            print.note(&format!(
                "{name} is ending; it disappears once its pod is proved gone."
            ));
        }
    }
    if args.wait {
        for session in &sessions {
            follow(cluster, session, print).await?;
        }
    }
    Ok(())
}

fn rents(session: &ChatSession) -> bool {
    session.metadata.deletion_timestamp.is_none() && session::status(session).instance.is_some()
}

/// Deletes by UID: a session that was made anew under this name meanwhile is another one. One that is gone is no error.
pub async fn delete(cluster: &Cluster, session: &ChatSession) -> Result<(), Failure> {
    let only_this = DeleteParams {
        preconditions: Some(Preconditions {
            uid: session.metadata.uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let name = session::name(session);
    match cluster.sessions().delete(name, &only_this).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(failed("delete the session", &error)),
    }
}

/// Tells each step of the end once, until the session is gone.
pub async fn follow(
    cluster: &Cluster,
    session: &ChatSession,
    print: &Printer,
) -> Result<(), Failure> {
    let (name, uid) = (session::name(session), session.metadata.uid.as_deref());
    let mut seen = std::pin::pin!(watch_object(cluster.sessions(), name).default_backoff());
    let mut said: Vec<String> = Vec::new();
    while let Some(event) = seen.next().await {
        match event {
            Ok(Some(session)) if session.metadata.uid.as_deref() == uid => {
                for step in session::ending(&session) {
                    if !said.contains(&step) {
                        print.note(&step);
                        said.push(step);
                    }
                }
            }
            Ok(_) => {
                print.note(&format!("{name} is gone."));
                return Ok(());
            }
            // The watcher comes back by itself; the session ends with or without us.
            Err(error) => print.progress(&format!("waiting for the API server: {}", chain(&error))),
        }
    }
    Err(Failure::new(
        Code::Error,
        "the API server stopped telling how the session ends",
    )
    .hint(format!("`srchat status {name}` shows how far it is")))
}

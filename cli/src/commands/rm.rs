//! `srchat rm`: end a session, and with `--wait` see it proved gone.

use crate::args;
use crate::cluster::{Cluster, failed};
use crate::failure::{Code, Failure};
use crate::print::Printer;
use crate::session;
use futures::StreamExt as _;
use kube::api::{DeleteParams, Preconditions};
use kube::runtime::watcher::watch_object;

/// Deletes, by UID: a session that was made anew under this name meanwhile is another one.
pub async fn rm(cluster: &Cluster, args: args::Remove, print: &Printer) -> Result<(), Failure> {
    let session = cluster.session(&args.name).await?;
    let uid = session.metadata.uid;
    let only_this = DeleteParams {
        preconditions: Some(Preconditions {
            uid: uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let deleted = cluster.sessions().delete(&args.name, &only_this).await;
    deleted.map_err(|e| failed("delete the session", &e))?;
    if args.wait {
        return follow(cluster, &args.name, uid.as_deref(), print).await;
    }
    print.note(&format!(
        "{} is ending; it disappears once its pod is proved gone.",
        args.name
    ));
    Ok(())
}

async fn follow(
    cluster: &Cluster,
    name: &str,
    uid: Option<&str>,
    print: &Printer,
) -> Result<(), Failure> {
    let mut seen = std::pin::pin!(watch_object(cluster.sessions(), name));
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
            Err(error) => print.progress(&format!("waiting for the API server: {error}")),
        }
    }
    Err(Failure::new(
        Code::Error,
        "the API server stopped telling how the session ends",
    )
    .hint(format!("`srchat status {name}` shows how far it is")))
}

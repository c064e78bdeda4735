//! What all demos share: the rig, one session in it, and the way to the end of both.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use srchat_crds::ChatSession;
use tokio_util::sync::CancellationToken;

use crate::cache::say;
use crate::cluster;
use crate::explain::causes;
use crate::rig::{self, Rig};

use super::args::Arguments;
use super::env::Folder;
use super::follow::{Follow, Milestone, View};
use super::leftovers;

/// The name of the demo's session.
pub(super) const NAME: &str = "demo";

/// From apply to an answer: start-up is over in seconds, unless the machine is being used for something else.
const STARTUP: Duration = Duration::from_secs(300);

/// From delete to gone: clearing is bounded by a minute, the proofs take two lists ten seconds apart.
const END: Duration = Duration::from_secs(240);

/// Why a demo does not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("could not set up the demo")]
    Rig(#[from] rig::Error),
    #[error("could not use the cluster")]
    Cluster(#[from] cluster::Error),
    #[error("the API server refused")]
    Api(#[from] kube::Error),
    #[error("the session is not {what} after {} seconds. {why}", within.as_secs())]
    Late {
        what: &'static str,
        within: Duration,
        why: String,
    },
    #[error("interrupted")]
    Interrupted,
    #[error("could not use what the session published")]
    Client(#[from] super::client::Error),
    #[error("could not say how to use the demo")]
    Env(#[from] super::env::Error),
    #[error("could not set up the demo")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Not(String),
}

/// The rig and where its session goes.
pub(super) struct Stage {
    pub(super) rig: Rig,
    pub(super) client: Client,
    pub(super) namespace: &'static str,
    pub(super) follow: Follow,
    /// Whoever has it may leave logs there, and say how to use the demo.
    pub(super) folder: Option<Folder>,
}

impl Stage {
    /// Starts everything but the session.
    pub(super) async fn set(
        arguments: &Arguments,
        folder: Option<Folder>,
        stop: &CancellationToken,
    ) -> Result<Stage, Error> {
        let options = rig::Options {
            hub: arguments.hub.clone(),
            runpod: arguments.runpod.clone(),
            kubeconfig: arguments.kubeconfig.clone(),
            logs: folder.as_ref().map(Folder::logs).transpose()?,
            ..rig::Options::default()
        };
        let started = unless(stop, Rig::start(options)).await;
        let rig = started
            .and_then(|rig| Ok(rig?))
            .inspect_err(|_failed| leftovers::end_descendants())?;
        let client = rig.cluster().client().await?;
        // Somebody else's cluster gets a namespace that can be taken away again.
        let namespace = if arguments.kubeconfig.is_some() {
            "srchat-demo"
        } else {
            "default"
        };
        if arguments.kubeconfig.is_some() {
            let metadata = ObjectMeta {
                name: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            };
            let wanted = Namespace {
                metadata,
                ..Namespace::default()
            };
            let namespaces: Api<Namespace> = Api::all(client.clone());
            namespaces
                .patch(
                    namespace,
                    &PatchParams::apply("srchat-demo"),
                    &Patch::Apply(&wanted),
                )
                .await?;
        }
        let follow = Follow::start(client.clone(), namespace, NAME);
        Ok(Stage {
            rig,
            client,
            namespace,
            follow,
            folder,
        })
    }

    /// The session, as a user would write it.
    pub(super) fn manifest(&self) -> String {
        format!(
            "apiVersion: srchat.dev/v1alpha1\nkind: ChatSession\nmetadata: {{name: {NAME}, namespace: {}}}\n\
             spec:\n  model: {}\n",
            self.namespace,
            self.model(),
        )
    }

    /// The model that the session asks for.
    pub(super) fn model(&self) -> &str {
        &self.rig.model.id
    }

    /// Applies the session with kubectl, and says when.
    pub(super) async fn apply(&self) -> Result<Timestamp, Error> {
        let (cluster, manifest) = (self.rig.cluster().clone(), self.manifest());
        let at = Timestamp::now();
        let apply = move || cluster.kubectl_with(&["apply", "--filename=-"], &manifest);
        tokio::task::spawn_blocking(apply)
            .await
            .map_err(std::io::Error::other)??;
        Ok(at)
    }

    /// Waits for a milestone of the way up, showing each change.
    pub(super) async fn reach(
        &mut self,
        milestone: Milestone,
        stop: &CancellationToken,
        mut show: impl FnMut(&View),
    ) -> Result<View, Error> {
        let (what, within) = match milestone {
            Milestone::Gone => ("gone", END),
            _ => ("ready", STARTUP),
        };
        let follow = &mut self.follow;
        let waiting = async {
            let mut view = follow.now();
            loop {
                show(&view);
                if view.reached.contains_key(&milestone) {
                    return view;
                }
                view = follow.changed().await;
            }
        };
        let waited = unless(stop, tokio::time::timeout(within, waiting)).await?;
        waited.map_err(|_| Error::Late {
            what,
            within,
            why: self.follow.now().why_not(),
        })
    }

    /// Deletes the session, and says when.
    pub(super) async fn delete(&self) -> Result<Timestamp, Error> {
        let sessions: Api<ChatSession> = Api::namespaced(self.client.clone(), self.namespace);
        let at = Timestamp::now();
        sessions.delete(NAME, &DeleteParams::default()).await?;
        Ok(at)
    }

    /// Ends everything that was started. What outlives us (a cluster, a simulator that was handed in) gets its
    /// sessions ended first, as far as that works.
    pub(super) async fn strike(mut self) {
        let outlived = self.rig.simulator.is_none() || self.rig.control_plane().is_none();
        let view = self.follow.now();
        if outlived && view.session.is_some() && !view.reached.contains_key(&Milestone::Gone) {
            say("ending the session first");
            if let Err(error) = self.end().await {
                say(&format!("it may be left: {}", causes(&error)));
            }
        }
        let Stage {
            rig,
            client,
            namespace,
            follow,
            folder: _folder,
        } = self;
        drop(follow);
        if namespace != "default" {
            let namespaces: Api<Namespace> = Api::all(client.clone());
            if let Err(error) = namespaces.delete(namespace, &DeleteParams::default()).await {
                say(&format!("the namespace {namespace} may be left: {error}"));
            }
        }
        drop(client);
        rig.stop().await;
    }

    async fn end(&mut self) -> Result<(), Error> {
        self.delete().await?;
        self.reach(Milestone::Gone, &CancellationToken::new(), |_| {})
            .await?;
        Ok(())
    }
}

/// The same, unless somebody wants us to end first.
pub(super) async fn unless<T>(
    stop: &CancellationToken,
    work: impl Future<Output = T>,
) -> Result<T, Error> {
    stop.run_until_cancelled(work)
        .await
        .ok_or(Error::Interrupted)
}

//! A real node: kubelet, containerd, kube-proxy, scheduler and a name server, as processes of a place that they have to themselves
//! ([`confined`]), joined to a control plane of ours. Pods run in it as on any node.

mod agents;
pub mod confined;
pub mod programs;

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node as Registered, ServiceAccount};
use kube::Api;

use crate::cluster;
use crate::control_plane::{self, ControlPlane};
use crate::eventually::{NotYet, within};
use crate::image::Image;
use crate::process::{self, Process, Workplace};
use crate::requirements;
use crate::tools::{self, NodePrograms};

pub use agents::NAME;

/// A node is ready a few seconds after its start on two idle cores; here it may share them with compilers.
const START: Duration = Duration::from_secs(120);

/// Why there is no node.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is not there.
    #[error("could not get the programs of a node")]
    Tools(#[from] tools::Error),
    /// A program does not start.
    #[error(transparent)]
    Start(#[from] process::Error),
    /// A file could not be written.
    #[error("could not write the node's files")]
    Files(#[from] io::Error),
    /// The control plane made no certificate for it.
    #[error("could not get the node's certificates")]
    ControlPlane(#[from] control_plane::Error),
    /// The cluster cannot be used.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// It did not become ready.
    #[error("the node is not ready; containerd says:\n{containerd}\nthe kubelet says:\n{kubelet}")]
    NotReady {
        /// What was waited for.
        #[source]
        source: NotYet,
        /// The end of a log.
        containerd: String,
        /// The end of another.
        kubelet: String,
    },
}

/// A running node. Dropping it ends its processes; its pods end with the place that it was started in.
#[derive(Debug)]
pub struct Node {
    // In the order in which they end; the files go last.
    kubelet: Process,
    kube_proxy: Process,
    scheduler: Process,
    coredns: Process,
    containerd: Process,
    programs: NodePrograms,
    place: Workplace,
}

impl Node {
    /// Starts one, and waits until pods can run on it. Only inside of [`confined`].
    ///
    /// # Errors
    /// When a part cannot be had or does not become ready.
    pub async fn start(control_plane: &ControlPlane) -> Result<Node, Error> {
        let confined = confined::inside()
            .ok_or_else(|| io::Error::other("a node is started in a place of its own"))?;
        let (programs, sandbox) = tokio::task::spawn_blocking(|| {
            Ok::<_, Error>((NodePrograms::find()?, programs::sandbox()?))
        })
        .await
        .map_err(io::Error::other)??;
        let plugins = requirements::cni_plugins()
            .ok_or_else(|| io::Error::other("CNI's plugins are not installed"))?;
        let place = Workplace::new("node")?;
        let path = place.path();

        agents::write_runtime(path, &plugins)?;
        let containerd = Process::start("containerd", agents::containerd(&programs, path), path)?;
        let client = Ctr(&programs);
        within(START, "containerd to answer", || async {
            client.run(&["version"])
        })
        .await
        .map_err(|source| Error::NotReady {
            source,
            containerd: containerd.tail(),
            kubelet: String::new(),
        })?;
        client.import(&sandbox, path)?;

        let agents = agents::Agents::write(control_plane, &confined, path)?;
        let node = Node {
            kubelet: Process::start("kubelet", agents.kubelet(&programs), path)?,
            kube_proxy: Process::start("kube-proxy", agents.kube_proxy(&programs), path)?,
            scheduler: Process::start("kube-scheduler", agents.scheduler(&programs), path)?,
            coredns: Process::start("coredns", agents.coredns(&programs), path)?,
            containerd,
            programs,
            place,
        };
        node.ready(control_plane)
            .await
            .map_err(|source| Error::NotReady {
                source,
                containerd: node.containerd.tail(),
                kubelet: node.kubelet.tail(),
            })?;
        Ok(node)
    }

    /// Takes an image in, by the name that it carries.
    ///
    /// # Errors
    /// What containerd says.
    pub fn import(&self, image: &Image) -> Result<(), Error> {
        Ctr(&self.programs).import(image, self.place.path())
    }

    /// The same for an archive that was written to a file.
    ///
    /// # Errors
    /// What containerd says.
    pub fn import_archive(&self, archive: &Path) -> Result<(), Error> {
        Ctr(&self.programs).import_archive(archive)
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// What containerd says, such as that it has no image of this name.
    pub fn tag(&self, reference: &str, other: &str) -> Result<(), Error> {
        Ctr(&self.programs).run(&["images", "tag", reference, other])?;
        Ok(())
    }

    /// The folder with the logs of its parts.
    pub fn logs(&self) -> &Path {
        self.place.path()
    }

    /// Its processes.
    pub fn processes(&mut self) -> [&mut Process; 5] {
        [
            &mut self.kubelet,
            &mut self.kube_proxy,
            &mut self.scheduler,
            &mut self.coredns,
            &mut self.containerd,
        ]
    }

    /// Until the node says so, and the account that pods have by default is there.
    async fn ready(&self, control_plane: &ControlPlane) -> Result<(), NotYet> {
        within(START, "the node to be ready", || async {
            let client = control_plane.client().await.map_err(|e| e.to_string())?;
            let nodes: Api<Registered> = Api::all(client.clone());
            let node = nodes.get(NAME).await.map_err(|e| e.to_string())?;
            let conditions = node.status.and_then(|status| status.conditions);
            let ready = conditions
                .into_iter()
                .flatten()
                .find(|condition| condition.type_ == "Ready");
            match ready {
                Some(ready) if ready.status == "True" => {}
                other => return Err(format!("{other:?}")),
            }
            let tainted = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
            if !tainted.is_empty() {
                return Err(format!("{tainted:?}"));
            }
            let accounts: Api<ServiceAccount> = Api::namespaced(client, "default");
            accounts
                .get("default")
                .await
                .map(drop)
                .map_err(|e| e.to_string())
        })
        .await
    }
}

/// containerd's own client, in the namespace that the kubelet uses.
struct Ctr<'a>(&'a NodePrograms);

impl Ctr<'_> {
    fn run(&self, arguments: &[&str]) -> Result<String, tools::Error> {
        let mut command = Command::new(self.0.containerd.join("ctr"));
        command.args(["--namespace", "k8s.io"]).args(arguments);
        tools::run(&mut command)
    }

    fn import(&self, image: &Image, folder: &Path) -> Result<(), Error> {
        let archive = folder.join("image.tar");
        fs::write(&archive, &image.archive)?;
        self.import_archive(&archive)?;
        fs::remove_file(archive)?;
        Ok(())
    }

    fn import_archive(&self, archive: &Path) -> Result<(), Error> {
        self.run(&["images", "import", &archive.display().to_string()])?;
        Ok(())
    }
}

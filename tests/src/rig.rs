//! All parts together, for one test or for the demo: a cluster, RunPod's simulator with real pods, a Hub, and
//! the operator as two processes. What is said here is how they are wired; each part lives in a file of its own.

mod manifests;
mod operator;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use reqwest::Url;

use crate::cluster::{self, Cluster};
use crate::control_plane::{self, ControlPlane};
use crate::eventually::NotYet;
use crate::hosts::{self, Hosts};
use crate::hub::HubServer;
use crate::model::{self, SmallModel};
use crate::operator_binaries::{self, OperatorBinaries};
use crate::process::{self, Workplace};
use crate::runpod::{self, Boot, Clock, Images, Simulator};
use crate::stand_ins;
use crate::tools::{self, ControlPlanePrograms};

pub use operator::{Operator, Part, Surroundings};

/// The operator's namespace, as the rendered manifests have it.
pub const SYSTEM: &str = operator::SYSTEM;

/// Why the rig does not stand.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The control plane.
    #[error("could not start the control plane")]
    ControlPlane(#[from] control_plane::Error),
    /// Something at the cluster.
    #[error("could not set up the cluster")]
    Cluster(#[from] cluster::Error),
    /// Programs of the machine.
    #[error("could not get the programs of the rig")]
    Tools(#[from] tools::Error),
    /// The operator does not build.
    #[error("could not build the operator")]
    Binaries(#[from] operator_binaries::Error),
    /// Pods cannot be simulated here.
    #[error("could not find a way to simulate pods")]
    Hosts(#[from] hosts::Error),
    /// The model or its server cannot be had.
    #[error("could not get the small model")]
    Model(#[from] model::Error),
    /// A program does not start.
    #[error(transparent)]
    Start(#[from] process::Error),
    /// A part ended while it was starting.
    #[error("the {name} ended while it was starting:\n{log}")]
    Ended {
        /// Which.
        name: &'static str,
        /// The end of its output.
        log: String,
    },
    /// A part ended by itself.
    #[error("{name} has ended:\n{log}")]
    Over {
        /// Which.
        name: String,
        /// The end of its output.
        log: String,
    },
    /// A part did not become ready.
    #[error(transparent)]
    NotReady(#[from] NotYet),
    /// Files, sockets.
    #[error("could not set up the rig")]
    Io(#[from] io::Error),
}

/// What is put in the place of embedded parts, and how the embedded ones behave.
#[derive(Debug, Clone)]
pub struct Options {
    /// Another Hub.
    pub hub: Option<Url>,
    /// Another simulator, with its key as the user.
    pub runpod: Option<Url>,
    /// Another cluster.
    pub kubeconfig: Option<PathBuf>,
    /// How long the stages of a pod's start take.
    pub boot: Boot,
    /// The provider's rate limit; `None` for a user that is exempt.
    pub limits: Option<runpod::Limits>,
    /// Images that the provider knows besides its own.
    pub images: Vec<runpod::Image>,
    /// Where the logs of the operator go; the rig's own private folder unless given.
    pub logs: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            hub: None,
            runpod: None,
            kubeconfig: None,
            boot: Boot::quick(),
            limits: Some(runpod::Limits::default()),
            images: Vec::new(),
            logs: None,
        }
    }
}

/// The parts, running. [`Rig::stop`] ends them in order; dropping it ends them all the same.
#[derive(Debug)]
pub struct Rig {
    /// Controller and gateway.
    pub operator: Operator,
    /// What they are told about the world around them.
    pub surroundings: Surroundings,
    /// The embedded simulator.
    pub simulator: Option<Simulator>,
    /// The provider's key that the controller was given.
    pub provider_key: String,
    /// The small model.
    pub model: SmallModel,
    /// The programs of the operator.
    pub binaries: OperatorBinaries,
    /// The embedded Hub.
    pub hub: Option<HubServer>,
    cluster: Cluster,
    control_plane: Option<ControlPlane>,
    place: Workplace,
}

impl Rig {
    /// Starts everything and waits until it is ready. What takes time runs at the same time.
    ///
    /// # Errors
    /// The first part that cannot be had, with its cause.
    pub async fn start(options: Options) -> Result<Rig, Error> {
        let place = Workplace::new("rig")?;
        let logs = options
            .logs
            .clone()
            .unwrap_or_else(|| place.path().to_owned());
        let (binaries, (control_plane, cluster), world) = tokio::try_join!(
            async { Ok(OperatorBinaries::build().await?) },
            cluster_of(&options, place.path()),
            world(&options, place.path()),
        )?;
        let World {
            model,
            hub,
            simulator,
            surroundings,
            provider_key,
        } = world;
        let applied = cluster.clone();
        blocking(move || manifests::apply(&applied)).await??;
        cluster
            .secret(
                SYSTEM,
                "srchat-provider",
                &[("RUNPOD_API_KEY", &provider_key)],
            )
            .await?;
        let operator = Operator::start(&cluster, &surroundings, &logs).await?;
        Ok(Rig {
            operator,
            surroundings,
            simulator,
            provider_key,
            model,
            binaries,
            hub,
            cluster,
            control_plane,
            place,
        })
    }

    /// The cluster, as its administrator.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The control plane, when it is our own.
    pub fn control_plane(&mut self) -> Option<&mut ControlPlane> {
        self.control_plane.as_mut()
    }

    /// Whether all of our processes still run.
    ///
    /// # Errors
    /// The one that has ended, and the end of its log.
    pub fn alive(&mut self) -> Result<(), Error> {
        let of_cluster = self
            .control_plane
            .as_mut()
            .map(ControlPlane::processes)
            .into_iter()
            .flatten();
        for process in self.operator.processes().into_iter().chain(of_cluster) {
            if process.ended().is_some() {
                return Err(Error::Over {
                    name: process.name().to_owned(),
                    log: process.tail(),
                });
            }
        }
        Ok(())
    }

    /// A private folder that ends with the rig.
    pub fn folder(&self) -> &Path {
        self.place.path()
    }

    /// From now on the Hub has a model of this name, which the engines' stand-ins serve.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn stand_in(&self, id: &str) -> io::Result<()> {
        stand_ins::named(&stand_ins_of(self.place.path()), id)
    }

    /// Ends everything, users first: the operator, the pods, the Hub, the cluster. When this returns, no process,
    /// mount or file of the rig is left.
    pub async fn stop(self) {
        let Rig {
            mut operator,
            surroundings: _,
            simulator,
            provider_key: _,
            model: _,
            binaries: _,
            hub,
            cluster: _,
            control_plane,
            place,
        } = self;
        // Its end is a matter of seconds, and everybody else here waits for it.
        let _ = blocking(move || operator.stop()).await;
        if let Some(simulator) = simulator {
            simulator.stop().await;
        }
        drop(hub);
        let _ = blocking(move || drop((control_plane, place))).await;
    }
}

/// Our own control plane, or the cluster that was handed in.
async fn cluster_of(
    options: &Options,
    folder: &Path,
) -> Result<(Option<ControlPlane>, Cluster), Error> {
    match &options.kubeconfig {
        None => {
            let control_plane = ControlPlane::start().await?;
            let cluster = Cluster::clone(&control_plane);
            Ok((Some(control_plane), cluster))
        }
        Some(kubeconfig) => {
            let programs = blocking(ControlPlanePrograms::find).await??;
            Ok((
                None,
                Cluster::new(kubeconfig.clone(), programs.kubectl, folder.to_owned()),
            ))
        }
    }
}

/// What an operator meets outside of its cluster. Dropping it ends it.
#[derive(Debug)]
pub struct World {
    /// The small model.
    pub model: SmallModel,
    /// The embedded Hub.
    pub hub: Option<HubServer>,
    /// The embedded simulator.
    pub simulator: Option<Simulator>,
    /// What an operator is told about it.
    pub surroundings: Surroundings,
    /// The provider's key that it is given.
    pub provider_key: String,
}

/// The world outside of the cluster: the Hub, with the small model and the stand-ins', and the provider.
///
/// # Errors
/// The first part that cannot be had, with its cause.
pub async fn world(options: &Options, folder: &Path) -> Result<World, Error> {
    let (hosts, model) = tokio::try_join!(async { Ok::<_, Error>(Hosts::real().await?) }, async {
        Ok::<_, Error>(blocking(model::small_model).await??)
    },)?;
    let (hub, hub_url) = match &options.hub {
        Some(url) => (None, url.clone()),
        None => {
            let stand_ins = stand_ins_of(folder);
            stand_ins::write(&stand_ins)?;
            let hub = HubServer::of(vec![model.hub_folder.clone(), stand_ins]).await?;
            let url = hub.url().parse().map_err(io::Error::other)?;
            (Some(hub), url)
        }
    };
    let mut images = Images::default();
    images.0.extend(options.images.iter().cloned());
    images.put_on_path("", &model.path, &model.visible);
    let (simulator, runpod_url, provider_key) = match &options.runpod {
        Some(url) => {
            let key = url.username().to_owned();
            let mut url = url.clone();
            // Fails only for URLs that cannot have users, and those have no host to be on loopback either.
            let _ = url.set_username("");
            (None, url.to_string(), key)
        }
        None => {
            let simulator = Simulator::start(runpod::Options {
                hosts: hosts.clone(),
                clock: Clock::running(),
                boot: options.boot,
                limits: options.limits,
                images,
                reach: address_of(&hub_url).into_iter().collect(),
                ..runpod::Options::default()
            })
            .await?;
            let (url, key) = (simulator.url().to_owned(), simulator.key().to_owned());
            (Some(simulator), url, key)
        }
    };
    let surroundings = Surroundings {
        runpod_url,
        hub_url: hub_url.to_string(),
        host_user: hosts.isolation().host_user(),
    };
    Ok(World {
        model,
        hub,
        simulator,
        surroundings,
        provider_key,
    })
}

/// Where the Hub has the stand-ins' models, in the rig's folder.
fn stand_ins_of(folder: &Path) -> PathBuf {
    folder.join("models")
}

/// What of a URL a simulated pod must be let out to.
fn address_of(url: &Url) -> Option<SocketAddr> {
    let host = url.host_str()?.trim_matches(['[', ']']);
    let host = if host == "localhost" {
        "127.0.0.1"
    } else {
        host
    };
    Some(SocketAddr::new(
        host.parse().ok()?,
        url.port_or_known_default()?,
    ))
}

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)
}

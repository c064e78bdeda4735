//! What a simulated pod is: a container's start command that really runs, with whatever sshd it starts reachable at a
//! loopback address. Three modes are real (`Namespace`, `Userns`, `Process`); `Light` answers SSH inside this process,
//! for thousands of pods, and `None` runs nothing. Nothing a machine does may outlive it, or this process.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

mod none;

/// How far a machine is separated from the one that runs the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Root's own mount, PID, IPC, UTS and network namespaces over an overlay of `/`; users and packages stay inside.
    Namespace,
    /// The same for an ordinary user, in a user namespace.
    Userns,
    /// A process group with private folders and an sshd port of its own; users and loopback are shared.
    Process,
    /// An SSH server inside this process, its answers scripted.
    Light,
    /// Nothing runs.
    None,
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespace => "namespace",
            Self::Userns => "userns",
            Self::Process => "process",
            Self::Light => "light",
            Self::None => "none",
        })
    }
}

/// What the image of a pod ships, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Folders outside that stand before the system's own on the image's PATH. They are visible inside at the same
    /// path, read-only, and everybody inside may enter them.
    pub path: Vec<PathBuf>,
    /// Further folders outside that the image ships (an interpreter, a model server's packages): visible likewise.
    pub visible: Vec<PathBuf>,
    /// Whether sshd and sftp-server are there.
    pub sshd: bool,
    /// Whether the system's Python is there.
    pub python: bool,
    /// Whether curl is there.
    pub curl: bool,
    /// Bytes of `/dev/shm`.
    pub shm: u64,
}

impl Default for Image {
    /// What most images are: the system as it is, nothing added, 64 MiB of `/dev/shm` (Docker's default).
    fn default() -> Self {
        Self {
            path: Vec::new(),
            visible: Vec::new(),
            sshd: true,
            python: true,
            curl: true,
            shm: 64 << 20,
        }
    }
}

/// What a machine is made from: one start of one container.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// The pod's id, which becomes its host name.
    pub pod_id: String,
    /// What its image ships.
    pub image: Image,
    /// The start command as the container runtime would exec it, entrypoint included; looked up on the image's PATH.
    pub argv: Vec<String>,
    /// PID 1's environment, all of it. PATH and HOME are added where they are missing; `Process` adds what
    /// [`Hosts::start`] says.
    pub env: BTreeMap<String, String>,
    /// Loopback addresses outside that must answer at the same address inside. Nothing else outside can be reached.
    pub reach: Vec<SocketAddr>,
}

/// How PID 1 of a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// The machine was killed from here.
    Killed,
}

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program or right is missing.
    #[error("a pod cannot be simulated here: {0}")]
    Unavailable(String),
    /// The recipe failed; the text is what it wrote.
    #[error("could not start the machine of pod {pod}: {why}")]
    Start {
        /// The pod.
        pod: String,
        /// What was said.
        why: String,
    },
}

/// A running machine. Dropping it ends it too, without waiting until it has ended.
#[derive(Debug)]
pub struct Machine {
    isolation: Isolation,
    ssh: SocketAddr,
    /// PID 1's stdout and stderr, line by line; ends when nothing inside holds them any more.
    pub output: mpsc::UnboundedReceiver<String>,
    exit: watch::Receiver<Option<Exit>>,
    end: Option<CancellationToken>,
}

impl Machine {
    /// How it is separated.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// Where the pod's port 22 is mapped to: a loopback address, stable for the life of this machine. The port accepts
    /// (and closes at once) also while nothing listens inside, as RunPod's mapping does.
    #[must_use]
    pub fn ssh_address(&self) -> SocketAddr {
        self.ssh
    }

    /// Waits until PID 1 has ended and all of the machine with it, and says how.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        // A sender that is gone without a word was ended together with its runtime.
        let seen = exit
            .wait_for(Option::is_some)
            .await
            .map_or(None, |seen| *seen);
        seen.unwrap_or(Exit::Killed)
    }

    /// Ends the machine: when this returns, no process, mount, namespace or folder of it is left.
    pub async fn kill(&self) {
        if let Some(end) = &self.end {
            end.cancel();
        }
        self.wait().await;
    }

    /// Whether a port on which something listens inside can be reached from outside past SSH. `None` where that says
    /// nothing: nothing listens there inside, or loopback is shared.
    pub async fn port_reachable(&self, _port: u16) -> Option<bool> {
        None
    }
}

/// The maker of machines.
#[derive(Clone, Debug)]
pub enum Hosts {
    /// See [`Isolation::None`].
    None,
}

impl Hosts {
    /// The kind of machine that it makes.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        match self {
            Self::None => Isolation::None,
        }
    }

    /// Starts one container.
    ///
    /// # Errors
    /// Says what is missing, or what the recipe wrote.
    pub async fn start(&self, _spec: HostSpec) -> Result<Machine, Error> {
        match self {
            Self::None => Ok(none::start()),
        }
    }
}

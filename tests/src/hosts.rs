//! What a simulated pod is: a container's start command that really runs, with whatever sshd it starts reachable at a
//! loopback address. Three modes are real (`Namespace`, `Userns`, `Process`); `Light` answers SSH inside this process,
//! for thousands of pods, and `None` runs nothing. Nothing a machine does may outlive it, or this process.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::sync::OnceCell;

mod keeper;
pub mod light;
mod machine;
mod namespace;
mod network;
mod none;
mod owned;
mod process;
mod relay;
pub mod trial;

pub use machine::Machine;

/// How far a machine is separated from the one that runs the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Root's own mount, PID, IPC, UTS and network namespaces over an overlay of `/`; users and packages stay inside.
    Namespace,
    /// The same for an ordinary user who has subordinate ids, in a user namespace.
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
    /// Whether its `apt-get` can install what of these it does not ship: a stand-in that puts them back. Otherwise the
    /// system's own is there, and reaches no mirror.
    pub mirror: bool,
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
            mirror: true,
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
    /// PID 1's environment, all of it. HOME is added where it is missing, and PATH gets the image's folders.
    ///
    /// `Process` overrides what would be shared there: HOME, TMPDIR, `SRCHAT_ROOT` and `SRCHAT_MEMORY` become folders
    /// of this machine alone, `SRCHAT_SSH_LISTEN` says where sshd must listen, and `SRCHAT_ONE_USER=1` that no users
    /// may be made and nothing of the system's touched.
    pub env: BTreeMap<String, String>,
    /// Loopback addresses outside that must answer at the same address inside. Nothing else outside can be reached.
    pub reach: Vec<SocketAddr>,
}

/// How PID 1 of a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code; 128 and a signal's number when one ended it.
    Code(i32),
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

impl Error {
    fn start(pod: &str, why: String) -> Self {
        Self::Start {
            pod: pod.to_owned(),
            why: why.trim().to_owned(),
        }
    }
}

/// The maker of machines.
#[derive(Clone, Debug)]
pub enum Hosts {
    /// See [`Isolation::Namespace`].
    Namespace,
    /// See [`Isolation::Userns`].
    Userns,
    /// See [`Isolation::Process`].
    Process,
    /// See [`Isolation::Light`].
    Light(light::Script),
    /// See [`Isolation::None`].
    None,
}

impl Hosts {
    /// The kind of machine that it makes.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        match self {
            Self::Namespace => Isolation::Namespace,
            Self::Userns => Isolation::Userns,
            Self::Process => Isolation::Process,
            Self::Light(_) => Isolation::Light,
            Self::None => Isolation::None,
        }
    }

    /// The most that can be had here. Each way is tried once in a process, the whole recipe, and not asked again.
    ///
    /// # Errors
    /// When not even [`Hosts::Process`] works; says why, for each.
    pub async fn real() -> Result<Self, Error> {
        static FOUND: OnceCell<Hosts> = OnceCell::const_new();
        let search = async {
            let mut reasons = Vec::new();
            for hosts in [Self::Namespace, Self::Userns, Self::Process] {
                match hosts.works().await {
                    Ok(()) => return Ok(hosts),
                    Err(why) => reasons.push(format!("{}: {why}", hosts.isolation())),
                }
            }
            Err(Error::Unavailable(reasons.join("; ")))
        };
        FOUND.get_or_try_init(|| search).await.cloned()
    }

    /// Tries it: a machine with a real sshd, and users of its own where it claims them.
    ///
    /// # Errors
    /// What did not work.
    pub async fn works(&self) -> Result<(), Error> {
        trial::of(self).await
    }

    /// Starts one container.
    ///
    /// # Errors
    /// Says what is missing, or what the recipe wrote.
    pub async fn start(&self, spec: HostSpec) -> Result<Machine, Error> {
        match self {
            Self::Namespace => namespace::start(namespace::Rights::Root, spec).await,
            Self::Userns => namespace::start(namespace::Rights::User, spec).await,
            Self::Process => process::start(spec).await,
            Self::Light(script) => light::start(script.clone(), spec).await,
            Self::None => Ok(none::start()),
        }
    }
}

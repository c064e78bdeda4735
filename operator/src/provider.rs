//! What the rest of srchat knows of the provider of GPUs: offers, pods, snapshots, and a closed set of errors.
//! Nothing here names a wire format, and nothing here talks: `runpod` does, and only through these types.

pub mod runpod;
pub mod snapshot;

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc, time::Duration, time::Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use srchat_crds::Dollars;

/// The provider's name for a pod. It goes into URL paths, so it holds letters, digits, `-` and `_` only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodId(String);

impl PodId {
    /// The id as the provider writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PodId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for PodId {
    type Error = NotAnId;

    fn try_from(text: String) -> Result<Self, NotAnId> {
        let fits = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if fits { Ok(Self(text)) } else { Err(NotAnId) }
    }
}

impl From<PodId> for String {
    fn from(id: PodId) -> Self {
        id.0
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that cannot be the id of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a pod: letters, digits, - and _, at most 64 of them")]
pub struct NotAnId;

/// Which part of the provider's fleet: its own data centers, or machines of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Cloud {
    /// The provider's own data centers.
    Secure,
    /// Machines that third parties run.
    Community,
}

impl Cloud {
    /// As RunPod writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secure => "SECURE",
            Self::Community => "COMMUNITY",
        }
    }
}

/// How much of an offer is in stock, in rising order. A level this version does not know counts as low.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Stock {
    /// Nothing: a create would be refused.
    None,
    /// A few.
    Low,
    /// Some.
    Medium,
    /// Plenty.
    High,
}

/// One kind of GPU in one cloud that could be rented now, as the catalog says: an order of candidates, never a reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The provider's opaque id, sent back when renting (`NVIDIA L40S`).
    pub gpu: String,
    /// The short name people use (`L40S`).
    pub name: String,
    /// Nominal memory of one GPU in GB, as the catalog says; what CUDA shows is less.
    pub memory_gb: u32,
    /// How many GPUs were asked for; stock and `hourly` are about that many on one machine.
    pub count: u32,
    /// Where it runs.
    pub cloud: Cloud,
    /// Dollars an hour for one GPU.
    pub price: Dollars,
    /// Stock for `count` GPUs, over all data centers.
    pub stock: Stock,
    /// Stock by data center, those that have none included when the catalog names them.
    pub data_centers: BTreeMap<String, Stock>,
    /// The most GPUs of this kind that one pod can have in this cloud.
    pub max_count: u32,
}

impl Offer {
    /// Dollars an hour for all `count` GPUs.
    pub fn hourly(&self) -> Dollars {
        self.price.times(self.count)
    }
}

/// A pod to be rented. Port 22 over TCP is always asked for; nothing else is ever opened.
#[derive(Clone, PartialEq, Eq)]
pub struct NewPod {
    /// `srchat-<installation>-<uid>-<attempt>`: the only handle on a pod whose id we never learned.
    pub name: String,
    /// The container image.
    pub image: String,
    /// The GPU's id, of an [`Offer`].
    pub gpu: String,
    /// How many GPUs.
    pub count: u32,
    /// Which cloud.
    pub cloud: Cloud,
    /// Container disk in GB, at least 20.
    pub disk_gb: u32,
    /// The start command, in the form the image needs, at most 102,400 bytes.
    pub args: String,
    /// Create-time environment, at most 50 variables, readable by whoever holds the account's key.
    pub env: BTreeMap<String, String>,
    /// Data centers it may run in; empty lets the provider choose.
    pub data_centers: Vec<String>,
    /// Lowest CUDA version of the machine's driver, as `major.minor`.
    pub min_cuda: Option<String>,
}

impl fmt::Debug for NewPod {
    /// Without the values of the environment and the start command: one carries a nonce, the other is kilobytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            image,
            gpu,
            count,
            cloud,
            disk_gb,
            args,
            env,
            data_centers,
            min_cuda,
        } = self;
        f.debug_struct("NewPod")
            .field("name", name)
            .field("image", image)
            .field("gpu", gpu)
            .field("count", count)
            .field("cloud", cloud)
            .field("disk_gb", disk_gb)
            .field("args_bytes", &args.len())
            .field("env", &Vec::from_iter(env.keys()))
            .field("data_centers", data_centers)
            .field("min_cuda", min_cuda)
            .finish()
    }
}

/// What the provider calls the state of a pod. None of them proves that anything works; only some prove that it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PodStatus {
    /// Being placed.
    Provisioning,
    /// The container is being started.
    Starting,
    /// Also said while the image is pulled and while the container crash-loops.
    Running,
    /// Stopped: no compute, and the disk goes on being billed.
    Exited,
    /// Broken for good.
    Error,
    /// Ended; such a record may linger after a DELETE.
    Terminated,
    /// A word that this version does not know, or none.
    Other,
}

impl From<&str> for PodStatus {
    fn from(text: &str) -> Self {
        match text {
            "PROVISIONING" => Self::Provisioning,
            "STARTING" => Self::Starting,
            "RUNNING" => Self::Running,
            "EXITED" => Self::Exited,
            "ERROR" => Self::Error,
            "TERMINATED" => Self::Terminated,
            _ => Self::Other,
        }
    }
}

/// Where something listens: a host name or IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// TCP port, not 0.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The provider's record of a pod. Only the id is certain: whatever else could not be read is absent, never guessed.
#[derive(Clone, PartialEq, Eq)]
pub struct Pod {
    /// The provider's id.
    pub id: PodId,
    /// The name it was created with; not unique.
    pub name: String,
    /// The provider's word on its state.
    pub status: PodStatus,
    /// When it was made; `None` when that could not be read.
    pub created_at: Option<Timestamp>,
    /// When its container was started last.
    pub started_at: Option<Timestamp>,
    /// Dollars an hour now: 0 when EXITED or TERMINATED; `None` when that could not be read.
    pub cost: Option<Dollars>,
    /// Where 22/tcp is published. Present does not mean that anything listens, and it can be stale after a restart.
    pub ssh: Option<Address>,
    /// Seconds since the container was started.
    pub uptime: Option<u64>,
    /// Create-time environment, where the proof of ownership is.
    pub env: BTreeMap<String, String>,
    /// The GPU's id.
    pub gpu: Option<String>,
    /// How many GPUs.
    pub count: u32,
    /// Where it was placed.
    pub data_center: Option<String>,
    /// The image it runs.
    pub image: String,
}

impl Pod {
    /// Order of age: the oldest first, then by id; what has no time counts as the youngest.
    pub fn age_order(&self, other: &Self) -> std::cmp::Ordering {
        let key = |pod: &Self| (pod.created_at.is_none(), pod.created_at);
        key(self)
            .cmp(&key(other))
            .then_with(|| self.id.cmp(&other.id))
    }
}

impl fmt::Debug for Pod {
    /// Without the values of the environment: the nonce is there until the pin, and users' images may have more.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            name,
            status,
            created_at,
            started_at,
            cost,
            ssh,
            uptime,
            env,
            gpu,
            count,
            data_center,
            image,
        } = self;
        f.debug_struct("Pod")
            .field("id", id)
            .field("name", name)
            .field("status", status)
            .field("created_at", created_at)
            .field("started_at", started_at)
            .field("cost", cost)
            .field("ssh", ssh)
            .field("uptime", uptime)
            .field("env", &Vec::from_iter(env.keys()))
            .field("gpu", gpu)
            .field("count", count)
            .field("data_center", data_center)
            .field("image", image)
            .finish()
    }
}

/// A complete list of the account's pods. There is no partial one: what could not be read to its end is an [`Error`].
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Before its first request left, on the monotonic clock.
    pub began: Instant,
    /// The same moment on the wall clock, to be compared with times that outlive a process.
    pub began_at: Timestamp,
    /// The key it was read with: absence in one account says nothing about another.
    pub key: Fingerprint,
    /// Every pod, by id.
    pub pods: BTreeMap<PodId, Pod>,
}

/// Which key was used: 16 hex digits of its SHA-256, safe to keep and to show.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub String);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A line of a pod's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written, if that could be read.
    pub at: Option<Timestamp>,
    /// The line, without its end.
    pub line: String,
}

/// What a pod has cost, as the provider bills it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Billed {
    /// All of it: compute and disk.
    pub total: Dollars,
    /// The end of the last period that the provider has billed; `None` when it has billed nothing yet.
    pub until: Option<Timestamp>,
}

/// What the provider answered, or that nothing could be learned. All but [`Error::Ambiguous`] and [`Error::Unavailable`] are facts.
///
/// From a call that changes something, `Unavailable` says for certain that nothing left this process, and `Ambiguous` that it
/// may have taken effect. From a call that only reads there is no `Ambiguous`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// 404: no such pod, for this key. Right after a create it proves nothing.
    #[error("RunPod does not know it")]
    NotFound,
    /// No machine is free for this request; another candidate may have one.
    #[error("RunPod has no capacity: {detail}")]
    NoCapacity {
        /// The provider's sentence.
        detail: Arc<str>,
    },
    /// 401: the key is missing, wrong or revoked.
    #[error("RunPod does not accept the key: {detail}")]
    Unauthorized {
        /// The provider's sentence.
        detail: Arc<str>,
    },
    /// 403: the key is known, and may not do this.
    #[error("RunPod forbids it: {detail}")]
    Forbidden {
        /// The provider's sentence.
        detail: Arc<str>,
    },
    /// 402: the account has no money. No candidate will succeed.
    #[error("the RunPod account has no balance: {detail}")]
    InsufficientBalance {
        /// The provider's sentence.
        detail: Arc<str>,
    },
    /// 429, or our own share of the rate limit is used up; nothing was done.
    #[error("RunPod's rate limit: again in {} s", after.as_secs_f32().ceil())]
    RateLimited {
        /// How long to wait, from now.
        after: Duration,
    },
    /// The request was understood and refused.
    #[error("RunPod refused: {detail}")]
    Rejected {
        /// Whether another candidate may fare better.
        scope: Scope,
        /// The provider's sentence.
        detail: Arc<str>,
    },
    /// 409: not in this state, or not while it belongs to a cluster.
    #[error("RunPod refused for now: {detail}")]
    Conflict {
        /// The provider's sentence.
        detail: Arc<str>,
    },
    /// The request may have taken effect: a timeout, a reset, a 5xx, or an answer that could not be read.
    #[error("RunPod may have done it or not: {detail}")]
    Ambiguous {
        /// What was seen.
        detail: Arc<str>,
    },
    /// Nothing could be learned, and nothing was done.
    #[error("RunPod cannot be reached: {detail}")]
    Unavailable {
        /// What was seen.
        detail: Arc<str>,
    },
}

impl Error {
    /// The kind's name, for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotFound => "NotFound",
            Self::NoCapacity { .. } => "NoCapacity",
            Self::Unauthorized { .. } => "Unauthorized",
            Self::Forbidden { .. } => "Forbidden",
            Self::InsufficientBalance { .. } => "InsufficientBalance",
            Self::RateLimited { .. } => "RateLimited",
            Self::Rejected { .. } => "Rejected",
            Self::Conflict { .. } => "Conflict",
            Self::Ambiguous { .. } => "Ambiguous",
            Self::Unavailable { .. } => "Unavailable",
        }
    }
}

/// How far a refusal reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// This candidate: try the next. When all answer so, the fault is the request's.
    Candidate,
    /// The request itself: it would be refused with every candidate. Never retry.
    Request,
}

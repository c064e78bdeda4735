//! What every session's controller shares: the API server, the provider, the Hub, the installation. Settings are fixed at the start.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::Client;
use kube::runtime::events::Recorder;
use srchat_crds::ChatSessionStatus;
use tokio::sync::{Notify, watch};

use super::decide::Verdict;
use super::ledger::store::{Ledgers, Stored};
use super::observe::{
    BillSeen, BootSeen, Door, Gap, Glance, HostSeen, NoAccount, PlanSeen, PodsSeen,
};
use super::progress::Progress;
use crate::host::deploy::Accepted;
use crate::hub::Hub;
use crate::installation::Installation;
use crate::metrics;
use crate::provider::runpod::LogStream;
use crate::provider::snapshot::Snapshots;
use crate::provider::{Cloud, Error, Offer, PodId};
use crate::publish::{Front, Routes};
use crate::ssh::Connection;

/// The catalog is asked for all sessions at once; prices and stock are an order of candidates and never a promise.
const OFFERS_FRESH: Duration = Duration::from_secs(10);

/// All that does not belong to one session.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Writes events.
    pub recorder: Recorder,
    /// The ledgers, in our own namespace.
    pub ledgers: Ledgers,
    /// The routes, in the sessions' namespace.
    pub routes: Routes,
    /// What is published to users.
    pub front: Front,
    /// Who we are.
    pub installation: Installation,
    /// Whether that is the installation of this cluster.
    pub bound: bool,
    /// The provider, and one list for all who ask.
    pub snapshots: Arc<Snapshots>,
    /// Why there is no usable provider key.
    pub no_account: watch::Receiver<Option<NoAccount>>,
    /// Model facts.
    pub hub: Hub,
    /// The last time that no controller was there.
    pub gap: watch::Receiver<Option<Gap>>,
    /// Fixed at the start.
    pub settings: Settings,
    /// What is counted.
    pub metrics: metrics::Controller,
    /// Where the sessions are that a pass has looked at, by UID: what wakes them knows UIDs only.
    pub(super) places: Mutex<HashMap<String, (String, String)>>,
    pub(super) memories: Mutex<HashMap<String, Memory>>,
    /// Told of every go that failed.
    pub(super) failed: Notify,
    pub(super) offers: tokio::sync::Mutex<Catalog>,
}

/// The offers for so many GPUs in one cloud, and when they were read.
pub(super) type Catalog = HashMap<(u32, Cloud), (Instant, Vec<Offer>)>;

/// Fixed at the start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our own namespace.
    pub namespace: String,
    /// The base URL of the model hub, as a host reaches it.
    pub hub_url: String,
    /// What `SRCHAT_API` says on a host.
    pub api_for_hosts: String,
    /// The root on a host's disk; `{attempt}` stands for UID and attempt.
    pub host_root: String,
    /// The root in a host's memory, likewise.
    pub host_memory: String,
    /// The user of the controller's key.
    pub controller_user: String,
    /// The user of the gateways' key.
    pub gateway_user: String,
}

impl Settings {
    /// A root with its placeholder filled in.
    pub fn root_for(root: &str, uid: &str, attempt: u64) -> String {
        root.replace("{attempt}", &format!("{uid}-{attempt}"))
    }
}

/// What one session's controller remembers between passes. All of it can be learned again: forgetting it costs time and nothing else.
#[derive(Default)]
pub(crate) struct Memory {
    pub pods: PodsSeen,
    pub plan: Option<PlanSeen>,
    pub boot: Option<BootSeen>,
    pub host: Option<HostSeen>,
    pub glance: Option<Glance>,
    pub bills: BTreeMap<PodId, BillSeen>,
    pub line: Option<(PodId, Connection)>,
    /// The log of a pod that boots, as it is being written; closed at the pin.
    pub log: Option<(PodId, LogStream)>,
    /// What the host answered to the deployment.
    pub accepted: Option<(PodId, Accepted)>,
    /// Our own Secrets as they were read or written in this go; dropped at its end.
    pub stored: Option<Stored>,
    pub door: Option<Door>,
    /// What the last report was about.
    pub said: Option<Verdict>,
    /// The status of a session that cannot be read, as it was written last.
    pub shown: Option<ChatSessionStatus>,
    /// Whether it moves.
    pub progress: Option<Progress>,
    pub failures: u32,
    pub written: Option<Timestamp>,
}

impl Context {
    /// Takes a session's memory; it is put back at the end of the pass. A session is never looked at twice at once.
    pub(super) fn recall(&self, uid: &str) -> Memory {
        self.memories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(uid)
            .unwrap_or_default()
    }

    pub(super) fn remember(&self, uid: &str, memory: Memory) {
        self.memories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(uid.to_owned(), memory);
    }

    /// The sessions whose last go failed.
    pub(super) fn failing(&self) -> Vec<String> {
        let memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        let failing = memories.iter().filter(|(_, memory)| memory.failures > 0);
        failing.map(|(uid, _)| uid.clone()).collect()
    }

    pub(super) fn forget(&self, uid: &str) {
        self.keep(|other| other != uid);
    }

    /// Forgets all sessions but these.
    pub(crate) fn keep(&self, keep: impl Fn(&str) -> bool) {
        self.metrics.retain(&keep);
        self.memories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|uid, _| keep(uid));
        self.places
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|uid, _| keep(uid));
    }

    /// Remembers where a session is.
    pub(super) fn place(&self, uid: &str, namespace: String, name: String) {
        self.places
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(uid.to_owned(), (namespace, name));
    }

    /// Offers for so many GPUs, at most [`OFFERS_FRESH`] old.
    pub(super) async fn offers(
        &self,
        count: u32,
        clouds: BTreeSet<Cloud>,
    ) -> Result<Vec<Offer>, Error> {
        let mut known = self.offers.lock().await;
        let mut all = Vec::new();
        for cloud in clouds {
            match known
                .get(&(count, cloud))
                .filter(|(at, _)| at.elapsed() < OFFERS_FRESH)
            {
                Some((_, offers)) => all.extend(offers.iter().cloned()),
                None => {
                    let Some(provider) = self.snapshots.provider() else {
                        return Err(Error::Unauthorized {
                            detail: "there is no RunPod API key yet".into(),
                        });
                    };
                    let offers = provider.offers(count, cloud).await?;
                    all.extend(offers.iter().cloned());
                    known.insert((count, cloud), (Instant::now(), offers));
                }
            }
        }
        Ok(all)
    }
}

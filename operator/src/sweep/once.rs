//! `srchat-operator sweep --once`: the same look, made by hand. Pods that a ledger knows are left to the controller, which can clear
//! their hosts first.

use std::io::Write as _;
use std::time::{Duration, Instant};

use kube::{Api, Client};

use super::{Blind, Ours, ours, sessions};
use crate::account;
use crate::args::SweepArgs;
use crate::installation::store::{self, Store};
use crate::ours::named;
use crate::provider::runpod::{Key, Misconfigured, RunPod};
use crate::provider::{Error as ProviderError, Snapshot, snapshot::Snapshots};
use crate::session::ledger::PROOF_INTERVAL;
use crate::session::ledger::store::Ledgers;

/// How long to wait for the provider to forget what it was told to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why a sweep by hand did not happen, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be listed, so nothing may be concluded.
    #[error(transparent)]
    Blind(#[from] Blind),
    /// The API server did not answer.
    #[error("could not {0}")]
    Api(&'static str, #[source] kube::Error),
    /// There is no installation, or it is damaged.
    #[error(transparent)]
    Installation(#[from] store::Error),
    /// There is none.
    #[error(
        "there is no installation in namespace {0}: name the lost one with --installation ID --confirm"
    )]
    NoInstallation(String),
    /// It was made in another cluster.
    #[error("the installation {0} belongs to another cluster, and nothing is swept from here")]
    Foreign(String),
    /// There is no key to ask the provider with.
    #[error("there is no {key} in the Secret {secret} of namespace {0}", secret = account::SECRET, key = account::KEY)]
    NoKey(String),
    /// The provider's address or key makes no sense.
    #[error(transparent)]
    Misconfigured(#[from] Misconfigured),
    /// Some pods are still there.
    #[error("{0} orphans could not be proved gone; sweep again")]
    Left(usize),
    /// Nothing could be said.
    #[error("could not write to standard output")]
    Output(#[from] std::io::Error),
}

/// Looks once, says what it finds, and ends it unless that is a dry run.
pub async fn run(args: SweepArgs) -> Result<(), Error> {
    let SweepArgs {
        namespaces,
        runpod_url,
        once: _,
        dry_run,
        installation,
        confirm: _,
    } = args;
    let client = Client::try_default()
        .await
        .map_err(|e| Error::Api("find the cluster", e))?;
    let key = key(&client, &namespaces.namespace).await?;
    let provider = RunPod::new(runpod_url.as_str(), key)?;
    let snapshots = Snapshots::new(Some(provider.clone()));
    let look = || async {
        snapshots
            .after(Instant::now())
            .await
            .map_err(Blind::Provider)
    };
    let snapshot = look().await?;
    let mine = match installation {
        Some(id) => by_name(&snapshot, &id),
        None => {
            let store = Store::new(
                client.clone(),
                &namespaces.namespace,
                &namespaces.sessions_namespace,
            );
            let found = store
                .read()
                .await?
                .ok_or_else(|| Error::NoInstallation(namespaces.namespace.clone()))?;
            let (installation, bound) = found;
            if !bound {
                return Err(Error::Foreign(installation.id));
            }
            ours(&snapshot, &installation.id, installation.key())
        }
    };
    let ledgers = Ledgers::new(client.clone(), &namespaces.namespace)
        .list()
        .await;
    let ledgers = ledgers.map_err(|e| Error::Api("list ledgers", e))?;
    let (first, second) = (sessions(&client).await?, sessions(&client).await?);
    let owned = |pod: &Ours| first.contains(&pod.uid) || second.contains(&pod.uid);
    let (kept, orphans): (Vec<_>, Vec<_>) = mine
        .into_iter()
        .filter(|pod| !owned(pod))
        .partition(|pod| ledgers.contains_key(&pod.uid));
    say(&kept, "left to the controller: its ledger is there")?;
    if dry_run {
        return say(&orphans, "would be terminated");
    }
    for pod in &orphans {
        match provider.delete(&pod.id).await {
            Ok(()) | Err(ProviderError::NotFound) => {}
            Err(error) => tracing::error!(pod = %pod.id, %error, "could not terminate an orphan"),
        }
    }
    let left = prove(&snapshots, &orphans).await?;
    let (left, gone): (Vec<_>, Vec<_>) = orphans.into_iter().partition(|pod| left.contains(pod));
    say(&gone, "terminated, and seen to be absent twice")?;
    say(&left, "still there")?;
    if left.is_empty() {
        Ok(())
    } else {
        Err(Error::Left(left.len()))
    }
}

/// The pods that two complete lists, [`PROOF_INTERVAL`] apart, do not both miss in time.
async fn prove(snapshots: &Snapshots, pods: &[Ours]) -> Result<Vec<Ours>, Error> {
    let deadline = Instant::now() + PATIENCE;
    let mut missed: Option<Instant> = None;
    let mut left = pods.to_vec();
    while !left.is_empty() && Instant::now() < deadline {
        let snapshot = snapshots
            .after(Instant::now())
            .await
            .map_err(Blind::Provider)?;
        let there: Vec<_> = pods
            .iter()
            .filter(|pod| snapshot.pods.contains_key(&pod.id))
            .cloned()
            .collect();
        match missed {
            Some(first) if there.is_empty() && first + PROOF_INTERVAL <= snapshot.began => {
                return Ok(Vec::new());
            }
            None if there.is_empty() => missed = Some(snapshot.began),
            Some(_) if !there.is_empty() => missed = None,
            Some(_) | None => {}
        }
        left = pods.to_vec();
        tokio::time::sleep(PROOF_INTERVAL).await;
    }
    Ok(left)
}

/// For those who lost the key: names alone, which is why it asks for `--confirm`.
fn by_name(snapshot: &Snapshot, installation: &str) -> Vec<Ours> {
    let pods = snapshot.pods.values();
    pods.filter_map(|pod| {
        named(&pod.name, installation).map(|(uid, attempt)| Ours {
            id: pod.id.clone(),
            uid,
            attempt,
        })
    })
    .collect()
}

async fn key(client: &Client, namespace: &str) -> Result<Key, Error> {
    account::read(&Api::namespaced(client.clone(), namespace))
        .await
        .map_err(|e| Error::Api("read the provider's key", e))?
        .and_then(Result::ok)
        .ok_or_else(|| Error::NoKey(namespace.to_owned()))
}

fn say(pods: &[Ours], what: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    for pod in pods {
        writeln!(
            out,
            "{}  session {}  attempt {}  {what}",
            pod.id, pod.uid, pod.attempt
        )?;
    }
    Ok(())
}

//! The controller as a process: watches, the provider's key, the Lease, the poller, and the one loop over all sessions.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt as _, future};
use jiff::Timestamp;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action as Next, Config as Pace};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Controller, WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, Config, Resource as _};
use prometheus_client::registry::Registry;
use srchat_crds::{ChatSession, FIELD_MANAGER};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use super::context::{Context, Settings};
use super::ledger::store::Ledgers;
use super::observe::{Gap, NoAccount};
use super::{Given, outage, reconcile};
use crate::args::ControllerArgs;
use crate::http::{Probes, asked_to_end, serve_probes};
use crate::hub::Hub;
use crate::installation::store::Store;
use crate::metrics;
use crate::provider::snapshot::Snapshots;
use crate::provider::{PodId, Snapshot};
use crate::publish::{Front, Routes};
use crate::{account, backoff, host, installation, lease, ours};

/// Sessions at once: most passes wait for a host or the provider, and both have limits of their own.
const CONCURRENCY: u16 = 64;
/// Between two looks at certificate and receipts' key: a leaf is renewed a month before its end.
const KEEP_EVERY: Duration = Duration::from_secs(3600);
/// One request to the API server. Beyond it the server is away, and the pass is done over.
const API_TIMEOUT: Duration = Duration::from_secs(15);

/// Why the controller ended.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// No cluster.
    #[error("could not find the cluster")]
    Cluster(#[from] kube::config::InferConfigError),
    /// The API server was not there, or said no.
    #[error("could not {0}")]
    Api(&'static str, #[source] kube::Error),
    /// The installation.
    #[error("could not open the installation")]
    Installation(#[from] installation::store::Error),
    /// The Hub's client.
    #[error("could not make a client for the Hub")]
    Hub(#[source] reqwest::Error),
    /// The system.
    #[error("could not {0}")]
    System(&'static str, #[source] std::io::Error),
    /// A part that never ends did.
    #[error("{0} ended")]
    Part(&'static str),
}

/// Runs until it is asked to end.
///
/// # Errors
/// When it cannot start, or a part of it ends.
pub async fn run(args: ControllerArgs) -> Result<(), Stopped> {
    let client = client().await?;
    let mut registry = Registry::default();
    let counted = metrics::Controller::new(&mut registry);
    let listener = TcpListener::bind(args.metrics_listen)
        .await
        .map_err(|e| Stopped::System("listen for probes", e))?;

    let namespace = args.namespaces.namespace.clone();
    let store = Store::new(
        client.clone(),
        &namespace,
        &args.namespaces.sessions_namespace,
    );
    let (installation, bound) = store.open(&names(&args)).await?;
    if bound {
        store.keep(&installation, Timestamp::now()).await?;
    } else {
        tracing::error!(
            "the Secret srchat-installation was made for another cluster: nothing is rented and nothing is swept"
        );
    }
    let gap = lease::renew(&client, &namespace, Timestamp::now())
        .await
        .map_err(|e| Stopped::Api("renew the Lease", e))?;
    let (gap_said, gap) = watch::channel(gap);
    let (account_said, no_account) = watch::channel(Some(NoAccount::Missing));
    let snapshots = Arc::new(Snapshots::new(None));

    let reporter = Reporter {
        controller: FIELD_MANAGER.to_owned(),
        instance: None,
    };
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        ledgers: Ledgers::new(client.clone(), &namespace),
        routes: Routes::new(client.clone(), &args.namespaces.sessions_namespace),
        front: Front {
            gateway_url: args.gateway_base(),
            ca: args
                .gateway_ca
                .clone()
                .unwrap_or_else(|| installation.authority.bundle()),
        },
        installation,
        bound,
        snapshots: Arc::clone(&snapshots),
        no_account,
        hub: Hub::new(args.hub_url.as_str().trim_end_matches('/')).map_err(Stopped::Hub)?,
        gap,
        settings: settings(&args),
        metrics: counted.clone(),
        places: Mutex::default(),
        memories: Mutex::default(),
        failed: Notify::new(),
        offers: tokio::sync::Mutex::default(),
        client: client.clone(),
    });

    let (woken, wake) = futures::channel::mpsc::unbounded();
    let controller = sessions(&client)
        .with_config(Pace::default().concurrency(CONCURRENCY))
        .trigger_backoff(backoff::of_a_watch())
        .reconcile_on(wake);
    let watched = controller.store();
    let watching = future::join3(
        listen_for_pods(Arc::clone(&context), woken.clone()),
        listen_for_account(Arc::clone(&context), woken.clone()),
        outage::watch(&client, &context.failed, || wake_failed(&context, &woken)),
    );
    let provider = account::watch(
        client.clone(),
        namespace.clone(),
        args.runpod_url.to_string(),
        Arc::clone(&snapshots),
        counted.provider_calls.clone(),
        account_said,
    );
    let leasing = keep_lease(client.clone(), namespace, gap_said);
    let keeping = keep_installation(store, Arc::clone(&context));
    let probes = serve_probes(listener, Probes::new(Arc::new(registry), || true));
    tokio::select! {
        asked = asked_to_end() => asked.map_err(|e| Stopped::System("listen for signals", e)),
        () = control(controller, Arc::clone(&context)) => Err(Stopped::Part("the watch of sessions")),
        () = provider => Err(Stopped::Part("the watch of the provider's key")),
        never = leasing => match never {},
        never = keeping => match never {},
        _ = watching => Err(Stopped::Part("the watch of pods")),
        () = crate::sweep::run(Arc::clone(&context), watched) => Err(Stopped::Part("the sweep")),
        () = snapshots.poll() => Err(Stopped::Part("the poller")),
        () = probes => Err(Stopped::Part("the probes")),
    }
}

/// A client whose requests end: by default kube retries some for minutes inside one call, and waits for ever for others.
async fn client() -> Result<Client, Stopped> {
    let mut config = Config::infer().await?;
    config.default_retry = false;
    config.connect_timeout = Some(API_TIMEOUT);
    config.write_timeout = Some(API_TIMEOUT);
    // Watches are long requests with silence in them; a bookmark comes every minute.
    config.read_timeout = Some(Duration::from_secs(295));
    Client::try_from(config).map_err(|e| Stopped::Api("make a client", e))
}

fn settings(args: &ControllerArgs) -> Settings {
    Settings {
        namespace: args.namespaces.namespace.clone(),
        hub_url: args.hub_url.as_str().trim_end_matches('/').to_owned(),
        api_for_hosts: args.api_for_hosts().to_owned(),
        host_root: args.host_root.to_string_lossy().into_owned(),
        host_memory: args.host_memory.to_string_lossy().into_owned(),
        controller_user: args
            .host_user
            .clone()
            .unwrap_or_else(|| host::CONTROLLER_USER.to_owned()),
        gateway_user: args
            .host_user
            .clone()
            .unwrap_or_else(|| host::GATEWAY_USER.to_owned()),
    }
}

/// What the gateways' certificate has to be for.
fn names(args: &ControllerArgs) -> Vec<String> {
    let mut names = vec![
        format!("srchat-gateway.{}.svc", args.namespaces.namespace),
        "localhost".to_owned(),
    ];
    if let Some(host) = args.gateway_url.as_ref().and_then(|url| url.host_str()) {
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        if !names.contains(&host) {
            names.push(host);
        }
    }
    names
}

/// All sessions as they change. Who wrote which field is the API server's own book: it is longer than many a session, is never
/// read here, and would be held for each of them.
fn sessions(client: &Client) -> Controller<DeserializeGuard<ChatSession>> {
    let (reader, writer) = reflector::store();
    let changes = watcher(Api::all(client.clone()), watcher::Config::default())
        .modify(|session: &mut DeserializeGuard<ChatSession>| {
            session.meta_mut().managed_fields = None;
        })
        .reflect(writer)
        .applied_objects();
    Controller::for_stream(changes, reader)
}

/// The loop over all sessions.
async fn control(controller: Controller<DeserializeGuard<ChatSession>>, context: Arc<Context>) {
    controller
        .run(
            |session, context| async move {
                let given = Given::from(DeserializeGuard::clone(&session));
                reconcile(given, context).await
            },
            |_, _, _| Next::requeue(super::AGAIN),
            context,
        )
        .for_each(|outcome| async move {
            if let Err(error) = outcome {
                tracing::debug!(%error, "a pass ended");
            }
        })
        .await;
}

type Woken = futures::channel::mpsc::UnboundedSender<ObjectRef<DeserializeGuard<ChatSession>>>;

/// Wakes a session when a complete list shows its pods otherwise than the one before.
async fn listen_for_pods(context: Arc<Context>, woken: Woken) {
    let mut lists = context.snapshots.subscribe();
    let mut before: HashMap<String, u64> = HashMap::new();
    while lists.changed().await.is_ok() {
        let Some(snapshot) = lists
            .borrow_and_update()
            .as_ref()
            .and_then(|latest| latest.outcome.clone().ok())
        else {
            continue;
        };
        let now = by_session(&context, &snapshot);
        let changed = now
            .iter()
            .filter(|(uid, digest)| before.get(*uid) != Some(*digest))
            .map(|(uid, _)| uid);
        let vanished = before.keys().filter(|uid| !now.contains_key(*uid));
        for uid in changed.chain(vanished) {
            wake(&context, &woken, Some(uid));
        }
        before = now;
    }
}

/// A digest of each session's pods.
fn by_session(context: &Context, snapshot: &Snapshot) -> HashMap<String, u64> {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut sessions: HashMap<String, DefaultHasher> = HashMap::new();
    for (id, pod) in &snapshot.pods {
        let id: &PodId = id;
        // It only wakes: whoever is woken looks for the proof.
        let Some((uid, _)) = ours::named(&pod.name, &context.installation.id) else {
            continue;
        };
        let hasher = sessions.entry(uid).or_default();
        (id, pod.status, pod.cost, &pod.ssh).hash(hasher);
    }
    sessions
        .into_iter()
        .map(|(uid, hasher)| (uid, hasher.finish()))
        .collect()
}

/// Wakes every session when the provider's key changes, or its being accepted.
async fn listen_for_account(context: Arc<Context>, woken: Woken) {
    let mut changes = context.no_account.clone();
    while changes.changed().await.is_ok() {
        wake(&context, &woken, None);
    }
}

fn wake(context: &Context, woken: &Woken, uid: Option<&str>) {
    for reference in context.known(uid) {
        // Only at the very end of the process is nobody listening any more.
        let _ = woken.unbounded_send(reference);
    }
}

/// Wakes the sessions whose last go failed.
fn wake_failed(context: &Context, woken: &Woken) {
    for uid in context.failing() {
        wake(context, woken, Some(&uid));
    }
}

async fn keep_lease(
    client: Client,
    namespace: String,
    said: watch::Sender<Option<Gap>>,
) -> Infallible {
    loop {
        tokio::time::sleep(lease::RENEW_EVERY).await;
        match lease::renew(&client, &namespace, Timestamp::now()).await {
            Ok(gap) => {
                said.send_if_modified(|before| std::mem::replace(before, gap) != gap);
            }
            Err(error) => tracing::warn!(%error, "the Lease cannot be renewed"),
        }
    }
}

async fn keep_installation(store: Store, context: Arc<Context>) -> Infallible {
    loop {
        tokio::time::sleep(KEEP_EVERY).await;
        if !context.bound {
            continue;
        }
        if let Err(error) = store.keep(&context.installation, Timestamp::now()).await {
            tracing::warn!(%error, "certificate and receipts' key cannot be kept");
        }
    }
}

impl Context {
    /// Sessions that a pass has looked at, one or all.
    fn known(&self, uid: Option<&str>) -> Vec<ObjectRef<DeserializeGuard<ChatSession>>> {
        let places = self
            .places
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let reference =
            |(namespace, name): &(String, String)| ObjectRef::new(name).within(namespace);
        match uid {
            Some(uid) => places.get(uid).map(reference).into_iter().collect(),
            None => places.values().map(reference).collect(),
        }
    }
}

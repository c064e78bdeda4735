//! The reads behind an observation. The session and our own Secrets are read at the beginning of a pass; everything else only when a
//! decision asks for it, and what could not be read becomes a value.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt as _};
use srchat_crds::conditions::Planned;
use srchat_crds::session::Engine;
use srchat_crds::{
    ANNOTATION_ABANDON, ANNOTATION_UNCONFIRMED_UNTIL, ChatSession, Dollars, FINALIZER,
    LABEL_MODEL_TOKEN, status,
};

use tokio::time::{timeout, timeout_at};

use super::super::context::{Context, Memory};
use super::super::decide::Look;
use super::super::ledger::store::Stored;
use super::super::ledger::{Ledger, PodRecord};
use super::{
    BootSaid, BootSeen, Door, EngineSeen, FailedAt, Found, Glance, HostSeen, House, LedgerSeen,
    Limits, List, NoAccount, NoPlan, Observation, PlanAnswer, PlanSeen, Proposal, Published,
    RouteSeen, SeenPod, Session, Trouble, Unread, UnreadWhy, Visit,
};
use crate::host::boot::{self, BootLog, Nonce};
use crate::host::visit::FailureKind;
use crate::host::{Incarnation, visit};
use crate::ours;
use crate::plan::{self, OfferKey, Wish};
use crate::provider::runpod::LogStream;
use crate::provider::{Address, Cloud, Error, Fingerprint, Pod, PodId, PodStatus, Snapshot};
use crate::publish;
use crate::ssh::{self, Connection, Target};
use crate::{hub, ssh::KeyPair};

/// The boot's lines are few, and an image's own may be many; this is what the provider keeps.
const LOG_TAIL: u32 = 5_000;
/// How long a host that starts up may hold its answer back until something changes. Short enough that a deletion is noticed soon.
const PATIENCE: Duration = Duration::from_secs(2);
/// Until the head of a log's answer is there: it needs the pod's machine, and a deletion must not wait for that long.
const LOG_HEAD: Duration = Duration::from_secs(5);
/// Lines written before come in one burst, whose last line that counts is the one.
const BURST: Duration = Duration::from_millis(60);
/// What a look that failed waits for when the provider does not say.
const AGAIN: Duration = Duration::from_secs(5);
/// While the key is not accepted nobody but a person can help.
const AGAIN_UNAUTHORIZED: Duration = Duration::from_secs(60);

/// A session as the API server has it, with everything about it that costs nothing to know.
///
/// # Errors
/// When the API server did not answer.
pub(crate) async fn observe(
    context: &Context,
    session: &ChatSession,
    memory: &mut Memory,
) -> Result<(Observation, Stored), kube::Error> {
    let own = parse(session);
    let stored = match memory.stored.take() {
        Some(stored) => stored,
        None => context.ledgers.read(&own.uid).await?,
    };
    let door = match memory.door.take() {
        Some(door) => door,
        None => door(context, session, &own).await?,
    };
    memory.door = Some(door.clone());
    if let (Some(snapshot), LedgerSeen::Is(ledger)) = (context.snapshots.latest(), &stored.seen) {
        newer(context, ledger, memory, &snapshot);
    }
    let seen = Observation {
        now: Timestamp::now(),
        session: own,
        ledger: stored.seen.clone(),
        house: house(context),
        door,
        pods: memory.pods.clone(),
        plan: memory.plan.clone(),
        boot: memory.boot.clone(),
        host: memory.host.clone(),
        glance: memory.glance.clone(),
    };
    Ok((seen, stored))
}

/// The session's way in.
async fn door(
    context: &Context,
    session: &ChatSession,
    own: &Session,
) -> Result<Door, kube::Error> {
    let (published, route) = tokio::try_join!(
        context.front.look(&context.client, session),
        context.routes.get(&own.uid)
    )?;
    Ok(Door {
        published: match published {
            publish::Published::Missing => Published::Missing,
            publish::Published::Taken => Published::Taken,
            publish::Published::Ours {
                token,
                stale,
                found: _,
            } => Published::Ours {
                stale,
                token: token.and_then(|token| token.hash()).map(|hash| hash.sha256),
            },
        },
        route: match route {
            None => RouteSeen::Missing,
            Some(route) => RouteSeen::Is {
                token: route.token.map(|token| token.sha256),
                host: route
                    .host
                    .and_then(|host| Some((host.host_key, address(&host.address)?))),
            },
        },
    })
}

/// One look that a decision asked for; its result is in the observation and in memory.
pub(crate) async fn look(
    context: &Context,
    session: &ChatSession,
    memory: &mut Memory,
    seen: &mut Observation,
    look: Look,
) {
    match look {
        Look::List { after } => list(context, memory, seen, after).await,
        Look::Plan => memory.plan = Some(ask_planner(context, session, seen).await),
        Look::Log { pod } => memory.boot = Some(read_log(context, memory, seen, pod).await),
        Look::Visit { pod, deadline } => {
            let visited = call(context, memory, seen, pod, deadline).await;
            memory.host = Some(visited);
        }
        Look::Glance { pod } => memory.glance = Some(glance(context, pod).await),
    }
    seen.now = Timestamp::now();
    seen.house = house(context);
    seen.pods = memory.pods.clone();
    seen.plan = memory.plan.clone();
    seen.boot = memory.boot.clone();
    seen.host = memory.host.clone();
    seen.glance = memory.glance.clone();
}

/// `host:port`, as [`Address`] writes it.
fn address(text: &str) -> Option<Address> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some(Address {
        host: host.to_owned(),
        port: port.parse().ok()?,
    })
}

fn house(context: &Context) -> House {
    let account = match (*context.no_account.borrow(), context.snapshots.provider()) {
        (Some(why), _) => Err(why),
        (None, None) => Err(NoAccount::Missing),
        (None, Some(provider)) => Ok(provider.fingerprint().clone()),
    };
    House {
        bound: context.bound,
        installation: context.installation.id.clone(),
        account,
        gap: *context.gap.borrow(),
    }
}

/// The session's own words, parsed. The CRD has checked them; what it could not check gets its default.
pub(crate) fn parse(session: &ChatSession) -> Session {
    let limits = &session.spec.limits;
    let lifetime = limits.lifetime.duration();
    let idle = limits
        .idle
        .map_or(lifetime.min(Duration::from_secs(30 * 60)), |idle| {
            idle.duration()
        });
    let annotation = |name: &str| session.annotations().get(name);
    Session {
        uid: session.uid().unwrap_or_default(),
        namespace: session.namespace().unwrap_or_default(),
        name: session.name_any(),
        generation: session.metadata.generation.unwrap_or_default(),
        created: session
            .creation_timestamp()
            .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        deleting: session.metadata.deletion_timestamp.is_some(),
        finalizer: session
            .finalizers()
            .iter()
            .any(|finalizer| finalizer == FINALIZER),
        replicas: u8::from(session.spec.replicas > 0),
        limits: Limits {
            hourly: limits.max_hourly_cost,
            total: limits.max_total_cost,
            lifetime,
            idle: (!idle.is_zero()).then_some(idle),
            startup: limits.startup.map(|startup| startup.duration()),
            attempts: limits.attempts,
        },
        wipe_timeout: session.spec.teardown.wipe_timeout.duration(),
        abandon: annotation(ANNOTATION_ABANDON).cloned(),
        unconfirmed_until: annotation(ANNOTATION_UNCONFIRMED_UNTIL)
            .map(|text| text.parse().unwrap_or(Timestamp::UNIX_EPOCH)),
    }
}

async fn list(context: &Context, memory: &mut Memory, seen: &Observation, after: Timestamp) {
    // A hair later than asked for, so that the two clocks cannot disagree about "after".
    let ago = Duration::try_from(Timestamp::now().duration_since(after)).unwrap_or_default();
    let at = Instant::now()
        .checked_sub(ago)
        .map(|at| at + Duration::from_millis(1));
    match context
        .snapshots
        .after(at.unwrap_or_else(Instant::now))
        .await
    {
        Ok(snapshot) => {
            if let LedgerSeen::Is(ledger) = &seen.ledger {
                newer(context, ledger, memory, &snapshot);
            }
            memory.pods.failed = None;
        }
        Err(error) => memory.pods.failed = Some(unread(&error)),
    }
}

/// Takes a complete list over, reduced to the session's own pods.
fn newer(context: &Context, ledger: &Ledger, memory: &mut Memory, snapshot: &Snapshot) {
    let mut own: Vec<&Pod> = snapshot
        .pods
        .values()
        .filter(|pod| ours(context, ledger, pod))
        .collect();
    own.sort_by(|a, b| a.age_order(b));
    let pods = own
        .into_iter()
        .map(|pod| seen_pod(context, ledger, pod))
        .collect();
    memory.pods.list = Some(List {
        began: snapshot.began_at,
        account: snapshot.key.clone(),
        pods,
    });
}

fn ours(context: &Context, ledger: &Ledger, pod: &Pod) -> bool {
    ledger.pod(&pod.id).is_some() || attempt_of(context, ledger, pod).is_some()
}

fn seen_pod(context: &Context, ledger: &Ledger, pod: &Pod) -> SeenPod {
    SeenPod {
        id: pod.id.clone(),
        attempt: attempt_of(context, ledger, pod),
        status: pod.status,
        created: pod.created_at,
        cost: pod.cost,
        address: pod.ssh.clone(),
        data_center: pod.data_center.clone(),
    }
}

/// The attempt of this session that a pod is proved to be of (S5).
fn attempt_of(context: &Context, ledger: &Ledger, pod: &Pod) -> Option<u64> {
    let by = &context.installation;
    let (uid, attempt) = ours::owner(pod, &by.id, by.key())?;
    (uid == ledger.session.uid).then_some(attempt)
}

async fn ask_planner(context: &Context, session: &ChatSession, seen: &Observation) -> PlanSeen {
    let at = Timestamp::now();
    let answer = match propose(context, session, seen).await {
        Ok(proposal) => PlanAnswer::Fits(Box::new(proposal)),
        Err(no) => PlanAnswer::No(no),
    };
    PlanSeen {
        at,
        generation: seen.session.generation,
        answer,
    }
}

async fn propose(
    context: &Context,
    session: &ChatSession,
    seen: &Observation,
) -> Result<Proposal, NoPlan> {
    let no = |reason, message: String, passing| NoPlan {
        reason,
        message,
        rejected: Vec::new(),
        passing,
    };
    let mut wish = Wish::of(&session.spec);
    if matches!(&seen.ledger, LedgerSeen::Is(ledger) if ledger.run.fallback.is_some()) {
        // vLLM does not start with this model: another pod would only show that again.
        wish.engine = Engine::Transformers;
    }
    let token = model_token(context, session)
        .await
        .map_err(|message| no(Planned::GatedModel, message, true))?;
    let facts = context
        .hub
        .facts(&wish.model, token.as_ref())
        .await
        .map_err(|error| {
            let passing = matches!(error, hub::Error::Unavailable { .. });
            no(Planned::from(&error), error.to_string(), passing)
        })?;
    let clouds = wish
        .cloud
        .map_or(BTreeSet::from([Cloud::Secure, Cloud::Community]), |cloud| {
            BTreeSet::from([cloud])
        });
    let offers = context.offers(wish.gpu_count, clouds).await;
    let offers = offers.map_err(|error| no(Planned::Planning, error.to_string(), true))?;
    let excluded: BTreeSet<OfferKey> = match &seen.ledger {
        LedgerSeen::Is(ledger) => ledger
            .left_out
            .iter()
            .filter(|left| left.until > seen.now)
            .map(|left| left.offer.clone())
            .collect(),
        LedgerSeen::Missing | LedgerSeen::Unreadable => BTreeSet::new(),
    };
    let plan = plan::plan(&wish, &facts, &offers, &excluded).map_err(|refusal| NoPlan {
        reason: refusal.reason,
        passing: matches!(
            refusal.reason,
            Planned::OutOfStock | Planned::NoFittingGPU | Planned::OverPrice
        ),
        rejected: refusal
            .rejected
            .iter()
            .map(|one| status::Rejected {
                gpu: one.gpu.clone(),
                reason: one.reason,
            })
            .collect(),
        message: refusal.message,
    })?;
    Ok(Proposal {
        offer: OfferKey {
            gpu: plan.gpu.clone(),
            cloud: plan.cloud,
        },
        hourly: plan.hourly_cost,
        estimate: Duration::from_secs(plan.startup_seconds),
        plan: Some(Box::new(plan)),
    })
}

/// The user's token for the Hub, from a Secret that its owner has offered by label: otherwise whoever may make a session could have
/// any Secret beside it sent to a host.
pub(crate) async fn model_token(
    context: &Context,
    session: &ChatSession,
) -> Result<Option<hub::Token>, String> {
    let Some(reference) = &session.spec.model_token_secret_ref else {
        return Ok(None);
    };
    let api: Api<Secret> = Api::namespaced(
        context.client.clone(),
        &session.namespace().unwrap_or_default(),
    );
    let name = &reference.name;
    let secret = api
        .get_opt(name)
        .await
        .map_err(|_| format!("the Secret {name} could not be read"))?;
    let secret = secret.ok_or_else(|| format!("there is no Secret {name} in this namespace"))?;
    if secret.labels().get(LABEL_MODEL_TOKEN).map(String::as_str) != Some("true") {
        return Err(format!(
            "the Secret {name} is not offered as a model token: kubectl label secret {name} {LABEL_MODEL_TOKEN}=true"
        ));
    }
    let value = secret
        .data
        .as_ref()
        .and_then(|data| data.get(&reference.key));
    let token = value
        .and_then(|value| std::str::from_utf8(&value.0).ok())
        .and_then(hub::Token::new);
    token.map(Some).ok_or_else(|| {
        format!(
            "the Secret {name} holds no token under the key {}",
            reference.key
        )
    })
}

/// The log of a pod, followed for a while: what was written before, then each line as it comes.
async fn read_log(
    context: &Context,
    memory: &mut Memory,
    seen: &Observation,
    pod: PodId,
) -> BootSeen {
    let before = memory
        .boot
        .take()
        .filter(|boot| boot.pod == pod)
        .map(|boot| boot.said);
    let said = match log_of(context, memory, &pod).await {
        Err(why) => BootSaid::Unread(why),
        Ok(mut log) => {
            let nonce = nonce(context, seen, &pod);
            let heard = listen(&mut log, nonce.as_ref(), &pod).await;
            let pinned = matches!(heard, (BootSaid::Host(..), _)) || is_pinned(seen, &pod);
            if heard.1 && !pinned {
                memory.log = Some((pod.clone(), log));
            }
            match (heard.0, before) {
                // Nothing new in a log that is followed: what it said before stands.
                (BootSaid::Silent, Some(said @ (BootSaid::Host(..) | BootSaid::Failed(_)))) => said,
                (said, _) => said,
            }
        }
    };
    BootSeen {
        pod,
        at: Timestamp::now(),
        said,
    }
}

async fn log_of(context: &Context, memory: &mut Memory, pod: &PodId) -> Result<LogStream, String> {
    if let Some((_, log)) = memory.log.take().filter(|(of, _)| of == pod) {
        return Ok(log);
    }
    let provider = context
        .snapshots
        .provider()
        .ok_or("there is no key to ask with")?;
    match timeout(LOG_HEAD, provider.follow(pod, LOG_TAIL)).await {
        Ok(followed) => followed.map_err(|error| error.to_string()),
        Err(_) => Err("its log took too long".to_owned()),
    }
}

/// What is heard within [`PATIENCE`], ending soon after a line that counts; and whether there may be more.
async fn listen(log: &mut LogStream, nonce: Option<&Nonce>, pod: &PodId) -> (BootSaid, bool) {
    let mut said = BootSaid::Silent;
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let pause = match said {
            BootSaid::Silent | BootSaid::Unread(_) => until,
            BootSaid::Host(..) | BootSaid::Failed(_) => {
                until.min(tokio::time::Instant::now() + BURST)
            }
        };
        let line = match timeout_at(pause, log.next()).await {
            Err(_) => return (said, true),
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None) | Err(_)) => return (said, false),
        };
        let Some(nonce) = nonce else {
            continue;
        };
        match boot::read_log([line.line.as_str()], nonce, pod.as_str()) {
            BootLog::Silent => {}
            BootLog::Host(line) => said = BootSaid::Host(line.boot_id, line.key),
            BootLog::Failed(stage) => said = BootSaid::Failed(stage.to_string()),
        }
    }
}

fn nonce(context: &Context, seen: &Observation, pod: &PodId) -> Option<Nonce> {
    let LedgerSeen::Is(ledger) = &seen.ledger else {
        return None;
    };
    let record = ledger.pod(pod)?;
    Some(Nonce::derive(
        context.installation.key(),
        &ledger.session.uid,
        record.attempt,
    ))
}

fn is_pinned(seen: &Observation, pod: &PodId) -> bool {
    match &seen.ledger {
        LedgerSeen::Is(ledger) => ledger.pod(pod).is_some_and(|record| record.pin.is_some()),
        LedgerSeen::Missing | LedgerSeen::Unreadable => false,
    }
}

/// A visit to a pod's host: over the line that is still up, or a new one.
async fn call(
    context: &Context,
    memory: &mut Memory,
    seen: &Observation,
    pod: PodId,
    deadline: Timestamp,
) -> HostSeen {
    let at = Timestamp::now();
    let before = memory.host.take().filter(|host| host.pod == pod);
    let last_visit = before.as_ref().and_then(|before| before.last.clone());
    let starting = match last_visit.as_ref().map(|(_, visit)| &visit.engine) {
        Some(EngineSeen::Starting { stage, .. }) => Some(*stage),
        Some(EngineSeen::Absent | EngineSeen::Healthy { .. } | EngineSeen::Failed { .. })
        | None => None,
    };
    let ask = visit::Ask {
        deadline: Some(deadline.as_second()),
        known: starting,
        patience: if starting.is_some() {
            PATIENCE
        } else {
            Duration::ZERO
        },
    };
    let found = match connect(context, memory, seen, &pod).await {
        Err(trouble) => Err(trouble),
        Ok((line, incarnation)) => match visit::visit(&line, &incarnation, &ask).await {
            // The key holds and the boot does not: as good as another host, and its log will tell.
            Ok(visit) if !booted(seen, &pod, &visit) => Err(Trouble::WrongKey),
            Ok(visit) => {
                let ours = visit.failure.is_none() || visit.deployed == digest(context, seen);
                Ok(understand(&visit, ours, Timestamp::now()))
            }
            Err(error) => {
                memory.line = None;
                Err(trouble(&error))
            }
        },
    };
    // Between visits to a host that serves nothing is held: thousands of sessions must fit.
    if matches!(
        &found,
        Ok(Visit {
            engine: EngineSeen::Healthy { .. },
            ..
        })
    ) && last_visit.is_some_and(|(_, visit)| is_healthy(&visit))
    {
        memory.line = None;
    }
    let (last, silent_since) = match (&found, before) {
        (Ok(visit), _) => (Some((at, visit.clone())), at),
        (Err(_), Some(before)) => (before.last, before.silent_since),
        (Err(_), None) => (None, at),
    };
    HostSeen {
        pod,
        at,
        found,
        last,
        silent_since,
    }
}

/// The name of the deployment that is to be there.
fn digest(context: &Context, seen: &Observation) -> Option<String> {
    let LedgerSeen::Is(ledger) = &seen.ledger else {
        return None;
    };
    let key = ledger.keys.gateway.public();
    let plan = ledger.plan.as_ref()?;
    let deployment = plan.deployment(&context.settings.hub_url, key, None).ok()?;
    Some(deployment.digest())
}

fn booted(seen: &Observation, pod: &PodId, visit: &visit::Visit) -> bool {
    let LedgerSeen::Is(ledger) = &seen.ledger else {
        return false;
    };
    ledger
        .pod(pod)
        .and_then(|record| record.pin.as_ref())
        .is_some_and(|pin| pin.boot == visit.boot_id)
}

fn is_healthy(visit: &Visit) -> bool {
    matches!(visit.engine, EngineSeen::Healthy { .. })
}

/// A line to a pod's host, proved by its pin, and who the host has to think it is.
pub(crate) async fn connect(
    context: &Context,
    memory: &mut Memory,
    seen: &Observation,
    pod: &PodId,
) -> Result<(Connection, Incarnation), Trouble> {
    let unknown = || Trouble::Unreachable("it has no address".to_owned());
    let LedgerSeen::Is(ledger) = &seen.ledger else {
        return Err(unknown());
    };
    let record = ledger.pod(pod).ok_or_else(unknown)?;
    let incarnation = Incarnation {
        installation: ledger.installation.clone(),
        uid: ledger.session.uid.clone(),
        attempt: record.attempt,
    };
    if let Some((_, line)) = memory
        .line
        .as_ref()
        .filter(|(of, line)| of == pod && !line.is_closed())
    {
        return Ok((line.clone(), incarnation));
    }
    let target = target(context, &ledger.keys.controller, record, seen).ok_or_else(unknown)?;
    match ssh::connect(&target).await {
        Ok(line) => {
            memory.line = Some((pod.clone(), line.clone()));
            Ok((line, incarnation))
        }
        Err(error) => Err(ssh_trouble(&error)),
    }
}

fn target(
    context: &Context,
    key: &KeyPair,
    record: &PodRecord,
    seen: &Observation,
) -> Option<Target> {
    // S9: without a pin there is nobody to connect to.
    let pin = record.pin.as_ref()?;
    let address = seen.listed(&record.id)?.address.as_ref()?;
    Some(Target {
        address: address.to_string(),
        pin: pin.key,
        user: context.settings.controller_user.clone(),
        key: key.clone(),
    })
}

/// What went wrong with a host, as far as decisions go.
pub(crate) fn trouble(error: &crate::host::Error) -> Trouble {
    match error {
        crate::host::Error::Ssh(error) => ssh_trouble(error),
        crate::host::Error::Failed { .. } | crate::host::Error::Unreadable { .. } => {
            Trouble::Unreachable(error.to_string())
        }
    }
}

fn ssh_trouble(error: &ssh::Error) -> Trouble {
    match error {
        ssh::Error::KeyMismatch { .. } => Trouble::WrongKey,
        ssh::Error::Unreachable { .. }
        | ssh::Error::TooSlow(_)
        | ssh::Error::NotAdmitted { .. }
        | ssh::Error::Refused(_)
        | ssh::Error::TooMuch(_)
        | ssh::Error::Ended
        | ssh::Error::Protocol(_) => Trouble::Unreachable(error.to_string()),
    }
}

/// `ours`: what is there is what is to be there. The failure of an earlier deployment, of an engine that has given way since,
/// is as good as none.
fn understand(visit: &visit::Visit, ours: bool, now: Timestamp) -> Visit {
    let engine = match (&visit.failure, &visit.deployed, visit.engine, visit.port) {
        (Some(_), _, _, _) if !ours => EngineSeen::Absent,
        (Some(failure), _, _, _) => EngineSeen::Failed {
            at: failed_at(failure),
            said: failure.log.clone(),
        },
        (None, None, _, _) => EngineSeen::Absent,
        (None, Some(_), visit::Health::Healthy, Some(port))
            if visit.stage == crate::host::Stage::Serving =>
        {
            EngineSeen::Healthy { port }
        }
        (None, Some(_), visit::Health::Dead, _) => EngineSeen::Failed {
            at: FailedAt::Serving,
            said: "the engine ended".to_owned(),
        },
        (None, Some(_), _, _) => EngineSeen::Starting {
            stage: visit.stage,
            percent: Some(visit.percent()),
            message: progress(visit),
        },
    };
    let (activity, activity_known) = match visit.activity {
        visit::Activity::Unknown => (None, false),
        visit::Activity::Never => (None, true),
        visit::Activity::Ago(ago) => (Some(now - ago), true),
    };
    Visit {
        engine,
        activity,
        activity_known,
        deadline: Timestamp::from_second(visit.deadline).unwrap_or(Timestamp::UNIX_EPOCH),
        uploads: visit.uploads.map(|uploads| (uploads.medium, uploads.quota)),
    }
}

fn failed_at(failure: &visit::Failure) -> FailedAt {
    if failure.log.to_ascii_lowercase().contains("out of memory") {
        return FailedAt::Memory;
    }
    match failure.kind {
        FailureKind::Probe | FailureKind::Install | FailureKind::Start => FailedAt::Starting,
        FailureKind::DiskFull
        | FailureKind::HubRefused
        | FailureKind::Download
        | FailureKind::Verify
        | FailureKind::Timeout => FailedAt::Weights,
        FailureKind::Died | FailureKind::Lost => FailedAt::Serving,
    }
}

fn progress(visit: &visit::Visit) -> String {
    const GIB: f64 = (1u64 << 30) as f64;
    match visit.stage {
        crate::host::Stage::Downloading => {
            format!(
                "{:.1} of {:.1} GiB",
                visit.bytes as f64 / GIB,
                visit.total as f64 / GIB
            )
        }
        crate::host::Stage::Connecting
        | crate::host::Stage::Installing
        | crate::host::Stage::Loading
        | crate::host::Stage::Serving => String::new(),
    }
}

async fn glance(context: &Context, pod: PodId) -> Glance {
    let began = Timestamp::now();
    let Some(provider) = context.snapshots.provider() else {
        let found = Err(unread(&Error::Unauthorized {
            detail: "there is no RunPod API key".into(),
        }));
        return Glance {
            pod,
            began,
            account: Fingerprint(String::new()),
            found,
        };
    };
    let found = match provider.get(&pod).await {
        Ok(found) if found.status == PodStatus::Terminated && found.cost == Some(Dollars::ZERO) => {
            Ok(Found::Ended)
        }
        Ok(_) => Ok(Found::Alive),
        Err(Error::NotFound) => Ok(Found::Nothing),
        Err(error) => Err(unread(&error)),
    };
    let account: Fingerprint = provider.fingerprint().clone();
    Glance {
        pod,
        began,
        account,
        found,
    }
}

/// A failed read, as a value.
pub(crate) fn unread(error: &Error) -> Unread {
    let at = Timestamp::now();
    let (why, wait) = match error {
        Error::Unauthorized { .. } => (UnreadWhy::Unauthorized, AGAIN_UNAUTHORIZED),
        Error::RateLimited { after } => (UnreadWhy::RateLimited, *after),
        Error::Ambiguous { .. } | Error::Unavailable { .. } => (UnreadWhy::Unavailable, AGAIN),
        Error::NotFound
        | Error::NoCapacity { .. }
        | Error::Forbidden { .. }
        | Error::InsufficientBalance { .. }
        | Error::Rejected { .. }
        | Error::Conflict { .. } => (UnreadWhy::Refused, AGAIN_UNAUTHORIZED),
    };
    Unread {
        at,
        why,
        detail: error.to_string(),
        again: at + wait,
    }
}

//! Finds pods that nobody owns, asks twice, and ends them; a slow loop of its own beside the sessions' controllers. It also gives
//! ledgers whose session vanished to the sessions' own end, and forgets routes that nobody has.

pub mod once;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::api::ListParams;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::Store;
use kube::{Api, Client, ResourceExt as _};
use srchat_crds::ChatSession;

use crate::ours::owner;
use crate::provider::{Error, PodId, Snapshot};
use crate::session::Given;
use crate::session::context::Context;
use crate::session::ledger::Ledger;
use crate::session::ledger::store::Stored;
use crate::session::observe::LedgerSeen;

/// Between two sweeps: an orphan is to be gone 120 s after it became one, two looks and an end included.
const EVERY: Duration = Duration::from_secs(30);
/// A ledger entry so young may belong to a session that no list shows yet.
const YOUNG: Duration = Duration::from_secs(300);
/// More orphans than this, and than a fifth of our pods, are more likely our mistake than the world's.
const MANY: usize = 3;
/// How long such a number has to stand before it is believed.
const SECOND_LOOK: Duration = Duration::from_secs(600);
/// Sessions are listed live so often at least: should the watch ever be behind, no orphan stays hidden behind it for long.
const LIVE_EVERY: Duration = Duration::from_secs(600);
/// Sessions in one page of a list.
const PAGE: u32 = 500;

/// A pod whose proof of ownership holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ours {
    /// The provider's id.
    pub id: PodId,
    /// The session that it was rented for.
    pub uid: String,
    /// By which attempt.
    pub attempt: u64,
}

/// Why a sweep saw less than everything: then it concludes nothing.
#[derive(Debug, thiserror::Error)]
pub enum Blind {
    /// The provider did not list.
    #[error("could not list the provider's pods")]
    Provider(#[source] Error),
    /// The API server did not list.
    #[error("could not list {0}")]
    Api(&'static str, #[source] kube::Error),
    /// A session's end did not go on.
    #[error("could not go on with the end of a session that vanished: {0}")]
    Session(String),
}

/// The sessions as the controller's watch has them. It may say that no live list is needed, and never what is, or is not, there.
pub(crate) type Watched = Store<DeserializeGuard<ChatSession>>;

/// Sweeps until it is dropped. An installation that is not this cluster's sweeps nothing.
pub(crate) async fn run(context: Arc<Context>, watched: Watched) {
    let mut doubt = Doubt::default();
    let mut listed: Option<Instant> = None;
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        // Without a key there is nothing to see yet, and the sessions say so themselves.
        if !context.bound || context.snapshots.provider().is_none() {
            continue;
        }
        let began = Instant::now();
        let trusted = listed.is_some_and(|at| at.elapsed() < LIVE_EVERY);
        let swept = sweep(&context, trusted.then_some(&watched), &mut doubt).await;
        if matches!(swept, Ok(Sessions::Listed)) {
            listed = Some(began);
        }
        if let Err(blind) = swept {
            tracing::warn!(error = %blind, cause = ?std::error::Error::source(&blind), "a sweep saw less than everything and concluded nothing");
        }
    }
}

/// Since when there have been suspiciously many orphans.
#[derive(Debug, Default)]
struct Doubt {
    since: Option<Instant>,
}

impl Doubt {
    /// Whether so many orphans may be believed now.
    fn cleared(&mut self, orphans: usize, ours: usize, now: Instant) -> bool {
        if orphans <= MANY.max(ours / 5) {
            self.since = None;
            return true;
        }
        now.duration_since(*self.since.get_or_insert(now)) >= SECOND_LOOK
    }
}

/// Where a sweep knows the sessions from.
enum Sessions {
    /// The watch explained everything: nothing was concluded, and nothing had to be.
    Watched,
    /// From the API server.
    Listed,
}

async fn sweep(
    context: &Arc<Context>,
    watched: Option<&Watched>,
    doubt: &mut Doubt,
) -> Result<Sessions, Blind> {
    let snapshot = context
        .snapshots
        .after(Instant::now())
        .await
        .map_err(Blind::Provider)?;
    let ours = ours(
        &snapshot,
        &context.installation.id,
        context.installation.key(),
    );
    let ledgers = context
        .ledgers
        .list()
        .await
        .map_err(|e| Blind::Api("ledgers", e))?;
    let routes = context
        .routes
        .uids()
        .await
        .map_err(|e| Blind::Api("routes", e))?;
    if let Some(watched) = watched {
        let watched = uids(watched);
        context.keep(|uid| watched.contains(uid) || ledgers.contains_key(uid));
        let pods = ours.iter().map(|pod| &pod.uid);
        if pods
            .chain(ledgers.keys())
            .chain(&routes)
            .all(|uid| watched.contains(uid))
        {
            context.metrics.orphans.set(0);
            doubt.since = None;
            return Ok(Sessions::Watched);
        }
    }
    let first = sessions(&context.client).await?;
    let strays: Vec<_> = ledgers.keys().filter(|uid| !first.contains(*uid)).collect();
    if strays.is_empty() && ours.iter().all(|pod| first.contains(&pod.uid)) {
        context.metrics.orphans.set(0);
        doubt.since = None;
        forget_routes(context, &routes, &first, &ledgers).await?;
        return Ok(Sessions::Listed);
    }
    let second = sessions(&context.client).await?;
    let known: BTreeSet<String> = first.union(&second).cloned().collect();
    let orphans = orphans(&ours, &known, &ledgers, Timestamp::now());
    context
        .metrics
        .orphans
        .set(i64::try_from(orphans.len()).unwrap_or(i64::MAX));
    if !doubt.cleared(orphans.len(), ours.len(), Instant::now()) {
        tracing::error!(
            orphans = orphans.len(),
            ours = ours.len(),
            "so many orphans are more likely a mistake of ours: looking again in ten minutes"
        );
        return Ok(Sessions::Listed);
    }
    for pod in orphans.iter().filter(|pod| !ledgers.contains_key(&pod.uid)) {
        end(context, pod).await;
    }
    // One end that does not go on may hold up nobody else's, in this sweep or in any after it.
    for (uid, stored) in ledgers.iter().filter(|(uid, _)| !known.contains(*uid)) {
        if let LedgerSeen::Is(ledger) = &stored.seen
            && !young(ledger, None, Timestamp::now())
            && let Err(blind) = settle(context, uid, ledger).await
        {
            tracing::warn!(session = uid, error = %blind, "the end of a session that vanished is held up until the next sweep");
        }
    }
    forget_routes(context, &routes, &known, &ledgers).await?;
    Ok(Sessions::Listed)
}

fn uids(watched: &Watched) -> BTreeSet<String> {
    let sessions = watched.state();
    sessions
        .iter()
        .filter_map(|session| session.uid())
        .collect()
}

/// The pods of a snapshot that are provably of this installation (S5).
pub fn ours(snapshot: &Snapshot, installation: &str, key: &[u8]) -> Vec<Ours> {
    snapshot
        .pods
        .values()
        .filter_map(|pod| {
            let (uid, attempt) = owner(pod, installation, key)?;
            Some(Ours {
                id: pod.id.clone(),
                uid,
                attempt,
            })
        })
        .collect()
}

/// Pods whose session is in neither list, and which no young ledger entry explains.
fn orphans(
    ours: &[Ours],
    sessions: &BTreeSet<String>,
    ledgers: &BTreeMap<String, Stored>,
    now: Timestamp,
) -> Vec<Ours> {
    let explained = |pod: &Ours| match ledgers.get(&pod.uid).map(|stored| &stored.seen) {
        Some(LedgerSeen::Is(ledger)) => young(ledger, Some(pod), now),
        Some(LedgerSeen::Missing | LedgerSeen::Unreadable) | None => false,
    };
    ours.iter()
        .filter(|pod| !sessions.contains(&pod.uid) && !explained(pod))
        .cloned()
        .collect()
}

/// Whether the ledger, or its entry about this pod, was made a moment ago.
fn young(ledger: &Ledger, pod: Option<&Ours>, now: Timestamp) -> bool {
    let recent = |at: Timestamp| at + YOUNG > now;
    match pod {
        None => recent(ledger.made),
        Some(pod) => {
            let intents = ledger
                .attempts
                .iter()
                .filter(|attempt| attempt.number == pod.attempt);
            let records = ledger.pods.iter().filter(|record| record.id == pod.id);
            intents
                .map(|attempt| attempt.intent)
                .chain(records.map(|record| record.created))
                .any(recent)
        }
    }
}

/// The end of a session that is not there any more, by the same steps as any other end: its ledger still knows key and pin, so
/// the host is cleared first. It goes as far as it can without waiting; the next sweep goes on.
async fn settle(context: &Arc<Context>, uid: &str, ledger: &Ledger) -> Result<(), Blind> {
    tracing::warn!(
        session = uid,
        "a session vanished without its end: finishing that from its ledger"
    );
    let ghost = Given::ghost(ledger);
    let read = async || {
        context
            .ledgers
            .read(uid)
            .await
            .map_err(|e| Blind::Api("ledgers", e))
    };
    let mut before = read().await?;
    loop {
        let pass = crate::session::reconcile(ghost.clone(), Arc::clone(context)).await;
        pass.map_err(|e| Blind::Session(e.to_string()))?;
        let after = read().await?;
        if after == before {
            return Ok(());
        }
        before = after;
    }
}

/// A pod that no ledger knows has no key to be cleared with: it is ended. The next sweep sees whether it is gone, and asks again
/// as long as it is not.
async fn end(context: &Context, pod: &Ours) {
    let Some(provider) = context.snapshots.provider() else {
        return;
    };
    match provider.delete(&pod.id).await {
        Ok(()) | Err(Error::NotFound) => {
            tracing::warn!(pod = %pod.id, session = pod.uid, "OrphanTerminated: a pod that nobody owned was terminated; the next sweep checks that it is gone");
        }
        Err(error) => {
            tracing::error!(pod = %pod.id, %error, "an orphan could not be terminated yet")
        }
    }
}

/// Routes without a session and without a ledger admit nobody to anything: they go.
async fn forget_routes(
    context: &Context,
    routes: &[String],
    sessions: &BTreeSet<String>,
    ledgers: &BTreeMap<String, Stored>,
) -> Result<(), Blind> {
    for uid in routes
        .iter()
        .filter(|uid| !sessions.contains(*uid) && !ledgers.contains_key(*uid))
    {
        context
            .routes
            .drop_of(uid)
            .await
            .map_err(|e| Blind::Api("routes", e))?;
    }
    Ok(())
}

/// The UIDs of all sessions, from the API server itself, all pages of one consistent list.
///
/// # Errors
/// When any page is missing: a partial list would make orphans of the rest.
pub async fn sessions(client: &Client) -> Result<BTreeSet<String>, Blind> {
    let api: Api<ChatSession> = Api::all(client.clone());
    let mut uids = BTreeSet::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api
            .list_metadata(&params)
            .await
            .map_err(|e| Blind::Api("sessions", e))?;
        uids.extend(
            page.items
                .into_iter()
                .filter_map(|session: PartialObjectMeta<_>| session.metadata.uid),
        );
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(uids),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::session::decide::world;
    use crate::session::ledger::Outcome;

    fn pod(uid: &str) -> Ours {
        Ours {
            id: PodId::try_from("p1".to_owned()).unwrap(),
            uid: uid.into(),
            attempt: 1,
        }
    }

    fn ledger_with_intent(at: Timestamp) -> BTreeMap<String, Stored> {
        let mut ledger = world::ledger();
        ledger
            .attempts
            .push(world::attempt(1, at, Outcome::Open { misses: Vec::new() }));
        BTreeMap::from([(
            "u1".into(),
            Stored {
                seen: LedgerSeen::Is(Box::new(ledger)),
                version: None,
            },
        )])
    }

    #[test]
    fn a_pod_of_a_session_that_either_list_shows_is_no_orphan() {
        let sessions = BTreeSet::from(["u1".to_owned()]);
        assert_eq!(
            orphans(
                &[pod("u1"), pod("u2")],
                &sessions,
                &BTreeMap::new(),
                world::start()
            ),
            [pod("u2")]
        );
    }

    #[test]
    fn a_young_intent_explains_a_pod_and_an_old_one_does_not() {
        let ledgers = ledger_with_intent(world::start());
        let at = |seconds| world::start() + Duration::from_secs(seconds);
        assert_eq!(
            orphans(&[pod("u1")], &BTreeSet::new(), &ledgers, at(299)),
            []
        );
        assert_eq!(
            orphans(&[pod("u1")], &BTreeSet::new(), &ledgers, at(300)),
            [pod("u1")]
        );
    }

    #[test]
    fn many_orphans_at_once_have_to_stand_for_ten_minutes() {
        let (mut doubt, start) = (Doubt::default(), Instant::now());
        assert!(doubt.cleared(3, 3, start));
        assert!(!doubt.cleared(4, 10, start));
        assert!(!doubt.cleared(4, 10, start + Duration::from_secs(599)));
        assert!(doubt.cleared(4, 10, start + SECOND_LOOK));
        assert!(doubt.cleared(4, 100, start));
    }

    #[test]
    fn an_empty_list_of_sessions_makes_many_orphans_and_many_are_doubted() {
        let mine: Vec<_> = (0..20).map(|n| pod(&format!("u{n}"))).collect();
        let found = orphans(&mine, &BTreeSet::new(), &BTreeMap::new(), world::start());
        assert!(!Doubt::default().cleared(found.len(), mine.len(), Instant::now()));
    }
}

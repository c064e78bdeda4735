//! The reads behind an observation. The session and our own Secrets are read at the beginning of a pass; everything else only when a
//! decision asks for it, and what could not be read becomes a value.

mod host;
mod log;
mod planner;
mod pods;

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt as _;
use srchat_crds::ChatSession;

use super::super::context::{Context, Memory};
use super::super::decide::Look;
use super::super::given::Given;
use super::super::ledger::store::Stored;
use super::{Door, House, LedgerSeen, NoAccount, Observation, Published, RouteSeen, Session};
use crate::provider::Address;
use crate::publish;

pub(crate) use host::{connect, trouble};
pub(crate) use planner::model_token;

/// How long a host that starts up may hold its answer back until something changes, and how long a log is listened to. Short enough
/// that a deletion is noticed soon.
const PATIENCE: Duration = Duration::from_secs(2);

/// A session as the API server has it, with everything about it that costs nothing to know.
///
/// # Errors
/// When the API server did not answer.
pub(crate) async fn observe(
    context: &Context,
    given: &Given,
    memory: &mut Memory,
) -> Result<(Observation, Stored), kube::Error> {
    let session = &given.session;
    let stored = match memory.stored.take() {
        Some(stored) => stored,
        None => {
            let uid = session.uid().unwrap_or_default();
            context.ledgers.read(&uid).await?
        }
    };
    let own = given.parse(&stored.seen);
    let door = match memory.door.take() {
        Some(door) => door,
        None => door(context, session, &own).await?,
    };
    memory.door = Some(door.clone());
    if let (Some(snapshot), LedgerSeen::Is(ledger)) = (context.snapshots.latest(), &stored.seen) {
        pods::newer(context, ledger, memory, &snapshot);
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
        bills: memory.bills.clone(),
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
            publish::Published::Forbidden => Published::Forbidden,
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
        Look::List { after } => pods::list(context, memory, seen, after).await,
        Look::Plan => memory.plan = Some(planner::ask(context, session, seen).await),
        Look::Log { pod } => memory.boot = Some(log::read(context, memory, seen, pod).await),
        Look::Visit { pod, deadline } => {
            let visited = host::call(context, memory, seen, pod, deadline).await;
            memory.host = Some(visited);
        }
        Look::Glance { pod } => memory.glance = Some(pods::glance(context, pod).await),
        Look::Bill { pod, since } => {
            let bill = pods::bill(context, &pod, since).await;
            memory.bills.insert(pod, bill);
        }
    }
    seen.now = Timestamp::now();
    seen.house = house(context);
    seen.pods = memory.pods.clone();
    seen.plan = memory.plan.clone();
    seen.boot = memory.boot.clone();
    seen.host = memory.host.clone();
    seen.glance = memory.glance.clone();
    seen.bills = memory.bills.clone();
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

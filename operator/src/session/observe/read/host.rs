//! Visits to a pod's host: over the pinned line only, and what they found in the words that decisions are made of.

use std::time::Duration;

use jiff::Timestamp;

use super::super::super::context::{Context, Memory};
use super::super::super::ledger::PodRecord;
use super::super::{EngineSeen, FailedAt, HostSeen, LedgerSeen, Observation, Trouble, Visit};
use super::PATIENCE;
use crate::host::visit::FailureKind;
use crate::host::{Incarnation, Stage, visit};
use crate::provider::PodId;
use crate::ssh::{self, Connection, KeyPair, Target};

/// A visit to a pod's host: over the line that is still up, or a new one.
pub(super) async fn call(
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
    let address = seen.address(record)?;
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
        (None, Some(_), visit::Health::Healthy, Some(port)) if visit.stage == Stage::Serving => {
            EngineSeen::Healthy { port }
        }
        // Also when the engine is dead: its job is about to say so, with the engine's last words, and a dead job is a failure.
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
        Stage::Downloading => {
            format!(
                "{:.1} of {:.1} GiB",
                visit.bytes as f64 / GIB,
                visit.total as f64 / GIB
            )
        }
        Stage::Connecting | Stage::Installing | Stage::Loading | Stage::Serving => String::new(),
    }
}

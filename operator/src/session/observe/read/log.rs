//! A pod's own log, followed while its host boots: the line that shows the host's identity, or why there will be none.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{timeout, timeout_at};

use super::super::super::context::{Context, Memory};
use super::super::{BootSaid, BootSeen, LedgerSeen, Observation};
use super::PATIENCE;
use crate::host::boot::{self, BootLog, Nonce};
use crate::provider::PodId;
use crate::provider::runpod::LogStream;

/// The boot's lines are few, and an image's own may be many; this is what the provider keeps.
const LOG_TAIL: u32 = 5_000;
/// Until the head of a log's answer is there: it needs the pod's machine, and a deletion must not wait for that long.
const LOG_HEAD: Duration = Duration::from_secs(5);
/// Lines written before come in one burst, whose last line that counts is the one.
const BURST: Duration = Duration::from_millis(60);

/// The log of a pod, followed for a while: what was written before, then each line as it comes.
pub(super) async fn read(
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

//! `srchat extend`: a session may live longer.

use crate::args::{self, Output};
use crate::cluster::{Cluster, failed};
use crate::failure::{Code, Failure};
use crate::print::Printer;
use crate::session::{distance, status};
use futures::StreamExt as _;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use serde_json::json;
use srchat_crds::status::ExpiryReason;
use srchat_crds::{ChatSession, Span};
use std::time::Duration;

/// As long as the resource allows.
const LONGEST: Span = Span::hours(168);
/// The controller tells the host within a visit; whoever wants to see more asks for the status.
const SEEN: Duration = Duration::from_secs(10);

/// Adds to `limits.lifetime`, and says when the session ends now.
pub async fn extend(
    cluster: &Cluster,
    args: args::Extend,
    output: Output,
    print: &Printer,
) -> Result<(), Failure> {
    let name = &args.name;
    let session = cluster.session(name).await?;
    let before = status(&session).expiry.map(|expiry| expiry.time.0);
    let lifetime = longer(session.spec.limits.lifetime, args.by)?;
    // Two who extend at once must not undo each other: the second is told to look again.
    let patch = Patch::Merge(json!({
        "metadata": {"resourceVersion": session.metadata.resource_version},
        "spec": {"limits": {"lifetime": lifetime}},
    }));
    let sessions = cluster.sessions();
    let patched = sessions.patch(name, &PatchParams::default(), &patch).await;
    let mut session = patched.map_err(|e| failed("extend the session", &e))?;
    let moved = moved(cluster, name, before);
    if let (Some(_), Ok(Some(seen))) = (before, tokio::time::timeout(SEEN, moved).await) {
        session = seen;
    }
    if output == Output::Json {
        return print.json(&session);
    }
    print.note(&sentence(&session, before, lifetime));
    Ok(())
}

fn longer(lifetime: Span, by: Span) -> Result<Span, Failure> {
    if by.is_zero() {
        return Err(Failure::new(Code::Usage, "0s makes nothing longer"));
    }
    let lifetime = Span::seconds(lifetime.as_secs().saturating_add(by.as_secs()));
    if lifetime > LONGEST {
        return Err(Failure::new(
            Code::Usage,
            format!("a session lives {LONGEST} at most, and {lifetime} would be more"),
        )
        .hint("`srchat resume` starts another run when this one has ended"));
    }
    Ok(lifetime)
}

/// The session once its end has moved.
async fn moved(cluster: &Cluster, name: &str, before: Option<Timestamp>) -> Option<ChatSession> {
    let mut seen = std::pin::pin!(watch_object(cluster.sessions(), name).default_backoff());
    while let Some(event) = seen.next().await {
        if let Ok(Some(session)) = event
            && status(&session).expiry.map(|expiry| expiry.time.0) != before
        {
            return Some(session);
        }
    }
    None
}

fn sentence(session: &ChatSession, before: Option<Timestamp>, lifetime: Span) -> String {
    let name = crate::session::name(session);
    match status(session).expiry {
        Some(expiry) if before != Some(expiry.time.0) => {
            let left = distance(&expiry.time, Timestamp::now());
            let budget = match expiry.reason {
                ExpiryReason::Budget => ", when limits.maxTotalCost is spent",
                ExpiryReason::Lifetime => "",
            };
            format!("{name} ends in {left} at the latest now{budget}.")
        }
        Some(expiry) if expiry.reason == ExpiryReason::Budget => {
            format!("{name} may live {lifetime} now, and limits.maxTotalCost ends it before that.")
        }
        Some(_) => format!("{name} may live {lifetime} now; its host is being told."),
        None => format!("{name} may live {lifetime} from its first pod on."),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_lifetime_grows_up_to_what_the_resource_allows() {
        let hours = Span::hours;
        assert_eq!(longer(hours(4), hours(2)).unwrap(), hours(6));
        assert_eq!(longer(hours(160), hours(9)).unwrap_err().code, Code::Usage);
        assert_eq!(longer(hours(4), Span::ZERO).unwrap_err().code, Code::Usage);
    }
}

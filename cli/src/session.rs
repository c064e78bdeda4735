//! What a session's status means to a person.

use crate::failure::{Code, Failure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use srchat_crds::conditions::Type;
use srchat_crds::status::Startup;
use srchat_crds::{ChatSession, ChatSessionStatus};

/// The status, empty where the operator has not written one yet.
pub fn status(session: &ChatSession) -> ChatSessionStatus {
    session.status.clone().unwrap_or_default()
}

/// The name, which every stored object has.
pub fn name(session: &ChatSession) -> &str {
    session.metadata.name.as_deref().unwrap_or_default()
}

/// The `STATE` column: the reason of `Ready`.
pub fn state(session: &ChatSession) -> String {
    if session.metadata.deletion_timestamp.is_some() {
        return "Ending".into();
    }
    match session.condition(Type::Ready) {
        Some(ready) => ready.reason.clone(),
        None => "Pending".into(),
    }
}

/// Whether the model answers, will answer, or will not until somebody does something.
#[derive(Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It answers.
    Ready,
    /// On its way: what is being done.
    Coming(String),
    /// It will not come by itself.
    Stuck(Failure),
}

/// Reads the readiness off a session.
pub fn readiness(session: &ChatSession, now: Timestamp) -> Readiness {
    let name = name(session);
    if let Some(since) = &session.metadata.deletion_timestamp {
        let since = distance(since, now);
        let message = format!("session {name} is being deleted, for {since} already");
        return Readiness::Stuck(Failure::new(Code::NotReady, message));
    }
    let Some(ready) = session.condition(Type::Ready) else {
        return Readiness::Coming("waiting for the operator".into());
    };
    if ready.status == "True" && ready.observed_generation == session.metadata.generation {
        return Readiness::Ready;
    }
    // What is said of an older spec says nothing of this one.
    if status(session).observed_generation < session.metadata.generation {
        return Readiness::Coming("waiting for the operator".into());
    }
    match final_word(name, ready, now) {
        Some(failure) => Readiness::Stuck(failure),
        None => Readiness::Coming(progress(session, ready)),
    }
}

/// Reasons that no waiting cures, each with the way out.
fn final_word(name: &str, ready: &Condition, now: Timestamp) -> Option<Failure> {
    let hint = match ready.reason.as_str() {
        "Paused" => format!("`srchat resume {name}` rents again"),
        "Ended" => format!("`srchat resume {name}` starts another run"),
        "ModelNotFound" | "UnsupportedModel" => "delete the session and name another model".into(),
        "GatedModel" => "accept the model's licence and set spec.modelTokenSecretRef".into(),
        "NoFittingGPU" => "relax spec.gpu, or choose a smaller or quantized model".into(),
        "OverPrice" => "raise spec.limits.maxHourlyCost".into(),
        "StartupTooLong" => "raise spec.limits.startup".into(),
        "ProviderUnauthorized" => {
            "`srchat login` gives the operator a key that RunPod accepts".into()
        }
        "InsufficientBalance" => "the provider's account has no balance: top it up".into(),
        "SecretNameTaken" => format!("a Secret {name}-chat that is not ours is in the way"),
        "SecretsForbidden" => {
            "whoever runs srchat adds this namespace to the chart's watchNamespaces".into()
        }
        _ => return None,
    };
    let since = distance(&ready.last_transition_time, now);
    let why = ready.message.trim_end_matches('.');
    let message = format!("session {name} is not ready, for {since} now: {why}");
    Some(Failure::new(Code::NotReady, message).hint(hint))
}

/// One line of live progress: stage, percent, what it is, price, what it has cost.
fn progress(session: &ChatSession, ready: &Condition) -> String {
    let status = status(session);
    let mut line = match &status.startup {
        Some(startup) => stage(startup),
        None => ready.reason.clone(),
    };
    if let Some(plan) = &status.plan {
        line.push_str(&format!("  ·  {} at ${}/h", plan.gpu, plan.hourly_cost));
    }
    if let Some(cost) = &status.cost {
        line.push_str(&format!("  ·  ${} so far", cost.accrued));
    }
    line
}

/// How long starting has taken, and how long it will: what the operator expects, and by how much it was wrong.
pub fn pace(session: &ChatSession, now: Timestamp) -> Option<String> {
    let status = status(session);
    let created = status.instance.as_ref().map(|pod| &pod.created_time);
    let since = created.or(session.metadata.creation_timestamp.as_ref())?;
    let elapsed = distance(since, now);
    let expected = status
        .startup
        .and_then(|startup| startup.estimated_ready_time);
    Some(match expected.map(|time| time.0.duration_since(now)) {
        None => elapsed,
        Some(left) => format!("{elapsed}, {}", remaining(left)),
    })
}

fn remaining(left: SignedDuration) -> String {
    let minutes = left.unsigned_abs().as_secs().div_ceil(60);
    match (left.is_positive(), minutes) {
        (true, 0 | 1) => "less than a minute left".to_owned(),
        (true, minutes) => format!("about {minutes} min left"),
        (false, 0 | 1) => "any moment now".to_owned(),
        (false, minutes) => format!("{minutes} min longer than expected"),
    }
}

fn stage(startup: &Startup) -> String {
    let mut line = startup.stage.as_str().to_owned();
    if let Some(percent) = startup.percent {
        line.push_str(&format!(" {percent} %"));
    }
    if !startup.message.is_empty() {
        line.push_str(&format!("  {}", startup.message));
    }
    line
}

/// A span as `kubectl` shows ages: the two largest units.
pub fn span(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().unsigned_abs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, 1..=9) => format!("{minutes}m{}s", seconds % 60),
        (0, 0, _) => format!("{minutes}m"),
        (0, _, _) => format!("{hours}h{minutes}m"),
        (_, _, _) => format!("{days}d{hours}h"),
    }
}

/// How long ago something was, or how long until it is.
pub fn distance(time: &Time, now: Timestamp) -> String {
    span(time.0.duration_since(now))
}

/// The lines of `srchat status`.
pub fn lines(session: &ChatSession, now: Timestamp) -> Vec<(&'static str, String)> {
    let status = status(session);
    let mut lines = vec![
        ("session", name(session).to_owned()),
        ("model", session.spec.model.to_string()),
        ("state", state(session)),
    ];
    if let Some(ready) = session.condition(Type::Ready)
        && ready.status != "True"
    {
        let since = distance(&ready.last_transition_time, now);
        lines.push(("why", format!("{} (for {since})", ready.message)));
    }
    if let Some(startup) = status
        .startup
        .as_ref()
        .filter(|_| state(session) != "Serving")
    {
        lines.push(("progress", stage(startup)));
    }
    if let Some(plan) = &status.plan {
        let context = plan.context_length;
        lines.push((
            "plan",
            format!(
                "{} × {}, {:?}, context {context}, ${}/h",
                plan.gpu_count, plan.gpu, plan.engine, plan.hourly_cost
            ),
        ));
        let mut label = "others";
        for (why, gpus) in crate::proposal::rejected(plan) {
            lines.push((label, format!("{why}: {}", gpus.join(", "))));
            label = "";
        }
    }
    if let Some(instance) = &status.instance {
        lines.push(("instance", instance.provider_id.clone()));
        lines.extend(instance.host_key.clone().map(|key| ("host key", key)));
        if let Some(quota) = &instance.upload_quota {
            lines.push(("uploads", format!("up to {quota}")));
        }
    }
    lines.extend(status.endpoint.map(|endpoint| ("endpoint", endpoint.url)));
    if let Some(cost) = &status.cost {
        lines.push((
            "cost",
            format!("${} so far, ${}/h", cost.accrued, cost.hourly),
        ));
    }
    if let Some(expiry) = &status.expiry {
        let left = distance(&expiry.time, now);
        lines.push((
            "ends",
            format!("in {left} at the latest ({:?})", expiry.reason),
        ));
    }
    lines
}

/// What is known of the end, for `srchat rm --wait`: one line a step, in the order of the end.
pub fn ending(session: &ChatSession) -> Vec<String> {
    let status = status(session);
    let mut steps = Vec::new();
    for type_ in [Type::Wiped, Type::Terminated] {
        let Some(condition) = session.condition(type_) else {
            continue;
        };
        let under_way = condition.status == "Unknown";
        let quiet = matches!(condition.reason.as_str(), "NotEnding" | "Pending");
        if !quiet {
            let mark = if under_way { "…" } else { "•" };
            steps.push(format!("{mark} {}: {}", condition.type_, condition.message));
        }
    }
    if let Some(teardown) = status.teardown.filter(|t| t.absence_proofs > 0) {
        let times = if teardown.absence_proofs == 1 {
            "once"
        } else {
            "twice"
        };
        steps.push(format!("• seen to be absent {times}"));
    }
    steps
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-11-23T12:05:00Z".parse().unwrap()
    }

    #[test]
    fn what_is_said_of_an_older_spec_is_not_the_last_word() {
        let mut session = session("Paused", "False");
        session.metadata.generation = Some(3);
        assert!(matches!(readiness(&session, now()), Readiness::Coming(_)));
    }

    #[test]
    fn an_estimate_that_was_wrong_is_said_to_be_wrong() {
        let said = [200, 59, -20, -200].map(|left| remaining(SignedDuration::from_secs(left)));
        let expected = [
            "about 4 min left",
            "less than a minute left",
            "any moment now",
            "4 min longer than expected",
        ];
        assert_eq!(said, expected);
    }

    fn session(reason: &str, truth: &str) -> ChatSession {
        serde_json::from_value(json!({
            "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession",
            "metadata": {"name": "qwen", "generation": 2},
            "spec": {"model": "Qwen/Qwen3-8B"},
            "status": {
                "observedGeneration": 2,
                "startup": {"stage": "Downloading", "percent": 63, "message": "9.8 of 15.6 GiB"},
                "conditions": [{
                    "type": "Ready", "status": truth, "reason": reason, "message": "because",
                    "observedGeneration": 2, "lastTransitionTime": "2026-11-23T12:00:00Z",
                }],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_session_is_ready_only_for_the_generation_that_was_observed() {
        let mut session = session("Serving", "True");
        assert_eq!(readiness(&session, now()), Readiness::Ready);
        session.metadata.generation = Some(3);
        assert!(matches!(readiness(&session, now()), Readiness::Coming(_)));
    }

    #[test]
    fn what_waiting_does_not_cure_is_said_at_once_with_the_way_out() {
        let Readiness::Stuck(failure) = readiness(&session("OverPrice", "False"), now()) else {
            panic!("a price over the cap needs somebody to act");
        };
        let said = "session qwen is not ready, for 5m0s now: because";
        assert_eq!(failure.message, said);
        assert_eq!(failure.hint.unwrap(), "raise spec.limits.maxHourlyCost");
    }

    #[test]
    fn progress_has_stage_percent_and_bytes() {
        let coming = readiness(&session("Downloading", "False"), now());
        let line = "Downloading 63 %  9.8 of 15.6 GiB";
        assert_eq!(coming, Readiness::Coming(line.into()));
    }

    #[test]
    fn spans_have_two_units() {
        let spans = [5, 65, 600, 14_280, 90_000].map(|s| span(SignedDuration::from_secs(s)));
        assert_eq!(spans, ["5s", "1m5s", "10m", "3h58m", "1d1h"]);
    }
}

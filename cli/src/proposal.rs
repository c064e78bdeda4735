//! A session that rents nothing until its plan is confirmed: made, planned, shown, and either confirmed or deleted.

mod kept;
mod words;

use crate::args::Wishes;
use crate::cluster::{Cluster, failed};
use crate::failure::{Code, Failure, chain};
use crate::print::Printer;
use crate::ready::no_operator;
use crate::session::{name, status};
use futures::StreamExt as _;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use serde_json::json;
use srchat_crds::conditions::Type;
use srchat_crds::session::SecretKey;
use srchat_crds::status::Plan;
use srchat_crds::{ANNOTATION_UNCONFIRMED_UNTIL, ChatSession, ChatSessionSpec, Dollars};
use std::time::Duration;

pub use words::{Words, name_for, rejected};

/// Time to read a plan and to make up one's mind. The operator deletes what is still unconfirmed then.
const TO_CONFIRM: SignedDuration = SignedDuration::from_mins(15);
/// The Hub and the provider's catalog answer within seconds; asked again while one of them cannot be reached.
const TO_PLAN: Duration = Duration::from_secs(60);
/// An operator that runs takes notice within a second.
const NOTICE: Duration = Duration::from_secs(20);
/// As high as the resource allows: only to learn what would fit.
const ANY_PRICE: Dollars = Dollars::whole(1000);
/// So many sessions of one model's name are plenty.
const NAMES: u32 = 99;

/// What could be rented, and whether the cap allows it.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The session as it was when the plan was read.
    pub session: ChatSession,
    /// The plan.
    pub plan: Plan,
    /// The most that an hour may cost, as the person has it.
    pub cap: Dollars,
}

impl Planned {
    /// The cap under which this plan can be rented: the person's own, or the least that would do.
    pub fn cap_needed(&self) -> Dollars {
        if self.plan.hourly_cost <= self.cap {
            self.cap
        } else {
            with_headroom(self.plan.hourly_cost)
        }
    }

    /// Whether only a higher cap than the person's would do.
    pub fn is_too_dear(&self) -> bool {
        self.plan.hourly_cost > self.cap
    }
}

/// A price as the controller lets it drift, in whole cents: at exactly the quoted price, a fraction of a cent would end the pod.
fn with_headroom(price: Dollars) -> Dollars {
    let cents = (price.percent(102) + Dollars::cents(1))
        .as_micros()
        .div_ceil(10_000);
    Dollars::cents(u32::try_from(cents).unwrap_or(u32::MAX)).min(ANY_PRICE)
}

/// Makes the session, with nothing rented. A name made from the model's takes a number when it is in use.
pub async fn make(cluster: &Cluster, wishes: &Wishes) -> Result<ChatSession, Failure> {
    let spec = spec(wishes)?;
    let wanted = wishes.name.clone().unwrap_or_else(|| name_for(&spec.model));
    for number in 1..=NAMES {
        let name = match number {
            1 => wanted.clone(),
            number => format!("{wanted}-{number}"),
        };
        let until = Timestamp::now() + TO_CONFIRM;
        let metadata = ObjectMeta {
            name: Some(name.clone()),
            annotations: Some(
                [(ANNOTATION_UNCONFIRMED_UNTIL.to_owned(), until.to_string())].into(),
            ),
            ..ObjectMeta::default()
        };
        let session = ChatSession {
            metadata,
            spec: spec.clone(),
            status: None,
        };
        match cluster
            .sessions()
            .create(&PostParams::default(), &session)
            .await
        {
            Ok(made) => return kept::whole(cluster, &spec, made).await,
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                if wishes.name.is_some() {
                    return Err(Failure::new(
                        Code::Error,
                        format!("there is a session {name} already"),
                    )
                    .hint(format!(
                        "`srchat attach {name}` chats with it; --name takes another name"
                    )));
                }
            }
            Err(error) => return Err(failed("make the session", &error)),
        }
    }
    Err(Failure::new(
        Code::Error,
        format!("there are {NAMES} sessions named after this model already"),
    )
    .hint("--name takes another name"))
}

fn spec(wishes: &Wishes) -> Result<ChatSessionSpec, Failure> {
    let model = wishes.model().cloned().ok_or_else(|| {
        Failure::new(Code::Usage, "no model was named").hint("srchat run Qwen/Qwen3-8B")
    })?;
    let mut spec = ChatSessionSpec::of(model);
    spec.replicas = 0;
    spec.model_token_secret_ref = wishes.token_secret.clone().map(|name| SecretKey {
        name,
        key: "token".to_owned(),
    });
    spec.runtime.engine = wishes.engine();
    spec.runtime.quantization = wishes.quantization();
    spec.runtime.context_length = wishes.context_length;
    spec.gpu.types.clone_from(&wishes.gpu_type);
    spec.disk = wishes.disk_size;
    let limits = &mut spec.limits;
    limits.max_hourly_cost = wishes.max_cost_per_hour.unwrap_or(limits.max_hourly_cost);
    limits.max_total_cost = wishes.max_total_cost;
    limits.lifetime = wishes.lifetime.unwrap_or(limits.lifetime);
    limits.idle = wishes.idle;
    Ok(spec)
}

/// Waits for the plan. When nothing fits below the cap, looks what would above it: nothing is rented for that, since the
/// session rents nothing.
pub async fn planned(
    cluster: &Cluster,
    session: &ChatSession,
    print: &Printer,
) -> Result<Planned, Failure> {
    let cap = session.spec.limits.max_hourly_cost;
    print.progress("looking for a GPU that fits");
    let outcome = plan_of(cluster, session).await;
    print.clear_progress();
    let no = match outcome? {
        Ok(session) => return found(session, cap),
        Err(no) => no,
    };
    if !matches!(no.reason.as_str(), "OverPrice" | "OutOfStock") {
        return Err(no.failure());
    }
    print.progress("looking for what would fit at a higher price");
    let raised = cap_at(cluster, session, ANY_PRICE).await?;
    let outcome = plan_of(cluster, &raised).await;
    print.clear_progress();
    match outcome? {
        Ok(session) => found(session, cap),
        Err(_) => Err(no.failure()),
    }
}

fn found(session: ChatSession, cap: Dollars) -> Result<Planned, Failure> {
    match status(&session).plan {
        Some(plan) => Ok(Planned { session, plan, cap }),
        None => Err(Failure::new(
            Code::Error,
            "the operator says that there is a plan and does not show it",
        )
        .hint("is the operator as new as this program? srchat --version")),
    }
}

async fn cap_at(
    cluster: &Cluster,
    session: &ChatSession,
    cap: Dollars,
) -> Result<ChatSession, Failure> {
    let patch = Patch::Merge(json!({"spec": {"limits": {"maxHourlyCost": cap}}}));
    let (sessions, params) = (cluster.sessions(), PatchParams::default());
    let patched = sessions.patch(name(session), &params, &patch).await;
    patched.map_err(|e| failed("look for a dearer GPU", &e))
}

/// Why there is no plan.
#[derive(Debug, PartialEq, Eq)]
struct NoPlan {
    reason: String,
    message: String,
}

impl NoPlan {
    fn failure(self) -> Failure {
        let (code, hint) = match self.reason.as_str() {
            "ModelNotFound" => (
                Code::NotFound,
                "names are those of huggingface.co, owner/name; a private model needs --token-secret",
            ),
            "GatedModel" => (
                Code::NotAllowed,
                "accept its licence on huggingface.co, then name a Secret with your token: --token-secret",
            ),
            "UnsupportedModel" => (Code::Error, "another model, or another --engine"),
            "NoFittingGPU" => (
                Code::Error,
                "--quantize needs less memory, --context-length as well; --gpu-type narrows the choice",
            ),
            "OverPrice" => (Code::Error, "--max-cost-per-hour raises the limit"),
            "OutOfStock" => (
                Code::NotReady,
                "try again in a few minutes, or with other --gpu-type",
            ),
            "StartupTooLong" => (Code::Error, "a smaller model, or a longer --lifetime"),
            "HubUnavailable" => (Code::NotReady, "try again in a few minutes"),
            _ => (Code::Error, "`srchat doctor` looks for what is missing"),
        };
        let why = self.message.trim_end_matches('.');
        Failure::new(code, format!("there is no plan: {why}")).hint(hint)
    }
}

/// The session with its plan, or why there is none.
async fn plan_of(
    cluster: &Cluster,
    session: &ChatSession,
) -> Result<Result<ChatSession, NoPlan>, Failure> {
    let name = name(session);
    let mut last = session.clone();
    let watch = async {
        let mut seen = std::pin::pin!(watch_object(cluster.sessions(), name).default_backoff());
        let notice = tokio::time::sleep(NOTICE);
        let mut notice = std::pin::pin!(notice);
        loop {
            let event = tokio::select! {
                event = seen.next() => event,
                () = &mut notice, if last.status.is_none() => return Err(no_operator(name)),
            };
            match event {
                Some(Ok(Some(seen))) => last = seen,
                Some(Err(error)) => {
                    let error = chain(&error);
                    return Err(Failure::new(
                        Code::Error,
                        format!("could not wait for the plan: {error}"),
                    ));
                }
                Some(Ok(None)) | None => {
                    let message = format!("session {name} was deleted");
                    return Err(Failure::new(Code::NotFound, message));
                }
            }
            if let Some(verdict) = verdict(&last, session.metadata.generation) {
                return Ok(verdict.map(|()| last.clone()));
            }
        }
    };
    let waited = tokio::time::timeout(TO_PLAN, watch).await;
    waited.unwrap_or_else(|_| {
        Err(Failure::new(
            Code::NotReady,
            "there is no plan after a minute: the operator is still looking",
        )
        .hint("`srchat doctor` looks for what is missing"))
    })
}

/// What the operator says of the plan of this generation, once it says something final.
fn verdict(session: &ChatSession, generation: Option<i64>) -> Option<Result<(), NoPlan>> {
    let planned = session
        .condition(Type::Planned)
        .filter(|planned| planned.observed_generation >= generation)?;
    match planned.reason.as_str() {
        "Fits" => Some(Ok(())),
        "Planning" | "Pending" | "Released" => None,
        reason => Some(Err(NoPlan {
            reason: reason.to_owned(),
            message: planned.message.clone(),
        })),
    }
}

/// What came of a confirmation.
#[derive(Debug)]
pub enum Confirmed {
    /// It rents now.
    Rents(Box<ChatSession>),
    /// The plan is another one by now, and has to be shown again.
    Changed(Box<Planned>),
}

/// Rents what was shown, by one patch that holds only for what was shown.
pub async fn confirm(cluster: &Cluster, planned: Planned) -> Result<Confirmed, Failure> {
    let Planned { session, plan, cap } = &planned;
    let (mut session, needed) = (session.clone(), planned.cap_needed());
    // The status may be written again without anything new in it: what counts is that the plan is the one that was shown.
    loop {
        let patch = Patch::Merge(json!({
            "metadata": {
                "resourceVersion": session.metadata.resource_version,
                "annotations": {ANNOTATION_UNCONFIRMED_UNTIL: null},
            },
            "spec": {"replicas": 1, "limits": {"maxHourlyCost": needed}},
        }));
        let sessions = cluster.sessions();
        let patched = sessions
            .patch(name(&session), &PatchParams::default(), &patch)
            .await;
        match patched {
            Ok(session) => return Ok(Confirmed::Rents(Box::new(session))),
            Err(kube::Error::Api(status)) if status.is_conflict() => {}
            Err(error) => return Err(failed("rent", &error)),
        }
        session = cluster.session(name(&session)).await?;
        match status(&session).plan {
            Some(now) if now == *plan => {}
            Some(now) => {
                return Ok(Confirmed::Changed(Box::new(Planned {
                    session,
                    plan: now,
                    cap: *cap,
                })));
            }
            None => {
                return Err(Failure::new(Code::Error, "the plan does not hold any more")
                    .hint("run the same command again"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn session(reason: &str, generation: i64) -> ChatSession {
        serde_json::from_value(json!({
            "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession",
            "metadata": {"name": "qwen", "generation": 2}, "spec": {"model": "a/b", "replicas": 0},
            "status": {"conditions": [{
                "type": "Planned", "status": "False", "reason": reason, "message": "It is so.",
                "observedGeneration": generation, "lastTransitionTime": "2026-11-23T12:00:00Z",
            }]},
        }))
        .unwrap()
    }

    #[test]
    fn only_the_last_word_on_this_generation_counts() {
        assert_eq!(verdict(&session("Planning", 2), Some(2)), None);
        assert_eq!(verdict(&session("Fits", 1), Some(2)), None);
        assert_eq!(verdict(&session("Fits", 2), Some(2)), Some(Ok(())));
        let no = verdict(&session("GatedModel", 2), Some(2))
            .unwrap()
            .unwrap_err();
        let failure = no.failure();
        assert_eq!(failure.message, "there is no plan: It is so");
        assert_eq!(failure.code, Code::NotAllowed);
    }

    #[test]
    fn a_raised_cap_leaves_room_for_the_drift_that_the_controller_allows() {
        let price = |text: &str| text.parse::<Dollars>().unwrap();
        assert_eq!(with_headroom(price("0.79")), price("0.82"));
        assert_eq!(with_headroom(price("1")), price("1.03"));
        assert_eq!(with_headroom(price("999")), price("1000"));
    }
}

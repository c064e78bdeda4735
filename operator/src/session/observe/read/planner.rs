//! What the planner would rent now: the Hub's facts, the catalog's offers, and what the session may not have.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt as _};
use srchat_crds::conditions::Planned;
use srchat_crds::session::Engine;
use srchat_crds::{ChatSession, LABEL_MODEL_TOKEN};

use super::super::super::context::Context;
use super::super::{LedgerSeen, NoPlan, Observation, PlanAnswer, PlanSeen, Proposal};
use crate::hub;
use crate::plan::{self, OfferKey, Wish};
use crate::provider::Cloud;

/// Asks, and dates the answer.
pub(super) async fn ask(context: &Context, session: &ChatSession, seen: &Observation) -> PlanSeen {
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
        message: refusal.to_string(),
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

//! How a plan is told to a person.

use super::Planned;
use srchat_crds::session::Quantization;
use srchat_crds::status::{Plan, RejectedReason};
use srchat_crds::{Dollars, ModelId, session};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// Leaves room for a number behind it, within the 52 characters that a session's name may have.
const LONGEST: usize = 48;

/// A session's name for a model: `Qwen/Qwen3-8B` becomes `qwen3-8b`.
pub fn name_for(model: &ModelId) -> String {
    let mut name = String::new();
    for c in model.name().chars() {
        match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => name.push(c),
            _ if name.ends_with('-') || name.is_empty() => {}
            _ => name.push('-'),
        }
    }
    name.truncate(LONGEST);
    let name = name.trim_matches('-');
    // A name of one letter would be a drive's in NAME:path.
    if name.len() < 2 {
        format!("chat-{name}").trim_matches('-').to_owned()
    } else {
        name.to_owned()
    }
}

/// A plan in lines.
pub struct Words<'a>(pub &'a Planned);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Planned { session, plan, .. } = self.0;
        writeln!(
            f,
            "model     {} at {:.12}",
            session.spec.model, plan.revision
        )?;
        writeln!(f, "gpu       {} × {}", plan.gpu_count, plan.gpu)?;
        writeln!(f, "memory    {} needed on each GPU", plan.required_memory)?;
        writeln!(f, "engine    {}", engine(plan))?;
        writeln!(f, "disk      {}", plan.disk)?;
        writeln!(f, "price     {}", self.price())?;
        write!(f, "ends      {}", self.end())?;
        let mut label = "others";
        for (why, gpus) in rejected(plan) {
            write!(f, "\n{label:<9} {why}: {}", gpus.join(", "))?;
            // The label of the first line is that of those below it.
            label = "";
        }
        Ok(())
    }
}

impl Words<'_> {
    /// `about $0.79 an hour, never above $1.00`.
    pub fn price(&self) -> String {
        let cap = self.0.cap_needed();
        format!(
            "about ${} an hour, never above ${cap}",
            self.0.plan.hourly_cost
        )
    }

    /// What ends it, and what it can cost until then.
    fn end(&self) -> String {
        let limits = &self.0.session.spec.limits;
        let most = self.0.cap_needed().for_hours_of(limits.lifetime.duration());
        let most = limits.max_total_cost.map_or(most, |total| most.min(total));
        let mut text = format!("after {} at the latest", limits.lifetime);
        if let Some(idle) = limits.idle_in_force() {
            let _ = write!(text, ", after {idle} without use");
        }
        let _ = write!(text, ", and before ${} are spent", in_cents(most));
        text
    }
}

/// Whole cents, rounded up.
fn in_cents(amount: Dollars) -> Dollars {
    let cents = amount.as_micros().div_ceil(10_000);
    Dollars::cents(u32::try_from(cents).unwrap_or(u32::MAX))
}

fn engine(plan: &Plan) -> String {
    let engine = match plan.engine {
        session::Engine::Vllm => "vLLM",
        session::Engine::LlamaCpp => "llama.cpp",
        session::Engine::Transformers => "transformers",
        session::Engine::Auto => "the operator's choice",
    };
    let mut text = format!("{engine}, {} tokens of context", plan.context_length);
    if !matches!(plan.quantization, Quantization::None | Quantization::Auto) {
        let _ = write!(text, ", quantized to {}", plan.quantization);
    }
    if plan.vision {
        text.push_str(", sees images");
    }
    text
}

/// The offers not taken, by reason, each GPU once.
pub fn rejected(plan: &Plan) -> Vec<(&'static str, Vec<&str>)> {
    let mut reasons: BTreeMap<RejectedReason, Vec<&str>> = BTreeMap::new();
    for rejected in &plan.rejected {
        let gpus = reasons.entry(rejected.reason).or_default();
        if !gpus.contains(&rejected.gpu.as_str()) {
            gpus.push(&rejected.gpu);
        }
    }
    let named = reasons
        .into_iter()
        .map(|(reason, gpus)| (why(reason), gpus));
    named.collect()
}

fn why(reason: RejectedReason) -> &'static str {
    match reason {
        RejectedReason::TooSmall => "too small",
        RejectedReason::OverPrice => "above the price limit",
        RejectedReason::NoStock => "none in stock",
        RejectedReason::WrongType => "not among --gpu-type",
        RejectedReason::WrongCloud => "not in the wanted cloud",
        RejectedReason::WrongDataCenter => "not in the wanted data centers",
        RejectedReason::Unsupported => "cannot run the engine",
        RejectedReason::Excluded => "failed a short while ago",
        RejectedReason::Dearer => "would do, but cost more",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn planned(cap: &str, price: &str) -> Planned {
        let session = serde_json::from_value(json!({
            "apiVersion": "srchat.dev/v1alpha1", "kind": "ChatSession", "metadata": {"name": "qwen3-8b"},
            "spec": {"model": "Qwen/Qwen3-8B", "limits": {"maxHourlyCost": cap}},
        }));
        let plan = serde_json::from_value(json!({
            "revision": "0123456789abcdef", "engine": "VLLM", "quantization": "None", "vision": false,
            "contextLength": 32768, "requiredMemory": "21Gi", "gpu": "L4", "gpuCount": 1, "disk": "50G",
            "hourlyCost": price, "rejected": [
                {"gpu": "RTX A4000", "reason": "TooSmall"}, {"gpu": "L40S", "reason": "Dearer"},
                {"gpu": "RTX A4000", "reason": "TooSmall"}, {"gpu": "A40", "reason": "NoStock"},
            ],
        }));
        Planned {
            session: session.unwrap(),
            plan: plan.unwrap(),
            cap: cap.parse().unwrap(),
        }
    }

    #[test]
    fn a_plan_is_told_with_its_price_its_end_and_what_was_not_taken() {
        let expected = "\
model     Qwen/Qwen3-8B at 0123456789ab
gpu       1 × L4
memory    21Gi needed on each GPU
engine    vLLM, 32768 tokens of context
disk      50G
price     about $0.49 an hour, never above $1.00
ends      after 4h at the latest, after 30m without use, and before $4.00 are spent
others    too small: RTX A4000
          none in stock: A40
          would do, but cost more: L40S";
        assert_eq!(Words(&planned("1", "0.49")).to_string(), expected);
    }

    #[test]
    fn a_dearer_plan_names_the_cap_that_it_needs() {
        let planned = planned("0.50", "0.79");
        assert!(planned.is_too_dear());
        assert_eq!(
            Words(&planned).price(),
            "about $0.79 an hour, never above $0.82"
        );
    }

    #[test]
    fn every_model_gives_a_name_that_a_session_may_have() {
        let name = |model: &str| name_for(&model.parse().unwrap());
        assert_eq!(name("Qwen/Qwen3-8B"), "qwen3-8b");
        assert_eq!(
            name("Qwen/Qwen2.5-VL-7B-Instruct@main"),
            "qwen2-5-vl-7b-instruct"
        );
        assert_eq!(name("a/b"), "chat-b");
        for model in ["a/B_._c", "x/__", &format!("a/{}", "b".repeat(90))] {
            let name = name(model);
            assert!(crate::args::values::session_name(&name).is_ok(), "{name}");
        }
    }
}

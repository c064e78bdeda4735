//! Parameters that several endpoints share: how to sample, when to stop, what to stream.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::content::Text;
use crate::gateway::refusal::Refusal;
use crate::route::{Engine, RouteHost};

/// Answers per request. More is a way to multiply the cost of one prompt.
const CHOICES: u32 = 8;
/// Log probabilities per token; OpenAI's own limit.
const LOGPROBS: u32 = 20;
/// Stop sequences per request; vLLM and llama.cpp compare each at every token.
const STOPS: usize = 16;
/// Entries of `logit_bias`; OpenAI's own limit is 300 tokens in practice.
const BIASES: usize = 1024;

/// What chat and plain completions have in common.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Sampling {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
    /// vLLM's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
    /// llama.cpp's name of the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat_penalty: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_bias: Option<BTreeMap<String, f64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_tokens: Option<u32>,
}

/// One string or several.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub(super) enum Stop<'a> {
    One(#[serde(borrow)] Text<'a>),
    Many(#[serde(borrow)] Vec<Text<'a>>),
}

/// What a stream tells besides tokens.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct StreamOptions {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_usage: Option<bool>,
    /// vLLM: usage with every event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuous_usage_stats: Option<bool>,
}

impl Sampling {
    /// Brings them within bounds and into the engine's words.
    pub fn settle(&mut self, host: &RouteHost) -> Result<(), Refusal> {
        if self
            .logit_bias
            .as_ref()
            .is_some_and(|bias| bias.len() > BIASES)
        {
            return Err(Refusal::field(
                "logit_bias",
                format!("At most {BIASES} entries."),
            ));
        }
        self.min_tokens = self.min_tokens.map(|n| n.min(host.max_model_len));
        let repetition = self
            .repetition_penalty
            .take()
            .or(self.repeat_penalty.take());
        match host.engine {
            Engine::Vllm => self.repetition_penalty = repetition,
            Engine::LlamaCpp => self.repeat_penalty = repetition,
            Engine::Transformers => {
                unsupported("top_k", self.top_k)?;
                unsupported("min_p", self.min_p)?;
                unsupported("min_tokens", self.min_tokens)?;
                unsupported("repetition_penalty", repetition)?;
                unless_default("presence_penalty", &mut self.presence_penalty, &0.0)?;
            }
        }
        Ok(())
    }
}

/// A field that this engine would ignore is refused: an answer that looks right and is not helps nobody.
pub(super) fn unsupported<T>(field: &str, value: Option<T>) -> Result<(), Refusal> {
    match value {
        None => Ok(()),
        Some(_) => Err(Refusal::field(
            field,
            format!(
                "The model of this session is served by transformers, which ignores `{field}`."
            ),
        )),
    }
}

/// As [`unsupported`], but a value that asks for what happens anyway is dropped.
pub(super) fn unless_default<T: PartialEq>(
    field: &str,
    value: &mut Option<T>,
    default: &T,
) -> Result<(), Refusal> {
    match value.take() {
        Some(value) if value != *default => unsupported(field, Some(value)),
        Some(_) | None => Ok(()),
    }
}

/// `n` and `best_of`.
pub(super) fn choices(n: Option<u32>) -> Option<u32> {
    n.map(|n| n.clamp(1, CHOICES))
}

/// `top_logprobs`, and the number in `logprobs` of plain completions.
pub(super) fn logprobs(n: Option<u32>) -> Option<u32> {
    n.map(|n| n.min(LOGPROBS))
}

/// `max_tokens` and its younger names.
pub(super) fn tokens(n: Option<u32>, host: &RouteHost) -> Option<u32> {
    n.map(|n| n.min(host.max_model_len))
}

/// `stop`.
pub(super) fn stop(stop: Option<&Stop<'_>>) -> Result<(), Refusal> {
    match stop {
        Some(Stop::Many(stops)) if stops.len() > STOPS => Err(Refusal::field(
            "stop",
            format!("At most {STOPS} sequences."),
        )),
        Some(_) | None => Ok(()),
    }
}

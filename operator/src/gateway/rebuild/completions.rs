//! `/v1/completions`.

use serde::{Deserialize, Serialize};

use super::content::Text;
use super::sampling::{
    Sampling, Stop, StreamOptions, choices, logprobs, stop, tokens, unless_default, unsupported,
};
use super::{Rebuilt, parse, write};
use crate::gateway::refusal::Refusal;
use crate::route::{Engine, RouteHost};

/// Prompts per request: each is a sequence of its own on the GPU.
const PROMPTS: usize = 32;

#[derive(Debug, Deserialize, Serialize)]
struct Request<'a> {
    #[serde(default, skip_deserializing)]
    model: &'a str,
    #[serde(borrow)]
    prompt: Prompt<'a>,
    #[serde(flatten)]
    sampling: Sampling,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    suffix: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    best_of: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    echo: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    logprobs: Option<u32>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    stop: Option<Stop<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
}

/// Text or token ids, one or several. Embeddings take the same.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub(super) enum Prompt<'a> {
    Text(#[serde(borrow)] Text<'a>),
    Texts(#[serde(borrow)] Vec<Text<'a>>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

impl Prompt<'_> {
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Text(_) | Self::Tokens(_) => 1,
            Self::Texts(texts) => texts.len(),
            Self::TokenLists(lists) => lists.len(),
        }
    }
}

pub(super) fn rebuild(body: &[u8], host: &RouteHost) -> Result<Rebuilt, Refusal> {
    if !host.abilities.completions {
        return Err(Refusal::NotImplemented("completions"));
    }
    let mut request: Request<'_> = parse(body)?;
    request.model = &host.served_name;
    if !(1..=PROMPTS).contains(&request.prompt.count()) {
        return Err(Refusal::field(
            "prompt",
            format!("Between one and {PROMPTS} prompts."),
        ));
    }
    request.sampling.settle(host)?;
    stop(request.stop.as_ref())?;
    request.n = choices(request.n);
    request.best_of = choices(request.best_of);
    request.logprobs = logprobs(request.logprobs);
    request.max_tokens = tokens(request.max_tokens, host);
    if request.stream != Some(true) {
        request.stream_options = None;
    }
    if host.engine == Engine::Transformers {
        settle_transformers(&mut request)?;
    }
    let stream = request.stream == Some(true);
    Ok(write("/v1/completions", stream, &request))
}

/// What `transformers serve` (5.23) ignores here.
fn settle_transformers(request: &mut Request<'_>) -> Result<(), Refusal> {
    if !matches!(request.prompt, Prompt::Text(_)) {
        return Err(Refusal::field(
            "prompt",
            "The model server of this session takes one prompt, as text.",
        ));
    }
    unless_default("n", &mut request.n, &1)?;
    unless_default("best_of", &mut request.best_of, &1)?;
    unless_default("echo", &mut request.echo, &false)?;
    unsupported("logprobs", request.logprobs)?;
    unsupported("logit_bias", request.sampling.logit_bias.as_ref())?;
    request.stream_options = None;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::gateway::rebuild::tests::{accepted, refused};
    use crate::gateway::routes::What::Completions;
    use crate::route::Engine::{Transformers, Vllm};

    #[test]
    fn every_form_of_prompt_goes_through() {
        for prompt in [
            json!("a"),
            json!(["a", "b"]),
            json!([1, 2, 3]),
            json!([[1, 2], [3]]),
        ] {
            assert_eq!(
                accepted(Completions, Vllm, json!({"prompt": prompt}))["prompt"],
                prompt
            );
        }
    }

    #[test]
    fn counts_are_clamped_and_prompts_are_counted() {
        let sent = accepted(
            Completions,
            Vllm,
            json!({"prompt": "a", "n": 99, "best_of": 99, "logprobs": 99, "max_tokens": 99999}),
        );
        assert_eq!(
            sent,
            json!({"model": "served", "prompt": "a", "n": 8, "best_of": 8, "logprobs": 20, "max_tokens": 4096})
        );
        refused(Completions, Vllm, json!({"prompt": vec!["a"; 33]}));
        refused(Completions, Vllm, json!({"prompt": []}));
        refused(Completions, Vllm, json!({"prompt": [-1]}));
        refused(
            Completions,
            Vllm,
            json!({"prompt": {"prompt_embeds": "AA=="}}),
        );
        refused(Completions, Vllm, json!({}));
    }

    #[test]
    fn what_transformers_would_ignore_is_refused() {
        for body in [
            json!({"prompt": ["a", "b"]}),
            json!({"prompt": "a", "echo": true}),
            json!({"prompt": "a", "logprobs": 1}),
        ] {
            refused(Completions, Transformers, body);
        }
    }
}

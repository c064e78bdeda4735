//! `/v1/embeddings`.

use serde::{Deserialize, Serialize};

use super::completions::Prompt;
use super::{Rebuilt, parse, write};
use crate::gateway::refusal::Refusal;
use crate::route::RouteHost;

/// Inputs per request; OpenAI's own limit, and what LangChain sends at once stays below.
const INPUTS: usize = 2048;

#[derive(Debug, Deserialize, Serialize)]
struct Request<'a> {
    #[serde(default, skip_deserializing)]
    model: &'a str,
    #[serde(borrow)]
    input: Prompt<'a>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoding_format: Option<Encoding>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dimensions: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Float,
    Base64,
}

pub(super) fn rebuild(body: &[u8], host: &RouteHost) -> Result<Rebuilt, Refusal> {
    if !host.abilities.embeddings {
        return Err(Refusal::NotImplemented("embeddings"));
    }
    let mut request: Request<'_> = parse(body)?;
    request.model = &host.served_name;
    if !(1..=INPUTS).contains(&request.input.count()) {
        return Err(Refusal::field(
            "input",
            format!("Between one and {INPUTS} inputs."),
        ));
    }
    Ok(write("/v1/embeddings", false, &request))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::gateway::rebuild::tests::{accepted, refused};
    use crate::gateway::routes::What::Embeddings;
    use crate::route::Engine::Vllm;

    #[test]
    fn embeddings_go_through_and_cannot_stream() {
        let sent = accepted(
            Embeddings,
            Vllm,
            json!({"input": ["a"], "encoding_format": "base64", "dimensions": 8, "stream": true}),
        );
        assert_eq!(
            sent,
            json!({"model": "served", "input": ["a"], "encoding_format": "base64", "dimensions": 8})
        );
        refused(Embeddings, Vllm, json!({"input": vec!["a"; 2049]}));
        refused(
            Embeddings,
            Vllm,
            json!({"input": "a", "encoding_format": "pickle"}),
        );
    }
}

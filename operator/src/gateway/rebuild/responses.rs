//! `/v1/responses`: one turn, nothing kept at the engine, no tools but functions.

use serde::{Deserialize, Serialize};

use super::content::{Content, Detail, Effort, OnlyFunction, Schema, Text, ToolMode, image};
use super::sampling::{logprobs, tokens, unless_default, unsupported};
use super::{Rebuilt, parse, write};
use crate::gateway::refusal::Refusal;
use crate::route::{Engine, RouteHost};

#[derive(Debug, Deserialize, Serialize)]
struct Request<'a> {
    #[serde(default, skip_deserializing)]
    model: &'a str,
    #[serde(borrow)]
    input: Content<'a, Item<'a>>,
    /// Always false: the engine keeps no conversation.
    #[serde(default, skip_deserializing)]
    store: bool,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    instructions: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream: Option<bool>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    tools: Option<Vec<Tool<'a>>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    tool_choice: Option<ToolChoice<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    text: Option<TextOptions<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reasoning: Option<Reasoning>,
    #[serde(default, skip_serializing)]
    background: Option<bool>,
    #[serde(borrow, default, skip_serializing)]
    previous_response_id: Option<Text<'a>>,
}

/// A message, a call of a function, its result, or a thought of an earlier turn; `type` may be missing on messages.
#[derive(Debug, Deserialize, Serialize)]
struct Item<'a> {
    #[serde(default)]
    r#type: ItemKind,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    id: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    content: Option<Content<'a, Part<'a>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    call_id: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    name: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    arguments: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    output: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    summary: Option<Vec<Part<'a>>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum ItemKind {
    #[default]
    Message,
    FunctionCall,
    FunctionCallOutput,
    Reasoning,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    Developer,
    User,
    Assistant,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    InProgress,
    Completed,
    Incomplete,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    InputText {
        #[serde(borrow)]
        text: Text<'a>,
    },
    OutputText {
        #[serde(borrow)]
        text: Text<'a>,
        /// The shape demands the list; what was cited is of no use to the engine.
        #[serde(default, skip_deserializing)]
        annotations: [u8; 0],
    },
    ReasoningText {
        #[serde(borrow)]
        text: Text<'a>,
    },
    SummaryText {
        #[serde(borrow)]
        text: Text<'a>,
    },
    InputImage {
        #[serde(borrow)]
        image_url: Text<'a>,
        #[serde(default = "auto")]
        detail: Detail,
    },
}

fn auto() -> Detail {
    Detail::Auto
}

#[derive(Debug, Deserialize, Serialize)]
struct Tool<'a> {
    r#type: OnlyFunction,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    description: Option<Text<'a>>,
    #[serde(borrow, default)]
    parameters: Option<Schema<'a>>,
    #[serde(default)]
    strict: Option<bool>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
enum ToolChoice<'a> {
    Mode(ToolMode),
    One {
        r#type: OnlyFunction,
        #[serde(borrow)]
        name: Text<'a>,
    },
}

#[derive(Debug, Deserialize, Serialize)]
struct TextOptions<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    format: Option<Format<'a>>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Format<'a> {
    r#type: FormatKind,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    name: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    schema: Option<Schema<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum FormatKind {
    Text,
    JsonObject,
    JsonSchema,
}

#[derive(Debug, Deserialize, Serialize)]
struct Reasoning {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    effort: Option<Effort>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    summary: Option<Summary>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Summary {
    Auto,
    Concise,
    Detailed,
}

pub(super) fn rebuild(body: &[u8], host: &RouteHost) -> Result<Rebuilt, Refusal> {
    if !host.abilities.responses {
        return Err(Refusal::NotImplemented("responses"));
    }
    let mut request: Request<'_> = parse(body)?;
    request.model = &host.served_name;
    unless_kept("background", request.background == Some(true))?;
    unless_kept(
        "previous_response_id",
        request.previous_response_id.is_some(),
    )?;
    if let Content::Parts(items) = &request.input {
        items.iter().try_for_each(|item| check_item(item, host))?;
    }
    request.max_output_tokens = tokens(request.max_output_tokens, host);
    request.top_logprobs = logprobs(request.top_logprobs);
    if request.tools.as_ref().is_none_or(Vec::is_empty) {
        request.tools = None;
        request.tool_choice = None;
        request.parallel_tool_calls = None;
    } else if !host.abilities.tools {
        return Err(Refusal::field(
            "tools",
            "The model of this session does not use tools.",
        ));
    }
    let format = request.text.as_ref().and_then(|text| text.format.as_ref());
    if format.is_none_or(|format| format.r#type == FormatKind::Text) {
        request.text = None;
    } else if !host.abilities.structured_output {
        return Err(Refusal::field(
            "text.format",
            "The model server of this session cannot be held to a format.",
        ));
    }
    if host.engine == Engine::Transformers {
        settle_transformers(&mut request)?;
    }
    let stream = request.stream == Some(true);
    Ok(write("/v1/responses", stream, &request))
}

fn unless_kept(field: &str, asked: bool) -> Result<(), Refusal> {
    if asked {
        return Err(Refusal::field(
            field,
            format!("Nothing is kept between requests, so `{field}` cannot work."),
        ));
    }
    Ok(())
}

fn check_item(item: &Item<'_>, host: &RouteHost) -> Result<(), Refusal> {
    if item.r#type == ItemKind::Message && (item.role.is_none() || item.content.is_none()) {
        return Err(Refusal::field("input", "A message has a role and content."));
    }
    if let Some(Content::Parts(parts)) = &item.content {
        for part in parts {
            if let Part::InputImage {
                image_url,
                detail: _,
            } = part
            {
                image(&image_url.0, "input", host)?;
            }
        }
    }
    Ok(())
}

/// What `transformers serve` (5.23) ignores here.
fn settle_transformers(request: &mut Request<'_>) -> Result<(), Refusal> {
    unless_default("top_logprobs", &mut request.top_logprobs, &0)?;
    match request.tool_choice.take() {
        None | Some(ToolChoice::Mode(ToolMode::Auto)) => Ok(()),
        Some(ToolChoice::Mode(ToolMode::None)) => {
            request.tools = None;
            Ok(())
        }
        Some(choice @ (ToolChoice::Mode(ToolMode::Required) | ToolChoice::One { .. })) => {
            unsupported("tool_choice", Some(choice))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::gateway::rebuild::tests::{accepted, refused};
    use crate::gateway::routes::What::Responses;
    use crate::route::Engine::{Transformers, Vllm};

    #[test]
    fn a_turn_goes_through_and_nothing_is_stored() {
        let input = json!([
            {"role": "user", "content": "hi"},
            {"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "see"},
                {"type": "input_image", "image_url": "data:image/gif;base64,AAAA", "detail": "low"}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "42"},
        ]);
        let sent = accepted(
            Responses,
            Vllm,
            json!({"input": input, "store": true, "max_output_tokens": 99999, "include": ["x"]}),
        );
        let mut expected = input.clone();
        expected[0]["type"] = json!("message");
        assert_eq!(
            sent,
            json!({"model": "served", "store": false, "max_output_tokens": 4096, "input": expected})
        );
    }

    #[test]
    fn what_would_be_kept_or_fetched_is_refused() {
        for body in [
            json!({"input": "a", "background": true}),
            json!({"input": "a", "previous_response_id": "resp_1"}),
            json!({"input": "a", "tools": [{"type": "web_search"}]}),
            json!({"input": "a", "tools": [{"type": "mcp", "server_url": "http://x"}]}),
            json!({"input": "a", "tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}),
            json!({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x", "detail": "auto"}]}]}),
            json!({"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "http://x"}]}]}),
            json!({"input": [{"type": "item_reference", "id": "x"}]}),
            json!({"input": [{"type": "message"}]}),
        ] {
            refused(Responses, Vllm, body);
        }
        accepted(
            Responses,
            Vllm,
            json!({"input": "a", "background": false, "previous_response_id": null}),
        );
    }

    #[test]
    fn what_transformers_would_ignore_is_refused() {
        let tool = json!([{"type": "function", "name": "f"}]);
        refused(
            Responses,
            Transformers,
            json!({"input": "a", "tools": tool, "tool_choice": "required"}),
        );
        refused(
            Responses,
            Transformers,
            json!({"input": "a", "text": {"format": {"type": "json_object"}}}),
        );
    }
}

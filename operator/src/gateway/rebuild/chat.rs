//! `/v1/chat/completions`.

use serde::{Deserialize, Serialize};

use super::content::{Content, Effort, OnlyFunction, Part, Schema, Text, ToolMode, image};
use super::sampling::{
    Sampling, Stop, StreamOptions, choices, logprobs, stop, tokens, unless_default, unsupported,
};
use super::{Rebuilt, parse, write};
use crate::gateway::refusal::Refusal;
use crate::route::{Engine, RouteHost};

#[derive(Debug, Deserialize, Serialize)]
struct Request<'a> {
    #[serde(default, skip_deserializing)]
    model: &'a str,
    #[serde(borrow)]
    messages: Vec<Message<'a>>,
    #[serde(flatten)]
    sampling: Sampling,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(default, skip_serializing)]
    max_completion_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<u32>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    stop: Option<Stop<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    logprobs: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    tools: Option<Vec<Tool<'a>>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    tool_choice: Option<ToolChoice<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    response_format: Option<ResponseFormat<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<Effort>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Message<'a> {
    role: Role,
    #[serde(borrow, default)]
    content: Option<Content<'a, Part<'a>>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    name: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Vec<ToolCall<'a>>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<Text<'a>>,
    /// What a reasoning model thought before; engines know it under one of two names.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    reasoning: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<Text<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
    Function,
}

#[derive(Debug, Deserialize, Serialize)]
struct ToolCall<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    id: Option<Text<'a>>,
    r#type: OnlyFunction,
    #[serde(borrow)]
    function: Call<'a>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Call<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    arguments: Text<'a>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Tool<'a> {
    r#type: OnlyFunction,
    #[serde(borrow)]
    function: Function<'a>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    description: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    parameters: Option<Schema<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
enum ToolChoice<'a> {
    Mode(ToolMode),
    One {
        r#type: OnlyFunction,
        #[serde(borrow)]
        function: Named<'a>,
    },
}

#[derive(Debug, Deserialize, Serialize)]
struct Named<'a> {
    #[serde(borrow)]
    name: Text<'a>,
}

#[derive(Debug, Deserialize, Serialize)]
struct ResponseFormat<'a> {
    r#type: FormatKind,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    json_schema: Option<JsonSchema<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum FormatKind {
    Text,
    JsonObject,
    JsonSchema,
}

#[derive(Debug, Deserialize, Serialize)]
struct JsonSchema<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    name: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    description: Option<Text<'a>>,
    #[serde(borrow)]
    schema: Schema<'a>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

pub(super) fn rebuild(body: &[u8], host: &RouteHost) -> Result<Rebuilt, Refusal> {
    if !host.abilities.chat {
        return Err(Refusal::NotImplemented("chat completions"));
    }
    let mut request: Request<'_> = parse(body)?;
    request.model = &host.served_name;
    if request.messages.is_empty() {
        return Err(Refusal::field(
            "messages",
            "There must be at least one message.",
        ));
    }
    for message in &mut request.messages {
        settle_message(message, host)?;
    }
    request.sampling.settle(host)?;
    stop(request.stop.as_ref())?;
    request.n = choices(request.n);
    request.top_logprobs = logprobs(request.top_logprobs);
    // One name for all engines: vLLM and llama.cpp take the old one, transformers both.
    request.max_tokens = tokens(
        request.max_completion_tokens.take().or(request.max_tokens),
        host,
    );
    if request.stream != Some(true) {
        // vLLM refuses the options of a stream that is none.
        request.stream_options = None;
    }
    settle_tools(&mut request, host)?;
    settle_format(&mut request, host)?;
    if host.engine == Engine::Transformers {
        settle_transformers(&mut request)?;
    }
    let stream = request.stream == Some(true);
    Ok(write("/v1/chat/completions", stream, &request))
}

fn settle_message(message: &mut Message<'_>, host: &RouteHost) -> Result<(), Refusal> {
    if let Some(Content::Parts(parts)) = &message.content {
        for part in parts {
            if let Part::ImageUrl { image_url } = part {
                image(&image_url.url.0, "messages", host)?;
            }
        }
    }
    if message.content.is_none() && message.role != Role::Assistant {
        return Err(Refusal::field(
            "messages",
            "Only an assistant's message may be without content.",
        ));
    }
    let thought = message
        .reasoning
        .take()
        .or(message.reasoning_content.take());
    match host.engine {
        Engine::Vllm => message.reasoning = thought,
        Engine::LlamaCpp => message.reasoning_content = thought,
        Engine::Transformers => {}
    }
    Ok(())
}

fn settle_tools(request: &mut Request<'_>, host: &RouteHost) -> Result<(), Refusal> {
    if matches!(request.tool_choice, Some(ToolChoice::Mode(ToolMode::None)))
        && !host.abilities.tools
    {
        request.tools = None;
    }
    if request.tools.as_ref().is_some_and(Vec::is_empty) {
        request.tools = None;
    }
    if request.tools.is_none() {
        request.tool_choice = None;
        request.parallel_tool_calls = None;
    }
    if request.tools.is_some() && !host.abilities.tools {
        return Err(Refusal::field(
            "tools",
            "The model of this session does not use tools.",
        ));
    }
    Ok(())
}

fn settle_format(request: &mut Request<'_>, host: &RouteHost) -> Result<(), Refusal> {
    let Some(format) = &request.response_format else {
        return Ok(());
    };
    match (format.r#type, &format.json_schema) {
        (FormatKind::Text, _) => request.response_format = None,
        (FormatKind::JsonSchema, None) => {
            return Err(Refusal::field(
                "response_format.json_schema",
                "A json_schema needs its schema.",
            ));
        }
        (FormatKind::JsonObject | FormatKind::JsonSchema, _)
            if !host.abilities.structured_output =>
        {
            return Err(Refusal::field(
                "response_format",
                "The model server of this session cannot be held to a format.",
            ));
        }
        (FormatKind::JsonObject | FormatKind::JsonSchema, _) => {}
    }
    Ok(())
}

/// `transformers serve` (5.23) refuses fields that it has never heard of and ignores, silently, most that it has.
fn settle_transformers(request: &mut Request<'_>) -> Result<(), Refusal> {
    unless_default("n", &mut request.n, &1)?;
    unless_default("logprobs", &mut request.logprobs, &false)?;
    unless_default("top_logprobs", &mut request.top_logprobs, &0)?;
    unless_default(
        "parallel_tool_calls",
        &mut request.parallel_tool_calls,
        &true,
    )?;
    unsupported("reasoning_effort", request.reasoning_effort.take())?;
    match request.tool_choice.take() {
        None | Some(ToolChoice::Mode(ToolMode::Auto)) => {}
        Some(ToolChoice::Mode(ToolMode::None)) => request.tools = None,
        Some(choice @ (ToolChoice::Mode(ToolMode::Required) | ToolChoice::One { .. })) => {
            unsupported("tool_choice", Some(choice))?;
        }
    }
    // Many clients ask for usage at a stream's end by default: it ignores that they do, and always says it with the last piece.
    request.stream_options = None;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use crate::gateway::rebuild::rebuild;
    use crate::gateway::rebuild::tests::{accepted, host, refused};
    use crate::gateway::refusal::Refusal;
    use crate::gateway::routes::What;
    use crate::route::Engine::{self, LlamaCpp, Transformers, Vllm};

    fn chat(engine: Engine, extra: Value) -> Value {
        accepted(What::Chat, engine, asking(extra))
    }

    fn asking(extra: Value) -> Value {
        let mut body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        body
    }

    fn refused_field(engine: Engine, extra: Value) -> String {
        match refused(What::Chat, engine, asking(extra)) {
            Refusal::Invalid {
                param: Some(param), ..
            } => param,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_model_is_the_one_that_is_served() {
        assert_eq!(
            chat(Vllm, json!({})),
            json!({"model": "served", "messages": [{"role": "user", "content": "hi"}]})
        );
    }

    #[test]
    fn counts_are_clamped() {
        let sent = chat(
            Vllm,
            json!({"n": 1000, "max_tokens": 1_000_000, "top_logprobs": 99, "logprobs": true}),
        );
        assert_eq!(
            (&sent["n"], &sent["max_tokens"], &sent["top_logprobs"]),
            (&json!(8), &json!(4096), &json!(20))
        );
        let sent = chat(Vllm, json!({"n": 0, "max_completion_tokens": 7}));
        assert_eq!((&sent["n"], &sent["max_tokens"]), (&json!(1), &json!(7)));
        assert_eq!(sent.get("max_completion_tokens"), None);
    }

    #[test]
    fn a_stream_is_known_as_such_and_its_options_go_with_it() {
        let body =
            asking(json!({"stream": true, "stream_options": {"include_usage": true}})).to_string();
        let rebuilt = rebuild(&What::Chat, body.as_bytes(), &host(Vllm))
            .unwrap()
            .unwrap();
        assert!(rebuilt.stream);
        assert_eq!(
            chat(Vllm, json!({"stream_options": {"include_usage": true}})).get("stream_options"),
            None
        );
    }

    #[test]
    fn a_conversation_with_tools_and_images_goes_through_whole() {
        let messages = json!([
            {"role": "system", "content": "be \"brief\"\n"},
            {"role": "user", "content": [
                {"type": "text", "text": "what is this"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}}
            ]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"b\":1,\"a\":2}"}}
            ]},
            {"role": "tool", "tool_call_id": "1", "content": "42"},
        ]);
        let extra = json!({
            "messages": messages, "tool_choice": {"type": "function", "function": {"name": "f"}},
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
            "temperature": 0.5, "top_p": 1, "stop": ["a", "b"], "seed": 1, "logit_bias": {"5": -100},
        });
        let sent = chat(Vllm, extra.clone());
        for field in [
            "messages",
            "tools",
            "tool_choice",
            "stop",
            "temperature",
            "seed",
        ] {
            assert_eq!(sent[field], extra[field], "{field}");
        }
    }

    #[test]
    fn the_order_of_a_schemas_properties_is_kept() {
        let body = r#"{"messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema","json_schema":
            {"name":"s","schema":{"properties":{"z":{},"a":{}}}}}}"#;
        let rebuilt = rebuild(&What::Chat, body.as_bytes(), &host(Vllm))
            .unwrap()
            .unwrap();
        assert!(
            String::from_utf8(rebuilt.body)
                .unwrap()
                .contains(r#"{"z":{},"a":{}}"#)
        );
    }

    #[test]
    fn parts_other_than_text_and_images_are_refused() {
        for part in [
            json!({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}),
            json!({"type": "video_url", "video_url": {"url": "http://x"}}),
            json!({"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}),
            json!({"type": "image_url", "image_url": "file:///etc/passwd"}),
            json!({"type": "file", "file": {"file_id": "x"}}),
            json!({"type": "image_embeds", "image_embeds": "AA=="}),
            json!("text"),
        ] {
            refused(
                What::Chat,
                Vllm,
                json!({"messages": [{"role": "user", "content": [part]}]}),
            );
        }
    }

    #[test]
    fn a_model_that_does_not_see_is_not_shown_images() {
        let mut blind = host(Vllm);
        blind.abilities.vision = false;
        let body = json!({"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]});
        let refusal = rebuild(&What::Chat, body.to_string().as_bytes(), &blind)
            .unwrap()
            .unwrap_err();
        assert!(matches!(refusal, Refusal::Invalid { .. }));
    }

    #[test]
    fn earlier_thoughts_reach_each_engine_under_its_own_name() {
        for given in ["reasoning", "reasoning_content"] {
            let extra = json!({"messages": [{"role": "assistant", "content": "4", given: "2+2"}]});
            let thought = |engine| chat(engine, extra.clone())["messages"][0].clone();
            assert_eq!(
                thought(Vllm),
                json!({"role": "assistant", "content": "4", "reasoning": "2+2"})
            );
            assert_eq!(
                thought(LlamaCpp),
                json!({"role": "assistant", "content": "4", "reasoning_content": "2+2"})
            );
            assert_eq!(
                thought(Transformers),
                json!({"role": "assistant", "content": "4"})
            );
        }
    }

    #[test]
    fn the_repetition_penalty_has_the_engines_name() {
        assert_eq!(
            chat(LlamaCpp, json!({"repetition_penalty": 1.1}))["repeat_penalty"],
            1.1
        );
        assert_eq!(
            chat(Vllm, json!({"repeat_penalty": 1.1}))["repetition_penalty"],
            1.1
        );
    }

    #[test]
    fn what_transformers_would_ignore_is_refused() {
        let schema = json!({"type": "json_schema", "json_schema": {"schema": {}}});
        let tool = json!([{"type": "function", "function": {"name": "f"}}]);
        for (extra, field) in [
            (json!({"response_format": schema}), "response_format"),
            (
                json!({"response_format": {"type": "json_object"}}),
                "response_format",
            ),
            (json!({"n": 2}), "n"),
            (json!({"logprobs": true}), "logprobs"),
            (json!({"presence_penalty": 0.5}), "presence_penalty"),
            (json!({"top_k": 5}), "top_k"),
            (json!({"reasoning_effort": "low"}), "reasoning_effort"),
            (
                json!({"tools": tool, "tool_choice": "required"}),
                "tool_choice",
            ),
            (
                json!({"tools": tool, "parallel_tool_calls": false}),
                "parallel_tool_calls",
            ),
        ] {
            assert_eq!(refused_field(Transformers, extra), field);
        }
    }

    #[test]
    fn what_transformers_does_anyway_is_dropped() {
        let extra = json!({"n": 1, "logprobs": false, "presence_penalty": 0, "response_format": {"type": "text"}, "stream": true,
            "stream_options": {"include_usage": true}, "tool_choice": "auto", "max_completion_tokens": 5, "frequency_penalty": 0.1});
        let expected = json!({"model": "served", "messages": [{"role": "user", "content": "hi"}], "stream": true, "max_tokens": 5,
            "frequency_penalty": 0.1});
        assert_eq!(chat(Transformers, extra), expected);
    }

    #[test]
    fn limits_on_lists_hold() {
        assert_eq!(refused_field(Vllm, json!({"messages": []})), "messages");
        assert_eq!(refused_field(Vllm, json!({"stop": vec!["x"; 17]})), "stop");
        let bias: serde_json::Map<String, Value> =
            (0..1025).map(|i| (i.to_string(), json!(1))).collect();
        assert_eq!(
            refused_field(Vllm, json!({"logit_bias": bias})),
            "logit_bias"
        );
    }
}

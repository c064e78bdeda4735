"""Tools, which llama.cpp has: they reach the model, its call comes back, and its result can be given."""
import json

import openai

client = openai.OpenAI()
weather = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city now",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
messages = [{"role": "user", "content": "What is the weather in Paris?"}]
common = {"model": "any", "max_tokens": 64, "temperature": 0}
without = client.chat.completions.create(messages=messages, **{**common, "max_tokens": 1})
answer = client.chat.completions.create(messages=messages, tools=[weather], tool_choice="auto", **common)
assert answer.usage.prompt_tokens > without.usage.prompt_tokens + 50, "the model was told of the tool"

# So small a model forgets the marks around its call at times; then the call is the text.
message = answer.choices[0].message
calls = message.tool_calls or []
name, arguments = (calls[0].function.name, json.loads(calls[0].function.arguments)) if calls else (
    (call := json.loads(message.content))["name"], call["arguments"]
)
assert name == "weather" and "Paris" in arguments["city"], answer

made = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
messages += [
    {"role": "assistant", "content": None, "tool_calls": [made]},
    {"role": "tool", "tool_call_id": "call_1", "content": "It is sunny, 21 degrees."},
]
final = client.chat.completions.create(messages=messages, tools=[weather], **common)
assert "21" in final.choices[0].message.content or "sunny" in final.choices[0].message.content.lower(), final
print("ok")

"""Streams: piece by piece, with the usage last, and left in the middle."""
import openai

client = openai.OpenAI()
question = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
stream = client.chat.completions.create(
    model="any", messages=question, max_tokens=32, temperature=0, stream=True, stream_options={"include_usage": True}
)
text, usage, finish, pieces = "", None, None, 0
for chunk in stream:
    if chunk.choices:
        assert usage is None, "usage comes last"
        text += chunk.choices[0].delta.content or ""
        finish = chunk.choices[0].finish_reason or finish
        pieces += 1
    else:
        usage = chunk.usage
assert "Paris" in text and finish in ("stop", "length") and pieces > 3, (text, finish, pieces)
assert usage.completion_tokens > 3 and usage.prompt_tokens > 3, usage

with client.chat.completions.create(model="any", messages=question, max_tokens=200, stream=True) as stream:
    next(iter(stream))
assert client.models.list().data, "the next request works"

with client.completions.create(model="any", prompt="The capital of France is", max_tokens=8, temperature=0, stream=True) as stream:
    assert "Paris" in "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
print("ok")

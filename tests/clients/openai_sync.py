"""The OpenAI package as its documentation shows it: URL and key from the environment, one question, the one model."""
import openai

client = openai.OpenAI()
models = client.models.list().data
assert len(models) == 1, models
model = models[0].id
assert client.models.retrieve(model).id == model

question = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
answer = client.chat.completions.create(model=model, messages=question, max_tokens=16, temperature=0)
assert "Paris" in answer.choices[0].message.content, answer
assert answer.choices[0].finish_reason in ("stop", "length"), answer
assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0, answer

# Another model's name is no error: a session has one, and programs carry names of their own.
assert client.chat.completions.create(model="gpt-4o", messages=question, max_tokens=4).choices

plain = client.completions.create(model=model, prompt="The capital of France is", max_tokens=8, temperature=0)
assert "Paris" in plain.choices[0].text, plain

for wrong, act in [
    (openai.AuthenticationError, lambda: client.with_options(api_key="srchat_wrong").models.list()),
    (openai.NotFoundError, lambda: client.models.retrieve("another")),
    (openai.NotFoundError, lambda: client.files.list()),
    (openai.BadRequestError, lambda: client.chat.completions.create(model=model, messages=[])),
]:
    try:
        act()
    except wrong as error:
        assert error.body["message"] and error.body["type"] == "invalid_request_error", error.body
    else:
        raise AssertionError(f"{wrong} was not raised")

# What the engine has not is a 501 in OpenAI's shape, not an answer that looks right.
try:
    client.with_options(max_retries=0).embeddings.create(model=model, input="a")
except openai.InternalServerError as error:
    assert error.status_code == 501 and error.code == "not_implemented", error
else:
    raise AssertionError("a chat model gave embeddings")
print("ok")

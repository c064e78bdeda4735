"""Structured output: an answer held to a schema, parsed by the package itself."""
import json

import openai
import pydantic


class Capital(pydantic.BaseModel):
    city: str
    country: str


client = openai.OpenAI()
question = [{"role": "user", "content": "What is the capital of France? Answer as JSON."}]
common = {"model": "any", "messages": question, "max_tokens": 64, "temperature": 0}
parsed = client.chat.completions.parse(response_format=Capital, **common).choices[0].message.parsed
assert "Paris" in parsed.city and parsed.country, parsed
json.loads(client.chat.completions.create(response_format={"type": "json_object"}, **common).choices[0].message.content)
print("ok")

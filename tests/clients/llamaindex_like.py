"""LlamaIndex's OpenAI-like class, which asks /v1/completions unless it is told that the model chats."""
import os

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

base = {"model": "any", "api_base": os.environ["OPENAI_BASE_URL"], "api_key": os.environ["OPENAI_API_KEY"], "temperature": 0, "max_tokens": 16}
plain = OpenAILike(**base)
assert "Paris" in plain.complete("The capital of France is").text
assert "Paris" in "".join(piece.delta or "" for piece in plain.stream_complete("The capital of France is"))

chat = OpenAILike(**base, is_chat_model=True)
question = [ChatMessage(role="user", content="What is the capital of Italy? Answer with one word.")]
assert "Rome" in chat.chat(question).message.content
assert "Rome" in "".join(piece.delta or "" for piece in chat.stream_chat(question))
print("ok")

"""LangChain's ChatOpenAI: asked, streamed, in a chain, held to a schema."""
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

model = ChatOpenAI(model="any", temperature=0, max_tokens=32, stream_usage=True)
answer = model.invoke("What is the capital of France? Answer with one word.")
assert "Paris" in answer.content and answer.usage_metadata["output_tokens"] > 0, answer

prompt = ChatPromptTemplate.from_messages([("system", "Answer with one word."), ("user", "What is the capital of {country}?")])
text = "".join((prompt | model | StrOutputParser()).stream({"country": "Italy"}))
assert "Rome" in text, text


class Capital(BaseModel):
    """A country's capital."""

    city: str
    country: str


capital = model.with_structured_output(Capital, method="json_schema").invoke("What is the capital of France?")
assert "Paris" in capital.city, capital
print("ok")

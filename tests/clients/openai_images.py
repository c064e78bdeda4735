"""A text model is shown an image: a sentence that says why not, and not an answer that pretends to have seen it."""
import openai

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
client = openai.OpenAI()


def show(url):
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    try:
        client.chat.completions.create(model="any", messages=[{"role": "user", "content": content}], max_tokens=8)
    except openai.BadRequestError as error:
        return error
    raise AssertionError("a text model took an image")


for url in (f"data:image/png;base64,{PIXEL}", "http://169.254.169.254/latest/meta-data", "file:///etc/passwd"):
    error = show(url)
    assert error.param == "messages" and "does not see images" in error.body["message"], error.body

only_text = [{"type": "text", "text": "What is the capital of France? Answer with one word."}]
answer = client.chat.completions.create(model="any", messages=[{"role": "user", "content": only_text}], max_tokens=16, temperature=0)
assert "Paris" in answer.choices[0].message.content, answer
print("ok")

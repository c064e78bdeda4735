"""The asynchronous client, two questions at once, its own trust in the session's CA instead of the environment's."""
import asyncio
import os
import ssl

import httpx
import openai


async def main():
    trust = ssl.create_default_context(cafile=os.environ["SRCHAT_CA"])
    async with openai.AsyncOpenAI(http_client=httpx.AsyncClient(verify=trust)) as client:
        async def ask(country):
            content = f"What is the capital of {country}? Answer with one word."
            answer = await client.chat.completions.create(
                model="any", messages=[{"role": "user", "content": content}], max_tokens=16, temperature=0
            )
            return answer.choices[0].message.content

        france, italy = await asyncio.gather(ask("France"), ask("Italy"))
        assert "Paris" in france and "Rome" in italy, (france, italy)


asyncio.run(main())
print("ok")

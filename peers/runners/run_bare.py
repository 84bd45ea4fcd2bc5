"""A bare loop: aiohttp on uvloop, as many coroutines as requests in flight; nothing is kept but the texts."""

import asyncio

import aiohttp
import uvloop
from job import MAX_TOKENS, MODEL, Job, read_job


async def ask_all(job: Job) -> list[tuple[str, str]]:
    texts, waiting = [], iter(job.rows())
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask() -> None:
            for row in waiting:
                messages = [{"role": "user", "content": row["prompt"]}]
                body = {"model": MODEL, "messages": messages, "max_tokens": MAX_TOKENS}
                async with session.post(f"{job.url}/chat/completions", json=body) as response:
                    response.raise_for_status()
                    answer = await response.json()
                texts.append((row["id"], answer["choices"][0]["message"]["content"]))

        await asyncio.gather(*(ask() for _ in range(job.width)))
    return texts


if __name__ == "__main__":
    job = read_job()
    job.write(uvloop.run(ask_all(job)))

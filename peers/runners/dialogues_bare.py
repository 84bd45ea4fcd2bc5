"""A bare loop: as many coroutines as requests in flight, each brings the next dialogue to its end."""

import asyncio

import aiohttp
import uvloop
from job import MAX_TOKENS, MODEL, OPENING, TURNS, Job, read_job, swapped


async def ask_all(job: Job) -> list[tuple[str, str]]:
    texts, waiting = [], iter(job.rows())
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(messages: list[dict[str, str]]) -> str:
            body = {"model": MODEL, "messages": messages, "max_tokens": MAX_TOKENS}
            async with session.post(f"{job.url}/chat/completions", json=body) as response:
                return (await response.json())["choices"][0]["message"]["content"]

        async def talk() -> None:
            for row in waiting:
                turns = [{"role": "user", "content": row["prompt"]}]
                while len(turns) < 2 * TURNS:
                    if turns[-1]["role"] == "user":
                        turns.append({"role": "assistant", "content": await ask(turns)})
                    else:
                        messages = [{"role": "user", "content": OPENING}, *swapped(turns)]
                        turns.append({"role": "user", "content": await ask(messages)})
                texts.append((row["id"], turns[-1]["content"]))

        await asyncio.gather(*(talk() for _ in range(job.width)))
    return texts


if __name__ == "__main__":
    job = read_job()
    job.write(uvloop.run(ask_all(job)))

"""Curator: a `curator.LLM` with `prompt` and `parse`, its OpenAI backend, limits set so that only the width holds."""

import os
from importlib.util import find_spec
from pathlib import Path

from job import KEY, MAX_TOKENS, MODEL, read_job

job = read_job()
os.environ |= {
    "CURATOR_CACHE_DIR": str(job.work),
    "CURATOR_DISABLE_RICH_DISPLAY": "1",
    # its tokens are counted with an encoding that would be fetched; LiteLLM, which it needs, has it
    "TIKTOKEN_CACHE_DIR": str(Path(find_spec("litellm").origin).parent / "litellm_core_utils" / "tokenizers"),
}

from bespokelabs import curator  # noqa: E402  after its environment


class Answer(curator.LLM):
    def prompt(self, input):
        return input["prompt"]

    def parse(self, input, response):
        return {"id": input["id"], "text": response}


def backend(job):
    limits = {"max_requests_per_minute": 10_000_000, "max_tokens_per_minute": 10_000_000_000}
    return {"base_url": job.url, "api_key": KEY, "max_concurrent_requests": job.width, **limits}


if __name__ == "__main__":
    llm = Answer(
        model_name=MODEL,
        backend="openai",
        generation_params={"max_tokens": MAX_TOKENS},
        backend_params=backend(job),
    )
    answers = llm(job.rows())
    job.write((row["id"], row["text"]) for row in answers.dataset)

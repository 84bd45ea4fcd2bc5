"""Ray Data LLM: an HTTP request processor. An actor of its HTTP stage sends one request at a time, so there are as many
actors as this machine bears, each with a share of a core.
"""

import os

import ray
from job import MAX_TOKENS, MODEL, read_job

os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
ACTORS, CORES, RETRIES = 8, 0.2, 8

if __name__ == "__main__":
    job = read_job()
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    from ray.data.llm import HttpRequestProcessorConfig, build_processor

    def request(row):
        messages = [{"role": "user", "content": row["prompt"]}]
        return {"payload": {"model": MODEL, "messages": messages, "max_tokens": MAX_TOKENS}, "id": row["id"]}

    def text(row):
        choices = row["http_response"].get("choices")  # an error 500 is taken for an answer
        return {"id": row["id"], "text": choices[0]["message"]["content"] if choices is not None else ""}

    config = HttpRequestProcessorConfig(
        url=f"{job.url}/chat/completions",
        batch_size=max(1, job.width // ACTORS),
        concurrency=ACTORS,
        max_retries=RETRIES,
        http_request_stage={"num_cpus": CORES},
    )
    processor = build_processor(config, preprocess=request, postprocess=text)
    answers = processor(ray.data.from_items(job.rows(), override_num_blocks=4 * ACTORS))
    job.write((row["id"], row["text"]) for row in answers.iter_rows())

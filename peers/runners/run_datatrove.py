"""datatrove: `InferenceRunner` on an endpoint, with checkpoints, under a `LocalPipelineExecutor`."""

import gzip
import json

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from job import MAX_TOKENS, MODEL, read_job


def read_lines(folder):
    for path in sorted(folder.glob("*.jsonl*")):
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            yield from map(json.loads, file)


async def ask(document, generate):
    return await generate({"messages": [{"role": "user", "content": document.text}], "max_tokens": MAX_TOKENS})


if __name__ == "__main__":
    job = read_job()
    config = InferenceConfig(
        server_type="endpoint",
        model_name_or_path=MODEL,
        endpoint_url=job.url.removesuffix("/v1"),
        max_concurrent_generations=job.width,
        max_concurrent_documents=job.width,
    )
    runner = InferenceRunner(
        ask,
        config,
        JsonlWriter(str(job.work / "output"), output_filename="${rank}_chunk_${chunk_index}.jsonl"),
        checkpoints_local_dir=str(job.work / "checkpoints"),
        records_per_chunk=250,
    )
    reader = JsonlReader(str(job.input.parent), glob_pattern=job.input.name, text_key="prompt")
    LocalPipelineExecutor([reader, runner], tasks=1, logging_dir=str(job.work / "logs")).run()
    answers = read_lines(job.work / "output")
    job.write((row["id"], row["metadata"]["rollout_results"][0]["text"]) for row in answers)

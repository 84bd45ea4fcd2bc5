"""datatrove: its four steps of MinHash, with a task a core; word 3-grams as ours, all else its defaults."""

import os

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from job import read_job
from run_datatrove import read_lines

if __name__ == "__main__":
    job = read_job()
    config = MinhashConfig(n_grams=3)
    signatures, buckets, clusters = (str(job.work / name) for name in ("signatures", "buckets", "clusters"))
    reader = JsonlReader(str(job.input.parent), glob_pattern=job.input.name, text_key="prompt")

    def run(name, steps, tasks):
        logs = str(job.work / "logs" / name)
        LocalPipelineExecutor(steps, tasks=tasks, workers=os.cpu_count(), logging_dir=logs).run()

    run("signatures", [reader, MinhashDedupSignature(output_folder=signatures, config=config)], 1)
    step = MinhashDedupBuckets(input_folder=signatures, output_folder=buckets, config=config)
    run("buckets", [step], config.num_buckets)
    run("clusters", [MinhashDedupCluster(input_folder=buckets, output_folder=clusters, config=config)], 1)
    writer = JsonlWriter(str(job.work / "output"), compression=None)
    run("filter", [reader, MinhashDedupFilter(input_folder=clusters), writer], 1)
    job.write((row["id"], row["text"]) for row in read_lines(job.work / "output"))

"""saturate: `pump`, with a window that is pinned to the width, into Parquet."""

from job import MAX_TOKENS, MODEL, read_job
from saturate import Fixed, pump, read_output

FLUSH = 100
"""Rows of a Parquet part; its default, 10, is slower and sends less twice."""


def request(row):
    return {"model": MODEL, "messages": [{"role": "user", "content": row["prompt"]}], "max_tokens": MAX_TOKENS}


def parse(row, response):
    return {"text": response["choices"][0]["message"]["content"]}


if __name__ == "__main__":
    job = read_job()
    output = str(job.work / "output")
    pump(
        job.rows(),
        request,
        parse,
        endpoint=job.url,
        output=output,
        window=Fixed(job.width),
        flush_every=FLUSH,
        id_key="id",
        retry_errors=True,
        signal_source="none",
    )
    job.write((row_id, row["text"]) for row_id, row in read_output(output))

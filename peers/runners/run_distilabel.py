"""distilabel: a `Pipeline` of LoadDataFromDicts and TextGeneration on OpenAILLM; a batch is as large as the width."""

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration
from job import KEY, MAX_TOKENS, MODEL, read_job

if __name__ == "__main__":
    job = read_job()
    rows = [{"id": row["id"], "instruction": row["prompt"]} for row in job.rows()]
    with Pipeline(name="peers", cache_dir=job.work) as pipeline:
        load = LoadDataFromDicts(data=rows, batch_size=job.width)
        llm = OpenAILLM(model=MODEL, base_url=job.url, api_key=KEY, generation_kwargs={"max_new_tokens": MAX_TOKENS})
        load >> TextGeneration(llm=llm, input_batch_size=job.width)
    answers = pipeline.run(use_cache=True)["default"]["train"]
    job.write((row["id"], row["generation"]) for row in answers if row["generation"])

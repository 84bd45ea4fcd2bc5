"""distilabel: two generations a prompt, then UltraFeedback on both, and the better one as chosen."""

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration, UltraFeedback
from job import KEY, MAX_TOKENS, MODEL, read_job

if __name__ == "__main__":
    job = read_job()
    rows = [{"id": row["id"], "instruction": row["prompt"]} for row in job.rows()]

    def llm():
        return OpenAILLM(model=MODEL, base_url=job.url, api_key=KEY, generation_kwargs={"max_new_tokens": MAX_TOKENS})

    with Pipeline(name="judged", cache_dir=job.work) as pipeline:
        load = LoadDataFromDicts(data=rows, batch_size=job.width)
        text = TextGeneration(
            llm=llm(),
            input_batch_size=job.width,
            num_generations=2,
            group_generations=True,
            output_mappings={"generation": "generations"},
        )
        load >> text >> UltraFeedback(aspect="overall-rating", llm=llm(), input_batch_size=job.width)
    answers = pipeline.run(use_cache=True)["default"]["train"]
    rated = [row for row in answers if row["ratings"] and None not in row["ratings"]]
    job.write((row["id"], row["generations"][row["ratings"].index(max(row["ratings"]))]) for row in rated)

"""Curator: an LLM for either side, called in turn on all dialogues."""

import run_bespokelabs_curator as runner
from job import MAX_TOKENS, MODEL, OPENING, TURNS, swapped

from bespokelabs import curator  # isort: skip  after its environment, which the runner sets


class Assistant(curator.LLM):
    def prompt(self, input):
        return input["messages"]

    def parse(self, input, response):
        turn = {"role": "assistant", "content": response}
        return {"id": input["id"], "messages": [*input["messages"], turn]}


class User(curator.LLM):
    def prompt(self, input):
        return [{"role": "user", "content": OPENING}, *swapped(input["messages"])]

    def parse(self, input, response):
        return {"id": input["id"], "messages": [*input["messages"], {"role": "user", "content": response}]}


if __name__ == "__main__":
    job = runner.job
    options = {
        "model_name": MODEL,
        "backend": "openai",
        "generation_params": {"max_tokens": MAX_TOKENS},
    }
    assistant, user = (side(**options, backend_params=runner.backend(job)) for side in (Assistant, User))
    rows = [{"id": row["id"], "messages": [{"role": "user", "content": row["prompt"]}]} for row in job.rows()]
    answers = assistant(rows)
    for _ in range(TURNS - 1):
        answers = assistant(user(answers.dataset).dataset)
    job.write((row["id"], row["messages"][-1]["content"]) for row in answers.dataset)

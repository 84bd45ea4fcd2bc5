"""A column from a prompt: every row of a file gets an answer. column.yaml in Python."""

from synthmill import Sampling, Session
from synthmill import stages as s

with Session(engines={"teacher": "llamacpp:smollm2"}) as session:
    ask = s.Ask(prompt="Answer in one sentence: {{ prompt }}", sampling=Sampling(max_tokens=80))
    answers = session.make("examples/instructions.jsonl", ask, step="answer")
    session.publish("column", sft=answers.as_table("completions", answer="answer"))

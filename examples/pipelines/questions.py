"""Questions and answers from nothing: topics in equal shares, asked by persons of a file. questions.yaml in Python."""

from synthmill import Session
from synthmill import stages as s

TOPICS, PERSONS = ["gardening", "astronomy", "cooking"], {"persons": "examples/pipelines/persons.jsonl"}
PROMPT = "{{ person.name }}, {{ person.about }}, has a short question about {{ topic }}. Write it, and an answer."
with Session(engines={"teacher": "llamacpp:smollm2"}) as session:
    seeds = s.Attributes(columns={"topic": TOPICS, "person": PERSONS})
    ask = s.Ask(prompt=PROMPT, answer={"question": "text", "answer": "text", "level": ["easy", "hard"]})
    pairs = session.make({"rows": 12}, seeds, ask)
    session.publish("questions", sft=pairs.as_table("completions", prompt="question", answer="answer"))

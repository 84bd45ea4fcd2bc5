"""A judge and a filter: every answer gets a grade with a reason; the good ones stay. judged.yaml in Python."""

from synthmill import Sampling, Session
from synthmill import stages as s

GRADE = {"reason": "text", "grade": {"type": "integer", "minimum": 1, "maximum": 5}}
QUESTION = "How helpful is this answer, from 1 to 5?\n\nQuestion: {{ prompt }}\n\nAnswer: {{ answer }}"
with Session(engines={"teacher": "llamacpp:smollm2", "judge": "llamacpp:smollm2"}) as session:
    ask = s.Ask(prompt="{{ prompt }}", sampling=Sampling(max_tokens=200))
    answers = session.make("examples/instructions.jsonl", ask, step="answer")
    judge = s.Ask(role="judge", prompt=QUESTION, answer=GRADE)
    good = session.make(answers, judge, s.Filter(where="grade >= 3"))
    session.publish("judged", sft=good.as_table("completions", answer="answer"))

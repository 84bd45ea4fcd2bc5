"""Ours: dialogues as a recipe of twenty lines, made in a session; it runs in our own environment."""

from typing import ClassVar

from job import MODEL, OPENING, TURNS, read_job

from synthmill import Recipe, Request, Session
from synthmill.schemas.calls import Message
from synthmill.schemas.rows import Instruction, Row

SWAPPED = {"user": "assistant", "assistant": "user"}


class Dialogue(Row):
    messages: tuple[Message, ...]
    name: str


class Turns(Recipe[Instruction, Dialogue]):
    """A user's opening and ten answers; the same model, with the roles swapped, asks on."""

    name: ClassVar = "turns"
    version: ClassVar = "1"
    roles: ClassVar = ("teacher",)

    def steps(self, row):
        turns = [Message(role="user", content=row.prompt)]
        while len(turns) < 2 * TURNS:
            messages = tuple(turns)
            if turns[-1].role == "assistant":
                swapped = (Message(role=SWAPPED[turn.role], content=turn.content) for turn in turns)
                messages = (Message(role="user", content=OPENING), *swapped)
            [completion] = yield [Request(role="teacher", messages=messages, sampling=self.sampling)]
            turns.append(Message(role=SWAPPED[turns[-1].role], content=completion.text))
        return Dialogue.child_of(row, self.name, messages=tuple(turns), name=row.id)


if __name__ == "__main__":
    job = read_job()
    engine = {"spec": f"openai:{MODEL}@{job.url}", "concurrency": job.width}
    with Session(str(job.work / "store"), engines={"teacher": engine}) as session:
        prompts = session.read(str(job.input), kind="prompts")
        rows = session.make(prompts, Turns()).frame().to_dicts()
        job.write((row["name"], row["messages"][-1]["content"]) for row in rows if len(row["messages"]) == 2 * TURNS)

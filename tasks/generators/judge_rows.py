"""Rows of messages that train judges. Sources: docs/papers.md#self-judge (JSFT), #feedback-collection."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from synthmill.schemas.calls import Completion, Message, Request
from synthmill.schemas.errors import Drop
from synthmill.schemas.hashing import child_id
from synthmill.schemas.rows import Dropped
from synthmill.tasks.frames import FrameStage
from synthmill.tasks.generators.feedback_collection import SCORES, JudgedTask, better_of
from synthmill.tasks.generators.prompt_rubrics import Compared
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_until
from synthmill.tasks.scorers.labels import FIRST, SECOND

BETTER, WORSE = "[BETTER]", "[WORSE]"
COMPARE = "self_judge/compare"
ABSOLUTE, RELATIVE = "pools/rubric", "pools/prefer"
MESSAGE = pl.Struct({"role": pl.String, "content": pl.String})
NEEDED = ("id", "prompt", "chosen", "rejected")


class Reasoned(Compared):
    """A pair with why the chosen answer is better; the two are called [BETTER] and [WORSE]."""

    rationale: str


class Rationales(Recipe[Compared, Reasoned]):
    """Pair -> the same with a `rationale` that the teacher writes, who is told which answer is the better one.

    Drops: no_rationale for one that was cut, or that does not name both.
    """

    name: ClassVar = "rationales"
    version: ClassVar = "1"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"self_judge/rationale": ()}

    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return self.attempts

    def steps(self, row: Compared) -> Steps[Reasoned]:
        messages = load("self_judge/rationale").render(row=row)
        request = Request(role="teacher", messages=messages, sampling=self.sampling)
        rationale = yield from ask_until(request, self.attempts, read_rationale)
        return Reasoned(**row.__dict__, rationale=rationale)


def read_rationale(completion: Completion) -> str:
    """Why one answer is better. Raises Drop where it was cut, or does not name both."""
    text = completion.text.strip()
    if completion.finish_reason == "length":
        raise Drop("no_rationale: it was cut, because it was too long; be shorter")
    if BETTER not in text or WORSE not in text:
        raise Drop(f"no_rationale: it did not call the responses {BETTER} and {WORSE}; use both names")
    return text


class JsftRows(FrameStage):
    """Pairs -> rows of messages: the chosen answer to the prompt (task `answer`), and for each principle, in both
    orders, which answer is better, a letter as the whole reply (task `judge`), or the letter and then the pair's
    `rationale`, where it has one. Pairs of equal answers give the first row only.
    """

    name: ClassVar = "jsft_rows"
    version: ClassVar = "1"
    needs: ClassVar = NEEDED
    adds: ClassVar = ("id", "parent_id", "task", "messages")

    principles: tuple[str, ...] = Field((), description="a row each; none: one row, about quality as such")
    answers: bool = Field(True, description="whether there is a row with the chosen answer")

    def rows_per_row(self) -> int:
        return self.answers + 2 * max(1, len(self.principles))

    def identity(self, engines: Mapping[str, str]) -> dict[str, Any]:
        return {**super().identity(engines), "prompts": {COMPARE: load(COMPARE).hash}}

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        names = [name for name in (*NEEDED, "system", "rationale") if name in frame.columns]
        rows, dropped = [], []
        for pair in frame.select(names).iter_rows(named=True):
            of_pair = list(self.rows_of(pair))
            rows += [(child_id(pair["id"], place), pair["id"], task, messages) for place, task, messages in of_pair]
            dropped += [] if of_pair else [Dropped(id=pair["id"], reason="same_text")]
        kinds = (pl.String, pl.String, pl.String, pl.List(MESSAGE))
        return pl.DataFrame(rows, dict(zip(self.adds, kinds, strict=True)), orient="row"), dropped

    def rows_of(self, pair: dict[str, Any]) -> Any:
        """(place, task, messages) of each row that a pair gives."""
        if self.answers:
            system = [("system", pair["system"])] if pair.get("system") else []
            yield "answer", "answer", in_messages(*system, ("user", pair["prompt"]), ("assistant", pair["chosen"]))
        if pair["chosen"].strip() == pair["rejected"].strip():
            return
        row = Compared(**{name: pair.get(name) for name in (*NEEDED, "system")})
        for number, principle in enumerate(self.principles or ("",)):
            for letter, other in ((FIRST, SECOND), (SECOND, FIRST)):
                first, second = (row.chosen, row.rejected) if letter == FIRST else (row.rejected, row.chosen)
                asked = load(COMPARE).render(row=row, first=first, second=second, principle=principle)
                reason = (pair.get("rationale") or "").replace(BETTER, f"Response {letter}")
                reply = "\n\n".join(filter(None, [letter, reason.replace(WORSE, f"Response {other}")]))
                yield f"judge-{number}-{letter}", "judge", in_messages(*turns(asked), ("assistant", reply))


class JudgeTrainingRows(FrameStage):
    """Tasks -> rows of messages in the forms that the scorers `rubric`, and `pairwise` with a rubric, ask: five with a
    score (form `absolute`), and one for each compared pair (form `relative`).
    """

    name: ClassVar = "judge_training_rows"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "prompt", "rubric", "reference", "responses", "pairs")
    adds: ClassVar = ("id", "parent_id", "form", "label", "words", "messages")

    def rows_per_row(self) -> int:
        return len(SCORES) + 10

    def identity(self, engines: Mapping[str, str]) -> dict[str, Any]:
        return {**super().identity(engines), "prompts": {name: load(name).hash for name in (ABSOLUTE, RELATIVE)}}

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        names = [name for name in frame.columns if name in JudgedTask.model_fields]
        rows = [row for fields in frame.select(names).to_dicts() for row in rows_of(JudgedTask(**fields))]
        kinds = (pl.String, pl.String, pl.String, pl.String, pl.Int64, pl.List(MESSAGE))
        return pl.DataFrame(rows, dict(zip(self.adds, kinds, strict=True)), orient="row"), []


def rows_of(task: JudgedTask) -> Iterator[tuple[Any, ...]]:
    """(id, parent_id, form, label, words judged, messages) of every row that trains a judge on a task."""
    for response in task.responses:
        asked = load(ABSOLUTE).render(row=task, rubric=task.rubric, answer=response.text)
        reply = f"{response.feedback} [RESULT] {response.score}"
        place = child_id(task.id, f"score-{response.score}")
        words = len(response.text.split())
        yield place, task.id, "absolute", str(response.score), words, in_messages(*turns(asked), ("assistant", reply))
    texts = {response.score: response.text for response in task.responses}
    for pair in task.pairs:
        first, second = texts[pair.first], texts[pair.second]
        asked = load(RELATIVE).render(row=task, rubric=task.rubric, first=first, second=second)
        better = better_of(pair.first, pair.second)
        place = child_id(task.id, f"pair-{pair.first}-{pair.second}")
        words = len(first.split()) + len(second.split())
        messages = in_messages(*turns(asked), ("assistant", f"{pair.feedback} [RESULT] {better}"))
        yield place, task.id, "relative", better, words, messages


def turns(asked: Sequence[Message]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in asked]


def in_messages(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]

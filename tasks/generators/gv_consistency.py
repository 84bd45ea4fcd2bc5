"""Generator-validator consistency: a model's answers validated by the model itself; what agrees trains both skills.

Source: docs/papers.md#gv-consistency.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from synthmill.schemas.calls import Frozen, Request, Sampling
from synthmill.schemas.errors import Drop
from synthmill.schemas.hashing import child_id
from synthmill.schemas.rows import Dropped, Instruction
from synthmill.storage.published.configurations import Figure
from synthmill.tasks.frames import FrameStage
from synthmill.tasks.generators.answers import answer_request, check_enough, usable_answers
from synthmill.tasks.generators.judge_rows import MESSAGE, in_messages, turns
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import Recipe, Steps
from synthmill.tasks.scorers.labels import FIRST, LEAST_MASS, SECOND, LeastMass, one_token
from synthmill.tasks.scorers.matches import chance_of_first
from synthmill.tasks.tables.table_stage import drops

VALIDATE, WRONG = "confidence/is_true", "gv_consistency/wrong"


class ValidatedAnswer(Frozen):
    """An answer, right or wrong as the generator was asked for, and the validator's chance that it is right; null where
    there was no verdict. consistent: whether both agree.
    """

    text: str
    right: bool
    chance: float | None
    consistent: bool


class ValidatedAnswers(Instruction):
    """A prompt with answers that their own generator validated. consistency: the share that agrees of those with a
    verdict, null without any.
    """

    validated: tuple[ValidatedAnswer, ...]
    consistency: float | None


class SelfValidation(Recipe[Instruction, ValidatedAnswers]):
    """Prompt -> the same with `count` answers and, with `wrong`, as many that are wrong on purpose, each validated by
    the role that gave it: the letter for true or false, by its probability. Equal texts of one kind count once.

    Empty, failed and cut answers are left out; a row without any is dropped.
    """

    name: ClassVar = "self_validation"
    version: ClassVar = "2"
    roles: ClassVar = ("student",)
    prompts: ClassVar = {WRONG: (), VALIDATE: ("answer",)}
    adds_own_columns: ClassVar = True
    figure_columns: ClassVar = ("validated",)

    sampling: Sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=1024)
    role: str = "student"
    count: int = Field(1, ge=1, description="answers of each kind")
    wrong: bool = Field(True, description="whether wrong answers are asked for, too")
    least_mass: LeastMass = LEAST_MASS

    def needs_roles(self) -> tuple[str, ...]:
        return (self.role,)

    def requests_per_row(self) -> int:
        return 2 * self.count * (1 + self.wrong)

    def steps(self, row: Instruction) -> Steps[ValidatedAnswers]:
        asks = [answer_request(row, self.role, self.sampling)]
        if self.wrong:
            asks.append(asks[0].model_copy(update={"messages": load(WRONG).render(row=row)}))
        completions = yield [request for ask in asks for request in ask.sampled(self.count)]
        usable = list(usable_answers(completions))
        check_enough(len(usable), 1, completions)
        answers = {
            (fields["text"].strip(), fields["answer_index"] < self.count): None
            for fields in usable
            if fields["finish_reason"] != "length"
        }
        if not answers:
            raise Drop(f"cut_answers: all {len(usable)} were cut at max_tokens; raise it")
        verdicts = yield [self.question(row, text) for text, _ in answers]
        chances = [chance_of_first(verdict, self.least_mass) for verdict in verdicts]
        validated = tuple(
            ValidatedAnswer(text=text, right=right, chance=chance, consistent=agrees(right, chance))
            for (text, right), chance in zip(answers, chances, strict=True)
        )
        agreements = [answer.consistent for answer in validated if answer.chance is not None]
        consistency = sum(agreements) / len(agreements) if agreements else None
        return ValidatedAnswers.child_of(row, self.name, validated=validated, consistency=consistency)

    def question(self, row: Instruction, answer: str) -> Request:
        messages = load(VALIDATE).render(row=row, answer=answer)
        sampling = one_token(self.sampling.seed or 0)
        return Request(role=self.role, messages=messages, sampling=sampling, optional=True)

    def figures(self, batches: Iterable[pl.DataFrame]) -> list[Figure]:
        """How often generator and validator agree, by what the generator was asked for."""
        answers = pl.concat(batch["validated"].explode(empty_as_null=False).struct.unnest() for batch in batches)
        rows = []
        for kind, of_kind in (("right", answers.filter("right")), ("wrong", answers.filter(~pl.col("right")))):
            judged = of_kind.drop_nulls("chance")
            if judged.height:
                share = int(judged["consistent"].sum()) / judged.height
                rows.append((kind, f"{of_kind.height:,}", f"{judged.height:,}", f"{share:.3f}"))
        heads = ("asked for", "answers", "with a verdict", "consistent")
        return [Figure("Generator-validator consistency", heads, tuple(rows))] if rows else []


def agrees(right: bool, chance: float | None) -> bool:
    """Whether the validator's verdict is what the generator was asked for; an even chance is no verdict."""
    return chance is not None and (chance > 0.5 if right else chance < 0.5)


class ConsistentRows(FrameStage):
    """Validated answers -> rows of messages, of the consistent ones only: the prompt with its right answer (task
    `generator`), and whether each answer is right, as a letter (task `validator`). A prompt without any is dropped as
    `inconsistent`.
    """

    name: ClassVar = "consistent_rows"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "prompt", "validated")
    adds: ClassVar = ("id", "parent_id", "task", "messages")

    def identity(self, engines: Mapping[str, str]) -> dict[str, Any]:
        return {**super().identity(engines), "prompts": {VALIDATE: load(VALIDATE).hash}}

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        rows, without = [], []
        names = [name for name in (*self.needs, "system") if name in frame.columns]
        for fields in frame.select(names).iter_rows(named=True):
            of_row = list(rows_of(fields))
            rows += [(child_id(fields["id"], place), fields["id"], task, messages) for place, task, messages in of_row]
            without += [] if of_row else [fields["id"]]
        kinds = (pl.String, pl.String, pl.String, pl.List(MESSAGE))
        kept = pl.DataFrame(rows, dict(zip(self.adds, kinds, strict=True)), orient="row")
        return kept, drops(without, "inconsistent", ["no answer agrees with its verdict"] * len(without))


def rows_of(fields: dict[str, Any]) -> Iterator[tuple[str, str, list[dict[str, str]]]]:
    """(place, task, messages) of each row that a prompt's consistent answers give."""
    row = Instruction(**{name: fields.get(name) for name in ("id", "prompt", "system")})
    system = [("system", row.system)] if row.system else []
    for n, answer in enumerate(fields["validated"]):
        if not answer["consistent"]:
            continue
        if answer["right"]:
            reply = ("assistant", answer["text"])
            yield f"generator-{n}", "generator", in_messages(*system, ("user", row.prompt), reply)
        asked = load(VALIDATE).render(row=row, answer=answer["text"])
        letter = FIRST if answer["right"] else SECOND
        yield f"validator-{n}", "validator", in_messages(*turns(asked), ("assistant", letter))

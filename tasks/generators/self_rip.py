"""Self-RIP: new prompts, written after the prompts that were kept.

Source: docs/papers.md#self-rip: eight kept prompts at a time, a model that writes another one, Self-Instruct's
post-processing.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import polars as pl
import pyarrow as pa
from pydantic import Field

from synthmill.schemas.calls import Completion, Frozen, Request
from synthmill.schemas.errors import Drop
from synthmill.schemas.hashing import child_id, digest
from synthmill.schemas.pools import NewPrompt, Question, Shots
from synthmill.schemas.rows import Dropped, arrow_schema
from synthmill.storage.artifacts import Store, read_artifact, read_manifest
from synthmill.tasks.frames import FrameStage, OneArtifact, even_parts
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_until
from synthmill.tasks.texts.rouge import find_too_alike
from synthmill.tasks.texts.words import words_of

BEGIN, END = "<begin>", "</end>"
MARKED = re.compile(rf"{BEGIN}(.*?){END}", re.DOTALL)
LONGEST_EXAMPLE = 4000  # characters: a longer prompt is truncated as an example


class ShotSets(FrameStage):
    """Kept prompts -> `count` sets of `shots` of them. Each prompt leads the same number of sets, give or take one; the
    other prompts of a set are drawn. Drops: not_drawn, where there are fewer sets than prompts.
    """

    name: ClassVar = "shots"
    version: ClassVar = "1"
    whole: ClassVar = True
    needs: ClassVar = ("id", "prompt")
    adds: ClassVar = tuple(Shots.model_fields)

    count: int = Field(20_000, ge=1)
    shots: int = Field(8, ge=1)
    seed: int = 0
    rows_per_part: int = Field(256, ge=1)

    def rows_per_row(self) -> int:
        return self.count

    def parts_begin(self, table: pa.Table) -> list[int]:
        return even_parts(table, self.rows_per_part)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        seeds = sorted(
            zip(frame["id"].to_list(), frame["prompt"].to_list(), strict=True),
            key=lambda row: digest(["lead", self.seed, row[0]]),
        )
        sets = []
        for n in range(self.count):
            lead = n % len(seeds)
            draw = digest(["shots", self.seed, seeds[lead][0], n // len(seeds)], size=64)
            other_places = draw_distinct(draw, len(seeds), self.shots - 1, lead)
            examples = [clip_example(seeds[place][1]) for place in (lead, *other_places)]
            sets.append(
                {
                    "id": child_id(seeds[lead][0], f"shots-{n // len(seeds)}"),
                    "parent_id": seeds[lead][0],
                    "examples": examples,
                    "number": n // len(seeds),
                }
            )
        drops = [Dropped(id=row, reason="not_drawn") for row, _ in seeds[self.count :]]
        return pl.DataFrame(sets, schema=pl.DataFrame(arrow_schema(Shots).empty_table()).schema), drops


def draw_distinct(draw: bytes, count: int, most: int, excluded: int) -> list[int]:
    """`most` different numbers below `count`, without `excluded`, drawn by hash; fewer where `count` is too small."""
    numbers: list[int] = []
    n = 0
    while len(numbers) < min(most, count - 1):
        number = int.from_bytes(digest([draw.hex(), n], size=8), "little") % count
        n += 1
        if number != excluded and number not in numbers:
            numbers.append(number)
    return numbers


def clip_example(prompt: str) -> str:
    """A prompt as an example: without the marks, truncated to LONGEST_EXAMPLE."""
    text = prompt.replace(BEGIN, "").replace(END, "")
    return text if len(text) <= LONGEST_EXAMPLE else text[:LONGEST_EXAMPLE] + " ..."


class NewPrompts(Recipe[Shots, NewPrompt]):
    """A set of examples -> one new prompt, between the marks. Drops: no_prompt, after `attempts` tries."""

    name: ClassVar = "new_prompts"
    version: ClassVar = "1"
    roles: ClassVar = ("author",)
    prompts: ClassVar = {"pools/new_prompt": ()}

    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return self.attempts

    def steps(self, row: Shots) -> Steps[NewPrompt]:
        request = Request(
            role="author",
            messages=load("pools/new_prompt").render(row=row),
            sampling=self.sampling,
            sample=row.number * MOST_ATTEMPTS,  # few kept prompts may give the same set twice
        )
        prompt = yield from ask_until(request, self.attempts, parse_prompt)
        return NewPrompt.child_of(row, self.name, prompt=prompt)


def parse_prompt(completion: Completion) -> str:
    """The first text between the marks; the opening mark may be missing. Raises Drop when there is none."""
    match = MARKED.search(completion.text)
    before, mark, _ = completion.text.partition(END)
    text = (match[1] if match else re.sub(r"^\s*\d+\.\s+", "", before) if mark else "").strip()
    if not text or text == "...":
        raise Drop(f"no_prompt: there was no task between {BEGIN} and {END}; write both marks")
    return text


class PromptRules(Frozen):
    """Self-Instruct's rules for a new prompt. overlap: the ROUGE-L from which it is too like another one."""

    overlap: float = Field(0.7, gt=0, le=1)
    fewest_words: int = 3
    most_words: int = 150
    keywords: tuple[str, ...] = ()
    ascii_start: bool = True

    def fault(self, prompt: str) -> str:
        """The fault of a prompt by itself; empty if it has none."""
        words = words_of(prompt)
        if not self.fewest_words <= len(words) <= self.most_words:
            return "length"
        if has_keyword(prompt, self.keywords):
            return "keyword"
        if prompt.casefold().startswith("write a program"):
            return "program"
        first = prompt[0]
        if self.ascii_start and (not first.isascii() or not (first.isalnum() or first in "\"'(`")):
            return "start"
        return ""


class FreshPrompts(PromptRules, FrameStage):
    """New prompts -> those worth asking. Drops, in this order: length, keyword, program, start, too_alike.

    The rules are Self-Instruct's. too_alike: ROUGE-L >= `overlap` with a kept prompt, one of `against`, or an earlier
    new one. seeds: the stage and key of the kept prompts.
    """

    name: ClassVar = "fresh_prompts"
    version: ClassVar = "1"
    whole: ClassVar = True
    needs: ClassVar = ("id", "prompt")
    adds: ClassVar = tuple(Question.model_fields)

    seeds: OneArtifact
    against: tuple[str, ...] = Field((), exclude=True)
    against_hash: str = Field("", description="filled in: what is in `against`")
    rows_per_part: int = Field(256, ge=1)

    def parts_begin(self, table: pa.Table) -> list[int]:
        return even_parts(table, self.rows_per_part)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        prompts, ids = frame["prompt"].to_list(), frame["id"].to_list()
        faults = [self.fault(prompt) for prompt in prompts]
        good = [n for n, fault in enumerate(faults) if not fault]
        artifacts = Store(store)
        seeds = read_manifest(artifacts.manifest_path(*self.seeds))
        kept = read_artifact(artifacts, seeds, ("prompt",))["prompt"].to_pylist()
        existing = [*kept, *self.against]
        matches, scores = find_too_alike([prompts[n] for n in good], existing, self.overlap)
        dropped = [Dropped(id=ids[n], reason=fault) for n, fault in enumerate(faults) if fault]
        fresh = []
        for n, match, score in zip(good, matches.tolist(), scores.tolist(), strict=True):
            if match < 0:
                fresh.append(n)
                continue
            text = existing[match] if match < len(existing) else prompts[good[match - len(existing)]]
            dropped.append(Dropped(id=ids[n], reason="too_alike", detail=f"ROUGE-L {score:.3f} with: {text}"[:500]))
        rows = [
            Question(
                id=child_id(ids[n], self.name), parent_id=ids[n], prompt=prompts[n], source="self-rip"
            ).model_dump()
            for n in fresh
        ]
        return pl.DataFrame(rows, schema=pl.DataFrame(arrow_schema(Question).empty_table()).schema), dropped


def has_keyword(prompt: str, keywords: Sequence[str]) -> bool:
    """Whether the prompt contains a keyword (a word or a phrase) as whole words."""
    return any(re.search(rf"\b{re.escape(word)}\b", prompt, re.IGNORECASE) for word in keywords)

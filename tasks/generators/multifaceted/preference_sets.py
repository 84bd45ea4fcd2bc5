"""Preference sets: for one instruction, what several people value in an answer to it.

Source: docs/papers.md#multifaceted, step S1.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import combinations
from typing import Any, ClassVar, Literal

from pydantic import Field

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.hashing import digest
from synthmill.schemas.multifaceted import Split, Value, WithSets
from synthmill.schemas.rows import Instruction
from synthmill.schemas.taxonomy import LONGEST_VALUE, Dimension, Taxonomy
from synthmill.schemas.texts import normalised, one_line
from synthmill.tasks.generators.multifaceted.coverage import deal_seeds, split_taxonomy
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_all, read_json
from synthmill.tasks.texts.tokens import FEWEST_CHARS_PER_TOKEN
from synthmill.tasks.texts.words import rouge_l

FIELDS = ("subdimension", "preference", "description")
LONGEST = {"subdimension": LONGEST_VALUE, "preference": LONGEST_VALUE, "description": 300}  # characters
ALIKE = 0.7  # mean ROUGE-L of the descriptions above which two sets of one instruction are near-equal


class PreferenceSets(Recipe[Instruction, WithSets]):
    """Instruction -> `count` preference sets, each with one value per dimension, top-down.

    sampler: `balanced` deals each set its subdimensions and seed values (coverage.py, beside this file); `model` shows
    the taxonomy and lets the model choose, as the paper does. A share of instructions and of values is kept for the
    bench. A set that is malformed, or near-equal to another of its instruction, is asked for again, with its fault.

    Drops: bad_preference_set, several_values, empty_value, repeated_value, reserved_value, alike_sets.
    Source: docs/papers.md#multifaceted, step S1.
    """

    name: ClassVar = "preference_sets"
    version: ClassVar = "2"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"multifaceted/preference_set": ("taxonomy", "dealt", "place", "count")}

    count: int = Field(3, ge=1)
    sampler: Literal["balanced", "model"] = "balanced"
    taxonomy: Taxonomy = Taxonomy.model_validate({"style": {"clarity": ["plain words", "short", "full"]}})
    bench_share: float = Field(0, ge=0, lt=1, description="of the instructions")
    held_out: float = Field(0, ge=0, lt=1, description="of each subdimension's values")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    @cached_property
    def sides(self) -> dict[Split, Taxonomy]:
        """The values that each split may use. Raises InputError when a dimension has too few."""
        train, bench = split_taxonomy(self.taxonomy, self.held_out if self.bench_share else 0)
        sides: dict[Split, Taxonomy] = {"train": train, "bench": bench}
        for split, side in sides.items():
            for dimension in side.dimensions:
                if len(dimension.seeds) < self.count:
                    raise InputError(
                        f"the taxonomy's dimension {dimension.name} has {len(dimension.seeds)} values for {split}, but "
                        f"{self.count} sets need as many; add values, lower preference_sets.count, or change "
                        "bench.held_out (bench.share=0: no bench)"
                    )
        return sides

    def reserved_seeds(self, dimension: str, split: Split) -> set[str]:
        """The normalised seeds of a dimension that only the other split may use."""
        seeds = {
            name: {seed for part in side.dimensions if part.name == dimension for seed in part.seeds}
            for name, side in self.sides.items()
        }
        return (seeds["train"] | seeds["bench"]) - seeds[split]

    def requests_per_row(self) -> int:
        return self.count * self.attempts

    def split_of(self, row: Instruction) -> Split:
        """The split, by the prompt's hash: a prompt is never in both, and more rows move none."""
        share = int.from_bytes(digest(["bench", normalised(row.prompt)], size=6), "big") / 2**48
        return "bench" if share < self.bench_share else "train"

    def steps(self, row: Instruction) -> Steps[WithSets]:
        split = self.split_of(row)
        side = self.sides[split]
        dealt: list[dict[str, tuple[str, str]]] = [{} for _ in range(self.count)]
        if self.sampler == "balanced":
            for dimension in side.dimensions:
                seeds = deal_seeds(dimension, [self.sampling.seed, normalised(row.prompt)], self.count)
                for seeds_of_set, seed in zip(dealt, seeds, strict=True):
                    seeds_of_set[dimension.name] = seed
        template = load("multifaceted/preference_set")
        reserved = {dimension.name: self.reserved_seeds(dimension.name, split) for dimension in side.dimensions}
        requests = [
            Request(
                role="teacher",
                messages=template.render(row=row, taxonomy=side, dealt=seeds_of_set, place=n + 1, count=self.count),
                sampling=self.sampling,
                schema_=preference_schema(side, self.sampling.planned_tokens, free=not seeds_of_set),
                sample=n * MOST_ATTEMPTS,  # sets never share a sample, however many attempts there are
            )
            for n, seeds_of_set in enumerate(dealt)
        ]

        def parse(place: int, completion: Completion) -> tuple[Value, ...]:
            values = parse_values(completion, self.taxonomy, dealt[place])
            for value in values:
                if normalised(value.preference) in reserved[value.dimension]:
                    raise Drop(f"reserved_value: {value.preference!r} is kept for another split; take another value")
            return values

        sets = yield from ask_all(requests, self.attempts, parse, find_near_equal)
        return WithSets.child_of(row, self.name, split=split, sets=tuple(sets))


def preference_schema(taxonomy: Taxonomy, max_tokens: int, *, free: bool) -> dict[str, Any]:
    """The JSON schema of one preference set: an object per dimension, in order, with bounded strings.

    It is the same for every instruction, because engines and servers compile each new schema. free: the model names the
    subdimension, too.
    """

    # so that max_tokens cuts nothing off
    room = FEWEST_CHARS_PER_TOKEN * max_tokens // len(taxonomy.dimensions) - LONGEST_VALUE
    longest = max(60, min(LONGEST["description"], room))

    def value(dimension: Dimension) -> dict[str, Any]:
        own = {"subdimension": {"type": "string", "minLength": 2, "maxLength": LONGEST["subdimension"]}}
        return {
            "type": "object",
            "properties": {
                **(own if free else {}),
                "preference": {"type": "string", "minLength": 2, "maxLength": LONGEST["preference"]},
                "description": {"type": "string", "minLength": 10, "maxLength": longest},
            },
            "required": list(FIELDS if free else FIELDS[1:]),
            "additionalProperties": False,
        }

    return {
        "type": "object",
        "properties": {dimension.name: value(dimension) for dimension in taxonomy.dimensions},
        "required": [dimension.name for dimension in taxonomy.dimensions],
        "additionalProperties": False,
    }


def parse_values(completion: Completion, taxonomy: Taxonomy, dealt: Mapping[str, tuple[str, str]]) -> tuple[Value, ...]:
    """Parse one value per dimension, in the taxonomy's order; raises Drop with the fault."""
    answer = read_json(completion, "bad_preference_set")
    if missing := [dimension.name for dimension in taxonomy.dimensions if dimension.name not in answer]:
        raise Drop(f"bad_preference_set: it had no value for {', '.join(missing)}")
    values: list[Value] = []
    for dimension in taxonomy.dimensions:
        entry = answer[dimension.name]
        if isinstance(entry, list):
            raise Drop(f"several_values: {dimension.name} had {len(entry)} values; give exactly one")
        seed = dealt.get(dimension.name)
        if isinstance(entry, dict) and seed:
            entry = {**entry, "subdimension": seed[0]}
        if not isinstance(entry, dict) or not all(isinstance(entry.get(field), str) for field in FIELDS):
            raise Drop(f"bad_preference_set: {dimension.name} must have the texts {', '.join(FIELDS)}")
        texts = {field: one_line(entry[field]) for field in FIELDS}
        texts["preference"] = texts["preference"].strip(' ,;:."')
        if long := [field for field, most in LONGEST.items() if len(texts[field]) > most]:
            raise Drop(f"bad_preference_set: the {long[0]} of {dimension.name} had over {LONGEST[long[0]]} characters")
        if empty := [field for field, text in texts.items() if not any(map(str.isalnum, text))]:
            raise Drop(f"empty_value: the {empty[0]} of {dimension.name} was empty")
        value = value_of(dimension, texts, seed)
        if normalised(value.preference) in map(normalised, (value.dimension, value.subdimension)):
            raise Drop(
                f"empty_value: the preference of {dimension.name} only names its subdimension; say what is wanted"
            )
        values.append(value)
    commonest, times = Counter(normalised(value.preference) for value in values).most_common(1)[0]
    if times > max(1, len(values) // 2):
        raise Drop(f"repeated_value: {times} dimensions had the same preference, {commonest!r}; each has its own")
    return tuple(values)


def value_of(dimension: Dimension, texts: Mapping[str, str], dealt: tuple[str, str] | None) -> Value:
    """A value with its origin; a seed or subdimension of the taxonomy gets the taxonomy's spelling."""
    spelling = {normalised(part.name): part.name for part in dimension.subdimensions}
    subdimension = spelling.get(normalised(texts["subdimension"]), texts["subdimension"])
    subdimension_of_seed, seed = dimension.seeds.get(normalised(texts["preference"]), ("", ""))
    is_seed = seed and subdimension_of_seed == subdimension
    return Value(
        dimension=dimension.name,
        subdimension=subdimension,
        preference=seed if is_seed else texts["preference"],
        description=texts["description"],
        origin="seed" if is_seed else "new_value" if subdimension in spelling.values() else "new_subdimension",
        seed=dealt[1] if dealt else "",
    )


def set_similarity(first: Sequence[Value], second: Sequence[Value]) -> float:
    """The mean ROUGE-L of two sets' descriptions, dimension by dimension."""
    scores = [rouge_l(a.description, b.description) for a, b in zip(first, second, strict=True)]
    return sum(scores) / len(scores)


def same_preferences(first: Sequence[Value], second: Sequence[Value]) -> bool:
    return all(normalised(a.preference) == normalised(b.preference) for a, b in zip(first, second, strict=True))


def find_near_equal(sets: Sequence[tuple[Value, ...] | None]) -> dict[int, Drop]:
    """By place, a Drop for the later one of every two near-equal sets."""
    faults: dict[int, Drop] = {}
    for a, b in combinations(range(len(sets)), 2):
        first, second = sets[a], sets[b]
        if not first or not second or a in faults:
            continue
        if set_similarity(first, second) > ALIKE or same_preferences(first, second):
            faults[b] = Drop(
                "alike_sets: it described nearly the same person as another one; say what sets this person apart"
            )
    return faults

"""Multifaceted preference data: the method's oracle checks, and what happens to answers that cannot be used."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthmill.flows.methods.multifaceted.rows import TRAINS, aligned_rows, bench_rows, reward_rows, sft_rows
from synthmill.schemas.calls import Completion, Request, Sampling
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.multifaceted import BenchRow, Value, Variant, WithResponses, WithSets, WithSystems
from synthmill.schemas.rows import Answer, Instruction, row_columns, to_arrow
from synthmill.schemas.taxonomy import Taxonomy
from synthmill.storage.plain_files.taxonomies import read_taxonomy
from synthmill.tasks.generators.multifaceted.coverage import coverage, deal_seeds, evenness, split_taxonomy
from synthmill.tasks.generators.multifaceted.diversity import Diversity, mean_cosine_distance
from synthmill.tasks.generators.multifaceted.filtering import FilterInstructions
from synthmill.tasks.generators.multifaceted.preference_sets import PreferenceSets
from synthmill.tasks.generators.multifaceted.rubrics import Rubrics
from synthmill.tasks.generators.multifaceted.splits import AlignedPairs, BenchVariants, Variants, pick_sets
from synthmill.tasks.generators.multifaceted.system_messages import Responses, SystemMessages, parse_system_message

TAXONOMY = read_taxonomy("")
NAMES = [dimension.name for dimension in TAXONOMY.dimensions]
ROW = Instruction(id="a", prompt="Why is the {{ sky }} blue?")
WORDS = [
    "plum",
    "ochre",
    "lantern",
    "gravel",
    "willow",
    "copper",
    "otter",
    "thistle",
    "ember",
    "quartz",
    "marsh",
    "falcon",
]


def sentence(draw: random.Random) -> str:
    return "The answer " + " ".join(draw.sample(WORDS, 6))


def set_of(ask: Request, n: int) -> dict[str, Any]:
    """A good answer to a request for a preference set, with the seeds that it was dealt."""
    draw = random.Random(n)
    assert ask.schema_ is not None
    told = ask.messages[-1].content
    values = {}
    for name, form in ask.schema_["properties"].items():
        [line] = [line for line in told.splitlines() if line.startswith(f"- {name} (")]
        subdimension = line.partition("): subdimension ")[2].partition(",")[0] or "tone"
        preference = line.partition('"')[2].rstrip('"') if '"' in line else f"own {name} {n}"
        values[name] = {"subdimension": subdimension, "preference": preference, "description": sentence(draw)}
        if "subdimension" not in form["properties"]:
            del values[name]["subdimension"]  # it was dealt
    return values


def said(value: Any, **more: Any) -> Completion:
    return Completion(text=json.dumps(value), **more)


def end_of(steps: Any, answers: list[Completion]) -> Any:
    with pytest.raises(StopIteration) as done:
        steps.send(answers)
    return done.value.value


def sets_of(row: Instruction = ROW, **settings: Any) -> WithSets:
    steps = PreferenceSets(taxonomy=TAXONOMY, **settings).steps(row)
    asked = next(steps)
    return end_of(steps, [said(set_of(ask, n)) for n, ask in enumerate(asked)])  # type: ignore[no-any-return]


def systems_of(row: WithSets) -> WithSystems:
    return WithSystems.child_of(row, 0, systems=tuple(f"You are model {n}: {row.prompt}" for n in range(len(row.sets))))


def responses_of(row: WithSets, texts: list[str] | None = None) -> WithResponses:
    texts = texts or [f"{row.prompt} {word}" for word in WORDS[: len(row.sets)]]
    answers = [Answer(answer_index=n, text=t, finish_reason="stop", completion_tokens=3) for n, t in enumerate(texts)]
    return WithResponses.child_of(systems_of(row), 0, responses=tuple(answers))


def frame_of(rows: list[WithResponses]) -> pl.DataFrame:
    return pl.DataFrame(to_arrow(WithResponses, rows))


def many(count: int, **settings: Any) -> list[WithResponses]:
    return [responses_of(sets_of(Instruction(id=f"i{n}", prompt=f"question {n}"), **settings)) for n in range(count)]


# 1. counts


def test_every_instruction_appears_three_times_with_three_system_messages(tmp_path: Path) -> None:
    variants, dropped = Variants().apply(frame_of(many(40)), tmp_path)
    assert dropped == []
    rows = sft_rows(variants.filter(TRAINS))
    assert rows.height == 3 * 40
    per = rows.group_by("parent_id").agg(
        pl.len(), systems=pl.col("messages").list.first().struct.field("content").n_unique()
    )
    assert per["len"].to_list() == per["systems"].to_list() == [3] * 40
    small = sft_rows(variants.filter(TRAINS & pl.col("picked")))
    assert small.height == small["parent_id"].n_unique() == 40
    assert variants["id"].n_unique() == variants.height


# 2. one value per dimension


def test_a_preference_set_has_each_dimension_once_in_canonical_order() -> None:
    row = sets_of()
    assert len(row.sets) == 3
    for values in row.sets:
        assert [value.dimension for value in values] == NAMES
        for value, dimension in zip(values, TAXONOMY.dimensions, strict=True):
            assert value.description
            assert value.subdimension in {one.name for one in dimension.subdimensions}
            assert (value.origin, value.preference) == ("seed", value.seed)
    for place in range(4):  # as different as the taxonomy allows
        assert len({values[place].subdimension for values in row.sets}) == 3


def test_what_the_model_chose_itself_is_recorded_as_new() -> None:
    steps = PreferenceSets(taxonomy=TAXONOMY, sampler="model", count=1).steps(ROW)
    [ask] = next(steps)
    assert "clarity: one idea per sentence;" in ask.messages[-1].content
    answer = set_of(ask, 1)
    answer["style"] = {
        "subdimension": "Tone",
        "preference": "Warm and  ENCOURAGING",
        "description": "The answer is warm.",
    }
    answer["harmlessness"]["subdimension"] = "astrology"
    [values] = end_of(steps, [said(answer)]).sets
    assert (values[0].subdimension, values[0].preference, values[0].origin) == ("tone", "warm and encouraging", "seed")
    assert values[1].origin == "new_subdimension"  # tone is no subdimension of background knowledge
    assert (values[3].subdimension, values[3].origin, values[3].seed) == ("astrology", "new_subdimension", "")


@pytest.mark.parametrize(
    ("bad", "reason", "named"),
    [
        (lambda a: "no JSON", "bad_preference_set", "no JSON object"),
        (lambda a: [], "bad_preference_set", "no JSON object"),
        (lambda a: {"style": a["style"]}, "bad_preference_set", "no value for background_knowledge, informativeness"),
        (lambda a: {**a, "style": [a["style"]] * 3}, "several_values", "style had 3 values; give exactly one"),
        (
            lambda a: {**a, "style": {**a["style"], "description": " - "}},
            "empty_value",
            "description of style was empty",
        ),
        (lambda a: {**a, "style": {**a["style"], "preference": ""}}, "empty_value", "preference of style was empty"),
        (
            lambda a: {**a, "style": {**a["style"], "preference": "Style, "}},
            "empty_value",
            "only names its subdimension",
        ),
        (
            lambda a: {name: {**value, "preference": "specific"} for name, value in a.items()},
            "repeated_value",
            "4 dimensions had the same preference, 'specific'",
        ),
        (lambda a: {**a, "style": {**a["style"], "description": 3}}, "bad_preference_set", "style must have the texts"),
    ],
)
def test_a_bad_set_is_asked_for_again_with_its_fault_named_then_dropped(bad: Any, reason: str, named: str) -> None:
    steps = PreferenceSets(taxonomy=TAXONOMY, attempts=2).steps(ROW)
    asked = next(steps)
    good = [said(set_of(ask, n)) for n, ask in enumerate(asked)]
    wrong = bad(set_of(asked[1], 1))
    worse = Completion(text=wrong) if isinstance(wrong, str) else said(wrong)
    [again] = steps.send([good[0], worse, good[2]])
    assert again.sample == asked[1].sample + 1
    assert named in again.messages[-1].content
    with pytest.raises(Drop) as dropped:
        steps.send([worse])
    assert dropped.value.reason == reason


def test_what_servers_and_models_put_around_an_answer_is_taken_off() -> None:
    steps = PreferenceSets(taxonomy=TAXONOMY, count=1).steps(ROW)
    [ask] = next(steps)
    answer = set_of(ask, 1)
    answer["style"]["description"] = "The answer \x1b[31m is\x00 short."
    [values] = end_of(steps, [Completion(text=f"```json\n{json.dumps(answer)}\n```\n")]).sets
    assert values[0].description == "The answer [31m is short."


def test_a_text_longer_than_the_form_allows_is_refused() -> None:
    steps = PreferenceSets(taxonomy=TAXONOMY, count=1, attempts=1).steps(ROW)
    [ask] = next(steps)
    answer = set_of(ask, 1)
    answer["style"]["preference"] = "word " * 50
    with pytest.raises(Drop, match="the preference of style had over 120 characters"):
        steps.send([said(answer)])


def test_near_equal_sets_are_drawn_again() -> None:
    steps = PreferenceSets(taxonomy=TAXONOMY, count=2).steps(ROW)
    asked = next(steps)
    first = set_of(asked[0], 1)
    alike = set_of(asked[1], 2)
    for name in NAMES:
        alike[name]["description"] = first[name]["description"] + " too"
    [again] = steps.send([said(first), said(alike)])
    assert "nearly the same person" in again.messages[-1].content
    assert len(end_of(steps, [said(set_of(again, 2))]).sets) == 2


def test_sets_with_the_same_preferences_are_near_equal_however_described() -> None:
    steps = PreferenceSets(taxonomy=TAXONOMY, count=2, sampler="model").steps(ROW)
    asked = next(steps)
    assert ["number 1 of them" in ask.messages[-1].content for ask in asked] == [True, False]
    answers = [set_of(ask, n) for n, ask in enumerate(asked)]
    for name in NAMES:
        answers[1][name]["preference"] = answers[0][name]["preference"]
    [again] = steps.send([said(answer) for answer in answers])
    assert "nearly the same" in again.messages[-1].content


def test_more_attempts_ask_nothing_again() -> None:
    asked = [[ask.sample for ask in next(PreferenceSets(taxonomy=TAXONOMY, attempts=n).steps(ROW))] for n in (1, 3, 9)]
    assert asked == [[0, 100, 200]] * 3


# 3. descriptions only


def test_a_system_message_is_asked_for_with_the_descriptions_only() -> None:
    values = tuple(
        Value(
            dimension=n,
            subdimension="s",
            preference=f"KEYWORD-{n}",
            description=f"The answer, {n}.",
            origin="new_value",
        )
        for n in NAMES
    )
    steps = SystemMessages().steps(WithSets.child_of(ROW, 0, split="train", sets=(values,)))
    [ask] = next(steps)
    told = " ".join(message.content for message in ask.messages)
    assert all(value.description in told for value in values)
    assert not any(value.preference in told for value in values)
    assert ROW.prompt not in told
    made = end_of(steps, [said({"system_message": "You are a patient\n teacher."})])
    assert made.systems == ("You are a patient teacher.",)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (said({"system_message": " "}), "empty_system_message"),
        (Completion(text="You are"), "bad_system_message"),
        (said({"system_message": "You are"}, finish_reason="length"), "bad_system_message"),
        (said({"system_message": "The answer must be short."}), "bad_system_message"),
        (said({"system_message": "You are a guide. I will explain every step."}), "bad_system_message"),
        (said({"system_message": "You are a guide who explains every"}), "bad_system_message"),
        (said({"system_message": "You are a guide, whatever it is asked one paragraph."}), "bad_system_message"),
        (said({"system_message": "Sure, here is what you asked for."}), "answers_instruction"),
        (said({"system_message": "You can do it so: ```python print()```"}), "answers_instruction"),
        (
            said({"system_message": "You explain why the river carries more water in the early spring."}),
            "answers_instruction",
        ),
    ],
)
def test_a_bad_system_message_is_refused(bad: Completion, reason: str) -> None:
    prompt = "Tell me why the river carries more water in the early spring than later."
    with pytest.raises(Drop) as dropped:
        parse_system_message(bad, prompt, "so, whatever it is asked: one paragraph")
    assert dropped.value.reason == reason


def test_equal_system_messages_are_asked_for_again() -> None:
    steps = SystemMessages(attempts=2).steps(sets_of())
    next(steps)
    first, other = said({"system_message": "You are brief."}), said({"system_message": "You are  BRIEF."})
    [again] = steps.send([first, said({"system_message": "You are long."}), other])
    assert "same as for another person" in again.messages[-1].content
    with pytest.raises(Drop) as dropped:
        steps.send([first])
    assert dropped.value.reason == "same_system_message"


def test_equal_responses_are_asked_for_again_then_dropped() -> None:
    row = systems_of(sets_of())
    steps = Responses(attempts=2).steps(row)
    asked = next(steps)
    assert [[message.content for message in ask.messages] for ask in asked] == [[s, ROW.prompt] for s in row.systems]
    [again] = steps.send([Completion(text="Blue."), Completion(text="blue. "), Completion(text="Light scatters.")])
    assert again.messages[0].content == row.systems[1]
    assert "honour this one" in again.messages[1].content
    with pytest.raises(Drop, match="same_response"):
        steps.send([Completion(text="Blue.")])
    steps = Responses(attempts=1).steps(row)
    next(steps)
    with pytest.raises(Drop, match="empty_response"):
        steps.send([Completion(text="x"), Completion(text=" \n"), Completion(text="y")])


# 4., 5. pairs


def test_pairs_are_aligned_to_the_picked_system_message(tmp_path: Path) -> None:
    frame = frame_of(many(60))
    pairs, dropped = AlignedPairs(seed=3).apply(frame, tmp_path)
    assert dropped == []
    rows = {row["id"]: row for row in frame.to_dicts()}
    variants, _ = Variants(seed=3).apply(frame, tmp_path)
    picked = {row["parent_id"]: row["set_index"] for row in variants.to_dicts() if row["picked"]}
    for pair in pairs.to_dicts():
        row = rows[pair["parent_id"]]
        assert pair["chosen_index"] == picked[pair["parent_id"]]
        assert pair["rejected_index"] != pair["chosen_index"]
        assert pair["system"] == row["systems"][pair["chosen_index"]]
        assert pair["chosen"] == row["responses"][pair["chosen_index"]]["text"] != pair["rejected"]
        assert pair["rejected"] == row["responses"][pair["rejected_index"]]["text"]


def chi_square(counts: Counter[Any], kinds: int) -> float:
    expected = sum(counts.values()) / kinds
    return sum((counts[kind] - expected) ** 2 / expected for kind in list(counts)) + expected * (kinds - len(counts))


def test_choices_are_uniform_over_seeds() -> None:
    pairs = Counter((i, j) for seed in range(6000) for i, [j, _] in [pick_sets(seed, "one prompt", 3)])
    assert len(pairs) == 6
    assert chi_square(pairs, 6) < 20.5  # 5 degrees of freedom: p > 0.001
    assert chi_square(Counter(i for i, _ in pairs.elements()), 3) < 13.8
    prompts = Counter(pick_sets(0, f"prompt {n}", 3)[0] for n in range(6000))
    assert chi_square(prompts, 3) < 13.8
    dealt = Counter(deal_seeds(TAXONOMY.dimensions[0], [seed, "one prompt"], 3)[0] for seed in range(6000))
    assert chi_square(dealt, 30) < 58.3  # 29 degrees of freedom


def test_identical_responses_make_the_other_the_rejected_one_or_no_pair(tmp_path: Path) -> None:
    row = sets_of()
    for seed in range(12):
        pairs, _ = AlignedPairs(seed=seed).apply(frame_of([responses_of(row, ["same", "SAME ", "other"])]), tmp_path)
        assert {pairs["chosen"][0].strip().lower(), pairs["rejected"][0].strip().lower()} == {"same", "other"}
    pairs, dropped = AlignedPairs().apply(frame_of([responses_of(row, ["same"] * 3)]), tmp_path)
    assert (pairs.height, dropped[0].reason) == (0, "same_response")
    _, dropped = AlignedPairs().apply(frame_of([responses_of(sets_of(count=1))]), tmp_path)
    assert dropped[0].reason == "one_set"


def test_a_response_that_a_filter_broke_off_is_on_neither_side(tmp_path: Path) -> None:
    for seed in range(6):
        row = responses_of(sets_of(count=3), ["half", "one", "other"])
        chosen, others = pick_sets(seed, row.prompt, 3)
        for broken in range(3):
            ends = ["content_filter" if n == broken else "stop" for n in range(3)]
            answers = [
                one.model_copy(update={"finish_reason": end}) for one, end in zip(row.responses, ends, strict=True)
            ]
            frame = frame_of([row.model_copy(update={"responses": tuple(answers)})])
            pairs, dropped = AlignedPairs(seed=seed).apply(frame, tmp_path)
            if broken == chosen:
                assert (pairs.height, dropped[0].reason) == (0, "content_filter")
            else:
                [other] = [n for n in others if n != broken]
                assert pairs.select("chosen_index", "rejected_index").rows() == [(chosen, other)]


# 6. reward rows


def test_reward_rows_are_rendered_as_the_paper_does(tmp_path: Path) -> None:
    pairs, _ = AlignedPairs().apply(frame_of(many(30, bench_share=0.3, held_out=0.2)), tmp_path)
    assert 0 < aligned_rows(pairs.filter(TRAINS)).height < 30
    for row, pair in zip(reward_rows(pairs).to_dicts(), pairs.to_dicts(), strict=True):
        assert row["input"] == f"[INST] {pair['system']}\n{pair['prompt']} [/INST] "


# 7. bench


def rubric(n: int) -> dict[str, Any]:
    return {
        "criteria": f"Does it honour value {n}?",
        "score_descriptions": {str(s): f"Level {s} of {n}." for s in range(1, 6)},
    }


def bench_of(tmp_path: Path, rows: list[WithResponses]) -> list[BenchRow]:
    variants, _ = Variants().apply(frame_of(rows), tmp_path)
    found, _ = BenchVariants(embedder="minilm").apply(variants, tmp_path)
    made = []
    for row in found.select(*row_columns(Variant)).to_dicts():
        steps = Rubrics().steps(Variant.model_validate(row))
        asked = next(steps)
        preferences = [value["preference"] for value in row["preference_set"]]
        assert all(one in ask.messages[-1].content for one, ask in zip(preferences, asked, strict=True))
        made.append(end_of(steps, [said(rubric(n)) for n in range(len(asked))]))
    return made


def test_bench_rows_have_a_rubric_for_each_value_in_order_and_only_unseen_values(tmp_path: Path) -> None:
    rows = many(40, bench_share=0.2, held_out=0.2)
    train, _ = split_taxonomy(TAXONOMY, 0.2)
    made = bench_of(tmp_path, rows)
    assert made
    known = {value for dimension in train.dimensions for _, value in dimension.seeds.values()}
    for row in made:
        assert [value.dimension for value in row.preference_set] == NAMES
        assert [one.criteria for one in row.rubrics] == [f"Does it honour value {n}?" for n in range(4)]
        assert all(len(one.score_descriptions) == 5 for one in row.rubrics)
        assert not known & {value.preference for value in row.preference_set}
    exported = bench_rows(pl.DataFrame(to_arrow(BenchRow, made))).to_dicts()
    assert list(exported[0]["rubrics"][0]["score_descriptions"]) == ["1", "2", "3", "4", "5"]
    assert exported[0]["rubrics"][1] == rubric(1)
    assert list(exported[0]["preference_set"][0]) == ["dimension", "subdimension", "preference", "description"]


def test_a_bench_value_that_training_has_is_refused_or_dropped(tmp_path: Path) -> None:
    bench_row = next(
        row
        for n in range(99)
        if (row := Instruction(id=f"b{n}", prompt=f"question {n}"))
        and PreferenceSets(taxonomy=TAXONOMY, bench_share=0.2).split_of(row) == "bench"
    )
    stage = PreferenceSets(taxonomy=TAXONOMY, bench_share=0.2, held_out=0.2, count=1, attempts=1)
    steps = stage.steps(bench_row)
    [ask] = next(steps)
    answer = set_of(ask, 1)
    subdimension = ask.messages[-1].content.partition("said): subdimension ")[2].partition(",")[0]
    [seen] = [one.values[0] for one in stage.sides["train"].dimensions[0].subdimensions if one.name == subdimension]
    answer["style"]["preference"] = seen.upper()
    with pytest.raises(Drop) as dropped:
        steps.send([said(answer)])
    assert dropped.value.reason == "reserved_value"
    elsewhere = [one.values[0] for one in stage.sides["train"].dimensions[0].subdimensions if one.name != subdimension]
    answer["style"]["preference"] = elsewhere[0]  # under a subdimension that is not its own: it counts all the same
    steps = stage.steps(bench_row)
    next(steps)
    with pytest.raises(Drop, match="reserved_value"):
        steps.send([said(answer)])
    rows = many(30, bench_share=0.2, held_out=0.2)
    train = next(row for row in rows if row.split == "train")
    bench = next(row for row in rows if row.split == "bench")
    value = train.sets[0][0]
    stolen = bench.model_copy(update={"sets": ((value, *bench.sets[0][1:]), *bench.sets[1:])})
    variants, _ = Variants().apply(frame_of([train, stolen]), tmp_path)
    kept, gone = BenchVariants(embedder="minilm").apply(variants, tmp_path)
    assert (kept.height, Counter(one.reason for one in gone)) == (2, {"in_training": 3, "seen_value": 1})
    assert next(one for one in gone if one.reason == "seen_value").detail == f"{value.preference} (1.000)"


@pytest.mark.parametrize(
    "bad",
    [
        "no JSON",
        "[]",
        json.dumps({"criteria": "x"}),
        json.dumps({"criteria": "", "score_descriptions": rubric(1)["score_descriptions"]}),
        json.dumps({"criteria": "x", "score_descriptions": {"1": "a", "2": "b", "3": "c", "4": "d"}}),
        json.dumps({"criteria": "x", "score_descriptions": ["a", "b", "c", "d", 5]}),
    ],
)
def test_a_bad_rubric_is_asked_for_again(bad: str) -> None:
    row = Variant(
        id="v",
        prompt="p",
        system="s",
        split="bench",
        set_index=0,
        picked=True,
        output="o",
        preference_set=sets_of().sets[0],
    )
    steps = Rubrics(attempts=2).steps(row)
    next(steps)
    [again] = steps.send([said(rubric(0)), Completion(text=bad), said(rubric(2)), said(rubric(3))])
    assert "could not be used" in again.messages[-1].content
    assert end_of(steps, [said(rubric(1))]).reference_answer == "o"


# 10. diversity


def test_diversity_is_what_it_says(tmp_path: Path) -> None:
    row = sets_of()
    twin = row.model_copy(update={"id": "twin", "sets": (row.sets[0],) * 3})
    same = responses_of(twin, ["a b c", "a b c", "a b c"]).model_copy(update={"systems": ("You are one.",) * 3})
    frame, _ = Diversity(embedder="minilm").apply(frame_of([responses_of(row), same]), tmp_path)
    unlike, alike = frame.to_dicts()
    assert alike["description_rouge_l"] == [1.0] * 4
    assert (alike["most_alike"], alike["alike"], alike["response_rouge_l"]) == (1.0, True, 1.0)
    assert alike["system_spread"] == pytest.approx(0, abs=1e-6)
    assert not unlike["alike"]
    assert max(unlike["description_rouge_l"]) < 0.8
    import numpy as np

    vectors = np.eye(4, dtype=np.float32)
    assert mean_cosine_distance(vectors) == pytest.approx(1)
    assert mean_cosine_distance(vectors[:1]) is None


# coverage


def test_the_sampler_is_balanced_and_knows_nothing_of_the_neighbours() -> None:
    for dimension in TAXONOMY.dimensions:
        dealt = [deal_seeds(dimension, [0, f"prompt {n}"], 3) for n in range(1000)]
        assert all(len({name for name, _ in one}) == 3 for one in dealt)
        values = Counter(one for each in dealt for one in each)
        assert len(values) == 30
        assert evenness(values.values(), 30) > 0.99
    alone = sets_of(Instruction(id="other id", prompt="question 7"))
    assert [[v.seed for v in one] for one in alone.sets] == [[v.seed for v in one] for one in many(9)[7].sets]


@given(st.integers(1, 6), st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 99))
def test_seeds_repeat_only_when_all_were_dealt(count: int, sizes: list[int], seed: int) -> None:
    tree = {f"s{n}": [f"v{n}.{m}" for m in range(size)] for n, size in enumerate(sizes)}
    [dimension] = Taxonomy.model_validate({"d": tree}).dimensions
    count = min(count, sum(sizes))
    dealt = deal_seeds(dimension, [seed], count)
    assert len(set(dealt)) == count
    turns = Counter(name for name, _ in dealt)
    assert all(turns[name] >= min(len(tree[name]), max(turns.values()) - 1) for name in tree)


def test_coverage_counts_seeds_and_what_is_new() -> None:
    taxonomy = Taxonomy.model_validate({"d": {"a": ["one", "two"], "b": ["three", "four"]}})

    def value(sub: str, preference: str, origin: str, seed: str = "") -> dict[str, str]:
        return {"dimension": "d", "subdimension": sub, "preference": preference, "origin": origin, "seed": seed}

    [row] = coverage(
        taxonomy,
        [value("a", "one", "seed"), value("a", "1!", "new_value", "two"), value("c", "x", "new_subdimension")],
    )
    assert (row["subdimensions"], row["new_values"], row["new_subdimensions"]) == ("1 of 2", 2, 1)
    assert (row["seeds_dealt"], row["seeds_used"], row["worded_as_seed"]) == (0.25, 0.25, pytest.approx(1 / 3))
    assert (row["subdimension_evenness"], row["dealt_evenness"], evenness([5], 1)) == (0, 0, 1)
    assert evenness([2, 2], 4) == pytest.approx(0.5)


def test_held_out_values_are_held_out_of_every_subdimension() -> None:
    train, bench = split_taxonomy(TAXONOMY, 0.2)
    assert train.values + bench.values == TAXONOMY.values
    assert bench.values == 20
    for one, other in zip(train.dimensions, bench.dimensions, strict=True):
        assert not one.seeds.keys() & other.seeds.keys()
    assert split_taxonomy(TAXONOMY, 0) == (TAXONOMY, TAXONOMY)
    with pytest.raises(InputError, match="dimension d has 1 values for bench, but 3 sets need as many"):
        few = Taxonomy.model_validate({"d": {"a": ["one", "two", "three", "four"]}})
        assert PreferenceSets(taxonomy=few, bench_share=0.1, held_out=0.2).sides


def test_splits_are_by_prompt_and_nothing_else() -> None:
    stage = PreferenceSets(taxonomy=TAXONOMY, bench_share=0.3, sampling=Sampling(seed=1))
    other = PreferenceSets(taxonomy=TAXONOMY, bench_share=0.3, sampling=Sampling(seed=2), count=1)
    rows = [Instruction(id=str(n), prompt=f"prompt {n}") for n in range(2000)]
    assert [stage.split_of(row) for row in rows] == [other.split_of(row) for row in rows]
    assert stage.split_of(ROW) == stage.split_of(ROW.model_copy(update={"id": "z", "prompt": f" {ROW.prompt.upper()}"}))
    assert 500 < sum(stage.split_of(row) == "bench" for row in rows) < 700


# filter


def test_instructions_are_filtered_by_reason(tmp_path: Path) -> None:
    prompts = {
        "fine": "How do I keep basil alive in a dark kitchen?",
        "twin": "how do I keep  BASIL alive in a dark kitchen?",
        "persona": "You are a pirate. Tell me about tides and the moon.",
        "act": "Act as a senior editor and shorten this text.",
        "german": "Wie halte ich Basilikum in einer dunklen Küche am Leben?",
        "short": "Why?",
        "long": "Tell me a long story about the sea. " * 250,
        "code": "print(1+1)",
        "soon": "Act as soon as possible: how do I file my taxes?",
        "best": "You are the best! Tell me how photosynthesis works.",
        "words": "Tell me about Barcelona",
        "chinese": "请用简单的语言解释一下为什么天空是蓝色的",
        "puzzle": "You are given a list of numbers. Find the two that sum to ten.",
    }
    rows = [Instruction(id=name, prompt=prompt) for name, prompt in prompts.items()]
    rows.append(Instruction(id="has", prompt="What is the tallest tree in Europe?", system="Be brief."))
    frame = pl.DataFrame(to_arrow(Instruction, rows))
    kept, dropped = FilterInstructions().apply(frame, tmp_path)
    assert set(kept["id"]) == {"fine", "code", "puzzle", "soon", "best", "words"}
    assert {row.id: row.reason for row in dropped} == {
        "twin": "duplicate", "persona": "persona", "act": "persona", "german": "language", "chinese": "language",
        "short": "too_short", "long": "too_long", "has": "has_system",
    }  # fmt: skip
    kept, _ = FilterInstructions(languages=("en", "de"), keep_personas=True, max_chars=10_000).apply(frame, tmp_path)
    assert {"german", "persona", "has", "long"} <= set(kept["id"])
    shuffled, _ = FilterInstructions().apply(frame.reverse(), tmp_path)
    assert set(shuffled["id"]) == {"fine", "code", "puzzle", "soon", "best", "words"}

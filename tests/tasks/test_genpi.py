"""Role-swap dialogue synthesis against the paper's known answers (docs/papers.md#genpi), numbered."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthmill.schemas.applications import Application, Turn
from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.dialogues import Dialogue, Drafts, Opening, PseudoInput, Reasoned, SingleTurn
from synthmill.schemas.errors import Drop
from synthmill.schemas.rows import to_arrow
from synthmill.storage.calls import CallStore
from synthmill.storage.plain_files.applications import read_application, turns_of
from synthmill.tasks.generators.dialogues.pseudo_inputs import DraftInputs, PseudoInputs, parse_items
from synthmill.tasks.generators.dialogues.role_swap import RoleSwap
from synthmill.tasks.generators.dialogues.single_turn import Outputs, Reasons
from synthmill.tasks.generators.dialogues.talk import END, swap_roles
from synthmill.tasks.generators.dialogues.teacher_pairs import AnswerPools, TeacherPairs
from synthmill.tasks.generators.dialogues.training_rows import (
    GUESS,
    TrainingRows,
    label_mask,
    prompt_generation_messages,
    sft_messages,
)
from synthmill.tasks.recipe import Recipe
from synthmill.tasks.running.driver import Driver
from synthmill.tasks.texts.words import grams, words_of
from tests.conftest import Echo

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "dialogues"
SHELL, _ = read_application(EXAMPLES / "shell.yaml")
ORDERS, _ = read_application(EXAMPLES / "orders.yaml")


def application(**fields: Any) -> Application:
    """A small application whose turns tell where they stand."""
    turns = turns_of(fields.pop("prompt", ["rules", "fine", "Problem: "]), Path())
    environment = {"name": "a machine", "ends_when": "it wants to end", **fields.pop("environment", {})}
    return Application.with_id(name="small", turns=turns, environment=environment, **fields)


def opening(app: Application, **fields: Any) -> Opening:
    values = {"student_output_single": "bad", "teacher_output_single": "good", "reason": "because", "facts": "a fact"}
    given_ = {"id": "o", "application": app, "pseudo_input": "count the files", "branch": 0, **values, **fields}
    return Opening.model_validate(given_)


def play(
    recipe: Recipe[Any, Any], row: Any, answer: Callable[[Request, int], Any], asked: list[Request] | None = None
) -> Any:
    """Drive a recipe to its end; `answer(request, n)` is the n-th answer of its role. Returns its row; raises Drop."""
    steps, counts, said = recipe.steps(row), {}, None
    while True:
        try:
            requests = steps.send(said) if said is not None else next(steps)
        except StopIteration as end:
            return end.value
        said = []
        for request in requests:
            counts[request.role] = counts.get(request.role, -1) + 1
            made = answer(request, counts[request.role])
            said.append(made if isinstance(made, Completion) else Completion(text=made, completion_tokens=2))
            if asked is not None:
                asked.append(request)


def scripted(**roles: list[Any]) -> Callable[[Request, int], Any]:
    """Answers by role, in order; the last one is repeated."""
    return lambda request, n: roles[request.role][min(n, len(roles[request.role]) - 1)]


# 1. and 2.: pseudo user inputs


def draft(app: Application, texts: list[str], **settings: Any) -> tuple[list[str], Any]:
    recipe = DraftInputs(**settings)
    drafts = play(recipe, app, lambda request, n: texts[request.sample])
    frame = pl.DataFrame(to_arrow(Drafts, [drafts]))
    made, dropped = PseudoInputs(wanted=recipe.wanted, threshold=None).apply(frame, Path())
    assert not dropped
    assert set(made["parent_id"]) <= {drafts.id}
    return made["pseudo_input"].to_list(), drafts


def test_1_two_thousand_numbered_lines() -> None:
    items = [f"{'Question: ' if n % 3 else ''}problem {n % 1300}" for n in range(2000)]
    texts = [
        "Here are ten problems:\n"
        + "\n".join(f"{place}. {item}" for place, item in enumerate(items[at : at + 10], 1))
        + "\n- not one\n 11. nor this\n12.\n"
        for at in range(0, 2000, 10)
    ]
    form = application(inputs={"after": "Question:"})
    made, drafts = draft(form, texts)
    assert len(texts) == 200 == len(drafts.drawn_by_call)
    assert made == [f"problem {n}" for n in range(1000)]  # first seen, in order, cut to 1,000
    assert len(drafts.drafts) == 2000
    assert parse_items("3. Question: foo", form.inputs) == ["foo"]
    assert parse_items("3. Old Question: a Question: foo ", form.inputs) == ["foo"]


def test_2_chunks_of_several_lines() -> None:
    header = "#### Problem {n}:\n"
    webshop = application(inputs={"list_format": header, "contains": ["WebShop [SEP]"]}).inputs
    text = "Sure!\n#### Problem 1:\nWebShop [SEP] Instruction: [SEP] a hat\n[SEP] Search\n\n#### Problem 2:\nno shop\n"
    assert parse_items(text, webshop) == ["WebShop [SEP] Instruction: [SEP] a hat\n[SEP] Search"]
    mind2web = application(inputs={"list_format": header, "starts_with": "'''"}).inputs
    assert parse_items("#### Problem 1:\n'''\n<html>\n'''\n#### Problem 2:\n<html>", mind2web) == ["'''\n<html>\n'''"]
    graph = application(
        inputs={
            "list_format": header,
            "contains": ["entities:", "question:"],
            "after": "Question:",
            "line_break": "<SEP>",
        }
    ).inputs
    text = "#### Problem 1:\nQuestion: who?<SEP>Entities: [a]\n#### Problem 2:\nQuestion: alone?"
    assert parse_items(text, graph) == ["who?\nEntities: [a]"]


def test_an_item_cut_at_max_tokens_is_left_out() -> None:
    assert parse_items("1. whole\n2. ...\n3. cu", SHELL.inputs, cut=True) == ["whole"]


def test_an_item_in_quotes_loses_them_unless_it_has_more() -> None:
    text = '1. "Where is it?"\n2. "Say "yes"."\n3. “Why?”\n4. "\n5. Print "a"'
    assert parse_items(text, SHELL.inputs) == ["Where is it?", '"Say "yes"."', "Why?", 'Print "a"']


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_of_inputs_that_broke_off_the_last_is_left_out(reason: str) -> None:
    recipe = DraftInputs(wanted=2, per_call=2, overgenerate=1)
    made = play(recipe, SHELL, lambda request, n: Completion(text="1. whole\n2. hal", finish_reason=reason))
    assert made.drafts == ("whole",)


def test_inputs_that_failed_cost_only_themselves() -> None:
    recipe = DraftInputs(wanted=4, per_call=2, overgenerate=1)
    failed = Completion(text="", error="engine_timeout: no answer")
    made = play(recipe, SHELL, lambda request, n: failed if n == 0 else "1. a\n2. b")
    assert (made.drafts, made.drawn_by_call) == (("a", "b"), (0, 2))
    with pytest.raises(Drop, match="context_overflow: 9 of 4"):
        play(recipe, SHELL, lambda request, n: Completion(text="", error="context_overflow: 9 of 4"))
    with pytest.raises(Drop, match="no_inputs: none of 2 answers"):
        play(recipe, SHELL, lambda request, n: "I cannot do that.")


def test_near_duplicates_and_copied_demos_go(tmp_path: Path) -> None:
    drafts = [
        "How many lines does /home/ana/notes/todo.txt have?",
        "Delete all photos.",
        "delete all  photos.",
        "Sort names.",
    ]
    row = Drafts(id="d", application=SHELL, drafts=tuple(drafts))
    stage = PseudoInputs(threshold=0.9)
    made, _ = stage.apply(pl.DataFrame(to_arrow(Drafts, [row])), tmp_path)
    assert made["pseudo_input"].to_list() == ["Delete all photos.", "Sort names."]
    assert stage.model_copy(update={"rows_per_part": 1}).parts_begin(made.to_arrow()) == [0, 1]
    both = pl.concat([made.with_columns(parent_id=pl.lit(owner)) for owner in ("a", "b")]).to_arrow()
    assert stage.parts_begin(both) == [0, 2]  # a part holds one application's rows
    copied = row.model_copy(update={"drafts": tuple(SHELL.inputs.demos)})
    made, [dropped] = stage.apply(pl.DataFrame(to_arrow(Drafts, [copied])), tmp_path)
    assert (made.height, dropped.reason) == (0, "no_inputs")


# 3. and 4.: turns and swapped roles


@pytest.mark.parametrize(
    ("app", "count"),
    [
        (SHELL, 7),
        (ORDERS, 9),
        (application(prompt=["a", "b"] * 5 + [""]), 11),
        (application(prompt=["a", "b"] * 9 + ["c"]), 19),
    ],
    ids=["shell", "orders", "eleven", "nineteen"],
)
def test_3_a_prompt_is_an_odd_number_of_turns(app: Application, count: int) -> None:
    turns = app.turns_with(" X")
    assert len(turns) == count
    assert count % 2
    assert [turn.role for turn in turns] == [("user", "assistant")[place % 2] for place in range(count)]
    assert turns[-1].role == "user"
    assert turns[-1].content.endswith("X")
    assert turns_of(app.context, Path()) == [{"role": t.role, "content": t.content} for t in app.turns]


@pytest.mark.parametrize("start", [1, 3])
def test_4_the_environment_sees_the_turns_swapped(start: int) -> None:
    turns = application(prompt=["rules", "fine", "one", "two", "Problem: "]).turns_with("X")
    seen = swap_roles(turns, start)
    assert [message.content for message in seen] == [turn.content for turn in turns[start:]]
    for message, turn in zip(seen, turns[start:], strict=True):
        assert {message.role, turn.role} == {"user", "assistant"}
    assert seen[0].role == "user"
    app = application(prompt=["rules", "fine", "one", "two", "Problem: "], environment={"starts_at": start})
    talk = RoleSwap().start_talk(opening(app, pseudo_input="X"), {"facts": "a fact"})
    assert talk.environment[1:] == list(swap_roles(app.turns_with("X"), start))
    assert [message.content for message in talk.agent[1:]] == [turn.content for turn in app.turns_with("X")]
    for mine, theirs in zip(talk.environment[1:], talk.agent[1 + start :], strict=True):
        assert (mine.content, {mine.role, theirs.role}) == (theirs.content, {"user", "assistant"})


# 5.: the dialogue under the preset `paper`


@given(max_turns=st.integers(1, 6), end=st.one_of(st.none(), st.integers(0, 7)))
def test_5_the_papers_loop(max_turns: int, end: int | None) -> None:
    app = application(limits={"max_turns": max_turns})
    replies = [f"output {n}" + (f" {END}" if n == end else "") for n in range(8)]
    said = scripted(teacher=[f"act {n}" for n in range(8)], environment=replies)
    made = play(RoleSwap(preset="paper"), opening(app), said)
    pairs = min(max_turns, 8 if end is None else end + 1)
    assert len(made.turns) == 2 * pairs
    assert [turn.role for turn in made.turns] == ["assistant", "user"] * pairs
    ended = end is not None and end < max_turns
    assert made.end_reason == ("marker" if ended else "max_turns")
    messages = sft_messages(made.model_dump(), app)
    assert [message["role"] for message in messages] == ["user", "assistant"] * pairs + ([] if ended else ["user"])


def test_the_reminder_reaches_the_environment_with_the_turn_and_an_empty_one_leaves_the_turn() -> None:
    for reminder, seen in (("", "act"), ("Be short.", "act\n\nBe short.")):
        asked: list[Request] = []
        app = application(environment={"reminder": reminder}, limits={"max_turns": 1})
        play(RoleSwap(preset="paper"), opening(app), scripted(teacher=["act"], environment=["out"]), asked)
        assert asked[1].messages[-1].content == seen
        assert asked[1].messages[-1].role == "user"


# 6. to 9.: what the student, the teacher and the trainer see


@pytest.mark.parametrize("app", [SHELL, ORDERS], ids=["shell", "orders"])
def test_6_the_student_sees_nothing_of_the_prompt_and_the_teacher_all(app: Application) -> None:
    row = PseudoInput(id="p", application=app, pseudo_input="Which of my pears are ripe")
    student, teacher = next(Outputs().steps(row))
    assert (student.role, teacher.role, student.sampling.temperature) == ("student", "teacher", 0)
    [alone] = [message.content for message in student.messages if message.role == "user"]
    assert alone == app.for_student(row.pseudo_input)
    told = {gram for turn in app.turns for gram in grams(words_of(turn.content), 4)}
    assert not told & set(grams(words_of(alone), 4))
    for turn in app.turns[:-1]:
        assert turn.content not in alone
        assert turn.content in [message.content for message in teacher.messages]
    assert teacher.messages[-1].content == app.turns[-1].content + row.pseudo_input


def test_7_prompt_generation_has_the_prompt_in_its_target_only() -> None:
    row = opening(SHELL, reason="The rules ask for one command.").model_dump()
    user, target = prompt_generation_messages(row, SHELL)
    assert SHELL.context in target["content"]
    assert row["reason"] in target["content"]
    assert all(turn.content.strip() in target["content"] for turn in SHELL.turns)
    assert user["content"].startswith(GUESS)
    assert all(turn.content not in user["content"] for turn in SHELL.turns)
    assert row["reason"] not in user["content"]
    for part in ("pseudo_input", "student_output_single", "teacher_output_single"):
        assert row[part] in user["content"]


def signed(app: Application, branch: int = 0, kept: bool = True, pseudo_input: str = "x") -> dict[str, Any]:
    turns = (
        Turn(role="assistant", content="act"),
        Turn(role="user", content="out"),
        Turn(role="assistant", content="bye"),
    )
    row = opening(app, id=f"{pseudo_input}-{branch}", branch=branch, pseudo_input=pseudo_input)
    made = Dialogue.child_of(row, "d", turns=turns, end_reason="agent", agent_turns=2)
    return {**made.model_dump(), "kept": kept, "cut_by": "" if kept else "repeated_turns"}


@pytest.mark.parametrize(("ratio", "loss"), [(0.7, 1.7), (0.3, 1.3)])
def test_8_the_joint_loss(ratio: float, loss: float) -> None:
    app = application(joint_ratio=ratio)
    rows, dropped = TrainingRows().apply(
        pl.DataFrame([signed(app, 0), signed(app, 1), signed(app, 2, kept=False)]), Path()
    )
    losses = {"sft": 2.0, "prompt_generation": 1.0}
    joint = sum(weight * losses[kind] for weight, kind in rows.select("weight", "kind").iter_rows())
    assert joint == pytest.approx(loss)
    assert sorted(rows["kind"]) == ["prompt_generation", "sft", "sft"]
    assert [drop.reason for drop in dropped] == ["cut_by_repeated_turns"]
    assert set(rows["joint_ratio"]) == {ratio}


def test_an_input_whose_dialogues_were_all_cut_still_has_its_prompt_generation_row() -> None:
    rows, dropped = TrainingRows().apply(pl.DataFrame([signed(application(), 1, kept=False)]), Path())
    assert (rows["kind"].to_list(), dropped) == (["prompt_generation"], [])


CHAT_TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + ('</s>' if m['role'] == 'assistant' "
    "else '') + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def tiny_tokenizer() -> Any:
    """A byte-level tokenizer with the marks of a chat template, made on the spot."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    marks = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: n for n, token in enumerate(marks + alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=CHAT_TEMPLATE
    )


def test_9_only_the_assistant_is_trained_each_turn_to_its_end() -> None:
    tokenizer = tiny_tokenizer()
    turns = [("system", "be kind"), ("user", "hi"), ("assistant", "hello"), ("user", "bye"), ("assistant", "see you")]
    ids, labels = label_mask(tokenizer, [{"role": role, "content": text} for role, text in turns])
    assert len(ids) == len(labels)
    assert (tokenizer.decode(ids[:1]), labels[0]) == ("<s>", -100)
    assert tokenizer.decode([label for label in labels if label != -100]) == "hello</s>see you</s>"
    assert all(label in (token, -100) for token, label in zip(ids, labels, strict=True))
    _, cut = label_mask(tokenizer, [{"role": role, "content": text} for role, text in turns], most=4)
    assert tokenizer.decode([label for label in cut if label != -100]) == "hellsee "


# 10.: the same again


def test_10_a_second_run_is_the_same_and_asks_nothing(tmp_path: Path) -> None:
    rows = [
        Reasoned.model_validate(
            opening(SHELL, id=f"r{n}", pseudo_input=f"problem {n}").model_dump(exclude={"branch", "facts"})
        )
        for n in range(5)
    ]

    def run(folder: str) -> tuple[Any, int]:
        engine = Echo(lambda request, sample: f"{request.role} after {len(request.messages)} messages")
        calls = CallStore(tmp_path / folder)

        async def both() -> Any:
            outputs = await Driver(Outputs(), dict.fromkeys(("student", "teacher"), engine), calls).run(rows)
            roles = dict.fromkeys(("author", "teacher", "environment", "judge", "world"), engine)
            talks = [opening(SHELL, id=row.id, pseudo_input=row.pseudo_input) for row in rows]
            return outputs, await Driver(RoleSwap(max_turns=4), roles, calls).run(talks)

        made = asyncio.run(both())
        calls.close()
        return [[row.model_dump() for row in part.rows] for part in made], len(engine.asked)

    first, asked = run("a")
    assert run("b") == (first, asked)
    assert run("a") == (first, 0)
    assert len(first[1]) == 5


def test_the_reason_is_asked_for_with_everything_in_view() -> None:
    row = opening(SHELL)
    [ask] = next(Reasons().steps(row))
    assert ask.role == "author"
    for part in (SHELL.context, row.pseudo_input, "bad", "good"):
        assert part in ask.messages[-1].content
    with pytest.raises(Drop, match="empty_reason"):
        play(Reasons(), row, scripted(author=[" "]))


def teacher_messages(row: PseudoInput) -> Any:
    return next(Outputs().steps(row))[1].messages


def test_tool_turns_are_asked_for_by_schema() -> None:
    _, teacher = next(Outputs().steps(PseudoInput(id="p", application=ORDERS, pseudo_input="x")))
    forms = teacher.schema_["properties"]["turn"]["anyOf"]
    assert [form["properties"]["tool"]["enum"] for form in forms[:-1]] == [
        ["find_order"],
        ["cancel_order"],
        ["refund_order"],
    ]
    assert forms[-1]["required"] == ["say"]
    row = PseudoInput(id="p", application=ORDERS, pseudo_input="x")
    for turn, shown in (
        ({"say": " Hello! "}, "Hello!"),
        (
            {"tool": "find_order", "arguments": {"order_id": "7"}},
            '{"tool": "find_order", "arguments": {"order_id":"7"}}',
        ),
    ):
        made = play(Outputs(), row, scripted(student=["I do not know."], teacher=[json.dumps({"turn": turn})]))
        assert made.teacher_output_single == shown
        assert made.teacher_calls_tool == ("tool" in turn)
    again = play(Outputs(), row, scripted(student=["x"], teacher=["{", '{"turn": {"say": "Hello"}}']))
    assert again.teacher_output_single == "Hello"
    for name in ("find_order", "cancel_order", "refund_order"):
        assert f"- {name}: " in teacher_messages(row)[0].content
    for student, teacher, said in (("", '{"turn": {"say": "Hello"}}', "empty_answer"), ("x", "{", "malformed_turn")):
        with pytest.raises(Drop, match=said):
            play(Outputs(), row, scripted(student=[student], teacher=[teacher]))


def test_pairs_are_the_teachers_answer_over_the_students() -> None:
    rows = [
        SingleTurn.model_validate(
            {"id": f"r{n}", "application": SHELL, "pseudo_input": f"p{n}", "student_output_single": "bad", **fields}
        )
        for n, fields in enumerate(
            (
                {"teacher_output_single": "good", "teacher_finish_reason": "end_turn"},
                {"teacher_output_single": "bad"},
                {"teacher_output_single": "{}", "teacher_calls_tool": True},
            )
        )
    ]
    pools, dropped = AnswerPools().apply(pl.DataFrame(to_arrow(SingleTurn, rows)), Path())
    assert [(drop.id, drop.reason) for drop in dropped] == [("r2", "tool_call")]
    assert pools["answers"][0][0] == {
        "answer_index": 0,
        "text": "good",
        "finish_reason": "end_turn",
        "completion_tokens": 0,
    }
    rewarded = pools.with_columns(rewards=pl.lit([0.1, 0.9]))
    pairs, [same] = TeacherPairs().apply(rewarded, Path())
    assert pairs.select("prompt", "chosen", "rejected", "chosen_reward", "cut").rows() == [
        ("Problem: p0", "good", "bad", 0.1, "teacher_over_student")
    ]
    assert (same.id, same.reason) == (pools["id"][1], "same_text")


@pytest.mark.parametrize("whose", ["teacher", "student"])
def test_an_output_that_a_filter_broke_off_is_in_no_pair(whose: str) -> None:
    outputs = {"teacher_output_single": "good", "student_output_single": "bad"}
    row = SingleTurn.model_validate(
        {"id": "r", "application": SHELL, "pseudo_input": "p", **outputs, f"{whose}_finish_reason": "content_filter"}
    )
    pools, _ = AnswerPools().apply(pl.DataFrame(to_arrow(SingleTurn, [row])), Path())
    pairs, [broken] = TeacherPairs().apply(pools.with_columns(rewards=pl.lit([0.1, 0.9])), Path())
    assert (pairs.height, broken.reason) == (0, "content_filter")


def test_a_teachers_output_that_max_tokens_cut_is_never_chosen() -> None:
    outputs = {"teacher_output_single": "good", "student_output_single": "bad", "student_finish_reason": "length"}
    row = SingleTurn.model_validate({"id": "r", "application": SHELL, "pseudo_input": "p", **outputs})
    for ending, pair_count in (("stop", 1), ("length", 0)):
        ended = row.model_copy(update={"teacher_finish_reason": ending})
        pools, _ = AnswerPools().apply(pl.DataFrame(to_arrow(SingleTurn, [ended])), Path())
        pairs, dropped = TeacherPairs().apply(pools.with_columns(rewards=pl.lit([0.1, 0.9])), Path())
        assert (pairs.height, [drop.reason for drop in dropped]) == (pair_count, ["cut_short"] * (1 - pair_count))

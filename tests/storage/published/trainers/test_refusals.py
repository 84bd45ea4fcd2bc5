"""Rows that a trainer cannot hold, or would learn nothing from: counted, named, and nothing is written."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from synthmill.schemas.errors import InputError
from synthmill.schemas.export_settings import ExportSettings
from synthmill.storage.published.configurations import Table
from synthmill.tasks.verifiers.verdicts import verifier_fault
from tests.storage.published.trainers.samples import (
    ANSWER,
    ASK,
    BESIDE,
    COMPLETION,
    ONE_CALL,
    PAIR,
    PAIR_WITH_TOOLS,
    PLAIN,
    RL,
    SYSTEM,
    TOOLS,
    answers,
    chats,
    exported,
    lines_of,
    turn,
)

THOUGHT = turn("assistant", "Here.", reasoning_content="Hm.")
EMPTY = turn("assistant", " ")
TRIPLET = pl.DataFrame({"id": ["t"], "anchor": ["q"], "positive": ["p"], "negative": [" "]})


@pytest.mark.parametrize(
    ("trainer", "table", "uses", "named"),
    [
        ("torchtune", chats(ONE_CALL, PLAIN, tools=None), (), "t as sft: tools in 1 of 2 rows.*--as-text tools"),
        ("verl", chats(PLAIN, tools=TOOLS), (), "tools in 1 of 1 rows"),
        ("llama-factory", chats(BESIDE), (), "text beside a call in 1 of 1 rows"),
        ("llama-factory", chats([ASK, ASK, ANSWER]), (), "turns that do not alternate"),
        ("trl", chats(PLAIN, [ASK, EMPTY]), ("sft",), "no answer to learn from in 1 of 2 rows"),
        ("trl", chats([SYSTEM, ASK]), ("sft",), "no answer to learn from in 1 of 1 rows"),
        ("trl", answers("preferences", [ASK], chosen=[EMPTY], rejected=[ANSWER]), (), "an empty chosen side"),
        ("trl", answers("preferences", [ASK], chosen=[ANSWER], rejected=[ANSWER]), (), "equal sides"),
        ("trl", answers("preferences", [turn("user", "")], chosen=[ANSWER], rejected=[EMPTY]), (), "an empty prompt"),
        ("trl-grpo", PAIR_WITH_TOOLS, ("prompts",), "t as prompts: tools in 1 of 1 rows.*--as-text tools"),
        ("axolotl", COMPLETION, ("reward",), "nothing here can be written as reward"),
        ("sentence-transformers", Table.of(TRIPLET, "triplets", ""), (), "an empty negative in 1 of 1 rows"),
        ("nemo-rl", Table.of(RL.rows.frame().with_columns(system=pl.lit("s")), "rl", ""), (), "a system message"),
        ("nemo-rl", Table.of(RL.rows.frame().with_columns(answer=pl.lit("")), "rl", ""), (), "no reference answer"),
        ("verl", COMPLETION, (), "answers in the prompt, which would be learned, too in 1 of 1.*--as-text history"),
        (
            "axolotl",
            answers("preferences", PLAIN[:-1], chosen=[ANSWER], rejected=[EMPTY]),
            ("reward",),
            "earlier turns",
        ),
        (
            "axolotl",
            answers("preferences", [ASK], chosen=[ANSWER], rejected=[turn("assistant", "user")]),
            (),
            "so short",
        ),
        ("openrlhf", chats([ASK, THOUGHT, ASK, ANSWER]), (), "thinking before an earlier answer.*--thinking drop"),
        ("mlx-lm", PAIR, ("kto",), "nothing here can be written as kto: there is t \\(preferences\\)"),
    ],
)
def test_what_cannot_be_trained_on_is_counted_and_named(trainer: str, table: Table, uses: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        exported(trainer, table, *uses)


def test_what_texts_may_hold_is_a_setting() -> None:
    [row] = lines_of("torchtune", chats(ONE_CALL, tools=TOOLS), as_text=("tools",))
    system, ask, call, found, answer = row["messages"]
    assert system["content"].startswith("Be brief.\n\n# Tools") and '"name": "look"' in system["content"]
    assert call["content"] == '<tool_call>\n{"name": "look", "arguments": {"at": "x"}}\n</tool_call>'
    assert found == turn("user", "<tool_response>\nseen\n</tool_response>")
    assert (ask, answer) == (ASK, ANSWER)
    [row] = lines_of("torchtune", chats(PLAIN), as_text=("system",))
    assert row["messages"][0] == turn("user", "Be brief.\n\nWhere is it?")
    [row] = lines_of("axolotl", COMPLETION, as_text=("system",))
    assert [message["training"] for message in row["messages"]] == [False, False, False, True]
    [row] = lines_of("torchtune", COMPLETION, as_text=("history",))
    asked = turn("user", "User: Where is it?\n\nAssistant: Here.\n\nUser: Sure?")
    assert row["messages"] == [SYSTEM, asked, PLAIN[-1]]
    assert lines_of("torchtune", chats(PLAIN), as_text=("history",))[0]["messages"] == PLAIN


def test_a_template_that_refuses_a_system_message_stops_the_export(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}"
        "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{{ bos_token }}{{ m.content }}{% endfor %}"
    )
    (tmp_path / "chat_template.jinja").write_text(template)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    refused = r"the chat template refuses it \(System role not supported\) in 1 of 2 rows"
    with pytest.raises(InputError, match=refused):
        exported("trl", chats(PLAIN, PLAIN[1:]), "sft", chat_template=str(tmp_path))
    assert exported("trl", chats(PLAIN[1:]), "sft", chat_template=str(tmp_path)).tables
    as_text = exported("trl", chats(PLAIN), "sft", chat_template=str(tmp_path), as_text=("system",))
    assert as_text.tables["t_sft"].height == 1
    with pytest.raises(InputError, match="has no chat template"):
        exported("trl", chats(PLAIN), chat_template=str(tmp_path / "nowhere"))


def test_rows_whose_verifier_cannot_be_called_are_refused() -> None:
    from synthmill.storage.published.for_trainer import tables_for

    settings = ExportSettings(to="out", trainer="trl", uses=("rl",))
    assert tables_for({"t": RL}, settings, verifier_fault).tables
    unknown = Table.of(RL.rows.frame().with_columns(verifier=pl.lit("mth")), "rl", "a prompt")
    with pytest.raises(InputError, match=r"a verifier that cannot be called \(.*did you mean math.*\) in 1 of 1 rows"):
        tables_for({"t": unknown}, settings, verifier_fault)


def test_tables_without_a_use_are_left_out_by_name() -> None:
    from synthmill.storage.published.for_trainer import tables_for

    tables = {"a": chats(PLAIN), "other": Table.of(pl.DataFrame({"id": ["x"]}), "other", "")}
    assert tables_for(tables, ExportSettings(to="out", trainer="mlx-lm")).left_out == ["other"]


def test_a_trainer_and_formats_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="exclude each other"):
        ExportSettings(to="out", trainer="trl", formats=("sft",))
    with pytest.raises(ValidationError, match="name a trainer, too"):
        ExportSettings(to="out", uses=("kto",))
    with pytest.raises(InputError, match="tlr is no trainer that exports are written for; expected axolotl"):
        exported("tlr", PAIR)

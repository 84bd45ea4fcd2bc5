"""Stages over artifacts, in this process: what is made, what is reused, and the promises on re-sending."""

import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pyarrow as pa
import pytest

from bench.serving import chat_server
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.calls import Message, Request, Sampling
from synthmill.schemas.errors import EngineError, InputError
from synthmill.schemas.rows import Dropped, Instruction
from synthmill.schemas.settings import EngineSettings, SourceSettings
from synthmill.storage.artifacts import Store, read_artifact, read_dropped
from synthmill.tasks.cuts.max_min_pairs import MaxMinPairs
from synthmill.tasks.frames import FrameStage
from synthmill.tasks.generators.answers import Answers
from synthmill.tasks.generators.multifaceted.filtering import FilterInstructions
from synthmill.tasks.recipe import Recipe, Steps
from synthmill.tasks.running.job import Planned
from synthmill.tasks.running.stages import ingest, run_stage
from tests.conftest import ChatServer, Matrix, prompts, write_jsonl
from tests.tasks.stages import in_process


class Shout(Recipe[Instruction, Instruction]):
    """A stage with a parser and a prompt that tests change."""

    name: ClassVar = "shout"
    version: ClassVar = "1"
    roles: ClassVar = ("student",)
    ask: str = "Shout: "

    def steps(self, row: Instruction) -> Steps[Instruction]:
        message = Message(role="user", content=self.ask + row.prompt)
        [said] = yield [Request(role="student", messages=(message,), sampling=self.sampling)]
        return Instruction.child_of(row, self.name, prompt=self.parse(said.text))

    def parse(self, text: str) -> str:
        return text.upper()


class ParsedOtherwise(Shout):
    version: ClassVar = "2"

    def parse(self, text: str) -> str:
        return text.title()


def source_of(store: Store, tmp_path: Path, count: int, rows_per_part: int = 256) -> Manifest:
    file = write_jsonl(tmp_path / "in.jsonl", prompts(count))
    return ingest(store, SourceSettings(path=str(file)), rows_per_part, "run")


def make(store: Store, server: ChatServer, stage: Any, source: Manifest) -> Manifest:
    planned = Planned(stage, {"student": EngineSettings.model_validate(server.spec)}, source.key)
    with in_process(store) as pool:
        return run_stage(store, planned, source, pool, "run")


def sent_by(server: ChatServer, before: int = 0) -> int:
    return server.stats()["total"] - before


def test_100_rows_added_to_1000_cost_100_rows_of_requests(store: Store, tmp_path: Path, server: ChatServer) -> None:
    before = make(store, server, Answers(count=2), source_of(store, tmp_path, 1000))
    assert sent_by(server) == 2000
    after = make(store, server, Answers(count=2), source_of(store, tmp_path, 1100))
    assert sent_by(server) == 2200
    assert read_artifact(store, after).slice(0, 1000) == read_artifact(store, before)
    assert after.rows == 1100


def test_a_changed_parser_sends_nothing_and_a_changed_prompt_everything(
    store: Store, tmp_path: Path, server: ChatServer
) -> None:
    source = source_of(store, tmp_path, 50)
    shouted = make(store, server, Shout(), source)
    assert sent_by(server) == 50
    titled = make(store, server, ParsedOtherwise(), source)
    assert sent_by(server) == 50
    assert titled.key != shouted.key
    assert read_artifact(store, titled)["prompt"][0].as_py().istitle()
    make(store, server, Shout(ask="Please shout: "), source)
    assert sent_by(server) == 100
    make(store, server, Shout(sampling=Sampling(seed=1)), source)
    assert sent_by(server) == 150


def test_a_sealed_artifact_needs_no_engine(store: Store, tmp_path: Path, server: ChatServer) -> None:
    source = source_of(store, tmp_path, 20)
    made = make(store, server, Shout(), source)
    gone = EngineSettings.model_validate("openai:local-model@http://127.0.0.1:9/v1")
    planned = Planned(Shout(), {"student": gone}, source.key)
    assert planned.sealed(store, source) == made
    with in_process(store) as pool:
        assert run_stage(store, planned, source, pool, "run") == made


@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_part_is_made_again_from_its_answers(
    store: Store, tmp_path: Path, server: ChatServer, matrix: Matrix, which: int
) -> None:
    source = source_of(store, tmp_path, 20, rows_per_part=10)
    made = make(store, server, Shout(), source)
    path = store.root / made.parts[which].file
    path.write_bytes(path.read_bytes()[:-7] + b"garbage")
    again = make(store, server, Shout(), source)
    assert [part.content for part in again.parts] == [part.content for part in made.parts]
    assert sent_by(server) == 20
    if which == 0:
        matrix("a damaged part", "made again from its answers by the next run", "20 = 20 + 0", 0, 0)


def test_an_artifact_over_a_source_that_was_made_otherwise_is_not_trusted(
    store: Store, tmp_path: Path, server: ChatServer
) -> None:
    source = source_of(store, tmp_path, 5)
    first = make(store, server, Shout(), source)
    second = make(store, server, Answers(count=1), first)
    [part] = first.parts
    other = first.model_copy(update={"parts": (part.model_copy(update={"content": "otherwise"}),)})
    planned = Planned(Answers(count=1), {"student": EngineSettings.model_validate(server.spec)}, first.key)
    assert planned.sealed(store, first) == second
    assert planned.sealed(store, other) is None


def test_rows_are_conserved_and_drops_counted(store: Store, tmp_path: Path, server: ChatServer) -> None:
    rows = [*prompts(30), {"id": "long", "prompt": "long " * 6000}]
    source = ingest(store, SourceSettings(path=str(write_jsonl(tmp_path / "in.jsonl", rows))), 10, "run")
    made = make(store, server, Shout(), source)
    assert (made.rows_in, made.rows, made.dropped) == (31, 30, {"context_overflow": 1})


def test_an_engine_that_dies_stops_the_stage_and_the_next_run_continues(
    store: Store, tmp_path: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(store, tmp_path, 40)
    monkeypatch.setattr("synthmill.tasks.engines.waits.BACKOFF_S", 0.01)
    dead = {"spec": server.spec, "retries": 2, "concurrency": 4}
    server.set(fail_on="question 7:")
    planned = Planned(Shout(), {"student": EngineSettings.model_validate(dead)}, source.key)
    with in_process(store) as pool:
        made = run_stage(store, planned, source, pool, "run")
    assert made.dropped == {"engine_error": 1}  # a request that fails beside others that do not is its row's loss
    server.set(fail_on="", forget=1)
    with in_process(store) as pool:
        tried_again = run_stage(store, planned, source, pool, "run")
    assert (tried_again.rows, server.stats()["total"]) == (39, 0)  # another try of the same run is no second chance
    with in_process(store, "next") as pool:
        again = run_stage(store, planned, source, pool, "next")
    assert (again.rows, server.stats()["total"]) == (40, 1)  # what an engine lost is asked again by the next run
    stage = Shout(sampling=Sampling(seed=9))
    server.set(forget=1, fail_every=1, fail_status=500)
    with in_process(store) as pool:
        planned = Planned(stage, {"student": EngineSettings.model_validate(dead)}, source.key)
        with pytest.raises(EngineError, match=r"does not answer .HTTP 500"):
            run_stage(store, planned, source, pool, "run")
        server.set(forget=1, fail_every=0)
        assert run_stage(store, planned, source, pool, "run").rows == 40  # the same pool, as Prefect's retry has it


def test_a_server_that_dies_near_the_end_loses_no_row(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything in flight was sent before the last good answer; that must not make it the rows' fault."""
    monkeypatch.setattr("synthmill.tasks.engines.waits.BACKOFF_S", 0.01)
    source = source_of(store, tmp_path, 32)
    with chat_server("--latency-ms", "300", "--sigma", "1") as url:
        seen = ChatServer(url)
        settings = EngineSettings.model_validate({"spec": seen.spec, "concurrency": 32, "retries": 2})
        planned = Planned(Shout(), {"student": settings}, source.key)

        def die(progress: Any) -> None:
            if progress.rows >= 5:
                os.kill(int(seen.stats()["pid"]), signal.SIGKILL)

        with in_process(store) as pool, pytest.raises(EngineError, match="does not answer"):
            run_stage(store, planned, source, pool, "run", die)
    assert not list((store.root / "parts" / "shout").rglob("*.json"))


def test_a_frame_stage_names_the_columns_it_misses(store: Store, tmp_path: Path, server: ChatServer) -> None:
    with pytest.raises(InputError, match="stage pairs needs the columns answers, rewards; found id"):
        make(store, server, MaxMinPairs(), source_of(store, tmp_path, 5))


class Twice(FrameStage):
    """A stage over the whole set that makes two rows of each, in parts of three, and drops what it is told to."""

    name: ClassVar = "twice"
    version: ClassVar = "1"
    whole: ClassVar = True
    gone: str = ""

    def parts_begin(self, made: pa.Table) -> list[int]:
        return list(range(0, made.num_rows, 3)) or [0]

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        kept = frame.filter(pl.col("id") != self.gone).select("id", "prompt")
        twice = kept.with_columns(copy=pl.lit([0, 1], dtype=pl.List(pl.Int64))).explode("copy")
        made = twice.with_columns(id=pl.format("{}-{}", "id", "copy"), parent_id="id").drop("copy")
        return made, [Dropped(id=row, reason="told_to") for row in frame["id"] if row == self.gone]


def test_a_stage_over_the_whole_set_may_make_several_parts(store: Store, tmp_path: Path, server: ChatServer) -> None:
    source = source_of(store, tmp_path, 4)
    made = make(store, server, Twice(gone="row-1"), source)
    assert [(part.rows_in, part.rows, part.dropped) for part in made.parts] == [(3, 3, {"told_to": 1}), (1, 3, {})]
    assert (made.rows_in, made.rows, made.dropped) == (4, 6, {"told_to": 1})
    assert read_artifact(store, made)["parent_id"].to_pylist() == [f"row-{n}" for n in (0, 0, 2, 2, 3, 3)]
    # what follows is spread over the parts, and a source that grew leaves the first ones as they were
    after = make(store, server, Shout(), made)
    assert [part.rows for part in after.parts] == [3, 3]
    longer = make(store, server, Twice(gone="row-1"), source_of(store, tmp_path, 6))
    sent = sent_by(server)
    again = make(store, server, Shout(), longer)
    assert again.parts[0].key == after.parts[0].key
    assert sent_by(server, sent) == 2  # two new prompts, each in two equal rows


def test_a_stage_over_the_whole_set_may_make_nothing(store: Store, tmp_path: Path, server: ChatServer) -> None:
    made = make(store, server, Twice(gone="row-0"), source_of(store, tmp_path, 1))
    assert [(part.rows_in, part.rows, part.dropped) for part in made.parts] == [(1, 0, {"told_to": 1})]


def test_the_reasons_of_drops_are_those_of_the_rows_as_they_are_now(
    store: Store, tmp_path: Path, server: ChatServer
) -> None:
    for prompt, reason in (("Why?", "too_short"), ("You are a pirate. Why do rivers bend?", "persona")):
        file = write_jsonl(tmp_path / "in.jsonl", [*prompts(3), {"id": "b", "prompt": prompt}])
        source = ingest(store, SourceSettings(path=str(file)), 256, "run")
        made = make(store, server, FilterInstructions(), source)
        assert made.dropped == {reason: 1}
        assert [row.reason for seal in made.parts for row in read_dropped(store, seal)] == [reason]

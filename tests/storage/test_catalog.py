"""The catalog: every artifact is a view, every call a row, and any client can read it while it is swapped."""

import os
import shutil
from pathlib import Path

import duckdb
import pytest

from synthmill.schemas.errors import InputError
from synthmill.schemas.settings import EngineSettings, SourceSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.catalog import query, rebuild
from synthmill.storage.runs import StageRun, new_run, runs, summary, write_run
from synthmill.tasks.generators.answers import Answers
from synthmill.tasks.running.job import Planned
from synthmill.tasks.running.stages import ingest, run_stage
from tests.conftest import ChatServer, write_jsonl
from tests.tasks.stages import in_process


@pytest.fixture
def filled(tmp_path: Path, store: Store, server: ChatServer) -> Store:
    rows = [{"id": str(n), "prompt": f"question {n}"} for n in range(6)] + [
        {"id": "x", "prompt": "long " * 10_000},
        {"prompt": None},
    ]
    source = ingest(store, SourceSettings(path=str(write_jsonl(tmp_path / "in.jsonl", rows))), 4, "run-1")
    roles = {"student": EngineSettings.model_validate(server.spec)}
    with in_process(store, "run-1") as pool:
        made = run_stage(store, Planned(Answers(count=2), roles, source.key), source, pool, "run-1")
    record = new_run("sample", {"a": 1})
    write_run(store, record.model_copy(update={"stages": (StageRun.of(made, {}, 1.0),), "status": "finished"}))
    rebuild(store)
    return store


def fetched(store: Store, sql: str) -> list[tuple[object, ...]]:
    return query(store, sql)[1]


def test_artifacts_drops_lineage_calls_and_spend_are_tables(filled: Store) -> None:
    assert fetched(filled, "SELECT count(*), min(len(answers)) FROM answers") == [(6, 2)]
    assert fetched(filled, "SELECT stage, reason, count(*) FROM drops GROUP BY ALL ORDER BY ALL") == [
        ("answers", "too_few_answers", 1),
        ("instructions", "null_prompt", 1),
    ]
    [(artifact, made_from)] = fetched(filled, "SELECT * FROM lineage")
    assert str(artifact).startswith("answers_")
    assert str(made_from).startswith("instructions_")
    assert fetched(filled, "SELECT stage, role, calls, completion_tokens FROM spend") == [
        ("answers", "student", 12, 144)
    ]
    assert fetched(filled, "SELECT count(*) FROM answers, unnest(calls) AS c(key) JOIN calls USING (key)") == [(12,)]
    assert fetched(
        filled, "SELECT json_extract_string(messages, '$[0][1]') FROM calls WHERE sample = 0 ORDER BY 1 LIMIT 1"
    ) == [("question 0",)]
    assert fetched(filled, "SELECT flow, status FROM runs") == [("sample", "finished")]


def test_every_row_leads_back_to_its_input(filled: Store) -> None:
    rows = fetched(
        filled, "SELECT i.id, i.prompt FROM answers a JOIN instructions i ON a.parent_id = i.id ORDER BY i.id"
    )
    assert rows == [(str(n), f"question {n}") for n in range(6)]


def test_the_catalog_can_be_swapped_under_a_reader_and_moved(filled: Store, tmp_path: Path) -> None:
    reader = duckdb.connect(str(filled.catalog), read_only=True)
    rebuild(filled)
    assert reader.sql("SELECT count(*) FROM runs").fetchall() == [(1,)]
    reader.close()
    shutil.move(filled.root, tmp_path / "moved")
    assert fetched(Store(tmp_path / "moved"), "SELECT count(*) FROM answers") == [(6,)]


def test_a_lost_or_damaged_catalog_costs_nothing(filled: Store) -> None:
    filled.catalog.write_bytes(b"nonsense")
    assert fetched(filled, "SELECT count(*) FROM answers") == [(6,)]
    filled.catalog.unlink()
    assert fetched(filled, "SELECT count(*) FROM answers") == [(6,)]


def test_a_lost_part_does_not_take_the_catalog_with_it(filled: Store) -> None:
    next((filled.root / "parts" / "answers").rglob("*.parquet")).unlink()
    rebuild(filled)
    assert fetched(filled, "SELECT count(*) FROM instructions") == [(7,)]
    with pytest.raises(InputError, match="answers"):
        query(filled, "SELECT * FROM answers")


def test_a_damaged_copy_of_the_calls_is_made_again(filled: Store) -> None:
    for copy in (filled.calls / "parquet").glob("*.parquet"):
        copy.write_bytes(copy.read_bytes()[:50])
    rebuild(filled)
    assert fetched(filled, "SELECT count(*) FROM calls") == [(12,)]


def test_the_catalog_is_never_older_than_the_last_run(filled: Store) -> None:
    record = new_run("sample", {})
    os.utime(filled.catalog, (0, 0))
    write_run(filled, record)
    assert fetched(filled, "SELECT count(*) FROM runs") == [(2,)]


def test_wrong_queries_and_places_say_so(filled: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nonsense"):
        query(filled, "SELECT * FROM nonsense")
    with pytest.raises(InputError, match="is no synthmill store"):
        query(Store(tmp_path / "nowhere"), "SELECT 1")


def test_a_summary_is_a_table(filled: Store) -> None:
    [record] = runs(filled)
    text = summary(record)
    assert "1 too_few_answers" in text
    assert text.count("\n| ") == 2

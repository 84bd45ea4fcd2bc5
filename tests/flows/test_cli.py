"""The command line: what it prints, what it writes, and one clear line for every mistake."""

import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from tests.command import ROOT, environment, synthmill
from tests.conftest import ChatServer, prompts, write_jsonl


def loaded(heavy: set[str], code: str, folder: Path, *arguments: str) -> set[str]:
    """Which of the heavy modules a process has loaded after `code`, with the command line's arguments."""
    run = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)", *arguments],
        capture_output=True,
        text=True,
        env=environment(folder),
        cwd=folder,
        check=True,
    )
    return heavy.intersection(run.stderr.splitlines()[-1].split())


RUN_COMMAND = "from synthmill.flows.cli import run_command; assert run_command(sys.argv[1:]) == 0"
HEAVY = {"prefect", "ray", "torch", "vllm", "transformers", "sentence_transformers"}
NOT_FOR_HELP = HEAVY | {"polars", "pyarrow", "duckdb", "numpy", "aiohttp", "pydantic", "datasets", "numba", "jinja2"}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["sample", "--help"], ["pairs", "--help"], ["dedup", "--help"]])
def test_import_and_help_load_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    assert not loaded(NOT_FOR_HELP, RUN_COMMAND if arguments else "import synthmill", tmp_path, *arguments)


def test_commands_on_a_small_file_load_no_workers_and_no_models(tmp_path: Path) -> None:
    pools = [{"id": n, "prompt": f"Why {n}?", "answers": ["Because.", "So."], "rewards": [n, 9]} for n in range(9)]
    write_jsonl(tmp_path / "pools.jsonl", pools)
    write_jsonl(tmp_path / "prompts.jsonl", [*prompts(9), *prompts(2)])
    pairs = ("pairs", "pools.jsonl", "--rule", "max-min", "--out", "pairs.jsonl")
    assert not loaded(HEAVY | {"polars", "duckdb"}, RUN_COMMAND, tmp_path, *pairs)
    layers = ("--layers", "exact,words", "--workers", "0")
    assert not loaded(HEAVY | {"duckdb"}, RUN_COMMAND, tmp_path, "dedup", "prompts.jsonl", *layers, "--out", "u.jsonl")
    assert pl.read_ndjson(tmp_path / "pairs.jsonl").height == 9
    assert pl.read_ndjson(tmp_path / "u.jsonl")["kept"].sum() == 9


@pytest.mark.parametrize("command", ["", "run", "sample", "ls", "show", "sql", "calls", "doctor"])
def test_every_command_has_help(command: str, tmp_path: Path) -> None:
    out, _ = synthmill(*command.split(), "--help", cwd=tmp_path)
    assert out.startswith("Usage: ")


def test_sample_answers_continues_and_asks_only_for_what_is_new(tmp_path: Path, server: ChatServer) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(20))
    sample = ("sample", "in.jsonl", "--engine", server.spec, "-n", 3, "--out")
    _, err = synthmill(*sample, "out.jsonl", cwd=tmp_path)
    assert "60 answers to 20 prompts -> out.jsonl (60 calls sent, 720 tokens" in err
    rows = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [(row["id"], row["answer_index"]) for row in rows] == [(f"row-{n}", i) for n in range(20) for i in range(3)]
    assert set(rows[0]) == {"id", "answer_index", "prompt", "system", "answer", "finish_reason", "completion_tokens"}
    write_jsonl(tmp_path / "in.jsonl", prompts(25))
    _, err = synthmill(*sample, "out.parquet", cwd=tmp_path)
    assert "(15 calls sent" in err
    assert pl.read_parquet(tmp_path / "out.parquet").height == 75
    _, err = synthmill(*sample, "out.jsonl.gz", cwd=tmp_path)
    assert "(0 calls sent" in err
    assert gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()).startswith((tmp_path / "out.jsonl").read_bytes())
    assert server.stats()["total"] == 75


def test_sample_uses_the_first_turn_and_says_what_it_did_not_use(tmp_path: Path, server: ChatServer) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function"}]}
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    chats = [[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Why?"}, call], [picture]]
    write_jsonl(tmp_path / "in.jsonl", [{"id": n, "messages": chat} for n, chat in enumerate(chats)])
    _, err = synthmill("sample", "in.jsonl", "--engine", server.spec, "--out", "out.jsonl", cwd=tmp_path)
    assert "1 rows have other turns or messages: the first user turn was used" in err
    assert "1 rows could not be read: 1 image_url in content" in err
    [row] = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert (row["system"], row["prompt"]) == ("Be brief.", "Why?")


def test_sample_says_what_a_filter_broke_off_also_when_nothing_is_asked(tmp_path: Path, server: ChatServer) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(4))
    server.set(fail_every=2, fail_how="filtered")
    for _ in range(2):
        _, err = synthmill("sample", "in.jsonl", "--engine", server.spec, "--out", "out.jsonl", cwd=tmp_path)
        assert "2 of 4 answers were broken off by a content filter" in err
    assert server.stats()["total"] == 4


def test_what_prints_a_table_prints_json(tmp_path: Path, server: ChatServer) -> None:
    write_jsonl(tmp_path / "in.jsonl", [*prompts(4), {"prompt": None}])
    synthmill("sample", "in.jsonl", "--engine", server.spec, "--out", "out.jsonl", cwd=tmp_path)

    def read(*command: str) -> Any:
        return orjson.loads(synthmill(*command, "--json", cwd=tmp_path)[0])

    assert [run["flow"] for run in read("ls")["runs"]] == ["sample"]
    assert {artifact["rows"] for artifact in read("ls")["artifacts"]} == {4}
    shown = read("show", "instructions", "--rows", "2")
    assert (len(shown["first_rows"]), shown["first_dropped"][0]["reason"]) == (2, "null_prompt")
    way = read("show", read("sql", "SELECT id FROM answers LIMIT 1")[0]["id"])["steps"]
    assert [step["artifact"].partition("_")[0] for step in way] == ["instructions", "answers"]
    assert way[1]["calls"][0]["engine"] == "openai:local-model"
    assert read("calls")["all"]["calls"] == 4
    assert read("verify")["whole"] is True and read("gc") == []
    assert read("doctor")["engines"]["minilm (embedder)"]["works"] is True
    assert {"stage", "takes", "settings"} < read("stages", "ask").keys() and len(read("stages")) > 50


def test_looking_at_a_store(tmp_path: Path, server: ChatServer) -> None:
    write_jsonl(tmp_path / "in.jsonl", [*prompts(4), {"prompt": None}])
    synthmill("sample", "in.jsonl", "--engine", server.spec, "--out", "out.jsonl", cwd=tmp_path)
    out, _ = synthmill("ls", cwd=tmp_path)
    assert "sample" in out
    assert "answers_" in out
    out, _ = synthmill("show", "answers", cwd=tmp_path)
    assert 'engines: {"student":"openai:local-model"}' in out
    assert "made from: instructions_" in out
    out, _ = synthmill("show", "instructions", cwd=tmp_path)
    assert "line-5: null_prompt" in out
    out, _ = synthmill("sql", "SELECT count(*) AS n FROM answers", "--csv", cwd=tmp_path)
    assert out.split() == ["n", "4"]
    out, _ = synthmill("calls", cwd=tmp_path)
    assert "openai:local-model" in out
    _, err = synthmill("calls", "--record", "recording", cwd=tmp_path)
    assert "4 answers -> recording" in err
    sent = server.stats()["total"]
    replayed = ("sample", "in.jsonl", "--engine", "replay:recording", "--store", "other", "--out", "again.jsonl")
    synthmill(*replayed, cwd=tmp_path)
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    assert server.stats()["total"] == sent
    out, _ = synthmill("sql", "SELECT [1, 2] AS a, NULL AS b", "--csv", cwd=tmp_path)
    assert out == 'a,b\n"[1,2]",\n'
    _, err = synthmill("sql", "SELECT error('as told')", cwd=tmp_path, expect=2)
    assert "as told" in err
    _, err = synthmill("show", "nothing", cwd=tmp_path, expect=2)
    assert "has no artifact and no row 'nothing'; `synthmill ls` shows" in err
    _, err = synthmill("ls", "--store", "elsewhere", cwd=tmp_path, expect=2)
    assert "is no synthmill store" in err


def test_a_path_that_is_not_utf_8_is_one_clear_line(tmp_path: Path) -> None:
    foreign = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    foreign.mkdir()
    write_jsonl(foreign / "in.jsonl", prompts(1))
    write_jsonl(tmp_path / "in.jsonl", prompts(1))
    engine = ("--engine", ENGINE)
    commands = [
        (tmp_path, "sample", foreign / "in.jsonl", *engine, "--out", "o.jsonl"),
        (tmp_path, "sample", "in.jsonl", *engine, "--out", foreign / "o.jsonl"),
        (tmp_path, "sample", "in.jsonl", *engine, "--out", "o.jsonl", "--store", foreign / "store"),
        (foreign, "sample", "in.jsonl", *engine, "--out", "o.jsonl"),
        (foreign, "ls"),
    ]
    for folder, *command in commands:
        _, err = synthmill(*command, cwd=folder, expect=2, PREFECT_HOME=str(tmp_path))
        [line] = err.splitlines()
        assert line.startswith("error: ") and "caf\\xe9" in line and "is not UTF-8; rename it" in line


def test_doctor_says_what_works(tmp_path: Path) -> None:
    out, _ = synthmill("doctor", cwd=tmp_path)
    assert "prefect" in out
    assert "llamacpp:SmolLM2-135M-Instruct" in out
    assert "OPENAI_API_KEY is not set" in out


ENGINE = "openai:m@http://127.0.0.1:9/v1"
MISTAKES = [
    (("sample", "in.jsonl", "--engine", "gpt", "--out", "o.jsonl"), 2, "no engine is called 'gpt'"),
    (("sample", "in.jsonl", "--engine", ENGINE, "--out", "o.txt"), 2, "o.txt has an unknown ending"),
    (("sample", "no.jsonl", "--engine", ENGINE, "--out", "o.jsonl"), 2, "no.jsonl is not there"),
    (("sample", "in.jsonl", "--engine", ENGINE, "--prompt-column", "text", "--out", "o.jsonl"), 2, "no column 'text'"),
    (("sample", "in.jsonl", "--engine", ENGINE, "--store", "in.jsonl", "--out", "o.jsonl"), 1, "in.jsonl is a file"),
    (("sample", "in.jsonl", "--engine", "llamacpp:no.gguf", "--out", "o.jsonl"), 2, "there is no file"),
    (("sample", "in.jsonl", "--engine", "http://127.0.0.1:9/v1", "--out", "o.jsonl"), 1, "does not answer"),
    (("sample", "in.jsonl", "--engine", ENGINE, "--temperature", "nan", "--out", "o.jsonl"), 2, "temperature: "),
    (("sample", "in.jsonl", "--engine", ENGINE, "--seed", 1 << 80, "--out", "o.jsonl"), 2, "seed: "),
    (("sample", "in.jsonl", "--engine", ENGINE, "--out", "in.jsonl"), 2, "is the input, too"),
    (("sample", "in.jsonl", "--engine", ENGINE, "--out", "no/where/o.jsonl"), 2, "cannot be written"),
    (("run", "synthesize", "--set", "source=2024-13-45"), 2, "2024-13-45 has an unknown ending"),
    (("sql", "SELECT error('x')"), 2, "is no synthmill store"),
    (("sample", "in.jsonl", "--out", "o.jsonl"), 2, "Missing option '--engine'"),
    (("run", "synthesize", "--set", "sauce=1"), 2, "sauce: no such setting"),
    (("run", "synthesize", "--set", "source"), 2, "is not KEY=VALUE"),
    (("run", "synthesize", "--config", "no.yaml"), 2, "no.yaml is not there"),
    (("run", "synthesize", "--set", "source=in.jsonl", "--set", "embedder=no/such/place"), 2, "there is no embedder"),
    (
        ("run", "synthesize", "--set", "source=in.jsonl", "--set", f"engines.teacher={ENGINE}", "--dry-run"),
        1,
        "does not answer",
    ),
]


@pytest.mark.parametrize(("arguments", "code", "says"), MISTAKES, ids=lambda value: None)
def test_mistakes_get_one_clear_line_before_any_call(
    arguments: tuple[str, ...], code: int, says: str, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(2))
    _, err = synthmill(*arguments, cwd=tmp_path, expect=code)
    assert says in err
    assert "Traceback" not in err


def test_a_run_in_which_every_row_fails_ends_non_zero(tmp_path: Path, server: ChatServer) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{"prompt": "long " * 10_000}])
    _, err = synthmill("sample", "in.jsonl", "--engine", server.spec, "--out", "o.jsonl", cwd=tmp_path, expect=1)
    assert "1 rows could not be answered: 1 context_overflow" in err
    assert "every row failed" in err


def test_the_demo_passes_its_dry_run(tmp_path: Path) -> None:
    demo = ("run", "preferences", "--config", "examples/demo/preferences.yaml", "--store", tmp_path / "s")
    out, _ = synthmill(*demo, "--dry-run", cwd=ROOT)
    assert "12 questions, 0 rows cannot be read" in out
    assert "Nothing was asked" in out
    assert not list((tmp_path / "s" / "calls").iterdir())


def test_every_setting_is_listed_with_its_default_and_meaning(tmp_path: Path) -> None:
    out, _ = synthmill("run", "synthesize", "--settings", cwd=tmp_path)
    for setting in ("source.path", "engines.ROLE.concurrency", "answers.count", "rows_per_part", "seed"):
        assert setting in out

"""Sessions and functions on frames: the same keys as flows and commands, and what happens when things go wrong."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import datasets
import orjson
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import synthmill
from synthmill import InputError, Sampling, Session, Stopped
from synthmill import stages as s
from synthmill.flows.methods import method
from synthmill.schemas.errors import LimitReached
from synthmill.schemas.settings_files import read_settings
from synthmill.storage.runs import find_run, runs
from tests.command import environment
from tests.command import synthmill as command
from tests.conftest import ChatServer, prompts, write_jsonl
from tests.flows.test_session import surroundings

SAMPLING = Sampling(temperature=0.8, top_p=0.95, max_tokens=1024)
CUTS = ("rip", "sweet-spot")
ANSWERS = s.PoolAnswers(sampling=SAMPLING, policies=("student",), count=4)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of six prompts with a column of the user's, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return write_jsonl(tmp_path / "in.jsonl", [{**row, "topic": f"topic {row['id']}"} for row in prompts(6)])


def open_session(server: ChatServer, **settings: Any) -> Session:
    return Session("store", engines={"teacher": server.spec}, progress=False, **settings)


def test_a_session_finds_what_a_flow_made(source: Path, server: ChatServer) -> None:
    settings = {
        "source": "in.jsonl",
        "store": "store",
        "engines": {"teacher": server.spec},
        "seed": 1,
        "answers": {"count": 4},
        "cuts": CUTS,
        "dedup": {"layers": ["exact"]},
    }
    record = synthmill.run("preferences", settings)
    assert record.status == "finished" and Path(record.dataset).is_dir()
    asked = server.stats()["total"]
    assert asked == 24
    with open_session(server, seed=1) as session:
        questions = session.read("in.jsonl", kind="questions")
        scored = session.make(questions, ANSWERS, s.R3Scores())
        signs = session.make(scored, s.PoolSigns(reward="r3"))
        pairs = session.make(scored, s.PoolPairs(cuts=CUTS, reward="r3", signs=signs))
    keys = {step.step_id: step.key for step in record.stages}
    assert [made.key for made in (questions, scored, signs, pairs)] == [
        keys[step] for step in ("questions", "r3_scores", "pool_signs", "pool_pairs")
    ]
    assert server.stats()["total"] == asked and pairs.spent == {}
    again = synthmill.run("preferences", settings)
    assert again.id == record.id and server.stats()["total"] == asked


def test_a_flow_and_a_command_find_what_a_session_made(source: Path, server: ChatServer) -> None:
    with open_session(server, seed=3) as session:
        made = session.make(session.read("in.jsonl", kind="prompts"), s.Answers(sampling=SAMPLING, count=2))
        pools = session.make(session.read("in.jsonl", kind="questions"), ANSWERS, s.R3Scores())
    assert server.stats()["total"] == 12 + 24 - 12  # the second stage's first answers are the first's
    asked = server.stats()["total"]
    _, err = command(
        *("sample", "in.jsonl", "--engine", server.spec, "-n", 2, "--seed", 3, "--out", "out.jsonl"), cwd=source.parent
    )
    assert "0 calls sent: all made before" in err and server.stats()["total"] == asked
    engines = {"teacher": {"spec": server.spec}}
    settings = {"source": "in.jsonl", "engines": engines, "seed": 3, "answers": {"count": 4}, "cuts": ["max-min"]}
    plan = method("preferences").plan(read_settings(method("preferences").settings, None, settings))
    assert pools.key in [step.key for step in plan.stages] and made.rows == 6


def test_a_pipelines_file_makes_what_a_session_makes(source: Path, server: ChatServer) -> None:
    steps = {
        "answers": {"stage": "answer_pool", "count": 4, **SAMPLING.model_dump(include={"temperature", "top_p"})},
        "r3": {"stage": "r3_scores"},
        "pairs": {"stage": "pool_pairs", "cuts": list(CUTS), "reward": "r3"},
    }
    settings = {"source": "in.jsonl", "engines": {"teacher": server.spec}, "seed": 1, "steps": steps}
    plan = method("pipeline").plan(read_settings(method("pipeline").settings, None, settings))
    with open_session(server, seed=1) as session:
        pools = session.make("in.jsonl", ANSWERS)
        scored = session.make(pools, s.R3Scores(), step="r3")
        pairs = session.make(scored, s.PoolPairs(cuts=CUTS, reward="r3"))
    assert [step.key for step in plan.stages] == [pools.key, scored.key, pairs.key]
    asked = server.stats()["total"]
    Path("mine.yaml").write_bytes(orjson.dumps(settings))
    record = synthmill.run("mine.yaml")
    assert record.flow == "mine" and record.stages[-1].key == pairs.key and server.stats()["total"] == asked


def test_what_a_session_does_step_by_step(source: Path, server: ChatServer) -> None:
    before = surroundings()
    with open_session(server, seed=1) as session:
        rows = session.read("in.jsonl")
        stages = (ANSWERS, s.R3Scores(), s.PoolPairs(cuts=CUTS, reward="r3"))
        plan = session.plan(rows, *stages)
        assert plan["step"].to_list() == ["answer_pool", "r3_scores", "pool_pairs"] and not plan["made"].any()
        assert plan["calls"].to_list() == [24, 0, 0] and server.stats()["total"] == 0
        pools = session.make(rows, ANSWERS)
        assert pools.spent["student"]["sent"] == 24 and pools.rows == 6 and pools.dropped == {}
        pairs = session.make(pools, *stages[1:])
        assert plan["key"].to_list()[-1] == pairs.key
        assert session.plan(rows, *stages)["made"].all()
        frame = pairs.frame()
        assert set(frame["topic"]) == {f"topic row-{n}" for n in range(6)}  # the user's own column
        assert pairs.frame(["cut"]).columns == ["cut"] and "calls" not in frame.columns
        assert "pool_pairs: 12 rows, dropped: none" in repr(pairs) and "<table" in pairs._repr_html_()
        assert session.make(rows, ANSWERS).key == pools.key and server.stats()["total"] == 24
        second = session.make(pools, s.R3Scores(label="length", form="open-ended"), step="again")
        assert second.step == "again" and second.stage == "r3_scores"
    [record] = runs(session.store)
    steps = [step.step_id for step in record.stages]
    assert steps == ["rows", "answer_pool", "r3_scores", "pool_pairs", "again"]
    assert record.status == "finished" and record.flow == "session" and record.settings["steps"]["pool_pairs"]
    assert surroundings() == before
    assert pairs.frame().height == 12  # rows outlive the session


def sources_of(folder: Path) -> dict[str, Any]:
    rows = [{"id": f"row-{n}", "prompt": f"question {n}", "level": n} for n in range(3)]
    frame = pl.DataFrame(rows)
    frame.write_parquet(folder / "rows.parquet")
    frame.write_csv(folder / "rows.csv")
    return {
        "a path": folder / "rows.parquet",
        "a text": str(write_jsonl(folder / "rows.jsonl", rows)),
        "CSV": folder / "rows.csv",
        "polars": frame,
        "lazy": frame.lazy(),
        "categories": frame.with_columns(pl.col("prompt").cast(pl.Categorical)),
        "pandas": pd.DataFrame(rows),
        "Arrow": pa.Table.from_pylist(rows),
        "dicts": rows,
        "datasets": datasets.Dataset.from_list(rows),
        "some of datasets": datasets.Dataset.from_list([{"id": "x", "prompt": "x", "level": 9}, *rows]).select(
            [1, 2, 3]
        ),
    }


def test_every_form_of_a_source_is_the_same_rows(tmp_path: Path) -> None:
    with Session(tmp_path / "store", progress=False) as session:
        made = {form: session.read(source) for form, source in sources_of(tmp_path).items()}
        for form, rows in made.items():
            frame = rows.frame()
            assert frame.columns == ["id", "prompt", "level"] and rows.rows == 3, form
            assert frame["prompt"].to_list() == [f"question {n}" for n in range(3)], form
            if form not in ("CSV",):
                assert frame["level"].to_list() == [0, 1, 2], form
            assert rows.carried == {"prompt", "level"}, form
        memory = {rows.key for form, rows in made.items() if form not in ("a path", "a text", "CSV")}
        assert len(memory) == 1


def test_ids_are_made_and_double_rows_counted(tmp_path: Path) -> None:
    with Session(tmp_path / "store", progress=False) as session:
        rows = session.read([{"text": "a"}, {"text": "b"}, {"text": "a"}])
        assert (rows.rows, rows.dropped) == (2, {"duplicate_id": 1})
        assert rows.frame()["id"].str.len_chars().to_list() == [24, 24]
        assert rows.drops()["reason"].to_list() == ["duplicate_id"]
        file = session.read(write_jsonl(tmp_path / "rows.jsonl", [{"text": "a"}, {"text": "b"}]))
        assert file.frame()["id"].to_list() == rows.frame()["id"].to_list()  # the same ids as of a file
        numbers = session.read(pd.DataFrame({"key": [1.0, None], "text": ["a", "b"]}), id_column="key")
        assert numbers.frame()["id"][0] == "1" and numbers.columns.names == ["id", "text"]
        binary = session.read([{"x": b"\xff"}, {"x": b"\xfe"}, {"x": b"\xff"}])
        assert binary.rows == 2 and binary.dropped == {"duplicate_id": 1}
        assert session.read([{"id": 1, "parent_id": "p", "x": None}]).columns.names == ["id", "source_parent_id", "x"]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("absent.jsonl", {}, "absent.jsonl is not there"),
        ("in.jsonl", {"kind": "chats"}, "no kind of rows is called 'chats'; expected one of instructions, questions"),
        ("in.jsonl", {"columns": 1}, "columns: no such setting"),
        ([{"x": 1}], {"kind": "prompts"}, "kind='prompts' is a way to read files; a table in memory is taken as it is"),
        ([{"x": 1}], {"prompt_column": "x"}, "prompt_column means nothing to a table in memory"),
        ([], {}, "the table in memory has no rows"),
        ([1], {}, "row 0 is int; expected a dict of columns"),
        ([{"x": 1}, {"x": "a"}], {}, "the column 'x' holds values of different types"),
        (5, {}, "found int; expected a path, a frame of polars or pandas"),
        (datasets.DatasetDict({"train": datasets.Dataset.from_list([{"x": 1}])}), {}, "a DatasetDict with the splits"),
        (pd.DataFrame({"x": [1, "a"]}), {}, "a column holds values of different types"),
    ],
)
def test_sources_that_cannot_be_read(source: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    if isinstance(source, str) and source == "in.jsonl":
        source = write_jsonl(tmp_path / "in.jsonl", prompts(1))
    with (
        Session(tmp_path / "store", progress=False) as session,
        pytest.raises(InputError, match=message.replace("(", r"\(")),
    ):
        session.read(source, **options)


def test_wrong_stages_are_named_before_anything_is_asked(source: Path, server: ChatServer) -> None:
    with open_session(server) as session:
        texts = session.read([{"text": "a"}])
        for made, stages, message in (
            (texts, [ANSWERS],
             r"answer_pool takes prompts \(id, prompt\), and rows has rows \(id, text\): prompt is missing"),
            ("in.jsonl", [ANSWERS, s.PoolPairs(cuts=CUTS, reward="r3"), s.R3Scores()],
             r"r3_scores takes pools .*, and pool_pairs has preferences .*: reference, answers, scores are missing"),
            (texts, [], "there is no stage to make"),
            (texts, [s.R3Scores], r"expected R3Scores\(...\), from synthmill.stages"),
            (texts, ["r3"], "found 'r3'; expected a stage with its settings"),
        ):  # fmt: skip
            with pytest.raises(InputError, match=message):
                session.make(made, *stages)
        with Session("other", progress=False) as other, pytest.raises(InputError, match=r"is in the store .*other"):
            session.make(other.read([{"prompt": "a"}]), ANSWERS)
        assert server.stats()["total"] == 0
    with pytest.raises(InputError, match=r"this session has ended; make another one, Session\("):
        session.read("in.jsonl")
    with pytest.raises(InputError, match="no engine is called 'gpt'"):
        Session("store", engines={"teacher": "gpt"})
    with pytest.raises(InputError, match="name is 'a/b'"):
        Session("store", name="a/b")
    session = Session("store", engines={"judge": server.spec}, progress=False)
    with session, pytest.raises(InputError, match="no engine is given for the role student"):
        session.make("in.jsonl", ANSWERS)
    assert [record.status for record in runs(session.store)][-1] == "failed"


def test_an_engine_is_looked_at_before_it_is_asked(
    source: Path, server: ChatServer, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = server.spec.replace("local-model", "another")
    with Session("store", engines={"teacher": spec}, progress=False) as session:
        session.make("in.jsonl", ANSWERS)
    assert "does not list 'another'; it lists local-model; asking anyway" in capsys.readouterr().err


def test_a_budget_ends_a_session_and_a_larger_one_goes_on(source: Path, server: ChatServer) -> None:
    with open_session(server, budget={"requests": 10}) as session, pytest.raises(LimitReached, match="budget is spent"):
        session.make("in.jsonl", ANSWERS)
    assert server.stats()["total"] == 10
    assert find_run(session.store, next(iter(runs(session.store))).id).status == "stopped"
    with open_session(server, budget={"requests": 24}) as session:
        assert session.make("in.jsonl", ANSWERS).rows == 6
    assert server.stats()["total"] == 24
    with open_session(server, budget={"money": 1.0}) as session, pytest.raises(InputError, match="needs a price of"):
        session.make("in.jsonl", ANSWERS.model_copy(update={"count": 5}))


def test_ctrl_c_keeps_what_was_answered_and_the_session_goes_on(source: Path, server: ChatServer) -> None:
    before = surroundings()
    server.set(latency_ms=300)

    def interrupt() -> None:
        while not server.stats()["total"]:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    stage = ANSWERS.model_copy(update={"count": 40})
    with open_session(server) as session:
        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        with pytest.raises(Stopped):
            session.make("in.jsonl", stage)
        interrupting.join()
        assert signal.getsignal(signal.SIGINT) is before["signals"][0]
        answered = server.stats()["total"]
        assert 0 < answered < 240
        server.set(latency_ms=2)
        made = session.make("in.jsonl", stage)
        assert made.rows == 6 and server.stats()["total"] == 240
    assert surroundings() == before


def test_a_session_that_nobody_closes_is_closed(source: Path, server: ChatServer) -> None:
    before = surroundings()
    session = open_session(server)
    store = session.store
    session.make("in.jsonl", ANSWERS)
    del session
    gc.collect()
    assert [record.status for record in runs(store)] == ["finished"] and surroundings() == before
    script = "from synthmill import Session\nsession = Session('store', progress=False)\nsession.read('in.jsonl')\n"
    for more, status in (("", "finished"), ("session.read('absent.jsonl')", "failed")):
        python(script + more, source.parent)
        assert [record.status for record in runs(store)][-1] == status


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment(folder), capture_output=True, text=True
    )


SCRIPT = """
import sys
from synthmill import Sampling, Session, stages as s
with Session("store", engines={"teacher": sys.argv[1]}, seed=1, progress=False, rows_per_part=2) as session:
    pools = session.make("in.jsonl", s.PoolAnswers(policies=("teacher",), count=8))
    pairs = session.make(pools, s.R3Scores(), s.PoolPairs(cuts=("max-min",), reward="r3"))
    session.publish("out", preference=pairs)
"""


@pytest.mark.faults
def test_a_script_that_is_killed_goes_on_where_it_was(source: Path, server: ChatServer) -> None:
    """Nothing is asked twice but what was in flight, and the rows are those of a script that nobody killed."""
    folder = source.parent
    write_jsonl(source, prompts(20))
    (folder / "script.py").write_text(SCRIPT)
    start = [sys.executable, "script.py", server.spec]
    server.set(latency_ms=150)
    engine = {"spec": server.spec, "concurrency": 8}
    (folder / "script.py").write_text(SCRIPT.replace("sys.argv[1]", f"dict({engine!r})"))
    process = subprocess.Popen(start, cwd=folder, env=environment(folder))
    while server.stats()["total"] < 60:
        time.sleep(0.01)
    process.kill()
    process.wait()
    server.set(latency_ms=2)
    done = subprocess.run(start, cwd=folder, env=environment(folder), capture_output=True, text=True)
    assert done.returncode == 0 and "was killed; what it was answered is used" in done.stderr
    assert 160 <= server.stats()["total"] <= 160 + 8
    statuses = [record.status for record in runs(Session("store").store)]
    assert statuses == ["crashed", "finished"]
    rows = datasets.load_dataset(str(folder / "out"), split="train")
    whole = folder / "whole"
    whole.mkdir()
    write_jsonl(whole / "in.jsonl", prompts(20))
    subprocess.run([sys.executable, "../script.py", server.spec], cwd=whole, env=environment(whole), check=True)
    assert rows.to_list() == datasets.load_dataset(str(whole / "out"), split="train").to_list()


def test_publish_writes_what_datasets_reads(source: Path, server: ChatServer) -> None:
    with open_session(server, seed=1) as session:
        pools = session.make(session.read("in.jsonl", license="cc-by-4.0"), ANSWERS, s.R3Scores())
        pairs = session.make(pools, s.PoolPairs(cuts=CUTS, reward="r3"))
        folder = session.publish("out", preference=pairs, pools=pools)
        assert folder == Path("out")
        with pytest.raises(InputError, match="there is nothing to publish"):
            session.publish("out")
        with pytest.raises(InputError, match="colour: no such setting"):
            session.publish("out", preference=pairs, colour="red")
        chats = session.read(
            [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}]
        )
        session.publish("chats", {"sft": chats}, title="Greetings")
        (source.parent / "full").mkdir()
        (source.parent / "full" / "file.txt").write_text("mine")
        with pytest.raises(InputError, match="holds something else"):
            session.publish("full", preference=pairs)
        session.publish("split", preference=pairs, formats=["dpo", "sft"], test=0.5)
    rows = datasets.load_dataset("out", "preference", split="train")
    assert len(rows) == 12 and rows[0]["chosen"][0]["role"] == "assistant" and rows[0]["topic"] == "topic row-0"
    pool_rows = datasets.load_dataset("out", "pools", split="train")
    assert len(pool_rows) == 6 and len(pool_rows[0]["r3"]) == 4 and pool_rows[0]["topic"]
    card = Path("out/README.md").read_text()
    assert "| `in.jsonl` | cc-by-4.0 |" in card and "made in a Python session" in card
    assert "# Greetings" in Path("chats/README.md").read_text() and Path("out/report.html").is_file()
    assert datasets.load_dataset("chats", split="train")[0]["messages"][1]["content"] == "Ho"
    out, _ = command("show", rows[0]["id"], cwd=source.parent)
    assert "question 0" in out and "answer_pool" in out
    out, _ = command("ls", cwd=source.parent)
    assert "pool_pairs" in out
    command("export", "session", "--to", "again", cwd=source.parent)
    assert Path("again/README.md").is_file()


def test_a_session_works_in_a_notebooks_cells(source: Path, server: ChatServer) -> None:
    before = surroundings()

    async def cell() -> Any:
        with open_session(server) as session:
            return session.make("in.jsonl", ANSWERS, s.R3Scores()).rows

    assert asyncio.run(cell()) == 6 and surroundings() == before


POOLS = [
    {"prompt_id": f"p{n}", "prompt": f"question {n}", "answer": f"{'word ' * k}{n} {k}", "reward": float(k)}
    for n in range(4)
    for k in range(5)
]


def test_functions_on_frames() -> None:
    before = surroundings()
    pairs = synthmill.cut(pl.DataFrame(POOLS), "sweet-spot")
    assert pairs.height == 4 and set(pairs["chosen_reward"]) == {4.0}
    assert synthmill.cut(pd.DataFrame(POOLS), {"rule": "top-k", "count": 2}).height == 8
    unscored = [{name: value for name, value in row.items() if name != "reward"} for row in POOLS]
    scored = synthmill.score(unscored, "r3", name="length")
    assert scored.height == 20 and scored.columns == ["prompt_id", "prompt", "answer", "length", "reward"]
    assert synthmill.score(pa.Table.from_pylist(POOLS)).columns[-1] == "r3"
    rows = pl.DataFrame(
        {"id": [7, 8, 9], "prompt": ["Why is the sky blue?", "Why is  the sky blue?", "What is 2 + 2?"]}
    )
    marked = synthmill.dedup(rows, layers=["exact"])
    assert marked["kept"].to_list() == [True, False, True] and marked["duplicate_of"].to_list() == [None, "7", None]
    assert synthmill.dedup(rows.drop("id"), "prompt", layers=["exact"])["duplicate_of"].to_list() == [None, "0", None]
    assert synthmill.dedup(rows)["kept"].sum() == 2
    bench = {"bench": [{"id": "b1", "prompt": "Why is the sky blue?"}]}
    found = synthmill.decontaminate(rows, bench, layers=["words"])
    assert found["contaminated"].to_list() == [True, True, False] and found["benchmark"][0] == "bench"
    assert synthmill.decontaminate(rows, bench, layers=["words"], drop=True)["id"].to_list() == [9]
    corpus = [{"id": "d1", "text": "birds draw circles in the sky"}, {"id": "d2", "text": "a mill by the river"}]
    turns = [{"id": "q1", "history": [], "question": "why do birds draw circles?", "gold": ["d1"]}]
    ranks = synthmill.rank(turns, corpus, "bm25", depth=2)
    assert ranks["rank"].to_list() == [1]
    assert surroundings() == before


def test_functions_on_frames_say_what_is_wrong(server: ChatServer) -> None:
    with pytest.raises(InputError, match="no column"):
        synthmill.cut([{"x": 1}])
    with pytest.raises(InputError, match="the frame has no column 'prompt'; found: x"):
        synthmill.dedup([{"x": 1}])
    with pytest.raises(InputError, match="the scorer judge asks a model; name it with"):
        synthmill.score(POOLS, "judge")
    with pytest.raises(InputError, match="no scorer is called 'nothing'"):
        synthmill.score(POOLS, "nothing")
    with pytest.raises(InputError, match="there is no benchmark"):
        synthmill.decontaminate([{"prompt": "a"}], [])
    with pytest.raises(InputError, match="the frame has no rows"):
        synthmill.cut(pl.DataFrame({"prompt": []}))
    with pytest.raises(InputError, match="layer: no such setting"):
        synthmill.dedup([{"prompt": "a"}], layer="exact")


def test_a_flow_from_python_says_what_is_wrong(tmp_path: Path, server: ChatServer) -> None:
    with pytest.raises(InputError, match=r"'preference' .did you mean preferences\?.; expected one of .*preferences"):
        synthmill.run("preference", {})
    with pytest.raises(InputError, match="found list; expected a mapping, or PreferencesSettings"):
        synthmill.run("preferences", [])  # type: ignore[arg-type]

"""`dedup`, `decontaminate` and `neighbours` on plain files; duplicates, benchmarks and earlier runs in a flow."""

import gzip
import os
import signal
import time
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from synthmill.flows.methods.synthesize import plan as plan_synthesize
from synthmill.schemas.settings_files import read_settings
from synthmill.schemas.synthesize_settings import SynthesizeSettings
from synthmill.storage.artifacts import Store, read_artifact
from synthmill.storage.runs import runs
from tests.command import start, synthmill
from tests.conftest import ChatServer, write_jsonl

ROWS: list[dict[str, Any]] = [
    {"id": "desk", "text": "How do I make a height adjustable desk?", "n": 1},
    {"id": "poem", "text": "Write a short poem about the sea at night for my sister", "n": None},
    {"id": "desk 2", "text": "How can I make a height-adjustable desk?", "n": 2},
    {"id": "none", "text": None, "n": 3},
    {"id": "poem 2", "text": "Write a short poem about the sea at night for my sister please", "n": 4, "more": "x"},
    {"id": "poem 3", "text": "WRITE a short poem about  the sea at night for my sister", "n": 5},
    {"id": "cake", "text": [{"role": "user", "content": "Bake a cake"}], "n": 6},
]


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pl.read_parquet(path).to_dicts()
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [orjson.loads(line) for line in data.splitlines()]


def test_dedup_keeps_every_row_in_its_order_and_says_what_is_like_what(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", ROWS)
    with (tmp_path / "in.jsonl").open("ab") as file:
        file.write(b"{broken\n")
    out, err = synthmill("dedup", "in.jsonl", "--text-column", "text", "--out", "out.jsonl", cwd=tmp_path)
    rows = read(tmp_path / "out.jsonl")
    assert [{name: row[name] for name in given} for row, given in zip(rows, ROWS, strict=True)] == ROWS
    assert {row["id"]: (row["kept"], row["duplicate_of"], row["layer"]) for row in rows} == {
        "desk": (True, None, None),
        "desk 2": (False, "desk", "meaning"),
        "poem": (False, "poem 2", "words"),  # of the second, more columns hold something
        "poem 2": (True, None, None),
        "poem 3": (False, "poem 2", "words"),
        "none": (True, None, None),
        "cake": (True, None, None),
    }
    assert out.split()[:8] == ["exact", "0", "words", "2", "meaning", "1", "kept", "3"]
    assert "recall of pairs exact" in out
    assert "1 rows not looked at: null_text, the first line-4" in err
    assert "1 lines are no rows" in err
    again, err = synthmill(
        "dedup",
        "in.jsonl",
        "--text-column",
        "text",
        "--out",
        "out.jsonl.gz",
        "--layers",
        "exact",
        "--json",
        cwd=tmp_path,
    )
    assert orjson.loads(again)["by_layer"] == {"exact": 1}
    assert "vectors" not in err
    assert [row["layer"] for row in read(tmp_path / "out.jsonl.gz")].count("exact") == 1
    status = {run.flow: run.status for run in runs(Store(tmp_path / "store"))}
    assert status == {"dedup": "finished"}


def test_formats_scores_earlier_rows_and_equal_columns(tmp_path: Path) -> None:
    rows = [{"question": "Name three rivers", "s": n / 4, "kind": "ab"[n % 2]} for n in range(4)]
    pl.DataFrame(rows).write_parquet(tmp_path / "in.parquet")
    given = ("dedup", "in.parquet", "--layers", "exact,words", "--score-column", "s")
    synthmill(*given, "--out", "out.parquet", cwd=tmp_path)
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found.columns == ["question", "s", "kind", "kept", "duplicate_of", "similarity", "layer"]
    assert found["duplicate_of"].to_list() == ["row-4", "row-4", "row-4", None]
    synthmill(*given, "--within", "kind", "--out", "out.parquet", cwd=tmp_path)
    assert pl.read_parquet(tmp_path / "out.parquet")["duplicate_of"].to_list() == ["row-3", "row-4", None, None]
    write_jsonl(tmp_path / "old.jsonl", [{"id": "old", "prompt": "name THREE rivers"}])
    synthmill(*given, "--against", "old.jsonl", "--out", "out.jsonl", cwd=tmp_path)
    assert {row["duplicate_of"] for row in read(tmp_path / "out.jsonl")} == {"old.jsonl:old"}
    pl.DataFrame(rows[:2]).write_csv(tmp_path / "in.csv")
    synthmill("dedup", "in.csv", "--layers", "exact", "--out", "from_csv.parquet", cwd=tmp_path)
    assert pl.read_parquet(tmp_path / "from_csv.parquet")["kept"].to_list() == [True, False]
    none = tmp_path / "different.jsonl"
    write_jsonl(none, [{"text": "a"}, {"text": "b"}])
    synthmill("dedup", none, "--layers", "exact", "--out", "typed.parquet", cwd=tmp_path)
    assert pl.read_parquet(tmp_path / "typed.parquet").schema["duplicate_of"] == pl.String


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere.jsonl",), "nowhere.jsonl is not there"),
        (("in.jsonl", "--text-column", "prose"), "in.jsonl has no column 'prose'; found: id, n, text"),
        (("in.jsonl", "--score-column", "reward"), "in.jsonl has no column 'reward'"),
        (("in.jsonl", "--within", "kind"), "in.jsonl has no column 'kind'"),
        (("in.jsonl", "--layers", "exact,meanings"), "layers"),
        (("in.jsonl", "--against", "gone.jsonl"), "gone.jsonl is not there"),
        (("in.jsonl", "--embedder", "nothing"), "there is no embedder 'nothing'"),
        (("empty.jsonl",), "empty.jsonl has no column one of prompt"),
    ],
)
def test_wrong_input_is_named_and_nothing_is_made(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    write_jsonl(tmp_path / "in.jsonl", ROWS)
    (tmp_path / "empty.jsonl").touch()
    _, err = synthmill("dedup", *arguments, "--out", "out.jsonl", cwd=tmp_path, expect=2)
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "out.jsonl").exists()


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", ROWS)
    _, err = synthmill("dedup", "in.jsonl", "--out", "in.jsonl", cwd=tmp_path, expect=2)
    assert "is the input, too" in err


def test_decontaminate_marks_or_drops_and_counts_by_benchmark(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", ROWS)
    write_jsonl(
        tmp_path / "one.jsonl", [{"instruction": "Write a short poem about the sea at night for my sister", "id": 7}]
    )
    write_jsonl(tmp_path / "two.jsonl", [{"turns": ["What is love?", "How can I build a height adjustable desk?"]}])
    given = ("decontaminate", "in.jsonl", "--text-column", "text", "--against", "one.jsonl", "--against", "two.jsonl")
    out, _ = synthmill(*given, "--out", "out.jsonl", "--json", cwd=tmp_path)
    assert orjson.loads(out) == {
        "rows": 6,
        "contaminated": 5,
        "benchmarks": {"one.jsonl": {"words": 3, "meaning": 0}, "two.jsonl": {"words": 0, "meaning": 2}},
    }
    rows = {row["id"]: row for row in read(tmp_path / "out.jsonl")}
    assert list(rows) == [row["id"] for row in ROWS]
    assert (rows["poem"]["benchmark"], rows["poem"]["matched_id"]) == ("one.jsonl", "7")
    assert rows["poem"]["evidence"].startswith("8 words: write a short poem")
    assert rows["desk"]["evidence"].startswith("cosine 0.9")
    assert rows["desk"]["matched_id"] == "line-1"
    assert (rows["none"]["contaminated"], rows["cake"]["contaminated"]) == (None, False)  # "none" could not be read
    synthmill(*given, "--out", "clean.jsonl", "--drop", cwd=tmp_path)
    assert [row["id"] for row in read(tmp_path / "clean.jsonl")] == ["none", "cake"]


def test_messages_in_parts_are_compared_and_pictures_are_refused_by_name(tmp_path: Path) -> None:
    text = "Tell me how a lighthouse keeper trims the lamp at night"
    parts = [
        {"type": "text", "text": "Tell me how a lighthouse "},
        {"type": "text", "text": "keeper trims the lamp at night"},
    ]
    picture = {"type": "image_url", "image_url": {"url": "x"}}
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}
    chats = [
        [{"role": "user", "content": text}],
        [{"role": "human", "content": parts}, call],
        [{"from": "User", "value": text}],
        [{"role": "user", "content": [*parts, picture]}],
        [{"role": "user", "content": "Name a tree"}],
    ]
    ids = ["plain", 7, "7", "picture", "other"]
    write_jsonl(tmp_path / "in.jsonl", [{"id": name, "messages": chat} for name, chat in zip(ids, chats, strict=True)])
    _, err = synthmill("dedup", "in.jsonl", "--layers", "exact", "--out", "out.jsonl", cwd=tmp_path)
    assert [row["kept"] for row in read(tmp_path / "out.jsonl")].count(False) == 2
    assert "1 rows not looked at: image_url in content, the first line-4" in err
    assert "1 rows have the id of an earlier row (duplicate_id)" in err
    write_jsonl(tmp_path / "bench.jsonl", [{"messages": chats[1]}])
    given = ("--layers", "words", "--against", "bench.jsonl", "--drop", "--out", "clean.jsonl")
    synthmill("decontaminate", "in.jsonl", *given, cwd=tmp_path)
    assert [row["id"] for row in read(tmp_path / "clean.jsonl")] == ["picture", "other"]
    write_jsonl(tmp_path / "bench.jsonl", [{"messages": chats[3]}])
    _, err = synthmill("decontaminate", "in.jsonl", *given, cwd=tmp_path, expect=2)
    assert "bench.jsonl, line-1: it cannot be read (image_url in content)" in err


def test_neighbours_shows_what_a_row_is_close_to(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", ROWS)
    out, _ = synthmill("neighbours", "in.jsonl", "desk 2", "--text-column", "text", "-n", "2", cwd=tmp_path)
    assert "desk 2: How can I make a height-adjustable desk?" in out
    assert out.index("desk   ") < out.index("cake") if "cake" in out else "desk" in out
    as_object, _ = synthmill("neighbours", "in.jsonl", "line-2", "--text-column", "text", "--json", cwd=tmp_path)
    found = orjson.loads(as_object)["neighbours"]
    assert [one["id"] for one in found[:2]] == ["poem 3", "poem 2"]
    assert (found[0]["jaccard"], found[1]["jaccard"]) == (1.0, pytest.approx(10 / 11, abs=1e-3))
    _, err = synthmill("neighbours", "in.jsonl", "who", "--text-column", "text", cwd=tmp_path, expect=2)
    assert "has no row 'who'; its first are desk, poem, desk 2" in err


def test_chats_limits_and_what_was_left_out_before(tmp_path: Path) -> None:
    def chat(*said: str) -> dict[str, Any]:
        return {
            "messages": [{"role": "user" if n % 2 == 0 else "assistant", "content": one} for n, one in enumerate(said)]
        }

    rows = [chat("Hello", "Hi, what can I do for you?", "Name four rivers"), chat("Something else", "Yes")]
    write_jsonl(tmp_path / "in.jsonl", [*rows, *rows[:1]])
    write_jsonl(tmp_path / "old.jsonl", [{**rows[0], "kept": True}, {**rows[1], "kept": False}])
    given = ("dedup", "in.jsonl", "--layers", "exact", "--out", "out.jsonl")
    synthmill(*given, "--against", "old.jsonl", cwd=tmp_path)
    found = [row["duplicate_of"] for row in read(tmp_path / "out.jsonl")]
    assert found == ["old.jsonl:line-1", None, "old.jsonl:line-1"]
    synthmill(*given, "--limit", "2", cwd=tmp_path)
    assert [row["kept"] for row in read(tmp_path / "out.jsonl")] == [True, True]
    write_jsonl(tmp_path / "bench.jsonl", [{"prompt": "name FOUR rivers"}])
    against = ("decontaminate", "in.jsonl", "--against", "bench.jsonl", "--layers", "words")
    synthmill(*against, "--out", "out.jsonl", cwd=tmp_path)
    assert [row["contaminated"] for row in read(tmp_path / "out.jsonl")] == [True, False, True]  # by its second turn
    write_jsonl(tmp_path / "in.jsonl", rows[:1])
    synthmill(*against, "--drop", "--out", "none.parquet", cwd=tmp_path)
    assert pl.read_parquet(tmp_path / "none.parquet").height == 0


@pytest.mark.faults
def test_dedup_killed_while_it_embeds_finishes_with_the_same_file(tmp_path: Path) -> None:
    rows = [
        {"id": f"{n}", "text": f"{n % 100}: tell me about the number {n % 300} and its friends " * 3}
        for n in range(2000)
    ]
    write_jsonl(tmp_path / "in.jsonl", rows)
    given = ("dedup", "in.jsonl", "--text-column", "text")
    process = start(*given, "--out", "out.jsonl", cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "store").rglob("*.keys.npy")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, "it was over before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out.jsonl").exists()
    embedded = len(list((tmp_path / "store").rglob("*.keys.npy")))
    assert embedded > 0
    synthmill(*given, "--out", "out.jsonl", cwd=tmp_path)
    synthmill(*given, "--out", "whole.jsonl", "--store", "other", "--workers", "1", cwd=tmp_path)  # and through Ray
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sum(row["kept"] for row in read(tmp_path / "out.jsonl")) <= 300


PROMPTS = [
    "Why do birds draw circles above the harbour at noon?",
    "Why do birds draw circles over the harbour at noon?",
    "Name three rivers of Spain in alphabetical order please, thank you",
    "How can I make a height-adjustable desk?",
]


def run(tmp_path: Path, server: ChatServer, texts: list[str], **sets: Any) -> tuple[pl.DataFrame, Path, str]:
    """(the pairs with their verdicts, the dataset, what was printed) of a run over these prompts."""
    write_jsonl(tmp_path / "prompts.jsonl", [{"id": str(n), "prompt": text} for n, text in enumerate(texts)])
    given: dict[str, Any] = {
        "source": "prompts.jsonl",
        "engines.teacher": server.spec,
        "engines.student": server.spec,
        "answers.count": 4,
        "workers": 0,
        **sets,
    }
    words = [word for name, value in given.items() for word in ("--set", f"{name}={orjson.dumps(value).decode()}")]
    out, _ = synthmill("run", "synthesize", *words, cwd=tmp_path)
    os.chdir(tmp_path)
    planned = plan_synthesize(read_settings(SynthesizeSettings, None, given))
    made = planned.made()
    assert made is not None
    pairs = pl.DataFrame(read_artifact(planned.store, made["unique_pairs"]))
    return pairs.sort("prompt"), planned.dataset, out


def test_a_flow_leaves_near_duplicates_and_benchmark_prompts_out_of_its_dataset(
    tmp_path: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "bench.jsonl", [{"prompt": "name three rivers of Spain in alphabetical order"}])
    pairs, dataset, out = run(tmp_path, server, PROMPTS, **{"decontaminate.benchmarks": "bench.jsonl"})
    by_prompt = {row["prompt"]: row for row in pairs.to_dicts()}
    assert pairs.height == 4
    assert {by_prompt[text]["layer"] for text in PROMPTS[:2]} == {None, "meaning"}
    assert (by_prompt[PROMPTS[2]]["contaminated"], by_prompt[PROMPTS[2]]["kept"]) == (True, False)
    assert by_prompt[PROMPTS[3]]["kept"]
    written = pl.read_parquet(dataset / "data" / "*.parquet")
    assert written.height == 2
    card = (dataset / "README.md").read_text()
    for text in (card, out):
        assert "clean_pairs: benchmark prompts among 4 rows: 1 of bench.jsonl" in text
        assert "unique_pairs: duplicates among 3 rows: 0 exact, 0 words, 1 meaning; 2 kept" in text
        assert "search by meaning at cosine 0.9: recall of pairs exact" in text


def test_what_was_published_keeps_its_verdict_when_the_source_grows(
    tmp_path: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sets = {"dedup.against": ["published"]}
    first, dataset, _ = run(tmp_path, server, PROMPTS[1:], **sets)
    assert first["kept"].all()
    grown, later, _ = run(tmp_path, server, PROMPTS[1:] + PROMPTS[:1] + [PROMPTS[2].lower()], **sets)
    verdicts = {row["prompt"]: (row["kept"], row["layer"]) for row in grown.to_dicts()}
    assert verdicts[PROMPTS[1]] == verdicts[PROMPTS[3]] == (True, None)
    assert verdicts[PROMPTS[0]] == (False, "meaning")
    assert verdicts[PROMPTS[2].lower()] == (False, "exact")
    assert later != dataset
    sent = server.stats()["total"]
    _, again, _ = run(tmp_path, server, PROMPTS[1:] + PROMPTS[:1] + [PROMPTS[2].lower()], **sets)
    assert again == later  # its own verdicts are none of the earlier ones
    assert server.stats()["total"] == sent

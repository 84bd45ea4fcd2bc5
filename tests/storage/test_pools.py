"""Files of pools: long and wide, JSONL, gzip, CSV and Parquet, scattered rows, bad rows."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthmill.schemas.errors import InputError
from synthmill.schemas.messages import text_in
from synthmill.storage.plain_files import pools as module
from synthmill.storage.plain_files.pools import ColumnNames, PoolFile, read_pools
from tests.conftest import write_jsonl

WIDE = [
    {"prompt_id": "a", "prompt": "A?", "answers": ["a0", "a1", "a2"], "rewards": [1, 2.5, 3]},
    {"prompt_id": "b", "prompt": "B?", "answers": ["b0", "b1"], "rewards": [0.5, -1]},
    {"prompt_id": "c", "prompt": "C?", "answers": ["c0"], "rewards": [7]},
]


def long(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"prompt_id": row["prompt_id"], "prompt": row["prompt"], "answer": answer, "reward": reward}
        for row in rows
        for answer, reward in zip(row["answers"], row["rewards"], strict=True)
    ]


def read(path: Path, names: ColumnNames | None = None, **given: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    file = PoolFile(str(path), names, **given)
    rows = read_pools(file, lambda tables: [row for table in tables for row in table.to_pylist()], path.parent)
    return rows, dict(file.faults)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    elif path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    else:
        write_jsonl(path, rows)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "parquet"])
@pytest.mark.parametrize("shape", ["wide", "long", "scattered"])
def test_every_shape_and_format_is_the_same_pools(tmp_path: Path, ending: str, shape: str) -> None:
    rows = WIDE if shape == "wide" else long(WIDE)
    if shape == "scattered":
        rows = [rows[n] for n in (0, 3, 1, 5, 2, 4)]
    found, faults = read(write(tmp_path / f"in.{ending}", rows))
    assert found == WIDE and not faults
    assert [path.name for path in tmp_path.iterdir()] == [f"in.{ending}"]


def test_csv_and_other_names(tmp_path: Path) -> None:
    assert read(write(tmp_path / "in.csv", long(WIDE)))[0] == WIDE
    renamed = [{"q": row["prompt"], "replies": row["answers"], "score": row["rewards"]} for row in WIDE]
    names = ColumnNames("", "q", "replies", "score")
    found, _ = read(write(tmp_path / "in.jsonl", renamed), names)
    assert [row["prompt_id"] for row in found] == ["A?", "B?", "C?"]  # the prompt names its pool
    assert [row["rewards"] for row in found] == [[1, 2.5, 3], [0.5, -1], [7]]
    by_id = [{"id": n, "prompt": "same", "answers": ["x", "y"], "rewards": [1, 2]} for n in range(2)]
    assert [row["prompt_id"] for row in read(write(tmp_path / "ids.jsonl", by_id))[0]] == ["0", "1"]
    with pytest.raises(InputError, match=r"no column 'rewards' or 'reward'; found .* --reward-column"):
        read(write(tmp_path / "none.jsonl", [{"prompt": "p", "answers": ["a"]}]))
    mixed = [{"prompt_id": "a", "prompt": p, "answer": p, "reward": n} for n, p in enumerate(("x", "y"))]
    with pytest.raises(InputError, match=r"none of its rows can be used \(1 several_prompts_of_one_id\)"):
        read(write(tmp_path / "mixed.jsonl", mixed))
    with pytest.raises(InputError, match="cannot be weighed"):
        read(tmp_path / "mixed.jsonl", extra=("prompt",))
    with pytest.raises(InputError, match="has no column 'wrong'"):
        read(tmp_path / "ids.jsonl", ColumnNames("", "wrong"))
    rows, _ = read(tmp_path / "none.jsonl", rewards=False)
    assert rows == [{"prompt_id": "p", "prompt": "p", "answers": ["a"]}]


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_batches_do_not_matter(tmp_path: Path, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_ROWS", batch)
    monkeypatch.setattr(module, "LOOKED_AT", batch)
    rows = [{**WIDE[n % 3], "prompt_id": f"p{n}"} for n in range(20)]
    for name in ("wide.jsonl", "wide.parquet"):
        assert read(write(tmp_path / name, rows))[0] == rows
    for name in ("long.jsonl", "long.parquet"):
        assert read(write(tmp_path / name, long(rows)))[0] == rows


def test_bad_rows_are_counted_and_never_stop_the_others(tmp_path: Path) -> None:
    good = WIDE[0]
    lines = [
        json.dumps(good),
        "{not json",
        json.dumps({**good, "prompt": None, "prompt_id": "n"}),
        json.dumps({**good, "answers": "text"}),
        json.dumps({**good, "prompt_id": "short", "rewards": [1]}),
        json.dumps({**good, "prompt_id": "nan", "rewards": [1, float("nan"), "x"]}),
        json.dumps({**good, "prompt_id": "null", "answers": ["a", None, {"text": "t"}]}),
        json.dumps({**good, "prompt_id": "number", "answers": ["a", 5, {"text": "t"}]}),
        json.dumps({**good, "prompt_id": "object", "answers": ["a", {"text": 5}, "c"]}),
        json.dumps({**good, "prompt_id": "chat", "answers": [{"role": "assistant", "content": "a"}], "rewards": 1}),
        json.dumps({**good, "prompt_id": "huge", "rewards": [10**400, 1, True]}),
        json.dumps({**good, "prompt_id": "\ud800"}),
        json.dumps({**good, "prompt_id": [1]}),
    ]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(lines) + "\n")
    found, faults = read(path)
    by_id = {row["prompt_id"]: row for row in found}
    assert set(by_id) == {"a", "nan", "null", "huge", "\ufffd"}  # half of a surrogate pair, as a cut emoji leaves
    assert by_id["nan"]["rewards"] == [1, None, None]
    assert by_id["null"]["answers"] == ["a", "", "t"] and by_id["null"]["rewards"] == [1, None, 3]
    assert by_id["huge"]["rewards"] == [None, 1, 1]
    assert sum(faults.values()) == 8
    assert faults["answer_not_text"] == 3
    assert faults["as_many_rewards_as_answers"] == 1 and faults["answers_not_lists"] == 1


def test_parquet_of_other_types(tmp_path: Path) -> None:
    structs = [[{"text": "a", "n": 1}, {"text": "b", "n": 2}], [{"text": "c", "n": 3}]]
    table = pa.table(
        {
            "id": pa.array([1, 2]),
            "prompt": pa.array(["p", "q"], pa.large_string()),
            "answers": structs,
            "rewards": pa.array([[1, 2], [3]], pa.large_list(pa.int32())),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    assert read(tmp_path / "in.parquet")[0] == [
        {"prompt_id": "1", "prompt": "p", "answers": ["a", "b"], "rewards": [1, 2]},
        {"prompt_id": "2", "prompt": "q", "answers": ["c"], "rewards": [3]},
    ]
    pq.write_table(table.set_column(2, "answers", pa.array([[[1]], [[2]]])), tmp_path / "bad.parquet")
    with pytest.raises(InputError, match="the column 'answers' holds"):
        read(tmp_path / "bad.parquet")
    nulls = pa.table({"prompt": pa.array(["p", None]), "answers": [["a"], ["b"]], "rewards": [[1.0], [2.0]]})
    pq.write_table(nulls, tmp_path / "nulls.parquet")
    found, faults = read(tmp_path / "nulls.parquet")
    assert len(found) == 1 and faults == {"null_prompt": 1}


def test_nulls_mean_the_same_in_parquet_as_in_lines(tmp_path: Path) -> None:
    kinds = {"prompt_id": pa.string(), "prompt": pa.string(), "answer": pa.string(), "reward": pa.float64()}
    given = [
        ("a", "x", "u", 1.0),
        ("a", "x", None, 0.0),
        (None, "y", "k", float("nan")),
        ("", "y", "l", float("inf")),
        ("b", None, "m", 1.0),
        ("b", "z", "n", 2.0),
    ]
    rows = [dict(zip(kinds, row, strict=True)) for row in given]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(kinds)), tmp_path / "in.parquet")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = [
        {"prompt_id": "a", "prompt": "x", "answers": ["u", ""], "rewards": [1, None]},
        {"prompt_id": "y", "prompt": "y", "answers": ["k", "l"], "rewards": [None, None]},
        {"prompt_id": "b", "prompt": "z", "answers": ["n"], "rewards": [2]},
    ]
    for name in ("in.parquet", "in.jsonl"):
        found, faults = read(tmp_path / name)
        assert found == expected and sum(faults.values()) == 1
        assert list(PoolFile(str(tmp_path / name)).ids()) == ["a", "a", "y", "y", None, "b"]
    wide = pa.table({"prompt": ["p"], "answers": [["u", None, "v"]], "rewards": [[1.0, 0.0, float("nan")]]})
    pq.write_table(wide, tmp_path / "wide.parquet")
    assert read(tmp_path / "wide.parquet")[0][0]["rewards"] == [1, None, None]


def test_optional_columns_may_come_later(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "answers": None}, {**WIDE[0], "system": "S", "reference": "R"}]
    found, _ = read(write(tmp_path / "in.jsonl", rows), rewards=True, reference=True)
    assert found == [{**WIDE[0], "system": "S", "reference": "R"}]
    scattered = [{**row, "reference": f"R {row['prompt']}"} for row in long(WIDE)]
    folder = tmp_path / "o'clock"
    folder.mkdir()
    path = write(folder / "s.jsonl", [scattered[n] for n in (0, 3, 1, 5, 2, 4)])
    assert [row["reference"] for row in read(path, reference=True)[0]] == ["R A?", "R B?", "R C?"]


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_text("no")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "list.jsonl").write_text("[1]\n")
    for name, fault in (
        ("bad.parquet", "not a readable Parquet"),
        ("empty.jsonl", "no row that can be read"),
        ("list.jsonl", "no row that can be read"),
        ("gone.jsonl", "is not there"),
        ("gone.parquet", "is not there"),
        ("x.txt", "unknown ending"),
    ):
        with pytest.raises(InputError, match=fault):
            read(tmp_path / name)


CHATS = [
    {
        "prompt_id": "turns",
        "prompt": [
            {"role": "user", "content": "What is a weir?"},
            {"role": "gpt", "content": [{"type": "text", "text": "A low dam."}]},
            {"role": "human", "content": "Who builds them?"},
        ],
        "answers": ["Engineers.", "Nobody."],
        "rewards": [0.9, 0.1],
    },
    {
        "prompt_id": "one",
        "prompt": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "What is a lock?"}],
        "answers": ["A chamber.", "A thing."],
        "rewards": [0.8, 0.3],
    },
]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("shape", ["wide", "long", "scattered"])
def test_prompts_may_be_messages(tmp_path: Path, ending: str, shape: str) -> None:
    rows = CHATS if shape == "wide" else long(CHATS)
    if shape == "scattered":
        rows = [rows[n] for n in (0, 2, 1, 3)]
    for row in rows:
        row["prompt"] = [{**dict.fromkeys(("role", "content")), **message} for message in row["prompt"]]
        if ending == "parquet":
            row["prompt"] = [{**message, "content": text_in(message["content"])} for message in row["prompt"]]
    found, faults = read(write(tmp_path / f"in.{ending}", rows))
    assert [(row["prompt_id"], row["prompt"], row["system"]) for row in found] == [
        ("turns", "User: What is a weir?\n\nAssistant: A low dam.\n\nUser: Who builds them?", None),
        ("one", "What is a lock?", "Be brief."),
    ]
    assert json.loads(found[1]["messages"])[0] == {"role": "system", "content": "Be brief."}
    assert [row["answers"] for row in found] == [row["answers"] for row in CHATS] and not faults
    if shape == "wide":
        single, faults = read(tmp_path / f"in.{ending}", single_turn=True)
        assert [row["prompt_id"] for row in single] == ["one"] and faults == {"several_turns": 1}


def test_prompts_of_messages_that_cannot_be_read_are_refused_by_name(tmp_path: Path) -> None:
    good = {"role": "user", "content": "a"}
    prompts = [
        "a text beside them",
        [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
        [good, {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}],
        [good, {"role": "assistant", "content": None}],
        [good, {"role": "narrator", "content": "x"}],
        [{"role": "system", "content": "x"}],
        ["text"],
        {"role": "user"},
        [good],
    ]
    rows = [{"prompt": prompt, "answers": ["a", "b"], "rewards": [1, 2], "system": "S"} for prompt in prompts]
    found, faults = read(write_jsonl(tmp_path / "in.jsonl", rows))
    assert [(row["prompt_id"], row["system"]) for row in found] == [
        ("System: S\n\nUser: a text beside them", "S"),
        ("System: S\n\nUser: a", "S"),
    ]
    assert faults == {
        "image_url in content": 1,
        "tool_calls in prompt": 1,
        "bad_messages": 3,
        "unknown_role": 1,
        "prompt_not_text": 1,
    }
    with pytest.raises(InputError, match=r"none of its rows can be used \(1 answer_not_text\); expected prompt"):
        read(write_jsonl(tmp_path / "none.jsonl", [{"prompt": "p", "answers": [[good]], "rewards": [1]}]))


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_an_id_that_repeats_is_counted_and_its_first_row_is_used(tmp_path: Path, ending: str) -> None:
    ids = [7, 7] if ending == "parquet" else [7, "7"]
    rows = [
        {"prompt_id": name, "prompt": f"p{n}", "answers": ["a", "b"], "rewards": [1.0, 2.0]}
        for n, name in enumerate(ids)
    ]
    rows.insert(0, {**rows[0], "rewards": [1.0]})  # cannot be used, so the next is the first
    found, faults = read(write(tmp_path / f"in.{ending}", rows))
    assert [(row["prompt_id"], row["prompt"]) for row in found] == [("7", "p0")]
    assert faults == {"duplicate_id": 1, "as_many_rewards_as_answers": 1}
    assert list(PoolFile(str(tmp_path / f"in.{ending}")).ids()) == [None, "7", None]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("shape", ["wide", "long", "scattered"])
def test_files_say_how_answers_ended(tmp_path: Path, ending: str, shape: str) -> None:
    ends = {"a": ["stop", "content_filter", "length"], "b": ["stop", "stop"], "c": ["SAFETY"]}
    rows: list[dict[str, Any]] = [{**row, "finish_reasons": ends[row["prompt_id"]]} for row in WIDE]
    if shape != "wide":
        rows = [
            {**row, "finish_reason": end}
            for row, end in zip(long(WIDE), [end for some in ends.values() for end in some], strict=True)
        ]
    if shape == "scattered":
        rows = [rows[n] for n in (0, 3, 1, 5, 2, 4)]
    found, _ = read(write(tmp_path / f"in.{ending}", rows))
    assert {row["prompt_id"]: row["finish_reasons"] for row in found} == ends
    if shape == "wide":
        short = [{**row, "finish_reasons": row["finish_reasons"][1:]} for row in rows]
        found, faults = read(write(tmp_path / f"short.{ending}", short))
        assert [row["finish_reasons"] for row in found] == [[None] * 3, [None] * 2, [None]] and not faults

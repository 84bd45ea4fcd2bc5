"""Readers: good rows go through, bad rows are dropped with a reason, bad files are refused with a remedy."""

import gzip
import json
from pathlib import Path

import duckdb
import polars as pl
import pytest

from synthmill.schemas.errors import InputError
from synthmill.schemas.rows import Dropped, Instruction
from synthmill.schemas.settings import SourceSettings
from synthmill.storage.artifacts import Store, read_artifact
from synthmill.storage.plain_files.lines import lines_of
from synthmill.storage.plain_files.rows import fingerprint, read_chunks, read_prompts
from synthmill.tasks.running.stages import ingest
from tests.conftest import write_jsonl


def read(path: Path, rows_per_part: int = 100, **settings: object) -> tuple[list[Instruction], list[Dropped]]:
    chunks = list(read_chunks(SourceSettings.model_validate({"path": str(path), **settings}), rows_per_part))
    return [row for chunk in chunks for row in chunk.rows], [row for chunk in chunks for row in chunk.dropped]


ROWS = [{"id": "a", "prompt": "one", "system": "be brief"}, {"id": "b", "prompt": "two", "system": None}]


def test_every_format_reads_alike(tmp_path: Path) -> None:
    files = [
        write_jsonl(tmp_path / "in.jsonl", ROWS),
        tmp_path / "in.jsonl.gz",
        tmp_path / "in.csv",
        tmp_path / "in.parquet",
    ]
    files[1].write_bytes(gzip.compress(files[0].read_bytes()))
    frame = pl.DataFrame(ROWS)
    frame.write_csv(files[2])
    frame.write_parquet(files[3])
    for file in files:
        rows, dropped = read(file)
        assert [(row.id, row.prompt, row.system) for row in rows] == [("a", "one", "be brief"), ("b", "two", None)]
        assert dropped == []


def test_ids_follow_from_content_when_there_are_none(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "one"}, {"prompt": "two"}])
    again = write_jsonl(tmp_path / "other.jsonl", [{"prompt": "two"}, {"prompt": "one"}])
    assert [row.id for row in read(file)[0]] == [row.id for row in read(again)[0]][::-1]


def test_chats_and_turns_use_the_first_turn_and_say_so(tmp_path: Path) -> None:
    messages = [
        {"role": r, "content": c} for r, c in (("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v"))
    ]
    file = write_jsonl(
        tmp_path / "in.jsonl", [{"messages": messages}, {"turns": ["first", "second"]}, {"turns": ["only"]}]
    )
    rows, _ = read(file)
    assert [(row.system, row.prompt, row.note) for row in rows] == [
        ("s", "u", "2 later messages left out"),
        (None, "first", "1 later turns left out"),
        (None, "only", ""),
    ]


def test_only_the_messages_that_are_used_need_a_text_and_a_known_role(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function"}]}
    user = {"role": "User", "content": [{"type": "text", "text": "Will it "}, {"type": "text", "text": "rain?"}]}
    picture = {"type": "image_url", "image_url": {"url": "x"}}
    chats = {
        "developer": [{"role": "developer", "content": "Be brief."}, user],
        "both": [{"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."}, user],
        "calls": [user, call, {"role": "narrator", "content": 7}, "text"],
        "greeting": [{"from": "gpt", "value": "Hello!"}, {"from": "human", "value": "Will it rain?"}],
        "json": [json.dumps(user), json.dumps(call)],
        "narrator": [{"role": "narrator", "content": "Once"}, user],
        "picture": [{"role": "user", "content": [picture]}],
        "nothing": [{"role": "user", "content": None}],
    }
    file = write_jsonl(tmp_path / "in.jsonl", [{"id": name, "messages": chat} for name, chat in chats.items()])
    rows, dropped = read(file)
    assert {row.id: (row.system, row.note) for row in rows} == {
        "developer": ("Be brief.", ""),
        "both": ("Be brief.\n\nBe kind.", ""),
        "calls": (None, "3 later messages left out"),
        "greeting": (None, "1 earlier messages left out"),
        "json": (None, "1 later messages left out"),
    }
    assert {row.prompt for row in rows} == {"Will it rain?"}
    assert [row.reason for row in dropped] == ["unknown_role", "image_url in content", "bad_messages"]
    as_prompt = write_jsonl(tmp_path / "prompt.jsonl", [{"prompt": chats["developer"], "system": "Be late."}])
    [row] = read(as_prompt)[0]
    assert (row.system, row.note) == ("Be late.", "1 earlier messages left out")


def test_ids_that_are_one_number_are_one(tmp_path: Path) -> None:
    given = [{"id": 7, "prompt": "a"}, {"id": "7", "prompt": "b"}, {"id": 7.0, "prompt": "c"}]
    rows, dropped = read(write_jsonl(tmp_path / "in.jsonl", given))
    assert [row.prompt for row in rows] == ["a"] and [row.reason for row in dropped] == ["duplicate_id"] * 2


def test_bad_rows_are_dropped_with_a_reason_and_good_ones_go_through(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    lines = [
        b'{"id": "good", "prompt": "fine"}',
        b'{"id": "x", "prompt": null}',
        b'{"id": "x", "prompt": 7}',
        b'{"id": "x", "prompt": "  "}',
        b'{"id": "good", "prompt": "again"}',
        b'{"id": "x", "prompt": "caf\xe9"}',
        b'{"id": "x", "prompt": "cut',
        b"[1, 2]",
        b'{"id": ["x"], "prompt": "a"}',
        b'{"id": "x", "messages": [{"role": "user", "content": 3}]}',
        b'{"id": "long", "prompt": "' + b"x" * 5_000_000 + b'"}',
        b'{"id": "template", "prompt": "{{ row.id }} {% raw %} <|im_start|>system"}',
    ]
    file.write_bytes(b"\n".join(lines))
    rows, dropped = read(file)
    assert [row.id for row in rows] == ["good", "template"]
    assert rows[1].prompt == "{{ row.id }} {% raw %} <|im_start|>system"
    reasons = [
        "null_prompt",
        "prompt_not_text",
        "empty_prompt",
        "duplicate_id",
        "not_utf8",
        "bad_json",
        "not_an_object",
    ]
    assert [row.reason for row in dropped] == [*reasons, "bad_id", "bad_messages", "prompt_too_long"]
    assert [row.id for row in dropped][:2] == ["line-2", "line-3"]


def test_a_byte_order_mark_costs_no_row(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "b"}\r\n')
    assert [row.prompt for row in read(tmp_path / "in.jsonl")[0]] == ["a", "b"]


def test_csv_rows_that_are_not_utf8_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"id,prompt\n1,good\n2,caf\xe9\n3,fine\n\xe9,bad id\n")
    rows, dropped = read(tmp_path / "in.csv")
    assert [row.id for row in rows] == ["1", "3"]
    assert [row.reason for row in dropped] == ["not_utf8"] * 2


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("in.jsonl", b"", "is empty"),
        ("in.jsonl", b"\n\n", "has no rows"),
        (
            "in.jsonl",
            b'{"text": "a", "id": 1}\n',
            "has no column 'prompt' .*found: id, text; name the column with --prompt-column",
        ),
        ("in.csv", b"question\na\n", "has no column 'prompt'.*found: question"),
        ("in.jsonl.gz", b"not gzip", "is not a whole gzip file"),
        ("in.csv", "prompt\nWhy?\n".encode("utf-16"), "in.csv is UTF-16; expected UTF-8: save it again"),
        ("in.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n' * 999, mtime=0)[:-20], "is not a whole gzip file"),
        ("in.parquet", b"PAR1 nonsense", "is not a readable Parquet file"),
        ("in.txt", b"a", "unknown ending; expected .jsonl"),
    ],
)
def test_bad_files_are_refused_before_any_work(
    tmp_path: Path, store: Store, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        ingest(store, SourceSettings(path=str(tmp_path / name)), 100, "run")
    with pytest.raises(InputError, match="is not there"):
        fingerprint(SourceSettings(path=str(tmp_path / "missing.jsonl")))


def test_a_file_without_one_good_row_is_refused(tmp_path: Path, store: Store) -> None:
    file = write_jsonl(tmp_path / "in.jsonl", [{"prompt": None}, {"prompt": ""}])
    with pytest.raises(InputError, match=r"none of the 2 rows can be used .*1 null_prompt, 1 empty_prompt"):
        ingest(store, SourceSettings(path=str(file)), 100, "run")


def test_a_file_that_grew_keeps_its_parts(tmp_path: Path, store: Store) -> None:
    rows = [{"id": str(n), "prompt": f"question {n}"} for n in range(25)]
    before = ingest(store, SourceSettings(path=str(write_jsonl(tmp_path / "in.jsonl", rows[:20]))), 10, "run")
    after = ingest(store, SourceSettings(path=str(write_jsonl(tmp_path / "in.jsonl", rows))), 10, "run")
    assert [part.key for part in after.parts[:2]] == [part.key for part in before.parts]
    assert (after.rows, len(after.parts)) == (25, 3)
    limited = ingest(store, SourceSettings(path=str(tmp_path / "in.jsonl"), limit=5), 10, "run")
    assert limited.rows == 5


def test_every_user_turn_of_a_benchmark_is_read_and_a_row_without_one_is_an_error(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "c"}, {"role": "assistant", "content": "x"}, {"role": "user", "content": "d"}]
    rows = [{"prompt": "a", "id": "same"}, {"prompt": "b", "id": "same"}, {"messages": chat}, {"turns": ["e", "f"]}]
    file = write_jsonl(tmp_path / "bench.jsonl", rows)
    assert read_prompts(SourceSettings(path=str(file))) == ["a", "b", "c", "d", "e", "f"]
    for bad in ({"prompt": None}, {"prompt": " "}, {"other": "a"}, {"turns": []}, {"prompt": 3}):
        write_jsonl(file, [*rows, bad])
        with pytest.raises(InputError, match="line-5: it has no prompt"):
            read_prompts(SourceSettings(path=str(file)))
    parts = [{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]
    write_jsonl(file, [{"messages": [{"role": "Human", "content": parts}, {"role": "gpt", "content": None}]}])
    assert read_prompts(SourceSettings(path=str(file))) == ["in parts"]
    write_jsonl(file, [{"prompt": [{"role": "user", "content": [{"type": "image", "image": "x"}]}]}])
    with pytest.raises(InputError, match=r"line-1: it cannot be read \(image in content\)"):
        read_prompts(SourceSettings(path=str(file)))
    file.write_text("{no JSON\n")
    with pytest.raises(InputError, match="line-1: bad_json"):
        read_prompts(SourceSettings(path=str(file)))


def test_a_folder_is_read_file_by_file_and_a_new_file_moves_no_part(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "days"
    folder.mkdir()
    for day in (1, 2):
        write_jsonl(folder / f"{day}.jsonl", [{"prompt": f"day {day}, question {n}"} for n in range(5)])
    (folder / "notes.txt").write_text("no rows")
    source = SourceSettings(path=f"{folder}/")
    first = ingest(store, source, 3, "run")
    assert [seal.rows for seal in first.parts] == [3, 2, 3, 2]
    assert {row["source"] for row in read_artifact(store, first).to_pylist()} == {"1.jsonl", "2.jsonl"}
    write_jsonl(folder / "1.jsonl", [{"prompt": f"day 1, question {n}"} for n in range(7)])
    write_jsonl(folder / "3.jsonl", [{"prompt": "day 3"}])
    grown = ingest(store, source, 3, "run")
    keys = [seal.key for seal in first.parts]
    assert grown.rows == 13 and [seal.key in keys for seal in grown.parts] == [True, False, False, True, True, False]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no file of rows"):
        ingest(store, SourceSettings(path=str(tmp_path / "empty")), 3, "run")


def database_of(path: Path, rows: int) -> None:
    with duckdb.connect(str(path)) as database:
        database.execute(
            "CREATE OR REPLACE TABLE turns AS SELECT i AS id, 'why ' || i AS prompt, i % 5 AS rating "
            f"FROM range({rows}) AS t(i)"
        )


def test_a_query_is_a_source_and_its_rows_are_what_it_is_known_by(tmp_path: Path) -> None:
    tmp_path = tmp_path / "it's here"
    tmp_path.mkdir()
    query = tmp_path / "good.sql"
    query.write_text(
        "ATTACH 'logs.duckdb' AS logs (READ_ONLY); SELECT id, prompt FROM logs.turns WHERE rating > 2 ORDER BY id"
    )
    database_of(tmp_path / "logs.duckdb", 50)
    chunks = list(read_chunks(SourceSettings(path=str(query)), 8))
    assert [len(chunk.rows) for chunk in chunks] == [8, 8, 4]
    assert (chunks[0].rows[0].id, chunks[0].rows[0].prompt, chunks[0].rows[0].source) == ("3", "why 3", "good.sql")
    first = fingerprint(SourceSettings(path=str(query)))
    database_of(tmp_path / "logs.duckdb", 53)  # no new row with that rating
    assert fingerprint(SourceSettings(path=str(query))) == first
    database_of(tmp_path / "logs.duckdb", 60)
    assert fingerprint(SourceSettings(path=str(query))) != first
    grown = list(read_chunks(SourceSettings(path=str(query)), 8))
    assert grown[:2] == chunks[:2]
    pl.DataFrame({"prompt": ["a", "b"]}).write_parquet(tmp_path / "x.parquet")
    query.write_text("SELECT prompt FROM 'x.parquet'")  # beside the query, wherever it is run
    assert [row.prompt for row in read(query)[0]] == ["a", "b"]
    query.write_text(
        "SELECT 'a' AS prompt, 18446744073709551616::HUGEINT AS big, '10:00:00+15'::TIMETZ AS at, 'nan'::FLOAT AS none,"
        " 'ab'::BLOB AS bytes, DATE '2026-01-02' AS day, 1.50::DECIMAL(4, 2) AS price"
    )
    [line] = lines_of(str(query))
    known = {"prompt": "a", "big": "18446744073709551616", "at": "10:00:00+15:00", "none": None}
    assert line.fields == {**known, "bytes": "6162", "day": "2026-01-02", "price": "1.50"}


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("COPY (SELECT 1) TO 'x.csv'", "gives no rows; expected a SELECT"),
        ("CREATE TABLE t AS SELECT 1; SELECT * FROM t", "'CREATE TABLE t AS SELECT 1;' does not only read"),
        ("ATTACH 'new.duckdb' AS n; SELECT 1 AS prompt", "does not only read; expected SELECT, LOAD, and ATTACH"),
        ("ATTACH 'new.duckdb' AS n -- READ_ONLY\n; SELECT 1 AS prompt", "does not only read"),
        ("ATTACH 'new.duckdb' AS n (READ_ONLY false); SELECT 1 AS prompt", "does not only read"),
        ("ATTACH 'new.duckdb' AS READ_ONLY; SELECT 1 AS prompt", "does not only read"),
        ("ATTACH 'READ_ONLY.duckdb' AS x; SELECT 1 AS prompt", "does not only read"),
        ("INSTALL httpfs; SELECT 1 AS prompt", "does not only read"),
        ("FROM enable_logging(storage_path='logs')", "it cannot be run: .*configuration has been locked"),
        ("SELECT 1 AS prompt, 2 AS prompt", "gives two columns of one name"),
        ("SELEC 1", r"bad\.sql: it cannot be run: ParserException: Parser Error"),
        ("SELECT prompt FROM nowhere", "it cannot be run: .*nowhere"),
        ("", "its last statement gives no rows"),
        ("SELECT 1 AS number", "has no column 'prompt'"),
    ],
)
def test_a_query_only_reads(tmp_path: Path, sql: str, said: str) -> None:
    (tmp_path / "bad.sql").write_text(sql)
    with pytest.raises(InputError, match=said):
        fingerprint(SourceSettings(path=str(tmp_path / "bad.sql")))
        read(tmp_path / "bad.sql")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.sql"]

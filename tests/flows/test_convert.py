"""`synthmill convert`, as users run it."""

import json
import re
from pathlib import Path

from synthmill.storage.conversion.to_format import TARGETS
from synthmill.storage.plain_files.forms import form_names, forms
from tests.command import ROOT, synthmill
from tests.conftest import write_jsonl

ROW = {"id": "a", "conversations": [{"from": "human", "value": "Rain?"}, {"from": "gpt", "value": "No."}]}
CALL = {"from": "function_call", "value": '{"name": "look", "arguments": {}}'}
CALLING = {"id": "b", "conversations": [ROW["conversations"][0], CALL, ROW["conversations"][1]]}


def test_a_file_is_converted_and_nothing_is_written_over(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [ROW, CALLING, {"id": "c", "conversations": []}])
    convert = ("convert", "in.jsonl", "--to", "alpaca", "--out", "out.json")
    out, err = synthmill(*convert, "--json", cwd=tmp_path)
    summary = json.loads(out)
    assert (summary["form"], summary["rows"], summary["written"]) == ("sharegpt", 3, 2)
    assert summary["left_out"] == {"bad_conversations": {"rows": 1, "first": "line-3"}}
    assert summary["lost"]["tool calls"] == {"rows": 1, "first": "line-2"}
    assert "3 rows of in.jsonl (sharegpt) -> 2 rows of out.json (alpaca)\n" in err
    assert "lost: tool calls: 1 rows, the first line-2\n" in err
    assert json.loads((tmp_path / "out.json").read_text())[0]["output"] == "No."
    _, err = synthmill(*convert, cwd=tmp_path, expect=2)
    assert "out.json is there already; choose another --out, or write over it with --force" in err
    synthmill(*convert, "--force", "--limit", 1, cwd=tmp_path)
    assert len(json.loads((tmp_path / "out.json").read_text())) == 1


def test_a_trainer_gets_a_folder_and_a_format_a_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [ROW])
    synthmill("convert", "in.jsonl", "--to", "openai", "--out", "lines.jsonl", cwd=tmp_path)
    synthmill("convert", "in.jsonl", "--to", "openai", "--out", "folder", cwd=tmp_path)
    assert (tmp_path / "folder" / "chats_sft" / "train.jsonl").read_bytes() == (tmp_path / "lines.jsonl").read_bytes()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    synthmill("convert", "in.jsonl", "--to", "axolotl", "--out", "folder", "--force", cwd=tmp_path)
    kept = {"README.md", "synthmill.json", "chats_sft.yaml", "chats_sft/train.jsonl", "mine.txt"}
    files = [path for path in (tmp_path / "folder").rglob("*") if path.is_file()]
    assert {str(path.relative_to(tmp_path / "folder")) for path in files} == kept
    for wrong, message in (
        (("--to", "alpaca", "--out", "folder2"), "unknown ending"),
        (("--to", "keras", "--out", "x.jsonl"), "neither a format nor a trainer"),
        (("--to", "alpaca", "--as", "sft", "--out", "x.jsonl"), "--as and --as-text are for trainers"),
        (("--to", "alpaca", "--from", "keras", "--out", "x.jsonl"), "keras is no form of chats; expected one of"),
    ):
        assert message in synthmill("convert", "in.jsonl", *wrong, cwd=tmp_path, expect=2)[1]


def test_help_and_guide_name_every_form(tmp_path: Path) -> None:
    out, _ = synthmill("convert", "--help", cwd=tmp_path)
    guide = (ROOT / "docs" / "converting.md").read_text()
    for name in form_names():
        assert re.search(rf"\b{name}\b", out) and f"| `{name}` |" in guide
    for form in forms().values():
        assert all(f"`{column}`" in guide for columns in form.columns for column in columns)
    for command in re.findall(r"^synthmill convert .*", guide, re.M):
        assert re.search(r"--to (\S+)", command)[1] in {*TARGETS, "llama-factory"}  # type: ignore[index]

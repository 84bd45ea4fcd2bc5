"""JSON arrays are read member by member, whatever the blocks they come in."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthmill.schemas.errors import InputError
from synthmill.storage.plain_files import json_arrays
from synthmill.storage.plain_files.json_arrays import ArrayReader
from synthmill.storage.plain_files.lines import lines_of
from synthmill.storage.plain_files.outputs import write_rows

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
NUMBER = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUE = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(VALUE, max_size=5), st.integers(1, 9), st.sampled_from([None, 1]), st.booleans())
@settings(max_examples=100)
def test_members_are_those_of_the_array(values: list[Any], block: int, indent: int | None, ascii_only: bool) -> None:
    data = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_arrays, "BLOCK", block)
        assert list(ArrayReader(io.BytesIO(data)).members()) == values


BROKEN = ["[1,]", "[1 2]", "[1", "[", "", "[{]", "[1] 2", '{"a": 1} {"a": 2}', '["\\ud800"', "x", "[1.]"]


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_no_array_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "in.json").write_text(text)
    with pytest.raises(InputError, match=r"in\.json .*jsonl"):
        list(lines_of(str(tmp_path / "in.json")))


def test_half_a_surrogate_pair_and_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_bytes(b'\xef\xbb\xbf[{"a": "x\\ud83d"}, 5]')
    first, second = lines_of(str(tmp_path / "in.json"))
    assert first.fields == {"a": "x\ufffd"} and second.fault == "not_an_object: found int"


@pytest.mark.parametrize("rows", [[], [{"a": 1}], [{"a": 1}, {"a": "é\n"}, {"b": None}]])
def test_arrays_are_written_in_parts(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    out = tmp_path / "out.json"
    assert write_rows(out, None, [rows[:1], rows[1:]]) == len(rows)
    assert json.loads(out.read_bytes()) == rows and [line.fields for line in lines_of(str(out))] == rows

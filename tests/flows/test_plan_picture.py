"""The picture of a plan: every step and what it reads is in it, boxes stand apart, names are data."""

import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st

from synthmill.flows.pages.graph import Box, draw_graph
from tests.command import ROOT, synthmill

SVG = "{http://www.w3.org/2000/svg}"


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Box]:
    """Steps, each of which reads some of those before it."""
    boxes: dict[str, Box] = {}
    for number in range(draw(st.integers(1, 9))):
        read = draw(st.lists(st.sampled_from(sorted(boxes)), max_size=3)) if boxes else []
        lines = tuple(draw(st.lists(st.text(max_size=50), min_size=1, max_size=4)))
        boxes[f"key-{number}"] = Box(lines, "work", read[0] if read else "", tuple(read[1:]))
    return boxes


@settings(max_examples=40)
@given(graphs())
def test_boxes_stand_apart_and_each_line_joins_two_of_them(boxes: dict[str, Box]) -> None:
    svg = ElementTree.fromstring(draw_graph(boxes, "a <title> & more"))
    assert svg.findtext(f"{SVG}title") == "a <title> & more"
    places = [[float(rect.attrib[side]) for side in ("x", "y", "width", "height")] for rect in svg.iter(f"{SVG}rect")]
    assert len(places) == len(boxes)
    for number, (x, y, width, height) in enumerate(places):
        assert 0 <= x <= x + width <= float(svg.attrib["width"]) and y + height <= float(svg.attrib["height"]) + 1
        for other_x, other_y, *_ in places[:number]:
            assert abs(other_x - x) >= width or abs(other_y - y) >= min(height, 34)
    reads = {(key, name) for key, box in boxes.items() for name in (box.origin, *box.beside) if name}
    paths = [path.attrib["d"] for path in svg.iter(f"{SVG}path")]
    assert len(paths) == len(reads)
    corners = [(x + width / 2, y) for x, y, width, _ in places]
    for path in paths:
        x, y = re.findall(r"([\d.]+),([\d.]+)$|C.* ([\d.]+),([\d.]+)$", path)[0][-2:]
        assert any(abs(float(x) - at) < 0.2 and abs(float(y) - top) < 0.2 for at, top in corners)


def test_a_dry_run_draws_its_plan(tmp_path: Path) -> None:
    run = (
        "run",
        "examples/pipelines/trusted.yaml",
        "--store",
        tmp_path / "store",
        "--picture",
        tmp_path / "p" / "p.svg",
    )
    _, err = synthmill(*run, cwd=ROOT, expect=2)
    assert "add --dry-run" in err
    out, _ = synthmill(*run, "--dry-run", cwd=ROOT)
    assert f"picture: {tmp_path / 'p' / 'p.svg'}" in out
    svg = ElementTree.fromstring((tmp_path / "p" / "p.svg").read_text())
    boxes = [[text.text for text in group.iter(f"{SVG}text")] for group in svg.iter(f"{SVG}g")]
    by_name = {name: lines for name, *lines in boxes}
    assert by_name["source"] == ["reads rows", "24 rows"]
    assert by_name["pools"] == [
        "answer_pool, makes pools",
        "student: llamacpp:SmolLM2-135M-In…",
        "<= 24 rows, <= 144 calls",
    ]
    assert by_name["matches"][-1] == "<= 24 rows, <= 720 calls"  # of the pools' six answers
    assert by_name["agreed"] == ["pool_pairs, makes preferences", "<= 24 rows"]
    lines = [path.attrib["class"] for path in svg.iter(f"{SVG}path")]
    assert (len(boxes), lines.count(""), lines.count("beside")) == (12, 11, 1)
    _, err = synthmill(*run[:-1], tmp_path / "p.png", "--dry-run", cwd=ROOT, expect=2)
    assert "a picture is an SVG: name it" in err


def test_a_source_that_is_read_far_below_has_one_line_beside_the_steps_between() -> None:
    chain = [f"step-{number}" for number in range(5)]
    boxes = {"source": Box(("source",), "read")}
    boxes |= {name: Box((name,), "work", before, ("source",)) for before, name in pairwise(["source", *chain])}
    svg = ElementTree.fromstring(draw_graph(boxes, "chain"))
    beside = [path.attrib["d"] for path in svg.iter(f"{SVG}path") if path.attrib["class"] == "beside"]
    assert len(beside) == 4 and all(
        longer.startswith(shorter[: shorter.rindex("C")]) for shorter, longer in pairwise(beside)
    )
    assert float(svg.attrib["width"]) < 2 * 264

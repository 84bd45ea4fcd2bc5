"""The tables in peers/results, one file a scenario, from the records in peers/results/raw; docs/benchmarks.md shows
them, and pictures of them.
"""

import json
import platform
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.machine import cores
from peers.contestants import CONTESTANTS, ROOT, Contestant
from peers.pictures import Group, bars

RESULTS = Path(__file__).parent / "results"
RAW = RESULTS / "raw"
PAGE = ROOT / "docs" / "benchmarks.md"
NOT_RUN = {"curatorkit 0.1.22": "not run: its licence (LSAL 1.1) is for noncommercial purposes only"}
ROWS = 2000
Record = dict[str, Any]
ASKING = ("rows/s", "of bare", "wall, s", "to the first request, s", "CPU, ms a row", "peak MiB", "requests", "rows")


def read_records(scenario: str) -> list[Record]:
    path = RAW / f"{scenario}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_pages() -> None:
    for scenario, table in TABLES.items():
        records = read_records(scenario)
        lines = table(records) if records else [f"Not measured yet: `python -m peers.table --scenario {scenario}`."]
        (RESULTS / f"{scenario}.md").write_text("\n".join(lines) + "\n")
    (RESULTS / "versions.md").write_text("\n".join(versions()) + "\n")
    draw_rates()
    draw_resent()
    PAGE.write_text(filled(PAGE.read_text()))


BLOCK = re.compile(r"(<!-- (peers/results/[\w-]+\.md) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """A page with the tables in its blocks as they are now."""
    return BLOCK.sub(lambda block: f"{block[1]}{(ROOT / block[2]).read_text()}{block[3]}", page)


def draw_rates() -> None:
    """Rows a second at both widths, the fastest first."""
    records = {width: read_records(scenario) for width, scenario in ((64, "plain"), (256, "wide"))}
    groups = [
        Group(
            c.title.replace("`", ""),
            [median(map(rate, rounds)) if (rounds := of(r, c)) else None for r in records.values()],
        )
        for c in CONTESTANTS
    ]
    groups = sorted((g for g in groups if g.values[0] is not None), key=lambda group: -(group.values[0] or 0))
    title = "rows a second, from the first request to the last answer (20 ms an answer)"
    draw("benchmarks-rate.svg", title, [f"{width} in flight" for width in records], groups)


def draw_resent() -> None:
    """What was sent twice, and what was lost, after a kill -9 halfway."""
    groups = [
        Group(c.title.replace("`", ""), (r["twice"], ROWS - r["rows"]))
        for c in CONTESTANTS
        for r in of(read_records("kill"), c)[:1]
    ]
    title = "of 2,000 rows, killed at half (kill -9) and run again"
    draw("benchmarks-kill.svg", title, ["requests sent twice", "rows missing at the end"], groups)


def draw(name: str, title: str, series: Sequence[str], groups: Sequence[Group]) -> None:
    if groups:
        (PAGE.parent / name).write_text(bars(title, series, groups))


def of(records: Sequence[Record], contestant: Contestant) -> list[Record]:
    return sorted((r for r in records if r["contestant"] == contestant.name), key=lambda record: record["round"])


def rate(record: Record) -> float:
    """Rows a second from the first request to the last answer."""
    return float(record["rows"] / record["asking_s"]) if record["asking_s"] else 0.0


def asking(records: Sequence[Record]) -> Iterator[str]:
    """Medians over the rounds; `of bare` is the median of the ratios within a round."""
    yield from head(ASKING)
    bare = {r["round"]: rate(r) for r in records if r["contestant"] == "bare"}
    for contestant in CONTESTANTS:
        if not (rounds := of(records, contestant)):
            continue
        ratios = [rate(r) / bare[r["round"]] for r in rounds if bare.get(r["round"])]
        first = rounds[-1]
        cells = (
            f"{median(map(rate, rounds)):,.0f}",
            f"{median(ratios):.2f}" if ratios else "",
            f"{median(r['wall_s'] for r in rounds):.1f}",
            f"{median(r['first_s'] for r in rounds):.1f}",
            f"{median(1000 * r['cpu_s'] / max(1, r['rows']) for r in rounds):.2f}" if first["rows"] else "",
            f"{median(r['memory_mib'] for r in rounds):,.0f}",
            f"{median(r['requests'] for r in rounds):,.0f}",
            f"{median(r['rows'] for r in rounds):,.0f}{ending(first)}",
        )
        yield line(contestant, cells)


def talking(records: Sequence[Record]) -> Iterator[str]:
    """Jobs in which not everybody sends the same number of requests for a row."""
    yield from head(("rows", "requests", "requests/s", "from first to last, s", "wall, s", "CPU, s", "peak MiB"))
    for contestant in CONTESTANTS:
        if rounds := of(records, contestant):
            middle = {key: median(r[key] for r in rounds) for key in ("asking_s", "wall_s", "cpu_s", "memory_mib")}
            last = rounds[-1]
            asked = f"{last['requests'] / middle['asking_s']:,.0f}" if middle["asking_s"] else ""
            cells = (f"{last['rows']:,}{ending(last)}", f"{last['requests']:,}", asked)
            seconds = (f"{middle[key]:.1f}" for key in ("asking_s", "wall_s", "cpu_s"))
            yield line(contestant, (*cells, *seconds, f"{middle['memory_mib']:,.0f}"))


def near(records: Sequence[Record]) -> Iterator[str]:
    yield from head(("planted copies seen", "others dropped", "wall, s", "CPU, s", "peak MiB"))
    for contestant in CONTESTANTS:
        for r in of(records, contestant)[:1]:
            cells = (f"{r['seen']:,} of {r['planted']:,}{ending(r)}", f"{r['wrong']:,}")
            yield line(contestant, (*cells, f"{r['wall_s']:.1f}", f"{r['cpu_s']:.1f}", f"{r['memory_mib']:,.0f}"))


def killed(records: Sequence[Record]) -> Iterator[str]:
    yield from head(
        (
            "asked before",
            "in flight then",
            "processes left",
            "asked after",
            "sent twice",
            "rows of 2,000",
            "wall after, s",
        )
    )
    for contestant in CONTESTANTS:
        for r in of(records, contestant)[:1]:
            cells = (r["before"], r["in_flight"], r["remaining"], r["requests"], r["twice"])
            yield line(
                contestant, (*(f"{cell:,}" for cell in cells), f"{r['rows']:,}{ending(r)}", f"{r['wall_s']:.1f}")
            )
    yield from ("", "![Sent twice](benchmarks-kill.svg)")


def again(records: Sequence[Record]) -> Iterator[str]:
    yield from head(
        (
            "1,000: wall, s",
            "requests",
            "the same again: wall, s",
            "requests",
            "+100: wall, s",
            "requests",
            "rows of 1,100",
        )
    )
    for contestant in CONTESTANTS:
        for r in of(records, contestant)[:1]:
            cells = [
                cell
                for what in ("cold", "warm", "grown")
                for cell in (f"{r[f'{what}_wall_s']:.1f}", f"{r[f'{what}_requests']:,}")
            ]
            yield line(contestant, (*cells, f"{r['grown_rows']:,}"))


def ending(record: Record) -> str:
    """What a reader must know of how it ended."""
    if record["timed_out"]:
        return " (did not end)"
    return f" (exit {record['exit_code']})" if record["exit_code"] else ""


def versions() -> Iterator[str]:
    """What was run where, and what could not be installed or run."""
    yield f"{cores()}; Python {platform.python_version()} for ours and the bare loop."
    yield ""
    yield "| | package | version | measured at |"
    yield "|---|---|---|---|"
    latest = {r["contestant"]: r for scenario in reversed(TABLES) for r in read_records(scenario)}
    for contestant in CONTESTANTS:
        record = latest.get(contestant.name)
        missing = "cannot be installed here" if contestant.is_absent else "not measured"
        cells = (record["version"], record["commit"]) if record else ("", missing)
        yield f"| {contestant.title} | {contestant.package} | {' | '.join(cells)} |"
    for package, reason in NOT_RUN.items():
        name, version = package.split()
        yield f"| {name} | {name} | {version} | {reason} |"


def head(columns: Sequence[str]) -> Iterator[str]:
    yield f"| | {' | '.join(columns)} |"
    yield "|---|" + "---:|" * len(columns)


def line(contestant: Contestant, cells: Sequence[str]) -> str:
    return f"| {contestant.title} | {' | '.join(cells)} |"


TABLES = {
    **dict.fromkeys(("plain", "wide", "faults"), asking),
    "kill": killed,
    "again": again,
    **dict.fromkeys(("dialogues", "judged"), talking),
    "duplicates": near,
}

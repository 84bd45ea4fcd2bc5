"""`synthmill convert` between all forms on real chats, ranked answers and trajectories: what is written, what comes back.

    python -m bench.conversions --data FOLDER

FOLDER holds mtrag/, biggen_bench/, dedup/, alpaca_eval/ and agent/. A cell: rows written; how many of them are equal to
the source's after the way back, where there is one; the letters of what was lost, listed below.
"""

import argparse
import gzip
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from synthmill.schemas.errors import InputError
from synthmill.storage.conversion.chat_files import ChatFile
from synthmill.storage.conversion.tally import Report, Tally
from synthmill.storage.conversion.to_format import TARGETS, convert_to_format
from synthmill.storage.plain_files.chat_rows import ChatRow, differences

ROWS, ANSWERS = 1000, 19
"""Rows of a source, and answers that are ranked in one."""
Row = dict[str, Any]
SHELL = {
    "type": "function",
    "function": {"name": "shell", "parameters": {"properties": {"command": {"type": "string"}}}},
}


def read(path: Path) -> list[Row]:
    with gzip.open(path) as file:
        return [orjson.loads(line) for line in file]


def said(role: str, text: str) -> Row:
    return {"role": role, "content": text}


def chats(data: Path) -> Iterator[Row]:
    """Conversations: MTRAG's with their history, BiGGen's with their system message, GPTeacher's."""
    for task in read(data / "mtrag/tasks.jsonl.gz"):
        history = [said(turn["role"], turn["text"]) for turn in task["history"]]
        yield {"messages": [*history, said("user", task["question"]), said("assistant", task["reference_answer"])]}
    for row in read(data / "biggen_bench/biggen.jsonl.gz"):
        texts = zip(("system", "user", "assistant"), ("system_prompt", "input", "reference_answer"), strict=True)
        yield {"messages": [said(role, row[name]) for role, name in texts if row[name]]}
    for row in read(data / "dedup/gpteacher_toolformer_ladder.jsonl.gz"):
        yield {"messages": [said("user", f"{row['instruction']}\n{row['input']}"), said("assistant", row["output"])]}


def instructions(data: Path) -> Iterator[Row]:
    """GPTeacher's rows as they are, in Alpaca's form."""
    yield from read(data / "dedup/gpteacher_toolformer_ladder.jsonl.gz")


def ranked(data: Path) -> Iterator[Row]:
    """AlpacaEval's answers to a prompt, some at a time, ranked by the judge's preference, as NeMo-RL has them."""
    for row in read(data / "alpaca_eval/pool.jsonl.gz"):
        for start in range(0, len(row["responses"]) - 1, ANSWERS):
            answers = sorted(row["responses"][start : start + ANSWERS], key=lambda answer: -answer["p_win"])
            completions = [
                {"rank": rank, "completion": [said("assistant", answer["output"])]}
                for rank, answer in enumerate(answers)
            ]
            yield {"context": [said("user", row["instruction"])], "completions": completions}


def trajectories(data: Path) -> Iterator[Row]:
    """InterCode's and WebShop's runs as ATIF: each action is a call, what the environment says is its result."""
    for row in chain(
        *(read(data / "agent" / f"{name}_trajectories.jsonl.gz") for name in ("intercode_bash", "react_webshop"))
    ):
        steps: list[Row] = [{"step_id": 1, "source": "user", "message": row.get("query", "Shop.")}]
        for number, message in enumerate(row["messages"]):
            if message["role"] == "agent":
                call = {
                    "tool_call_id": f"c{number}",
                    "function_name": "shell",
                    "arguments": {"command": message["text"]},
                }
                steps.append({"step_id": len(steps) + 1, "source": "agent", "message": "", "tool_calls": [call]})
            elif "tool_calls" in steps[-1]:
                result = {"source_call_id": steps[-1]["tool_calls"][0]["tool_call_id"], "content": message["text"]}
                steps[-1]["observation"] = {"results": [result]}
        agent = {"name": "react", "version": "1", "tool_definitions": [SHELL]}
        yield {"schema_version": "ATIF-v1.6", "session_id": row["id"], "agent": agent, "steps": steps}


SOURCES = {"openai": chats, "alpaca": instructions, "nemo": ranked, "atif": trajectories}
DERIVED = {
    "sharegpt": ("openai", "sharegpt"),
    "sharegpt, calls": ("atif", "sharegpt"),
    "openai, calls": ("atif", "openai"),
    "trl": ("nemo", "dpo"),
    "trl, implicit": ("nemo", "reward"),
    "trl, texts": ("nemo", "dpo-plain"),
    "trl, kto": ("nemo", "kto"),
    "openai, pairs": ("nemo", "openai"),
    "sharegpt, pairs": ("nemo", "sharegpt"),
    "alpaca, pairs": ("nemo", "alpaca"),
    "prompts": ("openai", "prompts"),
}
"""Further sources: (the source, the format) that they are made of."""
BACK = {"sharegpt": "sharegpt", "alpaca": "alpaca", "openai": "openai", "trl": "dpo", "prompts": "prompts"}
BACK |= {"sharegpt, calls": "sharegpt", "openai, calls": "openai", "trl, implicit": "reward", "trl, texts": "dpo-plain"}
BACK |= {"trl, kto": "kto", "openai, pairs": "openai", "sharegpt, pairs": "sharegpt", "alpaca, pairs": "alpaca"}


def convert(source: Path, name: Any, out: Path) -> Report | None:
    """None where rows of this kind cannot be in the format."""
    file = ChatFile(str(source))
    try:
        return convert_to_format(file, name, out, "", file.look(), lambda *_: None)
    except InputError:
        return None


def rows_of(path: Path) -> list[ChatRow]:
    return [row for _, row in ChatFile(str(path)).rows(Tally())]


def equal_after_the_way_back(source: Path, there: Path, name: str, folder: Path) -> int | None:
    """How many rows are as they were; None where the way there is one way."""
    back = folder / "back.jsonl"
    if not convert(there, name, back):
        return None
    before, after = rows_of(source), rows_of(back)
    same_kind = [(row, other) for row, other in zip(before, after, strict=False) if row.kind == other.kind]
    return sum(not differences(row, other) for row, other in same_kind) if same_kind else None


def table(data: Path, folder: Path) -> Iterator[str]:
    for name, rows in SOURCES.items():
        (folder / f"{name}.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in islice(rows(data), ROWS)))
    for name, (source, made) in DERIVED.items():
        convert(folder / f"{source}.jsonl", made, folder / f"{name}.jsonl")
    letters: dict[str, str] = {}
    yield f"| from | rows | {' | '.join(TARGETS)} |"
    yield f"|---|---:|{'---|' * len(TARGETS)}"
    for name in (*SOURCES, *DERIVED):
        source, out = folder / f"{name}.jsonl", folder / "out.jsonl"
        cells = []
        for target in TARGETS:
            report = convert(source, target, out)
            if report is None:
                cells.append("")
                continue
            back = equal_after_the_way_back(source, out, BACK[name], folder) if name in BACK else None
            lost = [letters.setdefault(what, chr(ord("a") + len(letters))) for what in sorted(report.lost.counts)]
            left = [letters.setdefault(what, chr(ord("a") + len(letters))) for what in sorted(report.left_out.counts)]
            cells.append(
                " ".join([f"{report.written:,}", *([f"= {back:,}"] if back is not None else []), *lost, *left])
            )
        yield f"| {name} | {len(rows_of(source)):,} | {' | '.join(cells)} |"
    yield ""
    yield "; ".join(f"{letter} {what}" for what, letter in letters.items())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    with TemporaryDirectory() as temporary:
        print("\n".join(table(parser.parse_args().data, Path(temporary))))

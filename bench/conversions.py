"""`synthmill convert` between all forms on real chats, ranked answers and trajectories: what is kept.

    python -m bench.conversions --data FOLDER

FOLDER holds mtrag/, biggen_bench/, dedup/, alpaca_eval/ and agent/. A cell: rows written; how many are equal to the
source's after the way back, where there is one; letters of what was lost or left out, listed below. ?: only the trainer
reads the form, so what its rows lost is not known. An empty cell: rows of this kind cannot be in the form.
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
from synthmill.storage.conversion.to_trainer import ACCEPTED, Job, convert_for_trainer
from synthmill.storage.plain_files.chat_rows import ChatRow, differences
from synthmill.storage.published.known_trainers import trainer, trainer_names

ROWS, ANSWERS = 1000, 19
"""Rows of a source, and answers that are ranked in one."""
Row = dict[str, Any]
COMMAND = {"type": "object", "properties": {"command": {"type": "string"}}}
SHELL = {"type": "function", "function": {"name": "shell", "parameters": COMMAND}}


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
            texts = [[said("assistant", answer["output"])] for answer in answers]
            completions = [{"rank": rank, "completion": text} for rank, text in enumerate(texts)]
            yield {"context": [said("user", row["instruction"])], "completions": completions}


def trajectories(data: Path) -> Iterator[Row]:
    """InterCode's and WebShop's runs as ATIF: each action is a call, what the environment says is its result."""
    runs = (read(data / f"agent/{name}_trajectories.jsonl.gz") for name in ("intercode_bash", "react_webshop"))
    for row in chain(*runs):
        steps: list[Row] = [{"step_id": 1, "source": "user", "message": row.get("query", "Shop.")}]
        for number, message in enumerate(row["messages"]):
            if message["role"] == "agent":
                call = {"function_name": "shell", "arguments": {"command": message["text"]}}
                call["tool_call_id"] = f"c{number}"
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
FOR_TRAINERS = ("openai", "atif", "trl", "trl, kto", "prompts")
"""Sources that are converted for trainers."""
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


def equal_after_the_way_back(before: list[ChatRow], there: Path, name: str, folder: Path) -> int | None:
    """How many rows are as they were; None where the way there is one way."""
    back = folder / "back.jsonl"
    if not convert(there, name, back):
        return None
    same_kind = [pair for pair in zip(before, rows_of(back), strict=False) if pair[0].kind == pair[1].kind]
    return sum(not differences(row, other) for row, other in same_kind) if same_kind else None


class Legend:
    """Letters for what is lost."""

    def __init__(self) -> None:
        self.letters: dict[str, str] = {}

    def cell(self, report: Report, back: int | None = None) -> str:
        names = sorted([*report.lost.counts, *report.left_out.counts])
        letters = [self.letters.setdefault(name, chr(ord("a") + len(self.letters))) for name in names]
        equal = [] if back is None else [f"= {back:,}"]
        return " ".join([f"{report.written:,}{'?' if report.not_compared else ''}", *equal, *letters])

    def __str__(self) -> str:
        return "; ".join(f"{letter} {what}" for what, letter in self.letters.items())


def tables(data: Path, folder: Path) -> Iterator[str]:
    for name, read_rows in SOURCES.items():
        lines = (orjson.dumps(row) + b"\n" for row in islice(read_rows(data), ROWS))
        (folder / f"{name}.jsonl").write_bytes(b"".join(lines))
    for name, (source, made) in DERIVED.items():
        convert(folder / f"{source}.jsonl", made, folder / f"{name}.jsonl")
    legend = Legend()
    yield f"| from | rows | {' | '.join(TARGETS)} |"
    yield f"|---|---:|{'---|' * len(TARGETS)}"
    for name in (*SOURCES, *DERIVED):
        path, out, cells = folder / f"{name}.jsonl", folder / "out.jsonl", list[str]()
        rows = rows_of(path)
        for target in TARGETS:
            report = convert(path, target, out)
            back = equal_after_the_way_back(rows, out, BACK[name], folder) if report and name in BACK else None
            cells.append(legend.cell(report, back) if report else "")
        yield f"| {name} | {len(rows):,} | {' | '.join(cells)} |"
    yield ""
    names = [name for name in trainer_names() if set(trainer(name).forms) & set(ACCEPTED)]
    yield f"| from | {' | '.join(names)} |"
    yield f"|---|{'---|' * len(names)}"
    for name in FOR_TRAINERS:
        reports = [convert_for(folder / f"{name}.jsonl", of, folder / "trainer") for of in names]
        yield f"| {name} | {' | '.join(legend.cell(report) if report else '' for report in reports)} |"
    yield ""
    yield str(legend)


def convert_for(source: Path, name: str, out: Path) -> Report | None:
    """None where the trainer reads no rows of this kind."""
    file = ChatFile(str(source))
    try:
        return convert_for_trainer(file, Job(name), out, file.look(), lambda *_: None)
    except InputError:
        return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    with TemporaryDirectory() as temporary:
        print("\n".join(tables(parser.parse_args().data, Path(temporary))))

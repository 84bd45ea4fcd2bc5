"""The runs that readers are tried on: a minute, no key, no hub, no GPU; every answer is the local chat server's.

Tools are called for real in `dialogues` (the applications of examples/), system messages stand in `multifaceted`,
several turns in `retpo`, rewards and reference answers in `preferences`, pairs under system messages in `synthesize`.
Three publish rows of their own: `verified` prompts for RL with what verifies their answers, `tool_pairs` pairs with
tools, `thoughts` answers with what was thought before them.
"""

from contextlib import chdir
from pathlib import Path
from typing import Any

import orjson
import yaml

import synthmill
from bench.serving import chat_server
from synthmill.storage.runs import RunRecord

ROOT = Path(__file__).parent.parent
WORDS = ("river", "stone", "light", "field", "seven", "birds", "circle", "mill", "bridge", "quiet", "over", "and")
APPLICATIONS = [str(ROOT / "examples" / "dialogues" / name) for name in ("shell.yaml", "orders.yaml")]
PLACE = {"type": "object", "properties": {"at": {"type": "string"}}}
LOOK = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": PLACE}}
Tables = dict[str, str]

SETTINGS: dict[str, dict[str, Any]] = {
    "synthesize": {"source": "prompts.jsonl", "answers": {"count": 3}},
    "dialogues": {
        "applications": APPLICATIONS,
        "inputs": {"count": 4, "per_call": 10, "threshold": 1},
        "dialogues": {"branches": 2, "temperature": 0.7, "max_turns": 4, "environment": "real"},
        "cut": {"min_format_adherence": 0},
    },
    "multifaceted": {
        "source": "prompts.jsonl",
        "bench": {"share": 0.2, "threshold": 1},
        "dedup": {"layers": ["exact"]},
    },
    "preferences": {
        "source": "prompts.jsonl",
        "policies": ["student"],
        "answers": {"count": 4},
        "scorers": ["expected", "judge"],
        "reward": "judge",
        "cuts": ["rip"],
    },
    "retpo": {"source": "turns.jsonl", "corpus": "corpus.jsonl", "retrievers": ["bm25"], "depth": 20},
}


def make_runs(folder: Path) -> dict[str, Path]:
    """Make every run in `folder`'s store; a second time is a look-up. Returns methods -> folders of their datasets."""
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / "prompts.jsonl", prompts(8))
    write_lines(folder / "turns.jsonl", turns(8))
    write_lines(folder / "corpus.jsonl", passages(40))
    with chdir(folder), chat_server("--latency-ms", "2", "--words", "12", "--context", "20000") as url:
        own = {"engines": {"teacher": f"openai:local-model@{url}"}, "store": str(folder / "store")}
        records = {method: synthmill.run(method, {**settings, **own}) for method, settings in SETTINGS.items()}
        tables: dict[str, Tables] = {"verified": {"rl": "rl"}, "tool_pairs": {"pairs": "preferences"}}
        tables["thoughts"] = {"sft": "conversations", "pairs": "preferences"}
        rows = {"verified": sums(6), "tool_pairs": tool_pairs(6), "thoughts": thoughts(7)[1:]}
        records |= {name: published(folder, name, rows[name], tables[name]) for name in tables}
    return {method: Path(record.dataset).absolute() for method, record in records.items()}


def published(folder: Path, name: str, rows: list[Any], tables: Tables) -> RunRecord:
    """Rows of a user's own, as a pipeline publishes them. tables: configuration -> kind."""
    write_lines(folder / f"{name}.jsonl", rows)
    own = {config: {"kind": kind, "columns": [] if len(tables) > 1 else None} for config, kind in tables.items()}
    pipeline = {
        "source": f"{name}.jsonl",
        "steps": {"all": {"stage": "filter", "where": "TRUE"}},
        "publish": own,
        "store": str(folder / "store"),
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(pipeline))
    return synthmill.run(f"{name}.yaml")


def sums(count: int) -> list[dict[str, Any]]:
    """Prompts with reference answers and the verifier that checks them."""
    return [
        {
            "id": f"v{n}",
            "prompt": f"Wie viel ist {n} + {n}? 🌊",
            "answer": str(2 * n),
            "verifier": "verify:exact",
            "verifier_arguments": '{"part": "last_line"}',
            "data_source": "sums",
            "pass_rate": 0.5,
        }
        for n in range(count)
    ]


def tool_pairs(count: int) -> list[dict[str, Any]]:
    """Pairs about calls: whether to make one (odd rows), and what to say of its result (even ones)."""
    rows = []
    for n in range(count):
        call = {"id": f"c{n}", "type": "function", "function": {"name": "look", "arguments": f'{{"at": "place {n}"}}'}}
        prompt = [said("system", "You may look."), said("user", f"What is at place {n}? 🌊")]
        calling = [said("assistant", "", tool_calls=[call])]
        answer, guess = [said("assistant", f"Number {n}.")], [said("assistant", f"Perhaps {n + 1}.")]
        if n % 2:
            rows.append({"id": f"p{n}", "prompt": prompt, "chosen": calling, "rejected": guess})
        else:
            result = said("tool", f"number {n}", tool_call_id=f"c{n}")
            rows.append({"id": f"p{n}", "prompt": [*prompt, *calling, result], "chosen": answer, "rejected": guess})
    return [{**row, "tools": orjson.dumps([LOOK]).decode()} for row in rows]


def thoughts(count: int) -> list[dict[str, Any]]:
    """Chats and pairs whose answers have thinking before them; every third chosen answer has none."""
    rows = []
    for n in range(count):
        thinking = {"reasoning_content": f"Let me see: {n} and {n}."} if n % 3 != 2 else {}
        asked, answer = [said("user", f"Twice {n}, and one?")], [said("assistant", f"It is {2 * n + 1}.", **thinking)]
        rejected = [said("assistant", f"It is {2 * n}.", reasoning_content="No idea.")]
        sides = {"prompt": asked, "chosen": answer, "rejected": rejected}
        rows.append({"id": f"t{n}", "messages": [*asked, *answer], **sides})
    return rows


def said(role: str, content: str, **others: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **others}


def prompts(count: int) -> list[dict[str, str]]:
    return [
        {
            "id": f"q{n}",
            "prompt": f"Question {n}: why do {WORDS[n % 12]}s bend? Wie schön 🌊",
            "reference": f"answer {n}",
        }
        for n in range(count)
    ]


def turns(count: int) -> list[dict[str, Any]]:
    """Conversations of four turns about words that the server's guesses are made of."""
    return [
        {
            "conversation": f"c{n // 4}",
            "turn": n % 4 + 1,
            "history": [{"role": "user", "content": "hello"}, {"role": "agent", "content": "yes"}] * (n % 4),
            "question": f"what of the {WORDS[n % 12]} and the {WORDS[n * 5 % 11]}?",
            "gold": [f"p{n % 40}"],
            "answer": f"the answer {n}",
        }
        for n in range(count)
    ]


def passages(count: int) -> list[dict[str, str]]:
    return [{"_id": f"p{n}", "title": "", "text": f"{WORDS[n % 12]} {WORDS[n * 5 % 11]} {n}"} for n in range(count)]


def write_lines(path: Path, rows: list[Any]) -> None:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))

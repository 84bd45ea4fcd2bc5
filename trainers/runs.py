"""The runs that readers are tried on: a minute, no key, no hub, no GPU; every answer is the local chat server's.

Tools are called for real in `dialogues` (the applications of examples/), system messages stand in `multifaceted`,
several turns in `retpo`, rewards and reference answers in `preferences`, `synthesize` is the demo, and
`verified` has prompts for RL with what verifies their answers.
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
        records["verified"] = verified(folder)
    return {method: Path(record.dataset).absolute() for method, record in records.items()}


def verified(folder: Path) -> RunRecord:
    """Prompts with reference answers and the verifiers that check them, as a pipeline publishes a user's own."""
    rows = [
        {
            "id": f"v{n}",
            "prompt": f"Wie viel ist {n} + {n}? 🌊",
            "answer": str(2 * n),
            "verifier": "verify:number",
            "verifier_arguments": "{}",
            "data_source": "sums",
            "pass_rate": 0.5,
        }
        for n in range(6)
    ]
    write_lines(folder / "verified.jsonl", rows)
    pipeline = {
        "source": "verified.jsonl",
        "steps": {"all": {"stage": "filter", "where": "TRUE"}},
        "publish": {"rl": {"kind": "rl"}},
        "store": str(folder / "store"),
    }
    (folder / "verified.yaml").write_text(yaml.safe_dump(pipeline))
    return synthmill.run("verified.yaml")


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

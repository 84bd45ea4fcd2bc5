"""Synthesized dialogues beside real trajectories: turns, length of observations, share of valid actions.

    python -m bench.trajectories --real DIR [--engine llamacpp:smollm2] [--inputs 20] [--store FOLDER]

DIR holds AgentBench's prompts (agentbench_prompts.json) and real trajectories: InterCode's bash logs
(intercode_bash_trajectories.jsonl.gz) and ReAct's WebShop episodes (react_webshop_trajectories.jsonl.gz). The
applications are bench/applications/os.yaml and webshop.yaml. A turn is in form when it fits the application's
grammar; an action is valid when it is in form and the environment can carry it out: the shell does not complain of a
syntax error or an unknown command, the shop has that button on its page.
"""

import argparse
import gzip
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import yaml

from synthmill.flows.methods.dialogues import plan as plan_dialogues
from synthmill.schemas.dialogue_settings import DialogueSettings
from synthmill.storage.published.rows import read_frame
from synthmill.tasks.generators.dialogues.signs import is_action

HERE = Path(__file__).parent
NOT_RUN = re.compile(r"Malformed command|syntax error|command not found|unexpected EOF")
BUTTON = re.compile(r"click\[([^\]]+)\]", re.IGNORECASE)


class Act(NamedTuple):
    """One action: whether it was in form (None: another protocol), whether it was valid, and the reply, if any."""

    in_form: bool | None
    valid: bool
    reply: str | None


def can_be_done(application: str, text: str, before: str, reply: str | None) -> bool:
    """Whether an environment could carry out an action that is in form."""
    if application == "os":
        return reply is None or not NOT_RUN.search(reply)
    clicked = BUTTON.search(text)
    return clicked is None or clicked[1].strip().casefold() in before.casefold()


def acts_of_dialogue(row: dict[str, Any]) -> list[Act]:
    application, turns = row["application"], [turn["content"] for turn in row["turns"]]
    page, acts = row["pseudo_input"], []
    for place in range(0, len(turns), 2):
        reply = turns[place + 1] if place + 1 < len(turns) else None
        in_form = is_action(application["action"], turns[place])
        valid = in_form and can_be_done(application["name"], turns[place], page, reply)
        acts.append(Act(in_form, valid, reply))
        page = reply or page
    return acts


def real_os(row: dict[str, Any]) -> list[Act]:
    texts = [message["text"] for message in row["messages"]]
    return [
        Act(None, not NOT_RUN.search(reply), reply)
        for action, reply in zip(texts[::2], texts[1::2], strict=False)
        if action != "submit"
    ]


def real_webshop(row: dict[str, Any]) -> list[Act]:
    texts = [message["text"] for message in row["messages"]]
    return [
        Act(None, not reply.startswith("Invalid action"), reply)
        for action, reply in zip(texts[::2], texts[1::2], strict=False)
        if action.startswith(("search[", "click["))
    ]


def line(application: str, origin: str, dialogues: Sequence[Sequence[Act]], kept: str) -> str:
    acts = [act for dialogue in dialogues for act in dialogue]
    replies = [len(act.reply) for act in acts if act.reply is not None]
    in_form = [act.in_form for act in acts if act.in_form is not None]
    cells: Iterable[object] = (
        application,
        origin,
        len(dialogues),
        f"{statistics.mean(map(len, dialogues)):.1f}" if dialogues else "",
        f"{statistics.median(replies):.0f}" if replies else "",
        f"{statistics.mean(replies):.0f}" if replies else "",
        f"{sum(in_form) / len(in_form):.0%}" if in_form else "",
        f"{sum(act.valid for act in acts) / len(acts):.0%}" if acts else "",
        kept,
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def read_rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path) as file:
        return [orjson.loads(row) for row in file]


def synthesize(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Run the flow `dialogues` on both applications, as anyone would; every dialogue with its signs."""
    files = []
    for name in ("os", "webshop"):
        text = (HERE / "applications" / f"{name}.yaml").read_text()
        files.append(folder / f"{name}.yaml")
        files[-1].write_text(text.replace("REAL/", f"{options.real.resolve()}/"))
    settings = {
        "applications": [str(file) for file in files],
        "store": str(options.store or folder / "store"),
        "engines": {"teacher": {"spec": options.engine, "options": yaml.safe_load(options.options)}},
        "inputs": {"count": options.inputs, "max_tokens": 1024, "per_call": 5},
        "outputs": {"max_tokens": 200},
        "reasons": {"max_tokens": 200},
        "dialogues": {"max_tokens": 200, "max_turns": options.turns, "temperature": 0.7, "top_p": 0.9},
        "workers": 0,
    }
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "synthmill.flows.cli", "run", "dialogues", "--config", str(config)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    plan = plan_dialogues(DialogueSettings.model_validate(settings))
    manifests = plan.made()
    assert manifests is not None
    return read_frame(plan.store, manifests["dialogue_signs"]).to_dicts()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--engine", default="llamacpp:smollm2")
    parser.add_argument("--options", default="{}", help="the engine's options, YAML")
    parser.add_argument("--label", help="the model's name in the table")
    parser.add_argument("--inputs", type=int, default=20, help="per application")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--store", type=Path, help="default: a temporary one; with one, an interrupted bench resumes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = synthesize(options, Path(folder))
    print("| application | trajectories | dialogues | turns | reply chars, median | mean | in form | valid | kept |")

    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    real = {
        "os": [real_os(row) for row in read_rows(options.real / "intercode_bash_trajectories.jsonl.gz")],
        "webshop": [real_webshop(row) for row in read_rows(options.real / "react_webshop_trajectories.jsonl.gz")],
    }
    for name, trajectories in real.items():
        dialogues = [row for row in rows if row["application"]["name"] == name]
        kept = f"{sum(row['kept'] for row in dialogues)} of {len(dialogues)}"
        label = f"synthesized, {options.label or options.engine}"
        print(line(name, label, [acts_of_dialogue(row) for row in dialogues], kept))
        print(line(name, "real", trajectories, ""))


if __name__ == "__main__":
    main()

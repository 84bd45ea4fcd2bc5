"""The commands of a guide: its blocks of shell, taken out of the Markdown and run in one folder, from first to last."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.command import ROOT, environment, run_in_process, whole

GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```bash\n(?P<text>.*?)^```$", re.M | re.S)
COMMAND = re.compile(r"^(synthmill (?:.*\\\n)*.*)$", re.M)
EXIT = re.compile(r"# exits with (\d+)")
MODEL = "MODEL@http://127.0.0.1:8000/v1"
"""The model and its server, as guides write them."""
ARGUMENTS = 'synthmill() { printf "%s\\0" "$@"; }\n'
"""Before a command, it makes a shell print the command's arguments."""


class Block(NamedTuple):
    """A block of shell. reason: why no test runs it; empty where one does."""

    reason: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    return [Block(match["reason"] or "", match["text"]) for match in BLOCK.finditer(page.read_text())]


def commands_of(block: Block) -> Iterator[str]:
    """Its commands of synthmill, each by itself, and what stands between them."""
    yield from filter(str.strip, COMMAND.split(block.text))


def run_guide(page: Path, folder: Path, spec: str) -> None:
    """Run a guide's blocks. Each command must end with 0, or as its line says: `# exits with 3`. spec: the engine that
    answers in the place of the guide's.
    """
    for block in blocks_of(page):
        for command in commands_of(block) if not block.reason else ():
            code, printed = run(command.replace(MODEL, spec.removeprefix("openai:")), folder)
            expected = int(match[1]) if (match := EXIT.search(command)) else 0
            assert code == expected, f"{page.name}: {command}\nexit {code}, expected {expected}\n{printed}"


def run(command: str, folder: Path) -> tuple[int, str]:
    """(exit code, what is printed) of a command; one of synthmill runs in this process, and so do its workers."""
    if not COMMAND.match(command):
        return shell(command, folder)
    arguments = whole(shell(ARGUMENTS + command, folder)[1].split("\0")[:-1])
    code, out, err = run_in_process([*arguments, *(["--workers", "0"] if arguments[0] == "run" else [])], folder)
    return code, out + err


def shell(command: str, folder: Path) -> tuple[int, str]:
    bash = ["bash", "-euc", command]
    done = subprocess.run(bash, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr

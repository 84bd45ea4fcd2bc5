"""Run a short job for real in a terminal of its own, and draw what it printed, as it came, as one SVG.

    python docs/recording.py [docs/recording.svg]

A line appears when its command printed it, with pauses cut to LONGEST_PAUSE_S; who wants no motion, or looks at it
without styles, sees all lines at once. The job works in a temporary folder on the embedded model: no key, no network.
"""

import fcntl
import os
import pty
import re
import select
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from rich.ansi import AnsiDecoder
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).parents[1]
RUN = "synthmill run column.yaml --set source.limit=4 --no-prefect"
JOB = (
    "cat column.yaml",
    f"{RUN} --dry-run",
    RUN,
    RUN,
    'synthmill sql "SELECT prompt, answer[:50] AS answer FROM ask LIMIT 2"',
)
COLUMNS, ROWS = 96, 50
LETTER, LINE, EDGE = 8.0, 18, 16  # pixels
LONGEST_PAUSE_S, TYPED_S = 1.2, 0.6
TIME_LIMIT_S = 180
Line = tuple[float, str]
"""When it was printed, in seconds, and its text with the codes of its colours."""


def main(path: Path) -> None:
    """Record the job, and write the picture. Raises CalledProcessError where a command fails."""
    lines: list[Line] = []
    now = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for file in ("pipelines/column.yaml", "instructions.jsonl"):
            Path(folder, file.rpartition("/")[2]).write_bytes((ROOT / "examples" / file).read_bytes())
        source = Path(folder, "column.yaml")
        source.write_text(source.read_text().replace("examples/", ""))
        for command in JOB:
            lines.append((now, f"\x1b[1;32m$\x1b[0m \x1b[1m{command}\x1b[0m"))
            printed = screen(record(command, Path(folder)))
            lines += [(now + TYPED_S + at, text.replace(folder, "~")) for at, text in printed]
            now = lines[-1][0] + TYPED_S
    path.write_text(drawing(in_short(lines)), encoding="utf-8")
    print(path)


def record(command: str, folder: Path) -> Iterator[tuple[float, bytes]]:
    """What a command prints in a terminal, with the seconds since its start."""
    inner, outer = pty.openpty()
    fcntl.ioctl(outer, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    words = shlex.split(command)
    words[:1] = [sys.executable, "-m", "synthmill.flows.cli"] if words[0] == "synthmill" else words[:1]
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "COLORTERM": "truecolor"}
    started = time.monotonic()
    process = subprocess.Popen(words, cwd=folder, env=environment, stdin=outer, stdout=outer, stderr=outer)
    os.close(outer)
    try:
        while time.monotonic() - started < TIME_LIMIT_S:
            ready, _, _ = select.select([inner], [], [], 0.1)
            try:
                printed = os.read(inner, 65536) if ready else b""
            except OSError:  # the command has closed its end
                break
            if printed:
                yield time.monotonic() - started, printed
    finally:
        os.close(inner)
        process.kill() if process.poll() is None and time.monotonic() - started >= TIME_LIMIT_S else None
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, command)


def screen(pieces: Iterator[tuple[float, bytes]]) -> list[Line]:
    """The lines that are there at the end: one that is written over is new, one that is taken back is gone."""
    lines: list[Line] = [(0.0, "")]
    row, over = 0, False
    for at, piece in pieces:
        for part in re.split(r"(\r?\n|\r|\x1b\[\d*[A-HJKST]|\x1b\[\?\d+[hl])", piece.decode(errors="replace")):
            if part.endswith("\n"):
                row, over = row + 1, False
                if row == len(lines):
                    lines.append((at, ""))
            elif part == "\r":
                over = True
            elif moved := re.fullmatch(r"\x1b\[(\d*)A", part):
                row = max(0, row - int(moved[1] or 1))
            elif part == "\x1b[2K":
                lines[row] = (at, "")
            elif part and not part.startswith("\x1b[?"):
                lines[row] = (at, part) if over or not lines[row][1] else (lines[row][0], lines[row][1] + part)
                over = False
    while lines and not re.sub(r"\x1b\[[\d;]*m", "", lines[-1][1]).strip():
        lines.pop()
    return lines


def in_short(lines: Sequence[Line]) -> list[Line]:
    """The same lines with long pauses cut."""
    short, before, now = [], 0.0, 0.0
    for at, text in lines:
        now += min(LONGEST_PAUSE_S, max(0.0, at - before))
        before = max(before, at)
        short.append((now, text))
    return short


def drawing(lines: Sequence[Line]) -> str:
    """The SVG: a dark terminal, whatever the page is."""
    width, height = COLUMNS * LETTER + 2 * EDGE, len(lines) * LINE + 2 * EDGE
    ink, ground = MONOKAI.foreground_color.hex, MONOKAI.background_color.hex
    style = (
        f"text{{font:13.3px ui-monospace,Menlo,Consolas,monospace;white-space:pre;fill:{ink}}}"
        "@media(prefers-reduced-motion:no-preference){g{animation:come .01s both}}@keyframes come{from{opacity:0}}"
    )
    console = Console(color_system="truecolor", width=10_000)
    decode = AnsiDecoder().decode_line
    rows = [
        f'<g style="animation-delay:{at:.2f}s"><text x="{EDGE}" y="{EDGE + LINE * number + 13}">'
        f"{''.join(spans(decode(text), console))}</text></g>"
        for number, (at, text) in enumerate(lines)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" role="img">'
        f"<title>a terminal: a job is checked, run, and run again</title><style>{style}</style>"
        f'<rect width="100%" height="100%" rx="10" fill="{ground}"/>{"".join(rows)}</svg>\n'
    )


def spans(text: Text, console: Console) -> Iterator[str]:
    """A line's pieces, each at its column, in its colour."""
    column = 0
    for piece in text.render(console):
        style = piece.style
        look = ' font-weight="700"' if style and style.bold else ""
        look += ' opacity=".6"' if style and style.dim else ""
        if style and style.color and not style.color.is_default:
            look += f' fill="{style.color.get_truecolor(MONOKAI).hex}"'
        if piece.text.strip():
            at = EDGE + LETTER * column
            size = f'x="{at:.0f}" textLength="{LETTER * piece.cell_length:.0f}"'
            yield f"<tspan {size}{look}>{escape(piece.text)}</tspan>"
        column += piece.cell_length


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "recording.svg")

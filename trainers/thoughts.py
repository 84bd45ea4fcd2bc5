"""What readers make of thinking, wherever `--thinking` puts it: whether it reaches the model, and is learned."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from synthmill.schemas.formats import ThinkingPlace, Use
from synthmill.storage.published.known_trainers import trainer
from trainers.reading_all import Job, Reading, exports

RUN = "thoughts"
PLACES: tuple[ThinkingPlace, ...] = ("field", "text", "drop")
HEAD = """
## Thinking
What readers make of answers with thinking before them, by `--thinking` (`default`: where the trainer's rows have it
without the option). **learned**: the tokens under the loss say it; **read**: the model sees it, and no loss is on it;
**left out**: neither; **refused**: the export says so before it writes a file. Reward models have no loss on tokens.
"""
WORDS = {"learned": "learned", "read": "read", "gone": "left out"}


def thinking_exports(name: str, dataset: Path, folder: Path) -> Iterator[tuple[ThinkingPlace, Job | Reading]]:
    """Rows with thinking, exported with every `--thinking`, for the uses that train on answers."""
    for place in PLACES:
        for exported in exports(name, {RUN: dataset}, folder, ("--thinking", place)):
            if exported.use in ("sft", "pairs", "kto"):
                yield place, exported


def thinking_table(readings_of: Mapping[str, Sequence[tuple[ThinkingPlace, Reading]]]) -> Iterator[str]:
    """A row for each trainer and use."""
    yield HEAD
    yield "| trainer | kind | default | field | text | drop |"
    yield "|---|---|---|---|---|---|"
    for name, of in readings_of.items():
        by_use: dict[Use, dict[ThinkingPlace, list[Reading]]] = defaultdict(lambda: defaultdict(list))
        for place, reading in of:
            by_use[reading.use][place].append(reading)
        for use, by_place in by_use.items():
            default = trainer(name).forms[use].thinking or trainer(name).thinking
            cells = (cell(by_place[place]) for place in PLACES)
            yield f"| **{trainer(name).title}** | {use} | {default} | {' | '.join(cells)} |"


def cell(readings: Sequence[Reading]) -> str:
    """What became of the thinking of all rows, in words."""
    verdicts = [reading.verdict for reading in readings if reading.verdict]
    if not verdicts:
        return "refused"
    if error := next((verdict.error for verdict in verdicts if verdict.error), ""):
        return error.replace("|", "/")[:80]
    counts: Counter[str] = sum((verdict.thinking for verdict in verdicts), Counter())
    words = [WORDS[what] for what, _ in counts.most_common()]
    return words[0] if len(counts) == 1 else "; ".join(f"{WORDS[what]} ({n})" for what, n in counts.most_common())

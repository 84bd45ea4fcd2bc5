"""What came out of a reader against what went in."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainers.chats import Saying, of_text
from trainers.expected import Chat, Expected

PARTS: Mapping[str, tuple[str, ...]] = {
    "system": ("system",),
    "prompt": ("user",),
    "answers": ("assistant",),
    "tools": ("tools",),
    "calls": ("call",),
    "results": ("result",),
    "thinking": ("thinking",),
}
COLUMNS = {"answer": "answers", "context": "system", "verifier": "verifier"}
"""The parts that columns beside a prompt count as."""
REWARDS = (1.0, 0.0)
REWARDED = "rewarded by the file beside it: the reference answer 1, another one 0"


@dataclass
class Verdict:
    """Counts over the rows of a reading. rows: (came out, went in); present, wrong: rows by part; learned: rows by
    what is under the loss; first_wrong: what was expected and found, of the first row of each wrong part; thinking:
    answers by what became of their thinking; decoded: the rows in the order in which they went in, None for one that
    did not come out; wrong_places: of those that came out otherwise.
    """

    rows: tuple[int, int] = (0, 0)
    present: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    learned: Counter[str] = field(default_factory=Counter)
    first_wrong: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    error: str = ""
    thinking: Counter[str] = field(default_factory=Counter)
    decoded: list[Mapping[str, Any] | None] = field(default_factory=list)
    wrong_places: list[int] = field(default_factory=list)

    def __add__(self, other: "Verdict") -> "Verdict":
        return Verdict(
            (self.rows[0] + other.rows[0], self.rows[1] + other.rows[1]),
            self.present + other.present,
            self.wrong + other.wrong,
            self.learned + other.learned,
            {**other.first_wrong, **self.first_wrong},
            self.error or other.error,
            self.thinking + other.thinking,
        )

    @property
    def is_right(self) -> bool:
        """Whether all rows came as they went in; NeMo RL has verifiers of its own."""
        return not self.error and not set(self.wrong) - {"verifier"} and self.rows[0] == self.rows[1]

    def note(self, part: str, wanted: Any, found: Any) -> None:
        self.present[part] += 1
        if wanted != found:
            self.wrong[part] += 1
            self.first_wrong.setdefault(part, (wanted, found))


def compare(answer: Mapping[str, Any], rows: Sequence[Expected]) -> Verdict:
    """A reader's answer (trainers/readers/reading.py) against a table's rows, in their order."""
    verdict = Verdict((len(answer.get("rows", ())), len(rows)), error=" ".join(answer.get("error", "").split()))
    verdict.decoded = list(aligned(answer.get("rows", []), rows))
    for place, (row, wanted) in enumerate(zip(verdict.decoded, rows, strict=True)):
        before = verdict.wrong.total()
        if row is not None:
            compare_row(verdict, row, wanted)
        if row is None or verdict.wrong.total() > before:
            verdict.wrong_places.append(place)
    return verdict


def aligned(found: Sequence[Mapping[str, Any]], rows: Sequence[Expected]) -> Iterator[Mapping[str, Any] | None]:
    """The reader's rows in our order: as they come where none was lost, else each by its answers."""
    if len(found) == len(rows):
        yield from found
        return
    left = list(found)
    for wanted in rows:
        texts = [text for chat in wanted.sides.values() for _, text in chat.answered()] or list(wanted.texts)
        match = next((row for row in left if texts and all(text in str(row) for text in texts)), None)
        if match is not None:
            left.remove(match)
        yield match


def compare_row(verdict: Verdict, row: Mapping[str, Any], wanted: Expected) -> None:
    if wanted.texts:
        verdict.note("texts", list(wanted.texts), row["texts"])
    for side, chat in wanted.sides.items():
        compare_chat(verdict, row if side == "text" else row[side], chat)
    if wanted.label is not None:
        verdict.note("label", wanted.label, bool(row["label"]))
    for name, value in (wanted.columns or {}).items():
        columns = str(row["columns"].values())
        verdict.note(COLUMNS[name], value, value if repr(value)[1:-1] in columns else columns)
    if "rewards" in row:
        verdict.note("rewards", list(REWARDS), row["rewards"])
        verdict.learned[REWARDED if row["rewards"] == list(REWARDS) else "other rewards"] += 1


def compare_chat(verdict: Verdict, row: Mapping[str, Any], chat: Chat) -> None:
    """A decoded chat against ours, part by part, and what is under the loss."""
    said, found = chat.said(), list(of_text(row["text"]))
    for part, kinds in PARTS.items():
        ours, theirs = of_kinds(said, kinds), of_kinds(found, kinds)
        if ours or theirs:
            verdict.note(part, ours, theirs)
    order = [who for who, _ in said if who != "tools"], [who for who, _ in found if who != "tools"]
    if sorted(order[0]) == sorted(order[1]):
        verdict.note("order", *order)
    if "trained" in row:
        verdict.learned[under_loss(row["trained"], chat)] += 1
        if "thinking" in dict(said):
            learned = any("thinking" in dict(of_text(span, "assistant")) for span in row["trained"])
            verdict.thinking["learned" if learned else "read" if "thinking" in dict(found) else "gone"] += 1


def of_kinds(said: Sequence[Saying], kinds: Sequence[str]) -> list[str]:
    return [text for who, text in said if who in kinds]


def under_loss(spans: Sequence[str], chat: Chat) -> str:
    """What the tokens under the loss say, in words."""
    learned = [saying for span in spans for saying in of_text(span, "assistant")]
    answers, all_answers = chat.learned(), chat.answered()
    header = " with their header" if any(span.startswith("<|im_start|>") for span in spans) else ""
    if not learned:
        return "no token"
    if learned == answers:
        return f"the answers{header}"
    if learned == all_answers:
        return f"the answers, and those of the prompt{header}"
    if learned == all_answers[-len(learned) :]:
        return f"the last message alone{header}"
    if {who for who, _ in learned} - {"assistant", "call", "thinking"}:
        return "everything"
    return "something else"

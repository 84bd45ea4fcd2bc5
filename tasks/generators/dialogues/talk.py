"""A dialogue on its way: what each side has seen of it, and when it may end. docs/papers.md#genpi, step S4."""

import re
from collections.abc import Sequence

from schemas.applications import Application, Turn
from schemas.calls import Completion, Message
from schemas.dialogues import Opening
from schemas.endings import ending_of
from tasks.generators.dialogues.tools import Act, answered, written
from tasks.texts.patterns import has_match
from tasks.texts.words import rouge_l

END = "[END_CONVERSATION]"
MARKER = re.compile(r"\[?END_CONVERSATION\]?")
"""The end marker as models write it."""
ECHO = 0.9
"""ROUGE-L from which one text says the same as another."""


def swapped(turns: Sequence[Turn], start: int) -> tuple[Message, ...]:
    """A prompt's turns from `start` on as the environment sees them: the agent's are `user`, its own `assistant`."""
    return tuple(
        Message(role="assistant" if place % 2 else "user", content=turn.content)
        for place, turn in enumerate(turns[start:])
    )


class Talk:
    """A dialogue on its way: what each side has seen, and what was noted about it."""

    def __init__(
        self, row: Opening, agent: tuple[Message, ...], environment: tuple[Message, ...], note: str = ""
    ) -> None:
        """note: what only the environment knows; it stands before the agent's first turn, near where it is needed."""
        self.row = row
        self.note = note
        self.agent, self.environment = list(agent), list(environment)
        self.turns: list[Turn] = []
        self.acts: list[Act] = []
        self.real: list[str | None] = []
        self.world_over = False
        self.stray = self.cut = self.again = self.tokens = 0

    @property
    def application(self) -> Application:
        return self.row.application

    def acted(self, act: Act, raw: str) -> None:
        told = [self.note if not self.acts else "", raw, self.application.environment.reminder]
        self.turns.append(written(act, len(self.turns)))
        self.acts.append(act)
        self.agent.append(Message(role="assistant", content=raw))
        self.environment.append(Message(role="user", content="\n\n".join(one for one in told if one)))

    def replied(self, text: str, real: str | None = None) -> None:
        """real: what the world said to the same turn, if it was asked."""
        act = self.acts[-1]
        self.real.append(real)
        head = f"The tool {act.tool} returned:\n" if act.tool else ""
        text = text.removeprefix(head)  # the prompt's own turns may have taught it to write that, too
        self.turns.append(answered(text, act, len(self.turns) - 1))
        self.agent.append(Message(role="user", content=head + text))
        self.environment.append(Message(role="assistant", content=head + text))

    def transcript(self) -> str:
        name = self.application.environment.name
        said = []
        for turn in self.turns:
            text = turn.content or " ".join(f"{c.function.name}({c.function.arguments})" for c in turn.tool_calls)
            said.append(f"{'agent' if turn.role == 'assistant' else name}: {text}")
        return "\n".join(said)

    def noted(self, said: Completion) -> None:
        self.tokens += said.completion_tokens
        self.cut += ending_of(said.finish_reason) != "stop"


def may_end(talk: Talk) -> bool:
    """The environment may end the dialogue from its second reply on, and never when the agent has just refused."""
    refusal = talk.application.refusal
    refused = refusal and has_match(refusal, talk.acts[-1].text)
    return len(talk.acts) > 1 and not refused


def echoes(text: str, talk: Talk) -> bool:
    """Whether a reply only says again what the agent just said, or the input: small models do so when they are lost."""
    return any(rouge_l(text, other) >= ECHO for other in (talk.acts[-1].text, talk.row.pseudo_input))


def fault_of(said: Completion, talk: Talk) -> str:
    """Why a reply was not taken."""
    if not is_end(said.text):
        return "echoed_turn: the environment says again what it was told" if said.text.strip() else "empty_observation"
    return "early_end: the end marker was the first reply" if len(talk.acts) == 1 else "early_end: after a refusal"


def is_end(text: str) -> bool:
    """Whether a reply is the end marker and nothing else."""
    return MARKER.fullmatch(text.strip(" \n.!\"'")) is not None


def without_marker(text: str, talk: Talk) -> str:
    """A turn's text; an end marker inside it ends nothing and is taken out."""
    kept, found = MARKER.subn("", "" if is_end(text) else text)
    talk.stray += found > 0
    return kept.strip()

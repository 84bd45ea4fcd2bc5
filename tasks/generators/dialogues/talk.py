"""A dialogue in progress: each side's history, and when it may end. docs/papers.md#genpi, step S4."""

import re
from collections.abc import Sequence

from synthmill.schemas.applications import Application, Turn
from synthmill.schemas.calls import Completion, Message
from synthmill.schemas.dialogues import Opening
from synthmill.schemas.endings import ending_of
from synthmill.schemas.errors import Drop
from synthmill.tasks.generators.dialogues.native_calls import Call, agent_message, call_in, result_message, written_turn
from synthmill.tasks.generators.dialogues.tools import Act, agent_turn, reply_turn, result_head
from synthmill.tasks.texts.patterns import has_match
from synthmill.tasks.texts.thinking import named_fault, with_thinking
from synthmill.tasks.texts.words import rouge_l

END = "[END_CONVERSATION]"
MARKER = re.compile(r"\[?END_CONVERSATION\]?")
"""The end marker as models write it."""
ECHO = 0.9
"""ROUGE-L from which a text counts as an echo of another."""


def swap_roles(turns: Sequence[Turn], start: int) -> tuple[Message, ...]:
    """A prompt's turns from `start` on with the roles swapped, as the environment sees them: the agent is `user`."""
    return tuple(
        Message(role="assistant" if place % 2 else "user", content=turn.content)
        for place, turn in enumerate(turns[start:])
    )


class Talk:
    """A dialogue in progress: its turns, each side's history, and counts that its row reports."""

    def __init__(
        self, row: Opening, agent: tuple[Message, ...], environment: tuple[Message, ...], note: str = ""
    ) -> None:
        """note: what only the environment knows; the environment reads it right before the agent's first turn."""
        self.row = row
        self.note = note
        self.agent, self.environment = list(agent), list(environment)
        self.turns: list[Turn] = []
        self.acts: list[Act] = []
        self.real_observations: list[str | None] = []
        self.world_over = False
        self.stray_markers = self.cut_turns = self.asked_again = self.completion_tokens = 0

    @property
    def application(self) -> Application:
        return self.row.application

    def add_act(
        self, act: Act, raw: str, call: Call | None = None, reasoning: str = "", sends_thinking: bool = False
    ) -> None:
        """Add the agent's turn; raw: the completion's text, as the model wrote it. call: its native tool call.
        reasoning: what it thought before; sends_thinking: whether it reads that again, at its later turns.
        """
        sent = with_thinking(raw, reasoning) if sends_thinking else raw
        own = agent_message(act, call, len(self.turns)) if call else Message(role="assistant", content=sent)
        self.turns.append(agent_turn(act, len(self.turns), reasoning))
        self.acts.append(act)
        self.agent.append(own)
        raw = written_turn(act) if call else raw
        parts = [self.note if len(self.acts) == 1 else "", raw, self.application.environment.reminder]
        self.environment.append(Message(role="user", content="\n\n".join(part for part in parts if part)))

    def add_reply(self, text: str, real: str | None = None) -> None:
        """Add the environment's turn; real: the world's reply to the same act, if it was asked."""
        act = self.acts[-1]
        self.real_observations.append(real)
        head = result_head(act.tool) if act.tool else ""
        text = text.removeprefix(head)  # the model may write the head itself, after the prompt's turns
        self.turns.append(reply_turn(text, act, len(self.turns) - 1))
        call = call_in(self.agent[-1])
        self.agent.append(result_message(text, call) if call else Message(role="user", content=head + text))
        self.environment.append(Message(role="assistant", content=head + text))

    def transcript(self) -> str:
        name = self.application.environment.name
        lines = []
        for turn in self.turns:
            calls = (f"{call.function.name}({call.function.arguments})" for call in turn.tool_calls)
            text = " ".join([turn.content, *calls]).strip() if turn.tool_calls else turn.content
            lines.append(f"{'agent' if turn.role == 'assistant' else name}: {text}")
        return "\n".join(lines)

    def count(self, completion: Completion) -> None:
        """Add a completion to the counts of tokens and of cut turns."""
        self.completion_tokens += completion.completion_tokens
        self.cut_turns += ending_of(completion.finish_reason) != "stop"


def may_end(talk: Talk) -> bool:
    """The environment may end the dialogue from its second reply on, and never when the agent has just refused."""
    refusal = talk.application.refusal
    refused = refusal and has_match(refusal, talk.acts[-1].text)
    return len(talk.acts) > 1 and not refused


def echoes(text: str, talk: Talk) -> bool:
    """Whether a reply only repeats the agent's last turn or the input, as small models do when they are lost."""
    return any(rouge_l(text, source) >= ECHO for source in (talk.acts[-1].text, talk.row.pseudo_input))


def fault_of(completion: Completion, talk: Talk) -> Drop:
    """Why a reply is not allowed."""
    if not completion.text.strip():
        return named_fault(completion, Drop("empty_observation"))
    if not is_end(completion.text):
        return Drop("echoed_turn: the environment says again what it was told")
    cause = "the end marker was the first reply" if len(talk.acts) == 1 else "after a refusal"
    return Drop(f"early_end: {cause}")


def is_end(text: str) -> bool:
    """Whether a reply is the end marker and nothing else."""
    return MARKER.fullmatch(text.strip(" \n.!\"'")) is not None


def without_marker(text: str, talk: Talk) -> str:
    """A turn's text without end markers: inside a longer turn they end nothing. Counts the turn in `stray_markers`."""
    kept, markers = MARKER.subn("", "" if is_end(text) else text)
    talk.stray_markers += markers > 0
    return kept.strip()

"""Role-swap dialogues: one model plays the agent and, with the roles swapped, its environment.

Source: docs/papers.md#genpi, step S4, and "the simulator's contract" there.
"""

import re
from collections.abc import Generator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import orjson
from pydantic import Field

from schemas.applications import Application, Turn
from schemas.calls import Completion, Message, Request, Sampling
from schemas.dialogues import Dialogue, EndReason, Opening
from schemas.errors import Drop
from tasks.dedup import normalised
from tasks.engines.worlds import world_request
from tasks.prompts import load
from tasks.recipe import Recipe, Steps, ask_until
from tasks.single_turn import as_messages
from tasks.tools import Act, answered, functions_of, read_turn, turn_schema, written

END = "[END_CONVERSATION]"
MARKER = re.compile(r"\[?END_CONVERSATION\]?")
"""The end marker as models write it."""
Asking = Generator[list[Request], list[Completion], Any]


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

    def replied(self, text: str) -> None:
        act = self.acts[-1]
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
        self.cut += said.finish_reason == "length"


class RoleSwap(Recipe[Opening, Dialogue]):
    """Opening -> a whole dialogue between the agent (the teacher, with the prompt) and its environment.

    preset `paper` is the paper's loop: the marker anywhere in a reply ends the dialogue, the environment speaks last,
    and nothing is fixed beforehand. `contract`, the default: the marker counts only as a whole reply, never the first
    and never after a refusal; the environment is not asked after the agent's last turn; facts are fixed before it all.
    Source: docs/papers.md#genpi, step S4.
    """

    name: ClassVar = "dialogues"
    version: ClassVar = "1"
    roles: ClassVar = ("author", "teacher", "environment", "judge", "world")
    prompts: ClassVar = {
        "role_swap/agent": ("tools",),
        "role_swap/environment": ("marker", "paper", "facts", "goal", "course"),
        "role_swap/plan": ("wanted",),
        "role_swap/goal": ("goal", "transcript"),
    }

    sampling: Sampling = Sampling(temperature=0, top_p=1, max_tokens=2048)
    preset: Literal["contract", "paper"] = "contract"
    environment: Literal["simulated", "real", "both"] = "simulated"
    planner: Literal["facts", "always", "never"] = "facts"
    judge: bool = False
    max_turns: int | None = Field(None, ge=1)
    max_repeats: int = Field(2, ge=1, description="a dialogue ends when the agent says the same so often in a row")
    attempts: int = Field(3, ge=1, description="for a turn that is empty, early or malformed")

    def requests_per_row(self) -> int:
        turns = self.max_turns or 10
        return turns * (2 + (self.environment == "both") + self.judge) + (self.planner != "never")

    def steps(self, row: Opening) -> Steps[Dialogue]:
        return (yield from (self.as_in_the_paper(row) if self.preset == "paper" else self.by_contract(row)))

    def as_in_the_paper(self, row: Opening) -> Steps[Dialogue]:
        """The paper's loop, with the released code's slips mended (docs/papers.md#genpi)."""
        talk = self.begin(row, {})
        end: EndReason = "max_turns"
        for _ in range(self.max_turns or row.application.limits.max_turns):
            [said] = yield [self.ask("teacher", talk.agent, row)]
            talk.noted(said)
            talk.acted(Act(said.text.strip()), said.text.strip())
            [seen] = yield [self.ask("environment", talk.environment, row)]
            talk.noted(seen)
            talk.replied(seen.text.strip())
            if END in seen.text:
                end = "marker"
                break
        return self.made(row, talk, end, {})

    def by_contract(self, row: Opening) -> Steps[Dialogue]:
        plan = yield from self.planned(row)
        talk = self.begin(row, plan)
        limits, end = row.application.limits, None
        while end is None:
            try:
                yield from self.agent_turn(talk)
                end = self.ended(talk, self.max_turns or limits.max_turns, limits.max_dialogue_tokens)
                if end is None and self.judge and len(talk.acts) > 1 and (yield from self.judged(talk, plan)):
                    end = "goal"
                if end is None:
                    end = yield from self.environment_turn(talk)
            except Overflow as overflow:
                if not talk.acts:
                    raise Drop(str(overflow)) from None
                end = "context_overflow"
        if talk.turns[-1].role != "assistant":  # the agent's answer to it did not fit
            talk.turns.pop()
        return self.made(row, talk, end, plan)

    def planned(self, row: Opening) -> Generator[list[Request], list[Completion], dict[str, str]]:
        """What is fixed before the first turn: facts where the application gives none; goal and course if wanted."""
        wanted = ([] if row.facts else ["facts"]) + (["goal", "course"] if self.planner == "always" else [])
        if self.planner == "never" or not wanted:
            return {"facts": row.facts}
        request = Request(
            role="author",
            messages=load("role_swap/plan").render(row=row, wanted=wanted),
            sampling=self.sampling.model_copy(update={"temperature": max(0.7, self.sampling.temperature)}),
            schema_=plan_schema(wanted),
            sample=row.branch * self.attempts,
        )
        found = yield from ask_until(request, self.attempts, lambda said: read_plan(said, wanted))
        return {"facts": row.facts, **found}

    def begin(self, row: Opening, plan: Mapping[str, str]) -> Talk:
        """Both sides' histories before the first turn."""
        application, paper = row.application, self.preset == "paper"
        opened = application.opened(row.pseudo_input)
        told = {name: plan.get(name, "") for name in ("facts", "goal", "course")}
        persona, *note = load("role_swap/environment").render(row=row, marker=END, paper=paper, **told)
        return Talk(
            row,
            load("role_swap/agent").render(row=row, tools=functions_of(application.tools)) + as_messages(opened),
            (persona, *swapped(opened, application.environment.starts_at)),
            "\n".join(message.content for message in note),
        )

    def ask(self, role: str, messages: Sequence[Message], row: Opening, attempt: int = 0, **more: Any) -> Request:
        """A request of one side; another attempt is drawn, because at temperature 0 it would say the same."""
        sampling = self.sampling
        if attempt:
            sampling = sampling.model_copy(update={"temperature": max(0.7, sampling.temperature)})
        sample = row.branch * self.attempts + attempt
        return Request(role=role, messages=tuple(messages), sampling=sampling, sample=sample, **more)

    def agent_turn(self, talk: Talk) -> Asking:
        """Ask for the agent's turn until it is one; raises Drop when it never is."""
        application = talk.application
        for attempt in range(self.attempts):
            request = self.ask(
                "teacher", talk.agent, talk.row, attempt, schema_=turn_schema(application.tools), optional=True
            )
            [said] = yield [request]
            check(said)
            try:
                act = read_turn(said.text, application.tools)
                text = without_marker(act.text, talk)
                if not text and not act.tool:
                    raise Drop("empty_turn: the agent's")
                talk.noted(said)
                talk.acted(act._replace(text=text), said.text.strip() if application.tools else text)
                return
            except Drop:
                if attempt == self.attempts - 1:
                    raise
            talk.again += 1

    def environment_turn(self, talk: Talk) -> Generator[list[Request], list[Completion], EndReason | None]:
        """Ask for the reply until it is one that the contract allows; raises Drop when it never is."""
        application = talk.application
        world, act = application.environment.world, talk.acts[-1]
        asks_world = bool(world) and self.environment != "simulated" and (bool(act.tool) or not application.tools)
        real = None
        if asks_world:
            told = [a for a in talk.acts if a.tool or not application.tools]
            messages = world_request(world, talk.row.facts, told)
            [real] = yield [Request(role="world", messages=messages, sampling=Sampling(temperature=0))]
            if self.environment == "real":
                if real.finish_reason == "over":
                    return "world"
                talk.replied(real.text or "(no output)")
                return None
        for attempt in range(self.attempts):
            [said] = yield [self.ask("environment", talk.environment, talk.row, attempt, optional=True)]
            check(said)
            if is_end(said.text) and may_end(talk):
                return "marker"
            text = without_marker(said.text, talk)
            if text:
                talk.noted(said)
                talk.replied(text)
                talk.real.append(real.text if real else None)
                return None
            talk.again += 1
        raise Drop(fault_of(said, talk))

    def ended(self, talk: Talk, max_turns: int, most_tokens: int | None) -> EndReason | None:
        """Whether the dialogue is over with the agent's turn."""
        final = talk.application.final
        if final and not talk.acts[-1].tool and re.search(final, talk.acts[-1].text, re.MULTILINE):
            return "agent"
        last = [normalised(" ".join(act)) for act in talk.acts[-self.max_repeats :]]
        if len(last) == self.max_repeats > 1 and len(set(last)) == 1:
            return "repetition"
        if len(talk.acts) >= max_turns:
            return "max_turns"
        return "max_dialogue_tokens" if most_tokens and talk.tokens >= most_tokens else None

    def judged(self, talk: Talk, plan: Mapping[str, str]) -> Generator[list[Request], list[Completion], bool]:
        """Whether a judge sees the task done."""
        messages = load("role_swap/goal").render(row=talk.row, goal=plan.get("goal", ""), transcript=talk.transcript())
        sampling = Sampling(temperature=0, top_p=1, max_tokens=16, seed=self.sampling.seed)
        [said] = yield [
            Request(role="judge", messages=messages, sampling=sampling, choice=("yes", "no"), optional=True)
        ]
        return said.text == "yes"

    def made(self, row: Opening, talk: Talk, end: EndReason, plan: Mapping[str, str]) -> Dialogue:
        return Dialogue.child_of(
            row,
            self.name,
            facts=plan.get("facts", row.facts),
            goal=plan.get("goal", ""),
            course=plan.get("course", ""),
            turns=tuple(talk.turns),
            end_reason=end,
            agent_turns=len(talk.acts),
            real_observations=tuple(talk.real),
            stray_markers=talk.stray,
            cut_turns=talk.cut,
            asked_again=talk.again,
            completion_tokens=talk.tokens,
        )


class Overflow(Exception):
    """The dialogue no longer fits into the model's context."""


def check(said: Completion) -> None:
    """Raises Overflow for a context that is full, Drop for any other answer that could not be had."""
    if said.error and said.error.startswith("context_overflow"):
        raise Overflow(said.error)
    if said.error:
        raise Drop(said.error)


def may_end(talk: Talk) -> bool:
    """The environment may end the dialogue from its second reply on, and never when the agent has just refused."""
    refusal = talk.application.refusal
    refused = refusal and re.search(refusal, talk.acts[-1].text)
    return len(talk.acts) > 1 and not refused


def fault_of(said: Completion, talk: Talk) -> str:
    """Why a reply without words was not taken."""
    if not is_end(said.text):
        return "empty_observation"
    return "early_end: the end marker was the first reply" if len(talk.acts) == 1 else "early_end: after a refusal"


def is_end(text: str) -> bool:
    """Whether a reply is the end marker and nothing else."""
    return MARKER.fullmatch(text.strip(" \n.!\"'")) is not None


def without_marker(text: str, talk: Talk) -> str:
    """A turn's text; an end marker inside it ends nothing and is taken out."""
    kept, found = MARKER.subn("", "" if is_end(text) else text)
    talk.stray += found > 0
    return kept.strip()


def plan_schema(wanted: Sequence[str]) -> dict[str, Any]:
    lengths = {"facts": 1200, "goal": 300, "course": 600}
    return {
        "type": "object",
        "properties": {name: {"type": "string", "minLength": 10, "maxLength": lengths[name]} for name in wanted},
        "required": list(wanted),
        "additionalProperties": False,
    }


def read_plan(said: Completion, wanted: Sequence[str]) -> dict[str, str]:
    """The planner's answer; raises Drop when it is none."""
    try:
        found = orjson.loads(said.text)
        plan = {name: str(found[name]).strip() for name in wanted}
    except (ValueError, KeyError, TypeError) as error:
        raise Drop(f"bad_plan: {type(error).__name__}: {error}") from error
    if empty := [name for name, text in plan.items() if not text]:
        raise Drop(f"bad_plan: empty {empty[0]}")
    return plan

"""Role-swap dialogues: one model plays the agent and, with the roles swapped, its environment.

Source: docs/papers.md#genpi, step S4, and "the simulator's contract" there.
"""

import re
from collections.abc import Generator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from schemas.calls import Completion, Message, Request, Sampling
from schemas.dialogues import Dialogue, EndReason, Opening
from schemas.errors import Drop
from schemas.texts import loads, normalised
from tasks.engines.worlds import world_request
from tasks.generators.dialogues.single_turn import as_messages, warmer
from tasks.generators.dialogues.talk import END, Talk, echoes, fault_of, is_end, may_end, swapped, without_marker
from tasks.generators.dialogues.tools import functions_of, read_turn, turn_schema
from tasks.prompts import load
from tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_until
from tasks.texts.patterns import has_match

PLAN_TOKENS = 768
Asking = Generator[list[Request], list[Completion], Any]


class RoleSwap(Recipe[Opening, Dialogue]):
    """Opening -> a whole dialogue between the agent (the teacher, with the prompt) and its environment.

    preset `paper` is the paper's loop: the marker anywhere in a reply ends the dialogue, the environment speaks last,
    and nothing is fixed beforehand. `contract`, the default: the marker counts only as a whole reply, never the first
    and never after a refusal; the environment is not asked after the agent's last turn; facts are fixed before it all.
    Source: docs/papers.md#genpi, step S4.
    """

    name: ClassVar = "dialogues"
    version: ClassVar = "3"
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
    max_repeats: int = Field(2, ge=2, description="a dialogue ends when the agent says the same so often in a row")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS, description="for a turn that is empty, early or malformed")

    most_turns: int = Field(10, exclude=True, description="the applications' longest limit: for plans only")

    def needs_roles(self) -> tuple[str, ...]:
        contract = self.preset == "contract"
        asked = {
            "author": contract and self.planner != "never",
            "judge": contract and self.judge,
            "world": contract and self.environment != "simulated",
        }
        return tuple(role for role in self.roles if asked.get(role, True))

    def requests_per_row(self) -> int:
        """Every turn asked for again as often as may be."""
        asked = self.needs_roles()
        per_turn = 2 * self.attempts + ("world" in asked) + ("judge" in asked)
        return (self.max_turns or self.most_turns) * per_turn + self.attempts * ("author" in asked)

    def steps(self, row: Opening) -> Steps[Dialogue]:
        return (yield from (self.as_in_the_paper(row) if self.preset == "paper" else self.by_contract(row)))

    def as_in_the_paper(self, row: Opening) -> Steps[Dialogue]:
        """The paper's loop, with the released code's slips mended (docs/papers.md#genpi)."""
        talk, tools = self.begin(row, {}), row.application.tools
        end: EndReason = "max_turns"
        for _ in range(self.max_turns or row.application.limits.max_turns):
            [said] = yield [self.ask("teacher", talk.agent, row, schema_=turn_schema(tools))]
            talk.noted(said)
            talk.acted(read_turn(said.text, tools), said.text.strip())
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
            talk.real.pop()
        return self.made(row, talk, end, plan)

    def planned(self, row: Opening) -> Generator[list[Request], list[Completion], dict[str, str]]:
        """What is fixed before the first turn: facts where the application gives none; goal and course if wanted."""
        wanted = ([] if row.facts else ["facts"]) + (["goal", "course"] if self.planner == "always" else [])
        if self.planner == "never" or not wanted:
            return {"facts": row.facts}
        request = Request(
            role="author",
            messages=load("role_swap/plan").render(row=row, wanted=wanted),
            sampling=warmer(self.sampling).model_copy(update={"max_tokens": PLAN_TOKENS}),
            schema_=plan_schema(wanted),
            sample=row.branch * MOST_ATTEMPTS,
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
        sampling = warmer(self.sampling) if attempt else self.sampling
        sample = row.branch * MOST_ATTEMPTS + attempt
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
        real = yield from self.real_reply(talk)
        if real and self.environment == "real":
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
            if text and not echoes(text, talk):
                talk.noted(said)
                talk.replied(text, real.text if real else None)
                return None
            talk.again += 1
        raise Drop(fault_of(said, talk))

    def real_reply(self, talk: Talk) -> Generator[list[Request], list[Completion], Completion | None]:
        """What the application's world says to the agent's turn; None where it is not asked: when it is over, and where
        the application has tools and the turn is words. Where it only measures (`both`), its failure costs nothing.
        """
        world, tools = talk.application.environment.world, talk.application.tools
        if "world" not in self.needs_roles() or not world or talk.world_over or (tools and not talk.acts[-1].tool):
            return None
        messages = world_request(world, talk.row.facts, [act for act in talk.acts if act.tool or not tools])
        optional = self.environment == "both"
        [said] = yield [Request(role="world", messages=messages, sampling=Sampling(temperature=0), optional=optional)]
        talk.world_over = said.finish_reason == "over"
        return None if said.error else said

    def ended(self, talk: Talk, max_turns: int, most_tokens: int | None) -> EndReason | None:
        """Whether the dialogue is over with the agent's turn."""
        final = talk.application.final
        if final and not talk.acts[-1].tool and has_match(final, talk.acts[-1].text, re.MULTILINE):
            return "agent"
        last = [normalised(" ".join(act)) for act in talk.acts[-self.max_repeats :]]
        if len(last) == self.max_repeats and len(set(last)) == 1:
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
            facts=plan.get("facts", ""),
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


def plan_schema(wanted: Sequence[str]) -> dict[str, Any]:
    """Facts are a list, because small models write prose otherwise."""
    line = {"type": "string", "minLength": 10, "maxLength": 120}
    forms = {
        "facts": {"type": "array", "items": line, "minItems": 3, "maxItems": 8},
        "goal": {**line, "maxLength": 300},
        "course": {**line, "maxLength": 600},
    }
    return {
        "type": "object",
        "properties": {name: forms[name] for name in wanted},
        "required": list(wanted),
        "additionalProperties": False,
    }


def read_plan(said: Completion, wanted: Sequence[str]) -> dict[str, str]:
    """The planner's answer, facts as lines; raises Drop when it is none."""
    try:
        found = loads(said.text)
        plan = {name: found[name] for name in wanted}
        plan = {name: "\n".join(text) if isinstance(text, list) else text for name, text in plan.items()}
        if empty := [name for name, text in plan.items() if not text.strip()]:
            raise Drop(f"bad_plan: empty {empty[0]}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Drop(f"bad_plan: {type(error).__name__}: {error}") from error
    return plan

"""Role-swap dialogues: one model plays the agent and, with the roles swapped, its environment.

Source: docs/papers.md#genpi, step S4, and "the simulator's contract" there.
"""

import re
from collections.abc import Generator, Mapping, Sequence
from operator import not_
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field

from synthmill.schemas.calls import Completion, Message, Request, Sampling
from synthmill.schemas.dialogues import Dialogue, EndReason, Opening
from synthmill.schemas.errors import Drop
from synthmill.schemas.texts import loads, normalised
from synthmill.tasks.engines.worlds import world_request
from synthmill.tasks.generators.dialogues.native_calls import (
    Call,
    ToolCalls,
    is_schema,
    native_history,
    read_call,
    tool_definitions,
    with_fault,
)
from synthmill.tasks.generators.dialogues.single_turn import as_messages, warm_sampling
from synthmill.tasks.generators.dialogues.talk import (
    END,
    Talk,
    echoes,
    fault_of,
    is_end,
    may_end,
    swap_roles,
    without_marker,
)
from synthmill.tasks.generators.dialogues.tools import Act, functions_of, read_turn, turn_schema
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_until, was_cut_while_thinking, with_more_room
from synthmill.tasks.texts.breaches import BREACH
from synthmill.tasks.texts.patterns import has_match
from synthmill.tasks.texts.thinking import named_fault, why_empty

PLAN_TOKENS = 768
Out = TypeVar("Out")
Asking = Generator[list[Request], list[Completion], Out]
"""A part of `steps`: it yields requests, is sent their completions, and returns a result."""


class RoleSwap(Recipe[Opening, Dialogue]):
    """Opening -> a whole dialogue between the agent (the teacher, with the prompt) and its environment.

    preset `paper` is the paper's loop: the end marker anywhere in a reply ends the dialogue, the environment speaks
    last, and no facts are fixed. `contract`, the default: facts are fixed before the first turn; the marker must be a
    whole reply, not the first and not after a refusal; the agent speaks last. Source: docs/papers.md#genpi, step S4.
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

    tool_calls: ToolCalls = Field("schema", exclude_if=is_schema, description="native: the server's own tool calls")
    sends_thinking: bool = Field(
        False, exclude_if=not_, description="whether the agent reads what it thought at its earlier turns"
    )
    most_turns: int = Field(10, exclude=True, description="the applications' longest limit: for plans only")

    def needs_roles(self) -> tuple[str, ...]:
        contract = self.preset == "contract"
        is_used = {
            "author": contract and self.planner != "never",
            "judge": contract and self.judge,
            "world": contract and self.environment != "simulated",
        }
        return tuple(role for role in self.roles if is_used.get(role, True))

    def requests_per_row(self) -> int:
        """The most: every turn takes all its attempts."""
        roles = self.needs_roles()
        per_turn = 2 * self.attempts + ("world" in roles) + ("judge" in roles)
        return (self.max_turns or self.most_turns) * per_turn + self.attempts * ("author" in roles)

    def steps(self, row: Opening) -> Steps[Dialogue]:
        return (yield from (self.run_paper_loop(row) if self.preset == "paper" else self.run_contract_loop(row)))

    def run_paper_loop(self, row: Opening) -> Steps[Dialogue]:
        """The paper's loop, without the released code's bugs (docs/papers.md#genpi)."""
        talk, tools = self.start_talk(row, {}), row.application.tools
        end_reason: EndReason = "max_turns"
        for _ in range(self.max_turns or row.application.limits.max_turns):
            [turn] = yield [self.request("teacher", talk.agent, row, **self.form_of(tools))]
            talk.count(turn)
            check_not_cut(turn)
            act, call = self.read_act(turn, tools)
            talk.add_act(act, turn.text.strip(), call, turn.reasoning, self.sends_thinking)
            [reply] = yield [self.request("environment", talk.environment, row)]
            check_not_cut(reply)
            talk.count(reply)
            talk.add_reply(reply.text.strip())
            if END in reply.text:
                end_reason = "marker"
                break
        return self.dialogue_of(row, talk, end_reason, {})

    def run_contract_loop(self, row: Opening) -> Steps[Dialogue]:
        plan = yield from self.ask_plan(row)
        talk = self.start_talk(row, plan)
        limits, end_reason = row.application.limits, None
        while end_reason is None:
            try:
                yield from self.ask_agent(talk)
                end_reason = self.end_after_act(talk, self.max_turns or limits.max_turns, limits.max_dialogue_tokens)
                if end_reason is None and self.judge and len(talk.acts) > 1 and (yield from self.ask_judge(talk, plan)):
                    end_reason = "goal"
                if end_reason is None:
                    end_reason = yield from self.ask_environment(talk)
            except Overflow as overflow:
                if not talk.acts:
                    raise Drop(str(overflow)) from None
                end_reason = "context_overflow"
        if talk.turns[-1].role != "assistant":  # the agent's answer to this reply did not fit
            talk.turns.pop()
            talk.real_observations.pop()
        return self.dialogue_of(row, talk, end_reason, plan)

    def ask_plan(self, row: Opening) -> Asking[dict[str, str]]:
        """Ask for the plan before the first turn: facts if the application has none; goal and course if wanted."""
        fields = ([] if row.facts else ["facts"]) + (["goal", "course"] if self.planner == "always" else [])
        if self.planner == "never" or not fields:
            return {"facts": row.facts}
        request = Request(
            role="author",
            messages=load("role_swap/plan").render(row=row, wanted=fields),
            sampling=warm_sampling(self.sampling).model_copy(update={"max_tokens": PLAN_TOKENS}),
            schema_=plan_schema(fields),
            sample=row.branch * MOST_ATTEMPTS,
        )
        plan = yield from ask_until(request, self.attempts, lambda completion: read_plan(completion, fields))
        return {"facts": row.facts, **plan}

    def start_talk(self, row: Opening, plan: Mapping[str, str]) -> Talk:
        """Both sides' histories before the first turn."""
        application, paper = row.application, self.preset == "paper"
        turns = application.turns_with(row.pseudo_input)
        secrets = {name: plan.get(name, "") for name in ("facts", "goal", "course")}
        persona, *note = load("role_swap/environment").render(row=row, marker=END, paper=paper, **secrets)
        return Talk(
            row,
            self.told_of(row) + (native_history(turns, application.tools) if self.is_native else as_messages(turns)),
            (persona, *swap_roles(turns, application.environment.starts_at)),
            "\n".join(message.content for message in note),
        )

    @property
    def is_native(self) -> bool:
        return self.tool_calls == "native"

    def told_of(self, row: Opening) -> tuple[Message, ...]:
        """What the agent is told first; of its tools only where they are not sent apart."""
        return load("role_swap/agent").render(
            row=row, tools=() if self.is_native else functions_of(row.application.tools)
        )

    def form_of(self, tools: str) -> dict[str, Any]:
        """How a request asks for a turn that may call a tool."""
        return {"tools": tool_definitions(tools)} if self.is_native else {"schema_": turn_schema(tools)}

    def read_act(self, completion: Completion, tools: str) -> tuple[Act, Call | None]:
        """The agent's turn, and its native call; raises Drop for what is no turn."""
        return read_call(completion, tools) if self.is_native else (read_turn(completion.text, tools), None)

    def request(
        self, role: str, messages: Sequence[Message], row: Opening, attempt: int = 0, cut: bool = False, **more: Any
    ) -> Request:
        """A request to one side; later attempts are sampled, because at temperature 0 the answer would be the same.
        cut: whether the attempt before ended in its thinking.
        """
        sampling = warm_sampling(self.sampling) if attempt else self.sampling
        sample, again = row.branch * MOST_ATTEMPTS + attempt, attempt > 0
        request = Request(
            role=role, messages=tuple(messages), sampling=sampling, sample=sample, asked_again=again, **more
        )
        return with_more_room(request, attempt) if cut else request

    def ask_agent(self, talk: Talk) -> Asking[None]:
        """Ask for the agent's turn until it can be used; raises Drop after the last attempt."""
        application, cut = talk.application, False
        fault: Drop | None = None
        for attempt in range(self.attempts):
            request = self.request(
                "teacher", talk.agent, talk.row, attempt, cut, **self.form_of(application.tools), optional=True
            )
            [completion] = yield [with_fault(request, fault)]
            check_completion(completion)
            cut = was_cut_while_thinking(completion)
            try:
                act, call = self.read_act(completion, application.tools)
                text = without_marker(act.text, talk)
                if not text and not act.tool:
                    raise Drop("empty_turn: the agent's")
                talk.count(completion)
                raw = completion.text.strip() if application.tools else text
                talk.add_act(act._replace(text=text), raw, call, completion.reasoning, self.sends_thinking)
                return
            except Drop as drop:
                if attempt == self.attempts - 1:
                    raise named_fault(completion, drop) from drop
                fault = drop if drop.reason == BREACH else None
            talk.asked_again += 1

    def ask_environment(self, talk: Talk) -> Asking[EndReason | None]:
        """Ask for the reply until the contract allows it; raises Drop after the last attempt."""
        real = yield from self.ask_world(talk)
        if real and self.environment == "real":
            if real.finish_reason == "over":
                return "world"
            talk.add_reply(real.text or "(no output)")
            return None
        cut = False
        for attempt in range(self.attempts):
            [completion] = yield [self.request("environment", talk.environment, talk.row, attempt, cut, optional=True)]
            check_completion(completion)
            cut = was_cut_while_thinking(completion)
            if is_end(completion.text) and may_end(talk):
                return "marker"
            text = without_marker(completion.text, talk)
            if text and not echoes(text, talk):
                talk.count(completion)
                talk.add_reply(text, real.text if real else None)
                return None
            talk.asked_again += 1
        raise fault_of(completion, talk)

    def ask_world(self, talk: Talk) -> Asking[Completion | None]:
        """The world's reply to the agent's turn; None if the world is over, or if the turn calls no tool but there are
        some. With environment `both`, a world's failure is ignored.
        """
        world, tools = talk.application.environment.world, talk.application.tools
        if "world" not in self.needs_roles() or not world or talk.world_over or (tools and not talk.acts[-1].tool):
            return None
        messages = world_request(world, talk.row.facts, [act for act in talk.acts if act.tool or not tools])
        optional = self.environment == "both"
        [completion] = yield [
            Request(role="world", messages=messages, sampling=Sampling(temperature=0), optional=optional)
        ]
        talk.world_over = completion.finish_reason == "over"
        return None if completion.error else completion

    def end_after_act(self, talk: Talk, max_turns: int, most_tokens: int | None) -> EndReason | None:
        """Why the dialogue ends with the agent's last turn; None if it goes on."""
        final = talk.application.final
        if final and not talk.acts[-1].tool and has_match(final, talk.acts[-1].text, re.MULTILINE):
            return "agent"
        last = [normalised(" ".join(act)) for act in talk.acts[-self.max_repeats :]]
        if len(last) == self.max_repeats and len(set(last)) == 1:
            return "repetition"
        if len(talk.acts) >= max_turns:
            return "max_turns"
        return "max_dialogue_tokens" if most_tokens and talk.completion_tokens >= most_tokens else None

    def ask_judge(self, talk: Talk, plan: Mapping[str, str]) -> Asking[bool]:
        """Ask a judge whether the task is done."""
        messages = load("role_swap/goal").render(row=talk.row, goal=plan.get("goal", ""), transcript=talk.transcript())
        sampling = Sampling(temperature=0, top_p=1, max_tokens=16, seed=self.sampling.seed)
        [completion] = yield [
            Request(role="judge", messages=messages, sampling=sampling, choice=("yes", "no"), optional=True)
        ]
        return completion.text == "yes"

    def dialogue_of(self, row: Opening, talk: Talk, end_reason: EndReason, plan: Mapping[str, str]) -> Dialogue:
        return Dialogue.child_of(
            row,
            self.name,
            facts=plan.get("facts", ""),
            goal=plan.get("goal", ""),
            course=plan.get("course", ""),
            turns=tuple(talk.turns),
            end_reason=end_reason,
            agent_turns=len(talk.acts),
            real_observations=tuple(talk.real_observations),
            stray_markers=talk.stray_markers,
            cut_turns=talk.cut_turns,
            asked_again=talk.asked_again,
            completion_tokens=talk.completion_tokens,
        )


class Overflow(Exception):
    """The dialogue no longer fits into the model's context."""


def check_completion(completion: Completion) -> None:
    """Raises Overflow when the context is full, Drop for any other failed completion."""
    if completion.error and completion.error.startswith("context_overflow"):
        raise Overflow(completion.error)
    if completion.error:
        raise Drop(completion.error)


def check_not_cut(completion: Completion) -> None:
    """Raises Drop for a turn that ended in its thinking, where turns are asked for once."""
    if was_cut_while_thinking(completion):
        raise Drop(why_empty(completion))


def plan_schema(fields: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of a plan. Facts are a list, because small models would write prose."""
    line = {"type": "string", "minLength": 10, "maxLength": 120}
    forms = {
        "facts": {"type": "array", "items": line, "minItems": 3, "maxItems": 8},
        "goal": {**line, "maxLength": 300},
        "course": {**line, "maxLength": 600},
    }
    return {
        "type": "object",
        "properties": {name: forms[name] for name in fields},
        "required": list(fields),
        "additionalProperties": False,
    }


def read_plan(completion: Completion, fields: Sequence[str]) -> dict[str, str]:
    """Parse the planner's answer, facts as lines; raises Drop when it is malformed."""
    try:
        answer = loads(completion.text)
        plan = {name: answer[name] for name in fields}
        plan = {name: "\n".join(text) if isinstance(text, list) else text for name, text in plan.items()}
        if empty := [name for name, text in plan.items() if not text.strip()]:
            raise Drop(f"bad_plan: empty {empty[0]}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Drop(f"bad_plan: {type(error).__name__}: {error}") from error
    return plan

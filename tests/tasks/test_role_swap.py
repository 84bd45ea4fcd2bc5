"""The simulator's contract: when a dialogue ends, what each side may see, tools, worlds, branches, bad input."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.dialogue_settings import DialogueCutSettings
from synthmill.schemas.dialogues import Dialogue, Reasoned
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.rows import to_arrow
from synthmill.schemas.settings import EngineSettings
from synthmill.storage.calls import CallStore
from synthmill.storage.plain_files.applications import read_application
from synthmill.tasks.engines.engine import make_engine
from synthmill.tasks.engines.worlds import draw_facts, load_world, world_request
from synthmill.tasks.generators.dialogues.openings import Openings
from synthmill.tasks.generators.dialogues.role_swap import RoleSwap
from synthmill.tasks.generators.dialogues.signs import DialogueSigns, signs_of
from synthmill.tasks.generators.dialogues.talk import END
from synthmill.tasks.running.driver import Driver
from synthmill.tasks.texts.words import rouge_l
from tests.command import ROOT
from tests.conftest import Echo
from tests.tasks.test_genpi import EXAMPLES, ORDERS, SHELL, application, opening, play, scripted

REFUSAL = "I'm sorry, I can't help with that."
CONTRACT = RoleSwap(max_turns=5)


def talk(
    recipe: RoleSwap = CONTRACT, app: Any = None, asked: list[Request] | None = None, **roles: list[Any]
) -> Dialogue:
    made = play(recipe, opening(app or application()), scripted(**roles), asked)
    assert isinstance(made, Dialogue)
    assert [turn.role for turn in made.turns][::2] == ["assistant"] * made.agent_turns
    assert made.turns[-1].role == "assistant"  # nothing is asked of the environment after the agent's last turn
    return made


def acts(count: int = 9) -> list[str]:
    return [f"act {n}" for n in range(count)]


def test_the_marker_ends_only_as_a_whole_reply() -> None:
    made = talk(teacher=acts(), environment=["one", f"two {END} and more", f" {END}\n", "four"])
    assert (made.end_reason, made.agent_turns, made.stray_markers) == ("marker", 3, 1)
    assert [turn.content for turn in made.turns] == ["act 0", "one", "act 1", "two  and more", "act 2"]


@pytest.mark.parametrize("marker", [END, "END_CONVERSATION", f'"{END}".', f"{END}!"])
def test_the_marker_as_models_write_it(marker: str) -> None:
    made = talk(teacher=acts(), environment=["one", marker])
    assert (made.end_reason, made.stray_markers) == ("marker", 0)


def test_the_marker_as_the_first_reply_is_asked_for_again_then_named() -> None:
    asked: list[Request] = []
    made = talk(asked=asked, teacher=acts(), environment=[END, "one", END])
    assert (made.end_reason, made.asked_again, made.turns[1].content) == ("marker", 1, "one")
    replies = [request for request in asked if request.role == "environment"]
    assert [(request.sample, request.sampling.temperature) for request in replies[:3]] == [(0, 0), (1, 0.7), (0, 0)]
    with pytest.raises(Drop, match="early_end: the end marker was the first reply"):
        talk(teacher=acts(), environment=[END])


def test_the_marker_never_ends_after_a_refusal() -> None:
    with pytest.raises(Drop, match="early_end: after a refusal"):
        talk(teacher=["act", REFUSAL], environment=["one", END])
    made = talk(teacher=["act", REFUSAL, "act 2"], environment=["one", END, "Try again.", END])
    assert (made.end_reason, made.asked_again) == ("marker", 1)


@pytest.mark.parametrize("silent", ["", "  \n"])
def test_an_empty_observation_is_asked_for_again_then_named(silent: str) -> None:
    with pytest.raises(Drop, match="empty_observation"):
        talk(teacher=acts(), environment=["one", silent])


@pytest.mark.parametrize("echo", ["Count  the files", "act 1"])
def test_a_reply_that_says_again_what_it_was_told_is_asked_for_again_then_named(echo: str) -> None:
    made = talk(teacher=acts(), environment=["one", echo, "two", END])
    assert (made.asked_again, [turn.content for turn in made.turns[1::2]]) == (1, ["one", "two"])
    with pytest.raises(Drop, match="echoed_turn"):
        talk(teacher=acts(), environment=["one", echo])


def test_a_model_that_never_ends_meets_the_limit_and_the_environment_is_not_asked_again() -> None:
    asked: list[Request] = []
    made = talk(asked=asked, teacher=acts(), environment=[f"reply {n}" for n in range(9)])
    assert (made.end_reason, made.agent_turns, len(made.turns)) == ("max_turns", 5, 9)
    assert [request.role for request in asked] == ["teacher", "environment"] * 4 + ["teacher"]


def test_other_ends() -> None:
    app = application(final=r"^Answer:", limits={"max_dialogue_tokens": 9})
    assert talk(app=app, teacher=["act", "I know.\nAnswer: 3"], environment=["one"]).end_reason == "agent"
    assert talk(app=app, teacher=acts(), environment=["one", "two", "three"]).end_reason == "max_dialogue_tokens"
    again = talk(teacher=["act", "Look  again", "look again"], environment=["one", "two"])
    assert (again.end_reason, again.agent_turns) == ("repetition", 3)
    judged = talk(RoleSwap(judge=True), teacher=acts(), environment=["one", "two"], judge=["no", "yes"])
    assert (judged.end_reason, judged.agent_turns) == ("goal", 3)


def test_a_dialogue_that_outgrows_the_context_ends_there_and_one_that_never_fit_is_dropped() -> None:
    full = Completion(text="", error="context_overflow: 5,000 tokens exceed the context of 4,096")
    made = talk(teacher=["act 0", "act 1", full], environment=["one", "two"])
    assert (made.end_reason, made.agent_turns, len(made.turns)) == ("context_overflow", 2, 3)
    with pytest.raises(Drop, match="context_overflow: 5,000 tokens exceed the context of 4,096"):
        talk(teacher=[full], environment=["one"])


def test_the_agent_never_sees_what_only_the_environment_knows() -> None:
    asked: list[Request] = []
    facts = ["the vault holds 7 pearls", "it is dark"]
    plan = json.dumps({"facts": facts, "goal": "find the pearls", "course": "a door is locked"})
    recipe = RoleSwap(max_turns=3, planner="always", judge=True)
    row = opening(application(), facts="")
    made = play(recipe, row, scripted(author=[plan], teacher=acts(), environment=["o1", "o2"], judge=["no"]), asked)
    assert (made.facts, made.goal, made.course) == ("\n".join(facts), "find the pearls", "a door is locked")
    for request in asked[1:]:
        seen = " ".join(message.content for message in request.messages)
        for secret in ("7 pearls", "find the pearls", "a door is locked"):
            if request.role == "teacher":
                assert secret not in seen
            elif request.role == "environment":
                assert secret in seen


def test_facts_are_planned_only_where_the_application_has_none() -> None:
    asked: list[Request] = []
    talk(asked=asked, teacher=acts(), environment=["o1", END])
    assert "author" not in {request.role for request in asked}
    assert "a fact" in asked[1].messages[-1].content
    assert asked[1].messages[-1].content.endswith("act 0")
    steps = CONTRACT.steps(opening(application(), facts=""))
    [ask] = next(steps)
    assert (ask.role, list(ask.schema_["properties"])) == ("author", ["facts"])
    with pytest.raises(Drop, match="bad_plan"):
        play(CONTRACT, opening(application(), facts=""), scripted(author=["no JSON"]))
    asked.clear()
    play(RoleSwap(planner="never", max_turns=1), opening(application(), facts=""), scripted(teacher=["act"]), asked)
    assert len(asked) == 1


def test_branches_are_drawn_apart_and_only_the_first_costs_nothing_new() -> None:
    stage = Openings(branches=3, seed=1)
    app = application(environment={"facts": ["alpha", "beta"]})
    row = Reasoned.model_validate(opening(app).model_dump(exclude={"branch", "facts"}))
    made, _ = stage.apply(pl.DataFrame(to_arrow(Reasoned, [row])), Path())
    assert (made["branch"].to_list(), set(made["parent_id"])) == ([0, 1, 2], {"o"})
    assert set(made["facts"]) <= {"alpha", "beta"}
    assert made["id"].n_unique() == 3
    samples = [next(CONTRACT.steps(opening(app, branch=branch)))[0].sample for branch in range(3)]
    assert samples == [0, 100, 200]


# tools


def call(tool: str, **arguments: str) -> str:
    return json.dumps({"turn": {"tool": tool, "arguments": arguments}})


def say(text: str) -> str:
    return json.dumps({"turn": {"say": text}})


def test_tool_calls_are_turns_in_openais_form() -> None:
    asked: list[Request] = []
    made = talk(
        app=ORDERS,
        asked=asked,
        teacher=[call("find_order", order_id="17"), say("It is shipped."), say("Goodbye!")],
        environment=['{"status": "shipped"}', "Thanks!", END],
    )
    first, result, words = made.turns[:3]
    [asked_tool] = first.tool_calls
    assert (first.content, asked_tool.function.name, json.loads(asked_tool.function.arguments)) == (
        "",
        "find_order",
        {"order_id": "17"},
    )
    assert (result.role, result.tool_call_id) == ("tool", asked_tool.id)
    assert (words.role, words.content) == ("assistant", "It is shipped.")
    assert "find_order: Look up one order by its number." in asked[0].messages[0].content
    assert asked[2].messages[-1].content == 'The tool find_order returned:\n{"status": "shipped"}'


@pytest.mark.parametrize("bad", ["no JSON", "[]", call("drop_database"), say(" ")])
def test_a_malformed_turn_is_asked_for_again_then_named(bad: str) -> None:
    good = [say("Hello."), say("Anything else?"), say("Goodbye!")]
    made = talk(app=ORDERS, teacher=[bad, *good], environment=["Hi.", END])
    assert made.asked_again == 1
    with pytest.raises(Drop, match=r"malformed_turn|empty_turn"):
        talk(app=ORDERS, teacher=[bad], environment=["Hi."])


def test_arguments_that_break_the_tools_schema_are_asked_for_again_with_the_fault_named() -> None:
    asked: list[Request] = []
    teacher = [call("find_order"), call("find_order", order_id="17"), say("Goodbye!")]
    made = talk(app=ORDERS, asked=asked, teacher=teacher, environment=["shipped", END])
    assert made.asked_again == 1
    fault = "the arguments of find_order do not fit: it: 'order_id' is a required property"
    assert fault in asked[1].messages[-1].content
    with pytest.raises(Drop, match="breached_schema: the arguments of find_order"):
        talk(app=ORDERS, teacher=[call("find_order")] * 3, environment=["shipped"])


# worlds


def run_worlds(
    recipe: RoleSwap, app: Any, worlds: dict[str, str], folder: Path, teacher: list[str], **more: Any
) -> Any:
    """Through the driver, with the real engine of worlds: (part, the chat engine)."""
    row = Reasoned.model_validate(opening(app, **more).model_dump(exclude={"branch", "facts"}))
    frame, dropped = Openings(worlds=worlds).apply(pl.DataFrame(to_arrow(Reasoned, [row])), folder)
    assert not dropped
    from synthmill.schemas.dialogues import Opening
    from synthmill.schemas.rows import from_arrow

    rows = from_arrow(Opening, frame.to_arrow(compat_level=pl.CompatLevel.oldest()))
    turns = iter(teacher)
    chat = Echo(lambda request, sample: next(turns) if request.role == "teacher" else "simulated reply")
    settings = EngineSettings(kind="worlds", model="worlds", options=worlds)

    async def go() -> Any:
        world = make_engine(settings)
        await world.open()
        calls = CallStore(folder / "calls")
        roles = {**dict.fromkeys(("author", "teacher", "environment", "judge"), chat), "world": world}
        part = await Driver(recipe, roles, calls).run(rows)
        calls.close()
        await world.close()
        return part

    return asyncio.run(go()), chat


def test_a_world_answers_for_real_and_its_replies_are_kept(tmp_path: Path) -> None:
    app, worlds = read_application(EXAMPLES / "shell.yaml")
    turns = ["Run: mkdir /home/ana/new", "Run: ls /home/ana", "Run: cat /nowhere", "Answer: done"]
    part, chat = run_worlds(RoleSwap(environment="real"), app, worlds, tmp_path, turns)
    [made] = part.rows
    assert made.end_reason == "agent"
    assert made.turns[1].content == "(no output)"
    assert "new" in made.turns[3].content.split()
    assert made.turns[5].content == "cat: /nowhere: No such file or directory"
    assert len(chat.asked) == 4  # the agent's turns only
    again, chat = run_worlds(RoleSwap(environment="real"), app, worlds, tmp_path, turns)
    assert (again.rows, chat.asked) == (part.rows, [])


def test_both_measure_the_model_by_the_world(tmp_path: Path) -> None:
    app, worlds = read_application(EXAMPLES / "shell.yaml")
    turns = ["Run: cat /nowhere", "Run: pwd", "Answer: done"]
    part, _ = run_worlds(RoleSwap(environment="both"), app, worlds, tmp_path, turns)
    [made] = part.rows
    assert made.real_observations == ("cat: /nowhere: No such file or directory", "/home/ana")
    assert [turn.content for turn in made.turns[1::2]] == ["simulated reply"] * 2
    signs = signs_of(made.model_dump())
    assert signs["same_outcome"] == 0.5
    assert signs["realism"] == 0


def test_tools_go_to_the_world_and_words_to_the_model(tmp_path: Path) -> None:
    app, worlds = read_application(EXAMPLES / "orders.yaml")
    turns = [call("find_order", order_id="9999999"), say("There is no such order."), say("Goodbye.")]
    part, _ = run_worlds(RoleSwap(environment="real", max_turns=3), app, worlds, tmp_path, turns)
    [made] = part.rows
    assert [turn.content for turn in made.turns[1::2]] == ['{"error": "there is no such order"}', "simulated reply"]
    assert made.facts.startswith("[{")


WORLD = """
class Broken:
    draw = staticmethod(lambda seed, task: "facts" if task != "undrawable" else 1 / 0)
    def __init__(self, facts): self.count = 0
    def act(self, action, tool, arguments):
        self.count += 1
        if action == "slow": import time; time.sleep(1)
        if action == "boom": raise KeyError("gone")
        return ("the end", True) if action == "leave" else f"{self.count}"
"""


def broken_world(folder: Path) -> tuple[Any, dict[str, str]]:
    (folder / "world.py").write_text(WORLD)
    (folder / "app.yaml").write_text(
        '{prompt: ["rules", "fine", ""], environment: {name: x, world: "world.py:Broken"}}'
    )
    return read_application(folder / "app.yaml")


@pytest.mark.parametrize(("turn", "reason"), [("boom", "world_error"), ("slow", "engine_timeout")])
def test_a_world_that_fails_costs_its_row_only(tmp_path: Path, turn: str, reason: str) -> None:
    app, worlds = broken_world(tmp_path)
    settings = EngineSettings(kind="worlds", model="worlds", options=worlds, timeout_s=0.2)
    world = make_engine(settings)
    steps = RoleSwap(environment="real").steps(opening(app))
    next(steps)
    [ask] = steps.send([Completion(text=turn)])

    async def go() -> Any:
        await world.open()
        [said] = await world.complete(ask, 0, 1)
        await world.close()
        return said

    assert asyncio.run(go()).error.startswith(reason)
    frame = pl.DataFrame(
        to_arrow(
            Reasoned,
            [Reasoned.model_validate(opening(app, pseudo_input="undrawable").model_dump(exclude={"branch", "facts"}))],
        )
    )
    made, [dropped] = Openings(worlds=worlds).apply(frame, tmp_path)
    assert (made.height, dropped.reason) == (0, "world_error")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return None", "act returned None; expected text"),
        ("return (5, False)", "act returned (5, False)"),
        ("return ('x', 'no')", "act returned ('x', 'no')"),
        ("return chr(0xD800)", "act returned"),
        ("raise SystemExit(0)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise StopIteration", "StopIteration"),
        ("raise TimeoutError('mine')", "TimeoutError: mine"),
        ("async def x(): pass\n        return x", "act returned <function"),
    ],
)
def test_whatever_a_world_does_is_its_rows_loss_by_name(tmp_path: Path, body: str, said: str) -> None:
    file = tmp_path / "w.py"
    code = f"class W:\n    def __init__(self, facts): pass\n    def act(self, *_):\n        {body}\n    draw = print\n"
    file.write_text(code)
    world = make_engine(EngineSettings(kind="worlds", model="worlds", options={"w.py:W": str(file)}))
    messages = world_request("w.py:W", "", [("x", "", "")])
    [answer] = asyncio.run(world.complete(Request(role="world", messages=messages), 0, 1))
    assert answer.error is not None
    assert answer.error.startswith("world_error: ")
    assert said in answer.error


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return None", "draw returned None; expected text"),
        ("return ' '", "draw returned ' '"),
        ("return chr(0xD800)", "draw returned"),
        ("raise SystemExit(3)", "draw: SystemExit: 3"),
        ("import time; time.sleep(60)", "draw: no facts in 0.2 s"),
    ],
)
def test_a_world_that_draws_no_facts_is_named(tmp_path: Path, body: str, said: str) -> None:
    (tmp_path / "w.py").write_text(f"class W:\n    def draw(seed, task):\n        {body}\n    act = print\n")
    with pytest.raises(Drop) as dropped:
        draw_facts(load_world(str(tmp_path / "w.py"), "w.py:W"), 1, "task", 0.2)
    assert said in dropped.value.message


SLOW = r"(a|aa)+$"


def test_a_careless_pattern_costs_its_row_and_not_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthmill.tasks.texts.patterns.LONGEST_S", 0.1)
    app = application(action=SLOW, final=SLOW)
    with pytest.raises(Drop, match="slow_pattern"):
        talk(app=app, teacher=["a" * 60 + "b"], environment=["one"])
    made = dialogue(app, "a" * 60 + "b")
    frame = pl.DataFrame(to_arrow(Dialogue, [made, made.model_copy(update={"id": "d2", "turns": ()})]))
    signed, [dropped] = DialogueSigns().apply(frame, Path())
    assert (signed["id"].to_list(), dropped.reason) == (["d2"], "slow_pattern")


def test_facts_stay_when_something_else_in_the_application_changes() -> None:
    facts = [f"fact {n}" for n in range(50)]
    told = [application(joint_ratio=ratio, environment={"facts": facts}).model_dump() for ratio in (0.5, 0.7)]
    stage = Openings(seed=1)
    drawn_facts = [stage.draw_facts(app, "input", branch) for app, branch in ((told[0], 0), (told[1], 0), (told[0], 1))]
    assert drawn_facts[0] == drawn_facts[1] != drawn_facts[2]


def test_a_world_may_end_the_dialogue_and_is_played_again_after_a_crash(tmp_path: Path) -> None:
    app, worlds = broken_world(tmp_path)
    part, _ = run_worlds(RoleSwap(environment="real"), app, worlds, tmp_path, ["one", "two", "leave"])
    [made] = part.rows
    assert (made.end_reason, [turn.content for turn in made.turns]) == ("world", ["one", "1", "two", "2", "leave"])
    for segment in (tmp_path / "calls").glob("*"):  # only the first reply survives
        segment.unlink() if segment.suffix == ".npy" else segment.write_bytes(
            b"".join(segment.read_bytes().splitlines(keepends=True)[:4])
        )
    again, _ = run_worlds(RoleSwap(environment="real"), app, worlds, tmp_path, ["two", "leave"])
    assert again.rows == part.rows


def test_a_world_that_only_measures_costs_nothing_when_it_fails_or_is_over(tmp_path: Path) -> None:
    app, worlds = broken_world(tmp_path)
    turns = ["one", "leave", "two", "three"]
    part, _ = run_worlds(RoleSwap(environment="both", max_turns=4), app, worlds, tmp_path, turns)
    assert part.rows[0].real_observations == ("1", "the end", None)
    part, _ = run_worlds(RoleSwap(environment="both", max_turns=3), app, worlds, tmp_path / "b", ["one", "boom", "two"])
    assert part.rows[0].real_observations == ("1", None)
    assert len(part.rows[0].turns) == 5


def test_a_world_that_hangs_holds_up_neither_its_neighbours_nor_the_end(tmp_path: Path) -> None:
    (tmp_path / "world.py").write_text(WORLD.replace("time.sleep(1)", "time.sleep(600)"))
    (tmp_path / "app.yaml").write_text('{prompt: [""], environment: {name: x, world: "world.py:Broken"}}')
    app, worlds = read_application(tmp_path / "app.yaml")
    script = f"""
import asyncio
from synthmill.schemas.calls import Request
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.engines.worlds import Worlds, world_request

async def go():
    world = Worlds(EngineSettings(kind="worlds", model="worlds", options={worlds!r}, timeout_s=1))
    def ask(act):
        messages = world_request({app.environment.world!r}, act, [(act, "", "")])
        return world.complete(Request(role="world", messages=messages), 0, 1)
    *slow, [quick] = await asyncio.gather(*(ask("slow") for _ in range(20)), ask("quick"))
    print([one.error for [one] in slow].count("engine_timeout: the world gave no reply in 1 s"), quick.text)

asyncio.run(go())
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.stdout.split() == ["20", "1"], ran.stderr


def test_worlds_of_the_support_desk_are_apart() -> None:
    _, worlds = read_application(EXAMPLES / "orders.yaml")
    [(name, file)] = worlds.items()
    kind = load_world(file, name)
    facts = kind.draw(1, "order 4471")
    [order] = [order for order in json.loads(facts) if order["order_id"] == "4471"]
    cancel = {"packing": "cancelled"}.get(order["status"], order["status"])
    first, second = kind(facts), kind(facts)
    first.act("", "cancel_order", {"order_id": "4471"})
    assert json.loads(first.act("", "find_order", {"order_id": "4471"}))["status"] == cancel
    assert json.loads(second.act("", "find_order", {"order_id": "4471"})) == order
    with pytest.raises(InputError, match="has changed since this run was planned"):
        load_world(file, "orders_world.py:Orders@000000000000")


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("cat notes/a.txt | grep -c b", "2"),
        ("grep -rl 'b c' . | sort", "/home/ana/notes/a.txt"),
        ("ls nowhere 2>/dev/null", "(no output)"),
        ("ls nowhere", "ls: cannot access 'nowhere': No such file or directory"),
        ('echo "x; y" > n.txt && cat n.txt', "x; y"),
        ("wc -l < notes/a.txt", "3"),
        ("wc -l notes/a.txt", "3 notes/a.txt"),
        ('grep "[" notes/a.txt', "grep: Unmatched [, [^, [:, [., or [="),
        ("find . -name '*.txt' -type f | wc -l", "1"),
        ("head -n 1 notes/a.txt; tail -1 notes/a.txt", "a b\nc"),
        ("sudo ls", "bash: sudo: command not found"),
        ('cat "notes', "bash: syntax error: No closing quotation"),
        ("mv notes/*.txt . && ls", "a.txt\nnotes"),
        ("rm notes", "rm: cannot remove 'notes': Is a directory"),
        ("sort -r notes/a.txt | uniq -c | head -2", "1 c\n1 b c"),
    ],
)
def test_the_shells_world_prints_what_a_shell_would(command: str, printed: str) -> None:
    _, worlds = read_application(EXAMPLES / "shell.yaml")
    [(name, file)] = worlds.items()
    files = dict.fromkeys(("/", "/home", "/home/ana", "/home/ana/notes")) | {"/home/ana/notes/a.txt": "a b\nb c\nc\n"}
    shell = load_world(file, name)(json.dumps(files))
    assert shell.act(f"Think: x\nRun: {command}", "", {}) == printed


# signs


def dialogue(app: Any, *said: str, **fields: Any) -> Dialogue:
    from synthmill.schemas.applications import Turn

    turns = tuple(Turn(role="user" if n % 2 else "assistant", content=text) for n, text in enumerate(said))
    values = {"end_reason": "agent", "agent_turns": (len(said) + 1) // 2, **fields}
    return Dialogue.child_of(opening(app), "d", turns=turns, **values)


def test_signs() -> None:
    copied = " ".join(SHELL.turns[0].content.split()[:20])
    made = dialogue(
        SHELL,
        "Run: ls",
        "a.txt",
        "Run: ls",
        "Think: I help.\nRun: rm -r /",
        "I think so",
        "$ ls\nb",
        "User: hi\nRun: x",
        copied,
        "Answer: 3",
    )
    signs = signs_of(made.model_dump())
    assert (signs["repeated_turns"], signs["confused_agent"], signs["confused_environment"]) == (1, 1, 1)
    assert signs["format_adherence"] == 3 / 5
    assert 0.4 < signs["copied_prompt"] < 0.6
    assert signs["observation_chars"] == pytest.approx(sum(len(turn.content) for turn in made.turns[1::2]) / 4)
    assert (signs["realism"], signs["same_outcome"]) == (None, None)
    assert signs_of(dialogue(application(), "only").model_dump())["format_adherence"] is None


def test_the_same_tool_call_again_is_a_repeated_turn() -> None:
    made = talk(
        app=ORDERS,
        teacher=[call("find_order", order_id="17"), say("Wait."), call("find_order", order_id="17"), say("Goodbye.")],
        environment=["{}", "Yes.", "{}"],
    )
    assert signs_of(made.model_dump())["repeated_turns"] == 1


def test_only_roles_that_are_asked_decide_anything() -> None:
    assert RoleSwap(preset="paper").needs_roles() == ("teacher", "environment")
    assert RoleSwap(planner="never").needs_roles() == ("teacher", "environment")
    assert RoleSwap(judge=True, environment="real").needs_roles() == RoleSwap.roles
    assert RoleSwap(most_turns=3).identity({"author": "a", "teacher": "a", "environment": "a"}) == RoleSwap(
        most_turns=9
    ).identity({"author": "a", "teacher": "a", "environment": "a", "judge": "b"})


def test_the_cut_names_the_first_sign_and_deletes_nothing() -> None:
    rows = [
        dialogue(SHELL, "Run: ls", "a", "Answer: a"),
        dialogue(SHELL, "Hello!", "a", "Answer: a b"),
        dialogue(SHELL, "No.", "a", "Never."),
        dialogue(SHELL, "Run: ls", "a", "Run: ls", end_reason="repetition"),
    ]
    frame = pl.DataFrame(to_arrow(Dialogue, [row.model_copy(update={"id": f"d{n}"}) for n, row in enumerate(rows)]))
    made, dropped = DialogueSigns().apply(frame, Path())
    assert (dropped, made["kept"].to_list()) == ([], [True, True, False, False])
    assert made["cut_by"].to_list() == ["", "", "format_adherence", "end_reason"]
    strict = DialogueSigns(limits=DialogueCutSettings(min_format_adherence=1, ends=()))
    assert strict.apply(frame, Path())[0]["cut_by"].to_list() == ["", "format_adherence", "format_adherence", ""]


def test_rouge_l() -> None:
    assert rouge_l("the cat sat", "the cat sat") == 1
    assert rouge_l("", "") == 1
    assert rouge_l("the cat sat down", "the dog sat") == pytest.approx(2 * 2 / 7)

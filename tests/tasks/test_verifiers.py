"""Verifiers: known answers of their sources, what cannot be judged, and what no answer may do."""

import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from synthmill.schemas.errors import InputError
from synthmill.tasks.verifiers import kinds as verifiers_room
from synthmill.tasks.verifiers import workers
from synthmill.tasks.verifiers.instruction_counts import Sentences
from synthmill.tasks.verifiers.sandbox import run
from synthmill.tasks.verifiers.verdicts import Job, verdicts_of, verifier_called, verify
from synthmill.tasks.verifiers.verifier import Verifier

HUGE = 1_000_000

MATH = [
    (r"${1,3} \cup {2,4}$", r"${1,2,3,4}$", 1.0),  # math-verify's README
    ("0.5", r"So \boxed{\frac{1}{2}}.", 1.0),
    ("1/3", "$0.333333$", 1.0),
    (r"\frac{1}{2}", "0.51", 0.0),
    ("#### 42", "The answer is 42.", 1.0),  # GSM8K's form
    ("She has 3 left. #### 1,000", "1000", 1.0),
    ("x^2+1", "$1+x^2$", 1.0),
    ("x^2+1", "$x^2-1$", 0.0),
    (r"\{1,2\}", r"$\{2,1\}$", 1.0),
    ("(1,2)", "$(2,1)$", 0.0),
    ("3", "$x=3$", 1.0),
    ("5", r"First $\boxed{4}$, no: $\boxed{5}$", 1.0),
    ("-7", r"\boxed{-7}", 1.0),
    ("12.50", r"\boxed{12.5}", 1.0),
    ("5", r"\boxed{1/0}", 0.0),
    ("5", "I do not know.", 0.0),
    ("5", "", 0.0),
    ("5", "<think>It is 5</think>", 0.0),
    ("5", "<think>It is 4, no</think>\\boxed{5}", 1.0),
]


@pytest.mark.parametrize(("reference", "answer", "score"), MATH)
def test_math_says_what_math_verify_says(reference: str, answer: str, score: float) -> None:
    import math_verify

    from synthmill.tasks.verifiers.kinds.mathematics import reference_formula
    from synthmill.tasks.verifiers.verifier import answer_of

    assert verify("math", answer, reference).score == score
    parsed = [math_verify.parse(text) for text in (reference_formula(reference), answer_of(answer))]
    assert math_verify.verify(*parsed) == bool(score)


def test_exact_numbers_compare_as_math_verify_compares_them() -> None:
    import math_verify
    from sympy import Rational

    from synthmill.tasks.verifiers.kinds.mathematics import Mathematics

    draw = random.Random(0)
    for _ in range(200):
        sides = [
            (Rational(draw.choice((0, 1, -2, 10**12)), draw.choice((1, 3, 100))), draw.choice(("x", " x", "", "1")))
            for _ in range(2)
        ]
        assert Mathematics().equal(*sides) == (math_verify.verify(*map(list, sides)), "")


def test_numbers_are_read_as_math_verify_reads_them() -> None:
    import math_verify.parser as parser
    from sympy import srepr

    from synthmill.tasks.verifiers.kinds.mathematics import NUMBER, number

    parse = getattr(parser.parse_latex_cached, "__wrapped__")  # noqa: B009
    texts = [
        "0",
        "7",
        "-42",
        "123456789012345",
        "0.5",
        "-3.0",
        "12.500",
        r"\frac{4}{2}",
        r"-\frac{3}{7}",
        r"\frac{0}{5}",
    ]
    for text in texts:
        match = NUMBER.fullmatch(text)
        assert match
        own, theirs = number(match), parse(text)
        assert (type(own), srepr(own)) == (type(theirs), srepr(theirs)), text
    for text in ("007", "-0", "1,000", r"\frac{1}{0}", r"\frac12", "1e3", "٣"):
        assert text == "-0" or not NUMBER.fullmatch(text)


@pytest.mark.parametrize(
    ("reference", "answer", "reason"),
    [
        ("5", r"$\frac{1}{$", "unparsed"),
        ("", "5", "bad_reference"),
        ("no number at", "5", ""),
    ],
)
def test_what_math_cannot_judge_is_missing(reference: str, answer: str, reason: str) -> None:
    verdict = verify("math", answer, reference)
    assert verdict.reason.startswith(reason) and (verdict.score is None or not reason)


def test_a_formula_that_takes_for_ever_ends() -> None:
    assert verify("math", "the answer is 9**9**9**9**9", "5", timeout_s=0.5) == (None, "timed_out: over 0.5 s")
    assert verify("math", "5", "5").score == 1.0  # another process took over


def test_a_process_that_was_killed_is_a_missing_score(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verify("math", "5", "5").score == 1.0
    worker = workers.idle_worker()
    assert worker and worker.process.stdin
    worker.process.stdin.close()  # it ends as it does after a minute without work
    assert worker.process.wait() == 0
    workers.idle.put(worker)
    assert verify("math", "5", "5").score == 1.0
    worker = workers.idle_worker()
    assert worker
    worker.process.kill()
    monkeypatch.setattr(workers, "idle_worker", lambda: worker)
    assert verify("math", "5", "5").reason.startswith("memory_over")
    monkeypatch.undo()
    assert verify("math", "5", "5").score == 1.0


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("exact", {"ignore": ["case", "punctuation", "articles", "space"]}),
        ("choice", {"options": ["red", "blue"]}),
        (
            "constraints",
            {"constraints": ["title", {"check": "sentences", "at_least": 1}, {"check": "bullets", "at_least": 1}]},
        ),
        ("citation", {}),
    ],
)
@pytest.mark.parametrize("piece", ["a", " ", "[", "*", '"', "answer is ", ". ", "\n", "(A) "])
def test_an_answer_of_a_megabyte_is_judged_at_once(name: str, arguments: dict[str, Any], piece: str) -> None:
    started = time.monotonic()
    verdict = verify(name, piece * (HUGE // len(piece)), '["A", "b"]', **arguments)
    assert verdict.score in (0.0, None) or piece == "(A) "
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("answer", "reference", "arguments", "score"),
    [
        ("Paris", "Paris", {}, 1.0),
        (" Paris\n", "Paris", {}, 1.0),
        ("paris", "Paris", {}, 0.0),
        (
            "The  Paris!",
            "paris",
            {"ignore": ["case", "punctuation", "articles", "space"]},
            1.0,
        ),  # SQuAD's normalisation
        ("e\u0301t\u00e9", "\u00e9te\u0301", {}, 1.0),
        ("It is\nParis", "Paris", {"part": "last_line"}, 1.0),
        ("Lyon", '["Paris", "Lyon"]', {}, 1.0),
        ("x", "", {}, None),
    ],
)
def test_exact(answer: str, reference: str, arguments: dict[str, Any], score: float | None) -> None:
    assert verify("exact", answer, reference, **arguments).score == score


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("B", "B", 1.0),
        ("(b)", "B", 1.0),
        ("The answer is (B).", "B", 1.0),
        ("**Answer: B**", "B", 1.0),
        ("The answer is B because it is blue.", "B", 1.0),
        ("The answer is A matter of taste.", "A", 0.0),
        ("The answer is not B.\nC", "C", 1.0),
        ("The answer is A. No: the answer is C.", "C", 1.0),
        (r"\boxed{\text{D}}", "D", 1.0),
        ("A\n\nIt is red.", "A", 1.0),
        ("B) the blue one", "B", 1.0),
        ("The blue one.", "B", 1.0),
        ("Answer: A and C", "A, C", 1.0),
        ("Answer: C, A", '["A", "C"]', 1.0),
        ("Answer: A", "A, C", 0.0),
        ("Answer: A or B", "A", 0.0),
        ("The correct option is D.", "42", 1.0),
        ("Z", "A", 0.0),
        ("I cannot say.", "A", 0.0),
        ("A", "all of them", None),
    ],
)
def test_choice(answer: str, reference: str, score: float | None) -> None:
    options = ["red", "the blue one", "green", "42"]
    assert verify("choice", answer, reference, options=options).score == score


SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("answer", "reference", "arguments", "score", "reason"),
    [
        ('{"a": 1}', SCHEMA, {}, 1.0, ""),
        ('Here:\n```json\n{"a": 1}\n```', SCHEMA, {}, 1.0, ""),
        ('```json\n{"a": 1}\n```', SCHEMA, {"bare": True}, 0.0, "not_json"),
        ('{"a": "1"}', SCHEMA, {}, 0.0, "breaks_schema: a: "),
        ('{"a": NaN}', SCHEMA, {}, 0.0, "not_json"),
        ("[" * 100_000, SCHEMA, {}, 0.0, "not_json"),
        ("[1.0, true]", [1, True], {"expected": "value"}, 1.0, ""),
        ("[1, 1]", [1, True], {"expected": "value"}, 0.0, "not_equal"),
        ("1", {"$ref": "http://127.0.0.1:9/schema"}, {}, None, "bad_reference: its schema refers to"),
        ("1", {"$ref": "#"}, {}, None, "too_deep"),
        ("1", {"type": "nothing"}, {}, None, "bad_reference"),
        ("1", "", {"json_schema": {"type": "integer"}}, 1.0, ""),
        ('"%s"' % ("a" * 40), {"pattern": "^(a+)+$b"}, {"timeout_s": 0.5}, None, "timed_out"),
    ],
)
def test_json(answer: str, reference: Any, arguments: dict[str, Any], score: float | None, reason: str) -> None:
    verdict = verify("json", answer, reference, **arguments)
    assert verdict.score == score and verdict.reason.startswith(reason)


TABLE = "create table t(a int, b double); insert into t values (1, 0.1), (2, 0.2), (3, null)"


@pytest.mark.parametrize(
    ("answer", "reference", "score", "reason"),
    [
        ("```sql\nselect a, b from t\n```", "select a, b from t order by a", 1.0, ""),
        ("select a from t order by a desc", "select a from t order by a", 0.0, "other_rows"),
        ("select a from t order by a desc", "select a from (select * from t order by a)", 1.0, ""),
        ("select sum(b) from t", "select 0.3", 1.0, ""),
        ("select '1'", "select 1", 0.0, "other_rows"),
        ("select a from t union all select 1", "select a from t", 0.0, "other_rows"),
        ("select 'nan'::double", "select 'NaN'::float", 1.0, ""),
        ("drop table t", "select 1", 0.0, "query_fails"),
        ("select * from 'answers.csv'", "select 1", 0.0, "query_fails"),
        ("copy t to '/tmp/t.csv'", "select 1", 0.0, "query_fails"),
        ("select * from range(1_000_000)", "select 1", 0.0, "query_fails"),
        ("select 1", "select nothing", None, "bad_reference"),
    ],
)
def test_sql(answer: str, reference: str, score: float | None, reason: str) -> None:
    verdict = verify("sql", answer, reference, setup=TABLE)
    assert verdict.score == score and verdict.reason.startswith(reason)


def test_a_query_without_end_ends() -> None:
    endless = "with recursive r as (select 1 x union all select x + 1 from r) select count(*) from r"
    assert verify("sql", endless, "select 1", timeout_s=0.5).reason == "timed_out: over 0.5 s"


PASSAGES = {"1": "The cat sat on the mat.", "2": "Dogs bark at night, and cats don't."}


@pytest.mark.parametrize(
    ("answer", "arguments", "score"),
    [
        ("He wrote “The cat sat on the mat” [1].", {}, 1.0),
        ('"Dogs bark at night" [1]', {}, 0.0),
        ('"Dogs bark ... cats don’t" (2) and "the cat sat" [1]', {}, 1.0),
        ('"cats don’t ... Dogs bark" (2)', {}, 0.0),
        ('"... ... ..." [1]', {}, 0.0),
        ('"Dogs bark at night"', {}, 0.0),
        ('"Dogs bark at night"', {"named": False}, 1.0),
        ('"Dogs bark at night" [9]', {}, 0.0),
        ('No quotation, but a "name".', {}, 0.0),
        ("No quotation.", {"fewest_quotes": 0}, 1.0),
        ('"Dogs bark at night" [2], "pigs fly at night" [2]', {"partial": True}, 0.5),
    ],
)
def test_citation(answer: str, arguments: dict[str, Any], score: float) -> None:
    assert verify("citation", answer, PASSAGES, **arguments).score == score
    assert verify("citation", '"the cat sat on"', "The cat sat on the mat.").score == 1.0


IFEVAL: list[tuple[str, dict[str, Any], str, str]] = [
    ("punctuation:no_comma", {}, "No comma.", "Well, no."),
    ("length_constraints:number_words", {"relation": "less than", "num_words": 3}, "a b", "a b c"),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 3}, "a b c", "a b"),
    ("length_constraints:number_sentences", {"relation": "at least", "num_sentences": 2}, "A b. C d.", "A b c d."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        "First.\n\nThen, this.",
        "First.\n\nNow this.",
    ),
    ("keywords:existence", {"keywords": ["rain", "sun"]}, "Sunny or rainy", "Sunny"),
    ("keywords:frequency", {"keyword": "rain", "relation": "at least", "frequency": 2}, "Rain, rain", "rain"),
    ("keywords:forbidden_words", {"forbidden_words": ["rain"]}, "Trains", "It rains. Rain!"),
    ("keywords:letter_frequency", {"letter": "e", "let_relation": "less than", "let_frequency": 2}, "Edam", "cheese"),
    (
        "language:response_language",
        {"language": "de"},
        "Das ist ein langer Satz auf Deutsch, ganz ohne Zweifel, und er hat viele Wörter.",
        "This is a long sentence in plain English, and there is no doubt about that at all.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] in [city]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\nP.P.S more", "Bye."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n* b\n* c"),
    ("detectable_format:constrained_response", {}, "My answer is yes.", "Yes."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a*"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1\na\nSection 2\nb",
        "Section 1",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "a: 1"),
    ("detectable_format:title", {}, "<<On rain>>\nIt rains.", "<< >>\nIt rains."),
    ("combination:two_responses", {}, "One.\n******\nTwo.", "Same.\n******\nSame."),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Why?"}, "why? Because.", "Because."),
    ("startend:end_checker", {"end_phrase": "That is all."}, '"... That is all."', "That is all. Bye"),
    ("startend:quotation", {}, '"All of it"', '"Some" of it'),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 2},
        "OH NO, rain",
        "OH no",
    ),
    ("change_case:english_capital", {}, "ALL OF IT!", "ALL of it"),
    ("change_case:english_lowercase", {}, "all of it!", "All of it"),
]


@pytest.mark.parametrize(("name", "parameters", "kept", "broken"), IFEVAL, ids=lambda value: str(value)[:40])
def test_ifevals_instructions(name: str, parameters: dict[str, Any], kept: str, broken: str) -> None:
    row = {"instruction_id_list": [name], "kwargs": [{**parameters, "unused": None}]}
    assert verify("constraints", kept, **row) == (1.0, "")
    verdict = verify("constraints", broken, **row)
    assert verdict.score == 0 and verdict.reason.startswith("breaks_")


def test_ifeval_is_whole() -> None:
    from synthmill.tasks.verifiers.ifeval import TRANSLATED

    assert {name for name, *_ in IFEVAL} == TRANSLATED.keys() and len(TRANSLATED) == 25
    with pytest.raises(InputError, match="IFEval has no instruction 'nothing'"):
        verify("constraints", "x", instruction_id_list=["nothing"], kwargs=[{}])
    with pytest.raises(InputError, match="needs the parameter num_words"):
        verify(
            "constraints",
            "x",
            instruction_id_list=["length_constraints:number_words"],
            kwargs=[{"relation": "at least"}],
        )


def test_constraints() -> None:
    text = "Mr. X says, e.g., 3.5 is fine. Is it? Yes!"
    assert Sentences(exactly=3).fault(text) == ""
    assert Sentences(exactly=3).fault("J. S. Bach said no. Why not?\n\nNobody knows") == ""
    assert verify("constraints", "", constraints=["no_commas"]).score == 0
    assert verify("constraints", "a, b", ["no_commas", {"check": "lines", "at_most": 1}], partial=True).score == 0.5
    assert verify("constraints", "x", '[{"check": "nothing"}]').reason.startswith("bad_reference: constraints: 0: ")
    assert verify("constraints", "x").reason.startswith("no_constraints")
    for constraint, fault in (({"check": "words"}, "needs at_least"), ({"check": "title", "n": 1}, "no such setting")):
        with pytest.raises(InputError, match=fault):
            verify("constraints", "x", constraints=[constraint])


DOUBLE = "def double(n):\n    return 2 * n\n"
ENVIRONMENT = {"PATH", "HOME", "TMPDIR", "LANG", "LC_CTYPE", "OMP_NUM_THREADS"}
TESTS = ["assert double(2) == 4", "assert double(-1) == -2"]


@pytest.mark.parametrize(
    ("answer", "score", "reason"),
    [
        (f"Here:\n```python\n{DOUBLE}```\nand so on", 1.0, ""),
        ("def double(n): return 4", 0.5, "test 2: AssertionError"),
        ("def double(n)", 0.0, "test 1: SyntaxError"),
        ("raise SystemExit(0)", 0.0, "test 1: SystemExit"),
        ("import os; os._exit(0)", 0.0, "test 1: forged_or_missing_results"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 0.0, "test 1: crashed: SIGSEGV"),
        (
            'import os\nfor n in range(3, 64):\n  try: os.write(n, b\'["", ""]\')\n  except OSError: pass\nos._exit(0)',
            0.0,
            "test 1: forged_or_missing_results",
        ),
        ("while True: pass", None, "timed_out"),
        ("while True: print('x' * 1000)", None, "timed_out"),
        ("x = 'x' * (1 << 33)", None, "memory_over"),
        ("open('f', 'w').write('x' * (20 << 20))", None, "output_over"),
        (f"import os\nassert set(os.environ) <= {ENVIRONMENT}\n{DOUBLE}", 1.0, ""),
    ],
)
def test_code(answer: str, score: float | None, reason: str) -> None:
    verdict = verify("code", answer, TESTS, run_code=True, timeout_s=1, partial=True)
    assert verdict.score == score and verdict.reason.startswith(reason)


def test_code_runs_only_where_a_setting_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYNTHMILL_RUN_CODE", raising=False)
    assert verify("code", DOUBLE, TESTS).reason.startswith("not_allowed")
    with pytest.raises(InputError, match="expected its own, by name"):
        verifier_called("code", b'{"run_code": true}')
    monkeypatch.setenv("SYNTHMILL_RUN_CODE", "1")
    assert verify("code", DOUBLE, TESTS).score == 1.0


def test_programs_are_compared_by_what_they_print() -> None:
    cases = [{"input": "2 3\n", "output": "5\n"}, {"input": "1 1", "output": "2"}]
    for code, score, reason in (
        ("a, b = map(int, input().split()); print(a + b)", 1.0, ""),
        ("a, b = map(int, input().split()); print(a * b)", 0.0, "test 1: printed '6"),
        ("print(5)\nimport sys; sys.exit(3)", 0.0, "test 1: crashed: exit code 3"),
        ("while True: print('x' * 10_000)", None, "output_over"),
    ):
        verdict = verify("code", code, cases=cases, run_code=True, timeout_s=2)
        assert verdict.score == score and verdict.reason.startswith(reason)


def test_code_cannot_leave_its_folder(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    closed = run("", ["pass"], [], 5, 512).closed
    if "files" not in closed or "network" not in closed:
        pytest.skip(f"this kernel closes only {', '.join(closed) or 'nothing'}")
    attempts = (
        f"open({str(secret)!r}).read()",
        f"open({str(tmp_path / 'new')!r}, 'w')",
        "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
        "open('/proc/1/environ').read()",
    )
    tests = [f"try:\n  {attempt}\nexcept OSError: pass\nelse: raise AssertionError" for attempt in attempts]
    assert run("", [*tests, "open('f', 'w').write('x'); open('f').read()"], [], 5, 512).faults == [""] * 5
    assert not (tmp_path / "new").exists()


def test_what_a_program_starts_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(61)\n"
    ran = run(code, ["pass"], [], 5, 512)
    if "processes" not in ran.closed:
        pytest.skip("this kernel gives no namespace of processes")
    assert ran.faults == [""] and not [path for path in Path("/proc").glob("[0-9]*/cwd") if is_in(path, tmp_path)]


def is_in(link: Path, folder: Path) -> bool:
    try:
        return link.readlink().is_relative_to(folder)
    except OSError:
        return False


def test_equal_answers_are_judged_once_and_stay_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    from synthmill.tasks.verifiers import verdicts

    seen: list[str] = []
    monkeypatch.setattr(verdicts, "verdict_of", lambda job: seen.append(job.answer) or job.answer)
    exact = verifier_called("exact", b"{}")
    jobs = [Job(exact, answer, reference) for reference in "xy" for answer in ("a", "b", "a", "c", "b")]
    assert verdicts_of(jobs, 4) == [job.answer for job in jobs]
    assert sorted(seen) == ["a", "a", "b", "b", "c", "c"]
    assert verdicts_of([], 4) == []


def test_messages_and_other_references() -> None:
    chat = [{"role": "assistant", "content": [{"type": "text", "text": "4"}]}]
    assert verify("math", chat, 4).score == 1.0
    assert verify("math", "x", None).reason.startswith("bad_reference")
    assert verify("exact", [{"role": "assistant", "content": {"a": 1}}], "x").reason.startswith("bad_answer")
    assert verify("exact", "lone \ud800", "x").score == 0.0
    assert verify("math", "lone \ud800 5", "5").score == 1.0


def test_wrong_names_and_arguments_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"no verifier is called 'maths' .did you mean math.*; expected choice, citation, .*math"
    ):
        verify("maths", "x")
    with pytest.raises(InputError, match=r"verify:math: .*decimals"):
        verify("math", "x", "5", decimals="many")
    with pytest.raises(InputError, match="options means nothing to math; it belongs to choice"):
        verify("math", "x", "5", options=["a"])


def test_a_new_verifier_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "longer.py").write_text(
        "from typing import Literal\n"
        "from synthmill.tasks.verifiers.verifier import Verdict, Verifier\n"
        "class Longer(Verifier):\n"
        "    verifier: Literal['longer'] = 'longer'\n"
        "    than: int = 3\n"
        "    def verdict(self, answer, reference):\n"
        "        return Verdict(float(len(answer) > self.than))\n"
    )
    monkeypatch.setattr(verifiers_room, "__path__", [*verifiers_room.__path__, str(tmp_path)])
    assert verify("longer", "four").score == 1.0 and verify("longer", "four", than=4).score == 0.0


def test_a_reward_function_loads_nothing_heavy() -> None:
    heavy = "{'polars', 'pyarrow', 'numpy', 'numba', 'duckdb', 'ray', 'torch', 'sympy', 'prefect', 'datasets'}"
    code = f"import sys, synthmill; synthmill.verify('exact', 'a', 'a'); print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_every_kind_says_what_it_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "verifiers.md").read_text()
    for name, kind in Verifier.kinds().items():
        assert kind.__doc__ and re.search(rf"^- `{name}`: ", page, re.M)

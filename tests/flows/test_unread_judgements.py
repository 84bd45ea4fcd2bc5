"""A judge that cannot be read: `score`, `preferences` and `judge` say so, and end with an error where nothing could."""

from pathlib import Path

from tests.command import synthmill
from tests.conftest import ChatServer, write_jsonl

ASKED = "[RESULT]"  # stands in prompts of judges that give reasons


def test_score_counts_unread_judgements_and_fails_where_none_could_be_read(tmp_path: Path, server: ChatServer) -> None:
    pools = [{"prompt_id": n, "prompt": f"Why {n}?", "answers": ["because it is", "so"]} for n in "ab"]
    write_jsonl(tmp_path / "in.jsonl", pools)
    judge = ("score", "in.jsonl", "--scorer", "judge", "--evaluations", 2, "--engine", server.spec)
    server.set(fail_how="wrong", fail_on="Why a?")
    _, err = synthmill(*judge, "--out", "some.jsonl", cwd=tmp_path)
    assert """direct_scores: 4 of 8 judgements could not be read; the first: '{"other": 1}'""" in err
    assert "2 answers scored, 2 rows -> some.jsonl" in err
    server.set(fail_how="wrong", fail_on="Why")
    out = ("--out", "none.jsonl")
    for scorer in ("judge", "rubric"):  # the others are given probabilities here
        given = ("score", "in.jsonl", "--scorer", scorer, "--engine", server.spec, "--store", "new", *out)
        _, err = synthmill(*given, cwd=tmp_path, expect=1)
        assert "judgements could not be read; the first: '{\"other\": 1}'; choose another model" in err
        assert "Traceback" not in err
        asked = server.stats()["total"]
        synthmill(*given, cwd=tmp_path, expect=1)
        assert server.stats()["total"] == asked  # settled: nothing is asked again
    assert not (tmp_path / "none.jsonl").exists()
    (tmp_path / "mine.py").write_text("def none(prompt, answers, reference):\n    return [None for _ in answers]\n")
    _, err = synthmill(
        "score", "in.jsonl", "--scorer", "python:mine.py:none", "--out", "none.jsonl", cwd=tmp_path, expect=1
    )
    assert "none gave no answer of in.jsonl a score, so none.jsonl was not written" in err


def test_flows_count_unread_judgements_and_fail_where_none_could_be_read(tmp_path: Path, server: ChatServer) -> None:
    pools = [{"prompt_id": n, "prompt": f"Why {n}?", "answers": ["because it is", "so", "no idea"]} for n in "abcd"]
    write_jsonl(tmp_path / "in.jsonl", pools)
    given = ("run", "preferences", "--set", "source=in.jsonl", "--set", "policies=[]", "--set", "cuts=[max-min]")
    given += ("--set", 'scorers=[{"spec": "judge", "evaluations": 1}]', "--set", "reward=judge", "--workers", 0)
    given += ("--set", f"engines.teacher={server.spec}")
    server.set(fail_how="wrong", fail_on="Why a?")
    _, err = synthmill(*given, cwd=tmp_path)
    note = """direct_scores: 3 of 12 judgements could not be read; the first: '{"other": 1}'"""
    assert note in err
    [card] = (tmp_path / "store" / "datasets").glob("preferences-*/README.md")
    assert note in card.read_text()
    server.set(fail_on="Why")
    _, err = synthmill(*given, "--store", "new", cwd=tmp_path, expect=1)
    assert "12 of 12 judgements could not be read; the first: '{\"other\": 1}'" in err


def test_a_scorer_that_always_says_the_same_is_named_on_the_card(tmp_path: Path) -> None:
    pools = [{"prompt_id": str(n), "prompt": f"Why {n}?", "answers": ["because it is", "so", "no"]} for n in range(8)]
    write_jsonl(tmp_path / "in.jsonl", pools)
    scorer = "def length(prompt, answers, reference):\n    return [len(answer) for answer in answers]\n"
    (tmp_path / "mine.py").write_text(
        f"{scorer}def same(prompt, answers, reference):\n    return [4 for _ in answers]\n"
    )
    note = "same gives 4 to 100% of all answers: it hardly tells them apart"
    scorers = "scorers=[python:mine.py:length, python:mine.py:same]"
    given = ("--set", "source=in.jsonl", "--set", "policies=[]", "--set", scorers, "--set", "reward=length")
    out, _ = synthmill("run", "preferences", *given, "--set", "cuts=[max-min]", "--workers", 0, cwd=tmp_path)
    assert note in out and "length gives" not in out
    [card] = (tmp_path / "store" / "datasets").glob("preferences-*/README.md")
    assert f"- {note}\n" in card.read_text()


def test_the_bench_counts_unread_judgements_and_fails_where_none_could_be_read(
    tmp_path: Path, server: ChatServer
) -> None:
    levels = [f"level {n}" for n in range(1, 6)]
    rubrics = [{"criteria": "Is it true?", "score_descriptions": levels}]
    bench = [{"prompt": f"Why {n}?", "system": "", "reference_answer": "So.", "rubrics": rubrics} for n in "ab"]
    write_jsonl(tmp_path / "bench.jsonl", bench)
    given = ("run", "judge", "--set", "source=bench.jsonl", "--set", "runs=1", "--workers", 0)
    given += ("--set", f"engines.teacher={server.spec}", "--set", "attempts=1")
    server.set(fail_how="wrong", fail_on="Why a?\n\nThe response to score:")
    _, err = synthmill(*given, cwd=tmp_path)
    note = """judged: 1 of 2 judgements could not be read; the first: '{"other": 1}'"""
    assert note in err
    [card] = (tmp_path / "store" / "datasets").glob("judge-*/README.md")
    assert note in card.read_text()
    server.set(fail_on=ASKED)
    _, err = synthmill(*given, "--store", "new", cwd=tmp_path, expect=1)
    assert "2 of 2 judgements could not be read; the first: '{\"other\": 1}'" in err

"""Stages on tables: known answers, and what holds for every table."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.errors import InputError
from synthmill.schemas.hashing import child_id
from synthmill.schemas.pools import PolicyAnswer, Score, ScoredPool
from synthmill.schemas.rows import Dropped, to_arrow
from synthmill.storage.artifacts import Store, check_conserved, read_artifact, read_dropped
from synthmill.storage.expressions import compute
from synthmill.storage.lineage import lineage_of
from synthmill.tasks.frames import ArtifactId, FrameStage, Reference, StageContext, run_locally
from synthmill.tasks.running.job import Planned
from synthmill.tasks.running.limits import RunLimits
from synthmill.tasks.running.stages import run_stage
from synthmill.tasks.running.table_source import ingest_memory
from synthmill.tasks.tables.choosing import AtLeast, AtMost, Filter, SampleRows, Top
from synthmill.tasks.tables.joining import Concat, Join
from synthmill.tasks.tables.pool_scores import PolicyGap
from synthmill.tasks.tables.screening import ContaminatedRows, DuplicateRows
from synthmill.tasks.tables.shaping import Explode, Map, Sort
from tests.tasks.stages import in_process

NOWHERE = Path("nowhere")
ROWS = pa.table(
    {
        "id": ["a", "b", "c", "d"],
        "x": [3.0, float("nan"), 1.0, None],
        "n": [1, 2, 3, 4],
        "text": ["one", "two", "3", None],
        "list": [["u", "v"], [], ["w"], None],
        "meta": [{"topic": "t"}, {"topic": "s"}, {"topic": "t"}, None],
    }
)


def run(stage: FrameStage, table: pa.Table = ROWS) -> tuple[pa.Table, dict[str, tuple[str, str]]]:
    """(rows, drops: id -> (reason, detail)), conserved, with the columns that were planned."""
    output, dropped = stage.run_on(table, StageContext(NOWHERE, run_locally, {}))
    check_conserved(stage.name, table["id"].to_pylist(), output, dropped)
    planned = stage.output_columns(table.schema)
    assert same_columns(planned, output.schema), (planned, output.schema)
    return output, {row.id: (row.reason, row.detail) for row in dropped}


def same_columns(first: pa.Schema, second: pa.Schema) -> bool:
    """Whether tables have the same names and types; texts are texts, whatever the width of their offsets."""
    return bool(pl.DataFrame(first.empty_table()).schema == pl.DataFrame(second.empty_table()).schema)


def ids(table: pa.Table) -> list[str]:
    return list(table["id"].to_pylist())


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("n > 2", "cd"),
        ("N > 2", "cd"),
        ("text = 'one' OR x = 1", "ac"),
        ("x IS NULL", "d"),
        ("isnan(x)", "b"),
        ("len(list) > 0 AND meta.topic = 't'", "ac"),
        ("list_contains(list, 'w')", "c"),
        ("len([e FOR e IN list IF e > 'u']) = 1", "ac"),
        ("x = 3 AND len(list_filter(list, lambda x: x > 'u')) = 1", "a"),
        ("n BETWEEN 2 AND 3 -- both ends", "bc"),
        ("true", "abcd"),
        ("NULL", ""),
    ],
)
def test_filter_keeps_rows_by_an_sql_condition(where: str, kept: str) -> None:
    output, dropped = run(Filter(where=where))
    assert ids(output) == list(kept)
    assert dropped == {row: ("filtered", where) for row in "abcd" if row not in kept}


def test_a_row_where_a_condition_fails_is_dropped_and_its_neighbours_stay() -> None:
    output, dropped = run(Filter(where="text::INTEGER > 2"))
    assert ids(output) == ["c"]
    assert {row: reason for row, (reason, _) in dropped.items()} == {
        "a": "not_computed",
        "b": "not_computed",
        "d": "filtered",
    }
    assert "Could not convert string" in dropped["a"][1]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("nn > 2", "there is no column 'nn'; nearest: n; found id, x, n, text, list, meta"),
        ('text = "one"', "there is no column 'one'.*single quotes: 'one'"),
        ("n > avg(n)", "avg reads other rows"),
        ("row_number() OVER () > 2", "a window reads other rows"),
        ("lag(n) > 2", "lag reads other rows"),
        ("geomean(n) > 2", "reads other rows"),
        ("n > (SELECT 1)", "a query within it would read other rows"),
        ("n IN (SELECT n FROM rows)", "a query within it"),
        ("random() > 0.5", "random depends on time, chance or the session"),
        ("uuid() = text", "uuid depends on"),
        ("now() > '2020-01-01'", "now depends on"),
        ("current_timestamp > '2020-01-01'", "current_timestamp depends on time"),
        ("age(TIMESTAMP '2020-01-01') > INTERVAL 1 DAY", "age of one date depends on the time"),
        ("current_setting('threads') = '1'", "current_setting depends on"),
        ("getvariable('x') = 1", "getvariable depends on"),
        ("len(read_text('/etc/passwd')) > 0", "table function"),
        ("n > 2; SET threads = 4", "no SQL expression"),
        ("n > 2) FROM rows WHERE (n > 3", "no SQL expression"),
        ("n > 2 FROM rows", "no SQL expression"),
        ("n > 2, n > 3", "more than one SQL expression"),
        ("*", "several columns"),
        ("n >", "no SQL expression"),
        ("unnest(list) = 'u'", "the stage explode"),
        ("nothing_like_it(n)", "does not exist"),
        ("lower(n) = 'a'", "No function matches"),
        ("n = $1", "a parameter has no value"),
        ("n", "gives .*; expected a condition"),
    ],
)
def test_a_condition_that_is_wrong_or_sees_more_than_its_row_is_refused_when_planned(
    expression: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Filter(where=expression).output_columns(ROWS.schema)


def test_columns_of_unknown_type_and_names_that_sql_takes_for_one() -> None:
    unknown = pa.schema([("id", pa.string()), ("later", pa.null())])
    assert Filter(where="lower(later) = 'a' AND later.field > 1").output_columns(unknown).names == ["id", "later"]
    twice = pa.schema([("id", pa.string()), ("Topic", pa.string()), ("topic", pa.string())])
    with pytest.raises(InputError, match="may be Topic or topic, which are one name in SQL"):
        Filter(where="topic = 'a'").output_columns(twice)
    assert Filter(where="id = 'a'").output_columns(twice).names == twice.names


def test_filter_by_a_polars_expression_sees_all_rows() -> None:
    stage = Filter(expression=pl.col("n") > pl.col("n").mean())  # type: ignore[arg-type]
    assert (stage.whole, Filter(where="true").whole) == (True, False)
    assert Filter.model_validate_json(stage.model_dump_json()) == stage
    output, dropped = run(stage)
    assert ids(output) == ["c", "d"]
    assert dropped["a"][0] == "filtered" and "mean()" in dropped["a"][1]
    with pytest.raises(InputError, match="there is no column 'nn'; nearest: n"):
        run(Filter(expression=pl.col("nn") > 1))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected a condition"):
        run(Filter(expression=pl.col("n") + 1))  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="Python function"):
        Filter(expression=pl.col("n").map_batches(lambda n: n > 1))  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="without a seed"):
        Filter(expression=pl.col("n").shuffle() > 1)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="one condition"):
        Filter()


def pools(*scores: tuple[float | None, ...], policies: str = "ss", label: str = "judge") -> pa.Table:
    rows = [
        ScoredPool(
            id=f"p{n}",
            prompt="?",
            answers=tuple(
                PolicyAnswer(answer_index=k, text="", finish_reason="stop", completion_tokens=1, policy=policy)
                for k, policy in enumerate(policies)
            ),
            scores=(
                Score(scorer="other", settings="{}", values=(9.0,) * len(policies)),
                *([Score(scorer=label, settings="{}", values=values)] if values else []),
            ),
        )
        for n, values in enumerate(scores)
    ]
    return to_arrow(ScoredPool, rows)


def test_limits_of_columns_and_of_pools_scores() -> None:
    output, dropped = run(AtLeast(score="x", value=2))
    assert ids(output) == ["a"]
    assert dropped == {"b": ("below", "no score"), "c": ("below", "1"), "d": ("below", "no score")}
    output, dropped = run(AtMost(score="x", value=1))
    assert (ids(output), dropped["a"]) == (["c"], ("above", "3"))
    table = pools((1.0, 4.0), (2.0, None), (None, None), ())
    for over, kept in (("max", ["p0"]), ("min", []), ("mean", ["p0"])):
        output, dropped = run(AtLeast(score="judge", value=2.5, over=over), table)  # type: ignore[arg-type]
        assert ids(output) == kept
    assert dropped == {"p1": ("below", "2"), "p2": ("below", "no score"), "p3": ("below", "no score")}
    with pytest.raises(InputError, match="no pool has the score 'judg'; found the scores judge, other"):
        run(AtLeast(score="judg", value=1), table)
    with pytest.raises(InputError, match="there is no column 'xx'; nearest: x"):
        AtLeast(score="xx", value=1).output_columns(ROWS.schema)
    with pytest.raises(InputError, match=r"'text' holds .*; expected numbers"):
        AtLeast(score="text", value=1).output_columns(ROWS.schema)


def test_stages_that_choose_are_not_stopped_by_the_limit_of_drops() -> None:
    planned = Planned(AtLeast(score="x", value=9), {}, "source")
    manifest = Manifest.model_construct(parts=())
    RunLimits(drops=0.0).check(planned, manifest)


def test_top_ranks_by_score_then_id_and_rounds_shares_up() -> None:
    table = pa.table({"id": list("dcba"), "s": [1.0, 2.0, 2.0, None], "of": ["u", "u", "v", "v"]})
    assert ids(run(Top(score="s", count=1), table)[0]) == ["b"]
    output, dropped = run(Top(score="s", count=9), table)
    assert (ids(output), dropped) == (["d", "c", "b"], {"a": ("not_top", "no score")})
    assert ids(run(Top(score="s", share=0.5), table)[0]) == ["c", "b"]
    assert ids(run(Top(score="s", share=0.01, within="of"), table)[0]) == ["c", "b"]  # type: ignore[arg-type]
    assert ids(run(Top(score="other", count=1), pools((1.0, 1.0), (1.0, 1.0)))[0]) == ["p0"]
    with pytest.raises(ValidationError, match="one of count and share"):
        Top(score="s")


def test_policy_gap_is_the_difference_of_means() -> None:
    table = pools((4.0, 2.0, 1.0), (None, 3.0, 1.0), (5.0, None, None), (), policies="tss")
    for stage, gaps in (
        (PolicyGap(score="judge"), [2.5, None, None, None]),
        (PolicyGap(score="judge", high="s"), [-2.5, None, None, None]),
        (PolicyGap(score="judge", low="t"), [-2.5, None, None, None]),
        (PolicyGap(score="judge", high="t", low="s"), [2.5, None, None, None]),
        (PolicyGap(score="judge", high="t", low="q"), [None] * 4),
    ):
        assert run(stage, table)[0]["gap"].to_pylist() == gaps
    assert run(PolicyGap(score="judge", label="mine"), table)[0].schema.field("mine").type == pa.float64()
    assert run(PolicyGap(score="other"), pools((1.0,), policies="s"))[0]["gap"].to_pylist() == [None]
    with pytest.raises(InputError, match="there is no column 'answers'"):
        run(PolicyGap(score="x"))


def test_map_adds_replaces_drops_and_renames() -> None:
    stage = Map(
        columns={"n": "n * 1.5", "long": "length(text) > 2", "topic": "meta.topic", "old": "n", "sum": "list_sum([n])"},
        drop=("meta", "list"),
        rename={"x": "y", "text": "x"},
    )
    output, dropped = run(stage)
    assert output.column_names == ["id", "y", "n", "x", "long", "topic", "old", "sum"]
    assert not dropped
    assert output["n"].to_pylist() == [1.5, 3.0, 4.5, 6.0]
    assert output["old"].to_pylist() == output["sum"].to_pylist() == [1, 2, 3, 4]
    assert [str(output.schema.field(name).type) for name in ("n", "old", "sum")] == ["double", "int64", "int64"]
    assert output["long"].to_pylist() == [True, True, False, None]
    output, dropped = run(Map(columns={"number": "text::INTEGER"}))
    assert (ids(output), output["number"].to_pylist()) == (["c", "d"], [3, None])
    assert {reason for reason, _ in dropped.values()} == {"not_computed"}
    assert dropped["a"][1].startswith("number: ")


def test_map_refuses_what_would_lose_rows_or_columns() -> None:
    for wrong in ({"columns": {"id": "1"}}, {"drop": ["parent_id"]}, {"rename": {"x": "id"}}):
        with pytest.raises(ValidationError, match="map cannot change"):
            Map.model_validate(wrong)
    with pytest.raises(ValidationError, match="map needs"):
        Map()
    with pytest.raises(InputError, match=r"drop: there is no column 'texts'; nearest: text"):
        Map(drop="texts").output_columns(ROWS.schema)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="two columns 'n'"):
        Map(rename={"x": "n"}).output_columns(ROWS.schema)
    with pytest.raises(InputError, match="sum reads other rows"):
        Map(columns={"all": "sum(n)"}).output_columns(ROWS.schema)
    with pytest.raises(InputError, match="interval"):
        Map(columns={"all": "INTERVAL 1 DAY"}).output_columns(ROWS.schema)


def test_explode_makes_children_by_place() -> None:
    output, dropped = run(Explode(column="list"))
    assert dropped == {"b": ("empty_list", "list"), "d": ("empty_list", "list")}
    assert ids(output) == [child_id("a", 0), child_id("a", 1), child_id("c", 0)]
    assert output["parent_id"].to_pylist() == ["a", "a", "c"]
    assert output["list"].to_pylist() == ["u", "v", "w"]
    nested = pa.table({"id": ["a"], "l": [[{"t": 1}, None, {"t": 2}]], "parent_id": ["z"]})
    assert run(Explode(column="l"), nested)[0]["l"].to_pylist() == [{"t": 1}, None, {"t": 2}]
    unknown = pa.schema([("id", pa.string()), ("l", pa.null())])
    assert Explode(column="l").output_columns(unknown).names == ["id", "parent_id", "l"]
    with pytest.raises(InputError, match="'text' holds String; expected a list"):
        Explode(column="text").output_columns(ROWS.schema)


def test_sort_puts_missing_values_last_and_makes_parts() -> None:
    stage = Sort(by="x", rows_per_part=3)  # type: ignore[arg-type]
    output, _ = run(stage)
    assert (ids(output), stage.parts_begin(output)) == (["c", "a", "b", "d"], [0, 3])
    assert ids(run(Sort(by=("x",), descending=True))[0]) == ["a", "c", "b", "d"]


def joined(store: Store, left: pa.Table, right: pa.Table, **fields: Any) -> pa.Table:
    manifest = ingest_memory(store, right, 2, "run")
    stage = Join.model_validate({"with": ArtifactId(manifest.stage, manifest.key, "right"), **fields})
    output, dropped = stage.run_on(left, StageContext(store.root, run_locally, {}))
    check_conserved("join", ids(left), output, dropped)
    assert same_columns(stage.columns_beside(left.schema, [right.schema]), output.schema)
    assert {row.reason for row in dropped} <= {"no_partner"}
    return output


def test_join_takes_columns_of_the_one_partner(store: Store) -> None:
    right = pa.table({"id": ["t", "u", "b"], "n": [7, 8, 9], "size": ["L", "S", None]})
    by_id = joined(store, ROWS, right)
    assert ids(by_id) == list("abcd")
    assert by_id["n_other"].to_pylist() == [None, 9, None, None]
    assert "id_other" not in by_id.column_names
    left = pa.table({"id": ["a", "b", "c"], "topic": ["t", None, "t"]})
    by_topic = joined(store, left, right, on={"topic": "id"}, how="inner", columns=["size"])
    assert by_topic.to_pylist() == [
        {"id": "a", "topic": "t", "size": "L"},
        {"id": "c", "topic": "t", "size": "L"},
    ]
    twice = pa.table({"id": ["1", "2", "3"], "topic": ["t", "t", "q"], "size": ["first", "second", "no"]})
    with pytest.raises(InputError, match=r"2 rows have several partners, the first a \(2\).*many: first"):
        joined(store, left, twice, on="topic")
    assert joined(store, left, twice, on="topic", many="first")["size"].to_pylist() == ["first", None, "first"]
    assert joined(store, left.slice(1, 1), twice, on="topic")["size"].to_pylist() == [None]
    with pytest.raises(InputError, match="there is no column 'sizes'; nearest: size"):
        joined(store, left, twice, on="topic", columns=["sizes"])
    with pytest.raises(InputError, match="cannot compare topic"):
        joined(store, left, pa.table({"id": ["x"], "topic": [1]}), on="topic")


def concat(store: Store, left: pa.Table, *others: pa.Table) -> tuple[Concat, pa.Table]:
    manifests = [ingest_memory(store, other, 2, "run") for other in others]
    stage = Concat.model_validate({"with": [ArtifactId(each.stage, each.key, "step") for each in manifests]})
    output, dropped = stage.run_on(left, StageContext(store.root, run_locally, {}))
    check_conserved("concat", ids(left), output, dropped)
    assert same_columns(stage.columns_beside(left.schema, [other.schema for other in others]), output.schema)
    return stage, output


def test_concat_gives_other_rows_ids_of_their_own(store: Store) -> None:
    left = pa.table({"id": ["a", "b"], "n": [1, 2]})
    right = pa.table({"id": ["a"], "n": [0.5], "extra": ["e"], "parent_id": ["z"]})
    _, output = concat(store, left, right, left)
    assert output.column_names == ["id", "parent_id", "n", "extra"]
    assert output["parent_id"].to_pylist() == ["", "", "a", "a", "b"]
    assert output["n"].to_pylist() == [1.0, 2.0, 0.5, 1.0, 2.0]
    assert output["extra"].to_pylist() == [None, None, "e", None, None]
    _, again = concat(store, output, right)
    assert len(set(ids(again))) == again.num_rows == 6
    with pytest.raises(InputError, match=r"a column has two types.*n "):
        concat(store, left, pa.table({"id": ["c"], "n": ["text"]}))


def make(store: Store, stage: FrameStage, source: Manifest, rows: str = "run") -> Manifest:
    with in_process(store) as pool:
        return run_stage(store, Planned(stage, {}, source.key), source, pool, rows)


class Tagged(FrameStage):
    """A stage whose content a test changes behind its key."""

    name: ClassVar = "tagged"
    version: ClassVar = "1"
    tag: ClassVar[str] = "first"

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        return frame.with_columns(tag=pl.lit(self.tag)), []


@pytest.mark.parametrize("kind", ["join", "concat", "contamination"])
def test_what_reads_other_rows_is_made_again_when_they_change(
    store: Store, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = ingest_memory(store, pa.table({"id": list("abc"), "prompt": ["u", "v", "second"]}), 2, "run")
    source = ingest_memory(store, pa.table({"id": ["a", "b"], "n": [1, 2]}), 2, "run")
    right = make(store, Tagged(), source)
    other = ArtifactId(right.stage, right.key, "right")
    stage: FrameStage = {
        "join": lambda: Join.model_validate({"with": other}),
        "concat": lambda: Concat.model_validate({"with": [other], "rows_per_part": 2}),
        "contamination": lambda: ContaminatedRows.model_validate(
            {"benchmarks": [other], "benchmark_columns": ["tag"], "layers": ["words"]}
        ),
    }[kind]()
    first = make(store, stage, left)
    assert first.sources == {left.key: left.content, right.key: right.content}
    assert make(store, stage, left).made_at == first.made_at
    # the right side is made again under its key, with other rows: as when an engine's lost answers came
    monkeypatch.setattr(Tagged, "tag", "second")
    for path in (store.root / "parts" / "tagged").rglob("*"):
        if path.is_file():
            path.unlink()
    changed = make(store, Tagged(), source)
    assert (changed.key, changed.content == right.content) == (right.key, False)
    second = make(store, stage, left)
    assert (second.key, second.content == first.content) == (first.key, False)
    assert make(store, stage, left).made_at == second.made_at
    if kind == "contamination":
        assert (first.dropped, second.dropped) == ({}, {"contaminated": 1})
    else:
        assert {*read_artifact(store, second)["tag"].to_pylist()} == {"second", None}
    if kind == "concat":
        assert [part.rows for part in second.parts] == [2, 2, 1]


def test_a_row_of_a_concat_leads_back_to_its_own_step(store: Store) -> None:
    left = ingest_memory(store, pa.table({"id": ["a"], "n": [1]}), 2, "run")
    right = make(store, Tagged(), ingest_memory(store, pa.table({"id": ["b"], "n": [2]}), 2, "run"))
    stage = Concat.model_validate({"with": [ArtifactId(right.stage, right.key, "right")]})
    made = make(store, stage, left)
    child = read_artifact(store, made).to_pylist()[1]["id"]
    steps = lineage_of(store, child).steps
    assert [(step.manifest.stage, step.row["id"]) for step in steps] == [
        ("rows", "b"),
        ("tagged", "b"),
        ("concat", child),
    ]


def test_references_are_written_as_with_and_kept_by_their_field() -> None:
    artifact = ArtifactId("rows", "k", "right")
    assert Join.model_validate({"with": artifact}) == Join.model_validate({"other": ("rows", "k")})
    assert Join.model_validate({"with": artifact}).identity({})["settings"]["other"] == ["rows", "k"]
    forms = {"other": Join, "further": Concat, "benchmarks": ContaminatedRows}
    for name, kind in forms.items():
        assert any(isinstance(mark, Reference) for mark in kind.model_fields[name].metadata)
    with pytest.raises(ValidationError, match="Extra inputs"):
        Join.model_validate({"with": artifact, "where": "true"})


def test_duplicates_drop_or_mark(store: Store) -> None:
    table = pa.table(
        {
            "id": list("abcd"),
            "q": ["Why do rivers bend?", "why  do rivers bend?", "Else", "Else"],
            "of": list("uuuv"),
            "kept": [True, True, True, False],
            "similarity": ["mine"] * 4,
        }
    )
    source = ingest_memory(store, table, 2, "run")
    dropping = DuplicateRows(columns=("q",), rows_per_part=2)
    made = make(store, dropping, source)
    output = read_artifact(store, made)
    assert ids(output) == ["a", "c", "d"]
    assert output["similarity"].to_pylist() == ["mine"] * 3
    assert same_columns(dropping.output_columns(table.schema), output.schema)
    [drop] = [row for seal in made.parts for row in read_dropped(store, seal)]
    assert (drop.id, drop.reason, drop.detail) == ("b", "duplicate", "of a (exact, 1.000)")
    marking = DuplicateRows(columns=("q",), found="mark")
    output = read_artifact(store, make(store, marking, source))
    assert output["kept"].to_pylist() == [True, False, True, False]
    assert output["duplicate_of"].to_pylist() == [None, "a", None, None]
    assert same_columns(marking.output_columns(table.schema), output.schema)
    with pytest.raises(InputError, match="there is no column 'prompt'"):
        DuplicateRows().output_columns(table.schema)
    with pytest.raises(InputError, match="needs vectors"):
        DuplicateRows(columns=("q",), layers=("meaning",)).output_columns(table.schema)
    with pytest.raises(InputError, match="the column kept holds string"):
        DuplicateRows(columns=("q",)).output_columns(pa.schema([("q", pa.string()), ("kept", pa.string())]))


def test_duplicates_against_earlier_rows(store: Store) -> None:
    earlier = ingest_memory(store, pa.table({"id": ["z"], "q": ["Else"]}), 2, "run")
    source = ingest_memory(store, pa.table({"id": ["a", "b"], "q": ["Else", "New"]}), 2, "run")
    against = [ArtifactId(earlier.stage, earlier.key, "earlier")]
    made = make(store, DuplicateRows.model_validate({"columns": ["q"], "against": against}), source)
    assert ids(read_artifact(store, made)) == ["b"]
    assert made.sources.keys() == {source.key, earlier.key}


def test_contamination_drops_or_marks(store: Store) -> None:
    bench = ingest_memory(store, pa.table({"id": ["q1"], "question": ["What is two plus two?"]}), 2, "run")
    table = pa.table(
        {"id": ["a", "b"], "chat": [[{"role": "user", "content": "what is two plus two"}], []], "kept": ["x", "y"]}
    )
    source = ingest_memory(store, table, 2, "run")
    fields = {
        "columns": ["chat"],
        "benchmarks": [ArtifactId(bench.stage, bench.key, "bench")],
        "benchmark_columns": ["question"],
        "layers": ["words"],
    }
    dropping = ContaminatedRows.model_validate(fields)
    assert not dropping.embeds
    made = make(store, dropping, source)
    assert read_artifact(store, made).to_pylist() == [{"id": "b", "chat": [], "kept": "y"}]
    [drop] = [row for seal in made.parts for row in read_dropped(store, seal)]
    assert (drop.reason, drop.detail.split(":")[0]) == ("contaminated", "bench q1")
    marking = ContaminatedRows.model_validate({**fields, "found": "mark"})
    output = read_artifact(store, make(store, marking, source))
    assert output["contaminated"].to_pylist() == [True, False]
    assert output["kept"].to_pylist() == ["x", "y"]
    assert same_columns(marking.output_columns(table.schema), output.schema)
    with pytest.raises(InputError, match="benchmark_columns of bench: there is no column 'prompt'"):
        ContaminatedRows.model_validate({**fields, "benchmark_columns": ["prompt"]}).columns_beside(
            table.schema, [pa.schema([("id", pa.string()), ("question", pa.string())])]
        )


NUMBERS = st.none() | st.floats(allow_infinity=False, width=32)
TEXTS = st.none() | st.sampled_from(["", "12", "one", "Ünï", "it's"])
ROW = st.fixed_dictionaries(
    {
        "x": NUMBERS,
        "n": st.integers(-5, 5),
        "text": TEXTS,
        "list": st.none() | st.lists(TEXTS, max_size=3),
        "scores": st.lists(
            st.fixed_dictionaries({"scorer": st.just("judge"), "values": st.lists(NUMBERS, min_size=2, max_size=2)}),
            max_size=1,
        ),
    }
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("x", pa.float64()),
        ("n", pa.int64()),
        ("text", pa.string()),
        ("list", pa.list_(pa.string())),
        ("scores", pa.list_(pa.struct([("scorer", pa.string()), ("values", pa.list_(pa.float64()))]))),
        ("answers", pa.list_(pa.struct([("policy", pa.string())]))),
    ]
)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.lists(ROW, max_size=12))
    answers = [{"policy": "t"}, {"policy": "s"}]
    return pa.Table.from_pylist([{"id": f"row {n}", "answers": answers, **row} for n, row in enumerate(rows)], SCHEMA)


ROW_WISE: list[FrameStage] = [
    Filter(where="n > 0 AND text <> ''"),
    Filter(where="text::INTEGER > 2"),
    AtLeast(score="x", value=0),
    AtMost(score="judge", value=1, over="mean"),
    PolicyGap(score="judge"),
    SampleRows(share=0.4, seed=3),
    Map(columns={"twice": "n * 2", "number": "text::DOUBLE"}, drop=("list",), rename={"n": "m"}),
    Explode(column="list"),
]
WHOLE: list[FrameStage] = [
    Filter(expression=(pl.col("n") > pl.col("n").mean()).meta.serialize(format="json")),
    Top(score="x", count=3),
    Top(score="judge", share=0.3, within=("text",)),
    SampleRows(count=3),
    Sort(by=("text", "x"), descending=True),
    DuplicateRows(columns=("text",), layers=("exact",)),
    DuplicateRows(columns=("text",), layers=("exact",), found="mark"),
]


@pytest.mark.parametrize("stage", ROW_WISE + WHOLE, ids=lambda stage: stage.name)
@settings(max_examples=40, deadline=None)
@given(table=tables())
def test_every_stage_keeps_account_of_every_row_and_plans_its_columns(stage: FrameStage, table: pa.Table) -> None:
    output, dropped = run(stage, table)
    kept = [row for row in ids(output) if row in set(ids(table))]
    if stage.name not in ("sort", "explode"):
        assert kept == [row for row in ids(table) if row not in dropped]


@pytest.mark.parametrize("stage", ROW_WISE, ids=lambda stage: stage.name)
@settings(max_examples=40, deadline=None)
@given(table=tables(), cut=st.integers(0, 12))
def test_rows_that_are_added_change_no_earlier_row(stage: FrameStage, table: pa.Table, cut: int) -> None:
    assert not stage.whole
    before, dropped_before = run(stage, table.slice(0, cut))
    after, dropped_after = run(stage, table)
    assert repr(after.slice(0, before.num_rows).to_pylist()) == repr(before.to_pylist())
    assert {row: dropped_after[row] for row in dropped_before} == dropped_before


@settings(max_examples=40, deadline=None)
@given(left=tables(), right=tables())
def test_join_and_concat_keep_account_of_every_row(
    left: pa.Table, right: pa.Table, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    store.prepare()
    assert ids(joined(store, left, right)) == ids(left)
    partners = set(right["text"].to_pylist()) - {None}
    inner = joined(store, left, right, on="text", how="inner", many="first")
    assert ids(inner) == [row["id"] for row in left.to_pylist() if row["text"] in partners]
    _, output = concat(store, left, right)
    assert output["parent_id"].to_pylist() == [""] * left.num_rows + ids(right)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0.01, 1), count=st.integers(1, 40))
def test_samples_are_about_as_large_as_asked(seed: int, share: float, count: int) -> None:
    table = pa.table({"id": [f"row {n}" for n in range(400)]})
    drawn = run(SampleRows(share=share, seed=seed), table)[0].num_rows
    assert abs(drawn - share * 400) <= 6 * math.sqrt(400 * share * (1 - share)) + 1
    assert run(SampleRows(count=count, seed=seed), table)[0].num_rows == count
    assert {*ids(run(SampleRows(share=share / 2, seed=seed), table)[0])} <= {
        *ids(run(SampleRows(share=share, seed=seed), table)[0])
    }


def test_an_expression_has_the_same_value_in_every_part() -> None:
    table = pa.table({"id": [f"row {n}" for n in range(1000)], "n": list(range(1000))})
    expressions = {"v": "n * n + length(id)"}
    whole = compute(table, expressions).values["v"].to_pylist()
    with ThreadPoolExecutor(4) as threads:  # as a worker makes parts
        parts = list(threads.map(lambda start: compute(table.slice(start, 7), expressions), range(0, 1000, 7)))
    assert [value for part in parts for value in part.values["v"].to_pylist()] == whole

"""The file commands as functions on frames: polars, pandas, Arrow or lists of dicts in, polars out.

They work in a store of their own that is deleted at the end, in this process, and print nothing but what a reader must
know. What should be kept belongs into a session (flows/making/session.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from synthmill.flows.making.session import Session
from synthmill.flows.terminal.progress import shows_progress
from synthmill.schemas.errors import InputError
from synthmill.schemas.settings_files import read_settings
from synthmill.storage.plain_files.in_memory import arrow_of

WRITTEN, READ = "frame.parquet", "result.parquet"


def cut(
    frame: Any,
    rule: str | Mapping[str, Any] = "max-min",
    *,
    prompt: str = "",
    answer: str = "",
    reward: str = "",
    prompt_id: str = "",
    leave_out: Sequence[str] = (),
    length_control: bool = False,
) -> pl.DataFrame:
    """Preference pairs of answers with rewards, as `synthmill pairs` cuts them: a row per pair.

    frame: a row per answer (prompt_id, prompt, answer, reward) or per prompt (answers, rewards: lists); other names of
    these columns are given by keyword. rule: "sweet-spot", or with settings {"rule": "sweet-spot", "rejected": "mu-s"}.
    Raises InputError.
    """
    from synthmill.flows.commands.pairs import write_pairs_of
    from synthmill.storage.plain_files.pools import ColumnNames
    from synthmill.tasks.cuts.cut import CutSettings

    settings = read_settings(CutSettings, None, {"spec": rule} if isinstance(rule, str) else rule)
    names = ColumnNames(prompt_id, prompt, answer, reward)
    with scratch_files(frame) as folder:
        write_pairs_of(str(folder / WRITTEN), folder / READ, settings, names, tuple(leave_out), length_control)
        return pl.read_parquet(folder / READ)


def score(
    frame: Any,
    scorer: str | Mapping[str, Any] = "r3",
    *,
    engine: str | None = None,
    concurrency: int = 64,
    name: str = "",
    prompt: str = "",
    answer: str = "",
    prompt_id: str = "",
    embedder: str = "minilm",
    seed: int = 0,
) -> pl.DataFrame:
    """The frame with one column more, the score of every answer, as `synthmill score` gives it; where there was no
    reward, it is the `reward` (or `rewards`), too.

    frame: as for `cut`, without rewards. scorer: "r3", "judge", "reward-model:FOLDER", or a mapping with its settings.
    engine: who is asked, for scorers that ask a model. name: of the column. Raises InputError, EngineError.
    """
    from synthmill.flows.commands.score import ScoreSettings, score_answers
    from synthmill.storage.plain_files.pools import ColumnNames
    from synthmill.tasks.scorers.scoring import ScorerSettings

    named = {"name": name} if name else {}
    values = {"spec": scorer, **named} if isinstance(scorer, str) else {**scorer, **named}
    with scratch_files(frame) as folder:
        settings = ScoreSettings(
            source=str(folder / WRITTEN),
            out=folder / READ,
            scorer=read_settings(ScorerSettings, None, values),
            columns=ColumnNames(prompt_id, prompt, answer),
            engine=engine,
            concurrency=concurrency,
            embedder=embedder,
            seed=seed,
            store=str(folder / "store"),
            workers=0,
            ray_address=None,
            retry_lost=False,
        )
        score_answers(settings)
        before, scored = pl.read_parquet(folder / WRITTEN), pl.read_parquet(folder / READ)
    added = [column for column in scored.columns if column not in before.columns]
    return own_frame(frame).with_columns(scored.select(added))


def rank(
    queries: Any,
    corpus: Any,
    retriever: str | Mapping[str, Any] = "bm25",
    *,
    qrels: str | PathLike[str] = "",
    depth: int = 100,
) -> pl.DataFrame:
    """The ranks of each query's gold passages, as `synthmill rank` writes them: a row per query and candidate.

    queries: rows with history, question and gold, or those that `rank --queries` reads; corpus: rows with id and text.
    qrels: a file of relevant passages, where the queries do not name them. Raises InputError.
    """
    from synthmill.flows.commands.rank import RankSettings, rank_queries
    from synthmill.tasks.retrieval.retrievers import RetrieverSettings

    kind = read_settings(RetrieverSettings, None, {"spec": retriever} if isinstance(retriever, str) else retriever)
    with scratch_files(queries) as folder:
        own_frame(corpus).write_parquet(folder / "corpus.parquet")
        settings = RankSettings(
            queries=str(folder / WRITTEN),
            corpus=str(folder / "corpus.parquet"),
            qrels=fspath(qrels),
            out=folder / READ,
            depth=depth,
            as_object=False,
            by_group=False,
            store=str(folder / "store"),
            workers=0,
            ray_address=None,
            limit=None,
        )
        rank_queries(settings, kind)
        return pl.read_parquet(folder / READ)


def dedup(
    frame: Any,
    columns: Sequence[str] | str = ("prompt",),
    *,
    within: Sequence[str] = (),
    score: str = "",
    embedder: str = "minilm",
    **settings: Any,
) -> pl.DataFrame:
    """The frame with `kept`, `duplicate_of`, `similarity` and `layer`, as `synthmill dedup` marks rows; the first of
    equal rows is kept, or the one with the highest `score`.

    columns: of the texts that are compared; within: columns in which duplicates are equal; score: a column of numbers.
    duplicate_of: the `id` of the kept row, or its place where the frame has no `id`. settings: layers (exact, words,
    meaning), threshold, jaccard, recall. Raises InputError.
    """
    from synthmill.schemas.dedup_settings import DedupSettings
    from synthmill.tasks.dedup.duplicates import UniqueRows
    from synthmill.tasks.vectors.stage import Vectors

    rules = read_settings(DedupSettings, None, settings)
    if rules.against:
        raise InputError("against names files; expected rows of one frame: concatenate the frames, or use a session")
    texts = as_names(columns)
    rows = placed(frame, [*texts, *within, *filter(None, [score])])
    with scratch_session() as session:
        source = session.read(rows)
        embedding = Vectors(columns=texts, embedder=embedder, precision=rules.precision)
        vectors = session.make(source, embedding) if "meaning" in rules.layers else ""
        stage = UniqueRows(
            columns=texts,
            within=tuple(within),
            score=score,
            vectors=vectors,
            embedder=embedder,
            **rules.model_dump(include={"layers", "threshold", "jaccard", "recall", "sample"}),
        )
        verdicts = session.make(source, stage).frame(["id", "kept", "duplicate_of", "similarity", "layer"])
    own = own_frame(frame)
    names = own["id"] if "id" in own.columns else pl.int_range(own.height, eager=True)
    places = in_order(verdicts)["duplicate_of"].cast(pl.Int64)
    marks = in_order(verdicts).with_columns(names.cast(pl.String).gather(places).alias("duplicate_of"))
    return own.with_columns(marks)


def decontaminate(
    frame: Any,
    benchmarks: Any,
    columns: Sequence[str] | str = ("prompt",),
    *,
    prompt_column: str = "prompt",
    drop: bool = False,
    embedder: str = "minilm",
    **settings: Any,
) -> pl.DataFrame:
    """The frame with `contaminated`, `benchmark`, `matched_id` and `evidence`, as `synthmill decontaminate` marks rows;
    or, with drop, only the clean rows of it.

    benchmarks: a path or a frame of prompts, several of them, or a mapping from names to these; prompt_column: of their
    prompts. columns: of the texts that are compared. settings: layers (words, meaning), threshold. Raises InputError.
    """
    from synthmill.schemas.dedup_settings import DecontaminateSettings
    from synthmill.tasks.dedup.contamination import CleanRows

    rules = read_settings(DecontaminateSettings, None, settings)
    texts = as_names(columns)
    rows = placed(frame, texts)
    with scratch_session() as session:
        source = session.read(rows)
        named = [
            (name, session.read(path, "known_prompts", prompt_column=prompt_column).key)
            for name, path in benchmark_files(benchmarks, session.store.root)
        ]
        rule = rules.model_dump(include={"layers", "threshold"})
        stage = CleanRows(columns=texts, benchmarks=tuple(named), found="mark", embedder=embedder, **rule)
        marks = session.make(source, stage).frame(["id", "contaminated", "benchmark", "matched_id", "evidence"])
    marked = own_frame(frame).with_columns(in_order(marks))
    return marked.filter(~pl.col("contaminated")) if drop else marked


@contextmanager
def scratch_files(frame: Any) -> Iterator[Path]:
    """A folder with the frame as a file, deleted at the end; nothing shows progress meanwhile."""
    rows = own_frame(frame)
    if not rows.height:
        raise InputError("the frame has no rows; expected one row at least")
    with TemporaryDirectory(prefix="synthmill-") as name, shows_progress(False):
        rows.write_parquet(Path(name) / WRITTEN)
        yield Path(name)


@contextmanager
def scratch_session() -> Iterator[Session]:
    """A session in a store that is deleted at its end."""
    with TemporaryDirectory(prefix="synthmill-") as name, Session(Path(name) / "store", progress=False) as session:
        yield session


def own_frame(frame: Any) -> pl.DataFrame:
    """The user's rows as polars has them. Raises InputError for anything that is no frame."""
    if isinstance(frame, pl.DataFrame):
        return frame
    rows = pl.from_arrow(arrow_of(frame))
    assert isinstance(rows, pl.DataFrame)
    return rows


def placed(frame: Any, columns: Sequence[str]) -> pl.DataFrame:
    """Some columns of the rows, with their places as ids: equal rows stay apart, and the first ranks first. Raises
    InputError for a column that is not there.
    """
    rows = own_frame(frame)
    if missing := [name for name in columns if name not in rows.columns]:
        raise InputError(f"the frame has no column {missing[0]!r}; found: {', '.join(rows.columns)}")
    if not rows.height:
        raise InputError("the frame has no rows; expected one row at least")
    texts = [
        pl.col(name).list.join("\n") if rows.schema[name] == pl.List(pl.String) else pl.col(name)
        for name in dict.fromkeys(columns)
    ]
    return rows.select(pl.int_range(pl.len()).cast(pl.String).str.zfill(12).alias("id"), *texts)


def in_order(verdicts: pl.DataFrame) -> pl.DataFrame:
    """Verdicts on rows in the order of the rows, without ids."""
    return verdicts.sort("id").drop("id")


def as_names(columns: Sequence[str] | str) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else tuple(columns)


def benchmark_files(benchmarks: Any, folder: Path) -> Iterator[tuple[str, str]]:
    """(name, path) of benchmarks; frames are written into the folder. Raises InputError where there is none."""
    if isinstance(benchmarks, Mapping):
        named = list(benchmarks.items())
    else:
        several = isinstance(benchmarks, list | tuple) and not (benchmarks and isinstance(benchmarks[0], Mapping))
        named = [("", each) for each in (benchmarks if several else [benchmarks])]
    if not named:
        raise InputError("there is no benchmark; expected a path or a frame of prompts, or several")
    for number, (name, benchmark) in enumerate(named, 1):
        if isinstance(benchmark, str | PathLike):
            path = fspath(benchmark)
        else:
            path = str(folder / f"benchmark-{number}.parquet")
            own_frame(benchmark).write_parquet(path)
        yield name or path.rsplit("/", 1)[-1], path

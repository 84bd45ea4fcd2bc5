"""A file's pools as an artifact: the input of scorers and cuts."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from synthmill.schemas.artifacts import Manifest, PartSeal
from synthmill.schemas.errors import InputError
from synthmill.schemas.hashing import content_hash
from synthmill.schemas.pools import PolicyAnswer, RubricTextPool, Score, ScoredPool, VerifiablePool
from synthmill.schemas.rows import Dropped
from synthmill.schemas.settings import FileSettings
from synthmill.storage.artifacts import (
    CALLS,
    Store,
    rows_to_table,
    seal_part,
    sealed_artifact,
    sealed_part,
    write_manifest,
)
from synthmill.storage.plain_files.pool_rows import BESIDE_PROMPT, ENDS, POLICIES, RUBRIC, THINKING, VERIFIER
from synthmill.storage.plain_files.pools import PoolFile, read_pools
from synthmill.storage.plain_files.rows import fingerprint
from synthmill.tasks.running.same_columns import with_same_columns
from synthmill.tasks.running.stages import columns_of, read_schema

POOLS = "pools"
VERSION = "2"
REWARD = "reward"


def pools_key(file: PoolFile, rows_per_part: int, limit: int | None = None) -> str:
    """The key of a file's artifact, from its content and the settings it is read with."""
    columns = [file.id, file.prompt, file.answer, file.reward, file.reference, list(file.extra)]
    reading = [Path(file.path).name, *columns, file.single_turn, *([file.thoughts] if file.thoughts else [])]
    reading += [["verifiers", *file.by_row]] if file.by_row else []
    reading += [["policies", file.policies]] if file.policies else []
    return content_hash([POOLS, VERSION, fingerprint(FileSettings(path=file.path)), reading, rows_per_part, limit])


def ingest_pools(store: Store, file: PoolFile, rows_per_part: int, run: str, limit: int | None = None) -> Manifest:
    """Read a file's pools into an artifact. Its rewards, and each extra column, become scores of those names. Raises
    InputError when there is no pool.
    """
    key = pools_key(file, rows_per_part, limit)
    if manifest := sealed_artifact(store, POOLS, key, {}):
        return manifest

    def seal_tables(tables: Iterator[pa.Table]) -> list[PartSeal]:
        seals, rows = list[PartSeal](), list[ScoredPool]()
        count = 0
        for table in tables:
            for row in table.to_pylist():
                if limit is not None and count >= limit:
                    return [*seals, seal_pools(store, rows, [])]
                count += 1
                rows.append(pool_of(row, file.extra, Path(file.path).name))
                if len(rows) == rows_per_part:
                    seals.append(seal_pools(store, rows, []))
                    rows = []
        if rows:
            seals.append(seal_pools(store, rows, []))
        return seals

    seals = read_pools(file, seal_tables, store.root)
    for reason, number in file.faults.items():
        seals.append(seal_pools(store, [], [Dropped(id=f"{reason}-{n}", reason=reason) for n in range(number)]))
    identity = {"stage": POOLS, "version": VERSION, "source": file.path}
    seals = with_same_columns(store, POOLS, seals)
    columns = columns_of(read_schema(store, seals[0]))
    manifest = Manifest(stage=POOLS, key=key, identity=identity, columns=columns, parts=tuple(seals), run=run)
    if manifest.rows == 0:
        raise InputError(f"{file.path}: none of its pools can be used ({dict(manifest.dropped)})")
    return write_manifest(store, manifest)


def seal_pools(store: Store, rows: Sequence[ScoredPool], dropped: Sequence[Dropped]) -> PartSeal:
    """Seal one part of the artifact; a part that is already sealed is reused."""
    key = content_hash([POOLS, VERSION, [row.model_dump() for row in rows], [row.model_dump() for row in dropped]])
    table = rows_to_table(type(rows[0]) if rows else ScoredPool, rows, [()] * len(rows)).drop_columns([CALLS])
    ids = [*(row.id for row in rows), *(row.id for row in dropped)]
    return sealed_part(store, POOLS, key) or seal_part(store, POOLS, key, table, dropped, ids_in=ids)


def pool_of(row: dict[str, Any], extra: Sequence[str], source: str) -> ScoredPool:
    """One row of `PoolFile.tables`."""
    texts = row["answers"] or ()
    beside = (row.get(name) or [None] * len(texts) for name in (ENDS, THINKING, POLICIES))
    answers = tuple(
        PolicyAnswer(
            answer_index=n,
            text=text,
            finish_reason=end or "",
            completion_tokens=0,
            reasoning=thought,
            policy=policy or "",
        )
        for n, (text, end, thought, policy) in enumerate(zip(texts, *beside, strict=True))
    )
    values_of = ({REWARD: row["rewards"]} if "rewards" in row else {}) | {name: row[name] for name in extra}
    scores = tuple(Score(scorer=name, settings="{}", values=tuple(values or ())) for name, values in values_of.items())
    kind = VerifiablePool if any(name in row for name in VERIFIER) else RubricTextPool if RUBRIC in row else ScoredPool
    return kind(
        **{name: row[name] for name in BESIDE_PROMPT if name in row},
        id=row["prompt_id"],
        prompt=row["prompt"],
        system=row.get("system"),
        source=source,
        reference=row.get("reference") or "",
        answers=answers,
        scores=scores,
    )

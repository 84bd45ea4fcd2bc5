"""Parts whose columns were inferred from their rows are brought to the same columns."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from synthmill.schemas.artifacts import PartSeal
from synthmill.schemas.errors import InputError
from synthmill.schemas.hashing import content_hash
from synthmill.storage.artifacts import Store, read_part, reseal_part, sealed_part


def with_same_columns(store: Store, stage: str, seals: Sequence[PartSeal]) -> list[PartSeal]:
    """The parts, those without a column, or with nothing in it, written again with the type that it has in others.
    Raises InputError for a column of two types.
    """
    schemas = [pq.read_schema(store.root / seal.file).remove_metadata() for seal in seals]
    if all(schema.equals(schemas[0]) for schema in schemas):
        return list(seals)
    whole = unified(stage, schemas)
    return [
        seal if schema.equals(whole) else promoted(store, stage, seal, whole)
        for seal, schema in zip(seals, schemas, strict=True)
    ]


def unified(stage: str, schemas: Sequence[pa.Schema]) -> pa.Schema:
    fields: dict[str, pa.Field] = {}
    for number, schema in enumerate(schemas):
        for field in schema:
            before = fields.get(field.name, field)
            try:
                pair = [pa.schema([before]), pa.schema([field])]
                fields[field.name] = pa.unify_schemas(pair, promote_options="default").field(0)
            except pa.ArrowException:
                raise InputError(
                    f"stage {stage}: the column {field.name} is {before.type} in some parts and {field.type} in part "
                    f"{number + 1}; return one type, or say it in the function's return type (a TypedDict)"
                ) from None
    return pa.schema(list(fields.values()))


def promoted(store: Store, stage: str, seal: PartSeal, schema: pa.Schema) -> PartSeal:
    """A part with the columns of `schema`, as a part of its own; null where it had no value."""
    key = content_hash([seal.key, seal.content, [[field.name, str(field.type)] for field in schema]])
    if seal_before := sealed_part(store, stage, key):
        return seal_before
    table = read_part(store, seal)
    table = pa.concat_tables([schema.empty_table(), table], promote_options="default").select(schema.names)
    return reseal_part(store, seal, key, table.cast(schema))

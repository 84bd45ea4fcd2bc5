"""Stages from outside the tree, as they travel: the file's path and content, the name in it, and the settings.

Workers load the file themselves, so nothing of a user's is pickled; a file whose content is another there is refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import polars as pl
import pyarrow as pa

from synthmill.schemas.calls import Frozen
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.rows import Dropped, Row
from synthmill.tasks.frames import Artifact, FrameStage, RunContext, StageContext, even_parts
from synthmill.tasks.prompts import Prompt, load, prompts_beside
from synthmill.tasks.recipe import AnyRecipe, Recipe, Steps
from synthmill.tasks.running.outside_definitions import (
    Code,
    beside,
    definition,
    loaded,
    settings_of,
    version_of,
)
from synthmill.tasks.running.outside_functions import Function, check_rows, faults_named


class OutsideFrames(FrameStage):
    """A user's FrameStage, or a user's function. settings: as JSON."""

    infers_columns: ClassVar[bool] = True
    adds_own_columns: ClassVar[bool] = True

    code: Code
    settings: str
    name: str  # type: ignore[misc]
    version: str  # type: ignore[misc]

    @classmethod
    def of(cls, code: Code, settings: Frozen) -> Self:
        """The stage for settings that are read already; for a class they are an instance of it."""
        defined = definition(code)
        return cls(
            code=code,
            settings=settings.model_dump_json(),
            name=defined.name if isinstance(defined, Function) else settings.name,  # type: ignore[attr-defined]
            version=version_of(code, defined),
        )

    @property
    def work(self) -> Any:
        """The user's stage; for a function its settings."""
        return settings_of(self.code, self.settings)

    @property
    def stated(self) -> Any:
        """What says what it needs and adds: the user's function or stage."""
        return self.function.call if self.function else self.work

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(getattr(self.stated, "needs", ("id",)))

    @property
    def adds(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(getattr(self.stated, "adds", ()))

    @property
    def whole(self) -> bool:  # type: ignore[override]
        if self.function and self.function.kind == "row":
            return False
        return bool(getattr(self.work, "whole", False))

    @property
    def embeds(self) -> bool:  # type: ignore[override]
        return bool(getattr(self.stated, "embeds", False))

    @property
    def function(self) -> Function | None:
        """The user's function; None for a class."""
        defined = definition(self.code)
        return defined if isinstance(defined, Function) else None

    @property
    def columns_unknown(self) -> bool:
        """Whether it is a function of rows that says nothing of the columns that it makes."""
        function = self.function
        return bool(function and function.kind == "row" and not (function.declared or function.adds))

    @property
    def label(self) -> str:
        return str(getattr(self.work, "label", ""))

    def bound(self, context: RunContext) -> Self:
        return self if self.function else self.of(self.code, self.work.bound(context))

    def others(self) -> tuple[Artifact, ...]:
        others: tuple[Artifact, ...] = () if self.function else self.work.others()
        return others

    def output_columns(self, columns: pa.Schema) -> pa.Schema:
        if self.function:
            return self.function.output_columns(columns, self.work)
        with self.guarded():
            return self.work.output_columns(columns)

    def parts_begin(self, table: pa.Table) -> list[int]:
        if self.function:
            return even_parts(table, getattr(self.work, "rows_per_part", 0) or table.num_rows or 1)
        return list(self.work.parts_begin(table))

    def rows_per_row(self) -> int:
        return 1 if self.function else int(self.work.rows_per_row())

    def identity(self, engines: Mapping[str, str]) -> dict[str, Any]:
        """With the source's content, which a version of its own cannot forget."""
        if self.function:
            unused = {"rows_per_part"} if not self.whole else set()
            settings = {"settings": self.work.model_dump(mode="json", exclude=unused)}
        else:
            settings = self.work.identity(engines)
        return {**settings, "stage": self.name, "version": self.version, "code": self.code.content}

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        if self.function:
            kept, dropped = self.function.run_on(frame.to_arrow(compat_level=pl.CompatLevel.oldest()), self.work)
            return pl.DataFrame(pl.from_arrow(kept)), dropped
        applied: tuple[pl.DataFrame, list[Dropped]] = self.work.apply(frame, store)
        return applied

    def run_on(self, table: pa.Table, context: StageContext) -> tuple[pa.Table, list[Dropped]]:
        """The user's code on a table, and what it must not do said in one line. Raises InputError."""
        if missing := [name for name in self.needs if name not in table.column_names]:
            raise InputError(
                f"stage {self.name} needs the columns {', '.join(missing)}; found {', '.join(table.column_names)}"
            )
        with self.guarded():
            if self.function:
                output, dropped = self.function.run_on(table, self.work)
            else:
                output, dropped = self.work.run_on(table, context)
        check_rows(self.name, table, output, dropped)
        return output, dropped

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Within: a fault of the user's code is one line, and prompts are refused: no key here covers them."""
        with prompts_beside(beside(self.code, {})), faults_named(self.name, loaded(self.code)[0]):
            yield


class OutsideRecipe(Recipe[Row, Row]):
    """A user's Recipe. settings: as JSON."""

    code: Code
    settings: str
    name: str  # type: ignore[misc]
    version: str  # type: ignore[misc]
    roles: tuple[str, ...]  # type: ignore[misc]

    @classmethod
    def of(cls, code: Code, recipe: AnyRecipe) -> Self:
        return cls(
            code=code,
            settings=recipe.model_dump_json(),
            name=recipe.name,
            version=version_of(code, type(recipe)),
            roles=tuple(recipe.roles),
            sampling=recipe.sampling,
        )

    @property
    def work(self) -> AnyRecipe:
        """The user's recipe."""
        recipe: AnyRecipe = settings_of(self.code, self.settings)
        return recipe

    @property
    def prompts(self) -> Mapping[str, tuple[str, ...]]:  # type: ignore[override]
        return self.work.prompts

    @property
    def takes(self) -> type[Row]:  # type: ignore[override]
        return self.work.takes

    @property
    def makes(self) -> type[Row]:  # type: ignore[override]
        return self.work.makes

    @property
    def label(self) -> str:
        return str(getattr(self.work, "label", ""))

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Within: the user's prompts are found, and a fault of the user's code is one line."""
        with prompts_beside(beside(self.code, self.prompts)), faults_named(self.name, loaded(self.code)[0]):
            yield

    def output_columns(self, columns: pa.Schema) -> pa.Schema:
        with self.guarded():
            return self.work.output_columns(columns)

    def read(self, table: pa.Table) -> tuple[list[Row], list[Dropped]]:
        with self.guarded():
            return self.work.read(table)

    def to_table(self, rows: Sequence[Row]) -> pa.Table:
        with self.guarded():
            return self.work.to_table(rows)

    def steps(self, row: Row) -> Steps[Row]:
        """The user's steps, which find their prompts at each of them."""
        prompts = beside(self.code, self.prompts)
        with prompts_beside(prompts):
            running = self.work.steps(row)
        drop, answers = None, None
        while True:
            try:
                with prompts_beside(prompts):
                    requests = running.throw(drop) if drop else running.send(answers)  # type: ignore[arg-type]
            except StopIteration as end:
                child: Row = end.value
                return child
            drop, answers = None, None
            try:
                answers = yield requests
            except Drop as thrown:
                drop = thrown

    def template(self, name: str) -> Prompt:
        with prompts_beside(beside(self.code, self.prompts)):
            return load(name)

    def needs_roles(self) -> tuple[str, ...]:
        return tuple(self.work.needs_roles())

    def requests_per_row(self) -> int:
        return self.work.requests_per_row()

    def tokens_per_row(self) -> int:
        return self.work.tokens_per_row()

    def identity(self, engines: Mapping[str, str]) -> dict[str, Any]:
        with self.guarded():
            identity = self.work.identity(engines)
        return {**identity, "version": self.version, "code": self.code.content}

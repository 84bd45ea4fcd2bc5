"""How requests are written for a provider whose own words are known: nothing is learned of it but settings."""

from collections.abc import Callable, Mapping
from typing import Any

from synthmill.schemas.calls import Request
from synthmill.schemas.errors import InputError
from synthmill.schemas.settings import EngineSettings, Structure
from synthmill.tasks.engines.dialect import Written, suspects_in
from synthmill.tasks.engines.refusals import Refusal
from synthmill.tasks.engines.served import model_name
from synthmill.tasks.engines.structures import AUTO, answer_schema, with_form_told

WriteBody = Callable[[Request, int, EngineSettings, Structure | None], dict[str, Any]]


class ProviderDialect:
    """What one provider takes. name: the engine's."""

    version = 0

    def __init__(
        self,
        settings: EngineSettings,
        ladder: tuple[Structure, ...],
        usual: Structure,
        write_body: WriteBody,
        optional: tuple[str, ...],
        form_fields: Mapping[str, tuple[str, ...]],
    ) -> None:
        """ladder: the ways in which it may be asked for a form; usual: the one that `auto` begins with. optional: the
        fields that it may refuse; form_fields: those that ask for a form, by structure. Raises InputError for a
        structure that it does not know.
        """
        asked = settings.structure.removeprefix(f"{AUTO}:")
        self.structure: Structure = usual if asked == AUTO else asked  # type: ignore[assignment]
        if self.structure not in ladder:
            raise InputError(
                f"{settings.kind} is asked for forms of answers by {', '.join(ladder)} here, and structure is {asked}; "
                "leave it out, or choose one of them"
            )
        self.ladder = ladder
        self.name = model_name(settings, self.structure, usual)
        self._settings, self._write_body = settings, write_body
        self._optional, self._form_fields = optional, form_fields

    def write(self, request: Request, seed: int, count: int) -> Written:
        schema = answer_schema(request)
        if schema and self.structure == "none":
            request = with_form_told(request, schema)
        structure = self.structure if schema else None
        return Written(self._write_body(request, seed, self._settings, structure), structure, schema)

    def suspects(self, written: Written, refusal: Refusal) -> list[tuple[str, ...]]:
        fields = [name for name in (*self._optional, *self._settings.options) if name in written.body]
        return suspects_in(written, refusal, fields, self._form_fields)

    def adapt(self, written: Written, groups: list[tuple[str, ...]], refusal: Refusal) -> bool:
        return False

"""Reading application files: YAML or JSON, with prompts inline, in files of their own, or inside a larger JSON file.

A prompt is a text with `<USER>:` and `<AGENT>:` markers (AgentBench's and GenPI's form), a list of turns
(`- user: ...`, `- agent: ...`, or `{role, content}`), or a list of texts that alternate from the user's. Each text may
be `{file: NAME, pointer: /a/0/b}`; a `pointer` (RFC 6901) leads into a JSON file.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from synthmill.schemas.applications import AGENT, USER, Application
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.hashing import file_checksum
from synthmill.schemas.messages import SPELLINGS, text_in
from synthmill.schemas.settings_files import explain

TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MARKER = re.compile(f"({re.escape(USER)}|{re.escape(AGENT)})")
ROLES: Mapping[str, str] = {name: role for name, role in SPELLINGS.items() if role in ("user", "assistant")} | {
    USER: "user",
    AGENT: "assistant",
}


def read_application(path: Path) -> tuple[Application, dict[str, str]]:
    """Read and check an application, and find the file of its world: {FILE.py:CLASS@HASH: file}. Raises InputError.

    File names in it are relative to its folder, or absolute.
    """
    import yaml

    path = path.expanduser()
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is not there; expected an application file, for instance examples/dialogues/shell.yaml"
        ) from error
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path} is not valid YAML or JSON: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict) or "prompt" not in document:
        raise InputError(f"{path} has no `prompt`; expected an application such as examples/dialogues/shell.yaml")
    folder = path.parent.resolve()
    if unknown := [name for name in document if not isinstance(name, str) or name in ("id", "parent_id", "turns")]:
        raise InputError(f"{path}: {unknown[0]}: no such field")
    fields = {name: value for name, value in document.items() if name != "prompt"}
    worlds: dict[str, str] = {}
    try:
        fields["turns"] = turns_of(document["prompt"], folder)
        fields["tools"] = tools_of(fields.get("tools"))
        if isinstance(inputs := fields.get("inputs"), dict) and "demos" in inputs:
            fields["inputs"] = {**inputs, "demos": demos_of(inputs["demos"], folder)}
        if isinstance(environment := fields.get("environment"), dict) and environment.get("world"):
            name, file = world_of(str(environment["world"]), folder)
            fields["environment"] = {**environment, "world": name}
            worlds[name] = str(file)
        return Application.with_id(**{"name": path.stem.replace("-", "_"), **fields}), worlds
    except ValidationError as error:
        raise InputError(explain(error, path, unknown="no such field")) from error
    except (InputError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: {error}") from error


def turns_of(prompt: Any, folder: Path) -> list[dict[str, str]]:
    """A prompt in any of its forms, as turns. The last turn keeps its white space at the end: the input follows it."""
    if isinstance(prompt, Mapping):
        prompt = content_of(prompt, folder, "the prompt")
    turns = split_at_markers(prompt) if isinstance(prompt, str) else turns_in_list(prompt, folder)
    return [
        {**turn, "content": turn["content"].lstrip() if place == len(turns) - 1 else turn["content"].strip()}
        for place, turn in enumerate(turns)
    ]


def split_at_markers(text: str) -> list[dict[str, str]]:
    """Split at the role markers; raises ValueError for a text without them, or with words before the first.

    The line break that ends a file is not part of the last turn.
    """
    preamble, *pieces = MARKER.split(text.removesuffix("\n"))
    if preamble.strip() or not pieces:
        raise ValueError(
            f"the prompt does not begin with {USER}; expected {USER} and {AGENT} before each turn, or a list"
        )
    return [{"role": ROLES[mark], "content": text} for mark, text in zip(pieces[::2], pieces[1::2], strict=True)]


def turns_in_list(prompt: Any, folder: Path) -> list[dict[str, str]]:
    """Turns from a list; raises ValueError, which names the first entry that is no turn."""
    if not isinstance(prompt, list):
        raise ValueError(
            f"the prompt is {type(prompt).__name__}; expected text with {USER} markers, or a list of turns"
        )
    turns = []
    for place, entry in enumerate(prompt):
        role: Any
        if isinstance(entry, str):
            role, content = ("user", "agent")[place % 2], entry
        elif isinstance(entry, Mapping) and len(entry) == 1:
            [(role, content)] = entry.items()
        elif isinstance(entry, Mapping) and set(entry) == {"role", "content"}:
            role, content = entry["role"], parts_joined(entry["content"], place)
        else:
            role, content = "", entry
        role = ROLES.get(role, ROLES.get(str(role).casefold(), ""))
        if not role:
            raise ValueError(f"turn {place} of the prompt is {entry!r:.60}; expected `user: TEXT` or `agent: TEXT`")
        text = content_of(content, folder, f"turn {place} of the prompt", call=role == "assistant")
        if not isinstance(text, str):
            raise ValueError(f"turn {place} of the prompt leads to {type(text).__name__}; expected text")
        turns.append({"role": role, "content": text})
    return turns


def parts_joined(content: Any, place: int) -> Any:
    """A message's content, a list of parts as one text. Raises ValueError for a part that is no text."""
    try:
        return text_in(content) if isinstance(content, list) else content
    except Drop as drop:
        raise ValueError(f"turn {place} of the prompt has {drop.message}; expected text") from drop


def demos_of(demos: Any, folder: Path) -> list[Any]:
    if not isinstance(demos, list):
        raise ValueError(f"inputs.demos is {type(demos).__name__}; expected a list of texts")
    return [content_of(demo, folder, f"demo {n}") for n, demo in enumerate(demos)]


def content_of(content: Any, folder: Path, place: str, *, call: bool = False) -> Any:
    """A text, or what a {file, pointer} leads to. call: a mapping with `turn` is a turn in JSON. Raises ValueError."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if call and isinstance(content, Mapping) and set(content) == {"turn"}:
        return orjson.dumps(content).decode()
    if not isinstance(content, Mapping) or "file" not in content or set(content) - {"file", "pointer"}:
        problem = f"{place} is {content!r:.60}; expected text"
        raise ValueError(f"{problem} (in quotes, where YAML takes it for something else), or {{file: NAME}}")
    path = folder / str(content["file"])
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if "pointer" not in content:
        return text
    from jsonpointer import JsonPointerException, resolve_pointer

    try:
        return resolve_pointer(orjson.loads(text), str(content["pointer"]))
    except (orjson.JSONDecodeError, JsonPointerException) as error:
        raise ValueError(f"{path} has nothing at {content['pointer']!r}: {str(error)[:80]}") from error


def tools_of(definitions: Any) -> str:
    """A list of OpenAI tool definitions (or of their `function` parts) as JSON text. Raises ValueError."""
    if not definitions:
        return ""
    from jsonschema import Draft202012Validator, SchemaError

    if not isinstance(definitions, list):
        raise ValueError(f"tools is {type(definitions).__name__}; expected a list of OpenAI tool definitions")
    tools: list[dict[str, Any]] = []
    for place, definition in enumerate(definitions):
        function = definition.get("function", definition) if isinstance(definition, Mapping) else None
        if not isinstance(function, Mapping) or not TOOL_NAME.fullmatch(str(function.get("name") or "")):
            raise ValueError(
                f"tool {place} has no name (letters, digits, _, -); expected {{name, description, parameters}}"
            )
        name, parameters = function["name"], function.get("parameters") or {"type": "object", "properties": {}}
        if name in {tool["function"]["name"] for tool in tools}:
            raise ValueError(f"two tools are called {name}")
        if not isinstance(parameters, Mapping) or parameters.get("type") != "object":
            raise ValueError(f"the parameters of tool {name} are no JSON schema of an object")
        try:
            Draft202012Validator.check_schema(parameters)
        except SchemaError as error:
            raise ValueError(f"the parameters of tool {name} are no JSON schema: {error.message[:120]}") from error
        described = {**function, "description": str(function.get("description") or ""), "parameters": parameters}
        tools.append({"type": "function", "function": described})
    return orjson.dumps(tools).decode()


def world_of(reference: str, folder: Path) -> tuple[str, Path]:
    """The name of a world, FILE.py:CLASS@HASH, which is the same on every machine, and its file. Raises ValueError."""
    file, colon, name = reference.rpartition(":")
    path = folder / file
    if not colon or not name.isidentifier() or path.suffix != ".py":
        raise ValueError(f"environment.world is {reference!r}; expected FILE.py:CLASS")
    if not path.is_file():
        raise ValueError(f"environment.world: there is no file {path}")
    return f"{path.name}:{name}@{file_checksum(path)[:12]}", path

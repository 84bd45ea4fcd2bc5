"""What a prompt wants, in open tags: their number is its complexity. Source: docs/papers.md#instag."""

import re
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from synthmill.schemas.calls import Completion, Request, Sampling
from synthmill.schemas.errors import Drop
from synthmill.schemas.rows import TableRow
from synthmill.schemas.texts import normalised
from synthmill.tasks.asking.row_chats import RowRecipe
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Steps, ask_until, read_json

MOST_TAGS = 10  # a model that names one tag again and again must end within max_tokens
TEXT = {"type": "string", "minLength": 1, "maxLength": 80}
TAG = {"type": "object", "properties": {"tag": TEXT, "explanation": TEXT}, "required": ["tag", "explanation"]}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"tags": {"type": "array", "items": TAG, "minItems": 1, "maxItems": MOST_TAGS}},
    "required": ["tags"],
    "additionalProperties": False,
}


class IntentionTags(RowRecipe):
    """Prompts or chats -> the same with `tags`, what they want, each once, in lower case without punctuation, and
    `complexity`, how many these are. Drops: empty_prompt, bad_tags.
    """

    name: ClassVar = "intention_tags"
    version: ClassVar = "2"
    prompts: ClassVar = {"instag/tag": ("instruction",)}
    needs_answer: ClassVar = False

    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=512)

    def requests_per_row(self) -> int:
        return self.attempts

    def new_columns(self) -> pa.Schema:
        return pa.schema([("tags", pa.list_(pa.string())), ("complexity", pa.int64())])

    def steps(self, row: TableRow) -> Steps[TableRow]:
        messages = load("instag/tag").render(row=row, instruction=self.chat_of(row).instruction)
        request = Request(role="judge", messages=messages, sampling=self.sampling, schema_=SCHEMA)
        tags = yield from ask_until(request, self.attempts, read_tags)
        return self.filled(row, tags=tags, complexity=len(tags))


def read_tags(completion: Completion) -> list[str]:
    """The different tags of an answer. Raises Drop where there is none."""
    entries = read_json(completion, "bad_tags").get("tags")
    names = [entry.get("tag") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    tags = list(dict.fromkeys(filter(None, (plain_tag(name) for name in names if isinstance(name, str)))))
    if not tags:
        raise Drop("bad_tags: it named no tag; name one at least")
    return tags[:MOST_TAGS]


def plain_tag(tag: str) -> str:
    """Lower case, one space between words, no punctuation but what is part of a name (c++, c#, .net)."""
    return " ".join(re.sub(r"[^\w\s+#.]|\.(?!\w)", " ", normalised(tag)).split())

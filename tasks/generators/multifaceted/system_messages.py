"""System messages for preference sets, and the responses under them.

Source: docs/papers.md#multifaceted, steps S2 and S3.
"""

import unicodedata
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from schemas.calls import Completion, Message, Request
from schemas.errors import Drop
from schemas.multifaceted import WithResponses, WithSets, WithSystems
from schemas.rows import Answer
from schemas.texts import normalised, one_line
from tasks.prompts import load
from tasks.recipe import Recipe, Steps, ask_all, read_json
from tasks.texts.tokens import FEWEST_CHARS_PER_TOKEN
from tasks.texts.words import grams, words_of

LONGEST_SYSTEM_MESSAGE = 1400  # characters; the paper's are 682 to 1,370
COPIED = 8  # words in a row, as in the instruction: then a system message takes up the task
ANSWERS = ("```", "sure,", "sure!", "certainly", "here is", "here's", "here are", "of course")
ECHOED = 6  # words in a row, as in the prompt for it
SECOND_PERSON, FIRST_PERSON = {"you", "your", "yourself"}, {"i", "my", "myself"}


def system_message_schema(max_tokens: int) -> dict[str, Any]:
    """JSON, so that nothing but the message comes back: small models like to introduce it."""
    longest = max(60, min(LONGEST_SYSTEM_MESSAGE, FEWEST_CHARS_PER_TOKEN * max_tokens))
    return {
        "type": "object",
        "properties": {"system_message": {"type": "string", "minLength": 40, "maxLength": longest}},
        "required": ["system_message"],
        "additionalProperties": False,
    }


class SystemMessages(Recipe[WithSets, WithSystems]):
    """Preference sets -> a system message for each, written from its descriptions only. A system message the
    instruction came with is replaced. Source: docs/papers.md#multifaceted, step S2.

    Drops: bad_system_message, empty_system_message, answers_instruction, same_system_message.
    """

    name: ClassVar = "system_messages"
    version: ClassVar = "2"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"multifaceted/system_message": ("descriptions", "language")}

    language: str = Field("", description="what it is written in; empty: left to the model")
    attempts: int = Field(3, ge=1)
    sets: int = Field(3, ge=1, exclude=True, description="of a row, for plans")

    def requests_per_row(self) -> int:
        return self.sets * self.attempts

    def steps(self, row: WithSets) -> Steps[WithSystems]:
        template = load("multifaceted/system_message")
        [*_, bare] = template.render(descriptions=[], language=self.language)
        requests = [
            Request(
                role="teacher",
                messages=template.render(descriptions=[value.description for value in one], language=self.language),
                sampling=self.sampling,
                schema_=system_message_schema(self.sampling.max_tokens),
            )
            for one in row.sets
        ]
        systems = yield from ask_all(
            requests,
            self.attempts,
            lambda _, said: parse_system_message(said, row.prompt, bare.content, english=not self.language),
            lambda found: repeated(found, "same_system_message: it was the same as for another person"),
        )
        return WithSystems.child_of(row, self.name, systems=tuple(systems))


def parse_system_message(said: Completion, prompt: str, asked: str = "", *, english: bool = True) -> str:
    """Read the system message out of its JSON; raises Drop that says what is wrong.

    prompt: the instruction; asked: the request for the message, without the descriptions; english: whether it must say
    "you", and never "I".
    """
    given = read_json(said, "bad_system_message").get("system_message")
    if not isinstance(given, str):
        raise Drop("bad_system_message: it had no text `system_message`")
    system = one_line(given)
    if not system:
        raise Drop("empty_system_message: it was empty")
    words = words_of(system)
    if copied := set(grams(words, COPIED)) & set(grams(words_of(prompt), COPIED)):
        raise Drop(f"answers_instruction: it takes up a task ({' '.join(min(copied))!r}); set the manner only")
    if system.casefold().replace("’", "'").startswith(ANSWERS) or "```" in system:
        raise Drop("answers_instruction: it is an answer, not a message that tells a model how to answer")
    if set(grams(words, ECHOED)) & set(grams(words_of(asked), ECHOED)):
        raise Drop("bad_system_message: it repeats the words of this request")
    if not unicodedata.category(system[-1]).startswith("P"):
        raise Drop("bad_system_message: it breaks off; be shorter")
    if english and (not SECOND_PERSON & set(words) or FIRST_PERSON & set(words)):
        raise Drop('bad_system_message: it must speak to the model as "you", and never as "I"')
    return system


def repeated(texts: Sequence[str | None], fault: str) -> dict[int, Drop]:
    """The later ones of texts that are the same but for case and white space."""
    first: dict[str, int] = {}
    for place, text in enumerate(texts):
        if text is not None:
            first.setdefault(normalised(text), place)
    return {n: Drop(fault) for n, text in enumerate(texts) if text is not None and first[normalised(text)] != n}


class Responses(Recipe[WithSystems, WithResponses]):
    """Under each system message, a response to the instruction; equal ones are asked for again, the fault named.

    Drops: empty_response, same_response. Source: docs/papers.md#multifaceted, step S3.
    """

    name: ClassVar = "responses"
    version: ClassVar = "1"
    roles: ClassVar = ("teacher",)

    attempts: int = Field(3, ge=1)
    sets: int = Field(3, ge=1, exclude=True, description="of a row, for plans")

    def requests_per_row(self) -> int:
        return self.sets * self.attempts

    def steps(self, row: WithSystems) -> Steps[WithResponses]:
        user = Message(role="user", content=row.prompt)
        requests = [
            Request(role="teacher", messages=(Message(role="system", content=one), user), sampling=self.sampling)
            for one in row.systems
        ]

        def compare(found: Sequence[Answer | None]) -> dict[int, Drop]:
            texts = [one.text if one else None for one in found]
            return repeated(texts, "same_response: under another system message the same was said; honour this one")

        answers = yield from ask_all(requests, self.attempts, parse_response, compare)
        return WithResponses.child_of(row, self.name, responses=tuple(answers))


def parse_response(place: int, said: Completion) -> Answer:
    """The response as it came; raises Drop for an empty one."""
    text = said.text.strip()
    if not text:
        raise Drop("empty_response: it was empty")
    return Answer(
        answer_index=place, text=text, finish_reason=said.finish_reason, completion_tokens=said.completion_tokens
    )

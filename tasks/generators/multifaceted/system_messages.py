"""System messages for preference sets, and the responses under them.

Source: docs/papers.md#multifaceted, steps S2 and S3.
"""

import unicodedata
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from synthmill.schemas.calls import Completion, Message, Request
from synthmill.schemas.errors import Drop
from synthmill.schemas.multifaceted import WithResponses, WithSets, WithSystems
from synthmill.schemas.rows import Answer
from synthmill.schemas.texts import normalised, one_line
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import Recipe, Steps, ask_all, read_json
from synthmill.tasks.texts.thinking import check_answered
from synthmill.tasks.texts.tokens import FEWEST_CHARS_PER_TOKEN
from synthmill.tasks.texts.words import grams, words_of

LONGEST_SYSTEM_MESSAGE = 1400  # characters; the paper's are 682 to 1,370
COPIED = 8  # words in a row of the instruction: a system message that copies them takes up the task
ANSWERS = ("```", "sure,", "sure!", "certainly", "here is", "here's", "here are", "of course")
ECHOED = 6  # words in a row of the request for it: a message that has them repeats the request
SECOND_PERSON, FIRST_PERSON = {"you", "your", "yourself"}, {"i", "my", "myself"}


def system_message_schema(max_tokens: int) -> dict[str, Any]:
    """The JSON schema of a system message: small models add an introduction to plain text."""
    longest = max(60, min(LONGEST_SYSTEM_MESSAGE, FEWEST_CHARS_PER_TOKEN * max_tokens))
    return {
        "type": "object",
        "properties": {"system_message": {"type": "string", "minLength": 40, "maxLength": longest}},
        "required": ["system_message"],
        "additionalProperties": False,
    }


class SystemMessages(Recipe[WithSets, WithSystems]):
    """Preference sets -> a system message for each, written from its descriptions only. It replaces the instruction's
    own system message. Source: docs/papers.md#multifaceted, step S2.

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
                messages=template.render(descriptions=[value.description for value in values], language=self.language),
                sampling=self.sampling,
                schema_=system_message_schema(self.sampling.planned_tokens),
            )
            for values in row.sets
        ]
        systems = yield from ask_all(
            requests,
            self.attempts,
            lambda _, completion: parse_system_message(completion, row.prompt, bare.content, english=not self.language),
            lambda systems: find_repeated(systems, "same_system_message: it was the same as for another person"),
        )
        return WithSystems.child_of(row, self.name, systems=tuple(systems))


def parse_system_message(completion: Completion, prompt: str, request: str = "", *, english: bool = True) -> str:
    """Parse the system message from its JSON; raises Drop with the fault.

    prompt: the instruction; request: the request for the message, without the descriptions; english: whether it must
    say "you", and never "I".
    """
    text = read_json(completion, "bad_system_message").get("system_message")
    if not isinstance(text, str):
        raise Drop("bad_system_message: it had no text `system_message`")
    system = one_line(text)
    if not system:
        raise Drop("empty_system_message: it was empty")
    words = words_of(system)
    if copied := set(grams(words, COPIED)) & set(grams(words_of(prompt), COPIED)):
        raise Drop(f"answers_instruction: it takes up a task ({' '.join(min(copied))!r}); set the manner only")
    if system.casefold().replace("’", "'").startswith(ANSWERS) or "```" in system:
        raise Drop("answers_instruction: it is an answer, not a message that tells a model how to answer")
    if set(grams(words, ECHOED)) & set(grams(words_of(request), ECHOED)):
        raise Drop("bad_system_message: it repeats the words of this request")
    if not unicodedata.category(system[-1]).startswith("P"):
        raise Drop("bad_system_message: it breaks off; be shorter")
    if english and (not SECOND_PERSON & set(words) or FIRST_PERSON & set(words)):
        raise Drop('bad_system_message: it must speak to the model as "you", and never as "I"')
    return system


def find_repeated(texts: Sequence[str | None], fault: str) -> dict[int, Drop]:
    """By place, a Drop for each text that repeats an earlier one, but for case and white space."""
    first: dict[str, int] = {}
    for place, text in enumerate(texts):
        if text is not None:
            first.setdefault(normalised(text), place)
    return {n: Drop(fault) for n, text in enumerate(texts) if text is not None and first[normalised(text)] != n}


class Responses(Recipe[WithSystems, WithResponses]):
    """System messages -> under each, a response to the instruction; equal ones are asked for again, with the fault.

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
            Request(role="teacher", messages=(Message(role="system", content=system), user), sampling=self.sampling)
            for system in row.systems
        ]

        def compare(responses: Sequence[Answer | None]) -> dict[int, Drop]:
            texts = [response.text if response else None for response in responses]
            return find_repeated(
                texts, "same_response: under another system message the same was said; honour this one"
            )

        answers = yield from ask_all(requests, self.attempts, parse_response, compare)
        return WithResponses.child_of(row, self.name, responses=tuple(answers))


def parse_response(place: int, completion: Completion) -> Answer:
    """The response without surrounding white space; raises Drop for an empty one."""
    check_answered(completion, "empty_response: it was empty")
    return Answer(
        answer_index=place,
        text=completion.text.strip(),
        finish_reason=completion.finish_reason,
        completion_tokens=completion.completion_tokens,
        reasoning=completion.reasoning or None,
    )

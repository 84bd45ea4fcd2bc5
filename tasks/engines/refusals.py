"""What a server's refusal is about: a spent quota, a prompt that is too long or flagged, or a field of the request; and
what reading an answer raises where it is none.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from synthmill.schemas.texts import loads

OVERFLOW = (
    "context length",
    "context_length",
    "context size",
    "context window",
    "maximum context",
    "too long",
    "max_model_len",
)
MODERATION = ("flagged", "moderation", "content policy", "content_policy", "content filter", "content_filter", "safety")
QUOTA_CODES = {"insufficient_quota", "billing_error"}
QUOTA = ("plan and billing", "insufficient_quota", "credit balance")
UNPAID = ("billing", "payment")
FORM_WORDS = ("response_format", "json_schema", "json schema", "json_object", "structured output", "grammar", "guided")
TOOL_WORDS = ("tool_choice", "tools", "function call", "functions")
LONGEST_MESSAGE = 300

MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError)
"""What reading an answer of another form raises."""


class ErrorAnswer(Exception):
    """A reply with status 200 that holds an error or no answer. status: the error's own, else 200."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.reason, self.status = reason, status


class FewerAnswers(ValueError):
    """A server gave another number of answers than were asked for in one call."""


class Refusal(NamedTuple):
    """An error as a server says it. message: one line, without our secrets; codes: its code and type, in lower case;
    places: the fields that it names as such, in `param` or in a validator's `loc`.
    """

    status: int
    message: str
    codes: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()

    @property
    def is_overflow(self) -> bool:
        return any(sign in self.message.lower() for sign in OVERFLOW)

    @property
    def is_moderation(self) -> bool:
        return any(sign in self.message.lower() for sign in MODERATION) or "content_filter" in self.codes

    @property
    def is_spent_quota(self) -> bool:
        """Whether nothing but money ends it; waiting does not."""
        message = self.message.lower()
        says_so = self.status in (400, 403, 429) and any(sign in message for sign in QUOTA)
        says_so = says_so or (self.status == 403 and any(sign in message for sign in UNPAID))
        return self.status == 402 or bool(self.codes & QUOTA_CODES) or says_so

    def is_about_form(self, words: Collection[str] = FORM_WORDS) -> bool:
        """Whether it may be about how the answer's form was asked for."""
        message = self.message.lower()
        return any(word in message or word in self.places for word in words)

    def fields_named(self, fields: Collection[str]) -> list[str]:
        """Which of these fields it names, as a whole word or as a place."""
        words = set(re.findall(r"\w+", self.message))
        return [name for name in fields if name in self.places or name in words]


def read_refusal(status: int, data: bytes, secrets: Collection[str] = ()) -> Refusal:
    """The error in a reply. secrets: what must not be repeated."""
    codes: set[str] = set()
    places: set[str] = set()
    try:
        answer = loads(data)
        error = answer.get("error", answer)
        if not isinstance(error, dict):
            message = str(error)
        else:
            message = str(error.get("message") or validation_text(error.get("detail")) or error)
            codes = {str(error[name]).lower() for name in ("code", "type", "status") if error.get(name)}
            places = set(places_in(error))
            if reasons := (error.get("metadata") or {}).get("reasons"):
                message += f" (flagged: {', '.join(map(str, reasons))})"
    except (ValueError, AttributeError, TypeError):
        message = data.decode(errors="replace")
    for secret in secrets:
        message = message.replace(secret, "***")
    return Refusal(status, " ".join(message.split())[:LONGEST_MESSAGE], frozenset(codes), frozenset(places))


def validation_text(detail: Any) -> str:
    """What a validator found, one line: `seed: this field is not allowed`."""
    faults = [fault for fault in detail if isinstance(fault, dict)] if isinstance(detail, list) else []
    lines = [f"{'.'.join(map(str, fault.get('loc', ())))}: {fault.get('msg', fault)}" for fault in faults]
    return "; ".join(line.removeprefix("body.") for line in lines) or str(detail or "")


def places_in(error: Mapping[str, Any]) -> list[str]:
    """The fields that an error points at: OpenAI's `param`, and the `loc` of FastAPI's and pydantic's errors."""
    places = re.split(r"[.\[\]]+", error["param"]) if isinstance(error.get("param"), str) else []
    details = error.get("detail")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and isinstance(detail.get("loc"), list):
            places += [str(step) for step in detail["loc"] if step != "body"]
    return [place for place in places if place]

"""Secrets and addresses in settings: settings are written down, so a secret belongs into the environment."""

import re
from typing import Any
from urllib.parse import urlsplit

from synthmill.schemas.errors import InputError

SECRET_NAME = re.compile(
    r"(^|[-_])(token|key|secret|password|passwd|authorization|credentials?|cookie)$|(api|access|auth)[-_]?(key|token)s?$",
    re.I,
)
SCHEMA_WORDS = {"type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf", "properties"}
"""A mapping with one of these describes a value (JSON schema), it does not hold one."""
FIELDS = ("properties", "$defs")
"""In a JSON schema, what names of fields stand under."""


def check_address(url: str) -> None:
    """Raises InputError for what is no http address."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise InputError(f"{url!r} is no address of a server; expected http://HOST:PORT/v1")


def carries_secret(url: str) -> bool:
    """Whether an address holds a user's password or a key."""
    fields = re.findall(r"[?&]([^=&]+)=", url)
    return re.search(r"//[^/]*@", url) is not None or any(
        SECRET_NAME.search(name) or "key" in name.lower() for name in fields
    )


def check_endpoint(url: str) -> str:
    """An address that settings may hold. Raises ValueError for one with a secret in it, InputError for none."""
    if url and carries_secret(url):
        raise ValueError("the address carries a secret; put it in an environment variable, named in api_key_env")
    if url:
        check_address(url)
    return url


def secret_in(value: Any, place: str = "") -> str:
    """Where a value of settings holds a secret, as a dotted path; empty where it holds none."""
    if isinstance(value, str):
        return place if (URL.match(value) and carries_secret(value)) or BEARER.match(value) else ""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for name, item in items:
        where = f"{place}.{name}" if place else str(name)
        if not place.endswith(FIELDS) and SECRET_NAME.search(str(name)) and holds_text(item):
            return where
        if inner := secret_in(item, where):
            return inner
    return ""


def holds_text(value: Any) -> bool:
    """Whether a value that has a secret's name holds one: a text or a number, also in a list or a mapping; yes or no
    and a JSON schema are none.
    """
    if isinstance(value, dict):
        return not SCHEMA_WORDS & value.keys() and any(map(holds_text, value.values()))
    if isinstance(value, list | tuple):
        return any(map(holds_text, value))
    return isinstance(value, str | int) and not isinstance(value, bool) and bool(value)


URL = re.compile(r"[a-z]+://", re.I)
BEARER = re.compile(r"(Bearer|Basic) \S{8,}$")

"""A server's address, what is sent with every request, the models it serves, and the weights behind a name."""

import os
from difflib import get_close_matches
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request as Get
from urllib.request import urlopen

from synthmill.schemas.errors import EngineError, EngineRefused, InputError
from synthmill.schemas.hashing import content_hash
from synthmill.schemas.secrecy import carries_secret, check_address
from synthmill.schemas.settings import EngineSettings, Structure
from synthmill.schemas.texts import loads
from synthmill.tasks.engines.refusals import read_refusal
from synthmill.tasks.engines.structures import AUTO, TOLD, structure_of

ADDRESS = "correct the address: openai:MODEL@http://HOST:PORT/v1"
OPENAI = "https://api.openai.com/v1"
OWN = {"openai": OPENAI, "anthropic": "https://api.anthropic.com", "gemini": "gemini", "bedrock": "bedrock"}
"""Where a kind is asked unless settings say so; clients know the addresses of the last two."""
KEY_HEADERS = {"anthropic": ("x-api-key", "{}")}
BEARER = ("Authorization", "Bearer {}")
CHAT, COMPLETIONS = "/chat/completions", "/completions"
SHOWN = 8


def server_url(settings: EngineSettings) -> str:
    """The server's address, without the path of a request and its query; Anthropic's without /v1. Raises InputError
    when it carries a secret, wherever it comes from.
    """
    named = settings.base_url or os.environ.get(settings.base_url_env)
    if named:
        check_address(named)
    url = (named or OWN.get(settings.kind, OPENAI)).rstrip("/")
    if carries_secret(url):
        raise InputError(f"the address in {settings.base_url_env} carries a secret; put it in {settings.api_key_env}")
    url = url.partition("?")[0].rstrip("/")
    return url.removesuffix("/v1") if settings.kind == "anthropic" else url.removesuffix(CHAT)


def endpoint(settings: EngineSettings, path: str) -> str:
    """The address of one kind of request, with the query of the settings and of an address that has one."""
    own = urlsplit(settings.base_url or os.environ.get(settings.base_url_env) or "").query
    query = "&".join(filter(None, (own, urlencode(settings.query))))
    return server_url(settings) + path + (f"?{query}" if query else "")


def secrets_of(settings: EngineSettings) -> dict[str, str]:
    """The headers whose values are in the environment. Raises InputError for a variable that is not set."""
    headers: dict[str, str] = {}
    if sends_key(settings) and (key := os.environ.get(settings.api_key_env)):
        name, form = KEY_HEADERS.get(settings.kind, BEARER)
        headers[name] = form.format(key)
    return headers | named_headers(settings)


def sends_key(settings: EngineSettings) -> bool:
    """Whether the key goes out. A header of the settings may stand for it: at Anthropic one of the key's name, at other
    servers any, unless the settings name the key's variable.
    """
    if settings.kind == "anthropic":
        return not {"x-api-key", "authorization"} & {name.lower() for name in settings.headers}
    return not settings.headers or settings.api_key_env != EngineSettings.model_fields["api_key_env"].default


def named_headers(settings: EngineSettings) -> dict[str, str]:
    """The headers that settings name. Raises InputError for a variable that is not set."""
    headers: dict[str, str] = {}
    for name, variable in settings.headers.items():
        value = os.environ.get(variable, "").strip()
        if not value:
            raise InputError(f"the header {name} is in the environment variable {variable}, which is not set; set it")
        if not value.isprintable():
            raise InputError(f"the environment variable {variable} holds what no header can; see that it is one line")
        headers[name] = value
    return headers


def server_name(settings: EngineSettings) -> str:
    """The engine's name: the model, which checkpoint, and a hash of what else decides its answers. Never an address."""
    name = f"openai:{settings.model}" + (f"@{settings.revision}" if settings.revision else "")
    shaping: dict[str, Any] = {}
    if settings.structure != AUTO and (structure := structure_of(settings)) != "json_schema":
        shaping["structure"] = [structure, content_hash(TOLD)[:8]]
    if thinking := settings.thinking.identity():
        shaping["thinking"] = thinking
    if settings.user_turn:
        shaping["user_turn"] = settings.user_turn
    if shaping:
        return f"{name}+{content_hash({'options': settings.options, **shaping})[:8]}"
    return name + (f"+{content_hash(settings.options)[:8]}" if settings.options else "")


def model_name(settings: EngineSettings, structure: Structure, usual: Structure) -> str:
    """A provider's model: its name, and a hash of what is asked of all its answers. usual: the structure that is taken
    unless settings, or what refusals taught, say otherwise.
    """
    asked: dict[str, Any] = dict(settings.options)
    if thinking := settings.thinking.identity():
        asked["thinking"] = thinking
    if structure != usual:
        asked["structure"] = [structure, content_hash(TOLD)[:8]]
    return f"{settings.kind}:{settings.model}" + (f"+{content_hash(asked)[:8]}" if asked else "")


def check_key(settings: EngineSettings) -> None:
    """Raises EngineRefused where a provider's own server would be asked without a key."""
    elsewhere = settings.base_url or os.environ.get(settings.base_url_env)
    own_server = settings.kind in ("anthropic", "openai") and not elsewhere and sends_key(settings)
    needs_one = settings.kind == "gemini" or own_server
    if needs_one and not os.environ.get(settings.api_key_env):
        raise EngineRefused(f"{settings.kind} wants a key; set the environment variable {settings.api_key_env}")


def model_cards(settings: EngineSettings) -> list[dict[str, Any]] | None:
    """Ask a server for its models; None when it has no list. Raises EngineError when it does not answer."""
    url = endpoint(settings, "/models")
    headers = secrets_of(settings)
    try:
        with urlopen(Get(url, headers=headers), timeout=10) as response:
            listed = response.read()
        if listed.lstrip()[:1] == b"<":
            raise EngineError(f"{url} is a web page, no server of models; {ADDRESS}")
        return [{**card, "id": str(card["id"])} for card in loads(listed)["data"]]
    except HTTPError as error:
        if error.code in (401, 403):
            raise EngineRefused(f"{url} wants a valid key ({error.code}); {key_state(settings)}") from None
        if error.code == 503:
            reason = read_refusal(503, error.read(), [v.removeprefix("Bearer ") for v in headers.values()]).message
            raise EngineError(
                f"{url} is not ready (503: {reason}); once its model is loaded, run the same command again"
            ) from None
        return None
    except (ValueError, KeyError, TypeError):
        return None
    except (URLError, OSError) as error:
        raise EngineError(f"{url} does not answer ({error}); start the server, or {ADDRESS}") from error


def key_state(settings: EngineSettings) -> str:
    """Which environment variable holds the key, and what is wrong with it."""
    variables = ", ".join([*[settings.api_key_env] * sends_key(settings), *settings.headers.values()])
    state = "was refused" if settings.headers or os.environ.get(settings.api_key_env) else "is not set"
    return f"the environment variable {variables} {state}"


def note_unlisted(settings: EngineSettings) -> str:
    """What to say of a model that its server does not list, with the nearest names; empty for one that is listed. The
    first request decides: some servers answer under names that they do not list.
    """
    names = served_models(settings)
    if not names or settings.model in names:
        return ""
    near = get_close_matches(settings.model, names, SHOWN, 0.4) or names[:SHOWN]
    more = f" and {len(names) - len(near)} more" if len(names) > len(near) else ""
    return f"{server_url(settings)} does not list {settings.model!r}; it lists {', '.join(near)}{more}; asking anyway"


def served_models(settings: EngineSettings) -> list[str] | None:
    """The names of a server's models; None when it has no list. Raises EngineError when it does not answer."""
    cards = model_cards(settings)
    return None if cards is None else [card["id"] for card in cards]


def checkpoint_served(settings: EngineSettings) -> str | None:
    """Where the weights behind a served name come from, as vLLM lists it (`root`). Empty where the list has no root,
    or one that repeats the name; None where the server does not answer, or has no list.
    """
    if server_url(settings).startswith(OPENAI):
        return ""
    try:
        cards = model_cards(settings)
    except (EngineError, InputError):  # a finished run needs no server, and no key
        return None
    if cards is None:
        return None
    root = next((card.get("root") for card in cards if card["id"] == settings.model), None)
    return root if isinstance(root, str) and root != settings.model else ""


def only_model(settings: EngineSettings) -> str:
    """The name of a server's only model. Raises InputError when it serves several, or none."""
    names = served_models(settings) or []
    if len(names) != 1:
        listed = ", ".join(names[:8]) or "none"
        raise InputError(
            f"{server_url(settings)} serves {len(names)} models ({listed}); say which: "
            f"openai:MODEL@{server_url(settings)}"
        )
    return names[0]

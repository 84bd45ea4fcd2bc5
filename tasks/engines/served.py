"""A server's address, the models it serves, and the weights behind a name."""

import os
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request as Get
from urllib.request import urlopen

from synthmill.schemas.errors import EngineError, EngineRefused, InputError
from synthmill.schemas.secrecy import carries_secret, check_address
from synthmill.schemas.settings import EngineSettings
from synthmill.schemas.texts import loads

OPENAI = "https://api.openai.com/v1"


def server_url(settings: EngineSettings, default: str = OPENAI) -> str:
    """The server's address. Raises InputError when it carries a secret, wherever it comes from."""
    url = (settings.base_url or os.environ.get(settings.base_url_env) or default).rstrip("/")
    check_address(url)
    if carries_secret(url):
        raise InputError(f"the address in {settings.base_url_env} carries a secret; put it in {settings.api_key_env}")
    return url


def check_key(settings: EngineSettings) -> None:
    """Raises EngineRefused where a provider's own server would be asked without a key."""
    elsewhere = settings.base_url or os.environ.get(settings.base_url_env)
    needs_one = settings.kind == "gemini" or (settings.kind == "anthropic" and not elsewhere)
    if needs_one and not os.environ.get(settings.api_key_env):
        raise EngineRefused(f"{settings.kind} wants a key; set the environment variable {settings.api_key_env}")


def model_cards(settings: EngineSettings) -> list[dict[str, Any]] | None:
    """Ask a server for its models; None when it has no list. Raises EngineError when it does not answer."""
    url = server_url(settings) + "/models"
    key = os.environ.get(settings.api_key_env)
    try:
        with urlopen(Get(url, headers={"Authorization": f"Bearer {key}"} if key else {}), timeout=10) as response:
            return [{**card, "id": str(card["id"])} for card in loads(response.read())["data"]]
    except HTTPError as error:
        if error.code in (401, 403):
            key_state = "was refused" if key else "is not set"
            refusal = (
                f"{url} wants a valid key ({error.code}); the environment variable {settings.api_key_env} {key_state}"
            )
            raise EngineRefused(refusal) from None
        return None
    except (ValueError, KeyError, TypeError):
        return None
    except (URLError, OSError) as error:
        raise EngineError(
            f"{url} does not answer ({error}); start the server, or correct the address: openai:MODEL@http://HOST:PORT/v1"
        ) from error


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
    except EngineError:
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

"""Tokens: loading a tokenizer by name, and the fewest characters per token, for bounds without one."""

from functools import cache
from pathlib import Path
from typing import Any

from synthmill.schemas.errors import InputError
from synthmill.schemas.hashing import content_hash, file_checksum

FEWEST_CHARS_PER_TOKEN = 3  # in prose: a text bounded by it ends before max_tokens cuts it off


@cache
def load_tokenizer(name: str, *, chat: bool = True) -> Any:
    """A transformers tokenizer, with a chat template unless `chat` is false. Raises InputError."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=Path(name).is_dir())
    except (OSError, ValueError) as error:
        raise InputError(f"there is no tokenizer {name!r}; expected a folder or a Hub id ({error})") from error
    if chat and not tokenizer.chat_template:
        raise InputError(f"the tokenizer {name} has no chat template; name one of a chat model")
    return tokenizer


def tokenizer_identity(name: str) -> str:
    """What identifies a tokenizer: its files' content, or the Hub id."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return name
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".jinja", ".model", ".txt"))
    return content_hash([[path.name, file_checksum(path)] for path in files])

"""Tokens: loading a tokenizer by name, and the fewest characters per token, for bounds without one."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from synthmill.schemas.errors import InputError
from synthmill.schemas.hashing import content_hash, file_checksum

CPU_BATCH, GPU_BATCH = 1024, 16_384
"""Tokens of a batch, with its padding: what a core's cache holds (more take longer a token), and what fills a GPU."""
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


def token_batches(lengths: Sequence[int], device: str, *, alike: bool = False) -> Iterator[list[int]]:
    """Numbers of texts of similar length, batch by batch, the longest first: with its padding, a batch has at most as
    many tokens as are fast on a device, or one text. device: its type, as torch has it; alike: texts of a batch are of
    equal length, so that they need no padding.
    """
    most_tokens = CPU_BATCH if device == "cpu" else GPU_BATCH
    batch: list[int] = []
    for n in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        longest = lengths[batch[0]] if batch else 0
        if batch and ((alike and lengths[n] != longest) or (len(batch) + 1) * longest > most_tokens):
            yield batch
            batch = []
        batch.append(n)
    if batch:
        yield batch

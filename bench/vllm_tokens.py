"""Tokens a second of a `vllm:` stage against vLLM's own ways, on the same prompts, in turn.

    python -m bench.vllm_tokens [--model random] [--widths 64 256 1024] [--repeats 2] [--no-small-cache]

Ways: `LLM.chat` over the whole list; AsyncLLM called bare, with as many in flight as a stage; a stage, which stores
every answer, makes Parquet parts and seals them; a stage that has no more in flight than vLLM answers at once; a stage
whose calls go out in the order of its rows. All have the same sampling, seeds included. Hits: the share of the prompts'
tokens that vLLM had in its cache. Models: random (two layers, 320 tokens: what is left is overhead), smollm2, or a
folder. One process a width.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.vllm_tokens_run import Case, Comparison, Figures
from bench.weights import smollm2
from tests.tiny import make_tiny_model

HEAD = (
    "| model | at once | prompts | answers | LLM.chat, tokens/s | bare | none waiting | in rows' order | stage "
    "| hits: LLM.chat | in rows' order | stage |"
)
SIZES = {"random": (1024, 16, 100, 112), "smollm2": (128, 16, 150, 96)}
"""By model: requests, or twice the width if that is more; tokens an answer has at most; words that prompts share;
blocks of a small cache."""
BOTH = ["chat", "stage"]


def at_width(model: str, name: str, width: int, repeats: int) -> Comparison:
    """As many requests as vLLM takes at once, twice over at least."""
    least, tokens, words, _ = SIZES.get(name, SIZES["smollm2"])
    requests = max(least, 2 * width)
    many = {"requests": requests, "samples": 16, "ways": BOTH}
    cases = [
        Case(name="different | 1", requests=requests, ways=["chat", "bare", "exact", "stage"]),
        Case(name="4 long prefixes | 1", requests=requests, prefixes=4, prefix_words=words, ways=BOTH),
        Case(name="different | 16, as requests", **many),
        Case(name="different | 16, as samples", together=True, **many),
        Case(name="different | 1, JSON schema", requests=requests // 2, formed=True, ways=BOTH),
    ]
    return Comparison(model=model, width=width, max_tokens=tokens, repeats=repeats, cases=cases)


def in_small_cache(model: str, name: str, repeats: int) -> Comparison:
    """Eight prefixes in turn, and a cache that holds three of them beside 16 answers."""
    least, tokens, words, blocks = SIZES.get(name, SIZES["smollm2"])
    case = Case(
        name="8 long prefixes, small cache | 1",
        requests=least,
        prefixes=8,
        prefix_words=words,
        ways=["chat", "rows", "stage"],
    )
    return Comparison(model=model, width=16, max_tokens=tokens, repeats=repeats, cases=[case], blocks=blocks)


def measured(comparison: Comparison) -> dict[str, dict[str, list[Figures]]]:
    command = [sys.executable, "-m", "bench.vllm_tokens_run", comparison.model_dump_json()]
    lines = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()
    by_case = json.loads(lines[-1])
    return {
        case: {way: [Figures(*figures) for figures in runs] for way, runs in ways.items()}
        for case, ways in by_case.items()
    }


def line(name: str, width: int, case: str, ways: dict[str, list[Figures]]) -> str:
    def rate(figures: Figures) -> float:
        return figures.tokens / figures.seconds

    def ratio(way: str) -> str:
        if way not in ways:
            return ""
        pairs = zip(ways[way], ways["chat"], strict=True)
        return f"{statistics.median(rate(figures) / rate(chat) for figures, chat in pairs):.2f}"

    def hits(way: str) -> str:
        return f"{statistics.median(figures.cached for figures in ways[way]):.0%}" if way in ways else ""

    chat = statistics.median(map(rate, ways["chat"]))
    ratios = " | ".join(map(ratio, ("bare", "exact", "rows", "stage")))
    return (
        f"| {name} | {width:,} | {case} | {chat:,.0f} | {ratios} | {' | '.join(map(hits, ('chat', 'rows', 'stage')))} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="random", help="random, smollm2, or a folder; default: random")
    parser.add_argument("--widths", type=int, nargs="*", default=[64, 256, 1024])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--small-cache", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, name = model_of(options.model, Path(folder))  # whose tokenizer prints blank lines
        print(HEAD + "\n|---|---:|---|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
        jobs = [at_width(model, name, width, options.repeats) for width in options.widths]
        for comparison in [*jobs, *([in_small_cache(model, name, options.repeats)] if options.small_cache else [])]:
            for case, ways in measured(comparison).items():
                print(line(name, comparison.width, case, ways), flush=True)


def model_of(model: str, folder: Path) -> tuple[str, str]:
    """A model's folder and name."""
    if model == "random":
        return str(make_tiny_model(folder)), model
    if model == "smollm2":
        return str(smollm2(Path(tempfile.gettempdir()) / "synthmill-smollm2")), model
    return model, Path(model).name


if __name__ == "__main__":
    main()

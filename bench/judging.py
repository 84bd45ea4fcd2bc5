"""Prompt tokens that judges have a model compute over pools, by vLLM's own counts; this tree beside an older one.

    python -m bench.judging [--old COMMIT] [--pools 16] [--answers 6] [--words 100 50] [--repeats 2]

vLLM on this machine, two layers of random weights under SmolLM2's tokenizer. Trees are taken in turn, each measurement
in a process of its own. Token counts are exact; of times only ratios hold where the machine is shared.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.scale import OLD, ROOT, old_tree, run_in

SCRIPT = Path(__file__).parent / "judging_tokens.py"
JUDGES = ("rubric", "pairwise", "tournament")


def random_model(folder: Path) -> Path:
    """Two layers with random weights, and a real tokenizer, so that prompts have as many tokens as elsewhere."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from synthmill.tasks.engines.gguf import find_weights

    file = find_weights("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measured(tree: Path, model: Path, options: argparse.Namespace, words: int) -> Any:
    command = (sys.executable, "-P", SCRIPT, model, options.pools, options.answers, words)
    return json.loads(run_in(tree, *command).out.splitlines()[-1])


def line(words: int, judge: str, name: str, runs: Sequence[dict[str, Any]], before: Sequence[dict[str, Any]]) -> str:
    computed, rate = statistics.median(run["computed"] for run in runs), tokens_a_second(runs)
    faster = statistics.median(old["seconds"] / run["seconds"] for old, run in zip(before, runs, strict=True))
    ratio = computed / statistics.median(run["computed"] for run in before)
    counts = f"{runs[0]['requests']:,} | {runs[0]['asked']:,} | {runs[0]['least']:,} | {computed:,.0f}"
    return f"| {words} | {judge} | {name} | {counts} | {ratio:.2f} | {rate:,.0f} | {faster:.2f} |"


def tokens_a_second(runs: Sequence[Any]) -> float:
    """Prompt tokens asked for, a second."""
    return float(statistics.median(run["asked"] / run["seconds"] for run in runs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", default=OLD)
    parser.add_argument("--pools", type=int, default=16)
    parser.add_argument("--answers", type=int, default=6)
    parser.add_argument("--words", type=int, nargs="+", default=[100, 50], help="of an answer, about")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    counts = "requests | prompt tokens | at least | computed | of before | tokens/s | of before"
    print(f"| words | judge | prompts | {counts} |")
    print("|---:|---|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory(prefix="judging-") as folder, old_tree(options.old) as tree:
        model = random_model(Path(folder) / "random")
        for words in options.words:
            runs: dict[str, list[Any]] = {"before": [], "now": []}
            for _ in range(options.repeats):
                runs["before"].append(measured(tree, model, options, words))
                runs["now"].append(measured(ROOT, model, options, words))
            for judge in JUDGES:
                before = [run["written"][judge] for run in runs["before"]]
                print(line(words, judge, "before", before, before))
                for order in ("written", "shared_first", "answers first"):
                    now = [run[order][judge] for run in runs["now"]]
                    print(line(words, judge, f"now, {order}", now, before), flush=True)


if __name__ == "__main__":
    main()

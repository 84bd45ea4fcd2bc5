"""Dealing seed values evenly to preference sets, and measuring how evenly the data covers the taxonomy.

Source: docs/papers.md#multifaceted, "coverage"; ours, the paper leaves it to the model.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from synthmill.schemas.hashing import digest
from synthmill.schemas.taxonomy import Dimension, Subdimension, Taxonomy


def shuffled(items: Sequence[str], *key: Any) -> list[str]:
    """The items in an order that depends only on `key` and their texts; all orders are equally likely."""
    return sorted(items, key=lambda item: digest([*key, item]))


def split_taxonomy(taxonomy: Taxonomy, share: float) -> tuple[Taxonomy, Taxonomy]:
    """(taxonomy for training, taxonomy for the bench): the bench gets `share` of each subdimension's values, but at
    least one.

    The split depends only on the values' texts, so that a later bench uses the same values.
    """
    if not share:
        return taxonomy, taxonomy
    sides: tuple[list[Dimension], list[Dimension]] = ([], [])
    for dimension in taxonomy.dimensions:
        kept: list[Subdimension] = []
        held_out: list[Subdimension] = []
        for subdimension in dimension.subdimensions:
            count = min(len(subdimension.values) - 1, max(1, round(share * len(subdimension.values))))
            bench_values = set(shuffled(subdimension.values, "held out", dimension.name, subdimension.name)[:count])
            kept.append(only(subdimension, set(subdimension.values) - bench_values))
            if bench_values:
                held_out.append(only(subdimension, bench_values))
        for side, subdimensions in zip(sides, (kept, held_out), strict=True):
            side.append(Dimension.model_construct(**{**dict(dimension), "subdimensions": tuple(subdimensions)}))
    train, bench = (taxonomy.model_copy(update={"dimensions": tuple(side)}) for side in sides)
    return train, bench


def only(subdimension: Subdimension, values: set[str]) -> Subdimension:
    """The subdimension with only these values, in its order."""
    return subdimension.model_copy(update={"values": tuple(value for value in subdimension.values if value in values)})


def deal_seeds(dimension: Dimension, key: Sequence[Any], count: int) -> list[tuple[str, str]]:
    """`count` seeds, (subdimension, value), by `key`: rounds over the subdimensions in a random order, each round with
    another random value of each. No value repeats; needs at least `count` values.
    """
    values = {
        subdimension.name: shuffled(subdimension.values, *key, dimension.name, subdimension.name)
        for subdimension in dimension.subdimensions
    }
    order = shuffled(list(values), *key, dimension.name)
    dealt = [(name, values[name][turn]) for turn in range(count) for name in order if turn < len(values[name])]
    return dealt[:count]


def evenness(counts: Iterable[int], kinds: int) -> float:
    """The counts' Shannon entropy over that of `kinds` equal counts: 1 is perfectly balanced, 0 is a single kind."""
    numbers = [count for count in counts if count]
    total = sum(numbers)
    if kinds < 2 or not total:
        return float(bool(total))
    return abs(sum(n / total * math.log(n / total) for n in numbers)) / math.log(kinds)


def coverage(taxonomy: Taxonomy, values: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per dimension: how many of its subdimensions and seeds a table of values covers, and how evenly.

    dealt: seeds that the sampler asked for; used: seeds that the data has word for word; new: values in the model's
    own words.
    """
    values_of: dict[str, list[Mapping[str, Any]]] = {dimension.name: [] for dimension in taxonomy.dimensions}
    for value in values:
        values_of[value["dimension"]].append(value)
    table = []
    for dimension in taxonomy.dimensions:
        own, names = values_of[dimension.name], {subdimension.name for subdimension in dimension.subdimensions}
        subdimensions = Counter(value["subdimension"] for value in own if value["subdimension"] in names)
        dealt = Counter(value["seed"] for value in own if value["seed"])
        used = Counter(value["preference"] for value in own if value["origin"] == "seed")
        seeds = len(dimension.seeds)
        table.append(
            {
                "dimension": dimension.name,
                "values": len(own),
                "subdimensions": f"{len(subdimensions)} of {len(names)}",
                "subdimension_evenness": evenness(subdimensions.values(), len(names)),
                "seeds_dealt": len(dealt) / seeds,
                "dealt_evenness": evenness(dealt.values(), seeds),
                "seeds_used": len(used) / seeds,
                "used_evenness": evenness(used.values(), seeds),
                "worded_as_seed": used.total() / max(1, len(own)),
                "new_values": len({value["preference"] for value in own if value["origin"] != "seed"}),
                "new_subdimensions": len({v["subdimension"] for v in own if v["origin"] == "new_subdimension"}),
            }
        )
    return table

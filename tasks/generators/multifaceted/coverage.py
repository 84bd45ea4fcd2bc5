"""Which values are asked for, so that they come out balanced, and how balanced they came out.

Source: docs/papers.md#multifaceted, "coverage"; ours, the paper leaves it to the model.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from schemas.hashing import digest
from schemas.taxonomy import Dimension, Subdimension, Taxonomy


def shuffled(items: Sequence[str], *key: Any) -> list[str]:
    """The items in an order that only `key` and their own text decide: all orders are equally likely."""
    return sorted(items, key=lambda item: digest([*key, item]))


def parted(taxonomy: Taxonomy, share: float) -> tuple[Taxonomy, Taxonomy]:
    """(values for training, values that only the bench uses): `share` of each subdimension's, at least one of each.

    Which ones is decided by their texts alone, so that a bench made later asks for the same values.
    """
    if not share:
        return taxonomy, taxonomy
    both: tuple[list[Dimension], list[Dimension]] = ([], [])
    for dimension in taxonomy.dimensions:
        kept: list[Subdimension] = []
        held: list[Subdimension] = []
        for one in dimension.subdimensions:
            count = min(len(one.values) - 1, max(1, round(share * len(one.values))))
            out = set(shuffled(one.values, "held out", dimension.name, one.name)[:count])
            kept.append(one.model_copy(update={"values": tuple(v for v in one.values if v not in out)}))
            if out:
                held.append(one.model_copy(update={"values": tuple(v for v in one.values if v in out)}))
        for side, left in zip(both, (kept, held), strict=True):
            side.append(Dimension.model_construct(**{**dict(dimension), "subdimensions": tuple(left)}))
    train, bench = (taxonomy.model_copy(update={"dimensions": tuple(side)}) for side in both)
    return train, bench


def drawn(dimension: Dimension, key: Sequence[Any], count: int) -> list[tuple[str, str]]:
    """`count` seeds, (subdimension, value), by `key`: subdimensions uniformly and without repetition until each had its
    turn, under each its values uniformly and without repetition. Needs at least `count` values.
    """
    values = {one.name: shuffled(one.values, *key, dimension.name, one.name) for one in dimension.subdimensions}
    order = shuffled(list(values), *key, dimension.name)
    dealt = [(name, values[name][turn]) for turn in range(count) for name in order if turn < len(values[name])]
    return dealt[:count]


def evenness(counts: Iterable[int], kinds: int) -> float:
    """Shannon entropy of the counts over that of `kinds` equal ones: 1 is perfectly balanced, 0 is one kind only."""
    numbers = [count for count in counts if count]
    total = sum(numbers)
    if kinds < 2 or not total:
        return float(bool(total))
    return abs(sum(n / total * math.log(n / total) for n in numbers)) / math.log(kinds)


def coverage(taxonomy: Taxonomy, values: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per dimension, of a table of values: how many of its subdimensions and seeds are there, and how evenly.

    dealt: what the sampler asked for; used: what stands in the data, word for word; new: the model's own wording.
    """
    of: dict[str, list[Mapping[str, Any]]] = {dimension.name: [] for dimension in taxonomy.dimensions}
    for value in values:
        of[value["dimension"]].append(value)
    found = []
    for dimension in taxonomy.dimensions:
        mine, names = of[dimension.name], {one.name for one in dimension.subdimensions}
        subdimensions = Counter(value["subdimension"] for value in mine if value["subdimension"] in names)
        dealt = Counter(value["seed"] for value in mine if value["seed"])
        used = Counter(value["preference"] for value in mine if value["origin"] == "seed")
        seeds = len(dimension.seeds)
        found.append(
            {
                "dimension": dimension.name,
                "values": len(mine),
                "subdimensions": f"{len(subdimensions)} of {len(names)}",
                "subdimension_evenness": evenness(subdimensions.values(), len(names)),
                "seeds_dealt": len(dealt) / seeds,
                "dealt_evenness": evenness(dealt.values(), seeds),
                "seeds_used": len(used) / seeds,
                "used_evenness": evenness(used.values(), seeds),
                "worded_as_seed": used.total() / max(1, len(mine)),
                "new_values": len({value["preference"] for value in mine if value["origin"] != "seed"}),
                "new_subdimensions": len({v["subdimension"] for v in mine if v["origin"] == "new_subdimension"}),
            }
        )
    return found

"""A graph of steps as one SVG without scripts: boxes under each other in layers, lines from what a step reads.

Its colours follow the reader's light or dark page, and it stands alone or within a page. Boxes have a fixed width, so
a chain is as narrow as a phone, and branches stand side by side.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Literal, NamedTuple

from synthmill.flows.terminal.tables import shortened
from synthmill.schemas.texts import one_line

WIDTH, LINE, PADDING = 264, 17, 9  # pixels: a box, a line of its text, what is around them
GAP, DROP, LANE = 22, 34, 14  # between boxes side by side, between layers, and of a line that passes a layer
LETTERS = 34  # of a line in a box
SWEEPS = 4
STYLE = (
    ".dag{--page:#fff;--ink:#1c1d21;--soft:#5b5d66;--edge:#9a9ca5;--read:#8a8d97;--asks:#2c7a6b;--work:#4361a8}"
    "@media(prefers-color-scheme:dark){.dag{--page:#1e1f24;--ink:#ecebe7;--soft:#aeaeb5;--edge:#72747d;--read:#8a8d97;"
    "--asks:#58b09f;--work:#8aa4e6}}"
    ".dag rect{fill:var(--page);stroke-width:1.6}.dag .read{stroke:var(--read)}.dag .asks{stroke:var(--asks)}"
    ".dag .work{stroke:var(--work)}.dag path{fill:none;stroke:var(--edge);stroke-width:1.4}"
    ".dag .beside{stroke-dasharray:5 4}.dag text{font:12px system-ui,sans-serif;fill:var(--soft)}"
    ".dag .name{font-weight:600;font-size:13px;fill:var(--ink)}"
)


class Box(NamedTuple):
    """A step. lines: its name, then what is said of it; kind: a source, a step that asks models, or one of tables;
    origin: the step whose rows it gets; beside: others that it reads.
    """

    lines: tuple[str, ...]
    kind: Literal["read", "asks", "work"]
    origin: str = ""
    beside: tuple[str, ...] = ()


Place = tuple[str, int]
"""A box, or the line below it, by the box's key and a layer."""


def draw_graph(boxes: Mapping[str, Box], title: str) -> str:
    """An SVG of boxes by key, each behind those that it reads. Keys that no box has are left out."""
    read = {key: dict.fromkeys((box.origin, *box.beside)) for key, box in boxes.items()}
    sources = {key: [name for name in names if name in boxes] for key, names in read.items()}
    layer_of: dict[str, int] = {}
    for key in boxes:
        layer_of[key] = max((layer_of[name] + 1 for name in sources[key]), default=0)
    layers, above = in_layers(layer_of, sources)
    middle, width = across(layers, above, layer_of)
    tops, bottoms, height = downwards(layers, boxes, layer_of)
    shapes = [
        curve(key, name, middle, layer_of, tops, bottoms, "" if name == boxes[key].origin else "beside")
        for key, names in sources.items()
        for name in names
    ]
    shapes += [drawn_box(box, middle[key, layer_of[key]], tops[layer_of[key]]) for key, box in boxes.items()]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="dag" viewBox="0 0 {width:.0f} {height:.0f}" role="img"'
    size = f'width="{width:.0f}" height="{height:.0f}" style="width:{width:.0f}px;max-width:none"'
    name = escape(one_line(title))
    return (
        f'{head} {size} aria-label="{name}"><title>{name}</title><style>{STYLE}</style>'
        f"{''.join(dict.fromkeys(shapes))}</svg>\n"
    )


def in_layers(
    layer_of: Mapping[str, int], sources: Mapping[str, Sequence[str]]
) -> tuple[list[list[Place]], dict[Place, list[Place]]]:
    """The places of each layer from left to right, and the places above that each is joined to. A box that is read
    further below has one line through the layers between, however many read it.
    """
    reach = dict(layer_of)
    for key, names in sources.items():
        for name in names:
            reach[name] = max(reach[name], layer_of[key] - 1)
    layers: list[list[Place]] = [[] for _ in range(max(layer_of.values(), default=0) + 1)]
    above: dict[Place, list[Place]] = {}
    for key, first in layer_of.items():
        layers[first].append((key, first))
        above[key, first] = [(name, first - 1) for name in sources[key]]
        for number in range(first + 1, reach[key] + 1):
            layers[number].append((key, number))
            above[key, number] = [(key, number - 1)]
    below: dict[Place, list[Place]] = {}
    for place, places in above.items():
        for upper in places:
            below.setdefault(upper, []).append(place)
    for sweep in range(SWEEPS):  # by the mean place of what each is joined to: fewer lines cross
        joined = above if sweep % 2 == 0 else below
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            order = {place: number for row in layers for number, place in enumerate(row)}
            layer.sort(key=lambda place: mean([order[each] for each in joined.get(place, ())], order[place]))
    return layers, above


def mean(numbers: Sequence[float], default: float) -> float:
    return sum(numbers) / len(numbers) if numbers else default


def across(
    layers: Sequence[Sequence[Place]], above: Mapping[Place, Sequence[Place]], layer_of: Mapping[str, int]
) -> tuple[dict[Place, float], float]:
    """The middle of each place, as near below the first that it reads as its neighbours allow, and the whole width."""
    middle: dict[Place, float] = {}
    for number, layer in enumerate(layers):
        wanted = [middle[above[place][0]] if above[place] else 0.0 for place in layer]
        edge, moved = float("-inf"), []
        for place, wish in zip(layer, wanted, strict=True):
            half = (WIDTH if layer_of[place[0]] == number else LANE) / 2
            middle[place] = max(wish, edge + half)
            edge = middle[place] + half + GAP
            moved.append(middle[place] - wish)
        for place in layer:
            middle[place] -= mean(moved, 0.0)
    left = min((at - WIDTH / 2 for at in middle.values()), default=0.0) - 2
    middle = {place: at - left for place, at in middle.items()}
    return middle, max((at + WIDTH / 2 for at in middle.values()), default=0.0) + 2


def downwards(
    layers: Sequence[Sequence[Place]], boxes: Mapping[str, Box], layer_of: Mapping[str, int]
) -> tuple[list[float], list[float], float]:
    """The top and the bottom of each layer, and the whole height."""
    tops, bottoms, edge = [], [], 2.0
    for number, layer in enumerate(layers):
        tops.append(edge)
        bottoms.append(edge + max(height_of(boxes[key]) for key, _ in layer if layer_of[key] == number))
        edge = bottoms[-1] + DROP
    return tops, bottoms, edge - DROP + 2


def height_of(box: Box) -> float:
    return 2 * PADDING + LINE * len([*filter(None, box.lines)])


def curve(
    key: str,
    source: str,
    middle: Mapping[Place, float],
    layer_of: Mapping[str, int],
    tops: Sequence[float],
    bottoms: Sequence[float],
    kind: str,
) -> str:
    """The line from a box to one that reads it, through its places in the layers between."""
    first, last = layer_of[source], layer_of[key]
    at = middle[source, first]
    path = f"M{at:.1f},{tops[first] + PADDING:.1f}V{bottoms[first]:.1f}"
    for number in range(first + 1, last + 1):
        to = middle[key if number == last else source, number]
        half = (bottoms[number - 1] + tops[number]) / 2
        path += f"C{at:.1f},{half:.1f} {to:.1f},{half:.1f} {to:.1f},{tops[number]:.1f}"
        path += f"V{bottoms[number]:.1f}" if number < last else ""
        at = to
    return f'<path class="{kind}" d="{path}"/>'


def drawn_box(box: Box, middle: float, top: float) -> str:
    """A box with its lines, cut where they are too long; pointed at, it tells them whole."""
    left = middle - WIDTH / 2
    texts = [one_line(line) for line in box.lines if line]
    rows = [
        f'<text class="{"" if number else "name"}" x="{left + PADDING + 2:.1f}" '
        f'y="{top + PADDING + LINE * number + 13:.1f}">{escape(shortened(text, LETTERS))}</text>'
        for number, text in enumerate(texts)
    ]
    return (
        f'<g><title>{escape("; ".join(texts))}</title><rect class="{box.kind}" x="{left:.1f}" y="{top:.1f}" rx="8" '
        f'width="{WIDTH}" height="{height_of(box):.1f}"/>{"".join(rows)}</g>'
    )


def texts_in(value: Any) -> Iterator[str]:
    """Every text within lists and mappings: the keys that a step's identity names are among those of its own."""
    if isinstance(value, str):
        yield value
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for each in inner:
        yield from texts_in(each)


def players(engines: Mapping[str, str]) -> list[str]:
    """Roles by the engine that plays them: `author, teacher: openai:MODEL`."""
    roles: dict[str, list[str]] = {}
    for role, engine in engines.items():
        roles.setdefault(engine, []).append(role)
    return [f"{', '.join(names)}: {engine}" for engine, names in roles.items()]

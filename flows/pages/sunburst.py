"""A sunburst: nested counts as rings, drawn as one SVG without scripts."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape as escape_html
from math import cos, pi, sin
from typing import NamedTuple

from synthmill.schemas.texts import one_line

RINGS = (50.0, 142.0, 226.0, 340.0)
COLOURS = ("#4361a8", "#c0662f", "#3b8a63", "#8d5a9e", "#b03a55", "#7a7a2e", "#2f8fa3", "#6b6b6b")
FADE = (1.0, 0.72, 0.45)
SMALLEST = 0.0015  # of the circle: thinner slices are put together
LABELLED = (0.018, 0.014, 0.0055)  # of the circle, by ring: there is room for a word
LETTER = (6.0, 6.0, 4.6)  # its width, by ring

Tree = Mapping[str, "Tree | int"]


class Slice(NamedTuple):
    """A part of a ring: from `start` to `end` as shares of the circle."""

    path: tuple[str, ...]
    leaves: int
    start: float
    end: float
    colour: str


def total(tree: "Tree | int") -> int:
    return tree if isinstance(tree, int) else sum(total(inner) for inner in tree.values())


def slices(tree: Tree, start: float, end: float, path: tuple[str, ...] = (), colour: str = "") -> Iterator[Slice]:
    """Every slice under `tree` that lies between two shares of the circle, the larger ones first."""
    leaves = total(tree) or 1
    edge, rest = start, 0
    branches = sorted(tree.items(), key=lambda branch: (-total(branch[1]), branch[0])) if path else list(tree.items())
    for place, (name, inner) in enumerate(branches):
        count = total(inner)
        share = (end - start) * count / leaves
        if path and share < SMALLEST:
            rest += count
            continue
        own_colour = colour or COLOURS[place % len(COLOURS)]
        yield Slice((*path, name), count, edge, edge + share, own_colour)
        if not isinstance(inner, int):
            yield from slices(inner, edge, edge + share, (*path, name), own_colour)
        edge += share
    if rest:
        yield Slice((*path, "others"), rest, edge, end, colour)


def escape(text: str) -> str:
    return escape_html(one_line(text))


def point(radius: float, share: float) -> str:
    angle = 2 * pi * share - pi / 2
    return f"{radius * cos(angle):.2f},{radius * sin(angle):.2f}"


def arc(inner: float, outer: float, start: float, end: float) -> str:
    """The outline of a ring's slice; a whole ring is a hair less, since an arc onto its own start is none."""
    end = min(end, start + 0.9999)
    large = int(end - start > 0.5)
    return (
        f"M{point(outer, start)}A{outer},{outer} 0 {large} 1 {point(outer, end)}"
        f"L{point(inner, end)}A{inner},{inner} 0 {large} 0 {point(inner, start)}Z"
    )


def label(part: Slice, inner: float, outer: float) -> str:
    """The slice's name: upright, a word a line, in the innermost ring; along its radius, never upside down, outside."""
    middle = (part.start + part.end) / 2
    if len(part.path) == 1:
        x, y = map(float, point((inner + outer) / 2, middle).split(","))
        words = part.path[0].replace("_", " ").split()
        lines = (
            f'<tspan x="{x}" y="{y + 13 * (n - (len(words) - 1) / 2)}">{escape(w)}</tspan>' for n, w in enumerate(words)
        )
        return f"<text>{''.join(lines)}</text>"
    angle = 360 * middle - 90
    upright = angle + 180 if middle > 0.5 else angle
    most = int((outer - inner - 4) / LETTER[len(part.path) - 1])
    name = part.path[-1].replace("_", " ")
    text = name if len(name) <= most else name[: most - 1] + "…"
    place = point((inner + outer) / 2, middle)
    small = ' class="small"' if len(part.path) == len(LETTER) else ""
    return f'<text{small} transform="translate({place}) rotate({upright:.1f})">{escape(text)}</text>'


def sunburst(tree: Tree, title: str, words: Sequence[str] = ()) -> str:
    """The tree, up to three levels deep, as an SVG; each slice tells its path, count and share when pointed at.

    words: lines in the middle.
    """
    leaves = total(tree)
    paths, labels = [], []
    for part in slices(tree, 0.0, 1.0):
        level = len(part.path) - 1
        if level > 2 or part.start == part.end:
            continue
        inner, outer = RINGS[level], RINGS[level + 1]
        description = escape(f"{' / '.join(part.path)}: {part.leaves:,} ({part.leaves / leaves:.1%})")
        paths.append(
            f'<path d="{arc(inner, outer, part.start, part.end)}" fill="{part.colour}" fill-opacity="{FADE[level]}">'
            f"<title>{description}</title></path>"
        )
        if part.end - part.start >= LABELLED[level]:
            labels.append(label(part, inner, outer))
    middle = "".join(f'<text y="{14 * (n - (len(words) - 1) / 2):.0f}">{escape(w)}</text>' for n, w in enumerate(words))
    style = (
        ".sunburst path{stroke:#fff;stroke-width:.8}.sunburst text{font:11px system-ui,sans-serif;text-anchor:middle;"
        "dominant-baseline:middle;pointer-events:none}.sunburst .on text{fill:#fff}"
        ".sunburst .on .small{font-size:8.5px;fill:#222}.sunburst .in text{fill:#777}"
    )
    head = 'xmlns="http://www.w3.org/2000/svg" class="sunburst" viewBox="-344 -344 688 688" role="img"'
    return (
        f'<svg {head} aria-label="{escape(title)}"><title>{escape(title)}</title><style>{style}</style>'
        f'<g>{"".join(paths)}</g><g class="on">{"".join(labels)}</g><g class="in">{middle}</g></svg>\n'
    )

"""A tree, drawn as one SVG without scripts: from left to right, a line of text per node."""

from collections.abc import Sequence
from html import escape

COLUMN, LINE, DOT = 150, 24, 4.0  # pixels
STYLE = (
    "circle{fill:#999}text{font:12px sans-serif;fill:#888}path{stroke:#999;fill:none}"
    ".best{fill:#3b8a63;font-weight:bold}"
)


def draw_tree(parents: Sequence[int], labels: Sequence[str], marked: int) -> bytes:
    """An SVG of a tree. parents: each node's parent by place, before the node itself; -1 for the first. marked: the
    node that stands out, with the way to it.
    """
    levels, lines = list[int](), dict[int, int]()
    for parent in parents:
        levels.append(levels[parent] + 1 if parent >= 0 else 0)
    for place in depth_first(parents):
        lines[place] = len(lines)
    path, place = set[int](), marked
    while place >= 0:
        path.add(place)
        place = parents[place]
    points = {place: (levels[place] * COLUMN + 10, lines[place] * LINE + LINE // 2) for place in lines}
    shapes = [curve(points[parent], points[place]) for place, parent in enumerate(parents) if parent >= 0]
    for place, (x, y) in points.items():
        kind = ' class="best"' if place in path else ""
        shapes.append(f'<circle{kind} cx="{x}" cy="{y}" r="{DOT}"/>')
        shapes.append(f'<text{kind} x="{x + 8}" y="{y + 4}">{escape(labels[place])}</text>')
    width, height = (max(levels) + 1) * COLUMN + 20, len(parents) * LINE
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    return f"{head}<style>{STYLE}</style>{''.join(shapes)}</svg>".encode()


def depth_first(parents: Sequence[int]) -> list[int]:
    """The places of all nodes, each before its children, children in their order."""
    order, open_places = list[int](), [0]
    while open_places:
        place = open_places.pop()
        order.append(place)
        open_places += [child for child in reversed(range(len(parents))) if parents[child] == place]
    return order


def curve(start: tuple[int, int], end: tuple[int, int]) -> str:
    middle = (start[0] + end[0]) // 2
    return f'<path d="M{start[0]},{start[1]} C{middle},{start[1]} {middle},{end[1]} {end[0]},{end[1]}"/>'

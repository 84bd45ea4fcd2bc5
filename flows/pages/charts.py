"""Small charts as SVG without scripts, for a page whose style sheet has their colours (.s0, .s1, .s2)."""

from collections.abc import Mapping, Sequence
from html import escape
from math import floor, log10
from typing import Any, NamedTuple

import numpy as np

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 200, 44, 24, 8
BINS = 32
COLOURS = {"all answers": "s0", "rejected": "s1"}


def colour(name: str) -> str:
    """The style sheet's class for what a distribution is of."""
    return COLOURS.get(name, "s2")


def histogram(series: Mapping[str, Any], title: str) -> str:
    """Several distributions over each other, each in the colour of its name; each bar tells its range and count.
    series: numbers (arrays, or what becomes one) by name.
    """
    arrays = {name: np.asarray(values, np.float64) for name, values in series.items()}
    arrays = {name: values[np.isfinite(values)] for name, values in arrays.items()}
    numbers = np.concatenate([*arrays.values(), np.zeros(0)])
    if not len(numbers):
        return ""
    edges = bin_edges(numbers)
    labels = [format_number(edge) for edge in edges]
    counts = {name: np.histogram(values, edges)[0] for name, values in arrays.items()}
    highest = max(1, *(int(heights.max()) for heights in counts.values()))
    across = (WIDTH - LEFT) / (len(edges) - 1)
    up = (HEIGHT - BOTTOM - TOP) / highest
    bars = [
        f'<rect class="{colour(name)}" x="{LEFT + n * across + 0.5:.1f}" y="{HEIGHT - BOTTOM - count * up:.1f}" '
        f'width="{max(1.0, across - 1):.1f}" height="{count * up:.1f}">'
        f"<title>{escape(name)}: {count:,} from {labels[n]} to {labels[n + 1]}</title></rect>"
        for name, heights in counts.items()
        for n, count in enumerate(heights.tolist())
        if count
    ]
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f"{''.join(bars)}{axes(edges, highest)}</svg>"
    )


class Whisker(NamedTuple):
    """A value between 0 and 1 with its interval; colour: the style sheet's class."""

    name: str
    value: float
    low: float
    high: float
    colour: str = "s2"


def whiskers(marks: Sequence[Whisker], title: str, middle: float) -> str:
    """Values from 0 to 1 under each other, each with its name, a dot and its interval; a line at `middle`."""
    left, right, line = WIDTH * 0.56, WIDTH - 12, 18
    height = TOP + line * len(marks) + BOTTOM

    def across(value: float) -> float:
        return left + (right - left) * min(1.0, max(0.0, value))

    rows = [
        f"<g><title>{escape(mark.name)}: {mark.value:.1%} ({mark.low:.1%} to {mark.high:.1%})</title>"
        f'<text x="{left - 10:.0f}" y="{y + 4}" text-anchor="end">{escape(mark.name)}</text>'
        f'<rect class="{mark.colour}" x="{across(mark.low):.1f}" y="{y - 2}" height="4" '
        f'width="{max(1.0, across(mark.high) - across(mark.low)):.1f}"/>'
        f'<circle class="{mark.colour}" cx="{across(mark.value):.1f}" cy="{y}" r="5"/></g>'
        for y, mark in ((TOP + line * n + line // 2, mark) for n, mark in enumerate(marks))
    ]
    scale = [
        f'<text x="{across(share):.0f}" y="{height - 6}" text-anchor="{anchor}">{share:.0%}</text>'
        for share, anchor in ((0.0, "start"), (middle, "middle"), (1.0, "end"))
    ]
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f'<path class="axis" d="M{left:.0f},{height - BOTTOM}H{right}M{across(middle):.1f},{TOP}V{height - BOTTOM}"/>'
        f"{''.join(rows)}{''.join(scale)}</svg>"
    )


def bin_edges(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """At most BINS even bins; of whole numbers each holds as many, and its edges lie between them."""
    low, high = float(values.min()), float(values.max())
    are_whole = bool((values == np.round(values)).all())
    if high <= low:
        return np.array([low - 0.5, low + 0.5])
    bins = min(BINS, int(high - low) + 1) if are_whole else BINS
    if are_whole:
        width = -(-int(high - low + 1) // bins)
        return np.arange(low, high + width + 1, width, dtype=np.float64) - 0.5
    return np.linspace(low, high, bins + 1)


def axes(edges: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]], highest: int) -> str:
    """A line below with five numbers, and the highest count."""
    base = HEIGHT - BOTTOM
    marks = [
        f'<text x="{LEFT + (WIDTH - LEFT) * n / 4:.0f}" y="{HEIGHT - 6}" text-anchor="{anchor}">'
        f"{format_number(float(edges[0]) + (float(edges[-1]) - float(edges[0])) * n / 4)}</text>"
        for n, anchor in enumerate(("start", "middle", "middle", "middle", "end"))
    ]
    return (
        f'<path class="axis" d="M{LEFT},{base}H{WIDTH}"/><text x="{LEFT - 6}" y="{TOP + 8}" text-anchor="end">'
        f"{highest:,}</text>{''.join(marks)}"
    )


def format_number(number: float) -> str:
    """A number to three significant digits."""
    if abs(number) < 1e-9 or abs(number) >= 100:
        return f"{number:,.0f}"
    text = f"{number:.{max(0, 2 - floor(log10(abs(number))))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

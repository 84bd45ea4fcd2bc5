"""Bars as SVG: a group a contestant, a colour a series."""

from collections.abc import Sequence
from typing import NamedTuple

COLOURS = ("#1f6f8b", "#c8553d", "#8a8f3c")
WIDE, LEFT, RIGHT, BAR, GAP, TOP = 680, 190, 70, 13, 9, 44


class Group(NamedTuple):
    """One contestant's bars; None where it was not measured."""

    title: str
    values: Sequence[float | None]


def bars(title: str, series: Sequence[str], groups: Sequence[Group]) -> str:
    """Horizontal bars, longest first as they come, each with its number."""
    high = TOP + len(groups) * (len(series) * BAR + GAP) + 8
    largest = max((value for group in groups for value in group.values if value is not None), default=0) or 1
    across = (WIDE - LEFT - RIGHT) / largest
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {high}" font-family="sans-serif" font-size="11">',
        f'<title>{title}</title><rect width="{WIDE}" height="{high}" fill="white"/>',
        f'<text x="{LEFT}" y="16" fill="#222">{title}</text>',
    ]
    for n, name in enumerate(series):
        x = LEFT + 150 * n
        parts.append(f'<rect x="{x}" y="24" width="10" height="10" fill="{COLOURS[n]}"/>')
        parts.append(f'<text x="{x + 15}" y="33" fill="#222">{name}</text>')
    y = TOP
    for group in groups:
        middle = y + len(series) * BAR / 2 + 4
        parts.append(f'<text x="{LEFT - 8}" y="{middle:.1f}" text-anchor="end" fill="#222">{group.title}</text>')
        for n, value in enumerate(group.values):
            if value is not None:
                width = value * across
                parts.append(
                    f'<rect x="{LEFT}" y="{y}" width="{max(width, 0.5):.1f}" height="{BAR - 2}" fill="{COLOURS[n]}"/>'
                )
                parts.append(f'<text x="{LEFT + width + 5:.1f}" y="{y + BAR - 4}" fill="#555">{value:,.0f}</text>')
            y += BAR
        y += GAP
    return "\n".join([*parts, "</svg>"]) + "\n"

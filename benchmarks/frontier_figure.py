"""The figure of benchmarks/frontier.py: what an attack leaves more than gold, against its cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from frontier_table import ALL, Line

WIDTH, HEIGHT, LEFT, BOTTOM = 780, 380, 60, 50
COLOURS = {"strong": "#d55e00", "gold": "#0072b2"}
BESIDE = ((13, 0), (-13, 0), (10, -12), (-10, -12), (10, 12), (-10, 12))  # where a number may stand from its point


def figure(found: Sequence[Line], title: str) -> str:
    """SVG: robust accuracy minus gold's against evaluations as a share of gold's, all purifiers together."""
    shown, title = [line for line in found if line.defense == ALL], f"{title}, {ALL} together"
    top = max([5.0, *(100 * line.difference[2] for line in shown)])
    bottom = min([-5.0, *(100 * line.difference[1] for line in shown)])
    left = math.floor(math.log10(min([0.01, *(line.share for line in shown)])))

    def x(share: float) -> float:
        return LEFT + (WIDTH - LEFT - 180) * (math.log10(share) - left) / (0.3 - left)

    def y(points: float) -> float:
        return 40 + (HEIGHT - 40 - BOTTOM) * (top - points) / (top - bottom)

    parts = [f'<text x="{LEFT}" y="22" font-size="14" font-weight="bold">{escape(title)}</text>']
    for points in range(math.ceil(bottom / 5) * 5, math.floor(top / 5) * 5 + 1, 5):
        stroke = "#000" if points == 0 else "#ddd"
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 180}" y1="{y(points):.1f}" y2="{y(points):.1f}" stroke="{stroke}"/>'
        )
        parts.append(f'<text x="{LEFT - 8}" y="{y(points) + 4:.1f}" text-anchor="end">{points:+d}</text>')
    for power in range(left, 1):
        percent = f"{100 * 10.0**power:g} %"
        parts.append(f'<text x="{x(10.0**power):.1f}" y="{HEIGHT - 28}" text-anchor="middle">{percent}</text>')
    ordered = sorted(shown, key=lambda line: line.share)
    taken = [(x(line.share), y(100 * line.difference[0])) for line in ordered]
    for number, line in enumerate(ordered, start=1):
        colour = next((c for name, c in COLOURS.items() if line.method.startswith(name)), "#555")
        middle, low, high = (y(100 * value) for value in line.difference)
        at = x(line.share)
        places = [(at + right, middle + down) for right, down in BESIDE]
        label = max(places, key=lambda place: min(12.0, *(math.dist(place, other) for other in taken)))
        taken.append(label)
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}" opacity="0.4"/>'
        )
        parts.append(f'<circle cx="{at:.1f}" cy="{middle:.1f}" r="4" fill="{colour}"/>')
        spot = f'x="{label[0]:.1f}" y="{label[1] + 4:.1f}" text-anchor="middle" fill="{colour}"'
        parts.append(f'<text {spot} paint-order="stroke" stroke="white" stroke-width="4">{number}</text>')
        name = f"{number}  {line.method}"
        parts.append(f'<text x="{WIDTH - 172}" y="{40 + 18 * number}" fill="{colour}">{escape(name)}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - 180) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">'
        "network evaluations of the attack, share of gold's</text>"
    )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="{escape(title)}">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n{body}\n</svg>\n'
    )

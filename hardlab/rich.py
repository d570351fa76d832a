"""Tables, bars and curves as HTML for a notebook's cells and as text for a terminal, without a library."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from itertools import pairwise

_BLOCKS = "▁▂▃▄▅▆▇█"
_BLUE = "#0072B2"
_WIDE, _HIGH = 340, 90  # pixels of a curve


class Markup(str):
    """Text that is HTML already."""


def escape(value: object) -> str:
    """A value as HTML; ``Markup`` stays as it is."""
    return str(value) if isinstance(value, Markup) else html.escape(str(value))


def table(rows: Iterable[Sequence[object]], head: Sequence[object] = ()) -> Markup:
    """A table, text aligned to the left."""
    cell = '<td style="text-align:left;vertical-align:top">{}</td>'
    body = "".join(f"<tr>{''.join(cell.format(escape(value)) for value in row)}</tr>" for row in rows)
    top = "".join(f'<th style="text-align:left">{escape(value)}</th>' for value in head)
    return Markup(f"<table>{f'<thead><tr>{top}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>")


def bar(share: float, width: float = 8.0) -> Markup:
    """A horizontal bar. share: 0 to 1 of ``width``, in the size of the letters."""
    filled = width * min(1.0, max(0.0, share))
    outer = f"display:inline-block;width:{width:g}em;height:0.7em;background:#8883"
    inner = f"display:block;width:{filled:.2f}em;height:0.7em;background:{_BLUE}"
    return Markup(f'<span style="{outer}"><span style="{inner}"></span></span>')


def curve(points: Sequence[tuple[float, float]], title: str) -> Markup:
    """A line through finite points as SVG, with its first and last place and its lowest and highest value."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(ys), max(ys)
    left, wide, tall = min(xs), (max(xs) - min(xs)) or 1, (high - low) or 1
    places = [(5 + (_WIDE - 10) * (x - left) / wide, 22 + (_HIGH - 42) * (high - y) / tall) for x, y in zip(xs, ys)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{_BLUE}"/>' for x, y in places[-1:])
    label = f"{title}: {low:.4g} to {high:.4g}, last {ys[-1]:.4g}"
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(label)}" width="{_WIDE}" '
        f'height="{_HIGH}" font-size="11" fill="currentColor"><polyline points="{line}" fill="none" stroke="{_BLUE}" '
        f'stroke-width="1.5"/>{dots}<text x="5" y="12">{escape(label)}</text>'
        f'<text x="5" y="{_HIGH - 5}">{min(xs):g}</text>'
        f'<text x="{_WIDE - 5}" y="{_HIGH - 5}" text-anchor="end">{max(xs):g}</text></svg>'
    )


def spark(values: Sequence[float], width: int = 40) -> str:
    """Values as a line of blocks of rising height, at most ``width`` of them, each the mean of its neighbours."""
    count = min(width, len(values))
    edges = [len(values) * i // count for i in range(count + 1)] if count else []
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    return "".join(_BLOCKS[round((len(_BLOCKS) - 1) * ((m - low) / (high - low) if high > low else 0))] for m in means)

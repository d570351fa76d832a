"""A table of text as a figure: printed values in black, ours in blue under them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hardlab.figures import style

LINE = 0.135  # inches from one line to the next at 7 points
LETTER = 0.0625  # inches a character takes at most, on average


class Cell(NamedTuple):
    """The content of a cell: the printed text and ours, with its number of seeds."""

    printed: str
    ours: str  # "" if there is nothing of ours
    seeds: int = 0


class Sheet(NamedTuple):
    """A table as text, which ``typeset`` draws and ``markup`` writes for a document.

    names: (published, ours, rule) of each line. heads: (published, ours, _) of each column. caption: lines.
    """

    title: str
    names: Sequence[tuple[str, str, bool]]
    heads: Sequence[tuple[str, str, bool]]
    cells: Sequence[Sequence[Cell]]
    caption: str


def typeset(
    title: str,
    names: Sequence[tuple[str, str, bool]],
    heads: Sequence[tuple[str, str, bool]],
    cells: Sequence[Sequence[Cell]],
    caption: str,
) -> Figure:
    """Typeset a table. names: (published, ours, rule) of each line. heads: (published, ours, _) of each column.

    A line gets a second one for ours if any of its cells has a value of ours; a line of ours alone stays single.
    """
    first = LETTER * max(len(line) for n in names for line in (n[0], f"  {n[1]}"))
    first = min(max(first, 0.6), style.WIDTH - 0.42 * len(heads))
    width = (style.WIDTH - first - 0.06) / len(heads)
    fits = max(4, int(width / LETTER))
    # identifiers of ours break at their hyphens
    wrapped = [[textwrap.wrap(text, fits, break_long_words=False) for text in h[:2]] for h in heads]
    tops = [max(len(w[i]) for w in wrapped) for i in (0, 1)]
    lines: list[tuple[list[str], str, Sequence[Cell], bool]] = []
    room = max(8, int(first / LETTER))
    for (name, ours, rule), line in zip(names, cells, strict=True):
        parts = textwrap.wrap(name, room) or [""] * any(c.printed for c in line)
        lines.append((parts, ours if any(c.ours for c in line) else "", line, rule))
    heights = [len(parts) + any(bool(c.ours) for c in line) for parts, _, line, _ in lines]
    foot = [part for text in caption.split("\n") for part in style.even(text, 104)]
    total = 0.3 + LINE * (sum(tops) + sum(heights) + len(foot)) + 0.045 * len(lines) + 0.16
    figure = Figure(figsize=(style.WIDTH, total))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, style.WIDTH), ylim=(total, 0))
    ax.axis("off")
    ax.text(0.04, 0.06, title, fontsize=8, va="top", weight="bold")
    at = [first + 0.03 + width * (i + 0.5) for i in range(len(heads))]
    y = 0.3
    _rule(ax, y - 0.04, 0.9)
    for x, (above, below) in zip(at, wrapped, strict=True):
        for i, text in enumerate(above):
            _text(ax, x, y + LINE * (tops[0] - len(above) + i), text, style.INK, "center")
        for i, text in enumerate(below):
            _text(ax, x, y + LINE * (tops[0] + i), text, style.BLUE, "center")
    y += LINE * sum(tops) + 0.03
    _rule(ax, y, 0.5)
    y += 0.04
    for n, ((said_by, ours, line, rule), height) in enumerate(zip(lines, heights, strict=True)):
        if n % 2:
            ax.add_patch(Rectangle((0, y - 0.02), style.WIDTH, LINE * height + 0.045, color="#F3F3F3", lw=0, zorder=0))
        if rule:
            _rule(ax, y - 0.02, 0.5)
        for i, part in enumerate(said_by):
            _text(ax, 0.04, y + LINE * i, part, style.INK, "left")
        if ours:
            _text(ax, 0.04 + LETTER * 2, y + LINE * len(said_by), ours, style.BLUE, "left")
        for x, cell in zip(at, line, strict=True):
            _text(ax, x, y, cell.printed, style.INK, "center")
            if cell.ours:
                _text(ax, x, y + LINE * len(said_by), cell.ours, style.BLUE, "center")
        y += LINE * height + 0.045
    _rule(ax, y, 0.9)
    for i, text in enumerate(foot):
        _text(ax, 0.04, y + 0.07 + LINE * i, text, style.GREY, "left")
    return figure


def _text(ax: Axes, x: float, y: float, text: str, colour: str, align: str) -> None:
    ax.text(
        x,
        y,
        text.replace("-", "\N{MINUS SIGN}") if text[:1] == "-" else text,
        fontsize=7,
        color=colour,
        ha=align,
        va="top",
    )


def _rule(ax: Axes, y: float, width: float) -> None:
    ax.hlines(y, 0.02, style.WIDTH - 0.02, color=style.INK, linewidth=width)

"""A published table as a figure: every printed number, and under it ours where there is a run for it."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hardlab.evaluate.published import settings
from hardlab.figures import style
from hardlab.figures.pick import BUILT_IN, Arm, Measure, Ours, published

LINE = 0.135  # inches from one line to the next at 7 points
LETTER = 0.0625  # inches a character takes at most, on average
GAP = "\N{MIDDLE DOT}\N{MIDDLE DOT}\N{MIDDLE DOT}"
SCALES = {
    "C": "ours at CIFAR scale",
    "A": "ours on an analogue: other data, same comparison",
    "X": "ours: the same code path on other data",
}


class Row(NamedTuple):
    """One line: the published row of this name, and the arm of ours that stands under it."""

    name: str
    arm: Arm | None = None
    says: str = ""  # instead of the name
    rule: bool = False  # a line above it


class Column(NamedTuple):
    """names: of the published column, the first that a row has. head: its title. What it asks of an arm is added."""

    names: tuple[str, ...]
    head: str
    ours: Measure | None = None
    trained: tuple[str, str] | None = None
    budget: int | None = None


class Cell(NamedTuple):
    """What a cell shows."""

    printed: str
    ours: str  # "" where nothing of ours belongs here, GAP where a run is missing


def row(name: str, recipe: str = "", says: str = "", rule: bool = False, **arm: object) -> Row:
    return Row(name, Arm(recipe, **arm) if recipe else None, says, rule)  # type: ignore[arg-type]


def named(
    names: Sequence[str], ours: Mapping[str, Arm], first: str = "", says: Mapping[str, str] | None = None
) -> list[Row]:
    """The published rows of these names with our arms; a line above ``first``, ``says`` instead of a name."""
    return [Row(n, ours.get(n), (says or {}).get(n, ""), n == first) for n in names]


def column(names: str | tuple[str, ...], head: str = "", ours: Measure | None = None, **more: object) -> Column:
    names = (names,) if isinstance(names, str) else names
    return Column(names, head or names[0], ours, **more)  # type: ignore[arg-type]


def built_in(*measures: Measure) -> list[Column]:
    """Columns of ours alone: the transfer that each measure is, to the sets that need no download."""
    return [column("", "", m._replace(head=f"{m.head} {name}", on=name)) for name in BUILT_IN for m in measures]


def table(
    title: str,
    scale: str,
    who: str,
    item: str,
    rows: Sequence[Row],
    columns: Sequence[Column],
    paper: pd.DataFrame,
    evaluation: pd.DataFrame,
    configs: pd.DataFrame | None = None,
    costs: pd.DataFrame | None = None,
    turned: bool = False,
    any_data: bool = False,
    note: str = "",
) -> Figure:
    """Draw ``item`` of the paper ``who``.

    scale: C, A or X as in ``SCALES``. turned: the rows of the description are drawn as columns. any_data: the columns
    say which data an arm was trained on.
    """
    recipes = [name for r in rows if r.arm for name in (r.arm.recipe, r.arm.minus) if name]
    ours, printed = Ours(recipes, evaluation, configs, costs, any_data), published(paper, who, item)
    cells = [[_cell(ours, printed, r, c) for c in columns] for r in rows]
    names = [(r.says or r.name, _called(r.arm), r.rule) for r in rows]
    heads = [(c.head, c.ours.head if c.ours else "", False) for c in columns]
    if turned:
        cells = [list(line) for line in zip(*cells, strict=True)]
        names, heads = heads, names
    found = ours.frame
    told = f"{style.about(found)}" if len(found) else "no finished run of these arms has a row here"
    by = f" · by {', '.join(_told(p, found) for p in ours.by)}" if ours.by else ""
    legend = f"{SCALES[scale]} (blue; ± half the 95 % t-interval; {GAP} no row yet)"
    caption = f"{legend}\n{told}{by}" + (f"\n{note}" if note else "")
    if any(c.ours and c.ours.on in BUILT_IN for c in columns):
        caption += f"\n{' and '.join(BUILT_IN)}: built-in sets, ours alone; nothing is printed for them"
    return draw(title, names, heads, cells, caption)


def _told(protocol: str, rows: pd.DataFrame) -> str:
    """A protocol's name, with the settings that rows of it have otherwise than published, and on which sets."""
    of = rows[rows["protocol"] == protocol]
    changed: dict[str, set[str]] = {}
    for on, options in set(zip(of["evaluated_on"], of["options"], strict=True)):
        usual = json.loads(json.dumps(settings(protocol, {}, on)))
        for k, v in json.loads(options).items():
            if v != usual.get(k):
                changed.setdefault(f"{k}={v}", set()).add(str(on))
    every = set(of["evaluated_on"])
    told = [c if on == every else f"{c} on {' and '.join(sorted(on))}" for c, on in sorted(changed.items())]
    return f"{protocol} ({', '.join(told)})" if told else protocol


def _called(arm: Arm | None) -> str:
    if arm is None:
        return ""
    told = [f"{k}={v}" for k, v in arm.changes]
    told += [f"{arm.wider} × channels"] if arm.wider > 1 else []
    return " ".join([f"{arm.recipe} - {arm.minus}" if arm.minus else arm.recipe, *told])


def _cell(ours: Ours, printed: Mapping[tuple[str, str], str], r: Row, c: Column) -> Cell:
    text = next((printed[r.name, n] for n in c.names if (r.name, n) in printed), "")
    if r.name.endswith("as printed") and text:
        text = signed(text)
    if r.arm is None or c.ours is None:
        return Cell(text, "")
    arm = r.arm._replace(
        trained=r.arm.trained or c.trained, budget=r.arm.budget if r.arm.budget is not None else c.budget
    )
    return Cell(text, said(ours, arm, c.ours))


def signed(text: str) -> str:
    """A printed difference with its sign."""
    return text if text.startswith("-") else f"+{text}"


def said(ours: Ours, arm: Arm, measure: Measure) -> str:
    """Ours in words: mean and half of the interval."""
    mean, lo, hi, n = ours.interval(arm, measure)
    if n == 0:
        return GAP
    if measure.config:
        return f"{mean:.3g}"
    if measure.cost:
        return f"{mean:.3g}" + (f"±{(hi - lo) / 2:.2g}" if n > 1 else "")
    sign = "+" if arm.minus else ""
    half = f"±{(hi - lo) / 2:.1f}" if n > 1 else ""
    return f"{mean:{sign}.1f}{half}"


def draw(
    title: str,
    names: Sequence[tuple[str, str, bool]],
    heads: Sequence[tuple[str, str, bool]],
    cells: Sequence[Sequence[Cell]],
    caption: str,
) -> Figure:
    """Lines of text in inches. names: (published, ours, rule) of each line. heads: (published, ours, _) of each column.

    A line has a second one for ours where any of its cells has something of ours; what is ours alone has one.
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
    for (name, mine, rule), line in zip(names, cells, strict=True):
        parts = textwrap.wrap(name, room) or [""] * any(c.printed for c in line)
        lines.append((parts, mine if any(c.ours for c in line) else "", line, rule))
    heights = [len(parts) + any(bool(c.ours) for c in line) for parts, _, line, _ in lines]
    foot = [part for text in caption.split("\n") for part in _even(text, 104)]
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
    for n, ((said_by, mine, line, rule), height) in enumerate(zip(lines, heights, strict=True)):
        if n % 2:
            ax.add_patch(Rectangle((0, y - 0.02), style.WIDTH, LINE * height + 0.045, color="#F3F3F3", lw=0, zorder=0))
        if rule:
            _rule(ax, y - 0.02, 0.5)
        for i, part in enumerate(said_by):
            _text(ax, 0.04, y + LINE * i, part, style.INK, "left")
        if mine:
            _text(ax, 0.04 + LETTER * 2, y + LINE * len(said_by), mine, style.BLUE, "left")
        for x, cell in zip(at, line, strict=True):
            _text(ax, x, y, cell.printed, style.INK, "center")
            if cell.ours:
                _text(ax, x, y + LINE * len(said_by), cell.ours, style.BLUE, "center")
        y += LINE * height + 0.045
    _rule(ax, y, 0.9)
    for i, text in enumerate(foot):
        _text(ax, 0.04, y + 0.07 + LINE * i, text, style.GREY, "left")
    return figure


def _even(text: str, width: int) -> list[str]:
    """As few lines as the width allows, of about one length, broken between the parts of a list: no last word alone."""
    text = re.sub(r"\((\d+) (epochs?\))", "(\\1\N{NO-BREAK SPACE}\\2", text)
    parts = text.split(" \N{MIDDLE DOT} ")
    if max(map(len, parts)) <= 0.75 * width:  # longer ones would leave short lines before them
        text = "\N{NO-BREAK SPACE}\N{MIDDLE DOT} ".join(p.replace(" ", "\N{NO-BREAK SPACE}") for p in parts)
    least = min(width, max(width // 2, *map(len, text.split(" "))))
    wrapped = {w: textwrap.wrap(text, w, break_on_hyphens=False) for w in range(least, width + 1)}
    even = next(lines for lines in wrapped.values() if len(lines) == len(wrapped[width]))
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in even]


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

"""The style of all figures, and the elements that they share."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hardlab.analysis.intervals import interval

WIDTH = 5.5  # inches: the text width of the usual one-column proceedings, so that point sizes are final sizes
# Okabe and Ito's palette: distinct with any colour vision; in grey the line styles differ as well
BLUE, ORANGE, GREEN, RED, SKY, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"
GREY, LIGHT, INK = "#707070", "#D9D9D9", "#202020"
LETTERS = 112  # of a line of small text that fit into the width
BANDED = 3  # seeds from which an interval is drawn as a band: that of two is 13 times as wide as their distance
METHODS = {"simsiam": "SimSiam", "simclr": "SimCLR", "dino": "DINO", "ibot": "iBOT", "moco": "MoCo", "byol": "BYOL"} | {
    "deepcluster": "DeepCluster-v2",
    "hnssl": "HNSSL",
    "gan": "GAN",
}  # as the papers write them
VIEW_COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)

_RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.4,
    "hatch.linewidth": 0.5,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "svg.hashsalt": "hardlab",  # ids in the file are hashes of the drawing, not of the clock
    "svg.fonttype": "path",  # the same letters where DejaVu is not installed
}


@contextmanager
def applied() -> Iterator[None]:
    """Apply this style alone inside the context; the caller's settings of matplotlib are restored afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)  # type: ignore[arg-type]
        yield


def new(
    height: float, columns: int = 1, rows: int = 1, widths: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """Make a figure of text width, with its axes row by row. height: inches. widths: of the columns, relative."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, list(np.ravel(figure.subplots(rows, columns, width_ratios=widths)))


def caption(figure: Figure, text: str) -> None:
    """Write small text under the axes: rung, data, seeds, and the meaning of the bands. Long lines are broken."""
    lines = [part for line in text.split("\n") for part in even(line, LETTERS)]
    figure.supxlabel("\n".join(lines), fontsize=7, color=GREY)


def even(text: str, width: int) -> list[str]:
    """Break text into as few lines as the width allows, of similar length, between the parts of a list if possible."""
    if len(text) <= width:
        return [text]
    text = re.sub(r"\((\d+) (epochs?\))", "(\\1\N{NO-BREAK SPACE}\\2", text)
    parts = text.split(" \N{MIDDLE DOT} ")
    if max(map(len, parts)) <= 0.75 * width:  # longer parts would leave short lines before them
        text = "\N{NO-BREAK SPACE}\N{MIDDLE DOT} ".join(p.replace(" ", "\N{NO-BREAK SPACE}") for p in parts)
    least = min(width, max(width // 2, *map(len, text.split(" "))))
    wrapped = {w: textwrap.wrap(text, w, break_on_hyphens=False) for w in range(least, width + 1)}
    even_lines = next(lines for lines in wrapped.values() if len(lines) == len(wrapped[width]))
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in even_lines]


def placeholder(title: str, missing: str) -> Figure:
    """A figure without data: its title, and what is missing."""
    figure, (ax,) = new(1.6)
    ax.set_title(title)
    gap(ax, missing)
    caption(figure, "no run of ours")
    return figure


def gap(ax: Axes, text: str) -> None:
    """Mark axes as not measured, without inventing a value."""
    ax.set(xticks=[], yticks=[])
    ax.patch.set(hatch="////", edgecolor=LIGHT, facecolor="white")
    ax.text(
        0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=GREY, fontsize=7,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 3},
    )  # fmt: skip


def series(ax: Axes, frame: pd.DataFrame, x: str, y: str, colour: str, label: str, line: str = "-") -> None:
    """Plot the mean over seeds, each seed as a thin line, and from ``BANDED`` seeds the 95 % t-interval as a band."""
    rows = [(at, *interval(group[y])) for at, group in frame.groupby(x, sort=True)]
    at, mean, lo, hi, n = np.array(rows, dtype=float).T
    if n.max() >= BANDED:
        banded = n >= BANDED
        lo, hi = (np.where(banded, limit, np.nan) for limit in (lo, hi))
        ax.fill_between(at, lo, hi, color=colour, alpha=0.18, linewidth=0)
        # a band between so few points shows little, and a point whose neighbours have none has no band
        next_to_band = np.append(banded[1:], False) | np.append(False, banded[:-1])
        bar = banded if len(at) <= 3 else banded & ~next_to_band
        if bar.any():
            ends = (mean[bar] - lo[bar], hi[bar] - mean[bar])
            ax.errorbar(at[bar], mean[bar], ends, fmt="none", ecolor=colour, elinewidth=0.8, capsize=2)
    if n.max() > 1:
        few = "." if len(at) <= 3 else ""  # single points have no line
        for _, run in frame.groupby("run", sort=True):
            ax.plot(run[x], run[y], color=colour, linewidth=0.5, alpha=0.45, linestyle=line, marker=few, markersize=3)
    marker = "o" if len(at) <= 12 else ""
    ax.plot(at, mean, color=colour, label=label, linestyle=line, marker=marker, markersize=2.5)


def bands(frame: pd.DataFrame) -> str:
    """What the bands of ``series`` are, for a caption; frame: the rows that are drawn."""
    seeds = frame.groupby(["setting", "recipe"])["seed"].nunique()
    if not len(seeds) or seeds.min() >= BANDED:
        return "bands: 95 % t-intervals over seeds"
    if seeds.max() >= BANDED:
        return "bands: 95 % t-intervals of three seeds or more, thin lines: seeds"
    return "thin lines: seeds, too few for a band" if seeds.max() > 1 else "one seed: no band"


def legend(ax: Axes, bottom: float, values: Iterable[float], lines: int, columns: int = 2) -> None:
    """Set limits that show ``values`` from ``bottom`` on, with room above them for a legend of ``lines`` lines."""
    highest = max(values)
    ax.set_ylim(bottom, bottom + 1.08 * (highest - bottom) / (1 - 0.12 * lines))
    ax.legend(loc="upper left", ncols=columns, columnspacing=1, handlelength=1.4, borderaxespad=0.2).set_in_layout(
        False
    )


def legend_above(figure: Figure, columns: int = 3) -> None:
    """Put one legend above all axes, with every label once."""
    handles = {
        label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns, columnspacing=1.5)


def about(frame: pd.DataFrame) -> str:
    """Rung, methods, data, seeds and, if the rows have them, epochs, as text for a caption; that there are no rows."""
    if not len(frame):
        return "no finished run of ours"
    seeds = sorted(frame["seed"].unique())
    groups = frame.groupby(["setting", "recipe"])["seed"].nunique()  # some arms may lack seeds that others have
    count = f"{groups.min()} to {groups.max()}" if groups.min() < groups.max() else f"{len(seeds)}"
    seeds_in_words = f"{count} seeds ({', '.join(map(str, seeds))})" if len(seeds) > 1 else f"one seed ({seeds[0]})"
    *most, last = [METHODS.get(m, m) for m in sorted(frame["method"].unique(), reverse=True)]
    methods = f"{', '.join(most)} and {last}" if most else last
    # some arms may have been trained for longer than others; left out if the epochs of one are unknown
    has_epochs = "epochs" in frame and "epoch" not in frame and frame["epochs"].notna().all()
    epochs = sorted(frame["epochs"].unique()) if has_epochs else []
    length = f" · epochs: {', '.join(f'{e:.0f}' for e in epochs)}" if epochs else ""
    data = _one(frame, "data")
    if len(epochs) > 1 and frame["data"].nunique() > 1 and (frame.groupby("data")["epochs"].nunique() == 1).all():
        groups = frame.drop_duplicates("data").sort_values("data")[["data", "epochs"]].itertuples(index=False)
        data, length = ", ".join(f"{name} ({n:.0f} epoch{'s' * (n > 1)})" for name, n in groups), ""
    return f"rung {_one(frame, 'rung')} · {methods} on {data} · {seeds_in_words}{length}{precisions(frame)}"


def precisions(frame: pd.DataFrame) -> str:
    """The precision of each recipe, as text for a caption, if the rows differ in it; else "".

    A recipe in several precisions is told with its epochs, if the rows have them.
    """
    if "precision" not in frame:
        return ""
    rows = frame[frame["precision"].ne("")]
    recipes = rows.groupby("precision")["recipe"].unique()
    if len(recipes) < 2:
        return ""
    usual, *others = sorted(recipes.index, key=lambda p: (-len(recipes[p]), p))

    def told(recipe: str, precision: str) -> str:
        if recipe not in recipes[usual] or "epochs" not in rows or "epoch" in rows:
            return recipe
        its = rows[rows["recipe"].eq(recipe) & rows["precision"].eq(precision)]
        return f"{recipe} ({', '.join(f'{e:.0f}' for e in sorted(its['epochs'].dropna().unique()))} epochs)"

    groups = [f"in {other}: {', '.join(told(r, other) for r in sorted(recipes[other]))}" for other in others]
    return f" · in {usual}, but {' and '.join(groups)}"


def _one(frame: pd.DataFrame, column: str) -> str:
    return ", ".join(sorted(frame[column].unique()))


def dots(ax: Axes, at: float, values: pd.Series, colour: str, label: str) -> None:
    """Plot the values of seeds side by side and their mean as a horizontal bar.

    From ``BANDED`` seeds its interval is a vertical line.
    """
    mean, lo, hi, n = interval(values)
    if n >= BANDED:
        ax.plot([at, at], [lo, hi], color=colour, linewidth=1.2)
    ax.plot([at - 0.09, at + 0.09], [mean, mean], color=colour, linewidth=1.6, label=label)
    spread = np.linspace(-0.05, 0.05, n) if n > 1 else np.zeros(1)
    ax.plot(at + spread, values, "o", color=colour, markersize=2.6, markeredgecolor="white", markeredgewidth=0.3)

"""Comparison across the papers: which images of one batch each system finds hard, and whether they agree.

No paper has these figures.
"""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hardlab.analysis.arms import ROSTER, SYSTEMS
from hardlab.analysis.intervals import interval
from hardlab.figures import style

# dark to light in every colour vision, and in grey
PERCENTILES, AGREEMENT = "cividis", "Blues"
NAMES = SYSTEMS | {name: style.METHODS[name] for name in ROSTER if name not in SYSTEMS}
MISSING = "no finished runs of two of the five\nsystems on the same images"
MARK = "–"
AXIS = "percentile of an image's loss within the batch, 0 (easy) to 100 (hard)"


def hardness(hardness: pd.DataFrame, hardness_pixels: np.ndarray | None) -> Figure:
    """Draw the loss percentile of each image of a batch under each method, easiest image first."""
    if not len(hardness):
        return style.placeholder("Same image, five methods", MISSING)
    names, count = _rows(hardness), int(hardness["tile"].max()) + 1
    first, last = 1.15, 1.15 + len(names)
    figure = Figure(figsize=(style.WIDTH, 0.27 * (last + 3.2) + 0.75), layout="constrained")
    ax = figure.subplots()
    ax.set(
        xlim=(0, count),
        ylim=(last + 1.15, 0),
        aspect="equal",
        title="Same image, five methods and their bases: loss percentiles",
    )
    if hardness_pixels is not None:
        ax.imshow(hardness_pixels, extent=(0, count, 1, 0), interpolation="nearest", aspect="equal")
    for line in range(1, count):
        ax.plot([line, line], [0, 1], color="white", linewidth=1)
    widths = []
    means = {}
    for at, name in enumerate(names):
        rows = hardness[hardness["recipe"] == name]
        if not len(rows):
            _no_run(ax, 0, first + at, count, 1)
            continue
        per_run = rows.pivot_table(index="tile", columns="run", values="percentile")
        means[name] = per_run.mean(axis=1).to_numpy()
        widths.append(_half(rows))
        _cells(ax, first + at, means[name])
    _cells(ax, last + 0.15, np.mean(list(means.values()), axis=0))
    ax.set_xlim(0, count)
    ax.set_yticks(
        [0.5, *(first + at + 0.5 for at in range(len(names))), last + 0.65],
        ["image", *(NAMES[name] for name in names), "all"],
    )
    labels = hardness.drop_duplicates("tile").sort_values("tile")["label"].fillna("")
    ax.set_xticks(np.arange(count) + 0.5, labels, rotation=90)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    about = hardness.iloc[0]
    style.caption(
        figure,
        f"{AXIS}\n{count} of {about['images']:.0f} images, from the lowest mean to the highest; {about['draws']:.0f} "
        f"draws of each method's views\n{_about(hardness)} · 95 % of a number: ±{np.median(widths):.0f} in the median",
    )
    return figure


def transfer(transfer: pd.DataFrame) -> Figure:
    """Draw the rank correlation of mean loss percentiles between every two methods, and its ceiling."""
    if not len(transfer):
        return style.placeholder("Does hardness transfer?", MISSING)
    names = _rows(transfer)
    figure = Figure(figsize=(style.WIDTH, 0.37 * len(names) + 1.2), layout="constrained")
    ax = figure.subplots()
    ax.set(xlim=(0, len(names)), ylim=(len(names), 0))
    ax.set_title("Does hardness transfer? Rank correlation of the images' hardness")
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            _agreement(ax, transfer, a, b, i, j)
    ax.set_xticks(np.arange(len(names)) + 0.5, [NAMES[n] for n in names])
    ax.set_yticks(np.arange(len(names)) + 0.5, [NAMES[n] for n in names])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    seeds = transfer[~_same(transfer)].groupby(["recipe", "other"]).size()
    many = seeds.max() >= style.BANDED
    method = "t-interval over seeds, by Fisher's z" if many else "bootstrap interval over images"
    notes = ["of one seed: bootstrap over images"] * bool(many and seeds.eq(1).any())
    notes += ["of two: none"] * bool(seeds.eq(2).any())
    method += f"\n({'; '.join(notes)})" if notes else ""
    remark = ", and s: rho of two seeds" if (transfer["run"].ne(transfer["other_run"]) & _same(transfer)).any() else ""
    style.caption(
        figure,
        f"below the diagonal: Spearman's rho ± half its 95 % {method}\nabove: its ceiling, the root of the product of "
        f"both reliabilities\non it: reliability (odd against even draws){remark}\n"
        f"{_about(transfer)} · {transfer['images'].iloc[0]:.0f} images · {MARK} no two runs of one seed",
    )
    return figure


def _rows(frame: pd.DataFrame) -> list[str]:
    """The recipes to show: the five systems, whether run or not, and the others that were run."""
    run = set(frame["recipe"]) | set(frame.get("other", ()))
    return [name for name in ROSTER if name in SYSTEMS or name in run]


def _about(frame: pd.DataFrame) -> str:
    """Rung, data and seeds for a caption; the rows name the methods."""
    seeds = sorted(frame["seed"].unique())
    seeds_by_recipe = frame.groupby("recipe")["seed"].nunique()  # some methods may lack seeds that others have
    count = (
        f"{seeds_by_recipe.min()} to {seeds_by_recipe.max()} " if seeds_by_recipe.min() < seeds_by_recipe.max() else ""
    )
    seeds_in_words = f"{count}seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    return f"rung {frame['rung'].iloc[0]} · {frame['data'].iloc[0]} · {seeds_in_words}{style.precisions(frame)}"


def _same(transfer: pd.DataFrame) -> pd.Series:
    return transfer["recipe"] == transfer["other"]


def _half(rows: pd.DataFrame) -> float:
    """Half of a cell's 95 % interval over seeds, or over draws if there is one seed; the median over the images."""
    if rows["run"].nunique() > 1:
        intervals = [interval(group) for _, group in rows.groupby("tile")["percentile"]]
        return float(np.median([(i.hi - i.lo) / 2 for i in intervals]))
    return float(np.median(1.96 * rows["sd"] / np.sqrt(rows["draws"])))


def _cells(ax: Axes, top: float, values: np.ndarray) -> None:
    """Draw a line of coloured squares with their numbers."""
    colours = matplotlib.colormaps[PERCENTILES]
    for at, value in enumerate(values):
        ax.add_patch(Rectangle((at, top), 1, 1, facecolor=colours(value / 100), edgecolor="white", linewidth=0.5))
        ink = "white" if value < 55 else style.INK
        ax.text(at + 0.5, top + 0.5, f"{value:.0f}", ha="center", va="center", fontsize=7, color=ink)


def _no_run(ax: Axes, left: float, top: float, width: float, height: float, text: str = "no run") -> None:
    ax.add_patch(Rectangle((left, top), width, height, facecolor="white", edgecolor=style.LIGHT, hatch="////", lw=0))
    ax.text(
        left + width / 2, top + height / 2, text, ha="center", va="center", fontsize=7, color=style.GREY,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip


def _agreement(ax: Axes, transfer: pd.DataFrame, a: str, b: str, i: int, j: int) -> None:
    """Draw one square of the matrix."""
    either = {a, b}
    rows = transfer[[{r, o} == either for r, o in zip(transfer["recipe"], transfer["other"], strict=True)]]
    if not len(rows):
        _no_run(ax, j, i, 1, 1, MARK)
        return
    ink: str = style.INK
    if i == j:
        itself = rows["run"] == rows["other_run"]
        text = f"{rows.loc[itself, 'rho'].mean():.2f}"
        text += f"\ns {rows.loc[~itself, 'rho'].mean():.2f}" if not itself.all() else ""
        colour: object = style.LIGHT
    elif i < j:
        text, colour, ink = f"{rows['ceiling'].mean():.2f}", "white", style.GREY
    else:
        # a correlation has an end at 1, its Fisher z has none
        mean, lo, hi = (float(np.tanh(z)) for z in interval(np.arctanh(rows["rho"]))[:3])
        if len(rows) == 1:
            lo, hi = rows[["lo", "hi"]].iloc[0]
        half = f"\n±{(hi - lo) / 2:.2f}" if len(rows) == 1 or len(rows) >= style.BANDED else ""
        text = f"{mean:.2f}{half}".replace("-", "\N{MINUS SIGN}")
        colour = matplotlib.colormaps[AGREEMENT](0.75 * max(0.0, mean))
        ink = "white" if mean > 0.75 else style.INK
    ax.add_patch(Rectangle((j, i), 1, 1, facecolor=colour, edgecolor=style.LIGHT, linewidth=0.5))
    ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=7, color=ink, linespacing=1.1)

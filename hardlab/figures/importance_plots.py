"""Pictures of importances and predictions over logged pairs, on axes that the caller makes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hardlab.figures import style
from hardlab.figures.plots import COLOURS, LINES

FLOOR = 0.01  # per cent: smaller shares lie below a logarithmic axis
PUBLISHED = 40  # per cent of images that trees predict at most; HVS paper, Sec. 5.2


def bars(ax: Axes, shares: pd.DataFrame) -> None:
    """Draw the share of each single parameter of ``importance.importance``, with its one or two intervals."""
    alone = shares[shares["order"] == 1].sort_values("share")
    ax.barh(alone["effect"], 100 * alone["share"], color=style.BLUE)
    kinds = [("lo", "hi", 0.15, style.INK, "trees"), ("boot_lo", "boot_hi", -0.15, style.RED, "images")]
    for lo, hi, shift, colour, over in [kind for kind in kinds if kind[0] in alone]:
        y = np.arange(len(alone)) + shift
        ax.hlines(y, 100 * alone[lo], 100 * alone[hi], color=colour, label=f"95 % over {over}")
    ax.set_xlabel("share of the loss's variance (%)")
    ax.legend(loc="lower right")


def square(ax: Axes, shares: pd.DataFrame) -> None:
    """Draw the shares of single parameters on the diagonal and those of pairs below it, on a logarithmic scale."""
    names = list(shares.loc[shares["order"] == 1, "effect"])
    grid = np.full((len(names), len(names)), np.nan)
    for row in shares.itertuples():
        first, *second = [names.index(name) for name in str(row.effect).split(" x ")]
        grid[(second or [first])[0], first] = 100 * float(row.share)
    with np.errstate(invalid="ignore", divide="ignore"):
        ax.imshow(np.where(grid > 0, np.log10(grid), np.nan), cmap="viridis", vmin=-2, vmax=2)
    for (i, j), value in np.ndenumerate(grid):
        if j <= i:
            ax.text(j, i, f"{value:.2g}", ha="center", va="center", fontsize=7, color="white" if value < 3 else "black")
    ax.set_xticks(range(len(names)), names, rotation=40, ha="right")
    ax.set_yticks(range(len(names)), names)
    ax.set_title("share (%): alone on the diagonal, in pairs below it", fontsize=9)


def lines(ax: Axes, spread: pd.DataFrame, by: str, label: str) -> None:
    """Draw the mean share of each name over ``by``, with a band from the lowest to the highest run.

    spread: as ``pairs.by_leaf`` and ``pairs.by_epoch`` return. Shares below ``FLOOR`` are out of sight.
    """
    for n, (name, rows) in enumerate(spread.groupby("name", sort=False)):
        again, k = divmod(n, len(COLOURS))  # a colour that comes again has other dashes
        colour, dashes = COLOURS[k], LINES[(k + again) % len(LINES)]
        at = rows[by].to_numpy(float)
        ax.plot(at, 100 * rows["mean"], marker="o", markersize=3, color=colour, linestyle=dashes, label=str(name))
        ax.fill_between(at, 100 * rows["min"], 100 * rows["max"], color=colour, alpha=0.15, linewidth=0)
    ax.set(yscale="log", ylim=(FLOOR, 100), xlabel=label, ylabel="share of the variance (%)")
    if by == "leaf":
        ax.set_xscale("log")
    ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))


def predicted(ax: Axes, accuracies: pd.DataFrame, seeds: Sequence[int]) -> None:
    """Draw how often the chosen pair is predicted on each held-out seed, by trees, by the rule, and by chance.

    accuracies: as ``predict.predictability`` returns; without rows, of a single seed, the gap is marked.
    """
    if not len(accuracies):
        style.gap(ax, "one seed: none to hold out\nand learn from others")
        return
    for shift, name in enumerate(("accuracy", "lowest_iou", "chance")):
        ax.bar(np.arange(len(accuracies)) + 0.27 * shift, 100 * accuracies[name], 0.25, label=name)
    ax.axhline(PUBLISHED, color=style.INK, linestyle="--", linewidth=0.8, label=f"paper: at most {PUBLISHED} %")
    ax.set(ylabel="images predicted (%)")
    ax.set_xticks(range(len(accuracies)), [f"seed {seed}" for seed in seeds])
    ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))

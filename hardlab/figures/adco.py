"""The figures and tables of AdCo (arXiv 2011.08435)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from hardlab.analysis import arms
from hardlab.analysis.arms import Arm, Selection, linear
from hardlab.analysis.gap_notes import gap
from hardlab.analysis.intervals import interval
from hardlab.figures import plots, style
from hardlab.figures.paper import published

LINEAR = linear("linear-adco")
SIDES = {"negative": "negative to its nearest query", "query": "query to its nearest negative"}  # of a distance


def f1(evaluation: pd.DataFrame, configs: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """AdCo Figure 1: accuracy over the length of training; each point is a run such as `adco epochs=20`, evaluated."""
    named = (("AdCo", "adco"), ("MoCo v2", "adco-queue"))
    ours, printed = Selection(("adco", "adco-queue"), evaluation, configs), published(paper, "adco", "Figure 1")
    stated = "stated: AdCo leads by 5 points at 10 epochs · "
    return plots.lengths(ours, named, LINEAR, printed, "ImageNet", remark=stated)


def f2(adco_f2: pd.DataFrame, negatives: pd.DataFrame, configs: pd.DataFrame) -> Figure:
    """AdCo Figure 2: negatives and the queries of the last six batches by t-SNE, and the share of outliers."""
    figure, axes = style.new(3.0, 2)
    kinds = adco_f2["run"].map(adco_f2.dropna(subset=["distance"]).groupby("run")["kind"].nunique()).fillna(0)
    both_sides = adco_f2[kinds == kinds.groupby(adco_f2["recipe"]).transform("max")]  # older runs have one side alone
    layout_runs = plots.strongest(both_sides, ["adco", "adco-queue", "moco"], configs)
    drawn: list[pd.DataFrame] = []
    last = negatives[negatives["step"] == negatives.groupby("run")["step"].transform("max")]
    for ax, (name, recipes) in zip(axes, (("AdCo", ("adco",)), ("MoCo v2", ("adco-queue", "moco"))), strict=True):
        ax.set_title(name)
        ax.set_aspect("equal", adjustable="datalim")
        pictured = layout_runs[layout_runs["recipe"] == arms.preferred(recipes, layout_runs)]
        if not len(pictured):
            gap(Arm(recipes[0]).command("cpu"))
            style.gap(ax, f"no finished run of\n{' or '.join(recipes)}\nwith snapshots")
            continue
        drawn.append(pictured)
        laid_out = pictured.dropna(subset=["x"])  # of each arm the first seed
        first = laid_out[laid_out["run"] == arms.first(laid_out if len(laid_out) else pictured)["run"]]
        for kind, colour, marker, label in (
            ("query", style.ORANGE, "o", "queries of six batches"), ("negative", style.BLUE, "x", "negatives"),
        ):  # fmt: skip
            part = first[first["kind"] == kind]
            ax.scatter(part["x"], part["y"], s=5, marker=marker, color=colour, linewidth=0.6, alpha=0.7, label=label)
        ax.set(xticks=[], yticks=[])
        notes = []
        for kind, between in SIDES.items():
            distances = pictured[pictured["kind"] == kind].groupby("run")["distance"].mean().dropna()
            notes.append(f"{between}: {_with_half(distances, 3) if len(distances) else 'not measured'}")
        scores = last[last["run"].isin(pictured["run"])]
        if len(scores):
            notes.append(
                f"outliers: {_with_half(100 * scores['share'], 1)} % (chance {100 * scores['chance'].iloc[0]:g} %)"
            )
        ax.set_xlabel("\n".join(notes), fontsize=7)
    if any(ax.get_legend_handles_labels()[0] for ax in axes):
        style.legend_above(figure)
    plots.add_caption(
        figure,
        plots.with_lengths(pd.concat(drawn) if drawn else layout_runs, configs),
        "ours at CIFAR scale; layout of the first seed by t-SNE · numbers: mean of 1 minus cosine; negatives farther\n"
        "from all queries than 95 % of queries are from all others; ± half the 95 % t-interval over seeds",
    )
    return figure


def _with_half(values: pd.Series, digits: int) -> str:
    """The mean over seeds and half of its 95 % interval, as text."""
    mean, lo, hi, n = interval(values)
    return f"{mean:.{digits}f}" + (f" ± {(hi - lo) / 2:.{digits}f}" if n > 1 else "")

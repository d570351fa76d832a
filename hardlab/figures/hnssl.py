"""The figures and tables of HNSSL (CVPR-W 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from hardlab.analysis.arms import LINEAR, Book, at_home, one_protocol
from hardlab.analysis.intervals import interval
from hardlab.figures import plots, style
from hardlab.registry import options

ARMS = (
    ("w/ HNPM, student blocked", "hnssl"),
    ("w/o HNPM, student blocked", "hnssl-unmined"),
    ("w/ HNPM, student gradient", "hnssl-student-gradient"),
)


def f1() -> Figure:
    """HNSSL Figure 1: the two networks, the images that each sees, and the two terms of the loss."""
    figure, (ax,) = style.new(2.9)
    method, mined = options("method", "hnssl"), options("strategy", "mined")
    tau, a1 = method["tau"].default, method["alpha1"].default
    a2, threshold = mined["alpha2"].default, mined["threshold"].default
    hard = f"hard negatives\nd$_{{ij}}$ $\\leq$ {threshold:g}:\n$-${a2:g} log $\\Sigma$ d$_{{ij}}$"
    box = plots.Box
    boxes = {
        "x": box(0.07, 0.5, "image x", width=0.12),
        "a": box(0.26, 0.8, "augmented\nA(x)", "#CFE6F5", width=0.15, height=0.19),
        "t": box(0.46, 0.8, "teacher T\n(trained)", "#CFE6F5", height=0.19),
        "s": box(0.46, 0.2, "student S\n(average of T)", "#FBE5C0", height=0.19, width=0.19),
        "u": box(0.67, 0.8, "U / max|U|", "#CFE6F5", width=0.15),
        "v": box(0.67, 0.2, "U' / max|U'|", "#FBE5C0", width=0.15),
        "d": box(0.67, 0.5, "d$_{ij}$ = ||u'$_i$ $-$ u$_j$||$^2$", width=0.2),
        "l1": box(0.9, 0.66, f"positives\n{a1:g} mean d$_{{ii}}$", "#D5EFE3", height=0.2),
        "l2": box(0.9, 0.34, hard, "#F6D9CB", height=0.27),
    }  # fmt: skip
    plots.scheme(
        ax,
        boxes,
        [
            ("a", "t", "", "-"),
            ("t", "u", "", "-"),
            ("s", "v", "", "--"),
            ("u", "d", "", "-"),
            ("v", "d", "", "--"),
            ("t", "s", f"average,\n$\\tau$ = {tau:g}", "--"),
            ("d", "l1", "", "-"),
            ("d", "l2", "", "-"),
            ("x", "a", "", "-"),
            ("x", "s", "", "--"),
        ],
    )
    style.caption(
        figure,
        "HNSSL, Figure 1, from the options of method hnssl and strategy mined\n"
        "dashed: no gradient · the student sees the image without augmentation (Eq. 1)",
    )
    return figure


def f2(epochs: pd.DataFrame, configs: pd.DataFrame) -> Figure:
    """HNSSL Figure 2: the loss of three arms over training."""
    figure, (ax,) = style.new(2.9)
    ax.set(xlabel="epochs of training", ylabel="training loss, both terms")
    rows = plots.strongest(epochs[epochs["name"] == "objective"], [r for _, r in ARMS], configs)
    drawn = plots.curves(ax, _done(rows), ARMS)
    return _with_caption(figure, drawn)


def _done(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the table of epochs, which counts from 0, numbered by epochs done, as checkpoints are."""
    return rows.assign(epoch=rows["epoch"] + 1)


def _with_caption(figure: Figure, drawn: pd.DataFrame, by: str = "", judged: Sequence[str] = ()) -> Figure:
    """Add the legend and the caption of both curves. by: the probe. judged: lines on claims."""
    if len(drawn):
        style.legend_above(figure, columns=2)
    plots.add_caption(
        figure,
        drawn,
        "ours at CIFAR scale; the published curve (ResNet-200 2x, ImageNet) has no numbers\n"
        + " · ".join(text for text in (by, style.bands(drawn)) if text),
        "\n".join(judged),
    )
    return figure


CLAIMS = ("hnssl-mining-accuracy", "hnssl-gradient-accuracy")  # of the arms of Figure 3, with all seeds


def f3(
    epochs: pd.DataFrame,
    curves: pd.DataFrame,
    configs: pd.DataFrame,
    evaluation: pd.DataFrame,
    verdicts: pd.DataFrame,
) -> Figure:
    """HNSSL Figure 3: the accuracy of three arms over training, and of the network that they began as."""
    figure, (ax,) = style.new(2.9)
    names = [r for _, r in ARMS]
    rows = curves[curves["protocol"].str.startswith("linear", na=False) & curves["metric"].isin(["top1-last", "top1"])]
    rows = at_home(rows)
    rows = rows[rows["classifier_epoch"].isna() & ~rows["features"].isin(["pixels", "student"])]
    rows = rows[rows.groupby("run")["epoch"].transform("nunique") > 1]  # one checkpoint is no curve
    rows, ylabel = plots.strongest(rows, names, configs), "linear top-1 (%)"
    rows = one_protocol(rows)
    monitor = plots.strongest(epochs[epochs["name"] == "knn"], names, configs)
    if monitor["recipe"].nunique() > rows["recipe"].nunique():  # the monitor of training stands in
        rows, ylabel = _done(monitor), "kNN top-1 (%), monitor"
    ax.set(xlabel="epochs of training", ylabel=ylabel if len(rows) else "linear top-1 (%)")
    drawn = plots.curves(ax, rows.assign(value=100 * rows["value"].astype(float)), ARMS, protocol=LINEAR[0])
    began = evaluation[evaluation["run"].isin(Book.of_configs(configs).untrained(drawn["run"]))]
    first_rows = drawn.iloc[:1] if "protocol" in drawn else drawn.iloc[:0]  # the monitor has no row of it
    began = began.merge(first_rows[["protocol", "metric", "options"]]) if len(first_rows) else began.iloc[:0]
    began = at_home(began[began["features"] == "backbone"])
    if len(began):
        value, lo, hi, n = interval(100 * began["value"].astype(float))
        label = f"untrained, {n} seed{'s' * (n > 1)}"
        if n >= style.BANDED:
            ax.axhspan(lo, hi, color=style.GREY, alpha=0.18, linewidth=0)
            label += ", band: 95 % t-interval"
        ax.axhline(value, color=style.INK, linewidth=0.7, linestyle=(0, (1, 2)), label=label)
    judged = [text for name in CLAIMS if (text := plots.verdict(verdicts, name, configs))]
    return _with_caption(figure, plots.with_lengths(drawn, configs), plots.probes(drawn), judged)

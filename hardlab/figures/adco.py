"""The figures and tables of AdCo (arXiv 2011.08435)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from hardlab.analysis.intervals import interval
from hardlab.figures import plots, style
from hardlab.figures.pick import Arm, Measure, Ours, gap, linear, measured, published
from hardlab.figures.table import built_in, column, named, table

STARS = "* with small crops"
LINEAR = linear("linear-adco", head="own data")
OURS = {
    name: Arm(recipe)
    for name, recipe in (
        ("Supervised", "supervised"), ("SimCLR", "simclr"), ("MoCo v2", "adco-queue"), ("BYOL", "byol"),
        ("BYOL**", "byol"), ("AdCo", "adco"), ("AdCo*", "adco-multicrop"),
    )
}  # fmt: skip
# of these the longest of several trainings stands in Table 3
LONG = OURS | {name: OURS[name]._replace(budget=-1) for name in ("MoCo v2", "AdCo", "AdCo*")}


def f1(evaluation: pd.DataFrame, configs: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """AdCo Figure 1: accuracy over the length of training; a point is `hardlab pretrain adco epochs=20`, evaluated."""
    figure, (ax, right) = style.new(2.6, 2)
    ax.set(title="ours", xlabel="epochs of training", ylabel="linear top-1 (%)")
    right.set(title="published, ImageNet", xlabel="epochs of training")
    ours = Ours(("adco", "adco-queue"), evaluation, configs)
    values: dict[str, dict[float, float]] = {"AdCo": {}, "MoCo v2": {}}
    for (name, epochs), value in published(paper, "adco", "Figure 1").items():
        if name in values:
            values[name][float(epochs)] = float(value)
    plots.budgets(ax, ours, (("AdCo", "adco"), ("MoCo v2", "adco-queue")), LINEAR, (right, values))
    style.legend_above(figure)
    plots.told(
        figure,
        ours.frame,
        "ours at CIFAR scale, a training of its own for each point · open diamonds: points whose number is stated\n"
        "stated: AdCo leads by 5 points at 10 epochs · bands: 95 % t-intervals over seeds",
    )
    return figure


def f2(adco_f2: pd.DataFrame, negatives: pd.DataFrame, configs: pd.DataFrame) -> Figure:
    """AdCo Figure 2: negatives and the queries of the last six batches by t-SNE, and the share of outliers."""
    figure, axes = style.new(3.0, 2)
    shown = plots.strongest(adco_f2, ["adco", "adco-queue", "moco"], configs)
    last = negatives[negatives["step"] == negatives.groupby("run")["step"].transform("max")]
    for ax, (name, recipes) in zip(axes, (("AdCo", ("adco",)), ("MoCo v2", ("adco-queue", "moco"))), strict=True):
        ax.set_title(name)
        ax.set_aspect("equal", adjustable="datalim")
        found = [r for r in recipes if (shown["recipe"] == r).any()]
        if not found:
            gap(Arm(recipes[0]).command("cpu"))
            style.gap(ax, f"no finished run of\n{' or '.join(recipes)}\nwith snapshots")
            continue
        mine = shown[shown["recipe"] == found[0]]
        first = mine[mine["run"] == mine.sort_values(["seed", "run"])["run"].iloc[0]]
        for kind, colour, marker, label in (
            ("query", style.ORANGE, "o", "queries of six batches"), ("negative", style.BLUE, "x", "negatives"),
        ):  # fmt: skip
            part = first[first["kind"] == kind]
            ax.scatter(part["x"], part["y"], s=5, marker=marker, color=colour, linewidth=0.6, alpha=0.7, label=label)
        ax.set(xticks=[], yticks=[])
        distances = mine[mine["kind"] == "negative"].groupby("run")["distance"].mean()
        told = [f"distance to the nearest query: {_with_half(distances, 3)}"]
        scores = last[last["run"].isin(mine["run"])]
        if len(scores):
            told.append(
                f"outliers: {_with_half(100 * scores['share'], 1)} % (chance {100 * scores['chance'].iloc[0]:g} %)"
            )
        ax.set_xlabel("\n".join(told), fontsize=7)
    if any(ax.get_legend_handles_labels()[0] for ax in axes):
        style.legend_above(figure)
    plots.told(
        figure,
        shown,
        "ours at CIFAR scale; layout of the first seed by t-SNE · numbers: mean of 1 minus cosine; negatives farther\n"
        "from all queries than 95 % of queries are from all others; ± half the 95 % t-interval over seeds",
    )
    return figure


def _with_half(values: pd.Series, digits: int) -> str:
    """Mean and half of its interval over seeds."""
    mean, lo, hi, n = interval(values)
    return f"{mean:.{digits}f}" + (f" ± {(hi - lo) / 2:.{digits}f}" if n > 1 else "")


def t1(paper: pd.DataFrame, evaluation: pd.DataFrame, configs: pd.DataFrame) -> Figure:
    """AdCo Table 1: linear accuracy at 200 epochs."""
    names = (
        "InstDisc",
        "LocalAgg",
        "MoCo",
        "SimCLR",
        "CPC v2",
        "PCL v2",
        "MoCo v2",
        "MoChi",
        "PIC",
        "SWAV*",
        "AdCo",
        "AdCo*",
    )
    columns = [column("batch", "batch", Measure(config="batch_size", head="batch")), column("top-1", "", LINEAR)]
    return table(
        "AdCo, Table 1: linear top-1 after 200 epochs",
        "A",
        "adco",
        "Table 1",
        named(names, OURS, "AdCo"),
        columns,
        paper,
        evaluation,
        configs,
        note=STARS,
    )


def t2(paper: pd.DataFrame, evaluation: pd.DataFrame, configs: pd.DataFrame, costs: pd.DataFrame) -> Figure:
    """AdCo Table 2: time of an epoch."""
    names = ("MoCo v2", "BYOL", "SWAV*", "AdCo", "AdCo*")
    runs = costs.loc[costs["recipe"].isin(OURS[n].recipe for n in names if n in OURS), "run"]
    devices = configs.loc[(configs["key"] == "device") & configs["run"].isin(runs), "value"].unique()
    where = f"ours on {' and '.join(sorted(devices))}\n" if len(devices) else ""
    columns = [
        column("epochs", "epochs", Measure(config="epochs", head="epochs")),
        column("devices", "devices"),
        column(
            "device-hours per epoch",
            "device-hours an epoch",
            Measure(cost="seconds.total", head="seconds an epoch, one device"),
        ),
    ]
    return table(
        "AdCo, Table 2: time of an epoch",
        "C",
        "adco",
        "Table 2",
        named(names, OURS, "AdCo"),
        columns,
        paper,
        evaluation,
        configs,
        costs,
        note=where + STARS,
    )


def t3(paper: pd.DataFrame, evaluation: pd.DataFrame, configs: pd.DataFrame) -> Figure:
    """AdCo Table 3: linear accuracy of long trainings."""
    names = (
        "Supervised",
        "BigBiGAN",
        "SeLa",
        "PIRL",
        "CMC",
        "SimCLR",
        "PIC",
        "MoCo v2",
        "MoChi",
        "BYOL**",
        "SWAV*",
        "AdCo",
        "AdCo*",
    )
    columns = [
        column("epochs", "epochs", Measure(config="epochs", head="epochs")),
        column("batch", "batch", Measure(config="batch_size", head="batch")),
        column("top-1", "", LINEAR),
    ]
    return table(
        "AdCo, Table 3: linear top-1 after longer training",
        "A",
        "adco",
        "Table 3",
        named(names, LONG, "AdCo"),
        columns,
        paper,
        evaluation,
        configs,
        note=f"{STARS} · ** tuned over 80 epochs · of AdCo and MoCo the longest of several trainings",
    )


def t4(paper: pd.DataFrame, evaluation: pd.DataFrame, configs: pd.DataFrame) -> Figure:
    """AdCo Table 4: transfer to classification and detection."""
    names = ("Supervised", "NPID++", "MoCo", "PIRL", "PCLv2", "BoWNet", "SimCLR", "MoCo v2", "SWAV*", "AdCo", "AdCo*")
    probe = measured(("linear-adco-places", "top1-last"), head="linear")
    columns = [
        column("VOC07 mAP", "", measured(("svm", "mAP"), head="SVM", on="VOC07")),
        column("Places205 top-1", "Places205", probe._replace(on="Places205")),
        *built_in(probe),
        column(
            "VOC detection AP50", "VOC AP50", measured(("detection-voc", "AP50"), ("detection", "AP50"), head="scenes")
        ),
        column("COCO AP", "", measured(("detection", "AP"), head="scenes")),
        column("COCO AP small", "COCO AP$_S$", measured(("detection", "AP_S"), head="scenes")),
    ]
    return table(
        "AdCo, Table 4: transfer",
        "X",
        "adco",
        "Table 4",
        named(names, OURS, "AdCo"),
        columns,
        paper,
        evaluation,
        configs,
        note=f"{STARS} · AdCo's VOC07 value averages precision per image, the other rows' per class",
    )

"""The figures and tables of HNSSL (CVPR-W 2023)."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from hardlab.figures import plots, style
from hardlab.figures.pick import Arm, Measure, at_home, linear, measured
from hardlab.figures.table import Column, Row, built_in, column, named, row, table
from hardlab.registry import options

ARMS = (
    ("w/ HNPM, student blocked", "hnssl"),
    ("w/o HNPM, student blocked", "hnssl-unmined"),
    ("w/ HNPM, student gradient", "hnssl-student-gradient"),
)
TOP = (linear("linear-hnssl", head="own data"), linear("linear-hnssl", head="own data", metric="top5"))
SETS = {"Food101": "Food101", "CIFAR-10": "CIFAR-10", "SUN397": "SUN397", "Cars": "Cars", "Pets": "Pets"} | {
    "VOC 2007": "VOC07", "Flowers": "Flowers102",
}  # fmt: skip


def f1() -> Figure:
    """HNSSL Figure 1: the two networks, what each sees, and the two terms."""
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
    figure, (ax,) = style.new(2.5)
    ax.set(xlabel="epochs of training", ylabel="training loss")
    rows = plots.strongest(epochs[epochs["name"] == "loss"], [r for _, r in ARMS], configs)
    drawn = plots.curves(ax, _done(rows), ARMS)
    return _told(figure, drawn)


def _done(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the table of epochs, which counts from 0: by epochs done, as checkpoints are named."""
    return rows.assign(epoch=rows["epoch"] + 1)


def _told(figure: Figure, drawn: pd.DataFrame) -> Figure:
    """With the legend and the caption of both curves."""
    if len(drawn):
        figure.axes[0].legend(loc="best")
    plots.told(
        figure,
        drawn,
        "ours at CIFAR scale; the published curve (ResNet-200 2x, ImageNet) has no numbers\n"
        "bands: 95 % t-intervals over seeds",
    )
    return figure


def f3(epochs: pd.DataFrame, curves: pd.DataFrame, configs: pd.DataFrame) -> Figure:
    """HNSSL Figure 3: the accuracy of three arms over training."""
    figure, (ax,) = style.new(2.5)
    names = [r for _, r in ARMS]
    rows = curves[curves["protocol"].str.startswith("linear", na=False) & curves["metric"].isin(["top1-last", "top1"])]
    rows = at_home(rows)
    rows = rows[rows["classifier_epoch"].isna() & ~rows["features"].isin(["pixels", "student"])]
    rows = rows[rows.groupby("run")["epoch"].transform("nunique") > 1]  # one checkpoint is no curve
    rows, what = plots.strongest(rows, names, configs), "linear top-1 (%)"
    rows = rows[rows["protocol"] == rows["protocol"].min()]
    monitor = plots.strongest(epochs[epochs["name"] == "knn"], names, configs)
    if monitor["recipe"].nunique() > rows["recipe"].nunique():  # the monitor of training stands in
        rows, what = _done(monitor), "kNN top-1 (%), monitor"
    ax.set(xlabel="epochs of training", ylabel=what if len(rows) else "linear top-1 (%)")
    drawn = plots.curves(ax, rows.assign(value=100 * rows["value"].astype(float)), ARMS, protocol="linear")
    return _told(figure, drawn)


def t1(paper: pd.DataFrame, evaluation: pd.DataFrame, configs: pd.DataFrame) -> Figure:
    """HNSSL Table 1: linear evaluation, ResNet-50."""
    names = ("CPCv2", "CMC", "SimCLR", "MoCov2", "SimCLRv2", "InfoMin Aug.", "BYOL", "SwAV", "SimSiam", "Ours")
    columns = [column(f"top-{n}", "", TOP[n > 1]) for n in (1, 5)]
    return table(
        "HNSSL, Table 1: linear evaluation, ResNet-50",
        "A",
        "hnssl",
        "Table 1",
        named(names, OURS, "Ours", SAYS),
        columns,
        paper,
        evaluation,
        configs,
        note="SwAV's 71.8 is its value without small crops",
    )


GAIN = " gain as printed"
OURS = {
    name: Arm(recipe)
    for name, recipe in (
        ("SimCLR", "simclr"), ("MoCov2", "moco"), ("BYOL", "byol"), ("SimSiam", "simsiam"),
        ("Supervised-IN", "supervised"), ("Ours", "hnssl"),
    )
}  # fmt: skip
SAYS = {"Ours": "HNSSL", "gain as printed": "gain over the best, as printed"}
# published is ResNet-50 of that width, ours the rung's network
WIDER: dict[str, dict[str, Any]] = {
    "RN50 2×": {"wider": 2},
    "RN50 4×": {"wider": 4},
    "RN200 2×": {"changes": (("backbone.name", "resnet200"), ("backbone.width", 2))},
}


def t2(paper: pd.DataFrame, evaluation: pd.DataFrame, configs: pd.DataFrame) -> Figure:
    """HNSSL Table 2: linear evaluation, wider and deeper networks."""
    names = [f"{m}, RN50 2×" for m in ("CMC", "SimCLRv2", "BYOL", "Ours")]
    names += [f"{m}, RN50 4×" for m in ("SimCLR", "BYOL", "Ours")] + [f"{m}, RN200 2×" for m in ("BYOL", "Ours")]
    columns = [column(f"top-{n}", "", TOP[n > 1]) for n in (1, 5)]
    return table(
        "HNSSL, Table 2: linear evaluation, wider networks",
        "A",
        "hnssl",
        "Table 2",
        _wider(names),
        columns,
        paper,
        evaluation,
        configs,
        note="ours: the rung's network with two and four times its channels",
    )


def _wider(names: list[str]) -> list[Row]:
    """Rows of wider networks; ours are those of the rung's network with the same factor, or the paper's own."""
    recipes = {"SimCLR": "simclr", "BYOL": "byol", "Ours": "hnssl"}
    rows = []
    for n in names:
        if n.endswith("gain as printed"):
            rows.append(row(n, says="gain over BYOL, as printed"))
            continue
        method, _, net = n.partition(", ")
        recipe = recipes.get(method, "") if net in WIDER else ""
        rows.append(row(n, recipe, n.replace("Ours", "HNSSL"), **WIDER[net] if recipe else {}))
    return rows


def _semi(prefix: str) -> list[Column]:
    return [
        column(f"{p} % top-{n}", "", measured((f"semi-hnssl-{p}", f"top{n}-last"), head=prefix))
        for p in (1, 10)
        for n in (1, 5)
    ]


def t3(paper: pd.DataFrame, evaluation: pd.DataFrame, configs: pd.DataFrame) -> Figure:
    """HNSSL Table 3: semi-supervised, ResNet-50."""
    names = ("SimCLR", "SimCLRv2", "BYOL", "Ours", "gain as printed")
    return table(
        "HNSSL, Table 3: finetuning with 1 and 10 % of the labels",
        "A",
        "hnssl",
        "Table 3",
        named(names, OURS, "Ours", SAYS),
        _semi("own data"),
        paper,
        evaluation,
        configs,
        note="the printed gains leave SimCLRv2 out, which is above HNSSL at 1 %",
    )


def t4(paper: pd.DataFrame, evaluation: pd.DataFrame, configs: pd.DataFrame, costs: pd.DataFrame) -> Figure:
    """HNSSL Table 4: semi-supervised, wider networks."""
    methods = ("SimCLR", "BYOL", "Ours")
    names = [f"{m}, RN50 {w}{g}" for w in ("2×", "4×") for m, g in (*((m, "") for m in methods), ("Ours", GAIN))]
    names += [
        "BYOL, RN200 2×",
        "Ours, RN200 2×",
        f"Ours, RN200 2×{GAIN}",
        "SimCLRv2 distilled, RN50 1×",
        "SimCLRv2 distilled, RN50 2× SK",
        "SimCLRv2 self-distilled, RN152 3× SK",
        "Ours, RN152 3× SK",
    ]
    return table(
        "HNSSL, Table 4: finetuning with few labels, wider networks",
        "A",
        "hnssl",
        "Table 4",
        _wider(names),
        [column("parameters", "param. (M)", Measure(cost="parameters", head="backbone", per=1e6)), *_semi("own data")],
        paper,
        evaluation,
        configs,
        costs,
        note="no network of ours has selective kernels (SK)",
    )


def t5(paper: pd.DataFrame, evaluation: pd.DataFrame, configs: pd.DataFrame) -> Figure:
    """HNSSL Table 5: transfer, linear."""
    probe = measured(("linear-hnssl-transfer", "top1"), *linear("linear-hnssl").rows, head="transfer")
    columns = [
        column(n, n, probe._replace(on=s) if n != "VOC 2007" else measured(("svm", "mAP"), head="SVM", on=s))
        for n, s in SETS.items()
    ]
    columns += built_in(probe)
    return _transfer("HNSSL, Table 5: transfer, linear classifier", "Table 5", columns, paper, evaluation, configs)


def t6(paper: pd.DataFrame, evaluation: pd.DataFrame, configs: pd.DataFrame) -> Figure:
    """HNSSL Table 6: transfer, fine-tuning."""
    tuned = measured(("finetune-hnssl", "top1-last"), head="transfer")
    columns = [*(column(n, n, tuned._replace(on=s)) for n, s in SETS.items()), *built_in(tuned)]
    return _transfer("HNSSL, Table 6: transfer, whole network", "Table 6", columns, paper, evaluation, configs)


def _transfer(
    title: str, item: str, columns: list[Column], paper: pd.DataFrame, evaluation: pd.DataFrame, configs: pd.DataFrame
) -> Figure:
    names = ("BYOL", "SimCLR", "Supervised-IN", "Ours")
    return table(title, "A", "hnssl", item, named(names, OURS, "Ours", SAYS), columns, paper, evaluation, configs)


def t7(paper: pd.DataFrame, evaluation: pd.DataFrame, configs: pd.DataFrame) -> Figure:
    """HNSSL Table 7: the coefficient of the average."""
    default = options("method", "hnssl")["tau"].default
    rows = [
        row(f"tau {t}", "hnssl", rf"$\tau$ = {t}", changes=() if float(t) == default else (("method.tau", float(t)),))
        for t in ("1.0", "0.999", "0.5", "0.0")
    ]
    return table(
        "HNSSL, Table 7: coefficient of the average",
        "C",
        "hnssl",
        "Table 7",
        rows,
        [column("top-1", "", TOP[0])],
        paper,
        evaluation,
        configs,
    )

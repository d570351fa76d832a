"""The figures and tables of PPCL (arXiv 2202.06464)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hardlab.analysis.arms import Arm, Selection, linear, split_share, trained_on
from hardlab.figures import plots, style
from hardlab.figures.paper import published
from hardlab.recipes import recipe

ARMS = (
    ("SimCLR", "ppcl-simclr"),
    ("SimCLR-DD", "ppcl-dd"),
    ("CLAE", "clae"),
    ("BigGAN", "ppcl-gan"),
    ("Proposed", "ppcl"),
)
LINEAR = linear("linear-ppcl")
SETS = ("CIFAR-10", "CIFAR-100", "FMNIST", "ImageNet-10")
SHARES = ("100 %", "20 %", "10 %")


def f1(epochs: pd.DataFrame, configs: pd.DataFrame) -> Figure:
    """PPCL Figure 1: the framework, and the similarity of the generated pairs over training."""
    figure, (a, b) = style.new(3.0, 2)
    a.set_title("(a) who trains whom")
    box = plots.Box
    every_n = recipe("ppcl", "gpu").hard[0].options.get("every", 1)
    boxes = {
        "z": box(0.13, 0.9, "latent z", width=0.24, height=0.13),
        "g": box(0.13, 0.62, "G", "#CFE6F5", width=0.2, height=0.15),
        "e": box(0.53, 0.62, "average\nof G", "#FBE5C0", width=0.28, height=0.17),
        "r": box(0.86, 0.62, "real\nimages", width=0.24, height=0.17),
        "t": box(0.5, 0.35, "differentiable augmentation", width=0.72, height=0.12),
        "f": box(0.5, 0.1, "f, L$_{PPCL}$: f descends, G ascends", "#D5EFE3", width=0.86, height=0.13),
    }
    plots.scheme(
        a,
        boxes,
        [
            ("z", "g", "", "-"),
            ("g", "e", "", "--"),
            ("g", "t", "", "-"),
            ("e", "t", "", "--"),
            ("r", "t", "", "-"),
            ("t", "f", "", "-"),
        ],
    )
    b.set(title="(b) likeness of a generated pair", xlabel="epoch", ylabel="cosine of f's outputs")
    rows = epochs[epochs["name"].str.endswith("pair_cosine", na=False)]
    drawn = plots.curves(
        b, plots.strongest(rows, ["ppcl", "ppcl-pos"], configs), (("hard pairs", "ppcl"), ("frozen G", "ppcl-pos"))
    )
    if len(drawn):
        b.legend(loc="best")
    plots.add_caption(
        figure,
        drawn,
        f"(a) from the recipe ppcl, rung gpu: G moves {_often(every_n)}, its average has no gradient\n"
        f"(b) ours at CIFAR scale{_pace(drawn, configs)}\n{style.bands(drawn)}",
    )
    return figure


def _pace(drawn: pd.DataFrame, configs: pd.DataFrame) -> str:
    """How often the generator moved in these runs; nothing where that is not known."""
    keys = configs[configs["run"].isin(drawn["run"]) & configs["key"].str.fullmatch(r"hard\.\d\.options\.every")]
    paces = sorted(keys["value"].astype(int).unique())
    return f", where G moves {' or '.join(map(_often, paces))}" if paces else ""


def _often(steps: int) -> str:
    return "in every step" if steps == 1 else f"once in {steps} steps"


def f2(evaluation: pd.DataFrame, configs: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """PPCL Figure 2: SimCLR alone, with a GAN, and with the proposed generation."""
    named = (("SimCLR", "ppcl-simclr"), ("SimCLR + GAN", "ppcl-gan"), ("proposed", "ppcl"))
    return _panels(
        "Figure 2", named, ("CIFAR-10 100 %", "CIFAR-100 100 %", "CIFAR-10 10 %"), evaluation, configs, paper
    )


def f4(evaluation: pd.DataFrame, configs: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """PPCL Figure 4: an ablation of the components."""
    named = (
        ("SimCLR", "ppcl-simclr"),
        ("G", "ppcl-gan"),
        ("G+Hard", "ppcl-hard"),
        ("G+Pos.", "ppcl-pos"),
        ("G+Pos.+Hard", "ppcl"),
    )
    return _panels("Figure 4", named, ("CIFAR-10 100 %", "CIFAR-10 20 %", "CIFAR-10 10 %"), evaluation, configs, paper)


def _panels(
    item: str,
    named: tuple[tuple[str, str], ...],
    data: tuple[str, ...],
    evaluation: pd.DataFrame,
    configs: pd.DataFrame,
    paper: pd.DataFrame,
) -> Figure:
    """Draw a column per training set: ours above the printed accuracies, which are too far off to share an axis.

    What is printed of a set that the paper's figure lacks is from Table 1.
    """
    figure, axes = style.new(4.0, len(data), rows=2)
    ours = Selection([r for _, r in named], evaluation, configs, any_data=True)
    values, note = published(paper, "ppcl", item), ""
    shown_data = {d for data_set in data for d in trained_on(*split_share(data_set))}
    for ax, below, data_set in zip(axes, axes[len(data) :], data, strict=False):
        name, share = split_share(data_set)
        column_name = name if share == "100 %" and (named[0][0], name) in values else data_set
        printed = {n: float(values[n, column_name]) for n, _ in named if (n, column_name) in values}
        arms = [(n, Arm(r, trained=(name, share))) for n, r in named]
        title = data_set.replace(" 100 %", "")
        below.set_title(f"published,\n{title}")
        if not printed and (printed := _in_table(paper, data_set, named)):
            below.set_title(f"published (Table 1),\n{title}")
        if not any(len(ours.values(arm, LINEAR)) for _, arm in arms) and (
            replacement := ours.stand_in(share, shown_data)
        ):
            shown_data.add(replacement)
            arms = [(n, Arm(r, trained=split_share(replacement))) for n, r in named]
            title = f"{replacement},\nnot {title}"
            note += _published_for(paper, replacement, named)
        plots.arms(ax, ours, arms, LINEAR, missing=f"no finished run on\n{data_set}")
        ax.set_title("\n".join([f"ours, {title}", *_trained(ours, [arm for _, arm in arms])]))
        plots.arms(below, ours, [(n, None) for n, _ in named], LINEAR, printed, "no published value\nat hand")
        for panel in (ax, below):
            panel.tick_params(axis="x", labelbottom=panel is below or not panel.axison)
            for label in panel.get_xticklabels():
                label.set(rotation=50, ha="right", rotation_mode="anchor")
    for panel in (axes[0], axes[len(data)]):
        panel.set_ylabel("linear top-1 (%)")
    plots.add_caption(figure, ours.frame, f"{note}ours at CIFAR scale · {plots.BARS}")
    return figure


def _trained(ours: Selection, arms: list[Arm]) -> list[str]:
    """The lengths and the probe of a panel's runs, as text; empty without runs."""
    frames = [rows for arm in arms if len(rows := ours.measured(arm, LINEAR))]
    if not frames:
        return []
    shown = pd.concat(frames)
    lengths = sorted(shown["epochs"].dropna().unique())
    long = f"{' and '.join(f'{n:g}' for n in lengths)} epoch{'s' * (lengths != [1])}, " if lengths else ""
    return [f"{long}{' and '.join(sorted(shown['protocol'].unique()))}"]


def _published_for(paper: pd.DataFrame, data: str, named: tuple[tuple[str, str], ...]) -> str:
    """The numbers of Table 1 for the data set and share of our runs, as text."""
    printed = next((f"{d} {share}" for d in SETS for share in SHARES if data in trained_on(d, share)), "")
    values_by_name = [f"{name} {value:.2f}" for name, value in _in_table(paper, printed, named).items()]
    return f"published for {printed}: {', '.join(values_by_name)}\n" if values_by_name else ""


def _in_table(paper: pd.DataFrame, data: str, named: tuple[tuple[str, str], ...]) -> dict[str, float]:
    """Label -> the number of Table 1 for a data set with its share."""
    values, rows = published(paper, "ppcl", "Table 1"), {recipe: row for row, recipe in ARMS}
    return {name: float(values[rows[r], data]) for name, r in named if (rows.get(r), data) in values}


def f3() -> Figure:
    """PPCL Figure 3: the mini-batch of each arm, read from the strategies of the recipes."""
    figure, (ax,) = style.new(2.5)
    blocks, height, first, second = [], 0.12, 0.16, 0.45
    for n, (name, arm) in enumerate(ARMS):
        y = 0.92 - n * 0.2
        bottom = y - height / 2
        ax.text(0.0, y, name, fontsize=7, va="center")
        blocks.append((first, bottom, 0.28, height, "#CFE6F5", "N real images"))
        hard, remark = recipe(arm, "gpu").hard, ""
        if not hard:
            ax.text(second + 0.01, y, "nothing more", fontsize=7, va="center", color=style.GREY)
        elif hard[0].name == "double":
            blocks.append((second, bottom, 0.28, height, "#CFE6F5", "N more real images"))
        elif hard[0].name == "adversarial":
            blocks.append((second, bottom, 0.28, height, "#F6D9CB", "the same, attacked"))
        else:
            o = hard[0].options
            if o.get("positives", "pair") == "pair":
                names = ("G(z$_1$)", r"$\bar{G}$(z$_1$)", "G(z$_2$)", r"$\bar{G}$(z$_2$)")
                colours = ("#D5EFE3", "#FBE5C0")
                blocks += [
                    (second + 0.07 * i, bottom, 0.07, height, colours[i % 2], text) for i, text in enumerate(names)
                ]
                ax.text(second + 0.285, y, "...", fontsize=7, va="center")
            else:
                blocks.append((second, bottom, 0.28, height, "#D5EFE3", "N images G(z)"))
            remark = "G is frozen" if o.get("learn", "joint") == "frozen" else "G ascends the loss"
        ax.text(0.78, y, remark, fontsize=7, va="center")
    plots.cells(ax, blocks)
    style.caption(
        figure,
        "PPCL, Figure 3, from the recipes' strategies; each image is seen in two views\n"
        r"$\bar{G}$: the average of G's weights; images of one latent z are positives of each other",
    )
    return figure


def f5(evaluation: pd.DataFrame, configs: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """PPCL Figure 5: accuracy over the length of training."""
    ours = Selection([r for _, r in ARMS], evaluation, configs)
    return plots.lengths(ours, ARMS, LINEAR, published(paper, "ppcl", "Figure 5"), "CIFAR-10", height=2.8)


def f6(ppcl_f6: pd.DataFrame, ppcl_f6_pixels: np.ndarray | None) -> Figure:
    """PPCL Figure 6: generated pairs of the same latents over training."""
    return plots.tiles(
        "Pairs of three fixed latents",
        ppcl_f6,
        ppcl_f6_pixels,
        "ppcl",
        by_epoch=True,
    )

"""The figures and tables of HEXA (arXiv 2012.13493)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from hardlab.analysis.arms import LINEAR, Arm, Selection, at_home, fullest, linear, one_protocol, preferred
from hardlab.analysis.gap_notes import gap
from hardlab.figures import plots, style
from hardlab.figures.paper import published
from hardlab.registry import options

SCHEMES = {"adv": "+Adv", "cmx": "+Cmx", "adv-cmx": "+Adv\n+Cmx", "adv-cmxa": "+Adv\n+Cmx$_A$"} | {
    "adv-cmx-cmxa": "+Adv\n+Cmx\n+Cmx$_A$"
}


def f1(hexa_f1: pd.DataFrame, hexa_f1_pixels: np.ndarray | None) -> Figure:
    """HEXA Figure 1: (a) views, adversaries, their difference and mixtures; (b) a sketch of where they lie."""
    figure, (a, b) = style.new(2.9, 2)
    a.set_title("(a) standard and hard views")
    if hexa_f1_pixels is None or not len(hexa_f1):
        gap(Arm("hexa-plus-moco").command("cpu"))
        style.gap(a, "no finished run of\nhexa-plus-moco\nwith pictures of\nits hard views")
    else:
        rows, columns = (int(hexa_f1[c].max()) + 1 for c in ("row", "tile"))
        a.imshow(hexa_f1_pixels, interpolation="nearest", extent=(0, columns, rows, 0))
        names = hexa_f1[hexa_f1["row"] == 0].sort_values("tile")["label"]
        a.set_xticks(np.arange(columns) + 0.5, list(names))
        a.set_yticks([])
        a.tick_params(length=0)
        a.spines[:].set_visible(False)
    b.set_title("(b) space of views (sketch)")
    _space(b)
    epsilon = options("strategy", "adversarial")["epsilon"].default
    plots.add_caption(
        figure,
        hexa_f1,
        f"(a) noise: x$_{{adv}}$ minus x, stretched to be seen; a pixel moves by at most {epsilon:g} "
        "of 255 grey levels",
    )
    return figure


def _space(ax: Axes) -> None:
    """Draw two images' standard views, adversaries at the rims of the clusters, and mixtures between the clusters."""
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.axis("off")
    rng = np.random.default_rng(0)
    for centre, colour, name in (((0.27, 0.6), style.BLUE, "image 1"), ((0.73, 0.6), style.ORANGE, "image 2")):
        ax.add_patch(Circle(centre, 0.2, facecolor=colour, alpha=0.15, linewidth=0))
        angle, radius = rng.uniform(0, 2 * np.pi, 14), 0.13 * np.sqrt(rng.uniform(0, 1, 14))
        ax.scatter(centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle), s=9, color=colour)
        rim = np.linspace(0.4, 2 * np.pi + 0.4, 7)[:-1]
        ax.scatter(
            centre[0] + 0.2 * np.cos(rim),
            centre[1] + 0.2 * np.sin(rim),
            s=16,
            marker="^",
            color=colour,
            edgecolor=style.INK,
            linewidth=0.5,
        )
        ax.text(centre[0], 0.86, name, fontsize=7, ha="center")
    ax.scatter([0.5, 0.48, 0.52], [0.6, 0.72, 0.47], s=22, marker="s", color=style.GREEN, edgecolor=style.INK, lw=0.5)
    for x, marker, colour, name in (
        (0.03, "o", style.GREY, "standard"), (0.37, "^", style.GREY, "adversarial"), (0.76, "s", style.GREEN, "mixed"),
    ):  # fmt: skip
        ax.scatter([x], [0.2], s=14, marker=marker, color=colour)
        ax.text(x + 0.035, 0.2, name, fontsize=7, va="center")


def f2(evaluation: pd.DataFrame, configs: pd.DataFrame) -> Figure:
    """HEXA Figure 2: the gain in linear accuracy by each scheme of hard examples, on MoCo-v2 and DeepCluster-v2."""
    figure, axes = style.new(3.1, 2)
    selections, levels = [], []
    for ax, base, names in zip(
        axes, ("moco", "deepcluster"), (("moco",), ("deepcluster-6crop", "deepcluster")), strict=True
    ):
        schemes = {name: _scheme(name, evaluation, configs) for name in names}
        name = fullest({name: ours for name, (ours, _) in schemes.items()})
        ours, named = schemes[name]
        measure = linear(f"linear-hexa-{base}-1")
        title = style.METHODS[base] + (", 6 crops" if "6crop" in name else "")
        levels.append(plots.gains(ax, ours, (f"Std of {title}", named[0][1]), named[1:], measure))
        ax.set(title=f"HEXA on {title}", ylabel="points over Std")
        selections.append(ours)
    style.legend_above(figure)
    plots.add_caption(
        figure,
        pd.concat(ours.frame for ours in selections),
        f"ours on an analogue; no number is printed for this figure\n{_caption(levels, *selections)}",
    )
    return figure


def _caption(levels: list[str], *shown: Selection) -> str:
    """What differences from arms without hard examples are, and how accurate those are."""
    pairs = "differences between runs of one seed and one length"
    return "\n".join([f"{plots.by(*shown)}{pairs}", plots.BARS, *filter(None, levels)])


def _scheme(name: str, evaluation: pd.DataFrame, configs: pd.DataFrame) -> tuple[Selection, list[tuple[str, Arm]]]:
    """The arms of all schemes on one base method: label -> arm."""
    arms = [("Std", Arm(name))]
    for scheme, label in SCHEMES.items():
        recipe = {"adv": f"hexa-{name}", "adv-cmx": f"hexa-plus-{name}"}.get(scheme, f"hexa-{name}-{scheme}")
        arms.append((label, Arm(recipe)))
    return Selection([a.recipe for _, a in arms], evaluation, configs), arms


# what the ledger says, with all seeds, of the arms of Figure 3
CLAIMS = {"(a)": "hexa-adv-moco", "(b), but without small crops:": "hexa-adv-deepcluster"}


def f3(curves: pd.DataFrame, configs: pd.DataFrame, paper: pd.DataFrame, verdicts: pd.DataFrame) -> Figure:
    """HEXA Figure 3: (a) accuracy over pre-training; (b) over the training of the classifier."""
    figure, (a, b) = style.new(3.1, 2)
    a.set(title="(a) checkpoints of one training", xlabel="epoch", ylabel="linear top-1 (%)")
    b.set(title="(b) training of the classifier", xlabel="epoch of the classifier", ylabel="top-1 (%)")
    rows = curves[
        curves["protocol"].str.startswith("linear", na=False) & ~curves["features"].isin(["pixels", "student"])
    ]
    rows = at_home(rows).assign(value=lambda frame: 100 * frame["value"].astype(float))
    at_end = rows[rows["classifier_epoch"].isna() & rows["metric"].isin(["top1-last", "top1"])]
    named = (("MoCo-v2", "moco"), ("HEXA MoCo", "hexa-moco"))
    by_checkpoint = _one(at_end, tuple(r for _, r in named), configs)
    drawn = [plots.curves(a, by_checkpoint, named, protocol=LINEAR[0]), _classifier(b, rows, configs)]
    for ax in (a, b):
        if ax.get_legend_handles_labels()[0]:
            low, high = ax.get_ylim()
            ax.set_ylim(low - 0.35 * (high - low), high)
            ax.legend(loc="lower right")
    printed = [f"({p}) {_points(published(paper, 'hexa', f'Figure 3{p}'))}" for p in "ab"]
    judged = [f"{of} {text}" for of, name in CLAIMS.items() if (text := plots.verdict(verdicts, name, configs))]
    by = [
        f"({p}) {text}, {seeds} seed{'s' * int(seeds > 1)} an arm"
        for p, text, rows in zip("ab", (plots.probes(drawn[0]), _by(drawn[1])), drawn, strict=True)
        if text and (seeds := rows.groupby("recipe")["seed"].nunique().min())
    ]
    plots.add_caption(
        figure,
        plots.with_lengths(pd.concat(drawn), configs),
        "\n".join(["published end points, ImageNet:", *printed, " · ".join(["ours on an analogue", *by])]),
        "\n".join([style.bands(pd.concat(drawn)), *judged]),
    )
    return figure


def _one(rows: pd.DataFrame, recipes: tuple[str, ...], configs: pd.DataFrame) -> pd.DataFrame:
    """The strongest rows of these recipes, measured by one protocol."""
    return one_protocol(plots.strongest(rows, recipes, configs))


def _classifier(ax: Axes, rows: pd.DataFrame, configs: pd.DataFrame) -> pd.DataFrame:
    arms = (("HEXA DCluster (8-crop)", "hexa-deepcluster-8crop"), ("DeepCluster-v2 (8-crop)", "deepcluster-8crop"))
    curve = _one(
        rows[rows["classifier_epoch"].notna() & (rows["metric"] == "top1")], tuple(r for _, r in arms), configs
    )
    if len(curve):
        curve = curve[curve["epoch"] == curve.groupby("run")["epoch"].transform("max")]
        curve = curve.assign(epoch=curve["classifier_epoch"])
    return plots.curves(ax, curve, arms, protocol="linear-hexa-deepcluster")


def _by(drawn: pd.DataFrame) -> str:
    return f"by {drawn['protocol'].iloc[0]}" if len(drawn) else ""


def _points(values: Mapping[tuple[str, str], str]) -> str:
    """Published points as text, because they are too far from ours to share an axis."""
    points: dict[str, list[str]] = {}
    for (name, epoch), value in values.items():
        points.setdefault(name, []).append(f"{float(value):g} at {float(epoch):g}")
    return "; ".join(f"{name}: {', '.join(names)}" for name, names in points.items()) or "no value at hand"


def f4(evaluation: pd.DataFrame, configs: pd.DataFrame) -> Figure:
    """HEXA Figure 4: the gain in linear accuracy over the bound and the step of the attack."""
    figure, (ax,) = style.new(2.9)
    recipe = preferred(("hexa-deepcluster", "hexa-moco"), evaluation)
    base = recipe.removeprefix("hexa-")
    named = []
    for epsilon in (1.0, 3.0):
        for eta in (1.0, 3.0):
            keys = {"epsilon": epsilon, "eta": eta}
            changes = tuple((f"hard.adversarial.{k}", v) for k, v in keys.items() if v != 1)
            named.append((rf"$\epsilon$ = {epsilon:g}, $\eta$ = {eta:g}", Arm(recipe, changes)))
    ours = Selection((base, recipe), evaluation, configs)
    level = plots.gains(ax, ours, ("no attack", Arm(base)), named, linear("linear-hexa-deepcluster"))
    ax.set(title="bound and step of the attack, in grey levels of 255", ylabel="points over no attack")
    style.legend_above(figure)
    plots.add_caption(
        figure,
        ours.frame,
        "ours on an analogue; no number is printed for this figure\nwith one step a pixel moves by the smaller of "
        f"the two: three of the four are one training\n{_caption([level], ours)}",
    )
    return figure


BETAS = ((1.0, 1.0), (3.0, 3.0), (5.0, 3.0), (3.0, 5.0), (5.0, 1.0))


def f5(evaluation: pd.DataFrame, configs: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """HEXA Figure 5: (a) densities of Beta distributions; (b) accuracy of each."""
    from scipy import stats  # takes half a second to import

    figure, (a, b) = style.new(2.6, 2)
    x = np.linspace(0.001, 0.999, 200)
    a.set(title=r"(a) share $\lambda$ before clipping", xlabel=r"$\lambda$", ylabel="density", xlim=(0, 1))
    for n, (alpha, beta) in enumerate(BETAS):
        label = f"Beta({alpha:g}, {beta:g})" + (", the paper's" if (alpha, beta) == (5, 3) else "")
        a.fill_between(x, stats.beta.pdf(x, alpha, beta), facecolor=plots.COLOURS[n], alpha=0.08, linewidth=0)
        a.step(x, stats.beta.pdf(x, alpha, beta), color=plots.COLOURS[n], linestyle=plots.LINES[n], label=label)
    a.set_ylim(0, 5.2)
    a.legend(loc="upper left")
    recipe = preferred(("hexa-deepcluster-6crop-cmx", "hexa-deepcluster-cmx", "hexa-moco-cmx"), evaluation)
    base = recipe.removeprefix("hexa-").removesuffix("-cmx")
    ours = Selection((base, recipe), evaluation, configs)
    named: list[tuple[str, Arm | None]] = [("Std", Arm(base))]
    for alpha, beta in BETAS:
        keys = (("hard.cutmix.alpha", alpha, 5.0), ("hard.cutmix.beta", beta, 3.0))
        named.append((f"({alpha:g}, {beta:g})", Arm(recipe, tuple((k, v) for k, v, usual in keys if v != usual))))
    b.set(title=f"(b) accuracy{', 6 crops' if '6crop' in base else ''}", ylabel="linear top-1 (%)")
    plots.arms(b, ours, named, linear("linear-hexa-deepcluster-1"))
    stated = published(paper, "hexa", "Section 3.2")
    moments = ", ".join(f"{k[1]} {v}" for k, v in stated.items())
    remark = f"stated for Beta(5, 3): {moments}; " if moments else ""
    plots.add_caption(
        figure, ours.frame, f"ours on an analogue; {remark}no accuracy is printed\n{plots.by(ours)}{plots.BARS}"
    )
    return figure

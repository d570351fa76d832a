"""The figures of Hard View Selection (arXiv 2310.03940) from tables of our runs, beside the published values."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from hardlab.analysis import arms
from hardlab.analysis.arms import HVS, KNN, STANDARD, STATIC, UNTRAINED, Arm, Selection, linear
from hardlab.analysis.intervals import interval
from hardlab.analysis.schema import TREES
from hardlab.figures import plots, style
from hardlab.figures.paper import published
from hardlab.recipes import recipe
from hardlab.registry import options

ABOVE = 1.17  # of an axes' height: titles stand over the ticks of a published curve
# one number per protocol, fixed beforehand: k = 20 is the authors' usual choice, the last epoch needs no choice
NETWORKS = {"dino": "ViT-S/16"}  # of a method's first rows in Table 1, where that is no RN50
HEADLINE = {"knn": "top1@k=20", "linear": "top1-last", "linear-lbfgs": "top1"}


def f2(hvs_f2: pd.DataFrame, hvs_f2_pixels: np.ndarray | None) -> Figure:
    """HVS Figure 2: three images with their crops and views; solid frames mark the selected pair."""
    return _pictures(hvs_f2, hvs_f2_pixels, rows=3)


def f6(hvs_f2: pd.DataFrame, hvs_f2_pixels: np.ndarray | None) -> Figure:
    """HVS Figure 6: Figure 2 for ten images."""
    return _pictures(hvs_f2, hvs_f2_pixels, rows=10)


def f3(hvs_f3_left: pd.DataFrame, hvs_f3_right: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """HVS Figure 3. Left: share of images whose selected pair has the lowest IoU. Right: IoU with and without HVS."""
    left, right = arms.headline(hvs_f3_left), hvs_f3_right
    right = right[right["setting"].isin(left["setting"])] if len(left) else arms.headline(right)
    figure, (a, b) = style.new(2.6, 2)
    a.set_title("Selected pair has the lowest IoU", y=ABOVE)
    a.set(xlabel="epoch", ylabel="share of images")
    curve = _published(paper, "Figure 3 left", "share")
    if len(left):
        if "epoch_steps" in left and left["epoch_steps"].notna().all():  # epochs of ours are short
            left = left.assign(epoch=left["epoch"] * left["epoch_steps"])
            a.set_xlabel("training steps")
        style.series(a, left, "epoch", "share", style.BLUE, "HVS")
        style.series(a, left, "epoch", "control", style.GREY, "random pair", ":")
        a.axhline(left["chance"].iloc[0], color=style.INK, linewidth=0.7, label=f"chance, {_chance(left)}")
        _beside(a, curve, left["epoch"].max())
        style.legend(a, 0, [*left["share"], *curve["value"]], lines=2)
    else:
        style.gap(a, "no finished run with HVS\nand a view log")
    b.set_title("Overlap of the trained pair", y=ABOVE)
    b.set(xlabel="IoU", ylabel="density")
    drawn = [_histogram(b, right, *series) for series in (("selected", style.BLUE, "HVS"), _standard(right))]
    if any(drawn):
        b.set_xlim(0.1, 1)
        style.legend(b, 0, right["density"], lines=2, columns=1)
    else:
        style.gap(b, "no finished run\nwith a view log")
    read_off = " · published: read off the printed curve, its epochs on the top axis" if len(curve) else ""
    style.caption(figure, f"{style.about(left)}\n{style.bands(left)}{read_off}" if len(left) else "no run of ours")
    return figure


def f4(hvs_f4_left: pd.DataFrame, hvs_f4_right: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """HVS Figure 4. Left: mean IoU of the trained pair. Right: Figure 3 left with one colour draw for all views."""
    chosen = arms.headline(hvs_f4_left[hvs_f4_left["arm"] == HVS])
    left, right = (f[f["setting"].isin(chosen["setting"])] for f in (hvs_f4_left, hvs_f4_right))
    left = left[left["arm"] != STATIC]
    figure, (a, b) = style.new(2.6, 2)
    a.set_title("Overlap of the trained pair", y=ABOVE)
    a.set(xlabel="epoch", ylabel="mean IoU")
    if len(left):
        series, colour, label = _standard(left)
        style.series(a, left[left["series"] == "selected"], "epoch", "iou", style.BLUE, "HVS")
        style.series(a, left[left["series"] == series], "epoch", "iou", colour, label, "--")
        curve = _published(paper, "Figure 4 left", "selected")
        _beside(a, curve, left["epoch"].max(), "published (top axis)")
        values = [*left.loc[left["series"].isin(["selected", series]), "iou"], *curve["value"]]
        style.legend(a, max(0, 1.2 * min(values) - 0.2 * max(values)), values, lines=2)
    else:
        style.gap(a, "no finished run with HVS\nand a view log")
    b.set_title("Selected pair has the lowest IoU", y=ABOVE)
    b.set(xlabel="epoch", ylabel="share of images")
    static = right[right["arm"] == STATIC]
    if len(static):
        style.series(b, static, "epoch", "share", style.GREEN, "one colour draw for all views")
        selected = right[right["arm"] == HVS]
        if len(selected):
            style.series(b, selected, "epoch", "share", style.BLUE, "a colour draw per view", "--")
        b.axhline(right["chance"].iloc[0], color=style.INK, linewidth=0.7, label=f"chance, {_chance(right)}")
        b.set_xlim(a.get_xlim())
        style.legend(b, 0, right["share"], lines=3, columns=1)
    else:
        style.gap(b, "no finished run with\none colour draw for all views")
    note = (
        f"{style.about(chosen)}\n{style.bands(chosen)}; grey: the authors' linear approximation"
        if len(chosen)
        else "no run of ours"
    )
    if len(static):  # often of fewer seeds than the rest
        note += f"\none colour draw: seed{'s' * (static['seed'].nunique() > 1)} {_seeds(static)}"
    style.caption(figure, note)
    return figure


def _seeds(frame: pd.DataFrame) -> str:
    return ", ".join(map(str, sorted(frame["seed"].unique())))


def results(evaluation: pd.DataFrame, paper: pd.DataFrame, configs: pd.DataFrame) -> Figure:
    """Accuracy with and without HVS (HVS Table 1 at small scale), and the gain beside the published one."""
    headline = [HEADLINE.get(protocol) for protocol in evaluation["protocol"]]
    rows = evaluation[evaluation["split"].eq("test") & evaluation["metric"].eq(pd.Series(headline, evaluation.index))]
    rows = arms.at_home(rows)
    # a method with small crops has its own draws of them: that is its HVS, whatever the options
    own = rows["arm"].str.startswith(f"{HVS} ") & rows["recipe"].eq(rows["method"] + "-hvs")
    rows = rows.assign(arm=rows["arm"].mask(own, HVS))
    trained = rows[rows["arm"].isin([STANDARD, HVS, STATIC]) & rows["features"].ne("pixels")]
    compared = trained.loc[trained["arm"] != STANDARD, "method"]  # other papers' baselines are not in this comparison
    chosen = arms.headline_of_each_method(trained[trained["method"].isin(compared)] if len(compared) else trained)
    began = arms.Book.of_configs(configs).untrained(chosen["run"])  # of the same backbones
    rows = rows[rows["arm"].ne(UNTRAINED) | rows["run"].isin(began)]
    probed = arms.one_protocol(_protocol(chosen, "linear"))
    by = probed["protocol"].iloc[0] if len(probed) else arms.LINEAR[0]
    rows, chosen = (frame[frame["protocol"].isin(["knn", by])] for frame in (rows, chosen))
    figure, axes = style.new(2.9, 3, widths=(1.05, 1.05, 1))
    for ax, title, protocol in zip(axes, ("kNN, k = 20", "linear"), ("knn", "linear"), strict=False):
        ax.set(title=title)
        measured = _protocol(chosen, protocol)
        if len(measured):
            _accuracies(ax, measured, _protocol(arms.same_data(rows, chosen), protocol))
        else:
            style.gap(ax, f"no finished run with\na {title} evaluation")
    axes[0].set_ylabel("top-1 accuracy (%)")
    axes[2].set(title="gain by HVS", ylabel="points of top-1")
    _gains(axes[2], chosen, paper)
    style.legend_above(figure)
    style.caption(
        figure,
        f"{style.about(chosen)}\nlinear: by {by} · {plots.BARS}\nHVS and standard of a seed are a pair"
        if len(chosen)
        else "no run of ours",
    )
    return figure


def _published(paper: pd.DataFrame, item: str, row: str) -> pd.DataFrame:
    """Epochs and values of a published curve."""
    rows = paper[paper["paper"].eq("hvs") & paper["item"].eq(item) & paper["row"].eq(row)]
    curve = pd.DataFrame({"epoch": rows["column"].astype(float), "value": rows["value"].astype(float)})
    return curve.sort_values("epoch")


def _beside(ax: Axes, curve: pd.DataFrame, last: int, label: str = "published (top axis)") -> None:
    """Plot a published curve on its own axis of epochs, so that both trainings span the whole width."""
    ax.set_xlim(0, max(last, 1))
    if not len(curve):
        return
    top = ax.twiny()
    top.set_xlim(0, curve["epoch"].max())
    top.spines["top"].set(visible=True, color=style.GREY)
    top.tick_params(colors=style.GREY)
    top.plot(curve["epoch"], curve["value"], color=style.GREY, linewidth=0.8)
    ax.plot([], [], color=style.GREY, linewidth=0.8, label=label)


def _chance(frame: pd.DataFrame) -> str:
    return f"1/{round(1 / frame['chance'].iloc[0])}"


def _standard(frame: pd.DataFrame) -> tuple[str, str, str]:
    """Series, colour and label of standard training: baseline runs if there are any, else the pair (0,1) of HVS."""
    if frame["series"].eq("standard").any():
        return "standard", style.ORANGE, "standard"
    return "first", style.ORANGE, "pair (0,1) of the HVS log"


def _histogram(ax: Axes, frame: pd.DataFrame, series: str, colour: str, label: str) -> bool:
    """Plot the mean density over seeds as steps, with its interval; returns False if there is no such series."""
    rows = frame[frame["series"] == series]
    if not len(rows):
        return False
    bins = [(lo, hi, *interval(group["density"])) for (lo, hi), group in rows.groupby(["lo", "hi"], sort=True)]
    lo, hi, mean, low, high, n = np.array(bins, dtype=float).T
    edges = np.append(lo, hi[-1])
    if n.max() > 1:
        ax.fill_between(
            edges, np.append(low, low[-1]), np.append(high, high[-1]), step="post", color=colour, alpha=0.2, lw=0
        )
    outside = rows.groupby("run")["outside"].first().mean()
    ax.stairs(mean, edges, color=colour, label=f"{label} ({100 * outside:.0f} % below 0.1)", linewidth=1.3)
    return True


def _protocol(rows: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """The rows of one kind of protocol, measured on the data set that the networks were trained on."""
    return rows[rows["protocol"].str.startswith(protocol)]


def _accuracies(ax: Axes, selected: pd.DataFrame, peers: pd.DataFrame) -> None:
    """Plot the seeds of each method and arm as dots with their interval, untrained network and raw pixels as lines."""
    looks = {
        STANDARD: (style.ORANGE, "standard"),
        HVS: (style.BLUE, "+ HVS"),
        STATIC: (style.GREEN, "+ HVS, static colour"),
    }
    methods = sorted(selected["method"].unique(), reverse=True)
    offsets = np.linspace(-0.22, 0.22, len(looks))
    for (arm, (colour, label)), offset in zip(looks.items(), offsets, strict=True):
        legend = label
        for at, method in enumerate(methods):
            values = _per_seed(selected[selected["method"].eq(method) & selected["arm"].eq(arm)])
            if len(values):
                style.dots(ax, at + offset, values, colour, legend)
                legend = "_"  # one entry in the legend
    references = (
        (peers[peers["arm"].eq(UNTRAINED) & peers["features"].ne("pixels")], "untrained", "--"),
        (peers[peers["features"].eq("pixels")], "raw pixels", ":"),
    )
    for rows, label, line in references:
        if len(rows):
            ax.axhline(_per_seed(rows).mean(), color=style.GREY, linewidth=0.9, linestyle=line, label=label)
    ax.set_xticks(range(len(methods)), [style.METHODS.get(m, m) for m in methods])
    ax.set_xlim(-0.55, len(methods) - 0.45)


def _gains(ax: Axes, chosen: pd.DataFrame, paper: pd.DataFrame) -> None:
    """Plot HVS minus standard training, paired by seed, and the published gain at 100 epochs on ImageNet."""
    ticks: list[str] = []
    for method in sorted(chosen["method"].unique(), reverse=True):
        places: list[int] = []
        for protocol in ("knn", "linear"):
            rows = _protocol(chosen[chosen["method"] == method], protocol)
            gain = arms.gain(*(_per_seed(rows[rows["arm"] == arm]) for arm in (HVS, STANDARD)))
            if not len(gain):
                continue
            at = len(ticks)
            style.dots(ax, at - 0.12, gain, style.BLUE, "_")
            table = paper[
                paper["paper"].eq("hvs") & paper["item"].eq("Table 1") & paper["column"].eq(f"{protocol} 100 epochs")
            ]
            name = f"{style.METHODS.get(method, method)} {NETWORKS.get(method, 'RN50')}"
            pair = [table.loc[table["row"].eq(r), "value"] for r in (f"{name} + HVS", name)]
            if all(len(v) for v in pair):
                value = float(pair[0].iloc[0]) - float(pair[1].iloc[0])
                ax.plot(
                    at + 0.18, value, "D", markersize=4, color=style.GREY, markerfacecolor="white",
                    label="published gain (ImageNet, 100 epochs)" if at == 0 else "_",
                )  # fmt: skip
            ticks.append("kNN" if protocol == "knn" else "lin.")
            places.append(at)
        if places:
            name = style.METHODS.get(method, method)
            ax.text(
                sum(places) / len(places),
                -0.16,
                name,
                transform=ax.get_xaxis_transform(),
                ha="center",
                va="top",
                fontsize=7,
            )
    if not ticks:
        style.gap(ax, "no seed with both\nHVS and standard")
        return
    ax.axhline(0, color=style.INK, linewidth=0.7)
    ax.set_xticks(range(len(ticks)), ticks)
    ax.set_xlim(-0.6, len(ticks) - 0.4)


def _per_seed(rows: pd.DataFrame) -> pd.Series:
    """Seed -> accuracy in percent."""
    return 100 * rows.groupby("seed")["value"].mean()


def _pictures(log: pd.DataFrame, pixels: np.ndarray | None, rows: int) -> Figure:
    """Draw one row per image: the image with all its crops, then its views as the network saw them."""
    if not len(log):
        figure, (ax,) = style.new(1.6)
        style.gap(ax, "no finished run with HVS and a view log")
        style.caption(figure, "no run of ours")
        return figure
    from hardlab.analysis.viewlog import slots

    views = slots(log)
    count, image_rows = views["slot"].nunique(), sorted(views["row"].unique())[:rows]
    size = 0 if pixels is None else pixels.shape[1] // (1 + count)
    tight = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    figure = Figure(figsize=(style.WIDTH, 0.45 + 0.95 * len(image_rows) * 5 / (2 + count)), layout=tight)
    grid = np.atleast_2d(figure.subplots(len(image_rows), 2 + count, width_ratios=[1] * (1 + count) + [0.9]))
    for axes, at in zip(grid, image_rows, strict=True):
        image_views = views[views["row"] == at]
        height, width = image_views["image_h"].iloc[0], image_views["image_w"].iloc[0]
        for ax in axes:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        if pixels is None:
            style.gap(axes[0], "")
        else:
            scale = min(1.0, size / max(height, width))
            h, w = max(1, round(height * scale)), max(1, round(width * scale))
            axes[0].imshow(pixels[at * size :][:h, :w], extent=(0, width, height, 0), interpolation="nearest")
        axes[0].set(xlim=(-0.02 * width, 1.02 * width), ylim=(1.02 * height, -0.02 * height), aspect="equal")
        for slot, view in enumerate(image_views.itertuples()):
            colour = style.VIEW_COLOURS[slot % len(style.VIEW_COLOURS)]
            frame: dict[str, Any] = {"edgecolor": colour, "fill": False, "linewidth": 1.7 if view.chosen else 1.0}
            frame["linestyle"] = "-" if view.chosen else (0, (2.5, 1.5))
            axes[0].add_patch(Rectangle((view.left, view.top), view.width, view.height, clip_on=False, **frame))
            ax = axes[1 + slot]
            if pixels is None:
                style.gap(ax, "pixels\nnot at hand")
            else:
                ax.imshow(pixels[at * size :][:size, (1 + slot) * size : (2 + slot) * size], interpolation="nearest")
            ax.set_box_aspect(1)
            ax.add_patch(Rectangle((0, 0), 1, 1, transform=ax.transAxes, clip_on=False, **frame))
        _losses(axes[-1], log[log["row"] == at])
    for ax, title in zip(grid[0], ["image", *(f"view {i + 1}" for i in range(count))], strict=False):
        ax.set_title(title, fontsize=7, pad=3)
    step = f"epoch {log['epoch'].iloc[0]}, {len(image_rows)} of the logged images"
    style.caption(figure, f"{style.about(log)}\n{step} · solid frames: the selected pair")
    return figure


def _losses(ax: Axes, pairs: pd.DataFrame) -> None:
    """Write which pair was selected, with its loss and IoU."""
    chosen, rejected = pairs[pairs["chosen"]].iloc[0], pairs[~pairs["chosen"]]
    lines = [f"views {chosen['a'] + 1} and {chosen['b'] + 1}", f"loss {chosen['loss']:.2f}"]
    if len(rejected):
        lines.append(f"(next {rejected['loss'].max():.2f})")
    text = "\n".join([*lines, f"IoU {chosen['iou']:.2f}"]).replace("-", "\N{MINUS SIGN}")
    ax.text(0, 0.5, text, transform=ax.transAxes, va="center", fontsize=7)


def f1() -> Figure:
    """HVS Figure 1: draw views, score every pair without gradient, train on the hardest one."""
    figure, (ax,) = style.new(2.7)
    n = options("strategy", "hvs")["draws"].default
    pairs = list(itertools.combinations(range(1, n + 1), 2))
    box = plots.Box
    boxes = {"x": box(0.06, 0.5, "image", width=0.1, height=0.16)}
    for i in range(n):
        boxes[f"v{i}"] = box(0.24, 0.88 - 0.76 * i / (n - 1), f"view {i + 1}", "#CFE6F5", width=0.12, height=0.13)
    boxes |= {
        "f": box(0.43, 0.5, "f, g, h\nas they are", "#FBE5C0", width=0.15, height=0.2),
        "s": box(0.64, 0.5, f"loss of the\n{len(pairs)} pairs\nof each image", "#FBE5C0", width=0.17, height=0.28),
        "m": box(0.64, 0.12, "pair of the\nhighest loss", "#F6D9CB", width=0.17, height=0.18),
        "t": box(0.89, 0.12, "ordinary step\nof the method", "#D5EFE3", width=0.19, height=0.18),
    }
    arrows = [("x", f"v{i}", "", "-") for i in range(n)] + [(f"v{i}", "f", "", "--") for i in range(n)]
    plots.scheme(ax, boxes, [*arrows, ("f", "s", "", "--"), ("s", "m", "argmax", "--"), ("m", "t", "", "-")])
    ax.text(
        0.89,
        0.62,
        ", ".join(f"({a},{b})" for a, b in pairs[:3]) + "\n" + ", ".join(f"({a},{b})" for a, b in pairs[3:6]),
        fontsize=7,
        ha="center",
        va="center",
        color=style.GREY,
    )
    ax.text(0.89, 0.76, "candidates", fontsize=7, ha="center", color=style.GREY)
    style.caption(figure, f"HVS, Figure 1, from the options of strategy hvs: N = {n} views\ndashed: without gradient")
    return figure


def f5(evaluation: pd.DataFrame, configs: pd.DataFrame) -> Figure:
    """HVS Figure 5: DINO with and without HVS on CIFAR-100, over the length of training."""
    figure, (a, b) = style.new(2.6, 2)
    frames = []
    for ax, measure, title in ((a, linear("linear-hvs-dino"), "linear"), (b, KNN, "kNN")):
        ours = Selection(("dino", "dino-hvs"), evaluation, configs)
        plots.budgets(ax, ours, (("DINO", "dino"), ("DINO + HVS", "dino-hvs")), measure)
        ax.set(title=title, xlabel="epochs of training", ylabel="top-1 (%)")
        frames.append(ours.frame)
    style.legend_above(figure)
    plots.add_caption(
        figure,
        pd.concat(frames),
        "ours at CIFAR scale, each point is a separate training run; the paper has CIFAR-100 "
        f"and prints no number\n{style.bands(pd.concat(frames)).replace('thin lines', 'small dots')}",
    )
    return figure


def f7(epochs: pd.DataFrame, configs: pd.DataFrame) -> Figure:
    """HVS Figure 7: the training loss with and without HVS."""
    figure, axes = style.new(2.5, 3)
    frames = []
    for ax, method in zip(axes, ("dino", "simsiam", "simclr"), strict=True):
        recipes = [method, f"{method}-hvs"]
        rows = plots.strongest(epochs[epochs["name"] == "loss"], recipes, configs)
        ax.set(title=style.METHODS[method], xlabel="epoch")
        frames.append(
            plots.curves(ax, rows, (("standard", recipes[0]), ("+ HVS", recipes[1])), missing="no finished run")
        )
    for ax, frame in zip(axes, frames, strict=True):
        if len(frame) and pd.concat(frames)["data"].nunique() > 1:  # the panels are not of one data set
            ax.set_title(f"{ax.get_title()}, {frame['data'].iloc[0]}")
    axes[0].set_ylabel("training loss")
    style.legend_above(figure)
    plots.add_caption(
        figure,
        pd.concat(frames),
        "ours at CIFAR scale; the paper shows DINO on ImageNet, 100 epochs, without numbers\n"
        f"{style.bands(pd.concat(frames))}",
    )
    return figure


def f8(evaluation: pd.DataFrame, configs: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """HVS Figure 8: accuracy over the number of views; of ours the gain over two."""
    figure, axes = style.new(2.9, 3)
    values = published(paper, "hvs", "Figure 8")
    base, named = Arm("simsiam"), (("4", Arm("simsiam-hvs")), ("8", Arm("simsiam-hvs-8")))
    for ax, epochs in zip(axes, (100, 200), strict=False):
        ax.set(title=f"published, {epochs} epochs", xlabel="views")
        printed = [float(v) for n in (2, 4, 8) if (v := values.get((f"{n} views", f"linear {epochs} epochs")))]
        if printed:
            ax.plot(range(len(printed)), printed, "D", markersize=5, color=style.GREY, markerfacecolor="white")
            for at, value in enumerate(printed):
                ax.text(at, value + 0.06, f"{value:.2f}", ha="center", fontsize=7)
            ax.set(ylim=(min(printed) - 0.25, max(printed) + 0.3), xlim=(-0.6, 2.6))
            ax.set_xticks(range(3), ["2\n(base)", "4", "8"])
        else:
            style.gap(ax, "no published value\nat hand")
    ours = Selection([base.recipe, *(a.recipe for _, a in named)], evaluation, configs)
    level = plots.gains(
        axes[2], ours, ("ours of 2 views", base), named, linear("linear-hvs-simsiam"), "no finished run"
    )
    axes[2].set(title="ours, less 2 views", xlabel="views", ylabel="points of top-1")
    axes[0].set_ylabel("linear top-1 (%)")
    style.legend_above(figure)
    plots.add_caption(
        figure,
        ours.frame,
        "published: SimSiam, ImageNet (values from the authors' code) · ours on an analogue\n"
        f"{plots.by(ours)}differences between runs of one seed and one length\n{plots.BARS}"
        + (f"\n{level}" if level else ""),
    )
    return figure


IMPORTANT = {
    "IoU": "iou", "brightness": "brightness", "centre distance": "centre_distance",
    "colour distance": "colour_distance",
    "contrast": "contrast", "saturation": "saturation", "hue": "hue", "all jointly": "all",
}  # fmt: skip


LEAF_MARKS = {
    10: ("o", -0.13, style.BLUE),
    100: ("s", 0.13, style.ORANGE),
}  # the bars show leaves of one row


def f9(importance: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """HVS Figure 9: the share of the loss's variance that each metric of a pair explains (fANOVA)."""
    figure, (ax, right) = style.new(3.1, 2)
    printed = {row: float(v) for (row, _), v in published(paper, "hvs", "Figure 9").items()}
    ax.set(xlabel="share of the variance (%)", title="published; ours: trees grown to the end")
    right.set(xlabel="share of the variance (%)", title="ours, larger leaves")
    rows = plots.strongest(importance, ["simsiam-hvs"])
    for at, (name, metric) in enumerate(IMPORTANT.items()):
        if name in printed:
            ax.barh(
                at + 0.2,
                printed[name],
                height=0.34,
                facecolor="white",
                edgecolor=style.GREY,
                hatch="////",
                label="published" if at == 0 else "_",
            )
            ax.text(printed[name] + 0.2, at + 0.2, f"{printed[name]:g}", fontsize=7, va="center", color=style.GREY)
        shares = rows[rows["name"] == metric]
        if not len(shares):
            ax.text(0.1, at - 0.2, "no run", fontsize=7, va="center", color=style.GREY)
            continue
        for leaf, group in shares.groupby("leaf", sort=True):
            mean, lo, hi, n = interval(100 * group["share"])
            error = [[mean - lo], [hi - mean]] if n > 1 else None
            if leaf in LEAF_MARKS:
                label, (mark, shift, colour) = f"{leaf} rows or more" if at == 0 else "_", LEAF_MARKS[leaf]
                right.errorbar(
                    mean, at + shift, fmt=mark, color=colour, markerfacecolor="white", markersize=4, elinewidth=0.8,
                    label=label, xerr=error,
                )  # fmt: skip
            else:
                label = "ours" if at == 0 else "_"
                ax.barh(at - 0.2, mean, 0.34, color=style.BLUE, xerr=error, error_kw={"linewidth": 1}, label=label)
    for panel in (ax, right):
        panel.set_yticks(range(len(IMPORTANT)), list(IMPORTANT) if panel is ax else [])
        panel.set_ylim(len(IMPORTANT) - 0.4, -0.6)
        if panel.get_legend_handles_labels()[0]:
            panel.set_xlim(left=0 if panel is ax else -3)
            panel.legend(loc="lower right")
    if not len(rows):
        style.gap(right, "no finished run")
    forest = (
        f"{TREES} trees on {rows['n'].max():,.0f} pairs of each view log" if len(rows) else "the pairs of a view log"
    )
    plots.add_caption(figure, rows, f"ours at CIFAR scale, {forest}; lines: 95 % t-intervals over seeds")
    return figure


def f10() -> Figure:
    """HVS Figure 10: a spatial transformer trained against DINO."""
    figure, (ax,) = style.new(2.2)
    mode, penalty = (options("strategy", "stn")[k].default for k in ("mode", "penalty"))
    local = recipe("stn-baseline", "paper").local
    crops = 2 + (local.count if local else 0)
    box = plots.Box
    boxes = {
        "x": box(0.06, 0.6, "image", width=0.1, height=0.2),
        "n": box(0.24, 0.6, "STN", "#F6D9CB", width=0.13, height=0.24),
        "p": box(0.24, 0.16, f"penalty {penalty.upper()}", width=0.19, height=0.17),
        "m": box(0.45, 0.6, rf"{crops} matrices $\theta$" + "\n2 x 3", "#F6D9CB", width=0.17, height=0.24),
        "v": box(0.66, 0.6, "views,\nsampled", "#CFE6F5", width=0.14, height=0.24),
        "d": box(0.89, 0.6, "DINO\nloss", "#D5EFE3", width=0.17, height=0.24),
    }
    plots.scheme(ax, boxes, [("x", "n", "", "-"), ("n", "m", "", "-"), ("m", "v", "", "-"), ("v", "d", "", "-")])
    ax.annotate(
        "",
        (0.24, 0.75),
        (0.89, 0.75),
        arrowprops={
            "arrowstyle": "-|>",
            "color": style.RED,
            "linewidth": 1,
            "linestyle": "--",
            "connectionstyle": "bar,fraction=0.12",
            "shrinkA": 0,
            "shrinkB": 0,
        },
    )
    ax.text(0.56, 0.83, "gradient, negated", fontsize=7, color=style.RED, ha="center")
    ax.annotate("", (0.24, 0.47), (0.24, 0.25), arrowprops={"arrowstyle": "-|>", "color": style.INK, "linewidth": 1})
    style.caption(figure, f"HVS, Figure 10, from the options of strategy stn: mode {mode}, {crops} crops")
    return figure


def f11(hvs_f11: pd.DataFrame, hvs_f11_pixels: np.ndarray | None) -> Figure:
    """HVS Figure 11: images and their crops by the spatial transformer."""
    return plots.tiles(
        "Views of the spatial transformer",
        hvs_f11,
        hvs_f11_pixels,
        "stn-translation-scale-sym",
    )

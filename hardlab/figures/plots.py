"""The kinds of plot in the papers' figures: arms, accuracy over budgets, curves, tiles, schemes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.ticker import MaxNLocator

from hardlab.analysis import claims
from hardlab.analysis.arms import LINEAR, LONG, Arm, Book, Measure, Selection, gain, own_length
from hardlab.analysis.gap_notes import evaluate_command, gap
from hardlab.figures import style

COLOURS = (style.BLUE, style.ORANGE, style.GREEN, style.RED, style.PURPLE, style.SKY)
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)), (0, (5, 1)))
BARS = "dots: seeds · bars: 95 % t-intervals of three seeds or more"


def arms(
    ax: Axes,
    ours: Selection,
    named: Sequence[tuple[str, Arm | None]],
    measure: Measure,
    values: Mapping[str, float] | None = None,
    missing: str = "no finished run\nof these arms",
) -> None:
    """Plot arms side by side: ours as dots with intervals, published ``values`` as open diamonds, gaps marked.

    named: (label, arm) of each place, None for an arm that has no run of ours.
    values: label -> published number.
    """
    values = values or {}
    series = [ours.values(arm, measure) if arm else pd.Series(dtype=float) for _, arm in named]
    if not values and not any(len(f) for f in series):
        style.gap(ax, missing)
        return
    shift = 0.12 if values and any(arm for _, arm in named) else 0.0
    legend = "ours"
    for at, ((name, arm), seeds) in enumerate(zip(named, series, strict=True)):
        if len(seeds):
            style.dots(ax, at - shift, seeds, style.BLUE, legend)
            legend = "_"
        elif arm is not None:
            ax.text(
                at - shift, 0.03, "no run", fontsize=7, color=style.GREY, ha="center", va="bottom", rotation=90,
                transform=ax.get_xaxis_transform(),
            )  # fmt: skip
        if name in values:
            ax.plot(
                at + shift, values[name], "D", markersize=4, color=style.GREY, markerfacecolor="white",
                label="published" if name == next(iter(values)) else "_",
            )  # fmt: skip
    lengths = [
        ours.other_length(arm, measure) if arm and len(f) else 0 for (_, arm), f in zip(named, series, strict=True)
    ]
    labels = [f"{name}\n({n:g} ep)" if n else name for (name, _), n in zip(named, lengths, strict=True)]
    ax.set_xticks(range(len(named)), labels)
    ax.set_xlim(-0.6, len(named) - 0.4)
    ax.margins(y=0.12)
    low, high = ax.get_ylim()
    if high - low < 2:  # points of accuracy: less would make noise look large
        ax.set_ylim((low + high) / 2 - 1, (low + high) / 2 + 1)
    if any(arm and not len(seeds) for (_, arm), seeds in zip(named, series, strict=True)):  # room for those marks
        low, high = ax.get_ylim()
        ax.set_ylim(low - 0.4 * (high - low), high)


def gains(
    ax: Axes,
    ours: Selection,
    base: tuple[str, Arm],
    named: Sequence[tuple[str, Arm]],
    measure: Measure,
    missing: str = "no finished run\nof these arms",
) -> str:
    """Plot how much better arms are than ``base``, paired by seed, each training length beside the others.

    Two lengths on one axis would be no comparison of arms. The recipe's own length comes first, where an arm that
    lacks it is a marked gap. named: (label, arm) of each place. Returns the accuracy of ``base``, for a caption.
    """
    label, standard = base
    recipes = {arm.recipe for _, arm in named}
    trained = ours.rows.groupby("recipe")["epochs"].unique() if len(ours.rows) else {}
    lengths = {float(n) for n in trained.get(standard.recipe, ()) if any(n in trained.get(r, ()) for r in recipes)}
    usual = own_length(standard.recipe, str(ours.rows["rung"].iloc[0]) if len(ours.rows) else "cpu")
    shown: dict[float, tuple[pd.Series, list[pd.Series]]] = {}
    for length in sorted(lengths | {float(usual)}, key=lambda n: (n != usual, -n)):
        level, *values = (_of_length(ours, arm, measure, length, usual) for arm in (standard, *(a for _, a in named)))
        each = [gain(value, level) for value in values]
        if any(map(len, each)):
            shown[length] = level, each
    if not shown:
        style.gap(ax, missing)
        return ""
    places = np.linspace(-0.2, 0.2, len(shown)) if len(shown) > 1 else np.zeros(1)
    others = iter(COLOURS[1:])
    for place, (length, (_, each)) in zip(places, shown.items(), strict=True):
        legend, colour = f"{length:g} epochs", COLOURS[0] if length == usual else next(others)
        for at, seeds in enumerate(each):
            if len(seeds):
                style.dots(ax, at + place, seeds, colour, legend)
                legend = "_"
            else:
                ax.text(
                    at + place, 0.03, "no run", fontsize=7, color=colour, ha="center", va="bottom", rotation=90,
                    transform=ax.get_xaxis_transform(),
                )  # fmt: skip
    ax.axhline(0, color=style.INK, linewidth=0.7)
    ax.set_xticks(range(len(named)), [name for name, _ in named])
    ax.set_xlim(-0.6, len(named) - 0.4)
    ax.margins(y=0.12)
    low, high = ax.get_ylim()
    if any(not len(seeds) for _, each in shown.values() for seeds in each):  # room for those marks
        ax.set_ylim(low - 0.4 * (high - low), high)
    return f"{label}: " + ", ".join(f"{level.mean():.1f} % after {n:g} epochs" for n, (level, _) in shown.items())


def _of_length(ours: Selection, arm: Arm, measure: Measure, length: float, usual: float) -> pd.Series:
    """Seed -> value of an arm's runs of one length; a gap is noted for the usual length alone."""
    arm = arm._replace(changes=(*arm.changes, ("epochs", int(length))))
    return ours.values(arm, measure) if length == usual or len(ours.runs(arm)) else pd.Series(dtype=float)


def lengths(
    ours: Selection,
    named: Sequence[tuple[str, str]],
    measure: Measure,
    printed: Mapping[tuple[str, str], str],
    on: str,
    *,
    height: float = 2.6,
    remark: str = "",
) -> Figure:
    """Accuracy over the length of training, ours beside the published points.

    named: (label, recipe) of each line.
    printed: (label, epochs) -> value.
    on: the paper's data.
    remark: for the caption.
    """
    figure, (ax, right) = style.new(height, 2)
    ax.set(title="ours", xlabel="epochs of training", ylabel="linear top-1 (%)")
    right.set(title=f"published, {on}", xlabel="epochs of training")
    values: dict[str, dict[float, float]] = {}
    for (name, epochs), value in printed.items():
        values.setdefault(name, {})[float(epochs)] = float(value)
    left_out = budgets(ax, ours, named, measure, (right, values))
    remark = f"{remark}left out: {left_out} · " if left_out else remark
    style.legend_above(figure)
    scale = "ours at CIFAR scale, each point is a separate training run · open diamonds: points whose number is stated"
    add_caption(figure, ours.frame, f"{scale}\n{remark}{style.bands(ours.frame)}")
    return figure


def budgets(
    ax: Axes,
    ours: Selection,
    named: Sequence[tuple[str, str]],
    measure: Measure,
    beside: tuple[Axes, Mapping[str, Mapping[float, float]]] | None = None,
    missing: str = "no finished run\nof these arms",
) -> str:
    """Plot accuracy over the epochs of training, with separate runs for each budget.

    Returns, as text, what is left out: a length of more than ``LONG`` times the longest of every other line, which has
    nothing beside it and squeezes the axis.

    named: (label, recipe) of each line.
    beside: other axes for the published points, which are too far off to share one, and those points: name -> epochs ->
        value.
    """
    printed, values = beside or (None, {})
    trained = {r: sorted(ours.rows.loc[ours.rows["recipe"] == r, "epochs"].dropna().unique()) for _, r in named}
    left_out = []
    for n, (name, recipe) in enumerate(named):
        others = [epochs for r, its in trained.items() if r != recipe for epochs in its]
        alone = [epochs for epochs in trained[recipe] if others and epochs > LONG * max(others)]
        left_out += [f"{name} after {epochs:g} epochs" for epochs in alone]
        points = []
        for epochs in sorted(set(trained[recipe]) - set(alone)):
            seeds = ours.values(Arm(recipe, (("epochs", int(epochs)),)), measure)
            points += [(epochs, v, seed) for seed, v in seeds.items()]
        if points:
            frame = pd.DataFrame(points, columns=["epochs", "value", "run"])
            style.series(ax, frame, "epochs", "value", COLOURS[n], name, LINES[n])
        published = values.get(name, {})
        lengths = {epochs for epochs, _, _ in points}
        for epochs in [e for e in published if e not in lengths] or ([] if points else [0]):
            arm = Arm(recipe, (("epochs", int(epochs)),) if epochs else ())
            gap(ours.command(arm), evaluate_command([], {"protocol": ours.protocol(measure)}))
        if printed is not None and published:
            label = name if points else f"{name}: no run"
            printed.plot(*zip(*published.items(), strict=True), "D", markersize=5, color=COLOURS[n],
                         markerfacecolor="white", label="_" if points else label)  # fmt: skip
    if not ax.get_lines():
        style.gap(ax, missing)
    if printed is not None and not printed.get_lines():
        style.gap(printed, "no published value\nat hand")
    for axes in (ax, printed):
        if axes is not None and axes.get_lines():
            axes.margins(0.12, 0.15)
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1, steps=[1, 2, 2.5, 5, 10]))
    return ", ".join(left_out)


def curves(
    ax: Axes,
    frame: pd.DataFrame,
    named: Sequence[tuple[str, str]],
    y: str = "value",
    missing: str = "",
    protocol: str = "",
) -> pd.DataFrame:
    """Plot a line per recipe over the epochs from rows with recipe, run and epoch; returns the rows drawn.

    named: (label, recipe) of each line. y: the column to plot. protocol: the one that evaluated all checkpoints, for
    learning curves.
    """
    drawn = []
    evaluate = evaluate_command([], {"protocol": protocol, "checkpoint": "all"}) if protocol else ""
    for n, (name, recipe) in enumerate(named):
        rows = frame[frame["recipe"] == recipe]
        if len(rows):
            style.series(ax, rows, "epoch", y, COLOURS[n], name, LINES[n])
            drawn.append(rows)
        else:
            gap(Arm(recipe).command(frame["rung"].iloc[0] if len(frame) else "cpu"), evaluate)
    # one tick is enough: a single epoch spans no two whole numbers
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1, steps=[1, 2, 2.5, 5, 10]))
    if not drawn:
        style.gap(ax, missing or "no finished run\nof these arms")
        return frame.iloc[:0]
    for name, recipe in named:
        if not (frame["recipe"] == recipe).any():
            ax.plot([], [], " ", label=f"{name}: no run")
    return pd.concat(drawn)


def strongest(frame: pd.DataFrame, recipes: Sequence[str], configs: pd.DataFrame | None = None) -> pd.DataFrame:
    """The rows of these recipes, unchanged, at the highest rung, on the data set of most of them, one setting each."""
    rows_by_arm = Book.of_configs(configs).together([Arm(r) for r in recipes], frame)
    return pd.concat(rows_by_arm) if any(map(len, rows_by_arm)) else frame.iloc[:0]


def by(*shown: Selection) -> str:
    """The protocols that measured the arms of a figure, as text for its caption."""
    names = sorted({protocol for ours in shown for protocol in ours.by})
    return f"by {' and '.join(names)} · " if names else ""


def with_lengths(frame: pd.DataFrame, configs: pd.DataFrame) -> pd.DataFrame:
    """The rows with the training length of their runs, for a caption, instead of the epoch that each is of."""
    runs = configs[configs["key"] == "epochs"].drop_duplicates("run").set_index("run")["value"]
    return frame.drop(columns="epoch", errors="ignore").assign(epochs=pd.to_numeric(frame["run"].map(runs)))


def probes(drawn: pd.DataFrame) -> str:
    """The protocol of a learning curve, for a caption, and that it is not the primary one; "" for a monitor."""
    names = sorted(drawn["protocol"].unique()) if "protocol" in drawn else []
    lacks = f" (no checkpoint was measured by {LINEAR[0]})" if names and LINEAR[0] not in names else ""
    return f"by {' and '.join(names)}{lacks}" if names else ""


def verdict(verdicts: pd.DataFrame, name: str, configs: pd.DataFrame) -> str:
    """What the ledger says of a claim, for the caption of a figure with fewer seeds; "" if it has no runs."""
    rows = verdicts[verdicts["id"].eq(name) & verdicts["n"].gt(0)]
    if not len(rows):
        return ""
    row = next(rows.itertuples())
    lengths = sorted(with_lengths(pd.DataFrame({"run": row.runs.split()}), configs)["epochs"].dropna().unique())
    long = f" of {' and '.join(f'{n:g}' for n in lengths)} epochs" if lengths else ""
    seeds = f", {row.n} seeds" if row.n > 1 else ""
    numbers = claims.ours(row).replace("-", "\N{MINUS SIGN}")
    return f"claim {name}{seeds}{long}: {numbers}, {row.verdict}"


def tiles(title: str, labels: pd.DataFrame, pixels: np.ndarray | None, recipe: str, by_epoch: bool = False) -> Figure:
    """Draw a grid of pictures with a label per column, or the epoch per column and a label per row.

    labels: a row per tile. pixels: (H,W,3) uint8. recipe: one whose runs keep such pictures, named if there is none.
    """
    if pixels is None or not len(labels):
        gap(Arm(recipe).command("cpu"))
        return style.placeholder(title, f"no finished run of {recipe}\nwith snapshots")
    rows, columns = int(labels["row"].max()) + 1, int(labels["tile"].max()) + 1
    side = min(0.9, (style.WIDTH - (0.8 if by_epoch else 0.1)) / columns)
    figure = Figure(figsize=(style.WIDTH, side * rows + 0.75), layout="constrained")
    ax = figure.subplots()
    ax.imshow(pixels, interpolation="nearest", aspect="equal", extent=(0, columns, rows, 0))
    for line in range(1, rows):
        ax.axhline(line, color="white", linewidth=2 if by_epoch and line % 2 == 0 else 0.8)
    for line in range(1, columns):
        ax.axvline(line, color="white", linewidth=0.8)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    top = labels[labels["row"] == 0].sort_values("tile")
    names = [f"{e:.0f}" for e in top["epoch"]] if by_epoch else list(top["label"])
    ax.set_xticks(np.arange(columns) + 0.5, names)
    ax.xaxis.tick_top()
    side_names = list(labels[labels["tile"] == 0].sort_values("row")["label"]) if by_epoch else []
    ax.set_yticks(np.arange(len(side_names)) + 0.5, side_names)
    ax.set_title(f"{title}; columns: epoch" if by_epoch else title, pad=6)
    seed = f"epoch {labels['epoch'].max():.0f} · " if not by_epoch else ""
    style.caption(figure, f"{seed}{style.about(labels)}")
    return figure


class Box(NamedTuple):
    """A box of a scheme: centre and size in units of the axes, text and colour."""

    x: float
    y: float
    text: str
    colour: str = style.LIGHT
    width: float = 0.17
    height: float = 0.14


def scheme(ax: Axes, boxes: Mapping[str, Box], arrows: Sequence[tuple[str, str, str, str]]) -> None:
    """Draw boxes and arrows (from, to, text, style) with style "-", "--" (no gradient) or "r" (reversed gradient)."""
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.axis("off")
    for box in boxes.values():
        ax.add_patch(
            FancyBboxPatch(
                (box.x - box.width / 2, box.y - box.height / 2), box.width, box.height,
                boxstyle="round,pad=0,rounding_size=0.015", facecolor=box.colour, edgecolor=style.INK, linewidth=0.7,
                mutation_aspect=0.5,
            )
        )  # fmt: skip
        ax.text(box.x, box.y, box.text, ha="center", va="center", fontsize=7, linespacing=1.15)
    for start, end, text, kind in arrows:
        a, b = boxes[start], boxes[end]
        colour = style.RED if kind == "r" else style.INK
        begin, stop = _edges(a, b)
        ax.add_patch(
            FancyArrowPatch(
                begin, stop, arrowstyle="-|>", mutation_scale=8, color=colour, linewidth=1.0, shrinkA=0, shrinkB=0,
                linestyle="-" if kind == "-" else (0, (3, 2)),
            )
        )  # fmt: skip
        if text:
            level = abs(begin[1] - stop[1]) < 0.02
            x, y = (begin[0] + stop[0]) / 2, (begin[1] + stop[1]) / 2
            ax.text(
                x if level else x + 0.012, y + 0.02 if level else y, text, fontsize=7, color=colour,
                ha="center" if level else "left", va="bottom" if level else "center",
            )  # fmt: skip


def _edges(a: Box, b: Box) -> tuple[tuple[float, float], tuple[float, float]]:
    """The points at which an arrow leaves the first box and meets the second."""
    if abs(b.x - a.x) > (a.width + b.width) / 2:
        side = 1 if b.x > a.x else -1
        return (a.x + side * a.width / 2, a.y), (b.x - side * b.width / 2, b.y)
    side = 1 if b.y > a.y else -1
    return (a.x, a.y + side * a.height / 2), (b.x, b.y - side * b.height / 2)


def add_caption(figure: Figure, frame: pd.DataFrame, scale: str, extra: str = "") -> None:
    """Add a caption that says which of our runs are shown, if any, and what the marks mean."""
    lines = [scale, style.about(frame), *([extra] if extra else [])]
    style.caption(figure, "\n".join(lines))


def cells(ax: Axes, blocks: Sequence[tuple[float, float, float, float, str, str]]) -> None:
    """Draw filled rectangles (left, bottom, width, height, colour, text) in units of the axes."""
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.axis("off")
    for left, bottom, width, height, colour, text in blocks:
        ax.add_patch(Rectangle((left, bottom), width, height, facecolor=colour, edgecolor=style.INK, linewidth=0.6))
        ax.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=7)

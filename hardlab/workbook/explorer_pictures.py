"""The explorer's panels as static pictures, for print and for browsers without scripts."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from hardlab.figures import style

Panel = dict[str, Any]


def pixels(url: str) -> np.ndarray:
    """Decode the picture of a data URL, (H,W,3) uint8."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


def picture(name: str, panel: Panel) -> str:
    """Draw one panel, as a PNG in a data URL. name: a key of ``DRAWN``."""
    with style.applied():
        figure = DRAWN[name](panel)
        sink = io.BytesIO()
        figure.savefig(sink, format="png", dpi=110)
    few, small = Image.open(sink).convert("P", palette=Image.Palette.ADAPTIVE), io.BytesIO()  # a third of the size
    few.save(small, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(small.getvalue()).decode()}"


def _bare(ax: Axes, title: str = "") -> None:
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=6)


def _ledger(panel: Panel) -> Figure:
    """The hardest and easiest images with their hardest pair, above scatter plots of all pairs."""
    images, atlas = panel["images"], panel["atlas"]
    figure = Figure(figsize=(style.WIDTH, 3.6), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.7))
    above, below = parts
    count = min(6, len(images))
    shown = [*range(count - count // 2), *range(len(images) - count // 2, len(images))]
    sheet = None if atlas is None else pixels(atlas["src"])
    for i, ax in zip(shown, np.ravel(above.subplots(1, count, squeeze=False)), strict=True):
        at = images[i]["at"][-1]
        if sheet is not None and atlas is not None:
            y, x = (v * atlas["side"] for v in divmod(i, atlas["columns"]))
            w, h = atlas["sizes"][i]
            ax.imshow(sheet[y : y + h, x : x + w], extent=(0, at["w"], at["h"], 0))
        boxes = {v[0]: v[1:] for v in at["views"]}
        for slot, colour, line in zip(at["pairs"][0][:2], (style.BLUE, style.ORANGE), ("-", "--"), strict=True):
            top, left, height, width = boxes[slot]
            ax.add_patch(Rectangle((left, top), width, height, fill=False, ec=colour, ls=line, lw=1.5))
        ax.set(xlim=(0, at["w"]), ylim=(at["h"], 0), aspect="equal")
        _bare(ax, f"{images[i]['name'][-14:]}\n{images[i]['percentile']:.0f} %")
    pairs = np.array([p[:6] for i in images for at in i["at"] for p in at["pairs"]], float)
    for ax, column, name in zip(below.subplots(1, 2), (4, 5), ("overlap (IoU)", "distance in colour"), strict=True):
        ax.scatter(pairs[:, column], pairs[:, 2], s=2, lw=0, color=style.GREY, alpha=0.5)
        ax.set(xlabel=name, ylabel="loss of a pair")
    return figure


def _negatives(panel: Panel) -> Figure:
    at = [panel["at"][i] for i in sorted({0, len(panel["at"]) // 2, len(panel["at"]) - 1})]
    figure, axes = style.new(1.2 + 3.0 / len(at), len(at))
    for ax, snapshot in zip(axes, at, strict=True):
        points = np.array([p[:3] for p in snapshot["points"]], float)
        for kind, colour, mark, label in ((0, style.BLUE, "s", "queries"), (1, style.ORANGE, "o", "negatives")):
            part = points[points[:, 2] == kind]
            ax.scatter(part[:, 0], -part[:, 1], s=4, lw=0, marker=mark, color=colour, label=label)
        ax.set_aspect("equal")
        _bare(ax, f"step {snapshot['step']}")
    axes[0].legend(loc="upper left")
    return figure


def _generated(panel: Panel) -> Figure:
    at = [panel["at"][i] for i in sorted({0, len(panel["at"]) // 2, len(panel["at"]) - 1})]
    figure, axes = style.new(1.15 * len(at), 1, len(at))
    for ax, snapshot in zip(axes, at, strict=True):
        ax.imshow(pixels(snapshot["strip"]))
        _bare(ax, f"step {snapshot['step']}: G above, its average below")
    return figure


def _attack(panel: Panel) -> Figure:
    figure = Figure(figsize=(style.WIDTH, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    sheet, wide = pixels(panel["tiles"]), len(panel["sizes"]) * panel["side"]
    left.imshow(sheet[:, :wide])
    left.set(xticks=(np.arange(len(panel["sizes"])) + 0.5) * panel["side"], yticks=[])
    left.set_xticklabels([f"{size:.2g}" for size in panel["sizes"]])
    left.set_xlabel("largest change, grey levels")
    for line in panel["loss"]:
        right.plot(panel["sizes"], line, color=style.LIGHT, lw=1)
    right.plot(panel["sizes"], panel["mean"], color=style.RED, label="mean of the batch")
    right.set(xlabel="largest change, grey levels", ylabel="loss")
    right.legend()
    return figure


def _methods(panel: Panel) -> Figure:
    table = np.array([i["percentiles"] for i in panel["images"]], float)
    figure, (ax,) = style.new(0.9 + 0.13 * len(table))
    drawn = ax.imshow(table, vmin=0, vmax=100, cmap="Oranges", aspect="auto")
    ax.set(xticks=range(len(panel["titles"])), yticks=range(len(table)))
    ax.set_xticklabels(panel["titles"], fontsize=6)
    ax.set_yticklabels([i["name"][-24:] for i in panel["images"]], fontsize=5)
    figure.colorbar(drawn, ax=ax, label="percentile of the loss")
    return figure


DRAWN: dict[str, Callable[[Panel], Figure]] = {
    "ledger": _ledger,
    "negatives": _negatives,
    "generated": _generated,
    "attack": _attack,
    "methods": _methods,
}

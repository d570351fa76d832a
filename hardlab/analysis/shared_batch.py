"""One batch of images judged by several trained methods: which images each finds hard, and whether they agree."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from hardlab import build, checkpoint, config
from hardlab.analysis import arms, hardness
from hardlab.analysis.arms import ROSTER, SYSTEMS
from hardlab.analysis.catalog import Catalog
from hardlab.analysis.pictures import CELL
from hardlab.analysis.schema import who
from hardlab.data import Images
from hardlab.errors import HardlabError
from hardlab.recipes import recipe

BATCH = 256  # images in the batch, spread evenly over the data set
SHOWN = 18  # images shown, spread evenly from the easiest to the hardest: as many as fit the width of a page
DRAWS = 16  # draws of each method's own views
RESAMPLES = 500  # bootstrap samples of the images, for the intervals


class SharedBatch(NamedTuple):
    """The rows of ``hardness.csv`` and ``transfer.csv``, and the images shown, (h, SHOWN*h, 3) uint8."""

    hardness: pd.DataFrame
    transfer: pd.DataFrame
    pixels: np.ndarray | None


NOTHING = SharedBatch(pd.DataFrame(), pd.DataFrame(), None)


def judge(catalog: Catalog, root: Path | str | None = None, batch: int = BATCH, draws: int = DRAWS) -> SharedBatch:
    """Judge one batch by every method of ``ROSTER`` that was trained on the same images (``arms.same_images``).

    Two runs are compared if they share the seed or the recipe. The result is empty if fewer than two of ``SYSTEMS``
    have runs with checkpoints, or the images are not on this machine.
    """
    chosen = _chosen(catalog)
    if not _several(chosen):
        return NOTHING
    images = _images(catalog.manifests[chosen["run"].iloc[0]], root)
    if images is None:
        return NOTHING
    rows = np.unique(np.linspace(0, len(images) - 1, min(batch, len(images))).round().astype(int))
    losses: dict[str, np.ndarray] = {}
    for about in chosen.to_dict("records"):
        try:
            losses[about["run"]] = hardness.losses(about["path"], rows, draws, root=root)
        except HardlabError:  # e.g. a checkpoint that another version wrote: the figure shows its method as missing
            continue
    chosen = chosen[chosen["run"].isin(list(losses))]
    if not _several(chosen):
        return NOTHING
    shown, order = _shown(chosen, losses, rows, images)
    return SharedBatch(shown, _transfer(chosen, losses), _strip(images, rows[order]))


def _several(chosen: pd.DataFrame) -> bool:
    return len(set(chosen["recipe"]) & set(SYSTEMS)) > 1


def _chosen(catalog: Catalog) -> pd.DataFrame:
    """One run per recipe and seed, all trained on the same images."""
    runs, manifests = catalog.done[catalog.done["recipe"].isin(ROSTER)], catalog.manifests
    whole = [
        bool(checkpoint.listed(Path(r.path) / "checkpoints")) and _as_it_is(manifests[r.run]) for r in runs.itertuples()
    ]
    runs = runs[np.array(whole, dtype=bool)]
    digests = runs["run"].map(lambda name: manifests[name].get("data", {}).get("digest", ""))
    return arms.same_images(runs.assign(digest=digests), ROSTER)


def _as_it_is(manifest: Mapping[str, Any]) -> bool:
    """Whether a run has its recipe's method and strategies with unchanged options, unlike e.g. an ablation."""
    try:
        run = config.of(manifest)
    except HardlabError:  # this version cannot read the configuration
        return False
    expected = recipe(run.recipe, run.rung)
    return (run.method, run.hard, run.backbone) == (expected.method, expected.hard, expected.backbone)


def _images(manifest: Mapping[str, Any], root: Path | str | None) -> Images | None:
    try:
        images = build.images(config.of(manifest), root=root)
    except HardlabError:
        return None  # the data are not on this machine
    return images if images.digest() == manifest["data"]["digest"] else None


def _shown(
    chosen: pd.DataFrame, losses: dict[str, np.ndarray], rows: np.ndarray, images: Images
) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows of ``hardness.csv``, and the positions in the batch of the images shown, easiest first."""
    percentile = {name: hardness.percentiles(group) for name, group in losses.items()}
    # each method has one vote, whatever its number of seeds
    votes = [np.mean([percentile[r].mean(0) for r in group["run"]], 0) for _, group in chosen.groupby("recipe")]
    by_mean = np.argsort(np.mean(votes, 0), kind="stable")
    order = by_mean[np.unique(np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).round().astype(int))]
    labels = images.targets[torch.as_tensor(rows[order])].tolist()
    names = [images.classes[t] if t >= 0 else "" for t in labels]
    out = []
    for about in chosen.to_dict("records"):
        group = percentile[about["run"]][:, order]
        out += [
            {**who(about), "tile": tile, "index": int(rows[at]), "label": name, "percentile": group[:, tile].mean()}
            | {"sd": group[:, tile].std(ddof=1), "draws": len(group), "images": len(rows)}
            for tile, (at, name) in enumerate(zip(order, names, strict=True))
        ]
    return pd.DataFrame(out), order


def _transfer(chosen: pd.DataFrame, losses: dict[str, np.ndarray]) -> pd.DataFrame:
    """Rank correlations between runs of the same seed, between seeds of a recipe, and of each run with itself."""
    about = chosen.set_index("run")
    out = []

    def add(names: list[str], pairs: list[tuple[str, str]]) -> None:
        table = hardness.transfer({n: losses[n] for n in names}, RESAMPLES).set_index(["a", "b"])
        for a, b in pairs:
            row = table.loc[(a, b)]
            ceiling = np.sqrt(max(0.0, table.loc[(a, a), "rho"]) * max(0.0, table.loc[(b, b), "rho"]))
            of_a = who(about.loc[a].to_dict() | {"run": a})
            cells = {
                "other": about.loc[b, "recipe"],
                "other_run": b,
                "rho": row["rho"],
                "lo": row["lo"],
                "hi": row["hi"],
            }
            out.append(of_a | cells | {"ceiling": ceiling, "images": int(row["n"])})

    for _, group in chosen.groupby("seed"):
        names = list(group["run"])
        add(names, [(n, n) for n in names] + list(combinations(names, 2)))
    for _, group in chosen.groupby("recipe", sort=False):
        if len(group) > 1:
            add(list(group["run"]), list(combinations(group["run"], 2)))
    return pd.DataFrame(out)


def _strip(images: Images, rows: np.ndarray) -> np.ndarray:
    """The images side by side, each fitted into a square, (h, N*h, 3) uint8."""
    batch = next(iter(images.batches(torch.as_tensor(rows)[None])))
    size = min(CELL, int(batch.sizes.max()))
    out = np.full((size, len(rows) * size, 3), 255, np.uint8)
    for i, (h, w) in enumerate(batch.sizes.tolist()):
        picture = Image.fromarray(batch.raw[i, :, :h, :w].permute(1, 2, 0).numpy())
        picture.thumbnail((size, size))
        out[: picture.height, i * size : i * size + picture.width] = np.asarray(picture)
    return out

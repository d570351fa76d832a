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
from hardlab.analysis.schema import WHO, who
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


def judge(
    catalog: Catalog,
    root: Path | str | None = None,
    batch: int = BATCH,
    draws: int = DRAWS,
    before: SharedBatch = NOTHING,
    manifests: Mapping[str, Mapping[str, Any]] | None = None,
) -> SharedBatch:
    """Judge one batch by every method of ``ROSTER`` that was trained on the same images (``arms.same_images``).

    Two runs are compared if they share the seed or the recipe. before: the rows of earlier tables, with the manifests
    of their runs; ``same_images`` chooses among those runs, too, and of a chosen one that cannot be judged here, for
    example without weights, the rows stay. The result is ``before`` without a picture if no run is judged, or if fewer
    than two of ``SYSTEMS`` would be there.
    """
    here, losses = _with_weights(catalog), dict[str, np.ndarray]()
    images: Images | None = None
    rows = np.empty(0, int)
    while True:  # again without the runs that turn out to be unreadable
        earlier = _judged(arms.not_replaced(before.hardness, here), manifests or {})
        chosen = arms.same_images(pd.concat([here, earlier]) if len(earlier) else here, ROSTER)
        if not _several(chosen) or not len(todo := chosen[chosen["run"].isin(here["run"])]):
            return before._replace(pixels=None)
        if images is None:
            images = _images(catalog.manifests[todo["run"].iloc[0]], root)
            if images is None:
                return before._replace(pixels=None)
            rows = np.unique(np.linspace(0, len(images) - 1, min(batch, len(images))).round().astype(int))
        for about in todo[~todo["run"].isin(list(losses))].to_dict("records"):
            try:
                loss = hardness.losses(about["path"], rows, draws, root=root)
                if not np.isfinite(loss).all():
                    raise HardlabError("its network has diverged")
                losses[about["run"]] = loss
            except HardlabError:  # e.g. a checkpoint that another version wrote
                here = here[here["run"] != about["run"]]
        if todo["run"].isin(list(losses)).all():
            break
    judged, names = chosen[chosen["run"].isin(list(losses))], set(chosen["run"])
    stay, order = before.hardness, None
    if len(stay) and len(stay := stay[stay["run"].isin(names - set(judged["run"]))]):
        order = _order_of(stay, rows)
        if order is None:  # of another batch, beside which no new rows can stand
            return before._replace(pixels=None)
    shown, order = _shown(judged, {name: losses[name] for name in judged["run"]}, rows, images, order)
    compared = _transfer(judged, losses)
    if len(stay):
        shown = pd.concat([shown, stay], ignore_index=True)
    if len(before.transfer):
        old = before.transfer
        pair = pd.MultiIndex.from_frame(old[["run", "other_run"]])
        old = old[
            old["run"].isin(names)
            & old["other_run"].isin(names)
            & ~pair.isin(pd.MultiIndex.from_frame(compared[["run", "other_run"]]))
        ]
        compared = pd.concat([compared, old], ignore_index=True) if len(old) else compared
    return SharedBatch(shown, compared, _strip(images, rows[order]))


def _several(chosen: pd.DataFrame) -> bool:
    return len(set(chosen["recipe"]) & set(SYSTEMS)) > 1


def _with_weights(catalog: Catalog) -> pd.DataFrame:
    """The finished runs of ``ROSTER``, as their recipes have them, with checkpoints; digest: that of the images."""
    runs, manifests = catalog.done[catalog.done["recipe"].isin(ROSTER)], catalog.manifests
    whole = [
        bool(checkpoint.listed(Path(r.path) / "checkpoints")) and _as_it_is(manifests[r.run]) for r in runs.itertuples()
    ]
    runs = runs[np.array(whole, dtype=bool)]
    return runs.assign(digest=runs["run"].map(lambda name: _digest(manifests[name])))


def _digest(manifest: Mapping[str, Any]) -> str:
    return str(manifest.get("data", {}).get("digest", ""))


def _judged(rows: pd.DataFrame, manifests: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The runs of earlier rows whose manifests say what images they were trained on, as ``_with_weights``."""
    if not len(rows):
        return rows
    runs = rows.drop_duplicates("run")[list(WHO)]
    runs = runs[runs["run"].isin([name for name, manifest in manifests.items() if _digest(manifest)])]
    return runs.assign(
        digest=[_digest(manifests[name]) for name in runs["run"]],
        epochs=[manifests[name]["config"]["epochs"] for name in runs["run"]],
    )


def _order_of(earlier: pd.DataFrame, rows: np.ndarray) -> np.ndarray | None:
    """The positions in the batch of the images that earlier rows show; None if they are of another batch."""
    tiles = earlier.drop_duplicates(["tile", "index"]).sort_values("tile")
    at = np.searchsorted(rows, tiles["index"]).clip(max=len(rows) - 1)
    same = (earlier["images"] == len(rows)).all() and (rows[at] == tiles["index"]).all()
    return at if same and tiles["tile"].is_unique else None


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
    chosen: pd.DataFrame, losses: dict[str, np.ndarray], rows: np.ndarray, images: Images, order: np.ndarray | None
) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows of ``hardness.csv``, and the positions in the batch of the images shown, easiest first.

    order: these positions where earlier rows already show them.
    """
    percentile = {name: hardness.percentiles(group) for name, group in losses.items()}
    if order is None:
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

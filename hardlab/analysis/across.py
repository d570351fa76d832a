"""What several methods find hard on one batch, collected from finished runs: rows and pictures of two figures."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from hardlab import build, checkpoint, config, runs
from hardlab.analysis import hardness, tables
from hardlab.data import Images
from hardlab.recipes import RUNGS, recipe
from hardlab.types import HardlabError

# the system of each paper on the base method that it analyses or names first, then methods without any strategy
SYSTEMS = {"simsiam-hvs": "HVS", "hexa-moco": "HEXA", "hnssl": "HNSSL", "adco": "AdCo", "ppcl": "PPCL"}
ROSTER = (*SYSTEMS, "simsiam", "simclr", "moco", "dino")
BATCH = 256  # images of the one batch, evenly over the data set
SHOWN = 18  # of them, evenly from the easiest to the hardest: as many as a page's width has room for
DRAWS = 16  # of each method's own views
RESAMPLES = 500  # of the images, for the intervals


class Across(NamedTuple):
    """Rows of ``hardness.csv`` and of ``transfer.csv``, and the images of the first, (h, SHOWN*h, 3) uint8."""

    hardness: pd.DataFrame
    transfer: pd.DataFrame
    pixels: np.ndarray | None


NOTHING = Across(pd.DataFrame(), pd.DataFrame(), None)


def collect(done: pd.DataFrame, root: Path | str | None = None, batch: int = BATCH, draws: int = DRAWS) -> Across:
    """Judge one batch by every method of ``ROSTER`` that was trained on the same images.

    done: rows of ``tables.runs``. Of the highest rung, the data set of the most methods; of each method the setting
    that was trained as long as most others, then that of the most seeds. Rows of two runs are of the same seed, or of
    the same recipe. Nothing where fewer than two of ``SYSTEMS`` are there, their checkpoints are gone, or the images
    are not on this machine.
    """
    chosen = _chosen(done)
    if not _several(chosen):
        return NOTHING
    images = _images(chosen.iloc[0], root)
    if images is None:
        return NOTHING
    rows = np.unique(np.linspace(0, len(images) - 1, min(batch, len(images))).round().astype(int))
    found: dict[str, np.ndarray] = {}
    for about in chosen.to_dict("records"):
        try:
            found[about["run"]] = hardness.losses(about["path"], rows, draws, root=root)
        except HardlabError:  # e.g. a checkpoint that another version wrote: the figure shows its method as missing
            continue
    chosen = chosen[chosen["run"].isin(list(found))]
    if not _several(chosen):
        return NOTHING
    shown, order = _shown(chosen, found, rows, images)
    return Across(shown, _transfer(chosen, found), _strip(images, rows[order]))


def _several(chosen: pd.DataFrame) -> bool:
    return len(set(chosen["recipe"]) & set(SYSTEMS)) > 1


def _chosen(done: pd.DataFrame) -> pd.DataFrame:
    """A run per recipe and seed, all trained on the same images."""
    mine = done[done["recipe"].isin(ROSTER)]
    whole = [bool(checkpoint.found(Path(p) / "checkpoints")) and _as_it_is(p) for p in mine["path"]]
    mine = mine[np.array(whole, dtype=bool)]
    if not len(mine):
        return mine
    mine = mine[mine["rung"] == max(mine["rung"].unique(), key=RUNGS.index)]
    digest = mine["path"].map(lambda p: (runs.manifest(Path(p)) or {}).get("data", {}).get("digest", ""))
    counts = mine.groupby(digest)[["recipe", "run"]].nunique()
    mine = mine[digest == max(counts.index, key=lambda d: (*counts.loc[d], d))]
    shared, kept = mine.groupby("epochs")["recipe"].nunique(), []
    for name in ROSTER:
        of = mine[mine["recipe"] == name]
        if len(of):  # as long as the others were trained, then the most seeds
            rank = {s: (shared[g["epochs"].iloc[0]], g["seed"].nunique(), s) for s, g in of.groupby("setting")}
            kept.append(of[of["setting"] == max(rank, key=lambda s: rank[s])].sort_values("seed"))
    return pd.concat(kept, ignore_index=True)


def _as_it_is(path: str) -> bool:
    """Whether a run is its recipe's method and strategies, not one with other options of them, e.g. of an ablation."""
    try:
        run = config.make((runs.manifest(Path(path)) or {})["config"])
    except HardlabError:  # a configuration that this version does not read
        return False
    same = recipe(run.recipe, run.rung)
    return (run.method, run.hard, run.backbone) == (same.method, same.hard, same.backbone)


def _images(about: pd.Series, root: Path | str | None) -> Images | None:
    manifest = runs.manifest(Path(about["path"])) or {}
    try:
        images = build.images(config.make(manifest["config"]), root=root)
    except HardlabError:
        return None  # the data are not on this machine
    return images if images.digest() == manifest["data"]["digest"] else None


def _who(about: Any) -> dict[str, Any]:
    return {k: about[k] for k in tables.WHO}


def _shown(
    chosen: pd.DataFrame, found: dict[str, np.ndarray], rows: np.ndarray, images: Images
) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows of ``hardness.csv``, and the places in the batch of the images shown, easiest first."""
    percentile = {name: hardness.percentiles(of) for name, of in found.items()}
    # each method has one vote, however many seeds it has
    votes = [np.mean([percentile[r].mean(0) for r in of["run"]], 0) for _, of in chosen.groupby("recipe")]
    by_mean = np.argsort(np.mean(votes, 0), kind="stable")
    order = by_mean[np.unique(np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).round().astype(int))]
    labels = images.targets[torch.as_tensor(rows[order])].tolist()
    names = [images.classes[t] if t >= 0 else "" for t in labels]
    out = []
    for about in chosen.to_dict("records"):
        of = percentile[about["run"]][:, order]
        out += [
            {**_who(about), "tile": tile, "index": int(rows[at]), "label": name, "percentile": of[:, tile].mean()}
            | {"sd": of[:, tile].std(ddof=1), "draws": len(of), "images": len(rows)}
            for tile, (at, name) in enumerate(zip(order, names, strict=True))
        ]
    return pd.DataFrame(out), order


def _transfer(chosen: pd.DataFrame, found: dict[str, np.ndarray]) -> pd.DataFrame:
    """Rank correlations of runs of the same seed, of one recipe's seeds, and of each run with itself."""
    about = chosen.set_index("run")
    out = []

    def add(names: list[str], both: list[tuple[str, str]]) -> None:
        table = hardness.transfer({n: found[n] for n in names}, RESAMPLES).set_index(["a", "b"])
        for a, b in both:
            row = table.loc[(a, b)]
            ceiling = np.sqrt(max(0.0, table.loc[(a, a), "rho"]) * max(0.0, table.loc[(b, b), "rho"]))
            who = _who(about.loc[a].to_dict() | {"run": a})
            told = {
                "other": about.loc[b, "recipe"],
                "other_run": b,
                "rho": row["rho"],
                "lo": row["lo"],
                "hi": row["hi"],
            }
            out.append(who | told | {"ceiling": ceiling, "images": int(row["n"])})

    for _, of in chosen.groupby("seed"):
        names = list(of["run"])
        add(names, [(n, n) for n in names] + list(combinations(names, 2)))
    for _, of in chosen.groupby("recipe", sort=False):
        if len(of) > 1:
            add(list(of["run"]), list(combinations(of["run"], 2)))
    return pd.DataFrame(out)


def _strip(images: Images, rows: np.ndarray) -> np.ndarray:
    """The images side by side, each fitted into a square."""
    batch = next(iter(images.batches(torch.as_tensor(rows)[None])))
    size = min(tables.CELL, int(batch.sizes.max()))
    out = np.full((size, len(rows) * size, 3), 255, np.uint8)
    for i, (h, w) in enumerate(batch.sizes.tolist()):
        picture = Image.fromarray(batch.raw[i, :, :h, :w].permute(1, 2, 0).numpy())
        picture.thumbnail((size, size))
        out[: picture.height, i * size : i * size + picture.width] = np.asarray(picture)
    return out

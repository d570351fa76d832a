"""Pictures from runs, with the rows that label their tiles: logged views and snapshots of strategies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from hardlab import build, config
from hardlab.analysis import arms, viewlog
from hardlab.analysis.catalog import Catalog
from hardlab.analysis.schema import WHO, who
from hardlab.errors import HardlabError
from hardlab.files import SNAPSHOT, as_expected, read_arrays
from hardlab.views import PARAMS

PICTURES = 10  # images with their views: HVS Fig. 6 shows ten rows, Fig. 2 the first three of them
CELL = 96  # pixels; larger views are shrunk to this side


class Table(NamedTuple):
    """Rows of a table and its picture (H,W,3) uint8, None if it has none or the images are missing."""

    frame: pd.DataFrame
    picture: np.ndarray | None = None


NOTHING = Table(pd.DataFrame())


def logged_views(catalog: Catalog, root: Path | str | None, earlier: pd.DataFrame | None = None) -> Table:
    """Images of the last logged step of one HVS run: the rows of its log, numbered by ``row``, and a picture.

    Picture: (rows*S, (1+N)*S, 3) uint8; each line shows an image and its N views. earlier: the rows of an earlier
    table; where its run stays (``arms.stays``), the result is empty. The same holds for the other tables of one run.
    """
    done = catalog.done
    logged = np.array([bool(viewlog.segments(p)) for p in done["path"]], dtype=bool)
    candidates = done[(done["arm"] == arms.HVS) & logged]
    if not len(candidates):
        return NOTHING
    about = arms.first(arms.headline(candidates))
    if arms.stays(earlier, candidates, about, lambda run: run["method"] == "simsiam"):
        return NOTHING
    log = viewlog.metrics(viewlog.read(about["path"]))
    log = log[log["step"] == log["step"].max()]
    image_rows = np.sort(log["index"].unique())
    # evenly over the data set, which is often sorted by class; then in another order, so that the first three differ
    spread = image_rows[np.linspace(0, len(image_rows) - 1, min(PICTURES, len(image_rows))).round().astype(int)]
    order = {int(index): row for row, index in enumerate(np.random.default_rng(0).permutation(spread))}
    log = log[log["index"].isin(order)].assign(row=lambda f: f["index"].map(order), **about[list(WHO)].to_dict())
    views = viewlog.slots(log).sort_values(["row", "slot"])
    return Table(log, _pixels(catalog.manifests[about["run"]], views, root))


def _pixels(manifest: Mapping[str, Any], views: pd.DataFrame, root: Path | str | None) -> np.ndarray | None:
    """The images and their views as one picture; None if the run's images are not on this machine."""
    run = config.of(manifest)
    try:
        images = build.images(run, root=root)
    except HardlabError:
        return None
    if images.digest() != manifest["data"]["digest"]:
        return None
    look = build.look(run)
    n = views["slot"].nunique()
    first = views.drop_duplicates("row")
    params = torch.from_numpy(views[list(PARAMS)].to_numpy(np.float32)).reshape(len(first), n, -1)
    batch = next(iter(images.batches(torch.tensor(first["index"].to_numpy(np.int64))[None])))
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (run.pixel_mean, run.pixel_std))
    pixels = look.apply(batch.raw, params)  # (R,N,3,S,S)
    if pixels.shape[-1] > CELL:
        pixels = look.apply(batch.raw, params, CELL)
    size = pixels.shape[-1]
    rgb = ((pixels * std + mean).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()
    strip = np.full((len(first) * size, (1 + n) * size, 3), 255, np.uint8)
    for row in range(len(first)):
        h, w = batch.sizes[row].tolist()
        picture = Image.fromarray(batch.raw[row, :, :h, :w].permute(1, 2, 0).numpy())
        picture.thumbnail((size, size))
        down = slice(row * size, (row + 1) * size)
        strip[row * size : row * size + picture.height, : picture.width] = np.asarray(picture)
        for slot in range(n):
            strip[down, (1 + slot) * size : (2 + slot) * size] = rgb[row, slot]
    return strip


def attacked(catalog: Catalog, earlier: pd.DataFrame | None = None) -> Table:
    """HEXA Fig. 1a: views of four images, their adversaries, the amplified difference, and mixtures."""
    at = _snapshots(catalog, ("hexa-plus-moco", "hexa-moco", "hexa-deepcluster"), "adversarial", earlier)
    if at is None:
        return NOTHING
    held = read_arrays(at.files[-1])
    mixed = at.files[-1].with_name(at.files[-1].name.replace("adversarial", "cutmix"))
    held |= read_arrays(mixed) if mixed.exists() else {}
    names = [k for k in ("clean", "adversarial", "noise", "mixed") if k in held]
    with as_expected(at.files[-1]):
        tiles = [[_bytes(held[k][i]) for k in names] for i in range(min(4, len(held["clean"])))]
    return Table(_labels(at, [names] * len(tiles), at.files[-1:]), grid(tiles))


def transformed(catalog: Catalog, earlier: pd.DataFrame | None = None) -> Table:
    """HVS Fig. 11: four images and their crops by the trained spatial transformer, large views before small ones."""
    at = _snapshots(catalog, ("stn-translation-scale-sym", "stn-translation-scale", "stn-affine"), "stn", earlier)
    if at is None:
        return NOTHING
    held = read_arrays(at.files[-1])
    with as_expected(at.files[-1]):
        names = sorted((k for k in held if k.startswith("view_")), key=lambda k: int(k[5:]))[:8]
        tiles = [[_bytes(held[k][i]) for k in names] for i in range(min(4, len(held[names[0]])))]
    titles = [f"view {int(k[5:]) + 1}" for k in names]
    return Table(_labels(at, [titles] * len(tiles), at.files[-1:]), grid(tiles))


def generated(catalog: Catalog, earlier: pd.DataFrame | None = None) -> Table:
    """PPCL Fig. 6: images of three fixed latents by G and its average, at up to eight checkpoints."""
    at = _snapshots(catalog, ("ppcl", "ppcl-hard"), "generated", earlier)
    if at is None:
        return NOTHING
    files = [at.files[i] for i in sorted(set(np.linspace(0, len(at.files) - 1, 8).round().astype(int)))]
    held = [read_arrays(f) for f in files]
    with as_expected(*files):
        tiles = [[one[net][i] for one in held] for i in range(3) for net in ("g", "g_ema")]
    names = [[name] * len(files) for _ in range(3) for name in ("G", "average of G")]
    return Table(_labels(at, names, files), grid(tiles))


class _Snapshots(NamedTuple):
    """A run's row, its manifest, and its snapshots of one part, oldest first."""

    about: dict[str, Any]
    manifest: Mapping[str, Any]
    files: list[Path]


def _snapshots(catalog: Catalog, recipes: Sequence[str], part: str, earlier: pd.DataFrame | None) -> _Snapshots | None:
    """The snapshots of ``part`` of a run of these recipes that ``arms`` chooses; None if the earlier run stays."""
    runs = catalog.done[catalog.done["recipe"].isin(recipes)]
    kept = {r.run: sorted((Path(r.path) / "snapshots").glob(f"{part}{SNAPSHOT}")) for r in runs.itertuples()}
    about = arms.one_with_most(runs, {name: len(files) for name, files in kept.items()}, recipes)
    if about is None or arms.stays(
        earlier, runs[runs["run"].map(kept).str.len() > 0], about, lambda run: -_place(recipes, run["recipe"])
    ):
        return None
    return _Snapshots(about.to_dict(), catalog.manifests[about["run"]], kept[about["run"]])


def _place(recipes: Sequence[str], name: str) -> int:
    return recipes.index(name) if name in recipes else len(recipes)


def epoch_of(manifest: Mapping[str, Any], step: int) -> float:
    """The number of epochs that a run had completed at a step, fractions included."""
    epochs: int = manifest["epochs_done"]
    return step / max(1, manifest["steps_done"]) * epochs


def _labels(at: _Snapshots, labels: Sequence[Sequence[str]], files: Sequence[Path]) -> pd.DataFrame:
    """A row per tile of a grid. files: the snapshot of each column, or a single one for all."""
    epochs = [epoch_of(at.manifest, int(file.stem.rpartition("-")[2])) for file in files]
    rows = [
        {**who(at.about), "row": r, "tile": c, "epoch": epochs[c % len(epochs)], "label": label}
        for r, row in enumerate(labels)
        for c, label in enumerate(row)
    ]
    return pd.DataFrame(rows)


def grid(tiles: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Join rows of pictures (3,h,w) uint8, each scaled to the size of the largest, into one (H,W,3) picture."""
    size = min(CELL, max(t.shape[-1] for row in tiles for t in row))
    fit = [
        [np.asarray(Image.fromarray(t.transpose(1, 2, 0)).resize((size, size), Image.Resampling.BILINEAR)) for t in row]
        for row in tiles
    ]
    return np.concatenate([np.concatenate(row, axis=1) for row in fit])


def _bytes(x: np.ndarray) -> np.ndarray:
    """Pictures in [0,1] as uint8."""
    return (np.clip(x, 0, 1) * 255).round().astype(np.uint8)

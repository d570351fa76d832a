"""A common scale of hardness for all methods: the percentile of an image's loss within its batch.

It answers whether an image that is hard for one trained method is hard for another. The ledger lists every candidate
that any run scored.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats

from hardlab import build, registry, run_folder
from hardlab.analysis import viewlog
from hardlab.analysis.catalog import Catalog
from hardlab.analysis.schema import WHO, who
from hardlab.errors import HardlabError


def losses(
    run_dir: Path | str,
    rows: Sequence[int] | np.ndarray,
    draws: int = 16,
    seed: int = 0,
    root: Path | str | None = None,
) -> np.ndarray:
    """The trained method's loss (draws, B) of each image of one fixed batch, under several draws of its own views.

    The network is in eval mode (running statistics), with the negatives and clusters of the last checkpoint; terms that
    strategies add are left out. The draws depend on ``seed`` and the run's name, because two runs with the same views
    would agree on hard views instead of hard images. Raises HardlabError for an incomplete run, and for rows that its
    data set does not have.
    """
    path = Path(run_dir)
    # with the strategies, whose state the loss may need, such as AdCo's negatives
    run, method, _, images = run_folder.open_whole(path, root=root)
    if len(rows) < 2 or min(rows) < 0 or max(rows) >= len(images):
        raise HardlabError(f"A batch for {path.name} needs at least 2 rows from 0 to {len(images) - 1}.")
    look = build.look(run)
    method.eval()
    batch = next(iter(images.batches(torch.as_tensor(np.asarray(rows))[None])))
    run_seed = seed + zlib.crc32(path.name.encode())
    generator, out = torch.Generator().manual_seed(run_seed), []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(run_seed)  # for methods that draw numbers themselves
        for _ in range(draws):
            v = look.render(look.views(batch, method.slots, generator, method.locals), method.plain)
            out.append(method(v).loss.numpy())
    return np.stack(out).astype(np.float64)


def together(
    catalog: Catalog,
    names: Sequence[str],
    rows: Sequence[int] | np.ndarray,
    draws: int = 16,
    seed: int = 0,
    root: Path | str | None = None,
) -> dict[str, np.ndarray]:
    """``losses`` of the same images under several trained methods: name of the run -> (draws, B).

    Raises HardlabError for runs that were not trained on the same images.
    """
    for name in names:
        if name not in catalog.manifests:
            raise registry.unknown("run", name, catalog.manifests)
    if len({catalog.manifests[name]["data"]["digest"] for name in names}) > 1:
        raise HardlabError(f"These runs were trained on different images: {', '.join(names)}.")
    return {name: losses(catalog.folder / name, rows, draws, seed, root) for name in names}


def percentiles(loss: np.ndarray) -> np.ndarray:
    """Losses (...,B) -> percentiles (...,B) within the batch, 0 to 100: 100 (rank - 1/2) / B; ties share their mean."""
    return 100 * (stats.rankdata(loss, axis=-1) - 0.5) / loss.shape[-1]


def panel(losses_by_name: Mapping[str, np.ndarray], rows: Sequence[int] | np.ndarray) -> pd.DataFrame:
    """The mean percentile over draws: a row per image, a column per name. losses_by_name: name -> (R,B)."""
    return pd.DataFrame(
        {name: percentiles(image_losses).mean(0) for name, image_losses in losses_by_name.items()},
        index=pd.Index(rows, name="row"),
    )


def transfer(losses_by_name: Mapping[str, np.ndarray], resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Does hardness transfer? Spearman's rank correlation of mean percentiles between every two methods.

    losses_by_name: name -> (R,B) losses of the same images. Returns a row per pair: a, b, rho, lo, hi (95 % bootstrap
    over images), n. For a = b, rho is the reliability: the correlation of odd with even draws, corrected to all draws
    (Spearman-Brown). The root of the product of two reliabilities is about the highest rho that a pair can reach. All
    three are NaN where a method finds every image equally hard, as a collapsed network does.
    """
    names, rng = list(losses_by_name), np.random.default_rng(seed)
    for name, image_losses in losses_by_name.items():
        if np.ndim(image_losses) != 2:
            raise HardlabError(f"The losses of {name} must be (draws, images), not {np.shape(image_losses)}.")
    n = {image_losses.shape[1] for image_losses in losses_by_name.values()}
    for name, image_losses in losses_by_name.items():
        if not np.isfinite(image_losses).all():
            raise HardlabError(f"The losses of {name} are not all finite: its network has diverged.")
    if len(n) != 1 or min(len(image_losses) for image_losses in losses_by_name.values()) < 2:
        raise HardlabError("Hardness is compared on the same images, each with at least 2 draws of views.")
    size = n.pop()
    if size < 2:
        raise HardlabError(f"Hardness is compared on at least 2 images, not {size}.")
    resampled = rng.integers(size, size=(resamples, size))
    percentile = {name: percentiles(image_losses) for name, image_losses in losses_by_name.items()}
    out = []
    for i, a in enumerate(names):
        for b in names[i:]:
            x, y = percentile[a], percentile[b]
            x, y = (x[::2].mean(0), x[1::2].mean(0)) if a == b else (x.mean(0), y.mean(0))
            rho, drawn = _spearman(x[None], y[None])[0], _spearman(x[resampled], y[resampled])
            if a == b:
                rho, drawn = _stepped_up(rho), _stepped_up(drawn)
            lo, hi = np.nanquantile(drawn, [0.025, 0.975]) if np.isfinite(drawn).any() else (np.nan, np.nan)
            out.append({"a": a, "b": b, "rho": float(rho), "lo": lo, "hi": hi, "n": size})
    return pd.DataFrame(out)


def scored(run_dir: Path | str) -> pd.DataFrame:
    """The view log of a run with its metrics and ``percentile``, of the loss among all candidates of its step."""
    log = viewlog.metrics(viewlog.read(run_dir))
    by_step = log.groupby("step")["loss"]
    return log.assign(percentile=100 * (by_step.rank() - 0.5) / by_step.transform("size"))


def named(run_dir: Path | str, root: Path | str | None = None) -> pd.DataFrame:
    """``scored`` with the column ``name``, the file of each ``index``: which of my images and views are hard.

    E.g. ``named(run).groupby("name")["percentile"].mean().nlargest(10)``. root: the folder of the data sets. Raises
    HardlabError without a view log, and where the run's images are not on this machine or have changed.
    """
    log = scored(run_dir)
    return log.assign(name=np.array(run_folder.image_names(Path(run_dir), root), object)[log["index"].to_numpy()])


def ledger(runs_dir: Path | str) -> pd.DataFrame:
    """Every logged candidate of all finished runs: run, parameters, overlap, loss, and whether it was chosen.

    Columns: ``schema.WHO``, those of the view log and its metrics (iou, centre_distance, colour_distance), and
    ``percentile`` of the loss among all candidates of its run that were logged at the same step. E.g.
    ``ledger("runs").query("chosen and iou < 0.1").groupby("recipe")["percentile"].mean()``.
    """
    table = Catalog(runs_dir).runs
    out = []
    for about in table[table["state"] == "done"].to_dict("records"):
        if not viewlog.segments(about["path"]):
            continue
        log = scored(about["path"]).drop(columns="run").assign(**who(about))
        out.append(log[[*WHO, *(c for c in log.columns if c not in WHO)]])
    if not out:
        raise HardlabError(f"'{runs_dir}' has no finished run with a view log; `hardlab pretrain` makes one.")
    frame = pd.concat(out, ignore_index=True)
    # every row has the same few words: a category costs a byte or two
    return frame.astype({k: "category" for k in WHO if k != "seed"})


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(S,n), (S,n) -> (S,) rank correlation of each row; NaN where one is constant."""
    a, b = (stats.rankdata(v, axis=1) for v in (x, y))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


def _stepped_up(rho: np.ndarray) -> np.ndarray:
    return 2 * rho / (1 + rho)

"""The overlap (IoU) of the selected views: HVS Figures 3 and 4, with the values expected by chance."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from hardlab.analysis import viewlog
from hardlab.errors import HardlabError

Pair = Literal["chosen", "first", "others"]


def lowest_iou_share(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Per run and epoch, how often the selected pair is the one with the lowest IoU (HVS Fig. 3 left, Fig. 4 right).

    frame: a view log with at least two candidates per image. Returns run, epoch, images, share, chance = 1/C, control,
    tied. If T pairs of an image tie for the lowest IoU (small crops often do not overlap), selecting one of them counts
    1/T, the expectation of random tie-breaking, so a selection that ignores the IoU has the expected share ``chance``.
    tied: the share of images with a tie. control: the share for one pair drawn per image by a hash of ``seed``, step
    and index, that is chance measured on these images. Raises HardlabError for a log without selection.
    """
    keys, values = viewlog.wide(_with_iou(frame), "iou", "chosen")
    iou = values["iou"]
    images, count = iou.shape
    if count < 2:
        raise HardlabError(
            "This view log has one pair per image: there was no selection, so there is no share to count."
        )
    lowest = iou == iou.min(1, keepdims=True)
    credit = lowest / lowest.sum(1, keepdims=True)
    drawn = _draw(keys, count, seed)
    per_image = keys.assign(
        images=1,
        share=credit[values["chosen"]],  # exactly one per image, so in the images' order
        chance=1 / count,
        control=credit[np.arange(images), drawn],
        tied=lowest.sum(1) > 1,
    )
    return _per_epoch(
        per_image, {"images": "sum", "share": "mean", "chance": "first", "control": "mean", "tied": "mean"}
    )


def mean_iou(frame: pd.DataFrame, pair: Pair = "chosen", metric: str = "iou") -> pd.DataFrame:
    """Per run and epoch, the mean IoU of one pair per image: run, epoch, images, iou (HVS Fig. 4 left).

    pair: "chosen", the selected pair; "first", the pair (0,1); "others", the mean over the pairs that were not
    selected. The last two stand in for standard training if only a log with selection exists (as in the authors'
    scripts). metric: another of ``viewlog.metrics`` instead of the IoU.
    """
    per_image = _one_per_image(frame, pair, metric)
    return _per_epoch(per_image.assign(images=1), {"images": "sum", metric: "mean"})


def iou_histogram(
    frame: pd.DataFrame, bins: int = 20, range: tuple[float, float] = (0.1, 1.0), pair: Pair = "chosen"
) -> pd.DataFrame:
    """Per run, the density of the IoU of one pair per image: run, lo, hi, density, images, outside (HVS Fig. 3 right).

    The density integrates to one over ``range``; ``outside`` is the share of images that lie outside it.
    """
    per_image = _one_per_image(frame, pair)
    parts = []
    for run, rows in per_image.groupby("run", observed=True, sort=True):
        values = rows["iou"].to_numpy()
        counts, edges = np.histogram(values, bins=bins, range=range)
        inside = counts.sum()
        parts.append(
            pd.DataFrame(
                {
                    "run": run,
                    "lo": edges[:-1],
                    "hi": edges[1:],
                    "density": counts / (max(inside, 1) * np.diff(edges)),
                    "images": len(values),
                    "outside": 1 - inside / len(values),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _draw(keys: pd.DataFrame, count: int, seed: int) -> np.ndarray:
    """One of ``count`` candidates per image, from its step and index, so that the order of the rows plays no part."""
    bits = keys["step"].to_numpy(np.uint64) << np.uint64(40) ^ keys["index"].to_numpy(np.int64).astype(np.uint64)
    bits = bits + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64's finaliser
        bits = (bits ^ bits >> np.uint64(shift)) * np.uint64(factor)
    return ((bits ^ bits >> np.uint64(31)) % np.uint64(count)).astype(np.intp)


def _one_per_image(frame: pd.DataFrame, pair: Pair, metric: str = "iou") -> pd.DataFrame:
    """Keys of the sampled images with one column, the metric."""
    keys, values = viewlog.wide(_with_iou(frame), metric, "chosen", "a", "b")
    of_pairs, chosen = values[metric], values["chosen"]
    if pair == "chosen":
        return keys.assign(**{metric: of_pairs[chosen]})
    if pair == "first":
        first = (values["a"] == 0) & (values["b"] == 1)
        if (first.sum(1) != 1).any():
            raise HardlabError("The pair (0,1) is not among the candidates of every image of this view log.")
        return keys.assign(**{metric: of_pairs[first]})
    if pair == "others":
        if of_pairs.shape[1] < 2:
            raise HardlabError("This view log has one pair per image: there is no pair that was not selected.")
        return keys.assign(**{metric: np.where(chosen, 0, of_pairs).sum(1) / (of_pairs.shape[1] - 1)})
    raise HardlabError(f"There is no pair '{pair}' to take the IoU of. Allowed: chosen, first, others.")


def _with_iou(frame: pd.DataFrame) -> pd.DataFrame:
    return frame if "iou" in frame.columns else viewlog.metrics(frame)


def _per_epoch(per_image: pd.DataFrame, statistics: dict[str, str]) -> pd.DataFrame:
    return per_image.groupby(["run", "epoch"], observed=True, sort=True, as_index=False).agg(statistics)

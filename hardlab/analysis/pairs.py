"""Rows for the tables ``importance`` and ``predictability``, from the pairs in the view logs of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hardlab.analysis import importance, predict, viewlog
from hardlab.analysis.schema import TREES

LEAVES = (1, 10, 100)  # fewest rows in a leaf; the first grows trees to the end, as the package fanova does
SHARES = ("name", "leaf", "share", "lo", "hi", "n")
LEAST = 200  # images in a log that is large enough for leaves of 100 rows and for six pairs
COLLAPSED = 1e-4  # a smaller standard deviation of the loss leaves nothing to explain
_EPOCH, _IMAGE = ["run", "epoch"], ["run", "epoch", "step", "index"]
LEAST_CHOSEN = 20  # images in which each pair must have been chosen, so that it can be learned and tested


class Effort(NamedTuple):
    """How much of a run's log to use: pairs for the importance, images and settings for the prediction."""

    rows: int
    images: int
    grid: tuple[dict[str, Any], ...]


# tables are collected often: these take seconds for a smoke run, about ten seconds for a real one
SMOKE = Effort(2000, 500, ({"max_depth": 3, "n_estimators": 30},))
FULL = Effort(30_000, 30_000, predict.GRID)


def read(run_dir: Path | str) -> pd.DataFrame | None:
    """The view log of a run that selects pairs, with its metrics.

    None for runs without a selection, and for logs of fewer than ``LEAST`` images.
    """
    if not viewlog.segments(run_dir):
        return None
    log = viewlog.read(run_dir)
    candidates = log[["a", "b", "candidate"]].drop_duplicates()
    crop_sets = candidates.duplicated(["a", "b"]).any()
    if len(candidates) < 2 or crop_sets or len(log) < LEAST * len(candidates):
        return None
    return viewlog.metrics(log)


def importances(log: pd.DataFrame, effort: Effort) -> pd.DataFrame:
    """The share of the loss's variance per metric of HVS Fig. 9 and leaf size: name, leaf, share, lo, hi, n.

    lo, hi: over trees. n: rows used, drawn evenly over the run. Empty if the network collapsed.
    """
    return shares(log, effort.rows, LEAVES, TREES)


def shares(log: pd.DataFrame, count: int, leaves: Sequence[int], trees: int) -> pd.DataFrame:
    """As ``importances``, from ``count`` rows, for these leaf sizes, with so many trees.

    Empty if the network collapsed; a leaf size at which no tree can cut these few rows is left out.
    """
    rows = log.sample(min(count, len(log)), random_state=0)
    if len(rows) < 2 or rows["loss"].std() < COLLAPSED:
        return pd.DataFrame(columns=list(SHARES))
    metrics, loss, tables = importance.metrics(rows), rows["loss"], []
    for leaf in leaves:
        try:
            tables.append(importance.importance(metrics, loss, trees=trees, leaf=leaf).assign(leaf=leaf))
        except importance.NothingToExplain:
            continue
    if not tables:
        return pd.DataFrame(columns=list(SHARES))
    table = pd.concat(tables, ignore_index=True).rename(columns={"effect": "name"})
    return table.assign(n=len(rows))[list(SHARES)]


def by_leaf(logs: Mapping[str, pd.DataFrame], rows: int, leaves: Sequence[int], trees: int) -> pd.DataFrame:
    """The shares of each log's own forest, of ``rows`` pairs of all logs, at several sizes of its leaves.

    logs: run -> view log with its metrics. Returns a row per name and leaf: mean, min, max over the runs, and runs, the
    number of those with rows enough for such leaves; no row where none has.
    """
    tables = [shares(log, rows // len(logs), leaves, trees) for log in logs.values()]
    return _over_runs(tables, "leaf")


def by_epoch(logs: Mapping[str, pd.DataFrame], rows: int, leaf: int, trees: int, windows: int = 6) -> pd.DataFrame:
    """As ``by_leaf``, in up to ``windows`` windows of epochs instead, each named by its mean epoch."""
    epochs = np.unique(np.concatenate([log["epoch"].unique() for log in logs.values()]))
    tables = [
        shares(log[log["epoch"].isin(window)], rows // len(logs), [leaf], trees).assign(epoch=window.mean())
        for window in np.array_split(epochs, min(windows, len(epochs)))
        for log in logs.values()
    ]
    return _over_runs(tables, "epoch")


def _over_runs(tables: Sequence[pd.DataFrame], by: str) -> pd.DataFrame:
    frame = pd.concat([part for part in tables if len(part)] or tables[:1])
    groups = frame.astype({"share": float}).groupby(["name", by])["share"]
    return groups.agg(["mean", "min", "max", "size"]).rename(columns={"size": "runs"}).reset_index()


def parts(log: pd.DataFrame) -> pd.Series:
    """The shares of the loss's variance between epochs (and runs), between images of a step, and within an image."""
    epoch, image = (_mean_by(log, keys) for keys in (_EPOCH, _IMAGE))
    between = {"epochs and seeds": epoch, "images": image - epoch, "pairs of an image": log["loss"] - image}
    return pd.Series({name: part.var() / log["loss"].var() for name, part in between.items()}, name="share")


def within_image(log: pd.DataFrame) -> pd.DataFrame:
    """The log with each loss reduced by the mean of its image: what a selection among an image's pairs sees."""
    return log.assign(loss=log["loss"] - _mean_by(log, _IMAGE))


def _mean_by(log: pd.DataFrame, keys: list[str]) -> pd.Series:
    return log.groupby(keys, observed=True)["loss"].transform("mean")


def predictabilities(logs: dict[str, pd.DataFrame], effort: Effort) -> pd.DataFrame:
    """The rows of ``predict.predictability``, one per held-out run, with its name in ``run``; none for a single run.

    logs: run -> view log. Only runs that choose among the same pairs are trained and tested on each other.
    """
    alike: dict[tuple[tuple[int, int], ...], dict[str, pd.DataFrame]] = {}
    for name, log in logs.items():
        alike.setdefault(tuple(predict.candidates(log)), {})[name] = _images(log, effort.images)
    out = [_predicted(part, effort) for part in alike.values()]
    return pd.concat(out, ignore_index=True) if out else pd.DataFrame()


def _predicted(logs: dict[str, pd.DataFrame], effort: Effort) -> pd.DataFrame:
    """The rows for runs that all choose among the same pairs."""
    fewest = [log.groupby("candidate")["chosen"].sum().min() for log in logs.values()]
    if len(logs) < 2 or min(fewest) < LEAST_CHOSEN:
        return pd.DataFrame()
    accuracies = predict.predictability(list(logs.values()), grid=effort.grid)
    return accuracies.assign(run=list(logs)).drop(columns="held_out")


def _images(log: pd.DataFrame, count: int) -> pd.DataFrame:
    """All candidates of at most ``count`` images, drawn evenly over the run."""
    image = importance.images(log)
    sample = pd.Series(range(int(image.max()) + 1)).sample(frac=1, random_state=0)[:count]
    return log[pd.Series(image).isin(sample).to_numpy()]

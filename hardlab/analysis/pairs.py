"""What the view logs of runs tell of their pairs: rows for the tables ``importance`` and ``predictability``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from hardlab.analysis import importance, predict, viewlog
from hardlab.analysis.schema import TREES

LEAVES = (1, 10, 100)  # fewest rows in a leaf; the package fanova grows its trees to the end, as does the first
SHARES = ("name", "leaf", "share", "lo", "hi", "n")
LEAST = 200  # images of a log that says something of leaves of 100 rows and of six pairs
COLLAPSED = 1e-4  # the loss's standard deviation below which there is nothing to explain
LEAST_CHOSEN = 20  # images in which each pair must have been chosen, to be learned and found again


class Effort(NamedTuple):
    """How much of a run's log is looked at: pairs for the importance, images and settings for the prediction."""

    rows: int
    images: int
    grid: tuple[dict[str, Any], ...]


# the tables are collected often: seconds for a small run, about ten for one that counts
SMOKE = Effort(2000, 500, ({"max_depth": 3, "n_estimators": 30},))
FULL = Effort(30_000, 30_000, predict.GRID)


def read(run_dir: Path | str) -> pd.DataFrame | None:
    """The view log of a run that chose among pairs, with its metrics; None for others, and for fewer than ``LEAST``."""
    if not viewlog.segments(run_dir):
        return None
    log = viewlog.read(run_dir)
    some = log[["a", "b", "candidate"]].drop_duplicates()
    crop_sets = some.duplicated(["a", "b"]).any()
    if len(some) < 2 or crop_sets or len(log) < LEAST * len(some):
        return None
    return viewlog.metrics(log)


def importances(log: pd.DataFrame, effort: Effort) -> pd.DataFrame:
    """Share of the loss's variance per metric of HVS Fig. 9 and leaf size: name, leaf, share, lo, hi (over trees), n.

    n: rows that were looked at, drawn evenly over the run. Without rows where the network collapsed.
    """
    return shares(log, effort.rows, LEAVES, TREES)


def shares(log: pd.DataFrame, count: int, leaves: Sequence[int], trees: int) -> pd.DataFrame:
    """What ``importances`` gives, of ``count`` rows, these leaf sizes and so many trees.

    Without rows where the network collapsed, and for a leaf size at which no tree can cut these few rows.
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


def predictabilities(logs: dict[str, pd.DataFrame], effort: Effort) -> pd.DataFrame:
    """A row per held-out run of ``predict.predictability``, with its name in ``run``; none for a single run.

    Runs that choose among the same pairs learn from each other alone.
    """
    alike: dict[tuple[tuple[int, int], ...], dict[str, pd.DataFrame]] = {}
    for name, log in logs.items():
        alike.setdefault(tuple(predict.candidates(log)), {})[name] = _images(log, effort.images)
    out = [_predicted(some, effort) for some in alike.values()]
    return pd.concat(out, ignore_index=True) if out else pd.DataFrame()


def _predicted(some: dict[str, pd.DataFrame], effort: Effort) -> pd.DataFrame:
    """The rows of runs that choose among the same pairs."""
    fewest = [log.groupby("candidate")["chosen"].sum().min() for log in some.values()]
    if len(some) < 2 or min(fewest) < LEAST_CHOSEN:
        return pd.DataFrame()
    accuracies = predict.predictability(list(some.values()), grid=effort.grid)
    return accuracies.assign(run=list(some)).drop(columns="held_out")


def _images(log: pd.DataFrame, count: int) -> pd.DataFrame:
    """All candidates of at most ``count`` images, drawn evenly over the run."""
    image = importance.images(log)
    kept = pd.Series(range(int(image.max()) + 1)).sample(frac=1, random_state=0)[:count]
    return log[pd.Series(image).isin(kept).to_numpy()]

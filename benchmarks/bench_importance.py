"""Row D: our exact fANOVA against the package, and our t-SNE against scikit-learn's; ``RACES`` gives the rows.

The package is quadratic in the rows (two minutes at 10,000), so it gets one turn, and so do the long layouts; ours has
the median of several turns. Run as ``python benchmarks/bench_importance.py [fewer rows]``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.timing import Seconds
from hardlab.analysis import importance, negatives

METRICS, TREES, TURNS = 9, 16, 3


def rows_of(n: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Nine uniform metrics and a loss in which the first counts most, then the second; as much noise as signal."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, METRICS))
    y = np.exp(-2 * x[:, 0]) + 0.3 * x[:, 1] + 0.3 * x[:, 0] * x[:, 2] + 0.1 * np.sin(6 * x[:, 3])
    return pd.DataFrame(x, columns=[f"m{j}" for j in range(METRICS)]), y + y.std() * rng.standard_normal(n)


def seconds(turn: Callable[[], Any], turns: int = 1) -> tuple[Seconds, Any]:
    """Seconds of a turn, and its last answer."""
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        answer = turn()
        times.append(time.perf_counter() - start)
    return Seconds(times), answer


def fanova(rows: int = 10_000, sizes: Sequence[int] = (10_000, 30_000, 100_000, 300_000)) -> list[dict[str, Any]]:
    """First order, fully grown trees in both: the ratio, how our time grows with the rows, and the largest size."""
    settings: dict[str, Any] = {"trees": TREES, "leaf": 1}
    importance.importance(*rows_of(500), **settings)  # imports, threads
    x, y = rows_of(rows)
    ours, shares = seconds(lambda: importance.importance(x, y, **settings), TURNS)
    row = {
        "name": f"fANOVA, {METRICS} metrics, {TREES} trees, {rows} rows",
        "value": ours,
        "unit": "s",
        "target": 100.0,
    }
    if importlib.util.find_spec("fanova"):
        importance.importance(*rows_of(200), backend="fanova", **settings)
        theirs, peer = seconds(lambda: importance.importance(x, y, backend="fanova", **settings))
        apart, ratio = float((shares["share"] - peer["share"]).abs().max()), theirs / ours
        row |= {"peer": f"fanova, shares within {apart:.3f}", "ratio": ratio, "ok": ratio >= 100 and apart <= 0.02}
    else:
        row |= {"peer": "fanova: not installed", "ratio": None, "ok": None}
    taken = []
    for n in sizes:
        x, y = rows_of(n)
        taken.append(seconds(partial(importance.importance, x, y, **settings), TURNS if n <= 30_000 else 1)[0])
    growth = float(np.polyfit(np.log(sizes), np.log(taken), 1)[0])
    return [
        row,
        {"name": f"growth of the seconds with the rows, {sizes[0]} to {sizes[-1]}", "value": growth, "unit": "exponent",
         "peer": None, "ratio": None, "target": 1.3, "ok": growth <= 1.3},
        {"name": f"fANOVA, {METRICS} metrics, {TREES} trees, {sizes[-1]} rows in one pass", "value": taken[-1],
         "unit": "s", "peer": None, "ratio": None, "target": None, "ok": True},
    ]  # fmt: skip


def tsne(points: int = 20_000, dim: int = 128) -> list[dict[str, Any]]:
    """Unit vectors in 40 clusters, each library with its default number of steps (750 and 1000), all cores."""
    from sklearn.manifold import TSNE
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(0)
    label = rng.integers(40, size=points)
    x = rng.standard_normal((40, dim))[label] + 0.8 * rng.standard_normal((points, dim))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    jobs = os.cpu_count() or 1
    negatives.tsne(x[:500], iterations=1)
    before, now = seconds(lambda: negatives.tsne(x, jobs=jobs))
    theirs, peer = seconds(lambda: TSNE(2, init="pca", random_state=0, n_jobs=jobs).fit_transform(x))
    after = seconds(lambda: negatives.tsne(x, jobs=jobs))[0]
    ours = Seconds([*before.rounds, *after.rounds])  # on both sides: a machine drifts in minutes

    def kept(layout: np.ndarray) -> float:
        """The share of each point's ten nearest in the layout that are of its cluster."""
        near = NearestNeighbors(n_neighbors=11).fit(layout).kneighbors(layout[:2000], return_distance=False)[:, 1:]
        return float((label[near] == label[:2000, None]).mean())

    ratio, as_good = theirs / ours, kept(now) >= kept(peer) - 0.02
    name = f"t-SNE, {points} unit vectors of {dim} numbers, exact neighbours"
    return [{"name": name, "value": ours, "unit": "s", "peer": "scikit-learn TSNE", "ratio": ratio, "target": 3.0,
             "ok": as_good and ratio >= 3}]  # fmt: skip


RACES: dict[str, Callable[[], list[dict[str, Any]]]] = {"importance": fanova, "tsne": tsne}

if __name__ == "__main__":
    few = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    for line in fanova(few, [few, 3 * few, 10 * few, 30 * few]) + tsne(2 * few):
        print(json.dumps(line))

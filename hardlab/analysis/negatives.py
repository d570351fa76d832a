"""What negatives look like: AdCo's learned ones and MoCo's queue, beside the queries of the last six batches.

Everything is read from ``snapshots/`` of finished runs; the nearest real images need the checkpoint of the same step.
``scores`` and ``picture`` are what ``tables.collect`` writes of a run, as negatives.csv and adco_f2.csv.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.fft
import torch

from hardlab import build, numbers, run_folder
from hardlab.analysis.schema import SCORES
from hardlab.errors import HardlabError
from hardlab.evaluate.knn import neighbours
from hardlab.files import SNAPSHOT, as_expected, read_arrays

_NEIGHBOURS = 5  # whose mean position a point without a place of its own starts from
_FEW = 100  # points below which early exaggeration outweighs what keeps them apart
POINTS = 400  # negatives, and as many queries, in the layout of AdCo's Figure 2


class Bank(NamedTuple):
    """One snapshot: unit rows ``negatives`` (K,D) and ``queries`` (Q,D), the queries' ``rows`` (Q,) in the data set.

    norms: (K,) before normalisation. ages: (K,) how many keys came in since, or None where a row stays the same
    negative for the whole run, as AdCo's do.
    """

    step: int
    negatives: np.ndarray
    queries: np.ndarray
    rows: np.ndarray
    norms: np.ndarray
    ages: np.ndarray | None


class Reals(NamedTuple):
    """Un-augmented images in the space of the negatives: unit rows ``vectors`` (M,D), ``rows`` and ``labels`` (M,)."""

    vectors: np.ndarray
    rows: np.ndarray
    labels: np.ndarray


def banks(run_dir: Path | str) -> list[Bank]:
    """The snapshots of a run's negatives, oldest first, those before the first query left out.

    Raises HardlabError for a run that kept none.
    """
    snapshots = []
    for file in sorted((Path(run_dir) / "snapshots").glob(f"*{SNAPSHOT}"), key=lambda f: int(f.stem[-8:])):
        kept = read_arrays(file)
        if "negatives" in kept:
            with as_expected(file):
                bank = _bank(int(file.stem[-8:]), kept)
            if not len(bank.queries):
                continue
            if not (np.isfinite(bank.negatives).all() and np.isfinite(bank.queries).all()):
                raise HardlabError(f"'{file}' holds negatives or queries that are not finite: the run has diverged.")
            snapshots.append(bank)
    if not snapshots:
        raise HardlabError(f"'{run_dir}' kept no negatives: runs of moco and of the strategy adco do.")
    return snapshots


def _bank(step: int, kept: dict[str, np.ndarray]) -> Bank:
    negatives, queries, rows, ages = kept["negatives"], kept["queries"], kept["query_rows"], kept.get("ages")
    norms = kept["norms"] if "norms" in kept else np.linalg.norm(negatives, axis=1)
    if negatives.ndim != 2 or queries.ndim != 2 or queries.shape[1] != negatives.shape[1] or rows.dtype.kind != "i":
        raise ValueError(f"negatives {negatives.shape}, queries {queries.shape}")
    if len(rows) != len(queries) or any(a is not None and a.shape != negatives.shape[:1] for a in (norms, ages)):
        raise ValueError(
            f"{len(rows)} rows of {len(queries)} queries, {len(norms)} norms of {len(negatives)} negatives"
        )
    return Bank(step, negatives, queries, rows, norms, ages)


def microscope(bank: Bank, quantile: float = 0.95) -> pd.DataFrame:
    """A row per negative: norm, age, hardness, distance, outlier, query.

    hardness: cosine with its nearest query, whose row in the data set is ``query``; distance: Euclidean, to the same.
    outlier: whether it is farther from all queries than the ``quantile`` of queries are from all others.
    """
    nearest = (bank.negatives @ bank.queries.T).argmax(1)
    hardness = (bank.negatives * bank.queries[nearest]).sum(1)
    distance = _distance(hardness)
    return pd.DataFrame(
        {
            "norm": bank.norms,
            "age": np.full(len(distance), np.nan) if bank.ages is None else bank.ages,
            "hardness": hardness,
            "distance": distance,
            "outlier": distance > np.quantile(_between_queries(bank), quantile),
            "query": bank.rows[nearest],
        }
    )


def outliers(run_dirs: Sequence[Path | str], quantile: float = 0.95, resamples: int = 1000) -> pd.DataFrame:
    """The outlier score of AdCo's Figure 2 as a number: a row per run and snapshot, with run and step.

    share: of the negatives that are outliers (see ``microscope``); a sample of the queries themselves would score
    ``chance``, 1 - quantile. lo, hi: 95 % bootstrap over negatives and over the queries' distances. Medians: norm, age
    in keys, hardness, distance, and query_distance, of a query to its nearest other one; negatives, queries: how many.
    """
    out = []
    for run_dir in run_dirs:
        for bank in banks(run_dir):
            seen, between = microscope(bank, quantile), _between_queries(bank)
            rng = np.random.default_rng(0)
            shares = [_share(rng.choice(seen["distance"], len(seen)), rng.choice(between, len(between)), quantile)
                      for _ in range(resamples)]  # fmt: skip
            lo, hi = np.quantile(shares, [0.025, 0.975]) if resamples else (np.nan, np.nan)
            out.append(
                {"run": Path(run_dir).name, "step": bank.step, "share": seen["outlier"].mean(), "lo": lo, "hi": hi,
                 "chance": 1 - quantile, **seen[["norm", "age", "hardness", "distance"]].median(),
                 "query_distance": np.median(between), "negatives": len(seen), "queries": len(between)}
            )  # fmt: skip
    return pd.DataFrame(out)


def reals(run_dir: Path | str, step: int, count: int = 2000, root: Path | str | None = None) -> Reals:
    """The images of the queries and others, ``count`` in all, as the run's network put them at a checkpoint.

    Raises HardlabError where the checkpoint or the images are not there.
    """
    run, method, about = run_folder.open_run(Path(run_dir), step)
    images, look = build.images(run, root=root), build.look(run)
    run_folder.check_images(Path(run_dir).name, about["data"], images)
    spread = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(np.int64)
    bank = next(b for b in banks(run_dir) if b.step == step)
    rows = np.unique(np.concatenate([bank.rows[bank.rows >= 0], spread]))
    method.eval()
    with torch.no_grad():
        parts = [method.query(look.plain(b.raw, b.sizes))
                 for part in torch.from_numpy(rows).split(256) for b in images.batches(part[None])]  # fmt: skip
    return Reals(torch.cat(parts).numpy(), rows, images.targets[rows].numpy())


def nearest_real(bank: Bank, real: Reals) -> pd.DataFrame:
    """A row per negative: the nearest real image's row in the data set, its label, and the cosine with it."""
    similarity = bank.negatives @ real.vectors.T
    best = similarity.argmax(1)
    return pd.DataFrame({"image": real.rows[best], "label": real.labels[best], "cosine": similarity.max(1)})


def false_negatives(bank: Bank, real: Reals, hardest: int = 10, resamples: int = 1000) -> pd.DataFrame:
    """How many negatives would be positives if labels were known; labels serve this analysis alone.

    A negative has the label of its nearest real image. Returns two rows, of the ``hardest`` negatives of each query and
    of all: share that has the query's label, lo, hi (95 % bootstrap over queries), n queries.
    """
    known = {int(row): label for row, label in zip(real.rows, real.labels, strict=True)}
    use = np.array([int(row) in known for row in bank.rows], bool)
    if not use.any():
        raise HardlabError(f"No query of step {bank.step} is among the images whose labels are known.")
    labels = np.array([known[int(row)] for row in bank.rows[use]])
    nearest_label = nearest_real(bank, real)["label"].to_numpy()
    order = np.argsort(-(bank.queries[use] @ bank.negatives.T), axis=1)
    rng, out = np.random.default_rng(0), []
    for name, k in ((f"{hardest} hardest", hardest), ("all", len(nearest_label))):
        per_query = (nearest_label[order[:, :k]] == labels[:, None]).mean(1)  # (Q,)
        means = per_query[rng.integers(len(per_query), size=(resamples, len(per_query)))].mean(1)
        lo, hi = np.quantile(means, [0.025, 0.975])
        out.append({"negatives": name, "share": per_query.mean(), "lo": lo, "hi": hi, "n": len(per_query)})
    return pd.DataFrame(out)


def scores(run_dir: Path | str, root: Path | str | None = None) -> pd.DataFrame:
    """A row per snapshot with the columns ``SCORES``: those of ``outliers``; of the last one also what labels tell.

    false_hardest, false_all: share of false negatives among the ten hardest of each query, and among all;
    nearest_real: median cosine of a negative with its nearest real image. They are NaN for other snapshots, and where
    the checkpoint or the images (``root``: where data sets lie) are not there.
    """
    table = outliers([run_dir], resamples=0).drop(columns=["run", "lo", "hi"])
    last = banks(run_dir)[-1]
    try:
        real = reals(run_dir, last.step, root=root)
    except HardlabError:
        return table.reindex(columns=list(SCORES))
    hardest, every = false_negatives(last, real, resamples=1)["share"]
    seen = {"false_hardest": hardest, "false_all": every, "nearest_real": nearest_real(last, real)["cosine"].median()}
    table.loc[table["step"] == last.step, list(seen)] = list(seen.values())
    return table.reindex(columns=list(SCORES))


def picture(run_dir: Path | str) -> pd.DataFrame:
    """AdCo Fig. 2 of the last snapshot: kind, x, y, distance of at most ``POINTS`` negatives and as many queries.

    distance: of a negative to the nearest of these queries, of a query to the nearest of these negatives, 1 - cosine.
    step: of the snapshot. x and y are NaN where there is nothing to lay out, as where the network collapsed to a point.
    """
    last = banks(run_dir)[-1]
    some = [x[np.linspace(0, len(x) - 1, min(POINTS, len(x))).round().astype(int)] for x in last[1:3]]
    negatives, queries = (_unit(x.astype(np.float64)) for x in some)
    try:
        flat = layouts([last._replace(negatives=negatives, queries=queries)])[0]
    except HardlabError:
        flat = np.full((len(negatives) + len(queries), 2), np.nan)
    kind = ["negative"] * len(negatives) + ["query"] * len(queries)
    cosine = negatives @ queries.T
    distance = np.append(1 - cosine.max(1), 1 - cosine.max(0))
    return pd.DataFrame({"step": last.step, "kind": kind, "x": flat[:, 0], "y": flat[:, 1], "distance": distance})


def layouts(series: Sequence[Bank], perplexity: float = 30, iterations: int = 250, seed: int = 0) -> list[np.ndarray]:
    """t-SNE of each snapshot, (K+Q,2), negatives first; each starts from the last, so that pictures can be compared.

    A negative that stays the same one starts from its own last place, any other point from the mean place of its
    nearest neighbours in the last snapshot. The first layout starts from the first two principal components.
    """
    out: list[np.ndarray] = []
    for i, bank in enumerate(series):
        points = np.concatenate([bank.negatives, bank.queries])
        start = _placed(series[i - 1], out[-1], bank, points) if i else None
        out.append(tsne(points, start, perplexity, iterations, seed))
    return out


def _placed(last: Bank, places: np.ndarray, bank: Bank, points: np.ndarray) -> np.ndarray:
    before = np.concatenate([last.negatives, last.queries])
    nearest = np.argsort(-(points @ before.T), axis=1)[:, :_NEIGHBOURS]
    start = places[nearest].mean(1)
    if bank.ages is None and len(last.negatives) == len(bank.negatives):
        start[: len(bank.negatives)] = places[: len(bank.negatives)]
    # two points at one place would never part
    return start + np.random.default_rng(0).normal(0, 1e-3 * places.std(), start.shape)


def tsne(
    points: np.ndarray,
    start: np.ndarray | None = None,
    perplexity: float = 30,
    iterations: int = 500,
    seed: int = 0,
    jobs: int = 1,
) -> np.ndarray:
    """(N,2) layout of unit vectors ``points`` (N,D) by openTSNE with exact neighbours, the same each time with one job.

    start: (N,2) places to start from instead of the first two principal components and 250 steps of early exaggeration,
    which fewer than ``_FEW`` points do without, as do those that would fall onto one place. The perplexity is at most a
    third of the other points. HardlabError for fewer than 4 points, numbers that are not finite, points that are all
    the same, and layouts without extent.
    """
    import openTSNE

    points = np.ascontiguousarray(points)
    points = points.astype(points.dtype.newbyteorder("="), copy=False)
    if points.ndim != 2 or len(points) < 4:
        raise HardlabError(f"t-SNE needs at least 4 points, (points, D), not {points.shape}.")
    if not np.isfinite(points).all() or (start is not None and not np.isfinite(start).all()):
        raise HardlabError(
            "t-SNE of points that are not finite is not defined: the network that made them has diverged."
        )
    if (points == points[0]).all():
        raise HardlabError(f"all {len(points)} points are the same: there is nothing for t-SNE to lay out.")
    perplexity = numbers.fit("perplexity", Annotated[float, numbers.real(1, 1e9)], perplexity)
    iterations = numbers.fit("iterations", numbers.Count, iterations)
    wanted = min(perplexity, (len(points) - 1) / 3)
    rows, distances = _nearest(points, min(int(3 * wanted), len(points) - 1))
    index = openTSNE.nearest_neighbors.PrecomputedNeighbors(rows, distances)
    near = openTSNE.affinity.PerplexityBasedNN(knn_index=index, perplexity=wanted, n_jobs=jobs)
    first = openTSNE.initialization.pca(points, random_state=seed) if start is None else start
    # a tree costs n log n, interpolation on a grid n: openTSNE's own border
    gradient = "bh" if len(points) < 10_000 else "fft"
    # clusters form while attraction is exaggerated; in a layout that goes on from another it would tear them apart
    for exaggerated in (True, False) if start is None and len(points) >= _FEW else (False,):
        layout = openTSNE.TSNEEmbedding(first, near, negative_gradient_method=gradient, random_state=seed, n_jobs=jobs)
        with _scipy_transforms(jobs):
            if exaggerated:
                layout = layout.optimize(250, exaggeration=12, momentum=0.5)
            flat = np.asarray(layout.optimize(iterations, momentum=0.8))
        if np.isfinite(flat).all() and flat.std() > 1e-3:  # points that fell onto one place never part
            return flat
    raise HardlabError(f"t-SNE of {len(points)} points fell onto one place: take more points or another seed.")


def _nearest(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N,k) of the ``k`` points nearest to each of the unit vectors ``points`` (N,D) but itself, and distances."""
    vectors = torch.from_numpy(points).float()
    nearest = neighbours(vectors, vectors, k + 1)[1]
    others = nearest != torch.arange(len(nearest))[:, None]
    others[others.all(1), -1] = False  # more than k copies of a point hide it from itself
    rows = nearest[others].view(-1, k).numpy()
    apart = [np.linalg.norm(points[near] - point, axis=1) for point, near in zip(points, rows, strict=True)]
    return rows, np.stack(apart)


@contextmanager
def _scipy_transforms(jobs: int) -> Iterator[None]:
    """Give openTSNE scipy's Fourier transforms for numpy's, which give the same and take longer.

    Its wheels are built without FFTW, which it would take instead; such a build is left as it is.
    """
    from openTSNE._matrix_mul import matrix_mul

    class Numpy:
        fft = scipy.fft

        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

    numpy = getattr(matrix_mul, "np", None)
    try:
        if numpy is not None:
            matrix_mul.np = Numpy()
        with scipy.fft.set_workers(jobs):
            yield
    finally:
        if numpy is not None:
            matrix_mul.np = numpy


def _unit(x: np.ndarray) -> np.ndarray:
    """Rows (N,D) of length 1; a row of zeros stays as it is."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


def _distance(cosine: np.ndarray) -> np.ndarray:
    """Euclidean distance of unit vectors."""
    return np.sqrt(np.maximum(2 - 2 * cosine, 0))


def _between_queries(bank: Bank) -> np.ndarray:
    """(Q,) distance of each query to its nearest other one."""
    if len(bank.queries) < 2:
        raise HardlabError(f"The snapshot of step {bank.step} has one query: outliers are told by at least 2.")
    similarity = bank.queries @ bank.queries.T
    np.fill_diagonal(similarity, -np.inf)
    return _distance(similarity.max(1))


def _share(distance: np.ndarray, between: np.ndarray, quantile: float) -> float:
    return float((distance > np.quantile(between, quantile)).mean())

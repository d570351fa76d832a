"""Negatives under the microscope: AdCo's learned ones and MoCo's queue, with the queries of the last six batches.

Everything is read from the ``snapshots/`` of finished runs; finding the nearest real images also needs the checkpoint
of the same step. ``tables.collect`` writes ``scores`` to negatives.csv and ``picture`` to adco_f2.csv.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.fft
import torch

from hardlab import build, config, numbers, registry, rich, run_folder
from hardlab.analysis.schema import FROM_LABELS, SCORES
from hardlab.errors import HardlabError
from hardlab.evaluate.knn import neighbours
from hardlab.files import SNAPSHOT, as_expected, read_arrays

_NEIGHBOURS = 5  # a point without an earlier place starts at the mean place of so many neighbours
_FEW = 100  # with fewer points, early exaggeration outweighs the repulsion between them
POINTS = 400  # negatives, and as many queries, in the layout of AdCo's Figure 2


class Bank(NamedTuple):
    """One snapshot: unit rows ``negatives`` (K,D) and ``queries`` (Q,D), with the queries' ``rows`` (Q,) in the data.

    norms: (K,) before normalisation. ages: (K,) in keys enqueued since, or None if a row stays the same negative
    during the whole run, as in AdCo.
    """

    step: int
    negatives: np.ndarray
    queries: np.ndarray
    rows: np.ndarray
    norms: np.ndarray
    ages: np.ndarray | None

    def _about(self) -> dict[str, str]:
        seen = microscope(self)
        kind = "learned, without an age" if self.ages is None else f"of a queue, median age {np.median(self.ages):.0f}"
        return {
            "negatives": f"{len(self.negatives)} in {self.negatives.shape[1]} dimensions, {kind}",
            "queries": f"{len(self.queries)} of the last batches",
            "hardness": f"median cosine {seen['hardness'].median():.3f} with the nearest query",
            "outliers": f"{100 * seen['outlier'].mean():.1f} %, farther from all queries than 95 % of the queries",
        }

    def __repr__(self) -> str:
        lines = [f"Negatives at step {self.step}", *(f"  {key:10} {text}" for key, text in self._about().items())]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        counts, edges = np.histogram(microscope(self)["hardness"], 12)
        rows = [(f"{a:.2f} to {b:.2f}", rich.bar(n / counts.max()), n) for n, a, b in zip(counts, edges, edges[1:])]
        return (
            f"<p><b>Negatives at step {self.step}</b></p>{rich.table(self._about().items())}"
            f"{rich.table(rows, ('cosine with the nearest query', '', 'negatives'))}"
        )


class Reals(NamedTuple):
    """Un-augmented images embedded like the negatives: unit rows ``vectors`` (M,D), ``rows`` and ``labels`` (M,)."""

    vectors: np.ndarray
    rows: np.ndarray
    labels: np.ndarray


def banks(run_dir: Path | str) -> list[Bank]:
    """The snapshots of a run's negatives from the first query on, oldest first.

    Raises HardlabError for a run without snapshots of negatives.
    """
    snapshots = []
    for file in sorted((Path(run_dir) / "snapshots").glob(f"*{SNAPSHOT}"), key=lambda f: int(f.stem[-8:])):
        arrays = read_arrays(file)
        if "negatives" in arrays:
            with as_expected(file):
                bank = _bank(int(file.stem[-8:]), arrays)
            if not len(bank.queries):
                continue
            if not (np.isfinite(bank.negatives).all() and np.isfinite(bank.queries).all()):
                raise HardlabError(f"'{file}' holds negatives or queries that are not finite: the run has diverged.")
            snapshots.append(bank)
    if not snapshots:
        raise HardlabError(f"'{run_dir}' kept no negatives; runs of moco, and of the strategy adco, keep them.")
    return snapshots


def _bank(step: int, arrays: dict[str, np.ndarray]) -> Bank:
    negatives, queries, rows, ages = arrays["negatives"], arrays["queries"], arrays["query_rows"], arrays.get("ages")
    norms = arrays["norms"] if "norms" in arrays else np.linalg.norm(negatives, axis=1)
    if negatives.ndim != 2 or queries.ndim != 2 or queries.shape[1] != negatives.shape[1] or rows.dtype.kind != "i":
        raise ValueError(f"negatives {negatives.shape}, queries {queries.shape}")
    if len(rows) != len(queries) or any(a is not None and a.shape != negatives.shape[:1] for a in (norms, ages)):
        raise ValueError(
            f"{len(rows)} rows of {len(queries)} queries, {len(norms)} norms of {len(negatives)} negatives"
        )
    return Bank(step, negatives, queries, rows, norms, ages)


def microscope(bank: Bank, quantile: float = 0.95) -> pd.DataFrame:
    """A row per negative: norm, age, hardness, distance, outlier, query.

    query: row in the data set of the nearest query.
    hardness: cosine with that query.
    distance: Euclidean distance to that query.
    outlier: whether that distance exceeds the ``quantile`` of the queries' distances to their nearest other query.
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
    """The outlier score of AdCo's Figure 2: a row per run and snapshot, with run and step.

    share: of the negatives that are outliers (``microscope``).
    chance: 1 - quantile, the expected share for a sample of the queries themselves.
    lo, hi: 95 % bootstrap over negatives and over the queries' distances.
    norm, age, hardness, distance: medians over the negatives.
    query_distance: median distance of a query to its nearest other one.
    query_hardest: median cosine of a query with its nearest negative.
    negatives, queries: numbers of each.
    """
    out = []
    for run_dir in run_dirs:
        for bank in banks(run_dir):
            table, between = microscope(bank, quantile), _between_queries(bank)
            rng = np.random.default_rng(0)
            shares = [_share(rng.choice(table["distance"], len(table)), rng.choice(between, len(between)), quantile)
                      for _ in range(resamples)]  # fmt: skip
            lo, hi = np.quantile(shares, [0.025, 0.975]) if resamples else (np.nan, np.nan)
            out.append(
                {"run": Path(run_dir).name, "step": bank.step, "share": table["outlier"].mean(), "lo": lo, "hi": hi,
                 "chance": 1 - quantile, **table[["norm", "age", "hardness", "distance"]].median(),
                 "query_distance": np.median(between),
                 "query_hardest": np.median((bank.queries @ bank.negatives.T).max(1)),
                 "negatives": len(table), "queries": len(between)}
            )  # fmt: skip
    return pd.DataFrame(out)


def sides(run_dir: Path | str) -> pd.DataFrame:
    """Both sides of the distance of negatives and queries, a row per snapshot with its step.

    Medians of cosines: negative_nearest, of a negative with its nearest query; query_hardest, of a query with its
    nearest negative; query_middle, of a query with the middle one of all negatives. norm: the median |W|; decayed: what
    the norm of a negative that was never pulled would be (``decayed``). mass: mean share of the softmax that all
    learned negatives had in the last logged step. norm, decayed and mass are NaN where no negative is learned.
    """
    run, _ = config.read_run(Path(run_dir))
    learned = next((s for s in run.hard if s.name == "adco"), None)
    logged = run_folder.metrics(Path(run_dir), "step")
    out = []
    for bank in banks(run_dir):
        cosine = bank.queries @ bank.negatives.T  # (Q,K)
        row = {
            "step": bank.step,
            "negative_nearest": np.median(cosine.max(0)),
            "query_hardest": np.median(cosine.max(1)),
            "query_middle": np.median(np.median(cosine, axis=1)),
            "norm": np.nan,
            "decayed": np.nan,
            "mass": np.nan,
        }
        if learned is not None:
            options = {k: p.default for k, p in registry.options("strategy", "adco").items()} | learned.options
            filling = math.ceil(len(bank.norms) / run.batch_size) if options["init"] == "keys" else 0
            pulled = max(0, bank.step - filling)
            masses = [r["adco.mass_negatives"] for r in logged if r["step"] <= bank.step and "adco.mass_negatives" in r]
            row["norm"] = np.median(bank.norms)
            row["decayed"] = decayed(pulled, options["lr"], options["momentum"], options["weight_decay"])
            row["mass"] = masses[-1] if masses else np.nan
        out.append(row)
    return pd.DataFrame(out)


def decayed(steps: int, lr: float, momentum: float, decay: float) -> float:
    """The share of its length that a weight without any other gradient keeps after SGD steps with momentum."""
    w, v = 1.0, 0.0
    for _ in range(steps):
        v = momentum * v + decay * w
        w -= lr * v
    return w


def reals(run_dir: Path | str, step: int, count: int = 2000, root: Path | str | None = None) -> Reals:
    """Embed the images of the queries and further ones, ``count`` in all, with the network of a checkpoint.

    Raises HardlabError if the checkpoint or the images are missing.
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
    """A row per negative: the nearest real image's row in the data set, its label, and its cosine."""
    similarity = bank.negatives @ real.vectors.T
    best = similarity.argmax(1)
    return pd.DataFrame({"image": real.rows[best], "label": real.labels[best], "cosine": similarity.max(1)})


def false_negatives(bank: Bank, real: Reals, hardest: int = 10, resamples: int = 1000) -> pd.DataFrame:
    """The share of false negatives, which have the label of their query; training never uses these labels.

    A negative has the label of its nearest real image. Returns two rows, for the ``hardest`` negatives of each query
    and for all negatives: share, lo, hi (95 % bootstrap over queries), n queries.
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
    """A row per snapshot with the columns ``SCORES``: those of ``outliers``, and for the last one scores from labels.

    false_hardest, false_all: share of false negatives among the ten hardest of each query, and among all.
    nearest_real: median cosine of a negative with its nearest real image. These three are NaN for other snapshots, and
    if the checkpoint or the images are missing. root: the folder of the data sets.
    """
    table = outliers([run_dir], resamples=0).drop(columns=["run", "lo", "hi"])
    last = banks(run_dir)[-1]
    try:
        real = reals(run_dir, last.step, root=root)
    except HardlabError:
        return table.reindex(columns=list(SCORES))
    hardest, every = false_negatives(last, real, resamples=1)["share"]
    numbers = (hardest, every, nearest_real(last, real)["cosine"].median())
    table.loc[table["step"] == last.step, list(FROM_LABELS)] = numbers
    return table.reindex(columns=list(SCORES))


def picture(run_dir: Path | str) -> pd.DataFrame:
    """AdCo Fig. 2 for the last snapshot: kind, x, y, distance, step for up to ``POINTS`` negatives and queries each.

    distance: 1 - cosine of a negative with the nearest of these queries, or of a query with the nearest of these
    negatives. x and y are NaN if there is nothing to lay out, for example after a collapse to a point.
    """
    last = banks(run_dir)[-1]
    shown = [x[np.linspace(0, len(x) - 1, min(POINTS, len(x))).round().astype(int)] for x in last[1:3]]
    negatives, queries = (_unit(x.astype(np.float64)) for x in shown)
    try:
        flat = layouts([last._replace(negatives=negatives, queries=queries)])[0]
    except HardlabError:
        flat = np.full((len(negatives) + len(queries), 2), np.nan)
    kind = ["negative"] * len(negatives) + ["query"] * len(queries)
    cosine = negatives @ queries.T
    distance = np.append(1 - cosine.max(1), 1 - cosine.max(0))
    return pd.DataFrame({"step": last.step, "kind": kind, "x": flat[:, 0], "y": flat[:, 1], "distance": distance})


def layouts(series: Sequence[Bank], perplexity: float = 30, iterations: int = 250, seed: int = 0) -> list[np.ndarray]:
    """t-SNE layouts (K+Q,2) of the snapshots, negatives first; each starts from the one before, to be comparable.

    A negative that stays the same starts at its last place, any other point at the mean place of its nearest
    neighbours in the last snapshot. The first layout starts from the first two principal components.
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
    # two points at the same place would never separate
    return start + np.random.default_rng(0).normal(0, 1e-3 * places.std(), start.shape)


def tsne(
    points: np.ndarray,
    start: np.ndarray | None = None,
    perplexity: float = 30,
    iterations: int = 500,
    seed: int = 0,
    jobs: int = 1,
) -> np.ndarray:
    """Lay out unit vectors ``points`` (N,D) in the plane, (N,2), by openTSNE with exact neighbours.

    With one job the result is deterministic. start: places (N,2) to start from, instead of the first two principal
    components and 250 steps of early exaggeration. Fewer than ``_FEW`` points, and points that would collapse to one
    place, skip the exaggeration. The perplexity is at most a third of the number of other points. Raises HardlabError
    for fewer than 4 points, numbers that are not finite, points that are all equal, and layouts without extent.
    """
    import openTSNE

    points = np.ascontiguousarray(points)
    points = points.astype(points.dtype.newbyteorder("="), copy=False)
    if points.ndim != 2 or len(points) < 4:
        raise HardlabError(f"t-SNE needs at least 4 points, (points, D), not {points.shape}.")
    if not np.isfinite(points).all() or (start is not None and not np.isfinite(start).all()):
        raise HardlabError("t-SNE needs finite points: the network that made these has diverged.")
    if (points == points[0]).all():
        raise HardlabError(f"all {len(points)} points are the same: there is nothing for t-SNE to lay out.")
    perplexity = numbers.fit("perplexity", Annotated[float, numbers.real(1, 1e9)], perplexity)
    iterations = numbers.fit("iterations", numbers.Count, iterations)
    effective = min(perplexity, (len(points) - 1) / 3)
    rows, distances = _nearest(points, min(int(3 * effective), len(points) - 1))
    index = openTSNE.nearest_neighbors.PrecomputedNeighbors(rows, distances)
    affinities = openTSNE.affinity.PerplexityBasedNN(knn_index=index, perplexity=effective, n_jobs=jobs)
    first = openTSNE.initialization.pca(points, random_state=seed) if start is None else start
    # a tree costs n log n, interpolation on a grid n; openTSNE's threshold
    gradient = "bh" if len(points) < 10_000 else "fft"
    # clusters form while attraction is exaggerated; in a layout that continues another it would tear them apart
    for exaggerated in (True, False) if start is None and len(points) >= _FEW else (False,):
        layout = openTSNE.TSNEEmbedding(
            first, affinities, negative_gradient_method=gradient, random_state=seed, n_jobs=jobs
        )
        with _scipy_transforms(jobs):
            if exaggerated:
                layout = layout.optimize(250, exaggeration=12, momentum=0.5)
            flat = np.asarray(layout.optimize(iterations, momentum=0.8))
        if np.isfinite(flat).all() and flat.std() > 1e-3:  # points at the same place never separate
            return flat
    raise HardlabError(f"t-SNE of {len(points)} points collapsed to one place: take more points or another seed.")


def _nearest(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N,k) of the ``k`` nearest other points of each unit vector in ``points`` (N,D), and their distances."""
    vectors = torch.from_numpy(points).float()
    nearest = neighbours(vectors, vectors, k + 1)[1]
    is_other = nearest != torch.arange(len(nearest))[:, None]
    is_other[is_other.all(1), -1] = False  # more than k copies of a point hide it from itself
    rows = nearest[is_other].view(-1, k).numpy()
    distances = [np.linalg.norm(points[near] - point, axis=1) for point, near in zip(points, rows, strict=True)]
    return rows, np.stack(distances)


@contextmanager
def _scipy_transforms(jobs: int) -> Iterator[None]:
    """Let openTSNE use scipy's Fourier transforms, which are faster than numpy's and give the same result.

    Its wheels are built without FFTW; a build with FFTW is left as it is.
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
    """Rows (N,D) scaled to length 1; a row of zeros stays as it is."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


def _distance(cosine: np.ndarray) -> np.ndarray:
    """The Euclidean distance of unit vectors with this cosine."""
    return np.sqrt(np.maximum(2 - 2 * cosine, 0))


def _between_queries(bank: Bank) -> np.ndarray:
    """The distance (Q,) of each query to its nearest other one."""
    if len(bank.queries) < 2:
        raise HardlabError(f"The snapshot of step {bank.step} has one query: outliers need at least 2.")
    similarity = bank.queries @ bank.queries.T
    np.fill_diagonal(similarity, -np.inf)
    return _distance(similarity.max(1))


def _share(distance: np.ndarray, between: np.ndarray, quantile: float) -> float:
    return float((distance > np.quantile(between, quantile)).mean())

"""Functional ANOVA over the view log: the share of the loss's variance that each parameter, or pair of them, explains.

A tree is a sum of boxes with values. Its marginals are exact: a leaf adds its value, weighted by its extent in all
other dimensions, to the interval it covers in this one, so a first-order marginal takes one pass over the leaves and a
cumulative sum. fANOVA: Hutter, Hoos and Leyton-Brown (ICML 2014); HVS paper, Sec. 5.2 and Fig. 9.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from hardlab import numbers, rich
from hardlab.analysis import viewlog
from hardlab.analysis.intervals import interval
from hardlab.analysis.shown import Shown
from hardlab.errors import HardlabError
from hardlab.registry import unknown
from hardlab.views import PARAMS

Backend = Literal["forest", "xgboost", "fanova"]
FACTORS = ("brightness", "contrast", "saturation", "hue")
METRICS = ("iou", "centre_distance", "colour_distance", *FACTORS, "all")  # the bars of HVS Fig. 9
FLAGS = ("flip", "gray", "sigma", "solarize")  # on where they are above 0
DRAWN = tuple(p for p in PARAMS if p not in ("image_h", "image_w"))  # what is drawn for a view
_BARS = 12  # most effects of an order that are shown as bars
_STRIPE = 2**20  # numbers of a pair's marginal that are looked at together


def metrics(log: pd.DataFrame) -> pd.DataFrame:
    """The metrics of HVS Fig. 9, a row per logged pair: ``METRICS``.

    log: as ``viewlog.metrics`` returns, with its iou, centre_distance and colour_distance. brightness, contrast,
    saturation, hue: the absolute difference of the two views' strengths. all: the bar "all parameters jointly", which
    in the paper's code is the sum of the first three and of the number of flags that differ (departure V12).
    """
    differences = {f: (log[f"a_{f}"].astype(float) - log[f"b_{f}"]).abs() for f in FACTORS}
    flags = sum(((log[f"a_{f}"] > 0) != (log[f"b_{f}"] > 0)).astype(float) for f in FLAGS)
    three = log[list(METRICS[:3])].astype(float)
    return three.assign(**differences, all=three.sum(axis=1) + flags)


def parameters(log: pd.DataFrame) -> pd.DataFrame:
    """Every parameter drawn for either view, a row per logged pair; constant parameters are left out."""
    drawn = log[[f"{side}_{p}" for side in "ab" for p in DRAWN]].astype(float)
    return drawn.loc[:, drawn.nunique() > 1]


def images(log: pd.DataFrame) -> np.ndarray:
    """The number (N,) of each pair's sampled image, for ``importance`` to resample whole images."""
    return log.groupby([k for k in viewlog.KEY if k in log.columns], observed=True, sort=False).ngroup().to_numpy()


class Importance(Shown):
    """What ``importance`` returns: shares of the variance, which show themselves as bars in a notebook."""

    def summary(self) -> str:
        alone = self[self["order"] == 1]
        best = alone.loc[alone["share"].idxmax()]
        pairs = self.loc[self["order"] == 2, "share"].sum()
        more = f", the pairs {100 * pairs:.1f} % more" if len(alone) < len(self) else ""
        return (
            f"{len(alone)} parameters explain {100 * alone['share'].sum():.1f} % of the forest's variance alone{more}; "
            f"the largest share is {100 * best['share']:.1f} % of {best['effect']}."
        )

    def drawn(self) -> str:
        most = self["share"].max()
        top = self.sort_values("share", ascending=False).groupby("order", sort=True).head(_BARS)
        rows = [
            (r.effect, f"{100 * r.share:.2f} %", rich.bar(r.share / most), f"{100 * r.lo:.2f} to {100 * r.hi:.2f}")
            for r in top.sort_values(["order", "share"], ascending=[True, False]).itertuples()
        ]
        return rich.table(rows, ("effect", "share", "", "95 % over trees"))


class NothingToExplain(HardlabError):
    """There is no variance to explain: the response is constant, or no tree makes a cut."""


class Boxes(NamedTuple):
    """A piecewise constant function as a sum of boxes in [0,1]^d: lo, hi (L,d) with lo < hi, value (L,)."""

    lo: np.ndarray
    hi: np.ndarray
    value: np.ndarray

    @property
    def width(self) -> np.ndarray:
        return self.hi - self.lo


def tree_boxes(tree: Any, lo: np.ndarray, hi: np.ndarray) -> Boxes:
    """The leaves of a fitted scikit-learn tree as boxes, with the domain [lo, hi] (d,) scaled to the unit cube."""
    t = tree.tree_
    children = np.stack([t.children_left, t.children_right])
    return _leaves(children, t.feature, t.threshold, t.value[:, 0, 0], lo, hi)


def _leaves(
    children: np.ndarray, feature: np.ndarray, threshold: np.ndarray, value: np.ndarray, lo: np.ndarray, hi: np.ndarray
) -> Boxes:
    """children (2,n), -1 at leaves; feature, threshold, value (n,). Boxes without volume are left out."""
    low, high = np.tile(lo, (len(feature), 1)), np.tile(hi, (len(feature), 1))  # (n,d)
    level = np.array([0])
    while len(level := level[children[0, level] >= 0]):  # one pass per depth
        f, cut = feature[level], threshold[level]
        for side in (0, 1):
            below = children[side, level]
            low[below], high[below] = low[level], high[level]
            edge = high if side == 0 else low
            edge[below, f] = np.clip(cut, low[level, f], high[level, f])
        level = children[:, level].ravel()
    leaf = (children[0] < 0) & (high > low).all(1)
    scale = np.where(hi > lo, hi - lo, 1.0)
    return Boxes((low[leaf] - lo) / scale, (high[leaf] - lo) / scale, value[leaf])


def _edges(boxes: Boxes, j: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The grid of the boxes' edges in dimension j: lengths (E,), and each box's first and one-past-last cell (L,)."""
    edges = np.unique(np.concatenate([boxes.lo[:, j], boxes.hi[:, j]]))
    return np.diff(edges), np.searchsorted(edges, boxes.lo[:, j]), np.searchsorted(edges, boxes.hi[:, j])


def main_effects(boxes: Boxes, mean: float) -> np.ndarray:
    """The variance (d,) of each first-order marginal around the function's mean."""
    width, volume = boxes.width, boxes.width.prod(1)
    out = np.empty(boxes.lo.shape[1])
    for j in range(len(out)):
        lengths, first, last = _edges(boxes, j)
        steps = np.zeros(len(lengths) + 1)
        share = boxes.value * volume / width[:, j]
        np.add.at(steps, first, share)
        np.subtract.at(steps, last, share)
        out[j] = lengths @ (steps[:-1].cumsum() - mean) ** 2
    return out


def pair_effect(boxes: Boxes, mean: float, j: int, k: int) -> float:
    """Variance of the joint marginal of dimensions j and k; minus both main effects it is their interaction.

    The marginal is swept in stripes along j, so that memory stays bounded for any number of leaves.
    """
    width, volume = boxes.width, boxes.width.prod(1)
    rows, r0, r1 = _edges(boxes, j)
    columns, c0, c1 = _edges(boxes, k)
    share = boxes.value * volume / (width[:, j] * width[:, k])
    at = np.concatenate([r0, r0, r1, r1])
    column = np.concatenate([c0, c1, c0, c1])
    change = np.concatenate([share, -share, -share, share])
    order = np.argsort(at, kind="stable")
    at, column, change = at[order], column[order], change[order]
    carried, total, stripe = np.zeros(len(columns) + 1), 0.0, max(1, _STRIPE // (len(columns) + 1))
    for start in range(0, len(rows), stripe):
        end = min(start + stripe, len(rows))
        span = slice(*np.searchsorted(at, [start, end]))
        steps = np.zeros((end - start, len(columns) + 1))
        np.add.at(steps, (at[span] - start, column[span]), change[span])
        steps[0] += carried
        steps = steps.cumsum(0)
        carried = steps[-1]
        total += rows[start:end] @ ((steps[:, :-1].cumsum(1) - mean) ** 2 @ columns)
    return float(total)


def decompose(boxes: Boxes, pairs: Sequence[tuple[int, int]] = (), total: float | None = None) -> dict[tuple, float]:
    """Shares of the variance: key (j,) for a main effect, (j, k) for an interaction.

    total: the function's variance; None if the boxes are a single tree, whose variance is that of its leaves. Raises
    NothingToExplain if the function is constant.
    """
    volume = boxes.width.prod(1)
    mean = float(volume @ boxes.value)
    if total is None:
        total = float(volume @ (boxes.value - mean) ** 2)
    if not total > 1e-12 * max(1e-12, mean * mean):
        raise NothingToExplain("The function is the same everywhere: there is no variance to explain.")
    single = main_effects(boxes, mean)
    shares: dict[tuple, float] = {(j,): v / total for j, v in enumerate(single)}
    for j, k in pairs:
        shares[j, k] = (pair_effect(boxes, mean, j, k) - single[j] - single[k]) / total
    return shares


def importance(
    x: pd.DataFrame,
    y: np.ndarray | pd.Series,
    *,
    backend: Backend = "forest",
    trees: int = 16,
    leaf: int = 10,
    max_features: float = 0.7,
    pairs: bool = False,
    bootstrap: int = 0,
    refit_trees: int | None = None,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> Importance:
    """The share of the variance of ``y`` (N,) that each column of ``x`` (N,d) explains, alone and in pairs.

    Returns a row per effect: effect, order, share, lo, hi (95 % t-interval over the n trees: the forest's own noise),
    n, and with ``bootstrap`` boot_lo, boot_hi. Shares do not depend on the units of x and y. A tree or resample without
    variance, because it misses a rare value, has no shares; n is the number of trees that have.

    backend: ``forest``, ours, exact on each tree; ``fanova``, the original package, whose licence allows
        non-commercial use only (quadratic in N: at most thousands of rows; it does not cut half-way between the
        values of a flag); ``xgboost``, the same decomposition of a
        boosted ensemble.
    leaf: fewest rows in a leaf (for xgboost: the least child weight); it changes the shares, because a tree's total
        variance includes noise.
    pairs: whether to add the interactions of every two columns.
    bootstrap: the number of resamples of the rows, or of whole ``groups`` (N,); boot_lo and boot_hi are the share plus
        the 2.5 and 97.5 % quantiles of the resamples around their mean (resamples repeat rows, which shifts their
        level, not their spread).
    refit_trees: trees of each resample's forest (default: ``trees``).

    Raises HardlabError for columns that are not finite, no column, and fewer than 2 rows; NothingToExplain for a
    constant response, and for leaves so large that no tree makes a cut.
    """
    names = list(x.columns)
    trees, leaf = numbers.fit("trees", numbers.Many, trees), numbers.fit("leaf", numbers.Count, leaf)
    max_features = numbers.fit("max_features", numbers.PositiveShare, max_features)
    bootstrap = numbers.fit("bootstrap", numbers.ManyOrNone, bootstrap)
    try:
        rows, response = x.to_numpy(np.float64), np.asarray(y, np.float64)
    except (ValueError, TypeError) as e:
        raise HardlabError(f"Importance is defined for numbers only ({e}).") from None
    if len(rows) != len(response) or len(rows) < 2:
        raise HardlabError(
            f"Importance needs a response per row, at least 2: got {len(rows)} rows, {len(response)} responses."
        )
    if not (np.isfinite(rows).all() and np.isfinite(response).all()):
        raise HardlabError("Importance needs finite numbers: leave out rows with NaN or infinity.")
    if not names:
        raise HardlabError("Importance needs at least 1 column.")
    if (response == response[0]).all():
        raise NothingToExplain(f"All {len(response)} responses are {response[0]:g}: there is no variance to explain.")
    rows, response = _tame(rows), _tame(response[:, None])[:, 0]
    subsets = list(itertools.combinations(range(len(names)), 2)) if pairs else []
    effects = [*((j,) for j in range(len(names))), *subsets]
    makers: dict[str, Callable[..., list[list[float]]]] = {
        "forest": _forest,
        "xgboost": _xgboost,
        "fanova": _package,
    }
    if backend not in makers:
        raise unknown("importance backend", backend, makers)
    make = makers[backend]
    settings: dict[str, Any] = {"trees": trees, "leaf": leaf, "max_features": max_features}
    values = np.array(make(rows, response, subsets, seed=seed, **settings))  # (trees, effects)
    if np.isnan(values).all():
        raise NothingToExplain(
            f"No tree makes a cut in {len(rows)} rows with at least {leaf} in a leaf: none explains any variance."
        )
    out = []
    for effect, variances in zip(effects, values.T, strict=True):
        mean, lo, hi, n = interval(variances)
        out.append({"effect": " x ".join(names[j] for j in effect), "order": len(effect), "share": mean,
                    "lo": lo, "hi": hi, "n": n})  # fmt: skip
    table = pd.DataFrame(out)
    if bootstrap:
        refits, settings = [], settings | {"trees": refit_trees or trees}
        for i, variances in enumerate(_resamples(len(rows), groups, bootstrap, seed)):
            if (response[variances] == response[variances][0]).all():
                continue
            values = np.array(make(rows[variances], response[variances], subsets, seed=seed + 1 + i, **settings))
            if not (without := np.isnan(values).all(axis=1)).all():
                refits.append(values[~without].mean(axis=0))
        if not refits:
            raise NothingToExplain(f"None of {bootstrap} resamples of {len(rows)} rows shows any variance.")
        spread = np.quantile(np.array(refits) - np.mean(refits, axis=0), [0.025, 0.975], axis=0)
        table = table.assign(boot_lo=table["share"] + spread[0], boot_hi=table["share"] + spread[1])
    return Importance(table)


def interactions(
    x: pd.DataFrame,
    y: np.ndarray | pd.Series,
    *,
    explained: int = 10,
    trees: int = 4,
    leaf: int = 100,
    max_features: float = 0.7,
    seed: int = 0,
) -> pd.DataFrame:
    """A second view of the forest of ``importance``: Shapley interactions of its predictions, by the package shapiq.

    Returns a row per column and pair, the strongest first: effect, order, share (fANOVA, of the variance) and shapley,
    the mean absolute k-SII of order 2 over ``explained`` rows drawn at random, in units of y. fANOVA weighs all values
    in the columns' ranges alike, Shapley values those of the rows, so correlated columns may rank differently. It takes
    about a second for a row and four trees. k-SII: Bord and von Luxburg (AISTATS 2023); on trees: Muschalik and others
    (AAAI 2024).

    Raises HardlabError as ``importance`` does, and if shapiq is not installed.
    """
    try:
        import shapiq
    except ImportError as e:
        raise HardlabError(f"The package shapiq is not installed ({e}): install the extra 'shapiq'.") from e
    explained = numbers.fit("explained", numbers.Count, explained)
    settings: dict[str, Any] = {"trees": trees, "leaf": leaf, "max_features": max_features, "seed": seed}
    table = pd.DataFrame(importance(x, y, pairs=True, **settings))[["effect", "order", "share"]]
    rows, response = x.to_numpy(np.float64), np.asarray(y, np.float64)
    explain: Any = shapiq.TreeExplainer  # an `object` to mypy
    explainer = explain(_grown(rows, response, **settings), index="k-SII", max_order=2, min_order=1)
    chosen = np.random.default_rng(seed).choice(len(rows), min(explained, len(rows)), replace=False)
    values = [explainer.explain(row) for row in rows[chosen]]
    columns = range(x.shape[1])
    effects = [*((j,) for j in columns), *itertools.combinations(columns, 2)]  # in the order of the table
    table["shapley"] = [float(np.mean([abs(v[effect]) for v in values])) for effect in effects]
    return table.sort_values(["order", "shapley"], ascending=[True, False], ignore_index=True)


def backends(
    x: pd.DataFrame, y: np.ndarray | pd.Series, names: Sequence[Backend], *, trees: int = 16, leaf: int = 10
) -> pd.DataFrame:
    """The shares by several backends on the same rows, in per cent with half their interval, a column each."""
    columns = {}
    for name in names:
        shares = importance(x, y, backend=name, trees=trees, leaf=leaf).set_index("effect")
        half = 100 * (shares["hi"] - shares["lo"]) / 2
        columns[f"{name}, %"] = [f"{100 * share:.1f} ± {h:.1f}" for share, h in zip(shares["share"], half, strict=True)]
    return pd.DataFrame(columns, index=pd.Index(x.columns, name="effect"))


def _tame(columns: np.ndarray) -> np.ndarray:
    """Map to [0, 1] those columns (N,d) whose values trees cannot distinguish in float32 or by squares."""
    lo, hi = columns.min(0), columns.max(0)
    size = np.maximum(np.abs(lo), np.abs(hi))
    half = hi / 2 - lo / 2
    odd = (half > 0) & ((size > 1e12) | (half < 1e-5 * size) | (half < 1e-6))
    if not odd.any():
        return columns
    out = columns.copy()
    out[:, odd] = (columns[:, odd] / 2 - lo[odd] / 2) / half[odd]
    return out


def _resamples(rows: int, groups: np.ndarray | None, count: int, seed: int) -> Iterator[np.ndarray]:
    """The rows of ``count`` resamples: as many groups as there are, drawn with replacement."""
    group_of_row = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    order = np.argsort(group_of_row, kind="stable")
    size = np.bincount(group_of_row)
    first = np.cumsum(size) - size
    rng = np.random.default_rng(seed)
    for _ in range(count):
        drawn = rng.integers(len(size), size=len(size))
        within = np.arange(size[drawn].sum()) - np.repeat(np.cumsum(size[drawn]) - size[drawn], size[drawn])
        yield order[np.repeat(first[drawn], size[drawn]) + within]


def _domain(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bounding box of the rows; a constant column gets a width, so that volumes stay above zero."""
    lo, hi = rows.min(0), rows.max(0)
    return lo, np.where(hi > lo, hi, lo + 1)


def _listed(boxes: Boxes, pairs: list[tuple[int, int]], total: float | None = None) -> list[float]:
    """The share of each effect; NaN if the function is constant."""
    try:
        return list(decompose(boxes, pairs, total).values())
    except NothingToExplain:
        return [np.nan] * (boxes.lo.shape[1] + len(pairs))


def _grown(rows: np.ndarray, y: np.ndarray, trees: int, leaf: int, max_features: float, seed: int) -> Any:
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(
        trees, min_samples_leaf=leaf, max_features=max_features, random_state=seed, n_jobs=-1
    )  # fmt: skip
    return forest.fit(rows, y)


def _forest(
    rows: np.ndarray,
    y: np.ndarray,
    pairs: list[tuple[int, int]],
    *,
    trees: int,
    leaf: int,
    max_features: float,
    seed: int,
) -> list[list[float]]:
    forest = _grown(rows, y, trees, leaf, max_features, seed)
    lo, hi = _domain(rows)
    return [_listed(tree_boxes(tree, lo, hi), pairs) for tree in forest.estimators_]


def _xgboost(
    rows: np.ndarray,
    y: np.ndarray,
    pairs: list[tuple[int, int]],
    *,
    trees: int,
    leaf: int,
    max_features: float,
    seed: int,
) -> list[list[float]]:
    """A fifth as many boosted ensembles as the forest has trees, each of 100 rounds: one per tree would be slow."""
    import xgboost
    from scipy.stats import qmc

    lo, hi = _domain(rows)
    # it cuts at a value, not half-way to the one before: of a flag, all of [0, 1) would be off and nothing on
    uniques = [np.unique(column) for column in rows.astype(np.float32).T]
    halves = [(u[1:].astype(np.float64) + u[:-1]) / 2 for u in uniques]
    # the variance of a sum of trees has no short closed form: 2^15 points of a Sobol sequence, error about 1e-3
    points = lo + (hi - lo) * qmc.Sobol(rows.shape[1], seed=0).random_base2(15)
    points = np.stack([u[np.searchsorted(h, p)] for u, h, p in zip(uniques, halves, points.T, strict=True)], axis=1)
    out = []
    for i in range(max(2, trees // 5)):
        model = xgboost.XGBRegressor(
            n_estimators=100, max_depth=6, learning_rate=0.1, min_child_weight=leaf, subsample=0.7,
            colsample_bynode=max_features, random_state=seed + i, n_jobs=-1,
        ).fit(rows, y)  # fmt: skip
        frame = model.get_booster().trees_to_dataframe()
        base = float(model.predict(points[:1])[0] - _sum_at(frame, points[:1])[0])
        frame["Half"] = _half_way(frame, uniques, halves)
        parts = [_xgboost_tree(t, lo, hi) for _, t in frame.groupby("Tree", sort=True)]
        boxes = Boxes(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        boxes = Boxes(
            np.vstack([boxes.lo, np.zeros(rows.shape[1])]),
            np.vstack([boxes.hi, np.ones(rows.shape[1])]),
            np.append(boxes.value, base),
        )
        out.append(_listed(boxes, pairs, total=float(model.predict(points).astype(np.float64).var())))
    return out


def _half_way(frame: pd.DataFrame, uniques: list[np.ndarray], halves: list[np.ndarray]) -> np.ndarray:
    """Move each node's cut half-way to the value before it, which leaves the same rows on each side."""
    out = np.zeros(len(frame))
    for j, (values, half) in enumerate(zip(uniques, halves, strict=True)):
        splits = (frame["Feature"] == f"f{j}").to_numpy()
        at = np.searchsorted(values, frame["Split"].to_numpy(np.float32)[splits])
        out[splits] = half[np.clip(at - 1, 0, len(half) - 1)] if len(half) else 0.0
    return out


def _xgboost_tree(frame: pd.DataFrame, lo: np.ndarray, hi: np.ndarray) -> Boxes:
    place = {name: i for i, name in enumerate(frame["ID"])}
    leaf = (frame["Feature"] == "Leaf").to_numpy()
    children = np.stack([[place.get(c, -1) for c in frame[side]] for side in ("Yes", "No")])
    feature = np.array([0 if is_leaf else int(name[1:]) for name, is_leaf in zip(frame["Feature"], leaf, strict=True)])
    return _leaves(children, feature, frame["Half"].to_numpy(), frame["Gain"].to_numpy(), lo, hi)


def _sum_at(frame: pd.DataFrame, points: np.ndarray) -> np.ndarray:
    """Sum of the leaf values of all trees at a few points, walked node by node."""
    nodes = frame.set_index("ID")
    out = np.zeros(len(points))
    for i, point in enumerate(points):
        for root in frame.loc[frame["Node"] == 0, "ID"]:
            node = nodes.loc[root]
            while node["Feature"] != "Leaf":
                left = np.float32(point[int(node["Feature"][1:])]) < np.float32(node["Split"])
                node = nodes.loc[node["Yes"] if left else node["No"]]
            out[i] += node["Gain"]
    return out


def _package(
    rows: np.ndarray,
    y: np.ndarray,
    pairs: list[tuple[int, int]],
    *,
    trees: int,
    leaf: int,
    max_features: float,
    seed: int,
) -> list[list[float]]:
    """fanova 2.0.19, with its changes to logging undone and with explicit bounds, which it would get wrong itself."""
    handlers, level = logging.root.handlers[:], logging.root.level
    logging.getLogger("fanova").setLevel(logging.ERROR)
    existed = hasattr(np, "float")
    if not existed:
        np.float = float  # type: ignore[attr-defined]  # noqa: NPY001  gone since numpy 1.24, and fanova still uses it
    try:
        import ConfigSpace
        from fanova import fANOVA

        lo, hi = _domain(rows)
        rows = ((rows - lo) / np.where(hi > lo, hi - lo, 1.0)).clip(
            0, 1
        )  # its bounds are rounded: whole numbers are safe
        space = ConfigSpace.ConfigurationSpace()
        for j in range(rows.shape[1]):
            space.add(ConfigSpace.UniformFloatHyperparameter(f"x{j:03}", 0.0, 1.0))
        forest = fANOVA(
            rows, y, config_space=space, n_trees=trees, seed=seed, min_samples_leaf=leaf,
            max_features=max(1, round(max_features * rows.shape[1])), bootstrapping=True,
        )  # fmt: skip
        for effect in [(j,) for j in range(rows.shape[1])] + pairs:
            forest.quantify_importance(effect)
        variances = np.array(forest.trees_total_variance)
        variances[~(variances > 0)] = np.nan
        shares = [
            np.array([forest.V_U_individual[effect][t] for t in range(trees)]) / variances
            for effect in [(j,) for j in range(rows.shape[1])] + pairs
        ]
        return np.array(shares).T.tolist()
    except ImportError as e:
        raise HardlabError(f"The package fanova is not installed ({e}): install the extra 'fanova'.") from e
    except RuntimeError as e:  # of a forest in which no tree makes a cut
        if "zero total variance" not in str(e):
            raise
        return [[np.nan] * (rows.shape[1] + len(pairs))] * trees
    finally:
        logging.root.handlers[:], logging.root.level = handlers, level
        if not existed:
            del np.float  # type: ignore[attr-defined]  # noqa: NPY001

"""Predicting the chosen pair from the drawn parameters, without the network; HVS, Sec. 5.2: trees reach 41 %."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from hardlab.analysis import viewlog
from hardlab.analysis.importance import DRAWN
from hardlab.errors import HardlabError

# a small grid, searched by 5-fold cross-validation over images of the training seeds
GRID: tuple[dict[str, Any], ...] = (
    {"max_depth": 2, "n_estimators": 200},
    {"max_depth": 3, "n_estimators": 100},
    {"max_depth": 5, "n_estimators": 60},
)
FIXED: dict[str, Any] = {"learning_rate": 0.1, "subsample": 0.8, "colsample_bytree": 0.5, "max_bin": 64}
TUNED_ON = 3000  # most images in the search; the best setting is trained on all of them
PAIR = ("iou", "centre_distance", "colour_distance")  # metrics of a pair of views


def features(log: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Features of each image: every parameter of each of its views and every metric of each pair.

    log: ``viewlog.metrics`` of a run with selection. Returns features (G,F), the number (G,) of the chosen candidate,
    and the number (G,) of the one with the lowest IoU.
    """
    wide = viewlog.wide(log, "chosen", "a", "b", *PAIR, *(f"{s}_{p}" for s in "ab" for p in DRAWN))
    a, b = wide.values["a"][0], wide.values["b"][0]  # the pairs are the same for every image
    columns = {f"{m} of {i},{j}": wide.values[m][:, c] for m in PAIR for c, (i, j) in enumerate(zip(a, b, strict=True))}
    for view in sorted({*a, *b}):
        side, c = ("a", list(a).index(view)) if view in a else ("b", list(b).index(view))
        columns |= {f"{p} of {view}": wide.values[f"{side}_{p}"][:, c] for p in DRAWN}
    return pd.DataFrame(columns), wide.values["chosen"].argmax(1), wide.values["iou"].argmin(1)


def predictability(
    logs: Sequence[pd.DataFrame], *, grid: Sequence[dict[str, Any]] = GRID, folds: int = 5
) -> pd.DataFrame:
    """The accuracy of boosted trees on each seed's images, trained and tuned on the other seeds.

    logs: one per seed, ``viewlog.metrics`` of runs with selection. Returns a row per held-out seed: accuracy,
    lowest_iou (the accuracy of the rule "the pair with the lowest IoU"), chance, train and test images, the tuned
    settings, and the features used: each kind of feature, over all views and pairs, with its share of the gain. Raises
    HardlabError for fewer than 2 logs, logs with different pairs, a pair that was chosen in fewer images than there
    are folds, and a missing xgboost.
    """
    try:
        import xgboost
    except ImportError as e:
        raise HardlabError(f"xgboost is not installed ({e}): install the extra 'analysis'.") from e

    if len(logs) < 2:
        raise HardlabError(f"Prediction learns from all view logs but one: it needs at least 2, not {len(logs)}.")
    if folds < 2 or not grid:
        raise HardlabError(f"Prediction needs at least 2 folds and 1 setting, not {folds} and {len(grid)}.")
    drawn = [candidates(log) for log in logs]
    for i, slots in enumerate(drawn):
        if slots != drawn[0]:
            raise HardlabError(
                f"Log {i} has {len(slots)} pairs of {_views(slots)} views and log 0 has {len(drawn[0])} of "
                f"{_views(drawn[0])}: predict runs with different views separately."
            )
    inputs = [features(log) for log in logs]
    pairs = len(drawn[0])
    rows = []
    for held, (test, chosen, lowest) in enumerate(inputs):
        train = pd.concat([f for i, (f, _, _) in enumerate(inputs) if i != held], ignore_index=True)
        labels = np.concatenate([c for i, (_, c, _) in enumerate(inputs) if i != held])
        if len(np.unique(labels)) < pairs:
            raise HardlabError(f"Not every one of the {pairs} pairs was chosen in the training logs: log more images.")
        if len(grid) > 1:
            sample = _some(len(train))
            counts = np.bincount(labels[sample], minlength=pairs)
            if counts.min() < folds:
                raise HardlabError(
                    f"Pair {drawn[0][counts.argmin()]} was chosen in {counts.min()} of {len(sample)} images of the "
                    f"training logs, fewer than there are folds ({folds}): log more images, or take fewer folds."
                )
        model = xgboost.XGBClassifier(tree_method="hist", n_jobs=2, random_state=0, **FIXED)
        settings = _tuned(model, train, labels, grid, folds)
        model.set_params(**settings).fit(train, labels)
        gain = pd.Series(model.get_booster().get_score(importance_type="total_gain"))
        kinds = gain.groupby(gain.index.str.partition(" of ").get_level_values(0)).sum().sort_values(ascending=False)
        rows.append(
            {
                "held_out": held,
                "accuracy": float((model.predict(test) == chosen).mean()),
                "lowest_iou": float((lowest == chosen).mean()),
                "chance": 1 / pairs,
                "n_train": len(train),
                "n_test": len(test),
                "settings": ", ".join(f"{k}={v}" for k, v in settings.items()),
                "uses": ", ".join(f"{kind} {share:.2f}" for kind, share in (kinds / kinds.sum()).items()),
            }
        )
    return pd.DataFrame(rows)


def candidates(log: pd.DataFrame) -> list[tuple[int, int]]:
    """The two slots of each candidate, in the order of the candidates."""
    slots = log[["candidate", "a", "b"]].drop_duplicates().sort_values("candidate")
    return list(zip(slots["a"].tolist(), slots["b"].tolist(), strict=True))


def _views(pairs: list[tuple[int, int]]) -> int:
    return len({view for pair in pairs for view in pair})


def _some(count: int) -> np.ndarray:
    """The rows used in the search: at most ``TUNED_ON``, evenly spaced."""
    return np.random.default_rng(0).permutation(count)[:TUNED_ON]


def _tuned(
    model: Any, train: pd.DataFrame, labels: np.ndarray, grid: Sequence[dict[str, Any]], folds: int
) -> dict[str, Any]:
    """The settings of the grid with the best accuracy in cross-validation."""
    if len(grid) == 1:
        return dict(grid[0])
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    sample = _some(len(train))
    grids = [{key: [value] for key, value in settings.items()} for settings in grid]
    search = GridSearchCV(model, grids, cv=StratifiedKFold(folds, shuffle=True, random_state=0), refit=False)
    return dict(search.fit(train.iloc[sample], labels[sample]).best_params_)

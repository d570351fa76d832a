"""Can the chosen pair be predicted from what was drawn, without the network? HVS, Sec. 5.2: trees get at most 41 %."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from hardlab.analysis import viewlog
from hardlab.types import HardlabError
from hardlab.views import PARAMS

# a small grid, searched by 5-fold cross-validation over images of the training seeds
GRID: tuple[dict[str, Any], ...] = (
    {"max_depth": 4, "learning_rate": 0.1, "n_estimators": 100},
    {"max_depth": 6, "learning_rate": 0.1, "n_estimators": 100},
    {"max_depth": 6, "learning_rate": 0.05, "n_estimators": 200},
)
PAIR = ("iou", "centre_distance", "colour_distance")  # what two views have in common
DRAWN = tuple(p for p in PARAMS if p not in ("image_h", "image_w"))


def features(log: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """A row per image: every parameter of each of its views and every metric of each pair.

    log: ``viewlog.metrics`` of a run with selection. Returns (G,F) features, (G,) number of the chosen candidate, and
    (G,) number of the one with the lowest IoU.
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
    """Accuracy of boosted trees on each seed's images, trained and tuned on the other seeds.

    logs: one per seed, ``viewlog.metrics`` of runs with selection. Returns a row per held-out seed: accuracy,
    lowest_iou (the accuracy of the rule "the pair with the lowest IoU"), chance, train and test images, the tuned
    settings, and the features used most, with their share of the gain. Raises HardlabError for fewer than 2 logs.
    """
    import xgboost
    from sklearn.model_selection import GridSearchCV

    if len(logs) < 2:
        raise HardlabError(f"{len(logs)} view logs: one is held out and the others are learned from, so at least 2.")
    made = [features(log) for log in logs]
    pairs = max(int(chosen.max()) for _, chosen, _ in made) + 1
    rows = []
    for held, (test, chosen, lowest) in enumerate(made):
        train = pd.concat([f for i, (f, _, _) in enumerate(made) if i != held], ignore_index=True)
        labels = np.concatenate([c for i, (_, c, _) in enumerate(made) if i != held])
        if len(np.unique(labels)) < pairs:
            raise HardlabError(f"Not every one of the {pairs} pairs was chosen in the training logs: log more images.")
        search = GridSearchCV(
            xgboost.XGBClassifier(tree_method="hist", n_jobs=2, random_state=0),
            [{key: [value] for key, value in settings.items()} for settings in grid],
            cv=folds,
        )
        search.fit(train, labels)
        gain = search.best_estimator_.get_booster().get_score(importance_type="total_gain")
        most = sorted(gain, key=gain.__getitem__, reverse=True)[:5]
        rows.append(
            {
                "held_out": held,
                "accuracy": float((search.predict(test) == chosen).mean()),
                "lowest_iou": float((lowest == chosen).mean()),
                "chance": 1 / pairs,
                "n_train": len(train),
                "n_test": len(test),
                "settings": str(search.best_params_),
                "uses": "; ".join(f"{f} {gain[f] / sum(gain.values()):.2f}" for f in most),
            }
        )
    return pd.DataFrame(rows)

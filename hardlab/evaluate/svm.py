"""Linear one-vs-rest SVMs on frozen features, full and low-shot, and their average precision."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal

import numpy as np
from torch import Tensor

from hardlab import numbers
from hardlab.evaluate.published import COST, TYPES
from hardlab.types import HardlabError

Reading = Literal["union", "own"]
READINGS = ("union", "own")


def normalised(features: Tensor) -> np.ndarray:
    """Features (N,D) of about unit length in float64, f / (|f| + 1e-5); HardlabError if they are not finite.

    The published 1e-5 assumes features of about unit size, so features without a number between 1e-3 and 1e100 are
    first scaled to a largest number of 1.
    """
    f = features.detach().double().cpu().numpy()
    top = float(np.abs(f).max(initial=0.0))
    if not np.isfinite(top):
        raise HardlabError("the features of an SVM hold NaN or infinity: the network that made them has diverged.")
    if top and not 1e-3 <= top <= 1e100:
        f = f / top
    return f / (np.linalg.norm(f, axis=1) + 1e-5)[:, None]


def one_hot(labels: Tensor, classes: int) -> np.ndarray:
    """One-hot labels (N,C) int8 from labels (N,) in 0..C-1."""
    return (labels.cpu().numpy()[:, None] == np.arange(classes)).astype(np.int8)


def fit(x: np.ndarray, hot: np.ndarray, cost: float | Sequence[float] = COST, seed: int = 0) -> Any:
    """The SVM of one class: squared hinge, twice the weight on positives, tol 1e-4, at most 2000 passes of LIBLINEAR.

    x (N,D) normalised; hot (N,): 1, 0, or -1 = difficult only, which is left out. cost: C, or several, of which
    threefold cross-validation chooses the one with the highest average precision (Goyal et al. 2019; PCL's code).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import cross_val_score

    labelled = hot >= 0
    x, sign = (x, hot) if labelled.all() else (x[labelled], hot[labelled])
    sign = np.where(sign > 0, 1, -1)
    penalty: Any = numbers.fit("c of an SVM", TYPES["c"], cost)
    costs = list(penalty) if isinstance(penalty, tuple) else [penalty]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 2000 passes are the published budget, enough or not
        if len(costs) > 1:
            if (few := int(min((sign > 0).sum(), (sign < 0).sum()))) < 3:
                raise HardlabError(
                    f"a class with {few} images on one side cannot be cross-validated in three folds; set a single c."
                )
            accuracies = [
                cross_val_score(_machine(c, seed), x, sign, cv=3, scoring="average_precision").mean() for c in costs
            ]
            costs = [costs[int(np.argmax(accuracies))]]
        return _machine(costs[0], seed).fit(x, sign)


def _machine(cost: float, seed: int) -> Any:
    try:
        from sklearn.svm import LinearSVC
    except ImportError as e:
        raise HardlabError("linear SVMs come with scikit-learn: install hardlab[workbook].") from e
    return LinearSVC(
        C=cost, class_weight={1: 2, -1: 1}, penalty="l2", loss="squared_hinge", tol=1e-4, dual=True, max_iter=2000,
        intercept_scaling=1.0, random_state=seed,
    )  # fmt: skip


def scores(
    train_x: np.ndarray,
    train_hot: np.ndarray,
    test_x: np.ndarray,
    cost: float | Sequence[float] = COST,
    seed: int = 0,
    rows: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """Decision values (Q,C) of one SVM per class. rows: for each class, the training rows of its SVM."""
    check(train_hot)
    out = np.empty((len(test_x), train_hot.shape[1]))
    for c in range(train_hot.shape[1]):
        x, hot = (train_x, train_hot[:, c]) if rows is None else (train_x[rows[c]], train_hot[rows[c], c])
        out[:, c] = fit(x, hot, cost, seed).decision_function(test_x)
    return out


def check(hot: np.ndarray) -> None:
    """Refuse labels (N,C) if a class has no positive or no negative image. Raises HardlabError."""
    for c in range(hot.shape[1]):
        for verb, members in (("shows", hot[:, c] > 0), ("lacks", hot[:, c] == 0)):
            if not members.any():
                raise HardlabError(f"no training image {verb} class {c}: an SVM needs images with and without it.")


def draw(hot: np.ndarray, k: int, reading: Reading, seed: int) -> list[np.ndarray]:
    """The training rows of each class in one low-shot draw of ``k`` from labels (N,C).

    reading: "union", k images per class, all used by every SVM (PCL); "own", k positives and 19 k negatives of the
    class, or as many as exist (Goyal et al.). Raises HardlabError if a class has fewer than k images.
    """
    if reading not in READINGS:
        raise HardlabError(f"the reading of low-shot is 'union' or 'own', not {reading!r}.")
    count: Any = k
    if isinstance(count, bool) or not isinstance(count, Integral) or k < 1:
        raise HardlabError(f"shots={k!r}: the images drawn of each class must be a whole number of at least 1.")
    rng = np.random.default_rng([seed, k])
    positive, negative = [], []
    for c in range(hot.shape[1]):
        positives = np.flatnonzero(hot[:, c] > 0)
        if len(positives) < k:
            raise HardlabError(f"class {c} has {len(positives)} training images, fewer than the {k} to draw.")
        positive.append(rng.choice(positives, k, replace=False))
        negatives = np.flatnonzero(hot[:, c] == 0)
        negative.append(rng.choice(negatives, min(19 * k, len(negatives)), replace=False))
    if reading == "union":
        return [np.unique(np.concatenate(positive))] * hot.shape[1]
    return [np.concatenate(sides) for sides in zip(positive, negative, strict=True)]


def class_ap(hot: np.ndarray, predicted: np.ndarray) -> float:
    """Area under the falling envelope of precision over recall: the AP of VOC since 2010, of Goyal's and PCL's code.

    hot (Q,): 1, 0, or -1 = difficult only, which does not count. predicted: scores (Q,). Images of equal score enter
    together, so their order does not matter. NaN if no image shows the class.
    """
    labelled = hot >= 0
    precision, recall = _curve(hot[labelled] > 0, predicted[labelled])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope)) if len(recall) else float("nan")


def image_ap(hot: np.ndarray, predicted: np.ndarray) -> float:
    """AdCo's metric: average precision over the classes of each image (Q,C), without envelope, then over the images.

    VOC_CLF/utils.py, get_ap_score. There, classes that are only difficult count as absent. Images without a class are
    left out here; scikit-learn would give them a precision of 0.
    """
    precisions = []
    for labels, score in zip(hot > 0, predicted, strict=True):
        if labels.any():
            precision, recall = _curve(labels, score)
            precisions.append(np.sum(np.diff(recall, prepend=0.0) * precision))
    return float(np.mean(precisions)) if precisions else float("nan")


def _curve(positive: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall at each distinct score, descending; empty if nothing is positive."""
    if not positive.any():
        return np.empty(0), np.empty(0)
    order = np.argsort(-predicted, kind="stable")
    last = np.append(np.diff(predicted[order]) != 0, True)  # of the images with one score
    hits = np.cumsum(positive[order])[last]
    return hits / (np.flatnonzero(last) + 1), hits / positive.sum()

"""Runs one of the published evaluation protocols."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from hardlab.data import Images
from hardlab.evaluate import svm
from hardlab.evaluate.features import Crop, Features, Rendered, check_features
from hardlab.evaluate.finetune import Part, Tuned, finetune
from hardlab.evaluate.knn import knn
from hardlab.evaluate.labels import labelled
from hardlab.evaluate.linear import Fresh, Probe, held_out, lbfgs, linear_probe
from hardlab.evaluate.published import KS, PLACE, SHOTS, UNSET, find, settings
from hardlab.types import HardlabError
from hardlab.views import Look


class Row(TypedDict):
    """One number from a protocol. cost_s: seconds of the whole protocol without the extraction of features."""

    protocol: str
    metric: str
    value: float
    n_train: int
    n_test: int
    seed: int
    cost_s: float
    options: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A network and a data set to evaluate; only what a protocol asks for is computed.

    features: blocks -> frozen features of plain images; for a ViT, of the last ``blocks`` side by side.
    net, look, train, test: the network and the images, None if only features exist.
    size: pixels; None = the look's own.
    crop, precision: as in ``extract``.
    root: the folder of the data sets.
    """

    features: Callable[[int], Features]
    net: nn.Module | None = None
    look: Look | None = None
    train: Images | None = None
    test: Images | None = None
    size: int | None = None
    crop: Crop = "whole"
    precision: str = "fp32"
    root: str | Path | None = None

    def network(self) -> tuple[nn.Module, Look, Images, Images]:
        """The network, its look, training and test images; HardlabError if there is no network."""
        if self.net is None or self.look is None or self.train is None or self.test is None:
            raise HardlabError("this protocol needs the network, but only features were given.")
        return self.net, self.look, self.train, self.test


def given(*parts: Any) -> Task:
    """A task from existing features: the fields of ``Features`` in order."""
    return Task(lambda blocks: Features(*parts))


class Measured(NamedTuple):
    """The result of a protocol: numbers by metric, and accuracies by name for each epoch of its classifier.

    data: the test set, if it is the protocol's own and not the task's.
    """

    values: dict[str, float]
    n_train: int
    n_test: int
    curves: Mapping[str, Sequence[float]] = MappingProxyType({})
    data: str | None = None


class Outcome(NamedTuple):
    """Rows of final numbers, and those of the classifier's epochs, which hold ``classifier_epoch`` (1, 2, ...)."""

    rows: list[Row]
    curves: list[dict[str, Any]]
    data: str | None = None  # as in ``Measured``


def encoder(net: nn.Module, blocks: int) -> Callable[[Tensor], Tensor]:
    """(N,3,S,S) -> (N,D): the pooled features, or those of the last ``blocks`` of a network with ``last_blocks``."""
    last: Callable[[Tensor, int], Tensor] | None = getattr(net, "last_blocks", None)
    return net if blocks == 1 or last is None else lambda x: last(x, blocks)


def _knn(task: Task, seed: int, *, ks: Sequence[int], temperature: float) -> Measured:
    """Skip published values of k for which the training set is too small; a k that the user sets must fit."""
    f, ks = task.features(1), tuple(ks)
    if ks == KS:
        ks = tuple(k for k in KS if k <= len(f.train_f))
        if not ks:
            raise HardlabError(f"{len(f.train_f)} training samples are too few for kNN: at least {min(KS)} are needed.")
    accuracies = knn(*f[:4], ks=ks, temperature=temperature)
    return Measured({f"top1@k={k}": value for k, value in accuracies.items()}, len(f.train_f), len(f.test_f))


def _linear(
    task: Task,
    seed: int,
    *,
    lr: float | Sequence[float],
    epochs: int | Sequence[int],
    augment: str,
    blocks: int,
    **options: Any,
) -> Measured:
    """The last epoch is the main number; the best epoch, chosen on the test set, is reported beside it."""
    f = task.features(blocks)

    def fresh(features: Tensor | None = None) -> Fresh | None:
        if augment == "none":
            return None
        net, look, train, _ = task.network()
        pixels = Rendered(augment, look, task.size, task.crop, seed)
        draw = pixels.features(encoder(net, blocks), train, task.precision)
        return draw if features is None else lambda order: draw([features[rows] for rows in order])

    def probed(halves: Halves, draw: Fresh | None, settings: Mapping[str, Any]) -> Probe:
        lr, epochs = settings["lr"], settings["epochs"]
        return linear_probe(*halves, seed=seed, lr=lr, epochs=epochs, fresh=draw, **options)

    def score(settings: Mapping[str, Any], rest: Tensor, held: Tensor) -> float:
        return probed(_held(f, rest, held), fresh(rest), settings).top1[-1]

    settings, more = _chosen({"lr": lr, "epochs": epochs}, f.train_y, score)
    probe = probed(f[:4], fresh(), settings)
    values = _accuracies(probe.top1, probe.top5) | {"train-loss": probe.objective} | more
    return Measured(values, len(f.train_f), len(f.test_f), {"top1": probe.top1, "top5": probe.top5})


Halves = tuple[Tensor, Tensor, Tensor, Tensor]  # features and labels for training and for testing


def _held(f: Features, rest: Tensor, held: Tensor) -> Halves:
    """Split the training half into rows to train on and rows to test on."""
    return f.train_f[rest], f.train_y[rest], f.train_f[held], f.train_y[held]


def _chosen(
    grid: Mapping[str, Any], labels: Tensor, score: Callable[[Mapping[str, Any], Tensor, Tensor], float]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Choose one value of each setting by accuracy on a held-out tenth; also returns the chosen values as numbers.

    grid: setting -> a value, or several. score(settings, rows to train on, rows to test on); of equal scores the first
    wins.
    """
    values = {name: list(value) if isinstance(value, (list, tuple)) else [value] for name, value in grid.items()}
    combinations = [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]
    if len(combinations) == 1:
        return combinations[0], {}
    rest, held = held_out(labels)
    best = max(combinations, key=lambda settings: _or_zero(score, settings, rest, held))
    return best, {f"chosen-{name}": best[name] for name in values if len(values[name]) > 1}


def _or_zero(
    score: Callable[[Mapping[str, Any], Tensor, Tensor], float], settings: Mapping[str, Any], rest: Tensor, held: Tensor
) -> float:
    """The score, or 0 if training diverges or does not converge: other settings of the grid may work."""
    try:
        return score(settings, rest, held)
    except HardlabError as e:
        if "diverged" not in str(e) and "no optimum" not in str(e):
            raise
        return 0.0


def _accuracies(top1: Sequence[float], top5: Sequence[float]) -> dict[str, float]:
    out = {"top1-last": top1[-1], "top1-best": max(top1)}
    return out | ({"top5-last": top5[-1], "top5-best": max(top5)} if top5 else {})


def _lbfgs(task: Task, seed: int, *, c: float | Sequence[float], **options: Any) -> Measured:
    f = task.features(1)

    def score(settings: Mapping[str, Any], rest: Tensor, held: Tensor) -> float:
        return lbfgs(*_held(f, rest, held), c=settings["c"], **options).top1[-1]

    settings, more = _chosen({"c": c}, f.train_y, score)
    probe = lbfgs(*f[:4], c=settings["c"], **options)
    top5 = {"top5": probe.top5[-1]} if probe.top5 else {}
    values = {"top1": probe.top1[-1], **top5, "objective": probe.objective} | more
    return Measured(values, len(f.train_f), len(f.test_f))


def _hot(f: Features) -> tuple[np.ndarray, np.ndarray]:
    """The labels of both halves, (N,C) and (Q,C), with several classes per image if the set has them."""
    if f.train_hot is not None and f.test_hot is not None:
        return f.train_hot.cpu().numpy(), f.test_hot.cpu().numpy()
    classes = check_features(*f[:4])
    return svm.one_hot(f.train_y, classes), svm.one_hot(f.test_y, classes)


def _precisions(test_hot: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    precisions = [svm.class_ap(hot, score) for hot, score in zip(test_hot.T, scores.T, strict=True)]
    return {"mAP": float(np.nanmean(precisions)), "ap-per-image": svm.image_ap(test_hot, scores)}


def _svm(task: Task, seed: int, *, c: float | Sequence[float]) -> Measured:
    f = task.features(1)
    train_hot, test_hot = _hot(f)
    scores = svm.scores(svm.normalised(f.train_f), train_hot, svm.normalised(f.test_f), c, seed)
    values = _precisions(test_hot, scores)
    for i in range(scores.shape[1]):
        if (test_hot[:, i] > 0).any():
            values[f"ap:{f.classes[i] if f.classes else i}"] = svm.class_ap(test_hot[:, i], scores[:, i])
    return Measured(values, len(f.train_f), len(f.test_f))


def _low_shot(
    task: Task, seed: int, *, shots: Sequence[int], draws: int, reading: svm.Reading, c: float | Sequence[float]
) -> Measured:
    """Skip published numbers of shots for which the rarest class is too small; others must fit."""
    f = task.features(1)
    train_hot, test_hot = _hot(f)
    svm.check(train_hot)
    if tuple(shots) == SHOTS:
        shots = [k for k in SHOTS if k <= (train_hot > 0).sum(0).min()]
    train_x, test_x = svm.normalised(f.train_f), svm.normalised(f.test_f)
    values: dict[str, float] = {}
    for k in shots:
        rows = [svm.draw(train_hot, k, reading, seed + i) for i in range(draws)]
        precisions = [_precisions(test_hot, svm.scores(train_x, train_hot, test_x, c, seed, r)) for r in rows]
        for metric in precisions[0]:
            each = [measured[metric] for measured in precisions]
            values |= {f"{metric}@k={k}": float(np.mean(each)), f"{metric}-sd@k={k}": float(np.std(each))}
    return Measured(values, len(f.train_f), len(f.test_f))


def _tuned(
    task: Task,
    seed: int,
    *,
    labels: float,
    listing: str | None,
    lr: float | Sequence[float],
    epochs: int | Sequence[int] | None,
    batch_size: int,
    updates: int = 0,
    **options: Any,
) -> Measured:
    """updates: the length of training, rounded to whole epochs, if epochs is None."""
    net, look, train, test = task.network()
    rows = labelled(train, labels, listing, task.root)
    common: dict[str, Any] = {"seed": seed, "size": task.size, "crop": task.crop, "precision": task.precision}

    def tuned_on(settings: Mapping[str, Any], seen_rows: Tensor, tested: Part) -> Tuned:
        length = settings["epochs"]
        if length is None:
            length = max(1, round(updates / math.ceil(len(seen_rows) / max(1, batch_size))))
        more = {"lr": settings["lr"], "epochs": length, "batch_size": batch_size, **options}
        return finetune(net, look, Part(train, seen_rows), tested, **common, **more)

    def score(settings: Mapping[str, Any], rest: Tensor, held: Tensor) -> float:
        return tuned_on(settings, rows[rest], Part(train, rows[held])).top1[-1]

    settings, more = _chosen({"lr": lr, "epochs": epochs}, train.targets[rows], score)
    tuned = tuned_on(settings, rows, Part(test, torch.arange(len(test))))
    values = _accuracies(tuned.top1, tuned.top5) | {"train-loss": tuned.loss[-1]} | more
    return Measured(values, len(rows), len(test), {"top1": tuned.top1, "top5": tuned.top5, "train-loss": tuned.loss})


def _detected(task: Task, seed: int, **options: Any) -> Measured:
    from hardlab.evaluate import detection  # with torchvision's detectors, which no other protocol needs

    net, look, _, _ = task.network()
    outcome = detection.detect(net, mean=look.mean, std=look.std, seed=seed, root=task.root, **options)
    return Measured(outcome.metrics, outcome.n_train, outcome.n_test, data=outcome.data)


# the kinds of protocols that ``published`` names
_KINDS: Mapping[str, Callable[..., Measured]] = {
    "knn": _knn,
    "linear": _linear,
    "lbfgs": _lbfgs,
    "svm": _svm,
    "low-shot": _low_shot,
    "tuning": _tuned,
    "detection": _detected,
}
# settings that came after the first results, or say where: part of a row's options only if they are set
_SILENT: Mapping[str, Any] = {"final_lr": 0.0, "augment": "none", "blocks": 1, **dict.fromkeys(UNSET)}


def run_protocol(name: str, task: Task, seed: int = 0, **overrides: Any) -> Outcome:
    """Evaluate a task by a named protocol; returns a row per metric, each with the options of the protocol.

    overrides: settings that replace published ones; the task decides network and data. Raises HardlabError for an
    unknown protocol or setting, and for data that cannot be evaluated.
    """
    options = settings(name, overrides, task.train.name if task.train else "")
    extracted = 0.0

    def features(blocks: int) -> Features:
        nonlocal extracted
        start = time.perf_counter()
        extra = task.features(blocks)
        extracted += time.perf_counter() - start
        return extra

    started = time.perf_counter()
    timed = replace(task, features=features)
    measured = _KINDS[find(name).kind](timed, seed, **{k: v for k, v in options.items() if k not in PLACE})
    cost = time.perf_counter() - started - extracted
    silent = {"data", "network", *(k for k, default in _SILENT.items() if options.get(k, default) == default)}
    recorded = {k: v for k, v in options.items() if k not in silent}
    plain = json.loads(json.dumps(recorded))  # as the file will give them back: lists, not tuples

    def row(metric: str, value: float) -> Row:
        return Row(
            protocol=name,
            metric=metric,
            value=value,
            n_train=measured.n_train,
            n_test=measured.n_test,
            seed=seed,
            cost_s=cost,
            options=plain,
        )

    curves = [
        {**row(metric, value), "classifier_epoch": epoch}
        for metric, values in measured.curves.items()
        for epoch, value in enumerate(values, 1)
    ]
    return Outcome([row(metric, value) for metric, value in measured.values.items()], curves, measured.data)

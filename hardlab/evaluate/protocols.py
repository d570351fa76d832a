"""The published evaluation protocols as data, and running one of them."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from hardlab.data import Images
from hardlab.evaluate import detection, svm
from hardlab.evaluate.features import Crop, Features, Rendered, check_features
from hardlab.evaluate.finetune import Part, Tuned, finetune
from hardlab.evaluate.knn import KS, TEMPERATURE, knn
from hardlab.evaluate.labels import labelled
from hardlab.evaluate.linear import Fresh, Probe, held_out, lbfgs, linear_probe
from hardlab.registry import unknown
from hardlab.types import HardlabError
from hardlab.views import Look


class Row(TypedDict):
    """One number that a protocol gave. cost_s: seconds the whole protocol took, features not counted."""

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
    """A network and a data set. A protocol asks for what it needs, and only that is computed.

    features(blocks): frozen features of plain images; of a ViT, the last ``blocks`` side by side. net, look, train,
    test: the network and the images, None where features are all there is. size: pixels; None = the look's own. crop,
    precision: as in ``extract``. root: of the data sets.
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
        """The network, its look, and both halves of the data; HardlabError where there is none."""
        if self.net is None or self.look is None or self.train is None or self.test is None:
            raise HardlabError("this protocol looks at images through a network, but only features are given.")
        return self.net, self.look, self.train, self.test


def given(*parts: Any) -> Task:
    """The task of features that exist already: the fields of ``Features`` in order."""
    return Task(lambda blocks: Features(*parts))


class Measured(NamedTuple):
    """What a protocol found: numbers by metric, and per epoch of its classifier the accuracies by name.

    data: the set that it was tested on, where that is its own and not the task's.
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
    """Of the published ks those that the training set is too small for give no row; one asked for by name must fit."""
    f, ks = task.features(1), tuple(ks)
    if ks == KS:
        ks = tuple(k for k in KS if k <= len(f.train_f))
        if not ks:
            raise HardlabError(f"{len(f.train_f)} training samples are too few for kNN: at least {min(KS)} are needed.")
    found = knn(*f[:4], ks=ks, temperature=temperature)
    return Measured({f"top1@k={k}": value for k, value in found.items()}, len(f.train_f), len(f.test_f))


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
    """The last epoch is the main number; the best is chosen on the test set and stands beside it."""
    f = task.features(blocks)

    def fresh(of: Tensor | None = None) -> Fresh | None:
        if augment == "none":
            return None
        net, look, train, _ = task.network()
        pixels = Rendered(augment, look, task.size, task.crop, seed)
        draw = pixels.features(encoder(net, blocks), train, task.precision)
        return draw if of is None else lambda order: draw([of[rows] for rows in order])

    def probed(halves: Halves, draw: Fresh | None, settings: Mapping[str, Any]) -> Probe:
        lr, epochs = settings["lr"], settings["epochs"]
        return linear_probe(*halves, seed=seed, lr=lr, epochs=epochs, fresh=draw, **options)

    def score(settings: Mapping[str, Any], rest: Tensor, kept: Tensor) -> float:
        return probed(_held(f, rest, kept), fresh(rest), settings).top1[-1]

    settings, more = _chosen({"lr": lr, "epochs": epochs}, f.train_y, score)
    probe = probed(f[:4], fresh(), settings)
    values = _accuracies(probe.top1, probe.top5) | {"train-loss": probe.objective} | more
    return Measured(values, len(f.train_f), len(f.test_f), {"top1": probe.top1, "top5": probe.top5})


Halves = tuple[Tensor, Tensor, Tensor, Tensor]  # features and labels to learn from and to be tested on


def _held(f: Features, rest: Tensor, kept: Tensor) -> Halves:
    """The training half parted in rows to learn from and rows to be tested on."""
    return f.train_f[rest], f.train_y[rest], f.train_f[kept], f.train_y[kept]


def _chosen(
    grid: Mapping[str, Any], labels: Tensor, score: Callable[[Mapping[str, Any], Tensor, Tensor], float]
) -> tuple[dict[str, Any], dict[str, float]]:
    """One value of each setting, and numbers for the rows where it was chosen: by accuracy on a held-out tenth.

    grid: of each setting a value, or several. score(settings, rows to learn from, rows to be tested on); of equal
    settings the first ones win.
    """
    values = {name: list(given) if isinstance(given, (list, tuple)) else [given] for name, given in grid.items()}
    every = [dict(zip(values, one, strict=True)) for one in itertools.product(*values.values())]
    if len(every) == 1:
        return every[0], {}
    rest, kept = held_out(labels)
    best = max(every, key=lambda settings: _or_zero(score, settings, rest, kept))
    return best, {f"chosen-{name}": best[name] for name in values if len(values[name]) > 1}


def _or_zero(
    score: Callable[[Mapping[str, Any], Tensor, Tensor], float], settings: Mapping[str, Any], rest: Tensor, kept: Tensor
) -> float:
    """0 for settings at which training diverges or has no end: others of the grid may do."""
    try:
        return score(settings, rest, kept)
    except HardlabError as e:
        if "diverged" not in str(e) and "no optimum" not in str(e):
            raise
        return 0.0


def _accuracies(top1: Sequence[float], top5: Sequence[float]) -> dict[str, float]:
    out = {"top1-last": top1[-1], "top1-best": max(top1)}
    return out | ({"top5-last": top5[-1], "top5-best": max(top5)} if top5 else {})


def _lbfgs(task: Task, seed: int, *, c: float | Sequence[float], **options: Any) -> Measured:
    f = task.features(1)

    def score(settings: Mapping[str, Any], rest: Tensor, kept: Tensor) -> float:
        return lbfgs(*_held(f, rest, kept), c=settings["c"], **options).top1[-1]

    settings, more = _chosen({"c": c}, f.train_y, score)
    probe = lbfgs(*f[:4], c=settings["c"], **options)
    top5 = {"top5": probe.top5[-1]} if probe.top5 else {}
    values = {"top1": probe.top1[-1], **top5, "objective": probe.objective} | more
    return Measured(values, len(f.train_f), len(f.test_f))


def _hot(f: Features) -> tuple[np.ndarray, np.ndarray]:
    """The labels of both halves, (N,C) and (Q,C): those of several classes where the set has them."""
    if f.train_hot is not None and f.test_hot is not None:
        return f.train_hot.cpu().numpy(), f.test_hot.cpu().numpy()
    classes = check_features(*f[:4])
    return svm.one_hot(f.train_y, classes), svm.one_hot(f.test_y, classes)


def _precisions(test_hot: np.ndarray, found: np.ndarray) -> dict[str, float]:
    each = [svm.class_ap(hot, score) for hot, score in zip(test_hot.T, found.T, strict=True)]
    return {"mAP": float(np.nanmean(each)), "ap-per-image": svm.image_ap(test_hot, found)}


def _svm(task: Task, seed: int, *, c: float | Sequence[float]) -> Measured:
    f = task.features(1)
    train_hot, test_hot = _hot(f)
    found = svm.scores(svm.normalised(f.train_f), train_hot, svm.normalised(f.test_f), c, seed)
    values = _precisions(test_hot, found)
    for i in range(found.shape[1]):
        if (test_hot[:, i] > 0).any():
            values[f"ap:{f.classes[i] if f.classes else i}"] = svm.class_ap(test_hot[:, i], found[:, i])
    return Measured(values, len(f.train_f), len(f.test_f))


def _low_shot(
    task: Task, seed: int, *, shots: Sequence[int], draws: int, reading: svm.Reading, c: float | Sequence[float]
) -> Measured:
    """Of the published shots those that the rarest class is too small for give no row; others must fit."""
    if draws < 1 or not shots:
        raise HardlabError(f"draws={draws}, shots={list(shots)}: at least one of each is needed.")
    f = task.features(1)
    train_hot, test_hot = _hot(f)
    svm.check(train_hot)
    if tuple(shots) == svm.SHOTS:
        shots = [k for k in svm.SHOTS if k <= (train_hot > 0).sum(0).min()]
    train_x, test_x = svm.normalised(f.train_f), svm.normalised(f.test_f)
    values: dict[str, float] = {}
    for k in shots:
        rows = [svm.draw(train_hot, k, reading, seed + i) for i in range(draws)]
        found = [_precisions(test_hot, svm.scores(train_x, train_hot, test_x, c, seed, r)) for r in rows]
        for metric in found[0]:
            each = [one[metric] for one in found]
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
    """updates: the length where epochs is None, in whole epochs."""
    net, look, train, test = task.network()
    rows = labelled(train, labels, listing, task.root)
    seen: dict[str, Any] = {"seed": seed, "size": task.size, "crop": task.crop, "precision": task.precision}

    def tuned_on(settings: Mapping[str, Any], seen_rows: Tensor, tested: Part) -> Tuned:
        length = settings["epochs"]
        if length is None:
            length = max(1, round(updates / math.ceil(len(seen_rows) / max(1, batch_size))))
        more = {"lr": settings["lr"], "epochs": length, "batch_size": batch_size, **options}
        return finetune(net, look, Part(train, seen_rows), tested, **seen, **more)

    def score(settings: Mapping[str, Any], rest: Tensor, kept: Tensor) -> float:
        return tuned_on(settings, rows[rest], Part(train, rows[kept])).top1[-1]

    settings, more = _chosen({"lr": lr, "epochs": epochs}, train.targets[rows], score)
    tuned = tuned_on(settings, rows, Part(test, torch.arange(len(test))))
    values = _accuracies(tuned.top1, tuned.top5) | {"train-loss": tuned.loss[-1]} | more
    return Measured(values, len(rows), len(test), {"top1": tuned.top1, "top5": tuned.top5, "train-loss": tuned.loss})


def _detected(task: Task, seed: int, **options: Any) -> Measured:
    net, look, _, _ = task.network()
    found = detection.detect(net, mean=look.mean, std=look.std, seed=seed, root=task.root, **options)
    return Measured(found.metrics, found.n_train, found.n_test, data=found.data)


class Protocol(NamedTuple):
    """A published way of measuring a network.

    run: what does it, from a ``Task``, a seed and the settings. settings: as published; any of them may be set
    otherwise, nothing else may. needs: frozen ``features``; frozen features of augmented ``views``, which is the same
    where augment=none; the whole ``network``; or the network and ``scenes`` of sets of the protocol's own. used_by: who
    measures so. by_data: settings that differ on some sets.
    """

    run: Callable[..., Measured]
    settings: Mapping[str, Any]
    used_by: str
    needs: Literal["features", "views", "network", "scenes"] = "features"
    by_data: Mapping[str, Mapping[str, Any]] = MappingProxyType({})


def _probe(used_by: str, **changes: Any) -> Protocol:
    """A linear probe: the public CIFAR default with some settings changed; ImageNet's augment unless told otherwise."""
    return Protocol(_linear, {**_LINEAR, "augment": "rrc-flip", **changes}, used_by, "views")


def _tuning(used_by: str, by_data: Mapping[str, Mapping[str, Any]] = MappingProxyType({}), **changes: Any) -> Protocol:
    """Fine-tuning of the whole network: HEXA's semi-supervised settings with some of them changed."""
    return Protocol(_tuned, {**_TUNED, **changes}, used_by, "network", by_data)


_LINEAR = {
    "optimizer": "sgd",
    "lr": 30.0,
    "batch_size": 256,
    "epochs": 100,
    "weight_decay": 0.0,
    "schedule": "cosine",
    "final_lr": 0.0,
    "augment": "none",
    "blocks": 1,
}
_TUNED = {
    "optimizer": "sgd",
    "lr": 0.01,
    "head_lr": None,
    "batch_size": 256,
    "epochs": 20,
    "weight_decay": 5e-4,
    "schedule": "fifth-60-80",
    "augment": "rrc-flip",
    "labels": 1.0,
    "listing": None,
    "fraction": 1.0,
}
_LBFGS = {"c": 1.0, "tolerance": 1e-5, "max_iter": 1000}
_BYOL: dict[str, Any] = {"optimizer": "nesterov", "schedule": "cosine"}
_BYOL_FEW: dict[str, Any] = {  # its App. C.1, 1 % and 10 % of ImageNet's labels
    **_BYOL,
    "lr": (0.005, 0.01, 0.02, 0.05, 0.1),
    "batch_size": 1024,
    "epochs": (30, 50),
    "weight_decay": 0.0,
}
_BYOL_COSTS = tuple(10 ** (p / 4) for p in range(-20, 25))  # its App. D.2: 45 penalties from 1e-6 to 1e5
_PPCL: dict[str, Any] = {"optimizer": "adam", "lr": 3e-4, "epochs": 500, "schedule": "constant", "augment": "none"}
_HVS_TUNED: dict[str, Any] = {
    "optimizer": "adamw",
    "batch_size": 512,
    "weight_decay": 0.05,
    "schedule": "cosine",
    "epochs": 300,
}
_MOCO: dict[str, Any] = {"schedule": "step-60-80"}
_DEEPCLUSTER: dict[str, Any] = {"lr": 0.3, "weight_decay": 1e-6}
PROTOCOLS: Mapping[str, Protocol] = {
    "knn": Protocol(_knn, {"ks": KS, "temperature": TEMPERATURE}, "HVS, DINO: weighted nearest neighbours"),
    "knn-moco": Protocol(_knn, {"ks": (200,), "temperature": 0.1}, "the monitor of MoCo's CIFAR notebook"),
    "linear": Protocol(_linear, _LINEAR, "public CIFAR default: MoCo's notebook, PatrickHua, hvp", "views"),
    "linear-lbfgs": Protocol(_lbfgs, _LBFGS, "hardlab: the optimum"),
    "linear-hexa-moco": _probe("HEXA on MoCo v2, ImageNet", **_MOCO),
    "linear-hexa-moco-1": _probe("HEXA, Figs. 2 and 5: 1 epoch", **_MOCO, epochs=1),
    "linear-hexa-deepcluster": _probe("HEXA on DeepCluster v2, ImageNet", **_DEEPCLUSTER),
    "linear-hexa-deepcluster-1": _probe("HEXA, Figs. 2 and 5: 1 epoch", **_DEEPCLUSTER, epochs=1),
    "linear-hexa-cifar": _probe(
        "HEXA, CIFAR from an ImageNet network, App. B",
        optimizer="adamax",
        lr=(0.1, 0.01, 0.001),
        epochs=20,
        schedule="step-35-70",
        augment="none",
        size=224,
    ),
    "linear-adco": _probe("AdCo, ImageNet", lr=10.0, final_lr=0.01),
    "linear-adco-places": _probe("AdCo, Places205 (data=folder:PATH)", lr=5.0, schedule="oscillating"),
    "linear-hvs-simsiam": _probe("HVS on SimSiam, ImageNet", optimizer="larc", lr=0.1, batch_size=4096, epochs=90),
    "linear-hvs-simclr": _probe("HVS on SimCLR, ImageNet", lr=0.1, batch_size=4096, epochs=90),
    "linear-hvs-dino": _probe("HVS on DINO, ImageNet", lr=0.001, batch_size=1024, blocks=4),
    "linear-hnssl": _probe(
        "HNSSL, settings not stated: BYOL's", **_BYOL, lr=(0.4, 0.3, 0.2, 0.1, 0.05), batch_size=1024, epochs=80
    ),
    "linear-hnssl-transfer": Protocol(
        _lbfgs, {**_LBFGS, "c": _BYOL_COSTS}, "HNSSL, transfer, settings not stated: BYOL's (--data SET)"
    ),
    "linear-ppcl": _probe("PPCL, all its tables: the labels of the images that the run trained on", **_PPCL),
    "linear-ppcl-all": _probe("PPCL, as its text says: all labels, whatever the run trained on", **_PPCL, fraction=1.0),
    "svm": Protocol(_svm, {"c": svm.COST}, "HEXA, VOC07, C as in PCL's code"),
    "svm-goyal": Protocol(_svm, {"c": svm.COSTS}, "HEXA, VOC07, C by threefold cross-validation (Goyal et al.)"),
    "svm-low-shot": Protocol(
        _low_shot,
        {"shots": svm.SHOTS, "draws": 5, "reading": "union", "c": svm.COST},
        "HEXA, VOC07 low-shot, as PCL: k images a class, all seen by every SVM",
    ),
    "svm-low-shot-goyal": Protocol(
        _low_shot,
        {"shots": svm.SHOTS, "draws": 5, "reading": "own", "c": svm.COST},
        "HEXA, VOC07 low-shot, as Goyal et al.: k positives and 19 k negatives a class",
    ),
    "semi-hexa-1": _tuning("HEXA, 1 % of the labels", head_lr=1.0, labels=0.01),
    "semi-hexa-10": _tuning("HEXA, 10 % of the labels", head_lr=0.1, labels=0.1),
    "semi-hexa-100": _tuning("HEXA, all labels", head_lr=0.1),
    "semi-hnssl-1": _tuning(
        "HNSSL, 1 %, settings not stated: BYOL's",
        **_BYOL_FEW, labels=0.01,
    ),
    "semi-hnssl-10": _tuning(
        "HNSSL, 10 %, settings not stated: BYOL's",
        **_BYOL_FEW, labels=0.1,
    ),
    "semi-ppcl": _tuning(
        "PPCL, introduction: 500 labels of CIFAR-10; the settings are ours",
        optimizer="adam", lr=3e-4, epochs=100, weight_decay=0.0, schedule="constant", labels=0.01,
    ),
    "finetune-hexa": _tuning(
        "HEXA, CIFAR, App. C",
        optimizer="adamax", lr=(5e-4, 1e-3, 1e-2), weight_decay=0.0, schedule="step-35-70", size=224,
    ),
    "finetune-hvs-vit": _tuning(
        "HVS, transfer of ViT-S",
        {"cifar10": {"lr": 7.5e-6}, "cifar100": {"lr": 7.5e-6}, "food101": {"epochs": 100}},
        **_HVS_TUNED, lr=5e-5,
    ),
    "finetune-hvs-resnet": _tuning(
        "HVS, transfer of ResNet-50; 7e-5 on iNaturalist",
        {
            "cifar100": {"lr": 5e-6},
            "flowers102": {"lr": 5e-4},
            "food101": {"lr": 5e-6, "epochs": 100},
        },
        **_HVS_TUNED, lr=7.5e-6,
    ),
    "finetune-hnssl": _tuning(
        "HNSSL, transfer, settings not stated: BYOL's without its decays (--data SET)",
        **_BYOL, lr=tuple(10 ** (p / 2) for p in range(-8, -1)), epochs=None, updates=20000, weight_decay=0.0,
    ),
    **{
        name: Protocol(_detected, detection.SETTINGS[name], used_by, "scenes")
        for name, used_by in (
            ("detection", "hardlab: Faster R-CNN on a few built-in scenes"),
            ("segmentation", "hardlab: Mask R-CNN on a few built-in scenes"),
            ("detection-voc", "HEXA, AdCo, VOC07+12, as MoCo: Faster R-CNN, R50-C4, 24k iterations"),
            ("detection-voc-hexa", "HEXA, as its App. B says: R50-FPN, the backbone frozen, 15 epochs"),
            ("detection-voc-hvs", "HVS, VOC07+12: the same with half the batch, 48k"),
            ("segmentation-coco-2x", "AdCo, COCO, as MoCo: Mask R-CNN, R50-C4, 180k"),
            ("segmentation-coco-hvs", "HVS, COCO: Mask R-CNN, R50-C4, half the batch, 90k"),
        )
    },
}  # fmt: skip
# where a protocol is measured, known to all of them: an example of each, None = as the run has it
PLACE: Mapping[str, Any] = {"data": "cifar10", "size": 224, "network": "backbone", "fraction": 0.1}
# of the settings that are None as published
_EXAMPLES = {**PLACE, "head_lr": 0.1, "listing": "10percent.txt", "epochs": 30}
_GRID: Mapping[str, Any] = {"lr": 1.0, "c": 1.0, "epochs": 1}  # one value, or several to choose from: an example
# what came after the first results, or says where: part of a row's options only where it is set
_SILENT: Mapping[str, Any] = {"final_lr": 0.0, "augment": "none", "blocks": 1, **dict.fromkeys(_EXAMPLES)}


def find(name: str) -> Protocol:
    """The protocol of a name; HardlabError with the nearest name for an unknown one."""
    if name not in PROTOCOLS:
        raise unknown("evaluation protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def settings(name: str, overrides: Mapping[str, Any], data: str = "") -> dict[str, Any]:
    """The settings that a protocol runs with on a data set: the published ones, and what is set otherwise.

    Those of ``PLACE`` come with every protocol, None where the run decides. HardlabError for an unknown protocol or
    setting, or a value of the wrong kind.
    """
    protocol = find(name)
    published = {**dict.fromkeys(PLACE), **protocol.settings, **protocol.by_data.get(data, {})}
    for option, value in overrides.items():
        if option not in published:
            raise unknown(f"option of protocol '{name}'", option, published)
        if protocol.needs == "scenes" and option in ("data", "size", "fraction"):
            raise HardlabError(f"protocol '{name}' has sets of its own: set train, test, side or images, not {option}.")
        what, example = f"option {option} of protocol '{name}'", published[option]
        if option in _GRID and (isinstance(value, (list, tuple)) or isinstance(example, (list, tuple))):
            each = list(value) if isinstance(value, (list, tuple)) else [value]
            if not each:
                raise HardlabError(f"{what} is an empty list: give {_GRID[option]!r}, or several to choose from.")
            for one in each:
                _check_kind(what, one, _GRID[option])
        elif value is not None or example is not None:
            _check_kind(what, value, _EXAMPLES[option] if example is None else example)
    return {**published, **overrides}


def describe() -> str:
    """The protocols with their settings and who uses them, two lines each and one per data set that has its own."""
    lines = []
    for name, protocol in PROTOCOLS.items():
        lines += [f"{name}: {protocol.used_by}", f"    {_plainly(protocol.settings)}"]
        lines += [f"    on {data}: {_plainly(own)}" for data, own in protocol.by_data.items()]
    places = ", ".join(f"{key}={value}" for key, value in PLACE.items())
    return "\n".join([*lines, f"Every protocol takes {places} as well, to be measured elsewhere."])


def _plainly(settings: Mapping[str, Any]) -> str:
    told = {k: v if isinstance(v, tuple) else (v,) for k, v in settings.items() if v is not None}
    words = {k: [v if isinstance(v, str) else f"{v:g}" for v in vs] for k, vs in told.items()}
    return ", ".join(f"{k}={v[0]}" if len(v) == 1 else f"{k}=[{', '.join(v)}]" for k, v in words.items())


def on_features(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a protocol with these settings needs no more than frozen features."""
    needs = find(name).needs
    return needs == "features" or (needs == "views" and options["augment"] == "none")


def run_protocol(name: str, task: Task, seed: int = 0, **overrides: Any) -> Outcome:
    """Evaluate a task by a named protocol; one row per metric, and the options that it ran with in each.

    overrides: settings other than the published ones; where it is measured is the task's. HardlabError for an unknown
    protocol or setting, and for data that cannot be evaluated.
    """
    options = settings(name, overrides, task.train.name if task.train else "")
    extracted = 0.0

    def features(blocks: int) -> Features:
        nonlocal extracted
        began = time.perf_counter()
        given = task.features(blocks)
        extracted += time.perf_counter() - began
        return given

    started = time.perf_counter()
    timed = replace(task, features=features)
    found = find(name).run(timed, seed, **{k: v for k, v in options.items() if k not in PLACE})
    cost = time.perf_counter() - started - extracted
    told = {k: v for k, v in options.items() if k not in ("data", "network") and (k not in _SILENT or v != _SILENT[k])}
    plain = json.loads(json.dumps(told))  # as the file will give them back: lists, not tuples

    def row(metric: str, value: float) -> Row:
        return Row(
            protocol=name,
            metric=metric,
            value=value,
            n_train=found.n_train,
            n_test=found.n_test,
            seed=seed,
            cost_s=cost,
            options=plain,
        )

    curves = [
        {**row(metric, value), "classifier_epoch": epoch}
        for metric, values in found.curves.items()
        for epoch, value in enumerate(values, 1)
    ]
    return Outcome([row(metric, value) for metric, value in found.values.items()], curves, found.data)


def _check_kind(what: str, value: Any, published: Any) -> None:
    """Refuse a value that is not of the kind of the published one."""
    kinds: tuple[tuple[str, tuple[type, ...], type], ...] = (
        ("a list", (list, tuple), tuple),
        ("a name", (str,), str),
        ("a whole number", (int,), int),
        ("a number", (int, float), float),
    )
    for kind, allowed, type_ in kinds:
        if isinstance(published, type_) and (isinstance(value, bool) or not isinstance(value, allowed)):
            raise HardlabError(f"{what} must be {kind} like {published!r}, not {value!r}.")

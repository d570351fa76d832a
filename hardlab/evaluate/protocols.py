"""The published evaluation protocols as data, and the rows of results that they give."""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, TypedDict

from torch import Tensor

from hardlab.checkpoint import write_atomic
from hardlab.evaluate.features import check_features
from hardlab.evaluate.knn import KS, TEMPERATURE, knn
from hardlab.evaluate.linear import lbfgs, linear_probe
from hardlab.registry import unknown
from hardlab.types import HardlabError


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


def _knn(
    train_f: Tensor, train_y: Tensor, test_f: Tensor, test_y: Tensor, seed: int, **options: Any
) -> dict[str, float]:
    """Of the published ks those that the training set is too small for give no row; one asked for by name must fit."""
    ks = tuple(options.pop("ks"))
    if ks == KS:
        ks = tuple(k for k in KS if k <= len(train_f))
        if not ks:
            raise HardlabError(f"{len(train_f)} training samples are too few for kNN: at least {min(KS)} are needed.")
    found = knn(train_f, train_y, test_f, test_y, ks=ks, **options)
    return {f"top1@k={k}": value for k, value in found.items()}


def _linear(
    train_f: Tensor, train_y: Tensor, test_f: Tensor, test_y: Tensor, seed: int, **options: Any
) -> dict[str, float]:
    """The last epoch is the main number; the best is chosen on the test set and stands beside it."""
    probe = linear_probe(train_f, train_y, test_f, test_y, seed=seed, **options)
    out = {"top1-last": probe.top1[-1], "top1-best": max(probe.top1)}
    if probe.top5:
        out |= {"top5-last": probe.top5[-1], "top5-best": max(probe.top5)}
    return out | {"train-loss": probe.objective}


def _lbfgs(
    train_f: Tensor, train_y: Tensor, test_f: Tensor, test_y: Tensor, seed: int, **options: Any
) -> dict[str, float]:
    probe = lbfgs(train_f, train_y, test_f, test_y, **options)
    out = {"top1": probe.top1[-1]}
    if probe.top5:
        out["top5"] = probe.top5[-1]
    return out | {"objective": probe.objective}


# name -> (what runs it, its published settings: any of them may be overridden, nothing else may)
PROTOCOLS: Mapping[str, tuple[Callable[..., dict[str, float]], Mapping[str, Any]]] = {
    "knn": (_knn, {"ks": KS, "temperature": TEMPERATURE}),
    "linear": (
        _linear,
        {
            "optimizer": "sgd",
            "lr": 30.0,
            "batch_size": 256,
            "epochs": 100,
            "weight_decay": 0.0,
            "schedule": "cosine",
        },
    ),
    "linear-lbfgs": (_lbfgs, {"c": 1.0, "tolerance": 1e-5, "max_iter": 1000}),
}


def find(name: str) -> tuple[Callable[..., dict[str, float]], Mapping[str, Any]]:
    """What runs a protocol and its published settings; HardlabError with the nearest name for an unknown one."""
    if name not in PROTOCOLS:
        raise unknown("evaluation protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def run_protocol(
    name: str, train_f: Tensor, train_y: Tensor, test_f: Tensor, test_y: Tensor, seed: int = 0, **overrides: Any
) -> list[Row]:
    """Evaluate features by a named protocol; one row per metric, and the options that it ran with in each.

    train_f (N,D), train_y (N,), test_f (Q,D), test_y (Q,). overrides: settings other than the published ones.
    HardlabError for an unknown protocol or setting, and for data that cannot be evaluated.
    """
    function, published = find(name)
    for option, value in overrides.items():
        if option not in published:
            raise unknown(f"option of protocol '{name}'", option, published)
        _check_kind(f"option {option} of protocol '{name}'", value, published[option])
    check_features(train_f, train_y, test_f, test_y)
    options = {**published, **overrides}
    started = time.perf_counter()
    metrics = function(train_f, train_y, test_f, test_y, seed, **options)
    cost = time.perf_counter() - started
    plain = json.loads(json.dumps(options))  # as the file will give them back: lists, not tuples
    return [
        Row(
            protocol=name,
            metric=metric,
            value=value,
            n_train=len(train_f),
            n_test=len(test_f),
            seed=seed,
            cost_s=cost,
            options=plain,
        )
        for metric, value in metrics.items()
    ]


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


KEY = ("protocol", "features", "metric", "options", "data", "split", "seed", "n_train")


def append_rows(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to a ``results.jsonl``; an earlier row that measured the same thing (equal in ``KEY``) gives way.

    The file is replaced as a whole, so a reader sees the old rows or the new; of two processes that add at once the
    second waits. HardlabError where the file cannot be written, holds something else, or a value is not finite.
    """
    path = Path(path)
    new = [dict(row) for row in rows]
    for row in new:
        if not math.isfinite(row["value"]):
            raise HardlabError(f"{row['protocol']}, {row['metric']}: {row['value']} is no result; nothing was written.")
    with _locked(path) as file:
        kept: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                kept[_key(row)] = row
            except (ValueError, AttributeError) as e:
                raise HardlabError(
                    f"{path}, line {number}, is not a row of results: repair or remove that line."
                ) from e
        for row in new:
            kept.pop(_key(row), None)  # so that the replacement stands last
            kept[_key(row)] = row
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in kept.values()).encode())


def _key(row: Mapping[str, Any]) -> str:
    return json.dumps([row.get(column) for column in KEY], sort_keys=True)


def _locked(path: Path) -> IO[str]:
    """``path`` opened for reading, made where it is missing, and locked until it is closed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  the caller closes it
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                file.seek(0)
                return file
            file.close()  # whoever held the lock has put a new file in its place
    except OSError as e:
        raise HardlabError(f"{path} cannot be opened for writing ({e.strerror}).") from e

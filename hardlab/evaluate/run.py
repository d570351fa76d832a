"""Evaluating a run: its frozen backbone under named protocols, rows into ``results.jsonl``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hardlab import build, runs
from hardlab.data import Images
from hardlab.evaluate import features, knn, protocols
from hardlab.types import HardlabError
from hardlab.views import Look


def monitor(backbone: nn.Module, look: Look, train: Images, test: Images, precision: str = "fp32") -> float:
    """Top-1 of the 20-nearest-neighbour classifier, the cheap signal during training; in [0, 1]."""
    train_f, train_y = features.extract(backbone, train, look, precision=precision)
    test_f, test_y = features.extract(backbone, test, look, precision=precision)
    return knn.knn(train_f, train_y, test_f, test_y, ks=(20,))[20]


def _features(net: nn.Module, look: Look, images: Images) -> tuple[Tensor, Tensor]:
    return features.extract(net, images, look)


def evaluate_run(
    path: Path,
    names: Sequence[str],
    *,
    pixels: bool = False,
    root: str | Path | None = None,
    device: str = "auto",
) -> list[dict[str, Any]]:
    """Rows of every protocol on the run's frozen features, and on raw pixels where asked; appended to its results.

    The classifier sees the labels of the images that the run trained on, and is tested on the whole test split.
    """
    run, method, about = runs.open_run(path)
    if about["state"] != "done":
        raise HardlabError(
            f"{path} is not finished, its state is '{about['state']}': its rows would pass for final ones."
        )
    on = build.device(device)
    method.to(on).to(memory_format=torch.channels_last)
    look = build.look(run)
    train, test = build.images(run, "train", root, on), build.images(run, "test", root, on)
    if train.classes != test.classes:
        raise HardlabError(f"{run.data.name} has other classes in its test split than in its training split.")
    found: dict[str, Callable[[Images], tuple[Tensor, Tensor]]] = {
        name: partial(_features, net, look) for name, net in method.networks().items()
    }
    if pixels:
        found["pixels"] = lambda d: features.pixels(d, look)
    rows = []
    for kind, extract in found.items():
        (train_f, train_y), (test_f, test_y) = extract(train), extract(test)
        for name in names:
            for row in protocols.run_protocol(name, train_f, train_y, test_f, test_y, seed=run.seed):
                rows.append(
                    row
                    | {
                        "features": kind,
                        "data": run.data.name,
                        "split": "test",
                        "run": run.id,
                        "recipe": run.recipe,
                        "rung": run.rung,
                    }
                )
    protocols.append_rows(path / "results.jsonl", rows)
    return rows

"""Derives the settings of a run from a folder of images: their number, their sizes, and whether they have labels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from hardlab import config, data
from hardlab.config import Run
from hardlab.data.base import SMALL_SIDE, Images, opened
from hardlab.data.folders import read_folder, splits
from hardlab.errors import HardlabError
from hardlab.files import make_folder

LEAST = 16  # images to train on
HELD_OUT = 0.1
_HEADERS = 2000  # files whose sizes are read, evenly over the folder
_SHOWN = 8  # classes named


class Fit(NamedTuple):
    """Dotted settings for ``Run.with_``, and the sentences that say why."""

    settings: dict[str, Any]
    lines: list[str]


def fit(run: Run, path: str | Path, given: Mapping[str, Any] | None = None) -> Fit:
    """Derive the settings with which a recipe trains on all images of a folder; settings in ``given`` stay as they are.

    Broken images are left out and named. A tenth is held out of a folder without val/ and test/. Images of up to 96
    pixels are kept in memory (more if the rung's views are larger). The batch size is a power of two, at most a quarter
    of the images. The run sees as many images as the recipe does on its own data. Every image is decoded once, which is
    cached.

    run: the recipe's, at its rung.
    path: a folder of images at any depth, with or without train/, val/, test/ and folders of classes.
    given: dotted settings that the user has chosen.

    Raises HardlabError for a folder with fewer than ``LEAST`` images, or with too many broken ones.
    """
    given = given or {}
    for key in given:
        if key in ("data", "data.name"):
            raise HardlabError(f"--data names the images already: leave out '{key}'.")
    root = Path(os.path.realpath(os.path.expanduser(path)))
    data.check_folder(f"folder:{path}")
    if splits(root) and "train" not in splits(root):
        raise HardlabError(f"{root} has {' and '.join(splits(root))} and no train/: there is nothing to train on.")
    source = read_folder(root, "train")
    shapes = _shapes(source.paths or [])
    settings: dict[str, Any] = {"data": f"folder:{root}", "data.fraction": 1.0, "data.on_broken": "skip"}
    augmented = run.with_({key: value for key, value in given.items() if key.split(".")[0] == "augment"})
    settings["data.size"] = _side(shapes, augmented.augments()[0][0].size)
    others = [s for s in splits(root) if s != "train"]
    settings["data.held_out"] = 0.0 if others else HELD_OUT
    chosen = run.with_(settings | {k: v for k, v in given.items() if k.startswith("data.")}).data
    train, test = _load(chosen, "train"), _load(chosen, "test")
    assert train is not None
    count = len(train)
    if count < LEAST:
        raise HardlabError(f"{root} holds {count} images to train on: at least {LEAST} are needed.")
    labelled = _labelled(train) and test is not None and _labelled(test)
    settings |= _pace(run, count, given)
    if run.parent is not None:
        settings |= {f"parent.{key}": value for key, value in _pace(run.parent, count, given, "parent.").items()}
    if not labelled and run.logs.monitor_every:
        settings["logs.monitor_every"] = 0
    settings = {key: value for key, value in settings.items() if key not in given}
    return Fit(settings, _said(root, train, test, shapes, others, run, settings, labelled))


def drawn(path: str | Path, count: int = 90) -> Path:
    """Write a small example folder of ``count`` built-in shapes as PNG files, by class, unless it exists."""
    path = Path(path)
    if path.exists():
        return path
    images = data.load("shapes", count=count, objects=3, size=64)
    part = path.with_name(f".{path.name}.part")
    for batch in images.all(1):
        row = int(batch.index)
        target = part / images.classes[images.targets[row]] / f"{row:03}.png"
        make_folder(target.parent)
        Image.fromarray(batch.raw[0].permute(1, 2, 0).numpy()).save(target)
    part.rename(path)
    return path


def _shapes(paths: Any) -> np.ndarray:
    """(n,2) widths and heights of the images that can be opened."""
    shapes = []
    for i in np.unique(np.linspace(0, len(paths) - 1, min(_HEADERS, len(paths))).round().astype(int)):
        try:
            with opened(paths[i]) as image:
                shapes.append(image.size)
        except Exception:  # foreign bytes can make a decoder raise nearly anything; loading names the file
            continue
    return np.array(shapes, int).reshape(-1, 2)


def _side(shapes: np.ndarray, view: int) -> int | None:
    """The side to which images are resized for views of ``view`` pixels; None = unchanged."""
    if not len(shapes) or view > SMALL_SIDE:
        return None
    alike = bool((shapes == shapes[0]).all())
    if alike and shapes.max() <= SMALL_SIDE and shapes.min() >= view:
        return None
    return max(view, min(SMALL_SIDE, int(np.median(shapes.min(1)))))


def _load(chosen: config.Data, split: str) -> Images | None:
    """One split as the run will load it; None for a test split that the user has turned off."""
    root = Path(chosen.name.removeprefix("folder:"))
    if split == "test" and not chosen.held_out and not {"val", "test"} & set(splits(root)):
        return None
    return data.load(
        chosen.name, split, fraction=chosen.fraction if split == "train" else 1.0, subset_seed=chosen.subset_seed,
        classes=chosen.classes, on_broken=chosen.on_broken, held_out=chosen.held_out, size=chosen.size,
    )  # fmt: skip


def _labelled(images: Images) -> bool:
    return len(images.classes) > 1 and bool((images.targets >= 0).all())


def _pace(run: Run, count: int, given: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Batch size, epochs and checkpoints of a run for ``count`` images."""
    batch = min(run.batch_size, 2 ** int(np.log2(count / 4)))
    epochs = given.get(f"{prefix}epochs")
    if not isinstance(epochs, int):
        epochs = max(run.epochs, round(run.epochs * _own_count(run) / count)) if run.epochs else 0
    interval = max(1, round(run.logs.checkpoint_every * epochs / max(1, run.epochs)))
    return {"batch_size": batch, "epochs": epochs, "logs.checkpoint_every": interval}


def _own_count(run: Run) -> float:
    """The number of images per epoch on the recipe's own data; 0 if that is unknown before loading them."""
    return sum(data.per_class(run.data.name) or ()) * run.data.fraction


def _said(
    root: Path, train: Images, test: Images | None, shapes: np.ndarray, own: list[str], run: Run,
    settings: Mapping[str, Any], labelled: bool,
) -> list[str]:  # fmt: skip
    names = ", ".join(train.classes[:_SHOWN]) + (", ..." if len(train.classes) > _SHOWN else "")
    kinds = f"{len(train.classes)} classes ({names})" if labelled else "no labels that training or evaluation would use"
    smallest, largest = shapes[shapes.prod(1).argmin()], shapes[shapes.prod(1).argmax()]
    sizes = f"{smallest[0]} x {smallest[1]}" + (
        f" to {largest[0]} x {largest[1]}" if (smallest != largest).any() else ""
    )
    total = len(train) + (len(test) if test is not None else 0)
    lines = [f"{root.name}: {total} images, {kinds}, {sizes} pixels."]
    if test is None:
        lines.append(f"All {len(train)} are trained on.")
    elif own:
        lines.append(f"{len(train)} in train/ are trained on, {len(test)} in {' and '.join(own)}/ evaluate.")
    else:
        lines.append(
            f"{len(train)} are trained on; {len(test)} are held out to evaluate, as there is no val/ or test/."
        )
    skipped = [*train.skipped, *(test.skipped if test is not None else [])]
    if skipped:
        many = f"{len(skipped)} cannot be read and are left out, the first" if len(skipped) > 1 else None
        lines.append(f"{many or '1 cannot be read and is left out'}: {skipped[0]}")
    settings_line = " ".join(
        f"{key}={config.written(value)}" for key, value in settings.items() if key != "data" and value is not None
    )
    lines.append(f"Settings that follow: {settings_line}")
    if "epochs" in settings and settings["epochs"] > run.epochs:
        lines.append(f"{settings['epochs']} epochs show as many images as the recipe's {run.epochs} on its own data.")
    return lines
